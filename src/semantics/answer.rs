//! The answer that a stored response gives to one request: 200, 206, 304 or 416
//! (RFC 9110 §13, §14; RFC 9111 §4.3.2).
//!
//! Never decides whether the response may be used: that is [`super::reuse`]'s.

use super::fields::{single, split_quoted, trim};
use super::line::number;
use super::range::{Part, Ranges, content_range, multipart, ranges, slice, unsatisfied_range};
use super::stored::EtagKind;
use super::{Slices, Stored, Timestamp};
use bytes::Bytes;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    EXPIRES, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// Fields that are about the very bytes of the content, and so not about a part of it (RFC 9530 §2).
pub(super) const OF_THE_CONTENT: [HeaderName; 3] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
];

/// Fields that are added to a stored head on its way to a client, by [`answer`] and by the proxy:
/// what is stored leaves room for so many, so that adding them rebuilds no table.
pub const FIELDS_ADDED: usize = 8;

/// What stands in an answer in place of what may be stored under these names, put there by [`answer`]
/// or by the proxy.
pub const REPLACED: [&str; 9] = [
    "age",
    "x-cache",
    "x-cache-ttl",
    "x-response-time",
    "x-trace-id",
    "x-request-id",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
];

/// A response made from the store. The content is slices of the stored body, never copied, or the
/// bounds of what of it is to be read where it lies elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// 304 and 416 beside the stored status and 206.
    pub status: StatusCode,
    /// The stored fields as this answer sends them, with `Age`; without Content-Length.
    pub headers: HeaderMap,
    /// Content in order; empty for HEAD, 304 and 416.
    pub body: Slices,
    /// What of a content that lies elsewhere follows in place of `body`; empty where nothing does.
    pub elsewhere: std::ops::Range<u64>,
    /// What Content-Length says: for HEAD the length a GET would have had.
    pub content_length: Option<u64>,
}

/// Answers `request` (GET or HEAD) from `stored`, judging its preconditions and ranges.
#[must_use]
pub fn answer(method: &Method, request: &HeaderMap, mut stored: Stored, now: Timestamp) -> Answer {
    // RFC 9111 §4: on every reuse, in place of any that was received.
    let age = number(stored.lifetime.age(now).as_secs());
    stored.headers.insert(AGE, age);
    // RFC 9110 §13.2.1: preconditions are about what would otherwise succeed.
    if stored.status.is_success() && is_not_modified(request, &stored) {
        return not_modified(stored.headers);
    }
    if let Some(part) = stored.part() {
        return match request.get(RANGE).and_then(|asked| part.serves(asked)) {
            Some(asked) => part_of(stored, &part, &asked),
            // Nobody reuses a part for more than it has; should it be done, it stays a part.
            None => whole(method, stored),
        };
    }
    if *method == Method::GET
        && stored.status == StatusCode::OK
        && let Some(range) = request.get(RANGE)
        && range_applies(request, &stored)
    {
        match ranges(range, stored.content_bytes()) {
            Ranges::Whole => {}
            // Several in one answer need a boundary that is nowhere in the content, which is not here
            // to be looked through; they may be left unheeded (RFC 9110 §14.2).
            Ranges::Parts(parts) if parts.len() > 1 && stored.elsewhere > 0 => {}
            Ranges::Parts(parts) => return partial(stored, &parts, now),
            Ranges::Unsatisfiable => return unsatisfiable(stored),
        }
    }
    whole(method, stored)
}

