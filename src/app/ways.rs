//! Every way to Redis that this process has, seen as one: each worker has its own, and so has what
//! runs in the background.

use crate::config::settings;
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
        }
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
        let made = self.made();
        let statuses: Vec<_> = made.ways.iter().map(Redis::status).collect();
        let any = |state: &&State| statuses.iter().any(|one| one.breaker == state.word());
        let worst = [State::Open, State::HalfOpen]
            .into_iter()
            .find(|state| any(&state));
        let since = match statuses.iter().any(|one| one.outdated) {
            true => made.before,
            false => made.since,
        };
        let age = now.as_millis().saturating_sub(since.as_millis());
        RedisGauges {
            up: made.ways.len() == self.expected && statuses.iter().all(|one| one.connected),
            breaker: worst.unwrap_or(State::Closed).word(),
            connections: statuses.iter().map(|one| one.connections).sum(),
            connections_max: statuses.iter().map(|one| one.connections_max).sum(),
            credentials_age: Some(Duration::from_millis(age)),
        }
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the password of `settings` was last changed: when its file was, else it is taken up `now`.
fn changed(settings: &settings::Redis, now: Timestamp) -> Timestamp {
    let file = settings.password_file.as_ref();
    let modified = file.and_then(|file| std::fs::metadata(file).ok()?.modified().ok());
    let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let millis = since.and_then(|since| u64::try_from(since.as_millis()).ok());
    millis.map_or(now, Timestamp::from_millis)
}
