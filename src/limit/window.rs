//! How a sliding window is counted: the arithmetic, and nothing else.
//!
//! Two ways, both never over the quota in *any* window: an exact log of every admission for small
//! quotas, and above that thirty cells with the one that is leaving counted whole (it may refuse a
//! thirtieth of a window early). A window is half open: what was admitted at `t` counts until just
//! before `t + window`. Moments are microseconds on one clock, here an argument; `window.lua` is
//! the same arithmetic on Redis's clock.

use super::micros;
use crate::config::settings::Rate;
use std::collections::VecDeque;

/// Up to this quota every admission is remembered; 8 to 11 bytes each.
pub const EXACT_QUOTA_MAX: u32 = 1_000;

/// Thirty cover the window, one more is partly outside of it.
const CELLS: usize = 31;

/// How a rate is counted. The word is also part of the counter's Redis key, so that a quota that
/// grows past [`EXACT_QUOTA_MAX`] never misreads the other's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Every admission is remembered.
    Log,
    /// Admissions are counted in cells of a thirtieth of the window.
    Cells,
}

impl Algorithm {
    /// The exact one where it is affordable.
    #[must_use]
    pub fn of(rate: Rate) -> Self {
        if rate.quota.get() <= EXACT_QUOTA_MAX {
            Self::Log
        } else {
            Self::Cells
        }
    }

    /// The word for it in keys and in the script's arguments.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Cells => "cells",
        }
    }
}

/// What a counter shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// How many are counted. May be over the quota after a reload that lowered it.
    pub count: u32,
    /// Microseconds until one more fits if it is full, else until the first one leaves; zero when
    /// nothing is counted. Never more than the window and one cell.
    pub reset: u64,
}

/// The state of one counter.
#[derive(Clone, Debug)]
pub enum Window {
    /// Moments of admission, oldest first.
    Log(VecDeque<u64>),
    /// The number of the newest cell since the epoch, and the counts, oldest first.
    Cells(u64, [u32; CELLS]),
}

impl Window {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Log => Self::Log(VecDeque::new()),
            Algorithm::Cells => Self::Cells(0, [0; CELLS]),
        }
    }

    /// Whether one more fits now. Forgets what has left the window.
    pub fn admits(&mut self, rate: Rate, now: u64) -> bool {
        self.settle(rate, now);
        self.count() < rate.quota.get()
    }

    /// Counts one, `made` now or a moment before.
    pub fn add(&mut self, rate: Rate, made: u64, now: u64) {
        self.settle(rate, now);
        match self {
            Self::Log(log) => {
                let at = log.partition_point(|other| *other <= made);
                log.insert(at, made);
            }
            Self::Cells(newest, cells) => add(*newest, cells, made / width(rate), 1),
        }
    }

    /// Counts what another window, of cells, holds.
    pub fn take_over(&mut self, rate: Rate, other: &Self, now: u64) {
        self.settle(rate, now);
        if let Self::Cells(newest, cells) = self {
            for (cell, count) in other.cells() {
                add(*newest, cells, cell, count);
            }
        }
    }

    /// A moment in the newest cell; zero for a log.
    pub fn latest(&self, rate: Rate) -> u64 {
        match self {
            Self::Log(_) => 0,
            Self::Cells(newest, _) => newest.saturating_mul(width(rate)),
        }
    }

    /// The cells that something is in: their numbers since the epoch and how many. None for a log.
    pub fn cells(&self) -> impl Iterator<Item = (u64, u32)> {
        let (newest, cells): (u64, &[u32]) = match self {
            Self::Log(_) => (0, &[]),
            Self::Cells(newest, cells) => (*newest, cells),
        };
        let numbered = cells.iter().rev().enumerate();
        numbered
            .map(move |(age, count)| (newest.saturating_sub(age as u64), *count))
            .filter(|(_, count)| *count > 0)
    }

    /// What it shows now.
    pub fn read(&mut self, rate: Rate, now: u64) -> Reading {
        self.settle(rate, now);
        Reading {
            count: self.count(),
            reset: self.reset(rate, now),
        }
    }

    /// How many are counted, as of the last time that it was looked at.
    pub fn count(&self) -> u32 {
        match self {
            Self::Log(log) => u32::try_from(log.len()).unwrap_or(u32::MAX),
            Self::Cells(_, cells) => cells.iter().fold(0, |sum, cell| sum.saturating_add(*cell)),
        }
    }

    /// Brings the state to `now`. Whatever lies in the future (the clock went back) counts as made
    /// now, so that nobody is refused for longer than one window after that.
    fn settle(&mut self, rate: Rate, now: u64) {
        match self {
            Self::Log(log) => {
                for made in log.iter_mut().rev().take_while(|made| **made > now) {
                    *made = now;
                }
                let window = micros(rate.window);
                while log
                    .front()
                    .is_some_and(|made| made.saturating_add(window) <= now)
                {
                    log.pop_front();
                }
            }
            Self::Cells(newest, cells) => {
                let current = now / width(rate);
                if *newest == current {
                    return;
                }
                let mut settled = [0_u32; CELLS];
                for (age, count) in cells.iter().rev().enumerate() {
                    let cell = newest.saturating_sub(age as u64).min(current);
                    let age = (current - cell) as usize;
                    if let Some(slot) = settled.iter_mut().rev().nth(age) {
                        *slot = slot.saturating_add(*count);
                    }
                }
                (*newest, *cells) = (current, settled);
            }
        }
    }

    fn reset(&self, rate: Rate, now: u64) -> u64 {
        let quota = rate.quota.get();
        match self {
            Self::Log(log) => {
                log.get(log.len().saturating_sub(quota as usize))
                    .map_or(0, |leaves| {
                        leaves
                            .saturating_add(micros(rate.window))
                            .saturating_sub(now)
                    })
            }
            Self::Cells(newest, cells) => {
                let mut left = self.count();
                for (position, count) in cells.iter().enumerate() {
                    left = left.saturating_sub(*count);
                    if *count > 0 && left < quota {
                        let end = (newest + 1 + position as u64).saturating_mul(width(rate));
                        return end.saturating_sub(now);
                    }
                }
                0
            }
        }
    }
}

