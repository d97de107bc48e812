//! What was seen on a visit, and what it means. Pure.

use super::Finding;
use crate::config::Settings;
use crate::config::settings::{self, LimitPer};
use crate::redis_client::info::Info;
use crate::redis_client::{self, Refused};
use std::time::Duration;

/// The oldest Redis that every command of ours is tested with.
const VERSION_MIN: (u32, u32) = (6, 2);
/// A clock that is off by more makes ages wrong by seconds.
const SKEW_MILLIS_MAX: u64 = 1_000;
/// A Redis this far away is no neighbour.
const FAR: Duration = Duration::from_millis(5);
/// Share of `maxmemory` in use from which it is nearly full.
const NEARLY_FULL: f64 = 0.8;

/// Memory from the system, as a multiple of what is used, that is worth a word …
const FRAGMENTED: f64 = 1.5;
/// … in a Redis at least this large.
const FRAGMENTED_BYTES_MIN: u64 = 64 << 20;
/// A replica that is further behind is not synced.
const BEHIND_BYTES_MAX: u64 = 1 << 20;

/// What a Redis is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Cache,
    Limits,
    Both,
}

impl Use {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Cache | Self::Both => "redis",
            Self::Limits => "redis for limits",
        }
    }
}

/// What a server is said to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// The one that there is.
    #[default]
    Alone,
    /// One of several that takes writes.
    Primary,
    /// It follows one of the others.
    Replica,
}

/// What a Redis said of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct RedisFacts {
    /// Without user and password.
    pub address: String,
    /// What the others say that it is.
    pub role: Role,
    /// Round trips, shortest first.
    pub trips: Vec<Duration>,
    /// `INFO`, where it may be asked.
    pub info: Option<Info>,
    /// By how much its clock is ahead of ours.
    pub ahead_millis: Option<i64>,
    /// What our user may do there.
    pub rights: Rights,
}

/// What a user may do.
#[derive(Clone, Debug, Default)]
pub(super) enum Rights {
    /// A server that does not say.
    #[default]
    Unknown,
    /// It may not even ask, so it is a user that was cut to size.
    Hidden,
    /// Its line of `ACL LIST`.
    Rules { name: String, rules: String },
}

impl RedisFacts {
    fn info(&self, name: &str) -> Option<&str> {
        self.info.as_ref()?.get(name)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.info.as_ref()?.number(name)
    }

    fn trip(&self, share: f64) -> Duration {
        let last = self.trips.len().saturating_sub(1);
        // A share of a few dozen round trips.
        let at = (last as f64 * share).round() as usize;
        self.trips.get(at).copied().unwrap_or_default()
    }
}

/// A connection that was not to be had.
pub(super) fn refused(of: &'static str, refused: &Refused) -> Finding {
    let says = format!("no connection: {}", refused.text);
    Finding::bad(of, says, refused.mend.as_str())
}

/// A Redis that answers.
pub(super) fn redis(
    settings: &Settings,
    redis: &settings::Redis,
    used_for: Use,
    facts: &RedisFacts,
) -> Vec<Finding> {
    let of = used_for.word();
    let mut findings = vec![distance(of, redis, facts), wire(of, facts)];
    match &facts.info {
        None => findings.push(Finding::advice(
            of,
            "INFO is not allowed: memory, version and role were not looked at",
            "allow INFO to the user while you run the doctor",
        )),
        Some(_) => {
            findings.extend(version(of, facts));
            findings.extend(role(of, facts));
            findings.extend(replicas(of, used_for, facts));
            findings.extend(memory(of, used_for, facts));
            findings.extend(fragmentation(of, facts));
            findings.extend(persistence(of, used_for, facts));
            findings.extend(writes(of, facts));
            findings.extend(clients(of, settings, redis, facts));
        }
    }
    findings.extend(clock(of, facts));
    findings.extend(rights(of, settings, facts));
    findings
}

