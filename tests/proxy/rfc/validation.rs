//! Conditions: the client's, and our own (RFC 9110 §13, RFC 9111 §4.3).

use super::*;

const FRESH: &str = "cache-control: max-age=100";
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// What the client's condition gets of an answer that is in the store.
async fn answered(scene: &Scene, says: &str, condition: &str) -> Response {
    let path = scene.path();
    scene.get(&path, &format!("{FRESH}\n{says}")).await;
    let answer = scene.ask("GET", &path, condition, "").await;
    assert_eq!(scene.app.count(&path), 1, "{says} / {condition}");
    answer
}

#[tokio::test]
async fn if_none_match_is_answered_from_the_store_rfc9110_13_1_2() {
    let scene = Scene::begins().await;
    for (etag, condition, status) in [
        ("\"a\"", "\"a\"", 304),
        ("\"a\"", "\"a\", \"b\"", 304),
        ("\"a\"", "\"b\", \"a\"", 304),
        ("\"a\"", "\"b\",\"a\" , \"c\"", 304),
        ("\"a\"", "*", 304),
        ("\"a\"", "W/\"a\"", 304),
        ("W/\"a\"", "\"a\"", 304),
        ("W/\"a\"", "W/\"a\"", 304),
        ("\"a,b\"", "\"x\", \"a,b\"", 304),
        ("\"a\"", "\"b\"", 200),
        ("\"a\"", "\"A\"", 200),
        ("\"a\"", "\"b\", W/\"c\"", 200),
    ] {
        let answer = answered(
            &scene,
            &format!("etag: {etag}"),
            &format!("if-none-match: {condition}"),
        )
        .await;
        assert_eq!(answer.status, status, "{etag} / {condition}");
        assert_eq!(answer.body.is_empty(), status == 304);
        assert_eq!(answer.header("etag"), etag);
        assert!(
            answer.has("date") && answer.has("age"),
            "{:?}",
            answer.headers
        );
    }
    let lines = answered(
        &scene,
        "etag: \"a\"",
        "if-none-match: \"b\"\nif-none-match: \"a\"",
    )
    .await;
    assert_eq!(lines.status, 304);
}

#[tokio::test]
async fn a_304_carries_what_a_200_would_tell_a_cache_rfc9110_15_4_5() {
    let scene = Scene::begins().await;
    let says = format!(
        "etag: \"a\"\nlast-modified: {MODIFIED}\nvary: x\ncontent-location: /a\nexpires: {{100}}\ncontent-type: text/plain"
    );
    let answer = answered(&scene, &says, "if-none-match: \"a\"").await;
    assert_eq!(answer.status, 304);
    for name in [
        "cache-control",
        "content-location",
        "date",
        "etag",
        "expires",
        "vary",
    ] {
        assert!(answer.has(name), "{name}");
    }
    assert!(!answer.has("content-type") && !answer.has("content-length"));
}

#[tokio::test]
async fn if_modified_since_is_answered_from_the_store_rfc9110_13_1_3() {
    let scene = Scene::begins().await;
    let modified = format!("last-modified: {MODIFIED}");
    for (condition, status) in [
        (MODIFIED, 304),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 304),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 304),
        ("Sun Nov  6 08:49:37 1994", 304),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 200),
        ("soon", 200),
    ] {
        let answer = answered(
            &scene,
            &modified,
            &format!("if-modified-since: {condition}"),
        )
        .await;
        assert_eq!(answer.status, status, "{condition}");
    }
    // Without Last-Modified, Date says how old it is (RFC 9111 §4.3.2).
    for (since, status) in [("{0}", 304), ("{-2000}", 200)] {
        let answer = answered(
            &scene,
            "date: {-50}",
            &format!("if-modified-since: {since}"),
        )
        .await;
        assert_eq!(answer.status, status, "{since}");
    }
}

#[tokio::test]
async fn if_none_match_outweighs_if_modified_since_rfc9110_13_2_2() {
    let scene = Scene::begins().await;
    let says = format!("etag: \"a\"\nlast-modified: {MODIFIED}");
    for (condition, status) in [
        (
            "if-none-match: \"a\"\nif-modified-since: {-999999999}".to_owned(),
            304,
        ),
        (
            format!("if-none-match: \"b\"\nif-modified-since: {MODIFIED}"),
            200,
        ),
        (
            format!("if-modified-since: {MODIFIED}\nif-match: \"b\""),
            304,
        ),
    ] {
        assert_eq!(
            answered(&scene, &says, &condition).await.status,
            status,
            "{condition}"
        );
    }
}

