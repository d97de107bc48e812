//! Asking the app whether a stored response still holds (RFC 9111 §4.3), and what its answer makes
//! of the stored one.
//!
//! Never judges the client's own preconditions: that is [`super::answer`]'s.

use super::answer::{OF_THE_CONTENT, opaque};
use super::fields::{remove_unstorable, trim};
use super::range::Part;
use super::stored::EtagKind;
use super::{Exchange, Policy, Stored, storable};
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::ops::Range;

/// What an answer to HEAD says of the stored answer to GET (RFC 9111 §4.3.5).
#[derive(Clone, Debug, PartialEq)]
pub enum HeadVerdict {
    /// It is the same: this, with the new fields, takes its place.
    Freshened(Box<Stored>),
    /// It has changed, or may not be kept any longer: the stored one must not be used without validation.
    Spoiled,
    /// It says nothing of the stored one.
    Unrelated,
}

/// Replaces the client's preconditions in `request` by ones for `stored` (RFC 9111 §4.3.1).
///
/// Returns whether there is anything to validate with; if not, `request` is left unconditional.
pub fn make_conditional(request: &mut HeaderMap, stored: &Stored) -> bool {
    make_unconditional(request);
    let mut conditional = false;
    if stored.validators().etag != EtagKind::None
        && let Some(etag) = stored.headers.get(ETAG)
    {
        request.insert(IF_NONE_MATCH, etag.clone());
        conditional = true;
    }
    // Sent back as received: apps compare it byte for byte.
    if stored.validators().last_modified.is_some()
        && let Some(modified) = stored.headers.get(LAST_MODIFIED)
    {
        request.insert(IF_MODIFIED_SINCE, modified.clone());
        conditional = true;
    }
    conditional
}

/// Whether `request` has preconditions that a cache may judge (RFC 9111 §4.3.2).
#[must_use]
pub fn is_conditional(request: &HeaderMap) -> bool {
    request.contains_key(IF_NONE_MATCH) || request.contains_key(IF_MODIFIED_SINCE)
}

/// Takes the client's ranges out, so that a fetch brings the whole response or none.
pub fn make_whole(request: &mut HeaderMap) {
    for name in [IF_RANGE, RANGE] {
        request.remove(name);
    }
}

/// Takes the client's preconditions and ranges out, so that a fetch brings the whole response.
///
/// If-Match and If-Unmodified-Since stay: they are for the app to judge (RFC 9111 §4.3.2), and its
/// 412 is not stored.
pub fn make_unconditional(request: &mut HeaderMap) {
    make_whole(request);
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE] {
        request.remove(name);
    }
}

/// Makes `request` ask for what is missing of `stored`, a part, under its strong validator (RFC 9111
/// §3.4). `None`, and `request` as it was, where the two could not be put together.
#[must_use]
pub fn ask_for_rest(request: &mut HeaderMap, stored: &Stored) -> Option<Range<u64>> {
    let missing = stored.part()?.missing()?;
    ask_for_part(request, stored, &missing)?;
    Some(missing)
}

/// Makes `request` ask for a part of the representation that `stored` is of, under its strong validator
/// (RFC 9110 §13.1.5). `None`, and `request` as it was, where nothing could be proved of the answer.
#[must_use]
pub fn ask_for_part(request: &mut HeaderMap, stored: &Stored, part: &Range<u64>) -> Option<()> {
    let etag = (stored.validators().etag == EtagKind::Strong)
        .then(|| stored.headers.get(ETAG))
        .flatten()?;
    let asked = format!("bytes={}-{}", part.start, part.end.checked_sub(1)?);
    make_unconditional(request);
    request.insert(RANGE, HeaderValue::from_str(&asked).ok()?);
    request.insert(IF_RANGE, etag.clone());
    Some(())
}

/// Whether a 206 with these fields is this part of what is `stored` as a whole.
#[must_use]
pub fn is_part_of(stored: &Stored, response: &HeaderMap, part: &Range<u64>) -> bool {
    let got = Part::of(response);
    let fits = got.is_some_and(|got| got.range == *part && got.length == stored.content_bytes());
    fits && is_same(stored, response)
}

/// Whether both name one representation, byte for byte.
fn is_same(stored: &Stored, response: &HeaderMap) -> bool {
    stored.validators().etag == EtagKind::Strong
        && response.get(ETAG).map(|etag| trim(etag.as_bytes()))
            == stored.headers.get(ETAG).map(|etag| trim(etag.as_bytes()))
}

