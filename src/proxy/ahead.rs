//! Renewing what is still fresh: what of it is worth a request to the app, and how many of these the
//! app has to bear at a time.

use super::{Ask, Entry, Key, Proxy};
use crate::semantics::stored::Lifetime;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// One in so many of the requests that the app may have at a time may be for what is still fresh.
const SHARE_OF_APP: u32 = 8;

/// How many such requests are under way in this process.
#[derive(Debug, Default)]
pub struct Ahead(Arc<AtomicU32>);

/// One of them; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Turn(Arc<AtomicU32>);

impl Ahead {
    /// Begins one, where fewer than `most` are under way.
    fn begin(&self, most: u32) -> Option<Turn> {
        let turn = Turn(Arc::clone(&self.0));
        (self.0.fetch_add(1, Ordering::Relaxed) < most).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Proxy {
    /// Renews behind what is fresh and has just been used, if it is near its end. Users come first: only
    /// where the app has room; and half of that is for the keys that are used again and again.
    pub(super) fn renew_ahead(
        &self,
        ask: &Ask<'_>,
        key: Key,
        entry: &Arc<Entry>,
        lifetime: &Lifetime,
    ) {
        let (rule, now) = (ask.found.rule, ask.visit.now);
        let is_last = |share: f32| lifetime.age(now) >= lifetime.fresh.mul_f32(1.0 - share);
        let is_early = |beta| lifetime.is_early(entry.app_time(), beta, 1.0 - fastrand::f32(), now);
        if !rule.refresh_ahead.is_some_and(is_last) && !rule.early_refresh.is_some_and(is_early) {
            return;
        }
        let upstream = &self.0.upstream;
        let most = (upstream.load().0 / SHARE_OF_APP).max(1);
        let most = match self.0.shared.hot.is_hot(&key, now) {
            true => most,
            false => most.div_ceil(2),
        };
        if upstream.has_room()
            && let Some(turn) = self.0.shared.ahead.begin(most)
        {
            self.refresh(ask, key, entry, Some(turn));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_begin_than_are_allowed_and_who_ends_makes_room() {
        let ahead = Ahead::default();
        let first = ahead.begin(2).unwrap();
        let _second = ahead.begin(2).unwrap();
        assert!(ahead.begin(2).is_none() && ahead.begin(2).is_none());
        drop(first);
        assert!(ahead.begin(2).is_some());
    }
}
