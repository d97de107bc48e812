//! Cache-Control and its targeted forms as values (RFC 9111 §5.2, RFC 9213).
//!
//! What cannot be read restricts: a lifetime that is no number, or is stated twice differently,
//! counts as no freshness at all; a broken permission is none.

use super::fields::{list, split_quoted, trim};
use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};
use std::borrow::Cow;
use std::time::Duration;

/// The longest delta-seconds: whatever is longer means this (RFC 9111 §1.2.2).
pub const DELTA_SECONDS_MAX: u64 = 1 << 31;
/// The most fields that a qualified `private` or `no-cache` may name; more count as unqualified.
pub const QUALIFIED_MAX: usize = 64;
/// Targeted fields, the first valid one wins (RFC 9213 §2.2).
pub const TARGETED: [HeaderName; 2] = [
    HeaderName::from_static("larder-cache-control"),
    HeaderName::from_static("cdn-cache-control"),
];

/// What a response says about its caching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `max-age`
    pub max_age: Delta,
    /// `s-maxage`
    pub s_maxage: Delta,
    /// `no-store`
    pub no_store: bool,
    /// `no-cache`
    pub no_cache: Qualified,
    /// `Pragma: no-cache`, and no Cache-Control.
    pub pragma_no_cache: bool,
    /// `private`
    pub private: Qualified,
    /// `public`
    pub public: bool,
    /// `must-revalidate`
    pub must_revalidate: bool,
    /// `proxy-revalidate`
    pub proxy_revalidate: bool,
    /// `must-understand`
    pub must_understand: bool,
    /// `immutable` (RFC 8246)
    pub immutable: bool,
    /// `stale-while-revalidate` (RFC 5861 §3); unreadable is zero.
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error` (RFC 5861 §4); unreadable is zero.
    pub stale_if_error: Option<Duration>,
    /// They come from a targeted field, so Expires does not count (RFC 9213 §2.1).
    pub targeted: bool,
}

/// A directive that takes delta-seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delta {
    /// Not said.
    #[default]
    Absent,
    /// Said, but not readable or contradicted: not fresh (RFC 9111 §4.2.1).
    Invalid,
    /// This long.
    Of(Duration),
}

/// A directive that may name fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Qualified {
    /// Not said.
    #[default]
    Absent,
    /// Only these fields are meant.
    Fields(Vec<HeaderName>),
    /// The whole response is meant.
    Whole,
}

/// What a request says about caching (RFC 9111 §5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// `no-cache`, or Pragma's where there is no Cache-Control (RFC 9111 §5.4).
    pub no_cache: bool,
    /// `no-store`
    pub no_store: bool,
    /// `only-if-cached`
    pub only_if_cached: bool,
    /// `max-age`; unreadable is zero.
    pub max_age: Option<Duration>,
    /// `min-fresh`; unreadable is endless.
    pub min_fresh: Option<Duration>,
    /// `max-stale`; without an argument endless, unreadable is none.
    pub max_stale: Option<Duration>,
    /// `stale-if-error` (RFC 5861 §4); unreadable is none.
    pub stale_if_error: Option<Duration>,
}

impl Directives {
    /// Reads a response: the first valid targeted field, otherwise Cache-Control and Pragma.
    #[must_use]
    pub fn of_response(headers: &HeaderMap) -> Self {
        if let Some(targeted) = TARGETED.iter().find_map(|name| targeted(headers, name)) {
            return targeted;
        }
        let mut directives = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            if !members(line.as_bytes(), |name, argument| {
                directives.take(name, &argument);
            }) {
                // No lifetime in it is to be believed, whichever side of the quote it is on.
                directives.s_maxage = Delta::Invalid;
                directives.max_age = Delta::Invalid;
            }
        }
        directives.pragma_no_cache =
            !headers.contains_key(CACHE_CONTROL) && pragma_no_cache(headers);
        directives
    }

    /// Whether stale use is forbidden by name: `must-revalidate`, `proxy-revalidate`.
    #[must_use]
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate
    }

    fn take(&mut self, name: &[u8], argument: &Argument<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("max-age") {
            self.max_age.add(argument.delta());
        } else if is("s-maxage") {
            self.s_maxage.add(argument.delta());
        } else if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache.add(argument);
        } else if is("private") {
            self.private.add(argument);
        } else if is("public") {
            self.public |= matches!(argument, Argument::None);
        } else if is("must-revalidate") {
            self.must_revalidate = true;
        } else if is("proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if is("must-understand") {
            self.must_understand |= matches!(argument, Argument::None);
        } else if is("immutable") {
            self.immutable = true;
        } else if is("stale-while-revalidate") {
            shorten(&mut self.stale_while_revalidate, argument);
        } else if is("stale-if-error") {
            shorten(&mut self.stale_if_error, argument);
        }
    }
}

impl RequestDirectives {
    /// Reads a request.
    #[must_use]
    pub fn of_request(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            members(line.as_bytes(), |name, argument| {
                directives.take(name, &argument);
            });
        }
        directives.no_cache |= !headers.contains_key(CACHE_CONTROL) && pragma_no_cache(headers);
        directives
    }

    fn take(&mut self, name: &[u8], argument: &Argument<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("no-cache") {
            self.no_cache = true;
        } else if is("no-store") {
            self.no_store = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            shorten(&mut self.max_age, argument);
        } else if is("min-fresh") {
            let said = argument.seconds().unwrap_or(Duration::MAX);
            self.min_fresh = Some(self.min_fresh.map_or(said, |known| known.max(said)));
        } else if is("max-stale") {
            let said = match argument {
                Argument::None => Some(Duration::MAX),
                _ => argument.seconds(),
            };
            self.max_stale = said.map(|said| self.max_stale.map_or(said, |known| known.min(said)));
        } else if is("stale-if-error") {
            self.stale_if_error = argument
                .seconds()
                .map(|said| self.stale_if_error.map_or(said, |known| known.min(said)));
        }
    }
}

/// Keeps the shorter of what is known and what is said; unreadable is zero.
fn shorten(known: &mut Option<Duration>, argument: &Argument<'_>) {
    let said = argument.seconds().unwrap_or_default();
    *known = Some(known.map_or(said, |known| known.min(said)));
}

impl Delta {
    /// The lifetime it states, zero when unreadable; `None` when absent.
    #[must_use]
    pub fn stated(self) -> Option<Duration> {
        match self {
            Self::Absent => None,
            Self::Invalid => Some(Duration::ZERO),
            Self::Of(length) => Some(length),
        }
    }

    fn add(&mut self, said: Self) {
        *self = match *self {
            Self::Absent => said,
            known if known == said => known,
            _ => Self::Invalid,
        };
    }
}

impl Qualified {
    /// Whether the whole response is meant.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        *self == Self::Whole
    }

    /// The fields meant, none when it is absent or whole.
    #[must_use]
    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(names) => names,
            Self::Absent | Self::Whole => &[],
        }
    }

    fn add(&mut self, argument: &Argument<'_>) {
        let text: &[u8] = match argument {
            Argument::Token(text) => text,
            Argument::Quoted(text) => text,
            Argument::None | Argument::Malformed => b"",
        };
        let mut names = match std::mem::replace(self, Self::Whole) {
            Self::Whole => return,
            Self::Absent => Vec::new(),
            Self::Fields(names) => names,
        };
        let before = names.len();
        for name in text
            .split(|byte| *byte == b',')
            .map(trim)
            .filter(|name| !name.is_empty())
        {
            match HeaderName::from_bytes(name) {
                Ok(name) if names.len() < QUALIFIED_MAX => names.push(name),
                _ => return,
            }
        }
        if names.len() > before {
            *self = Self::Fields(names);
        }
    }
}

/// What stands behind a directive's `=`.
#[derive(Debug, PartialEq, Eq)]
enum Argument<'a> {
    None,
    Token(&'a [u8]),
    Quoted(Cow<'a, [u8]>),
    Malformed,
}

impl Argument<'_> {
    fn seconds(&self) -> Option<Duration> {
        match self {
            Self::Token(text) => delta_seconds(text),
            // A recipient accepts both forms (RFC 9111 §5.2).
            Self::Quoted(text) => delta_seconds(text),
            Self::None | Self::Malformed => None,
        }
    }

    fn delta(&self) -> Delta {
        self.seconds().map_or(Delta::Invalid, Delta::Of)
    }
}

/// Non-negative digits and nothing else; too large ones are [`DELTA_SECONDS_MAX`].
pub(super) fn delta_seconds(text: &[u8]) -> Option<Duration> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = text.iter().fold(0u64, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
            .min(DELTA_SECONDS_MAX)
    });
    Some(Duration::from_secs(seconds))
}

/// Hands every directive of one line to `each`. Returns whether the line could be read; in one with
/// an open quote every comma separates, so that no `no-store` hides behind the quote.
fn members(line: &[u8], mut each: impl FnMut(&[u8], Argument<'_>)) -> bool {
    let mut readable = true;
    for member in split_quoted(line, true) {
        if open_quote(member) {
            readable = false;
            for member in member.split(|byte| *byte == b',') {
                let (name, _) = directive(member);
                each(name, Argument::Malformed);
            }
        } else {
            let (name, argument) = directive(member);
            if !name.is_empty() {
                each(name, argument);
            }
        }
    }
    readable
}

fn open_quote(member: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in member {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    quoted
}

fn directive(member: &[u8]) -> (&[u8], Argument<'_>) {
    let member = trim(member);
    let Some(equals) = member.iter().position(|byte| *byte == b'=') else {
        return (member, Argument::None);
    };
    let (name, value) = (&member[..equals], &member[equals + 1..]);
    // No space is allowed around the equals sign, and what is not allowed grants nothing.
    if trim(name) != name || trim(value) != value {
        return (trim(name), Argument::Malformed);
    }
    let argument = match value {
        [b'"', inner @ .., b'"'] if !open_quote(value) => unescape(inner),
        [] => Argument::Malformed,
        _ if value.iter().any(|byte| b"\" \t".contains(byte)) => Argument::Malformed,
        _ => Argument::Token(value),
    };
    (name, argument)
}

fn unescape(inner: &[u8]) -> Argument<'_> {
    if !inner.contains(&b'\\') {
        return match inner.contains(&b'"') {
            true => Argument::Malformed,
            false => Argument::Quoted(Cow::Borrowed(inner)),
        };
    }
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => text.extend(bytes.next()),
            b'"' => return Argument::Malformed,
            _ => text.push(*byte),
        }
    }
    Argument::Quoted(Cow::Owned(text))
}

fn pragma_no_cache(headers: &HeaderMap) -> bool {
    headers.contains_key(PRAGMA)
        && list(headers, &PRAGMA).any(|member| member.eq_ignore_ascii_case(b"no-cache"))
}

/// A targeted field, unless it is absent, empty or no structured dictionary (RFC 9213 §2.1).
fn targeted(headers: &HeaderMap, name: &HeaderName) -> Option<Directives> {
    let whole = super::fields::combined(headers, name)?;
    let dictionary: Dictionary = Parser::new(whole.as_ref()).parse().ok()?;
    if dictionary.is_empty() {
        return None;
    }
    let mut directives = Directives {
        targeted: true,
        ..Directives::default()
    };
    for (key, entry) in &dictionary {
        // Parameters have no meaning, and a value of the wrong type is not one.
        let ListEntry::Item(item) = entry else {
            continue;
        };
        let takes_seconds = matches!(
            key.as_str(),
            "max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error"
        );
        let takes_fields = matches!(key.as_str(), "no-cache" | "private");
        match &item.bare_item {
            BareItem::Boolean(true) if !takes_seconds => {
                directives.take(key.as_str().as_bytes(), &Argument::None);
            }
            BareItem::Integer(seconds) if takes_seconds => {
                let digits = i64::from(*seconds).to_string();
                directives.take(key.as_str().as_bytes(), &Argument::Token(digits.as_bytes()));
            }
            BareItem::String(names) if takes_fields => {
                directives.take(
                    key.as_str().as_bytes(),
                    &Argument::Quoted(Cow::Borrowed(names.as_str().as_bytes())),
                );
            }
            _ => {}
        }
    }
    Some(directives)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, headers};
    use proptest::prelude::*;

    fn of(text: &str) -> Directives {
        Directives::of_response(&headers(text))
    }

    fn max_age(text: &str) -> Delta {
        of(&format!("cache-control: {text}")).max_age
    }

    fn secs(seconds: u64) -> Delta {
        Delta::Of(Duration::from_secs(seconds))
    }

    #[test]
    fn lifetimes_are_read_in_any_case_over_several_lines_rfc9111_5_2() {
        assert_eq!(max_age("MaX-aGe=60"), secs(60));
        assert_eq!(max_age("max-age=\"60\""), secs(60));
        assert_eq!(max_age("max-age=0060"), secs(60));
        assert_eq!(max_age(" , ,public,\tmax-age=60 ,"), secs(60));
        let directives = of("cache-control: public\ncache-control: s-maxage=5, max-age=60");
        assert_eq!(
            (directives.public, directives.s_maxage, directives.max_age),
            (true, secs(5), secs(60))
        );
    }

    #[test]
    fn a_lifetime_that_is_no_number_is_no_freshness_rfc9111_4_2_1() {
        for bad in [
            "max-age",
            "max-age=",
            "max-age=-1",
            "max-age=1.0",
            "max-age=1e3",
            "max-age='60'",
            "max-age=60s",
            "max-age=60 60",
            "max-age = 60",
            "max-age= 60",
            "max-age=\"60",
            "max-age=6\"0\"",
            "max-age=60;a=b",
            "max-age=60, max-age=61",
            "max-age=x, max-age=60",
        ] {
            assert_eq!(max_age(bad), Delta::Invalid, "{bad}");
        }
        assert_eq!(max_age("max-age=60, max-age=60"), secs(60));
    }

    #[test]
    fn enormous_lifetimes_are_two_to_the_31_rfc9111_1_2_2() {
        assert_eq!(max_age("max-age=2147483649"), secs(DELTA_SECONDS_MAX));
        assert_eq!(
            max_age(&format!("max-age={}", "9".repeat(9_000))),
            secs(DELTA_SECONDS_MAX)
        );
    }

    #[test]
    fn what_is_quoted_is_not_a_directive() {
        let directives = of(r#"cache-control: ext="no-store, max-age=9, \", private", max-age=60"#);
        assert_eq!(directives.max_age, secs(60));
        assert!(!directives.no_store && directives.private == Qualified::Absent);
    }

    #[test]
    fn an_open_quote_hides_no_restriction_and_grants_nothing() {
        let directives = of(r#"cache-control: max-age=60, ext="a, no-store, max-age=9, public"#);
        assert!(directives.no_store);
        assert_eq!(directives.max_age, Delta::Invalid);
    }

    #[test]
    fn qualified_forms_name_fields_rfc9111_5_2_2_4() {
        let directives = of(r#"cache-control: private="A, b", no-cache=c, private="d""#);
        assert_eq!(directives.private.fields(), ["a", "b", "d"]);
        assert_eq!(directives.no_cache.fields(), ["c"]);
        for whole in [
            "private",
            r#"private="""#,
            "private=",
            r#"private="a b""#,
            r#"private="a", private"#,
        ] {
            assert!(
                of(&format!("cache-control: {whole}")).private.is_whole(),
                "{whole}"
            );
        }
    }

    #[test]
    fn too_many_named_fields_are_the_whole_response() {
        let names = vec!["a"; QUALIFIED_MAX + 1].join(",");
        assert!(
            of(&format!("cache-control: private=\"{names}\""))
                .private
                .is_whole()
        );
    }

    #[test]
    fn the_first_valid_targeted_field_wins_rfc9213_2_2() {
        let directives = of(
            "cache-control: no-store\ncdn-cache-control: max-age=60\nlarder-cache-control: max-age=5;x=y, private=\"a\"",
        );
        assert_eq!(directives.max_age, secs(5));
        assert!(directives.targeted && !directives.no_store);
        assert_eq!(directives.private.fields(), ["a"]);
        let two_lines = of("cdn-cache-control: max-age=5\ncdn-cache-control: no-store, max-age=7");
        assert_eq!((two_lines.max_age, two_lines.no_store), (secs(7), true));
    }

    #[test]
    fn a_broken_or_empty_targeted_field_is_absent_rfc9213_2_1() {
        for broken in [
            "",
            "max-age=60,",
            "Max-Age=60",
            "max-age=60 no-store",
            "max-age=9999999999999999",
            "&",
            "max-age",
        ] {
            let directives = of(&format!(
                "cache-control: max-age=1\ncdn-cache-control: {broken}"
            ));
            let expected = if broken == "max-age" {
                Delta::Absent
            } else {
                secs(1)
            };
            assert_eq!(directives.max_age, expected, "{broken}");
        }
    }

    #[test]
    fn a_targeted_value_of_the_wrong_type_is_not_coerced_rfc9213_2_1() {
        let directives = of(
            "cdn-cache-control: max-age=\"60\", no-store=1, private=?0, must-revalidate=\"a\", s-maxage=(60)",
        );
        assert_eq!(
            directives,
            Directives {
                targeted: true,
                ..Directives::default()
            }
        );
        assert_eq!(of("cdn-cache-control: max-age=-1").max_age, Delta::Invalid);
    }

    #[test]
    fn pragma_counts_only_without_cache_control_rfc9111_5_4() {
        assert!(of("pragma: x, No-Cache").pragma_no_cache);
        assert!(!of("pragma: no-cache\ncache-control: max-age=1").pragma_no_cache);
        let asked = |text| RequestDirectives::of_request(&headers(text));
        assert!(asked("pragma: no-cache").no_cache);
        assert!(!asked("pragma: no-cache\ncache-control: max-age=1").no_cache);
    }

    #[test]
    fn a_request_is_read_to_its_own_loss_when_broken_rfc9111_5_2_1() {
        let asked =
            |text: &str| RequestDirectives::of_request(&headers(&format!("cache-control: {text}")));
        assert_eq!(asked("max-age=x").max_age, Some(Duration::ZERO));
        assert_eq!(asked("min-fresh=x").min_fresh, Some(Duration::MAX));
        assert_eq!(asked("max-stale=x").max_stale, None);
        assert_eq!(asked("max-stale").max_stale, Some(Duration::MAX));
        assert!(asked("only-if-cached, no-store, no-cache").only_if_cached);
        assert_eq!(
            asked("max-age=5, max-age=3").max_age,
            Some(Duration::from_secs(3))
        );
    }

    #[test]
    fn sixty_four_kilobytes_are_read_in_one_pass() {
        let line = "private=\"a\",no-cache=\"b\",".repeat(2_600);
        assert!(of(&format!("cache-control: {line}")).private.is_whole());
        let quotes = "\"".repeat(65_535);
        assert_eq!(
            of(&format!("cache-control: {quotes}")).max_age,
            Delta::Invalid
        );
    }

    proptest! {
        #[test]
        fn nothing_makes_the_parsers_panic(value in any_value()) {
            let mut fields = HeaderMap::new();
            fields.append(CACHE_CONTROL, value.clone());
            fields.append(CACHE_CONTROL, value.clone());
            fields.append(PRAGMA, value.clone());
            let _ = (Directives::of_response(&fields), RequestDirectives::of_request(&fields));
            fields.append(&TARGETED[0], value);
            let _ = Directives::of_response(&fields);
        }

        #[test]
        fn a_member_of_its_own_is_always_seen(before in "[a-z=,\" ]{0,40}", after in "[a-z=,\" ]{0,40}") {
            let directives = of(&format!("cache-control: {before}\ncache-control: no-store\ncache-control: {after}"));
            prop_assert!(directives.no_store);
        }

        #[test]
        fn every_number_of_seconds_is_read(seconds in 0u64..=DELTA_SECONDS_MAX) {
            prop_assert_eq!(max_age(&format!("max-age={seconds}")), secs(seconds));
        }
    }
}
