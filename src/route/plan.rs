//! What is to be done with a request: tunnel, pass or look up; and the key it is looked up by.
//!
//! Never looks into a store, and never at the app's answer.

use super::{ContentKey, KeyRule, Per, Rule, Target};
use crate::semantics::fields::{combined, cookies, has_token, list};
use crate::semantics::graphql::{self, Look};
use crate::semantics::invalidation::is_safe;
use crate::semantics::search::{decode_form, parameters};
use crate::semantics::{Key, KeyBuilder, Reason, Variation};
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE, UPGRADE,
};
use http::{HeaderMap, Method};
use std::borrow::Cow;

/// The most query parameters of a request that is looked up; one with more is passed.
pub const PARAMETERS_MAX: usize = 256;
/// The most content that a key is made of, in bytes; a request with more is passed as it comes.
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Hand the connection over (Upgrade).
    Tunnel,
    /// Send it to the app and do not look at the store.
    Pass(Reason),
    /// Read up to [`CONTENT_BYTES_MAX`] of the content, and plan again.
    Read,
    /// Look the key up, fetch and store if need be.
    Lookup(Key),
}

/// A request, as far as planning looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host in normal form: lower case, no default port, no trailing dot.
    pub authority: &'a str,
    /// Its target.
    pub target: &'a Target<'a>,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// Its content.
    pub content: Content<'a>,
}

/// A request's content, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// There is none.
    None,
    /// There is some, and nobody has read it.
    Unread,
    /// More than [`CONTENT_BYTES_MAX`], or with trailers, which no key holds.
    TooLarge,
    /// All of it.
    Whole(&'a [u8]),
}

impl Rule {
    /// Decides. `identity` holds one value for each member of `key.per`, in order; a member without
    /// a value (nobody is logged in) makes the answer unshareable: `Pass(Private)`.
    #[must_use]
    pub fn plan(&self, asked: &Asked<'_>, identity: &[Option<Vec<u8>>]) -> Plan {
        if is_upgrade(asked.headers) {
            return Plan::Tunnel;
        }
        if asked.target.ambiguous {
            return Plan::Pass(Reason::AmbiguousPath);
        }
        let content = match self.content(asked) {
            Ok(content) => content,
            Err(plan) => return plan,
        };
        if self.policy.is_none() {
            return Plan::Pass(Reason::NoStore);
        }
        if self.bypass.is_met(asked.headers) {
            return Plan::Pass(Reason::DraftMode);
        }
        let identity = identity.iter().map(Option::as_deref);
        if identity.clone().count() != self.key.per.len() || identity.clone().any(|id| id.is_none())
        {
            return Plan::Pass(Reason::Private);
        }
        // Too many to be put in order for nothing; no honest page has them.
        if asked.target.query.is_some_and(has_many_parameters) {
            return Plan::Pass(Reason::AmbiguousPath);
        }
        Plan::Lookup(self.key.key(asked, identity.flatten(), content.as_deref()))
    }

    /// Whether this request may change something at the app, so that a good answer to it invalidates
    /// (RFC 9111 §4.4). A POST that the route's key says is a read does not.
    #[must_use]
    pub fn is_unsafe(&self, asked: &Asked<'_>) -> bool {
        if is_safe(asked.method) {
            return false;
        }
        let declared = match (self.content_key(asked.method), asked.content) {
            (Some(ContentKey::Bytes), _) => true,
            (Some(ContentKey::Graphql), Content::Whole(bytes)) => {
                normal_graphql(asked, bytes).is_some()
            }
            _ => false,
        };
        !declared || self.bypass.is_met(asked.headers)
    }

    /// What of this method's content is in the key.
    fn content_key(&self, method: &Method) -> Option<ContentKey> {
        match *method {
            _ if self.policy.is_none() => None,
            Method::QUERY => Some(ContentKey::Bytes),
            Method::POST => self.key.content,
            _ => None,
        }
    }

