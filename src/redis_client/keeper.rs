//! Keeps a worker's connections: makes them, probes them, watches them for stalls, moves the breaker.
//!
//! One task a worker, ended with the last handle. Callers never wait for anything that happens here.

use super::breaker::{Breaker, Forced, STALL_WAITING, State};
use super::cause::Refused;
use super::dial::{CONNECT_DEADLINE, Connected, Dialer, Greeting, With};
use super::info::Info;
use super::link::{Link, taken};
use super::node::Ways;
use super::resp::Reply;
use super::{Outage, outage};
use crate::config::redis_url::Address;
use crate::telemetry::Recorder;
use arc_swap::ArcSwap;
use bb8_redis::bb8::{self, ManageConnection, Pool};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// All handles of this process together begin no more than two connects a second to a Redis that
/// does not take them.
pub const CONNECT_SPACING: Duration = Duration::from_millis(500);
/// At most this much is added to the spacing by chance, so that sidecars do not march in step.
pub const CONNECT_JITTER: Duration = Duration::from_millis(300);
/// Pause between probes while all is well.
pub const PROBE_PAUSE_CLOSED: Duration = Duration::from_secs(1);
/// A replica that has not heard of its primary for longer is not read from. A primary without writes
/// pings its replicas every 10 s (`repl-ping-replica-period`).
pub const REPLICA_SILENCE_SECONDS_MAX: u64 = 12;
/// Pause between two tries to have a connection by credentials that were refused, while one that was
/// had by others stands.
pub const RENEWAL_PAUSE: Duration = Duration::from_secs(5);
/// What is asked where it is allowed, and not missed where it is not.
const WISHED: [&str; 1] = ["slowlog"];
/// One log line per kind in this time.
pub const NEWS_PAUSE: Duration = Duration::from_secs(10);

/// What callers and keeper share.
#[derive(Debug)]
pub struct Shared {
    /// How to connect.
    pub dialer: Arc<Dialer>,
    /// Where to.
    pub address: Address,
    /// Whether it may be a replica that is read from.
    reads_replicas: bool,
    /// It is a replica that has lost its primary, or is far behind it.
    pub behind: AtomicBool,
    /// Deadline of one command.
    pub timeout: Duration,
    /// Connections kept, and the most there may be.
    pub connections: (u32, u32),
    /// Most commands under way at a time, where there is such a bound.
    pub concurrent: Option<u32>,
    /// Most commands that were under way at a time since somebody looked, where there is such a bound;
    /// beyond any bound where one was turned away.
    pub peak: AtomicU32,
    /// Connections wanted now.
    pub wanted: AtomicU32,
    /// Live connections.
    pub links: ArcSwap<Vec<Arc<Link>>>,
    /// Whether some of them were had by credentials that have been exchanged since.
    pub outdated: AtomicBool,
    /// Number of the breaker's [`State`], for the one load on the hot path.
    pub state: AtomicU8,
    /// How often the breaker opened.
    pub opened: AtomicU64,
    breaker: Mutex<Breaker>,
    epoch: Instant,
    /// Redis's clock in milliseconds at `epoch`; `i64::MIN` while unknown.
    server_epoch: AtomicI64,
    /// Last good probe's round trip in microseconds; 0 while unknown.
    ping: AtomicU64,
    /// A connection ended, or more are wanted.
    pub changed: Arc<Notify>,
    /// Somebody doubts that Redis is there.
    pub doubt: Notify,
    /// So many commands wait on a link that silence would prove something.
    pub busy: Notify,
    news: Arc<News>,
    /// What was said of the Redis that this is a server of.
    whole: Arc<News>,
    /// Where commands are counted.
    pub recorder: Recorder,
}

