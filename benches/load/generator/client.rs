//! A connection of our own, plain or TLS, and just enough HTTP/1.1 for it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The name in the harness's own certificate.
pub const CERTIFICATE_NAME: &str = "localhost";

/// What both kinds of connection can do.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A client of one server that trusts one certificate, if it speaks TLS at all.
#[derive(Clone)]
pub struct Client {
    server: SocketAddr,
    tls: Option<TlsConnector>,
}

impl Client {
    /// With a certificate it speaks TLS 1.3 and resumes nothing: every handshake is a whole one.
    pub fn new(server: SocketAddr, certificate: Option<&Path>) -> Result<Self, String> {
        let connector = |file: &Path| -> Result<TlsConnector, String> {
            let certificate =
                CertificateDer::from_pem_file(file).map_err(|error| error.to_string())?;
            let mut roots = RootCertStore::empty();
            roots.add(certificate).map_err(|error| error.to_string())?;
            let provider = Arc::new(aws_lc_rs::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&version::TLS13])
                .map_err(|error| error.to_string())?
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.resumption = Resumption::disabled();
            Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self {
            server,
            tls: certificate.map(connector).transpose()?,
        })
    }

    /// A new connection, after its handshake.
    pub async fn connect(&self) -> Result<Connection, String> {
        let text = |error: std::io::Error| format!("connect: {error}");
        let socket = TcpStream::connect(self.server).await.map_err(text)?;
        socket.set_nodelay(true).map_err(text)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(socket),
            Some(connector) => {
                let name = ServerName::try_from(CERTIFICATE_NAME).map_err(|e| e.to_string())?;
                Box::new(connector.connect(name, socket).await.map_err(text)?)
            }
        };
        Ok(Connection {
            // As wrk and h2load write it: caches keep answers by it.
            host: self.server.to_string(),
            stream,
            buffer: Vec::new(),
        })
    }
}

/// One connection; an answer's head and content stay in its buffer until the next.
pub struct Connection {
    host: String,
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Connection {
    /// `GET`, and the whole answer.
    pub async fn get(&mut self, path: &str) -> Result<(u16, &[u8]), String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.ask(request.as_bytes()).await
    }

    /// Sends this request and reads the whole answer: its status and its content.
    pub async fn ask(&mut self, request: &[u8]) -> Result<(u16, &[u8]), String> {
        let Self { stream, buffer, .. } = self;
        match tokio::time::timeout(ANSWER_MAX, exchange(stream, buffer, request)).await {
            Err(_) => Err("no answer in 30 s".into()),
            Ok(Err(problem)) => Err(problem),
            Ok(Ok((status, body))) => Ok((status, &self.buffer[body..])),
        }
    }
}

/// Status, and where the content begins.
async fn exchange(
    stream: &mut Box<dyn Stream>,
    buffer: &mut Vec<u8>,
    request: &[u8],
) -> Result<(u16, usize), String> {
    buffer.clear();
    let text = |error: std::io::Error| error.to_string();
    stream.write_all(request).await.map_err(text)?;
    stream.flush().await.map_err(text)?;
    let mut head: Option<Head> = None;
    loop {
        if let Some(head) = &head
            && buffer.len() >= head.bytes + head.content
        {
            return Ok((head.status, head.bytes));
        }
        if stream.read_buf(buffer).await.map_err(text)? == 0 {
            return Err("the connection ended".into());
        }
        if head.is_none() {
            head = parse_head(buffer)?;
        }
    }
}

/// What is read of an answer's head.
#[derive(Debug, PartialEq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Length of the head.
    pub bytes: usize,
    /// Length of the content.
    pub content: usize,
}

/// Nothing while the head is not whole; an error for an answer without `Content-Length`.
pub fn parse_head(buffer: &[u8]) -> Result<Option<Head>, String> {
    let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&buffer[..end]);
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    let length = head.lines().skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    match (status, length) {
        (Some(status), Some(content)) => Ok(Some(Head {
            status,
            bytes: end + 4,
            content,
        })),
        _ => Err(format!("no status or no length in {head:?}")),
    }
}
