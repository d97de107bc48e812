//! The store: memory in front of Redis, and the purge log that both obey.
//!
//! Memory is synchronous and certain; Redis is asynchronous and may be out. An outage is a miss on
//! the way in and nothing at all on the way out.

pub mod chunks;
pub mod codec;
pub mod entry;
mod filling;
pub mod lease;
mod lz4;
pub mod memory;
mod preview;
pub mod purge;
pub mod redis_tier;
pub mod seal;

#[cfg(test)]
mod million;
#[cfg(test)]
pub(crate) mod testing;

pub use chunks::{ChunkReader, Chunks, Gone};
pub use codec::Corrupt;
pub use entry::{Entry, Label};
pub use filling::{Filling, GivenUp};
pub use lease::{Bid, Holder, Lease, Taken, Waiter};
pub use preview::{Hits, Preview};
pub use purge::{Position, Purge, PurgeOutcome, Scope};

use crate::cgroup;
use crate::clock::Clock;
use crate::config::settings::WHOLE_BYTES_MAX;
use crate::redis_client::Redis;
use crate::secret;
use crate::semantics::{Key, KeyBuilder, Reason, Stored, Timestamp, Vary, content};
use crate::telemetry::Recorder;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::VARY;
use http::{HeaderMap, HeaderName, HeaderValue};
use lease::Leases;
use memory::{Held, Memory, VARIANTS_MAX, VaryRule};
use purge::{LogId, PurgeLog, Since, Subject, Verdict};
use redis_tier::{Found, Names, RedisTier};
use seal::Seal;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Large bodies that are stored at a time, each with somewhat more than 1 MiB at hand; one more streams
/// through.
pub const FILLS_MAX: usize = 64;
/// How far in the future a response may seem to have been received: what reading two clocks over a
/// network may be wrong by.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(1);
/// What Redis holds of what somebody has begun with,
const CLAIMED: &[u8] = b"0";
/// and of what is settled.
const SETTLED: &[u8] = b"1";

/// Whose a thing is that one of the sidecars is to do; see [`Cache::claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This one's.
    Ours,
    /// Another has begun with it.
    Theirs,
    /// It is done.
    Settled,
}

/// Which tier an entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// This process.
    Memory,
    /// Redis.
    Redis,
}

/// What the store holds for a request.
#[derive(Debug)]
pub enum Lookup {
    /// A response that matches key and Vary and is not (hard) purged. It may be stale.
    Found {
        /// It.
        entry: Arc<Entry>,
        /// Where.
        tier: Tier,
        /// Whether a soft purge made it stale.
        softly_purged: bool,
    },
    /// Nothing, and why: cold, purged, vary, evicted.
    Absent(Reason),
}

/// The store of one worker: memory and purge log are shared by all workers, connections are not.
#[derive(Clone, Debug)]
pub struct Cache {
    shared: Arc<Shared>,
    redis: Option<Arc<RedisTier>>,
}

#[derive(Debug)]
struct Shared {
    memory: Memory,
    /// Bytes of the largest content that is kept in one piece.
    whole_max: u64,
    names: Arc<Names>,
    /// How entries are sealed; a reload may change it.
    seal: Arc<ArcSwap<Seal>>,
    /// The largest entry, in bytes.
    object_max: u64,
    /// Places for large content that is being stored.
    fills: Arc<Semaphore>,
    purges: Arc<PurgeLog>,
    leases: Arc<Leases>,
    counters: Arc<Counters>,
}

/// What the store counts beside hits and misses.
#[derive(Debug, Default)]
pub struct Counters {
    corrupt: [AtomicU64; Corrupt::ALL.len()],
    writes_dropped: AtomicU64,
    purged: [AtomicU64; 2],
}

