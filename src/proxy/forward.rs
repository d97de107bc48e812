//! Heads on their way through: what the app sees of a request, what a client sees of an answer.

use super::Ask;
use super::visit::Visit;
use crate::semantics::{fields, line};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri};
use std::borrow::Cow;
use std::sync::OnceLock;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What Next.js tells itself by: from outside it would skip the app's middleware, and with it the
/// check of who may see what (CVE-2025-29927).
const X_MIDDLEWARE_SUBREQUEST: HeaderName = HeaderName::from_static("x-middleware-subrequest");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// A request's id: the client's where it is well formed, else made here.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Carries the debug token.
pub(super) const LARDER_DEBUG: HeaderName = HeaderName::from_static("larder-debug");

/// Fields that a head may get on its way: room for them is made once.
const ADDED_FIELDS: usize = 10;

/// The name by which this process knows its own requests (RFC 9110 §7.6.3).
pub(super) fn pseudonym() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| format!("larder-{:08x}", fastrand::u32(..)))
}

/// Our member of `Via` on what came here by HTTP/1.1.
pub(super) fn via() -> HeaderValue {
    static MEMBER: OnceLock<HeaderValue> = OnceLock::new();
    let made = || HeaderValue::from_str(&format!("1.1 {}", pseudonym()));
    let member = MEMBER.get_or_init(|| made().unwrap_or(HeaderValue::from_static("1.1 larder")));
    member.clone()
}

/// Whether this request has been here before.
pub(super) fn is_loop(headers: &HeaderMap) -> bool {
    fields::list(headers, &header::VIA).any(|member| {
        let by = member
            .splitn(2, |byte| *byte == b' ')
            .nth(1)
            .unwrap_or_default();
        by.starts_with(pseudonym().as_bytes())
    })
}

/// Whether an OPTIONS is to be passed on no further (RFC 9110 §7.6.2). A TRACE never is.
pub(super) fn is_last_hop(method: &Method, headers: &HeaderMap) -> bool {
    max_forwards(method, headers) == Some(0)
}

/// How many more may pass it on. What is no number says nothing, and neither does any to a request
/// with another method.
fn max_forwards(method: &Method, headers: &HeaderMap) -> Option<u64> {
    let said = fields::single(headers, &header::MAX_FORWARDS)?;
    let digits = said.as_bytes().iter().all(u8::is_ascii_digit);
    let number = said.to_str().ok()?.parse().ok();
    number.filter(|_| digits && *method == Method::OPTIONS)
}

/// The fields that go to the app. `storable`: the answer may be shared with others, so that what the
/// key does not hold is left out where apps are known to reflect it.
pub(super) fn request_fields(ask: &Ask<'_>, storable: bool) -> HeaderMap {
    let visit = ask.visit;
    let mut headers = visit.headers.clone();
    headers.reserve(ADDED_FIELDS);
    fields::remove_hop_by_hop(&mut headers);
    // These were for the proxy that the client believed it spoke to.
    headers.remove(header::EXPECT);
    headers.remove(header::PROXY_AUTHORIZATION);
    headers.remove(LARDER_DEBUG);
    headers.remove(X_MIDDLEWARE_SUBREQUEST);
    let trusted = ask.caller.via_trusted_proxy();
    if storable {
        fields::remove_unkeyed(&mut headers, &ask.found.rule.key.headers);
        // What is stored is for those too who take trailers, whoever leads the fetch.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    } else if !trusted {
        headers.remove(header::FORWARDED);
    }
    if let Some(forwards) = max_forwards(&visit.method, &headers) {
        headers.insert(header::MAX_FORWARDS, forwards.saturating_sub(1).into());
    }
    if headers.contains_key(header::TE) {
        // RFC 9110 §10.1.4: it is said from hop to hop.
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    set_forwarded(&mut headers, visit, trusted);
    if storable {
        // What the key says.
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(ask.scheme()));
    }
    append_via(&mut headers, visit.version);
    if let Some(host) = visit.host_field() {
        headers.insert(header::HOST, host);
    }
    if let Ok(value) = HeaderValue::from_str(&visit.trace.traceparent()) {
        headers.insert(TRACEPARENT, value);
    }
    headers.insert(X_REQUEST_ID, visit.request_id());
    headers
}

