//! A store in the shadow: the app is always asked and its answer goes to the client, while the store is looked up
//! and filled beside, under keys that no client is ever answered from.
//!
//! Nothing about the answer changes, and nobody waits for the store. Only GETs are looked at.

use super::tap::Tap;
use super::{Ask, Proxy, Snapshot, purge};
use super::{Outcome, Plan, Problem, Reason, Reply};
use crate::cache::{Entry, Label, Lookup, Position};
use crate::evidence::{Print, Verdict};
use crate::route::{Content, RouteId};
use crate::semantics::reuse::ClientRefresh;
use crate::semantics::validation::is_conditional;
use crate::semantics::{self, Exchange, Key, KeyBuilder, Reuse, Stored, Timestamp};
use crate::semantics::{groups, tags};
use crate::upstream::{RequestBody, ResponseBody};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, LOCATION, RANGE};
use http::{HeaderMap, Method, Response, StatusCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A request that is answered by the app while the store is looked up.
struct Shadow {
    proxy: Proxy,
    snapshot: Arc<Snapshot>,
    rule: RouteId,
    key: Key,
    url: Box<str>,
    path: Box<str>,
    tags: purge::Tags,
    headers: HeaderMap,
    refresh: ClientRefresh,
    who: u64,
    now: Timestamp,
    requested: Timestamp,
    began: Instant,
    position: Position,
    held: JoinHandle<Lookup>,
}

/// What the app said, less its content.
struct Said {
    status: StatusCode,
    headers: HeaderMap,
    is_delimited: bool,
    took: Duration,
}

impl Proxy {
    /// Asks the app, and notes beside what the store would have done.
    pub(super) async fn shadow(&self, ask: &Ask<'_>, body: RequestBody) -> Result<Reply, Problem> {
        let shadow = self.begin_shadow(ask);
        let mut response = self.ask_app(ask, body).await?;
        let tap = match shadow {
            Some(mut shadow) => {
                shadow.tags.take_from(response.headers_mut());
                Some(shadow.tap(&response))
            }
            None => {
                tags::remove(response.headers_mut());
                groups::remove(response.headers_mut());
                None
            }
        };
        let reply = Reply::app(ask, response, Outcome::Bypass, Reason::Shadow);
        Ok(reply.tapped(tap))
    }

    fn begin_shadow(&self, ask: &Ask<'_>) -> Option<Shadow> {
        let visit = ask.visit;
        if visit.method != Method::GET {
            return None;
        }
        let Plan::Lookup(exact) = ask.exact_plan(ask.target, Content::None) else {
            return None;
        };
        // A key of its own: should the route step out of the shadow, nothing from there is served.
        let mut key = KeyBuilder::new("shadow");
        key.part(exact.bytes());
        let key = key.finish();
        let (cache, headers, now) = (self.0.cache.clone(), visit.headers.clone(), visit.now);
        let position = cache.position();
        let held = tokio::spawn(async move { cache.lookup(&key, &headers, now).await });
        Some(Shadow {
            proxy: self.clone(),
            snapshot: Arc::clone(&visit.snapshot),
            rule: ask.found.rule.id,
            key,
            url: ask.url().into(),
            path: visit.uri.path().into(),
            tags: purge::Tags::new(ask),
            headers: visit.headers.clone(),
            refresh: visit.client_refresh(),
            who: ask.asker(),
            now,
            requested: self.0.shared.clock.now(),
            began: Instant::now(),
            position,
            held,
        })
    }
}

impl Shadow {
    fn tap(self, response: &Response<ResponseBody>) -> Box<Tap> {
        let said = Said {
            status: response.status(),
            headers: response.headers().clone(),
            is_delimited: response.body().is_delimited(),
            took: self.began.elapsed(),
        };
        Tap::new(move |content| {
            // Where the runtime is gone, so is the wish to know.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(Box::pin(self.judge(said, content)));
            }
        })
    }

    /// What the store would have answered, against what the app said.
    async fn judge(mut self, said: Said, content: Option<Bytes>) {
        let rule = &self.snapshot.settings.routes.all()[self.rule];
        let Some(policy) = rule.policy.as_ref() else {
            return;
        };
        let evidence = &self.proxy.0.shared.evidence;
        let (held, purged) = match (&mut self.held).await {
            Ok(Lookup::Found {
                entry,
                softly_purged,
                ..
            }) => (Some(entry), softly_purged),
            Ok(Lookup::Absent(_)) | Err(_) => (None, false),
        };
        let terms = held.as_ref().map(|entry| entry.terms(&self.headers));
        let (headers, now) = (&self.headers, self.now);
        let reuse = semantics::reuse(headers, terms, purged, policy, self.refresh, now);
        let ignored = self.snapshot.settings.audit.as_ref();
        let ignored = ignored.map_or(&[][..], |audit| &audit.ignore);
        let is_whole = !is_conditional(&self.headers) && !self.headers.contains_key(RANGE);
        let print = content.as_ref().filter(|_| is_whole).map(|content| {
            let print = Print::of(said.status.as_u16(), content, ignored);
            print.leading(said.headers.get(LOCATION))
        });
        // An app that fails has not changed its mind.
        let print = print.filter(|print| !print.is_failure());
        let depends =
            print.is_some_and(|print| evidence.identities.note(&self.key, self.who, print));
        match (&held, reuse) {
            (Some(entry), Reuse::Fresh | Reuse::StaleWhileRevalidate(_) | Reuse::Stale(_)) => {
                let headers = entry.headers();
                let served = Print::of(entry.status().as_u16(), &entry.body(), ignored)
                    .leading(headers.get(LOCATION));
                let is_coded_alike =
                    headers.get(CONTENT_ENCODING) == said.headers.get(CONTENT_ENCODING);
                let verdict = match print.filter(|_| is_coded_alike) {
                    None => Verdict::Failed,
                    Some(print) if print == served => Verdict::Same,
                    Some(_) if depends => Verdict::Leak,
                    Some(_) => Verdict::Stale,
                };
                let age = entry.lifetime().age(self.now);
                evidence.shadows.found(&rule.name, "", verdict, age);
            }
            _ => evidence.shadows.missed(&rule.name),
        }
        if reuse != Reuse::Fresh
            && let Some(content) = content.filter(|_| said.is_delimited)
        {
            self.keep(&said, content);
        }
    }

    /// Stores what a fetch would have stored.
    fn keep(&self, said: &Said, content: Bytes) {
        let rule = &self.snapshot.settings.routes.all()[self.rule];
        let now = self.proxy.0.shared.clock.now();
        let exchange = Exchange {
            method: &Method::GET,
            path: &self.path,
            request: &self.headers,
            status: said.status,
            response: &said.headers,
            requested: self.requested,
            received: now,
            client: self.refresh,
            chance: fastrand::f32(),
        };
        let Some(policy) = rule.policy.as_ref() else {
            return;
        };
        let Ok(stored) = semantics::storable(&exchange, policy) else {
            return;
        };
        if stored.status == StatusCode::PARTIAL_CONTENT {
            return;
        }
        let stored = Stored {
            body: content,
            ..stored
        };
        let label = Label {
            tags: self.tags.of(&stored),
            url: self.url.clone(),
            position: self.position,
            app_time: said.took,
        };
        let entry = Arc::new(Entry::new(&stored, &label));
        self.proxy.0.cache.store(&self.key, entry, now);
    }
}
