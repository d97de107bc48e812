//! Which queries an answer is for beside its own, as the app says it (draft-ietf-httpbis-no-vary-search-10).

use super::*;
use serde_json::json;

const FRESH: &str = "cache-control: max-age=3600";
const NO_X: &str = "no-vary-search: params=(\"x\")";
const NO_Y: &str = "no-vary-search: params=(\"y\")";

fn fresh(stated: &str) -> String {
    format!("{FRESH}\n{stated}")
}

/// Whether the answer to `path?one`, which states this, is used for `path?other`.
async fn shares(scene: &Scene, stated: &str, one: &str, other: &str) -> bool {
    let (path, says) = (scene.path(), fresh(&format!("no-vary-search: {stated}")));
    let first = scene.get(&format!("{path}{one}"), &says).await;
    let second = scene.get(&format!("{path}{other}"), &says).await;
    let shared = scene.app.count(&path) == 1;
    assert_eq!(first.body == second.body, shared, "{stated} {one} {other}");
    shared
}

#[tokio::test]
async fn what_does_not_count_is_not_compared_draft_6() {
    let scene = Scene::begins().await;
    for (stated, one, other, shared) in [
        ("params=(\"x\")", "?a=1&x=1", "?a=1&x=2", true),
        ("params=(\"x\")", "?a=1&x=1", "?x=2&a=1", true),
        ("params=(\"x\")", "?a=1&x=1", "?a=1", true),
        ("params=(\"x\")", "?x=1", "", true),
        ("params=(\"x\")", "?a=1&x=1", "?a=2&x=1", false),
        ("params=(\"x\")", "?a=1", "?a=1&y=1", false),
        ("params=(\"x\")", "?a=1&a=2", "?a=2&a=1", false),
        ("params=(\"x\" \"y\")", "?a=1&x=1", "?y=1&a=1", true),
        (
            "params=(\"%C3%A9+z\")",
            "?%C3%A9+z=1",
            "?%c3%a9%20z=2",
            true,
        ),
        ("except=(\"a\")", "?a=1&x=1&y=2", "?z=4&a=1", true),
        ("except=(\"a\")", "?a=1", "?a=2", false),
        ("except=()", "?a=1", "?b=2", true),
        ("key-order", "?a=1&b=2", "?b=2&a=1", true),
        ("key-order", "?a=+", "?a=%20", true),
        ("key-order", "?a", "?a=&&", true),
        ("key-order", "?a=1", "?a=1&b", false),
        (
            "key-order, except=(\"a\" \"b\")",
            "?a=1&b=2",
            "?b=2&c&a=1",
            true,
        ),
        ("params=(\"x\");v=1, later=(1 2)", "?x=1", "?x=2", true),
    ] {
        assert_eq!(
            shares(&scene, stated, one, other).await,
            shared,
            "{stated}: {one} {other}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_read_states_nothing_draft_5_1() {
    let scene = Scene::begins().await;
    for stated in [
        "params",
        "params=?1",
        "params=()",
        "params=\"x\"",
        "params=(x)",
        "params=(\"x\" 1)",
        "params=(\"x\"), except=(\"a\")",
        "params=(\"x\"), key-order=1",
        "except=\"a\"",
        "except",
        "key-order=?0",
        "key-order=(\"x\")",
        "no dictionary at all",
        "params=(\"x\"",
    ] {
        assert!(
            !shares(&scene, stated, "?a=1&x=1", "?a=1&x=2").await,
            "{stated}"
        );
        // The exact URL is its own answer as ever.
        assert!(
            shares(&scene, stated, "?a=1&x=1", "?a=1&x=1").await,
            "{stated}"
        );
        assert!(!shares(&scene, stated, "?a=+", "?a=%20").await, "{stated}");
    }
}

#[tokio::test]
async fn the_app_gets_every_byte_of_the_query_it_does_not_look_at() {
    let scene = Scene::begins().await;
    let path = scene.path();
    scene.get(&format!("{path}?x=1&a=1"), &fresh(NO_X)).await;
    scene
        .get(&format!("{path}?x=%7e+2&&a=2"), &fresh(NO_X))
        .await;
    assert_eq!(scene.app.last(&path).target, format!("{path}?x=%7e+2&&a=2"));
}

#[tokio::test]
async fn bounds_fall_back_to_the_exact_query() {
    let listed = |count: usize| {
        let names: Vec<_> = (0..count).map(|n| format!("\"{n:03}\"")).collect();
        format!("params=(\"x\" {})", names.join(" "))
    };
    let long = format!("params=(\"x\" \"{}\")", "y".repeat(64 * 1024));
    for (stated, shared) in [
        (listed(200), true),
        (listed(10_000), false),
        (listed(300), false),
        (long, false),
    ] {
        let length = stated.len();
        let app = App::says(move |_| Answer::public("x").header("No-Vary-Search", &stated)).await;
        let larder = larder(&app).start().await;
        for query in ["x=1", "x=2", "x=1", "x=2"] {
            assert_eq!(larder.get(&format!("/a?{query}")).await.status, 200);
        }
        assert_eq!(app.count("/a") == 1, shared, "{length} bytes");
    }
    let scene = Scene::begins().await;
    // A query of more parameters than any honest one is the app's, whatever counts of it.
    let path = scene.path();
    let says = fresh("no-vary-search: except=(\"a\")");
    let many = |count: usize| format!("{path}?a=1{}", "&b".repeat(count));
    for (count, asked) in [(1, 1), (200, 1), (300, 2), (300, 3)] {
        assert_eq!(scene.get(&many(count), &says).await.status, 200);
        assert_eq!(scene.app.count(&path), asked, "{count}");
    }
    assert_eq!(scene.get(&many(10_000), &says).await.status, 414);
}

#[tokio::test]
async fn a_rule_that_changes_is_the_new_one_from_then_on() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let url = |query: &str| format!("{path}?{query}");
    scene.get(&url("x=1&y=1"), &fresh(NO_X)).await;
    scene.get(&url("x=2&y=1"), "").await;
    assert_eq!(scene.app.count(&path), 1);
    // Another resource of the path says it otherwise: by the rule in force, x counts.
    scene.get(&url("x=1&y=2"), &fresh(NO_Y)).await;
    scene.get(&url("x=1&y=3"), "").await;
    assert_eq!(scene.app.count(&path), 2);
    scene.get(&url("x=2&y=1"), &fresh(NO_Y)).await;
    assert_eq!(
        scene.app.count(&path),
        3,
        "y counted, x did not, and that is over"
    );
    scene.get(&url("x=2&y=4"), "").await;
    assert_eq!(scene.app.count(&path), 3);
}

#[tokio::test]
async fn a_rule_that_is_dropped_is_over() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let url = |query: &str| format!("{path}?{query}");
    scene.get(&url("x=1"), &fresh(NO_X)).await;
    scene.get(&url("a=1"), FRESH).await;
    for query in ["x=1", "x=2"] {
        scene.get(&url(query), FRESH).await;
        scene.get(&url(query), FRESH).await;
    }
    assert_eq!(scene.app.count(&path), 4, "each query is fetched once");
    // What is not stored states nothing, for better or worse.
    scene.get(&url("z=1&x=1"), &fresh(NO_X)).await;
    scene.get(&url("z=2"), "cache-control: no-store").await;
    scene.get(&url("z=1&x=2"), "").await;
    assert_eq!(scene.app.count(&path), 6);
}

