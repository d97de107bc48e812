//! Bodies too large for one value: they stream while they are stored, in chunks, and come out again as
//! they went in, in bounded memory.

use crate::support::*;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

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
    App::says(move |seen| file_of(&file, seen)).await
}

fn file_of(file: &[u8], seen: &Seen) -> Answer {
    let range = seen.header("range").and_then(|range| {
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
        .header("ETag", "\"v1\"")
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

async fn pair(app: &App, redis: &RedisServer, yaml: &str) -> (Larder, Larder) {
    let one = larder(app).redis(redis).yaml(yaml).start().await;
    let two = larder(app).redis(redis).yaml(yaml).start().await;
    for larder in [&one, &two] {
        larder.redis_is(true).await;
    }
    (one, two)
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
        let (one, two) = pair(&app, &redis, ROUTES).await;
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
        assert!(ttl > 0 || key.ends_with(":purges"), "{key}: {ttl}");
    }
}

#[tokio::test]
async fn of_a_stored_body_only_what_is_asked_for_is_read() {
    let redis = RedisServer::start().await;
    let file = content(5 * MIB, 1);
    let app = files(file.clone()).await;
    let (one, two) = pair(&app, &redis, ROUTES).await;
    get(&one, "/file", &[]).await;
    let monitor = redis.monitor().await;
    // In one chunk, across two, the last of all, the first byte, to the end.
    let last = file.len() - 1;
    for (first, last) in [
        (3, 9),
        (262_000, 262_100),
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
        (chunks() >= 22).then_some(())
    })
    .await;
    assert_eq!(chunks(), 1 + 2 + 1 + 1 + 17);
    let head = send(&two, "HEAD", "/file", &[]).await;
    assert_eq!((head.status, head.cache()), (200, "HIT".into()));
    assert_eq!(head.header("content-length"), file.len().to_string());
    let same_one = get(&two, "/file", &[("If-None-Match", "\"v1\"")]).await;
    assert_eq!((same_one.status, same_one.cache()), (304, "HIT".into()));
    assert!(!same_one.has("content-length"));
    let beyond = get(&two, "/file", &[("Range", "bytes=6000000-")]).await;
    assert_eq!(beyond.status, 416);
    assert_eq!(chunks(), 22, "none of these needs a chunk");
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
    keys.retain(|key| key.matches(':').count() > 2 && !key.contains("purges"));
    keys.sort_by_key(|key| {
        key.rsplit(':')
            .next()
            .and_then(|index| index.parse::<u32>().ok())
    });
    keys
}

#[tokio::test]
async fn a_chunk_that_is_missing_or_damaged_is_a_miss_before_the_answer_begins() {
    let redis = RedisServer::start().await;
    let file = content(3 * MIB, 2);
    let app = files(file.clone()).await;
    let larder = larder(&app).redis(&redis).yaml(ROUTES).start().await;
    larder.redis_is(true).await;
    for n in 0..4 {
        let path = format!("/{n}");
        redis
            .cli(&[
                "EVAL",
                "for _, k in ipairs(redis.call('KEYS', '*{*')) do redis.call('DEL', k) end",
                "0",
            ])
            .await;
        get(&larder, &path, &[]).await;
        let chunks = chunks(&redis).await;
        assert_eq!(chunks.len(), 13);
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

/// The names of the chunks of the fill that was the last to be stored: the others end sooner.
async fn last_fill(redis: &RedisServer) -> Vec<String> {
    let mut last = chunks(redis).await;
    let mut ttls = Vec::new();
    for chunk in &last {
        ttls.push(redis.cli(&["PTTL", chunk]).await.parse::<i64>().unwrap());
    }
    let mut ttl = ttls.iter();
    last.retain(|_| ttl.next().is_some_and(|ttl| *ttl > 300_000));
    last
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
    let weak = file.clone();
    let app = App::says(move |seen| file_of(&weak, seen).header("ETag", "W/\"weak\"")).await;
    let larder = larder(&app).redis(&redis).yaml(ROUTES).start().await;
    larder.redis_is(true).await;
    get(&larder, "/file", &[]).await;
    for damage in ["DEL", "SETRANGE"] {
        let chunks = last_fill(&redis).await;
        let client = larder.client();
        let answer = open(&client, "/file").await;
        let mut body = answer.into_body();
        let begun = take(&mut body, 1).await;
        let at = chunks.len() - 3;
        match damage {
            "DEL" => redis.cli(&["DEL", &chunks[at]]).await,
            _ => redis.cli(&["SETRANGE", &chunks[at], "9", "damaged"]).await,
        };
        let (rest, is_whole) = rest(body).await;
        assert!(!is_whole, "the client sees the cut");
        let came = [begun, rest].concat();
        assert!(
            came.len() > 40 * MIB && came == file[..came.len()],
            "never other bytes"
        );
        eventually("the entry is gone", async || {
            let again = get(&larder, "/file", &[("Range", "bytes=0-0")]).await;
            (again.cache() != "HIT").then_some(())
        })
        .await;
        let whole = get(&larder, "/file", &[]).await;
        same(&whole.body, &file, "fetched anew");
    }
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
    let larder = larder(&app).redis(&redis).yaml(ROUTES).start().await;
    larder.redis_is(true).await;
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
            if !key.ends_with(":purges") {
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
    let (one, two) = pair(&app, &redis, ROUTES).await;
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
    let larder = larder(&app).redis(&redis).yaml(ROUTES).start().await;
    larder.redis_is(true).await;
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
