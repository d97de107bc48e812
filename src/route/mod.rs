//! From a request to what is to be done with it: match → [`Rule`] → [`Plan`].
//!
//! Pure: no socket, no clock, no YAML, no Redis.

mod index;
pub mod pattern;
pub mod plan;
pub mod scrutiny;
pub mod target;
pub mod template;

pub use pattern::{Captures, Pattern};
pub use plan::{Asked, Content, Plan};
pub use scrutiny::{Arm, Experiment, Scrutiny};
pub use target::Target;
pub use template::{Placeholder, Template};

use crate::semantics::fields::cookies;
use crate::semantics::{Key, KeyBuilder, Policy};
use http::{HeaderMap, HeaderName, Method};
use index::Index;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Position of a rule in [`Routes`]; the last one is the fallback.
pub type RouteId = usize;

/// One route of the configuration, compiled.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Position in [`Routes`].
    pub id: RouteId,
    /// Its `name`, or its path where it has none; unique.
    pub name: Arc<str>,
    /// It applies to paths that match one of these.
    pub paths: Vec<Pattern>,
    /// It applies to these methods; to all when empty.
    pub methods: Vec<Method>,
    /// What may be stored; `None` with `no_store: true`.
    pub policy: Option<Policy>,
    /// How its key is made.
    pub key: KeyRule,
    /// Requests that are never looked up.
    pub bypass: Bypass,
    /// Tags of what it stores.
    pub tags: Vec<Template>,
    /// Tags purged after a 2xx to an unsafe method.
    pub purge: Vec<Template>,
    /// What `purge` has hit and is asked for most is fetched again at once.
    pub refresh_hot: bool,
    /// What is prefetched of the links that a stored answer names, by their relation.
    pub prefetch: Vec<String>,
    /// Limits on top of the tier: positions in the configuration's list of limits.
    pub limits: Vec<usize>,
    /// Whether the tiers apply to requests of this path (`limits.paths`) is the limiter's business.
    /// A hit in the last share of its lifetime refreshes the entry behind; `None` = never.
    pub refresh_ahead: Option<f32>,
    /// A hit refreshes behind with a chance that rises towards the end of the lifetime, the sooner the
    /// longer the app took, multiplied by this; `None` = never. XFetch's β (Vattani et al., VLDB 2015).
    pub early_refresh: Option<f32>,
    /// Hits renew the lifetime, up to this age.
    pub slide_up_to: Option<Duration>,
    /// Requests of this route that the app may have at a time; `None` = as many as it may have at all.
    pub max_in_flight: Option<NonZeroU32>,
    /// How long a request waits for another's fetch of the same, here or in another sidecar, before it asks
    /// the app itself.
    pub collapse_wait: Duration,
    /// What of it is put to the test.
    pub scrutiny: Scrutiny,
}

impl Rule {
    /// The tag that everything stored by this route has beside its own ones; purges by route use it.
    #[must_use]
    pub fn own_tag(&self) -> String {
        format!("route:{}", self.name)
    }

    /// What it asks of storing what lies under `key`: its policy, or what an experiment tries out there.
    #[must_use]
    pub fn policy_of(&self, key: &Key) -> Option<&Policy> {
        match &self.scrutiny.experiment {
            Some(experiment) if experiment.arm(key) == Arm::Trial => Some(&experiment.policy),
            _ => self.policy.as_ref(),
        }
    }

    /// What the route says of storing and keys, as one digest: a route that says something else is another one,
    /// wherever it stands and however it is put to the test.
    #[must_use]
    pub fn definition(&self) -> Key {
        let Self {
            id: _,
            name,
            paths,
            methods,
            policy,
            key,
            bypass,
            tags: _,
            purge: _,
            refresh_hot: _,
            prefetch: _,
            limits: _,
            refresh_ahead: _,
            early_refresh: _,
            slide_up_to,
            max_in_flight: _,
            collapse_wait: _,
            scrutiny: _,
        } = self;
        let mut digest = KeyBuilder::new("route");
        digest.part(name.as_bytes());
        let said = format!("{paths:?} {methods:?} {policy:?} {key:?} {bypass:?} {slide_up_to:?}");
        digest.part(said.as_bytes());
        digest.finish()
    }
}

