//! When warming has to slow down or stop: users come first. Pure.

use std::time::Duration;

/// While it goes slowly, one page in so long: the app is looked at, and not burdened.
pub const TRICKLE_PAUSE: Duration = Duration::from_secs(1);
/// So many times as slow as usual, the app is slow …
const SLOW_AT: f32 = 2.0;
/// … until it is no slower than this.
const SLOW_UNTIL: f32 = 1.5;
/// So much of what it is asked for fails …
const FAILS_AT: f32 = 0.2;
/// … until it is no more than this.
const FAILS_UNTIL: f32 = 0.1;
/// Of the requests that the app may have at a time, warming takes at most this part.
const SHARE_OF_APP: u32 = 2;

/// How the app does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Requests that wait for a place with the app.
    pub waiting: usize,
    /// Requests that the app has.
    pub in_flight: u32,
    /// Requests that it may have.
    pub limit: u32,
    /// How many times as long as usual it takes lately.
    pub slowness: f32,
    /// Share of what it is asked for that fails lately, 0.0 to 1.0.
    pub failing: f32,
}

/// What warming may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brake {
    /// As fast as its budget says, and no more than so many pages at a time.
    Off(u32),
    /// One page in a while, for this reason.
    Slow(&'static str),
    /// Nothing, for this reason.
    Stop(&'static str),
}

impl Brake {
    /// What holds it, if anything does.
    #[must_use]
    pub const fn why(self) -> Option<&'static str> {
        match self {
            Self::Off(_) => None,
            Self::Slow(why) | Self::Stop(why) => Some(why),
        }
    }
}

/// What warming may do under `pressure`, given what it might do `before`.
#[must_use]
pub fn brake(pressure: Pressure, before: Brake) -> Brake {
    if pressure.waiting > 0 {
        return Brake::Stop("requests wait for the app");
    }
    // Half of what it may have is for users alone.
    let most = (pressure.limit / SHARE_OF_APP).max(1);
    if pressure.in_flight >= most {
        return Brake::Stop("the app is busy");
    }
    let is_held = before.why().is_some();
    let (slow, fails) = match is_held {
        true => (SLOW_UNTIL, FAILS_UNTIL),
        false => (SLOW_AT, FAILS_AT),
    };
    if pressure.failing >= fails {
        return Brake::Slow("the app fails");
    }
    if pressure.slowness >= slow {
        return Brake::Slow("the app is slower than usual");
    }
    Brake::Off(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Pressure = Pressure {
        waiting: 0,
        in_flight: 3,
        limit: 256,
        slowness: 1.0,
        failing: 0.0,
    };

    #[test]
    fn users_go_first() {
        let off = Brake::Off(128);
        assert_eq!(brake(WELL, off), off);
        let waited = Pressure { waiting: 1, ..WELL };
        assert!(matches!(brake(waited, off), Brake::Stop(_)));
        let full = Pressure {
            in_flight: 128,
            ..WELL
        };
        assert!(matches!(brake(full, off), Brake::Stop(_)));
    }

    #[test]
    fn it_goes_on_only_once_the_app_is_clearly_well_again() {
        let off = Brake::Off(128);
        let at = |slowness| Pressure { slowness, ..WELL };
        assert_eq!(brake(at(1.9), off), off);
        let held = brake(at(2.1), off);
        assert!(matches!(held, Brake::Slow(_)));
        assert_eq!(brake(at(1.9), held), held);
        assert_eq!(brake(at(1.4), held), off);
        let failing = Pressure {
            failing: 0.3,
            ..WELL
        };
        assert!(matches!(brake(failing, off), Brake::Slow("the app fails")));
    }
}
