//! Where each setting stands in the file: for explanations that name the line which decides.

use super::tree::{Node, Value};
use std::collections::BTreeMap;
use std::fmt;

/// The lines of all settings that a file makes, by their paths. Holds no values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Places {
    file: String,
    lines: BTreeMap<String, usize>,
}

impl Places {
    pub(super) fn of(file: &str, root: &Node) -> Self {
        let mut lines = BTreeMap::new();
        note(root, "", &mut lines);
        Self {
            file: file.to_owned(),
            lines,
        }
    }

    /// Where the setting with this path (as `routes[2].ttl`) is made: `proxy.yaml:31`, or `default`.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        match self.lines.get(path) {
            Some(line) => format!("{}:{line}", self.file),
            None => "default".to_owned(),
        }
    }
}

/// Says nothing: the name of a configuration is a digest of what is in force, not of how it is written.
impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places")
    }
}

fn note(node: &Node, path: &str, lines: &mut BTreeMap<String, usize>) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                let path = match path {
                    "" => entry.key.clone(),
                    _ => format!("{path}.{}", entry.key),
                };
                note(&entry.node, &path, lines);
                lines.insert(path, entry.place.line);
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                note(item, &path, lines);
                lines.insert(path, item.place.line);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_stands_where_its_key_does_or_is_a_default() {
        let root = super::super::tree::parse("a: 1\nroutes:\n  - path: /x\n    ttl: 1m\n").unwrap();
        let places = Places::of("proxy.yaml", &root);
        let lines = ["a", "routes", "routes[0]", "routes[0].ttl", "routes[1]"];
        assert_eq!(
            lines.map(|path| places.at(path)),
            [
                "proxy.yaml:1",
                "proxy.yaml:2",
                "proxy.yaml:3",
                "proxy.yaml:4",
                "default"
            ]
        );
    }
}
