//! The life of a request: route → limit → lookup → (hit | stale | validate | miss → fetch → store) → respond.
//!
//! Decisions are made in lower rooms; this one asks them in order and carries out what they say.

mod ahead;
mod audit;
mod body;
mod coalesce;
mod content;
pub mod explain;
mod fetch;
mod fleet;
mod forward;
mod post;
mod purge;
mod purge_request;
mod ready;
mod reply;
mod respond;
mod resume;
mod search;
mod shadow;
mod sight;
mod tap;
mod tunnel;
mod visit;
pub mod warm;
mod wire;

pub use crate::upstream::{Interim, Interims};
pub use ahead::Ahead;
pub use audit::{LEAK, Turned, UnderWay, Watched};
pub use body::{Body, BodyError, Meter};
pub use coalesce::Coalescer;
pub use ready::{Begun, Outgoing, Rest, Waits};
pub use reply::name_in_table;
pub use respond::Problem;
pub use search::Searches;
pub use tunnel::Tunnels;
pub use visit::{Arrival, Peer};
pub use wire::Framing;

use crate::cache::{Cache, Chunks, Entry, Lookup, Tier};
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::settings::MaxInFlight;
use crate::evidence::Evidence;
use crate::identity::{Caller, Identity};
use crate::limit::{self, Decision, Limiter};
use crate::purging::Purging;
use crate::redis_client;
use crate::route::{Asked, Content, Match, Per, Plan, RouteId, Rule, Target};
use crate::semantics::invalidation::is_safe;
use crate::semantics::reuse::is_failure;
use crate::semantics::search::NO_VARY_SEARCH;
use crate::semantics::stored::Lifetime;
use crate::semantics::{self, Key, Outcome, Policy, Reason, Reuse, Variation};
use crate::semantics::{groups, tags};
use crate::telemetry::hot::{Hot, Stampedes, What};
use crate::telemetry::metrics::{ActiveGuard, Source};
use crate::telemetry::{AccessLog, Pulse, Recorder, RouteHandle, Span, Traces};
use crate::upstream::{
    Gate, RequestBody, RequestFields, RequestHead, ResponseBody, Upstream, UpstreamError,
};
use arc_swap::ArcSwap;
use content::Reading;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use reply::Reply;
use resume::Resume;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Instant;
use tokio::sync::oneshot;
use visit::Visit;

/// One configuration with what is made from it once: a request sees exactly one of these.
#[derive(Debug)]
pub struct Snapshot {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Who callers are, by it. Keeps its keys over reloads that do not touch `identity:`.
    pub identity: Arc<Identity>,
    /// The routes' places in the table of metrics, by route id.
    pub handles: Vec<RouteHandle>,
    /// The routes that are audited, and which of them are shut for what was found.
    pub watched: Watched,
    /// The bounds that routes have of their own, by route id.
    gates: Vec<Option<Gate>>,
}

impl Snapshot {
    /// What is made of `settings` once. A route that keeps its name and its bound keeps its turns, too,
    /// from the snapshot `before`.
    #[must_use]
    pub fn new(
        settings: Arc<Settings>,
        identity: Arc<Identity>,
        handles: Vec<RouteHandle>,
        before: Option<&Self>,
    ) -> Self {
        let gate = |rule: &Rule| {
            let bound = rule.max_in_flight?;
            let kept = before.and_then(|before| {
                let mut rules = before.settings.routes.all().iter();
                let same = |old: &&Rule| old.name == rule.name && old.max_in_flight == Some(bound);
                before.gates[rules.find(same)?.id].clone()
            });
            Some(kept.unwrap_or_else(|| Gate::new(MaxInFlight::Fixed(bound))))
        };
        Self {
            watched: Watched::of(&settings, before.map(|before| &before.watched)),
            gates: settings.routes.all().iter().map(gate).collect(),
            settings,
            identity,
            handles,
        }
    }
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// Fetches under way.
    pub coalescer: Arc<Coalescer>,
    /// What apps have stated of their queries.
    pub searches: Searches,
    /// Connections handed over.
    pub tunnels: Tunnels,
    /// Where purges come in.
    pub purging: Purging,
    /// Which keys are asked for most.
    pub hot: Hot,
    /// Keys that many wait for at once.
    pub stampedes: Stampedes,
    /// What is renewed while it is still fresh.
    pub ahead: Ahead,
    /// What traffic has shown.
    pub evidence: Evidence,
    /// Audits under way.
    pub audits: UnderWay,
    /// What time it is.
    pub clock: Clock,
    /// Where finished requests are told.
    pub log: AccessLog,
    /// Where spans go.
    pub traces: Traces,
    /// How the app does.
    pub pulse: Pulse,
    /// What requests would like to be warmed.
    pub wishes: warm::Wishes,
}