#[tokio::test]
async fn a_condition_goes_through_to_the_app_while_nothing_is_stored_rfc9111_4_3_2() {
    let scene = Scene::begins().await;
    for condition in [
        "if-none-match: \"a\"",
        "if-none-match: a",
        "if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT",
    ] {
        let (name, value) = condition.split_once(": ").unwrap();
        let path = scene.path();
        let answer = scene
            .ask("GET", &path, condition, "status: 304\netag: \"a\"")
            .await;
        assert_eq!(answer.status, 304, "{condition}");
        assert_eq!(scene.app.last(&path).header(name), Some(value));
        // The app has judged the condition; what it sends is what the client gets, and the store.
        let path = scene.path();
        let answer = scene
            .ask("GET", &path, condition, &format!("{FRESH}\netag: \"a\""))
            .await;
        assert_eq!(
            (answer.status, answer.body.is_empty()),
            (200, false),
            "{condition}"
        );
        let again = scene.get(&path, "").await;
        assert_eq!(
            (again.body, scene.app.count(&path)),
            (answer.body, 1),
            "{condition}"
        );
    }
}

#[tokio::test]
async fn whoever_keeps_sending_conditions_still_fills_the_store_rfc9111_4_3_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let condition = "if-none-match: \"a\"";
    scene
        .ask("GET", &path, condition, "status: 304\netag: \"a\"")
        .await;
    let second = scene
        .ask("GET", &path, condition, &format!("{FRESH}\netag: \"a\""))
        .await;
    assert_eq!(second.status, 304);
    assert_eq!(scene.app.last(&path).header("if-none-match"), None);
    assert_eq!(scene.ask("GET", &path, condition, "").await.status, 304);
    assert_eq!(scene.app.count(&path), 2);
}

#[tokio::test]
async fn every_stored_validator_is_asked_about_rfc9111_4_3_1() {
    let scene = Scene::begins().await;
    for (says, etag, modified) in [
        ("etag: \"a\"", Some("\"a\""), None),
        ("etag: W/\"a\"", Some("W/\"a\""), None),
        (
            "last-modified: Sun, 06 Nov 1994 08:49:37 GMT",
            None,
            Some(MODIFIED),
        ),
        (
            "etag: \"a\"\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT",
            Some("\"a\""),
            Some(MODIFIED),
        ),
    ] {
        let path = scene.path();
        let first = scene.get(&path, &format!("{FRESH}\n{says}")).await;
        scene.advance("101s").await;
        // The client's own condition is about something else, and is judged here.
        let renewed = scene
            .ask(
                "GET",
                &path,
                "if-none-match: \"z\"",
                &format!("status: 304\n{FRESH}"),
            )
            .await;
        assert_eq!(
            (renewed.status, &renewed.body),
            (200, &first.body),
            "{says}"
        );
        let seen = scene.app.last(&path);
        assert_eq!(seen.header("if-modified-since"), modified, "{says}");
        if let Some(etag) = etag {
            assert!(
                seen.header("if-none-match")
                    .is_some_and(|list| list.contains(etag)),
                "{says}"
            );
        }
        assert_eq!(scene.get(&path, "").await.body, first.body);
        assert_eq!(scene.app.count(&path), 2);
    }
}

#[tokio::test]
async fn an_answer_without_validators_is_asked_for_without_conditions_rfc9111_4_3_1() {
    let scene = Scene::begins().await;
    let path = scene.path();
    scene.get(&path, FRESH).await;
    scene.advance("101s").await;
    scene.get(&path, FRESH).await;
    let seen = scene.app.last(&path);
    assert_eq!(
        (
            seen.header("if-none-match"),
            seen.header("if-modified-since")
        ),
        (None, None)
    );
}

