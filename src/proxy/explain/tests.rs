//! The steps that are told of some requests, without a socket.

use super::*;
use crate::cache::{Entry, testing};
use crate::clock::Clock;
use crate::config::{Environment, Source};
use crate::identity::Identity;
use crate::proxy::Snapshot;
use crate::semantics::{Key, Timestamp};
use std::sync::Arc;

fn shared(yaml: &str) -> Shared {
    let source = Source {
        name: "test".into(),
        text: format!("upstream: http://localhost:1\n{yaml}"),
    };
    let (settings, _) = crate::config::load(source, &Environment::ignored()).unwrap();
    let identity = Arc::new(Identity::new(settings.identity.clone()));
    let snapshot = Snapshot::new(Arc::new(settings), identity, Vec::new(), None);
    Shared::new(snapshot, Clock::manual(Timestamp::from_millis(1_000_000)))
}

fn cache() -> Cache {
    Cache::new(1 << 20, "test", 1 << 20)
}

fn question(method: &str, url: &str, fields: &[(&'static str, &'static str)]) -> Question {
    Question {
        method: method.parse().unwrap(),
        url: url.parse().unwrap(),
        headers: fields
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect(),
        sender: Sender::default(),
        answer: None,
    }
}

async fn explained(shared: &Shared, cache: &Cache, question: Question) -> Explanation {
    let limiter = Limiter::new("test", None, Arc::default());
    let live = Live {
        cache,
        limiter: &limiter,
    };
    explain(shared, live, question).await
}

async fn told(yaml: &str, question: Question) -> Explanation {
    explained(&shared(yaml), &cache(), question).await
}

const ROUTES: &str = "limits: { tiers: [{ name: public, for: anyone, rate: 60/min, per: ip }] }
routes:
  - { path: /api/me, no_store: true }
  - { path: \"/api/mine\", ttl: 1m, key: { per: user } }
  - { path: \"/api/cars/{id}\", ttl: 90s, limit: { rate: 5/15m, per: ip } }
";

#[tokio::test]
async fn the_five_steps_name_their_settings() {
    let told = told(
        ROUTES,
        question("GET", "http://shop.test/api/cars/42?b=1", &[]),
    )
    .await;
    let steps: Vec<&str> = told.steps.iter().map(|step| &*step.step).collect();
    assert_eq!(steps, ["limit", "route", "key", "lookup", "answer"]);
    assert_eq!(told.url, "http://shop.test/api/cars/42?b=1");
    assert_eq!((&*told.outcome, &*told.reason), ("miss", "cold"));
    assert_eq!(
        told.steps[0].by,
        "limits.tiers[0] (test:2), routes[2].limit (test:6)"
    );
    assert!(told.steps[0].details[0].starts_with("who asks: no user; address 127.0.0.1"));
    let counter = "5 in any 15m, one counter per ip; 5 left now";
    assert!(told.steps[0].details[2].contains(counter), "{told}");
    assert_eq!(told.steps[1].by, "routes[2] (test:6)");
    let before = "not `/api/mine`, routes[1] (test:5): its path is /api/mine";
    assert!(told.steps[1].details.contains(&before.to_owned()), "{told}");
    assert!(told.steps[1].details.contains(&"{id} is 42".to_owned()));
    assert!(told.steps[4].details[0].contains("90s"));
    let text = told.to_string();
    assert!(text.contains("\n3 key     ") && text.contains("\nMISS (cold), configuration "));
    assert!(
        told.steps
            .iter()
            .all(|step| !step.by.is_empty() && !step.change.is_empty())
    );
}

#[tokio::test]
async fn what_is_passed_is_not_looked_up_and_says_why() {
    for (method, url, fields, reason, by) in [
        (
            "GET",
            "/api/me",
            &[][..],
            "no-store",
            "routes[0].no_store (test:4)",
        ),
        (
            "GET",
            "/api/mine",
            &[],
            "private",
            "routes[1].key.per (test:5)",
        ),
        ("POST", "/x", &[], "method", "RFC 9110 §9.2.3"),
        ("GET", "/a//b", &[], "ambiguous-path", "RFC 3986 §6.2.2"),
        (
            "GET",
            "/x",
            &[("connection", "upgrade"), ("upgrade", "websocket")],
            "upgrade",
            "RFC 9110 §7.8",
        ),
    ] {
        let told = told(ROUTES, question(method, url, fields)).await;
        assert_eq!((&*told.outcome, &*told.reason), ("bypass", reason), "{url}");
        assert_eq!(told.steps[2].by, by);
        assert_eq!(told.steps[3].verdict, "not asked");
    }
}

#[tokio::test]
async fn a_user_that_is_assumed_has_a_key_of_their_own() {
    let with = |user: &str| {
        let mut question = question("GET", "/api/mine", &[]);
        assert!(question.sender.add(user));
        question
    };
    let one = told(ROUTES, with("user:u1")).await;
    let other = told(ROUTES, with("user:u2")).await;
    assert_eq!(one.outcome, "miss");
    assert_ne!(one.steps[2].verdict, other.steps[2].verdict);
}

#[tokio::test]
async fn what_is_stored_is_a_hit_until_it_is_stale_and_no_value_of_a_field_is_told() {
    let (shared, cache) = (shared(ROUTES), cache());
    let ask = |fields| question("GET", "http://shop.test/api/cars/42", fields);
    let cold = explained(&shared, &cache, ask(&[])).await;
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&cold.steps[2].verdict[at * 2..][..2], 16).unwrap();
    }
    let mut held = testing::stored_at(shared.clock.now(), b"body");
    held.sharing = crate::semantics::Sharing::Route;
    let held = Entry::new(&held, &testing::label("shop.test/api/cars/42"));
    cache.store(&Key::from_bytes(bytes), Arc::new(held), shared.clock.now());
    let hit = explained(&shared, &cache, ask(&[])).await;
    assert_eq!((&*hit.outcome, &*hit.reason), ("hit", "memory"), "{hit}");
    assert!(
        hit.steps[3].details[0].ends_with("fresh for another 60s"),
        "{hit}"
    );
    let fields = &[
        ("authorization", "Bearer s3cr3t"),
        ("x-forwarded-host", "evil.test"),
    ];
    let withheld = explained(&shared, &cache, ask(fields)).await;
    assert_eq!(
        (&*withheld.outcome, &*withheld.reason),
        ("miss", "authorization")
    );
    let text = withheld.to_string();
    assert!(text.contains("x-forwarded-host is not in it") && text.contains("RFC 9111 §3.5"));
    assert!(!text.contains("s3cr3t") && !text.contains("evil"), "{text}");
}

