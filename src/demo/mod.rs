//! The demo app: a car-sharing shop as slow as ExoDrive was before it was cached.
//!
//! It owns the answers that examples, tests and load runs stand on, and counts every request that
//! reaches it. It never caches and never talks to Redis: larder in front of it is the whole point.
//!
//! | path | delay at speed 1 | answer |
//! |---|---|---|
//! | `GET /api/fleet?location&page&sort` | 1.2 s | about 60 KB of JSON, public |
//! | `GET /api/cars/{id}/availability?from&to` | 0.8 s | JSON, public |
//! | `GET /api/cars/{id}` | 0.4 s | 1 to 5 KB of JSON, public |
//! | `POST /api/auth/login` | 0.3 s | a token and a cookie |
//! | `GET /api/auth/session` | 90 ms | the token's user, private; 401 without a living token |
//! | `POST /api/auth/logout` | 50 ms | ends the token |
//! | `POST /api/bookings` | 0.2 s | books `carId`; the car, its days and the fleet change |
//! | `POST /api/payments/intent` | 0.2 s | a payment intent |
//! | `GET /api/admin/stats` | 0.1 s | for the role `admin`, private |
//!
//! Beside them: a page with everything a browser loads (`/`), Server-Sent Events (`/events`), a
//! WebSocket echo (`/ws`), uploads (`/api/upload`), and answers on demand (`/api/slow`,
//! `/api/status/{code}`, `/api/chunks`, `/api/cut`, `/api/echo`). `/demo/counters` tells what arrived.

mod page;
mod reply;
mod session;
mod shop;
mod websocket;

use crate::clock::Clock;
use crate::secret::Secret;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use reply::Reply;
use serde_json::{Value, json};
use session::Sessions;
use shop::Shop;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The secret that tokens are signed with when `SUPABASE_JWT_SECRET` is not set.
pub const DEFAULT_JWT_SECRET: &str = "demo-secret-demo-secret-demo-secret!!";

/// Connections at a time; further ones wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 12_000;
/// Bytes of a JSON request body.
const JSON_BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one upload.
const UPLOAD_BYTES_MAX: usize = 1 << 30;
/// Different paths counted one by one; all others are counted as `(other)`.
const COUNTED_PATHS_MAX: usize = 10_000;
/// Longest answer on demand.
const DEMAND_MAX: Duration = Duration::from_secs(60);
/// Most pieces of `/api/chunks` and `/events`.
const PIECES_MAX: u64 = 100_000;
/// How long open connections may take to end when the app stops.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How the demo app runs.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Where it listens ([`run`] binds it; [`serve`] is given a listener).
    pub listen: SocketAddr,
    /// Factor on every delay: 1.0 is as slow as ExoDrive was, 0.0 answers at once.
    pub speed: f64,
    /// What tokens are signed with (HS256).
    pub jwt_secret: Secret,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 3000)),
            speed: 1.0,
            jwt_secret: Secret::new(DEFAULT_JWT_SECRET),
        }
    }
}

impl DemoOptions {
    /// The defaults, with `LARDER_DEMO_LISTEN` (an address), `LARDER_DEMO_SPEED` (a number from 0 to
    /// 100) and `SUPABASE_JWT_SECRET` in their place where these are set and make sense.
    #[must_use]
    pub fn from_env() -> Self {
        let mut options = Self::default();
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(listen) = read("LARDER_DEMO_LISTEN").and_then(|value| value.parse().ok()) {
            options.listen = listen;
        }
        if let Some(speed) = read("LARDER_DEMO_SPEED").and_then(|value| value.parse().ok()) {
            options.speed = speed;
        }
        if let Some(secret) = read("SUPABASE_JWT_SECRET") {
            options.jwt_secret = Secret::new(secret);
        }
        options
    }

    fn pause(&self, millis: u64) -> Duration {
        // NaN is refused by Duration; it means no delay here.
        let speed = if self.speed.is_nan() { 0.0 } else { self.speed };
        Duration::from_millis(millis).mul_f64(speed.clamp(0.0, 100.0))
    }
}

