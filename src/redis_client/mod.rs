//! The way to Redis: topology, pool, breaker. Answers in time, or with an [`Outage`].
//!
//! Redis away is a value: every caller names what it does then. Nothing above this room sees a
//! connection.

mod acl;
pub mod breaker;
pub mod capacity;
mod cause;
mod dial;
mod discovery;
mod driver;
#[doc(hidden)]
pub mod fuzz;
pub mod info;
mod keeper;
mod link;
mod map;
mod node;
mod outage;
mod patience;
mod redirect;
mod resp;
mod routed;
mod script;
mod subscription;
#[cfg(test)]
pub(crate) mod testing;
pub mod vitals;
mod waiters;

pub use acl::acl;
pub use breaker::{Forced, State};
pub use cause::Refused;
pub use node::Node;
pub use patience::as_one;
pub use script::Script;
pub use subscription::Subscription;

use crate::config::RedisUrl;
use crate::config::redis_url::{Address, Topology};
use crate::config::settings::{self, ReadFrom};
use crate::semantics::Timestamp;
use crate::telemetry::Recorder;
use bytes::Bytes;
use dial::{Connected, Dialer, Greeting, With};
use discovery::Discovery;
use info::Info;
use keeper::News;
use node::Ways;
use redirect::{Redirect, Turned};
use redis::{Arg, Cmd, Pipeline, Value};
use resp::Reply;
use routed::Routed;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

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
    /// AUTH refused, or the connection was never let in.
    Denied,
    /// NOPERM, or a server that does not have it: this one command cannot be sent; says nothing about
    /// the others.
    Forbidden,
    /// LOADING, BUSY, MASTERDOWN, CLUSTERDOWN; or nobody has the key's slot.
    NotReady,
    /// READONLY: this is not the primary.
    ReadOnly,
    /// OOM, MISCONF: it does not take writes.
    Full,
    /// The key is on its way from one server to another (a second MOVED or ASK, TRYAGAIN).
    Moved,
    /// It answered something that is not an answer to what was asked.
    Protocol,
}

impl Outage {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::Open,
        Self::Connection,
        Self::Timeout,
        Self::Spent,
        Self::Stalled,
        Self::Saturated,
        Self::Denied,
        Self::Forbidden,
        Self::NotReady,
        Self::ReadOnly,
        Self::Full,
        Self::Moved,
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
            Self::Forbidden => "forbidden",
            Self::NotReady => "not-ready",
            Self::ReadOnly => "read-only",
            Self::Full => "full",
            Self::Moved => "moved",
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
    /// Whether a connection is left that was had by credentials which have been exchanged since.
    pub outdated: bool,
    /// Where it is, without user and password.
    pub address: String,
}

/// One Redis as one worker sees it: a server, or several that share the keys among them, each with a
/// few multiplexed connections behind a breaker.
///
/// Cheap to clone. Every call has a deadline and nobody queues for a connection. The last clone
/// dropped ends the tasks that keep the connections.
#[derive(Clone, Debug)]
pub struct Redis {
    servers: Servers,
    ways: Arc<Ways>,
    /// As it is shown: without user and password.
    address: Arc<str>,
}

#[derive(Clone, Debug)]
enum Servers {
    /// One has all keys.
    One(Node),
    /// Which has which is asked.
    Several {
        routed: Arc<Routed>,
        _keeper: Arc<Task>,
    },
}

