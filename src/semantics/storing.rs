//! May this response be stored (RFC 9111 §3), and for how long may it be used (§4.2)?

use super::directives::{DELTA_SECONDS_MAX, Delta, Directives, RequestDirectives};
use super::fields::{has_credentials, has_telling_cookie, remove_unstorable};
use super::freshness::{date, guessed, initial_age, is_heuristically_cacheable, stated};
use super::reuse::ClientRefresh;
use super::stored::Lifetime;
use super::{Reason, Sharing, Stored, Timestamp, Validators, Vary};
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, DATE, EXPECT, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE,
    RANGE, SET_COOKIE,
};
use http::{HeaderMap, HeaderName, Method, StatusCode};
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
    /// Cookies that the key holds: they no longer tell clients apart.
    pub keyed_cookies: Vec<String>,
    /// Request fields that the key holds: credential-like ones among them no longer forbid sharing.
    pub keyed_headers: Vec<HeaderName>,
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
    /// Whether the request's own directives (`no-store`) are looked at.
    pub client: ClientRefresh,
    /// A number in 0.0..1.0 that places the lifetime within the jitter.
    pub chance: f32,
}

/// The statuses that a route's `ttl` is for, unless the route names others.
pub const ROUTE_STATUSES: [StatusCode; 6] = [
    StatusCode::OK,
    StatusCode::NON_AUTHORITATIVE_INFORMATION,
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::PERMANENT_REDIRECT,
    StatusCode::NOT_FOUND,
    StatusCode::GONE,
];
/// The longest that a route's `ttl` keeps a 404 or 410, unless `by_status` names it.
pub const ABSENT_TTL_MAX: Duration = Duration::from_secs(60);

impl Ttl {
    /// `ttl: 30s`, for [`ROUTE_STATUSES`].
    #[must_use]
    pub fn new(default: Duration) -> Self {
        Self {
            default,
            min: None,
            max: None,
            by_status: Vec::new(),
            statuses: ROUTE_STATUSES.to_vec(),
        }
    }

    fn named(&self, status: StatusCode) -> Option<Duration> {
        self.by_status
            .iter()
            .find_map(|(known, ttl)| (*known == status).then_some(*ttl))
    }

    /// The lifetime for `status`, if this ttl has one; `spread` (around 1.0) is its jitter.
    fn for_status(&self, status: StatusCode, spread: f32) -> Option<Duration> {
        let spread = |ttl: Duration| {
            // A lifetime is never beyond what delta-seconds hold, so that this cannot overflow.
            let ttl = ttl.min(Duration::from_secs(DELTA_SECONDS_MAX));
            Duration::from_millis((ttl.as_millis() as f64 * f64::from(spread)) as u64)
        };
        if let Some(ttl) = self.named(status) {
            return Some(spread(ttl));
        }
        if !self.statuses.contains(&status) || is_error(status) {
            return None;
        }
        Some(match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => spread(self.default).min(ABSENT_TTL_MAX),
            _ => spread(self.default),
        })
    }
}

impl Policy {
    /// By what route lifetimes are multiplied for a `chance` in 0.0..1.0.
    fn spread(&self, chance: f32) -> f32 {
        let clean = |share: f32| {
            if share.is_finite() {
                share.clamp(0.0, 1.0)
            } else {
                0.0
            }
        };
        1.0 + clean(self.ttl_jitter) * (2.0 * clean(chance) - 1.0)
    }
}

