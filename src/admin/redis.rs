//! What there is to know of Redis: how far, how busy, how full, how slow; and its breaker, which may be told
//! what to be.
//!
//! It asks Redis nothing: everything here was seen by the background.

use super::api::{parse, quantiles, thousandths, unprocessable};
use super::problem::Problem;
use super::{Admin, Reply, json};
use crate::redis_client::capacity::{Load, SPAN_MIN};
use crate::redis_client::vitals::{Report, Sample};
use crate::redis_client::{Forced, Node, Redis};
use crate::semantics::Timestamp;
use crate::telemetry::metrics::Value;
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Body;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// What INFO says that is told as it is.
const FIELDS: [&str; 19] = [
    "role",
    "uptime_in_seconds",
    "used_memory",
    "used_memory_human",
    "maxmemory",
    "maxmemory_policy",
    "mem_fragmentation_ratio",
    "evicted_keys",
    "expired_keys",
    "keyspace_hits",
    "keyspace_misses",
    "total_commands_processed",
    "instantaneous_ops_per_sec",
    "connected_clients",
    "maxclients",
    "connected_slaves",
    "master_link_status",
    "aof_enabled",
    "rdb_last_bgsave_status",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BreakerRequest {
    state: String,
}

impl Admin {
    /// `GET /v1/redis`
    pub(super) fn redis(&self) -> serde_json::Value {
        let Some(redis) = &self.state.redis else {
            return json!({"configured": false});
        };
        let report = self.state.vitals.report();
        let status = redis.status();
        let gauges = self.state.metrics.gauges().redis.unwrap_or_default();
        let info = report.info.as_ref();
        let mut said: serde_json::Map<String, serde_json::Value> = FIELDS
            .iter()
            .filter_map(|name| {
                let info = info?;
                let value = match (info.number(name), info.fraction(name)) {
                    (Some(number), _) => json!(number),
                    (None, Some(fraction)) => json!(fraction),
                    (None, None) => json!(info.get(name)?),
                };
                Some(((*name).to_owned(), value))
            })
            .collect();
        if let Some(info) = info {
            said.insert("keys".into(), json!(info.keys()));
            said.insert("hit_ratio".into(), json!(info.hit_ratio().map(thousandths)));
        }
        json!({
            "configured": true,
            "address": status.address,
            "connected": gauges.up,
            "full": status.full,
            "server": info.and_then(|info| info.server()).map(|(name, version)| format!("{name} {version}")),
            "ping_ms": report.round_trip.map(millis),
            "baseline_ms": report.baseline.map(millis),
            "nodes": redis.nodes().iter().map(|node| self.node(node)).collect::<Vec<_>>(),
            "breaker": {
                "state": gauges.breaker,
                "forced": status.forced.word(),
                "opened": status.opened,
            },
            "pool": {
                "connections": gauges.connections,
                "used": gauges.connections_used,
                "max": gauges.connections_max,
                "waiting": gauges.waiting,
                "waiting_max": gauges.waiting_max,
                "utilization": thousandths(report.utilization),
            },
            "latency": self.operations(),
            "info": said,
            "slowlog": {
                "readable": report.slow.readable,
                "total": report.slow.total,
                "last": report.slow.last.iter().map(|slow| json!({
                    "at": Timestamp::from_millis(slow.at.saturating_mul(1_000)).rfc3339(),
                    "command": slow.command,
                    "took_ms": millis(slow.took),
                })).collect::<Vec<_>>(),
            },
        })
    }

    /// One of the servers, as the background sees it.
    fn node(&self, node: &Node) -> serde_json::Value {
        let status = node.status();
        json!({
            "address": status.address,
            "connected": status.connected,
            "breaker": status.breaker,
            "ping_ms": status.ping.map(millis),
            "clock_ahead_ms": node.time_offset(self.state.clock.now()),
        })
    }

    /// Quantiles of the commands that Redis answered, by what they were for.
    pub(super) fn operations(&self) -> serde_json::Value {
        let families = self.state.metrics.read();
        let commands = families
            .iter()
            .filter(|family| family.row.name == "db_client_operation_duration_seconds");
        let quantiles = commands
            .flat_map(|family| &family.series)
            .filter_map(|series| {
                let label = |wanted: &str| {
                    let found = series.labels.iter().find(|(name, _)| *name == wanted);
                    found.map(|(_, value)| value.to_string())
                };
                match &series.value {
                    Value::Histogram(read) if label("error_type").is_none() => {
                        Some((label("db_operation_name")?, quantiles(read)))
                    }
                    _ => None,
                }
            });
        serde_json::Value::Object(quantiles.collect())
    }

    /// `GET /v1/capacity`: the worksheet, filled in with what was seen.
    pub(super) fn capacity(&self) -> serde_json::Value {
        let report = self.state.vitals.report();
        let (Some(redis), Some(load)) = (&self.state.redis, load(&report)) else {
            return json!({"known": false});
        };
        let sheet = load.sheet();
        let full_at = sheet.full_in_seconds.map(|seconds| {
            let now = self.state.clock.now().as_millis();
            Timestamp::from_millis(now.saturating_add(seconds.saturating_mul(1_000))).rfc3339()
        });
        let looked = span(&report).map(|(first, last)| last.at.since(first.at).as_secs());
        json!({
            "known": true,
            "redis": redis.status().address,
            "looked_for_seconds": looked,
            "full_at": full_at,
            "sheet": sheet,
        })
    }

    /// `POST /v1/redis/breaker`: what a person says holds until the process ends or they say `auto`.
    pub(super) async fn force_breaker<B>(&self, request: Request<B>) -> Result<Reply, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let asked: BreakerRequest = parse(request, "{\"state\": \"open\"}").await?;
        let Some(forced) = Forced::of_word(&asked.state) else {
            return Err(unprocessable(
                "bad-state",
                "This is no state of a breaker.",
                "Write open (Redis is not asked), close (it is, however it does) or auto.",
            ));
        };
        let Some(redis) = &self.state.redis else {
            return Err(unprocessable(
                "no-redis",
                "No Redis is configured, so there is no breaker.",
                "Set redis.url.",
            ));
        };
        Redis::force(redis, forced);
        tracing::warn!(action = "breaker", state = forced.word(), "admin");
        Ok(json(StatusCode::OK, &json!({"forced": forced.word()})))
    }
}