impl Shared {
    /// Nothing under way, nothing remembered, and nothing told to anybody.
    #[must_use]
    pub fn new(snapshot: Snapshot, clock: Clock) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            coalescer: Arc::default(),
            searches: Searches::default(),
            tunnels: Tunnels::default(),
            purging: Purging::default(),
            hot: Hot::default(),
            stampedes: Stampedes::default(),
            ahead: Ahead::default(),
            evidence: Evidence::default(),
            audits: UnderWay::default(),
            clock,
            log: AccessLog::default(),
            traces: Traces::default(),
            pulse: Pulse::default(),
            wishes: warm::Wishes::default(),
        }
    }
}

/// One worker's proxy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Rooms>);

/// The rooms below, as one worker uses them.
#[derive(Debug)]
pub struct Rooms {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// The store.
    pub cache: Cache,
    /// The limits.
    pub limiter: Limiter,
    /// The app.
    pub upstream: Upstream,
    /// This worker's counters.
    pub recorder: Recorder,
}

/// A request with everything that was found out about it.
struct Ask<'a> {
    visit: &'a Visit,
    target: &'a Target<'a>,
    found: &'a Match<'a>,
    caller: &'a Caller<'a>,
    span: &'a Span,
    /// What the last answer of its path has stated of queries.
    search: Option<Arc<Variation>>,
}

impl Proxy {
    /// A proxy over these rooms.
    #[must_use]
    pub fn new(rooms: Rooms) -> Self {
        Self(Arc::new(rooms))
    }

    /// Receives one request: what it is served under is settled here.
    #[must_use]
    pub fn receive(&self, request: Request<Incoming>, peer: Peer) -> Arrival {
        let (mut parts, body) = request.into_parts();
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        Arrival {
            visit: self.visit(parts, peer),
            body: Some(body).filter(|body| !body.is_end_stream()),
            upgrade,
            plan: None,
        }
    }

    /// What is known of a request when it comes in.
    fn visit(&self, parts: Parts, peer: Peer) -> Visit {
        let shared = &self.0.shared;
        let trace = shared.traces.context(&parts.headers);
        let snapshot = shared.snapshot.load_full();
        Visit::new(snapshot, trace, parts, peer, shared.clock.now())
    }

    /// Answers one request. Never fails: what goes wrong becomes an answer. If it is the app that is
    /// asked for it, what the app says beforehand goes to `interim`.
    pub async fn handle(&self, arrival: Arrival, interim: Option<Interim>) -> Response<Body> {
        self.serve(arrival, interim, |reply, ask, limits, active| {
            let response = reply.finish(&self.0, ask, limits, active);
            (response.status(), response)
        })
        .await
    }

