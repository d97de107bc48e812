//! Counters of limits with `sync:`, decided here and told to Redis afterwards.
//!
//! Between two answers of Redis a counter stands where the last one left it, plus what was admitted here
//! since. What Redis has left is divided by the sidecars that there are: a share is admitted without
//! asking, and whoever comes after it makes Redis be asked, and told, at once. So only admissions are
//! decided here, never refusals; the nearer the limit, the more often Redis is asked; and a sidecar
//! alone is exact. With others, at most what they admit while they have not been told of and have
//! not heard (two intervals and round trips) can be over, and never more than their shares.
//!
//! Never waits for Redis and never asks it. The map is bounded: a counter that finds no room is asked
//! for in Redis, as without `sync:`. Nothing untold is forgotten to make room.

use super::window::{Algorithm, Window};
use super::{Check, Id, LocalLimits, Reading};
use crate::clock::Clock;
use crate::config::settings::{Limit, Rate};
use crate::redis_client::Outage;
use crate::semantics::Timestamp;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Counters held (about 400 bytes each).
const BATCHES_MAX: usize = 16_384;

/// Counters that one call of the script is told of: about 1 ms of Redis's time.
pub(super) const TOLD_AT_ONCE_MAX: usize = 64;

/// Those that rest are looked for at most so often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// An answer of Redis is used for so many intervals; one that is older says too little.
const INTERVALS: u32 = 2;

/// All batched counters of this process.
#[derive(Debug, Default)]
pub(super) struct Batches {
    held: Mutex<Held>,
    /// Something is due earlier than was known.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Held {
    batches: HashMap<Id, Batch>,
    /// When the first of them has to be told.
    due: Option<Timestamp>,
    swept: Timestamp,
}

/// One counter.
#[derive(Debug)]
struct Batch {
    name: Arc<str>,
    limit: Arc<Limit>,
    /// Admitted here, and Redis does not know of it; on Redis's clock.
    untold: Window,
    /// Redis is being told of these, or is asked whether they may be admitted.
    telling: u32,
    /// What Redis said last; nothing where it was told more since and has not answered.
    heard: Option<Heard>,
    due: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    quota: u32,
    remaining: u32,
    /// Reckoned from before Redis was asked.
    reset: Timestamp,
    at: Timestamp,
}

/// A counter that has to be told.
#[derive(Debug)]
pub(super) struct Due {
    id: Id,
    name: Arc<str>,
    limit: Arc<Limit>,
}

impl Due {
    pub fn check(&self) -> Check<'_> {
        Check {
            limit: &self.limit,
            name: &self.name,
            id: self.id,
            algorithm: Algorithm::Cells,
            rate: self.limit.rate,
        }
    }
}

impl Batches {
    /// Counts one on each counter if all have heard of Redis lately and have of their share; else none.
    pub fn count(
        &self,
        checks: &[Check<'_>],
        replicas: u32,
        now: Timestamp,
        there: u64,
    ) -> Option<Vec<Reading>> {
        let mut held = self.held();
        let has_room = |check: &Check<'_>| {
            let batch = held.batches.get(&check.id)?;
            batch.has_room(check, replicas, now).then_some(())
        };
        checks.iter().try_for_each(has_room)?;
        let mut readings = Vec::with_capacity(checks.len());
        let mut earliest: Option<Timestamp> = None;
        for check in checks {
            let batch = held.batches.get_mut(&check.id)?;
            batch.add(check.rate, there);
            earliest = earlier(earliest, batch.becomes_due(check.limit, now));
            readings.push(batch.read(check, now));
        }
        self.note(&mut held, earliest);
        Some(readings)
    }

    /// Counts one on each batched counter, although Redis is away: it is told of it when it is back.
    pub fn carry_over(&self, checks: &[Check<'_>], now: Timestamp, there: u64) {
        let mut held = self.held();
        let mut earliest = None;
        for check in checks.iter().filter(|check| check.is_batched()) {
            if let Some(batch) = held.batch(check, now) {
                batch.add(check.rate, there);
                earliest = earlier(earliest, batch.becomes_due(check.limit, now));
            }
        }
        self.note(&mut held, earliest);
    }

    /// The counters that are due by now, or all that have anything to tell.
    pub fn due(&self, now: Timestamp, all: bool) -> Vec<Due> {
        let mut held = self.held();
        let mut due = Vec::new();
        let mut next = None;
        for (id, batch) in &held.batches {
            match batch.due {
                Some(at) if all || at <= now => due.push(Due {
                    id: *id,
                    name: batch.name.clone(),
                    limit: batch.limit.clone(),
                }),
                later => next = earlier(next, later),
            }
        }
        held.due = next;
        due
    }

    /// Waits until something is due.
    pub async fn wait_until_due(&self, clock: &Clock) {
        loop {
            let due = self.held().due;
            match due.map(|due| due.since(clock.now())) {
                None => self.earlier.notified().await,
                Some(Duration::ZERO) => return,
                Some(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.earlier.notified() => {}
                    }
                }
            }
        }
    }

