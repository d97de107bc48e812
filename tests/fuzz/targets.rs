//! One function for each parser of untrusted bytes: any bytes go in, and what must hold of whatever
//! comes out is asserted. `main.rs` runs them for a moment with every `cargo test`, `guided/` for as
//! long as one likes.
//!
//! Where a rule is stated twice, here and in larder, it is stated here in another way: naively.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, header};
use larder::cache::codec::{self, Frame};
use larder::cache::seal::Seal;
use larder::cache::{Entry, Label};
use larder::config::{self, Environment, Format, Source};
use larder::identity::{Identity, IdentitySettings, JwtSource};
use larder::route::{
    Asked, KeyRule, Pattern, Placeholder, Plan, Routes, Rule, Target as Path, Template,
};
use larder::secret::{self, Secret};
use larder::semantics::directives::{DELTA_SECONDS_MAX, Delta, Directives, RequestDirectives};
use larder::semantics::range::{Part, Ranges, content_range, multipart, ranges, slice};
use larder::semantics::reuse::ClientRefresh;
use larder::semantics::validation::{
    HeadVerdict, confirms, freshen, judge_head, make_conditional, merge,
};
use larder::semantics::{
    Exchange, Hosts, Key, Policy, Stored, Timestamp, Vary, answer, content, fields, groups,
    invalidation, normal_authority, storable, vary,
};
use larder::telemetry::trace::TraceContext;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A parser under test.
pub struct Target {
    /// What `make fuzz TARGET=` calls it, and the name of its folder in `corpus/`.
    pub name: &'static str,
    /// Panics where something does not hold.
    pub run: fn(&[u8]),
    /// How many inputs an ordinary run makes of the seeds.
    pub inputs: usize,
    /// Inputs to begin with; what was once found lies in `corpus/`.
    pub seeds: &'static [&'static [u8]],
}

