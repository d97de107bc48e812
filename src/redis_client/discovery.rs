//! Finds out which servers make up a Redis, and keeps asking: Sentinels for their primary, a Cluster for
//! its slots, a primary for its replicas.
//!
//! One for all workers of this process. Whoever comes first asks, the others take what it was told. No
//! request ever waits here.

use super::Outage;
use super::dial::{Dialer, Greeting, With};
use super::keeper::{News, shared_by_name};
use super::link::Link;
use super::map::{self, Map, Monitored};
use super::resp::Reply;
use crate::config::RedisUrl;
use crate::config::redis_url::{Address, Topology};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// One server's answer, its connection included, must be there within this.
pub const ANSWER_DEADLINE: Duration = Duration::from_millis(500);
/// Pause between two questions while something is wrong, and between those to Sentinels always: so
/// long a failover goes unnoticed.
pub const LOOK_PAUSE_SHORT: Duration = Duration::from_millis(250);
/// Pause between two questions to a Cluster or a primary that is well.
pub const LOOK_PAUSE_LONG: Duration = Duration::from_secs(5);
/// What was told so lately is not asked for again, whoever wants to know.
pub const FRESH: Duration = Duration::from_millis(100);

/// How one Redis is made up.
#[derive(Debug)]
pub struct Discovery {
    topology: Topology,
    dialer: Arc<Dialer>,
    reads_replicas: bool,
    map: watch::Sender<Arc<Map>>,
    asking: tokio::sync::Mutex<Asking>,
    news: Arc<News>,
}

/// What the one who asks needs.
#[derive(Debug, Default)]
struct Asking {
    looked: Option<Instant>,
    lines: HashMap<Address, Arc<Link>>,
    /// Whether the Sentinels want a password.
    sentinels_are_closed: bool,
    /// How often a Cluster was asked: each time of another node, since one that was cut off tells of
    /// times past.
    turn: usize,
}

impl Discovery {
    /// The one for `url` in this process.
    #[must_use]
    pub fn of(url: &RedisUrl, dialer: &Arc<Dialer>, reads_replicas: bool) -> Arc<Self> {
        static ALL: OnceLock<Mutex<HashMap<String, Weak<Discovery>>>> = OnceLock::new();
        let name = format!("{url} {} {reads_replicas}", dialer.user());
        shared_by_name(&ALL, &name, || Self {
            topology: url.topology.clone(),
            dialer: Arc::clone(dialer),
            reads_replicas,
            map: watch::Sender::new(Arc::default()),
            asking: tokio::sync::Mutex::default(),
            news: News::of(&url),
        })
    }

