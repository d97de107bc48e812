//! Connections to Redis are shared: nobody queues for one, and what cannot be asked is answered without.

use crate::support::*;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What a client may wait for others on a machine that other tests use as well.
const SLACK: Duration = Duration::from_secs(15);

fn body(path: &str) -> String {
    path.repeat(256 * 1024 / path.len())
}

async fn metric(larder: &Larder, series: &str) -> f64 {
    let metrics = larder.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn a_thousand_clients_for_big_values_over_one_connection_harm_nobody() {
    let app = App::says(|seen| Answer::ok(body(seen.path()))).await;
    let redis = RedisServer::start().await;
    let pool = "pool: { min: 1, max: 1, concurrent: 4 }, timeout: 2s";
    let larder = larder(&app)
        .redis_block(format!("{{ url: \"{}\", {pool} }}", redis.url()))
        .yaml("cache: { memory: 0B }\nroutes: [{ path: /big/*, ttl: 1h }]")
        .start()
        .await;
    larder.redis_is(true).await;
    for number in 0..4 {
        let path = format!("/big/{number}");
        eventually("it is stored", async || {
            (larder.get(&path).await.cache() == "HIT").then_some(())
        })
        .await;
    }
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..1_000 {
        let client = larder.client();
        clients.spawn(async move {
            let path = format!("/big/{}", number % 4);
            let answer = client.get(&path).await;
            assert_eq!(answer.status, 200);
            assert!(answer.text() == body(&path), "{path} has other bytes");
        });
    }
    clients.join_all().await;
    assert!(started.elapsed() < SLACK, "{:?}", started.elapsed());
    let turned_away = metric(
        &larder,
        "db_client_operation_duration_seconds_count{db_operation_name=\"get\",error_type=\"saturated\"}",
    )
    .await;
    assert!(turned_away > 0.0, "more was asked than there may be");
    let opened = "larder_redis_breaker_transitions_total{to=\"open\"}";
    assert_eq!(
        metric(&larder, opened).await,
        0.0,
        "the breaker is untouched"
    );
    larder.says("the pool to Redis is nearly exhausted").await;
    larder.says("the pool to Redis has room again").await;
    larder.redis_is(true).await;
    assert_eq!(larder.get("/big/1").await.cache(), "HIT");
}

#[tokio::test]
async fn an_idle_connection_is_looked_after_and_a_dead_one_replaced_before_it_is_needed() {
    let app = App::says(|_| Answer::ok("x")).await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml("cache: { memory: 0B }\nroutes: [{ path: /*, ttl: 1h }]")
        .start()
        .await;
    larder.redis_is(true).await;
    eventually("it is stored", async || {
        (larder.get("/a").await.cache() == "HIT").then_some(())
    })
    .await;
    // Not one request: every connection says PING by itself, more often than each five seconds.
    let idle = async || -> Vec<u64> {
        let list = redis.cli(&["CLIENT", "LIST"]).await;
        let ours = list.lines().filter(|line| line.contains("user=larder"));
        let idle = |line: &str| line.split_once(" idle=")?.1.split(' ').next()?.parse().ok();
        ours.filter_map(idle).collect()
    };
    let connections = idle().await.len();
    assert!(connections > 1);
    redis.cli(&["CLIENT", "KILL", "USER", "larder"]).await;
    eventually("all are there again", async || {
        (idle().await.len() >= connections).then_some(())
    })
    .await;
    let until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < until {
        let idle = idle().await;
        assert!(idle.iter().all(|seconds| *seconds < 5), "{idle:?}");
        tokio::time::sleep(LOOK_EVERY * 10).await;
    }
    assert_eq!(larder.get("/a").await.cache(), "HIT");
}
