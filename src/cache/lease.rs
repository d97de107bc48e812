//! One fetch at a time for all sidecars: who fetches a key holds its lease, a key in Redis.
//!
//! A lease ends with its holder's word, or soon after its holder died: the living one puts its end off. Whoever
//! finds it held waits to be woken, through one bounded stream that each process reads while any of its
//! requests wait. What came of the fetch can be read for a moment longer, so that who comes late, or was not
//! woken, learns it too. A wake says only "look": what is true stands in the lease.
//!
//! Never shares an answer, and never decides about one: who has waited looks into the store, where purges
//! judge what is found. A Redis that does not answer gives no lease, and everybody fetches as without one.

use super::purge::{LogId, Since, Subject, Verdict, log_id, stream_entries};
use super::redis_tier::{RedisTier, millis};
use super::{Cache, Lookup};
use crate::redis_client::{Outage, PrivateLine, Redis, Script};
use crate::semantics::{Key, Timestamp};
use http::HeaderMap;
use redis::Value;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Life of a lease; its living holder renews it each third of that. So long those who wait for a holder that died
/// wait in vain, at most.
pub const LEASE_LIFE: Duration = Duration::from_secs(2);
const RENEWED_EACH: Duration = Duration::from_millis(LEASE_LIFE.as_millis() as u64 / 3);
/// How long can be read what came of a fetch: longer than anybody takes from his look into the store to the
/// lease.
pub const ENDED_LIFE: Duration = Duration::from_secs(3);
/// Pause between two looks at a lease that is held, while wakes cannot be heard; and before one that could not be renewed
/// is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Those who wait for one holder that died do not all look at the same moment.
const SPREAD: Duration = Duration::from_millis(50);
/// Wakes in the stream, about; older ones are trimmed.
const WAKES_MAX: usize = 10_000;
/// Life of the stream's key after the last wake: longer than any is on its way.
const WAKES_TTL: Duration = Duration::from_secs(60);
/// How long one read of the stream waits for news, and its deadline beyond that.
const BLOCK: Duration = Duration::from_millis(500);
const GRACE: Duration = Duration::from_secs(1);
/// The stream is read on for so long after the last one who waited.
const LINGER: Duration = Duration::from_secs(60);
/// Wakes read at a time.
const BATCH: usize = 1_000;
/// Pause before the stream is asked for again where our user may not read it.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(1);
/// Tokens are numbers that Lua can hold exactly.
const TOKENS: u64 = 1 << 53;

/// The word for a fetch that came to nothing: the next one may try.
pub const AGAIN: u16 = 0;
/// The word for a fetch whose answer is in the store.
pub const STORED: u16 = 1;

/// What a process knows of leases: who waits here, and for which. Shared by all workers.
#[derive(Debug)]
pub(super) struct Leases {
    stream: String,
    waiting: Mutex<HashMap<Box<str>, watch::Sender<()>>>,
    /// Whether wakes are heard.
    heard: AtomicBool,
    /// Somebody began to wait.
    wanted: Notify,
}

/// How a lease is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bid {
    /// The place in the purge log that the fetch would begin at.
    pub log: LogId,
    /// A lease that need not be minded: it has ended, or is waited for no longer.
    pub over: Option<u64>,
    /// Whether a holder is to wake us when it ends.
    pub waits: bool,
}

/// What came of asking for a lease.
#[derive(Debug)]
pub enum Taken {
    /// It is ours: fetch.
    Ours(Lease),
    /// Redis has not said in time: it may be ours. If it is, the others wait for us; if it is not, nothing that
    /// is said of it has any effect.
    Perhaps(Lease),
    /// Another fetches.
    Held(Holder),
    /// Another has just fetched, and left this word.
    Ended {
        /// Names its lease; see [`Bid::over`].
        token: u64,
        /// [`AGAIN`], [`STORED`], or one of the holder's own.
        word: u16,
    },
}

/// Who holds a lease that is not ours.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// Names it; see [`Bid::over`].
    pub token: u64,
    /// When it ends, unless its holder lives and renews it.
    pub left: Duration,
    /// The place in the purge log that its fetch began at.
    pub log: LogId,
}

