//! Who is measured: how each is configured and started, where it answers, and whose CPU counts.

mod haproxy;
pub mod hyper;
mod larder;
mod nginx;
mod varnish;

pub use larder::{Larder, divided};

use crate::child::{self, Child, SERVER_CORE};
use crate::generator::client::{CERTIFICATE_NAME, Client};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For a server to answer after its start.
const START_MAX: Duration = Duration::from_secs(20);
/// Sizes that rows ask for, in bytes: 1, 16 and 256 KiB.
pub const SIZES: [usize; 3] = [1_024, 16_384, 262_144];

/// What can be started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Product {
    /// The app itself, on the core of what is measured.
    App,
    /// A map of bodies behind hyper, nothing decided.
    Hyper,
    /// hyper, and a GET for each request over one multiplexed connection.
    HyperGet,
    /// hyper, and the app asked for each request over a list of idle connections.
    HyperPass,
    /// `proxy_cache`, one worker.
    Nginx {
        /// `sendfile` and `tcp_nopush`, as configurations usually have them.
        sendfile: bool,
    },
    /// Its lua module asks Redis.
    NginxLua,
    /// Memory storage.
    Varnish,
    /// Its small cache.
    Haproxy,
    /// Us.
    Larder(Larder),
}

/// Why there is no server.
#[derive(Debug)]
pub enum Problem {
    /// It is not installed.
    Absent(String),
    /// It is, and did not work.
    Failed(String),
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent(what) => write!(to, "skipped: {what} is not installed"),
            Self::Failed(why) => write!(to, "failed: {why}"),
        }
    }
}

/// How a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// HTTP/1.1.
    Plain,
    /// HTTP/2 without TLS, known beforehand.
    H2c,
    /// TLS 1.3, either version by ALPN.
    Tls,
}

/// What all servers of a run share.
pub struct Bed {
    /// Configurations, caches, logs; gone with the run.
    pub folder: tempfile::TempDir,
    /// The app behind the proxies.
    pub app: SocketAddr,
    /// Its process lives as long as the bed.
    _app: Child,
    /// A certificate for `localhost`.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pub both: PathBuf,
    /// Large counts are divided by this.
    pub divisor: usize,
    started: std::cell::Cell<u32>,
}

impl Bed {
    /// A folder in memory, a certificate and the app.
    pub async fn make(divisor: usize) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let folder = tempfile::Builder::new()
            .prefix("larder-load-")
            .tempdir_in(if Path::new("/dev/shm").is_dir() {
                PathBuf::from("/dev/shm")
            } else {
                std::env::temp_dir()
            })
            .map_err(text)?;
        let made = rcgen::generate_simple_self_signed([CERTIFICATE_NAME.to_owned()])
            .map_err(|error| error.to_string())?;
        let [certificate, key, both] =
            ["cert.pem", "key.pem", "both.pem"].map(|name| folder.path().join(name));
        let (public, private) = (made.cert.pem(), made.signing_key.serialize_pem());
        std::fs::write(&certificate, &public).map_err(text)?;
        std::fs::write(&key, &private).map_err(text)?;
        std::fs::write(&both, public + &private).map_err(text)?;
        let app = free_address()?;
        let command = hyper::command(child::CLIENT_CORE, "app", &[("--plain", app.to_string())])?;
        let child = Child::start(command, folder.path().join("app.log"))?;
        let bed = Self {
            folder,
            app,
            _app: child,
            certificate,
            key,
            both,
            divisor,
            started: std::cell::Cell::new(0),
        };
        answers(app, &bed._app).await?;
        Ok(bed)
    }

    /// A folder of its own for a server.
    fn room(&self, name: &str) -> Result<PathBuf, String> {
        self.started.set(self.started.get() + 1);
        let room = self
            .folder
            .path()
            .join(format!("{name}-{}", self.started.get()));
        std::fs::create_dir_all(&room).map_err(|error| error.to_string())?;
        Ok(room)
    }

    /// How many requests reached the app so far.
    pub async fn app_requests(&self) -> Result<u64, String> {
        let mut connection = Client::new(self.app, None)?.connect().await?;
        let (_, body) = connection.get("/count").await?;
        String::from_utf8_lossy(body)
            .trim()
            .parse()
            .map_err(|_| "the app tells no count".into())
    }
}

