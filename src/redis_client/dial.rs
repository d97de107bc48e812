//! How a connection to one Redis server is made: name, socket, TLS, greeting.
//!
//! Nothing here decides whether Redis is asked, and nothing here is logged.

use super::link::Link;
use super::resp::{Reply, write_command};
use super::{Outage, outage};
use crate::config::RedisUrl;
use crate::config::redis_url::{Address, Topology};
use crate::config::settings::{self, ReadFrom};
use crate::secret::Secret;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Name resolution, TCP, TLS and greeting together must be done within this.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Unacknowledged data older than this ends the connection (TCP_USER_TIMEOUT).
pub const TCP_UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// An idle connection is looked after this often (TCP keepalive).
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(5);

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

/// What every server of one Redis is connected to with, read once from the settings.
pub struct Dialer {
    username: Option<String>,
    password: Option<Secret>,
    database: u16,
    /// Whether nodes of a Cluster may answer for the primaries that they follow (READONLY).
    reads_replicas: bool,
    tls_ca: Option<PathBuf>,
    tls: OnceLock<Arc<ClientConfig>>,
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

impl Dialer {
    /// For the servers of `url`.
    #[must_use]
    pub fn new(settings: &settings::Redis, url: &RedisUrl) -> Self {
        Self {
            username: url.username.clone(),
            password: url.password.clone(),
            database: url.database,
            reads_replicas: settings.read_from != ReadFrom::Primary
                && matches!(url.topology, Topology::Cluster(_)),
            tls_ca: settings.tls_ca.clone(),
            tls: OnceLock::new(),
        }
    }

    /// Who we are there.
    #[must_use]
    pub fn user(&self) -> &str {
        self.username.as_deref().unwrap_or("default")
    }

    /// Makes a connection within [`CONNECT_DEADLINE`]. Names are resolved anew each time.
    /// `changed` is told when it ends.
    pub async fn connect(
        &self,
        address: &Address,
        greeting: Greeting,
        changed: Arc<Notify>,
    ) -> Result<Arc<Link>, Refused> {
        tokio::time::timeout(CONNECT_DEADLINE, self.dial(address, greeting, changed))
            .await
            .unwrap_or_else(|_| {
                Err(Refused {
                    outage: Outage::Timeout,
                    text: format!("no connection within {CONNECT_DEADLINE:?}"),
                })
            })
    }

    async fn dial(
        &self,
        address: &Address,
        greeting: Greeting,
        changed: Arc<Notify>,
    ) -> Result<Arc<Link>, Refused> {
        match address {
            Address::Tcp(host, port) => {
                let stream = tcp(host, *port).await?;
                self.greet(stream, greeting, changed).await
            }
            Address::Tls(host, port) => {
                let name = ServerName::try_from(host.clone()).map_err(Refused::connection)?;
                let connector = tokio_rustls::TlsConnector::from(self.tls().await?);
                let stream = connector
                    .connect(name, tcp(host, *port).await?)
                    .await
                    .map_err(|error| Refused::connection(format_args!("TLS: {error}")))?;
                self.greet(stream, greeting, changed).await
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(Refused::connection)?;
                self.greet(stream, greeting, changed).await
            }
        }
    }

    /// Says who we are, all at once. Whoever lacks the right to name the connection may still use it.
    async fn greet<S>(
        &self,
        stream: S,
        greeting: Greeting,
        changed: Arc<Notify>,
    ) -> Result<Arc<Link>, Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let link = Link::new(stream, changed);
        let database = self.database.to_string();
        let user = self.username.as_deref();
        let password = self.password.as_ref().map(Secret::expose);
        let password = password.filter(|_| greeting != Greeting::Sentinel);
        let has_data = greeting == Greeting::Server;
        let auth = match (user, password) {
            (_, None) => None,
            (None, Some(password)) => Some(vec!["AUTH", password]),
            (Some(user), Some(password)) => Some(vec!["AUTH", user, password]),
        };
        let select = (has_data && database != "0").then(|| vec!["SELECT", &database]);
        let read_only = (has_data && self.reads_replicas).then(|| vec!["READONLY"]);
        let version = env!("CARGO_PKG_VERSION");
        let names = [
            vec!["CLIENT", "SETINFO", "LIB-NAME", "larder"],
            vec!["CLIENT", "SETINFO", "LIB-VER", version],
            vec!["CLIENT", "SETNAME", "larder"],
        ];
        let needed = [auth, select, read_only];
        let needed = needed.into_iter().flatten().map(|words| (words, true));
        let wished = names.into_iter().map(|words| (words, false));
        let now = Instant::now();
        let closed = |_| Refused::connection("the connection was closed");
        let mut sent = Vec::new();
        for (words, needed) in needed.chain(wished) {
            let parts = words.iter().map(|word| word.as_bytes());
            let pending = link.send(1, (now, now + CONNECT_DEADLINE), |out| {
                write_command(out, words.len(), parts);
            });
            sent.push((pending.map_err(closed)?, needed));
        }
        for (pending, needed) in sent {
            let refused = |outage| Refused {
                outage,
                text: match outage {
                    Outage::Timeout => "the greeting was not answered",
                    Outage::Protocol => {
                        "the greeting was answered with something else than a reply"
                    }
                    _ => "the connection was closed before the greeting was answered",
                }
                .to_owned(),
            };
            let reply = pending.await.map_err(refused)?.reply;
            if let Reply::Error(line) = reply {
                let outage = outage::of_line(&line);
                // Not NOPERM: that is of the one command, these are of the connection.
                let is_refused = outage == Outage::Connection
                    || line.starts_with(b"NOAUTH")
                    || line.starts_with(b"DENIED");
                if needed || is_refused {
                    let mut text = String::from_utf8_lossy(&line).into_owned();
                    // Whoever does not know a command repeats what it was given, Redis only the beginning.
                    text.truncate(text.find(", with args").unwrap_or(text.len()));
                    if let Some(password) = password.filter(|password| !password.is_empty()) {
                        text = text.replace(password, "…");
                    }
                    return Err(Refused { outage, text });
                }
            }
        }
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

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dialer").field(&self.user()).finish()
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
