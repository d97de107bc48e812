//! What this process counts and knows by itself. Shared by all workers; every map is bounded;
//! nothing here waits for the network or runs a timer.
//!
//! Everything that this process admits is counted in windows of its own, whoever decided it: where
//! there is no Redis they decide; while Redis is away they decide over this process's share, and go
//! on from what was admitted before; when it is back, what it has missed still counts. Beside them,
//! while Redis is away, stand governor's buckets: a hundredth of the memory a subject, so that they
//! still hold those whom a flood of others has driven out of the windows.

use super::batch::Batches;
use super::window::{self, Window};
use super::{Check, ID_BYTES, Id, Reading, remaining};
use crate::config::settings::Rate;
use crate::semantics::Timestamp;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::{DashMapStateStore, ShrinkableKeyedStateStore};
use governor::{Quota, RateLimiter};
use std::collections::HashMap;
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// Counters whose last answer from Redis is remembered (about 100 bytes each).
const SEEN_MAX: usize = 65_536;

/// Counters whose refusals are known to have been told (about 70 bytes each).
const TOLD_MAX: usize = 16_384;

/// What a moment loses by being cut to whole milliseconds, here and on a reading.
const CUT: Duration = Duration::from_millis(2);

/// Bytes of the windows; the coldest make room.
const WINDOWS_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Subjects that one governor counts while Redis is away (about 50 bytes each).
const FALLBACK_KEYS_MAX: usize = 262_144;

/// Different rates that are counted while Redis is away; reloads and replicas make new ones.
const FALLBACK_RATES_MAX: usize = 256;

/// A governor looks for finished subjects at most this often.
const SWEEP_CALLS_MIN: usize = 1_024;

/// Longest window that governor can count without overflow.
const FALLBACK_WINDOW_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// What a process knows and counts by itself.
#[derive(Debug)]
pub struct LocalLimits {
    seen: quick_cache::sync::Cache<Id, Seen>,
    /// Until when a counter refuses that has refused already.
    told: quick_cache::sync::Cache<Id, Timestamp>,
    /// The latest of these moments, in milliseconds: after it there is nobody to look for.
    refusing: AtomicU64,
    own: Mutex<Own>,
    fallback: RwLock<HashMap<(u32, Duration), Arc<Governor>>>,
    replicas: AtomicU32,
    redis_away: AtomicBool,
    /// What Redis is told later.
    pub(super) batches: Batches,
}

/// What this process has admitted.
#[derive(Debug)]
struct Own {
    windows: quick_cache::unsync::Cache<Id, Window, Bytes>,
    /// Microseconds. Workers read the clock before they come here, so a later one may bring an
    /// earlier moment; for a window that would be a clock that went back.
    latest: u64,
}

/// What Redis last said about a counter.
#[derive(Clone, Copy, Debug)]
struct Seen {
    quota: u32,
    remaining: u32,
    /// Never later than the true moment.
    until: Timestamp,
    /// By how much the true moment may be later.
    late: Duration,
}

/// Weighs a window by what it may grow to.
#[derive(Clone, Debug)]
struct Bytes;

impl quick_cache::Weighter<Id, Window> for Bytes {
    fn weight(&self, _: &Id, window: &Window) -> u64 {
        let entries = match window {
            Window::Log(log) => log.capacity() as u64 * 8,
            Window::Cells(..) => 0,
        };
        ID_BYTES as u64 + size_of::<Window>() as u64 + entries
    }
}

impl Default for LocalLimits {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalLimits {
    /// Nothing known, nothing counted, one replica.
    #[must_use]
    pub fn new() -> Self {
        Self {
            seen: quick_cache::sync::Cache::new(SEEN_MAX),
            told: quick_cache::sync::Cache::new(TOLD_MAX),
            refusing: AtomicU64::new(0),
            own: Mutex::new(Own {
                windows: quick_cache::unsync::Cache::with_weighter(1_024, WINDOWS_BYTES_MAX, Bytes),
                latest: 0,
            }),
            fallback: RwLock::default(),
            replicas: AtomicU32::new(1),
            redis_away: AtomicBool::new(false),
            batches: Batches::default(),
        }
    }

