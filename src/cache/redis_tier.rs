//! The Redis tier: one round trip for a hit, writes behind, every key with a life.
//!
//! Writes have connections of their own: a large one, or a Redis that holds writes back
//! (`CLIENT PAUSE`), delays no read.
//!
//! An outage is a miss on the way in and nothing on the way out: a write that Redis does not take is
//! dropped and counted. It never decides whether an entry may be used.

use super::chunks::{CHUNK_TIME, Chunks, Gone, READERS_TIME, TOUCHED_MAX};
use super::codec::{self, Corrupt, Frame};
use super::filling::{Filling, GivenUp};
use super::purge::{PurgeLog, Since, Verdict};
use super::seal::Seal;
use super::{CLOCKS_APART_MAX, Counters, Entry};
use crate::redis_client::{Outage, Redis};
use crate::semantics::{Key, Timestamp};
use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use http::HeaderName;
use redis::Value;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// Writes that may wait on one worker.
pub const QUEUE_MAX: usize = 1_024;
/// Renewals under way on one worker.
const RENEWALS_MAX: usize = 256;
/// Bytes of entries that may wait on one worker.
pub const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest life of a key in Redis, whatever the response says.
pub const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Times a write is tried.
pub const TRIES_MAX: u32 = 3;
/// First pause between tries; it doubles, and chance takes up to half of it away.
const TRY_PAUSE: Duration = Duration::from_millis(50);
/// Writes and bytes sent in one round trip.
const BATCH_MAX: usize = 32;
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// How long writes pause when Redis takes none (full, read-only), at first and at most.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(15);

/// What is still to be read stays where less is left of its life: a client that takes a chunk within that
/// time is never cut.
const ENDS_SOON: Duration = Duration::from_secs(READERS_TIME.as_secs() / 2);
/// Pause before a chunk is asked for, or written, again.
const CHUNK_PAUSE: Duration = Duration::from_millis(20);

/// What a name takes beside the namespace: two digests and what stands between, in bytes.
const NAME_BYTES_MAX: usize = 2 * 32 + 6;

/// What was found under a name in Redis.
#[derive(Debug)]
pub enum Found {
    /// A response.
    Entry(Entry),
    /// A marker: look under the variant's name.
    Vary(Vec<HeaderName>),
    /// Nothing, or nothing that could be read.
    Nothing,
}

/// One worker's way into the tier.
#[derive(Clone, Debug)]
pub struct RedisTier {
    redis: Redis,
    behind: Redis,
    names: Arc<Names>,
    seal: Arc<ArcSwap<Seal>>,
    counters: Arc<Counters>,
    queue: mpsc::Sender<Write>,
    queued_bytes: Arc<AtomicUsize>,
    renewals: Arc<Semaphore>,
    _writer: Arc<Writer>,
}

/// How keys are called in Redis.
#[derive(Debug)]
pub struct Names {
    namespace: String,
}

impl Names {
    /// Names within `namespace`.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }

    /// The name of `key`, or of its variant. Both carry the same hash tag, so that a Cluster keeps
    /// them on one node.
    #[must_use]
    pub fn of(&self, key: &Key, variant: Option<&Key>) -> String {
        let mut name = String::with_capacity(self.namespace.len() + NAME_BYTES_MAX);
        // Writing into a String cannot fail.
        let _ = match variant {
            None => write!(name, "{}:1:{{{key}}}", self.namespace),
            Some(variant) => write!(name, "{}:1:{{{key}}}:{variant}", self.namespace),
        };
        name
    }

    /// The name of the lease of `key`, or of its variant: in the same slot.
    #[must_use]
    pub fn lease(&self, key: &Key, variant: Option<&Key>) -> String {
        match variant {
            None => format!("{}:lease:{{{key}}}", self.namespace),
            Some(variant) => format!("{}:lease:{{{key}}}:{variant}", self.namespace),
        }
    }
}