#[tokio::test]
async fn a_304_may_change_the_rule_rfc9111_3_2() {
    let scene = Scene::begins().await;
    let etag = "cache-control: max-age=60\netag: \"a\"\nbody: old";
    let confirms = |stated: &str| format!("status: 304\n{FRESH}\netag: \"a\"\n{stated}");
    // Of the same URL: what is stored lies under the new rule, and only there.
    let path = scene.path();
    let url = |query: &str| format!("{path}?{query}");
    scene.get(&url("x=1&y=1"), &format!("{etag}\n{NO_X}")).await;
    scene.advance("61s").await;
    let answer = scene.get(&url("x=1&y=1"), &confirms(NO_Y)).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"old"[..]));
    let answer = scene.get(&url("x=1&y=2"), "").await;
    assert!(answer.header("cache-status").contains("; hit"));
    assert_eq!(scene.app.count(&path), 2);
    let answer = scene.get(&url("x=2&y=1"), &fresh("body: new")).await;
    assert_eq!(&answer.body[..], b"new");
    // Of another URL, which is no longer the same: its validator says nothing of this one.
    let path = scene.path();
    let url = |query: &str| format!("{path}?{query}");
    scene.get(&url("x=1"), &format!("{etag}\n{NO_X}")).await;
    scene.advance("61s").await;
    let answer = scene.get(&url("x=2"), &confirms(NO_Y)).await;
    assert_eq!(
        answer.status, 504,
        "asked without conditions, it says 304 again"
    );
    assert_eq!(scene.app.count(&path), 3);
    assert!(scene.app.last(&path).header("if-none-match").is_none());
    // One that states nothing leaves what was stated.
    let path = scene.path();
    let url = |query: &str| format!("{path}?{query}");
    scene.get(&url("x=1"), &format!("{etag}\n{NO_X}")).await;
    scene.advance("61s").await;
    scene.get(&url("x=2"), &confirms("")).await;
    let answer = scene.get(&url("x=3"), "").await;
    assert!(answer.header("cache-status").contains("; hit"));
    assert_eq!(scene.app.count(&path), 2);
}

