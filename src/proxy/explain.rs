//! What would become of a request, and why: limit → route → key → lookup → answer.
//!
//! Asks the very functions that requests go through, so that it cannot say anything else than they
//! do. Never asks the app, counts nothing on a limit, and never repeats the value of a field.

use super::{Ask, Peer, Shared, Visit};
use crate::cache::{Cache, Lookup};
use crate::config::settings::{LimitMode, LimitPer, RedisDown};
use crate::identity::{User, UserSource};
use crate::limit::checks::checks;
use crate::redis_client;
use crate::route::{Content, Per, Plan, Target};
use crate::semantics::fields::{has_credentials, has_telling_cookie, remove_unkeyed};
use crate::semantics::{Outcome, Reason, Reuse};
use crate::telemetry::Span;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A request that is asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its method.
    pub method: Method,
    /// Its URL, whole or from the path on.
    pub url: Uri,
    /// Its fields.
    pub headers: HeaderMap,
    /// Who sends it.
    pub sender: Sender,
}

/// Who is supposed to send a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// A verified user of this id; none: whoever the fields say.
    pub user: Option<String>,
    /// The user's roles.
    pub roles: Vec<String>,
    /// The address that connects; none: 127.0.0.1.
    pub ip: Option<IpAddr>,
}

impl Sender {
    /// Adds `user:ID`, `role:ROLE` (of an unnamed user, unless one is named) or `ip:ADDRESS`.
    /// Returns whether `text` is one of these.
    pub fn add(&mut self, text: &str) -> bool {
        match text.split_once(':') {
            Some(("user", id)) if !id.is_empty() => self.user = Some(id.to_owned()),
            Some(("role", role)) if !role.is_empty() => self.roles.push(role.to_owned()),
            Some(("ip", address)) => match address.parse() {
                Ok(address) => self.ip = Some(address),
                Err(_) => return false,
            },
            _ => return false,
        }
        true
    }

    fn user(&self) -> Option<User> {
        (self.user.is_some() || !self.roles.is_empty()).then(|| User {
            id: self.user.as_deref().unwrap_or("somebody").into(),
            roles: self.roles.as_slice().into(),
        })
    }
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
    /// The word of the outcome: `hit`, `stale`, `miss`, `bypass`; `forbidden` for a 504.
    pub outcome: String,
    /// The word of the reason, as in `Cache-Status`.
    pub reason: String,
    /// The five steps, in their order.
    pub steps: Vec<Step>,
}

/// One step of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `limit`, `route`, `key`, `lookup` or `answer`.
    pub step: String,
    /// What was decided, in a few words.
    pub verdict: String,
    /// What it was decided from.
    pub details: Vec<String>,
    /// The RFC's section or the setting that decided.
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

