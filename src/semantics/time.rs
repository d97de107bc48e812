//! A moment, as the whole house writes it down.

use http::HeaderValue;
use std::ops::Add;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last moment that an HTTP date can name.
const LAST_HTTP_DATE_MILLIS: u64 = 253_402_300_799_000;
/// Fifty years, give or take a leap day.
const FIFTY_YEARS: Duration = Duration::from_secs(50 * 365 * 86_400 + 12 * 86_400);

/// A moment on larder's one timeline, in milliseconds since the Unix epoch.
///
/// Arithmetic saturates: no input can make it wrap or panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000
    }

    /// `2025-01-23T10:00:00Z`: UTC, whole seconds (RFC 3339).
    #[must_use]
    pub fn rfc3339(self) -> String {
        let (year, month, day) = self.date();
        let secs = self.as_secs() % 86_400;
        let (hour, minute, second) = (secs / 3_600, secs / 60 % 60, secs % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// Year, month (January is 1) and day, in UTC.
    #[must_use]
    pub fn date(self) -> (u64, u64, u64) {
        let days = self.as_secs() / 86_400;
        // Years are counted from March, so that the leap day comes last (H. Hinnant's civil_from_days).
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        (year_of_era + era * 400 + u64::from(month <= 2), month, day)
    }

    /// Reads an HTTP date in any of its three forms (RFC 9110 §5.6.7), in capitals or not (RFC 9111
    /// §4.2); `None` when it is none, or before 1970. Whether the day of the week is right is not
    /// looked at. `now` places a year of two digits: what would be more than fifty years ahead is past.
    #[must_use]
    pub fn from_http_date(value: &HeaderValue, now: Self) -> Option<Self> {
        http_date(super::fields::trim(value.as_bytes()), now)
    }

    /// The HTTP date of this moment, to the second (RFC 9110 §5.6.7). After the year 9999, its last second.
    #[must_use]
    pub fn http_date(self) -> HeaderValue {
        let at = Self(self.0.min(LAST_HTTP_DATE_MILLIS));
        HeaderValue::from_maybe_shared(bytes::Bytes::from(httpdate::fmt_http_date(at.into())))
            .unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(at: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(at.0)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(at: SystemTime) -> Self {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT` or `Sun Nov  6 08:49:37 1994`,
/// and nothing that is only like them: a date with another zone, or with one digit too few, is none.
fn http_date(text: &[u8], now: Timestamp) -> Option<Timestamp> {
    let comma = text.iter().position(|byte| *byte == b',');
    let (day, rest) = match comma {
        Some(comma) => (&text[..comma], &text[comma + 1..]),
        None => text.split_at_checked(3)?,
    };
    let rest = rest.strip_prefix(b" ")?;
    let is_day = |days: [&str; 7]| days.iter().any(|known| is(day, known));
    let [day, month, year, time] = match (comma, rest) {
        (
            None,
            [
                m0,
                m1,
                m2,
                b' ',
                d0,
                d1,
                b' ',
                time @ ..,
                b' ',
                y0,
                y1,
                y2,
                y3,
            ],
        ) if is_day(DAYS_SHORT) => {
            let tens = if *d0 == b' ' { 0 } else { number(&[*d0])? };
            let day = 10 * tens + number(&[*d1])?;
            let year = number(&[*y0, *y1, *y2, *y3])?;
            [day, month(&[*m0, *m1, *m2])?, year, time_of_day(time)?]
        }
        (
            Some(_),
            [
                d0,
                d1,
                b' ',
                m0,
                m1,
                m2,
                b' ',
                y0,
                y1,
                y2,
                y3,
                b' ',
                time @ ..,
                b' ',
                z0,
                z1,
                z2,
            ],
        ) if is_day(DAYS_SHORT) && is(&[*z0, *z1, *z2], "GMT") => {
            let year = number(&[*y0, *y1, *y2, *y3])?;
            let day = number(&[*d0, *d1])?;
            [day, month(&[*m0, *m1, *m2])?, year, time_of_day(time)?]
        }
        (
            Some(_),
            [
                d0,
                d1,
                b'-',
                m0,
                m1,
                m2,
                b'-',
                y0,
                y1,
                b' ',
                time @ ..,
                b' ',
                z0,
                z1,
                z2,
            ],
        ) if is_day(DAYS_LONG) && is(&[*z0, *z1, *z2], "GMT") => {
            let (short, day) = (number(&[*y0, *y1])?, number(&[*d0, *d1])?);
            let (month, time) = (month(&[*m0, *m1, *m2])?, time_of_day(time)?);
            // Of the years with these digits the latest that is not more than fifty years ahead
            // (RFC 9110 §5.6.7).
            let last = Timestamp((now + FIFTY_YEARS).0.min(LAST_HTTP_DATE_MILLIS));
            let (latest, _, _) = last.date();
            let year = latest - (latest - short) % 100;
            let at = moment(day, month, year, time)?;
            return match at <= last {
                true => Some(at),
                false => moment(day, month, year - 100, time),
            };
        }
        _ => return None,
    };
    moment(day, month, year, time)
}

/// The moment `time` seconds after midnight of a day; `None` for a day that there is not, or before 1970.
fn moment(day: u64, month: u64, year: u64, time: u64) -> Option<Timestamp> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=length).contains(&day) || year < 1_970 {
        return None;
    }
    // Years are counted from March, so that the leap day comes last (H. Hinnant's days_from_civil).
    let shifted = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year;
    Some(Timestamp((days - 719_468) * 86_400_000 + time * 1_000))
}

const DAYS_SHORT: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAYS_LONG: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

fn is(text: &[u8], word: &str) -> bool {
    text.eq_ignore_ascii_case(word.as_bytes())
}

/// January is 1.
fn month(text: &[u8]) -> Option<u64> {
    (1..)
        .zip(MONTHS)
        .find(|(_, name)| is(text, name))
        .map(|(at, _)| at)
}

/// Seconds since midnight, from `08:49:37`; a leap second counts as the one before it.
fn time_of_day(text: &[u8]) -> Option<u64> {
    let [h0, h1, b':', m0, m1, b':', s0, s1] = text else {
        return None;
    };
    let (hour, minute) = (number(&[*h0, *h1])?, number(&[*m0, *m1])?);
    let second = number(&[*s0, *s1])?;
    let fits = hour < 24 && minute < 60 && second <= 60;
    fits.then(|| hour * 3_600 + minute * 60 + second.min(59))
}

/// Digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, digit| {
        char::from(*digit)
            .to_digit(10)
            .map(|digit| 10 * sum + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::any_value;
    use proptest::prelude::*;

    fn read(text: &'static str) -> Option<u64> {
        read_in(2026, text)
    }

    fn read_in(year: u64, text: &'static str) -> Option<u64> {
        let now = moment(1, 1, year, 0).unwrap();
        Timestamp::from_http_date(&HeaderValue::from_static(text), now).map(Timestamp::as_secs)
    }

    #[test]
    fn all_three_forms_of_a_date_are_read_rfc9110_5_6_7() {
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(read("Sunday, 06-Nov-94 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(read("Sun Nov  6 08:49:37 1994"), Some(784_111_777));
        assert_eq!(read("Tue Feb 29 00:00:00 2000"), Some(951_782_400));
    }

    #[test]
    fn two_digits_name_the_latest_year_at_most_fifty_ahead_rfc9110_5_6_7() {
        let year = |now, text| read_in(now, text).map(|secs| 1_970 + secs / 31_556_952);
        for (now, text, expected) in [
            (2026, "Sunday, 06-Nov-25 08:49:37 GMT", Some(2025)),
            (2026, "Sunday, 06-Nov-75 08:49:37 GMT", Some(2075)),
            (2026, "Sunday, 06-Nov-76 08:49:37 GMT", Some(1976)),
            (2026, "Sunday, 06-Nov-94 08:49:37 GMT", Some(1994)),
            (2080, "Sunday, 06-Nov-94 08:49:37 GMT", Some(2094)),
            (2060, "Sunday, 06-Nov-05 08:49:37 GMT", Some(2105)),
            (2026, "Sunday, 31-Feb-25 08:49:37 GMT", None),
        ] {
            assert_eq!(year(now, text), expected, "{text} in {now}");
        }
    }

    #[test]
    fn capitals_make_no_date_another_rfc9111_4_2() {
        assert_eq!(read("sun, 06 nov 1994 08:49:37 gmt"), Some(784_111_777));
        assert_eq!(read("SUNDAY, 06-NOV-94 08:49:37 GMT"), Some(784_111_777));
    }

    #[test]
    fn moments_are_written_as_rfc_3339_has_them() {
        let at = |secs: u64| Timestamp::from_millis(secs * 1_000).rfc3339();
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_737_626_400), "2025-01-23T10:00:00Z");
    }

    #[test]
    fn what_is_no_date_is_none() {
        for bad in [
            "",
            "0",
            "-1",
            "Sun, 06 Nov 1994 08:49:37 AEST",
            "Sun, 06 Nov 1994",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Mon, 29 Feb 2100 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun Nov 6 08:49:37 1994",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_end_of_time_is_still_a_date() {
        assert_eq!(
            Timestamp(u64::MAX).http_date(),
            "Fri, 31 Dec 9999 23:59:59 GMT"
        );
    }

    proptest! {
        #[test]
        fn a_date_comes_back_to_the_second(millis in 0..=LAST_HTTP_DATE_MILLIS) {
            let at = Timestamp(millis);
            let read = Timestamp::from_http_date(&at.http_date(), at);
            prop_assert_eq!(read.map(Timestamp::as_secs), Some(at.as_secs()));
        }

        #[test]
        fn nothing_makes_the_date_parser_panic(value in any_value(), now: u64) {
            let _ = Timestamp::from_http_date(&value, Timestamp(now));
        }
    }
}