/// Every target.
#[rustfmt::skip]
pub const TARGETS: &[Target] = &[
    Target { name: "directives", run: directives, inputs: 3000, seeds: &[b"max-age=60, private=\"Set-Cookie, X\"\ns-maxage=\"10\"", b"no-store, a=\"b\\\", c", b"MAX-AGE=99999999999999999999,must-understand", b"stale-while-revalidate=5, no-cache=, immutable", b"max-stale, min-fresh=x, only-if-cached, stale-if-error=1"] },
    Target { name: "targeted", run: targeted, inputs: 3000, seeds: &[b"max-age=60, private\nno-store", b"max-age=10;x=1, no-cache=\"a b\"", b"max-age=-1, s-maxage=1.5, immutable=?0", b"a=(1 2), b=:AQ==:"] },
    Target { name: "date", run: date, inputs: 4000, seeds: &[b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994", b"Thu, 29 Feb 2000 23:59:60 GMT", b"Fri, 31 Dec 9999 23:59:59 GMT"] },
    Target { name: "storing", run: storing, inputs: 800, seeds: &[b"\nCache-Control: max-age=60\nETag: \"a\"\nVary: Accept\nDate: Sun, 06 Nov 1994 08:49:37 GMT\nAge: 7", b"Range: bytes=0-1,4-\nIf-None-Match: \"a\", W/\"b\"\n\nCache-Control: public, s-maxage=10\nETag: W/\"b\"\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\nContent-Length: 3\nConnection: x-a, close", b"Accept-Encoding: gzip\nCookie: a=b\n\nExpires: 0\nAge: 99999999999999999999999, 1\nSet-Cookie: a=b\nContent-Range: bytes 0-3/10\nPragma: no-cache"] },
    Target { name: "range", run: range, inputs: 3000, seeds: &[b"\x0abytes=0-4", b"\x14bytes=-3,1-2, 5-,2-9", b"\x05BYTES=0-18446744073709551615,-99999999999999999999", b"\x00bytes=-1", b"\x09items=1-2"] },
    Target { name: "content_range", run: part, inputs: 3000, seeds: &[b"bytes 0-4/10", b"bytes */10", b"bytes 5-18446744073709551615/18446744073709551615", b"Bytes 1-1/2"] },
    Target { name: "etags", run: etags, inputs: 3000, seeds: &[b"\"a\"\n\"b\", W/\"a\"", b"W/\"x,y\"\n\"x,y\"\n*", b"unquoted\nunquoted, \"", b"\nW/"] },
    Target { name: "vary", run: vary_matching, inputs: 4000, seeds: &[b"\x00gzip, br;q=0.5\ngzip;q=1.0,br;q=0.2", b"\x01en-GB, de;q=0\nx-gzip", b"\x02a=1; b=2\na=1, b=2", b"\x03a, b\na,b", b"\x04a\nb", b"\x02a=1\nb=2\n\na=1, b=2", b"\x04a\nb\n\na, b", b"\x01x-gzip\ngzip",  b"\x03\"a, b\",c\n\"a,b\" , c"] },
    Target { name: "vary_names", run: vary_names, inputs: 2000, seeds: &[b"Accept, accept-encoding\nFoo,,bar", b"*", b"a,b,c,d,e,f,g,h,i", b"a b"] },
    Target { name: "groups", run: cache_groups, inputs: 2000, seeds: &[b"\"a\", \"b\";x", b"\"a\"\n\"a\"", b"a, \"b\"", b"(\"a\")"] },
    Target { name: "location", run: location, inputs: 2000, seeds: &[b"/a/b?c\n../d", b"/a\nhttp://host:80/x/../y?z#f", b"/\n//HOST./%2e", b"/a\n?q", b"/a\nHTTPS://host:443"] },
    Target { name: "authority", run: authority, inputs: 3000, seeds: &[b"Host.Example.:80", b"[::1]:443", b"a:00080", b"*.shop.example", b"host..", b"user@host"] },
    Target { name: "path", run: path, inputs: 3000, seeds: &[b"/a/b.css", b"/a/%2e%2e/b//c;d", b"/%E2%98%83/\\x", b"/%%341/..", b"/a%2Fb%25%zz"] },
    Target { name: "query", run: query, inputs: 4000, seeds: &[b"a=1&b=2\nb=2&a=1", b"%41=%7e&c=%c3%a9\nA=~&c=%C3%A9", b"a+b=1&a%20b=2\na%20b=2&a+b=1", b"a[]=1&a%5B%5D=2\na%5B%5D=2&a[]=1", b"a=%%341\na=%4%31", b"&&utm_source=x&a\na=&a"] },
    Target { name: "pattern", run: pattern, inputs: 3000, seeds: &[b"/a/{id}/b\n/a/*\n/a/1/b", b"/{x}\n/\n/a", b"/a*\n/ab*\n/abc", b"/a/\n/a\n/a/", b"/{a}/{a}\n*\n/"] },
    Target { name: "template", run: template, inputs: 2000, seeds: &[b"car:{id}", b"{query.a}{header.X-B}", b"{user}-{request.a.b}-{response.c}", b"a}{", b"{header.b c}"] },
    Target { name: "forwarded", run: forwarded, inputs: 2000, seeds: &[b"1.2.3.4, 10.0.0.1\n", b"\nfor=1.2.3.4;proto=http, for=\"[2001:db8::1]:80\"", b"10.0.0.2\nfor=10.0.0.2", b"::ffff:1.2.3.4\nfor=\"\\\",for=1.1.1.1", b"unknown,,10.0.0.3\nfor=_x"] },
    Target { name: "credential", run: credential, inputs: 2000, seeds: &[b"authorization: Bearer abc", b"cookie: sid=1; session=2\ncookie: a=b", b"authorization: Basic x\nauthorization: y", b"cookie: sb-x-auth-token.0=1;;=;"] },
    Target { name: "token", run: token, inputs: 1000, seeds: &[b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U", b"eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.", b"a.b.c", b"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}", b"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\",\"kid\":\"1\"}]}"] },
    Target { name: "traceparent", run: traceparent, inputs: 2000, seeds: &[b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more"] },
    Target { name: "request_head", run: request_head, inputs: 2000, seeds: &[b"GET /a?b\nHost: a", b"POST http://a/b\nHost: A\nTransfer-Encoding: chunked\nConnection: close", b"OPTIONS *\nHost: a\nContent-Length: 005\nExpect: 100-continue", b"GET /\nHost: a\nCookie: a=1\nCookie: b=2\nX_Forwarded_For: 1\nUpgrade: h2c", b"GET /\nHost: a\nConnection: cookie"] },
    Target { name: "heads", run: heads, inputs: 1500, seeds: &[b"\x03GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /c#d HTTP/1.1\r\n\r\n", b"\x01POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\nGET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\n", b"\x02PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x05\r\nGET / HTTP/1.1\n\rX: y\n\nGET / HTTP/1.1\ncontent-length: 1\nCONTENT-LENGTH:1\n\n"] },
    Target { name: "framing", run: framing, inputs: 1000, seeds: &[b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /c HTTP/1.1\r\nHost: a\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\nGET / HTTP/1.1\nHost: a\n\nPOST /b HTTP/1.1\nHost: a\nContent-Length: 005\n\nabcdeGET /c HTTP/1.0\nHost: a\n\n", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0 \t\r\n\r\nHEAD /b HTTP/1.1\r\nHost: a\r\n\r\n"] },
    Target { name: "answers", run: answers, inputs: 1000, seeds: &[b"\x05HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK", b"\x01HTTP/1.1 103 Hm\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0A \r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nx", b"\xffHTTP/1.1 204 No\r\nConnection: close\r\n\r\n", b"\x07HTTP/1.0 200\nContent-Length: 003, 3\n\nabc"] },
    Target { name: "response_head", run: response_head, inputs: 2000, seeds: &[b"200\nContent-Length: 3, 3\nConnection: keep-alive", b"304\nTransfer-Encoding: chunked\nKeep-Alive: timeout=5, max=2", b"101\nUpgrade: x", b"999\nContent-Length: 005\nContent-Length: 5"] },
    Target { name: "resp", run: resp, inputs: 3000, seeds: &[b"\x03$5\r\nhello\r\n+OK\r\n:-1\r\n$-1\r\n", b"\x01*3\r\n:1\r\n*1\r\n$-1\r\n-ERR no\r\n", b"\x02%1\r\n+a\r\n~1\r\n#t\r\n|1\r\n+b\r\n_\r\n,1.5\r\n", b"\x05>2\r\n+invalidate\r\n*0\r\n(12345678901234567890\r\n=5\r\ntxt:a\r\n!3\r\nERR\r\n", b"\x07$999999999\r\n", b"\x04HTTP/1.1 400 Bad Request\r\n\r\n"] },
    Target { name: "entry", run: entry, inputs: 2000, seeds: &[b"\x00", b"\x20\xe8\x03\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x40\x42\x0f\0\0\0\0\0\0\0\x01\0\x05\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0`\xea\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\x03\0\0\x03\0\0\x09\0\0\x14\0\0\0\0\0\xc8\0\x08\x01h/a\x01\0t\x01\0a\x01\x01\0\0\0xetag: \"a\"\r\ndate: x\r\n", b"\x21\x01\0\0\0\0\0\0\0\0\0\0\0a piece", b"\x01\x02\x00\x06\x00accept\x04\x00vary", b"\x01\x01\x00\x03\x00a\r\n", b"\0\xe8\x03\0\0\0\0\0\0\x05\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0`\xea\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\x03\0\0\x03\0\0\x09\0\0\x14\0\0\0\0\0\xc8\0\x18\x01h/a\x01\0t\x01\0a\x01\x01\0\0\0xetag: \"a\"\r\ndate: x\r\nbody", b"\0\xe8\x03\0\0\0\0\0\0\x05\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0`\xea\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\x03\0\0\x03\0\0\0\0\0\x0c\0\0\x06\0\0\xc8\0\0\x01h/a\x01\0tx-cache: a\r\na: b\r\nbody", b"\x12\xe8\x03\0\0\0\0\0\0\x05\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0`\xea\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\x03\0\0\x03\0\0\x09\0\0\x14\0\0\0\0\0\xc8\0\x18\x01h/a\x01\0t\x01\0a\x01\x01\0\0\0xetag: \"a\"\r\ndate: x\r\nbody", b"\x1a\xe8\x03\0\0\0\0\0\0\x05\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0`\xea\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\x03\0\0\x03\0\0\x09\0\0\x14\0\0\0\0\0\xc8\0\x18\x01h/a\x01\0t\x01\0a\x01\x01\0\0\0xetag: \"a\"\r\ndate: x\r\nbody", b"\x18\xe8\x03\0\0\0\0\0\0\x05\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0`\xea\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\x03\0\0\x03\0\0\x09\0\0\x14\0\0\0\0\0\xc8\0\x18\x01h/a\x01\0t\x01\0a\x01\x01\0\0\0xetag: \"a\"\r\ndate: x\r\nbody", b"\x02\x10\0\0\0\x1fa\x01\0\x50aaaaa", b"\x0c\x01\x02\x03\x04nonce-of-12-and a tag of sixteen", b"\x1b\x02\x00\x06\x00accept\x04\x00vary"] },
    Target { name: "config", run: configuration, inputs: 250, seeds: &[b"upstream: http://localhost:3000\nroutes:\n  - path: /api/{id}\n    ttl: 30s\n    tags: ['car:{id}']\n", b"upstream: http://a\nlimits:\n  tiers:\n    - { name: a, rate: 10/1m, per: ip }\ncache: { memory: 64MiB, max_body: 1e9 }\n", b"upstream: ${X:-http://a}\ndefaults: { ttl: 1h, stale_while_revalidate: 5m, heuristic: yes }\n", b"a: &a [x]\nb: *a\n? [1]\n: {<<: *a}", b"server: { listen: '[::1]:0' }\nkey: { query: [a, 'b*'], headers: [X], per: user }\n"] },
    Target { name: "values", run: values, inputs: 250, seeds: &[b"1h30m", b"64MiB", b"100/10s", b"18446744073709551616s", b"-1s", b"0.5ms", b"90%", b"2xx", b"10.0.0.0/8"] },
];

// Helpers ---------------------------------------------------------------------------------------

/// The most lines of one input that are looked at.
const LINES_MAX: usize = 64;

fn split(bytes: &[u8], at: u8) -> impl Iterator<Item = &[u8]> {
    bytes.split(move |byte| *byte == at).take(LINES_MAX)
}

/// Each line as one line of this field, as a connection hands it over: without blanks around it.
fn lines_of(name: &HeaderName, bytes: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in split(bytes, b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(trim(line)) {
            map.append(name, value);
        }
    }
    map
}

/// `name: value` lines; others are left out.
fn fields_of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines.take(LINES_MAX) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(trim(&line[colon + 1..])),
        ) {
            map.append(name, value);
        }
    }
    map
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes
        .strip_prefix(b" ")
        .or_else(|| bytes.strip_prefix(b"\t"))
    {
        bytes = rest;
    }
    while let Some(rest) = bytes
        .strip_suffix(b" ")
        .or_else(|| bytes.strip_suffix(b"\t"))
    {
        bytes = rest;
    }
    bytes
}

/// The bytes before the first line end, and those after it.
fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, b""),
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn one(name: HeaderName, value: &HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(name, value.clone())])
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis((1_795_370_000 + seconds) * 1_000)
}

// Fields ----------------------------------------------------------------------------------------

