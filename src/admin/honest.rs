//! What was found out about the answers themselves: audits and quarantines.

use super::api::{parse, unprocessable};
use super::problem::Problem;
use super::{Admin, Reply, json};
use crate::evidence::staleness::Advice;
use crate::evidence::{Tally, Verdict};
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Body;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// At most this share of hits should be stale where a lifetime is advised.
const STALE_WANTED: f64 = 0.01;

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
        let (raised, dropped) = evidence.alarms.counts();
        json!({
            "configured": snapshot.settings.audit.is_some(),
            "routes": routes,
            "quarantined": evidence.quarantines.all_shut(),
            "alarms": evidence.alarms.last(),
            "alarms_raised": raised,
            "alarms_dropped": dropped,
        })
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
