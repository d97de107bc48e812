//! Age and remaining lifetime of a stored response (RFC 9111 §4.2).

use super::directives::{Delta, Directives, delta_seconds};
use super::fields::{list, single};
use super::stored::Lifetime;
use super::{Exchange, Timestamp};
use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// The share of the time since the last change that a guessed lifetime has (RFC 9111 §4.2.2).
const HEURISTIC_DIVISOR: u32 = 10;
/// The longest guessed lifetime.
pub const HEURISTIC_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest that a stale response is kept for validation alone.
pub const VALIDATION_KEEP_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest that a response with a validator is kept once stale.
pub const VALIDATION_KEEP_MIN: Duration = Duration::from_secs(10 * 60);
/// How long a stale response without validator is kept for clients that take it (max-stale).
pub const STALE_KEEP: Duration = Duration::from_secs(60);

impl Lifetime {
    /// `current_age` (RFC 9111 §4.2.3).
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Duration {
        self.initial_age.saturating_add(now.since(self.received))
    }

    /// `response_is_fresh` (RFC 9111 §4.2).
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.fresh > self.age(now)
    }

    /// Seconds of freshness left; negative once stale.
    #[must_use]
    pub fn ttl_secs(&self, now: Timestamp) -> i64 {
        let secs = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        secs(self.fresh).saturating_sub(secs(self.age(now)))
    }

    /// Renewed by a use at `now`: fresh for another `ttl`, but never beyond the age `cap`. `None`
    /// when less than a fifth of the `ttl` has gone by, so that not every use is a change.
    #[must_use]
    pub fn slide(&self, ttl: Duration, cap: Duration, now: Timestamp) -> Option<Self> {
        let age = self.age(now);
        let fresh = age.saturating_add(ttl).min(cap);
        let gained = fresh.saturating_sub(self.fresh);
        (gained > ttl / 5 || fresh == cap && gained > Duration::ZERO)
            .then_some(Self { fresh, ..*self })
    }

    /// The same, of no use at or after `end`: when whoever it is for has to prove anew who that is.
    #[must_use]
    pub fn ended_by(self, end: Timestamp) -> Self {
        let most = self.age(end);
        let left = most.saturating_sub(self.fresh);
        Self {
            fresh: self.fresh.min(most),
            stale_while_revalidate: self.stale_while_revalidate.min(left),
            stale_if_error: self.stale_if_error.min(left),
            must_revalidate: self.must_revalidate || most <= self.fresh,
            ..self
        }
    }

    /// Whether to renew it although it is still fresh at `now`: the likelier the nearer its end is and the
    /// longer the app took for it, so that of many who ask at the same time about one does so before the end
    /// (XFetch, Vattani et al., VLDB 2015). `beta` above 0 is how eagerly, 1 the usual measure; `chance` is
    /// even between 0 (not included) and 1.
    #[must_use]
    pub fn is_early(&self, app_time: Duration, beta: f32, chance: f32, now: Timestamp) -> bool {
        let left = self.fresh.saturating_sub(self.age(now)).as_secs_f32();
        left <= app_time.as_secs_f32() * beta * -chance.ln()
    }

    /// How long the response can be of any use from `now`, stale service included: the longest a
    /// store has to keep it. Zero when it can only be validated.
    #[must_use]
    pub fn useful(&self, now: Timestamp) -> Duration {
        self.fresh
            .saturating_add(self.stale_while_revalidate.max(self.stale_if_error))
            .saturating_sub(self.age(now))
    }

    /// How long from `now` a store has to keep a response: as long as it is useful as it is, and a
    /// while longer where it `can_be_validated` (as long again as it was fresh, within bounds). Zero
    /// when it can be of no use any more; never at once for what [`super::storable`] allowed.
    #[must_use]
    pub fn keep(&self, can_be_validated: bool, now: Timestamp) -> Duration {
        let longer = match can_be_validated {
            true => self.fresh.clamp(VALIDATION_KEEP_MIN, VALIDATION_KEEP_MAX),
            false => STALE_KEEP,
        };
        let held = now.since(self.received);
        // What the response was old when it came in is no reason to keep it any shorter afterwards.
        let fresh = self.fresh.saturating_sub(self.initial_age);
        let validated = fresh.saturating_add(longer).saturating_sub(held);
        self.useful(now).max(validated)
    }
}

/// How old a response was when it came in (RFC 9111 §4.2.3), by either of the two ways to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InitialAge {
    /// `corrected_age_value`: what caches before us say, and the time that the app took.
    pub told: Duration,
    /// `apparent_age`: what Date says.
    pub apparent: Duration,
}

