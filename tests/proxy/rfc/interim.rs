//! Interim answers (RFC 9110 §15.2; RFC 8297): the one who asks gets them, nothing keeps them.

use super::*;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const PROCESSING: &str = "HTTP/1.1 102 Processing\r\nX-Interim: 1\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
     Cache-Control: max-age=3600\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\n\r\n";
const HINTS_AS_SENT: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nlink: </b>\r\ncache-control: max-age=3600\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend";
const FRESH: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nCache-Control: max-age=60\r\nETag: \"1\"\r\n\r\nend";

/// A client's connection, read message by message.
struct Wire(BufReader<TcpStream>);

impl Wire {
    async fn to(larder: &Larder) -> Self {
        let socket = TcpStream::connect(larder.address).await.unwrap();
        Self(BufReader::new(socket))
    }

    async fn says(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// The next head, as it was written.
    async fn head(&mut self) -> String {
        let read = async {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                let read = self.0.read_line(&mut head).await.unwrap();
                assert!(read > 0, "the connection ended: {head}");
            }
            head
        };
        tokio::time::timeout(PATIENCE, read).await.expect("a head")
    }

    /// The answer itself, which has to come next: its head and its content.
    async fn answer(&mut self) -> (String, Vec<u8>) {
        let head = self.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("a length").parse().unwrap();
        let mut body = vec![0; length];
        tokio::time::timeout(PATIENCE, self.0.read_exact(&mut body))
            .await
            .expect("a body")
            .unwrap();
        (head, body)
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[tokio::test]
async fn it_reaches_the_client_while_the_app_still_thinks_rfc8297_2() {
    let gate = Gate::closed();
    let slow = gate.clone();
    let app = App::says(move |_| Answer::raw(HINTS).then_wait(&slow).then(ANSWER)).await;
    let larder = larder(&app).start().await;
    for request in [
        get("/hints"),
        "POST /hints HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".into(),
    ] {
        let mut wire = Wire::to(&larder).await;
        wire.says(&request).await;
        assert_eq!(wire.head().await, HINTS_AS_SENT);
        gate.open();
        let (head, body) = wire.answer().await;
        assert_eq!(body, b"end");
        for field in ["link", "x-hop", "set-cookie", "max-age"] {
            assert!(!head.contains(field), "{field}: {head}");
        }
    }
}

#[tokio::test]
async fn several_come_in_their_order_before_an_answer_that_came_with_them_rfc9110_15_2() {
    let app = App::says(|_| Answer::raw(format!("{PROCESSING}{HINTS}{ANSWER}"))).await;
    let larder = larder(&app).start().await;
    let mut wire = Wire::to(&larder).await;
    for _ in 0..20 {
        wire.says(&get("/several")).await;
        assert_eq!(
            wire.head().await,
            "HTTP/1.1 102 Processing\r\nx-interim: 1\r\n\r\n"
        );
        assert_eq!(wire.head().await, HINTS_AS_SENT);
        assert_eq!(wire.answer().await.1, b"end");
    }
}

#[tokio::test]
async fn neither_who_follows_nor_a_hit_gets_one_and_none_is_stored_rfc9110_15_2() {
    let gate = Gate::closed();
    let slow = gate.clone();
    let app = App::says(move |_| Answer::raw(HINTS).then_wait(&slow).then(FRESH)).await;
    let larder = larder(&app).yaml(PLAIN).start().await;
    let mut leader = Wire::to(&larder).await;
    leader.says(&get("/shared")).await;
    assert_eq!(leader.head().await, HINTS_AS_SENT);
    let mut follower = Wire::to(&larder).await;
    follower.says(&get("/shared")).await;
    eventually("the other waits for the fetch", async || {
        let metrics = larder.metrics().await;
        metrics.contains("larder_cache_coalescing 1").then_some(())
    })
    .await;
    gate.open();
    let (first, _) = leader.answer().await;
    let (second, _) = follower.answer().await;
    let mut third = Wire::to(&larder).await;
    third.says(&get("/shared")).await;
    let (hit, body) = third.answer().await;
    assert_eq!(app.count("/shared"), 1);
    assert!(hit.contains("; hit"), "{hit}");
    assert_eq!(body, b"end");
    for head in [first, second, hit] {
        assert!(!head.contains("link") && !head.contains("3600"), "{head}");
    }
}

#[tokio::test]
async fn one_before_a_304_to_our_own_question_goes_to_who_asked_rfc9111_4_3_3() {
    let app = App::says(|seen| match seen.header("if-none-match") {
        Some(_) => Answer::raw(format!(
            "{HINTS}HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n"
        )),
        None => Answer::raw(FRESH),
    })
    .await;
    let larder = larder(&app).yaml(PLAIN).manual_clock().start().await;
    let mut wire = Wire::to(&larder).await;
    wire.says(&get("/again")).await;
    wire.answer().await;
    larder.advance("90s").await;
    wire.says(&get("/again")).await;
    assert_eq!(wire.head().await, HINTS_AS_SENT);
    let (head, body) = wire.answer().await;
    assert!(head.contains("fwd-status=304"), "{head}");
    assert_eq!(body, b"end");
    assert!(!head.contains("link"), "{head}");
}

#[tokio::test]
async fn clients_that_do_not_know_them_get_the_answer_alone_rfc9110_15_2() {
    let app = App::says(|_| Answer::raw(format!("{HINTS}{ANSWER}"))).await;
    let larder = larder(&app).start().await;
    let old = Client::new(larder.address)
        .raw(b"GET /old HTTP/1.0\r\nHost: a\r\n\r\n")
        .await;
    assert!(old.starts_with("HTTP/1.0 200 "), "{old}");
    assert!(!old.contains("103"), "{old}");
    let socket = TcpStream::connect(larder.address).await.unwrap();
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(driver);
    let request = http::Request::get("http://a/two")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("link"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "end");
}

#[tokio::test]
async fn the_100_that_a_client_expects_is_ours_and_comes_once_rfc9110_10_1_1() {
    let app = App::says(|seen| {
        assert_eq!(seen.header("expect"), None);
        Answer::raw(format!("HTTP/1.1 100 Continue\r\n\r\n{HINTS}{ANSWER}"))
    })
    .await;
    let larder = larder(&app).start().await;
    let mut wire = Wire::to(&larder).await;
    wire.says(
        "POST /expects HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    )
    .await;
    assert_eq!(wire.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    wire.says("body").await;
    assert_eq!(wire.head().await, HINTS_AS_SENT);
    assert_eq!(wire.answer().await.1, b"end");
    assert_eq!(app.last("/expects").text(), "body");
    // Who expects none gets none, whatever the app says.
    wire.says(&get("/plain")).await;
    assert_eq!(wire.head().await, HINTS_AS_SENT);
    assert_eq!(wire.answer().await.1, b"end");
}

#[tokio::test]
async fn pipelined_requests_find_each_before_its_own_answer_rfc9112_9_3_2() {
    const REQUESTS: usize = 30;
    let app = App::says(|seen| {
        let number: usize = seen.path()[1..].parse().unwrap();
        let body = vec![b'a' + (number % 26) as u8; 200_000];
        Answer::raw(format!(
            "HTTP/1.1 103 Early Hints\r\nLink: <{number}>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ))
        .then(body)
    })
    .await;
    let larder = larder(&app).start().await;
    let mut wire = Wire::to(&larder).await;
    let all: String = (0..REQUESTS)
        .map(|number| get(&format!("/{number}")))
        .collect();
    wire.says(&all).await;
    // Nobody reads yet: the first answers fill what the sockets hold.
    eventually("the first requests are under way", async || {
        (app.total() > 1).then_some(())
    })
    .await;
    for number in 0..REQUESTS {
        assert_eq!(
            wire.head().await,
            format!("HTTP/1.1 103 Early Hints\r\nlink: <{number}>\r\n\r\n")
        );
        let (_, body) = wire.answer().await;
        assert!(body.iter().all(|byte| *byte == b'a' + (number % 26) as u8));
        assert_eq!(body.len(), 200_000);
    }
}

#[tokio::test]
async fn one_that_is_too_long_is_dropped_and_the_answer_comes_rfc9110_15_2() {
    let app = App::says(|_| {
        let long = "x".repeat(10_000);
        Answer::raw(format!(
            "HTTP/1.1 103 Early Hints\r\nLink: <{long}>\r\n\r\n{HINTS}{ANSWER}"
        ))
    })
    .await;
    let larder = larder(&app).start().await;
    let mut wire = Wire::to(&larder).await;
    wire.says(&get("/long")).await;
    assert_eq!(wire.head().await, HINTS_AS_SENT);
    assert_eq!(wire.answer().await.1, b"end");
}

#[tokio::test]
async fn one_before_a_switch_of_protocols_goes_first_rfc9110_15_2() {
    let app = App::says(|_| {
        Answer::raw(format!("{PROCESSING}HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"))
            .then_echo()
    })
    .await;
    let larder = larder(&app).start().await;
    let mut wire = Wire::to(&larder).await;
    wire.says(
        "GET /switch HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    .await;
    assert!(wire.head().await.starts_with("HTTP/1.1 102 "));
    assert!(wire.head().await.starts_with("HTTP/1.1 101 "));
    wire.says("HTTP/1.1 103 Early Hints\r\n\r\n").await;
    assert!(wire.head().await.starts_with("HTTP/1.1 103 "), "the echo");
}