#[tokio::test]
async fn a_head_may_change_the_rule_rfc9111_4_3_5() {
    let scene = Scene::begins().await;
    let etag = "cache-control: max-age=60\netag: \"a\"\nbody: 0123";
    for (stated, fetched) in [(NO_Y, true), (NO_X, false), ("", false)] {
        let path = scene.path();
        let url = |query: &str| format!("{path}?{query}");
        scene.get(&url("x=1"), &format!("{etag}\n{NO_X}")).await;
        scene.advance("61s").await;
        let says = format!("{FRESH}\netag: \"a\"\nbody: 0123\n{stated}");
        scene.ask("HEAD", &url("x=1"), "", &says).await;
        let before = scene.app.count(&path);
        scene.get(&url("x=2"), &fresh(NO_Y)).await;
        assert_eq!(scene.app.count(&path) > before, fetched, "{stated}");
    }
}

#[tokio::test]
async fn what_a_head_spoils_does_not_come_back_with_the_rule_rfc9111_4_3_5() {
    let scene = Scene::begins().await;
    let etag = "cache-control: max-age=60\netag: \"a\"\nbody: 0123";
    let path = scene.path();
    let url = |query: &str| format!("{path}?{query}");
    scene.get(&url("x=1"), &format!("{etag}\n{NO_X}")).await;
    scene.advance("61s").await;
    let says = format!("{FRESH}\netag: \"a\"\nbody: 0123\n{NO_Y}");
    scene.ask("HEAD", &url("x=1"), "", &says).await;
    scene.get(&url("a=1"), &fresh(NO_X)).await;
    let before = scene.app.count(&path);
    scene.get(&url("x=2"), &fresh(NO_X)).await;
    assert_eq!(scene.app.count(&path), before + 1);
    // One that is about nothing stored still tells the rule in force.
    scene.get(&url("x=3"), "").await;
    assert_eq!(scene.app.count(&path), before + 1);
    scene.ask("HEAD", &url("b=1"), "", &fresh(NO_Y)).await;
    scene.get(&url("x=3"), &fresh(NO_Y)).await;
    assert_eq!(scene.app.count(&path), before + 3);
}