fn directives(bytes: &[u8]) {
    let headers = lines_of(&header::CACHE_CONTROL, bytes);
    let said = Directives::of_response(&headers);
    for delta in [said.max_age, said.s_maxage] {
        if let Delta::Of(length) = delta {
            assert!(length <= Duration::from_secs(DELTA_SECONDS_MAX));
        }
    }
    // Without quotes there is one way to read a list; whatever is named in it restricts.
    for line in headers.get_all(header::CACHE_CONTROL) {
        let line = line.as_bytes();
        if line.contains(&b'"') {
            continue;
        }
        for member in line.split(|byte| *byte == b',') {
            let name = member
                .split(|byte| *byte == b'=')
                .next()
                .unwrap_or_default();
            let name = trim(name).to_ascii_lowercase();
            match name.as_slice() {
                b"no-store" => assert!(said.no_store),
                b"private" => assert!(said.private != Default::default()),
                b"no-cache" => assert!(said.no_cache != Default::default()),
                b"must-revalidate" => assert!(said.must_revalidate),
                b"max-age" => assert!(said.max_age != Delta::Absent),
                b"s-maxage" => assert!(said.s_maxage != Delta::Absent),
                _ => {}
            }
        }
    }
    // A further line never makes a stated lifetime longer, and takes no restriction back.
    for more in [
        "no-store",
        "max-age=5",
        "s-maxage=7, private",
        "\"",
        "public, max-age=\"9\"",
    ] {
        let mut longer = headers.clone();
        longer.append(header::CACHE_CONTROL, HeaderValue::from_static(more));
        let then = Directives::of_response(&longer);
        assert!(then.no_store >= said.no_store && then.must_revalidate >= said.must_revalidate);
        assert!(!said.private.is_whole() || then.private.is_whole());
        assert!(!said.no_cache.is_whole() || then.no_cache.is_whole());
        if let Some(stated) = said.max_age.stated() {
            assert!(then.max_age.stated().is_some_and(|then| then <= stated));
        }
        if let Some(stated) = said.s_maxage.stated() {
            assert!(then.s_maxage.stated().is_some_and(|then| then <= stated));
        }
        assert!(more != "no-store" || then.no_store);
    }
    let asked = RequestDirectives::of_request(&headers);
    assert!(asked.no_store || !said.no_store);
}

fn targeted(bytes: &[u8]) {
    const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");
    let mut headers = lines_of(&CDN, bytes);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let said = Directives::of_response(&headers);
    let whole = fields::combined(&headers, &CDN).unwrap_or_default();
    let dictionary: Option<sfv::Dictionary> = sfv::Parser::new(whole.as_ref()).parse().ok();
    // RFC 9213 §2.1: a field that is no dictionary, or an empty one, is as good as none.
    match dictionary.filter(|dictionary| !dictionary.is_empty()) {
        None => assert!(!said.targeted && said.no_store),
        Some(dictionary) => {
            assert!(said.targeted);
            let is = |name: &str| {
                matches!(dictionary.get(name), Some(sfv::ListEntry::Item(item))
                    if item.bare_item == sfv::BareItem::Boolean(true))
            };
            assert_eq!(said.no_store, is("no-store"));
            assert_eq!(said.must_revalidate, is("must-revalidate"));
            assert!(!is("private") || said.private.is_whole());
        }
    }
}

fn date(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(trim(bytes)) else {
        return;
    };
    let Some(read) = Timestamp::from_http_date(&value, at(0)) else {
        // What another reader takes for a date of the form that is sent, we take for one too.
        let ours = text(value.as_bytes()).filter(|text| text.len() == 29);
        let theirs = ours.and_then(|text| httpdate::parse_http_date(text).ok());
        assert!(
            theirs.is_none_or(|theirs| theirs < std::time::UNIX_EPOCH),
            "{value:?}"
        );
        return;
    };
    assert_eq!(read.as_millis() % 1_000, 0);
    assert_eq!(
        Timestamp::from_http_date(&read.http_date(), at(0)),
        Some(read)
    );
    assert_eq!(read.rfc3339().len(), 20);
    let theirs = text(value.as_bytes()).and_then(|text| httpdate::parse_http_date(text).ok());
    if let Some(theirs) = theirs
        && value.len() == 29
    {
        assert_eq!(Timestamp::from(theirs), read, "{value:?}");
    }
}

