//! The way to Redis: topology, pool, breaker. Answers in time, or with an [`Outage`].
//!
//! Redis away is a value: every caller names what it does then. Nothing above this room sees a
//! connection.

mod acl;
pub mod breaker;
pub mod capacity;
mod driver;
#[doc(hidden)]
pub mod fuzz;
pub mod info;
mod keeper;
mod link;
mod outage;
mod patience;
mod resp;
mod script;
mod target;
#[cfg(test)]
pub(crate) mod testing;
pub mod vitals;
mod waiters;

pub use acl::acl;
pub use breaker::{Forced, State};
pub use outage::{error_reply, refusal};
pub use patience::as_one;
pub use script::Script;
pub use target::{Address, Refused, Topology};

use crate::config::settings;
use crate::secret::Secret;
use crate::semantics::Timestamp;
use crate::telemetry::Recorder;
use breaker::STALL_WAITING;
use bytes::Bytes;
use keeper::Shared;
use link::{Link, Pending, taken};
use redis::{Cmd, Pipeline, Value};
use resp::Reply;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use target::Target;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Why Redis did not answer. Never an error of the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outage {
    /// The breaker is open: not asked at all.
    Open,
    /// Connection refused, reset, closed, or name not found.
    Connection,
    /// No answer within `redis.timeout`.
    Timeout,
    /// The request has waited for Redis as long as it may (see [`as_one`]); says nothing about Redis.
    Spent,
    /// Commands wait and nothing comes back.
    Stalled,
    /// Too many commands wait on the connections already; says nothing about Redis.
    Saturated,
    /// AUTH or ACL refused.
    Denied,
    /// LOADING, BUSY, MASTERDOWN, CLUSTERDOWN, TRYAGAIN.
    NotReady,
    /// READONLY: this is not the primary.
    ReadOnly,
    /// OOM, MISCONF: it does not take writes.
    Full,
    /// It answered something that is not an answer to what was asked.
    Protocol,
}

impl Outage {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::Open,
        Self::Connection,
        Self::Timeout,
        Self::Spent,
        Self::Stalled,
        Self::Saturated,
        Self::Denied,
        Self::NotReady,
        Self::ReadOnly,
        Self::Full,
        Self::Protocol,
    ];

    /// The word for metrics and logs (`error_type`).
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Spent => "spent",
            Self::Stalled => "stalled",
            Self::Saturated => "saturated",
            Self::Denied => "denied",
            Self::NotReady => "not-ready",
            Self::ReadOnly => "read-only",
            Self::Full => "full",
            Self::Protocol => "protocol",
        }
    }
}

/// What one [`Redis`] has of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Connections kept, and the most there may be; at least one is kept.
    pub connections: (u32, u32),
    /// Commands under way at a time, over all of them; one more is [`Outage::Saturated`]. `None`: as many
    /// as the connections take.
    pub concurrent: Option<u32>,
}

impl Share {
    /// One connection, for who has little to ask.
    pub const ONE: Self = Self {
        connections: (1, 1),
        concurrent: None,
    };
}

/// What the health pages tell about a Redis.
#[derive(Clone, Debug, Default)]
pub struct RedisStatus {
    /// Whether commands are answered now.
    pub connected: bool,
    /// `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    /// How often the breaker has opened since the start.
    pub opened: u64,
    /// What the breaker was told to be, whatever it sees.
    pub forced: Forced,
    /// Connections open, over this worker.
    pub connections: u32,
    /// Of them, how many have commands under way.
    pub connections_used: u32,
    /// Most connections.
    pub connections_max: u32,
    /// Whether it refused the last write for lack of room (OOM, MISCONF).
    pub full: bool,
    /// Commands that wait for an answer now.
    pub waiting: u32,
    /// The most of them there may be.
    pub waiting_max: u32,
    /// Last probe's round trip.
    pub ping: Option<Duration>,
    /// Where it is, without user and password.
    pub address: String,
}

/// One Redis as one worker sees it: a few multiplexed connections behind a breaker.
///
/// Cheap to clone. Every call has a deadline and nobody queues for a connection. The last clone
/// dropped ends the task that keeps the connections.
#[derive(Clone, Debug)]
pub struct Redis {
    shared: Arc<Shared>,
    _keeper: Arc<Keeper>,
}

