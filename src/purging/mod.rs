//! Where all ways by which a purge comes in meet: what was asked for becomes purges, is carried out,
//! told to whoever wants to know, and remembered for a while.
//!
//! What a purge hits is the store's business. Never fails: with Redis away, a purge is done here and
//! queued for the others.

pub mod listening;
pub mod notices;
pub mod request;
pub mod webhook;

pub use listening::Listening;
pub use notices::Notice;
pub use request::{Refusal, Request};

use crate::cache::{Cache, Claim, Purge, PurgeOutcome, Scope};
use crate::config::settings::Rate;
use crate::semantics::Timestamp;
use crate::telemetry::Recorder;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Purges that are remembered for [`Purging::recent`].
pub const RECORDS_MAX: usize = 100;
/// Messages that are remembered so that none is taken twice.
pub const SEEN_MAX: usize = 100_000;
/// Who has begun with a message and not said in so long that it is done has died of it: the next try is
/// as good as the first.
const UNDERWAY_MAX: Duration = Duration::from_secs(10);
/// Of one record, so many of its purges are told one by one.
const TOLD_MAX: usize = 16;
/// Bytes of one of them.
const TOLD_BYTES_MAX: usize = 256;

/// By which way a purge came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `POST /v1/purge` of the admin port, which `larder purge` speaks to.
    Api,
    /// PURGE on the port for clients.
    Method,
    /// What a route, or the app by fields of its answer, purges after an unsafe request.
    Route,
    /// A signed message on the port for clients.
    Webhook,
    /// A message of a Redis channel.
    Channel,
    /// An entry of a Redis Stream.
    Stream,
}

impl Way {
    /// Its word in logs, metrics and records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Method => "method",
            Self::Route => "route",
            Self::Webhook => "webhook",
            Self::Channel => "channel",
            Self::Stream => "stream",
        }
    }
}

/// Who purged, and when.
#[derive(Clone, Debug)]
pub struct By {
    /// The way.
    pub way: Way,
    /// Which of its kind: the route's name, the message's id.
    pub name: Option<Arc<str>>,
    /// When it was asked for.
    pub now: Timestamp,
}

/// A purge that was carried out.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who, and when.
    pub by: By,
    /// What, as in `tag car:42`; the first few.
    pub told: Vec<String>,
    /// How many purges that were.
    pub purges: usize,
    /// How many of them were soft.
    pub soft: usize,
    /// How it went.
    pub outcome: PurgeOutcome,
    /// From when it was asked for until the log had it, or was found not to take it.
    pub took: Duration,
}

/// What a message is to whoever hears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The first of its name: to be carried out, and then said to be done.
    First,
    /// Another of its name is being carried out, or nobody can tell: to be sent once more.
    Underway,
    /// What it asks for has been done.
    Done,
}

/// The door. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Purging(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    records: Mutex<VecDeque<Arc<Record>>>,
    admitted: Mutex<Admitted>,
    seen: Mutex<Seen>,
    notices: notices::Notices,
}

