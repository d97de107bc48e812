//! May what a POST was answered with serve later GETs (RFC 9110 §9.3.3)?
//!
//! Only where the app says both that it is the target's own representation and how long it holds.
//! Never decides whether it may be stored: that is [`super::storable`]'s.

use super::directives::Directives;
use super::freshness::stated;
use super::invalidation::is_content_of;
use super::{Exchange, Policy};
use http::{Method, StatusCode};

/// Whether the content is what a GET of `target` (path and query) at `scheme` and `authority` would
/// bring: a 200 to POST with a lifetime of its own, and a `Content-Location` that is the target.
#[must_use]
pub fn encloses_target(
    exchange: &Exchange<'_>,
    scheme: &str,
    authority: &str,
    target: &str,
    policy: &Policy,
) -> bool {
    let lifetime = || {
        let said = Directives::of_response(exchange.response);
        stated(exchange.response, &said, exchange.received)
    };
    *exchange.method == Method::POST
        && exchange.status == StatusCode::OK
        && is_content_of(scheme, authority, target, exchange.response)
        // A lifetime that is the route's own is for what was asked for by GET.
        && !policy.override_app
        && lifetime().is_some_and(|fresh| !fresh.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::Timestamp;
    use crate::semantics::reuse::ClientRefresh;
    use http::HeaderMap;

    fn encloses(method: Method, status: u16, fields: &[(&'static str, &'static str)]) -> bool {
        let mut response = HeaderMap::new();
        for (name, value) in fields {
            response.append(*name, http::HeaderValue::from_static(value));
        }
        let exchange = Exchange {
            method: &method,
            path: "/a",
            request: &HeaderMap::new(),
            status: StatusCode::from_u16(status).unwrap(),
            response: &response,
            requested: Timestamp::from_millis(1_000_000),
            received: Timestamp::from_millis(1_000_000),
            client: ClientRefresh::Ignore,
            chance: 0.0,
        };
        encloses_target(&exchange, "http", "a", "/a?b", &Policy::default())
    }

    #[test]
    fn only_a_good_post_that_names_its_own_target_and_a_lifetime() {
        let fresh = ("cache-control", "max-age=60");
        for location in ["", "/a?b", "?b", "a?b", "http://A:80/a?b", "//a/a?b#c"] {
            let fields = [fresh, ("content-location", location)];
            assert!(encloses(Method::POST, 200, &fields), "{location}");
            assert!(!encloses(Method::PUT, 200, &fields));
            assert!(!encloses(Method::POST, 201, &fields));
        }
        for location in ["/a", "/b", "http://b/a?b", "ftp://a/a?b"] {
            let fields = [fresh, ("content-location", location)];
            assert!(!encloses(Method::POST, 200, &fields), "{location}");
        }
        let own = ("content-location", "/a?b");
        assert!(!encloses(Method::POST, 200, &[fresh]));
        assert!(!encloses(Method::POST, 200, &[own]));
        assert!(!encloses(
            Method::POST,
            200,
            &[("cache-control", "max-age=0"), own]
        ));
        let two = [fresh, own, ("content-location", "/b")];
        assert!(!encloses(Method::POST, 200, &two), "several say nothing");
    }
}
