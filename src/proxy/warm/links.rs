//! What an answer says will be needed next: `Link: </x>; rel=preload` (RFC 8288). Pure.

use super::{Page, Wish};
use http::HeaderMap;
use http::header::LINK;
use http::uri::PathAndQuery;
use std::sync::Arc;
use std::time::Duration;

/// Links of an answer that are followed.
const LINKS_MAX: usize = 16;
/// Bytes of an answer's `Link` that are read.
const BYTES_MAX: usize = 16 * 1024;

/// Where an answer is from whose links are followed.
#[derive(Debug)]
pub(in crate::proxy) struct Origin {
    /// By `https`.
    pub tls: bool,
    /// Its host, in normal form.
    pub host: Arc<str>,
    /// Its path.
    pub path: Box<str>,
}

impl Origin {
    /// What is to be warmed when this `answer` is stored.
    pub fn wish(&self, answer: &HeaderMap, relations: &[String]) -> Option<Wish> {
        let scheme = if self.tls { "https" } else { "http" };
        let targets = targets(answer, relations, (scheme, &self.host, &self.path));
        let page = |target| Page {
            tls: self.tls,
            host: self.host.clone(),
            target,
            fields: Arc::default(),
            lasting: Duration::ZERO,
        };
        let pages: Vec<Page> = targets.into_iter().map(page).collect();
        (!pages.is_empty()).then_some(Wish::Linked(pages))
    }
}

/// The targets of the links in `answer` that have one of these `relations` and are of the same origin:
/// `scheme`, `authority` in lower case. `path` is that of the answer; at most [`LINKS_MAX`], each once.
#[must_use]
fn targets(
    answer: &HeaderMap,
    relations: &[String],
    (scheme, authority, path): (&str, &str, &str),
) -> Vec<PathAndQuery> {
    let mut targets: Vec<PathAndQuery> = Vec::new();
    for line in answer.get_all(LINK) {
        let Ok(mut rest) = line.to_str() else {
            continue;
        };
        rest = &rest[..rest.floor_char_boundary(BYTES_MAX)];
        while let Some((_, after)) = rest.split_once('<') {
            let Some((reference, after)) = after.split_once('>') else {
                break;
            };
            let (parameters, after) = parameters(after);
            rest = after;
            let wanted = parameters.iter().any(|(name, value)| {
                let mut words = value.split_ascii_whitespace();
                name.eq_ignore_ascii_case("rel")
                    && words.any(|word| relations.iter().any(|one| one.eq_ignore_ascii_case(word)))
            });
            let target = wanted.then(|| resolved(reference, scheme, authority, path));
            if let Some(Some(target)) = target
                && !targets.contains(&target)
                && targets.len() < LINKS_MAX
            {
                targets.push(target);
            }
        }
    }
    targets
}

/// The parameters of a link, and what is behind its comma.
fn parameters(text: &str) -> (Vec<(&str, &str)>, &str) {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(after) = rest.strip_prefix(';') {
        let after = after.trim_start();
        let end = after.find(['=', ';', ',']).unwrap_or(after.len());
        let name = after[..end].trim_end();
        let Some(value) = after[end..].strip_prefix('=') else {
            rest = &after[end..];
            continue;
        };
        let value = value.trim_start();
        let (value, behind) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => value.split_at(value.find([';', ',']).unwrap_or(value.len())),
        };
        found.push((name, value.trim_end()));
        rest = behind.trim_start();
    }
    (found, rest.strip_prefix(',').unwrap_or(rest))
}

/// The target of a reference, where it is of the same origin. Paths with dots are nobody's wish.
fn resolved(reference: &str, scheme: &str, authority: &str, path: &str) -> Option<PathAndQuery> {
    let bare = reference.trim().split('#').next().unwrap_or_default();
    let own = |rest: &str| -> Option<String> {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let is_own = rest[..end].eq_ignore_ascii_case(authority);
        is_own.then(|| rest[end..].to_owned())
    };
    let target = if let Some(rest) = bare.strip_prefix("//") {
        own(rest)?
    } else if bare.starts_with('/') {
        bare.to_owned()
    } else if let Some((named, rest)) = bare.split_once("://") {
        match named.eq_ignore_ascii_case(scheme) {
            true => own(rest)?,
            false => return None,
        }
    } else if bare.is_empty() || bare.split(['/', '?']).next()?.contains(':') {
        return None;
    } else if bare.starts_with('?') {
        format!("{path}{bare}")
    } else {
        let folder = path.rfind('/').map_or("", |at| &path[..at]);
        format!("{folder}/{bare}")
    };
    let target = match target.starts_with('/') {
        true => target,
        false => format!("/{target}"),
    };
    if target.split('?').next()?.contains("/.") {
        return None;
    }
    target.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn of(lines: &[&str]) -> Vec<String> {
        let mut answer = HeaderMap::new();
        for line in lines {
            answer.append(LINK, HeaderValue::from_str(line).unwrap());
        }
        let relations = ["next".to_owned(), "preload".to_owned()];
        let origin = ("https", "shop.example", "/api/cars");
        let found = targets(&answer, &relations, origin);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn links_of_the_same_origin_and_the_wanted_relations_are_followed() {
        assert_eq!(
            of(&[
                r#"</a,b?x=1>; rel=preload; as=style, <https://shop.example/c>; title="a, <b>"; rel="prev next""#,
                "</d>;rel=\"NEXT\" ,<//SHOP.example/e>;REL=next",
                "<?page=2>; rel=next, <fleet>; rel=next, </a,b?x=1>; rel=next",
            ]),
            [
                "/a,b?x=1",
                "/c",
                "/d",
                "/e",
                "/api/cars?page=2",
                "/api/fleet"
            ]
        );
        for line in [
            "</a>; rel=canonical",
            "</a>",
            "<https://evil.example/a>; rel=next",
            "<http://shop.example/a>; rel=next",
            "<../a>; rel=next",
            "<mailto:a@b>; rel=next",
            "<>; rel=next",
            "</a; rel=next",
        ] {
            assert_eq!(of(&[line]), [""; 0], "{line}");
        }
    }

    #[test]
    fn links_are_bounded() {
        let line: Vec<_> = (0..100).map(|n| format!("</{n}>; rel=next")).collect();
        assert_eq!(of(&[&line.join(", ")]).len(), LINKS_MAX);
    }

    proptest! {
        #[test]
        fn no_field_panics(line in "[<>;,=\"a-z/?: .#]{0,60}") {
            let _ = of(&[&line]);
        }
    }
}
