//! Which keys are asked for most, and which by many at once (`GET /v1/hot`), as far as this process sees it.
//!
//! A table of fixed size that forgets: what is counted loses half of its weight every half minute, and
//! who is new takes the place of who was asked for least (Space-Saving, Metwally et al. 2005, in sets
//! of a few places each, so that nobody ever looks through the whole). Under load only a share of the
//! requests is counted, each for all of them. It never holds who asked.

use crate::semantics::{Key, Timestamp};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Sets, a power of two up to 256: the first byte of a key names its own.
const SETS: usize = 256;
/// Places in a set.
const PLACES: usize = 8;
/// Keys in the table.
pub const KEYS_MAX: usize = SETS * PLACES;
/// Uses lose half of their weight in this time.
pub const HALF_LIFE: Duration = Duration::from_secs(30);
/// Uses that are counted a second, about; beyond, one stands for several.
const COUNTED_MAX: u32 = 2_048;
/// A key with so many uses, weighed by age, is hot: that is about six a minute.
const HOT_USES: f32 = 4.0;
/// Longest URL that is kept, in bytes.
const URL_BYTES_MAX: usize = 2_048;

/// The table. Shared by all workers.
#[derive(Debug)]
pub struct Hot {
    sets: Box<[Mutex<Vec<Place>>]>,
    /// One use in so many is counted.
    each: AtomicU32,
    /// The second (upper half) and what has been counted in it.
    counted: AtomicU64,
}

#[derive(Debug)]
struct Place {
    key: Key,
    uses: f32,
    /// What of `uses` may have been another key's.
    doubt: f32,
    second: u64,
    what: What,
}

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct What {
    /// `host/path?query`
    pub url: Box<str>,
    /// Whether clients ask for it by `https`.
    pub tls: bool,
    /// Its route.
    pub route: Arc<str>,
    /// It is one client's or one user's own.
    pub is_personal: bool,
}

/// A key that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct HotKey {
    /// It.
    pub key: Key,
    /// What it stands for.
    pub what: What,
    /// Requests a minute, estimated from the last ones.
    pub per_minute: f32,
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
            each: AtomicU32::new(1),
            counted: AtomicU64::new(0),
        }
    }
}

impl Hot {
    /// Counts a use of `key` at `now`; `what` is only asked for where the key is new.
    pub fn used(&self, key: &Key, now: Timestamp, what: impl FnOnce() -> What) {
        let each = self.each.load(Relaxed);
        if each > 1 && fastrand::u32(..) & (each - 1) != 0 {
            return;
        }
        let second = now.as_millis() / 1_000;
        self.pace(second, each);
        let mut set = self.set(key);
        let uses = each as f32;
        if let Some(place) = set.iter_mut().find(|place| place.key == *key) {
            place.age(second);
            place.uses += uses;
            return;
        }
        let what = what();
        if what.url.len() > URL_BYTES_MAX {
            return;
        }
        let mut doubt = 0.0;
        if set.len() == PLACES {
            set.iter_mut().for_each(|place| place.age(second));
            let least = (0..PLACES).min_by(|a, b| set[*a].uses.total_cmp(&set[*b].uses));
            doubt = set.swap_remove(least.unwrap_or_default()).uses;
        }
        set.push(Place {
            key: *key,
            uses: doubt + uses,
            doubt,
            second,
            what,
        });
    }

    /// Whether `key` is certain to be asked for again and again.
    #[must_use]
    pub fn is_hot(&self, key: &Key, now: Timestamp) -> bool {
        let second = now.as_millis() / 1_000;
        let once = self.each.load(Relaxed) as f32;
        let mut set = self.set(key);
        let place = set.iter_mut().find(|place| place.key == *key);
        place.is_some_and(|place| {
            place.age(second);
            // One that was counted once for many may have been the only one.
            place.uses - place.doubt >= HOT_USES.max(once * 1.5)
        })
    }

    /// The keys that are asked for most, most first, `most` at most; none that were not asked for in
    /// the last minutes.
    #[must_use]
    pub fn top(&self, most: usize, now: Timestamp) -> Vec<HotKey> {
        /// Less than one use, two minutes ago.
        const FAINT: f32 = 1.0 / 16.0;
        let second = now.as_millis() / 1_000;
        let mut top = Vec::new();
        for set in &self.sets {
            let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
            for place in set.iter_mut() {
                place.age(second);
                let uses = place.uses - place.doubt;
                if uses >= FAINT {
                    top.push(HotKey {
                        key: place.key,
                        what: place.what.clone(),
                        per_minute: uses * 60.0 * std::f32::consts::LN_2 / HALF_LIFE.as_secs_f32(),
                    });
                }
            }
        }
        top.sort_by(|a, b| b.per_minute.total_cmp(&a.per_minute));
        top.truncate(most);
        top
    }

