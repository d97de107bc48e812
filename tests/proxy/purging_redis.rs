//! Purges that come by Redis: a channel that every sidecar hears, a stream that one of them reads.

use crate::support::*;
use serde_json::json;

const YAML: &str = "purge: { channel: \"app:purge\", stream: { key: \"app:changes\" } }";
const ROUTES: &str = r#"
routes:
  - { name: car, path: "/cars/{id}", ttl: 5m, tags: [cars, "car:{id}"] }
"#;

async fn echo() -> App {
    App::says(|seen| Answer::ok(seen.target.clone())).await
}

async fn sidecar(app: &App, redis: &RedisServer) -> Larder {
    let larder = larder(app)
        .redis(redis)
        .yaml(YAML)
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    larder.says("purges are heard from a channel").await;
    larder.says("purges are read from a stream").await;
    larder
}

/// A purge that two have appended may come a little later once more.
async fn fill(larder: &Larder, paths: &[&str]) {
    for path in paths {
        eventually(&format!("{path} is stored"), async || {
            (larder.get(path).await.cache() == "HIT").then_some(())
        })
        .await;
    }
}

async fn goes(larder: &Larder, path: &str) {
    eventually(&format!("{path} is purged"), async || {
        (larder.get(path).await.cache() != "HIT").then_some(())
    })
    .await;
}

