//! Asking the app for what may be stored: one fetch for all who wait, kept when it has come whole.

use super::ahead::Turn;
use super::body::Body;
use super::coalesce::{Fill, Follower, Join, Lead, Outcome as Filled, Reader};
use super::fleet::{self, Duty, is_lasting};
use super::reply::Reply;
use super::respond::Problem;
use super::resume::Resume;
use super::search::Places;
use super::warm::Origin;
use super::{Ask, Proxy, Snapshot, forward, purge};
use crate::cache::{Cache, Entry, Filling, Label, Lease, Lookup, Tier, lease};
use crate::route::RouteId;
use crate::semantics::directives::RequestDirectives;
use crate::semantics::fields;
use crate::semantics::reuse::{ClientRefresh, Terms, is_failure};
use crate::semantics::search::NO_VARY_SEARCH;
use crate::semantics::stored::Lifetime;
use crate::semantics::validation::HeadVerdict;
use crate::semantics::{
    self, Exchange, Key, Outcome, Policy, Reason, Reuse, Stored, Timestamp, validation,
};
use crate::semantics::{groups, tags};
use crate::telemetry::Recorder;
use crate::upstream::{Interim, RequestBody, RequestHead, ResponseBody, UpstreamError};
use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, RANGE};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, response};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What a fetch may hold for its readers once it has outgrown the store, in bytes.
const WINDOW_BYTES: usize = 256 * 1024;

/// A body that every client has left in the middle is fetched to its end where so much of it has come, in
/// bytes and of what it is in whole.
const FINISHED_BYTES: u64 = 1024 * 1024;
const FINISHED_PERCENT: u64 = 50;

/// How far apart those are who have waited for an answer that is not theirs, on the average, and within which time all of
/// them ask the app.
const RELEASED_EACH: Duration = Duration::from_millis(1);
const RELEASED_MAX: Duration = Duration::from_secs(1);

/// For whom a fetch is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// For all who wait, and the store: whole, and of conditions only those of the one who leads.
    Together,
    /// For one client.
    Apart,
    /// For the store alone: nobody's credentials go along, but where the answer is selected by them.
    Behind,
}

/// What the one who leads a fetch learns when the head is there.
#[derive(Debug)]
pub(super) enum Led {
    /// It is being stored and streams.
    Streaming {
        head: response::Parts,
        stored: Arc<Stored>,
        reader: Reader,
        fill: Arc<Fill>,
        /// The app has judged the client's own conditions.
        judged: bool,
    },
    /// It is not for the store; it streams to the one who asked.
    Apart {
        response: Response<ResponseBody>,
        reason: Reason,
    },
    /// The app confirmed what is stored.
    Confirmed {
        entry: Arc<Entry>,
        /// It is in the store again.
        kept: bool,
    },
    /// Another sidecar has fetched it meanwhile.
    Found(Arc<Entry>),
    /// No usable answer.
    Failed(UpstreamError),
}

impl Proxy {
    /// Fetches `key`, or takes part in a fetch of it. `stale` is what could be validated or, where it
    /// is only a part, completed; `why` is why the store did not answer.
    pub(super) async fn fetch(
        &self,
        ask: &Ask<'_>,
        mut key: Key,
        mut stale: Option<Arc<Entry>>,
        why: Reason,
    ) -> Result<Reply, Problem> {
        let (cache, shared, visit) = (&self.0.cache, &self.0.shared, ask.visit);
        if let Some(stale) = &stale
            && self.0.upstream.is_down()
            && self.may_stand_in(ask, stale)
        {
            // An app that is known to be down is not waited for; one request each key still tries it.
            self.refresh(ask, key, stale, None);
            return Ok(Reply::stand_in(ask, stale, None));
        }
        let position = cache.position();
        let join = |place| match ask.is_personal() {
            true => Join::Apart,
            false => match shared.coalescer.join(place, position, ask.visit.now) {
                // A fetch that began before is not what was asked for.
                Join::Follow(_) if ask.wants_news() => Join::Apart,
                joined => joined,
            },
        };
        let mut place = self.place(ask, key);
        let mut joined = join(place);
        // Whoever has waited looks again before it asks.
        let mut has_waited = false;
        while let Join::Follow(follower) = &joined {
            if !has_waited {
                self.tell_stampede(ask, &key, follower.waiting());
            }
            let outcome = self.outcome_of(ask, follower).await;
            has_waited = true;
            match outcome {
                Some(Filled::Released(reason)) => {
                    if let Some(likely) = ask.likely(shared).filter(|likely| *likely != key) {
                        // The leader has learnt that what is one for it is not one for us, or no longer
                        // under this key.
                        (key, stale) = (likely, None);
                        joined = join(self.place(ask, key));
                    } else if matches!(reason, Reason::NotModified | Reason::CollapsedFailed) {
                        // The leader was told that what it has is current, or has brought nothing. That is no
                        // answer for anybody else, but the next fetch is for all.
                        joined = join(place);
                    }
                    break;
                }
                Some(filled) => {
                    // What varies otherwise for us is fetched once for all who are like us.
                    if let Some(vary) = filled.vary().filter(|vary| !vary.matches(&visit.headers)) {
                        let other = Cache::place_by(&key, &vary, &visit.headers);
                        if other != place.1 {
                            place.1 = other;
                            joined = join(place);
                        }
                    }
                    break;
                }
                // So long waits whoever asks the app, and not longer.
                None if visit.began.elapsed() > visit.snapshot.settings.upstream.timeout => {
                    return self.stand_in(ask, stale, Problem::App(UpstreamError::Timeout));
                }
                // Were all who wait to ask now, the app would be asked by all at once: one asks in their place,
                // if nobody does yet.
                None => joined = shared.coalescer.succeed(place, follower.fill(), position),
            }
        }
        let alone = || shared.coalescer.alone(key, position);
        match joined {
            Join::Lead(lead) => match self.just_stored(ask, &key, &lead, has_waited).await {
                Some(reply) => Ok(reply),
                None => self.lead(ask, lead, stale, why, Manner::Together).await,
            },
            Join::Crowded => self.stand_in(ask, stale, Problem::TooManyWait),
            // A part of something that is not stored anyway is asked for as a part.
            Join::Apart if ask.visit.headers.contains_key(RANGE) => self.part(ask, why).await,
            Join::Apart => self.lead(ask, alone(), stale, why, Manner::Apart).await,
            Join::Follow(follower) => {
                let waiting = follower.waiting();
                match self.follow(ask, follower, stale.as_ref(), why).await {
                    Some(outcome) => return outcome,
                    None => {
                        tokio::time::sleep(released_within(waiting).mul_f64(fastrand::f64())).await
                    }
                }
                if ask.visit.headers.contains_key(RANGE) {
                    return self.part(ask, why).await;
                }
                self.lead(ask, alone(), stale, Reason::CollapsedFailed, Manner::Apart)
                    .await
            }
        }
    }

