//! What a purge is asked for with: one JSON form for the admin port, the webhook, channels and streams.
//!
//! Pure: what was asked becomes purges of the store, or a refusal that says why. Words are exact: a
//! pattern is only ever what was called one.

use crate::cache::{Purge, Scope};
use crate::route::{Routes, Target};
use crate::semantics::authority::normal_authority;
use crate::semantics::{KeyBuilder, groups};
use http::Method;
use serde::de::{Deserialize, Deserializer, Error};
use serde_json::{Map, Value, json};

/// Purges in one request.
pub const PURGES_MAX: usize = 128;
/// Bytes of a tag, and of the name of a user or group.
const TAG_BYTES_MAX: usize = 256;
/// Bytes of a URL or prefix.
const URL_BYTES_MAX: usize = 8 * 1024;
/// Names of routes that a refusal tells.
const ROUTES_TOLD: usize = 20;

/// What is asked for: `{"tags": ["car:42"]}`, or several such with words of their own in `purges`.
#[derive(Debug, Default)]
pub struct Request {
    /// Says what would be hit, and purges nothing.
    pub dry_run: bool,
    /// Fetches again at once what of it is asked for most (`"refresh": "hot"`).
    pub refresh_hot: bool,
    parts: Vec<Part>,
}

/// Purges that are all soft, or all hard.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Part {
    tags: Vec<String>,
    urls: Vec<String>,
    prefixes: Vec<String>,
    globs: Vec<String>,
    regexes: Vec<String>,
    routes: Vec<String>,
    users: Vec<String>,
    groups: Vec<String>,
    /// Whose the groups are (RFC 9875 §2): `https://shop.example`.
    origin: Option<String>,
    all: bool,
    /// Soft unless said otherwise: the next visitor is served at once.
    soft: Option<bool>,
}

/// Why something is no purge. Never repeats more of it than its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A word for programs.
    pub code: &'static str,
    /// One sentence for people.
    pub detail: String,
    /// What to write instead.
    pub fix: String,
}

impl Refusal {
    pub(super) fn new(
        code: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            code,
            detail: detail.into(),
            fix: fix.into(),
        }
    }
}

impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut asked = Map::deserialize(deserializer)?;
        // How a purge came in that another larder tells of.
        asked.remove("by");
        let part = |value| serde_json::from_value(value).map_err(D::Error::custom);
        let dry_run = match asked.remove("dry_run") {
            None => false,
            Some(Value::Bool(dry_run)) => dry_run,
            Some(_) => return Err(D::Error::custom("dry_run is true or false")),
        };
        let refresh_hot = match asked.remove("refresh") {
            None => false,
            Some(Value::String(word)) if word == "hot" => true,
            Some(_) => return Err(D::Error::custom("refresh is \"hot\"")),
        };
        let mut parts = Vec::new();
        match asked.remove("purges") {
            None => {}
            Some(Value::Array(all)) if all.len() <= PURGES_MAX => {
                for one in all {
                    parts.push(part(one)?);
                }
            }
            Some(Value::Array(_)) => {
                return Err(D::Error::custom(format!(
                    "purges is a list of at most {PURGES_MAX}"
                )));
            }
            Some(_) => return Err(D::Error::custom("purges is a list")),
        }
        if parts.is_empty() || !asked.is_empty() {
            parts.push(part(Value::Object(asked))?);
        }
        Ok(Self {
            dry_run,
            refresh_hot,
            parts,
        })
    }
}

impl Request {
    /// Purges of these tags, softly.
    #[must_use]
    pub fn of_tags(tags: Vec<String>) -> Self {
        let part = Part {
            tags,
            ..Part::default()
        };
        Self {
            dry_run: false,
            refresh_hot: false,
            parts: vec![part],
        }
    }