async fn counts(larder: &Larder, way: &str, outcome: &str) -> u64 {
    let metrics = larder.metrics().await;
    let name = format!("larder_purge_requests_total{{way=\"{way}\",outcome=\"{outcome}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_message_on_the_channel_purges_everywhere_and_is_appended_once() {
    let app = echo().await;
    let redis = RedisServer::for_yaml(YAML).await;
    redis.owns("app:changes");
    let sidecars = [
        sidecar(&app, &redis).await,
        sidecar(&app, &redis).await,
        sidecar(&app, &redis).await,
    ];
    // They know of each other.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    let length = async || -> usize { redis.cli(&["XLEN", "larder:purges"]).await.parse().unwrap() };
    let mut appended = 0;
    for (message, gone) in [
        ("car:1\ncar:2", &["/cars/1", "/cars/2"][..]),
        (r#"{"urls": ["/cars/3"], "soft": false}"#, &["/cars/3"]),
        ("cars", &["/cars/1", "/cars/2", "/cars/3"]),
        ("cars", &["/cars/1", "/cars/2", "/cars/3"]),
    ] {
        for larder in &sidecars {
            fill(larder, gone).await;
        }
        let before = length().await;
        redis.cli(&["PUBLISH", "app:purge", message]).await;
        for larder in &sidecars {
            for path in gone {
                goes(larder, path).await;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        appended += length().await - before;
    }
    // Six are one each (a URL brings its path with it), eighteen would be one of each sidecar's; two that
    // wait about equally long may both append.
    assert!((6..=14).contains(&appended), "{appended} appended");
    redis
        .cli(&["PUBLISH", "app:purge", "{\"tag\": \"car:1\"}"])
        .await;
    redis.cli(&["PUBLISH", "app:purge", ""]).await;
    for larder in &sidecars {
        eventually("what is no purge is counted", async || {
            (counts(larder, "channel", "malformed").await == 2).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_channel_is_listened_to_again_after_redis_was_away_and_by_another_name() {
    let app = echo().await;
    let yaml = "purge: { channel: \"app:purge\" }";
    let mut redis = RedisServer::for_yaml(yaml).await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml(yaml)
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    let heard = async |channel: &str, redis: &RedisServer| {
        fill(&larder, &["/cars/1"]).await;
        eventually("it is heard", async || {
            redis.cli(&["PUBLISH", channel, "car:1"]).await;
            tokio::time::sleep(LOOK_EVERY).await;
            (larder.get("/cars/1").await.cache() != "HIT").then_some(())
        })
        .await;
    };
    heard("app:purge", &redis).await;
    redis.restart().await;
    larder.redis_is(true).await;
    heard("app:purge", &redis).await;
    redis.cli(&["ACL", "SETUSER", "larder", "&other"]).await;
    larder.configure("app:purge", "other");
    heard("other", &redis).await;
}

#[tokio::test]
async fn each_entry_of_the_stream_is_carried_out_once_whichever_sidecar_reads_it() {
    let app = echo().await;
    let redis = RedisServer::for_yaml(YAML).await;
    redis.owns("app:changes");
    let sidecars = [sidecar(&app, &redis).await, sidecar(&app, &redis).await];
    let all: Vec<String> = (0..20).map(|n| format!("/cars/{n}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    for larder in &sidecars {
        fill(larder, &all).await;
    }
    for n in 0..10 {
        redis
            .cli(&["XADD", "app:changes", "*", "tag", &format!("car:{n}")])
            .await;
    }
    let purge = r#"{"globs": ["/cars/1*"], "soft": false}"#;
    redis
        .cli(&["XADD", "app:changes", "*", "at", "noon", "purge", purge])
        .await;
    for larder in &sidecars {
        for path in &all {
            goes(larder, path).await;
        }
    }
    let mut done = 0;
    for larder in &sidecars {
        done += counts(larder, "stream", "logged").await;
    }
    assert_eq!(done, 11);
    eventually("all is acknowledged", async || {
        let pending = redis.cli(&["XPENDING", "app:changes", "larder"]).await;
        pending.starts_with('0').then_some(())
    })
    .await;
    eventually("and there is no lag", async || {
        let metrics = sidecars[0].metrics().await;
        metrics.contains("larder_purge_stream_lag 0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_added_while_no_sidecar_runs_or_one_dies_of_it_is_carried_out_later() {
    let app = echo().await;
    let redis = RedisServer::for_yaml(YAML).await;
    redis.owns("app:changes");
    drop(sidecar(&app, &redis).await);
    redis
        .cli(&["XADD", "app:changes", "*", "tag", "car:1"])
        .await;
    // Read by a sidecar that has died since, and never acknowledged.
    redis
        .cli(&["XADD", "app:changes", "*", "tag", "car:2"])
        .await;
    let read = [
        "XREADGROUP",
        "GROUP",
        "larder",
        "larder",
        "COUNT",
        "2",
        "STREAMS",
        "app:changes",
        ">",
    ];
    redis.cli(&read).await;
    redis
        .cli(&["XADD", "app:changes", "*", "tag", "car:3"])
        .await;
    let larder = sidecar(&app, &redis).await;
    eventually("all three are carried out", async || {
        (counts(&larder, "stream", "logged").await == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_nobody_understands_is_laid_aside_and_stops_nothing() {
    let app = echo().await;
    let redis = RedisServer::for_yaml(YAML).await;
    redis.owns("app:changes");
    let larder = sidecar(&app, &redis).await;
    fill(&larder, &["/cars/1"]).await;
    redis
        .cli(&[
            "XADD",
            "app:changes",
            "*",
            "purge",
            "{\"tag\": 1}",
            "why",
            "x",
        ])
        .await;
    redis
        .cli(&["XADD", "app:changes", "*", "tag", "car:1"])
        .await;
    goes(&larder, "/cars/1").await;
    let dead = eventually("it is laid aside", async || {
        let dead = redis.cli(&["XRANGE", "larder:purges:dead", "-", "+"]).await;
        dead.contains("app:changes").then_some(dead)
    })
    .await;
    assert!(
        dead.contains("{\"tag\": 1}") && dead.contains("why"),
        "{dead}"
    );
    eventually("nothing is pending", async || {
        let pending = redis.cli(&["XPENDING", "app:changes", "larder"]).await;
        pending.starts_with('0').then_some(())
    })
    .await;
    assert_eq!(counts(&larder, "stream", "dead").await, 1);
}

#[tokio::test]
async fn a_stream_that_is_lost_is_read_from_its_new_beginning() {
    let app = echo().await;
    let redis = RedisServer::for_yaml(YAML).await;
    redis.owns("app:changes");
    let larder = sidecar(&app, &redis).await;
    redis.cli(&["DEL", "app:changes"]).await;
    redis
        .cli(&["XADD", "app:changes", "*", "tag", "car:1"])
        .await;
    eventually("it is carried out", async || {
        (counts(&larder, "stream", "logged").await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn where_redis_forbids_it_that_is_said_and_the_rest_goes_on() {
    let app = echo().await;
    // The user of a larder that neither listens nor reads.
    let redis = RedisServer::start().await;
    redis.may_refuse("app:purge");
    redis.may_refuse("app:changes");
    redis.may_refuse("subscribe");
    redis.may_refuse("xgroup|create");
    let larder = larder(&app)
        .redis(&redis)
        .yaml(YAML)
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    larder.says("purges that come by Redis are not heard").await;
    assert_eq!(larder.purge(json!({"tags": ["a"]})).await.status, 200);
}
