//! A look at GraphQL requests: is it a read, and what tells it from every other one?
//!
//! Reads only as much of the language as it takes to tell operations apart (GraphQL §2.1, §2.3).
//! Never runs, checks or completes a document; whatever could be read in two ways is no read.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Brackets open at a time in a document; deeper ones are not looked into.
pub const DEPTH_MAX: usize = 128;
/// Requests in one batch; larger ones are not looked into.
pub const BATCH_MAX: usize = 64;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// A query, or a batch of nothing else. Two requests with the same bytes ask for the same.
    Read(Vec<u8>),
    /// A mutation or a subscription, or what may be one.
    Other,
}

/// Looks at the content of a POST with `Content-Type: application/json`.
///
/// The bytes of [`Look::Read`] hold every member of the request: the document token by token (so
/// that indentation and commas make no difference), all others but for the white space of JSON.
#[must_use]
pub fn content(json: &[u8]) -> Look {
    let Ok(text) = std::str::from_utf8(json) else {
        return Look::Other;
    };
    let mut normal = Vec::with_capacity(text.len());
    let read = match text.trim_start_matches(JSON_SPACE).starts_with('[') {
        true => batch(text, &mut normal),
        false => request(text, &mut normal),
    };
    match read {
        Some(()) => Look::Read(normal),
        None => Look::Other,
    }
}

/// Whether `document` with this `operationName`, both from a URL, is a query.
#[must_use]
pub fn is_query(document: &str, operation: Option<&str>) -> bool {
    let mut normal = Vec::new();
    tokens(document, &mut normal)
        .is_some_and(|tokens| selected(&tokens, operation) == Some("query"))
}

const JSON_SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

fn batch(text: &str, normal: &mut Vec<u8>) -> Option<()> {
    let members: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    if members.is_empty() || members.len() > BATCH_MAX {
        return None;
    }
    normal.push(b'[');
    members
        .iter()
        .try_for_each(|member| request(member.get(), normal))
}

/// One request; its normal form is added to `normal`, every part with its length before it.
fn request(text: &str, normal: &mut Vec<u8>) -> Option<()> {
    let Members(mut members) = serde_json::from_str(text).ok()?;
    let find = |name: &str| members.iter().find(|(known, _)| known == name);
    let document: String = serde_json::from_str(find("query")?.1.get()).ok()?;
    let operation: Option<String> = match find("operationName") {
        Some((_, value)) => serde_json::from_str(value.get()).ok()?,
        None => None,
    };
    let mut tokens_normal = Vec::with_capacity(document.len());
    let tokens = tokens(&document, &mut tokens_normal)?;
    if selected(&tokens, operation.as_deref())? != "query" {
        return None;
    }
    // An object is the same in any order; that no name comes twice was made sure of.
    members.sort_by(|one, other| one.0.cmp(&other.0));
    part(normal, &(members.len() as u32).to_le_bytes());
    for (name, value) in members {
        part(normal, name.as_bytes());
        match name.as_str() {
            "query" => part(normal, &tokens_normal),
            _ => part(normal, &without_space(value.get())),
        }
    }
    Some(())
}

fn part(normal: &mut Vec<u8>, bytes: &[u8]) {
    normal.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    normal.extend_from_slice(bytes);
}

/// The members of an object, each name once: who reads the first of two and who reads the last would
/// run different documents.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if members.len() >= MEMBERS_MAX || members.iter().any(|(had, _)| *had == name) {
                        return Err(A::Error::custom("a name twice, or too many"));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Members of one request: there are four by the protocol, and what servers add.
const MEMBERS_MAX: usize = 32;

/// Valid JSON without the white space between its tokens, which never separates two of them.
fn without_space(json: &str) -> Vec<u8> {
    let (mut quoted, mut escaped) = (false, false);
    json.bytes()
        .filter(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b' ' | b'\t' | b'\r' | b'\n' => return quoted,
                _ => {}
            }
            true
        })
        .collect()
}