/// Everything that becomes of one exchange: stored, aged, used, validated, written down, read again.
fn storing(bytes: &[u8]) {
    let lines: Vec<&[u8]> = split(bytes, b'\n').collect();
    let blank = lines
        .iter()
        .position(|line| line.is_empty())
        .unwrap_or(lines.len());
    let request = fields_of(lines[..blank].iter().copied());
    let response = fields_of(lines[blank..].iter().copied());
    let status = StatusCode::from_u16(200 + bytes.len() as u16 % 8).unwrap_or(StatusCode::OK);
    let exchange = Exchange {
        method: &Method::GET,
        path: "/",
        request: &request,
        status,
        response: &response,
        requested: at(0),
        received: at(3),
        client: ClientRefresh::Honor,
        chance: 0.5,
    };
    let policy = Policy {
        heuristic: true,
        ..Policy::default()
    };
    let Ok(mut stored) = storable(&exchange, &policy) else {
        return;
    };
    stored.body = Bytes::from_static(b"0123456789");
    assert!(!Directives::of_response(&response).no_store);
    assert!(stored.headers.contains_key(header::DATE));
    for name in [
        header::AGE,
        header::CONTENT_LENGTH,
        header::CONNECTION,
        header::TRANSFER_ENCODING,
    ] {
        assert!(!stored.headers.contains_key(&name), "{name} is stored");
    }
    // RFC 9111 §4.2.3, as it stands there.
    let age_value = response
        .get(header::AGE)
        .and_then(|age| text(age.as_bytes())?.split(',').next().map(str::trim))
        .filter(|age| !age.is_empty() && age.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(0, |age| {
            age.parse::<u128>().unwrap_or(u128::MAX).min(1 << 31)
        });
    let least = Duration::from_secs(age_value as u64 + 3);
    assert!(
        stored.lifetime.initial_age >= least,
        "{:?}",
        stored.lifetime
    );
    assert!(stored.lifetime.fresh <= Duration::from_secs(1 << 48));
    for later in [3, 4, 1_000, 1 << 33] {
        let now = at(later);
        let age = stored.lifetime.age(now);
        assert_eq!(
            age,
            stored.lifetime.initial_age + Duration::from_secs(later - 3)
        );
        assert_eq!(stored.lifetime.is_fresh(now), stored.lifetime.fresh > age);
        used(&request, &stored, now);
    }
    assert!(stored.keep(at(3)) > Duration::ZERO);
    assert!(stored.vary.matches(&request));
    validated(&stored, &exchange, &policy);
    let key = Key::from_bytes([7; 16]);
    let label = Label {
        tags: Box::new(["a".into()]),
        url: "host/".into(),
        app_time: Duration::from_millis(3),
        ..Label::default()
    };
    let entry = Entry::new(&stored, &label);
    assert_eq!(entry.stored(), stored);
    let seal = Seal::new(Some(0), &[secret::Key::new([9; 32])], ENTRY_BYTES_MAX);
    let written = Bytes::from(codec::encode(&entry, &key, 5, &seal));
    let Ok(Frame::Entry(read)) = codec::decode(&written, &key, 5, &seal) else {
        panic!("what was written is not read");
    };
    assert_eq!((read.stored(), read.label()), (stored, label));
}

fn used(request: &HeaderMap, stored: &Stored, now: Timestamp) {
    for method in [Method::GET, Method::HEAD] {
        let answer = answer(&method, request, stored.clone(), now);
        let sent = answer.body.bytes() + (answer.elsewhere.end - answer.elsewhere.start);
        match answer.status.as_u16() {
            304 => assert!(sent == 0 && answer.content_length.is_none()),
            416 => assert_eq!((sent, answer.content_length), (0, Some(0))),
            _ if method == Method::HEAD => assert_eq!(sent, 0),
            _ => assert_eq!(answer.content_length.unwrap_or(sent), sent),
        }
        let conditional = request.contains_key(header::IF_NONE_MATCH)
            || request.contains_key(header::IF_MODIFIED_SINCE);
        assert!(conditional || answer.status != StatusCode::NOT_MODIFIED);
        assert!(
            answer.status == StatusCode::RANGE_NOT_SATISFIABLE
                || answer.headers.get_all(header::AGE).iter().count() == 1
        );
    }
}

/// The laws of a 304 (RFC 9111 §3.2, §4.3.4).
fn validated(stored: &Stored, exchange: &Exchange<'_>, policy: &Policy) {
    let mut asked = exchange.request.clone();
    assert_eq!(
        make_conditional(&mut asked, stored),
        stored.validators().any()
    );
    assert!(!asked.contains_key(header::RANGE) && !asked.contains_key(header::IF_RANGE));
    // What sends our own validators back is about what we hold.
    assert_eq!(confirms(&stored.headers, stored), stored.validators().any());
    let update = Exchange {
        received: at(10),
        requested: at(10),
        ..*exchange
    };
    let merged = merge(stored, &update);
    for kept in [header::CONTENT_ENCODING, header::CONTENT_RANGE] {
        assert_eq!(merged.headers.get(&kept), stored.headers.get(&kept));
    }
    assert_eq!((merged.status, &merged.body), (stored.status, &stored.body));
    // The same update once more changes nothing.
    assert_eq!(merge(&merged, &update).headers, merged.headers);
    if let Some(fresh) = freshen(stored, &update, policy) {
        assert_eq!(
            (&fresh.body, fresh.lifetime.received),
            (&stored.body, at(10))
        );
    }
    match judge_head(
        stored,
        &Exchange {
            method: &Method::HEAD,
            ..update
        },
        policy,
    ) {
        HeadVerdict::Freshened(fresh) => assert_eq!(fresh.body, stored.body),
        HeadVerdict::Spoiled | HeadVerdict::Unrelated => {}
    }
}

/// First byte: the length of the body. The rest: Range.
fn range(bytes: &[u8]) {
    let Some((length, value)) = bytes.split_first() else {
        return;
    };
    let Ok(value) = HeaderValue::from_bytes(value) else {
        return;
    };
    let body: Bytes = (0..*length).collect();
    let length = u64::from(*length);
    let Ranges::Parts(parts) = ranges(&value, length) else {
        return;
    };
    // Byte by byte: asked for by some spec, and in just one part.
    let set = text(value.as_bytes()).and_then(|text| text.split_once('='));
    let specs: Vec<&str> = set
        .map(|(_, set)| {
            set.split(',')
                .map(|spec| spec.trim_matches([' ', '\t']))
                .collect()
        })
        .unwrap_or_default();
    let number = |text: &str| text.parse::<u128>().unwrap_or(u128::MAX);
    for place in 0..length {
        let asked = specs
            .iter()
            .filter_map(|spec| spec.split_once('-'))
            .any(|(first, last)| {
                let here = u128::from(place);
                match (first, last) {
                    ("", last) => here + number(last).min(256) >= u128::from(length),
                    (first, "") => here >= number(first),
                    (first, last) => here >= number(first) && here <= number(last),
                }
            });
        let given = parts.iter().filter(|part| part.contains(&place)).count();
        assert_eq!(
            given,
            usize::from(asked),
            "byte {place} of {length}: {value:?}"
        );
    }
    assert!(
        parts
            .iter()
            .all(|part| part.start < part.end && part.end <= length)
    );
    let kind = HeaderValue::from_static("a/b");
    let (boundary, chunks) = multipart(&body, &parts, Some(&kind), 1);
    assert_eq!(
        parts_of(&chunks.concat(), &boundary, length),
        parts
            .iter()
            .map(|part| (part.clone(), slice(&body, part).to_vec()))
            .collect::<Vec<_>>()
    );
}

/// Reads `multipart/byteranges` back (RFC 2046 §5.1.1).
fn parts_of(content: &[u8], boundary: &str, length: u64) -> Vec<(std::ops::Range<u64>, Vec<u8>)> {
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let content = [b"\r\n", content].concat();
    let mut parts = Vec::new();
    let mut rest = content.as_slice();
    let find =
        |rest: &[u8], what: &[u8]| rest.windows(what.len()).position(|window| window == what);
    while let Some(at) = find(rest, &delimiter) {
        rest = &rest[at + delimiter.len()..];
        if rest.starts_with(b"--\r\n") {
            assert_eq!(rest, b"--\r\n", "something behind the last boundary");
            return parts;
        }
        let end = find(rest, b"\r\n\r\n").expect("a head");
        let head = fields_of(
            rest[..end]
                .split(|byte| *byte == b'\n')
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line)),
        );
        rest = &rest[end + 4..];
        let until = find(rest, &delimiter).expect("an end");
        let part = Part::of(&head).expect("a Content-Range");
        assert_eq!(part.length, length);
        parts.push((part.range, rest[..until].to_vec()));
    }
    panic!("no last boundary");
}

fn part(bytes: &[u8]) {
    let headers = lines_of(&header::CONTENT_RANGE, bytes);
    let Some(part) = Part::of(&headers) else {
        return;
    };
    assert!(part.range.start < part.range.end && part.range.end <= part.length);
    let again = HeaderValue::from_str(&content_range(&part.range, part.length)).expect("a value");
    assert_eq!(
        Part::of(&one(header::CONTENT_RANGE, &again)),
        Some(part.clone())
    );
    if let Some(missing) = part.missing() {
        let have = part.range.end - part.range.start;
        assert_eq!(have + (missing.end - missing.start), part.length);
        assert!(missing.end == part.range.start || missing.start == part.range.end);
    }
    let asked = HeaderValue::from_str(&format!(
        "bytes={}-{}",
        part.range.start,
        part.range.end - 1
    ));
    assert_eq!(
        part.serves(&asked.expect("a value")),
        Some(part.range.clone())
    );
}

/// First line: the stored ETag. The others: If-None-Match (RFC 9110 §8.8.3.2, §13.1.2).
fn etags(bytes: &[u8]) {
    let (etag, list) = first_line(bytes);
    let Ok(etag) = HeaderValue::from_bytes(trim(etag)) else {
        return;
    };
    let stored_with = |etag: &HeaderValue| {
        let mut response = one(header::ETAG, etag);
        response.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("max-age=60"),
        );
        let request = HeaderMap::new();
        let exchange = Exchange {
            method: &Method::GET,
            path: "/",
            request: &request,
            status: StatusCode::OK,
            response: &response,
            requested: at(0),
            received: at(0),
            client: ClientRefresh::Honor,
            chance: 0.0,
        };
        storable(&exchange, &Policy::default()).expect("storable")
    };
    let stored = stored_with(&etag);
    let named = |request: &HeaderMap| {
        answer(&Method::GET, request, stored.clone(), at(1)).status == StatusCode::NOT_MODIFIED
    };
    let asked = lines_of(&header::IF_NONE_MATCH, list);
    let is_named = named(&asked);
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let is_tag = |tag: &[u8]| {
        let tag = opaque(tag);
        tag.len() >= 2
            && tag.starts_with(b"\"")
            && tag.ends_with(b"\"")
            && !tag[1..tag.len() - 1].contains(&b'"')
    };
    // Compared weakly with itself in every form; strongly only if it is strong.
    if is_tag(etag.as_bytes()) {
        let weak = HeaderValue::from_bytes(&[b"W/", opaque(etag.as_bytes()).as_slice()].concat())
            .expect("a value");
        let strong = HeaderValue::from_bytes(&opaque(etag.as_bytes())).expect("a value");
        for form in [&etag, &weak, &strong] {
            assert!(named(&one(header::IF_NONE_MATCH, form)));
            let mut ranged = one(header::IF_RANGE, form);
            ranged.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
            let stored = Stored {
                body: Bytes::from_static(b"ab"),
                ..stored.clone()
            };
            let partial =
                answer(&Method::GET, &ranged, stored, at(1)).status == StatusCode::PARTIAL_CONTENT;
            assert_eq!(
                partial,
                form == etag && etag == strong,
                "{form:?} for {etag:?}"
            );
        }
    }
    if is_named {
        // A 304 is for those alone who have named it, byte for byte, or anything.
        let mine = opaque(etag.as_bytes());
        let has = |line: &[u8]| {
            line.split(|byte| *byte == b',')
                .any(|member| trim(member) == b"*")
                || (!mine.is_empty() && line.windows(mine.len()).any(|window| window == mine))
        };
        assert!(
            asked
                .get_all(header::IF_NONE_MATCH)
                .iter()
                .any(|line| has(line.as_bytes())),
            "{etag:?}: {asked:?}"
        );
    }
}

