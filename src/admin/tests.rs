//! The port as clients meet it.

use super::*;
use crate::config::settings;
use crate::redis_client::Share;
use crate::redis_client::testing::settings_for;
use crate::route::Routes;
use crate::secret::Secret;
use crate::semantics::Timestamp;
use http_body_util::BodyExt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::Ordering::Relaxed;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn settings() -> Settings {
    let fallback = crate::route::Rule {
        name: "(no route)".into(),
        ..crate::route::Rule::default()
    };
    Settings {
        audit: None,
        alerts: settings::Alerts { webhook: None },
        listen: settings::Listen {
            address: "127.0.0.1:8080".parse().unwrap(),
            tls: None,
        },
        workers: NonZeroUsize::MIN,
        hosts: crate::semantics::Hosts::default(),
        upstream: settings::Upstream {
            target: settings::UpstreamTarget::Http {
                host: "localhost".into(),
                port: 3000,
            },
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(30),
            health: None,
            max_in_flight: settings::MaxInFlight::Fixed(NonZeroU32::MIN),
        },
        redis: None,
        cache: settings::Cache {
            namespace: "test".into(),
            memory: 1 << 20,
            max_body: 1 << 20,
            whole_max: 1 << 20,
            compress: None,
            trust: None,
            encrypt: Vec::new(),
            client_refresh: settings::ClientRefreshPolicy::Never,
        },
        identity: crate::identity::IdentitySettings::default(),
        limits: settings::Limits {
            mode: settings::LimitMode::Enforce,
            redis_down: settings::RedisDown::Local,
            paths: None,
            all: Vec::new(),
            tiers: 0,
        },
        routes: Arc::new(Routes::new(Vec::new(), fallback)),
        warm: Vec::new(),
        predict: None,
        headers: settings::Headers {
            cache_standard: true,
            cache_legacy: true,
            rate_limit_standard: true,
            rate_limit_legacy: true,
            debug_token: Some(Secret::new("debug-secret")),
        },
        errors: settings::ErrorShape::Problem,
        admin: settings::Admin {
            listen: None,
            token: Some(Secret::new(TOKEN)),
        },
        purging: settings::Purging::default(),
        log: settings::Log {
            level: settings::LogLevel::Info,
            format: settings::LogFormat::Json,
            slow: Duration::from_millis(500),
        },
        shutdown: settings::Shutdown {
            delay: Duration::ZERO,
            grace: Duration::from_secs(25),
        },
        files: Vec::new(),
        hash: "4be10000".into(),
        places: crate::config::Places::default(),
    }
}

/// With a token only where one is required.
fn admin(address: &str) -> Admin {
    let mut settings = settings();
    if address.parse::<SocketAddr>().unwrap().ip().is_loopback() {
        settings.admin.token = None;
    }
    admin_with(address, settings)
}

fn admin_with(address: &str, settings: Settings) -> Admin {
    let condition = Condition::default();
    condition.listening.store(true, Relaxed);
    let settings = Arc::new(settings);
    let clock = Clock::manual(Timestamp::from_millis(1_000));
    let identity = crate::identity::Identity::new(settings.identity.clone());
    let identity = Arc::new(identity);
    let snapshot = crate::proxy::Snapshot::new(settings.clone(), identity, Vec::new(), None);
    let shared = Arc::new(Shared::new(snapshot, clock.clone()));
    let (metrics, cache) = (Metrics::new(1), Cache::new(0, "test", 0));
    let limiter = crate::limit::Limiter::new("test", None, Arc::default());
    let warmer = {
        use crate::proxy::{Proxy, Rooms, warm};
        let proxy = Proxy::new(Rooms {
            shared: shared.clone(),
            cache: cache.clone(),
            limiter: limiter.clone(),
            upstream: crate::upstream::Upstream::new(settings.upstream.clone()),
            recorder: metrics.recorder(1),
        });
        warm::Warmer::new(proxy, warm::Popular::new(None, cache.clone(), "test"))
    };
    Admin {
        state: AdminState {
            settings: Arc::new(ArcSwap::new(settings)),
            metrics,
            warmer,
            redis: None,
            vitals: crate::redis_client::vitals::Vitals::default(),
            cache,
            limiter,
            clock,
            shared,
            condition: Arc::new(condition),
        },
        address: address.parse().unwrap(),
        redis_facts: health::RedisFacts::default(),
    }
}

