//! How stale hits were, by the age of what they were answered with, and what follows for a lifetime.
//!
//! Each audited hit says of one age whether the app had changed its mind by then. Hits are drawn evenly, so
//! that the share of stale ones among them is the share of visitors who saw something old.

use serde::Serialize;
use std::time::Duration;

/// Ages are told apart by half an octave: 1 s, 1.4 s, 2 s … to beyond a month; what is older is in the last.
const BINS: usize = 44;
/// Audits that say anything about a lifetime.
pub const ENOUGH: u64 = 30;
/// Of 95 in 100 such intervals the true value is inside.
const Z: f64 = 1.96;

/// Audited hits by age, fresh and stale.
#[derive(Clone, Debug, PartialEq)]
pub struct Ages {
    bins: [Bin; BINS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bin {
    fresh: u64,
    stale: u64,
}

impl Default for Ages {
    fn default() -> Self {
        Self {
            bins: [Bin::default(); BINS],
        }
    }
}

/// A share with its 95 % confidence interval (Wilson's), all 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The share seen.
    pub share: f64,
    /// Not likely less,
    pub low: f64,
    /// nor more.
    pub high: f64,
}

impl Share {
    /// Of so many in all, so many. `None` of none at all.
    #[must_use]
    pub fn of(some: u64, all: u64) -> Option<Self> {
        if all == 0 {
            return None;
        }
        let (n, p) = (all as f64, some.min(all) as f64 / all as f64);
        let (z2, round) = (Z * Z, |number: f64| (number * 1e5).round() / 1e5);
        let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        Some(Self {
            share: round(p),
            low: round((middle - half).max(0.0)),
            high: round((middle + half).min(1.0)),
        })
    }
}

/// What a lifetime should be, as far as ages tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Advice {
    /// Too few audits.
    Unknown,
    /// As it is: at most the wanted share of hits is stale. Whether a longer one would do, nobody has seen.
    Keep,
    /// This long.
    Shorten(Duration),
    /// Even the shortest age that was seen is too old: purge on change, or do not store.
    Purge,
}

impl Ages {
    /// One more audited hit.
    pub fn add(&mut self, age: Duration, is_stale: bool) {
        let bin = &mut self.bins[bin(age)];
        match is_stale {
            true => bin.stale += 1,
            false => bin.fresh += 1,
        }
    }

    /// Stale hits, and all.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let stale: u64 = self.bins.iter().map(|bin| bin.stale).sum();
        let fresh: u64 = self.bins.iter().map(|bin| bin.fresh).sum();
        (stale, stale + fresh)
    }

    /// The share of hits that were stale.
    #[must_use]
    pub fn staleness(&self) -> Option<Share> {
        let (stale, all) = self.totals();
        Share::of(stale, all)
    }

    /// Each age with audits, its end exclusive, and how many of its hits were fresh and stale.
    pub fn seen(&self) -> impl Iterator<Item = (Duration, u64, u64)> {
        let bins = self.bins.iter().enumerate();
        bins.filter(|(_, bin)| bin.fresh + bin.stale > 0)
            .map(|(at, bin)| (end(at), bin.fresh, bin.stale))
    }

    /// The longest lifetime with which at most the share `wanted` of hits would have been stale.
    ///
    /// That the app has changed its mind by some age is the likelier the older; so the share of stale
    /// ones by age is smoothed to rise (pool adjacent violators, which is the likeliest such curve), and
    /// weighed with how often each age is asked for.
    #[must_use]
    pub fn advice(&self, wanted: f64) -> Advice {
        let (_, all) = self.totals();
        if all < ENOUGH {
            return Advice::Unknown;
        }
        let chances = self.rising();
        let (mut hits, mut stale, mut best) = (0.0, 0.0, None);
        let mut is_all = true;
        for (at, bin) in self.bins.iter().enumerate() {
            let here = (bin.fresh + bin.stale) as f64;
            if here == 0.0 {
                continue;
            }
            hits += here;
            stale += here * chances[at];
            if stale / hits > wanted {
                is_all = false;
                break;
            }
            best = Some(at);
        }
        match best {
            _ if is_all => Advice::Keep,
            // A bin holds ages up to its end; its beginning is on the safe side.
            Some(at) if at > 0 => Advice::Shorten(plain(end(at - 1).max(Duration::from_secs(1)))),
            Some(_) => Advice::Shorten(Duration::from_secs(1)),
            None => Advice::Purge,
        }
    }

    /// The chance to be stale by bin, never falling with age.
    fn rising(&self) -> [f64; BINS] {
        // Blocks of neighbouring bins: stale, all, and how many bins.
        let mut blocks: Vec<(f64, f64, usize)> = Vec::with_capacity(BINS);
        for bin in self.bins {
            blocks.push((bin.stale as f64, (bin.fresh + bin.stale) as f64, 1));
            while let [.., before, last] = blocks[..] {
                let is_fine = last.1 > 0.0 && before.0 * last.1 <= last.0 * before.1;
                // What nobody was asked at has the chance of what is before.
                if is_fine || before.1 == 0.0 {
                    break;
                }
                blocks.truncate(blocks.len() - 2);
                blocks.push((before.0 + last.0, before.1 + last.1, before.2 + last.2));
            }
        }
        let mut chances = [0.0; BINS];
        let mut at = 0;
        for (stale, all, bins) in blocks {
            chances[at..at + bins].fill(if all > 0.0 { stale / all } else { 0.0 });
            at += bins;
        }
        chances
    }
}

