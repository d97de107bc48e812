//! The admin port: who may speak to it, and what it tells.

use crate::support::*;
use serde_json::json;

#[tokio::test]
async fn health_has_the_field_names_that_monitors_know() {
    let app = App::says(|_| Answer::public("x")).await;
    let redis = RedisServer::start().await;
    let larder = larder(&app).redis(&redis).start().await;
    larder.redis_is(true).await;
    larder.get("/").await;
    larder.get("/").await;
    let answer = larder.admin().get("/healthz").await;
    assert_eq!(answer.status, 200);
    let health = answer.json();
    assert_eq!(health["status"], "healthy");
    let redis = &health["redis"];
    assert_eq!(redis["connected"], true);
    for member in ["version", "uptime", "usedMemory", "totalKeys"] {
        assert!(!redis[member].is_null(), "redis.{member}: {health}");
    }
    let metrics = &health["sessionCache"]["metrics"];
    assert_eq!(
        (metrics["hits"].as_u64(), metrics["misses"].as_u64()),
        (Some(1), Some(1)),
        "{health}"
    );
    assert!(!metrics["hitRate"].is_null());
    for member in ["ping", "get", "set"] {
        assert!(
            !health["performance"][member].is_null(),
            "performance.{member}: {health}"
        );
    }
}

#[tokio::test]
async fn without_redis_it_is_alive_ready_and_says_that_redis_is_away() {
    let app = App::says(|_| Answer::ok("x")).await;
    let redis = RedisServer::absent();
    let larder = larder(&app).redis(&redis).start().await;
    let admin = larder.admin();
    assert_eq!(admin.get("/livez").await.status, 200);
    assert_eq!(admin.get("/readyz").await.status, 200);
    assert_eq!(
        admin.get("/healthz").await.json()["redis"]["connected"],
        false
    );
}

#[tokio::test]
async fn foreign_origins_and_hosts_are_refused_even_on_loopback() {
    let app = App::says(|_| Answer::public("x")).await;
    let larder = larder(&app).start().await;
    larder.get("/").await;
    let admin = larder.admin();
    let all = json!({"all": true}).to_string();
    let json = ("Content-Type", "application/json");
    for headers in [
        vec![json, ("Origin", "http://evil.example")],
        vec![json, ("Host", "evil.example")],
        vec![json, ("Origin", "null")],
    ] {
        let answer = admin.post("/v1/purge", &headers, all.clone()).await;
        assert!(
            (400..500).contains(&answer.status),
            "{headers:?} got {}",
            answer.status
        );
        assert!(!answer.has("access-control-allow-origin"));
    }
    let rebound = admin
        .get_with("/healthz", &[("Host", "evil.example")])
        .await;
    assert!(
        (400..500).contains(&rebound.status),
        "a rebound name reads {}",
        rebound.text()
    );
    assert_eq!(larder.get("/").await.cache(), "HIT", "nothing was purged");
    let own = format!("http://{}", larder.admin_address);
    assert_eq!(
        admin
            .post("/v1/purge", &[json, ("Origin", &own)], all)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_get_never_changes_anything_and_nonsense_is_refused() {
    let app = App::says(|_| Answer::public("x")).await;
    let larder = larder(&app).start().await;
    larder.get("/").await;
    let admin = larder.admin();
    assert!((400..500).contains(&admin.get("/v1/purge").await.status));
    assert_eq!(admin.get("/no/such").await.status, 404);
    let json = [("Content-Type", "application/json")];
    for body in ["", "{", "{}", r#"{"tags":"car"}"#, r#"{"everything":true}"#] {
        let answer = admin.post("/v1/purge", &json, body).await;
        assert!(
            (400..500).contains(&answer.status),
            "{body:?} got {}",
            answer.status
        );
    }
    assert_eq!(larder.get("/").await.cache(), "HIT");
}

#[tokio::test]
async fn with_a_token_changes_need_it_and_reading_health_does_not() {
    let app = App::says(|_| Answer::public("x")).await;
    let secret = "0123456789abcdef0123456789abcdef";
    let larder = larder(&app)
        .yaml(&format!(
            "admin: {{ listen: \"127.0.0.1:{{ADMIN}}\", token: {secret} }}"
        ))
        .start()
        .await;
    let body = json!({"all": true}).to_string();
    let json = ("Content-Type", "application/json");
    let admin = larder.admin();
    let wrong = [
        json,
        ("Authorization", "Bearer 0123456789abcdef0123456789abcdeX"),
    ];
    assert_eq!(
        admin.post("/v1/purge", &[json], body.clone()).await.status,
        401
    );
    assert!([401, 403].contains(&admin.post("/v1/purge", &wrong, body.clone()).await.status));
    let right = format!("Bearer {secret}");
    assert_eq!(
        admin
            .post("/v1/purge", &[json, ("Authorization", &right)], body)
            .await
            .status,
        200
    );
    assert_eq!(admin.get("/healthz").await.status, 200);
    assert!(!larder.log().contains(secret));
}

#[tokio::test]
async fn the_admin_api_is_not_on_the_traffic_port() {
    let app = App::says(|seen| Answer::ok(format!("the app's {}", seen.path()))).await;
    let larder = larder(&app).start().await;
    for path in ["/metrics", "/healthz", "/livez", "/v1/purge"] {
        assert_eq!(larder.get(path).await.text(), format!("the app's {path}"));
    }
}

#[tokio::test]
async fn metrics_are_in_order_and_count_by_outcome() {
    let app = App::says(|_| Answer::public("x")).await;
    let redis = RedisServer::start().await;
    let larder = larder(&app).redis(&redis).start().await;
    larder.get("/").await;
    larder.get("/").await;
    let answer = larder.admin().get("/metrics").await;
    assert!(
        answer.header("content-type").starts_with("text/plain")
            || answer.header("content-type").contains("openmetrics")
    );
    let text = answer.text();
    for name in [
        "http_server_request_duration_seconds",
        "http_client_request_duration_seconds",
        "larder_cache_requests_total",
        "larder_cache_stores_total",
        "larder_memory_bytes",
        "larder_redis_up",
        "larder_upstream_up",
        "larder_build_info",
        "larder_config_last_reload_successful",
    ] {
        assert!(
            text.contains(&format!("# TYPE {name} ")),
            "{name} is missing"
        );
    }
    let hits = text.lines().find(|line| {
        line.starts_with("larder_cache_requests_total") && line.contains("cache=\"hit\"")
    });
    assert!(hits.is_some_and(|line| line.ends_with(" 1")), "{hits:?}");
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut once = names.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), names.len(), "a metric is declared twice");
}