impl Redis {
    /// Begins to connect on the current runtime, and keeps trying; never fails, never waits.
    ///
    /// `url` is `settings.url`, or the second Redis for limits. `share` is this worker's of the pool.
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn start(
        settings: &settings::Redis,
        url: &Secret,
        share: Share,
        recorder: Recorder,
    ) -> Self {
        let target = Target::new(settings, url);
        let shared = Arc::new(Shared::new(settings, target, share, recorder));
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&shared)));
        Self {
            shared,
            _keeper: Arc::new(Keeper(keeper.abort_handle())),
        }
    }

    /// The string under `name`, in room of its own; `None` where nothing is there. Another type there
    /// is [`Outage::Protocol`]. For the metrics this is `get`.
    pub async fn get(&self, name: &[u8]) -> Result<Option<Bytes>, Outage> {
        let mut asked = self.send("get", 1, |out| resp::write_get(out, name))?;
        let reply = asked.reply().await.and_then(taken);
        asked.end(reply.and_then(|reply| match reply {
            Reply::Bulk(bytes) => Ok(Some(bytes)),
            Reply::Nil => Ok(None),
            _ => Err(Outage::Protocol),
        }))
    }

    /// One command. `operation` is its name for the metrics.
    ///
    /// A bulk string comes back in the room that it was read to, so that `Bytes` is made of it without
    /// a copy. An error reply is an [`Outage`].
    pub async fn query(&self, operation: &'static str, command: &Cmd) -> Result<Value, Outage> {
        let mut asked = self.send(operation, 1, |out| command.write_packed_command(out))?;
        let reply = asked.reply().await.and_then(taken);
        asked.end(reply.map(Reply::into_value))
    }

    /// Several commands in one round trip; one answer each.
    ///
    /// A reply that refuses only its own command stays in its place as `Value::ServerError` (see
    /// [`error_reply`]); one that speaks of Redis as a whole (LOADING, NOAUTH …) is the outage of all.
    /// Not for transactions.
    pub async fn pipeline(
        &self,
        operation: &'static str,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, Outage> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let mut asked = self.ask(operation, |link, times| link.send_all(pipeline, times))?;
        let replies = (asked.reply().await).map(|reply| link::all(pipeline, reply));
        let whole = |replies: Vec<Reply>| {
            let outages = replies.iter().filter_map(|reply| match reply {
                Reply::Error(line) => Some(outage::of_line(line)),
                _ => None,
            });
            let mut hard = outages.filter(|outage| outage.weight() == breaker::Weight::Hard);
            match hard.next() {
                Some(outage) => Err(outage),
                None => Ok(replies),
            }
        };
        let replies = asked.end(replies.and_then(whole))?;
        Ok(replies.into_iter().map(Reply::into_value).collect())
    }

    /// A script by its digest, loaded where the server does not have it, within the same deadline. It
    /// answers with a list of numbers and nothing else; another answer is [`Outage::Protocol`].
    pub async fn script(
        &self,
        operation: &'static str,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<Vec<i64>, Outage> {
        let mut asked = self.send(operation, 1, |out| script.write_call(out, keys, args))?;
        let mut reply = asked.reply().await;
        if reply.as_ref().is_ok_and(Script::is_missing) {
            asked.send_again(2, |out| {
                script.write_load(out);
                script.write_call(out, keys, args);
            })?;
            reply = asked.reply().await.map(Script::called);
        }
        let number = |reply: &Reply| match reply {
            Reply::Int(number) => Ok(*number),
            _ => Err(Outage::Protocol),
        };
        asked.end(reply.and_then(taken).and_then(|reply| match reply {
            Reply::Array(replies) => replies.iter().map(number).collect(),
            _ => Err(Outage::Protocol),
        }))
    }

    /// A connection of its own, outside the shared ones, for commands that block.
    pub async fn private_line(&self) -> Result<PrivateLine, Outage> {
        let line = PrivateLine::open(&self.shared.target).await;
        line.map_err(|refused| refused.outage)
    }

    /// Whether it makes sense to ask at all (the breaker is closed). Costs one atomic load.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shared.state() == State::Closed
    }

    /// What came of a write: `None` where it was taken. Told in the log where that is a change.
    pub fn wrote(&self, outage: Option<Outage>) {
        self.shared.wrote(outage);
    }

    /// Whether it refused the last write for lack of room. Costs one atomic load.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.is_full()
    }

    /// Tells the breakers of every handle of this process to this Redis what to be; they obey within a
    /// second.
    pub fn force(&self, forced: Forced) {
        self.shared.force(forced);
    }

    /// How long the caller may still wait for Redis: the deadline of one command, less what its
    /// request has waited already.
    #[must_use]
    pub fn patience(&self) -> Duration {
        patience::left(self.shared.timeout)
    }

    /// How many milliseconds Redis's clock is ahead of ours (negative: behind), where `now` is ours.
    /// Zero before Redis was asked for the first time; as exact as half a round trip.
    #[must_use]
    pub fn time_offset(&self, now: Timestamp) -> i64 {
        let offset = |there: u64| {
            let there = i64::try_from(there).ok()?;
            there.checked_sub(i64::try_from(now.as_millis()).ok()?)
        };
        self.shared.server_millis().and_then(offset).unwrap_or(0)
    }

    /// The largest share of the commands there may be that was under way at a time since this was last
    /// asked; 1.0 where one was turned away.
    #[must_use]
    pub fn utilization(&self) -> f64 {
        let status = self.status();
        let peak = self.shared.peak.swap(0, Ordering::Relaxed);
        let share = f64::from(peak.max(status.waiting)) / f64::from(status.waiting_max.max(1));
        share.min(1.0)
    }

    /// For the health pages.
    #[must_use]
    pub fn status(&self) -> RedisStatus {
        let shared = &self.shared;
        let links = shared.links.load();
        let live = || links.iter().filter(|link| !link.is_dead());
        RedisStatus {
            connected: self.is_up() && live().next().is_some(),
            breaker: shared.state().word(),
            opened: shared.opened.load(Ordering::Relaxed),
            forced: shared.forced(),
            connections: u32::try_from(live().count()).unwrap_or(u32::MAX),
            connections_used: u32::try_from(live().filter(|link| link.waiting() > 0).count())
                .unwrap_or(u32::MAX),
            connections_max: shared.connections.1,
            full: self.is_full(),
            waiting: waiting(&links),
            waiting_max: shared.concurrent.unwrap_or_else(|| {
                let each = u32::try_from(waiters::WAITING_MAX).unwrap_or(u32::MAX);
                each.saturating_mul(shared.connections.1)
            }),
            ping: shared.ping(),
            address: shared.target.address(),
        }
    }

    /// [`ask`](Self::ask) with what `write` appends.
    fn send(
        &self,
        operation: &'static str,
        replies: u32,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Asked<'_>, Outage> {
        self.ask(operation, |link, times| link.send(replies, times, write))
    }

    /// Breaker, patience, a live link: sent at once, or not at all.
    fn ask(
        &self,
        operation: &'static str,
        send: impl FnOnce(&Arc<Link>, (Instant, Instant)) -> Result<Pending, Outage>,
    ) -> Result<Asked<'_>, Outage> {
        let shared = &*self.shared;
        if shared.state() != State::Closed {
            return Err(Outage::Open);
        }
        let patience = patience::left(shared.timeout);
        if patience.is_zero() {
            return Err(Outage::Spent);
        }
        let links = shared.links.load();
        if let Some(most) = shared.concurrent {
            let waiting = waiting(&links);
            shared.peak.fetch_max(waiting + 1, Ordering::Relaxed);
            if waiting >= most {
                return Err(shared.saturated(operation));
            }
        }
        // One that is about to write anyway, else the one that the fewest wait on.
        let link = links
            .iter()
            .filter(|link| !link.is_dead())
            .min_by_key(|link| (!link.is_gathering(), link.waiting()))
            .ok_or(Outage::Connection)?;
        let begun = Instant::now();
        let answers = link.answers();
        let pending = send(link, (begun, begun + patience)).map_err(|outage| match outage {
            Outage::Saturated => shared.saturated(operation),
            outage => outage,
        })?;
        if link.waiting() == STALL_WAITING {
            shared.busy.notify_one();
        }
        Ok(Asked {
            shared,
            operation,
            begun,
            until: begun + patience,
            is_cut: patience < shared.timeout,
            answers,
            answered: None,
            pending,
        })
    }
}