fn distance(of: &'static str, redis: &settings::Redis, facts: &RedisFacts) -> Finding {
    let (usual, most, slow) = (facts.trip(0.5), facts.trip(0.95), facts.trip(0.99));
    let says = format!(
        "{}{}: round trip {usual:.1?}, 95 % within {most:.1?}, 99 % within {slow:.1?}",
        facts.address,
        match facts.role {
            Role::Alone => "",
            Role::Primary => ", a primary",
            Role::Replica => ", a replica",
        }
    );
    if slow * 2 > redis.timeout {
        let mend = format!(
            "redis.timeout is {:?}: raise it, or use the address inside the provider's network",
            redis.timeout
        );
        Finding::bad(of, says, mend)
    } else if usual > FAR {
        let mend = "is this its public address? Most providers have one inside, such as redis.railway.internal";
        Finding::advice(of, says, mend)
    } else {
        Finding::good(of, says)
    }
}

/// Whether what is sent can be read on the way.
fn wire(of: &'static str, facts: &RedisFacts) -> Finding {
    let Some(host) = facts.address.strip_prefix("redis://") else {
        return Finding::good(of, "what is sent cannot be read on the way");
    };
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    let near = host == "localhost"
        || !host.contains(['.', ':'])
        || host.ends_with(".internal")
        || host.ends_with(".local")
        || host.parse().is_ok_and(is_near);
    if near {
        Finding::good(of, "not encrypted, on a network of your own")
    } else {
        Finding::bad(
            of,
            format!("password and answers go to {host} unencrypted"),
            "use rediss://",
        )
    }
}

fn is_near(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        std::net::IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
    }
}

/// A Cluster of so many primaries. What it does without one of them is not to be seen without CONFIG.
pub(super) fn cluster(of: &'static str, primaries: usize) -> Finding {
    Finding::good(
        of,
        format!(
            "a Cluster of {primaries} primaries; with cluster-require-full-coverage no in the redis.conf of each the others answer while one is down"
        ),
    )
}

fn version(of: &'static str, facts: &RedisFacts) -> Option<Finding> {
    let (name, version) = facts.info.as_ref()?.server()?;
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    let known = (parts.next()?, parts.next().unwrap_or(0));
    Some(if known < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        let mend = format!("use {major}.{minor} or newer");
        Finding::bad(of, format!("{name} {version} is too old"), mend)
    } else {
        Finding::good(of, format!("{name} {version}"))
    })
}

fn role(of: &'static str, facts: &RedisFacts) -> Option<Finding> {
    if facts.info("role") != Some("slave") {
        return None;
    }
    if facts.role == Role::Replica {
        let is_lost = facts.info("master_link_status") != Some("up");
        return is_lost.then(|| {
            Finding::advice(
                of,
                "it has lost its primary: what it holds is old, and it is not read from",
                "look at its own log: masteruser, masterauth and the network between",
            )
        });
    }
    let primary = match (facts.info("master_host"), facts.info("master_port")) {
        (Some(host), Some(port)) => format!("name its primary in redis.url, {host}:{port}"),
        _ => "name its primary in redis.url".to_owned(),
    };
    let synced = match facts.info("master_link_status") {
        Some("up") | None => "this is a replica: it takes no writes",
        Some(_) => "this is a replica that has lost its primary: what it holds is old",
    };
    Some(Finding::bad(of, synced, primary))
}