#[tokio::test]
async fn a_change_of_one_query_ends_what_is_stored_for_many_rfc9111_4_4() {
    let scene = Scene::begins().await;
    for query in ["?a=1&x=9", "?a=1", "?x=1&a=1", "?a=2", ""] {
        let path = scene.path();
        let (one, other) = (format!("{path}?a=1&x=1"), format!("{path}?a=1&x=2"));
        scene.get(&one, &fresh(NO_X)).await;
        scene.get(&other, &fresh(NO_X)).await;
        assert_eq!(scene.app.count(&path), 1);
        let changed = format!("{path}{query}");
        scene.ask("POST", &changed, "", "status: 204").await;
        scene.get(&other, &fresh(NO_X)).await;
        assert_eq!(scene.app.count(&path), 3, "POST {query}");
        // And by way of another path.
        let location = format!("status: 201\nlocation: {changed}");
        scene.ask("POST", &scene.path(), "", &location).await;
        scene.get(&one, &fresh(NO_X)).await;
        assert_eq!(scene.app.count(&path), 4, "Location {query}");
    }
    let path = scene.path();
    scene.get(&format!("{path}?x=1"), &fresh(NO_X)).await;
    scene.ask("POST", &format!("{path}/b?x=1"), "", "").await;
    scene.get(&format!("{path}?x=2"), &fresh(NO_X)).await;
    assert_eq!(
        scene.app.count(&path),
        1,
        "another path is another resource"
    );
}

#[tokio::test]
async fn a_purge_by_any_url_of_its_queries_reaches_it() {
    let scene = Scene::begins().await;
    let host = scene.larder.address;
    for with_host in [true, false] {
        for soft in [true, false] {
            let path = scene.path();
            scene.get(&format!("{path}?x=1"), &fresh(NO_X)).await;
            let host = if with_host {
                format!("http://{host}")
            } else {
                String::new()
            };
            let url = format!("{host}{path}?x=2");
            let answer = scene
                .larder
                .purge(json!({"urls": [url], "soft": soft}))
                .await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            // What is softly purged may be served once more, and is refreshed behind.
            scene.get(&format!("{path}?x=3"), &fresh(NO_X)).await;
            eventually("the app is asked again", async || {
                (scene.app.count(&path) == 2).then_some(())
            })
            .await;
        }
    }
    let path = scene.path();
    scene.get(&format!("{path}?x=1"), &fresh(NO_X)).await;
    let other = json!({"urls": [format!("http://other.test{path}?x=1")]});
    scene.larder.purge(other).await;
    scene.get(&format!("{path}?x=3"), &fresh(NO_X)).await;
    assert_eq!(scene.app.count(&path), 1, "another host's purge");
}

#[tokio::test]
async fn what_it_varies_on_still_counts_rfc9111_4_1() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = fresh(&format!("{NO_X}\nvary: foo"));
    let ask = async |query: &str, foo: &str| {
        let answer = scene
            .ask("GET", &format!("{path}?{query}"), foo, &says)
            .await;
        answer.header("cache-status").contains("; hit")
    };
    assert!(!ask("x=1", "foo: 1").await);
    assert!(!ask("x=2", "foo: 2").await);
    assert!(ask("x=3", "foo: 1").await);
    assert!(ask("x=4", "foo: 2").await);
    assert!(!ask("x=1&a", "foo: 1").await);
    assert!(!ask("x=1", "").await);
}

#[tokio::test]
async fn stale_and_broken_a_loosened_answer_stands_in_rfc5861_4() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = format!("cache-control: max-age=60, stale-if-error=600\n{NO_X}\nbody: old");
    scene.get(&format!("{path}?x=1"), &says).await;
    scene.advance("61s").await;
    let answer = scene.get(&format!("{path}?x=2"), "status: 503").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"old"[..]));
    let answer = scene.get(&format!("{path}?a=2"), "status: 503").await;
    assert_eq!(answer.status, 503);
}

/// An app that answers with its target and what it states of queries just then, once the gate is open.
async fn gated(gate: &Gate, stated: &'static str) -> App {
    let held = gate.clone();
    App::says(move |seen| {
        let answer = Answer::public(seen.target.clone()).behind(&held);
        match stated {
            "" => answer,
            stated => answer.header("No-Vary-Search", stated),
        }
    })
    .await
}

