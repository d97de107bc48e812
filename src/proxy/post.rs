//! Answers to POST that later GETs may be given (RFC 9110 §9.3.3): those that the app itself calls the
//! content of their target, with a lifetime of their own.
//!
//! Whatever the POST changed is purged first. An answer is kept only if nothing else was purged since
//! the POST began: it may tell how things were before that.

use super::body::Body;
use super::fetch::{Led, Manner, spawn};
use super::reply::Reply;
use super::{Ask, Content, Outcome, Plan, Problem, Proxy, Reason, Visit};
use crate::cache::purge::Position;
use crate::route::Placeholder;
use crate::semantics::enclosed::encloses_target;
use crate::semantics::{Exchange, Timestamp, fields, groups};
use crate::upstream::{BodyCopy, ResponseBody};
use http::Response;
use std::time::Instant;
use tokio::sync::oneshot;

/// What is remembered of the moment before the app is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    began: Instant,
    requested: Timestamp,
    position: Position,
}

impl Asked {
    pub fn begin(proxy: &Proxy) -> Self {
        Self {
            began: Instant::now(),
            requested: proxy.0.shared.clock.now(),
            position: proxy.0.cache.position(),
        }
    }

    /// The GET that `response` would answer as well, if it is one that may be shared at all.
    pub fn get(&self, ask: &Ask<'_>, response: &Response<ResponseBody>) -> Option<Visit> {
        let visit = ask.visit;
        // A route that stores nothing has the last word.
        ask.found.rule.policy.as_ref()?;
        let settings = &visit.snapshot.settings;
        let rule = settings.routes.find(&http::Method::GET, ask.target).rule;
        let exchange = Exchange {
            method: &visit.method,
            path: visit.uri.path(),
            request: &visit.headers,
            status: response.status(),
            response: response.headers(),
            requested: self.requested,
            received: self.requested,
            client: visit.client_refresh(),
            chance: 0.0,
        };
        let (authority, policy) = (visit.authority(), rule.policy.as_ref()?);
        let target = visit.path_and_query();
        if !encloses_target(&exchange, ask.scheme(), &authority, target, policy) {
            return None;
        }
        // What the app was told and the key does not hold may be in the answer.
        let mut keyed = visit.headers.clone();
        fields::remove_unkeyed(&mut keyed, &rule.key.headers);
        let is_keyed = keyed.len() == visit.headers.len()
            && rule.fetch_query(visit.uri.query()).as_deref() == visit.uri.query();
        // A purge that looks into the content needs it before it may be stored.
        let is_looked_into = (ask.found.rule.purge.iter())
            .flat_map(crate::route::Template::placeholders)
            .any(|placeholder| matches!(placeholder, Placeholder::Response(_)));
        (is_keyed && !is_looked_into).then(|| visit.as_get())
    }
}

impl Proxy {
    /// Purges what the POST has changed, then stores its answer as that to `get`, where that may be.
    pub(super) async fn keep(
        &self,
        ask: &Ask<'_>,
        get: &Visit,
        asked: Asked,
        response: Response<ResponseBody>,
        (wanted, tags): (Option<BodyCopy>, Vec<String>),
    ) -> Result<Reply, Problem> {
        let (mut head, body) = response.into_parts();
        let mut purging = Reply::headed(head.clone());
        let purges = self.purge_after(ask, wanted, tags.clone(), &mut purging);
        let purges = purges.await as u64;
        let groups = groups::take(&get.authority(), &mut head.headers);
        let found = get.snapshot.settings.routes.find(&get.method, ask.target);
        let get = Ask {
            visit: get,
            found: &found,
            search: None,
            ..*ask
        };
        let position = self.0.cache.position();
        let plan = get.plan(Content::None);
        let response = Response::from_parts(head, body);
        let key = match plan {
            Plan::Lookup(key)
                if !get.is_personal() && position.local == asked.position.local + purges =>
            {
                key
            }
            _ => {
                let passed = Reply::app(ask, response, Outcome::Bypass, Reason::Method);
                return Ok(passed.with_note_of(purging));
            }
        };
        let lead = self.0.shared.coalescer.alone(key, position);
        let (tell, told) = oneshot::channel();
        let mut job = self.job(&get, lead, None, Manner::Apart);
        job.is_tagged(tags, groups);
        spawn(job.take_in(response, asked.requested, asked.began.elapsed(), Some(tell)));
        let kept = match told.await {
            Ok(Led::Streaming {
                head,
                stored,
                reader,
                ..
            }) => {
                let body = Body::shared(reader, Some(self.0.cache.clone()), None);
                let mut kept = Reply::leading(ask, head, &stored, body, Reason::Method, true);
                kept.told.outcome = Outcome::Bypass;
                kept
            }
            Ok(Led::Apart { response, .. }) => {
                Reply::app(ask, response, Outcome::Bypass, Reason::Method)
            }
            Ok(Led::Confirmed { .. } | Led::Found(_) | Led::Failed(_)) | Err(_) => {
                return Err(Problem::App(crate::upstream::UpstreamError::Reset));
            }
        };
        Ok(kept.with_note_of(purging))
    }
}
