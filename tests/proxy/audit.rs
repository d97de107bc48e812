//! Hits asked of the app again: how stale they were, whether one client's answer went to another, and what
//! becomes of a route where it did.

use crate::support::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Everything is audited, so that nothing here is left to chance.
const AUDIT: &str = "audit: { sample: 100%, rate: 1000/s }\n";

impl Larder {
    /// What audits have found on a route.
    async fn audits(&self, route: &str) -> Value {
        let told = self.admin().get("/v1/audit").await.json();
        let routes = told["routes"].as_array().unwrap();
        let found = routes.iter().find(|one| one["route"] == route);
        found.cloned().unwrap_or(Value::Null)
    }

    /// Waits until so many audits of a route were made.
    async fn audited(&self, route: &str, count: u64) -> Value {
        eventually(&format!("{count} audits of {route}"), async || {
            let found = self.audits(route).await;
            (found["audited"].as_u64() >= Some(count)).then_some(found)
        })
        .await
    }

    async fn quarantined(&self) -> Vec<String> {
        let told = self.admin().get("/healthz").await.json();
        let names = told["quarantined"].as_array().unwrap();
        let name = |name: &Value| name.as_str().unwrap().to_owned();
        names.iter().map(name).collect()
    }

    async fn is_quarantined(&self, route: &str, is: bool) {
        eventually(&format!("{route} is quarantined: {is}"), async || {
            let names = self.quarantined().await;
            (names.iter().any(|name| name == route) == is).then_some(())
        })
        .await;
    }

    async fn release(&self, route: &str) -> Response {
        let json = [("Content-Type", "application/json")];
        let body = json!({ "route": route }).to_string();
        self.admin().post("/v1/audit/release", &json, body).await
    }
}

/// An app that greets whom its session names, and says of the page that anybody may keep it.
async fn greeter() -> App {
    App::says(|seen| {
        let name = seen.header("cookie").unwrap_or("stranger").to_owned();
        Answer::public(format!("hello {name}")).header("Cache-Control", "public, max-age=600")
    })
    .await
}

const ME: &str = "routes: [{ name: me, path: /me, ttl: 10m, override: true }]\n";

