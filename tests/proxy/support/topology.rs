//! Redis in several processes: a Cluster of three primaries and three replicas, and what three Sentinels
//! monitor.

use super::{RedisServer, eventually, free_port};
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// As whom servers follow each other: everybody who may do everything, whose password is any.
pub const FOLLOWS: [&str; 4] = ["--masteruser", "harness", "--masterauth", "any"];
/// A server that is silent for so long is taken for dead by the others.
const SILENCE_MILLIS: &str = "1000";
const SLOTS: usize = 16_384;

/// Three primaries, each with a third of the slots, and a replica of each.
pub struct RedisCluster {
    /// First the primaries, then their replicas in the same order.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub async fn start() -> Self {
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..6 {
            let bus = free_port().to_string();
            let mut options = vec![
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                SILENCE_MILLIS,
                // The loss of one shard is no reason for the others not to answer.
                "--cluster-require-full-coverage",
                "no",
                "--repl-diskless-sync-delay",
                "0",
            ];
            options.extend(FOLLOWS);
            nodes.push(RedisServer::with(&options).await);
            buses.push(bus);
        }
        let cluster = Self { nodes };
        for (at, node) in cluster.nodes.iter().enumerate() {
            let epoch = (at + 1).to_string();
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
            if at < 3 {
                let (first, last) = Self::slots(at);
                let (first, last) = (first.to_string(), last.to_string());
                node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            }
            if at > 0 {
                let port = cluster.nodes[0].port.to_string();
                node.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &buses[0]])
                    .await;
            }
        }
        cluster.all_say("cluster_known_nodes:6").await;
        for at in 3..6 {
            let primary = cluster.nodes[at - 3].cli(&["CLUSTER", "MYID"]).await;
            let node = &cluster.nodes[at];
            eventually("the replica knows its primary", async || {
                let answer = node.cli(&["CLUSTER", "REPLICATE", &primary]).await;
                (answer == "OK").then_some(())
            })
            .await;
            eventually("the replica follows", async || {
                let info = node.cli(&["INFO", "replication"]).await;
                info.contains("master_link_status:up").then_some(())
            })
            .await;
        }
        cluster.all_say("cluster_state:ok").await;
        for node in &cluster.nodes {
            eventually("everybody knows the replicas", async || {
                let nodes = node.cli(&["CLUSTER", "NODES"]).await;
                (nodes.matches("slave").count() == 3).then_some(())
            })
            .await;
        }
        cluster
    }

    async fn all_say(&self, what: &str) {
        for node in &self.nodes {
            eventually(what, async || {
                let info = node.cli(&["CLUSTER", "INFO"]).await;
                info.contains(what).then_some(())
            })
            .await;
        }
    }

    fn slots(shard: usize) -> (usize, usize) {
        (shard * SLOTS / 3, (shard + 1) * SLOTS / 3 - 1)
    }

    /// Names two of its nodes.
    pub fn url(&self) -> String {
        let (a, b) = (self.nodes[1].url(), self.nodes[4].port);
        format!("{},127.0.0.1:{b}", a.replace("redis:", "redis+cluster:"))
    }

    /// The shard that had `key` at first.
    pub async fn shard_of(&self, key: &str) -> usize {
        let slot = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]).await;
        let slot: usize = slot.parse().unwrap();
        let has = |shard: &usize| (Self::slots(*shard).0..=Self::slots(*shard).1).contains(&slot);
        (0..3).find(has).unwrap()
    }

    /// Moves so many slots, with what is in them, from one shard to another.
    pub async fn move_slots(&self, from: usize, to: usize, count: usize) {
        let [from, to] =
            [from, to].map(async |at: usize| self.nodes[at].cli(&["CLUSTER", "MYID"]).await);
        let (from, to) = (from.await, to.await);
        let node = format!("127.0.0.1:{}", self.nodes[0].port);
        // Refused while the nodes do not agree yet on what was moved before.
        eventually("slots are moved", async || {
            let moved = Command::new("redis-cli")
                .args(["--user", "harness", "-a", "any", "--no-auth-warning"])
                .args(["--cluster", "reshard", &node])
                .args(["--cluster-from", &from, "--cluster-to", &to])
                .args(["--cluster-slots", &count.to_string(), "--cluster-yes"])
                .output()
                .await
                .unwrap();
            moved.status.success().then_some(())
        })
        .await;
    }
}