/// What is known of Redis, as the worksheet wants it; `None` before it has said how large it is.
fn load(report: &Report) -> Option<Load> {
    let info = report.info.as_ref()?;
    let rates = span(report).map(|(first, last)| {
        let seconds = last.at.since(first.at).as_secs_f64();
        let rate = |of: fn(&Sample) -> u64| (of(last) as f64 - of(first) as f64) / seconds;
        let [used, commands, evicted] = [
            rate(|sample| sample.used_bytes),
            rate(|sample| sample.commands),
            rate(|sample| sample.evicted),
        ];
        (used, commands, evicted)
    });
    let now = info.fraction("instantaneous_ops_per_sec");
    Some(Load {
        keys: info.keys()?,
        used_bytes: info.number("used_memory")?,
        empty_bytes: info.number("used_memory_startup").unwrap_or(0),
        max_bytes: info.number("maxmemory").unwrap_or(0),
        evicts: info.get("maxmemory_policy") != Some("noeviction"),
        commands_per_second: rates.map(|(_, commands, _)| commands).or(now),
        growth_per_second: rates.map(|(used, _, _)| used),
        evicted_per_second: rates.map(|(_, _, evicted)| evicted),
    })
}

/// The oldest and the newest look, of the same server and far enough apart.
fn span(report: &Report) -> Option<(&Sample, &Sample)> {
    let last = report.samples.back()?;
    // One that was started anew has counted less than before.
    let same =
        |sample: &&Sample| sample.commands <= last.commands && last.at.since(sample.at) >= SPAN_MIN;
    Some((report.samples.iter().find(same)?, last))
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_client::info::tests::info;

    #[test]
    fn growth_is_known_once_it_was_looked_at_for_a_minute() {
        let sample = |seconds: u64, used_bytes: u64, commands: u64| Sample {
            at: Timestamp::from_millis(1_000 * seconds),
            used_bytes,
            keys: 10,
            commands,
            evicted: 0,
        };
        let mut report = Report::default();
        assert_eq!(load(&report), None);
        report.info = Some(info(&[
            ("used_memory", "1600"),
            ("maxmemory", "2000"),
            ("maxmemory_policy", "allkeys-lru"),
            ("keyspace", ""),
            ("db0", "keys=10,expires=10"),
        ]));
        report
            .samples
            .extend([sample(0, 1_000, 0), sample(50, 1_500, 500)]);
        let load_now = load(&report).unwrap();
        assert_eq!((load_now.keys, load_now.growth_per_second), (10, None));
        report.samples.push_back(sample(60, 1_600, 600));
        let load_now = load(&report).unwrap();
        assert_eq!(load_now.growth_per_second, Some(10.0));
        assert_eq!(load_now.commands_per_second, Some(10.0));
        assert_eq!(load_now.sheet().full_in_seconds, Some(40));
        // Started anew: what it has counted before says nothing.
        report.samples.push_back(sample(120, 100, 5));
        assert_eq!(
            load(&report).unwrap().growth_per_second,
            Some((100.0 - 1_000.0) / 120.0)
        );
        report.samples.pop_front();
        assert_eq!(load(&report).unwrap().growth_per_second, None);
    }
}
