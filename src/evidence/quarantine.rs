//! Routes that are shut: nothing of theirs is stored or served from the store, until an operator or another
//! configuration of the route opens them again.
//!
//! Each sidecar keeps what it knows as marks, and compares them with those that all sidecars share; which
//! of two marks holds is decided here, how they travel is not.

use super::lock;
use crate::semantics::{Key, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Routes that marks are kept of; of further ones none is.
const ROUTES_MAX: usize = 1_024;
/// What was found longer ago neither speaks for a leak nor against one.
const WINDOW: Duration = Duration::from_secs(600);
/// Findings of one route within that time.
const FINDINGS_MAX: usize = 64;
/// The longest reason, in bytes.
const WHY_BYTES_MAX: usize = 512;

/// Whether a route is shut, by whoever said so last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// How often it has been shut and opened so far: of two marks the later holds.
    pub generation: u64,
    /// Shut, or open again.
    pub shut: bool,
    /// Since when, in milliseconds.
    pub since: u64,
    /// The route's name.
    pub route: String,
    /// What was found.
    pub why: String,
}

/// What becomes of the marks here and there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Both say the same.
    Agreed,
    /// What is there is later.
    Adopt,
    /// What is here is later.
    Tell,
}

/// Compares a mark here with the shared one. Of two that came at the same time, the one that shuts holds.
#[must_use]
pub fn compare(here: Option<&Mark>, there: Option<&Mark>) -> Step {
    let rank = |mark: &Mark| (mark.generation, mark.shut);
    match (here.map(rank), there.map(rank)) {
        (here, there) if here == there => Step::Agreed,
        (here, there) if here < there => Step::Adopt,
        _ => Step::Tell,
    }
}

/// A route that is shut, for pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shut {
    /// Its name.
    pub route: String,
    /// Since when, in RFC 3339.
    pub since: String,
    /// What was found.
    pub why: String,
}

/// The marks of this process, by what defines a route: its whole configuration, so that another one is
/// another route.
#[derive(Debug, Default)]
pub struct Quarantines(Mutex<HashMap<Key, State>>);

#[derive(Debug, Default)]
struct State {
    mark: Option<Mark>,
    /// When audits found a leak (`true`), or that the app says something else each time.
    findings: VecDeque<(Timestamp, bool)>,
}

impl Quarantines {
    /// Notes that an audit found a leak, or that where one was suspected the app says something else each
    /// time. Returns whether the leak is proven: that what speaks for it outweighs what speaks against it.
    pub fn weigh(&self, route: &Key, is_leak: bool, now: Timestamp) -> bool {
        let mut routes = lock(&self.0);
        if routes.len() >= ROUTES_MAX && !routes.contains_key(route) {
            return is_leak;
        }
        let findings = &mut routes.entry(*route).or_default().findings;
        while findings.len() >= FINDINGS_MAX
            || findings
                .front()
                .is_some_and(|(at, _)| now.since(*at) > WINDOW)
        {
            findings.pop_front();
        }
        findings.push_back((now, is_leak));
        let leaks = findings.iter().filter(|(_, is_leak)| *is_leak).count();
        is_leak && leaks * 2 > findings.len()
    }

    /// Shuts a route. `false`: it was shut already.
    pub fn shut(&self, route: &Key, name: &str, why: &str, now: Timestamp) -> bool {
        self.turn(route, true, name, why, now)
    }

    /// Opens a route. `false`: it was not shut.
    pub fn open(&self, route: &Key, name: &str, now: Timestamp) -> bool {
        self.turn(route, false, name, "", now)
    }

    fn turn(&self, route: &Key, shut: bool, name: &str, why: &str, now: Timestamp) -> bool {
        let mut routes = lock(&self.0);
        if routes.len() >= ROUTES_MAX && !routes.contains_key(route) {
            return false;
        }
        let state = routes.entry(*route).or_default();
        let before = state.mark.as_ref();
        if before.is_some_and(|mark| mark.shut) == shut {
            return false;
        }
        state.findings.clear();
        state.mark = Some(Mark {
            generation: before.map_or(0, |mark| mark.generation) + 1,
            shut,
            since: now.as_millis(),
            route: name.to_owned(),
            why: why[..why.floor_char_boundary(WHY_BYTES_MAX)].to_owned(),
        });
        true
    }

    /// Whether a route is shut.
    #[must_use]
    pub fn is_shut(&self, route: &Key) -> bool {
        self.mark(route).is_some_and(|mark| mark.shut)
    }

    /// The mark of a route.
    #[must_use]
    pub fn mark(&self, route: &Key) -> Option<Mark> {
        lock(&self.0).get(route)?.mark.clone()
    }

