//! Hits that hyper never learns of, between requests that it serves: the same answers, in order, on
//! one connection.

use crate::support::*;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HIT: &str = "GET /hit HTTP/1.1\r\nHost: a\r\n\r\n";

/// A client's connection, read answer by answer.
struct Talk {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Talk {
    async fn with(larder: &Larder) -> Self {
        let socket = larder.client().socket().await;
        Self {
            socket,
            read: Vec::new(),
        }
    }

    async fn say(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer: its head and its content. Only for answers with a length.
    async fn hear(&mut self) -> (String, Vec<u8>) {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(self.read[..end].to_vec()).unwrap();
                let length = fields(&head)["content-length"].parse::<usize>().unwrap();
                if self.read.len() >= end + 4 + length {
                    let content = self.read[end + 4..end + 4 + length].to_vec();
                    self.read.drain(..end + 4 + length);
                    return (head, content);
                }
            }
            let mut piece = [0; 4096];
            let read = self.socket.read(&mut piece);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await;
            match read.expect("an answer in time").unwrap() {
                0 => panic!(
                    "the connection ended: {}",
                    String::from_utf8_lossy(&self.read)
                ),
                read => self.read.extend_from_slice(&piece[..read]),
            }
        }
    }

    async fn text(&mut self) -> String {
        String::from_utf8(self.hear().await.1).unwrap()
    }
}

fn fields(head: &str) -> BTreeMap<String, String> {
    let fields = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "));
    let lower = |(name, value): (&str, &str)| (name.to_ascii_lowercase(), value.to_owned());
    fields.map(lower).collect()
}

#[tokio::test]
async fn both_ways_give_the_same_answer() {
    let app = App::says(|seen| {
        Answer::public(format!("[{}]", seen.target))
            .header("ETag", "\"a\"")
            .header("X-App", "one")
            .header("Cache-Status", "app; hit")
            .header("Vary", "Accept-Language")
    })
    .await;
    let larder = larder(&app).start().await;
    let mut talk = Talk::with(&larder).await;
    talk.say(HIT).await;
    talk.hear().await;
    talk.say(HIT).await;
    let (head, content) = talk.hear().await;
    // A field with an underscore is hyper's to read.
    talk.say("GET /hit HTTP/1.1\r\nHost: a\r\nX_Odd: 1\r\n\r\n")
        .await;
    let (by_hyper, same) = talk.hear().await;
    assert_eq!(content, same);
    assert_eq!(head.lines().next(), by_hyper.lines().next());
    let told = |head: &str| {
        let mut fields = fields(head);
        for name in ["x-response-time", "x-request-id", "x-trace-id"] {
            assert!(fields.remove(name).is_some(), "{name}: {head}");
        }
        fields
    };
    assert_eq!(told(&head), told(&by_hyper));
    assert!(head.contains("larder; hit; ttl="), "{head}");
    assert_eq!(app.count("/hit"), 1);
    let metrics = larder.metrics().await;
    let hits = metrics.lines().find(|line| {
        line.starts_with("larder_cache_requests_total") && line.contains("cache=\"hit\"")
    });
    assert!(hits.is_some_and(|line| line.ends_with(" 2")), "{hits:?}");
}

#[tokio::test]
async fn both_ways_refuse_in_the_same_words() {
    let limit =
        "routes: [{ name: hit, path: /hit, ttl: 5m, limit: { rate: 2/min, per: [ip, user] } }]";
    for shape in ["problem", "exodrive"] {
        let app = App::says(|_| Answer::public("hit")).await;
        let larder = larder(&app)
            .yaml(&format!("errors: {{ body: {shape} }}"))
            .yaml(limit)
            .manual_clock()
            .start()
            .await;
        let mut talk = Talk::with(&larder).await;
        for _ in 0..2 {
            talk.say(HIT).await;
            assert_eq!(talk.text().await, "hit");
        }
        let mut refusals = Vec::new();
        // The first refusal takes the long way, as do all those with an odd field.
        for odd in ["", "", "X_Odd: 1\r\n", ""] {
            talk.say(&format!("GET /hit HTTP/1.1\r\nHost: a\r\n{odd}\r\n"))
                .await;
            let (head, content) = talk.hear().await;
            assert!(head.starts_with("HTTP/1.1 429 Too Many Requests"), "{head}");
            let mut told = fields(&head);
            let trace_id = told.remove("x-trace-id").unwrap();
            // hyper's date is that of the machine.
            for name in ["x-response-time", "x-request-id", "date"] {
                assert!(told.remove(name).is_some(), "{name}: {head}");
            }
            assert_eq!(told["retry-after"], "60");
            let content = String::from_utf8(content).unwrap();
            refusals.push((told, content.replace(&trace_id, "ID")));
        }
        refusals.dedup();
        assert_eq!(refusals.len(), 1, "{refusals:#?}");
    }
}

