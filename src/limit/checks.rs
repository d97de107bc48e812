//! Which limits a request falls under, and whose counters they are. Pure; counts nothing.

use super::Check;
use crate::config::settings::{Audience, Limit, LimitPer, Limits};
use crate::identity::Caller;
use crate::route::Target;
use crate::semantics::line::{address, hex};
use http::Method;
use std::net::IpAddr;

/// Endings of paths that are static files. They are left out of the tiers unless `limits.paths`
/// says otherwise: one page pulls forty of them.
const STATIC_EXTENSIONS: &[&str] = &[
    "avif", "css", "eot", "gif", "ico", "jpeg", "jpg", "js", "map", "mjs", "mp3", "mp4", "otf",
    "png", "svg", "ttf", "wasm", "webm", "webp", "woff", "woff2",
];

/// The counters of a request: those of the first tier that fits the caller, if tiers apply to the
/// path, then those of the route's own limits (`route_limits`, positions in `limits.all`).
///
/// The caller's token is looked at only when a tier or a limit asks for a user.
#[must_use]
pub fn checks<'a>(
    limits: &'a Limits,
    route_limits: &[usize],
    method: &Method,
    target: &Target<'_>,
    caller: &Caller<'_>,
) -> Vec<Check<'a>> {
    let mut checks = Vec::new();
    each(
        limits,
        route_limits,
        method,
        target,
        caller,
        |limit, kind| {
            for (per, name) in limit.per.iter().zip(&limit.names) {
                checks.push(Check::new(limit, name, |subject| {
                    write_subject(kind, *per, caller, subject);
                }));
            }
        },
    );
    checks
}

/// Shows `take` each limit that applies, and of which kind it is.
fn each<'a>(
    limits: &'a Limits,
    route_limits: &[usize],
    method: &Method,
    target: &Target<'_>,
    caller: &Caller<'_>,
    mut take: impl FnMut(&'a Limit, &'static str),
) {
    if tiers_apply(limits, method, target) {
        let tier = limits.all.iter().take(limits.tiers);
        if let Some(tier) = tier.into_iter().find(|tier| fits(&tier.audience, caller)) {
            take(tier, "tier");
        }
    }
    for limit in route_limits.iter().filter_map(|at| limits.all.get(*at)) {
        take(limit, "route");
    }
}

fn tiers_apply(limits: &Limits, method: &Method, target: &Target<'_>) -> bool {
    match &limits.paths {
        Some(paths) => paths
            .iter()
            .any(|path| path.matches(&target.decoded).is_some()),
        None => !is_static(method, target),
    }
}

/// Only a plain read of a plain path is taken for a static file: `/api/pay;.css` is not, or every
/// limit could be dodged by an ending.
fn is_static(method: &Method, target: &Target<'_>) -> bool {
    let plain = !target.ambiguous && (method == Method::GET || method == Method::HEAD);
    let file = target.decoded.rsplit('/').next().unwrap_or_default();
    plain
        && file.rsplit_once('.').is_some_and(|(_, extension)| {
            let known = |known: &&str| known.eq_ignore_ascii_case(extension);
            STATIC_EXTENSIONS.iter().any(known)
        })
}

fn fits(audience: &Audience, caller: &Caller<'_>) -> bool {
    match audience {
        Audience::Anyone => true,
        Audience::User => caller.user().is_some(),
        Audience::Role(role) => (caller.user()).is_some_and(|user| user.roles.contains(role)),
    }
}