/// First byte: which field. Then the lines of one request, an empty line, those of another one.
fn vary_matching(bytes: &[u8]) {
    const FIELDS: [HeaderName; 6] = [
        header::ACCEPT_ENCODING,
        header::ACCEPT_LANGUAGE,
        header::COOKIE,
        HeaderName::from_static("foo"),
        header::USER_AGENT,
        header::AUTHORIZATION,
    ];
    let Some((which, rest)) = bytes.split_first() else {
        return;
    };
    let field = &FIELDS[usize::from(*which) % FIELDS.len()];
    let blank = rest.windows(2).position(|two| two == b"\n\n");
    let (one, other) = match blank {
        Some(at) => (&rest[..at], &rest[at + 2..]),
        None => first_line(rest),
    };
    let (one, other) = (lines_of(field, one), lines_of(field, other));
    let response = HeaderMap::from_iter([(header::VARY, HeaderValue::from(field.clone()))]);
    let (first, second) = (
        Vary::select(&response, &one).expect("one name"),
        Vary::select(&response, &other).expect("one name"),
    );
    assert!(first.matches(&one));
    let same = first.matches(&other);
    assert_eq!(same, second.matches(&one), "matching goes both ways");
    assert_eq!(
        same,
        vary::variant(first.names(), &one) == vary::variant(first.names(), &other)
    );
    assert!(!first.matches(&HeaderMap::new()) || one.is_empty());
    if same {
        // What the RFC lets a cache overlook, and nothing beside it.
        assert_eq!(
            essence(field, &one),
            essence(field, &other),
            "{one:?} {other:?}"
        );
    }
}

/// What an app may make of the lines of one field.
fn essence(field: &HeaderName, request: &HeaderMap) -> Vec<Vec<u8>> {
    let lines = request.get_all(field).iter().map(|line| line.as_bytes());
    let is_list =
        *field == header::ACCEPT_ENCODING || *field == header::ACCEPT_LANGUAGE || field == "foo";
    if !is_list {
        return lines.map(<[u8]>::to_vec).collect();
    }
    let whole = lines.collect::<Vec<_>>().join(b",".as_slice());
    if field == "foo" {
        // Members, with commas in quotes left alone.
        let mut members = vec![Vec::new()];
        let (mut quoted, mut escaped) = (false, false);
        for byte in whole {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    members.push(Vec::new());
                    continue;
                }
                _ => {}
            }
            members.last_mut().expect("one").push(byte);
        }
        return members.iter().map(|member| trim(member).to_vec()).collect();
    }
    // Preferences: which is liked better than which, and which not at all; in any order and case.
    let mut liked: Vec<(f64, Vec<u8>)> = Vec::new();
    for member in whole
        .split(|byte| *byte == b',')
        .map(trim)
        .filter(|member| !member.is_empty())
    {
        let mut parts = member.split(|byte| *byte == b';').map(trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.next().map_or(Some(1.0), |weight| {
            text(weight)?
                .strip_prefix(['q', 'Q'])?
                .strip_prefix('=')?
                .parse::<f64>()
                .ok()
        });
        let (Some(weight), None) = (weight, parts.next()) else {
            return vec![whole.clone()];
        };
        let name = match name.as_slice() {
            b"x-gzip" if *field == header::ACCEPT_ENCODING => b"gzip".to_vec(),
            b"x-compress" if *field == header::ACCEPT_ENCODING => b"compress".to_vec(),
            _ => name,
        };
        liked.push((weight, name));
    }
    liked.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    liked.dedup();
    let mut ranks = Vec::new();
    let mut before = f64::INFINITY;
    for (weight, name) in liked {
        let mark = if weight == 0.0 {
            b"!"
        } else if weight < before {
            b">"
        } else {
            b","
        };
        before = weight;
        ranks.push([mark, name.as_slice()].concat());
    }
    ranks
}

fn vary_names(bytes: &[u8]) {
    let response = lines_of(&header::VARY, bytes);
    let star = fields::list(&response, &header::VARY).any(|member| member == b"*");
    match Vary::select(&response, &HeaderMap::new()) {
        Err(vary::Unselectable::Star) => assert!(star),
        Err(vary::Unselectable::TooMany) => {}
        Ok(selected) => {
            assert!(!star && selected.fields.len() <= vary::FIELDS_MAX);
            let names: Vec<&str> = selected.names().map(HeaderName::as_str).collect();
            assert!(names.windows(2).all(|two| two[0] < two[1]));
            for member in fields::list(&response, &header::VARY) {
                let member = member.to_ascii_lowercase();
                assert!(names.iter().any(|name| name.as_bytes() == member));
            }
        }
    }
}

fn cache_groups(bytes: &[u8]) {
    let response = lines_of(&groups::CACHE_GROUPS, bytes);
    let tags = groups::joined("host", &response);
    assert!(tags.len() <= groups::GROUPS_MAX && tags.windows(2).all(|two| two[0] < two[1]));
    assert!(
        groups::joined("other", &response)
            .iter()
            .all(|tag| !tags.contains(tag))
    );
    let ended = lines_of(&groups::CACHE_GROUP_INVALIDATION, bytes);
    assert_eq!(groups::ended(&Method::POST, "host", &ended), tags);
    assert!(groups::ended(&Method::GET, "host", &ended).is_empty());
}

// Targets and names -----------------------------------------------------------------------------

/// First line: the target of an unsafe request. The next: Location; the last: Content-Location.
fn location(bytes: &[u8]) {
    let mut lines = split(bytes, b'\n');
    let Some(target) = lines
        .next()
        .and_then(text)
        .filter(|target| target.starts_with('/'))
    else {
        return;
    };
    let mut response = HeaderMap::new();
    for (name, line) in [header::LOCATION, header::CONTENT_LOCATION]
        .into_iter()
        .zip(lines)
    {
        if let Ok(value) = HeaderValue::from_bytes(trim(line)) {
            response.insert(name, value);
        }
    }
    let ended = invalidation::invalidated(
        &Method::POST,
        "http",
        "host",
        target,
        StatusCode::OK,
        &response,
    );
    assert!((1..=3).contains(&ended.len()) && ended[0] == target);
    for path in &ended[1..] {
        assert!(path.starts_with('/'), "{path:?}");
        let only = path.split('?').next().unwrap_or_default();
        assert!(
            path == target || !only.split('/').any(|segment| matches!(segment, "." | "..")),
            "{path:?}"
        );
        assert!(!path.contains('#') || target.contains('#'));
    }
    assert!(
        invalidation::invalidated(
            &Method::GET,
            "http",
            "host",
            target,
            StatusCode::OK,
            &response
        )
        .is_empty()
    );
}

fn authority(bytes: &[u8]) {
    let Some(host) = text(bytes) else {
        return;
    };
    for scheme in ["http", "https"] {
        let Some(normal) = normal_authority(host, scheme) else {
            continue;
        };
        assert_eq!(
            normal_authority(&normal, scheme).as_deref(),
            Some(&*normal),
            "{host:?}"
        );
        assert!(
            !normal
                .bytes()
                .any(|byte| byte.is_ascii_uppercase() || byte <= b' ' || b"/@?#".contains(&byte))
        );
        let upper = host.to_ascii_uppercase();
        assert_eq!(normal_authority(&upper, scheme).as_deref(), Some(&*normal));
    }
    let mut hosts = Hosts::default();
    if hosts.add(host).is_some() && !host.starts_with("*.") {
        let normal = normal_authority(host, "http").expect("a host");
        let other = "other.example.net";
        assert!(hosts.serve(&normal) && (normal == other || !hosts.serve(other)));
    }
}