impl Leases {
    pub fn new(namespace: &str) -> Self {
        Self {
            stream: format!("{namespace}:wakes"),
            waiting: Mutex::default(),
            heard: AtomicBool::new(false),
            wanted: Notify::new(),
        }
    }

    /// Reads the stream of wakes while anybody waits, for as long as it is polled. Once a process, on the
    /// background runtime.
    async fn follow(&self, redis: &Redis) -> Infallible {
        let stream = self.stream.as_bytes();
        loop {
            self.wanted.notified().await;
            while self.is_waited_for() {
                let mut pause = Duration::from_millis(fastrand::u64(20..60));
                if redis.serves(stream)
                    && let Ok(line) = redis.private_line(stream).await
                    && let Err(outage) = self.session(redis, line).await
                {
                    redis.line_ended(outage);
                    if outage == Outage::Forbidden {
                        pause = FORBIDDEN_PAUSE;
                    }
                    tracing::debug!(kind = outage.word(), "wakes are not heard");
                }
                if self.heard.swap(false, Ordering::AcqRel) {
                    // Who waits looks for himself: what he was to be woken for may have been missed.
                    self.wake_all();
                }
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// One connection's time of reading; ends with it, or when nobody has waited for a while.
    async fn session(&self, redis: &Redis, mut line: PrivateLine) -> Result<(), Outage> {
        let mut last = redis::cmd("XREVRANGE");
        last.arg(&self.stream).arg("+").arg("-");
        last.arg("COUNT").arg(1);
        let last = line.query(&last, GRACE).await?;
        let mut known = newest(last).unwrap_or_default();
        // From here on nothing is missed; what was before, is looked for.
        self.heard.store(true, Ordering::Release);
        self.wake_all();
        let mut idle_since = None;
        loop {
            if let Some(renewed) = redis.renewed_line(self.stream.as_bytes(), &line).await {
                line = renewed;
            }
            let mut read = redis::cmd("XREAD");
            read.arg("COUNT").arg(BATCH);
            read.arg("BLOCK").arg(millis(BLOCK)).arg("STREAMS");
            read.arg(&self.stream)
                .arg(format!("{}-{}", known.0, known.1));
            for (id, fields) in stream_entries(line.query(&read, BLOCK + GRACE).await?) {
                known = known.max(id);
                let name = fields.get(b"k".as_slice());
                if let Some(Ok(name)) = name.map(|name| std::str::from_utf8(name)) {
                    self.wake(name);
                }
            }
            if self.is_waited_for() {
                idle_since = None;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() > LINGER {
                return Ok(());
            }
        }
    }

    fn is_waited_for(&self) -> bool {
        !self.lock().is_empty()
    }

    fn wake(&self, name: &str) {
        if let Some(waiting) = self.lock().get(name) {
            waiting.send_replace(());
        }
    }

    fn wake_all(&self) {
        for waiting in self.lock().values() {
            waiting.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, watch::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for another's fetch.
#[derive(Debug)]
pub struct Waiter {
    leases: Arc<Leases>,
    name: Box<str>,
    woken: watch::Receiver<()>,
}

impl Waiter {
    fn begin(leases: Arc<Leases>, name: Box<str>) -> Self {
        let woken = (leases.lock().entry(name.clone()))
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe();
        leases.wanted.notify_one();
        Self {
            leases,
            name,
            woken,
        }
    }

    /// Waits until it is time to look at the lease again, and no longer than `at_most`. Returns whether
    /// somebody said that it has ended.
    pub async fn wait(&mut self, held: Holder, at_most: Duration) -> bool {
        let mut until = held.left + SPREAD.mul_f64(fastrand::f64());
        if !self.leases.heard.load(Ordering::Acquire) {
            until = until.min(LOOK_EVERY);
        }
        let woken = tokio::time::timeout(until.min(at_most), self.woken.changed()).await;
        woken.is_ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.leases.lock();
        let is_last = |waiting: &watch::Sender<()>| waiting.receiver_count() <= 1;
        if waiting.get(&*self.name).is_some_and(is_last) {
            waiting.remove(&*self.name);
        }
    }
}

/// The right to fetch, for as long as it is held. Dropped without a word, it leaves [`AGAIN`].
#[derive(Debug)]
pub struct Lease {
    hold: Arc<Hold>,
    keeper: AbortHandle,
    has_ended: bool,
}

#[derive(Debug)]
struct Hold {
    tier: Arc<RedisTier>,
    leases: Arc<Leases>,
    name: String,
    token: u64,
    /// Until then it is ours, for all that we know.
    until: Mutex<Instant>,
    /// Whether anybody waited when it was last renewed.
    is_waited_for: AtomicBool,
}

impl Lease {
    fn begin(hold: Arc<Hold>) -> Self {
        let kept = Arc::clone(&hold);
        Self {
            hold,
            keeper: tokio::spawn(async move { kept.keep().await }).abort_handle(),
            has_ended: false,
        }
    }

    /// Whether another may have taken it since: this process was held up for longer than a lease lives, or
    /// Redis has not taken our word that we live. What was fetched under it may be older than what is
    /// stored by now.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        *self.hold.until() <= Instant::now()
    }

    /// Whether another sidecar waits for what is fetched, as far as is known.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.hold.is_waited_for.load(Ordering::Relaxed)
    }

    /// Ends it with this word, behind: nobody waits for that. What was stored before is in Redis before
    /// the word is.
    pub fn end(mut self, word: u16) {
        self.finish(word);
    }

    fn finish(&mut self, word: u16) {
        self.has_ended = true;
        let (hold, keeper) = (Arc::clone(&self.hold), self.keeper.clone());
        // On a runtime that ends nothing more is told: the lease then ends by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                hold.end(word).await;
                // Until then it is ours.
                keeper.abort();
            });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.has_ended {
            self.finish(AGAIN);
        }
    }
}

impl Hold {
    fn until(&self) -> MutexGuard<'_, Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the end off while the lease is ours.
    async fn keep(&self) {
        let mut pause = RENEWED_EACH;
        loop {
            tokio::time::sleep(pause).await;
            let asked = Instant::now();
            pause = match self.tell(keep_script(), millis(LEASE_LIFE), 0).await {
                // Another's by now.
                Ok(0) => return,
                Ok(told) => {
                    *self.until() = asked + LEASE_LIFE;
                    self.is_waited_for.store(told == 2, Ordering::Relaxed);
                    RENEWED_EACH
                }
                // There is time for more than one try.
                Err(_) => LOOK_EVERY,
            }
        }
    }

    async fn end(&self, word: u16) {
        if word == STORED {
            self.tier.flush().await;
        }
        let ended = self.tell(end_script(), millis(ENDED_LIFE), word).await;
        if ended != Ok(1) {
            return;
        }
        let mut wake = redis::pipe();
        let add = wake.cmd("XADD").arg(&self.leases.stream);
        add.arg("MAXLEN").arg("~").arg(WAKES_MAX).arg("*");
        add.arg("k").arg(&self.name);
        wake.cmd("PEXPIRE")
            .arg(&self.leases.stream)
            .arg(millis(WAKES_TTL));
        // Who is not woken looks for himself, later.
        self.tier.behind().pipeline("lease", &wake).await;
    }

    async fn tell(&self, script: &Script, life: u64, word: u16) -> Result<i64, Outage> {
        let (token, life, word) = (self.token.to_string(), life.to_string(), word.to_string());
        let keys = [self.name.as_bytes()];
        let args = [token.as_bytes(), life.as_bytes(), word.as_bytes()];
        let behind = self.tier.behind();
        let told = behind.script("lease", script, &keys, &args).await?;
        told.first().copied().ok_or(Outage::Protocol)
    }
}

impl Cache {
    /// Asks for the lease of `key`, or of the variant of it that `request` selects, as far as that is known:
    /// one round trip, waited for `patience` at most. `None`: there is none to be had, without Redis, while
    /// its purge log is not followed, or while it is full and nothing would be stored. Must be called on this worker's runtime.
    pub async fn take_lease(
        &self,
        key: &Key,
        request: &HeaderMap,
        bid: Bid,
        patience: Duration,
    ) -> Option<Taken> {
        let tier = self.redis.as_ref().filter(|tier| tier.redis().is_up())?;
        if !self.shared.purges.is_current() || tier.behind().is_full() {
            return None;
        }
        let token = fastrand::u64(1..TOKENS);
        let asked = Instant::now();
        let hold = Arc::new(Hold {
            tier: Arc::clone(tier),
            leases: Arc::clone(&self.shared.leases),
            name: self.lease_name(key, request),
            token,
            until: Mutex::new(asked + LEASE_LIFE),
            is_waited_for: AtomicBool::new(false),
        });
        let log = format!("{}-{}", bid.log.0, bid.log.1);
        let args = [
            token.to_string(),
            millis(LEASE_LIFE).to_string(),
            log,
            bid.over.map_or_else(String::new, |token| token.to_string()),
            u8::from(bid.waits).to_string(),
        ];
        let args = args.each_ref().map(String::as_bytes);
        let keys = [hold.name.as_bytes()];
        let asking = tier.redis().script("lease", take_script(), &keys, &args);
        let Ok(Ok(answer)) = tokio::time::timeout(patience, asking).await else {
            return Some(Taken::Perhaps(Lease::begin(hold)));
        };
        let number = |value: i64| u64::try_from(value).unwrap_or_default();
        match answer.as_slice() {
            [0] => Some(Taken::Ours(Lease::begin(hold))),
            [1, token, left, millis, sequence] => Some(Taken::Held(Holder {
                token: number(*token),
                left: Duration::from_millis(number(*left)),
                log: (number(*millis), number(*sequence)),
            })),
            [2, token, word] => Some(Taken::Ended {
                token: number(*token),
                word: u16::try_from(*word).unwrap_or(AGAIN),
            }),
            _ => None,
        }
    }

    /// Begins to wait for the holder of the same lease.
    #[must_use]
    pub fn wait_for_lease(&self, key: &Key, request: &HeaderMap) -> Waiter {
        let name = self.lease_name(key, request).into();
        Waiter::begin(Arc::clone(&self.shared.leases), name)
    }

    /// How long a request may still wait for Redis; to be asked where it is served.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let redis = self.redis.as_ref().map(|tier| tier.redis());
        redis.map_or(Duration::ZERO, Redis::patience)
    }

    /// What Redis holds for `key` and the Vary-selecting fields of `request`, whatever is in memory: what another
    /// sidecar has stored just now. Fresh, it goes into memory.
    pub async fn look_again(&self, key: &Key, request: &HeaderMap, now: Timestamp) -> Lookup {
        let (here, rule) = self.in_memory(key, request, now);
        match &self.redis {
            Some(tier) if tier.redis().is_up() && self.shared.purges.is_current() => {
                self.fetch(tier, key, rule, request, now, true).await
            }
            _ => here,
        }
    }

    /// Whether a purge after this place in the log is known to hit what is under `url` or one of `tags`: a fetch
    /// that began there is not worth waiting for.
    #[must_use]
    pub fn is_purged_since<'a>(
        &self,
        url: &'a str,
        tags: impl IntoIterator<Item = &'a str>,
        log: LogId,
    ) -> bool {
        let verdict = (self.shared.purges).verdict(Subject { tags, url }, Since::Log(log));
        verdict != Verdict::Valid
    }

    /// Hears of other sidecars' fetches, for as long as it is polled. Once a process, on the background
    /// runtime.
    pub async fn follow_wakes(&self, redis: &Redis) -> Infallible {
        self.shared.leases.follow(redis).await
    }

    fn lease_name(&self, key: &Key, request: &HeaderMap) -> String {
        self.shared
            .names
            .lease(key, self.variant_of(key, request).as_ref())
    }
}

fn newest(entries: Value) -> Option<LogId> {
    let Value::Array(entries) = entries else {
        return None;
    };
    match entries.into_iter().next()? {
        Value::Array(entry) => log_id(entry.first()?),
        _ => None,
    }
}

/// KEYS: the lease. ARGV: our token, its life in milliseconds, our place in the purge log, the token that
/// is not to be minded or nothing, whether we wait.
/// Answers 0 (it is ours); 1, token, milliseconds left, place in the log (it is held); 2, token, word (it has ended).
///
/// It is a string: the token, a letter (held, held and waited for, ended), and the place or the word.
fn take_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(
            r"
            local lease, state = redis.call('GET', KEYS[1]), 'h'
            if lease then
                local token, letter, rest = string.match(lease, '^(%d+)(%l)(.*)$')
                if token and token ~= ARGV[4] then
                    if letter == 'e' then return {2, tonumber(token), tonumber(rest)} end
                    if ARGV[5] == '1' and letter == 'h' then
                        redis.call('SETRANGE', KEYS[1], #token, 'w')
                    end
                    local millis, sequence = string.match(rest, '^(%d+)-(%d+)$')
                    return {1, tonumber(token), redis.call('PTTL', KEYS[1]), tonumber(millis), tonumber(sequence)}
                end
                -- Who waited for the one before waits for us.
                if letter == 'w' then state = 'w' end
            end
            redis.call('SET', KEYS[1], ARGV[1] .. state .. ARGV[3], 'PX', ARGV[2])
            return {0}
            ",
        )
    })
}