/// Commands under way on these connections.
fn waiting(links: &[Arc<Link>]) -> u32 {
    let live = links.iter().filter(|link| !link.is_dead());
    let waiting: usize = live.map(|link| link.waiting()).sum();
    u32::try_from(waiting).unwrap_or(u32::MAX)
}

/// A command under way.
struct Asked<'a> {
    shared: &'a Shared,
    operation: &'static str,
    begun: Instant,
    until: Instant,
    /// Whether its request had less patience left than one command may take.
    is_cut: bool,
    /// Replies on the link before.
    answers: u64,
    /// When the reply came in.
    answered: Option<Instant>,
    pending: Pending,
}

impl Asked<'_> {
    async fn reply(&mut self) -> Result<Reply, Outage> {
        let answer = (&mut self.pending).await?;
        self.answered = Some(answer.at);
        Ok(answer.reply)
    }

    /// Sends more on the same link, within the same deadline.
    fn send_again(&mut self, replies: u32, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Outage> {
        let times = (Instant::now(), self.until);
        self.pending = self.pending.link().send(replies, times, write)?;
        self.answered = None;
        Ok(())
    }

    /// What came of it goes to the breaker and the metrics.
    fn end<T>(self, outcome: Result<T, Outage>) -> Result<T, Outage> {
        let shared = self.shared;
        let answered = self.answered.unwrap_or_else(Instant::now);
        let took = answered.saturating_duration_since(self.begun);
        patience::spend(took);
        let outage = match outcome {
            Ok(value) => {
                shared.answered(took, answered);
                shared.recorder.redis(self.operation, None, took);
                return Ok(value);
            }
            Err(Outage::Timeout) if self.is_cut => Outage::Spent,
            Err(outage) => outage,
        };
        // Nobody was answered all the while: ask in the background whether it is there.
        if outage == Outage::Timeout && self.pending.link().answers() == self.answers {
            shared.doubt.notify_one();
        }
        shared.failed(outage);
        shared
            .recorder
            .redis(self.operation, Some(outage.word()), took);
        Err(outage)
    }
}

