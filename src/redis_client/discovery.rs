//! Finds out which servers make up a Redis, and keeps asking: Sentinels for their primary, a Cluster for
//! its slots, a primary for its replicas.
//!
//! One for all workers of this process. Whoever comes first asks, the others take what it was told. No
//! request ever waits here.

use super::Outage;
use super::cause::{Refused, Stage};
use super::dial::{Connected, Dialer, Greeting, With};
use super::info::Info;
use super::keeper::{News, RENEWAL_PAUSE, shared_by_name};
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
    lines: HashMap<Address, Connected>,
    /// How often the address had moved when they were made.
    moves: u64,
    /// When those had by former credentials were last given up.
    renewed: Option<Instant>,
    /// The number of the access that was refused when last asked.
    refused: Option<u64>,
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
        let access = self.dialer.number();
        // Somebody has to change something first.
        let fresh = match asking.refused == Some(access) {
            true => fresh.max(RENEWAL_PAUSE),
            false => fresh,
        };
        if asking.looked.is_some_and(|at| at.elapsed() < fresh) {
            return;
        }
        asking.renew(access, self.news.moves());
        let told = self.ask(&mut asking).await;
        asking.looked = Some(Instant::now());
        let is_refused = told.as_ref().is_err_and(Refused::is_refusal);
        asking.refused = is_refused.then_some(access);
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

    /// A server that was taken for the primary is none. Where the URL names one server alone, nobody but
    /// its address tells which it is now.
    pub fn read_only(&self) {
        if let Topology::Single(address) = &self.topology {
            self.news.read_only(address);
        }
    }

    /// Asks once; or says why nobody told.
    pub async fn ask_once(&self) -> Result<Map, Refused> {
        self.ask(&mut *self.asking.lock().await).await
    }

    async fn ask(&self, asking: &mut Asking) -> Result<Map, Refused> {
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
    fn tell_failure(&self, why: &Refused) {
        if self.news.is_due("discovery") {
            let (redis, reason) = (&self.topology, why.reason);
            let (text, mend) = (&why.text, &why.mend);
            tracing::warn!(%redis, reason, "the servers of this Redis are not known: {text}; {mend}");
        }
    }

    /// A server answered the question with this error reply.
    fn answered(&self, address: &Address, line: &[u8]) -> Refused {
        Refused::reply(line, &self.dialer.user(), None).of(address)
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
            let info = Info::of_text(&String::from_utf8_lossy(&info));
            replicas = map::info_replicas(&info, address);
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
    ) -> Result<Map, Refused> {
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
                Ok::<_, Refused>((address, line, replies))
            });
        }
        let (mut latest, mut why) = (None::<(Monitored, Vec<Address>)>, nobody());
        while let Some(told) = all.join_next().await {
            let (address, line, replies) = match told {
                Ok(Ok(told)) => told,
                Ok(Err(another)) => {
                    why = why.or(another);
                    continue;
                }
                Err(_) => continue,
            };
            let Some(told) = replies
                .first()
                .and_then(|reply| Monitored::of(reply, &address))
            else {
                if let Some(Reply::Error(line)) = replies.first() {
                    why = why.or(self.answered(&address, line));
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
    async fn ask_cluster(&self, asking: &mut Asking, seeds: &[Address]) -> Result<Map, Refused> {
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
        let mut why = nobody();
        for node in nodes {
            let line = asking.lines.remove(node);
            match question_to(&self.dialer, (node, Greeting::Server), line, &question).await {
                Ok((line, reply)) => {
                    if let Some(map) = Map::of_cluster(&reply, node) {
                        asking.lines.insert(node.clone(), line);
                        return Ok(map);
                    }
                    why = why.or(match reply {
                        Reply::Error(line) => self.answered(node, &line),
                        _ => Refused::new(
                            Outage::Protocol,
                            "no-slots",
                            format!("{node} knows of no slots"),
                            "redis-cli --cluster check says what the Cluster lacks",
                        ),
                    });
                }
                Err(another) => why = why.or(another),
            }
        }
        Err(why)
    }
}

impl Asking {
    /// Gives up the lines that were had by another access than this, so that they are made anew; not all
    /// the time, for a server may take the former credentials alone yet. And those that may lead to where
    /// the address does no longer.
    fn renew(&mut self, access: u64, moves: u64) {
        if self.moves != moves {
            self.lines.clear();
            self.moves = moves;
        }
        let is_due = self.renewed.is_none_or(|at| at.elapsed() >= RENEWAL_PAUSE);
        let is_former = |line: &Connected| line.access != access;
        if is_due && self.lines.values().any(is_former) {
            self.lines.retain(|_, line| !is_former(line));
            self.renewed = Some(Instant::now());
        }
    }
}

/// Why nothing is known where nobody was asked.
fn nobody() -> Refused {
    let mend = "name some in redis.url";
    Refused::new(Outage::Connection, "nobody", "nobody is named", mend)
}

/// One question to one server, over `line` where it still stands; the line comes back with the answer.
/// An error reply is an answer.
async fn question_to(
    dialer: &Dialer,
    (address, greeting): (&Address, Greeting),
    line: Option<Connected>,
    question: &redis::Cmd,
) -> Result<(Connected, Reply), Refused> {
    let asking = async {
        let line = match line.filter(|line| !line.link.is_dead()) {
            Some(line) => line,
            None => {
                let alone = Arc::default();
                let connected = dialer.connect(address, greeting, With::Any, &alone);
                connected.await.map_err(|refused| refused.of(address))?
            }
        };
        let now = Instant::now();
        let write = |out: &mut Vec<u8>| question.write_packed_command(out);
        let outage = |outage: Outage| Refused::unanswered(outage).of(address);
        let pending = line.link.send(1, (now, now + ANSWER_DEADLINE), write);
        let answer = pending.map_err(outage)?.await.map_err(outage)?;
        Ok((line, answer.reply))
    };
    tokio::time::timeout(ANSWER_DEADLINE, asking)
        .await
        .unwrap_or_else(|_| {
            let late = Refused::late(Stage::Greeting, ANSWER_DEADLINE, address.is_tls());
            Err(late.of(address))
        })
}
