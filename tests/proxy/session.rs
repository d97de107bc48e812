//! The session route: a token's validation is cached for its bearer alone, and shows nowhere.

use crate::support::*;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

const ROUTES: &str = r#"
defaults: { ttl_jitter: 0%, stale_while_revalidate: 0s, stale_if_error: 0s }
routes:
  - name: session
    path: /api/auth/session
    ttl: 5m
    key: { per: token }
    tags: ["user:{user}"]
  - name: logout
    path: /api/auth/logout
    methods: [POST]
    purge: ["user:{user}"]
"#;

/// An app that knows which tokens were logged out.
async fn app() -> App {
    let ended: Arc<Mutex<HashSet<String>>> = Arc::default();
    App::says(move |seen| {
        let token = seen.header("authorization").unwrap_or_default().to_owned();
        let mut ended = ended.lock().unwrap();
        let private =
            |status, text: &str| Answer::new(status, text).header("Cache-Control", "private");
        match seen.path() {
            _ if token.is_empty() => private(401, "who?"),
            "/api/auth/logout" => {
                ended.insert(token);
                private(200, "bye")
            }
            _ if ended.contains(&token) => private(401, "ended"),
            _ => private(200, &format!("bearer of {}", token.len())),
        }
    })
    .await
}

fn bearer(token: &str) -> [(&'static str, String); 1] {
    [("Authorization", format!("Bearer {token}"))]
}

async fn ask(larder: &Larder, method: &str, path: &str, token: &str) -> Response {
    let headers = bearer(token);
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    larder.client().send(method, path, &headers, "").await
}

#[tokio::test]
async fn a_validation_is_cached_for_five_minutes() {
    let app = app().await;
    // In memory alone: Redis keeps its own time, and would not hear of ours being moved.
    let larder = larder(&app).yaml(&identity()).yaml(ROUTES).manual_clock();
    let larder = larder.start().await;
    let (ann, path) = (token("ann", "customer"), "/api/auth/session");
    assert_eq!(ask(&larder, "GET", path, &ann).await.cache(), "MISS");
    larder.advance("4m").await;
    assert_eq!(ask(&larder, "GET", path, &ann).await.cache(), "HIT");
    larder.advance("2m").await;
    assert_ne!(ask(&larder, "GET", path, &ann).await.cache(), "HIT");
}

#[tokio::test]
async fn a_validation_is_its_tokens_alone_and_ends_with_the_logout() {
    let app = app().await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml(&identity())
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    let (ann, bob) = (token("ann", "customer"), token("bobby", "customer"));
    let path = "/api/auth/session";
    assert_eq!(ask(&larder, "GET", path, &ann).await.cache(), "MISS");
    assert_eq!(ask(&larder, "GET", path, &ann).await.cache(), "HIT");
    assert_ne!(
        ask(&larder, "GET", path, &bob).await.cache(),
        "HIT",
        "another token never sees it"
    );
    assert_eq!(larder.get(path).await.status, 401, "nor does nobody");
    assert_eq!(app.count(path), 3);

    assert_eq!(
        ask(&larder, "POST", "/api/auth/logout", &ann).await.status,
        200
    );
    assert_eq!(
        ask(&larder, "GET", path, &ann).await.status,
        401,
        "logout ends it at once"
    );
}

#[tokio::test]
async fn the_token_appears_nowhere_in_redis_logs_headers_or_metrics() {
    let app = app().await;
    let redis = RedisServer::start().await;
    let monitor = redis.monitor().await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml(&identity())
        .yaml(ROUTES)
        .yaml("limits: { tiers: [{ name: all, for: anyone, rate: 1000/min, per: token }] }")
        .yaml("log: { level: debug }")
        .start()
        .await;
    larder.redis_is(true).await;
    let ann = token("ann-of-the-session", "customer");
    let mut headers = String::new();
    for _ in 0..3 {
        let answer = ask(&larder, "GET", "/api/auth/session", &ann).await;
        headers.push_str(&format!("{:?}", answer.headers));
    }
    ask(&larder, "POST", "/api/auth/logout", &ann).await;
    eventually("it was stored", async || {
        (!redis.keys().await.is_empty()).then_some(())
    })
    .await;
    let (signature, payload) = (
        ann.rsplit('.').next().unwrap(),
        ann.split('.').nth(1).unwrap(),
    );
    let told = [
        ("Redis", redis.everything_written()),
        ("Redis's commands", monitor.lines().join("\n").into_bytes()),
        ("Redis's keys", redis.keys().await.join("\n").into_bytes()),
        ("the log", larder.log().into_bytes()),
        ("a header", headers.into_bytes()),
        ("metrics", larder.metrics().await.into_bytes()),
        ("health", larder.admin().get("/healthz").await.body.to_vec()),
    ];
    for (place, bytes) in told {
        for secret in [ann.as_str(), signature, payload, SECRET] {
            assert!(
                !contains(&bytes, secret.as_bytes()),
                "{place} shows {secret}"
            );
        }
    }
}