impl Shared {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(ways: &Ways, address: Address) -> Self {
        let (least, most) = ways.share.connections;
        let most = most.max(1);
        let least = least.clamp(1, most);
        let news = News::of(&address);
        Self {
            dialer: Arc::clone(&ways.dialer),
            address,
            reads_replicas: ways.reads_replicas,
            behind: AtomicBool::new(false),
            timeout: ways.settings.timeout,
            connections: (least, most),
            concurrent: ways.share.concurrent,
            peak: AtomicU32::new(0),
            wanted: AtomicU32::new(least),
            links: ArcSwap::default(),
            outdated: AtomicBool::new(false),
            state: AtomicU8::new(State::Open as u8),
            opened: AtomicU64::new(0),
            breaker: Mutex::new(Breaker::new(ways.settings.breaker)),
            epoch: Instant::now(),
            server_epoch: AtomicI64::new(i64::MIN),
            ping: AtomicU64::new(0),
            changed: Arc::new(Notify::new()),
            doubt: Notify::new(),
            busy: Notify::new(),
            news,
            whole: Arc::clone(&ways.news),
            recorder: ways.recorder.clone(),
        }
    }

    /// The breaker's state: one atomic load.
    #[must_use]
    pub fn state(&self) -> State {
        State::from_number(self.state.load(Ordering::Relaxed))
    }

    /// Redis's clock now, in milliseconds since the Unix epoch, once it has been asked.
    #[must_use]
    pub fn server_millis(&self) -> Option<u64> {
        let at_epoch = self.server_epoch.load(Ordering::Relaxed);
        if at_epoch == i64::MIN {
            return None;
        }
        let elapsed = i64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(i64::MAX);
        u64::try_from(at_epoch.saturating_add(elapsed)).ok()
    }

    /// Last good probe's round trip.
    #[must_use]
    pub fn ping(&self) -> Option<Duration> {
        match self.ping.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// A command was answered after `took`, at `at`.
    pub fn answered(&self, took: Duration, at: Instant) {
        let now = at.saturating_duration_since(self.epoch);
        self.breaker().answered(took, now);
    }

    /// There is too much under way for `operation` to be asked as well. It is counted, and another connection
    /// made if there may be one; nobody waits for it.
    #[cold]
    pub fn saturated(&self, operation: &'static str) -> Outage {
        let outage = Outage::Saturated;
        (self.recorder).redis(operation, Some(outage.word()), Duration::ZERO);
        self.peak.store(u32::MAX, Ordering::Relaxed);
        self.want_more();
        outage
    }

    fn want_more(&self) {
        let more = |wanted| (wanted < self.connections.1).then_some(wanted + 1);
        let _ = (self.wanted).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        self.changed.notify_one();
    }

    /// A command failed.
    pub fn failed(&self, outage: Outage) {
        let now = self.epoch.elapsed();
        self.step(outage, "commands failed", |breaker| {
            breaker.failed(outage, now);
        });
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, outage: Outage, why: &str) {
        self.step(outage, why, |breaker| {
            breaker.open();
        });
    }

    /// Moves the breaker and publishes its state; counts it and says so where it changed.
    fn step(&self, outage: Outage, why: &str, step: impl FnOnce(&mut Breaker)) {
        let (before, state) = {
            let mut breaker = self.breaker();
            step(&mut breaker);
            let state = breaker.state();
            // Under the lock, so that the last to move it is the last to publish.
            (self.state.swap(state as u8, Ordering::Relaxed), state)
        };
        let before = State::from_number(before);
        if before != state {
            self.recorder.breaker(state.word());
        }
        match (before, state) {
            (State::Closed, State::Open | State::HalfOpen) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                self.doubt.notify_one();
                if self.news.turned(Standing::Away) {
                    tracing::warn!(
                        redis = %self.address,
                        kind = outage.word(),
                        "Redis is away ({why}); answering from memory and the app"
                    );
                }
            }
            (State::Open | State::HalfOpen, State::Closed) if self.news.turned(Standing::InUse) => {
                tracing::info!(redis = %self.address, "Redis is in use");
            }
            _ => {}
        }
    }

    /// Of an error reply that refuses a command, people have to know.
    pub fn look_at(&self, operation: &'static str, line: &[u8]) {
        if outage::of_line(line) == Outage::Forbidden && !WISHED.contains(&operation) {
            let user = || self.dialer.user();
            self.news.forbidden(&self.address, user, operation, line);
        }
    }

    /// Whether there are fewer live links than are wanted.
    fn lacks(&self) -> bool {
        let links = self.links.load();
        let live = links.iter().filter(|link| !link.is_dead()).count();
        live < self.wanted.load(Ordering::Relaxed) as usize
    }

