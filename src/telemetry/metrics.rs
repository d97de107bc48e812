//! The one table of metrics, counted a worker each, read out as Prometheus text and over OTLP.
//!
//! A worker adds to its own counters only: no lock, no allocation and no cache line shared with
//! another worker, once a series has been seen. Reading adds the workers up. Nothing here ever holds
//! a URL, a user or an address as a label.

mod table;
mod text;

pub use table::{Kind, Row, TABLE, reference};

use super::slots::{Slots, hash};
use crate::semantics::{Outcome, Reason, Timestamp};
use http::{Method, StatusCode};
use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Routes with series of their own; further ones share the route `other`.
pub const ROUTES_MAX: usize = 1_024;
/// Bytes of a label's value; longer ones are cut.
pub const LABEL_BYTES_MAX: usize = 128;
/// (method, status) pairs of one route on one worker; further ones count as `other`.
const STATUSES_MAX: usize = 32;
/// (name, word) pairs of one family on one worker; further ones count as `other`.
const NAMES_MAX: usize = 256;
/// Bounds of every histogram, in seconds: OTel's advice and, below it, what a cache needs.
pub const BOUNDS_SECONDS: [f64; 19] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0,
];
/// The same in nanoseconds, so that recording needs no floating point.
const BOUNDS_NANOS: [u64; 19] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];
/// One more than the bounds: the last bucket has none.
pub const BUCKETS: usize = BOUNDS_SECONDS.len() + 1;

const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::CONNECT,
    Method::TRACE,
];
/// OTel's word for a method that is not one of the known ones.
const METHOD_OTHER: &str = "_OTHER";
const OTHER: &str = "other";
/// Arm and outcome in one word, by outcome.
const CONTROL: [&str; OUTCOMES] = [
    "control hit",
    "control stale",
    "control revalidated",
    "control miss",
    "control bypass",
    "control refused",
];
/// The same of the arm that is tried out.
const TRIAL: [&str; OUTCOMES] = [
    "trial hit",
    "trial stale",
    "trial revalidated",
    "trial miss",
    "trial bypass",
    "trial refused",
];
const OUTCOMES: usize = Outcome::ALL.len();
const REASONS: usize = Reason::ALL.len();

/// Every metric of this process.
pub struct Metrics {
    workers: Box<[Arc<Worker>]>,
    routes: Mutex<Vec<RouteLabels>>,
    watchers: Mutex<Vec<Watcher>>,
    reloads: Reloads,
}

type Watcher = Box<dyn Fn(&mut Gauges) + Send + Sync>;

/// A route's place in the table; found once when a configuration is taken up, used on every request.
/// Keeps its counts over reloads as long as the route keeps its name.
#[derive(Clone, Debug)]
pub struct RouteHandle {
    index: usize,
    path: Arc<str>,
}

/// What one worker counts with. Cheap to clone; never shared between threads on the hot path.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Worker>);

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

impl Source {
    const ALL: [Self; 4] = [Self::Memory, Self::Redis, Self::Upstream, Self::Larder];

    const fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Upstream => "upstream",
            Self::Larder => "larder",
        }
    }
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

/// What other rooms know and the table only shows; `None` leaves a series out.
///
/// Filled anew at every reading by the closures given to [`Metrics::watch`].
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Bytes in the memory tier.
    pub memory_bytes: Option<u64>,
    /// Most bytes of the memory tier.
    pub memory_limit_bytes: Option<u64>,
    /// Entries in the memory tier.
    pub memory_objects: Option<u64>,
    /// Entries the memory tier gave up, by reason (`size`, `expired` …), since the start.
    pub memory_evictions: Vec<(&'static str, u64)>,
    /// Values in Redis that could not be read, by reason.
    pub cache_unreadable: Vec<(&'static str, u64)>,
    /// Responses that were asked for and found to be purged, by tier.
    pub purged_objects: Vec<(&'static str, u64)>,
    /// Entries of `purge.stream` that are not carried out yet.
    pub purge_stream_lag: Option<u64>,
    /// Whether the purge log is followed: without it nothing that Redis holds is trusted.
    pub purge_log_followed: Option<bool>,
    /// Purges that the other sidecars have not been told of yet.
    pub purges_queued: Option<u64>,
    /// Since when it is not known here what other sidecars have purged.
    pub cut_off_since: Option<Timestamp>,
    /// Whether limits are counted here because Redis is away.
    pub limit_local_fallback: Option<bool>,
    /// The Redis of the cache, if one is configured.
    pub redis: Option<RedisGauges>,
    /// Whether the app answered when last asked.
    pub upstream_up: Option<bool>,
    /// The bound on requests that the app has at a time, and how many it has.
    pub upstream_load: Option<(u32, u32)>,
    /// Predictions that came true, those that did not, and the share that does lately.
    pub predictions: Option<(u64, u64, f32)>,
    /// Whether caching is switched off.
    pub bypass: Option<bool>,
    /// Whether the process is about to stop.
    pub draining: Option<bool>,
    /// What audits have found, by route.
    pub audits: Vec<AuditGauges>,
    /// What the store would have answered on routes in the shadow.
    pub shadows: Vec<AuditGauges>,
    /// Routes that are quarantined.
    pub quarantined: Vec<String>,
    /// Alarms raised, and how many of them could not be handed on.
    pub alarms: (u64, u64),
}

/// What audits have found on one route.
#[derive(Clone, Debug, Default)]
pub struct AuditGauges {
    /// Its name.
    pub route: String,
    /// How often each was found, by its word.
    pub found: Vec<(&'static str, u64)>,
}

impl AuditGauges {
    /// Adds so many of a kind.
    pub fn add(&mut self, word: &'static str, count: u64) {
        match self.found.iter_mut().find(|(known, _)| *known == word) {
            Some((_, sum)) => *sum += count,
            None => self.found.push((word, count)),
        }
    }
}

/// How the connections to Redis stand, over all workers.
#[derive(Clone, Debug, Default)]
pub struct RedisGauges {
    /// Whether commands are answered now.
    pub up: bool,
    /// `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    /// Connections open.
    pub connections: u32,
    /// Of them, how many have commands under way.
    pub connections_used: u32,
    /// Most connections.
    pub connections_max: u32,
    /// How long ago the password that the connections were greeted with was last changed.
    pub credentials_age: Option<Duration>,
    /// Commands under way.
    pub waiting: u32,
    /// Most commands under way.
    pub waiting_max: u32,
    /// What else is known of it, each by the name of its metric.
    pub facts: Vec<(&'static str, f64)>,
    /// `Redis` or `Valkey`, and its version.
    pub server: Option<(&'static str, String)>,
}

/// Sums over everything since the start, for health pages and summary lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests by outcome, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; OUTCOMES],
    /// Answers with a 5xx status.
    pub errors: u64,
    /// Requests that waited for another's fetch.
    pub coalesced: u64,
    /// Nanoseconds of app time that hits spared.
    pub saved_nanos: u64,
    /// Requests in progress.
    pub active: u64,
    /// Decisions of limits: allowed (near ones included) and limited.
    pub limits_allowed: u64,
    /// Requests that a limit refused.
    pub limits_refused: u64,
}

impl Totals {
    /// Every request.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Requests answered from the store: hit, stale and revalidated.
    #[must_use]
    pub fn hits(&self) -> u64 {
        [Outcome::Hit, Outcome::Stale, Outcome::Revalidated]
            .iter()
            .map(|outcome| self.outcomes[outcome.index()])
            .sum()
    }

    /// Requests looked up and fetched.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.outcomes[Outcome::Miss.index()]
    }

    /// Hits as a share of hits and misses, 0.0 to 1.0; zero before the first.
    #[must_use]
    pub fn hit_ratio(&self) -> f64 {
        let looked_up = self.hits() + self.misses();
        if looked_up == 0 {
            return 0.0;
        }
        self.hits() as f64 / looked_up as f64
    }
}

/// A metric with its series, as read out: what both exporters write.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its row in the table.
    pub row: &'static Row,
    /// Its series; never empty.
    pub series: Vec<Series>,
}

/// One series. Labels in the order of the row; those without a value are left out.
#[derive(Clone, Debug)]
pub struct Series {
    /// Names and values.
    pub labels: Vec<(&'static str, Cow<'static, str>)>,
    /// The number or numbers.
    pub value: Value,
}

/// What a series holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A counter or gauge.
    Number(f64),
    /// A histogram.
    Histogram(Distribution),
}

/// A histogram as read: not cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Observations in each bucket.
    pub buckets: [u64; BUCKETS],
    /// Sum of the observations, nanoseconds.
    pub nanos: u64,
}

