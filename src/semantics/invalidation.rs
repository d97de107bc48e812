//! What an unsafe request invalidates (RFC 9111 §4.4).
//!
//! Names targets only; never reaches into a store.

use super::fields::single;
use super::normal_authority;
use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

/// The longest Location or Content-Location that is looked at, in bytes.
pub const LOCATION_BYTES_MAX: usize = 8 * 1024;

/// The request targets (path and query) that this exchange invalidates: its own, and Location and
/// Content-Location where they are of the same origin. Empty for safe methods and for errors.
///
/// `scheme`, `authority` and `target` are the request's, `authority` in normal form. A method that nobody
/// knows counts as unsafe. Of an absolute location scheme, host and port are compared, but on their
/// default ports `http` and `https` count as one, for who stands in front of us may have taken the TLS off.
#[must_use]
pub fn invalidated(
    method: &Method,
    scheme: &str,
    authority: &str,
    target: &str,
    status: StatusCode,
    response: &HeaderMap,
) -> Vec<String> {
    if is_safe(method) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut targets = vec![target.to_owned()];
    for name in [LOCATION, CONTENT_LOCATION] {
        let location = response
            .get(name)
            .and_then(|reference| resolved((scheme, authority), target, reference));
        if let Some(location) = location
            && !targets.contains(&location)
        {
            targets.push(location);
        }
    }
    targets
}

/// Methods that ask for nothing to be changed (RFC 9110 §9.2.1, RFC 10008, and WebDAV's registered ones).
#[must_use]
pub fn is_safe(method: &Method) -> bool {
    matches!(
        method.as_str(),
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY" | "PROPFIND" | "REPORT" | "SEARCH" | "PRI"
    )
}

/// Whether `Content-Location` says that the content is a representation of the very `target` that
/// was asked for (RFC 9110 §8.7).
pub(super) fn is_content_of(
    scheme: &str,
    authority: &str,
    target: &str,
    response: &HeaderMap,
) -> bool {
    let location = single(response, &CONTENT_LOCATION)
        .and_then(|reference| resolved((scheme, authority), target, reference));
    location.as_deref() == Some(target)
}

fn resolved(origin: Origin<'_>, target: &str, reference: &HeaderValue) -> Option<String> {
    let reference = (reference.len() <= LOCATION_BYTES_MAX).then(|| reference.to_str().ok())??;
    resolve(origin, target, reference.trim())
}

/// Scheme and authority.
type Origin<'a> = (&'a str, &'a str);

/// Path and query that `reference` leads to from `target` (RFC 3986 §5.2), within `origin`.
fn resolve(origin: Origin<'_>, target: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    if let Some((scheme, rest)) = absolute(reference) {
        return within(origin, scheme, rest);
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return within(origin, origin.0, rest);
    }
    let path = target.split('?').next().unwrap_or_default();
    let relative = match reference.chars().next() {
        None => return Some(target.to_owned()),
        Some('/') => reference.to_owned(),
        Some('?') => format!("{path}{reference}"),
        Some(_) => {
            let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            format!("{folder}{reference}")
        }
    };
    Some(without_dots(&relative))
}

/// Scheme and what follows `//`, of an absolute http or https URI; another scheme is nobody's here.
fn absolute(reference: &str) -> Option<(&str, &str)> {
    let colon = reference.find(':')?;
    let scheme = &reference[..colon];
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    is_scheme.then(|| {
        (
            scheme,
            reference[colon + 1..].strip_prefix("//").unwrap_or(""),
        )
    })
}

fn within(origin: Origin<'_>, scheme: &str, rest: &str) -> Option<String> {
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => "http",
        "https" => "https",
        _ => return None,
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let host = normal_authority(host, scheme)?;
    // One port speaks one scheme.
    let has_port = host.rfind(':') > host.rfind(']');
    if *host != *origin.1 || (has_port && scheme != origin.0) {
        return None;
    }
    Some(match path.as_bytes().first() {
        Some(b'/') => without_dots(path),
        _ => format!("/{path}"),
    })
}

