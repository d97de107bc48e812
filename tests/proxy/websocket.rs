//! Upgrades: a tunnel after the app's 101, and only then.

use crate::support::*;

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// The demo app, whose socket echoes; it stops with the runtime.
async fn demo() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let options = ::larder::demo::DemoOptions {
        speed: 0.0,
        ..Default::default()
    };
    tokio::spawn(::larder::demo::serve(
        listener,
        options,
        std::future::pending(),
    ));
    address
}

#[tokio::test]
async fn a_websocket_echoes_through() {
    let address = demo().await;
    let app = App::says(|_| Answer::ok("")).await;
    let larder = larder(&app)
        .upstream(Some(format!("http://{address}")))
        .start()
        .await;
    for (upgrade, connection) in [
        ("websocket", "Upgrade"),
        ("WebSocket", "keep-alive, upgrade"),
    ] {
        let (mut socket, head) = WebSocket::open(larder.address, "/ws", upgrade, connection).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        socket.say("hello").await;
        assert_eq!(socket.hear().await, (1, "hello".into()));
    }
}

#[tokio::test]
async fn an_upgrade_that_the_app_refuses_is_an_ordinary_answer() {
    let app = App::says(|_| Answer::ok("no socket here")).await;
    let larder = larder(&app).start().await;
    let raw = larder
        .client()
        .raw(b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert!(raw.starts_with("HTTP/1.1 200"), "{raw}");
    assert!(raw.contains("no socket here"), "{raw}");
    // The bytes behind are a request to larder, or nothing; they never are the app's tunnel.
    assert_eq!(
        app.total(),
        app.count("/ws") as u64 + app.count("/smuggled") as u64
    );
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_502() {
    let app = App::says(|_| Answer::raw(ACCEPTED).then_echo()).await;
    let larder = larder(&app).start().await;
    assert_eq!(larder.get("/").await.status, 502);
}

#[tokio::test]
async fn the_app_closing_its_side_closes_the_clients() {
    let app = App::says(|_| Answer::raw(ACCEPTED).then_close()).await;
    let larder = larder(&app).start().await;
    let (mut socket, head) = WebSocket::open(larder.address, "/ws", "websocket", "Upgrade").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(socket.ends().await);
}
