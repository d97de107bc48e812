//! `larder doctor`: visits the app and Redis that a configuration names, and says what would hurt later.
//!
//! Only asks: it changes nothing, neither there nor here. What the answers mean is judged in [`judge`].

mod judge;

use crate::clock::Clock;
use crate::config::redis_url::Topology;
use crate::config::settings;
use crate::config::{RedisUrl, Settings};
use crate::redis_client::info::Info;
use crate::redis_client::{self, Outage, PrivateLine, Server};
use crate::server;
use crate::upstream::Upstream;
use judge::{RedisFacts, Rights, Role, Use};
use redis::{Value, cmd};
use serde::Serialize;
use std::io;
use std::time::{Duration, Instant};

/// One question to Redis.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Round trips that are timed.
const TRIPS: usize = 50;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Good,
    /// Works, and could be better.
    Advice,
    /// Will fail, or fails already.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is.
    pub grade: Grade,
    /// `app`, `redis`, `redis for limits` or `configuration`.
    pub of: &'static str,
    /// What was found.
    pub says: String,
    /// How to mend it, where there is something to mend.
    pub mend: Option<String>,
}

impl Finding {
    fn good(of: &'static str, says: impl Into<String>) -> Self {
        Self {
            grade: Grade::Good,
            of,
            says: says.into(),
            mend: None,
        }
    }

    fn advice(of: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            grade: Grade::Advice,
            of,
            says: says.into(),
            mend: Some(mend.into()),
        }
    }

    fn bad(of: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            grade: Grade::Bad,
            ..Self::advice(of, says, mend)
        }
    }
}

/// Looks at everything that `settings` depend on; a few seconds at most.
///
/// Errors: there is no runtime to be had.
pub fn examine(settings: &Settings) -> io::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        let mut findings = vec![app(settings).await];
        match &settings.redis {
            None => findings.push(Finding::advice(
                "redis",
                "none is configured: each larder caches and counts for itself",
                "set redis.url, or REDIS_URL, where there are several",
            )),
            Some(redis) => {
                let both = match redis.limits_url {
                    None if !settings.limits.all.is_empty() => Use::Both,
                    _ => Use::Cache,
                };
                findings.extend(server(settings, redis, &redis.url, both).await);
                if let Some(url) = &redis.limits_url {
                    findings.extend(server(settings, redis, url, Use::Limits).await);
                }
            }
        }
        findings.extend(judge::configuration(settings));
        findings.push(port(settings));
        findings
    }))
}

async fn app(settings: &Settings) -> Finding {
    let began = Instant::now();
    match Upstream::new(settings.upstream.clone()).probe().await {
        Ok(()) if settings.upstream.health.is_none() => Finding::advice(
            "app",
            "it takes connections",
            "name a path in upstream.health, so that its health is known and not only its port",
        ),
        Ok(()) => Finding::good("app", format!("healthy, after {:.1?}", began.elapsed())),
        Err(down) => Finding::bad(
            "app",
            format!("does not answer: {}", down.cause),
            "start it, or mend upstream.url or upstream.health",
        ),
    }
}

fn port(settings: &Settings) -> Finding {
    let address = settings.listen.address;
    if server::is_taken(address) {
        Finding::good(
            "configuration",
            format!("{address} is in use, by a larder or another"),
        )
    } else {
        Finding::good("configuration", format!("{address} is free"))
    }
}

async fn server(
    settings: &Settings,
    redis: &settings::Redis,
    url: &RedisUrl,
    used_for: Use,
) -> Vec<Finding> {
    let of = used_for.word();
    let servers = match redis_client::servers(redis, url).await {
        Ok(servers) => servers,
        Err(why) => {
            let says = format!(
                "no connection: the servers of {url} are not known: {}",
                why.text
            );
            return vec![Finding::bad(of, says, why.mend)];
        }
    };
    let mut findings = Vec::new();
    if matches!(url.topology, Topology::Cluster(_)) {
        let primaries = servers.iter().filter(|server| !server.follows).count();
        findings.push(judge::cluster(of, primaries));
    }
    let is_alone = matches!(url.topology, Topology::Single(_));
    for Server { address, follows } in servers {
        let role = match follows {
            _ if is_alone => Role::Alone,
            true => Role::Replica,
            false => Role::Primary,
        };
        let line = match redis_client::line(redis, url, &address).await {
            Ok(line) => line,
            Err(refused) => {
                findings.push(judge::refused(of, &refused));
                continue;
            }
        };
        match facts(&line, address.to_string(), role).await {
            Ok(facts) => findings.extend(judge::redis(settings, redis, used_for, &facts)),
            Err(outage) => findings.push(Finding::bad(
                of,
                format!("took the connection and then failed: {}", outage.word()),
                "look at Redis's own log",
            )),
        }
    }
    findings
}

async fn facts(line: &PrivateLine, address: String, role: Role) -> Result<RedisFacts, Outage> {
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let began = Instant::now();
        line.query(&cmd("PING"), ANSWER_TIME).await?;
        trips.push(began.elapsed());
    }
    trips.sort_unstable();
    // What this user is not let see stays unknown.
    let info = line.query(&cmd("INFO"), ANSWER_TIME).await;
    let (clock, began) = (Clock::system(), Instant::now());
    let time = line.query(&cmd("TIME"), ANSWER_TIME).await;
    // It was read half a round trip ago, as far as anybody can tell.
    let here = clock.now().as_millis() - as_millis(began.elapsed() / 2);
    let rights = rights(line).await;
    Ok(RedisFacts {
        address,
        role,
        trips,
        info: info.ok().as_ref().and_then(Info::read),
        ahead_millis: time.ok().and_then(|time| ahead(&time, here)),
        rights,
    })
}

/// What this user may do, as far as it may know.
async fn rights(line: &PrivateLine) -> Rights {
    let mut whoami = cmd("ACL");
    whoami.arg("WHOAMI");
    let name = match line.query(&whoami, ANSWER_TIME).await {
        Ok(name) => text(&name).unwrap_or_default(),
        Err(Outage::Forbidden) => return Rights::Hidden,
        Err(_) => return Rights::Unknown,
    };
    let mut list = cmd("ACL");
    list.arg("LIST");
    let users = match line.query(&list, ANSWER_TIME).await {
        Ok(Value::Array(users)) => users,
        Err(Outage::Forbidden) => return Rights::Hidden,
        _ => return Rights::Unknown,
    };
    let start = format!("user {name} ");
    users
        .iter()
        .filter_map(text)
        .find(|user| user.starts_with(&start))
        .map_or(Rights::Unknown, |rules| Rights::Rules { name, rules })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// By how many milliseconds the answer to TIME is ahead of `here`, in milliseconds since 1970.
fn ahead(time: &Value, here: u64) -> Option<i64> {
    let Value::Array(parts) = time else {
        return None;
    };
    let number = |at: usize| text(parts.get(at)?)?.parse::<i64>().ok();
    let theirs = number(0)? * 1_000 + number(1)? / 1_000;
    Some(theirs - i64::try_from(here).ok()?)
}