impl RedisTier {
    /// Begins to take writes on the current runtime: reads go through `redis`, writes through
    /// `behind`.
    #[must_use]
    pub fn start(
        redis: Redis,
        behind: Redis,
        names: Arc<Names>,
        seal: Arc<ArcSwap<Seal>>,
        purges: Arc<PurgeLog>,
        counters: Arc<Counters>,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let writing = Writing {
            redis: behind.clone(),
            names: Arc::clone(&names),
            seal: Arc::clone(&seal),
            purges,
            counters: Arc::clone(&counters),
            queued_bytes: Arc::clone(&queued_bytes),
            paused_until: None,
            pause: REFUSED_PAUSE,
        };
        let writer = tokio::spawn(writing.run(waiting));
        Self {
            redis,
            behind,
            names,
            seal,
            counters,
            queue,
            queued_bytes,
            renewals: Arc::new(Semaphore::new(RENEWALS_MAX)),
            _writer: Arc::new(Writer(writer.abort_handle())),
        }
    }

    /// The way that reads take.
    #[must_use]
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// The way that writes take.
    #[must_use]
    pub fn behind(&self) -> &Redis {
        &self.behind
    }

    /// Reads what lies under `key` or its variant: one round trip. `newest`: from the primary, whatever
    /// is read from elsewhere.
    pub async fn get(
        &self,
        key: &Key,
        variant: Option<&Key>,
        now: Timestamp,
        newest: bool,
    ) -> Result<Found, Outage> {
        let name = self.names.of(key, variant);
        // While `now` is now: the wait for the answer is no difference between two clocks.
        let offset = self.redis.time_offset(name.as_bytes(), now);
        let asked = match newest {
            true => Box::pin(self.redis.get_newest(name.as_bytes())).await,
            false => self.redis.get(name.as_bytes()).await,
        };
        let frame = match asked {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(Found::Nothing),
            // Another type lies there: nothing of ours.
            Err(Outage::Protocol) => {
                self.counters.corrupt(Corrupt::Version);
                return Ok(Found::Nothing);
            }
            Err(outage) => return Err(outage),
        };
        match codec::decode(&frame, variant.unwrap_or(key), offset, &self.seal.load()) {
            Ok(Frame::Entry(mut entry)) => {
                entry.name_chunks(&name);
                Ok(Found::Entry(entry))
            }
            Ok(Frame::Vary(names)) => Ok(Found::Vary(names)),
            Err(corrupt) => {
                self.counters.corrupt(corrupt);
                Ok(Found::Nothing)
            }
        }
    }

    /// Reads the chunk that an answer with this part of the content begins with, and looks whether the
    /// others are there: one round trip. Returns whether the answer may begin.
    ///
    /// They are touched, so that a Redis that evicts what was not used lately takes all of an entry or
    /// none of it.
    pub async fn open(self: &Arc<Self>, chunks: &Arc<Chunks>, range: &Range<u64>) -> bool {
        let (first, last) = (
            chunks.index(range.start),
            chunks.index(range.end.saturating_sub(1)),
        );
        let mut both = redis::pipe();
        both.cmd("GET").arg(chunks.name(first));
        let touch = both.cmd("TOUCH");
        let mut touched = 0;
        for index in (first..=last).take(TOUCHED_MAX) {
            touch.arg(chunks.name(index));
            touched += 1;
        }
        let answers = self.redis.pipeline("get", &both).await;
        let read = match <[_; 2]>::try_from(answers) {
            Ok([Ok(Value::BulkString(frame)), Ok(Value::Int(there))]) if there == touched => {
                chunks.read(&frame.into(), first, &self.seal.load())
            }
            Ok([Ok(Value::BulkString(_) | Value::Nil), Ok(Value::Int(_))]) => Err(Corrupt::Missing),
            // Another type lies there.
            Ok([Err(Outage::Protocol), _]) => Err(Corrupt::Version),
            _ => return false,
        };
        match read {
            Ok(content) => {
                chunks.open(first, content);
                true
            }
            Err(corrupt) => {
                self.spoil(chunks, corrupt);
                false
            }
        }
    }

