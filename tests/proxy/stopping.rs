//! The end: SIGTERM cuts nothing that fits into the grace.

use crate::support::*;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[tokio::test]
async fn sigterm_under_load_cuts_no_answer() {
    let app = App::says(|_| Answer::ok("x".repeat(20_000)).after(Duration::from_millis(300))).await;
    let mut larder = larder(&app)
        .yaml("shutdown: { delay: 0s, grace: 10s }")
        .start()
        .await;
    let mut clients = JoinSet::new();
    for n in 0..50 {
        let client = larder.client();
        clients.spawn(async move { client.try_send("GET", &format!("/{n}"), &[], "").await });
    }
    eventually("all are on their way", async || {
        (app.total() == 50).then_some(())
    })
    .await;
    let started = Instant::now();
    larder.signal("TERM");
    while let Some(answer) = clients.join_next().await {
        let answer = answer.unwrap().expect("a whole answer");
        assert_eq!((answer.status, answer.body.len()), (200, 20_000));
    }
    assert_eq!(larder.exit().await.code(), Some(0), "{}", larder.log());
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "it does not wait out its grace for nothing"
    );
}

#[tokio::test]
async fn during_the_delay_it_is_not_ready_but_still_serves() {
    let app = App::says(|_| Answer::ok("x")).await;
    let mut larder = larder(&app)
        .yaml("shutdown: { delay: 3s, grace: 5s }")
        .start()
        .await;
    larder.signal("TERM");
    eventually("it is not ready", async || {
        let answer = larder
            .admin()
            .try_send("GET", "/readyz", &[], "")
            .await
            .ok()?;
        (answer.status == 503).then_some(())
    })
    .await;
    assert_eq!(larder.get("/").await.text(), "x");
    assert_eq!(larder.exit().await.code(), Some(0));
}

#[tokio::test]
async fn what_does_not_end_is_cut_after_the_grace() {
    let never = Gate::closed();
    let app = App::says(move |_| Answer::ok("x").behind(&never)).await;
    let mut larder = larder(&app)
        .yaml("shutdown: { delay: 0s, grace: 1s }")
        .start_unready()
        .await;
    let client = larder.client();
    let asked = tokio::spawn(async move { client.try_send("GET", "/", &[], "").await });
    eventually("it is asked", async || (app.total() == 1).then_some(())).await;
    let started = Instant::now();
    larder.signal("TERM");
    larder.exit().await;
    assert!(
        (900..8000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
    // Cut or told: what it must not do is wait for ever.
    let _ = asked.await.unwrap();
}

#[tokio::test]
async fn idle_connections_and_open_tunnels_do_not_hold_it_beyond_the_grace() {
    let app = App::says(|_| {
        Answer::raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n").then_echo()
    })
    .await;
    let mut larder = larder(&app)
        .yaml("shutdown: { delay: 0s, grace: 2s }")
        .start_unready()
        .await;
    let _idle = larder.client().socket().await;
    let (mut socket, head) = WebSocket::open(larder.address, "/ws", "websocket", "Upgrade").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    larder.signal("TERM");
    assert_eq!(larder.exit().await.code(), Some(0));
    assert!(socket.ends().await);
}
