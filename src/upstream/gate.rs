//! How many requests the app may have at a time (`upstream.max_in_flight`), in all or of one route.
//!
//! A cold cache in front of a slow app must not drown it: what is over the bound waits, what cannot
//! wait is refused. The adaptive bound grows by one for each full round of good answers while it is
//! in use, and shrinks by a tenth when the app times out (additive increase,
//! multiplicative decrease: Chiu and Jain, 1989). When the cache has suddenly nothing, the bound starts
//! low and doubles with each full round of good answers, as TCP does on a fresh path, until it is what
//! it was.

use super::UpstreamError;
use crate::config::settings::MaxInFlight;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const ADAPTIVE_START: u32 = 256;
const ADAPTIVE_MIN: u32 = 16;
const ADAPTIVE_MAX: u32 = 4_096;
/// Where a bound starts from when the cache has suddenly nothing.
const RAMP_START: u32 = 32;
/// Requests that may wait for their turn.
const WAITING_MAX: usize = 10_000;

/// The bound, shared by all workers.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    turns: Arc<Semaphore>,
    adaptive: bool,
    limit: AtomicU32,
    good: AtomicU32,
    /// The bound that is returned to where there is less; 0: none. It never changes where the bound is fixed, so that
    /// nothing that happens at the same time can leave that too high or too low for good.
    whole: AtomicU32,
    waiting: AtomicUsize,
}

/// One request's place with the app; held until the response head is there.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Gate,
    turn: OwnedSemaphorePermit,
}