impl Distribution {
    /// Observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Sum of the observations.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.nanos as f64 / 1e9
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.nanos = self.nanos.wrapping_add(other.nanos);
    }
}

impl Metrics {
    /// An empty table for `workers` workers and the background.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers: (0..=workers).map(|_| Arc::new(Worker::new())).collect(),
            routes: Mutex::default(),
            watchers: Mutex::default(),
            reloads: Reloads::default(),
        })
    }

    /// The counters of worker `worker` (0-based; `workers` itself is the background's, as is every
    /// number above it).
    #[must_use]
    pub fn recorder(self: &Arc<Self>, worker: usize) -> Recorder {
        let last = self.workers.len() - 1;
        Recorder(Arc::clone(&self.workers[worker.min(last)]))
    }

    /// The handle of the route `name` with path `path` (the `http.route`).
    ///
    /// A name seen before gives the same place, so counts live on over reloads; a changed path
    /// relabels them. At most [`ROUTES_MAX`] routes have a place of their own.
    #[must_use]
    pub fn route(&self, name: &str, path: &str) -> RouteHandle {
        let (name, path) = (cut(name), cut(path));
        let mut routes = locked(&self.routes);
        if let Some(index) = routes.iter().position(|route| *route.name == *name) {
            if *routes[index].path != *path {
                routes[index].path = path.into();
            }
            let path = path.into();
            return RouteHandle { index, path };
        }
        let index = routes.len();
        let path: Arc<str> = path.into();
        // The last place belongs to all that come too late; they keep their own path in the log.
        if index < ROUTES_MAX {
            routes.push(RouteLabels {
                name: name.into(),
                path: Arc::clone(&path),
            });
        }
        RouteHandle { index, path }
    }

    /// Asks `watcher` at every reading for what lives in other rooms. It must not wait.
    pub fn watch(&self, watcher: impl Fn(&mut Gauges) + Send + Sync + 'static) {
        locked(&self.watchers).push(Box::new(watcher));
    }

    /// What the watchers say now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let mut gauges = Gauges::default();
        for watcher in locked(&self.watchers).iter() {
            watcher(&mut gauges);
        }
        gauges
    }

    /// A configuration was taken up (`Ok`, the first one included), or refused and the old one kept.
    pub fn config_loaded(&self, outcome: Result<(), ()>, now: Timestamp) {
        let reloads = &self.reloads;
        reloads
            .last_failed
            .store(u64::from(outcome.is_err()), Relaxed);
        match outcome {
            Ok(()) => {
                reloads.succeeded.fetch_add(1, Relaxed);
                reloads.last_success_millis.store(now.as_millis(), Relaxed);
            }
            Err(()) => {
                reloads.failed.fetch_add(1, Relaxed);
            }
        }
    }

    /// Whether the last configuration that was given was refused, and the one before is in force.
    #[must_use]
    pub fn last_reload_failed(&self) -> bool {
        self.reloads.last_failed.load(Relaxed) != 0
    }

    /// Prometheus text exposition format 0.0.4.
    #[must_use]
    pub fn prometheus(&self) -> String {
        text::write(&self.read())
    }

    /// Sums over every worker and route.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for worker in &self.workers {
            for block in worker.routes.iter().filter_map(OnceLock::get) {
                for (sum, durations) in totals.outcomes.iter_mut().zip(&block.durations) {
                    *sum += durations.read().count();
                }
                for ((_, status), durations) in block.server.iter() {
                    if *status >= 500 {
                        totals.errors += durations.read().count();
                    }
                }
                totals.coalesced += block.coalesced.load(Relaxed);
                totals.saved_nanos += block.saved_nanos.load(Relaxed);
            }
            for (names, count) in worker.limits.iter() {
                match &*names.1 {
                    "limited" => totals.limits_refused += count.load(Relaxed),
                    _ => totals.limits_allowed += count.load(Relaxed),
                }
            }
        }
        totals.active = self.sum(|worker| &worker.active);
        totals
    }

    /// Every family that has at least one series, in the order of [`TABLE`].
    #[must_use]
    pub fn read(&self) -> Vec<Family> {
        let mut out = Readout::default();
        self.read_routes(&mut out);
        self.read_workers(&mut out);
        read_gauges(&self.gauges(), &mut out);
        self.reloads.read(&mut out);
        table::process(&mut |name, value| out.number(name, &[], value));
        out.number(
            "larder_build_info",
            &[
                env!("CARGO_PKG_VERSION"),
                option_env!("LARDER_REVISION").unwrap_or("unknown"),
            ],
            1.0,
        );
        out.families()
    }

    fn read_routes(&self, out: &mut Readout) {
        let mut labels: Vec<RouteLabels> = locked(&self.routes).clone();
        labels.resize(ROUTES_MAX, RouteLabels::default());
        labels.push(RouteLabels {
            name: OTHER.into(),
            path: OTHER.into(),
        });
        for worker in &self.workers {
            for (block, route) in worker.routes.iter().zip(&labels) {
                if let Some(block) = block.get() {
                    block.read(route, out);
                }
            }
        }
    }

    fn read_workers(&self, out: &mut Readout) {
        out.number(
            "http_server_active_requests",
            &[],
            self.sum(|worker| &worker.active) as f64,
        );
        out.number(
            "larder_cache_coalescing",
            &[],
            self.sum(|worker| &worker.coalescing) as f64,
        );
        for worker in &self.workers {
            for (family, slots) in [
                ("larder_cache_purges_total", &worker.purges),
                ("larder_purge_requests_total", &worker.purge_requests),
                ("larder_purge_notices_total", &worker.purge_notices),
                ("larder_limit_decisions_total", &worker.limits),
                (
                    "larder_redis_breaker_transitions_total",
                    &worker.transitions,
                ),
                ("larder_client_errors_total", &worker.client_errors),
                ("larder_cache_leases_total", &worker.leases),
                ("larder_warm_requests_total", &worker.warmed),
            ] {
                for ((first, second), count) in slots.iter() {
                    out.count(family, &[first, second], count);
                }
            }
            for ((route, words), count) in worker.tried.iter() {
                if let Some((arm, outcome)) = words.split_once(' ') {
                    let labels = [&**route, arm, outcome];
                    out.count("larder_experiment_requests_total", &labels, count);
                }
            }
            out.histogram(
                "larder_purge_visible_seconds",
                &[],
                &worker.purge_visible.read(),
            );
            for ((operation, error), durations) in worker.redis.iter() {
                out.histogram(
                    "db_client_operation_duration_seconds",
                    &[operation, error],
                    &durations.read(),
                );
            }
        }
    }

    /// A guard may be dropped on another worker than it was made on, so single workers may be
    /// below zero; the sum is not.
    fn sum(&self, of: impl Fn(&Worker) -> &AtomicI64) -> u64 {
        let sum: i64 = self
            .workers
            .iter()
            .map(|worker| of(worker).load(Relaxed))
            .sum();
        u64::try_from(sum).unwrap_or(0)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl RouteHandle {
    /// The route's path, as logs and spans name it (`http.route`).
    #[must_use]
    pub const fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Its place, below or at [`ROUTES_MAX`].
    pub(super) const fn index(&self) -> usize {
        self.index
    }
}

impl Recorder {
    /// A request began (`http_server_active_requests`); dropped when it has ended.
    #[must_use]
    pub fn active(&self) -> ActiveGuard {
        self.0.active.fetch_add(1, Relaxed);
        ActiveGuard(Arc::clone(&self.0))
    }

    /// A request was answered.
    pub fn request(&self, route: &RouteHandle, finished: &Finished<'_>) {
        let block = self.0.block(route);
        let nanos = nanos(finished.duration);
        let bucket = bucket(nanos);
        block.durations[finished.outcome.index()].add(bucket, nanos);
        block.reasons[finished.outcome.index()][finished.reason.index()].fetch_add(1, Relaxed);
        let key = (method_index(finished.method), finished.status.as_u16());
        block
            .server
            .find(
                u64::from(key.0) * 31 + u64::from(key.1),
                |known| *known == key,
                || key,
            )
            .add(bucket, nanos);
        if finished.coalesced {
            block.coalesced.fetch_add(1, Relaxed);
        }
    }

    /// Many wait for one key of this route.
    pub fn stampede(&self, route: &RouteHandle) {
        self.0.block(route).stampedes.fetch_add(1, Relaxed);
    }

    /// The app was asked.
    pub fn upstream(&self, route: &RouteHandle, result: UpstreamResult, duration: Duration) {
        let key = match result {
            UpstreamResult::Status(status) => (status.as_u16(), ""),
            UpstreamResult::Error(error) => (0, error),
        };
        let nanos = nanos(duration);
        self.0
            .block(route)
            .client
            .find(
                u64::from(key.0) ^ hash(&[key.1]),
                |known| *known == key,
                || key,
            )
            .add(bucket(nanos), nanos);
    }

    /// A response was stored, or refused for this reason.
    pub fn store(&self, route: &RouteHandle, refused: Option<Reason>) {
        let block = self.0.block(route);
        match refused {
            None => &block.stored,
            Some(reason) => &block.refused[reason.index()],
        }
        .fetch_add(1, Relaxed);
    }

    /// App time that a hit spared.
    pub fn saved(&self, route: &RouteHandle, app_time: Duration) {
        self.0
            .block(route)
            .saved_nanos
            .fetch_add(nanos(app_time), Relaxed);
    }

    /// Requests waiting for another's fetch right now: +1 or −1.
    pub fn coalescing(&self, change: i64) {
        self.0.coalescing.fetch_add(change, Relaxed);
    }

    /// What came of asking for the lease of a fetch: `led`, `found`, `apart`, `took_over`, `lost`, `timed_out` or
    /// `unavailable`.
    pub fn lease(&self, outcome: &'static str) {
        count(&self.0.leases, outcome, "");
    }

    /// A limit decided: `allowed`, `near`, `limited` or `shadow`.
    pub fn limit(&self, limit: &str, decision: &'static str) {
        count(&self.0.limits, limit, decision);
    }

    /// A command to Redis; `error` is the outage's kind.
    pub fn redis(&self, operation: &'static str, error: Option<&'static str>, duration: Duration) {
        let nanos = nanos(duration);
        find(&self.0.redis, operation, error.unwrap_or("")).add(bucket(nanos), nanos);
    }

    /// The breaker of Redis changed to `closed`, `open` or `half_open`.
    pub fn breaker(&self, to: &'static str) {
        count(&self.0.transitions, to, "");
    }

    /// A purge was carried out: `tag`, `url`, `prefix`, `all`.
    pub fn purge(&self, kind: &'static str, soft: bool) {
        count(&self.0.purges, kind, if soft { "true" } else { "false" });
    }

    /// Purges were asked for by this way (`api`, `webhook` …), and this became of it: `logged`, `queued`,
    /// `local`, or why not.
    pub fn purge_asked(&self, way: &'static str, outcome: &'static str) {
        count(&self.0.purge_requests, way, outcome);
    }

    /// A request on a route with an experiment was answered: `larder_experiment_requests_total`.
    pub fn tried(&self, route: &str, is_trial: bool, outcome: Outcome) {
        let words = if is_trial { &TRIAL } else { &CONTROL };
        count(&self.0.tried, route, words[outcome.index()]);
    }

    /// Another sidecar's purge is obeyed here, so long after it was made.
    pub fn purge_visible(&self, delay: Duration) {
        let nanos = nanos(delay);
        self.0.purge_visible.add(bucket(nanos), nanos);
    }

    /// Others were to be told of a purge: `sent`, `failed` (to be tried again) or `dropped`.
    pub fn purge_told(&self, outcome: &'static str) {
        count(&self.0.purge_notices, outcome, "");
    }

    /// Something was refused at the door: `larder_client_errors_total{reason}`.
    pub fn client_error(&self, reason: &'static str) {
        count(&self.0.client_errors, reason, "");
    }

    /// A page was asked for on nobody's behalf: `fresh`, `stored`, `not_stored` or `failed`.
    pub fn warmed(&self, outcome: &'static str) {
        count(&self.0.warmed, outcome, "");
    }
}

/// Counts a request as active while it lives.
#[derive(Debug)]
pub struct ActiveGuard(Arc<Worker>);

impl ActiveGuard {
    /// Bytes of this request's content that left for the client.
    pub fn bytes(&self, route: &RouteHandle, source: Source, bytes: u64) {
        self.0.block(route).bytes[source as usize].fetch_add(bytes, Relaxed);
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// The counters of one worker. Aligned so that two workers never share a cache line (a pair of
/// lines: the prefetcher fetches two).
#[derive(Debug)]
#[repr(align(128))]
struct Worker {
    routes: Box<[OnceLock<Box<Block>>]>,
    active: AtomicI64,
    coalescing: AtomicI64,
    purges: Named<AtomicU64>,
    purge_requests: Named<AtomicU64>,
    purge_visible: Histogram,
    purge_notices: Named<AtomicU64>,
    limits: Named<AtomicU64>,
    transitions: Named<AtomicU64>,
    client_errors: Named<AtomicU64>,
    leases: Named<AtomicU64>,
    warmed: Named<AtomicU64>,
    /// By route, and arm and outcome.
    tried: Named<AtomicU64>,
    redis: Named<Histogram>,
}

type Named<V> = Slots<(Box<str>, Box<str>), V, NAMES_MAX>;

impl Worker {
    fn new() -> Self {
        Self {
            routes: (0..=ROUTES_MAX).map(|_| OnceLock::new()).collect(),
            active: AtomicI64::new(0),
            coalescing: AtomicI64::new(0),
            purges: Slots::new((OTHER.into(), OTHER.into())),
            purge_requests: Slots::new((OTHER.into(), OTHER.into())),
            purge_visible: Histogram::default(),
            purge_notices: Slots::new((OTHER.into(), "".into())),
            limits: Slots::new((OTHER.into(), OTHER.into())),
            transitions: Slots::new((OTHER.into(), "".into())),
            client_errors: Slots::new((OTHER.into(), "".into())),
            leases: Slots::new((OTHER.into(), "".into())),
            warmed: Slots::new((OTHER.into(), "".into())),
            tried: Slots::new((OTHER.into(), "control other".into())),
            redis: Slots::new((OTHER.into(), OTHER.into())),
        }
    }

    /// The route's block, made on its first request to this worker.
    fn block(&self, route: &RouteHandle) -> &Block {
        self.routes[route.index.min(ROUTES_MAX)].get_or_init(|| Box::new(Block::new()))
    }
}

/// One route on one worker (about 4 KiB).
#[derive(Debug)]
#[repr(align(128))]
struct Block {
    durations: [Histogram; OUTCOMES],
    reasons: [[AtomicU64; REASONS]; OUTCOMES],
    /// By position in `METHODS` and status.
    server: Slots<(u8, u16), Histogram, STATUSES_MAX>,
    /// By status, or 0 and the error's word.
    client: Slots<(u16, &'static str), Histogram, STATUSES_MAX>,
    stored: AtomicU64,
    refused: [AtomicU64; REASONS],
    coalesced: AtomicU64,
    stampedes: AtomicU64,
    bytes: [AtomicU64; Source::ALL.len()],
    saved_nanos: AtomicU64,
}

impl Block {
    fn new() -> Self {
        Self {
            durations: std::array::from_fn(|_| Histogram::default()),
            reasons: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            server: Slots::new((METHODS.len() as u8, 0)),
            client: Slots::new((0, OTHER)),
            stored: AtomicU64::new(0),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            coalesced: AtomicU64::new(0),
            stampedes: AtomicU64::new(0),
            bytes: std::array::from_fn(|_| AtomicU64::new(0)),
            saved_nanos: AtomicU64::new(0),
        }
    }

    fn read(&self, route: &RouteLabels, out: &mut Readout) {
        let (name, path) = (&*route.name, &*route.path);
        for outcome in Outcome::ALL {
            out.histogram(
                "larder_request_duration_seconds",
                &[name, outcome.word()],
                &self.durations[outcome.index()].read(),
            );
            for reason in Reason::ALL {
                out.count(
                    "larder_cache_requests_total",
                    &[name, outcome.word(), reason.word()],
                    &self.reasons[outcome.index()][reason.index()],
                );
            }
        }
        for ((method, status), durations) in self.server.iter() {
            let method = METHODS
                .get(usize::from(*method))
                .map_or(METHOD_OTHER, Method::as_str);
            out.histogram(
                "http_server_request_duration_seconds",
                &[path, method, &status_word(*status, OTHER)],
                &durations.read(),
            );
        }
        for ((status, error), durations) in self.client.iter() {
            // OTel: a client span's error.type is the status where the status is the error.
            let status = status_word(*status, "");
            let failed = status.as_bytes().first() >= Some(&b'4');
            let error = if failed { &status } else { *error };
            out.histogram(
                "http_client_request_duration_seconds",
                &[path, &status, error],
                &durations.read(),
            );
        }
        out.count("larder_cache_stores_total", &[name, "stored"], &self.stored);
        for reason in Reason::ALL {
            out.count(
                "larder_cache_stores_total",
                &[name, "refused", reason.word()],
                &self.refused[reason.index()],
            );
        }
        out.count("larder_cache_coalesced_total", &[name], &self.coalesced);
        out.count("larder_cache_stampedes_total", &[name], &self.stampedes);
        for source in Source::ALL {
            out.count(
                "larder_cache_bytes_total",
                &[name, source.word()],
                &self.bytes[source as usize],
            );
        }
        let saved = self.saved_nanos.load(Relaxed);
        if saved > 0 {
            out.number(
                "larder_cache_saved_seconds_total",
                &[name],
                saved as f64 / 1e9,
            );
        }
    }
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl Histogram {
    fn add(&self, bucket: usize, nanos: u64) {
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    fn read(&self) -> Distribution {
        Distribution {
            buckets: std::array::from_fn(|index| self.buckets[index].load(Relaxed)),
            nanos: self.nanos.load(Relaxed),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct RouteLabels {
    name: Arc<str>,
    path: Arc<str>,
}

#[derive(Debug, Default)]
struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
    last_failed: AtomicU64,
    last_success_millis: AtomicU64,
}

impl Reloads {
    fn read(&self, out: &mut Readout) {
        out.count("larder_config_reloads_total", &["success"], &self.succeeded);
        out.count("larder_config_reloads_total", &["failure"], &self.failed);
        let loaded_at = self.last_success_millis.load(Relaxed);
        if loaded_at > 0 {
            out.number(
                "larder_config_last_reload_successful",
                &[],
                1.0 - self.last_failed.load(Relaxed) as f64,
            );
            out.number(
                "larder_config_last_reload_timestamp_seconds",
                &[],
                loaded_at as f64 / 1e3,
            );
        }
    }
}

/// Series by family, the workers added up.
#[derive(Default)]
struct Readout(std::collections::BTreeMap<(usize, Vec<String>), Value>);

impl Readout {
    fn count(&mut self, family: &'static str, labels: &[&str], count: &AtomicU64) {
        let count = count.load(Relaxed);
        if count > 0 {
            self.number(family, labels, count as f64);
        }
    }

    fn number(&mut self, family: &'static str, labels: &[&str], number: f64) {
        let value = self.series(family, labels, Value::Number(0.0));
        if let Some(Value::Number(sum)) = value {
            *sum += number;
        }
    }

    fn histogram(&mut self, family: &'static str, labels: &[&str], read: &Distribution) {
        if read.count() == 0 {
            return;
        }
        let empty = Value::Histogram(Distribution::default());
        if let Some(Value::Histogram(sum)) = self.series(family, labels, empty) {
            sum.add(read);
        }
    }

    fn series(&mut self, family: &str, labels: &[&str], empty: Value) -> Option<&mut Value> {
        let row = TABLE.iter().position(|row| row.name == family);
        debug_assert!(row.is_some(), "{family} is not in the table");
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Some(self.0.entry((row?, labels)).or_insert(empty))
    }

    fn families(self) -> Vec<Family> {
        let mut families: Vec<Family> = Vec::new();
        for ((row, values), value) in self.0 {
            let row = &TABLE[row];
            let labels = row.labels.iter().copied().zip(values);
            let series = Series {
                labels: labels
                    .filter(|(_, value)| !value.is_empty())
                    .map(|(name, value)| (name, Cow::Owned(value)))
                    .collect(),
                value,
            };
            match families.last_mut() {
                Some(family) if family.row.name == row.name => family.series.push(series),
                _ => families.push(Family {
                    row,
                    series: vec![series],
                }),
            }
        }
        families
    }
}

fn read_gauges(gauges: &Gauges, out: &mut Readout) {
    for (family, number) in [
        ("larder_memory_bytes", gauges.memory_bytes),
        ("larder_memory_limit_bytes", gauges.memory_limit_bytes),
        ("larder_memory_objects", gauges.memory_objects),
        ("larder_purge_stream_lag", gauges.purge_stream_lag),
        (
            "larder_limit_local_fallback",
            gauges.limit_local_fallback.map(u64::from),
        ),
        ("larder_upstream_up", gauges.upstream_up.map(u64::from)),
        (
            "larder_upstream_in_flight",
            gauges.upstream_load.map(|(_, now)| now.into()),
        ),
        (
            "larder_upstream_in_flight_max",
            gauges.upstream_load.map(|(most, _)| most.into()),
        ),
        ("larder_bypass", gauges.bypass.map(u64::from)),
        ("larder_draining", gauges.draining.map(u64::from)),
    ] {
        if let Some(number) = number {
            out.number(family, &[], number as f64);
        }
    }
    if let Some((came_true, failed, precision)) = gauges.predictions {
        for (outcome, count) in [("hit", came_true), ("unused", failed)] {
            out.number("larder_predictions_total", &[outcome], count as f64);
        }
        out.number("larder_prediction_precision_ratio", &[], precision.into());
    }
    for audits in &gauges.audits {
        for (word, count) in audits.found.iter().filter(|(_, count)| *count > 0) {
            let labels = [cut(&audits.route), word];
            out.number("larder_audits_total", &labels, *count as f64);
        }
    }
    for shadow in &gauges.shadows {
        for (word, count) in shadow.found.iter().filter(|(_, count)| *count > 0) {
            let labels = [cut(&shadow.route), word];
            out.number("larder_shadow_requests_total", &labels, *count as f64);
        }
    }
    for route in &gauges.quarantined {
        out.number("larder_route_quarantined", &[cut(route)], 1.0);
    }
    for (outcome, count) in [("raised", gauges.alarms.0), ("dropped", gauges.alarms.1)] {
        if count > 0 {
            out.number("larder_alarms_total", &[outcome], count as f64);
        }
    }
    for (reason, count) in &gauges.cache_unreadable {
        out.number("larder_cache_unreadable_total", &[reason], *count as f64);
    }
    for (tier, count) in &gauges.purged_objects {
        out.number("larder_cache_purged_objects_total", &[tier], *count as f64);
    }
    for (reason, count) in &gauges.memory_evictions {
        out.number("larder_memory_evictions_total", &[reason], *count as f64);
    }
    if let Some(redis) = &gauges.redis {
        out.number("larder_redis_up", &[], f64::from(u8::from(redis.up)));
        for state in ["closed", "open", "half_open"] {
            let now = f64::from(u8::from(redis.breaker == state));
            out.number("larder_redis_breaker_state", &[state], now);
        }
        let idle = redis.connections.saturating_sub(redis.connections_used);
        for (state, connections) in [("used", redis.connections_used), ("idle", idle)] {
            out.number("db_client_connection_count", &[state], connections.into());
        }
        for (family, number) in [
            ("db_client_connection_max", redis.connections_max),
            ("larder_redis_commands_waiting", redis.waiting),
            ("larder_redis_commands_waiting_max", redis.waiting_max),
        ] {
            out.number(family, &[], number.into());
        }
        for (family, number) in &redis.facts {
            out.number(family, &[], *number);
        }
        if let Some((name, version)) = &redis.server {
            out.number("larder_redis_info", &[name, version], 1.0);
        }
        if let Some(age) = redis.credentials_age {
            out.number(
                "larder_redis_credentials_age_seconds",
                &[],
                age.as_secs_f64(),
            );
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The first bucket whose bound is not below `nanos` (`le`).
fn bucket(nanos: u64) -> usize {
    BOUNDS_NANOS.partition_point(|bound| *bound < nanos)
}

fn method_index(method: &Method) -> u8 {
    METHODS
        .iter()
        .position(|known| known == method)
        .unwrap_or(METHODS.len()) as u8
}

/// The place of a pair of words. Names from the configuration are cut as labels are.
fn find<'a, V: Default>(named: &'a Named<V>, first: &str, second: &str) -> &'a V {
    let first = cut(first);
    named.find(
        hash(&[first, second]),
        |(known_first, known_second)| **known_first == *first && **known_second == *second,
        || (first.into(), second.into()),
    )
}

fn count(named: &Named<AtomicU64>, first: &str, second: &str) {
    find(named, first, second).fetch_add(1, Relaxed);
}

fn status_word(status: u16, none: &'static str) -> Cow<'static, str> {
    match status {
        0 => Cow::Borrowed(none),
        status => Cow::Owned(status.to_string()),
    }
}

fn cut(label: &str) -> &str {
    &label[..label.floor_char_boundary(LABEL_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(outcome: Outcome, reason: Reason, status: u16, millis: u64) -> Finished<'static> {
        Finished {
            method: &Method::GET,
            status: StatusCode::from_u16(status).unwrap(),
            outcome,
            reason,
            duration: Duration::from_millis(millis),
            source: Source::Memory,
            coalesced: false,
        }
    }

    /// Reads an exposition back: series (with its labels as written) to value, checking the format.
    fn parse(text: &str) -> std::collections::BTreeMap<String, f64> {
        let mut series = std::collections::BTreeMap::new();
        let mut kinds = std::collections::BTreeMap::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(
                    kinds.insert(name.to_owned(), kind.to_owned()),
                    None,
                    "{name} twice"
                );
            } else if !line.starts_with("# HELP ") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let family = name.split('{').next().unwrap();
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| family.strip_suffix(end))
                    .filter(|base| kinds.get(*base).is_some_and(|kind| kind == "histogram"))
                    .unwrap_or(family);
                assert!(kinds.contains_key(base), "{family} has no TYPE");
                let value = value.parse().unwrap();
                assert_eq!(series.insert(name.to_owned(), value), None, "{name} twice");
            }
        }
        series
    }

    #[test]
    fn workers_add_up_and_a_histogram_is_cumulative() {
        let metrics = Metrics::new(2);
        let route = metrics.route("fleet", "/api/fleet");
        for worker in 0..3 {
            metrics
                .recorder(worker)
                .request(&route, &finished(Outcome::Hit, Reason::Memory, 200, 1));
        }
        let text = metrics.prometheus();
        let series = parse(&text);
        let hit = "larder_cache_requests_total{route=\"fleet\",cache=\"hit\",reason=\"memory\"}";
        assert_eq!(series[hit], 3.0);
        let server = "http_route=\"/api/fleet\",http_request_method=\"GET\",http_response_status_code=\"200\"";
        let bucket = |le: &str| {
            series[&format!("http_server_request_duration_seconds_bucket{{{server},le=\"{le}\"}}")]
        };
        assert_eq!(
            (
                bucket("0.0005"),
                bucket("0.001"),
                bucket("10"),
                bucket("+Inf")
            ),
            (0.0, 3.0, 3.0, 3.0)
        );
        let sum = series[&format!("http_server_request_duration_seconds_sum{{{server}}}")];
        assert!((sum - 0.003).abs() < 1e-9);
    }

    #[test]
    fn a_route_keeps_its_place_over_a_reload_and_the_1025th_is_other() {
        let metrics = Metrics::new(1);
        let first = metrics.route("a", "/a");
        let recorder = metrics.recorder(0);
        recorder.active().bytes(&first, Source::Redis, 10);
        let again = metrics.route("a", "/new");
        recorder.active().bytes(&again, Source::Redis, 5);
        for route in 1..=ROUTES_MAX {
            let handle = metrics.route(&format!("r{route}"), "/r");
            recorder.active().bytes(&handle, Source::Redis, 1);
        }
        let series = parse(&metrics.prometheus());
        let of = |route: &str| {
            series[&format!("larder_cache_bytes_total{{route=\"{route}\",source=\"redis\"}}")]
        };
        assert_eq!((of("a"), of("r7"), of("other")), (15.0, 1.0, 1.0));
    }

    #[test]
    fn a_hostile_label_is_escaped_and_cut() {
        let metrics = Metrics::new(0);
        let recorder = metrics.recorder(0);
        recorder.limit("a\"b\\c\nd", "limited");
        recorder.limit(&"ä".repeat(400), "allowed");
        let text = metrics.prometheus();
        assert!(
            text.contains(r#"limit="a\"b\\c\nd",decision="limited"} 1"#),
            "{text}"
        );
        assert!(text.contains(&format!("limit=\"{}\"", "ä".repeat(LABEL_BYTES_MAX / 2))));
        parse(&text);
    }

    #[test]
    fn every_recording_shows_under_its_contracted_name() {
        let metrics = Metrics::new(1);
        metrics.config_loaded(Ok(()), Timestamp::from_millis(5_000));
        metrics.config_loaded(Err(()), Timestamp::from_millis(9_000));
        metrics.watch(|gauges| {
            *gauges = Gauges {
                memory_bytes: Some(1),
                memory_limit_bytes: Some(2),
                memory_objects: Some(3),
                memory_evictions: vec![("size", 4)],
                cache_unreadable: vec![("checksum", 5)],
                purged_objects: vec![("redis", 6)],
                purge_stream_lag: Some(8),
                purge_log_followed: None,
                purges_queued: None,
                cut_off_since: None,
                limit_local_fallback: Some(true),
                redis: Some(RedisGauges {
                    up: true,
                    breaker: "half_open",
                    connections: 3,
                    connections_used: 1,
                    connections_max: 10,
                    credentials_age: Some(Duration::from_secs(90)),
                    waiting: 5,
                    waiting_max: 20,
                    facts: (TABLE.iter())
                        .filter(|row| row.name.starts_with("larder_redis_"))
                        .filter(|row| row.labels.is_empty() && row.name != "larder_redis_up")
                        .filter(|row| !row.name.contains("waiting") && !row.name.contains("age"))
                        .map(|row| (row.name, 7.0))
                        .collect(),
                    server: Some(("Redis", "7.4.1".to_owned())),
                }),
                upstream_up: Some(true),
                upstream_load: Some((256, 3)),
                predictions: Some((6, 2, 0.75)),
                bypass: Some(false),
                draining: Some(false),
                audits: vec![AuditGauges {
                    route: "fleet".into(),
                    found: vec![("same", 8)],
                }],
                shadows: vec![AuditGauges {
                    route: "fleet".into(),
                    found: vec![("miss", 9)],
                }],
                quarantined: vec!["fleet".into()],
                alarms: (1, 0),
            };
        });
        let recorder = metrics.recorder(0);
        let route = metrics.route("fleet", "/api/fleet");
        let guard = recorder.active();
        let mut request = finished(Outcome::Miss, Reason::Cold, 200, 400);
        request.coalesced = true;
        recorder.request(&route, &request);
        recorder.active().bytes(&route, Source::Upstream, 512);
        recorder.upstream(
            &route,
            UpstreamResult::Status(StatusCode::BAD_GATEWAY),
            Duration::from_millis(4),
        );
        recorder.upstream(
            &route,
            UpstreamResult::Error("timeout"),
            Duration::from_secs(30),
        );
        recorder.store(&route, None);
        recorder.store(&route, Some(Reason::TooLarge));
        recorder.saved(&route, Duration::from_millis(1_500));
        recorder.coalescing(1);
        recorder.stampede(&route);
        recorder.warmed("stored");
        recorder.limit("public", "near");
        recorder.redis("GET", Some("timeout"), Duration::from_millis(100));
        recorder.breaker("open");
        recorder.purge("tag", true);
        recorder.purge_asked("api", "logged");
        recorder.purge_visible(Duration::from_millis(3));
        recorder.purge_told("sent");
        recorder.client_error("head-too-large");
        recorder.lease("led");
        recorder.warmed("stored");
        recorder.tried("fleet", true, Outcome::Hit);
        let series = parse(&metrics.prometheus());
        for (name, value) in [
            ("http_server_active_requests", 1.0),
            (
                "http_client_request_duration_seconds_count{http_route=\"/api/fleet\",http_response_status_code=\"502\",error_type=\"502\"}",
                1.0,
            ),
            (
                "http_client_request_duration_seconds_bucket{http_route=\"/api/fleet\",error_type=\"timeout\",le=\"10\"}",
                0.0,
            ),
            (
                "http_client_request_duration_seconds_bucket{http_route=\"/api/fleet\",error_type=\"timeout\",le=\"+Inf\"}",
                1.0,
            ),
            ("larder_cache_coalesced_total{route=\"fleet\"}", 1.0),
            ("larder_cache_coalescing", 1.0),
            (
                "larder_cache_stores_total{route=\"fleet\",outcome=\"stored\"}",
                1.0,
            ),
            (
                "larder_cache_stores_total{route=\"fleet\",outcome=\"refused\",reason=\"too-large\"}",
                1.0,
            ),
            (
                "larder_cache_bytes_total{route=\"fleet\",source=\"upstream\"}",
                512.0,
            ),
            ("larder_cache_saved_seconds_total{route=\"fleet\"}", 1.5),
            ("larder_cache_purges_total{kind=\"tag\",soft=\"true\"}", 1.0),
            (
                "larder_purge_requests_total{way=\"api\",outcome=\"logged\"}",
                1.0,
            ),
            ("larder_cache_purged_objects_total{tier=\"redis\"}", 6.0),
            ("larder_purge_notices_total{outcome=\"sent\"}", 1.0),
            ("larder_purge_stream_lag", 8.0),
            (
                "larder_limit_decisions_total{limit=\"public\",decision=\"near\"}",
                1.0,
            ),
            ("larder_limit_local_fallback", 1.0),
            ("larder_redis_up", 1.0),
            ("larder_redis_breaker_state{state=\"half_open\"}", 1.0),
            ("larder_redis_breaker_state{state=\"open\"}", 0.0),
            ("larder_redis_breaker_transitions_total{to=\"open\"}", 1.0),
            (
                "db_client_operation_duration_seconds_count{db_operation_name=\"GET\",error_type=\"timeout\"}",
                1.0,
            ),
            ("larder_redis_credentials_age_seconds", 90.0),
            ("db_client_connection_count{state=\"used\"}", 1.0),
            ("db_client_connection_count{state=\"idle\"}", 2.0),
            ("larder_redis_commands_waiting", 5.0),
            ("larder_redis_memory_used_bytes", 7.0),
            ("larder_redis_info{server=\"Redis\",version=\"7.4.1\"}", 1.0),
            ("larder_memory_evictions_total{reason=\"size\"}", 4.0),
            ("larder_cache_unreadable_total{reason=\"checksum\"}", 5.0),
            ("larder_config_last_reload_successful", 0.0),
            ("larder_config_last_reload_timestamp_seconds", 5.0),
            ("larder_config_reloads_total{outcome=\"failure\"}", 1.0),
            (
                "larder_experiment_requests_total{route=\"fleet\",arm=\"trial\",cache=\"hit\"}",
                1.0,
            ),
            ("larder_client_errors_total{reason=\"head-too-large\"}", 1.0),
            ("larder_cache_leases_total{outcome=\"led\"}", 1.0),
        ] {
            assert_eq!(series.get(name), Some(&value), "{name}");
        }
        drop(guard);
        let read: Vec<_> = metrics
            .read()
            .iter()
            .map(|family| family.row.name)
            .collect();
        for row in TABLE {
            assert!(read.contains(&row.name), "{} is never fed", row.name);
        }
        assert_eq!(metrics.totals().active, 0);
        assert_eq!(metrics.totals().misses(), 1);
    }

    #[test]
    fn more_kinds_of_answers_than_places_are_counted_as_other() {
        let metrics = Metrics::new(0);
        let recorder = metrics.recorder(0);
        let route = metrics.route("x", "/x");
        for status in 200..300 {
            recorder.request(
                &route,
                &finished(Outcome::Bypass, Reason::NoRoute, status, 1),
            );
        }
        let series = parse(&metrics.prometheus());
        let counts: f64 = series
            .iter()
            .filter(|(name, _)| name.starts_with("http_server_request_duration_seconds_count"))
            .map(|(_, value)| value)
            .sum();
        assert_eq!(counts, 100.0);
        let rest = "http_server_request_duration_seconds_count{http_route=\"/x\",http_request_method=\"_OTHER\",http_response_status_code=\"other\"}";
        assert_eq!(series[rest], 68.0);
    }

    #[test]
    fn counting_from_many_threads_loses_nothing() {
        let metrics = Metrics::new(1);
        let route = metrics.route("fleet", "/api/fleet");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let recorder = metrics.recorder(0);
                let route = &route;
                scope.spawn(move || {
                    for _ in 0..1_000 {
                        recorder.request(route, &finished(Outcome::Hit, Reason::Memory, 200, 1));
                        recorder.limit("public", "allowed");
                    }
                });
            }
        });
        let totals = metrics.totals();
        assert_eq!((totals.hits(), totals.limits_allowed), (4_000, 4_000));
    }

    #[test]
    fn rules_name_only_metrics_that_there_are() {
        let alerts = include_str!("../../deploy/prometheus/alerts.yaml");
        let recorded = include_str!("../../deploy/prometheus/capacity.yaml");
        for record in alerts.split("larder:").skip(1) {
            let name = record.split([' ', '\n']).next().unwrap();
            let line = format!("record: larder:{name}\n");
            assert!(recorded.contains(&line), "{name}");
        }
        let rules = [alerts, recorded].concat();
        let names = rules
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| {
                ["larder_", "http_server_", "http_client_", "db_client_"]
                    .iter()
                    .any(|prefix| word.starts_with(prefix))
            });
        let labels: Vec<_> = TABLE.iter().flat_map(|row| row.labels).collect();
        let mut seen = 0;
        for name in names.filter(|name| !labels.contains(&name)) {
            let bases = ["", "_bucket", "_count", "_sum"].map(|end| name.strip_suffix(end));
            let known = TABLE.iter().any(|row| bases.contains(&Some(row.name)));
            assert!(known, "{name}");
            seen += 1;
        }
        assert!(seen > 30, "{seen}");
    }

    #[test]
    fn the_manual_lists_exactly_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let manual = std::fs::read_to_string(path).unwrap_or_default();
        let begin = "<!-- table -->\n";
        let (intro, _) = manual.split_once(begin).unwrap_or((&manual, ""));
        let wanted = format!("{intro}{begin}{}", reference());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        } else {
            assert!(
                manual == wanted,
                "run the tests with UPDATE_DOCS=1 and look at the difference"
            );
        }
    }
}
