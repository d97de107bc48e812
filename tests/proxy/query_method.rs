//! QUERY (RFC 10008): a safe request whose content is part of the question.

use crate::support::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// An app that echoes what it was asked, for an hour.
async fn echo() -> App {
    App::says(|seen| {
        Answer::public(format!("{} {}", seen.method, seen.text())).header("Accept-Query", "\"a/b\"")
    })
    .await
}

#[tokio::test]
async fn it_is_forwarded_with_its_content_and_answered_from_the_store() {
    let app = echo().await;
    let larder = larder(&app).start().await;
    let client = larder.client();
    for outcome in ["MISS", "HIT"] {
        let answer = client.send("QUERY", "/q", &[JSON], "{\"a\": 1}").await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, "QUERY {\"a\": 1}".into())
        );
        assert_eq!(answer.cache(), outcome);
        assert_eq!(answer.header("accept-query"), "\"a/b\"");
    }
    let seen = app.last("/q");
    assert_eq!((seen.text().as_str(), app.count("/q")), ("{\"a\": 1}", 1));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("content-length"), Some("8"));
}

#[tokio::test]
async fn every_content_has_its_own_answer_and_so_has_every_type_of_it() {
    let app = echo().await;
    let larder = larder(&app).start().await;
    let client = larder.client();
    let gzip = ("Content-Encoding", "gzip");
    let text = ("Content-Type", "text/plain");
    let asked = [
        ("QUERY", vec![JSON], "a"),
        ("QUERY", vec![JSON], "b"),
        ("QUERY", vec![JSON], ""),
        ("QUERY", vec![text], "a"),
        ("QUERY", vec![], "a"),
        ("QUERY", vec![JSON, gzip], "a"),
        ("GET", vec![], ""),
    ];
    for outcome in ["MISS", "HIT"] {
        for (method, fields, content) in &asked {
            let answer = client.send(method, "/q", fields, *content).await;
            assert_eq!(answer.text(), format!("{method} {content}"));
            assert_eq!(answer.cache(), outcome, "{method} {fields:?} {content}");
        }
    }
    assert_eq!(client.send("HEAD", "/q", &[], "").await.cache(), "HIT");
    assert_eq!(app.count("/q"), asked.len());
}

#[tokio::test]
async fn a_route_is_for_queries_where_its_methods_say_so() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /with, methods: [QUERY], ttl: 1m }, { path: /without, ttl: 1m }]")
        .start()
        .await;
    for (path, outcome) in [("/with", "HIT"), ("/without", "BYPASS")] {
        for _ in 0..2 {
            larder.client().send("QUERY", path, &[JSON], "a").await;
        }
        let answer = larder.client().send("QUERY", path, &[JSON], "a").await;
        assert_eq!(answer.cache(), outcome, "{path}");
    }
}

#[tokio::test]
async fn too_much_content_is_passed_as_it_comes() {
    let app = App::says(|seen| Answer::public(seen.body.len().to_string())).await;
    let larder = larder(&app).start().await;
    let client = larder.client();
    let (most, more) = (64 * 1024, 64 * 1024 + 1);
    for (size, outcome) in [
        (most, "MISS"),
        (most, "HIT"),
        (more, "BYPASS"),
        (more, "BYPASS"),
    ] {
        let answer = client.send("QUERY", "/q", &[JSON], "x".repeat(size)).await;
        assert_eq!(
            (answer.text(), answer.cache()),
            (size.to_string(), outcome.into())
        );
    }
    assert!(
        client
            .send("QUERY", "/q", &[JSON], "x".repeat(more))
            .await
            .header("cache-status")
            .contains("too-large")
    );
    // Without a length nobody knows before: what was read goes first, and the rest behind it.
    let pieces = 9;
    let mut request = b"QUERY /chunked HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut sent = Vec::new();
    for piece in 0..pieces {
        let piece = vec![b'a' + piece; 10_000];
        request.extend_from_slice(b"2710\r\n");
        request.extend_from_slice(&piece);
        request.extend_from_slice(b"\r\n");
        sent.extend_from_slice(&piece);
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert!(client.raw(&request).await.contains("too-large"));
    assert_eq!(app.last("/chunked").body, sent);
}

#[tokio::test]
async fn content_in_chunks_is_the_same_content_and_trailers_make_it_another_question() {
    let app = echo().await;
    let larder = larder(&app).start().await;
    let client = larder.client();
    client.send("QUERY", "/q", &[], "hello").await;
    let head = "QUERY /q HTTP/1.1\r\nHost: ";
    let host = larder.address;
    let rest =
        "\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n";
    let answer = client
        .raw(format!("{head}{host}{rest}\r\n").as_bytes())
        .await;
    assert!(
        answer.contains("x-cache: HIT") && answer.contains("QUERY hello"),
        "{answer}"
    );
    let answer = client
        .raw(format!("{head}{host}{rest}X-T: 1\r\n\r\n").as_bytes())
        .await;
    assert!(
        answer.contains("x-cache: BYPASS") && answer.contains("QUERY hello"),
        "{answer}"
    );
}

#[tokio::test]
async fn those_who_ask_the_same_at_a_time_share_one_fetch() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| Answer::public(seen.text()).behind(&held)).await;
    let larder = larder(&app).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..40 {
        let client = larder.client();
        let content = if number % 2 == 0 { "even" } else { "odd" };
        clients.spawn(async move { (content, client.send("QUERY", "/q", &[JSON], content).await) });
    }
    eventually("both questions are asked", async || {
        (app.count("/q") == 2).then_some(())
    })
    .await;
    gate.open();
    while let Some(answer) = clients.join_next().await {
        let (content, answer) = answer.unwrap();
        assert_eq!(answer.text(), content);
    }
    assert_eq!(app.count("/q"), 2);
}

