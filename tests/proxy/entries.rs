//! What lies in Redis: compressed where that pays, encrypted where there is a key, renewed by its uses,
//! and never believed before it has been looked at.

use crate::support::*;
use larder::cache::{codec, seal};
use std::time::{Duration, Instant};

const NEW: &str = "bmV3IGtleSBvZiAzMiBieXRlcywgYnkgY2hhbmNlIQo=";
const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const EXACT: &str = "defaults: { ttl_jitter: 0%, stale_while_revalidate: 0s, stale_if_error: 0s }";
/// One name for all sidecars, so that they mean the same.
const HOST: [(&str, &str); 1] = [("Host", "shop.example")];

/// Cars as a shop lists them.
fn cars(path: &str) -> String {
    let cars: Vec<_> = (0..60)
        .map(|n| serde_json::json!({ "id": n * 7_919, "page": path, "make": "Volkswagen", "pricePerDay": n * 13 % 90 }))
        .collect();
    serde_json::json!({ "data": cars }).to_string()
}

async fn shop() -> App {
    App::says(|seen| {
        let json = |body: String| {
            Answer::new(200, body)
                .header("Content-Type", "application/json")
                .header("Cache-Control", "public, max-age=600")
        };
        match seen.path() {
            "/packed" => json(cars("/packed")).header("Content-Encoding", "br"),
            "/picture" => json(cars("/picture")).header("Content-Type", "image/webp"),
            "/small" => json("[]".repeat(500)),
            "/spoken" => {
                let language = seen.header("accept-language").unwrap_or("none").to_owned();
                json(language).header("Vary", "Accept-Language")
            }
            path => json(cars(path)),
        }
    })
    .await
}

/// A sidecar that keeps everything in Redis alone, as `cache` says.
async fn sidecar(app: &App, redis: &RedisServer, cache: &str) -> Larder {
    let larder = larder(app)
        .redis(redis)
        .yaml(EXACT)
        .yaml(&format!("cache: {{ memory: 0B, {cache} }}"))
        .start()
        .await;
    larder.redis_is(true).await;
    larder
}

async fn get(larder: &Larder, path: &str) -> Response {
    larder.get_with(path, &HOST).await
}

/// Asks until Redis answers.
async fn hit(larder: &Larder, path: &str) -> Response {
    eventually(&format!("{path} is a hit"), async || {
        let answer = get(larder, path).await;
        (answer.cache() == "HIT").then_some(answer)
    })
    .await
}

/// Asks once, and waits until Redis has one entry more.
async fn stored(larder: &Larder, redis: &RedisServer, path: &str) {
    let entries = async || entries(redis).await.len();
    let before = entries().await;
    get(larder, path).await;
    eventually("it is stored", async || {
        (entries().await > before).then_some(())
    })
    .await;
}

/// The names of what is stored.
async fn entries(redis: &RedisServer) -> Vec<String> {
    let mut names = redis.keys().await;
    names.retain(|name| name.contains(":1:"));
    names
}

/// How many values could not be read, and for this reason.
async fn unreadable(larder: &Larder, reason: &str) -> u64 {
    let series = format!("larder_cache_unreadable_total{{reason=\"{reason}\"}} ");
    let metrics = larder.metrics().await;
    let count = metrics.lines().find_map(|line| line.strip_prefix(&series));
    count.map_or(0, |count| count.parse().unwrap())
}

/// The name of the only entry in Redis.
async fn only_name(redis: &RedisServer) -> String {
    let mut names = entries(redis).await;
    assert_eq!(names.len(), 1, "{names:?}");
    names.remove(0)
}

fn with_right_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let sum = codec::checksum(&frame).unwrap();
    frame[4..12].copy_from_slice(&sum);
    frame
}

#[tokio::test]
async fn text_takes_less_room_in_redis_and_comes_back_as_it_was() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = sidecar(&app, &redis, "compress: 1KiB").await;
    for (path, is_compressed) in [
        ("/cars", true),
        ("/small", false),
        ("/packed", false),
        ("/picture", false),
    ] {
        redis.cli(&["FLUSHDB"]).await;
        larder.redis_is(true).await;
        let first = get(&larder, path).await;
        let again = hit(&larder, path).await;
        assert_eq!(again.body, first.body, "{path}");
        let length = redis.cli(&["STRLEN", &only_name(&redis).await]).await;
        let length: usize = length.parse().unwrap();
        assert_eq!(
            length * 2 < first.body.len(),
            is_compressed,
            "{path}: {length}"
        );
    }
    // Who compresses nothing reads it all the same.
    let plain = sidecar(&app, &redis, "compress: off").await;
    stored(&larder, &redis, "/shared").await;
    hit(&plain, "/shared").await;
    assert_eq!(app.count("/shared"), 1);
}

