//! Plain GETs on their way past hyper. What nothing has to be waited for, hits from memory and
//! refusals by a limit known to be full, is answered at once, by the life of a request without its
//! detours; the others live as all requests do.
//!
//! The short way asks the same rooms in the same order as [`Proxy::handle`] and gives the same answer.
//! Where any of them would have to wait, or has more to say than yes or no, it gives none and
//! nothing has been counted.

use super::body::{Body, Meter};
use super::reply::{Reply, Told};
use super::visit::Visit;
use super::wire::{self, Framing, Head};
use super::{
    Arrival, Ask, Content, Entry, Interim, Key, Lookup, Outcome, Peer, Plan, Problem, Proxy,
    Reason, Reuse, Span, Target, Tier, forward,
};
use crate::config::settings::LimitMode;
use crate::limit::{self, Check, Decision};
use crate::semantics::validation::is_conditional;
use crate::telemetry::metrics::Source;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response, Version};
use hyper::body::Body as _;
use std::sync::Arc;

/// What an answer has behind its head.
#[derive(Debug)]
pub enum Rest {
    /// Content that is here, and whose length the head states.
    Whole {
        /// What is still to leave of it.
        body: Bytes,
        /// Where what has left is counted.
        meter: Meter,
    },
    /// Content that comes in its time.
    Streamed {
        /// It.
        body: Body,
        /// How its end is told.
        framing: Framing,
    },
}

/// An answer as an HTTP/1.1 connection sends it.
#[derive(Debug)]
pub struct Outgoing {
    /// Its head, to the empty line.
    pub head: Vec<u8>,
    /// What follows.
    pub rest: Rest,
}

/// What has become of a plain GET without waiting.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once; a box would be one more allocation a hit"
)]
pub enum Begun {
    /// It is answered.
    Answered {
        /// What follows the head.
        rest: Rest,
        /// The request's fields, so that their room serves the next one.
        fields: HeaderMap,
    },
    /// Its answer takes a while: see [`Proxy::finish`].
    Waits(Waits),
}

/// A plain GET that has to be waited for.
#[derive(Debug)]
pub struct Waits(Box<Arrival>);

/// What is known of a request without waiting.
enum Known<'a> {
    /// Memory holds a fresh answer, which these counters have to admit.
    Fresh(Key, Arc<Entry>, Vec<Check<'a>>),
    /// A counter is known to be full.
    Refused(Decision),
    /// Memory does not answer; this is to be done.
    Planned(Plan),
}

impl Proxy {
    /// Answers a GET without content and without conditions from memory, or refuses it, if that can
    /// be done at once; the head is added to `out`.
    pub fn begin(&self, request: Parts, peer: Peer, out: &mut Vec<u8>) -> Begun {
        let visit = self.visit(request, peer);
        if self.0.shared.traces.is_on() {
            return Begun::waits(visit, None);
        }
        let mut plan = None;
        let rest = self.known(&visit, |ask, known| match known {
            Known::Fresh(key, entry, checks) => {
                let mut limits = None;
                if !checks.is_empty() {
                    // Counts: from here on there is an answer.
                    let decision = self.0.limiter.at_once(&checks, visit.now);
                    plan = Some(Plan::Lookup(key));
                    if let Err(problem) = self.carry_out(decision?, ask, &mut limits) {
                        return Some(self.refuse_at_once(ask, &problem, limits.as_deref(), out));
                    }
                }
                let active = self.0.recorder.active();
                self.renew(ask, key, &entry);
                let reply = Reply::stored(ask, &entry, Outcome::Hit, Reason::Memory);
                Some(reply.write(&self.0, ask, limits.as_deref(), active, out).1)
            }
            Known::Refused(decision) => {
                let mut limits = None;
                let problem = self.carry_out(decision, ask, &mut limits).err()?;
                Some(self.refuse_at_once(ask, &problem, limits.as_deref(), out))
            }
            Known::Planned(known) => {
                plan = Some(known);
                None
            }
        });
        match rest {
            Some(rest) => Begun::Answered {
                rest,
                fields: visit.headers,
            },
            None => Begun::waits(visit, plan),
        }
    }

    /// Answers what could not be answered at once, in the empty `room`. What the app says beforehand
    /// goes to `interim`.
    pub async fn finish(self, waits: Waits, interim: Interim, mut room: Vec<u8>) -> Outgoing {
        let rest = self.serve(*waits.0, Some(interim), |reply, ask, limits, active| {
            reply.write(&self.0, ask, limits, active, &mut room)
        });
        let rest = rest.await;
        Outgoing { head: room, rest }
    }

    /// The answer to a plain GET that larder itself has failed at.
    #[must_use]
    pub fn fallen(&self) -> Outgoing {
        let (parts, body) = self.refuse(&Problem::Internal).into_parts();
        let mut head = Vec::new();
        let (length, now) = (body.size_hint().exact(), self.0.shared.clock.now());
        let framing = wire::response(&mut head, parts.status, &parts.headers, length, now, |_| {});
        let rest = Rest::Streamed { body, framing };
        Outgoing { head, rest }
    }

    /// Answers a request without content from memory. `None` where it takes more, or where the short
    /// way of HTTP/1.1 has found so already.
    #[must_use]
    pub fn at_once(&self, arrival: &Arrival) -> Option<Response<Body>> {
        let visit = &arrival.visit;
        let is_head = visit.method == Method::HEAD;
        let may_be = (is_head || visit.method == Method::GET)
            && arrival.body.is_none()
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
        let plan = ask.plan(Content::None);
        if let Plan::Lookup(key) = plan
            && self.0.cache.has_memory()
        {
            let held = self.0.cache.peek(&key, &visit.headers, visit.now);
            if ask.reuse(&held) == Reuse::Fresh
                && let Lookup::Found { entry, .. } = held
            {
                return answer(&ask, Known::Fresh(key, entry, checks));
            }
        }
        answer(&ask, Known::Planned(plan))
    }

    /// The refusal by a counter that is known to be full.
    fn refuse_at_once(
        &self,
        ask: &Ask<'_>,
        problem: &Problem,
        limits: Option<&Decision>,
        out: &mut Vec<u8>,
    ) -> Rest {
        let visit = ask.visit;
        let active = self.0.recorder.active();
        let (shape, trace_id) = (
            visit.snapshot.settings.errors,
            visit.trace.trace_id_digits(),
        );
        let trace_id = std::str::from_utf8(&trace_id).unwrap_or_default();
        let body = problem.content(shape, visit.now, trace_id);
        let mut told = Told::problem(problem);
        let took = visit.began.elapsed();
        let mut head = Head::new(out, problem.status());
        problem.fields(shape, &mut head);
        told.dress(ask, limits, took, &mut head);
        head.end_with(body.len(), visit.now);
        told.tell(&self.0, ask, problem.status(), limits, took);
        Rest::Whole {
            body: body.into(),
            meter: Meter::new(ask.handle().clone(), Source::Larder, active),
        }
    }
}

impl Begun {
    fn waits(visit: Visit, plan: Option<Plan>) -> Self {
        Self::Waits(Waits(Box::new(Arrival::plain(visit, plan))))
    }
}