fn whole(method: &Method, stored: Stored) -> Answer {
    let bodiless = matches!(
        stored.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    let empty = *method == Method::HEAD || bodiless;
    let length = stored.content_bytes();
    Answer {
        status: stored.status,
        headers: stored.headers,
        content_length: (!bodiless).then_some(length),
        elsewhere: match empty {
            true => 0..0,
            false => 0..stored.elsewhere,
        },
        body: match empty {
            true => Slices::default(),
            false => stored.body.into(),
        },
    }
}

/// RFC 9110 §13.2.2: If-None-Match, and only without it If-Modified-Since. What is for the app
/// alone (If-Match, If-Unmodified-Since) is not judged here (RFC 9111 §4.3.2).
fn is_not_modified(request: &HeaderMap, stored: &Stored) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        return request
            .get_all(IF_NONE_MATCH)
            .iter()
            .any(|line| names_etag(line.as_bytes(), stored.headers.get(ETAG)));
    }
    let Some(since) = request.get(IF_MODIFIED_SINCE) else {
        return false;
    };
    // RFC 9110 §13.1.3: what is no date is ignored, and so is what is stated twice.
    let since = match single(request, &IF_MODIFIED_SINCE) {
        Some(_) => Timestamp::from_http_date(since, stored.lifetime.received),
        None => None,
    };
    let validators = stored.validators();
    let modified = validators
        .last_modified
        .or(validators.date)
        .unwrap_or(stored.lifetime.received);
    since.is_some_and(|since| modified.as_secs() <= since.as_secs())
}

/// Whether a line of If-None-Match names `etag`, compared weakly (RFC 9110 §8.8.3.2), or is `*`.
fn names_etag(line: &[u8], etag: Option<&HeaderValue>) -> bool {
    // An empty one is none, and is named by nothing.
    let etag = etag
        .map(|etag| opaque(etag.as_bytes()))
        .filter(|etag| !etag.is_empty());
    split_quoted(line, false).map(trim).any(|member| {
        member == b"*" || (!member.is_empty() && etag.is_some_and(|etag| opaque(member) == etag))
    })
}

/// An entity tag without its weakness.
pub(super) fn opaque(etag: &[u8]) -> &[u8] {
    let etag = trim(etag);
    etag.strip_prefix(b"W/").unwrap_or(etag)
}

/// RFC 9110 §13.1.5: without If-Range, or with one that names just what is stored, strongly compared.
pub(super) fn range_applies(request: &HeaderMap, stored: &Stored) -> bool {
    let Some(condition) = request.get(IF_RANGE) else {
        return true;
    };
    let condition = trim(condition.as_bytes());
    let names = |field: &HeaderName| {
        stored
            .headers
            .get(field)
            .is_some_and(|value| trim(value.as_bytes()) == condition)
    };
    if condition.first() == Some(&b'"') {
        return stored.validators().etag == EtagKind::Strong && names(&ETAG);
    }
    stored.validators().strong_last_modified() && names(&LAST_MODIFIED)
}

/// RFC 9110 §15.4.5: what guides a cache stays; what describes a content that is not sent goes.
fn not_modified(mut headers: HeaderMap) -> Answer {
    remove_representation(&mut headers);
    if headers.contains_key(ETAG) {
        headers.remove(LAST_MODIFIED);
    }
    Answer {
        status: StatusCode::NOT_MODIFIED,
        headers,
        body: Slices::default(),
        elsewhere: 0..0,
        content_length: None,
    }
}

fn unsatisfiable(stored: Stored) -> Answer {
    let length = stored.content_bytes();
    let mut headers = stored.headers;
    remove_representation(&mut headers);
    // The error is about this request, so nobody behind us is to keep it.
    for name in [CACHE_CONTROL, EXPIRES, ETAG, LAST_MODIFIED, AGE] {
        headers.remove(name);
    }
    insert(&mut headers, CONTENT_RANGE, unsatisfied_range(length));
    Answer {
        status: StatusCode::RANGE_NOT_SATISFIABLE,
        headers,
        body: Slices::default(),
        elsewhere: 0..0,
        content_length: Some(0),
    }
}

/// A part of a stored part.
fn part_of(stored: Stored, part: &Part, asked: &std::ops::Range<u64>) -> Answer {
    let mut headers = stored.headers;
    if *asked != part.range {
        for name in OF_THE_CONTENT {
            headers.remove(name);
        }
    }
    insert(
        &mut headers,
        CONTENT_RANGE,
        content_range(asked, part.length),
    );
    let within = asked.start - part.range.start..asked.end - part.range.start;
    Answer {
        status: StatusCode::PARTIAL_CONTENT,
        headers,
        body: slice(&stored.body, &within).into(),
        elsewhere: 0..0,
        content_length: Some(asked.end - asked.start),
    }
}

