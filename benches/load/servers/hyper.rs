//! Servers of our own, each a process (`serve`): the app, and what hyper costs with no product in it.
//! They decide nothing: a path is a body.

use super::{Bed, Problem, SIZES, Server, free_address, redis, seed};
use crate::child::{Child, SERVER_CORE, pinned};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST, LAST_MODIFIED};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How long the app thinks about `/slow/…`.
const SLOW: Duration = Duration::from_millis(300);
/// Numbered paths that the map holds.
pub const KEYS: usize = 10_000;
/// Largest body the app gives.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The command that serves in this mode: `app`, `map`, `get` or `pass`.
pub fn command(core: usize, mode: &str, options: &[(&str, String)]) -> Result<Command, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = pinned(core, &own);
    command.arg("serve").arg(mode);
    for (name, value) in options {
        command.arg(name).arg(value);
    }
    Ok(command)
}

/// Starts one on the core of what is measured.
pub async fn start(bed: &Bed, mode: &str) -> Result<Server, Problem> {
    let room = bed.room(mode)?;
    let [plain, h2c, tls] = [free_address()?, free_address()?, free_address()?];
    let mut options = vec![
        ("--plain", plain.to_string()),
        ("--h2c", h2c.to_string()),
        ("--tls", tls.to_string()),
        ("--certificate", bed.certificate.display().to_string()),
        ("--key", bed.key.display().to_string()),
    ];
    let mut redis_child = None;
    match mode {
        "get" => {
            let (child, at) = redis(&room).await?;
            seed(at).await?;
            redis_child = Some(child);
            options.push(("--redis", at.to_string()));
        }
        "pass" => options.push(("--app", bed.app.to_string())),
        _ => {}
    }
    let child = Child::start(
        command(SERVER_CORE, mode, &options)?,
        room.join("hyper.log"),
    )?;
    let mut server = Server {
        plain: Some(plain),
        h2c: Some(h2c),
        tls: Some(tls),
        ..Server::new(child)
    };
    server.children.extend(redis_child);
    server.ready().await
}

/// `serve MODE --plain ADDRESS [--h2c ADDRESS] [--tls ADDRESS --certificate FILE --key FILE]
/// [--redis ADDRESS] [--app ADDRESS]`: one thread, until it is ended.
pub fn serve(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let mut arguments = arguments;
    let mode = arguments.next().ok_or("serve MODE")?;
    let mut options = HashMap::new();
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        options.insert(name, value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    LocalSet::new().block_on(&runtime, listen(mode, options))
}

async fn listen(mode: String, options: HashMap<String, String>) -> Result<(), String> {
    let address = |name: &str| -> Result<Option<SocketAddr>, String> {
        let parse = |text: &String| text.parse().map_err(|_| format!("{text} is no address"));
        options.get(name).map(parse).transpose()
    };
    let bodies = match mode.as_str() {
        "app" => Bodies::App(Cell::new(0)),
        "map" => Bodies::Map(map()),
        "get" => {
            let text = |error: ::redis::RedisError| error.to_string();
            let at = address("--redis")?.ok_or("--redis")?;
            let client = ::redis::Client::open(format!("redis://{at}")).map_err(text)?;
            let connection = client.get_multiplexed_async_connection().await;
            Bodies::Redis(connection.map_err(text)?)
        }
        "pass" => Bodies::Pass {
            app: address("--app")?.ok_or("--app")?,
            idle: RefCell::default(),
        },
        other => return Err(format!("no mode {other}")),
    };
    let bodies = Rc::new(bodies);
    let bind = async |at: SocketAddr| TcpListener::bind(at).await.map_err(|e| e.to_string());
    if let Some(at) = address("--h2c")? {
        let (listener, bodies) = (bind(at).await?, bodies.clone());
        tokio::task::spawn_local(async move {
            while let Some(socket) = accept(&listener).await {
                tokio::task::spawn_local(connection(socket, true, bodies.clone()));
            }
        });
    }
    if let Some(at) = address("--tls")? {
        let file = |name: &str| options.get(name).ok_or(name.to_owned());
        let acceptor = acceptor(file("--certificate")?, file("--key")?)?;
        let (listener, bodies) = (bind(at).await?, bodies.clone());
        tokio::task::spawn_local(async move {
            while let Some(socket) = accept(&listener).await {
                let (acceptor, bodies) = (acceptor.clone(), bodies.clone());
                tokio::task::spawn_local(async move {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        let h2 = socket.get_ref().1.alpn_protocol() == Some(b"h2");
                        connection(socket, h2, bodies).await;
                    }
                });
            }
        });
    }
    let listener = bind(address("--plain")?.ok_or("--plain")?).await?;
    while let Some(socket) = accept(&listener).await {
        tokio::task::spawn_local(connection(socket, false, bodies.clone()));
    }
    Ok(())
}