/// Whose counter it is. A tier and a route may have the same name, and a user's id may look like an
/// address: `kind` and the dimension are part of the subject. Whoever has no user or no credential is
/// counted by address; the two cannot be confused.
fn write_subject(kind: &str, per: LimitPer, caller: &Caller<'_>, subject: &mut Vec<u8>) {
    let mut put = |sort: &str, whose: &[u8]| {
        for part in [kind, ":", per.word(), ":", sort, ":"] {
            subject.extend_from_slice(part.as_bytes());
        }
        subject.extend_from_slice(whose);
    };
    match per {
        LimitPer::User if let Some(user) = caller.user() => {
            return put("u", &caller.pseudonym(user.id.as_bytes()));
        }
        LimitPer::Token if let Some(token) = caller.token() => {
            return put("t", hex(&token).as_bytes());
        }
        _ => {}
    }
    match caller.ip() {
        // Written without the formatting machinery: it is asked for with nearly every request.
        ip @ IpAddr::V4(_) => put("a", &caller.pseudonym(address(ip).as_bytes())),
        IpAddr::V6(_) => put("a", &caller.pseudonym(caller.network().as_bytes())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::settings::{LimitMode, Rate, RedisDown};
    use crate::identity::{Identity, IdentitySettings, JwtSource};
    use crate::secret::Secret;
    use crate::semantics::Timestamp;
    use http::HeaderMap;
    use http::header::AUTHORIZATION;
    use jsonwebtoken::{EncodingKey, Header};
    use std::num::NonZeroU32;
    use std::time::Duration;

    const SECRET: &str = "a secret of the app";

    /// ExoDrive's tiers and route limits.
    pub(in crate::limit) fn exodrive() -> Limits {
        let limit = |name: &str, audience, quota, seconds, per: &[LimitPer]| {
            let rate = Rate {
                quota: NonZeroU32::new(quota).unwrap(),
                window: Duration::from_secs(seconds),
            };
            Limit::new(name.into(), audience, rate, per)
        };
        let user = [LimitPer::User];
        let all = vec![
            limit("admin", Audience::Role("admin".into()), 300, 60, &user),
            limit("authenticated", Audience::User, 120, 60, &user),
            limit("public", Audience::Anyone, 60, 60, &[LimitPer::Ip]),
            limit("booking", Audience::Anyone, 10, 3_600, &user),
            limit(
                "payment",
                Audience::Anyone,
                10,
                60,
                &[LimitPer::User, LimitPer::Ip],
            ),
        ];
        Limits {
            mode: LimitMode::Enforce,
            redis_down: RedisDown::Local,
            paths: None,
            all,
            tiers: 3,
        }
    }

    pub(in crate::limit) const BOOKING: &[usize] = &[3];
    pub(in crate::limit) const PAYMENT: &[usize] = &[4];

    fn identity() -> Identity {
        Identity::new(IdentitySettings {
            jwt: Some(JwtSource::Secret(Secret::new(SECRET))),
            role: Some(vec!["role".into()]),
            ..IdentitySettings::default()
        })
    }

    fn token(user: &str, role: &str, secret: &str) -> HeaderMap {
        let claims = serde_json::json!({ "sub": user, "role": role });
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        headers
    }

    fn target(path: &str, ambiguous: bool) -> Target<'_> {
        Target {
            path,
            query: None,
            decoded: path.into(),
            ambiguous,
        }
    }

    fn of(headers: &HeaderMap, path: &str, route: &[usize]) -> Vec<(String, String)> {
        asked(
            &exodrive(),
            &Method::GET,
            &target(path, false),
            headers,
            route,
        )
    }

    fn asked(
        limits: &Limits,
        method: &Method,
        target: &Target<'_>,
        headers: &HeaderMap,
        route: &[usize],
    ) -> Vec<(String, String)> {
        let identity = identity();
        let peer = "203.0.113.9:1".parse().unwrap();
        let caller = identity.caller(peer, headers, Timestamp::from_millis(0));
        let mut asked = Vec::new();
        each(limits, route, method, target, &caller, |limit, kind| {
            for (per, name) in limit.per.iter().zip(&limit.names) {
                let mut subject = Vec::new();
                write_subject(kind, *per, &caller, &mut subject);
                asked.push((name.to_string(), String::from_utf8(subject).unwrap()));
            }
        });
        let checks = checks(limits, route, method, target, &caller);
        assert_eq!(checks.len(), asked.len());
        asked
    }

    fn per(limit: &Limit, per: &[LimitPer]) -> Limit {
        Limit::new(limit.name.clone(), limit.audience.clone(), limit.rate, per)
    }

    fn pair(name: &str, subject: &str) -> (String, String) {
        (name.into(), subject.into())
    }

    #[test]
    fn the_first_tier_that_fits_the_caller_applies() {
        let api = "/api/fleet";
        assert_eq!(
            of(&HeaderMap::new(), api, &[]),
            [pair("public", "tier:ip:a:203.0.113.9")]
        );
        assert_eq!(
            of(&token("u1", "", SECRET), api, &[]),
            [pair("authenticated", "tier:user:u:u1")]
        );
        assert_eq!(
            of(&token("u1", "admin", SECRET), api, &[]),
            [pair("admin", "tier:user:u:u1")]
        );
        let forged = token("u1", "admin", "another secret");
        assert_eq!(
            of(&forged, api, &[]),
            [pair("public", "tier:ip:a:203.0.113.9")]
        );
    }

    #[test]
    fn route_limits_come_on_top_and_a_dual_limit_is_two_counters() {
        let user = token("u1", "", SECRET);
        assert_eq!(
            of(&user, "/api/payments/1", PAYMENT),
            [
                pair("authenticated", "tier:user:u:u1"),
                pair("payment-user", "route:user:u:u1"),
                pair("payment-ip", "route:ip:a:203.0.113.9"),
            ]
        );
    }

    #[test]
    fn a_caller_without_a_user_is_counted_by_address_and_cannot_be_mistaken_for_one() {
        let anonymous = of(&HeaderMap::new(), "/api/bookings", BOOKING);
        assert_eq!(anonymous[1], pair("booking", "route:user:a:203.0.113.9"));
        let named = of(&token("203.0.113.9", "", SECRET), "/api/bookings", BOOKING);
        assert_eq!(named[1], pair("booking", "route:user:u:203.0.113.9"));
    }

    #[test]
    fn static_files_are_left_out_of_the_tiers_but_an_ending_dodges_nothing() {
        let limits = exodrive();
        let counted = |method: &Method, path: &str, ambiguous: bool| {
            let target = target(path, ambiguous);
            !asked(&limits, method, &target, &HeaderMap::new(), &[]).is_empty()
        };
        assert!(!counted(&Method::GET, "/assets/app.JS", false));
        assert!(!counted(&Method::HEAD, "/favicon.ico", false));
        assert!(counted(&Method::POST, "/api/payments/x.css", false));
        assert!(counted(&Method::GET, "/api/fleet;.css", true));
        assert!(counted(&Method::GET, "/api/v1.js/fleet", false));
        assert!(counted(&Method::GET, "/report.pdf", false));
        assert!(counted(&Method::GET, "/css", false));
        let image = target("/api/cars/1/photo.jpg", false);
        let route = asked(&limits, &Method::GET, &image, &HeaderMap::new(), BOOKING);
        assert_eq!(route.len(), 1);
    }

    #[test]
    fn tiers_do_not_apply_beyond_their_paths() {
        let limits = Limits {
            paths: Some(Vec::new()),
            ..exodrive()
        };
        let fleet = target("/api/fleet", false);
        let names = asked(&limits, &Method::GET, &fleet, &HeaderMap::new(), BOOKING);
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].0, "booking");
    }

    #[test]
    fn a_token_limit_counts_by_digest() {
        let mut limits = exodrive();
        limits.all[2] = per(&limits.all[2], &[LimitPer::Token]);
        let fleet = target("/api/fleet", false);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer opaque".parse().unwrap());
        let subject = asked(&limits, &Method::GET, &fleet, &headers, &[])[0]
            .1
            .clone();
        assert!(subject.starts_with("tier:token:t:") && !subject.contains("opaque"));
        let without = asked(&limits, &Method::GET, &fleet, &HeaderMap::new(), &[]);
        assert_eq!(without, [pair("public", "tier:token:a:203.0.113.9")]);
    }

    #[test]
    fn one_dimension_named_twice_is_one_counter() {
        let mut limits = exodrive();
        limits.all[2] = per(&limits.all[2], &[LimitPer::Ip, LimitPer::Ip]);
        let fleet = target("/api/fleet", false);
        assert_eq!(
            asked(&limits, &Method::GET, &fleet, &HeaderMap::new(), &[]).len(),
            1
        );
    }
}
