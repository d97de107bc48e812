//! How long one request waits for Redis, over all its commands together.
//!
//! A request may ask Redis several times: for its limits, for what is stored, for a purge. So that a
//! slow Redis costs it one `redis.timeout` and not three, commands within [`as_one`] share that time.
//! Work behind (fetches, writes, probes) runs in tasks of its own, where each command has it whole.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

tokio::task_local! {
    /// How long this request has waited for Redis already.
    static WAITED: Cell<Duration>;
}

/// Runs `request` so that all its commands together wait for Redis no longer than one may.
pub fn as_one<F: Future>(request: F) -> impl Future<Output = F::Output> {
    WAITED.scope(Cell::default(), request)
}

/// What is left of `timeout`.
pub(super) fn left(timeout: Duration) -> Duration {
    WAITED
        .try_with(|waited| timeout.saturating_sub(waited.get()))
        .unwrap_or(timeout)
}

/// Counts time that was waited.
pub(super) fn spend(took: Duration) {
    // Outside of a request nobody counts.
    let _ = WAITED.try_with(|waited| waited.set(waited.get().saturating_add(took)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn waiting_adds_up_within_a_request_and_nowhere_else() {
        spend(WHOLE);
        assert_eq!(left(WHOLE), WHOLE);
        as_one(async {
            spend(Duration::from_millis(60));
            assert_eq!(left(WHOLE), Duration::from_millis(40));
            let behind = tokio::spawn(async { left(WHOLE) });
            assert_eq!(behind.await.unwrap(), WHOLE);
            spend(Duration::MAX);
            assert_eq!(left(WHOLE), Duration::ZERO);
        })
        .await;
        assert_eq!(left(WHOLE), WHOLE);
    }
}