impl Redis {
    /// Begins to connect on the current runtime, and keeps trying; never fails, never waits.
    ///
    /// `url` is `settings.url`, or the second Redis for limits. `share` is this worker's of
    /// the pool, to each server. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(
        settings: &settings::Redis,
        url: &RedisUrl,
        share: Share,
        recorder: Recorder,
    ) -> Self {
        let ways = Ways {
            dialer: Arc::new(Dialer::new(settings, url)),
            settings: settings.clone(),
            share,
            recorder,
            news: News::of(url),
            reads_replicas: settings.read_from != ReadFrom::Primary,
        };
        let servers = match &url.topology {
            Topology::Single(address) if !ways.reads_replicas => {
                Servers::One(Node::start(&ways, address.clone()))
            }
            _ => {
                let discovery = Discovery::of(url, &ways.dialer, ways.reads_replicas);
                let routed = Arc::new(Routed::new(ways.clone(), discovery));
                let kept = Arc::clone(&routed);
                let task = tokio::spawn(async move { kept.keep().await });
                Servers::Several {
                    routed,
                    _keeper: Arc::new(Task(task.abort_handle())),
                }
            }
        };
        Self {
            servers,
            ways: Arc::new(ways),
            address: url.to_string().into(),
        }
    }

    /// The string under `name`, in room of its own; `None` where nothing is there. Another type there
    /// is [`Outage::Protocol`]. For the metrics this is `get`.
    pub async fn get(&self, name: &[u8]) -> Result<Option<Bytes>, Outage> {
        let write = |out: &mut Vec<u8>| resp::write_get(out, name);
        let read = |reply| match reply {
            Reply::Bulk(bytes) => Ok(Some(bytes)),
            Reply::Nil => Ok(None),
            _ => Err(Outage::Protocol),
        };
        let node = self.node(name, true)?;
        match node.call("get", 1, write, read).await {
            Ok(found) => Ok(found),
            Err(turned) => {
                let elsewhere = self.whereto(&node, turned)?;
                // Boxed, since it is seldom needed and would lie in the future of every request.
                Box::pin(elsewhere.call("get", None, write, read)).await
            }
        }
    }

    /// The same, from the primary even where replicas are read from.
    pub async fn get_newest(&self, name: &[u8]) -> Result<Option<Bytes>, Outage> {
        let mut get = redis::cmd("GET");
        match self.query("get", get.arg(name)).await? {
            Value::BulkString(bytes) => Ok(Some(bytes.into())),
            Value::Nil => Ok(None),
            _ => Err(Outage::Protocol),
        }
    }

    /// One command on `key`, which is its first argument. `operation` is its name for the metrics.
    ///
    /// A bulk string comes back in the room that it was read to, so that `Bytes` is made of it without
    /// a copy. An error reply is an [`Outage`].
    pub async fn query(&self, operation: &'static str, command: &Cmd) -> Result<Value, Outage> {
        let node = self.node(key_of(command), false)?;
        let write = |out: &mut Vec<u8>| command.write_packed_command(out);
        let asked = match node.call(operation, 1, write, Ok).await {
            Err(turned) => {
                let elsewhere = self.whereto(&node, turned)?;
                elsewhere.call(operation, None, write, Ok).await
            }
            Ok(reply) => Ok(reply),
        };
        asked.map(Reply::into_value)
    }

    /// Several commands at once, each on the key that is its first argument: one round trip to each
    /// server that has any of them. One answer each; a reply that refuses its command is an outage.
    /// Not for transactions.
    pub async fn pipeline(
        &self,
        operation: &'static str,
        pipeline: &Pipeline,
    ) -> Vec<Result<Value, Outage>> {
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        if commands.is_empty() {
            return Vec::new();
        }
        let all = |outage: Outage| commands.iter().map(|_| Err(outage)).collect();
        let routed = match &self.servers {
            Servers::One(node) => {
                let answers = match node.send_all(operation, &commands) {
                    Ok(batch) => batch.answers().await,
                    Err(outage) => Err(outage),
                };
                let one = |answer: Result<_, Turned>| answer.map_err(|turned| self.alone(turned));
                return answers.map_or_else(all, |all| all.into_iter().map(one).collect());
            }
            Servers::Several { routed, .. } => routed,
        };
        let divided = routed.divide(commands.iter().map(|command| key_of(command)));
        let batches: Vec<_> = divided
            .iter()
            .map(|(node, places)| {
                let its: Vec<&Cmd> = places.iter().map(|at| commands[*at]).collect();
                node.as_ref()
                    .map_err(|outage| *outage)?
                    .send_all(operation, &its)
            })
            .collect();
        let mut answers: Vec<Result<Value, Outage>> = all(Outage::Open);
        for ((node, places), batch) in divided.iter().zip(batches) {
            let told = match batch {
                Ok(batch) => batch.answers().await,
                Err(outage) => Err(outage),
            };
            let told =
                told.unwrap_or_else(|outage| places.iter().map(|_| Err(outage.into())).collect());
            for (at, told) in places.iter().zip(told) {
                let write = |out: &mut Vec<u8>| commands[*at].write_packed_command(out);
                answers[*at] = match (told, node) {
                    (Ok(value), _) => Ok(value),
                    (Err(turned), Err(_)) => Err(turned.outage()),
                    (Err(turned), Ok(node)) => match Elsewhere::find(routed, node, turned) {
                        Ok(elsewhere) => {
                            let asked = elsewhere.call(operation, None, write, Ok).await;
                            asked.map(Reply::into_value)
                        }
                        Err(outage) => Err(outage),
                    },
                };
            }
        }
        answers
    }

    /// A script by its digest, loaded where the server does not have it, within the same deadline. It
    /// answers with a list of numbers and nothing else; another answer is [`Outage::Protocol`]. Its keys
    /// lie in one slot.
    pub async fn script(
        &self,
        operation: &'static str,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<Vec<i64>, Outage> {
        let number = |reply: &Reply| match reply {
            Reply::Int(number) => Ok(*number),
            _ => Err(Outage::Protocol),
        };
        let read = |reply| match reply {
            Reply::Array(replies) => replies.iter().map(number).collect(),
            _ => Err(Outage::Protocol),
        };
        let node = self.node(keys.first().copied().unwrap_or_default(), false)?;
        match node.script(operation, script, keys, args, read).await {
            Ok(numbers) => Ok(numbers),
            Err(turned) => {
                let elsewhere = self.whereto(&node, turned)?;
                let write = |out: &mut Vec<u8>| script.write_call(out, keys, args);
                elsewhere.call(operation, Some(script), write, read).await
            }
        }
    }

    /// A connection of its own to the server that has `key`, outside the shared ones, for commands that
    /// block.
    pub async fn private_line(&self, key: &[u8]) -> Result<PrivateLine, Outage> {
        let node = self.node(key, false)?;
        let line = self.line_to(&node, With::Any).await;
        line.map_err(|refused| refused.outage)
    }

    async fn line_to(&self, node: &Node, with: With) -> Result<PrivateLine, Refused> {
        let (dialer, address) = (&self.ways.dialer, node.address());
        let moves = self.ways.news.moves();
        let line = PrivateLine::open(dialer, address, with).await?;
        let told = (Arc::clone(&self.ways.news), address.clone(), dialer.user());
        Ok(PrivateLine {
            told: Some(told),
            moves,
            ..line
        })
    }

    /// One in place of `line`, where it was had by credentials that have been exchanged since, or before
    /// the address came to lead elsewhere, and the server takes the new ones. Until then the old one is as
    /// good.
    pub async fn renewed_line(&self, key: &[u8], line: &PrivateLine) -> Option<PrivateLine> {
        let is_newest = line.connected.access == self.ways.dialer.number();
        if is_newest && line.moves == self.ways.news.moves() {
            return None;
        }
        let node = self.node(key, false).ok()?;
        self.line_to(&node, With::Newest).await.ok()
    }

    /// Takes up the credentials and TLS of `settings` and `url`, which lead to the same servers. Each
    /// connection is replaced by one that was greeted with them; the old one serves until that stands.
    pub fn renew(&self, settings: &settings::Redis, url: &RedisUrl) {
        self.ways.dialer.renew(settings, url);
    }

    /// A line of one's own ended so: where that may mean that another server has its key now, it is
    /// asked which.
    pub fn line_ended(&self, outage: Outage) {
        match &self.servers {
            Servers::One(_) if outage == Outage::Moved => {
                self.ways.news.is_of_cluster(&self.address)
            }
            Servers::One(_) => {}
            Servers::Several { routed, .. } => routed.ended(outage),
        }
    }

    /// Every server that is known now.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        match &self.servers {
            Servers::One(node) => vec![node.clone()],
            Servers::Several { routed, .. } => routed.nodes(),
        }
    }

    /// Whether it makes sense to ask at all (a breaker is closed). Costs one atomic load a server.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match &self.servers {
            Servers::One(node) => node.is_up(),
            Servers::Several { routed, .. } => routed.is_up(),
        }
    }

    /// Whether keys are divided among several servers, so that one may be away alone.
    #[must_use]
    pub fn is_divided(&self) -> bool {
        match &self.servers {
            Servers::One(_) => false,
            Servers::Several { routed, .. } => routed.is_divided(),
        }
    }

    /// Whether it makes sense to ask the server that has `key`.
    #[must_use]
    pub fn serves(&self, key: &[u8]) -> bool {
        self.node(key, false).is_ok_and(|node| node.is_up())
    }

    /// What came of a write: `None` where it was taken. Told in the log where that is a change.
    pub fn wrote(&self, outage: Option<Outage>) {
        self.ways.news.wrote(&self.address, outage);
    }

    /// Whether it refused the last write for lack of room. Costs one atomic load.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ways.news.is_full()
    }

    /// Tells the breakers of every handle of this process to this Redis what to be; they obey within a
    /// second.
    pub fn force(&self, forced: Forced) {
        self.ways.news.force(forced);
        self.nodes().iter().for_each(Node::is_forced);
    }

    /// How long the caller may still wait for Redis: the deadline of one command, less what its
    /// request has waited already.
    #[must_use]
    pub fn patience(&self) -> Duration {
        patience::left(self.ways.settings.timeout)
    }

    /// How many milliseconds the clock of the server that has `key` is ahead of ours (negative:
    /// behind), where `now` is ours. Zero before it was asked for the first time; as exact as half a
    /// round trip.
    #[must_use]
    pub fn time_offset(&self, key: &[u8], now: Timestamp) -> i64 {
        self.node(key, false)
            .map_or(0, |node| node.time_offset(now))
    }

    /// The largest share of the commands there may be that was under way at a time at one of the servers
    /// since this was last asked; 1.0 where one was turned away.
    #[must_use]
    pub fn utilization(&self) -> f64 {
        let each = self.nodes().into_iter();
        each.map(|node| node.utilization()).fold(0.0, f64::max)
    }

    /// For the health pages. Of several servers: whether all primaries are connected, the breaker that
    /// is worst off, the sums, the longest round trip.
    #[must_use]
    pub fn status(&self) -> RedisStatus {
        let primaries: Vec<_> = self.primaries().iter().map(Node::status).collect();
        let worst = [State::Open, State::HalfOpen].into_iter().find(|state| {
            primaries.is_empty() || primaries.iter().any(|one| one.breaker == state.word())
        });
        RedisStatus {
            connected: !primaries.is_empty() && primaries.iter().all(|one| one.connected),
            breaker: worst.unwrap_or(State::Closed).word(),
            opened: primaries.iter().map(|one| one.opened).sum(),
            forced: self.ways.news.forced(),
            connections: primaries.iter().map(|one| one.connections).sum(),
            connections_used: primaries.iter().map(|one| one.connections_used).sum(),
            connections_max: primaries.iter().map(|one| one.connections_max).sum(),
            full: self.is_full(),
            waiting: primaries.iter().map(|one| one.waiting).sum(),
            waiting_max: primaries.iter().map(|one| one.waiting_max).sum(),
            ping: primaries.iter().filter_map(|one| one.ping).max(),
            outdated: self.nodes().iter().any(|one| one.status().outdated),
            address: self.address.to_string(),
        }
    }

    /// What its primaries say of themselves (INFO), as one; `None` where one of them does not. Asks them
    /// one after the other.
    pub async fn info(&self) -> Option<Info> {
        let mut all = Vec::new();
        for node in self.primaries() {
            // The default sections: several names at once are understood from Redis 7 on only.
            let reply = node.query("info", &redis::cmd("INFO")).await.ok()?;
            all.push(Info::read(&reply)?);
        }
        Info::together(all)
    }

    fn primaries(&self) -> Vec<Node> {
        match &self.servers {
            Servers::One(node) => vec![node.clone()],
            Servers::Several { routed, .. } => routed.primaries(),
        }
    }

    /// Who takes a command on `key`, one that only `reads` or any.
    fn node(&self, key: &[u8], reads: bool) -> Result<Cow<'_, Node>, Outage> {
        match &self.servers {
            Servers::One(node) => Ok(Cow::Borrowed(node)),
            Servers::Several { routed, .. } => routed.node(key, reads).map(Cow::Owned),
        }
    }

    /// The outage that it is for who knows of one server only, which is said.
    fn alone(&self, turned: Turned) -> Outage {
        match turned {
            Turned::To(_) => self.ways.news.is_of_cluster(&self.address),
            Turned::Away(Outage::ReadOnly) => self.ways.news.read_only(&self.address),
            Turned::Away(_) => {}
        }
        turned.outage()
    }

    /// Whereto `node` turned us; or the outage that it is.
    fn whereto(&self, node: &Node, turned: Turned) -> Result<Elsewhere<'_>, Outage> {
        match &self.servers {
            Servers::One(_) => Err(self.alone(turned)),
            Servers::Several { routed, .. } => Elsewhere::find(routed, node, turned),
        }
    }
}

