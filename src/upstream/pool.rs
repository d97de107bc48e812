//! Idle connections to the app: who gets which, and how those end that nobody needs any more.
//!
//! Never lends one that was closed or has something to say that nobody asked for.

use super::{Address, check};
use http::HeaderMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Idle connections of one kind kept to the app by one worker.
const IDLE_MAX: usize = 256;
/// An idle connection is not used again after this, unless the app names a shorter time.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// Idle connections are looked through at this distance, so that what the app has closed does not lie
/// about where no request comes.
pub(super) const SWEEP_PAUSE: Duration = Duration::from_secs(5);

/// A connection as the pool sees it.
pub(super) trait Line: Send + 'static {
    /// Whether a request may be sent on it, as far as one can tell without waiting.
    fn state(&mut self) -> State;

    /// It idles from now on, and should keep no more than it needs.
    fn rest(&mut self) {}
}

/// What can be told of an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// Its last exchange has yet to leave it.
    Busy,
    /// The app has closed it, or says what nobody has asked for.
    Useless,
}

/// Idle connections, the last one back first.
#[derive(Debug)]
pub(super) struct Pool<L> {
    idle: Mutex<VecDeque<Idle<L>>>,
    /// Somebody looks through them from time to time.
    swept: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Idle<L> {
    pub line: L,
    /// The app has said that it keeps the connection until then.
    pub promised: bool,
    address: Arc<Address>,
    until: Instant,
}

/// A connection on its way through one exchange; given back only by [`Home::give_back`].
#[derive(Debug)]
pub(super) struct Home<L> {
    pub line: L,
    pool: Arc<Pool<L>>,
    address: Arc<Address>,
    keep: Duration,
    promised: bool,
    reusable: bool,
}

impl<L> Default for Pool<L> {
    fn default() -> Self {
        Self {
            idle: Mutex::default(),
            swept: AtomicBool::new(false),
        }
    }
}

impl<L: Line> Pool<L> {
    /// The last one back of those that are ready. What is useless goes on the way.
    pub fn take(&self, address: &Arc<Address>) -> Option<Idle<L>> {
        let mut idle = self.lock();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            match idle[at].state(address) {
                State::Ready => return idle.remove(at),
                State::Busy => {}
                State::Useless => drop(idle.remove(at)),
            }
        }
        None
    }

    /// Lends `line` for an exchange whose answer has this `head`; `reusable`: the head allows another.
    pub fn lend(
        self: &Arc<Self>,
        address: &Arc<Address>,
        line: L,
        head: &HeaderMap,
        reusable: bool,
    ) -> Home<L> {
        let hint = check::keep_alive_hint(head);
        Home {
            line,
            pool: self.clone(),
            address: address.clone(),
            keep: hint.map_or(IDLE_TIME, |hint| hint.min(IDLE_TIME)),
            promised: hint.is_some(),
            reusable,
        }
    }

    /// Connections that idle here.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn put(self: &Arc<Self>, idle: Idle<L>) {
        let mut all = self.lock();
        if all.len() >= IDLE_MAX {
            all.pop_front();
        }
        all.push_back(idle);
        drop(all);
        if !self.swept.load(Ordering::Relaxed) && !self.swept.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Idle<L>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what has idled too long or was closed by the app, until none is left or the pool is gone.
async fn sweep<L: Line>(pool: Weak<Pool<L>>) {
    loop {
        tokio::time::sleep(SWEEP_PAUSE).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let mut idle = pool.lock();
        idle.retain_mut(|idle| idle.until > Instant::now() && idle.line.state() != State::Useless);
        if idle.is_empty() {
            // Under the lock: whoever puts one in next begins anew.
            pool.swept.store(false, Ordering::Relaxed);
            return;
        }
    }
}

impl<L: Line> Idle<L> {
    fn state(&mut self, address: &Arc<Address>) -> State {
        if self.until <= Instant::now() || !Arc::ptr_eq(&self.address, address) {
            return State::Useless;
        }
        self.line.state()
    }
}

impl<L: Line> Home<L> {
    /// Both directions have ended exactly at a message's end: the connection may serve again, if the
    /// answer's head allows it.
    pub fn give_back(mut self) {
        if !self.reusable {
            return;
        }
        self.line.rest();
        self.pool.put(Idle {
            line: self.line,
            promised: self.promised,
            address: self.address,
            until: Instant::now() + self.keep,
        });
    }
}
