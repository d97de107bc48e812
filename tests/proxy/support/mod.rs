//! What scenarios stand on: an app that says what it is told, the real larder, a real redis-server,
//! a network that fails on demand, and a client. Nothing here knows a scenario.
#![allow(dead_code, reason = "the rig is larger than what one scenario uses")]

mod app;
mod authority;
mod check;
mod client;
mod fault;
mod larder;
mod postgres;
mod redis;
mod token;
mod topology;
mod traffic;

pub use app::{Answer, App, Gate, Seen, read_head};
pub use authority::{Authority, TlsFront};
pub use check::NEVER_SENT;
pub use client::{Client, Response, WebSocket};
pub use fault::{Fault, FaultProxy};
pub use larder::{Larder, Setup, larder, larder_cli};
pub use postgres::Postgres;
pub use redis::RedisServer;
pub use token::{SECRET, identity, signed, token};
pub use topology::{FOLLOWS, Monitored, RedisCluster};
pub use traffic::{Traffic, shop};

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

/// Longest wait for anything that should happen.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks again and again until `look` gives something; fails the test after [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A port that nobody listens on (at this moment).
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port()
}

/// Sends a signal to one process, by its id.
pub fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status()
        .expect("kill runs");
    assert!(status.success(), "kill -{name} {pid}");
}

/// Whether `needle` is anywhere in `haystack`.
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
