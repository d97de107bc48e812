//! A store in the shadow: clients get what the app says, and what the store would have done is counted.

use crate::support::*;
use serde_json::Value;

const SHADOW: &str =
    "routes: [{ name: car, path: /cars/*, ttl: 60s, shadow: true, override: true }]\n";

impl Larder {
    /// Waits until so many requests of the route were judged.
    async fn shadowed(&self, count: u64) -> Value {
        eventually(&format!("{count} requests in the shadow"), async || {
            let told = self.admin().get("/v1/audit").await.json();
            let found = told["shadow"].as_array()?.first()?.clone();
            let sum = found["audited"].as_u64()? + found["missed"].as_u64()?;
            (sum == count).then_some(found)
        })
        .await
    }
}

#[tokio::test]
async fn the_app_is_always_asked_and_hits_that_would_have_been_are_counted() {
    let app = App::says(|_| Answer::ok("old").header("X-App", "1")).await;
    let larder = larder(&app).yaml(SHADOW).manual_clock().start().await;
    for count in 1..=3 {
        let answer = larder.get("/cars/1").await;
        assert_eq!(
            (answer.text(), answer.cache()),
            ("old".into(), "BYPASS".into())
        );
        assert_eq!(answer.header("x-app"), "1");
        let status = answer.header("cache-status");
        assert!(
            status.contains("shadow") && !status.contains("stored"),
            "{status}"
        );
        larder.shadowed(count).await;
    }
    app.now_says(|_| Answer::ok("new"));
    assert_eq!(larder.get("/cars/1").await.text(), "new");
    let found = larder.shadowed(4).await;
    assert_eq!(
        (&found["missed"], &found["same"], &found["stale"]),
        (&1.into(), &2.into(), &1.into())
    );
    larder.advance("61s").await;
    assert_eq!(larder.get("/cars/1").await.text(), "new");
    let found = larder.shadowed(5).await;
    assert_eq!(found["missed"], 2);
    assert_eq!(app.count("/cars/1"), 5);
    assert!(
        larder
            .metrics()
            .await
            .contains("larder_shadow_requests_total{route=\"car\",outcome=\"same\"} 2")
    );
    // Out of the shadow, nothing from there is served.
    larder.configure("shadow: true, ", "");
    eventually("the route answers from the store", async || {
        let first = larder.get("/cars/1").await.cache().to_owned();
        assert_ne!((app.count("/cars/1"), first.as_str()), (5, "HIT"));
        (first == "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn answers_that_would_have_gone_to_the_wrong_client_are_counted() {
    let app = App::says(|seen| {
        let name = seen.header("cookie").unwrap_or("stranger").to_owned();
        Answer::public(format!("hello {name}"))
    })
    .await;
    let larder = larder(&app).yaml(SHADOW).start().await;
    for (count, name) in (1..).zip(["alice", "bob", "alice", "bob", "bob"]) {
        let answer = larder.get_with("/cars/me", &[("Cookie", name)]).await;
        assert_eq!(answer.text(), format!("hello {name}"));
        larder.shadowed(count).await;
    }
    let found = larder.shadowed(5).await;
    // At Bob's first visit it could have been a page that had changed.
    assert_eq!(
        (&found["same"], &found["stale"], &found["leak"]),
        (&1.into(), &1.into(), &2.into())
    );
}

#[tokio::test]
async fn what_changes_something_and_what_is_a_part_passes_untouched() {
    let app = App::says(|seen| match seen.header("if-none-match") {
        Some(_) => Answer::new(304, "").header("ETag", "\"a\""),
        None => Answer::ok(seen.method.clone()).header("ETag", "\"a\""),
    })
    .await;
    let routes = SHADOW.replace(
        "ttl: 60s",
        "ttl: 60s, methods: [GET, HEAD, POST], key: { body: true }",
    );
    let larder = larder(&app).yaml(&routes).start().await;
    let posted = larder.client().post("/cars/1", &[], "x").await;
    assert_eq!(
        (posted.text(), posted.cache()),
        ("POST".into(), "BYPASS".into())
    );
    larder.get("/cars/1").await;
    larder.shadowed(1).await;
    let fresh = larder
        .get_with("/cars/1", &[("If-None-Match", "\"a\"")])
        .await;
    assert_eq!(fresh.status, 304);
    let found = larder.shadowed(2).await;
    assert_eq!((&found["missed"], &found["failed"]), (&1.into(), &1.into()));
}

#[tokio::test]
async fn what_would_be_stored_is_shared_by_all_sidecars() {
    let (app, redis) = (
        App::says(|_| Answer::ok("page")).await,
        RedisServer::start().await,
    );
    let setup = || larder(&app).redis(&redis).yaml(SHADOW);
    let (one, other) = (setup().start().await, setup().start().await);
    for sidecar in [&one, &other] {
        sidecar.redis_is(true).await;
    }
    let host = [("Host", "shop.test")];
    one.get_with("/cars/1", &host).await;
    one.shadowed(1).await;
    eventually("it is in Redis", async || {
        (!redis.keys().await.is_empty()).then_some(())
    })
    .await;
    let (mut count, mut hits) = (0, 0);
    eventually("the other would have had a hit", async || {
        assert_eq!(other.get_with("/cars/1", &host).await.cache(), "BYPASS");
        count += 1;
        hits = other.shadowed(count).await["same"].as_u64()?;
        (hits > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn redirects_are_told_apart_and_an_app_that_fails_is_no_change() {
    let to = |to| Answer::new(301, "").header("Location", to);
    let app = App::says(move |_| to("/here")).await;
    let larder = larder(&app).yaml(SHADOW).start().await;
    larder.get("/cars/1").await;
    larder.shadowed(1).await;
    larder.get("/cars/1").await;
    assert_eq!(larder.shadowed(2).await["same"], 1);
    app.now_says(|_| Answer::new(503, "later"));
    assert_eq!(larder.get("/cars/1").await.status, 503);
    assert_eq!(larder.shadowed(3).await["failed"], 1);
    app.now_says(move |_| to("/there"));
    larder.get("/cars/1").await;
    let found = larder.shadowed(4).await;
    assert_eq!(
        (&found["missed"], &found["same"], &found["stale"]),
        (&1.into(), &1.into(), &1.into())
    );
}
