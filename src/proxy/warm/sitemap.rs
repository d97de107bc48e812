//! Reads sitemaps (sitemaps.org 0.9): the `<loc>` of each `<url>`, or of each `<sitemap>` of an index.
//!
//! A reader of just that much XML. It knows no entities but the five of XML and numbers, so that nothing
//! can be made to grow, and reads no document type.

use std::borrow::Cow;

/// Bytes of a sitemap that are read.
pub const BYTES_MAX: usize = 10 * 1024 * 1024;
/// URLs of a sitemap, as its specification has it.
pub const LOCS_MAX: usize = 50_000;
/// What gzip begins with (RFC 1952 §2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Bytes of an entity's name, its `;` included: none that is known is longer.
const ENTITY_MAX: usize = 12;
/// Elements inside one another.
const DEPTH_MAX: usize = 16;

/// What a sitemap names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sitemap {
    /// Pages.
    Pages(Vec<String>),
    /// Other sitemaps.
    Index(Vec<String>),
}

/// Reads one. The error says what is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Sitemap, &'static str> {
    if bytes.starts_with(&GZIP) {
        return Err("it is compressed by gzip; name one that is not");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let mut rest = text.trim_start_matches('\u{feff}');
    let mut open: Vec<&str> = Vec::new();
    let mut root = None;
    let (mut locs, mut loc) = (Vec::new(), String::new());
    while let Some(at) = rest.find('<') {
        let before = &rest[..at];
        if in_loc(&open) {
            loc.push_str(&plain(before));
        }
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("<!--") {
            rest = behind(after, "-->")?.1;
        } else if let Some(after) = rest.strip_prefix("<![CDATA[") {
            let (text, after) = behind(after, "]]>")?;
            if in_loc(&open) {
                loc.push_str(text);
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix("<?") {
            rest = behind(after, "?>")?.1;
        } else if rest.starts_with("<!") {
            return Err("it has a document type");
        } else if let Some(after) = rest.strip_prefix("</") {
            let (name, after) = behind(after, ">")?;
            let name = local(name.trim_end());
            if open.pop() != Some(name) {
                return Err("its elements do not fit together");
            }
            if open.len() == 2 && name == "loc" && takes_loc(&open) {
                if locs.len() == LOCS_MAX {
                    return Err("it has more than 50,000 URLs");
                }
                locs.push(loc.trim().to_owned());
                loc.clear();
            }
            rest = after;
        } else {
            let (tag, after) = behind(&rest[1..], ">")?;
            let name = tag.split([' ', '\t', '\r', '\n', '/']).next();
            let name = name.filter(|name| !name.is_empty());
            let name = name.ok_or("it is not XML")?;
            root.get_or_insert(local(name));
            if !tag.ends_with('/') {
                if open.len() == DEPTH_MAX {
                    return Err("its elements are too deep");
                }
                open.push(local(name));
            }
            rest = after;
        }
    }
    match root {
        Some(_) if !open.is_empty() => Err("it ends before its end"),
        Some("urlset") => Ok(Sitemap::Pages(locs)),
        Some("sitemapindex") => Ok(Sitemap::Index(locs)),
        _ => Err("it is not a sitemap"),
    }
}

/// The text in front of `end`, and what is behind it.
fn behind<'a>(text: &'a str, end: &str) -> Result<(&'a str, &'a str), &'static str> {
    text.split_once(end).ok_or("it ends before its end")
}

/// An element's name without its prefix.
fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

fn in_loc(open: &[&str]) -> bool {
    matches!(open, [_, _, "loc"]) && takes_loc(&open[..2])
}

fn takes_loc(open: &[&str]) -> bool {
    matches!(open, ["urlset", "url"] | ["sitemapindex", "sitemap"])
}

/// Text with its entities replaced; one that is not known stays as it is.
fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        // No further than an entity reaches: otherwise a text of nothing but `&` took the square of its length.
        let near = &after[..after.floor_char_boundary(ENTITY_MAX)];
        let known = near.find(';').and_then(|end| {
            let (name, behind) = (&after[..end], &after[end + 1..]);
            let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok();
            let code = match name.strip_prefix('#') {
                Some(hex) if hex.starts_with('x') => number(&hex[1..], 16),
                Some(digits) => number(digits, 10),
                None => None,
            };
            let character = match name {
                "amp" => Some('&'),
                "lt" => Some('<'),
                "gt" => Some('>'),
                "quot" => Some('"'),
                "apos" => Some('\''),
                _ => code.and_then(char::from_u32),
            };
            Some((character?, behind))
        });
        match known {
            Some((character, behind)) => {
                out.push(character);
                rest = behind;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_pages_of_a_sitemap_are_its_locs_and_no_others() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <!-- made <loc>by hand</loc> -->
            <urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/x">
              <url><loc> https://shop.example/a?x=1&amp;y=%32&#x26;z=&#50; </loc><lastmod>2026-01-01</lastmod>
                <image:image><image:loc>https://shop.example/a.jpg</image:loc></image:image></url>
              <url><loc><![CDATA[https://shop.example/b?c&d]]></loc></url>
              <url><priority>1</priority><loc/></url>
              <url><loc
                >https://shop.example/c&nosuch;&amp&#128663;</loc
                ></url>
            </urlset>"#;
        let pages = [
            "https://shop.example/a?x=1&y=%32&z=2",
            "https://shop.example/b?c&d",
            "https://shop.example/c&nosuch;&amp\u{1f697}",
        ];
        assert_eq!(
            read(text.as_bytes()),
            Ok(Sitemap::Pages(pages.map(str::to_owned).to_vec()))
        );
    }

    #[test]
    fn an_index_names_sitemaps_also_with_a_prefix() {
        let text = "<s:sitemapindex xmlns:s='x'><s:sitemap><s:loc>https://a/1.xml</s:loc></s:sitemap></s:sitemapindex>";
        assert_eq!(
            read(text.as_bytes()),
            Ok(Sitemap::Index(vec!["https://a/1.xml".into()]))
        );
    }

    #[test]
    fn what_is_none_is_said() {
        for (text, why) in [
            (&b""[..], "it is not a sitemap"),
            (b"<html></html>", "it is not a sitemap"),
            (b"<urlset><url>", "it ends before its end"),
            (
                b"<urlset></url></urlset>",
                "its elements do not fit together",
            ),
            (
                b"<!DOCTYPE x [<!ENTITY a 'b'>]><urlset/>",
                "it has a document type",
            ),
            (b"\xff", "it is not UTF-8"),
            (
                b"\x1f\x8b\x08\0",
                "it is compressed by gzip; name one that is not",
            ),
            (b"< >", "it is not XML"),
        ] {
            assert_eq!(read(text), Err(why), "{}", String::from_utf8_lossy(text));
        }
        let deep = "<a>".repeat(20);
        assert_eq!(read(deep.as_bytes()), Err("its elements are too deep"));
    }

    #[test]
    fn what_is_made_to_take_long_does_not() {
        let text = format!(
            "<urlset><url><loc>{}</loc></url></urlset>",
            "&".repeat(BYTES_MAX / 4)
        );
        let began = std::time::Instant::now();
        assert!(read(text.as_bytes()).is_ok());
        assert!(began.elapsed() < std::time::Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(<|>|/|loc|url|set|!--|--|&amp;|&#x|;|\\[|CDATA|\\PC){0,60}") {
            let _ = read(text.as_bytes());
        }
    }
}
