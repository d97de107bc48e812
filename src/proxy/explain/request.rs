//! The way to the store: limit → route → key.

use super::{Step, masked, span};
use crate::config::settings::{LimitMode, LimitPer, RedisDown};
use crate::limit::checks::checks;
use crate::limit::{Check, Counted, Decision, Limiter, State};
use crate::proxy::Ask;
use crate::route::{Arm, Per, Plan, Rule};
use crate::semantics::Reason;
use crate::semantics::fields::{remove_unkeyed, telling_cookies};
use crate::semantics::search::told;
use http::header::AUTHORIZATION;

/// Routes before the one that matches, of which is told why they do not.
const EARLIER_MAX: usize = 5;
/// Names of parameters, fields or cookies in one detail.
const NAMES_MAX: usize = 20;

impl Ask<'_> {
    fn checks(&self) -> Vec<Check<'_>> {
        let limits = &self.visit.snapshot.settings.limits;
        let route_limits = &self.found.rule.limits;
        checks(
            limits,
            route_limits,
            &self.visit.method,
            self.target,
            self.caller,
        )
    }

    /// What the limits would decide now; nothing is counted.
    pub(super) async fn look(&self, limiter: &Limiter) -> Decision {
        let limits = &self.visit.snapshot.settings.limits;
        let checks = self.checks();
        let decision = limiter.look(&checks, limits.redis_down, self.visit.now);
        decision.await.in_mode(limits.mode)
    }

    pub(super) fn limited(&self, decision: Option<&Decision>) -> Step {
        let limits = &self.visit.snapshot.settings.limits;
        let checks = self.checks();
        if checks.is_empty() {
            let change = match (limits.all.is_empty(), limits.tiers, &limits.paths) {
                (true, ..) => "A tier in limits.tiers, or a limit of a route.",
                (_, 0, _) => "A limit of this route, or a tier.",
                (_, _, Some(_)) => {
                    "limits.paths decides where tiers apply; a tier's `for`, to whom."
                }
                (_, _, None) => "Tiers leave static files out unless limits.paths names them.",
            };
            let step = self.who(Step::new("limit", "no limit applies"));
            return step.by(self.setting("limits"), change);
        }
        let refused = decision.is_some_and(|decision| decision.refusals().next().is_some());
        let verdict = match decision {
            None => "counted, if it were sent",
            Some(decision) if decision.unavailable => "refused: 503, since nothing can be counted",
            Some(decision) if !decision.admitted => "refused: 429",
            Some(_) if refused => "admitted, in shadow: it would be refused",
            Some(_) => "admitted",
        };
        let mut step = self.who(Step::new("limit", verdict));
        let mut by: Vec<String> = Vec::new();
        for (number, check) in checks.iter().enumerate() {
            let at = limits
                .all
                .iter()
                .position(|it| std::ptr::eq(it, check.limit));
            let place = match at {
                Some(at) if at < limits.tiers => self.setting(&format!("limits.tiers[{at}]")),
                _ => self.setting(&format!("{}.limit", self.place())),
            };
            if !by.contains(&place) {
                by.push(place);
            }
            let per: Vec<_> = check.limit.per.iter().map(|per| limit_per(*per)).collect();
            let rate = check.limit.rate;
            let state = decision.and_then(|decision| decision.states.get(number));
            step = step.detail(format!(
                "{}: {} in any {}, one counter per {}{}",
                check.name,
                rate.quota,
                span(rate.window),
                per.join(" and per "),
                state.map(counted).unwrap_or_default(),
            ));
        }
        if self.visit.snapshot.settings.redis.is_some() {
            let away =
                decision.is_some_and(|decision| decision.counted != Counted::Shared) && !refused;
            let away = if away {
                "Redis is away"
            } else {
                "without Redis"
            };
            let (how, word) = match limits.redis_down {
                RedisDown::Local => ("counted here", "local"),
                RedisDown::Allow => ("admitted", "allow"),
                RedisDown::Deny => ("503", "deny"),
            };
            step = step.detail(format!("{away}: {how} (limits.redis_down: {word})"));
        }
        let change = match (limits.mode, refused) {
            (LimitMode::Enforce, false) => "A counter that is full makes it a 429 (RFC 6585 §4).",
            (LimitMode::Enforce, true) => {
                "It is admitted again when the counter has room; or with a higher rate, or limits.mode: shadow."
            }
            (LimitMode::Shadow, _) => "Nobody is refused while limits.mode is shadow.",
        };
        step.by(by.join(", "), change)
    }

    /// Whom the limits and the key take the caller for.
    fn who(&self, step: Step) -> Step {
        let headers = &self.visit.headers;
        let via = self.caller.via_trusted_proxy();
        let forwarded =
            headers.contains_key("x-forwarded-for") || headers.contains_key("forwarded");
        let address = match (via, forwarded) {
            (true, true) => ", as a trusted proxy says",
            (false, true) => {
                ", of the connection: who connects is none of identity.trusted_proxies"
            }
            (_, false) => "",
        };
        let user = match self.caller.user() {
            Some(user) if user.roles.is_empty() => "a verified user".to_owned(),
            Some(user) => format!("a verified user who is {}", user.roles.join(", ")),
            None if headers.contains_key(AUTHORIZATION) => {
                "no user, since its credentials are not verified here".to_owned()
            }
            None => "no user".to_owned(),
        };
        step.detail(format!(
            "who asks: {user}; address {}{address}",
            self.caller.network()
        ))
    }

    pub(super) fn routed(&self) -> Step {
        let rule = self.found.rule;
        if self.is_fallback() {
            let step = Step::new("route", "no route matches: a plain shared HTTP cache");
            return self.passed_over(step).by(
                self.setting("routes"),
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
        if !rule.methods.is_empty() {
            step = step.detail(format!("methods {}", methods(rule)));
        }
        if let Some(ttl) = rule.policy.as_ref().and_then(|policy| policy.ttl.as_ref()) {
            step = step.detail(format!("ttl {}", span(ttl.default)));
        }
        self.passed_over(step).by(
            self.setting(&self.place()),
            "The first route that matches wins; one before it would take its place.",
        )
    }

    /// Why the routes before did not match: those of other methods, then the nearest ones.
    fn passed_over(&self, mut step: Step) -> Step {
        let rules = self.visit.snapshot.settings.routes.all();
        let earlier = rules.get(..self.found.rule.id).unwrap_or_default();
        let mut misses: Vec<(bool, &Rule)> = (earlier.iter().rev())
            .map(|rule| {
                let mut paths = rule.paths.iter();
                let path = paths.any(|path| path.matches(&self.target.decoded).is_some());
                (!path, rule)
            })
            .collect();
        misses.sort_by_key(|(path, _)| *path);
        for (path, rule) in misses.iter().take(EARLIER_MAX) {
            let why = match path {
                true => {
                    let paths: Vec<_> = rule.paths.iter().map(|path| path.as_str()).collect();
                    format!("its path is {}", few(&paths, " or "))
                }
                false => format!("its methods are {}", methods(rule)),
            };
            let place = self.setting(&format!("routes[{}]", rule.id));
            step = step.detail(format!("not `{}`, {place}: {why}", rule.name));
        }
        match misses.len().saturating_sub(EARLIER_MAX) {
            0 => step,
            more => step.detail(format!("nor {more} before it")),
        }
    }

    pub(super) fn keyed(&self, plan: &Plan) -> Step {
        let key = match plan {
            Plan::Lookup(key) => key,
            Plan::Pass(reason) => {
                let step = Step::new("key", format!("none: {}", reason.word()));
                let (by, change) = self.why_passed(*reason);
                let mut step = step.detail(reason.meaning());
                let shut = self.visit.snapshot.watched.shut_since(self.found.rule.id);
                if let Some(since) = shut.filter(|_| *reason == Reason::Quarantined) {
                    step = step.detail(format!("quarantined since {}", since.rfc3339()));
                }
                return step.by(by, change);
            }
            Plan::Tunnel | Plan::Read => {
                let step = Step::new("key", "none: upgrade");
                let (by, change) = self.why_passed(Reason::Upgrade);
                return step.detail(Reason::Upgrade.meaning()).by(by, change);
            }
        };
        let rule = &self.found.rule.key;
        let mut step = Step::new("key", key.to_string()).detail(format!(
            "from {}, {} and {}",
            self.scheme(),
            self.visit.authority(),
            self.target.path
        ));
        if let Some(query) = self.target.query {
            step = step.detail(match self.found.rule.fetch_query(Some(query)) {
                Some(kept) if kept == query => format!("from the query {}", masked(query)),
                Some(kept) => format!(
                    "from {} of the query; the app does not see the rest",
                    masked(&kept)
                ),
                None => "nothing of the query; the app does not see it".to_owned(),
            });
            let left_out = self.found.rule.left_out(query);
            if !left_out.is_empty() {
                step = step.detail(format!("left out: {}", few(&left_out, ", ")));
            }
        }
        if let Some(stated) = self.search.as_ref().filter(|_| self.has_places()) {
            let left = self.found.rule.loosened(self.target.query, stated);
            step = step.detail(format!(
                "of it {:?} counts: the path's last answer said No-Vary-Search: {stated}",
                masked(&told(&left))
            ));
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
        if let Some(experiment) = &self.found.rule.scrutiny.experiment {
            let (arm, ttl) = match experiment.arm(key) {
                Arm::Control => ("control", self.policy().ttl.as_ref().map(|ttl| ttl.default)),
                Arm::Trial => ("trial", Some(experiment.ttl)),
            };
            let ttl = ttl
                .map(|ttl| format!(": ttl {}", span(ttl)))
                .unwrap_or_default();
            step = step.detail(format!("on the {arm} side of the route's experiment{ttl}"));
        }
        step = self.unkeyed(step);
        let place = match self.is_fallback() || rule.query.is_none() {
            true => self.setting("cache.ignore_query"),
            false => self.setting(&format!("{}.key.query", self.place())),
        };
        step.by(
            format!("RFC 9111 §2, {place}"),
            "Another host, path or query; what key names is in it too.",
        )
    }

    /// What the app could see without its being in the key: dropped fields, telling cookies.
    fn unkeyed(&self, mut step: Step) -> Step {
        let headers = &self.visit.headers;
        let mut sent = headers.clone();
        remove_unkeyed(&mut sent, &self.found.rule.key.headers);
        let gone = headers.keys().filter(|name| !sent.contains_key(*name));
        for name in gone.take(NAMES_MAX) {
            step = step.detail(format!("{name} is not in it, so the app does not see it"));
        }
        let policy = self.policy();
        let cookies = telling_cookies(headers, policy).filter(|name| !name.is_empty());
        let cookies: Vec<String> = cookies
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        match cookies.is_empty() || policy.per_identity {
            true => step,
            false => step.detail(format!(
                "not in it: cookies that may name somebody: {}",
                few(&cookies, ", ")
            )),
        }
    }

    /// What sends the request past the store, and what would not.
    pub(super) fn why_passed(&self, reason: Reason) -> (String, &'static str) {
        match reason {
            Reason::Upgrade => (reason.by().into(), "Without Upgrade it would be looked up."),
            Reason::Method => (
                reason.by().into(),
                "GET and HEAD are looked up, no other method.",
            ),
            Reason::NoStore => (
                self.of_route("no_store"),
                "Without no_store: true it would be looked up.",
            ),
            Reason::Private => (
                self.of_route("key.per"),
                "A caller whom key.per can tell apart: a verified user, or a credential.",
            ),
            Reason::Body => (reason.by().into(), "Without a body it would be looked up."),
            _ => (reason.by().into(), reason.fix()),
        }
    }
}

/// `; 3 left`, and until when where there is none.
fn counted(state: &State) -> String {
    match state.remaining {
        0 => format!("; none left for another {}s", state.reset.as_secs().max(1)),
        left => format!("; {left} left now"),
    }
}

fn methods(rule: &Rule) -> String {
    let methods: Vec<_> = rule.methods.iter().map(http::Method::as_str).collect();
    methods.join(", ")
}

/// The first names, and how many more there are.
fn few(names: &[impl AsRef<str>], between: &str) -> String {
    let shown: Vec<_> = names.iter().take(NAMES_MAX).map(AsRef::as_ref).collect();
    let shown = shown.join(between);
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

const fn limit_per(per: LimitPer) -> &'static str {
    match per {
        LimitPer::Ip => "ip",
        LimitPer::User => "user",
        LimitPer::Token => "token",
    }
}
