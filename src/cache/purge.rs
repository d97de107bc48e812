//! The purge log: what was purged, in which order (one Redis Stream per namespace).
//!
//! [`Table`] is pure: purges go in, verdicts on entries come out. [`PurgeLog`] shares one table among
//! all workers, appends their purges to the stream and replays what others appended. A log that is
//! missing, was trimmed past our place or went backwards means that everything older is stale, never
//! that nothing was purged.

use super::seal::{self, Seal};
use crate::redis_client::{Outage, PrivateLine, Redis, Script};
use crate::semantics::search::path_tag;
use arc_swap::ArcSwap;
use bytes::Bytes;
use redis::Value;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;

/// Purges remembered here; the oldest beyond that become "everything older is stale".
pub const PURGES_MAX: usize = 100_000;
/// Purges kept for a Redis that is away; more become one purge of everything.
pub const OUTBOX_MAX: usize = 10_000;
/// Entries of the stream, about; older ones are trimmed.
pub const STREAM_MAX: usize = 100_000;
/// Life of the stream's key, renewed as long as anybody follows it. Longer than any entry's.
pub const STREAM_TTL: Duration = Duration::from_secs(31 * 24 * 3_600);
/// Longest purge scope in bytes; a longer one purges everything.
pub const SCOPE_BYTES_MAX: usize = 8 * 1_024;
/// How long one read of the stream waits for news.
const BLOCK: Duration = Duration::from_millis(500);
/// Deadline of a read beyond [`BLOCK`], and of everything else on the follower's line.
const GRACE: Duration = Duration::from_secs(1);
/// Pause before the log is asked for again where our user may not read it.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(1);
/// A log that was followed until now is current for so long while its server answers: time to connect
/// anew and to catch up.
pub const LOST_MAX: Duration = Duration::from_millis(250);
/// For so long where its server is away while others of the same Redis answer. Nobody appends to a
/// server that is gone, so that nothing is missed until its replica takes over; a sidecar that alone
/// is cut off from it misses purges for this long at most. A Cluster with its usual node timeout of 15 s
/// needs less.
pub const LOG_AWAY_MAX: Duration = Duration::from_secs(20);
/// Entries replayed at a time.
const BATCH: usize = 1_000;
/// An appended purge that has not come back through the log by then is appended again.
const APPEND_AGAIN: Duration = Duration::from_secs(2);
/// Purges so recent are appended again when the log has lost its end.
const RECENT: Duration = Duration::from_secs(600);
/// How often a sidecar shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A sidecar not seen for so long is gone.
const SEEN_WITHIN: Duration = Duration::from_secs(16);

/// A place in the purge log. An entry is valid only if no later purge matches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The last entry of the Redis Stream that had been replayed here (milliseconds, sequence).
    pub log: (u64, u64),
    /// Purges applied in this process so far.
    pub local: u64,
}

/// One purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// What it hits.
    pub scope: Scope,
    /// Stale and refreshed behind (soft), or gone (hard).
    pub soft: bool,
}

impl Purge {
    /// The purge that goes with one of a URL: of what is stored for more queries than one, whichever
    /// URL of its path it was fetched by. `None` for purges of anything else.
    #[must_use]
    pub fn of_path(&self) -> Option<Self> {
        let Scope::Url(url) = &self.scope else {
            return None;
        };
        let (authority, rest) = url.split_at(url.find('/')?);
        let path = rest.split('?').next().unwrap_or_default();
        Some(Self {
            scope: Scope::Tag(path_tag(authority, path)),
            soft: self.soft,
        })
    }
}

/// What a purge hits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything with this tag.
    Tag(String),
    /// One URL (`host/path?query`, or `/path?query` on every host) with all its variants.
    Url(String),
    /// Everything whose path begins so.
    Prefix(String),
    /// Everything.
    All,
}

/// How a purge went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeOutcome {
    /// In the log: every sidecar that sees Redis obeys it.
    Logged,
    /// Done here; kept for the others until Redis is back.
    Queued,
    /// There is no Redis: done here, and here is everywhere.
    Local,
}

impl Scope {
    /// The word for metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Tag(_) => "tag",
            Self::Url(_) => "url",
            Self::Prefix(_) => "prefix",
            Self::All => "all",
        }
    }

    fn value(&self) -> &str {
        match self {
            Self::Tag(value) | Self::Url(value) | Self::Prefix(value) => value,
            Self::All => "",
        }
    }
}

/// A place in the stream: milliseconds and sequence.
pub type LogId = (u64, u64);

/// What the purges say about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Not purged since.
    Valid,
    /// Stale, and may be served while it is refreshed.
    Soft,
    /// Gone.
    Hard,
}

/// From where an entry's age in purges is counted.
#[derive(Clone, Copy, Debug)]
pub enum Since {
    /// It was made or checked in this process when so many purges had been applied.
    Local(u64),
    /// It comes from Redis and carries this place in the log.
    Log(LogId),
}

/// What an entry is purged by.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a, T> {
    /// Its tags: anything that gives them one by one.
    pub tags: T,
    /// `host/path?query`
    pub url: &'a str,
}

