//! How larder stands: ready or not, healthy or not, and what Redis says of itself.

use super::{Admin, AdminState, Reply, json};
use crate::config::settings::LimitMode;
use crate::redis_client::Redis;
use crate::redis_client::info::Info;
use crate::semantics::Timestamp;
use http::StatusCode;
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
pub(super) fn checks(state: &AdminState) -> [Check; 6] {
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
        // A route that is shut is served by the app: that is no reason to send visitors elsewhere.
        check(
            "quarantine",
            true,
            match state.shared.evidence.quarantines.names().is_empty() {
                true => "no route",
                false => "some routes store nothing, for what was found: GET /v1/audit",
            },
            "",
        ),
        check(
            "draining",
            !condition.draining.load(Relaxed),
            "no",
            "about to stop",
        ),
        check(
            "warm",
            condition.warmed.load(Relaxed),
            "nothing to wait for",
            "the pages to be warmed first are not yet",
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
    info: Info,
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
    facts.info = redis.info().await.unwrap_or_default();
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
                "version": facts.info.server().map(|(_, version)| version),
                "uptime": facts.info.number("uptime_in_seconds"),
                "usedMemory": facts.info.get("used_memory_human"),
                "totalKeys": facts.info.keys(),
                "poolUtilization": (state.redis.is_some())
                    .then(|| (state.vitals.report().utilization * 1e3).round() / 1e3),
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
                "purgesQueued": gauges.purges_queued,
                // What others have purged since may be served from memory, within `cache.trust`.
                "staleRiskSince": gauges.cut_off_since.map(Timestamp::rfc3339),
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
            // Each route with what was found: GET /v1/audit.
            "quarantined": (state.shared.evidence.quarantines.all_shut().iter())
                .map(|shut| &shut.route)
                .collect::<Vec<_>>(),
            "draining": state.condition.draining.load(Relaxed),
        });
        json(status, &body)
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
