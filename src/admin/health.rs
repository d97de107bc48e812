//! How larder stands: ready or not, healthy or not, and what Redis says of itself.

use super::{Admin, AdminState, Reply, json};
use crate::config::settings::LimitMode;
use crate::redis_client::Redis;
use http::StatusCode;
use redis::Value;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long what Redis said is told again: the page is open to everyone and must not become a way to
/// keep Redis busy.
const FACTS_FRESH: Duration = Duration::from_secs(1);
/// Life of the key that the page reads and writes.
const PROBE_TTL_SECONDS: u64 = 10;

/// One condition of being ready.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    pub(super) detail: &'static str,
}

/// Redis is not among them: without it larder does its work, only slower.
pub(super) fn checks(state: &AdminState) -> [Check; 4] {
    let condition = &state.condition;
    let check = |name, ok, yes, no| Check {
        name,
        ok,
        detail: if ok { yes } else { no },
    };
    let app_up = condition.app_up.load(Relaxed);
    [
        // The state cannot be had without one; a refused reload leaves the one before in force.
        check(
            "config",
            true,
            match state.metrics.last_reload_failed() {
                false => "loaded",
                true => "loaded; the last reload was refused, the one before is in force",
            },
            "",
        ),
        check(
            "listener",
            condition.listening.load(Relaxed),
            "up",
            "not up yet",
        ),
        check(
            "app",
            app_up || holds_something(state),
            if app_up {
                "reachable"
            } else {
                "away; the store can answer"
            },
            "away, and the store is empty",
        ),
        check(
            "draining",
            !condition.draining.load(Relaxed),
            "no",
            "about to stop",
        ),
    ]
}

/// Whether there may be responses to serve without the app.
fn holds_something(state: &AdminState) -> bool {
    state.metrics.gauges().memory_objects > Some(0)
        || state.redis.as_ref().is_some_and(Redis::is_up)
}