#[tokio::test]
async fn what_changes_the_resource_ends_answers_to_queries_too() {
    let app = echo().await;
    let larder = larder(&app)
        .yaml("routes: [{ name: query, path: /routed, methods: [QUERY], ttl: 1h, key: { query: [] } }, { path: /routed, ttl: 1h }]")
        .start()
        .await;
    let client = larder.client();
    for path in ["/q", "/routed"] {
        let query = async || client.send("QUERY", path, &[JSON], "a").await.cache();
        assert_eq!(query().await, "MISS");
        client.send("QUERY", path, &[JSON], "b").await;
        assert_eq!(query().await, "HIT", "a QUERY changes nothing");
        client.post(path, &[], "x").await;
        assert_eq!(query().await, "MISS", "{path}");
        assert_eq!(
            larder
                .purge(serde_json::json!({ "urls": [path] }))
                .await
                .status,
            200
        );
        assert_eq!(query().await, "STALE", "{path}: a purge by URL is soft");
    }
}

#[tokio::test]
async fn what_is_stale_is_validated_by_the_same_question() {
    let app = App::says(|seen| match seen.header("if-none-match") {
        Some("\"1\"") => Answer::raw(
            "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nCache-Control: max-age=60\r\n\r\n",
        ),
        _ => Answer::ok(seen.text())
            .header("ETag", "\"1\"")
            .header("Cache-Control", "max-age=60"),
    })
    .await;
    let larder = larder(&app).manual_clock().start().await;
    let client = larder.client();
    client.send("QUERY", "/q", &[JSON], "a").await;
    larder.advance("2m").await;
    let answer = client.send("QUERY", "/q", &[JSON], "a").await;
    assert_eq!(
        (answer.cache(), answer.text()),
        ("REVALIDATED".into(), "a".into())
    );
    let seen = app.last("/q");
    assert_eq!((seen.method.as_str(), seen.text().as_str()), ("QUERY", "a"));
    // The client's own conditions are judged from the store, its ranges are for the app.
    let fields = [JSON, ("If-None-Match", "\"1\"")];
    assert_eq!(client.send("QUERY", "/q", &fields, "a").await.status, 304);
    let before = app.count("/q");
    let range = [JSON, ("Range", "bytes=0-0")];
    let answer = client.send("QUERY", "/q", &range, "a").await;
    assert_eq!(
        (answer.cache(), app.count("/q")),
        ("BYPASS".into(), before + 1)
    );
    assert_eq!(app.last("/q").header("range"), Some("bytes=0-0"));
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_is_no_reason_to_fail_it() {
    let app = App::says(|seen| match seen.path() {
        "/close" => Answer::ok("x").then_close(),
        _ => Answer::ok(seen.text()),
    })
    .await;
    let larder = larder(&app).yaml("workers: 1").start().await;
    let client = larder.client();
    for round in 0..20 {
        client.get("/close").await;
        let content = format!("{round}");
        let answer = client.send("QUERY", "/q", &[JSON], content.clone()).await;
        assert_eq!((answer.status, answer.text()), (200, content));
    }
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_keeps_nobody_else_waiting() {
    let app = echo().await;
    let larder = larder(&app)
        .upstream(None)
        .yaml(&format!(
            "upstream: {{ url: \"{}\", timeout: 1s }}",
            app.url()
        ))
        .start()
        .await;
    let mut slow = larder.client().socket().await;
    slow.write_all(b"QUERY /q HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        .await
        .unwrap();
    let other = larder.client().send("QUERY", "/q", &[JSON], "other").await;
    assert_eq!(other.text(), "QUERY other");
    let mut said = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), slow.read_to_end(&mut said))
        .await
        .expect("it is given up")
        .unwrap();
    assert!(
        String::from_utf8_lossy(&said).starts_with("HTTP/1.1 400"),
        "{said:?}"
    );
    assert_eq!(app.count("/q"), 1);
}

#[tokio::test]
async fn without_redis_it_is_read_and_answered_as_fast() {
    let app = echo().await;
    let redis = RedisServer::start().await;
    let larder = larder(&app).redis(&redis).start().await;
    let client = larder.client();
    client.send("QUERY", "/q", &[JSON], "a").await;
    redis.stop();
    let mut socket = client.socket().await;
    socket
        .write_all(
            b"QUERY /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\na",
        )
        .await
        .unwrap();
    assert_eq!(
        client.send("QUERY", "/q", &[JSON], "a").await.text(),
        "QUERY a"
    );
    socket.write_all(b"b").await.unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).await.unwrap();
    assert!(said.ends_with("QUERY ab"), "{said}");
    redis.resume();
}
