//! What a server says of itself, `INFO`, read within bounds.
//!
//! What it does not say, or says in another form than expected, is unknown.

use redis::Value;
use std::collections::HashMap;

/// Bytes of the answer that are read.
const INFO_BYTES_MAX: usize = 64 * 1024;
/// Characters of a value that are kept.
const VALUE_CHARS_MAX: usize = 128;

/// An answer to `INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    fields: HashMap<Box<str>, Box<str>>,
    /// Keys in all databases, and those of them with a TTL.
    keys: Option<(u64, u64)>,
}

/// What several servers have together.
const SUMMED: [&str; 11] = [
    "used_memory",
    "used_memory_startup",
    "maxmemory",
    "evicted_keys",
    "expired_keys",
    "keyspace_hits",
    "keyspace_misses",
    "total_commands_processed",
    "instantaneous_ops_per_sec",
    "connected_clients",
    "maxclients",
];

/// A replica, as its primary sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// `host:port`
    pub address: String,
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
        Some(Self { fields, keys })
    }

    /// What several servers that share the keys say together: sums where something is had together, else
    /// what the first says. `None` of none.
    #[must_use]
    pub fn of_all(infos: impl IntoIterator<Item = Self>) -> Option<Self> {
        infos.into_iter().reduce(|mut all, one| {
            for name in SUMMED {
                if let (Some(sum), Some(more)) = (all.number(name), one.number(name)) {
                    let sum = sum.saturating_add(more).to_string();
                    all.fields.insert(name.into(), sum.into());
                }
            }
            all.keys = match (all.keys, one.keys) {
                (Some(sum), Some(more)) => {
                    Some((sum.0.saturating_add(more.0), sum.1.saturating_add(more.1)))
                }
                _ => None,
            };
            all
        })
    }

    /// Whether it takes writes.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.get("role") != Some("slave")
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
                address: format!("{}:{}", part("ip")?, part("port")?),
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
    fn what_several_servers_have_together_is_added_up() {
        let one = |used: &str, keys: &str| {
            let keys = format!("keys={keys},expires=1");
            info(&[
                ("role", "master"),
                ("redis_version", "7.4.1"),
                ("used_memory", used),
                ("keyspace", ""),
                ("db0", &keys),
            ])
        };
        let all = Info::of_all([one("100", "3"), one("50", "4")]).unwrap();
        assert_eq!(all.number("used_memory"), Some(150));
        assert_eq!((all.keys(), all.keys_with_ttl()), (Some(7), Some(2)));
        assert_eq!(all.server(), Some(("Redis", "7.4.1")));
        assert!(all.is_primary());
        assert_eq!(Info::of_all([]), None);
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
        assert_eq!(replicas[0].address, "10.0.0.8:6379");
        assert_eq!(
            (replicas[0].behind_bytes, replicas[1].behind_bytes),
            (10, 1_000)
        );
        assert_eq!(replicas[1].state, "wait_bgsave");
    }
}