    /// Shows callers the live links; returns how many, and how many of them are to be replaced.
    fn publish(&self, swept: Swept) -> (usize, usize) {
        let count = swept.live.len();
        self.links.store(Arc::new(swept.live));
        self.outdated.store(swept.is_outdated, Ordering::Relaxed);
        (count, swept.replaced)
    }

    /// What the breaker is told to be.
    pub fn forced(&self) -> Forced {
        self.whole.forced()
    }

    /// A connect was refused: one line, whatever the breaker does.
    fn refused(&self, refused: &Refused, took: Duration) {
        let kind = refused.outage.word();
        self.recorder.redis("connect", Some(kind), took);
        if self.news.is_due(refused.reason) {
            tracing::warn!(
                redis = %self.address,
                user = self.dialer.user(),
                kind,
                reason = refused.reason,
                "no connection to Redis: {refused}"
            );
        }
    }
}

/// Runs until it is dropped.
pub async fn keep(shared: Arc<Shared>) {
    let manager = Manager {
        dialer: Arc::clone(&shared.dialer),
        address: shared.address.clone(),
        changed: Arc::clone(&shared.changed),
    };
    // The pool owns the connections and throws dead ones out. It makes none by itself, tests none
    // on check-out and lets nobody wait: only this task asks it.
    let pool = Pool::builder()
        .max_size(shared.connections.1)
        .min_idle(None)
        .test_on_check_out(false)
        .retry_connection(false)
        .connection_timeout(CONNECT_DEADLINE)
        .max_lifetime(None)
        .idle_timeout(None)
        .error_sink(Box::new(Sink(Arc::downgrade(&shared))))
        .build_unchecked(manager);
    tokio::select! {
        never = connect(&shared, &pool) => match never {},
        never = probe(&shared) => match never {},
        never = watch(&shared) => match never {},
    }
}

/// Keeps as many live links as are wanted, and replaces those that were had by former credentials, or
/// before the address came to lead elsewhere.
async fn connect(shared: &Shared, pool: &Pool<Manager>) -> Infallible {
    let turnstile = Turnstile::to(&shared.address);
    let mut exchanged = shared.dialer.subscribe();
    let mut moved = shared.news.moves.subscribe();
    loop {
        exchanged.mark_unchanged();
        moved.mark_unchanged();
        let (live, replaced) = shared.publish(sweep(shared, pool, Retire::None).await);
        let missing = (live as u32) < shared.wanted.load(Ordering::Relaxed);
        let none = live == 0;
        if !missing && replaced == 0 {
            tokio::select! {
                () = shared.changed.notified() => {}
                _ = exchanged.changed() => {}
                _ = moved.changed() => {}
            }
            continue;
        }
        // What only replaces others has a pause of its own, and takes nobody's turn.
        if missing {
            // Listened to before the turn is taken, so that an opening in between is not missed.
            let opened = turnstile.opened.notified();
            let turn = turnstile.turn();
            if none && turn > Instant::now() && shared.state() == State::Closed {
                shared.open(Outage::Connection, "no connection left");
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(turn) => {}
                () = opened => {}
            }
        }
        // One more of the old kind would replace none.
        let with = if missing { With::Any } else { With::Newest };
        let (address, changed) = (&shared.address, &shared.changed);
        let began = Instant::now();
        let moves = shared.news.moves();
        let connected = shared
            .dialer
            .connect(address, Greeting::Server, with, changed);
        match connected.await {
            Ok(connected) => {
                turnstile.open();
                shared.recorder.redis("connect", None, began.elapsed());
                if !missing {
                    // It has its successor. Until that is published callers still find it, and what
                    // waits on it then is answered all the same.
                    sweep(shared, pool, Retire::One).await;
                }
                // A pool that is full would mean more are live than wanted: drop this one.
                let _ = pool.add(Kept::of(connected, moves));
                shared.publish(sweep(shared, pool, Retire::None).await);
                shared.doubt.notify_one();
            }
            Err(refused) => {
                shared.refused(&refused, began.elapsed());
                if none {
                    shared.step(refused.outage, &refused.text, |breaker| {
                        breaker.probe_failed(refused.outage);
                    });
                }
                let pause = match refused.outage {
                    _ if !missing => RENEWAL_PAUSE,
                    // Somebody has to change something first; asking twice a second would only
                    // fill that server's log.
                    Outage::Denied | Outage::Protocol => shared.breaker().probe_pause(),
                    _ => continue,
                };
                let over = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
                // One that ends is not to be waited out.
                let ended = async {
                    while missing || !shared.lacks() {
                        shared.changed.notified().await;
                    }
                };
                tokio::select! {
                    () = over => {}
                    _ = exchanged.changed() => {}
                    () = ended => {}
                }
            }
        }
    }
}