/// The head of the whole that `stored`, a part, and the answer to [`ask_for_rest`] make (RFC 9111
/// §3.4): 200, with the new fields over the stored ones. `None` where they are not parts of one
/// representation.
#[must_use]
pub fn completed(stored: &Stored, response: &HeaderMap) -> Option<HeaderMap> {
    let (have, got) = (stored.part()?, Part::of(response)?);
    let fits = have.missing() == Some(got.range) && have.length == got.length;
    if !fits || !is_same(stored, response) {
        return None;
    }
    let mut headers = stored.headers.clone();
    let mut update = response.clone();
    update.remove(CONTENT_LENGTH);
    for name in update.keys() {
        headers.remove(name);
    }
    for (name, value) in &update {
        headers.append(name, value.clone());
    }
    headers.remove(CONTENT_RANGE);
    // What was said of the parts is not said of the whole (RFC 9530 §2).
    for name in OF_THE_CONTENT {
        headers.remove(name);
    }
    Some(headers)
}

/// Whether a 304 to our conditional request is about `stored` (RFC 9111 §4.3.4).
///
/// One that names no validator at all answers the only question that was asked, so it is; one that
/// names another is not, and the request has to be made again without conditions.
#[must_use]
pub fn confirms(response: &HeaderMap, stored: &Stored) -> bool {
    if !stored.validators().any() {
        return false;
    }
    let same = |name, cut: fn(&[u8]) -> &[u8]| {
        let value = |headers: &HeaderMap| {
            headers
                .get(&name)
                .map(|value| cut(value.as_bytes()).to_vec())
        };
        value(response).map(|new| Some(new) == value(&stored.headers))
    };
    let etag_is_weak = response
        .get(ETAG)
        .is_some_and(|etag| etag.as_bytes().starts_with(b"W/"));
    let etag = match (response.get(ETAG), stored.validators().etag) {
        (None, _) => None,
        // Only a weak tag may stand for another form of itself.
        (Some(_), EtagKind::Strong) if !etag_is_weak => same(ETAG, trim),
        (Some(_), EtagKind::None) => None,
        (Some(_), EtagKind::Weak | EtagKind::Strong) => same(ETAG, opaque),
    };
    etag.or_else(|| same(LAST_MODIFIED, trim))
        .unwrap_or(!response.contains_key(ETAG))
}

/// `stored` with the fields of a confirming 304 merged in (RFC 9111 §3.2) and its lifetime begun
/// anew. `None` when the 304 itself forbids keeping it any longer; it may still be served once, as
/// [`merge`] gives it.
#[must_use]
pub fn freshen(stored: &Stored, exchange: &Exchange<'_>, policy: &Policy) -> Option<Stored> {
    let headers = merged(stored, exchange);
    let renewed = storable(
        &Exchange {
            method: &Method::GET,
            status: stored.status,
            response: &headers,
            ..*exchange
        },
        policy,
    )
    .ok()?;
    Some(Stored {
        body: stored.body.clone(),
        elsewhere: stored.elsewhere,
        trailers: stored.trailers.clone(),
        // One without Vary may be kept beside some with it, as what they vary on selects it.
        vary: match renewed.vary.is_empty() {
            true => stored.vary.clone(),
            false => renewed.vary,
        },
        ..renewed
    })
}

/// `other`, stored under the same key for other requests, with a 304 merged in that names its strong
/// validator too (RFC 9111 §4.3.4). `None` where it does not, or changes what is varied on.
#[must_use]
pub fn freshen_beside(other: &Stored, exchange: &Exchange<'_>, policy: &Policy) -> Option<Stored> {
    let freshened = is_same(other, exchange.response)
        .then(|| freshen(other, exchange, policy))
        .flatten()?;
    freshened
        .vary
        .names()
        .eq(other.vary.names())
        .then(|| Stored {
            vary: other.vary.clone(),
            ..freshened
        })
}

/// `stored` as it answers the one request whose validation brought this 304, when it may not be
/// kept: new fields (those for this client too), the old lifetime.
#[must_use]
pub fn merge(stored: &Stored, exchange: &Exchange<'_>) -> Stored {
    let mut headers = merged(stored, exchange);
    remove_unstorable(&mut headers);
    Stored {
        headers,
        lifetime: super::stored::Lifetime {
            received: exchange.received,
            initial_age: std::time::Duration::ZERO,
            ..stored.lifetime
        },
        ..stored.clone()
    }
}

