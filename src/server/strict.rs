//! One strict look at every request head: what hyper lets pass and we do not.
//!
//! Whatever could be read in two ways by us and by the app is refused here, so that nothing behind
//! this door has to think of it (RFC 9112 §3.2, §6; RFC 9110 §7.6.1).

use crate::proxy::Problem;
use crate::semantics::authority::normal_authority;
use crate::semantics::fields;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, Method, Request, Version};

/// All header fields of a request, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Path and query, in bytes.
const TARGET_BYTES_MAX: usize = 8 * 1024;

/// End-to-end fields that `Connection` must not name: an intermediary would take them out on the
/// way to the app (VSV00010).
const NEVER_HOP_BY_HOP: [&str; 9] = [
    "authorization",
    "cache-control",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "range",
    "x-forwarded-for",
    "x-forwarded-host",
];

/// Fields with `_` that some servers read as the ones with `-` that we set or trust.
const ALIASES: [&str; 8] = [
    "content_length",
    "transfer_encoding",
    "x_forwarded_for",
    "x_forwarded_host",
    "x_forwarded_port",
    "x_forwarded_proto",
    "x_real_ip",
    "x_request_id",
];

/// Checks a request; takes out aliases of fields that we set, and an Upgrade to HTTP/2 in clear text:
/// behind such a tunnel nothing would be checked any more (RFC 9113 §3.1 has withdrawn it).
pub(super) fn check<B>(request: &mut Request<B>) -> Result<(), Problem> {
    target(request)?;
    host(request)?;
    let headers = request.headers_mut();
    // Most requests have none of these, and one look at all names costs less than one for each.
    let is_framed = headers
        .keys()
        .any(|name| matches!(*name, CONTENT_LENGTH | EXPECT | TRANSFER_ENCODING | UPGRADE));
    if is_framed {
        framing(headers)?;
    }
    join_cookies(headers);
    connection(headers)?;
    remove_aliases(headers);
    if is_framed && !may_switch(headers) {
        headers.remove(UPGRADE);
        headers.remove("http2-settings");
    }
    Ok(())
}

/// Whether the client may ask for another protocol; otherwise its Upgrade is passed over (RFC 9110
/// §7.8). With content in between nobody knows where the new protocol begins.
fn may_switch(headers: &HeaderMap) -> bool {
    let has_content = headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length.as_bytes() != b"0");
    !has_content && !fields::list(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(b"h2c"))
}

fn target<B>(request: &Request<B>) -> Result<(), Problem> {
    let uri = request.uri();
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Problem::MethodNotAllowed);
    }
    if uri
        .path_and_query()
        .is_some_and(|target| target.as_str().len() > TARGET_BYTES_MAX)
    {
        return Err(Problem::TargetTooLong);
    }
    match uri.path() {
        "*" if request.method() == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        _ => Err(Problem::BadRequest("the target is no path")),
    }
}

/// One Host, well formed, and the same as the one in the target.
fn host<B>(request: &Request<B>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Problem::BadRequest("it has several Host fields"));
    }
    let authority = request.uri().authority();
    if authority.is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Problem::BadRequest("the target holds user information"));
    }
    match (host, authority) {
        (None, None) if request.version() == Version::HTTP_10 => Ok(()),
        (None, None) => Err(Problem::BadRequest("it has no Host")),
        (None, Some(_)) => Ok(()),
        (Some(host), authority) => {
            let valid = |host: &str| normal_authority(host, "http").is_some();
            if !host.to_str().is_ok_and(valid) {
                return Err(Problem::BadRequest("its Host is no host"));
            }
            match authority {
                Some(authority)
                    if !authority
                        .as_str()
                        .as_bytes()
                        .eq_ignore_ascii_case(host.as_bytes()) =>
                {
                    Err(Problem::BadRequest("its Host is not the target's"))
                }
                _ => Ok(()),
            }
        }
    }
}

