//! Header fields as such: lists, tokens, and the fields that belong to one
//! connection or to one client only (RFC 9110 §5.6, §7.6.1; RFC 9111 §3.1).
//!
//! Never decides whether something is cached.

use super::Policy;
use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, DATE, EXPIRES, HOST, HeaderValue, LOCATION, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderName};
use std::borrow::Cow;

/// The most fields that one `Connection` may nominate; more are left where they are.
pub const NOMINATED_MAX: usize = 32;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");

const HOP_BY_HOP_FIELDS: usize = 6;
/// Fields that belong to one connection (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; HOP_BY_HOP_FIELDS] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Request fields that name or prove a client, beside Authorization and Cookie.
pub(super) const CREDENTIALS: [HeaderName; 6] = [
    PROXY_AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("apikey"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-access-token"),
];

/// Cookies that only measure: exact names.
const ANALYTICS: [&str; 19] = [
    "_ga",
    "_gid",
    "_gat",
    "_fbp",
    "_fbc",
    "_clck",
    "_clsk",
    "_uetsid",
    "_uetvid",
    "_dd_s",
    "_ttp",
    "_scid",
    "_rdt_uuid",
    "hubspotutk",
    "__hstc",
    "__hssc",
    "__hssrc",
    "__gads",
    "__gpi",
];

/// Cookies that only measure: how their names begin. An underscore ends each, lest `_ga` took `_gate`.
const ANALYTICS_PREFIXES: [&str; 7] = ["_ga_", "_gat_", "_gcl_", "_hj", "__utm", "_pk_", "_ym_"];

/// What apps reflect without naming it in `Vary`.
const UNKEYED: [&str; 20] = [
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-scheme",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-path",
    "x-forwarded-server",
    "x-forwarded-uri",
    "x-host",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-uri",
    "x-forwarded-protocol",
    "x-forwarded-ssl",
    "x-url-scheme",
    "front-end-https",
];

/// What must not come in a trailer section, beside what belongs to the connection.
const NO_TRAILERS: [&str; 27] = [
    "accept-ranges",
    "authorization",
    "cache-control",
    "cdn-cache-control",
    "content-encoding",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "host",
    "larder-cache-control",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "set-cookie2",
    "trailer",
    "vary",
    "warning",
    "www-authenticate",
];

/// Whether a field belongs to one connection by its name (RFC 9110 §7.6.1).
#[must_use]
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Removes hop-by-hop fields and those that `Connection` names; keeps `TE: trailers`.
///
/// `Trailer` stays: it announces what comes with the message, not with the connection. A nomination
/// of a field that everybody behind us needs (Host, Cache-Control, Content-Length …) is not followed,
/// since taking it away would change who may see the message (RFC 9110 §7.6.1 forbids to nominate it).
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have one of them at most: to see that costs less than to look each of them up.
    let mut present = [false; HOP_BY_HOP_FIELDS];
    for name in headers.keys() {
        if let Some(at) = HOP_BY_HOP.iter().position(|known| known == name) {
            present[at] = true;
        }
    }
    if present == [false; HOP_BY_HOP_FIELDS] {
        return;
    }
    let has = |name| (HOP_BY_HOP.iter().zip(present)).any(|(known, is)| is && *known == name);
    let trailers = has(TE) && has_token(headers, &TE, "trailers");
    if has(CONNECTION) {
        remove_nominated(headers);
    }
    for (name, _) in HOP_BY_HOP.into_iter().zip(present).filter(|(_, is)| *is) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes what RFC 9111 §3.1 forbids to store, and what is made anew for every answer (`Age`,
/// `Content-Length`).
pub fn remove_unstorable(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in [
        TE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHENTICATION_INFO,
        PROXY_AUTHORIZATION,
        AGE,
        CONTENT_LENGTH,
    ] {
        headers.remove(name);
    }
}

/// Removes request fields that [`is_unkeyed`] names.
pub fn remove_unkeyed(headers: &mut HeaderMap, keyed: &[HeaderName]) {
    let unkeyed = headers.keys().filter(|name| is_unkeyed(name, keyed));
    for name in unkeyed.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// Whether a request field is one that apps reflect (`X-Forwarded-Host` and friends) and that no key
/// holds: it does not go along with a fetch that may be stored, unless it is `keyed`. The proxy sets
/// its own ones.
#[must_use]
pub fn is_unkeyed(name: &HeaderName, keyed: &[HeaderName]) -> bool {
    let text = name.as_str();
    (UNKEYED.contains(&text) || text.starts_with("x-middleware-")) && !keyed.contains(name)
}

/// Whether a request field most likely names or proves who sends it: credentials, and what calls itself so
/// (`X-User-Id`, `X-Tenant`, `X-Session`). It is a guess by the name, for those who watch; storing asks for more.
#[must_use]
pub fn names_sender(name: &HeaderName) -> bool {
    const WORDS: [&str; 15] = [
        "user",
        "session",
        "token",
        "account",
        "tenant",
        "customer",
        "member",
        "login",
        "email",
        "identity",
        "principal",
        "subject",
        "auth",
        "api-key",
        "apikey",
    ];
    const OTHERS: [&str; 4] = ["user-agent", "csrf", "xsrf", "authority"];
    let text = name.as_str();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    has(&WORDS) && !has(&OTHERS) && !text.starts_with("sec-")
}

/// Takes out of a request all that names or proves who sends it: credentials, what calls itself so, the field
/// `named_by` which users are known, and cookies but for `kept` ones. What `selects` the answer stays.
pub fn remove_identity(
    headers: &mut HeaderMap,
    named_by: Option<&HeaderName>,
    kept: &[String],
    selects: impl Fn(&HeaderName) -> bool,
) {
    let names = |name: &HeaderName| names_sender(name) || named_by == Some(name);
    let told: Vec<_> = (headers.keys())
        .filter(|name| names(name) && !selects(name))
        .cloned()
        .collect();
    for name in &told {
        headers.remove(name);
    }
    if !selects(&COOKIE) {
        keep_cookies(headers, kept);
    }
}

/// Tells each value that names or proves who sends a request: credentials, what calls itself so, the field
/// `named_by` which users are known, and cookies that do more than measure.
pub fn each_identity(
    headers: &HeaderMap,
    named_by: Option<&HeaderName>,
    mut each: impl FnMut(&[u8]),
) {
    let names = |name: &HeaderName| names_sender(name) || named_by == Some(name);
    for (_, value) in headers.iter().filter(|(name, _)| names(name)) {
        each(value.as_bytes());
    }
    for (name, value) in cookies(headers).filter(|(name, _)| !is_analytics(name)) {
        each(name);
        each(value);
    }
}

/// Takes all cookies out of a request but those with one of these names.
pub fn keep_cookies(headers: &mut HeaderMap, names: &[String]) {
    let kept: Vec<Vec<u8>> = cookies(headers)
        .filter(|(name, _)| names.iter().any(|known| known.as_bytes() == *name))
        .map(|(name, value)| [name, b"=", value].concat())
        .collect();
    headers.remove(COOKIE);
    if !kept.is_empty()
        && let Ok(kept) = HeaderValue::from_bytes(&kept.join(b"; ".as_slice()))
    {
        headers.insert(COOKIE, kept);
    }
}

/// Removes what no trailer section may bring: framing, routing, credentials, cookies and whatever
/// steers caching or the reading of the content (RFC 9110 §6.5.1). Returns whether `Set-Cookie` was
/// among it, since such a response is treated like one that has it in its head.
pub fn remove_forbidden_trailers(trailers: &mut HeaderMap) -> bool {
    let sets_cookie = trailers.contains_key(SET_COOKIE);
    remove_unstorable(trailers);
    for name in NO_TRAILERS {
        trailers.remove(name);
    }
    sets_cookie
}

fn remove_nominated(headers: &mut HeaderMap) {
    for name in nominated(headers) {
        headers.remove(name);
    }
}

/// The fields that `Connection` names and that are not needed further on.
#[must_use]
pub fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    list(headers, &CONNECTION)
        .take(NOMINATED_MAX)
        // Mostly that is all it says, and that one is known anyway.
        .filter(|name| !name.eq_ignore_ascii_case(KEEP_ALIVE.as_str().as_bytes()))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !is_end_to_end(name))
        .collect()
}

fn is_end_to_end(name: &HeaderName) -> bool {
    [
        HOST,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        LOCATION,
        VARY,
        DATE,
        EXPIRES,
        AUTHORIZATION,
        COOKIE,
        SET_COOKIE,
    ]
    .contains(name)
}

/// The members of a comma-separated field over all its lines, trimmed, empty ones left out.
///
/// For lists of tokens: a comma inside quotes separates too.
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(trim)
        .filter(|member| !member.is_empty())
}