/// Which bin an age is in.
fn bin(age: Duration) -> usize {
    let seconds = age.as_secs_f64();
    if seconds < 1.0 {
        return 0;
    }
    ((seconds.log2() * 2.0) as usize + 1).min(BINS - 1)
}

/// Where a bin ends.
fn end(bin: usize) -> Duration {
    Duration::from_secs_f64(2.0_f64.powf(bin as f64 / 2.0))
}

/// The longest lifetime of those that people write which is not longer than this.
#[must_use]
pub fn plain(ttl: Duration) -> Duration {
    const PLAIN: [u64; 19] = [
        1, 2, 5, 10, 15, 20, 30, 45, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200,
        86_400,
    ];
    let fits = |seconds: &&u64| Duration::from_secs(**seconds) <= ttl;
    let seconds = PLAIN.iter().rev().find(fits).copied().unwrap_or(1);
    Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn wilsons_interval_is_the_one_in_the_books() {
        let share = Share::of(10, 100).unwrap();
        assert_eq!(
            (share.share, share.low, share.high),
            (0.1, 0.05523, 0.17437)
        );
        let none = Share::of(0, 1_000).unwrap();
        assert_eq!((none.low, none.high), (0.0, 0.00383));
        assert_eq!(Share::of(0, 0), None);
    }

    #[test]
    fn a_ttl_ten_times_too_long_is_advised_down_to_what_is_true() {
        // The app changes every 30 s; hits come evenly over 300 s.
        let mut ages = Ages::default();
        for age in 0..300 {
            ages.add(seconds(age), age >= 30);
        }
        assert_eq!(ages.staleness().unwrap().share, 0.9);
        let Advice::Shorten(ttl) = ages.advice(0.01) else {
            panic!("{:?}", ages.advice(0.01));
        };
        assert!((seconds(15)..=seconds(30)).contains(&ttl), "{ttl:?}");
    }

    #[test]
    fn what_is_true_as_long_as_it_was_seen_is_kept() {
        let mut ages = Ages::default();
        for age in 0..300 {
            ages.add(seconds(age), false);
        }
        assert_eq!(ages.advice(0.01), Advice::Keep);
        ages.add(seconds(299), true);
        assert_eq!(ages.advice(0.01), Advice::Keep, "one in three hundred");
    }

    #[test]
    fn what_is_wrong_at_every_age_wants_purges_and_few_audits_say_nothing() {
        let mut ages = Ages::default();
        for age in 0..ENOUGH - 1 {
            ages.add(seconds(age), true);
        }
        assert_eq!(ages.advice(0.01), Advice::Unknown);
        ages.add(seconds(0), true);
        assert_eq!(ages.advice(0.01), Advice::Purge);
    }

    #[test]
    fn lifetimes_are_rounded_down_to_what_people_write() {
        for (given, written) in [(0, 1), (29, 20), (30, 30), (250, 120), (1_000_000, 86_400)] {
            assert_eq!(plain(seconds(given)), seconds(written));
        }
    }

    proptest! {
        #[test]
        fn chances_rise_and_keep_the_sum(seen in prop::collection::vec((0_u64..100_000, any::<bool>()), 1..300)) {
            let mut ages = Ages::default();
            for (age, is_stale) in &seen {
                ages.add(seconds(*age), *is_stale);
            }
            let chances = ages.rising();
            prop_assert!(chances.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
            let told: f64 = ages.bins.iter().zip(chances)
                .map(|(bin, chance)| (bin.fresh + bin.stale) as f64 * chance).sum();
            let (stale, _) = ages.totals();
            prop_assert!((told - stale as f64).abs() < 1e-6);
        }

        #[test]
        fn an_age_is_in_the_bin_that_ends_behind_it(millis in 0_u64..4_000_000_000) {
            let age = Duration::from_millis(millis);
            let at = bin(age);
            prop_assert!(at == BINS - 1 || age < end(at) + Duration::from_micros(1));
            prop_assert!(at == 0 || end(at - 1) <= age + Duration::from_micros(1));
        }
    }
}