    /// What goes into the key beside the head, or what is to be done instead of looking up.
    fn content<'a>(&self, asked: &Asked<'a>) -> Result<Option<Cow<'a, [u8]>>, Plan> {
        let pass = |reason| Err(Plan::Pass(reason));
        if matches!(*asked.method, Method::GET | Method::HEAD) {
            if asked.content != Content::None {
                return pass(Reason::Body);
            }
            // A GET that runs a mutation is the app's mistake, but not one to be kept for others.
            let looked_at = self.key.content == Some(ContentKey::Graphql);
            return match looked_at && !is_readable_url(asked.target) {
                true => pass(Reason::Method),
                false => Ok(None),
            };
        }
        let Some(kind) = self.content_key(asked.method) else {
            return pass(Reason::Method);
        };
        let bytes = match asked.content {
            Content::Unread => return Err(Plan::Read),
            Content::TooLarge => return pass(Reason::TooLarge),
            Content::None => &[],
            Content::Whole(bytes) => bytes,
        };
        // Ranges and conditions of such requests are for the app: they mean other things than with GET
        // (RFC 9110 §13.1.2, §14.2), and a part of some content is not what the key is made of (§14.5).
        if asked.headers.contains_key(RANGE) {
            return pass(Reason::Range);
        }
        if asked.headers.contains_key(CONTENT_RANGE) {
            return pass(Reason::Body);
        }
        if *asked.method == Method::POST && is_conditional(asked.headers) {
            return pass(Reason::Method);
        }
        match kind {
            ContentKey::Bytes => Ok(Some(Cow::Borrowed(bytes))),
            ContentKey::Graphql => match normal_graphql(asked, bytes) {
                Some(normal) => Ok(Some(Cow::Owned(normal))),
                None => pass(Reason::Method),
            },
        }
    }

    /// The tag of the resource behind `target`, one for all spellings that share a key, all variants
    /// and all clients: what a change of the resource purges (RFC 9111 §4.4). `authority` in normal
    /// form. The scheme is left out, since who stands in front of us may have taken the TLS off.
    #[must_use]
    pub fn resource_tag(&self, authority: &str, target: &Target<'_>) -> String {
        let mut key = KeyBuilder::new("resource");
        key.part(authority.as_bytes());
        key.part(target.path.as_bytes());
        self.key.add_query(target.query, &mut key);
        key.finish().tag()
    }

    /// Path and query as what is stored is known by, one for all spellings that share a key: what
    /// purges by URL compare.
    #[must_use]
    pub fn url(&self, target: &Target<'_>) -> String {
        let query = self.key.normal_query(target.query.unwrap_or_default());
        match query.is_empty() {
            true => target.path.to_owned(),
            false => format!("{}?{query}", target.path),
        }
    }

    /// The query to send to the app on a fetch that may be stored: without what the key leaves out
    /// (ignored parameters, and with a `key.query` all others), everything else byte for byte. What
    /// the app cannot see cannot end up in everybody's page.
    #[must_use]
    pub fn fetch_query<'a>(&self, query: Option<&'a str>) -> Option<Cow<'a, str>> {
        let query = query?;
        let keyed = |parameter: &str| {
            let name = parameter.split('=').next().unwrap_or_default();
            parameter.is_empty() || self.key.holds(name)
        };
        if query.split('&').all(keyed) {
            return Some(Cow::Borrowed(query));
        }
        let mut kept = String::with_capacity(query.len());
        for parameter in query.split('&').filter(|parameter| keyed(parameter)) {
            if !kept.is_empty() {
                kept.push('&');
            }
            kept.push_str(parameter);
        }
        (!kept.is_empty()).then_some(Cow::Owned(kept))
    }

    /// The names of the query's parameters that the key leaves out, as sent.
    #[must_use]
    pub fn left_out<'a>(&self, query: &'a str) -> Vec<&'a str> {
        parameters(query)
            .map(|(name, _)| name)
            .filter(|name| !self.key.holds(name))
            .collect()
    }

    /// What is left of the query where the app has stated `variation`: decoded, by name. A parameter
    /// is left out if either says so, the route or the app; that different parameters may stand in any
    /// order the route says of every query.
    #[must_use]
    pub fn loosened<'a>(
        &self,
        query: Option<&'a str>,
        variation: &Variation,
    ) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
        let mut left = variation.significant(query);
        left.retain(|(name, _)| self.key.names(name));
        left.sort_by(|one, other| one.0.cmp(&other.0));
        left
    }

    /// The key of all requests that `variation` makes one, given the key of this one `without` its
    /// query. The variation is part of it: what was stored under another one is never found by it.
    ///
    /// Parameters that are left out here still go to the app. That is no hole in the key, as it would
    /// be for those that the route leaves out: the app has said that its answers do not depend on
    /// them, and it says so again in every answer that is stored under this key.
    #[must_use]
    pub fn loosened_key(&self, without: &Key, query: Option<&str>, variation: &Variation) -> Key {
        let mut key = KeyBuilder::new("loosened");
        key.part(without.bytes());
        key.part(variation.to_string().as_bytes());
        for (name, value) in self.loosened(query, variation) {
            key.part(name.as_bytes());
            key.part(value.as_bytes());
        }
        key.finish()
    }
}

impl KeyRule {
    /// Whether the key holds the query parameter with this name, as sent.
    fn holds(&self, name: &str) -> bool {
        self.names(&decode_form(name))
    }

    /// The same of a name that is decoded.
    fn names(&self, name: &str) -> bool {
        match &self.query {
            Some(listed) => names(listed, name),
            None => !names(&self.ignore_query, name),
        }
    }

