//! What can be done: purge; in tests also moving the clock. And one snapshot of the figures.

use super::problem::Problem;
use super::{Admin, Reply, json};
use crate::cache::Purge;
use crate::cache::purge::{PurgeOutcome, Scope};
use crate::proxy::explain::{self, Live, Question};
use crate::route::{Routes, Target};
use crate::semantics::Outcome;
use crate::semantics::authority::normal_authority;
use crate::telemetry::metrics::{BOUNDS_SECONDS, Distribution, Value};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::time::Duration;

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// For a request's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Purges in one request.
const PURGES_MAX: usize = 128;
/// Bytes of a tag.
const TAG_BYTES_MAX: usize = 256;
/// Bytes of a URL or prefix.
const URL_BYTES_MAX: usize = 8 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PurgeRequest {
    tags: Vec<String>,
    urls: Vec<String>,
    prefixes: Vec<String>,
    routes: Vec<String>,
    all: bool,
    /// Soft unless said otherwise: the next visitor is served at once.
    soft: Option<bool>,
    /// What of it is asked for most is fetched again at once.
    refresh: Option<Refresh>,
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Refresh {
    Hot,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockRequest {
    advance: String,
}

impl Admin {
    /// `POST /v1/purge`: 200 when it holds everywhere, 202 when the others hear of it later.
    pub(super) async fn purge<B>(&self, request: Request<B>) -> Result<Reply, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let example = r#"{"tags": ["car:42"]}; also urls, prefixes, routes (lists), all, soft (true or false), refresh ("hot")."#;
        let asked: PurgeRequest = parse(request, example).await?;
        let refresh = asked.refresh;
        let purges = purges(asked, &self.state.settings.load().routes)?;
        let kinds: Vec<_> = purges
            .iter()
            .map(|purge| (kind(&purge.scope), purge.soft))
            .collect();
        let scopes: Vec<_> = purges.iter().map(|purge| told(&purge.scope)).collect();
        let scopes = scopes.join(", ");
        let outcome = self.state.cache.purge(purges).await;
        if let Some(Refresh::Hot) = refresh {
            self.state.warmer.refresh_hot();
        }
        let recorder = self.state.metrics.recorder(usize::MAX);
        for (kind, soft) in &kinds {
            recorder.purge(kind, *soft);
        }
        let (status, word) = match outcome {
            PurgeOutcome::Logged => (StatusCode::OK, "logged"),
            PurgeOutcome::Queued => (StatusCode::ACCEPTED, "queued"),
            PurgeOutcome::Local => (StatusCode::OK, "local"),
        };
        let soft = kinds.first().is_some_and(|(_, soft)| *soft);
        let shown = &scopes[..scopes.floor_char_boundary(1_024)];
        tracing::info!(
            action = "purge",
            scopes = shown,
            soft,
            outcome = word,
            "admin"
        );
        Ok(json(
            status,
            &json!({"purges": kinds.len(), "soft": soft, "outcome": word}),
        ))
    }

    /// `POST /v1/clock`, in tests.
    pub(super) async fn advance<B>(&self, request: Request<B>) -> Result<Reply, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let asked: ClockRequest = parse(request, r#"{"advance": "5m"}"#).await?;
        let Some(by) = span(&asked.advance) else {
            return Err(unprocessable(
                "bad-duration",
                "`advance` is not a duration.",
                "Write 5m.",
            ));
        };
        self.state.clock.advance(by);
        let now = self.state.clock.now().as_millis();
        tracing::info!(action = "clock", advance = asked.advance, "admin");
        Ok(json(StatusCode::OK, &json!({"now_ms": now})))
    }

    /// `GET /v1/explain`: what would become of a request, by the functions that requests go through.
    pub(super) async fn explain(&self, query: Option<&str>) -> Result<Reply, Problem> {
        let question = Question::parse(query.unwrap_or_default())
            .map_err(|unclear| unprocessable(unclear.code, unclear.detail, unclear.fix))?;
        let live = Live {
            cache: &self.state.cache,
            limiter: &self.state.limiter,
        };
        let explanation = explain::explain(&self.state.shared, live, question).await;
        Ok(json(StatusCode::OK, &json!(explanation)))
    }

    /// `GET /v1/stats`
    pub(super) fn stats(&self) -> serde_json::Value {
        let metrics = &self.state.metrics;
        let totals = metrics.totals();
        let gauges = metrics.gauges();
        let families = metrics.read();
        let durations = families
            .iter()
            .filter(|family| family.row.name == "larder_request_duration_seconds");
        let mut by_outcome = Outcome::ALL.map(|outcome| (outcome, Distribution::default()));
        for series in durations.flat_map(|family| &family.series) {
            let word = series.labels.iter().find(|(name, _)| *name == "cache");
            for (outcome, sum) in &mut by_outcome {
                if let (Some((_, word)), Value::Histogram(read)) = (word, &series.value)
                    && word == outcome.word()
                {
                    for (sum, count) in sum.buckets.iter_mut().zip(read.buckets) {
                        *sum += count;
                    }
                }
            }
        }
        let latency: serde_json::Map<_, _> = by_outcome
            .iter()
            .filter(|(_, read)| read.count() > 0)
            .map(|(outcome, read)| (outcome.word().to_owned(), quantiles(read)))
            .collect();
        let requests: serde_json::Map<_, _> = Outcome::ALL
            .iter()
            .map(|outcome| {
                let count = totals.outcomes[outcome.index()];
                (outcome.word().to_owned(), count.into())
            })
            .collect();
        json!({
            "now_ms": self.state.clock.now().as_millis(),
            "requests": requests,
            "hit_ratio": thousandths(totals.hit_ratio()),
            "active": totals.active,
            "errors": totals.errors,
            "coalesced": totals.coalesced,
            "saved_seconds": thousandths(totals.saved_nanos as f64 / 1e9),
            "latency": latency,
            "memory": {
                "bytes": gauges.memory_bytes,
                "limit_bytes": gauges.memory_limit_bytes,
                "objects": gauges.memory_objects,
            },
            "limits": {"allowed": totals.limits_allowed, "limited": totals.limits_refused},
            "redis": self.state.redis.as_ref().map(|_| json!({
                "up": gauges.redis.as_ref().is_some_and(|redis| redis.up),
                "breaker": gauges.redis.as_ref().map(|redis| redis.breaker),
                "utilization": thousandths(self.state.vitals.report().utilization),
                "latency": self.operations(),
            })),
        })
    }
}

/// The body as `T`: JSON only, so that no form of another site can post here.
/// `example` is one that could be meant.
pub(super) async fn parse<T, B>(request: Request<B>, example: &str) -> Result<T, Problem>
where
    T: DeserializeOwned,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let content_type = request.headers().get(CONTENT_TYPE);
    let media_type = content_type
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not-json",
            "The body must be JSON.",
            "Send Content-Type: application/json.",
        ));
    }
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, Box::pin(body)).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                format!("The body is larger than {} KiB.", BODY_BYTES_MAX / 1024),
                "Send several smaller requests.",
            ));
        }
        Ok(Err(_)) | Err(_) => {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "body-incomplete",
                "The body did not arrive whole.",
                "Try again.",
            ));
        }
    };
    serde_json::from_slice(&body).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad-json",
            error.to_string(),
            format!("Write {example}"),
        )
    })
}

