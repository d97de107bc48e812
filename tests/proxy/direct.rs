//! Plain GETs that hyper never learns of, between requests that it serves: the same answers, in
//! order, on one connection.

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

    /// The next answer: its head and its content, chunks and all.
    async fn hear(&mut self) -> (String, Vec<u8>) {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(self.read[..end].to_vec()).unwrap();
                let rest = &self.read[end + 4..];
                let told = fields(&head);
                let length = match told.get("content-length") {
                    _ if head.starts_with("HTTP/1.1 103") => Some(0),
                    _ if ["204", "304"].contains(&&head[9..12]) => Some(0),
                    Some(length) => Some(length.parse::<usize>().unwrap()),
                    None => {
                        assert_eq!(told["transfer-encoding"], "chunked", "{head}");
                        let end = rest.windows(5).position(|five| five == b"0\r\n\r\n");
                        end.map(|end| end + 5)
                    }
                };
                if let Some(length) = length.filter(|length| rest.len() >= *length) {
                    let content = rest[..length].to_vec();
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

/// The fields of an answer without what is another's in each.
fn same(head: &str) -> BTreeMap<String, String> {
    let mut told = fields(head);
    for name in ["x-response-time", "x-request-id", "x-trace-id", "date"] {
        assert!(told.remove(name).is_some(), "{name}: {head}");
    }
    told
}

#[tokio::test]
async fn what_has_to_be_waited_for_is_answered_in_the_same_words() {
    let app = App::says(|seen| match seen.path().rsplit('/').next() {
        Some("length") => Answer::ok("x".repeat(300_000)).header("X-Cache", "the app's"),
        Some("chunks") => Answer::chunked("Cache-Status: app; hit\r\n", &["one", "two", "three"]),
        Some("late") => Answer::ok("late").after(Duration::from_millis(20)),
        Some("nothing") => Answer::new(204, ""),
        Some("same") => Answer::new(304, ""),
        Some("empty") => Answer::ok(""),
        Some("lost") => Answer::new(404, "not here").header("Referrer-Policy", "origin"),
        _ => Answer::raw("no answer at all"),
    })
    .await;
    let larder = larder(&app)
        .yaml("routes: [{ name: never, path: /never/*, no_store: true }]")
        .start()
        .await;
    let (mut past, mut by_hyper) = (Talk::with(&larder).await, Talk::with(&larder).await);
    let words = [
        "length", "chunks", "late", "nothing", "same", "empty", "lost", "broken",
    ];
    for word in words {
        for path in [format!("/{word}"), format!("/never/{word}")] {
            past.say(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            let (head, content) = past.hear().await;
            by_hyper
                .say(&format!(
                    "GET {path} HTTP/1.1\r\nHost: a\r\nX_Odd: 1\r\n\r\n"
                ))
                .await;
            let (as_ever, same_content) = by_hyper.hear().await;
            assert_eq!(head.lines().next(), as_ever.lines().next(), "{path}");
            assert_eq!(same(&head), same(&as_ever), "{path}");
            let trace = |head: &str| fields(head)["x-trace-id"].clone();
            let text = |content: Vec<u8>, head: &str| {
                String::from_utf8(content)
                    .unwrap()
                    .replace(&trace(head), "ID")
            };
            assert_eq!(text(content, &head), text(same_content, &as_ever), "{path}");
        }
    }
}

#[tokio::test]
async fn a_hit_that_only_redis_has_is_answered_in_the_same_words() {
    let redis = RedisServer::start().await;
    let app = App::says(|seen| {
        Answer::public(format!("[{}]", seen.target))
            .header("ETag", "\"a\"")
            .header("Vary", "Accept-Language")
    })
    .await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml("cache: { memory: 0B }")
        .start()
        .await;
    let mut talk = Talk::with(&larder).await;
    eventually("Redis has it", async || {
        talk.say(HIT).await;
        let (head, _) = talk.hear().await;
        head.contains("larder; hit").then_some(())
    })
    .await;
    let asked = app.count("/hit");
    talk.say(HIT).await;
    let (head, content) = talk.hear().await;
    talk.say("GET /hit HTTP/1.1\r\nHost: a\r\nX_Odd: 1\r\n\r\n")
        .await;
    let (by_hyper, same_content) = talk.hear().await;
    assert_eq!((same(&head), content), (same(&by_hyper), same_content));
    assert_eq!(app.count("/hit"), asked);
}

#[tokio::test]
async fn what_is_said_ahead_of_an_answer_is_answered_in_its_turn() {
    let app = App::says(|seen| match seen.path() {
        "/slow" => Answer::ok("slow").after(Duration::from_millis(100)),
        "/hit" => Answer::public("hit"),
        _ => Answer::ok(format!("[{} {}]", seen.method, seen.text())),
    })
    .await;
    let larder = larder(&app).start().await;
    let slow = "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let long = format!(
        "GET /get HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n",
        "x".repeat(5_000)
    );
    for ahead in [HIT, slow, post, &long] {
        let mut talk = Talk::with(&larder).await;
        for _ in 0..2 {
            talk.say(slow).await;
            // It comes while the answer is waited for, and in pieces.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let (first, rest) = ahead.split_at(ahead.len() / 2);
            talk.say(first).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            talk.say(rest).await;
            talk.say(HIT).await;
            assert_eq!(talk.text().await, "slow");
            let said = talk.text().await;
            assert!(
                ["hit", "slow", "[POST abc]", "[GET ]"].contains(&&*said),
                "{said}"
            );
            assert_eq!(talk.text().await, "hit");
        }
    }
}

#[tokio::test]
async fn interim_answers_come_before_the_answer_that_is_waited_for() {
    let gate = Gate::closed();
    let held = gate.clone();
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast";
    let app = App::says(move |seen| match seen.path() {
        "/held" => Answer::raw(hints).then_wait(&held).then(last),
        _ => Answer::raw([hints, last].concat()),
    })
    .await;
    let larder = larder(&app).start().await;
    let mut talk = Talk::with(&larder).await;
    for path in ["/held", "/at-once"] {
        talk.say(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let (head, _) = talk.hear().await;
        assert!(
            head.starts_with("HTTP/1.1 103") && head.contains("a.css"),
            "{head}"
        );
        gate.open();
        assert_eq!(talk.text().await, "last");
    }
}

#[tokio::test]
async fn a_client_that_goes_is_waited_for_no_longer() {
    let never = Gate::closed();
    let app = App::says(move |seen| match seen.path() {
        "/never/begun" => {
            Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun").then_wait(&never)
        }
        _ => Answer::ok("x").behind(&never),
    })
    .await;
    let larder = larder(&app)
        .yaml("routes: [{ name: never, path: /never/*, no_store: true }]")
        .start()
        .await;
    let active = async || {
        let metrics = larder.metrics().await;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("http_server_active_requests"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok())
            .unwrap_or(0)
    };
    let kinds = [
        "",
        "X_Odd: 1\r\n",
        "Connection: close\r\n",
        "Connection: close\r\nX_Odd: 1\r\n",
    ];
    let paths = ["/never", "/never/begun", "/stored"];
    for (path, kind) in paths
        .into_iter()
        .flat_map(|path| kinds.map(|kind| (path, kind)))
    {
        let mut talk = Talk::with(&larder).await;
        talk.say(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{kind}\r\n"))
            .await;
        eventually("it is under way", async || {
            (active().await == 1).then_some(())
        })
        .await;
        drop(talk);
        eventually(&format!("it is given up: {path} {kind}"), async || {
            (active().await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_end_of_larder_waits_for_answers_that_hyper_does_not_know_of() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| match seen.path() {
        "/begun" => Answer::chunked("", &["one"]).behind(&held),
        _ => Answer::ok("whole").behind(&held),
    })
    .await;
    let mut larder = larder(&app)
        .yaml("shutdown: { delay: 0s, grace: 10s }")
        .start()
        .await;
    let (mut one, mut two) = (Talk::with(&larder).await, Talk::with(&larder).await);
    one.say("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    two.say("GET /begun HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("both are with the app", async || {
        (app.total() == 2).then_some(())
    })
    .await;
    larder.signal("TERM");
    eventually("it takes no more", async || {
        let refused = TcpStream::connect(larder.address).await.is_err();
        refused.then_some(())
    })
    .await;
    gate.open();
    let (head, content) = one.hear().await;
    assert_eq!(
        (fields(&head)["connection"].as_str(), content),
        ("close", b"whole".to_vec())
    );
    assert_eq!(two.text().await, "3\r\none\r\n0\r\n\r\n");
    assert_eq!(larder.exit().await.code(), Some(0), "{}", larder.log());
}

#[tokio::test]
async fn what_we_say_of_limits_stands_in_place_of_what_is_stored_of_them() {
    let redis = RedisServer::start().await;
    let app = App::says(|_| Answer::public("hit").header("X-RateLimit-Limit", "7")).await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml("routes: [{ name: hit, path: /hit, ttl: 5m, limit: { rate: 100/min, per: [ip] } }]")
        .start()
        .await;
    let mut talk = Talk::with(&larder).await;
    for _ in 0..2 {
        talk.say(HIT).await;
        let (head, _) = talk.hear().await;
        let said: Vec<_> = (head.lines())
            .filter(|line| line.to_ascii_lowercase().starts_with("x-ratelimit-limit"))
            .collect();
        assert_eq!(said, ["x-ratelimit-limit: 100"], "{head}");
    }
}

#[tokio::test]
async fn an_answer_without_a_date_is_of_when_it_came() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| {
        Answer::raw("")
            .then_wait(&held)
            .then("HTTP/1.1 204 No Content\r\n\r\n")
    })
    .await;
    let larder = larder(&app).manual_clock().start().await;
    let (mut before, mut after) = (Talk::with(&larder).await, Talk::with(&larder).await);
    let get = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\n\r\n";
    before.say(get).await;
    eventually("it is with the app", async || {
        (app.total() == 1).then_some(())
    })
    .await;
    larder.advance("20s").await;
    gate.open();
    after.say(get).await;
    let (before, after) = (before.hear().await.0, after.hear().await.0);
    assert_eq!(fields(&before)["date"], fields(&after)["date"]);
}