/// Whether a sweep takes one out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retire {
    None,
    /// The first that is to be replaced.
    One,
}

/// What a sweep found.
#[derive(Debug, Default)]
struct Swept {
    live: Vec<Arc<Link>>,
    /// So many of them are to be replaced.
    replaced: usize,
    /// Some of them were had by former credentials.
    is_outdated: bool,
}

/// Checks every idle link out and in again, by which the pool drops dead and retired ones.
async fn sweep(shared: &Shared, pool: &Pool<Manager>, retire: Retire) -> Swept {
    let newest = shared.dialer.number();
    let moves = shared.news.moves();
    let mut swept = Swept::default();
    let mut retire = retire == Retire::One;
    for _ in 0..pool.state().idle_connections {
        let Ok(mut kept) = pool.get().await else {
            continue;
        };
        let is_outdated = kept.access != newest;
        let is_replaced = is_outdated || kept.moves != moves;
        if retire && is_replaced {
            kept.retired = true;
            retire = false;
        }
        if !kept.is_over() {
            swept.live.push(Arc::clone(&kept.link));
            swept.replaced += usize::from(is_replaced);
            swept.is_outdated |= is_outdated;
        }
    }
    swept
}

/// Asks each link now and then whether it is there, more often while the breaker is not closed.
async fn probe(shared: &Shared) -> Infallible {
    loop {
        let pause = match shared.state() {
            State::Closed => PROBE_PAUSE_CLOSED,
            _ if shared.forced() != Forced::Auto => PROBE_PAUSE_CLOSED,
            _ => shared.breaker().probe_pause(),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.doubt.notified() => {}
        }
        let forced = shared.forced();
        shared.step(Outage::Open, "somebody has said so", |breaker| {
            breaker.force(forced);
        });
        let links = shared.links.load_full();
        let mut outcome = None;
        for link in links.iter().filter(|link| !link.is_dead()) {
            let probed = probe_link(shared, link).await;
            // One good link is enough to call Redis there.
            if !matches!(outcome, Some(Ok(()))) {
                outcome = Some(probed);
            }
        }
        match outcome {
            // Without a link there is nothing to probe; connecting is the probe then.
            None => {}
            Some(Ok(())) => shared.step(Outage::Open, "", |breaker| {
                breaker.probe_succeeded();
            }),
            Some(Err(outage)) => {
                shared.step(outage, "a probe was not answered well", |breaker| {
                    breaker.probe_failed(outage);
                });
            }
        }
    }
}

