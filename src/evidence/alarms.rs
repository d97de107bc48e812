//! What people are to be told at once: kept for the pages, and handed on to whoever tells them.
//!
//! Never waits: when more is to be told than can be, the newest is dropped and counted.

use super::lock;
use crate::semantics::Timestamp;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Alarms that wait to be told.
pub const WAITING_MAX: usize = 64;
/// Alarms kept for the pages.
const KEPT_MAX: usize = 64;
/// The same alarm is not raised again for so long.
const REPEATED: Duration = Duration::from_secs(600);

/// One alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Its word: `leak`.
    pub kind: &'static str,
    /// The route, or what else it is about.
    pub about: String,
    /// What happened and what was done, in a sentence or two. Holds no secret and no client's data.
    pub text: String,
    /// When, in RFC 3339.
    pub at: String,
    #[serde(skip)]
    moment: Timestamp,
}

/// Alarms raised, shared by everyone who raises any.
#[derive(Debug, Default)]
pub struct Alarms {
    inner: Mutex<Inner>,
    raised: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    kept: VecDeque<Alarm>,
    waiting: VecDeque<Alarm>,
}

impl Alarms {
    /// Raises one. `false`: the same was raised lately.
    pub fn raise(&self, kind: &'static str, about: &str, text: String, now: Timestamp) -> bool {
        let mut inner = lock(&self.inner);
        let is_same = |alarm: &Alarm| {
            alarm.kind == kind && alarm.about == about && now.since(alarm.moment) < REPEATED
        };
        if inner.kept.iter().any(is_same) {
            return false;
        }
        let alarm = Alarm {
            kind,
            about: about.to_owned(),
            text,
            at: now.rfc3339(),
            moment: now,
        };
        if inner.kept.len() >= KEPT_MAX {
            inner.kept.pop_front();
        }
        inner.kept.push_back(alarm.clone());
        self.raised.fetch_add(1, Ordering::Relaxed);
        match inner.waiting.len() < WAITING_MAX {
            true => inner.waiting.push_back(alarm),
            false => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
        }
        true
    }

    /// It may be raised again at once: what it was about has been dealt with.
    pub fn settle(&self, kind: &'static str, about: &str) {
        let mut inner = lock(&self.inner);
        for alarm in &mut inner.kept {
            if alarm.kind == kind && alarm.about == about {
                alarm.moment = Timestamp::from_millis(0);
            }
        }
    }

    /// The next one that is to be told.
    pub fn next(&self) -> Option<Alarm> {
        lock(&self.inner).waiting.pop_front()
    }

    /// The last ones, oldest first.
    #[must_use]
    pub fn last(&self) -> Vec<Alarm> {
        lock(&self.inner).kept.iter().cloned().collect()
    }

    /// How many were raised, and how many of them could not be handed on.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.raised), load(&self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_raised_once_in_ten_minutes_or_after_it_was_settled() {
        let alarms = Alarms::default();
        let raise = |about, minutes: u64| {
            let now = Timestamp::from_millis(1_000_000_000 + minutes * 60_000);
            alarms.raise("leak", about, "x".into(), now)
        };
        assert!(raise("a", 0) && !raise("a", 9) && raise("b", 9) && raise("a", 10));
        alarms.settle("leak", "a");
        assert!(raise("a", 10));
        assert_eq!(alarms.counts(), (4, 0));
        let told: Vec<_> = std::iter::from_fn(|| alarms.next()).collect();
        assert_eq!(told.len(), 4);
    }

    #[test]
    fn nobody_waits_where_nobody_listens() {
        let alarms = Alarms::default();
        for number in 0..WAITING_MAX + 5 {
            alarms.raise(
                "leak",
                &number.to_string(),
                String::new(),
                Timestamp::from_millis(0),
            );
        }
        assert_eq!(alarms.counts(), (WAITING_MAX as u64 + 5, 5));
        assert_eq!(alarms.last().len(), KEPT_MAX);
    }
}
