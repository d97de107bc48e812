//! Which server has which key, and how a Redis tells it. Pure.
//!
//! The map is one shard (a single server, or what Sentinels monitor) or a Cluster's, by slot.
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>)

use super::info::Info;
use super::resp::Reply;
use crate::config::redis_url::Address;
use std::fmt;

/// Slots that a Cluster's keys are divided into.
pub const SLOTS: usize = 16_384;
/// Shards that are looked after; a Cluster larger than this is not one that this is made for.
pub const SHARDS_MAX: usize = 1_000;
/// Replicas of one shard that are looked after.
pub const REPLICAS_MAX: usize = 16;

/// A slot that nobody serves.
const NOBODY: u16 = u16::MAX;

/// Servers that hold the same keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Takes writes.
    pub primary: Address,
    /// Follow it.
    pub replicas: Vec<Address>,
}

/// Who has which key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Map {
    shards: Vec<Shard>,
    /// The shard of each slot; none where one shard has all.
    slots: Option<Box<[u16]>>,
}

impl Map {
    /// One shard has all.
    #[must_use]
    pub fn of_one(primary: Address, replicas: Vec<Address>) -> Self {
        Self {
            shards: vec![Shard { primary, replicas }],
            slots: None,
        }
    }

    /// The answer to CLUSTER SLOTS of the node at `asked`; `None` where it is none.
    #[must_use]
    pub fn of_cluster(reply: &Reply, asked: &Address) -> Option<Self> {
        let Reply::Array(ranges) = reply else {
            return None;
        };
        let mut shards: Vec<Shard> = Vec::new();
        let mut slots = vec![NOBODY; SLOTS].into_boxed_slice();
        for range in ranges {
            let Reply::Array(parts) = range else {
                return None;
            };
            let [Reply::Int(first), Reply::Int(last), nodes @ ..] = parts.as_slice() else {
                return None;
            };
            let range = usize::try_from(*first).ok()?..=usize::try_from(*last).ok()?;
            let mut nodes = nodes.iter().map(|node| node_address(node, asked));
            let primary = nodes.next()??;
            let replicas: Vec<_> = nodes.flatten().take(REPLICAS_MAX).collect();
            let known = shards.iter().position(|shard| shard.primary == primary);
            let at = known.unwrap_or(shards.len());
            if known.is_none() {
                if at >= SHARDS_MAX {
                    return None;
                }
                shards.push(Shard { primary, replicas });
            }
            slots.get_mut(range)?.fill(u16::try_from(at).ok()?);
        }
        (!shards.is_empty()).then_some(Self {
            shards,
            slots: Some(slots),
        })
    }

    /// The shards, in no order.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard that has `key`: its place among [`shards`](Self::shards). `None` where nobody does.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> Option<usize> {
        let at = match &self.slots {
            None => 0,
            Some(slots) => usize::from(slots[usize::from(slot(key))]),
        };
        (at < self.shards.len()).then_some(at)
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.shards).finish()
    }
}

/// One node of CLUSTER SLOTS: a host, a port, and what is of no use here. No host is the host of the
/// node that was asked; `?` stands for one that is not known.
fn node_address(node: &Reply, asked: &Address) -> Option<Address> {
    let Reply::Array(parts) = node else {
        return None;
    };
    let [host, Reply::Int(port), ..] = parts.as_slice() else {
        return None;
    };
    let host = match host {
        Reply::Nil => "",
        Reply::Bulk(host) | Reply::Simple(host) => std::str::from_utf8(host).ok()?,
        _ => return None,
    };
    let host = match host {
        "?" => return None,
        "" => asked.host()?,
        host => host,
    };
    Some(asked.beside(host.to_owned(), u16::try_from(*port).ok()?))
}

/// What Sentinels say of what they monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitored {
    /// The primary.
    pub primary: Address,
    /// How new this is: the highest is the latest (`config-epoch`).
    pub epoch: u64,
}