    /// Reads one chunk of an answer that has begun and goes on to the chunk `last`: later than a request
    /// waits for Redis, but not for ever. Where what is still to be read would end soon, it stays as long
    /// as a reader has who has just begun, so that a slow client is not cut.
    pub(super) async fn chunk(
        self: &Arc<Self>,
        chunks: &Arc<Chunks>,
        index: u32,
        last: u32,
    ) -> Result<Bytes, Gone> {
        let name = chunks.name(index);
        let mut both = redis::pipe();
        both.cmd("GET").arg(&name).cmd("PTTL").arg(&name);
        let begun = Instant::now();
        let corrupt = loop {
            let mut answers = self.redis.pipeline("get", &both).await.into_iter();
            match answers.next() {
                Some(Ok(Value::BulkString(frame))) => {
                    match chunks.read(&frame.into(), index, &self.seal.load()) {
                        Ok(content) => {
                            if let Some(Ok(Value::Int(left))) = answers.next()
                                && u64::try_from(left).is_ok_and(|left| left < millis(ENDS_SOON))
                            {
                                let end = last.min(index.saturating_add(TOUCHED_MAX as u32));
                                let next = index + 1..end.saturating_add(1);
                                self.let_go(chunks, next, READERS_TIME);
                            }
                            return Ok(content);
                        }
                        Err(corrupt) => break corrupt,
                    }
                }
                // What is on its way into Redis may come late to where it is read.
                Some(Ok(Value::Nil)) if chunks.is_filling() && begun.elapsed() < CHUNK_TIME => {
                    tokio::time::sleep(CHUNK_PAUSE).await;
                }
                Some(Ok(Value::Nil)) => break Corrupt::Missing,
                Some(Ok(_) | Err(Outage::Protocol)) => break Corrupt::Version,
                Some(Err(_)) if begun.elapsed() < CHUNK_TIME => {
                    tokio::time::sleep(CHUNK_PAUSE).await;
                }
                Some(Err(_)) | None => return Err(Gone),
            }
        };
        self.spoil(chunks, corrupt);
        Err(Gone)
    }

    /// The entry of these chunks is of no use: counted, and taken away behind, unless another has taken
    /// its place.
    fn spoil(self: &Arc<Self>, chunks: &Arc<Chunks>, corrupt: Corrupt) {
        self.counters.corrupt(corrupt);
        let (tier, chunks) = (Arc::clone(self), Arc::clone(chunks));
        tokio::spawn(async move {
            let Ok(Some(frame)) = tier.behind.get(chunks.name.as_bytes()).await else {
                return;
            };
            let found = chunks_of(&frame, &chunks.key, &chunks.name, &tier.seal.load());
            if found.is_some_and(|found| found.generation == chunks.generation) {
                let mut del = redis::cmd("DEL");
                del.arg(&chunks.name);
                // It ends by itself, too.
                let _ = tier.behind.query("del", &del).await;
            }
        });
    }

    /// Writes one chunk. Returns whether Redis has it.
    pub(super) async fn put_chunk(&self, name: &str, frame: &[u8], life: Duration) -> bool {
        let mut set = redis::cmd("SET");
        set.arg(name).arg(frame).arg("PX").arg(millis(life));
        let until = Instant::now() + self.behind.patience();
        let outage = loop {
            match self.behind.query("set", &set).await {
                Ok(_) => break None,
                // Other bodies are on their way.
                Err(Outage::Saturated) if Instant::now() < until => {
                    tokio::time::sleep(CHUNK_PAUSE).await;
                }
                Err(outage) => break Some(outage),
            }
        };
        self.behind.wrote(outage);
        outage.is_none()
    }

    /// Writes the value of an entry whose chunks are written, and lets the chunks of the one go in whose
    /// place it is. Returns whether Redis has it.
    pub(super) async fn put_chunked(
        &self,
        filling: &Filling,
        entry: &Entry,
        now: Timestamp,
    ) -> bool {
        let (key, variant) = filling.place();
        // Not what it was when its first chunk was written: that would end before it.
        let life = entry.keep(now).min(TTL_MAX);
        if millis(life) == 0 {
            return false;
        }
        let name = self.names.of(&key, variant.as_ref());
        let bound_to = variant.unwrap_or(key);
        let mut batch = redis::pipe();
        batch.cmd("GET").arg(&name);
        let (seal, life) = (self.seal.load_full(), millis(life));
        if variant.is_some() {
            let names: Vec<_> = entry.vary().names().cloned().collect();
            let marker = codec::encode_vary(&names, &key, &seal);
            let set = batch.cmd("SET").arg(self.names.of(&key, None)).arg(marker);
            set.arg("PX").arg(life);
        }
        let offset = self.redis.time_offset(name.as_bytes(), now);
        let frame = codec::encode(entry, &bound_to, offset, &seal);
        (batch.cmd("SET").arg(&name).arg(frame)).arg("PX").arg(life);
        let mut answers = self.behind.pipeline("set", &batch).await.into_iter();
        let replaced = answers.next();
        // What lies there may be of another type: that refuses nothing.
        let outage = answers.find_map(Result::err);
        self.behind.wrote(outage);
        if outage.is_none()
            && let Some(Ok(Value::BulkString(frame))) = replaced
            && let Some(chunks) = chunks_of(&frame.into(), &bound_to, &name, &seal)
        {
            self.let_go(&chunks, 0..chunks.count(), READERS_TIME);
        }
        outage.is_none()
    }

