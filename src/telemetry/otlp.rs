//! Traces and metrics over OTLP (HTTP, protobuf), configured by the standard `OTEL_*` variables only.
//!
//! Nothing is started while no endpoint is set. A collector that is away or hangs costs requests
//! nothing: spans wait in a bounded queue (2,048) and are dropped when it is full, metrics are read
//! from the table at each interval and simply read again at the next.
//!
//! Metrics do not go through the SDK's instruments: those would count everything a second time, and
//! its histograms cannot be fed with the buckets that the table already has. The table is read and
//! written as one OTLP message with cumulative sums.

use super::metrics::{BOUNDS_SECONDS, Distribution, Family, Kind, Metrics, Series, Value};
use super::trace::{OurIds, Sampling, Traces};
use crate::clock::Clock;
use crate::semantics::Timestamp;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError, hyper::HyperClient};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1 as proto;
use opentelemetry_proto::tonic::metrics::v1 as wire;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// One export, by the specification (`OTEL_EXPORTER_OTLP_TIMEOUT`).
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Between two exports of metrics, by the specification (`OTEL_METRIC_EXPORT_INTERVAL`).
const INTERVAL_DEFAULT: Duration = Duration::from_secs(60);
const INTERVAL_MIN: Duration = Duration::from_millis(100);

type Https = hyper_rustls::HttpsConnector<HttpConnector>;

/// Reads a variable of the environment; a test hands in its own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What runs to export telemetry; nothing when no endpoint is set.
#[derive(Debug, Default)]
pub struct Otlp {
    traces: Traces,
    provider: Option<SdkTracerProvider>,
    metrics: Option<MetricsExport>,
}

#[derive(Debug)]
struct MetricsExport {
    stop: oneshot::Sender<()>,
    stopped: std::sync::mpsc::Receiver<()>,
}

impl Otlp {
    /// Starts what the environment asks for, on `runtime` (the background's). What is wrong there is
    /// logged and leaves that signal off; it never stops the proxy.
    #[must_use]
    pub fn start(env: Env<'_>, metrics: &Arc<Metrics>, clock: &Clock, runtime: &Handle) -> Self {
        let mut otlp = Self::default();
        if get(env, "OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return otlp;
        }
        let attributes = resource(env);
        match Signal::find(env, "TRACES", "v1/traces") {
            Ok(Some(signal)) => match start_traces(env, &signal, &attributes, runtime) {
                Ok((traces, provider)) => {
                    otlp.traces = traces;
                    otlp.provider = Some(provider);
                }
                Err(problem) => tracing::warn!(%problem, "traces are not exported"),
            },
            Ok(None) => {}
            Err(problem) => tracing::warn!(%problem, "traces are not exported"),
        }
        match Signal::find(env, "METRICS", "v1/metrics") {
            Ok(Some(signal)) => {
                let interval = millis(env, "OTEL_METRIC_EXPORT_INTERVAL")
                    .unwrap_or(INTERVAL_DEFAULT)
                    .max(INTERVAL_MIN);
                match MetricsExport::start(signal, interval, &attributes, metrics, clock, runtime) {
                    Ok(export) => otlp.metrics = Some(export),
                    Err(problem) => tracing::warn!(%problem, "metrics are not exported"),
                }
            }
            Ok(None) => {}
            Err(problem) => tracing::warn!(%problem, "metrics are not exported"),
        }
        otlp
    }

    /// Where the proxy's spans go.
    #[must_use]
    pub fn traces(&self) -> Traces {
        self.traces.clone()
    }

    /// Whether anything is exported.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.provider.is_some() || self.metrics.is_some()
    }

    /// Sends what is left and stops, within `bound`. Blocks: call it from `spawn_blocking`.
    pub fn shutdown(self, bound: Duration) {
        let end = Instant::now() + bound;
        // Both signals have the same time: the metrics' last export runs while the spans' is awaited.
        let stopped = self.metrics.map(|export| {
            let _ = export.stop.send(());
            export.stopped
        });
        if let Some(provider) = self.provider
            && let Err(problem) = provider.shutdown_with_timeout(bound)
        {
            tracing::warn!(%problem, "the last spans were not exported");
        }
        if let Some(stopped) = stopped {
            let _ = stopped.recv_timeout(end.saturating_duration_since(Instant::now()));
        }
    }
}

/// Where and how one signal is sent.
#[derive(Debug)]
struct Signal {
    endpoint: String,
    headers: Vec<(String, String)>,
    timeout: Duration,
}

