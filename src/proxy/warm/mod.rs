//! Warming: pages are asked for on nobody's behalf, before anybody has to wait for them.
//!
//! It goes the way of a request (route → plan → lookup → fetch) and shares the fetches of requests, so
//! that nothing is stored that a request would not have stored. It never carries a user's credentials,
//! counts on no limit, and is not counted as a request.

mod brake;
mod lead;
mod links;
mod lists;
mod popular;
mod predict;
mod queue;
mod sitemap;
mod sources;
mod warmer;
mod wishes;

pub use lists::Lists;
pub use popular::Popular;
pub use predict::Record;
pub use queue::{Cause, Line, Pace, Progress};
pub use sources::Wanted;
pub use warmer::{Standing, Warmer};
pub use wishes::{Wish, Wishes};

pub(super) use links::Origin;

use super::body::Body;
use super::coalesce::{Join, Outcome as Filled};
use super::respond::Problem;
use super::visit::{Peer, Visit};
use super::{Ask, Proxy};
use crate::cache::{Entry, Lookup};
use crate::redis_client;
use crate::route::{Content, Plan, Target};
use crate::semantics::reuse::Reuse;
use crate::semantics::{Key, Reason};
use crate::telemetry::Span;
use crate::upstream::RequestBody;
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One page may take so long in all; a fetch that others wait for goes on.
const PAGE_TIME_MAX: Duration = Duration::from_secs(120);

/// What is sent where a page's own fields say nothing: what browsers of today send, so that an app that
/// varies on it is warmed for them.
const FIELDS: [(HeaderName, &str); 3] = [
    (ACCEPT, "*/*"),
    (ACCEPT_ENCODING, "gzip, deflate, br, zstd"),
    (USER_AGENT, "larder-warm"),
];

/// A page to be warmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Whether clients ask for it by `https`: a part of its key.
    pub tls: bool,
    /// The host that clients ask for it by, with its port where that is not the scheme's.
    pub host: Arc<str>,
    /// Path and query.
    pub target: PathAndQuery,
    /// Fields that select a variant. None of them may be a credential.
    pub fields: Arc<HeaderMap>,
    /// What is fresh for so long is left as it is; what ends sooner is renewed.
    pub lasting: Duration,
}

impl Page {
    /// The page as people write it.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.host, self.target)
    }
}

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warmed {
    /// It was there, and is fresh for so long.
    Fresh(Duration),
    /// It was fetched, or confirmed by the app, and is stored; fresh for so long.
    Stored(Duration),
    /// It is not stored, for this reason.
    NotStored(Reason),
    /// There was no answer; the word of what failed.
    Failed(&'static str),
}

impl Warmed {
    /// Its word in metrics: `fresh`, `stored`, `not_stored` or `failed`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fresh(_) => "fresh",
            Self::Stored(_) => "stored",
            Self::NotStored(_) => "not_stored",
            Self::Failed(_) => "failed",
        }
    }

    /// Why it is not stored: a reason's word, or that of a failure.
    #[must_use]
    pub const fn why(self) -> Option<&'static str> {
        match self {
            Self::Fresh(_) | Self::Stored(_) => None,
            Self::NotStored(reason) => Some(reason.word()),
            Self::Failed(word) => Some(word),
        }
    }
}

impl Proxy {
    /// Sees to it that `page` is stored and fresh for as long as it says, and tells what came of it and
    /// how long that took. Never fails; ends within [`PAGE_TIME_MAX`].
    pub async fn warm(&self, page: &Page) -> (Warmed, Duration) {
        let began = Instant::now();
        let warming = Box::pin(self.see_to(page));
        let warmed = tokio::time::timeout(PAGE_TIME_MAX, warming).await;
        let warmed = warmed.unwrap_or(Warmed::Failed("timeout"));
        let took = began.elapsed();
        self.0.recorder.warmed(warmed.word());
        tracing::debug!(
            url = page.url(),
            outcome = warmed.word(),
            why = warmed.why(),
            ?took,
            "warmed"
        );
        (warmed, took)
    }

