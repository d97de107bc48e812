//! What audits have found, by route and by arm of its experiment.
//!
//! Counts since the process began; a route that is renamed begins anew.

use super::audit::Verdict;
use super::lock;
use super::staleness::Ages;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Routes, or arms of theirs, that are told apart; what is beyond shares one more, `other`.
const ROUTES_MAX: usize = 1_024;

/// Findings by route. Written by audits only, so one lock is enough.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeMap<(Arc<str>, &'static str), Tally>>);

/// What was found on one route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    counts: [u64; Verdict::ALL.len()],
    /// Audits that were drawn and not made: the budget was spent, the app was busy, or what was
    /// served is of a kind that is not compared.
    pub skipped: u64,
    /// In the shadow: requests that the store would not have answered.
    pub missed: u64,
    /// Hits by age, as far as they were the same or stale.
    pub ages: Ages,
}

impl Tally {
    /// How often this was found.
    #[must_use]
    pub const fn count(&self, verdict: Verdict) -> u64 {
        self.counts[verdict as usize]
    }

    /// Audits made.
    #[must_use]
    pub fn audited(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Ledger {
    /// An audit on `route` (in this arm of its experiment; empty without) found this, of something so old.
    pub fn found(&self, route: &Arc<str>, arm: &'static str, verdict: Verdict, age: Duration) {
        self.with(route, arm, |tally| {
            tally.counts[verdict as usize] += 1;
            match verdict {
                Verdict::Same => tally.ages.add(age, false),
                Verdict::Stale => tally.ages.add(age, true),
                _ => {}
            }
        });
    }

    /// One was drawn and not made.
    pub fn skipped(&self, route: &Arc<str>, arm: &'static str) {
        self.with(route, arm, |tally| tally.skipped += 1);
    }

    /// In the shadow: the store would not have answered.
    pub fn missed(&self, route: &Arc<str>) {
        self.with(route, "", |tally| tally.missed += 1);
    }

    /// All routes with their arms, by name.
    #[must_use]
    pub fn read(&self) -> Vec<(Arc<str>, &'static str, Tally)> {
        let routes = lock(&self.0);
        let tell = |((route, arm), tally): (&(Arc<str>, &'static str), &Tally)| {
            (Arc::clone(route), *arm, tally.clone())
        };
        routes.iter().map(tell).collect()
    }

    fn with(&self, route: &Arc<str>, arm: &'static str, change: impl FnOnce(&mut Tally)) {
        let mut routes = lock(&self.0);
        let mut key = (Arc::clone(route), arm);
        if routes.len() >= ROUTES_MAX && !routes.contains_key(&key) {
            key = ("other".into(), "");
        }
        change(routes.entry(key).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_counted_by_route_and_arm_and_only_the_comparable_have_ages() {
        let (ledger, route) = (Ledger::default(), "car".into());
        let second = Duration::from_secs(1);
        ledger.found(&route, "", Verdict::Same, second);
        ledger.found(&route, "", Verdict::Stale, second);
        ledger.found(&route, "", Verdict::Unstable, second);
        ledger.found(&route, "trial", Verdict::Stale, second);
        ledger.skipped(&route, "");
        let read = ledger.read();
        let (_, arm, tally) = &read[0];
        assert_eq!((*arm, tally.audited(), tally.skipped), ("", 3, 1));
        assert_eq!(tally.ages.totals(), (1, 2));
        assert_eq!((read[1].1, read[1].2.count(Verdict::Stale)), ("trial", 1));
    }

    #[test]
    fn routes_beyond_the_bound_share_a_place() {
        let ledger = Ledger::default();
        for number in 0..ROUTES_MAX + 10 {
            ledger.skipped(&format!("{number}").into(), "");
        }
        let read = ledger.read();
        assert_eq!(read.len(), ROUTES_MAX + 1);
        let other = read.iter().find(|(name, ..)| &**name == "other").unwrap();
        assert_eq!(other.2.skipped, 10);
    }
}
