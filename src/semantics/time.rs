//! A moment, as the whole house writes it down.

use http::HeaderValue;
use std::ops::Add;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last moment that an HTTP date can name.
const LAST_HTTP_DATE_MILLIS: u64 = 253_402_300_799_000;

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

    /// Reads an HTTP date in any of its three forms (RFC 9110 §5.6.7); `None` when it is none, or
    /// before 1970.
    #[must_use]
    pub fn from_http_date(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        httpdate::parse_http_date(text.trim()).ok().map(Self::from)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::any_value;
    use proptest::prelude::*;

    fn read(text: &'static str) -> Option<u64> {
        Timestamp::from_http_date(&HeaderValue::from_static(text)).map(Timestamp::as_secs)
    }

    #[test]
    fn all_three_forms_of_a_date_are_read_rfc9110_5_6_7() {
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(read("Sunday, 06-Nov-94 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(read("Sun Nov  6 08:49:37 1994"), Some(784_111_777));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for bad in [
            "",
            "0",
            "-1",
            "Sun, 06 Nov 1994 08:49:37 AEST",
            "Sun, 06 Nov 1994",
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
            let read = Timestamp::from_http_date(&at.http_date());
            prop_assert_eq!(read.map(Timestamp::as_secs), Some(at.as_secs()));
        }

        #[test]
        fn nothing_makes_the_date_parser_panic(value in any_value()) {
            let _ = Timestamp::from_http_date(&value);
        }
    }
}