impl Gate {
    /// A gate with nobody inside.
    #[must_use]
    pub fn new(bound: MaxInFlight) -> Self {
        let (limit, adaptive) = match bound {
            MaxInFlight::Adaptive => (ADAPTIVE_START, true),
            MaxInFlight::Fixed(limit) => (limit.get(), false),
        };
        Self(Arc::new(Inner {
            turns: Arc::new(Semaphore::new(limit as usize)),
            adaptive,
            limit: AtomicU32::new(limit),
            good: AtomicU32::new(0),
            whole: AtomicU32::new(limit),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// The bound now.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// Requests that the app has now.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.limit()
            .saturating_sub(u32::try_from(self.0.turns.available_permits()).unwrap_or(u32::MAX))
    }

    /// Whether the app has room for what nobody waits for: less than half of what it may have is with
    /// it, and nobody waits for a turn.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) == 0 && self.in_flight() < self.limit().div_ceil(2)
    }

    /// Starts low again and doubles with each full round of good answers, up to the bound as it is now:
    /// the cache has suddenly nothing. What the app has already stays with it.
    pub fn ramp(&self) {
        let limit = self.limit();
        if limit <= RAMP_START {
            return;
        }
        let gone = self.0.turns.forget_permits((limit - RAMP_START) as usize);
        let gone = u32::try_from(gone).unwrap_or(0);
        self.0.whole.fetch_max(limit, Ordering::Relaxed);
        self.0.limit.fetch_sub(gone, Ordering::Relaxed);
    }

    /// Requests that wait for their turn now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a turn, `patience` at most.
    pub(super) async fn enter(&self, patience: Duration) -> Result<Permit, UpstreamError> {
        let permit = |turn| Permit {
            gate: self.clone(),
            turn,
        };
        if let Ok(turn) = self.0.turns.clone().try_acquire_owned() {
            return Ok(permit(turn));
        }
        let _waiting = Waiting::begin(&self.0.waiting)?;
        let turn = tokio::time::timeout(patience, self.0.turns.clone().acquire_owned()).await;
        match turn {
            Ok(Ok(turn)) => Ok(permit(turn)),
            _ => Err(UpstreamError::Overloaded),
        }
    }

    /// One more for a good answer, as long as the bound is not what it was. Returns whether it was not.
    fn ramp_up(&self) -> bool {
        let whole = self.0.whole.load(Ordering::Relaxed);
        if self.limit() >= whole {
            return false;
        }
        let is_more = self.change(|limit| (limit < whole).then(|| limit + 1));
        if is_more.is_some() {
            self.0.turns.add_permits(1);
        }
        is_more.is_some()
    }

    fn grow(&self) {
        let limit = self.limit();
        let used = self.in_flight();
        if limit >= ADAPTIVE_MAX || used * 2 < limit {
            return;
        }
        if self.0.good.fetch_add(1, Ordering::Relaxed) + 1 >= limit {
            self.0.good.store(0, Ordering::Relaxed);
            self.0.limit.fetch_add(1, Ordering::Relaxed);
            self.0.turns.add_permits(1);
        }
    }

    fn shrink(&self, turn: OwnedSemaphorePermit) {
        self.0.good.store(0, Ordering::Relaxed);
        // From here on carefully.
        self.0.whole.store(0, Ordering::Relaxed);
        let tenth = |limit: u32| (limit / 10).clamp(1, limit - ADAPTIVE_MIN);
        let cut = |limit: u32| (limit > ADAPTIVE_MIN).then(|| limit - tenth(limit));
        let Some(before) = self.change(cut) else {
            return;
        };
        // The failed request's own turn goes, and with it as many free ones as make a tenth.
        turn.forget();
        let more = tenth(before) - 1;
        let gone = self.0.turns.forget_permits(more as usize);
        let kept = more - u32::try_from(gone).unwrap_or(more);
        self.0.limit.fetch_add(kept, Ordering::Relaxed);
    }

    /// Makes the bound what `new` says, and returns what it was. Others may do so at the same moment.
    fn change(&self, new: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        let limit = &self.0.limit;
        let changed = limit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, new);
        changed.ok()
    }
}

impl Permit {
    /// The app has answered, or failed.
    pub(super) fn done(self, failure: Option<UpstreamError>) {
        if failure.is_none() && self.gate.ramp_up() || !self.gate.0.adaptive {
            return;
        }
        match failure {
            None => self.gate.grow(),
            Some(UpstreamError::Timeout | UpstreamError::ConnectTimeout) => {
                self.gate.shrink(self.turn)
            }
            Some(_) => {}
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Result<Self, UpstreamError> {
        let waiting = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) < WAITING_MAX {
            Ok(waiting)
        } else {
            Err(UpstreamError::Overloaded)
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test(start_paused = true)]
    async fn what_is_over_the_bound_waits_and_then_is_refused() {
        let gate = Gate::new(MaxInFlight::Fixed(NonZeroU32::MIN));
        let first = gate.enter(SOON).await.unwrap();
        assert_eq!(gate.in_flight(), 1);
        assert_eq!(
            gate.enter(SOON).await.unwrap_err(),
            UpstreamError::Overloaded
        );
        first.done(None);
        assert!(gate.enter(SOON).await.is_ok());
    }

    #[tokio::test]
    async fn timeouts_shrink_the_adaptive_bound_and_never_below_its_floor() {
        let gate = Gate::new(MaxInFlight::Adaptive);
        for _ in 0..200 {
            let permit = gate.enter(SOON).await.unwrap();
            permit.done(Some(UpstreamError::Timeout));
        }
        assert_eq!(gate.limit(), ADAPTIVE_MIN);
        assert_eq!(gate.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_cold_cache_starts_low_and_doubles_until_the_bound_is_what_it_was() {
        let fixed = MaxInFlight::Fixed(NonZeroU32::new(100).unwrap());
        for (bound, whole) in [(fixed, 100), (MaxInFlight::Adaptive, ADAPTIVE_START)] {
            let gate = Gate::new(bound);
            gate.ramp();
            let mut rounds = 0;
            while gate.limit() < whole {
                let round: Vec<_> = (0..gate.limit())
                    .map(|_| gate.0.turns.clone().try_acquire_owned().unwrap())
                    .collect();
                assert!(gate.0.turns.clone().try_acquire_owned().is_err());
                let before = gate.limit();
                for turn in round {
                    Permit {
                        gate: gate.clone(),
                        turn,
                    }
                    .done(None);
                }
                assert!(gate.limit() <= (before * 2).min(whole) && gate.limit() > before);
                rounds += 1;
            }
            assert!(rounds <= 4, "{rounds}");
            for _ in 0..300 {
                gate.enter(SOON).await.unwrap().done(None);
            }
            assert_eq!(
                gate.limit(),
                whole,
                "it is back, and grows by itself no more"
            );
            assert_eq!(gate.in_flight(), 0);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn answers_of_all_workers_at_once_never_lift_a_fixed_bound_above_itself() {
        let gate = Gate::new(MaxInFlight::Fixed(NonZeroU32::new(64).unwrap()));
        for _ in 0..200 {
            gate.ramp();
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let gate = gate.clone();
                    tokio::spawn(async move {
                        for _ in 0..100 {
                            gate.enter(SOON).await.unwrap().done(None);
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.await.unwrap();
            }
            assert_eq!((gate.limit(), gate.in_flight()), (64, 0));
            assert_eq!(gate.0.turns.available_permits(), 64);
        }
    }

    #[tokio::test]
    async fn what_the_app_has_when_the_cache_turns_cold_stays_with_it() {
        let gate = Gate::new(MaxInFlight::Fixed(NonZeroU32::new(100).unwrap()));
        let mut busy = Vec::new();
        for _ in 0..80 {
            busy.push(gate.enter(SOON).await.unwrap());
        }
        gate.ramp();
        gate.ramp();
        assert_eq!((gate.limit(), gate.in_flight()), (80, 80));
        busy.into_iter().for_each(|permit| permit.done(None));
        assert_eq!((gate.limit(), gate.in_flight()), (100, 0));
    }

    #[tokio::test]
    async fn a_well_used_bound_grows_with_good_answers() {
        let gate = Gate::new(MaxInFlight::Adaptive);
        let mut busy = Vec::new();
        for _ in 0..ADAPTIVE_START / 2 {
            busy.push(gate.enter(SOON).await.unwrap());
        }
        for _ in 0..ADAPTIVE_START {
            gate.enter(SOON).await.unwrap().done(None);
        }
        assert_eq!(gate.limit(), ADAPTIVE_START + 1);
    }
}
