//! Bodies too large for one value: they stream while they are stored, in chunks, and come out again as
//! they went in, in bounded memory.

use crate::support::*;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const HOST: (&str, &str) = ("Host", "files.test");
const MIB: usize = 1024 * 1024;
const ROUTES: &str = r#"
cache: { max_body: 64MiB }
routes: [{ path: "/*", ttl: 5m, tags: ["all"] }]
"#;

/// Bytes that are nowhere the same over a while, so that what is misplaced is seen.
fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut content: Vec<u8> = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        content.extend_from_slice(&next());
    }
    content.truncate(bytes);
    content
}

/// An app that has one file, and gives parts of it where it is asked to.
async fn files(file: Vec<u8>) -> App {
    App::says(move |seen| file_of(&file, seen, "\"v1\"")).await
}

fn file_of(file: &[u8], seen: &Seen, etag: &str) -> Answer {
    let applies = seen.header("if-range").is_none_or(|named| named == etag);
    let range = seen.header("range").filter(|_| applies).and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let first: usize = first.parse().ok()?;
        let last = last.parse().unwrap_or(file.len() - 1);
        (first <= last && last < file.len()).then_some((first, last))
    });
    let answer = match range {
        Some((first, last)) => Answer::new(206, &file[first..=last]).header(
            "Content-Range",
            &format!("bytes {first}-{last}/{}", file.len()),
        ),
        None => Answer::new(200, file),
    };
    answer
        .header("ETag", etag)
        .header("Cache-Control", "public, max-age=60")
}

/// One request, for the same host whichever sidecar gets it.
async fn get(larder: &Larder, path: &str, headers: &[(&str, &str)]) -> Response {
    send(larder, "GET", path, headers).await
}

async fn send(larder: &Larder, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let headers = [&[HOST], headers].concat();
    larder.client().send(method, path, &headers, "").await
}

/// A sidecar that waits for Redis on however busy a machine: a slow one would be a miss.
async fn start(app: &App, redis: &RedisServer, yaml: &str) -> Larder {
    let patient = format!("{{ url: \"{}\", timeout: 10s }}", redis.url());
    let larder = larder(app).redis_block(patient).yaml(yaml).start().await;
    larder.redis_is(true).await;
    larder
}

async fn pair(app: &App, redis: &RedisServer) -> (Larder, Larder) {
    (
        start(app, redis, ROUTES).await,
        start(app, redis, ROUTES).await,
    )
}

fn same(got: &[u8], expected: &[u8], what: &str) {
    // Printed whole, it would fill the screen.
    assert!(got.len() == expected.len(), "{what}: {} bytes", got.len());
    assert!(got == expected, "{what}: other bytes");
}

#[tokio::test]
async fn a_large_body_is_stored_while_it_streams_and_every_sidecar_has_it_then() {
    let redis = RedisServer::start().await;
    for bytes in [MIB + 1, 5 * MIB, 50 * MIB] {
        let file = content(bytes, bytes as u64);
        let app = files(file.clone()).await;
        let (one, two) = pair(&app, &redis).await;
        let path = format!("/{bytes}");
        for (nth, larder) in [&one, &one, &two].into_iter().enumerate() {
            let answer = get(larder, &path, &[]).await;
            let cache = ["MISS", "HIT", "HIT"][nth];
            let said = answer.header("cache-status");
            assert_eq!(
                (answer.status, answer.cache()),
                (200, cache.into()),
                "{bytes} {nth} {said}"
            );
            assert_eq!(answer.header("content-length"), bytes.to_string());
            same(&answer.body, &file, &path);
        }
        assert_eq!(app.count(&path), 1);
        let standard = get(&two, &path, &[]).await.header("cache-status");
        assert!(
            standard.contains("hit") && standard.contains("redis"),
            "{standard}"
        );
        one.purge(serde_json::json!({ "tags": ["all"], "soft": false }))
            .await;
        assert_eq!(get(&one, &path, &[]).await.cache(), "MISS");
    }
    // No key is without an end.
    for key in redis.keys().await {
        let ttl: i64 = redis.cli(&["PTTL", &key]).await.parse().unwrap();
        let is_gone = ttl == -2;
        assert!(
            ttl > 0 || is_gone || key.contains(":purges"),
            "{key}: {ttl}"
        );
    }
}