/// The latest purge of one scope and strength.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    local: u64,
    log: LogId,
    /// The local number of a purge that the log does not have yet; 0 if none. Until it has it, no
    /// entry from Redis can prove to be newer.
    pending: u64,
}

impl Mark {
    fn hits(&self, since: Since) -> bool {
        match since {
            Since::Local(local) => self.local > local,
            Since::Log(log) => self.pending != 0 || self.log > log,
        }
    }

    fn raise(&mut self, local: u64, log: Option<LogId>) {
        self.local = self.local.max(local);
        match log {
            Some(log) => self.log = self.log.max(log),
            None => self.pending = local,
        }
    }

    fn confirm(&mut self, local: u64, log: LogId) {
        self.log = self.log.max(log);
        if self.pending == local {
            self.pending = 0;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.local = self.local.max(other.local);
        self.log = self.log.max(other.log);
        self.pending = self.pending.max(other.pending);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    soft: Mark,
    hard: Mark,
}

impl Marks {
    fn verdict(&self, since: Since) -> Verdict {
        if self.hard.hits(since) {
            Verdict::Hard
        } else if self.soft.hits(since) {
            Verdict::Soft
        } else {
            Verdict::Valid
        }
    }

    fn of(&mut self, soft: bool) -> &mut Mark {
        if soft { &mut self.soft } else { &mut self.hard }
    }
}

/// What has been purged, as far as this process knows: pure, bounded, and as quick with a hundred
/// thousand purges as with one.
#[derive(Debug, Default)]
pub struct Table {
    tags: HashMap<Box<str>, Marks>,
    urls: HashMap<Box<str>, Marks>,
    prefixes: HashMap<Box<str>, Marks>,
    /// Lengths of the prefixes and how many have each.
    prefix_lengths: BTreeMap<usize, usize>,
    all: Marks,
    /// Everything older than this is stale: what was forgotten, and what a lost log may have held.
    floor: Mark,
    order: VecDeque<(u64, Scope)>,
    local: u64,
    log: LogId,
}

impl Table {
    /// The place up to which purges are known here.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position {
            log: self.log,
            local: self.local,
        }
    }

    /// Applies a purge: with its place in the log, or without while it is only known here. Returns
    /// its local number.
    pub fn apply(&mut self, purge: &Purge, log: Option<LogId>) -> u64 {
        self.local += 1;
        let local = self.local;
        self.log = self.log.max(log.unwrap_or_default());
        self.marks(&purge.scope).of(purge.soft).raise(local, log);
        if purge.scope != Scope::All {
            self.order.push_back((local, purge.scope.clone()));
        }
        while self.order.len() > PURGES_MAX {
            self.forget_oldest();
        }
        local
    }

    /// The purge with this local number now has a place in the log.
    pub fn confirm(&mut self, purge: &Purge, local: u64, log: LogId) {
        if purge.scope == Scope::All && !purge.soft {
            self.settle_before(local);
        }
        if self.floor.pending == local {
            self.floor.confirm(local, log);
        }
        if let Some(marks) = self.known(&purge.scope) {
            marks.of(purge.soft).confirm(local, log);
        }
    }

    /// A purge of everything is in the log: what was purged before it, and is waiting for a place
    /// of its own still, needs none any more.
    fn settle_before(&mut self, local: u64) {
        let named = [&mut self.tags, &mut self.urls, &mut self.prefixes];
        let named = named.into_iter().flat_map(HashMap::values_mut);
        let marks = named.flat_map(|marks| [&mut marks.soft, &mut marks.hard]);
        for mark in marks.chain([&mut self.all.soft, &mut self.floor]) {
            if mark.pending < local {
                mark.pending = 0;
            }
        }
    }

    /// The log has been replayed up to here.
    pub fn replayed(&mut self, log: LogId) {
        self.log = self.log.max(log);
    }

    /// Every entry from Redis older than `log` is stale; with `memory`, so is everything held here.
    pub fn raise_floor(&mut self, log: LogId, memory: bool) {
        self.floor.log = self.floor.log.max(log);
        if memory {
            self.local += 1;
            self.floor.local = self.local;
        }
    }