/// A connection of its own to the Redis at `url`, for who has no [`Redis`] and wants to know why there
/// is none to be had. Must be called within a tokio runtime.
pub async fn line(settings: &settings::Redis, url: &Secret) -> Result<PrivateLine, Refused> {
    PrivateLine::open(&Target::new(settings, url)).await
}

/// Where `url` leads, without user and password.
#[must_use]
pub fn address(settings: &settings::Redis, url: &Secret) -> String {
    Target::new(settings, url).address()
}

/// A connection that one task has to itself; commands may block on it.
#[derive(Debug)]
pub struct PrivateLine(Arc<Link>);

impl PrivateLine {
    async fn open(target: &Target) -> Result<Self, Refused> {
        target.connect(Arc::new(Notify::new())).await.map(Self)
    }

    /// One command, answered within `deadline`.
    pub async fn query(&self, command: &Cmd, deadline: Duration) -> Result<Value, Outage> {
        let reply = self.0.command(command, deadline).await;
        reply.map(Reply::into_value)
    }

    /// A script, called as [`Redis::script`] does and answered within `deadline`.
    pub async fn script(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
        deadline: Duration,
    ) -> Result<Value, Outage> {
        let reply = self.0.script(script, keys, args, deadline).await;
        reply.map(Reply::into_value)
    }
}

