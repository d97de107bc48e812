//! Hits asked of the app again behind the scenes, to see whether they were true: how many were stale, and
//! whether anybody was given another's answer.
//!
//! Nothing of it reaches a client or the store. Where the hit's request proves who sent it, the app is also
//! asked as that client, at once and by his own request; his credentials go nowhere else, and are let go
//! with the last answer. A question that would have to wait is not asked.

use super::{Ask, Entry, Key, Proxy, Rooms, Snapshot, forward};
use crate::cache::purge::{Purge, Scope};
use crate::config::Settings;
use crate::config::settings::Audit;
use crate::evidence::{Inquiry, Next, Print, Quarantines, Verdict, Who};
use crate::route::{Arm, RouteId, Rule};
use crate::semantics::fields::{self, has_credentials, has_telling_cookie};
use crate::semantics::{Sharing, Timestamp, renewal, validation};
use crate::upstream::{RequestBody, RequestHead};
use http::header::{
    ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, HOST, LOCATION, TE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Audits of one process under way at a time; what would be one more is not made.
const UNDER_WAY_MAX: usize = 4;
/// The largest content that is compared, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The app has requests enough where it has so much of what it may have.
const BUSY: f32 = 0.5;
/// Beside what key and Vary hold, what even the barest question carries: how to answer, and from where.
const BARE: [HeaderName; 11] = [
    HOST,
    ACCEPT,
    ACCEPT_CHARSET,
    ACCEPT_ENCODING,
    CONNECTION,
    TE,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-request-id"),
];
/// An alarm's word for what this is about.
pub const LEAK: &str = "leak";

/// Audits under way in this process.
#[derive(Debug, Default)]
pub struct UnderWay(Arc<AtomicUsize>);

/// Holds a place among them.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl UnderWay {
    fn enter(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.0));
        (self.0.fetch_add(1, Ordering::Relaxed) < UNDER_WAY_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The routes of one configuration that are audited, and which of them are shut. Nothing where none is audited.
#[derive(Debug, Default)]
pub struct Watched(Vec<Option<Route>>);

#[derive(Debug)]
struct Route {
    definition: Key,
    name: Arc<str>,
    /// Since when it is shut, in milliseconds; 0: it is not.
    shut_since: AtomicU64,
}

impl Watched {
    /// Of these settings. What was shut `before`, and is defined as it was, is shut from the beginning.
    #[must_use]
    pub fn of(settings: &Settings, before: Option<&Self>) -> Self {
        let rules = settings.routes.all();
        let before: Vec<_> = (before.into_iter())
            .flat_map(|before| before.0.iter().flatten())
            .filter(|route| route.shut_since.load(Ordering::Relaxed) != 0)
            .collect();
        let is_audited = |rule: &Rule| rule.scrutiny.audit.is_some();
        if before.is_empty() && !rules.iter().any(is_audited) {
            return Self::default();
        }
        let route = |rule: &Rule| {
            let definition = rule.definition();
            let shut = before.iter().find(|route| route.definition == definition);
            let since = shut.map_or(0, |route| route.shut_since.load(Ordering::Relaxed));
            // Whoever stops looking has not mended anything: what is shut stays so.
            (is_audited(rule) || since != 0).then(|| Route {
                definition,
                name: Arc::clone(&rule.name),
                shut_since: AtomicU64::new(since),
            })
        };
        Self(rules.iter().map(route).collect())
    }

    /// Whether nothing of this route is to be stored or served from the store.
    pub(super) fn is_shut(&self, route: RouteId) -> bool {
        match self.0.get(route) {
            Some(Some(route)) => route.shut_since.load(Ordering::Relaxed) != 0,
            _ => false,
        }
    }

    /// Since when that is so.
    pub(super) fn shut_since(&self, route: RouteId) -> Option<Timestamp> {
        let route = self.0.get(route)?.as_ref()?;
        let since = route.shut_since.load(Ordering::Relaxed);
        (since != 0).then(|| Timestamp::from_millis(since))
    }

    /// Each route that is audited: what defines it, and its name.
    pub fn routes(&self) -> impl Iterator<Item = (&Key, &Arc<str>)> {
        let routes = self.0.iter().flatten();
        routes.map(|route| (&route.definition, &route.name))
    }

    /// Takes over which of them are shut. Returns those that were not before, and those that are not any more.
    pub fn obey(&self, quarantines: &Quarantines) -> Turned {
        let mut turned = Turned::default();
        for route in self.0.iter().flatten() {
            let mark = quarantines.mark(&route.definition);
            let since = mark
                .filter(|mark| mark.shut)
                .map_or(0, |mark| mark.since.max(1));
            match (route.shut_since.swap(since, Ordering::Relaxed), since) {
                (0, 1..) => turned.shut.push(Arc::clone(&route.name)),
                (1.., 0) => turned.opened.push(Arc::clone(&route.name)),
                _ => {}
            }
        }
        turned
    }
}

/// Names of routes that have just been shut or opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// These are shut.
    pub shut: Vec<Arc<str>>,
    /// These are open again.
    pub opened: Vec<Arc<str>>,
}