/// What was asked for as purges; every one valid, at least one.
fn purges(asked: PurgeRequest, routes: &Routes) -> Result<Vec<Purge>, Problem> {
    if asked.dry_run {
        return Err(unprocessable(
            "dry-run-not-supported",
            "dry_run is not supported yet, so nothing was purged.",
            "Leave dry_run out.",
        ));
    }
    let soft = asked.soft.unwrap_or(true);
    let mut scopes = Vec::new();
    for tag in asked.tags {
        if tag.is_empty() || tag.len() > TAG_BYTES_MAX || tag.chars().any(char::is_control) {
            return Err(unprocessable(
                "bad-tag",
                format!("A tag has 1 to {TAG_BYTES_MAX} bytes and no control characters."),
                "Write it as the route's `tags` make it, such as car:42.",
            ));
        }
        scopes.push(Scope::Tag(tag));
    }
    for url in asked.urls {
        scopes.push(Scope::Url(known_as(&url, routes)?));
    }
    for prefix in asked.prefixes {
        if !prefix.starts_with('/') {
            return Err(unprocessable(
                "bad-prefix",
                "A prefix is the beginning of a path.",
                "Write /api/cars/.",
            ));
        }
        scopes.push(Scope::Prefix(without_scheme(&prefix)?));
    }
    for name in asked.routes {
        let Some(route) = routes.all().iter().find(|route| *route.name == *name) else {
            let names: Vec<&str> = routes
                .all()
                .iter()
                .map(|route| &*route.name)
                .take(20)
                .collect();
            return Err(unprocessable(
                "unknown-route",
                "There is no route of this name.",
                format!("The routes are: {}.", names.join(", ")),
            ));
        };
        scopes.push(Scope::Tag(route.own_tag()));
    }
    if asked.all {
        scopes.push(Scope::All);
    }
    if scopes.is_empty() || scopes.len() > PURGES_MAX {
        return Err(unprocessable(
            "how-many",
            format!(
                "One request carries 1 to {PURGES_MAX} purges, this one {}.",
                scopes.len()
            ),
            "Name tags, urls, prefixes or routes, or say \"all\": true.",
        ));
    }
    Ok(scopes
        .into_iter()
        .map(|scope| Purge { scope, soft })
        .collect())
}

/// `host/path?query` or `/path?query`; a fragment never reaches a server.
fn without_scheme(url: &str) -> Result<String, Problem> {
    let bare = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .unwrap_or(url);
    let bare = bare.split('#').next().unwrap_or_default();
    let fits = bare.len() <= URL_BYTES_MAX && bare.contains('/');
    if !fits || bare.contains(|c: char| c.is_control() || c == ' ') || bare.starts_with("//") {
        return Err(unprocessable(
            "bad-url",
            format!("A URL has a path, no blanks, and at most {URL_BYTES_MAX} bytes."),
            "Write /api/fleet?page=2, or https://shop.example/api/fleet?page=2 for one host.",
        ));
    }
    Ok(bare.to_owned())
}