/// Where a command is sent once more, since another server turned us there.
struct Elsewhere<'a> {
    routed: &'a Routed,
    node: Node,
    asking: bool,
}

impl<'a> Elsewhere<'a> {
    fn find(routed: &'a Routed, from: &Node, turned: Turned) -> Result<Self, Outage> {
        match turned {
            Turned::Away(outage) => {
                routed.ended(outage);
                Err(outage)
            }
            Turned::To(redirect) => Ok(Self {
                routed,
                node: routed.redirected(&redirect, from.address())?,
                asking: redirect.asking,
            }),
        }
    }

    /// Sends it, with the `script` that the server may not know before it. Another turn is an outage.
    async fn call<T>(
        self,
        operation: &'static str,
        script: Option<&Script>,
        write: impl Fn(&mut Vec<u8>),
        read: impl FnOnce(Reply) -> Result<T, Outage>,
    ) -> Result<T, Outage> {
        let before = u32::from(script.is_some()) + u32::from(self.asking);
        let write = |out: &mut Vec<u8>| {
            if let Some(script) = script {
                script.write_load(out);
            }
            if self.asking {
                resp::write_command(out, 1, [b"ASKING".as_slice()].into_iter());
            }
            write(out);
        };
        // What comes before it has no answer of interest.
        let last = |reply: Reply| match reply {
            Reply::Array(replies) if before > 0 => replies.into_iter().next_back(),
            reply => Some(reply),
        };
        let asked = self.node.call(operation, before + 1, write, |reply| {
            let reply = last(reply).ok_or(Outage::Protocol)?;
            read(Redirect::taken(reply).map_err(Turned::outage)?)
        });
        let asked = asked.await.map_err(Turned::outage);
        asked.inspect_err(|outage| self.routed.ended(*outage))
    }
}

