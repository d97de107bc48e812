//! YAML text → a tree whose every node knows its line and column. The only place that knows `serde_yaml`.
//!
//! serde_yaml tells positions only in its errors. So each scalar is read by a visitor that keeps the
//! value and answers with an error: the error carries the exact place, and reading goes on behind it.

use super::problem::{Code, Fault};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Larger files are refused before they are parsed.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Brackets open at a time; the parser's time grows with their square.
const BRACKETS_MAX: usize = 64;

/// A text with the name that messages call it by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// File name, or what stands for one.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// A line, counted from 1, without its end; empty where there is none.
    #[must_use]
    pub fn line(&self, line: usize) -> &str {
        self.text
            .lines()
            .nth(line.saturating_sub(1))
            .unwrap_or_default()
    }
}

/// Line and column, both from 1; columns are characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// A node of the tree.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
    /// What was written, where the environment filled the value in.
    pub written: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing after the colon, or `null`.
    Null,
    /// Text, number or boolean, all as text.
    Scalar(String),
    /// A reference to this variable, which is not set.
    Unset(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One line of a map.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

impl Node {
    /// The entry or item that `path` (as `routes[2].ttl`) leads to: the place of its key, and itself.
    pub fn find(&self, path: &str) -> Option<(Place, &Self)> {
        let steps = path.split(['.', '[']).filter(|step| !step.is_empty());
        steps
            .into_iter()
            .try_fold((self.place, self), |(_, node), step| match &node.value {
                Value::Map(entries) => entries
                    .iter()
                    .find(|entry| entry.key == step)
                    .map(|entry| (entry.place, &entry.node)),
                Value::List(items) => {
                    let index: usize = step.trim_end_matches(']').parse().ok()?;
                    items.get(index).map(|item| (item.place, item))
                }
                _ => None,
            })
    }
}

impl Node {
    /// Empty lists and maps have no child to stand at: they stand where what holds them does.
    fn settle(&mut self, holder: Place) {
        if self.place.line == 0 {
            self.place = holder;
        }
        match &mut self.value {
            Value::List(items) => {
                let place = self.place;
                items.iter_mut().for_each(|item| item.settle(place));
            }
            Value::Map(entries) => entries
                .iter_mut()
                .for_each(|entry| entry.node.settle(entry.place)),
            _ => {}
        }
    }
}

/// Parses a text; the fault of one that is no YAML comes with its place.
pub(super) fn parse(text: &str) -> Result<Node, (Fault, Option<Place>)> {
    let whole = |message: String, fix: &str| (Fault::new(Code::E102, message, fix), None);
    if text.len() > FILE_BYTES_MAX {
        return Err(whole(
            format!("the file has {} bytes, more than 1 MiB", text.len()),
            "",
        ));
    }
    if brackets_open_max(text) > BRACKETS_MAX {
        return Err(whole(
            "brackets are nested too deeply".into(),
            "at most 64 may be open at a time",
        ));
    }
    let lines: Vec<&str> = text.lines().collect();
    let mut slot = None;
    let grow = Grow {
        slot: &mut slot,
        lines: &lines,
    };
    let result = grow.deserialize(serde_yaml::Deserializer::from_str(text));
    match (result, slot) {
        (Ok(()), Some(mut node)) => {
            node.settle(Place { line: 1, column: 1 });
            Ok(node)
        }
        (
            Err(error),
            None
            | Some(Node {
                value: Value::List(_) | Value::Map(_),
                ..
            }),
        ) => {
            let place = error.location().map(|at| Place {
                line: at.line(),
                column: at.column(),
            });
            // The parser does not say where a second document begins.
            let place = place.or_else(|| second_document(&lines));
            let line = place.map_or("", |place| lines.get(place.line - 1).unwrap_or(&""));
            Err((
                Fault::new(Code::E101, plain(&error.to_string()), advice(line)),
                place,
            ))
        }
        (
            _,
            Some(Node {
                value: Value::Null, ..
            }),
        ) => Ok(Node {
            place: Place { line: 1, column: 1 },
            value: Value::Map(Vec::new()),
            written: None,
        }),
        _ => Err((
            Fault::new(
                Code::E106,
                "the file is a single value",
                "write `upstream: http://localhost:3000`",
            ),
            Some(Place { line: 1, column: 1 }),
        )),
    }
}

/// Reads one node into its slot.
struct Grow<'a> {
    slot: &'a mut Option<Node>,
    lines: &'a [&'a str],
}

