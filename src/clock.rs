//! The one place that knows what time it is.
//!
//! Everything else is handed a [`Timestamp`]. The system clock never steps: it reads the wall clock
//! once, when it is made, and counts on from there by the monotonic clock, so a jump of the host's
//! wall clock neither ages nor rejuvenates a stored response.

use crate::semantics::Timestamp;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::Sleep;

/// Tells the time: the system's, or one that a test moves by hand.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { wall: Timestamp, monotonic: Instant },
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The host's clock, anchored now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "here is where it is allowed")]
    pub fn system() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self(Source::System {
            wall: Timestamp::from_millis(wall.as_millis() as u64),
            monotonic: Instant::now(),
        })
    }

    /// A clock that stands still until [`Clock::advance`] moves it; clones share it.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(start.as_millis()))))
    }

    /// The present moment. Never earlier than one told before.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { wall, monotonic } => *wall + monotonic.elapsed(),
            Source::Manual(millis) => Timestamp::from_millis(millis.load(Ordering::Relaxed)),
        }
    }

    /// Moves a manual clock on. Returns whether this clock can be moved.
    pub fn advance(&self, by: Duration) -> bool {
        match &self.0 {
            Source::System { .. } => false,
            Source::Manual(millis) => {
                millis.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
                true
            }
        }
    }
}

/// A timer that outlives what it was set for. To set one earlier than all others wakes the runtime
/// through a system call, for each request anew; one that is still set for a request before and
/// rings too early costs nothing.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once it is `until`.
    pub fn poll_over(
        &mut self,
        context: &mut Context<'_>,
        until: tokio::time::Instant,
    ) -> Poll<()> {
        self.0.take_if(|sleep| sleep.deadline() > until);
        let sleep = (self.0).get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(sleep.as_mut().poll(context));
        while sleep.deadline() < until {
            sleep.as_mut().reset(until);
            ready!(sleep.as_mut().poll(context));
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand_and_clones_share_it() {
        let clock = Clock::manual(Timestamp::from_millis(1_000));
        let clone = clock.clone();
        assert!(clock.advance(Duration::from_secs(5)));
        assert_eq!(clone.now(), Timestamp::from_millis(6_000));
    }

    #[test]
    fn the_system_clock_cannot_be_moved_and_never_goes_back() {
        let clock = Clock::system();
        let first = clock.now();
        assert!(!clock.advance(Duration::from_secs(5)));
        assert!(clock.now() >= first);
    }
}
