//! Every way to Redis that this process has, seen as one: each worker has its own, and so has what
//! runs in the background.

use crate::redis_client::vitals::{Report, Vitals};
use crate::redis_client::{Redis, State};
use crate::telemetry::metrics::RedisGauges;
use std::sync::{Arc, Mutex, PoisonError};

/// The ways made so far, and how many there will be.
#[derive(Clone)]
pub(super) struct Ways {
    made: Arc<Mutex<Vec<Redis>>>,
    expected: usize,
    vitals: Vitals,
}

/// What INFO says that is a metric of its own, by its name there.
const FACTS: [(&str, &str); 11] = [
    ("uptime_in_seconds", "larder_redis_uptime_seconds"),
    ("used_memory", "larder_redis_memory_used_bytes"),
    ("maxmemory", "larder_redis_memory_max_bytes"),
    (
        "mem_fragmentation_ratio",
        "larder_redis_memory_fragmentation_ratio",
    ),
    ("evicted_keys", "larder_redis_evicted_keys_total"),
    ("expired_keys", "larder_redis_expired_keys_total"),
    ("keyspace_hits", "larder_redis_keyspace_hits_total"),
    ("keyspace_misses", "larder_redis_keyspace_misses_total"),
    (
        "total_commands_processed",
        "larder_redis_commands_processed_total",
    ),
    ("connected_clients", "larder_redis_clients"),
    ("maxclients", "larder_redis_clients_max"),
];

impl Ways {
    /// None yet, of `expected`.
    pub(super) fn new(expected: usize) -> Self {
        Self {
            made: Arc::default(),
            expected,
            vitals: Vitals::default(),
        }
    }

    /// What the background last saw of it.
    pub(super) const fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// All ways made so far.
    pub(super) fn all(&self) -> Vec<Redis> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.clone()
    }

    /// Adds one.
    pub(super) fn add(&self, redis: &Redis) {
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(redis.clone());
    }

    /// Up when all of them are; the breaker that is worst off; the sum of the connections.
    pub(super) fn gauges(&self) -> RedisGauges {
        let statuses: Vec<_> = self.all().iter().map(Redis::status).collect();
        let report = self.vitals.report();
        let any = |state: &&State| statuses.iter().any(|one| one.breaker == state.word());
        let worst = [State::Open, State::HalfOpen]
            .into_iter()
            .find(|state| any(&state));
        RedisGauges {
            up: statuses.len() == self.expected && statuses.iter().all(|one| one.connected),
            breaker: worst.unwrap_or(State::Closed).word(),
            connections: statuses.iter().map(|one| one.connections).sum(),
            connections_used: statuses.iter().map(|one| one.connections_used).sum(),
            connections_max: statuses.iter().map(|one| one.connections_max).sum(),
            waiting: statuses.iter().map(|one| one.waiting).sum(),
            waiting_max: (statuses.iter().map(|one| one.waiting_max)).fold(0, u32::saturating_add),
            facts: facts(&report),
            server: (report.info.as_ref())
                .and_then(|info| info.server())
                .map(|(name, version)| (name, version.to_owned())),
        }
    }
}

/// What was last seen, by the names of the metrics.
fn facts(report: &Report) -> Vec<(&'static str, f64)> {
    let mut facts = vec![("larder_redis_pool_utilization_ratio", report.utilization)];
    for (name, trip) in [
        ("larder_redis_round_trip_seconds", report.round_trip),
        ("larder_redis_round_trip_baseline_seconds", report.baseline),
    ] {
        facts.extend(trip.map(|trip| (name, trip.as_secs_f64())));
    }
    if let Some(info) = &report.info {
        let known = |(field, name): &(&str, &'static str)| Some((*name, info.fraction(field)?));
        facts.extend(FACTS.iter().filter_map(known));
        let keys = info.keys().map(|keys| ("larder_redis_keys", keys as f64));
        facts.extend(keys);
    }
    if report.slow.readable == Some(true) {
        facts.push(("larder_redis_slowlog_total", report.slow.total as f64));
    }
    facts
}
