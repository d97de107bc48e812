//! What is asked for most, and what that is good for.

use crate::support::*;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn hot_keys_are_named_with_their_rate_hottest_first_and_forgotten() {
    let app = App::says(|_| Answer::public("x")).await;
    let larder = larder(&app)
        .yaml("routes:\n  - { name: cars, path: /cars/*, ttl: 1h }\n")
        .manual_clock()
        .start()
        .await;
    let host = &[("Host", "shop.test")];
    for _ in 0..30 {
        larder.get_with("/cars/1?b=2&a=1", host).await;
    }
    for _ in 0..10 {
        larder.get_with("/cars/2", host).await;
    }
    let hot = larder.admin().get("/v1/hot").await.json();
    let of = |index: usize, member: &str| hot["keys"][index][member].clone();
    assert_eq!(of(0, "url"), json!("shop.test/cars/1?a=1&b=2"), "{hot}");
    assert_eq!(of(1, "url"), json!("shop.test/cars/2"), "{hot}");
    assert_eq!(
        (of(0, "route"), of(0, "personal")),
        (json!("cars"), json!(false))
    );
    let rate = |index| of(index, "per_minute").as_f64().unwrap();
    assert!(rate(0) > 2.0 * rate(1) && rate(1) > 0.0, "{hot}");
    larder.advance("10m").await;
    let hot = larder.admin().get("/v1/hot").await.json();
    assert_eq!(hot["keys"], json!([]));
}

#[tokio::test]
async fn a_stampede_is_told_with_its_key_and_how_many_waited() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::public("x").behind(&held)).await;
    let larder = larder(&app)
        .yaml("routes: [{ name: fleet, path: /fleet, ttl: 1m }]")
        .start()
        .await;
    let all: Vec<_> = (0..45)
        .map(|_| {
            let client = larder.client();
            tokio::spawn(async move { client.get("/fleet?page=1").await.status })
        })
        .collect();
    let told = eventually("it is told", async || {
        let hot = larder.admin().get("/v1/hot").await.json();
        let told = hot["stampedes"][0].clone();
        (told["waiting"] == json!(40)).then_some(told)
    })
    .await;
    assert_eq!(told["route"], json!("fleet"));
    assert!(
        told["url"].as_str().unwrap().ends_with("/fleet?page=1"),
        "{told}"
    );
    larder.says("a stampede").await;
    gate.open();
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(app.count("/fleet"), 1);
    let metrics = larder.metrics().await;
    assert!(metrics.contains("larder_cache_stampedes_total{route=\"fleet\"} 1"));
}

const LAST_FIFTH: &str = "routes:\n  - { name: cars, path: /cars/*, ttl: 100s, refresh_ahead: 20% }\n\
                          defaults: { ttl_jitter: 0% }\n";

#[tokio::test]
async fn what_is_used_in_the_last_fifth_of_its_life_is_renewed_behind() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).yaml(LAST_FIFTH).manual_clock().start().await;
    larder.get("/cars/1").await;
    larder.advance("79s").await;
    assert_eq!(larder.get("/cars/1").await.cache(), "HIT");
    assert_eq!(app.count("/cars/1"), 1, "not in the first four fifths");
    larder.advance("2s").await;
    assert_eq!(larder.get("/cars/1").await.cache(), "HIT");
    eventually("it is renewed", async || {
        (app.count("/cars/1") == 2).then_some(())
    })
    .await;
    eventually("the new one is there", async || {
        (larder.get("/cars/1").await.header("age") == "0").then_some(())
    })
    .await;
    larder.advance("70s").await;
    assert_eq!(larder.get("/cars/1").await.cache(), "HIT");
    assert_eq!(app.count("/cars/1"), 2);
}

