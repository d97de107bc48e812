//! Heads on their way through: what the app sees of a request, what a client sees of an answer.

use super::Ask;
use crate::semantics::{fields, line};
use crate::upstream::{RequestFields, Value};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri, Version};
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

/// Our member of `Via` on what came here by this version (RFC 9110 §7.6.3).
pub(super) fn via(version: Version) -> HeaderValue {
    static MEMBERS: [OnceLock<HeaderValue>; 3] = [const { OnceLock::new() }; 3];
    let (member, protocol) = match version {
        Version::HTTP_10 => (&MEMBERS[0], "1.0"),
        Version::HTTP_2 => (&MEMBERS[1], "2"),
        _ => (&MEMBERS[2], "1.1"),
    };
    let made = || HeaderValue::from_str(&format!("{protocol} {}", pseudonym()));
    let member = member.get_or_init(|| made().unwrap_or(HeaderValue::from_static("larder")));
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

/// The fields of a request that go to the app.
pub(super) struct Sent<'a> {
    pub ask: &'a Ask<'a>,
    /// The answer may be shared with others, so that what the key does not hold is left out where
    /// apps are known to reflect it.
    pub storable: bool,
}

/// What is never passed on: what is made here, and what was for the proxy that the client believed it
/// spoke to.
const KEPT_BACK: [HeaderName; 8] = [
    header::HOST,
    X_FORWARDED_FOR,
    TRACEPARENT,
    X_REQUEST_ID,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
    LARDER_DEBUG,
    X_MIDDLEWARE_SUBREQUEST,
];

impl RequestFields for Sent<'_> {
    fn each(&self, mut field: impl FnMut(&HeaderName, Value<'_>)) {
        let Ask { visit, caller, .. } = *self.ask;
        let (headers, trusted) = (&visit.headers, caller.via_trusted_proxy());
        let keyed = &self.ask.found.rule.key.headers;
        let host = visit.host_field();
        if let Some(host) = &host {
            field(&header::HOST, Value::Held(host));
        }
        let nominated = fields::nominated(headers);
        let forwards = max_forwards(&visit.method, headers);
        let (mut told_host, mut told_scheme) = (false, false);
        for (name, value) in headers {
            if KEPT_BACK.contains(name) || fields::is_hop_by_hop(name) || nominated.contains(name) {
                continue;
            }
            // A trusted proxy's word on how the client came is passed on, others' is not.
            let goes = if self.storable && fields::is_unkeyed(name, keyed) {
                false
            } else if *name == header::FORWARDED {
                self.storable || trusted
            } else if *name == X_FORWARDED_HOST {
                told_host |= trusted;
                trusted
            } else if *name == X_FORWARDED_PROTO {
                told_scheme |= trusted && !self.storable;
                trusted && !self.storable
            } else {
                *name != header::MAX_FORWARDS || forwards.is_none()
            };
            if goes {
                field(name, Value::Held(value));
            }
        }
        if let Some(forwards) = forwards {
            let forwards = line::digits(forwards.saturating_sub(1));
            field(&header::MAX_FORWARDS, Value::Made(forwards.as_bytes()));
        }
        // What is stored is for those too who take trailers, whoever leads the fetch.
        if self.storable || fields::has_token(headers, &header::TE, "trailers") {
            field(&header::TE, Value::Made(b"trailers"));
            // RFC 9110 §10.1.4: it is said from hop to hop.
            field(&header::CONNECTION, Value::Made(b"te"));
        }
        let peer = line::address(visit.peer.address.ip().to_canonical());
        // Byte for byte: what a client wrote further left, text or not, must not cost the app the rest.
        let before = match trusted {
            true => fields::combined(headers, &X_FORWARDED_FOR),
            false => None,
        };
        match before {
            Some(before) => {
                let chain = [&*before, b", ", peer.as_bytes()].concat();
                field(&X_FORWARDED_FOR, Value::Made(&chain));
            }
            None => field(&X_FORWARDED_FOR, Value::Made(peer.as_bytes())),
        }
        if let (false, Some(host)) = (told_host, &host) {
            field(&X_FORWARDED_HOST, Value::Held(host));
        }
        if !told_scheme {
            // What is stored is asked for as the key says.
            let scheme = match self.storable {
                true => self.ask.scheme(),
                false => visit.peer.scheme(),
            };
            field(&X_FORWARDED_PROTO, Value::Made(scheme.as_bytes()));
        }
        field(&header::VIA, Value::Held(&via(visit.version)));
        field(
            &TRACEPARENT,
            Value::Made(visit.trace.traceparent().as_bytes()),
        );
        match visit.own_request_id() {
            Some(id) => field(&X_REQUEST_ID, Value::Held(id)),
            None => field(&X_REQUEST_ID, Value::Made(&visit.trace.trace_id_digits())),
        }
    }
}

impl Sent<'_> {
    /// The same as a map, for who has to change it.
    pub fn map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.ask.visit.headers.len() + ADDED_FIELDS);
        self.each(|name, value| {
            if let Some(value) = value.field() {
                map.append(name, value);
            }
        });
        map
    }
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
pub(super) fn response_fields(headers: &mut HeaderMap, version: Version) {
    headers.reserve(ADDED_FIELDS);
    fields::remove_hop_by_hop(headers);
    // An app's challenge to a proxy is not for clients, who do not know that there is one.
    headers.remove(header::PROXY_AUTHENTICATE);
    headers.append(header::VIA, via(version));
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
        headers.append(header::VIA, via(Version::HTTP_11));
        assert!(is_loop(&headers));
        headers.insert(
            header::VIA,
            HeaderValue::from_static("1.1 larder-00000000x, 1.0 fred"),
        );
        assert!(!is_loop(&headers));
    }
}