#[tokio::test]
async fn of_a_stored_body_only_what_is_asked_for_is_read() {
    let redis = RedisServer::start().await;
    let file = content(5 * MIB, 1);
    let app = files(file.clone()).await;
    let (one, two) = pair(&app, &redis).await;
    get(&one, "/file", &[]).await;
    let monitor = redis.monitor().await;
    // In one chunk, across two, the last of all, the first byte, to the end.
    let last = file.len() - 1;
    for (first, last) in [
        (3, 9),
        (131_000, 262_100),
        (last - 5, last),
        (0, 0),
        (MIB, last),
    ] {
        let range = format!("bytes={first}-{last}");
        let answer = get(&two, "/file", &[("Range", &range)]).await;
        assert_eq!(
            (answer.status, answer.cache()),
            (206, "HIT".into()),
            "{range}"
        );
        assert_eq!(
            answer.header("content-range"),
            format!("{}/{}", range.replace('=', " "), file.len())
        );
        same(&answer.body, &file[first..=last], &range);
    }
    let chunks = || {
        let lines = monitor.lines();
        let of_chunk = |line: &&String| line.contains("\"GET\"") && line.matches(':').count() > 4;
        lines.iter().filter(of_chunk).count()
    };
    eventually("MONITOR tells of the last", async || {
        (chunks() >= 38).then_some(())
    })
    .await;
    assert_eq!(chunks(), 1 + 2 + 1 + 1 + 33);
    let head = send(&two, "HEAD", "/file", &[]).await;
    assert_eq!((head.status, head.cache()), (200, "HIT".into()));
    assert_eq!(head.header("content-length"), file.len().to_string());
    let same_one = get(&two, "/file", &[("If-None-Match", "\"v1\"")]).await;
    assert_eq!((same_one.status, same_one.cache()), (304, "HIT".into()));
    assert!(!same_one.has("content-length"));
    let beyond = get(&two, "/file", &[("Range", "bytes=6000000-")]).await;
    assert_eq!(beyond.status, 416);
    assert_eq!(chunks(), 38, "none of these needs a chunk");
    // Several parts may be asked for; the whole is an answer to that, too.
    let parts = get(&two, "/file", &[("Range", "bytes=0-1,9-10")]).await;
    assert_eq!((parts.status, parts.body.len()), (200, file.len()));
    // Of what is not the same any more, no part is given.
    let other = get(
        &two,
        "/file",
        &[("Range", "bytes=0-1"), ("If-Range", "\"v0\"")],
    )
    .await;
    assert_eq!((other.status, other.body.len()), (200, file.len()));
    assert_eq!(app.count("/file"), 1);
}

/// The names of the chunks in Redis, in order.
async fn chunks(redis: &RedisServer) -> Vec<String> {
    let mut keys = redis.keys().await;
    keys.retain(|key| key.contains(":1:{") && key.matches(':').count() > 3);
    keys.sort_by_key(|key| {
        key.rsplit(':')
            .next()
            .and_then(|index| index.parse::<u32>().ok())
    });
    keys
}

/// Takes all entries away.
async fn forget_all(redis: &RedisServer) {
    let mut del = vec!["DEL"];
    let keys = redis.keys().await;
    del.extend(
        keys.iter()
            .map(String::as_str)
            .filter(|key| key.contains('{')),
    );
    if del.len() > 1 {
        redis.cli(&del).await;
    }
}

#[tokio::test]
async fn a_chunk_that_is_missing_or_damaged_is_a_miss_before_the_answer_begins() {
    let redis = RedisServer::start().await;
    let file = content(3 * MIB, 2);
    let app = files(file.clone()).await;
    let larder = start(&app, &redis, ROUTES).await;
    for n in 0..4 {
        let path = format!("/{n}");
        forget_all(&redis).await;
        get(&larder, &path, &[]).await;
        let chunks = chunks(&redis).await;
        assert_eq!(chunks.len(), 25);
        match n {
            0 => redis.cli(&["DEL", &chunks[0]]).await,
            // Which of them is gone is seen as soon.
            1 => redis.cli(&["DEL", &chunks[7]]).await,
            2 => {
                redis
                    .cli(&["SETRANGE", &chunks[0], "1000", "damaged"])
                    .await
            }
            _ => {
                redis
                    .cli(&["COPY", &chunks[3], &chunks[0], "REPLACE"])
                    .await
            }
        };
        let answer = get(&larder, &path, &[]).await;
        assert_eq!((answer.status, answer.cache()), (200, "MISS".into()), "{n}");
        same(&answer.body, &file, &path);
        let again = get(&larder, &path, &[]).await;
        assert_eq!(again.cache(), "HIT", "it is stored anew");
        same(&again.body, &file, &path);
    }
}

