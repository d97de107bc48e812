//! The way back: lookup → answer, and whether the app's answer would be stored.

use super::{AppAnswer, Step, seconds, span};
use crate::cache::Lookup;
use crate::proxy::Ask;
use crate::route::Plan;
use crate::semantics::fields::{has_credentials, has_telling_cookie};
use crate::semantics::what_if::{self, Refusal, Remedy};
use crate::semantics::{Exchange, Outcome, Policy, Reason, Reuse, Stored, storable};
use http::header::CONTENT_LENGTH;

impl Ask<'_> {
    pub(super) fn looked_up(&self, plan: &Plan, held: Option<&Lookup>) -> Step {
        let now = self.visit.now;
        match held {
            None if matches!(plan, Plan::Lookup(_)) => {
                Step::new("lookup", "not asked: there is no running larder").by(
                    "RFC 9111 §4",
                    "Ask a running larder (--admin) what it holds.",
                )
            }
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
                    .detail(reason.meaning())
                    .by(by, change)
            }
            Some(Lookup::Found {
                entry,
                tier,
                softly_purged,
            }) => {
                let lifetime = entry.lifetime();
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
                    entry.status().as_u16(),
                    entry.body_bytes(),
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
                let vary = entry.vary();
                let vary: Vec<_> = vary.names().map(|name| name.as_str()).collect();
                if !vary.is_empty() {
                    step = step.detail(format!("varies by {}", vary.join(", ")));
                }
                let tags: Vec<_> = entry.tags().collect();
                if !tags.is_empty() {
                    step = step.detail(format!("tags {}", tags.join(", ")));
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

    pub(super) fn answered(
        &self,
        plan: &Plan,
        held: Option<&Lookup>,
    ) -> (Step, &'static str, Reason) {
        let passed = match (plan, held) {
            (Plan::Pass(reason), _) => *reason,
            (Plan::Tunnel | Plan::Read, _) => Reason::Upgrade,
            (Plan::Lookup(_), Some(held)) => return self.reused(held),
            (Plan::Lookup(_), None) => return self.reused(&Lookup::Absent(Reason::Cold)),
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
                let window = self.or_default("stale_while_revalidate");
                let by = match reason {
                    Reason::SoftPurged => format!("a soft purge, {window}"),
                    _ => format!("RFC 5861 §3, {window}"),
                };
                let step = step("stale: from the store at once, refreshed behind");
                let step = step.by(by, "It would be a hit once the refresh is stored.");
                (step, Outcome::Stale.word(), reason)
            }
            Reuse::Stale(reason) => {
                let step = step("stale: from the store, since this client takes it so");
                let step = step.by(
                    self.by_client("RFC 9111 §5.2.1.2"),
                    "Without max-stale the app would be asked.",
                );
                (step, Outcome::Stale.word(), reason)
            }
            Reuse::Validate(reason) => {
                let (by, change) = match reason {
                    Reason::Request => (
                        self.by_client("RFC 9111 §5.2.1"),
                        "Without its Cache-Control and Pragma it would be judged by its age alone.",
                    ),
                    Reason::Purged => (
                        "RFC 9111 §4.3, the purge log".to_owned(),
                        "A longer stale_while_revalidate.",
                    ),
                    _ => (
                        "RFC 9111 §4.3".to_owned(),
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
                    self.by_client("RFC 9111 §5.2.1.7"),
                    "Without only-if-cached the app would be asked.",
                );
                (step, "forbidden", Reason::Request)
            }
        }
    }

    fn by_client(&self, section: &str) -> String {
        format!("{section}, {}", self.setting("cache.client_refresh"))
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
            Some(ttl) if policy.override_app => format!(
                "stored for {}, {} and {}",
                span(ttl.default),
                self.of_route("ttl"),
                self.of_route("override"),
            ),
            Some(ttl) => format!(
                "stored for {} where the app names no lifetime, {}",
                span(ttl.default),
                self.of_route("ttl")
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

    /// Whether an answer that is made up would be stored: every check of storing in its order; and the
    /// reason if not.
    pub(super) fn kept(
        &self,
        plan: &Plan,
        held: Option<&Lookup>,
        app: &AppAnswer,
    ) -> (Step, Option<Reason>) {
        let passed = match plan {
            Plan::Lookup(_) => None,
            Plan::Pass(reason) => Some(*reason),
            Plan::Tunnel | Plan::Read => Some(Reason::Upgrade),
        };
        if let Some(reason) = passed {
            let (by, change) = self.why_passed(reason);
            let verdict = format!("not stored: {}, as the request is passed", reason.word());
            return (Step::new("store", verdict).by(by, change), Some(reason));
        }
        let exchange = Exchange {
            method: &self.visit.method,
            path: self.visit.uri.path(),
            request: &self.visit.headers,
            status: app.status,
            response: &app.headers,
            requested: self.visit.now,
            received: self.visit.now,
            client: self.visit.client_refresh(),
            // The longest that jitter leaves.
            chance: 0.0,
        };
        let policy = match plan {
            Plan::Lookup(key) => self.found.rule.policy_of(key),
            _ => None,
        };
        let account = what_if::account(&exchange, policy.unwrap_or(self.policy()));
        let refused = match &account.verdict {
            Ok(_) if self.is_too_large(app) => Some(Reason::TooLarge),
            Ok(_) => None,
            Err(reason) => Some(self.reason_word(*reason)),
        };
        let mut step = match (&account.verdict, refused) {
            (Ok(stored), None) => {
                let fresh = span(stored.lifetime.fresh);
                Step::new("store", format!("stored, fresh for {fresh}"))
            }
            (_, refused) => {
                let word = refused.map(Reason::word).unwrap_or_default();
                Step::new("store", format!("not stored: {word}"))
            }
        };
        if let Some(held) = held
            && self.reuse(held) == Reuse::Fresh
        {
            step = step.detail("the app is not asked now; had it been asked:");
        }
        for check in what_if::CHECKS {
            step = self.checked(step, check, &account.refusals);
        }
        let size = Reason::TooLarge;
        let word = if refused == Some(size) { "no" } else { "ok" };
        step = step.detail(format!("{word}  {:<14}{}", size.word(), size.by()));
        step = match &account.verdict {
            Ok(_) if refused.is_some() => step.by(self.setting("cache.max_body"), size.fix()),
            Ok(stored) => self.kept_as(step, &exchange, stored),
            Err(reason) => {
                let (by, change) = self.why_not(*reason, account.refusals.first());
                step.by(by, change)
            }
        };
        (step, refused)
    }

    fn is_too_large(&self, app: &AppAnswer) -> bool {
        let length = app.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        length.is_some_and(|length| length > self.visit.snapshot.settings.cache.max_body)
    }

    /// One check: what it says as things are, or once those before it were mended, and what helps.
    fn checked(&self, mut step: Step, check: Reason, refusals: &[Refusal]) -> Step {
        let mut found = refusals.iter().filter(|refusal| refusal.reason == check);
        let Some(refusal) = found.next() else {
            return step.detail(format!("ok  {:<14}{}", check.word(), check.by()));
        };
        step = step.detail(format!("no  {:<14}{}", check.word(), check.by()));
        for remedy in &refusal.remedies {
            step = step.detail(format!("    {}: {}", remedy.change, led_to(remedy)));
        }
        step
    }

    fn kept_as(&self, step: Step, exchange: &Exchange<'_>, stored: &Stored) -> Step {
        let lifetime = &stored.lifetime;
        let mut step = step;
        for (window, what) in [
            (lifetime.stale_while_revalidate, "while it is refreshed"),
            (lifetime.stale_if_error, "if the app fails"),
        ] {
            if !window.is_zero() {
                step = step.detail(format!("then {} stale {what}", seconds(window)));
            }
        }
        if lifetime.no_cache {
            step = step.detail("to be validated before each use (RFC 9111 §5.2.2.4)");
        }
        // Whose word it is shows when the route's is left out.
        let policy = self.policy();
        let alone = Policy {
            ttl: None,
            override_app: false,
            ..policy.clone()
        };
        let by_app = storable(exchange, &alone).map(|stored| stored.lifetime.fresh);
        let by = match by_app == Ok(lifetime.fresh) || policy.ttl.is_none() {
            true => "RFC 9111 §4.2.1".to_owned(),
            false if policy.override_app => {
                format!("{}, {}", self.of_route("ttl"), self.of_route("override"))
            }
            false => format!("RFC 9111 §4.2.1, {}", self.of_route("ttl")),
        };
        step.by(
            by,
            "private, no-store, Set-Cookie or Vary: * from the app would keep it out.",
        )
    }

    /// What refuses to store, and the single changes after which it would be stored.
    fn why_not(&self, reason: Reason, refusal: Option<&Refusal>) -> (String, String) {
        let section = reason.by();
        let setting = match reason {
            Reason::SetCookie => Some(self.setting("cache.set_cookie")),
            Reason::NoLifetime => Some(self.of_route("ttl")),
            Reason::Status if self.policy().ttl.is_some() => Some(self.of_route("statuses")),
            _ => None,
        };
        let by = match setting {
            Some(setting) => format!("{section}, {setting}"),
            None => section.to_owned(),
        };
        let remedies = refusal.map(|refusal| refusal.remedies.as_slice());
        let stored = remedies.unwrap_or_default().iter();
        let stored = stored.filter(|remedy| remedy.then.is_ok());
        let told: Vec<_> = stored
            .map(|remedy| format!("{} it would be {}", remedy.change, led_to(remedy)))
            .collect();
        match told.is_empty() {
            true => (by, "No single change would; see the checks.".to_owned()),
            false => (by, format!("{}.", capital(&told.join("; ")))),
        }
    }
}

fn led_to(remedy: &Remedy) -> String {
    match remedy.then {
        Ok(fresh) => format!("stored for {}", span(fresh)),
        Err(next) => format!("then {}", next.word()),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}