    /// Whether an entry has been purged since.
    #[must_use]
    pub fn verdict<'a>(
        &self,
        subject: Subject<'a, impl IntoIterator<Item = &'a str>>,
        since: Since,
    ) -> Verdict {
        if self.floor.hits(since) {
            return Verdict::Hard;
        }
        let path_at = subject.url.find('/').unwrap_or(subject.url.len());
        let path = &subject.url[path_at..];
        let named = |marks: &HashMap<Box<str>, Marks>, name: &str| {
            marks
                .get(name)
                .map_or(Verdict::Valid, |marks| marks.verdict(since))
        };
        let mut verdict = self.all.verdict(since);
        if !self.tags.is_empty() {
            for tag in subject.tags {
                verdict = verdict.max(named(&self.tags, tag));
            }
        }
        if !self.urls.is_empty() {
            verdict = verdict.max(named(&self.urls, subject.url));
            verdict = verdict.max(named(&self.urls, path));
        }
        for length in self.prefix_lengths.keys() {
            for whole in [subject.url, path] {
                if let Some(prefix) = whole.get(..*length) {
                    verdict = verdict.max(named(&self.prefixes, prefix));
                }
            }
        }
        verdict
    }

    fn marks(&mut self, scope: &Scope) -> &mut Marks {
        match scope {
            Scope::Tag(tag) => self.tags.entry(tag.as_str().into()).or_default(),
            Scope::Url(url) => self.urls.entry(url.as_str().into()).or_default(),
            Scope::Prefix(prefix) => {
                if !self.prefixes.contains_key(prefix.as_str()) {
                    *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
                }
                self.prefixes.entry(prefix.as_str().into()).or_default()
            }
            Scope::All => &mut self.all,
        }
    }

    fn known(&mut self, scope: &Scope) -> Option<&mut Marks> {
        match scope {
            Scope::Tag(tag) => self.tags.get_mut(tag.as_str()),
            Scope::Url(url) => self.urls.get_mut(url.as_str()),
            Scope::Prefix(prefix) => self.prefixes.get_mut(prefix.as_str()),
            Scope::All => Some(&mut self.all),
        }
    }

    fn forget_oldest(&mut self) {
        let Some((local, scope)) = self.order.pop_front() else {
            return;
        };
        let Some(marks) = self.known(&scope).copied() else {
            return;
        };
        if marks.soft.local.max(marks.hard.local) > local {
            return; // Purged again since; that one is further back in the order.
        }
        self.floor.merge(&marks.soft);
        self.floor.merge(&marks.hard);
        match &scope {
            Scope::Tag(tag) => drop(self.tags.remove(tag.as_str())),
            Scope::Url(url) => drop(self.urls.remove(url.as_str())),
            Scope::Prefix(prefix) => {
                self.prefixes.remove(prefix.as_str());
                if let Some(count) = self.prefix_lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        self.prefix_lengths.remove(&prefix.len());
                    }
                }
            }
            Scope::All => {}
        }
    }
}

/// A purge of this process that has not come back through the log yet.
#[derive(Clone, Debug)]
struct Pending {
    local: u64,
    purge: Purge,
    appended: Option<Instant>,
}

/// The purge table of this process and its way to and from the stream.
#[derive(Debug)]
pub struct PurgeLog {
    stream: String,
    sidecars: String,
    /// How what is purged is sealed: tags and URLs tell of those whom they are about.
    seal: Arc<ArcSwap<Seal>>,
    /// Names this process in the log, so that it knows its own purges again.
    origin: String,
    table: RwLock<Table>,
    /// The table's `local`, readable without its lock.
    local: AtomicU64,
    /// Whether the log has been replayed to its end and is being followed.
    current: AtomicBool,
    outbox: Mutex<VecDeque<Pending>>,
    recent: Mutex<VecDeque<(Instant, Purge)>>,
    replicas: AtomicU32,
    /// Purges appended here so far.
    appended: AtomicU64,
}

impl PurgeLog {
    /// An empty table; nothing is followed yet.
    #[must_use]
    pub fn new(namespace: &str, seal: Arc<ArcSwap<Seal>>) -> Self {
        Self {
            stream: format!("{namespace}:purges"),
            sidecars: format!("{namespace}:sidecars"),
            seal,
            origin: format!("{:016x}", fastrand::u64(..)),
            table: RwLock::default(),
            local: AtomicU64::new(0),
            current: AtomicBool::new(false),
            outbox: Mutex::default(),
            recent: Mutex::default(),
            replicas: AtomicU32::new(1),
            appended: AtomicU64::new(0),
        }
    }

    /// See [`Table::position`].
    #[must_use]
    pub fn position(&self) -> Position {
        self.read().position()
    }

    /// Purges applied in this process so far: one atomic load.
    #[must_use]
    pub fn local(&self) -> u64 {
        self.local.load(Ordering::Acquire)
    }

