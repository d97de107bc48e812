//! Redis may come and go: whatever happens to it, every request is answered, rightly and in time.

use crate::support::*;
use std::time::{Duration, Instant};

/// Slack for a machine that other tests use as well.
const SLACK: Duration = Duration::from_millis(400);
/// `redis.timeout` of these scenarios.
const TIMEOUT: Duration = Duration::from_millis(100);

const ROUTES: &str = r#"
cache: { memory: 0B }
routes: [{ name: car, path: "/api/cars/{id}", ttl: 5m, tags: ["car:{id}"] }]
"#;

fn block(url: &str) -> String {
    format!(
        "{{ url: \"{url}\", timeout: 100ms, breaker: {{ trip: 70%, window: 10s, min_calls: 10, retry_after: 1s }} }}"
    )
}

/// Every one of these answers is right and none is later than the app, one timeout and the slack.
async fn all_answer_in_time(larder: &Larder, times: usize) -> Duration {
    let client = larder.client();
    let mut worst = Duration::ZERO;
    for n in 0..times {
        let started = Instant::now();
        let path = format!("/api/cars/{}", 100 + n);
        assert_eq!(client.get(&path).await.text(), format!("car {path}"));
        worst = worst.max(started.elapsed());
    }
    assert!(worst < TIMEOUT * 3 + SLACK, "{worst:?}");
    worst
}

#[tokio::test]
async fn absent_at_the_start_it_is_not_missed_and_joins_later() {
    let app = shop().await;
    let mut redis = RedisServer::absent();
    let larder = larder(&app)
        .redis_block(block(&redis.url()))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(false).await;
    all_answer_in_time(&larder, 20).await;
    redis.up().await;
    larder.redis_is(true).await;
    eventually("hits come from Redis", async || {
        (larder.get("/api/cars/1").await.cache() == "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn with_none_configured_memory_serves_and_larder_says_so() {
    let app = shop().await;
    let larder = larder(&app)
        .yaml(&ROUTES.replace("cache: { memory: 0B }", ""))
        .start()
        .await;
    larder.get("/api/cars/1").await;
    assert_eq!(larder.get("/api/cars/1").await.cache(), "HIT");
    larder.says("memory").await;
}

#[tokio::test]
async fn killed_restarted_and_restarted_empty_it_costs_no_request() {
    let app = shop().await;
    let mut redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis_block(block(&redis.url()))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    let traffic = Traffic::of(&larder, 10);
    traffic.goes_on(200).await;
    redis.kill().await;
    larder.redis_is(false).await;
    traffic.goes_on(200).await;
    redis.up().await;
    larder.redis_is(true).await;
    traffic.goes_on(200).await;
    redis.restart_empty().await;
    larder.redis_is(true).await;
    traffic.goes_on(200).await;
    traffic.end().await;
    eventually("it is used again", async || {
        (larder.get("/api/cars/1").await.cache() == "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn stopped_with_sigstop_it_delays_nobody_beyond_the_timeout() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis_block(block(&redis.url()))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    all_answer_in_time(&larder, 5).await;
    redis.stop();
    all_answer_in_time(&larder, 20).await;
    larder.redis_is(false).await;
    assert!(
        larder
            .metrics()
            .await
            .contains("larder_redis_breaker_state{state=\"closed\"} 0")
    );
    // With the breaker open Redis is not even asked: only loopback and the app are left.
    let mut quick = 0;
    let client = larder.client();
    for n in 0..50 {
        let started = Instant::now();
        client.get(&format!("/api/cars/{}", 500 + n)).await;
        quick += usize::from(started.elapsed() < Duration::from_millis(50));
    }
    assert!(quick >= 45, "{quick} of 50 were quick");
    redis.resume();
    larder.redis_is(true).await;
}

#[tokio::test]
async fn slow_counts_as_down() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let network = FaultProxy::before(redis.address()).await;
    let larder = larder(&app)
        .redis_block(block(&redis.url_by(network.address)))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    network.set(Fault::Delay(Duration::from_millis(500)));
    all_answer_in_time(&larder, 30).await;
    network.set(Fault::Slice(1, Duration::from_millis(50)));
    all_answer_in_time(&larder, 10).await;
    network.set(Fault::Pass);
    larder.redis_is(true).await;
}

#[tokio::test]
async fn silence_resets_cuts_and_noise_on_the_way_are_survived() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let network = FaultProxy::before(redis.address()).await;
    let larder = larder(&app)
        .redis_block(block(&redis.url_by(network.address)))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    let traffic = Traffic::of(&larder, 8);
    for fault in [
        Fault::Blackhole,
        Fault::Reset,
        Fault::CutAfter(100),
        Fault::Corrupt(60),
        Fault::Throttle(2000),
        Fault::Jitter(Duration::from_millis(200)),
    ] {
        network.set(fault);
        traffic.goes_on(100).await;
        network.set(Fault::Pass);
        traffic.goes_on(20).await;
    }
    traffic.end().await;
    larder.redis_is(true).await;
}

#[tokio::test]
async fn full_it_still_reads_and_nothing_fails() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis_block(block(&redis.url()))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    larder.get("/api/cars/1").await;
    eventually("it is stored", async || {
        (larder.get("/api/cars/1").await.cache() == "HIT").then_some(())
    })
    .await;
    redis
        .cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]).await;
    all_answer_in_time(&larder, 30).await;
    larder.says("Redis is full: it takes no writes").await;
    let health = larder.admin().get("/healthz").await.json();
    assert_eq!(health["status"], "degraded", "{health}");
    assert_eq!(health["redis"]["full"], true, "{health}");
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("it stores again", async || {
        larder.get("/api/cars/2").await;
        (larder.get("/api/cars/2").await.cache() == "HIT").then_some(())
    })
    .await;
    eventually("it is well again", async || {
        let health = larder.admin().get("/healthz").await.json();
        (health["status"] == "healthy").then_some(())
    })
    .await;
    let told = larder.log().matches("Redis is full").count();
    assert_eq!(told, 1, "once a change, whatever the number of workers");
    let in_use = larder.log().matches("Redis is in use").count();
    assert_eq!(in_use, 1, "once, whatever the number of workers");
}

#[tokio::test]
async fn ten_incidents_in_a_row_show_no_client_an_error() {
    let app = shop().await;
    let mut redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis_block(block(&redis.url()))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    let traffic = Traffic::of(&larder, 20);
    for incident in 0..10 {
        match incident % 3 {
            0 => redis.kill().await,
            1 => redis.stop(),
            _ => redis.restart_empty().await,
        }
        traffic.goes_on(150).await;
        match incident % 3 {
            0 => redis.up().await,
            1 => redis.resume(),
            _ => {}
        }
        traffic.goes_on(50).await;
    }
    larder.redis_is(true).await;
    let asked = traffic.end().await;
    assert!(asked >= 2000, "{asked}");
}

#[tokio::test]
async fn while_it_is_away_it_is_not_stormed_with_connections() {
    let app = shop().await;
    let redis = RedisServer::absent();
    let network = FaultProxy::before(redis.address()).await;
    let larder = larder(&app)
        .redis_block(block(&redis.url_by(network.address)))
        .yaml(ROUTES)
        .start()
        .await;
    let traffic = Traffic::of(&larder, 10);
    traffic.goes_on(500).await;
    let (started, before) = (Instant::now(), network.accepted());
    traffic.goes_on(1000).await;
    let rate = (network.accepted() - before) as f64 / started.elapsed().as_secs_f64().max(1.0);
    assert!(rate <= 10.0, "{rate} connections a second");
    traffic.end().await;
}