#[tokio::test]
async fn with_a_key_nothing_that_was_ever_written_to_redis_can_be_read() {
    let app = App::says(|seen| {
        Answer::new(200, format!("the-body of {}", "word ".repeat(500)))
            .header("X-Field", "the-field")
            .header("Cache-Control", "max-age=600")
            .header("Vary", "X-Selected")
            .header("X-Path", seen.path())
    })
    .await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml(&identity())
        .yaml(&format!("cache: {{ memory: 0B, encrypt: \"{NEW}\" }}"))
        .yaml(
            "limits: { tiers: [{ name: all, for: anyone, rate: 1000/min, per: token }] }\nroutes:\n  \
             - { path: /the-path/*, ttl: 5m, key: { per: [user, token] }, tags: [\"the-tag:{user}\"] }\n  \
             - { path: /change, methods: [POST], purge: [\"the-tag:{user}\"] }",
        )
        .start()
        .await;
    larder.redis_is(true).await;
    let bearer = format!("Bearer {}", token("the-user", "customer"));
    let headers = [
        ("Host", "the-host.example"),
        ("Authorization", bearer.as_str()),
        ("X-Selected", "the-selected"),
    ];
    let path = "/the-path/a?the-query=1";
    let asked = async || larder.client().get_with(path, &headers).await;
    assert_eq!(asked().await.cache(), "MISS");
    eventually("it is a hit", async || {
        (asked().await.cache() == "HIT").then_some(())
    })
    .await;
    let changed = larder.client().post("/change", &headers, "").await;
    assert_eq!(changed.status, 200);
    larder
        .purge(serde_json::json!({ "urls": ["the-host.example/the-path/a"] }))
        .await;
    larder
        .purge(serde_json::json!({ "prefixes": ["/the-path/b"] }))
        .await;
    assert_eq!(asked().await.cache(), "MISS", "what was purged is gone");
    let written = redis.everything_written();
    assert!(contains(&written, b":1:{") && contains(&written, b"XADD"));
    for part in [
        "the-body",
        "the-field",
        "the-host",
        "the-path",
        "the-query",
        "the-tag",
        "the-user",
        "the-selected",
        "x-selected",
        "word",
        NEW,
        SECRET,
        &bearer[7..],
    ] {
        assert!(!contains(&written, part.as_bytes()), "{part} can be read");
    }
    assert!(!larder.log().contains(NEW));
}

#[tokio::test]
async fn keys_are_changed_without_a_miss() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let one = sidecar(&app, &redis, &format!("encrypt: \"{OLD}\"")).await;
    let two = sidecar(&app, &redis, &format!("encrypt: \"{OLD}\"")).await;
    stored(&one, &redis, "/old").await;
    hit(&two, "/old").await;
    // The new key comes first on one after the other; a reload is enough.
    let both = format!("\"{NEW},{OLD}\"");
    for larder in [&one, &two] {
        larder.configure(&format!("\"{OLD}\""), &both);
        larder.says("the configuration was reloaded").await;
    }
    hit(&one, "/old").await;
    stored(&one, &redis, "/new").await;
    hit(&two, "/new").await;
    assert_eq!((app.count("/old"), app.count("/new")), (1, 1));
    // When the old key is taken away, what it was used for is no entry any more, and is overwritten.
    let three = sidecar(&app, &redis, &format!("encrypt: \"{NEW}\"")).await;
    hit(&three, "/new").await;
    assert_eq!(get(&three, "/old").await.cache(), "MISS");
    assert!(unreadable(&three, "unknown-key").await >= 1);
    hit(&three, "/old").await;
    // A sidecar without a key neither reads what is encrypted nor is it believed by those with one.
    let none = sidecar(&app, &redis, "compress: off").await;
    assert_eq!(get(&none, "/new").await.cache(), "MISS");
    hit(&none, "/new").await;
    assert_eq!(get(&three, "/new").await.cache(), "MISS");
    assert!(unreadable(&three, "not-encrypted").await >= 1);
}

