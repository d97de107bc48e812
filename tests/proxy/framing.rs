//! Messages that are wrong, odd or late, on both sides: what is refused, what is repaired, and that
//! the app has seen exactly what clients were answered for.

use crate::support::*;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// What came back for some bytes on a connection of their own.
#[derive(Debug)]
struct Talk {
    text: String,
    /// The other side ended the connection.
    closed: bool,
}

impl Talk {
    /// The status of each answer, in order.
    fn statuses(&self) -> Vec<u16> {
        let parts = self.text.split("HTTP/1.1 ").skip(1);
        parts
            .filter_map(|part| part.get(..3)?.parse().ok())
            .collect()
    }

    fn answered(&self) -> u64 {
        self.statuses()
            .iter()
            .filter(|status| **status == 200)
            .count() as u64
    }
}

async fn talk(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Talk {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let _ = socket.write_all(bytes.as_ref()).await;
    listen(&mut socket).await
}

/// Reads until the connection ends, or is silent for a while.
async fn listen(socket: &mut TcpStream) -> Talk {
    let (mut answer, mut piece) = (Vec::new(), [0; 8192]);
    let closed = loop {
        let read = tokio::time::timeout(Duration::from_millis(700), socket.read(&mut piece));
        match read.await {
            Ok(Ok(0) | Err(_)) => break true,
            Ok(Ok(read)) => answer.extend_from_slice(&piece[..read]),
            Err(_) => break false,
        }
    };
    let text = String::from_utf8_lossy(&answer).into_owned();
    Talk { text, closed }
}

/// The message with a wish to close, so that nobody has to wait for more.
fn closing(message: &str) -> String {
    message.replacen("Host: a", "Host: a\r\nConnection: close", 1)
}

const AFTER: &str = "GET /after HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_nothing_after_it_is_served() {
    let app = App::says(|_| Answer::public("x")).await;
    let larder = larder(&app).start().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9_000));
    let longer = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70_000));
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "a".repeat(33_000)
    );
    let larger = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "a".repeat(300_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(101)
    );
    let post =
        |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let get = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n");
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    let chunked = "Transfer-Encoding: chunked";
    let refused: Vec<(u16, String)> = vec![
        (
            400,
            post(&format!("Content-Length: 3\r\n{chunked}"), "0\r\n\r\n"),
        ),
        (
            400,
            post(&format!("{chunked}\r\nContent-Length: 3"), "0\r\n\r\n"),
        ),
        (
            400,
            post(
                &format!("{chunked}\r\nContent-Length: 3"),
                "3\r\nabc\r\n0\r\n\r\n",
            ),
        ),
        (400, post(&format!("{chunked}\r\n{chunked}"), "0\r\n\r\n")),
        (
            400,
            post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"),
        ),
        (501, post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n")),
        (
            400,
            post("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
        ),
        (400, post("Transfer-Encoding: \x0bchunked", "0\r\n\r\n")),
        (400, post("Transfer-Encoding : chunked", "0\r\n\r\n")),
        (400, post("Content-Length: 3\r\nContent-Length: 3", "abc")),
        (400, post("Content-Length: 3\r\nContent-Length: 4", "abc")),
        (400, post("Content-Length: 3, 3", "abc")),
        (400, post("Content-Length: +3", "abc")),
        (400, post("Content-Length: ", "")),
        (400, post("Content-Length: 99999999999999999999", "abc")),
        (
            400,
            format!("POST / HTTP/1.0\r\nHost: a\r\n{chunked}\r\n\r\n0\r\n\r\n"),
        ),
        (400, get("X: y")),
        (400, get("Host: a\r\nHost: b")),
        (400, get("Host: a\r\nHost: a")),
        (400, get("Host: a/b")),
        (400, get("Host: a, b")),
        (400, get("Host:")),
        (400, get("Host: a\r\n folded: x")),
        (400, get("Host: a\r\nX: a\rb")),
        (400, get("Host: a\r\nX: a\0b")),
        (400, line("GET http://b/ HTTP/1.1")),
        (400, line("GET http://u:p@a/ HTTP/1.1")),
        (405, line("CONNECT a:80 HTTP/1.1")),
        (405, line("TRACE / HTTP/1.1")),
        (400, line("GET * HTTP/1.1")),
        (400, line("GET a HTTP/1.1")),
        (400, line("GET /a#b HTTP/1.1")),
        (400, line("GET /a?b#c HTTP/1.1")),
        (400, line("GET  / HTTP/1.1")),
        (400, line("GET / HTTP/1.2")),
        (400, get("Host: a\r\nConnection: host")),
        (400, get("Host: a\r\nConnection: close, content-length")),
        (400, get("Host: a\r\nConnection: authorization")),
        (400, get("Host: a\r\nConnection: cookie")),
        (400, get("Host: a\r\nConnection: range")),
        (417, post("Expect: 200-ok\r\nContent-Length: 3", "abc")),
        (414, long),
        (431, large),
        (431, larger),
        (431, many),
    ];
    for (status, message) in refused {
        let shown: String = message.chars().take(120).collect();
        let alone = talk(larder.address, format!("{message}{AFTER}")).await;
        assert_eq!(alone.statuses(), [status], "{shown:?} got {}", alone.text);
        assert!(alone.closed, "{shown:?} leaves its connection open");
        // The same behind a good one, in one packet.
        let behind = talk(
            larder.address,
            format!("OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n{message}{AFTER}"),
        )
        .await;
        assert_eq!(
            behind.statuses(),
            [200, status],
            "{shown:?} got {}",
            behind.text
        );
        assert!(behind.closed);
    }
    // hyper stops reading before such a target ends, or just behind it.
    let longer = talk(larder.address, format!("{longer}{AFTER}")).await;
    assert!(
        longer.closed
            && [[414], [431]]
                .iter()
                .any(|status| longer.statuses() == status)
    );
    assert_eq!(
        app.count("/after"),
        0,
        "something after a refused message was served"
    );
    assert_eq!(
        app.total() as usize,
        app.count("/"),
        "only the good ones came"
    );
    assert!(
        app.seen("/")
            .iter()
            .all(|seen| seen.method == "OPTIONS" && seen.body.is_empty())
    );
    let metrics = larder.metrics().await;
    for reason in [
        "BAD_REQUEST",
        "METHOD_NOT_ALLOWED",
        "NOT_IMPLEMENTED",
        "EXPECTATION_FAILED",
        "URI_TOO_LONG",
        "HEADERS_TOO_LARGE",
    ] {
        assert!(
            metrics.contains(&format!(
                "larder_client_errors_total{{reason=\"{reason}\"}}"
            )),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn what_is_odd_but_clear_is_repaired_or_passed_on_byte_for_byte() {
    let app = App::says(|seen| Answer::ok(seen.body.clone())).await;
    let larder = larder(&app).start().await;
    let ask = async |message: &str| {
        let before = app.total();
        let talk = talk(larder.address, closing(message)).await;
        assert_eq!(talk.statuses(), [200], "{message:?} got {}", talk.text);
        assert_eq!(app.total(), before + 1);
        talk
    };
    let body =
        |fields: &str, body: &str| format!("POST /b HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    ask("get /odd HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(app.last("/odd").method, "get");
    ask("G!E#T /odd HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(app.last("/odd").method, "G!E#T");
    ask("\r\nGET /lf HTTP/1.1\nHost: a\nX: y\n\n").await;
    assert_eq!(app.last("/lf").header("x"), Some("y"));
    ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    ask("GET http://A/abs?x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(app.last("/abs").target, "/abs?x");
    ask(&body("Content-Length: 003", "abc")).await;
    assert_eq!(app.last("/b").header("content-length"), Some("3"));
    let zeros = "0".repeat(40);
    for chunks in [
        "3 \r\nabc\r\n0\r\n\r\n",
        &format!("{zeros}3\r\nabc\r\n0\r\n\r\n"),
        "3;x=\"y\"\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: b\r\nAuthorization: x\r\nX-Sum: 1\r\n\r\n",
    ] {
        let answer = ask(&body("Transfer-Encoding: chunked", chunks)).await;
        assert!(
            answer.text.ends_with("abc"),
            "{chunks:?} got {}",
            answer.text
        );
        assert_eq!(app.last("/b").text(), "abc");
    }
    for path in [
        "/ü",
        "/a\\b",
        "/x/../y",
        "/x/%2e%2e/y",
        "//z",
        "/a;b=c",
        "/%2F",
    ] {
        ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(app.last(path).target, path, "byte for byte");
    }
    let aliases = "X_Forwarded_For: 9.9.9.9\r\nContent_Length: 3\r\nTransfer_Encoding: chunked";
    ask(&format!(
        "GET /alias HTTP/1.1\r\nHost: a\r\n{aliases}\r\n\r\n"
    ))
    .await;
    let seen = app.last("/alias");
    for alias in ["x_forwarded_for", "content_length", "transfer_encoding"] {
        assert_eq!(seen.header(alias), None);
    }
    assert!(larder.metrics().await.contains("{reason=\"BARE_LF\"}"));
}

#[tokio::test]
async fn odd_paths_odd_methods_and_bodies_of_get_are_never_stored() {
    let app = App::says(|_| Answer::public("x")).await;
    let larder = larder(&app).start().await;
    for (path, message) in [
        ("/m", "get /m HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("/ü", "GET /ü HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("/x/../y", "GET /x/../y HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "/fat",
            "GET /fat HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        ),
        (
            "/fat2",
            "GET /fat2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
    ] {
        for _ in 0..2 {
            assert_eq!(
                talk(larder.address, closing(message)).await.statuses(),
                [200],
                "{message:?}"
            );
        }
        assert_eq!(app.count(path), 2, "{message:?}");
        if path.starts_with("/fat") {
            assert_eq!(app.last(path).text(), "abc", "the body is passed on");
        }
    }
}

#[tokio::test]
async fn the_app_sees_exactly_what_clients_were_answered_for() {
    let app = App::says(|seen| Answer::ok(format!("[{}]", seen.target))).await;
    let larder = larder(&app).start().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = smuggled.len();
    let chunked = "Transfer-Encoding: chunked";
    let messages = [
        // CL.TE, TE.CL and TE.TE
        format!(
            "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n{chunked}\r\n\r\n0\r\n\r\n{smuggled}",
            length + 5
        ),
        format!(
            "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n{chunked}\r\n\r\n{length:x}\r\n{smuggled}\r\n0\r\n\r\n"
        ),
        format!(
            "POST /3 HTTP/1.1\r\nHost: a\r\n{chunked}\r\nTransfer-encoding: x\r\n\r\n0\r\n\r\n{smuggled}"
        ),
        format!(
            "POST /4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"
        ),
        // CL.0: the body looks like a request and is one message's content.
        format!("POST /5 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{smuggled}"),
        format!("GET /6 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{smuggled}"),
        // 0.CL: an expectation, and the body at once all the same.
        format!(
            "POST /7 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n{smuggled}"
        ),
        // TE.0 and chunk tricks.
        format!(
            "OPTIONS /8 HTTP/1.1\r\nHost: a\r\n{chunked}\r\n\r\n{length:x}\r\n{smuggled}\r\n0\r\n\r\n"
        ),
        format!(
            "POST /9 HTTP/1.1\r\nHost: a\r\n{chunked}\r\n\r\n{length:x}\n{smuggled}\r\n0\r\n\r\n"
        ),
        format!("POST /10 HTTP/1.1\r\nHost: a\r\n{chunked}\r\n\r\n2\r\nabc\r\n0\r\n\r\n{smuggled}"),
        format!("POST /11 HTTP/1.1\r\nHost: a\r\n{chunked}\r\n\r\n0;\n\r\n\r\n{smuggled}"),
        format!("POST /12 HTTP/1.1\r\nHost: a\r\n{chunked}\r\n\r\nffffffffffffffff1\r\n{smuggled}"),
    ];
    for (number, message) in messages.iter().enumerate() {
        let before = app.total();
        let answered = talk(larder.address, message).await;
        let statuses = answered.statuses();
        assert!(
            !answered.text.contains("[/smuggled]") && !statuses.is_empty(),
            "{}: {}",
            number + 1,
            answered.text
        );
        let seen = app.total() - before;
        // One that broke off on its way may have begun with the app; it has never ended there.
        assert_eq!(
            seen,
            answered.answered(),
            "{}: {}",
            number + 1,
            answered.text
        );
    }
    assert_eq!(app.count("/smuggled"), 0);
}

#[tokio::test]
async fn a_hit_leaves_no_body_on_the_connection() {
    let app = App::says(|seen| Answer::public(format!("[{}]", seen.method))).await;
    let larder = larder(&app).start().await;
    larder.get_with("/hit", &[("Host", "a")]).await;
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    let fat = format!(
        "GET /hit HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}GET /hit HTTP/1.1\r\nHost: a\r\n\r\n",
        inner.len()
    );
    let answered = talk(larder.address, fat).await;
    assert_eq!(answered.statuses(), [200, 200], "{}", answered.text);
    assert_eq!(app.count("/inner"), 0);
}

#[tokio::test]
async fn a_thousand_pipelined_requests_are_answered_in_order() {
    let app = App::says(|seen| Answer::ok(format!("[{}]", seen.target))).await;
    let larder = larder(&app).start().await;
    let mut all = String::new();
    for n in 0..1_000 {
        match n % 4 {
            0 => all.push_str(&format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")),
            1 => all.push_str(&format!("POST /{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")),
            _ => all.push_str(&format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")),
        }
    }
    let mut socket = TcpStream::connect(larder.address).await.unwrap();
    let (mut reads, mut writes) = socket.split();
    let mut answers = Vec::new();
    let read = async {
        let mut piece = [0; 65536];
        while !contains(&answers[answers.len().saturating_sub(70_000)..], b"[/999]") {
            let read = tokio::time::timeout(PATIENCE, reads.read(&mut piece)).await;
            let read = read.expect("answers go on").unwrap();
            assert!(read > 0, "cut after {} bytes", answers.len());
            answers.extend_from_slice(&piece[..read]);
        }
    };
    let (written, ()) = tokio::join!(writes.write_all(all.as_bytes()), read);
    written.unwrap();
    let text = String::from_utf8_lossy(&answers);
    let order: Vec<usize> = text
        .split("[/")
        .skip(1)
        .map(|rest| rest.split(']').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(order, (0..1_000).collect::<Vec<_>>());
    assert_eq!(app.total(), 1_000);
}

#[tokio::test]
async fn bytes_behind_an_upgrade_go_nowhere_before_the_app_agrees() {
    let app = App::says(|seen| match seen.path() {
        "/never" => Answer::ok("no upgrade here"),
        "/odd" => Answer::raw(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
        ),
        _ => Answer::ok("x"),
    })
    .await;
    let larder = larder(&app).start().await;
    let upgrade = |path: &str, token: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\r\n{AFTER}"
        )
    };
    let refused = talk(larder.address, upgrade("/never", "websocket")).await;
    assert_eq!(
        refused.statuses(),
        [200, 200],
        "both are served as requests: {}",
        refused.text
    );
    assert_eq!((app.count("/never"), app.count("/after")), (1, 1));
    let odd = talk(larder.address, upgrade("/odd", "websocket")).await;
    assert_eq!(odd.statuses().first(), Some(&502), "{}", odd.text);
    let content = format!(
        "GET /content HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nGET /{AFTER}"
    );
    let answered = talk(larder.address, content).await;
    assert_eq!(answered.statuses(), [200, 200], "{}", answered.text);
    let seen = app.last("/content");
    assert_eq!(
        (seen.header("upgrade"), seen.text()),
        (None, "GET /".into())
    );
    // HTTP/2 in clear text by Upgrade would be a tunnel past every check.
    for token in ["h2c", "websocket, h2c"] {
        talk(larder.address, upgrade("/h2c", token)).await;
        assert_eq!(app.last("/h2c").header("upgrade"), None, "{token}");
    }
}

#[tokio::test]
async fn a_slow_head_is_cut_after_ten_seconds_and_an_idle_client_is_not() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).start().await;
    let mut idle = larder.client().socket().await;
    idle.write_all(AFTER.as_bytes()).await.unwrap();
    assert_eq!(listen(&mut idle).await.statuses(), [200]);
    let mut slow = larder.client().socket().await;
    let began = Instant::now();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n")
        .await
        .unwrap();
    let (mut reads, mut writes) = slow.split();
    let trickle = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if writes.write_all(b"X: y\r\n").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = trickle => {},
        _ = reads.read_to_end(&mut rest) => {},
        () = tokio::time::sleep(PATIENCE) => panic!("the slow client is still there"),
    }
    let took = began.elapsed();
    assert!((9..13).contains(&took.as_secs()), "cut after {took:?}");
    idle.write_all(AFTER.as_bytes()).await.unwrap();
    assert_eq!(
        listen(&mut idle).await.statuses(),
        [200],
        "the idle one is welcome"
    );
    assert_eq!(app.total(), 2);
}

#[tokio::test]
async fn a_refusal_arrives_although_the_client_sends_on() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).start().await;
    for fields in [
        "Transfer-Encoding: chunked\r\nContent-Length: 9",
        "Host: b\r\nContent-Length: 900000",
    ] {
        let mut socket = larder.client().socket().await;
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..8 {
            let _ = socket.write_all(&[b'x'; 50_000]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(listen(&mut socket).await.statuses(), [400], "{fields}");
    }
}

#[tokio::test]
async fn an_upload_may_take_longer_than_the_app_has_for_its_answer() {
    let app = App::says(|seen| Answer::ok(seen.body.len().to_string())).await;
    let larder = larder(&app)
        .upstream(None)
        .yaml(&format!(
            "upstream: {{ url: \"{}\", timeout: 400ms }}",
            app.url()
        ))
        .start()
        .await;
    let mut socket = larder.client().socket().await;
    socket
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        socket.write_all(b"x").await.unwrap();
    }
    assert!(listen(&mut socket).await.text.ends_with("10"));
    // A client that stops is at fault itself; the app is not said to be slow.
    let mut socket = larder.client().socket().await;
    socket
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx")
        .await
        .unwrap();
    assert_eq!(listen(&mut socket).await.statuses(), [400]);
}

#[tokio::test]
async fn a_panic_ends_one_request_and_nothing_else() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).manual_clock().start().await;
    let client = larder.client();
    for _ in 0..3 {
        let fallen = client.get_with("/", &[("Larder-Test-Panic", "1")]).await;
        assert_eq!(fallen.status, 500);
        assert_eq!(fallen.json()["code"], "INTERNAL_ERROR");
        assert!(!fallen.has("connection"), "the connection lives");
        assert_eq!(client.get("/").await.text(), "x");
    }
    assert!(
        larder
            .metrics()
            .await
            .contains("larder_client_errors_total{reason=\"INTERNAL_ERROR\"} 3")
    );
}

#[tokio::test]
async fn without_file_descriptors_accepting_rests_and_recovers() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).start().await;
    let limit = |number: &str| {
        let pid = larder.pid().to_string();
        let done = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={number}:")])
            .status();
        done.is_ok_and(|status| status.success())
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", larder.pid()))
        .unwrap()
        .count();
    if !limit(&(open + 8).to_string()) {
        return; // no prlimit here
    }
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(larder.client().socket().await);
    }
    larder.says("no connection can be accepted").await;
    drop(held);
    assert!(limit("1024"));
    assert_eq!(larder.get("/").await.text(), "x");
    let lines = larder
        .log()
        .matches("no connection can be accepted")
        .count();
    assert!(lines < 500, "{lines} lines: it spins");
}

// ---- the app's side ----

/// What the client of one request for `path` sees: the whole answer or a cut.
async fn asked(larder: &Larder, path: &str) -> Result<Response, String> {
    larder.client().try_send("GET", path, &[], "").await
}

#[tokio::test]
async fn answers_with_two_ends_are_a_502_and_their_connection_is_not_used_again() {
    const WRONG: [(&str, &str); 9] = [
        ("/both", "Transfer-Encoding: chunked\r\nContent-Length: 30"),
        ("/both2", "Content-Length: 30\r\nTransfer-Encoding: chunked"),
        ("/identity", "Transfer-Encoding: identity"),
        ("/gzip", "Transfer-Encoding: chunked, gzip"),
        (
            "/twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ),
        ("/differ", "Content-Length: 3\r\nContent-Length: 4"),
        ("/minus", "Content-Length: -3"),
        ("/fold", "X: a\r\n b\r\nContent-Length: 0"),
        ("/nul", "X: a\0b\r\nContent-Length: 0"),
    ];
    let (wrong, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (asked_wrong, asked_again) = (wrong.clone(), again.clone());
    let app = App::talks(move |socket| {
        let (wrong, again) = (asked_wrong.clone(), asked_again.clone());
        async move {
            let (mut socket, mut spoilt) = (BufReader::new(socket), false);
            while let Some(seen) = read_head(&mut socket).await {
                again.fetch_add(usize::from(spoilt), Ordering::Relaxed);
                let fields = WRONG.iter().find(|(path, _)| *path == seen.path());
                let answer = match fields {
                    Some((_, fields)) => format!(
                        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{fields}\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                    ),
                    None => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx".into(),
                };
                spoilt |= fields.is_some();
                wrong.fetch_add(usize::from(fields.is_some()), Ordering::Relaxed);
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let larder = larder(&app).start().await;
    for (number, (path, _)) in WRONG.iter().enumerate() {
        for times in 1..=2 {
            assert_eq!(asked(&larder, path).await.unwrap().status, 502, "{path}");
            let came = wrong.load(Ordering::Relaxed);
            assert_eq!(came, number * 2 + times, "{path} is not stored");
            assert_eq!(larder.get("/good").await.text(), "x");
        }
    }
    assert_eq!(
        again.load(Ordering::Relaxed),
        0,
        "a spoilt connection was used again"
    );
}

#[tokio::test]
async fn equal_lengths_become_one_and_surplus_bytes_end_the_connection() {
    let app = App::says(|seen| match seen.path() {
        "/equal" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc"),
        "/zeros" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 003\r\n\r\nabc"),
        "/surplus" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        _ => Answer::ok("x"),
    })
    .await;
    let larder = larder(&app).start().await;
    for path in ["/equal", "/zeros", "/surplus"] {
        let answer = asked(&larder, path).await.unwrap();
        assert_eq!(
            (answer.text(), answer.header("content-length")),
            ("abc".into(), "3".into()),
            "{path}"
        );
    }
    for _ in 0..5 {
        assert_eq!(larder.get("/good").await.text(), "x");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_passed_on_and_not_stored() {
    let app = App::says(|seen| {
        let version = if seen.path() == "/10" { "1.0" } else { "1.1" };
        Answer::raw(format!(
            "HTTP/{version} 200 OK\r\nCache-Control: max-age=60\r\n\r\nabc"
        ))
        .then_close()
    })
    .await;
    let larder = larder(&app).start().await;
    for path in ["/10", "/11"] {
        for times in 1..=2 {
            let answer = asked(&larder, path).await.unwrap();
            assert_eq!(
                (answer.text(), answer.header("transfer-encoding")),
                ("abc".into(), "chunked".into())
            );
            assert_eq!(app.count(path), times, "{path}");
        }
    }
}

#[tokio::test]
async fn a_cut_body_is_cut_for_every_reader_and_never_stored() {
    let app = App::says(|seen| {
        let (framing, part) = match seen.path() {
            "/length" => ("Content-Length: 100000", "a".repeat(50_000)),
            "/chunk" => (
                "Transfer-Encoding: chunked",
                format!("ffff\r\n{}", "a".repeat(50_000)),
            ),
            _ => (
                "Transfer-Encoding: chunked",
                format!("c350\r\n{}\r\n", "a".repeat(50_000)),
            ),
        };
        Answer::raw(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{framing}\r\n\r\n{part}"
        ))
        .then_pause(Duration::from_millis(150))
        .then_close()
    })
    .await;
    let larder = larder(&app).start().await;
    for path in ["/length", "/chunk", "/last-chunk"] {
        let asks = (0..5).map(|_| asked(&larder, path));
        for outcome in futures(asks).await {
            assert!(outcome.is_err(), "{path}: a part passed for the whole");
        }
        let before = app.count(path);
        let _ = asked(&larder, path).await;
        assert_eq!(app.count(path), before + 1, "{path} is not stored");
    }
}

async fn futures<T: Send + 'static>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(move |context| {
        pending.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        match pending.is_empty() {
            true => std::task::Poll::Ready(std::mem::take(&mut done)),
            false => std::task::Poll::Pending,
        }
    })
    .await
}

#[tokio::test]
async fn trailers_bring_nothing_that_belongs_in_a_head() {
    let app = App::says(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n")
            .then_chunk("abc")
            .then("0\r\nX-Sum: 1\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\nCache-Control: no-store\r\nHost: b\r\n\r\n")
    })
    .await;
    let larder = larder(&app).start().await;
    for _ in 0..2 {
        let text = talk(
            larder.address,
            "GET /t HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
        )
        .await
        .text;
        let (_, end) = text.split_once("abc").unwrap();
        let end = end.to_ascii_lowercase();
        for gone in ["set-cookie", "content-length", "cache-control", "host"] {
            assert!(!end.contains(gone), "{gone}: {end}");
        }
    }
}

#[tokio::test]
async fn statuses_nobody_asked_for_are_not_passed_on() {
    let app = App::says(|seen| match seen.path() {
        "/101" => Answer::raw("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
        "/999" => Answer::raw("HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n"),
        "/099" => Answer::raw("HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n"),
        "/304" => Answer::raw("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nCache-Control: max-age=60\r\n\r\n"),
        "/206" => Answer::raw("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-2/9\r\nCache-Control: max-age=60\r\nContent-Length: 3\r\n\r\nabc"),
        _ => Answer::raw("NOT HTTP AT ALL\r\n\r\n").then_close(),
    })
    .await;
    let larder = larder(&app).start().await;
    for path in ["/101", "/999", "/099", "/304", "/garbage"] {
        assert_eq!(asked(&larder, path).await.unwrap().status, 502, "{path}");
    }
    for times in 1..=2 {
        let _ = asked(&larder, "/206").await;
        assert_eq!(app.count("/206"), times, "a part is not stored");
    }
}

#[tokio::test]
async fn sixteen_interim_answers_are_patience_enough() {
    let app = App::says(|seen| {
        let few = seen.path() == "/few";
        let interim =
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(if few { 10 } else { 1_000 });
        Answer::raw(interim).then("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
    })
    .await;
    let endless = App::talks(|mut socket| async move {
        let mut bytes = [0; 4096];
        let read = socket.read(&mut bytes).await.unwrap_or(0);
        let health = contains(&bytes[..read.max(11)], b"/api/health");
        while !health
            && socket
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await
                .is_ok()
        {}
        let _ = socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await;
    })
    .await;
    let larder_of_many = larder(&app).start().await;
    assert_eq!(asked(&larder_of_many, "/few").await.unwrap().text(), "x");
    let larder_of_endless = larder(&endless).start_unready().await;
    let began = Instant::now();
    assert_eq!(asked(&larder_of_endless, "/").await.unwrap().status, 502);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "long before the timeout"
    );
}

#[tokio::test]
async fn an_app_that_closes_idle_connections_is_asked_once_more_if_that_is_safe() {
    let app = App::says(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
            .then_pause(Duration::from_millis(3))
            .then_close()
    })
    .await;
    let larder = larder(&app).start().await;
    let client = larder.client();
    for n in 0..300 {
        // Just when the app closes what was kept.
        tokio::time::sleep(Duration::from_micros(2_000 + 10 * n)).await;
        let method = ["GET", "HEAD", "PUT", "DELETE"][n as usize % 4];
        assert_eq!(
            client.send(method, &format!("/{n}"), &[], "").await.status,
            200,
            "{method} {n}"
        );
    }
    for n in 0..100 {
        tokio::time::sleep(Duration::from_micros(2_000 + 30 * n)).await;
        client.send("POST", &format!("/p{n}"), &[], "body").await;
        assert!(
            app.count(&format!("/p{n}")) <= 1,
            "a POST is never sent twice"
        );
    }
}

/// The app closes what idles just as the next request comes, thousands of times.
#[tokio::test]
async fn an_app_that_closes_idle_connections_costs_no_get() {
    let app = App::says(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
            .then_pause(Duration::from_micros(400))
            .then_close()
    })
    .await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /*, no_store: true }]")
        .start()
        .await;
    let asked = (0..8).map(|who| {
        let client = larder.client();
        tokio::spawn(async move {
            for n in 0..500_u64 {
                let pause = (n * 37 + who * 101) % 1_500;
                tokio::time::sleep(Duration::from_micros(pause)).await;
                let answer = client.get(&format!("/{who}/{n}")).await;
                assert_eq!((answer.status, answer.text()), (200, "x".into()), "{n}");
            }
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    assert!(app.total() >= 4_000);
}

#[tokio::test]
async fn an_app_that_breaks_off_a_connection_it_promised_to_keep_is_not_asked_again() {
    let app = App::says(|seen| match seen.path() {
        "/kept" => {
            Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nKeep-Alive: timeout=60\r\n\r\nx")
        }
        _ => Answer::raw("").then_close(),
    })
    .await;
    let larder = larder(&app).start().await;
    let client = larder.client();
    for n in 0..10 {
        assert_eq!(client.get("/kept").await.status, 200);
        let path = format!("/crash{n}");
        assert_eq!(client.get(&path).await.status, 502);
        assert_eq!(
            app.count(&path),
            1,
            "what broke the app off is not sent twice"
        );
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_upload_has_ended_costs_the_connection() {
    let again = Arc::new(AtomicUsize::new(0));
    let counter = again.clone();
    let app = App::talks(move |mut socket| {
        let again = counter.clone();
        async move {
            let (mut bytes, mut spoilt) = ([0; 4096], false);
            while let Ok(read @ 1..) = socket.read(&mut bytes).await {
                let next = contains(&bytes[..read], b"GET /");
                again.fetch_add(usize::from(spoilt && next), Ordering::Relaxed);
                let answer: &[u8] = match (spoilt, next) {
                    (_, true) => b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
                    (false, false) => b"HTTP/1.1 401 No\r\nContent-Length: 1\r\n\r\nx",
                    (true, false) => b"", // more of the upload
                };
                spoilt |= !next;
                if socket.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let larder = larder(&app).start_unready().await;
    for _ in 0..5 {
        let mut socket = larder.client().socket().await;
        let head = "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nfirst";
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        let read = tokio::time::timeout(PATIENCE, socket.read_exact(&mut first));
        read.await.expect("at once").unwrap();
        assert_eq!(&first, b"HTTP/1.1 401");
        for _ in 0..4 {
            assert_eq!(larder.get("/next").await.status, 200);
        }
    }
    let again = again.load(Ordering::Relaxed);
    assert_eq!(again, 0, "an upload's connection was used again");
}

#[tokio::test]
async fn heads_beyond_reason_from_the_app_are_a_502() {
    let app = App::says(|seen| {
        let fields = match seen.path() {
            "/many" => "X: y\r\n".repeat(101),
            "/large" => format!("X: {}\r\n", "a".repeat(600_000)),
            _ => "X: \u{fc}\r\n".into(),
        };
        Answer::raw(format!(
            "HTTP/1.1 200 OK\r\n{fields}Content-Length: 1\r\n\r\nx"
        ))
    })
    .await;
    let larder = larder(&app).start().await;
    for path in ["/many", "/large"] {
        assert_eq!(asked(&larder, path).await.unwrap().status, 502, "{path}");
    }
    assert_eq!(
        asked(&larder, "/bytes").await.unwrap().headers["x"].as_bytes(),
        "ü".as_bytes()
    );
}

#[tokio::test]
async fn a_reader_that_stands_still_does_not_hold_the_fetch_of_others() {
    let big = "x".repeat(900_000);
    let body = big.clone();
    let app =
        App::says(move |_| Answer::public(body.clone()).after(Duration::from_millis(200))).await;
    let larder = larder(&app).start().await;
    // The leader asks, and reads nothing.
    let mut still = larder.client().socket().await;
    still
        .write_all(format!("GET /big HTTP/1.1\r\nHost: {}\r\n\r\n", larder.address).as_bytes())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    assert_eq!(larder.get("/big").await.body.len(), big.len());
    assert!(began.elapsed() < Duration::from_secs(5));
    eventually("it is stored", async || {
        (larder.get("/big").await.cache() == "HIT").then_some(())
    })
    .await;
    assert_eq!(app.count("/big"), 1);
}

// ---- HTTP/2 ----

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn http2(address: SocketAddr) -> Sender {
    let socket = TcpStream::connect(address).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (sender, driver) = handshake.await.unwrap();
    tokio::spawn(driver);
    sender
}

async fn ask2(
    sender: &mut Sender,
    request: http::request::Builder,
    body: &str,
) -> Option<(u16, String)> {
    let request = request
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request))
        .await
        .expect("an answer")
        .ok()?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test]
async fn http_2_by_prior_knowledge_goes_through_the_same_checks() {
    let app = App::says(|seen| Answer::ok(format!("[{}]", seen.text()))).await;
    let larder = larder(&app).start().await;
    let mut sender = http2(larder.address).await;
    let get = |target: &str| http::Request::get(target);
    assert_eq!(
        ask2(&mut sender, get("http://a/x"), "").await.unwrap(),
        (200, "[]".into())
    );
    assert_eq!(app.last("/x").header("host"), Some("a"));
    assert_eq!(
        ask2(&mut sender, http::Request::post("http://a/x"), "body")
            .await
            .unwrap()
            .1,
        "[body]"
    );
    let before = app.total();
    let refused = [
        (400, get("http://a/x").header("host", "b")),
        (
            400,
            get("http://a/x").header("host", "a").header("host", "a"),
        ),
        (400, get("http://u@a/x")),
        (417, get("http://a/x").header("expect", "200-ok")),
        (405, http::Request::connect("http://a/x")),
        (
            405,
            http::Request::builder().method("TRACE").uri("http://a/x"),
        ),
        (414, get(&format!("http://a/{}", "a".repeat(9_000)))),
        (431, get("http://a/x").header("x", "a".repeat(33_000))),
    ];
    for (status, request) in refused {
        let shown = format!("{request:?}").chars().take(150).collect::<String>();
        let mut sender = http2(larder.address).await;
        match ask2(&mut sender, request, "").await {
            Some((got, _)) => assert_eq!(got, status, "{shown}"),
            // The client's own library would not send it, or the stream was reset.
            None => eprintln!("no answer: {shown}"),
        }
    }
    assert_eq!(app.total(), before, "a refused one reached the app");
    assert_eq!(
        ask2(&mut sender, get("http://a/x").header("host", "a"), "")
            .await
            .unwrap()
            .0,
        200
    );
}

#[tokio::test]
async fn a_panic_in_one_stream_leaves_the_others() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::ok("x").behind(&held)).await;
    let larder = larder(&app).manual_clock().start().await;
    let sender = http2(larder.address).await;
    let (mut one, mut two) = (sender.clone(), sender);
    let waiting =
        tokio::spawn(async move { ask2(&mut one, http::Request::get("http://a/x"), "").await });
    let fallen = http::Request::get("http://a/y").header("larder-test-panic", "1");
    assert_eq!(ask2(&mut two, fallen, "").await.unwrap().0, 500);
    gate.open();
    assert_eq!(waiting.await.unwrap().unwrap(), (200, "x".into()));
}

#[tokio::test]
async fn one_client_cannot_open_more_streams_than_allowed() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::ok("x").behind(&held)).await;
    let larder = larder(&app).start().await;
    let sender = http2(larder.address).await;
    let mut all = Vec::new();
    for n in 0..200 {
        let mut sender = sender.clone();
        all.push(tokio::spawn(async move {
            let target = format!("http://a/{n}");
            ask2(&mut sender, http::Request::get(target), "").await
        }));
    }
    eventually("as many as allowed are with the app", async || {
        (app.total() >= 128).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(app.total(), 128, "the others wait in the client");
    gate.open();
    for one in all {
        assert_eq!(one.await.unwrap().unwrap().0, 200);
    }
}