/// One end, said in one way; `005` becomes `5`.
fn framing(headers: &mut HeaderMap) -> Result<(), Problem> {
    coding(headers)?;
    if fields::list(headers, &CONTENT_LENGTH).nth(1).is_some() {
        return Err(Problem::BadRequest("it has several lengths"));
    }
    if let Some(length) = headers.get(CONTENT_LENGTH) {
        let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
        let number: Option<u64> = length.to_str().ok().and_then(|text| text.parse().ok());
        let number = number.filter(|_| digits);
        let number = number.ok_or(Problem::BadRequest("its length is no number"))?;
        if length.as_bytes().starts_with(b"0") && length.len() > 1 {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(number));
        }
    }
    if headers
        .get(EXPECT)
        .is_some_and(|expect| !expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(Problem::ExpectationFailed);
    }
    Ok(())
}

fn coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = fields::list(headers, &TRANSFER_ENCODING);
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) if !headers.contains_key(TRANSFER_ENCODING) => Ok(()),
        (Some(coding), None) if is_chunked(coding) => {
            // hyper takes the length away; `Heads` has seen it. This is for whoever calls without it.
            if headers.contains_key(CONTENT_LENGTH) {
                return Err(Problem::BadRequest("it has a length and is chunked"));
            }
            Ok(())
        }
        (Some(coding), Some(next)) if is_chunked(coding) && is_chunked(next) => {
            Err(Problem::BadRequest("it is chunked twice"))
        }
        _ => Err(Problem::UnknownCoding),
    }
}

fn connection(headers: &HeaderMap) -> Result<(), Problem> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if bytes > HEAD_BYTES_MAX {
        return Err(Problem::HeadTooLarge);
    }
    let names_end_to_end = fields::list(headers, &CONNECTION).any(|member| {
        HeaderName::from_bytes(member).is_ok_and(|name| NEVER_HOP_BY_HOP.contains(&name.as_str()))
    });
    if names_end_to_end {
        return Err(Problem::BadRequest(
            "Connection names a field that goes through to the app",
        ));
    }
    Ok(())
}

/// HTTP/2 lets a client split its cookies over several fields; HTTP/1.1, and the app, knows one (RFC
/// 9113 §8.2.3, RFC 6265 §5.4). Joined here, so that they are one thing to keys and to Vary too.
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(all) = HeaderValue::from_bytes(&lines.join(b"; ".as_slice())) {
        headers.insert(COOKIE, all);
    }
}

