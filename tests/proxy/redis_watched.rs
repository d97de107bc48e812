//! How Redis is, seen from the background: in the metrics, on the admin port, in the log, on the command line.

use crate::support::*;
use serde_json::{Value, json};
use std::time::Duration;

async fn shop() -> App {
    App::says(|seen| Answer::ok("x".repeat(1_000) + seen.path())).await
}

const ROUTES: &str = "cache: { memory: 0B }\nroutes: [{ path: /*, ttl: 1h }]";

async fn told(larder: &Larder, page: &str) -> Value {
    larder.admin().get(page).await.json()
}

async fn cli(larder: &Larder, arguments: &[&str]) -> String {
    let admin = format!("http://{}", larder.admin_address);
    let arguments = [arguments, &["--admin", &admin]].concat();
    let output = larder_cli(&arguments, "").await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn what_redis_says_of_itself_is_a_metric_a_page_and_a_worksheet() {
    let app = shop().await;
    let bounded = ["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"];
    let redis = RedisServer::with(&bounded).await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml(ROUTES)
        .manual_clock()
        .start()
        .await;
    larder.redis_is(true).await;
    for path in ["/a", "/b"] {
        eventually("it is stored", async || {
            (larder.get(path).await.cache() == "HIT").then_some(())
        })
        .await;
    }
    let page = eventually("Redis was asked, and how far it is is known", async || {
        let page = told(&larder, "/v1/redis").await;
        (page["info"]["keys"].is_u64() && page["baseline_ms"].is_f64()).then_some(page)
    })
    .await;
    assert_eq!(page["connected"], true, "{page}");
    assert_eq!(
        page["breaker"],
        json!({"state": "closed", "forced": "auto", "opened": 0}),
        "{page}"
    );
    assert_eq!(page["info"]["maxmemory"], 64 << 20, "{page}");
    assert_eq!(page["info"]["maxmemory_policy"], "allkeys-lru", "{page}");
    assert_eq!(
        page["slowlog"]["readable"], false,
        "not among the rights of the smallest user"
    );
    assert!(page["latency"]["get"]["p999_ms"].is_f64(), "{page}");
    assert!(
        page["pool"]["max"].as_u64() >= page["pool"]["connections"].as_u64(),
        "{page}"
    );
    larder.says("the way to Redis").await;
    let health = told(&larder, "/healthz").await;
    assert!(health["redis"]["poolUtilization"].is_f64(), "{health}");

    let metrics = larder.metrics().await;
    for series in [
        "larder_redis_memory_used_bytes ",
        "larder_redis_memory_max_bytes 67108864",
        "larder_redis_evicted_keys_total 0",
        "larder_redis_keys ",
        "larder_redis_uptime_seconds ",
        "larder_redis_info{server=\"Redis\",version=\"",
        "larder_redis_keyspace_hits_total ",
        "larder_redis_round_trip_baseline_seconds 0.0",
        "larder_redis_pool_utilization_ratio ",
        "db_client_connection_count{state=\"idle\"} ",
        "db_client_operation_duration_seconds_bucket{db_operation_name=\"connect\",le=",
    ] {
        assert!(metrics.contains(series), "{series} is not in:\n{metrics}");
    }

    let sheet = told(&larder, "/v1/capacity").await;
    assert_eq!(sheet["known"], true, "{sheet}");
    assert_eq!(sheet["sheet"]["triggers"][1]["what"], "shard", "{sheet}");
    let sheet = cli(&larder, &["capacity"]).await;
    for part in [
        "keys",
        "of 64.0 MiB",
        "room for",
        "replica       from 5000 commands/s",
        "not known yet",
    ] {
        assert!(sheet.contains(part), "{part:?} is not in:\n{sheet}");
    }
    // A minute and so many bytes later it knows when it will be full.
    let fill =
        "for n = 1, 200 do redis.call('SET', 'other:' .. n, string.rep('x', 50000), 'EX', 60) end";
    redis.cli(&["EVAL", fill, "0"]).await;
    larder.advance("60s").await;
    eventually("it has a date", async || {
        let sheet = cli(&larder, &["capacity"]).await;
        (sheet.contains("at this growth; from then on it evicts") && sheet.contains("MiB an hour"))
            .then_some(())
    })
    .await;
    redis.cli(&["FLUSHALL"]).await;
    let stats = cli(&larder, &["stats"]).await;
    for part in ["p50", "p999", "hit ", "redis get", "breaker closed"] {
        assert!(stats.contains(part), "{part:?} is not in:\n{stats}");
    }
}

#[tokio::test]
async fn the_worksheet_is_right_about_what_an_entry_takes() {
    let app = App::says(|_| Answer::ok("x".repeat(3_000))).await;
    let redis = RedisServer::with(&["--appendonly", "no"]).await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml(&ROUTES.replace("memory: 0B", "memory: 0B, compress: off"))
        .start()
        .await;
    larder.redis_is(true).await;
    for number in 0..20 {
        larder.get(&format!("/things/{number}")).await;
    }
    let key = eventually("they are stored", async || {
        let keys = redis.keys().await;
        let mut keys = keys.into_iter().filter(|key| key.contains(":1:{"));
        (keys.clone().count() >= 20).then(|| keys.next().unwrap())
    })
    .await;
    let takes: u64 = redis.cli(&["MEMORY", "USAGE", &key]).await.parse().unwrap();
    let plan = ["capacity", "--keys", "1", "--size", "3000B", "--json"];
    let plan: Value = serde_json::from_slice(&larder_cli(&plan, "").await.stdout).unwrap();
    let planned = plan["bytes_per_key"].as_u64().unwrap();
    assert!(
        planned.abs_diff(takes) * 10 < takes,
        "{planned} planned, {takes} taken"
    );

    let plan = [
        "capacity",
        "--per-second",
        "50",
        "--ttl",
        "1h",
        "--size",
        "4KiB",
        "--max-memory",
        "256MiB",
    ];
    let told = String::from_utf8(larder_cli(&plan, "").await.stdout).unwrap();
    for part in [
        "180000, ",
        "of 256.0 MiB",
        "shard         from 100000 keys; 180000 now: it is time",
    ] {
        assert!(told.contains(part), "{part:?} is not in:\n{told}");
    }
    let wrong = larder_cli(&["capacity", "--size", "4k", "--keys", "1"], "").await;
    assert_eq!(wrong.status.code(), Some(2));
}

#[tokio::test]
async fn the_breaker_obeys_a_person_until_it_is_left_to_itself() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = larder(&app).redis(&redis).yaml(ROUTES).start().await;
    larder.redis_is(true).await;
    let force = async |state: &str| {
        let json_body = [("Content-Type", "application/json")];
        let body = json!({ "state": state }).to_string();
        larder
            .admin()
            .post("/v1/redis/breaker", &json_body, body)
            .await
            .status
    };
    assert_eq!(force("ajar").await, 422);
    assert_eq!(force("open").await, 200);
    larder.redis_is(false).await;
    let gets = async || {
        let stats = redis.cli(&["INFO", "commandstats"]).await;
        let get = stats.lines().find(|line| line.starts_with("cmdstat_get:"));
        get.map(str::to_owned)
    };
    eventually("every worker obeys: Redis is not asked", async || {
        let before = gets().await;
        for _ in 0..20 {
            assert_eq!(larder.get("/a").await.status, 200);
        }
        (before == gets().await).then_some(())
    })
    .await;
    assert_eq!(
        told(&larder, "/v1/redis").await["breaker"]["forced"],
        "open"
    );
    assert_eq!(force("auto").await, 200);
    larder.redis_is(true).await;
    eventually("Redis is used again", async || {
        (larder.get("/a").await.cache() == "HIT").then_some(())
    })
    .await;
    assert_eq!(larder.admin().get("/v1/redis/breaker").await.status, 405);
}

