//! The rig itself: a scenario that fails must fail because of larder.

use crate::support::*;
use std::time::{Duration, Instant};

#[tokio::test]
async fn the_app_says_what_it_is_told_and_counts() {
    let app = App::says(|seen| Answer::public(format!("{} {}", seen.target, seen.text()))).await;
    let client = Client::new(app.address);
    assert_eq!(client.get("/a?b=1").await.text(), "/a?b=1 ");
    assert_eq!(client.post("/a", &[], "hello").await.text(), "/a hello");
    assert_eq!((app.count("/a"), app.total()), (2, 2));
    app.down().await;
    assert!(
        Client::new(app.address)
            .try_send("GET", "/a", &[], "")
            .await
            .is_err()
    );
    app.up().await;
    assert_eq!(Client::new(app.address).get("/a").await.status, 200);
}

#[tokio::test]
async fn the_app_cuts_resets_and_waits_on_demand() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| match seen.path() {
        "/cut" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123").then_close(),
        "/reset" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123").then_reset(),
        "/held" => Answer::ok("at last").behind(&held),
        _ => Answer::chunked("", &["one", "two"]),
    })
    .await;
    for path in ["/cut", "/reset"] {
        assert!(
            Client::new(app.address)
                .try_send("GET", path, &[], "")
                .await
                .is_err(),
            "{path}"
        );
    }
    assert_eq!(
        Client::new(app.address).get("/chunked").await.text(),
        "onetwo"
    );
    let client = Client::new(app.address);
    let (answer, ()) = tokio::join!(client.get("/held"), async { gate.open() });
    assert_eq!(answer.text(), "at last");
}

#[tokio::test]
async fn redis_keeps_its_data_over_a_kill_unless_it_is_told_to_lose_it() {
    let mut redis = RedisServer::start().await;
    redis.cli(&["SET", "key", "value-to-find"]).await;
    redis.restart().await;
    assert_eq!(redis.cli(&["GET", "key"]).await, "value-to-find");
    assert!(contains(&redis.everything_written(), b"value-to-find"));
    redis.restart_empty().await;
    assert!(redis.keys().await.is_empty());
    let monitor = redis.monitor().await;
    redis.cli(&["GET", "other"]).await;
    eventually("MONITOR tells of GET", async || {
        (monitor.count("\"GET\" \"other\"") == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_network_fails_as_it_is_told() {
    let app = App::says(|_| Answer::ok("x".repeat(100))).await;
    let network = FaultProxy::before(app.address).await;
    let ask = async || {
        let client = Client::new(network.address);
        let answer = client.try_send("GET", "/", &[], "");
        tokio::time::timeout(Duration::from_millis(1500), answer).await
    };
    assert_eq!(ask().await.unwrap().unwrap().body.len(), 100);
    network.set(Fault::Delay(Duration::from_millis(50)));
    let started = Instant::now();
    assert!(ask().await.unwrap().is_ok() && started.elapsed() >= Duration::from_millis(100));
    network.set(Fault::Slice(7, Duration::from_millis(1)));
    assert!(ask().await.unwrap().is_ok());
    network.set(Fault::Corrupt(150));
    assert!(
        ask().await.unwrap().is_ok_and(|answer| answer
            .body
            .iter()
            .filter(|byte| **byte != b'x')
            .count()
            == 1)
    );
    network.set(Fault::CutAfter(90));
    assert!(ask().await.unwrap().is_err());
    network.set(Fault::Reset);
    assert!(ask().await.unwrap().is_err());
    network.set(Fault::Blackhole);
    assert!(ask().await.is_err(), "silence");
    network.set(Fault::Pass);
    assert!(ask().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_process_can_be_stopped_and_continued() {
    let redis = RedisServer::start().await;
    redis.stop();
    let silent = tokio::time::timeout(Duration::from_millis(300), redis.cli(&["PING"])).await;
    redis.resume();
    assert!(silent.is_err());
    assert_eq!(redis.cli(&["PING"]).await, "PONG");
}

#[tokio::test]
async fn what_larder_must_not_do_to_redis_fails_the_scenario_that_saw_it() {
    let redis = RedisServer::start().await;
    let told = |redis: &RedisServer| {
        let checked = std::panic::AssertUnwindSafe(|| redis.check());
        let panic = std::panic::catch_unwind(checked).err()?;
        panic.downcast_ref::<String>().cloned()
    };
    assert_eq!(told(&redis), None);
    // Names made inside a script are not the scenario's own.
    for (script, why) in [
        (
            "redis.call('SET', 'larder:' .. 1, 'x')",
            "larder:1 (no TTL)",
        ),
        (
            "redis.call('SET', 'other:' .. 1, 'x', 'EX', 60)",
            "other:1 (outside larder:)",
        ),
    ] {
        redis.cli(&["EVAL", script, "0"]).await;
        let told = told(&redis).unwrap();
        assert!(told.contains(why), "{told}");
        redis.cli(&["FLUSHALL"]).await;
    }
    redis.cli(&["SET", "mine", "x"]).await;
    assert_eq!(told(&redis), None, "a scenario's own");
    let larder = ["--user", "larder", "-a", "pw", "KEYS", "*"];
    let port = redis.port.to_string();
    let sent = std::process::Command::new("redis-cli")
        .args(["-p", &port])
        .args(larder)
        .output();
    assert!(sent.is_ok());
    let told = told(&redis).unwrap();
    for why in ["KEYS was sent 1 times", "keys was refused (command)"] {
        assert!(told.contains(why), "{told}");
    }
    redis.cli(&["ACL", "LOG", "RESET"]).await;
    redis.cli(&["CONFIG", "RESETSTAT"]).await;
}