    /// Whether entries from Redis can be judged: the log has been replayed and is being followed.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire)
    }

    /// Purges that other sidecars have not been told of yet.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.outbox().len()
    }

    /// Sidecars of this namespace seen lately, this one included.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.replicas.load(Ordering::Relaxed).max(1)
    }

    /// See [`Table::verdict`].
    #[must_use]
    pub fn verdict<'a>(
        &self,
        subject: Subject<'a, impl IntoIterator<Item = &'a str>>,
        since: Since,
    ) -> Verdict {
        self.read().verdict(subject, since)
    }

    /// Applies purges here at once and appends them to the log, or keeps them until it can.
    pub async fn purge(&self, purges: Vec<Purge>, redis: Option<&Redis>) -> PurgeOutcome {
        let Some(redis) = redis else {
            self.apply(&purges);
            return PurgeOutcome::Local;
        };
        let pending = self.apply(&purges);
        self.keep(&pending);
        match self.append(redis, &pending).await {
            Ok(()) => PurgeOutcome::Logged,
            Err(_) => PurgeOutcome::Queued,
        }
    }

    /// Appends what the log has not taken yet, once: the last thing a process does. Returns how many
    /// purges it leaves behind that no other sidecar will ever hear of.
    pub async fn flush(&self, redis: &Redis) -> usize {
        let unsaid = || -> Vec<_> {
            let outbox = self.outbox();
            let unsaid = outbox.iter().filter(|kept| kept.appended.is_none());
            unsaid.cloned().collect()
        };
        match self.append(redis, &unsaid()).await {
            Ok(()) => 0,
            Err(_) => unsaid().len(),
        }
    }

    /// Replays the log as it grows, for as long as it is polled; appends what was kept while Redis
    /// was away, and shows that this sidecar lives. Once a process, on the background runtime.
    ///
    /// A log that is lost for a moment, or whose server is away while others of the same Redis answer,
    /// is taken for current a while longer: see [`LOST_MAX`] and [`LOG_AWAY_MAX`].
    pub async fn follow(&self, redis: &Redis) -> Infallible {
        let stream = self.stream.as_bytes();
        let mut lost: Option<Instant> = None;
        // Whether the log's server was seen to be away, and nothing proved otherwise since.
        let mut away = false;
        loop {
            let mut pause = Duration::from_millis(fastrand::u64(20..60));
            if redis.serves(stream)
                && let Ok(line) = redis.private_line(stream).await
            {
                let caught_up = AtomicBool::new(false);
                let ended = tokio::select! {
                    ended = self.session(redis, line, &caught_up) => ended,
                    never = self.distrust(&caught_up) => match never {},
                };
                if caught_up.into_inner() {
                    lost = Some(Instant::now());
                    away = false;
                }
                // A server that cannot take it for us yet takes it for nobody.
                away &= matches!(
                    ended,
                    Outage::Connection | Outage::NotReady | Outage::Moved | Outage::ReadOnly
                );
                redis.line_ended(ended);
                if ended == Outage::Forbidden {
                    // Somebody has to allow it first.
                    pause = FORBIDDEN_PAUSE;
                }
                tracing::debug!(kind = ended.word(), "the purge log is not followed");
            }
            away |= !redis.serves(stream);
            let lost_for = lost.map_or(Duration::MAX, |at| at.elapsed());
            // One server that answers again may have been told anything while we were away.
            let others_answer = redis.is_divided() && redis.is_up();
            let trusted = lost_for < LOST_MAX || (away && others_answer && lost_for < LOG_AWAY_MAX);
            self.current.store(trusted, Ordering::Release);
            tokio::time::sleep(pause).await;
        }
    }

    /// A log that is not caught up with in time is not current.
    async fn distrust(&self, caught_up: &AtomicBool) -> Infallible {
        tokio::time::sleep(LOST_MAX).await;
        if !caught_up.load(Ordering::Acquire) {
            self.current.store(false, Ordering::Release);
        }
        std::future::pending().await
    }

    fn apply(&self, purges: &[Purge]) -> Vec<Pending> {
        let mut table = self.write();
        let pending = purges
            .iter()
            .map(|purge| {
                let mut purge = purge.clone();
                if purge.scope.value().len() > SCOPE_BYTES_MAX {
                    purge.scope = Scope::All;
                }
                Pending {
                    local: table.apply(&purge, None),
                    purge,
                    appended: None,
                }
            })
            .collect();
        self.local.store(table.local, Ordering::Release);
        pending
    }

    fn keep(&self, pending: &[Pending]) {
        self.outbox().extend(pending.iter().cloned());
        if self.outbox().len() > OUTBOX_MAX {
            // So much cannot be kept one by one, so the others are told to drop everything.
            let everything = self.apply(&[Purge {
                scope: Scope::All,
                soft: false,
            }]);
            let mut outbox = self.outbox();
            outbox.clear();
            outbox.extend(everything);
        }
    }

    async fn append(&self, redis: &Redis, pending: &[Pending]) -> Result<(), Outage> {
        if pending.is_empty() {
            return Ok(());
        }
        let mut commands = redis::pipe();
        let seal = self.seal.load_full();
        for Pending { local, purge, .. } in pending {
            let (field, value) = written(&purge.scope, &seal);
            commands
                .cmd("XADD")
                .arg(&self.stream)
                .arg("MAXLEN")
                .arg("~")
                .arg(STREAM_MAX)
                .arg("*")
                .arg("k")
                .arg(purge.scope.word())
                .arg(field)
                .arg(value)
                .arg("s")
                .arg(u8::from(purge.soft))
                .arg("o")
                .arg(format!("{}:{local}", self.origin));
        }
        commands
            .cmd("PEXPIRE")
            .arg(&self.stream)
            .arg(STREAM_TTL.as_millis() as u64);
        let answers = redis.pipeline("purge", &commands).await;
        let mut missing = None;
        let mut table = self.write();
        let mut outbox = self.outbox();
        for (pending, answer) in pending.iter().zip(&answers) {
            let id = match answer {
                Ok(answer) => log_id(answer).ok_or(Outage::Protocol),
                Err(outage) => Err(*outage),
            };
            match id {
                Ok(id) => {
                    table.confirm(&pending.purge, pending.local, id);
                    self.appended.fetch_add(1, Ordering::Relaxed);
                    // It stays in the outbox until it has come back: what Redis acknowledged may
                    // still be lost in a failover.
                    outbox
                        .iter_mut()
                        .filter(|kept| kept.local == pending.local)
                        .for_each(|kept| kept.appended = Some(Instant::now()));
                }
                Err(outage) => {
                    tracing::debug!(kind = outage.word(), "a purge was not taken by the log");
                    missing = Some(outage);
                }
            }
        }
        missing.map_or(Ok(()), Err)
    }

    /// One connection's time of following; ends with the connection.
    async fn session(
        &self,
        redis: &Redis,
        mut line: PrivateLine,
        caught_up: &AtomicBool,
    ) -> Outage {
        let mut known = self.position().log;
        let had_history = known != (0, 0);
        let mut beaten: Option<Instant> = None;
        let has_caught_up = || caught_up.load(Ordering::Acquire);
        let mut looked: Option<Instant> = None;
        loop {
            if looked.is_none_or(|at| at.elapsed() >= BLOCK) {
                // The log is read on from where we are, whoever brings it.
                if let Some(renewed) = redis.renewed_line(self.stream.as_bytes(), &line).await {
                    line = renewed;
                }
                match self
                    .look(&line, known, had_history || has_caught_up())
                    .await
                {
                    Ok(()) => looked = Some(Instant::now()),
                    Err(outage) => return outage,
                }
                let due = self.due();
                // What cannot be appended now stays and is tried again at the next look.
                let _ = self.append(redis, &due).await;
            }
            if beaten.is_none_or(|at| at.elapsed() >= HEARTBEAT) {
                if let Err(outage) = self.beat(&line).await {
                    return outage;
                }
                beaten = Some(Instant::now());
            }
            let mut read = redis::cmd("XREAD");
            read.arg("COUNT").arg(BATCH);
            if has_caught_up() {
                read.arg("BLOCK").arg(BLOCK.as_millis() as u64);
            }
            read.arg("STREAMS")
                .arg(&self.stream)
                .arg(format!("{}-{}", known.0, known.1));
            let entries = match line.query(&read, BLOCK + GRACE).await {
                Ok(answer) => stream_entries(answer),
                Err(outage) => return outage,
            };
            let last_batch = entries.len() < BATCH;
            for (id, fields) in entries {
                known = known.max(id);
                self.replay(id, &fields, had_history || has_caught_up());
            }
            if last_batch && !has_caught_up() {
                caught_up.store(true, Ordering::Release);
                self.current.store(true, Ordering::Release);
            }
        }
    }

    /// Whether the log still holds our place; begins a log where there is none.
    async fn look(&self, line: &PrivateLine, known: LogId, history: bool) -> Result<(), Outage> {
        let known = match known {
            (0, 0) => String::new(),
            (millis, sequence) => format!("{millis}-{sequence}"),
        };
        let ttl = STREAM_TTL.as_millis().to_string();
        let answer = line
            .script(
                look_script(),
                &[self.stream.as_bytes()],
                &[known.as_bytes(), ttl.as_bytes()],
                GRACE,
            )
            .await?;
        let Value::Array(answer) = answer else {
            return Err(Outage::Protocol);
        };
        let [Value::Int(lost), first] = answer.as_slice() else {
            return Err(Outage::Protocol);
        };
        let first = log_id(first).ok_or(Outage::Protocol)?;
        if *lost == 1 && history {
            tracing::warn!("the purge log has lost our place: everything stored before is stale");
            let mut table = self.write();
            table.raise_floor(first, true);
            self.local.store(table.local, Ordering::Release);
            drop(table);
            self.say_again();
        } else if known.is_empty() {
            // What was trimmed before we came may have hit anything older.
            self.write().raise_floor(first, false);
        }
        Ok(())
    }

    /// Puts the purges of the last minutes into the outbox once more: they are idempotent, and a
    /// failover may have lost them for those who come later.
    fn say_again(&self) {
        let recent: Vec<_> = {
            let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.iter().map(|(_, purge)| purge.clone()).collect()
        };
        let pending = self.apply(&recent);
        self.keep(&pending);
    }

    fn replay(&self, id: LogId, fields: &Fields, history: bool) {
        let text = |name: &[u8]| {
            fields
                .get(name)
                .and_then(|value| std::str::from_utf8(value).ok())
        };
        if text(b"k") == Some("genesis") {
            let mut table = self.write();
            // Where the loss was seen before, what came into memory since is no older than this log.
            let is_news = table.floor.log < id;
            table.raise_floor(id, history && is_news);
            table.replayed(id);
            self.local.store(table.local, Ordering::Release);
            return;
        }
        let scope = read(fields, &self.seal.load());
        let purge = Purge {
            scope,
            soft: text(b"s") == Some("1"),
        };
        let ours = text(b"o")
            .and_then(|origin| origin.split_once(':'))
            .filter(|(origin, _)| *origin == self.origin)
            .and_then(|(_, local)| local.parse::<u64>().ok());
        let mut table = self.write();
        match ours {
            Some(local) => {
                table.confirm(&purge, local, id);
                table.replayed(id);
                self.outbox().retain(|kept| kept.local != local);
            }
            None => {
                table.apply(&purge, Some(id));
                self.local.store(table.local, Ordering::Release);
            }
        }
        drop(table);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((Instant::now(), purge));
        while recent.len() > OUTBOX_MAX / 2
            || recent.front().is_some_and(|(at, _)| at.elapsed() > RECENT)
        {
            recent.pop_front();
        }
    }

    /// What has to be appended (again).
    fn due(&self) -> Vec<Pending> {
        self.outbox()
            .iter()
            .filter(|kept| kept.appended.is_none_or(|at| at.elapsed() > APPEND_AGAIN))
            .cloned()
            .collect()
    }

    /// Shows that this sidecar lives, and counts those that do.
    async fn beat(&self, line: &PrivateLine) -> Result<(), Outage> {
        let within = SEEN_WITHIN.as_millis().to_string();
        let keys: [&[u8]; 1] = [self.sidecars.as_bytes()];
        let args: [&[u8]; 2] = [self.origin.as_bytes(), within.as_bytes()];
        match line.script(beat_script(), &keys, &args, GRACE).await {
            Ok(Value::Int(count)) => {
                let count = u32::try_from(count).unwrap_or(1);
                self.replicas.store(count, Ordering::Relaxed);
                Ok(())
            }
            // A Redis that takes no writes is still followed.
            Ok(_) | Err(Outage::Full | Outage::ReadOnly | Outage::Protocol) => Ok(()),
            Err(outage) => Err(outage),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self) -> MutexGuard<'_, VecDeque<Pending>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The field of the log that holds what is purged, and how it is written there.
fn written(scope: &Scope, seal: &Seal) -> (&'static str, Vec<u8>) {
    let value = scope.value().as_bytes();
    if !seal.encrypts() {
        return ("v", value.to_vec());
    }
    let mut sealed = Vec::new();
    seal.close(&mut sealed, &[value], false, &bound_to(scope.word()));
    ("x", sealed)
}

/// What an entry of the log purges. One of a newer version, of a stranger, or encrypted with a key that
/// is not here may have meant anything, and purges everything.
fn read(fields: &Fields, seal: &Seal) -> Scope {
    let field = |name: &[u8]| fields.get(name);
    let kind = field(b"k").and_then(|kind| std::str::from_utf8(kind).ok());
    let kind = kind.unwrap_or_default();
    let value = match field(b"x") {
        Some(sealed) => {
            let sealed = Bytes::copy_from_slice(sealed);
            let value = seal.open(sealed, seal::ENCRYPTED, &bound_to(kind));
            value.map(Into::into).ok()
        }
        None => field(b"v").cloned(),
    };
    match (kind, value.and_then(|value| String::from_utf8(value).ok())) {
        ("tag", Some(tag)) => Scope::Tag(tag),
        ("url", Some(url)) => Scope::Url(url),
        ("prefix", Some(prefix)) => Scope::Prefix(prefix),
        _ => Scope::All,
    }
}

fn bound_to(kind: &str) -> Vec<u8> {
    [b"larder purge ", kind.as_bytes()].concat()
}

/// KEYS: the stream. ARGV: our last id or nothing, the key's life in milliseconds.
/// Answers whether our place is lost (1) and the first id there is.
fn look_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(
            r"
            local stream, known, lost = KEYS[1], ARGV[1], 0
            local function parts(id)
                local millis, sequence = string.match(id, '^(%d+)-(%d+)$')
                return tonumber(millis), tonumber(sequence)
            end
            local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
            local begin = #last == 0
            if known ~= '' and #redis.call('XRANGE', stream, known, known) == 0 then
                lost = 1
                if not begin then
                    local there, thereSequence = parts(last[1][1])
                    local here, hereSequence = parts(known)
                    begin = there < here or (there == here and thereSequence < hereSequence)
                end
            end
            if begin then
                local id = '*'
                if known ~= '' then
                    -- Beyond our place even where this server's clock is behind.
                    local time = redis.call('TIME')
                    local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
                    id = string.format('%.0f-0', math.max(now, (parts(known)) + 1))
                end
                local added = redis.pcall('XADD', stream, id, 'k', 'genesis')
                if type(added) == 'table' and added.err then
                    redis.call('XADD', stream, '*', 'k', 'genesis')
                end
            end
            redis.call('PEXPIRE', stream, ARGV[2])
            return {lost, redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1]}
            ",
        )
    })
}