impl Signal {
    /// `None` when no endpoint is set, or the exporter is `none`. A signal's own variable wins over
    /// the common one, and its endpoint is taken as it stands.
    fn find(env: Env<'_>, signal: &str, path: &str) -> Result<Option<Self>, String> {
        if get(env, &format!("OTEL_{signal}_EXPORTER")).as_deref() == Some("none") {
            return Ok(None);
        }
        let own = |name: &str| get(env, &format!("OTEL_EXPORTER_OTLP_{signal}_{name}"));
        let common = |name: &str| get(env, &format!("OTEL_EXPORTER_OTLP_{name}"));
        let both = |name: &str| own(name).or_else(|| common(name));
        let base = |base: String| format!("{}/{path}", base.trim_end_matches('/'));
        let Some(endpoint) = own("ENDPOINT").or_else(|| common("ENDPOINT").map(base)) else {
            return Ok(None);
        };
        let uri: http::Uri = endpoint
            .parse()
            .map_err(|_| "the OTLP endpoint is not a URL".to_owned())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err("the OTLP endpoint must begin with http:// or https://".to_owned());
        }
        if let Some(protocol) = both("PROTOCOL").filter(|name| name != "http/protobuf") {
            return Err(format!(
                "OTLP protocol `{protocol}`: only http/protobuf is spoken"
            ));
        }
        Ok(Some(Self {
            endpoint,
            headers: both("HEADERS").map_or(Vec::new(), |list| pairs(&list)),
            timeout: both("TIMEOUT")
                .and_then(|value| value.parse().ok())
                .map_or(TIMEOUT_DEFAULT, Duration::from_millis),
        }))
    }

    fn client(&self, runtime: &Handle) -> Result<OnRuntime, String> {
        // The system's roots take a while to read and are not needed for plain HTTP.
        let mut roots = rustls::RootCertStore::empty();
        if self.endpoint.starts_with("https:") {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector: Https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(OnRuntime {
            runtime: runtime.clone(),
            inner: HyperClient::new(connector, self.timeout, None),
            failing: Arc::default(),
        })
    }
}

/// The SDK exports from threads of its own, where no Tokio reactor runs; the request itself runs on
/// the background's runtime.
#[derive(Clone, Debug)]
struct OnRuntime {
    runtime: Handle,
    inner: HyperClient<Https>,
    failing: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.inner.clone();
        let sent = self
            .runtime
            .spawn(async move { client.send_bytes(request).await })
            .await?;
        let failed = !sent
            .as_ref()
            .is_ok_and(|answer| answer.status().is_success());
        // Said once for each time it begins to fail. The error itself may show the URL, which may
        // hold a password: only the status is told.
        if failed && !self.failing.swap(failed, Relaxed) {
            let status = sent.as_ref().ok().map(|answer| answer.status().as_u16());
            tracing::warn!(
                status,
                "the OTLP collector does not take telemetry; it is dropped"
            );
        } else if !failed {
            self.failing.store(false, Relaxed);
        }
        sent
    }
}

fn start_traces(
    env: Env<'_>,
    signal: &Signal,
    attributes: &[(String, String)],
    runtime: &Handle,
) -> Result<(Traces, SdkTracerProvider), String> {
    let sampling = Sampling::parse(
        get(env, "OTEL_TRACES_SAMPLER").as_deref(),
        get(env, "OTEL_TRACES_SAMPLER_ARG").as_deref(),
    )
    .map_err(|name| format!("OTEL_TRACES_SAMPLER `{name}` is not known"))?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(signal.client(runtime)?)
        .with_endpoint(&signal.endpoint)
        .with_timeout(signal.timeout)
        .with_headers(HashMap::from_iter(signal.headers.iter().cloned()))
        .build()
        .map_err(|error| error.to_string())?;
    let attributes = attributes
        .iter()
        .map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        // The decision is made before a span is built: `Traces::context`.
        .with_sampler(Sampler::AlwaysOn)
        .with_id_generator(OurIds)
        .with_resource(
            Resource::builder_empty()
                .with_attributes(attributes)
                .build(),
        )
        .build();
    Ok((Traces::new(provider.tracer("larder"), sampling), provider))
}

