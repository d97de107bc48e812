//! How the app does lately against what is usual for it: what holds background work back.
//!
//! Each route has its own usual time, so that a change of what is asked for does not look like a change
//! of the app. All is an estimate: workers that write at the same moment may lose a sample.

use super::RouteHandle;
use super::metrics::ROUTES_MAX;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Weight of one answer in what is usual for its route: a hundred answers change it.
const USUAL_WEIGHT: f32 = 1.0 / 64.0;
/// Weight of one answer in how the app does now.
const NOW_WEIGHT: f32 = 1.0 / 16.0;
/// The same of one that is faster than the last ones: while little is asked, it is not long known to be slow.
const FASTER_WEIGHT: f32 = 1.0 / 8.0;
/// One answer counts as no slower than so many times the usual.
const SLOWNESS_MAX: f32 = 4.0;
/// What takes less than this in seconds is fast, however much faster it usually is.
const FAST_SECONDS: f32 = 0.025;

/// Moving averages over all workers.
#[derive(Debug)]
pub struct Pulse {
    /// Seconds that the app usually takes, by route; zero: not known.
    usual: Box<[AtomicU32]>,
    slowness: AtomicU32,
    failing: AtomicU32,
}

impl Default for Pulse {
    fn default() -> Self {
        let number = |number: f32| AtomicU32::new(number.to_bits());
        Self {
            usual: (0..=ROUTES_MAX).map(|_| number(0.0)).collect(),
            slowness: number(1.0),
            failing: number(0.0),
        }
    }
}

impl Pulse {
    /// The app gave the head of an answer, or (`failed`) none or an error of its own, after this time.
    pub fn answered(&self, route: &RouteHandle, took: Duration, failed: bool) {
        toward(&self.failing, if failed { 1.0 } else { 0.0 }, NOW_WEIGHT);
        if failed {
            return;
        }
        let took = took.as_secs_f32();
        let usual = &self.usual[route.index().min(ROUTES_MAX)];
        let known = f32::from_bits(usual.load(Relaxed));
        if known <= 0.0 {
            usual.store(took.to_bits(), Relaxed);
            return;
        }
        let slowness = took.max(FAST_SECONDS) / known.max(FAST_SECONDS);
        let weight = match slowness < self.slowness() {
            true => FASTER_WEIGHT,
            false => NOW_WEIGHT,
        };
        toward(&self.slowness, slowness.min(SLOWNESS_MAX), weight);
        toward(usual, took, USUAL_WEIGHT);
    }

    /// How many times as long as usual the app takes lately; 1.0 while that is not known.
    #[must_use]
    pub fn slowness(&self) -> f32 {
        f32::from_bits(self.slowness.load(Relaxed))
    }

    /// Share of what the app was asked lately that it failed, 0.0 to 1.0.
    #[must_use]
    pub fn failing(&self) -> f32 {
        f32::from_bits(self.failing.load(Relaxed))
    }
}

fn toward(average: &AtomicU32, sample: f32, weight: f32) {
    let before = f32::from_bits(average.load(Relaxed));
    let after = before + (sample - before) * weight;
    average.store(after.to_bits(), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn an_app_that_takes_three_times_as_long_is_slow_and_another_route_is_not_slowness() {
        let metrics = Metrics::new(1);
        let (fast, slow) = (metrics.route("fast", "/a"), metrics.route("slow", "/b"));
        let pulse = Pulse::default();
        for _ in 0..100 {
            pulse.answered(&fast, Duration::from_millis(40), false);
            pulse.answered(&slow, Duration::from_millis(900), false);
        }
        assert!(
            (0.9..1.1).contains(&pulse.slowness()),
            "{}",
            pulse.slowness()
        );
        for _ in 0..24 {
            pulse.answered(&fast, Duration::from_millis(140), false);
        }
        assert!(pulse.slowness() > 2.0, "{}", pulse.slowness());
        // In the end that is what is usual.
        for _ in 0..300 {
            pulse.answered(&fast, Duration::from_millis(140), false);
        }
        assert!(pulse.slowness() < 1.2, "{}", pulse.slowness());
    }

    #[test]
    fn failures_are_a_share_and_pass() {
        let metrics = Metrics::new(1);
        let route = metrics.route("a", "/a");
        let pulse = Pulse::default();
        for _ in 0..8 {
            pulse.answered(&route, Duration::ZERO, true);
        }
        assert!(pulse.failing() > 0.3);
        for _ in 0..64 {
            pulse.answered(&route, Duration::from_millis(1), false);
        }
        assert!(pulse.failing() < 0.05);
    }
}