    fn key<'a>(
        &self,
        asked: &Asked<'_>,
        identity: impl Iterator<Item = &'a [u8]>,
        content: Option<&[u8]>,
    ) -> Key {
        let mut key = match content {
            // GET and HEAD share a key: a HEAD is answered from what a GET stored.
            None => KeyBuilder::new("request"),
            Some(content) => {
                // RFC 10008: the content and what says how to read it; never the URI alone.
                let mut key = KeyBuilder::new("request with content");
                key.part(asked.method.as_str().as_bytes());
                for name in [CONTENT_TYPE, CONTENT_ENCODING] {
                    let value = combined(asked.headers, &name);
                    key.part(if value.is_some() { b"=" } else { b"" });
                    key.part(&value.unwrap_or_default());
                }
                key.part(content);
                key
            }
        };
        key.part(asked.scheme.as_bytes());
        key.part(asked.authority.as_bytes());
        key.part(asked.target.path.as_bytes());
        self.add_query(asked.target.query, &mut key);
        for name in &self.headers {
            key.part(b"header");
            key.part(name.as_str().as_bytes());
            // Line by line: whether lines are one list is known only of the fields that are lists.
            for value in asked.headers.get_all(name) {
                key.part(b"=");
                key.part(value.as_bytes());
            }
        }
        for name in &self.cookies {
            key.part(b"cookie");
            key.part(name.as_bytes());
            for (_, value) in cookies(asked.headers).filter(|(known, _)| *known == name.as_bytes())
            {
                key.part(b"=");
                key.part(value);
            }
        }
        for (per, value) in self.per.iter().zip(identity) {
            key.part(match per {
                Per::Ip => b"per ip",
                Per::User => b"per user",
                Per::Token => b"per token",
            });
            key.part(value);
        }
        key.finish()
    }

    /// The query in normal form (RFC 3986 §6.2.2): parameters by name, those of one name in their
    /// order, escapes only where they are needed and in capitals. An empty query is none.
    ///
    /// The order goes by the decoded name, which is what the app knows a parameter by: `a[]` and
    /// `a%5B%5D` are one to it, and their order is a list's.
    fn add_query(&self, query: Option<&str>, key: &mut KeyBuilder) {
        key.part(self.normal_query(query.unwrap_or_default()).as_bytes());
    }

    fn normal_query(&self, query: &str) -> String {
        let mut kept: Vec<(Cow<'_, str>, &str, Option<&str>)> = parameters(query)
            .filter(|(name, _)| self.holds(name))
            .map(|(name, value)| (decode_form(name), name, value))
            .collect();
        kept.sort_by(|one, other| one.0.cmp(&other.0));
        let mut normal = String::with_capacity(query.len());
        for (_, name, value) in kept {
            if !normal.is_empty() {
                normal.push('&');
            }
            normal.push_str(&normal_escapes(name));
            if let Some(value) = value {
                normal.push('=');
                normal.push_str(&normal_escapes(value));
            }
        }
        normal
    }
}

/// The bytes that tell a GraphQL query from every other; `None` where it is none, or that cannot be told.
fn normal_graphql(asked: &Asked<'_>, bytes: &[u8]) -> Option<Vec<u8>> {
    // Some servers let the URL say what to run, whatever the content says.
    let elsewhere = asked.target.query.is_some_and(|query| {
        parameters(query).any(|(name, _)| GRAPHQL_MEMBERS.contains(&&*decode_form(name)))
    });
    if elsewhere || !is_json(asked.headers) {
        return None;
    }
    match graphql::content(bytes) {
        Look::Read(normal) => Some(normal),
        Look::Other => None,
    }
}

/// The members of a GraphQL request.
const GRAPHQL_MEMBERS: [&str; 4] = ["query", "operationName", "variables", "extensions"];

/// JSON in UTF-8, as it is.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = combined(headers, &CONTENT_TYPE).unwrap_or_default();
    let kind: Vec<u8> = kind.to_ascii_lowercase();
    let mut parameters = kind.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    parameters.next() == Some(b"application/json")
        && parameters.all(|parameter| parameter == b"charset=utf-8")
        && !headers.contains_key(CONTENT_ENCODING)
}

/// Whether a URL holds no GraphQL document, or one that is a query.
fn is_readable_url(target: &Target<'_>) -> bool {
    let values = |wanted: &'static str| {
        parameters(target.query.unwrap_or_default())
            .filter(move |(name, _)| decode_form(name) == wanted)
            .map(|(_, value)| decode_form(value.unwrap_or_default()))
    };
    let mut documents = values("query");
    let mut operations = values("operationName").filter(|name| !name.is_empty());
    match (documents.next(), documents.next()) {
        (None, _) => true,
        (Some(document), None) => {
            let operation = operations.next();
            operations.next().is_none() && graphql::is_query(&document, operation.as_deref())
        }
        (Some(_), Some(_)) => false,
    }
}

fn is_conditional(headers: &HeaderMap) -> bool {
    [
        IF_MATCH,
        IF_NONE_MATCH,
        IF_MODIFIED_SINCE,
        IF_UNMODIFIED_SINCE,
    ]
    .iter()
    .any(|name| headers.contains_key(name))
}