/// The response as it may be stored, still without its body, or why it may not be.
pub fn storable(exchange: &Exchange<'_>, policy: &Policy) -> Result<Stored, Reason> {
    if exchange.method != Method::GET {
        return Err(Reason::Method);
    }
    let status = exchange.status;
    refuse_status(exchange)?;
    let said = Directives::of_response(exchange.response);
    let route = match &policy.ttl {
        Some(ttl) => {
            // A request can provoke these and so poison everybody's page, whatever the app says.
            if is_error(status) && ttl.named(status).is_none() {
                return Err(Reason::Status);
            }
            ttl.for_status(status, policy.spread(exchange.chance))
        }
        None => None,
    };
    let overriding = policy.override_app && route.is_some();
    let heeded = if overriding {
        Directives::default()
    } else {
        said.clone()
    };
    refuse_directives(exchange, policy, &heeded)?;
    if exchange.response.contains_key(SET_COOKIE) && policy.set_cookie == SetCookie::Bypass {
        return Err(Reason::SetCookie);
    }
    let vary = Vary::select(exchange.response, exchange.request).map_err(|_| Reason::VaryStar)?;

    let (fresh, word) = lifetime(exchange, policy, &heeded, route, overriding)?;
    let sharing = sharing(exchange, policy, &said, word)?;
    let lifetime = weigh(exchange, policy, &heeded, fresh, word);
    let validators = Validators::of(exchange.response);
    // What could neither be served nor validated is not worth its place.
    let useless = lifetime.no_cache || lifetime.useful(exchange.received).is_zero();
    if useless && !validators.any() {
        return Err(match word {
            Word::Route => Reason::Status,
            Word::App => Reason::NoLifetime,
        });
    }
    let headers = stored_fields(exchange, policy, &heeded);
    Ok(Stored {
        status,
        validators: Validators::of(&headers),
        headers,
        body: Bytes::new(),
        trailers: HeaderMap::new(),
        lifetime,
        vary,
        sharing,
    })
}

/// Who stated the lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    App,
    Route,
}

/// RFC 9111 §3: final statuses only, and none that answers a question no other request asked.
fn refuse_status(exchange: &Exchange<'_>) -> Result<(), Reason> {
    let asked = |names: &[HeaderName]| names.iter().any(|name| exchange.request.contains_key(name));
    match exchange.status.as_u16() {
        // 206 is a part, 304 is about something stored.
        ..200 | 206 | 304 => Err(Reason::Status),
        412 if asked(&[
            IF_MATCH,
            IF_UNMODIFIED_SINCE,
            IF_NONE_MATCH,
            IF_MODIFIED_SINCE,
        ]) =>
        {
            Err(Reason::Status)
        }
        416 if asked(&[RANGE]) => Err(Reason::Range),
        417 if asked(&[EXPECT]) => Err(Reason::Status),
        _ => Ok(()),
    }
}

fn refuse_directives(
    exchange: &Exchange<'_>,
    policy: &Policy,
    heeded: &Directives,
) -> Result<(), Reason> {
    // RFC 9111 §5.2.1.5
    if exchange.client == ClientRefresh::Honor
        && RequestDirectives::of_request(exchange.request).no_store
    {
        return Err(Reason::NoStore);
    }
    // RFC 9111 §3, §5.2.2.3: must-understand outweighs no-store where the status is understood.
    if heeded.must_understand && !is_understood(exchange.status) {
        return Err(Reason::Status);
    }
    if heeded.no_store && !heeded.must_understand {
        return Err(Reason::NoStore);
    }
    if heeded.private.is_whole() && !policy.per_identity {
        return Err(Reason::Private);
    }
    Ok(())
}

/// RFC 9111 §4.2.1: the app's lifetime, then the route's, then a guess.
fn lifetime(
    exchange: &Exchange<'_>,
    policy: &Policy,
    heeded: &Directives,
    route: Option<Duration>,
    overriding: bool,
) -> Result<(Duration, Word), Reason> {
    if let Some(route) = route.filter(|_| overriding) {
        return Ok((route, Word::Route));
    }
    if let Some(stated) = stated(exchange.response, heeded, exchange.received) {
        let ttl = policy.ttl.as_ref();
        // Only a lifetime that could be read is raised.
        let readable = heeded.max_age != Delta::Invalid && heeded.s_maxage != Delta::Invalid;
        let least = ttl.and_then(|ttl| ttl.min).filter(|_| readable);
        let most = ttl.and_then(|ttl| ttl.max);
        let fresh = stated.max(least.unwrap_or_default());
        return Ok((fresh.min(most.unwrap_or(Duration::MAX)), Word::App));
    }
    // The app has spoken: to be asked every time. No lifetime of ours changes that.
    if heeded.no_cache.is_whole() {
        return Ok((Duration::ZERO, Word::App));
    }
    if let Some(route) = route {
        return Ok((route, Word::Route));
    }
    // RFC 9111 §4.2.2: `public` makes any status heuristically cacheable.
    if policy.heuristic && (is_heuristically_cacheable(exchange.status) || heeded.public) {
        let guess = guessed(exchange.response, exchange.received).unwrap_or_default();
        return Ok((guess, Word::App));
    }
    Err(match policy.ttl {
        Some(_) => Reason::Status,
        None => Reason::NoLifetime,
    })
}

