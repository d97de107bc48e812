//! Answers that nothing has to be waited for, hits from memory and refusals by a limit known to be
//! full: the life of a request without its detours.
//!
//! Asks the same rooms in the same order as [`Proxy::handle`] and gives the same answer, written
//! straight into the bytes that go out. Where any of them would have to wait, or has more to say
//! than yes or no, there is no answer here and nothing has been counted: the request is handled as
//! all others are.

use super::body::Meter;
use super::reply::{REPLACED, Told};
use super::visit::Visit;
use super::wire::{self, Head};
use super::{
    Ask, Content, Lookup, Outcome, Peer, Plan, Proxy, Reason, Reuse, Span, Target, forward,
};
use crate::config::settings::LimitMode;
use crate::limit::{self, Check};
use crate::semantics::line;
use crate::semantics::writing::{Fields, Value};
use crate::telemetry::metrics::Source;
use bytes::Bytes;
use http::HeaderMap;
use http::header::AGE;
use http::request::Parts;

/// The content of an answer whose head is written already.
#[derive(Debug)]
pub struct Ready {
    /// What follows the head.
    pub body: Bytes,
    meter: Meter,
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
        let ready = self.ready_for(&visit, out);
        (ready, visit.headers)
    }

    fn ready_for(&self, visit: &Visit, out: &mut Vec<u8>) -> Option<Ready> {
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
        let mut ask = Ask {
            visit,
            target: &target,
            found: &found,
            caller: &caller,
            span: &Span::default(),
            search: None,
        };
        if !checks.is_empty() {
            return self.refusal(&ask, &checks, out);
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
        let stored = &entry.stored;
        let prepare = || wire::prepare(stored, &forward::via(), &REPLACED);
        let prepared = entry.prepared.get_or_init(prepare).as_deref()?;
        let active = self.0.recorder.active();
        self.renew(&ask, key, &entry);
        let mut told = Told::stored(&ask, &entry, Outcome::Hit, Reason::Memory);
        let took = visit.began.elapsed();
        let mut head = Head::begin(out, prepared);
        let age = line::digits(stored.lifetime.age(visit.now).as_secs());
        head.put(AGE, Value::Text(age.as_bytes()));
        told.dress(&ask, None, took, &mut head);
        head.end();
        told.tell(&self.0, &ask, stored.status, None, took);
        Some(Ready {
            body: stored.body.clone(),
            meter: Meter::new(ask.handle().clone(), Source::Memory, active),
        })
    }

    /// The refusal by a counter that is known to be full; whoever may be admitted, Redis has to say.
    fn refusal(&self, ask: &Ask<'_>, checks: &[Check<'_>], out: &mut Vec<u8>) -> Option<Ready> {
        let (visit, mode) = (ask.visit, ask.visit.snapshot.settings.limits.mode);
        if mode == LimitMode::Shadow {
            return None;
        }
        let decision = self.0.limiter.refusal(checks, visit.now)?;
        let active = self.0.recorder.active();
        let mut limits = None;
        let problem = self.carry_out(decision, mode, &mut limits).err()?;
        let (shape, trace_id) = (visit.snapshot.settings.errors, visit.trace.trace_id_hex());
        let body = problem.content(shape, visit.now, &trace_id);
        let mut told = Told::problem(&problem);
        let took = visit.began.elapsed();
        let mut head = Head::new(out, problem.status());
        problem.fields(shape, &mut head);
        told.dress(ask, limits.as_ref(), took, &mut head);
        head.end_with(body.len(), visit.now);
        told.tell(&self.0, ask, problem.status(), limits.as_ref(), took);
        Some(Ready {
            body: body.into(),
            meter: Meter::new(ask.handle().clone(), Source::Larder, active),
        })
    }
}