/// KEYS: the set of sidecars. ARGV: who we are, how long a sidecar counts as seen in milliseconds.
fn beat_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(
            r"
            local time = redis.call('TIME')
            local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
            redis.call('ZADD', KEYS[1], now, ARGV[1])
            redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now - ARGV[2]))
            redis.call('PEXPIRE', KEYS[1], ARGV[2])
            return redis.call('ZCARD', KEYS[1])
            ",
        )
    })
}

/// Fields of one entry of the stream.
pub(super) type Fields = HashMap<Vec<u8>, Vec<u8>>;

pub(super) fn log_id(value: &Value) -> Option<LogId> {
    let text = match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        _ => return None,
    };
    let (millis, sequence) = text.split_once('-')?;
    Some((millis.parse().ok()?, sequence.parse().ok()?))
}

/// What XREAD answered for its one stream; what cannot be read is left out but for its place, so
/// that it counts as a purge of everything.
pub(super) fn stream_entries(answer: Value) -> Vec<(LogId, Fields)> {
    let array = |value: Value| match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    };
    let bytes = |value: Value| match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        _ => Vec::new(),
    };
    let stream = array(answer).into_iter().next().map(array);
    let entries = stream.and_then(|mut stream| stream.pop()).map(array);
    entries
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| {
            let mut parts = array(entry).into_iter();
            let id = log_id(&parts.next()?)?;
            let mut fields = HashMap::new();
            let mut flat = parts.next().map(array).unwrap_or_default().into_iter();
            while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
                fields.insert(bytes(name), bytes(value));
            }
            Some((id, fields))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag(name: &str, soft: bool) -> Purge {
        Purge {
            scope: Scope::Tag(name.to_owned()),
            soft,
        }
    }

    fn hard(scope: Scope) -> Purge {
        Purge { scope, soft: false }
    }

    fn verdict(table: &Table, tags: &[&str], url: &str, since: Since) -> Verdict {
        let tags = tags.iter().copied();
        table.verdict(Subject { tags, url }, since)
    }

    /// Any answer of a server, purges and what is only like them first of all.
    fn any_answer() -> impl Strategy<Value = Value> {
        let word = prop::sample::select(vec![
            "k", "v", "s", "o", "tag", "url", "prefix", "genesis", "1", "5-1", "6-0", "x", "7-",
        ]);
        let leaf = prop_oneof![
            word.prop_map(|word| Value::BulkString(word.into())),
            any::<i64>().prop_map(Value::Int),
            Just(Value::Nil),
            prop::collection::vec(any::<u8>(), 0..4).prop_map(Value::BulkString),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop::collection::vec(inner, 0..8).prop_map(Value::Array)
        })
    }

    #[test]
    fn the_beginning_of_a_log_that_is_known_to_be_new_makes_nothing_stale_once_more() {
        let log = PurgeLog::new("test", Arc::default());
        let genesis = Fields::from([(b"k".to_vec(), b"genesis".to_vec())]);
        log.write().raise_floor((5, 0), true);
        let since = Since::Local(log.position().local);
        let subject = || Subject {
            tags: [],
            url: "host/",
        };
        log.replay((5, 0), &genesis, true);
        assert_eq!(log.verdict(subject(), since), Verdict::Valid);
        assert_eq!(log.position().log, (5, 0));
        log.replay((6, 0), &genesis, true);
        assert_eq!(log.verdict(subject(), since), Verdict::Hard);
    }

    proptest! {
        #[test]
        fn no_answer_of_a_server_makes_the_log_panic(answer in any_answer()) {
            let log = PurgeLog::new("test", Arc::default());
            for (id, fields) in stream_entries(answer) {
                log.replay(id, &fields, true);
            }
        }

        #[test]
        fn an_entry_of_the_log_without_a_meaning_purges_everything(kind in "tag|url|prefix|new|", value in prop::option::of(prop::collection::vec(any::<u8>(), 0..5))) {
            let log = PurgeLog::new("test", Arc::default());
            let mut fields = Fields::from([(b"k".to_vec(), kind.clone().into_bytes())]);
            let readable = value.as_ref().is_some_and(|value| std::str::from_utf8(value).is_ok());
            fields.extend(value.map(|value| (b"v".to_vec(), value)));
            log.replay((5, 1), &fields, true);
            let verdict = log.verdict(Subject { tags: [], url: "h/a" }, Since::Log((5, 0)));
            if !readable || !matches!(kind.as_str(), "tag" | "url" | "prefix") {
                prop_assert_eq!(verdict, Verdict::Hard);
            }
        }
    }

    #[test]
    fn what_is_purged_can_be_read_with_the_key_and_is_everything_without_it() {
        let seal = |keys: &[u8]| {
            let keys: Vec<_> = keys
                .iter()
                .map(|n| crate::secret::Key::new([*n; 32]))
                .collect();
            Seal::new(None, &keys, 0)
        };
        let scope = Scope::Tag("user:ann".to_owned());
        let fields = |scope: &Scope, by: &Seal| {
            let (field, value) = written(scope, by);
            let kind = scope.word().as_bytes().to_vec();
            assert_eq!(value.windows(3).any(|part| part == b"ann"), !by.encrypts());
            Fields::from([(b"k".to_vec(), kind), (field.as_bytes().to_vec(), value)])
        };
        let sealed = fields(&scope, &seal(&[1]));
        assert_eq!(read(&sealed, &seal(&[2, 1])), scope);
        for other in [&[][..], &[2]] {
            assert_eq!(read(&sealed, &seal(other)), Scope::All);
        }
        let mut other_kind = sealed;
        other_kind.insert(b"k".to_vec(), b"url".to_vec());
        assert_eq!(read(&other_kind, &seal(&[1])), Scope::All);
        // While not every sidecar has a key, those without are understood.
        assert_eq!(read(&fields(&scope, &seal(&[])), &seal(&[1])), scope);
    }

    #[test]
    fn a_purge_hits_what_is_older_and_spares_what_is_newer() {
        let mut table = Table::default();
        let local = table.apply(&tag("car:42", false), Some((5, 0)));
        let of = |since| verdict(&table, &["fleet", "car:42"], "h/a", since);
        assert_eq!(of(Since::Local(local - 1)), Verdict::Hard);
        assert_eq!(of(Since::Local(local)), Verdict::Valid);
        assert_eq!(of(Since::Log((4, 9))), Verdict::Hard);
        assert_eq!(of(Since::Log((5, 0))), Verdict::Valid);
        assert_eq!(
            verdict(&table, &["fleet"], "h/a", Since::Local(0)),
            Verdict::Valid
        );
    }

    #[test]
    fn the_stronger_of_two_purges_counts() {
        let mut table = Table::default();
        table.apply(&tag("a", true), Some((1, 0)));
        assert_eq!(
            verdict(&table, &["a"], "h/", Since::Local(0)),
            Verdict::Soft
        );
        table.apply(&tag("b", false), Some((2, 0)));
        assert_eq!(
            verdict(&table, &["a", "b"], "h/", Since::Local(0)),
            Verdict::Hard
        );
    }

    #[test]
    fn urls_match_with_and_without_host_and_prefixes_by_their_beginning() {
        let mut table = Table::default();
        table.apply(&hard(Scope::Url("h/a?x=1".to_owned())), None);
        table.apply(&hard(Scope::Url("/b".to_owned())), None);
        table.apply(&hard(Scope::Prefix("/api/".to_owned())), None);
        let of = |url: &str| verdict(&table, &[], url, Since::Local(0));
        assert_eq!(of("h/a?x=1"), Verdict::Hard);
        assert_eq!(of("i/a?x=1"), Verdict::Valid);
        assert_eq!(of("h/a"), Verdict::Valid);
        assert_eq!(of("h/b"), Verdict::Hard);
        assert_eq!(of("i/b"), Verdict::Hard);
        assert_eq!(of("h/api/cars"), Verdict::Hard);
        assert_eq!(of("h/ap"), Verdict::Valid);
        assert_eq!(of("ü"), Verdict::Valid);
    }

    #[test]
    fn until_the_log_has_a_purge_no_entry_from_redis_can_be_newer() {
        let mut table = Table::default();
        let purge = tag("a", false);
        let local = table.apply(&purge, None);
        let of = |table: &Table, log| verdict(table, &["a"], "h/", Since::Log(log));
        assert_eq!(of(&table, (99, 0)), Verdict::Hard);
        // Another sidecar purged the same tag meanwhile: ours is still not in the log.
        table.apply(&purge, Some((50, 0)));
        assert_eq!(of(&table, (99, 0)), Verdict::Hard);
        table.confirm(&purge, local, (60, 0));
        assert_eq!(of(&table, (99, 0)), Verdict::Valid);
        assert_eq!(of(&table, (59, 0)), Verdict::Hard);
        // Nothing else is older for it.
        let other = verdict(&table, &["b"], "h/", Since::Log((0, 1)));
        assert_eq!(other, Verdict::Valid);
    }

    #[test]
    fn what_is_forgotten_becomes_a_floor() {
        let mut table = Table::default();
        for n in 0..=PURGES_MAX as u64 {
            table.apply(&tag(&format!("t{n}"), false), Some((n + 1, 0)));
        }
        assert_eq!(table.tags.len(), PURGES_MAX);
        // The first purge is forgotten; everything older than it is stale, whatever its tags.
        assert_eq!(
            verdict(&table, &[], "h/", Since::Log((0, 5))),
            Verdict::Hard
        );
        assert_eq!(
            verdict(&table, &[], "h/", Since::Log((1, 0))),
            Verdict::Valid
        );
        assert_eq!(verdict(&table, &[], "h/", Since::Local(0)), Verdict::Hard);
        assert_eq!(verdict(&table, &[], "h/", Since::Local(1)), Verdict::Valid);
    }

    #[test]
    fn the_same_tag_purged_again_and_again_takes_one_place() {
        let mut table = Table::default();
        for n in 0..PURGES_MAX as u64 + 10 {
            table.apply(&tag("a", false), Some((n + 1, 0)));
        }
        assert_eq!((table.tags.len(), table.floor.local), (1, 0));
        assert!(table.order.len() <= PURGES_MAX);
    }

    #[test]
    fn a_purge_of_everything_stands_for_those_that_never_got_a_place() {
        let mut table = Table::default();
        table.apply(&tag("a", false), None);
        let everything = hard(Scope::All);
        let local = table.apply(&everything, None);
        table.apply(&tag("b", false), None);
        table.confirm(&everything, local, (60, 0));
        let of = |tag, log| verdict(&table, &[tag], "h/", Since::Log(log));
        assert_eq!(of("a", (59, 0)), Verdict::Hard);
        assert_eq!(of("a", (60, 0)), Verdict::Valid);
        assert_eq!(of("b", (60, 0)), Verdict::Hard);
    }

    #[tokio::test]
    async fn without_redis_a_purge_is_local() {
        let log = PurgeLog::new("t", Arc::default());
        let outcome = log.purge(vec![tag("a", false)], None).await;
        assert_eq!((outcome, log.local()), (PurgeOutcome::Local, 1));
    }
}