/// The first argument of a command.
fn key_of(command: &Cmd) -> &[u8] {
    match command.args_iter().nth(1) {
        Some(Arg::Simple(key)) => key,
        _ => &[],
    }
}

/// One of the servers that make up a Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    /// Whether it is said to follow another of them.
    pub follows: bool,
}

/// The servers that make up the Redis at `url`, primaries first; or why they are not known. Must be called within a tokio runtime.
pub async fn servers(settings: &settings::Redis, url: &RedisUrl) -> Result<Vec<Server>, Refused> {
    let server = |address: &Address, follows| Server {
        address: address.clone(),
        follows,
    };
    if let Topology::Single(address) = &url.topology {
        return Ok(vec![server(address, false)]);
    }
    let dialer = Arc::new(Dialer::new(settings, url));
    let map = Discovery::of(url, &dialer, true).ask_once().await?;
    let primaries = map.shards().iter().map(|shard| &shard.primary);
    let replicas = map.shards().iter().flat_map(|shard| &shard.replicas);
    let replicas = replicas.map(|address| server(address, true));
    let primaries = primaries.map(|address| server(address, false));
    Ok(primaries.chain(replicas).collect())
}

/// A connection of its own to a server of the Redis at `url`, for who has no [`Redis`] and wants to know
/// why there is none to be had. Must be called within a tokio runtime.
pub async fn line(
    settings: &settings::Redis,
    url: &RedisUrl,
    address: &Address,
) -> Result<PrivateLine, Refused> {
    PrivateLine::open(&Dialer::new(settings, url), address, With::Newest).await
}