fn path(bytes: &[u8]) {
    let Some(sent) = text(bytes) else {
        return;
    };
    let target = Path::parse(sent, None);
    assert_eq!(target.path, sent);
    let decoded = &*target.decoded;
    if !target.ambiguous {
        // Decoding once or twice is the same, and no segment climbs or is empty in between.
        assert!(!decoded.contains("//") && !decoded.contains(['\\', ';']));
        assert!(
            !decoded
                .split('/')
                .any(|segment| matches!(segment, "." | ".."))
        );
        assert!(!decoded.chars().any(char::is_control));
        assert!(decoded.contains('%') <= sent.contains("%25"));
        let slashes = |text: &str| text.matches('/').count();
        assert_eq!(slashes(decoded), slashes(sent));
    } else if sent.starts_with('/') {
        assert!(decoded.starts_with('/') && !decoded.contains("//") && !decoded.contains('\\'));
        assert!(
            !decoded
                .split('/')
                .any(|segment| matches!(segment, "." | ".."))
        );
    }
    let response =
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("text/html"))]);
    let extension = sent
        .rsplit('/')
        .next()
        .and_then(|name| name.rsplit_once('.'));
    if matches!(extension, Some((_, "css" | "js" | "png" | "json"))) {
        assert!(!content::fits_path(sent, &response));
    }
}

/// One query a line: where two share a key, the app sees the same parameters in both.
fn query(bytes: &[u8]) {
    let (one, other) = first_line(bytes);
    let valid = |query: &[u8]| {
        query
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b'#')
    };
    let (Some(one), Some(other)) = (text(one), text(other)) else {
        return;
    };
    if !valid(one.as_bytes()) || !valid(other.as_bytes()) {
        return;
    }
    let rule = rule("/*", vec!["utm_*".to_owned()]);
    let plan = |query: &str| {
        let target = Path::parse("/", Some(query));
        let asked = Asked {
            method: &Method::GET,
            scheme: "http",
            authority: "host",
            target: &target,
            headers: &HeaderMap::new(),
            content: larder::route::Content::None,
        };
        rule.plan(&asked, &[])
    };
    let (Plan::Lookup(first), Plan::Lookup(second)) = (plan(one), plan(other)) else {
        return;
    };
    let sent = |query: &'_ str| {
        rule.fetch_query(Some(query))
            .unwrap_or_default()
            .into_owned()
    };
    assert_eq!(
        plan(&sent(one)),
        Plan::Lookup(first),
        "what is left out is not in the key"
    );
    for decode in [strict as fn(&str) -> Vec<u8>, lenient] {
        let (one, other) = (seen(&sent(one), decode), seen(&sent(other), decode));
        assert!(first != second || one == other, "{one:?} {other:?}");
    }
}

/// Parameters by name, those of one name in their order: what apps see of a query.
fn seen(query: &str, decode: fn(&str) -> Vec<u8>) -> BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>> {
    let mut seen: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name, Some(decode(value))),
            None => (parameter, None),
        };
        seen.entry(decode(name)).or_default().push(value);
    }
    seen
}

/// As the URL standard decodes forms: what is no escape stays.
fn lenient(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| {
        bytes
            .get(at)
            .and_then(|byte| char::from(*byte).to_digit(16))
    };
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => decoded.push(b' '),
            (byte, ..) => decoded.push(byte),
        }
        at += 1;
    }
    decoded
}

/// As apps decode that leave alone what has anything in it that is no escape.
fn strict(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let broken =
        (0..bytes.len()).any(|at| bytes[at] == b'%' && !(is_hex(at + 1) && is_hex(at + 2)));
    let decoded = lenient(text);
    if broken || std::str::from_utf8(&decoded).is_err() {
        return [b"raw ", text.as_bytes()].concat();
    }
    decoded
}

fn rule(path: &str, ignore: Vec<String>) -> Rule {
    Rule {
        name: "fuzz".into(),
        paths: Pattern::parse(path).into_iter().collect(),
        policy: Some(Policy::default()),
        key: KeyRule {
            ignore_query: ignore.into(),
            ..KeyRule::default()
        },
        ..Rule::default()
    }
}

/// Two patterns and a path, one a line.
fn pattern(bytes: &[u8]) {
    let mut lines = split(bytes, b'\n').filter_map(text);
    let (one, other, path) = (lines.next(), lines.next(), lines.next().unwrap_or("/"));
    let parsed = |text: Option<&str>| text.and_then(|text| Pattern::parse(text).ok());
    let (Some(one), Some(other)) = (parsed(one), parsed(other)) else {
        return;
    };
    assert_eq!(Pattern::parse(one.as_str()).as_ref(), Ok(&one));
    assert!(one.covers(&one));
    assert!(!one.covers(&other) || other.matches(path).is_none() || one.matches(path).is_some());
    if let Some(captures) = one.matches(path) {
        assert_eq!(captures.0.len(), one.names().count());
        assert!(
            captures
                .0
                .iter()
                .all(|(_, value)| !value.is_empty() && !value.contains('/'))
        );
    }
    // The index finds what trying one after the other finds.
    let target = Path {
        path,
        query: None,
        decoded: path.into(),
        ambiguous: false,
    };
    let first = [&one, &other]
        .iter()
        .position(|pattern| pattern.matches(path).is_some());
    let rules = [&one, &other].map(|pattern| rule(pattern.as_str(), Vec::new()));
    let routes = Routes::new(rules.to_vec(), rule("/*", Vec::new()));
    assert_eq!(
        routes.find(&Method::GET, &target).rule.id,
        first.unwrap_or(2)
    );
}

fn template(bytes: &[u8]) {
    let Some(Ok(template)) = text(bytes).map(Template::parse) else {
        return;
    };
    let count = template.placeholders().count();
    let rendered = template
        .render(|_| Some("x".into()))
        .expect("every value is there");
    assert!(!rendered.contains(['{', '}']) && rendered.len() >= count);
    assert_eq!(template.render(|_| None).is_none(), count > 0);
    for placeholder in template.placeholders() {
        let (Placeholder::Path(name) | Placeholder::Query(name) | Placeholder::Header(name)) =
            placeholder
        else {
            continue;
        };
        assert!(!name.is_empty());
    }
}

// Callers ---------------------------------------------------------------------------------------

/// First line: X-Forwarded-For; second: Forwarded.
fn forwarded(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for (name, line) in ["x-forwarded-for", "forwarded"]
        .into_iter()
        .zip(split(bytes, b'\n'))
    {
        if let (false, Ok(value)) = (line.is_empty(), HeaderValue::from_bytes(trim(line))) {
            headers.append(name, value);
        }
    }
    let identity = Identity::new(IdentitySettings {
        trusted_proxies: vec!["10.0.0.0/8".parse().expect("a network")],
        ..IdentitySettings::default()
    });
    let from = |peer: &str| SocketAddr::new(peer.parse::<IpAddr>().expect("an address"), 1);
    let stranger = from("192.0.2.1");
    assert_eq!(
        identity.caller(stranger, &headers, at(0)).ip(),
        stranger.ip(),
        "a stranger is believed"
    );
    let ip = identity.caller(from("10.0.0.9"), &headers, at(0)).ip();
    assert!(!ip.is_unspecified() && ip == ip.to_canonical());
    // What a client puts in front of what a trusted proxy says changes nothing.
    if headers.len() == 1 && headers.contains_key("x-forwarded-for") {
        let said = headers["x-forwarded-for"].as_bytes();
        let longer = HeaderValue::from_bytes(&[said, b", 198.51.100.7"].concat()).expect("a value");
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-forwarded-for"), longer)]);
        let ip = identity.caller(from("10.0.0.9"), &headers, at(0)).ip();
        assert_eq!(ip, "198.51.100.7".parse::<IpAddr>().expect("an address"));
    }
}

