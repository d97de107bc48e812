//! Path patterns: `{id}` is one segment, a final `*` the rest.
//!
//! Patterns look at the decoded path only, and a slash at the end makes another path.

/// The longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 2 * 1024;

/// A compiled `path:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    pub(super) segments: Vec<Segment>,
    /// How the rest begins, where the pattern ends in `*`.
    pub(super) rest: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(String),
    Capture(String),
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
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("a path has at most {PATTERN_BYTES_MAX} bytes"));
        }
        let Some(path) = text.strip_prefix('/') else {
            return Err(format!("`{text}` is no path: write `/{text}`"));
        };
        if let Some(mark) = text.find(['?', '#']) {
            return Err(format!(
                "a path has no `{}`: which query parameters count is said by `key.query`",
                &text[mark..=mark]
            ));
        }
        let mut segments: Vec<Segment> = Vec::new();
        let mut rest = None;
        let mut pieces = path.split('/').peekable();
        while let Some(piece) = pieces.next() {
            if let Some(star) = piece.find('*') {
                if star + 1 < piece.len() || pieces.peek().is_some() {
                    return Err(format!(
                        "`*` stands for the rest of the path and comes last: `{}` for one segment",
                        "{name}"
                    ));
                }
                let prefix = &piece[..star];
                if prefix.contains(['{', '}']) {
                    return Err("`{…}` stands for a whole segment: write `{…}/*`".into());
                }
                rest = Some(prefix.to_owned());
                break;
            }
            segments.push(segment(piece, &segments)?);
        }
        Ok(Self {
            text: text.to_owned(),
            segments,
            rest,
        })
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The captures, if the decoded path matches. Allocates only when there are any.
    #[must_use]
    pub fn matches<'a>(&'a self, path: &'a str) -> Option<Captures<'a>> {
        let path = path.strip_prefix('/')?;
        if !self.fits(path) {
            return None;
        }
        if self.names().next().is_none() {
            return Some(Captures::default());
        }
        let captured =
            self.segments.iter().zip(path.split('/')).filter_map(
                |(segment, piece)| match segment {
                    Segment::Capture(name) => Some((name.as_str(), piece)),
                    Segment::Literal(_) => None,
                },
            );
        Some(Captures(captured.collect()))
    }

    /// The names of its `{…}`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Capture(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Whether every path that `other` matches is matched by this too (for "shadowed route").
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let shared = self.segments.len().min(other.segments.len());
        let covered = |(mine, theirs): (&Segment, &Segment)| match (mine, theirs) {
            (Segment::Literal(mine), Segment::Literal(theirs)) => mine == theirs,
            (Segment::Capture(_), Segment::Literal(theirs)) => !theirs.is_empty(),
            (Segment::Capture(_), Segment::Capture(_)) => true,
            (Segment::Literal(_), Segment::Capture(_)) => false,
        };
        if self.segments.len() > other.segments.len()
            || !self.segments.iter().zip(&other.segments).all(covered)
        {
            return false;
        }
        match (&self.rest, other.segments.get(shared), &other.rest) {
            (None, None, None) => true,
            (None, ..) => false,
            (Some(prefix), Some(Segment::Literal(next)), _) => next.starts_with(prefix.as_str()),
            (Some(prefix), Some(Segment::Capture(_)), _) => prefix.is_empty(),
            (Some(prefix), None, Some(theirs)) => theirs.starts_with(prefix.as_str()),
            (Some(_), None, None) => false,
        }
    }

    fn fits(&self, mut path: &str) -> bool {
        for (at, segment) in self.segments.iter().enumerate() {
            let last = at + 1 == self.segments.len() && self.rest.is_none();
            let piece = match (path.find('/'), last) {
                (None, true) => path,
                (Some(slash), false) => {
                    let piece = &path[..slash];
                    path = &path[slash + 1..];
                    piece
                }
                _ => return false,
            };
            let fits = match segment {
                Segment::Literal(literal) => literal == piece,
                Segment::Capture(_) => !piece.is_empty(),
            };
            if !fits {
                return false;
            }
        }
        self.rest
            .as_ref()
            .is_none_or(|prefix| path.starts_with(prefix.as_str()))
    }
}

