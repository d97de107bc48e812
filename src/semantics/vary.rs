//! Which request fields select a stored response (RFC 9111 §4.1).

use super::fields::{combined, list, split_quoted, trim};
use http::header::{
    ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, HOST, ORIGIN, REFERER, USER_AGENT,
    VARY, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;

/// The selecting request fields of a stored response, with the normalised values it was stored for.
///
/// Empty for a response without `Vary`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vary {
    /// Field name (lower case, sorted, each once) and the normalised value; `None` where the request had no such field.
    pub fields: Box<[(HeaderName, FieldValue)]>,
}

/// A normalised request field; `None` where the request had no such field.
pub type FieldValue = Option<Box<[u8]>>;

/// Why a `Vary` cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unselectable {
    /// `Vary: *`, alone or as a member, or a field that the proxy writes anew for each request.
    Star,
    /// Names more fields than [`FIELDS_MAX`], or something that is no field name.
    TooMany,
}

/// The most field names a stored response may vary on.
pub const FIELDS_MAX: usize = 8;
/// The most members of an Accept-Encoding or Accept-Language that are put in order; longer ones are
/// compared as they are.
pub const PREFERENCES_MAX: usize = 32;

/// What the proxy itself tells the app of each client and request: by what the client sent, two that
/// the app can tell apart would be one.
const WRITTEN_HERE: [HeaderName; 4] = [
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
];

impl Vary {
    /// Reads all `Vary` lines of `response` and takes the named values from `request`.
    pub fn select(response: &HeaderMap, request: &HeaderMap) -> Result<Self, Unselectable> {
        let mut names: Vec<HeaderName> = Vec::new();
        for member in list(response, &VARY) {
            if member == b"*" {
                return Err(Unselectable::Star);
            }
            let name = HeaderName::from_bytes(member).map_err(|_| Unselectable::TooMany)?;
            if WRITTEN_HERE.contains(&name) {
                return Err(Unselectable::Star);
            }
            if names.contains(&name) {
                continue;
            }
            if names.len() == FIELDS_MAX {
                return Err(Unselectable::TooMany);
            }
            names.push(name);
        }
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        let fields = names.into_iter().map(|name| (name, None)).collect();
        Ok(Self { fields }.taken_from(request))
    }

    /// The same fields, with the values that `request` has for them.
    #[must_use]
    pub fn taken_from(&self, request: &HeaderMap) -> Self {
        let taken =
            |name: &HeaderName| normal(name, request).map(|value| value.into_owned().into());
        Self {
            fields: self
                .names()
                .map(|name| (name.clone(), taken(name)))
                .collect(),
        }
    }

    /// Whether `request` selects the response that this was taken from.
    #[must_use]
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.fields
            .iter()
            .all(|(name, stored)| selects(name, stored.as_deref(), request))
    }

    /// Whether the response varies on nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The names alone, in their order.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter().map(|(name, _)| name)
    }
}

/// Whether `request` has for `name` the normalised value that a response was stored for.
#[must_use]
pub fn selects(name: &HeaderName, stored: Option<&[u8]>, request: &HeaderMap) -> bool {
    normal(name, request).as_deref() == stored
}

/// One digestible form of the values that `request` has for `names`: equal exactly when the same variant is selected.
#[must_use]
pub fn variant<'a>(names: impl Iterator<Item = &'a HeaderName>, request: &HeaderMap) -> Vec<u8> {
    let mut digestible = Vec::new();
    let mut part = |bytes: &[u8]| {
        digestible.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        digestible.extend_from_slice(bytes);
    };
    for name in names {
        part(name.as_str().as_bytes());
        match normal(name, request) {
            None => part(b""),
            // The byte in front tells an empty value from none.
            Some(value) => {
                part(b"=");
                part(&value);
            }
        }
    }
    digestible
}

/// The value of a request field in normal form (RFC 9111 §4.1): lines combined, spaces around commas
/// gone, preferences in order. `None` where there is no such field.
///
/// Borrows when the request already has the normal form.
fn normal<'a>(name: &HeaderName, request: &'a HeaderMap) -> Option<Cow<'a, [u8]>> {
    // These are no lists: a comma in them is just a byte, and two lines are not one.
    if [COOKIE, AUTHORIZATION, USER_AGENT, REFERER, HOST, ORIGIN].contains(name) {
        let mut lines = request.get_all(name).iter().map(HeaderValue::as_bytes);
        let first = lines.next()?;
        return Some(match lines.next() {
            None => Cow::Borrowed(trim(first)),
            Some(second) => {
                let lines: Vec<&[u8]> = [first, second].into_iter().chain(lines).collect();
                Cow::Owned(lines.join(b"\n".as_slice()))
            }
        });
    }
    let value = match combined(request, name)? {
        Cow::Borrowed(value) => Cow::Borrowed(trim(value)),
        Cow::Owned(value) => Cow::Owned(trim(&value).to_vec()),
    };
    if *name == ACCEPT_ENCODING || *name == ACCEPT_LANGUAGE {
        return Some(Cow::Owned(preferences(&value, *name == ACCEPT_ENCODING)));
    }
    if !value
        .windows(2)
        .any(|pair| matches!(pair, [b',', b' ' | b'\t'] | [b' ' | b'\t', b',']))
    {
        return Some(value);
    }
    let mut tight = Vec::with_capacity(value.len());
    for (at, member) in split_quoted(&value, true).enumerate() {
        if at > 0 {
            tight.push(b',');
        }
        tight.extend_from_slice(trim(member));
    }
    Some(Cow::Owned(tight))
}