/// What would be lost with this server: a replica that has not synced is none.
fn replicas(of: &'static str, used_for: Use, facts: &RedisFacts) -> Option<Finding> {
    let info = facts.info.as_ref()?;
    if facts.info("role") != Some("master") {
        return None;
    }
    let replicas = info.replicas();
    if replicas.is_empty() {
        return Some(Finding::good(
            of,
            match used_for {
                Use::Cache => "it has no replica: when it is lost the cache starts cold",
                Use::Limits => "it has no replica: until it is back limits are counted here",
                Use::Both => {
                    "it has no replica: when it is lost the cache starts cold, and until it is back limits are counted here"
                }
            },
        ));
    }
    let behind: Vec<String> = replicas
        .iter()
        .map(|replica| (replica, format!("{}:{}", replica.host, replica.port)))
        .filter_map(|(replica, address)| match &*replica.state {
            "online" if replica.behind_bytes <= BEHIND_BYTES_MAX => None,
            "online" => Some(format!(
                "{address} is {} MiB behind",
                replica.behind_bytes >> 20
            )),
            state => Some(format!("{address} is not synced ({state})")),
        })
        .collect();
    Some(match behind.is_empty() {
        true => Finding::good(of, format!("{} replicas, all synced", replicas.len())),
        false => Finding::advice(
            of,
            behind.join(", "),
            "it cannot take over as it is; a first sync waits for repl-diskless-sync-delay (5 s unless set): redis-cli CONFIG SET repl-diskless-sync-delay 0",
        ),
    })
}

/// A cache needs a bound and a policy that makes room; counters of limits must not be what leaves.
fn memory(of: &'static str, used_for: Use, facts: &RedisFacts) -> Vec<Finding> {
    let (Some(limit), Some(policy)) = (facts.number("maxmemory"), facts.info("maxmemory_policy"))
    else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let evicts = policy != "noeviction";
    match (limit, used_for) {
        (0, _) => findings.push(Finding::advice(
            of,
            "maxmemory is not set: it grows until the host has no more",
            "redis-cli CONFIG SET maxmemory 256mb, CONFIG SET maxmemory-policy allkeys-lru, and both in redis.conf; `larder capacity` says what you need",
        )),
        (_, Use::Limits) if evicts => findings.push(Finding::advice(
            of,
            format!("its policy is {policy}: counters may be evicted, and limits forget"),
            "redis-cli CONFIG SET maxmemory-policy noeviction, here where only limits are",
        )),
        (_, Use::Cache | Use::Both) if !evicts => findings.push(Finding::bad(
            of,
            "its policy is noeviction: once full it takes no more writes",
            "redis-cli CONFIG SET maxmemory-policy allkeys-lru, and in redis.conf",
        )),
        (_, Use::Cache | Use::Both) if policy.ends_with("-random") => findings.push(Finding::advice(
            of,
            format!("its policy is {policy}: by chance it evicts the purge log, and then all that is stored is fetched anew"),
            "redis-cli CONFIG SET maxmemory-policy allkeys-lru, and in redis.conf",
        )),
        (_, Use::Both) => findings.push(Finding::advice(
            of,
            format!("its policy is {policy}, right for a cache; but limits are counted in it too"),
            "redis.limits_url, where a limit must not be forgotten under pressure",
        )),
        _ => findings.push(Finding::good(of, format!("maxmemory is set, policy {policy}"))),
    }
    if let Some(used) = facts.number("used_memory").filter(|_| limit > 0) {
        let share = used as f64 / limit as f64;
        let evicted = match facts.number("evicted_keys") {
            Some(keys @ 1..) => format!(", {keys} keys evicted since it came up"),
            _ => String::new(),
        };
        let says = format!("{:.0} % of maxmemory in use{evicted}", share * 100.0);
        findings.push(match share >= NEARLY_FULL {
            true if evicts => Finding::advice(
                of,
                says,
                "more maxmemory means more hits: `larder capacity` says how much",
            ),
            true => Finding::bad(of, says, "raise maxmemory"),
            false => Finding::good(of, says),
        });
    }
    findings
}

/// Memory that it has from the system and cannot use.
fn fragmentation(of: &'static str, facts: &RedisFacts) -> Option<Finding> {
    let ratio = facts.info.as_ref()?.fraction("mem_fragmentation_ratio")?;
    // Of a small one the program itself is the most.
    let is_large = facts.number("used_memory")? >= FRAGMENTED_BYTES_MIN;
    (is_large && ratio > FRAGMENTED).then(|| {
        Finding::advice(
            of,
            format!("it has {ratio:.1} times the memory from the system that it uses"),
            "redis-cli CONFIG SET activedefrag yes, or start it anew at a quiet hour",
        )
    })
}

