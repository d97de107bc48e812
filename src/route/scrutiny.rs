//! How a route is put to the test: audited hits, two lifetimes side by side, a store in the shadow.

use crate::semantics::{Key, Policy};
use std::num::NonZeroU32;
use std::time::Duration;

/// What of a route is put to the test; by default nothing.
#[derive(Clone, Debug, Default)]
pub struct Scrutiny {
    /// So many of 2³² hits are asked of the app again behind the scenes (`audit.sample`).
    pub audit: Option<NonZeroU32>,
    /// Two lifetimes side by side.
    pub experiment: Option<Experiment>,
    /// The app is always asked; what the store would have done is only counted.
    pub shadow: bool,
}

/// `experiment:`: some of a route's keys live by another `ttl`.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The lifetime that is tried out.
    pub ttl: Duration,
    /// So many of 2³² keys live by it.
    pub share: u32,
    /// What the keys are divided by: made of the experiment's definition, so that every sidecar divides
    /// them alike, and another experiment otherwise.
    pub seed: Key,
    /// The route's policy with that lifetime.
    pub policy: Box<Policy>,
}

/// One of an experiment's two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// As the route says.
    Control,
    /// As is tried out.
    Trial,
}

impl Arm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Control, Self::Trial];

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Trial => "trial",
        }
    }
}

impl Experiment {
    /// The side of a key. Requests for one key are never on two, so that each entry has one lifetime.
    #[must_use]
    pub fn arm(&self, key: &Key) -> Arm {
        let number = |key: &Key| u128::from_le_bytes(*key.bytes());
        // A key is a digest, and so is the seed: the upper bits of their product are as good as chance, and
        // other ones with another seed.
        let mixed = number(key).wrapping_mul(number(&self.seed) | 1);
        match ((mixed >> 96) as u32) < self.share {
            true => Arm::Trial,
            false => Arm::Control,
        }
    }
}

impl Scrutiny {
    /// Its experiment's side of a key; empty without one.
    #[must_use]
    pub fn arm(&self, key: &Key) -> Option<Arm> {
        Some(self.experiment.as_ref()?.arm(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::KeyBuilder;

    fn experiment(seed: &str, share: f64) -> Experiment {
        Experiment {
            ttl: Duration::from_secs(60),
            share: (share * 2.0_f64.powi(32)) as u32,
            seed: KeyBuilder::new(seed).finish(),
            policy: Box::default(),
        }
    }

    fn keys() -> impl Iterator<Item = Key> {
        (0..20_000_u32).map(|number| {
            let mut key = KeyBuilder::new("request");
            key.part(&number.to_le_bytes());
            key.finish()
        })
    }

    #[test]
    fn keys_are_divided_as_the_share_says_and_always_alike() {
        let one = experiment("one", 0.2);
        let trial = keys().filter(|key| one.arm(key) == Arm::Trial).count();
        // Twelve standard deviations (56.6) on either side.
        assert!((3_320..=4_680).contains(&trial), "{trial}");
        let again = experiment("one", 0.2);
        assert!(keys().all(|key| one.arm(&key) == again.arm(&key)));
    }

    #[test]
    fn another_experiment_divides_otherwise() {
        let (one, other) = (experiment("one", 0.5), experiment("other", 0.5));
        let alike = keys().filter(|key| one.arm(key) == other.arm(key)).count();
        assert!((9_150..=10_850).contains(&alike), "{alike}");
    }
}
