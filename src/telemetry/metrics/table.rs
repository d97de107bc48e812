//! Every metric by name, kind, labels and meaning: the source of HELP lines and of the manual.

use std::fmt::Write;

/// One metric.
#[derive(Debug)]
pub struct Row {
    /// Its Prometheus name.
    pub name: &'static str,
    /// What kind of number.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// What it says, in one sentence.
    pub help: &'static str,
}

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A distribution over fixed buckets.
    Histogram,
}

impl Kind {
    /// Prometheus's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! table {
    ($($kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        /// Every metric, in the order of the manual.
        pub const TABLE: &[Row] = &[$(Row {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        }),+];
    };
}

table! {
    Histogram "http_server_request_duration_seconds" ["http_route", "http_request_method", "http_response_status_code"]
        "Time from a request's head to the head of its answer.";
    Gauge "http_server_active_requests" [] "Requests in progress.";
    Histogram "http_client_request_duration_seconds" ["http_route", "http_response_status_code", "error_type"]
        "Time that the app took to the head of its answer, or to fail.";
    Histogram "larder_request_duration_seconds" ["route", "cache"]
        "Time to the head of the answer, by what became of the request at the cache.";
    Counter "larder_cache_requests_total" ["route", "cache", "reason"]
        "Requests by what became of them at the cache, and why.";
    Counter "larder_cache_stores_total" ["route", "outcome", "reason"]
        "Responses of the app that were stored, or refused for this reason.";
    Counter "larder_cache_coalesced_total" ["route"] "Requests that waited for another request's fetch.";
    Counter "larder_cache_stampedes_total" ["route"] "Fetches that twenty or more requests waited for at the same time.";
    Gauge "larder_cache_coalescing" [] "Requests that wait for another request's fetch now.";
    Counter "larder_cache_leases_total" ["outcome"]
        "Fetches by whose turn it was among all sidecars: led, took_over (after a wait), found (another's answer), apart (not shared), lost (Redis went away), timed_out, unavailable.";
    Counter "larder_cache_purges_total" ["kind", "soft"] "Purges carried out, by what they hit.";
    Counter "larder_cache_purged_objects_total" ["tier"]
        "Stored responses that were asked for and found to be purged, and so were fetched anew. A purge itself touches none: what nobody asks for any more is not counted.";
    Counter "larder_purge_requests_total" ["way", "outcome"]
        "Requests to purge by the way they came in (api, method, route, webhook, channel, stream) and what became of them: logged, queued, local, or why nothing was done.";
    Histogram "larder_purge_visible_seconds" []
        "Time from another sidecar's purge, by Redis's clock and to the millisecond, until it was obeyed here.";
    Counter "larder_purge_notices_total" ["outcome"]
        "Messages to purge.notify: sent, failed (to be tried again), dropped.";
    Gauge "larder_purge_stream_lag" [] "Entries of purge.stream that nobody of its group has carried out yet.";
    Counter "larder_cache_bytes_total" ["route", "source"] "Bytes of content sent to clients, by where they came from.";
    Counter "larder_cache_saved_seconds_total" ["route"] "Time of the app that hits spared.";
    Counter "larder_cache_unreadable_total" ["reason"]
        "Values in Redis that could not be read: misses, overwritten by the next fetch.";
    Counter "larder_audits_total" ["route", "verdict"]
        "Hits asked of the app again: same, stale, unstable, unkeyed, leak, failed; skipped ones were drawn and not asked.";
    Counter "larder_experiment_requests_total" ["route", "arm", "cache"]
        "Requests on routes with an experiment, by its arm (control, trial) and what became of them at the cache.";
    Counter "larder_shadow_requests_total" ["route", "outcome"]
        "Requests on routes in the shadow, by what the store would have done: same, stale, leak, failed (not comparable), miss.";
    Gauge "larder_route_quarantined" ["route"]
        "1 for each route that gave one client's answer to another, and stores nothing until it is released.";
    Counter "larder_alarms_total" ["outcome"] "Alarms raised, and those that could not be handed on.";
    Gauge "larder_memory_bytes" [] "Bytes in the memory tier.";
    Gauge "larder_memory_limit_bytes" [] "Most bytes of the memory tier now: less than configured while the process comes near its own limit.";
    Gauge "larder_memory_objects" [] "Responses in the memory tier.";
    Counter "larder_memory_evictions_total" ["reason"] "Responses that the memory tier gave up.";
    Counter "larder_limit_decisions_total" ["limit", "decision"]
        "Decisions of limits: allowed, near (allowed, over 80 % used), limited, shadow (would have been limited).";
    Gauge "larder_limit_local_fallback" [] "1 while limits are counted here because Redis is away.";
    Gauge "larder_redis_up" [] "1 while Redis answers.";
    Gauge "larder_redis_breaker_state" ["state"] "1 for the state that the breaker before Redis is in.";
    Counter "larder_redis_breaker_transitions_total" ["to"] "Changes of the breaker's state.";
    Gauge "larder_redis_credentials_age_seconds" []
        "Since the password that connections to Redis were greeted with was last changed.";
    Histogram "db_client_operation_duration_seconds" ["db_operation_name", "error_type"]
        "Time of commands to Redis.";
    Gauge "db_client_connection_count" ["state"] "Connections to Redis: used (commands are under way on it) or idle.";
    Gauge "db_client_connection_max" [] "Most connections to Redis.";
    Gauge "larder_redis_commands_waiting" [] "Commands to Redis under way.";
    Gauge "larder_redis_commands_waiting_max" [] "Most commands to Redis under way; more are not asked.";
    Gauge "larder_redis_pool_utilization_ratio" []
        "Largest share of the commands that may be under way in the last half second; 1 where one was turned away.";
    Gauge "larder_redis_round_trip_seconds" [] "Time of the last PING to Redis and back.";
    Gauge "larder_redis_round_trip_baseline_seconds" [] "The shortest at the start of this process.";
    Gauge "larder_redis_info" ["server", "version"] "Always 1; the labels name the server.";
    Gauge "larder_redis_uptime_seconds" [] "How long Redis has been up.";
    Gauge "larder_redis_memory_used_bytes" [] "Memory that Redis uses.";
    Gauge "larder_redis_memory_max_bytes" [] "Most memory that it may use; 0 = no bound.";
    Gauge "larder_redis_memory_fragmentation_ratio" [] "Memory that it has from the system, as a multiple of what it uses.";
    Gauge "larder_redis_keys" [] "Keys in Redis, of all its users.";
    Counter "larder_redis_evicted_keys_total" [] "Keys that Redis gave up for want of room.";
    Counter "larder_redis_expired_keys_total" [] "Keys of Redis that ended with their TTL.";
    Counter "larder_redis_keyspace_hits_total" [] "Lookups in Redis, of all its users, that found something.";
    Counter "larder_redis_keyspace_misses_total" [] "Lookups in Redis, of all its users, that found nothing.";
    Counter "larder_redis_commands_processed_total" [] "Commands that Redis carried out, of all its users.";
    Gauge "larder_redis_clients" [] "Clients of Redis.";
    Gauge "larder_redis_clients_max" [] "Most clients that it takes.";
    Counter "larder_redis_slowlog_total" [] "Commands that took Redis long, since this process began (SLOWLOG, where it may be read).";
    Gauge "larder_upstream_up" [] "1 while the app answers.";
    Gauge "larder_upstream_in_flight" [] "Requests that the app has now.";
    Gauge "larder_upstream_in_flight_max" [] "Requests that it may have now; lower for a while when the cache has suddenly nothing.";
    Gauge "larder_config_last_reload_successful" [] "0 when the last configuration was refused and the one before is in force.";
    Gauge "larder_config_last_reload_timestamp_seconds" [] "When the configuration in force was taken up.";
    Counter "larder_config_reloads_total" ["outcome"] "Configurations taken up or refused, the first included.";
    Counter "larder_client_errors_total" ["reason"] "Requests refused at the door.";
    Counter "larder_warm_requests_total" ["outcome"]
        "Pages asked for on nobody's behalf: fresh (nothing to do), stored, not_stored, failed.";
    Counter "larder_predictions_total" ["outcome"]
        "Pages warmed because they were likely to be asked for next: hit (they were, in time), unused.";
    Gauge "larder_prediction_precision_ratio" [] "Share of predictions that comes true lately.";
    Gauge "larder_bypass" [] "1 while caching is switched off.";
    Gauge "larder_draining" [] "1 while the process is about to stop.";
    Gauge "larder_build_info" ["version", "revision"] "Always 1; the labels name the build.";
    Gauge "process_start_time_seconds" [] "When the process began.";
    Counter "process_cpu_seconds_total" [] "Processor time used.";
    Gauge "process_resident_memory_bytes" [] "Memory in use.";
    Gauge "process_virtual_memory_bytes" [] "Address space in use.";
    Gauge "process_open_fds" [] "Open file descriptors.";
    Gauge "process_max_fds" [] "Most open file descriptors.";
    Gauge "process_threads" [] "Threads.";
}

/// The table as Markdown, for the manual.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from("\n| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for row in TABLE {
        let labels: Vec<String> = row.labels.iter().map(|l| format!("`{l}`")).collect();
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            row.name,
            row.kind.word(),
            labels.join(", "),
            row.help
        );
    }
    out
}