#[tokio::test]
async fn hits_between_all_other_requests_are_answered_in_order() {
    let app = App::says(|seen| match seen.path() {
        "/slow" => Answer::ok("slow").after(Duration::from_millis(300)),
        "/hit" => Answer::public("hit"),
        _ => Answer::ok(format!("[{} {}]", seen.method, seen.text())),
    })
    .await;
    let larder = larder(&app).start().await;
    let mut talk = Talk::with(&larder).await;
    let post = "POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    for pieces in [1, 7, 1_000] {
        for request in [HIT, post, HIT, HIT, post, HIT] {
            for piece in request.as_bytes().chunks(pieces) {
                talk.say(std::str::from_utf8(piece).unwrap()).await;
                if pieces > 1 {
                    tokio::task::yield_now().await;
                }
            }
            let expected = if request == HIT { "hit" } else { "[POST abc]" };
            assert_eq!(talk.text().await, expected);
        }
    }
    // While hyper has an answer under way, what comes next waits for its turn.
    for pause in [0, 50] {
        talk.say("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        talk.say(HIT).await;
        talk.say(HIT).await;
        assert_eq!(talk.text().await, "slow");
        assert_eq!(talk.text().await, "hit");
        assert_eq!(talk.text().await, "hit");
    }
    assert_eq!(app.count("/hit"), 1);
}

#[tokio::test]
async fn the_last_request_of_a_connection_ends_it() {
    let app = App::says(|_| Answer::public("hit")).await;
    let larder = larder(&app).start().await;
    let mut first = Talk::with(&larder).await;
    first.say(HIT).await;
    assert_eq!(first.text().await, "hit");
    let last = "GET /hit HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let odd = "GET /hit HTTP/1.1\r\nHost: a\r\nX_Odd: 1\r\n\r\n";
    // As the first that a connection brings, behind another hit, and once hyper is there.
    for before in [vec![], vec![HIT], vec![odd], vec![odd, HIT]] {
        let mut talk = Talk::with(&larder).await;
        for request in &before {
            talk.say(request).await;
            let (head, _) = talk.hear().await;
            assert!(!fields(&head).contains_key("connection"), "{head}");
        }
        talk.say(last).await;
        let (head, content) = talk.hear().await;
        assert_eq!(fields(&head)["connection"], "close", "{before:?}");
        assert_eq!(content, b"hit");
        let mut rest = Vec::new();
        let end = talk.socket.read_to_end(&mut rest);
        let end = tokio::time::timeout(Duration::from_secs(20), end).await;
        assert_eq!(end.expect("an end in time").unwrap(), 0, "{before:?}");
    }
    assert_eq!(app.count("/hit"), 1);
}

#[tokio::test]
async fn a_large_hit_reaches_a_slow_reader_whole_and_holds_nobody_up() {
    let body: Vec<u8> = (0..900_000u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
    let large = body.clone();
    let app = App::says(move |seen| match seen.path() {
        "/large" => Answer::public(large.clone()),
        _ => Answer::public("small"),
    })
    .await;
    let larder = larder(&app).start().await;
    let mut slow = Talk::with(&larder).await;
    let mut quick = Talk::with(&larder).await;
    let get = "GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
    slow.say(get).await;
    assert_eq!(slow.hear().await.1, body);
    slow.say(get).await;
    // Nothing is read yet: the answer cannot have left whole.
    for _ in 0..3 {
        quick.say(HIT).await;
        assert_eq!(quick.text().await, "small");
    }
    slow.say("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(
        slow.hear().await.1,
        body,
        "whole, and before the next answer"
    );
    assert_eq!(slow.text().await, "small");
    assert_eq!(app.count("/large"), 1);
}

#[tokio::test]
async fn what_goes_through_a_tunnel_is_nobodys_request() {
    let app = App::says(|seen| match seen.path() {
        "/hit" => Answer::public("hit"),
        _ => Answer::raw(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n",
        )
        .then_echo(),
    })
    .await;
    let larder = larder(&app).start().await;
    let mut talk = Talk::with(&larder).await;
    talk.say(HIT).await;
    assert_eq!(talk.text().await, "hit");
    talk.say("GET /up HTTP/1.1\r\nHost: a\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n")
        .await;
    let mut socket = talk.socket;
    let mut read = vec![0; 16 * 1024];
    let mut got = 0;
    while !read[..got].ends_with(b"\r\n\r\n") {
        got += socket.read(&mut read[got..]).await.unwrap();
    }
    assert!(read.starts_with(b"HTTP/1.1 101"));
    socket.write_all(HIT.as_bytes()).await.unwrap();
    let mut echoed = vec![0; HIT.len()];
    socket.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, HIT.as_bytes());
}