/// PING says LOADING or MASTERDOWN where it is so; TIME gives Redis's clock. Once more before a
/// link is given up, so that one slow answer is not taken for the end.
async fn probe_link(shared: &Shared, link: &Arc<Link>) -> Result<(), Outage> {
    let mut probe = redis::pipe();
    probe.cmd("PING").cmd("TIME");
    if shared.reads_replicas {
        probe.cmd("INFO").arg("replication");
    }
    for attempt in 0..2 {
        let answers = link.answers();
        let begun = Instant::now();
        let outage = match link.commands(&probe, shared.timeout).await {
            Ok(replies) => {
                for reply in &replies {
                    if let Reply::Error(line) = reply {
                        shared.look_at("probe", line);
                    }
                }
                let mut replies = replies.into_iter();
                let ping = replies.next().ok_or(Outage::Protocol).and_then(taken);
                let time = replies.next().ok_or(Outage::Protocol).and_then(taken);
                match ping.and(time) {
                    Ok(time) => {
                        let took = begun.elapsed();
                        note_time(shared, &time, took);
                        if let Some(Reply::Bulk(info)) = replies.next() {
                            let behind = is_behind(&Info::of_text(&String::from_utf8_lossy(&info)));
                            shared.behind.store(behind, Ordering::Relaxed);
                        }
                        shared.recorder.redis("probe", None, took);
                        return Ok(());
                    }
                    Err(outage) => outage,
                }
            }
            Err(Outage::Saturated) => {
                // No room for a probe: whether others are answered meanwhile tells as much.
                tokio::time::sleep(shared.timeout).await;
                Outage::Timeout
            }
            Err(outage) => outage,
        };
        // Others were answered meanwhile: it is there, only busy.
        if outage == Outage::Timeout && link.answers() > answers {
            return Ok(());
        }
        shared
            .recorder
            .redis("probe", Some(outage.word()), begun.elapsed());
        match outage {
            Outage::Timeout if attempt == 0 && shared.state() == State::Closed => {}
            // It answers: the link is good, Redis is not (yet).
            Outage::NotReady | Outage::ReadOnly | Outage::Full | Outage::Forbidden => {
                return Err(outage);
            }
            _ => {
                link.end(Outage::Connection);
                return Err(outage);
            }
        }
    }
    link.end(Outage::Connection);
    Err(Outage::Timeout)
}

/// TIME answers seconds and microseconds; it was read about half a round trip ago.
fn note_time(shared: &Shared, time: &Reply, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    shared.ping.store(micros.max(1), Ordering::Relaxed);
    let number = |reply: &Reply| match reply {
        Reply::Bulk(digits) => std::str::from_utf8(digits).ok()?.parse::<i64>().ok(),
        Reply::Int(number) => Some(*number),
        _ => None,
    };
    if let Reply::Array(parts) = time
        && let [seconds, micros] = parts.as_slice()
        && let (Some(seconds), Some(micros)) = (number(seconds), number(micros))
    {
        let there = seconds.saturating_mul(1_000).saturating_add(micros / 1_000);
        let age = shared.epoch.elapsed().saturating_sub(took / 2).as_millis();
        let age = i64::try_from(age).unwrap_or(i64::MAX);
        shared
            .server_epoch
            .store(there.saturating_sub(age), Ordering::Relaxed);
    }
}

/// Whether it is a replica without its primary, or far behind it.
fn is_behind(info: &Info) -> bool {
    let silent = info.number("master_last_io_seconds_ago");
    info.get("role") == Some("slave")
        && (info.get("master_link_status") != Some("up")
            || silent.is_none_or(|seconds| seconds > REPLICA_SILENCE_SECONDS_MAX))
}

/// Looks for silence while many commands wait; asleep while few do.
async fn watch(shared: &Shared) -> Infallible {
    loop {
        shared.busy.notified().await;
        let mut silent_before = false;
        loop {
            let after = shared.breaker().stall_after();
            let tick = after / 2;
            let due = Instant::now() + tick;
            tokio::time::sleep_until(due).await;
            // Late ourselves: what came in has not been read yet, so silence proves nothing.
            let late = Instant::now().duration_since(due) > tick;
            let links = shared.links.load_full();
            let busy: Vec<_> = links
                .iter()
                .filter(|link| link.waiting() >= STALL_WAITING && !link.is_dead())
                .collect();
            let silent: Vec<_> = busy.iter().filter(|link| link.silence() >= after).collect();
            if !silent.is_empty() && silent_before && !late {
                shared.open(Outage::Stalled, "nothing comes back while commands wait");
                silent.iter().for_each(|link| link.end(Outage::Stalled));
            }
            silent_before = !silent.is_empty() && !late;
            if busy.is_empty() {
                break;
            }
        }
    }
}

/// A link as the pool keeps it.
#[derive(Debug)]
struct Kept {
    link: Arc<Link>,
    /// The number of the access that it was had by.
    access: u64,
    /// How often the address had moved when it was made.
    moves: u64,
    /// It has a successor.
    retired: bool,
}

impl Kept {
    fn of(Connected { link, access }: Connected, moves: u64) -> Self {
        Self {
            link,
            access,
            moves,
            retired: false,
        }
    }

    fn is_over(&self) -> bool {
        self.retired || self.link.is_dead()
    }
}

