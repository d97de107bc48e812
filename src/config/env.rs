//! The environment as the configuration sees it, and `${…}` filled in.
//!
//! References are filled in after parsing, inside scalar values: a variable can never add YAML.

use super::problem::{Code, Fault, Problem};
use super::tree::{Node, Value};
use std::collections::BTreeMap;

/// Environment variables, as they were when larder started or an `--env-file` says.
#[derive(Clone, Default)]
pub struct Environment {
    vars: BTreeMap<String, String>,
    /// Variables are not looked at, and a reference without a default stands for an unknown value.
    pub ignored: bool,
}

impl Environment {
    /// The process's own variables, those that are UTF-8.
    #[must_use]
    pub fn of_process() -> Self {
        let pairs = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::from_iter(pairs)
    }

    /// Knows nothing; see [`Environment::ignored`].
    #[must_use]
    pub fn ignored() -> Self {
        Self {
            vars: BTreeMap::new(),
            ignored: true,
        }
    }

    /// Adds the lines `NAME=value` of an env file; what the process has set already stays.
    ///
    /// `export `, blank lines, comments and quotes around values are understood.
    pub fn add_file(&mut self, text: &str) -> Result<(), String> {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let pair = line.strip_prefix("export ").unwrap_or(line).split_once('=');
            let Some((name, value)) = pair.filter(|(name, _)| is_name(name.trim())) else {
                return Err(format!("line {} is not NAME=value", index + 1));
            };
            let value = value.trim();
            let quoted = ['"', '\'']
                .iter()
                .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
            self.vars
                .entry(name.trim().to_owned())
                .or_insert_with(|| quoted.unwrap_or(value).to_owned());
        }
        Ok(())
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Fills in every scalar of the tree; what is malformed is told with its place.
    pub(super) fn fill(&self, node: &mut Node, path: &str, problems: &mut Vec<Problem>) {
        match &mut node.value {
            Value::Scalar(text) if text.contains("${") => {
                let written = text.clone();
                node.value = match self.expand(text) {
                    Ok(value) => Value::Scalar(value),
                    Err(Gap::Unset(name)) => Value::Unset(name),
                    Err(Gap::Fault(Fault { code, message, fix })) => {
                        let (path, place) = (path.to_owned(), Some(node.place));
                        problems.push(Problem {
                            code,
                            message,
                            path,
                            place,
                            fix,
                        });
                        // One problem a value: what stands here is not known, as with an unset one.
                        Value::Unset(String::new())
                    }
                };
                node.written = Some(written);
            }
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.fill(item, &format!("{path}[{index}]"), problems);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    let dot = if path.is_empty() { "" } else { "." };
                    self.fill(
                        &mut entry.node,
                        &format!("{path}{dot}{}", entry.key),
                        problems,
                    );
                }
            }
            _ => {}
        }
    }

    fn expand(&self, text: &str) -> Result<String, Gap> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let before = &rest[..start];
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            out.push_str(before);
            let inner = &rest[start + 2..];
            let end = inner.find('}').ok_or_else(|| {
                malformed("`${` without its `}`", "write ${NAME} or ${NAME:-default}")
            })?;
            out.push_str(&self.value(&inner[..end])?);
            rest = &inner[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The value of what stands between the braces.
    fn value(&self, reference: &str) -> Result<String, Gap> {
        let end = reference.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let (name, rest) = reference.split_at(end.unwrap_or(reference.len()));
        if !is_name(name) {
            return Err(malformed(
                "the name in `${…}` is empty or not a name",
                "write ${NAME}",
            ));
        }
        let value = self.get(name).map(str::to_owned);
        if rest.is_empty() {
            // Set but empty is a value, as in a shell: `TOKEN=` turns a token off.
            return value
                .or_else(|| self.vars.get(name).cloned())
                .ok_or_else(|| Gap::Unset(name.to_owned()));
        }
        if let Some(default) = rest.strip_prefix(":-") {
            if default.contains("${") {
                return Err(malformed(
                    "a default cannot hold another reference",
                    "set one variable",
                ));
            }
            return Ok(value.unwrap_or_else(|| default.to_owned()));
        }
        if let Some(message) = rest.strip_prefix(":?") {
            return match value {
                Some(value) => Ok(value),
                None if self.ignored => Err(Gap::Unset(name.to_owned())),
                None => Err(Gap::Fault(Fault::new(
                    Code::E110,
                    format!("the variable `{name}` is not set"),
                    message,
                ))),
            };
        }
        Err(malformed(
            &format!("`${{{reference}}}` is not a reference"),
            "write ${NAME}, ${NAME:-default} or ${NAME:?message}",
        ))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self {
            vars: pairs.into_iter().collect(),
            ignored: false,
        }
    }
}

impl std::fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.vars.keys()).finish()
    }
}

/// Why a text cannot be filled in.
enum Gap {
    Unset(String),
    Fault(Fault),
}

fn malformed(message: &str, fix: &str) -> Gap {
    Gap::Fault(Fault::new(Code::E111, message, fix))
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Option<String> {
        let pairs = [("A", "1"), ("EMPTY", ""), ("YAML", "x\nroutes: []")];
        let env: Environment = pairs
            .map(|(name, value)| (name.into(), value.into()))
            .into_iter()
            .collect();
        env.expand(text).ok()
    }

    #[test]
    fn references_read_as_in_a_shell() {
        assert_eq!(expand("a${A}b${A}").as_deref(), Some("a1b1"));
        assert_eq!(
            expand("${NONE:-x}${EMPTY:-y}${A:-z}").as_deref(),
            Some("xy1")
        );
        assert_eq!(expand("${EMPTY}").as_deref(), Some(""));
        assert_eq!(expand("${NONE:-}").as_deref(), Some(""));
        assert_eq!(expand("${A:?needed}").as_deref(), Some("1"));
        assert_eq!(expand("$${A}").as_deref(), Some("${A}"));
        for bad in [
            "${NONE}",
            "${NONE:?x}",
            "${",
            "${}",
            "${1A}",
            "${A-x}",
            "${A:-${A}}",
            "${A B}",
        ] {
            assert_eq!(expand(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_variable_cannot_add_yaml() {
        assert_eq!(expand("${YAML}").as_deref(), Some("x\nroutes: []"));
    }

    #[test]
    fn an_env_file_adds_what_is_not_set() {
        let mut env = Environment::from_iter([("A".into(), "1".into())]);
        env.add_file("# c\nA=2\nexport B='x y'\n\nC = \"z\"\n")
            .unwrap();
        assert_eq!(
            (env.get("A"), env.get("B"), env.get("C")),
            (Some("1"), Some("x y"), Some("z"))
        );
        assert!(env.add_file("nonsense").is_err());
    }
}
