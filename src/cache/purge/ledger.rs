//! What one sidecar knows of the purge log, what it has still to say in it, and how far it may trust what
//! it holds: pure decisions. The session with a real Redis and the simulation feed it alike; it knows no
//! socket, and `now` is passed in.

use super::table::Table;
use super::{LogId, Position, Purge, Scope, Since, Subject, Verdict};
use crate::redis_client::Outage;
use crate::semantics::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// Purges kept for a Redis that is away; more become one purge of everything.
pub const OUTBOX_MAX: usize = 10_000;
/// So long after its connection was lost nobody doubts memory: time to connect anew and to catch up. Redis is
/// not read meanwhile, unless keys are divided among servers of which others answer: who answers next may be
/// a server with older data.
pub const LOST_MAX: Duration = Duration::from_millis(250);
/// For so long where its server is away while others of the same Redis answer. Nobody appends to a
/// server that is gone, so that nothing is missed until its replica takes over; a sidecar that alone
/// is cut off from it misses purges for this long at most. A Cluster with its usual node timeout of 15 s
/// needs less.
pub const LOG_AWAY_MAX: Duration = Duration::from_secs(20);
/// For at most so long Redis is not read once another server, or the same one started anew, has the log: until
/// every sidecar that was seen lately has appended what the log has not taken or has lost. Who knows of purges
/// tries to connect at least twice in this time, whatever its breaker says.
pub const SETTLE: Duration = Duration::from_secs(1);
/// An appended purge that has not come back through the log by then is appended again.
const APPEND_AGAIN: Duration = Duration::from_secs(2);
/// A purge is on its way into the log for so long, by whoever made it.
const IN_FLIGHT: Duration = Duration::from_millis(250);

/// A purge of this process that has not come back through the log yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Its local number.
    pub local: u64,
    pub purge: Purge,
    /// When it was asked for; nothing for one that is only said again.
    pub begun: Option<Duration>,
    /// When the log took it.
    appended: Option<Duration>,
}

/// What a look at the log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether our place in it is lost: purges may have come behind it that are not there any more.
    pub lost: bool,
    /// The first place there is.
    pub first: LogId,
    /// Names the server and its history; empty where it does not say.
    pub server: String,
    /// Whether the server runs only since a moment ago, and the log was begun before that.
    pub restarted: bool,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The log begins: what it held before is not known.
    Genesis,
    /// The log begins anew, and this was the last that it held before.
    Resumed(LogId),
    /// A purge, and its local number where it is one of ours.
    Purge(Purge, Option<u64>),
}

/// How far what memory holds may be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The log is followed, or there is none: what is purged is obeyed here.
    #[default]
    None,
    /// It is not, and nobody knows what others have purged since.
    CutOff,
    /// It is being replayed: what is older than the beginning of that is not fresh until it is over.
    CatchingUp(u64),
}

/// One connection's time of following.
#[derive(Clone, Copy, Debug)]
struct Session {
    caught_up: bool,
    /// The purges applied here when it began.
    local: u64,
    looked: bool,
}

/// See the head of the file. Moments are spans since some beginning, but for those that are compared with
/// when responses were received.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    table: Table,
    outbox: VecDeque<Pending>,
    session: Option<Session>,
    /// When the log was last followed.
    followed: Option<Duration>,
    /// The same on the clock of received responses.
    heard: Timestamp,
    /// Whether the log's server was seen to be away, and nothing proved otherwise since.
    away: bool,
    /// Redis is not read before, unless so many sidecars have said before what they had to.
    settled: Duration,
    awaited: u32,
    /// Sidecars seen lately, this one included.
    sidecars: u32,
    /// Who was seen to have the log.
    server: String,
    doubt: Doubt,
    current: bool,
}

impl Ledger {
    /// See [`Table::position`].
    pub fn position(&self) -> Position {
        self.table.position()
    }

    /// How far memory may be trusted, as of the last event.
    pub fn doubt(&self) -> Doubt {
        self.doubt
    }

    /// Whether entries from Redis can be judged, as of the last event.
    pub fn is_current(&self) -> bool {
        self.current
    }