impl MetricsExport {
    fn start(
        signal: Signal,
        interval: Duration,
        attributes: &[(String, String)],
        metrics: &Arc<Metrics>,
        clock: &Clock,
        runtime: &Handle,
    ) -> Result<Self, String> {
        let client = signal.client(runtime)?;
        let attributes: Vec<proto::KeyValue> = attributes
            .iter()
            .map(|(name, value)| attribute(name, value.clone()))
            .collect();
        let (stop, mut stopping) = oneshot::channel();
        let (done, stopped) = std::sync::mpsc::sync_channel(1);
        let (metrics, clock, began) = (Arc::clone(metrics), clock.clone(), clock.now());
        runtime.spawn(async move {
            let mut last = false;
            while !last {
                tokio::select! {
                    () = tokio::time::sleep(interval) => {}
                    _ = &mut stopping => last = true,
                }
                let message = message(&metrics.read(), &attributes, began, clock.now());
                if let Ok(request) = signal.request(message.encode_to_vec().into()) {
                    // Numbers that did not arrive are in the next message as well.
                    let _ = client.send_bytes(request).await;
                }
            }
            let _ = done.try_send(());
        });
        Ok(Self { stop, stopped })
    }
}

impl Signal {
    fn request(&self, body: Bytes) -> http::Result<Request<Bytes>> {
        let mut request = Request::post(&self.endpoint)
            .header(http::header::CONTENT_TYPE, "application/x-protobuf")
            .header(
                http::header::USER_AGENT,
                concat!("larder/", env!("CARGO_PKG_VERSION")),
            )
            .body(body)?;
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (
                HeaderName::try_from(name.as_str()),
                HeaderValue::try_from(value.as_str()),
            ) {
                request.headers_mut().insert(name, value);
            }
        }
        Ok(request)
    }
}

/// `OTEL_RESOURCE_ATTRIBUTES`, with `OTEL_SERVICE_NAME` winning over its `service.name`.
fn resource(env: Env<'_>) -> Vec<(String, String)> {
    let mut attributes = get(env, "OTEL_RESOURCE_ATTRIBUTES").map_or(Vec::new(), |l| pairs(&l));
    let mut set = |name: &str, value: Option<String>, default: &str| {
        let at = attributes.iter().position(|(known, _)| known == name);
        match (at, value) {
            (Some(at), Some(value)) => attributes[at].1 = value,
            (Some(_), None) => {}
            (None, value) => {
                let value = value.unwrap_or_else(|| default.to_owned());
                attributes.push((name.to_owned(), value));
            }
        }
    };
    set("service.name", get(env, "OTEL_SERVICE_NAME"), "larder");
    set("service.version", None, env!("CARGO_PKG_VERSION"));
    attributes
}

/// `a=b,c=d` with percent-encoded values, as `OTEL_*` lists are written; broken members are left out.
fn pairs(list: &str) -> Vec<(String, String)> {
    list.split(',')
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8();
            let name = name.trim();
            (!name.is_empty()).then_some((name.to_owned(), value.ok()?.into_owned()))
        })
        .collect()
}

