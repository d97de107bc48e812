//! What requests leave behind for the warmer: never waited for, and dropped where it has enough to do.

use super::predict::{Budget, Known, Predictor, Use};
use super::sources::known;
use super::{Cause, Pace, Page, Record, Warmed, Warmer};
use crate::config::settings::Predict;
use crate::proxy::{Ask, Proxy};
use crate::semantics::Timestamp;
use http::header::USER_AGENT;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Wishes that may wait; more are dropped.
const WISHES_MAX: usize = 1_024;
/// Of the keys that are asked for most, so many are looked at after a purge.
const REFRESHED_MAX: usize = 200;
/// Between two looks at whether an hour is about to begin.
const HOUR_LOOK: Duration = Duration::from_millis(500);
/// Predictions begin at least so fast, in pages a second: who will ask for them does not wait.
const PREDICTED_RATE: f64 = 2.0;

/// What a request would like to be warmed.
#[derive(Clone, Debug)]
pub enum Wish {
    /// What was purged just now and is asked for most.
    Hot,
    /// Pages that a stored answer has named.
    Linked(Vec<Page>),
    /// None: a page was used, and others may be used next.
    Used(Use),
}

/// Where wishes are left. Shared by all workers.
#[derive(Debug)]
pub struct Wishes {
    leave: mpsc::Sender<Wish>,
    left: Mutex<Option<mpsc::Receiver<Wish>>>,
    /// Makes numbers of clients, other ones in each process.
    hasher: RandomState,
}

impl Default for Wishes {
    fn default() -> Self {
        let (leave, left) = mpsc::channel(WISHES_MAX);
        Self {
            leave,
            left: Mutex::new(Some(left)),
            hasher: RandomState::new(),
        }
    }
}

impl Wishes {
    /// Leaves one.
    pub fn leave(&self, wish: Wish) {
        let _ = self.leave.try_send(wish);
    }

    /// What is left from now on; once.
    fn take(&self) -> Option<mpsc::Receiver<Wish>> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.take()
    }
}

impl Warmer {
    /// Fulfils what requests wish, for as long as it is polled. Once a process.
    pub async fn hear(&self) {
        let Some(mut wishes) = self.proxy().0.shared.wishes.take() else {
            return;
        };
        let mut hours = tokio::time::interval(HOUR_LOOK);
        loop {
            let wish = tokio::select! {
                wish = wishes.recv() => wish,
                _ = hours.tick() => {
                    self.predict(|predictor, now| predictor.before_the_hour(now));
                    continue;
                }
            };
            match wish {
                None => return,
                Some(Wish::Used(one)) => self.predict(|predictor, now| predictor.used(one, now)),
                Some(wish) => self.fulfil(wish),
            }
        }
    }

    fn fulfil(&self, wish: Wish) {
        match wish {
            Wish::Hot => self.refresh_hot(),
            Wish::Linked(pages) => {
                let name = "links of stored answers".to_owned();
                self.begin(Cause::Link, name, Pace::DEFAULT, pages, true);
            }
            Wish::Used(_) => {}
        }
    }

    /// Warms what the predictor says, where the configuration wants it to.
    fn predict(&self, says: impl FnOnce(&mut Predictor, Timestamp) -> Vec<Known>) {
        let shared = &self.proxy().0.shared;
        let settings = shared.snapshot.load().settings.clone();
        let mut predictor = self.predictor();
        let Some(predict) = &settings.predict else {
            // What it has learnt goes with the setting.
            *predictor = None;
            return;
        };
        let budget = Budget {
            per_minute: predict.per_minute,
            precision_min: predict.precision,
        };
        let one = predictor.get_or_insert_with(|| Predictor::new(budget));
        one.set_budget(budget);
        let likely = says(one, shared.clock.now());
        drop(predictor);
        let pages: Vec<Page> = (likely.iter())
            .filter_map(|page| known(&page.url, page.tls))
            .collect();
        if !pages.is_empty() {
            let name = "what is likely to be asked for next".to_owned();
            let pace = self.predicted_pace(predict);
            self.begin(Cause::Predicted, name, pace, pages, true);
        }
    }

    fn predicted_pace(&self, predict: &Predict) -> Pace {
        let (limit, _) = self.proxy().0.upstream.load();
        Pace {
            concurrency: ((limit as f32 * predict.share) as u32).max(1),
            rate: (f64::from(predict.per_minute) / 60.0).max(PREDICTED_RATE),
        }
    }

    /// How predictions do, where there are any.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        self.predictor().as_ref().map(Predictor::record)
    }

    /// Tells what became of a prediction. What was there already, or is not stored, spared nobody anything.
    pub(super) fn predicted(&self, page: &Page, warmed: Warmed) {
        let now = self.proxy().0.shared.clock.now();
        let mut predictor = self.predictor();
        let Some(predictor) = predictor.as_mut() else {
            return;
        };
        let page = Known {
            tls: page.tls,
            url: format!("{}{}", page.host, page.target).into(),
        };
        match warmed {
            Warmed::Stored(fresh) => predictor.stored(&page, fresh, now),
            Warmed::Fresh(left) => predictor.in_vain(&page, Some(left), now),
            Warmed::NotStored(_) | Warmed::Failed(_) => predictor.in_vain(&page, None, now),
        }
    }

    /// Sees to it that what is asked for most is fresh; to be called after a purge. What it has not hit
    /// costs a look into the store, and no request to the app.
    fn refresh_hot(&self) {
        let shared = &self.proxy().0.shared;
        let now = shared.clock.now();
        let top = shared.hot.top(REFRESHED_MAX, now).into_iter();
        let pages: Vec<Page> = top
            .filter(|key| !key.what.is_personal && !shared.coalescer.is_apart(&key.key, now))
            .filter_map(|key| known(&key.what.url, key.what.tls))
            .collect();
        let name = "hot pages, after a purge".to_owned();
        self.begin(Cause::Purge, name, Pace::DEFAULT, pages, true);
    }
}

impl Proxy {
    /// Lets the predictor learn from this use, where the configuration wants it to and it is not somebody's
    /// own. `is_hit`: it was there, and fresh.
    pub(in crate::proxy) fn observe(&self, ask: &Ask<'_>, is_hit: bool) {
        let rule = ask.found.rule;
        if !rule.key.per.is_empty() {
            return;
        }
        let wishes = &self.0.shared.wishes;
        let agent = ask
            .visit
            .headers
            .get(USER_AGENT)
            .map(|agent| agent.as_bytes());
        let who = (ask.caller.token(), ask.caller.ip(), agent);
        wishes.leave(Wish::Used(Use {
            client: wishes.hasher.hash_one(who),
            is_hit,
            page: Known {
                tls: ask.scheme() == "https",
                url: format!("{}{}", ask.visit.authority(), rule.url(ask.target)).into(),
            },
        }));
    }
}
