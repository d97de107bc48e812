//! What would become of a request, and why: limit → route → key → lookup → answer, and whether what the
//! app answers would be stored.
//!
//! Asks the very functions that requests go through, so that it cannot say anything else than they
//! do. Never asks the app, counts nothing on a limit, and never repeats the value of a field.

mod question;
mod request;
mod response;

pub use question::{AppAnswer, Question, Sender, Unclear};

use super::{Ask, Peer, Shared, Snapshot, Visit};
use crate::cache::{Cache, Lookup};
use crate::clock::Clock;
use crate::config::Settings;
use crate::identity::{Identity, UserSource};
use crate::limit::Limiter;
use crate::redis_client;
use crate::route::{Content, Plan, Target};
use crate::semantics::reuse::is_failure;
use crate::semantics::{Outcome, Reason};
use crate::telemetry::Span;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, Uri};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// What a running larder holds and counts.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// The store.
    pub cache: &'a Cache,
    /// The limits; looked at, never counted on.
    pub limiter: &'a Limiter,
}

/// What would become of a request. The same as JSON and, by `Display`, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The method.
    pub method: String,
    /// Scheme, host, path and query as the request would be understood.
    pub url: String,
    /// The configuration's hash.
    pub config: String,
    /// The word of the outcome: `hit`, `stale`, `miss`, `bypass`, `refused`; `forbidden` for a 504.
    pub outcome: String,
    /// The word of the reason, as in `Cache-Status`.
    pub reason: String,
    /// The five steps, in their order; a sixth where an answer of the app was asked about.
    pub steps: Vec<Step>,
}

/// One step of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `limit`, `route`, `key`, `lookup`, `answer` or `store`.
    pub step: String,
    /// What was decided, in a few words.
    pub verdict: String,
    /// What it was decided from.
    pub details: Vec<String>,
    /// The RFC's section, and the setting with its place: `routes[2].ttl (proxy.yaml:31)`.
    pub by: String,
    /// What would change it.
    pub change: String,
}

impl Step {
    fn new(step: &str, verdict: impl Into<String>) -> Self {
        Self {
            step: step.into(),
            verdict: verdict.into(),
            details: Vec::new(),
            by: String::new(),
            change: String::new(),
        }
    }

    fn by(mut self, by: impl Into<String>, change: impl Into<String>) -> Self {
        self.by = by.into();
        self.change = change.into();
        self
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.method, self.url)?;
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "\n{number} {:<8}{}", step.step, step.verdict)?;
            for detail in &step.details {
                writeln!(f, "          {detail}")?;
            }
            for (label, text) in [("by", &step.by), ("change", &step.change)] {
                if !text.is_empty() {
                    writeln!(f, "          {label}: {text}")?;
                }
            }
        }
        writeln!(
            f,
            "\n{} ({}), configuration {}",
            self.outcome.to_uppercase(),
            self.reason,
            self.config
        )
    }
}

/// Explains what would become of the request if it came now. Looks into the store and at the counters
/// as a request would, and so waits for Redis at most as long as one.
pub async fn explain(shared: &Shared, live: Live<'_>, question: Question) -> Explanation {
    answer(shared, Some(live), question).await
}

/// Explains by the configuration alone, without a running larder: nothing is stored, nothing counted,
/// and no keys for tokens are fetched.
pub async fn explain_settings(settings: Settings, question: Question) -> Explanation {
    let identity = Arc::new(Identity::new(settings.identity.clone()));
    let snapshot = Snapshot::new(Arc::new(settings), identity, Vec::new(), None);
    let shared = Shared::new(snapshot, Clock::system());
    answer(&shared, None, question).await
}

async fn answer(shared: &Shared, live: Option<Live<'_>>, question: Question) -> Explanation {
    let (visit, assumed) = visit(shared, &question);
    let target = Target::parse(visit.uri.path(), visit.uri.query());
    let settings = &visit.snapshot.settings;
    let found = settings.routes.find(&visit.method, &target);
    let identity = &visit.snapshot.identity;
    let mut caller = identity.caller(visit.peer.address, &visit.headers, visit.now);
    if let Some(user) = question.sender.user() {
        caller = caller.as_user(user);
    }
    let ask = Ask {
        visit: &visit,
        target: &target,
        found: &found,
        caller: &caller,
        span: &Span::default(),
        search: shared.searches.find(|| visit.authority(), target.path),
    };
    // No body is asked about: a QUERY, or a POST that is a read, is explained as one without.
    let plan = ask.plan(Content::None);
    let (decision, held) = redis_client::as_one(async {
        let decision = match live {
            Some(live) => Some(ask.look(live.limiter).await),
            None => None,
        };
        let held = match (&plan, live) {
            (Plan::Lookup(key), Some(live)) => {
                Some(live.cache.lookup(key, &visit.headers, visit.now).await)
            }
            _ => None,
        };
        (decision, held)
    })
    .await;
    let refused = (decision.as_ref()).is_some_and(|decision| !decision.admitted);
    let (answer, outcome, reason) = ask.answered(&plan, held.as_ref());
    let kept = question.answer.as_ref();
    let kept = kept.map(|app| ask.kept(&plan, held.as_ref(), app));
    let fails = question.answer.as_ref();
    let fails = fails.is_some_and(|app| is_failure(app.status));
    let may_stand_in = fails && matches!(held, Some(Lookup::Found { .. }));
    let (outcome, reason) = match &kept {
        _ if refused => (Outcome::Refused.word(), Reason::Limited),
        // An answer that is not stored makes of a miss a bypass. For a failing app what is held may
        // stand in, which is not known before.
        Some((_, Some(unkept))) if outcome == Outcome::Miss.word() && !may_stand_in => {
            (Outcome::Bypass.word(), *unkept)
        }
        _ => (outcome, reason),
    };
    let mut key = ask.keyed(&plan);
    key.details.extend(assumed.into_iter().map(str::to_owned));
    let mut steps = vec![
        ask.limited(decision.as_ref()),
        ask.routed(),
        key,
        ask.looked_up(&plan, held.as_ref()),
        answer,
    ];
    steps.extend(kept.map(|(step, _)| step));
    Explanation {
        method: visit.method.to_string(),
        url: format!(
            "{}://{}{}{}",
            visit.peer.scheme(),
            visit.authority(),
            target.path,
            target
                .query
                .map(|query| format!("?{}", masked(query)))
                .unwrap_or_default(),
        ),
        config: settings.hash.clone(),
        outcome: outcome.to_owned(),
        reason: reason.word().to_owned(),
        steps,
    }
}

