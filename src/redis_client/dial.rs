//! How a connection to one Redis server is made: name, socket, TLS, greeting.
//!
//! Credentials and TLS can be exchanged while connections stand. Nothing here decides whether Redis is
//! asked, and nothing here is logged.

use super::Outage;
use super::cause::{GARBAGE_BYTES_MAX, Refused, Stage};
use super::link::Link;
use super::resp::{Parser, Reply, write_command};
use crate::config::RedisUrl;
use crate::config::redis_url::{Address, Topology};
use crate::config::settings::{self, ReadFrom, RedisFound};
use crate::secret::Secret;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Name resolution, TCP, TLS and greeting together must be done within this.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Unacknowledged data older than this ends the connection (TCP_USER_TIMEOUT).
pub const TCP_UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// An idle connection is looked after this often (TCP keepalive).
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(5);
/// After that, so much is spent on finding out whether a port that does not speak as the URL says speaks
/// in the other way,
const OTHERWISE_TIME: Duration = Duration::from_millis(500);
/// and not more often than this.
const OTHERWISE_PAUSE: Duration = Duration::from_secs(5);
/// Ports that are remembered by how they speak; no others are looked at.
const OTHERWISE_KNOWN_MAX: usize = 64;
/// Bytes of the answers to a greeting, one after the other; a few words each.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// What every server of one Redis is connected to with.
pub struct Dialer {
    access: watch::Sender<Arc<Access>>,
    database: u16,
    /// Whether nodes of a Cluster may answer for the primaries that they follow (READONLY).
    reads_replicas: bool,
}

/// How one is let in: read once from the settings, and whole again when they have changed.
pub struct Access {
    /// Another for each exchange.
    number: u64,
    credentials: Credentials,
    /// Those before these, as long as a server may not know these yet.
    before: Option<Credentials>,
    found: RedisFound,
    tls: settings::RedisTls,
    connector: OnceLock<Arc<ClientConfig>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    username: Option<String>,
    password: Option<Secret>,
}

impl Credentials {
    fn of(url: &RedisUrl) -> Self {
        Self {
            username: url.username.clone(),
            password: url.password.clone(),
        }
    }

    fn user(&self) -> &str {
        self.username.as_deref().unwrap_or("default")
    }
}

/// Who is greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// A server with data.
    Server,
    /// A Sentinel.
    Sentinel,
    /// A Sentinel that asks for a password: it is given the one for what it monitors.
    ClosedSentinel,
}

/// Which credentials a server is greeted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// These, or those before where it does not take these.
    Any,
    /// These alone.
    Newest,
}

/// A connection, and the number of the access that it was had by.
#[derive(Clone, Debug)]
pub struct Connected {
    /// The connection.
    pub link: Arc<Link>,
    /// See [`Dialer::number`].
    pub access: u64,
}

impl Dialer {
    /// For the servers of `url`.
    #[must_use]
    pub fn new(settings: &settings::Redis, url: &RedisUrl) -> Self {
        let access = Access {
            number: 1,
            credentials: Credentials::of(url),
            before: None,
            found: found(settings, url),
            tls: settings.tls.clone(),
            connector: OnceLock::new(),
        };
        Self {
            access: watch::Sender::new(Arc::new(access)),
            database: url.database,
            reads_replicas: settings.read_from != ReadFrom::Primary
                && matches!(url.topology, Topology::Cluster(_)),
        }
    }

    /// Takes up the credentials and TLS of `settings` and `url` for connections made from now on. Where
    /// they are no others, nothing is taken up.
    pub fn renew(&self, settings: &settings::Redis, url: &RedisUrl) {
        let credentials = Credentials::of(url);
        self.access.send_if_modified(|access| {
            if access.credentials == credentials && access.tls == settings.tls {
                return false;
            }
            let before = match access.credentials == credentials {
                true => access.before.clone(),
                false => Some(access.credentials.clone()),
            };
            *access = Arc::new(Access {
                number: access.number + 1,
                credentials,
                before,
                found: found(settings, url),
                tls: settings.tls.clone(),
                connector: OnceLock::new(),
            });
            true
        });
    }

