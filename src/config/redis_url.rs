//! The URL of a Redis, read once: which servers make it up, who we are there, which database.
//!
//! Pure. The text is never repeated, since it may hold a password.
//!
//! | scheme | means |
//! |---|---|
//! | `redis://[user:password@]host[:6379][/database]` | one server |
//! | `rediss://…` | the same over TLS |
//! | `redis+unix:///path[?db=…&user=…&pass=…]` | one server at a Unix socket |
//! | `redis+sentinel://[user:password@]host[:26379],…/name[/database]` | the primary that Sentinels call `name` |
//! | `redis+cluster://[user:password@]host[:6379],…` | a Redis Cluster, found by any of these nodes |
//! | `rediss+sentinel:`, `rediss+cluster:` | the same, each server over TLS |

use super::problem::{Code, Fault};
use crate::secret::Secret;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// Servers that one URL may name.
pub const HOSTS_MAX: usize = 64;
/// Where a Redis listens if the URL does not say.
const PORT: u16 = 6_379;
/// Where a Sentinel does.
const SENTINEL_PORT: u16 = 26_379;

/// A Redis: its servers, and what they are greeted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    /// Which servers there are.
    pub topology: Topology,
    /// ACL user; the server's `default` without.
    pub username: Option<String>,
    /// Password; none is sent without.
    pub password: Option<Secret>,
    /// Number of the database.
    pub database: u16,
}

/// Which servers make up a Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topology {
    /// One server.
    Single(Address),
    /// The primary, and its replicas, that these Sentinels call by this name.
    Sentinel {
        /// Where they listen; at least one.
        sentinels: Vec<Address>,
        /// What they call it (`sentinel monitor NAME …`).
        name: String,
    },
    /// A Cluster, of which these nodes are known; at least one.
    Cluster(Vec<Address>),
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// `redis://host:port`; an IPv6 address stands without brackets.
    Tcp(String, u16),
    /// `rediss://host:port`
    Tls(String, u16),
    /// `redis+unix:///path`
    Unix(PathBuf),
}

impl RedisUrl {
    /// Reads `text`.
    ///
    /// Errors: what is wrong with it, and how it is written; without a word of it.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(bad("it holds spaces; write one in a password as %20"));
        }
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| bad("write redis://localhost:6379"))?;
        match scheme {
            "redis+unix" | "unix" => return unix(rest),
            "http" | "https" => {
                return Err(bad(
                    "this is a REST address; the same service has one with redis:// or rediss://",
                ));
            }
            _ => {}
        }
        let (tls, kind) = match scheme.split_once('+').unwrap_or((scheme, "")) {
            ("redis", kind) => (false, kind),
            ("rediss", kind) => (true, kind),
            _ => return Err(unknown()),
        };
        let rest = rest
            .strip_prefix("//")
            .ok_or_else(|| bad("two slashes follow the scheme: redis://localhost:6379"))?;
        if rest.ends_with("#insecure") {
            return Err(bad(
                "TLS without verification is not made; name the certificate authority in redis.tls.ca",
            ));
        }
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority
            .rsplit_once('@')
            .map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        let (username, password) = user.map(userinfo).transpose()?.unwrap_or_default();
        let port = if kind == "sentinel" {
            SENTINEL_PORT
        } else {
            PORT
        };
        let addresses = || addresses(hosts, port, tls);
        let (topology, path) = match kind {
            "" => match addresses()?.as_slice() {
                [address] => (Topology::Single(address.clone()), path),
                _ => {
                    return Err(bad(
                        "one server has one address; several are redis+cluster: or redis+sentinel:",
                    ));
                }
            },
            "sentinel" => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                if name.is_empty() {
                    return Err(bad(
                        "after the Sentinels comes the name they monitor: redis+sentinel://host:26379/mymaster",
                    ));
                }
                let (sentinels, name) = (addresses()?, decoded(name)?);
                (Topology::Sentinel { sentinels, name }, database)
            }
            "cluster" => (Topology::Cluster(addresses()?), path),
            _ => return Err(unknown()),
        };
        let database = database(path)?;
        if database != 0 && matches!(topology, Topology::Cluster(_)) {
            return Err(bad("a Cluster has database 0 alone"));
        }
        Ok(Self {
            topology,
            username,
            password,
            database,
        })
    }

    /// The same servers, with the user and the password of `other`.
    #[must_use]
    pub fn let_in_like(&self, other: &Self) -> Self {
        Self {
            username: other.username.clone(),
            password: other.password.clone(),
            ..self.clone()
        }
    }

    /// With the user, and dots in place of a password.
    #[must_use]
    pub fn masked(&self) -> String {
        let user = self.username.as_deref().unwrap_or_default();
        let who = match self.password {
            Some(_) => format!("{user}:••••@"),
            None if user.is_empty() => return self.to_string(),
            None => format!("{user}@"),
        };
        self.to_string().replacen("://", &format!("://{who}"), 1)
    }
}

