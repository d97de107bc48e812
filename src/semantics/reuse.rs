//! May a stored response answer this request (RFC 9111 §4)?

use super::directives::RequestDirectives;
use super::fields::{has_credentials, has_telling_cookie};
use super::stored::Lifetime;
use super::{Policy, Reason, Sharing, Timestamp};
use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// What to do with a request, given what the store holds for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Answer from the store.
    Fresh,
    /// Answer from the store now, refresh behind.
    StaleWhileRevalidate(Reason),
    /// Answer from the store: stale, but this client takes it so (max-stale).
    Stale(Reason),
    /// Ask the app whether the stored response still holds; [`super::usable_on_error`] if it fails.
    Validate(Reason),
    /// Ask the app; the stored response is not for this request.
    Fetch(Reason),
    /// only-if-cached and nothing usable: 504.
    Forbidden,
}

/// What of a stored response its reuse is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When and for how long it may be used.
    pub lifetime: Lifetime,
    /// Who allowed it to be shared.
    pub sharing: Sharing,
    /// There is enough of it for this request: always, but for parts.
    pub suffices: bool,
}

/// How far a request's own cache directives reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientRefresh {
    /// They are not looked at: a stranger cannot force a miss.
    #[default]
    Ignore,
    /// They are obeyed (RFC 9111 §5.2.1).
    Honor,
}

/// Decides on what is stored on these terms, which is known to match the request's key and Vary.
///
/// `softly_purged` makes it stale at once, servable while it is refreshed. `policy` is the route's.
#[must_use]
pub fn reuse(
    request: &HeaderMap,
    stored: Option<Terms>,
    softly_purged: bool,
    policy: &Policy,
    client: ClientRefresh,
    now: Timestamp,
) -> Reuse {
    let asked = asked(request, client);
    let verdict = match stored {
        None => Reuse::Fetch(Reason::Cold),
        Some(stored) => judge(request, &asked, &stored, softly_purged, policy, now),
    };
    match verdict {
        // RFC 9111 §5.2.1.7
        Reuse::Validate(_) | Reuse::Fetch(_) if asked.only_if_cached => Reuse::Forbidden,
        verdict => verdict,
    }
}

/// Whether what is stored on these terms may stand in for an app that failed (RFC 9111 §4.2.4, RFC 5861 §4). `policy` is
/// the route's. Which answers count as failure says [`is_failure`].
#[must_use]
pub fn usable_on_error(
    request: &HeaderMap,
    stored: Terms,
    policy: &Policy,
    client: ClientRefresh,
    now: Timestamp,
) -> bool {
    let lifetime = &stored.lifetime;
    let asked = asked(request, client);
    // Neither side's no-cache allows anything that the app did not confirm (RFC 9111 §5.2.1.4, §5.2.2.4).
    if lifetime.no_cache || asked.no_cache || withheld(request, &stored, policy).is_some() {
        return false;
    }
    let window = lifetime.stale_if_error.max(lifetime.stale_while_revalidate);
    let wished = match lifetime.must_revalidate {
        true => Duration::ZERO,
        false => asked
            .stale_if_error
            .unwrap_or_default()
            .max(asked.max_stale.unwrap_or_default()),
    };
    let staleness = lifetime.age(now).saturating_sub(lifetime.fresh);
    // A response that is still fresh (the client only wished for a newer one) needs no permission.
    lifetime.is_fresh(now)
        || (staleness <= window && !window.is_zero())
        || (staleness <= wished && !wished.is_zero())
}

/// Whether an answer of the app counts as failure (RFC 5861 §4); no answer at all always does.
#[must_use]
pub const fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

fn asked(request: &HeaderMap, client: ClientRefresh) -> RequestDirectives {
    match client {
        ClientRefresh::Honor
            if request.contains_key(CACHE_CONTROL) || request.contains_key(PRAGMA) =>
        {
            RequestDirectives::of_request(request)
        }
        ClientRefresh::Honor | ClientRefresh::Ignore => RequestDirectives::default(),
    }
}

