//! Which limits a request falls under, and whose counters they are. Pure; counts nothing.

use super::Check;
use crate::config::settings::{Audience, Limit, LimitPer, Limits};
use crate::identity::Caller;
use crate::route::Target;
use http::Method;

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
    if tiers_apply(limits, method, target) {
        let tier = limits.all.iter().take(limits.tiers);
        if let Some(tier) = tier.into_iter().find(|tier| fits(&tier.audience, caller)) {
            add(&mut checks, tier, "tier", caller);
        }
    }
    for limit in route_limits.iter().filter_map(|at| limits.all.get(*at)) {
        add(&mut checks, limit, "route", caller);
    }
    checks
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

/// One counter for each member of `per`. A tier and a route may have the same name, and a user's id
/// may look like an address: `kind` and the dimension are part of the subject.
fn add<'a>(checks: &mut Vec<Check<'a>>, limit: &'a Limit, kind: &str, caller: &Caller<'_>) {
    for (position, per) in limit.per.iter().enumerate() {
        if limit
            .per
            .iter()
            .take(position)
            .any(|earlier| earlier == per)
        {
            continue;
        }
        let name = match limit.per.len() {
            1 => limit.name.clone(),
            _ => format!("{}-{}", limit.name, word(*per)),
        };
        let subject = format!("{kind}:{}:{}", word(*per), subject(*per, caller));
        checks.push(Check {
            limit,
            name,
            subject,
        });
    }
}

const fn word(per: LimitPer) -> &'static str {
    match per {
        LimitPer::Ip => "ip",
        LimitPer::User => "user",
        LimitPer::Token => "token",
    }
}

/// Whoever has no user or no credential is counted by address; the two cannot be confused.
fn subject(per: LimitPer, caller: &Caller<'_>) -> String {
    let own = match per {
        LimitPer::Ip => None,
        LimitPer::User => caller.user().map(|user| format!("u:{}", user.id)),
        LimitPer::Token => caller.token().map(|token| {
            let hex: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("t:{hex}")
        }),
    };
    own.unwrap_or_else(|| format!("a:{}", caller.network()))
}
