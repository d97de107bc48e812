//! The way from a path to the first rule that applies, segment by segment: a thousand routes cost
//! what ten do.
//!
//! Knows nothing that the patterns do not say: `find` answers as trying one after the other would.

use super::RouteId;
use super::pattern::{Pattern, Segment};
use std::collections::HashMap;
use std::fmt;

/// One segment's place among the patterns of all rules; the root stands before the first.
#[derive(Clone, Default)]
pub(super) struct Index {
    literals: HashMap<Box<str>, Index>,
    capture: Option<Box<Index>>,
    /// Rules with a path that ends here.
    ends: Vec<RouteId>,
    /// Rules with a path that goes on from here with any rest that begins so.
    rests: Vec<(Box<str>, RouteId)>,
}

/// Says nothing: the rules say it all, and a map would say it in another order each time.
impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

impl Index {
    /// Adds one path of the rule `id`.
    pub(super) fn add(&mut self, pattern: &Pattern, id: RouteId) {
        let mut place = self;
        for segment in &pattern.segments {
            place = match segment {
                Segment::Literal(literal) => {
                    place.literals.entry(literal.as_str().into()).or_default()
                }
                Segment::Capture(_) => place.capture.get_or_insert_default(),
            };
        }
        match &pattern.rest {
            Some(prefix) => place.rests.push((prefix.as_str().into(), id)),
            None => place.ends.push(id),
        }
    }

    /// The lowest rule with a matching path that `applies`.
    pub(super) fn find(&self, path: &str, applies: impl Fn(RouteId) -> bool) -> Option<RouteId> {
        let mut first = None;
        self.search(Some(path.strip_prefix('/')?), &mut |id| {
            if first.is_none_or(|first| id < first) && applies(id) {
                first = Some(id);
            }
        });
        first
    }

    /// Tells `found` every rule with a path that goes on from here as `path` does; `None` is its end.
    fn search(&self, path: Option<&str>, found: &mut impl FnMut(RouteId)) {
        let Some(path) = path else {
            return self.ends.iter().copied().for_each(found);
        };
        for (prefix, id) in &self.rests {
            if path.starts_with(&**prefix) {
                found(*id);
            }
        }
        let (piece, next) = match path.split_once('/') {
            Some((piece, next)) => (piece, Some(next)),
            None => (path, None),
        };
        if let Some(place) = self.literals.get(piece) {
            place.search(next, found);
        }
        if let Some(place) = &self.capture
            && !piece.is_empty()
        {
            place.search(next, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_trying_one_after_the_other_finds(
            patterns in prop::collection::vec("(/[ab]|/\\{x\\}|/\\{y\\}){0,3}(/\\*|/a\\*|/)?", 0..12),
            path in "(/[ab]{0,2}){0,4}",
            without in 0..12_usize,
        ) {
            let patterns = patterns.iter().filter_map(|text| Pattern::parse(text).ok());
            let patterns: Vec<Pattern> = patterns.collect();
            let mut index = Index::default();
            for (id, pattern) in patterns.iter().enumerate() {
                index.add(pattern, id);
            }
            let fits = |id: &usize| *id != without && patterns[*id].matches(&path).is_some();
            let expected = (0..patterns.len()).find(fits);
            prop_assert_eq!(index.find(&path, |id| id != without), expected);
        }
    }
}
