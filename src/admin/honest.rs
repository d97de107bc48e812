//! What was found out about the answers themselves: audits and quarantines.

use super::api::{parse, span, unprocessable};
use super::problem::Problem;
use super::{Admin, Reply, json};
use crate::evidence::staleness::Advice;
use crate::evidence::suggest::LOOK_MAX;
use crate::evidence::trial::{Side, compare};
use crate::evidence::{Tally, Verdict};
use crate::route::Arm;
use crate::telemetry::metrics::{Family, Value as Number};
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Body;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// At most this share of hits should be stale where a lifetime is advised.
const STALE_WANTED: f64 = 0.01;

/// The shortest that is looked.
const ONE_SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LookRequest {
    #[serde(rename = "for")]
    length: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseRequest {
    route: String,
}

impl Admin {
    /// `GET /v1/audit`
    pub(super) fn audits(&self) -> Value {
        let shared = &self.state.shared;
        let snapshot = shared.snapshot.load();
        let evidence = &shared.evidence;
        let routes: Vec<_> = evidence
            .audits
            .read()
            .iter()
            .map(|(route, arm, tally)| {
                let mut told = told(tally);
                told.insert("route".into(), (**route).into());
                if !arm.is_empty() {
                    told.insert("arm".into(), (*arm).into());
                }
                Value::Object(told)
            })
            .collect();
        let shadow = |tally: &Tally| {
            let mut told = told(tally);
            told.insert("missed".into(), tally.missed.into());
            told
        };
        let shadows: Vec<_> = (evidence.shadows.read().iter())
            .map(|(route, _, tally)| {
                let mut told = shadow(tally);
                told.insert("route".into(), (**route).into());
                Value::Object(told)
            })
            .collect();
        let (raised, dropped) = evidence.alarms.counts();
        json!({
            "configured": snapshot.settings.audit.is_some(),
            "routes": routes,
            "shadow": shadows,
            "quarantined": evidence.quarantines.all_shut(),
            "alarms": evidence.alarms.last(),
            "alarms_raised": raised,
            "alarms_dropped": dropped,
        })
    }

    /// `GET /v1/experiments`: both sides of each, and what follows.
    pub(super) fn experiments(&self) -> Value {
        let shared = &self.state.shared;
        let snapshot = shared.snapshot.load();
        let families = self.state.metrics.read();
        let audits = shared.evidence.audits.read();
        let rules = snapshot.settings.routes.all().iter();
        let tried = rules.filter_map(|rule| Some((rule, rule.scrutiny.experiment.as_ref()?)));
        let experiments: Vec<_> = tried
            .map(|(rule, experiment)| {
                let side = |arm| side(&families, &audits, &rule.name, arm);
                let (control, trial) = (side(Arm::Control), side(Arm::Trial));
                let told = |side: Side, ttl: Option<Duration>| {
                    json!({
                        "ttl": ttl.map(|ttl| format!("{}s", ttl.as_secs())),
                        "looked_up": side.looked_up,
                        "hits": side.hits,
                        "hit_rate": side.hit_rate(),
                        "audited": side.audited,
                        "stale": side.stale,
                        "staleness": side.staleness(),
                    })
                };
                let own = rule.policy.as_ref().and_then(|policy| policy.ttl.as_ref());
                json!({
                    "route": &*rule.name,
                    "share": super::api::thousandths(f64::from(experiment.share) / 2.0_f64.powi(32)),
                    "control": told(control, own.map(|ttl| ttl.default)),
                    "trial": told(trial, Some(experiment.ttl)),
                    "finding": compare(control, trial),
                })
            })
            .collect();
        json!({ "experiments": experiments })
    }

    /// `GET /v1/suggest`: what follows from what was looked at.
    pub(super) fn suggestions(&self) -> Value {
        let now = self.state.clock.now();
        let suggestion = self.state.shared.evidence.sights.suggest(now);
        let mut told = json!(suggestion);
        told["yaml"] = suggestion.yaml().into();
        told
    }

    /// `POST /v1/suggest`: looks at all that goes to the app, for so long.
    pub(super) async fn look<B>(&self, request: Request<B>) -> Result<Reply, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let asked: LookRequest = parse(request, r#"{"for": "10m"}"#).await?;
        let length = span(&asked.length).filter(|length| (ONE_SECOND..=LOOK_MAX).contains(length));
        let Some(length) = length else {
            return Err(unprocessable(
                "bad-duration",
                "`for` is not a duration of 1s to 1d.",
                "Write 10m.",
            ));
        };
        self.state
            .shared
            .evidence
            .sights
            .look(length, self.state.clock.now());
        tracing::info!(action = "suggest", length = asked.length, "admin");
        let told = json!({ "looking_seconds": length.as_secs() });
        Ok(json(StatusCode::OK, &told))
    }

    /// `POST /v1/audit/release`: opens a route that is shut, for all sidecars.
    pub(super) async fn release<B>(&self, request: Request<B>) -> Result<Reply, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let ReleaseRequest { route } = parse(request, r#"{"route": "fleet"}"#).await?;
        let shared = &self.state.shared;
        let snapshot = shared.snapshot.load_full();
        let found = snapshot
            .watched
            .routes()
            .find(|(_, name)| ***name == *route);
        let quarantines = &shared.evidence.quarantines;
        let now = self.state.clock.now();
        let is_open = found.is_some_and(|(key, name)| quarantines.open(key, name, now));
        if !is_open {
            let shut = quarantines.names();
            let fix = match shut.is_empty() {
                true => "No route is quarantined.".to_owned(),
                false => format!("These are: {shut}."),
            };
            return Err(unprocessable(
                "not-quarantined",
                "The route is not quarantined.",
                fix,
            ));
        }
        // What sidecars that had not heard of it may have stored is gone before it could be served.
        let turned = snapshot.watched.obey(quarantines);
        let _ = self.state.cache.purge(turned.purges()).await;
        shared.evidence.alarms.settle(crate::proxy::LEAK, &route);
        tracing::info!(action = "release", route, "admin");
        Ok(json(
            StatusCode::OK,
            &json!({ "route": route, "quarantined": false }),
        ))
    }
}

/// What one side of a route's experiment has seen.
fn side(
    families: &[Family],
    audits: &[(Arc<str>, &'static str, Tally)],
    route: &str,
    arm: Arm,
) -> Side {
    let mut side = Side::default();
    let counts = families
        .iter()
        .filter(|family| family.row.name == "larder_experiment_requests_total");
    for series in counts.flat_map(|family| &family.series) {
        let label = |name: &str| {
            let found = series.labels.iter().find(|(known, _)| *known == name);
            found.map_or("", |(_, value)| &**value)
        };
        let Number::Number(count) = series.value else {
            continue;
        };
        if label("route") != route || label("arm") != arm.word() {
            continue;
        }
        let count = count as u64;
        match label("cache") {
            "hit" | "stale" | "revalidated" => {
                side.hits += count;
                side.looked_up += count;
            }
            "miss" => side.looked_up += count,
            _ => {}
        }
    }
    let tally = audits
        .iter()
        .find(|(name, of, _)| **name == *route && *of == arm.word());
    if let Some((_, _, tally)) = tally {
        (side.stale, side.audited) = tally.ages.totals();
    }
    side
}

/// What audits have found on one route.
pub(super) fn told(tally: &Tally) -> Map<String, Value> {
    let mut told = Map::new();
    told.insert("audited".into(), tally.audited().into());
    for verdict in Verdict::ALL {
        told.insert(verdict.word().into(), tally.count(verdict).into());
    }
    told.insert("skipped".into(), tally.skipped.into());
    told.insert("staleness".into(), json!(tally.ages.staleness()));
    let ages: Vec<_> = (tally.ages.seen())
        .map(|(until, fresh, stale)| {
            json!({ "until": seconds(until), "same": fresh, "stale": stale })
        })
        .collect();
    told.insert("ages".into(), ages.into());
    let (word, ttl) = match tally.ages.advice(STALE_WANTED) {
        Advice::Unknown => ("unknown", None),
        Advice::Keep => ("keep", None),
        Advice::Shorten(ttl) => ("shorten", Some(format!("{}s", ttl.as_secs()))),
        Advice::Purge => ("purge", None),
    };
    told.insert("advice".into(), json!({ "word": word, "ttl": ttl }));
    told
}

/// One decimal: `1.4s`.
fn seconds(age: Duration) -> String {
    format!("{}s", (age.as_secs_f64() * 10.0).round() / 10.0)
}
