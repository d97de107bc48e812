//! An answer on its way out: what it is, and what is told of it in fields, metrics and logs.

use super::body::{Body, Meter};
use super::ready::Rest;
use super::respond::Problem;
use super::resume::Resume;
use super::tap::Tap;
use super::visit::Visit;
use super::wire::{self, Head, Over};
use super::{Ask, Rooms, forward};
use crate::cache::{Cache, Chunks, Entry, Tier};
use crate::limit::{self, Decision};
use crate::route::{Arm, Content, Plan};
use crate::semantics::answer::REPLACED;
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus};
use crate::semantics::fields;
use crate::semantics::line::{self, Line, number};
use crate::semantics::validation::is_conditional;
use crate::semantics::writing::{Fields, Value};
use crate::semantics::{Outcome, Reason, Stored, Timestamp, answer};
use crate::telemetry::AccessRecord;
use crate::telemetry::metrics::{ActiveGuard, Finished, Source};
use crate::upstream::ResponseBody;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_LENGTH, IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE, REFERRER_POLICY,
    TE, TRAILER, VIA, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, response};
use hyper::body::Body as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_CACHE_TTL: HeaderName = HeaderName::from_static("x-cache-ttl");
const X_CACHE_REASON: HeaderName = HeaderName::from_static("x-cache-reason");
const X_CACHE_ROUTE: HeaderName = HeaderName::from_static("x-cache-route");
const X_RESPONSE_TIME: HeaderName = HeaderName::from_static("x-response-time");
const X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// Lets an answer's fields of ours into HPACK's table. To be done once a connection: later ones, which
/// keep out of it, are written with a reference to the name that they find there.
pub fn name_in_table(fields: &mut HeaderMap) {
    for name in REPLACED.iter().chain(&[CACHE_STATUS.as_str()]) {
        if let Some(value) = fields.get_mut(*name) {
            value.set_sensitive(false);
        }
    }
}

/// An answer before it is dressed for the client.
#[derive(Debug)]
pub(super) struct Reply {
    answer: Answer,
    pub told: Told,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved a few times; a box would be one more allocation a pass"
)]
enum Answer {
    /// As it is held: what of it the client gets, and in which form, is settled when it leaves. Content
    /// that is read only then may come from the app in the end.
    Stored(Arc<Entry>, Option<Box<Resume>>),
    Made(Response<Body>),
}

/// What is told of an answer: to its client in fields, to the metrics and to the log.
#[derive(Debug)]
pub(super) struct Told {
    pub outcome: Outcome,
    pub reason: Reason,
    source: Source,
    /// It was made here: neither stored nor the app's.
    own: bool,
    coalesced: bool,
    stored: bool,
    ttl: Option<i64>,
    fwd_status: Option<StatusCode>,
    /// Why the request went on to the app, where `reason` says what came of it.
    forwarded: Option<Reason>,
    app_time: Duration,
    pub note: Option<String>,
}

impl Reply {
    fn new(response: Response<Body>, outcome: Outcome, reason: Reason, source: Source) -> Self {
        let (answer, told) = (Answer::Made(response), Told::new(outcome, reason, source));
        Self { answer, told }
    }

    /// From the store.
    pub fn stored(ask: &Ask<'_>, entry: &Arc<Entry>, outcome: Outcome, reason: Reason) -> Self {
        let answer = Answer::Stored(Arc::clone(entry), None);
        let told = Told::stored(ask, entry, outcome, reason);
        Self { answer, told }
    }

    /// The answer, unless it is the store's.
    pub fn made(&mut self) -> Option<&mut Response<Body>> {
        match &mut self.answer {
            Answer::Stored(..) => None,
            Answer::Made(response) => Some(response),
        }
    }

    /// From the store, after the app confirmed it. `why` it was asked, and whether the entry was
    /// `kept`.
    pub fn confirmed(ask: &Ask<'_>, entry: &Arc<Entry>, why: Reason, kept: bool) -> Self {
        let mut reply = Self::stored(ask, entry, Outcome::Revalidated, Reason::NotModified);
        reply.told.forwarded = Some(why);
        reply.told.fwd_status = Some(StatusCode::NOT_MODIFIED);
        reply.told.stored = kept;
        reply
    }

