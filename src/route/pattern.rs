//! Path patterns: `{id}` is one segment, a final `*` the rest.

/// A compiled `path:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

/// What the `{…}` of a pattern stood for, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures<'a>(pub Vec<(&'a str, &'a str)>);

impl Captures<'_> {
    /// The segment captured by `{name}`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }
}

impl Pattern {
    /// Compiles a pattern; the error says what is wrong and how to mend it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self {
            text: text.to_owned(),
        })
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The captures, if the decoded path matches.
    #[must_use]
    pub fn matches<'a>(&'a self, path: &'a str) -> Option<Captures<'a>> {
        let _ = path;
        unimplemented!()
    }

    /// The names of its `{…}`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }

    /// Whether every path that `other` matches is matched by this too (for "shadowed route").
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let _ = other;
        unimplemented!()
    }
}