/// The answers' bodies to these queries of `/a`, asked for all at once while the app is held.
async fn at_once(larder: &Larder, app: &App, gate: &Gate, queries: usize) -> Vec<(String, String)> {
    let mut clients = tokio::task::JoinSet::new();
    let before = app.count("/a");
    for number in 0..queries {
        let client = larder.client();
        clients.spawn(async move {
            let target = format!("/a?x={number}");
            let body = client.get(&target).await.text();
            (target, body)
        });
    }
    eventually("the app is asked", async || {
        (app.count("/a") > before).then_some(())
    })
    .await;
    gate.open();
    clients.join_all().await
}

#[tokio::test]
async fn requests_that_are_one_share_a_fetch_once_that_is_known() {
    let gate = Gate::closed();
    gate.open();
    let app = gated(&gate, "params=(\"x\")").await;
    let larder = larder(&app).manual_clock().start().await;
    larder.get("/a?x=first").await;
    larder.advance("61s").await;
    let gate = Gate::closed();
    let held = gate.clone();
    app.now_says(move |seen| {
        Answer::public(seen.target.clone())
            .header("No-Vary-Search", "params=(\"x\")")
            .behind(&held)
    });
    let answers = at_once(&larder, &app, &gate, 30).await;
    assert_eq!(app.count("/a"), 2);
    assert!(answers.iter().all(|(_, body)| *body == answers[0].1));
}

#[tokio::test]
async fn nobody_gets_an_answer_that_turns_out_to_be_for_another_query() {
    for (stated, fetches) in [
        ("", 30),
        ("params=(\"y\")", 30),
        ("key-order, params=(\"x\")", 1),
    ] {
        let open = Gate::closed();
        open.open();
        let app = gated(&open, "params=(\"x\")").await;
        let larder = larder(&app).manual_clock().start().await;
        larder.get("/a?x=first").await;
        larder.advance("61s").await;
        let gate = Gate::closed();
        let held = gate.clone();
        app.now_says(move |seen| {
            let answer = Answer::public(seen.target.clone()).behind(&held);
            match stated {
                "" => answer,
                stated => answer.header("No-Vary-Search", stated),
            }
        });
        let answers = at_once(&larder, &app, &gate, 30).await;
        for (target, body) in &answers {
            if fetches > 1 {
                assert_eq!(target, body, "{stated}");
            }
        }
        if fetches > 1 {
            assert_eq!(app.count("/a"), 1 + fetches, "{stated}");
        } else {
            // Those who were let go have met again under the new rule.
            assert!(app.count("/a") <= 3, "{}", app.count("/a"));
        }
        for number in 0..3 {
            let answer = larder.get(&format!("/a?x={number}")).await;
            assert_eq!(answer.cache(), "HIT", "{stated}");
        }
    }
}

#[tokio::test]
async fn a_cold_herd_for_one_url_is_one_fetch() {
    let gate = Gate::closed();
    let app = gated(&gate, "params=(\"x\")").await;
    let larder = larder(&app).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = larder.client();
        clients.spawn(async move { client.get("/a?x=1").await.text() });
    }
    eventually("the app is asked", async || {
        (app.count("/a") > 0).then_some(())
    })
    .await;
    gate.open();
    let bodies = clients.join_all().await;
    assert!(bodies.iter().all(|body| body == "/a?x=1"));
    assert_eq!(app.count("/a"), 1);
}

