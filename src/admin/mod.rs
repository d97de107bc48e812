//! The admin port: health, metrics, purge, explanations. GET never changes anything.
//!
//! It answers whoever can reach it about how larder stands, and never shows a secret. What changes
//! something is a POST with a JSON body, from no foreign web page, and with the token as soon as the
//! address is not loopback; each one leaves a line in the log.

mod api;
mod guard;
mod health;
mod honest;
mod hot;
mod problem;
mod purge;
mod redis;
mod warm;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::Settings;
use crate::limit::Limiter;
use crate::proxy::Shared;
use crate::proxy::warm::Warmer;
use crate::redis_client::Redis;
use crate::redis_client::vitals::Vitals;
use crate::telemetry::Metrics;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use problem::Problem;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// For a request's head, and between two requests of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// For answers in progress when the port closes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept (out of file descriptors): trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Reply = Response<Full<Bytes>>;

/// What the admin port can see and move.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// The configuration in force.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The table of metrics.
    pub metrics: Arc<Metrics>,
    /// The background's way to Redis, if one is configured.
    pub redis: Option<Redis>,
    /// What the background last saw of Redis.
    pub vitals: Vitals,
    /// The background's view of the store.
    pub cache: Cache,
    /// What warms.
    pub warmer: Warmer,
    /// The background's view of the limits: it looks, and never counts.
    pub limiter: Limiter,
    /// What time it is; a test may move it.
    pub clock: Clock,
    /// What requests are served with, for explanations.
    pub shared: Arc<Shared>,
    /// How the process stands.
    pub condition: Arc<Condition>,
}

/// How the process stands; set by the room that builds the others.
#[derive(Debug)]
pub struct Condition {
    /// The traffic listener is up.
    pub listening: AtomicBool,
    /// Stopping: not ready any more.
    pub draining: AtomicBool,
    /// The app answered when last asked, or has not been asked yet.
    pub app_up: AtomicBool,
    /// The lists that are to be waited for have been warmed.
    pub warmed: Arc<AtomicBool>,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            listening: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            app_up: AtomicBool::new(true),
            warmed: Arc::new(AtomicBool::new(true)),
        }
    }
}

/// Serves the admin port until `shutdown` is done; keep it open while the process drains, so that
/// `/readyz` can say so.
pub async fn serve(listener: TcpListener, state: AdminState, shutdown: impl Future<Output = ()>) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    let admin = Arc::new(Admin {
        state,
        address,
        redis_facts: health::RedisFacts::default(),
    });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let closing = GracefulShutdown::new();
    // Dropped at the end of this function: whatever is left by then is cut.
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        let service = hyper::service::service_fn(move |request| {
            let admin = Arc::clone(&admin);
            async move { Ok::<_, Infallible>(admin.answer(request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = closing.watch(connection);
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            // How a client leaves is its own business.
            let _ = connection.await;
            drop(place);
        });
    }
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing.shutdown()).await;
}

#[derive(Debug)]
struct Admin {
    state: AdminState,
    /// Where this port really listens.
    address: SocketAddr,
    redis_facts: health::RedisFacts,
}

