//! Who was given which answer under one key: whether an answer depends on who asks, told apart from one that
//! changes with time.
//!
//! Knows clients by a number that says nothing outside of this process.

use super::audit::Print;
use super::lock;
use crate::semantics::Key;
use std::collections::HashMap;
use std::sync::Mutex;

/// Keys that clients are remembered of; beyond them, others are forgotten.
const KEYS_MAX: usize = 4_096;
/// Clients remembered of a key.
const CLIENTS_MAX: usize = 4;

/// What clients were last given under one key.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Who, what, and at which step.
    last: Vec<(u64, Print, u64)>,
    steps: u64,
    depends: bool,
    is_shared: bool,
}

impl Given {
    /// `who` was given this. Returns whether it is proven that the answer depends on who asks: somebody was
    /// given the same as before, and meanwhile somebody else another.
    pub fn note(&mut self, who: u64, what: Print) -> bool {
        self.steps += 1;
        let before = self.last.iter().find(|(known, ..)| *known == who).copied();
        if let Some((_, was, then)) = before
            && was == what
        {
            let meanwhile = self.last.iter().filter(|(.., at)| *at > then);
            self.depends |= meanwhile.clone().any(|(_, other, _)| *other != what);
        }
        self.last.retain(|(known, ..)| *known != who);
        self.is_shared |= self.last.iter().any(|(_, other, _)| *other == what);
        if self.last.len() >= CLIENTS_MAX {
            self.last.remove(0);
        }
        self.last.push((who, what, self.steps));
        self.depends
    }

    /// Whether two were ever given the same.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether any two of those who are remembered were last given different answers, for whatever reason.
    #[must_use]
    pub fn differ(&self) -> bool {
        self.last.windows(2).any(|pair| pair[0].1 != pair[1].1)
    }
}

/// The same of many keys.
#[derive(Debug, Default)]
pub struct Identities(Mutex<HashMap<Key, Given>>);

impl Identities {
    /// See [`Given::note`].
    pub fn note(&self, key: &Key, who: u64, what: Print) -> bool {
        self.with(key, |given| given.note(who, what))
    }

    /// Notes the same, and tells whether it is known that one answer under this key is for more than one.
    pub fn share(&self, key: &Key, who: u64, what: Print) -> bool {
        self.with(key, |given| {
            let depends = given.note(who, what);
            given.is_shared() && !depends
        })
    }

    fn with<T>(&self, key: &Key, tell: impl FnOnce(&mut Given) -> T) -> T {
        let mut keys = lock(&self.0);
        if keys.len() >= KEYS_MAX
            && !keys.contains_key(key)
            && let Some(any) = keys.keys().next().copied()
        {
            keys.remove(&any);
        }
        tell(keys.entry(*key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Print {
        Print::of(200, text.as_bytes(), &[])
    }

    #[test]
    fn who_gets_his_own_again_after_another_got_another_proves_it() {
        let mut given = Given::default();
        assert!(!given.note(1, page("alice")));
        assert!(!given.note(2, page("bob")));
        assert!(given.note(1, page("alice")));
        assert!(given.differ());
    }

    #[test]
    fn a_page_that_changes_for_everybody_proves_nothing() {
        let mut given = Given::default();
        for (who, text) in [
            (1, "old"),
            (2, "old"),
            (2, "new"),
            (1, "new"),
            (3, "newer"),
            (1, "newer"),
        ] {
            assert!(!given.note(who, page(text)), "{who} {text}");
        }
    }

    #[test]
    fn a_page_that_is_the_same_for_all_proves_nothing() {
        let mut given = Given::default();
        for who in 0..20 {
            assert!(!given.note(who % 7, page("same")));
        }
        assert!(!given.differ());
    }

    #[test]
    fn what_two_were_given_alike_is_shared_until_it_is_proven_to_depend() {
        let (identities, key) = (Identities::default(), Key::from_bytes([1; 16]));
        assert!(!identities.share(&key, 1, page("old")) && !identities.share(&key, 1, page("old")));
        assert!(identities.share(&key, 2, page("old")));
        // It changes for everybody.
        assert!(identities.share(&key, 3, page("new")));
        // And now each is given his own.
        assert!(identities.share(&key, 1, page("one")) && !identities.share(&key, 3, page("new")));
    }

    #[test]
    fn keys_beyond_the_bound_displace_others() {
        let identities = Identities::default();
        for number in 0..KEYS_MAX as u128 + 10 {
            identities.note(&Key::from_bytes(number.to_le_bytes()), 1, page("x"));
        }
        assert_eq!(lock(&identities.0).len(), KEYS_MAX);
    }
}
