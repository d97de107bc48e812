//! A stored response: everything a later reuse needs, parsed once when it was stored.

use super::{Timestamp, Vary};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// A response as it is kept (RFC 9111 §3).
///
/// Made by [`super::storable`] without its body; the body is put in when it has arrived whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The app's status.
    pub status: StatusCode,
    /// The app's fields without those that RFC 9111 §3.1 forbids to store, and without `Age`.
    pub headers: HeaderMap,
    /// The content, exactly as received (content codings and all).
    pub body: Bytes,
    /// Trailer fields that may be replayed.
    pub trailers: HeaderMap,
    /// When and for how long it may be used.
    pub lifetime: Lifetime,
    /// The request fields it was selected by, with the values it was stored for (RFC 9111 §4.1).
    pub vary: Vary,
    /// Who allowed it to be shared.
    pub sharing: Sharing,
}

/// The times that govern reuse (RFC 9111 §4.2), with the app's directives already weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// When the response head arrived (`response_time`).
    pub received: Timestamp,
    /// `corrected_initial_age` (RFC 9111 §4.2.3) at that moment.
    pub initial_age: Duration,
    /// `freshness_lifetime`; jitter, if any, is already in it.
    pub fresh: Duration,
    /// How long after that it may be served while it is refreshed (RFC 5861 §3); zero if never.
    pub stale_while_revalidate: Duration,
    /// How long after that it may be served when the app fails (RFC 5861 §4); zero if never.
    pub stale_if_error: Duration,
    /// `must-revalidate`, `proxy-revalidate` or `s-maxage`: never served stale for any reason.
    pub must_revalidate: bool,
    /// Unqualified `no-cache`: never served without validation.
    pub no_cache: bool,
    /// `immutable` (RFC 8246).
    pub immutable: bool,
}

/// On whose word a response is shared between clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// The app marked it for sharing with everyone, credentials or not (`public`, `s-maxage`,
    /// `must-revalidate`: RFC 9111 §3.5).
    Everyone,
    /// The app gave a lifetime of its own; requests with Authorization are not answered from it.
    App,
    /// Only the route's `ttl` gave it a lifetime; requests with credentials are not answered from it.
    Route,
    /// The key holds the client's identity, so nobody else can reach it.
    Identity,
}
