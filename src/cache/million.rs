//! A purge of a million entries takes as long as one of one: measured, in memory and in Redis.

use super::memory::Held;
use super::redis_tier::Names;
use super::{Cache, Entry, Label, Lookup, Purge, PurgeOutcome, Scope, codec, testing};
use crate::clock::Clock;
use crate::redis_client::testing::{Server, connect, recorder, until};
use crate::semantics::{Key, KeyBuilder, Reason};
use http::HeaderMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lookups behind the purge that are measured.
const LOOKUPS: u32 = 1_000;
const FRAMES_AT_A_TIME: u32 = 200;

fn key(n: u32) -> Key {
    let mut key = KeyBuilder::new("million");
    key.part(&n.to_be_bytes());
    key.finish()
}

/// How long the purge took, and one lookup behind it: in memory, in Redis.
async fn takes(entries: u32) -> [Duration; 3] {
    let server = Server::start().await;
    let redis = connect(&server.url());
    let store =
        |memory| Cache::new(memory, "test", 1 << 16).with_redis(redis.clone(), redis.clone());
    let (one, two) = (store(2 << 30), store(0));
    for cache in [&one, &two] {
        let (cache, redis) = (cache.clone(), redis.clone());
        let follow = async move {
            cache
                .follow_purges(&redis, &Clock::system(), &recorder())
                .await
        };
        tokio::spawn(follow);
    }
    until("the log is followed", || {
        one.status().log_followed && two.status().log_followed
    })
    .await;
    let clock = Clock::system();
    let (names, seal) = (Names::new("test"), one.shared.seal.load_full());
    let mut frames = redis::pipe();
    for n in 0..entries {
        let label = Label {
            tags: Box::new(["all".into(), format!("car:{n}").into()]),
            position: one.position(),
            ..testing::label(&format!("shop.example/api/cars/{n}"))
        };
        let entry = Entry::new(&testing::stored_at(clock.now(), b"{}"), &label);
        let frame = codec::encode(&entry, &key(n), 0, &seal);
        let name = names.of(&key(n), None);
        frames
            .cmd("SET")
            .arg(name)
            .arg(frame)
            .arg("PX")
            .arg(3_600_000);
        if (n + 1) % FRAMES_AT_A_TIME == 0 || n + 1 == entries {
            let answers = redis.pipeline("set", &frames).await;
            assert!(answers.iter().all(Result::is_ok), "{:?}", answers[0]);
            frames = redis::pipe();
        }
        one.shared.memory.put(key(n), Held::Entry(Arc::new(entry)));
    }
    assert_eq!(one.status().entries, entries as usize);
    let begun = Instant::now();
    let purge = Purge {
        scope: Scope::Tag("all".into()),
        soft: false,
    };
    let outcome = one.purge(vec![purge]).await;
    let purged = begun.elapsed();
    assert_eq!(outcome, PurgeOutcome::Logged);
    until("both obey", || two.position().log == one.position().log).await;
    let asked: Vec<Key> = (0..LOOKUPS).map(|n| key(n * 7_919 % entries)).collect();
    let begun = Instant::now();
    for key in &asked {
        let found = one.peek(key, &HeaderMap::new(), clock.now());
        let reasons = [Reason::Purged, Reason::Cold];
        assert!(matches!(found, Lookup::Absent(why) if reasons.contains(&why)));
    }
    let memory = begun.elapsed() / LOOKUPS;
    let begun = Instant::now();
    for key in &asked {
        let found = two.lookup(key, &HeaderMap::new(), clock.now()).await;
        assert!(matches!(found, Lookup::Absent(Reason::Purged)), "{found:?}");
    }
    [purged, memory, begun.elapsed() / LOOKUPS]
}

/// `cargo test --release --lib a_million -- --ignored --nocapture`
#[tokio::test]
#[ignore = "measures"]
async fn a_million_entries_under_one_tag_are_purged_as_quickly_as_one() {
    for entries in [1, 1_000, 1_000_000] {
        let [purge, memory, redis] = takes(entries).await;
        println!(
            "{entries}: purge {purge:?}, then a lookup in memory {memory:?}, in Redis {redis:?}"
        );
    }
}
