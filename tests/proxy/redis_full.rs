//! Redis is full: whatever it evicts, or does not, nobody sees an error or another's bytes, and the share
//! of hits is the share that there is room for.

use crate::support::*;
use std::fmt::Write;
use tokio::task::JoinSet;

/// Every `maxmemory-policy` there is.
const POLICIES: [&str; 8] = [
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
];
/// Requests at a time.
const CLIENTS: usize = 8;
/// Bytes of each answer.
const BODY: usize = 16 * 1024;

/// Limits are counted in the same Redis, so that their keys are among what is evicted.
const YAML: &str = r#"
cache: { memory: 0B, compress: off }
limits: { tiers: [{ name: all, for: anyone, rate: 900000/min, per: ip }] }
routes: [{ path: /things/*, ttl: 1h }]
"#;

/// How large a try is.
#[derive(Clone, Copy)]
struct Size {
    /// Different URLs; about half of them find room.
    urls: usize,
    /// Requests while it fills, and as many that are counted.
    requests: usize,
}

/// What came of it.
struct Seen {
    /// Share of the counted requests that were hits.
    hits: f64,
    /// Share of the URLs that Redis held at the end.
    held: f64,
    evicted: u64,
    /// How often the purge log was among what was evicted.
    log_lost: usize,
}

fn body(path: &str) -> String {
    let mut body = path.repeat(BODY / path.len() + 1);
    body.truncate(BODY);
    body
}

/// Asks for URLs by chance; every answer has to be the right one. Gives the number of hits.
async fn ask(larder: &Larder, size: Size) -> usize {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = larder.client();
        let mut chance = fastrand::Rng::with_seed(number as u64);
        clients.spawn(async move {
            let mut hits = 0;
            for _ in 0..size.requests / CLIENTS {
                let path = format!("/things/{}", chance.usize(0..size.urls));
                let answer = client.get(&path).await;
                assert_eq!(answer.status, 200, "{path}");
                assert!(answer.text() == body(&path), "{path} has other bytes");
                hits += usize::from(answer.cache() == "HIT");
            }
            hits
        });
    }
    clients.join_all().await.iter().sum()
}

async fn number(redis: &RedisServer, section: &str, field: &str) -> u64 {
    let info = redis.cli(&["INFO", section]).await;
    let value = info.lines().find_map(|line| line.strip_prefix(field));
    value.unwrap().trim().parse().unwrap()
}

async fn under(policy: &str, size: Size) -> Seen {
    let app = App::says(|seen| Answer::ok(body(seen.path()))).await;
    let redis = RedisServer::with(&["--appendonly", "no", "--maxmemory-policy", policy]).await;
    let larder = larder(&app).redis(&redis).yaml(YAML).start().await;
    larder.redis_is(true).await;
    ask(
        &larder,
        Size {
            urls: 8,
            requests: 64,
        },
    )
    .await;
    let used = number(&redis, "memory", "used_memory:").await;
    let room = used + (size.urls * BODY / 2) as u64;
    redis
        .cli(&["CONFIG", "SET", "maxmemory", &room.to_string()])
        .await;
    ask(&larder, size).await;
    let hits = ask(&larder, size).await;
    let health = larder.admin().get("/healthz").await.json();
    assert_eq!(health["redis"]["connected"], true, "{policy}: {health}");
    // A purge holds, whatever was evicted before it and is after it.
    let path = format!("/things/{}", size.urls - 1);
    larder.get(&path).await;
    larder
        .purge(serde_json::json!({ "prefixes": ["/things/"], "soft": false }))
        .await;
    let asked = app.count(&path);
    assert_eq!(larder.get(&path).await.text(), body(&path), "{policy}");
    assert_eq!(app.count(&path), asked + 1, "{policy}: it was purged");
    let held = redis
        .keys()
        .await
        .iter()
        .filter(|key| key.contains(":1:{"))
        .count();
    Seen {
        hits: hits as f64 / size.requests as f64,
        held: held as f64 / size.urls as f64,
        evicted: number(&redis, "stats", "evicted_keys:").await,
        log_lost: larder.log().matches("has lost our place").count(),
    }
}

#[tokio::test]
async fn full_under_every_policy_nobody_sees_it_but_by_fewer_hits() {
    let size = Size {
        urls: 160,
        requests: 320,
    };
    for policy in POLICIES {
        let Seen {
            hits,
            held,
            evicted,
            ..
        } = under(policy, size).await;
        println!("{policy}: {hits:.2} of the requests hit, {held:.2} held, {evicted} evicted");
        assert!((0.2..0.8).contains(&held), "{policy}: {held} held");
        assert_eq!(evicted == 0, policy == "noeviction", "{policy}");
        // An evicted purge log costs hits only where its witness went with it.
        let expected = held / 2.0..held + 0.25;
        assert!(
            expected.contains(&hits),
            "{policy}: {hits} hit, {held} held"
        );
    }
}

#[tokio::test]
#[ignore = "takes minutes: prints the table of docs/redis.md"]
async fn the_table_of_policies() {
    let mut table =
        String::from("| policy | held | hits | evicted | log lost |\n|---|---|---|---|---|\n");
    for policy in POLICIES {
        let size = Size {
            urls: 1_000,
            requests: 8_000,
        };
        let Seen {
            hits,
            held,
            evicted,
            log_lost,
        } = under(policy, size).await;
        let _ = writeln!(
            table,
            "| `{policy}` | {:.0} % | {:.0} % | {evicted} | {log_lost} |",
            held * 100.0,
            hits * 100.0
        );
    }
    println!("{table}");
}