/// Counts `count` in a cell by its number; in none that has left the window, in the newest what lies ahead.
fn add(newest: u64, cells: &mut [u32; CELLS], cell: u64, count: u32) {
    let age = newest.saturating_sub(cell) as usize;
    if let Some(cell) = cells.iter_mut().rev().nth(age) {
        *cell = cell.saturating_add(count);
    }
}

/// Microseconds of one cell, at least one.
fn width(rate: Rate) -> u64 {
    micros(rate.window).div_ceil(CELLS as u64 - 1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

    const START: u64 = 1_700_000_000_000_000;

    fn rate(quota: u32, window: u64) -> Rate {
        Rate {
            quota: NonZeroU32::new(quota).unwrap(),
            window: Duration::from_micros(window),
        }
    }

    fn ask(window: &mut Window, rate: Rate, now: u64) -> bool {
        let admitted = window.admits(rate, now);
        if admitted {
            window.add(rate, now, now);
        }
        admitted
    }

    #[test]
    fn small_quotas_are_logged_and_large_ones_counted_in_cells() {
        assert_eq!(Algorithm::of(rate(1_000, 1)), Algorithm::Log);
        assert_eq!(Algorithm::of(rate(1_001, 1)), Algorithm::Cells);
    }

    #[test]
    fn a_burst_at_the_boundary_gains_nothing() {
        let rate = rate(60, 60_000_000);
        for algorithm in [Algorithm::Log, Algorithm::Cells] {
            let mut window = Window::new(algorithm);
            let before = (0..100).filter(|_| ask(&mut window, rate, START + 59_999_999));
            assert_eq!(before.count(), 60);
            let after = (0..100).filter(|_| ask(&mut window, rate, START + 60_000_001));
            assert_eq!(after.count(), 0);
        }
    }

    #[test]
    fn a_lowered_quota_holds_at_once_and_a_raised_one_keeps_the_counts() {
        let (low, high) = (rate(3, 1_000), rate(6, 1_000));
        for algorithm in [Algorithm::Log, Algorithm::Cells] {
            let mut window = Window::new(algorithm);
            assert_eq!(
                (0..9)
                    .filter(|at| ask(&mut window, high, START + at))
                    .count(),
                6
            );
            assert!(!ask(&mut window, low, START + 500));
            let reading = window.read(low, START + 500);
            assert_eq!(reading.count, 6);
            assert!(!window.admits(low, START + 500 + reading.reset - 1));
            assert!(window.admits(low, START + 500 + reading.reset));
        }
    }

    #[test]
    fn a_clock_that_goes_back_refuses_for_one_window_at_most() {
        let rate = rate(5, 1_000);
        for algorithm in [Algorithm::Log, Algorithm::Cells] {
            let mut window = Window::new(algorithm);
            let jumped = START - 3_600_000_000;
            assert_eq!((0..9).filter(|_| ask(&mut window, rate, START)).count(), 5);
            assert!(!ask(&mut window, rate, jumped));
            assert!(window.read(rate, jumped).reset <= 1_100);
            assert!(ask(&mut window, rate, jumped + 1_100));
        }
    }

    proptest! {
        #[test]
        fn never_more_than_the_quota_in_any_window_and_the_log_refuses_nothing_that_fits(
            quota in 1_u32..40,
            span in 30_u64..5_000,
            steps in prop::collection::vec(0_u64..400, 1..300),
        ) {
            let rate = rate(quota, span);
            for algorithm in [Algorithm::Log, Algorithm::Cells] {
                // What the cells may count beyond the window: one cell, and what rounding adds.
                let early = match algorithm {
                    Algorithm::Log => 0,
                    Algorithm::Cells => CELLS as u64 * width(rate) - span,
                };
                let (mut window, mut now) = (Window::new(algorithm), START);
                let mut admitted: Vec<u64> = Vec::new();
                for step in &steps {
                    now += step / 4;
                    let within = |span: u64| {
                        admitted.iter().filter(|at| **at + span > now).count() as u32
                    };
                    let (fits, surely_fits) = (within(span) < quota, within(span + early) < quota);
                    if ask(&mut window, rate, now) {
                        prop_assert!(fits);
                        admitted.push(now);
                    } else {
                        prop_assert!(!surely_fits);
                        let reset = window.read(rate, now).reset;
                        prop_assert!(reset > 0 && reset <= span + early);
                        prop_assert!(!window.clone().admits(rate, now + reset - 1));
                        prop_assert!(window.clone().admits(rate, now + reset));
                    }
                }
            }
        }
    }
}