impl Grow<'_> {
    /// Keeps a scalar and asks for its place.
    fn scalar<E: Error>(self, value: Value) -> Result<(), E> {
        *self.slot = Some(Node {
            place: Place { line: 1, column: 1 },
            value,
            written: None,
        });
        Err(E::custom("here"))
    }

    /// Keeps a list or map, which stands where its first child does, or its bracket.
    fn branch(self, value: Value) {
        let child = match &value {
            Value::List(items) => items.first().map(|item| item.place),
            Value::Map(entries) => entries.first().map(|entry| entry.place),
            _ => None,
        };
        let mut place = child.unwrap_or(Place { line: 0, column: 0 });
        let line = self.lines.get(place.line.wrapping_sub(1)).unwrap_or(&"");
        let before: String = line.chars().take(place.column.saturating_sub(1)).collect();
        if before.trim_end().ends_with(['[', '{']) {
            place.column = before.trim_end().chars().count();
        }
        *self.slot = Some(Node {
            place,
            value,
            written: None,
        });
    }
}

/// The node that was read, with its place from the error that it answered with. Errors that are not
/// a scalar's are handed on.
fn placed<E: fmt::Display>(
    result: Result<(), E>,
    slot: Option<Node>,
    lines: &[&str],
) -> Result<Option<Node>, E> {
    let Err(error) = result else { return Ok(slot) };
    let Some(mut node) = slot else {
        return Err(error);
    };
    if matches!(node.value, Value::List(_) | Value::Map(_)) {
        return Err(error);
    }
    if let Some(place) = place_in(&error.to_string()) {
        node.place = place;
        if let Value::Scalar(text) = &mut node.value {
            as_written(text, place, lines);
        }
    }
    Ok(Some(node))
}

/// Reads `… at line 3 column 5`.
fn place_in(message: &str) -> Option<Place> {
    let (_, place) = message.rsplit_once(" at line ")?;
    let (line, column) = place.split_once(" column ")?;
    Some(Place {
        line: line.parse().ok()?,
        column: column.parse().ok()?,
    })
}

/// Numbers are shown as they stand in the file: `010`, `1.50`, `0x1F`.
fn as_written(text: &mut String, place: Place, lines: &[&str]) {
    let number = text.parse::<f64>().is_ok();
    let line = lines.get(place.line - 1).unwrap_or(&"");
    let written: String = line
        .chars()
        .skip(place.column - 1)
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_'))
        .collect();
    if number && !written.is_empty() {
        *text = written;
    }
}