/// Reads so much of a body, and no more.
async fn take(body: &mut Incoming, bytes: usize) -> Vec<u8> {
    let mut taken = Vec::new();
    while taken.len() < bytes {
        let frame = body.frame().await.expect("more").expect("no cut");
        taken.extend_from_slice(&frame.into_data().unwrap());
    }
    taken
}

/// The rest of a body: what came, and whether it came to its end.
async fn rest(mut body: Incoming) -> (Vec<u8>, bool) {
    let mut taken = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => taken.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => return (taken, false),
        }
    }
    (taken, true)
}

async fn open(client: &Client, path: &str) -> http::Response<Incoming> {
    client
        .open("GET", path, &[HOST], Bytes::new())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_chunk_that_goes_missing_in_the_middle_cuts_the_answer_and_the_entry_goes() {
    let redis = RedisServer::start().await;
    let file = content(50 * MIB, 3);
    let plain = file.clone();
    // Without a strong validator, no part of the app's could be proved to be of the same file.
    let app = App::says(move |seen| file_of(&plain, seen, "W/\"v1\"")).await;
    let larder = start(&app, &redis, ROUTES).await;
    for damage in ["DEL", "SETRANGE"] {
        forget_all(&redis).await;
        let path = format!("/{damage}");
        get(&larder, &path, &[]).await;
        let chunks = chunks(&redis).await;
        let client = larder.client();
        let answer = open(&client, &path).await;
        assert_eq!(answer.headers()["x-cache"], "HIT");
        let mut body = answer.into_body();
        let begun = take(&mut body, 1).await;
        let at = &chunks[chunks.len() - 3];
        match damage {
            "DEL" => redis.cli(&["DEL", at]).await,
            _ => redis.cli(&["SETRANGE", at, "9", "damaged"]).await,
        };
        let (rest, is_whole) = rest(body).await;
        assert!(!is_whole, "the client sees the cut");
        let came = [begun, rest].concat();
        assert!(came.len() > 40 * MIB, "{}", came.len());
        assert!(came == file[..came.len()], "never other bytes");
        eventually("the entry is gone", async || {
            let again = get(&larder, &path, &[("Range", "bytes=0-0")]).await;
            (again.cache() != "HIT").then_some(())
        })
        .await;
        let whole = get(&larder, &path, &[]).await;
        same(&whole.body, &file, "fetched anew");
    }
}

#[tokio::test]
async fn what_redis_has_lost_comes_from_the_app_if_it_is_provably_the_same() {
    let mut redis = RedisServer::start().await;
    let file = content(50 * MIB, 8);
    let app = files(file.clone()).await;
    let larder = start(&app, &redis, ROUTES).await;
    get(&larder, "/file", &[]).await;
    let client = larder.client();
    let answer = open(&client, "/file").await;
    assert_eq!(answer.headers()["x-cache"], "HIT");
    let mut body = answer.into_body();
    let begun = take(&mut body, MIB).await;
    redis.kill().await;
    let (after, is_whole) = rest(body).await;
    assert!(is_whole);
    same(
        &[begun, after].concat(),
        &file,
        "begun by Redis, ended by the app",
    );
    let last = app.last("/file");
    assert_eq!(last.header("if-range"), Some("\"v1\""));
    assert!(
        last.header("range")
            .unwrap()
            .ends_with(&format!("-{}", file.len() - 1))
    );
    assert_eq!(app.count("/file"), 2);
    // And where it is not the same, nothing else comes either.
    redis.up().await;
    larder.redis_is(true).await;
    get(&larder, "/other", &[]).await;
    let client = larder.client();
    let mut body = open(&client, "/other").await.into_body();
    let begun = take(&mut body, MIB).await;
    let newer = content(50 * MIB, 9);
    app.now_says(move |seen| file_of(&newer, seen, "\"v2\""));
    redis.kill().await;
    let (after, is_whole) = rest(body).await;
    let came = [begun, after].concat();
    assert!(!is_whole && came == file[..came.len()]);
}

#[tokio::test]
async fn nothing_is_stored_of_a_fill_that_is_cut_and_what_was_written_ends_by_itself() {
    let redis = RedisServer::start().await;
    let file = content(4 * MIB, 4);
    let app = App::says(move |_| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n",
            5 * MIB
        );
        Answer::raw([head.as_bytes(), &file].concat()).then_close()
    })
    .await;
    let larder = start(&app, &redis, ROUTES).await;
    for n in 1..=2 {
        let client = larder.client();
        let (came, is_whole) = rest(open(&client, "/cut").await.into_body()).await;
        assert!(!is_whole && came.len() <= 4 * MIB);
        assert_eq!(app.count("/cut"), n);
    }
    eventually("what is left ends in minutes", async || {
        let mut ttls = Vec::new();
        for key in redis.keys().await {
            let ttl: i64 = redis.cli(&["PTTL", &key]).await.parse().unwrap();
            if !key.contains(":purges") {
                ttls.push(ttl);
            }
        }
        ttls.iter()
            .all(|ttl| (1..=300_000).contains(ttl))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn whoever_goes_or_stops_in_the_middle_does_not_hold_the_fill() {
    let redis = RedisServer::start().await;
    let file = content(50 * MIB, 5);
    let app = files(file.clone()).await;
    let (one, two) = pair(&app, &redis).await;
    // The leader goes away at once.
    let client = one.client();
    let mut body = open(&client, "/gone").await.into_body();
    take(&mut body, 1).await;
    drop((body, client));
    eventually("it is stored all the same", async || {
        let answer = get(&two, "/gone", &[("Range", "bytes=0-0")]).await;
        (answer.cache() == "HIT").then_some(())
    })
    .await;
    // The leader stands still; it has all of it afterwards.
    let client = one.client();
    let mut body = open(&client, "/still").await.into_body();
    let begun = take(&mut body, 1).await;
    eventually("it is stored all the same", async || {
        let answer = get(&two, "/still", &[("Range", "bytes=0-0")]).await;
        (answer.cache() == "HIT").then_some(())
    })
    .await;
    let (after, is_whole) = rest(body).await;
    assert!(is_whole);
    same(
        &[begun, after].concat(),
        &file,
        "read from where it is stored",
    );
}

#[tokio::test]
async fn whoever_reads_slowly_keeps_what_is_still_to_be_read() {
    let redis = RedisServer::start().await;
    let file = content(40 * MIB, 11);
    let plain = file.clone();
    // Without a strong validator there is nothing else to go on with.
    let app = App::says(move |seen| file_of(&plain, seen, "W/\"v1\"")).await;
    let larder = start(&app, &redis, ROUTES).await;
    let ttl = async |key: &String| -> i64 { redis.cli(&["PTTL", key]).await.parse().unwrap() };
    for cache in ["MISS", "HIT"] {
        let client = larder.client();
        let answer = open(&client, "/slow").await;
        assert_eq!(answer.headers()["x-cache"], cache);
        let mut body = answer.into_body();
        let mut taken = take(&mut body, 1).await;
        eventually("all of it is stored", async || {
            (chunks(&redis).await.len() == 321).then_some(())
        })
        .await;
        // The entry has come to its end long ago, and its chunks nearly have.
        let chunks = chunks(&redis).await;
        for chunk in &chunks {
            redis.cli(&["PEXPIRE", chunk, "60000"]).await;
        }
        eventually("what is still to be read stays", async || {
            taken.extend(take(&mut body, MIB).await);
            (ttl(&chunks[300]).await > 100_000).then_some(())
        })
        .await;
        assert!(ttl(&chunks[0]).await <= 60_000, "what was read goes");
        let (after, is_whole) = rest(body).await;
        assert!(is_whole);
        same(&[taken, after].concat(), &file, "slowly");
    }
}

#[tokio::test]
async fn who_reads_behind_a_fetch_gets_from_the_app_what_redis_has_lost() {
    let redis = RedisServer::start().await;
    let file = content(50 * MIB, 13);
    let app = files(file.clone()).await;
    let larder = start(&app, &redis, ROUTES).await;
    let client = larder.client();
    let answer = open(&client, "/file").await;
    assert_eq!(answer.headers()["x-cache"], "MISS");
    let mut body = answer.into_body();
    let begun = take(&mut body, 1).await;
    eventually("all of it is stored", async || {
        (chunks(&redis).await.len() == 401).then_some(())
    })
    .await;
    redis.cli(&["DEL", &chunks(&redis).await[200]]).await;
    let (after, is_whole) = rest(body).await;
    assert!(is_whole);
    same(
        &[begun, after].concat(),
        &file,
        "from here, Redis and the app",
    );
    assert_eq!(app.count("/file"), 2, "the rest was asked for");
}

#[tokio::test]
async fn the_value_of_an_entry_ends_before_its_first_chunk_however_long_the_app_took() {
    let redis = RedisServer::start().await;
    let (file, gate) = (content(4 * MIB, 12), Gate::closed());
    let (said, held) = (file.clone(), gate.clone());
    let app = App::says(move |_| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n",
            said.len()
        );
        let (begun, rest) = said.split_at(MIB);
        let answer = Answer::raw(head).then(begun).then_wait(&held);
        answer.then(rest)
    })
    .await;
    let larder = start(&app, &redis, ROUTES).await;
    let client = larder.client();
    let body = open(&client, "/slow").await.into_body();
    let ttl = async |key: &str| -> i64 { redis.cli(&["PTTL", key]).await.parse().unwrap() };
    let began = Instant::now();
    eventually("the app has taken its time", async || {
        (began.elapsed() > Duration::from_secs(3)).then_some(())
    })
    .await;
    gate.open();
    assert!(rest(body).await.1);
    let first = chunks(&redis).await.swap_remove(0);
    let value = first.rsplitn(3, ':').last().unwrap();
    let (of_value, of_first) = (ttl(value).await, ttl(&first).await);
    assert!(
        of_value > 0 && of_first - of_value > 299_000,
        "{of_value} and {of_first}"
    );
}