    /// Takes over the shared mark of a route where it is later.
    pub fn adopt(&self, route: &Key, there: Mark) {
        let mut routes = lock(&self.0);
        if routes.len() >= ROUTES_MAX && !routes.contains_key(route) {
            return;
        }
        let state = routes.entry(*route).or_default();
        if compare(state.mark.as_ref(), Some(&there)) == Step::Adopt {
            state.findings.clear();
            state.mark = Some(there);
        }
    }

    /// Forgets all routes but these: those of the configuration in force.
    pub fn keep_only(&self, routes: &[Key]) {
        lock(&self.0).retain(|route, _| routes.contains(route));
    }

    /// The routes that are shut, by name.
    #[must_use]
    pub fn all_shut(&self) -> Vec<Shut> {
        let routes = lock(&self.0);
        let marks = routes.values().filter_map(|state| state.mark.as_ref());
        let shown = |mark: &Mark| Shut {
            route: mark.route.clone(),
            since: Timestamp::from_millis(mark.since).rfc3339(),
            why: mark.why.clone(),
        };
        let mut shut: Vec<_> = marks.filter(|mark| mark.shut).map(shown).collect();
        shut.sort_by(|one, other| one.route.cmp(&other.route));
        shut
    }

    /// The names of the routes that are shut, as a sentence has them; empty where none is.
    #[must_use]
    pub fn names(&self) -> Arc<str> {
        let shut = self.all_shut();
        let names: Vec<_> = shut.iter().map(|shut| shut.route.as_str()).collect();
        names.join(", ").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Key = Key::from_bytes([7; 16]);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    /// What a sidecar does every second.
    fn meet(sidecar: &Quarantines, shared: &mut Option<Mark>) {
        let here = sidecar.mark(&ROUTE);
        match compare(here.as_ref(), shared.as_ref()) {
            Step::Agreed => {}
            Step::Adopt => sidecar.adopt(&ROUTE, shared.clone().unwrap()),
            Step::Tell => *shared = here,
        }
    }

    #[test]
    fn what_one_sidecar_shuts_all_shut_and_whoever_opens_it_opens_it_for_all() {
        let (one, other) = (Quarantines::default(), Quarantines::default());
        let mut shared = None;
        assert!(one.shut(&ROUTE, "me", "two people, one page", at(1)));
        assert!(!one.shut(&ROUTE, "me", "again", at(2)));
        meet(&one, &mut shared);
        meet(&other, &mut shared);
        assert!(other.is_shut(&ROUTE));
        assert_eq!(other.all_shut()[0].why, "two people, one page");
        assert!(other.open(&ROUTE, "me", at(3)) && !other.open(&ROUTE, "me", at(3)));
        meet(&other, &mut shared);
        meet(&one, &mut shared);
        assert!(!one.is_shut(&ROUTE) && one.all_shut().is_empty());
        // What leaks again is shut again.
        assert!(one.shut(&ROUTE, "me", "once more", at(4)));
        meet(&one, &mut shared);
        meet(&other, &mut shared);
        assert!(other.is_shut(&ROUTE));
    }

    #[test]
    fn what_is_opened_and_shut_at_the_same_time_is_shut() {
        let (one, other) = (Quarantines::default(), Quarantines::default());
        let mut shared = None;
        one.shut(&ROUTE, "me", "", at(1));
        meet(&one, &mut shared);
        meet(&other, &mut shared);
        one.open(&ROUTE, "me", at(2));
        other.open(&ROUTE, "me", at(2));
        one.shut(&ROUTE, "me", "", at(2));
        other.shut(&ROUTE, "me", "", at(2));
        for _ in 0..2 {
            meet(&other, &mut shared);
            meet(&one, &mut shared);
        }
        assert!(one.is_shut(&ROUTE) && other.is_shut(&ROUTE));
    }

    #[test]
    fn a_shared_mark_that_was_lost_is_told_again() {
        let one = Quarantines::default();
        one.shut(&ROUTE, "me", "", at(1));
        let mut shared = None;
        meet(&one, &mut shared);
        assert!(shared.is_some_and(|mark| mark.shut));
    }

    #[test]
    fn another_configuration_of_a_route_is_another_route() {
        let one = Quarantines::default();
        one.shut(&ROUTE, "me", "", at(1));
        one.keep_only(&[Key::from_bytes([8; 16])]);
        assert!(!one.is_shut(&ROUTE));
    }

    #[test]
    fn what_speaks_against_a_leak_is_weighed_and_forgotten() {
        let one = Quarantines::default();
        assert!(one.weigh(&ROUTE, true, at(0)));
        for second in 1..=5 {
            assert!(!one.weigh(&ROUTE, false, at(second)));
        }
        assert!(!one.weigh(&ROUTE, true, at(6)));
        assert!(one.weigh(&ROUTE, true, at(700)));
    }
}
