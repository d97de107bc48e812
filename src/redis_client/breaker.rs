//! When to stop asking Redis, and when to begin again: a pure state machine.
//!
//! It is told what happened and when (`now`, counted from any fixed moment), and answers with the
//! state. It opens on four signs: too large a share of failures over a window, a run of hard
//! failures, a stall, a failed probe. It closes only after a run of good background probes, never on
//! a user's request. It owns no clock, no socket and no task.

use super::Outage;
use crate::config::settings;
use std::time::Duration;

/// Hard failures in a row that open the breaker at once.
pub const HARD_RUN: u32 = 5;
/// Good probes in a row that close it.
pub const GOOD_PROBES: u32 = 3;
/// First pause between probes while open; it doubles from there.
pub const PROBE_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause while what ails Redis may pass by itself (away, hung, loading).
pub const PROBE_PAUSE_PASSING: Duration = Duration::from_millis(500);
/// Pause between the good probes of one run.
pub const PROBE_PAUSE_GOOD: Duration = Duration::from_millis(10);
/// Nothing shorter is a stall. On two cores with seven processes to run, a healthy Redis was seen
/// to be kept from its core for more than 10 ms; taking that for an outage would cost exact limits.
pub const STALL_MIN: Duration = Duration::from_millis(25);
/// A stall lasts so many times the usual answer.
pub const STALL_FACTOR: u32 = 10;
/// With fewer commands waiting, silence proves nothing.
pub const STALL_WAITING: usize = 8;

/// Slices of the rolling window.
const SLICES: usize = 10;
/// After so many answers the record of usual times fades by half.
const FADE_AFTER: u32 = 2_048;
/// Powers of two of a microsecond that usual times are sorted into; the last is over half an hour.
const TIME_CLASSES: usize = 32;

/// Whether Redis is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It is asked.
    Closed = 0,
    /// It is not asked.
    Open = 1,
    /// It is not asked, but the last probe was good.
    HalfOpen = 2,
}

impl State {
    /// The word on the health pages and in the metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    /// The state with this number; anything unknown is open.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Closed,
            2 => Self::HalfOpen,
            _ => Self::Open,
        }
    }
}

/// What a person tells the breaker to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Forced {
    /// What it sees decides.
    #[default]
    Auto = 0,
    /// Redis is not asked, however well it is.
    Open = 1,
    /// Redis is asked, however it is.
    Closed = 2,
}

impl Forced {
    /// The word for the admin port: that of what is done to it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Open => "open",
            Self::Closed => "close",
        }
    }

    /// The one with this word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Auto, Self::Open, Self::Closed]
            .into_iter()
            .find(|forced| forced.word() == word)
    }

    /// The one with this number; anything unknown is `Auto`.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Open,
            2 => Self::Closed,
            _ => Self::Auto,
        }
    }
}

/// What one finished command says about Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It is there (also when it answers "no" to this command).
    Answered,
    /// One more failure in the window.
    Soft,
    /// One more failure in the window and in the run that opens at once.
    Hard,
    /// Nothing.
    None,
}

impl Outage {
    /// What this outage of one command says about Redis.
    #[must_use]
    pub const fn weight(self) -> Weight {
        match self {
            Self::Connection | Self::Denied | Self::NotReady => Weight::Hard,
            Self::Timeout => Weight::Soft,
            Self::ReadOnly | Self::Full | Self::Moved | Self::Protocol | Self::Forbidden => {
                Weight::Answered
            }
            Self::Open | Self::Spent | Self::Stalled | Self::Saturated => Weight::None,
        }
    }

