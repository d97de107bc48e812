//! The lists of the configuration, each warmed by one of all sidecars when it is time to.

use super::lead::{LEASE, Lead, Standing};
use super::sources::Wanted;
use super::{Cause, Pace, Warmer};
use crate::config::warm::WarmList;
use crate::redis_client::Redis;
use crate::semantics::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Who comes to lead so soon after a moment of the schedule makes up for it: the one before may have died.
const MISSED_MAX: Duration = Duration::from_secs(2 * LEASE.as_secs());
/// Between two looks at what is due.
const LOOK: Duration = Duration::from_millis(200);
/// The process does not wait longer for its lists before it is ready.
pub const READY_MAX: Duration = Duration::from_secs(300);

/// Sees to the lists.
pub struct Lists {
    /// What warms.
    pub warmer: Warmer,
    /// Where it is agreed who leads.
    pub redis: Option<Redis>,
    /// First part of every Redis key.
    pub namespace: String,
    /// Set once every list that the process waits for has been warmed.
    pub ready: Arc<AtomicBool>,
}

/// One list.
struct Kept {
    list: WarmList,
    lead: Lead,
    led: bool,
    job: Option<u64>,
    began: Option<Timestamp>,
    /// The next moment of its schedule.
    scheduled: Option<Timestamp>,
    /// The last moment of its schedule at which another led.
    missed: Option<Timestamp>,
    /// It need not be waited for (any more).
    settled: bool,
}

impl Lists {
    /// Runs until `stop` is done, then lets others lead.
    pub async fn keep(self, stop: impl Future<Output = ()>) {
        let mut kept: Vec<Kept> = Vec::new();
        let began = Instant::now();
        let stop = std::pin::pin!(stop);
        let mut stop = stop;
        loop {
            self.take_up(&mut kept).await;
            for one in &mut kept {
                self.look_at(one).await;
            }
            let waits = kept.iter().any(|one| one.list.wait_ready && !one.settled);
            if !waits || began.elapsed() > READY_MAX {
                self.ready.store(true, Ordering::Relaxed);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = &mut stop => break,
            }
        }
        for one in &mut kept {
            one.lead.release(self.redis.as_ref()).await;
        }
    }

    /// Takes up the lists of the configuration in force; one that is the same as before goes on.
    async fn take_up(&self, kept: &mut Vec<Kept>) {
        let shared = &self.warmer.proxy().0.shared;
        let settings = shared.snapshot.load().settings.clone();
        let is_same = kept.len() == settings.warm.len()
            && (kept.iter().zip(&settings.warm)).all(|(kept, list)| kept.list == *list);
        if is_same {
            return;
        }
        let mut before = std::mem::take(kept);
        let now = shared.clock.now();
        for list in &settings.warm {
            let same = before.iter().position(|one| one.list == *list);
            kept.push(match same {
                Some(at) => before.swap_remove(at),
                None => Kept {
                    lead: Lead::new(self.key(list), Instant::now()),
                    led: false,
                    job: None,
                    began: None,
                    scheduled: list.schedule.and_then(|cron| cron.after(now)),
                    missed: None,
                    settled: false,
                    list: list.clone(),
                },
            });
        }
        for mut gone in before {
            // What is left of its round has another pace, or is not wanted any more.
            if let Some(job) = gone.job {
                self.warmer.give_up(job);
                gone.lead.round_ends(self.redis.as_ref()).await;
            }
            gone.lead.release(self.redis.as_ref()).await;
        }
    }

    /// What the lease is called: one name for one list, whatever else the configurations of others hold.
    fn key(&self, list: &WarmList) -> String {
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{list:?}").as_bytes());
        let digits: String = (digest.as_ref().iter().take(8))
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{}:warm:{digits}", self.namespace)
    }

    async fn look_at(&self, one: &mut Kept) {
        let now = self.warmer.proxy().0.shared.clock.now();
        let redis = self.redis.as_ref();
        if let Some(job) = one.job {
            if self.warmer.is_busy(job) {
                // Who leads goes on to lead.
                one.lead.hold(redis, Instant::now()).await;
                return;
            }
            one.job = None;
            one.settled = true;
            one.lead.round_ends(redis).await;
        }
        let standing = one.lead.hold(redis, Instant::now()).await;
        if standing == Standing::Follows {
            one.settled = true;
        }
        let leads = standing.leads();
        // Who comes to lead does not know how far the one before has come. What is fresh costs nothing.
        let is_new = leads && !std::mem::replace(&mut one.led, leads);
        let list = &one.list;
        let at_once = is_new && (list.on_start || list.every.is_some());
        let again = list
            .every
            .is_some_and(|every| one.began.is_some_and(|began| now.since(began) >= every));
        let at_its_time = one.scheduled.is_some_and(|scheduled| scheduled <= now);
        if at_its_time {
            one.missed = one.scheduled.filter(|_| !leads);
            one.scheduled = list.schedule.and_then(|cron| cron.after(now));
        }
        let made_up = is_new && (one.missed).is_some_and(|at| now.since(at) <= MISSED_MAX);
        let due = at_once || again || at_its_time || made_up;
        if !leads || !(due || is_new && one.lead.is_round_open(redis).await) {
            return;
        }
        one.missed = None;
        one.lead.round_begins(redis).await;
        one.began = Some(now);
        let (name, pace, wanted) = (list.name(), Pace::of(list), Wanted::of(list));
        one.job = Some(self.warmer.warm(Cause::List, name, pace, wanted));
    }
}
