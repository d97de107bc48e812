//! Carries out what the queue says: one task in the background, on its own connections to app and Redis.

use super::brake::{Brake, Pressure, TRICKLE_PAUSE, brake};
use super::predict::Predictor;
use super::queue::{Cause, LOOK_AGAIN, Line, Pace, Progress, Queue, Step};
use super::{Page, Popular, Record, Warmed};
use crate::proxy::Proxy;
use crate::semantics::Timestamp;
use serde::Serialize;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// What warms. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Warmer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    predictor: Mutex<Option<Predictor>>,
    woken: Notify,
    proxy: Proxy,
    popular: Popular,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    brake: Brake,
}

/// How warming stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// Pages that wait.
    pub waiting: usize,
    /// Pages under way.
    pub running: u32,
    /// What holds it, if anything does and anything waits.
    pub paused: Option<&'static str>,
    /// How predictions do, where there are any.
    pub predict: Option<Record>,
    /// Every job that is remembered, the newest first.
    pub jobs: Vec<Progress>,
}

impl Warmer {
    /// One with nothing to do, that warms by `proxy`; [`Warmer::run`] does it.
    #[must_use]
    pub fn new(proxy: Proxy, popular: Popular) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                queue: Queue::default(),
                brake: Brake::Off(u32::MAX),
            }),
            predictor: Mutex::default(),
            woken: Notify::new(),
            proxy,
            popular,
        }))
    }

    /// Begins a job with these pages; `more`: others will be added, by [`Warmer::add`] and
    /// [`Warmer::close`]. Gives its number.
    pub fn begin(
        &self,
        cause: Cause,
        name: String,
        pace: Pace,
        pages: impl IntoIterator<Item = Page>,
        more: bool,
    ) -> u64 {
        let now = self.now();
        let mut state = self.state();
        let id = state.queue.open(cause, name, pace, (now, Instant::now()));
        let _ = state.queue.add(id, pages);
        if !more {
            state.queue.close(id, now);
        }
        drop(state);
        self.0.woken.notify_one();
        id
    }

    /// Which pages are asked for most.
    #[must_use]
    pub fn popular(&self) -> &Popular {
        &self.0.popular
    }

    /// Adds pages to a job that waits for more. Gives whether there would be room for others.
    pub fn add(&self, id: u64, pages: impl IntoIterator<Item = Page>) -> bool {
        let has_room = self.state().queue.add(id, pages);
        self.0.woken.notify_one();
        has_room
    }

    /// Tells that something that names pages of a job could not be read.
    pub(super) fn problem(&self, id: u64, problem: String) {
        tracing::warn!(job = id, "{problem}");
        self.state().queue.problem(id, problem);
    }

    /// What a job has waiting is not warmed any more.
    pub(super) fn give_up(&self, id: u64) {
        let now = self.now();
        self.state().queue.give_up(id, now);
    }

    /// Waits until users leave the app room for a question of the warmer's own.
    pub(super) async fn until_clear(&self) {
        loop {
            match brake(self.proxy().pressure(), Brake::Off(u32::MAX)) {
                Brake::Off(_) => return,
                // It has to be asked now and then, or nobody would learn that it is well again.
                Brake::Slow(_) => return tokio::time::sleep(TRICKLE_PAUSE).await,
                Brake::Stop(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// No more pages will be added.
    pub fn close(&self, id: u64) {
        let now = self.now();
        self.state().queue.close(id, now);
    }

    /// Whether a job has still anything to do.
    #[must_use]
    pub fn is_busy(&self, id: u64) -> bool {
        self.state().queue.is_busy(id)
    }

    /// How warming stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let predict = self.record();
        let state = self.state();
        let (waiting, running) = state.queue.load();
        Standing {
            predict,
            waiting,
            running,
            paused: state.brake.why().filter(|_| waiting > 0),
            jobs: state.queue.progress(),
        }
    }

    /// How far a job is, with what became of its pages from number `after` + 1 on.
    #[must_use]
    pub fn told(&self, id: u64, after: u64) -> Option<(Progress, Vec<Line>)> {
        self.state().queue.told(id, after)
    }

    /// Warms for as long as it is polled: what is under way then is given up, but for fetches that others
    /// wait for. To be called where the proxy's ways to app and Redis were made.
    pub async fn run(&self) -> Infallible {
        let proxy = &self.0.proxy;
        let mut running = JoinSet::new();
        loop {
            while running.try_join_next().is_some() {}
            let pressure = proxy.pressure();
            let step = {
                let mut state = self.state();
                let before = state.brake;
                state.brake = brake(pressure, before);
                if state.queue.load().0 > 0 {
                    tell_of(before, state.brake);
                }
                let brake = state.brake;
                state.queue.next(brake, Instant::now())
            };
            let until = match step {
                Step::Begin(id, page) => {
                    let warmer = self.clone();
                    running.spawn(async move {
                        let (warmed, took) = warmer.proxy().warm(&page).await;
                        warmer.done(id, &page, warmed, took);
                    });
                    continue;
                }
                Step::Until(moment) => Some(moment),
                Step::Rest => None,
            };
            let woken = self.0.woken.notified();
            match until {
                Some(moment) => {
                    let _ = tokio::time::timeout_at(moment.into(), woken).await;
                }
                None => woken.await,
            }
        }
    }

    fn done(&self, id: u64, page: &Page, warmed: Warmed, took: Duration) {
        let now = self.now();
        let cause = self
            .state()
            .queue
            .done(id, page, warmed, took, (now, Instant::now()));
        if cause == Some(Cause::Predicted) {
            self.predicted(page, warmed);
        }
        self.0.woken.notify_one();
    }

    /// What it warms by.
    pub(super) fn proxy(&self) -> &Proxy {
        &self.0.proxy
    }

    fn now(&self) -> Timestamp {
        self.0.proxy.0.shared.clock.now()
    }

    pub(super) fn predictor(&self) -> MutexGuard<'_, Option<Predictor>> {
        let predictor = self.0.predictor.lock();
        predictor.unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says in the log when the app is not well enough to be warmed, and when it is again. That users come
/// first happens all the time, and is not said.
fn tell_of(before: Brake, now: Brake) {
    match (before, now) {
        (Brake::Slow(before), Brake::Slow(now)) if before == now => {}
        (_, Brake::Slow(why)) => tracing::info!(why, "warming goes slowly"),
        (Brake::Slow(_), Brake::Off(_)) => tracing::info!("warming goes on"),
        _ => {}
    }
}

impl Proxy {
    /// How the app does, as far as it holds warming back.
    fn pressure(&self) -> Pressure {
        let (limit, in_flight) = self.0.upstream.load();
        let pulse = &self.0.shared.pulse;
        Pressure {
            waiting: self.0.upstream.waiting(),
            in_flight,
            limit,
            slowness: pulse.slowness(),
            failing: pulse.failing(),
        }
    }
}