impl Admin {
    async fn answer<B>(&self, request: Request<B>) -> Reply
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let reply = self.route(request).await;
        protect(reply.unwrap_or_else(|problem| problem.reply()))
    }

    async fn route<B>(&self, request: Request<B>) -> Result<Reply, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        guard::same_site(&request, self.address)?;
        let path = request.uri().path();
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        let post = request.method() == Method::POST;
        if path.starts_with("/v1/") {
            let settings = self.state.settings.load();
            guard::token(&request, self.address, settings.admin.token.as_ref())?;
        }
        match path {
            "/" if get => Ok(page()),
            "/livez" if get => Ok(text(StatusCode::OK, "ok\n".into())),
            "/readyz" if get => Ok(self.ready(request.uri().query())),
            "/healthz" if get => Ok(self.health().await),
            "/metrics" if get => Ok(reply(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.state.metrics.prometheus(),
            )),
            "/v1/stats" if get => Ok(json(StatusCode::OK, &self.stats())),
            "/v1/explain" if get => self.explain(request.uri().query()).await,
            "/v1/redis" if get => Ok(json(StatusCode::OK, &self.redis())),
            "/v1/capacity" if get => Ok(json(StatusCode::OK, &self.capacity())),
            "/v1/hot" if get => Ok(json(StatusCode::OK, &self.hot())),
            "/v1/audit" if get => Ok(json(StatusCode::OK, &self.audits())),
            "/v1/experiments" if get => Ok(json(StatusCode::OK, &self.experiments())),
            "/v1/suggest" if get => Ok(json(StatusCode::OK, &self.suggestions())),
            "/v1/suggest" if post => self.look(request).await,
            "/v1/audit/release" if post => self.release(request).await,
            "/v1/redis/breaker" if post => self.force_breaker(request).await,
            "/v1/purge" if post => self.purge(request).await,
            "/v1/purges" if get => Ok(json(StatusCode::OK, &self.purges())),
            "/v1/warm" if get => self.warming(request.uri().query()),
            "/v1/warm" if post => self.warm(request).await,
            "/v1/warm" => Err(Problem::method("GET, HEAD, POST")),
            "/v1/clock" if post && self.clock_moves() => self.advance(request).await,
            "/" | "/livez" | "/readyz" | "/healthz" | "/metrics" | "/v1/stats" | "/v1/explain"
            | "/v1/redis" | "/v1/capacity" | "/v1/hot" | "/v1/purges" | "/v1/audit"
            | "/v1/experiments" => Err(Problem::method("GET, HEAD")),
            "/v1/suggest" => Err(Problem::method("GET, HEAD, POST")),
            "/v1/audit/release" => Err(Problem::method("POST")),
            "/v1/purge" | "/v1/redis/breaker" => Err(Problem::method("POST")),
            "/v1/clock" if self.clock_moves() => Err(Problem::method("POST")),
            _ => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "not-found",
                "The admin port has nothing at this path.",
                "GET / lists what there is.",
            )),
        }
    }

    /// Only tests have a clock that moves, and only builds for tests let it be moved from outside.
    fn clock_moves(&self) -> bool {
        cfg!(debug_assertions) && self.state.clock.advance(Duration::ZERO)
    }

    fn ready(&self, query: Option<&str>) -> Reply {
        let checks = health::checks(&self.state);
        let ready = checks.iter().all(|check| check.ok);
        let verbose = query.is_some_and(|query| {
            query
                .split('&')
                .any(|part| part.split('=').next() == Some("verbose"))
        });
        let status = match ready {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut body = String::new();
        for check in checks.iter().filter(|check| verbose || !check.ok) {
            let mark = if check.ok { "+" } else { "-" };
            body.push_str(&format!("[{mark}] {}: {}\n", check.name, check.detail));
        }
        body.push_str(if ready { "ok\n" } else { "not ready\n" });
        let mut reply = text(status, body);
        if !ready {
            reply
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        reply
    }
}

/// A page of links, until the dashboard is here.
fn page() -> Reply {
    let links: String = [
        "/healthz",
        "/readyz?verbose",
        "/livez",
        "/metrics",
        "/v1/stats",
        "/v1/redis",
        "/v1/capacity",
        "/v1/purges",
        "/v1/hot",
        "/v1/audit",
        "/v1/experiments",
        "/v1/explain?url=/",
        "/v1/warm",
    ]
    .iter()
    .map(|path| format!("<li><a href=\"{path}\">{path}</a></li>"))
    .collect();
    let body = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>larder</title>\
         <h1>larder {}</h1><ul>{links}<li>POST /v1/purge</li><li>POST /v1/warm</li><li>POST /v1/redis/breaker</li></ul></html>",
        env!("CARGO_PKG_VERSION")
    );
    reply(StatusCode::OK, "text/html; charset=utf-8", body)
}

/// Nothing from here is kept by a browser, framed, sniffed or read by another site's page.
fn protect(mut reply: Reply) -> Reply {
    let headers = reply.headers_mut();
    for (name, value) in [
        (
            CONTENT_SECURITY_POLICY.as_str(),
            "default-src 'none'; frame-ancestors 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        (CACHE_CONTROL.as_str(), "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    reply
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

fn text(status: StatusCode, body: String) -> Reply {
    reply(status, "text/plain; charset=utf-8", body)
}

fn json(status: StatusCode, value: &serde_json::Value) -> Reply {
    reply(status, "application/json", format!("{value}\n"))
}

#[cfg(test)]
mod tests;
