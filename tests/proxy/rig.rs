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