impl Monitored {
    /// The answer of the Sentinel at `asked` to SENTINEL MASTER; `None` where it is none.
    #[must_use]
    pub fn of(reply: &Reply, asked: &Address) -> Option<Self> {
        let field = |name| field(reply, name);
        Some(Self {
            primary: asked.beside(field("ip")?.to_owned(), field("port")?.parse().ok()?),
            epoch: field("config-epoch")?.parse().ok()?,
        })
    }
}

/// The replicas in the answer of the Sentinel at `asked` to SENTINEL REPLICAS: those that it sees.
#[must_use]
pub fn sentinel_replicas(reply: &Reply, asked: &Address) -> Vec<Address> {
    let Reply::Array(replicas) = reply else {
        return Vec::new();
    };
    let replica = |reply: &Reply| {
        let flags = field(reply, "flags")?;
        let gone = ["s_down", "o_down", "disconnected"];
        if flags.split(',').any(|flag| gone.contains(&flag)) {
            return None;
        }
        Some(asked.beside(
            field(reply, "ip")?.to_owned(),
            field(reply, "port")?.parse().ok()?,
        ))
    };
    replicas
        .iter()
        .filter_map(replica)
        .take(REPLICAS_MAX)
        .collect()
}

/// The replicas that the primary at `asked` says follow it.
#[must_use]
pub fn info_replicas(info: &Info, asked: &Address) -> Vec<Address> {
    let replicas = info.replicas().into_iter();
    replicas
        .filter(|replica| replica.state == "online")
        .map(|replica| asked.beside(replica.host, replica.port))
        .take(REPLICAS_MAX)
        .collect()
}

/// A value in a list of names and values in turn.
fn field<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let (Reply::Array(parts) | Reply::Map(parts)) = reply else {
        return None;
    };
    let text = |reply: &'a Reply| match reply {
        Reply::Bulk(text) | Reply::Simple(text) => std::str::from_utf8(text).ok(),
        _ => None,
    };
    let mut pairs = parts.chunks_exact(2);
    let pair = pairs.find(|pair| text(&pair[0]) == Some(name))?;
    text(&pair[1])
}

/// The slot of `key`: of what stands between the first `{` and the `}` behind it, where that is
/// something, else of all of it.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    let tag = || {
        let open = memchr::memchr(b'{', key)?;
        let rest = &key[open + 1..];
        let close = memchr::memchr(b'}', rest)?;
        (close > 0).then_some(&rest[..close])
    };
    crc16(tag().unwrap_or(key)) % SLOTS as u16
}