/// An Accept-Encoding or Accept-Language as ordered buckets: members of one weight by name, separated
/// by commas; lower weights after a `>`, refused ones (q=0) last after a `!`.
///
/// Only the order of the weights counts, as it does for whoever chooses among representations.
/// What cannot be read as such a list stays as it is, behind a mark of its own.
fn preferences(value: &[u8], are_codings: bool) -> Vec<u8> {
    let mut members: Vec<(u16, Vec<u8>)> = Vec::new();
    for member in value.split(|byte| *byte == b',').map(trim) {
        if member.is_empty() {
            continue;
        }
        match preference(member, are_codings) {
            Some(preference) if members.len() < PREFERENCES_MAX => members.push(preference),
            _ => return [b"?", value].concat(),
        }
    }
    members.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    members.dedup();
    let mut normal = Vec::with_capacity(value.len());
    let mut before = None;
    for (weight, name) in members {
        match before {
            _ if weight == 0 => normal.push(b'!'),
            Some(last) if last == weight => normal.push(b','),
            Some(_) => normal.push(b'>'),
            None => {}
        }
        normal.extend_from_slice(&name);
        before = Some(weight);
    }
    normal
}

/// Weight in thousandths and lower-case name of one member.
fn preference(member: &[u8], is_coding: bool) -> Option<(u16, Vec<u8>)> {
    let mut parts = member.split(|byte| *byte == b';').map(trim);
    let name = parts.next()?.to_ascii_lowercase();
    if name.is_empty()
        || !name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"*-_.".contains(byte))
    {
        return None;
    }
    let weight = match parts.next() {
        None => 1_000,
        Some([b'q' | b'Q', b'=', weight @ ..]) => thousandths(weight)?,
        Some(_) => return None,
    };
    parts.next().is_none().then_some(())?;
    // Two names of one coding (RFC 9110 §8.4.1.3).
    let name = match name.as_slice() {
        b"x-gzip" if is_coding => b"gzip".to_vec(),
        b"x-compress" if is_coding => b"compress".to_vec(),
        _ => name,
    };
    Some((weight, name))
}