/// Binds `options.listen` and serves until Ctrl-C or SIGTERM.
///
/// Errors: the address cannot be had.
pub fn run(options: DemoOptions) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(options.listen).await.map_err(|error| {
            let told = format!("the demo app cannot listen on {}: {error}", options.listen);
            io::Error::new(error.kind(), told)
        })?;
        eprintln!("demo app on http://{}", listener.local_addr()?);
        serve(listener, options, stop_signal()).await
    })
}

/// Serves the app on `listener` until `shutdown` is ready, then lets open requests end for five seconds.
///
/// # Errors
/// Only where the listener itself is broken; a client's misbehaviour ends that client's connection.
pub async fn serve(
    listener: TcpListener,
    options: DemoOptions,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let app = Arc::new(App::new(options));
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stop, stopping) = tokio::sync::watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let permit = tokio::select! {
            () = &mut shutdown => break,
            permit = room.clone().acquire_owned() => permit.map_err(io::Error::other)?,
        };
        let socket = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) if is_passing(&error) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        while connections.try_join_next().is_some() {}
        // Small answers leave at once; where it cannot be set they leave a little later.
        let _ = socket.set_nodelay(true);
        let (app, mut stopping) = (app.clone(), stopping.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let app = app.clone();
                async move { Ok::<_, Infallible>(app.answer(request).await.into_response()) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .half_close(true)
                .serve_connection(TokioIo::new(socket), service)
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            // An error ends this client's connection, which is all that it is about.
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = stopping.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(permit);
        });
    }
    drop(listener);
    drop(stop);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What does not end by itself is aborted with the set.
    let _ = tokio::time::timeout(STOP_GRACE, ended).await;
    Ok(())
}

/// Errors of one connection or of a moment, after which accepting goes on.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    ) || matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = interrupt.await;
        }
    }
}

struct App {
    options: DemoOptions,
    clock: Clock,
    shop: Shop,
    sessions: Sessions,
    seen: Mutex<BTreeMap<String, u64>>,
}

