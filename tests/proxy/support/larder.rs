//! The real binary, with a configuration in a folder of its own, on ports of its own.

use super::{App, Client, RedisServer, Response, eventually, free_port, signal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Variables that would change what larder does, taken from its environment.
const FOREIGN_VARIABLES: [&str; 18] = [
    "PORT",
    "REDIS_URL",
    "KV_URL",
    "UPSTASH_REDIS_URL",
    "UPSTASH_REDIS_REST_URL",
    "UPSTASH_REDIS_REST_TOKEN",
    "KV_REST_API_URL",
    "KV_REST_API_TOKEN",
    "REDIS_PRIVATE_URL",
    "ADMIN_TOKEN",
    "DEBUG_TOKEN",
    "CACHE_KEY",
    "SUPABASE_URL",
    "SUPABASE_JWT_SECRET",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_SDK_DISABLED",
    "NO_COLOR",
];

/// larder before it runs.
pub struct Setup {
    upstream: Option<String>,
    redis: Option<String>,
    yaml: String,
    env: Vec<(String, String)>,
    manual_clock: bool,
}

/// larder in front of this app; what `yaml` says comes after `listen`, `upstream`, `redis` and `admin`.
pub fn larder(app: &App) -> Setup {
    Setup {
        upstream: Some(app.url()),
        redis: None,
        yaml: String::new(),
        env: Vec::new(),
        manual_clock: false,
    }
}

impl Setup {
    /// In place of the app's URL; `None`: the YAML has its own `upstream`.
    pub fn upstream(mut self, url: Option<String>) -> Self {
        self.upstream = url;
        self
    }

    pub fn redis(self, redis: &RedisServer) -> Self {
        let url = redis.url();
        self.redis_url(url)
    }

    pub fn redis_url(mut self, url: impl Into<String>) -> Self {
        self.redis = Some(format!("\"{}\"", url.into()));
        self
    }

    /// `redis:` in its long form, as flow-style YAML.
    pub fn redis_block(mut self, block: impl Into<String>) -> Self {
        self.redis = Some(block.into());
        self
    }

    pub fn yaml(mut self, yaml: &str) -> Self {
        self.yaml.push_str(yaml);
        self.yaml.push('\n');
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Time stands still until [`Larder::advance`].
    pub fn manual_clock(mut self) -> Self {
        self.manual_clock = true;
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Larder {
        self.start_until("/readyz").await
    }

    /// Starts it and waits until it lives: for an app that is down.
    pub async fn start_unready(self) -> Larder {
        self.start_until("/livez").await
    }

    async fn start_until(self, probe: &str) -> Larder {
        // A port may be taken between looking and listening: then another pair is tried.
        for _ in 0..3 {
            let mut larder = self.spawn();
            if larder.reaches(probe).await {
                return larder;
            }
        }
        let larder = self.spawn();
        panic!("larder never answered {probe}:\n{}", larder.log());
    }

    fn spawn(&self) -> Larder {
        let folder = tempfile::tempdir().unwrap();
        let (port, admin) = (free_port(), free_port());
        let config = folder.path().join("proxy.yaml");
        std::fs::write(&config, self.text(port, admin)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command
            .arg("run")
            .arg("-c")
            .arg(&config)
            .current_dir(folder.path());
        for name in FOREIGN_VARIABLES {
            command.env_remove(name);
        }
        if self.manual_clock {
            command.env("LARDER_TEST_CLOCK", "1");
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("larder starts");
        let output = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take(), output.clone());
        collect(child.stderr.take(), output.clone());
        Larder {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            admin_address: SocketAddr::from(([127, 0, 0, 1], admin)),
            config,
            child,
            output,
            folder,
        }
    }

    fn text(&self, port: u16, admin: u16) -> String {
        let has = |key: &str| {
            self.yaml
                .lines()
                .any(|line| line.starts_with(&format!("{key}:")))
        };
        let mut text = String::new();
        if !has("listen") {
            text.push_str(&format!("listen: \"127.0.0.1:{port}\"\n"));
        }
        if !has("admin") {
            text.push_str(&format!("admin: {{ listen: \"127.0.0.1:{admin}\" }}\n"));
        }
        if let (Some(url), false) = (&self.upstream, has("upstream")) {
            text.push_str(&format!("upstream: \"{url}\"\n"));
        }
        if let Some(redis) = &self.redis {
            text.push_str(&format!("redis: {redis}\n"));
        }
        text.push_str(
            &self
                .yaml
                .replace("{PORT}", &port.to_string())
                .replace("{ADMIN}", &admin.to_string()),
        );
        text
    }
}

/// larder as it runs. Killed when dropped.
pub struct Larder {
    pub address: SocketAddr,
    pub admin_address: SocketAddr,
    pub config: PathBuf,
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    folder: TempDir,
}

impl Larder {
    /// A new client of the traffic port.
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// A new client of the admin port.
    pub fn admin(&self) -> Client {
        Client::new(self.admin_address)
    }

    /// One request on a connection of its own.
    pub async fn get(&self, target: &str) -> Response {
        self.client().get(target).await
    }

    pub async fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.client().get_with(target, headers).await
    }

    /// What `/metrics` says, as one text.
    pub async fn metrics(&self) -> String {
        self.admin().get("/metrics").await.text()
    }

    /// `POST /v1/purge`.
    pub async fn purge(&self, what: serde_json::Value) -> Response {
        let json = [("Content-Type", "application/json")];
        self.admin()
            .post("/v1/purge", &json, what.to_string())
            .await
    }

    /// Moves a manual clock on.
    pub async fn advance(&self, by: &str) {
        let json = [("Content-Type", "application/json")];
        let body = serde_json::json!({ "advance": by }).to_string();
        let answer = self.admin().post("/v1/clock", &json, body).await;
        assert!(
            answer.status < 300,
            "the clock cannot be moved: {} {}",
            answer.status,
            answer.text()
        );
    }

    /// Waits until it says that Redis is, or is not, in use.
    pub async fn redis_is(&self, connected: bool) {
        eventually(&format!("redis.connected = {connected}"), async || {
            let health = self
                .admin()
                .try_send("GET", "/healthz", &[], "")
                .await
                .ok()?;
            let health = health.json();
            // Until the purge log is followed, a connection alone is of no use to the store.
            let followed = !connected || health["cache"]["purgeLogFollowed"] == true;
            (followed && health["redis"]["connected"] == connected).then_some(())
        })
        .await;
    }

    /// Everything it has printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// Waits until it prints this.
    pub async fn says(&self, text: &str) {
        eventually(&format!("larder prints {text:?}"), async || {
            self.log().contains(text).then_some(())
        })
        .await;
    }

    /// Writes another configuration to its file, with the same ports, app and Redis.
    pub fn configure(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(old), "{old:?} is not in the configuration");
        // Renamed into place, as careful tools do, so that nobody reads half a file.
        let beside = self.folder.path().join("proxy.yaml.new");
        std::fs::write(&beside, text.replace(old, new)).unwrap();
        std::fs::rename(beside, &self.config).unwrap();
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.id().expect("larder runs"), name);
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("larder runs")
    }

    /// Waits for its end.
    pub async fn exit(&mut self) -> ExitStatus {
        tokio::time::timeout(super::PATIENCE * 2, self.child.wait())
            .await
            .expect("larder ends")
            .unwrap()
    }

    async fn reaches(&mut self, probe: &str) -> bool {
        let started = std::time::Instant::now();
        while started.elapsed() < super::PATIENCE {
            if self.child.try_wait().unwrap().is_some() {
                // Its last words go with the panic, should this be the last try.
                tokio::time::sleep(super::LOOK_EVERY).await;
                eprintln!("larder ended at its start:\n{}", self.log());
                return false;
            }
            let answer = self.admin().try_send("GET", probe, &[], "").await;
            let listening = tokio::net::TcpStream::connect(self.address).await.is_ok();
            if listening && answer.is_ok_and(|answer| answer.status == 200) {
                return true;
            }
            tokio::time::sleep(super::LOOK_EVERY).await;
        }
        eprintln!("larder is not ready:\n{}", self.log());
        false
    }
}

/// Runs a command of larder to its end, with this standard input.
pub async fn larder_cli(arguments: &[&str], input: &str) -> Output {
    use tokio::io::AsyncWriteExt;
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    for name in FOREIGN_VARIABLES {
        command.env_remove(name);
    }
    let mut child = command
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    tokio::time::timeout(super::PATIENCE, child.wait_with_output())
        .await
        .expect("the command ends")
        .unwrap()
}

fn collect(pipe: Option<impl AsyncRead + Unpin + Send + 'static>, into: Arc<Mutex<Vec<u8>>>) {
    let Some(mut pipe) = pipe else { return };
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = pipe.read(&mut bytes).await {
            into.lock().unwrap().extend_from_slice(&bytes[..read]);
        }
    });
}