    /// Sees to it that no more are counted in a second than is good for the others: as many uses
    /// stand for one as the last second calls for.
    fn pace(&self, second: u64, each: u32) {
        let counted = self.counted.load(Relaxed);
        if counted >> 32 == second & 0xFFFF_FFFF {
            self.counted.store(counted + 1, Relaxed);
            return;
        }
        // Two threads may both begin a second; they find the same.
        let uses = (counted as u32).saturating_mul(each);
        let needed = (uses / COUNTED_MAX).max(1).next_power_of_two();
        self.each.store(needed, Relaxed);
        self.counted.store(second << 32 | 1, Relaxed);
    }

    fn set(&self, key: &Key) -> std::sync::MutexGuard<'_, Vec<Place>> {
        let set = usize::from(key.bytes()[0]) & (SETS - 1);
        self.sets[set]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many requests that wait for one fetch are a stampede.
pub const STAMPEDE: usize = 20;
/// How long a stampede is told of.
const TOLD_FOR: Duration = Duration::from_secs(60);
/// Stampedes told of at a time, the last ones.
const STAMPEDES_MAX: usize = 100;

/// Keys that many have waited for at the same time, in the last minute. Shared by all workers.
#[derive(Debug, Default)]
pub struct Stampedes(Mutex<VecDeque<Stampede>>);

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Stampede {
    /// What they waited for.
    pub key: Key,
    /// What that stands for.
    pub what: What,
    /// The most that waited at the same time, in powers of two from [`STAMPEDE`] on.
    pub waiting: usize,
    /// When that was.
    pub at: Timestamp,
}

impl Stampedes {
    /// One more waits for `key`, the `waiting`th. Returns whether that makes it a stampede.
    pub fn joined(
        &self,
        key: &Key,
        waiting: usize,
        now: Timestamp,
        what: impl FnOnce() -> What,
    ) -> bool {
        if waiting < STAMPEDE
            || !(waiting / STAMPEDE).is_power_of_two()
            || !waiting.is_multiple_of(STAMPEDE)
        {
            return false;
        }
        let mut told = self.lock();
        let known = told.iter().position(|one| one.key == *key);
        let stampede = match known.and_then(|at| told.remove(at)) {
            Some(known) => Stampede {
                waiting: known.waiting.max(waiting),
                at: now,
                ..known
            },
            None => Stampede {
                key: *key,
                what: what(),
                waiting,
                at: now,
            },
        };
        if told.len() == STAMPEDES_MAX {
            told.pop_front();
        }
        told.push_back(stampede);
        waiting == STAMPEDE
    }

