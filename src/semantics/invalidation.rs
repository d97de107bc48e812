//! What an unsafe request invalidates (RFC 9111 §4.4).

use http::{HeaderMap, Method, StatusCode};

/// The request targets (path and query) that this exchange invalidates: its own, and Location and
/// Content-Location where they are of the same origin. Empty for safe methods and for errors.
#[must_use]
pub fn invalidated(
    method: &Method,
    authority: &str,
    target: &str,
    status: StatusCode,
    response: &HeaderMap,
) -> Vec<String> {
    let _ = (method, authority, target, status, response);
    unimplemented!()
}
