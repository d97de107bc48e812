//! What `tests/fuzz` reaches of the strict look at answers. Nothing in larder uses it.

use super::check;
use http::{HeaderMap, Method, Response};

/// The fields of an answer that is let in, repaired; whether it says where it ends, and whether its
/// connection may serve again.
pub fn checked(method: &Method, response: Response<()>) -> Option<(HeaderMap, bool, bool)> {
    let (mut parts, ()) = response.into_parts();
    let framing = check::head(method, false, &mut parts).ok()?;
    let _ = check::keep_alive_hint(&parts.headers);
    Some((
        parts.headers,
        framing.content.is_delimited(),
        framing.reusable,
    ))
}