fn credential(bytes: &[u8]) {
    let headers = fields_of(split(bytes, b'\n'));
    let identity = Identity::new(IdentitySettings::default());
    let peer = SocketAddr::from(([192, 0, 2, 1], 1));
    let caller = identity.caller(peer, &headers, at(0));
    assert!(caller.user().is_none(), "nobody is verified without a key");
    let token = caller.token();
    if let Some(token) = token {
        assert!(
            headers.contains_key(header::AUTHORIZATION) || headers.contains_key(header::COOKIE)
        );
        // Another credential is another caller.
        let mut other = headers.clone();
        other.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("Bearer fuzz-other"),
        );
        assert_ne!(identity.caller(peer, &other, at(0)).token(), Some(token));
    }
    for (name, value) in fields::cookies(&headers) {
        assert!(!name.contains(&b';') && !value.contains(&b';') && trim(name) == name);
    }
    let _ = fields::has_telling_cookie(&headers, &Policy::default());
    let mut sent = headers.clone();
    fields::remove_hop_by_hop(&mut sent);
    let once = sent.clone();
    fields::remove_hop_by_hop(&mut sent);
    assert_eq!(sent, once);
}

/// As a token under a shared secret, and as a key set.
fn token(bytes: &[u8]) {
    let identity = Identity::new(IdentitySettings {
        jwt: Some(JwtSource::Secret(Secret::new(
            "a secret that nobody signed with".to_owned(),
        ))),
        ..IdentitySettings::default()
    });
    let peer = SocketAddr::from(([192, 0, 2, 1], 1));
    if let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", bytes].concat()) {
        let headers = one(header::AUTHORIZATION, &value);
        assert!(
            identity.caller(peer, &headers, at(0)).user().is_none(),
            "a forged token is believed"
        );
    }
    let identity = Identity::new(IdentitySettings {
        jwt: Some(JwtSource::JwksUrl("http://keys".to_owned())),
        ..IdentitySettings::default()
    });
    if let Ok(usable) = identity.set_keys(bytes) {
        assert!((1..=100).contains(&usable));
    }
}

fn traceparent(bytes: &[u8]) {
    let headers = lines_of(&HeaderName::from_static("traceparent"), bytes);
    let context = TraceContext::from_headers(&headers);
    let out = context.traceparent();
    assert!(
        out.len() == 55 && out.starts_with("00-") && out[3..].starts_with(&*context.trace_id_hex())
    );
    assert!(
        out.bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    );
    // What we say is understood by whoever reads as we do.
    let value = HeaderValue::from_str(&out).expect("a value");
    let again = TraceContext::from_headers(&one(HeaderName::from_static("traceparent"), &value));
    assert_eq!(again.trace_id_hex(), context.trace_id_hex());
}

// Messages --------------------------------------------------------------------------------------

/// First line: method and target. The others: fields.
fn request_head(bytes: &[u8]) {
    let (line, rest) = first_line(bytes);
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let Ok(mut request) = Request::builder().method(method).uri(target).body(()) else {
        return;
    };
    *request.headers_mut() = fields_of(split(rest, b'\n'));
    if !larder::server::fuzz::passes(&mut request) {
        return;
    }
    let headers = request.headers();
    let count = |name: HeaderName| headers.get_all(name).iter().count();
    assert!(
        count(header::HOST) <= 1
            && count(header::CONTENT_LENGTH) <= 1
            && count(header::COOKIE) <= 1
    );
    assert!(
        !(headers.contains_key(header::CONTENT_LENGTH)
            && headers.contains_key(header::TRANSFER_ENCODING))
    );
    if let Some(length) = headers.get(header::CONTENT_LENGTH) {
        let number: u64 = text(length.as_bytes())
            .and_then(|text| text.parse().ok())
            .expect("a length");
        assert_eq!(number.to_string().as_bytes(), length.as_bytes());
    }
    let once = headers.clone();
    assert!(
        larder::server::fuzz::passes(&mut request),
        "what has passed passes again"
    );
    assert_eq!(*request.headers(), once);
}

/// First byte: the size of the pieces that the rest of the bytes, a connection's, come in.
fn heads(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else {
        return;
    };
    const REQUESTS: usize = 8;
    let whole = larder::server::fuzz::judged(std::iter::once(stream), REQUESTS);
    let size = usize::from(*size).max(1);
    let pieces = larder::server::fuzz::judged(stream.chunks(size), REQUESTS);
    assert_eq!(whole, pieces, "pieces of {size} are judged in another way");
    // Behind the first refusal nothing is let through.
    assert!(whole.windows(2).all(|two| two[0] >= two[1]));
}

/// A connection's bytes as hyper reads them and as `Heads` follows them: whatever hyper hands over
/// and `Heads` lets pass begins where `Heads` says (else a request could hide in another one's body).
fn framing(stream: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    let served = RUNTIME.with(|runtime| runtime.block_on(served(stream)));
    let begun = larder::server::fuzz::begun(stream);
    for (place, (method, path)) in served.iter().enumerate() {
        let Some((at, trusted)) = begun.get(place) else {
            panic!("hyper hands over a head {place} that nobody has seen: {served:?}");
        };
        if !trusted {
            return;
        }
        let line = first_line(&stream[*at..]).0;
        let target = line
            .strip_prefix(method.as_bytes())
            .and_then(|rest| rest.strip_prefix(b" "));
        let target = target.unwrap_or_else(|| panic!("{method} is not {}", line.escape_ascii()));
        assert!(
            target.first() != Some(&b'/') || target.starts_with(path.as_bytes()),
            "{path}"
        );
    }
}

/// Method and path of each request that hyper hands over and our strict look lets in, up to the
/// first one that ends the connection.
async fn served(stream: &[u8]) -> Vec<(String, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let served = std::sync::Mutex::new(Vec::new());
    let service =
        hyper::service::service_fn(async |mut request: Request<hyper::body::Incoming>| {
            let good = larder::server::fuzz::passes(&mut request);
            if good {
                let path = request
                    .uri()
                    .path_and_query()
                    .map_or("", |path| path.as_str());
                let known = (request.method().to_string(), path.to_owned());
                served.lock().expect("nobody panics with it").push(known);
            }
            let whole = http_body_util::BodyExt::collect(request.into_body())
                .await
                .is_ok();
            let mut response = Response::new(http_body_util::Empty::<Bytes>::new());
            if !(good && whole) {
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response)
        });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(hyper_util::rt::TokioIo::new(server), service);
    let talk = async {
        let _ = client.write_all(stream).await;
        let _ = client.shutdown().await;
        let mut answers = Vec::new();
        let _ = client.read_to_end(&mut answers).await;
    };
    let _ = tokio::join!(connection, talk);
    served.into_inner().expect("nobody panics with it")
}

/// First line: status. The others: fields.
fn response_head(bytes: &[u8]) {
    let (line, rest) = first_line(bytes);
    let status = text(line)
        .and_then(|text| text.parse().ok())
        .and_then(|code| StatusCode::from_u16(code).ok());
    let mut response = Response::new(());
    *response.status_mut() = status.unwrap_or_default();
    *response.headers_mut() = fields_of(split(rest, b'\n'));
    for method in [Method::GET, Method::HEAD] {
        let Some((headers, delimited, reusable)) =
            larder::upstream::fuzz::checked(&method, response.clone())
        else {
            continue;
        };
        assert!(delimited || !reusable);
        let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
        assert!(lengths <= 1 && !(lengths == 1 && headers.contains_key(header::TRANSFER_ENCODING)));
        assert!(!reusable || !fields::has_token(&headers, &header::CONNECTION, "close"));
    }
}

