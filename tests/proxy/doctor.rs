//! `larder doctor` beside real and unreal Redis servers, and the smallest user that larder works as.

use crate::support::*;
use std::net::SocketAddr;
use tokio::net::TcpListener;

async fn doctor(app: &App, redis_url: &str) -> (Option<i32>, String) {
    doctor_of(app, redis_url, "").await
}

async fn doctor_of(app: &App, redis_url: &str, more: &str) -> (Option<i32>, String) {
    let yaml = format!(
        "upstream: {{ url: {}, health: / }}\nlisten: 127.0.0.1:0\nredis: {redis_url}\ncache: {{ namespace: shop }}\n{more}",
        app.url()
    );
    let output = larder_cli(&["doctor", "-c", "-"], &yaml).await;
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), told.into_owned())
}

#[tokio::test]
async fn a_redis_as_it_should_be_has_nothing_bad() {
    let app = App::says(|_| Answer::ok("well")).await;
    let bounded = ["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"];
    let redis = RedisServer::of("shop", &bounded).await;
    redis.may_refuse("acl|whoami");
    let (exit, told) = doctor(&app, &redis.url()).await;
    assert_eq!(exit, Some(0), "{told}");
    for part in [
        "√ app: healthy",
        "round trip",
        "policy allkeys-lru",
        "larder's user is one of its own",
    ] {
        assert!(told.contains(part), "{part:?} is not in:\n{told}");
    }
    for part in ["×", "limits"] {
        assert!(!told.contains(part), "{part:?} is in:\n{told}");
    }
    let limit = "limits: { tiers: [{ name: all, for: anyone, rate: 5/min, per: ip }] }\n";
    let (exit, told) = doctor_of(&app, &redis.url(), limit).await;
    assert_eq!(exit, Some(0), "{told}");
    assert!(told.contains("redis.limits_url"), "{told}");
    assert!(redis.keys().await.is_empty(), "it only asks");
}

#[tokio::test]
async fn the_replicas_of_a_cluster_are_as_they_should_be() {
    let app = App::says(|_| Answer::ok("well")).await;
    let cluster = RedisCluster::start().await;
    for node in &cluster.nodes {
        node.may_refuse("acl|whoami");
    }
    let url = format!("\"{}\"", cluster.url());
    // A replica is among those that are named once the others know how far it has come.
    let (exit, told) = eventually("all are visited", async || {
        let (exit, told) = doctor(&app, &url).await;
        let count = |part| told.matches(part).count();
        let all = (count(", a primary: "), count(", a replica: ")) == (3, 3);
        all.then_some((exit, told))
    })
    .await;
    assert_eq!(exit, Some(0), "{told}");
    assert!(!told.contains('×'), "{told}");
    assert!(told.contains("cluster-require-full-coverage no"), "{told}");
}

#[tokio::test]
async fn a_user_that_may_do_everything_gets_the_command_that_makes_a_smaller_one() {
    let app = App::says(|_| Answer::ok("well")).await;
    let redis =
        RedisServer::with(&["--user", "default", "on", "nopass", "~*", "&*", "+@all"]).await;
    let (exit, told) = doctor(&app, &format!("redis://{}", redis.address())).await;
    assert_eq!(exit, Some(0), "{told}");
    for part in [
        "! redis: larder's user `default` may do everything, FLUSHALL included",
        "ACL SETUSER larder on >PASSWORD resetkeys ~shop:* ",
    ] {
        assert!(told.contains(part), "{part:?} is not in:\n{told}");
    }
}