/// What the answer to a HEAD says of `stored`, the answer to GET (RFC 9111 §4.3.5).
#[must_use]
pub fn judge_head(stored: &Stored, exchange: &Exchange<'_>, policy: &Policy) -> HeadVerdict {
    // What is gone for HEAD is gone for GET; nothing else but a success says anything of the content.
    if stored.status == StatusCode::OK
        && matches!(exchange.status, StatusCode::NOT_FOUND | StatusCode::GONE)
        && stored.vary.matches(exchange.request)
    {
        return HeadVerdict::Spoiled;
    }
    if exchange.status != StatusCode::OK || stored.status != StatusCode::OK {
        return HeadVerdict::Unrelated;
    }
    let Ok(vary) = super::Vary::select(exchange.response, exchange.request) else {
        return HeadVerdict::Unrelated;
    };
    if !stored.vary.matches(exchange.request) || !vary.names().eq(stored.vary.names()) {
        return HeadVerdict::Unrelated;
    }
    let agrees = |name| match exchange.response.get(&name) {
        Some(new) => stored.headers.get(&name) == Some(new),
        None => true,
    };
    let length_agrees = match exchange.response.get(CONTENT_LENGTH) {
        Some(length) => length.as_bytes() == stored.content_bytes().to_string().as_bytes(),
        None => true,
    };
    if !(agrees(ETAG) && agrees(LAST_MODIFIED) && length_agrees) {
        return HeadVerdict::Spoiled;
    }
    match freshen(stored, exchange, policy) {
        Some(freshened) => HeadVerdict::Freshened(Box::new(freshened)),
        None => HeadVerdict::Spoiled,
    }
}