/// An empty variable counts as unset, by the specification.
fn get(env: Env<'_>, name: &str) -> Option<String> {
    env(name)
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

fn millis(env: Env<'_>, name: &str) -> Option<Duration> {
    get(env, name)?.parse().ok().map(Duration::from_millis)
}

fn message(
    families: &[Family],
    attributes: &[proto::KeyValue],
    began: Timestamp,
    now: Timestamp,
) -> ExportMetricsServiceRequest {
    let span = (began.as_millis() * 1_000_000, now.as_millis() * 1_000_000);
    ExportMetricsServiceRequest {
        resource_metrics: vec![wire::ResourceMetrics {
            resource: Some(opentelemetry_proto::tonic::resource::v1::Resource {
                attributes: attributes.to_vec(),
                ..Default::default()
            }),
            scope_metrics: vec![wire::ScopeMetrics {
                scope: Some(proto::InstrumentationScope {
                    name: "larder".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..Default::default()
                }),
                metrics: families.iter().map(|family| metric(family, span)).collect(),
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

fn metric(family: &Family, (began, now): (u64, u64)) -> wire::Metric {
    let temporality = wire::AggregationTemporality::Cumulative as i32;
    let numbers = || {
        family
            .series
            .iter()
            .filter_map(|series| match series.value {
                Value::Number(number) => Some(wire::NumberDataPoint {
                    attributes: attributes(series),
                    start_time_unix_nano: began,
                    time_unix_nano: now,
                    value: Some(wire::number_data_point::Value::AsDouble(number)),
                    ..Default::default()
                }),
                Value::Histogram(_) => None,
            })
            .collect()
    };
    let histograms = || {
        family
            .series
            .iter()
            .filter_map(|series| match &series.value {
                Value::Histogram(read) => Some(histogram(series, read, began, now)),
                Value::Number(_) => None,
            })
            .collect()
    };
    let data = match family.row.kind {
        Kind::Counter => wire::metric::Data::Sum(wire::Sum {
            data_points: numbers(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        Kind::Gauge => wire::metric::Data::Gauge(wire::Gauge {
            data_points: numbers(),
        }),
        Kind::Histogram => wire::metric::Data::Histogram(wire::Histogram {
            data_points: histograms(),
            aggregation_temporality: temporality,
        }),
    };
    let (name, unit) = otel_name(family.row.name);
    wire::Metric {
        name,
        unit: unit.to_owned(),
        description: family.row.help.to_owned(),
        data: Some(data),
        ..Default::default()
    }
}

fn histogram(
    series: &Series,
    read: &Distribution,
    began: u64,
    now: u64,
) -> wire::HistogramDataPoint {
    wire::HistogramDataPoint {
        attributes: attributes(series),
        start_time_unix_nano: began,
        time_unix_nano: now,
        count: read.count(),
        sum: Some(read.seconds()),
        bucket_counts: read.buckets.to_vec(),
        explicit_bounds: BOUNDS_SECONDS.to_vec(),
        ..Default::default()
    }
}

/// OTel's own name and unit where it has one; ours otherwise, in a form from which a collector makes
/// the Prometheus name again.
fn otel_name(name: &str) -> (String, &'static str) {
    let own = match name {
        "http_server_request_duration_seconds" => Some(("http.server.request.duration", "s")),
        "http_server_active_requests" => Some(("http.server.active_requests", "{request}")),
        "http_client_request_duration_seconds" => Some(("http.client.request.duration", "s")),
        "db_client_operation_duration_seconds" => Some(("db.client.operation.duration", "s")),
        "db_client_connection_count" => Some(("db.client.connection.count", "{connection}")),
        "db_client_connection_max" => Some(("db.client.connection.max", "{connection}")),
        _ => None,
    };
    if let Some((name, unit)) = own {
        return (name.to_owned(), unit);
    }
    let name = name.strip_suffix("_total").unwrap_or(name);
    let unit = match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    };
    (name.replacen('_', ".", 1), unit)
}

fn attributes(series: &Series) -> Vec<proto::KeyValue> {
    series
        .labels
        .iter()
        .map(|(name, value)| {
            let name = match *name {
                "http_route" => "http.route",
                "http_request_method" => "http.request.method",
                "http_response_status_code" => "http.response.status_code",
                "error_type" => "error.type",
                "db_operation_name" => "db.operation.name",
                name => name,
            };
            match value.parse::<i64>() {
                Ok(status) if name == "http.response.status_code" => {
                    any(name, proto::any_value::Value::IntValue(status))
                }
                _ => attribute(name, value.clone().into_owned()),
            }
        })
        .collect()
}

fn attribute(name: &str, value: String) -> proto::KeyValue {
    any(name, proto::any_value::Value::StringValue(value))
}

fn any(name: &str, value: proto::any_value::Value) -> proto::KeyValue {
    proto::KeyValue {
        key: name.to_owned(),
        value: Some(proto::AnyValue { value: Some(value) }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::{Outcome, Reason};
    use crate::telemetry::metrics::{Finished, Source};
    use http::{HeaderMap, Method, StatusCode};
    use http_body_util::{BodyExt, Full};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use tokio::sync::mpsc;

    /// Takes whatever is posted and hands it on; answers 200.
    async fn collector() -> (String, mpsc::UnboundedReceiver<(String, HeaderMap, Bytes)>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                let service =
                    hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                        let sender = sender.clone();
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.unwrap().to_bytes();
                            let _ = sender.send((head.uri.path().to_owned(), head.headers, body));
                            Ok::<_, std::convert::Infallible>(Response::new(
                                Full::<Bytes>::default(),
                            ))
                        }
                    });
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service),
                );
            }
        });
        (url, receiver)
    }

    fn start(variables: &[(&str, &str)], metrics: &Arc<Metrics>) -> Otlp {
        let env = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Otlp::start(&env, metrics, &Clock::system(), &Handle::current())
    }

    async fn shutdown(otlp: Otlp, bound: Duration) -> Duration {
        let began = Instant::now();
        tokio::task::spawn_blocking(move || otlp.shutdown(bound))
            .await
            .unwrap();
        began.elapsed()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn spans_and_metrics_reach_the_collector_when_larder_stops() {
        let (url, mut received) = collector().await;
        let metrics = Metrics::new(1);
        let otlp = start(
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
                ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b"),
                ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
            ],
            &metrics,
        );
        let route = metrics.route("fleet", "/api/fleet");
        metrics.recorder(0).request(
            &route,
            &Finished {
                method: &Method::GET,
                status: StatusCode::OK,
                outcome: Outcome::Miss,
                reason: Reason::Cold,
                duration: Duration::from_millis(3),
                source: Source::Upstream,
                coalesced: false,
            },
        );
        let mut headers = HeaderMap::new();
        let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", caller.parse().unwrap());
        let traces = otlp.traces();
        let context = traces.context(&headers);
        let mut span = traces.request(&context, &Method::GET, "/api/fleet");
        drop(span.child("lookup"));
        let mut fetch = span.child("fetch");
        fetch.fail("timeout");
        drop(fetch);
        span.route(&Method::GET, "/api/fleet");
        span.status(StatusCode::OK);
        drop(span);
        shutdown(otlp, Duration::from_secs(5)).await;

        let mut spans = Vec::new();
        let mut families = Vec::new();
        while let Ok((path, headers, body)) = received.try_recv() {
            assert_eq!(headers["x-key"], "a b");
            match path.as_str() {
                "/v1/traces" => {
                    let message = ExportTraceServiceRequest::decode(body).unwrap();
                    for resource in message.resource_spans {
                        let names = resource.resource.unwrap().attributes;
                        assert!(
                            names
                                .iter()
                                .any(|name| name.key == "deployment.environment")
                        );
                        for scope in resource.scope_spans {
                            spans.extend(scope.spans);
                        }
                    }
                }
                "/v1/metrics" => {
                    let message = ExportMetricsServiceRequest::decode(body).unwrap();
                    families.extend(message.resource_metrics[0].scope_metrics[0].metrics.clone());
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!(spans.len(), 3);
        let server = spans
            .iter()
            .find(|span| span.name == "GET /api/fleet")
            .unwrap();
        assert_eq!(server.trace_id, context.trace_id.to_be_bytes());
        assert_eq!(server.span_id, context.span_id.to_be_bytes());
        assert_eq!(server.parent_span_id, context.parent_id.to_be_bytes());
        for child in spans.iter().filter(|span| span.name != server.name) {
            assert_eq!(child.parent_span_id, server.span_id);
            assert_eq!(child.trace_id, server.trace_id);
        }
        let duration = families
            .iter()
            .find(|family| family.name == "http.server.request.duration")
            .unwrap();
        let Some(wire::metric::Data::Histogram(histogram)) = &duration.data else {
            panic!("{duration:?}");
        };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (1, Some(0.003)));
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_hangs_costs_nothing_and_does_not_hold_up_the_end() {
        // It listens and never answers.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let metrics = Metrics::new(1);
        let otlp = start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)], &metrics);
        let traces = otlp.traces();
        let began = Instant::now();
        for _ in 0..10_000 {
            let context = traces.context(&HeaderMap::new());
            let span = traces.request(&context, &Method::GET, "/");
            drop(span.child("lookup"));
        }
        let each = began.elapsed() / 10_000;
        assert!(each < Duration::from_millis(10), "{each:?}");
        let took = shutdown(otlp, Duration::from_millis(300)).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
    }

    #[tokio::test]
    async fn without_an_endpoint_nothing_is_started() {
        let metrics = Metrics::new(1);
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "  ")],
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"),
                ("OTEL_SDK_DISABLED", "true"),
            ],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317")],
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ],
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"),
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_METRICS_EXPORTER", "none"),
            ],
        ] {
            let otlp = start(variables, &metrics);
            assert!(!otlp.is_on(), "{variables:?}");
        }
    }

    #[test]
    fn the_service_name_has_three_sources() {
        let name = |variables: &[(&str, &str)]| {
            let env = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let attributes = resource(&env);
            let mut names = attributes.iter().filter(|(name, _)| name == "service.name");
            names.next().unwrap().1.clone()
        };
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,broken");
        assert_eq!(name(&[]), "larder");
        assert_eq!(name(&[attributes]), "a");
        assert_eq!(name(&[attributes, ("OTEL_SERVICE_NAME", "b")]), "b");
    }

    #[test]
    fn a_collector_makes_the_prometheus_names_again() {
        for row in crate::telemetry::metrics::TABLE {
            let (name, unit) = otel_name(row.name);
            let mut prometheus = name.replace('.', "_");
            let suffix = match unit {
                "s" => "_seconds",
                "By" => "_bytes",
                _ => "",
            };
            if !prometheus.ends_with(suffix) {
                prometheus.push_str(suffix);
            }
            if row.kind == Kind::Counter {
                prometheus.push_str("_total");
            }
            assert_eq!(prometheus, row.name);
        }
    }
}