    fn note(&self, held: &mut Held, due: Option<Timestamp>) {
        if let Some(due) = due
            && held.due.is_none_or(|known| due < known)
        {
            held.due = Some(due);
            self.earlier.notify_one();
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// The batch of a counter, a new one if there is room.
    fn batch(&mut self, check: &Check<'_>, now: Timestamp) -> Option<&mut Batch> {
        if self.batches.len() >= BATCHES_MAX
            && !self.batches.contains_key(&check.id)
            && now >= self.swept + SWEEP_EVERY
        {
            self.swept = now;
            self.batches.retain(|_, batch| !batch.rests(now));
        }
        let full = self.batches.len() >= BATCHES_MAX;
        match self.batches.entry(check.id) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(_) if full => None,
            Entry::Vacant(room) => Some(room.insert(Batch {
                name: Arc::clone(check.name),
                limit: Arc::new(check.limit.clone()),
                untold: Window::new(Algorithm::Cells),
                telling: 0,
                heard: None,
                due: None,
            })),
        }
    }
}

impl Batch {
    fn has_room(&self, check: &Check<'_>, replicas: u32, now: Timestamp) -> bool {
        let Some(heard) = &self.heard else {
            return false;
        };
        let patience = sync(check.limit) * INTERVALS;
        now < heard.at + patience && self.since() < heard.left(check.rate) / replicas
    }

    fn add(&mut self, rate: Rate, there: u64) {
        let moment = self.moment(rate, there);
        self.untold.add(rate, moment, moment);
    }

    /// Requests read the clock before they come here, so a later one may bring an earlier moment; for
    /// a window that would be a clock that went back.
    fn moment(&self, rate: Rate, there: u64) -> u64 {
        there.max(self.untold.latest(rate))
    }

    /// Whether what Redis said last is of later than `asked`: answers may overtake each other.
    fn has_heard_later(&self, asked: Timestamp, remaining: u32) -> bool {
        self.heard.is_some_and(|heard| {
            heard.at > asked || heard.at == asked && heard.remaining < remaining
        })
    }

    /// Admitted here since what Redis said.
    fn since(&self) -> u32 {
        self.untold.count().saturating_add(self.telling)
    }

    fn read(&self, check: &Check<'_>, now: Timestamp) -> Reading {
        let left = self.heard.map_or(0, |heard| heard.left(check.rate));
        let reset = self.heard.map(|heard| heard.reset.since(now));
        Reading {
            remaining: left.saturating_sub(self.since()),
            reset: reset.unwrap_or(check.rate.window),
            refused: false,
        }
    }

    /// Sees to it that Redis is told an interval after it was heard, so that its answer is there in time.
    /// The moment, if it is news.
    fn becomes_due(&mut self, limit: &Limit, now: Timestamp) -> Option<Timestamp> {
        if self.due.is_some() {
            return None;
        }
        let due = self.heard.map_or(now, |heard| heard.at) + sync(limit);
        self.due = Some(due.max(now));
        self.due
    }

    /// What Redis was told of, or asked for beside, is no longer under way.
    fn has_told(&mut self, told: &Window, asked: u32) {
        let no_longer = told.count().saturating_add(asked);
        self.telling = self.telling.saturating_sub(no_longer);
    }

    /// Whether nothing would be lost by forgetting it.
    fn rests(&self, now: Timestamp) -> bool {
        let patience = sync(&self.limit) * INTERVALS;
        self.since() == 0 && self.heard.is_none_or(|heard| now >= heard.at + patience)
    }
}

impl Heard {
    /// What was left, by a quota that a reload may have changed since.
    fn left(&self, rate: Rate) -> u32 {
        let counted = self.quota.saturating_sub(self.remaining);
        rate.quota.get().saturating_sub(counted)
    }
}

/// Redis is being told of some counters. Dropped without an answer, it has been told: whoever asked went
/// away, the command did not.
#[derive(Debug)]
pub(super) struct Telling<'a> {
    limits: &'a LocalLimits,
    /// A request that is asked for beside: one on each counter, which may be admitted.
    asked: u32,
    untold: Vec<(Id, Option<Window>)>,
    told: Vec<Vec<u8>>,
}