/// What Redis said lately. One request asks, the others wait for its answer.
#[derive(Debug, Default)]
pub(super) struct RedisFacts(Mutex<Option<(Instant, Facts)>>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Facts {
    version: Option<String>,
    uptime: Option<u64>,
    used_memory: Option<String>,
    total_keys: Option<u64>,
    ping: Option<Duration>,
    get: Option<Duration>,
    set: Option<Duration>,
}

impl RedisFacts {
    async fn get(&self, redis: &Redis, namespace: &str) -> Facts {
        let mut kept = self.0.lock().await;
        match &*kept {
            Some((asked, facts)) if asked.elapsed() < FACTS_FRESH => facts.clone(),
            _ => {
                let facts = ask(redis, namespace).await;
                // What is not known yet is asked for again the next time.
                *kept = facts.ping.map(|_| (Instant::now(), facts.clone()));
                facts
            }
        }
    }
}

/// What Redis does not answer, or does not let this user ask, stays unknown.
async fn ask(redis: &Redis, namespace: &str) -> Facts {
    let mut facts = Facts::default();
    if !redis.is_up() {
        return facts;
    }
    // The default sections: several names at once are understood from Redis 7 on only.
    if let Ok(info) = redis.query("INFO", &redis::cmd("INFO")).await {
        read_info(&info, &mut facts);
    }
    let key = format!("{namespace}:health:{:016x}", fastrand::u64(..));
    let mut set = redis::cmd("SET");
    set.arg(&key).arg(1).arg("EX").arg(PROBE_TTL_SECONDS);
    let mut get = redis::cmd("GET");
    get.arg(&key);
    facts.ping = timed(redis, "PING", &redis::cmd("PING")).await;
    facts.set = timed(redis, "SET", &set).await;
    if facts.set.is_some() {
        // Traffic may have nothing to write for a long time.
        redis.wrote(None);
    }
    facts.get = timed(redis, "GET", &get).await;
    facts
}

async fn timed(redis: &Redis, operation: &'static str, command: &redis::Cmd) -> Option<Duration> {
    let began = Instant::now();
    let answer = redis.query(operation, command).await;
    answer.is_ok().then(|| began.elapsed())
}

/// Reads the answer to INFO; what is missing or not a number stays unknown.
fn read_info(info: &Value, facts: &mut Facts) {
    let text = match info {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.into(),
        _ => return,
    };
    for line in text.lines() {
        let Some((name, value)) = line.trim_end().split_once(':') else {
            continue;
        };
        match name {
            "redis_version" => facts.version = Some(short(value)),
            "uptime_in_seconds" => facts.uptime = value.parse().ok(),
            "used_memory_human" => facts.used_memory = Some(short(value)),
            // An empty Redis has the section without a line.
            _ if name.starts_with("db") => {
                let keys = value.split(',').find_map(|part| part.strip_prefix("keys="));
                if let Some(keys) = keys.and_then(|keys| keys.parse::<u64>().ok()) {
                    let sum = facts.total_keys.unwrap_or(0);
                    facts.total_keys = Some(sum.saturating_add(keys));
                }
            }
            _ => {}
        }
    }
    if text.contains("# Keyspace") {
        facts.total_keys.get_or_insert(0);
    }
}

fn short(value: &str) -> String {
    value.chars().filter(|c| !c.is_control()).take(32).collect()
}

impl Admin {
    /// `GET /healthz`: 200 as long as requests can be answered somehow.
    pub(super) async fn health(&self) -> Reply {
        let state = &self.state;
        let settings = state.settings.load_full();
        let totals = state.metrics.totals();
        let gauges = state.metrics.gauges();
        let facts = match &state.redis {
            Some(redis) => self.redis_facts.get(redis, &settings.cache.namespace).await,
            None => Facts::default(),
        };
        let connected = gauges.redis.as_ref().is_some_and(|redis| redis.up);
        let app_up = state.condition.app_up.load(Relaxed);
        let full = state
            .redis
            .as_ref()
            .is_some_and(|redis| redis.status().full);
        let redis_well = state.redis.is_none() || (connected && !full);
        let (status, word) = match (app_up, redis_well) {
            (true, true) => (StatusCode::OK, "healthy"),
            (true, false) => (StatusCode::OK, "degraded"),
            (false, _) if holds_something(state) => (StatusCode::OK, "degraded"),
            (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        };
        let mode = match settings.limits.mode {
            LimitMode::Enforce => "enforce",
            LimitMode::Shadow => "shadow",
        };
        let body = json!({
            "status": word,
            "version": env!("CARGO_PKG_VERSION"),
            "redis": {
                "configured": state.redis.is_some(),
                "connected": connected,
                "full": full,
                "version": facts.version,
                "uptime": facts.uptime,
                "usedMemory": facts.used_memory,
                "totalKeys": facts.total_keys,
                "address": state.redis.as_ref().map(|redis| redis.status().address),
            },
            "sessionCache": {
                "metrics": {
                    "hits": totals.hits(),
                    "misses": totals.misses(),
                    "hitRate": (totals.hit_ratio() * 1e4).round() / 1e2,
                },
            },
            "performance": {
                "ping": facts.ping.map(millis),
                "get": facts.get.map(millis),
                "set": facts.set.map(millis),
            },
            "cache": {
                "requests": totals.requests(),
                "memoryBytes": gauges.memory_bytes,
                "memoryLimitBytes": settings.cache.memory,
                "memoryObjects": gauges.memory_objects,
                "coalesced": totals.coalesced,
                "purgeLogFollowed": gauges.purge_log_followed,
            },
            "limits": {
                "mode": mode,
                "count": settings.limits.all.len(),
                "allowed": totals.limits_allowed,
                "limited": totals.limits_refused,
                "localFallback": gauges.limit_local_fallback,
            },
            "breaker": {
                "state": gauges.redis.as_ref().map(|redis| redis.breaker),
            },
            "app": {
                "reachable": app_up,
            },
            "config": {
                "hash": settings.hash,
                // Without the built-in one for what matches none.
                "routes": settings.routes.all().len().saturating_sub(1),
                "lastReload": match state.metrics.last_reload_failed() {
                    true => "failed",
                    false => "ok",
                },
            },
            "draining": state.condition.draining.load(Relaxed),
        });
        json(status, &body)
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_says_of_itself_is_read_and_what_it_hides_stays_unknown() {
        let info = "# Server\r\nredis_version:7.4.1\r\nuptime_in_seconds:12345\r\n# Memory\r\n\
                    used_memory_human:12.50M\r\n# Keyspace\r\n\
                    db0:keys=1500,expires=3,avg_ttl=0\r\ndb3:keys=2,expires=0\r\n";
        let mut facts = Facts::default();
        read_info(&Value::BulkString(info.into()), &mut facts);
        assert_eq!(facts.version.as_deref(), Some("7.4.1"));
        assert_eq!(facts.uptime, Some(12_345));
        assert_eq!(facts.used_memory.as_deref(), Some("12.50M"));
        assert_eq!(facts.total_keys, Some(1_502));

        let mut empty = Facts::default();
        read_info(&Value::BulkString(b"# Keyspace\r\n".to_vec()), &mut empty);
        assert_eq!(empty.total_keys, Some(0));
        let mut hidden = Facts::default();
        read_info(&Value::Nil, &mut hidden);
        read_info(
            &Value::BulkString(b"\xff:db0:keys=x\r\ndb:keys=-1".to_vec()),
            &mut hidden,
        );
        assert_eq!(hidden, Facts::default());
    }
}
