//! Trailer fields (RFC 9110 §6.5): they come with the answer, are stored with it and given again to
//! those who take them.

use super::*;
use http::HeaderMap;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// What an app says that announces one of its trailer fields, and not the other.
const SAYS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nETag: \"1\"\r\n\
     Cache-Control: max-age=3600\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\nX-Sum: 8\r\n\r\n";

fn ask(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close, TE\r\n{fields}\r\n")
}

async fn raw(larder: &Larder, request: &str) -> String {
    let answer = larder.client().raw(request.as_bytes()).await;
    answer.to_ascii_lowercase()
}

/// By HTTP/2: status, content and trailers.
async fn two(larder: &Larder, method: &str, target: &str) -> (u16, bytes::Bytes, HeaderMap) {
    let socket = TcpStream::connect(larder.address).await.unwrap();
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(driver);
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://a{target}"))
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    (status, body.to_bytes(), trailers)
}

fn sums(trailers: &HeaderMap) -> Vec<&str> {
    let values = trailers.get_all("x-sum").iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn who_takes_trailers_gets_them_from_the_app_and_from_the_store_rfc9110_6_5_1() {
    let app = App::says(|_| Answer::raw(SAYS)).await;
    let larder = larder(&app).yaml(PLAIN).start().await;
    for _ in 0..2 {
        let answer = raw(&larder, &ask("/a", "TE: trailers\r\n")).await;
        assert!(answer.contains("\r\ntrailer: x-sum\r\n"), "{answer}");
        assert!(
            answer.ends_with("\r\n0\r\nx-sum: 7\r\nx-sum: 8\r\n\r\n"),
            "{answer}"
        );
    }
    let (status, body, trailers) = two(&larder, "GET", "/a").await;
    assert_eq!((status, &body[..]), (200, &b"hello"[..]));
    assert_eq!(sums(&trailers), ["7", "8"]);
    assert_eq!(app.count("/a"), 1);
}

#[tokio::test]
async fn the_app_is_asked_for_them_whoever_asks_first_rfc9110_10_1_4() {
    let app = App::says(|seen| {
        assert_eq!(seen.header("te"), Some("trailers"));
        assert_eq!(seen.header("connection"), Some("te"));
        Answer::raw(SAYS)
    })
    .await;
    let larder = larder(&app).yaml(PLAIN).start().await;
    let first = raw(&larder, &ask("/a", "")).await;
    assert!(
        first.contains("hello") && !first.contains("x-sum: 7"),
        "{first}"
    );
    let second = raw(&larder, &ask("/a", "TE: trailers\r\n")).await;
    assert!(second.contains("x-sum: 7"), "{second}");
    assert_eq!(app.count("/a"), 1);
}

#[tokio::test]
async fn who_does_not_take_them_gets_the_content_with_its_length_rfc9110_6_5_1() {
    let app = App::says(|_| Answer::raw(SAYS)).await;
    let larder = larder(&app).yaml(PLAIN).start().await;
    raw(&larder, &ask("/a", "")).await;
    for request in [
        ask("/a", ""),
        ask("/a", "TE: gzip\r\n"),
        "GET /a HTTP/1.0\r\nHost: a\r\nTE: trailers\r\n\r\n".into(),
    ] {
        let answer = raw(&larder, &request).await;
        assert!(answer.contains("content-length: 5\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
        assert!(!answer.contains("trailer:"), "{answer}");
    }
    assert_eq!(app.count("/a"), 1);
}

#[tokio::test]
async fn heads_parts_and_304s_have_none_rfc9110_6_5() {
    let app = App::says(|_| Answer::raw(SAYS)).await;
    let larder = larder(&app).yaml(PLAIN).start().await;
    raw(&larder, &ask("/a", "")).await;
    let takes = "TE: trailers\r\n";
    for (status, request) in [
        (206, ask("/a", &format!("{takes}Range: bytes=0-1\r\n"))),
        (304, ask("/a", &format!("{takes}If-None-Match: \"1\"\r\n"))),
        (200, ask("/a", takes).replace("GET", "HEAD")),
    ] {
        let answer = raw(&larder, &request).await;
        assert!(
            answer.starts_with(&format!("http/1.1 {status} ")),
            "{answer}"
        );
        assert!(!answer.contains("x-sum"), "{answer}");
        assert!(!answer.contains("transfer-encoding"), "{answer}");
    }
    let (status, body, trailers) = two(&larder, "HEAD", "/a").await;
    assert_eq!((status, body.len(), trailers.len()), (200, 0, 0));
    assert_eq!(app.count("/a"), 1);
}

#[tokio::test]
async fn fields_that_were_not_announced_are_announced_when_they_are_known_rfc9110_6_6_2() {
    let app = App::says(|_| Answer::raw(SAYS.replace("Trailer: X-Sum\r\n", ""))).await;
    let larder = larder(&app).yaml(PLAIN).start().await;
    raw(&larder, &ask("/a", "")).await;
    let answer = raw(&larder, &ask("/a", "TE: trailers\r\n")).await;
    assert!(answer.contains("\r\ntrailer: x-sum\r\n"), "{answer}");
    assert!(answer.contains("x-sum: 7"), "{answer}");
    assert_eq!(app.count("/a"), 1);
}

#[tokio::test]
async fn forbidden_ones_are_neither_passed_on_nor_stored_rfc9110_6_5_1() {
    let app = App::says(|_| {
        Answer::raw(SAYS.replace(
            "X-Sum: 7\r\n",
            "X-Sum: 7\r\nSet-Cookie: a=b\r\nCache-Control: no-store\r\nAge: 9\r\nContent-Type: x/y\r\nAuthorization: z\r\n",
        ))
    })
    .await;
    let larder = larder(&app).yaml(PLAIN).start().await;
    for _ in 0..2 {
        let (_, _, trailers) = two(&larder, "GET", "/a").await;
        assert_eq!(sums(&trailers), ["7", "8"]);
        assert_eq!(trailers.len(), 2, "{trailers:?}");
    }
    assert_eq!(app.count("/a"), 1);
}

#[tokio::test]
async fn too_many_end_the_answer_and_keep_it_out_of_the_store() {
    let many: String = (0..2_000).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let app = App::says(move |_| Answer::raw(SAYS.replace("X-Sum: 7\r\n", &many))).await;
    let larder = larder(&app).yaml(PLAIN).start().await;
    for times in 1..=2 {
        let cut = larder.client().try_send("GET", "/a", &[], "").await;
        assert!(cut.is_err(), "{cut:?}");
        assert_eq!(app.count("/a"), times);
    }
}

#[tokio::test]
async fn they_are_in_redis_too() {
    let redis = RedisServer::start().await;
    let app = App::says(|_| Answer::raw(SAYS)).await;
    let one = larder(&app).yaml(PLAIN).redis(&redis).start().await;
    let other = larder(&app).yaml(PLAIN).redis(&redis).start().await;
    one.redis_is(true).await;
    other.redis_is(true).await;
    two(&one, "GET", "/a").await;
    eventually("it is in Redis", async || {
        contains(&redis.everything_written(), b"x-sum").then_some(())
    })
    .await;
    let (_, body, trailers) = two(&other, "GET", "/a").await;
    assert_eq!(
        (&body[..], sums(&trailers)),
        (&b"hello"[..], vec!["7", "8"])
    );
    let answer = raw(&other, &ask("/a", "TE: trailers\r\n")).await;
    assert!(answer.contains("x-sum: 7"), "{answer}");
    assert_eq!(app.count("/a"), 1);
}
