//! What traffic has shown: how true hits were, who was given what, which routes are shut for it. Tables
//! and estimators that are told what happened and answer what follows.
//!
//! Asks nobody and decides about no request; every table has a bound.

pub mod alarms;
pub mod audit;
pub mod identities;
pub mod ledger;
pub mod quarantine;
pub mod staleness;
pub mod suggest;
pub mod trial;

pub use alarms::{Alarm, Alarms};
pub use audit::{Inquiry, Next, Print, Verdict, Who};
pub use identities::Identities;
pub use ledger::{Ledger, Tally};
pub use quarantine::Quarantines;
pub use suggest::{Sight, Sights};

use crate::semantics::Timestamp;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// All that one process knows of this kind; shared by its workers.
#[derive(Debug, Default)]
pub struct Evidence {
    /// What audits have found, by route.
    pub audits: Ledger,
    /// What audits may still ask of the app.
    pub budget: Budget,
    /// Routes that are shut, because they gave one person's answer to another.
    pub quarantines: Quarantines,
    /// What people are to be told at once.
    pub alarms: Alarms,
    /// What a store would have answered on routes in the shadow.
    pub shadows: Ledger,
    /// Who was given which answer there.
    pub identities: Identities,
    /// Who was told what when hits were audited.
    pub told: Identities,
    /// What is looked at to suggest routes.
    pub sights: Sights,
}

/// So many in a window, and no more saved up than one window's: what background work may cost the app.
#[derive(Debug, Default)]
pub struct Budget(Mutex<Account>);

#[derive(Debug, Default)]
struct Account {
    /// Parts of one that were spent, in nanoseconds of the window.
    spent: Duration,
    since: Option<Timestamp>,
}

impl Budget {
    /// Whether `quota` in `window` leave room for something now. It is charged at once; what turns out to
    /// cost more is charged by [`Budget::charge`] and makes the next wait.
    pub fn admits(&self, quota: u32, window: Duration, now: Timestamp) -> bool {
        let mut account = lock(&self.0);
        let gone = account.since.map_or(window, |since| now.since(since));
        account.since = Some(now);
        account.spent = account.spent.saturating_sub(gone);
        let one = window / quota.max(1);
        if account.spent + one > window.max(one) {
            return false;
        }
        account.spent += one;
        true
    }

    /// One more was spent. At most ten windows are owed.
    pub fn charge(&self, quota: u32, window: Duration) {
        let mut account = lock(&self.0);
        account.spent = (account.spent + window / quota.max(1)).min(window * 10);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_comes_back_with_time() {
        let (budget, second) = (Budget::default(), Duration::from_secs(1));
        let at = |millis| Timestamp::from_millis(millis);
        let admitted = (0..10).filter(|_| budget.admits(5, second, at(1_000)));
        assert_eq!(admitted.count(), 5);
        assert!(!budget.admits(5, second, at(1_199)));
        assert!(budget.admits(5, second, at(1_400)));
        budget.charge(5, second);
        budget.charge(5, second);
        assert!(!budget.admits(5, second, at(1_600)));
        let admitted = (0..10).filter(|_| budget.admits(5, second, at(9_000)));
        assert_eq!(admitted.count(), 5, "what was not used is not saved up");
    }
}