/// Whether the content is a stream of server-sent events (WHATWG HTML §9.2): it has no end, and each
/// listener has his own.
#[must_use]
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    let kind = headers
        .get(http::header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes);
    let kind = kind.and_then(|kind| kind.get(..EVENT_STREAM.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(EVENT_STREAM))
}

/// Whether a comma-separated field has this member, in any case.
#[must_use]
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    list(headers, name).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
}

/// The only line of a field; `None` when it is absent or there are several that differ.
#[must_use]
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    lines.all(|line| line == first).then_some(first)
}

/// All lines of a field as one value, joined with a comma (RFC 9110 §5.3); `None` when absent.
#[must_use]
pub fn combined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = lines.next()?;
    let Some(second) = lines.next() else {
        return Some(Cow::Borrowed(first));
    };
    let mut whole = first.to_vec();
    for line in std::iter::once(second).chain(lines) {
        whole.extend_from_slice(b", ");
        whole.extend_from_slice(line);
    }
    Some(Cow::Owned(whole))
}

/// The members of one comma-separated line, commas inside double quotes left alone. With `escapes`,
/// a backslash inside quotes takes the next byte literally (quoted-string; entity tags have none).
pub(super) fn split_quoted(line: &[u8], escapes: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let whole = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = whole.iter().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted && escapes => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => return true,
                _ => {}
            }
            false
        });
        rest = end.map(|end| &whole[end + 1..]);
        Some(&whole[..end.unwrap_or(whole.len())])
    })
}

