//! Purging by the admin port: `POST /v1/purge`, and what was purged lately.

use super::api::{parse, thousandths};
use super::problem::Problem;
use super::{Admin, Reply, json};
use crate::cache::{Preview, Purge, PurgeOutcome};
use crate::proxy::warm::Wish;
use crate::purging::{self, By, Record, Refusal, Request as Asked, Way};
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{Request, StatusCode};
use hyper::body::Body;
use serde_json::{Value, json};
use std::time::Duration;

/// What could have been meant.
const EXAMPLE: &str = r#"{"tags": ["car:42"]}; also urls, prefixes, globs, regexes, routes, users, groups (with origin), all, soft, dry_run, refresh (hot), and a list of such in purges."#;

impl Admin {
    /// `POST /v1/purge`: 200 when it holds everywhere, 202 when the others hear of it later.
    pub(super) async fn purge<B>(&self, request: Request<B>) -> Result<Reply, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let settings = self.state.settings.load_full();
        let asked: Asked = parse(request, EXAMPLE).await?;
        let (dry_run, refresh_hot) = (asked.dry_run, asked.refresh_hot);
        let purges = asked.purges(&settings.routes).map_err(unprocessable)?;
        if dry_run {
            return self.would_purge(purges).await;
        }
        let now = self.state.clock.now();
        let (door, recorder) = (
            &self.state.shared.purging,
            self.state.metrics.recorder(usize::MAX),
        );
        if let Err(wait) = door.admit(settings.purging.rate, purges.len(), now) {
            recorder.purge_asked(Way::Api.word(), "limited");
            return Ok(limited(wait));
        }
        let done: Vec<_> = purges.iter().map(named).collect();
        let by = By {
            way: Way::Api,
            name: None,
            now,
        };
        let record = door
            .carry_out(&self.state.cache, &recorder, purges, Vec::new(), by)
            .await;
        if refresh_hot {
            self.state.shared.wishes.leave(Wish::Hot);
        }
        let status = match record.outcome {
            PurgeOutcome::Queued => StatusCode::ACCEPTED,
            PurgeOutcome::Logged | PurgeOutcome::Local => StatusCode::OK,
        };
        Ok(json(
            status,
            &json!({
                "purges": record.purges,
                "soft": record.soft == record.purges,
                "outcome": record.outcome.word(),
                "took_ms": thousandths(record.took.as_secs_f64() * 1e3),
                "done": done,
            }),
        ))
    }

    /// `GET /v1/purges`: the newest first.
    pub(super) fn purges(&self) -> Value {
        let recent = self.state.shared.purging.recent();
        let recent: Vec<_> = recent.iter().map(|record| shown(record)).collect();
        json!({ "purges": recent, "queued": self.state.cache.status().purges_queued })
    }

    /// What purges would hit. Memory is looked through on a thread that nobody waits for.
    async fn would_purge(&self, purges: Vec<Purge>) -> Result<Reply, Problem> {
        let cache = self.state.cache.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let preview = cache.would_hit(&purges);
            (purges, preview)
        });
        let (purges, preview) = looked.await.map_err(|_| {
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal-error",
                "Memory could not be looked through.",
                "Try again.",
            )
        })?;
        Ok(json(StatusCode::OK, &previewed(&purges, &preview)))
    }
}

fn previewed(purges: &[Purge], preview: &Preview) -> Value {
    let each = purges.iter().zip(&preview.hits).map(|(purge, hits)| {
        let mut told = named(purge);
        told["entries"] = hits.entries.into();
        told["bytes"] = hits.bytes.into();
        told["urls"] = hits.urls.clone().into();
        told
    });
    json!({
        "dry_run": true,
        "purges": purges.len(),
        "would_hit": each.collect::<Vec<_>>(),
        "looked_at": preview.looked_at,
        "complete": preview.complete,
        "of": "the memory of this sidecar; Redis is not looked through",
    })
}

fn named(purge: &Purge) -> Value {
    json!({ "purge": purging::told(&purge.scope), "soft": purge.soft })
}

fn shown(record: &Record) -> Value {
    json!({
        "at": record.by.now.rfc3339(),
        "by": record.by.way.word(),
        "name": record.by.name.as_deref(),
        "what": record.told,
        "purges": record.purges,
        "soft": record.soft == record.purges,
        "outcome": record.outcome.word(),
        "took_ms": thousandths(record.took.as_secs_f64() * 1e3),
    })
}

fn limited(wait: Duration) -> Reply {
    let problem = Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too-many-purges",
        "More purges have come than purge.rate admits.",
        "Purge what they have in common by one tag or prefix, or try again later.",
    );
    let mut reply = problem.reply();
    let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    reply.headers_mut().insert(RETRY_AFTER, secs.into());
    reply
}

fn unprocessable(Refusal { code, detail, fix }: Refusal) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail, fix)
}