impl Purging {
    /// Carries purges out: here at once, and for the others through the log. They leave one line in the
    /// log and one record. What goes with them of itself, `beside`, is not told.
    pub async fn carry_out(
        &self,
        cache: &Cache,
        recorder: &Recorder,
        mut purges: Vec<Purge>,
        beside: Vec<Purge>,
        by: By,
    ) -> Arc<Record> {
        let began = Instant::now();
        for purge in &purges {
            recorder.purge(purge.scope.word(), purge.soft);
        }
        let told = purges.iter().take(TOLD_MAX).map(|purge| told(&purge.scope));
        let (told, soft) = (told.collect(), purges.iter().filter(|purge| purge.soft));
        let (count, soft) = (purges.len(), soft.count());
        self.0.notices.add(|| Notice::of(&purges, &by));
        purges.extend(beside);
        // That it is recorded does not hang on whether who asked still waits.
        let (this, cache, recorder) = (self.clone(), cache.clone(), recorder.clone());
        let done = tokio::spawn(async move {
            let outcome = cache.purge(purges).await;
            recorder.purge_asked(by.way.word(), outcome.word());
            let record = Arc::new(Record {
                by,
                told,
                purges: count,
                soft,
                outcome,
                took: began.elapsed(),
            });
            tracing::info!(
                action = "purge",
                by = record.by.way.word(),
                name = record.by.name.as_deref(),
                scopes = record.told.join(", "),
                purges = count,
                soft = soft == count,
                outcome = record.outcome.word(),
                took_ms = record.took.as_secs_f64() * 1e3,
                "purged"
            );
            let mut records = locked(&this.0.records);
            if records.len() >= RECORDS_MAX {
                records.pop_front();
            }
            records.push_back(Arc::clone(&record));
            drop(records);
            record
        });
        match done.await {
            Ok(record) => record,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Admits so many purges from outside, or says how long to wait. Counted for this sidecar alone,
    /// and exactly: no window ever holds more.
    pub fn admit(&self, rate: Rate, purges: usize, now: Timestamp) -> Result<(), Duration> {
        locked(&self.0.admitted).admit(rate, purges, now)
    }

    /// Whether the message `id` is known to be done here already: what costs nothing to say.
    #[must_use]
    pub fn is_done(&self, id: &str, now: Timestamp) -> bool {
        locked(&self.0.seen).is_done(&digest(id.as_bytes()), now)
    }

    /// What the message `id` is to all sidecars; with Redis away, to this one. Who hears that it is the first
    /// calls [`Purging::done`] when it is; should it die before, another try of the message is the first.
    pub async fn hear(&self, cache: &Cache, id: &str, life: Duration, now: Timestamp) -> Heard {
        let digest = digest(id.as_bytes());
        let here = locked(&self.0.seen).begin(&digest, now);
        if here != Heard::First {
            return here;
        }
        match cache.claim(&digest, UNDERWAY_MAX).await {
            None | Some(Claim::Ours) => Heard::First,
            Some(Claim::Theirs) => {
                locked(&self.0.seen).forget(&digest);
                Heard::Underway
            }
            Some(Claim::Settled) => {
                locked(&self.0.seen).done(&digest, life, now);
                Heard::Done
            }
        }
    }

    /// What the message `id` asks for is done: one of its name is none for so long, to no sidecar.
    pub async fn done(&self, cache: &Cache, id: &str, life: Duration, now: Timestamp) {
        let digest = digest(id.as_bytes());
        locked(&self.0.seen).done(&digest, life, now);
        cache.settled(&digest, life).await;
    }

    /// What others are to be told of purges that began here.
    #[must_use]
    pub fn notices(&self) -> &notices::Notices {
        &self.0.notices
    }

    /// What was purged last, the newest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Arc<Record>> {
        locked(&self.0.records).iter().rev().cloned().collect()
    }
}

/// What was admitted in the window that ends now.
#[derive(Debug, Default)]
struct Admitted {
    each: VecDeque<(Timestamp, usize)>,
    sum: usize,
}

impl Admitted {
    fn admit(&mut self, rate: Rate, purges: usize, now: Timestamp) -> Result<(), Duration> {
        let quota = rate.quota.get() as usize;
        while let Some((at, count)) = self.each.front()
            && *at + rate.window <= now
        {
            self.sum -= count;
            self.each.pop_front();
        }
        if self.sum + purges <= quota {
            self.sum += purges;
            self.each.push_back((now, purges));
            return Ok(());
        }
        // What is more than a window ever takes is told to come back when nothing else is there.
        let mut room = quota.saturating_sub(self.sum);
        let free = self.each.iter().find(|(_, count)| {
            room += count;
            room >= purges
        });
        let last = free.or(self.each.back()).map_or(now, |(at, _)| *at);
        let wait = (last + rate.window)
            .as_millis()
            .saturating_sub(now.as_millis());
        Err(Duration::from_millis(wait.max(1)))
    }
}

/// Messages that were taken, for as long as another of the same name is none.
#[derive(Debug, Default)]
struct Seen(HashMap<String, (Timestamp, Heard)>);

impl Seen {
    fn get(&self, digest: &str, now: Timestamp) -> Heard {
        match self.0.get(digest) {
            Some((until, heard)) if *until > now => *heard,
            _ => Heard::First,
        }
    }

