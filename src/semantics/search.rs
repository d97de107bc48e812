//! Queries as forms, and which of them an answer is for beside its own (`No-Vary-Search`).
//!
//! Follows draft-ietf-httpbis-no-vary-search-10. Never makes a key and never reaches into a store.

use super::KeyBuilder;
use super::fields::combined;
use http::{HeaderMap, HeaderName};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sfv::{BareItem, Dictionary, InnerList, ListEntry, Parser};
use std::borrow::Cow;
use std::fmt;

/// States which parts of the query an answer does not depend on.
pub const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");
/// The longest field that is heeded, in bytes, all its lines together; a longer one states nothing.
pub const FIELD_BYTES_MAX: usize = 4 * 1024;
/// The most parameters that one field may name; one with more states nothing.
pub const NAMES_MAX: usize = 256;

/// Characters of names and values that are told as they are.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'-')
    .remove(b'.')
    .remove(b'~');

/// What an app says of its queries: the draft's "URL variation config", where it is not the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variation {
    /// `params` and `except`, decoded, sorted, each name once.
    names: Box<[Box<str>]>,
    /// The names are those that count (`except`), all others do not.
    except: bool,
    /// The order of different parameters does not count.
    key_order: bool,
}

impl Variation {
    /// What this answer states. `None` is the default, by which only the same query is the same: where
    /// nothing is stated, or nothing that can be read, or more than is heeded (draft §5).
    #[must_use]
    pub fn of(response: &HeaderMap) -> Option<Self> {
        let lines = response.get_all(NO_VARY_SEARCH);
        if lines.iter().map(|line| line.len()).sum::<usize>() > FIELD_BYTES_MAX {
            return None;
        }
        let whole = combined(response, &NO_VARY_SEARCH)?;
        let stated: Dictionary = Parser::new(whole.as_ref()).parse().ok()?;
        let key_order = match stated.get("key-order") {
            None => false,
            Some(ListEntry::Item(item)) => match item.bare_item {
                BareItem::Boolean(is) => is,
                _ => return None,
            },
            Some(ListEntry::InnerList(_)) => return None,
        };
        let (list, except) = match (stated.get("params"), stated.get("except")) {
            (None, None) => (None, false),
            (Some(list), None) => (Some(list), false),
            (None, Some(list)) => (Some(list), true),
            (Some(_), Some(_)) => return None,
        };
        let names = match list {
            None => Box::default(),
            Some(ListEntry::InnerList(list)) => names(list)?,
            Some(ListEntry::Item(_)) => return None,
        };
        let is_default = names.is_empty() && !except && !key_order;
        (!is_default).then_some(Self {
            names,
            except,
            key_order,
        })
    }

    /// What counts of `query`: names and values, decoded, in the order they are compared in. Two
    /// queries are equivalent under this variation exactly if the same is left of both (draft §6).
    #[must_use]
    pub fn significant<'a>(&self, query: Option<&'a str>) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
        let mut left: Vec<_> = parameters(query.unwrap_or_default())
            .map(|(name, value)| (decode_form(name), decode_form(value.unwrap_or_default())))
            .filter(|(name, _)| self.names(name) == self.except)
            .collect();
        if self.key_order {
            // The draft sorts by code units and this by bytes; any order does that is the same for both.
            left.sort_by(|one, other| one.0.cmp(&other.0));
        }
        left
    }

    fn names(&self, name: &str) -> bool {
        let found = self
            .names
            .binary_search_by(|known| known.as_ref().cmp(name));
        found.is_ok()
    }
}

impl fmt::Display for Variation {
    /// As a field: `key-order, except=("id" "page")`. The same variation always gives the same text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key_order {
            f.write_str("key-order")?;
        }
        if self.names.is_empty() && !self.except {
            return Ok(());
        }
        let between = if self.key_order { ", " } else { "" };
        let names = self.names.iter();
        let names: Vec<_> = names.map(|name| format!("\"{}\"", plain(name))).collect();
        let word = if self.except { "except" } else { "params" };
        write!(f, "{between}{word}=({})", names.join(" "))
    }
}

/// The names of an inner list, sorted, each once; `None` where one is no string, or there are too many.
fn names(list: &InnerList) -> Option<Box<[Box<str>]>> {
    if list.items.len() > NAMES_MAX {
        return None;
    }
    let name = |item: &sfv::Item| match &item.bare_item {
        BareItem::String(name) => Some(decode_form(name.as_str()).into()),
        _ => None,
    };
    let mut names = list.items.iter().map(name).collect::<Option<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names.into_boxed_slice())
}

/// Parameters as a query again, escaped wherever they could be misread: for people to look at.
#[must_use]
pub fn told(parameters: &[(Cow<'_, str>, Cow<'_, str>)]) -> String {
    let told = parameters
        .iter()
        .map(|(name, value)| format!("{}={}", plain(name), plain(value)));
    told.collect::<Vec<_>>().join("&")
}