/// Ends the keeper with the last handle.
#[derive(Debug)]
struct Keeper(tokio::task::AbortHandle);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Server, connect, recorder, settings_for, share, until};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(redis: &Redis) -> Result<Value, Outage> {
        let mut get = redis::cmd("GET");
        get.arg("k");
        redis.query("get", &get).await
    }

    async fn up(redis: &Redis) -> Duration {
        until("Redis is up", || redis.is_up()).await
    }

    #[test]
    fn every_outage_has_its_own_word() {
        let words: std::collections::HashSet<_> =
            Outage::ALL.iter().map(|outage| outage.word()).collect();
        assert_eq!(words.len(), Outage::ALL.len());
    }

    #[tokio::test]
    async fn commands_pipelines_and_scripts_are_answered() {
        let server = Server::start().await;
        let redis = server.connect();
        up(&redis).await;
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg("k").arg("v");
        pipeline.cmd("LPUSH").arg("k").arg("v");
        pipeline.cmd("GET").arg("k");
        let answers = redis.pipeline("fill", &pipeline).await.unwrap();
        assert_eq!(answers[0], Value::Okay);
        assert_eq!(error_reply(&answers[1]).unwrap().code(), "WRONGTYPE");
        assert_eq!(answers[2], Value::BulkString(b"v".to_vec()));
        assert_eq!(get(&redis).await, Ok(Value::BulkString(b"v".to_vec())));

        let script = Script::new("return {#redis.call('GET', KEYS[1]), -tonumber(ARGV[1])}");
        for _ in 0..2 {
            let answer = redis.script("script", &script, &[b"k"], &[b"3"]).await;
            assert_eq!(answer, Ok(vec![1, -3]));
            server.cli(&["SCRIPT", "FLUSH"]);
        }
        let mut wrong = redis::cmd("LPUSH");
        wrong.arg("k").arg("v");
        assert_eq!(redis.query("push", &wrong).await, Err(Outage::Protocol));
        assert!(redis.is_up());
        let status = redis.status();
        assert!(status.connected && status.ping.is_some());
        assert_eq!((status.breaker, status.connections), ("closed", 1));
    }

    #[tokio::test]
    async fn a_string_is_had_in_room_of_its_own_and_a_script_answers_with_numbers() {
        let server = Server::start().await;
        let redis = server.connect();
        up(&redis).await;
        let large = "x".repeat(300_000);
        server.cli(&["SET", "small", "v"]);
        server.cli(&[
            "EVAL",
            "redis.call('SET', 'large', string.rep('x', 300000))",
            "0",
        ]);
        server.cli(&["LPUSH", "list", "v"]);
        assert_eq!(redis.get(b"small").await, Ok(Some("v".into())));
        assert_eq!(redis.get(b"large").await, Ok(Some(large.into())));
        assert_eq!(redis.get(b"nothing").await, Ok(None));
        assert_eq!(redis.get(b"list").await, Err(Outage::Protocol));
        for code in [
            "return {1, 'a'}",
            "return 'a'",
            "return redis.error_reply('E')",
        ] {
            let answer = redis.script("script", &Script::new(code), &[], &[]).await;
            assert_eq!(answer, Err(Outage::Protocol), "{code}");
        }
        let nothing = redis.pipeline("nothing", &redis::pipe()).await;
        assert_eq!(nothing, Ok(Vec::new()));
        assert!(redis.is_up());
        // It lies in the future of every request that may have to ask.
        assert!(size_of_val(&redis.get(b"small")) <= 256);
    }

    #[tokio::test]
    async fn nothing_waits_for_a_redis_that_is_not_there_and_it_is_used_when_it_comes() {
        let mut server = Server::absent();
        let redis = server.connect();
        let begun = Instant::now();
        for _ in 0..1_000 {
            assert_eq!(get(&redis).await, Err(Outage::Open));
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() < Duration::from_millis(1_500));
        server.run().await;
        let took = up(&redis).await;
        assert!(took < Duration::from_millis(1_200), "{took:?}");
        assert_eq!(get(&redis).await, Ok(Value::Nil));
    }

    #[tokio::test]
    async fn a_request_waits_for_a_hung_redis_once_whatever_it_asks() {
        let server = Server::start().await;
        let redis = server.connect();
        up(&redis).await;
        server.signal("STOP");
        let begun = Instant::now();
        let answers = as_one(async { (get(&redis).await, get(&redis).await) }).await;
        assert_eq!(answers, (Err(Outage::Timeout), Err(Outage::Spent)));
        assert!(begun.elapsed() < Duration::from_millis(400));
    }

    #[tokio::test]
    async fn after_kill_and_restart_it_is_used_again_within_a_second() {
        let mut server = Server::start().await;
        let redis = server.connect();
        up(&redis).await;
        for _ in 0..3 {
            server.kill();
            until("the kill is noticed", || !redis.is_up()).await;
            let begun = Instant::now();
            assert!(get(&redis).await.is_err());
            assert!(begun.elapsed() < Duration::from_millis(60));
            server.run().await;
            let took = up(&redis).await;
            assert!(took < Duration::from_millis(1_200), "{took:?}");
            assert_eq!(get(&redis).await, Ok(Value::Nil));
        }
    }

    #[tokio::test]
    async fn a_hung_redis_costs_one_deadline_and_then_nothing() {
        let server = Server::start().await;
        let redis = server.connect();
        up(&redis).await;
        assert_eq!(get(&redis).await, Ok(Value::Nil));
        server.signal("STOP");
        let begun = Instant::now();
        let outage = get(&redis).await.unwrap_err();
        assert!(matches!(outage, Outage::Timeout | Outage::Open));
        assert!(begun.elapsed() < Duration::from_millis(400));
        until("the breaker is open", || !redis.is_up()).await;
        assert!(begun.elapsed() < Duration::from_millis(1_500));
        let begun = Instant::now();
        assert_eq!(get(&redis).await, Err(Outage::Open));
        assert!(begun.elapsed() < Duration::from_millis(60));
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.signal("CONT");
        let took = up(&redis).await;
        assert!(took < Duration::from_millis(1_500), "{took:?}");
        assert_eq!(get(&redis).await, Ok(Value::Nil));
    }

    #[tokio::test]
    async fn when_many_wait_a_stall_answers_all_of_them_together() {
        let server = Server::start().await;
        let mut settings = settings_for(&server.url());
        settings.timeout = Duration::from_secs(10);
        let redis = Redis::start(&settings, &settings.url, share(1, 2), recorder());
        up(&redis).await;
        for _ in 0..200 {
            get(&redis).await.unwrap();
        }
        server.signal("STOP");
        let begun = Instant::now();
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let redis = redis.clone();
                tokio::spawn(async move { get(&redis).await })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Err(Outage::Stalled));
        }
        let took = begun.elapsed();
        // Long before the deadline, however busy the machine is.
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert!(!redis.is_up());
        server.signal("CONT");
        up(&redis).await;
    }

    #[tokio::test]
    async fn a_closed_connection_is_replaced_unnoticed() {
        let server = Server::start().await;
        let redis = server.connect();
        up(&redis).await;
        for _ in 0..5 {
            server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
            tokio::time::sleep(Duration::from_millis(900)).await;
            assert_eq!(get(&redis).await, Ok(Value::Nil));
        }
        assert_eq!(redis.status().opened, 0);
    }

    #[tokio::test]
    async fn too_many_at_once_are_turned_away_without_harm_to_the_breaker() {
        let server = Server::start().await;
        let mut settings = settings_for(&server.url());
        settings.timeout = Duration::from_secs(5);
        let redis = Redis::start(&settings, &settings.url, share(1, 2), recorder());
        up(&redis).await;
        let callers: Vec<_> = (0..3 * waiters::WAITING_MAX)
            .map(|_| {
                let redis = redis.clone();
                tokio::spawn(async move { get(&redis).await })
            })
            .collect();
        let mut turned_away = 0;
        for caller in callers {
            match caller.await.unwrap() {
                Ok(_) => {}
                Err(Outage::Saturated) => turned_away += 1,
                Err(outage) => panic!("{outage:?}"),
            }
        }
        assert!(turned_away > 0);
        assert!(redis.is_up());
        until("another connection is made", || {
            redis.status().connections == 2
        })
        .await;
    }

    #[tokio::test]
    async fn no_more_commands_are_under_way_than_there_may_be() {
        let server = Server::start().await;
        let mut settings = settings_for(&server.url());
        settings.timeout = Duration::from_secs(5);
        let bounded = Share {
            connections: (1, 4),
            concurrent: Some(20),
        };
        let redis = Redis::start(&settings, &settings.url, bounded, recorder());
        up(&redis).await;
        assert!(redis.utilization() < 0.8);
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let redis = redis.clone();
                tokio::spawn(async move { get(&redis).await })
            })
            .collect();
        let (mut answered, mut turned_away) = (0, 0);
        for caller in callers {
            match caller.await.unwrap() {
                Ok(_) => answered += 1,
                Err(outage) => {
                    assert_eq!(outage, Outage::Saturated);
                    turned_away += 1;
                }
            }
        }
        assert_eq!((answered, turned_away), (20, 80));
        assert!(redis.is_up() && redis.status().opened == 0);
        assert_eq!((redis.utilization(), redis.utilization()), (1.0, 0.0));
        until("more connections are made", || {
            redis.status().connections > 1
        })
        .await;
    }

    #[tokio::test]
    async fn a_wrong_password_is_an_outage_and_a_right_one_is_not() {
        let server = Server::start_with(&["--requirepass", "right"]).await;
        let wrong = connect(&format!("redis://:wrong@127.0.0.1:{}", server.port));
        let right = connect(&format!("redis://:right@127.0.0.1:{}", server.port));
        up(&right).await;
        assert_eq!(get(&right).await, Ok(Value::Nil));
        assert!(!wrong.is_up());
        assert_eq!(get(&wrong).await, Err(Outage::Open));
    }

    #[tokio::test]
    async fn a_server_that_repeats_the_password_is_not_quoted_with_it() {
        let server = Server::start_with(&["--rename-command", "AUTH", "HIDDEN"]).await;
        let url = format!("redis://:hunter2@127.0.0.1:{}", server.port);
        let refused = Target::new(&settings_for(&url), &Secret::new(url))
            .connect(Arc::default())
            .await
            .unwrap_err();
        assert_eq!(refused.outage, Outage::Protocol);
        assert!(refused.text.contains("unknown command"), "{}", refused.text);
        assert!(!refused.text.contains("hunter2"), "{}", refused.text);
    }

    /// What the log says of a server that answers the first command of a greeting so, and then closes.
    async fn refused_with(reply: String, password: &str) -> Refused {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4_096]).await;
            stream.write_all(reply.as_bytes()).await.unwrap();
        };
        let url = format!("redis://{password}127.0.0.1:{port}");
        let target = Target::new(&settings_for(&url), &Secret::new(url));
        tokio::join!(target.connect(Arc::default()), serving)
            .0
            .unwrap_err()
    }

    #[tokio::test]
    async fn a_long_password_is_not_quoted_in_part_either() {
        let password = "hunter2".repeat(30);
        // Redis repeats the first 128 bytes of what it does not know.
        let cut = &password[..128];
        let reply = format!("-ERR unknown command 'AUTH', with args beginning with: '{cut}' \r\n");
        let refused = refused_with(reply, &format!(":{password}@")).await;
        assert!(refused.text.contains("unknown command"), "{}", refused.text);
        assert!(!refused.text.contains("hunter2"), "{}", refused.text);
    }

    #[tokio::test]
    async fn a_server_in_protected_mode_is_quoted() {
        let reply = "-DENIED Redis is running in protected mode\r\n".to_owned();
        let refused = refused_with(reply, "").await;
        assert_eq!(refused.outage, Outage::Denied);
        assert!(refused.text.contains("protected mode"), "{}", refused.text);
    }

    #[tokio::test]
    async fn all_handles_together_knock_no_more_than_twice_a_second() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let handles: Vec<_> = (0..4).map(|_| connect(&url)).collect();
        let mut knocks = 0;
        let _ = tokio::time::timeout(Duration::from_secs(3), async {
            loop {
                drop(listener.accept().await);
                knocks += 1;
            }
        })
        .await;
        assert!((3..=7).contains(&knocks), "{knocks}");
        assert!(handles.iter().all(|redis| !redis.is_up()));
    }

    #[tokio::test]
    async fn a_server_with_too_many_clients_counts_as_refused() {
        let server = Server::start_with(&["--maxclients", "1"]).await;
        let first = server.connect();
        up(&first).await;
        let refused = Target::new(&settings_for(&server.url()), &Secret::new(server.url()))
            .connect(Arc::default())
            .await
            .unwrap_err();
        assert_eq!(refused.outage, Outage::Connection, "{}", refused.text);
        assert_eq!(get(&first).await, Ok(Value::Nil));
    }

    #[tokio::test]
    async fn loading_and_busy_are_outages_that_pass() {
        let server = Server::start_with(&["--busy-reply-threshold", "50"]).await;
        let redis = server.connect();
        up(&redis).await;
        let port = server.port.to_string();
        let mut endless = std::process::Command::new("redis-cli")
            .args(["-p", &port, "EVAL", "while true do end", "0"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        until("the script is noticed", || !redis.is_up()).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.cli(&["SCRIPT", "KILL"]);
        endless.wait().unwrap();
        let took = up(&redis).await;
        assert!(took < Duration::from_millis(1_500), "{took:?}");
    }

    #[tokio::test]
    async fn full_and_read_only_servers_are_still_read() {
        let server = Server::start().await;
        let redis = server.connect();
        up(&redis).await;
        let mut set = redis::cmd("SET");
        set.arg("k").arg("v");
        server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        for _ in 0..20 {
            assert_eq!(redis.query("set", &set).await, Err(Outage::Full));
        }
        assert_eq!(get(&redis).await, Ok(Value::Nil));
        server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
        server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
        assert_eq!(redis.query("set", &set).await, Err(Outage::ReadOnly));
        assert_eq!(get(&redis).await, Ok(Value::Nil));
        assert!(redis.is_up());
    }

    #[tokio::test]
    async fn whoever_answers_garbage_is_not_used() {
        for garbage in [
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "$999999999\r\n",
            "*999999999\r\n",
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.read(&mut [0; 1_024]).await;
                    let _ = stream.write_all(garbage.as_bytes()).await;
                    let _ = stream.read(&mut [0; 1_024]).await;
                }
            });
            let redis = connect(&format!("redis://127.0.0.1:{port}"));
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(get(&redis).await, Err(Outage::Open));
        }
    }

    #[tokio::test]
    async fn a_unix_socket_and_a_database_number_work() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("redis.sock");
        let path = path.to_str().unwrap();
        let server = Server::start_with(&["--unixsocket", path]).await;
        let redis = connect(&format!("redis+unix://{path}?db=3"));
        up(&redis).await;
        server.cli(&["-n", "3", "SET", "k", "three"]);
        assert_eq!(get(&redis).await, Ok(Value::BulkString(b"three".to_vec())));
    }

    #[tokio::test]
    async fn tls_is_verified_against_the_given_authority() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = file("cert.pem", made.cert.pem());
        let key = file("key.pem", made.signing_key.serialize_pem());
        let plain = Server::absent();
        let tls_port = Server::absent().port.to_string();
        let mut server = plain;
        server
            .run_with(&[
                "--tls-port",
                &tls_port,
                "--tls-cert-file",
                &certificate,
                "--tls-key-file",
                &key,
                "--tls-auth-clients",
                "no",
            ])
            .await;
        let url = format!("rediss://localhost:{tls_port}");
        let mut settings = settings_for(&url);
        let distrustful = Redis::start(&settings, &settings.url, share(1, 1), recorder());
        settings.tls_ca = Some(certificate.into());
        let trusting = Redis::start(&settings, &settings.url, share(1, 1), recorder());
        up(&trusting).await;
        assert_eq!(get(&trusting).await, Ok(Value::Nil));
        assert!(!distrustful.is_up());
    }

    #[tokio::test]
    async fn the_clock_of_redis_is_known() {
        let server = Server::start().await;
        let redis = server.connect();
        let now = crate::clock::Clock::system().now();
        assert_eq!(redis.time_offset(now), 0);
        up(&redis).await;
        let now = crate::clock::Clock::system().now();
        assert!(redis.time_offset(now).abs() < 50);
        let earlier = Timestamp::from_millis(now.as_millis() - 60_000);
        assert!((redis.time_offset(earlier) - 60_000).abs() < 50);
    }

    #[tokio::test]
    async fn answers_never_cross_when_callers_give_up() {
        let server = Server::start().await;
        let redis = server.connect();
        up(&redis).await;
        let tasks: Vec<_> = (0..32u32)
            .map(|task| {
                let redis = redis.clone();
                tokio::spawn(async move {
                    for n in 0..100u32 {
                        let mut echo = redis::cmd("ECHO");
                        let said = format!("{task}-{n}").into_bytes();
                        echo.arg(&said);
                        let patience = Duration::from_micros(u64::from(fastrand::u32(0..3_000)));
                        let answer = redis.query("echo", &echo);
                        if let Ok(Ok(answer)) = tokio::time::timeout(patience, answer).await {
                            assert_eq!(answer, Value::BulkString(said));
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn through_kills_and_stops_every_call_ends_in_time_with_its_own_answer() {
        let mut server = Server::start().await;
        let redis = server.connect();
        up(&redis).await;
        let load: Vec<_> = (0..16u32)
            .map(|task| {
                let redis = redis.clone();
                tokio::spawn(async move {
                    let (mut answered, mut slowest) = (0, Duration::ZERO);
                    for n in 0..2_000u32 {
                        let said = format!("{task}-{n}").into_bytes();
                        let mut echo = redis::cmd("ECHO");
                        echo.arg(&said);
                        let begun = Instant::now();
                        let answer = redis.query("echo", &echo).await;
                        slowest = slowest.max(begun.elapsed());
                        match answer {
                            Ok(answer) => {
                                assert_eq!(answer, Value::BulkString(said));
                                answered += 1;
                            }
                            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    (answered, slowest)
                })
            })
            .collect();
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.run().await;
            let back = up(&redis).await;
            assert!(back < Duration::from_millis(1_500), "{back:?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.signal("STOP");
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.signal("CONT");
            let back = up(&redis).await;
            assert!(back < Duration::from_millis(1_500), "{back:?}");
        }
        for task in load {
            let (answered, slowest) = task.await.unwrap();
            assert!(answered > 100, "{answered}");
            assert!(slowest < Duration::from_millis(800), "{slowest:?}");
        }
    }
}
