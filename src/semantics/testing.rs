//! What the tests of this room and of the next floor share.

use super::reuse::ClientRefresh;
use super::{Exchange, Policy, Reason, Stored, Timestamp, storable};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

/// Fields from `name: value` lines.
pub(crate) fn headers(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (name, value) = line.split_once(':').expect("a colon");
        headers.append(
            HeaderName::from_bytes(name.trim().as_bytes()).expect("a name"),
            HeaderValue::from_bytes(value.trim().as_bytes()).expect("a value"),
        );
    }
    headers
}

/// Any field value that a message can bring, those with much punctuation first of all.
pub(crate) fn any_value() -> impl Strategy<Value = HeaderValue> {
    let bytes = prop_oneof![
        proptest::collection::vec(prop_oneof![32u8..127, 128u8..=255, Just(b'\t')], 0..200),
        proptest::collection::vec(
            proptest::sample::select(b"\"\\,;=* -/0123456789aWbytes?()".to_vec()),
            0..200
        ),
    ];
    bytes.prop_map(|bytes| HeaderValue::from_bytes(&bytes).expect("a value"))
}

/// A moment in November 2026, and so many seconds later.
pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis((1_795_370_000 + seconds) * 1_000)
}

/// What a plain RFC 9111 cache stores of this response to a GET without fields, received at `at(0)`.
pub(crate) fn stored(response: &str) -> Stored {
    store("", response, &Policy::default()).expect("a storable response")
}

/// Judges a 200 to a GET, received at `at(0)`.
pub(crate) fn store(request: &str, response: &str, policy: &Policy) -> Result<Stored, Reason> {
    store_status(200, request, response, policy)
}

/// Judges an answer to a GET, received at `at(0)`.
pub(crate) fn store_status(
    status: u16,
    request: &str,
    response: &str,
    policy: &Policy,
) -> Result<Stored, Reason> {
    let (request, response) = (headers(request), headers(response));
    storable(&exchange(status, &request, &response), policy)
}

/// A GET and its answer at `at(0)`, with a client whose directives count.
pub(crate) fn exchange<'a>(
    status: u16,
    request: &'a HeaderMap,
    response: &'a HeaderMap,
) -> Exchange<'a> {
    Exchange {
        method: &http::Method::GET,
        path: "/",
        request,
        status: http::StatusCode::from_u16(status).expect("a status"),
        response,
        requested: at(0),
        received: at(0),
        client: ClientRefresh::Honor,
        chance: 0.5,
    }
}