impl InitialAge {
    /// `corrected_initial_age`
    pub(super) fn corrected(self) -> Duration {
        self.told.max(self.apparent)
    }
}

/// How old the response of `exchange` was when it came in.
pub(super) fn initial_age(exchange: &Exchange<'_>) -> InitialAge {
    let delay = exchange.received.since(exchange.requested);
    let apparent = date(exchange.response, exchange.received).map_or(0, |date| {
        // Dates have seconds; comparing them with milliseconds would make every response older. What
        // was dated while we waited is no older than the delay, though a second may have begun since.
        match date.as_secs() >= exchange.requested.as_secs() {
            true => 0,
            false => exchange.received.as_secs().saturating_sub(date.as_secs()),
        }
    });
    InitialAge {
        told: age_value(exchange.response).saturating_add(delay),
        apparent: Duration::from_secs(apparent),
    }
}

/// The Age received: its first member, and nothing when that is no number (RFC 9111 §5.1).
fn age_value(response: &HeaderMap) -> Duration {
    list(response, &AGE)
        .next()
        .and_then(delta_seconds)
        .unwrap_or_default()
}

/// The Date of a response that came at `received`, where there is one and it is a date.
pub(super) fn date(response: &HeaderMap, received: Timestamp) -> Option<Timestamp> {
    Timestamp::from_http_date(single(response, &DATE)?, received)
}

/// The lifetime that the app states: s-maxage, max-age or Expires − Date (RFC 9111 §4.2.1). Zero
/// where it is unreadable or contradicted; `None` where nothing is stated.
pub(super) fn stated(
    response: &HeaderMap,
    said: &Directives,
    received: Timestamp,
) -> Option<Duration> {
    let delta = match said.s_maxage {
        Delta::Absent => said.max_age,
        stated => stated,
    };
    if let Some(stated) = delta.stated() {
        return Some(stated);
    }
    if said.targeted || !response.contains_key(EXPIRES) {
        return None;
    }
    let expires =
        single(response, &EXPIRES).and_then(|expires| Timestamp::from_http_date(expires, received));
    Some(expires.map_or(Duration::ZERO, |expires| {
        let date = date(response, received).unwrap_or(received);
        Duration::from_secs(expires.as_secs().saturating_sub(date.as_secs()))
    }))
}

/// A lifetime guessed from Last-Modified (RFC 9111 §4.2.2).
pub(super) fn guessed(response: &HeaderMap, received: Timestamp) -> Option<Duration> {
    let modified = Timestamp::from_http_date(single(response, &LAST_MODIFIED)?, received)?;
    let date = date(response, received).unwrap_or(received);
    let unchanged = date.since(modified);
    (!unchanged.is_zero()).then(|| (unchanged / HEURISTIC_DIVISOR).min(HEURISTIC_MAX))
}

