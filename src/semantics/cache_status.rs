//! Our member of `Cache-Status` (RFC 9211).
//!
//! Writes down what others decided; never touches what caches before us wrote.

use super::line::Line;
use super::{Outcome, Reason};
use http::{HeaderName, StatusCode};

/// The field (RFC 9211 §2): a list, ours the member nearest to the client.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// The longest member there can be.
pub const MEMBER_BYTES_MAX: usize = 112;
/// What a structured integer can hold (RFC 9651 §3.3.1).
const INTEGER_MAX: u64 = 999_999_999_999_999;

/// What became of a request, as `Cache-Status` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatus {
    /// Hit is `hit`, and so is stale unless the app was asked first; the others are `fwd`.
    pub outcome: Outcome,
    /// Becomes `detail`, and tells the kinds of `fwd` apart.
    pub reason: Reason,
    /// Why the request went on to the app, where `reason` tells what came of it.
    pub forwarded: Option<Reason>,
    /// The app's status, where it was asked and answered.
    pub fwd_status: Option<StatusCode>,
    /// Whether the app's answer is being stored.
    pub stored: bool,
    /// Whether another request's fetch gave the answer.
    pub collapsed: bool,
    /// Seconds of freshness left, negative once stale; none where nothing is stored.
    pub ttl: Option<i64>,
}

impl CacheStatus {
    /// One with just an outcome and its reason.
    #[must_use]
    pub const fn new(outcome: Outcome, reason: Reason) -> Self {
        Self {
            outcome,
            reason,
            forwarded: None,
            fwd_status: None,
            stored: false,
            collapsed: false,
            ttl: None,
        }
    }

    /// The member, e.g. `larder; hit; ttl=287; detail=memory`; `None` for what we refuse
    /// ourselves, since no cache took part in it.
    #[must_use]
    pub fn member(&self) -> Option<Line<MEMBER_BYTES_MAX>> {
        let mut member = Line::<MEMBER_BYTES_MAX>::new();
        member.push("larder");
        match self.forward() {
            None if self.outcome == Outcome::Refused => return None,
            None => member.push("; hit"),
            Some(why) => {
                member.push("; fwd=");
                member.push(why);
                if let Some(status) = self.fwd_status {
                    member.push("; fwd-status=");
                    member.push(status.as_str());
                }
                if self.stored {
                    member.push("; stored");
                }
                if self.collapsed {
                    member.push("; collapsed");
                }
            }
        }
        if let Some(ttl) = self.ttl {
            member.push(if ttl < 0 { "; ttl=-" } else { "; ttl=" });
            member.push_number(ttl.unsigned_abs().min(INTEGER_MAX));
        }
        member.push("; detail=");
        member.push(self.reason.word());
        Some(member)
    }

    /// The `fwd` token (RFC 9211 §2.2); `None` when the request was not forwarded for this answer.
    fn forward(&self) -> Option<&'static str> {
        match (self.outcome, self.forwarded) {
            (Outcome::Hit | Outcome::Refused, _) | (Outcome::Stale, None) => None,
            (Outcome::Stale | Outcome::Revalidated, why) => Some(match why {
                Some(Reason::Request) => "request",
                _ => "stale",
            }),
            (Outcome::Miss, _) => Some(missed(self.reason)),
            // That the answer was not kept is no reason for having asked for it.
            (Outcome::Bypass, Some(why)) => Some(missed(why)),
            (Outcome::Bypass, None) => Some(match self.reason {
                Reason::Method => "method",
                Reason::Request => "request",
                _ => "bypass",
            }),
        }
    }
}