impl fmt::Display for RedisUrl {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.topology.fmt(f)
    }
}

impl Topology {
    /// Whether what is sent can be read on the way.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.addresses().iter().all(Address::is_tls)
    }

    /// Whether what is sent leaves this machine, and can be read on the way.
    #[must_use]
    pub fn is_plain_outside(&self) -> bool {
        let mut addresses = self.addresses().iter();
        addresses.any(|address| !address.is_tls() && !address.is_here())
    }

    /// The servers that the URL names.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        match self {
            Self::Single(address) => std::slice::from_ref(address),
            Self::Sentinel { sentinels, .. } => sentinels,
            Self::Cluster(nodes) => nodes,
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Single(address) => return address.fmt(f),
            Self::Sentinel { .. } => "sentinel",
            Self::Cluster(_) => "cluster",
        };
        let tls = if self.is_tls() { "s" } else { "" };
        write!(f, "redis{tls}+{kind}://")?;
        for (at, address) in self.addresses().iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}", address.authority())?;
        }
        match self {
            Self::Sentinel { name, .. } => write!(f, "/{name}"),
            _ => Ok(()),
        }
    }
}

impl Address {
    /// A server at `host` and `port`, reached as this one is.
    #[must_use]
    pub fn beside(&self, host: String, port: u16) -> Self {
        match self {
            Self::Tls(..) => Self::Tls(host, port),
            Self::Tcp(..) | Self::Unix(_) => Self::Tcp(host, port),
        }
    }

    /// The name or address of the machine; none of a socket file.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp(host, _) | Self::Tls(host, _) => Some(host),
            Self::Unix(_) => None,
        }
    }

    /// Whether it surely is on this machine; names are not looked up.
    #[must_use]
    pub fn is_here(&self) -> bool {
        let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
        self.host()
            .is_none_or(|host| host == "localhost" || host.parse().is_ok_and(is_loopback))
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(..))
    }

    /// `host:port`, an IPv6 address in brackets; or the path.
    fn authority(&self) -> String {
        match self {
            Self::Tcp(host, port) | Self::Tls(host, port) if host.contains(':') => {
                format!("[{host}]:{port}")
            }
            Self::Tcp(host, port) | Self::Tls(host, port) => format!("{host}:{port}"),
            Self::Unix(path) => path.display().to_string(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self {
            Self::Tcp(..) => "redis",
            Self::Tls(..) => "rediss",
            Self::Unix(_) => "redis+unix",
        };
        write!(f, "{scheme}://{}", self.authority())
    }
}

fn bad(fix: &str) -> Fault {
    Fault::new(Code::E118, "this is not the URL of a Redis", fix)
}

fn unknown() -> Fault {
    bad("write redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://")
}

fn unix(rest: &str) -> Result<RedisUrl, Fault> {
    let path = rest.trim_start_matches("//");
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if !path.starts_with('/') {
        return Err(bad("write redis+unix:///run/redis.sock"));
    }
    let mut url = RedisUrl {
        topology: Topology::Single(Address::Unix(decoded(path)?.into())),
        username: None,
        password: None,
        database: 0,
    };
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "db" => url.database = database(value)?,
            "user" | "username" => url.username = Some(decoded(value)?),
            "pass" | "password" => url.password = Some(Secret::new(decoded(value)?)),
            _ => {}
        }
    }
    Ok(url)
}

fn userinfo(text: &str) -> Result<(Option<String>, Option<Secret>), Fault> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let given = |text: &str| -> Result<Option<String>, Fault> {
        let text = decoded(text)?;
        Ok((!text.is_empty()).then_some(text))
    };
    Ok((given(user)?, given(password)?.map(Secret::new)))
}

fn addresses(hosts: &str, port: u16, tls: bool) -> Result<Vec<Address>, Fault> {
    if hosts.split(',').count() > HOSTS_MAX {
        return Err(bad(
            "at most 64 hosts; others are found through any of them",
        ));
    }
    let address = |host: &str| {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0);
                (name, port.ok_or_else(|| {
                    bad("the port is a number from 1 to 65535; write other signs of a password as %XX")
                })?)
            }
            _ => (host, port),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        if name.is_empty() {
            return Err(bad("the host is missing: write redis://localhost:6379"));
        }
        let name = decoded(name)?;
        Ok(match tls {
            true => Address::Tls(name, port),
            false => Address::Tcp(name, port),
        })
    };
    hosts.split(',').map(address).collect()
}