/// On whose word the response may be shared, or why it may not (RFC 9111 §3.5 and our own rule for
/// lifetimes that only the route knows of).
fn sharing(
    exchange: &Exchange<'_>,
    policy: &Policy,
    said: &Directives,
    word: Word,
) -> Result<Sharing, Reason> {
    if policy.per_identity {
        return Ok(Sharing::Identity);
    }
    let contradicted = said.no_store || said.no_cache.is_whole() || said.private.is_whole();
    match word {
        Word::App => {
            let shared =
                said.public || said.must_revalidate || matches!(said.s_maxage, Delta::Of(_));
            if shared {
                Ok(Sharing::Everyone)
            } else if exchange.request.contains_key(AUTHORIZATION) {
                Err(Reason::Authorization)
            } else {
                Ok(Sharing::App)
            }
        }
        Word::Route => {
            // Here must-revalidate alone says nothing of who may see the response.
            let shared = said.public || matches!(said.s_maxage, Delta::Of(_));
            if shared && !contradicted {
                Ok(Sharing::Everyone)
            } else if has_credentials(exchange.request, policy) {
                Err(Reason::Authorization)
            } else if has_telling_cookie(exchange.request, policy) {
                Err(Reason::Cookie)
            } else {
                Ok(Sharing::Route)
            }
        }
    }
}

fn weigh(
    exchange: &Exchange<'_>,
    policy: &Policy,
    heeded: &Directives,
    fresh: Duration,
    word: Word,
) -> Lifetime {
    let age = initial_age(exchange);
    let no_cache = heeded.no_cache.is_whole();
    // s-maxage implies proxy-revalidate (RFC 9111 §5.2.2.10). A response that beside it grants a
    // stale window by name means that window, as every app that sends both does; nothing else
    // makes it stale-servable.
    let s_maxage = heeded.s_maxage != Delta::Absent;
    let forbidden = heeded.forbids_stale() || no_cache;
    let window = |own: Option<Duration>, granted: Duration| match own {
        _ if forbidden => Duration::ZERO,
        Some(own) => own,
        None if s_maxage => Duration::ZERO,
        None => granted,
    };
    // Who says max-age=0 wants every use checked: only the app itself can soften that.
    let refreshed_behind = match fresh.is_zero() {
        true => Duration::ZERO,
        false => policy.stale_while_revalidate,
    };
    Lifetime {
        received: exchange.received,
        // The route counts from when we got the response; the app's clock is none of its business.
        initial_age: match word {
            Word::App => age.corrected(),
            Word::Route => age.told,
        },
        fresh,
        stale_while_revalidate: window(heeded.stale_while_revalidate, refreshed_behind),
        stale_if_error: window(heeded.stale_if_error, policy.stale_if_error),
        must_revalidate: heeded.forbids_stale() || s_maxage,
        no_cache,
        immutable: heeded.immutable,
    }
}

fn stored_fields(exchange: &Exchange<'_>, policy: &Policy, heeded: &Directives) -> HeaderMap {
    let mut headers = exchange.response.clone();
    remove_unstorable(&mut headers);
    // RFC 9111 §5.2.2.4, §5.2.2.7: without the fields that these name, the rest is free to use.
    for name in heeded.no_cache.fields() {
        headers.remove(name);
    }
    if !policy.per_identity {
        for name in heeded.private.fields() {
            headers.remove(name);
        }
    }
    if policy.set_cookie != SetCookie::Store {
        headers.remove(SET_COOKIE);
    }
    // RFC 9110 §6.6.1: whoever stores a response without a (readable) Date dates it.
    if date(&headers).is_none() {
        headers.insert(DATE, exchange.received.http_date());
    }
    headers
}

/// Answers that a request can provoke, or that pass: never kept on a route's word alone.
const fn is_error(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        400 | 405 | 408 | 413 | 414 | 421 | 429 | 431 | 500..
    )
}

/// Statuses whose caching rules we know (RFC 9110 §15, RFC 6585, RFC 7725, RFC 8470).
const fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=205 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 425 | 426 | 428 | 429 | 431 | 451 | 500..=505 | 511
    )
}
