//! Every way to Redis that this process has, seen as one: each worker has its own, and so has what
//! runs in the background.

use crate::redis_client::{Redis, State};
use crate::telemetry::metrics::RedisGauges;
use std::sync::{Arc, Mutex, PoisonError};

/// The ways made so far, and how many there will be.
#[derive(Clone)]
pub(super) struct Ways {
    made: Arc<Mutex<Vec<Redis>>>,
    expected: usize,
}

impl Ways {
    /// None yet, of `expected`.
    pub(super) fn new(expected: usize) -> Self {
        Self {
            made: Arc::default(),
            expected,
        }
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
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let statuses: Vec<_> = made.iter().map(Redis::status).collect();
        let any = |state: &&State| statuses.iter().any(|one| one.breaker == state.word());
        let worst = [State::Open, State::HalfOpen]
            .into_iter()
            .find(|state| any(&state));
        RedisGauges {
            up: made.len() == self.expected && statuses.iter().all(|one| one.connected),
            breaker: worst.unwrap_or(State::Closed).word(),
            connections: statuses.iter().map(|one| one.connections).sum(),
            connections_max: statuses.iter().map(|one| one.connections_max).sum(),
        }
    }
}
