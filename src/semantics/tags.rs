//! Tags as apps name them in fields of their answers, in the dialects that CDNs have taught them.
//!
//! Reads and removes fields; what the tags are for is not its question.

use super::fields::trim;
use http::{HeaderMap, HeaderName};

/// The most tags of one answer that are heeded.
pub const TAGS_MAX: usize = 128;
/// The longest tag that is heeded, in bytes.
pub const TAG_BYTES_MAX: usize = 256;

/// Between spaces (Fastly).
const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
/// Between spaces or commas (Varnish's xkey).
const XKEY: HeaderName = HeaderName::from_static("xkey");
/// Between commas (Cloudflare).
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
/// Between commas (Akamai).
const EDGE_CACHE_TAG: HeaderName = HeaderName::from_static("edge-cache-tag");

const FIELDS: [HeaderName; 4] = [SURROGATE_KEY, XKEY, CACHE_TAG, EDGE_CACHE_TAG];

/// The tags that the fields of an answer name: each once, bounded in number and length. What is no
/// text, or too long, is left out.
#[must_use]
pub fn named(answer: &HeaderMap) -> Vec<String> {
    let mut tags = Vec::new();
    for field in FIELDS {
        for value in answer.get_all(&field) {
            let separates = |byte: &u8| match byte {
                b' ' => field == SURROGATE_KEY || field == XKEY,
                b',' => field != SURROGATE_KEY,
                _ => false,
            };
            for tag in value.as_bytes().split(separates) {
                if tags.len() >= TAGS_MAX {
                    return tags;
                }
                let tag = trim(tag);
                if let Ok(tag) = std::str::from_utf8(tag)
                    && (1..=TAG_BYTES_MAX).contains(&tag.len())
                    && !tags.iter().any(|known| known == tag)
                {
                    tags.push(tag.to_owned());
                }
            }
        }
    }
    tags
}

/// Removes these fields: what an answer is tagged with is no client's business.
pub fn remove(answer: &mut HeaderMap) {
    // Most answers have none of them: to see that costs less than to look each of them up.
    if answer.keys().any(|name| FIELDS.contains(name)) {
        for field in &FIELDS {
            answer.remove(field);
        }
    }
}

/// Both: the tags, and nothing left of the fields.
pub fn take(answer: &mut HeaderMap) -> Vec<String> {
    let tags = named(answer);
    remove(answer);
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, headers};
    use proptest::prelude::*;

    #[test]
    fn each_dialect_has_its_own_separators() {
        for (fields, tags) in [
            (
                "surrogate-key: car:1 fleet,all",
                &["car:1", "fleet,all"][..],
            ),
            ("cache-tag: car 1, fleet ,", &["car 1", "fleet"]),
            ("edge-cache-tag: a,b", &["a", "b"]),
            ("xkey: a b,c", &["a", "b", "c"]),
            ("xkey: a\nxkey: b\ncache-tag: a", &["a", "b"]),
            ("cache-control: public", &[]),
        ] {
            assert_eq!(named(&headers(fields)), tags, "{fields}");
        }
    }

    #[test]
    fn nothing_is_left_of_the_fields() {
        let mut answer =
            headers("xkey: a\nsurrogate-key: b\nx: y\ncache-tag: c\nedge-cache-tag: d");
        assert_eq!(take(&mut answer), ["b", "a", "c", "d"]);
        assert_eq!(answer, headers("x: y"));
    }

    #[test]
    fn number_and_length_are_bounded() {
        let many: Vec<_> = (0..1_000).map(|n| n.to_string()).collect();
        let many = headers(&format!("surrogate-key: {}", many.join(" ")));
        assert_eq!(named(&many).len(), TAGS_MAX);
        let long = |length: usize| headers(&format!("cache-tag: {}", "x".repeat(length)));
        assert_eq!(named(&long(TAG_BYTES_MAX)).len(), 1);
        assert_eq!(named(&long(TAG_BYTES_MAX + 1)).len(), 0);
    }

    proptest! {
        #[test]
        fn no_field_makes_it_panic(value in any_value(), field in 0..FIELDS.len()) {
            let answer = HeaderMap::from_iter([(FIELDS[field].clone(), value)]);
            prop_assert!(named(&answer).len() <= TAGS_MAX);
        }
    }
}