#[tokio::test]
async fn whatever_lies_at_the_place_of_an_entry_is_a_miss_counted_and_overwritten() {
    let app = shop().await;
    for (form, cache) in [
        ("plain", "compress: off".to_owned()),
        ("compressed", "compress: 1KiB".to_owned()),
        ("encrypted", format!("compress: off, encrypt: \"{NEW}\"")),
        ("both", format!("compress: 1KiB, encrypt: \"{NEW}\"")),
    ] {
        let encrypts = cache.contains("encrypt");
        let redis = RedisServer::start().await;
        let larder = sidecar(&app, &redis, &cache).await;
        get(&larder, "/cars").await;
        let whole = hit(&larder, "/cars").await.body;
        let name = only_name(&redis).await;
        let key = name.split(['{', '}']).nth(1).unwrap().to_owned();
        let key: Vec<u8> = (0..16)
            .map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let frame = redis.get(&name);
        let flags = if cache.contains("1KiB") {
            seal::COMPRESSED
        } else {
            0
        };
        assert_eq!(
            frame[3],
            flags | if encrypts { seal::ENCRYPTED } else { 0 },
            "{form}"
        );
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = frame.clone();
            change(&mut frame);
            frame
        };
        // Half a gigabyte of zeros, it says, and a mebibyte of them in a few kilobytes.
        let bomb = |length: u32| {
            let zeros = lz4_flex::block::compress(&vec![0; 2 << 20]);
            let mut bomb = vec![codec::MAGIC, codec::VERSION, 0, seal::COMPRESSED];
            bomb.extend_from_slice(&[0; 8]);
            bomb.extend_from_slice(&key);
            bomb.extend_from_slice(&length.to_le_bytes());
            bomb.extend_from_slice(&zeros);
            with_right_checksum(bomb)
        };
        let foreign = if encrypts {
            "not-encrypted"
        } else {
            "malformed"
        };
        let mut damages = vec![
            (
                "a flipped bit",
                changed(&|frame| frame[100] ^= 4),
                "checksum",
            ),
            (
                "cut in half",
                changed(&|frame| frame.truncate(frame.len() / 2)),
                "checksum",
            ),
            (
                "cut to its head",
                changed(&|frame| frame.truncate(20)),
                "truncated",
            ),
            ("nothing", Vec::new(), "truncated"),
            ("JSON", b"{\"data\":[]}".to_vec(), "version"),
            ("gzip", b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), "version"),
            (
                "an older version",
                changed(&|frame| frame[1] -= 1),
                "version",
            ),
            (
                "flags of a newer version",
                changed(&|frame| frame[3] |= 128),
                "version",
            ),
            (
                "what is stored for another key",
                with_right_checksum(changed(&|frame| frame[12] ^= 1)),
                "other-key",
            ),
            ("a bomb that says what it is", bomb(2 << 20), foreign),
            ("a bomb that says what it is not", bomb(512 << 20), foreign),
        ];
        if encrypts {
            // A forger makes the checksum right.
            let forged = |change: &dyn Fn(&mut Vec<u8>)| with_right_checksum(changed(change));
            damages.push(("a forged bit", forged(&|frame| frame[100] ^= 4), "bad-tag"));
            damages.push(("another nonce", forged(&|frame| frame[33] ^= 4), "bad-tag"));
            damages.push((
                "another way to read it",
                forged(&|frame| frame[3] ^= 1),
                "bad-tag",
            ));
            damages.push((
                "another key's name",
                forged(&|frame| frame[28] ^= 4),
                "unknown-key",
            ));
            damages.push((
                "not encrypted",
                forged(&|frame| frame[3] &= 1),
                "not-encrypted",
            ));
        }
        for (damage, bytes, reason) in damages {
            let before = unreadable(&larder, reason).await;
            redis.set(&name, &bytes);
            let answer = get(&larder, "/cars").await;
            assert_eq!(
                (answer.cache().as_str(), &answer.body),
                ("MISS", &whole),
                "{form}: {damage}"
            );
            // It may have been looked at once more: by the lease, it has been stored a moment ago.
            eventually(
                &format!("{form}: {damage} is counted as {reason}"),
                async || (unreadable(&larder, reason).await > before).then_some(()),
            )
            .await;
            assert_eq!(hit(&larder, "/cars").await.body, whole, "{form}: {damage}");
        }
        let before = unreadable(&larder, "version").await;
        redis.cli(&["DEL", &name]).await;
        redis.cli(&["LPUSH", &name, "x"]).await;
        assert_eq!(get(&larder, "/cars").await.body, whole);
        hit(&larder, "/cars").await;
        assert!(unreadable(&larder, "version").await > before, "{form}");
    }
}