    /// The access in force, and to be told of others.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Access>> {
        self.access.subscribe()
    }

    /// The number of the access in force: connections had by another are to be replaced.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.access.borrow().number
    }

    /// Who we are there.
    #[must_use]
    pub fn user(&self) -> String {
        self.access.borrow().credentials.user().to_owned()
    }

    /// Makes a connection, each try within [`CONNECT_DEADLINE`]. Names are resolved anew each time.
    /// `changed` is told when it ends.
    pub async fn connect(
        &self,
        address: &Address,
        greeting: Greeting,
        with: With,
        changed: &Arc<Notify>,
    ) -> Result<Connected, Refused> {
        let access = Arc::clone(&self.access.borrow());
        let attempt = async |credentials: &Credentials| {
            let mut stage = Stage::Socket;
            let way = Way {
                access: &access,
                credentials,
                dialer: self,
                greeting,
            };
            let dialing = way.dial(address, Arc::clone(changed), &mut stage);
            let dialed = tokio::time::timeout(CONNECT_DEADLINE, dialing).await;
            dialed.unwrap_or_else(|_| Err(Refused::late(stage, CONNECT_DEADLINE, address.is_tls())))
        };
        let refused = match attempt(&access.credentials).await {
            Ok(link) => {
                let access = access.number;
                return Ok(Connected { link, access });
            }
            Err(refused) => access.hinted(access.looked_into(refused, address).await),
        };
        match &access.before {
            Some(before) if with == With::Any && refused.outage == Outage::Denied => {
                // To be replaced like those that were had with them before.
                let access = access.number - 1;
                let linked = attempt(before).await;
                linked
                    .map(|link| Connected { link, access })
                    .map_err(|_| refused)
            }
            _ => Err(refused),
        }
    }
}

fn found(settings: &settings::Redis, url: &RedisUrl) -> RedisFound {
    match *url == settings.url {
        true => settings.found,
        false => RedisFound::Configured,
    }
}

impl Access {
    /// What was only guessed may be refused because it was guessed.
    fn hinted(&self, refused: Refused) -> Refused {
        match self.found {
            RedisFound::Rest(name) => Refused {
                mend: format!(
                    "host and password were guessed from {name} and its token, which need not be Redis's own: copy the rediss:// address from the provider's console into REDIS_URL"
                ),
                ..refused
            },
            _ => refused,
        }
    }

    /// What is behind a silence, or an end without a word: the port may speak in the other way.
    async fn looked_into(&self, refused: Refused, address: &Address) -> Refused {
        match (refused.reason, address) {
            ("tls-stalled", Address::Tls(host, port))
                if is_otherwise(address, speaks_plainly(host, *port)).await =>
            {
                Refused::plain_port()
            }
            ("ended", Address::Tcp(host, port))
                if is_otherwise(address, self.speaks_tls(host, *port)).await =>
            {
                Refused::tls_port("it took the connection and ended it")
            }
            _ => refused,
        }
    }

    /// Whether it speaks TLS there. Nothing is said under it.
    async fn speaks_tls(&self, host: &str, port: u16) -> Option<bool> {
        let connector = self.connector().await.ok()?;
        let name = ServerName::try_from(host.to_owned()).ok()?;
        let stream = tcp(host, port).await.ok()?;
        let shaken = tokio_rustls::TlsConnector::from(connector).connect(name, stream);
        Some(match shaken.await {
            Ok(_) => true,
            Err(error) => matches!(
                error.get_ref().and_then(|inner| inner.downcast_ref()),
                Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
            ),
        })
    }

    /// The TLS configuration; made off this thread, since the system's authorities lie in files, and kept.
    async fn connector(&self) -> Result<Arc<ClientConfig>, Refused> {
        if let Some(config) = self.connector.get() {
            return Ok(Arc::clone(config));
        }
        let settings = self.tls.clone();
        let made = tokio::task::spawn_blocking(move || tls_config(&settings)).await;
        let config = made
            .unwrap_or_else(|error| Err(rustls::Error::General(error.to_string())))
            .map_err(|error| {
                let text = format!("TLS cannot be spoken: {error}");
                Refused::new(Outage::Connection, "tls-settings", text, "mend redis.tls")
            })?;
        Ok(Arc::clone(self.connector.get_or_init(|| config)))
    }
}

/// What is known of a port that does not speak as the URL says.
enum Otherwise {
    /// It speaks in the other way, or it does not.
    Known(bool),
    /// It was looked at then, and nothing was found out, or not yet.
    Asked(Instant),
}

