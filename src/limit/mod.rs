//! Sliding-window limits: counted in Redis for the whole fleet, or here while Redis is away.

use crate::config::settings::{Limit, RedisDown};
use crate::semantics::Timestamp;
use std::time::Duration;

/// Counts and decides. One per worker; the local counters are shared by all workers.
#[derive(Clone, Debug)]
pub struct Limiter {}

/// One counter to check: a limit, one of its `per` dimensions, and whose it is.
#[derive(Clone, Debug)]
pub struct Check<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// What the headers call it: the limit's name, or `payment-user` where it has several dimensions.
    pub name: String,
    /// Whose counter; hashed before it goes anywhere.
    pub subject: String,
}

/// Where a decision was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// In Redis.
    Shared,
    /// Here: Redis is away, or the key is known to be over its limit.
    Local,
    /// Nowhere: `redis_down: allow`, or no limit applies.
    Not,
}

/// The decision over all counters of one request: all allow, or none counts.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Whether the request may go on.
    pub admitted: bool,
    /// Redis is away and the operator wants nothing admitted then (503, not 429).
    pub unavailable: bool,
    /// Where it was made.
    pub counted: Counted,
    /// One for each check, in order.
    pub states: Vec<State>,
}

/// A counter after a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// As in [`Check::name`].
    pub name: String,
    /// How many in a window.
    pub quota: u32,
    /// The window.
    pub window: Duration,
    /// How many are left now.
    pub remaining: u32,
    /// Until more quota is there: for a counter that is full the true moment, never earlier.
    pub reset: Duration,
    /// Whether this counter refused.
    pub refused: bool,
}

impl Limiter {
    /// Checks all counters at once and counts the request on all of them, or on none.
    pub async fn admit(&self, checks: &[Check<'_>], down: RedisDown, now: Timestamp) -> Decision {
        let _ = (checks, down, now);
        unimplemented!()
    }
}
