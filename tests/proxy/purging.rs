//! What takes an entry away: unsafe requests on their routes, and the admin port.

use crate::support::*;
use serde_json::json;

const ROUTES: &str = r#"
routes:
  - { name: fleet, path: /api/fleet, ttl: 5m, tags: [fleet] }
  - { name: car, path: "/api/cars/{id}", ttl: 5m, tags: [cars, "car:{id}"] }
  - { name: booking, path: /api/bookings, methods: [POST], purge: [fleet, "car:{request.carId}"] }
"#;

async fn shop() -> App {
    App::says(|seen| match (seen.method.as_str(), seen.path()) {
        ("POST", _) if seen.text().contains("fail") => Answer::new(409, "{}"),
        ("POST", _) => Answer::new(201, "{}").header("Content-Type", "application/json"),
        _ => Answer::ok(seen.target.clone()),
    })
    .await
}

async fn fill(larder: &Larder) {
    for path in ["/api/fleet", "/api/cars/1", "/api/cars/2"] {
        larder.get(path).await;
        assert_eq!(larder.get(path).await.cache(), "HIT", "{path}");
    }
}

#[tokio::test]
async fn a_booking_purges_its_car_and_the_fleet_before_its_answer_leaves() {
    let app = shop().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    fill(&larder).await;
    let json = [("Content-Type", "application/json")];
    assert_eq!(
        larder
            .client()
            .post("/api/bookings", &json, r#"{"carId":1}"#)
            .await
            .status,
        201
    );
    assert_eq!(larder.get("/api/cars/2").await.cache(), "HIT");
    for path in ["/api/cars/1", "/api/fleet"] {
        assert_ne!(larder.get(path).await.cache(), "HIT", "{path}");
        assert_eq!(app.count(path), 2, "{path}");
    }
}

#[tokio::test]
async fn a_booking_that_fails_purges_nothing() {
    let app = shop().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    fill(&larder).await;
    let json = [("Content-Type", "application/json")];
    larder
        .client()
        .post("/api/bookings", &json, r#"{"carId":1,"fail":true}"#)
        .await;
    assert_eq!(larder.get("/api/cars/1").await.cache(), "HIT");
}

#[tokio::test]
async fn the_admin_port_purges_tags_urls_routes_and_all() {
    let app = shop().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    for (what, gone, kept) in [
        (
            json!({"tags": ["car:1"]}),
            "/api/cars/1",
            Some("/api/cars/2"),
        ),
        (
            json!({"urls": ["/api/cars/2"]}),
            "/api/cars/2",
            Some("/api/fleet"),
        ),
        (
            json!({"routes": ["car"]}),
            "/api/cars/1",
            Some("/api/fleet"),
        ),
        (json!({"all": true}), "/api/fleet", None),
    ] {
        fill(&larder).await;
        let mut hard = what.clone();
        hard["soft"] = json!(false);
        let answer = larder.purge(hard).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        assert_eq!(larder.get(gone).await.cache(), "MISS", "{what}");
        if let Some(kept) = kept {
            assert_eq!(larder.get(kept).await.cache(), "HIT", "{what}");
        }
    }
}

#[tokio::test]
async fn a_purge_reaches_the_memory_of_another_larder() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let one = larder(&app).redis(&redis).yaml(ROUTES).start().await;
    let two = larder(&app).redis(&redis).yaml(ROUTES).start().await;
    one.redis_is(true).await;
    two.redis_is(true).await;
    two.get("/api/cars/1").await;
    assert_eq!(two.get("/api/cars/1").await.cache(), "HIT");
    assert_eq!(
        one.purge(json!({"tags": ["car:1"], "soft": false}))
            .await
            .status,
        200
    );
    eventually("the other larder knows", async || {
        (two.get("/api/cars/1").await.cache() != "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_fill_that_began_before_a_purge_is_not_kept() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::ok("old").behind(&held)).await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    let client = larder.client();
    let old = tokio::spawn(async move { client.get("/api/cars/1").await });
    eventually("the app is asked", async || {
        (app.count("/api/cars/1") == 1).then_some(())
    })
    .await;
    larder
        .purge(json!({"tags": ["car:1"], "soft": false}))
        .await;
    app.now_says(|_| Answer::ok("new"));
    gate.open();
    assert_eq!(old.await.unwrap().text(), "old");
    assert_eq!(larder.get("/api/cars/1").await.text(), "new");
}

#[tokio::test]
async fn purges_made_while_redis_is_away_hold_when_it_is_back() {
    let app = shop().await;
    let mut redis = RedisServer::start().await;
    let one = larder(&app).redis(&redis).yaml(ROUTES).start().await;
    one.redis_is(true).await;
    one.get("/api/cars/1").await;
    eventually("it is in Redis", async || {
        (!redis.keys().await.is_empty()).then_some(())
    })
    .await;
    redis.kill().await;
    let answer = one.purge(json!({"tags": ["car:1"], "soft": false})).await;
    assert!(
        answer.status == 200 || answer.status == 202,
        "{}",
        answer.status
    );
    assert_eq!(one.get("/api/cars/1").await.cache(), "MISS");
    redis.up().await;
    one.redis_is(true).await;
    let two = larder(&app).redis(&redis).yaml(ROUTES).start().await;
    two.redis_is(true).await;
    // What Redis still held from before the purge must not come back through the other larder.
    app.now_says(|_| Answer::ok("new"));
    let answer = two.get("/api/cars/1").await;
    assert!(
        answer.cache() != "HIT" || answer.text() != "old",
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_url_is_purged_in_whatever_spelling() {
    let app = shop().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    let host = &[("Host", "Shop.test")];
    for spelling in [
        "/api/fleet?b=2&a=%31",
        "http://shop.test:80/api/fleet?a=1&b=2&utm_source=ad",
        "https://SHOP.test/api/fleet?a=1&b=%32",
    ] {
        larder.get_with("/api/fleet?b=%32&a=1", host).await;
        let again = larder.get_with("/api/fleet?a=1&b=2", host).await;
        assert_eq!(again.cache(), "HIT");
        larder
            .purge(json!({ "urls": [spelling], "soft": false }))
            .await;
        let after = larder.get_with("/api/fleet?a=1&b=2", host).await;
        assert_eq!(after.cache(), "MISS", "{spelling}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_app_has_answered_takes_no_purge_with_it() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| match seen.method.as_str() {
        "POST" => Answer::new(201, "{}").behind(&held),
        _ => Answer::ok(seen.target.clone()),
    })
    .await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    fill(&larder).await;
    let client = larder.client();
    let booking = tokio::spawn(async move {
        let json = [("Content-Type", "application/json")];
        client.post("/api/bookings", &json, r#"{"carId":1}"#).await
    });
    eventually("the app is asked", async || {
        (app.count("/api/bookings") == 1).then_some(())
    })
    .await;
    booking.abort();
    assert!(booking.await.is_err());
    assert_eq!(larder.get("/api/cars/1").await.cache(), "HIT");
    gate.open();
    eventually("what it has changed is purged", async || {
        (larder.get("/api/cars/1").await.cache() != "HIT").then_some(())
    })
    .await;
    assert_eq!(larder.get("/api/cars/2").await.cache(), "HIT");
}