/// Explains what would become of the request if it came now. Looks into the store as a request
/// would, and so waits for Redis at most as long as one.
pub async fn explain(shared: &Shared, cache: &Cache, question: Question) -> Explanation {
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
    };
    // No body is asked about: a QUERY, or a POST that is a read, is explained as one without.
    let plan = ask.plan(Content::None);
    let held = match &plan {
        Plan::Lookup(key) => {
            let lookup = cache.lookup(key, &visit.headers, visit.now);
            Some(redis_client::as_one(lookup).await)
        }
        Plan::Tunnel | Plan::Pass(_) | Plan::Read => None,
    };
    let (answer, outcome, reason) = ask.answered(&plan, held.as_ref());
    let mut key = ask.keyed(&plan);
    key.details.extend(assumed.into_iter().map(str::to_owned));
    Explanation {
        method: visit.method.to_string(),
        url: format!(
            "{}://{}{}",
            visit.peer.scheme(),
            visit.authority(),
            visit.path_and_query()
        ),
        config: settings.hash.clone(),
        outcome: outcome.to_owned(),
        reason: reason.word().to_owned(),
        steps: vec![
            ask.limited(),
            ask.routed(),
            key,
            ask.looked_up(held.as_ref()),
            answer,
        ],
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
    fn limited(&self) -> Step {
        let limits = &self.visit.snapshot.settings.limits;
        let rule = self.found.rule;
        let method = &self.visit.method;
        let checks = checks(limits, &rule.limits, method, self.target, self.caller);
        if checks.is_empty() {
            let change = match (limits.all.is_empty(), limits.tiers, &limits.paths) {
                (true, ..) => "A tier in limits.tiers, or a limit of a route.",
                (_, 0, _) => "A limit of this route, or a tier.",
                (_, _, Some(_)) => {
                    "limits.paths decides where tiers apply; a tier's `for`, to whom."
                }
                (_, _, None) => "Tiers leave static files out unless limits.paths names them.",
            };
            return Step::new("limit", "no limit applies").by("limits", change);
        }
        let mut step = Step::new("limit", "counted, if it were sent");
        let mut by: Vec<String> = Vec::new();
        for check in &checks {
            let at = limits
                .all
                .iter()
                .position(|it| std::ptr::eq(it, check.limit));
            let place = match at {
                Some(at) if at < limits.tiers => format!("limits.tiers[{at}]"),
                _ => format!("{}.limit", self.place()),
            };
            if !by.contains(&place) {
                by.push(place);
            }
            let per: Vec<_> = check.limit.per.iter().map(|per| limit_per(*per)).collect();
            let rate = check.limit.rate;
            step = step.detail(format!(
                "{}: {} in any {}, one counter per {}",
                check.name,
                rate.quota,
                span(rate.window),
                per.join(" and per "),
            ));
        }
        if self.visit.snapshot.settings.redis.is_some() {
            step = step.detail(match limits.redis_down {
                RedisDown::Local => "without Redis: counted here (limits.redis_down: local)",
                RedisDown::Allow => "without Redis: admitted (limits.redis_down: allow)",
                RedisDown::Deny => "without Redis: 503 (limits.redis_down: deny)",
            });
        }
        let change = match limits.mode {
            LimitMode::Enforce => "A counter that is full makes it a 429 (RFC 6585 §4).",
            LimitMode::Shadow => "Nobody is refused while limits.mode is shadow.",
        };
        step.by(by.join(", "), change)
    }

    fn routed(&self) -> Step {
        let rule = self.found.rule;
        if self.is_fallback() {
            let step = Step::new("route", "no route matches: a plain shared HTTP cache");
            return step.by(
                "routes, in their order",
                "A route whose path and methods match it.",
            );
        }
        let mut step = Step::new("route", format!("`{}`", rule.name));
        let path = rule
            .paths
            .iter()
            .find(|path| path.matches(&self.target.decoded).is_some());
        if let Some(path) = path {
            step = step.detail(format!("path {}", path.as_str()));
            for name in path.names() {
                if let Some(value) = self.found.captures.get(name) {
                    step = step.detail(format!("{{{name}}} is {value}"));
                }
            }
        }
        if let Some(ttl) = rule.policy.as_ref().and_then(|policy| policy.ttl.as_ref()) {
            step = step.detail(format!("ttl {}", span(ttl.default)));
        }
        step.by(
            self.place(),
            "The first route that matches wins; one before it would take its place.",
        )
    }

    fn keyed(&self, plan: &Plan) -> Step {
        let key = match plan {
            Plan::Lookup(key) => key,
            Plan::Pass(reason) => {
                let step = Step::new("key", format!("none: {}", reason.word()));
                let (by, change) = self.why_passed(*reason);
                return step.detail(meaning(*reason)).by(by, change);
            }
            Plan::Tunnel | Plan::Read => {
                let step = Step::new("key", "none: upgrade");
                let (by, change) = self.why_passed(Reason::Upgrade);
                return step.detail(meaning(Reason::Upgrade)).by(by, change);
            }
        };
        let rule = &self.found.rule.key;
        let mut step = Step::new("key", key.to_string()).detail(format!(
            "from {}, {} and {}",
            self.visit.peer.scheme(),
            self.visit.authority(),
            self.target.path
        ));
        if let Some(query) = self.target.query {
            step = step.detail(match self.found.rule.fetch_query(Some(query)) {
                Some(kept) if kept == query => format!("from the query {query}"),
                Some(kept) => format!("from {kept} of the query; the app does not see the rest"),
                None => "nothing of the query; the app does not see it".to_owned(),
            });
        }
        let headers = rule.headers.iter().map(|name| format!("field {name}"));
        let cookies = rule.cookies.iter().map(|name| format!("cookie {name}"));
        let per = rule.per.iter().map(|per| {
            let per = match per {
                Per::Ip => "ip",
                Per::User => "user",
                Per::Token => "token",
            };
            format!("one per {per}")
        });
        step.details.extend(headers.chain(cookies).chain(per));
        let mut sent = self.visit.headers.clone();
        remove_unkeyed(&mut sent, &rule.headers);
        let gone = self
            .visit
            .headers
            .keys()
            .filter(|name| !sent.contains_key(*name));
        step.details
            .extend(gone.map(|name| format!("{name} is not in it, so the app does not see it")));
        let place = match self.is_fallback() {
            true => "defaults.ignore_query".to_owned(),
            false => format!("{}.key, defaults.ignore_query", self.place()),
        };
        step.by(
            format!("RFC 9111 §2, {place}"),
            "Another host, path or query; what key names is in it too.",
        )
    }

    fn looked_up(&self, held: Option<&Lookup>) -> Step {
        let now = self.visit.now;
        match held {
            None => Step::new("lookup", "not asked").by("key", "A request that has a key."),
            Some(Lookup::Absent(reason)) => {
                let (by, change) = match reason {
                    Reason::Vary => (
                        "RFC 9111 §4.1",
                        "The values of the fields named by Vary that something is stored for.",
                    ),
                    Reason::Purged => ("the purge log", "The next fetch stores it anew."),
                    Reason::Expired => ("RFC 9111 §4.2", "The next fetch stores it anew."),
                    _ => ("RFC 9111 §4", "A fetch that may be stored, under this key."),
                };
                Step::new("lookup", format!("absent: {}", reason.word()))
                    .detail(meaning(*reason))
                    .by(by, change)
            }
            Some(Lookup::Found {
                entry,
                tier,
                softly_purged,
            }) => {
                let stored = &entry.stored;
                let lifetime = &stored.lifetime;
                let age = lifetime.age(now);
                let left = lifetime.fresh.saturating_sub(age);
                let freshness = match lifetime.is_fresh(now) {
                    true => format!("fresh for another {}", seconds(left)),
                    false => {
                        let since = age.saturating_sub(lifetime.fresh);
                        format!("stale since {}", seconds(since))
                    }
                };
                let verdict = format!("found in {}", tier.reason().word());
                let mut step = Step::new("lookup", verdict).detail(format!(
                    "status {}, {} bytes, {} old, {freshness}",
                    stored.status.as_u16(),
                    stored.body.len(),
                    seconds(age),
                ));
                for (window, what) in [
                    (lifetime.stale_while_revalidate, "while it is refreshed"),
                    (lifetime.stale_if_error, "if the app fails"),
                ] {
                    if !window.is_zero() {
                        step = step.detail(format!("then {} stale {what}", seconds(window)));
                    }
                }
                let vary: Vec<_> = stored.vary.names().map(|name| name.as_str()).collect();
                if !vary.is_empty() {
                    step = step.detail(format!("varies by {}", vary.join(", ")));
                }
                if !entry.tags.is_empty() {
                    step = step.detail(format!("tags {}", entry.tags.join(", ")));
                }
                if *softly_purged {
                    step = step.detail("a soft purge made it stale");
                }
                step.by(
                    "RFC 9111 §4",
                    "A purge, or other values of what it varies by.",
                )
            }
        }
    }

    fn answered(&self, plan: &Plan, held: Option<&Lookup>) -> (Step, &'static str, Reason) {
        let passed = match (plan, held) {
            (Plan::Pass(reason), _) => *reason,
            (Plan::Tunnel | Plan::Read, _) | (Plan::Lookup(_), None) => Reason::Upgrade,
            (Plan::Lookup(_), Some(held)) => return self.reused(held),
        };
        let (by, change) = self.why_passed(passed);
        let step = Step::new("answer", "bypass: the app's, not stored").by(by, change);
        (step, Outcome::Bypass.word(), passed)
    }

    fn reused(&self, held: &Lookup) -> (Step, &'static str, Reason) {
        let step = |verdict: &str| Step::new("answer", verdict);
        let reuse = self.reuse(held);
        match reuse {
            Reuse::Fresh => {
                let reason = match held {
                    Lookup::Found { tier, .. } => tier.reason(),
                    Lookup::Absent(reason) => *reason,
                };
                let step = step("hit: from the store; the app is not asked")
                    .by("RFC 9111 §4.2", "It would be a miss once stale or purged.");
                (step, Outcome::Hit.word(), reason)
            }
            Reuse::StaleWhileRevalidate(reason) => {
                let by = match reason {
                    Reason::SoftPurged => "a soft purge, stale_while_revalidate",
                    _ => "RFC 5861 §3, stale_while_revalidate",
                };
                let step = step("stale: from the store at once, refreshed behind");
                let step = step.by(by, "It would be a hit once the refresh is stored.");
                (step, Outcome::Stale.word(), reason)
            }
            Reuse::Stale(reason) => {
                let step = step("stale: from the store, since this client takes it so");
                let step = step.by(
                    "RFC 9111 §5.2.1.2, cache.client_refresh",
                    "Without max-stale the app would be asked.",
                );
                (step, Outcome::Stale.word(), reason)
            }
            Reuse::Validate(reason) => {
                let (by, change) = match reason {
                    Reason::Request => (
                        "RFC 9111 §5.2.1, cache.client_refresh",
                        "Without its Cache-Control and Pragma it would be judged by its age alone.",
                    ),
                    Reason::Purged => (
                        "RFC 9111 §4.3, the purge log",
                        "A longer stale_while_revalidate.",
                    ),
                    _ => (
                        "RFC 9111 §4.3",
                        "A longer lifetime, or stale_while_revalidate; a 304 makes it `revalidated`.",
                    ),
                };
                let step = step("miss: the app is asked whether it still holds").by(by, change);
                (self.storing(step), Outcome::Miss.word(), reason)
            }
            Reuse::Fetch(reason) => {
                let (by, change) = match reason {
                    Reason::Range => ("RFC 9111 §3.3", "A request for the whole would be stored."),
                    Reason::Authorization => (
                        "RFC 9111 §3.5",
                        "`public` or `s-maxage` from the app, or key: { per: user } on the route.",
                    ),
                    Reason::Cookie => (
                        "the cookie rule",
                        "`public` or `s-maxage` from the app, or the cookie named in key.cookies.",
                    ),
                    _ => ("RFC 9111 §4", "It would be a hit once something is stored."),
                };
                let step = step("miss: the app is asked").by(by, change);
                (self.storing(step), Outcome::Miss.word(), reason)
            }
            Reuse::Forbidden => {
                let step = step("forbidden: 504, and the app is not asked").by(
                    "RFC 9111 §5.2.1.7, cache.client_refresh",
                    "Without only-if-cached the app would be asked.",
                );
                (step, "forbidden", Reason::Request)
            }
        }
    }

    /// Adds what decides whether the app's answer will be stored.
    fn storing(&self, step: Step) -> Step {
        let policy = self.policy();
        let headers = &self.visit.headers;
        let who = match (
            has_credentials(headers, policy),
            has_telling_cookie(headers, policy),
        ) {
            _ if policy.per_identity => None,
            (true, _) => Some("credentials (RFC 9111 §3.5)"),
            (false, true) => Some("a cookie that may name somebody"),
            (false, false) => None,
        };
        let lifetime = match &policy.ttl {
            Some(ttl) if policy.override_app => {
                format!(
                    "stored for {} ({}.ttl, override)",
                    span(ttl.default),
                    self.place()
                )
            }
            Some(ttl) => format!(
                "stored for {} where the app names no lifetime ({}.ttl)",
                span(ttl.default),
                self.place()
            ),
            None => "stored if the app names a lifetime (RFC 9111 §4.2.1)".to_owned(),
        };
        let step = step.detail(lifetime);
        match who {
            Some(who) => step.detail(format!(
                "but the request carries {who}: only if the app says that it may be shared"
            )),
            None => {
                step.detail("never with private, no-store, Set-Cookie or Vary: * (RFC 9111 §3)")
            }
        }
    }

    /// What sends the request past the store, and what would not.
    fn why_passed(&self, reason: Reason) -> (String, &'static str) {
        let place = self.place();
        match reason {
            Reason::Upgrade => (
                "RFC 9110 §7.8".into(),
                "Without Upgrade it would be looked up.",
            ),
            Reason::Method => (
                "RFC 9110 §9.2.3".into(),
                "GET, HEAD and QUERY are looked up, and POST where key.body says that it reads.",
            ),
            Reason::AmbiguousPath => (
                "RFC 3986 §6.2.2".into(),
                "The path in plain form: no //, .., ;, \\ or encoded delimiter; at most 256 parameters.",
            ),
            Reason::NoStore => (
                format!("{place}.no_store"),
                "Without no_store: true it would be looked up.",
            ),
            Reason::Private => (
                format!("{place}.key.per"),
                "A caller whom key.per can tell apart: a verified user, or a credential.",
            ),
            Reason::Body => (
                "RFC 9110 §9.3.1".into(),
                "Without a body it would be looked up.",
            ),
            _ => (place, ""),
        }
    }

    fn is_fallback(&self) -> bool {
        self.found.rule.id + 1 == self.visit.snapshot.settings.routes.all().len()
    }

    /// The route's place in the configuration: `routes[2]`.
    fn place(&self) -> String {
        match self.is_fallback() {
            true => "defaults".to_owned(),
            false => format!("routes[{}]", self.found.rule.id),
        }
    }
}