fn segment(piece: &str, before: &[Segment]) -> Result<Segment, String> {
    if !piece.contains(['{', '}']) {
        return Ok(Segment::Literal(piece.to_owned()));
    }
    let name = piece
        .strip_prefix('{')
        .and_then(|piece| piece.strip_suffix('}'))
        .filter(|name| !name.contains(['{', '}']))
        .ok_or_else(|| {
            format!("`{piece}`: `{{…}}` stands for a whole segment, between two slashes")
        })?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if !is_name {
        return Err(format!("`{piece}`: a name is letters, digits, `_` and `-`"));
    }
    if before.contains(&Segment::Capture(name.to_owned())) {
        return Err(format!(
            "`{piece}` is there twice: give one of them another name"
        ));
    }
    Ok(Segment::Capture(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn matches(text: &str, path: &str) -> bool {
        pattern(text).matches(path).is_some()
    }

    #[test]
    fn a_literal_matches_itself_and_a_trailing_slash_differs() {
        assert!(matches("/api/fleet", "/api/fleet"));
        assert!(matches("/", "/"));
        for other in [
            "/api/fleet/",
            "/api",
            "/api/fleets",
            "api/fleet",
            "",
            "/API/fleet",
        ] {
            assert!(!matches("/api/fleet", other), "{other}");
        }
        assert!(matches("/api/", "/api/") && !matches("/api/", "/api"));
    }

    #[test]
    fn braces_capture_one_segment() {
        let pattern = pattern("/api/cars/{id}/{what}");
        let captures = pattern.matches("/api/cars/42/price list").unwrap();
        assert_eq!(
            (captures.get("id"), captures.get("what")),
            (Some("42"), Some("price list"))
        );
        assert_eq!(captures.get("other"), None);
        for other in [
            "/api/cars//x",
            "/api/cars/42",
            "/api/cars/42/",
            "/api/cars/42/a/b",
        ] {
            assert!(pattern.matches(other).is_none(), "{other}");
        }
        assert_eq!(pattern.names().collect::<Vec<_>>(), ["id", "what"]);
    }

    #[test]
    fn a_star_is_the_rest() {
        for path in ["/api/", "/api/a", "/api/a/b/"] {
            assert!(matches("/api/*", path), "{path}");
        }
        assert!(!matches("/api/*", "/api") && !matches("/api/*", "/apis/a"));
        assert!(matches("/*", "/") && matches("/*", "/a/b") && !matches("/*", "*"));
        assert!(matches("/img/car-*", "/img/car-1/x") && !matches("/img/car-*", "/img/ca"));
        let pattern = pattern("/u/{id}/*");
        assert_eq!(pattern.matches("/u/7/a/b").unwrap().get("id"), Some("7"));
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, says) in [
            ("api", "write `/api`"),
            ("", "is no path"),
            ("/a/*/b", "comes last"),
            ("/a*b", "comes last"),
            ("/a/{id}.json", "whole segment"),
            ("/a/{}", "a name is"),
            ("/{a}/{a}", "twice"),
            ("/a/{b", "whole segment"),
            ("/a?b=c", "key.query"),
            ("/{a}x*", "whole segment"),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one() {
        let covers = |wide: &str, narrow: &str| pattern(wide).covers(&pattern(narrow));
        for (wide, narrow) in [
            ("/a", "/a"),
            ("/*", "/a/{b}/*"),
            ("/a/{x}", "/a/b"),
            ("/a/{x}", "/a/{y}"),
            ("/a/*", "/a/"),
            ("/a/b*", "/a/bc/d"),
            ("/a/*", "/a/{x}"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("/a/b", "/a/{x}"),
            ("/a/{x}", "/a/"),
            ("/a/{x}", "/a/*"),
            ("/a/*", "/a"),
            ("/a/b*", "/a/*"),
            ("/a/b*", "/a/{x}"),
            ("/a", "/a/"),
        ] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }

    proptest! {
        #[test]
        fn what_a_pattern_covers_it_matches(wide in "(/[ab]|/\\{x\\}){0,2}(/\\*|/a\\*|/)?", narrow in "(/[ab]|/\\{x\\}){1,2}(/\\*|/)?", path in "(/[ab]{0,2}){1,4}") {
            if let (Ok(wide), Ok(narrow)) = (Pattern::parse(&wide), Pattern::parse(&narrow))
                && wide.covers(&narrow) && narrow.matches(&path).is_some()
            {
                prop_assert!(wide.matches(&path).is_some());
            }
        }

        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,40}", path in "\\PC{0,40}") {
            if let Ok(pattern) = Pattern::parse(&text) {
                let _ = pattern.matches(&path);
                prop_assert!(pattern.covers(&pattern));
            }
        }
    }
}
