//! One server of a Redis as one worker sees it: a few multiplexed connections behind a breaker.

use super::breaker::{self, STALL_WAITING, State};
use super::dial::Dialer;
use super::keeper::{self, News, Shared};
use super::link::{Link, Pending};
use super::redirect::{Redirect, Turned};
use super::resp::Reply;
use super::script::Script;
use super::{Outage, RedisStatus, Share, Task, outage, patience, waiters};
use crate::config::redis_url::Address;
use crate::config::settings;
use crate::semantics::Timestamp;
use crate::telemetry::Recorder;
use redis::{Cmd, Value};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How a worker connects to a Redis.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    /// What every server is greeted with.
    pub dialer: Arc<Dialer>,
    /// Deadlines and breaker.
    pub settings: settings::Redis,
    /// What it has of the pool to each server.
    pub share: Share,
    /// Where commands are counted.
    pub recorder: Recorder,
    /// What was said of the Redis as a whole.
    pub news: Arc<News>,
    /// Whether replicas are asked too, and therefore how they follow their primaries.
    pub reads_replicas: bool,
}

/// One server.
///
/// Cheap to clone. Every call has a deadline and nobody queues for a connection. The last clone
/// dropped ends the task that keeps the connections.
#[derive(Clone, Debug)]
pub struct Node {
    shared: Arc<Shared>,
    _keeper: Arc<Task>,
}