#[tokio::test]
async fn followers_of_a_large_body_come_at_any_time_and_the_app_is_asked_once() {
    let redis = RedisServer::start().await;
    let file = content(20 * MIB, 6);
    let gates: Vec<_> = (0..3).map(|_| Gate::closed()).collect();
    let (held, said) = (gates.clone(), file.clone());
    let app = App::says(move |_| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n",
            said.len()
        );
        let mut answer = Answer::raw(head);
        for (part, gate) in said.chunks(7 * MIB).zip(&held) {
            answer = answer.then(part).then_wait(gate);
        }
        answer
    })
    .await;
    let larder = start(&app, &redis, ROUTES).await;
    let mut following = Vec::new();
    for gate in &gates {
        let client = larder.client();
        let body = open(&client, "/slow").await.into_body();
        following.push(tokio::spawn(async move { (rest(body).await, client) }));
        let before = chunks(&redis).await.len();
        eventually("the next part is stored", async || {
            (chunks(&redis).await.len() >= before.max(20)).then_some(())
        })
        .await;
        gate.open();
    }
    for follower in following {
        let ((came, is_whole), _) = follower.await.unwrap();
        assert!(is_whole);
        same(&came, &file, "from here and from where it is stored");
    }
    assert_eq!(app.count("/slow"), 1);
}

