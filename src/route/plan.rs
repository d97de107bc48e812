//! What is to be done with a request: tunnel, pass or look up; and the key it is looked up by.
//!
//! Never looks into a store, and never at the app's answer.

use super::target::{decode_form, parameters};
use super::{KeyRule, Per, Rule, Target};
use crate::semantics::fields::{cookies, has_token, list};
use crate::semantics::{Key, KeyBuilder, Reason};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Method};
use std::borrow::Cow;

/// The most query parameters of a request that is looked up; one with more is passed.
pub const PARAMETERS_MAX: usize = 256;

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Hand the connection over (Upgrade).
    Tunnel,
    /// Send it to the app and do not look at the store.
    Pass(Reason),
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
    /// Whether a body follows.
    pub has_body: bool,
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
        if !matches!(*asked.method, Method::GET | Method::HEAD) {
            return Plan::Pass(Reason::Method);
        }
        if asked.has_body {
            return Plan::Pass(Reason::Body);
        }
        if self.policy.is_none() {
            return Plan::Pass(Reason::NoStore);
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
        Plan::Lookup(self.key.key(asked, identity.flatten()))
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
        // In front of whatever else is sorted among tags, so that no bound on them cuts it off.
        format!("!{}", key.finish())
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
}

impl KeyRule {
    /// Whether the key holds the query parameter with this name, as sent.
    fn holds(&self, name: &str) -> bool {
        let name = decode_form(name);
        match &self.query {
            Some(listed) => names(listed, &name),
            None => !names(&self.ignore_query, &name),
        }
    }

    fn key<'a>(&self, asked: &Asked<'_>, identity: impl Iterator<Item = &'a [u8]>) -> Key {
        // GET and HEAD share a key: a HEAD is answered from what a GET stored.
        let mut key = KeyBuilder::new("request");
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
        let Some(query) = query.filter(|query| !query.is_empty()) else {
            return key.part(b"");
        };
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
        key.part(normal.as_bytes());
    }
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
    use crate::route::Pattern;
    use crate::semantics::Policy;
    use crate::semantics::testing::{any_value, headers};
    use http::HeaderName;
    use proptest::prelude::*;

    fn rule(key: KeyRule) -> Rule {
        Rule {
            id: 0,
            name: "test".into(),
            paths: vec![Pattern::parse("/*").unwrap()],
            methods: Vec::new(),
            policy: Some(Policy::default()),
            key,
            tags: Vec::new(),
            purge: Vec::new(),
            limits: Vec::new(),
            refresh_ahead: None,
            slide_up_to: None,
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
            has_body: false,
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
            has_body: true,
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
            has_body: false,
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
                has_body: false,
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
                    has_body: false,
                };
                rule.plan(&asked, &[Some(user.clone().into_bytes())])
            };
            // `//` is not looked up at all.
            if !one.2.contains("//") && !other.2.contains("//") {
                prop_assert_eq!(plan(&one) == plan(&other), one == other);
            }
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
                has_body: false,
            };
            let _ = rule.plan(&asked, &[]);
            prop_assert_eq!(rule.fetch_query(Some(&query)).as_deref().unwrap_or_default().replace('&', ""), "");
        }
    }
}
