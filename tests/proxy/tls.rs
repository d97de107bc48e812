//! TLS in front, with HTTP/2 by ALPN, and towards the app.

use crate::support::*;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

struct Files {
    folder: tempfile::TempDir,
    pair: CertifiedKey<KeyPair>,
}

/// A certificate for localhost, in files.
fn certificate() -> Files {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cert.pem"), pair.cert.pem()).unwrap();
    std::fs::write(
        folder.path().join("key.pem"),
        pair.signing_key.serialize_pem(),
    )
    .unwrap();
    Files { folder, pair }
}

impl Files {
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn listen(&self) -> String {
        format!(
            "listen: {{ address: \"127.0.0.1:{{PORT}}\", tls: {{ cert: \"{}\", key: \"{}\" }} }}",
            self.path("cert.pem"),
            self.path("key.pem")
        )
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

async fn connect(
    address: std::net::SocketAddr,
    files: &Files,
    alpn: &[&[u8]],
) -> TlsStream<TcpStream> {
    try_connect(address, files, alpn).await.unwrap()
}

async fn try_connect(
    address: std::net::SocketAddr,
    files: &Files,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(files.pair.cert.der().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
}

#[tokio::test]
async fn the_listener_speaks_http_2_by_alpn_and_hits() {
    let app = App::says(|_| Answer::public("over tls")).await;
    let files = certificate();
    let larder = larder(&app).yaml(&files.listen()).start().await;
    let socket = connect(larder.address, &files, &[b"h2", b"http/1.1"]).await;
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(driver);
    for cache in ["MISS", "HIT"] {
        let request = http::Request::get("https://localhost/")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.headers()["x-cache"], cache);
        assert_eq!(
            answer.into_body().collect().await.unwrap().to_bytes(),
            "over tls"
        );
    }
    let seen = app.last("/");
    assert_eq!(
        seen.header("host"),
        Some("localhost"),
        "Host is made from :authority"
    );
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn the_listener_speaks_http_1_where_that_is_asked_for() {
    let app = App::says(|_| Answer::ok("x")).await;
    let files = certificate();
    let larder = larder(&app).yaml(&files.listen()).start().await;
    let socket = connect(larder.address, &files, &[b"http/1.1"]).await;
    assert_eq!(
        socket.get_ref().1.alpn_protocol(),
        Some(b"http/1.1".as_slice())
    );
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(driver);
    let request = http::Request::get("/")
        .header("Host", "localhost")
        .body(Empty::<Bytes>::new())
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_https_app_is_reached_if_its_certificate_is_trusted_and_not_otherwise() {
    let files = certificate();
    let chain = vec![files.pair.cert.der().clone()];
    let key = PrivateKeyDer::from_pem_file(files.path("key.pem")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(socket) = acceptor.accept(socket).await else {
                    return;
                };
                let service = hyper::service::service_fn(async |_| {
                    let body = http_body_util::Full::new(Bytes::from_static(b"from the https app"));
                    Ok::<_, std::convert::Infallible>(http::Response::new(body))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
        }
    });
    let unused = App::says(|_| Answer::ok("")).await;
    let url = Some(format!("https://localhost:{port}"));
    let trusting = larder(&unused)
        .upstream(url.clone())
        .env("SSL_CERT_FILE", files.path("cert.pem"))
        .start_unready()
        .await;
    assert_eq!(trusting.get("/").await.text(), "from the https app");
    let wary = larder(&unused).upstream(url).start_unready().await;
    assert_eq!(wary.get("/").await.status, 502);
    // A self-signed one is unknown, or no authority's: either way it is the certificate.
    wary.says("its certificate is").await;
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_without_a_signal() {
    let app = App::says(|_| Answer::public("x")).await;
    let (files, renewed) = (certificate(), certificate());
    let larder = larder(&app).yaml(&files.listen()).start().await;
    connect(larder.address, &files, &[b"http/1.1"]).await;
    assert!(
        try_connect(larder.address, &renewed, &[b"http/1.1"])
            .await
            .is_err()
    );
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(renewed.path(name), files.path(name)).unwrap();
    }
    eventually("the new certificate is shown", async || {
        try_connect(larder.address, &renewed, &[b"http/1.1"])
            .await
            .ok()
    })
    .await;
}