/// A connection that one task has to itself; commands may block on it.
#[derive(Debug)]
pub struct PrivateLine {
    connected: Connected,
    /// Where it is told that a command is refused to our user: who that is, and where.
    told: Option<(Arc<News>, Address, String)>,
    /// How often the address had moved when it was made.
    moves: u64,
}

impl PrivateLine {
    async fn open(dialer: &Dialer, address: &Address, with: With) -> Result<Self, Refused> {
        let alone = Arc::default();
        let connected = dialer.connect(address, Greeting::Server, with, &alone);
        Ok(Self {
            connected: connected.await?,
            told: None,
            moves: 0,
        })
    }

    /// One command, answered within `deadline`.
    pub async fn query(&self, command: &Cmd, deadline: Duration) -> Result<Value, Outage> {
        self.taken(self.connected.link.reply(command, deadline).await?)
    }

    /// A script, called as [`Redis::script`] does and answered within `deadline`.
    pub async fn script(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
        deadline: Duration,
    ) -> Result<Value, Outage> {
        let reply = self.connected.link.script(script, keys, args, deadline);
        self.taken(reply.await?)
    }

    fn taken(&self, reply: Reply) -> Result<Value, Outage> {
        if let (Reply::Error(line), Some((news, address, user))) = (&reply, &self.told)
            && outage::of_line(line) == Outage::Forbidden
        {
            news.forbidden(address, || user.clone(), "follow", line);
        }
        link::taken(reply).map(Reply::into_value)
    }
}

