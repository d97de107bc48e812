//! Why a response would be stored or not, check by check, and which single changes would alter it.
//!
//! Asks [`storable`] again with one thing changed, and so cannot disagree with what is decided. Not for
//! requests on their way: for explanations only.

use super::directives::TARGETED;
use super::fields::{split_quoted, trim};
use super::{Exchange, Policy, Reason, SetCookie, Stored, Ttl, storable};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, COOKIE, ETAG, EXPIRES, PRAGMA,
    SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::time::Duration;

/// What storing looks at, in its order; each by the reason that it refuses with.
pub const CHECKS: [Reason; 12] = [
    Reason::Method,
    Reason::Status,
    Reason::Range,
    Reason::EventStream,
    Reason::NoStore,
    Reason::Private,
    Reason::SetCookie,
    Reason::VaryStar,
    Reason::NoLifetime,
    Reason::Authorization,
    Reason::Cookie,
    Reason::ContentType,
];
/// Refusals that are followed up, one mended after the other; none comes more than twice.
const REFUSALS_MAX: usize = CHECKS.len() * 2;
/// The lifetime that changes try.
const TRIED: Duration = Duration::from_secs(60);

/// How a response fares.
#[derive(Clone, Debug)]
pub struct Account {
    /// As it is.
    pub verdict: Result<Stored, Reason>,
    /// What refuses it: the first as it is, each further one were the one before mended.
    pub refusals: Vec<Refusal>,
}

/// A check that refuses, and the single changes that it would not refuse with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its reason.
    pub reason: Reason,
    /// The changes, the most natural first; none where nothing helps.
    pub remedies: Vec<Remedy>,
}

/// One change and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// In words: `without Set-Cookie`.
    pub change: &'static str,
    /// How long it would be fresh once stored, or what would refuse it next.
    pub then: Result<Duration, Reason>,
}

/// An exchange that can be changed.
#[derive(Clone, Debug)]
struct Case {
    method: Method,
    status: StatusCode,
    request: HeaderMap,
    response: HeaderMap,
    policy: Policy,
}

