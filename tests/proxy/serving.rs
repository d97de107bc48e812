//! What passes through: methods, bodies, fields, errors of the app.

use crate::support::*;
use bytes::Bytes;
use http_body_util::BodyExt;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

#[tokio::test]
async fn a_host_that_is_not_named_is_misdirected_and_reaches_neither_store_nor_app() {
    let app = App::says(|seen| Answer::public(seen.header("host").unwrap_or_default())).await;
    let larder = larder(&app)
        .yaml("hosts: [shop.test, \"*.cdn.test\"]")
        .start()
        .await;
    let client = larder.client();
    let ask = async |host: &str| client.send("GET", "/", &[("Host", host)], "").await;
    for host in ["shop.test", "SHOP.test.:8080", "img.cdn.test"] {
        assert_eq!(ask(host).await.status, 200, "{host}");
    }
    assert_eq!(ask("shop.test").await.cache(), "HIT");
    let asked = app.count("/");
    for host in ["evil.test", "shop.test.evil.test", "cdn.test", "127.0.0.1"] {
        let refused = ask(host).await;
        assert_eq!(refused.status, 421, "{host}");
        assert_eq!(refused.json()["code"], "MISDIRECTED");
        assert_eq!(refused.header("cache-control"), "no-store");
    }
    assert_eq!(app.count("/"), asked);
    // The connection is fine: the next request on it may be for a host that is served.
    assert_eq!(ask("shop.test").await.cache(), "HIT");
}

#[tokio::test]
async fn methods_statuses_cookies_and_redirects_pass_untouched() {
    let app = App::says(|seen| match seen.path() {
        "/moved" => Answer::new(302, "").header("Location", "/there?x=1"),
        "/cookies" => Answer::ok("")
            .header("Set-Cookie", "a=1; Path=/")
            .header("Set-Cookie", "b=2; HttpOnly"),
        "/empty" => Answer::new(204, ""),
        _ => Answer::new(
            if seen.method == "DELETE" { 410 } else { 200 },
            format!("{} {}", seen.method, seen.text()),
        ),
    })
    .await;
    let larder = larder(&app).start().await;
    let client = larder.client();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let body = if method == "GET" { "" } else { "text" };
        let answer = client.send(method, "/", &[], body).await;
        assert_eq!(answer.text(), format!("{method} {body}"));
        assert_eq!(answer.status, if method == "DELETE" { 410 } else { 200 });
    }
    let moved = client.get("/moved").await;
    assert_eq!(
        (moved.status, moved.header("location")),
        (302, "/there?x=1".into())
    );
    let cookies = client.get_with("/cookies", &[("Cookie", "x=1; y=2")]).await;
    assert_eq!(cookies.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(app.last("/cookies").header("cookie"), Some("x=1; y=2"));
    assert_eq!(client.get("/empty").await.status, 204);
}

#[tokio::test]
async fn head_has_the_length_of_get_and_no_body() {
    let app = App::says(|_| Answer::public("twelve bytes")).await;
    let larder = larder(&app).start().await;
    let raw = larder
        .client()
        .raw(
            format!(
                "HEAD / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                larder.address
            )
            .as_bytes(),
        )
        .await;
    assert!(raw.starts_with("HTTP/1.1 200"), "{raw}");
    assert!(
        raw.to_ascii_lowercase().contains("content-length: 12"),
        "{raw}"
    );
    assert!(raw.ends_with("\r\n\r\n"), "{raw}");
    // A stored GET answers HEAD; a HEAD never answers GET (RFC 9110 §9.3.2).
    assert_eq!(larder.get("/").await.text(), "twelve bytes");
    let head = larder.client().send("HEAD", "/", &[], "").await;
    assert_eq!((head.cache(), head.body.len()), ("HIT".into(), 0));
}

#[tokio::test]
async fn chunked_bodies_arrive_whole_and_as_they_come() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| {
        Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .then_chunk("first ")
            .then_wait(&held)
            .then_chunk("second")
            .then("0\r\n\r\n")
    })
    .await;
    let larder = larder(&app).start().await;
    let mut answer = larder
        .client()
        .open("GET", "/", &[], Bytes::new())
        .await
        .unwrap();
    let first = answer
        .body_mut()
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    assert_eq!(
        first, "first ",
        "the first chunk does not wait for the second"
    );
    gate.open();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "second"
    );
}

#[tokio::test]
async fn an_event_arrives_at_once_and_is_never_stored() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| {
        Answer::raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            .then_chunk("data: 1\n\n")
            .then_wait(&held)
            .then_chunk("data: 2\n\n")
            .then("0\r\n\r\n")
    })
    .await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /events, ttl: 1m }]")
        .start()
        .await;
    let client = larder.client();
    let mut answer = client
        .open(
            "GET",
            "/events",
            &[("Accept", "text/event-stream")],
            Bytes::new(),
        )
        .await
        .unwrap();
    let first = tokio::time::timeout(Duration::from_secs(5), answer.body_mut().frame()).await;
    assert_eq!(
        first
            .expect("at once")
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap(),
        "data: 1\n\n"
    );
    gate.open();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "data: 2\n\n"
    );
    larder.get("/events").await;
    assert_eq!(
        app.count("/events"),
        2,
        "every listener has a stream of its own"
    );
}

