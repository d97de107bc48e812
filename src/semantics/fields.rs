//! Fields that belong to one connection, and lists of tokens (RFC 9110 §5.6, §7.6.1).

use http::{HeaderMap, HeaderName};

/// Removes hop-by-hop fields and those that `Connection` names; keeps `TE: trailers`.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let _ = headers;
    unimplemented!()
}

/// The members of a comma-separated field over all its lines, trimmed, empty ones left out.
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let _ = (headers, name);
    std::iter::empty()
}

/// Whether a comma-separated field has this member, in any case.
#[must_use]
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    list(headers, name).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
}