/// How the cache key of a route is made.
#[derive(Clone, Debug, Default)]
pub struct KeyRule {
    /// Query parameters in the key: all but `ignore_query` (`None`), or just these.
    pub query: Option<Vec<String>>,
    /// Request fields in the key.
    pub headers: Vec<HeaderName>,
    /// Cookies in the key.
    pub cookies: Vec<String>,
    /// One entry each: `ip`, `user`, `token`.
    pub per: Vec<Per>,
    /// Query parameters left out of keys and of fetches that may be stored; `utm_*` ends in a star.
    pub ignore_query: Arc<[String]>,
    /// What of a POST's content is in the key; `None`: a POST is not looked up. A QUERY's content
    /// always is, byte for byte.
    pub content: Option<ContentKey>,
}

impl KeyRule {
    /// Whether the key tells one user or credential from another.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        let is_identity = |per: &Per| matches!(per, Per::User | Per::Token);
        self.per.iter().any(is_identity)
    }
}

/// What of a request's content is in the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentKey {
    /// Every byte.
    Bytes,
    /// A GraphQL request's meaning; only queries are looked up.
    Graphql,
}

/// What a request must not carry to be looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bypass {
    /// Names of cookies.
    pub cookies: Vec<String>,
    /// Names of fields.
    pub headers: Vec<HeaderName>,
}

impl Bypass {
    /// Whether a request with these fields is not to be looked up.
    #[must_use]
    pub fn is_met(&self, headers: &HeaderMap) -> bool {
        let listed = |cookie: &[u8]| self.cookies.iter().any(|name| name.as_bytes() == cookie);
        self.headers.iter().any(|name| headers.contains_key(name))
            || (!self.cookies.is_empty() && cookies(headers).any(|(name, _)| listed(name)))
    }
}

/// One each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// Client address (network).
    Ip,
    /// Verified user.
    User,
    /// Credential, hashed.
    Token,
}

/// All routes in their order, with the fallback last.
#[derive(Clone, Debug)]
pub struct Routes {
    rules: Vec<Rule>,
    index: Index,
}

/// The rule that a request falls under, with what its path captured.
#[derive(Debug)]
pub struct Match<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Values of `{…}` in its path.
    pub captures: Captures<'a>,
}

impl Routes {
    /// Routes in their order; `fallback` is for what none of them matches. Ids are set here.
    #[must_use]
    pub fn new(rules: Vec<Rule>, fallback: Rule) -> Self {
        let mut rules = rules;
        rules.push(fallback);
        let mut index = Index::default();
        for (id, rule) in rules.iter_mut().enumerate() {
            rule.id = id;
            rule.paths.iter().for_each(|path| index.add(path, id));
        }
        Self { rules, index }
    }

    /// Every rule, the fallback last.
    #[must_use]
    pub fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// The first rule that applies.
    #[must_use]
    pub fn find<'a>(&'a self, method: &Method, target: &'a Target<'_>) -> Match<'a> {
        let applies = |id: RouteId| {
            let methods = &self.rules[id].methods;
            methods.is_empty() || methods.contains(method)
        };
        // `new` puts the fallback last, so there always is one.
        let found = self.index.find(&target.decoded, applies);
        let rule = &self.rules[found.unwrap_or(self.rules.len() - 1)];
        let mut paths = rule.paths.iter();
        let captures = paths.find_map(|path| path.matches(&target.decoded));
        Match {
            rule,
            captures: captures.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, methods: &[Method], paths: &[&str]) -> Rule {
        Rule {
            name: name.into(),
            paths: paths
                .iter()
                .map(|path| Pattern::parse(path).unwrap())
                .collect(),
            methods: methods.to_vec(),
            ..Rule::default()
        }
    }

    #[test]
    fn the_first_rule_that_fits_method_and_decoded_path_applies() {
        let routes = Routes::new(
            vec![
                rule("book", &[Method::POST], &["/api/bookings"]),
                rule("car", &[], &["/cars/{id}", "/api/cars/{id}"]),
                rule("api", &[], &["/api/*"]),
            ],
            rule("rest", &[Method::GET], &["/never"]),
        );
        let find = |method: Method, path: &str| {
            let target = Target::parse(path, None);
            let found = routes.find(&method, &target);
            (
                found.rule.name.to_string(),
                found.rule.id,
                found.captures.get("id").map(str::to_owned),
            )
        };
        assert_eq!(
            find(Method::POST, "/api/bookings"),
            ("book".into(), 0, None)
        );
        assert_eq!(find(Method::GET, "/api/bookings"), ("api".into(), 2, None));
        assert_eq!(
            find(Method::GET, "/api/cars/4%32"),
            ("car".into(), 1, Some("42".into()))
        );
        assert_eq!(
            find(Method::GET, "/x/..//api/cars"),
            ("api".into(), 2, None)
        );
        assert_eq!(find(Method::DELETE, "/"), ("rest".into(), 3, None));
    }
}