/// A server that answers, until this is dropped.
pub struct Server {
    /// HTTP/1.1.
    pub plain: Option<SocketAddr>,
    /// HTTP/2 without TLS.
    pub h2c: Option<SocketAddr>,
    /// TLS.
    pub tls: Option<SocketAddr>,
    /// larder's admin port.
    pub admin: Option<SocketAddr>,
    /// Metrics are asked for once a second while it is measured.
    pub scraped: bool,
    /// All of these and what descends from them is counted: the server, and Redis where it has one.
    children: Vec<Child>,
}

impl Server {
    fn new(child: Child) -> Self {
        Self {
            plain: None,
            h2c: None,
            tls: None,
            admin: None,
            scraped: false,
            children: vec![child],
        }
    }

    /// Where this door is, if the server has it.
    pub fn door(&self, door: Door) -> Option<SocketAddr> {
        match door {
            Door::Plain => self.plain,
            Door::H2c => self.h2c,
            Door::Tls => self.tls,
        }
    }

    /// The processes whose CPU is this server's.
    pub fn counted(&self) -> Vec<u32> {
        self.children.iter().map(Child::pid).collect()
    }

    /// Waits until it answers 200 to a request for 1 KiB.
    async fn ready(self) -> Result<Self, Problem> {
        if let (Some(address), Some(child)) = (self.plain, self.children.first()) {
            answers(address, child).await?;
        }
        Ok(self)
    }
}

impl Product {
    /// Starts it and waits until it answers. A server that has one port for everything gets TLS on
    /// it if `tls` says so.
    pub async fn start(self, bed: &Bed, tls: bool) -> Result<Server, Problem> {
        match self {
            Self::App => hyper::start(bed, "app").await,
            Self::Hyper => hyper::start(bed, "map").await,
            Self::HyperGet => hyper::start(bed, "get").await,
            Self::HyperPass => hyper::start(bed, "pass").await,
            Self::Nginx { sendfile } => nginx::start(bed, sendfile).await,
            Self::NginxLua => nginx::start_lua(bed).await,
            Self::Varnish => varnish::start(bed).await,
            Self::Haproxy => haproxy::start(bed).await,
            Self::Larder(kind) => larder::start(bed, kind, tls).await,
        }
    }
}

/// The larder that is measured: `LARDER_BIN`, else the one that cargo built.
pub fn larder_binary() -> PathBuf {
    std::env::var_os("LARDER_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_larder").into(), PathBuf::from)
}

/// An address on loopback that nobody has at this moment.
fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| error.to_string())
}

fn installed(program: &str) -> Result<PathBuf, Problem> {
    child::find(program).ok_or_else(|| Problem::Absent(program.to_owned()))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{file:?}: {error}"))
}

/// Waits until 1 KiB comes with status 200.
async fn answers(address: SocketAddr, child: &Child) -> Result<(), String> {
    let client = Client::new(address, None)?;
    let began = Instant::now();
    loop {
        let said = match client.connect().await {
            Err(error) => error,
            Ok(mut connection) => match connection.get("/b/1024").await {
                Ok((200, body)) if body.len() == SIZES[0] => return Ok(()),
                Ok((status, body)) => format!("{status} with {} bytes", body.len()),
                Err(error) => error,
            },
        };
        if began.elapsed() > START_MAX {
            return Err(format!("no answer ({said}) {}", child.said()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A Redis of a server's own, on the same core, with nothing on disk.
async fn redis(room: &Path) -> Result<(Child, SocketAddr), Problem> {
    let program = installed("redis-server")?;
    let address = free_address()?;
    let mut command = child::pinned(SERVER_CORE, &program);
    command
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
        .args([
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
            "--dir",
        ])
        .arg(room);
    let child = Child::start(command, room.join("redis.log"))?;
    let began = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        if began.elapsed() > START_MAX {
            return Err(Problem::Failed(format!("no Redis: {}", child.said())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((child, address))
}

/// Puts the bodies of the sizes that rows ask for into Redis, each under its path.
async fn seed(redis: SocketAddr) -> Result<(), String> {
    let text = |error: redis::RedisError| error.to_string();
    let client = redis::Client::open(format!("redis://{redis}")).map_err(text)?;
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .map_err(text)?;
    for size in SIZES {
        redis::cmd("SET")
            .arg(format!("/b/{size}"))
            .arg(vec![b'x'; size])
            .query_async::<()>(&mut connection)
            .await
            .map_err(text)?;
    }
    Ok(())
}
