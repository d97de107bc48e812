//! Who may ask: no page of another site, no name that an attacker could point at us, and the token
//! where strangers can reach the port.

use super::problem::Problem;
use crate::secret::{self, Secret};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{Request, StatusCode, Uri};
use std::net::{IpAddr, SocketAddr};

/// Checks `Host` (DNS rebinding) and `Origin` (cross-site requests), on loopback as well: a browser
/// on this machine runs the pages of strangers.
pub(super) fn same_site<B>(request: &Request<B>, address: SocketAddr) -> Result<(), Problem> {
    let host = host(request).filter(|host| host_allowed(host, address));
    let Some(host) = host else {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "foreign-host",
            "The Host field names something that this port is not known as.",
            format!("Ask http://{address}/ by its address."),
        ));
    };
    let mut origins = request.headers().get_all(ORIGIN).iter();
    let same = origins.all(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(&host))
    });
    if same {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "foreign-origin",
        "A page of another site may not use the admin port.",
        "Ask from a program, or from a page of this port.",
    ))
}

/// Checks the bearer token: asked for wherever one is configured, and required off loopback.
pub(super) fn token<B>(
    request: &Request<B>,
    address: SocketAddr,
    token: Option<&Secret>,
) -> Result<(), Problem> {
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        if address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "no-token-configured",
            "This port is not on loopback and no token is configured.",
            "Set admin.token.",
        ));
    };
    let mut given = request.headers().get_all(AUTHORIZATION).iter();
    let matches = match (given.next(), given.next()) {
        (Some(one), None) => {
            secret::bearer(one.as_bytes()).is_some_and(|given| token.matches(given))
        }
        _ => false,
    };
    if matches {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNAUTHORIZED,
        "token-refused",
        "The token is missing or wrong.",
        "Send Authorization: Bearer with admin.token.",
    ))
}

/// Exactly one Host, in agreement with an absolute target (RFC 9112 §3.2).
fn host<B>(request: &Request<B>) -> Option<String> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    let agrees = match request.uri().authority() {
        Some(authority) => authority.as_str().eq_ignore_ascii_case(host),
        None => true,
    };
    (hosts.next().is_none() && agrees).then(|| host.to_owned())
}

/// Loopback by name or address always. On another address also any address, and names that nobody
/// outside can have pointed at us: single labels (compose, Kubernetes) and private suffixes.
fn host_allowed(host: &str, address: SocketAddr) -> bool {
    let Ok(uri) = host.parse::<Uri>() else {
        return false;
    };
    let Some(name) = uri.authority().filter(|a| !a.as_str().contains('@')) else {
        return false;
    };
    let name = name.host().to_ascii_lowercase();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let outside = !address.ip().to_canonical().is_loopback();
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return outside || ip.to_canonical().is_loopback();
    }
    let private = [".local", ".internal", ".localdomain"];
    name == "localhost"
        || outside && (!name.contains('.') || private.iter().any(|end| name.ends_with(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_stranger_controls_is_refused() {
        let loopback: SocketAddr = "127.0.0.1:9800".parse().unwrap();
        let everywhere: SocketAddr = "0.0.0.0:9800".parse().unwrap();
        for (host, on_loopback, on_others) in [
            ("localhost:9800", true, true),
            ("LOCALHOST", true, true),
            ("127.0.0.1:9800", true, true),
            ("127.8.8.8", true, true),
            ("[::1]:9800", true, true),
            ("10.0.0.7:9800", false, true),
            ("larder:9800", false, true),
            ("larder.shop.svc.cluster.local", false, true),
            ("evil.example:9800", false, false),
            ("localhost.evil.example", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("user@localhost", false, false),
            ("localhost/..", false, false),
            ("", false, false),
        ] {
            assert_eq!(host_allowed(host, loopback), on_loopback, "{host}");
            assert_eq!(host_allowed(host, everywhere), on_others, "{host}");
        }
    }
}