    async fn see_to(&self, page: &Page) -> Warmed {
        let shared = &self.0.shared;
        let visit = self.visit_of(page);
        let settings = &visit.snapshot.settings;
        if settings.hosts.any() && !settings.hosts.serve(&visit.authority()) {
            return Warmed::Failed("host");
        }
        let target = Target::parse(visit.uri.path(), visit.uri.query());
        let found = settings.routes.find(&visit.method, &target);
        let identity = &visit.snapshot.identity;
        let caller = identity.caller(visit.peer.address, &visit.headers, visit.now);
        let ask = Ask {
            visit: &visit,
            target: &target,
            found: &found,
            caller: &caller,
            span: &Span::default(),
            search: shared.searches.find(|| visit.authority(), target.path),
        };
        // What is one for each is nobody's.
        if !found.rule.key.per.is_empty() {
            return Warmed::NotStored(Reason::Private);
        }
        let key = match ask.plan(Content::None) {
            Plan::Lookup(key) => key,
            Plan::Pass(reason) => return Warmed::NotStored(reason),
            Plan::Tunnel => return Warmed::NotStored(Reason::Upgrade),
            Plan::Read => return Warmed::NotStored(Reason::Body),
        };
        if ask.is_personal() {
            return Warmed::NotStored(match visit.headers.contains_key(AUTHORIZATION) {
                true => Reason::Authorization,
                false => Reason::Cookie,
            });
        }
        // Somebody has just been told that its answers are not stored.
        if shared.coalescer.is_apart(&key, visit.now) {
            return Warmed::NotStored(Reason::CollapsedFailed);
        }
        let held = self.0.cache.lookup(&key, &visit.headers, visit.now);
        let held = redis_client::as_one(held).await;
        let reuse = ask.reuse(&held);
        match (reuse, held) {
            (Reuse::Fresh, Lookup::Found { entry, .. }) => {
                let left = left(&entry, &visit);
                match left > page.lasting {
                    true => Warmed::Fresh(left),
                    false => self.renew_now(&ask, key, &entry).await,
                }
            }
            (Reuse::Fetch(why), Lookup::Found { .. }) if why != Reason::Range => {
                self.fetch_for_store(&ask, key, None, why).await
            }
            (
                Reuse::StaleWhileRevalidate(why)
                | Reuse::Stale(why)
                | Reuse::Validate(why)
                | Reuse::Fetch(why),
                Lookup::Found { entry, .. },
            ) => self.fetch_for_store(&ask, key, Some(entry), why).await,
            (_, Lookup::Absent(why)) => self.fetch_for_store(&ask, key, None, why).await,
            (Reuse::Forbidden, _) => Warmed::NotStored(Reason::Request),
        }
    }