/// Makes connections for the pool and tells it which are dead.
#[derive(Debug)]
struct Manager {
    dialer: Arc<Dialer>,
    address: Address,
    changed: Arc<Notify>,
}

impl ManageConnection for Manager {
    type Connection = Kept;
    type Error = Refused;

    async fn connect(&self) -> Result<Kept, Refused> {
        let (address, greeting) = (&self.address, Greeting::Server);
        let connected = self
            .dialer
            .connect(address, greeting, With::Any, &self.changed);
        // The pool itself makes none; one that it made would be replaced.
        connected.await.map(|connected| Kept::of(connected, 0))
    }

    async fn is_valid(&self, kept: &mut Kept) -> Result<(), Refused> {
        match kept.is_over() {
            true => Err(Refused::ended(self.address.is_tls())),
            false => Ok(()),
        }
    }

    fn has_broken(&self, kept: &mut Kept) -> bool {
        kept.is_over()
    }
}

/// What goes wrong inside the pool is told like any refused connect.
#[derive(Debug)]
struct Sink(Weak<Shared>);

impl bb8::ErrorSink<Refused> for Sink {
    fn sink(&self, refused: Refused) {
        if let Some(shared) = self.0.upgrade() {
            shared.refused(&refused, Duration::ZERO);
        }
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<Refused>> {
        Box::new(Self(self.0.clone()))
    }
}

/// How a Redis stands with those who use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    InUse,
    Away,
}

impl Standing {
    const fn word(self) -> &'static str {
        match self {
            Self::InUse => "in-use",
            Self::Away => "away",
        }
    }
}

/// What was said of one Redis: every worker sees the same thing happen, and it is told once.
#[derive(Debug, Default)]
pub struct News {
    said: Mutex<Said>,
    /// It refused a write for lack of room when last asked.
    full: AtomicBool,
    /// Number of the [`Forced`] that somebody asked for.
    forced: AtomicU8,
    /// How often its address may have come to lead to another server while connections stood.
    moves: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Said {
    /// As last told.
    standing: Option<Standing>,
    /// When each kind was last told; there are as many kinds as words for them in this room.
    at: HashMap<&'static str, Instant>,
}

impl News {
    /// The news of what is called so, shared by all who ask while one of them lives.
    pub fn of(address: &(impl ToString + ?Sized)) -> Arc<Self> {
        static ALL: OnceLock<Mutex<HashMap<String, Weak<News>>>> = OnceLock::new();
        shared_by_name(&ALL, address, Self::default)
    }

    /// A write to `redis` was taken, or refused for `outage`: says so where that is a change.
    pub fn wrote(&self, redis: &str, outage: Option<Outage>) {
        let full = match outage {
            None => false,
            Some(Outage::Full) => true,
            // Nothing about whether it is full.
            Some(_) => return,
        };
        // Read first: nearly always nothing has changed.
        if self.is_full() == full || self.full.swap(full, Ordering::Relaxed) == full {
            return;
        }
        if full && self.is_due("full") {
            tracing::warn!(
                redis,
                "Redis is full: it takes no writes; what it holds is still read, the rest is kept in memory alone"
            );
        } else if !full && self.is_due("room") {
            tracing::info!(redis, "Redis takes writes again");
        }
    }

    /// Who was taken for one server is a node of a Cluster.
    pub fn is_of_cluster(&self, redis: &str) {
        if self.is_due("cluster") {
            tracing::warn!(
                redis,
                "this is a node of a Redis Cluster and has a part of the keys only: write redis+cluster:// in redis.url"
            );
        }
    }

    /// The one server at `redis` is a replica. Where the primary has got its address, as managed servers
    /// fail over, new connections lead there: all handles of this process make them. Not more often than
    /// it is told, since it may be the address of a replica.
    pub fn read_only(&self, redis: &impl std::fmt::Display) {
        if self.is_due("read-only") {
            tracing::warn!(
                %redis,
                "Redis takes no writes, it is a replica (READONLY): connections are made anew, since its address may lead to another by now"
            );
            self.moves.send_modify(|moves| *moves += 1);
        }
    }

    /// How often its address may have come to lead to another server.
    pub fn moves(&self) -> u64 {
        *self.moves.borrow()
    }