impl Turned {
    /// What has to be purged for it: what a shut route has stored, and what was stored for one that was shut
    /// by sidecars that did not know it yet.
    #[must_use]
    pub fn purges(&self) -> Vec<Purge> {
        let routes = self.shut.iter().chain(&self.opened);
        let purge = |name: &Arc<str>| Purge {
            scope: Scope::Tag(format!("route:{name}")),
            soft: false,
        };
        routes.map(purge).collect()
    }
}

impl Proxy {
    /// Draws whether this hit is audited, and audits it behind.
    pub(super) fn audit(&self, ask: &Ask<'_>, key: &Key, entry: &Arc<Entry>) {
        if let Some(share) = ask.found.rule.scrutiny.audit
            && fastrand::u32(..) <= share.get()
        {
            self.begin_audit(ask, key, entry);
        }
    }

    #[cold]
    fn begin_audit(&self, ask: &Ask<'_>, key: &Key, entry: &Arc<Entry>) {
        let visit = ask.visit;
        let rule = ask.found.rule;
        let Some(settings) = &visit.snapshot.settings.audit else {
            return;
        };
        let arm = rule.scrutiny.arm(key).map_or("", Arm::word);
        let evidence = &self.0.shared.evidence;
        // What is one for each cannot be asked for as nobody.
        let is_comparable = visit.method == Method::GET
            && entry.sharing() != Sharing::Identity
            && entry.chunks().is_none()
            && entry.status() != StatusCode::PARTIAL_CONTENT
            && entry.body_bytes() <= BODY_BYTES_MAX as u64;
        let (limit, in_flight) = self.0.upstream.load();
        let is_busy = in_flight as f32 > limit as f32 * BUSY;
        let place = (is_comparable && !is_busy)
            .then(|| self.0.shared.audits.enter())
            .flatten();
        let Audit { rate, leaks, .. } = settings;
        let admitted =
            |_: &Place| (evidence.budget).admits(rate.quota.get(), rate.window, visit.now);
        let Some(place) = place.filter(admitted) else {
            return evidence.audits.skipped(&rule.name, arm);
        };
        let questions = Questions::of(ask, entry);
        let had_identity = *leaks && questions.client.is_some();
        let audited = Audited {
            proxy: self.clone(),
            snapshot: Arc::clone(&visit.snapshot),
            rule: rule.id,
            arm,
            questions,
            entry: Arc::clone(entry),
            key: *key,
            who: ask.asker(),
            age: entry.lifetime().age(visit.now),
            _place: place,
        };
        // The app's own word on how long is not ours to break.
        let was_guessed = || {
            let (status, received) = (entry.status(), entry.received());
            renewal(status, &entry.headers(), received, ask.policy()).is_some()
        };
        let dropped = (settings.drop_stale && was_guessed()).then_some(*key);
        tokio::spawn(Box::pin(async move {
            let cache = audited.proxy.0.cache.clone();
            let verdict = audited.run(had_identity).await;
            if let (Verdict::Stale, Some(key)) = (verdict, dropped) {
                cache.remove(&key).await;
            }
        }));
    }
}

/// The requests that an audit may send.
struct Questions {
    target: Uri,
    nobody: HeaderMap,
    bare: HeaderMap,
    /// Only where it differs from nobody's.
    client: Option<HeaderMap>,
}

impl Questions {
    fn of(ask: &Ask<'_>, entry: &Entry) -> Self {
        let (visit, rule) = (ask.visit, ask.found.rule);
        let policy = ask.policy();
        let sent = forward::Sent {
            ask,
            storable: true,
        };
        let mut client = sent.map();
        validation::make_unconditional(&mut client);
        let vary = entry.vary();
        let selects = |name: &HeaderName| {
            rule.key.headers.contains(name) || vary.names().any(|varied| varied == name)
        };
        let named_by = visit.snapshot.identity.named_by();
        let mut nobody = client.clone();
        fields::remove_identity(&mut nobody, named_by, &rule.key.cookies, selects);
        let mut bare = nobody.clone();
        let others: Vec<_> = (bare.keys())
            .filter(|name| !BARE.contains(name) && **name != http::header::COOKIE)
            .filter(|name| !selects(name))
            .cloned()
            .collect();
        others.iter().for_each(|name| drop(bare.remove(name)));
        let told = has_credentials(&visit.headers, policy)
            || has_telling_cookie(&visit.headers, policy)
            || (client.keys()).any(|name| {
                (fields::names_sender(name) || named_by == Some(name)) && !selects(name)
            });
        let query = rule.fetch_query(visit.uri.query());
        Self {
            target: forward::target(&visit.uri, Some(query)),
            nobody,
            bare,
            client: told.then_some(client),
        }
    }