fn database(text: &str) -> Result<u16, Fault> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        bad("after the host comes the number of the database: redis://localhost:6379/0")
    })
}

fn decoded(text: &str) -> Result<String, Fault> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| bad("what is written as %XX is not UTF-8"))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_and_shown_without_user_and_password() {
        for (text, shown, user, password, database) in [
            ("redis://localhost", "redis://localhost:6379", "", "", 0),
            (
                "redis://u:hunter2@cache:6380/2",
                "redis://cache:6380",
                "u",
                "hunter2",
                2,
            ),
            ("rediss://:p%40w@cache", "rediss://cache:6379", "", "p@w", 0),
            (
                "rediss://default:a:b@h/?family=0",
                "rediss://h:6379",
                "default",
                "a:b",
                0,
            ),
            ("redis://[::1]:7000/1", "redis://[::1]:7000", "", "", 1),
            (
                "redis+unix:///run/r.sock?db=1&pass=hunter2",
                "redis+unix:///run/r.sock",
                "",
                "hunter2",
                1,
            ),
            (
                "redis+sentinel://:pw@a,b:26380/shop/3",
                "redis+sentinel://a:26379,b:26380/shop",
                "",
                "pw",
                3,
            ),
            (
                "rediss+sentinel://a/shop",
                "rediss+sentinel://a:26379/shop",
                "",
                "",
                0,
            ),
            (
                "redis+cluster://u:pw@a:7000,[::1]:7001",
                "redis+cluster://a:7000,[::1]:7001",
                "u",
                "pw",
                0,
            ),
            ("rediss+cluster://a/0", "rediss+cluster://a:6379", "", "", 0),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(url.username.as_deref().unwrap_or_default(), user, "{text}");
            let given = url.password.as_ref().map_or("", Secret::expose);
            assert_eq!((given, url.database), (password, database), "{text}");
            assert!(!format!("{url:?}").contains("hunter2"));
        }
    }

    #[test]
    fn it_is_shown_with_dots_in_place_of_the_password() {
        for (text, masked) in [
            ("redis://h", "redis://h:6379"),
            ("rediss://u:p@h", "rediss://u:••••@h:6379"),
            ("redis://:p@h", "redis://:••••@h:6379"),
            ("redis://u@h", "redis://u@h:6379"),
            ("redis+unix:///r?pass=p", "redis+unix://:••••@/r"),
        ] {
            assert_eq!(RedisUrl::parse(text).unwrap().masked(), masked);
        }
    }

    #[test]
    fn plain_text_is_plain_where_it_leaves_the_machine() {
        for (text, is_plain) in [
            ("redis://localhost", false),
            ("redis://127.8.0.1:1", false),
            ("redis://u:p@[::1]:1", false),
            ("redis+unix:///run/r.sock", false),
            ("rediss://redis.example", false),
            ("redis://redis", true),
            ("redis://10.0.0.7", true),
            ("redis+cluster://localhost,b", true),
            ("redis+sentinel://localhost/shop", false),
            ("redis://localhost@h", true),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!(url.topology.is_plain_outside(), is_plain, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_and_nothing_of_it_repeated() {
        for (text, told) in [
            ("localhost:6379", "write redis://"),
            ("hunter2", "redis://localhost"),
            ("redis:localhost", "two slashes"),
            ("redis://", "host is missing"),
            ("redis://?x", "host is missing"),
            ("redis://u:hunter2@h:x", "port is a number"),
            ("redis://u:hun/ter2@h", "other signs of a password"),
            ("redis://h:0", "port is a number"),
            ("redis://h:70000", "port is a number"),
            ("redis://hunter2 @h", "spaces"),
            ("redis://h/x", "number of the database"),
            ("redis://h/70000", "number of the database"),
            ("redis://a,b", "several are"),
            ("redis://%ff@h", "UTF-8"),
            ("rediss://:hunter2@cache/#insecure", "without verification"),
            ("http://u:hunter2@h", "REST address"),
            ("memcached://h", "redis+cluster"),
            ("redis+ring://h", "redis+cluster"),
            ("redis+unix:run/r.sock", "redis+unix:///"),
            ("redis+sentinel://a:26379", "name they monitor"),
            ("redis+sentinel:///shop", "host is missing"),
            ("redis+cluster://a/1", "database 0 alone"),
            ("redis+cluster://a,,b", "host is missing"),
        ] {
            let fault = RedisUrl::parse(text).expect_err(text);
            let words = fault.to_string();
            assert!(words.contains(told), "{text}: {words}");
            assert!(!words.contains("hunter2"), "{text}");
        }
    }
}