    /// Whether it may pass without anybody doing anything, so that probing goes on briskly.
    const fn passing(self) -> bool {
        !matches!(self, Self::Denied | Self::Forbidden | Self::Protocol)
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Breaker {
    settings: settings::Breaker,
    forced: Forced,
    state: State,
    window: Window,
    hard_run: u32,
    good_probes: u32,
    pause: Duration,
    usual: Usual,
}

impl Breaker {
    /// Begins open: nothing is asked before the first good probes.
    #[must_use]
    pub fn new(settings: settings::Breaker) -> Self {
        Self {
            settings,
            forced: Forced::Auto,
            state: State::Open,
            window: Window::default(),
            hard_run: 0,
            good_probes: 0,
            pause: PROBE_PAUSE_MIN,
            usual: Usual::default(),
        }
    }

    /// The state now.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.forced {
            Forced::Auto => self.state,
            Forced::Open => State::Open,
            Forced::Closed => State::Closed,
        }
    }

    /// Obeys a person. What it sees meanwhile it remembers.
    pub const fn force(&mut self, forced: Forced) {
        self.forced = forced;
    }

    /// A command was answered after `took`.
    pub fn answered(&mut self, took: Duration, now: Duration) {
        self.hard_run = 0;
        self.usual.add(took);
        self.window.count(false, self.settings.window, now);
    }

    /// A command failed. Returns the state after it.
    pub fn failed(&mut self, outage: Outage, now: Duration) -> State {
        match outage.weight() {
            Weight::None => return self.state,
            Weight::Answered => {
                self.hard_run = 0;
                self.window.count(false, self.settings.window, now);
                return self.state;
            }
            Weight::Soft => {}
            Weight::Hard => self.hard_run += 1,
        }
        self.window.count(true, self.settings.window, now);
        let (calls, failures) = self.window.sums();
        let over_ratio = calls >= self.settings.min_calls.max(1)
            && f64::from(failures) >= self.settings.trip * f64::from(calls);
        if self.state == State::Closed && (over_ratio || self.hard_run >= HARD_RUN) {
            self.open();
        }
        self.state
    }

    /// How long silence must last, with [`STALL_WAITING`] commands waiting, to be a stall.
    #[must_use]
    pub fn stall_after(&self) -> Duration {
        (self.usual.p99() * STALL_FACTOR).max(STALL_MIN)
    }

    /// Opens whatever the counts say: a stall was seen, or the last connection is gone and no new
    /// one is to be had. Returns whether it was closed before.
    pub fn open(&mut self) -> bool {
        let was_closed = self.state == State::Closed;
        self.good_probes = 0;
        self.state = State::Open;
        if was_closed {
            self.pause = PROBE_PAUSE_MIN;
        }
        was_closed
    }

    /// A background probe was answered well. Returns the state after it.
    pub fn probe_succeeded(&mut self) -> State {
        if self.state == State::Closed {
            return self.state;
        }
        self.good_probes += 1;
        self.state = State::HalfOpen;
        if self.good_probes >= GOOD_PROBES {
            // What was counted before the outage says nothing about what comes after it.
            self.window = Window::default();
            self.hard_run = 0;
            self.pause = PROBE_PAUSE_MIN;
            self.state = State::Closed;
        }
        self.state
    }

    /// A background probe failed: opens, and doubles the pause to the next.
    pub fn probe_failed(&mut self, outage: Outage) -> State {
        if !self.open() {
            let longest = if outage.passing() {
                self.settings.retry_after.min(PROBE_PAUSE_PASSING)
            } else {
                self.settings.retry_after
            };
            self.pause = (self.pause * 2).min(longest.max(PROBE_PAUSE_MIN));
        }
        self.state
    }

    /// The pause before the next probe while not closed.
    #[must_use]
    pub fn probe_pause(&self) -> Duration {
        match self.state {
            State::HalfOpen => PROBE_PAUSE_GOOD,
            _ => self.pause,
        }
    }
}

/// Calls and failures of the last while, in slices that fall out one by one.
#[derive(Debug, Default)]
struct Window {
    slices: [(u32, u32); SLICES],
    /// Number of the newest slice since the beginning of time.
    newest: u64,
}

