//! What a server says of itself, `INFO`, read within bounds.
//!
//! What it does not say, or says in another form than expected, is unknown.

use redis::Value;
use std::collections::HashMap;

/// Bytes of the answer that are read.
const INFO_BYTES_MAX: usize = 64 * 1024;
/// Characters of a value that are kept.
const VALUE_CHARS_MAX: usize = 128;

/// What several servers have together is the sum of what each has.
const SUMS: [&str; 10] = [
    "used_memory",
    "used_memory_startup",
    "evicted_keys",
    "expired_keys",
    "keyspace_hits",
    "keyspace_misses",
    "total_commands_processed",
    "instantaneous_ops_per_sec",
    "connected_clients",
    "maxclients",
];

/// An answer to `INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    fields: HashMap<Box<str>, Box<str>>,
    /// Keys in all databases, and those of them with a TTL.
    keys: Option<(u64, u64)>,
}

/// A replica, as its primary sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Name or address of its machine.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `online`, or what it does instead: `wait_bgsave`, `send_bulk`.
    pub state: String,
    /// Bytes of the stream of writes that it has not acknowledged yet.
    pub behind_bytes: u64,
}

impl Info {
    /// Reads an answer to `INFO`; `None` where it is not text.
    #[must_use]
    pub fn read(reply: &Value) -> Option<Self> {
        let text = match reply {
            Value::BulkString(bytes) => {
                String::from_utf8_lossy(&bytes[..bytes.len().min(INFO_BYTES_MAX)])
            }
            Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.into(),
            _ => return None,
        };
        Some(Self::of_text(&text))
    }

    /// Reads the text of an answer.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        let short = |value: &str| -> Box<str> {
            let shown = value.chars().filter(|c| !c.is_control());
            shown.take(VALUE_CHARS_MAX).collect::<String>().into()
        };
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let fields: HashMap<Box<str>, Box<str>> = lines
            .map(|(name, value)| (name.into(), short(value)))
            .collect();
        // An empty server has the section without a line.
        let keys = text.contains("# Keyspace").then(|| {
            let sum = |name| keyspace(&fields, name);
            (sum("keys="), sum("expires="))
        });
        Self { fields, keys }
    }

    /// What servers that share the keys say, as if they were one: sums, the shortest time up, the worst
    /// fragmentation, `noeviction` and no `maxmemory` where one of them has it; the rest is as the first
    /// says. `None` of none.
    #[must_use]
    pub fn together(all: Vec<Self>) -> Option<Self> {
        all.into_iter().reduce(Self::and)
    }

    fn and(mut self, other: Self) -> Self {
        let number = |name: &str, of: fn(u64, u64) -> u64| {
            let both = self.number(name).zip(other.number(name));
            (
                name.to_owned(),
                both.map(|(one, more)| of(one, more).to_string()),
            )
        };
        let mut now: Vec<(String, Option<String>)> = Vec::new();
        now.extend(SUMS.map(|name| number(name, u64::saturating_add)));
        now.push(number("uptime_in_seconds", u64::min));
        now.push(number("maxmemory", |one, more| match one.min(more) {
            0 => 0,
            _ => one.saturating_add(more),
        }));
        // Told in bytes.
        now.push(("used_memory_human".to_owned(), None));
        let worst = |name: &str, is_worst: fn(&Self, &str) -> bool| {
            let info = if is_worst(&other, name) {
                &other
            } else {
                &self
            };
            (name.to_owned(), info.get(name).map(str::to_owned))
        };
        now.push(worst("maxmemory_policy", |info, name| {
            info.get(name) == Some("noeviction")
        }));
        for status in ["rdb_last_bgsave_status", "aof_last_write_status"] {
            now.push(worst(status, |info, name| info.get(name) == Some("err")));
        }
        let ratio = "mem_fragmentation_ratio";
        let is_less = self.fraction(ratio) < other.fraction(ratio);
        let more = if is_less { &other } else { &self };
        now.push((ratio.to_owned(), more.get(ratio).map(str::to_owned)));
        let keys = self.keys.zip(other.keys);
        self.keys =
            keys.map(|(one, more)| (one.0.saturating_add(more.0), one.1.saturating_add(more.1)));
        for (name, value) in now {
            match value {
                Some(value) => drop(self.fields.insert(name.into(), value.into())),
                None => drop(self.fields.remove(&*name)),
            }
        }
        self
    }

    /// A field as it stands there.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| &**value)
    }

    /// A field that is a whole number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// A field that is a fraction.
    #[must_use]
    pub fn fraction(&self, name: &str) -> Option<f64> {
        let number: f64 = self.get(name)?.parse().ok()?;
        number.is_finite().then_some(number)
    }

    /// `Redis` or `Valkey`, and the version.
    #[must_use]
    pub fn server(&self) -> Option<(&'static str, &str)> {
        let version = self.get("valkey_version");
        let name = match (self.get("server_name"), version) {
            (Some("valkey"), _) | (_, Some(_)) => "Valkey",
            _ => "Redis",
        };
        Some((name, version.or_else(|| self.get("redis_version"))?))
    }

    /// Keys in all databases.
    #[must_use]
    pub fn keys(&self) -> Option<u64> {
        self.keys.map(|(keys, _)| keys)
    }

    /// Keys with a TTL.
    #[must_use]
    pub fn keys_with_ttl(&self) -> Option<u64> {
        self.keys.map(|(_, with_ttl)| with_ttl)
    }

    /// Share of the lookups of all its clients that found something, 0.0 to 1.0; `None` before the first.
    #[must_use]
    pub fn hit_ratio(&self) -> Option<f64> {
        let (hits, misses) = (
            self.number("keyspace_hits")?,
            self.number("keyspace_misses")?,
        );
        let lookups = hits.saturating_add(misses);
        (lookups > 0).then(|| hits as f64 / lookups as f64)
    }

    /// Its replicas.
    #[must_use]
    pub fn replicas(&self) -> Vec<Replica> {
        let written = self.number("master_repl_offset").unwrap_or(0);
        let count = self.number("connected_slaves").unwrap_or(0).min(64);
        let replica = |number: u64| {
            let line = self.get(&format!("slave{number}"))?;
            let part = |name: &str| {
                let mut parts = line.split(',');
                parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
            };
            let offset: u64 = part("offset")?.parse().ok()?;
            Some(Replica {
                host: part("ip")?.to_owned(),
                port: part("port")?.parse().ok()?,
                state: part("state")?.to_owned(),
                behind_bytes: written.saturating_sub(offset),
            })
        };
        (0..count).filter_map(replica).collect()
    }
}