impl Counters {
    fn corrupt(&self, corrupt: Corrupt) {
        self.corrupt[corrupt as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn found_purged(&self, tier: Tier) {
        self.purged[tier as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn write_dropped(&self) {
        self.writes_dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// The state of the store, for metrics and health pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// Entries in memory.
    pub entries: usize,
    /// Bytes in memory, overheads included.
    pub bytes: u64,
    /// Bytes that memory may hold now.
    pub bytes_max: u64,
    /// Entries that had to leave memory for want of room.
    pub evicted: u64,
    /// Values in Redis that could not be read, by reason.
    pub corrupt: Vec<(Corrupt, u64)>,
    /// Writes to Redis given up.
    pub writes_dropped: u64,
    /// Responses that were asked for and found to be purged (hard), in memory and in Redis.
    pub purged: [u64; 2],
    /// Purges that the other sidecars have not been told of yet.
    pub purges_queued: usize,
    /// Whether the purge log is being followed; without it Redis holds nothing that can be trusted.
    pub log_followed: bool,
    /// Since when it is not known here what other sidecars have purged, where it is not.
    pub cut_off_since: Option<Timestamp>,
}

impl Cache {
    /// A store without Redis: `memory` bytes (0: none), bodies of up to `whole_max` bytes in one piece.
    /// Clones share it.
    #[must_use]
    pub fn new(memory: u64, namespace: &str, whole_max: u64) -> Self {
        // Beside its body an entry has a head, of at most some tens of KiB.
        let object_max = whole_max.saturating_add(64 * 1024);
        let seal = Seal::new(None, &[], bytes_max(object_max));
        let seal = Arc::new(ArcSwap::from_pointee(seal));
        Self {
            shared: Arc::new(Shared {
                memory: Memory::new(memory, object_max),
                // What no tier could keep is not gathered either.
                whole_max: whole_max.min(memory.max(WHOLE_BYTES_MAX)),
                names: Arc::new(Names::new(namespace)),
                seal: Arc::clone(&seal),
                object_max,
                fills: Arc::new(Semaphore::new(FILLS_MAX)),
                purges: Arc::new(PurgeLog::new(namespace, seal)),
                leases: Arc::new(Leases::new(namespace)),
                counters: Arc::default(),
            }),
            redis: None,
        }
    }

    /// The same store as a worker sees it that has this Redis, by one way for reads (`redis`) and
    /// one for writes (`behind`). Must be called on that worker's runtime: writes behind happen there.
    #[must_use]
    pub fn with_redis(&self, redis: Redis, behind: Redis) -> Self {
        let shared = Arc::clone(&self.shared);
        let tier = RedisTier::start(
            redis,
            behind,
            Arc::clone(&shared.names),
            Arc::clone(&shared.seal),
            Arc::clone(&shared.purges),
            Arc::clone(&shared.counters),
        );
        Self {
            shared,
            redis: Some(Arc::new(tier)),
        }
    }

    /// Bytes of the largest content that is kept in one piece; what is larger is stored in chunks, by
    /// [`Cache::fill`], or not at all.
    #[must_use]
    pub fn whole_max(&self) -> u64 {
        self.shared.whole_max
    }

    /// Whether content may be stored in chunks now, as far as is known without waiting.
    #[must_use]
    pub fn takes_chunks(&self) -> bool {
        let is_up = |tier: &Arc<RedisTier>| tier.redis().is_up() && tier.behind().is_up();
        self.redis.as_ref().is_some_and(is_up) && self.shared.purges.is_current()
    }

    /// Begins to store large content under `key`, of a response with the head `stored`. `kept` is told
    /// how many bytes of it Redis has, each time that it is more. `None` where that cannot be done now.
    #[must_use]
    pub fn fill(
        &self,
        key: &Key,
        stored: &Stored,
        now: Timestamp,
        kept: impl Fn(u64) + Send + Sync + 'static,
    ) -> Option<Filling> {
        let tier = self.redis.as_ref().filter(|_| self.takes_chunks())?;
        let variant = (!stored.vary.is_empty()).then(|| key.variant(&digestible(&stored.vary)));
        let says = |(name, value): (&HeaderName, &HeaderValue)| {
            content::says_compressed(name.as_ref(), value.as_bytes())
        };
        let manner = (stored.keep(now), !stored.headers.iter().any(says));
        let tier = Arc::clone(tier);
        let room = Arc::clone(&self.shared.fills).try_acquire_owned().ok()?;
        let kept = Arc::new(kept);
        Some(Filling::begin(tier, *key, variant, manner, kept, room))
    }

    /// Nothing more is stored of some large content: counted.
    pub fn gave_up(&self, given_up: GivenUp) {
        if let Some(tier) = &self.redis {
            tier.gave_up(given_up);
        }
    }

    /// Keeps what was filled under what `entry` makes of its chunks. Waits until Redis has it, or a few
    /// times its timeout; what was purged meanwhile is not kept. Returns whether it is.
    pub async fn settle(
        &self,
        mut filling: Filling,
        entry: impl FnOnce(Arc<Chunks>) -> Entry,
        now: Timestamp,
    ) -> bool {
        let Some(tier) = &self.redis else {
            return false;
        };
        let chunks = match filling.close().await {
            Ok(chunks) => chunks,
            Err(given_up) => {
                tier.gave_up(given_up);
                return false;
            }
        };
        let entry = entry(chunks);
        if self.is_purged(&entry) {
            return false;
        }
        if !tier.put_chunked(&filling, &entry, now).await {
            tier.gave_up(GivenUp);
            return false;
        }
        let (key, variant) = filling.place();
        filling.settle();
        if let Some(variant) = variant {
            self.remember_variant(&key, &entry.vary(), variant);
        }
        // What memory has is older.
        self.shared.memory.remove(&variant.unwrap_or(key));
        true
    }

    /// Reads the beginning of this part of a chunked entry's content. `false`: the entry is of no use,
    /// and should be taken for absent.
    pub async fn open(&self, chunks: &Arc<Chunks>, range: &Range<u64>) -> bool {
        match &self.redis {
            Some(tier) => tier.open(chunks, range).await,
            None => false,
        }
    }

    /// Reads a part of a chunked entry's content, or of one that is being filled. Must be called on
    /// this worker's runtime, as it must be read there. `None` without Redis.
    #[must_use]
    pub fn read(&self, chunks: &Arc<Chunks>, range: Range<u64>) -> Option<ChunkReader> {
        let tier = Arc::clone(self.redis.as_ref()?);
        Some(ChunkReader::new(tier, Arc::clone(chunks), range))
    }

    /// From now on entries with more than `compress_above` bytes of content are compressed in Redis
    /// where that pays, and everything there is encrypted with the first of `keys` and read with each.
    pub fn seal_with(&self, compress_above: Option<u64>, keys: &[secret::Key]) {
        let seal = Seal::new(compress_above, keys, bytes_max(self.shared.object_max));
        self.shared.seal.store(Arc::new(seal));
    }

    /// `text` as it may lie in Redis, to be read with [`Cache::open_sealed`] by who knows what it is
    /// `bound_to`: encrypted where there is a key. `None` where that cannot be done.
    #[must_use]
    pub fn seal(&self, text: &[u8], bound_to: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = vec![0];
        sealed[0] = (self.shared.seal.load()).close(&mut sealed, &[text], false, bound_to);
        (sealed.len() > 1).then_some(sealed)
    }

    /// What [`Cache::seal`] made of a text; `None` for what it did not make.
    #[must_use]
    pub fn open_sealed(&self, mut sealed: Bytes, bound_to: &[u8]) -> Option<Bytes> {
        let flags = sealed.first().copied()?;
        let block = sealed.split_off(1);
        let opened = self.shared.seal.load().open(block, flags, bound_to);
        opened.ok()
    }

    /// Follows the purge log for as long as it is polled. Once a process, on the background runtime;
    /// until it has caught up, nothing is read from Redis.
    pub async fn follow_purges(
        &self,
        redis: &Redis,
        clock: &Clock,
        recorder: &Recorder,
    ) -> Infallible {
        self.shared.purges.follow(redis, clock, recorder).await
    }

    /// Waits until everything that is stored has turned out to be of no use: Redis has lost it, and with it what
    /// was purged. For one task a process.
    pub async fn lost(&self) {
        self.shared.purges.lost().await;
    }

    /// From now on memory is served so long after it was last known to be good, where it cannot be heard
    /// what other sidecars purge; `None`: as long as it is fresh.
    pub fn trust(&self, trust: Option<Duration>) {
        self.shared.purges.trust(trust);
    }

    /// What is held for `key` and the Vary-selecting fields of `request`.
    ///
    /// Memory first. Redis is asked, once, only where memory has nothing fresh; what it has goes
    /// into memory.
    pub async fn lookup(&self, key: &Key, request: &HeaderMap, now: Timestamp) -> Lookup {
        let (here, rule) = self.in_memory(key, request, now);
        if let Lookup::Found {
            entry,
            softly_purged: false,
            ..
        } = &here
            && entry.is_fresh(now)
        {
            return here;
        }
        let Some(tier) = &self.redis else { return here };
        if !tier.redis().is_up() || !self.shared.purges.is_current() {
            return here;
        }
        let there = self.fetch(tier, key, rule, request, now, false).await;
        better(here, there)
    }

    /// Gives room in memory back where the process has nearly all that it may have, and takes it again
    /// where it has not; see [`memory::bound`]. To be called every second or so. Returns the bytes that
    /// memory might hold before, and may from now on.
    pub fn fit_memory(&self, process: Option<cgroup::Memory>) -> (u64, u64) {
        self.shared.memory.fit(process)
    }

    /// Whether [`Cache::peek`] ever finds anything.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        self.shared.memory.keeps_entries()
    }

    /// The same from memory alone, which costs no wait.
    #[must_use]
    pub fn peek(&self, key: &Key, request: &HeaderMap, now: Timestamp) -> Lookup {
        self.in_memory(key, request, now).0
    }

    /// The responses that memory holds beside each other under `key`, selected by what they vary on;
    /// none where nothing varies.
    #[must_use]
    pub fn variants(&self, key: &Key, now: Timestamp) -> Vec<Arc<Entry>> {
        let Some(Held::Vary(rule)) = self.shared.memory.get(key) else {
            return Vec::new();
        };
        let known = rule.variants().clone();
        let valid = |at: &Key| match self.shared.memory.get(at)? {
            Held::Entry(entry) => match self.judge(at, entry, now) {
                Lookup::Found {
                    entry,
                    softly_purged: false,
                    ..
                } => Some(entry),
                Lookup::Found { .. } | Lookup::Absent(_) => None,
            },
            Held::Vary(_) => None,
        };
        known.iter().filter_map(valid).collect()
    }

    /// The purge log's position now; read it before a fetch begins.
    #[must_use]
    pub fn position(&self) -> Position {
        self.shared.purges.position()
    }

    /// Keeps an entry: in memory at once, in Redis behind. Never waits for Redis. What was purged
    /// while it was fetched is not kept: it would only displace what was fetched since.
    ///
    /// Returns whether any tier keeps it, as far as is known without waiting: a Redis that is away
    /// or full does not.
    pub fn store(&self, key: &Key, entry: Arc<Entry>, now: Timestamp) -> bool {
        if self.is_purged(&entry) {
            return false;
        }
        let variant = (!entry.is_for_all()).then(|| {
            let vary = entry.vary();
            let variant = key.variant(&digestible(&vary));
            self.remember_variant(key, &vary, variant);
            variant
        });
        let here = self.keep(variant.unwrap_or(*key), &entry);
        let there = match &self.redis {
            Some(tier) if self.shared.purges.is_current() => tier.put(*key, variant, entry, now),
            _ => false,
        };
        here || there
    }

    /// Puts `renewed` in the place of `entry`, which has been found under `key` and now lasts longer: in
    /// memory at once, in Redis behind. What is in neither place any more is not brought back, and what
    /// another sidecar has fetched since stays: it takes the place in memory, too. Must be called on this
    /// worker's runtime.
    pub fn renew(&self, key: &Key, entry: &Arc<Entry>, renewed: Arc<Entry>, now: Timestamp) {
        let variant = (!renewed.is_for_all()).then(|| key.variant(&digestible(&renewed.vary())));
        let at = variant.unwrap_or(*key);
        if let Some(Held::Entry(held)) = self.shared.memory.get(&at)
            && Arc::ptr_eq(&held, entry)
        {
            self.keep(at, &renewed);
        }
        if let Some(tier) = &self.redis
            && tier.behind().is_up()
            && self.shared.purges.is_current()
        {
            let (tier, shared, key) = (Arc::clone(tier), Arc::clone(&self.shared), *key);
            tokio::spawn(async move {
                let is_outdated = tier.renew(key, variant, Arc::clone(&renewed), now);
                if is_outdated.await {
                    shared.memory.remove_this(&at, &renewed);
                }
            });
        }
    }

    /// Drops what is held under `key`, in both tiers, with the variants known here. With Redis away
    /// it is dropped here only: what must not come back is purged instead.
    pub async fn remove(&self, key: &Key) {
        let mut variants = Vec::new();
        if let Some(Held::Vary(rule)) = self.shared.memory.get(key) {
            variants.clone_from(&rule.variants());
            variants
                .iter()
                .for_each(|variant| self.shared.memory.remove(variant));
        }
        self.shared.memory.remove(key);
        if let Some(tier) = &self.redis {
            tier.remove(*key, variants).await;
        }
    }

    /// Purges: here at once, for the other sidecars through the log. Returns when the log has it,
    /// or says that it is queued. The log counts by places and not by moments, so that no clock can
    /// undo a purge.
    pub async fn purge(&self, mut purges: Vec<Purge>) -> PurgeOutcome {
        let paths: Vec<_> = purges.iter().filter_map(Purge::of_path).collect();
        purges.extend(paths);
        let redis = self.redis.as_ref().map(|tier| tier.behind());
        self.shared.purges.purge(purges, redis).await
    }

    /// The last place of the purge log as Redis has it now; `None` where it does not tell.
    pub async fn log_end(&self) -> Option<LogId> {
        let redis = self.redis.as_ref()?.behind();
        self.shared.purges.end(redis).await.ok()
    }

    /// Whether the log has had something behind this place that does at least what `purge` would, as far
    /// as it has been replayed here.
    #[must_use]
    pub fn is_logged(&self, purge: &Purge, since: LogId) -> bool {
        self.shared.purges.logged(purge) > since
    }

    /// The name of the stream for what asks for purges and cannot be understood.
    #[must_use]
    pub fn dead_purges(&self) -> String {
        self.shared.names.dead_purges()
    }

    /// Whose `what` is among the sidecars of this namespace: the first to ask has it for so long, until it
    /// is settled. `None` where Redis does not tell.
    pub async fn claim(&self, what: &str, life: Duration) -> Option<Claim> {
        let redis = self.redis.as_ref()?.behind();
        let name = self.shared.names.once(what);
        let mut claim = redis::cmd("SET");
        claim
            .arg(&name)
            .arg(CLAIMED)
            .arg("NX")
            .arg("PX")
            .arg(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        match redis.query("claim", &claim).await {
            Ok(redis::Value::Okay) => return Some(Claim::Ours),
            Ok(redis::Value::Nil) => {}
            Ok(_) | Err(_) => return None,
        }
        let mut look = redis::cmd("GET");
        look.arg(name);
        match redis.query("claim", &look).await {
            Ok(redis::Value::BulkString(value)) if value == SETTLED => Some(Claim::Settled),
            // Where it has just ended, the next to ask has it.
            Ok(_) => Some(Claim::Theirs),
            Err(_) => None,
        }
    }

    /// Whoever claims `what` in the next so long finds it settled.
    pub async fn settled(&self, what: &str, life: Duration) {
        let Some(redis) = self.redis.as_ref().map(|tier| tier.behind()) else {
            return;
        };
        let mut settle = redis::cmd("SET");
        settle
            .arg(self.shared.names.once(what))
            .arg(SETTLED)
            .arg("PX")
            .arg(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        if let Err(outage) = redis.query("claim", &settle).await {
            tracing::debug!(
                kind = outage.word(),
                "others do not hear that it is settled"
            );
        }
    }

    /// What each of these purges would hit, of what memory holds now. Takes a while where that is much:
    /// not for a thread that others wait for.
    #[must_use]
    pub fn would_hit(&self, purges: &[Purge]) -> Preview {
        preview::preview(&self.shared.memory, &self.shared.purges, purges)
    }

    /// Gives Redis what waits for it: this worker's writes, and the purges that the log has not
    /// taken. Ends after `bound`, whatever is left; what that is, the log says.
    pub async fn flush(&self, bound: Duration) {
        let Some(tier) = &self.redis else { return };
        let purges = &self.shared.purges;
        let both = async { tokio::join!(tier.flush(), purges.flush(tier.behind())).1 };
        match tokio::time::timeout(bound, both).await {
            Ok(0) => {}
            Ok(left) => tracing::warn!(purges = left, "the other sidecars were not told of purges"),
            Err(_) => tracing::warn!(?bound, "Redis did not take in time what waited for it"),
        }
    }

    /// Sidecars of this namespace seen lately, this one included; 1 without Redis.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.shared.purges.replicas()
    }

    /// For metrics and health pages.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        let shared = &self.shared;
        let count = |at: usize| shared.counters.corrupt[at].load(Ordering::Relaxed);
        CacheStatus {
            entries: shared.memory.len(),
            bytes: shared.memory.bytes(),
            bytes_max: match shared.memory.keeps_entries() {
                true => shared.memory.in_force(),
                false => 0,
            },
            evicted: shared.memory.evicted(),
            corrupt: Corrupt::ALL.map(|c| (c, count(c as usize))).to_vec(),
            writes_dropped: shared.counters.writes_dropped.load(Ordering::Relaxed),
            purged: [0, 1].map(|tier| shared.counters.purged[tier].load(Ordering::Relaxed)),
            purges_queued: shared.purges.queued(),
            log_followed: shared.purges.is_current(),
            cut_off_since: shared.purges.cut_off_since(),
        }
    }

    /// Whether what has just been fetched was purged (hard) meanwhile.
    fn is_purged(&self, entry: &Entry) -> bool {
        let since = Since::Local(entry.checked());
        let verdict = self.shared.purges.verdict(entry.subject(), since);
        verdict == Verdict::Hard
    }

    /// What memory holds, and the key's Vary rule where it is known.
    fn in_memory(
        &self,
        key: &Key,
        request: &HeaderMap,
        now: Timestamp,
    ) -> (Lookup, Option<Arc<VaryRule>>) {
        let mut rule = None;
        let mut at = *key;
        let mut held = self.shared.memory.get(key);
        if let Some(Held::Vary(vary)) = held {
            at = vary.key(key, request);
            rule = Some(vary);
            held = self.shared.memory.get(&at);
        }
        let here = match held {
            Some(Held::Entry(entry)) if entry.matches(request) => self.judge(&at, entry, now),
            Some(Held::Entry(_)) => Lookup::Absent(Reason::Vary),
            Some(Held::Vary(_)) | None => Lookup::Absent(match rule {
                Some(_) => Reason::Vary,
                None => Reason::Cold,
            }),
        };
        (here, rule)
    }

    /// Where what is fetched for `request` under `key` belongs: with the variant that it selects, as far as is
    /// known.
    #[must_use]
    pub fn place_of(&self, key: &Key, request: &HeaderMap) -> Key {
        self.variant_of(key, request).unwrap_or(*key)
    }

    /// The same, where an answer under `key` is known to vary so.
    #[must_use]
    pub fn place_by(key: &Key, vary: &Vary, request: &HeaderMap) -> Key {
        VaryRule::new(vary.names().cloned().collect()).key(key, request)
    }

    /// The key of the variant that `request` selects, where it is known what `key` varies on.
    fn variant_of(&self, key: &Key, request: &HeaderMap) -> Option<Key> {
        match self.shared.memory.get(key) {
            Some(Held::Vary(rule)) => Some(rule.key(key, request)),
            _ => None,
        }
    }

    /// Whether an entry in memory may be shown.
    fn judge(&self, at: &Key, mut entry: Arc<Entry>, now: Timestamp) -> Lookup {
        if entry.is_dead(now) {
            self.shared.memory.remove_this(at, &entry);
            return Lookup::Absent(Reason::Expired);
        }
        let checked = entry.checked();
        let purges = &self.shared.purges;
        let mut softly_purged = false;
        if !purges.is_checked(checked) {
            let applied = purges.local();
            let known = (checked, entry.received());
            let (verdict, ended) = purges.held(entry.subject(), known, now);
            match verdict {
                Verdict::Valid if ended.is_some() => {}
                Verdict::Valid => entry.check(applied),
                Verdict::Soft => softly_purged = true,
                Verdict::Hard => {
                    self.shared.memory.remove_this(at, &entry);
                    self.shared.counters.found_purged(Tier::Memory);
                    return Lookup::Absent(Reason::Purged);
                }
            }
            if let Some(ended) = ended {
                let mut lifetime = entry.lifetime();
                lifetime.fresh = lifetime.fresh.min(lifetime.age(ended));
                entry = Arc::new(entry.lasting(&lifetime));
            }
        }
        Lookup::Found {
            entry,
            tier: Tier::Memory,
            softly_purged,
        }
    }

    /// Asks Redis: directly for the variant where its rule is known, else once more behind a marker.
    /// `newest`: no replica, which may be behind.
    async fn fetch(
        &self,
        tier: &RedisTier,
        key: &Key,
        mut rule: Option<Arc<VaryRule>>,
        request: &HeaderMap,
        now: Timestamp,
        newest: bool,
    ) -> Lookup {
        for _ in 0..2 {
            // Read before asking: a purge that comes while Redis answers must hit what it answers.
            let local = self.shared.purges.local();
            let variant = rule.as_ref().map(|rule| rule.key(key, request));
            let found = tier.get(key, variant.as_ref(), now, newest).await;
            if !self.shared.purges.is_current() {
                // It may come from another server than was followed when it was asked.
                return Lookup::Absent(Reason::Cold);
            }
            match found {
                Ok(Found::Entry(entry)) => {
                    if entry.is_for_all() == variant.is_some() || !entry.matches(request) {
                        return Lookup::Absent(Reason::Vary);
                    }
                    let log = entry.position().log;
                    let verdict = self.shared.purges.found(entry.subject(), log);
                    if verdict == Verdict::Hard {
                        self.shared.counters.found_purged(Tier::Redis);
                        return Lookup::Absent(Reason::Purged);
                    }
                    if entry.is_dead(now) {
                        return Lookup::Absent(Reason::Expired);
                    }
                    if entry.received() > now + CLOCKS_APART_MAX {
                        // Redis's clock has been set back: nobody can tell how old it is.
                        return Lookup::Absent(Reason::Expired);
                    }
                    let softly_purged = verdict == Verdict::Soft;
                    entry.check(local);
                    let entry = Arc::new(entry);
                    if !softly_purged {
                        self.promote(variant.unwrap_or(*key), &entry);
                    }
                    return Lookup::Found {
                        entry,
                        tier: Tier::Redis,
                        softly_purged,
                    };
                }
                Ok(Found::Vary(names)) if rule.is_none() => {
                    rule = Some(self.remember_rule(key, names));
                }
                Ok(Found::Vary(_) | Found::Nothing) if variant.is_some() => {
                    return Lookup::Absent(Reason::Vary);
                }
                _ => return Lookup::Absent(Reason::Cold),
            }
        }
        Lookup::Absent(Reason::Vary)
    }

    /// Keeps an entry in memory, but for one whose content is not there either.
    fn keep(&self, at: Key, entry: &Arc<Entry>) -> bool {
        if entry.chunks().is_some() {
            self.shared.memory.remove(&at);
            return false;
        }
        self.shared.memory.put(at, Held::Entry(Arc::clone(entry)))
    }

    /// Keeps in memory what came from Redis, unless a fetch has brought something newer meanwhile.
    fn promote(&self, at: Key, entry: &Arc<Entry>) {
        match self.shared.memory.get(&at) {
            Some(Held::Entry(held)) if held.received() > entry.received() => {}
            _ => {
                self.keep(at, entry);
            }
        }
    }

    fn remember_rule(&self, key: &Key, names: Vec<HeaderName>) -> Arc<VaryRule> {
        if let Some(Held::Vary(rule)) = self.shared.memory.get(key)
            && rule.names == names
        {
            return rule;
        }
        let rule = Arc::new(VaryRule::new(names));
        self.shared.memory.put(*key, Held::Vary(Arc::clone(&rule)));
        rule
    }

    fn remember_variant(&self, key: &Key, vary: &Vary, variant: Key) {
        let rule = self.remember_rule(key, vary.names().cloned().collect());
        let mut variants = rule.variants();
        if !variants.contains(&variant) {
            if variants.len() >= VARIANTS_MAX {
                let oldest = variants.remove(0);
                self.shared.memory.remove(&oldest);
            }
            variants.push(variant);
        }
    }
}

impl Entry {
    /// What it is purged by.
    fn subject(&self) -> Subject<'_, entry::Tags<'_>> {
        Subject {
            tags: self.tags(),
            url: self.url(),
        }
    }
}

impl VaryRule {
    fn new(names: Vec<HeaderName>) -> Self {
        let mut head = HeaderMap::with_capacity(names.len());
        for name in &names {
            head.append(VARY, HeaderValue::from(name.clone()));
        }
        Self {
            head,
            names,
            variants: Mutex::default(),
        }
    }

    /// The key of the variant that `request` selects.
    fn key(&self, key: &Key, request: &HeaderMap) -> Key {
        let vary = Vary::select(&self.head, request).unwrap_or_default();
        key.variant(&digestible(&vary))
    }

    fn variants(&self) -> std::sync::MutexGuard<'_, Vec<Key>> {
        self.variants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The most bytes of an entry that is opened: `object_max`, and the largest head that an app may send
/// (256 KiB) with URL and tags, which most entries are far from.
fn bytes_max(object_max: u64) -> usize {
    const HEAD_BYTES_MAX: u64 = 512 * 1024;
    usize::try_from(object_max.saturating_add(HEAD_BYTES_MAX)).unwrap_or(usize::MAX)
}

/// The selecting fields and their values in one digestible form.
fn digestible(vary: &Vary) -> Vec<u8> {
    let mut builder = KeyBuilder::new("vary");
    for (name, value) in &vary.fields {
        builder.part(name.as_ref());
        builder.part(&[u8::from(value.is_some())]);
        builder.part(value.as_deref().unwrap_or_default());
    }
    builder.finish().bytes().to_vec()
}

/// The one of two findings that serves better: fresher first, and anything before nothing.
fn better(here: Lookup, there: Lookup) -> Lookup {
    let rank = |lookup: &Lookup| match lookup {
        Lookup::Absent(_) => None,
        Lookup::Found {
            entry,
            softly_purged,
            ..
        } => Some((!softly_purged, entry.received())),
    };
    match (&here, &there) {
        // A purge or an expiry here says more than "nothing" there.
        (Lookup::Absent(Reason::Purged | Reason::Expired), Lookup::Absent(_)) => here,
        (Lookup::Absent(_), _) => there,
        _ if rank(&there) > rank(&here) => there,
        _ => here,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_client::testing::{Server, connect, until};
    use http::header::{ACCEPT_LANGUAGE, HeaderValue};

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 16])
    }

    async fn follow(cache: &Cache, redis: &Redis) -> Infallible {
        let recorder = crate::redis_client::testing::recorder();
        cache
            .follow_purges(redis, &Clock::system(), &recorder)
            .await
    }

    /// A sidecar of a test: its store, its Redis, its follower.
    struct Sidecar {
        cache: Cache,
        redis: Redis,
        clock: Clock,
        follower: tokio::task::JoinHandle<Infallible>,
    }

    impl Sidecar {
        fn start(server: &Server, memory: u64) -> Self {
            let redis = connect(&server.url());
            let cache =
                Cache::new(memory, "test", 1 << 20).with_redis(redis.clone(), redis.clone());
            let (follower, followed) = (cache.clone(), redis.clone());
            Self {
                cache,
                redis,
                clock: Clock::system(),
                follower: tokio::spawn(async move { follow(&follower, &followed).await }),
            }
        }

        async fn ready(self) -> Self {
            until("Redis is up and the log is followed", || {
                self.redis.is_up() && self.cache.status().log_followed
            })
            .await;
            self
        }

        /// Fetches: reads the position, then stores.
        fn fill(&self, n: u8, tags: &[&str], body: &[u8]) {
            let label = Label {
                tags: tags.iter().map(|tag| (*tag).into()).collect(),
                position: self.cache.position(),
                ..testing::label(&format!("host/{n}"))
            };
            let stored = testing::stored_at(self.clock.now(), body);
            let entry = Arc::new(Entry::new(&stored, &label));
            self.cache.store(&key(n), entry, self.clock.now());
        }

        async fn get(&self, n: u8) -> Lookup {
            let now = self.clock.now();
            self.cache.lookup(&key(n), &HeaderMap::new(), now).await
        }

        async fn body(&self, n: u8) -> Option<(Vec<u8>, Tier)> {
            match self.get(n).await {
                Lookup::Found { entry, tier, .. } => Some((entry.body().to_vec(), tier)),
                Lookup::Absent(_) => None,
            }
        }

        async fn sees(&self, n: u8) -> Tier {
            let begun = std::time::Instant::now();
            loop {
                if let Some((_, tier)) = self.body(n).await {
                    return tier;
                }
                assert!(begun.elapsed() < Duration::from_secs(5), "never stored");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }

        async fn purge_tag(&self, tag: &str, soft: bool) -> PurgeOutcome {
            let purge = Purge {
                scope: Scope::Tag(tag.to_owned()),
                soft,
            };
            self.cache.purge(vec![purge]).await
        }
    }

    impl Drop for Sidecar {
        fn drop(&mut self) {
            self.follower.abort();
        }
    }

    async fn absent(sidecar: &Sidecar, n: u8, reason: Reason) -> bool {
        matches!(sidecar.get(n).await, Lookup::Absent(found) if found == reason)
    }

    async fn eventually_absent(sidecar: &Sidecar, n: u8) -> Duration {
        let begun = std::time::Instant::now();
        while sidecar.body(n).await.is_some() {
            assert!(begun.elapsed() < Duration::from_secs(5), "never purged");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        begun.elapsed()
    }

    #[tokio::test]
    async fn so_many_large_bodies_are_stored_at_a_time() {
        let server = Server::start().await;
        let sidecar = Sidecar::start(&server, 0).ready().await;
        let stored = testing::stored_at(sidecar.clock.now(), b"");
        let fill = || {
            let now = sidecar.clock.now();
            sidecar.cache.fill(&key(1), &stored, now, |_| {})
        };
        let mut fills: Vec<_> = (0..FILLS_MAX).map(|_| fill().unwrap()).collect();
        assert!(fill().is_none());
        fills.pop();
        assert!(fill().is_some());
    }

    #[tokio::test]
    async fn without_redis_memory_serves_and_purges_alone() {
        let cache = Cache::new(1 << 20, "test", 1 << 16);
        let request = HeaderMap::new();
        let label = Label {
            tags: Box::new(["a".into()]),
            ..testing::label("host/a")
        };
        let entry = Entry::new(&testing::stored(b"body"), &label);
        cache.store(&key(1), Arc::new(entry), NOW);
        let found = cache.lookup(&key(1), &request, NOW).await;
        assert!(matches!(
            found,
            Lookup::Found {
                tier: Tier::Memory,
                softly_purged: false,
                ..
            }
        ));
        let purge = |soft| {
            vec![Purge {
                scope: Scope::Tag("a".to_owned()),
                soft,
            }]
        };
        assert_eq!(cache.purge(purge(true)).await, PurgeOutcome::Local);
        let found = cache.lookup(&key(1), &request, NOW).await;
        assert!(matches!(
            found,
            Lookup::Found {
                softly_purged: true,
                ..
            }
        ));
        cache.purge(purge(false)).await;
        let found = cache.lookup(&key(1), &request, NOW).await;
        assert!(matches!(found, Lookup::Absent(Reason::Purged)));
        assert_eq!((cache.status().entries, cache.replicas()), (0, 1));
    }

    #[test]
    fn what_no_tier_can_keep_does_not_count_as_kept() {
        let entry = || Arc::new(testing::entry("host/a", b"body"));
        assert!(Cache::new(1 << 20, "test", 1 << 16).store(&key(1), entry(), NOW));
        assert!(!Cache::new(0, "test", 1 << 16).store(&key(1), entry(), NOW));
    }

    #[tokio::test]
    async fn a_fetch_that_began_before_a_purge_fills_nothing() {
        let cache = Cache::new(1 << 20, "test", 1 << 16);
        let fetched = |body| {
            let label = Label {
                position: cache.position(),
                ..testing::label("host/a")
            };
            Entry::new(&testing::stored(body), &label)
        };
        let entry = fetched(b"old");
        let purge = Purge {
            scope: Scope::Url("host/a".to_owned()),
            soft: false,
        };
        cache.purge(vec![purge]).await;
        let newer = fetched(b"new");
        for entry in [newer, entry] {
            cache.store(&key(1), Arc::new(entry), NOW);
        }
        let found = cache.lookup(&key(1), &HeaderMap::new(), NOW).await;
        let Lookup::Found { entry, .. } = found else {
            panic!("{found:?}")
        };
        assert_eq!(entry.body(), "new");
    }

    #[tokio::test]
    async fn what_comes_from_redis_does_not_displace_what_is_newer() {
        let cache = Cache::new(1 << 20, "test", 1 << 16);
        let at = |received, body| {
            let stored = testing::stored_at(Timestamp::from_millis(received), body);
            Arc::new(Entry::new(&stored, &testing::label("host/a")))
        };
        cache.store(&key(1), at(2_000, b"newer"), NOW);
        cache.promote(key(1), &at(1_000, b"older"));
        let found = cache.lookup(&key(1), &HeaderMap::new(), NOW).await;
        let Lookup::Found { entry, .. } = found else {
            panic!("{found:?}")
        };
        assert_eq!(entry.body(), "newer");
    }

    #[tokio::test]
    async fn what_waits_for_redis_is_written_before_the_end() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 1 << 20).ready().await;
        one.fill(1, &[], b"1");
        one.cache.flush(Duration::from_secs(1)).await;
        let name = Names::new("test").of(&key(1), None);
        assert_eq!(server.cli(&["EXISTS", &name]), "1");
        server.signal("STOP");
        assert_eq!(one.purge_tag("a", false).await, PurgeOutcome::Queued);
        let begun = std::time::Instant::now();
        one.cache.flush(Duration::from_millis(300)).await;
        assert!(begun.elapsed() < Duration::from_millis(1_500));
    }

    #[tokio::test]
    async fn writes_that_are_held_back_delay_no_read() {
        let server = Server::start().await;
        let redis = connect(&server.url());
        let cache = Cache::new(0, "test", 1 << 20).with_redis(redis.clone(), server.connect());
        let (follower, followed) = (cache.clone(), redis.clone());
        let follower = tokio::spawn(async move { follow(&follower, &followed).await });
        until("the log is followed", || cache.status().log_followed).await;
        let now = Clock::system().now();
        let label = Label {
            position: cache.position(),
            ..testing::label("host/1")
        };
        let stored = testing::stored_at(now, b"1");
        let entry = Arc::new(Entry::new(&stored, &label));
        cache.store(&key(1), Arc::clone(&entry), now);
        cache.flush(Duration::from_secs(1)).await;
        server.cli(&["CLIENT", "PAUSE", "600", "WRITE"]);
        for _ in 0..20 {
            cache.store(&key(2), Arc::clone(&entry), now);
            let found = cache.lookup(&key(1), &HeaderMap::new(), now).await;
            assert!(matches!(found, Lookup::Found { .. }), "{found:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        follower.abort();
    }

    #[tokio::test]
    async fn what_is_of_no_use_any_more_is_absent() {
        let cache = Cache::new(1 << 20, "test", 1 << 16);
        let entry = testing::entry("host/a", b"body");
        let dead = entry.received() + entry.keep(entry.received());
        cache.store(&key(1), Arc::new(entry), NOW);
        let found = cache.lookup(&key(1), &HeaderMap::new(), dead).await;
        assert!(matches!(found, Lookup::Absent(Reason::Expired)));
        assert_eq!(cache.status().bytes, 0);
    }

    #[tokio::test]
    async fn an_entry_goes_through_redis_to_another_sidecar_and_into_its_memory() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 1 << 20).ready().await;
        let two = Sidecar::start(&server, 1 << 20).ready().await;
        assert!(absent(&two, 1, Reason::Cold).await);
        one.fill(1, &["a"], b"body");
        assert_eq!(one.body(1).await, Some((b"body".to_vec(), Tier::Memory)));
        assert_eq!(two.sees(1).await, Tier::Redis);
        assert_eq!(two.sees(1).await, Tier::Memory);
        // Every key has a life, and none is longer than its use.
        for name in server.cli(&["KEYS", "*"]).lines() {
            let ttl: i64 = server.cli(&["PTTL", name]).parse().unwrap();
            assert!(ttl > 0, "{name}");
        }
        one.cache.remove(&key(1)).await;
        assert_eq!(one.body(1).await, None);
    }

    #[tokio::test]
    async fn a_purge_is_seen_by_every_sidecar_in_both_tiers() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 1 << 20).ready().await;
        let two = Sidecar::start(&server, 1 << 20).ready().await;
        let three = Sidecar::start(&server, 0).ready().await;
        one.fill(1, &["a"], b"1");
        one.fill(2, &["b"], b"2");
        for sidecar in [&two, &three] {
            sidecar.sees(1).await;
            sidecar.sees(2).await;
        }
        assert_eq!(one.purge_tag("a", false).await, PurgeOutcome::Logged);
        assert!(absent(&one, 1, Reason::Purged).await);
        let took = eventually_absent(&two, 1)
            .await
            .max(eventually_absent(&three, 1).await);
        assert!(took < Duration::from_millis(1_500), "{took:?}");
        for sidecar in [&one, &two, &three] {
            assert!(sidecar.body(2).await.is_some());
        }
        // What is fetched afterwards is good everywhere.
        until("our own purge came back", || {
            one.cache.status().purges_queued == 0
        })
        .await;
        one.fill(1, &["a"], b"new");
        two.sees(1).await;
        assert_eq!(two.body(1).await.unwrap().0, b"new");
        // A sidecar that starts later replays the log and agrees.
        two.purge_tag("b", false).await;
        let four = Sidecar::start(&server, 1 << 20).ready().await;
        assert!(absent(&four, 2, Reason::Purged).await);
        assert_eq!(four.sees(1).await, Tier::Redis);
    }

    #[tokio::test]
    async fn a_soft_purge_leaves_the_entry_to_be_served_while_it_is_refreshed() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 0).ready().await;
        one.fill(1, &["a"], b"1");
        one.sees(1).await;
        one.purge_tag("a", true).await;
        let found = one.get(1).await;
        let soft = matches!(
            found,
            Lookup::Found {
                softly_purged: true,
                ..
            }
        );
        assert!(soft, "{found:?}");
    }

    #[tokio::test]
    async fn purges_made_while_redis_is_away_hold_here_and_reach_the_others_later() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 1 << 20).ready().await;
        let two = Sidecar::start(&server, 1 << 20).ready().await;
        one.fill(1, &["a"], b"1");
        two.sees(1).await;
        server.signal("STOP");
        assert_eq!(one.purge_tag("a", false).await, PurgeOutcome::Queued);
        assert!(absent(&one, 1, Reason::Purged).await);
        assert!(two.body(1).await.is_some());
        until("the outage is noticed", || {
            !one.redis.is_up() && !two.redis.is_up()
        })
        .await;
        server.signal("CONT");
        eventually_absent(&two, 1).await;
        assert!(one.body(1).await.is_none());
        until("nothing is queued any more", || {
            one.cache.status().purges_queued == 0
        })
        .await;
    }

    #[tokio::test]
    async fn after_the_log_is_lost_everything_older_is_stale() {
        let mut server = Server::start().await;
        let one = Sidecar::start(&server, 1 << 20).ready().await;
        one.fill(1, &["a"], b"1");
        assert!(one.body(1).await.is_some());
        server.cli(&["FLUSHALL"]);
        eventually_absent(&one, 1).await;
        one.fill(2, &["a"], b"2");
        assert!(one.body(2).await.is_some());
        server.kill();
        until("the kill is noticed", || !one.redis.is_up()).await;
        // Memory goes on serving while Redis is away …
        assert_eq!(one.body(2).await, Some((b"2".to_vec(), Tier::Memory)));
        one.fill(3, &[], b"3");
        server.run().await;
        // … but an empty Redis cannot say what others have purged meanwhile.
        eventually_absent(&one, 2).await;
        let one = one.ready().await;
        one.fill(4, &[], b"4");
        assert!(one.body(4).await.is_some());
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(one.body(4).await.is_some());
    }

    #[tokio::test]
    async fn a_renewal_does_not_displace_what_another_sidecar_has_fetched_since() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 1 << 20).ready().await;
        let two = Sidecar::start(&server, 0).ready().await;
        let store = |sidecar: &Sidecar, age: u64, body: &[u8]| {
            let now = sidecar.clock.now();
            let received = Timestamp::from_millis(now.as_millis() - age);
            let label = Label {
                position: sidecar.cache.position(),
                ..testing::label("host/1")
            };
            let entry = Arc::new(Entry::new(&testing::stored_at(received, body), &label));
            sidecar.cache.store(&key(1), Arc::clone(&entry), now);
            entry
        };
        let renew = async |entry: &Arc<Entry>| {
            let mut lifetime = entry.lifetime();
            lifetime.fresh += Duration::from_secs(60);
            let renewed = Arc::new(entry.lasting(&lifetime));
            one.cache.renew(&key(1), entry, renewed, one.clock.now());
        };
        let there = async |body: &[u8], fresh: u64| {
            let begun = std::time::Instant::now();
            loop {
                if let Lookup::Found { entry, .. } = two.get(1).await
                    && entry.body() == body
                    && entry.lifetime().fresh == Duration::from_secs(fresh)
                {
                    return;
                }
                assert!(begun.elapsed() < Duration::from_secs(5), "{fresh}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let old = store(&one, 30_000, b"old");
        there(b"old", 60).await;
        renew(&old).await;
        there(b"old", 120).await;
        let Lookup::Found { entry: old, .. } = one.get(1).await else {
            panic!("it is in memory");
        };
        store(&two, 0, b"new");
        there(b"new", 60).await;
        renew(&old).await;
        // Here, too, the newer one is shown from then on.
        let begun = std::time::Instant::now();
        while one.body(1).await != Some((b"new".to_vec(), Tier::Redis)) {
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "still the old one"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        one.cache.flush(Duration::from_secs(5)).await;
        there(b"new", 60).await;
    }

    #[tokio::test]
    async fn one_server_that_answers_again_is_not_believed_before_its_log_is_read() {
        let mut server = Server::start().await;
        let one = Sidecar::start(&server, 0).ready().await;
        server.kill();
        until("the kill is noticed", || !one.redis.is_up()).await;
        // It is back, with whatever it had saved, and its log cannot be followed.
        server.run_with(&["--replicaof", "127.0.0.1", "1"]).await;
        until("it is asked again", || one.redis.is_up()).await;
        let begun = std::time::Instant::now();
        until("a while is over", || {
            assert!(!one.cache.status().log_followed, "{:?}", begun.elapsed());
            begun.elapsed() > Duration::from_secs(1)
        })
        .await;
    }

    #[tokio::test]
    async fn a_log_trimmed_past_our_place_or_gone_backwards_makes_everything_older_stale() {
        let server = Server::start().await;
        let mut one = Sidecar::start(&server, 1 << 20).ready().await;
        let lose: [&[&[&str]]; 2] = [
            &[
                &["XADD", "test:purges", "*", "k", "tag", "v", "x"],
                &["XADD", "test:purges", "*", "k", "tag", "v", "y"],
                &["XTRIM", "test:purges", "MAXLEN", "1"],
            ],
            &[
                &["DEL", "test:purges"],
                &["XADD", "test:purges", "1-1", "k", "tag", "v", "x"],
            ],
        ];
        for (n, commands) in lose.into_iter().enumerate() {
            let n = n as u8;
            one.purge_tag("other", false).await;
            until("our own purge came back", || {
                one.cache.status().purges_queued == 0
            })
            .await;
            one.fill(n, &[], b"old");
            one.follower.abort();
            commands.iter().for_each(|command| {
                server.cli(command);
            });
            assert!(one.body(n).await.is_some());
            let (cache, redis) = (one.cache.clone(), one.redis.clone());
            one.follower = tokio::spawn(async move { follow(&cache, &redis).await });
            eventually_absent(&one, n).await;
            one = one.ready().await;
        }
        one.fill(9, &[], b"new");
        assert!(one.body(9).await.is_some());
    }

    #[tokio::test]
    async fn a_log_that_is_evicted_costs_nothing_where_its_witness_says_that_all_of_it_was_read() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 1 << 20).ready().await;
        let witness = "test:end:{test:purges}";
        one.purge_tag("other", false).await;
        until("our own purge came back", || {
            one.cache.status().purges_queued == 0
        })
        .await;
        one.fill(1, &["a"], b"kept");
        let begins = async |kind: &str| {
            let begun = std::time::Instant::now();
            let there = || server.cli(&["XRANGE", "test:purges", "-", "+", "COUNT", "1"]);
            while !there().contains(kind) {
                assert!(begun.elapsed() < Duration::from_secs(5), "{}", there());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // The log alone: where it ended is known, and that we had read so far.
        server.cli(&["DEL", "test:purges"]);
        begins("resumed").await;
        assert!(one.body(1).await.is_some());
        // The witness alone is written anew.
        server.cli(&["DEL", witness]);
        let begun = std::time::Instant::now();
        while server.cli(&["EXISTS", witness]) != "1" {
            assert!(begun.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(one.body(1).await.is_some());
        // A purge that comes behind the eviction hides nothing, and is obeyed.
        server.cli(&["DEL", "test:purges"]);
        one.purge_tag("more", false).await;
        until("our own purge came back", || {
            one.cache.status().purges_queued == 0
        })
        .await;
        assert!(one.body(1).await.is_some());
        // Both: nobody knows what the log held.
        server.cli(&["DEL", "test:purges", witness]);
        eventually_absent(&one, 1).await;
        begins("genesis").await;
    }

    #[tokio::test]
    async fn where_more_is_known_than_the_witness_says_the_log_begins_anew_and_beyond() {
        const FAR: u64 = 9_999_999_999_999;
        let server = Server::start().await;
        let one = Sidecar::start(&server, 1 << 20).ready().await;
        let id = format!("{FAR}-0");
        server.cli(&["XADD", "test:purges", &id, "k", "tag", "v", "x"]);
        until("it is replayed", || one.cache.position().log == (FAR, 0)).await;
        // Both in one step: what was purged since the witness was written is lost.
        let lose = "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[2], '1-0', 'PX', 60000)";
        server.cli(&["EVAL", lose, "2", "test:purges", "test:end:{test:purges}"]);
        until("it is begun", || one.cache.position().log.0 > FAR).await;
        let begun = server.cli(&["XRANGE", "test:purges", "-", "+"]);
        assert!(begun.contains("genesis"), "{begun}");
    }

    #[tokio::test]
    async fn a_log_that_is_evicted_before_it_was_read_makes_everything_older_stale() {
        let server = Server::start().await;
        let mut one = Sidecar::start(&server, 1 << 20).ready().await;
        let two = Sidecar::start(&server, 0).ready().await;
        one.purge_tag("other", false).await;
        until("our own purge came back", || {
            one.cache.status().purges_queued == 0
        })
        .await;
        one.fill(1, &["a"], b"old");
        one.follower.abort();
        two.purge_tag("a", false).await;
        server.cli(&["DEL", "test:purges"]);
        // Hides from who looks for his place that there was something before it.
        two.purge_tag("b", false).await;
        let (cache, redis) = (one.cache.clone(), one.redis.clone());
        one.follower = tokio::spawn(async move { follow(&cache, &redis).await });
        eventually_absent(&one, 1).await;
    }

    #[tokio::test]
    async fn a_sidecar_that_starts_where_purges_were_lost_before_knows_nothing_of_its_memory() {
        let mut server = Server::absent();
        let one = Sidecar::start(&server, 1 << 20);
        one.fill(1, &["a"], b"from before Redis was there");
        assert!(one.body(1).await.is_some());
        server.run().await;
        eventually_absent(&one, 1).await;
    }

    #[tokio::test]
    async fn values_that_are_not_ours_are_misses_counted_and_overwritten() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 0).ready().await;
        let name = Names::new("test").of(&key(1), None);
        for foreign in ["{}", "", "L", "\u{1f}\u{8b}gzip"] {
            server.cli(&["SET", &name, foreign]);
            assert!(absent(&one, 1, Reason::Cold).await);
        }
        server.cli(&["DEL", &name]);
        server.cli(&["LPUSH", &name, "x"]);
        assert!(absent(&one, 1, Reason::Cold).await);
        let counted: u64 = one
            .cache
            .status()
            .corrupt
            .iter()
            .map(|(_, count)| count)
            .sum();
        assert_eq!(counted, 5);
        one.fill(1, &[], b"good");
        one.sees(1).await;
        assert!(one.redis.is_up());
    }

    #[tokio::test]
    async fn writes_that_redis_does_not_take_are_dropped_and_counted() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 1 << 20).ready().await;
        server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        one.fill(1, &[], b"1");
        until("the write is dropped", || {
            one.cache.status().writes_dropped == 1
        })
        .await;
        assert!(one.body(1).await.is_some());
        assert!(one.redis.is_up());
    }

    #[tokio::test]
    async fn sidecars_count_each_other() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 0).ready().await;
        assert_eq!(one.cache.replicas(), 1);
        let two = Sidecar::start(&server, 0).ready().await;
        until("both are seen", || two.cache.replicas() == 2).await;
    }

    fn speaking(language: &'static str) -> HeaderMap {
        let mut request = HeaderMap::new();
        request.insert(ACCEPT_LANGUAGE, HeaderValue::from_static(language));
        request
    }

    fn fill_language(cache: &Cache, language: &'static str, now: Timestamp) {
        let mut response = HeaderMap::new();
        response.insert(VARY, HeaderValue::from_static("Accept-Language"));
        let mut stored = testing::stored_at(now, language.as_bytes());
        stored.vary = Vary::select(&response, &speaking(language)).unwrap();
        let label = Label {
            position: cache.position(),
            ..testing::label("host/1")
        };
        cache.store(&key(1), Arc::new(Entry::new(&stored, &label)), now);
    }

    #[tokio::test]
    async fn each_variant_is_found_by_the_fields_it_was_stored_for() {
        let server = Server::start().await;
        let one = Sidecar::start(&server, 1 << 20).ready().await;
        let two = Sidecar::start(&server, 0).ready().await;
        let now = one.clock.now();
        for language in ["de", "en"] {
            fill_language(&one.cache, language, now);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        for cache in [&one.cache, &two.cache] {
            for language in ["de", "en", "de"] {
                let found = cache.lookup(&key(1), &speaking(language), now).await;
                let Lookup::Found { entry, .. } = found else {
                    panic!("{language}: {found:?}")
                };
                assert_eq!(entry.body(), language.as_bytes());
            }
            let found = cache.lookup(&key(1), &speaking("fr"), now).await;
            assert!(matches!(found, Lookup::Absent(Reason::Vary)), "{found:?}");
        }
    }

    #[tokio::test]
    async fn the_variants_of_one_key_are_bounded() {
        let cache = Cache::new(1 << 20, "test", 1 << 16);
        for n in 0..2 * VARIANTS_MAX {
            let language: &'static str = Box::leak(format!("x-{n}").into_boxed_str());
            fill_language(&cache, language, NOW);
        }
        assert_eq!(cache.status().entries, VARIANTS_MAX + 1);
    }
}