#[tokio::test]
async fn a_304_updates_the_fields_and_keeps_the_content_rfc9111_3_2() {
    let scene = Scene::begins().await;
    for validator in [
        "etag: \"a\"",
        "last-modified: Sun, 06 Nov 1994 08:49:37 GMT",
    ] {
        let path = scene.path();
        let first = scene
            .get(&path, &format!("{FRESH}\n{validator}\nkept: 1\nx-test: old\nx-test: older\ncontent-foo: old\nexpires: {{50}}\nset-cookie: a=b\ncontent-security-policy: default-src 'self'"))
            .await;
        scene.advance("101s").await;
        let says = format!(
            "status: 304\n{validator}\ncache-control: max-age=5000\nx-test: new\ncontent-foo: new\nexpires: {{5000}}\nadded: 2\nset-cookie: a=c\nconnection: x-hop\nx-hop: 1\nproxy-authenticate: Basic"
        );
        let second = scene.get(&path, &says).await;
        scene.advance("1000s").await;
        let third = scene.get(&path, "").await;
        assert_eq!(scene.app.count(&path), 2);
        for answer in [second, third] {
            assert_eq!((answer.status, &answer.body), (200, &first.body));
            assert_eq!(
                answer.header("content-length"),
                first.body.len().to_string()
            );
            for (name, value) in [
                ("kept", "1"),
                ("x-test", "new"),
                ("content-foo", "new"),
                ("added", "2"),
                ("cache-control", "max-age=5000"),
                ("set-cookie", "a=c"),
                ("content-security-policy", "default-src 'self'"),
            ] {
                assert_eq!(answer.header(name), value, "{name}");
            }
            assert_ne!(answer.header("expires"), first.header("expires"));
            for gone in ["x-hop", "proxy-authenticate", "connection"] {
                assert!(!answer.has(gone), "{gone}");
            }
        }
    }
}

#[tokio::test]
async fn a_304_does_not_change_how_the_kept_content_is_read_rfc9111_3_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let first = scene
        .get(
            &path,
            &format!("{FRESH}\netag: \"a\"\ncontent-encoding: x-test"),
        )
        .await;
    scene.advance("101s").await;
    let says = "status: 304\netag: \"a\"\ncontent-length: 9999\ncontent-encoding: gzip\ncontent-range: bytes 0-1/2\ncache-control: max-age=100";
    for answer in [scene.get(&path, says).await, scene.get(&path, "").await] {
        assert_eq!(answer.body, first.body);
        assert_eq!(answer.header("content-encoding"), "x-test");
        assert_eq!(
            answer.header("content-length"),
            first.body.len().to_string()
        );
        assert!(!answer.has("content-range"));
    }
}

#[tokio::test]
async fn a_304_about_something_else_is_no_confirmation_rfc9111_4_3_4() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let first = scene.get(&path, &format!("{FRESH}\netag: \"a\"")).await;
    scene.advance("101s").await;
    scene.app.now_says({
        let number = AtomicUsize::new(0);
        move |seen| match seen.header("if-none-match") {
            Some(_) => Answer::new(304, "").header("ETag", "\"b\""),
            None => Answer::ok(format!("new {}", number.fetch_add(1, Ordering::Relaxed))),
        }
    });
    let second = scene.get(&path, "").await;
    assert_eq!((second.status, second.text().as_str()), (200, "new 0"));
    assert_ne!(second.body, first.body);
}

#[tokio::test]
async fn nobody_gets_a_304_who_did_not_ask_rfc9110_15_4_5() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let answer = scene.get(&path, "status: 304\netag: \"a\"").await;
    assert_eq!(answer.status, 502);
    scene.get(&path, &format!("{FRESH}\netag: \"a\"")).await;
    scene.advance("101s").await;
    let answer = scene
        .get(
            &path,
            "status: 304\netag: \"a\"\ncache-control: max-age=100",
        )
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_confirmed_answer_meets_the_clients_own_condition_rfc9111_4_3_3() {
    let scene = Scene::begins().await;
    let path = scene.path();
    scene.get(&path, &format!("{FRESH}\netag: \"a\"")).await;
    scene.advance("101s").await;
    let says = format!("status: 304\netag: \"a\"\n{FRESH}");
    let answer = scene.ask("GET", &path, "if-none-match: \"a\"", &says).await;
    assert_eq!((answer.status, answer.body.len()), (304, 0));
    let answer = scene.ask("GET", &path, "if-none-match: \"a\"", "").await;
    assert_eq!((answer.status, scene.app.count(&path)), (304, 2));
}