/// Without the spaces and tabs around it.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The cookies of a request, name and value, in their order.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers
        .get_all(COOKIE)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .map(trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (trim(&pair[..at]), trim(&pair[at + 1..])),
            None => (&b""[..], pair),
        })
}

/// Whether the request carries a cookie that may tell one client from another: none of those that
/// only measure, nor of those that the key holds.
#[must_use]
pub fn has_telling_cookie(request: &HeaderMap, policy: &Policy) -> bool {
    request.contains_key(COOKIE) && telling_cookies(request, policy).next().is_some()
}

/// The names of the cookies that may tell one client from another; empty for a cookie without a name.
pub fn telling_cookies<'a>(
    request: &'a HeaderMap,
    policy: &Policy,
) -> impl Iterator<Item = &'a [u8]> {
    let names = cookies(request).map(|(name, _)| name);
    names.filter(|name| {
        let keyed = |keyed: &String| keyed.as_bytes() == *name;
        !is_analytics(name) && !policy.keyed_cookies.iter().any(keyed)
    })
}

/// Whether the request proves who sends it: Authorization, or a credential-like field that the key
/// does not hold.
#[must_use]
pub fn has_credentials(request: &HeaderMap, policy: &Policy) -> bool {
    request.contains_key(AUTHORIZATION)
        || CREDENTIALS
            .iter()
            .any(|name| request.contains_key(name) && !policy.keyed_headers.contains(name))
}

