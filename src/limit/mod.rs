//! Sliding-window limits: counted in Redis for the whole fleet, or here while Redis is away.
//!
//! Who asks is `identity`'s business, which limits apply is [`checks`]', the fields of the response
//! are [`headers`]'. This room never waits for longer than one Redis command and never fails: with
//! Redis away it counts here, admits, or says that it cannot tell, as the operator wants it.
//!
//! Counters live at `NAMESPACE:limit:{NAMESPACE}:ALGORITHM:WINDOW:NAME:DIGEST`. The quota is not in
//! the name, so a reload that changes it keeps the counts. All counters of a request must lie in one
//! slot for one script to see them, and a user's counter meets many addresses' counters: so all
//! counters of a namespace share one slot. On a Redis Cluster that is one primary's CPU for all
//! limits (about 10 µs a decision, measured); a single Redis does not notice.

pub mod checks;
pub mod headers;
mod local;
pub mod window;

pub use local::LocalLimits;

use crate::config::settings::{Limit, LimitMode, Rate, RedisDown};
use crate::redis_client::{Outage, Redis, Script};
use crate::semantics::Timestamp;
use crate::semantics::line::hex;
use aws_lc_rs::digest;
use local::Counter;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use window::Algorithm;

/// Bytes of SHA-256 that name a counter.
const ID_BYTES: usize = 16;

/// The script's last argument where it is only to look.
const LOOK: &str = "look";

/// What a counter is known by, here and in Redis: a digest, so that no user id, address or token
/// can be read there. (Addresses are few enough to be tried out: the digest hides, it does not seal.)
type Id = [u8; ID_BYTES];

/// Counts and decides. One per worker; the local counters are shared by all workers.
#[derive(Clone, Debug)]
pub struct Limiter {
    prefix: Arc<str>,
    redis: Option<Redis>,
    shared: Arc<LocalLimits>,
    script: Arc<Script>,
}

/// One counter to check: a limit, one of its `per` dimensions, and whose it is.
#[derive(Clone, Debug)]
pub struct Check<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// What the headers call it: the limit's name, or `payment-user` where it has several dimensions.
    pub name: Cow<'a, str>,
    /// Whose counter; hashed before it goes anywhere.
    pub subject: String,
}

/// Where a decision was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// In Redis.
    Shared,
    /// Here: there is no Redis, it is away, or the key is known to be over its limit.
    Local,
    /// Nowhere: `redis_down: allow` or `deny`, or no limit applies.
    Not,
}

/// The decision over all counters of one request: all allow, or none counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go on.
    pub admitted: bool,
    /// Redis is away and the operator wants nothing admitted then (503, not 429).
    pub unavailable: bool,
    /// Where it was made.
    pub counted: Counted,
    /// It refuses, and those of its counters that do have refused before in the same window: one
    /// refusal of many, as far as is remembered here.
    pub repeated: bool,
    /// One for each check, in order; empty where nothing was counted.
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
    /// Until more quota is there: for a counter that is full the true moment, never earlier; else
    /// until the oldest one counted leaves the window. Zero when nothing is counted.
    pub reset: Duration,
    /// Whether this counter refused.
    pub refused: bool,
}

impl Decision {
    /// Nothing was counted, and nothing stands in the way.
    #[must_use]
    pub const fn uncounted() -> Self {
        Self {
            admitted: true,
            unavailable: false,
            counted: Counted::Not,
            repeated: false,
            states: Vec::new(),
        }
    }

    /// Nothing can be counted, and nothing is admitted so.
    fn unavailable() -> Self {
        Self {
            admitted: false,
            unavailable: true,
            ..Self::uncounted()
        }
    }

    /// Carries the decision out as `limits.mode` says: in shadow nobody is turned away, while the
    /// states go on telling which counter would have.
    #[must_use]
    pub fn in_mode(self, mode: LimitMode) -> Self {
        match mode {
            LimitMode::Enforce => self,
            LimitMode::Shadow => Self {
                admitted: true,
                unavailable: false,
                ..self
            },
        }
    }

    /// The counters that refused, be that carried out or not.
    pub fn refusals(&self) -> impl Iterator<Item = &State> {
        self.states.iter().filter(|state| state.refused)
    }
}