/// RFC 9111 §3.2: every field received replaces those stored under its name, but for the ones that
/// §3.1 forbids to store, Content-Length, and those that say how the kept content is to be read: it
/// has not changed, whatever they say. The connection's own fields are gone afterwards.
fn merged(stored: &Stored, exchange: &Exchange<'_>) -> HeaderMap {
    let mut update = exchange.response.clone();
    let age = update.get(http::header::AGE).cloned();
    remove_unstorable(&mut update);
    for name in [CONTENT_ENCODING, CONTENT_RANGE] {
        update.remove(name);
    }
    let mut headers = stored.headers.clone();
    // The stored Date is of the stored message; without a new one, the answer is dated by its receipt.
    headers.insert(DATE, exchange.received.http_date());
    let mut before = None;
    for (name, value) in update {
        match (name, &before) {
            (Some(name), _) => {
                headers.insert(&name, value);
                before = Some(name);
            }
            (None, Some(name)) => {
                headers.append(name, value);
            }
            (None, None) => {}
        }
    }
    // Weighed by whoever stores this, and then removed.
    if let Some(age) = age {
        headers.insert(http::header::AGE, age);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{at, exchange, headers, stored};
    use crate::semantics::{Reason, Timestamp};
    use std::time::Duration;

    const MODIFIED: &str = "last-modified: Sun, 06 Nov 1994 08:49:37 GMT";

    fn held(response: &str) -> Stored {
        let mut stored = stored(&format!("cache-control: max-age=60\n{response}"));
        stored.body = bytes::Bytes::from_static(b"0123456789");
        stored
    }

    fn freshened(
        stored: &Stored,
        request: &str,
        response: &str,
        when: Timestamp,
    ) -> Option<Stored> {
        let (request, response) = (headers(request), headers(response));
        let exchange = Exchange {
            requested: when,
            received: when,
            ..exchange(304, &request, &response)
        };
        freshen(stored, &exchange, &Policy::default())
    }

    #[test]
    fn every_stored_validator_is_sent_and_the_clients_are_not_rfc9111_4_3_1() {
        let stored = held(&format!("etag: W/\"a\"\n{MODIFIED}"));
        let mut request = headers(
            "if-none-match: \"z\"\nif-range: \"z\"\nrange: bytes=0-\nif-match: \"m\"\nx: y",
        );
        assert!(make_conditional(&mut request, &stored));
        let expected = "if-none-match: W/\"a\"\nif-modified-since: Sun, 06 Nov 1994 08:49:37 GMT\nif-match: \"m\"\nx: y";
        assert_eq!(request, headers(expected));
        let mut request = headers("if-none-match: \"z\"");
        assert!(!make_conditional(
            &mut request,
            &held("last-modified: never")
        ));
        assert!(request.is_empty());
    }

    #[test]
    fn a_304_is_about_what_it_names_rfc9111_4_3_4() {
        let says = |response: &str, about: &str| confirms(&headers(response), &held(about));
        assert!(says("etag: \"a\"", "etag: \"a\""));
        assert!(!says("etag: \"b\"", "etag: \"a\""));
        assert!(!says("etag: \"a\"", "etag: \"b\"\nx: y"));
        assert!(says("etag: W/\"a\"", "etag: \"a\""));
        assert!(says("etag: W/\"a\"", "etag: W/\"a\""));
        assert!(says(MODIFIED, MODIFIED));
        assert!(says(&format!("{MODIFIED}\netag: \"a\""), MODIFIED));
        assert!(!says(
            "last-modified: Sun, 06 Nov 1994 08:49:38 GMT",
            MODIFIED
        ));
        assert!(!says("etag: \"a\"", MODIFIED));
        assert!(says("x: y", "etag: \"a\""));
        assert!(!says("x: y", ""));
    }

    #[test]
    fn a_304_replaces_fields_and_begins_the_lifetime_anew_rfc9111_3_2() {
        let stored = held("etag: \"a\"\nx: old\nx: older\ny: stays\nset-cookie2: a");
        let new = freshened(
            &stored,
            "",
            "etag: \"a\"\ncache-control: max-age=9\nx: new\nx: newer\ncontent-length: 3\nconnection: z\nz: 1\nproxy-authenticate: a\nage: 4",
            at(100),
        )
        .unwrap();
        assert_eq!(
            new.headers.get_all("x").iter().collect::<Vec<_>>(),
            ["new", "newer"]
        );
        assert_eq!(new.headers["y"], "stays");
        for gone in [
            "content-length",
            "connection",
            "z",
            "proxy-authenticate",
            "age",
        ] {
            assert!(!new.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(new.headers["date"], at(100).http_date());
        assert_eq!(new.body, stored.body);
        assert_eq!(new.lifetime.fresh, Duration::from_secs(9));
        assert_eq!(new.lifetime.age(at(101)), Duration::from_secs(5));
    }

    #[test]
    fn a_304_without_a_lifetime_of_its_own_keeps_the_stored_one() {
        let new = freshened(&held("etag: \"a\""), "", "", at(100)).unwrap();
        assert_eq!(new.lifetime.ttl_secs(at(100)), 60);
    }

    #[test]
    fn a_304_that_forbids_keeping_ends_the_entry() {
        let stored = held("etag: \"a\"");
        for response in [
            "cache-control: no-store",
            "cache-control: private",
            "set-cookie: a=b",
            "vary: *",
        ] {
            assert_eq!(freshened(&stored, "", response, at(1)), None, "{response}");
        }
        // Its fields are for that client alone (RFC 9111 §3.5).
        assert_eq!(
            freshened(&stored, "authorization: Bearer x", "", at(1)),
            None
        );
        let (request, response) = (headers(""), headers("set-cookie: a=b\nconnection: x"));
        let once = merge(&stored, &exchange(304, &request, &response));
        assert_eq!(once.headers["set-cookie"], "a=b");
        assert!(!once.headers.contains_key("connection"));
    }

    #[test]
    fn head_freshens_or_spoils_what_get_stored_rfc9111_4_3_5() {
        let stored = held("etag: \"a\"");
        let judge = |status, response: &str| {
            let (request, response) = (headers(""), headers(response));
            let exchange = Exchange {
                method: &Method::HEAD,
                received: at(50),
                requested: at(50),
                ..exchange(status, &request, &response)
            };
            judge_head(&stored, &exchange, &Policy::default())
        };
        let same = judge(
            200,
            "etag: \"a\"\ncontent-length: 10\nx: new\ncache-control: max-age=7",
        );
        let HeadVerdict::Freshened(new) = same else {
            panic!("{same:?}");
        };
        assert_eq!((new.lifetime.ttl_secs(at(50)), new.body.len()), (7, 10));
        assert_eq!(new.headers["x"], "new");
        for changed in [
            "etag: \"b\"",
            "content-length: 11",
            MODIFIED,
            "cache-control: no-store",
        ] {
            assert_eq!(judge(200, changed), HeadVerdict::Spoiled, "{changed}");
        }
        for gone in [404, 410] {
            assert_eq!(judge(gone, ""), HeadVerdict::Spoiled, "{gone}");
        }
        assert_eq!(judge(500, "etag: \"b\""), HeadVerdict::Unrelated);
        assert_eq!(judge(200, "vary: accept-language"), HeadVerdict::Unrelated);
    }

    #[test]
    fn a_304_is_never_stored_as_a_response() {
        let map = headers("cache-control: max-age=60");
        let refused = storable(&exchange(304, &HeaderMap::new(), &map), &Policy::default());
        assert_eq!(refused, Err(Reason::Status));
    }
}