    /// Tells where so many wait for one key that it is a stampede.
    fn tell_stampede(&self, ask: &Ask<'_>, key: &Key, waiting: usize) {
        let rule = ask.found.rule;
        let what = || ask.what(ask.url().into());
        let stampedes = &self.0.shared.stampedes;
        if stampedes.joined(key, waiting, ask.visit.now, what) {
            self.0.recorder.stampede(ask.handle());
            tracing::warn!(route = &*rule.name, %key, waiting, "a stampede: many wait for one key");
        }
    }

    /// What another request's fetch has brought since ours looked into the store: that fetch was over
    /// when ours would have joined it, and what it brought was stored before it was over.
    /// That is long ago where it `has_waited`: then Redis is asked, too.
    async fn just_stored(
        &self,
        ask: &Ask<'_>,
        key: &Key,
        lead: &Lead,
        has_waited: bool,
    ) -> Option<Reply> {
        let likely = ask.likely(&self.0.shared).unwrap_or(*key);
        let (cache, headers, now) = (&self.0.cache, &ask.visit.headers, ask.visit.now);
        let held = match has_waited {
            true => Box::pin(cache.lookup(&likely, headers, now)).await,
            false => cache.peek(&likely, headers, now),
        };
        match (ask.reuse(&held), held) {
            (Reuse::Fresh, Lookup::Found { entry, tier, .. }) if entry.chunks().is_none() => {
                // Whoever follows us already has it too; under another key, they look for themselves.
                if likely == *key {
                    lead.ready(entry.clone());
                }
                let reply = Reply::stored(ask, &entry, Outcome::Hit, tier.reason());
                Some(reply.from(tier))
            }
            _ => None,
        }
    }

    /// Renews `entry` behind the scenes, unless somebody is at it already. `turn` is over with it.
    pub(super) fn refresh(&self, ask: &Ask<'_>, key: Key, entry: &Arc<Entry>, turn: Option<Turn>) {
        let shared = &self.0.shared;
        let place = self.place(ask, key);
        if shared.coalescer.is_under_way(&place.1) {
            return;
        }
        if let Join::Lead(lead) =
            shared
                .coalescer
                .join(place, self.0.cache.position(), ask.visit.now)
        {
            let job = self.job(ask, lead, Some(entry.clone()), Manner::Behind);
            spawn(async move {
                job.run(None).await;
                drop(turn);
            });
        }
    }

    /// Where the fetch of `key` is joined: by its key, and by the place of the variant that is asked for.
    pub(super) fn place(&self, ask: &Ask<'_>, key: Key) -> (Key, Key) {
        (key, self.0.cache.place_of(&key, &ask.visit.headers))
    }

    async fn lead(
        &self,
        ask: &Ask<'_>,
        lead: Lead,
        stale: Option<Arc<Entry>>,
        why: Reason,
        manner: Manner,
    ) -> Result<Reply, Problem> {
        let (tell, told) = oneshot::channel();
        let (key, position) = (lead.key(), lead.fill().position());
        // The fetch outlives its client: others may wait for it, and the store wants it.
        spawn(self.job(ask, lead, stale.clone(), manner).run(Some(tell)));
        match told.await {
            // What came as a part goes out as the part it is.
            Ok(Led::Streaming { stored, fill, .. })
                if ask.visit.headers.contains_key(RANGE)
                    && stored.status != StatusCode::PARTIAL_CONTENT =>
            {
                match fill.whole().await {
                    Some(body) => Ok(Reply::whole(
                        ask,
                        &Stored {
                            body,
                            ..(*stored).clone()
                        },
                        why,
                    )),
                    None => self.part(ask, why).await,
                }
            }
            Ok(Led::Streaming {
                head,
                stored,
                reader,
                judged,
                ..
            }) => {
                let body = self.shared(ask, &stored, reader);
                Ok(Reply::leading(ask, head, &stored, body, why, judged))
            }
            Ok(Led::Confirmed { entry, kept }) => Ok(Reply::confirmed(ask, &entry, why, kept)),
            Ok(Led::Found(entry)) => match Box::pin(self.elsewhere(ask, &entry, why)).await {
                Some(reply) => Ok(reply),
                None => {
                    let alone = self.0.shared.coalescer.alone(key, position);
                    Box::pin(self.lead(ask, alone, None, why, Manner::Apart)).await
                }
            },
            Ok(Led::Apart { response, reason }) => match stale {
                Some(stale) if is_failure(response.status()) && self.may_stand_in(ask, &stale) => {
                    Ok(Reply::stand_in(ask, &stale, Some(response.status())))
                }
                _ => {
                    let reason = ask.reason_word(reason);
                    let tap = self.sight(ask, &response);
                    let reply = Reply::app(ask, response, Outcome::Bypass, reason);
                    Ok(reply.tapped(tap).because(why))
                }
            },
            Ok(Led::Failed(error)) => self.stand_in(ask, stale, Problem::App(error)),
            Err(_) => self.stand_in(ask, stale, Problem::App(UpstreamError::Reset)),
        }
    }

    /// What `reader` brings. A body so large that it may be read where it is stored has another way to go on.
    pub(super) fn shared(&self, ask: &Ask<'_>, stored: &Stored, reader: Reader) -> Body {
        let cache = &self.0.cache;
        let length = reader.length().filter(|length| *length > cache.whole_max());
        let resume = length.filter(|_| stored.status == StatusCode::OK);
        let resume = resume.and_then(|elsewhere| {
            let stored = stored.clone();
            Resume::of(
                self,
                ask,
                Stored {
                    elsewhere,
                    ..stored
                },
            )
        });
        Body::shared(reader, Some(cache.clone()), resume)
    }

