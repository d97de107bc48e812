//! The credential that a request carries, verified or not, as a digest. Pure; never the credential
//! itself.

use aws_lc_rs::digest;
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};

/// Names of cookies that hold a session, without `__Secure-` or `__Host-` and without the number of
/// a part (`.0`, `.1`). Supabase's `sb-PROJECT-auth-token` is known by its ends.
const SESSION_COOKIES: &[&str] = &[
    "__session",
    "_session_id",
    "access_token",
    "auth_token",
    "authjs.session-token",
    "better-auth.session_token",
    "connect.sid",
    "jsessionid",
    "laravel_session",
    "next-auth.session-token",
    "phpsessid",
    "session",
    "session_id",
    "sessionid",
    "sid",
    "token",
];

/// A bearer token of a request: the scheme in any case (RFC 9110 §11.1), one Authorization line.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (line, None) = (lines.next()?, lines.next()) else {
        return None;
    };
    let (scheme, token) = line.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// SHA-256 over a label and the credential: the bearer token, else the whole Authorization field,
/// else the session cookies. Several Authorization lines can be read in two ways: none.
pub(super) fn digest(headers: &HeaderMap) -> Option<[u8; 32]> {
    if let Some(token) = bearer(headers) {
        return Some(hash(&[b"larder bearer", token.as_bytes()]));
    }
    let mut authorization = headers.get_all(AUTHORIZATION).iter();
    match (authorization.next(), authorization.next()) {
        (Some(only), None) => Some(hash(&[b"larder authorization", only.as_bytes()])),
        (Some(_), Some(_)) => None,
        (None, _) => session(headers),
    }
}

fn session(headers: &HeaderMap) -> Option<[u8; 32]> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut cookies: Vec<(&[u8], &[u8])> = pairs
        .filter_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (pair.get(..at)?, pair.get(at + 1..)?);
            (is_session(name) && !value.is_empty()).then_some((name, value))
        })
        .collect();
    if cookies.is_empty() {
        return None;
    }
    // Clients need not keep an order; the sort is stable, so that one name twice keeps its own.
    cookies.sort_by_key(|(name, _)| *name);
    let mut parts: Vec<&[u8]> = vec![b"larder cookie"];
    parts.extend(cookies.iter().flat_map(|(name, value)| [*name, *value]));
    Some(hash(&parts))
}

fn is_session(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else {
        return false;
    };
    let name = name.to_ascii_lowercase();
    let name = ["__secure-", "__host-"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(&name);
    let name = match name.rsplit_once('.') {
        Some((whole, part)) if part.bytes().all(|byte| byte.is_ascii_digit()) => whole,
        _ => name,
    };
    SESSION_COOKIES.contains(&name) || (name.starts_with("sb-") && name.ends_with("-auth-token"))
}

/// Each part with its length before it, so that no part can reach into the next.
pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn of(fields: &[(HeaderName, &str)]) -> Option<[u8; 32]> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        digest(&headers)
    }

    #[test]
    fn the_scheme_is_case_insensitive_and_the_token_is_not() {
        let token = of(&[(AUTHORIZATION, "Bearer abc")]);
        assert!(token.is_some());
        assert_eq!(token, of(&[(AUTHORIZATION, "bEARER  abc ")]));
        assert_ne!(token, of(&[(AUTHORIZATION, "Bearer aBc")]));
        assert_ne!(token, of(&[(AUTHORIZATION, "Basic abc")]));
    }

    #[test]
    fn two_authorization_lines_are_no_credential() {
        let twice = [(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer b")];
        assert_eq!(of(&twice), None);
    }

    #[test]
    fn a_session_cookie_stands_in_for_a_token() {
        for cookie in [
            "sid=1",
            "theme=dark; connect.sid=s%3Aabc",
            "__Secure-next-auth.session-token=x",
            "__Host-session=x",
            "sb-abcdef-auth-token=base64-e30",
            "sb-abcdef-auth-token.0=a; sb-abcdef-auth-token.1=b",
        ] {
            assert!(of(&[(COOKIE, cookie)]).is_some(), "{cookie}");
        }
        for cookie in ["theme=dark", "sid=", "sid", "residue=1", ""] {
            assert_eq!(of(&[(COOKIE, cookie)]), None, "{cookie}");
        }
    }

    #[test]
    fn every_session_cookie_counts_in_any_order_and_over_any_lines() {
        let one = of(&[(COOKIE, "sid=1; session=2")]);
        assert_eq!(one, of(&[(COOKIE, "session=2"), (COOKIE, "sid=1")]));
        assert_eq!(one, of(&[(COOKIE, "a=b; session=2;sid=1")]));
        assert_ne!(one, of(&[(COOKIE, "sid=1")]));
        assert_ne!(of(&[(COOKIE, "sid=1")]), of(&[(COOKIE, "session=1")]));
        assert_ne!(of(&[(COOKIE, "sid=1")]), of(&[(AUTHORIZATION, "Bearer 1")]));
    }
}