#[tokio::test]
async fn a_hit_is_one_question_and_so_it_is_with_vary_once_its_rule_is_known() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = sidecar(&app, &redis, "compress: 1KiB").await;
    let german = [HOST[0], ("Accept-Language", "de")];
    get(&larder, "/cars").await;
    larder.get_with("/spoken", &german).await;
    hit(&larder, "/cars").await;
    eventually("the variant is stored", async || {
        (larder.get_with("/spoken", &german).await.cache() == "HIT").then_some(())
    })
    .await;
    // Another sidecar learns the rule from the marker, once.
    let other = sidecar(&app, &redis, "compress: 1KiB").await;
    assert_eq!(other.get_with("/spoken", &german).await.cache(), "HIT");
    for larder in [&larder, &other] {
        let monitor = redis.monitor().await;
        let gets = || monitor.count("\"GET\"");
        for n in 1..=5 {
            assert_eq!(get(larder, "/cars").await.cache(), "HIT");
            assert_eq!(larder.get_with("/spoken", &german).await.cache(), "HIT");
            eventually("MONITOR has seen it", async || {
                (gets() >= 2 * n).then_some(())
            })
            .await;
            assert_eq!(gets(), 2 * n);
        }
        let entries = |line: &&String| line.contains(":1:{");
        let lines = monitor.lines();
        assert_eq!(lines.iter().filter(entries).count(), 10, "{lines:#?}");
    }
}

#[tokio::test]
async fn a_marker_whose_variant_never_came_is_a_miss() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = sidecar(&app, &redis, "compress: off").await;
    let ask = async |larder: &Larder, language: &str| {
        larder
            .get_with("/spoken", &[HOST[0], ("Accept-Language", language)])
            .await
    };
    ask(&larder, "de").await;
    eventually("it is stored", async || {
        (ask(&larder, "de").await.cache() == "HIT").then_some(())
    })
    .await;
    for name in entries(&redis).await {
        if name.contains("}:") {
            redis.cli(&["DEL", &name]).await;
        }
    }
    let other = sidecar(&app, &redis, "compress: off").await;
    for larder in [&larder, &other] {
        let answer = ask(larder, "de").await;
        assert_eq!(
            (answer.cache().as_str(), answer.text().as_str()),
            ("MISS", "de")
        );
        let name = (entries(&redis).await.into_iter()).find(|name| name.contains("}:"));
        redis.cli(&["DEL", &name.unwrap_or_default()]).await;
    }
}

/// A session that uses renew, up to an hour.
fn sessions() -> String {
    format!(
        "{}\n{EXACT}\nroutes:\n  \
         - {{ path: /session, ttl: 5m, slide_up_to: 1h, key: {{ per: token }}, tags: [\"user:{{user}}\"] }}\n  \
         - {{ path: /stated, ttl: 5m, slide_up_to: 1h }}\n  \
         - {{ path: /logout, methods: [POST], purge: [\"user:{{user}}\"] }}",
        identity()
    )
}

async fn session_app() -> App {
    App::says(|seen| match seen.path() {
        "/stated" => Answer::ok("stated").header("Cache-Control", "max-age=300"),
        "/session" => Answer::ok("session").header("Cache-Control", "private"),
        _ => Answer::ok("bye"),
    })
    .await
}

async fn ask_as(larder: &Larder, method: &str, path: &str, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    let headers = [HOST[0], ("Authorization", bearer.as_str())];
    larder.client().send(method, path, &headers, "").await
}

#[tokio::test]
async fn uses_renew_a_session_for_one_hour_at_most() {
    let app = session_app().await;
    let larder = larder(&app).yaml(&sessions()).manual_clock().start().await;
    let ann = signed(SECRET, "ann", "customer", 7_200);
    let ask = async || ask_as(&larder, "GET", "/session", &ann).await;
    assert_eq!(ask().await.cache(), "MISS");
    for minutes in 1..=14 {
        larder.advance("4m").await;
        let answer = ask().await;
        assert_eq!(answer.cache(), "HIT", "after {}m", 4 * minutes);
        // It was stored when it was stored, however often it was renewed since.
        assert_eq!(answer.header("age"), (minutes * 240).to_string());
        let left: i64 = answer.header("x-cache-ttl").parse().unwrap();
        assert!((1..=300).contains(&left), "{left}");
    }
    larder.advance("3m").await;
    assert_eq!(
        ask().await.header("x-cache-ttl"),
        "60",
        "nothing is left beyond the hour"
    );
    larder.advance("1m").await;
    assert_ne!(
        ask().await.cache(),
        "HIT",
        "after an hour it is asked for anew"
    );
    assert_eq!(app.count("/session"), 2);
    // Without a use it ends as any other, and a lifetime that the app states is renewed by none.
    larder.advance("5m").await;
    assert_ne!(ask().await.cache(), "HIT");
    let stated = async || larder.get("/stated").await.cache();
    assert_eq!(stated().await, "MISS");
    larder.advance("4m").await;
    assert_eq!(stated().await, "HIT");
    larder.advance("2m").await;
    assert_ne!(stated().await, "HIT");
}