impl App {
    fn new(options: DemoOptions) -> Self {
        Self {
            sessions: Sessions::new(&options.jwt_secret),
            options,
            clock: Clock::system(),
            shop: Shop::default(),
            seen: Mutex::default(),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        if segments.first() != Some(&"demo") {
            self.count(&path);
        }
        // HEAD is GET here; hyper leaves the body away.
        let method = match *request.method() {
            Method::HEAD => Method::GET,
            ref other => other.clone(),
        };
        match (method.as_str(), segments.as_slice()) {
            ("GET", [""]) => page::home(),
            ("GET", ["assets", name]) => page::asset(name, request.headers()),
            ("GET", ["greeting"]) => page::greeting(request.headers()),
            ("POST", ["form"]) => self.form(request).await,
            ("GET", ["events"]) => events(request.uri()),
            ("GET", ["ws"]) => websocket::accept(request),

            ("GET", ["api", "fleet"]) => {
                self.work(1200).await;
                let body = self.shop.fleet(|name| query(request.uri(), name));
                Reply::shared(&body, request.headers())
            }
            ("GET", ["api", "cars", id, "availability"]) => {
                self.work(800).await;
                match self
                    .shop
                    .availability(id, |name| query(request.uri(), name))
                {
                    Some(body) => Reply::shared(&body, request.headers()),
                    None => no_such_car(id),
                }
            }
            ("GET", ["api", "cars", id]) => {
                self.work(400).await;
                match self.shop.car(id) {
                    Some(body) => Reply::shared(&body, request.headers()),
                    None => no_such_car(id),
                }
            }
            ("POST", ["api", "auth", "login"]) => self.login(request).await,
            ("GET", ["api", "auth", "session"]) => {
                self.work(90).await;
                match self.sessions.user(request.headers()) {
                    Some(claims) => Reply::personal(&json!({
                        "user": { "id": claims.sub, "role": claims.app_metadata.role },
                        "expires": claims.exp,
                    })),
                    None => unauthorized(),
                }
            }
            ("POST", ["api", "auth", "logout"]) => {
                self.work(50).await;
                match self.sessions.end(request.headers()) {
                    Some(claims) => Reply::personal(&json!({ "loggedOut": claims.sub })).with(
                        header::SET_COOKIE,
                        "demo_session=; Path=/; Max-Age=0; HttpOnly",
                    ),
                    None => unauthorized(),
                }
            }
            ("POST", ["api", "bookings"]) => self.book(request).await,
            ("POST", ["api", "payments", "intent"]) => {
                self.work(200).await;
                let number = self.shop.next_payment();
                Reply::personal(
                    &json!({ "intent": format!("pi_{number:06}"), "status": "created" }),
                )
                .status(StatusCode::CREATED)
            }
            ("GET", ["api", "admin", "stats"]) => {
                self.work(100).await;
                match self.sessions.user(request.headers()) {
                    Some(claims) if claims.app_metadata.role == "admin" => {
                        Reply::personal(&self.shop.stats())
                    }
                    Some(_) => error(
                        StatusCode::FORBIDDEN,
                        "FORBIDDEN",
                        "for administrators only",
                    ),
                    None => unauthorized(),
                }
            }

            ("GET", ["api", "health"]) => Reply::fresh(&json!({ "status": "healthy" })),
            ("GET", ["api", "slow"]) => {
                let asked = Duration::from_millis(number(request.uri(), "ms", 1000));
                tokio::time::sleep(asked.min(DEMAND_MAX)).await;
                Reply::fresh(&json!({ "slept": asked.min(DEMAND_MAX).as_millis() as u64 }))
            }
            (_, ["api", "status", code]) => status_on_demand(code),
            ("GET", ["api", "chunks"]) => chunks(request.uri()),
            ("GET", ["api", "cut"]) => Reply::cut(),
            ("POST" | "PUT", ["api", "upload"]) => upload(request).await,
            (_, ["api", "echo"]) => echo(request).await,

            ("GET", ["demo", "counters"]) => Reply::fresh(&self.counters()),
            ("POST", ["demo", "counters"]) => {
                self.seen
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clear();
                Reply::fresh(&self.counters())
            }
            (_, ["api", known @ ..]) if knows(known) => error(
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD",
                "this path has no such method",
            ),
            _ => error(StatusCode::NOT_FOUND, "NOT_FOUND", "there is nothing here"),
        }
    }

    /// Waits as long as the real shop's database would have taken.
    async fn work(&self, millis: u64) {
        let pause = self.options.pause(millis);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    async fn form(&self, request: Request<Incoming>) -> Reply {
        let body = match bounded(request, JSON_BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(reply) => return reply,
        };
        let text = String::from_utf8_lossy(&body);
        let name: String = pairs(&text)
            .find(|(key, _)| key == "name")
            .map(|(_, value)| value)
            .unwrap_or_default()
            .chars()
            .filter(|c| c.is_ascii_alphanumeric())
            .take(40)
            .collect();
        Reply::empty(StatusCode::SEE_OTHER)
            .with(header::LOCATION, "/greeting")
            .with(
                header::SET_COOKIE,
                &format!("visitor={name}; Path=/; HttpOnly; SameSite=Lax"),
            )
            .with(header::CACHE_CONTROL, "no-store")
    }

    async fn login(&self, request: Request<Incoming>) -> Reply {
        let body = match json_body(request).await {
            Ok(body) => body,
            Err(reply) => return reply,
        };
        self.work(300).await;
        let user = body["user"].as_str().unwrap_or("u1");
        let role = body["role"].as_str().unwrap_or("customer");
        let seconds = body["expiresIn"].as_u64().unwrap_or(3600);
        match self
            .sessions
            .begin(user, role, self.clock.now().as_secs(), seconds)
        {
            Some(token) => Reply::personal(&json!({
                "token": token,
                "tokenType": "Bearer",
                "expiresIn": seconds,
                "user": { "id": user, "role": role },
            }))
            .with(
                header::SET_COOKIE,
                &format!("demo_session={token}; Path=/; HttpOnly; SameSite=Lax"),
            ),
            None => error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "TOKEN",
                "no token could be signed",
            ),
        }
    }

    async fn book(&self, request: Request<Incoming>) -> Reply {
        let user = self
            .sessions
            .user(request.headers())
            .map(|claims| claims.sub);
        let body = match json_body(request).await {
            Ok(body) => body,
            Err(reply) => return reply,
        };
        self.work(200).await;
        let id = match &body["carId"] {
            Value::String(id) => id.clone(),
            Value::Number(id) => id.to_string(),
            _ => return error(StatusCode::UNPROCESSABLE_ENTITY, "CAR", "carId is missing"),
        };
        match self.shop.book(&id, body["day"].as_str()) {
            Some(number) => Reply::personal(&json!({
                "booking": format!("b_{number:06}"), "carId": id, "user": user,
            }))
            .status(StatusCode::CREATED),
            None => no_such_car(&id),
        }
    }

    fn count(&self, path: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = seen.get_mut(path) {
            *count += 1;
        } else {
            let name = if seen.len() < COUNTED_PATHS_MAX {
                path
            } else {
                "(other)"
            };
            *seen.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// Every path but the health check's counts into `total`: larder's own probes are no traffic.
    fn counters(&self) -> Value {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let total: u64 = seen
            .iter()
            .filter(|(path, _)| *path != "/api/health")
            .map(|(_, n)| n)
            .sum();
        json!({ "total": total, "paths": &*seen })
    }
}

/// Paths below `/api` that exist with another method.
fn knows(path: &[&str]) -> bool {
    matches!(
        path,
        ["fleet" | "bookings" | "health" | "slow" | "chunks" | "cut" | "upload"]
            | ["cars", _]
            | ["cars", _, "availability"]
            | ["auth", "login" | "session" | "logout"]
            | ["payments", "intent"]
            | ["admin", "stats"]
    )
}

fn events(uri: &Uri) -> Reply {
    let count = number(uri, "count", 100).min(PIECES_MAX);
    let every = Duration::from_millis(number(uri, "every", 1000)).min(DEMAND_MAX);
    Reply::stream(
        every,
        (0..count).map(|n| format!("id: {n}\nevent: tick\ndata: {{\"n\":{n}}}\n\n")),
    )
    .with(header::CONTENT_TYPE, "text/event-stream")
    .with(header::CACHE_CONTROL, "no-cache")
}

fn chunks(uri: &Uri) -> Reply {
    let count = number(uri, "count", 5).min(PIECES_MAX);
    let every = Duration::from_millis(number(uri, "every", 0)).min(DEMAND_MAX);
    Reply::stream(every, (0..count).map(|n| format!("piece {n}\n")))
        .with(header::CONTENT_TYPE, "text/plain")
        .with(header::CACHE_CONTROL, "no-store")
}

fn status_on_demand(code: &str) -> Reply {
    match code
        .parse()
        .ok()
        .and_then(|code: u16| StatusCode::from_u16(code).ok())
    {
        Some(status) if status.is_informational() || status.as_u16() > 599 => {
            error(StatusCode::BAD_REQUEST, "STATUS", "200 to 599, please")
        }
        Some(status @ (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)) => Reply::empty(status),
        Some(status) if status.is_redirection() => {
            Reply::empty(status).with(header::LOCATION, "/api/echo")
        }
        Some(status) => Reply::fresh(&json!({ "status": status.as_u16() })).status(status),
        None => error(StatusCode::BAD_REQUEST, "STATUS", "200 to 599, please"),
    }
}

/// Reads an upload as it comes, keeping nothing of it but length and digest.
async fn upload(request: Request<Incoming>) -> Reply {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut bytes = 0usize;
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return error(
                StatusCode::BAD_REQUEST,
                "UPLOAD",
                "the upload did not arrive whole",
            );
        };
        if let Some(data) = frame.data_ref() {
            digest.update(data);
            bytes += data.len();
        }
        if bytes > UPLOAD_BYTES_MAX {
            return error(StatusCode::PAYLOAD_TOO_LARGE, "UPLOAD", "1 GiB at most");
        }
    }
    Reply::fresh(
        &json!({ "bytes": bytes, "sha256": crate::semantics::line::hex(digest.finish().as_ref()) }),
    )
}

/// Everything that this request looked like here.
async fn echo(request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let body = match Limited::new(body, JSON_BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(problem) => return unreadable(&*problem),
    };
    Reply::fresh(&json!({
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "bodyBytes": body.len(),
        "body": String::from_utf8_lossy(&body),
    }))
}

async fn bounded(request: Request<Incoming>, bytes_max: usize) -> Result<bytes::Bytes, Reply> {
    match Limited::new(request.into_body(), bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(problem) => Err(unreadable(&*problem)),
    }
}

/// An empty body is `null`, so that every field is simply absent.
async fn json_body(request: Request<Incoming>) -> Result<Value, Reply> {
    let body = bounded(request, JSON_BODY_BYTES_MAX).await?;
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body)
        .map_err(|_| error(StatusCode::BAD_REQUEST, "JSON", "the body is not JSON"))
}