/// `qvalue` (RFC 9110 §12.4.2) times a thousand.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = match text {
        [whole] => (*whole, &b""[..]),
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (*whole, fraction),
        _ => return None,
    };
    let mut value = match whole {
        b'0' => 0,
        b'1' => 1,
        _ => return None,
    };
    for at in 0..3 {
        let digit = fraction.get(at).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u16::from(digit - b'0');
    }
    (value <= 1_000).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, headers};
    use proptest::prelude::*;

    fn vary(response: &str, request: &str) -> Vary {
        Vary::select(&headers(response), &headers(request)).unwrap()
    }

    fn same(field: &str, one: &str, other: &str) -> bool {
        let one = headers(&format!("{field}: {one}"));
        let other = headers(&format!("{field}: {other}"));
        let vary = Vary::select(&headers(&format!("vary: {field}")), &one).unwrap();
        assert_eq!(
            vary.matches(&other),
            variant(vary.names(), &one) == variant(vary.names(), &other)
        );
        vary.matches(&other)
    }

    #[test]
    fn all_nominated_fields_must_match_rfc9111_4_1() {
        let vary = vary("vary: Foo, bar\nvary: BAR,,baz", "foo: 1\nbaz: 2");
        let names: Vec<_> = vary.names().map(HeaderName::as_str).collect();
        assert_eq!(names, ["bar", "baz", "foo"]);
        assert!(vary.matches(&headers("foo: 1\nbaz: 2\nother: 3")));
        for different in [
            "foo: 2\nbaz: 2",
            "foo: 1",
            "foo: 1\nbaz: 2\nbar:",
            "foo: 1\nbaz: 2\nbaz: 3",
        ] {
            assert!(!vary.matches(&headers(different)), "{different}");
        }
    }

    #[test]
    fn a_star_anywhere_selects_nothing_rfc9111_4_1() {
        for star in ["vary: *", "vary: foo, *", "vary: foo\nvary: *"] {
            let vary = Vary::select(&headers(star), &HeaderMap::new());
            assert_eq!(vary, Err(Unselectable::Star), "{star}");
        }
    }

    #[test]
    fn ten_thousand_names_are_refused_after_a_few() {
        let names: Vec<_> = (0..10_000).map(|n| format!("f{n}")).collect();
        let vary = Vary::select(
            &headers(&format!("vary: {}", names.join(","))),
            &HeaderMap::new(),
        );
        assert_eq!(vary, Err(Unselectable::TooMany));
        let vary = Vary::select(&headers("vary: a b"), &HeaderMap::new());
        assert_eq!(vary, Err(Unselectable::TooMany));
    }

    #[test]
    fn spaces_and_lines_make_no_difference_rfc9111_4_1() {
        assert!(same("foo", "1,2", "1,  2"));
        let vary = vary("vary: foo", "foo: 1\nfoo: 2");
        assert!(vary.matches(&headers("foo: 1 ,2")));
        assert!(!vary.matches(&headers("foo: 2,1")));
        assert!(!same("foo", "a", "A"));
        assert!(!same("foo", "\"a, b\"", "\"a,b\""));
        assert!(!same("cookie", "a=1, 2", "a=1,2"));
    }

    #[test]
    fn two_lines_of_what_is_no_list_are_not_one_with_a_comma() {
        for field in ["cookie", "user-agent", "authorization"] {
            let vary = vary(
                &format!("vary: {field}"),
                &format!("{field}: 1\n{field}: 2"),
            );
            assert!(vary.matches(&headers(&format!("{field}: 1\n{field}: 2"))));
            assert!(!vary.matches(&headers(&format!("{field}: 1, 2"))));
            assert!(!vary.matches(&headers(&format!("{field}: 1"))));
        }
    }

    #[test]
    fn x_gzip_is_gzip_as_a_coding_and_not_as_a_language() {
        assert!(same("accept-encoding", "x-gzip", "gzip"));
        assert!(!same("accept-language", "x-gzip", "gzip"));
    }

    #[test]
    fn accept_encoding_falls_into_ordered_buckets() {
        assert!(same(
            "accept-encoding",
            "gzip, deflate, br",
            "br,GZIP;q=1.0 , deflate"
        ));
        assert!(same(
            "accept-encoding",
            "br;q=0.9, gzip;q=0.8",
            "br, gzip;q=0.5"
        ));
        assert!(same("accept-encoding", "x-gzip", "gzip"));
        assert!(!same("accept-encoding", "br, gzip;q=0.5", "gzip, br;q=0.5"));
        assert!(!same("accept-encoding", "gzip", "gzip, br"));
        assert!(!same("accept-encoding", "gzip;q=0", "gzip"));
        assert!(!same("accept-encoding", "gzip;q=0", "gzip;q=0.001"));
        assert!(!same("accept-encoding", "gzip;q=7", "gzip"));
        assert!(!same("accept-encoding", "", "gzip"));
    }

    #[test]
    fn accept_language_falls_into_ordered_buckets() {
        assert!(same("accept-language", "en, de", "dE,eN"));
        assert!(same("accept-language", "en-GB,en;q=0.9", "en-gb, en;q=0.5"));
        assert!(!same("accept-language", "en, de;q=0.5", "de, en;q=0.5"));
    }

    #[test]
    fn no_field_is_not_an_empty_field() {
        let vary = vary("vary: foo", "");
        assert!(vary.matches(&HeaderMap::new()));
        assert!(!vary.matches(&headers("foo:")));
    }

    proptest! {
        #[test]
        fn matching_and_variant_always_agree(one in any_value(), other in any_value()) {
            for name in ["accept-encoding", "accept-language", "foo", "cookie"] {
                let field = HeaderName::from_static(name);
                let map = |value: &http::HeaderValue| HeaderMap::from_iter([(field.clone(), value.clone())]);
                let (first, second) = (map(&one), map(&other));
                let vary = Vary::select(&headers(&format!("vary: {name}")), &first).unwrap();
                prop_assert!(vary.matches(&first));
                prop_assert_eq!(
                    vary.matches(&second),
                    variant(vary.names(), &first) == variant(vary.names(), &second)
                );
            }
        }

        #[test]
        fn what_lists_no_member_alike_never_matches(one in "[a-z]{1,3}(,[a-z]{1,3}){0,3}", other in "[a-z]{1,3}(,[a-z]{1,3}){0,3}") {
            prop_assert_eq!(same("foo", &one, &other), one == other);
        }
    }
}