/// A cache can be fetched again; what limits have counted cannot.
fn persistence(of: &'static str, used_for: Use, facts: &RedisFacts) -> Option<Finding> {
    let appends = facts.info("aof_enabled")? == "1";
    Some(match (appends, used_for) {
        (true, Use::Cache) => Finding::advice(
            of,
            "it writes all that is cached to disk (appendonly yes)",
            "redis-cli CONFIG SET appendonly no: a cache is fetched again",
        ),
        (true, _) => Finding::good(
            of,
            "what limits have counted survives a restart (appendonly yes)",
        ),
        (false, Use::Limits) => Finding::advice(
            of,
            "what limits have counted is lost with a restart (appendonly no)",
            "redis-cli CONFIG SET appendonly yes",
        ),
        (false, _) => Finding::good(
            of,
            "nothing is written to disk as it goes (appendonly no), right for a cache",
        ),
    })
}

/// Failing snapshots stop writes (MISCONF).
fn writes(of: &'static str, facts: &RedisFacts) -> Option<Finding> {
    let failed = facts.info("rdb_last_bgsave_status") == Some("err")
        || facts.info("aof_last_write_status") == Some("err");
    failed.then(|| {
        Finding::bad(
            of,
            "its last write to disk failed: it may refuse writes (MISCONF)",
            "make room on its disk; a cache alone needs no persistence: save \"\", appendonly no",
        )
    })
}

/// Whether it takes the connections that a larder makes.
fn clients(
    of: &'static str,
    settings: &Settings,
    redis: &settings::Redis,
    facts: &RedisFacts,
) -> Option<Finding> {
    let (now, most) = (
        facts.number("connected_clients")?,
        facts.number("maxclients")?,
    );
    let workers = settings.workers.get() as u64;
    // Two a worker and two for the background there are in any case.
    let ours = u64::from(redis.pool_max.get()).max(2 * workers + 2);
    let says = format!("{now} of at most {most} clients; each larder may add {ours}");
    let mend = "redis-cli CONFIG SET maxclients, or a smaller redis.pool.max";
    Some(match now + ours {
        all if all > most => Finding::bad(of, says, mend),
        all if all as f64 > most as f64 * NEARLY_FULL => Finding::advice(of, says, mend),
        _ => Finding::good(of, says),
    })
}

fn clock(of: &'static str, facts: &RedisFacts) -> Option<Finding> {
    let ahead = facts.ahead_millis?;
    let says = format!(
        "its clock is {} ms {} ours",
        ahead.abs(),
        match ahead < 0 {
            true => "behind",
            false => "ahead of",
        }
    );
    Some(if ahead.unsigned_abs() > SKEW_MILLIS_MAX {
        Finding::advice(
            of,
            says,
            "keep both hosts' clocks by NTP: ages are counted across them",
        )
    } else {
        Finding::good(of, says)
    })
}

/// Whether our user may do more than it needs.
fn rights(of: &'static str, settings: &Settings, facts: &RedisFacts) -> Option<Finding> {
    let (name, rules) = match &facts.rights {
        Rights::Unknown => return None,
        Rights::Hidden => {
            return Some(Finding::good(
                of,
                "larder's user is one of its own: it may not even ask what it may do",
            ));
        }
        Rights::Rules { name, rules } => (name, rules),
    };
    let any = |wide: &[&str]| rules.split(' ').any(|rule| wide.contains(&rule));
    let loopback = [
        "redis://127.",
        "redis://localhost",
        "redis://[::1]",
        "redis+unix",
    ]
    .iter()
    .any(|near| facts.address.starts_with(near));
    let narrow = redis_client::acl(&settings.cache.namespace, &settings.purging);
    let mend =
        format!("{narrow}   (larder export acl), then redis://larder:PASSWORD@… in redis.url");
    // `-@dangerous` and the like after it take away too little to be looked at.
    let wide = match (any(&["+@all", "allcommands"]), any(&["~*", "allkeys"])) {
        (true, _) => Some("everything, FLUSHALL included"),
        (false, true) => Some("what it likes with every key of this Redis"),
        (false, false) => [
            "+@dangerous",
            "+@admin",
            "+@keyspace",
            "+flushall",
            "+flushdb",
            "+config",
            "+keys",
            "+scan",
        ]
        .into_iter()
        .find(|rule| any(&[rule])),
    };
    Some(match wide {
        _ if any(&["nopass"]) && !loopback => Finding::bad(
            of,
            format!("it lets everybody in who reaches it: the user `{name}` has no password"),
            mend,
        ),
        Some(wide) => Finding::advice(of, format!("larder's user `{name}` may do {wide}"), mend),
        None => Finding::good(of, "larder's user may do what it needs and no more"),
    })
}