/// The next connection; one that failed is passed over.
async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    loop {
        if let Ok((socket, _)) = listener.accept().await
            && socket.set_nodelay(true).is_ok()
        {
            return Some(socket);
        }
    }
}

/// Serves one connection; how it ends is the client's affair.
async fn connection<S>(socket: S, h2: bool, bodies: Rc<Bodies>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let bodies = bodies.clone();
        async move { Ok::<_, std::convert::Infallible>(bodies.answer(request).await) }
    });
    let socket = TokioIo::new(socket);
    if h2 {
        let _ = http2::Builder::new(Local)
            .serve_connection(socket, service)
            .await;
    } else {
        let _ = http1::Builder::new()
            .serve_connection(socket, service)
            .await;
    }
}

/// Runs futures of a connection on this thread.
#[derive(Clone)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, String> {
    let certificate = CertificateDer::from_pem_file(certificate).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Where bodies come from.
enum Bodies {
    /// Made as long as the path says; requests are counted.
    App(Cell<u64>),
    Map(HashMap<String, Bytes>),
    Redis(::redis::aio::MultiplexedConnection),
    Pass {
        app: SocketAddr,
        idle: RefCell<Vec<SendRequest<Empty<Bytes>>>>,
    },
}

fn map() -> HashMap<String, Bytes> {
    let sizes = SIZES.map(|size| (format!("/b/{size}"), Bytes::from(vec![b'x'; size])));
    let keys = (0..KEYS).map(|n| (format!("/k/1024/{n}"), Bytes::from(vec![b'x'; 1024])));
    sizes.into_iter().chain(keys).collect()
}

impl Bodies {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        match self {
            Self::App(count) => app(path, count).await,
            Self::Map(bodies) => bodies
                .get(path)
                .map_or_else(missing, |body| respond(body.clone(), true)),
            Self::Redis(connection) => {
                let mut connection = connection.clone();
                let mut command = ::redis::cmd("GET");
                match command.arg(path).query_async(&mut connection).await {
                    // The bytes as they were read, not copied.
                    Ok(::redis::Value::BulkString(body)) => respond(body.into(), true),
                    _ => missing(),
                }
            }
            Self::Pass { app, idle } => pass(path, *app, idle).await.unwrap_or_else(|_| missing()),
        }
    }
}

async fn app(path: &str, count: &Cell<u64>) -> Response<Full<Bytes>> {
    if path == "/count" {
        return respond(Bytes::from(count.get().to_string()), false);
    }
    count.set(count.get() + 1);
    let mut parts = path.split('/').skip(1);
    let room = parts.next().unwrap_or_default();
    let size = parts.next().and_then(|size| size.parse::<usize>().ok());
    let Some(size) = size.filter(|size| *size <= BODY_BYTES_MAX) else {
        return missing();
    };
    if room == "slow" {
        tokio::time::sleep(SLOW).await;
    }
    respond(body_of(size), room != "pass")
}

/// A body as long as this; those that are asked for most are made once.
fn body_of(size: usize) -> Bytes {
    static KIB: [u8; 16_384] = [b'x'; 16_384];
    match KIB.get(..size) {
        Some(body) => Bytes::from_static(body),
        None => Bytes::from(vec![b'x'; size]),
    }
}

/// Asks the app and reads its whole answer, so that the connection is free again.
async fn pass(
    path: &str,
    app: SocketAddr,
    idle: &RefCell<Vec<SendRequest<Empty<Bytes>>>>,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error>> {
    let known = idle.borrow_mut().pop();
    let mut sender = match known {
        Some(sender) => sender,
        None => {
            let socket = TcpStream::connect(app).await?;
            socket.set_nodelay(true)?;
            let (sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
            tokio::task::spawn_local(connection);
            sender
        }
    };
    sender.ready().await?;
    let request = Request::get(path)
        .header(HOST, "127.0.0.1")
        .body(Empty::new())?;
    let (mut head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    idle.borrow_mut().push(sender);
    head.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(head, Full::new(body)))
}

/// The fields that a server gives a static file.
fn respond(body: Bytes, cacheable: bool) -> Response<Full<Bytes>> {
    let cache = match cacheable {
        true => "public, max-age=3600",
        false => "no-store",
    };
    let mut response = Response::new(Full::new(body));
    let fields = response.headers_mut();
    let octets = HeaderValue::from_static("application/octet-stream");
    fields.insert(CONTENT_TYPE, octets);
    let modified = HeaderValue::from_static("Mon, 01 Jun 2026 10:00:00 GMT");
    fields.insert(LAST_MODIFIED, modified);
    fields.insert(ETAG, HeaderValue::from_static("\"665af2e0-400\""));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

fn missing() -> Response<Full<Bytes>> {
    let mut response = respond(Bytes::new(), false);
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
