//! May a stored response answer this request (RFC 9111 §4)?

use super::{Reason, Stored, Timestamp};
use http::HeaderMap;

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
/// `softly_purged` makes it stale at once, servable while it is refreshed.
#[must_use]
pub fn reuse(
    request: &HeaderMap,
    stored: Option<&Stored>,
    softly_purged: bool,
    client: ClientRefresh,
    now: Timestamp,
) -> Reuse {
    let _ = (request, stored, softly_purged, client, now);
    unimplemented!()
}

/// Whether `stored` may stand in for an app that failed (RFC 9111 §4.2.4, RFC 5861 §4).
#[must_use]
pub fn usable_on_error(
    request: &HeaderMap,
    stored: &Stored,
    client: ClientRefresh,
    now: Timestamp,
) -> bool {
    let _ = (request, stored, client, now);
    unimplemented!()
}
