//! The one table of metrics, counted a worker each, read out as Prometheus text and over OTLP.

use crate::semantics::{Outcome, Reason};
use http::{Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;

/// Every metric of this process.
#[derive(Debug)]
pub struct Metrics {}

/// A route's place in the table; found once when a configuration is taken up, used on every request.
/// Keeps its counts over reloads as long as the route keeps its name.
#[derive(Clone, Debug)]
pub struct RouteHandle {}

/// What one worker counts with. Cheap to clone; never shared between threads on the hot path.
#[derive(Clone, Debug)]
pub struct Recorder {}

/// Where an answer's bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The memory tier.
    Memory,
    /// The Redis tier.
    Redis,
    /// The app.
    Upstream,
    /// Made here (errors, refusals).
    Larder,
}

/// One finished request.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The status sent.
    pub status: StatusCode,
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// From the head's arrival to the head of the answer.
    pub duration: Duration,
    /// Where its content came from.
    pub source: Source,
    /// Whether it waited for another request's fetch.
    pub coalesced: bool,
}

/// How one call of the app ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamResult {
    /// With this status.
    Status(StatusCode),
    /// With this OTel `error.type`: `connect`, `timeout`, `reset`, `protocol`, `tls`, `overload`.
    Error(&'static str),
}

impl Metrics {
    /// An empty table for `workers` workers and the background.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        let _ = workers;
        unimplemented!()
    }

    /// The counters of worker `worker` (0-based; `workers` itself is the background's).
    #[must_use]
    pub fn recorder(self: &Arc<Self>, worker: usize) -> Recorder {
        let _ = worker;
        unimplemented!()
    }

    /// The handle of the route `name` with path `path` (the `http.route`).
    #[must_use]
    pub fn route(&self, name: &str, path: &str) -> RouteHandle {
        let _ = (name, path);
        unimplemented!()
    }

    /// Prometheus text exposition format 0.0.4.
    #[must_use]
    pub fn prometheus(&self) -> String {
        unimplemented!()
    }
}

impl Recorder {
    /// A request began (`http_server_active_requests`); dropped when it has ended.
    #[must_use]
    pub fn active(&self) -> ActiveGuard {
        ActiveGuard {}
    }
    /// A request was answered.
    pub fn request(&self, route: &RouteHandle, finished: &Finished<'_>) {
        let _ = (route, finished);
    }
    /// Bytes of content that left for a client.
    pub fn bytes(&self, route: &RouteHandle, source: Source, bytes: u64) {
        let _ = (route, source, bytes);
    }
    /// The app was asked.
    pub fn upstream(&self, route: &RouteHandle, result: UpstreamResult, duration: Duration) {
        let _ = (route, result, duration);
    }
    /// A response was stored, or refused for this reason.
    pub fn store(&self, route: &RouteHandle, refused: Option<Reason>) {
        let _ = (route, refused);
    }
    /// App time that a hit spared.
    pub fn saved(&self, route: &RouteHandle, app_time: Duration) {
        let _ = (route, app_time);
    }
    /// Requests waiting for another's fetch right now: +1 or −1.
    pub fn coalescing(&self, change: i64) {
        let _ = change;
    }
    /// A limit decided: `allowed`, `near`, `limited` or `shadow`.
    pub fn limit(&self, limit: &str, decision: &'static str) {
        let _ = (limit, decision);
    }
    /// A command to Redis; `error` is the outage's kind.
    pub fn redis(&self, operation: &'static str, error: Option<&'static str>, duration: Duration) {
        let _ = (operation, error, duration);
    }
    /// A purge was carried out: `tag`, `url`, `prefix`, `all`.
    pub fn purge(&self, kind: &'static str, soft: bool) {
        let _ = (kind, soft);
    }
    /// Something was refused at the door: `larder_client_errors_total{reason}`.
    pub fn client_error(&self, reason: &'static str) {
        let _ = reason;
    }
}

/// Counts a request as active while it lives.
#[derive(Debug)]
pub struct ActiveGuard {}