    /// Waits for the head of another request's fetch, and is counted as waiting meanwhile. `None`: that has
    /// been waited for long enough.
    async fn outcome_of(&self, ask: &Ask<'_>, follower: &Follower) -> Option<Filled> {
        let _waiting = Waiting::begin(&self.0.recorder);
        let outcome = follower.fill().outcome();
        let outcome = tokio::time::timeout(ask.found.rule.collapse_wait, outcome);
        outcome.await.ok()
    }

    /// What another sidecar has fetched. `None`: its content cannot be had.
    async fn elsewhere(&self, ask: &Ask<'_>, entry: &Arc<Entry>, why: Reason) -> Option<Reply> {
        let reply = Reply::stored(ask, entry, Outcome::Miss, why).from(Tier::Redis);
        match entry.chunks() {
            Some(chunks) if !self.begins(ask.visit, entry, chunks).await => None,
            Some(_) => Some(reply.resumed_by(Resume::of(self, ask, entry.stored()))),
            None => Some(reply),
        }
        .map(Reply::collapsed)
    }

    /// Waits for another request's fetch. `None`: it brought nothing for this one.
    async fn follow(
        &self,
        ask: &Ask<'_>,
        follower: Follower,
        stale: Option<&Arc<Entry>>,
        why: Reason,
    ) -> Option<Result<Reply, Problem>> {
        let outcome = self.outcome_of(ask, &follower).await?;
        // Who reads is not waiting any more.
        drop(follower);
        let visit = ask.visit;
        let fits = |matches: bool, terms: Terms| {
            matches
                && semantics::reuse(
                    &visit.headers,
                    Some(terms),
                    false,
                    ask.policy(),
                    visit.client_refresh(),
                    visit.now,
                ) == Reuse::Fresh
        };
        match outcome {
            Filled::Streaming(stored, reader)
                if fits(
                    stored.vary.matches(&visit.headers),
                    stored.terms(&visit.headers),
                ) && !visit.headers.contains_key(RANGE) =>
            {
                let body = self.shared(ask, &stored, reader);
                Some(Ok(Reply::following(ask, &stored, body, why)))
            }
            Filled::Ready(entry)
                if fits(entry.matches(&visit.headers), entry.terms(&visit.headers)) =>
            {
                Some(Ok(Reply::confirmed(ask, &entry, why, true).collapsed()))
            }
            Filled::Found(entry)
                if fits(entry.matches(&visit.headers), entry.terms(&visit.headers)) =>
            {
                Box::pin(self.elsewhere(ask, &entry, why)).await.map(Ok)
            }
            Filled::Failed(error) => {
                let stood_in = self.stand_in(ask, stale.cloned(), Problem::App(error));
                Some(stood_in.map(Reply::collapsed))
            }
            Filled::Released(Reason::Status) => {
                let stale = stale.filter(|stale| self.may_stand_in(ask, stale))?;
                Some(Ok(Reply::stand_in(ask, stale, None).collapsed()))
            }
            _ => None,
        }
    }

    /// A range of what is not stored, straight from the app.
    async fn part(&self, ask: &Ask<'_>, why: Reason) -> Result<Reply, Problem> {
        let mut response = self.ask_app(ask, RequestBody::empty()).await?;
        tags::remove(response.headers_mut());
        groups::remove(response.headers_mut());
        Ok(Reply::app(ask, response, Outcome::Bypass, Reason::Range).because(why))
    }

    /// What is stored answers for an app that failed, where that is allowed.
    pub(super) fn stand_in(
        &self,
        ask: &Ask<'_>,
        stale: Option<Arc<Entry>>,
        problem: Problem,
    ) -> Result<Reply, Problem> {
        match stale {
            Some(stale) if self.may_stand_in(ask, &stale) => Ok(Reply::stand_in(ask, &stale, None)),
            Some(stale) if stale.terms(&ask.visit.headers).suffices => Err(problem.unconfirmed()),
            _ => Err(problem),
        }
    }

    pub(super) fn may_stand_in(&self, ask: &Ask<'_>, stale: &Entry) -> bool {
        let visit = ask.visit;
        semantics::usable_on_error(
            &visit.headers,
            stale.terms(&visit.headers),
            ask.policy(),
            visit.client_refresh(),
            visit.now,
        )
    }

    /// What the answer to a HEAD says of the stored GET (RFC 9111 §4.3.5).
    pub(super) async fn heed_head(
        &self,
        ask: &Ask<'_>,
        key: Key,
        entry: &Arc<Entry>,
        response: &Response<ResponseBody>,
        requested: Timestamp,
    ) {
        let exchange = Exchange {
            method: &Method::HEAD,
            path: ask.visit.uri.path(),
            request: &ask.visit.headers,
            status: response.status(),
            response: response.headers(),
            requested,
            received: self.0.shared.clock.now(),
            client: ask.visit.client_refresh(),
            chance: fastrand::f32(),
        };
        let belongs = |stored: &Stored| {
            let places = ask.places(&self.0.shared);
            places.is_none_or(|places| places.under(ask.found.rule, &stored.headers) == key)
        };
        let policy = ask.found.rule.policy_of(&key);
        let policy = policy.unwrap_or(ask.policy());
        match validation::judge_head(&entry.stored(), &exchange, policy) {
            HeadVerdict::Unrelated => {}
            // What is said of queries now is not said of what this was stored for.
            HeadVerdict::Freshened(stored) if !belongs(&stored) => self.0.cache.remove(&key).await,
            HeadVerdict::Freshened(stored) => {
                self.0
                    .cache
                    .store(&key, Arc::new(entry.with(&stored)), ask.visit.now);
            }
            HeadVerdict::Spoiled => self.0.cache.remove(&key).await,
        }
    }

