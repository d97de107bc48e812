//! A serde deserializer over the tree that does not stop at the first problem.
//!
//! It records a problem where it stands, skips the value, and goes on: every field of the raw types
//! is a [`Given`], which is `Bad` where its value was refused.

use super::problem::{Code, Fault, Problem, closest};
use super::tree::{Entry, Node, Place, Value};
use serde::de::value::StrDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, Expected, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use std::cell::RefCell;
use std::fmt;

/// The name of the newtype that lets a short and a long form be told apart: a scalar is visited by
/// `visit_some`, a list or a map by `visit_newtype_struct`.
pub(super) const SHORT_OR_LONG: &str = "short or long";
/// The name of the newtype for which an unset variable is an empty text.
pub(super) const UNSET_IS_EMPTY: &str = "unset is empty";

/// Keys of the design that do not work yet, by the raw type they will belong to.
const NOT_YET: &[(&str, &[&str])] = &[
    ("Raw", &["warm", "tests"]),
    ("Listen", &["proxy_protocol"]),
    ("Limits", &["count"]),
    ("Limit", &["burst", "status", "count", "algorithm"]),
    ("Tier", &["burst", "status", "count", "algorithm"]),
    ("Redis", &["cluster", "sentinel"]),
    ("Route", &["host", "query", "headers", "status", "warm"]),
];

/// What people are used to from elsewhere, beside our word; too far apart for a spelling mistake.
const HABITS: &[(&str, &str)] = &[
    ("origin", "upstream"),
    ("backend", "upstream"),
    ("target", "upstream"),
    ("port", "listen"),
    ("rate_limit", "limits"),
    ("ratelimit", "limits"),
    ("auth", "identity"),
    ("logging", "log"),
    ("server", "listen"),
    ("cache", "ttl"),
    ("max_age", "ttl"),
    ("expires", "ttl"),
    ("rate_limit", "limit"),
    ("url", "path"),
    ("match", "path"),
    ("swr", "stale_while_revalidate"),
    ("stale", "stale_while_revalidate"),
    ("sie", "stale_if_error"),
    ("vary", "key"),
    ("invalidate", "purge"),
    ("max_size", "memory"),
    ("size", "memory"),
];

/// A field as the file gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Given<T> {
    /// Not in the file.
    #[default]
    Absent,
    /// In the file, but refused or unknown; that has been told.
    Bad,
    /// Read.
    Value(T),
}

impl<T> Given<T> {
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            _ => None,
        }
    }

    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The deserializer has recorded what went wrong.
        Ok(T::deserialize(deserializer).map_or(Self::Bad, Self::Value))
    }
}

/// Reads a whole tree; the problems are added to `problems`. `ignore_unset` is `--no-env`.
pub(super) fn read<'de, T: Deserialize<'de> + Default>(
    root: &'de Node,
    ignore_unset: bool,
    problems: &mut Vec<Problem>,
) -> T {
    let reader = Reader {
        problems: RefCell::default(),
        ignore_unset,
        root,
    };
    let value = T::deserialize(At {
        node: root,
        path: &Path::Root,
        reader: &reader,
    });
    problems.append(&mut reader.problems.into_inner());
    value.unwrap_or_default()
}

/// What something at `path` is called in a sentence: `` route `car` ``, `` `redis.breaker` ``.
pub(super) fn owner(root: &Node, path: &str) -> String {
    let named = path.split_once(']').and_then(|(item, rest)| {
        let name = root
            .find(&format!("{item}].name"))
            .map(|(_, node)| &node.value);
        let kind = if item.starts_with("routes[") {
            "route"
        } else {
            "tier"
        };
        match name {
            Some(Value::Scalar(name)) if rest.is_empty() => Some(format!("{kind} `{name}`")),
            Some(Value::Scalar(name)) => Some(format!(
                "`{}` of {kind} `{name}`",
                rest.trim_start_matches('.')
            )),
            _ => None,
        }
    });
    match named {
        Some(named) => named,
        None if path.is_empty() => "the file".into(),
        None => format!("`{path}`"),
    }
}

