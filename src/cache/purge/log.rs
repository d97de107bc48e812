//! One process's way to and from the purge log: its connection, its appends, what its workers ask it.
//!
//! What is decided is decided by the [`Ledger`]; here is what reaches Redis and what is read without a lock.

use super::ledger::{Doubt, Ledger, Pending};
use super::wire;
use super::{LogId, Position, Purge, PurgeOutcome, Since, Subject, Verdict};
use crate::cache::seal::Seal;
use crate::clock::Clock;
use crate::redis_client::{Outage, PrivateLine, Redis};
use crate::semantics::Timestamp;
use crate::telemetry::Recorder;
use arc_swap::ArcSwap;
use redis::Value;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

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
/// Who knows of purges tries to connect so often, even where its breaker is open: within
/// [`SETTLE`](super::SETTLE) everyone has said what others must know.
const TRY_EVERY: Duration = Duration::from_millis(400);
/// Entries replayed at a time.
const BATCH: usize = 1_000;
/// Purges appended in one step.
const APPENDED_MAX: usize = 500;
/// How often a sidecar shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often it looks whether the others have said what they had to say.
const SETTLING: Duration = Duration::from_millis(50);
/// A sidecar not seen for so long is gone.
const SEEN_WITHIN: Duration = Duration::from_secs(16);
/// In the count of purges that workers compare: what memory holds is to be looked at more closely.
const DOUBTED: u64 = 1 << 63;
/// No bound on how long memory is trusted while the log is not followed.
const FOREVER: u64 = u64::MAX;

/// The purge table of this process and its way to and from the stream.
#[derive(Debug)]
pub struct PurgeLog {
    stream: String,
    witness: String,
    sidecars: String,
    /// How what is purged is sealed: tags and URLs tell of those whom they are about.
    seal: Arc<ArcSwap<Seal>>,
    /// Names this process in the log, so that it knows its own purges again.
    origin: String,
    began: Instant,
    ledger: RwLock<Ledger>,
    /// The number of purges applied here, readable without the lock, with [`DOUBTED`] beside it.
    local: AtomicU64,
    /// Whether the log has been replayed to its end and is being followed.
    current: AtomicBool,
    /// How long memory is trusted while the log is not followed, in milliseconds.
    trust: AtomicU64,
    replicas: AtomicU32,
    /// Purges appended here so far.
    appended: AtomicU64,
    /// The log had lost our place.
    lost: Notify,
}