#[tokio::test]
async fn an_answer_that_is_made_up_goes_through_every_check() {
    let stored = async |url: &str, fields: &str| {
        let mut question = question("GET", url, &[]);
        question.answer = Some(AppAnswer {
            headers: crate::semantics::testing::headers(fields),
            ..AppAnswer::default()
        });
        told(ROUTES, question).await.steps.remove(5)
    };
    let kept = stored("/api/cars/1", "").await;
    assert_eq!(kept.verdict, "stored, fresh for 90s");
    assert_eq!(kept.by, "RFC 9111 §4.2.1, routes[2].ttl (test:6)");
    let own = stored("/api/cars/1", "cache-control: max-age=5").await;
    assert_eq!(
        (&*own.verdict, &*own.by),
        ("stored, fresh for 5s", "RFC 9111 §4.2.1")
    );
    let cookie = stored("/x", "cache-control: max-age=60\nset-cookie: s3cr3t=1").await;
    assert_eq!(cookie.verdict, "not stored: set-cookie");
    assert_eq!(cookie.by, "RFC 9111 §7.3, cache.set_cookie (default)");
    assert!(
        cookie
            .change
            .starts_with("Without Set-Cookie it would be stored for 1m; ")
    );
    assert!(!format!("{cookie:?}").contains("s3cr3t"));
    let two = stored("/x", "cache-control: private, no-store, max-age=60").await;
    assert_eq!(two.verdict, "not stored: no-store");
    assert_eq!(two.change, "No single change would; see the checks.");
    let large = stored("/x", "cache-control: max-age=9\ncontent-length: 99999999").await;
    assert_eq!(large.verdict, "not stored: too-large");
    let passed = stored("/api/me", "cache-control: max-age=60").await;
    assert_eq!(
        passed.verdict,
        "not stored: no-store, as the request is passed"
    );
}

#[test]
fn values_that_are_credentials_by_their_names_are_masked() {
    assert_eq!(
        masked("a=1&accessToken=x&sig&api_key=y&b&X-Amz-Signature=z"),
        "a=1&accessToken=***&sig&api_key=***&b&X-Amz-Signature=***"
    );
    for plain in ["a=1&b", "zipcode=1&monkey=2&passengers=3"] {
        assert_eq!(masked(plain), plain);
    }
}

#[test]
fn a_sender_is_a_user_a_role_or_an_address() {
    let mut sender = Sender::default();
    for good in ["user:a:b", "role:admin", "ip:2001:db8::1"] {
        assert!(sender.add(good), "{good}");
    }
    assert_eq!(sender.user.as_deref(), Some("a:b"));
    for bad in ["", "u1", "user:", "role:", "ip:x", "me:1"] {
        assert!(!sender.add(bad), "{bad}");
    }
}

#[test]
fn spans_are_written_as_the_configuration_writes_them() {
    let told = [0, 1_500, 90_000, 60_000, 7_200_000, 86_400_000];
    let told = told.map(|millis| span(Duration::from_millis(millis)));
    assert_eq!(told, ["0ms", "1500ms", "90s", "1m", "2h", "1d"]);
}