    /// Leaves these chunks to end after `life`, when nobody is reading
    /// them any more.
    pub(super) fn let_go(&self, chunks: &Arc<Chunks>, indexes: Range<u32>, life: Duration) {
        if !indexes.is_empty() {
            let chunks = Arc::clone(chunks);
            // Dropped where there is no room: they end by themselves, later.
            let _ = self.queue.try_send(Write::LetGo {
                chunks,
                indexes,
                life,
            });
        }
    }

    /// Lets the chunks go of what lies under `key` and its `variants`.
    async fn let_chunks_go(&self, key: &Key, variants: &[Key]) {
        let names = std::iter::once((self.names.of(key, None), key));
        let of_variants = variants.iter().map(|it| (self.names.of(key, Some(it)), it));
        let names: Vec<_> = names.chain(of_variants).collect();
        let mut beginnings = redis::pipe();
        for (name, _) in &names {
            beginnings
                .cmd("GETRANGE")
                .arg(name)
                .arg(0)
                .arg(codec::KIND_AT);
        }
        let beginnings = self.behind.pipeline("get", &beginnings).await;
        for ((name, bound_to), beginning) in names.iter().zip(beginnings) {
            if let Ok(Value::BulkString(beginning)) = beginning
                && codec::is_chunked(&beginning)
                && let Ok(Some(frame)) = self.behind.get(name.as_bytes()).await
                && let Some(chunks) = chunks_of(&frame, bound_to, name, &self.seal.load())
            {
                self.let_go(&chunks, 0..chunks.count(), READERS_TIME);
            }
        }
    }

    /// How values are sealed.
    pub(super) fn seal(&self) -> Guard<Arc<Seal>> {
        self.seal.load()
    }

    /// How keys are called.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// A body of which nothing more is stored.
    pub(super) fn gave_up(&self, _: GivenUp) {
        self.counters.write_dropped();
    }

    /// Hands an entry to the writer, or drops it and counts that. Never waits. Returns whether there
    /// is hope: a full Redis is tried now and then, and seldom takes it.
    pub fn put(&self, key: Key, variant: Option<Key>, entry: Arc<Entry>, now: Timestamp) -> bool {
        self.write(key, variant, entry, now, false)
    }

    /// The same of an entry that lies there already and now lasts longer. What has gone meanwhile is not
    /// brought back, nor is what another sidecar has fetched since displaced; returns whether that lies there.
    pub async fn renew(
        &self,
        key: Key,
        variant: Option<Key>,
        entry: Arc<Entry>,
        now: Timestamp,
    ) -> bool {
        let Ok(_one_of_few) = self.renewals.try_acquire() else {
            // Another use will do it.
            self.counters.write_dropped();
            return false;
        };
        let name = self.names.of(&key, variant.as_ref());
        let offset = self.behind.time_offset(name.as_bytes(), now);
        let Ok(Some(frame)) = self.behind.get(name.as_bytes()).await else {
            return false;
        };
        let bound_to = variant.unwrap_or(key);
        let Ok(Frame::Entry(found)) = codec::decode(&frame, &bound_to, offset, &self.seal.load())
        else {
            return false;
        };
        if found.received() > entry.received() + CLOCKS_APART_MAX {
            return true;
        }
        self.write(key, variant, entry, now, true);
        false
    }