    /// The content of a page as the app answers it, of at most `bytes_max` bytes. The error says why
    /// there is none.
    async fn content_of(&self, page: &Page, bytes_max: usize) -> Result<Bytes, &'static str> {
        let visit = self.visit_of(page);
        let target = Target::parse(visit.uri.path(), visit.uri.query());
        let found = visit.snapshot.settings.routes.find(&visit.method, &target);
        let identity = &visit.snapshot.identity;
        let caller = identity.caller(visit.peer.address, &visit.headers, visit.now);
        let ask = Ask {
            visit: &visit,
            target: &target,
            found: &found,
            caller: &caller,
            span: &Span::default(),
            search: None,
        };
        let asking = async {
            let asked = self.ask_app(&ask, RequestBody::empty()).await;
            let response = asked.map_err(|problem| word(&problem))?;
            if response.status() != StatusCode::OK {
                return Err("the app does not answer 200");
            }
            let body = Limited::new(response.into_body(), bytes_max)
                .collect()
                .await;
            let body = body.map_err(|error| match error.is::<LengthLimitError>() {
                true => "it is too large",
                false => "it breaks off",
            })?;
            Ok(body.to_bytes())
        };
        let asked = tokio::time::timeout(PAGE_TIME_MAX, Box::pin(asking)).await;
        asked.unwrap_or(Err("timeout"))
    }

    /// The request that nobody makes.
    fn visit_of(&self, page: &Page) -> Visit {
        let shared = &self.0.shared;
        let mut headers = (*page.fields).clone();
        for (name, value) in FIELDS {
            let entry = headers.entry(name);
            entry.or_insert(HeaderValue::from_static(value));
        }
        if let Ok(host) = HeaderValue::from_str(&page.host) {
            headers.insert(HOST, host);
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = Method::GET;
        parts.uri = Uri::from(page.target.clone());
        parts.headers = headers;
        let peer = Peer {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            tls: page.tls,
        };
        let trace = shared.traces.context(&parts.headers);
        let snapshot = shared.snapshot.load_full();
        Visit {
            is_nobodys: true,
            ..Visit::new(snapshot, trace, parts, peer, shared.clock.now())
        }
    }

    /// Fetches as a request does, and waits until what came of it is in the store.
    async fn fetch_for_store(
        &self,
        ask: &Ask<'_>,
        key: Key,
        stale: Option<Arc<Entry>>,
        why: Reason,
    ) -> Warmed {
        match self.fetch(ask, key, stale, why).await {
            Ok(reply) => match reply.brought() {
                (Ok(()), Some(body)) => self.read_out(ask, &key, body).await,
                (Ok(()), None) => self.stored(ask, &key),
                (Err(reason), _) => Warmed::NotStored(reason),
            },
            Err(problem) => Warmed::Failed(word(&problem)),
        }
    }

    /// Renews what is still fresh.
    async fn renew_now(&self, ask: &Ask<'_>, key: Key, entry: &Arc<Entry>) -> Warmed {
        let coalescer = &self.0.shared.coalescer;
        self.refresh(ask, key, entry, None);
        let joined = coalescer.join(self.place(ask, key), self.0.cache.position(), ask.visit.now);
        let Join::Follow(follower) = joined else {
            // It is over already, or another sidecar is at it.
            return Warmed::Fresh(left(entry, ask.visit));
        };
        match follower.fill().outcome().await {
            Filled::Streaming(stored, reader) => {
                let body = self.shared(ask, &stored, reader);
                self.read_out(ask, &key, body).await
            }
            Filled::Ready(_) | Filled::Found(_) => self.stored(ask, &key),
            Filled::Failed(error) => Warmed::Failed(error.word()),
            // Another sidecar is at it.
            Filled::Released(Reason::CollapsedFailed) => Warmed::Fresh(left(entry, ask.visit)),
            Filled::Released(reason) => Warmed::NotStored(reason),
        }
    }

    /// Reads the content to its end: who has the last of it may count on the store.
    async fn read_out(&self, ask: &Ask<'_>, key: &Key, mut body: Body) -> Warmed {
        let bytes_max = ask.visit.snapshot.settings.cache.max_body;
        let mut bytes = 0_u64;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return Warmed::NotStored(Reason::Incomplete);
            };
            bytes += frame.data_ref().map_or(0, |piece| piece.len() as u64);
            if bytes > bytes_max {
                return Warmed::NotStored(Reason::TooLarge);
            }
        }
        self.stored(ask, key)
    }

    /// It is stored: for how long it is fresh, this process's memory tells.
    fn stored(&self, ask: &Ask<'_>, key: &Key) -> Warmed {
        let visit = ask.visit;
        match self.0.cache.peek(key, &visit.headers, visit.now) {
            Lookup::Found { entry, .. } => Warmed::Stored(left(&entry, visit)),
            // It has no room there.
            Lookup::Absent(_) => Warmed::Stored(Duration::ZERO),
        }
    }
}

/// How long `entry` is fresh yet.
fn left(entry: &Entry, visit: &Visit) -> Duration {
    let left = entry.lifetime().ttl_secs(visit.now).max(0);
    Duration::from_secs(left.unsigned_abs())
}

/// The word of what went wrong.
const fn word(problem: &Problem) -> &'static str {
    match problem {
        Problem::App(error) | Problem::Unconfirmed(error) => error.word(),
        Problem::Loop => "loop",
        Problem::Misdirected => "host",
        _ => "internal",
    }
}