    pub(super) fn job(
        &self,
        ask: &Ask<'_>,
        lead: Lead,
        stale: Option<Arc<Entry>>,
        manner: Manner,
    ) -> Job {
        let visit = ask.visit;
        let rule = ask.found.rule;
        let held = stale;
        let suffices = |held: &&Arc<Entry>| held.terms(&visit.headers).suffices;
        // A condition on a POST would mean another thing to the app (RFC 9110 §13.1.2).
        let may_ask = |_: &&Arc<Entry>| visit.method != Method::POST;
        let stale = held.as_ref().filter(suffices).filter(may_ask).cloned();
        let sent = forward::Sent {
            ask,
            storable: true,
        };
        let mut fields = sent.map();
        let mut client = visit.headers.clone();
        if manner == Manner::Behind && rule.key.per.is_empty() {
            // What selects the answer goes along: without it the app would answer another question.
            let selects = |name: &HeaderName| {
                let vary = held.as_ref().map(|held| held.vary());
                rule.key.headers.contains(name)
                    || vary.is_some_and(|vary| vary.names().any(|varied| varied == name))
            };
            for headers in [&mut fields, &mut client] {
                if !selects(&AUTHORIZATION) {
                    headers.remove(AUTHORIZATION);
                }
                if !selects(&COOKIE) {
                    fields::keep_cookies(headers, &rule.key.cookies);
                }
            }
        }
        // Where nothing is held, the client's conditions are for the app to judge (RFC 9111 §4.3.2),
        // unless it has done so just now: somebody has to fetch the whole, if it is for all. Ranges
        // are ours to cut.
        let coalescer = &self.0.shared.coalescer;
        let theirs = match manner {
            Manner::Together => !coalescer.is_wanted_whole(&lead.key(), visit.now),
            Manner::Apart => true,
            Manner::Behind => false,
        };
        let judged = stale.is_none() && theirs && validation::is_conditional(&fields);
        if manner != Manner::Apart || stale.is_some() {
            if judged {
                validation::make_whole(&mut fields);
            } else {
                validation::make_unconditional(&mut fields);
            }
        }
        let unconditional = held.as_ref().map(|_| fields.clone());
        let conditional = stale
            .as_ref()
            .is_some_and(|stale| validation::make_conditional(&mut fields, &stale.stored()));
        let part = held.as_ref().filter(|_| stale.is_none() && !judged);
        let rest = part.and_then(|part| {
            let part = part.stored();
            let missing = validation::ask_for_rest(&mut fields, &part)?;
            Some(Rest { missing, part })
        });
        let query = rule.fetch_query(visit.uri.query());
        let target = forward::target(&visit.uri, Some(query));
        // Behind its back, a client has its answer.
        let interim = visit.interim.clone();
        let interim = interim.filter(|_| manner != Manner::Behind);
        Job {
            proxy: self.clone(),
            snapshot: visit.snapshot.clone(),
            rule: rule.id,
            url: ask.url().into(),
            tags: purge::Tags::new(ask),
            places: ask.places(&self.0.shared),
            fields,
            interim,
            target,
            method: ask.fetch_method().clone(),
            content: ask.visit.content.get().cloned().unwrap_or_default(),
            unconditional: unconditional.filter(|_| conditional || rest.is_some()),
            client,
            held,
            rest,
            stale: stale.filter(|_| conditional),
            judged,
            span: ask.span.child("fetch"),
            lead,
            lease: None,
            is_shared: manner != Manner::Apart && !ask.wants_news(),
            patience: self.0.cache.patience(),
            manner,
            refresh: visit.client_refresh(),
            links: (!rule.prefetch.is_empty() && rule.key.per.is_empty() && !visit.is_nobodys)
                .then(|| Origin {
                    tls: ask.scheme() == "https",
                    host: visit.authority().into(),
                    path: ask.target.path.into(),
                }),
            ends: rule
                .key
                .has_identity()
                .then(|| ask.caller.expires())
                .flatten(),
        }
    }
}

impl Ask<'_> {
    /// The answer may depend on who asks, in a way that the key does not hold; or the client does
    /// not want it kept.
    pub(super) fn is_personal(&self) -> bool {
        let (headers, policy) = (&self.visit.headers, self.policy());
        let told_apart =
            fields::has_credentials(headers, policy) || fields::has_telling_cookie(headers, policy);
        (told_apart && !policy.per_identity)
            || (self.visit.client_refresh() == ClientRefresh::Honor
                && RequestDirectives::of_request(headers).no_store)
    }

    /// The client wants an answer that the app gives now.
    fn wants_news(&self) -> bool {
        self.visit.client_refresh() == ClientRefresh::Honor && {
            let asked = RequestDirectives::of_request(&self.visit.headers);
            asked.no_cache || asked.max_age == Some(Duration::ZERO)
        }
    }

    /// A HEAD is answered from what a GET brings.
    fn fetch_method(&self) -> &Method {
        match self.visit.method {
            Method::HEAD => &Method::GET,
            _ => &self.visit.method,
        }
    }

    /// Where no route matches, a missing lifetime is the missing route's.
    pub(super) fn reason_word(&self, reason: Reason) -> Reason {
        let fallback = self.found.rule.id + 1 == self.visit.snapshot.settings.routes.all().len();
        if fallback && reason == Reason::NoLifetime {
            Reason::NoRoute
        } else {
            reason
        }
    }
}

/// One fetch, with everything it needs when nobody waits for it any more.
pub(super) struct Job {
    pub(super) proxy: Proxy,
    snapshot: Arc<Snapshot>,
    rule: RouteId,
    pub(super) url: Box<str>,
    pub(super) tags: purge::Tags,
    /// Where the answer may belong; none: under the key that is fetched.
    places: Option<Places>,
    /// What the app is asked for.
    target: http::Uri,
    method: Method,
    fields: HeaderMap,
    content: Bytes,
    /// Where its interim answers go.
    interim: Option<Interim>,
    /// The same request without our validators, for an app that answers them with nonsense.
    unconditional: Option<HeaderMap>,
    pub(super) client: HeaderMap,
    /// What the store holds, however stale.
    pub(super) held: Option<Arc<Entry>>,
    /// What is held, if the request asks whether it still holds.
    stale: Option<Arc<Entry>>,
    /// The request asks for what is missing of what is held.
    rest: Option<Rest>,
    /// The client's own conditions go to the app.
    judged: bool,
    pub(super) span: crate::telemetry::Span,
    pub(super) lead: Lead,
    /// The right to fetch it for all sidecars, where there is one.
    lease: Option<Lease>,
    /// Whether it is a fetch for all of them.
    pub(super) is_shared: bool,
    /// How long it may wait for Redis before its client has waited too long.
    pub(super) patience: Duration,
    pub(super) manner: Manner,
    pub(super) refresh: ClientRefresh,
    /// Where it is from, if links in it are followed.
    links: Option<Origin>,
    /// When the token ends that the answer is for, where the key is one for each.
    ends: Option<Timestamp>,
}

