//! Hours of several sidecars and one Redis in a second: the real ledgers, a model of the log's scripts, and
//! every fault by chance. A schedule is its seed: `SEED=7` runs one of them, `SCHEDULES=100000` so many.
//!
//! What must hold: nobody shows a response whose fetch began before a purge, later than the documentation
//! says (docs/purge-log.md) that the purge is obeyed.

use super::ledger::{LOST_MAX, Ledger, Look, Pending, SETTLE, Said};
use super::{LogId, Purge, Scope, Since, Subject, Verdict};
use crate::redis_client::Outage;
use crate::semantics::Timestamp;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::time::Duration;

/// Schedules of an ordinary run.
const SCHEDULES: u64 = 300;
/// Things that happen in one.
const EVENTS: usize = 250;
const SIDECARS: usize = 4;
const KEYS: usize = 3;
/// Entries that the modelled log keeps.
const STREAM_MAX: usize = 20;
/// Longest time until what was appended has reached who listens.
const DELIVERY: u64 = 8;
const LOOK_EVERY: u64 = 500;
const TRY_EVERY: u64 = 400;
/// No new connection stands before: by then the end of the old ones is known.
const CONNECTED_AFTER: u64 = DELIVERY + 2;
/// A silent connection is given up after that.
const SILENCE: u64 = 1_500;
const TRUST: u64 = 5_000;

/// What the log holds.
#[derive(Clone, Debug)]
enum Written {
    Genesis,
    Resumed(LogId),
    Purge(Purge, (u64, u64)),
}

/// The data of the modelled Redis.
#[derive(Clone, Debug, Default)]
struct Data {
    log: BTreeMap<LogId, Written>,
    witness: Option<LogId>,
    entries: BTreeMap<usize, Stored>,
    /// When each sidecar was last seen, and those that have spoken to the server of this name.
    seen: BTreeMap<u64, u64>,
    spoken: BTreeMap<(u64, u64), u64>,
}

#[derive(Clone, Debug)]
struct Stored {
    /// When the fetch began, in the order of events.
    began: u64,
    received: u64,
    log: LogId,
}

#[derive(Clone, Debug)]
struct Held {
    stored: Stored,
    checked: u64,
}

#[derive(Debug)]
struct Server {
    data: Data,
    /// What a replica, or the disk, has.
    copy: Data,
    name: u64,
    up: bool,
    /// Ahead of true time, in milliseconds.
    clock: u64,
    started: u64,
    /// Since when it has this name.
    named: u64,
}

impl Server {
    fn last(&self) -> Option<LogId> {
        self.data.log.last_key_value().map(|(id, _)| *id)
    }

    /// As the script of the same name.
    fn begin(&mut self, known: LogId, after: Option<LogId>, now: u64) -> LogId {
        let beyond = [known, after.unwrap_or_default()].map(|id| id.0 + u64::from(id.0 > 0));
        let millis = beyond.into_iter().fold(now + self.clock, u64::max);
        let id = (millis, 0);
        let said = after.map_or(Written::Genesis, Written::Resumed);
        self.data.log.insert(id, said);
        id
    }

    fn append(
        &mut self,
        known: LogId,
        purges: &[(Purge, (u64, u64))],
        now: u64,
    ) -> (Option<LogId>, Vec<LogId>) {
        let mut genesis = None;
        if self.data.log.is_empty() {
            let after = self.data.witness.filter(|after| *after >= known);
            let id = self.begin(known, after, now);
            genesis = after.is_none().then_some(id);
        }
        let mut ids = Vec::new();
        for (purge, by) in purges {
            let last = self.last().unwrap_or_default();
            let id = ((now + self.clock), 0).max((last.0, last.1 + 1));
            self.data.log.insert(id, Written::Purge(purge.clone(), *by));
            ids.push(id);
        }
        while self.data.log.len() > STREAM_MAX {
            self.data.log.pop_first();
        }
        self.data.witness = self.last();
        (genesis, ids)
    }