/// RFC 3986 §5.2.4, on the path in front of the query.
fn without_dots(target: &str) -> String {
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in path.split('/').skip(1) {
        ends_open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut clean = String::with_capacity(target.len());
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if ends_open || segments.is_empty() {
        clean.push('/');
    }
    clean.push_str(query);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, headers};
    use proptest::prelude::*;

    fn after(method: &str, status: u16, response: &str) -> Vec<String> {
        invalidated(
            &Method::from_bytes(method.as_bytes()).unwrap(),
            "http",
            "shop.test",
            "/cars/42?x=1",
            StatusCode::from_u16(status).unwrap(),
            &headers(response),
        )
    }

    fn location(reference: &str) -> Option<String> {
        after("POST", 201, &format!("location: {reference}"))
            .get(1)
            .cloned()
    }

    #[test]
    fn unsafe_and_unknown_methods_invalidate_their_target_rfc9111_4_4() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "FROB"] {
            assert_eq!(after(method, 200, ""), ["/cars/42?x=1"], "{method}");
            assert_eq!(after(method, 303, ""), ["/cars/42?x=1"], "{method}");
        }
    }

    #[test]
    fn safe_methods_and_errors_invalidate_nothing_rfc9111_4_4() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY"] {
            assert!(after(method, 200, "location: /a").is_empty());
        }
        for status in [100, 400, 404, 500, 599] {
            assert!(after("POST", status, "location: /a").is_empty());
        }
    }

    #[test]
    fn locations_of_the_same_origin_are_resolved_rfc3986_5() {
        for (reference, target) in [
            ("/a/b?c=d#e", "/a/b?c=d"),
            ("43", "/cars/43"),
            ("./43", "/cars/43"),
            ("../a", "/a"),
            ("../../../a/.", "/a/"),
            ("?y=2", "/cars/42?y=2"),
            ("http://SHOP.test:80/a", "/a"),
            ("https://shop.test.:443", "/"),
            ("//shop.test?z", "/?z"),
        ] {
            assert_eq!(location(reference).as_deref(), Some(target), "{reference}");
        }
        let both = after(
            "POST",
            201,
            "location: /a\ncontent-location: /a\ncontent-location: /b",
        );
        assert_eq!(both, ["/cars/42?x=1", "/a"]);
    }

    #[test]
    fn locations_of_other_origins_are_left_alone_rfc9111_4_4() {
        for other in [
            "http://other.test/a",
            "//other.test/a",
            "http://shop.test:8080/a",
            "http://shop.test@other.test/",
            "http://user@shop.test/",
            "ftp://shop.test/a",
            "mailto:a@b",
            "javascript:1",
        ] {
            assert_eq!(location(other), None, "{other}");
        }
    }

    #[test]
    fn a_port_that_is_named_speaks_one_scheme_rfc9111_4_4() {
        let location = |scheme, authority: &str, reference: &str| {
            resolve((scheme, authority), "/b", reference).is_some()
        };
        assert!(location(
            "http",
            "shop.test:8080",
            "http://shop.test:8080/a"
        ));
        assert!(!location(
            "http",
            "shop.test:8080",
            "https://shop.test:8080/a"
        ));
        assert!(location("https", "[::1]:8443", "https://[::1]:8443/a"));
        assert!(location("https", "[::1]:8443", "//[::1]:8443/a"));
        assert!(!location("https", "[::1]:8443", "http://[::1]:8443/a"));
        assert!(location("http", "[::1]", "https://[::1]/a"));
    }

    proptest! {
        #[test]
        fn any_location_gives_paths_or_nothing(value in any_value()) {
            let response = HeaderMap::from_iter([(LOCATION, value)]);
            for target in invalidated(&Method::POST, "http", "a", "/b", StatusCode::OK, &response) {
                prop_assert!(target.starts_with('/'));
            }
        }
    }
}