#[tokio::test]
async fn no_session_outlives_its_token() {
    let app = session_app().await;
    let larder = larder(&app).yaml(&sessions()).manual_clock().start().await;
    let ask = async |token: &str| ask_as(&larder, "GET", "/session", token).await;
    let (ann, bob) = (
        signed(SECRET, "ann", "customer", 12 * 60),
        signed(SECRET, "bob", "customer", 2 * 60),
    );
    for token in [&ann, &bob] {
        assert_eq!(ask(token).await.cache(), "MISS");
    }
    let left: i64 = ask(&bob).await.header("x-cache-ttl").parse().unwrap();
    assert!(left <= 120, "{left}: not even the first time");
    for _ in 0..2 {
        larder.advance("4m").await;
        assert_eq!(ask(&ann).await.cache(), "HIT");
    }
    larder.advance("3m").await;
    let last = ask(&ann).await;
    let left: i64 = last.header("x-cache-ttl").parse().unwrap();
    assert!(last.cache() == "HIT" && (0..=60).contains(&left), "{left}");
    larder.advance("2m").await;
    for token in [&ann, &bob] {
        assert_ne!(ask(token).await.cache(), "HIT");
    }
    assert_eq!(app.count("/session"), 4);
}

/// A larder with a key for encryption, once it uses Redis.
async fn encrypting(app: &App, redis: &RedisServer, yaml: &str) -> Larder {
    let larder = larder(app).redis(redis).yaml(yaml);
    let larder = larder
        .yaml(&format!("cache: {{ encrypt: \"{NEW}\" }}"))
        .start()
        .await;
    larder.redis_is(true).await;
    larder
}

#[tokio::test]
async fn a_renewal_here_is_seen_by_the_others_and_writes_seldom() {
    let app = session_app().await;
    let redis = RedisServer::start().await;
    let sessions = sessions().replace("ttl: 5m, slide", "ttl: 2s, slide");
    let start = async || encrypting(&app, &redis, &sessions).await;
    let (one, two) = (start().await, start().await);
    let ann = token("ann", "customer");
    let ask = async |larder: &Larder| ask_as(larder, "GET", "/session", &ann).await;
    ask(&one).await;
    let monitor = redis.monitor().await;
    let began = Instant::now();
    let mut uses = 0;
    eventually("twice its lifetime is over", async || {
        assert_eq!(ask(&one).await.cache(), "HIT");
        uses += 1;
        (began.elapsed() > Duration::from_secs(5)).then_some(())
    })
    .await;
    let answer = ask(&two).await;
    assert_eq!(answer.cache(), "HIT", "another sidecar sees it renewed");
    assert_eq!(app.count("/session"), 1);
    let writes = monitor
        .lines()
        .iter()
        .filter(|line| line.contains("\"SET\"") && line.contains("\"XX\""))
        .count();
    assert!(
        (2..=13).contains(&writes) && writes < uses,
        "{writes} writes for {uses} uses"
    );
    let name = only_name(&redis).await;
    let life: i64 = redis.cli(&["PTTL", &name]).await.parse().unwrap();
    assert!(life > 0, "{life}");
    // What is gone is not brought back by a use of what memory still holds.
    redis.cli(&["DEL", &name]).await;
    let began = Instant::now();
    eventually("it would have been renewed", async || {
        ask(&one).await;
        (began.elapsed() > Duration::from_secs(1)).then_some(())
    })
    .await;
    assert_eq!(redis.cli(&["EXISTS", &name]).await, "0");
}

