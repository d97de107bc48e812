//! Two lifetimes side by side: what the one that is tried out gains in hits, and what it costs in truth.
//!
//! Requests are taken for independent of each other. Those for one key are not quite, so that the truth may
//! lie somewhat further away than the intervals say; many keys make that small.

use super::staleness::Share;
use serde::Serialize;

/// Requests on each side that say anything.
const ENOUGH: u64 = 100;
/// Audits on each side that say anything of truth.
const AUDITS_ENOUGH: u64 = 30;
/// Of 95 in 100 such intervals the true value is inside.
const Z: f64 = 1.96;

/// What one side has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Requests looked up.
    pub looked_up: u64,
    /// Of them, answered from the store.
    pub hits: u64,
    /// Hits asked of the app again,
    pub audited: u64,
    /// of which so many were stale.
    pub stale: u64,
}

impl Side {
    /// The share of requests that were answered from the store.
    #[must_use]
    pub fn hit_rate(&self) -> Option<Share> {
        Share::of(self.hits, self.looked_up)
    }

    /// The share of audited hits that were stale.
    #[must_use]
    pub fn staleness(&self) -> Option<Share> {
        Share::of(self.stale, self.audited)
    }
}

/// By how much a share is larger on the side that is tried out, in points (hundredths), with the 95 %
/// confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// As seen.
    pub points: f64,
    /// Not likely less,
    pub low: f64,
    /// nor more.
    pub high: f64,
}

impl Gain {
    fn of(before: (u64, u64), after: (u64, u64)) -> Self {
        let share = |(some, all): (u64, u64)| some as f64 / all.max(1) as f64;
        // One is added on either side, so that none of a thousand is not taken for never (Agresti, Caffo).
        let spread = |(some, all): (u64, u64)| {
            let (n, p) = (all as f64 + 2.0, (some as f64 + 1.0) / (all as f64 + 2.0));
            p * (1.0 - p) / n
        };
        let points = (share(after) - share(before)) * 100.0;
        let half = Z * (spread(before) + spread(after)).sqrt() * 100.0;
        let round = |number: f64| (number * 100.0).round() / 100.0;
        Self {
            points: round(points),
            low: round(points - half),
            high: round(points + half),
        }
    }

    /// Whether it is more, or less, than chance would have it.
    fn is_clear(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// `wait`, `same`, `take`, `weigh` or `leave`.
    pub word: &'static str,
    /// The same as a sentence.
    pub text: String,
    /// By how much more is answered from the store.
    pub hit_rate: Option<Gain>,
    /// By how much more of it is stale.
    pub staleness: Option<Gain>,
}

/// Compares the two sides.
#[must_use]
pub fn compare(control: Side, trial: Side) -> Finding {
    let wait = |text: String| Finding {
        word: "wait",
        text,
        hit_rate: None,
        staleness: None,
    };
    let least = control.looked_up.min(trial.looked_up);
    if least < ENOUGH {
        return wait(format!(
            "Too few requests yet: {least} on the side with fewer, {ENOUGH} say something."
        ));
    }
    let hits = |side: Side| (side.hits, side.looked_up);
    let gain = Gain::of(hits(control), hits(trial));
    let audits = control.audited.min(trial.audited);
    let stale = |side: Side| (side.stale, side.audited);
    let cost = (audits >= AUDITS_ENOUGH).then(|| Gain::of(stale(control), stale(trial)));
    let gains = match gain.is_clear() {
        true => format!(
            "The ttl that is tried out changes the hit rate by {:+.1} points ({:+.1} to {:+.1})",
            gain.points, gain.low, gain.high
        ),
        false => format!(
            "No difference in hit rate is to be seen ({:+.1} to {:+.1} points)",
            gain.low, gain.high
        ),
    };
    let costs = match cost {
        None => "; how true its hits are is not known: audit the route".to_owned(),
        Some(cost) if cost.is_clear() => format!(
            " and staleness by {:+.1} points ({:+.1} to {:+.1})",
            cost.points, cost.low, cost.high
        ),
        Some(cost) => format!(
            ", and no difference in staleness ({:+.1} to {:+.1} points)",
            cost.low, cost.high
        ),
    };
    let (more_hits, fewer_hits) = (gain.low > 0.0, gain.high < 0.0);
    let staler = cost.is_some_and(|cost| cost.low > 0.0);
    let truer = cost.is_some_and(|cost| cost.high < 0.0);
    let (word, then) = match (more_hits, fewer_hits, staler, truer) {
        (true, _, true, _) | (_, true, _, true) => ("weigh", "One is paid for by the other."),
        (true, ..) if cost.is_none() => ("weigh", "Look at its truth before you take it."),
        (true, ..) | (_, false, _, true) => ("take", "Take it."),
        (_, true, ..) | (_, _, true, _) => ("leave", "Leave it."),
        _ => ("same", "Either will do."),
    };
    Finding {
        word,
        text: format!("{gains}{costs}. {then}"),
        hit_rate: Some(gain),
        staleness: cost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(looked_up: u64, hits: u64, audited: u64, stale: u64) -> Side {
        Side {
            looked_up,
            hits,
            audited,
            stale,
        }
    }

    #[test]
    fn few_requests_say_nothing() {
        let found = compare(side(5_000, 4_000, 0, 0), side(99, 99, 0, 0));
        assert_eq!((found.word, found.hit_rate), ("wait", None));
    }

    #[test]
    fn more_hits_that_are_as_true_are_taken() {
        let found = compare(side(8_000, 6_400, 500, 2), side(2_000, 1_800, 500, 3));
        assert_eq!(found.word, "take", "{found:?}");
        let gain = found.hit_rate.unwrap();
        assert_eq!(gain.points, 10.0);
        assert!(gain.low > 8.0 && gain.high < 12.0, "{gain:?}");
    }

    #[test]
    fn more_hits_that_are_less_true_are_weighed() {
        let found = compare(side(8_000, 6_400, 500, 2), side(2_000, 1_800, 500, 90));
        assert_eq!(found.word, "weigh", "{found:?}");
        let unseen = compare(side(8_000, 6_400, 0, 0), side(2_000, 1_800, 0, 0));
        assert_eq!((unseen.word, unseen.staleness), ("weigh", None));
    }

    #[test]
    fn what_gains_nothing_and_costs_truth_is_left() {
        let found = compare(side(8_000, 6_400, 500, 2), side(2_000, 1_600, 500, 90));
        assert_eq!(found.word, "leave");
        let shorter = compare(side(8_000, 6_400, 500, 90), side(2_000, 1_600, 500, 2));
        assert_eq!(shorter.word, "take");
    }

    #[test]
    fn what_chance_may_have_done_is_no_difference() {
        let found = compare(side(1_000, 800, 100, 1), side(250, 203, 100, 2));
        assert_eq!(found.word, "same", "{found:?}");
        assert!(found.text.starts_with("No difference"), "{}", found.text);
    }
}