/// First byte: the size of the pieces that the rest of the bytes, an app's connection, come in. What we
/// take for a whole answer hyper takes for the same one.
fn answers(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else {
        return;
    };
    let whole = larder::upstream::fuzz::answered(std::iter::once(stream));
    let size = usize::from(*size).max(1);
    let pieces = larder::upstream::fuzz::answered(stream.chunks(size));
    assert_eq!(whole, pieces, "pieces of {size} are read in another way");
    let Some((content, behind)) = whole else {
        return;
    };
    let used = stream.len() - behind;
    for cut in [used / 2, used.saturating_sub(1)] {
        let cut = larder::upstream::fuzz::answered(std::iter::once(&stream[..cut]));
        assert_eq!(cut, None, "a part is taken for the whole");
    }
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    let read = RUNTIME.with(|runtime| runtime.block_on(answered(&stream[..used])));
    assert_eq!(read, Some(content), "hyper reads something else");
}

/// The content that hyper reads of an answer to a GET.
async fn answered(stream: &[u8]) -> Option<Vec<u8>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (client, mut app) = tokio::io::duplex(1 << 20);
    let talk = async {
        let _ = app.read(&mut [0; 1024]).await;
        let _ = app.write_all(stream).await;
        drop(app);
    };
    let ask = async {
        let io = hyper_util::rt::TokioIo::new(client);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        let answer = async {
            let request = Request::new(http_body_util::Empty::<Bytes>::new());
            let answer = sender.send_request(request).await.ok()?;
            drop(sender);
            let content = http_body_util::BodyExt::collect(answer.into_body()).await;
            Some(content.ok()?.to_bytes().to_vec())
        };
        tokio::join!(answer, connection).0
    };
    tokio::join!(ask, talk).0
}

/// First byte: entry or Vary marker (bit 0), or chunked entry or chunk (5 as well), the flags (1 and 2),
/// whether there is a key (3), and whether what follows was sealed by us (4). The rest: what stands
/// behind a right checksum and key.
fn entry(bytes: &[u8]) {
    let key = Key::from_bytes([7; 16]);
    let raw = Bytes::copy_from_slice(bytes);
    let plain = Seal::new(None, &[], ENTRY_BYTES_MAX);
    assert!(codec::decode(&raw, &key, 0, &plain).is_err() || bytes.len() >= 28);
    let Some((how, rest)) = bytes.split_first() else {
        return;
    };
    let keys = [secret::Key::new([9; 32])];
    let keys = if how & 8 == 0 { &[][..] } else { &keys };
    let seal = Seal::new(Some(0), keys, ENTRY_BYTES_MAX);
    let mut frame = vec![
        codec::MAGIC,
        codec::VERSION,
        how & 1 | how >> 4 & 2,
        how >> 1 & 3,
    ];
    let bound_to = [&frame[..3], key.bytes()].concat();
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(key.bytes());
    if how & 16 == 0 {
        frame.extend_from_slice(rest);
    } else {
        frame[3] = seal.close(&mut frame, &[rest], how & 2 != 0, &bound_to);
        let block = Bytes::copy_from_slice(&frame[28..]);
        let opened = seal.open(block, frame[3], &bound_to);
        assert_eq!(opened.as_deref(), Ok(rest));
    }
    if let Some(checksum) = codec::checksum(&frame) {
        frame[4..12].copy_from_slice(&checksum);
    }
    let frame = Bytes::from(frame);
    if let Ok(piece) = codec::decode_chunk(&frame, &key, (1, 0), &seal) {
        let again = Bytes::from(codec::encode_chunk(&key, (1, 0), &piece, true, &seal));
        let again = codec::decode_chunk(&again, &key, (1, 0), &seal);
        assert_eq!(again.as_ref(), Ok(&piece));
        // It is neither another nor an entry.
        assert!(codec::decode_chunk(&frame, &key, (1, 1), &seal).is_err());
        assert!(codec::decode(&frame, &key, 0, &seal).is_err());
    }
    match codec::decode(&frame, &key, 0, &seal) {
        Err(_) => {}
        Ok(Frame::Vary(names)) => {
            let again = Bytes::from(codec::encode_vary(&names, &key, &seal));
            let again = codec::decode(&again, &key, 0, &seal);
            assert!(matches!(again, Ok(Frame::Vary(again)) if again == names));
        }
        Ok(Frame::Entry(read)) => {
            // Nobody without the key has written that.
            assert!(keys.is_empty() || how & 16 != 0);
            // Whatever came out of the store can be used and written down.
            used(&HeaderMap::new(), &read.stored(), at(0));
            sent(read.fields());
            let again = Bytes::from(codec::encode(&read, &key, 0, &seal));
            let Ok(Frame::Entry(second)) = codec::decode(&again, &key, 0, &seal) else {
                panic!("what was read is not read again");
            };
            assert_eq!(second.stored(), read.stored());
            // As what is validated is written: from its fields one by one.
            let anew = read.with(&read.stored());
            assert_eq!(anew.stored(), read.stored());
            assert_eq!(anew.label(), read.label());
        }
    }
}

/// No entry of a test is larger, in bytes.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Fields as they leave are read by another parser as just so many fields, and end where they end.
fn sent(fields: &[u8]) {
    let count = fields.iter().filter(|byte| **byte == b'\n').count();
    let mut head = fields.to_vec();
    head.extend_from_slice(b"\r\n");
    let mut room = vec![httparse::EMPTY_HEADER; count];
    let read = httparse::parse_headers(&head, &mut room).expect("fields");
    let httparse::Status::Complete((end, read)) = read else {
        panic!("they do not end");
    };
    assert_eq!((end, read.len()), (head.len(), count));
    let framing = ["content-length", "transfer-encoding", "connection"];
    assert!(!read.iter().any(|field| framing.contains(&field.name)));
}

// Configuration ---------------------------------------------------------------------------------

fn configuration(bytes: &[u8]) {
    if let Some(text) = text(bytes) {
        load(text.to_owned());
    }
}

/// One value in the place of a duration, a size, a rate, a network.
fn values(bytes: &[u8]) {
    let Some(value) = text(bytes).filter(|value| !value.contains(['\n', '\r', '\''])) else {
        return;
    };
    load(format!(
        "upstream: {{ url: http://a, timeout: '{value}' }}\ndefaults: {{ ttl: '{value}', stale_while_revalidate: '{value}' }}\n\
         cache: {{ memory: '{value}', max_body: '{value}' }}\nidentity: {{ trusted_proxies: ['{value}'] }}\n\
         limits: {{ tiers: [ {{ name: a, limit: '{value}' }} ] }}\nroutes: [ {{ path: '{value}', ttl: '{value}', methods: ['{value}'], tags: ['{value}'] }} ]\n"
    ));
}

/// Every text is taken, or refused with a message that names what is wrong.
fn load(text: String) {
    let env = Environment::from_iter([("SECRET".to_owned(), "hunter2".to_owned())]);
    let source = Source {
        name: "fuzz.yaml".to_owned(),
        text,
    };
    match config::load(source, &env) {
        Ok((_, report)) => drop(report.render(Format::Human, false)),
        Err(report) => {
            assert!(!report.problems.is_empty());
            let shown = report.render(Format::Human, false);
            assert!(!shown.contains("hunter2") && !shown.is_empty());
        }
    }
}

// Redis -----------------------------------------------------------------------------------------

/// What Redis sends is read the same however it is cut; a command is a list of its parts.
fn resp(bytes: &[u8]) {
    use larder::redis_client::fuzz::{command, replies};
    let (length, stream) = match bytes.split_first() {
        Some((first, rest)) => (usize::from(*first % 16) + 1, rest),
        None => (1, bytes),
    };
    let whole = replies(std::iter::once(stream));
    assert_eq!(whole, replies(stream.chunks(length)));
    // A reply is at least a line of its own.
    let lines = stream.iter().filter(|byte| **byte == b'\n').count();
    assert!(whole.0.len() <= lines);
    let parts: Vec<&[u8]> = split(stream, b'\n').collect();
    let command = command(&parts);
    let (read, malformed) = replies(command.chunks(length));
    assert!(!malformed);
    let strings = parts
        .iter()
        .map(|part| format!("Bulk({:?})", bytes::Bytes::copy_from_slice(part)));
    let list = strings.collect::<Vec<_>>().join(", ");
    assert_eq!(read, [format!("Array([{list}])")]);
}