/// The request as it would come in, and what was assumed to make it one.
fn visit(shared: &Shared, question: &Question) -> (Visit, Vec<&'static str>) {
    let snapshot = shared.snapshot.load_full();
    let settings = &snapshot.settings;
    let mut assumed = Vec::new();
    let mut headers = question.headers.clone();
    let host = |text: &str| HeaderValue::from_str(text).ok();
    let named = question.url.authority().map(http::uri::Authority::as_str);
    if let Some(host) = named.and_then(host) {
        headers.insert(HOST, host);
    } else if !headers.contains_key(HOST)
        && let Some(host) = host(&format!("localhost:{}", settings.listen.address.port()))
    {
        headers.insert(HOST, host);
        assumed.push("the host is assumed; name another by a whole URL or by Host");
    }
    if question.sender.user().is_some()
        && matches!(settings.identity.user, UserSource::Claim(_))
        && !headers.contains_key(AUTHORIZATION)
    {
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer assumed"));
        assumed.push(
            "a token is assumed, as a verified user has one; a key per token needs the real one",
        );
    }
    let path = question.url.path_and_query().cloned();
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = question.method.clone();
    parts.uri = path.map(Uri::from).unwrap_or_default();
    parts.headers = headers;
    let ip = question.sender.ip;
    let peer = Peer {
        address: (ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), 0).into(),
        tls: settings.listen.tls.is_some(),
    };
    let trace = shared.traces.context(&parts.headers);
    let now = shared.clock.now();
    (Visit::new(snapshot, trace, parts, peer, now), assumed)
}

impl Ask<'_> {
    fn is_fallback(&self) -> bool {
        self.found.rule.id + 1 == self.visit.snapshot.settings.routes.all().len()
    }

    /// The route's place in the configuration: `routes[2]`; all of them where none matches.
    fn place(&self) -> String {
        match self.is_fallback() {
            true => "routes".to_owned(),
            false => format!("routes[{}]", self.found.rule.id),
        }
    }

    /// A setting with where it is made: `cache.set_cookie (proxy.yaml:31)`, or `(default)`.
    fn setting(&self, path: &str) -> String {
        let at = self.visit.snapshot.settings.places.at(path);
        format!("{path} ({at})")
    }

    /// A setting that only routes have.
    fn of_route(&self, key: &str) -> String {
        match self.is_fallback() {
            true => self.setting("routes"),
            false => self.setting(&format!("{}.{key}", self.place())),
        }
    }

    /// A setting of the route; without one in the route, of the defaults.
    fn or_default(&self, key: &str) -> String {
        let own = format!("{}.{key}", self.place());
        match self.visit.snapshot.settings.places.at(&own) == "default" {
            true => self.setting(&format!("defaults.{key}")),
            false => self.setting(&own),
        }
    }
}

/// The query without the values of parameters that are credentials by their names.
fn masked(query: &str) -> Cow<'_, str> {
    const WORDS: [&str; 10] = [
        "key", "pass", "pwd", "sig", "auth", "session", "sid", "code", "otp", "pin",
    ];
    const ENDINGS: [&str; 8] = [
        "token",
        "apikey",
        "secret",
        "password",
        "signature",
        "credential",
        "jwt",
        "sessionid",
    ];
    let telling = |name: &str| {
        let name = name.to_ascii_lowercase();
        let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
        ENDINGS.iter().any(|end| name.ends_with(end)) || words.any(|word| WORDS.contains(&word))
    };
    let hidden = |part: &str| matches!(part.split_once('='), Some((name, value)) if !value.is_empty() && telling(name));
    if !query.split('&').any(hidden) {
        return Cow::Borrowed(query);
    }
    let parts = query.split('&').map(|part| match part.split_once('=') {
        Some((name, _)) if hidden(part) => Cow::Owned(format!("{name}=***")),
        _ => Cow::Borrowed(part),
    });
    Cow::Owned(parts.collect::<Vec<_>>().join("&"))
}

/// Whole seconds: `287s`.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// In the coarsest unit that is exact, as the configuration writes it: `1h`, `90s`, `1500ms`.
fn span(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    let unit = units
        .into_iter()
        .find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
    let (unit, word) = unit.unwrap_or((1, "ms"));
    format!("{}{word}", millis / unit)
}

#[cfg(test)]
mod tests;