    /// The life of one request; `send` turns the answer into what its connection takes.
    async fn serve<T>(
        &self,
        arrival: Arrival,
        interim: Option<Interim>,
        send: impl FnOnce(Reply, &Ask<'_>, Option<&Decision>, ActiveGuard) -> (StatusCode, T),
    ) -> T {
        let active = self.0.recorder.active();
        let Arrival {
            mut visit,
            body,
            upgrade,
            plan,
        } = arrival;
        visit.interim = interim;
        let shared = &self.0.shared;
        let now = visit.now;
        let mut span = shared
            .traces
            .request(&visit.trace, &visit.method, visit.uri.path());
        let target = Target::parse(visit.uri.path(), visit.uri.query());
        let found = visit.snapshot.settings.routes.find(&visit.method, &target);
        let caller = visit
            .snapshot
            .identity
            .caller(visit.peer.address, &visit.headers, now);
        let ask = Ask {
            visit: &visit,
            target: &target,
            found: &found,
            caller: &caller,
            span: &span,
            search: shared.searches.find(|| visit.authority(), target.path),
        };
        let mut limits = None;
        let served = {
            // Pinned where it is made: it is too large to be moved from hand to hand.
            let answering = pin!(self.answer(&ask, body, upgrade, plan, &mut limits));
            redis_client::as_one(answering).await
        };
        let reply = match served {
            Ok(reply) => reply,
            Err(problem) => Reply::problem(&problem, &visit),
        };
        let (status, sent) = send(reply, &ask, limits.as_deref(), active);
        span.route(&visit.method, visit.snapshot.handles[found.rule.id].path());
        span.status(status);
        sent
    }

    /// Refuses a request that never became a visit: its head breaks a rule.
    pub fn refuse(&self, problem: &Problem) -> Response<Body> {
        let shared = &self.0.shared;
        let shape = shared.snapshot.load().settings.errors;
        self.client_error(problem.code());
        problem.answer(shape, shared.clock.now(), "")
    }

    /// Counts what was refused at the door, or only put up with, by a word of a fixed list.
    pub fn client_error(&self, reason: &'static str) {
        self.0.recorder.client_error(reason);
    }

    /// Connections handed over so far and still open.
    #[must_use]
    pub fn tunnels(&self) -> &Tunnels {
        &self.0.shared.tunnels
    }

    async fn answer(
        &self,
        ask: &Ask<'_>,
        body: Option<Incoming>,
        upgrade: Option<OnUpgrade>,
        plan: Option<Plan>,
        limits: &mut Option<Arc<Decision>>,
    ) -> Result<Reply, Problem> {
        if forward::is_loop(&ask.visit.headers) {
            return Err(Problem::Loop);
        }
        let hosts = &ask.visit.snapshot.settings.hosts;
        if hosts.any() && !hosts.serve(&ask.visit.authority()) {
            return Err(Problem::Misdirected);
        }
        if ask.asks_to_purge() {
            return Box::pin(self.purge_asked(ask, body, limits)).await;
        }
        self.admit(ask, limits).await?;
        if forward::is_last_hop(&ask.visit.method, &ask.visit.headers) {
            return Ok(Reply::own(respond::options()));
        }
        let content = match body {
            None => Content::None,
            Some(_) => Content::Unread,
        };
        let plan = plan.unwrap_or_else(|| ask.plan(content));
        let (plan, body, changes) = match (plan, body) {
            (Plan::Read, Some(body)) => Box::pin(ask.read(body)).await?,
            (plan, body) => {
                let changes = matches!(plan, Plan::Pass(_)) && ask.is_unsafe(content);
                (plan, RequestBody::streaming(body), changes)
            }
        };
        match plan {
            // Boxed, here and below: the future of what asks the app is large, and every connection would
            // keep room for it while it idles.
            Plan::Tunnel => Box::pin(self.tunnel(ask, upgrade)).await,
            Plan::Pass(reason) => Box::pin(self.pass(ask, body, reason, changes)).await,
            // What was read is not read again.
            Plan::Read => Box::pin(self.pass(ask, body, Reason::Body, changes)).await,
            Plan::Lookup(key) => self.look_up(ask, key).await,
        }
    }

    /// Asks the limits that this request falls under; a refusal is a [`Problem`].
    async fn admit(
        &self,
        ask: &Ask<'_>,
        limits: &mut Option<Arc<Decision>>,
    ) -> Result<(), Problem> {
        let settings = &ask.visit.snapshot.settings.limits;
        let (method, route_limits) = (&ask.visit.method, &ask.found.rule.limits);
        let checks = limit::checks::checks(settings, route_limits, method, ask.target, ask.caller);
        if checks.is_empty() {
            return Ok(());
        }
        let _span = ask.span.child("limit");
        let (down, now) = (settings.redis_down, ask.visit.now);
        let decision = self.0.limiter.admit(&checks, down, now).await;
        self.carry_out(decision, ask, limits)
    }

    /// Counts a decision, and carries it out.
    fn carry_out(
        &self,
        decision: Decision,
        ask: &Ask<'_>,
        limits: &mut Option<Arc<Decision>>,
    ) -> Result<(), Problem> {
        let mode = ask.visit.snapshot.settings.limits.mode;
        for state in &decision.states {
            self.0.recorder.limit(&state.name, state.word(mode));
        }
        let decision = limits.insert(Arc::new(decision.in_mode(mode)));
        match (decision.admitted, decision.unavailable) {
            (true, _) => Ok(()),
            (false, true) => Err(Problem::LimitsUnavailable),
            (false, false) => Err(Problem::Limited(Arc::clone(decision))),
        }
    }

    /// Answers from the store where it may, from the app where it must.
    async fn look_up(&self, ask: &Ask<'_>, key: Key) -> Result<Reply, Problem> {
        let visit = ask.visit;
        let span = ask.span.child("lookup");
        let mut held = self.0.cache.lookup(&key, &visit.headers, visit.now).await;
        let mut reuse = ask.reuse(&held);
        if let Lookup::Found { entry, .. } = &held
            && let Some(chunks) = entry.chunks()
            && !matches!(reuse, Reuse::Fetch(_) | Reuse::Forbidden)
            && !Box::pin(self.begins(visit, entry, chunks)).await
        {
            held = Lookup::Absent(Reason::Evicted);
            reuse = ask.reuse(&held);
        }
        drop(span);
        if reuse != Reuse::Fresh {
            // A fresh hit is counted where it is renewed.
            self.count(ask, &key, false, || ask.url().into());
        }
        let (entry, tier) = match held {
            Lookup::Found { entry, tier, .. } => (entry, tier),
            Lookup::Absent(reason) => {
                return match reuse {
                    Reuse::Forbidden => Err(Problem::OnlyIfCached),
                    _ if visit.method == Method::HEAD => {
                        Box::pin(self.head(ask, None, reason)).await
                    }
                    _ => Box::pin(self.fetch(ask, key, None, reason)).await,
                };
            }
        };
        let stored = |outcome, reason| {
            let reply = Reply::stored(ask, &entry, outcome, reason).from(tier);
            match entry.chunks() {
                Some(_) => reply.resumed_by(Resume::of(self, ask, entry.stored())),
                None => reply,
            }
        };
        match reuse {
            Reuse::Fresh => {
                self.renew(ask, key, &entry);
                Ok(stored(Outcome::Hit, tier.reason()))
            }
            Reuse::StaleWhileRevalidate(reason) => {
                self.audit(ask, &key, &entry);
                self.refresh(ask, key, &entry, None);
                Ok(stored(Outcome::Stale, reason))
            }
            Reuse::Stale(reason) => Ok(stored(Outcome::Stale, reason)),
            Reuse::Validate(reason) if visit.method == Method::HEAD => {
                Box::pin(self.head(ask, Some((key, entry)), reason)).await
            }
            Reuse::Fetch(reason) if visit.method == Method::HEAD => {
                Box::pin(self.head(ask, None, reason)).await
            }
            Reuse::Validate(reason) => Box::pin(self.fetch(ask, key, Some(entry), reason)).await,
            // What is missing of it may be all that has to be asked for.
            Reuse::Fetch(Reason::Range) => {
                Box::pin(self.fetch(ask, key, Some(entry), Reason::Range)).await
            }
            Reuse::Fetch(reason) => Box::pin(self.fetch(ask, key, None, reason)).await,
            Reuse::Forbidden => Err(Problem::OnlyIfCached),
        }
    }

    /// Whether an answer from a chunked entry can begin: once its head has left, it is too late to find that
    /// the content is not there.
    async fn begins(&self, visit: &Visit, entry: &Entry, chunks: &Arc<Chunks>) -> bool {
        let wanted = reply::wanted_of(visit, entry);
        wanted.is_empty() || self.0.cache.open(chunks, &wanted).await
    }

    /// What a hit does behind: lengthens a sliding lifetime, or refreshes what is about to expire.
    fn renew(&self, ask: &Ask<'_>, key: Key, entry: &Arc<Entry>) {
        let now = ask.visit.now;
        self.count(ask, &key, true, || entry.url().into());
        self.audit(ask, &key, entry);
        let lifetime = entry.lifetime();
        self.renew_ahead(ask, key, entry, &lifetime);
        if let Some(slid) = ask.slid(entry, &lifetime) {
            let slid = Arc::new(entry.lasting(&slid));
            self.0.cache.renew(&key, entry, slid, now);
        }
    }

    /// Counts a use of `key`, which stands for `url`; `is_hit`: it was there, and fresh.
    fn count(&self, ask: &Ask<'_>, key: &Key, is_hit: bool, url: impl FnOnce() -> Box<str>) {
        let hot = &self.0.shared.hot;
        hot.used(key, ask.visit.now, || ask.what(url()));
        if ask.visit.snapshot.settings.predict.is_some() {
            self.observe(ask, is_hit);
        }
    }

    /// Sends a request through to the app and its answer back, untouched by the store; one that
    /// `changes` something purges behind itself.
    async fn pass(
        &self,
        ask: &Ask<'_>,
        body: RequestBody,
        reason: Reason,
        changes: bool,
    ) -> Result<Reply, Problem> {
        if changes {
            return self.outliving(ask, body, reason).await;
        }
        if reason == Reason::Shadow {
            return Box::pin(self.shadow(ask, body)).await;
        }
        let mut response = self.ask_app(ask, body).await?;
        tags::remove(response.headers_mut());
        groups::remove(response.headers_mut());
        let tap = self.sight(ask, &response);
        Ok(Reply::app(ask, response, Outcome::Bypass, reason).tapped(tap))
    }

    /// The same of a request that changes something, which outlives its client: whether he waits for the
    /// answer or not, it purges what it would have.
    async fn outliving(
        &self,
        ask: &Ask<'_>,
        body: RequestBody,
        reason: Reason,
    ) -> Result<Reply, Problem> {
        let (proxy, visit) = (self.clone(), ask.visit.copy());
        let span = ask.span.child("pass");
        let (tell, told) = oneshot::channel();
        fetch::spawn(async move {
            let snapshot = &visit.snapshot;
            let target = Target::parse(visit.uri.path(), visit.uri.query());
            let identity = &snapshot.identity;
            let ask = Ask {
                visit: &visit,
                target: &target,
                found: &snapshot.settings.routes.find(&visit.method, &target),
                caller: &identity.caller(visit.peer.address, &visit.headers, visit.now),
                span: &span,
                search: (proxy.0.shared.searches).find(|| visit.authority(), target.path),
            };
            let changing = pin!(proxy.change(&ask, body, reason));
            // He may have gone.
            let _ = tell.send(redis_client::as_one(changing).await);
        });
        told.await.unwrap_or(Err(Problem::Internal))
    }

    async fn change(
        &self,
        ask: &Ask<'_>,
        mut body: RequestBody,
        reason: Reason,
    ) -> Result<Reply, Problem> {
        let wanted = purge::wanted(ask.found.rule, &ask.visit.method, &mut body);
        let asked = post::Asked::begin(self);
        let mut response = self.ask_app(ask, body).await?;
        let tags = tags::take(response.headers_mut());
        let tap = self.sight(ask, &response);
        if reason == Reason::Method
            && let Some(get) = asked.get(ask, &response)
        {
            return Box::pin(self.keep(ask, &get, asked, response, (wanted, tags))).await;
        }
        let mut reply = Reply::app(ask, response, Outcome::Bypass, reason).tapped(tap);
        Box::pin(self.purge_after(ask, wanted, tags, &mut reply)).await;
        Ok(reply)
    }

    /// A HEAD that the store does not answer. What it says of the stored GET is heeded (RFC 9111 §4.3.5).
    async fn head(
        &self,
        ask: &Ask<'_>,
        stale: Option<(Key, Arc<Entry>)>,
        reason: Reason,
    ) -> Result<Reply, Problem> {
        let requested = self.0.shared.clock.now();
        let mut response = match self.ask_app(ask, RequestBody::empty()).await {
            Ok(response) => response,
            Err(problem) => return self.stand_in(ask, stale.map(|(_, entry)| entry), problem),
        };
        tags::remove(response.headers_mut());
        groups::remove(response.headers_mut());
        if let Some((_, entry)) = &stale
            && is_failure(response.status())
            && self.may_stand_in(ask, entry)
        {
            return Ok(Reply::stand_in(ask, entry, Some(response.status())));
        }
        // That an answer to HEAD states nothing says nothing: it may leave out what GET would say.
        if response.status().is_success()
            && response.headers().contains_key(NO_VARY_SEARCH)
            && let Some(places) = ask.places(&self.0.shared)
        {
            places.learn(&self.0.shared, response.headers());
        }
        if let Some((key, entry)) = stale {
            self.heed_head(ask, key, &entry, &response, requested).await;
        }
        Ok(Reply::app(ask, response, Outcome::Miss, reason))
    }

    async fn tunnel(&self, ask: &Ask<'_>, upgrade: Option<OnUpgrade>) -> Result<Reply, Problem> {
        let place = self.0.shared.tunnels.enter()?;
        let mut fields = forward::Sent {
            ask,
            storable: false,
        }
        .map();
        tunnel::ask(&mut fields, &ask.visit.headers);
        let target = forward::target(&ask.visit.uri, None);
        let head = RequestHead {
            upgrade: true,
            ..ask.head(&fields, &target)
        };
        let asked = {
            let _span = ask.span.child("fetch");
            let route = (&*ask.visit.snapshot, ask.found.rule.id);
            self.timed(route, &head, RequestBody::empty()).await
        };
        let mut response = asked.map_err(Problem::App)?;
        let agreed = tunnel::agreed(&ask.visit.headers, &response).map_err(Problem::App)?;
        match upgrade {
            Some(client) if agreed => {
                tunnel::connect(client, hyper::upgrade::on(&mut response), place);
                Ok(Reply::switching(response))
            }
            _ => Ok(Reply::app(ask, response, Outcome::Bypass, Reason::Upgrade)),
        }
    }

    /// The client's own request, as it goes through; timed and traced.
    async fn ask_app(
        &self,
        ask: &Ask<'_>,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Problem> {
        let _span = ask.span.child("fetch");
        let fields = forward::Sent {
            ask,
            storable: false,
        };
        let target = forward::target(&ask.visit.uri, None);
        let head = ask.head(&fields, &target);
        let route = (&*ask.visit.snapshot, ask.found.rule.id);
        let asked = self.timed(route, &head, body);
        asked.await.map_err(Problem::App)
    }

    /// Asks the app for what falls under this route of the snapshot.
    async fn timed<F: RequestFields>(
        &self,
        (snapshot, route): (&Snapshot, RouteId),
        head: &RequestHead<'_, F>,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        use crate::telemetry::metrics::UpstreamResult;
        let began = Instant::now();
        let gate = snapshot.gates[route].as_ref();
        let outcome = self.0.upstream.send(head, body, gate).await;
        let result = match &outcome {
            Ok(response) => UpstreamResult::Status(response.status()),
            Err(error) => UpstreamResult::Error(error.word()),
        };
        let handle = &snapshot.handles[route];
        let took = began.elapsed();
        let failed = match &outcome {
            Ok(response) => is_failure(response.status()),
            Err(error) => error.is_app_failure(),
        };
        self.0.shared.pulse.answered(handle, took, failed);
        self.0.recorder.upstream(handle, result, took);
        outcome
    }
}

impl<'a> Ask<'a> {
    /// The URL that the answer is known by: `host/path?query`.
    fn url(&self) -> String {
        format!(
            "{}{}",
            self.visit.authority(),
            self.found.rule.url(self.target)
        )
    }

