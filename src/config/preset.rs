//! What a framework needs of a cache, as the rules and settings that anybody could write: each preset
//! is a text of YAML, read by the same readers as the file.
//!
//! Never does what the file could not say.

use super::raw::{self, PresetText};
use super::read;
use super::tree;
use super::values::{OneOrMany, Preset};
use crate::route::{Bypass, Pattern, Per, Rule};
use http::HeaderName;

/// What a preset adds to routes that share paths with one of `paths`.
#[derive(Clone, Debug, Default)]
pub(super) struct Addition {
    pub paths: Vec<Pattern>,
    /// Added where the route lists its parameters.
    pub query: Vec<String>,
    pub headers: Vec<HeaderName>,
    pub per: Vec<Per>,
    pub bypass: Bypass,
}

/// The text of a preset, read. It is ours, so that there are no problems to tell; a test says so.
pub(super) fn text(preset: Preset) -> PresetText {
    let text = match preset {
        Preset::Nextjs => include_str!("presets/nextjs.yaml"),
        Preset::Supabase => include_str!("presets/supabase.yaml"),
    };
    let root = tree::parse(text).ok();
    root.map_or_else(PresetText::default, |root| {
        read::read(&root, false, &mut Vec::new())
    })
}

/// What `text` adds to every route.
pub(super) fn additions(text: &PresetText) -> Vec<Addition> {
    let members = text
        .every_route
        .get()
        .into_iter()
        .flat_map(|list| list.iter());
    members
        .map(|member| {
            let key = member.key.get();
            Addition {
                paths: paths(member.path.get()),
                query: key.and_then(super::compile::key_query).unwrap_or_default(),
                headers: key.map(super::compile::key_headers).unwrap_or_default(),
                per: key.map(super::compile::key_per).unwrap_or_default(),
                bypass: super::compile::bypass(member.bypass_when.get()),
            }
        })
        .collect()
}

fn paths(given: Option<&OneOrMany<super::values::PathPattern>>) -> Vec<Pattern> {
    given
        .map(|list| list.iter().map(|path| path.0.clone()).collect())
        .unwrap_or_default()
}

impl Addition {
    /// Adds itself to `rule`, if they share paths. `raw` is the rule's own text; what it says of `per`
    /// itself stays.
    pub fn extend(&self, rule: &mut Rule, raw: Option<&raw::Route>) {
        let everything = self.paths.iter().any(|path| path.as_str() == "/*");
        let covered = everything || covers(&self.paths, &rule.paths);
        // What no route matches has no paths.
        if !covered && (rule.paths.is_empty() || !meet(&self.paths, &rule.paths)) {
            return;
        }
        if let Some(query) = &mut rule.key.query {
            add(query, &self.query);
        }
        add(&mut rule.key.headers, &self.headers);
        add(&mut rule.bypass.cookies, &self.bypass.cookies);
        add(&mut rule.bypass.headers, &self.bypass.headers);
        let said = raw.and_then(|raw| raw.key.get());
        let silent = said.is_none_or(|key| key.per.is_absent());
        // A route for more than these paths is for others, too, who have no token.
        if covered && silent {
            add(&mut rule.key.per, &self.per);
        }
        if let Some(policy) = &mut rule.policy {
            policy.keyed_headers.clone_from(&rule.key.headers);
            policy.per_identity = rule.key.has_identity();
        }
    }
}

fn add<T: Clone + PartialEq>(to: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !to.contains(one) {
            to.push(one.clone());
        }
    }
}

fn covers(wide: &[Pattern], narrow: &[Pattern]) -> bool {
    let covered = |narrow: &Pattern| wide.iter().any(|wide| wide.covers(narrow));
    !narrow.is_empty() && narrow.iter().all(covered)
}

fn meet(some: &[Pattern], others: &[Pattern]) -> bool {
    let meets = |one: &Pattern, other: &Pattern| one.covers(other) || other.covers(one);
    some.iter()
        .any(|one| others.iter().any(|other| meets(one, other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_have_no_problems() {
        for text in [
            include_str!("presets/nextjs.yaml"),
            include_str!("presets/supabase.yaml"),
        ] {
            let root = tree::parse(text).unwrap();
            let mut problems = Vec::new();
            let read: PresetText = read::read(&root, false, &mut problems);
            assert!(problems.is_empty(), "{problems:?}");
            assert!(!read.routes.is_absent() && !additions(&read).is_empty());
        }
    }
}
