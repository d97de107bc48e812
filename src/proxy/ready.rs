//! Answers that nothing has to be waited for, hits from memory and refusals by a limit known to be
//! full: the life of a request without its detours.
//!
//! Asks the same rooms in the same order as [`Proxy::handle`] and gives the same answer, written
//! straight into the bytes that go out or, where hyper sends it, had without a future. Where any of
//! them would have to wait, or has more to say than yes or no, there is no answer here and nothing
//! has been counted: the request is handled as all others are.

use super::body::{Body, Meter};
use super::reply::{REPLACED, Reply, Told};
use super::visit::Visit;
use super::wire::{self, Head};
use super::{
    Arrival, Ask, Content, Entry, Key, Lookup, Outcome, Peer, Plan, Proxy, Reason, Reuse, Span,
    Target, Tier, forward,
};
use crate::config::settings::LimitMode;
use crate::limit::{self, Check, Decision};
use crate::semantics::line;
use crate::semantics::validation::is_conditional;
use crate::semantics::writing::{Fields, Value};
use crate::telemetry::metrics::Source;
use bytes::Bytes;
use http::header::AGE;
use http::request::Parts;
use http::{HeaderMap, Method, Response, Version};
use hyper::body::Body as _;
use std::sync::Arc;

/// The content of an answer whose head is written already.
#[derive(Debug)]
pub struct Ready {
    /// What follows the head.
    pub body: Bytes,
    meter: Meter,
}

/// What is known of a request without waiting.
enum Known<'a> {
    /// Memory holds a fresh answer, which these counters have to admit.
    Fresh(Key, Arc<Entry>, Vec<Check<'a>>),
    /// A counter is known to be full.
    Refused(Decision),
}

impl Ready {
    /// Counts bytes of the content that have left.
    pub fn sent(&mut self, bytes: usize) {
        self.meter.add(bytes);
    }
}

impl Proxy {
    /// Answers a GET without content and without conditions from memory, or refuses it; the head is
    /// added to `out`. `None` where it takes more. The fields of the request come back, so that their
    /// room serves the next one.
    pub fn ready(
        &self,
        request: Parts,
        peer: Peer,
        out: &mut Vec<u8>,
    ) -> (Option<Ready>, HeaderMap) {
        let shared = &self.0.shared;
        if shared.traces.is_on() {
            return (None, request.headers);
        }
        let trace = shared.traces.context(&request.headers);
        let snapshot = shared.snapshot.load_full();
        let visit = Visit::new(snapshot, trace, request, peer, shared.clock.now());
        let ready = self.known(&visit, |ask, known| match known {
            Known::Fresh(key, entry, checks) => self.write(ask, key, &entry, &checks, out),
            Known::Refused(decision) => self.refuse_at_once(ask, decision, out),
        });
        (ready, visit.headers)
    }

    /// Whether the store may answer a GET for this target at all: a look that costs less than
    /// [`Proxy::ready`].
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
        self.known(visit, |ask, known| {
            let Known::Fresh(key, entry, checks) = known else {
                return None;
            };
            if !checks.is_empty() {
                return None;
            }
            let active = self.0.recorder.active();
            self.renew(ask, key, &entry);
            let reply = Reply::stored(ask, &entry, Outcome::Hit, Reason::Memory).from(Tier::Memory);
            Some(reply.finish(&self.0, ask, None, active))
        })
    }

    /// What `answer` makes of what is known of a request, if nothing else is to be asked for it.
    fn known<T>(
        &self,
        visit: &Visit,
        answer: impl FnOnce(&Ask<'_>, Known<'_>) -> Option<T>,
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
        let enforced = limits.mode == LimitMode::Enforce;
        let refusal = (enforced && !checks.is_empty())
            .then(|| self.0.limiter.refusal(&checks, visit.now))
            .flatten();
        let mut ask = Ask {
            visit,
            target: &target,
            found: &found,
            caller: &caller,
            span: &Span::default(),
            search: None,
        };
        if let Some(refusal) = refusal {
            return answer(&ask, Known::Refused(refusal));
        }
        ask.search = (self.0.shared.searches).find(|| visit.authority(), target.path);
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
        answer(&ask, Known::Fresh(key, entry, checks))
    }

    fn write(
        &self,
        ask: &Ask<'_>,
        key: Key,
        entry: &Arc<Entry>,
        checks: &[Check<'_>],
        out: &mut Vec<u8>,
    ) -> Option<Ready> {
        let (visit, stored) = (ask.visit, &entry.stored);
        let prepare = || wire::prepare(stored, &forward::via(), &REPLACED);
        let prepared = entry.prepared.get_or_init(prepare).as_deref()?;
        let mut limits = None;
        if !checks.is_empty() {
            // Counts: from here on there is an answer.
            let decision = self.0.limiter.at_once(checks, visit.now)?;
            let mode = visit.snapshot.settings.limits.mode;
            if mode == LimitMode::Enforce && !decision.admitted {
                return self.refuse_at_once(ask, decision, out);
            }
            self.carry_out(decision, mode, &mut limits).ok()?;
        }
        let active = self.0.recorder.active();
        self.renew(ask, key, entry);
        let mut told = Told::stored(ask, entry, Outcome::Hit, Reason::Memory);
        let took = visit.began.elapsed();
        let mut head = Head::begin(out, prepared);
        let age = line::digits(stored.lifetime.age(visit.now).as_secs());
        head.put(AGE, Value::Text(age.as_bytes()));
        told.dress(ask, limits.as_deref(), took, &mut head);
        head.end();
        told.tell(&self.0, ask, stored.status, limits.as_deref(), took);
        Some(Ready {
            body: stored.body.clone(),
            meter: Meter::new(ask.handle().clone(), Source::Memory, active),
        })
    }

    /// The refusal by a counter that is known to be full.
    fn refuse_at_once(
        &self,
        ask: &Ask<'_>,
        decision: Decision,
        out: &mut Vec<u8>,
    ) -> Option<Ready> {
        let (visit, mode) = (ask.visit, ask.visit.snapshot.settings.limits.mode);
        let active = self.0.recorder.active();
        let mut limits = None;
        let problem = self.carry_out(decision, mode, &mut limits).err()?;
        let (shape, trace_id) = (
            visit.snapshot.settings.errors,
            visit.trace.trace_id_digits(),
        );
        let trace_id = std::str::from_utf8(&trace_id).unwrap_or_default();
        let body = problem.content(shape, visit.now, trace_id);
        let mut told = Told::problem(&problem);
        let took = visit.began.elapsed();
        let mut head = Head::new(out, problem.status());
        problem.fields(shape, &mut head);
        told.dress(ask, limits.as_deref(), took, &mut head);
        head.end_with(body.len(), visit.now);
        told.tell(&self.0, ask, problem.status(), limits.as_deref(), took);
        Some(Ready {
            body: body.into(),
            meter: Meter::new(ask.handle().clone(), Source::Larder, active),
        })
    }
}