/// Ticks a second in `/proc` (`USER_HZ`; 100 on every Linux that larder is built for).
const TICKS_PER_SECOND: f64 = 100.0;

/// What the kernel says of this process; says nothing where there is no `/proc`.
pub(super) fn process(out: &mut dyn FnMut(&'static str, f64)) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    // Fields count from after the name, which may hold blanks and brackets.
    let stat = read("/proc/self/stat");
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let field = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (field(11), field(12)) {
        out(
            "process_cpu_seconds_total",
            (user + system) / TICKS_PER_SECOND,
        );
    }
    if let Some(threads) = field(17) {
        out("process_threads", threads);
    }
    let booted = after(&read("/proc/stat"), "btime ");
    if let (Some(started), Some(booted)) = (field(19), booted) {
        out(
            "process_start_time_seconds",
            booted + started / TICKS_PER_SECOND,
        );
    }
    if let Some(bytes) = field(20) {
        out("process_virtual_memory_bytes", bytes);
    }
    if let Some(kib) = after(&read("/proc/self/status"), "VmRSS:") {
        out("process_resident_memory_bytes", kib * 1024.0);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        out("process_open_fds", open.count() as f64);
    }
    if let Some(most) = after(&read("/proc/self/limits"), "Max open files") {
        out("process_max_fds", most);
    }
}

/// The first number on the line that begins with `name`.
fn after(text: &str, name: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}