/// CRC-16/XMODEM: polynomial 0x1021, from zero.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let mut crc = (at as u16) << 8;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 {
                    crc << 1
                } else {
                    (crc << 1) ^ 0x1021
                };
                bit += 1;
            }
            table[at] = crc;
            at += 1;
        }
        table
    };
    bytes.iter().fold(0, |crc, byte| {
        (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.to_owned().into())
    }

    fn node(host: &str, port: i64) -> Reply {
        Reply::Array(vec![bulk(host), Reply::Int(port), bulk("id")])
    }

    fn range(first: i64, last: i64, nodes: &[Reply]) -> Reply {
        let ends = [Reply::Int(first), Reply::Int(last)];
        Reply::Array(ends.into_iter().chain(nodes.iter().cloned()).collect())
    }

    fn at(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    #[test]
    fn a_key_lies_in_the_slot_of_its_tag() {
        // redis-cli CLUSTER KEYSLOT …
        for (key, in_slot) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("", 0),
            ("{user1000}.following", 3_443),
            ("{user1000}.followers", 3_443),
            ("foo{}{bar}", 8_363),
            ("foo{{bar}}zap", 4_015),
            ("foo{bar}{zap}", 5_061),
            ("foo{bar", 15_278),
        ] {
            assert_eq!(slot(key.as_bytes()), in_slot, "{key}");
        }
    }

    #[test]
    fn a_cluster_tells_who_has_which_slot() {
        let reply = Reply::Array(vec![
            range(0, 5_460, &[node("10.0.0.1", 1), node("10.0.0.4", 4)]),
            range(5_461, 10_922, &[node("", 2), node("?", 5)]),
            range(10_923, 16_000, &[node("10.0.0.3", 3)]),
            range(16_100, 16_383, &[node("10.0.0.1", 1), node("10.0.0.4", 4)]),
        ]);
        let map = Map::of_cluster(&reply, &at("here", 9)).unwrap();
        let primaries: Vec<_> = map.shards().iter().map(|shard| &shard.primary).collect();
        assert_eq!(
            primaries,
            [&at("10.0.0.1", 1), &at("here", 2), &at("10.0.0.3", 3)]
        );
        assert_eq!(map.shards()[0].replicas, [at("10.0.0.4", 4)]);
        assert!(map.shards()[1].replicas.is_empty());
        assert_eq!(map.shard_of(b""), Some(0));
        assert_eq!(map.shard_of(b"foo"), Some(2));
        assert_eq!(map.shard_of(b"foo{}{bar}"), Some(1));
        // 16_050, which nobody has.
        let nobody = (0..)
            .map(|n| n.to_string())
            .find(|key| slot(key.as_bytes()) == 16_050);
        assert_eq!(map.shard_of(nobody.unwrap().as_bytes()), None);
    }

    #[test]
    fn what_is_no_answer_of_a_cluster_is_no_map() {
        for reply in [
            Reply::Nil,
            Reply::Array(vec![]),
            Reply::Array(vec![Reply::Int(1)]),
            Reply::Array(vec![range(0, 16_384, &[node("h", 1)])]),
            Reply::Array(vec![range(-1, 5, &[node("h", 1)])]),
            Reply::Array(vec![range(0, 5, &[])]),
            Reply::Array(vec![range(0, 5, &[node("h", 70_000)])]),
            Reply::Array(vec![range(9, 5, &[node("h", 1)])]),
        ] {
            let map = Map::of_cluster(&reply, &at("here", 9));
            assert!(
                map.is_none_or(|map| map.shard_of(b"").is_none()),
                "{reply:?}"
            );
        }
    }

    #[test]
    fn sentinels_tell_the_primary_and_the_replicas_that_they_see() {
        let fields = |pairs: &[(&str, &str)]| {
            let parts = pairs
                .iter()
                .flat_map(|(name, value)| [bulk(name), bulk(value)]);
            Reply::Array(parts.collect())
        };
        let asked = Address::Tls("sentinel".to_owned(), 26_379);
        let reply = fields(&[
            ("name", "shop"),
            ("ip", "10.0.0.1"),
            ("port", "6379"),
            ("config-epoch", "7"),
        ]);
        let told = Monitored::of(&reply, &asked).unwrap();
        assert_eq!(told.primary, Address::Tls("10.0.0.1".to_owned(), 6_379));
        assert_eq!(told.epoch, 7);
        assert_eq!(Monitored::of(&fields(&[("ip", "10.0.0.1")]), &asked), None);
        let replica = |host, flags| fields(&[("ip", host), ("port", "1"), ("flags", flags)]);
        let reply = Reply::Array(vec![
            replica("a", "slave"),
            replica("b", "s_down,slave,disconnected"),
            Reply::Nil,
        ]);
        assert_eq!(
            sentinel_replicas(&reply, &asked),
            [Address::Tls("a".to_owned(), 1)]
        );
    }

    #[test]
    fn a_primary_tells_who_follows_it() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
                    slave0:ip=10.0.0.2,port=6379,state=online,offset=5,lag=0\r\n\
                    slave1:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0\r\n\
                    slave_repl_offset:5\r\n";
        assert_eq!(
            info_replicas(&Info::of_text(info), &at("h", 1)),
            [at("10.0.0.2", 6_379)]
        );
    }
}