impl Node {
    /// Begins to connect on the current runtime, and keeps trying; never fails, never waits.
    pub(super) fn start(ways: &Ways, address: Address) -> Self {
        let shared = Arc::new(Shared::new(ways, address));
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&shared)));
        Self {
            shared,
            _keeper: Arc::new(Task(keeper.abort_handle())),
        }
    }

    /// One command of this very server's. `operation` is its name for the metrics.
    pub async fn query(&self, operation: &'static str, command: &Cmd) -> Result<Value, Outage> {
        let write = |out: &mut Vec<u8>| command.write_packed_command(out);
        let reply = self.call(operation, 1, write, Ok).await;
        reply.map(Reply::into_value).map_err(Turned::outage)
    }

    /// What `write` appends, to which so many replies come; what `read` makes of them.
    pub(super) async fn call<T>(
        &self,
        operation: &'static str,
        replies: u32,
        write: impl FnOnce(&mut Vec<u8>),
        read: impl FnOnce(Reply) -> Result<T, Outage>,
    ) -> Result<T, Turned> {
        let mut asked = self.send(operation, replies, write)?;
        let reply = asked.reply().await;
        asked.end_with(reply, read)
    }

    /// A script by its digest, loaded where the server does not have it, within the same deadline.
    pub(super) async fn script<T>(
        &self,
        operation: &'static str,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
        read: impl FnOnce(Reply) -> Result<T, Outage>,
    ) -> Result<T, Turned> {
        let mut asked = self.send(operation, 1, |out| script.write_call(out, keys, args))?;
        let mut reply = asked.reply().await;
        if reply.as_ref().is_ok_and(Script::is_missing) {
            asked.send_again(2, |out| {
                script.write_load(out);
                script.write_call(out, keys, args);
            })?;
            reply = asked.reply().await.map(Script::called);
        }
        asked.end_with(reply, read)
    }

    /// Sends several commands in one write.
    pub(super) fn send_all(
        &self,
        operation: &'static str,
        commands: &[&Cmd],
    ) -> Result<Batch<'_>, Outage> {
        let count = u32::try_from(commands.len()).map_err(|_| Outage::Saturated)?;
        let asked = self.send(operation, count, |out| {
            let each = commands.iter();
            each.for_each(|command| command.write_packed_command(out));
        })?;
        Ok(Batch(asked))
    }

    /// Whether it makes sense to ask at all (the breaker is closed). Costs one atomic load.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shared.state() == State::Closed
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// Whether it is a replica that has lost its primary, or follows it from too far behind.
    pub(super) fn is_behind(&self) -> bool {
        self.shared.behind.load(Ordering::Relaxed)
    }

    /// Last good probe's round trip.
    pub(super) fn ping(&self) -> Option<Duration> {
        self.shared.ping()
    }

    /// See [`Redis::time_offset`](super::Redis::time_offset).
    #[must_use]
    pub fn time_offset(&self, now: Timestamp) -> i64 {
        let offset = |there: u64| {
            let there = i64::try_from(there).ok()?;
            there.checked_sub(i64::try_from(now.as_millis()).ok()?)
        };
        self.shared.server_millis().and_then(offset).unwrap_or(0)
    }

    /// Commands that wait on its connections now.
    pub(super) fn waiting(&self) -> u32 {
        waiting(&self.shared.links.load())
    }

    /// The breaker is told what to be: it obeys now, and those of other handles within a second.
    pub(super) fn is_forced(&self) {
        self.shared.doubt.notify_one();
    }

    /// See [`Redis::utilization`](super::Redis::utilization).
    pub(super) fn utilization(&self) -> f64 {
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
            connections: u32::try_from(live().count()).unwrap_or(u32::MAX),
            connections_used: u32::try_from(live().filter(|link| link.waiting() > 0).count())
                .unwrap_or(u32::MAX),
            connections_max: shared.connections.1,
            full: false,
            forced: shared.forced(),
            waiting: waiting(&links),
            waiting_max: shared.concurrent.unwrap_or_else(|| {
                let each = u32::try_from(waiters::WAITING_MAX).unwrap_or(u32::MAX);
                each.saturating_mul(shared.connections.1)
            }),
            ping: shared.ping(),
            outdated: shared.outdated.load(Ordering::Relaxed),
            address: shared.address.to_string(),
        }
    }

    /// Breaker, patience, a live link: sent at once, or not at all.
    fn send(
        &self,
        operation: &'static str,
        replies: u32,
        write: impl FnOnce(&mut Vec<u8>),
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
        let sent = link.send(replies, (begun, begun + patience), write);
        let pending = sent.map_err(|outage| match outage {
            Outage::Saturated => shared.saturated(operation),
            outage => outage,
        })?;
        if link.waiting() == STALL_WAITING {
            shared.busy.notify_one();
        }
        Ok(Asked {
            shared,
            operation,
            replies,
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

/// Several commands under way.
pub(super) struct Batch<'a>(Asked<'a>);

impl Batch<'_> {
    /// One answer each, or the outage of all.
    pub(super) async fn answers(mut self) -> Result<Vec<Result<Value, Turned>>, Outage> {
        let replies = match self.0.reply().await {
            Ok(Reply::Array(replies)) if self.0.replies > 1 => replies,
            Ok(reply) => vec![reply],
            Err(outage) => return self.0.end(Err(outage)),
        };
        // What speaks of the server as a whole (LOADING, NOAUTH …) is its breaker's to know.
        let hard = replies.iter().find_map(|reply| match reply {
            Reply::Error(line) => Some(outage::of_line(line)),
            _ => None,
        });
        let hard = hard.filter(|outage| outage.weight() == breaker::Weight::Hard);
        let _ = self.0.end(hard.map_or(Ok(()), Err));
        let each = replies.into_iter();
        Ok(each
            .map(|reply| Redirect::taken(reply).map(Reply::into_value))
            .collect())
    }
}

/// A command under way.
struct Asked<'a> {
    shared: &'a Shared,
    operation: &'static str,
    /// So many come, as one array where it is more than one.
    replies: u32,
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
        match &answer.reply {
            Reply::Error(line) => self.shared.look_at(self.operation, line),
            Reply::Array(replies) if self.replies > 1 => {
                for reply in replies {
                    if let Reply::Error(line) = reply {
                        self.shared.look_at(self.operation, line);
                    }
                }
            }
            _ => {}
        }
        Ok(answer.reply)
    }

    /// Sends more on the same link, within the same deadline.
    fn send_again(&mut self, replies: u32, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Outage> {
        let times = (Instant::now(), self.until);
        self.pending = self.pending.link().send(replies, times, write)?;
        self.answered = None;
        Ok(())
    }

    /// [`end`](Self::end) with what `read` makes of the reply. A redirection is an answer, too.
    fn end_with<T>(
        self,
        reply: Result<Reply, Outage>,
        read: impl FnOnce(Reply) -> Result<T, Outage>,
    ) -> Result<T, Turned> {
        match reply.map_err(Turned::Away).and_then(Redirect::taken) {
            Ok(reply) => Ok(self.end(read(reply))?),
            Err(Turned::Away(outage)) => Ok(self.end(Err(outage))?),
            Err(turned) => {
                self.end(Ok(()))?;
                Err(turned)
            }
        }
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
