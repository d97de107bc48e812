//! A certificate authority of a scenario's own, and what stands behind its certificates.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Issues certificates; everything lies in files of a folder of its own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = called("authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let own = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), own.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    /// The path of a file: `ca.pem`, or `NAME.pem` and `NAME.key` of what was issued.
    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    /// Issues `NAME.pem` with `NAME.key`, for these hosts and addresses.
    pub fn issue(&self, name: &str, hosts: &[&str]) {
        self.issue_until(name, hosts, 2099);
    }

    /// … good until the beginning of this year.
    pub fn issue_until(&self, name: &str, hosts: &[&str], year: i32) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = called(name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let write = |end: &str, text: String| {
            std::fs::write(self.file(&format!("{name}.{end}")), text).unwrap();
        };
        write("pem", certificate.pem());
        write("key", key.serialize_pem());
    }

    /// The options by which a redis-server serves TLS on `port` as `name`. It wants a client's
    /// certificate where `clients` says so.
    pub fn redis_options(&self, name: &str, port: u16, clients: bool) -> Vec<String> {
        [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", self.file(&format!("{name}.pem"))),
            ("--tls-key-file", self.file(&format!("{name}.key"))),
            ("--tls-ca-cert-file", self.file("ca.pem")),
            (
                "--tls-auth-clients",
                if clients { "yes" } else { "no" }.into(),
            ),
        ]
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect()
    }
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

/// Ends TLS in front of a server, as a provider's front does, and remembers which names were asked for.
pub struct TlsFront {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Option<String>>>>,
    serving: JoinHandle<()>,
}

impl TlsFront {
    /// On `address`, as `name` of `authority`.
    pub async fn before(
        server: SocketAddr,
        address: (Ipv4Addr, u16),
        authority: &Authority,
        name: &str,
    ) -> Self {
        let chain = CertificateDer::pem_file_iter(authority.file(&format!("{name}.pem")))
            .and_then(Iterator::collect)
            .unwrap();
        let key = PrivateKeyDer::from_pem_file(authority.file(&format!("{name}.key"))).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<_>>> = Arc::default();
        let seen = asked.clone();
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                tokio::spawn(async move {
                    let mut client = acceptor.accept(client).await.ok()?;
                    let name = client.get_ref().1.server_name().map(str::to_owned);
                    seen.lock().unwrap().push(name);
                    let mut server = TcpStream::connect(server).await.ok()?;
                    tokio::io::copy_bidirectional(&mut client, &mut server)
                        .await
                        .ok()
                });
            }
        });
        Self {
            address,
            asked,
            serving,
        }
    }

    /// The name of each greeting that came to its end; `None` where none was asked for.
    pub fn asked(&self) -> Vec<Option<String>> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