#[tokio::test]
async fn a_way_that_has_become_long_is_told() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let network = FaultProxy::before(redis.address()).await;
    let larder = larder(&app)
        .redis_url(redis.url_by(network.address))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    larder.says("the way to Redis").await;
    network.set(Fault::Delay(Duration::from_millis(30)));
    larder.says("Redis has become far").await;
    assert_eq!(larder.get("/a").await.status, 200);
    assert!(!larder.log().contains("Some("), "{}", larder.log());
}

#[tokio::test]
async fn where_slowlog_may_be_read_slow_commands_are_counted_by_name_alone() {
    let app = shop().await;
    let redis = RedisServer::with(&["--slowlog-log-slower-than", "20000"]).await;
    redis
        .cli(&["ACL", "SETUSER", "larder", "+slowlog|get"])
        .await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml(ROUTES)
        .manual_clock()
        .start()
        .await;
    larder.redis_is(true).await;
    eventually("SLOWLOG was read", async || {
        let page = told(&larder, "/v1/redis").await;
        (page["slowlog"]["readable"] == true).then_some(())
    })
    .await;
    redis.cli(&["DEBUG", "SLEEP", "0.03"]).await;
    redis
        .cli(&[
            "EVAL",
            "local n = 0 while n < 3e6 do n = n + 1 end",
            "0",
            "a-secret",
        ])
        .await;
    larder.advance("10s").await;
    larder.says("a command took Redis long (SLOWLOG)").await;
    let page = told(&larder, "/v1/redis").await;
    let last = page["slowlog"]["last"].to_string();
    assert!(
        last.contains("\"DEBUG\"") && !last.contains("a-secret"),
        "{page}"
    );
    assert!(
        larder
            .metrics()
            .await
            .contains("larder_redis_slowlog_total ")
    );
    assert!(!larder.log().contains("a-secret"));
}
