//! For tests: a real redis-server that can be killed, stopped, continued and started again.

use super::{Redis, Share};
use crate::config::RedisUrl;
use crate::config::settings;
use crate::telemetry::Recorder;
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A redis-server of this test's own; ended with it.
pub(crate) struct Server {
    child: Option<Child>,
    pub(crate) port: u16,
    arguments: Vec<String>,
    directory: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let mut server = Self::absent();
        server.run_with(arguments).await;
        server
    }

    /// A port where nothing listens yet.
    pub(crate) fn absent() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        Self {
            child: None,
            port,
            arguments: Vec::new(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) async fn run_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self.run().await;
    }

    pub(crate) async fn run(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        until("redis-server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        })
        .await;
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `STOP` or `CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let signal = format!("-{signal}");
        let sent = Command::new("kill").args([&signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connect(&self) -> Redis {
        connect(&self.url())
    }

    /// redis-cli, whose answer is returned.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let answer = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&answer.stdout).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn settings_for(url: &str) -> settings::Redis {
    settings::Redis {
        url: RedisUrl::parse(url).unwrap(),
        pool_min: 1,
        pool_max: NonZeroU32::new(2).unwrap(),
        concurrent: None,
        timeout: Duration::from_millis(100),
        breaker: settings::Breaker {
            trip: 0.7,
            window: Duration::from_secs(10),
            min_calls: 10,
            retry_after: Duration::from_secs(15),
        },
        read_from: settings::ReadFrom::Primary,
        tls_ca: None,
        limits_url: None,
    }
}

pub(crate) fn connect(url: &str) -> Redis {
    let settings = settings_for(url);
    Redis::start(&settings, &settings.url, share(1, 2), recorder())
}

/// Connections, least and most, and no further bound.
pub(crate) fn share(least: u32, most: u32) -> Share {
    Share {
        connections: (least, most),
        concurrent: None,
    }
}

/// The one place where these tests make a recorder.
pub(crate) fn recorder() -> Recorder {
    crate::telemetry::Metrics::new(1).recorder(0)
}

/// Looks every few milliseconds until `what` is so; at most 10 s. Returns how long that took.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}