/// A line of `/proc/PID/status`, in bytes.
fn memory(larder: &Larder, line: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", larder.pid())).unwrap();
    let line = status.lines().find(|found| found.starts_with(line));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

/// Reads a file from a bare socket, so many bytes at a time, and looks at each byte.
struct Download {
    socket: TcpStream,
    file: Arc<Vec<u8>>,
    at: usize,
    buffer: Vec<u8>,
}

impl Download {
    async fn begin(larder: &Larder, path: &str, file: &Arc<Vec<u8>>) -> Self {
        let mut socket = larder.client().socket().await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: files.test\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        Self {
            socket,
            file: Arc::clone(file),
            at: 0,
            buffer: vec![0; 64 * 1024],
        }
    }

    /// Reads on to this place, or to where the connection ends before.
    async fn to(&mut self, end: usize) {
        while self.at < end {
            let room = self.buffer.len().min(end - self.at);
            let Ok(read @ 1..) = self.socket.read(&mut self.buffer[..room]).await else {
                break;
            };
            let expected = &self.file[self.at..self.at + read];
            assert!(
                &self.buffer[..read] == expected,
                "other bytes from {}",
                self.at
            );
            self.at += read;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_download_one_stored_body_keep_the_process_small() {
    const CLIENTS: usize = 200;
    // Two chunks for each, and what the process is by itself.
    const BOUND: usize = CLIENTS * 256 * 1024 + 40 * MIB;
    let redis = RedisServer::start().await;
    let file = Arc::new(content(50 * MIB, 7));
    let app = files(file.to_vec()).await;
    let larder = start(&app, &redis, ROUTES).await;
    get(&larder, "/file", &[]).await;
    let before = memory(&larder, "VmHWM:");
    let mut downloads = JoinSet::new();
    for n in 0..CLIENTS {
        let mut download = Download::begin(&larder, "/file", &file).await;
        downloads.spawn(async move {
            // Some take all of it, some a little at a time, and most stand still somewhere.
            match n % 20 {
                0 => download.to(50 * MIB).await,
                1 => {
                    for at in 1..20 {
                        download.to(at * 100_000).await;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                _ => download.to(n * 20_000).await,
            }
            download
        });
    }
    let mut downloads = downloads.join_all().await;
    let peak = memory(&larder, "VmHWM:");
    eprintln!(
        "at most {} MiB, before {} MiB, now {} MiB",
        peak / MIB,
        before / MIB,
        memory(&larder, "VmRSS:") / MIB
    );
    assert!(peak < BOUND, "{} MiB", peak / MIB);
    // Who stood still goes on where it was.
    for download in downloads
        .iter_mut()
        .filter(|download| download.at < 50 * MIB)
    {
        let end = download.at + MIB;
        download.to(end).await;
        assert_eq!(download.at, end);
    }
    assert_eq!(app.count("/file"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_body_streams_through_and_is_not_held() {
    let redis = RedisServer::start().await;
    let app = App::talks(async |socket| {
        let mut socket = BufReader::new(socket);
        while let Some(seen) = read_head(&mut socket).await {
            if seen.path() == "/api/health" {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                continue;
            }
            let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = socket.write_all(head.as_bytes()).await;
            let mut piece = b"40000\r\n".to_vec();
            piece.resize(piece.len() + 256 * 1024, b'0');
            piece.extend_from_slice(b"\r\n");
            while socket.write_all(&piece).await.is_ok() {}
        }
    })
    .await;
    for max_body in ["1MiB", "16MiB"] {
        let yaml = ROUTES.replace("64MiB", max_body);
        let larder = start(&app, &redis, &yaml).await;
        let before = memory(&larder, "VmHWM:");
        let client = larder.client();
        let mut body = open(&client, "/endless").await.into_body();
        let mut left = 300 * MIB;
        while left > 0 {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(frame.iter().all(|byte| *byte == b'0'));
            left = left.saturating_sub(frame.len());
        }
        // Nobody queues behind it, and nobody else has it written to be thrown away.
        let written = chunks(&redis).await.len();
        let other = larder.client();
        let mut beside = open(&other, "/endless").await.into_body();
        take(&mut beside, 8 * MIB).await;
        assert_eq!(chunks(&redis).await.len(), written);
        let grown = memory(&larder, "VmHWM:") - before;
        assert!(grown < 16 * MIB, "{} MiB more", grown / MIB);
    }
}

/// An app with one file that says 304 where it may; the file is another in each language.
async fn validating(files: [Vec<u8>; 2]) -> App {
    App::says(move |seen| {
        let german = seen.header("accept-language") == Some("de");
        let etag = if german { "\"de\"" } else { "\"en\"" };
        if seen.header("if-none-match") == Some(etag) {
            return Answer::new(304, "")
                .header("ETag", etag)
                .header("Cache-Control", "public, max-age=60");
        }
        file_of(&files[usize::from(german)], seen, etag).header("Vary", "Accept-Language")
    })
    .await
}

#[tokio::test]
async fn what_is_confirmed_keeps_its_chunks_and_each_variant_has_its_own() {
    let redis = RedisServer::start().await;
    let both = [content(2 * MIB, 10), content(3 * MIB, 11)];
    let app = validating(both.clone()).await;
    let yaml = ROUTES.replace("64MiB", "64MiB, client_refresh: true");
    let larder = start(&app, &redis, &yaml).await;
    let ask = async |language: &'static str, directive: &str| {
        let asked = [("Accept-Language", language), ("Cache-Control", directive)];
        let answer = get(&larder, "/file", &asked).await;
        same(&answer.body, &both[usize::from(language == "de")], language);
        answer.cache()
    };
    for expected in ["MISS", "HIT"] {
        assert_eq!(ask("en", "").await, expected);
        assert_eq!(ask("de", "").await, expected);
    }
    let before = chunks(&redis).await;
    for (directive, expected) in [("no-cache", "REVALIDATED"), ("", "HIT")] {
        assert_eq!(ask("en", directive).await, expected);
        assert_eq!(ask("de", directive).await, expected);
    }
    larder
        .purge(serde_json::json!({ "tags": ["all"], "soft": true }))
        .await;
    assert_eq!(ask("de", "").await, "STALE");
    eventually("it is confirmed behind", async || {
        (ask("de", "").await == "HIT").then_some(())
    })
    .await;
    assert_eq!(chunks(&redis).await, before, "none is written again");
    // A purge takes all; what is fetched then lets the chunks go in whose place it is.
    larder
        .purge(serde_json::json!({ "tags": ["all"], "soft": false }))
        .await;
    assert_eq!(ask("en", "").await, "MISS");
    assert_eq!(ask("de", "").await, "MISS");
    eventually("the replaced ones end in minutes", async || {
        let mut short = 0;
        for chunk in &before {
            let ttl: i64 = redis.cli(&["PTTL", chunk]).await.parse().unwrap();
            short += usize::from((1..=300_000).contains(&ttl));
        }
        (short == before.len()).then_some(())
    })
    .await;
    // What was fetched before the log had the purge is from before it, for those who look in Redis.
    eventually("what is fetched stays", async || {
        (ask("en", "").await == "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_value_larger_than_any_that_is_written_is_not_read() {
    let redis = RedisServer::start().await;
    let app = App::says(|_| Answer::public("small")).await;
    let yaml = ROUTES.replace("64MiB", "64MiB, memory: 0B");
    let larder = start(&app, &redis, &yaml).await;
    assert_eq!(get(&larder, "/a", &[]).await.cache(), "MISS");
    let name = eventually("it is stored", async || {
        redis.keys().await.into_iter().find(|key| key.contains('{'))
    })
    .await;
    redis.cli(&["SETRANGE", &name, "100000000", "x"]).await;
    let before = memory(&larder, "VmHWM:");
    for _ in 0..20 {
        let answer = get(&larder, "/a", &[]).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "small"));
    }
    let grown = memory(&larder, "VmHWM:") - before;
    assert!(grown < 8 * MIB, "{} MiB more", grown / MIB);
}

#[tokio::test]
async fn chunks_are_compressed_and_encrypted_as_everything_is() {
    let redis = RedisServer::start().await;
    let file = "a sentence that is easily recognised. ".repeat(100_000);
    let said = file.clone();
    let app = App::says(move |_| Answer::public(said.clone())).await;
    let key = "EBzm7fGpM+ZghY2C9wvOrk7iwLNkQUZabyWTYm92oGA=";
    let yaml = ROUTES.replace("64MiB", &format!("64MiB, compress: 1KiB, encrypt: {key}"));
    let (one, two) = (
        start(&app, &redis, &yaml).await,
        start(&app, &redis, &yaml).await,
    );
    for (larder, cache) in [(&one, "MISS"), (&one, "HIT"), (&two, "HIT")] {
        let answer = get(larder, "/text", &[]).await;
        assert_eq!(answer.cache(), cache);
        same(&answer.body, file.as_bytes(), "text");
    }
    let mut bytes = 0;
    for chunk in chunks(&redis).await {
        bytes += redis
            .cli(&["STRLEN", &chunk])
            .await
            .parse::<usize>()
            .unwrap();
    }
    assert!(bytes > 0 && bytes * 10 < file.len(), "{bytes}");
    assert!(!contains(&redis.everything_written(), b"easily recognised"));
}

#[tokio::test]
async fn a_cluster_has_all_chunks_of_an_entry_in_one_slot() {
    let cluster = RedisCluster::start().await;
    let file = content(3 * MIB, 12);
    let app = files(file.clone()).await;
    let block = format!("{{ url: \"{}\", timeout: 10s }}", cluster.url());
    let larder = larder(&app).redis_block(block).yaml(ROUTES).start().await;
    larder.redis_is(true).await;
    for n in 0..4 {
        let path = format!("/{n}");
        for cache in ["MISS", "HIT"] {
            let answer = get(&larder, &path, &[]).await;
            assert_eq!(answer.cache(), cache, "{n}");
            same(&answer.body, &file, &path);
        }
        let part = get(&larder, &path, &[("Range", "bytes=1000000-2000000")]).await;
        assert_eq!((part.status, part.cache()), (206, "HIT".into()));
        same(&part.body, &file[1_000_000..=2_000_000], &path);
    }
}

#[tokio::test]
async fn over_http2_a_stored_body_is_read_as_the_window_opens() {
    let redis = RedisServer::start().await;
    let file = content(20 * MIB, 13);
    let app = files(file.clone()).await;
    let larder = start(&app, &redis, ROUTES).await;
    get(&larder, "/file", &[]).await;
    let socket = larder.client().socket().await;
    let shake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut sender, driver) = shake.await.unwrap();
    tokio::spawn(driver);
    for (range, expected) in [("", &file[..]), ("bytes=5000000-", &file[5_000_000..])] {
        let mut request = http::Request::get("http://files.test/file");
        if !range.is_empty() {
            request = request.header("Range", range);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.headers()["x-cache"], "HIT");
        assert_eq!(
            answer.headers()["content-length"],
            expected.len().to_string()
        );
        let (came, is_whole) = rest(answer.into_body()).await;
        assert!(is_whole);
        same(&came, expected, range);
    }
    assert_eq!(app.count("/file"), 1);
}

#[tokio::test]
async fn what_a_head_spoils_goes_with_its_chunks() {
    let redis = RedisServer::start().await;
    let file = content(2 * MIB, 14);
    let app = files(file.clone()).await;
    let yaml = ROUTES.replace("64MiB", "64MiB, client_refresh: true");
    let larder = start(&app, &redis, &yaml).await;
    get(&larder, "/file", &[]).await;
    assert_eq!(chunks(&redis).await.len(), 17);
    app.now_says(|_| Answer::new(404, ""));
    let gone = send(&larder, "HEAD", "/file", &[("Cache-Control", "no-cache")]).await;
    assert_eq!(gone.status, 404);
    assert_eq!(get(&larder, "/file", &[]).await.status, 404);
    eventually("its chunks end in minutes", async || {
        let mut long = 0;
        for chunk in chunks(&redis).await {
            let ttl: i64 = redis.cli(&["PTTL", &chunk]).await.parse().unwrap();
            long += usize::from(ttl > 300_000);
        }
        (long == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_fails_or_stalls_ends_the_storing_and_not_the_answer() {
    let file = content(8 * MIB, 15);
    for fails in [true, false] {
        let mut redis = RedisServer::start().await;
        let gate = Gate::closed();
        let (held, said) = (gate.clone(), file.clone());
        let app = App::says(move |_| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n",
                said.len()
            );
            let (first, second) = said.split_at(3 * MIB);
            Answer::raw(head).then(first).then_wait(&held).then(second)
        })
        .await;
        let larder = larder(&app).redis(&redis).yaml(ROUTES).start().await;
        larder.redis_is(true).await;
        let client = larder.client();
        let mut body = open(&client, "/file").await.into_body();
        let begun = take(&mut body, 3 * MIB).await;
        match fails {
            true => redis.kill().await,
            false => redis.stop(),
        }
        let opened = Instant::now();
        gate.open();
        let (after, is_whole) = rest(body).await;
        assert!(is_whole);
        same(&[begun, after].concat(), &file, "it streams on");
        let took = opened.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        if !fails {
            redis.resume();
        }
    }
}