#[tokio::test]
async fn an_upload_streams_before_it_is_whole() {
    const TOTAL: usize = 50 << 20;
    let (told, mut tells) = tokio::sync::mpsc::channel::<usize>(1024);
    let app = App::talks(move |socket| {
        let told = told.clone();
        async move {
            let mut socket = BufReader::new(socket);
            let Some(head) = read_head(&mut socket).await else {
                return;
            };
            if head.path() == "/api/health" {
                let _ = socket
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
                return;
            }
            let (mut seen, mut piece) = (0, vec![0; 1 << 16]);
            while seen < TOTAL {
                let Ok(read @ 1..) = socket.read(&mut piece).await else {
                    return;
                };
                seen += read;
                let _ = told.try_send(seen);
            }
            let _ = socket
                .write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwhole",
                )
                .await;
        }
    })
    .await;
    let larder = larder(&app).start().await;
    let mut socket = larder.client().socket().await;
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {TOTAL}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![7; 1 << 20];
    socket.write_all(&piece).await.unwrap();
    let early = tokio::time::timeout(PATIENCE, tells.recv())
        .await
        .expect("the app reads while we still send");
    assert!(early.unwrap() < TOTAL);
    for _ in 1..50 {
        socket.write_all(&piece).await.unwrap();
    }
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("whole"),
        "{answer}"
    );
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_hop_and_ours_are_added() {
    let app = App::says(|_| {
        Answer::ok("x")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Authenticate", "Basic")
            .header("X-App", "kept")
    })
    .await;
    let larder = larder(&app).start().await;
    let answer = larder
        .get_with(
            "/",
            &[
                ("Keep-Alive", "timeout=9"),
                ("Proxy-Authorization", "x"),
                ("TE", "gzip"),
                ("Connection", "X-Hop"),
                ("X-Hop", "1"),
                ("X-End", "2"),
            ],
        )
        .await;
    let seen = app.last("/");
    for gone in ["keep-alive", "proxy-authorization", "x-hop", "upgrade"] {
        assert_eq!(seen.header(gone), None, "{gone} reached the app");
    }
    assert_eq!(seen.header("x-end"), Some("2"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(
        seen.header("x-forwarded-host"),
        Some(larder.address.to_string().as_str())
    );
    assert!(
        seen.header("via").is_some_and(|via| via.contains("larder")),
        "{seen:?}"
    );
    assert!(!answer.has("keep-alive") && !answer.has("proxy-authenticate"));
    assert_eq!(answer.header("x-app"), "kept");
    assert!(
        answer.header("via").contains("larder"),
        "{:?}",
        answer.headers
    );
}

#[tokio::test]
async fn a_strangers_x_forwarded_for_is_replaced_and_a_trusted_proxys_extended() {
    let app = App::says(|_| Answer::ok("x")).await;
    let forged = [("X-Forwarded-For", "9.9.9.9")];
    let strict = larder(&app).start().await;
    strict.get_with("/", &forged).await;
    assert_eq!(app.last("/").header("x-forwarded-for"), Some("127.0.0.1"));
    let trusting = larder(&app)
        .yaml("identity: { trusted_proxies: [\"127.0.0.0/8\"] }")
        .start()
        .await;
    trusting.get_with("/", &forged).await;
    assert_eq!(
        app.last("/").header("x-forwarded-for"),
        Some("9.9.9.9, 127.0.0.1")
    );
    // A byte that is no text, which the client wrote, takes nothing of the chain away.
    let odd = b"GET /odd HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: \xe9, 9.9.9.9\r\nConnection: close\r\n\r\n";
    trusting.client().raw(odd).await;
    let seen = app.last("/odd");
    let chain = seen.header("x-forwarded-for").unwrap();
    assert!(chain.ends_with(", 9.9.9.9, 127.0.0.1"), "{chain}");
}

#[tokio::test]
async fn request_ids_and_trace_context_are_passed_on_or_made() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let answer = larder
        .get_with(
            "/",
            &[("X-Request-Id", "abc-123"), ("traceparent", &parent)],
        )
        .await;
    let seen = app.last("/");
    assert_eq!(seen.header("x-request-id"), Some("abc-123"));
    assert_eq!(answer.header("x-request-id"), "abc-123");
    assert!(
        seen.header("traceparent")
            .is_some_and(|value| value.contains(trace)),
        "{seen:?}"
    );
    larder.get_with("/", &[("X-Request-Id", "bad id {}")]).await;
    let made = app.last("/");
    let id = made.header("x-request-id").unwrap();
    assert!(
        !id.is_empty()
            && id
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)),
        "{id}"
    );
    assert_eq!(made.header("traceparent").map(str::len), Some(55));
}