/// The tag of everything under `path` that is stored for more queries than its own: any of them may
/// be the one that a purge names, and who purges need not know the variation. `authority` in normal
/// form; empty stands for every host.
#[must_use]
pub fn path_tag(authority: &str, path: &str) -> String {
    let mut key = KeyBuilder::new("search");
    key.part(authority.as_bytes());
    key.part(path.as_bytes());
    key.finish().tag()
}

/// Name and value of each parameter, as sent; a parameter without `=` has no value. Empty ones are
/// left out.
pub fn parameters(query: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| match parameter.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (parameter, None),
        })
}

/// A name or value of a form, decoded: `+` is a space; what is no UTF-8 is replaced.
#[must_use]
pub fn decode_form(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy();
    Cow::Owned(decoded.into_owned())
}

fn plain(text: &str) -> impl fmt::Display {
    utf8_percent_encode(text, PLAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, headers};
    use proptest::prelude::*;

    fn of(field: &str) -> Option<Variation> {
        Variation::of(&headers(&format!("no-vary-search: {field}")))
    }

    fn told_of(field: &str) -> String {
        of(field).map_or("default".into(), |variation| variation.to_string())
    }

    /// The draft's comparison, step by step, on whole queries.
    mod draft {
        pub(super) enum List {
            Wildcard,
            Of(Vec<String>),
        }
        pub(super) struct Config {
            pub no_vary: List,
            pub vary: List,
            pub vary_on_key_order: bool,
        }

        fn byte(hex: &[u8]) -> Option<u8> {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            Some((digit(*hex.first()?)? * 16 + digit(*hex.get(1)?)?) as u8)
        }

        fn decode(text: &[u8]) -> String {
            let (mut bytes, mut at) = (Vec::new(), 0);
            while at < text.len() {
                match (text[at], text.get(at + 1..at + 3).and_then(byte)) {
                    (b'%', Some(byte)) => {
                        bytes.push(byte);
                        at += 3;
                        continue;
                    }
                    (b'+', _) => bytes.push(b' '),
                    (other, _) => bytes.push(other),
                }
                at += 1;
            }
            String::from_utf8_lossy(&bytes).into_owned()
        }

        fn parse(query: Option<&str>) -> Vec<(String, String)> {
            let mut pairs = Vec::new();
            for sequence in query.unwrap_or("").as_bytes().split(|byte| *byte == b'&') {
                if sequence.is_empty() {
                    continue;
                }
                let end = sequence.iter().position(|byte| *byte == b'=');
                let (name, value) = match end {
                    Some(end) => (&sequence[..end], &sequence[end + 1..]),
                    None => (sequence, &b""[..]),
                };
                pairs.push((decode(name), decode(value)));
            }
            pairs
        }

        pub(super) fn equivalent(config: &Config, a: Option<&str>, b: Option<&str>) -> bool {
            let [a, b] = [a, b].map(|query| {
                let mut pairs = parse(query);
                if let List::Of(no_vary) = &config.no_vary {
                    pairs.retain(|pair| !no_vary.contains(&pair.0));
                } else if let List::Of(vary) = &config.vary {
                    pairs.retain(|pair| vary.contains(&pair.0));
                }
                if !config.vary_on_key_order {
                    pairs.sort_by_key(|pair| pair.0.encode_utf16().collect::<Vec<_>>());
                }
                pairs
            });
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.0 == b.0 && a.1 == b.1)
        }
    }

    #[test]
    fn what_the_draft_calls_valid_is_read_5_2() {
        for (field, told) in [
            ("key-order", "key-order"),
            ("key-order=?1;x=2", "key-order"),
            ("params=(\"a\")", "params=(\"a\")"),
            ("params=(\"b\";x \"a\" \"b\");y", "params=(\"a\" \"b\")"),
            ("except=(\"x\")", "except=(\"x\")"),
            ("except=(\"x\"), key-order", "key-order, except=(\"x\")"),
            ("except=()", "except=()"),
            ("except=(), other=1, more", "except=()"),
            ("params=(\"\")", "params=(\"\")"),
            (
                "params=(\"%C3%A9+%e6%b0%97\")",
                "params=(\"%C3%A9%20%E6%B0%97\")",
            ),
            // The last member of a name counts (RFC 9651 §4.2.2).
            ("params=?1, params=(\"a\")", "params=(\"a\")"),
        ] {
            assert_eq!(told_of(field), told, "{field}");
        }
        let lines = headers("no-vary-search: key-order\nno-vary-search: params=(\"a\")");
        let variation = Variation::of(&lines).unwrap();
        assert_eq!(variation.to_string(), "key-order, params=(\"a\")");
    }

    #[test]
    fn what_the_draft_calls_invalid_or_useless_is_the_default_5_2() {
        for field in [
            "",
            "unknown-key",
            "key-order=?0",
            "key-order=\"not a boolean\"",
            "key-order=(\"a\")",
            "params",
            "params=()",
            "params=?0",
            "params=?1",
            "params=\"not an inner list\"",
            "params=(not-a-string)",
            "params=(\"a\" 1)",
            "params=?1, except=(\"x\")",
            "params=(\"a\"), except=(\"x\")",
            "params=(), except=()",
            "except",
            "except=\"not an inner list\"",
            "except=(not-a-string)",
            "except=?1",
            "key-order, params=?1",
            "(\"a\")",
            "params=(\"a\"",
            "params=(\"a\"),",
            "params=(\"é\")",
        ] {
            assert_eq!(told_of(field), "default", "{field}");
        }
        assert_eq!(Variation::of(&HeaderMap::new()), None);
    }

    #[test]
    fn more_than_is_heeded_states_nothing() {
        let many = |count: usize| {
            let names: Vec<_> = (0..count).map(|n| format!("\"{n}\"")).collect();
            of(&format!("params=({})", names.join(" ")))
        };
        assert!(many(NAMES_MAX).is_some());
        assert!(many(NAMES_MAX + 1).is_none());
        assert!(of(&format!("params=(\"{}\")", "a".repeat(FIELD_BYTES_MAX))).is_none());
        let mut lines = headers("no-vary-search: key-order");
        for _ in 0..100 {
            let line = format!("x=\"{}\"", "a".repeat(100));
            lines.append(NO_VARY_SEARCH, line.parse().unwrap());
        }
        assert!(Variation::of(&lines).is_none());
    }

    #[test]
    fn queries_that_parse_to_the_same_are_the_same_6_1() {
        let variation = of("key-order").unwrap();
        let same = |one, other| variation.significant(one) == variation.significant(other);
        for (one, other) in [
            (None, Some("")),
            (Some("a=x"), Some("%61=%78")),
            (Some("a=é"), Some("a=%C3%A9")),
            (Some("a=%f6"), Some("a=%ef%bf%bd")),
            (Some("a=x&&&&"), Some("a=x")),
            (Some("a="), Some("a")),
            (Some("a=+"), Some("a=%20")),
            (Some("b=1&a=2"), Some("a=2&b=1")),
        ] {
            assert!(same(one, other), "{one:?} {other:?}");
        }
        for (one, other) in [
            (None, Some("a")),
            (Some("a=1&a=2"), Some("a=2&a=1")),
            (Some("a=%C3%A9"), Some("a=e%CC%81")),
            (Some("a=1%26b=2"), Some("a=1&b=2")),
        ] {
            assert!(!same(one, other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_is_told_can_be_read_in_one_way_only() {
        let variation = of("except=(\"a\" \"b&c\")").unwrap();
        let left = variation.significant(Some("b%26c=1%3d&x=1&a"));
        assert_eq!(told(&left), "b%26c=1%3D&a=");
        assert_ne!(path_tag("a", "/b"), path_tag("", "/b"));
    }

    proptest! {
        #[test]
        fn the_same_is_left_exactly_of_what_the_draft_calls_equivalent(
            names in proptest::collection::vec("(a|b|%61|%C3%A9|c\\+d|)", 0..3),
            except: bool,
            key_order: bool,
            one in proptest::option::of("((a|%61|b|é|%c3%A9|c\\+d|c%20d|%f6|%zz)?=?[12+]?&){0,4}"),
            other in proptest::option::of("((a|%61|b|é|%c3%A9|c\\+d|c%20d|%f6|%zz)?=?[12+]?&){0,4}"),
        ) {
            let listed: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
            let word = if except { "except" } else { "params" };
            let order = if key_order { ", key-order" } else { "" };
            let field = format!("{word}=({}){order}", listed.join(" "));
            let decoded = names.iter().map(|name| decode_form(name).into_owned()).collect();
            let config = draft::Config {
                no_vary: if except { draft::List::Wildcard } else { draft::List::Of(decoded) },
                vary: if except {
                    let names = names.iter().map(|name| decode_form(name).into_owned());
                    draft::List::Of(names.collect())
                } else {
                    draft::List::Wildcard
                },
                vary_on_key_order: !key_order,
            };
            let (one, other) = (one.as_deref(), other.as_deref());
            match of(&field) {
                Some(variation) => {
                    let same = variation.significant(one) == variation.significant(other);
                    prop_assert_eq!(same, draft::equivalent(&config, one, other), "{}", field);
                }
                None => prop_assert!(names.is_empty() && !except && !key_order),
            }
        }

        #[test]
        fn a_variation_is_its_text(
            names in proptest::collection::btree_set("[ -~é\\PC]{0,4}", 0..4),
            except: bool,
            key_order: bool,
        ) {
            let names: Box<[Box<str>]> = names.iter().map(|name| name.as_str().into()).collect();
            let variation = Variation { names, except, key_order };
            let is_default = variation.names.is_empty() && !except && !key_order;
            let read = of(&variation.to_string());
            prop_assert_eq!(read, (!is_default).then_some(variation));
        }

        #[test]
        fn no_field_and_no_query_makes_it_panic(value in any_value(), query in "\\PC{0,60}") {
            let response = HeaderMap::from_iter([(NO_VARY_SEARCH, value)]);
            if let Some(variation) = Variation::of(&response) {
                let _ = variation.significant(Some(&query));
            }
        }
    }
}