/// What is asked for of a whole of which a part is stored.
struct Rest {
    missing: Range<u64>,
    part: Stored,
}

impl Rest {
    /// What is stored of it, in front of or behind what is asked for.
    fn around(&self) -> (Bytes, Bytes) {
        let body = self.part.body.clone();
        match self.missing.start {
            0 => (Bytes::new(), body),
            _ => (body, Bytes::new()),
        }
    }
}

/// Who waited as the so-manieth for what was not his asks the app himself within this time, at a moment of his own:
/// a few at once, a herd one after the other.
fn released_within(waiting: usize) -> Duration {
    let before = u32::try_from(waiting.saturating_sub(1)).unwrap_or(u32::MAX);
    RELEASED_EACH.saturating_mul(before).min(RELEASED_MAX)
}

/// Spawns a fetch. Its future is large, and the runtime moves what it is given several times: here
/// it is moved once.
pub(super) fn spawn(fetch: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(Box::pin(fetch));
}

impl Job {
    async fn run(mut self, tell: Option<oneshot::Sender<Led>>) {
        match self.duty().await {
            Duty::Ask(lease) => self.lease = lease,
            Duty::Found(entry) => {
                self.lead.found(entry.clone());
                return say(tell, Led::Found(entry));
            }
            Duty::Apart(reason) => {
                self.set_apart(reason);
                self.lead.release(reason);
                if self.manner == Manner::Behind {
                    return;
                }
                self.manner = Manner::Apart;
            }
            Duty::Leave => return,
        }
        let began = Instant::now();
        let mut requested = self.now();
        let mut outcome = self.ask().await;
        if let Ok(response) = &outcome
            && response.status() == StatusCode::NOT_MODIFIED
        {
            if let Some((entry, kept)) = self.confirmed(response, requested).await {
                self.lead.ready(entry.clone());
                self.end_lease(if kept { lease::STORED } else { lease::AGAIN });
                return say(tell, Led::Confirmed { entry, kept });
            }
            if self.judged {
                // It answers the client's own condition, and is the client's.
                let reason = Reason::NotModified;
                let coalescer = &self.proxy.0.shared.coalescer;
                coalescer.want_whole(self.lead.key(), self.now());
                self.lead.release(reason);
                return match outcome {
                    Ok(response) => say(tell, Led::Apart { response, reason }),
                    Err(error) => say(tell, Led::Failed(error)),
                };
            }
            // A 304 about something else, or to a plain GET.
            requested = self.now();
            outcome = self.ask_again().await;
        } else if let Ok(response) = &mut outcome
            && self.rest.is_some()
        {
            match response.status() {
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    if let Some(headers) = self.whole_head(response, requested) {
                        *response.status_mut() = StatusCode::OK;
                        *response.headers_mut() = headers;
                    } else {
                        self.rest = None;
                        requested = self.now();
                        outcome = self.ask_again().await;
                    }
                }
                _ => self.rest = None,
            }
        }
        match outcome {
            Err(error) => {
                self.lead.fail(error);
                say(tell, Led::Failed(error));
            }
            Ok(response) => {
                self.take_in(response, requested, began.elapsed(), tell)
                    .await
            }
        }
    }

    /// The app has named these tags in fields of its answer, and groups that have these.
    pub(super) fn is_tagged(&mut self, tags: Vec<String>, groups: Vec<String>) {
        self.tags.are_named(tags);
        self.tags.are_of_groups(groups);
    }

    /// Asks the app. What it tags its answer with is kept apart: it is for the store alone.
    async fn ask(&mut self) -> Result<Response<ResponseBody>, UpstreamError> {
        let mut response = self.send().await?;
        self.tags.take_from(response.headers_mut());
        Ok(response)
    }

    async fn send(&self) -> Result<Response<ResponseBody>, UpstreamError> {
        let head = RequestHead {
            method: &self.method,
            target: &self.target,
            fields: &self.fields,
            interim: self.interim.as_ref(),
            upgrade: false,
        };
        let content = RequestBody::whole(self.content.clone());
        let route = (&*self.snapshot, self.rule);
        self.proxy.timed(route, &head, content).await
    }

    /// Asks once more, without conditions and ranges of ours. A 304 to a request that has none is no
    /// answer (RFC 9110 §15.4.5), and is told, since no client can see why it gets a 502.
    async fn ask_again(&mut self) -> Result<Response<ResponseBody>, UpstreamError> {
        if let Some(fields) = self.unconditional.take() {
            (self.fields, self.interim) = (fields, None);
            let response = self.ask().await?;
            if response.status() != StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
        }
        let unasked = UpstreamError::Protocol("unasked-304");
        self.proxy.0.upstream.tell(unasked);
        Err(unasked)
    }

    /// The head of the whole, if `response` is just what is missing of it and it may be stored.
    fn whole_head(
        &self,
        response: &Response<ResponseBody>,
        requested: Timestamp,
    ) -> Option<HeaderMap> {
        let part = &self.rest.as_ref()?.part;
        let headers = validation::completed(part, response.headers())?;
        let exchange = Exchange {
            status: StatusCode::OK,
            response: &headers,
            ..self.exchange(response, requested)
        };
        semantics::storable(&exchange, self.policy()?).ok()?;
        // Two parts are of one whole only while the app says the same of their queries.
        if self.key_of(&headers) != self.lead.key() {
            return None;
        }
        let fits = part.part()?.length <= self.snapshot.settings.cache.max_body;
        (fits && response.body().is_delimited()).then_some(headers)
    }

    /// Decides whether `response` is stored, and stores it.
    pub(super) async fn take_in(
        mut self,
        response: Response<ResponseBody>,
        requested: Timestamp,
        app_time: Duration,
        tell: Option<oneshot::Sender<Led>>,
    ) {
        let handle = self.snapshot.handles[self.rule].clone();
        let judged = self.storable(&response, requested);
        let sought = self.lead.key();
        let key = match &judged {
            Ok(stored) => self.settle(&stored.headers),
            Err(_) => sought,
        };
        let recorder = &self.proxy.0.recorder;
        let stored = match judged {
            Ok(stored) => Arc::new(stored),
            Err(reason) => {
                recorder.store(&handle, Some(reason));
                // What is said with a failure says nothing of what comes after it.
                if !is_failure(response.status()) {
                    self.set_apart(reason);
                    self.end_lease(fleet::word(reason));
                }
                self.lead.release(reason);
                return say(tell, Led::Apart { response, reason });
            }
        };
        let (head, body) = response.into_parts();
        let fill = self.lead.fill().clone();
        let (before, after) = self.rest.as_ref().map(Rest::around).unwrap_or_default();
        let around = (before.len() + after.len()) as u64;
        let length = HttpBody::size_hint(&body).exact();
        let reader = fill.stream(stored.clone(), length.map(|length| length + around));
        if !before.is_empty() {
            fill.push(before);
        }
        say(
            tell,
            Led::Streaming {
                head,
                stored: stored.clone(),
                reader,
                fill: fill.clone(),
                judged: self.judged,
            },
        );
        match self.read_in(&fill, body, &stored, (&key, after)).await {
            Ok(Arrived {
                body,
                bytes,
                trailers,
                last,
            }) => {
                let _span = self.span.child("store");
                let mut stored = Stored {
                    trailers: trailers.clone(),
                    ..(*stored).clone()
                };
                let (cache, now) = (&self.proxy.0.cache, self.now());
                let is_kept = !self.is_outdated(&key, &stored, requested).await
                    && match body {
                        Taken::Whole(body) => {
                            stored.body = body;
                            let entry = Entry::new(&stored, &self.label(&stored, app_time));
                            cache.store(&key, Arc::new(entry), now)
                        }
                        Taken::InChunks(filling) => {
                            stored.elsewhere = bytes;
                            let label = self.label(&stored, app_time);
                            let entry = |chunks| Entry::chunked(&stored, &label, chunks);
                            // Boxed, since it would lie in the future of every fetch.
                            Box::pin(cache.settle(filling, entry, now)).await
                        }
                    };
                if is_kept {
                    if let Some(origin) = &self.links {
                        let rule = &self.snapshot.settings.routes.all()[self.rule];
                        let wish = origin.wish(&stored.headers, &rule.prefetch);
                        let wishes = &self.proxy.0.shared.wishes;
                        wish.into_iter().for_each(|wish| wishes.leave(wish));
                    }
                    recorder.store(&handle, None);
                    // What could not be shared before, can be.
                    self.proxy.0.shared.coalescer.set_together(&sought);
                }
                // Who has the last of it may count on the store.
                if let Some(last) = last {
                    fill.push(last);
                }
                fill.finish(trailers);
                // What lies where this was looked for is older, and says what is no longer said.
                if key != sought {
                    cache.remove(&sought).await;
                }
                self.end_lease(lease::STORED);
            }
            Err(reason) => {
                recorder.store(&handle, Some(reason));
                self.set_apart(reason);
                self.end_lease(fleet::word(reason));
            }
        }
    }

    fn end_lease(&mut self, word: u16) {
        if let Some(lease) = self.lease.take() {
            lease.end(word);
        }
    }

    /// Whether another fetch has brought something meanwhile that the app dates later: the most recent
    /// answer is the one to use (RFC 9111 §4).
    async fn is_outdated(&self, key: &Key, stored: &Stored, requested: Timestamp) -> bool {
        let cache = &self.proxy.0.cache;
        if self.lease.as_ref().is_some_and(Lease::is_overdue) {
            // We were held up, and another may have fetched it meanwhile, after us.
            let there = cache.look_again(key, &self.client, self.now());
            if let Lookup::Found { entry, .. } = Box::pin(there).await
                && entry.received() >= requested
            {
                return true;
            }
        }
        match cache.peek(key, &self.client, self.now()) {
            Lookup::Found { entry, .. } => {
                entry.received() >= requested
                    && entry.stored().validators().date > stored.validators().date
            }
            Lookup::Absent(_) => false,
        }
    }

    /// Where an answer with these fields belongs.
    fn key_of(&self, answer: &HeaderMap) -> Key {
        let rule = &self.snapshot.settings.routes.all()[self.rule];
        let places = self.places.as_ref();
        places.map_or_else(|| self.lead.key(), |places| places.under(rule, answer))
    }

    /// The same, remembered for those who come next. Who has followed because the queries were one
    /// by a rule that is no longer stated is let go: what this answer says may leave theirs out.
    /// Who asked for the very same query may stay, whatever is said of others.
    fn settle(&mut self, answer: &HeaderMap) -> Key {
        let key = self.key_of(answer);
        let Some(places) = &self.places else {
            return key;
        };
        let shared = &self.proxy.0.shared;
        places.learn(shared, answer);
        if key != self.lead.key() && self.lead.key() != places.exact {
            let position = self.lead.fill().position();
            let alone = shared.coalescer.alone(key, position);
            std::mem::replace(&mut self.lead, alone).release(Reason::CollapsedFailed);
        }
        key
    }

    /// Spares those who come next the wait for what will not be theirs. What one client gets for
    /// himself alone says nothing of what the others will, but that it is large.
    fn set_apart(&self, reason: Reason) {
        let is_for_others = self.manner != Manner::Apart || reason == Reason::TooLarge;
        if is_lasting(reason) && is_for_others {
            let coalescer = &self.proxy.0.shared.coalescer;
            match reason {
                Reason::TooLarge => coalescer.set_apart_for_long(self.lead.key(), self.now()),
                _ => coalescer.set_apart(self.lead.key(), self.now()),
            }
        }
    }

    /// Bytes of the largest body that can be stored now. Parts are kept in one piece or not at all.
    fn body_max(&self, head: &Stored) -> u64 {
        let cache = &self.proxy.0.cache;
        let coalescer = &self.proxy.0.shared.coalescer;
        // What was too large a while ago is not written once more for each who asks.
        let in_chunks = self.rest.is_none()
            && head.status != StatusCode::PARTIAL_CONTENT
            && cache.takes_chunks()
            && !coalescer.is_apart(&self.lead.key(), self.now());
        let bytes_max = self.snapshot.settings.cache.max_body;
        match in_chunks {
            true => bytes_max,
            false => bytes_max.min(cache.whole_max()),
        }
    }

    /// Reads the body into the fill, and what is too large to be held into chunks. The error is why it
    /// cannot be stored; the fill is then ended. `key` is where it belongs, and `after` what is behind it.
    async fn read_in(
        &self,
        fill: &Arc<Fill>,
        mut body: ResponseBody,
        head: &Stored,
        (key, after): (&Key, Bytes),
    ) -> Result<Arrived, Reason> {
        let cache = &self.proxy.0.cache;
        let bytes_max = self.body_max(head);
        let whole_max = bytes_max.min(cache.whole_max());
        // A body that is known not to be held goes into chunks from its beginning.
        let is_large = HttpBody::size_hint(&body).lower() > whole_max;
        let announced_length = HttpBody::size_hint(&body).exact();
        let mut filling = None;
        let mut not_stored = None;
        let patience = self.snapshot.settings.upstream.timeout;
        let (mut bytes, mut trailers) = (0_u64, HeaderMap::new());
        // Of parts the head says how many bytes they are; what is not so many is not what it says.
        let announced = match (&self.rest, head.part()) {
            (Some(rest), _) => Some(rest.missing.end - rest.missing.start),
            (None, part) => part.map(|part| part.range.end - part.range.start),
        };
        let last = loop {
            let frame = match tokio::time::timeout(patience, body.frame()).await {
                Ok(None) => break (!after.is_empty()).then_some(after),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) | Err(_) => {
                    fill.break_off();
                    return Err(Reason::Incomplete);
                }
            };
            match frame.into_data() {
                Ok(piece) => {
                    bytes += piece.len() as u64;
                    if bytes > bytes_max && not_stored.is_none() {
                        let is_too_large = bytes > self.snapshot.settings.cache.max_body;
                        let reason = match is_too_large {
                            true => Reason::TooLarge,
                            false => Reason::Evicted,
                        };
                        // Its end may be far away.
                        self.set_apart(reason);
                        not_stored = Some(reason);
                        filling = None;
                    }
                    // Who has the last of it may count on the store; all else leaves at once.
                    let is_last = not_stored.is_none() && body.is_end_stream() && after.is_empty();
                    let last = is_last.then(|| piece.clone());
                    if !is_last {
                        fill.push(piece.clone());
                    }
                    if not_stored.is_none() && (is_large || bytes > whole_max) {
                        let piece = (&piece, is_last);
                        let added = self.fill_in(fill, head, key, &mut filling, piece).await;
                        if added.is_none() {
                            not_stored = Some(Reason::Evicted);
                            filling = None;
                        }
                    }
                    if last.is_some() {
                        break last;
                    }
                }
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
            if not_stored.is_none() && self.is_dropped(fill, bytes, announced_length) {
                fill.break_off();
                return Err(Reason::Incomplete);
            }
            if let Some(reason) = not_stored
                && !fill.drained(WINDOW_BYTES).await
            {
                return Err(reason); // nobody reads any more, and it cannot be stored
            }
        };
        if let Some(reason) = not_stored {
            last.into_iter().for_each(|last| fill.push(last));
            fill.finish(trailers);
            return Err(reason);
        }
        if announced.is_some_and(|announced| announced != bytes) {
            match (&self.rest, last) {
                (None, last) => {
                    // The app's word goes to the client as it is; nobody else has to hear it.
                    last.into_iter().for_each(|last| fill.push(last));
                    fill.finish(trailers);
                }
                (Some(_), _) => fill.break_off(),
            }
            return Err(Reason::Incomplete);
        }
        if self.rest.is_some() {
            // They came with the rest, and may be about it alone.
            trailers.clear();
        }
        let body = match filling {
            Some(filling) => Taken::InChunks(filling),
            None => Taken::Whole(fill.body_with(last.as_ref().unwrap_or(&Bytes::new()))),
        };
        Ok(Arrived {
            body,
            bytes,
            trailers,
            last,
        })
    }

    /// Whether the rest of the body is not worth its fetch: whoever read it has gone in the middle, nobody else
    /// waits, and it is large and far from its end.
    fn is_dropped(&self, fill: &Fill, bytes: u64, length: Option<u64>) -> bool {
        bytes > FINISHED_BYTES
            && fill.is_forsaken()
            && length.is_none_or(|length| bytes < length / 100 * FINISHED_PERCENT)
            && !self.lease.as_ref().is_some_and(Lease::is_waited_for)
    }

    /// Stores the next piece in chunks, behind what has come before; it is held already unless it is the
    /// last. `None`: that cannot be done.
    async fn fill_in(
        &self,
        fill: &Arc<Fill>,
        head: &Stored,
        key: &Key,
        filling: &mut Option<Filling>,
        (piece, is_last): (&Bytes, bool),
    ) -> Option<()> {
        let cache = &self.proxy.0.cache;
        let (mut before, mut next) = (Vec::new(), Some(piece));
        let filling = match filling {
            Some(filling) => filling,
            None => {
                let told = Arc::downgrade(fill);
                let kept = move |bytes| {
                    if let Some(fill) = told.upgrade() {
                        fill.has_kept(bytes);
                    }
                };
                let begun = cache.fill(key, head, self.now(), kept)?;
                before = fill.keep_in(begun.chunks());
                // Held as well, but for the last.
                next = next.filter(|_| is_last);
                filling.insert(begun)
            }
        };
        for piece in before.iter().chain(next) {
            if let Err(given_up) = filling.add(piece).await {
                cache.gave_up(given_up);
                return None;
            }
        }
        Some(())
    }

    fn storable(
        &self,
        response: &Response<ResponseBody>,
        requested: Timestamp,
    ) -> Result<Stored, Reason> {
        let policy = self.policy().ok_or(Reason::NoStore)?;
        let stands_in = |held: &Arc<Entry>| {
            let terms = held.terms(&self.client);
            semantics::usable_on_error(&self.client, terms, policy, self.refresh, self.now())
        };
        // What may stand in for a failure is not to be replaced by it (RFC 5861 §4).
        if is_failure(response.status()) && self.held.as_ref().is_some_and(stands_in) {
            return Err(Reason::Status);
        }
        // Nor is a whole to be replaced by a part of it.
        let is_whole = |held: &Arc<Entry>| held.status() != StatusCode::PARTIAL_CONTENT;
        if response.status() == StatusCode::PARTIAL_CONTENT
            && self.held.as_ref().is_some_and(is_whole)
        {
            return Err(Reason::Range);
        }
        let mut stored = semantics::storable(&self.exchange(response, requested), policy)?;
        // Apps forget Vary on what they send by default. It must not hide what they chose for others
        // (RFC 9111 §4.1), so it is kept as one of them.
        if stored.vary.is_empty() {
            let now = self.now();
            let beside = self.proxy.0.cache.variants(&self.lead.key(), now);
            let mut fresh = beside.iter().filter(|one| one.is_fresh(now));
            if let Some(other) = fresh.next() {
                stored.vary = other.vary().taken_from(&self.client);
            }
        }
        stored.lifetime = self.lasting(stored.lifetime);
        let length = HttpBody::size_hint(response.body()).lower();
        if length > self.snapshot.settings.cache.max_body {
            return Err(Reason::TooLarge);
        }
        if length > self.body_max(&stored) {
            return Err(Reason::Evicted);
        }
        if !response.body().is_delimited() {
            return Err(Reason::Incomplete);
        }
        Ok(stored)
    }

    /// The stored response with a confirming 304 merged in, and whether it was stored anew: a 304
    /// that forbids to keep it any longer still answers the one request that brought it.
    async fn confirmed(
        &mut self,
        response: &Response<ResponseBody>,
        requested: Timestamp,
    ) -> Option<(Arc<Entry>, bool)> {
        let stale = self.stale.clone()?;
        let held = stale.stored();
        if !validation::confirms(response.headers(), &held) {
            return None;
        }
        let stated = match response.headers().contains_key(NO_VARY_SEARCH) {
            true => response.headers(),
            false => &held.headers,
        };
        let sought = self.lead.key();
        // Validators are of one URL. What was stored for another one is this one's only as long as the
        // app says that the two are one.
        if *stale.url() != *self.url && self.key_of(stated) != sought {
            return None;
        }
        let key = self.settle(stated);
        let exchange = self.exchange(response, requested);
        let freshened = validation::freshen(&held, &exchange, self.policy()?);
        let freshened = freshened.map(|stored| Stored {
            lifetime: self.lasting(stored.lifetime),
            ..stored
        });
        let Some(stored) = freshened else {
            self.proxy.0.cache.remove(&sought).await;
            let merged = validation::merge(&held, &exchange);
            return Some((Arc::new(stale.with(&merged)), false));
        };
        let mut label = stale.label();
        if let Some(tags) = (self.tags).confirmed(&stored, &label.tags, key != sought) {
            label.tags = tags;
        }
        label.position = self.lead.fill().position();
        let entry = Arc::new(stale.renewed(&stored, &label));
        let cache = &self.proxy.0.cache;
        for other in cache.variants(&key, self.now()) {
            let beside = other.stored();
            let is_other = beside.vary != stored.vary;
            let freshened = validation::freshen_beside(&beside, &exchange, self.policy()?);
            if let Some(freshened) = freshened.filter(|_| is_other) {
                cache.store(&key, Arc::new(other.with(&freshened)), self.now());
            }
        }
        cache.store(&key, entry.clone(), self.now());
        if key != sought {
            cache.remove(&sought).await;
        }
        Some((entry, true))
    }

    fn exchange<'a>(
        &'a self,
        response: &'a Response<ResponseBody>,
        requested: Timestamp,
    ) -> Exchange<'a> {
        Exchange {
            // A QUERY, and a POST whose route says that it reads, are stored by the rules for GET:
            // their keys hold what tells them apart.
            method: &Method::GET,
            path: self.target.path(),
            request: &self.client,
            status: response.status(),
            response: response.headers(),
            requested,
            received: self.now(),
            client: self.refresh,
            chance: fastrand::f32(),
        }
    }

    fn label(&self, stored: &Stored, app_time: Duration) -> Label {
        // What the app has named of a part is of the whole.
        let part = self.held.as_ref().filter(|_| self.rest.is_some());
        Label {
            tags: match part {
                Some(part) => self.tags.with(stored, part.label().tags.iter()),
                None => self.tags.of(stored),
            },
            url: self.url.clone(),
            position: self.lead.fill().position(),
            app_time,
        }
    }

    /// A lifetime that ends where the token does that the answer is for.
    fn lasting(&self, lifetime: Lifetime) -> Lifetime {
        match self.ends {
            Some(end) => lifetime.ended_by(end),
            None => lifetime,
        }
    }

    /// How long it is waited for another's fetch of the same.
    pub(super) fn collapse_wait(&self) -> Duration {
        self.snapshot.settings.routes.all()[self.rule].collapse_wait
    }

    pub(super) fn policy(&self) -> Option<&Policy> {
        let rule = &self.snapshot.settings.routes.all()[self.rule];
        rule.policy_of(&self.lead.key())
    }

    pub(super) fn now(&self) -> Timestamp {
        self.proxy.0.shared.clock.now()
    }
}

/// Somebody waits for another request's fetch, until he has what he waits for or goes away.
struct Waiting<'a>(&'a Recorder);

impl<'a> Waiting<'a> {
    fn begin(recorder: &'a Recorder) -> Self {
        recorder.coalescing(1);
        Self(recorder)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.coalescing(-1);
    }
}

/// A body that has come whole.
struct Arrived {
    body: Taken,
    bytes: u64,
    trailers: HeaderMap,
    /// The last piece, which readers do not have yet.
    last: Option<Bytes>,
}

/// How a body was taken in.
enum Taken {
    /// In one piece.
    Whole(Bytes),
    /// It is in chunks, but for the last.
    InChunks(Filling),
}

/// A client that has gone does not want to know.
fn say(tell: Option<oneshot::Sender<Led>>, led: Led) {
    if let Some(tell) = tell {
        let _ = tell.send(led);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_released_at_once_and_a_herd_within_a_second() {
        let within: Vec<_> = [0, 1, 2, 20, 1_001, 10_000].map(released_within).into();
        let millis: Vec<_> = within.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [0, 0, 1, 19, 1_000, 1_000]);
    }
}
