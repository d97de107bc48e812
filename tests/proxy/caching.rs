//! What is stored, under which key, for how long, and what never is.

use crate::support::*;
use std::collections::HashSet;
use std::time::Duration;

const EXACT: &str = "defaults: { ttl_jitter: 0%, stale_while_revalidate: 0s, stale_if_error: 0s }";

#[tokio::test]
async fn a_hundred_simultaneous_misses_reach_the_app_once() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::public("shared").behind(&held)).await;
    let larder = larder(&app).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = larder.client();
        clients.spawn(async move { client.get("/one").await });
    }
    eventually("the app is asked", async || {
        (app.count("/one") > 0).then_some(())
    })
    .await;
    gate.open();
    let mut bodies = HashSet::new();
    while let Some(answer) = clients.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200);
        bodies.insert(answer.text());
    }
    assert_eq!(app.count("/one"), 1);
    assert_eq!(bodies, HashSet::from(["shared".to_owned()]));
}

#[tokio::test]
async fn what_turns_out_private_is_never_shared_with_those_who_waited() {
    let gate = Gate::closed();
    let (held, number) = (gate.clone(), std::sync::atomic::AtomicUsize::new(0));
    let app = App::says(move |_| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Answer::ok(format!("for {number}"))
            .header("Set-Cookie", &format!("id={number}"))
            .header("Cache-Control", "max-age=60")
            .behind(&held)
    })
    .await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /*, ttl: 1m, override: true }]")
        .start()
        .await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = larder.client();
        clients.spawn(async move { client.get("/mine").await });
    }
    eventually("the app is asked", async || {
        (app.count("/mine") > 0).then_some(())
    })
    .await;
    gate.open();
    let mut seen = HashSet::new();
    while let Some(answer) = clients.join_next().await {
        let answer = answer.unwrap();
        assert!(
            seen.insert(answer.text()),
            "{} was given twice",
            answer.text()
        );
        assert!(seen.contains(&answer.header("set-cookie").replace("id=", "for ")));
    }
    assert_eq!(app.count("/mine"), 20);
}

#[tokio::test]
async fn a_route_with_a_ttl_hits_until_it_expires() {
    let app = App::says(|_| Answer::ok("car").header("ETag", "\"1\"")).await;
    let larder = larder(&app)
        .yaml(EXACT)
        .yaml("routes: [{ name: car, path: \"/api/cars/{id}\", ttl: 10m }]")
        .manual_clock()
        .start()
        .await;
    let first = larder.get("/api/cars/42").await;
    assert_eq!(first.cache(), "MISS");
    assert!(
        first
            .header("cache-status")
            .contains("larder; fwd=uri-miss"),
        "{:?}",
        first.headers
    );
    assert!(
        first.header("cache-status").contains("stored"),
        "{:?}",
        first.headers
    );
    larder.advance("9m").await;
    let second = larder.get("/api/cars/42").await;
    assert_eq!(
        (second.cache().as_str(), second.text().as_str()),
        ("HIT", "car")
    );
    assert!(
        second.header("cache-status").contains("larder; hit"),
        "{:?}",
        second.headers
    );
    assert_eq!(second.header("age"), "540");
    assert_eq!(second.header("x-cache-ttl"), "60");
    assert!(second.has("x-response-time"));
    larder.advance("2m").await;
    assert_ne!(larder.get("/api/cars/42").await.cache(), "HIT");
    assert_eq!(app.count("/api/cars/42"), 2);
}

#[tokio::test]
async fn the_app_wins_over_a_ttl_and_override_wins_over_the_app() {
    let app = App::says(|_| Answer::ok("x").header("Cache-Control", "no-store")).await;
    let larder = larder(&app)
        .yaml(
            "routes:\n  - { path: /polite, ttl: 5m }\n  - { path: /firm, ttl: 5m, override: true }",
        )
        .start()
        .await;
    for _ in 0..2 {
        larder.get("/polite").await;
        larder.get("/firm").await;
    }
    assert_eq!((app.count("/polite"), app.count("/firm")), (2, 1));
}

#[tokio::test]
async fn a_page_asked_for_as_a_static_file_is_not_stored_on_the_routes_word() {
    let app = App::says(|seen| match seen.path() {
        "/a.css" => Answer::new(200, "a {}").header("Content-Type", "text/css; charset=utf-8"),
        "/said.css" => Answer::new(200, "<p>")
            .header("Content-Type", "text/html")
            .header("Cache-Control", "public, max-age=60"),
        _ => Answer::new(200, "<p>").header("Content-Type", "text/html"),
    })
    .await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /*, ttl: 5m, override: true }]")
        .start()
        .await;
    for (path, asked) in [
        ("/account", 1),
        ("/account/x.css", 2),
        ("/account/x.%63ss", 2),
        ("/account/x.woff2", 2),
        ("/a.css", 1),
        ("/said.css", 1),
    ] {
        larder.get(path).await;
        let second = larder.get(path).await;
        assert_eq!(app.count(path), asked, "{path}");
        if asked > 1 {
            let status = second.header("cache-status");
            assert!(status.contains("detail=content-type"), "{status}");
        }
    }
}

#[tokio::test]
async fn without_routes_the_apps_own_headers_decide() {
    let app = App::says(|seen| match seen.path() {
        "/public" => Answer::public("x"),
        "/s-maxage" => Answer::ok("x").header("Cache-Control", "s-maxage=60, max-age=0"),
        "/silent" => Answer::ok("x"),
        "/stale" => Answer::ok("x").header("Cache-Control", "max-age=0"),
        _ => Answer::new(404, ""),
    })
    .await;
    let larder = larder(&app).start().await;
    for path in ["/public", "/s-maxage", "/silent", "/stale"] {
        larder.get(path).await;
        larder.get(path).await;
    }
    let counts = ["/public", "/s-maxage", "/silent", "/stale"].map(|path| app.count(path));
    assert_eq!(counts, [1, 1, 2, 2]);
}

#[tokio::test]
async fn nothing_that_is_one_persons_is_ever_stored() {
    let app = App::says(|seen| match seen.path() {
        "/private" => Answer::ok("x").header("Cache-Control", "private, max-age=60"),
        "/no-store" => Answer::ok("x").header("Cache-Control", "no-store, max-age=60"),
        "/cookie" => Answer::public("x").header("Set-Cookie", "a=1"),
        "/star" => Answer::public("x").header("Vary", "*"),
        _ => Answer::ok("x").header("Cache-Control", "max-age=60"),
    })
    .await;
    let redis = RedisServer::start().await;
    let larder = larder(&app).redis(&redis).start().await;
    let bearer = [("Authorization", "Bearer abc")];
    for path in ["/private", "/no-store", "/cookie", "/star", "/authorized"] {
        for _ in 0..2 {
            let headers: &[_] = if path == "/authorized" { &bearer } else { &[] };
            let answer = larder.get_with(path, headers).await;
            assert_ne!(answer.cache(), "HIT", "{path}");
        }
        assert_eq!(app.count(path), 2, "{path}");
    }
    let stranger = larder.get("/authorized").await;
    assert_ne!(stranger.cache(), "HIT");
    // POST answers are not stored either, whatever they say.
    larder.client().post("/posted", &[], "x").await;
    assert_ne!(larder.get("/posted").await.cache(), "HIT");
}

#[tokio::test]
async fn the_key_takes_the_named_query_parameters_and_drops_the_ignored_ones() {
    let app = App::says(|seen| Answer::ok(seen.target.clone())).await;
    let larder = larder(&app)
        .yaml("cache: { ignore_query: [utm_*] }")
        .yaml("routes:\n  - { path: /fleet, ttl: 1m, key: { query: [page, sort] } }\n  - { path: /all, ttl: 1m }")
        .start()
        .await;
    larder.get("/fleet?page=1&sort=a").await;
    assert_eq!(
        larder.get("/fleet?sort=a&page=1&debug=9").await.cache(),
        "HIT"
    );
    assert_eq!(larder.get("/fleet?page=2&sort=a").await.cache(), "MISS");
    larder.get("/all?b=2&a=1").await;
    assert_eq!(
        larder.get("/all?a=1&b=2&utm_source=ad").await.cache(),
        "HIT"
    );
    larder.get("/all?utm_source=poison").await;
    assert!(
        !app.last("/all").target.contains("poison"),
        "an ignored parameter reached a fetch that is stored"
    );
}

#[tokio::test]
async fn an_entry_per_token_is_nobody_elses() {
    let app = App::says(|seen| {
        Answer::ok(seen.header("authorization").unwrap_or("nobody").to_owned())
            .header("Cache-Control", "private")
    })
    .await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /me, ttl: 5m, key: { per: token } }]")
        .start()
        .await;
    for (token, cache) in [
        ("Bearer a", "MISS"),
        ("Bearer b", "MISS"),
        ("Bearer a", "HIT"),
        ("Bearer b", "HIT"),
    ] {
        let answer = larder.get_with("/me", &[("Authorization", token)]).await;
        assert_eq!(
            (answer.cache().as_str(), answer.text().as_str()),
            (cache, token)
        );
    }
}

#[tokio::test]
async fn no_store_routes_are_never_stored_and_say_so() {
    let app = App::says(|_| Answer::public("stats")).await;
    let larder = larder(&app)
        .yaml("routes: [{ name: admin, path: /api/admin/*, no_store: true }]")
        .start()
        .await;
    for _ in 0..2 {
        let answer = larder.get("/api/admin/stats").await;
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.cache(), "BYPASS");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    assert_eq!(app.count("/api/admin/stats"), 2);
}

#[tokio::test]
async fn variants_are_kept_apart_by_vary() {
    let app = App::says(|seen| {
        let language = seen.header("accept-language").unwrap_or("none").to_owned();
        Answer::public(language).header("Vary", "Accept-Language")
    })
    .await;
    let larder = larder(&app).start().await;
    for (language, cache) in [("de", "MISS"), ("en", "MISS"), ("de", "HIT"), ("en", "HIT")] {
        let answer = larder.get_with("/", &[("Accept-Language", language)]).await;
        assert_eq!(
            (answer.text().as_str(), answer.cache().as_str()),
            (language, cache)
        );
        assert_eq!(
            answer.header("vary").to_ascii_lowercase(),
            "accept-language"
        );
    }
}

#[tokio::test]
async fn another_larder_finds_in_redis_what_the_first_one_stored() {
    let app = App::says(|_| Answer::public("x".repeat(5000)).header("X-Kept", "yes")).await;
    let redis = RedisServer::start().await;
    let first = larder(&app).redis(&redis).start().await;
    let second = larder(&app).redis(&redis).start().await;
    first.redis_is(true).await;
    second.redis_is(true).await;
    first.get("/shared").await;
    // The write goes on behind the answer.
    let found = eventually("the second larder hits", async || {
        let answer = second.get("/shared").await;
        (answer.cache() == "HIT").then_some(answer)
    })
    .await;
    assert_eq!(
        (found.body.len(), found.header("x-kept")),
        (5000, "yes".into())
    );
    assert!(found.header("cache-status").contains("hit"));
    for key in redis.keys().await {
        let ttl: i64 = redis.cli(&["TTL", &key]).await.parse().unwrap();
        assert!(ttl > 0, "{key} never expires");
    }
}

#[tokio::test]
async fn a_foreign_or_damaged_entry_in_redis_is_a_miss() {
    let app = App::says(|_| Answer::public("right")).await;
    let redis = RedisServer::start().await;
    let yaml = "cache: { memory: 0B }";
    let larder = larder(&app).redis(&redis).yaml(yaml).start().await;
    larder.redis_is(true).await;
    larder.get("/x").await;
    eventually("it is stored", async || {
        (larder.get("/x").await.cache() == "HIT").then_some(())
    })
    .await;
    for key in redis.keys().await {
        if redis.cli(&["TYPE", &key]).await == "string" {
            redis.cli(&["SETRANGE", &key, "20", "damaged!"]).await;
        }
    }
    for _ in 0..3 {
        assert_eq!(larder.get("/x").await.text(), "right");
    }
}

#[tokio::test]
async fn errors_of_the_app_are_passed_on_and_not_stored() {
    let app = App::says(|seen| match seen.path() {
        "/500" => Answer::new(500, "oops").header("Cache-Control", "max-age=60"),
        _ => Answer::new(404, "gone").header("Cache-Control", "max-age=60"),
    })
    .await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /500, ttl: 1m, override: true }]")
        .start()
        .await;
    for _ in 0..2 {
        assert_eq!(larder.get("/500").await.status, 500);
        assert_eq!(larder.get("/404").await.text(), "gone");
    }
    assert_eq!((app.count("/500"), app.count("/404")), (2, 1));
}

#[tokio::test]
async fn a_stale_entry_is_validated_and_a_304_renews_it() {
    let app = App::says(|seen| {
        if seen.header("if-none-match") == Some("\"1\"") {
            Answer::new(304, "")
                .header("ETag", "\"1\"")
                .header("Cache-Control", "max-age=60")
        } else {
            Answer::public("body").header("ETag", "\"1\"")
        }
    })
    .await;
    let larder = larder(&app).yaml(EXACT).manual_clock().start().await;
    larder.get("/").await;
    larder.advance("61s").await;
    let renewed = larder.get("/").await;
    assert_eq!((renewed.status, renewed.text().as_str()), (200, "body"));
    assert_eq!(renewed.cache(), "REVALIDATED");
    assert_eq!(larder.get("/").await.cache(), "HIT");
    let conditional = larder.get_with("/", &[("If-None-Match", "\"1\"")]).await;
    assert_eq!((conditional.status, conditional.body.len()), (304, 0));
    assert_eq!(app.count("/"), 2);
}

#[tokio::test]
async fn lifetimes_are_spread_so_that_entries_do_not_expire_together() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app)
        .yaml("defaults: { ttl_jitter: 20% }\nroutes: [{ path: /*, ttl: 1000s }]")
        .manual_clock()
        .start()
        .await;
    let client = larder.client();
    let mut lifetimes = HashSet::new();
    for n in 0..40 {
        client.get(&format!("/{n}")).await;
        let ttl: u64 = client
            .get(&format!("/{n}"))
            .await
            .header("x-cache-ttl")
            .parse()
            .unwrap();
        assert!((800..=1200).contains(&ttl), "{ttl}");
        lifetimes.insert(ttl);
    }
    assert!(lifetimes.len() > 10, "{lifetimes:?}");
}

#[tokio::test]
async fn a_body_above_the_bound_streams_through_and_is_not_stored() {
    let app = App::says(|_| Answer::public("x".repeat(300_000))).await;
    let larder = larder(&app)
        .yaml("cache: { max_body: 64KiB }")
        .start()
        .await;
    for _ in 0..2 {
        assert_eq!(larder.get("/big").await.body.len(), 300_000);
    }
    assert_eq!(app.count("/big"), 2);
}

#[tokio::test]
async fn a_hit_needs_neither_app_nor_redis() {
    let app = App::says(|_| Answer::public("kept")).await;
    let larder = larder(&app).start().await;
    larder.get("/").await;
    app.down().await;
    let started = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(larder.get("/").await.text(), "kept");
    }
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_304_that_nobody_asked_for_is_no_answer_and_is_told() {
    let app = App::says(|_| Answer::new(304, "").header("ETag", "\"v\"")).await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /a, ttl: 5m }]")
        .start()
        .await;
    assert_eq!(larder.get("/a").await.status, 502);
    larder.says("unasked-304").await;
}

#[tokio::test]
async fn a_304_about_something_else_is_asked_about_once_more_and_then_no_answer() {
    let app = App::says(|_| Answer::ok("x").header("ETag", "\"v\"")).await;
    let larder = larder(&app)
        .manual_clock()
        .yaml("routes: [{ path: /a, ttl: 5s, stale_while_revalidate: 0s, stale_if_error: 0s }]")
        .start()
        .await;
    assert_eq!(larder.get("/a").await.cache(), "MISS");
    larder.advance("10s").await;
    app.now_says(|_| Answer::new(304, "").header("ETag", "\"other\""));
    // RFC 9111 §4.2.4: what is stored may not be used unconfirmed, and nobody confirms it.
    assert_eq!(larder.get("/a").await.status, 504);
    larder.says("unasked-304").await;
    assert_eq!(app.count("/a"), 3, "with our validators, and without");
    assert!(app.last("/a").header("if-none-match").is_none());
}