/// The meaning of a word, as the documentation has it.
fn meaning(reason: Reason) -> &'static str {
    reason.meaning().trim()
}

const fn limit_per(per: LimitPer) -> &'static str {
    match per {
        LimitPer::Ip => "ip",
        LimitPer::User => "user",
        LimitPer::Token => "token",
    }
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
mod tests {
    use super::*;
    use crate::cache::testing::entry;
    use crate::clock::Clock;
    use crate::config::{Environment, Source};
    use crate::identity::Identity;
    use crate::proxy::{Snapshot, Tunnels};
    use crate::semantics::{Key, Timestamp};
    use arc_swap::ArcSwap;
    use std::sync::Arc;

    fn shared(yaml: &str) -> Shared {
        let source = Source {
            name: "test".into(),
            text: format!("upstream: http://localhost:1\n{yaml}"),
        };
        let (settings, _) = crate::config::load(source, &Environment::ignored()).unwrap();
        let snapshot = Snapshot {
            identity: Arc::new(Identity::new(settings.identity.clone())),
            settings: Arc::new(settings),
            handles: Vec::new(),
        };
        Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            coalescer: Arc::default(),
            tunnels: Tunnels::default(),
            clock: Clock::manual(Timestamp::from_millis(1_000_000)),
            log: crate::telemetry::AccessLog::default(),
            traces: crate::telemetry::Traces::default(),
        }
    }

    fn cache() -> Cache {
        Cache::new(1 << 20, "test", 1 << 20)
    }

    fn question(method: &str, url: &str, fields: &[(&'static str, &'static str)]) -> Question {
        Question {
            method: method.parse().unwrap(),
            url: url.parse().unwrap(),
            headers: fields
                .iter()
                .map(|(name, value)| {
                    (
                        http::HeaderName::from_static(name),
                        HeaderValue::from_static(value),
                    )
                })
                .collect(),
            sender: Sender::default(),
        }
    }

    async fn told(yaml: &str, question: Question) -> Explanation {
        explain(&shared(yaml), &cache(), question).await
    }

    const ROUTES: &str = "limits: { tiers: [{ name: public, for: anyone, rate: 60/min, per: ip }] }