/// The tokens of a document, comments left out; `normal` gets them with one space after each, and
/// comments with their line's end: some servers take hints from those. `None`: no GraphQL.
fn tokens<'a>(document: &'a str, normal: &mut Vec<u8>) -> Option<Vec<&'a str>> {
    let mut found = Vec::new();
    let mut rest = document;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n', ',', '\u{feff}']);
        let Some(first) = rest.bytes().next() else {
            return Some(found);
        };
        let length = match first {
            b'#' => rest.find(['\r', '\n']).unwrap_or(rest.len()),
            b'!' | b'$' | b'&' | b'(' | b')' | b':' | b'=' | b'@' | b'[' | b']' | b'{' | b'|'
            | b'}' => 1,
            b'.' => rest.starts_with("...").then_some(3)?,
            b'"' => string(rest)?,
            b'_' | b'A'..=b'Z' | b'a'..=b'z' => name(rest),
            b'-' | b'0'..=b'9' => number(rest)?,
            _ => return None,
        };
        let (token, after) = rest.split_at(length);
        normal.extend_from_slice(token.as_bytes());
        if first == b'#' {
            normal.push(b'\n');
        } else {
            normal.push(b' ');
            found.push(token);
        }
        rest = after;
    }
}

fn name(text: &str) -> usize {
    let part = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    text.bytes().take_while(|byte| part(*byte)).count()
}

/// A number; a name or a point right behind one is no GraphQL (§2.9.1).
fn number(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut length = usize::from(bytes.first() == Some(&b'-'));
    while let Some(byte) = bytes.get(length) {
        match byte {
            b'0'..=b'9' | b'.' => length += 1,
            b'e' | b'E' => {
                let sign = matches!(bytes.get(length + 1), Some(b'+' | b'-'));
                length += 1 + usize::from(sign);
            }
            b'_' | b'A'..=b'Z' | b'a'..=b'z' => return None,
            _ => break,
        }
    }
    Some(length)
}

/// The length of a string or block string, quotes included (§2.9.4).
fn string(text: &str) -> Option<usize> {
    if text.starts_with("\"\"\"") {
        let mut at = 3;
        loop {
            let end = at + text[at..].find("\"\"\"")?;
            if !text[..end].ends_with('\\') {
                return Some(end + 3);
            }
            at = end + 3;
        }
    }
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'\r' | b'\n' => return None,
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The kind of the operation that would run: `query`, `mutation` or `subscription`. `None` where
/// that cannot be told, or the document holds what is no operation and no fragment.
fn selected<'a>(tokens: &[&'a str], wanted: Option<&str>) -> Option<&'a str> {
    let mut operations: Vec<(&str, Option<&str>)> = Vec::new();
    let mut rest = tokens;
    while let Some(first) = rest.first() {
        let named = rest.get(1).copied().filter(|token| is_name(token));
        match *first {
            "{" => operations.push(("query", None)),
            kind @ ("query" | "mutation" | "subscription") => operations.push((kind, named)),
            "fragment" => {}
            _ => return None,
        }
        rest = behind_selection(rest)?;
    }
    let mut chosen = operations
        .iter()
        .filter(|(_, name)| wanted.is_none_or(|wanted| *name == Some(wanted)));
    match (chosen.next(), chosen.next()) {
        (Some((kind, _)), None) => Some(kind),
        _ => None,
    }
}

fn is_name(token: &str) -> bool {
    token
        .bytes()
        .next()
        .is_some_and(|byte| byte == b'_' || byte.is_ascii_alphabetic())
}