/// A primary, a replica, and three Sentinels that monitor them as `shop`.
pub struct Monitored {
    /// First the primary.
    pub servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    port: u16,
    _child: Child,
    _folder: TempDir,
}

impl Monitored {
    pub async fn start() -> Self {
        let mut options = vec!["--repl-diskless-sync-delay", "0"];
        options.extend(FOLLOWS);
        let primary = RedisServer::with(&options).await;
        let port = primary.port.to_string();
        let follow = format!("127.0.0.1 {port}");
        let follow = ["--replicaof", &follow];
        options.extend(follow);
        let replica = RedisServer::with(&options).await;
        eventually("the replica follows", async || {
            let info = replica.cli(&["INFO", "replication"]).await;
            info.contains("master_link_status:up").then_some(())
        })
        .await;
        // Sentinels write down who follows whom.
        primary.others_send("config");
        replica.others_send("config");
        let sentinels = (0..3).map(|_| Sentinel::start(&port)).collect();
        let monitored = Self {
            servers: vec![primary, replica],
            sentinels,
        };
        for at in 0..3 {
            eventually(
                "the Sentinels know each other and the replica",
                async || {
                    let told = monitored.ask(at, &["SENTINEL", "MASTER", "shop"]).await;
                    let field = |name: &str| told.lines().skip_while(|line| *line != name).nth(1);
                    let known = field("num-other-sentinels") == Some("2");
                    (known && field("num-slaves") == Some("1")).then_some(())
                },
            )
            .await;
        }
        monitored
    }

    pub fn url(&self) -> String {
        let user = self.servers[0].url();
        let (user, _) = user.rsplit_once('@').unwrap();
        let hosts = self.sentinels.iter();
        let hosts: Vec<_> = hosts.map(|one| format!("127.0.0.1:{}", one.port)).collect();
        let user = user.replace("redis:", "redis+sentinel:");
        format!("{user}@{}/shop", hosts.join(","))
    }

    /// The port of the primary, as a Sentinel says.
    pub async fn primary(&self) -> u16 {
        let told = self.ask(0, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop"]);
        told.await.lines().nth(1).unwrap().parse().unwrap()
    }

    /// Makes the Sentinels change the primary, and waits until they name the other.
    pub async fn fail_over(&self) -> u16 {
        let before = self.primary().await;
        eventually("a Sentinel takes it on", async || {
            let answer = self.ask(0, &["SENTINEL", "FAILOVER", "shop"]).await;
            (answer == "OK").then_some(())
        })
        .await;
        self.names_another(before).await
    }

    /// Waits until the Sentinels name another than this.
    pub async fn names_another(&self, than: u16) -> u16 {
        eventually("another primary is named", async || {
            Some(self.primary().await).filter(|port| *port != than)
        })
        .await
    }

    pub async fn ask(&self, sentinel: usize, words: &[&str]) -> String {
        let port = self.sentinels[sentinel].port.to_string();
        let mut command = Command::new("redis-cli");
        let output = command.args(["-p", &port]).args(words).output().await;
        let output = output.expect("redis-cli is installed (make setup)");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }
}

impl Sentinel {
    fn start(primary: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = folder.path().join("sentinel.conf");
        write(
            &config,
            &format!(
                "port {port}\nbind 127.0.0.1\ndir {}\n\
                 sentinel monitor shop 127.0.0.1 {primary} 2\n\
                 sentinel auth-user shop harness\nsentinel auth-pass shop any\n\
                 sentinel down-after-milliseconds shop {SILENCE_MILLIS}\n\
                 sentinel failover-timeout shop 3000\n",
                folder.path().display()
            ),
        );
        let child = Command::new("redis-server")
            .arg(config)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed (make setup)");
        Self {
            port,
            _child: child,
            _folder: folder,
        }
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
