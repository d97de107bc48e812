//! One new connection to the app: TCP, TLS or a Unix socket.

use super::cause::Failure;
use super::{RequestBody, UpstreamError};
use crate::config::settings::UpstreamTarget;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// The largest response head that is read, in bytes.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// A connection and the future that moves its bytes.
pub(super) struct Connection {
    pub sender: SendRequest<RequestBody>,
    pub driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// TLS towards an `https:` app: the system's roots, the name from the URL.
#[derive(Clone)]
pub(super) struct TlsConfig {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsConfig({:?})", self.name)
    }
}

impl TlsConfig {
    pub(super) fn for_target(target: &UpstreamTarget) -> Option<Self> {
        let UpstreamTarget::Https { host, .. } = target else {
            return None;
        };
        let name = ServerName::try_from(host.clone()).ok()?;
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a system root certificate cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Some(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }
}

pub(super) async fn connect(
    target: &UpstreamTarget,
    tls: Option<&TlsConfig>,
) -> Result<Connection, Failure> {
    match target {
        UpstreamTarget::Http { host, port } => greet(tcp(host, *port).await?).await,
        UpstreamTarget::Https { host, port } => {
            let tls = tls.ok_or_else(|| {
                let cause = format!("`{host}` is not a name that a certificate could have");
                Failure::new(UpstreamError::Tls, cause)
            })?;
            let stream = tcp(host, *port).await?;
            let greeting = tls.connector.connect(tls.name.clone(), stream);
            greet(greeting.await.map_err(|error| Failure::tls(&error, host))?).await
        }
        UpstreamTarget::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            let path = path.display();
            greet(stream.map_err(|error| Failure::connect(&error, &format!("unix:{path}")))?).await
        }
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, Failure> {
    let addresses: Vec<_> = match tokio::net::lookup_host((host, port)).await {
        Ok(found) => found.collect(),
        Err(error) => {
            let cause = format!("the name `{host}` is not found: {error}");
            return Err(Failure::new(UpstreamError::Connect, cause));
        }
    };
    let stream = TcpStream::connect(&addresses[..]).await;
    let stream = stream.map_err(|error| Failure::connect(&error, &format!("{host}:{port}")))?;
    // Heads and small bodies must not wait for an acknowledgement (Nagle).
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn greet<S>(stream: S) -> Result<Connection, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::new(UpstreamError::Connect, error.to_string()))?;
    let driver = Box::pin(async move {
        // How a connection ends is told to the exchange that was on it.
        let _ = connection.with_upgrades().await;
    });
    Ok(Connection { sender, driver })
}
