//! Messages on their way through (RFC 9110 §7.6): what a gateway changes, and what it must not touch.

use super::*;

/// What the app saw of this field.
fn seen(scene: &Scene, path: &str, name: &str) -> Vec<String> {
    let seen = scene.app.last(path);
    let lines = seen.headers.iter();
    lines
        .filter(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.clone())
        .collect()
}

#[tokio::test]
async fn an_options_goes_no_further_than_it_may_rfc9110_7_6_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let last = scene.ask("OPTIONS", &path, "max-forwards: 0", "").await;
    assert_eq!(last.status, 204);
    assert!(last.header("allow").contains("GET"), "{:?}", last.headers);
    assert_eq!(scene.app.count(&path), 0);
    for (sent, arrives) in [("1", "0"), ("10", "9"), ("many", "many"), ("-1", "-1")] {
        let path = scene.path();
        scene
            .ask("OPTIONS", &path, &format!("max-forwards: {sent}"), "")
            .await;
        assert_eq!(seen(&scene, &path, "max-forwards"), [arrives]);
    }
    // It says nothing about any other method.
    let path = scene.path();
    scene.ask("DELETE", &path, "max-forwards: 0", "").await;
    assert_eq!(seen(&scene, &path, "max-forwards"), ["0"]);
}

#[tokio::test]
async fn a_trace_is_never_passed_on_rfc9110_9_3_8() {
    let scene = Scene::begins().await;
    let trace = "TRACE /trace HTTP/1.1\r\nHost: a\r\nMax-Forwards: 5\r\nCookie: a=b\r\n\r\n";
    let answer = scene.client.raw(trace.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(!answer.contains("a=b"), "{answer}");
    assert_eq!(scene.app.count("/trace"), 0);
}

#[tokio::test]
async fn a_request_that_comes_back_here_is_a_loop_rfc9110_7_6_3() {
    let scene = Scene::begins().await;
    let path = scene.path();
    scene.get(&path, "").await;
    let via = seen(&scene, &path, "via").join(", ");
    assert!(via.starts_with("1.1 larder-"), "{via}");
    for sent in [
        format!("via: {via}"),
        format!("via: 1.0 other\nvia: {via}, 2 another"),
        // Nobody can have it taken out on the way.
        format!("connection: via\nvia: {via}"),
    ] {
        let path = scene.path();
        let answer = scene.ask("GET", &path, &sent, "").await;
        assert_eq!(answer.status, 508, "{sent}");
        assert_eq!(scene.app.count(&path), 0);
    }
    // Another larder in front of this one is none.
    let path = scene.path();
    let other = "via: 1.1 larder-00000000";
    assert_eq!(scene.ask("GET", &path, other, "").await.status, 200);
    assert_eq!(seen(&scene, &path, "via").len(), 2);
}

#[tokio::test]
async fn what_a_gateway_has_no_part_in_reaches_the_app_as_it_was_sent() {
    let scene = Scene::begins().await;
    for method in ["GET", "POST"] {
        for (name, value) in [
            (
                "cdn-loop",
                "foo123.foocdn.example, barcdn.example; trace=\"abcdef\"",
            ), // RFC 8586
            ("priority", "u=1, i"), // RFC 9218
            ("early-data", "1"),    // RFC 8470
            ("incremental", "?1"),
            ("want-repr-digest", "sha-512=3, sha-256=10"), // RFC 9530
            ("accept-query", "\"application/jsonpath\""),
            ("prefer", "respond-async"),
        ] {
            let path = scene.path();
            scene
                .ask(method, &path, &format!("{name}: {value}"), "")
                .await;
            assert_eq!(seen(&scene, &path, name), [value], "{method}");
        }
        let path = scene.path();
        scene.ask(method, &path, "x: 2\nx: 1\nx: 3", "").await;
        assert_eq!(seen(&scene, &path, "x").join(","), "2,1,3");
    }
}

#[tokio::test]
async fn too_early_is_for_who_came_early_alone_rfc8470_5_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let early = "status: 425\ncache-control: max-age=60";
    let first = scene.ask("GET", &path, "early-data: 1", early).await;
    assert_eq!(first.status, 425);
    let second = scene.get(&path, "cache-control: max-age=60").await;
    assert_eq!(second.status, 200);
}

#[tokio::test]
async fn an_answer_without_a_date_gets_the_one_it_came_at_rfc9110_6_6_1() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let came = scene.date(0);
    let first = scene.get(&path, "cache-control: max-age=600").await;
    assert!(first.has("date"));
    scene.advance("60s").await;
    let second = scene.get(&path, "").await;
    assert_eq!(scene.app.count(&path), 1);
    let date = |text: &str| httpdate::parse_http_date(text).unwrap();
    let apart = date(&second.header("date"))
        .duration_since(date(&came))
        .unwrap_or_default();
    assert!(apart < Duration::from_secs(50), "not when it was sent");
}

#[tokio::test]
async fn nothing_is_transformed_whoever_says_no_transform_rfc9110_7_7() {
    const BYTES: &[u8] = b"\x1f\x8b\x00\xff not what it says\r\n\r\n";
    let app = App::says(|seen| {
        let [_, coding, transform] = seen.path().splitn(3, '/').collect::<Vec<_>>()[..] else {
            return Answer::new(500, "");
        };
        Answer::new(200, BYTES)
            .header("Content-Encoding", coding)
            .header("Content-Type", "image/png")
            .header("Cache-Control", &format!("max-age=60{transform}"))
    })
    .await;
    let scene = Scene::with(app).await;
    for coding in ["gzip", "br", "x-odd"] {
        for transform in ["", ",no-transform"] {
            let path = format!("/{coding}/{transform}");
            for request in ["accept-encoding: gzip", "accept-encoding: identity", ""] {
                let answer = scene.ask("GET", &path, request, "").await;
                assert_eq!(answer.header("content-encoding"), coding);
                assert_eq!(answer.header("content-type"), "image/png");
                assert_eq!(
                    answer.header("cache-control"),
                    format!("max-age=60{transform}")
                );
                assert_eq!(answer.body, BYTES);
            }
            assert_eq!(scene.app.count(&path), 1);
        }
    }
}

#[tokio::test]
async fn digests_stay_with_the_content_they_are_about_rfc9530_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = "cache-control: max-age=60\netag: \"1\"\nbody: 0123456789\ncontent-digest: sha-256=:YQ==:\ncontent-digest: sha-512=:Yg==:\nrepr-digest: sha-256=:Yw==:";
    let content = "sha-256=:YQ==:, sha-512=:Yg==:";
    // The first of them is cut from an answer that fills the store.
    for (range, status) in [
        ("bytes=0-1", 206),
        ("bytes=2-5", 206),
        ("bytes=0-1, 4-5", 206),
    ] {
        let part = scene
            .ask("GET", &path, &format!("range: {range}"), says)
            .await;
        assert_eq!(part.status, status, "{range}");
        assert!(!part.has("content-digest"), "{range}: {:?}", part.headers);
        assert_eq!(part.header("repr-digest"), "sha-256=:Yw==:", "{range}");
    }
    for method in ["GET", "HEAD"] {
        let whole = scene.ask(method, &path, "", says).await;
        assert_eq!(whole.header("content-digest"), content, "{method}");
        assert_eq!(whole.header("repr-digest"), "sha-256=:Yw==:", "{method}");
    }
    let current = scene.ask("GET", &path, "if-none-match: \"1\"", "").await;
    assert_eq!(current.status, 304);
    assert!(!current.has("content-digest"));
    assert_eq!(scene.app.count(&path), 1);
}
