//! A Redis of several servers as one worker sees it: which of them is asked for which key.
//!
//! Each server has connections and a breaker of its own, so that the loss of one costs its own keys and
//! no others. What is moved to another is followed once, within the same deadline.

use super::Outage;
use super::discovery::{Discovery, FRESH, LOOK_PAUSE_SHORT};
use super::map::Map;
use super::node::{Node, Ways};
use super::redirect::Redirect;
use crate::config::redis_url::Address;
use crate::config::settings::ReadFrom;
use arc_swap::ArcSwap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A replica is as near as the nearest where its round trip is at most twice as long, and so much more.
const NEAR: Duration = Duration::from_micros(500);

/// The servers of one Redis.
#[derive(Debug)]
pub struct Routed {
    ways: Ways,
    discovery: Arc<Discovery>,
    routing: ArcSwap<Routing>,
    /// Somebody was turned away: ask anew who has what.
    wanted: Notify,
}

/// Who is asked for what, as long as one map is in force.
#[derive(Debug, Default)]
struct Routing {
    map: Arc<Map>,
    /// As the map's shards.
    shards: Vec<Shard>,
}

#[derive(Debug)]
struct Shard {
    primary: Node,
    replicas: Vec<Node>,
}

impl Routing {
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.shards
            .iter()
            .flat_map(|shard| std::iter::once(&shard.primary).chain(&shard.replicas))
    }

    fn node_at(&self, address: &Address) -> Option<&Node> {
        self.nodes().find(|node| node.address() == address)
    }
}

impl Shard {
    /// Who is read from: a replica that lags is not, and where none is to be had the primary is.
    fn reader(&self, read_from: ReadFrom) -> &Node {
        let usable = |node: &&Node| node.is_up() && !node.is_behind();
        let replicas = || self.replicas.iter().filter(usable);
        let found = match read_from {
            ReadFrom::Primary => None,
            ReadFrom::Replica => nearest(replicas()),
            ReadFrom::Nearest => {
                nearest(replicas().chain(Some(&self.primary).filter(|node| node.is_up())))
            }
        };
        found.unwrap_or(&self.primary)
    }
}

/// Of the nearest, the one that the fewest commands wait on.
fn nearest<'a>(nodes: impl Iterator<Item = &'a Node> + Clone) -> Option<&'a Node> {
    let ping = |node: &Node| node.ping().unwrap_or(Duration::MAX);
    let least = nodes.clone().map(ping).min()?;
    let near = least.saturating_mul(2).saturating_add(NEAR);
    nodes
        .filter(|node| ping(node) <= near)
        .min_by_key(|node| node.waiting())
}

impl Routed {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(ways: Ways, discovery: Arc<Discovery>) -> Self {
        Self {
            ways,
            discovery,
            routing: ArcSwap::default(),
            wanted: Notify::new(),
        }
    }

    /// Who has `key`, for a command that only reads or for any.
    pub fn node(&self, key: &[u8], reads: bool) -> Result<Node, Outage> {
        let routing = self.routing.load();
        let shard = routing.map.shard_of(key);
        let shard =
            shard
                .and_then(|at| routing.shards.get(at))
                .ok_or(match routing.shards.is_empty() {
                    true => Outage::Open,
                    false => Outage::NotReady,
                })?;
        Ok(match reads {
            true => shard.reader(self.ways.settings.read_from).clone(),
            false => shard.primary.clone(),
        })
    }

    /// Who has which of these keys: each server, or why none has them, with their places.
    pub fn divide<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Vec<(Result<Node, Outage>, Vec<usize>)> {
        let mut divided: Vec<(Result<Node, Outage>, Vec<usize>)> = Vec::new();
        for (at, key) in keys.enumerate() {
            let node = self.node(key, false);
            let address = |node: &Result<Node, Outage>| {
                let address = node.as_ref().map(|node| node.address().clone());
                address.map_err(|outage| *outage)
            };
            let known = divided
                .iter_mut()
                .find(|(known, _)| address(known) == address(&node));
            match known {
                Some((_, places)) => places.push(at),
                None => divided.push((node, vec![at])),
            }
        }
        divided
    }

    /// Every server.
    pub fn nodes(&self) -> Vec<Node> {
        self.routing.load().nodes().cloned().collect()
    }

    /// The primaries.
    pub fn primaries(&self) -> Vec<Node> {
        let routing = self.routing.load();
        let shards = routing.shards.iter();
        shards.map(|shard| shard.primary.clone()).collect()
    }

    /// Whether any server that takes writes is asked at all.
    pub fn is_up(&self) -> bool {
        let routing = self.routing.load();
        routing.shards.iter().any(|shard| shard.primary.is_up())
    }

    /// Whereto `redirect`, told by the node at `from`, leads.
    pub fn redirected(&self, redirect: &Redirect, from: &Address) -> Result<Node, Outage> {
        if !redirect.asking {
            self.wanted.notify_one();
        }
        let host = match redirect.host.as_str() {
            "" => from.host().unwrap_or_default(),
            host => host,
        };
        let address = from.beside(host.to_owned(), redirect.port);
        let routing = self.routing.load();
        routing.node_at(&address).cloned().ok_or_else(|| {
            self.wanted.notify_one();
            Outage::Moved
        })
    }

    /// A command ended so: where that may mean that another server has become what this one was, it
    /// is asked who.
    pub fn ended(&self, outage: Outage) {
        if outage == Outage::ReadOnly {
            self.discovery.read_only();
        }
        if matches!(
            outage,
            Outage::ReadOnly | Outage::NotReady | Outage::Connection | Outage::Moved
        ) {
            self.wanted.notify_one();
        }
    }

    /// Keeps to what the servers tell, for as long as it is polled.
    pub async fn keep(&self) -> Infallible {
        let mut changes = self.discovery.changes();
        let mut fresh = FRESH;
        loop {
            self.discovery.look(fresh).await;
            self.follow(self.discovery.map());
            let pause = match self.is_whole() {
                true => self.discovery.pause(),
                false => LOOK_PAUSE_SHORT,
            };
            // By chance, so that workers and sidecars do not ask in step.
            let pause = pause.mul_f64(0.75 + fastrand::f64() / 4.0);
            fresh = tokio::select! {
                () = tokio::time::sleep(pause) => pause / 2,
                () = self.wanted.notified() => FRESH,
                _ = changes.changed() => Duration::MAX,
            };
        }
    }

    /// Whether there is more than one shard.
    pub fn is_divided(&self) -> bool {
        self.routing.load().shards.len() > 1
    }

    /// Whether every shard has a primary that is asked.
    fn is_whole(&self) -> bool {
        let routing = self.routing.load();
        !routing.shards.is_empty() && routing.shards.iter().all(|shard| shard.primary.is_up())
    }

    /// Takes up a map: who stays keeps its connections, who goes loses them.
    fn follow(&self, map: Arc<Map>) {
        let known = self.routing.load();
        if Arc::ptr_eq(&known.map, &map) {
            return;
        }
        let node = |address: &Address| {
            let known = known.node_at(address).cloned();
            known.unwrap_or_else(|| Node::start(&self.ways, address.clone()))
        };
        let shards = map.shards().iter().map(|shard| Shard {
            primary: node(&shard.primary),
            replicas: match self.ways.reads_replicas {
                true => shard.replicas.iter().map(node).collect(),
                false => Vec::new(),
            },
        });
        let shards = shards.collect();
        self.routing.store(Arc::new(Routing { map, shards }));
    }
}