#[tokio::test]
async fn a_full_answer_to_our_condition_takes_the_place_of_the_old_rfc9111_4_3_3() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let old = scene
        .get(&path, &format!("{FRESH}\netag: \"a\"\nold: 1"))
        .await;
    scene.advance("101s").await;
    let new = scene.get(&path, &format!("{FRESH}\netag: \"b\"")).await;
    assert_ne!(old.body, new.body);
    let last = scene.get(&path, "").await;
    assert_eq!((&last.body, scene.app.count(&path)), (&new.body, 2));
    assert!(!last.has("old") && last.header("etag") == "\"b\"");
}

#[tokio::test]
async fn conditions_for_the_app_alone_are_not_judged_here_rfc9111_4_3_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = format!("status: 412\n{FRESH}");
    let answer = scene.ask("GET", &path, "if-match: \"z\"", &says).await;
    assert_eq!(answer.status, 412);
    assert_eq!(scene.app.last(&path).header("if-match"), Some("\"z\""));
    assert_eq!(scene.get(&path, FRESH).await.status, 200);
}

#[tokio::test]
async fn a_head_freshens_what_agrees_with_it_rfc9111_4_3_5() {
    let scene = Scene::begins().await;
    for validator in [
        "etag: \"a\"",
        "last-modified: Sun, 06 Nov 1994 08:49:37 GMT",
        "x: y",
    ] {
        let path = scene.path();
        let first = scene
            .get(&path, &format!("{FRESH}\n{validator}\nx-test: old"))
            .await;
        scene.advance("101s").await;
        let says = format!(
            "{validator}\ncache-control: max-age=1000\nx-test: new\nbody: {}",
            first.text()
        );
        let head = scene.ask("HEAD", &path, "", &says).await;
        assert_eq!((head.status, head.header("x-test").as_str()), (200, "new"));
        scene.advance("500s").await;
        let get = scene.get(&path, "").await;
        assert_eq!(
            (&get.body, scene.app.count(&path)),
            (&first.body, 2),
            "{validator}"
        );
        assert_eq!(get.header("x-test"), "new");
        assert_eq!(get.header("age"), "500");
    }
}

#[tokio::test]
async fn a_head_spoils_what_it_contradicts_rfc9111_4_3_5() {
    let scene = Scene::begins().await;
    for says in [
        "etag: \"b\"\ncache-control: max-age=1000",
        "last-modified: Sun, 06 Nov 1994 08:49:38 GMT\ncache-control: max-age=1000",
        "body: of another length\ncache-control: max-age=1000",
        "status: 404\ncache-control: max-age=1000",
        "status: 410",
    ] {
        let path = scene.path();
        let first = scene
            .get(
                &path,
                &format!("{FRESH}\netag: \"a\"\nlast-modified: {MODIFIED}"),
            )
            .await;
        let says = match says.contains("body") {
            true => says.to_owned(),
            false => format!("{says}\nbody: {}", first.text()),
        };
        scene
            .ask("HEAD", &path, "cache-control: no-cache", &says)
            .await;
        let get = scene.get(&path, FRESH).await;
        assert_ne!(get.body, first.body, "{says}");
        assert_eq!(scene.app.count(&path), 3, "{says}");
    }
    // An app in trouble says nothing of what it once gave.
    let path = scene.path();
    let first = scene.get(&path, &format!("{FRESH}\netag: \"a\"")).await;
    scene
        .ask("HEAD", &path, "cache-control: no-cache", "status: 503")
        .await;
    assert_eq!(scene.get(&path, "").await.body, first.body);
}

#[tokio::test]
async fn a_head_that_the_store_cannot_answer_is_a_head_to_the_app_rfc9110_9_3_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let head = scene
        .ask("HEAD", &path, "", &format!("{FRESH}\nbody: four"))
        .await;
    assert_eq!(
        (head.status, head.header("content-length").as_str()),
        (200, "4")
    );
    assert_eq!(scene.app.last(&path).method, "HEAD");
    assert_eq!(scene.get(&path, FRESH).await.status, 200);
    assert_eq!(scene.app.last(&path).method, "GET");
}