    fn look(&mut self, known: LogId, now: u64) -> (Option<LogId>, Look) {
        let had = self.last();
        let mut genesis = None;
        if had.is_none() {
            let after = self.data.witness.filter(|after| *after >= known);
            let id = self.begin(known, after, now);
            genesis = after.is_none().then_some(id);
        }
        let (first, said) = self.data.log.first_key_value().map_or_else(
            || ((0, 0), Written::Genesis),
            |(id, said)| (*id, said.clone()),
        );
        let is_known = known == (0, 0) || self.data.log.contains_key(&known);
        let goes_on = matches!(said, Written::Resumed(after) if after == known);
        let lost = !is_known && !goes_on;
        let trimmed = match said {
            Written::Resumed(after) => after > known,
            _ => first > known,
        };
        if lost && had.is_some() && !trimmed {
            genesis = Some(self.begin(known, None, now));
        }
        self.data.witness = self.last();
        let up = (now - self.started) / 1_000;
        let look = Look {
            lost,
            first,
            server: self.name.to_string(),
            restarted: up < 2 && first.0 + (up + 1) * 1_000 < now + self.clock,
        };
        (genesis, look)
    }
}

/// A purge, and what has become of it.
#[derive(Debug)]
struct Done {
    scope: Scope,
    /// In the order of events.
    order: u64,
    /// Which process made it.
    by: (u64, u64),
    /// The entry of the log that says it, or makes it needless to.
    cover: Option<LogId>,
    /// Since when that is so.
    visible: Option<u64>,
    /// When the server that had it was lost with it.
    lost: Option<u64>,
    /// Whether who made it could not say it again in time, or is gone.
    unsaid: bool,
}

struct Fill {
    key: usize,
    began: u64,
    log: LogId,
    local: u64,
    due: u64,
}

struct Sidecar {
    origin: u64,
    ledger: Ledger,
    memory: BTreeMap<usize, Held>,
    /// Writes on their way to Redis.
    writes: Vec<(u64, usize, Held)>,
    fills: Vec<Fill>,
    cut: bool,
    /// Its requests reach no server before.
    reconnected: u64,
    /// The name of the server that the session is with.
    session: Option<u64>,
    /// Since when nothing is heard of a cut connection.
    silent: Option<u64>,
    looked: Option<u64>,
    beaten: Option<u64>,
    tried: u64,
    /// The breaker lets nothing through before.
    breaker: u64,
    next: u64,
    /// Since when its session has been caught up.
    followed: Option<u64>,
}

struct World {
    rng: Rng,
    now: u64,
    order: u64,
    origins: u64,
    server: Server,
    sidecars: Vec<Sidecar>,
    purges: Vec<Done>,
    /// When the log vanished under those who read it.
    vanished: Vec<u64>,
    served: u64,
}

fn mono(now: u64) -> Duration {
    Duration::from_millis(now)
}

fn url(key: usize) -> String {
    format!("h/cars/{key}/x")
}

fn tag(key: usize) -> String {
    format!("car:{key}")
}

