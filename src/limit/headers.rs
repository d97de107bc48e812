//! The fields of a response that tell a client where it stands. Pure; decides nothing.
//!
//! `RateLimit-Policy` and `RateLimit` are Structured Field Lists (draft-ietf-httpapi-ratelimit-headers,
//! September 2025); the `X-RateLimit-*` trio shows the strictest counter. Seconds are always rounded
//! up, so that nobody who waits for them comes too early.

use super::{Decision, State};
use crate::config::settings::Headers;
use crate::semantics::Timestamp;
use crate::semantics::line::digits;
use crate::semantics::writing::{Fields, Value};
use http::HeaderName;
use http::header::RETRY_AFTER;
use std::time::Duration;

/// Room for the lists of most requests, in bytes.
const LIST_BYTES: usize = 64;

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Writes the fields of a decision, in the dialects that are spoken. What the app said in the list
/// fields is kept beside ours; the legacy trio is replaced. `Retry-After` is set on a refusal
/// whatever the dialect.
pub fn apply(decision: &Decision, dialects: &Headers, now: Timestamp, fields: &mut impl Fields) {
    if dialects.rate_limit_standard {
        for (name, list) in [
            (RATELIMIT_POLICY, policy(decision)),
            (RATELIMIT, limit(decision)),
        ] {
            if !list.is_empty() {
                fields.add(name, Value::Text(&list));
            }
        }
    }
    let mut put = |name, number| fields.put(name, Value::Text(digits(number).as_bytes()));
    if dialects.rate_limit_legacy
        && let Some(state) = strictest(decision)
    {
        let reset = (now + state.reset + Duration::from_millis(999)).as_secs();
        put(X_RATELIMIT_LIMIT, state.quota.into());
        put(X_RATELIMIT_REMAINING, state.remaining.into());
        put(X_RATELIMIT_RESET, reset);
    }
    if let Some(seconds) = retry_after(decision) {
        put(RETRY_AFTER, seconds);
    }
}

/// `"public";q=60;w=60`: quota and window in seconds of every counter; empty without counters.
#[must_use]
pub fn policy(decision: &Decision) -> Vec<u8> {
    list(decision, |state| {
        let window = seconds(state.window).max(1);
        [(";q=", state.quota.into()), (";w=", window)]
    })
}

/// `"public";r=59;t=42`: what is left of every counter, and in how many seconds there will be more.
#[must_use]
pub fn limit(decision: &Decision) -> Vec<u8> {
    list(decision, |state| {
        let (left, reset) = (state.remaining.into(), seconds(state.reset));
        [(";r=", left), (";t=", reset)]
    })
}

/// Seconds after which a refused request would be admitted if nobody else asked: the latest of the
/// counters that refused, at least one. `None` if it was not refused for a limit.
#[must_use]
pub fn retry_after(decision: &Decision) -> Option<u64> {
    let refusals = decision.states.iter().filter(|state| state.refused);
    let longest = refusals.map(|state| state.reset).max()?;
    (!decision.admitted).then(|| seconds(longest).max(1))
}

/// The counter that stands most in the way: refusing before admitting, then least left, then
/// longest to wait.
#[must_use]
pub fn strictest(decision: &Decision) -> Option<&State> {
    decision.states.iter().min_by_key(|state| {
        (
            !state.refused,
            state.remaining,
            std::cmp::Reverse(state.reset),
        )
    })
}