/// Whether the port at `address`, which does not speak as the URL says, speaks in the other way, plain
/// text or TLS. That is looked at on a connection of its own, now and then until it is found out, once
/// for all handles of this process.
async fn is_otherwise(address: &Address, looked_at: impl Future<Output = Option<bool>>) -> bool {
    static PORTS: Mutex<BTreeMap<Address, Otherwise>> = Mutex::new(BTreeMap::new());
    let ports = || PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    {
        let mut ports = ports();
        match ports.get(address) {
            Some(Otherwise::Known(is_otherwise)) => return *is_otherwise,
            Some(Otherwise::Asked(at)) if at.elapsed() < OTHERWISE_PAUSE => return false,
            None if ports.len() >= OTHERWISE_KNOWN_MAX => return false,
            _ => ports.insert(address.clone(), Otherwise::Asked(Instant::now())),
        };
    }
    match tokio::time::timeout(OTHERWISE_TIME, looked_at).await {
        Ok(Some(is_otherwise)) => {
            ports().insert(address.clone(), Otherwise::Known(is_otherwise));
            is_otherwise
        }
        Ok(None) | Err(_) => false,
    }
}

/// Whether it answers to plain text there. Nobody is named.
async fn speaks_plainly(host: &str, port: u16) -> Option<bool> {
    let mut stream = tcp(host, port).await.ok()?;
    stream.write_all(b"PING\r\n").await.ok()?;
    let mut first = [0];
    stream.read_exact(&mut first).await.ok()?;
    Some(matches!(first, [b'+' | b'-']))
}

/// One try.
struct Way<'a> {
    access: &'a Access,
    credentials: &'a Credentials,
    dialer: &'a Dialer,
    greeting: Greeting,
}

impl Way<'_> {
    async fn dial(
        &self,
        address: &Address,
        changed: Arc<Notify>,
        stage: &mut Stage,
    ) -> Result<Arc<Link>, Refused> {
        let unreachable = |error| Refused::socket(&error, &address.to_string());
        match address {
            Address::Tcp(host, port) => {
                let stream = tcp(host, *port).await.map_err(unreachable)?;
                *stage = Stage::Greeting;
                self.greet(stream, address, changed).await
            }
            Address::Tls(host, port) => {
                let name = match &self.access.tls.server_name {
                    Some(name) => name.clone(),
                    None => ServerName::try_from(host.clone()).map_err(|error| {
                        let text =
                            format!("`{host}` is no name that a certificate can have: {error}");
                        Refused::new(
                            Outage::Connection,
                            "wrong-name",
                            text,
                            "set redis.tls.server_name",
                        )
                    })?,
                };
                let connector = tokio_rustls::TlsConnector::from(self.access.connector().await?);
                let stream = tcp(host, *port).await.map_err(unreachable)?;
                *stage = Stage::Tls;
                let asked = name.to_str().into_owned();
                let stream = connector.connect(name, stream).await;
                let stream = stream.map_err(|error| Refused::tls(&error, &asked))?;
                *stage = Stage::Greeting;
                self.greet(stream, address, changed).await
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                *stage = Stage::Greeting;
                self.greet(stream, address, changed).await
            }
        }
    }

    /// Says who we are, all at once. Whoever lacks the right to name the connection may still use it.
    async fn greet<S>(
        &self,
        mut stream: S,
        address: &Address,
        changed: Arc<Notify>,
    ) -> Result<Arc<Link>, Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let database = self.dialer.database.to_string();
        let user = self.credentials.username.as_deref();
        let password = self.credentials.password.as_ref().map(Secret::expose);
        let password = password.filter(|_| self.greeting != Greeting::Sentinel);
        let has_data = self.greeting == Greeting::Server;
        let auth = match (user, password) {
            (_, None) => None,
            (None, Some(password)) => Some(vec!["AUTH", password]),
            (Some(user), Some(password)) => Some(vec!["AUTH", user, password]),
        };
        let select = (has_data && database != "0").then(|| vec!["SELECT", &database]);
        let read_only = (has_data && self.dialer.reads_replicas).then(|| vec!["READONLY"]);
        let version = env!("CARGO_PKG_VERSION");
        let names = [
            vec!["CLIENT", "SETINFO", "LIB-NAME", "larder"],
            vec!["CLIENT", "SETINFO", "LIB-VER", version],
            vec!["CLIENT", "SETNAME", "larder"],
        ];
        let needed = [auth, select, read_only];
        let needed = needed.into_iter().flatten().map(|words| (words, true));
        let wished = names.into_iter().map(|words| (words, false));
        let (mut out, mut sent) = (Vec::new(), Vec::new());
        for (words, needed) in needed.chain(wished) {
            let parts = words.iter().map(|word| word.as_bytes());
            write_command(&mut out, words.len(), parts);
            sent.push(needed);
        }
        // A server that takes nothing any more may have said why.
        let written = match stream.write_all(&out).await {
            Ok(()) => stream.flush().await,
            Err(error) => Err(error),
        };
        let is_tls = address.is_tls();
        let mut answers = Answers::default();
        for needed in sent {
            let reply = match answers.next(&mut stream).await {
                Ok(reply) => reply,
                Err(Unanswered::Garbage(beginning)) => return Err(Refused::garbage(&beginning)),
                Err(Unanswered::Ended(error)) => {
                    let error = error.or(written.err());
                    let in_tls = error.as_ref().filter(|error| {
                        error
                            .get_ref()
                            .is_some_and(|inner| inner.is::<rustls::Error>())
                    });
                    return Err(match in_tls {
                        Some(error) => Refused::tls(error, &address.to_string()),
                        None => Refused::ended(is_tls),
                    });
                }
            };
            if let Reply::Error(line) = reply {
                let outage = super::outage::of_line(&line);
                // Not NOPERM: that is of the one command, these are of the connection. A Sentinel
                // that wants a password says so once more, to the question.
                let is_refused = outage == Outage::Connection
                    || (line.starts_with(b"NOAUTH") && self.greeting != Greeting::Sentinel)
                    || line.starts_with(b"DENIED");
                if needed || is_refused {
                    return Err(Refused::reply(&line, self.credentials.user(), password));
                }
            }
        }
        match answers.rest() {
            [] => Ok(Link::new(stream, changed)),
            more => Err(Refused::garbage(more)),
        }
    }
}