    /// From the store, in place of an app that failed: with this `status`, or without any.
    pub fn stand_in(ask: &Ask<'_>, entry: &Arc<Entry>, status: Option<StatusCode>) -> Self {
        let mut reply = Self::stored(ask, entry, Outcome::Stale, Reason::AppError);
        // What is still fresh was only not new enough for this client.
        reply.told.forwarded = Some(match entry.is_fresh(ask.visit.now) {
            true => Reason::Request,
            false => Reason::Expired,
        });
        reply.told.fwd_status = status;
        reply
    }

    /// Names where the rest of a content may come from that is read only when it leaves.
    pub fn resumed_by(mut self, resume: Option<Resume>) -> Self {
        if let Answer::Stored(_, by) = &mut self.answer {
            *by = resume.map(Box::new);
        }
        self
    }

    /// Names the tier it came from.
    pub fn from(mut self, tier: Tier) -> Self {
        self.told.source = tier.source();
        self
    }

    /// From the app, streamed.
    pub fn app(
        ask: &Ask<'_>,
        response: Response<ResponseBody>,
        outcome: Outcome,
        reason: Reason,
    ) -> Self {
        let (mut head, body) = response.into_parts();
        forward::response_fields(&mut head.headers, head.version);
        let patience = ask.visit.snapshot.settings.upstream.timeout;
        let patience = (!fields::is_event_stream(&head.headers)).then_some(patience);
        Self::from_app(head, Body::app(body, patience), outcome, reason)
    }

    /// Lets its content be looked at as it passes.
    pub fn tapped(mut self, tap: Option<Box<Tap>>) -> Self {
        if let (Answer::Made(response), Some(mut tap)) = (&mut self.answer, tap) {
            if fields::is_event_stream(response.headers()) {
                // It has no end; a copy would be held for as long as it is listened to.
                tap.expects(u64::MAX);
            }
            let body = std::mem::replace(response.body_mut(), Body::empty());
            *response.body_mut() = body.tapped(tap);
        }
        self
    }

    /// The head of what the app said, for who has to see it before the content may leave.
    pub fn headed(head: response::Parts) -> Self {
        Self::from_app(head, Body::empty(), Outcome::Bypass, Reason::Method)
    }

    /// Takes over what is noted of `other`.
    pub fn with_note_of(mut self, other: Self) -> Self {
        self.told.note = other.told.note;
        self
    }

    /// Tells why the app was asked for what then was not kept.
    pub fn because(mut self, why: Reason) -> Self {
        self.told.forwarded = Some(why);
        self
    }

    /// From the app, its `body` read from the fetch that is being stored. `judged`: the app has looked at
    /// the client's conditions itself.
    pub fn leading(
        ask: &Ask<'_>,
        mut head: response::Parts,
        stored: &Stored,
        body: Body,
        reason: Reason,
        judged: bool,
    ) -> Self {
        forward::response_fields(&mut head.headers, head.version);
        let mut reply = Self::from_app(head, body, Outcome::Miss, reason);
        // A client that already has this very representation is told so; the fetch goes on behind.
        if !judged && is_conditional(&ask.visit.headers) {
            let own = from_stored(ask.visit, stored.clone(), None);
            if own.status() == StatusCode::NOT_MODIFIED {
                reply.answer = Answer::Made(own);
            }
        }
        reply.keeps(stored, ask)
    }

    /// From another request's fetch.
    pub fn following(ask: &Ask<'_>, stored: &Stored, body: Body, reason: Reason) -> Self {
        let mut response = from_stored(ask.visit, stored.clone(), None);
        if response.status() != StatusCode::NOT_MODIFIED {
            response.headers_mut().remove(CONTENT_LENGTH);
            *response.body_mut() = body;
        }
        let mut reply = Self::new(response, Outcome::Miss, reason, Source::Upstream);
        reply.told.coalesced = true;
        reply.keeps(stored, ask)
    }

    /// From a response that has just come in whole.
    pub fn whole(ask: &Ask<'_>, stored: &Stored, reason: Reason) -> Self {
        let response = from_stored(ask.visit, stored.clone(), None);
        let mut reply =
            Self::new(response, Outcome::Miss, reason, Source::Upstream).keeps(stored, ask);
        reply.told.fwd_status = Some(stored.status);
        reply
    }