/// Asks `target` of `admin`, with `Host: localhost` unless a field says otherwise.
async fn ask(
    admin: &Admin,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> (StatusCode, http::HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(target);
    if !fields.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost:9800");
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let reply = admin.answer(request.body(body).unwrap()).await;
    let (head, body) = reply.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        head.status,
        head.headers,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

async fn get(admin: &Admin, target: &str) -> (StatusCode, http::HeaderMap, String) {
    ask(admin, "GET", target, &[], "").await
}

#[tokio::test]
async fn readiness_follows_listener_app_and_drain_but_not_redis() {
    let admin = admin("127.0.0.1:9800");
    assert_eq!(get(&admin, "/readyz").await.0, StatusCode::OK);
    admin.state.condition.app_up.store(false, Relaxed);
    let (status, _, body) = get(&admin, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("[-] app"), "{body}");
    admin
        .state
        .metrics
        .watch(|gauges| gauges.memory_objects = Some(3));
    let (status, _, body) = get(&admin, "/readyz?verbose").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        body.contains("[+] app: away; the store can answer"),
        "{body}"
    );
    admin.state.condition.draining.store(true, Relaxed);
    let (status, headers, _) = get(&admin, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(headers.contains_key(RETRY_AFTER));
    assert_eq!(get(&admin, "/livez").await.0, StatusCode::OK);
}

#[tokio::test]
async fn health_has_the_session_caches_fields_and_redis_away_is_degraded() {
    let mut admin = admin("127.0.0.1:9800");
    let (status, _, body) = get(&admin, "/healthz").await;
    let read: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &read["status"]),
        (StatusCode::OK, &"healthy".into())
    );
    for pointer in [
        "/redis/connected",
        "/redis/version",
        "/redis/uptime",
        "/redis/usedMemory",
        "/redis/totalKeys",
        "/sessionCache/metrics/hits",
        "/sessionCache/metrics/misses",
        "/sessionCache/metrics/hitRate",
        "/performance/ping",
        "/performance/get",
        "/performance/set",
        "/cache",
        "/limits",
        "/breaker",
        "/app",
        "/config/hash",
    ] {
        assert!(read.pointer(pointer).is_some(), "{pointer}");
    }
    let recorder = admin.state.metrics.recorder(0);
    let mut redis_settings = settings();
    redis_settings.redis = Some(settings_for("redis://:redis-password@127.0.0.1:1/"));
    let redis = redis_settings.redis.as_ref().unwrap();
    admin.state.redis = Some(Redis::start(redis, &redis.url, Share::ONE, recorder));
    let (status, _, body) = get(&admin, "/healthz").await;
    let read: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &read["status"]),
        (StatusCode::OK, &"degraded".into())
    );
    assert!(!body.contains("redis-password"), "{body}");
    assert_eq!(get(&admin, "/readyz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_refused_reload_is_told_and_the_built_in_route_is_not_counted() {
    let admin = admin("127.0.0.1:9800");
    let config = async || {
        let (_, _, health) = get(&admin, "/healthz").await;
        let (status, _, ready) = get(&admin, "/readyz?verbose").await;
        assert_eq!(status, StatusCode::OK, "the configuration before serves");
        let health: serde_json::Value = serde_json::from_str(&health).unwrap();
        (health["config"].clone(), ready)
    };
    let (health, ready) = config().await;
    assert_eq!(health["routes"], 0);
    assert_eq!(health["lastReload"], "ok");
    assert!(ready.contains("[+] config: loaded\n"), "{ready}");
    let now = admin.state.clock.now();
    admin.state.metrics.config_loaded(Err(()), now);
    let (health, ready) = config().await;
    assert_eq!(health["lastReload"], "failed");
    assert!(ready.contains("the last reload was refused"), "{ready}");
}

#[tokio::test]
async fn every_answer_is_guarded_and_shows_no_secret() {
    let admin = admin("127.0.0.1:9800");
    for target in [
        "/",
        "/livez",
        "/readyz?verbose",
        "/healthz",
        "/metrics",
        "/v1/stats",
        "/nope",
    ] {
        let (_, headers, body) = get(&admin, target).await;
        assert_eq!(headers["x-content-type-options"], "nosniff", "{target}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'"));
        assert!(!headers.contains_key("access-control-allow-origin"));
        assert!(
            !body.contains(TOKEN) && !body.contains("debug-secret"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_foreign_page_or_name_gets_nothing_even_on_loopback() {
    let admin = admin("127.0.0.1:9800");
    let status = async |fields: &[(&str, &str)]| ask(&admin, "GET", "/healthz", fields, "").await.0;
    assert_eq!(
        status(&[("host", "evil.example")]).await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        status(&[("origin", "http://evil.example")]).await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(status(&[("origin", "null")]).await, StatusCode::FORBIDDEN);
    assert_eq!(
        status(&[("origin", "http://localhost:3000")]).await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        status(&[("origin", "http://localhost:9800")]).await,
        StatusCode::OK
    );
    let twice = [("host", "localhost"), ("host", "localhost")];
    assert_eq!(status(&twice).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_token_is_asked_for_where_strangers_can_reach_the_port() {
    let open = admin("127.0.0.1:9800");
    assert_eq!(get(&open, "/v1/stats").await.0, StatusCode::OK);
    let asked_for = admin_with("127.0.0.1:9800", settings());
    let (status, _, _) = get(&asked_for, "/v1/stats").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "configured, so asked for");
    let admin = admin("10.0.0.7:9800");
    let status =
        async |fields: &[(&str, &str)]| ask(&admin, "GET", "/v1/stats", fields, "").await.0;
    let right = format!("bearer {TOKEN}");
    assert_eq!(status(&[]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(
        status(&[("authorization", "Bearer wrong")]).await,
        StatusCode::UNAUTHORIZED
    );
    let two = [
        ("authorization", right.as_str()),
        ("authorization", "Bearer x"),
    ];
    assert_eq!(status(&two).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&[("authorization", &right)]).await, StatusCode::OK);
    assert_eq!(get(&admin, "/healthz").await.0, StatusCode::OK);
    let (status, headers, _) = get(&admin, "/v1/no-such-thing").await;
    assert_eq!(
        status,
        StatusCode::UNAUTHORIZED,
        "nothing under /v1 is told without it"
    );
    assert!(headers.contains_key("www-authenticate"));
}

#[tokio::test]
async fn a_bad_purge_is_explained() {
    let admin = admin("127.0.0.1:9800");
    let json = ("content-type", "application/json");
    for (fields, body, status, code) in [
        (&[][..], "{\"all\":true}", 415, "not-json"),
        (
            &[("content-type", "text/plain")],
            "{\"all\":true}",
            415,
            "not-json",
        ),
        (&[json], "{", 400, "bad-json"),
        (&[json], "{\"tag\":[\"a\"]}", 400, "bad-json"),
        (&[json], "{}", 422, "how-many"),
        (&[json], "{\"all\":true,\"dry_run\":1}", 400, "bad-json"),
        (&[json], &" ".repeat(65 * 1024), 413, "body-too-large"),
    ] {
        let (got, headers, answer) = ask(&admin, "POST", "/v1/purge", fields, body).await;
        assert_eq!(got.as_u16(), status, "{answer}");
        assert_eq!(headers["content-type"], "application/problem+json");
        let read: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(read["code"], code);
        for member in ["type", "title", "status", "detail", "fix"] {
            assert!(!read[member].is_null(), "{member}");
        }
    }
}

#[tokio::test]
async fn only_the_methods_that_there_are_are_answered() {
    let admin = admin("127.0.0.1:9800");
    for (method, target, allow) in [
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("GET", "/v1/purge", "POST"),
        ("PURGE", "/v1/purge", "POST"),
    ] {
        let (status, headers, _) = ask(&admin, method, target, &[], "").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {target}");
        assert_eq!(headers["allow"], allow);
    }
    for target in ["/metrics/", "/x/metrics", "//healthz", "/v1"] {
        assert_eq!(
            get(&admin, target).await.0,
            StatusCode::NOT_FOUND,
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_test_moves_its_clock_and_the_systems_stays() {
    let mut admin = admin("127.0.0.1:9800");
    let fields = [("content-type", "application/json")];
    let body = "{\"advance\":\"5m\"}";
    let (status, _, answer) = ask(&admin, "POST", "/v1/clock", &fields, body).await;
    assert_eq!(
        (status, answer.trim()),
        (StatusCode::OK, "{\"now_ms\":301000}")
    );
    admin.state.clock = Clock::system();
    let (status, _, _) = ask(&admin, "POST", "/v1/clock", &fields, body).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn over_a_socket_it_answers_until_it_is_told_to_stop() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let state = admin("127.0.0.1:9800").state;
    let serving = tokio::spawn(serve(listener, state, async {
        let _ = stopped.await;
    }));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("larder_build_info{version="));
    // A connection that does nothing does not hold up the end.
    let _idle = tokio::net::TcpStream::connect(address).await.unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), serving)
        .await
        .unwrap()
        .unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_explanation_has_five_steps_and_a_bad_question_says_what_to_write() {
    let admin = admin("127.0.0.1:9800");
    let (status, _, body) = get(
        &admin,
        "/v1/explain?url=/a%3Fb=1%26c&method=GET&as=user:u1&header=Accept:%20x",
    )
    .await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let told: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(told["url"], "http://localhost:8080/a?b=1&c");
    assert_eq!(told["steps"].as_array().unwrap().len(), 5);
    assert_eq!(
        (&told["outcome"], &told["reason"]),
        (&"bypass".into(), &"no-store".into())
    );
    for (query, code) in [
        ("", "bad-url"),
        ("?url=a", "bad-url"),
        ("?url=/a%20b", "bad-url"),
        ("?url=/a&b", "unknown-parameter"),
        ("?url=/a&as=me", "bad-as"),
        ("?url=/a&as=ip:x", "bad-as"),
        ("?url=/a&method=G%20T", "bad-method"),
        ("?url=/a&header=x", "bad-header"),
        ("?url=/a&header=x:y%0az:1", "bad-header"),
    ] {
        let (status, _, body) = get(&admin, &format!("/v1/explain{query}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
        assert!(body.contains(code), "{query}: {body}");
    }
    let (status, ..) = ask(&admin, "POST", "/v1/explain?url=/a", &[], "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}
