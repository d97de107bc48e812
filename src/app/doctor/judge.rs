//! What was seen on a visit, and what it means. Pure.

use super::Finding;
use crate::config::Settings;
use crate::config::settings::{self, LimitPer};
use crate::redis_client::{self, Outage, Refused};
use std::collections::HashMap;
use std::time::Duration;

/// The oldest Redis that every command of ours is tested with.
const VERSION_MIN: (u32, u32) = (6, 2);
/// A clock that is off by more makes ages wrong by seconds.
const SKEW_MILLIS_MAX: u64 = 1_000;
/// A Redis this far away is no neighbour.
const FAR: Duration = Duration::from_millis(5);
/// Share of `maxmemory` in use from which it is nearly full.
const NEARLY_FULL: f64 = 0.8;

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

/// What a Redis said of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct RedisFacts {
    /// Without user and password.
    pub address: String,
    /// Round trips, shortest first.
    pub trips: Vec<Duration>,
    /// `INFO`, where it may be asked.
    pub info: Option<HashMap<String, String>>,
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
        Some(self.info.as_ref()?.get(name)?.as_str())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.info(name)?.parse().ok()
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
    let mend = match refused.outage {
        Outage::Denied => "mend the user or the password in redis.url",
        Outage::Timeout => {
            "something takes the packets and says nothing: a firewall, a port of something else, or TLS on one side only"
        }
        Outage::NotReady => "wait until it has loaded its data",
        Outage::Protocol => {
            "what listens there is no Redis, or redis.url is none; with TLS it is rediss://"
        }
        _ if ["broken pipe", "reset", "closed", "end of file"]
            .iter()
            .any(|cut| refused.text.contains(cut)) =>
        {
            "what listens there took the connection and ended it: is it a Redis? With TLS it is rediss://"
        }
        _ if refused.text.contains("TLS") || refused.text.contains("certificate") => {
            "name its certificate authority in redis.tls.ca, or the host that its certificate is for"
        }
        _ => "start it, or mend redis.url",
    };
    Finding::bad(of, format!("no connection: {}", refused.text), mend)
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
            findings.extend(memory(of, used_for, facts));
            findings.extend(writes(of, facts));
        }
    }
    findings.extend(clock(of, facts));
    findings.extend(rights(of, settings, facts));
    findings
}

fn distance(of: &'static str, redis: &settings::Redis, facts: &RedisFacts) -> Finding {
    let (usual, slow) = (facts.trip(0.5), facts.trip(0.99));
    let says = format!(
        "{}: round trip {usual:.1?}, 99 % within {slow:.1?}",
        facts.address
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

fn version(of: &'static str, facts: &RedisFacts) -> Option<Finding> {
    let version = facts.info("redis_version")?;
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    let known = (parts.next()?, parts.next().unwrap_or(0));
    let name = match facts.info("server_name") {
        Some("valkey") => "Valkey",
        _ => "Redis",
    };
    Some(if known < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        let mend = format!("use {major}.{minor} or newer");
        Finding::bad(of, format!("{name} {version} is too old"), mend)
    } else {
        Finding::good(of, format!("{name} {version}"))
    })
}

fn role(of: &'static str, facts: &RedisFacts) -> Option<Finding> {
    (facts.info("role") == Some("slave")).then(|| {
        Finding::bad(
            of,
            "this is a replica: it takes no writes",
            "name the primary in redis.url",
        )
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
            "maxmemory 256mb to begin with; `larder capacity` in the documentation says what you need",
        )),
        (_, Use::Limits) if evicts => findings.push(Finding::advice(
            of,
            format!("its policy is {policy}: counters may be evicted, and limits forget"),
            "maxmemory-policy noeviction, here where only limits are",
        )),
        (_, Use::Cache | Use::Both) if !evicts => findings.push(Finding::bad(
            of,
            "its policy is noeviction: once full it takes no more writes",
            "maxmemory-policy allkeys-lru",
        )),
        (_, Use::Both) => findings.push(Finding::advice(
            of,
            format!("its policy is {policy}, right for a cache; but limits are counted here too"),
            "redis.limits_url, where a limit must not be forgotten under pressure",
        )),
        _ => findings.push(Finding::good(of, format!("maxmemory is set, policy {policy}"))),
    }
    if let Some(used) = facts.number("used_memory").filter(|_| limit > 0) {
        let share = used as f64 / limit as f64;
        let says = format!("{:.0} % of maxmemory in use", share * 100.0);
        findings.push(match share >= NEARLY_FULL {
            true if evicts => Finding::advice(
                of,
                says,
                "more maxmemory means more hits; look at evicted_keys",
            ),
            true => Finding::bad(of, says, "raise maxmemory"),
            false => Finding::good(of, says),
        });
    }
    findings
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
    let narrow = redis_client::acl(&settings.cache.namespace);
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

    const OF: &str = "redis";

    fn facts(info: &[(&str, &str)]) -> RedisFacts {
        let info = info.iter();
        RedisFacts {
            address: "redis://10.0.0.7:6379".into(),
            trips: vec![Duration::from_micros(300); 50],
            info: Some(
                info.map(|(name, value)| ((*name).into(), (*value).into()))
                    .collect(),
            ),
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
        assert!(writes(OF, &facts(&[("rdb_last_bgsave_status", "err")])).is_some());
        let skewed = RedisFacts {
            ahead_millis: Some(-60_000),
            ..facts(&[])
        };
        let finding = clock(OF, &skewed).unwrap();
        assert_eq!(finding.grade, Grade::Advice);
        assert!(finding.says.contains("60000 ms behind"), "{}", finding.says);
    }
}