#[tokio::test]
async fn an_app_that_is_down_is_a_502_in_the_configured_shape() {
    let app = App::says(|_| Answer::ok("x")).await;
    app.down().await;
    let plain = larder(&app).start_unready().await;
    let answer = plain.get("/api/x").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.json()["status"], 502);
    assert!(answer.json()["title"].is_string());
    let exodrive = larder(&app)
        .yaml("errors: { body: exodrive }")
        .start_unready()
        .await;
    let answer = exodrive.get("/api/x").await;
    assert_eq!(answer.status, 502);
    let error = &answer.json()["error"];
    for member in ["code", "message", "timestamp", "traceId"] {
        assert!(error[member].is_string(), "{member}: {error}");
    }
    assert_eq!(exodrive.admin().get("/readyz").await.status, 503);
    app.up().await;
    assert_eq!(plain.get("/api/x").await.text(), "x");
}

#[tokio::test]
async fn an_app_that_is_slow_is_a_504_after_the_timeout() {
    let never = Gate::closed();
    let app = App::says(move |_| Answer::ok("x").behind(&never)).await;
    for (shape, member) in [("problem", "status"), ("exodrive", "error")] {
        let larder = larder(&app)
            .upstream(None)
            .yaml(&format!(
                "upstream: {{ url: \"{}\", timeout: 300ms }}\nerrors: {{ body: {shape} }}",
                app.url()
            ))
            .start_unready()
            .await;
        let started = Instant::now();
        let answer = larder.get("/api/x").await;
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert!(!answer.json()[member].is_null());
        assert!((300..3000).contains(&started.elapsed().as_millis()));
    }
}

#[tokio::test]
async fn an_app_that_breaks_off_cuts_the_client_too_and_nothing_is_stored() {
    let app = App::says(|seen| {
        let head = if seen.path() == "/length" {
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 1000\r\n\r\n12345"
        } else {
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"
        };
        Answer::raw(head).then_pause(Duration::from_millis(50)).then_reset()
    })
    .await;
    let larder = larder(&app).start_unready().await;
    for path in ["/length", "/chunked"] {
        for times in 1..=2 {
            let cut = larder.client().try_send("GET", path, &[], "").await;
            // Either the cut is seen, or nothing had left yet and a 502 says so.
            assert!(
                cut.is_err() || cut.is_ok_and(|answer| answer.status == 502),
                "{path}"
            );
            assert_eq!(app.count(path), times, "{path} is not stored");
        }
    }
}

#[tokio::test]
async fn a_connection_the_app_reset_before_answering_is_a_502_or_a_retry() {
    let app = App::says(|_| Answer::raw("").then_reset()).await;
    let larder = larder(&app).start_unready().await;
    assert_eq!(larder.get("/").await.status, 502);
    let posted = larder.client().post("/pay", &[], "{}").await;
    assert_eq!(posted.status, 502);
    assert_eq!(app.count("/pay"), 1, "a POST is never sent twice");
}

#[tokio::test]
async fn requests_that_can_be_read_in_two_ways_are_refused_and_never_reach_the_app() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).start().await;
    let two_ways = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    ];
    for message in two_ways {
        let answer = larder.client().raw(message.as_bytes()).await;
        let refused = ["400", "405", "501"]
            .iter()
            .any(|status| answer.starts_with(&format!("HTTP/1.1 {status}")));
        assert!(refused, "{message:?} got {answer:?}");
    }
    assert_eq!(app.total(), 0);
}

#[tokio::test]
async fn connections_to_the_app_are_kept_and_reused() {
    let app = App::says(|_| Answer::ok("x")).await;
    let network = FaultProxy::before(app.address).await;
    let larder = larder(&app)
        .upstream(Some(format!("http://{}", network.address)))
        .start()
        .await;
    let client = larder.client();
    for n in 0..200 {
        client.get(&format!("/{n}")).await;
    }
    // Workers have a pool each, and health checks have theirs.
    assert!(
        network.accepted() < 20,
        "{} connections for 200 requests",
        network.accepted()
    );
}

#[tokio::test]
async fn why_the_app_gives_no_answer_is_told_once() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).start().await;
    app.down().await;
    for _ in 0..5 {
        assert_eq!(larder.get("/").await.status, 502);
    }
    larder.says("the app gave no usable answer").await;
    let log = larder.log();
    let told = |line: &&str| line.contains("the app gave no usable answer");
    let lines: Vec<_> = log.lines().filter(told).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("refused the connection"), "{log}");
    assert!(lines[0].contains("\"error.type\":\"connect\""), "{log}");
}