/// What the store lacked, as a `fwd` token.
const fn missed(why: Reason) -> &'static str {
    match why {
        Reason::Cold | Reason::Purged | Reason::Evicted => "uri-miss",
        Reason::Vary => "vary-miss",
        Reason::Expired | Reason::SoftPurged | Reason::NotModified => "stale",
        Reason::Request => "request",
        Reason::Range => "partial",
        _ => "miss",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(status: CacheStatus) -> String {
        String::from_utf8(status.member().unwrap().as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_hit_tells_its_lifetime_rfc9211_2_1() {
        let hit = CacheStatus {
            ttl: Some(287),
            ..CacheStatus::new(Outcome::Hit, Reason::Memory)
        };
        assert_eq!(text(hit), "larder; hit; ttl=287; detail=memory");
        let stale = CacheStatus {
            ttl: Some(-3),
            ..CacheStatus::new(Outcome::Stale, Reason::Revalidating)
        };
        assert_eq!(text(stale), "larder; hit; ttl=-3; detail=revalidating");
        let stand_in = CacheStatus {
            ttl: Some(-3),
            fwd_status: Some(StatusCode::BAD_GATEWAY),
            forwarded: Some(Reason::Expired),
            ..CacheStatus::new(Outcome::Stale, Reason::AppError)
        };
        assert_eq!(
            text(stand_in),
            "larder; fwd=stale; fwd-status=502; ttl=-3; detail=app-error"
        );
    }

    #[test]
    fn a_forwarded_request_tells_why_rfc9211_2_2() {
        let miss = CacheStatus {
            fwd_status: Some(StatusCode::OK),
            stored: true,
            ttl: Some(300),
            ..CacheStatus::new(Outcome::Miss, Reason::Cold)
        };
        assert_eq!(
            text(miss),
            "larder; fwd=uri-miss; fwd-status=200; stored; ttl=300; detail=cold"
        );
        for (outcome, reason, expected) in [
            (
                Outcome::Miss,
                Reason::Vary,
                "larder; fwd=vary-miss; detail=vary",
            ),
            (
                Outcome::Miss,
                Reason::Expired,
                "larder; fwd=stale; detail=expired",
            ),
            (
                Outcome::Miss,
                Reason::Request,
                "larder; fwd=request; detail=request",
            ),
            (
                Outcome::Miss,
                Reason::Range,
                "larder; fwd=partial; detail=range",
            ),
            (
                Outcome::Miss,
                Reason::CollapsedFailed,
                "larder; fwd=miss; detail=collapsed-failed",
            ),
            (
                Outcome::Bypass,
                Reason::Method,
                "larder; fwd=method; detail=method",
            ),
            (
                Outcome::Bypass,
                Reason::SetCookie,
                "larder; fwd=bypass; detail=set-cookie",
            ),
            (
                Outcome::Revalidated,
                Reason::NotModified,
                "larder; fwd=stale; detail=not-modified",
            ),
        ] {
            assert_eq!(text(CacheStatus::new(outcome, reason)), expected);
        }
        let private = CacheStatus {
            forwarded: Some(Reason::Cold),
            ..CacheStatus::new(Outcome::Bypass, Reason::Private)
        };
        assert_eq!(text(private), "larder; fwd=uri-miss; detail=private");
    }

    #[test]
    fn hit_and_fwd_exclude_each_other_and_every_member_is_a_structured_item() {
        for outcome in Outcome::ALL {
            for reason in Reason::ALL {
                let status = CacheStatus {
                    fwd_status: Some(StatusCode::OK),
                    stored: true,
                    collapsed: true,
                    ttl: Some(i64::MIN),
                    ..CacheStatus::new(outcome, *reason)
                };
                let Some(member) = status.member() else {
                    assert_eq!(outcome, Outcome::Refused);
                    continue;
                };
                let list: sfv::List = sfv::Parser::new(member.as_bytes()).parse().unwrap();
                assert_eq!(list.len(), 1);
                let text = std::str::from_utf8(member.as_bytes()).unwrap();
                assert!(text.len() <= 112, "{text}");
                assert_ne!(text.contains("; hit"), text.contains("fwd"), "{text}");
            }
        }
    }
}
