//! One connection to one Redis server: how it is made, how it is seen to be alive, how it ends.
//!
//! We open the socket ourselves, so that deadlines, TCP options, TLS and the watch on what comes
//! back are ours; the `redis` crate speaks the protocol on it. Nothing here decides whether Redis is
//! asked, and nothing here is logged.

use super::{Outage, outage};
use crate::config::settings;
use crate::secret::Secret;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisResult, Script, ServerErrorKind, Value,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Name resolution, TCP, TLS and greeting together must be done within this.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Commands that may wait on one connection at a time.
pub const WAITING_MAX: usize = 1_024;
/// Bytes that may come in without completing a single answer; a longer answer ends the connection.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes read in one turn: whoever waited for them uses them, and gives their room back, before more is
/// read. Without that, large answers to many are all in memory at once, each in pages of its own.
const TURN_BYTES_MAX: usize = 256 * 1024;
/// Unacknowledged data older than this ends the connection (TCP_USER_TIMEOUT).
pub const TCP_UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// An idle connection is looked after this often (TCP keepalive).
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(5);

/// Which servers make up this Redis. One server today; Sentinel and Cluster are further kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Single(Address),
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `redis://host:port`
    Tcp(String, u16),
    /// `rediss://host:port`
    Tls(String, u16),
    /// `redis+unix:///path`
    Unix(PathBuf),
}

impl fmt::Display for Address {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "redis://{host}:{port}"),
            Self::Tls(host, port) => write!(f, "rediss://{host}:{port}"),
            Self::Unix(path) => write!(f, "redis+unix://{}", path.display()),
        }
    }
}

/// Why there is no connection: the kind, and a sentence for the log that holds no password.
#[derive(Clone, Debug)]
pub struct Refused {
    /// What it means for callers.
    pub outage: Outage,
    /// For people.
    pub text: String,
}

impl Refused {
    fn connection(text: impl fmt::Display) -> Self {
        Self {
            outage: Outage::Connection,
            text: text.to_string(),
        }
    }
}

impl From<redis::RedisError> for Refused {
    fn from(error: redis::RedisError) -> Self {
        Self {
            outage: outage::of_error(&error),
            text: error.to_string(),
        }
    }
}

/// What is needed to connect, read once from the settings.
pub struct Target {
    topology: Result<Topology, String>,
    greeting: RedisConnectionInfo,
    user: String,
    tls_ca: Option<PathBuf>,
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Target {
    /// Reads `url`. A URL that makes no sense is kept as a reason that every connect answers with.
    #[must_use]
    pub fn new(settings: &settings::Redis, url: &Secret) -> Self {
        let (topology, greeting) = match url.expose().into_connection_info() {
            Ok(info) => {
                let greeting = info
                    .redis_settings()
                    .clone()
                    .set_lib_name("larder", env!("CARGO_PKG_VERSION"));
                let address = match info.addr().clone() {
                    ConnectionAddr::Tcp(host, port) => Ok(Address::Tcp(host, port)),
                    ConnectionAddr::TcpTls { insecure: true, .. } => {
                        Err("a TLS connection without verification is not made".to_owned())
                    }
                    ConnectionAddr::TcpTls { host, port, .. } => Ok(Address::Tls(host, port)),
                    ConnectionAddr::Unix(path) => Ok(Address::Unix(path)),
                    _ => Err("this kind of Redis URL is not supported".to_owned()),
                };
                (address.map(Topology::Single), greeting)
            }
            // The crate's own message may quote the URL, so it is not passed on.
            Err(_) => (
                Err("the Redis URL cannot be read".to_owned()),
                RedisConnectionInfo::default(),
            ),
        };
        Self {
            topology,
            user: greeting.username().unwrap_or("default").to_owned(),
            greeting,
            tls_ca: settings.tls_ca.clone(),
            tls: OnceLock::new(),
        }
    }

    /// Where it is, without user and password.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.topology {
            Ok(Topology::Single(address)) => address.to_string(),
            Err(_) => "unknown".to_owned(),
        }
    }

    /// Who we are there.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Makes a connection within [`CONNECT_DEADLINE`]. Names are resolved anew each time.
    /// `changed` is told when it ends.
    pub async fn connect(&self, changed: Arc<Notify>) -> Result<Link, Refused> {
        let Topology::Single(address) = self.topology.as_ref().map_err(|text| Refused {
            outage: Outage::Protocol,
            text: text.clone(),
        })?;
        tokio::time::timeout(CONNECT_DEADLINE, self.dial(address, changed))
            .await
            .unwrap_or_else(|_| {
                Err(Refused {
                    outage: Outage::Timeout,
                    text: format!("no connection within {CONNECT_DEADLINE:?}"),
                })
            })
    }

    async fn dial(&self, address: &Address, changed: Arc<Notify>) -> Result<Link, Refused> {
        match address {
            Address::Tcp(host, port) => self.greet(tcp(host, *port).await?, changed).await,
            Address::Tls(host, port) => {
                let name = ServerName::try_from(host.clone()).map_err(Refused::connection)?;
                let connector = tokio_rustls::TlsConnector::from(self.tls().await?);
                let stream = connector
                    .connect(name, tcp(host, *port).await?)
                    .await
                    .map_err(|error| Refused::connection(format_args!("TLS: {error}")))?;
                self.greet(stream, changed).await
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(Refused::connection)?;
                self.greet(stream, changed).await
            }
        }
    }

    async fn greet<S>(&self, stream: S, changed: Arc<Notify>) -> Result<Link, Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let pulse = Arc::new(Pulse::new(changed));
        let watched = Watched {
            stream,
            pulse: Arc::clone(&pulse),
            turn_bytes: 0,
        };
        // Deadlines are ours, so that there is one timer a command and the greeting has its own.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(WAITING_MAX);
        let (handle, driver) =
            MultiplexedConnection::new_with_config(&self.greeting, watched, config).await?;
        let ended = End(Arc::clone(&pulse));
        let driver = tokio::spawn(async move {
            let _ended = ended;
            driver.await;
        });
        let link = Link {
            handle,
            pulse,
            driver: driver.abort_handle(),
        };
        let mut name = redis::cmd("CLIENT");
        name.arg("SETNAME").arg("larder");
        // Whoever lacks the right to name the connection may still use it.
        link.handle.clone().send_packed_command(&name).await?;
        Ok(link)
    }

    /// The TLS configuration; read from files off this thread, kept once it could be read.
    async fn tls(&self) -> Result<Arc<ClientConfig>, Refused> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let ca = self.tls_ca.clone();
        let config = tokio::task::spawn_blocking(move || tls_config(ca))
            .await
            .map_err(Refused::connection)??;
        Ok(Arc::clone(self.tls.get_or_init(|| config)))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.address()).finish()
    }
}

