//! A stored response, taken apart: what goes into a store, and what comes out for whoever has to look into it.

use super::answer::range_applies;
use super::range::Part;
use super::reuse::Terms;
use super::{Timestamp, Vary};
use bytes::Bytes;
use http::header::{DATE, ETAG, LAST_MODIFIED, RANGE};
use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// A response that may be kept (RFC 9111 §3).
///
/// Made by [`super::storable`] without its body; the body is put in when it has arrived whole. A store
/// keeps its bytes, and answers most requests from those.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The app's status.
    pub status: StatusCode,
    /// The app's fields without those that RFC 9111 §3.1 forbids to store, and without
    /// `Age` and `Content-Length`; `Date` is always there.
    pub headers: HeaderMap,
    /// The content, exactly as received (content codings and all); empty where it lies `elsewhere`.
    pub body: Bytes,
    /// Bytes of content where it is too large to be here: all of it is with the store, in pieces. 0
    /// where it is in `body`.
    pub elsewhere: u64,
    /// Trailer fields that may be replayed.
    pub trailers: HeaderMap,
    /// When and for how long it may be used.
    pub lifetime: Lifetime,
    /// The request fields it was selected by, with the values it was stored for (RFC 9111 §4.1).
    pub vary: Vary,
    /// Who allowed it to be shared.
    pub sharing: Sharing,
}

impl Stored {
    /// Bytes of its content, wherever that is.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.body.len() as u64 + self.elsewhere
    }

    /// What of the whole this is, where it is only a part of it (206).
    #[must_use]
    pub fn part(&self) -> Option<Part> {
        (self.status == StatusCode::PARTIAL_CONTENT)
            .then(|| Part::of(&self.headers))
            .flatten()
    }

    /// Whether there is enough of it for `request`: always, but for parts.
    #[must_use]
    pub fn suffices(&self, request: &HeaderMap) -> bool {
        self.status != StatusCode::PARTIAL_CONTENT
            || self.part().is_some_and(|part| {
                let asked = request.get(RANGE).and_then(|asked| part.serves(asked));
                asked.is_some() && range_applies(request, self)
            })
    }

    /// What its reuse for `request` is judged by.
    #[must_use]
    pub fn terms(&self, request: &HeaderMap) -> Terms {
        Terms {
            lifetime: self.lifetime,
            sharing: self.sharing,
            suffices: self.suffices(request),
        }
    }

    /// What preconditions are judged by.
    #[must_use]
    pub fn validators(&self) -> Validators {
        Validators::of(&self.headers, self.lifetime.received)
    }

    /// How long from `now` a store has to keep it; see [`Lifetime::keep`].
    #[must_use]
    pub fn keep(&self, now: Timestamp) -> Duration {
        self.lifetime.keep(self.validators().any(), now)
    }
}

/// A stored response's validators and dates (RFC 9110 §8.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// What kind of ETag it has.
    pub etag: EtagKind,
    /// Last-Modified, where it is a date.
    pub last_modified: Option<Timestamp>,
    /// Date; there is always one in what was stored.
    pub date: Option<Timestamp>,
}

/// What kind of ETag a response has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EtagKind {
    /// None.
    #[default]
    None,
    /// `W/"…"`
    Weak,
    /// `"…"`, and whatever an app sends without quotes.
    Strong,
}

impl Validators {
    /// Reads them from the fields of a response that came at `received`.
    #[must_use]
    pub fn of(headers: &HeaderMap, received: Timestamp) -> Self {
        let date = |name| Timestamp::from_http_date(headers.get(name)?, received);
        Self {
            etag: match headers.get(ETAG).map(|etag| etag.as_bytes()) {
                None | Some([]) => EtagKind::None,
                Some([b'W', b'/', ..]) => EtagKind::Weak,
                Some(_) => EtagKind::Strong,
            },
            last_modified: date(LAST_MODIFIED),
            date: date(DATE),
        }
    }

    /// Whether there is anything to validate with.
    #[must_use]
    pub fn any(&self) -> bool {
        self.etag != EtagKind::None || self.last_modified.is_some()
    }

    /// Whether Last-Modified is strong: at least one second before Date (RFC 9110 §8.8.2.2).
    #[must_use]
    pub fn strong_last_modified(&self) -> bool {
        match (self.last_modified, self.date) {
            (Some(modified), Some(date)) => date.since(modified) >= Duration::from_secs(1),
            _ => false,
        }
    }
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
    /// `must-revalidate`, `proxy-revalidate` or `s-maxage`: not served stale because a route or a
    /// client would have it so. The two windows above are zero then, unless the same response that
    /// says `s-maxage` grants one by name.
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
    /// The app gave a lifetime of its own to a request without Authorization. It may answer any
    /// request: RFC 9111 §3.5 restricts what was stored *for* a request with Authorization, and
    /// such a response is never stored under this word.
    App,
    /// Only the route's `ttl`, or a guess (RFC 9111 §4.2.2), gave it a lifetime; requests with credentials are not answered from it.
    Route,
    /// The key holds the client's identity, so nobody else can reach it.
    Identity,
}
