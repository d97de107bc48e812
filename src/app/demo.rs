//! `larder demo`: the demo app, larder in front of it, and a first visit to every route, so that
//! there is something to see before anyone has opened a browser.

use super::{block_on, serve};
use crate::config::settings::UpstreamTarget;
use crate::config::{RunOptions, Settings};
use crate::demo::{self, DemoOptions};
use crate::telemetry::log::Log;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// How long the tour waits for larder to listen.
const START_TIME: Duration = Duration::from_secs(10);

/// Runs app and proxy until told to stop.
///
/// Errors: those of [`super::run`], and the app's address cannot be had.
pub fn run(app: DemoOptions, proxy: RunOptions, settings: Settings) -> io::Result<()> {
    let log = settings.log.clone();
    block_on(&log, proxy.log_color, |log| {
        together(app, proxy, settings, log)
    })
}

async fn together(
    app: DemoOptions,
    mut proxy: RunOptions,
    mut settings: Settings,
    log: Arc<Log>,
) -> io::Result<()> {
    let listener = TcpListener::bind(app.listen).await.map_err(|error| {
        let told = format!("the demo app cannot listen on {}: {error}", app.listen);
        io::Error::new(error.kind(), told)
    })?;
    // Wherever the app listens, that is where larder finds it, also after a reload.
    settings.upstream.target = reachable(listener.local_addr()?);
    proxy.app = Some(settings.upstream.target.clone());
    // The app ends with the process.
    tokio::spawn(demo::serve(listener, app, std::future::pending()));
    // A certificate of one's own would have to be trusted first: behind TLS the first visits are the
    // reader's.
    if settings.listen.tls.is_none() {
        let site = format!("http://localhost:{}", settings.listen.address.port());
        tokio::spawn(tour(site));
    }
    serve(proxy, settings, log, true).await
}

/// How this host reaches what listens on `address`.
fn reachable(address: SocketAddr) -> UpstreamTarget {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    UpstreamTarget::Http {
        host: ip.to_string(),
        port: address.port(),
    }
}

/// Visits every cached route twice and tells what the second visit gained: in one piece, so that
/// the log does not run through it.
async fn tour(site: String) {
    let visitor = Visitor {
        client: Client::builder(TokioExecutor::new()).build_http(),
        site,
    };
    if !visitor.waits_for_site().await {
        return;
    }
    let mut table = format!(
        "\n  {:<34}{:>16}{:>16}{:>12}\n",
        "the first visits", "first", "second", "factor"
    );
    let token = visitor.login().await;
    for (path, token) in [
        ("/api/fleet", None),
        (
            "/api/cars/42/availability?from=2026-12-01&to=2026-12-05",
            None,
        ),
        ("/api/cars/42", None),
        ("/api/auth/session", token.as_deref()),
    ] {
        let (Some(first), Some(second)) = (
            visitor.visit(path, token).await,
            visitor.visit(path, token).await,
        ) else {
            continue;
        };
        let shown = path.split('?').next().unwrap_or(path);
        let factor = first.took.as_secs_f64() / second.took.as_secs_f64().max(1e-6);
        let _ = writeln!(
            table,
            "  {shown:<34}{:>16}{:>16}{:>11.0}×",
            first.to_string(),
            second.to_string(),
            factor
        );
    }
    eprintln!("{table}\n  {}   ← open this\n", visitor.site);
}

struct Visitor {
    client: Client<HttpConnector, Full<Bytes>>,
    site: String,
}

struct Visit {
    cache: String,
    took: Duration,
}

impl std::fmt::Display for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {:.1} ms",
            self.cache,
            self.took.as_secs_f64() * 1_000.0
        )
    }
}

impl Visitor {
    async fn waits_for_site(&self) -> bool {
        let until = Instant::now() + START_TIME;
        while Instant::now() < until {
            if self.visit("/api/health", None).await.is_some() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    async fn visit(&self, path: &str, token: Option<&str>) -> Option<Visit> {
        let mut request = Request::get(format!("{}{path}", self.site));
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let began = Instant::now();
        let response = self
            .client
            .request(request.body(Full::default()).ok()?)
            .await
            .ok()?;
        let cache = response
            .headers()
            .get("x-cache")
            .and_then(|value| value.to_str().ok());
        let cache = cache.unwrap_or("-").to_owned();
        response.into_body().collect().await.ok()?;
        Some(Visit {
            cache,
            took: began.elapsed(),
        })
    }

    async fn login(&self) -> Option<String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/api/auth/login", self.site))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(
                r#"{"email":"ada@example.com","password":"demo"}"#,
            ))
            .ok()?;
        let response = self.client.request(request).await.ok()?;
        let body = response.into_body().collect().await.ok()?.to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
        ["token", "access_token"]
            .iter()
            .find_map(|name| Some(body.get(name)?.as_str()?.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larder_is_put_in_front_of_the_demo_wherever_that_listens() {
        for (listens, host) in [
            ("127.0.0.1:3000", "127.0.0.1"),
            ("0.0.0.0:3000", "127.0.0.1"),
            ("[::]:3000", "::1"),
            ("192.0.2.7:3000", "192.0.2.7"),
        ] {
            let app = UpstreamTarget::Http {
                host: host.into(),
                port: 3000,
            };
            assert_eq!(reachable(listens.parse().unwrap()), app);
        }
    }
}
