//! Sliding-window limits: counted in Redis for the whole fleet, or here while Redis is away.
//!
//! Who asks is `identity`'s business, which limits apply is [`checks`]', the fields of the response
//! are [`headers`]'. This room never waits for longer than one Redis command and never fails: with
//! Redis away it counts here, admits, or says that it cannot tell, as the operator wants it.
//!
//! A limit with `sync:` is counted here between two tellings of Redis: see [`batch`].
//!
//! Counters live at `NAMESPACE:limit:{NAMESPACE}:ALGORITHM:WINDOW:NAME:DIGEST`. The quota is not in
//! the name, so a reload that changes it keeps the counts. All counters of a request must lie in one
//! slot for one script to see them, and a user's counter meets many addresses' counters: so all
//! counters of a namespace share one slot. On a Redis Cluster that is one primary's CPU for all
//! limits (about 10 µs a decision, measured); a single Redis does not notice.

mod batch;
pub mod checks;
pub mod headers;
mod local;
pub mod window;

pub use local::LocalLimits;

use crate::clock::Clock;
use crate::config::settings::{Limit, LimitMode, Rate, RedisDown};
use crate::redis_client::{Outage, Redis, Script};
use crate::semantics::Timestamp;
use crate::semantics::line::hex;
use crate::semantics::line::{Line, digits};
use aws_lc_rs::digest;
use batch::{Due, Telling};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use window::Algorithm;

/// Bytes of SHA-256 that name a counter.
const ID_BYTES: usize = 16;

/// The script's first argument: to decide and count, only to look, or only to be told.
const COUNT: &str = "count";
const LOOK: &str = "look";
const TELL: &str = "tell";

/// Room for what is digested of a subject, in bytes.
const SUBJECT_BYTES: usize = 192;

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
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// What the headers call it: the limit's name, or `payment-user` where it has several dimensions.
    pub name: &'a Arc<str>,
    /// Whose counter, and of which limit.
    id: Id,
    algorithm: Algorithm,
    /// The limit's, or this process's share of it.
    rate: Rate,
}