/// By which way something is appended.
enum Way<'a> {
    /// That of requests.
    Shared(&'a Redis),
    /// The follower's own, which stands before the breaker has closed.
    Own(&'a PrivateLine),
}

impl PurgeLog {
    /// An empty table; nothing is followed yet.
    #[must_use]
    pub fn new(namespace: &str, seal: Arc<ArcSwap<Seal>>) -> Self {
        Self {
            stream: format!("{namespace}:purges"),
            // In the slot of the stream, as all that its server is asked.
            witness: format!("{namespace}:end:{{{namespace}:purges}}"),
            sidecars: format!("{namespace}:sidecars:{{{namespace}:purges}}"),
            seal,
            origin: format!("{:016x}", fastrand::u64(..)),
            began: Instant::now(),
            ledger: RwLock::default(),
            local: AtomicU64::new(0),
            current: AtomicBool::new(false),
            trust: AtomicU64::new(FOREVER),
            replicas: AtomicU32::new(1),
            appended: AtomicU64::new(0),
            lost: Notify::new(),
        }
    }

    /// Waits until the log has lost our place, so that nothing stored before counts.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// The last place of the log as Redis has it, whatever has been replayed of it here.
    pub async fn end(&self, redis: &Redis) -> Result<LogId, Outage> {
        let mut last = redis::cmd("XREVRANGE");
        last.arg(&self.stream).arg("+").arg("-").arg("COUNT").arg(1);
        let answer = redis.query("purge", &last).await?;
        let Value::Array(entries) = answer else {
            return Err(Outage::Protocol);
        };
        match entries.first() {
            Some(Value::Array(entry)) => {
                entry.first().and_then(wire::log_id).ok_or(Outage::Protocol)
            }
            _ => Ok((0, 0)),
        }
    }

    /// See [`Table::logged`](super::Table::logged).
    #[must_use]
    pub fn logged(&self, purge: &Purge) -> LogId {
        self.read().logged(purge)
    }

    /// See [`Table::position`](super::Table::position).
    #[must_use]
    pub fn position(&self) -> Position {
        self.read().position()
    }

    /// Purges applied in this process so far: one atomic load.
    #[must_use]
    pub fn local(&self) -> u64 {
        self.local.load(Ordering::Acquire) & !DOUBTED
    }

    /// Whether an entry in memory that was found good when so many purges had been applied needs no
    /// further look: one atomic load.
    #[must_use]
    pub fn is_checked(&self, checked: u64) -> bool {
        self.local.load(Ordering::Acquire) == checked
    }

    /// Whether entries from Redis can be judged: the log has been replayed and is being followed.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire)
    }

    /// Since when it is not known here what other sidecars have purged; `None` while the log is followed, and
    /// where there is none.
    #[must_use]
    pub fn cut_off_since(&self) -> Option<Timestamp> {
        let ledger = self.read();
        (ledger.doubt() != Doubt::None).then(|| ledger.heard())
    }

    /// Purges that other sidecars have not been told of yet.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.read().queued()
    }

    /// Sidecars of this namespace seen lately, this one included.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.replicas.load(Ordering::Relaxed).max(1)
    }

    /// From now on memory is trusted so long while the log is not followed; `None`: without bound.
    pub fn trust(&self, trust: Option<Duration>) {
        let millis = trust.map_or(FOREVER, |trust| trust.as_millis() as u64);
        self.trust.store(millis, Ordering::Relaxed);
    }

    /// See [`Table::verdict`](super::Table::verdict).
    #[must_use]
    pub fn verdict<'a>(
        &self,
        subject: Subject<'a, impl IntoIterator<Item = &'a str>>,
        since: Since,
    ) -> Verdict {
        self.read().verdict(subject, since)
    }

    /// Whether an entry from Redis that carries this place may be shown.
    #[must_use]
    pub fn found<'a>(
        &self,
        subject: Subject<'a, impl IntoIterator<Item = &'a str>>,
        log: LogId,
    ) -> Verdict {
        self.read().found(subject, log)
    }

    /// Whether an entry that memory holds may be shown: it was not purged by so many purges, and received then.
    /// And since when it is not fresh any more, whatever its lifetime says, for want of news; see
    /// [`PurgeLog::trust`].
    #[must_use]
    pub fn held<'a>(
        &self,
        subject: Subject<'a, impl IntoIterator<Item = &'a str>>,
        known: (u64, Timestamp),
        now: Timestamp,
    ) -> (Verdict, Option<Timestamp>) {
        let trust = match self.trust.load(Ordering::Relaxed) {
            FOREVER => None,
            millis => Some(Duration::from_millis(millis)),
        };
        self.read().held(subject, known, trust, now)
    }

    /// Applies purges here at once and appends them to the log, or keeps them until it can.
    pub async fn purge(&self, purges: Vec<Purge>, redis: Option<&Redis>) -> PurgeOutcome {
        let now = self.now();
        let Some(redis) = redis else {
            self.change(|ledger| drop(ledger.apply(&purges, now)));
            return PurgeOutcome::Local;
        };
        let pending = self.change(|ledger| {
            let pending = ledger.apply(&purges, now);
            ledger.keep(&pending);
            pending
        });
        match self.append(Way::Shared(redis), &pending).await {
            Ok(()) => PurgeOutcome::Logged,
            Err(_) => PurgeOutcome::Queued,
        }
    }

    /// Appends what the log has not taken yet, once: the last thing a process does. Returns how many
    /// purges it leaves behind that no other sidecar will ever hear of.
    pub async fn flush(&self, redis: &Redis) -> usize {
        let unsaid = self.read().unsaid();
        match self.append(Way::Shared(redis), &unsaid).await {
            Ok(()) => 0,
            Err(_) => self.read().unsaid().len(),
        }
    }

    /// Replays the log as it grows, for as long as it is polled; appends what was kept while Redis
    /// was away, and shows that this sidecar lives. Once a process, on the background runtime. How long
    /// others' purges took to come here, the `recorder` is told.
    ///
    /// Where its server is away while others of the same Redis answer, the log is taken for current a while
    /// longer: see [`LOG_AWAY_MAX`](super::LOG_AWAY_MAX).
    pub async fn follow(&self, redis: &Redis, clock: &Clock, recorder: &Recorder) -> Infallible {
        let stream = self.stream.as_bytes();
        let mut tried: Option<Instant> = None;
        self.change(|ledger| ledger.begins(self.now(), clock.now()));
        loop {
            let mut pause = Duration::from_millis(fastrand::u64(20..60));
            let is_due = tried.is_none_or(|at| at.elapsed() >= TRY_EVERY);
            if redis.serves(stream) || (is_due && self.read().has_to_speak()) {
                tried = Some(Instant::now());
                if let Ok(line) = redis.private_line(stream).await {
                    self.change(|ledger| ledger.session_begins(self.now()));
                    let ended = tokio::select! {
                        ended = self.session(redis, line, clock, recorder) => ended,
                        never = self.turn() => match never {},
                    };
                    if self.read().has_caught_up() {
                        // Until there is another, Redis is not read.
                        pause = Duration::from_millis(fastrand::u64(1..5));
                    }
                    self.change(|ledger| ledger.session_ends(ended, self.now(), clock.now()));
                    redis.line_ended(ended);
                    if ended == Outage::Forbidden {
                        // Somebody has to allow it first.
                        pause = FORBIDDEN_PAUSE;
                    }
                    tracing::debug!(kind = ended.word(), "the purge log is not followed");
                }
            }
            let (serves, others) = (redis.serves(stream), redis.is_divided() && redis.is_up());
            self.change(|ledger| ledger.tick(serves, others, self.now()));
            tokio::time::sleep(pause).await;
        }
    }

    /// Lets time pass where it changes what may be trusted though nothing happens.
    async fn turn(&self) -> Infallible {
        loop {
            let now = self.now();
            let turns = self.read().turns(now);
            let wait = turns.map_or(BLOCK, |at| at.saturating_sub(now));
            tokio::time::sleep(wait.clamp(Duration::from_millis(1), BLOCK)).await;
            self.change(|ledger| ledger.tick(true, false, self.now()));
        }
    }

    async fn append(&self, way: Way<'_>, pending: &[Pending]) -> Result<(), Outage> {
        for some in pending.chunks(APPENDED_MAX) {
            let places = match self.append_some(&way, some).await {
                Ok(places) => places,
                Err(outage) => {
                    tracing::debug!(kind = outage.word(), "purges were not taken by the log");
                    return Err(outage);
                }
            };
            let now = self.now();
            let mut ledger = self.write();
            for (pending, place) in some.iter().zip(places) {
                ledger.appended(pending, place, now);
                self.appended.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    async fn append_some(&self, way: &Way<'_>, pending: &[Pending]) -> Result<Vec<LogId>, Outage> {
        let (seal, now) = (self.seal.load_full(), self.now());
        let mut arguments: Vec<Vec<u8>> = vec![
            wire::known(self.position().log).into(),
            STREAM_TTL.as_millis().to_string().into(),
            STREAM_MAX.to_string().into(),
        ];
        for Pending {
            local,
            purge,
            begun,
            ..
        } in pending
        {
            let (field, value) = wire::written(&purge.scope, &seal);
            let waited = begun.map(|begun| now.saturating_sub(begun).as_micros());
            arguments.extend([
                purge.scope.word().into(),
                field.into(),
                value,
                u8::from(purge.soft).to_string().into(),
                format!("{}:{local}", self.origin).into(),
                waited.map_or_else(String::new, |it| it.to_string()).into(),
            ]);
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let (script, keys) = (wire::append_script(), self.keys());
        let numbers = match way {
            Way::Shared(redis) => redis.script("purge", script, &keys, &arguments).await?,
            Way::Own(line) => match line.script(script, &keys, &arguments, GRACE).await? {
                Value::Array(values) => values.iter().map_while(number).collect(),
                _ => return Err(Outage::Protocol),
            },
        };
        let places = wire::places(&numbers).filter(|places| places.len() == pending.len());
        places.ok_or(Outage::Protocol)
    }

    /// One connection's time of following; ends with the connection.
    async fn session(
        &self,
        redis: &Redis,
        mut line: PrivateLine,
        clock: &Clock,
        recorder: &Recorder,
    ) -> Outage {
        let stream = self.stream.as_bytes();
        let mut beaten: Option<Instant> = None;
        let mut looked: Option<Instant> = None;
        let mut is_due = false;
        // What was purged before this process could hear of it is no delay.
        let is_known = self.position().log != LogId::default();
        loop {
            if looked.is_none_or(|at| at.elapsed() >= BLOCK) {
                // The log is read on from where we are, whoever brings it.
                if let Some(renewed) = redis.renewed_line(stream, &line).await {
                    line = renewed;
                }
                match self.look(&line).await {
                    Ok(()) => looked = Some(Instant::now()),
                    Err(outage) => return outage,
                }
                is_due = true;
            }
            if is_due {
                let due = self.read().due(self.now());
                // What cannot be appended now stays and is tried again soon.
                let _ = self.append(Way::Own(&line), &due).await;
            }
            let (has_caught_up, is_settled, has_said) = {
                let ledger = self.read();
                let is_settled = ledger.is_settled(self.now());
                let has_said = is_settled || ledger.has_said();
                (ledger.has_caught_up(), is_settled, has_said)
            };
            // Others wait for what is said while Redis is left alone.
            is_due = !is_settled;
            let every = if is_settled { HEARTBEAT } else { SETTLING };
            // To beat is to have said it all.
            if has_said && beaten.is_none_or(|at| at.elapsed() >= every) {
                if let Err(outage) = self.beat(&line).await {
                    return outage;
                }
                beaten = Some(Instant::now());
            }
            let mut read = redis::cmd("XREAD");
            read.arg("COUNT").arg(BATCH);
            if has_caught_up {
                let block = if is_settled { BLOCK } else { SETTLING };
                read.arg("BLOCK").arg(block.as_millis() as u64);
            }
            let (millis, sequence) = self.position().log;
            read.arg("STREAMS")
                .arg(&self.stream)
                .arg(format!("{millis}-{sequence}"));
            let entries = match line.query(&read, BLOCK + GRACE).await {
                Ok(answer) => wire::stream_entries(answer),
                Err(outage) => return outage,
            };
            let is_end = entries.len() < BATCH;
            let at = clock.now();
            let offset = redis.time_offset(stream, at);
            for (id, fields) in entries {
                let delay = self.replay(id, &fields, at, offset);
                if let Some(delay) = delay.filter(|_| is_known || has_caught_up) {
                    recorder.purge_visible(delay);
                }
            }
            self.change(|ledger| ledger.heard_of(is_end, self.now(), at));
        }
    }

    /// Whether the log still holds our place; begins a log where there is none.
    async fn look(&self, line: &PrivateLine) -> Result<(), Outage> {
        let known = wire::known(self.position().log);
        let ttl = STREAM_TTL.as_millis().to_string();
        let arguments = [known.as_bytes(), ttl.as_bytes()];
        let script = wire::look_script();
        let answer = line.script(script, &self.keys(), &arguments, GRACE).await?;
        let look = wire::look(&answer).ok_or(Outage::Protocol)?;
        if self.change(|ledger| ledger.looked(&look, self.now())) {
            tracing::warn!("the purge log has lost our place: everything stored before is stale");
            self.lost.notify_one();
        }
        Ok(())
    }

    /// The next entry of the log. Of a purge that another made, returns how long it took from there to here,
    /// by Redis's clock, which is `offset` milliseconds ahead of ours.
    fn replay(
        &self,
        id: LogId,
        fields: &wire::Fields,
        at: Timestamp,
        offset: i64,
    ) -> Option<Duration> {
        let (said, waited) = wire::read(fields, &self.seal.load(), &self.origin);
        let is_others = matches!(said, super::ledger::Said::Purge(_, None));
        self.change(|ledger| ledger.replay(id, said));
        let there = at.as_millis().saturating_add_signed(offset);
        let delay = Duration::from_millis(there.saturating_sub(id.0));
        waited.filter(|_| is_others).map(|waited| delay + waited)
    }

    /// Shows that this sidecar lives, and counts those that do.
    async fn beat(&self, line: &PrivateLine) -> Result<(), Outage> {
        let within = SEEN_WITHIN.as_millis().to_string();
        let server = self.read().server().to_owned();
        let spoken = format!("{}:{server}", self.sidecars);
        let keys: [&[u8]; 2] = [self.sidecars.as_bytes(), spoken.as_bytes()];
        let args: [&[u8]; 2] = [self.origin.as_bytes(), within.as_bytes()];
        match line.script(wire::beat_script(), &keys, &args, GRACE).await {
            Ok(Value::Array(counts)) => {
                let count = |at: usize| counts.get(at).and_then(number);
                let count = |at| count(at).and_then(|it| u32::try_from(it).ok());
                let (all, said) = (count(0).unwrap_or(1), count(1).unwrap_or_default());
                self.replicas.store(all, Ordering::Relaxed);
                self.change(|ledger| ledger.seen(all, said, self.now()));
                Ok(())
            }
            // A Redis that takes no writes is still followed.
            Ok(_) | Err(Outage::Full | Outage::ReadOnly | Outage::Protocol) => Ok(()),
            Err(outage) => Err(outage),
        }
    }

    fn keys(&self) -> [&[u8]; 2] {
        [self.stream.as_bytes(), self.witness.as_bytes()]
    }

    /// On the clock of the ledger.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Changes the ledger, and shows the workers what they read without its lock.
    fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.write();
        let changed = change(&mut ledger);
        let doubted = match ledger.doubt() {
            Doubt::None => 0,
            Doubt::CutOff | Doubt::CatchingUp(_) => DOUBTED,
        };
        let local = ledger.position().local | doubted;
        self.local.store(local, Ordering::Release);
        self.current.store(ledger.is_current(), Ordering::Release);
        changed
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Ledger> {
        self.ledger.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scope;
    use super::super::ledger::Said;
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
    fn whatever_its_server_is_asked_lies_in_the_slot_of_the_log() {
        let log = PurgeLog::new("shop", Arc::default());
        for key in [&log.witness, &log.sidecars] {
            assert!(key.starts_with("shop:"), "{key}");
            assert!(key.ends_with(&format!("{{{}}}", log.stream)), "{key}");
        }
    }

    fn replay(log: &PurgeLog, id: LogId, fields: &wire::Fields) {
        log.replay(id, fields, Timestamp::default(), 0);
    }

    proptest! {
        #[test]
        fn no_answer_of_a_server_makes_the_log_panic(answer in any_answer()) {
            let log = PurgeLog::new("test", Arc::default());
            let _ = wire::look(&answer);
            for (id, fields) in wire::stream_entries(answer) {
                replay(&log, id, &fields);
            }
        }

        #[test]
        fn an_entry_of_the_log_without_a_meaning_purges_everything(
            kind in "tag|url|prefix|regex|geo|",
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..5)),
        ) {
            let log = PurgeLog::new("test", Arc::default());
            let mut fields = wire::Fields::from([(b"k".to_vec(), kind.clone().into_bytes())]);
            let readable = value.as_ref().and_then(|value| String::from_utf8(value.clone()).ok());
            fields.extend(value.map(|value| (b"v".to_vec(), value)));
            replay(&log, (5, 1), &fields);
            let verdict = log.found(Subject { tags: [], url: "h/a" }, (5, 0));
            if readable.and_then(|value| Scope::of(&kind, value)).is_none() {
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
            let (field, value) = wire::written(scope, by);
            let kind = scope.word().as_bytes().to_vec();
            assert_eq!(value.windows(3).any(|part| part == b"ann"), !by.encrypts());
            wire::Fields::from([(b"k".to_vec(), kind), (field.as_bytes().to_vec(), value)])
        };
        let read = |fields: &wire::Fields, by: &Seal| match wire::read(fields, by, "me").0 {
            Said::Purge(purge, None) => purge.scope,
            other => panic!("{other:?}"),
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
