//! A request target read twice: as sent (for the app) and decoded (for rules and limits).
//!
//! Never changes what is sent to the app.

pub use crate::semantics::search::decode_form;
use crate::semantics::search::parameters;
use std::borrow::Cow;

/// Path and query of a request.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// The path exactly as received; forwarded so.
    pub path: &'a str,
    /// The query exactly as received, without `?`.
    pub query: Option<&'a str>,
    /// The path percent-decoded, slashes collapsed, dots resolved: rules are chosen on it.
    pub decoded: Cow<'a, str>,
    /// The path can be read in two ways (encoded delimiters, dot segments, `//`, `;`, `\`, bare
    /// non-ASCII, control bytes, what is no UTF-8): it is forwarded, never cached, and limited as
    /// `decoded`.
    pub ambiguous: bool,
}

impl<'a> Target<'a> {
    /// Reads an origin-form target.
    #[must_use]
    pub fn parse(path: &'a str, query: Option<&'a str>) -> Self {
        let (decoded, ambiguous) = read(path);
        Self {
            path,
            query,
            decoded,
            ambiguous,
        }
    }

    /// The first value of a query parameter, decoded.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<Cow<'a, str>> {
        parameters(self.query?)
            .find(|(known, _)| decode_form(known) == name)
            .map(|(_, value)| decode_form(value.unwrap_or_default()))
    }
}

/// Decoded path, and whether it can be read otherwise.
fn read(path: &str) -> (Cow<'_, str>, bool) {
    let bytes = path.as_bytes();
    let plain = bytes
        .iter()
        .all(|byte| byte.is_ascii_graphic() && !b"%;\\".contains(byte))
        && !bytes.windows(2).any(|two| two == b"//")
        && !has_dot_segment(path);
    if plain {
        return (Cow::Borrowed(path), false);
    }
    let decoded = percent_encoding::percent_decode(bytes).collect::<Vec<u8>>();
    let decoded = String::from_utf8_lossy(&decoded);
    let ambiguous = decoded.contains(['\\', ';', char::REPLACEMENT_CHARACTER])
        || decoded.chars().any(char::is_control)
        || decoded.contains("//")
        || has_dot_segment(&decoded)
        || !path.is_ascii()
        || has_ambiguous_escape(bytes);
    if !ambiguous {
        return (Cow::Owned(decoded.into_owned()), false);
    }
    (Cow::Owned(resolved(&decoded)), true)
}

fn has_dot_segment(path: &str) -> bool {
    path.contains('.') && path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// A percent sign that is no escape, or an escape that hides a delimiter or another escape.
fn has_ambiguous_escape(path: &[u8]) -> bool {
    path.iter().enumerate().any(|(at, byte)| {
        let digit = |ahead| {
            let byte = *path.get(at + ahead)?;
            char::from(byte).to_digit(16)
        };
        *byte == b'%'
            && match (digit(1), digit(2)) {
                (Some(high), Some(low)) => {
                    let hidden = u8::try_from(high * 16 + low).unwrap_or_default();
                    b"/\\?#;%".contains(&hidden)
                }
                _ => true,
            }
    })
}

/// The reading that reaches furthest: backslashes are slashes, slashes collapse, dots climb.
fn resolved(decoded: &str) -> String {
    if !decoded.starts_with(['/', '\\']) {
        return decoded.to_owned();
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in decoded.split(['/', '\\']) {
        ends_open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut path = String::with_capacity(decoded.len());
    for segment in &segments {
        path.push('/');
        path.push_str(segment);
    }
    if ends_open || segments.is_empty() {
        path.push('/');
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(path: &str) -> (String, bool) {
        let target = Target::parse(path, None);
        (target.decoded.into_owned(), target.ambiguous)
    }

    #[test]
    fn an_ordinary_path_is_read_as_it_is() {
        for path in [
            "/",
            "/api/cars/42",
            "/a/",
            "/a.b/..c",
            "*",
            "/~a_b-c:@!$&'()*+,=",
        ] {
            let target = Target::parse(path, None);
            assert!(matches!(target.decoded, Cow::Borrowed(_)), "{path}");
            assert_eq!(read(path), (path.to_owned(), false));
        }
    }

    #[test]
    fn escapes_of_ordinary_letters_are_decoded() {
        assert_eq!(
            read("/%61pi/price%20list"),
            ("/api/price list".into(), false)
        );
        assert_eq!(read("/caf%C3%A9"), ("/café".into(), false));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_ambiguous() {
        for (path, decoded) in [
            ("/api//cars", "/api/cars"),
            ("/api/./cars", "/api/cars"),
            ("/x/../api", "/api"),
            ("/x/%2e%2E/api", "/api"),
            ("/../../a", "/a"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/api%2Fcars", "/api/cars"),
            ("/api%5ccars", "/api/cars"),
            ("/api\\cars", "/api/cars"),
            ("/api;v=1/cars", "/api;v=1/cars"),
            ("/api%3bx", "/api;x"),
            ("/api%3Fx", "/api?x"),
            ("/api%23x", "/api#x"),
            ("/a%2561", "/a%61"),
            ("/a%00", "/a\0"),
            ("/a%0d%0ab", "/a\r\nb"),
            ("/a%", "/a%"),
            ("/a%zz", "/a%zz"),
            ("/a%ff", "/a\u{fffd}"),
            ("/%c0%ae", "/\u{fffd}\u{fffd}"),
            ("/café", "/café"),
        ] {
            assert_eq!(read(path), (decoded.to_owned(), true), "{path}");
        }
    }

    #[test]
    fn a_query_value_is_the_first_of_its_name_decoded() {
        let target = Target::parse("/", Some("a=1&b=x+y%21&a=2&c&&%64=e"));
        let value = |name| target.query_value(name).map(Cow::into_owned);
        assert_eq!(value("a").as_deref(), Some("1"));
        assert_eq!(value("b").as_deref(), Some("x y!"));
        assert_eq!(value("c").as_deref(), Some(""));
        assert_eq!(value("d").as_deref(), Some("e"));
        assert_eq!(value("e"), None);
        assert_eq!(Target::parse("/", None).query_value("a"), None);
    }

    proptest! {
        #[test]
        fn a_path_read_in_one_way_only_has_no_second_one(path in "/[a-z./%25;\\\\é2fFeE0]{0,20}") {
            let target = Target::parse(&path, None);
            if target.ambiguous {
                prop_assert!(!has_dot_segment(&target.decoded) && !target.decoded.contains("//"));
            } else {
                let again = Target::parse(&target.decoded, None);
                prop_assert!(again.decoded == target.decoded);
            }
        }

        #[test]
        fn nothing_makes_it_panic(path in "\\PC{0,60}", query in "\\PC{0,60}") {
            let target = Target::parse(&path, Some(&query));
            let _ = target.query_value("a");
        }
    }
}