/// Statuses whose responses may be given a guessed lifetime (RFC 9110 §15.1, RFC 7725 §3).
pub(super) const fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 451 | 501
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::directives::DELTA_SECONDS_MAX;
    use crate::semantics::testing::{at, exchange, headers};
    use crate::semantics::{Policy, storable};
    use proptest::prelude::*;

    fn age(response: &str, delay: u64) -> u64 {
        let (request, response) = (HeaderMap::new(), headers(response));
        let exchange = Exchange {
            received: at(delay),
            ..exchange(200, &request, &response)
        };
        initial_age(&exchange).corrected().as_secs()
    }

    #[test]
    fn the_received_age_and_the_delay_count_rfc9111_4_2_3() {
        assert_eq!(age("age: 7", 0), 7);
        assert_eq!(age("age: 7", 3), 10);
        assert_eq!(age("age: 0007", 0), 7);
    }

    #[test]
    fn a_date_in_the_past_makes_a_response_old_and_one_in_the_future_does_not() {
        let dated = |seconds: u64| {
            let date = Timestamp::from_millis(at(0).as_millis() - 1_000 * 100 + 1_000 * seconds)
                .http_date();
            format!("date: {}", date.to_str().unwrap())
        };
        assert_eq!(age(&dated(0), 0), 100);
        assert_eq!(age(&format!("{}\nage: 200", dated(0)), 0), 200);
        assert_eq!(age(&dated(200), 0), 0);
        assert_eq!(age("date: yesterday", 0), 0);
    }

    #[test]
    fn a_second_that_begins_while_the_answer_comes_ages_nothing_rfc9111_4_2_3() {
        let date = at(0).http_date();
        let (request, response) = (
            HeaderMap::new(),
            headers(&format!("date: {}", date.to_str().unwrap())),
        );
        let late = Timestamp::from_millis(at(0).as_millis() + 990);
        let exchange = Exchange {
            requested: late,
            received: late + Duration::from_millis(20),
            ..exchange(200, &request, &response)
        };
        let age = initial_age(&exchange);
        assert_eq!(age.corrected(), Duration::from_millis(20));
        let earlier = Exchange {
            requested: at(1),
            received: at(1),
            ..exchange
        };
        assert_eq!(initial_age(&earlier).corrected().as_secs(), 1);
    }

    #[test]
    fn the_first_member_of_age_counts_and_what_is_no_number_does_not_rfc9111_5_1() {
        assert_eq!(age("age: 7, 9", 0), 7);
        assert_eq!(age("age: 7\nage: 9", 0), 7);
        assert_eq!(age("age: , 7\nage: 9", 0), 7);
        for ignored in ["-7", "7.0", "7;a=b", "x", "", "x, 7"] {
            assert_eq!(age(&format!("age: {ignored}"), 0), 0, "{ignored}");
        }
        assert_eq!(age("age: 99999999999999999999", 0), 1 << 31);
    }

    fn lifetime(initial: Duration, fresh: Duration) -> Lifetime {
        Lifetime {
            received: at(0),
            initial_age: initial,
            fresh,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            must_revalidate: false,
            no_cache: false,
            immutable: false,
        }
    }

    #[test]
    fn a_use_renews_a_lifetime_but_never_beyond_its_cap() {
        let secs = Duration::from_secs;
        let began = lifetime(secs(0), secs(300));
        let slide =
            |lifetime: Lifetime, at_secs| lifetime.slide(secs(300), secs(3_600), at(at_secs));
        // Not with each use.
        assert_eq!(slide(began, 60), None);
        let renewed = slide(began, 61).unwrap();
        assert_eq!(renewed.fresh, secs(361));
        assert_eq!(renewed.received, began.received);
        // The last one ends at the cap, and no use helps any more.
        let last = slide(lifetime(secs(0), secs(3_500)), 3_400).unwrap();
        assert_eq!(last.fresh, secs(3_600));
        assert_eq!(slide(last, 3_500), None);
        // What lasts longer already is left alone.
        assert_eq!(slide(lifetime(secs(0), secs(9_000)), 10), None);
    }

    #[test]
    fn what_ends_by_a_moment_is_of_no_use_from_then_on() {
        let secs = Duration::from_secs;
        let long = Lifetime {
            stale_while_revalidate: secs(30),
            stale_if_error: secs(600),
            ..lifetime(secs(5), secs(300))
        };
        for (end, fresh, swr, sie, must) in [
            (900, 300, 30, 600, false),
            (315, 300, 20, 20, false),
            (295, 300, 0, 0, true),
            (95, 100, 0, 0, true),
            (0, 5, 0, 0, true),
        ] {
            let ended = long.ended_by(at(end));
            assert_eq!(ended.fresh, secs(fresh), "{end}");
            assert_eq!(ended.stale_while_revalidate, secs(swr), "{end}");
            assert_eq!(ended.stale_if_error, secs(sie), "{end}");
            assert_eq!(ended.must_revalidate, must, "{end}");
            assert!(!ended.is_fresh(at(end)) && ended.useful(at(end)).is_zero());
        }
    }

    proptest! {
        #[test]
        fn age_only_grows_and_freshness_ends_once(initial in 0u64..=1 << 31, fresh in 0u64..=1 << 31, one: u64, other: u64) {
            let lifetime = lifetime(Duration::from_secs(initial), Duration::from_secs(fresh));
            let (early, late) = (Timestamp::from_millis(one.min(other)), Timestamp::from_millis(one.max(other)));
            prop_assert!(lifetime.age(early) <= lifetime.age(late));
            prop_assert!(lifetime.ttl_secs(early) >= lifetime.ttl_secs(late));
            prop_assert!(lifetime.is_fresh(early) || !lifetime.is_fresh(late));
            prop_assert!(lifetime.useful(early) >= lifetime.useful(late));
        }

        #[test]
        fn nothing_is_fresh_beyond_what_the_app_states_and_its_age_allows(max_age in 0u64..100_000, received in 0u64..100_000, later in 0u64..200_000) {
            let lifetime = lifetime(Duration::from_secs(received), Duration::from_secs(max_age));
            prop_assert_eq!(lifetime.is_fresh(at(later)), received + later < max_age);
        }

        /// RFC 9111 §4.2.3 and §4.2, formula by formula, in numbers that cannot overflow; and where
        /// the real ones would, they saturate.
        #[test]
        fn ages_are_those_of_the_formulas(
            age in prop::option::of("[0-9]{1,25}"),
            date in prop::option::of(-100_000i64..100_000),
            max_age in "[0-9]{1,25}",
            delay in 0u64..100,
            later: u64,
        ) {
            let delta = |digits: &str| digits.parse::<u128>().map_or(DELTA_SECONDS_MAX, |secs| secs.min(u128::from(DELTA_SECONDS_MAX)) as u64);
            let mut said = format!("cache-control: max-age={max_age}\n");
            if let Some(age) = &age {
                said.push_str(&format!("age: {age}\n"));
            }
            let date_value = date.map(|offset| at(100_000).as_secs().saturating_add_signed(offset));
            if let Some(date) = date_value {
                said.push_str(&format!("date: {}\n", Timestamp::from_millis(date * 1_000).http_date().to_str().unwrap()));
            }
            let (request_time, response_time) = (at(100_000), at(100_000 + delay));
            let (request, response) = (HeaderMap::new(), headers(&said));
            let stored = storable(&Exchange {
                requested: request_time,
                received: response_time,
                ..exchange(200, &request, &response)
            }, &Policy::default());

            let apparent_age = date_value.map_or(0, |date| response_time.as_secs().saturating_sub(date));
            let response_delay = delay;
            let corrected_age_value = age.as_deref().map_or(0, delta) + response_delay;
            let corrected_initial_age = apparent_age.max(corrected_age_value);
            let Ok(stored) = stored else {
                // Only what is stale at once and has nothing to be validated by is not worth keeping.
                prop_assert!(delta(&max_age) <= corrected_initial_age);
                return Ok(());
            };
            let lifetime = stored.lifetime;
            prop_assert_eq!(lifetime.fresh.as_secs(), delta(&max_age));
            prop_assert_eq!(lifetime.initial_age.as_secs(), corrected_initial_age);
            let now = Timestamp::from_millis(later);
            let resident_time = later.saturating_sub(response_time.as_millis());
            let current_age = u128::from(corrected_initial_age) * 1_000 + u128::from(resident_time);
            prop_assert_eq!(lifetime.age(now).as_millis(), current_age);
            prop_assert_eq!(lifetime.is_fresh(now), u128::from(delta(&max_age)) * 1_000 > current_age);
        }

        #[test]
        fn an_early_renewal_is_likelier_near_the_end_and_where_the_app_is_slow(
            fresh in 1u64..100_000,
            aged in 0u64..100_000,
            took in 0u64..20_000,
            beta in 0.01f32..1.0,
            chance in 0.000_001f32..=1.0,
        ) {
            let lifetime = lifetime(Duration::ZERO, Duration::from_millis(fresh));
            let now = |aged| lifetime.received + Duration::from_millis(aged);
            let early = |took, beta, aged| lifetime.is_early(Duration::from_millis(took), beta, chance, now(aged));
            if early(took, beta, aged) {
                prop_assert!(early(took, beta, aged + 1));
                prop_assert!(early(took + 1, beta, aged) && early(took, beta * 2.0, aged));
            }
            prop_assert!(early(took, beta, fresh), "at its end it is due whatever the app took");
            prop_assert!(aged >= fresh || !early(0, beta, aged), "what costs nothing is not renewed early");
        }

        #[test]
        fn no_times_overflow(spans: [u64; 4], seconds: u64, received: u64, now: u64) {
            let span = |at: usize| Duration::from_secs(spans[at]);
            let lifetime = Lifetime {
                received: Timestamp::from_millis(received),
                stale_while_revalidate: span(2),
                stale_if_error: span(3),
                ..lifetime(span(0), span(1))
            };
            let now = Timestamp::from_millis(now);
            prop_assert!(lifetime.age(now) >= span(0));
            prop_assert_eq!(lifetime.is_fresh(now), lifetime.age(now) < span(1));
            prop_assert!(lifetime.useful(now) <= span(1).saturating_add(span(2).max(span(3))));
            let _ = (lifetime.ttl_secs(now), lifetime.slide(span(2), span(3), now));
            prop_assert!(now + Duration::from_secs(seconds) >= now);
        }
    }
}
