//! `larder doctor` beside real and unreal Redis servers, and the smallest user that larder works as.

use crate::support::*;
use std::net::SocketAddr;
use tokio::net::TcpListener;

async fn doctor(app: &App, redis_url: &str) -> (Option<i32>, String) {
    let yaml = format!(
        "upstream: {{ url: {}, health: / }}\nlisten: 127.0.0.1:0\nredis: {redis_url}\ncache: {{ namespace: shop }}\n",
        app.url()
    );
    let output = larder_cli(&["doctor", "-c", "-"], &yaml).await;
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), told.into_owned())
}

#[tokio::test]
async fn a_redis_as_it_should_be_has_nothing_bad() {
    let app = App::says(|_| Answer::ok("well")).await;
    let redis =
        RedisServer::with(&["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let (exit, told) = doctor(&app, &redis.url()).await;
    assert_eq!(exit, Some(0), "{told}");
    for part in [
        "√ app: healthy",
        "round trip",
        "allkeys-lru",
        "redis.limits_url",
        "larder export acl",
    ] {
        assert!(told.contains(part), "{part:?} is not in:\n{told}");
    }
    assert!(!told.contains('×'), "{told}");
    assert!(redis.keys().await.is_empty(), "it only asks");
}

#[tokio::test]
async fn what_will_hurt_is_named_with_its_cause_and_its_cure() {
    let app = App::says(|_| Answer::ok("well")).await;
    let full =
        RedisServer::with(&["--maxmemory", "64mb", "--maxmemory-policy", "noeviction"]).await;
    let guarded = RedisServer::start().await;
    guarded
        .cli(&["CONFIG", "SET", "requirepass", "right"])
        .await;
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = |address: SocketAddr| format!("redis://{address}");
    for (url, cause) in [
        (full.url(), "noeviction"),
        (
            format!("redis://:wrong-secret@127.0.0.1:{}", guarded.port),
            "password",
        ),
        (RedisServer::absent().url(), "refused"),
        (at(silent.local_addr().unwrap()), "firewall"),
        (at(app.address), "Redis"),
        (guarded.url().replace("redis:", "rediss:"), "TLS"),
    ] {
        let (exit, told) = doctor(&app, &url).await;
        assert_eq!(exit, Some(1), "{url}: {told}");
        assert!(
            told.contains("× redis: ") && told.contains(cause),
            "{url}: {told}"
        );
        assert!(!told.contains("wrong-secret"), "{told}");
    }
}

#[tokio::test]
async fn an_app_that_is_down_is_bad_and_json_says_the_same() {
    let app = App::says(|_| Answer::ok("well")).await;
    let url = app.url();
    app.down().await;
    let output = larder_cli(
        &["doctor", "-c", "-", "--json"],
        &format!("upstream: {url}\nlisten: 127.0.0.1:0\n"),
    )
    .await;
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["findings"][0]["of"], "app");
    assert_eq!(told["findings"][0]["grade"], "bad");
}

#[tokio::test]
async fn larder_works_as_the_user_that_export_acl_prints() {
    let exported = larder_cli(
        &["export", "acl", "-c", "-"],
        "upstream: http://localhost:1\ncache: { namespace: larder }\n",
    )
    .await;
    assert_eq!(exported.status.code(), Some(0));
    let rule = String::from_utf8(exported.stdout).unwrap();
    let redis = RedisServer::start().await;
    let words: Vec<String> = rule
        .split_whitespace()
        .map(|word| word.replace(">PASSWORD", ">pw"))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(redis.cli(&words).await, "OK", "{rule}");
    let url = format!("redis://larder:pw@127.0.0.1:{}", redis.port);
    let app = App::says(|seen| match seen.path() {
        "/vary" => Answer::ok("x").header("Vary", "Accept-Language"),
        _ => Answer::ok(seen.target.clone()),
    })
    .await;
    let yaml = "limits: { tiers: [{ name: all, for: anyone, rate: 100/min, per: ip }, ] }\nroutes:\n  - { path: /*, ttl: 1m, tags: [all] }\n";
    let one = larder(&app).redis_url(&url).yaml(yaml).start().await;
    let other = larder(&app).redis_url(&url).yaml(yaml).start().await;
    one.redis_is(true).await;
    other.redis_is(true).await;
    let host = &[("Host", "a")];
    for (path, keys) in [("/a", 1), ("/vary", 3)] {
        one.get_with(path, host).await;
        eventually("Redis holds it", async || {
            let keys_held = redis.keys().await;
            let held = keys_held.iter().filter(|key| key.contains(":1:{")).count();
            (held >= keys).then_some(())
        })
        .await;
        assert_eq!(
            other.get_with(path, host).await.header("x-cache"),
            "HIT",
            "{path}"
        );
    }
    assert_eq!(app.total(), 2);
    one.purge(serde_json::json!({ "tags": ["all"], "soft": false }))
        .await;
    eventually("the purge reaches the other", async || {
        (other.get_with("/a", host).await.header("x-cache") == "MISS").then_some(())
    })
    .await;
    assert_eq!(
        one.admin().get("/healthz").await.json()["redis"]["connected"],
        true
    );
    let denied = redis.cli(&["ACL", "LOG"]).await;
    assert!(denied.trim().is_empty(), "{denied}");
}