struct Reader<'a> {
    problems: RefCell<Vec<Problem>>,
    ignore_unset: bool,
    root: &'a Node,
}

impl Reader<'_> {
    fn record(&self, fault: Fault, path: &Path<'_>, place: Place) {
        let Fault { code, message, fix } = fault;
        let path = path.to_string();
        self.problems.borrow_mut().push(Problem {
            code,
            message,
            path,
            place: Some(place),
            fix,
        });
    }
}

/// The way from the root, on the stack.
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Begins the message on a wrong kind of value, until it is known whose.
const FOUND: &str = "found ";

/// Why a value could not be read.
#[derive(Debug)]
enum Failure {
    /// It has been recorded.
    Recorded,
    /// To be recorded at the node.
    Fault(Fault),
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recorded => f.write_str("recorded"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Fault(Fault::from_text(&message.to_string()))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Seq => "a list",
            Unexpected::Map => "a map",
            _ => "a single value",
        };
        Self::Fault(Fault::new(
            Code::E106,
            format!("{FOUND}{found}"),
            format!("expected {expected}"),
        ))
    }
}

/// A node, where it stands, and where problems go.
#[derive(Clone, Copy)]
struct At<'a, 'de> {
    node: &'de Node,
    path: &'a Path<'a>,
    reader: &'a Reader<'de>,
}

impl<'a, 'de> At<'a, 'de> {
    fn settle<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.map_err(|failure| {
            if let Failure::Fault(mut fault) = failure {
                if let Some(found) = fault.message.strip_prefix(FOUND) {
                    fault.message = format!(
                        "{} is {found}",
                        owner(self.reader.root, &self.path.to_string())
                    );
                }
                // A scheme names itself; of a mere word one has to know whose it is.
                if fault.code == Code::E108
                    && !fault.message.contains(":`")
                    && let Path::Key(_, key) = self.path
                {
                    fault.message = fault.message.replacen('`', &format!("`{key}: "), 1);
                }
                if let (Some(written), Value::Scalar(text)) = (&self.node.written, &self.node.value)
                {
                    // What a variable holds may be a secret: only its name is told.
                    if !text.is_empty() {
                        fault.message = fault.message.replace(text, written);
                        fault.fix = fault.fix.replace(text, written);
                    }
                }
                self.reader.record(fault, self.path, self.node.place);
            }
            Failure::Recorded
        })
    }

    /// The scalar here, or what stands in its place.
    fn scalar(self) -> Result<Option<&'de str>, Failure> {
        match &self.node.value {
            Value::Scalar(text) => Ok(Some(text)),
            Value::Null => self.fail(Fault::new(
                Code::E104,
                format!("`{}` has no value", self.path),
                "give one, or remove the line",
            )),
            Value::Unset(name) if name.is_empty() || self.reader.ignore_unset => {
                Err(Failure::Recorded)
            }
            Value::Unset(name) => self.fail(Fault::new(
                Code::E110,
                format!("the variable `{name}` is not set"),
                format!("set it, or write ${{{name}:-default}}"),
            )),
            _ => Ok(None),
        }
    }

    fn fail<T>(self, fault: Fault) -> Result<T, Failure> {
        self.settle(Err(Failure::Fault(fault)))
    }

    /// The entries here that have a known key, each once. The others are recorded.
    fn known(
        self,
        entries: &'de [Entry],
        owner: &str,
        keys: &'static [&'static str],
    ) -> Vec<&'de Entry> {
        let unique = self.unique(entries);
        unique
            .into_iter()
            .filter(|entry| {
                let known = keys.contains(&entry.key.as_str());
                if !known {
                    let path = Path::Key(self.path, &entry.key);
                    self.reader
                        .record(self.unknown(&entry.key, owner, keys), &path, entry.place);
                }
                known
            })
            .collect()
    }

    fn unknown(self, key: &str, owner: &str, keys: &[&str]) -> Fault {
        let later = NOT_YET
            .iter()
            .find(|(raw, _)| *raw == owner)
            .map_or(&[][..], |(_, keys)| keys);
        if later.contains(&key) {
            return Fault::new(
                Code::E108,
                format!("`{key}` is not supported yet"),
                "remove it",
            );
        }
        let habit = HABITS
            .iter()
            .find(|(habit, meant)| *habit == key && keys.contains(meant));
        let meant = habit.map(|(_, meant)| *meant);
        let fix = match meant.or_else(|| closest(key, keys.iter().copied())) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known here: {}", keys.join(", ")),
        };
        let place = self::owner(self.reader.root, &self.path.to_string());
        Fault::new(Code::E107, format!("unknown key `{key}` in {place}"), fix)
    }

    fn unique(self, entries: &'de [Entry]) -> Vec<&'de Entry> {
        let mut seen = std::collections::HashMap::new();
        entries
            .iter()
            .filter(|entry| {
                let first = *seen.entry(entry.key.as_str()).or_insert(entry.place);
                if first != entry.place {
                    let path = Path::Key(self.path, &entry.key);
                    let fault = Fault::new(
                        Code::E103,
                        format!("`{}` is given twice", entry.key),
                        format!("first on line {}", first.line),
                    );
                    self.reader.record(fault, &path, entry.place);
                }
                first == entry.place
            })
            .collect()
    }

    fn visit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if let Some(text) = self.scalar()? {
            return self.settle(visitor.visit_str(text));
        }
        match &self.node.value {
            Value::List(items) => self.settle(visitor.visit_seq(Items {
                at: self,
                items,
                next: 0,
            })),
            Value::Map(entries) => {
                let entries = self.unique(entries);
                self.settle(visitor.visit_map(Fields {
                    at: self,
                    entries,
                    next: 0,
                }))
            }
            _ => Err(Failure::Recorded),
        }
    }
}

