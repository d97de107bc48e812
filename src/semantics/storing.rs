//! May this response be stored (RFC 9111 §3), and for how long may it be used (§4.2)?

use super::{Reason, Stored, Timestamp};
use http::{HeaderMap, Method, StatusCode};
use std::time::Duration;

/// What a route asks of storing; `Policy::default()` is a plain RFC 9111 shared cache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// The route's lifetime, used where the app states none (or always, with `override_app`).
    pub ttl: Option<Ttl>,
    /// The route's `ttl` wins over the app's Cache-Control, Expires and Pragma (never over Set-Cookie or Vary: *).
    pub override_app: bool,
    /// The key holds the client's identity: `private` and Authorization no longer forbid storing.
    pub per_identity: bool,
    /// What a response with Set-Cookie does.
    pub set_cookie: SetCookie,
    /// Whether a lifetime may be guessed from Last-Modified (RFC 9111 §4.2.2).
    pub heuristic: bool,
    /// Share of the lifetime, 0.0 to 1.0, by which route lifetimes are spread to both sides.
    pub ttl_jitter: f32,
    /// Granted where the response names no `stale-while-revalidate` of its own.
    pub stale_while_revalidate: Duration,
    /// Granted where the response names no `stale-if-error` of its own.
    pub stale_if_error: Duration,
}

/// A route's `ttl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// For the route's statuses.
    pub default: Duration,
    /// An app's own lifetime is raised to this.
    pub min: Option<Duration>,
    /// An app's own lifetime is cut to this.
    pub max: Option<Duration>,
    /// Other lifetimes for single statuses.
    pub by_status: Vec<(StatusCode, Duration)>,
    /// Statuses `default` is for.
    pub statuses: Vec<StatusCode>,
}

/// What a response with Set-Cookie does (never shared by default).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetCookie {
    /// Is not stored.
    #[default]
    Bypass,
    /// Is stored without the field.
    Strip,
    /// Is stored with the field: only for tests of plain RFC 9111 behaviour.
    Store,
}

/// One request to the app and the head of its answer.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The request's method, as the app saw it.
    pub method: &'a Method,
    /// The client's request fields.
    pub request: &'a HeaderMap,
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's fields, hop-by-hop ones included.
    pub response: &'a HeaderMap,
    /// When the request went out (`request_time`).
    pub requested: Timestamp,
    /// When the head came back (`response_time`).
    pub received: Timestamp,
    /// A number in 0.0..1.0 that places the lifetime within the jitter.
    pub chance: f32,
}

/// The response as it may be stored, still without its body, or why it may not be.
pub fn storable(exchange: &Exchange<'_>, policy: &Policy) -> Result<Stored, Reason> {
    let _ = (exchange, policy);
    unimplemented!()
}