/// The URL in the form in which stored responses are known, whatever spelling the purger uses.
fn known_as(url: &str, routes: &Routes) -> Result<String, Problem> {
    let bare = without_scheme(url)?;
    let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
    let (host, path) = bare.split_at(bare.find('/').unwrap_or_default());
    let host = normal_authority(host, scheme).unwrap_or(host.into());
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    let target = Target::parse(path, query);
    let rule = routes.find(&Method::GET, &target).rule;
    Ok(format!("{host}{}", rule.url(&target)))
}

const fn kind(scope: &Scope) -> &'static str {
    scope.word()
}

/// As the log has it: `tag car:42`.
fn told(scope: &Scope) -> String {
    match scope {
        Scope::All => "all".to_owned(),
        named => format!("{} {}", kind(named), named.value()),
    }
}

pub(super) fn unprocessable(
    code: &'static str,
    detail: impl Into<String>,
    fix: impl Into<String>,
) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail, fix)
}

/// Three decimals: more would be the noise of adding up.
pub(super) fn thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// The four that people ask for, in milliseconds.
pub(super) fn quantiles(read: &Distribution) -> serde_json::Value {
    json!({
        "p50_ms": quantile_ms(read, 0.5),
        "p95_ms": quantile_ms(read, 0.95),
        "p99_ms": quantile_ms(read, 0.99),
        "p999_ms": quantile_ms(read, 0.999),
    })
}

/// Within the bucket as if its observations were spread evenly, as Prometheus does.
fn quantile_ms(read: &Distribution, share: f64) -> f64 {
    let rank = share * read.count() as f64;
    let mut below = 0.0;
    for (index, count) in read.buckets.iter().enumerate() {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            let low = index
                .checked_sub(1)
                .map_or(0.0, |index| BOUNDS_SECONDS[index]);
            let high = BOUNDS_SECONDS.get(index).copied().unwrap_or(low);
            return thousandths((low + (high - low) * (rank - below) / count) * 1e3);
        }
        below += count;
    }
    0.0
}

/// `90s`, `5m`, `1h`.
fn span(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "ms" => return number.parse().ok().map(Duration::from_millis),
        _ => return None,
    };
    Some(Duration::from_secs(
        number.parse::<u64>().ok()?.checked_mul(seconds)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: serde_json::Value) -> Result<Vec<Purge>, &'static str> {
        let source = crate::config::Source {
            name: "test".into(),
            text: "upstream: http://localhost:1".into(),
        };
        let env = crate::config::Environment::ignored();
        let (settings, _) = crate::config::load(source, &env).unwrap();
        purges(serde_json::from_value(json).unwrap(), &settings.routes)
            .map_err(|problem| problem.code)
    }

    #[test]
    fn a_purge_names_what_it_hits_and_is_soft_unless_told_otherwise() {
        let purges = asked(json!({
            "tags": ["car:42"],
            "urls": ["https://Shop.example:443/api/fleet?utm_source=x&page=%32&a=1#top", "/api/fleet"],
            "prefixes": ["/api/"],
            "all": true,
        }));
        let scopes = [
            Scope::Tag("car:42".into()),
            Scope::Url("shop.example/api/fleet?a=1&page=2".into()),
            Scope::Url("/api/fleet".into()),
            Scope::Prefix("/api/".into()),
            Scope::All,
        ];
        let soft = true;
        assert_eq!(purges.unwrap(), scopes.map(|scope| Purge { scope, soft }));
        assert!(!asked(json!({"all": true, "soft": false})).unwrap()[0].soft);
    }

    #[test]
    fn a_purge_that_cannot_be_meant_is_refused_whole() {
        for (json, code) in [
            (json!({}), "how-many"),
            (json!({"all": false}), "how-many"),
            (json!({"tags": vec!["a"; 129]}), "how-many"),
            (json!({"tags": ["a", ""]}), "bad-tag"),
            (json!({"tags": ["a\nb"]}), "bad-tag"),
            (json!({"tags": ["a".repeat(257)]}), "bad-tag"),
            (json!({"urls": ["fleet"]}), "bad-url"),
            (json!({"urls": ["//x/y"]}), "bad-url"),
            (json!({"prefixes": ["api"]}), "bad-prefix"),
            (
                json!({"all": true, "dry_run": true}),
                "dry-run-not-supported",
            ),
        ] {
            assert_eq!(asked(json.clone()), Err(code), "{json}");
        }
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let mut read = Distribution::default();
        read.buckets[3] = 100;
        assert!((quantile_ms(&read, 0.5) - 0.75).abs() < 1e-9);
        read.buckets[19] = 100;
        assert_eq!(quantile_ms(&read, 0.99), 10_000.0);
        assert_eq!(quantile_ms(&Distribution::default(), 0.5), 0.0);
        read.buckets[3] = 3;
        let third = quantile_ms(&read, 0.5);
        assert_eq!(
            (third * 1e3).fract(),
            0.0,
            "{third} has three decimals at most"
        );
    }
}