/// A live connection that many callers share; dropped by the last, it closes.
pub struct Link {
    handle: MultiplexedConnection,
    pulse: Arc<Pulse>,
    driver: AbortHandle,
}

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// It lives.
    Alive = 0,
    /// Closed by the other side, by an error, or by us because it did not answer.
    Closed = 1,
    /// Ended by us because nothing came back while commands waited.
    Stalled = 2,
}

impl Link {
    /// A place among the commands that wait on this link; `None` when there are too many.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Waiting> {
        let before = self.pulse.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Waiting(Arc::clone(self));
        if before >= WAITING_MAX {
            return None;
        }
        if before == 0 {
            let now = self.pulse.micros();
            self.pulse.busy_since.store(now, Ordering::Relaxed);
        }
        Some(place)
    }

    /// Commands that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pulse.waiting.load(Ordering::Relaxed)
    }

    /// How long commands have waited without a single byte coming back.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let since = self
            .pulse
            .last_read
            .load(Ordering::Relaxed)
            .max(self.pulse.busy_since.load(Ordering::Relaxed));
        Duration::from_micros(self.pulse.micros().saturating_sub(since))
    }

    /// Answers so far.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.pulse.answers.load(Ordering::Relaxed)
    }

    /// Whether it can take no more commands.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.fate() != Fate::Alive
    }

    /// Why it ended.
    #[must_use]
    pub fn fate(&self) -> Fate {
        match self.pulse.fate.load(Ordering::Relaxed) {
            0 => Fate::Alive,
            2 => Fate::Stalled,
            _ => Fate::Closed,
        }
    }

    /// Ends it; whoever waits on it is answered at once.
    pub fn end(&self, fate: Fate) {
        self.pulse.end(fate);
        self.driver.abort();
    }

    /// Sends one command and waits for its answer, however long that takes. An error reply is an
    /// error.
    pub async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let answer = self.handle.clone().send_packed_command(command).await;
        match answer? {
            Value::ServerError(error) => {
                self.pulse.answered();
                Err(error.into())
            }
            value => {
                self.pulse.answered();
                Ok(value)
            }
        }
    }

    /// Sends several commands in one write and waits for all answers; error replies stay in their
    /// places.
    pub async fn commands(&self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let answers = self
            .handle
            .clone()
            .send_packed_commands(pipeline, 0, pipeline.len())
            .await?;
        self.pulse.answered();
        Ok(answers)
    }

    /// Calls a script by its digest; loads it and calls again where the server does not have it.
    pub async fn script(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> RedisResult<Value> {
        let mut call = redis::cmd("EVALSHA");
        call.arg(script.get_hash()).arg(keys.len());
        keys.iter().chain(args).for_each(|part| {
            call.arg(*part);
        });
        match self.command(&call).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                script.load_async(&mut self.handle.clone()).await?;
                self.command(&call).await
            }
            answer => answer,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("fate", &self.fate())
            .field("waiting", &self.waiting())
            .finish()
    }
}

/// A command's place among those that wait; given back when dropped.
#[derive(Debug)]
pub struct Waiting(Arc<Link>);