/// What follows the definition that `tokens` begin with: the braces of its selection set are the
/// first that stand in no other brackets (those of variables and arguments do).
fn behind_selection<'a, 'b>(tokens: &'b [&'a str]) -> Option<&'b [&'a str]> {
    let mut open: Vec<&str> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let closed = match *token {
            "{" | "(" | "[" if open.len() < DEPTH_MAX => {
                open.push(token);
                continue;
            }
            "}" => "{",
            ")" => "(",
            "]" => "[",
            "{" | "(" | "[" => return None,
            _ => continue,
        };
        if open.pop() != Some(closed) {
            return None;
        }
        if open.is_empty() && *token == "}" {
            return Some(&tokens[at + 1..]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn look(body: &str) -> Look {
        content(body.as_bytes())
    }

    fn asks(document: &str) -> Look {
        look(&json!({ "query": document }).to_string())
    }

    fn named(document: &str, operation: &str) -> Look {
        look(&json!({ "query": document, "operationName": operation }).to_string())
    }

    fn is_read(look: &Look) -> bool {
        matches!(look, Look::Read(_))
    }

    #[test]
    fn a_query_is_a_read_and_nothing_else_is() {
        for query in [
            "{a}",
            "query{a}",
            "query Q{a}",
            "query Q($a:I={b:{c:1}})@d(e:{f:[1]}){a}",
            "fragment F on T{a} query{...F}",
            "query($s:String=\"} mutation{\"){a(s:$s)}",
            "# mutation\n{a(b:\"\"\"mutation{ \\\"\"\" }\"\"\", c:-1.5e+3)}",
        ] {
            assert!(is_read(&asks(query)), "{query}");
        }
        for other in [
            "",
            "mutation{a}",
            "subscription{a}",
            "fragment F on T{a}",
            "type T{a:B}",
            "extend type T{a:B}",
            "{a",
            "{a)}",
            "{a}}",
            "{a}{b}",
            "query{a} mutation M{b}",
            "{a(b:\"x)}",
            "{a(b:1x)}",
            "{a} ?",
            "\u{feff}mutation{a}",
            ",#x\n,mutation{a}",
        ] {
            assert_eq!(asks(other), Look::Other, "{other}");
        }
        assert_eq!(
            asks(&format!(
                "{}{}",
                "{a".repeat(DEPTH_MAX + 1),
                "}".repeat(DEPTH_MAX + 1)
            )),
            Look::Other
        );
    }

    #[test]
    fn the_operation_name_selects() {
        let both = "query Q{a} mutation M{b}";
        assert!(is_read(&named(both, "Q")));
        for other in ["M", "X", ""] {
            assert_eq!(named(both, other), Look::Other, "{other:?}");
        }
        assert_eq!(named("query Q{a} mutation Q{b}", "Q"), Look::Other);
        assert!(is_read(&look(r#"{"query":"{a}","operationName":null}"#)));
        assert_eq!(look(r#"{"query":"{a}","operationName":1}"#), Look::Other);
        assert!(is_query(both, Some("Q")) && !is_query(both, Some("M")) && !is_query(both, None));
    }

    #[test]
    fn what_is_no_plain_request_is_no_read() {
        for body in [
            "",
            "null",
            "{}",
            "[]",
            "{a}",
            r#"{"query":1}"#,
            r#"{"query":"{a}"} x"#,
            r#"{"query":"{a}","query":"mutation{b}"}"#,
            r#"{"query":"{a}","qu\u0065ry":"mutation{b}"}"#,
            r#"{"extensions":{"persistedQuery":{"sha256Hash":"x"}}}"#,
            r#"[{"query":"{a}"},{"query":"mutation{b}"}]"#,
            r#"[[{"query":"{a}"}]]"#,
            "\u{feff}{\"query\":\"{a}\"}",
        ] {
            assert_eq!(look(body), Look::Other, "{body}");
        }
        assert_eq!(content(b"{\"query\":\"{a(b:\\\"\xff\\\")}\"}"), Look::Other);
        let batch = |size: usize| format!("[{}]", vec![r#"{"query":"{a}"}"#; size].join(","));
        assert!(is_read(&look(&batch(BATCH_MAX))));
        assert_eq!(look(&batch(BATCH_MAX + 1)), Look::Other);
    }

    #[test]
    fn indentation_makes_no_difference_and_everything_else_does() {
        let one = look(r#"{"query":"{ a(b: [1, 2]) { c } }","variables":{"x": " 1 "}}"#);
        let same =
            look("{ \"variables\": {\"x\":\" 1 \"},\n \"query\": \"{a(b:[1 2]){\\n  c\\n}}\" }");
        assert!(is_read(&one));
        assert_eq!(one, same);
        let bodies = [
            r#"{"query":"{a}"}"#,
            r#"{"query":"{b}"}"#,
            r#"{"query":"query Q{a}"}"#,
            r#"{"query":"{a}","operationName":null}"#,
            r#"{"query":"{a}","variables":null}"#,
            r#"{"query":"{a}","variables":{}}"#,
            r#"{"query":"{a}","variables":{"x":1}}"#,
            r#"{"query":"{a}","variables":{"x":1.0}}"#,
            r#"{"query":"{a}","variables":{"x":"1"}}"#,
            r#"{"query":"{a}","variables":{"x":" 1"}}"#,
            r#"{"query":"{a}","variables":{"x":12345678901234567890123}}"#,
            r#"{"query":"{a}","variables":{"x":12345678901234567890124}}"#,
            r#"{"query":"{a}","extensions":{"x":1}}"#,
            r#"{"query":"{a(b:\"c  d\")}"}"#,
            r#"{"query":"{a(b:\"c d\")}"}"#,
            r##"{"query":"#1\n{a}"}"##,
            r##"{"query":"#2\n{a}"}"##,
            r#"[{"query":"{a}"}]"#,
            r#"[{"query":"{a}"},{"query":"{a}"}]"#,
        ];
        for (at, body) in bodies.iter().enumerate() {
            assert!(is_read(&look(body)), "{body}");
            for other in &bodies[..at] {
                assert_ne!(look(body), look(other), "{body} {other}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = content(&bytes);
        }

        #[test]
        fn no_document_makes_it_panic(document in "[a-c{}()\\[\\]\"\\\\#.,:$@!&|= \n0-9eE+-]{0,60}") {
            let _ = asks(&document);
        }

        /// The tokens, read again from the normal form, are those of the document: two documents with
        /// one normal form have the same tokens.
        #[test]
        fn the_normal_form_of_a_document_loses_no_token(document in "[a-c{}()\"\\\\#.,: \n0-9e+-]{0,60}") {
            let (mut normal, mut again) = (Vec::new(), Vec::new());
            if let Some(found) = tokens(&document, &mut normal) {
                let text = String::from_utf8(normal.clone()).unwrap();
                prop_assert_eq!(tokens(&text, &mut again), Some(found));
                prop_assert_eq!(normal, again);
            }
        }

        #[test]
        fn a_document_with_a_mutation_alone_is_never_a_read(
            before in "[ ,\n]{0,3}(#[a-z{}]{0,5}\n)?",
            name in "[A-Za-z_]{0,5}",
            after in "[ ,\n]{0,3}",
            kind in "mutation|subscription",
        ) {
            let document = format!("{before}{kind} {name}{after}{{a}}");
            prop_assert_eq!(asks(&document), Look::Other);
            let json = json!({ "query": document, "operationName": name }).to_string();
            prop_assert_eq!(look(&json), Look::Other);
        }

        #[test]
        fn two_requests_have_one_form_only_if_their_json_is_one(
            one in "(\\{a\\}|query Q\\{a\\}|\\{ a b\\})",
            other in "(\\{a\\}|query Q\\{a\\}|\\{ a b\\})",
            x in any::<Option<i8>>(),
            y in any::<Option<i8>>(),
        ) {
            let body = |query: &str, x: Option<i8>| json!({ "query": query, "variables": { "x": x } });
            let (a, b) = (body(&one, x), body(&other, y));
            prop_assert_eq!(look(&a.to_string()) == look(&format!("{b:#}")), a == b);
        }
    }
}