    fn is_done(&self, digest: &str, now: Timestamp) -> bool {
        self.get(digest, now) == Heard::Done
    }

    /// What is one too many to remember is not told from one that was heard: never said to be done.
    fn begin(&mut self, digest: &str, now: Timestamp) -> Heard {
        let heard = self.get(digest, now);
        if heard != Heard::First {
            return heard;
        }
        match self.put(digest, now + UNDERWAY_MAX, Heard::Underway, now) {
            true => Heard::First,
            false => Heard::Underway,
        }
    }

    fn done(&mut self, digest: &str, life: Duration, now: Timestamp) {
        self.put(digest, now + life, Heard::Done, now);
    }

    fn forget(&mut self, digest: &str) {
        self.0.remove(digest);
    }

    fn put(&mut self, digest: &str, until: Timestamp, heard: Heard, now: Timestamp) -> bool {
        if self.0.len() >= SEEN_MAX {
            self.0.retain(|_, (until, _)| *until > now);
        }
        let has_room = self.0.len() < SEEN_MAX || self.0.contains_key(digest);
        if has_room {
            self.0.insert(digest.to_owned(), (until, heard));
        }
        has_room
    }
}

/// 32 hexadecimal digits that stand for `bytes`.
fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let half = digest.as_ref().iter().take(16);
    half.map(|byte| format!("{byte:02x}")).collect()
}

/// As people read it: `tag car:42`.
#[must_use]
pub fn told(scope: &Scope) -> String {
    let mut told = match scope {
        Scope::All => scope.word().to_owned(),
        named => format!("{} {}", named.word(), named.value()),
    };
    told.truncate(told.floor_char_boundary(TOLD_BYTES_MAX));
    told
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(secs * 1_000)
    }

    #[test]
    fn no_window_holds_more_purges_than_its_rate() {
        let rate = Rate {
            quota: NonZeroU32::new(10).unwrap(),
            window: Duration::from_secs(60),
        };
        let mut admitted = Admitted::default();
        assert_eq!(admitted.admit(rate, 6, at(100)), Ok(()));
        assert_eq!(admitted.admit(rate, 4, at(110)), Ok(()));
        let wait = |secs| Err(Duration::from_secs(secs));
        assert_eq!(admitted.admit(rate, 1, at(120)), wait(40));
        assert_eq!(admitted.admit(rate, 7, at(120)), wait(50));
        assert_eq!(admitted.admit(rate, 6, at(160)), Ok(()));
        assert_eq!(admitted.admit(rate, 11, at(161)), wait(59));
    }

    #[test]
    fn a_message_is_the_first_once_in_its_life_and_again_if_who_began_with_it_died() {
        let mut seen = Seen::default();
        let life = Duration::from_secs(60);
        assert_eq!(seen.begin("a", at(100)), Heard::First);
        assert_eq!(seen.begin("a", at(109)), Heard::Underway);
        assert_eq!(seen.begin("a", at(110)), Heard::First);
        seen.done("a", life, at(111));
        assert_eq!(seen.begin("a", at(170)), Heard::Done);
        assert_eq!(seen.begin("a", at(171)), Heard::First);
    }

    #[test]
    fn one_message_too_many_to_remember_is_never_said_to_be_done() {
        let mut seen = Seen::default();
        let life = Duration::from_secs(60);
        for n in 0..SEEN_MAX {
            seen.done(&n.to_string(), life, at(100));
        }
        assert_eq!(seen.begin("0", at(159)), Heard::Done);
        assert_eq!(seen.begin("b", at(159)), Heard::Underway);
        assert_eq!(seen.begin("b", at(160)), Heard::First);
    }

    #[test]
    fn what_is_told_of_a_purge_is_bounded() {
        assert_eq!(told(&Scope::Tag("car:42".into())), "tag car:42");
        assert_eq!(told(&Scope::All), "all");
        assert!(told(&Scope::Url("ü".repeat(4_000))).len() <= TOLD_BYTES_MAX);
    }
}
