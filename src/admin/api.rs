//! Explanations, one snapshot of the figures, and in tests moving the clock; what requests with a body share.

use super::problem::Problem;
use super::{Admin, Reply, json};
use crate::proxy::explain::{self, Live, Question};
use crate::semantics::Outcome;
use crate::telemetry::metrics::{BOUNDS_SECONDS, Distribution, Value};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
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
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockRequest {
    advance: String,
}

impl Admin {
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
        let visible = (families.iter())
            .filter(|family| family.row.name == "larder_purge_visible_seconds")
            .flat_map(|family| &family.series)
            .find_map(|series| match &series.value {
                Value::Histogram(read) if read.count() > 0 => Some(quantiles(read)),
                _ => None,
            });
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
            "purges": {"visible": visible},
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
    parse_of(request, example, BODY_BYTES_MAX).await
}

/// The same of a body of at most `bytes_max` bytes.
pub(super) async fn parse_of<T, B>(
    request: Request<B>,
    example: &str,
    bytes_max: usize,
) -> Result<T, Problem>
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
    let body = Limited::new(request.into_body(), bytes_max).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, Box::pin(body)).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                format!("The body is larger than {} KiB.", bytes_max / 1024),
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
pub(super) fn span(text: &str) -> Option<Duration> {
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