    /// What its key stands for.
    fn what(&self, url: Box<str>) -> What {
        let rule = self.found.rule;
        What {
            url,
            tls: self.scheme() == "https",
            route: rule.name.clone(),
            is_personal: !rule.key.per.is_empty(),
        }
    }

    fn handle(&self) -> &'a RouteHandle {
        &self.visit.snapshot.handles[self.found.rule.id]
    }

    /// What the route asks of storing; of a route that stores nothing, what a plain cache would do.
    fn policy(&self) -> &'a Policy {
        static PLAIN: LazyLock<Policy> = LazyLock::new(Policy::default);
        self.found.rule.policy.as_ref().unwrap_or(&PLAIN)
    }

    /// Reads the content that the key is made of, plans, and says whether the request changes anything.
    async fn read(&self, body: Incoming) -> Result<(Plan, RequestBody, bool), Problem> {
        let patience = self.visit.snapshot.settings.upstream.timeout;
        let reading = Reading::of(body, patience).await?;
        let plan = self.plan(reading.content());
        let changes = match plan {
            Plan::Lookup(_) => {
                // A visit reads its content once.
                let _ = self.visit.content.set(reading.bytes());
                false
            }
            _ => self.is_unsafe(reading.content()),
        };
        Ok((plan, reading.into_body(), changes))
    }

    fn is_unsafe(&self, content: Content<'_>) -> bool {
        if is_safe(&self.visit.method) {
            return false;
        }
        let authority = self.visit.authority();
        self.found
            .rule
            .is_unsafe(&self.asked(&authority, self.target, content))
    }

    fn asked<'b>(
        &'b self,
        authority: &'b str,
        target: &'b Target<'b>,
        content: Content<'b>,
    ) -> Asked<'b> {
        Asked {
            method: &self.visit.method,
            scheme: self.scheme(),
            authority,
            target,
            headers: &self.visit.headers,
            content,
        }
    }

    /// What is to be done with the request, if it were for `target`: the key is that of the exact URL.
    fn exact_plan(&self, target: &Target<'_>, content: Content<'_>) -> Plan {
        let identity: Vec<Option<Vec<u8>>> = self
            .found
            .rule
            .key
            .per
            .iter()
            .map(|per| self.part(*per))
            .collect();
        let authority = self.visit.authority();
        let asked = self.asked(&authority, target, content);
        self.found.rule.plan(&asked, &identity)
    }

    /// What is to be done, given what the store holds. Explanations ask it too.
    fn reuse(&self, held: &Lookup) -> Reuse {
        let visit = self.visit;
        let (stored, softly_purged) = match held {
            Lookup::Absent(_) => (None, false),
            // A HEAD is about the whole, and so is not answered by a part.
            Lookup::Found { entry, .. }
                if visit.method == Method::HEAD && entry.part().is_some() =>
            {
                return Reuse::Fetch(Reason::Range);
            }
            Lookup::Found {
                entry,
                softly_purged,
                ..
            } => (Some(entry.terms(&visit.headers)), *softly_purged),
        };
        let reuse = semantics::reuse(
            &visit.headers,
            stored,
            softly_purged,
            self.policy(),
            visit.client_refresh(),
            visit.now,
        );
        match (reuse, held) {
            // The store knows why it has nothing.
            (Reuse::Fetch(_), Lookup::Absent(reason)) => Reuse::Fetch(*reason),
            (reuse, _) => reuse,
        }
    }

    /// The lifetime that this use gives to `entry`, where the route says that uses renew it, it has not
    /// just been renewed, and it has not come to its end.
    fn slid(&self, entry: &Entry, lifetime: &Lifetime) -> Option<Lifetime> {
        let rule = self.found.rule;
        let cap = rule.slide_up_to?;
        let policy = rule.policy.as_ref()?;
        let now = self.visit.now;
        // Most uses are too soon after the last: nothing more is looked at then.
        lifetime.slide(policy.ttl.as_ref()?.default, cap, now)?;
        let (status, received) = (entry.status(), lifetime.received);
        let ttl = semantics::renewal(status, &entry.headers(), received, policy)?;
        // Nobody stays logged in by asking again and again.
        match self.caller.expires() {
            Some(end) => lifetime
                .slide(ttl, cap.min(lifetime.age(end)), now)
                .map(|slid| slid.ended_by(end)),
            None => lifetime.slide(ttl, cap, now),
        }
    }

    /// The caller's part of a key that is one each.
    fn part(&self, per: Per) -> Option<Vec<u8>> {
        match per {
            Per::Ip => {
                let network = self.caller.network();
                Some(self.caller.pseudonym(network.as_bytes()).into_owned())
            }
            Per::User => {
                let user = self.caller.user()?;
                Some(self.caller.pseudonym(user.id.as_bytes()).into_owned())
            }
            Per::Token => self.caller.token().map(|digest| digest.to_vec()),
        }
    }

    /// The head of a request with the client's method, for the app.
    fn head<'b, F>(&'b self, fields: &'b F, target: &'b http::Uri) -> RequestHead<'b, F> {
        RequestHead {
            method: &self.visit.method,
            target,
            fields,
            interim: self.visit.interim.as_ref(),
            upgrade: false,
        }
    }
}

impl Tier {
    /// Its word as the reason of a hit.
    const fn reason(self) -> Reason {
        match self {
            Self::Memory => Reason::Memory,
            Self::Redis => Reason::Redis,
        }
    }

    const fn source(self) -> Source {
        match self {
            Self::Memory => Source::Memory,
            Self::Redis => Source::Redis,
        }
    }
}