fn partial(stored: Stored, parts: &[std::ops::Range<u64>], now: Timestamp) -> Answer {
    let length = stored.content_bytes();
    let mut headers = stored.headers;
    for name in OF_THE_CONTENT {
        headers.remove(name);
    }
    let mut elsewhere = 0..0;
    let body = match parts {
        [part] if stored.elsewhere > 0 => {
            insert(&mut headers, CONTENT_RANGE, content_range(part, length));
            elsewhere = part.clone();
            Slices::default()
        }
        [part] => {
            insert(&mut headers, CONTENT_RANGE, content_range(part, length));
            slice(&stored.body, part).into()
        }
        _ => {
            let kind = headers.get(CONTENT_TYPE);
            let (boundary, body) = multipart(&stored.body, parts, kind, now.as_millis());
            insert(
                &mut headers,
                CONTENT_TYPE,
                format!("multipart/byteranges; boundary={boundary}"),
            );
            body.into()
        }
    };
    let body: Slices = body;
    let sent = body.bytes() + (elsewhere.end - elsewhere.start);
    Answer {
        status: StatusCode::PARTIAL_CONTENT,
        headers,
        body,
        elsewhere,
        content_length: Some(sent),
    }
}

fn remove_representation(headers: &mut HeaderMap) {
    for name in [
        CONTENT_TYPE,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_RANGE,
    ]
    .into_iter()
    .chain(OF_THE_CONTENT)
    .chain([HeaderName::from_static("repr-digest")])
    {
        headers.remove(name);
    }
}

