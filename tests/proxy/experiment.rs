//! Two lifetimes side by side: keys are divided, each side lives by its own, and what follows is told.

use crate::support::*;
use serde_json::Value;

const CAR: &str = r#"
defaults: { ttl_jitter: 0% }
routes: [{ name: car, path: "/cars/{id}", ttl: 60s, experiment: { ttl: 600s, share: 30% } }]
"#;

async fn garage() -> App {
    App::says(|seen| Answer::ok(seen.target.clone())).await
}

impl Larder {
    async fn experiment(&self) -> Value {
        let told = self.admin().get("/v1/experiments").await.json();
        told["experiments"][0].clone()
    }

    /// The cars that are still held after the shorter lifetime: the side that is tried out.
    async fn long_lived(&self, cars: u32) -> Vec<u32> {
        let client = self.client();
        for car in 0..cars {
            client.get(&format!("/cars/{car}")).await;
        }
        self.advance("61s").await;
        let mut held = Vec::new();
        for car in 0..cars {
            if client.get(&format!("/cars/{car}")).await.cache() == "HIT" {
                held.push(car);
            }
        }
        held
    }
}

#[tokio::test]
async fn keys_are_divided_alike_everywhere_and_each_side_lives_by_its_own_ttl() {
    let app = garage().await;
    let setup = || larder(&app).yaml(CAR).manual_clock();
    let one = setup().start().await;
    let trial = one.long_lived(200).await;
    // Six standard deviations (6.5) on either side of 60.
    assert!((21..=99).contains(&trial.len()), "{}", trial.len());
    // Another process divides them alike: by the host that both are asked for.
    let host = [("Host", "shop.test")];
    let other = setup().start().await;
    for larder in [&one, &other] {
        for car in 0..50 {
            larder.get_with(&format!("/cars/{car}"), &host).await;
        }
        larder.advance("61s").await;
    }
    for car in 0..50 {
        let path = format!("/cars/{car}");
        let ours = one.get_with(&path, &host).await.cache().to_owned();
        let theirs = other.get_with(&path, &host).await.cache().to_owned();
        assert_eq!(ours, theirs, "{path}");
    }
    let told = one.experiment().await;
    assert_eq!(
        (&told["route"], &told["trial"]["ttl"]),
        (&"car".into(), &"600s".into())
    );
    let metrics = one.metrics().await;
    for arm in ["control", "trial"] {
        let series = format!(
            "larder_experiment_requests_total{{route=\"car\",arm=\"{arm}\",cache=\"hit\"}}"
        );
        // Nobody of the control side was held for so long.
        assert_eq!(metrics.contains(&series), arm == "trial", "{metrics}");
    }
    let path = format!("/v1/explain?url=http://{}/cars/{}", one.address, trial[0]);
    let explained = one.admin().get(&path).await.text();
    assert!(
        explained.contains("on the trial side of the route's experiment: ttl 10m"),
        "{explained}"
    );
}

#[tokio::test]
async fn hits_gained_are_told_against_truth_lost() {
    let app = garage().await;
    let audit = "audit: { sample: 100%, rate: 100000/s }\n";
    let larder = larder(&app)
        .yaml(&format!("{audit}{CAR}"))
        .manual_clock()
        .start()
        .await;
    let waiting = larder.experiment().await;
    assert_eq!(waiting["finding"]["word"], "wait");
    let client = larder.client();
    let mut made = 0;
    // The app says something else every two minutes, and each car is asked for every half of one.
    for round in 0..16_u32 {
        let version = round / 4;
        app.now_says(move |seen| Answer::ok(format!("{} {version}", seen.target)));
        for car in 0..40 {
            // The host is in the key: with one of its own, cars are divided alike in every run.
            let host = [("Host", "shop.test")];
            client.get_with(&format!("/cars/{car}"), &host).await;
            // Audits that wait for each other would be left out.
            if car % 2 == 0 {
                eventually("audits are made", async || {
                    let told = larder.admin().get("/v1/audit").await.json();
                    let routes = told["routes"].as_array()?;
                    let sum = |key: &str| {
                        routes
                            .iter()
                            .filter_map(|one| one[key].as_u64())
                            .sum::<u64>()
                    };
                    let now = sum("audited") + sum("skipped");
                    let is_over = now == made;
                    made = now;
                    is_over.then_some(())
                })
                .await;
            }
        }
        larder.advance("30s").await;
    }
    let told = larder.experiment().await;
    let (control, trial) = (&told["control"], &told["trial"]);
    assert!(
        trial["hit_rate"]["share"].as_f64() > control["hit_rate"]["share"].as_f64(),
        "{told}"
    );
    assert!(
        trial["staleness"]["share"].as_f64() > control["staleness"]["share"].as_f64(),
        "{told}"
    );
    assert_eq!(told["finding"]["word"], "weigh", "{told}");
    assert!(
        told["finding"]["text"]
            .as_str()
            .unwrap()
            .ends_with("One is paid for by the other.")
    );
}
