//! Asking the app whether a stored response still holds (RFC 9111 §4.3).

use super::{Exchange, Policy, Stored};
use http::HeaderMap;

/// Replaces the client's preconditions in `request` by ones for `stored` (RFC 9111 §4.3.1).
///
/// Returns whether there is anything to validate with; if not, `request` is left unconditional.
pub fn make_conditional(request: &mut HeaderMap, stored: &Stored) -> bool {
    let _ = (request, stored);
    unimplemented!()
}

/// Takes the client's preconditions and ranges out, so that a fetch brings the whole response.
pub fn make_unconditional(request: &mut HeaderMap) {
    let _ = request;
    unimplemented!()
}

/// Whether a 304 to our conditional request is about `stored` (RFC 9111 §4.3.4).
#[must_use]
pub fn confirms(response: &HeaderMap, stored: &Stored) -> bool {
    let _ = (response, stored);
    unimplemented!()
}

/// `stored` with the fields of a confirming 304 merged in (RFC 9111 §3.2) and its lifetime begun
/// anew. `None` when the 304 itself forbids keeping it any longer (it may still be served once).
#[must_use]
pub fn freshen(stored: &Stored, exchange: &Exchange<'_>, policy: &Policy) -> Option<Stored> {
    let _ = (stored, exchange, policy);
    unimplemented!()
}

/// x
pub enum Heeded {
    /// x
    Unchanged,
    /// x
    Freshened(Box<Stored>),
    /// x
    Spoiled,
}
/// x
pub fn heed_head(stored: &Stored, exchange: &Exchange<'_>, policy: &Policy) -> Heeded {
    let _ = (stored, exchange, policy);
    Heeded::Unchanged
}