    /// Marks an answer as taken from another request's fetch.
    pub fn collapsed(mut self) -> Self {
        self.told.coalesced = true;
        // What was answered was the leader's question.
        (self.told.fwd_status, self.told.stored) = (None, false);
        self
    }

    /// For who wants it stored and nothing else: that it is, or will be once its content has come, or why
    /// not; and the content, where that is still to come.
    pub fn brought(self) -> (Result<(), Reason>, Option<Body>) {
        let told = &self.told;
        // Another sidecar may have fetched it.
        let is_held = told.stored || matches!(self.answer, Answer::Stored(..));
        let stored = match told.outcome {
            Outcome::Hit | Outcome::Revalidated => Ok(()),
            Outcome::Miss if is_held => Ok(()),
            _ => Err(told.reason),
        };
        match self.answer {
            Answer::Made(response) => (stored, Some(response.into_body())),
            Answer::Stored(..) => (stored, None),
        }
    }

    /// The connection is handed over.
    pub fn switching(response: Response<ResponseBody>) -> Self {
        let (head, _) = response.into_parts();
        let mut switching = Response::new(Body::empty());
        *switching.status_mut() = head.status;
        *switching.headers_mut() = head.headers;
        Self::new(
            switching,
            Outcome::Bypass,
            Reason::Upgrade,
            Source::Upstream,
        )
    }

    /// Made here.
    pub fn problem(problem: &Problem, visit: &Visit) -> Self {
        let response = problem.answer(
            visit.snapshot.settings.errors,
            visit.now,
            &visit.trace.trace_id_hex(),
        );
        let (answer, told) = (Answer::Made(response), Told::problem(problem));
        Self { answer, told }
    }

    /// Made here, and no problem.
    pub fn own(response: Response<Body>) -> Self {
        let told = Told::own(Outcome::Bypass, Reason::Request);
        let answer = Answer::Made(response);
        Self { answer, told }
    }

    fn from_app(head: response::Parts, body: Body, outcome: Outcome, reason: Reason) -> Self {
        let status = head.status;
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = head.headers;
        let mut reply = Self::new(response, outcome, reason, Source::Upstream);
        reply.told.fwd_status = Some(status);
        reply
    }

    fn keeps(mut self, stored: &Stored, ask: &Ask<'_>) -> Self {
        self.told.stored = true;
        self.told.ttl = Some(stored.lifetime.ttl_secs(ask.visit.now));
        self
    }

    /// Adds what is told to the client, and tells the metrics and the log. The answer is hyper's to send.
    pub fn finish(
        mut self,
        rooms: &Rooms,
        ask: &Ask<'_>,
        limits: Option<&Decision>,
        active: ActiveGuard,
    ) -> Response<Body> {
        let visit = ask.visit;
        let mut response = self.answer.response(visit, &rooms.cache);
        let took = visit.began.elapsed();
        self.told.dress(ask, limits, took, response.headers_mut());
        let (status, source) = (response.status(), self.told.source);
        self.told.tell(rooms, ask, status, limits, took);
        response.map(|body| body.metered(ask.handle().clone(), source, active))
    }

    /// The same, its head written to the end of `out` for an HTTP/1.1 connection. The request is a plain GET.
    pub fn write(
        mut self,
        rooms: &Rooms,
        ask: &Ask<'_>,
        limits: Option<&Decision>,
        active: ActiveGuard,
        out: &mut Vec<u8>,
    ) -> (StatusCode, Rest) {
        let entry = match &self.answer {
            Answer::Stored(entry, _) if entry.is_plain() => entry,
            _ => return self.write_made(rooms, ask, limits, active, out),
        };
        let took = ask.visit.began.elapsed();
        let mut head = Head::stored(out, entry, &forward::via(Version::HTTP_11));
        let age = line::digits(entry.lifetime().age(ask.visit.now).as_secs());
        head.put(AGE, Value::Text(age.as_bytes()));
        self.told.dress(ask, limits, took, &mut head);
        head.end();
        let (status, body) = (entry.status(), entry.body());
        self.told.tell(rooms, ask, status, limits, took);
        let meter = Meter::new(ask.handle().clone(), self.told.source, active);
        (status, Rest::Whole { body, meter })
    }

