//! One process's share in the purge log: its table, what it has still to append, what it replays.

use super::table::Table;
use super::wire::{Fields, beat_script, log_id, look_script, read, stream_entries, written};
use super::{LogId, Position, Purge, PurgeOutcome, Scope, Since, Subject, Verdict};
use crate::cache::seal::Seal;
use crate::redis_client::{Outage, PrivateLine, Redis};
use arc_swap::ArcSwap;
use redis::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;

/// Purges kept for a Redis that is away; more become one purge of everything.
pub const OUTBOX_MAX: usize = 10_000;
/// Entries of the stream, about; older ones are trimmed.
pub const STREAM_MAX: usize = 100_000;
/// Life of the stream's key, renewed as long as anybody follows it. Longer than any entry's.
pub const STREAM_TTL: Duration = Duration::from_secs(31 * 24 * 3_600);
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
                if purge.scope.check().is_err() {
                    purge.scope = Scope::All;
                }
                Pending {
                    local: table.apply(&purge, None),
                    purge,
                    appended: None,
                }
            })
            .collect();
        self.local.store(table.position().local, Ordering::Release);
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
            self.local.store(table.position().local, Ordering::Release);
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
            let is_news = table.floor() < id;
            table.raise_floor(id, history && is_news);
            table.replayed(id);
            self.local.store(table.position().local, Ordering::Release);
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
                self.local.store(table.position().local, Ordering::Release);
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

    #[tokio::test]
    async fn without_redis_a_purge_is_local() {
        let log = PurgeLog::new("t", Arc::default());
        let outcome = log.purge(vec![tag("a", false)], None).await;
        assert_eq!((outcome, log.local()), (PurgeOutcome::Local, 1));
    }
}