/// Where a decision was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// In Redis.
    Shared,
    /// Here: there is no Redis, it is away, the key is known to be over its limit, or Redis is told later.
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
    pub name: Arc<str>,
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
        if let Some(decision) = self.at_once(checks, now) {
            return decision;
        }
        let Some(redis) = &self.redis else {
            return Decision::uncounted();
        };
        let telling = (checks.iter().any(Check::is_batched))
            .then(|| Telling::begin(&self.shared, checks, true, now, self.there(redis, now)));
        let told = telling.as_ref().map_or(&[][..], Telling::told);
        let began = Instant::now();
        let answer = self.ask(redis, COUNT, checks, told).await;
        let (took, there) = (began.elapsed(), self.there(redis, now));
        self.settle(checks, telling, answer, down, (now, there), took)
    }

    /// The decision that [`admit`](Self::admit) would come to without waiting for Redis, if it would;
    /// the request is counted where it is admitted. `None` counts nothing.
    #[must_use]
    pub fn at_once(&self, checks: &[Check<'_>], now: Timestamp) -> Option<Decision> {
        let Some(redis) = &self.redis else {
            let readings = self.shared.count(checks, now);
            return Some(self.decided(checks, Counted::Local, &readings, now));
        };
        if let Some(readings) = self.shared.known_full(checks, now) {
            return Some(self.decided(checks, Counted::Local, &readings, now));
        }
        if !checks.iter().all(Check::is_batched) || !redis.is_up() {
            return None;
        }
        let readings = (self.shared).count_batched(checks, now, self.there(redis, now))?;
        Some(decision(checks, Counted::Local, &readings))
    }

    /// The refusal that [`admit`](Self::admit) would give without waiting for Redis, if it would and
    /// anyone has been refused lately. Counts nothing.
    #[must_use]
    pub fn refusal(&self, checks: &[Check<'_>], now: Timestamp) -> Option<Decision> {
        if !self.shared.is_refusing(now) {
            return None;
        }
        let readings = self.shared.known_full(checks, now)?;
        Some(self.decided(checks, Counted::Local, &readings, now))
    }

    /// What [`admit`](Self::admit) would decide now. Counts nothing, neither here nor in Redis, and
    /// remembers nothing; while Redis is away the buckets beside the windows are not looked into.
    pub async fn look(&self, checks: &[Check<'_>], down: RedisDown, now: Timestamp) -> Decision {
        if checks.is_empty() {
            return Decision::uncounted();
        }
        let here = self.shared.look(checks, now);
        let full = here.iter().any(|reading| reading.refused);
        let Some(redis) = self.redis.as_ref().filter(|_| !full) else {
            return decision(checks, Counted::Local, &here);
        };
        let answer = self.ask(redis, LOOK, checks, &[]).await;
        let answer = answer.and_then(|answer| parse(&answer, checks).ok_or(Outage::Protocol));
        match (answer, down) {
            (Ok(readings), _) => decision(checks, Counted::Shared, &readings),
            (Err(_), RedisDown::Local) => {
                let readings = self.shared.look_at_shares(checks, now);
                decision(checks, Counted::Local, &readings)
            }
            (Err(_), RedisDown::Allow) => Decision::uncounted(),
            (Err(_), RedisDown::Deny) => Decision::unavailable(),
        }
    }

    /// Tells Redis what was counted here, whenever a limit's `sync` is over; one for all workers. Ends
    /// where there is no Redis, else never.
    pub async fn keep_telling(&self, clock: &Clock) {
        let Some(redis) = &self.redis else { return };
        loop {
            self.shared.batches.wait_until_due(clock).await;
            self.tell(redis, clock, false).await;
        }
    }

    /// Tells Redis all that it has not been told yet: before the process ends.
    pub async fn tell_all(&self, clock: &Clock) {
        if let Some(redis) = &self.redis {
            self.tell(redis, clock, true).await;
        }
    }

    /// One call of the script for so many counters that Redis does not notice it; the next ones after it.
    async fn tell(&self, redis: &Redis, clock: &Clock, all: bool) {
        let due = self.shared.batches.due(clock.now(), all);
        for counters in due.chunks(batch::TOLD_AT_ONCE_MAX) {
            // The calls before may have taken long.
            let now = clock.now();
            let checks: Vec<Check<'_>> = counters.iter().map(Due::check).collect();
            let telling = Telling::begin(&self.shared, &checks, false, now, self.there(redis, now));
            let answer = self.ask(redis, TELL, &checks, telling.told()).await;
            let answer = answer.and_then(|answer| parse(&answer, &checks).ok_or(Outage::Protocol));
            self.shared.set_redis_away(answer.is_err());
            telling.end(&checks, answer.as_deref(), now);
        }
    }

    /// What the clock of the counters' server shows when ours shows `now`, in microseconds; as exact as
    /// half a round trip.
    fn there(&self, redis: &Redis, now: Timestamp) -> u64 {
        let offset = redis.time_offset(self.prefix.as_bytes(), now);
        let millis = now.as_millis().saturating_add_signed(offset);
        millis.saturating_mul(1_000)
    }

    /// The one place where the script is called. `told` is what Redis is told beside, a counter each;
    /// empty where it is told nothing.
    async fn ask(
        &self,
        redis: &Redis,
        mode: &str,
        checks: &[Check<'_>],
        told: &[Vec<u8>],
    ) -> Result<Vec<i64>, Outage> {
        if !redis.is_up() {
            return Err(Outage::Open);
        }
        let call = Call::new(&self.prefix, checks);
        let (keys, args) = call.parts(mode, told);
        redis.script("limit", &self.script, &keys, &args).await
    }

    /// The decision that these readings make; remembers whom it refuses.
    fn decided(
        &self,
        checks: &[Check<'_>],
        counted: Counted,
        readings: &[Reading],
        now: Timestamp,
    ) -> Decision {
        let repeated = readings.iter().any(|reading| reading.refused)
            && self.shared.have_refused(checks, readings, now);
        Decision {
            repeated,
            ..decision(checks, counted, readings)
        }
    }

    /// The decision that the script's answer makes, or that its absence makes. `now` is from before
    /// the answer, which `took` so long: our moment, and Redis's in microseconds.
    fn settle(
        &self,
        checks: &[Check<'_>],
        telling: Option<Telling<'_>>,
        answer: Result<Vec<i64>, Outage>,
        down: RedisDown,
        (now, there): (Timestamp, u64),
        took: Duration,
    ) -> Decision {
        let answer = answer.and_then(|answer| parse(&answer, checks).ok_or(Outage::Protocol));
        self.shared.set_redis_away(answer.is_err());
        if let Some(telling) = telling {
            telling.end(checks, answer.as_deref(), now);
        }
        match (answer, down) {
            (Ok(readings), _) => {
                self.shared.remember(checks, &readings, now, took);
                self.decided(checks, Counted::Shared, &readings, now)
            }
            (Err(outage), RedisDown::Local) => {
                let readings = self.shared.fall_back(checks, now);
                let refused = readings.iter().any(|reading| reading.refused);
                if !refused && !batch::may_have_counted(outage) {
                    self.shared.batches.carry_over(checks, now, there);
                }
                self.decided(checks, Counted::Local, &readings, now)
            }
            (Err(_), RedisDown::Allow) => Decision::uncounted(),
            (Err(_), RedisDown::Deny) => Decision::unavailable(),
        }
    }
}

impl<'a> Check<'a> {
    /// A counter of `limit`; `write` writes whose it is, which is hashed before it goes anywhere.
    fn new(limit: &'a Limit, name: &'a Arc<str>, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let algorithm = match limit.sync {
            None => Algorithm::of(limit.rate),
            // What is told later has to find its place.
            Some(_) => Algorithm::Cells,
        };
        // Short: with most subjects it is one block of the digest.
        let called = limit.name.as_bytes();
        let mut text = Vec::with_capacity(SUBJECT_BYTES);
        text.push(algorithm.word().as_bytes().first().copied().unwrap_or(0));
        text.extend_from_slice(&micros(limit.rate.window).to_be_bytes());
        text.extend_from_slice(&(called.len() as u32).to_be_bytes());
        text.extend_from_slice(called);
        write(&mut text);
        let digest = digest::digest(&digest::SHA256, &text);
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self {
            limit,
            name,
            id,
            algorithm,
            rate: limit.rate,
        }
    }

    const fn is_batched(&self) -> bool {
        self.limit.sync.is_some()
    }

    /// The same counter where `replicas` processes count it, each its share.
    fn share(&self, replicas: u32) -> Self {
        let quota = NonZeroU32::new(self.rate.quota.get() / replicas).unwrap_or(NonZeroU32::MIN);
        Self {
            rate: Rate { quota, ..self.rate },
            ..*self
        }
    }
}

/// Keys and arguments of the script, as text.
struct Call<'a> {
    keys: Vec<Vec<u8>>,
    /// Of each counter: its algorithm, its quota, its window.
    numbers: Vec<(&'a [u8], Line<20>, Line<20>)>,
}

impl<'a> Call<'a> {
    fn new(prefix: &str, checks: &[Check<'a>]) -> Self {
        let key = |check: &Check<'_>| {
            let word = check.algorithm.word();
            let window = digits(micros(check.rate.window) / 1_000);
            let id = hex(&check.id);
            [
                prefix.as_bytes(),
                b":",
                word.as_bytes(),
                b":",
                window.as_bytes(),
                b"ms:",
                check.limit.name.as_bytes(),
                b":",
                id.as_bytes(),
            ]
            .concat()
        };
        let numbers = |check: &Check<'a>| {
            let (quota, window) = (check.rate.quota.get(), micros(check.rate.window));
            let word = check.algorithm.word().as_bytes();
            (word, digits(quota.into()), digits(window))
        };
        Self {
            keys: checks.iter().map(key).collect(),
            numbers: checks.iter().map(numbers).collect(),
        }
    }

    fn parts<'b>(&'b self, mode: &'b str, told: &'b [Vec<u8>]) -> (Vec<&'b [u8]>, Vec<&'b [u8]>) {
        let mut args = Vec::with_capacity(1 + self.numbers.len() * 4);
        args.push(mode.as_bytes());
        for (at, (word, quota, window)) in self.numbers.iter().enumerate() {
            let told = told.get(at).map_or(&[][..], Vec::as_slice);
            args.extend([word, quota.as_bytes(), window.as_bytes(), told]);
        }
        (self.keys.iter().map(Vec::as_slice).collect(), args)
    }
}

/// What a counter showed at a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    remaining: u32,
    reset: Duration,
    refused: bool,
}

fn decision(checks: &[Check<'_>], counted: Counted, readings: &[Reading]) -> Decision {
    let states = checks.iter().zip(readings).map(|(check, reading)| State {
        name: Arc::clone(check.name),
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
fn parse(answer: &[i64], checks: &[Check<'_>]) -> Option<Vec<Reading>> {
    let (admitted, rest) = answer.split_first()?;
    if rest.len() != checks.len() * 3 {
        return None;
    }
    let mut readings = Vec::with_capacity(checks.len());
    for (check, values) in checks.iter().zip(rest.chunks_exact(3)) {
        let [count, reset, refused] = values else {
            return None;
        };
        let number = |number: &i64| u64::try_from(*number).ok();
        let count = u32::try_from(number(count)?).unwrap_or(u32::MAX);
        readings.push(Reading {
            remaining: remaining(check.rate, count),
            reset: Duration::from_micros(number(reset)?),
            refused: number(refused)? != 0,
        });
    }
    let refused = readings.iter().any(|reading| reading.refused);
    (*admitted >= 0 && refused == (*admitted == 0)).then_some(readings)
}

const fn remaining(rate: Rate, count: u32) -> u32 {
    rate.quota.get().saturating_sub(count)
}

/// Whole microseconds, saturating.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
