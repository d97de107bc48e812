//! The purge log: what was purged stays purged, whatever becomes of Redis, and reaches everyone in time.

use crate::support::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ROUTES: &str = r#"
routes: [{ name: car, path: "/api/cars/{id}", ttl: 5m, tags: ["car:{id}"] }]
"#;
const CAR: &str = "/api/cars/1";

fn yaml(cache: &str) -> String {
    format!("cache: {{ {cache} }}{ROUTES}")
}

fn car() -> Value {
    json!({ "tags": ["car:1"], "soft": false })
}

async fn health(larder: &Larder) -> Value {
    larder.admin().get("/healthz").await.json()["cache"].clone()
}

/// Until this one has it from Redis or from memory.
async fn has(larder: &Larder, text: &str) {
    eventually("a hit", async || {
        let answer = larder.get(CAR).await;
        (answer.cache() == "HIT" && answer.text() == text).then_some(())
    })
    .await;
}

/// For a while, none of them shows anything else.
async fn all_say(larders: &[&Larder], text: &str) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2_500) {
        for (number, larder) in larders.iter().enumerate() {
            let answer = larder.get(CAR).await;
            let at = begun.elapsed();
            assert_eq!(answer.text(), text, "{number} at {at:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_purge_while_redis_is_away_holds_for_everyone_when_its_old_data_is_back() {
    let app = App::says(|_| Answer::ok("old")).await;
    let mut redis = RedisServer::start().await;
    let start = async |redis: &RedisServer| {
        let setup = larder(&app).redis(redis).yaml(&yaml("memory: 0B"));
        setup.start().await
    };
    let (one, two) = (start(&redis).await, start(&redis).await);
    one.redis_is(true).await;
    two.redis_is(true).await;
    has(&one, "old").await;
    has(&two, "old").await;
    redis.kill().await;
    one.redis_is(false).await;
    app.now_says(|_| Answer::ok("new"));
    assert_eq!(one.purge(car()).await.status, 202);
    assert_eq!(health(&one).await["purgesQueued"], 1);
    redis.up().await;
    // Who made it, who was there meanwhile, and who has only just come.
    let three = start(&redis).await;
    all_say(&[&one, &two, &three], "new").await;
    has(&three, "new").await;
    assert_eq!(health(&one).await["purgesQueued"], 0);
}

#[tokio::test]
async fn a_purge_that_redis_had_taken_and_lost_with_its_disk_holds_all_the_same() {
    let app = App::says(|_| Answer::ok("old")).await;
    let mut redis = RedisServer::with(&["--appendonly", "no"]).await;
    let start = async |redis: &RedisServer| {
        let setup = larder(&app).redis(redis).yaml(&yaml("memory: 0B"));
        setup.start().await
    };
    let (one, two) = (start(&redis).await, start(&redis).await);
    one.redis_is(true).await;
    two.redis_is(true).await;
    has(&one, "old").await;
    has(&two, "old").await;
    assert_eq!(redis.cli(&["SAVE"]).await, "OK");
    app.now_says(|_| Answer::ok("new"));
    assert_eq!(one.purge(car()).await.status, 200);
    redis.restart().await;
    let three = start(&redis).await;
    all_say(&[&one, &two, &three], "new").await;
    has(&three, "new").await;
}

#[tokio::test]
async fn cut_off_alone_memory_is_trusted_for_a_bounded_time_and_no_longer_than_the_cut() {
    let app = App::says(|_| Answer::ok("old")).await;
    let redis = RedisServer::start().await;
    let network = FaultProxy::before(redis.address()).await;
    let one = larder(&app).redis(&redis).yaml(ROUTES).start().await;
    let two = larder(&app)
        .redis_url(redis.url_by(network.address))
        .yaml(&yaml("trust: 1m"))
        .manual_clock()
        .start()
        .await;
    one.redis_is(true).await;
    two.redis_is(true).await;
    let cut = async || {
        network.set(Fault::Reset);
        eventually("the risk is told", async || {
            health(&two).await["staleRiskSince"]
                .is_string()
                .then_some(())
        })
        .await;
    };
    let healed = async || {
        network.set(Fault::Pass);
        eventually("nothing is at risk", async || {
            let health = health(&two).await;
            let followed = health["purgeLogFollowed"] == true;
            (followed && health["staleRiskSince"].is_null()).then_some(())
        })
        .await;
    };
    has(&two, "old").await;
    cut().await;
    app.now_says(|_| Answer::ok("new"));
    assert_eq!(one.purge(car()).await.status, 200);
    // It cannot know, and Redis may be away for everyone.
    assert_eq!(two.get(CAR).await.text(), "old");
    two.advance("61s").await;
    let answer = two.get(CAR).await;
    assert_eq!(answer.text(), "new", "{answer:?}");
    // What was fetched meanwhile is as good as it was then.
    assert_eq!(two.get(CAR).await.cache(), "HIT");
    app.now_says(|_| Answer::ok("newer"));
    assert_eq!(one.purge(car()).await.status, 200);
    assert_eq!(two.get(CAR).await.text(), "new");
    healed().await;
    assert_eq!(two.get(CAR).await.text(), "newer");
    // A reload changes the bound.
    cut().await;
    two.configure("trust: 1m", "trust: off");
    two.says("the configuration was reloaded").await;
    app.now_says(|_| Answer::ok("newest"));
    assert_eq!(one.purge(car()).await.status, 200);
    two.advance("3m").await;
    assert_eq!(two.get(CAR).await.text(), "newer");
    healed().await;
    assert_eq!(two.get(CAR).await.text(), "newest");
}

/// So often: a purge at one of four sidecars, and how long after its acknowledgement the last of them still
/// showed what is purged.
async fn visible_after(times: usize) -> Vec<Duration> {
    let app = App::says(|seen| Answer::ok(seen.target.clone())).await;
    let redis = RedisServer::start().await;
    let mut larders = Vec::new();
    for _ in 0..4 {
        larders.push(larder(&app).redis(&redis).yaml(ROUTES).start().await);
    }
    for larder in &larders {
        larder.redis_is(true).await;
    }
    let mut took = Vec::new();
    for round in 0..times {
        for larder in &larders {
            has(larder, CAR).await;
        }
        let clients: Vec<_> = larders.iter().map(Larder::client).collect();
        for client in &clients {
            client.get(CAR).await;
        }
        assert_eq!(larders[round % 4].purge(car()).await.status, 200);
        let done = Instant::now();
        let gone = async |client: &Client| {
            loop {
                let asked = done.elapsed();
                if client.get(CAR).await.cache() != "HIT" {
                    return asked;
                }
            }
        };
        let (a, b, c, d) = tokio::join!(
            gone(&clients[0]),
            gone(&clients[1]),
            gone(&clients[2]),
            gone(&clients[3])
        );
        took.push(a.max(b).max(c).max(d));
    }
    let seen = larders[0].metrics().await;
    assert!(
        seen.contains("larder_purge_visible_seconds_count"),
        "{seen}"
    );
    let stats = larders[0].admin().get("/v1/stats").await.json();
    assert!(stats["purges"]["visible"]["p99_ms"].is_number(), "{stats}");
    took.sort_unstable();
    took
}

#[tokio::test]
async fn a_purge_reaches_the_memory_of_four_sidecars() {
    let took = visible_after(10).await;
    // It is milliseconds, but this machine has others to serve.
    assert!(took[9] < Duration::from_secs(2), "{took:?}");
}

/// Run alone: `cargo test --release --test proxy purge_log::measured -- --ignored --nocapture`
#[tokio::test]
#[ignore = "measures"]
async fn measured_from_the_acknowledgement_to_the_last_of_four() {
    let took = visible_after(500).await;
    let at = |share: usize| took[took.len() * share / 1_000];
    println!(
        "p50 {:?}  p99 {:?}  p99.9 {:?}  worst {:?}",
        at(500),
        at(990),
        at(999),
        took[took.len() - 1]
    );
    assert!(at(990) < Duration::from_millis(10));
}