impl<'a, 'de> Deserializer<'de> for At<'a, 'de> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.visit(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let Value::Map(entries) = &self.node.value else {
            if matches!(self.node.value, Value::List(_)) {
                // serde would take the members for the fields in their order.
                return self.settle(Err(Failure::invalid_type(Unexpected::Seq, &visitor)));
            }
            return self.visit(visitor);
        };
        let entries = self.known(entries, name, fields);
        self.settle(visitor.visit_map(Fields {
            at: self,
            entries,
            next: 0,
        }))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match (&self.node.value, name) {
            (Value::Unset(variable), UNSET_IS_EMPTY) if !variable.is_empty() => {
                self.settle(visitor.visit_str(""))
            }
            (Value::Scalar(_) | Value::Unset(_), SHORT_OR_LONG) => visitor.visit_some(self),
            (Value::List(_) | Value::Map(_), SHORT_OR_LONG) => visitor.visit_newtype_struct(self),
            _ => self.visit(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Fields<'a, 'de> {
    at: At<'a, 'de>,
    entries: Vec<&'de Entry>,
    next: usize,
}

impl<'de> MapAccess<'de> for Fields<'_, 'de> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        let Some(entry) = self.entries.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        let key = StrDeserializer::<Failure>::new(&entry.key);
        seed.deserialize(key).map(Some).map_err(|failure| {
            if let Failure::Fault(fault) = failure {
                self.at
                    .reader
                    .record(fault, &Path::Key(self.at.path, &entry.key), entry.place);
            }
            Failure::Recorded
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failure> {
        let Some(entry) = self.entries.get(self.next.wrapping_sub(1)) else {
            return Err(Failure::Recorded);
        };
        let path = Path::Key(self.at.path, &entry.key);
        seed.deserialize(At {
            node: &entry.node,
            path: &path,
            reader: self.at.reader,
        })
    }
}

struct Items<'a, 'de> {
    at: At<'a, 'de>,
    items: &'de [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failure> {
        let Some(node) = self.items.get(self.next) else {
            return Ok(None);
        };
        let path = Path::Item(self.at.path, self.next);
        self.next += 1;
        seed.deserialize(At {
            node,
            path: &path,
            reader: self.at.reader,
        })
        .map(Some)
    }
}
