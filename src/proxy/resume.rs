//! Goes on with an answer that has begun when the rest of what is stored cannot be had: that part comes
//! from the app, if it is provably of the same representation (RFC 9110 §13.1.5, §14.5).
//!
//! What cannot be proved is not sent: the client then sees the cut.

use super::{Ask, Proxy, Snapshot, forward};
use crate::route::RouteId;
use crate::semantics::stored::EtagKind;
use crate::semantics::{Stored, validation};
use crate::upstream::{RequestBody, RequestHead, ResponseBody};
use http::{HeaderMap, Method, StatusCode, Uri};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What it takes to ask the app for a part of what is stored.
#[derive(Debug)]
pub(super) struct Resume {
    proxy: Proxy,
    snapshot: Arc<Snapshot>,
    rule: RouteId,
    target: Uri,
    fields: HeaderMap,
    stored: Stored,
}

impl Resume {
    /// For an answer from `stored`, whose content lies elsewhere, to a GET. `None` where no part could be proved to be of the same.
    pub fn of(proxy: &Proxy, ask: &Ask<'_>, stored: Stored) -> Option<Self> {
        let visit = ask.visit;
        let is_strong = stored.validators().etag == EtagKind::Strong;
        if visit.method != Method::GET || !is_strong {
            return None;
        }
        let query = ask.found.rule.fetch_query(visit.uri.query());
        let sent = forward::Sent {
            ask,
            storable: true,
        };
        Some(Self {
            proxy: proxy.clone(),
            snapshot: visit.snapshot.clone(),
            rule: ask.found.rule.id,
            target: forward::target(&visit.uri, Some(query)),
            fields: sent.map(),
            stored,
        })
    }

    /// Asks the app for this part of the content. `None` where it gives anything else.
    pub async fn part(mut self, part: Range<u64>) -> Option<ResponseBody> {
        validation::ask_for_part(&mut self.fields, &self.stored, &part)?;
        let head = RequestHead {
            method: &Method::GET,
            target: &self.target,
            fields: &self.fields,
            interim: None,
            upgrade: false,
        };
        let route = (&*self.snapshot, self.rule);
        let asked = self.proxy.timed(route, &head, RequestBody::empty());
        let response = asked.await.ok()?;
        let is_it = response.status() == StatusCode::PARTIAL_CONTENT
            && validation::is_part_of(&self.stored, response.headers(), &part);
        is_it.then(|| response.into_body())
    }

    /// How long the app may say nothing.
    pub fn patience(&self) -> Duration {
        self.snapshot.settings.upstream.timeout
    }
}