fn has_many_parameters(query: &str) -> bool {
    query.bytes().filter(|byte| *byte == b'&').count() >= PARAMETERS_MAX
}

/// Whether `patterns` name this parameter; one may end in a star.
fn names(patterns: &[String], name: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => pattern == name,
        })
}

/// Escapes of unreserved characters undone, all others in capitals. With anything in it that is no
/// escape the text stays as it is: apps differ in what they make of the whole then.
fn normal_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut normal = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(percent) = rest.find('%') {
        normal.push_str(&rest[..percent]);
        rest = &rest[percent..];
        let escape = rest
            .get(1..3)
            .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match escape.and_then(|hex| Some((hex, u8::from_str_radix(hex, 16).ok()?))) {
            Some((_, byte)) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                normal.push(char::from(byte));
                rest = &rest[3..];
            }
            Some((hex, _)) => {
                normal.push('%');
                normal.push_str(&hex.to_ascii_uppercase());
                rest = &rest[3..];
            }
            None => return Cow::Borrowed(text),
        }
    }
    normal.push_str(rest);
    Cow::Owned(normal)
}

/// Whether the connection is to become another protocol's (RFC 9110 §7.8). An offer of HTTP/2 alone
/// is no reason to leave HTTP: it is ignored, as RFC 9113 §3.1 allows.
fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && has_token(headers, &CONNECTION, "upgrade")
        && list(headers, &UPGRADE).any(|protocol| {
            !protocol.eq_ignore_ascii_case(b"h2c") && !protocol.eq_ignore_ascii_case(b"h2")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Bypass, Pattern};
    use crate::semantics::Policy;
    use crate::semantics::testing::{any_value, headers};
    use http::HeaderName;
    use proptest::prelude::*;

    fn rule(key: KeyRule) -> Rule {
        Rule {
            name: "test".into(),
            paths: vec![Pattern::parse("/*").unwrap()],
            policy: Some(Policy::default()),
            key,
            ..Rule::default()
        }
    }

    fn ignoring(names: &[&str]) -> KeyRule {
        KeyRule {
            ignore_query: names.iter().map(|name| (*name).to_owned()).collect(),
            ..KeyRule::default()
        }
    }

    fn plan(rule: &Rule, method: Method, url: &str, request: &str) -> Plan {
        let (path, query) = match url.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (url, None),
        };
        let asked = Asked {
            method: &method,
            scheme: "http",
            authority: "shop.test",
            target: &Target::parse(path, query),
            headers: &headers(request),
            content: Content::None,
        };
        rule.plan(&asked, &[])
    }

    fn key(rule: &Rule, url: &str, request: &str) -> Key {
        match plan(rule, Method::GET, url, request) {
            Plan::Lookup(key) => key,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_an_app_reads_differently_has_a_key_of_its_own() {
        let rule = rule(KeyRule {
            headers: vec![HeaderName::from_static("x-a")],
            ..KeyRule::default()
        });
        let of = |url, request| key(&rule, url, request);
        // One list, in another order.
        assert_ne!(of("/?a[]=1&a%5B%5D=2", ""), of("/?a%5B%5D=2&a[]=1", ""));
        assert_ne!(of("/?a+b=1&a%20b=2", ""), of("/?a%20b=2&a+b=1", ""));
        // What is no escape: some decode the rest, others nothing.
        assert_ne!(of("/?a=%%341", ""), of("/?a=%4%31", ""));
        assert_ne!(of("/?a=%zz%41", ""), of("/?a=%zzA", ""));
        assert_ne!(of("/", "x-a: 1\nx-a: 2"), of("/", "x-a: 1, 2"));
    }

    #[test]
    fn an_upgrade_is_tunnelled_whatever_its_case() {
        let rule = rule(KeyRule::default());
        let upgrade = |request| plan(&rule, Method::GET, "/", request);
        assert_eq!(
            upgrade("connection: keep-alive, UPGRADE\nupgrade: WebSocket"),
            Plan::Tunnel
        );
        assert_ne!(upgrade("upgrade: websocket"), Plan::Tunnel);
        assert_ne!(upgrade("connection: upgrade"), Plan::Tunnel);
        assert_ne!(
            upgrade("connection: upgrade, http2-settings\nupgrade: h2c"),
            Plan::Tunnel
        );
    }

    #[test]
    fn what_is_not_looked_up_has_a_reason() {
        let mut rule = rule(KeyRule::default());
        assert_eq!(
            plan(&rule, Method::POST, "/", ""),
            Plan::Pass(Reason::Method)
        );
        assert_eq!(
            plan(&rule, Method::GET, "/a//b", ""),
            Plan::Pass(Reason::AmbiguousPath)
        );
        let many = format!("/?{}", "a&".repeat(10_000));
        assert_eq!(
            plan(&rule, Method::GET, &many, ""),
            Plan::Pass(Reason::AmbiguousPath)
        );
        let target = Target::parse("/", None);
        let asked = Asked {
            method: &Method::GET,
            scheme: "http",
            authority: "a",
            target: &target,
            headers: &HeaderMap::new(),
            content: Content::Unread,
        };
        assert_eq!(rule.plan(&asked, &[]), Plan::Pass(Reason::Body));
        rule.policy = None;
        assert_eq!(
            plan(&rule, Method::GET, "/", ""),
            Plan::Pass(Reason::NoStore)
        );
    }

    #[test]
    fn a_key_per_identity_needs_every_identity() {
        let rule = rule(KeyRule {
            per: vec![Per::User, Per::Ip],
            ..KeyRule::default()
        });
        let target = Target::parse("/", None);
        let asked = Asked {
            method: &Method::GET,
            scheme: "http",
            authority: "a",
            target: &target,
            headers: &HeaderMap::new(),
            content: Content::None,
        };
        let plan = |identity: &[Option<&str>]| {
            let identity: Vec<_> = identity
                .iter()
                .map(|id| id.map(|id| id.as_bytes().to_vec()))
                .collect();
            rule.plan(&asked, &identity)
        };
        assert_eq!(plan(&[None, Some("i")]), Plan::Pass(Reason::Private));
        assert_eq!(plan(&[]), Plan::Pass(Reason::Private));
        assert!(matches!(plan(&[Some("u"), Some("i")]), Plan::Lookup(_)));
        assert_ne!(plan(&[Some("u"), Some("i")]), plan(&[Some("v"), Some("i")]));
        assert_ne!(plan(&[Some("u"), Some("i")]), plan(&[Some("i"), Some("u")]));
    }

    #[test]
    fn head_and_get_and_ranges_share_a_key() {
        let rule = rule(KeyRule::default());
        let lookup = Plan::Lookup(key(&rule, "/a?b=c", ""));
        assert_eq!(plan(&rule, Method::HEAD, "/a?b=c", ""), lookup);
        assert_eq!(
            plan(&rule, Method::GET, "/a?b=c", "range: bytes=0-1"),
            lookup
        );
    }

    #[test]
    fn scheme_host_and_the_exact_path_are_always_in_the_key() {
        let rule = rule(KeyRule::default());
        let (plain, encoded) = (Target::parse("/a", None), Target::parse("/%61", None));
        let key = |scheme, authority, target| {
            let asked = Asked {
                method: &Method::GET,
                scheme,
                authority,
                target,
                headers: &HeaderMap::new(),
                content: Content::None,
            };
            rule.plan(&asked, &[])
        };
        let one = key("http", "a", &plain);
        assert_eq!(one, key("http", "a", &plain));
        assert_ne!(one, key("https", "a", &plain));
        assert_ne!(one, key("http", "b", &plain));
        assert_ne!(one, key("http", "a", &encoded));
    }

    #[test]
    fn queries_are_compared_in_normal_form() {
        let rule = rule(ignoring(&["utm_*", "gclid"]));
        let same = |one: &str, other: &str| key(&rule, one, "") == key(&rule, other, "");
        assert!(same("/a", "/a?"));
        assert!(same("/a?b=1&a=2", "/a?a=2&b=1"));
        assert!(same("/a?%61=%7e%2f", "/a?a=~%2F"));
        assert!(same("/a?b=1&utm_source=x&gclid=y&utm%5Fz", "/a?b=1"));
        assert!(same("/a?utm_source=x", "/a"));
        assert!(!same("/a?a=1&a=2", "/a?a=2&a=1"));
        assert!(!same("/a?a", "/a?a="));
        assert!(!same("/a?a=%2F", "/a?a=/"));
        assert!(!same("/a?a=+", "/a?a=%20"));
        assert!(!same("/a?a=1%26b=2", "/a?a=1&b=2"));
        assert!(!same("/a?utm=1", "/a"));
        assert!(!same("/a?a=1;utm_x=2", "/a?a=1"));
    }

    #[test]
    fn a_listed_query_leaves_all_else_out_of_key_and_fetch() {
        let rule = rule(KeyRule {
            query: Some(vec!["page".into(), "sort".into()]),
            ..KeyRule::default()
        });
        assert_eq!(key(&rule, "/?page=1&x=2", ""), key(&rule, "/?page=1", ""));
        assert_ne!(key(&rule, "/?page=1", ""), key(&rule, "/?page=2", ""));
        assert_eq!(
            rule.fetch_query(Some("x=1&sort=a&page=%31&&y")).as_deref(),
            Some("sort=a&page=%31&")
        );
        assert_eq!(rule.fetch_query(Some("x=1")), None);
    }

    #[test]
    fn the_app_gets_the_bytes_that_are_in_the_key() {
        let rule = rule(ignoring(&["utm_*"]));
        for (query, sent) in [
            ("b=%7e&a", Some("b=%7e&a")),
            ("", Some("")),
            ("utm_a=1", None),
            ("b=%7e&utm_a=1&a=+&utm%5fb", Some("b=%7e&a=+")),
        ] {
            assert_eq!(rule.fetch_query(Some(query)).as_deref(), sent, "{query}");
        }
        assert_eq!(rule.fetch_query(None), None);
        assert!(matches!(
            rule.fetch_query(Some("a=1")),
            Some(Cow::Borrowed(_))
        ));
    }

    #[test]
    fn what_route_or_app_leave_out_is_left_out_of_a_loosened_key() {
        let rule = rule(ignoring(&["utm_*"]));
        let variation =
            |field: &str| Variation::of(&headers(&format!("no-vary-search: {field}"))).unwrap();
        let key = |query: &str, field: &str| {
            rule.loosened_key(&key(&rule, "/a", ""), Some(query), &variation(field))
        };
        let params = "params=(\"x\")";
        assert_eq!(key("a=1&x=1&utm_b=1", params), key("x=2&a=1", params));
        assert_eq!(key("b=1&a=1", params), key("a=%31&b=1", params));
        assert_ne!(key("a=1", params), key("a=2", params));
        assert_ne!(key("a=1&a=2", params), key("a=2&a=1", params));
        assert_ne!(key("a=1", params), key("a=1", "params=(\"y\")"));
        let except = "except=(\"a\" \"utm_b\")";
        assert_eq!(key("a=1&b=2&utm_b=3", except), key("a=1", except));
        let other = rule.loosened_key(
            &super::tests::key(&rule, "/b", ""),
            Some("a=1"),
            &variation(params),
        );
        assert_ne!(other, key("a=1", params));
    }

    #[test]
    fn chosen_fields_and_cookies_are_in_the_key() {
        let rule = rule(KeyRule {
            headers: vec![
                HeaderName::from_static("x-a"),
                HeaderName::from_static("x-b"),
            ],
            cookies: vec!["theme".into()],
            ..KeyRule::default()
        });
        let key = |request: &str| key(&rule, "/", request);
        assert_eq!(
            key("x-a: 1\nx-c: 1\ncookie: sid=1; theme=x"),
            key("cookie: theme=x; sid=2\nx-a: 1")
        );
        let all = [
            "",
            "x-a: 1",
            "x-b: 1",
            "x-a:",
            "x-a: 1\nx-a: 2",
            "cookie: theme=",
            "cookie: theme=x",
            "cookie: theme=x; theme=y",
        ];
        for (at, one) in all.iter().enumerate() {
            for other in &all[..at] {
                assert_ne!(key(one), key(other), "{one} {other}");
            }
        }
    }

    /// A request with content, as it is looked up; `None`: it is not.
    fn content_key(
        rule: &Rule,
        method: Method,
        url: &str,
        request: &str,
        bytes: &[u8],
    ) -> Option<Key> {
        let (path, query) = match url.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (url, None),
        };
        let (target, headers) = (Target::parse(path, query), headers(request));
        let asked = Asked {
            method: &method,
            scheme: "http",
            authority: "shop.test",
            target: &target,
            headers: &headers,
            content: Content::Whole(bytes),
        };
        match rule.plan(&asked, &[]) {
            Plan::Lookup(key) => {
                assert!(!rule.is_unsafe(&asked), "{method} {url}");
                Some(key)
            }
            _ => None,
        }
    }

    fn posts(content: ContentKey) -> Rule {
        rule(KeyRule {
            content: Some(content),
            ..KeyRule::default()
        })
    }

    #[test]
    fn a_query_is_keyed_by_its_content_and_how_to_read_it_rfc10008() {
        let rule = rule(KeyRule::default());
        let json = "content-type: application/json";
        let of =
            |request: &str, bytes: &[u8]| content_key(&rule, Method::QUERY, "/", request, bytes);
        let keys = [
            Some(key(&rule, "/", "")),
            of("", b""),
            of("", b"a"),
            of(json, b"a"),
            of("content-type:", b"a"),
            of("content-encoding: gzip", b"a"),
            of(
                "content-type: application/json\ncontent-encoding: gzip",
                b"a",
            ),
        ];
        for (at, one) in keys.iter().enumerate() {
            assert!(one.is_some() && !keys[..at].contains(one), "{at}");
        }
        assert_eq!(of(json, b"a"), of(json, b"a"));
        assert_eq!(of("range: bytes=0-1", b"a"), None);
        assert_eq!(of("content-range: bytes 0-1/2", b"a"), None);
        assert!(of("if-none-match: x", b"a").is_some());
    }

    #[test]
    fn content_is_read_only_where_the_key_is_made_of_it() {
        let mut rule = posts(ContentKey::Bytes);
        let target = Target::parse("/", None);
        let plan = |rule: &Rule, method: Method, content| {
            let asked = Asked {
                method: &method,
                scheme: "http",
                authority: "a",
                target: &target,
                headers: &HeaderMap::new(),
                content,
            };
            (rule.plan(&asked, &[]), rule.is_unsafe(&asked))
        };
        let large = Plan::Pass(Reason::TooLarge);
        assert_eq!(
            plan(&rule, Method::QUERY, Content::Unread),
            (Plan::Read, false)
        );
        assert_eq!(
            plan(&rule, Method::POST, Content::Unread),
            (Plan::Read, false)
        );
        assert_eq!(
            plan(&rule, Method::POST, Content::TooLarge),
            (large.clone(), false)
        );
        let method = Plan::Pass(Reason::Method);
        assert_eq!(
            plan(&rule, Method::PUT, Content::Unread),
            (method.clone(), true)
        );
        rule.key.content = Some(ContentKey::Graphql);
        assert_eq!(plan(&rule, Method::POST, Content::TooLarge), (large, true));
        assert_eq!(
            plan(&rule, Method::POST, Content::None),
            (method.clone(), true)
        );
        rule.key.content = None;
        assert_eq!(
            plan(&rule, Method::POST, Content::Unread),
            (method.clone(), true)
        );
        rule.policy = None;
        assert_eq!(plan(&rule, Method::QUERY, Content::Unread), (method, false));
    }

    #[test]
    fn only_graphql_queries_are_looked_up() {
        let rule = posts(ContentKey::Graphql);
        let json = "content-type: application/json; charset=UTF-8";
        let query = br#"{"query":"{a}"}"#;
        let of = |url: &str, request: &str, bytes: &[u8]| {
            content_key(&rule, Method::POST, url, request, bytes)
        };
        assert!(of("/", json, query).is_some());
        assert!(of("/?x=query", json, query).is_some());
        for (url, request, bytes) in [
            ("/", "", &query[..]),
            ("/", "content-type: application/json; charset=utf-16", query),
            (
                "/",
                "content-type: application/json\ncontent-encoding: gzip",
                query,
            ),
            (
                "/",
                "content-type: application/json\nif-none-match: *",
                query,
            ),
            (
                "/",
                "content-type: application/json\ncontent-type: text/plain",
                query,
            ),
            ("/?query=mutation{a}", json, query),
            ("/?operation%4Eame=M", json, query),
            ("/", json, br#"{"query":"mutation{a}"}"#),
        ] {
            assert_eq!(of(url, request, bytes), None, "{url} {request}");
        }
        let get = |url: &str| plan(&rule, Method::GET, url, "");
        let looked_up = |url: &str| matches!(get(url), Plan::Lookup(_));
        assert!(looked_up("/") && looked_up("/?query={a}"));
        assert!(looked_up("/?query=query+Q{a}mutation+M{b}&operationName=Q"));
        for url in [
            "/?query=mutation{a}",
            "/?query=mut%61tion{a}",
            "/?query={a}&query=mutation{a}",
            "/?query=query+Q{a}mutation+M{b}&operationName=M",
            "/?query=query+Q{a}mutation+M{b}&operationName=Q&operationName=M",
            "/?query",
        ] {
            assert_eq!(get(url), Plan::Pass(Reason::Method), "{url}");
        }
    }

    #[test]
    fn what_a_route_bypasses_is_not_looked_up_and_no_read() {
        let mut rule = posts(ContentKey::Bytes);
        rule.bypass = Bypass {
            cookies: vec!["draft".into()],
            headers: vec![HeaderName::from_static("next-action")],
        };
        let pass = Plan::Pass(Reason::DraftMode);
        assert_eq!(plan(&rule, Method::GET, "/", "cookie: a=b; draft=1"), pass);
        assert_eq!(plan(&rule, Method::GET, "/", "next-action: x"), pass);
        assert!(matches!(
            plan(&rule, Method::GET, "/", "cookie: adraft=1"),
            Plan::Lookup(_)
        ));
        let (target, headers) = (Target::parse("/", None), headers("next-action: x"));
        let asked = Asked {
            method: &Method::POST,
            scheme: "http",
            authority: "a",
            target: &target,
            headers: &headers,
            content: Content::Whole(b""),
        };
        assert_eq!(rule.plan(&asked, &[]), pass);
        assert!(rule.is_unsafe(&asked));
    }

    proptest! {
        #[test]
        fn the_order_of_different_parameters_does_not_matter(mut query in proptest::collection::btree_map("[a-z]{1,3}", "[a-z%&2]{0,5}", 1..6)) {
            let rule = rule(KeyRule::default());
            query.values_mut().for_each(|value| *value = value.replace('&', "%26"));
            let forward: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let backward: Vec<_> = forward.iter().rev().cloned().collect();
            prop_assert_eq!(
                key(&rule, &format!("/?{}", forward.join("&")), ""),
                key(&rule, &format!("/?{}", backward.join("&")), "")
            );
        }

        #[test]
        fn the_normal_form_is_its_own_normal_form(text in "[a-zé%2fF7E/+]{0,30}") {
            let normal = normal_escapes(&text).into_owned();
            let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
            prop_assert_eq!(decoded(&text), decoded(&normal));
        }

        #[test]
        fn what_the_app_could_tell_apart_has_two_keys(one in "[ab=&]{0,8}", other in "[ab=&]{0,8}") {
            let rule = rule(KeyRule::default());
            let sorted = |query: &str| {
                let mut parameters: Vec<_> = parameters(query).collect();
                parameters.sort_by(|one, other| one.0.cmp(other.0));
                format!("{parameters:?}")
            };
            prop_assert_eq!(
                key(&rule, &format!("/?{one}"), "") == key(&rule, &format!("/?{other}"), ""),
                sorted(&one) == sorted(&other)
            );
        }

        #[test]
        fn the_key_of_what_is_fetched_is_the_key_of_what_was_asked(query in "(utm_a|b|utm%5Fc|d)(=[a-z%]{0,3})?(&(utm_a|b|d)(=[a-z]{0,3})?){0,4}") {
            let rule = rule(ignoring(&["utm_*"]));
            let fetched = rule.fetch_query(Some(&query)).map(|query| format!("/?{query}"));
            prop_assert_eq!(
                key(&rule, &format!("/?{query}"), ""),
                key(&rule, fetched.as_deref().unwrap_or("/"), "")
            );
        }

        #[test]
        fn escapes_in_normal_form_stay_so_and_mean_the_same(text in "[a-f%~/ -]{0,3}(%[0-9a-fA-F]{2}|[a-zA-Z%+]){0,12}") {
            let normal = normal_escapes(&text);
            prop_assert_eq!(&normal_escapes(&normal), &normal);
            prop_assert_eq!(decode_form(&normal), decode_form(&text));
        }

        /// Scheme, host, path, whom it is for, and keyed fields: whichever differs, the key does.
        #[test]
        fn no_two_requests_of_different_parts_share_a_key(
            one in ("https?", "[a-c]{1,2}", "/[ab/]{0,3}", "[a-c]{0,2}", prop::option::of("[ab]{0,2}"), prop::option::of("[ab]{0,2}")),
            other in ("https?", "[a-c]{1,2}", "/[ab/]{0,3}", "[a-c]{0,2}", prop::option::of("[ab]{0,2}"), prop::option::of("[ab]{0,2}")),
        ) {
            let rule = rule(KeyRule {
                headers: vec![HeaderName::from_static("x-a")],
                cookies: vec!["c".into()],
                per: vec![Per::User],
                ..KeyRule::default()
            });
            let plan = |(scheme, authority, path, user, field, cookie): &(String, String, String, String, Option<String>, Option<String>)| {
                let mut lines = String::new();
                field.iter().for_each(|value| lines.push_str(&format!("x-a: {value}\n")));
                cookie.iter().for_each(|value| lines.push_str(&format!("cookie: c={value}\n")));
                let asked = Asked {
                    method: &Method::GET,
                    scheme,
                    authority,
                    target: &Target::parse(path, None),
                    headers: &headers(&lines),
                    content: Content::None,
                };
                rule.plan(&asked, &[Some(user.clone().into_bytes())])
            };
            // `//` is not looked up at all.
            if !one.2.contains("//") && !other.2.contains("//") {
                prop_assert_eq!(plan(&one) == plan(&other), one == other);
            }
        }

        #[test]
        fn two_contents_are_never_one_key(
            one in proptest::collection::vec(any::<u8>(), 0..20),
            other in proptest::collection::vec(any::<u8>(), 0..20),
            kind in "[a-z]{1,3}",
            another in "[a-z]{1,3}",
        ) {
            let rule = posts(ContentKey::Bytes);
            for method in [Method::QUERY, Method::POST] {
                let key = |kind: &str, bytes: &[u8]| {
                    content_key(&rule, method.clone(), "/", &format!("content-type: {kind}"), bytes)
                };
                prop_assert_eq!(
                    key(&kind, &one) == key(&another, &other),
                    (&kind, &one) == (&another, &other)
                );
            }
            let query = content_key(&rule, Method::QUERY, "/", "", &one);
            prop_assert_ne!(query, content_key(&rule, Method::POST, "/", "", &one));
        }

        #[test]
        fn no_request_makes_the_plan_panic(values in proptest::collection::vec(any_value(), 3), query in "\\PC{0,60}") {
            let rule = rule(KeyRule {
                headers: vec![CONNECTION],
                cookies: vec!["a".into()],
                ..ignoring(&["*"])
            });
            let request = HeaderMap::from_iter([CONNECTION, UPGRADE, http::header::COOKIE].into_iter().zip(values));
            let target = Target::parse("/", Some(&query));
            let asked = Asked {
                method: &Method::GET,
                scheme: "http",
                authority: "a",
                target: &target,
                headers: &request,
                content: Content::None,
            };
            let _ = rule.plan(&asked, &[]);
            prop_assert_eq!(rule.fetch_query(Some(&query)).as_deref().unwrap_or_default().replace('&', ""), "");
        }
    }
}