/// Ends a task with the last handle.
#[derive(Debug)]
struct Task(tokio::task::AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Server, connect, recorder, settings_for, share, until};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    async fn dialed(url: &str) -> Result<PrivateLine, Refused> {
        let settings = settings_for(url);
        let address = settings.url.topology.addresses()[0].clone();
        line(&settings, &settings.url, &address).await
    }

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
        let answers = redis.pipeline("fill", &pipeline).await;
        let value = Value::BulkString(b"v".to_vec());
        assert_eq!(answers, [Ok(Value::Okay), Err(Outage::Protocol), Ok(value)]);
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
        assert_eq!(nothing, []);
        assert!(redis.is_up());
        // It lies in the future of every request that may have to ask.
        let size = size_of_val(&redis.get(b"small"));
        assert!(size <= 320, "{size}");
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
        // A probe of its own may be under way the second time.
        let (most, now) = (redis.utilization(), redis.utilization());
        assert!((most - 1.0).abs() < 1e-6 && now <= 0.05, "{most} and {now}");
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
        let refused = dialed(&url).await.unwrap_err();
        assert_eq!(refused.outage, Outage::Forbidden);
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
        tokio::join!(dialed(&url), serving).0.unwrap_err()
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
        // One of them to see how the port speaks.
        assert!((3..=8).contains(&knocks), "{knocks}");
        assert!(handles.iter().all(|redis| !redis.is_up()));
    }

    #[tokio::test]
    async fn a_server_with_too_many_clients_counts_as_refused() {
        let server = Server::start_with(&["--maxclients", "1"]).await;
        let first = server.connect();
        up(&first).await;
        let refused = dialed(&server.url()).await.unwrap_err();
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
        settings.tls.ca = Some(Arc::new(vec![made.cert.der().clone()]));
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
        assert_eq!(redis.time_offset(b"k", now), 0);
        up(&redis).await;
        let now = crate::clock::Clock::system().now();
        assert!(redis.time_offset(b"k", now).abs() < 50);
        let earlier = Timestamp::from_millis(now.as_millis() - 60_000);
        assert!((redis.time_offset(b"k", earlier) - 60_000).abs() < 50);
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