#[tokio::test]
async fn whoever_is_served_apart_has_his_condition_judged_by_the_app_rfc9111_4_3_2() {
    let scene = Scene::begins().await;
    // The app knows one representation, and says so of every condition.
    let app = |says: &'static str| {
        move |seen: &Seen| match seen.header("if-none-match") {
            Some("\"a\"") => Answer::new(304, "").header("ETag", "\"a\""),
            _ => Answer::ok("whole")
                .header("ETag", "\"a\"")
                .header("Cache-Control", says),
        }
    };
    for (says, request) in [
        ("private", vec![]),
        ("no-store", vec![]),
        ("max-age=60", vec![("Cookie", "sid=1")]),
        ("max-age=60", vec![("Authorization", "Bearer x")]),
        ("max-age=60", vec![("Cache-Control", "no-store")]),
    ] {
        scene.app.now_says(app(says));
        let path = scene.path();
        for turn in 0..5 {
            let mut fields = vec![("If-None-Match", "\"a\"")];
            if turn > 0 {
                fields.extend(&request);
            }
            let answer = scene.client.get_with(&path, &fields).await;
            // The second one was to bring the whole for all, and brought what is for one.
            let expected = if turn == 1 && request.is_empty() {
                200
            } else {
                304
            };
            assert_eq!(answer.status, expected, "{says} {request:?} turn {turn}");
        }
    }
}

#[tokio::test]
async fn a_304_may_change_what_the_answer_varies_on_rfc9111_4_3_4() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = "cache-control: max-age=100\netag: \"a\"";
    let first = scene.ask("GET", &path, "foo: 1", says).await;
    scene.advance("101s").await;
    let confirms = format!("status: 304\n{says}\nvary: foo");
    let renewed = scene.ask("GET", &path, "foo: 1", &confirms).await;
    assert_eq!((renewed.status, &renewed.body), (200, &first.body));
    assert_eq!(renewed.header("vary"), "foo");
    assert_eq!(scene.ask("GET", &path, "foo: 1", "").await.body, first.body);
    let other = scene.ask("GET", &path, "foo: 2", says).await;
    assert_ne!(other.body, first.body);
    assert_eq!(scene.app.count(&path), 3);
}

#[tokio::test]
async fn a_304_that_forbids_keeping_answers_once_rfc9111_4_3_4() {
    let scene = Scene::begins().await;
    for forbids in [
        "cache-control: no-store",
        "cache-control: private",
        "vary: *",
    ] {
        let path = scene.path();
        let first = scene.get(&path, &format!("{FRESH}\netag: \"a\"")).await;
        scene.advance("101s").await;
        let says = format!("status: 304\netag: \"a\"\n{forbids}");
        let once = scene.get(&path, &says).await;
        assert_eq!((once.status, &once.body), (200, &first.body), "{forbids}");
        scene.get(&path, FRESH).await;
        let seen = scene.app.last(&path);
        assert_eq!(
            (seen.header("if-none-match"), scene.app.count(&path)),
            (None, 3)
        );
    }
}

#[tokio::test]
async fn odd_conditions_match_nothing_and_break_nothing_rfc9110_13_1_2() {
    let scene = Scene::begins().await;
    for (etag, condition, status) in [
        ("\"a\"", "a", 200),
        ("\"a\"", "\"a", 200),
        ("\"a\"", "w/\"a\"", 200),
        ("\"a\"", "'a'", 200),
        ("\"a\"", ",, \"a\" ,", 304),
        ("a", "a", 304),
        ("\"\"", "\"\"", 304),
        ("\"a\\\"", "\"a\\\", \"b\"", 304),
        ("W/\"a\"", "W/\"b\", W/\"a\"", 304),
    ] {
        let answer = answered(
            &scene,
            &format!("etag: {etag}"),
            &format!("if-none-match: {condition}"),
        )
        .await;
        assert_eq!(answer.status, status, "{etag} / {condition}");
    }
    // An entity tag that is asked for where none is stored is another one, whatever the date.
    let says = format!("last-modified: {MODIFIED}");
    let condition = format!("if-none-match: \"a\"\nif-modified-since: {MODIFIED}");
    assert_eq!(answered(&scene, &says, &condition).await.status, 200);
}

