//! Every way to Redis that this process has, seen as one: each worker has its own, and so has what
//! runs in the background.

use crate::config::settings;
use crate::redis_client::vitals::{Report, Vitals};
use crate::redis_client::{Redis, State};
use crate::semantics::Timestamp;
use crate::telemetry::metrics::RedisGauges;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// The ways made so far, and how many there will be.
#[derive(Clone)]
pub(super) struct Ways {
    made: Arc<Mutex<Made>>,
    expected: usize,
    vitals: Vitals,
}

struct Made {
    /// To the cache's Redis.
    ways: Vec<Redis>,
    /// To a second one for limits.
    limits: Vec<Redis>,
    /// What they are let in by now.
    settings: Option<settings::Redis>,
    /// When the password in force was last changed.
    since: Timestamp,
    /// The same of the one before.
    before: Timestamp,
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
    /// None yet, of `expected`; with the `settings` in force.
    pub(super) fn new(expected: usize, settings: Option<&settings::Redis>, now: Timestamp) -> Self {
        let since = settings.map_or(now, |redis| changed(redis, now));
        let made = Made {
            ways: Vec::new(),
            limits: Vec::new(),
            settings: settings.cloned(),
            since,
            before: since,
        };
        Self {
            made: Arc::new(Mutex::new(made)),
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
        self.made().ways.clone()
    }

    /// Adds one to the cache's Redis.
    pub(super) fn add(&self, redis: &Redis) {
        let mut made = self.made();
        if let Some(settings) = &made.settings {
            redis.renew(settings, &settings.url);
        }
        made.ways.push(redis.clone());
    }

    /// Adds one to a second Redis for limits.
    pub(super) fn add_for_limits(&self, redis: &Redis) {
        let mut made = self.made();
        if let Some(settings) = &made.settings
            && let Some(url) = &settings.limits_url
        {
            redis.renew(settings, url);
        }
        made.limits.push(redis.clone());
    }

    /// Lets all of them in like `settings` say, where these lead to the same servers; returns whether
    /// anything is exchanged by that.
    pub(super) fn renew(&self, settings: &settings::Redis, now: Timestamp) -> bool {
        let mut made = self.made();
        let Some(before) = made.settings.take() else {
            return false;
        };
        let mut like = before.let_in_like(settings);
        if like.url != settings.url {
            // Other servers have other passwords.
            like.url = before.url.clone();
        }
        if like.limits_url != settings.limits_url {
            like.limits_url = before.limits_url.clone();
        }
        let exchanges = like.url != before.url
            || like.limits_url != before.limits_url
            || like.tls != before.tls;
        for redis in &made.ways {
            redis.renew(&like, &like.url);
        }
        if let Some(url) = &like.limits_url {
            for redis in &made.limits {
                redis.renew(&like, url);
            }
        }
        if like.url != before.url {
            made.before = made.since;
            made.since = changed(&like, now);
        }
        made.settings = Some(like);
        exchanges
    }

    /// Up when all of them are; the breaker that is worst off; the sum of the connections; the age of
    /// the oldest credentials that any was had by.
    pub(super) fn gauges(&self, now: Timestamp) -> RedisGauges {
        let statuses: Vec<_> = self.all().iter().map(Redis::status).collect();
        let report = self.vitals.report();
        let any = |state: &&State| statuses.iter().any(|one| one.breaker == state.word());
        let worst = [State::Open, State::HalfOpen]
            .into_iter()
            .find(|state| any(&state));
        let since = {
            let made = self.made();
            match statuses.iter().any(|one| one.outdated) {
                true => made.before,
                false => made.since,
            }
        };
        let age = now.as_millis().saturating_sub(since.as_millis());
        RedisGauges {
            credentials_age: Some(Duration::from_millis(age)),
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

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
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

/// When the password of `settings` was last changed: when its file was, else it is taken up `now`.
fn changed(settings: &settings::Redis, now: Timestamp) -> Timestamp {
    let file = settings.password_file.as_ref();
    let modified = file.and_then(|file| std::fs::metadata(file).ok()?.modified().ok());
    let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let millis = since.and_then(|since| u64::try_from(since.as_millis()).ok());
    millis.map_or(now, Timestamp::from_millis)
}