impl State {
    /// The word for the metrics: `allowed`, `near` (four fifths used), `limited` or `shadow`.
    #[must_use]
    pub fn word(&self, mode: LimitMode) -> &'static str {
        let near = u64::from(self.remaining) * 5 < u64::from(self.quota);
        match (self.refused, mode) {
            (true, LimitMode::Enforce) => "limited",
            (true, LimitMode::Shadow) => "shadow",
            (false, _) if near => "near",
            (false, _) => "allowed",
        }
    }
}

impl Limiter {
    /// A limiter that counts in `redis`, or exactly and in this process where there is none.
    ///
    /// `namespace` is `cache.namespace`: sidecars of one namespace share their counters.
    #[must_use]
    pub fn new(namespace: &str, redis: Option<Redis>, shared: Arc<LocalLimits>) -> Self {
        Self {
            prefix: format!("{namespace}:limit:{{{namespace}}}").into(),
            redis,
            shared,
            script: Arc::new(Script::new(include_str!("window.lua"))),
        }
    }

    /// Checks all counters at once and counts the request on all of them, or on none.
    pub async fn admit(&self, checks: &[Check<'_>], down: RedisDown, now: Timestamp) -> Decision {
        if checks.is_empty() {
            return Decision::uncounted();
        }
        let counters: Vec<Counter> = checks.iter().map(Check::counter).collect();
        let Some(redis) = &self.redis else {
            let readings = self.shared.count(&counters, now);
            return self.decided(checks, &counters, Counted::Local, readings, now);
        };
        if let Some(readings) = self.shared.known_full(&counters, now) {
            return self.decided(checks, &counters, Counted::Local, readings, now);
        }
        let (keys, args) = self.call(checks, &counters);
        let began = Instant::now();
        let answer = self.ask(redis, &keys, &args).await;
        self.settle(checks, &counters, answer, down, now, began.elapsed())
    }

    /// The refusal that [`admit`](Self::admit) would give without waiting for Redis, if it would and
    /// anyone has been refused lately. Counts nothing.
    #[must_use]
    pub fn refusal(&self, checks: &[Check<'_>], now: Timestamp) -> Option<Decision> {
        if !self.shared.is_refusing(now) {
            return None;
        }
        let counters: Vec<Counter> = checks.iter().map(Check::counter).collect();
        let readings = self.shared.known_full(&counters, now)?;
        Some(self.decided(checks, &counters, Counted::Local, readings, now))
    }

    /// What [`admit`](Self::admit) would decide now. Counts nothing, neither here nor in Redis, and
    /// remembers nothing; while Redis is away the buckets beside the windows are not looked into.
    pub async fn look(&self, checks: &[Check<'_>], down: RedisDown, now: Timestamp) -> Decision {
        if checks.is_empty() {
            return Decision::uncounted();
        }
        let counters: Vec<Counter> = checks.iter().map(Check::counter).collect();
        let here = self.shared.look(&counters, now);
        let full = here.iter().any(|reading| reading.refused);
        let Some(redis) = self.redis.as_ref().filter(|_| !full) else {
            return decision(checks, Counted::Local, here);
        };
        let (keys, mut args) = self.call(checks, &counters);
        args.push(LOOK.to_owned());
        let answer = self.ask(redis, &keys, &args).await;
        let answer = answer.and_then(|answer| parse(&answer, &counters).ok_or(Outage::Protocol));
        match (answer, down) {
            (Ok(readings), _) => decision(checks, Counted::Shared, readings),
            (Err(_), RedisDown::Local) => {
                let readings = self.shared.look_at_shares(&counters, now);
                decision(checks, Counted::Local, readings)
            }
            (Err(_), RedisDown::Allow) => Decision::uncounted(),
            (Err(_), RedisDown::Deny) => Decision::unavailable(),
        }
    }

    async fn ask(
        &self,
        redis: &Redis,
        keys: &[String],
        args: &[String],
    ) -> Result<redis::Value, Outage> {
        if !redis.is_up() {
            return Err(Outage::Open);
        }
        let (keys, args) = (slices(keys), slices(args));
        redis.script("limit", &self.script, &keys, &args).await
    }

    /// Keys and arguments of the script.
    fn call(&self, checks: &[Check<'_>], counters: &[Counter]) -> (Vec<String>, Vec<String>) {
        let keys = checks.iter().zip(counters);
        let keys = keys.map(|(check, counter)| {
            format!(
                "{}:{}:{}ms:{}:{}",
                self.prefix,
                counter.algorithm.word(),
                micros(counter.rate.window) / 1_000,
                check.limit.name,
                hex(&counter.id),
            )
        });
        let args = counters.iter().flat_map(|counter| {
            [
                counter.algorithm.word().to_owned(),
                counter.rate.quota.to_string(),
                micros(counter.rate.window).to_string(),
            ]
        });
        (keys.collect(), args.collect())
    }

    /// The decision that these readings make; remembers whom it refuses.
    fn decided(
        &self,
        checks: &[Check<'_>],
        counters: &[Counter],
        counted: Counted,
        readings: Vec<Reading>,
        now: Timestamp,
    ) -> Decision {
        let repeated = readings.iter().any(|reading| reading.refused)
            && self.shared.have_refused(counters, &readings, now);
        Decision {
            repeated,
            ..decision(checks, counted, readings)
        }
    }

    /// The decision that the script's answer makes, or that its absence makes. `now` is from before
    /// the answer, which `took` so long.
    fn settle(
        &self,
        checks: &[Check<'_>],
        counters: &[Counter],
        answer: Result<redis::Value, Outage>,
        down: RedisDown,
        now: Timestamp,
        took: Duration,
    ) -> Decision {
        let answer = answer.and_then(|answer| parse(&answer, counters).ok_or(Outage::Protocol));
        self.shared.set_redis_away(answer.is_err());
        match (answer, down) {
            (Ok(readings), _) => {
                self.shared.remember(counters, &readings, now, took);
                self.decided(checks, counters, Counted::Shared, readings, now)
            }
            (Err(_), RedisDown::Local) => {
                let readings = self.shared.fall_back(counters, now);
                self.decided(checks, counters, Counted::Local, readings, now)
            }
            (Err(_), RedisDown::Allow) => Decision::uncounted(),
            (Err(_), RedisDown::Deny) => Decision::unavailable(),
        }
    }
}

impl Check<'_> {
    fn counter(&self) -> Counter {
        let algorithm = Algorithm::of(self.limit.rate);
        let mut digest = digest::Context::new(&digest::SHA256);
        let window = micros(self.limit.rate.window).to_be_bytes();
        let parts = [
            algorithm.word().as_bytes(),
            &window,
            self.limit.name.as_bytes(),
            self.subject.as_bytes(),
        ];
        for part in parts {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(digest.finish().as_ref()) {
            *to = *from;
        }
        Counter {
            id,
            algorithm,
            rate: self.limit.rate,
        }
    }
}

/// What a counter showed at a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    remaining: u32,
    reset: Duration,
    refused: bool,
}

fn decision(checks: &[Check<'_>], counted: Counted, readings: Vec<Reading>) -> Decision {
    let states = checks.iter().zip(&readings).map(|(check, reading)| State {
        name: check.name.to_string(),
        quota: check.limit.rate.quota.get(),
        window: check.limit.rate.window,
        remaining: reading.remaining,
        reset: reading.reset,
        refused: reading.refused,
    });
    Decision {
        admitted: !readings.iter().any(|reading| reading.refused),
        unavailable: false,
        counted,
        repeated: false,
        states: states.collect(),
    }
}

/// Reads the script's answer; `None` if it is not one. What comes from Redis is hostile input.
fn parse(answer: &redis::Value, counters: &[Counter]) -> Option<Vec<Reading>> {
    let redis::Value::Array(values) = answer else {
        return None;
    };
    let numbers: Option<Vec<u64>> = values.iter().map(number).collect();
    let numbers = numbers?;
    let (admitted, rest) = numbers.split_first()?;
    if rest.len() != counters.len() * 3 {
        return None;
    }
    let readings: Vec<Reading> = (counters.iter().zip(rest.chunks_exact(3)))
        .map(|(counter, numbers)| {
            let (count, reset, refused) = match numbers {
                [count, reset, refused] => (*count, *reset, *refused),
                _ => (0, 0, 0),
            };
            Reading {
                remaining: remaining(counter.rate, u32::try_from(count).unwrap_or(u32::MAX)),
                reset: Duration::from_micros(reset),
                refused: refused != 0,
            }
        })
        .collect();
    let refused = readings.iter().any(|reading| reading.refused);
    (refused == (*admitted == 0)).then_some(readings)
}

fn number(value: &redis::Value) -> Option<u64> {
    match value {
        redis::Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

const fn remaining(rate: Rate, count: u32) -> u32 {
    rate.quota.get().saturating_sub(count)
}

/// Whole microseconds, saturating.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn slices(texts: &[String]) -> Vec<&[u8]> {
    texts.iter().map(String::as_bytes).collect()
}

#[cfg(test)]
mod tests;