fn remove_aliases(headers: &mut HeaderMap) {
    // Hardly any request has such a field, and eight look-ups by name cost more than one look at all.
    if headers.keys().any(|name| name.as_str().contains('_')) {
        for alias in ALIASES {
            headers.remove(alias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(method: &str, target: &str, fields: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        match check(&mut request.body(()).unwrap()) {
            Ok(()) => 200,
            Err(problem) => problem.status().as_u16(),
        }
    }

    #[test]
    fn a_plain_request_passes() {
        assert_eq!(judge("GET", "/a?b=c", &[("host", "example.com:8080")]), 200);
        assert_eq!(judge("OPTIONS", "*", &[("host", "a")]), 200);
        assert_eq!(
            judge("GET", "http://Example.com/a", &[("host", "example.com")]),
            200
        );
    }

    #[test]
    fn a_request_has_exactly_one_good_host() {
        assert_eq!(judge("GET", "/", &[]), 400);
        assert_eq!(judge("GET", "/", &[("host", "a"), ("host", "a")]), 400);
        for bad in ["", "a/b", "a, b", "a b", "a@b"] {
            assert_eq!(judge("GET", "/", &[("host", bad)]), 400, "{bad}");
        }
        assert_eq!(judge("GET", "http://a/", &[("host", "b")]), 400);
        assert_eq!(judge("GET", "http://user@a/", &[("host", "a")]), 400);
    }

    #[test]
    fn a_message_has_one_end() {
        let host = ("host", "a");
        assert_eq!(
            judge("POST", "/", &[host, ("transfer-encoding", "chunked")]),
            200
        );
        assert_eq!(
            judge(
                "POST",
                "/",
                &[
                    host,
                    ("transfer-encoding", "chunked"),
                    ("content-length", "3")
                ]
            ),
            400
        );
        assert_eq!(
            judge(
                "POST",
                "/",
                &[host, ("transfer-encoding", "chunked, chunked")]
            ),
            400
        );
        assert_eq!(
            judge("POST", "/", &[host, ("transfer-encoding", "gzip, chunked")]),
            501
        );
        assert_eq!(
            judge(
                "POST",
                "/",
                &[host, ("content-length", "3"), ("content-length", "3")]
            ),
            400
        );
        assert_eq!(judge("POST", "/", &[host, ("content-length", "3, 3")]), 400);
    }

    #[test]
    fn an_empty_word_on_the_end_is_refused() {
        let host = ("host", "a");
        assert_eq!(judge("POST", "/", &[host, ("content-length", "")]), 400);
        assert_eq!(judge("POST", "/", &[host, ("transfer-encoding", "")]), 501);
    }

    #[test]
    fn connection_cannot_take_end_to_end_fields_away() {
        assert_eq!(
            judge("GET", "/", &[("host", "a"), ("connection", "Keep-Alive")]),
            200
        );
        for field in ["content-length", "Host", "authorization", "cookie", "range"] {
            assert_eq!(
                judge("GET", "/", &[("host", "a"), ("connection", field)]),
                400,
                "{field}"
            );
        }
    }

    #[test]
    fn tunnels_to_elsewhere_traces_and_odd_targets_are_refused() {
        assert_eq!(judge("CONNECT", "a:443", &[("host", "a")]), 405);
        assert_eq!(judge("TRACE", "/", &[("host", "a")]), 405);
        assert_eq!(judge("GET", "*", &[("host", "a")]), 400);
        assert_eq!(judge("GET", "a", &[("host", "a")]), 400);
        assert_eq!(
            judge("GET", "/", &[("host", "a"), ("expect", "200-ok")]),
            417
        );
        let long = format!("/{}", "a".repeat(TARGET_BYTES_MAX));
        assert_eq!(judge("GET", &long, &[("host", "a")]), 414);
        let large = "a".repeat(HEAD_BYTES_MAX);
        assert_eq!(
            judge("GET", "/", &[("host", "a"), ("x-large", &large)]),
            431
        );
    }

    #[test]
    fn lengths_leave_in_one_spelling() {
        let request = Request::post("/")
            .header("host", "a")
            .header("content-length", "005");
        let mut request = request.body(()).unwrap();
        check(&mut request).unwrap();
        assert_eq!(request.headers()[CONTENT_LENGTH], "5");
        assert_eq!(
            judge("POST", "/", &[("host", "a"), ("content-length", "+5")]),
            400
        );
    }

    #[test]
    fn nobody_gets_http_2_behind_our_back() {
        for token in ["h2c", "websocket, H2C"] {
            let request = Request::get("/")
                .header("host", "a")
                .header("upgrade", token)
                .header("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA");
            let mut request = request.body(()).unwrap();
            check(&mut request).unwrap();
            assert!(!request.headers().contains_key(UPGRADE), "{token}");
            assert!(!request.headers().contains_key("http2-settings"));
        }
    }

    #[test]
    fn a_request_with_content_switches_to_nothing() {
        for (length, switches) in [("5", false), ("0", true)] {
            let request = Request::get("/")
                .header("host", "a")
                .header("content-length", length)
                .header("upgrade", "websocket");
            let mut request = request.body(()).unwrap();
            check(&mut request).unwrap();
            assert_eq!(request.headers().contains_key(UPGRADE), switches);
        }
    }

    #[test]
    fn aliases_of_our_fields_do_not_reach_the_app() {
        let mut request = Request::builder()
            .uri("/")
            .header("host", "a")
            .header("X_Forwarded_For", "1.2.3.4")
            .body(())
            .unwrap();
        check(&mut request).unwrap();
        assert!(!request.headers().contains_key("x_forwarded_for"));
    }
}