    /// There is a log to be followed from this moment on.
    pub fn begins(&mut self, now: Duration, clock: Timestamp) {
        self.heard = clock;
        self.judge(now, false);
    }

    /// When the log was last known to be followed, or was to be followed from.
    pub fn heard(&self) -> Timestamp {
        self.heard
    }

    /// Purges that the log has not given back yet.
    pub fn queued(&self) -> usize {
        self.outbox.len()
    }

    /// Those of them that it has not taken.
    pub fn unsaid(&self) -> Vec<Pending> {
        let unsaid = self.outbox.iter().filter(|kept| kept.appended.is_none());
        unsaid.cloned().collect()
    }

    /// Whether the log has taken all of them.
    pub fn has_said(&self) -> bool {
        self.outbox.iter().all(|kept| kept.appended.is_some())
    }

    /// See [`Table::logged`].
    pub fn logged(&self, purge: &Purge) -> LogId {
        self.table.logged(purge)
    }

    /// See [`Table::verdict`].
    pub fn verdict<'a>(
        &self,
        subject: Subject<'a, impl IntoIterator<Item = &'a str>>,
        since: Since,
    ) -> Verdict {
        self.table.verdict(subject, since)
    }

    /// Whether an entry from Redis that carries this place may be shown. One from beyond the end of the log
    /// as it is known here comes from a history that was lost, or that is not here yet.
    pub fn found<'a>(
        &self,
        subject: Subject<'a, impl IntoIterator<Item = &'a str>>,
        log: LogId,
    ) -> Verdict {
        match log > self.position().log {
            true => Verdict::Hard,
            false => self.table.verdict(subject, Since::Log(log)),
        }
    }

    /// Whether an entry that memory holds may be shown: it was `received` then, and not purged by the first
    /// `checked` purges here. And where it is not fresh though its lifetime may say so: since when. While
    /// the log is not followed it is fresh for `trust` after it was last known to be good; while the log is
    /// being replayed, not at all.
    pub fn held<'a>(
        &self,
        subject: Subject<'a, impl IntoIterator<Item = &'a str>>,
        (checked, received): (u64, Timestamp),
        trust: Option<Duration>,
        now: Timestamp,
    ) -> (Verdict, Option<Timestamp>) {
        let verdict = self.table.verdict(subject, Since::Local(checked));
        let good = self.heard.max(received);
        let ended = match self.doubt {
            Doubt::None => None,
            Doubt::CutOff => trust.map(|trust| good + trust).filter(|end| now >= *end),
            Doubt::CatchingUp(local) => (checked < local).then_some(good),
        };
        (verdict, ended)
    }

    /// Applies purges made here at once. What is applied is to be appended.
    pub fn apply(&mut self, purges: &[Purge], now: Duration) -> Vec<Pending> {
        self.applied(purges, Some(now))
    }

    fn applied(&mut self, purges: &[Purge], begun: Option<Duration>) -> Vec<Pending> {
        let apply = |purge: &Purge| {
            let mut purge = purge.clone();
            if purge.scope.check().is_err() {
                purge.scope = Scope::All;
            }
            Pending {
                local: self.table.apply(&purge, None),
                purge,
                begun,
                appended: None,
            }
        };
        purges.iter().map(apply).collect()
    }

    /// Keeps what is to be appended until it has come back.
    pub fn keep(&mut self, pending: &[Pending]) {
        self.outbox.extend(pending.iter().cloned());
        if self.outbox.len() > OUTBOX_MAX {
            // So much cannot be kept one by one, so the others are told to drop everything.
            let everything = Purge {
                scope: Scope::All,
                soft: false,
            };
            self.outbox = self.applied(&[everything], None).into();
        }
    }

    /// What has to be appended (again).
    pub fn due(&self, now: Duration) -> Vec<Pending> {
        let is_over =
            |at: Option<Duration>, wait| at.is_none_or(|at| now.saturating_sub(at) > wait);
        let due = self.outbox.iter().filter(|kept| match kept.appended {
            None => is_over(kept.begun, IN_FLIGHT),
            appended => is_over(appended, APPEND_AGAIN),
        });
        due.cloned().collect()
    }

    /// The log has taken this purge. It stays in the outbox until it has come back: what Redis acknowledged
    /// may still be lost in a failover.
    pub fn appended(&mut self, pending: &Pending, log: LogId, now: Duration) {
        self.table.confirm(&pending.purge, pending.local, log);
        let kept = self.outbox.iter_mut();
        kept.filter(|kept| kept.local == pending.local)
            .for_each(|kept| kept.appended = Some(now));
    }

    /// A connection to the log stands.
    pub fn session_begins(&mut self, now: Duration) {
        // What is stored from now on can be told from what was there.
        let local = self.table.advance();
        self.session = Some(Session {
            caught_up: false,
            local,
            looked: false,
        });
        self.judge(now, false);
    }

    /// The log was looked at. Returns whether it has lost our place.
    pub fn looked(&mut self, look: &Look, now: Duration) -> bool {
        let is_first = self.session.is_some_and(|session| !session.looked);
        if let Some(session) = &mut self.session {
            session.looked = true;
        }
        // What it held before we came may have hit anything older, too.
        let is_new_here = is_first && self.position().log == LogId::default();
        if look.lost || is_new_here {
            self.table.raise_floor(look.first, true);
        }
        // One that does not say who it is may be another each time.
        let is_unknown = is_first && look.server.is_empty() && self.followed.is_some();
        let is_other = !self.server.is_empty() && self.server != look.server;
        if is_unknown || is_other || (is_first && look.restarted) {
            // It may have lost what the one before had acknowledged.
            self.outbox.iter_mut().for_each(|kept| kept.appended = None);
            if !look.lost {
                self.settled = now + SETTLE;
                // Who has just begun does not know how many there are.
                self.awaited = match self.followed {
                    Some(_) => self.sidecars,
                    None => u32::MAX,
                };
            }
        }
        self.server.clone_from(&look.server);
        self.judge(now, false);
        look.lost
    }

    /// So many sidecars were seen lately, and so many have said to this server all that they had to say.
    pub fn seen(&mut self, sidecars: u32, said: u32, now: Duration) {
        if now < self.settled && !self.server.is_empty() && said >= self.awaited {
            self.settled = now;
        }
        self.sidecars = sidecars;
        self.judge(now, false);
    }

    /// Who was last seen to have the log.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Whether Redis need not be left alone until others have spoken.
    pub fn is_settled(&self, now: Duration) -> bool {
        now >= self.settled
    }

    /// The next entry of the log.
    pub fn replay(&mut self, id: LogId, said: Said) {
        // Where the loss was seen before, what came into memory since is no older than this log.
        let is_news = self.table.floor() < id;
        match said {
            Said::Resumed(after) if after == self.position().log => self.table.replayed(id),
            Said::Genesis | Said::Resumed(_) => {
                self.table.raise_floor(id, is_news);
                self.table.replayed(id);
            }
            Said::Purge(purge, ours) => match ours {
                Some(local) => {
                    self.table.confirm(&purge, local, id);
                    self.table.replayed(id);
                    self.outbox.retain(|kept| kept.local != local);
                }
                None => {
                    self.table.apply(&purge, Some(id));
                }
            },
        }
    }

    /// The log's server has answered, and with `end` all that it has is replayed. `clock` is the moment on
    /// the clock of received responses.
    pub fn heard_of(&mut self, end: bool, now: Duration, clock: Timestamp) {
        if let Some(session) = &mut self.session {
            session.caught_up |= end;
            if session.caught_up {
                self.followed = Some(now);
                self.heard = clock;
                self.away = false;
            }
        }
        self.judge(now, false);
    }

    /// The connection ended so.
    pub fn session_ends(&mut self, ended: Outage, now: Duration, clock: Timestamp) {
        // Until it ended, all that was purged came by it; a silent one may have lost it before.
        if self.has_caught_up() && ended != Outage::Timeout {
            (self.followed, self.heard) = (Some(now), clock);
        }
        self.session = None;
        // A server that cannot take it for us yet takes it for nobody.
        self.away &= matches!(
            ended,
            Outage::Connection | Outage::NotReady | Outage::Moved | Outage::ReadOnly
        );
        self.judge(now, false);
    }

    /// Time has passed. `serves`: whether the log's server answers, as far as is known; `others`: whether
    /// keys are divided among servers of which others answer.
    pub fn tick(&mut self, serves: bool, others: bool, now: Duration) {
        self.away |= !serves && self.session.is_none();
        self.judge(now, others);
    }

    /// Whether others may have to be told of something: a purge that the log has not taken, or has lost.
    pub fn has_to_speak(&self) -> bool {
        !self.outbox.is_empty() || self.position().log != LogId::default()
    }

    /// Whether a session with the log has caught up.
    pub fn has_caught_up(&self) -> bool {
        self.session.is_some_and(|session| session.caught_up)
    }

    /// When [`Ledger::tick`] would change something though nothing happens.
    pub fn turns(&self, now: Duration) -> Option<Duration> {
        let lost = self.followed.map(|followed| followed + LOST_MAX);
        let lost = lost.filter(|_| self.doubt == Doubt::None && !self.has_caught_up());
        let lost = lost.filter(|lost| *lost > now);
        let settled = Some(self.settled).filter(|settled| *settled > now && self.has_caught_up());
        lost.or(settled)
    }

    fn judge(&mut self, now: Duration, others_answer: bool) {
        let lost_for = self.followed.map(|at| now.saturating_sub(at));
        let lost_for = lost_for.unwrap_or(Duration::MAX);
        let is_settled = now >= self.settled;
        (self.current, self.doubt) = match self.session {
            Some(session) if session.caught_up => (is_settled, Doubt::None),
            _ if lost_for < LOST_MAX => (others_answer && is_settled, Doubt::None),
            Some(session) => (false, Doubt::CatchingUp(session.local)),
            // One server that answers again may have been told anything while we were away.
            None => {
                let is_away = self.away && others_answer && lost_for < LOG_AWAY_MAX;
                (is_away && is_settled, Doubt::CutOff)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that follows the log of some server.
    fn followed(now: Duration) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.begins(now, Timestamp::default());
        ledger.session_begins(now);
        let look = Look {
            lost: false,
            first: (1, 0),
            server: "a".to_owned(),
            restarted: false,
        };
        ledger.looked(&look, now);
        ledger.replay((1, 0), Said::Genesis);
        ledger.heard_of(true, now, Timestamp::default());
        assert!(ledger.is_current());
        ledger
    }

    #[test]
    fn once_the_connection_is_lost_redis_is_not_read_but_memory_is_not_doubted_at_once() {
        let now = Duration::from_secs(10);
        let mut ledger = followed(now);
        ledger.session_ends(Outage::Connection, now, Timestamp::default());
        assert!(!ledger.is_current(), "who answers next may be another");
        assert_eq!(ledger.doubt(), Doubt::None);
        ledger.session_begins(now);
        assert!(!ledger.is_current() && ledger.doubt() == Doubt::None);
        ledger.session_ends(Outage::Connection, now, Timestamp::default());
        ledger.tick(false, false, now + LOST_MAX);
        assert_eq!(ledger.doubt(), Doubt::CutOff);
    }

    #[test]
    fn where_others_of_the_same_redis_answer_they_are_read_on_for_a_bounded_time() {
        let now = Duration::from_secs(10);
        let mut ledger = followed(now);
        ledger.session_ends(Outage::Connection, now, Timestamp::default());
        for (later, is_current) in [
            (Duration::ZERO, true),
            (LOST_MAX, true),
            (LOG_AWAY_MAX, false),
        ] {
            ledger.tick(false, true, now + later);
            assert_eq!(ledger.is_current(), is_current, "{later:?}");
        }
    }

    #[test]
    fn a_purge_on_its_way_is_not_said_yet() {
        let now = Duration::from_secs(10);
        let mut ledger = followed(now);
        let all = Purge {
            scope: Scope::All,
            soft: false,
        };
        let pending = ledger.apply(&[all], now);
        ledger.keep(&pending);
        assert!(ledger.due(now).is_empty() && !ledger.has_said());
        ledger.appended(&pending[0], (2, 0), now);
        assert!(ledger.has_said());
    }
}