impl<'a> Telling<'a> {
    /// Takes what is untold of these counters; those that are not batched have nothing. `asks`: a
    /// request is to be decided with it.
    pub fn begin(
        limits: &'a LocalLimits,
        checks: &[Check<'_>],
        asks: bool,
        now: Timestamp,
        there: u64,
    ) -> Self {
        let mut held = limits.batches.held();
        let asked = u32::from(asks);
        let mut take = |check: &Check<'_>| {
            if !check.is_batched() {
                return None;
            }
            let batch = held.batch(check, now)?;
            batch.due = None;
            // Forgets what has left the window while Redis was away.
            batch
                .untold
                .read(check.rate, batch.moment(check.rate, there));
            let untold = std::mem::replace(&mut batch.untold, Window::new(Algorithm::Cells));
            let telling = untold.count().saturating_add(asked);
            batch.telling = batch.telling.saturating_add(telling);
            Some(untold)
        };
        let untold: Vec<_> = (checks.iter())
            .map(|check| (check.id, take(check)))
            .collect();
        let told = untold
            .iter()
            .map(|(_, untold)| untold.as_ref().map(encode).unwrap_or_default());
        Self {
            told: told.collect(),
            limits,
            asked,
            untold,
        }
    }

    /// The script's argument for each counter.
    pub fn told(&self) -> &[Vec<u8>] {
        &self.told
    }

    /// Redis has answered, or not. What certainly has not reached it is told again.
    pub fn end(
        mut self,
        checks: &[Check<'_>],
        answer: Result<&[Reading], &Outage>,
        now: Timestamp,
    ) {
        let again = answer.is_err_and(|outage| !may_have_counted(*outage));
        let untold = std::mem::take(&mut self.untold);
        let mut held = self.limits.batches.held();
        let mut earliest = None;
        for (at, (check, (_, untold))) in checks.iter().zip(untold).enumerate() {
            let Some(untold) = untold else { continue };
            let Some(batch) = held.batches.get_mut(&check.id) else {
                continue;
            };
            if *batch.limit != *check.limit {
                batch.limit = Arc::new(check.limit.clone());
            }
            batch.has_told(&untold, self.asked);
            if answer.is_err() && !again {
                batch.heard = None;
            }
            if again && untold.count() > 0 {
                let newest = (batch.untold.latest(check.rate)).max(untold.latest(check.rate));
                batch.untold.take_over(check.rate, &untold, newest);
                let due = *batch.due.get_or_insert(now + sync(check.limit));
                earliest = earlier(earliest, Some(due));
            }
            let reading = answer.ok().and_then(|readings| readings.get(at));
            if let Some(reading) = reading
                && !batch.has_heard_later(now, reading.remaining)
            {
                batch.heard = Some(Heard {
                    quota: check.rate.quota.get(),
                    remaining: reading.remaining,
                    reset: now + reading.reset,
                    at: now,
                });
            }
        }
        self.limits.batches.note(&mut held, earliest);
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut held = self.limits.batches.held();
        for (id, untold) in self.untold.drain(..) {
            if let (Some(batch), Some(untold)) = (held.batches.get_mut(&id), untold) {
                batch.has_told(&untold, self.asked);
                batch.heard = None;
            }
        }
    }
}

/// The script's argument: the number of each cell and what is in it, big endian.
pub(super) fn encode(untold: &Window) -> Vec<u8> {
    let mut told = Vec::new();
    for (cell, count) in untold.cells() {
        told.extend_from_slice(&(cell as f64).to_be_bytes());
        told.extend_from_slice(&count.to_be_bytes());
    }
    told
}

/// Whether Redis may have counted what it did not answer in time: then it is not told again, or a slow
/// Redis would count it many times.
pub(super) const fn may_have_counted(outage: Outage) -> bool {
    matches!(outage, Outage::Timeout | Outage::Spent | Outage::Stalled)
}

fn sync(limit: &Limit) -> Duration {
    limit.sync.unwrap_or_default()
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{Audience, LimitPer};
    use crate::limit::micros;
    use proptest::prelude::*;
    use std::num::NonZeroU32;

    const START: u64 = 1_700_000_000_000;
    const WINDOW: u64 = 1_000;

    fn limit(quota: u32, sync: u64) -> Limit {
        let rate = Rate {
            quota: NonZeroU32::new(quota).unwrap(),
            window: Duration::from_millis(WINDOW),
        };
        Limit {
            sync: Some(Duration::from_millis(sync)),
            ..Limit::new("l".into(), Audience::Anyone, rate, &[LimitPer::Ip])
        }
    }

    fn check(limit: &Limit) -> Check<'_> {
        Check::new(limit, &limit.names[0], |to| to.push(b'a'))
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// What Redis does with a call, on the same clock as everybody.
    fn redis(window: &mut Window, telling: &Telling<'_>, rate: Rate, millis: u64) -> Reading {
        let now = millis * 1_000;
        if let Some(untold) = &telling.untold[0].1 {
            window.take_over(rate, untold, now);
        }
        let full = telling.asked > 0 && !window.admits(rate, now);
        if telling.asked > 0 && !full {
            window.add(rate, now, now);
        }
        let reading = window.read(rate, now);
        Reading {
            remaining: rate.quota.get().saturating_sub(reading.count),
            reset: Duration::from_micros(reading.reset),
            refused: full,
        }
    }

    /// A call under way: when it reaches Redis, when its answer is back, and what that is.
    struct Call<'a> {
        sidecar: usize,
        telling: Telling<'a>,
        begun: u64,
        there: u64,
        back: u64,
        reading: Option<Reading>,
    }