#[tokio::test]
async fn what_the_app_would_say_again_is_the_same_and_nobody_notices() {
    let app = App::says(|_| Answer::ok("page")).await;
    let larder = larder(&app)
        .yaml(&format!(
            "{AUDIT}routes: [{{ name: page, path: /page, ttl: 5m }}]"
        ))
        .start()
        .await;
    let credentials = [("Authorization", "Bearer secret")];
    assert_eq!(larder.get("/page").await.cache(), "MISS");
    for _ in 0..3 {
        assert_eq!(larder.get("/page").await.cache(), "HIT");
    }
    let found = larder.audited("page", 3).await;
    assert_eq!((&found["same"], &found["stale"]), (&json!(3), &json!(0)));
    assert_eq!(app.count("/page"), 4);
    // Whoever shows credentials is not answered by a route's ttl, and so there is nothing to audit.
    larder.get_with("/page", &credentials).await;
    let metrics = larder.metrics().await;
    assert!(
        metrics.contains("larder_audits_total{route=\"page\",verdict=\"same\"} 3"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_ttl_ten_times_too_long_is_found_and_a_true_one_advised() {
    let version = Arc::new(AtomicU32::new(0));
    let app = {
        let version = version.clone();
        App::says(move |_| Answer::ok(format!("version {}", version.load(Ordering::SeqCst)))).await
    };
    let larder = larder(&app)
        .yaml(&format!(
            "{AUDIT}defaults: {{ ttl_jitter: 0% }}\nroutes: [{{ name: news, path: /news, ttl: 300s }}]"
        ))
        .manual_clock()
        .start()
        .await;
    larder.get("/news").await;
    // The app changes every 30 s; a visitor comes every 6 s for one lifetime.
    let mut visits = 0;
    for step in 0..49 {
        if step % 5 == 0 && step > 0 {
            version.fetch_add(1, Ordering::SeqCst);
        }
        assert_eq!(larder.get("/news").await.cache(), "HIT");
        visits += 1;
        // Each is compared before the app changes again.
        larder.audited("news", visits).await;
        larder.advance("6s").await;
    }
    let found = larder.audits("news").await;
    assert_eq!(found["stale"], 44, "{found}");
    let share = found["staleness"]["share"].as_f64().unwrap();
    assert!((0.89..0.91).contains(&share), "{found}");
    assert_eq!(found["advice"]["word"], "shorten");
    let ttl: u64 = found["advice"]["ttl"]
        .as_str()
        .unwrap()
        .trim_end_matches('s')
        .parse()
        .unwrap();
    assert!((15..=30).contains(&ttl), "{found}");
    assert!(larder.quarantined().await.is_empty());
}

#[tokio::test]
async fn a_route_that_leaks_is_caught_told_and_shut_until_it_is_released() {
    let app = greeter().await;
    let hook = App::says(|_| Answer::new(204, "")).await;
    let larder = larder(&app)
        .yaml(&format!(
            "{AUDIT}{ME}alerts: {{ webhook: \"{}/hook\" }}",
            hook.url()
        ))
        .start()
        .await;
    let (alice, bob) = ([("Cookie", "alice")], [("Cookie", "bob")]);
    assert_eq!(larder.get_with("/me", &alice).await.text(), "hello alice");
    // The leak, before anybody could know.
    assert_eq!(larder.get_with("/me", &bob).await.text(), "hello alice");
    larder.is_quarantined("me", true).await;
    let told = eventually("the webhook is told", async || hook.seen("/hook").pop()).await;
    let told: Value = serde_json::from_slice(&told.body).unwrap();
    assert_eq!(
        (&told["alarm"], &told["about"]),
        (&json!("leak"), &json!("me"))
    );
    larder
        .says("one client's answer was given to another")
        .await;
    for name in ["bob", "alice", "carol"] {
        let answer = larder.get_with("/me", &[("Cookie", name)]).await;
        assert_eq!(answer.text(), format!("hello {name}"));
        assert_eq!(answer.cache(), "BYPASS");
    }
    let explained = larder.admin().get("/v1/explain?url=/me").await.text();
    assert!(explained.contains("quarantined"), "{explained}");
    let ready = larder.admin().get("/readyz?verbose").await;
    assert!(ready.status == 200 && ready.text().contains("quarantine: some"));
    let metrics = larder.metrics().await;
    assert!(metrics.contains("larder_route_quarantined{route=\"me\"} 1"));
    let log = larder.log();
    for secret in ["alice", "bob", "carol"] {
        assert!(!log.contains(secret), "{log}");
    }
    // Mended, and released.
    app.now_says(|_| Answer::public("hello").header("Cache-Control", "public, max-age=600"));
    assert_eq!(larder.release("nothing").await.status, 422);
    assert_eq!(larder.release("me").await.status, 200);
    assert_eq!(larder.get_with("/me", &alice).await.cache(), "MISS");
    assert_eq!(larder.get_with("/me", &bob).await.cache(), "HIT");
    assert_eq!(larder.release("me").await.status, 422);
}

#[tokio::test]
async fn what_strangers_are_refused_is_a_leak_without_asking_as_anybody() {
    let app = App::says(|seen| match seen.header("cookie") {
        Some(name) => Answer::public(format!("hello {name}")),
        None => Answer::new(401, "who are you?"),
    })
    .await;
    let audit = AUDIT.replace("}", ", leaks: false }");
    let larder = larder(&app).yaml(&format!("{audit}{ME}")).start().await;
    larder.get_with("/me", &[("Cookie", "alice")]).await;
    larder.get_with("/me", &[("Cookie", "bob")]).await;
    larder.is_quarantined("me", true).await;
    let seen = app.seen("/me");
    let asked: Vec<_> = seen.iter().map(|seen| seen.header("cookie")).collect();
    // The first is Alice's own request; the audit sent nobody's cookie.
    assert_eq!(asked, [Some("alice"), None, None, None, None]);
}

#[tokio::test]
async fn all_sidecars_shut_and_open_a_route_together() {
    let (app, redis) = (greeter().await, RedisServer::start().await);
    let yaml = format!("{AUDIT}{ME}");
    let one = larder(&app).redis(&redis).yaml(&yaml).start().await;
    let other = larder(&app).redis(&redis).yaml(&yaml).start().await;
    for sidecar in [&one, &other] {
        sidecar.redis_is(true).await;
    }
    one.get_with("/me", &[("Cookie", "alice")]).await;
    one.get_with("/me", &[("Cookie", "bob")]).await;
    one.is_quarantined("me", true).await;
    other.is_quarantined("me", true).await;
    assert_eq!(
        other.get_with("/me", &[("Cookie", "carol")]).await.text(),
        "hello carol"
    );
    // One that comes later finds it shut; one with another configuration of the route does not.
    let later = larder(&app).redis(&redis).yaml(&yaml).start().await;
    later.is_quarantined("me", true).await;
    app.now_says(|_| Answer::public("hello"));
    assert_eq!(other.release("me").await.status, 200);
    for sidecar in [&one, &later] {
        sidecar.is_quarantined("me", false).await;
    }
    one.get("/me").await;
    assert_eq!(one.get("/me").await.cache(), "HIT");
}

#[tokio::test]
async fn another_configuration_of_the_route_opens_it() {
    let app = greeter().await;
    let larder = larder(&app).yaml(&format!("{AUDIT}{ME}")).start().await;
    larder.get_with("/me", &[("Cookie", "alice")]).await;
    larder.get_with("/me", &[("Cookie", "bob")]).await;
    larder.is_quarantined("me", true).await;
    larder.configure("ttl: 10m,", "ttl: 10m, key: { headers: [Cookie] },");
    larder.is_quarantined("me", false).await;
    for name in ["alice", "bob"] {
        for cache in ["MISS", "HIT"] {
            let answer = larder.get_with("/me", &[("Cookie", name)]).await;
            assert_eq!(
                (answer.text(), answer.cache()),
                (format!("hello {name}"), cache.into())
            );
        }
    }
    larder.audited("me", 3).await;
    assert!(larder.quarantined().await.is_empty());
}

#[tokio::test]
async fn what_differs_each_time_is_neither_stale_nor_a_leak_and_can_be_left_out() {
    let nonce = Arc::new(AtomicU32::new(0));
    let app = App::says(move |_| {
        let nonce = nonce.fetch_add(1, Ordering::SeqCst);
        Answer::public(format!("{{\"cars\": 3, \"nonce\": {nonce}}}"))
    })
    .await;
    let plain = larder(&app).yaml(&format!("{AUDIT}{ME}")).start().await;
    let audit = AUDIT.replace("}", ", ignore: [nonce] }");
    let ignoring = larder(&app).yaml(&format!("{audit}{ME}")).start().await;
    for (larder, word) in [(&plain, "unstable"), (&ignoring, "same")] {
        larder.get("/me").await;
        larder.get("/me").await;
        larder.get_with("/me", &[("Cookie", "bob")]).await;
        let found = larder.audited("me", 2).await;
        assert_eq!(found[word], 2, "{found}");
        assert!(larder.quarantined().await.is_empty());
    }
}

#[tokio::test]
async fn what_is_found_stale_is_let_go_where_that_is_wanted() {
    let app = App::says(|_| Answer::ok("old")).await;
    let audit = AUDIT.replace("}", ", drop_stale: true }");
    let larder = larder(&app).yaml(&format!("{audit}{ME}")).start().await;
    larder.get("/me").await;
    app.now_says(|_| Answer::ok("new"));
    assert_eq!(larder.get("/me").await.text(), "old");
    eventually("the next visitor sees the new page", async || {
        (larder.get("/me").await.text() == "new").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_audit_costs_the_app_no_more_than_its_budget() {
    let app = App::says(|_| Answer::ok("page")).await;
    let audit = "audit: { sample: 100%, rate: 5/day }\n";
    let larder = larder(&app).yaml(&format!("{audit}{ME}")).start().await;
    for _ in 0..40 {
        larder.get("/me").await;
    }
    let found = eventually("all are made or skipped", async || {
        let found = larder.audits("me").await;
        let sum = found["audited"].as_u64()? + found["skipped"].as_u64()?;
        (sum == 39).then_some(found)
    })
    .await;
    assert!(found["audited"].as_u64() <= Some(5), "{found}");
    assert!(app.count("/me") <= 6);
}

#[tokio::test]
async fn a_share_of_hits_finds_what_all_of_them_would() {
    let app = App::says(|_| Answer::ok("old")).await;
    let audit = "audit: { sample: 10%, rate: 100000/s }\n";
    let larder = larder(&app).yaml(&format!("{audit}{ME}")).start().await;
    larder.get("/me").await;
    app.now_says(|_| Answer::ok("new"));
    let client = larder.client();
    // Nobody finds it in 400 hits with a chance of 0.9^400, less than 10^-18.
    for _ in 0..400 {
        client.get("/me").await;
    }
    let found = eventually("some were drawn", async || {
        let found = larder.audits("me").await;
        (found["stale"].as_u64() > Some(0)).then_some(found)
    })
    .await;
    let drawn = found["audited"].as_u64().unwrap() + found["skipped"].as_u64().unwrap();
    // Seven standard deviations (6) above the 40 that are expected.
    assert!(drawn <= 82, "{found}");
}

#[tokio::test]
async fn hits_from_redis_are_audited_as_well() {
    let (app, redis) = (greeter().await, RedisServer::start().await);
    let larder = larder(&app)
        .redis(&redis)
        .yaml(&format!("{AUDIT}{ME}cache: {{ memory: 0B }}"))
        .start()
        .await;
    larder.redis_is(true).await;
    let cookie = |name: &'static str| [("Cookie", name)];
    larder.get_with("/me", &cookie("alice")).await;
    eventually("it is in Redis", async || {
        (larder.get_with("/me", &cookie("alice")).await.cache() == "HIT").then_some(())
    })
    .await;
    let found = larder.audited("me", 1).await;
    assert_eq!(found["same"], 1, "{found}");
    larder.get_with("/me", &cookie("bob")).await;
    larder.is_quarantined("me", true).await;
}

#[tokio::test]
async fn an_alarm_is_told_again_where_it_was_not_heard() {
    let app = greeter().await;
    let tries = Arc::new(AtomicU32::new(0));
    let hook = App::says(move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::new(503, ""),
        _ => Answer::new(200, ""),
    })
    .await;
    let alone = "audit: { sample: 100%, rate: 1000/s, quarantine: false }\n";
    let larder = larder(&app)
        .yaml(&format!(
            "{alone}{ME}alerts: {{ webhook: \"{}/hook?key=hush\" }}",
            hook.url()
        ))
        .start()
        .await;
    larder.get_with("/me", &[("Cookie", "alice")]).await;
    for _ in 0..3 {
        larder.get_with("/me", &[("Cookie", "bob")]).await;
    }
    eventually("it is told twice", async || {
        (hook.count("/hook") == 2).then_some(())
    })
    .await;
    // The alarm alone: the route goes on, and the alarm is raised once.
    assert!(larder.quarantined().await.is_empty());
    assert_eq!(
        larder.get_with("/me", &[("Cookie", "bob")]).await.cache(),
        "HIT"
    );
    assert!(!larder.log().contains("hush"));
    assert_eq!(hook.count("/hook"), 2);
}

#[tokio::test]
async fn a_field_that_calls_itself_a_user_tells_people_apart() {
    let app = App::says(|seen| {
        let name = seen.header("x-user-id").unwrap_or("stranger").to_owned();
        Answer::public(format!("hello {name}"))
    })
    .await;
    let larder = larder(&app).yaml(&format!("{AUDIT}{ME}")).start().await;
    larder.get_with("/me", &[("X-User-Id", "alice")]).await;
    larder.get_with("/me", &[("X-User-Id", "bob")]).await;
    larder.is_quarantined("me", true).await;
}

#[tokio::test]
async fn who_stops_looking_does_not_open_what_leaks() {
    let app = greeter().await;
    let larder = larder(&app).yaml(&format!("{AUDIT}{ME}")).start().await;
    larder.get_with("/me", &[("Cookie", "alice")]).await;
    larder.get_with("/me", &[("Cookie", "bob")]).await;
    larder.is_quarantined("me", true).await;
    larder.configure(AUDIT, "");
    eventually("the other configuration is in force", async || {
        let told = larder.admin().get("/v1/audit").await.json();
        (told["configured"] == false).then_some(())
    })
    .await;
    larder.is_quarantined("me", true).await;
    let answer = larder.get_with("/me", &[("Cookie", "carol")]).await;
    assert_eq!(
        (answer.text(), answer.cache()),
        ("hello carol".into(), "BYPASS".into())
    );
    assert_eq!(larder.release("me").await.status, 200);
    larder.is_quarantined("me", false).await;
}

#[tokio::test]
async fn a_redirect_that_leads_elsewhere_by_now_is_stale() {
    let to = |to| Answer::new(301, "").header("Location", to);
    let app = App::says(move |_| to("/here")).await;
    let larder = larder(&app).yaml(&format!("{AUDIT}{ME}")).start().await;
    larder.get("/me").await;
    larder.get("/me").await;
    assert_eq!(larder.audited("me", 1).await["same"], 1);
    app.now_says(move |_| to("/there"));
    larder.get("/me").await;
    assert_eq!(larder.audited("me", 2).await["stale"], 1);
}

#[tokio::test]
async fn one_page_for_all_who_may_see_any_is_stale_and_no_leak() {
    let page = Arc::new(AtomicU32::new(1));
    let app = {
        let page = page.clone();
        App::says(move |seen| match seen.header("cookie") {
            Some(_) => Answer::public(format!("prices {}", page.load(Ordering::SeqCst))),
            None => Answer::new(401, "who are you?"),
        })
        .await
    };
    let larder = larder(&app).yaml(&format!("{AUDIT}{ME}")).start().await;
    for name in ["alice", "alice", "bob"] {
        larder.get_with("/me", &[("Cookie", name)]).await;
    }
    larder.audited("me", 2).await;
    page.store(2, Ordering::SeqCst);
    larder.get_with("/me", &[("Cookie", "carol")]).await;
    let found = larder.audited("me", 3).await;
    assert_eq!(
        (&found["same"], &found["stale"], &found["leak"]),
        (&json!(2), &json!(1), &json!(0))
    );
    assert!(larder.quarantined().await.is_empty());
}