    fn write_made(
        mut self,
        rooms: &Rooms,
        ask: &Ask<'_>,
        limits: Option<&Decision>,
        active: ActiveGuard,
        out: &mut Vec<u8>,
    ) -> (StatusCode, Rest) {
        let visit = ask.visit;
        let (head, body) = self.answer.response(visit, &rooms.cache).into_parts();
        let took = visit.began.elapsed();
        let length = body.size_hint().exact();
        let dress = |fields: &mut Over<'_>| self.told.dress(ask, limits, took, fields);
        // It may have been waited for: what says no date is of now.
        let now = rooms.shared.clock.now();
        let framing = wire::response(out, head.status, &head.headers, length, now, dress);
        self.told.tell(rooms, ask, head.status, limits, took);
        let body = body.metered(ask.handle().clone(), self.told.source, active);
        (head.status, Rest::Streamed { body, framing })
    }
}

impl Answer {
    /// What this client gets of it.
    fn response(self, visit: &Visit, cache: &Cache) -> Response<Body> {
        match self {
            Self::Stored(entry, _) if entry.is_plain() && asks_for_all(visit) => {
                all_of(&entry, visit.now)
            }
            Self::Stored(entry, resume) => {
                let resume = resume.map(|resume| *resume);
                let chunks = entry.chunks().map(|chunks| (cache, chunks, resume));
                from_stored(visit, entry.stored(), chunks)
            }
            Self::Made(response) => response,
        }
    }
}

impl Told {
    const fn new(outcome: Outcome, reason: Reason, source: Source) -> Self {
        Self {
            outcome,
            reason,
            source,
            own: false,
            coalesced: false,
            stored: false,
            ttl: None,
            fwd_status: None,
            forwarded: None,
            app_time: Duration::ZERO,
            note: None,
        }
    }

    /// Of an answer made here.
    fn own(outcome: Outcome, reason: Reason) -> Self {
        Self {
            own: true,
            ..Self::new(outcome, reason, Source::Larder)
        }
    }

    /// Of a problem.
    pub fn problem(problem: &Problem) -> Self {
        let (outcome, reason) = match problem {
            Problem::Limited(_) | Problem::LimitsUnavailable => (Outcome::Refused, Reason::Limited),
            Problem::App(_) | Problem::Unconfirmed(_) => (Outcome::Miss, Reason::AppError),
            _ => (Outcome::Bypass, Reason::Request),
        };
        Self::own(outcome, reason)
    }

    /// Of an answer from the store.
    pub fn stored(ask: &Ask<'_>, entry: &Entry, outcome: Outcome, reason: Reason) -> Self {
        let mut told = Self::new(outcome, reason, Source::Memory);
        let ttl = entry.lifetime().ttl_secs(ask.visit.now);
        // A purge has ended the lifetime, however much of it was left.
        let purged = reason == Reason::SoftPurged;
        told.ttl = Some(if purged { ttl.min(0) } else { ttl });
        told.app_time = entry.app_time();
        told
    }

    /// Writes the fields that every answer to this request gets.
    pub fn dress(
        &self,
        ask: &Ask<'_>,
        limits: Option<&Decision>,
        took: Duration,
        fields: &mut impl Fields,
    ) {
        let visit = ask.visit;
        let style = &visit.snapshot.settings.headers;
        if style.cache_standard
            && !self.own
            && let Some(member) = self.status().member()
        {
            fields.add(CACHE_STATUS, Value::Text(member.as_bytes()));
        }
        if style.cache_legacy {
            fields.put(X_CACHE, Value::Static(self.outcome.header()));
            fields.put(X_RESPONSE_TIME, Value::Text(milliseconds(took).as_bytes()));
            if let Some(ttl) = self.ttl {
                let ttl = line::digits(ttl.max(0).unsigned_abs());
                fields.put(X_CACHE_TTL, Value::Text(ttl.as_bytes()));
            }
        }
        if visit.debug {
            fields.put(X_CACHE_REASON, Value::Static(self.reason.word()));
            fields.put(X_CACHE_ROUTE, Value::Text(ask.found.rule.name.as_bytes()));
        }
        let trace_id = visit.trace.trace_id_digits();
        let request_id = visit.own_request_id().map(HeaderValue::as_bytes);
        fields.put(
            forward::X_REQUEST_ID,
            Value::Text(request_id.unwrap_or(&trace_id)),
        );
        fields.put(X_TRACE_ID, Value::Text(&trace_id));
        if let Some(decision) = limits {
            limit::headers::apply(decision, style, visit.now, fields);
        }
        if ask.found.rule.policy.is_none() {
            self.forbid_storing(fields);
        }
    }