/// Puts in a value of our own making; all of those are visible ASCII.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, at, headers, stored};
    use proptest::prelude::*;

    fn get(request: &str, response: &str) -> Answer {
        answer(&Method::GET, &headers(request), body(response), at(5))
    }

    fn body(response: &str) -> Stored {
        let mut stored = stored(&format!(
            "cache-control: max-age=60\ncontent-type: text/plain\n{response}"
        ));
        stored.body = Bytes::from_static(b"0123456789");
        stored
    }

    fn text(answer: &Answer) -> String {
        String::from_utf8(answer.body.clone().collect::<Vec<_>>().concat()).unwrap()
    }

    #[test]
    fn every_reuse_tells_its_age_in_place_of_the_received_one_rfc9111_5_1() {
        let answer = get("", "age: 7");
        assert_eq!(
            (answer.status, text(&answer).as_str()),
            (StatusCode::OK, "0123456789")
        );
        assert_eq!(
            answer.headers.get_all(AGE).iter().collect::<Vec<_>>(),
            ["12"]
        );
        assert_eq!(answer.content_length, Some(10));
    }

    #[test]
    fn of_content_that_lies_elsewhere_the_bounds_are_told_rfc9110_14() {
        let stored = Stored {
            elsewhere: 10,
            body: Bytes::new(),
            ..body("etag: \"a\"")
        };
        let asked = |method, request| answer(&method, &headers(request), stored.clone(), at(5));
        for (method, request, status, elsewhere, length) in [
            (Method::GET, "", 200, 0..10, Some(10)),
            (Method::HEAD, "", 200, 0..0, Some(10)),
            (Method::GET, "range: bytes=2-4", 206, 2..5, Some(3)),
            (Method::GET, "range: bytes=-3", 206, 7..10, Some(3)),
            (Method::GET, "range: bytes=0-1,4-5", 200, 0..10, Some(10)),
            (Method::GET, "range: bytes=10-", 416, 0..0, Some(0)),
            (Method::GET, "if-none-match: \"a\"", 304, 0..0, None),
        ] {
            let answer = asked(method, request);
            let said = (
                answer.status.as_u16(),
                answer.elsewhere,
                answer.content_length,
            );
            assert_eq!(said, (status, elsewhere, length), "{request}");
            assert!(answer.body.is_empty());
        }
        let part = asked(Method::GET, "range: bytes=2-4");
        assert_eq!(part.headers[CONTENT_RANGE], "bytes 2-4/10");
    }

    #[test]
    fn if_none_match_is_compared_weakly_over_lists_and_lines_rfc9110_13_1_2() {
        for yes in [
            r#"if-none-match: "a""#,
            r#"if-none-match: W/"a""#,
            r#"if-none-match: "x", W/"a""#,
            "if-none-match: \"x\"\nif-none-match: \"a\"",
            "if-none-match: *",
        ] {
            for etag in [r#"etag: "a""#, r#"etag: W/"a""#] {
                assert_eq!(
                    get(yes, etag).status,
                    StatusCode::NOT_MODIFIED,
                    "{yes} {etag}"
                );
            }
        }
        for no in [r#""b""#, "a", r#""a"#, r#"w/"a""#, "", r#""x,"a""#] {
            let answer = get(&format!("if-none-match: {no}"), r#"etag: "a""#);
            assert_eq!(answer.status, StatusCode::OK, "{no}");
        }
        assert_eq!(get(r#"if-none-match: "a,b""#, r#"etag: "a,b""#).status, 304);
        assert_eq!(get(r#"if-none-match: "é""#, r#"etag: "é""#).status, 304);
        assert_eq!(get("if-none-match: *", "").status, 304);
        assert_eq!(get(r#"if-none-match: "a""#, "").status, 200);
    }

    #[test]
    fn if_modified_since_is_judged_by_last_modified_or_date_rfc9111_4_3_2() {
        let asked = |since: &str, response: &str| {
            get(&format!("if-modified-since: {since}"), response)
                .status
                .as_u16()
        };
        let modified = "last-modified: Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT", modified), 304);
        assert_eq!(asked("Sunday, 06-Nov-94 08:49:38 GMT", modified), 304);
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:36 GMT", modified), 200);
        assert_eq!(asked("yesterday", modified), 200);
        let date = at(0).http_date();
        assert_eq!(asked(date.to_str().unwrap(), ""), 304);
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT", ""), 200);
    }

    #[test]
    fn if_none_match_goes_before_if_modified_since_rfc9110_13_2_2() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let request = format!("if-modified-since: {date}\nif-none-match: \"b\"");
        assert_eq!(
            get(&request, &format!("last-modified: {date}\netag: \"a\"")).status,
            200
        );
    }

    #[test]
    fn a_304_keeps_what_guides_caches_and_drops_what_describes_content_rfc9110_15_4_5() {
        let answer = get(
            "if-none-match: *",
            "etag: \"a\"\nvary: foo\nexpires: 0\ncontent-location: /b\ncontent-encoding: br\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT\nx: y",
        );
        for kept in [
            "etag",
            "vary",
            "expires",
            "content-location",
            "cache-control",
            "date",
            "age",
            "x",
        ] {
            assert!(answer.headers.contains_key(kept), "{kept}");
        }
        for gone in [
            "content-type",
            "content-encoding",
            "last-modified",
            "content-length",
        ] {
            assert!(!answer.headers.contains_key(gone), "{gone}");
        }
        assert_eq!((answer.body.bytes(), answer.content_length), (0, None));
    }

    #[test]
    fn preconditions_do_not_touch_stored_errors_rfc9110_13_2_1() {
        let mut stored = body("etag: \"a\"");
        stored.status = StatusCode::NOT_FOUND;
        let request = headers("if-none-match: \"a\"\nrange: bytes=0-1");
        assert_eq!(answer(&Method::GET, &request, stored, at(0)).status, 404);
    }

    #[test]
    fn head_is_answered_without_content_but_with_its_length_rfc9110_9_3_2() {
        let answer = answer(&Method::HEAD, &headers("range: bytes=0-1"), body(""), at(0));
        assert_eq!(
            (
                answer.status.as_u16(),
                answer.body.bytes(),
                answer.content_length
            ),
            (200, 0, Some(10))
        );
    }

    #[test]
    fn a_204_has_no_length() {
        let mut stored = body("");
        stored.status = StatusCode::NO_CONTENT;
        stored.body = Bytes::new();
        assert_eq!(
            answer(&Method::GET, &HeaderMap::new(), stored, at(0)).content_length,
            None
        );
    }

    #[test]
    fn ranges_are_cut_from_the_whole_rfc9110_14_2() {
        let answer = get("range: bytes=2-4", "content-digest: sha-256=:AA==:");
        assert_eq!(
            (answer.status.as_u16(), text(&answer).as_str()),
            (206, "234")
        );
        assert_eq!(answer.headers["content-range"], "bytes 2-4/10");
        assert_eq!(answer.headers["content-type"], "text/plain");
        assert!(!answer.headers.contains_key("content-digest"));
        assert_eq!(answer.content_length, Some(3));
        assert_eq!(text(&get("range: bytes=-2", "")), "89");
        let several = get("range: bytes=0-0,5-6", "");
        let kind = several.headers["content-type"].to_str().unwrap();
        assert!(kind.starts_with("multipart/byteranges; boundary=larder-"));
        assert!(text(&several).contains("Content-Range: bytes 5-6/10\r\n\r\n56\r\n"));
        assert_eq!(several.content_length, Some(text(&several).len() as u64));
    }

    #[test]
    fn a_range_beyond_the_end_is_416_rfc9110_15_5_17() {
        let answer = get("range: bytes=10-", "etag: \"a\"\ncontent-encoding: br");
        assert_eq!(
            (answer.status.as_u16(), answer.content_length),
            (416, Some(0))
        );
        assert_eq!(answer.headers["content-range"], "bytes */10");
        assert!(
            !answer.headers.contains_key("cache-control")
                && !answer.headers.contains_key("content-encoding")
        );
    }

    #[test]
    fn if_range_wants_a_strong_match_rfc9110_13_1_5() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let asked = |condition: &str, response: &str| {
            get(
                &format!("range: bytes=0-1\nif-range: {condition}"),
                response,
            )
            .status
            .as_u16()
        };
        assert_eq!(asked(r#""a""#, r#"etag: "a""#), 206);
        assert_eq!(asked(r#""b""#, r#"etag: "a""#), 200);
        assert_eq!(asked(r#"W/"a""#, r#"etag: W/"a""#), 200);
        assert_eq!(asked(r#""a""#, ""), 200);
        assert_eq!(asked(date, &format!("last-modified: {date}")), 206);
        assert_eq!(
            asked(
                "Sun, 06 Nov 1994 08:49:38 GMT",
                &format!("last-modified: {date}")
            ),
            200
        );
        let now = at(0).http_date();
        let now = now.to_str().unwrap();
        assert_eq!(asked(now, &format!("last-modified: {now}")), 200);
    }

    #[test]
    fn preconditions_are_judged_before_ranges_rfc9110_13_2_2() {
        assert_eq!(
            get("range: bytes=0-1\nif-none-match: \"a\"", "etag: \"a\"").status,
            304
        );
    }

    proptest! {
        #[test]
        fn an_unconditional_request_never_gets_304(name in "[a-z-]{1,20}", value in any_value()) {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            prop_assume!(name != IF_NONE_MATCH && name != IF_MODIFIED_SINCE);
            let request = HeaderMap::from_iter([(name, value)]);
            let answer = answer(&Method::GET, &request, body("etag: \"a\""), at(0));
            prop_assert_ne!(answer.status, StatusCode::NOT_MODIFIED);
        }

        #[test]
        fn nothing_in_a_request_makes_the_answer_panic(values in proptest::collection::vec(any_value(), 5)) {
            let names = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE, CACHE_CONTROL];
            let request = HeaderMap::from_iter(names.into_iter().zip(values));
            let answer = answer(&Method::GET, &request, body("etag: W/\"a\""), at(0));
            prop_assert!(answer.headers.contains_key(AGE) || answer.status == 416);
        }
    }
}