routes:
  - { path: /api/me, no_store: true }
  - { path: \"/api/mine\", ttl: 1m, key: { per: user } }
  - { path: \"/api/cars/{id}\", ttl: 90s, limit: { rate: 5/15m, per: ip } }
";

    #[tokio::test]
    async fn the_five_steps_name_their_settings() {
        let told = told(
            ROUTES,
            question("GET", "http://shop.test/api/cars/42?b=1", &[]),
        )
        .await;
        let steps: Vec<&str> = told.steps.iter().map(|step| &*step.step).collect();
        assert_eq!(steps, ["limit", "route", "key", "lookup", "answer"]);
        assert_eq!(told.url, "http://shop.test/api/cars/42?b=1");
        assert_eq!((&*told.outcome, &*told.reason), ("miss", "cold"));
        assert_eq!(told.steps[0].by, "limits.tiers[0], routes[2].limit");
        assert!(told.steps[0].details[1].contains("5 in any 15m, one counter per ip"));
        assert_eq!(told.steps[1].by, "routes[2]");
        assert!(told.steps[1].details.contains(&"{id} is 42".to_owned()));
        assert!(told.steps[4].details[0].contains("90s"));
        let text = told.to_string();
        assert!(text.contains("\n3 key     ") && text.contains("\nMISS (cold), configuration "));
        assert!(
            told.steps
                .iter()
                .all(|step| !step.by.is_empty() && !step.change.is_empty())
        );
    }

    #[tokio::test]
    async fn what_is_passed_is_not_looked_up_and_says_why() {
        for (method, url, fields, reason, by) in [
            ("GET", "/api/me", &[][..], "no-store", "routes[0].no_store"),
            ("GET", "/api/mine", &[], "private", "routes[1].key.per"),
            ("POST", "/x", &[], "method", "RFC 9110 §9.2.3"),
            ("GET", "/a//b", &[], "ambiguous-path", "RFC 3986 §6.2.2"),
            (
                "GET",
                "/x",
                &[("connection", "upgrade"), ("upgrade", "websocket")],
                "upgrade",
                "RFC 9110 §7.8",
            ),
        ] {
            let told = told(ROUTES, question(method, url, fields)).await;
            assert_eq!((&*told.outcome, &*told.reason), ("bypass", reason), "{url}");
            assert_eq!(told.steps[2].by, by);
            assert_eq!(told.steps[3].verdict, "not asked");
        }
    }

    #[tokio::test]
    async fn a_user_that_is_assumed_has_a_key_of_their_own() {
        let with = |user: &str| {
            let mut question = question("GET", "/api/mine", &[]);
            assert!(question.sender.add(user));
            question
        };
        let one = told(ROUTES, with("user:u1")).await;
        let other = told(ROUTES, with("user:u2")).await;
        assert_eq!(one.outcome, "miss");
        assert_ne!(one.steps[2].verdict, other.steps[2].verdict);
    }

    #[tokio::test]
    async fn what_is_stored_is_a_hit_until_it_is_stale_and_no_value_of_a_field_is_told() {
        let (shared, cache) = (shared(ROUTES), cache());
        let ask = |fields| question("GET", "http://shop.test/api/cars/42", fields);
        let cold = explain(&shared, &cache, ask(&[])).await;
        let mut bytes = [0; 16];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&cold.steps[2].verdict[at * 2..][..2], 16).unwrap();
        }
        let mut held = entry("shop.test/api/cars/42", b"body");
        held.stored.lifetime.received = shared.clock.now();
        held.stored.lifetime.initial_age = Duration::ZERO;
        held.stored.lifetime.fresh = Duration::from_secs(60);
        held.stored.sharing = crate::semantics::Sharing::Route;
        cache.store(&Key::from_bytes(bytes), Arc::new(held), shared.clock.now());
        let hit = explain(&shared, &cache, ask(&[])).await;
        assert_eq!((&*hit.outcome, &*hit.reason), ("hit", "memory"), "{hit}");
        assert!(
            hit.steps[3].details[0].ends_with("fresh for another 60s"),
            "{hit}"
        );
        let fields = &[
            ("authorization", "Bearer s3cr3t"),
            ("x-forwarded-host", "evil.test"),
        ];
        let withheld = explain(&shared, &cache, ask(fields)).await;
        assert_eq!(
            (&*withheld.outcome, &*withheld.reason),
            ("miss", "authorization")
        );
        let text = withheld.to_string();
        assert!(text.contains("x-forwarded-host is not in it") && text.contains("RFC 9111 §3.5"));
        assert!(!text.contains("s3cr3t") && !text.contains("evil"), "{text}");
    }

    #[test]
    fn a_sender_is_a_user_a_role_or_an_address() {
        let mut sender = Sender::default();
        for good in ["user:a:b", "role:admin", "ip:2001:db8::1"] {
            assert!(sender.add(good), "{good}");
        }
        assert_eq!(sender.user.as_deref(), Some("a:b"));
        for bad in ["", "u1", "user:", "role:", "ip:x", "me:1"] {
            assert!(!sender.add(bad), "{bad}");
        }
    }

    #[test]
    fn spans_are_written_as_the_configuration_writes_them() {
        let told = [0, 1_500, 90_000, 60_000, 7_200_000, 86_400_000];
        let told = told.map(|millis| span(Duration::from_millis(millis)));
        assert_eq!(told, ["0ms", "1500ms", "90s", "1m", "2h", "1d"]);
    }
}