/// The sum of a number over the databases' lines, `db0:keys=1,expires=0,avg_ttl=0`.
fn keyspace(fields: &HashMap<Box<str>, Box<str>>, name: &str) -> u64 {
    let databases = fields.iter().filter(|(field, _)| {
        (field.strip_prefix("db")).is_some_and(|number| number.parse::<u32>().is_ok())
    });
    let numbers = databases.filter_map(|(_, value)| {
        let mut parts = value.split(',');
        parts.find_map(|part| part.strip_prefix(name)?.parse::<u64>().ok())
    });
    numbers.fold(0, u64::saturating_add)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// INFO with these fields.
    pub(crate) fn info(fields: &[(&str, &str)]) -> Info {
        let lines: String = fields
            .iter()
            .map(|(name, value)| match *name {
                "keyspace" => "# Keyspace\r\n".to_owned(),
                name => format!("{name}:{value}\r\n"),
            })
            .collect();
        Info::read(&Value::BulkString(lines.into_bytes())).unwrap()
    }

    #[test]
    fn what_redis_says_of_itself_is_read_and_what_it_hides_stays_unknown() {
        let text = "# Server\r\nredis_version:7.4.1\r\nuptime_in_seconds:12345\r\n# Stats\r\n\
                    keyspace_hits:3\r\nkeyspace_misses:1\r\nmem_fragmentation_ratio:1.25\r\n# Keyspace\r\n\
                    db0:keys=1500,expires=3,avg_ttl=0\r\ndb3:keys=2,expires=0\r\n";
        let info = Info::read(&Value::BulkString(text.into())).unwrap();
        assert_eq!(info.server(), Some(("Redis", "7.4.1")));
        assert_eq!(info.number("uptime_in_seconds"), Some(12_345));
        assert_eq!((info.keys(), info.keys_with_ttl()), (Some(1_502), Some(3)));
        assert_eq!(info.hit_ratio(), Some(0.75));
        assert_eq!(info.fraction("mem_fragmentation_ratio"), Some(1.25));

        let empty = Info::read(&Value::BulkString(b"# Keyspace\r\n".to_vec())).unwrap();
        assert_eq!((empty.keys(), empty.hit_ratio()), (Some(0), None));
        assert_eq!(Info::read(&Value::Nil), None);
        let odd = Value::BulkString(b"\xff:db0:keys=x\r\ndb:keys=-1\r\nused_memory:-3".to_vec());
        let odd = Info::read(&odd).unwrap();
        assert_eq!((odd.keys(), odd.number("used_memory")), (None, None));
    }

    #[test]
    fn what_shares_the_keys_is_summed_and_what_is_worst_is_told() {
        let one = |used: &str, most: &str, policy: &str, ratio: &str, keys: &str| {
            let db = format!("keys={keys},expires=1,avg_ttl=5");
            info(&[
                ("used_memory", used),
                ("used_memory_human", "1K"),
                ("maxmemory", most),
                ("maxmemory_policy", policy),
                ("mem_fragmentation_ratio", ratio),
                ("uptime_in_seconds", used),
                ("keyspace", ""),
                ("db0", &db),
            ])
        };
        let (a, b) = (
            one("10", "100", "allkeys-lru", "1.1", "3"),
            one("20", "100", "noeviction", "2.5", "4"),
        );
        let whole = Info::together(vec![a.clone(), b.clone(), a.clone()]).unwrap();
        assert_eq!(whole.number("used_memory"), Some(40));
        assert_eq!(whole.number("maxmemory"), Some(300));
        assert_eq!(whole.number("uptime_in_seconds"), Some(10));
        assert_eq!(whole.get("maxmemory_policy"), Some("noeviction"));
        assert_eq!(whole.fraction("mem_fragmentation_ratio"), Some(2.5));
        assert_eq!((whole.keys(), whole.keys_with_ttl()), (Some(10), Some(3)));
        assert_eq!(whole.get("used_memory_human"), None);
        let unbounded = one("1", "0", "allkeys-lru", "1.0", "0");
        let whole = Info::together(vec![b, unbounded]).unwrap();
        assert_eq!(
            whole.number("maxmemory"),
            Some(0),
            "one may take all there is"
        );
        // Of what one hides no sum is known.
        let hidden = Info::together(vec![a.clone(), info(&[("used_memory", "1")])]).unwrap();
        assert_eq!(
            (hidden.number("used_memory"), hidden.keys()),
            (Some(11), None)
        );
        assert_eq!(Info::together(vec![a.clone()]), Some(a));
        assert_eq!(Info::together(Vec::new()), None);
    }

    #[test]
    fn valkey_has_its_own_version_beside_the_one_it_is_like() {
        let valkey = [
            ("redis_version", "7.2.4"),
            ("server_name", "valkey"),
            ("valkey_version", "8.0.1"),
        ];
        assert_eq!(info(&valkey).server(), Some(("Valkey", "8.0.1")));
    }

    #[test]
    fn replicas_are_seen_with_how_far_they_are_behind() {
        let info = info(&[
            ("connected_slaves", "2"),
            ("master_repl_offset", "1000"),
            (
                "slave0",
                "ip=10.0.0.8,port=6379,state=online,offset=990,lag=0",
            ),
            (
                "slave1",
                "ip=::1,port=6380,state=wait_bgsave,offset=0,lag=0",
            ),
        ]);
        let replicas = info.replicas();
        let address = (&*replicas[0].host, replicas[0].port);
        assert_eq!(address, ("10.0.0.8", 6_379));
        assert_eq!(
            (replicas[0].behind_bytes, replicas[1].behind_bytes),
            (10, 1_000)
        );
        assert_eq!(replicas[1].state, "wait_bgsave");
    }
}