    /// Those of the last minute, the latest first.
    #[must_use]
    pub fn lately(&self, now: Timestamp) -> Vec<Stampede> {
        let mut told = self.lock();
        told.retain(|one| now.since(one.at) <= TOLD_FOR);
        told.iter().rev().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Stampede>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Lets what was counted until now fade.
    fn age(&mut self, second: u64) {
        let since = second.saturating_sub(self.second);
        if since > 0 {
            let rest = (-(since as f32) / HALF_LIFE.as_secs_f32()).exp2();
            self.uses *= rest;
            self.doubt *= rest;
            self.second = second;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn key(number: u64) -> Key {
        // Spread as digests are.
        let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&spread.to_be_bytes());
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        Key::from_bytes(bytes)
    }

    fn what(number: u64) -> What {
        What {
            url: format!("shop.test/{number}").into(),
            tls: false,
            route: "cars".into(),
            is_personal: false,
        }
    }

    fn used(hot: &Hot, number: u64, now: Timestamp) {
        hot.used(&key(number), now, || what(number));
    }

    #[test]
    fn what_is_asked_for_most_comes_first_with_its_rate() {
        let hot = Hot::default();
        for second in 0..300 {
            let now = START + Duration::from_secs(second);
            (0..4).for_each(|_| used(&hot, 1, now));
            used(&hot, 2, now);
        }
        let now = START + Duration::from_secs(300);
        let top = hot.top(10, now);
        assert_eq!(&*top[0].what.url, "shop.test/1");
        assert!((top[0].per_minute - 240.0).abs() < 12.0, "{top:?}");
        assert!((top[1].per_minute - 60.0).abs() < 4.0, "{top:?}");
        assert_eq!(hot.top(1, now).len(), 1);
    }

    #[test]
    fn what_is_no_longer_asked_for_is_forgotten() {
        let hot = Hot::default();
        (0..8).for_each(|_| used(&hot, 1, START));
        assert!(hot.is_hot(&key(1), START));
        assert!(!hot.is_hot(&key(2), START), "never seen");
        assert!(!hot.is_hot(&key(1), START + HALF_LIFE * 2));
        assert_eq!(hot.top(9, START + HALF_LIFE * 2).len(), 1);
        assert!(hot.top(9, START + HALF_LIFE * 10).is_empty());
    }

    #[test]
    fn urls_that_are_too_long_to_be_kept_take_nobodys_place() {
        let hot = Hot::default();
        (0..8).for_each(|_| used(&hot, 1, START));
        let long = || What {
            url: "x".repeat(URL_BYTES_MAX + 1).into(),
            ..what(2)
        };
        (2..20_000).for_each(|number| hot.used(&key(number), START, long));
        assert!(hot.is_hot(&key(1), START));
        assert_eq!(hot.top(9, START).len(), 1);
    }

    #[test]
    fn a_crawl_over_a_million_keys_hides_no_hot_one_and_makes_none() {
        let hot = Hot::default();
        let mut now = START;
        for number in 0..1_000_000_u64 {
            now = START + Duration::from_millis(number / 10);
            used(&hot, 1_000_000 + number, now);
            if number % 1_000 == 0 {
                (0..100).for_each(|_| used(&hot, number / 1_000 % 10, now));
            }
        }
        let top = hot.top(20, now);
        assert_eq!(top.len().min(10), 10);
        for found in &top[..10] {
            let number = found.what.url.rsplit('/').next().unwrap();
            assert!(number.parse::<u64>().unwrap() < 10, "{found:?}");
        }
        let strangers = (0..1_000).filter(|at| hot.is_hot(&key(1_999_000 + at), now));
        assert_eq!(strangers.count(), 0);
        assert!(
            hot.sets
                .iter()
                .all(|set| set.lock().unwrap().len() <= PLACES)
        );
    }

    #[test]
    fn under_load_a_share_is_counted_and_stands_for_the_rest() {
        let hot = Hot::default();
        for second in 0..120 {
            let now = START + Duration::from_secs(second);
            (0..40_000).for_each(|_| used(&hot, 7, now));
            let counted = hot.counted.load(Relaxed) as u32;
            assert!(second < 2 || counted < COUNTED_MAX * 2, "{counted}");
        }
        let top = hot.top(1, START + Duration::from_secs(119));
        let expected = 40_000.0 * 60.0;
        assert!((top[0].per_minute / expected - 1.0).abs() < 0.15, "{top:?}");
    }

    #[test]
    fn a_stampede_is_told_once_and_grows_and_is_forgotten() {
        let stampedes = Stampedes::default();
        let joined =
            |number, waiting, now| stampedes.joined(&key(number), waiting, now, || what(number));
        let begun = (1..=100).filter(|waiting| joined(1, *waiting, START));
        assert_eq!(begun.collect::<Vec<_>>(), [STAMPEDE]);
        assert_eq!(stampedes.lately(START)[0].waiting, 80);
        let later = START + Duration::from_secs(30);
        assert!(joined(2, STAMPEDE, later));
        assert!(joined(1, STAMPEDE, later), "the next fetch of the same key");
        let lately = stampedes.lately(later);
        let told: Vec<_> = lately.iter().map(|one| (one.key, one.waiting)).collect();
        assert_eq!(told, [(key(1), 80), (key(2), STAMPEDE)]);
        assert!(stampedes.lately(later + TOLD_FOR * 2).is_empty());
        let all = (0..1_000).filter(|number| joined(*number, STAMPEDE, later));
        assert_eq!(all.count(), 1_000);
        assert_eq!(stampedes.lately(later).len(), STAMPEDES_MAX);
    }

    proptest! {
        #[test]
        fn it_never_claims_more_uses_than_there_were(uses in proptest::collection::vec((0_u64..3_000, 0_u64..90), 0..3_000)) {
            let hot = Hot::default();
            let mut uses = uses;
            uses.sort_by_key(|(_, second)| *second);
            let mut real = std::collections::HashMap::<u64, f32>::new();
            for (number, second) in &uses {
                used(&hot, *number, START + Duration::from_secs(*second));
                *real.entry(*number).or_default() += 1.0;
            }
            for found in hot.top(KEYS_MAX, START + Duration::from_secs(90)) {
                let number: u64 = found.what.url.rsplit('/').next().unwrap().parse().unwrap();
                let claimed = found.per_minute * HALF_LIFE.as_secs_f32() / 60.0 / std::f32::consts::LN_2;
                prop_assert!(claimed <= real[&number] + 0.01);
            }
        }
    }
}
