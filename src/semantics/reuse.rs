//! May a stored response answer this request (RFC 9111 §4)?

use super::directives::RequestDirectives;
use super::fields::{has_credentials, has_telling_cookie};
use super::{Policy, Reason, Sharing, Stored, Timestamp};
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
    /// Ask the app whether the stored response still holds; [`super::usable_on_error`] if it fails.
    Validate(Reason),
    /// Ask the app; the stored response is not for this request.
    Fetch(Reason),
    /// only-if-cached and nothing usable: 504.
    Forbidden,
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

/// Decides on `stored`, which is known to match the request's key and Vary.
///
/// `softly_purged` makes it stale at once, servable while it is refreshed. `policy` is the route's.
#[must_use]
pub fn reuse(
    request: &HeaderMap,
    stored: Option<&Stored>,
    softly_purged: bool,
    policy: &Policy,
    client: ClientRefresh,
    now: Timestamp,
) -> Reuse {
    let asked = asked(request, client);
    let verdict = match stored {
        None => Reuse::Fetch(Reason::Cold),
        Some(stored) => judge(request, &asked, stored, softly_purged, policy, now),
    };
    match verdict {
        // RFC 9111 §5.2.1.7
        Reuse::Validate(_) | Reuse::Fetch(_) if asked.only_if_cached => Reuse::Forbidden,
        verdict => verdict,
    }
}

/// Whether `stored` may stand in for an app that failed (RFC 9111 §4.2.4, RFC 5861 §4). `policy` is
/// the route's. Which answers count as failure says [`is_failure`].
#[must_use]
pub fn usable_on_error(
    request: &HeaderMap,
    stored: &Stored,
    policy: &Policy,
    client: ClientRefresh,
    now: Timestamp,
) -> bool {
    let lifetime = &stored.lifetime;
    let asked = asked(request, client);
    // Neither side's no-cache allows anything that the app did not confirm (RFC 9111 §5.2.1.4, §5.2.2.4).
    if lifetime.no_cache || asked.no_cache || withheld(request, stored, policy).is_some() {
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
fn withheld(request: &HeaderMap, stored: &Stored, policy: &Policy) -> Option<Reason> {
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
    stored: &Stored,
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
    // RFC 5861 §3; and max-stale, which no prohibition of the app yields to (RFC 9111 §5.2.1.2, §4.2.4).
    let window = lifetime.stale_while_revalidate;
    let wished = asked.max_stale.filter(|_| !lifetime.must_revalidate);
    if (staleness <= window && !window.is_zero()) || wished.is_some_and(|most| staleness <= most) {
        return Reuse::StaleWhileRevalidate(Reason::Revalidating);
    }
    Reuse::Validate(Reason::Expired)
}
