//! A real redis-server on a port and in a folder of its own.
//!
//! larder is let in as the user that `larder export acl` prints and as nobody else, and what it leaves
//! there is looked at when the server ends: see [`check`](super::check).

use super::check::{self, Harness};
use super::{eventually, free_port, signal};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Options by which a scenario brings users of its own: the server is then open as it says.
const OWN_USERS: [&str; 3] = ["--requirepass", "--user", "--aclfile"];

/// Killed when dropped. Its append-only file keeps every write, so that a kill -9 loses nothing
/// and a test can read whatever was ever stored.
pub struct RedisServer {
    pub port: u16,
    folder: TempDir,
    child: Option<Child>,
    options: Vec<String>,
    namespace: String,
    /// Further lines of the configuration that its user is printed for.
    yaml: String,
    stopped: AtomicBool,
    harness: Harness,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further options, e.g. `["--maxmemory", "2mb"]`.
    pub async fn with(options: &[&str]) -> Self {
        Self::of("larder", options).await
    }

    /// The same for a larder whose `cache.namespace` is this.
    pub async fn of(namespace: &str, options: &[&str]) -> Self {
        let mut server = Self::absent();
        server.namespace = namespace.into();
        server.options = options.iter().map(|option| (*option).to_owned()).collect();
        server.up().await;
        server
    }

    /// The same for a larder with these lines in its configuration, on which its user depends.
    pub async fn for_yaml(yaml: &str) -> Self {
        let mut server = Self::absent();
        server.yaml = yaml.into();
        server.up().await;
        server
    }

    /// A key that is the scenario's own.
    pub fn owns(&self, key: &str) {
        self.harness.says(&["--owns", key]);
    }

    /// A server that is not running yet.
    pub fn absent() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            port: free_port(),
            folder,
            child: None,
            options: Vec::new(),
            namespace: "larder".into(),
            yaml: String::new(),
            stopped: AtomicBool::new(false),
            harness: Harness::default(),
        }
    }

    /// With the user that larder is.
    pub fn url(&self) -> String {
        self.url_by(self.address())
    }

    /// The same by another way, such as a network that fails.
    pub fn url_by(&self, address: SocketAddr) -> String {
        format!("redis://larder:{PASSWORD}@{address}")
    }

    /// larder may be refused this here, by the scenario's own doing: `command` as ACL LOG names it.
    pub fn may_refuse(&self, command: &str) {
        self.harness.may_refuse(command);
    }

    /// Others than larder send this: `command` as INFO names it.
    pub fn others_send(&self, command: &str) {
        self.harness.others_send(command);
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
                .args(self.users())
                .args(&self.options)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("redis-server is installed (make setup)"),
        );
        self.harness.begins();
        eventually("redis-server answers", async || {
            (self.cli(&["PING"]).await == "PONG").then_some(())
        })
        .await;
    }

    /// Nobody but us and larder, as the smallest user that it can work as.
    fn users(&self) -> Vec<String> {
        let admin = "--user harness on nopass ~* &* +@all";
        let mut users: Vec<String> = admin.split(' ').map(str::to_owned).collect();
        let own = |option: &String| OWN_USERS.contains(&option.as_str());
        if !self.options.iter().any(own) {
            users.extend(["--user", "default", "off"].map(str::to_owned));
            users.push("--user".into());
            users.extend(larder_user(&self.namespace, &self.yaml));
        }
        users
    }

    /// What larder did there and left there is as it should be. Says nothing of a server that does not
    /// run, or is stopped.
    pub fn check(&self) {
        if self.child.is_some() && !self.stopped.load(Ordering::Relaxed) {
            check::check(self.port, &self.namespace, &self.harness);
        }
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        self.check();
        self.stopped.store(false, Ordering::Relaxed);
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
        self.stopped.store(true, Ordering::Relaxed);
        signal(self.pid(), "STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        signal(self.pid(), "CONT");
        self.stopped.store(false, Ordering::Relaxed);
    }

    /// As somebody who may do everything. A key that is named here is the scenario's own.
    pub async fn cli(&self, arguments: &[&str]) -> String {
        self.harness.says(arguments);
        let output = self
            .redis_cli()
            .args(arguments)
            .output()
            .await
            .expect("redis-cli is installed (make setup)");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    fn redis_cli(&self) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args([
            "--user",
            "harness",
            "--no-auth-warning",
            "-a",
            "any",
        ]);
        command
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
        let url = format!("redis://harness:any@{}", self.address());
        let client = redis::Client::open(url).unwrap();
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
        let mut child = self
            .redis_cli()
            .arg("MONITOR")
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
        if !std::thread::panicking() {
            if self.stopped.load(Ordering::Relaxed) {
                self.resume();
            }
            self.check();
        }
        // A stopped process dies of SIGKILL all the same; kill_on_drop sends it.
        self.child = None;
    }
}

/// larder's password, wherever nothing else is asked for.
const PASSWORD: &str = "pw";

/// What `larder export acl` prints for this namespace, from the name on. Asked for once.
fn larder_user(namespace: &str, yaml: &str) -> Vec<String> {
    static PRINTED: OnceLock<Mutex<HashMap<String, Vec<String>>>> = OnceLock::new();
    let mut printed = PRINTED.get_or_init(Mutex::default).lock().unwrap();
    let print = || {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("proxy.yaml");
        let yaml =
            format!("upstream: http://localhost:1\ncache: {{ namespace: {namespace} }}\n{yaml}\n");
        std::fs::write(&config, yaml).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["export", "acl", "-c"])
            .arg(config)
            .output()
            .unwrap();
        let rule = String::from_utf8(output.stdout).unwrap();
        let words = rule.trim_end().strip_prefix("ACL SETUSER ");
        let words = words.unwrap_or_else(|| panic!("not a rule: {rule}"));
        words
            .replace(">PASSWORD", &format!(">{PASSWORD}"))
            .split(' ')
            .map(str::to_owned)
            .collect()
    };
    printed
        .entry(format!("{namespace} {yaml}"))
        .or_insert_with(print)
        .clone()
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