    proptest! {
        #[test]
        fn never_more_is_over_than_the_others_admit_unheard(
            sidecars in 1_usize..5,
            quota in 20_u32..300,
            sync in 10_u64..100,
            trip in 1_u64..20,
            schedule in prop::collection::vec((0_u64..12, 0_usize..5, 1_usize..25), 20..250),
        ) {
            let (limit, replicas) = (limit(quota, sync), sidecars as u32);
            let check = check(&limit);
            let limits: Vec<LocalLimits> = (0..sidecars).map(|_| LocalLimits::new()).collect();
            for one in &limits {
                one.set_replicas(NonZeroU32::new(replicas).unwrap());
            }
            let mut window = Window::new(Algorithm::Cells);
            let mut calls: Vec<Call<'_>> = Vec::new();
            let mut admitted: Vec<(u64, usize)> = Vec::new();
            let mut now = START;
            for (gap, sidecar, burst) in schedule {
                let until = now + gap;
                loop {
                    // Redis and the answers come first, then what is due, then requests.
                    for call in &mut calls {
                        if call.there == now && call.reading.is_none() {
                            let rate = check.rate;
                            let reading = redis(&mut window, &call.telling, rate, now);
                            if call.telling.asked > 0 && !reading.refused {
                                admitted.push((now, call.sidecar));
                            }
                            if reading.refused {
                                // A window and its thirtieth: nobody is refused by what is not there.
                                let since = now - WINDOW - WINDOW / 30 - 1;
                                let counted = admitted.iter().filter(|(at, _)| *at >= since);
                                prop_assert!(counted.count() >= quota as usize);
                            }
                            call.reading = Some(reading);
                        }
                    }
                    let (back, under_way) = calls.into_iter().partition(|call| call.back == now);
                    calls = under_way;
                    let back: Vec<Call<'_>> = back;
                    for call in back {
                        let reading = call.reading.unwrap();
                        call.telling.end(&[check], Ok(&[reading]), at(call.begun));
                    }
                    for (sidecar, one) in limits.iter().enumerate() {
                        if !one.batches.due(at(now), false).is_empty() {
                            let telling = Telling::begin(one, &[check], false, at(now), now * 1_000);
                            let (there, back) = (now + trip, now + 2 * trip);
                            calls.push(Call { sidecar, telling, begun: now, there, back, reading: None });
                        }
                    }
                    if now == until {
                        break;
                    }
                    now += 1;
                }
                let sidecar = sidecar % sidecars;
                let one = &limits[sidecar];
                for _ in 0..burst {
                    match one.batches.count(&[check], replicas, at(now), now * 1_000) {
                        Some(_) => admitted.push((now, sidecar)),
                        None => {
                            let telling = Telling::begin(one, &[check], true, at(now), now * 1_000);
                            let (there, back) = (now + trip, now + 2 * trip);
                            calls.push(Call { sidecar, telling, begun: now, there, back, reading: None });
                        }
                    }
                }
            }
            // What a sidecar admits in two intervals and round trips, and its share, at most.
            let unheard = 2 * (sync + 2 * trip) + 2;
            let most = |sidecar: usize| {
                let times: Vec<u64> =
                    admitted.iter().filter(|(_, by)| *by == sidecar).map(|(at, _)| *at).collect();
                let within = |from: &u64| times.iter().filter(|at| (*from..from + unheard).contains(at)).count();
                times.iter().map(within).max().unwrap_or(0).min(quota as usize / sidecars)
            };
            let mut each: Vec<usize> = (0..sidecars).map(most).collect();
            each.sort_unstable();
            let over: usize = each.iter().skip(1).sum();
            for (from, _) in &admitted {
                let within = admitted.iter().filter(|(at, _)| (*from..from + WINDOW).contains(at));
                let count = within.count();
                prop_assert!(
                    count <= quota as usize + over,
                    "{count} of {quota}, {over} may be over"
                );
            }
        }
    }

