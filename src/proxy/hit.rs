//! Hits from memory that nothing has to be waited for: the life of a request without its detours.
//!
//! Asks the same rooms in the same order as [`Proxy::handle`] and gives the same answer, written
//! straight into the bytes that go out or, where hyper sends it, had without a future. Where any of them would have to wait, or has more to say
//! than yes, there is no answer here and nothing has been counted: the request is handled as all
//! others are.

use super::body::{Body, Meter};
use super::reply::{REPLACED, Reply, Told};
use super::visit::Visit;
use super::wire::{self, Fields, Head, Value};
use super::{
    Arrival, Ask, Content, Entry, Key, Lookup, Outcome, Peer, Plan, Proxy, Reason, Reuse, Span,
    Target, Tier, forward,
};
use crate::limit;
use crate::semantics::line;
use crate::semantics::validation::is_conditional;
use crate::telemetry::metrics::Source;
use bytes::Bytes;
use http::header::AGE;
use http::request::Parts;
use http::{HeaderMap, Method, Response, Version};
use hyper::body::Body as _;
use std::sync::Arc;

/// The content of an answer whose head is written already.
#[derive(Debug)]
pub struct Hit {
    /// What follows the head.
    pub body: Bytes,
    meter: Meter,
}

impl Hit {
    /// Counts bytes of the content that have left.
    pub fn sent(&mut self, bytes: usize) {
        self.meter.add(bytes);
    }
}

impl Proxy {
    /// Answers a GET without content and without conditions from memory; the head is added to `out`.
    /// `None` where it takes more. The fields of the request come back, so that their room serves
    /// the next one.
    pub fn hit(&self, request: Parts, peer: Peer, out: &mut Vec<u8>) -> (Option<Hit>, HeaderMap) {
        let shared = &self.0.shared;
        if shared.traces.is_on() {
            return (None, request.headers);
        }
        let trace = shared.traces.context(&request.headers);
        let snapshot = shared.snapshot.load_full();
        let visit = Visit::new(snapshot, trace, request, peer, shared.clock.now());
        let hit = self.fresh(&visit, |ask, key, entry| self.write(ask, key, entry, out));
        (hit, visit.headers)
    }

    /// Whether the store may answer a GET for this target at all: a look that costs less than
    /// [`Proxy::hit`].
    #[must_use]
    pub fn may_hit(&self, target: &str) -> bool {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let snapshot = self.0.shared.snapshot.load();
        let target = Target::parse(path, query);
        let found = snapshot.settings.routes.find(&Method::GET, &target);
        found.rule.policy.is_some()
    }

    /// Answers a request without content from memory. `None` where it takes more, or where the short
    /// way of HTTP/1.1 has found so already.
    #[must_use]
    pub fn at_once(&self, arrival: &Arrival) -> Option<Response<Body>> {
        let visit = &arrival.visit;
        let is_head = visit.method == Method::HEAD;
        let may_be = (is_head || visit.method == Method::GET)
            && arrival.body.is_end_stream()
            && !self.0.shared.traces.is_on();
        let is_news = is_head || visit.version == Version::HTTP_2 || is_conditional(&visit.headers);
        if !(may_be && is_news) {
            return None;
        }
        self.fresh(visit, |ask, key, entry| {
            let active = self.0.recorder.active();
            self.renew(ask, key, entry);
            let reply = Reply::stored(ask, entry, Outcome::Hit, Reason::Memory).from(Tier::Memory);
            Some(reply.finish(&self.0, ask, None, active))
        })
    }

    /// What `answer` makes of the fresh entry that memory holds for a request, if nothing else is to
    /// be asked for it.
    fn fresh<T>(
        &self,
        visit: &Visit,
        answer: impl FnOnce(&Ask<'_>, Key, &Arc<Entry>) -> Option<T>,
    ) -> Option<T> {
        let settings = &visit.snapshot.settings;
        if visit.debug || forward::is_loop(&visit.headers) {
            return None;
        }
        if settings.hosts.any() && !settings.hosts.serve(&visit.authority()) {
            return None;
        }
        let target = Target::parse(visit.uri.path(), visit.uri.query());
        let found = settings.routes.find(&visit.method, &target);
        let identity = &visit.snapshot.identity;
        let caller = identity.caller(visit.peer.address, &visit.headers, visit.now);
        let (limits, rule) = (&settings.limits, found.rule);
        let checks = limit::checks::checks(limits, &rule.limits, &visit.method, &target, &caller);
        if !checks.is_empty() {
            return None;
        }
        let ask = Ask {
            visit,
            target: &target,
            found: &found,
            caller: &caller,
            span: &Span::default(),
            search: (self.0.shared.searches).find(|| visit.authority(), target.path),
        };
        let Plan::Lookup(key) = ask.plan(Content::None) else {
            return None;
        };
        let held = self.0.cache.peek(&key, &visit.headers, visit.now);
        if ask.reuse(&held) != Reuse::Fresh {
            return None;
        }
        let Lookup::Found { entry, .. } = held else {
            return None;
        };
        answer(&ask, key, &entry)
    }

    fn write(&self, ask: &Ask<'_>, key: Key, entry: &Arc<Entry>, out: &mut Vec<u8>) -> Option<Hit> {
        let (visit, stored) = (ask.visit, &entry.stored);
        let prepare = || wire::prepare(stored, &forward::via(), &REPLACED);
        let prepared = entry.prepared.get_or_init(prepare).as_deref()?;
        let active = self.0.recorder.active();
        self.renew(ask, key, entry);
        let mut told = Told::stored(ask, entry, Outcome::Hit, Reason::Memory);
        let took = visit.began.elapsed();
        let mut head = Head::begin(out, prepared);
        let age = line::digits(stored.lifetime.age(visit.now).as_secs());
        head.put(AGE, Value::Text(age.as_bytes()));
        told.dress(ask, took, &mut head);
        head.end();
        told.tell(&self.0, ask, stored.status, None, took);
        Some(Hit {
            body: stored.body.clone(),
            meter: Meter::new(ask.handle().clone(), Source::Memory, active),
        })
    }
}