impl Window {
    fn count(&mut self, failure: bool, length: Duration, now: Duration) {
        // In 64 bits: these are divisions on the way of every command.
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let slice_nanos = (nanos(length) / SLICES as u64).max(1);
        let current = nanos(now) / slice_nanos;
        let gone = current.saturating_sub(self.newest).min(SLICES as u64);
        for step in 1..=gone {
            let at = (current - gone + step) % SLICES as u64;
            self.slices[at as usize] = (0, 0);
        }
        self.newest = self.newest.max(current);
        let slice = &mut self.slices[(self.newest % SLICES as u64) as usize];
        slice.0 += 1;
        slice.1 += u32::from(failure);
    }

    fn sums(&self) -> (u32, u32) {
        self.slices.iter().fold((0, 0), |sum, slice| {
            (sum.0.saturating_add(slice.0), sum.1.saturating_add(slice.1))
        })
    }
}

/// How long answers usually take; only answered commands count.
#[derive(Debug)]
struct Usual {
    classes: [u32; TIME_CLASSES],
    total: u32,
}

impl Default for Usual {
    fn default() -> Self {
        Self {
            classes: [0; TIME_CLASSES],
            total: 0,
        }
    }
}

impl Usual {
    fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / 1_000;
        let class = (u64::BITS - micros.leading_zeros()) as usize;
        self.classes[class.min(TIME_CLASSES - 1)] += 1;
        self.total += 1;
        if self.total >= FADE_AFTER {
            self.classes.iter_mut().for_each(|count| *count /= 2);
            self.total = self.classes.iter().sum();
        }
    }

    /// Upper edge of the class that the 99th of a hundred falls into; zero before the first answer.
    fn p99(&self) -> Duration {
        let beyond = self.total / 100;
        let mut seen = 0;
        for (class, count) in self.classes.iter().enumerate().rev() {
            seen += count;
            if seen > beyond {
                return Duration::from_micros(1 << class);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn breaker() -> Breaker {
        let mut breaker = Breaker::new(settings::Breaker {
            trip: 0.7,
            window: Duration::from_secs(10),
            min_calls: 10,
            retry_after: Duration::from_secs(15),
        });
        for _ in 0..GOOD_PROBES {
            breaker.probe_succeeded();
        }
        breaker
    }

    #[test]
    fn it_is_open_until_the_first_good_probes() {
        let mut breaker = Breaker::new(breaker().settings);
        assert_eq!(breaker.state(), State::Open);
        assert_eq!(breaker.probe_succeeded(), State::HalfOpen);
        assert_eq!(breaker.probe_succeeded(), State::HalfOpen);
        assert_eq!(breaker.probe_succeeded(), State::Closed);
    }

    #[test]
    fn a_person_has_the_last_word_and_it_knows_what_it_saw_when_they_let_go() {
        let mut breaker = breaker();
        breaker.force(Forced::Open);
        breaker.probe_succeeded();
        assert_eq!(breaker.state(), State::Open);
        breaker.force(Forced::Auto);
        assert_eq!(breaker.state(), State::Closed);
        breaker.force(Forced::Closed);
        breaker.open();
        assert_eq!(breaker.state(), State::Closed);
        breaker.force(Forced::Auto);
        assert_eq!(breaker.state(), State::Open);
        for forced in [Forced::Auto, Forced::Open, Forced::Closed] {
            assert_eq!(Forced::of_word(forced.word()), Some(forced));
            assert_eq!(Forced::from_number(forced as u8), forced);
        }
    }

    #[test]
    fn the_fifth_hard_failure_in_a_row_opens_it() {
        let mut breaker = breaker();
        for n in 0..4 {
            assert_eq!(breaker.failed(Outage::Connection, ms(n)), State::Closed);
        }
        assert_eq!(breaker.failed(Outage::Connection, ms(5)), State::Open);
    }

    #[test]
    fn an_answer_ends_the_run_of_hard_failures() {
        let mut breaker = breaker();
        for n in 0..100 {
            for _ in 0..4 {
                breaker.failed(Outage::Connection, ms(n));
            }
            for _ in 0..4 {
                breaker.answered(ms(1), ms(n));
            }
        }
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn the_ratio_opens_it_only_with_enough_calls() {
        let mut few = breaker();
        for n in 0..9 {
            assert_eq!(few.failed(Outage::Timeout, ms(n)), State::Closed);
        }
        assert_eq!(few.failed(Outage::Timeout, ms(9)), State::Open);
    }

    #[test]
    fn one_slow_answer_in_twenty_leaves_it_closed() {
        let mut breaker = breaker();
        for n in 0..2_000 {
            if n % 20 == 0 {
                breaker.failed(Outage::Timeout, ms(n * 5));
            } else {
                breaker.answered(ms(1), ms(n * 5));
            }
        }
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn failures_fall_out_of_the_window() {
        let mut breaker = breaker();
        for n in 0..9 {
            breaker.failed(Outage::Timeout, ms(n));
        }
        assert_eq!(breaker.failed(Outage::Timeout, ms(20_000)), State::Closed);
    }

    #[test]
    fn saturation_and_data_errors_never_open_it() {
        let mut breaker = breaker();
        for outage in [
            Outage::Saturated,
            Outage::Spent,
            Outage::Protocol,
            Outage::Full,
        ] {
            for n in 0..100 {
                assert_eq!(breaker.failed(outage, ms(n)), State::Closed);
            }
        }
    }

    #[test]
    fn a_failed_probe_in_half_open_begins_the_run_anew() {
        let mut breaker = breaker();
        breaker.open();
        breaker.probe_succeeded();
        breaker.probe_succeeded();
        assert_eq!(breaker.probe_failed(Outage::Timeout), State::Open);
        breaker.probe_succeeded();
        breaker.probe_succeeded();
        assert_eq!(breaker.state(), State::HalfOpen);
        assert_eq!(breaker.probe_succeeded(), State::Closed);
    }

    #[test]
    fn answers_to_users_do_not_close_it() {
        let mut breaker = breaker();
        breaker.open();
        for n in 0..100 {
            breaker.answered(ms(1), ms(n));
        }
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn the_pause_between_probes_doubles_to_its_bound() {
        let mut breaker = breaker();
        breaker.probe_failed(Outage::Denied);
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                let pause = breaker.probe_pause();
                breaker.probe_failed(Outage::Denied);
                pause
            })
            .collect();
        assert_eq!(pauses[..3], [ms(100), ms(200), ms(400)]);
        assert_eq!(pauses[8], Duration::from_secs(15));
        // What passes by itself is looked for at least twice a second, however long it lasted.
        let mut breaker = self::breaker();
        for _ in 0..20 {
            breaker.probe_failed(Outage::Timeout);
        }
        assert_eq!(breaker.probe_pause(), PROBE_PAUSE_PASSING);
    }

    #[test]
    fn a_stall_is_a_multiple_of_the_usual_time_and_failures_do_not_stretch_it() {
        let mut breaker = breaker();
        assert_eq!(breaker.stall_after(), STALL_MIN);
        for _ in 0..1_000 {
            breaker.answered(ms(3), ms(0));
        }
        let usual = breaker.stall_after();
        assert!(usual >= ms(30) && usual <= ms(60), "{usual:?}");
        for _ in 0..1_000 {
            breaker.failed(Outage::Timeout, ms(1));
        }
        assert_eq!(breaker.stall_after(), usual);
    }

    #[test]
    fn time_that_stands_still_or_leaps_does_no_harm() {
        let mut breaker = breaker();
        for now in [Duration::MAX, Duration::ZERO, ms(1), Duration::MAX] {
            breaker.answered(Duration::MAX, now);
            breaker.failed(Outage::Timeout, now);
        }
    }
}