    /// For routes with `no_store: true`: neither the browser nor anything between keeps the answer.
    fn forbid_storing(&self, fields: &mut impl Fields) {
        // What is made here says so already.
        if !self.own {
            fields.put(CACHE_CONTROL, Value::Static("no-store"));
        }
        fields.put(X_CONTENT_TYPE_OPTIONS, Value::Static("nosniff"));
        fields.fill(X_FRAME_OPTIONS, Value::Static("DENY"));
        fields.fill(REFERRER_POLICY, Value::Static("no-referrer"));
    }

    const fn status(&self) -> CacheStatus {
        CacheStatus {
            outcome: self.outcome,
            reason: self.reason,
            ttl: self.ttl,
            stored: self.stored,
            collapsed: self.coalesced,
            fwd_status: self.fwd_status,
            forwarded: self.forwarded,
        }
    }

    /// Tells the metrics and, where it is to be written, the log.
    pub fn tell(
        &mut self,
        rooms: &Rooms,
        ask: &Ask<'_>,
        status: StatusCode,
        limits: Option<&Decision>,
        took: Duration,
    ) {
        let visit = ask.visit;
        let finished = Finished {
            method: &visit.method,
            status,
            outcome: self.outcome,
            reason: self.reason,
            duration: took,
            source: self.source,
            coalesced: self.coalesced,
        };
        rooms.recorder.request(ask.handle(), &finished);
        if let Some(arm) = ask.arm() {
            let route = &ask.found.rule.name;
            rooms.recorder.tried(route, arm == Arm::Trial, self.outcome);
        }
        if matches!(self.outcome, Outcome::Hit | Outcome::Stale) {
            rooms.recorder.saved(ask.handle(), self.app_time);
        }
        let log = &rooms.shared.log;
        let repeated = limits.is_some_and(|decision| decision.repeated);
        if !log.wants(ask.handle(), status, self.outcome, took, repeated) {
            return;
        }
        log.write(AccessRecord {
            method: visit.method.clone(),
            path: visit.uri.path().into(),
            route: ask.found.rule.name.clone(),
            http_route: ask.handle().path().clone(),
            status,
            outcome: self.outcome,
            reason: self.reason,
            duration: took,
            limit: limits
                .and_then(|decision| decision.refusals().next())
                .map(|state| state.name.to_string()),
            trace_id: visit.trace.trace_id_hex().into(),
            request_id: visit
                .own_request_id()
                .and_then(|id| id.to_str().ok())
                .map(Into::into),
            client: ask.caller.ip(),
            ttl: self.ttl,
            note: self.note.take(),
        });
    }
}

impl Ask<'_> {
    /// On which side of its route's experiment the request is. The key is made once more, which only
    /// routes with an experiment pay for.
    fn arm(&self) -> Option<Arm> {
        let experiment = self.found.rule.scrutiny.experiment.as_ref()?;
        match self.plan(Content::None) {
            Plan::Lookup(key) if self.has_places() => Some(experiment.arm(&key)),
            _ => None,
        }
    }
}

/// Whether the answer from the store is all that is stored, whatever that is. One look at all names
/// costs less than three look-ups.
fn asks_for_all(visit: &Visit) -> bool {
    let asks_for_less =
        |name: &HeaderName| matches!(*name, IF_NONE_MATCH | IF_MODIFIED_SINCE | RANGE);
    visit.method == Method::GET && !visit.headers.keys().any(asks_for_less)
}

/// What a plain `entry` answers this request with, which asks for all of it: what [`from_stored`]
/// does, without what is known not to be needed.
fn all_of(entry: &Entry, now: Timestamp) -> Response<Body> {
    let body = entry.body();
    let mut headers = entry.headers();
    headers.insert(AGE, number(entry.lifetime().age(now).as_secs()));
    headers.append(VIA, forward::via(Version::HTTP_11));
    if body.is_empty() {
        headers.insert(CONTENT_LENGTH, number(0));
    }
    let mut response = Response::new(Body::stored(body, None));
    *response.status_mut() = entry.status();
    *response.headers_mut() = headers;
    response
}

