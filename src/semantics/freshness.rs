//! Age and remaining lifetime of a stored response (RFC 9111 §4.2).

use super::Timestamp;
use super::stored::Lifetime;
use std::time::Duration;

impl Lifetime {
    /// `current_age` (RFC 9111 §4.2.3).
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Duration {
        self.initial_age.saturating_add(now.since(self.received))
    }

    /// Seconds of freshness left; negative once stale.
    #[must_use]
    pub fn ttl_secs(&self, now: Timestamp) -> i64 {
        let secs = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        secs(self.fresh).saturating_sub(secs(self.age(now)))
    }

    /// How long the response can be of any use from `now`, stale service included: the longest a
    /// store has to keep it. Zero when it can only be validated.
    #[must_use]
    pub fn useful(&self, now: Timestamp) -> Duration {
        self.fresh
            .saturating_add(self.stale_while_revalidate.max(self.stale_if_error))
            .saturating_sub(self.age(now))
    }
}

impl Lifetime {
    /// x
    pub fn slide(&self, ttl: Duration, cap: Duration, now: Timestamp) -> Option<Self> {
        let _ = (ttl, cap, now);
        None
    }
}