impl<'de> DeserializeSeed<'de> for Grow<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Grow<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain YAML without tags")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.scalar(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(Value::Scalar(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(Value::Scalar(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(Value::Scalar(value.to_string()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<(), E> {
        self.scalar(Value::Scalar(value.to_string()))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<(), E> {
        self.scalar(Value::Scalar(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(Value::Scalar(value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.scalar(Value::Scalar(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut items = Vec::new();
        loop {
            let mut slot = None;
            let grown = seq.next_element_seed(Grow {
                slot: &mut slot,
                lines: self.lines,
            });
            match placed(grown.map(drop), slot, self.lines)? {
                Some(item) => items.push(item),
                None => break,
            }
        }
        self.branch(Value::List(items));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut entries = Vec::new();
        loop {
            let mut slot = None;
            let grown = map.next_key_seed(Grow {
                slot: &mut slot,
                lines: self.lines,
            });
            let Some(key) = placed(grown.map(drop), slot, self.lines)? else {
                break;
            };
            let place = key.place;
            let key = match key.value {
                Value::Scalar(text) => text,
                Value::Null => "null".into(),
                _ => return Err(A::Error::custom("a key is a list or a map")),
            };
            let mut slot = None;
            let grown = map.next_value_seed(Grow {
                slot: &mut slot,
                lines: self.lines,
            });
            let Some(node) = placed(grown, slot, self.lines)? else {
                break;
            };
            entries.push(Entry { key, place, node });
        }
        self.branch(Value::Map(entries));
        Ok(())
    }
}

/// The first `---` that something stands before.
fn second_document(lines: &[&str]) -> Option<Place> {
    let is_mark = |line: &str| line.strip_prefix("---").is_some_and(starts_blank);
    let is_content = |line: &&str| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with(['#', '%']) && !is_mark(line)
    };
    let first = lines.iter().position(is_content)?;
    let mark = lines.iter().skip(first).position(|line| is_mark(line))?;
    Some(Place {
        line: first + mark + 1,
        column: 1,
    })
}

fn starts_blank(text: &str) -> bool {
    text.is_empty() || text.starts_with([' ', '\t'])
}

/// The parser's message without its position, which is shown in its own way.
fn plain(message: &str) -> String {
    if message.contains("without tags") {
        return "YAML tags are not read here".into();
    }
    if message.contains("more than one document") {
        return "the file holds more than one YAML document".into();
    }
    let message = message.split(" at line ").next().unwrap_or(message);
    format!("this is not YAML: {message}")
}

fn advice(line: &str) -> &'static str {
    if line.contains('\t') {
        "indent with spaces, not tabs"
    } else if line.starts_with("---") {
        "keep one of them; a file is one configuration"
    } else if line.contains(": !") || line.contains("- !") {
        "remove the word with the exclamation mark, or quote the text"
    } else if line.contains('{') || line.contains('*') {
        "put text with braces, colons or a leading star in quotes: [\"car:{id}\"]"
    } else {
        ""
    }
}

/// How many brackets are open at the deepest point, roughly: quotes and comments are not looked at.
fn brackets_open_max(text: &str) -> usize {
    let mut open = 0_usize;
    let mut most = 0;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(node: &Node, path: &str, found: &mut Vec<(String, usize, usize)>) {
        match &node.value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    places(item, &format!("{path}[{index}]"), found);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    let path = format!("{path}.{}", entry.key);
                    found.push((format!("{path}:"), entry.place.line, entry.place.column));
                    places(&entry.node, &path, found);
                }
            }
            _ => found.push((path.to_owned(), node.place.line, node.place.column)),
        }
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let text = "a: 1\nb:\n  - x\n  - { c: [ 'd', 007 ], e: ~ }\n\"f\":   # why\n  >-\n  long\n  text\n";
        let mut found = Vec::new();
        places(&parse(text).unwrap(), "", &mut found);
        let found: Vec<_> = found
            .iter()
            .map(|(path, line, column)| (path.as_str(), *line, *column))
            .collect();
        assert_eq!(
            found,
            [
                (".a:", 1, 1),
                (".a", 1, 4),
                (".b:", 2, 1),
                (".b[0]", 3, 5),
                (".b[1].c:", 4, 7),
                (".b[1].c[0]", 4, 12),
                (".b[1].c[1]", 4, 17),
                (".b[1].e:", 4, 24),
                (".b[1].e", 4, 27),
                (".f:", 5, 1),
                (".f", 6, 3),
            ]
        );
    }

    #[test]
    fn an_alias_stands_where_its_anchor_does() {
        let tree = parse("a: &x { b: 1 }\nc: *x\nd: 2\n").unwrap();
        assert_eq!(
            tree.find("c.b").unwrap().1.place,
            Place {
                line: 1,
                column: 12
            }
        );
        assert_eq!(
            tree.find("d").unwrap().1.place,
            Place { line: 3, column: 4 }
        );
    }

    #[test]
    fn a_flood_of_brackets_is_refused_at_once() {
        assert_eq!(parse(&"[".repeat(200_000)).unwrap_err().0.code, Code::E102);
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        let (fault, place) = parse("routes:\n  - tags: [car:{id}]\n").unwrap_err();
        assert_eq!(fault.code, Code::E101);
        assert_eq!(place.unwrap().line, 2);
        assert!(fault.fix.contains("quotes"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_heap_of_yaml_marks_makes_the_parser_panic(text in "[-:{}\\[\\],&*!#|>'\"%@ \nab0~]{0,120}") {
            let _ = parse(&text);
        }
    }
}