#[tokio::test]
async fn a_conditional_request_for_what_is_stale_is_answered_from_what_comes_rfc9111_4_3_3() {
    let scene = Scene::begins().await;
    for (stored, condition, says, status) in [
        (
            "etag: \"a\"",
            "if-none-match: \"a\"",
            "status: 304\netag: \"a\"",
            304,
        ),
        (
            "etag: \"a\"",
            "if-none-match: \"b\"",
            "status: 304\netag: \"a\"",
            200,
        ),
        ("etag: \"a\"", "if-none-match: \"b\"", "etag: \"b\"", 304),
        ("etag: \"a\"", "if-none-match: \"a\"", "etag: \"b\"", 200),
        ("x: y", "if-none-match: \"b\"", "etag: \"b\"", 304),
        ("x: y", "if-none-match: \"b\"", "etag: \"c\"", 200),
    ] {
        let path = scene.path();
        scene.get(&path, &format!("{FRESH}\n{stored}")).await;
        scene.advance("101s").await;
        let says = format!("{FRESH}\n{says}");
        let answer = scene.ask("GET", &path, condition, &says).await;
        assert_eq!(answer.status, status, "{stored} / {condition} / {says}");
        assert_eq!(answer.body.is_empty(), status == 304);
        let again = scene.ask("GET", &path, condition, "").await;
        assert_eq!((again.status, scene.app.count(&path)), (status, 2));
    }
}

#[tokio::test]
async fn an_error_in_answer_to_our_condition_is_the_clients_rfc9111_4_3_3() {
    let scene = Scene::begins().await;
    for status in [500, 502, 503, 504] {
        let path = scene.path();
        let first = scene.get(&path, &format!("{FRESH}\netag: \"a\"")).await;
        scene.advance("101s").await;
        let failed = scene.get(&path, &format!("status: {status}")).await;
        assert_eq!(failed.status, status);
        // It says nothing of what is stored.
        let says = format!("status: 304\netag: \"a\"\n{FRESH}");
        assert_eq!(scene.get(&path, &says).await.body, first.body, "{status}");
    }
}

#[tokio::test]
async fn a_head_that_says_nothing_of_the_content_changes_nothing_rfc9111_4_3_5() {
    let scene = Scene::begins().await;
    for (stored, request, says) in [
        (
            "etag: \"a\"",
            "if-none-match: \"a\"",
            "status: 304\netag: \"a\"",
        ),
        ("etag: \"a\"", "", "status: 500\netag: \"b\""),
        ("etag: \"a\"", "", "status: 302\nlocation: /a\netag: \"b\""),
        (
            "etag: \"a\"",
            "",
            "status: 206\ncontent-range: bytes 0-1/9\netag: \"b\"",
        ),
        ("etag: \"a\"\nvary: foo", "foo: 2", "etag: \"b\"\nvary: foo"),
    ] {
        let path = scene.path();
        let first = scene.get(&path, &format!("{FRESH}\n{stored}")).await;
        let request = format!("cache-control: no-cache\n{request}");
        scene.ask("HEAD", &path, &request, says).await;
        let again = scene.get(&path, "").await;
        assert_eq!(
            (&again.body, scene.app.count(&path)),
            (&first.body, 2),
            "{says}"
        );
    }
}

#[tokio::test]
async fn a_head_for_what_is_fresh_meets_conditions_like_a_get_rfc9110_13_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    scene
        .get(
            &path,
            &format!("{FRESH}\netag: \"a\"\nlast-modified: {MODIFIED}"),
        )
        .await;
    for (condition, status) in [
        ("if-none-match: \"a\"".to_owned(), 304),
        ("if-none-match: \"b\"".to_owned(), 200),
        (format!("if-modified-since: {MODIFIED}"), 304),
        ("range: bytes=0-1\nif-range: \"a\"".to_owned(), 200),
    ] {
        let head = scene.ask("HEAD", &path, &condition, "").await;
        assert_eq!((head.status, head.body.len()), (status, 0), "{condition}");
    }
    assert_eq!(scene.app.count(&path), 1);
}