/// The answers to a greeting, as they come.
#[derive(Default)]
struct Answers {
    parser: Parser,
    /// What came and is not used yet.
    came: Vec<u8>,
    beginning: Vec<u8>,
}

/// Why there is no answer.
enum Unanswered {
    /// What came is none; it began so.
    Garbage(Vec<u8>),
    /// Nothing more comes.
    Ended(Option<io::Error>),
}

impl Answers {
    async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Reply, Unanswered> {
        loop {
            let mut input = self.came.as_slice();
            let read = self.parser.read(&mut input);
            let used = self.came.len() - input.len();
            self.came.drain(..used);
            match read {
                // Nobody waits for what the server says by itself.
                Ok(Some(Reply::Push(_))) => continue,
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) if self.came.len() <= ANSWER_BYTES_MAX && self.parser.room().is_none() => {
                }
                // A greeting is answered with few words.
                Ok(None) | Err(_) => return Err(Unanswered::Garbage(self.beginning.clone())),
            }
            let mut room = [0; 1_024];
            match stream.read(&mut room).await {
                Ok(0) => return Err(Unanswered::Ended(None)),
                Err(error) => return Err(Unanswered::Ended(Some(error))),
                Ok(count) => {
                    let wanted = GARBAGE_BYTES_MAX - self.beginning.len();
                    self.beginning.extend(room[..count].iter().take(wanted));
                    self.came.extend_from_slice(&room[..count]);
                }
            }
        }
    }

    /// What came beyond the answers.
    fn rest(&self) -> &[u8] {
        &self.came
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dialer").field(&self.user()).finish()
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(&stream);
    socket.set_tcp_keepalive(
        &socket2::TcpKeepalive::new()
            .with_time(TCP_KEEPALIVE)
            .with_interval(TCP_KEEPALIVE)
            .with_retries(2),
    )?;
    socket.set_tcp_user_timeout(Some(TCP_UNACKNOWLEDGED))?;
    Ok(stream)
}

fn tls_config(settings: &settings::RedisTls) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        Some(authorities) => {
            for certificate in authorities.iter() {
                roots.add(certificate.clone())?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    // The provider is named here, so that nothing depends on what main installed.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match &settings.identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            config.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?
        }
    };
    Ok(Arc::new(config))
}