    /// What is known now; no shards before anything is.
    #[must_use]
    pub fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.borrow())
    }

    /// Tells when there is another map.
    pub fn changes(&self) -> watch::Receiver<Arc<Map>> {
        self.map.subscribe()
    }

    /// How long what is known may go unasked while all is well.
    #[must_use]
    pub const fn pause(&self) -> Duration {
        match self.topology {
            Topology::Sentinel { .. } => LOOK_PAUSE_SHORT,
            Topology::Single(_) | Topology::Cluster(_) => LOOK_PAUSE_LONG,
        }
    }

    /// Asks, unless somebody did within `fresh`. What nobody answers stays as it was.
    pub async fn look(&self, fresh: Duration) {
        let mut asking = self.asking.lock().await;
        if asking.looked.is_some_and(|at| at.elapsed() < fresh) {
            return;
        }
        let told = self.ask(&mut asking).await;
        asking.looked = Some(Instant::now());
        let map = match told {
            Ok(map) => map,
            Err(why) => return self.tell_failure(&why),
        };
        self.map.send_if_modified(|known| {
            let changed = **known != map;
            if changed {
                self.tell(known, &map);
                *known = Arc::new(map);
            }
            changed
        });
    }

    /// Asks once; or says why nobody told.
    pub async fn ask_once(&self) -> Result<Map, String> {
        self.ask(&mut *self.asking.lock().await).await
    }

    async fn ask(&self, asking: &mut Asking) -> Result<Map, String> {
        match &self.topology {
            Topology::Single(address) => Ok(self.ask_primary(asking, address).await),
            Topology::Sentinel { sentinels, name } => {
                let were_closed = asking.sentinels_are_closed;
                let told = self.ask_sentinels(asking, sentinels, name).await;
                // That they want a password is known from now on.
                match told.is_err() && asking.sentinels_are_closed != were_closed {
                    true => self.ask_sentinels(asking, sentinels, name).await,
                    false => told,
                }
            }
            Topology::Cluster(seeds) => self.ask_cluster(asking, seeds).await,
        }
    }

    /// A primary that there was not before is worth a line.
    fn tell(&self, known: &Map, map: &Map) {
        let before: Vec<_> = known.shards().iter().map(|shard| &shard.primary).collect();
        for shard in map.shards() {
            if !before.is_empty() && !before.contains(&&shard.primary) {
                tracing::info!(redis = %self.topology, "{} is a primary now", shard.primary);
            }
        }
    }

    /// Nobody told anything, and why.
    fn tell_failure(&self, why: &str) {
        if self.news.is_due("discovery") {
            tracing::warn!(redis = %self.topology, "the servers of this Redis are not known: {why}");
        }
    }

    async fn ask_primary(&self, asking: &mut Asking, address: &Address) -> Map {
        let mut replicas = Vec::new();
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        let known = asking.lines.remove(address);
        // Without an answer there are no replicas to be read from; the primary is tried all the same.
        if let Ok((line, Reply::Bulk(info))) =
            question_to(&self.dialer, (address, Greeting::Server), known, &info).await
        {
            asking.lines.insert(address.clone(), line);
            replicas = map::info_replicas(&String::from_utf8_lossy(&info), address);
        }
        Map::of_one(address.clone(), replicas)
    }

    /// All are asked, and who knows the latest is believed: one that was cut off still names the
    /// primary that there was.
    async fn ask_sentinels(
        &self,
        asking: &mut Asking,
        sentinels: &[Address],
        name: &str,
    ) -> Result<Map, String> {
        let mut all = JoinSet::new();
        for sentinel in sentinels {
            let mut questions = vec![redis::cmd("SENTINEL"), redis::cmd("SENTINEL")];
            questions[0].arg("MASTER").arg(name);
            questions[1].arg("REPLICAS").arg(name);
            questions.truncate(if self.reads_replicas { 2 } else { 1 });
            let (address, known) = (sentinel.clone(), asking.lines.remove(sentinel));
            let dialer = Arc::clone(&self.dialer);
            let greeting = match asking.sentinels_are_closed {
                true => Greeting::ClosedSentinel,
                false => Greeting::Sentinel,
            };
            all.spawn(async move {
                let mut line = known;
                let mut replies = Vec::new();
                for question in &questions {
                    let (kept, reply) =
                        question_to(&dialer, (&address, greeting), line, question).await?;
                    line = Some(kept);
                    replies.push(reply);
                }
                Ok::<_, String>((address, line, replies))
            });
        }
        let (mut latest, mut why) = (None::<(Monitored, Vec<Address>)>, String::new());
        while let Some(told) = all.join_next().await {
            let (address, line, replies) = match told {
                Ok(Ok(told)) => told,
                Ok(Err(text)) => {
                    why = text;
                    continue;
                }
                Err(_) => continue,
            };
            let Some(told) = replies
                .first()
                .and_then(|reply| Monitored::of(reply, &address))
            else {
                if let Some(Reply::Error(line)) = replies.first() {
                    why = format!("{address}: {}", String::from_utf8_lossy(line));
                    if line.starts_with(b"NOAUTH") {
                        asking.sentinels_are_closed = true;
                        continue;
                    }
                }
                asking.lines.extend(line.map(|line| (address, line)));
                continue;
            };
            let replicas = replies
                .get(1)
                .map(|reply| map::sentinel_replicas(reply, &address));
            asking.lines.extend(line.map(|line| (address, line)));
            if latest
                .as_ref()
                .is_none_or(|(known, _)| told.epoch > known.epoch)
            {
                latest = Some((told, replicas.unwrap_or_default()));
            }
        }
        let (told, mut replicas) = latest.ok_or(why)?;
        replicas.sort_unstable();
        Ok(Map::of_one(told.primary, replicas))
    }

    /// The first node that answers, beginning each time with another.
    async fn ask_cluster(&self, asking: &mut Asking, seeds: &[Address]) -> Result<Map, String> {
        let map = self.map();
        let known = map.shards().iter();
        let mut nodes: Vec<_> = known
            .flat_map(|shard| std::iter::once(&shard.primary).chain(&shard.replicas))
            .collect();
        let turn = asking.turn % nodes.len().max(1);
        nodes.rotate_left(turn);
        asking.turn = asking.turn.wrapping_add(1);
        asking.lines.retain(|address, _| nodes.contains(&address));
        nodes.extend(seeds);
        let mut question = redis::cmd("CLUSTER");
        question.arg("SLOTS");
        let mut why = String::new();
        for node in nodes {
            let line = asking.lines.remove(node);
            match question_to(&self.dialer, (node, Greeting::Server), line, &question).await {
                Ok((line, reply)) => {
                    if let Some(map) = Map::of_cluster(&reply, node) {
                        asking.lines.insert(node.clone(), line);
                        return Ok(map);
                    }
                    why = match reply {
                        Reply::Error(line) => format!("{node}: {}", String::from_utf8_lossy(&line)),
                        _ => format!("{node} knows of no slots"),
                    };
                }
                Err(text) => why = text,
            }
        }
        Err(why)
    }
}

/// One question to one server, over `line` where it still stands; the line comes back with the answer.
/// An error reply is an answer.
async fn question_to(
    dialer: &Dialer,
    (address, greeting): (&Address, Greeting),
    line: Option<Arc<Link>>,
    question: &redis::Cmd,
) -> Result<(Arc<Link>, Reply), String> {
    let asking = async {
        let line = match line.filter(|line| !line.is_dead()) {
            Some(line) => line,
            None => {
                let alone = Arc::default();
                let connected = dialer.connect(address, greeting, With::Any, &alone);
                let connected = connected.await;
                connected
                    .map_err(|refused| format!("{address}: {}", refused.text))?
                    .link
            }
        };
        let now = Instant::now();
        let write = |out: &mut Vec<u8>| question.write_packed_command(out);
        let outage = |outage: Outage| format!("{address}: {}", outage.word());
        let pending = line.send(1, (now, now + ANSWER_DEADLINE), write);
        let answer = pending.map_err(outage)?.await.map_err(outage)?;
        Ok((line, answer.reply))
    };
    tokio::time::timeout(ANSWER_DEADLINE, asking)
        .await
        .unwrap_or_else(|_| Err(format!("{address}: no answer within {ANSWER_DEADLINE:?}")))
}