#[tokio::test]
async fn what_is_renewed_ahead_takes_a_small_share_of_the_app_and_hot_keys_come_first() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| {
        let answer = Answer::ok(seen.target.clone());
        match seen.header("x-first") {
            None => answer.behind(&held),
            Some(_) => answer,
        }
    })
    .await;
    let larder = larder(&app)
        .yaml(&format!(
            "upstream: {{ url: \"{}\", max_in_flight: 64 }}\n{LAST_FIFTH}",
            app.url()
        ))
        .manual_clock()
        .start()
        .await;
    let first = &[("X-First", "1")];
    for car in 0..40 {
        larder.get_with(&format!("/cars/{car}"), first).await;
    }
    larder.advance("85s").await;
    for car in 0..20 {
        assert_eq!(larder.get(&format!("/cars/{car}")).await.cache(), "HIT");
    }
    let renewed = || {
        (0..40)
            .filter(|car| app.count(&format!("/cars/{car}")) == 2)
            .count()
    };
    eventually("as many are renewed as may be", async || {
        (renewed() == 4).then_some(())
    })
    .await;
    for car in 20..40 {
        // Asked for again and again, it may have the rest.
        for _ in 0..8 {
            assert_eq!(larder.get(&format!("/cars/{car}")).await.cache(), "HIT");
        }
    }
    eventually("hot ones may take more", async || {
        (renewed() >= 8).then_some(())
    })
    .await;
    assert_eq!(
        renewed(),
        8,
        "an eighth of what the app may have, and no more"
    );
    gate.open();
}

#[tokio::test]
async fn an_early_refresh_comes_before_the_end_where_the_app_was_slow() {
    let app = App::says(|_| Answer::ok("x").after(Duration::from_millis(300))).await;
    let larder = larder(&app)
        .yaml(
            "routes:\n  - { name: cars, path: /cars/*, ttl: 100s, early_refresh: 100% }\n  - { path: /late/*, ttl: 100s }\n\
             defaults: { ttl_jitter: 0% }\n",
        )
        .manual_clock()
        .start()
        .await;
    for path in ["/cars/1", "/late/1"] {
        larder.get(path).await;
    }
    // Longer before the end than the app takes: e^-20 is the chance that one of these renews it.
    larder.advance("90s").await;
    for _ in 0..20 {
        larder.get("/cars/1").await;
    }
    assert_eq!(app.count("/cars/1"), 1);
    larder.advance("9900ms").await;
    // A tenth of a second before the end three in four of them would.
    for path in ["/cars/1", "/late/1"] {
        for _ in 0..20 {
            assert_eq!(larder.get(path).await.cache(), "HIT");
        }
    }
    eventually("it is renewed", async || {
        (app.count("/cars/1") == 2).then_some(())
    })
    .await;
    assert_eq!(app.count("/late/1"), 1);
}

#[tokio::test]
async fn a_route_has_no_more_requests_with_the_app_than_it_may() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| {
        let answer = Answer::ok(seen.target.clone());
        match seen.path().starts_with("/slow") {
            true => answer.behind(&held),
            false => answer,
        }
    })
    .await;
    let larder = larder(&app)
        .yaml("routes:\n  - { name: slow, path: /slow/*, max_in_flight: 2, ttl: 1m }\n")
        .start()
        .await;
    let all: Vec<_> = (0..10)
        .map(|at| {
            let client = larder.client();
            tokio::spawn(async move { client.get(&format!("/slow/{at}")).await.status })
        })
        .collect();
    let with_app = || {
        (0..10)
            .map(|at| app.count(&format!("/slow/{at}")))
            .sum::<usize>()
    };
    eventually("two are with the app", async || {
        (with_app() == 2).then_some(())
    })
    .await;
    assert_eq!(larder.get("/quick").await.status, 200, "others do not wait");
    larder.configure("ttl: 1m", "ttl: 2m");
    larder.signal("HUP");
    larder.says("was reloaded").await;
    assert_eq!(with_app(), 2, "a reload gives no turns away");
    gate.open();
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(with_app(), 10);
}
