//! Groups of stored responses, as the app names them (RFC 9875).
//!
//! Gives the tags that groups are; never reaches into a store.

use super::KeyBuilder;
use super::fields::combined;
use super::invalidation::is_safe;
use http::{HeaderMap, HeaderName, Method};
use sfv::{BareItem, List, ListEntry, Parser};

/// The most groups of one field that are heeded; the standard wants at least 32.
pub const GROUPS_MAX: usize = 128;
/// The longest name of a group, in bytes; the standard wants at least 32 characters.
pub const GROUP_BYTES_MAX: usize = 256;
/// Names the groups that a response belongs to.
pub const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
/// Names the groups that an unsafe request has ended.
pub const CACHE_GROUP_INVALIDATION: HeaderName =
    HeaderName::from_static("cache-group-invalidation");

const FIELDS: [HeaderName; 2] = [CACHE_GROUPS, CACHE_GROUP_INVALIDATION];

/// The tags of the groups that a response of this origin belongs to (RFC 9875 §2). `authority` in
/// normal form: groups of two origins never meet.
#[must_use]
pub fn joined(authority: &str, response: &HeaderMap) -> Vec<String> {
    tags(authority, response, &CACHE_GROUPS)
}

/// The tags of the groups that the answer to an unsafe request ends (RFC 9875 §3). What they end
/// does not go on to end further groups. Empty for safe methods, whatever the answer says.
#[must_use]
pub fn ended(method: &Method, authority: &str, response: &HeaderMap) -> Vec<String> {
    if is_safe(method) {
        return Vec::new();
    }
    tags(authority, response, &CACHE_GROUP_INVALIDATION)
}

/// The groups that it belongs to, and nothing left of either field: what groups an answer has is no
/// client's business.
#[must_use]
pub fn take(authority: &str, response: &mut HeaderMap) -> Vec<String> {
    if !is_grouped(response) {
        return Vec::new();
    }
    let groups = joined(authority, response);
    remove(response);
    groups
}

/// Removes both fields.
pub fn remove(response: &mut HeaderMap) {
    if is_grouped(response) {
        for field in &FIELDS {
            response.remove(field);
        }
    }
}

/// Most answers have neither field: to see that costs less than to look both of them up.
fn is_grouped(response: &HeaderMap) -> bool {
    response.keys().any(|name| FIELDS.contains(name))
}

/// Names are compared case-sensitively, parameters mean nothing, and a field that is no list of
/// strings names no group at all.
fn tags(authority: &str, response: &HeaderMap, field: &HeaderName) -> Vec<String> {
    let Some(whole) = combined(response, field) else {
        return Vec::new();
    };
    let Ok(list): Result<List, _> = Parser::new(whole.as_ref()).parse() else {
        return Vec::new();
    };
    let names = list.iter().map(|entry| match entry {
        ListEntry::Item(item) => match &item.bare_item {
            BareItem::String(name) => Some(name.as_str()),
            _ => None,
        },
        ListEntry::InnerList(_) => None,
    });
    let Some(names) = names.collect::<Option<Vec<_>>>() else {
        return Vec::new();
    };
    let fits = |name: &&str| name.len() <= GROUP_BYTES_MAX;
    let mut tags: Vec<String> = names
        .into_iter()
        .filter(fits)
        .take(GROUPS_MAX)
        .map(|name| tag(authority, name))
        .collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// The tag that the group `name` of this origin is; `authority` in normal form.
#[must_use]
pub fn tag(authority: &str, name: &str) -> String {
    let mut key = KeyBuilder::new("group");
    key.part(authority.as_bytes());
    key.part(name.as_bytes());
    key.finish().tag()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, headers};
    use proptest::prelude::*;

    fn of(value: &str) -> Vec<String> {
        joined("a.test", &headers(&format!("cache-groups: {value}")))
    }

    #[test]
    fn groups_are_strings_compared_with_their_case_rfc9875_2() {
        assert_eq!(of("\"one\", \"two\"").len(), 2);
        assert_eq!(of("\"one\";a=b, \"one\""), of("\"one\""));
        assert_ne!(of("\"One\""), of("\"one\""));
        let lines = headers("cache-groups: \"one\"\ncache-groups: \"two\"");
        assert_eq!(joined("a.test", &lines), of("\"two\", \"one\""));
        assert_ne!(
            joined("b.test", &headers("cache-groups: \"one\"")),
            of("\"one\"")
        );
    }

    #[test]
    fn what_is_no_list_of_strings_names_nothing_rfc9875_2() {
        for bad in [
            "one",
            "\"one\", two",
            "(\"one\")",
            "\"one",
            "1",
            "",
            "\"one\",",
        ] {
            assert!(of(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn a_safe_request_ends_no_group_rfc9875_3() {
        let says = headers("cache-group-invalidation: \"one\"");
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(ended(&method, "a.test", &says).is_empty());
        }
        assert_eq!(ended(&Method::POST, "a.test", &says), of("\"one\""));
    }

    #[test]
    fn as_many_and_as_long_as_the_standard_wants_are_heeded_and_no_end_of_them() {
        let many = |count: usize, length: usize| {
            let names: Vec<_> = (0..count).map(|n| format!("\"{n:0length$}\"")).collect();
            of(&names.join(",")).len()
        };
        assert_eq!(many(32, 32), 32);
        assert_eq!(many(10_000, 4), GROUPS_MAX);
        assert_eq!(many(1, GROUP_BYTES_MAX + 1), 0);
    }

    proptest! {
        #[test]
        fn no_field_makes_it_panic(value in any_value()) {
            let response = HeaderMap::from_iter([(CACHE_GROUPS, value)]);
            prop_assert!(joined("a", &response).len() <= GROUPS_MAX);
        }
    }
}