type Change = (Reason, &'static str, fn(&mut Case));

/// What may be tried against each refusal.
const CHANGES: &[Change] = &[
    (Reason::Method, "asked for by GET", |case| {
        case.method = Method::GET;
    }),
    (Reason::Status, "with status 200", |case| {
        case.status = StatusCode::OK;
    }),
    (Reason::Status, "with max-age=60 from the app", lasting),
    (
        Reason::Status,
        "with this status in the route's ttl: { by_status }",
        |case| {
            let status = case.status;
            let ttl = case.policy.ttl.get_or_insert(Ttl::new(TRIED));
            ttl.by_status.push((status, TRIED));
        },
    ),
    (
        Reason::Range,
        "were it the whole, with status 200",
        |case| {
            case.status = StatusCode::OK;
            case.response.remove(CONTENT_RANGE);
        },
    ),
    (Reason::EventStream, "with another Content-Type", |case| {
        case.response.remove(CONTENT_TYPE);
    }),
    (Reason::NoStore, "without no-store from the app", |case| {
        without(&mut case.response, &["no-store"]);
    }),
    (Reason::NoStore, "without no-store in the request", |case| {
        without(&mut case.request, &["no-store"]);
    }),
    (
        Reason::NoStore,
        "with override: true on the route",
        overriding,
    ),
    (Reason::Private, "without private from the app", |case| {
        without(&mut case.response, &["private"]);
    }),
    (
        Reason::Private,
        "with key: { per: user } on the route",
        |case| {
            case.policy.per_identity = true;
        },
    ),
    (Reason::SetCookie, "without Set-Cookie", |case| {
        case.response.remove(SET_COOKIE);
    }),
    (Reason::SetCookie, "with cache.set_cookie: strip", |case| {
        case.policy.set_cookie = SetCookie::Strip;
    }),
    (Reason::VaryStar, "without Vary", |case| {
        case.response.remove(VARY);
    }),
    (Reason::NoLifetime, "with max-age=60 from the app", lasting),
    (Reason::NoLifetime, "with ttl: 60s on the route", |case| {
        case.policy.ttl.get_or_insert(Ttl::new(TRIED));
    }),
    (
        Reason::NoLifetime,
        "with an ETag from the app, to be validated by",
        |case| {
            case.response
                .insert(ETAG, HeaderValue::from_static("\"1\""));
        },
    ),
    (Reason::Authorization, "with public from the app", public),
    (
        Reason::Authorization,
        "asked for without credentials",
        anonymous,
    ),
    (
        Reason::Authorization,
        "with key: { per: token } on the route",
        |case| {
            case.policy.per_identity = true;
        },
    ),
    (Reason::Cookie, "with public from the app", public),
    (Reason::Cookie, "asked for without cookies", |case| {
        case.request.remove(COOKIE);
    }),
    (
        Reason::Cookie,
        "with the cookies in the route's key.cookies",
        |case| {
            let names = super::fields::cookies(&case.request);
            let names = names.map(|(name, _)| String::from_utf8_lossy(name).into_owned());
            case.policy.keyed_cookies = names.collect();
        },
    ),
    (Reason::ContentType, "with public from the app", public),
    (Reason::ContentType, "with max-age=60 from the app", lasting),
];

/// Asks whether the response may be stored; if not, what refuses it, one refusal after the other, and
/// what would change that.
#[must_use]
pub fn account(exchange: &Exchange<'_>, policy: &Policy) -> Account {
    let mut case = Case {
        method: exchange.method.clone(),
        status: exchange.status,
        request: exchange.request.clone(),
        response: exchange.response.clone(),
        policy: policy.clone(),
    };
    let verdict = storable(exchange, policy);
    let mut refusals: Vec<Refusal> = Vec::new();
    let mut now = verdict.as_ref().err().copied();
    while let Some(reason) = now.filter(|_| refusals.len() < REFUSALS_MAX) {
        let mut remedies = Vec::new();
        let mut mended = None;
        for (_, change, apply) in CHANGES.iter().filter(|change| change.0 == reason) {
            let mut changed = case.clone();
            apply(&mut changed);
            let then = changed.ask(exchange);
            if then != Err(reason) {
                remedies.push(Remedy { change, then });
                mended.get_or_insert((changed, then.err()));
            }
        }
        refusals.push(Refusal { reason, remedies });
        let Some((changed, next)) = mended else { break };
        (case, now) = (changed, next);
    }
    Account { verdict, refusals }
}

impl Case {
    fn ask(&self, asked: &Exchange<'_>) -> Result<Duration, Reason> {
        let exchange = Exchange {
            method: &self.method,
            status: self.status,
            request: &self.request,
            response: &self.response,
            ..*asked
        };
        storable(&exchange, &self.policy).map(|stored| stored.lifetime.fresh)
    }
}

/// The app grants a lifetime, and says nothing against it.
fn lasting(case: &mut Case) {
    let response = &mut case.response;
    without(response, &["max-age", "s-maxage", "no-cache"]);
    response.remove(EXPIRES);
    response.remove(PRAGMA);
    response.remove(http::header::AGE);
    say(response, "max-age=60");
}

fn public(case: &mut Case) {
    say(&mut case.response, "public");
}

fn anonymous(case: &mut Case) {
    case.request.remove(AUTHORIZATION);
    for name in super::fields::CREDENTIALS {
        case.request.remove(name);
    }
}

/// Without a ttl there is nothing to win over the app's word with.
fn overriding(case: &mut Case) {
    case.policy.override_app = case.policy.ttl.is_some();
}

/// Adds a directive to every field that steers us, or to a new Cache-Control.
fn say(response: &mut HeaderMap, directive: &str) {
    let names = TARGETED.into_iter().chain([CACHE_CONTROL]);
    let present: Vec<_> = names.filter(|name| response.contains_key(name)).collect();
    let Ok(value) = HeaderValue::from_str(directive) else {
        return;
    };
    for name in &present {
        response.append(name, value.clone());
    }
    if present.is_empty() {
        response.insert(CACHE_CONTROL, value);
    }
}

/// Removes directives of these names from every field that steers us.
fn without(headers: &mut HeaderMap, names: &[&str]) {
    for field in TARGETED.into_iter().chain([CACHE_CONTROL]) {
        let lines: Vec<Vec<u8>> = headers
            .get_all(&field)
            .into_iter()
            .map(|line| {
                let kept = split_quoted(line.as_bytes(), true).filter(|member| {
                    let name = member.split(|byte| *byte == b'=').next();
                    let name = trim(name.unwrap_or_default());
                    !names
                        .iter()
                        .any(|gone| name.eq_ignore_ascii_case(gone.as_bytes()))
                });
                kept.collect::<Vec<_>>().join(&b","[..])
            })
            .filter(|line| !trim(line).is_empty())
            .collect();
        headers.remove(&field);
        for line in lines {
            if let Ok(line) = HeaderValue::from_bytes(trim(&line)) {
                headers.append(&field, line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, exchange, headers};
    use proptest::prelude::*;

    fn told(status: u16, request: &str, response: &str, policy: &Policy) -> Account {
        let (request, response) = (headers(request), headers(response));
        account(&exchange(status, &request, &response), policy)
    }

    fn plain(response: &str) -> Account {
        told(200, "", response, &Policy::default())
    }

    #[test]
    fn what_is_stored_is_refused_by_nothing() {
        let account = plain("cache-control: max-age=5");
        assert!(account.verdict.is_ok() && account.refusals.is_empty());
    }

    #[test]
    fn a_single_fault_is_told_with_what_mends_it() {
        let account = plain("cache-control: max-age=30\nset-cookie: a=b");
        let stored = |change| Remedy {
            change,
            then: Ok(Duration::from_secs(30)),
        };
        let refusal = Refusal {
            reason: Reason::SetCookie,
            remedies: vec![
                stored("without Set-Cookie"),
                stored("with cache.set_cookie: strip"),
            ],
        };
        assert_eq!(account.refusals, [refusal]);
    }

    #[test]
    fn each_further_fault_is_found_behind_the_one_before() {
        let says = "cache-control: private, no-store\nvary: *\nset-cookie: a=b";
        let reasons = plain(says).refusals;
        let reasons: Vec<_> = reasons.iter().map(|refusal| refusal.reason).collect();
        let order = [
            Reason::NoStore,
            Reason::Private,
            Reason::SetCookie,
            Reason::VaryStar,
            Reason::NoLifetime,
        ];
        assert_eq!(reasons, order);
    }

    #[test]
    fn every_refusal_of_a_plain_get_has_a_remedy_that_leads_to_the_store() {
        let routed = Policy {
            ttl: Some(Ttl::new(Duration::from_secs(9))),
            ..Policy::default()
        };
        for (status, request, response, policy) in [
            (200, "", "", &Policy::default()),
            (200, "", "cache-control: max-age=0", &Policy::default()),
            (200, "", "cdn-cache-control: no-store", &Policy::default()),
            (
                200,
                "",
                "content-type: text/event-stream\ncache-control: max-age=9",
                &routed,
            ),
            (206, "", "cache-control: max-age=9", &routed),
            (304, "", "", &routed),
            (302, "", "", &routed),
            (500, "", "", &routed),
            (200, "authorization: Bearer x", "", &routed),
            (200, "x-api-key: x", "", &routed),
            (200, "cookie: session=1", "", &routed),
        ] {
            let account = told(status, request, response, policy);
            let last = account.refusals.last().unwrap();
            assert!(
                last.remedies.iter().any(|remedy| remedy.then.is_ok()),
                "{status} {request} {response}: {account:?}"
            );
        }
    }

    #[test]
    fn every_reason_that_storing_refuses_with_is_a_check_with_changes_to_try() {
        for reason in CHECKS {
            assert!(
                CHANGES.iter().any(|change| change.0 == reason),
                "{reason:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_account_agrees_with_the_decision_and_ends(values in proptest::collection::vec(any_value(), 4), status in 100u16..600, cookie: bool, ttl: bool) {
            let names = [CACHE_CONTROL, VARY, EXPIRES, CONTENT_TYPE];
            let response = HeaderMap::from_iter(names.into_iter().zip(values));
            let request = headers(if cookie { "cookie: a=b" } else { "" });
            let policy = Policy {
                ttl: ttl.then(|| Ttl::new(Duration::from_secs(9))),
                ..Policy::default()
            };
            let exchange = exchange(status, &request, &response);
            let account = account(&exchange, &policy);
            let first = account.refusals.first().map(|refusal| refusal.reason);
            prop_assert_eq!(first, storable(&exchange, &policy).err());
            prop_assert!(account.refusals.len() < REFUSALS_MAX);
            prop_assert!(account.refusals.iter().all(|refusal| CHECKS.contains(&refusal.reason)));
        }
    }
}
