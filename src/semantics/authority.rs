//! Hosts in normal form, so that one host has one key (RFC 9110 §4.2.3, RFC 3986 §3.2.2).
//!
//! Never asks whether there is such a host.

use std::borrow::Cow;
use std::collections::BTreeSet;

/// The longest host name, in bytes (RFC 1035 §2.3.4).
pub const HOST_BYTES_MAX: usize = 255;

/// The authority in lower case, without a dot at the end of its name and without its scheme's
/// default port; `None` for what is no host with or without a port (user information included).
#[must_use]
pub fn normal_authority<'a>(authority: &'a str, scheme: &str) -> Option<Cow<'a, str>> {
    let (host, port) = split(authority)?;
    let number = match port {
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse::<u16>().ok()?)
        }
        Some(_) => return None,
    };
    let default = match scheme {
        "https" => 443,
        _ => 80,
    };
    let number = number.filter(|number| *number != default);
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.is_empty() || name.ends_with('.') || name.len() > HOST_BYTES_MAX {
        return None;
    }
    let lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    match (number, port) {
        (None, _) if lower => Some(Cow::Borrowed(name)),
        // As it is sent nearly always: there is nothing to be written anew.
        (Some(_), Some(digits)) if lower && name == host && !digits.starts_with('0') => {
            Some(Cow::Borrowed(authority))
        }
        (None, _) => Some(Cow::Owned(name.to_ascii_lowercase())),
        (Some(number), _) => Some(Cow::Owned(format!(
            "{}:{number}",
            name.to_ascii_lowercase()
        ))),
    }
}

/// The hosts that are served: by default every one (RFC 9110 §7.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// In normal form, without ports.
    names: BTreeSet<Box<str>>,
    /// Any name below one of these is served, not the name itself.
    parents: BTreeSet<Box<str>>,
}

impl Hosts {
    /// Adds a host, `*.` in front of it for every name below it. `None`, and nothing added, for what
    /// is no host or brings a port: a host is served on every port, and each port has keys of its own.
    pub fn add(&mut self, host: &str) -> Option<()> {
        let (name, set) = match host.strip_prefix("*.") {
            Some(parent) => (parent, &mut self.parents),
            None => (host, &mut self.names),
        };
        let (name, port) = split(name)?;
        let normal = normal_authority(name, "http").filter(|_| port.is_none())?;
        set.insert(normal.into());
        Some(())
    }

    /// Whether any host is named, so that others are not served.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.names.is_empty() || !self.parents.is_empty()
    }

    /// The hosts that are named one by one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// Whether this authority in normal form is served.
    #[must_use]
    pub fn serve(&self, authority: &str) -> bool {
        if !self.any() {
            return true;
        }
        let Some((name, _)) = split(authority) else {
            return false;
        };
        let mut parents = name
            .match_indices('.')
            .filter(|(at, _)| *at > 0)
            .map(|(at, _)| &name[at + 1..]);
        self.names.contains(name) || parents.any(|parent| self.parents.contains(parent))
    }
}

/// Host and port, where the host consists of what hosts consist of.
fn split(authority: &str) -> Option<(&str, Option<&str>)> {
    if authority.starts_with('[') {
        let end = authority.find(']')? + 1;
        let (host, rest) = authority.split_at(end);
        let inside = &host[1..end - 1];
        let is_address = inside
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
        return match (is_address && !inside.is_empty(), rest) {
            (true, "") => Some((host, None)),
            (true, _) => Some((host, Some(rest.strip_prefix(':')?))),
            (false, _) => None,
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    host.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        .then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_host_has_one_normal_form_rfc9110_4_2_3() {
        for (given, scheme, normal) in [
            ("shop.test", "http", "shop.test"),
            ("SHOP.test.", "http", "shop.test"),
            ("shop.test:80", "http", "shop.test"),
            ("shop.test:", "https", "shop.test"),
            ("shop.test:0443", "https", "shop.test"),
            ("shop.test.:443", "http", "shop.test:443"),
            ("[2001:DB8::1]:8080", "http", "[2001:db8::1]:8080"),
            ("127.0.0.1:80", "http", "127.0.0.1"),
        ] {
            assert_eq!(
                normal_authority(given, scheme).as_deref(),
                Some(normal),
                "{given}"
            );
        }
    }

    #[test]
    fn what_is_no_host_has_none() {
        for bad in [
            "", ".", ":80", "a b", "u@a", "a/b", "a:b", "a:70000", "a:1:2", "[::1", "[]", "[::1]x",
            "[u@]", "é",
        ] {
            assert_eq!(normal_authority(bad, "http"), None, "{bad}");
        }
        assert_eq!(
            normal_authority(&"a".repeat(HOST_BYTES_MAX + 1), "http"),
            None
        );
    }

    #[test]
    fn named_hosts_are_served_on_every_port_and_no_others() {
        let mut hosts = Hosts::default();
        assert!(hosts.serve("anything.test") && hosts.serve(""));
        for host in ["Shop.test.", "*.cdn.test", "127.0.0.1", "[::1]"] {
            assert_eq!(hosts.add(host), Some(()), "{host}");
        }
        for served in [
            "shop.test",
            "shop.test:8080",
            "a.cdn.test",
            "a.b.cdn.test:1",
            "127.0.0.1:9",
            "[::1]:9",
        ] {
            assert!(hosts.serve(served), "{served}");
        }
        for other in [
            "",
            "a.shop.test",
            "shop.test.evil.test",
            "cdn.test",
            ".cdn.test",
            "evilcdn.test",
            "xshop.test",
            "test",
            "127.0.0.2",
        ] {
            assert!(!hosts.serve(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_host_is_not_added() {
        for bad in [
            "",
            "*",
            "*.",
            "shop.test:80",
            "http://shop.test",
            "a b",
            "sh*p.test",
            "*.*.test",
            "::1",
            "é.test",
        ] {
            let mut hosts = Hosts::default();
            assert_eq!(hosts.add(bad), None, "{bad}");
            assert!(!hosts.any(), "{bad}");
        }
    }

    #[test]
    fn one_dot_at_the_end_is_the_root_and_two_are_nothing() {
        assert_eq!(normal_authority("host.", "http").as_deref(), Some("host"));
        assert_eq!(normal_authority("host..", "http"), None);
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own_normal_form(text in "[a-zA-Z0-9.:\\[\\]@é]{0,20}") {
            if let Some(normal) = normal_authority(&text, "http")
                && let Some(again) = normal_authority(&normal, "http")
            {
                prop_assert!(again == normal || normal.ends_with('.'));
            }
        }
    }
}