    #[test]
    fn what_redis_was_not_told_is_told_again_and_what_it_may_have_counted_is_not() {
        let limit = limit(100, 50);
        let check = check(&limit);
        for (outage, left) in [
            (Outage::Connection, 3),
            (Outage::Open, 3),
            (Outage::Timeout, 0),
        ] {
            let limits = LocalLimits::new();
            for _ in 0..3 {
                limits
                    .batches
                    .carry_over(&[check], at(START), START * 1_000);
            }
            let due = || limits.batches.due(at(START + 1_000), false).len();
            assert_eq!(due(), 1);
            let now = START + 10;
            let telling = Telling::begin(&limits, &[check], false, at(now), now * 1_000);
            assert_eq!(telling.told()[0].len(), 12);
            telling.end(&[check], Err(&outage), at(now));
            let telling = Telling::begin(&limits, &[check], false, at(now), now * 1_000);
            let untold = telling.untold[0].1.as_ref().map_or(0, Window::count);
            assert_eq!(untold, left, "{outage:?}");
        }
    }

    #[test]
    fn a_share_is_not_admitted_twice_where_redis_was_told_and_did_not_answer() {
        let limit = limit(10, 50);
        let check = check(&limit);
        for answered in [true, false] {
            let limits = LocalLimits::new();
            let begin = || Telling::begin(&limits, &[check], false, at(START), START * 1_000);
            let reading = Reading {
                remaining: 10,
                reset: Duration::ZERO,
                refused: false,
            };
            begin().end(&[check], Ok(&[reading]), at(START));
            let count = || {
                let one = || limits.batches.count(&[check], 2, at(START), START * 1_000);
                (0..20).map_while(|_| one()).count()
            };
            assert_eq!(count(), 5, "half of what is left");
            let telling = begin();
            match answered {
                true => telling.end(&[check], Err(&Outage::Timeout), at(START)),
                // Whoever asked went away.
                false => drop(telling),
            }
            assert_eq!(count(), 0, "what is left now is for Redis to say");
        }
    }

    #[test]
    fn whoever_comes_with_an_earlier_moment_makes_nothing_older() {
        let limit = limit(100, 50);
        let check = check(&limit);
        let limits = LocalLimits::new();
        let late = START - 200;
        for millis in [START, late] {
            limits
                .batches
                .carry_over(&[check], at(millis), millis * 1_000);
        }
        let telling = Telling::begin(&limits, &[check], false, at(late), late * 1_000);
        let mut expected = Window::new(Algorithm::Cells);
        (0..2).for_each(|_| expected.add(check.rate, START * 1_000, START * 1_000));
        assert_eq!(telling.told()[0], encode(&expected));
    }

    #[test]
    fn what_leaves_the_window_untold_is_forgotten() {
        let limit = limit(100, 50);
        let check = check(&limit);
        let limits = LocalLimits::new();
        limits
            .batches
            .carry_over(&[check], at(START), START * 1_000);
        let later = START + 2 * WINDOW;
        let telling = Telling::begin(&limits, &[check], false, at(later), later * 1_000);
        assert!(telling.told()[0].is_empty());
    }

    #[test]
    fn a_counter_without_room_is_asked_for_in_redis_and_nothing_untold_makes_room() {
        let limit = limit(1_000, 50);
        let batches = Batches::default();
        let one = |n: usize| {
            let check = check(&limit);
            let mut id = check.id;
            id[..8].copy_from_slice(&n.to_be_bytes());
            Check { id, ..check }
        };
        for n in 0..BATCHES_MAX + 10 {
            batches.carry_over(&[one(n)], at(START), micros(Duration::from_millis(START)));
        }
        assert_eq!(batches.held().batches.len(), BATCHES_MAX);
        assert!(
            batches
                .held()
                .batches
                .values()
                .all(|batch| batch.since() == 1)
        );
        assert_eq!(
            batches.count(&[one(BATCHES_MAX + 1)], 1, at(START), START * 1_000),
            None
        );
    }
}