    /// What was asked for as purges; every one valid, at least one.
    pub fn purges(self, routes: &Routes) -> Result<Vec<Purge>, Refusal> {
        let mut purges = Vec::new();
        for part in self.parts {
            let soft = part.soft.unwrap_or(true);
            let scopes = part.scopes(routes)?;
            purges.extend(scopes.into_iter().map(|scope| Purge { scope, soft }));
        }
        if purges.is_empty() || purges.len() > PURGES_MAX {
            return Err(Refusal::new(
                "how-many",
                format!(
                    "One request carries 1 to {PURGES_MAX} purges, this one {}.",
                    purges.len()
                ),
                "Name tags, urls, prefixes, globs, regexes, routes, users or groups, or say \"all\": true.",
            ));
        }
        Ok(purges)
    }
}

impl Part {
    fn scopes(self, routes: &Routes) -> Result<Vec<Scope>, Refusal> {
        let mut scopes = Vec::new();
        for tag in self.tags {
            named(&tag, "bad-tag", "A tag")?;
            scopes.push(Scope::Tag(tag));
        }
        for user in self.users {
            named(&user, "bad-user", "A user")?;
            scopes.push(Scope::Tag(user_tag(&user)));
        }
        scopes.extend(grouped(self.groups, self.origin.as_deref())?);
        for url in self.urls {
            scopes.push(Scope::Url(known_as(&url, routes)?));
        }
        for prefix in self.prefixes {
            scopes.push(Scope::Prefix(without_scheme(&prefix)?));
        }
        for glob in self.globs {
            scopes.push(pattern(Scope::Glob(without_scheme(&glob)?))?);
        }
        for regex in self.regexes {
            scopes.push(pattern(Scope::Regex(regex))?);
        }
        for name in self.routes {
            scopes.push(Scope::Tag(route_tag(&name, routes)?));
        }
        if self.all {
            scopes.push(Scope::All);
        }
        Ok(scopes)
    }
}

/// The tag that everything has which was stored for one user alone. A name that makes no tag is told
/// by its digest.
#[must_use]
pub fn user_tag(id: &str) -> String {
    let tag = format!("user:{id}");
    match is_tag(&tag) {
        true => tag,
        false => {
            let mut key = KeyBuilder::new("user");
            key.part(id.as_bytes());
            key.finish().tag()
        }
    }
}