#[tokio::test]
async fn a_logout_ends_a_session_everywhere_before_its_answer_leaves() {
    let app = session_app().await;
    let redis = RedisServer::start().await;
    let start = async || encrypting(&app, &redis, &sessions()).await;
    let (one, two) = (start().await, start().await);
    let (ann, bob) = (token("ann", "customer"), token("bob", "customer"));
    for token in [&ann, &bob] {
        ask_as(&one, "GET", "/session", token).await;
        for larder in [&one, &two] {
            eventually("both have it", async || {
                let answer = ask_as(larder, "GET", "/session", token).await;
                (answer.cache() == "HIT").then_some(())
            })
            .await;
        }
    }
    let asked = app.count("/session");
    assert_eq!(ask_as(&one, "POST", "/logout", &ann).await.status, 200);
    assert_ne!(ask_as(&one, "GET", "/session", &ann).await.cache(), "HIT");
    let began = Instant::now();
    // The log is in Redis before the answer leaves; what follows it there hears of it at once.
    eventually("the other sidecar has heard of it", async || {
        let before = app.count("/session");
        let answer = ask_as(&two, "GET", "/session", &ann).await;
        // Asked anew, or found as the first has stored it after the logout.
        let age: u64 = answer.header("age").parse().unwrap_or(0);
        (app.count("/session") > before || age <= began.elapsed().as_secs()).then_some(())
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert!(app.count("/session") > asked);
    // Who comes later finds nothing from before, either.
    let three = start().await;
    assert_eq!(ask_as(&three, "GET", "/session", &bob).await.cache(), "HIT");
}

/// Files as the kernel shows them to a process that may have so many bytes and has so many.
fn control_group(folder: &std::path::Path, used: u64, limit: u64) {
    let files = [
        ("proc/self/cgroup", "0::/\n".to_owned()),
        ("sys/fs/cgroup/memory.max", format!("{limit}\n")),
        ("sys/fs/cgroup/memory.current", format!("{used}\n")),
        (
            "sys/fs/cgroup/memory.stat",
            "anon 0\ninactive_file 0\n".to_owned(),
        ),
    ];
    for (path, text) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[tokio::test]
async fn memory_is_given_back_before_the_process_comes_to_its_limit() {
    const MIB: u64 = 1 << 20;
    let root = tempfile::tempdir().unwrap();
    control_group(root.path(), 100 * MIB, 400 * MIB);
    let app = App::says(|_| Answer::public(vec![b'x'; 20_000])).await;
    let larder = larder(&app)
        .env("LARDER_TEST_ROOT", root.path().to_string_lossy())
        .yaml("cache: { memory: 16MiB, max_body: 1MiB }")
        .start()
        .await;
    let gauge = async |name: &str| {
        let metrics = larder.metrics().await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name));
        value.map_or(0, |value| value.trim().parse::<f64>().unwrap() as u64)
    };
    let client = larder.client();
    for n in 0..1_000 {
        client.get(&format!("/{n}")).await;
    }
    assert_eq!(gauge("larder_memory_limit_bytes ").await, 16 * MIB);
    let full = gauge("larder_memory_bytes ").await;
    assert!(full > 14 * MIB, "{full}");

    control_group(root.path(), 395 * MIB, 400 * MIB);
    eventually("it holds less than half", async || {
        (gauge("larder_memory_bytes ").await < full / 2).then_some(())
    })
    .await;
    let bound = gauge("larder_memory_limit_bytes ").await;
    assert!(bound < 10 * MIB, "{bound}");
    larder.says("gives room back").await;
    let told = larder.log().matches("gives room back").count();
    assert_eq!(told, 1, "once, not every second");
    client.get("/served").await;
    assert_eq!(client.get("/served").await.cache(), "HIT");

    control_group(root.path(), 200 * MIB, 400 * MIB);
    let bound = gauge("larder_memory_limit_bytes ").await;
    eventually("it grows again", async || {
        (gauge("larder_memory_limit_bytes ").await > bound).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_memory_tier_that_the_process_has_no_room_for_is_told() {
    let root = tempfile::tempdir().unwrap();
    control_group(root.path(), 10 << 20, 64 << 20);
    let app = shop().await;
    let told = async |memory: &str| {
        let larder = larder(&app)
            .env("LARDER_TEST_ROOT", root.path().to_string_lossy())
            .yaml(&format!("cache: {{ memory: {memory} }}"));
        larder.start().await.log()
    };
    let told_at_start = told("64MiB").await;
    assert!(told_at_start.contains("W212"), "{told_at_start}");
    assert!(!told("48MiB").await.contains("W212"));
}
