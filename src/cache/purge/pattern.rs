//! Patterns of URLs: globs and regular expressions. Bounded in size, linear in time, whoever wrote them.

use super::Scope;
use regex::bytes::{Regex, RegexBuilder};

/// The longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1_024;
/// The largest compiled pattern, in bytes.
const COMPILED_BYTES_MAX: usize = 256 * 1_024;
/// Room for what a pattern remembers of what it has read, on each thread, in bytes. One that needs more is
/// slower, not wrong.
const STATES_BYTES_MAX: usize = 64 * 1_024;

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Matcher {
    regex: Regex,
    /// Whether the query is looked at.
    query: bool,
}

impl Matcher {
    /// The pattern of a scope; `None` for one that has none. The error says what is wrong with it.
    pub(super) fn of(scope: &Scope) -> Result<Option<Self>, String> {
        let (text, query) = match scope {
            Scope::Glob(glob) => (of_glob(glob)?, glob.contains('?')),
            Scope::Regex(regex) => {
                compile(regex)?; // By itself, so that it cannot break out of what is put around it.
                (format!(r"\A(?:{regex})"), true)
            }
            Scope::Tag(_) | Scope::Url(_) | Scope::Prefix(_) | Scope::All => return Ok(None),
        };
        let regex = compile(&text)?;
        Ok(Some(Self { regex, query }))
    }

    /// Whether it hits an entry of this URL (`host/path?query`).
    pub(super) fn hits(&self, url: &str) -> bool {
        let path_at = url.find('/').unwrap_or(url.len());
        let end = match self.query {
            true => url.len(),
            false => url[path_at..]
                .find('?')
                .map_or(url.len(), |at| path_at + at),
        };
        let is_match = |text: &str| self.regex.is_match(text.as_bytes());
        is_match(&url[path_at..end]) || is_match(&url[..end])
    }
}

/// Where a glob begins as it is written: what a purge of that prefix hits, the glob hits at most.
pub(super) fn beginning(glob: &str) -> &str {
    &glob[..glob.find(['*', '?']).unwrap_or(glob.len())]
}

fn of_glob(glob: &str) -> Result<String, String> {
    if !glob.contains('/') {
        return Err("a glob has a path: write `/api/cars/*/photos`".into());
    }
    let mut regex = String::from(r"\A");
    let mut rest = glob;
    while !rest.is_empty() {
        let literal = &rest[..rest.find('*').unwrap_or(rest.len())];
        regex.push_str(&regex::escape(literal));
        let stars = &rest[literal.len()..];
        rest = stars.trim_start_matches('*');
        let is_many = stars.len() - rest.len() > 1;
        regex.push_str(match stars.is_empty() {
            true => "",
            false if is_many || rest.is_empty() => "(?s:.*)",
            false => "[^/]*",
        });
    }
    regex.push_str(r"\z");
    Ok(regex)
}

fn compile(text: &str) -> Result<Regex, String> {
    // What is put around a pattern, and a glob's characters escaped, do not count.
    if text.is_empty() || text.len() > 3 * PATTERN_BYTES_MAX {
        return Err(format!("a pattern has 1 to {PATTERN_BYTES_MAX} bytes"));
    }
    let regex = RegexBuilder::new(text)
        .unicode(false)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(STATES_BYTES_MAX)
        .build();
    regex.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            format!("compiled it has more than {COMPILED_BYTES_MAX} bytes")
        }
        // The last line says what, those before it show where.
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.trim_start_matches("error: ").to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(scope: Scope, url: &str) -> bool {
        Matcher::of(&scope).unwrap().unwrap().hits(url)
    }

    #[test]
    fn a_glob_is_about_segments_and_its_last_star_about_the_rest() {
        for (glob, hit, spared) in [
            (
                "/api/cars/*/photos",
                "h/api/cars/1/photos?page=2",
                "h/api/cars/1/x/photos",
            ),
            (
                "/api/cars/*/photos",
                "h/api/cars/1/photos",
                "h/api/cars/1/photos/2",
            ),
            ("/api/cars/*", "h/api/cars/1/photos", "h/api/car"),
            ("/img/*.jpg", "h/img/a.jpg", "h/img/a/b.jpg"),
            ("/img/**.jpg", "h/img/a/b.jpg", "h/img/a/b.png"),
            ("/**/photos", "h/api/cars/1/photos", "h/api/cars/1/photo"),
            ("shop.test/api/*", "shop.test/api/1", "other.test/api/1"),
            ("*.test/api/*", "shop.test/api/1", "shop.example/api/1"),
            ("/api/fleet?page=*", "h/api/fleet?page=2", "h/api/fleet"),
            ("/a.b", "h/a.b", "h/axb"),
        ] {
            assert!(hits(Scope::Glob(glob.into()), hit), "{glob} {hit}");
            assert!(!hits(Scope::Glob(glob.into()), spared), "{glob} {spared}");
        }
        assert_eq!(beginning("/api/cars/*/photos"), "/api/cars/");
    }

    #[test]
    fn a_regular_expression_begins_where_the_path_or_the_host_begins() {
        for (regex, hit, spared) in [
            (r"/api/cars/\d+$", "h/api/cars/12", "h/api/cars/x"),
            (r"/cars", "h/cars?x", "h/api/cars"),
            (r".*\.jpg$", "h/img/a.jpg", "h/img/a.jpg?x"),
            (r"shop\.test/a|/b", "shop.test/a", "h/a"),
            (r"/a|/b", "h/b", "h/x/b"),
        ] {
            assert!(hits(Scope::Regex(regex.into()), hit), "{regex} {hit}");
            assert!(
                !hits(Scope::Regex(regex.into()), spared),
                "{regex} {spared}"
            );
        }
    }

    #[test]
    fn what_is_no_pattern_or_too_large_is_refused_with_a_reason() {
        let long = "a".repeat(3 * PATTERN_BYTES_MAX + 1);
        for regex in [
            "",
            "(",
            "a)(b",
            "(?x) a #",
            "[a-z]{100}{100}{100}",
            r"\p{L}",
            &long,
        ] {
            let refused = Scope::Regex(regex.into()).check();
            assert!(refused.is_err_and(|why| !why.is_empty()), "{regex}");
        }
        assert!(Scope::Glob("cars*".into()).check().is_err());
        assert_eq!(Scope::of("geo", "x".into()), None);
        assert_eq!(Scope::of("regex", "(".into()), None);
    }

    #[test]
    fn a_hostile_pattern_takes_linear_time() {
        let began = std::time::Instant::now();
        let url = format!("h/{}", "a".repeat(8_000));
        assert!(!hits(Scope::Regex(r"/(a*)*(a*)*(a*)*b$".into()), &url));
        assert!(!hits(Scope::Glob("/**a**a**a**a**a**b".into()), &url));
        assert!(began.elapsed() < std::time::Duration::from_secs(2));
    }
}