    /// Tells how many sidecars of this namespace were last seen, this one among them. While Redis
    /// is away each of them counts its share of a limit.
    pub fn set_replicas(&self, replicas: NonZeroU32) {
        self.replicas.store(replicas.get(), Ordering::Relaxed);
    }

    /// Whether the last decision that needed Redis had to do without (`larder_limit_local_fallback`).
    #[must_use]
    pub fn redis_away(&self) -> bool {
        self.redis_away.load(Ordering::Relaxed)
    }

    pub(super) fn set_redis_away(&self, away: bool) {
        // Read first: workers share the cache line, and it hardly ever changes.
        if self.redis_away() != away {
            self.redis_away.store(away, Ordering::Relaxed);
        }
    }

    /// Remembers what Redis said, and counts what it admitted. `now` is from before Redis was asked
    /// and `reset` is cut to whole milliseconds, so that the moment kept is never later than the
    /// true one: nobody is refused here whom Redis would admit. `took` is how long the answer took;
    /// by so much may the true moment be later, and clients are sent away until then.
    pub(super) fn remember(
        &self,
        checks: &[Check<'_>],
        readings: &[Reading],
        now: Timestamp,
        took: Duration,
    ) {
        for (counter, reading) in checks.iter().zip(readings) {
            let seen = Seen {
                quota: counter.rate.quota.get(),
                remaining: reading.remaining,
                until: now + reading.reset,
                late: took + CUT,
            };
            self.seen.insert(counter.id, seen);
        }
        if !readings.iter().any(|reading| reading.refused) {
            let mut own = self.own();
            // Redis counted it after `now`. That other workers have come later since makes it no
            // younger, or it would be counted here when it has left the window there.
            let (made, now) = (micros(now), own.at(now));
            (checks.iter()).for_each(|counter| own.add(counter, made, now));
        }
    }

    /// Whether any counter is known to have refused and not to admit again before `now`.
    pub(super) fn is_refusing(&self, now: Timestamp) -> bool {
        now.as_millis() < self.refusing.load(Ordering::Relaxed)
    }

    /// Whether all counters that refuse are known to have refused before and not to have admitted
    /// since; if not, they are from now on.
    pub(super) fn have_refused(
        &self,
        checks: &[Check<'_>],
        readings: &[Reading],
        now: Timestamp,
    ) -> bool {
        let mut before = true;
        for (counter, reading) in checks.iter().zip(readings) {
            let told = || self.told.get(&counter.id).is_some_and(|until| now < until);
            if reading.refused && !told() {
                let until = now + reading.reset;
                self.told.insert(counter.id, until);
                (self.refusing).fetch_max(until.as_millis(), Ordering::Relaxed);
                before = false;
            }
        }
        before
    }

    /// Refuses without Redis if a counter is known to be full until later than `now`: Redis said so,
    /// or this process alone has filled it. The other counters are shown as last seen.
    pub(super) fn known_full(&self, checks: &[Check<'_>], now: Timestamp) -> Option<Vec<Reading>> {
        let readings = self.look(checks, now);
        let full = readings.iter().any(|reading| reading.refused);
        full.then_some(readings)
    }

    /// What is known here of the counters: counted by this process, or last seen in Redis.
    pub(super) fn look(&self, checks: &[Check<'_>], now: Timestamp) -> Vec<Reading> {
        let mut readings = {
            let mut own = self.own();
            let now = own.at(now);
            let readings = checks.iter().map(|counter| own.read(counter, now));
            readings.collect::<Vec<_>>()
        };
        for (counter, reading) in checks.iter().zip(&mut readings) {
            let quota = counter.rate.quota.get();
            if let Some(seen) = self.seen.get(&counter.id)
                && now < seen.until
            {
                let reset = seen.until.since(now);
                let said = Reading {
                    remaining: seen.remaining.min(quota),
                    // Whatever was admitted before now leaves within a window.
                    reset: (reset + seen.late).min(reset.max(counter.rate.window)),
                    // A reload may have raised the quota since.
                    refused: seen.remaining == 0 && quota <= seen.quota,
                };
                // Redis knows what the others admit too; only a refusal of our own weighs more.
                if !reading.refused || said.refused && said.reset > reading.reset {
                    *reading = said;
                }
            }
        }
        readings
    }

    /// What this process has counted of its share of each limit.
    pub(super) fn look_at_shares(&self, checks: &[Check<'_>], now: Timestamp) -> Vec<Reading> {
        let replicas = self.replicas.load(Ordering::Relaxed).max(1);
        let mut own = self.own();
        let now = own.at(now);
        (checks.iter())
            .map(|counter| own.read(&counter.share(replicas), now))
            .collect()
    }

    /// Counts a request of batched counters, if Redis need not be asked; `there` is Redis's clock, in
    /// microseconds.
    pub(super) fn count_batched(
        &self,
        checks: &[Check<'_>],
        now: Timestamp,
        there: u64,
    ) -> Option<Vec<Reading>> {
        let replicas = self.replicas.load(Ordering::Relaxed).max(1);
        let readings = self.batches.count(checks, replicas, now, there)?;
        let mut own = self.own();
        let now = own.at(now);
        checks.iter().for_each(|check| own.add(check, now, now));
        Some(readings)
    }

    /// Counts exactly and in this process alone: for a larder without Redis.
    pub(super) fn count(&self, checks: &[Check<'_>], now: Timestamp) -> Vec<Reading> {
        let mut own = self.own();
        let now = own.at(now);
        let before: Vec<Reading> = checks.iter().map(|one| own.read(one, now)).collect();
        if before.iter().any(|reading| reading.refused) {
            return before;
        }
        (checks.iter())
            .map(|counter| {
                own.add(counter, now, now);
                Reading {
                    refused: false,
                    ..own.read(counter, now)
                }
            })
            .collect()
    }

    /// Counts this process's share of each limit, while Redis is away.
    ///
    /// Buckets are taken from one after the other, and given back if a later one or the windows
    /// refuse: another request that comes between may be refused although it would have fitted,
    /// never admitted although it would not.
    pub(super) fn fall_back(&self, checks: &[Check<'_>], now: Timestamp) -> Vec<Reading> {
        let replicas = self.replicas.load(Ordering::Relaxed).max(1);
        let shares: Vec<Check<'_>> = (checks.iter())
            .map(|counter| counter.share(replicas))
            .collect();
        let governors: Vec<Arc<Governor>> = shares
            .iter()
            .map(|share| self.governor(share.rate))
            .collect();
        let mut taken = 0;
        let mut empty = None;
        for (share, governor) in shares.iter().zip(&governors) {
            match governor.take(&share.id, now) {
                Ok(()) => taken += 1,
                Err(wait) => {
                    empty = Some(wait);
                    break;
                }
            }
        }
        let readings = match empty {
            None => self.count(&shares, now),
            Some(wait) => {
                let mut own = self.own();
                let now = own.at(now);
                let readings = shares.iter().map(|share| own.read(share, now));
                let mut readings: Vec<Reading> = readings.collect();
                if let Some(reading) = readings.get_mut(taken) {
                    *reading = Reading {
                        remaining: 0,
                        reset: reading.reset.max(wait),
                        refused: true,
                    };
                }
                readings
            }
        };
        if readings.iter().any(|reading| reading.refused) {
            for (share, governor) in shares.iter().zip(&governors).take(taken) {
                governor.give_back(&share.id);
            }
        }
        readings
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn governor(&self, rate: Rate) -> Arc<Governor> {
        let key = (rate.quota.get(), rate.window);
        let known = self.fallback.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(governor) = known.get(&key) {
            return Arc::clone(governor);
        }
        drop(known);
        let mut known = self
            .fallback
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() >= FALLBACK_RATES_MAX {
            known.clear();
        }
        let governor = known.entry(key);
        Arc::clone(governor.or_insert_with(|| Arc::new(Governor::new(rate))))
    }
}

fn micros(at: Timestamp) -> u64 {
    at.as_millis().saturating_mul(1_000)
}

impl Own {
    /// Microseconds on a clock that never goes back.
    fn at(&mut self, now: Timestamp) -> u64 {
        self.latest = micros(now).max(self.latest);
        self.latest
    }

    fn add(&mut self, counter: &Check<'_>, made: u64, now: u64) {
        let fresh = || Ok::<_, Infallible>(Window::new(counter.algorithm));
        // Nothing comes back where one window alone would be more than all may be together.
        if let Ok(Some(mut window)) = self.windows.get_mut_or_insert_with(&counter.id, fresh) {
            window.add(counter.rate, made, now);
        }
    }

    /// What a counter shows, and whether it would refuse.
    fn read(&mut self, counter: &Check<'_>, now: u64) -> Reading {
        let reading = match self.windows.get_mut(&counter.id) {
            Some(mut window) => window.read(counter.rate, now),
            None => window::Reading::default(),
        };
        let remaining = remaining(counter.rate, reading.count);
        Reading {
            remaining,
            reset: Duration::from_micros(reading.reset),
            refused: remaining == 0,
        }
    }
}

/// governor's limiter over many subjects of one rate: a bucket of the whole quota, filled again over
/// one window. In a window it admits less than twice the quota, and never less than the quota.
#[derive(Debug)]
struct Governor {
    limiter: RateLimiter<Id, Store, Hand, NoOpMiddleware<Nanos>>,
    states: Store,
    hand: Hand,
    /// Nanoseconds until one more is in the bucket.
    refill: u64,
    until_sweep: AtomicI64,
}

impl Governor {
    fn new(rate: Rate) -> Self {
        let window = rate.window.min(FALLBACK_WINDOW_MAX).as_nanos() as u64;
        let refill = (window / u64::from(rate.quota.get())).max(1);
        let quota = Quota::with_period(Duration::from_nanos(refill))
            .unwrap_or(Quota::per_second(NonZeroU32::MIN))
            .allow_burst(rate.quota);
        let (hand, states) = (Hand::default(), Store::default());
        Self {
            limiter: RateLimiter::new(quota, states.clone(), hand.clone()),
            states,
            hand,
            refill,
            until_sweep: AtomicI64::new(SWEEP_CALLS_MIN as i64),
        }
    }

    /// Counts one if it fits, else says in how long it will.
    fn take(&self, id: &Id, now: Timestamp) -> Result<(), Duration> {
        self.hand.set(now);
        self.sweep();
        let taken = self.limiter.check_key(id);
        taken.map_err(|not_until| not_until.wait_time_from(self.hand.now()))
    }

    /// Takes back what [`Governor::take`] counted.
    fn give_back(&self, id: &Id) {
        let refill = Nanos::new(self.refill);
        let _ = self.states.measure_and_replace(id, |full_at| {
            full_at.map_or(Err(()), |full_at| Ok(((), full_at.saturating_sub(refill))))
        });
    }

    /// Forgets subjects that owe nothing, after as many calls as the last sweep left subjects: so a
    /// call costs the same on average however many there are. Beyond the bound all are forgotten.
    fn sweep(&self) {
        if self.until_sweep.fetch_sub(1, Ordering::Relaxed) > 0 {
            return;
        }
        self.limiter.retain_recent();
        if self.limiter.len() > FALLBACK_KEYS_MAX {
            self.states.0.clear();
        }
        let next = self.limiter.len().max(SWEEP_CALLS_MIN);
        let next = i64::try_from(next).unwrap_or(i64::MAX);
        self.until_sweep.store(next, Ordering::Relaxed);
    }
}

/// The states that governor keeps, within reach of [`Governor::give_back`].
#[derive(Clone, Debug, Default)]
struct Store(Arc<DashMapStateStore<Id>>);

impl StateStore for Store {
    type Key = Id;

    fn measure_and_replace<T, F, E>(&self, key: &Id, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, measure)
    }
}

impl ShrinkableKeyedStateStore<Id> for Store {
    fn retain_recent(&self, drop_below: Nanos) {
        self.0.retain_recent(drop_below);
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A clock that shows the latest `now` it was handed, in nanoseconds since the epoch.
#[derive(Clone, Debug, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn set(&self, now: Timestamp) {
        // Half of the range is left for governor's sums.
        let nanos = now.as_millis().saturating_mul(1_000_000).min(u64::MAX / 2);
        self.0.fetch_max(nanos, Ordering::Relaxed);
    }
}

impl Clock for Hand {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{Audience, Limit, LimitPer};

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn counter(id: u8, quota: u32, seconds: u64) -> Check<'static> {
        let rate = Rate {
            quota: NonZeroU32::new(quota).unwrap(),
            window: Duration::from_secs(seconds),
        };
        let limit = Limit::new("l".into(), Audience::Anyone, rate, &[LimitPer::Ip]);
        let limit = Box::leak(Box::new(limit));
        Check {
            id: [id; ID_BYTES],
            ..Check::new(limit, &limit.names[0], |_| {})
        }
    }

    fn at(millis: u64) -> Timestamp {
        START + Duration::from_millis(millis)
    }

    fn admitted(readings: &[Reading]) -> bool {
        !readings.iter().any(|reading| reading.refused)
    }

    #[test]
    fn while_redis_is_away_no_window_holds_more_than_the_share() {
        for (quota, replicas) in [(60, 1), (60, 3), (10, 1), (10, 4), (1, 1), (2, 1), (5, 9)] {
            let limits = LocalLimits::new();
            limits.set_replicas(NonZeroU32::new(replicas).unwrap());
            let counter = counter(1, quota, 60);
            let times: Vec<u64> = (0..4_000_u64)
                .map(|n| n * 61)
                .filter(|millis| admitted(&limits.fall_back(&[counter], at(*millis))))
                .collect();
            let share = (quota / replicas).max(1) as usize;
            let over = times
                .windows(share + 1)
                .find(|run| run[share] - run[0] < 60_000);
            assert_eq!(over, None, "{quota} over {replicas}");
            assert!(times.len() >= 2 * share);
        }
    }

    #[test]
    fn who_keeps_to_the_limit_is_never_refused_while_redis_is_away() {
        let limits = LocalLimits::new();
        let counter = counter(1, 60, 60);
        // Ten a burst, every ten seconds.
        let mut asked = (0..600_u64).map(|n| n / 10 * 10_000 + n % 10);
        assert!(asked.all(|millis| admitted(&limits.fall_back(&[counter], at(millis)))));
    }

    #[test]
    fn a_refusal_says_when_it_is_over_and_what_is_left() {
        let limits = LocalLimits::new();
        let counter = counter(1, 5, 60);
        let left: Vec<u32> = (0..5)
            .map(|_| limits.fall_back(&[counter], at(0))[0].remaining)
            .collect();
        assert_eq!(left, [4, 3, 2, 1, 0]);
        let refused = limits.fall_back(&[counter], at(1_000))[0];
        assert_eq!(
            (refused.refused, refused.reset),
            (true, Duration::from_secs(59))
        );
        assert!(limits.fall_back(&[counter], at(59_999))[0].refused);
        assert!(!limits.fall_back(&[counter], at(60_000))[0].refused);
    }

    #[test]
    fn governor_holds_whom_the_windows_have_forgotten() {
        let limits = LocalLimits::new();
        let counter = counter(1, 10, 60);
        let ask = || admitted(&limits.fall_back(&[counter], at(0)));
        assert_eq!((0..20).filter(|_| ask()).count(), 10);
        limits.own().windows.clear();
        let refused = limits.fall_back(&[counter], at(0))[0];
        assert_eq!(
            (refused.refused, refused.reset),
            (true, Duration::from_secs(6))
        );
    }

    #[test]
    fn what_was_taken_is_given_back_when_another_counter_refuses() {
        let limits = LocalLimits::new();
        let (user, ip) = (counter(1, 20, 60), counter(2, 1, 60));
        assert!(admitted(&limits.fall_back(&[user, ip], at(0))));
        let before = limits.fall_back(&[user, ip], at(0));
        assert_eq!((before[0].refused, before[1].refused), (false, true));
        for _ in 0..50 {
            assert_eq!(limits.fall_back(&[user, ip], at(0)), before);
        }
        assert_eq!(before[0].remaining, 19);
        assert!((0..19).all(|_| admitted(&limits.fall_back(&[user], at(0)))));
    }

    #[test]
    fn what_was_admitted_counts_across_the_loss_and_the_return_of_redis() {
        let limits = LocalLimits::new();
        let counter = counter(1, 10, 60);
        let said = |remaining| Reading {
            remaining,
            reset: Duration::from_secs(30),
            refused: false,
        };
        for n in 0..8 {
            limits.remember(&[counter], &[said(9 - n)], at(0), Duration::ZERO);
        }
        let fits = (0..9).filter(|_| admitted(&limits.fall_back(&[counter], at(10))));
        assert_eq!(fits.count(), 2);
        // A Redis that comes back empty is not asked before its moment.
        let full = limits.known_full(&[counter], at(31_000)).unwrap();
        assert_eq!(
            (full[0].refused, full[0].reset),
            (true, Duration::from_secs(29))
        );
        assert_eq!(limits.known_full(&[counter], at(60_000)), None);
    }

    #[test]
    fn governors_forget_subjects_that_owe_nothing_and_are_bounded() {
        let limits = LocalLimits::new();
        let ask = |n: u32, millis: u64| {
            let mut counter = counter(0, 10, 1);
            counter.id[..4].copy_from_slice(&n.to_be_bytes());
            limits.fall_back(&[counter], at(millis));
        };
        (0..20_000).for_each(|n| ask(n, u64::from(n)));
        let governor = limits.governor(counter(0, 10, 1).rate);
        assert!(governor.limiter.len() < 5_000, "{}", governor.limiter.len());
        for quota in 1..1_000 {
            limits.fall_back(&[counter(1, quota, 1)], at(0));
        }
        assert!(limits.fallback.read().unwrap().len() <= FALLBACK_RATES_MAX);
    }

    #[test]
    fn a_counter_known_to_be_full_is_refused_until_its_moment_and_not_longer() {
        let limits = LocalLimits::new();
        let (full, other) = (counter(1, 10, 60), counter(2, 20, 60));
        assert_eq!(limits.known_full(&[full, other], at(0)), None);
        let readings = [
            Reading {
                remaining: 0,
                reset: Duration::from_micros(2_999_900),
                refused: false,
            },
            Reading {
                remaining: 7,
                reset: Duration::from_secs(9),
                refused: false,
            },
        ];
        limits.remember(&[full, other], &readings, at(0), Duration::from_millis(5));
        let known = limits.known_full(&[full, other], at(2_998)).unwrap();
        assert_eq!(
            (known[0].refused, known[0].reset),
            (true, Duration::from_millis(1 + 5 + 2)),
            "until the latest moment that Redis can have meant"
        );
        assert_eq!((known[1].refused, known[1].remaining), (false, 7));
        assert_eq!(limits.known_full(&[full, other], at(2_999)), None);
        assert_eq!(limits.known_full(&[other], at(0)), None);
        let raised = Check {
            rate: counter(1, 11, 60).rate,
            ..full
        };
        assert_eq!(limits.known_full(&[raised], at(0)), None);
    }

    #[test]
    fn without_redis_the_count_is_exact_and_all_or_nothing() {
        let limits = LocalLimits::new();
        let (user, ip) = (counter(1, 10, 60), counter(2, 3, 60));
        let fits = (0..9).filter(|n| admitted(&limits.count(&[user, ip], at(*n))));
        assert_eq!(fits.count(), 3);
        assert_eq!(limits.count(&[user], at(9))[0].remaining, 6);
        let refused = limits.count(&[user, ip], at(10));
        assert_eq!((refused[0].refused, refused[1].refused), (false, true));
        assert_eq!(refused[1].reset, Duration::from_millis(59_990));
        assert!(!admitted(&limits.count(&[user, ip], at(59_999))));
        assert!(admitted(&limits.count(&[user, ip], at(60_000))));
    }

    #[test]
    fn a_worker_that_comes_late_with_an_early_moment_rejuvenates_nothing() {
        let limits = LocalLimits::new();
        let counter = counter(1, 2, 60);
        assert!(admitted(&limits.count(&[counter], at(100))));
        assert!(admitted(&limits.count(&[counter], at(50))));
        assert!(!admitted(&limits.count(&[counter], at(60_099))));
        assert!(admitted(&limits.count(&[counter], at(60_100))));
    }

    #[test]
    fn the_windows_are_bounded() {
        let limits = LocalLimits::new();
        for n in 0..400_000_u32 {
            let mut counter = counter(0, 60, 60);
            counter.id[..4].copy_from_slice(&n.to_be_bytes());
            limits.count(&[counter], at(0));
        }
        let own = limits.own();
        assert!(own.windows.weight() <= WINDOWS_BYTES_MAX);
        assert!(own.windows.len() < 400_000, "{}", own.windows.len());
    }
}