    fn fields(&self, who: Who) -> &HeaderMap {
        match who {
            Who::Nobody => &self.nobody,
            Who::Bare => &self.bare,
            Who::Client => self.client.as_ref().unwrap_or(&self.nobody),
        }
    }
}

/// A hit that is being asked of the app again.
struct Audited {
    proxy: Proxy,
    snapshot: Arc<Snapshot>,
    rule: RouteId,
    arm: &'static str,
    questions: Questions,
    /// What was served, under which key, and to whom.
    entry: Arc<Entry>,
    key: Key,
    who: u64,
    age: Duration,
    _place: Place,
}

impl Audited {
    async fn run(self, had_identity: bool) -> Verdict {
        let Some(settings) = &self.snapshot.settings.audit else {
            return Verdict::Failed;
        };
        let (status, served) = (self.entry.status().as_u16(), self.entry.headers());
        let print = Print::of(status, &self.entry.body(), &settings.ignore);
        let coding = served.get(CONTENT_ENCODING);
        let mut inquiry = Inquiry::new(print.leading(served.get(LOCATION)), had_identity);
        let rate = settings.rate;
        let evidence = &self.proxy.0.shared.evidence;
        let mut asked = 0;
        let mut verdict = loop {
            match inquiry.next() {
                Next::Done(verdict) => break verdict,
                Next::Ask(who) => {
                    if asked > 0 {
                        evidence.budget.charge(rate.quota.get(), rate.window);
                    }
                    asked += 1;
                    inquiry.hear(who, self.ask(who, settings, coding).await);
                }
            }
        };
        if let Some(own) = inquiry.own() {
            let is_shared = evidence.told.share(&self.key, self.who, own);
            if verdict == Verdict::Leak && is_shared && !inquiry.has_control() {
                // One page for all who may see any: it has changed for all of them.
                verdict = Verdict::Stale;
            }
        }
        let rule = &self.snapshot.settings.routes.all()[self.rule];
        (evidence.audits).found(&rule.name, self.arm, verdict, self.age);
        let is_leak = verdict == Verdict::Leak;
        if is_leak || (verdict == Verdict::Unstable && inquiry.was_suspicious()) {
            let now = self.proxy.0.shared.clock.now();
            // Nobody is woken for what more speaks against than for.
            if evidence.quarantines.weigh(&rule.definition(), is_leak, now) {
                self.proxy.leaks(rule, settings.quarantine, now).await;
            }
        }
        verdict
    }

    /// The app's answer, as it is compared. `None` where there is none, or one that is coded otherwise.
    async fn ask(&self, who: Who, settings: &Audit, served: Option<&HeaderValue>) -> Option<Print> {
        let head = RequestHead {
            method: &Method::GET,
            target: &self.questions.target,
            fields: self.questions.fields(who),
            interim: None,
            upgrade: false,
        };
        let patience = self.snapshot.settings.upstream.timeout;
        let of = (&*self.snapshot, self.rule);
        let asked = self.proxy.timed(of, &head, RequestBody::empty());
        let (head, body) = asked.await.ok()?.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect();
        let body = tokio::time::timeout(patience, body).await.ok()?;
        let body = body.ok()?.to_bytes();
        let coding = head.headers.get(CONTENT_ENCODING);
        let is_comparable = coding == served || !head.status.is_success();
        is_comparable.then(|| {
            let print = Print::of(head.status.as_u16(), &body, &settings.ignore);
            print.leading(head.headers.get(LOCATION))
        })
    }
}

impl Proxy {
    /// One person's answer was given to another: tells people and, where it `shuts`, shuts the route.
    async fn leaks(&self, rule: &Rule, shuts: bool, now: Timestamp) {
        let shared = &self.0.shared;
        let why = format!(
            "the app answers differently for those who were given one answer of route `{}`",
            rule.name
        );
        let is_new =
            shuts && (shared.evidence.quarantines).shut(&rule.definition(), &rule.name, &why, now);
        let done = match shuts {
            true => "The route stores nothing until it is released: POST /v1/audit/release.",
            false => "The route goes on answering from the store.",
        };
        let text = format!("{}{}. {done}", why[..1].to_uppercase(), &why[1..]);
        if is_new {
            // That a route is shut is told, whatever was told of it before.
            shared.evidence.alarms.settle(LEAK, &rule.name);
        }
        if shared.evidence.alarms.raise(LEAK, &rule.name, text, now) {
            tracing::error!(
                alarm = LEAK,
                route = &*rule.name,
                quarantined = shuts,
                "one client's answer was given to another"
            );
        }
        if is_new {
            let turned = shared
                .snapshot
                .load()
                .watched
                .obey(&shared.evidence.quarantines);
            self.0.purge_turned(&turned).await;
        }
    }
}

impl Rooms {
    async fn purge_turned(&self, turned: &Turned) {
        let purges = turned.purges();
        if !purges.is_empty() {
            for _ in &purges {
                self.recorder.purge("tag", false);
            }
            // What could not be told is queued, and what is here is gone.
            let _ = self.cache.purge(purges).await;
        }
    }
}
