//! Which pages are asked for most, over all sidecars: each adds what its own table of hot keys says to a
//! sum in Redis that forgets and has a bound.
//!
//! Nobody's own pages are in it, nor such as are not stored. URLs lie there as entries do: encrypted where
//! `cache.encrypt` is set.

use crate::cache::Cache;
use crate::proxy::Shared;
use crate::redis_client::{Outage, Redis, Script};
use crate::semantics::Timestamp;
use bytes::Bytes;
use redis::Value;
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::LazyLock;
use std::time::Duration;

/// Pages in the sum.
pub const PAGES_MAX: usize = 10_000;
/// Uses lose half of their weight in this time.
pub const HALF_LIFE: Duration = Duration::from_secs(6 * 3_600);
/// Without any sidecar that adds to it, the sum is forgotten after this time.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// What is added so often …
const ADD: Duration = Duration::from_secs(10);
/// … is so many pages at most.
const ADDED_MAX: usize = 500;
/// Pages that are read in one command.
const READ_AT_ONCE: usize = 500;

static ADDED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local now, half, life, most = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local aged = tonumber(redis.call('HGET', KEYS[2], 'aged'))
if aged and now - aged >= half / 24 then
    redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', 2 ^ (-(now - aged) / half))
    aged = nil
end
if not aged then redis.call('HSET', KEYS[2], 'aged', now) end
for at = 5, #ARGV, 3 do
    redis.call('ZINCRBY', KEYS[1], ARGV[at + 1], ARGV[at])
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 2])
end
local count = redis.call('ZCARD', KEYS[1])
if count > most then
    for _, gone in ipairs(redis.call('ZRANGE', KEYS[1], 0, count - most - 1)) do
        redis.call('HDEL', KEYS[2], gone)
    end
    redis.call('ZREMRANGEBYRANK', KEYS[1], 0, count - most - 1)
end
redis.call('PEXPIRE', KEYS[1], life)
redis.call('PEXPIRE', KEYS[2], life)
return {count}",
    )
});

/// The sum.
#[derive(Clone, Debug)]
pub struct Popular {
    redis: Option<Redis>,
    cache: Cache,
    /// Scores by key's digest.
    scores: String,
    /// Sealed URLs by key's digest, and when the scores were last aged.
    urls: String,
}

impl Popular {
    /// The sum of this namespace; without Redis, what this process has seen is all there is.
    #[must_use]
    pub fn new(redis: Option<Redis>, cache: Cache, namespace: &str) -> Self {
        Self {
            redis,
            cache,
            // One slot in a Cluster.
            scores: format!("{namespace}:popular:{{{namespace}}}"),
            urls: format!("{namespace}:popular:{{{namespace}}}:urls"),
        }
    }

    /// Adds what this process sees, for as long as it is polled.
    pub async fn keep_adding(&self, shared: &Shared) -> Infallible {
        loop {
            tokio::time::sleep(ADD).await;
            let now = shared.clock.now();
            // An outage: what is asked for goes on to be, and is added next time.
            let _ = self.add(own(shared, ADDED_MAX, now), now).await;
        }
    }

    async fn add(&self, pages: Vec<Own>, now: Timestamp) -> Result<(), Outage> {
        let Some(redis) = self.redis.as_ref().filter(|_| !pages.is_empty()) else {
            return Ok(());
        };
        let numbers = [
            now.as_millis().to_string(),
            HALF_LIFE.as_millis().to_string(),
            LIFE.as_millis().to_string(),
            PAGES_MAX.to_string(),
        ];
        let mut args: Vec<Vec<u8>> = numbers.map(String::into_bytes).to_vec();
        let share = ADD.as_secs_f32() / 60.0;
        for page in pages {
            let text = format!("{}{}", if page.tls { "s" } else { "-" }, page.url);
            let Some(sealed) = self.cache.seal(text.as_bytes(), page.digest.as_bytes()) else {
                continue;
            };
            args.push(page.digest.into_bytes());
            args.push(format!("{:.3}", page.per_minute * share).into_bytes());
            args.push(sealed);
        }
        let keys = [self.scores.as_bytes(), self.urls.as_bytes()];
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        redis.script("popular", &ADDED, &keys, &args).await?;
        Ok(())
    }

    /// The pages that are asked for most, at most `most`, with whether by `https`: by all, then by this
    /// process alone.
    pub async fn top(&self, shared: &Shared, most: usize) -> Vec<(bool, String)> {
        let mut top = self.sum(most).await.unwrap_or_default();
        let mut known: HashSet<_> = top.iter().cloned().collect();
        for page in own(shared, most, shared.clock.now()) {
            let page = (page.tls, page.url);
            if top.len() < most && known.insert(page.clone()) {
                top.push(page);
            }
        }
        top
    }

    async fn sum(&self, most: usize) -> Result<Vec<(bool, String)>, Outage> {
        let Some(redis) = &self.redis else {
            return Ok(Vec::new());
        };
        let mut ask = redis::cmd("ZREVRANGE");
        let last = most.min(PAGES_MAX).saturating_sub(1);
        ask.arg(&self.scores).arg(0).arg(last);
        let members = strings(redis.query("zrevrange", &ask).await?);
        let mut pages = Vec::with_capacity(members.len());
        for members in members.chunks(READ_AT_ONCE) {
            let mut ask = redis::cmd("HMGET");
            ask.arg(&self.urls);
            for member in members {
                ask.arg(&**member);
            }
            let sealed = strings(redis.query("hmget", &ask).await?);
            for (member, sealed) in members.iter().zip(sealed) {
                let opened = self.cache.open_sealed(sealed, member);
                let text = opened.and_then(|text| String::from_utf8(text.into()).ok());
                let page = text.and_then(|text| {
                    let (mark, url) = text.split_at_checked(1)?;
                    Some((mark == "s", url.to_owned()))
                });
                pages.extend(page);
            }
        }
        Ok(pages)
    }
}

/// A page of this process's own table.
struct Own {
    digest: String,
    tls: bool,
    url: String,
    per_minute: f32,
}

/// What this process is asked for most and may be known to all, at most `most`.
fn own(shared: &Shared, most: usize, now: Timestamp) -> Vec<Own> {
    let is_shared = |key: &crate::telemetry::hot::HotKey| {
        !key.what.is_personal && !shared.coalescer.is_apart(&key.key, now)
    };
    let top = shared.hot.top(most, now).into_iter().filter(is_shared);
    top.map(|key| Own {
        digest: key.key.to_string(),
        tls: key.what.tls,
        url: key.what.url.into(),
        per_minute: key.per_minute,
    })
    .collect()
}

/// The members of a list; what is none is empty.
fn strings(value: Value) -> Vec<Bytes> {
    let Value::Array(values) = value else {
        return Vec::new();
    };
    let text = |value| match value {
        Value::BulkString(bytes) => bytes.into(),
        _ => Bytes::new(),
    };
    values.into_iter().map(text).collect()
}