fn is_analytics(name: &[u8]) -> bool {
    ANALYTICS.iter().any(|known| known.as_bytes() == name)
        || ANALYTICS_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::headers;

    #[test]
    fn what_connection_names_goes_with_the_hop_rfc9110_7_6_1() {
        let mut fields = headers(
            "connection: close, X-Hop\nx-hop: 1\nkeep-alive: timeout=5\nproxy-connection: x\n\
             transfer-encoding: chunked\nupgrade: h2c\nte: gzip, Trailers\nx-stays: 1\ntrailer: x-sum",
        );
        remove_hop_by_hop(&mut fields);
        assert_eq!(fields, headers("x-stays: 1\ntrailer: x-sum\nte: trailers"));
    }

    #[test]
    fn what_calls_itself_somebody_names_the_sender() {
        let name = |text| HeaderName::from_static(text);
        for (text, is) in [
            ("authorization", true),
            ("proxy-authorization", true),
            ("x-user-id", true),
            ("x-tenant", true),
            ("x-forwarded-user", true),
            ("user-agent", false),
            ("sec-fetch-user", false),
            ("x-csrf-token", false),
            ("accept-language", false),
            ("x-request-id", false),
        ] {
            assert_eq!(names_sender(&name(text)), is, "{text}");
        }
        assert!(CREDENTIALS.iter().all(names_sender));
    }

    #[test]
    fn a_nomination_cannot_take_away_what_everybody_needs() {
        let mut fields =
            headers("connection: cache-control, host\ncache-control: private\nhost: a");
        remove_hop_by_hop(&mut fields);
        assert_eq!(fields, headers("cache-control: private\nhost: a"));
    }

    #[test]
    fn lists_run_over_lines_and_skip_empty_members() {
        let fields = headers("connection: a,, b \nconnection:\nconnection: c");
        assert_eq!(
            list(&fields, &CONNECTION).collect::<Vec<_>>(),
            [b"a", b"b", b"c"]
        );
        assert!(has_token(&fields, &CONNECTION, "B"));
        assert!(!has_token(&fields, &CONNECTION, "ab"));
    }

    #[test]
    fn commas_in_quotes_do_not_separate() {
        let parts = |line: &'static str, escapes| {
            split_quoted(line.as_bytes(), escapes)
                .map(|part| std::str::from_utf8(part).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(parts(r#"a="b,c",d"#, true), [r#"a="b,c""#, "d"]);
        assert_eq!(parts(r#"a="\",c",d"#, true), [r#"a="\",c""#, "d"]);
        assert_eq!(parts(r#""\", "x""#, false), [r#""\""#, r#" "x""#]);
        assert_eq!(parts(r#"a="b,c"#, true), [r#"a="b,c"#]);
        assert_eq!(parts("", true), [""]);
    }

    #[test]
    fn trailers_bring_no_framing_no_cookies_and_no_caching_rfc9110_6_5_1() {
        let mut trailers =
            headers("x-sum: 1\ncontent-length: 3\nset-cookie: a=b\ncache-control: public\nhost: a");
        assert!(remove_forbidden_trailers(&mut trailers));
        assert_eq!(trailers, headers("x-sum: 1"));
        assert!(!remove_forbidden_trailers(&mut trailers));
    }

    #[test]
    fn cookies_that_only_measure_tell_nothing() {
        let policy = Policy {
            keyed_cookies: vec!["theme".into()],
            ..Policy::default()
        };
        let telling = |cookie: &str| has_telling_cookie(&headers(cookie), &policy);
        assert!(!telling("cookie: _ga=1; _ga_ABC=2; _fbp=3; theme=dark"));
        assert!(!telling("cookie: "));
        assert!(telling("cookie: _ga=1; sid=2"));
        assert!(telling("cookie: _gate_session=2"));
        assert!(telling("cookie: nameless"));
        assert!(telling("cookie: _ga=1\ncookie: sid=2"));
    }

    #[test]
    fn reflected_fields_are_taken_out_unless_the_key_holds_them() {
        let mut fields =
            headers("x-forwarded-host: evil\nx-middleware-subrequest: x\nx-host: a\nx: y");
        remove_unkeyed(&mut fields, &[HeaderName::from_static("x-host")]);
        assert_eq!(fields, headers("x-host: a\nx: y"));
    }
}