    fn write(
        &self,
        key: Key,
        variant: Option<Key>,
        entry: Arc<Entry>,
        now: Timestamp,
        renews: bool,
    ) -> bool {
        let bytes = entry.bytes();
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let name = self.names.of(&key, None);
        let write = Write::Put {
            key,
            variant,
            entry,
            now,
            offset: self.redis.time_offset(name.as_bytes(), now),
            renews,
        };
        if !self.behind.is_up()
            || queued + bytes > QUEUE_BYTES_MAX
            || self.queue.try_send(write).is_err()
        {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counters.write_dropped();
            return false;
        }
        !self.behind.is_full()
    }

    /// Removes names behind the writes that wait already; returns when that is done or given up.
    pub async fn remove(&self, key: Key, variants: Vec<Key>) {
        self.let_chunks_go(&key, &variants).await;
        let (done, wait) = oneshot::channel();
        let write = Write::Remove {
            key,
            variants,
            done,
        };
        if self.queue.try_send(write).is_ok() {
            let _ = tokio::time::timeout(self.behind.patience(), wait).await;
        }
    }

    /// Returns when the writes that wait now are done or given up.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Write::Flush { done }).await.is_ok() {
            let _ = wait.await;
        }
    }
}

#[derive(Debug)]
enum Write {
    Put {
        key: Key,
        variant: Option<Key>,
        entry: Arc<Entry>,
        now: Timestamp,
        /// How far Redis's clock was ahead of ours at `now`.
        offset: i64,
        /// Only where it lies there still.
        renews: bool,
    },
    LetGo {
        chunks: Arc<Chunks>,
        indexes: Range<u32>,
        life: Duration,
    },
    Remove {
        key: Key,
        variants: Vec<Key>,
        done: oneshot::Sender<()>,
    },
    Flush {
        done: oneshot::Sender<()>,
    },
}

/// Ends the writer with the last handle.
#[derive(Debug)]
struct Writer(tokio::task::AbortHandle);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Writing {
    redis: Redis,
    names: Arc<Names>,
    seal: Arc<ArcSwap<Seal>>,
    purges: Arc<PurgeLog>,
    counters: Arc<Counters>,
    queued_bytes: Arc<AtomicUsize>,
    paused_until: Option<Instant>,
    pause: Duration,
}