#[tokio::test]
async fn what_will_hurt_is_named_with_its_cause_and_its_cure() {
    let app = App::says(|_| Answer::ok("well")).await;
    let full = RedisServer::of(
        "shop",
        &["--maxmemory", "64mb", "--maxmemory-policy", "noeviction"],
    )
    .await;
    full.may_refuse("acl|whoami");
    let guarded = RedisServer::start().await;
    guarded
        .cli(&["CONFIG", "SET", "requirepass", "right"])
        .await;
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = |address: SocketAddr| format!("redis://{address}");
    let crowded = RedisServer::of("shop", &["--maxclients", "10"]).await;
    crowded.may_refuse("acl|whoami");
    let replica = RedisServer::of("shop", &["--replicaof", "127.0.0.1", "1"]).await;
    replica.may_refuse("acl|whoami");
    for (url, cause) in [
        (crowded.url(), "of at most 10 clients"),
        (
            replica.url(),
            "has lost its primary: what it holds is old\n    name its primary in redis.url, 127.0.0.1:1",
        ),
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
    // As every scenario does; here is all that it asks of Redis, one after the other.
    let redis = RedisServer::start().await;
    let monitor = redis.monitor().await;
    let app = App::says(|seen| match seen.path() {
        "/vary" => Answer::ok("x").header("Vary", "Accept-Language"),
        "/query" => Answer::ok("x").header("No-Vary-Search", "params=(\"a\")"),
        _ => Answer::ok(seen.target.clone()),
    })
    .await;
    let yaml = r#"
limits:
  tiers: [{ name: all, for: anyone, rate: 100/min, per: ip }]
routes:
  - { path: /hot, ttl: 1m, limit: { rate: 50/s, per: ip, sync: 100ms } }
  - { path: /many, limit: { rate: 5000/min, per: ip } }
  - { path: /*, ttl: 1m, tags: [all] }
"#;
    let one = larder(&app).redis(&redis).yaml(yaml).start().await;
    let other = larder(&app).redis(&redis).yaml(yaml).start().await;
    one.redis_is(true).await;
    other.redis_is(true).await;
    let host = &[("Host", "a")];
    for path in ["/hot", "/many", "/query?a=1"] {
        one.get_with(path, host).await;
    }
    for path in ["/a", "/vary"] {
        let before = stored(&redis).await;
        one.get_with(path, host).await;
        eventually("Redis holds it", async || {
            let more = stored(&redis).await - before;
            (more > usize::from(path == "/vary")).then_some(())
        })
        .await;
        assert_eq!(
            other.get_with(path, host).await.header("x-cache"),
            "HIT",
            "{path}"
        );
    }
    one.purge(serde_json::json!({ "tags": ["all"], "urls": ["/hot"], "soft": false }))
        .await;
    eventually("the purge reaches the other", async || {
        (other.get_with("/a", host).await.header("x-cache") == "MISS").then_some(())
    })
    .await;
    for page in [
        "/healthz",
        "/readyz?verbose",
        "/metrics",
        "/v1/stats",
        "/v1/redis",
        "/v1/capacity",
        "/v1/explain?url=/a",
    ] {
        assert_eq!(one.admin().get(page).await.status, 200, "{page}");
    }
    redis.may_refuse("acl|whoami");
    let yaml = format!(
        "upstream: {}\nlisten: 127.0.0.1:0\nredis: {}\n",
        app.url(),
        redis.url()
    );
    larder_cli(&["doctor", "-c", "-"], &yaml).await;
    let sent = monitor.lines();
    for command in ["GET", "EVALSHA", "INFO", "PING", "XREAD"] {
        assert!(
            sent.iter().any(|line| sends(line, command)),
            "{command} is never sent"
        );
    }
    for command in NEVER_SENT {
        let shown = sent
            .iter()
            .find(|line| sends(line, command) && !line.contains("\"KEYS\" \"*\""));
        assert_eq!(shown, None, "{command}");
    }
}

async fn stored(redis: &RedisServer) -> usize {
    let keys = redis.keys().await;
    keys.iter().filter(|key| key.contains(":1:{")).count()
}

/// Whether this line of MONITOR, `1795.1 [0 127.0.0.1:4] "GET" "key"`, is this command, by a client or a script.
fn sends(line: &str, command: &str) -> bool {
    let sent = line.split('"').nth(1);
    sent.is_some_and(|sent| sent.eq_ignore_ascii_case(command))
}