/// What of a content that lies elsewhere `entry` answers this request with.
pub(super) fn wanted_of(visit: &Visit, entry: &Entry) -> Range<u64> {
    answer(&visit.method, &visit.headers, entry.stored(), visit.now).elsewhere
}

/// What `stored` answers this request with; its content may lie in `chunks`.
fn from_stored(
    visit: &Visit,
    mut stored: Stored,
    chunks: Option<(&Cache, &Arc<Chunks>, Option<Resume>)>,
) -> Response<Body> {
    let (status, stored_trailers) = (stored.status, std::mem::take(&mut stored.trailers));
    let answer = answer(&visit.method, &visit.headers, stored, visit.now);
    let whole = answer.status == status && visit.method != Method::HEAD;
    let has_trailers = whole && !stored_trailers.is_empty() && takes_trailers(visit, status);
    // hyper tells the length of a body by itself; what has none (a HEAD's answer) has to say it, and
    // trailers come behind chunks only.
    let has_content = !answer.body.is_empty() || !answer.elsewhere.is_empty();
    let length = answer
        .content_length
        .filter(|_| !has_content && !has_trailers);
    let mut headers = answer.headers;
    if !stored_trailers.is_empty() {
        announce_trailers(&mut headers, &stored_trailers, has_trailers);
    }
    headers.append(VIA, forward::via(Version::HTTP_11));
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, number(length));
    }
    let trailers = has_trailers.then_some(stored_trailers);
    let chunked = chunks
        .filter(|_| !answer.elsewhere.is_empty())
        .and_then(|(cache, chunks, resume)| Some((cache.read(chunks, answer.elsewhere)?, resume)));
    let mut response = Response::new(match chunked {
        Some((reader, resume)) => Body::chunks(reader, trailers, resume),
        None => Body::stored(answer.body, trailers),
    });
    *response.status_mut() = answer.status;
    *response.headers_mut() = headers;
    response
}

/// Whether trailers would reach the client (RFC 9110 §6.5.1), and are about what it gets: those that
/// came with a part may be about that part alone.
fn takes_trailers(visit: &Visit, status: StatusCode) -> bool {
    let reach = match visit.version {
        Version::HTTP_2 => true,
        Version::HTTP_11 => fields::has_token(&visit.headers, &TE, "trailers"),
        _ => false,
    };
    reach && status != StatusCode::PARTIAL_CONTENT
}

/// `Trailer` names what comes and nothing else; what it does not name, hyper does not send.
fn announce_trailers(headers: &mut HeaderMap, trailers: &HeaderMap, sent: bool) {
    headers.remove(TRAILER);
    if sent {
        for name in trailers.keys() {
            headers.append(TRAILER, HeaderValue::from(name.clone()));
        }
    }
}

/// `0.2ms`
fn milliseconds(duration: Duration) -> Line<24> {
    let tenths = u64::try_from((duration.as_micros() + 50) / 100).unwrap_or(u64::MAX);
    let mut line = Line::new();
    line.push_number(tenths / 10);
    line.push(".");
    line.push_number(tenths % 10);
    line.push("ms");
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing;

    #[test]
    fn the_short_way_to_all_of_an_entry_says_what_the_long_one_says() {
        let now = Timestamp::from_millis(7_000);
        for content in [&b""[..], b"body"] {
            let mut stored = testing::stored(content);
            for (name, value) in [
                ("etag", "\"a\""),
                ("via", "1.1 b"),
                ("link", "<c>"),
                ("link", "<d>"),
            ] {
                stored.headers.append(name, HeaderValue::from_static(value));
            }
            let entry = Entry::new(&stored, &testing::label("host/a"));
            let long = answer(&Method::GET, &HeaderMap::new(), entry.stored(), now);
            let short = all_of(&entry, now);
            let mut fields = long.headers;
            fields.append(VIA, forward::via(Version::HTTP_11));
            if content.is_empty() {
                fields.insert(CONTENT_LENGTH, number(0));
            }
            assert_eq!((short.status(), short.headers()), (long.status, &fields));
            assert_eq!(short.body().size_hint().exact(), long.content_length);
        }
    }
}