    /// What the breaker is told to be.
    pub fn forced(&self) -> Forced {
        Forced::from_number(self.forced.load(Ordering::Relaxed))
    }

    /// Tells the breakers of all who ask for these news what to be; each obeys at its next probe.
    pub fn force(&self, forced: Forced) {
        self.forced.store(forced as u8, Ordering::Relaxed);
    }

    /// Whether it took no write when last asked to.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// `user` may not send a command of this `operation` to `redis`, or it has none such; it said so in
    /// `line`.
    pub fn forbidden(
        &self,
        redis: &impl std::fmt::Display,
        user: impl FnOnce() -> String,
        operation: &'static str,
        line: &[u8],
    ) {
        if self.is_due("forbidden") {
            let refused = Refused::reply(line, &user(), None);
            tracing::warn!(%redis, operation, reason = refused.reason, "{refused}");
        }
    }

    /// Whether it is to be told that this is how it stands now: not what was told last, and not told
    /// a moment ago.
    fn turned(&self, standing: Standing) -> bool {
        let mut said = self.said();
        let news = said.standing != Some(standing) && said.is_due(standing.word());
        if news {
            said.standing = Some(standing);
        }
        news
    }

    /// Whether this kind has not been told for a while; it is told now.
    pub fn is_due(&self, kind: &'static str) -> bool {
        self.said().is_due(kind)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn is_due(&mut self, kind: &'static str) -> bool {
        let now = Instant::now();
        let recent = |at: &Instant| now.duration_since(*at) < NEWS_PAUSE;
        let due = !self.at.get(kind).is_some_and(recent);
        if due {
            self.at.insert(kind, now);
        }
        due
    }
}

/// One of a kind for each name in this process, as long as somebody has it.
pub fn shared_by_name<T>(
    all: &OnceLock<Mutex<HashMap<String, Weak<T>>>>,
    name: &(impl ToString + ?Sized),
    make: impl FnOnce() -> T,
) -> Arc<T> {
    let mut all = all
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, one| one.strong_count() > 0);
    let name = name.to_string();
    if let Some(one) = all.get(&name).and_then(Weak::upgrade) {
        return one;
    }
    let one = Arc::new(make());
    all.insert(name, Arc::downgrade(&one));
    one
}

/// Spaces the connects of all handles of this process to one address while it takes none; the first
/// success lets everybody through at once.
#[derive(Debug)]
struct Turnstile {
    next: Mutex<Instant>,
    opened: Notify,
}

impl Turnstile {
    /// The turnstile of `address`, shared by all who ask while one of them lives.
    fn to(address: &Address) -> Arc<Self> {
        static ALL: OnceLock<Mutex<HashMap<String, Weak<Turnstile>>>> = OnceLock::new();
        shared_by_name(&ALL, address, || Self {
            next: Mutex::new(Instant::now()),
            opened: Notify::new(),
        })
    }

    /// When the caller may connect; the next one after it may somewhat later.
    fn turn(&self) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(Instant::now());
        *next = turn + CONNECT_SPACING + CONNECT_JITTER.mul_f64(fastrand::f64());
        turn
    }

    fn open(&self) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.opened.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_read_from_while_it_hears_of_its_primary() {
        for (info, behind) in [
            ("role:master\r\nconnected_slaves:1\r\n", false),
            (
                "role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:3\r\n",
                false,
            ),
            (
                "role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:30\r\n",
                true,
            ),
            (
                "role:slave\r\nmaster_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\n",
                true,
            ),
            ("role:slave\r\n", true),
        ] {
            assert_eq!(is_behind(&Info::of_text(info)), behind, "{info}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_every_worker_sees_is_told_once_for_all() {
        let (one, other) = (News::of("redis://told"), News::of("redis://told"));
        assert!(one.turned(Standing::InUse));
        assert!(!other.turned(Standing::InUse));
        assert!(other.turned(Standing::Away));
        assert!(!one.turned(Standing::Away));
        assert!(!one.turned(Standing::InUse), "told a moment ago");
        tokio::time::advance(NEWS_PAUSE).await;
        assert!(one.turned(Standing::InUse));
        assert!(News::of("redis://another").turned(Standing::InUse));
    }
}