/// What a configuration itself gives away.
pub(super) fn configuration(settings: &Settings) -> Vec<Finding> {
    let of = "configuration";
    let mut findings = Vec::new();
    let by_address = settings
        .limits
        .all
        .iter()
        .any(|limit| limit.per.contains(&LimitPer::Ip));
    if by_address && settings.identity.trusted_proxies.is_empty() {
        findings.push(Finding::advice(
            of,
            "limits count by address, and no proxy is trusted",
            "behind a load balancer all clients are one: name it in identity.trusted_proxies",
        ));
    }
    if settings.cache.memory == 0 && settings.redis.is_none() {
        findings.push(Finding::bad(
            of,
            "neither memory nor Redis: nothing can be stored",
            "cache.memory: 64MiB, or redis.url",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use crate::redis_client::info::tests::info as info_of;

    const OF: &str = "redis";

    fn facts(info: &[(&str, &str)]) -> RedisFacts {
        RedisFacts {
            address: "redis://10.0.0.7:6379".into(),
            role: Role::Alone,
            trips: vec![Duration::from_micros(300); 50],
            info: Some(info_of(info)),
            ahead_millis: Some(3),
            rights: Rights::Unknown,
        }
    }

    fn grades(findings: &[Finding]) -> Vec<Grade> {
        findings.iter().map(|finding| finding.grade).collect()
    }

    #[test]
    fn a_cache_has_a_bound_and_makes_room() {
        let of = |limit: &str, policy: &str, used_for| {
            let facts = facts(&[
                ("maxmemory", limit),
                ("maxmemory_policy", policy),
                ("used_memory", "100"),
            ]);
            grades(&memory(OF, used_for, &facts))
        };
        assert_eq!(of("0", "noeviction", Use::Cache), [Grade::Advice]);
        assert_eq!(
            of("1000", "noeviction", Use::Cache),
            [Grade::Bad, Grade::Good]
        );
        assert_eq!(
            of("1000", "allkeys-lru", Use::Cache),
            [Grade::Good, Grade::Good]
        );
        assert_eq!(
            of("1000", "allkeys-lru", Use::Both),
            [Grade::Advice, Grade::Good]
        );
        assert_eq!(
            of("1000", "allkeys-lru", Use::Limits),
            [Grade::Advice, Grade::Good]
        );
        assert_eq!(
            of("1000", "noeviction", Use::Limits),
            [Grade::Good, Grade::Good]
        );
        assert_eq!(
            of("110", "noeviction", Use::Limits),
            [Grade::Good, Grade::Bad]
        );
        assert!(memory(OF, Use::Cache, &RedisFacts::default()).is_empty());
    }

    #[test]
    fn what_can_be_read_on_the_way_is_bad_outside() {
        for (address, grade) in [
            ("redis://127.0.0.1:6379", Grade::Good),
            ("redis://cache:6379", Grade::Good),
            ("redis://redis.railway.internal:6379", Grade::Good),
            ("redis://[::1]:6379", Grade::Good),
            ("redis://redis.example.com:6379", Grade::Bad),
            ("redis://8.8.8.8:6379", Grade::Bad),
            ("rediss://redis.example.com:6379", Grade::Good),
            ("redis+unix:///run/redis.sock", Grade::Good),
        ] {
            let facts = RedisFacts {
                address: address.into(),
                ..facts(&[])
            };
            assert_eq!(wire(OF, &facts).grade, grade, "{address}");
        }
    }

    #[test]
    fn versions_roles_and_clocks_are_looked_at() {
        let version_of = |text| version(OF, &facts(&[("redis_version", text)])).map(|f| f.grade);
        assert_eq!(version_of("5.0.14"), Some(Grade::Bad));
        assert_eq!(version_of("6.0.9"), Some(Grade::Bad));
        assert_eq!(version_of("6.2.1"), Some(Grade::Good));
        assert_eq!(version_of("7.0.15"), Some(Grade::Good));
        assert_eq!(version_of("nonsense"), None);
        assert!(role(OF, &facts(&[("role", "master")])).is_none());
        assert!(role(OF, &facts(&[("role", "slave")])).is_some());
        let replica = |link| RedisFacts {
            role: Role::Replica,
            ..facts(&[("role", "slave"), ("master_link_status", link)])
        };
        assert_eq!(role(OF, &replica("up")), None);
        assert_eq!(role(OF, &replica("down")).unwrap().grade, Grade::Advice);
        assert!(writes(OF, &facts(&[("rdb_last_bgsave_status", "err")])).is_some());
        let skewed = RedisFacts {
            ahead_millis: Some(-60_000),
            ..facts(&[])
        };
        let finding = clock(OF, &skewed).unwrap();
        assert_eq!(finding.grade, Grade::Advice);
        assert!(finding.says.contains("60000 ms behind"), "{}", finding.says);
    }

    #[test]
    fn a_replica_that_is_not_synced_is_none() {
        let of = |state: &str, offset: &str| {
            let replica = format!("ip=10.0.0.8,port=6379,state={state},offset={offset},lag=0");
            let facts = facts(&[
                ("role", "master"),
                ("connected_slaves", "1"),
                ("master_repl_offset", "9000000"),
                ("slave0", &replica),
            ]);
            replicas(OF, Use::Both, &facts).unwrap()
        };
        assert_eq!(of("online", "9000000").grade, Grade::Good);
        assert_eq!(of("online", "0").says, "10.0.0.8:6379 is 8 MiB behind");
        let waits = of("wait_bgsave", "0");
        assert_eq!(waits.grade, Grade::Advice);
        assert!(waits.mend.unwrap().contains("repl-diskless-sync-delay"));
        let alone = replicas(
            OF,
            Use::Both,
            &facts(&[("role", "master"), ("connected_slaves", "0")]),
        );
        assert_eq!(alone.unwrap().grade, Grade::Good);
    }

    #[test]
    fn disks_and_fragments_are_looked_at() {
        let of = |aof: &str, used_for| {
            persistence(OF, used_for, &facts(&[("aof_enabled", aof)])).map(|f| f.grade)
        };
        assert_eq!(of("1", Use::Cache), Some(Grade::Advice));
        assert_eq!(of("1", Use::Both), Some(Grade::Good));
        assert_eq!(of("0", Use::Limits), Some(Grade::Advice));
        assert_eq!(of("0", Use::Cache), Some(Grade::Good));
        let of = |used: &str, ratio: &str| {
            let facts = facts(&[("used_memory", used), ("mem_fragmentation_ratio", ratio)]);
            fragmentation(OF, &facts).is_some()
        };
        assert!(of("100000000", "1.9"));
        assert!(!of("100000000", "1.1"));
        assert!(!of("1000000", "9.0"), "a small one");
    }

    #[test]
    fn a_policy_of_chance_is_not_for_a_cache_with_a_purge_log() {
        let facts = facts(&[
            ("maxmemory", "1000"),
            ("maxmemory_policy", "volatile-random"),
        ]);
        assert_eq!(grades(&memory(OF, Use::Cache, &facts)), [Grade::Advice]);
    }
}
