//! Under which key an answer lies whose app says what of the query it does not depend on
//! (`No-Vary-Search`).
//!
//! The answer's own word alone decides where it lies: one that states a rule lies under a key made
//! of that rule and of what the rule leaves of the query, any other under the key of its exact URL.
//! Where to look, a request cannot know; it looks where the last answer of its path would lie. That is
//! a guess, which can miss what is stored but never find what is another's.

use super::{Ask, Shared};
use crate::route::{Content, Plan, Rule, Target};
use crate::semantics::{Key, Reason, Variation};
use http::{HeaderMap, Method};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Paths whose rule is remembered. Were each rule as long as can be, they would take 100 MiB; with
/// one rule for all, as apps have it, some MiB.
const PATHS_MAX: usize = 16_384;

/// The rule that the last answer of each path stated. Shared by all workers; not by processes: each
/// learns at its first miss.
#[derive(Debug, Default)]
pub struct Searches {
    /// Spares everybody the rest where no app ever stated a rule.
    any: AtomicBool,
    hasher: RandomState,
    /// By a hash of host and path: two that share one mislead each other, which costs a miss.
    rules: RwLock<HashMap<u64, Arc<Variation>>>,
}

/// A host and a path, as far as [`Searches`] tells them apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path(u64);

impl Searches {
    fn path(&self, authority: &str, path: &str) -> Path {
        Path(self.hasher.hash_one((authority, path)))
    }

    fn last(&self, path: Path) -> Option<Arc<Variation>> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.get(&path.0).cloned()
    }

    /// The rule to look by; `authority` is only asked for where any rule is known.
    pub(super) fn find<A: AsRef<str>>(
        &self,
        authority: impl FnOnce() -> A,
        path: &str,
    ) -> Option<Arc<Variation>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        self.last(self.path(authority().as_ref(), path))
    }

    /// Remembers what an answer of this path has stated, or that it has stated nothing.
    fn learn(&self, path: Path, stated: Option<Variation>) {
        if self.last(path).as_deref() == stated.as_ref() {
            return;
        }
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        match stated {
            None => drop(rules.remove(&path.0)),
            Some(rule) => {
                if rules.len() >= PATHS_MAX
                    && !rules.contains_key(&path.0)
                    && let Some(any) = rules.keys().next().copied()
                {
                    rules.remove(&any);
                }
                rules.insert(path.0, Arc::new(rule));
                self.any.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Every key that an answer to one request may lie under.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// That of its exact URL.
    pub exact: Key,
    /// That of its URL without the query.
    without: Key,
    query: Option<Box<str>>,
    path: Path,
}

impl Places {
    /// The key that an answer with these fields lies under.
    pub fn under(&self, rule: &Rule, answer: &HeaderMap) -> Key {
        self.by(rule, Variation::of(answer).as_ref())
    }

    /// Remembers what this answer states of its path's queries, or that it states nothing.
    pub fn learn(&self, shared: &Shared, answer: &HeaderMap) {
        shared.searches.learn(self.path, Variation::of(answer));
    }

    fn by(&self, rule: &Rule, stated: Option<&Variation>) -> Key {
        match stated {
            Some(stated) => rule.loosened_key(&self.without, self.query.as_deref(), stated),
            None => self.exact,
        }
    }
}

impl Ask<'_> {
    /// What is to be done, with the key that an answer most likely lies under.
    pub(super) fn plan(&self, content: Content<'_>) -> Plan {
        let rule = self.found.rule;
        match (self.exact_plan(self.target, content), &self.search) {
            (Plan::Lookup(_), _) if rule.scrutiny.shadow => Plan::Pass(Reason::Shadow),
            (Plan::Lookup(_), _) if self.visit.snapshot.watched.is_shut(rule.id) => {
                Plan::Pass(Reason::Quarantined)
            }
            (Plan::Lookup(exact), Some(stated)) if self.has_places() => {
                match self.exact_plan(&self.without_query(), Content::None) {
                    Plan::Lookup(without) => {
                        Plan::Lookup(rule.loosened_key(&without, self.target.query, stated))
                    }
                    _ => Plan::Lookup(exact),
                }
            }
            (plan, _) => plan,
        }
    }

    /// The same key by what has been learnt since; `None` where that is nothing.
    pub(super) fn likely(&self, shared: &Shared) -> Option<Key> {
        if !shared.searches.any.load(Ordering::Relaxed) {
            return None;
        }
        let places = self.places(shared)?;
        let stated = shared.searches.last(places.path);
        Some(places.by(self.found.rule, stated.as_deref()))
    }

    /// Where an answer may lie; `None` where the query is not all that tells two requests for a path apart.
    pub(super) fn places(&self, shared: &Shared) -> Option<Places> {
        let key = |target: &Target<'_>| match self.exact_plan(target, Content::None) {
            Plan::Lookup(key) => Some(key),
            Plan::Tunnel | Plan::Pass(_) | Plan::Read => None,
        };
        if !self.has_places() {
            return None;
        }
        let authority = self.visit.authority();
        Some(Places {
            exact: key(self.target)?,
            without: key(&self.without_query())?,
            query: self.target.query.map(Box::from),
            path: shared.searches.path(&authority, self.target.path),
        })
    }

    /// Whether the method is one whose answers may lie elsewhere than under their exact URL.
    pub(super) fn has_places(&self) -> bool {
        matches!(self.visit.method, Method::GET | Method::HEAD)
    }

    fn without_query(&self) -> Target<'_> {
        Target {
            query: None,
            ..self.target.clone()
        }
    }
}