/// A field of a JSON text as text; objects and arrays are no text.
#[must_use]
pub fn text_at(json: Option<&Value>, path: &[String]) -> Option<String> {
    match path.iter().try_fold(json?, |value, name| value.get(name))? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What asks for these purges, as [`Request`] reads it.
#[must_use]
pub fn written(purges: &[Purge]) -> Value {
    let part = |purge: &Purge| {
        let (soft, value) = (purge.soft, [purge.scope.value()]);
        match &purge.scope {
            Scope::Tag(_) => json!({"tags": value, "soft": soft}),
            Scope::Url(_) => json!({"urls": value, "soft": soft}),
            Scope::Prefix(_) => json!({"prefixes": value, "soft": soft}),
            Scope::Glob(_) => json!({"globs": value, "soft": soft}),
            Scope::Regex(_) => json!({"regexes": value, "soft": soft}),
            Scope::All => json!({"all": true, "soft": soft}),
        }
    };
    json!({ "purges": purges.iter().map(part).collect::<Vec<_>>() })
}

/// The URL in the form in which stored responses are known, whatever spelling the purger uses.
fn known_as(url: &str, routes: &Routes) -> Result<String, Refusal> {
    let bare = without_scheme(url)?;
    let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
    let (host, path) = bare.split_at(bare.find('/').unwrap_or_default());
    let host = normal_authority(host, scheme).unwrap_or(host.into());
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    Ok(url_of(&host, &Target::parse(path, query), routes))
}

/// The URL that stored responses of this target are known by.
#[must_use]
pub fn url_of(host: &str, target: &Target<'_>, routes: &Routes) -> String {
    let rule = routes.find(&Method::GET, target).rule;
    format!("{host}{}", rule.url(target))
}

/// A pattern that can be followed.
fn pattern(scope: Scope) -> Result<Scope, Refusal> {
    let (code, fix) = match scope {
        Scope::Glob(_) => (
            "bad-glob",
            "Write /api/cars/*/photos, or /img/** for all below.",
        ),
        _ => (
            "bad-regex",
            r"Write /api/cars/\d+/photos; it is matched from the beginning of the path.",
        ),
    };
    match scope.check() {
        Ok(()) => Ok(scope),
        Err(why) => Err(Refusal::new(
            code,
            format!("The {} cannot be followed: {why}.", scope.word()),
            fix,
        )),
    }
}

/// Whether anything can be purged by this tag.
#[must_use]
pub fn is_tag(text: &str) -> bool {
    (1..=TAG_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn named(name: &str, code: &'static str, what: &str) -> Result<(), Refusal> {
    if is_tag(name) {
        return Ok(());
    }
    Err(Refusal::new(
        code,
        format!("{what} has 1 to {TAG_BYTES_MAX} bytes and no control characters."),
        "Write it as it was stored with, such as car:42.",
    ))
}

fn grouped(names: Vec<String>, origin: Option<&str>) -> Result<Vec<Scope>, Refusal> {
    let no_origin = || {
        Refusal::new(
            "no-origin",
            "A group is of one origin, and two origins never share one.",
            "Write \"origin\": \"https://shop.example\" beside \"groups\".",
        )
    };
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let origin = origin.ok_or_else(no_origin)?;
    let (scheme, host) = origin.split_once("://").unwrap_or(("http", origin));
    let host = normal_authority(host, scheme).ok_or_else(no_origin)?;
    let scope = |name: String| {
        named(&name, "bad-group", "A group")?;
        Ok(Scope::Tag(groups::tag(&host, &name)))
    };
    names.into_iter().map(scope).collect()
}

fn route_tag(name: &str, routes: &Routes) -> Result<String, Refusal> {
    let route = routes.all().iter().find(|route| *route.name == *name);
    route.map(|route| route.own_tag()).ok_or_else(|| {
        let names = routes.all().iter().map(|route| &*route.name);
        let names: Vec<&str> = names.take(ROUTES_TOLD).collect();
        Refusal::new(
            "unknown-route",
            "There is no route of this name.",
            format!("The routes are: {}.", names.join(", ")),
        )
    })
}

/// `host/path?query` or `/path?query`; a fragment never reaches a server.
fn without_scheme(url: &str) -> Result<String, Refusal> {
    let bare = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .unwrap_or(url);
    let bare = bare.split('#').next().unwrap_or_default();
    let fits = bare.len() <= URL_BYTES_MAX && bare.contains('/');
    if !fits || bare.contains(|c: char| c.is_control() || c == ' ') || bare.starts_with("//") {
        return Err(Refusal::new(
            "bad-url",
            format!("A URL has a path, no blanks, and at most {URL_BYTES_MAX} bytes."),
            "Write /api/fleet?page=2, or https://shop.example/api/fleet?page=2 for one host.",
        ));
    }
    Ok(bare.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(json: serde_json::Value) -> Result<Vec<Purge>, &'static str> {
        let source = crate::config::Source {
            name: "test".into(),
            text: "upstream: http://localhost:1".into(),
        };
        let env = crate::config::Environment::ignored();
        let (settings, _) = crate::config::load(source, &env).unwrap();
        let request: Request = serde_json::from_value(json).map_err(|_| "bad-json")?;
        request
            .purges(&settings.routes)
            .map_err(|refusal| refusal.code)
    }

    fn tag(name: &str, soft: bool) -> Purge {
        Purge {
            scope: Scope::Tag(name.into()),
            soft,
        }
    }

    #[test]
    fn a_purge_names_what_it_hits_and_is_soft_unless_told_otherwise() {
        let purges = asked(json!({
            "tags": ["car:42"],
            "users": ["ann"],
            "urls": ["https://Shop.example:443/api/fleet?utm_source=x&page=%32&a=1#top", "/api/fleet"],
            "prefixes": ["/api/", "https://shop.example/img/"],
            "globs": ["/a/*/b"],
            "regexes": [r"/a/\d+"],
            "all": true,
        }));
        let scopes = [
            Scope::Tag("car:42".into()),
            Scope::Tag("user:ann".into()),
            Scope::Url("shop.example/api/fleet?a=1&page=2".into()),
            Scope::Url("/api/fleet".into()),
            Scope::Prefix("/api/".into()),
            Scope::Prefix("shop.example/img/".into()),
            Scope::Glob("/a/*/b".into()),
            Scope::Regex(r"/a/\d+".into()),
            Scope::All,
        ];
        let soft = true;
        assert_eq!(purges.unwrap(), scopes.map(|scope| Purge { scope, soft }));
        assert!(!asked(json!({"all": true, "soft": false})).unwrap()[0].soft);
    }

    #[test]
    fn what_is_written_is_read_as_what_it_was() {
        let scopes = [
            Scope::Tag("a".into()),
            Scope::Url("h/b?c=1".into()),
            Scope::Prefix("/d".into()),
            Scope::Glob("/e/*".into()),
            Scope::Regex("/f".into()),
            Scope::All,
        ];
        let purge = |(n, scope)| Purge {
            scope,
            soft: n % 2 == 0,
        };
        let purges: Vec<Purge> = scopes.into_iter().enumerate().map(purge).collect();
        assert_eq!(asked(written(&purges)).unwrap(), purges);
    }

    #[test]
    fn a_field_of_a_body_is_found_by_its_path_and_only_text_counts() {
        let body = json!({"car": {"id": 42, "tags": ["a"]}, "name": "x"});
        let at = |path: &[&str]| {
            let path: Vec<_> = path.iter().map(ToString::to_string).collect();
            text_at(Some(&body), &path)
        };
        assert_eq!(at(&["car", "id"]).as_deref(), Some("42"));
        assert_eq!(at(&["name"]).as_deref(), Some("x"));
        assert_eq!(at(&["car", "tags"]), None);
        assert_eq!(at(&["missing"]), None);
    }

    #[test]
    fn one_request_may_have_soft_and_hard_purges_beside_each_other() {
        let purges = asked(json!({
            "purges": [{"tags": ["a"], "soft": false}, {"tags": ["b"]}],
            "tags": ["c"],
        }));
        let expected = [tag("a", false), tag("b", true), tag("c", true)];
        assert_eq!(purges.unwrap(), expected);
    }

    #[test]
    fn a_group_is_that_of_its_origin() {
        let of = |origin: &str| asked(json!({"groups": ["cars"], "origin": origin})).unwrap();
        let expected = tag(&groups::tag("shop.example", "cars"), true);
        for origin in ["https://Shop.example:443", "shop.example"] {
            assert_eq!(of(origin), std::slice::from_ref(&expected), "{origin}");
        }
        assert_ne!(of("other.example"), [expected]);
    }

    #[test]
    fn a_purge_that_cannot_be_meant_is_refused_whole() {
        for (json, code) in [
            (json!({}), "how-many"),
            (json!({"all": false}), "how-many"),
            (json!({"tags": vec!["a"; 129]}), "how-many"),
            (
                json!({"purges": vec![json!({"all": true}); 129]}),
                "bad-json",
            ),
            (json!({"purges": [{"dry_run": true}]}), "bad-json"),
            (json!({"tag": "a"}), "bad-json"),
            (json!({"tags": ["a", ""]}), "bad-tag"),
            (json!({"tags": ["a\nb"]}), "bad-tag"),
            (json!({"tags": ["a".repeat(257)]}), "bad-tag"),
            (json!({"users": [""]}), "bad-user"),
            (json!({"groups": ["a"]}), "no-origin"),
            (json!({"urls": ["fleet"]}), "bad-url"),
            (json!({"urls": ["//x/y"]}), "bad-url"),
            (json!({"prefixes": ["api"]}), "bad-url"),
            (json!({"regexes": ["("]}), "bad-regex"),
            (json!({"globs": ["nowhere"]}), "bad-url"),
            (json!({"routes": ["none"]}), "unknown-route"),
        ] {
            assert_eq!(asked(json.clone()), Err(code), "{json}");
        }
    }
}