fn unreadable(problem: &(dyn std::error::Error + 'static)) -> Reply {
    if problem.is::<LengthLimitError>() {
        error(StatusCode::PAYLOAD_TOO_LARGE, "BODY", "64 KiB at most")
    } else {
        error(
            StatusCode::BAD_REQUEST,
            "BODY",
            "the body did not arrive whole",
        )
    }
}

fn error(status: StatusCode, code: &str, message: &str) -> Reply {
    Reply::fresh(&json!({ "error": { "code": code, "message": message } })).status(status)
}

fn unauthorized() -> Reply {
    error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "log in first")
        .with(header::WWW_AUTHENTICATE, "Bearer")
}

fn no_such_car(id: &str) -> Reply {
    let id: String = id
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(40)
        .collect();
    error(
        StatusCode::NOT_FOUND,
        "NO_SUCH_CAR",
        &format!("there is no car {id}"),
    )
}

/// The first query parameter of that name.
fn query(uri: &Uri, name: &str) -> Option<String> {
    pairs(uri.query().unwrap_or_default())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

fn number(uri: &Uri, name: &str, default: u64) -> u64 {
    query(uri, name)
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// The pairs of a query or of an `application/x-www-form-urlencoded` body.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let decode = |part: &str| {
        let spaced = part.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced)
            .decode_utf8_lossy()
            .into_owned()
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Starts the app without delays; it stops when the sender is dropped.
    async fn started() -> (SocketAddr, tokio::sync::oneshot::Sender<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let options = DemoOptions {
            speed: 0.0,
            ..DemoOptions::default()
        };
        tokio::spawn(async move {
            serve(listener, options, async {
                let _ = stopped.await;
            })
            .await
        });
        (address, stop)
    }

    async fn ask(address: SocketAddr, head: &str, body: &str) -> String {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let message = format!(
            "{head}\r\nHost: shop\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(message.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A cut answer ends in an error on some systems; what came before it counts.
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn body(answer: &str) -> Value {
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn the_fleet_is_about_60_kb_public_and_has_an_etag_that_304s() {
        let (app, _stop) = started().await;
        let first = ask(app, "GET /api/fleet?page=2 HTTP/1.1", "").await;
        assert!(
            first.contains("cache-control: public\r\n"),
            "{}",
            &first[..300]
        );
        assert!((50_000..70_000).contains(&first.len()), "{}", first.len());
        let etag = first
            .split("etag: ")
            .nth(1)
            .unwrap()
            .split("\r\n")
            .next()
            .unwrap();
        let again = ask(
            app,
            &format!("GET /api/fleet?page=2 HTTP/1.1\r\nIf-None-Match: {etag}"),
            "",
        )
        .await;
        assert!(again.starts_with("HTTP/1.1 304"), "{again}");
    }

    #[tokio::test]
    async fn a_booking_changes_the_car_its_days_and_the_fleet() {
        let (app, _stop) = started().await;
        let paths = [
            "/api/cars/42",
            "/api/cars/42/availability",
            "/api/fleet?page=1",
        ];
        let mut before = Vec::new();
        for path in paths {
            before.push(body(&ask(app, &format!("GET {path} HTTP/1.1"), "").await));
        }
        let booked = ask(app, "POST /api/bookings HTTP/1.1", r#"{"carId":42}"#).await;
        assert!(booked.starts_with("HTTP/1.1 201"), "{booked}");
        for (path, before) in paths.iter().zip(before) {
            let after = body(&ask(app, &format!("GET {path} HTTP/1.1"), "").await);
            assert_ne!(after, before, "{path}");
        }
    }

    #[tokio::test]
    async fn a_token_opens_the_session_until_it_is_logged_out() {
        let (app, _stop) = started().await;
        assert!(
            ask(app, "GET /api/auth/session HTTP/1.1", "")
                .await
                .starts_with("HTTP/1.1 401")
        );
        let login = ask(
            app,
            "POST /api/auth/login HTTP/1.1",
            r#"{"user":"ann","role":"admin"}"#,
        )
        .await;
        assert!(login.contains("set-cookie: demo_session="), "{login}");
        let token = body(&login)["token"].as_str().unwrap().to_owned();
        let session = format!("GET /api/auth/session HTTP/1.1\r\nAuthorization: Bearer {token}");
        let answer = ask(app, &session, "").await;
        assert!(answer.contains("cache-control: private"), "{answer}");
        assert_eq!(body(&answer)["user"]["id"], "ann");
        let stats = format!("GET /api/admin/stats HTTP/1.1\r\nAuthorization: Bearer {token}");
        assert!(ask(app, &stats, "").await.starts_with("HTTP/1.1 200"));
        let logout = format!("POST /api/auth/logout HTTP/1.1\r\nAuthorization: Bearer {token}");
        assert!(ask(app, &logout, "").await.starts_with("HTTP/1.1 200"));
        assert!(ask(app, &session, "").await.starts_with("HTTP/1.1 401"));
    }

    #[tokio::test]
    async fn counters_tell_what_arrived_and_health_is_no_traffic() {
        let (app, _stop) = started().await;
        for path in ["/api/cars/1", "/api/cars/1?x=1", "/api/health"] {
            ask(app, &format!("GET {path} HTTP/1.1"), "").await;
        }
        let counters = body(&ask(app, "GET /demo/counters HTTP/1.1", "").await);
        assert_eq!(counters["total"], 2);
        assert_eq!(counters["paths"]["/api/cars/1"], 2);
    }

    #[tokio::test]
    async fn the_form_sets_a_cookie_and_sends_to_a_greeting_that_reads_it() {
        let (app, _stop) = started().await;
        let form = ask(app, "POST /form HTTP/1.1", "name=Ann+%3Cb%3E").await;
        assert!(
            form.starts_with("HTTP/1.1 303") && form.contains("set-cookie: visitor=Annb;"),
            "{form}"
        );
        let greeting = ask(app, "GET /greeting HTTP/1.1\r\nCookie: visitor=Annb", "").await;
        assert!(greeting.contains("Hello, Annb"), "{greeting}");
    }

    #[tokio::test]
    async fn events_and_chunks_stream_uploads_are_digested_and_cuts_are_cut() {
        let (app, _stop) = started().await;
        let events = ask(app, "GET /events?count=2&every=1 HTTP/1.1", "").await;
        assert!(
            events.contains("text/event-stream") && events.contains("data: {\"n\":1}"),
            "{events}"
        );
        let chunks = ask(app, "GET /api/chunks?count=2 HTTP/1.1", "").await;
        assert!(
            chunks.contains("transfer-encoding: chunked") && chunks.contains("piece 1"),
            "{chunks}"
        );
        let upload = body(&ask(app, "POST /api/upload HTTP/1.1", "abc").await);
        assert_eq!(upload["bytes"], 3);
        assert!(upload["sha256"].as_str().unwrap().starts_with("ba7816bf"));
        let cut = ask(app, "GET /api/cut HTTP/1.1", "").await;
        assert!(
            cut.contains("content-length: 100") && cut.ends_with("0123456789"),
            "{cut}"
        );
    }

    #[tokio::test]
    async fn a_delay_follows_the_speed_and_nonsense_is_harmless() {
        let options = |speed| DemoOptions {
            speed,
            ..DemoOptions::default()
        };
        assert_eq!(options(0.5).pause(400), Duration::from_millis(200));
        assert_eq!(options(-1.0).pause(400), Duration::ZERO);
        assert_eq!(options(f64::NAN).pause(400), Duration::ZERO);
    }
}
