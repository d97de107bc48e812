//! One new stream to the app: TCP, TLS or a Unix socket. Knows nothing of what is said on it.

use super::UpstreamError;
use super::cause::Failure;
use crate::config::settings::UpstreamTarget;
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The bytes to the app and back.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    /// Boxed: it is twenty times as large as the others.
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
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
) -> Result<Stream, Failure> {
    match target {
        UpstreamTarget::Http { host, port } => Ok(Stream::Tcp(tcp(host, *port).await?)),
        UpstreamTarget::Https { host, port } => {
            let tls = tls.ok_or_else(|| {
                let cause = format!("`{host}` is not a name that a certificate could have");
                Failure::new(UpstreamError::Tls, cause)
            })?;
            let stream = tcp(host, *port).await?;
            let greeting = tls.connector.connect(tls.name.clone(), stream).await;
            let stream = greeting.map_err(|error| Failure::tls(&error, host))?;
            Ok(Stream::Tls(Box::new(stream)))
        }
        UpstreamTarget::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            let path = path.display();
            let failure = |error| Failure::connect(&error, &format!("unix:{path}"));
            Ok(Stream::Unix(stream.map_err(failure)?))
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