/// KEYS: the lease. ARGV: our token, its life from now on in milliseconds. Answers 0 (it is not ours any more),
/// 1, or 2 where somebody waits.
fn keep_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(
            r"
            local token, letter = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+)([hw])')
            if token ~= ARGV[1] then return {0} end
            redis.call('PEXPIRE', KEYS[1], ARGV[2])
            return {letter == 'w' and 2 or 1}
            ",
        )
    })
}

/// KEYS: the lease. ARGV: our token, how long the word stays in milliseconds, the word. Answers whether it was ours and
/// somebody waits.
fn end_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(
            r"
            local token, letter = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+)([hw])')
            if token ~= ARGV[1] then return {0} end
            redis.call('SET', KEYS[1], ARGV[1] .. 'e' .. ARGV[3], 'PX', ARGV[2])
            return {letter == 'w' and 1 or 0}
            ",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing;
    use crate::cache::{Entry, Label};
    use crate::clock::Clock;
    use crate::redis_client::testing::{Server, connect, recorder, until};

    const PATIENCE: Duration = Duration::from_secs(1);

    fn key() -> Key {
        Key::from_bytes([7; 16])
    }

    struct Sidecar(Cache);

    impl Sidecar {
        async fn start(server: &Server) -> Self {
            let redis = connect(&server.url());
            let cache = Cache::new(0, "test", 1 << 20).with_redis(redis.clone(), redis.clone());
            let (follower, clock, recorder) = (cache.clone(), Clock::system(), recorder());
            tokio::spawn(async move {
                tokio::join!(
                    follower.follow_purges(&redis, &clock, &recorder),
                    follower.follow_wakes(&redis)
                )
            });
            until("the log is followed", || cache.status().log_followed).await;
            Self(cache)
        }

        async fn bid(&self, bid: Bid) -> Taken {
            let (key, request) = (key(), HeaderMap::new());
            let asked = self.0.take_lease(&key, &request, bid, PATIENCE);
            asked.await.expect("Redis answers")
        }

        async fn lease(&self) -> Lease {
            match self.bid(Bid::default()).await {
                Taken::Ours(lease) => lease,
                other => panic!("{other:?}"),
            }
        }

        async fn holder(&self, bid: Bid) -> Holder {
            match self.bid(bid).await {
                Taken::Held(holder) => holder,
                other => panic!("{other:?}"),
            }
        }

        async fn word(&self) -> (u64, u16) {
            let begun = std::time::Instant::now();
            loop {
                match self.bid(Bid::default()).await {
                    Taken::Ended { token, word } => return (token, word),
                    Taken::Held(_) if begun.elapsed() < PATIENCE * 5 => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn one_holds_it_and_the_others_learn_who_and_what_came_of_it() {
        let server = Server::start().await;
        let (one, two) = (Sidecar::start(&server).await, Sidecar::start(&server).await);
        let bid = Bid {
            log: (5, 3),
            ..Bid::default()
        };
        let Taken::Ours(lease) = one.bid(bid).await else {
            panic!("nobody has it");
        };
        let holder = two.holder(Bid::default()).await;
        assert_eq!(holder.log, (5, 3));
        assert!(!holder.left.is_zero() && holder.left <= LEASE_LIFE);
        lease.end(7);
        let (token, word) = two.word().await;
        assert_eq!((token, word), (holder.token, 7));
        // Who knows that already, fetches.
        let over = Some(token);
        let again = Bid {
            over,
            ..Bid::default()
        };
        assert!(matches!(two.bid(again).await, Taken::Ours(_)));
    }

    #[tokio::test]
    async fn what_was_stored_is_there_before_it_is_said_so_and_who_waits_is_woken() {
        let server = Server::start().await;
        let (one, two) = (Sidecar::start(&server).await, Sidecar::start(&server).await);
        for _ in 0..20 {
            let lease = one.lease().await;
            let mut waiter = two.0.wait_for_lease(&key(), &HeaderMap::new());
            let waits = Bid {
                waits: true,
                ..Bid::default()
            };
            two.holder(waits).await;
            until("wakes are heard", || {
                two.0.shared.leases.heard.load(Ordering::Acquire)
            })
            .await;
            waiter.woken.borrow_and_update();
            let holder = two.holder(waits).await;
            let now = Clock::system().now();
            let label = Label {
                position: one.0.position(),
                ..testing::label("host/1")
            };
            let entry = Entry::new(&testing::stored_at(now, b"new"), &label);
            one.0.store(&key(), Arc::new(entry), now);
            lease.end(STORED);
            let begun = Instant::now();
            waiter.wait(holder, PATIENCE).await;
            assert!(begun.elapsed() < PATIENCE, "woken, not waited out");
            assert_eq!(two.word().await.1, STORED);
            let looked = two.0.look_again(&key(), &HeaderMap::new(), now).await;
            assert!(matches!(looked, Lookup::Found { .. }), "{looked:?}");
            server.cli(&["DEL", "test:lease:{07070707070707070707070707070707}"]);
        }
    }

    #[tokio::test]
    async fn a_living_holder_keeps_it_and_one_that_lost_it_knows() {
        let server = Server::start().await;
        let (one, two) = (Sidecar::start(&server).await, Sidecar::start(&server).await);
        let lease = one.lease().await;
        let first = two.holder(Bid::default()).await;
        tokio::time::sleep(LEASE_LIFE + LEASE_LIFE / 4).await;
        let later = two.holder(Bid::default()).await;
        assert_eq!(later.token, first.token);
        assert!(!lease.is_overdue());
        // Taken over by who has waited too long, it is not ended by the first.
        let over = Bid {
            over: Some(first.token),
            ..Bid::default()
        };
        let Taken::Ours(taken) = two.bid(over).await else {
            panic!("it need not be minded");
        };
        tokio::time::sleep(LEASE_LIFE + LEASE_LIFE / 4).await;
        assert!(lease.is_overdue() && !taken.is_overdue());
        lease.end(9);
        taken.end(8);
        assert_eq!(one.word().await.1, 8);
    }

    #[tokio::test]
    async fn a_lease_that_redis_gave_too_late_is_kept_by_who_fetches_anyway() {
        let server = Server::start().await;
        let (one, two) = (Sidecar::start(&server).await, Sidecar::start(&server).await);
        // From here on Redis knows the script.
        drop(one.lease().await);
        let after = |token| Bid {
            over: Some(token),
            ..Bid::default()
        };
        let (key, request) = (key(), HeaderMap::new());
        let late = async |bid| {
            server.signal("STOP");
            let asked = (one.0).take_lease(&key, &request, bid, Duration::from_millis(20));
            let taken = asked.await.expect("it has been asked");
            server.signal("CONT");
            taken
        };
        let bid = after(one.word().await.0);
        let Taken::Perhaps(lease) = late(bid).await else {
            panic!("Redis is paused");
        };
        let name = "test:lease:{07070707070707070707070707070707}";
        let is_given = || server.cli(&["GET", name]).contains('h');
        until("it was given", is_given).await;
        // Nor has anybody else to fetch it, once that is done.
        let holder = two.holder(Bid::default()).await;
        lease.end(STORED);
        assert_eq!(two.word().await, (holder.token, STORED));
        // One that another has is his.
        let Taken::Ours(theirs) = two.bid(after(holder.token)).await else {
            panic!("nobody has it");
        };
        let Taken::Perhaps(lease) = late(Bid::default()).await else {
            panic!("Redis is paused");
        };
        lease.end(9);
        theirs.end(8);
        assert_eq!(two.word().await.1, 8);
    }

    #[tokio::test]
    async fn a_lease_that_is_dropped_leaves_word_that_the_next_may_try() {
        let server = Server::start().await;
        let one = Sidecar::start(&server).await;
        drop(one.lease().await);
        assert_eq!(one.word().await.1, AGAIN);
    }
}
