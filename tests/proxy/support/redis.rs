//! A real redis-server on a port and in a folder of its own.

use super::{eventually, free_port, signal};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Killed when dropped. Its append-only file keeps every write, so that a kill -9 loses nothing
/// and a test can read whatever was ever stored.
pub struct RedisServer {
    pub port: u16,
    folder: TempDir,
    child: Option<Child>,
    options: Vec<String>,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further options, e.g. `["--maxmemory", "2mb"]`.
    pub async fn with(options: &[&str]) -> Self {
        let mut server = Self::absent();
        server.options = options.iter().map(|option| (*option).to_owned()).collect();
        server.up().await;
        server
    }

    /// A server that is not running yet.
    pub fn absent() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            port: free_port(),
            folder,
            child: None,
            options: Vec::new(),
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts it with the data it had.
    pub async fn up(&mut self) {
        self.child = Some(
            Command::new("redis-server")
                .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
                .args(["--save", "", "--appendonly", "yes", "--appendfsync", "no"])
                .args([
                    "--aof-use-rdb-preamble",
                    "no",
                    "--enable-debug-command",
                    "yes",
                ])
                .args(["--dir", &self.folder.path().to_string_lossy()])
                .args(&self.options)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("redis-server is installed (make setup)"),
        );
        eventually("redis-server answers", async || {
            (self.cli(&["PING"]).await == "PONG").then_some(())
        })
        .await;
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
    }

    /// kill -9, then up with the data it had.
    pub async fn restart(&mut self) {
        self.kill().await;
        self.up().await;
    }

    /// kill -9, then up with nothing.
    pub async fn restart_empty(&mut self) {
        self.kill().await;
        let _ = std::fs::remove_dir_all(self.folder.path().join("appendonlydir"));
        self.up().await;
    }

    /// SIGSTOP: connections stand, nothing answers.
    pub fn stop(&self) {
        signal(self.pid(), "STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        signal(self.pid(), "CONT");
    }

    pub async fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .await
            .expect("redis-cli is installed (make setup)");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// The bytes under `name`.
    pub fn get(&self, name: &str) -> Vec<u8> {
        redis::cmd("GET")
            .arg(name)
            .query(&mut self.connect())
            .unwrap()
    }

    /// Puts any bytes under `name`, for a minute.
    pub fn set(&self, name: &str, bytes: &[u8]) {
        let mut set = redis::cmd("SET");
        let set = set.arg(name).arg(bytes).arg("EX").arg(60);
        set.exec(&mut self.connect()).unwrap();
    }

    fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_connection().unwrap()
    }

    pub async fn keys(&self) -> Vec<String> {
        let keys = self.cli(&["KEYS", "*"]).await;
        keys.lines()
            .filter(|key| !key.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Every byte that was ever written, expired and deleted data included.
    pub fn everything_written(&self) -> Vec<u8> {
        fn read(folder: &Path, into: &mut Vec<u8>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    read(&entry.path(), into);
                } else {
                    into.extend(std::fs::read(entry.path()).unwrap_or_default());
                }
            }
        }
        let mut all = Vec::new();
        read(self.folder.path(), &mut all);
        all
    }

    /// Every command from now on.
    pub async fn monitor(&self) -> Monitor {
        let mut child = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "MONITOR"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let kept = lines.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = output.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        let monitor = Monitor {
            lines,
            _child: child,
        };
        eventually("MONITOR listens", async || {
            (!monitor.lines().is_empty()).then_some(())
        })
        .await;
        monitor
    }

    fn pid(&self) -> u32 {
        self.child
            .as_ref()
            .and_then(Child::id)
            .expect("redis-server runs")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL all the same; kill_on_drop sends it.
        self.child = None;
    }
}

/// What MONITOR told.
pub struct Monitor {
    lines: Arc<Mutex<Vec<String>>>,
    _child: Child,
}

impl Monitor {
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn count(&self, word: &str) -> usize {
        self.lines()
            .iter()
            .filter(|line| line.contains(word))
            .count()
    }
}