impl Sidecar {
    fn new(origin: u64, now: u64) -> Self {
        let mut ledger = Ledger::default();
        ledger.begins(mono(now), Timestamp::from_millis(now));
        Self {
            origin,
            ledger,
            memory: BTreeMap::new(),
            writes: Vec::new(),
            fills: Vec::new(),
            cut: false,
            reconnected: 0,
            session: None,
            silent: None,
            looked: None,
            beaten: None,
            tried: 0,
            breaker: 0,
            next: now,
            followed: None,
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let now = 1_000_000;
        let sidecars = (0..SIDECARS as u64).map(|n| Sidecar::new(n, now));
        let server = Server {
            data: Data::default(),
            copy: Data::default(),
            name: 1,
            up: rng.u8(..10) > 0,
            clock: 10_000,
            started: now,
            named: now,
        };
        Self {
            rng,
            now,
            order: 0,
            origins: SIDECARS as u64,
            server,
            sidecars: sidecars.collect(),
            purges: Vec::new(),
            vanished: Vec::new(),
            served: 0,
        }
    }

    fn run(&mut self) {
        for _ in 0..EVENTS {
            let wait = match self.rng.u8(..10) {
                0 => self.rng.u64(..20_000),
                1..4 => self.rng.u64(..1_000),
                _ => self.rng.u64(..30),
            };
            self.pass(self.now + wait);
            self.order += 1;
            self.happens();
        }
        self.pass(self.now + 60_000);
        // Whatever happened: with everyone connected, all agree in the end.
        self.server_is(true);
        for n in 0..SIDECARS {
            self.sidecars[n].cut = false;
        }
        self.pass(self.now + 60_000);
        for n in 0..SIDECARS {
            assert!(self.sidecars[n].ledger.is_current(), "{n} never recovers");
            assert_eq!(self.sidecars[n].ledger.queued(), 0, "{n} keeps a purge");
            for key in 0..KEYS {
                self.asks(n, key);
            }
        }
    }

    /// Lets the sidecars do what they do by themselves.
    fn pass(&mut self, until: u64) {
        loop {
            let next = |n: &usize| self.sidecars[*n].next;
            let Some(n) = (0..SIDECARS).min_by_key(next) else {
                return;
            };
            if self.sidecars[n].next > until {
                break;
            }
            self.now = self.now.max(self.sidecars[n].next);
            self.step(n);
        }
        self.now = until;
    }

    fn reaches(&self, n: usize) -> bool {
        self.server.up && !self.sidecars[n].cut
    }

    /// One turn of a sidecar: what the real one does in `PurgeLog::follow`, and its fills.
    fn step(&mut self, n: usize) {
        self.fills(n);
        let now = self.now;
        let reaches = self.reaches(n);
        let is_same = self.sidecars[n].session == Some(self.server.name);
        let mut wait = 20 + self.rng.u64(..40);
        if self.sidecars[n].session.is_none() {
            let it = &mut self.sidecars[n];
            let serves = reaches && now >= it.breaker;
            let is_due = now >= it.tried + TRY_EVERY && it.ledger.has_to_speak();
            if serves || is_due {
                it.tried = now;
                if reaches {
                    it.session = Some(self.server.name);
                    (it.looked, it.beaten, it.silent) = (None, None, None);
                    it.ledger.session_begins(mono(now));
                    wait = 1 + self.rng.u64(..5);
                }
            }
            if !reaches {
                // Its probes become rare.
                it.breaker = it.breaker.max(now + self.rng.u64(..15_000));
            }
            it.ledger.tick(serves, false, mono(now));
        } else if !is_same || !reaches {
            let it = &mut self.sidecars[n];
            // A server that ends says so; a network that is cut does not.
            let since = *it.silent.get_or_insert(now);
            if it.cut && now < since + SILENCE {
                wait = 50;
            } else {
                let ended = match it.cut {
                    true => Outage::Timeout,
                    false => Outage::Connection,
                };
                (it.session, it.followed) = (None, None);
                it.ledger
                    .session_ends(ended, mono(now), Timestamp::from_millis(now));
            }
        } else {
            wait = self.follow(n);
        }
        let it = &mut self.sidecars[n];
        it.ledger.tick(true, false, mono(now));
        let turns = it.ledger.turns(mono(now)).map(|at| at.as_millis() as u64);
        let next = turns.map_or(now + wait, |at| at.clamp(now + 1, now + wait));
        let fills = it.fills.iter().map(|fill| fill.due);
        let writes = it.writes.iter().map(|(due, ..)| *due);
        it.next = fills.chain(writes).fold(next, u64::min).max(now + 1);
    }

    /// A turn of a session. Returns when the next is due.
    fn follow(&mut self, n: usize) -> u64 {
        let now = self.now;
        let known = self.sidecars[n].ledger.position().log;
        let (origin, name) = (self.sidecars[n].origin, self.server.name);
        self.sidecars[n].silent = None;
        let looked = self.sidecars[n].looked;
        if looked.is_none_or(|at| now >= at + LOOK_EVERY) {
            let end = self.server.last();
            let (genesis, look) = self.server.look(known, now);
            self.covers(genesis);
            if self.server.last() != end {
                self.wakes();
            }
            let it = &mut self.sidecars[n];
            it.looked = Some(now);
            it.ledger.looked(&look, mono(now));
        }
        let it = &mut self.sidecars[n];
        if it.looked == Some(now) || !it.ledger.is_settled(mono(now)) {
            let due = it.ledger.due(mono(now));
            self.append(n, &due);
        }
        let it = &mut self.sidecars[n];
        let is_settled = it.ledger.is_settled(mono(now));
        let has_said = is_settled || it.ledger.has_said();
        let every = if is_settled { 5_000 } else { 50 };
        if has_said && it.beaten.is_none_or(|at| now >= at + every) {
            it.beaten = Some(now);
            let data = &mut self.server.data;
            data.seen.insert(origin, now);
            data.spoken.insert((name, origin), now);
            data.seen.retain(|_, at| now - *at <= 16_000);
            data.spoken.retain(|_, at| now - *at <= 16_000);
            let spoken = data.spoken.keys().filter(|(to, _)| *to == name).count();
            let all = data.seen.len();
            it.ledger.seen(all as u32, spoken as u32, mono(now));
        }
        let from = it.ledger.position().log;
        let mut entries = self
            .server
            .data
            .log
            .range((std::ops::Bound::Excluded(from), std::ops::Bound::Unbounded));
        for (id, written) in entries.by_ref().take(5) {
            let said = match written {
                Written::Genesis => Said::Genesis,
                Written::Resumed(after) => Said::Resumed(*after),
                Written::Purge(purge, (by, local)) => {
                    Said::Purge(purge.clone(), (*by == origin).then_some(*local))
                }
            };
            it.ledger.replay(*id, said);
        }
        let is_end = entries.next().is_none();
        let clock = Timestamp::from_millis(now);
        it.ledger.heard_of(is_end, mono(now), clock);
        if it.ledger.has_caught_up() {
            it.followed.get_or_insert(now);
        }
        match is_end {
            true if is_settled => LOOK_EVERY,
            true => 50,
            false => 1,
        }
    }

    /// Appends; at times the answer is lost. Returns whether it came.
    fn append(&mut self, n: usize, pending: &[Pending]) -> bool {
        if pending.is_empty() {
            return true;
        }
        if !self.reaches(n) {
            return false;
        }
        let origin = self.sidecars[n].origin;
        let known = self.sidecars[n].ledger.position().log;
        let purges: Vec<_> = pending
            .iter()
            .map(|it| (it.purge.clone(), (origin, it.local)))
            .collect();
        let (genesis, ids) = self.server.append(known, &purges, self.now);
        self.covers(genesis);
        for (pending, id) in pending.iter().zip(&ids) {
            let scope = &pending.purge.scope;
            for done in &mut self.purges {
                let is_it = done.by.0 == origin && done.scope == *scope;
                if is_it && done.visible.is_none() && done.by.1 <= pending.local {
                    (done.cover, done.visible) = (Some(*id), Some(self.now));
                }
            }
        }
        self.wakes();
        if self.rng.u8(..20) == 0 {
            return false;
        }
        for (pending, id) in pending.iter().zip(ids) {
            let it = &mut self.sidecars[n];
            it.ledger.appended(pending, id, mono(self.now));
        }
        true
    }

    /// Whoever reads the log is told that there is something.
    fn wakes(&mut self) {
        for n in 0..SIDECARS {
            let delay = 1 + self.rng.u64(..DELIVERY);
            let it = &mut self.sidecars[n];
            it.next = it.next.min(self.now + delay);
        }
    }

    /// Where a log begins without memory of another, everything before is stale for everyone.
    fn covers(&mut self, genesis: Option<LogId>) {
        let Some(id) = genesis else { return };
        for done in self.purges.iter_mut().filter(|it| it.visible.is_none()) {
            (done.cover, done.visible) = (Some(id), Some(self.now));
        }
    }

    fn fills(&mut self, n: usize) {
        let now = self.now;
        let it = &mut self.sidecars[n];
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut it.fills)
            .into_iter()
            .partition(|fill| fill.due <= now);
        it.fills = rest;
        for fill in done {
            let held = Held {
                stored: Stored {
                    began: fill.began,
                    received: now,
                    log: fill.log,
                },
                checked: fill.local,
            };
            if it.is_purged(fill.key, &held) {
                continue;
            }
            if it.ledger.is_current() {
                let delay = self.rng.u64(..50);
                it.writes.push((now + delay, fill.key, held.clone()));
            }
            it.memory.insert(fill.key, held);
        }
        let reaches = self.reaches(n);
        let it = &mut self.sidecars[n];
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut it.writes)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        it.writes = rest;
        for (_, key, held) in due {
            if reaches && !it.is_purged(key, &held) {
                self.server.data.entries.insert(key, held.stored);
            }
        }
    }

    fn happens(&mut self) {
        let n = self.rng.usize(..SIDECARS);
        let key = self.rng.usize(..KEYS);
        match self.rng.u8(..100) {
            0..25 => {
                let position = self.sidecars[n].ledger.position();
                let takes = match self.rng.u8(..4) {
                    0 => self.rng.u64(..3_000),
                    _ => self.rng.u64(..20),
                };
                let it = &mut self.sidecars[n];
                it.fills.push(Fill {
                    key,
                    began: self.order,
                    log: position.log,
                    local: position.local,
                    due: self.now + takes,
                });
                it.next = it.next.min(self.now + takes);
            }
            25..70 => {
                for key in 0..KEYS {
                    self.asks(n, key);
                }
            }
            70..82 => self.purges(n, key),
            82..85 => {
                let it = &mut self.sidecars[n];
                it.cut = !it.cut;
                it.reconnected = self.now + CONNECTED_AFTER;
                it.next = it.next.min(self.now + 1 + self.rng.u64(..DELIVERY));
                let origin = it.origin;
                let own = self.purges.iter_mut().filter(|it| it.by.0 == origin);
                own.filter(|it| it.visible.is_none())
                    .for_each(|it| it.unsaid = true);
            }
            85..87 => {
                let up = !self.server.up;
                self.server_is(up);
            }
            87..90 => self.server.copy = self.server.data.clone(),
            90 => self.goes_back(),
            91 => {
                // FLUSHALL.
                self.server.data = Data::default();
                self.vanished.push(self.now);
                for done in &mut self.purges {
                    (done.cover, done.visible, done.lost) = (None, None, Some(self.now));
                }
            }
            92 => {
                self.server.data.log.clear();
                self.vanished.push(self.now);
            }
            93 => self.server.data.witness = None,
            94 => {
                self.server.data.log.clear();
                self.server.data.witness = None;
                self.vanished.push(self.now);
                for done in &mut self.purges {
                    (done.cover, done.visible, done.lost) = (None, None, Some(self.now));
                }
            }
            95 => self.server.clock = self.rng.u64(..20_000),
            96 => self.restarts(n),
            _ => {
                self.server.data.entries.remove(&key);
            }
        }
    }

    fn server_is(&mut self, up: bool) {
        if up == self.server.up {
            return;
        }
        self.server.up = up;
        if up {
            // With all of its data, or with what its disk had.
            self.server.name += 1;
            self.server.named = self.now;
            self.server.started = self.now;
            if self.rng.bool() {
                self.goes_back();
            }
            // What was purged meanwhile is said before anybody reads what it still has.
            self.are_lost();
        }
        for n in 0..SIDECARS {
            let it = &mut self.sidecars[n];
            it.next = it.next.min(self.now + 1);
        }
    }

    /// Another server takes over, with older data: a replica that lagged, a disk.
    fn goes_back(&mut self) {
        self.server.name += 1;
        self.server.named = self.now;
        self.server.data = self.server.copy.clone();
        let data = &self.server.data;
        for done in self.purges.iter_mut().filter(|it| it.visible.is_some()) {
            let first = data.log.first_key_value().map(|(id, _)| *id);
            let is_there = done.cover.is_some_and(|id| {
                data.log.contains_key(&id)
                    || first.is_some_and(|first| id < first)
                    || (first.is_none() && data.witness.is_some_and(|end| id <= end))
            });
            if !is_there {
                (done.cover, done.visible, done.lost) = (None, None, Some(self.now));
            }
        }
        self.are_lost();
        for n in 0..SIDECARS {
            let delay = 1 + self.rng.u64(..DELIVERY);
            let it = &mut self.sidecars[n];
            it.next = it.next.min(self.now + delay);
        }
    }

    /// What is not in the log has to be said to the server that has it now.
    fn are_lost(&mut self) {
        let gone = |by: u64| !self.sidecars.iter().any(|it| it.origin == by && !it.cut);
        for done in self.purges.iter_mut().filter(|it| it.visible.is_none()) {
            done.lost = Some(self.now);
            done.unsaid |= gone(done.by.0);
        }
    }

    fn restarts(&mut self, n: usize) {
        let unsaid = self.sidecars[n].ledger.unsaid();
        if self.rng.bool() {
            // It had time to say what it had to.
            self.append(n, &unsaid);
        }
        let origin = self.sidecars[n].origin;
        let own = self.purges.iter_mut().filter(|it| it.by.0 == origin);
        own.filter(|it| it.visible.is_none())
            .for_each(|it| it.unsaid = true);
        self.origins += 1;
        self.sidecars[n] = Sidecar::new(self.origins, self.now);
    }

    fn purges(&mut self, n: usize, key: usize) {
        let scope = match self.rng.u8(..6) {
            0 => Scope::All,
            1 => Scope::Prefix("/cars/".to_owned()),
            2 => Scope::Glob(format!("/cars/{key}/*")),
            3 => Scope::Url(url(key)),
            _ => Scope::Tag(tag(key)),
        };
        let purge = Purge { scope, soft: false };
        let it = &mut self.sidecars[n];
        let pending = it
            .ledger
            .apply(std::slice::from_ref(&purge), mono(self.now));
        it.ledger.keep(&pending);
        let by = (it.origin, pending[0].local);
        self.purges.push(Done {
            scope: purge.scope,
            order: self.order,
            by,
            cover: None,
            visible: None,
            lost: None,
            unsaid: self.sidecars[n].cut,
        });
        let breaker = self.sidecars[n].breaker > self.now;
        if !breaker {
            self.append(n, &pending);
        }
    }

    /// A request: memory, then Redis.
    fn asks(&mut self, n: usize, key: usize) {
        let now = Timestamp::from_millis(self.now);
        let connected = self.server.named + CONNECTED_AFTER;
        let connected = connected.max(self.sidecars[n].reconnected);
        let reaches = self.reaches(n) && self.now >= connected;
        let it = &mut self.sidecars[n];
        let (url, tag) = (url(key), tag(key));
        let subject = || Subject {
            tags: [tag.as_str()],
            url: &url,
        };
        if let Some(held) = it.memory.get_mut(&key) {
            let received = Timestamp::from_millis(held.stored.received);
            let trust = Some(Duration::from_millis(TRUST));
            let local = it.ledger.position().local;
            let known = (held.checked, received);
            match it.ledger.held(subject(), known, trust, now) {
                (Verdict::Valid, None) => {
                    held.checked = held.checked.max(local);
                    let stored = held.stored.clone();
                    return self.shows(n, key, &stored, true);
                }
                (Verdict::Hard, _) => drop(it.memory.remove(&key)),
                (Verdict::Valid | Verdict::Soft, _) => {}
            }
        }
        if !it.ledger.is_current() || !reaches || self.now < it.breaker {
            return;
        }
        let local = it.ledger.position().local;
        let Some(stored) = self.server.data.entries.get(&key).cloned() else {
            return;
        };
        if it.ledger.found(subject(), stored.log) == Verdict::Valid {
            let held = Held {
                stored: stored.clone(),
                checked: local,
            };
            it.memory.insert(key, held);
            self.shows(n, key, &stored, false);
        }
    }

    /// What must hold for what a client is shown.
    fn shows(&mut self, n: usize, key: usize, stored: &Stored, memory: bool) {
        self.served += 1;
        let it = &self.sidecars[n];
        let now = self.now;
        let lost_max = LOST_MAX.as_millis() as u64;
        let settle = SETTLE.as_millis() as u64;
        for done in &self.purges {
            let hits = match &done.scope {
                Scope::Tag(it) => *it == tag(key),
                Scope::Url(it) => *it == url(key),
                Scope::Glob(it) => *it == format!("/cars/{key}/*"),
                Scope::Prefix(_) | Scope::Regex(_) | Scope::All => true,
            };
            if !hits || stored.began >= done.order {
                continue;
            }
            let told = || format!("{n} shows {key} from {stored:?} at {now} after {done:?}");
            assert!(done.by.0 != it.origin, "its own purge: {}", told());
            let Some(visible) = done.visible else {
                // Not in the log: it never was, or who knows of it has still to say it again.
                let Some(lost) = done.lost else { continue };
                let is_late = now > lost + settle + LOOK_EVERY;
                // Who reads on from a log that is gone sees that at its next look.
                let is_unseen =
                    self.vanished.contains(&lost) && now <= lost + LOOK_EVERY + DELIVERY;
                let may_be = memory || done.unsaid || is_late || is_unseen;
                assert!(may_be, "lost: {}", told());
                continue;
            };
            // Who was told at once, or reads on from where it was.
            let vanished = self.vanished.iter();
            let vanished =
                vanished.filter(|at| **at + LOOK_EVERY >= visible && **at <= visible + DELIVERY);
            let mut bound = visible + DELIVERY + 1;
            if vanished.count() > 0 {
                bound += LOOK_EVERY + DELIVERY;
            }
            if it.followed.is_none_or(|since| since > visible) || it.silent.is_some() {
                bound = match memory {
                    true => visible.max(stored.received) + TRUST + SILENCE + lost_max,
                    false => visible + SILENCE,
                };
            }
            // A session that has caught up since knows of it.
            if it.followed.is_some_and(|since| since > visible) && it.silent.is_none() {
                bound = visible;
            }
            assert!(now <= bound, "{}", told());
        }
    }
}

impl Sidecar {
    fn is_purged(&self, key: usize, held: &Held) -> bool {
        let (url, tag) = (url(key), tag(key));
        let subject = Subject {
            tags: [tag.as_str()],
            url: &url,
        };
        self.ledger.verdict(subject, Since::Local(held.checked)) == Verdict::Hard
    }
}

#[test]
fn nobody_shows_what_was_purged_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|it| it.parse().ok());
    let schedules = number("SCHEDULES").unwrap_or(SCHEDULES);
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..schedules).collect(),
    };
    let (mut served, mut hours) = (0, 0);
    for seed in seeds {
        let mut world = World::new(seed);
        let run = std::panic::AssertUnwindSafe(|| world.run());
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("again with SEED={seed}");
            std::panic::resume_unwind(panic);
        }
        served += world.served;
        hours += world.now - 1_000_000;
    }
    println!(
        "{served} responses in {} simulated hours",
        hours / 3_600_000
    );
    assert!(served > 0);
}