impl Ask<'_> {
    /// `http` or `https`, as the client sees it: by the word of a trusted proxy, if there is one.
    pub(super) fn scheme(&self) -> &'static str {
        let told = self.visit.headers.get(X_FORWARDED_PROTO);
        match told.map(HeaderValue::as_bytes) {
            Some(b"https") if self.caller.via_trusted_proxy() => "https",
            Some(b"http") if self.caller.via_trusted_proxy() => "http",
            _ => self.visit.peer.scheme(),
        }
    }
}

/// `X-Forwarded-*`: continued where a trusted proxy began it, begun anew otherwise.
fn set_forwarded(headers: &mut HeaderMap, visit: &Visit, trusted: bool) {
    let peer = line::address(visit.peer.address.ip().to_canonical());
    // Byte for byte: what a client wrote further left, text or not, must not cost the app the rest.
    let before = match trusted {
        true => fields::combined(headers, &X_FORWARDED_FOR),
        false => None,
    };
    let chain = match before {
        Some(before) => Cow::Owned([&*before, b", ", peer.as_bytes()].concat()),
        None => Cow::Borrowed(peer.as_bytes()),
    };
    if let Ok(chain) = HeaderValue::from_bytes(&chain) {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    if !trusted || !headers.contains_key(X_FORWARDED_HOST) {
        match visit.host_field() {
            Some(host) => headers.insert(X_FORWARDED_HOST, host),
            None => headers.remove(X_FORWARDED_HOST),
        };
    }
    if !trusted || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(
            X_FORWARDED_PROTO,
            HeaderValue::from_static(visit.peer.scheme()),
        );
    }
}

/// Says that the message came through here (RFC 9110 §7.6.3).
pub(super) fn append_via(headers: &mut HeaderMap, version: http::Version) {
    let protocol = match version {
        http::Version::HTTP_10 => "1.0",
        http::Version::HTTP_2 => "2",
        _ => {
            headers.append(header::VIA, via());
            return;
        }
    };
    if let Ok(member) = HeaderValue::from_str(&format!("{protocol} {}", pseudonym())) {
        headers.append(header::VIA, member);
    }
}

/// The target that goes to the app: byte for byte the client's, but for the query where `query` says so.
pub(super) fn target(uri: &Uri, query: Option<Option<Cow<'_, str>>>) -> Uri {
    if let (None, Some(whole)) = (&query, uri.path_and_query())
        && whole.as_str().starts_with('/')
    {
        return Uri::from(whole.clone());
    }
    let path = if uri.path().is_empty() {
        "/"
    } else {
        uri.path()
    };
    let query = match &query {
        None => uri.query(),
        Some(query) => query.as_deref(),
    };
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    // Parts of a parsed URI always make a URI again.
    target.parse().unwrap_or_else(|_| Uri::from_static("/"))
}

/// What of the app's fields a client may see.
pub(super) fn response_fields(headers: &mut HeaderMap, version: http::Version) {
    headers.reserve(ADDED_FIELDS);
    fields::remove_hop_by_hop(headers);
    // An app's challenge to a proxy is not for clients, who do not know that there is one.
    headers.remove(header::PROXY_AUTHENTICATE);
    append_via(headers, version);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_kept_replaced_or_dropped() {
        let uri: Uri = "/a%2Fb?x=1&utm_source=y".parse().unwrap();
        assert_eq!(target(&uri, None), "/a%2Fb?x=1&utm_source=y");
        assert_eq!(target(&uri, Some(Some("x=1".into()))), "/a%2Fb?x=1");
        assert_eq!(target(&uri, Some(None)), "/a%2Fb");
    }

    #[test]
    fn a_request_that_comes_back_is_known() {
        let mut headers = HeaderMap::new();
        append_via(&mut headers, http::Version::HTTP_11);
        assert!(is_loop(&headers));
        headers.insert(
            header::VIA,
            HeaderValue::from_static("1.1 larder-00000000x, 1.0 fred"),
        );
        assert!(!is_loop(&headers));
    }
}
