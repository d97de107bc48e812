//! May this response be stored (RFC 9111 §3), and for how long may it be used (§4.2)?

use super::answer::FIELDS_ADDED;
use super::content::fits_path;
use super::directives::{DELTA_SECONDS_MAX, Delta, Directives, Qualified, RequestDirectives};
use super::fields::{has_credentials, has_telling_cookie, remove_unstorable};
use super::freshness::{date, guessed, initial_age, is_heuristically_cacheable, stated};
use super::range::Part;
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
    /// Share of the lifetime, 0.0 to 1.0, by which route lifetimes are shortened at random, so that
    /// what was stored together does not end together.
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
    /// The request's path, as the app saw it.
    pub path: &'a str,
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

    /// The lifetime for `status`, if this ttl has one; `spread` (at most 1.0) is its jitter.
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
    /// By what route lifetimes are multiplied for a `chance` in 0.0..1.0: never by more than one, since
    /// whoever writes `ttl: 5m` reads it as the longest.
    fn spread(&self, chance: f32) -> f32 {
        let clean = |share: f32| {
            if share.is_finite() {
                share.clamp(0.0, 1.0)
            } else {
                0.0
            }
        };
        1.0 - clean(self.ttl_jitter) * clean(chance)
    }
}

/// The response as it may be stored, still without its body, or why it may not be.
pub fn storable(exchange: &Exchange<'_>, policy: &Policy) -> Result<Stored, Reason> {
    if exchange.method != Method::GET {
        return Err(Reason::Method);
    }
    let status = exchange.status;
    refuse_status(exchange, policy)?;
    if super::fields::is_event_stream(exchange.response) {
        return Err(Reason::EventStream);
    }
    let said = said(exchange);
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
    let validators = Validators::of(exchange.response, exchange.received);
    // What could neither be served nor validated is not worth its place.
    let useless = lifetime.no_cache || lifetime.useful(exchange.received).is_zero();
    if useless && !validators.any() {
        return Err(match word {
            Word::Route => Reason::Status,
            Word::App | Word::Guess => Reason::NoLifetime,
        });
    }
    Ok(Stored {
        status,
        headers: stored_fields(exchange, policy, &heeded),
        body: Bytes::new(),
        elsewhere: 0,
        trailers: HeaderMap::new(),
        lifetime,
        vary,
        sharing,
    })
}

const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

/// By how long a use may renew a response with this status and these fields, received then: the
/// route's `ttl`. `None` where the lifetime is the app's own word, which no use changes.
#[must_use]
pub fn renewal(
    status: StatusCode,
    response: &HeaderMap,
    received: Timestamp,
    policy: &Policy,
) -> Option<Duration> {
    let ttl = policy.ttl.as_ref()?.for_status(status, 1.0)?;
    let said = Directives::of_response(response);
    let stated = said.no_cache.is_whole() || stated(response, &said, received).is_some();
    (policy.override_app || !stated).then_some(ttl)
}

/// What the app says of caching.
fn said(exchange: &Exchange<'_>) -> Directives {
    let mut said = Directives::of_response(exchange.response);
    // RFC 9111 §5.4 gives Pragma no meaning in a response, so a lifetime that Expires states stands;
    // but apps that send it and state none mean it.
    if said.pragma_no_cache
        && stated(exchange.response, &said, exchange.received).is_none_or(|fresh| fresh.is_zero())
    {
        said.no_cache = Qualified::Whole;
    }
    said
}

/// Who stated the lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    App,
    Route,
    /// Nobody: it is guessed from Last-Modified, or zero.
    Guess,
}