impl Waiting {
    /// The link it waits on.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.0
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.pulse.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is seen of a connection from outside.
#[derive(Debug)]
struct Pulse {
    epoch: Instant,
    /// Microseconds since `epoch`.
    last_read: AtomicU64,
    /// Microseconds since `epoch`: when the first of those that wait began to.
    busy_since: AtomicU64,
    waiting: AtomicUsize,
    answers: AtomicU64,
    /// Bytes that came in since the last completed answer.
    unanswered_bytes: AtomicUsize,
    fate: AtomicU8,
    told: AtomicBool,
    changed: Arc<Notify>,
}

impl Pulse {
    fn new(changed: Arc<Notify>) -> Self {
        Self {
            epoch: Instant::now(),
            last_read: AtomicU64::new(0),
            busy_since: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            answers: AtomicU64::new(0),
            unanswered_bytes: AtomicUsize::new(0),
            fate: AtomicU8::new(Fate::Alive as u8),
            told: AtomicBool::new(false),
            changed,
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.unanswered_bytes.store(0, Ordering::Relaxed);
    }

    /// The first fate stays.
    fn end(&self, fate: Fate) {
        let _ = self.fate.compare_exchange(
            Fate::Alive as u8,
            fate as u8,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if !self.told.swap(true, Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }
}

/// Marks the link as ended when its driver stops, for whatever reason.
struct End(Arc<Pulse>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end(Fate::Closed);
    }
}

/// A stream that notes when something came in, lets others have their turn in between, and ends an
/// answer that does not end.
struct Watched<S> {
    stream: S,
    pulse: Arc<Pulse>,
    /// Bytes that came in this turn.
    turn_bytes: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn_bytes >= TURN_BYTES_MAX {
            self.turn_bytes = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => {
                self.turn_bytes = 0;
                return Poll::Pending;
            }
            Poll::Ready(read) => read?,
        }
        let came = buffer.filled().len() - before;
        self.turn_bytes += came;
        if came > 0 {
            let pulse = &self.pulse;
            pulse.last_read.store(pulse.micros(), Ordering::Relaxed);
            let unanswered = pulse.unanswered_bytes.fetch_add(came, Ordering::Relaxed) + came;
            if unanswered > ANSWER_BYTES_MAX {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "an answer that does not end",
                )));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, Refused> {
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(Refused::connection)?;
    let options = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&stream);
        socket.set_tcp_keepalive(
            &socket2::TcpKeepalive::new()
                .with_time(TCP_KEEPALIVE)
                .with_interval(TCP_KEEPALIVE)
                .with_retries(2),
        )?;
        socket.set_tcp_user_timeout(Some(TCP_UNACKNOWLEDGED))
    };
    options().map_err(Refused::connection)?;
    Ok(stream)
}

fn tls_config(ca: Option<PathBuf>) -> Result<Arc<ClientConfig>, Refused> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let unreadable =
                |error| Refused::connection(format_args!("{}: {error}", path.display()));
            for certificate in CertificateDer::pem_file_iter(&path).map_err(unreadable)? {
                roots
                    .add(certificate.map_err(unreadable)?)
                    .map_err(Refused::connection)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    // The provider is named here, so that nothing depends on what main installed.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Refused::connection)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_client::testing::settings_for;

    #[test]
    fn the_address_shows_neither_user_nor_password() {
        for (url, shown) in [
            ("redis://u:hunter2@cache:6380/2", "redis://cache:6380"),
            ("rediss://:hunter2@cache", "rediss://cache:6379"),
            (
                "redis+unix:///run/redis.sock?db=1&pass=hunter2",
                "redis+unix:///run/redis.sock",
            ),
            ("http://u:hunter2@cache", "unknown"),
            ("rediss://:hunter2@cache/#insecure", "unknown"),
        ] {
            let target = Target::new(&settings_for(url), &Secret::new(url));
            assert_eq!(target.address(), shown);
            assert!(!format!("{target:?}").contains("hunter2"));
        }
    }

    #[tokio::test]
    async fn a_long_answer_is_read_in_turns() {
        struct Endless;
        impl AsyncRead for Endless {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                buffer.put_slice(&[b'x'; 64 * 1024]);
                Poll::Ready(Ok(()))
            }
        }
        let mut watched = Watched {
            stream: Endless,
            pulse: Arc::new(Pulse::new(Arc::new(Notify::new()))),
            turn_bytes: 0,
        };
        let mut room = vec![0; 64 * 1024];
        let (mut came, mut turns) = (0, 0);
        std::future::poll_fn(|context| {
            turns += 1;
            loop {
                let mut buffer = ReadBuf::new(&mut room);
                match Pin::new(&mut watched).poll_read(context, &mut buffer) {
                    Poll::Ready(read) => read.unwrap(),
                    // Woken by itself, or this test does not end.
                    Poll::Pending => return Poll::Pending,
                }
                came += buffer.filled().len();
                if came == 4 * TURN_BYTES_MAX {
                    return Poll::Ready(());
                }
            }
        })
        .await;
        assert_eq!(turns, 4);
    }
}