/// Why `stored` is not for the client that sent `request`, if so.
fn withheld(request: &HeaderMap, stored: &Terms, policy: &Policy) -> Option<Reason> {
    if !stored.suffices {
        return Some(Reason::Range);
    }
    if stored.sharing != Sharing::Route {
        return None;
    }
    if has_credentials(request, policy) {
        return Some(Reason::Authorization);
    }
    has_telling_cookie(request, policy).then_some(Reason::Cookie)
}

fn judge(
    request: &HeaderMap,
    asked: &RequestDirectives,
    stored: &Terms,
    softly_purged: bool,
    policy: &Policy,
    now: Timestamp,
) -> Reuse {
    if let Some(reason) = withheld(request, stored, policy) {
        return Reuse::Fetch(reason);
    }
    let lifetime = &stored.lifetime;
    let age = lifetime.age(now);
    let fresh = lifetime.fresh > age;
    if asked.no_cache {
        return Reuse::Validate(Reason::Request);
    }
    // A plain reload sends max-age=0; within its lifetime an immutable response does not change
    // (RFC 8246 §2). A forced reload says no-cache, and gets past.
    let reload = asked.max_age == Some(Duration::ZERO);
    let too_old = asked.max_age.is_some_and(|most| age > most || reload);
    let immutable = lifetime.immutable && fresh && !softly_purged && reload;
    if too_old && !immutable {
        return Reuse::Validate(Reason::Request);
    }
    let left = lifetime.fresh.saturating_sub(age);
    if asked.min_fresh.is_some_and(|least| left < least) {
        return Reuse::Validate(Reason::Request);
    }
    if lifetime.no_cache {
        return Reuse::Validate(Reason::Expired);
    }
    if fresh && !softly_purged {
        return Reuse::Fresh;
    }
    let staleness = age.saturating_sub(lifetime.fresh);
    if softly_purged {
        return match lifetime.must_revalidate || staleness > lifetime.stale_while_revalidate {
            true => Reuse::Validate(Reason::Purged),
            false => Reuse::StaleWhileRevalidate(Reason::SoftPurged),
        };
    }
    // RFC 5861 §3. Who names an age does not want what is stale, unless he says how stale (RFC 9111
    // §5.2.1.1).
    let window = lifetime.stale_while_revalidate;
    let unwanted = asked.max_age.is_some() && asked.max_stale.is_none();
    if staleness <= window && !window.is_zero() && !unwanted {
        return Reuse::StaleWhileRevalidate(Reason::Revalidating);
    }
    // max-stale, which no prohibition of the app yields to (RFC 9111 §5.2.1.2, §4.2.4).
    let wished = asked.max_stale.filter(|_| !lifetime.must_revalidate);
    if wished.is_some_and(|most| staleness <= most) {
        return Reuse::Stale(Reason::Expired);
    }
    Reuse::Validate(Reason::Expired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::Ttl;
    use crate::semantics::testing::{any_value, at, headers, store, stored};
    use proptest::prelude::*;

    fn asked_at(request: &str, response: &str, seconds: u64) -> Reuse {
        let request = headers(request);
        reuse(
            &request,
            Some(stored(response).terms(&request)),
            false,
            &Policy::default(),
            ClientRefresh::Honor,
            at(seconds),
        )
    }

    const FRESH: &str = "cache-control: max-age=60\netag: \"a\"";

    #[test]
    fn a_response_is_fresh_until_its_lifetime_is_over_rfc9111_4_2() {
        assert_eq!(asked_at("", FRESH, 59), Reuse::Fresh);
        assert_eq!(asked_at("", FRESH, 60), Reuse::Validate(Reason::Expired));
        assert_eq!(
            asked_at("", &format!("{FRESH}\nage: 59"), 1),
            Reuse::Validate(Reason::Expired)
        );
    }

    #[test]
    fn no_cache_is_always_validated_rfc9111_5_2_2_4() {
        let response = "cache-control: no-cache, max-age=60\netag: \"a\"";
        assert_eq!(asked_at("", response, 0), Reuse::Validate(Reason::Expired));
    }

    #[test]
    fn requests_that_want_a_newer_answer_are_validated_rfc9111_5_2_1() {
        for request in [
            "no-cache",
            "max-age=0",
            "max-age=9",
            "min-fresh=51",
            "min-fresh=x",
            "max-age=x",
        ] {
            let verdict = asked_at(&format!("cache-control: {request}"), FRESH, 10);
            assert_eq!(verdict, Reuse::Validate(Reason::Request), "{request}");
        }
        for request in [
            "max-age=10",
            "min-fresh=50",
            "max-stale=5",
            "no-store",
            "foo",
        ] {
            let verdict = asked_at(&format!("cache-control: {request}"), FRESH, 10);
            assert_eq!(verdict, Reuse::Fresh, "{request}");
        }
        assert_eq!(
            asked_at("pragma: no-cache", FRESH, 10),
            Reuse::Validate(Reason::Request)
        );
        assert_eq!(
            asked_at("cache-control: max-age=0", FRESH, 0),
            Reuse::Validate(Reason::Request)
        );
    }

    #[test]
    fn requests_whose_directives_are_ignored_force_nothing() {
        for request in [
            "cache-control: no-cache, only-if-cached",
            "pragma: no-cache",
        ] {
            let ask = |stored: Option<Terms>| {
                reuse(
                    &headers(request),
                    stored,
                    false,
                    &Policy::default(),
                    ClientRefresh::Ignore,
                    at(0),
                )
            };
            assert_eq!(
                ask(Some(stored(FRESH).terms(&HeaderMap::new()))),
                Reuse::Fresh
            );
            assert_eq!(ask(None), Reuse::Fetch(Reason::Cold));
        }
    }

    #[test]
    fn only_if_cached_never_reaches_the_app_rfc9111_5_2_1_7() {
        let request = "cache-control: only-if-cached";
        assert_eq!(asked_at(request, FRESH, 0), Reuse::Fresh);
        assert_eq!(asked_at(request, FRESH, 61), Reuse::Forbidden);
        assert_eq!(
            asked_at("cache-control: only-if-cached, max-stale", FRESH, 61),
            Reuse::Stale(Reason::Expired)
        );
        let nothing = reuse(
            &headers(request),
            None,
            false,
            &Policy::default(),
            ClientRefresh::Honor,
            at(0),
        );
        assert_eq!(nothing, Reuse::Forbidden);
    }

    #[test]
    fn max_stale_takes_what_is_stale_unless_the_app_forbids_rfc9111_5_2_1_2() {
        let request = "cache-control: max-stale=10";
        assert_eq!(asked_at(request, FRESH, 70), Reuse::Stale(Reason::Expired));
        assert_eq!(
            asked_at(request, FRESH, 71),
            Reuse::Validate(Reason::Expired)
        );
        for forbidden in [
            "max-age=60, must-revalidate",
            "max-age=60, proxy-revalidate",
            "s-maxage=60",
        ] {
            let verdict = asked_at(request, &format!("cache-control: {forbidden}"), 61);
            assert_eq!(verdict, Reuse::Validate(Reason::Expired), "{forbidden}");
        }
    }

    #[test]
    fn stale_while_revalidate_has_a_window_rfc5861_3() {
        let response = "cache-control: max-age=60, stale-while-revalidate=10";
        assert_eq!(
            asked_at("", response, 70),
            Reuse::StaleWhileRevalidate(Reason::Revalidating)
        );
        assert_eq!(asked_at("", response, 71), Reuse::Validate(Reason::Expired));
        let response = "cache-control: s-maxage=60, stale-while-revalidate=10";
        assert_eq!(
            asked_at("", response, 61),
            Reuse::StaleWhileRevalidate(Reason::Revalidating)
        );
    }

    #[test]
    fn an_immutable_response_survives_a_reload_while_fresh_rfc8246_2() {
        let response = "cache-control: max-age=60, immutable";
        assert_eq!(
            asked_at("cache-control: max-age=0", response, 10),
            Reuse::Fresh
        );
        assert_eq!(
            asked_at("cache-control: no-cache", response, 10),
            Reuse::Validate(Reason::Request)
        );
        assert_eq!(
            asked_at("cache-control: max-age=0", response, 60),
            Reuse::Validate(Reason::Request)
        );
    }

    #[test]
    fn a_soft_purge_makes_stale_but_servable() {
        let ask = |response: &str, seconds: u64| {
            reuse(
                &HeaderMap::new(),
                Some(stored(response).terms(&HeaderMap::new())),
                true,
                &Policy::default(),
                ClientRefresh::Ignore,
                at(seconds),
            )
        };
        assert_eq!(
            ask(FRESH, 10),
            Reuse::StaleWhileRevalidate(Reason::SoftPurged)
        );
        assert_eq!(ask(FRESH, 61), Reuse::Validate(Reason::Purged));
        assert_eq!(
            ask("cache-control: max-age=60, must-revalidate", 10),
            Reuse::Validate(Reason::Purged)
        );
    }

    #[test]
    fn what_only_the_route_shares_is_not_for_clients_with_credentials() {
        let policy = Policy {
            ttl: Some(Ttl::new(Duration::from_secs(60))),
            keyed_cookies: vec!["theme".into()],
            ..Policy::default()
        };
        let entry = store("", "", &policy).unwrap();
        let ask = |request: &str| {
            let request = headers(request);
            let verdict = reuse(
                &request,
                Some(entry.terms(&request)),
                false,
                &policy,
                ClientRefresh::Ignore,
                at(1),
            );
            assert_eq!(
                usable_on_error(
                    &request,
                    entry.terms(&request),
                    &policy,
                    ClientRefresh::Ignore,
                    at(1)
                ),
                verdict == Reuse::Fresh
            );
            verdict
        };
        assert_eq!(ask("cookie: _ga=1; theme=x"), Reuse::Fresh);
        assert_eq!(ask("cookie: sid=1"), Reuse::Fetch(Reason::Cookie));
        assert_eq!(ask("authorization: x"), Reuse::Fetch(Reason::Authorization));
        assert_eq!(ask("apikey: x"), Reuse::Fetch(Reason::Authorization));
        // What the app made shareable for anonymous clients may answer others (RFC 9111 §3.5).
        assert_eq!(
            asked_at("authorization: x\ncookie: sid=1", FRESH, 1),
            Reuse::Fresh
        );
    }

    #[test]
    fn a_failed_app_is_stood_in_for_only_with_permission_rfc9111_4_2_4() {
        let usable = |request: &str, says: &str, seconds| {
            let entry = stored(&format!("cache-control: {says}\netag: \"a\""));
            let request = headers(request);
            usable_on_error(
                &request,
                entry.terms(&request),
                &Policy::default(),
                ClientRefresh::Honor,
                at(seconds),
            )
        };
        assert!(!usable("", "max-age=60", 61));
        assert!(usable("", "max-age=60, stale-if-error=10", 70));
        assert!(!usable("", "max-age=60, stale-if-error=10", 71));
        assert!(usable("cache-control: stale-if-error=20", "max-age=60", 80));
        assert!(usable("cache-control: max-stale=20", "max-age=60", 80));
        assert!(usable("cache-control: max-age=0", "max-age=60", 10));
        assert!(!usable(
            "cache-control: no-cache",
            "max-age=60, stale-if-error=10",
            10
        ));
        for forbidden in [
            "must-revalidate",
            "proxy-revalidate",
            "no-cache",
            "s-maxage=60",
        ] {
            let says = format!("max-age=60, {forbidden}");
            assert!(
                !usable("cache-control: stale-if-error=20, max-stale", &says, 61),
                "{forbidden}"
            );
        }
        assert!(!usable(
            "",
            "max-age=60, stale-if-error=10, must-revalidate",
            61
        ));
        assert!(is_failure(StatusCode::BAD_GATEWAY) && !is_failure(StatusCode::NOT_FOUND));
    }

    proptest! {
        #[test]
        fn nothing_in_a_request_makes_reuse_panic_or_serve_what_must_be_validated(value in any_value(), seconds in 60u64..100_000) {
            let request = HeaderMap::from_iter([(CACHE_CONTROL, value)]);
            let entry = stored("cache-control: max-age=60, must-revalidate");
            let policy = Policy::default();
            let verdict = reuse(&request, Some(entry.terms(&request)), false, &policy, ClientRefresh::Honor, at(seconds));
            prop_assert!(matches!(verdict, Reuse::Validate(_) | Reuse::Forbidden));
            prop_assert!(!usable_on_error(&request, entry.terms(&request), &policy, ClientRefresh::Honor, at(seconds)));
        }
    }
}