/// RFC 9111 §3: final statuses only, and none that answers a question no other request asked.
fn refuse_status(exchange: &Exchange<'_>, policy: &Policy) -> Result<(), Reason> {
    let ttl = policy.ttl.as_ref();
    let named = ttl.is_some_and(|ttl| ttl.named(exchange.status).is_some());
    let asked = |names: &[HeaderName]| names.iter().any(|name| exchange.request.contains_key(name));
    match exchange.status.as_u16() {
        // A part is stored as one, and only as what was asked for (RFC 9111 §3.3).
        206 => match (Part::of(exchange.response), exchange.request.get(RANGE)) {
            (Some(part), Some(asked)) if part.serves(asked).is_some() => Ok(()),
            _ => Err(Reason::Range),
        },
        // 304 is about something stored.
        ..200 | 304 => Err(Reason::Status),
        // About who asks, how, or how often: not stored whatever they say (RFC 6585 §3 to §6), unless
        // the route's `by_status` asks for it.
        428 | 429 | 431 | 511 if !named => Err(Reason::Status),
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
        // Who comes without early data has nothing to wait for (RFC 8470 §5.2).
        425 if asked(&[EARLY_DATA]) => Err(Reason::Status),
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
        return Ok((guess, Word::Guess));
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
        Word::Route | Word::Guess => {
            // Here must-revalidate alone says nothing of who may see the response.
            let shared = said.public || matches!(said.s_maxage, Delta::Of(_));
            if shared && !contradicted {
                Ok(Sharing::Everyone)
            } else if has_credentials(exchange.request, policy) {
                Err(Reason::Authorization)
            } else if has_telling_cookie(exchange.request, policy) {
                Err(Reason::Cookie)
            } else if !fits_path(exchange.path, exchange.response) {
                // One user's page that was asked for by the name of everybody's file.
                Err(Reason::ContentType)
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
            Word::App | Word::Guess => age.corrected(),
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
    if date(&headers, exchange.received).is_none() {
        headers.insert(DATE, exchange.received.http_date());
    }
    headers.reserve(FIELDS_ADDED);
    headers
}

/// Answers that a request can provoke, or that pass: never kept on a route's word alone.
const fn is_error(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        400 | 405 | 408 | 413 | 414 | 421 | 429 | 431 | 500..
    )
}

/// Statuses whose caching rules we know and keep (RFC 9110 §15, RFC 7725, RFC 8470).
const fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=206 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 425 | 426 | 451 | 500..=505
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, at, exchange, headers, store, store_status};
    use http::header::{AGE, CACHE_CONTROL, EXPIRES, LAST_MODIFIED, PRAGMA, VARY};
    use proptest::prelude::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn plain(response: &str) -> Result<Stored, Reason> {
        store("", response, &Policy::default())
    }

    fn fresh(response: &str) -> Option<u64> {
        plain(response)
            .ok()
            .map(|stored| stored.lifetime.fresh.as_secs())
    }

    fn route(ttl: u64) -> Policy {
        Policy {
            ttl: Some(Ttl::new(secs(ttl))),
            ..Policy::default()
        }
    }

    #[test]
    fn only_get_is_stored_rfc9111_3() {
        let (request, response) = (HeaderMap::new(), headers("cache-control: max-age=60"));
        for method in [Method::HEAD, Method::POST, Method::PUT] {
            let exchange = Exchange {
                method: &method,
                ..exchange(200, &request, &response)
            };
            assert_eq!(storable(&exchange, &Policy::default()), Err(Reason::Method));
        }
    }

    #[test]
    fn every_final_status_is_stored_with_explicit_freshness_rfc9111_3() {
        for status in [
            200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504,
            599,
        ] {
            let stored = store_status(status, "", "cache-control: max-age=60", &Policy::default());
            assert!(stored.is_ok(), "{status}");
        }
        for status in [100, 103, 304, 428, 429, 431, 511] {
            let stored = store_status(status, "", "cache-control: max-age=60", &Policy::default());
            assert_eq!(stored.err(), Some(Reason::Status), "{status}");
        }
    }

    #[test]
    fn a_part_is_stored_only_for_who_asked_for_it_rfc9111_3_3() {
        let says = "cache-control: max-age=60\ncontent-range: bytes 4-9/10";
        let status = |request| store_status(206, request, says, &Policy::default()).err();
        assert_eq!(status("range: bytes=4-"), None);
        assert_eq!(status("range: bytes=-3"), None);
        assert_eq!(status("range: bytes=0-"), Some(Reason::Range));
        assert_eq!(status(""), Some(Reason::Range));
        let bare = store_status(
            206,
            "range: bytes=4-",
            "cache-control: max-age=60",
            &Policy::default(),
        );
        assert_eq!(bare.err(), Some(Reason::Range));
    }

    #[test]
    fn answers_to_a_question_that_others_did_not_ask_are_not_stored() {
        let status = |status, request| {
            store_status(
                status,
                request,
                "cache-control: max-age=60",
                &Policy::default(),
            )
            .err()
        };
        assert_eq!(status(416, "range: bytes=9-"), Some(Reason::Range));
        assert_eq!(status(412, "if-match: \"a\""), Some(Reason::Status));
        assert_eq!(status(417, "expect: x"), Some(Reason::Status));
    }

    #[test]
    fn no_store_and_private_are_not_stored_rfc9111_5_2_2() {
        for (response, reason) in [
            ("cache-control: max-age=60, no-store", Reason::NoStore),
            (
                "cache-control: max-age=60\ncache-control: No-Store",
                Reason::NoStore,
            ),
            ("cache-control: private, max-age=60", Reason::Private),
            (
                "cdn-cache-control: no-store\ncache-control: max-age=60",
                Reason::NoStore,
            ),
            (
                "cdn-cache-control: private\ncache-control: max-age=60",
                Reason::Private,
            ),
        ] {
            assert_eq!(plain(response).err(), Some(reason), "{response}");
        }
    }

    #[test]
    fn a_requests_no_store_counts_only_where_it_is_honoured_rfc9111_5_2_1_5() {
        let (request, response) = (
            headers("cache-control: no-store"),
            headers("cache-control: max-age=60"),
        );
        let honoured = exchange(200, &request, &response);
        assert_eq!(
            storable(&honoured, &Policy::default()).err(),
            Some(Reason::NoStore)
        );
        let ignored = Exchange {
            client: ClientRefresh::Ignore,
            ..honoured
        };
        assert!(storable(&ignored, &Policy::default()).is_ok());
    }

    #[test]
    fn must_understand_outweighs_no_store_for_known_statuses_rfc9111_5_2_2_3() {
        let says = "cache-control: max-age=60, no-store, must-understand";
        assert!(store_status(200, "", says, &Policy::default()).is_ok());
        assert_eq!(
            store_status(299, "", says, &Policy::default()).err(),
            Some(Reason::Status)
        );
        let part = "cache-control: max-age=60, must-understand\ncontent-range: bytes 4-9/10";
        assert!(store_status(206, "range: bytes=4-", part, &Policy::default()).is_ok());
        let says = "cache-control: max-age=60, must-understand";
        assert_eq!(
            store_status(499, "", says, &Policy::default()).err(),
            Some(Reason::Status)
        );
    }

    #[test]
    fn the_order_of_lifetimes_is_s_maxage_max_age_expires_rfc9111_4_2_1() {
        let expires = format!("expires: {}\n", at(30).http_date().to_str().unwrap());
        assert_eq!(
            fresh(&format!("{expires}cache-control: s-maxage=10, max-age=20")),
            Some(10)
        );
        assert_eq!(
            fresh(&format!("{expires}cache-control: max-age=20")),
            Some(20)
        );
        assert_eq!(fresh(&expires), Some(30));
        assert_eq!(
            fresh(&format!(
                "{expires}date: {}",
                at(10).http_date().to_str().unwrap()
            )),
            Some(20)
        );
        assert_eq!(fresh(&format!("{expires}cache-control: public")), Some(30));
    }

    #[test]
    fn a_targeted_field_hides_cache_control_and_expires_rfc9213_2_1() {
        let expires = format!(
            "expires: {}\ncache-control: max-age=60\n",
            at(30).http_date().to_str().unwrap()
        );
        assert_eq!(
            fresh(&format!("{expires}cdn-cache-control: max-age=5")),
            Some(5)
        );
        assert_eq!(fresh(&format!("{expires}cdn-cache-control: foo")), None);
        assert_eq!(
            fresh("cache-control: no-store\ncdn-cache-control: max-age=5"),
            Some(5)
        );
    }

    #[test]
    fn unreadable_or_contradicted_lifetimes_are_not_fresh_rfc9111_4_2_1() {
        let future = at(60).http_date();
        let future = future.to_str().unwrap();
        for response in [
            "expires: 0".to_owned(),
            "expires: Sun, 06 Nov 2050 08:49:37 AEST".into(),
            format!("expires: {future}\nexpires: 0"),
            format!("expires: {future}\ncache-control: max-age=x"),
            "cache-control: max-age=60, max-age=1".into(),
            "cache-control: max-age=60, s-maxage=-1".into(),
            "cache-control: max-age=0".into(),
        ] {
            assert_eq!(
                plain(&response).err(),
                Some(Reason::NoLifetime),
                "{response}"
            );
            // With a validator it is kept, to be validated.
            assert_eq!(
                fresh(&format!("{response}\netag: \"a\"")),
                Some(0),
                "{response}"
            );
        }
        assert_eq!(
            fresh(&format!("expires: {future}\nexpires: {future}")),
            Some(60)
        );
    }

    #[test]
    fn what_arrives_stale_and_cannot_be_validated_is_not_stored() {
        assert_eq!(
            plain("cache-control: max-age=60\nage: 60").err(),
            Some(Reason::NoLifetime)
        );
        assert!(plain("cache-control: max-age=60\nage: 59").is_ok());
    }

    #[test]
    fn without_any_lifetime_nothing_is_stored() {
        for response in [
            "",
            "etag: \"a\"",
            "cache-control: public",
            "last-modified: Sun, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(
                plain(response).err(),
                Some(Reason::NoLifetime),
                "{response}"
            );
        }
    }

    #[test]
    fn a_lifetime_is_guessed_only_where_asked_and_only_without_a_stated_one_rfc9111_4_2_2() {
        let policy = Policy {
            heuristic: true,
            ..Policy::default()
        };
        // at(0) − 1000 s
        let modified = format!(
            "last-modified: {}\n",
            Timestamp::from_millis(at(0).as_millis() - 1_000_000)
                .http_date()
                .to_str()
                .unwrap()
        );
        let guess = |status, response: &str| {
            store_status(status, "", response, &policy)
                .ok()
                .map(|stored| stored.lifetime.fresh.as_secs())
        };
        assert_eq!(guess(200, &modified), Some(100));
        assert_eq!(guess(404, &modified), Some(100));
        assert_eq!(guess(201, &modified), None);
        assert_eq!(
            guess(599, &format!("{modified}cache-control: public")),
            Some(100)
        );
        assert_eq!(
            guess(200, &format!("{modified}cache-control: max-age=5")),
            Some(5)
        );
        assert_eq!(guess(200, &format!("{modified}expires: 0")), Some(0));
        assert_eq!(
            guess(200, "last-modified: Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(HEURISTIC)
        );
        assert_eq!(
            guess(200, "last-modified: Sun, 06 Nov 2050 08:49:37 GMT"),
            Some(0)
        );
        assert_eq!(guess(200, "x: y"), None);
        assert_eq!(guess(200, "etag: \"a\""), Some(0));
        // Whom the page is for, no Last-Modified tells.
        for (request, reason) in [
            ("authorization: x", Reason::Authorization),
            ("cookie: sid=1", Reason::Cookie),
        ] {
            assert_eq!(store(request, &modified, &policy).err(), Some(reason));
        }
    }
    const HEURISTIC: u64 = 24 * 60 * 60;

    #[test]
    fn no_cache_is_stored_to_be_validated_rfc9111_5_2_2_4() {
        let stored = plain("cache-control: no-cache\netag: \"a\"").unwrap();
        assert!(stored.lifetime.no_cache);
        assert_eq!(
            plain("cache-control: no-cache, max-age=60").err(),
            Some(Reason::NoLifetime)
        );
        // A route's lifetime does not overrule it.
        assert_eq!(
            store("", "cache-control: no-cache", &route(60)).err(),
            Some(Reason::NoLifetime)
        );
    }

    #[test]
    fn fields_named_by_private_and_no_cache_are_left_out_rfc9111_5_2_2_7() {
        let response =
            "cache-control: max-age=60, private=\"a\", no-cache=\"B, x\"\na: 1\nb: 2\nc: 3";
        let stored = plain(response).unwrap();
        assert!(!stored.headers.contains_key("a") && !stored.headers.contains_key("b"));
        assert_eq!(stored.headers["c"], "3");
        assert!(!stored.lifetime.no_cache);
    }

    #[test]
    fn fields_of_the_connection_are_not_stored_rfc9111_3_1() {
        let stored = plain(
            "cache-control: max-age=60\nconnection: x-hop, close\nx-hop: 1\nkeep-alive: 1\nproxy-connection: 1\n\
             te: trailers\ntransfer-encoding: chunked\nupgrade: a\nproxy-authenticate: a\nproxy-authentication-info: a\n\
             proxy-authorization: a\nage: 3\ncontent-length: 9\nx: y",
        )
        .unwrap();
        let mut names: Vec<_> = stored.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cache-control", "date", "x"]);
        assert_eq!(stored.headers["date"], at(0).http_date());
    }

    #[test]
    fn an_answer_to_authorization_needs_the_apps_word_rfc9111_3_5() {
        let asked =
            |response: &str, policy: &Policy| store("authorization: Bearer x", response, policy);
        let plain = Policy::default();
        assert_eq!(
            asked("cache-control: max-age=60", &plain).err(),
            Some(Reason::Authorization)
        );
        for allowed in [
            "public, max-age=60",
            "s-maxage=60",
            "max-age=60, must-revalidate",
        ] {
            let stored = asked(&format!("cache-control: {allowed}"), &plain).unwrap();
            assert_eq!(stored.sharing, Sharing::Everyone, "{allowed}");
        }
        assert_eq!(asked("", &route(60)).err(), Some(Reason::Authorization));
        assert_eq!(
            asked("cache-control: must-revalidate", &route(60)).err(),
            Some(Reason::Authorization)
        );
        let own = Policy {
            per_identity: true,
            ..route(60)
        };
        assert_eq!(
            asked("cache-control: private", &own).unwrap().sharing,
            Sharing::Identity
        );
        assert_eq!(
            store("", "cache-control: max-age=60", &plain)
                .unwrap()
                .sharing,
            Sharing::App
        );
    }

    #[test]
    fn a_lifetime_of_the_route_alone_is_not_for_clients_that_can_be_told_apart() {
        let policy = Policy {
            keyed_cookies: vec!["theme".into()],
            keyed_headers: vec![HeaderName::from_static("x-api-key")],
            ..route(60)
        };
        let overriding = Policy {
            override_app: true,
            ..policy.clone()
        };
        for (policy, response) in [(&policy, ""), (&overriding, "cache-control: max-age=5")] {
            let asked =
                |request: &str| store(request, response, policy).map(|stored| stored.sharing);
            assert_eq!(asked("cookie: _ga=1; theme=dark"), Ok(Sharing::Route));
            assert_eq!(asked("x-api-key: a"), Ok(Sharing::Route));
            assert_eq!(asked("cookie: sid=1"), Err(Reason::Cookie));
            for credential in [
                "apikey",
                "x-auth-token",
                "proxy-authorization",
                "authorization",
            ] {
                assert_eq!(
                    asked(&format!("{credential}: 1")),
                    Err(Reason::Authorization),
                    "{credential}"
                );
            }
        }
        // Where the app gives the lifetime, it knows of the cookie.
        let stored = store("cookie: sid=1", "cache-control: max-age=5", &policy).unwrap();
        assert_eq!(
            (stored.sharing, stored.lifetime.fresh),
            (Sharing::App, secs(5))
        );
        let public = store("cookie: sid=1", "cache-control: public", &policy).unwrap();
        assert_eq!(
            (public.sharing, public.lifetime.fresh),
            (Sharing::Everyone, secs(60))
        );
    }

    #[test]
    fn set_cookie_does_what_the_policy_says() {
        let response = "cache-control: public, max-age=60\nset-cookie: a=b";
        let with = |set_cookie| {
            store(
                "",
                response,
                &Policy {
                    set_cookie,
                    ..Policy::default()
                },
            )
            .map(|stored| stored.headers.contains_key(SET_COOKIE))
        };
        assert_eq!(with(SetCookie::Bypass), Err(Reason::SetCookie));
        assert_eq!(with(SetCookie::Strip), Ok(false));
        assert_eq!(with(SetCookie::Store), Ok(true));
        let bold = Policy {
            override_app: true,
            per_identity: true,
            ..route(60)
        };
        assert_eq!(store("", response, &bold).err(), Some(Reason::SetCookie));
    }

    #[test]
    fn vary_star_is_never_stored_rfc9111_4_1() {
        let bold = Policy {
            override_app: true,
            ..route(60)
        };
        assert_eq!(store("", "vary: a, *", &bold).err(), Some(Reason::VaryStar));
    }

    #[test]
    fn a_route_gives_a_lifetime_where_the_app_states_none() {
        let policy = route(60);
        let fresh = |status, response: &str| {
            store_status(status, "", response, &policy)
                .map(|stored| stored.lifetime.fresh.as_secs())
        };
        assert_eq!(fresh(200, ""), Ok(60));
        assert_eq!(fresh(200, "cache-control: max-age=5"), Ok(5));
        assert_eq!(fresh(200, "cache-control: no-store"), Err(Reason::NoStore));
        assert_eq!(fresh(302, ""), Err(Reason::Status));
        assert_eq!(fresh(302, "cache-control: max-age=5"), Ok(5));
    }

    #[test]
    fn an_override_wins_over_cache_control_expires_and_pragma() {
        let policy = Policy {
            override_app: true,
            ..route(60)
        };
        for response in [
            "cache-control: no-store",
            "cache-control: private, no-cache",
            "expires: 0\npragma: no-cache",
            "cdn-cache-control: no-store",
        ] {
            let stored = store("", response, &policy).unwrap();
            assert_eq!(
                (stored.lifetime.fresh, stored.lifetime.no_cache),
                (secs(60), false),
                "{response}"
            );
            assert_eq!(stored.sharing, Sharing::Route);
        }
    }

    #[test]
    fn errors_are_stored_by_a_route_only_when_named() {
        for status in [400, 405, 408, 413, 414, 421, 429, 431, 500, 503, 599] {
            let code = StatusCode::from_u16(status).unwrap();
            let mut policy = route(60);
            policy.ttl.as_mut().unwrap().statuses.push(code);
            policy.override_app = true;
            let stored = |policy: &Policy| {
                store_status(status, "", "cache-control: max-age=9", policy)
                    .map(|stored| stored.lifetime.fresh)
            };
            assert_eq!(stored(&policy), Err(Reason::Status), "{status}");
            policy.ttl.as_mut().unwrap().by_status.push((code, secs(3)));
            assert_eq!(stored(&policy), Ok(secs(3)), "{status}");
            let plain = match status {
                429 | 431 => Err(Reason::Status),
                _ => Ok(secs(9)),
            };
            assert_eq!(stored(&Policy::default()), plain, "{status}");
        }
    }

    #[test]
    fn what_is_absent_is_kept_a_minute_at_most_unless_named() {
        let mut policy = route(600);
        let fresh = |policy: &Policy| store_status(404, "", "", policy).unwrap().lifetime.fresh;
        assert_eq!(fresh(&policy), ABSENT_TTL_MAX);
        policy
            .ttl
            .as_mut()
            .unwrap()
            .by_status
            .push((StatusCode::NOT_FOUND, secs(300)));
        assert_eq!(fresh(&policy), secs(300));
    }

    #[test]
    fn the_apps_lifetime_stays_between_min_and_max() {
        let policy = Policy {
            ttl: Some(Ttl {
                min: Some(secs(30)),
                max: Some(secs(100)),
                ..Ttl::new(secs(60))
            }),
            ..Policy::default()
        };
        let fresh = |age: &str| {
            store(
                "",
                &format!("cache-control: max-age={age}\netag: \"a\""),
                &policy,
            )
            .unwrap()
            .lifetime
            .fresh
            .as_secs()
        };
        assert_eq!(
            (fresh("1"), fresh("50"), fresh("1000"), fresh("x")),
            (30, 50, 100, 0)
        );
    }

    #[test]
    fn jitter_shortens_the_lifetimes_of_routes_only() {
        let policy = Policy {
            ttl_jitter: 0.1,
            ..route(100)
        };
        let fresh = |chance, response| {
            let (request, response) = (HeaderMap::new(), headers(response));
            let exchange = Exchange {
                chance,
                ..exchange(200, &request, &response)
            };
            storable(&exchange, &policy)
                .unwrap()
                .lifetime
                .fresh
                .as_millis()
        };
        assert_eq!(fresh(0.0, ""), 100_000);
        assert!((94_990..=95_010).contains(&fresh(0.5, "")));
        assert!((89_990..=90_020).contains(&fresh(0.999_9, "")));
        assert_eq!(fresh(0.0, "cache-control: max-age=50"), 50_000);
    }

    #[test]
    fn stale_windows_come_from_the_response_then_the_route_rfc5861() {
        let policy = Policy {
            stale_while_revalidate: secs(30),
            stale_if_error: secs(3600),
            ..Policy::default()
        };
        let windows = |says: &str| {
            let lifetime = store("", &format!("cache-control: {says}\netag: \"a\""), &policy)
                .unwrap()
                .lifetime;
            (
                lifetime.stale_while_revalidate.as_secs(),
                lifetime.stale_if_error.as_secs(),
            )
        };
        assert_eq!(windows("max-age=60"), (30, 3600));
        assert_eq!(
            windows("max-age=60, stale-while-revalidate=5, stale-if-error=6"),
            (5, 6)
        );
        assert_eq!(windows("max-age=60, stale-while-revalidate=x"), (0, 3600));
        assert_eq!(windows("max-age=0"), (0, 3600));
        // RFC 9111 §4.2.4
        for forbidden in ["must-revalidate", "proxy-revalidate", "no-cache"] {
            let says =
                format!("max-age=60, stale-while-revalidate=5, stale-if-error=6, {forbidden}");
            assert_eq!(windows(&says), (0, 0), "{forbidden}");
        }
        assert_eq!(windows("s-maxage=60"), (0, 0));
        assert_eq!(windows("s-maxage=60, stale-while-revalidate=5"), (5, 0));
    }

    #[test]
    fn a_store_keeps_what_can_be_validated_longer() {
        let keep = |response| plain(response).unwrap().keep(at(10)).as_secs();
        assert_eq!(keep("cache-control: max-age=60"), 60 - 10 + 60);
        assert_eq!(
            keep("cache-control: max-age=3600\netag: \"a\""),
            2 * 3600 - 10
        );
        assert_eq!(keep("cache-control: no-cache\netag: \"a\""), 600 - 10);
        assert_eq!(
            keep("cache-control: max-age=60, stale-if-error=1000"),
            1060 - 10
        );
    }

    #[test]
    fn a_routes_word_does_not_make_a_page_of_everybodys_file() {
        let judge = |path, response: &str, policy: &Policy| {
            let (request, response) = (HeaderMap::new(), headers(response));
            let exchange = Exchange {
                path,
                ..exchange(200, &request, &response)
            };
            storable(&exchange, policy).map(|stored| stored.sharing)
        };
        let firm = Policy {
            override_app: true,
            ..route(60)
        };
        let deceived = Err(Reason::ContentType);
        let page = "content-type: text/html";
        for policy in [route(60), firm] {
            assert_eq!(judge("/account/x.css", page, &policy), deceived);
            assert_eq!(judge("/account", page, &policy), Ok(Sharing::Route));
            let style = "content-type: text/css";
            assert_eq!(judge("/x.css", style, &policy), Ok(Sharing::Route));
            // The app's own word that it is for all is not overruled.
            for word in ["public, max-age=5", "s-maxage=5"] {
                let said = format!("{page}\ncache-control: {word}");
                assert_eq!(
                    judge("/x.css", &said, &policy),
                    Ok(Sharing::Everyone),
                    "{word}"
                );
            }
        }
        // A lifetime of the app's own is not the route's word either.
        let said = format!("{page}\ncache-control: max-age=5");
        assert_eq!(judge("/x.css", &said, &route(60)), Ok(Sharing::App));
        let apart = Policy {
            per_identity: true,
            ..route(60)
        };
        assert_eq!(judge("/x.css", page, &apart), Ok(Sharing::Identity));
    }

    proptest! {
        #[test]
        fn nothing_an_app_says_makes_storing_panic(values in proptest::collection::vec(any_value(), 8), status in 100u16..1000, ttl in proptest::option::of(any::<u64>()), jitter: f32, chance: f32) {
            let names = [CACHE_CONTROL, EXPIRES, AGE, DATE, LAST_MODIFIED, VARY, PRAGMA, http::header::CONNECTION];
            let response = HeaderMap::from_iter(names.into_iter().zip(values));
            let policy = Policy {
                ttl: ttl.map(|millis| Ttl::new(Duration::from_millis(millis))),
                heuristic: true,
                ttl_jitter: jitter,
                stale_if_error: Duration::MAX,
                ..Policy::default()
            };
            let request = HeaderMap::new();
            let exchange = Exchange { chance, ..exchange(status, &request, &response) };
            if let Ok(stored) = storable(&exchange, &policy) {
                let _ = (stored.keep(at(1)), stored.lifetime.ttl_secs(Timestamp::from_millis(u64::MAX)));
                prop_assert!(stored.headers.contains_key(DATE));
                prop_assert!(!stored.headers.contains_key(AGE));
            }
        }

        #[test]
        fn whatever_stands_beside_it_no_store_and_private_hold(beside in "[a-z=0-9\", -]{0,60}", which in proptest::sample::select(vec!["no-store", "private"])) {
            prop_assume!(!beside.contains("must-understand"));
            let stored = plain(&format!("cache-control: {beside}\ncache-control: {which}\ncache-control: max-age=60"));
            prop_assert!(stored.is_err());
        }
    }
}