fn list(decision: &Decision, parameters: impl Fn(&State) -> [(&'static str, u64); 2]) -> Vec<u8> {
    let mut list = Vec::with_capacity(LIST_BYTES);
    for state in &decision.states {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        push_string(&mut list, &state.name);
        for (name, number) in parameters(state) {
            list.extend_from_slice(name.as_bytes());
            list.extend_from_slice(digits(number).as_bytes());
        }
    }
    list
}

/// A Structured Field String (RFC 9651 §3.3.3): printable ASCII, `"` and `\` escaped. Everything
/// else becomes `_`; names are the operator's, so that is a matter of looks.
fn push_string(list: &mut Vec<u8>, text: &str) {
    list.push(b'"');
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(plain) {
        list.extend_from_slice(text.as_bytes());
        return list.push(b'"');
    }
    for character in text.chars() {
        match (character, u8::try_from(character)) {
            ('"' | '\\', Ok(byte)) => list.extend([b'\\', byte]),
            (' '..='~', Ok(byte)) => list.push(byte),
            _ => list.push(b'_'),
        }
    }
    list.push(b'"');
}

/// Whole seconds, rounded up.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Counted;
    use http::HeaderMap;

    fn state(name: &str, quota: u32, remaining: u32, reset: u64, refused: bool) -> State {
        State {
            name: name.into(),
            quota,
            window: Duration::from_secs(60),
            remaining,
            reset: Duration::from_millis(reset),
            refused,
        }
    }

    fn decision(states: Vec<State>) -> Decision {
        Decision {
            admitted: !states.iter().any(|state| state.refused),
            unavailable: false,
            counted: Counted::Shared,
            repeated: false,
            states,
        }
    }

    fn spoken(standard: bool, legacy: bool) -> Headers {
        Headers {
            cache_standard: false,
            cache_legacy: false,
            rate_limit_standard: standard,
            rate_limit_legacy: legacy,
            debug_token: None,
        }
    }

    #[test]
    fn one_limit_is_one_item_in_each_list() {
        let decision = decision(vec![state("public", 60, 59, 41_001, false)]);
        assert_eq!(policy(&decision), b"\"public\";q=60;w=60");
        assert_eq!(limit(&decision), b"\"public\";r=59;t=42");
    }

    #[test]
    fn a_dual_limit_is_two_items_and_the_lists_parse_as_structured_fields() {
        let decision = decision(vec![
            state("payment-user", 10, 3, 1_000, false),
            state("odd \"name\" \\ é\r\n", 10, 0, 2_000, true),
        ]);
        let value = String::from_utf8(limit(&decision)).unwrap();
        let text = value.as_str();
        assert_eq!(
            text,
            "\"payment-user\";r=3;t=1, \"odd \\\"name\\\" \\\\ ___\";r=0;t=2"
        );
        let parsed: sfv::List = sfv::Parser::new(text).parse().unwrap();
        assert_eq!(parsed.len(), 2);
    }

    #[test]
    fn no_counter_means_no_field() {
        let mut fields = HeaderMap::new();
        let now = Timestamp::from_millis(0);
        apply(
            &Decision::uncounted(),
            &spoken(true, true),
            now,
            &mut fields,
        );
        assert!(fields.is_empty());
    }

    #[test]
    fn the_strictest_counter_is_the_legacy_one_and_its_reset_is_never_early() {
        let decision = decision(vec![
            state("payment-user", 10, 7, 50_000, false),
            state("payment-ip", 20, 2, 1_500, false),
        ]);
        let mut fields = HeaderMap::new();
        let now = Timestamp::from_millis(10_600);
        apply(&decision, &spoken(false, true), now, &mut fields);
        assert_eq!(fields[X_RATELIMIT_LIMIT], "20");
        assert_eq!(fields[X_RATELIMIT_REMAINING], "2");
        assert_eq!(fields[X_RATELIMIT_RESET], "13");
        assert!(!fields.contains_key(RATELIMIT));
        assert!(!fields.contains_key(RETRY_AFTER));
    }

    #[test]
    fn retry_after_waits_for_the_slowest_counter_that_refused_and_rounds_up() {
        let decision = decision(vec![
            state("a", 10, 0, 1_001, true),
            state("b", 10, 0, 60_000, false),
            state("c", 10, 0, 3_200, true),
        ]);
        assert_eq!(retry_after(&decision), Some(4));
        let soon = super::tests::decision(vec![state("a", 10, 0, 0, true)]);
        assert_eq!(retry_after(&soon), Some(1));
    }

    #[test]
    fn in_shadow_nobody_is_told_to_wait() {
        let decision = decision(vec![state("a", 10, 0, 1_001, true)])
            .in_mode(crate::config::settings::LimitMode::Shadow);
        assert!(decision.admitted && decision.refusals().next().is_some());
        assert_eq!(retry_after(&decision), None);
    }
}