#[tokio::test]
async fn route_and_app_leave_out_what_either_says() {
    let app = App::says(|seen| {
        Answer::ok(seen.target.clone()).header("No-Vary-Search", "params=(\"x\")")
    })
    .await;
    let yaml = format!(
        "{}\nroutes:\n  - {{ path: /listed, ttl: 1m, key: {{ query: [a, x] }} }}\n  \
         - {{ path: /mine, ttl: 1m, key: {{ per: user }} }}\n  - {{ path: /a, ttl: 1m }}",
        identity()
    );
    let larder = larder(&app).yaml(&yaml).start().await;
    larder.get("/a?a=1&x=1&utm_a=1").await;
    assert_eq!(app.last("/a").target, "/a?a=1&x=1");
    assert_eq!(larder.get("/a?utm_a=2&x=2&a=1").await.cache(), "HIT");
    assert_eq!(larder.get("/a?a=2&x=1").await.cache(), "MISS");
    larder.get("/listed?a=1&x=1&y=1").await;
    assert_eq!(app.last("/listed").target, "/listed?a=1&x=1");
    assert_eq!(larder.get("/listed?a=1&x=2&y=2").await.cache(), "HIT");
    assert_eq!(larder.get("/listed?a=2").await.cache(), "MISS");
    // Whose answer it is counts as ever.
    for user in ["u1", "u2"] {
        let bearer = format!("Bearer {}", token(user, "renter"));
        let fields = [("Authorization", &*bearer)];
        assert_eq!(larder.get_with("/mine?x=1", &fields).await.cache(), "MISS");
        assert_eq!(larder.get_with("/mine?x=2", &fields).await.cache(), "HIT");
    }
}

#[tokio::test]
async fn explain_names_the_rule_and_what_is_left_of_the_query() {
    let app = App::says(|_| Answer::public("x").header("No-Vary-Search", "params=(\"x\")")).await;
    let larder = larder(&app).start().await;
    larder.get("/a?x=1&b=%7e").await;
    let url = format!("/v1/explain?url=http://{}/a?x=2%26b=~", larder.address);
    let told = larder.admin().get(&url).await;
    assert_eq!(told.json()["outcome"], "hit", "{}", told.text());
    let key = told.json()["steps"][2]["details"].to_string();
    assert!(
        key.contains("params=(\\\\\\\"x\\\\\\\")") || key.contains("params=("),
        "{key}"
    );
    assert!(key.contains("b=~"), "{key}");
}

#[tokio::test]
async fn another_larder_learns_at_its_first_miss_and_hears_of_every_purge() {
    let app = App::says(|seen| {
        Answer::public(seen.target.clone()).header("No-Vary-Search", "params=(\"x\")")
    })
    .await;
    let redis = RedisServer::start().await;
    let one = larder(&app).redis(&redis).start().await;
    let two = larder(&app).redis(&redis).start().await;
    one.redis_is(true).await;
    two.redis_is(true).await;
    let host = [("Host", "shop.test")];
    let get = async |larder: &Larder, target: &str| larder.get_with(target, &host).await;
    assert_eq!(get(&two, "/a?x=1").await.cache(), "MISS");
    // Two knows the rule now, and finds in Redis what one has stored for many queries.
    let mut number = 0;
    eventually("two finds what one has stored", async || {
        let found = get(&two, &format!("/a?b={number}&x=2")).await.text();
        if found == format!("/a?b={number}&x=1") {
            return Some(());
        }
        number += 1;
        get(&one, &format!("/a?b={number}&x=1")).await;
        None
    })
    .await;
    // A change by a query that neither has seen ends it, in both and in Redis.
    let at = |rest: &str| format!("/a?b={number}&{rest}");
    let held = at("x=1");
    one.client().send("POST", &at("x=3"), &host, "").await;
    assert_ne!(get(&one, &at("x=4")).await.text(), held);
    eventually("the other has heard", async || {
        (get(&two, &at("x=5")).await.text() != held).then_some(())
    })
    .await;
    let held = get(&two, &at("x=7")).await.text();
    assert_eq!(get(&two, &at("x=8")).await.text(), held);
    let url = format!("http://shop.test{}", at("x=9"));
    let purge = json!({"urls": [url], "soft": false});
    assert_eq!(one.purge(purge).await.status, 200);
    eventually("the other has heard of the purge", async || {
        (get(&two, &at("x=10")).await.text() != held).then_some(())
    })
    .await;
}
