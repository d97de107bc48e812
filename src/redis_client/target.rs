//! How a connection to a Redis server is made: name, socket, TLS, greeting.
//!
//! Nothing here decides whether Redis is asked, and nothing here is logged.

use super::link::Link;
use super::resp::{Reply, write_command};
use super::{Outage, outage};
use crate::config::settings;
use crate::secret::Secret;
use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
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
                let greeting = info.redis_settings().clone();
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
    pub async fn connect(&self, changed: Arc<Notify>) -> Result<Arc<Link>, Refused> {
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

    async fn dial(&self, address: &Address, changed: Arc<Notify>) -> Result<Arc<Link>, Refused> {
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

    /// Says who we are, all at once. Whoever lacks the right to name the connection may still use it.
    async fn greet<S>(&self, stream: S, changed: Arc<Notify>) -> Result<Arc<Link>, Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let link = Link::new(stream, changed);
        let database = self.greeting.db().to_string();
        let (user, password) = (self.greeting.username(), self.greeting.password());
        let auth = match (user, password) {
            (_, None) => None,
            (None, Some(password)) => Some(vec!["AUTH", password]),
            (Some(user), Some(password)) => Some(vec!["AUTH", user, password]),
        };
        let select = (database != "0").then(|| vec!["SELECT", &database]);
        let version = env!("CARGO_PKG_VERSION");
        let names = [
            vec!["CLIENT", "SETINFO", "LIB-NAME", "larder"],
            vec!["CLIENT", "SETINFO", "LIB-VER", version],
            vec!["CLIENT", "SETNAME", "larder"],
        ];
        let needed = auth.into_iter().chain(select).map(|words| (words, true));
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

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.address()).finish()
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
}