impl Writing {
    async fn run(mut self, mut waiting: mpsc::Receiver<Write>) {
        while let Some(first) = waiting.recv().await {
            let mut batch = redis::pipe();
            let mut sets = 0_usize;
            let mut bytes = 0;
            let mut done = Vec::new();
            let mut next = Some(first);
            while let Some(write) = next.take() {
                bytes += self.add(&mut batch, write, &mut sets, &mut done);
                if batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
                    next = waiting.try_recv().ok();
                }
            }
            let lost = self.send(batch).await.min(sets);
            (0..lost).for_each(|_| self.counters.write_dropped());
            for done in done {
                // Whoever waited for it may have given up.
                let _ = done.send(());
            }
        }
    }

    /// Adds one write to the batch; returns its bytes.
    fn add(
        &self,
        batch: &mut redis::Pipeline,
        write: Write,
        sets: &mut usize,
        done: &mut Vec<oneshot::Sender<()>>,
    ) -> usize {
        match write {
            Write::Put {
                key,
                variant,
                entry,
                now,
                offset,
                renews,
            } => {
                let bytes = entry.bytes();
                self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                let life = entry.keep(now).min(TTL_MAX);
                // Redis takes no life of nothing; and what is purged already needs no place.
                if millis(life) == 0
                    || self
                        .purges
                        .verdict(entry.subject(), Since::Local(entry.checked()))
                        == Verdict::Hard
                {
                    return 0;
                }
                *sets += 1;
                // The chunks of what is only freshened stay, and live longer than it.
                for name in entry.chunks().into_iter().flat_map(|chunks| chunks.names()) {
                    let life = millis(life + READERS_TIME);
                    batch.cmd("PEXPIRE").arg(name).arg(life);
                }
                let life = millis(life);
                let seal = self.seal.load();
                let mut set = |variant: Option<&Key>, frame: Vec<u8>| {
                    let set = batch
                        .cmd("SET")
                        .arg(self.names.of(&key, variant))
                        .arg(frame);
                    set.arg("PX").arg(life);
                    if renews {
                        set.arg("XX");
                    }
                };
                if variant.is_some() {
                    // First: if what follows never comes, it leads nowhere, and that is a miss.
                    let names: Vec<_> = entry.vary().names().cloned().collect();
                    set(None, codec::encode_vary(&names, &key, &seal));
                }
                let at = variant.as_ref();
                set(at, codec::encode(&entry, at.unwrap_or(&key), offset, &seal));
                bytes
            }
            Write::LetGo {
                chunks,
                indexes,
                life,
            } => {
                let life = millis(life);
                for index in indexes {
                    batch.cmd("PEXPIRE").arg(chunks.name(index)).arg(life);
                }
                0
            }
            Write::Remove {
                key,
                variants,
                done: sender,
            } => {
                let names = std::iter::once(self.names.of(&key, None))
                    .chain(variants.iter().map(|v| self.names.of(&key, Some(v))));
                let del = batch.cmd("DEL");
                names.for_each(|name| {
                    del.arg(name);
                });
                done.push(sender);
                0
            }
            Write::Flush { done: sender } => {
                done.push(sender);
                0
            }
        }
    }

    /// Sends a batch, and what of it was not taken again where that may help. Returns how many commands
    /// Redis did not take.
    async fn send(&mut self, mut batch: redis::Pipeline) -> usize {
        if self
            .paused_until
            .is_some_and(|until| Instant::now() < until)
        {
            return batch.len();
        }
        let mut pause = TRY_PAUSE;
        for _ in 1..TRIES_MAX {
            match self.try_to_send(&mut batch).await {
                Some(outage) if is_worth_a_try(outage) => {
                    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause *= 2;
                }
                _ => return batch.len(),
            }
        }
        self.try_to_send(&mut batch).await;
        batch.len()
    }

    /// Sends a batch once; what was not taken stays in it. Returns why, where that is so.
    async fn try_to_send(&mut self, batch: &mut redis::Pipeline) -> Option<Outage> {
        if batch.is_empty() {
            return None;
        }
        let answers = self.redis.pipeline("set", batch).await;
        let outages = || answers.iter().filter_map(|answer| answer.as_ref().err());
        // What may help on another try is told first.
        let outage = outages().copied();
        let outage = outage.max_by_key(|outage| is_worth_a_try(*outage));
        self.redis.wrote(outage);
        match outage {
            None => {
                self.paused_until = None;
                self.pause = REFUSED_PAUSE;
            }
            Some(Outage::Full | Outage::ReadOnly | Outage::Denied | Outage::Forbidden) => {
                self.paused_until = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(REFUSED_PAUSE_MAX);
            }
            Some(_) => {}
        }
        let mut left = redis::pipe();
        for (command, answer) in batch.cmd_iter().zip(&answers) {
            if answer.is_err() {
                left.add_command(command.clone());
            }
        }
        *batch = left;
        outage
    }
}

/// Whether a write that ended so may be taken a moment later.
const fn is_worth_a_try(outage: Outage) -> bool {
    !matches!(
        outage,
        Outage::Full
            | Outage::ReadOnly
            | Outage::Denied
            | Outage::Forbidden
            | Outage::Open
            | Outage::Protocol
    )
}

/// Where the content lies of the chunked entry with this `frame`, which was found under `name`.
fn chunks_of(frame: &Bytes, key: &Key, name: &str, seal: &Seal) -> Option<Arc<Chunks>> {
    match codec::decode(frame, key, 0, seal) {
        Ok(Frame::Entry(mut entry)) => {
            entry.name_chunks(name);
            entry.chunks().cloned()
        }
        _ => None,
    }
}

pub(super) fn millis(life: Duration) -> u64 {
    u64::try_from(life.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_lies_in_the_slot_of_its_key() {
        let names = Names::new("exodrive");
        let key = Key::from_bytes([0xab; 16]);
        let variant = Key::from_bytes([0xcd; 16]);
        let (key_name, variant_name) = (names.of(&key, None), names.of(&key, Some(&variant)));
        assert_eq!(key_name, format!("exodrive:1:{{{}}}", "ab".repeat(16)));
        assert_eq!(variant_name, format!("{key_name}:{}", "cd".repeat(16)));
    }
}
