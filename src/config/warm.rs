//! Which pages are warmed, and how they are written.

use super::cron::Cron;
use super::settings::Rate;
use crate::semantics::authority::normal_authority;
use http::HeaderMap;
use http::uri::PathAndQuery;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Longest URL that is warmed, in bytes.
pub const URL_BYTES_MAX: usize = 8 * 1024;

/// One member of `warm:`.
#[derive(Clone, Debug, PartialEq)]
pub struct WarmList {
    /// Pages by name.
    pub urls: Vec<PageUrl>,
    /// A sitemap that the app serves.
    pub sitemap: Option<PageUrl>,
    /// A file with a URL a line.
    pub file: Option<PathBuf>,
    /// So many of the pages that are asked for most.
    pub popular: Option<NonZeroU32>,
    /// The host for pages without one.
    pub host: Option<PageHost>,
    /// Each page is asked for once with each of these fields. Never empty; none holds a credential.
    pub variants: Vec<Arc<HeaderMap>>,
    /// When the process begins.
    pub on_start: bool,
    /// So long after the last time.
    pub every: Option<Duration>,
    /// At these moments, UTC.
    pub schedule: Option<Cron>,
    /// Pages at a time.
    pub concurrency: NonZeroU32,
    /// How fast.
    pub rate: Rate,
    /// The process counts as ready only once they have been warmed for the first time.
    pub wait_ready: bool,
}

impl WarmList {
    /// What people call it: its sources.
    #[must_use]
    pub fn name(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        match &self.urls[..] {
            [] => {}
            [one] => names.push(one.to_string()),
            [one, rest @ ..] => names.push(format!("{one} and {} more", rest.len())),
        }
        names.extend(self.sitemap.as_ref().map(ToString::to_string));
        names.extend(self.file.as_ref().map(|file| file.display().to_string()));
        names.extend(self.popular.map(|most| format!("popular {most}")));
        names.join(", ")
    }
}

/// The URL of a page: whole, or from the path on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageUrl {
    /// Scheme and host, where it is whole.
    pub host: Option<PageHost>,
    /// Path and query.
    pub target: PathAndQuery,
}

/// The host that a page is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageHost {
    /// Whether by `https`; not said: as the listener is.
    pub tls: Option<bool>,
    /// In normal form, with its port where that is not the scheme's.
    pub authority: Arc<str>,
}

impl PageUrl {
    /// Reads `/path?query`, or `https://host/path?query`; what is behind a `#` never reaches a server.
    /// `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.split('#').next().unwrap_or_default();
        let fits = bare.len() <= URL_BYTES_MAX
            && !(bare.bytes()).any(|byte| byte.is_ascii_control() || byte == b' ');
        if !fits {
            return None;
        }
        let (host, target) = match bare.find("://") {
            None => (None, bare),
            Some(at) if bare[..at].contains(['/', '?']) => (None, bare),
            Some(at) => {
                let rest = &bare[at + 3..];
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let host = PageHost::parse(&bare[..at + 3 + end])?;
                (Some(host), &rest[end..])
            }
        };
        let target = match (&host, target) {
            (Some(_), "") => "/".to_owned(),
            (Some(_), query) if query.starts_with('?') => format!("/{query}"),
            _ => target.to_owned(),
        };
        if !target.starts_with('/') || target.starts_with("//") {
            return None;
        }
        let target = target.parse().ok()?;
        Some(Self { host, target })
    }
}

impl std::fmt::Display for PageUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(host) = &self.host {
            let scheme = match host.tls {
                Some(true) => "https://",
                Some(false) => "http://",
                None => "",
            };
            write!(f, "{scheme}{}", host.authority)?;
        }
        write!(f, "{}", self.target)
    }
}

impl PageHost {
    /// Reads `shop.example`, `shop.example:8080` or `https://shop.example`. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (tls, authority) = match text.split_once("://") {
            Some(("https", rest)) => (Some(true), rest),
            Some(("http", rest)) => (Some(false), rest),
            Some(_) => return None,
            None => (None, text),
        };
        let scheme = if tls == Some(true) { "https" } else { "http" };
        let authority = normal_authority(authority, scheme)?;
        Some(Self {
            tls,
            authority: authority.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_path_or_a_whole_url() {
        for (text, shown) in [
            ("/api/fleet?page=2#top", "/api/fleet?page=2"),
            ("https://Shop.example:443/a", "https://shop.example/a"),
            (
                "http://shop.example:8080?x=1",
                "http://shop.example:8080/?x=1",
            ),
            ("http://shop.example", "http://shop.example/"),
            ("/go?to=http://x/y", "/go?to=http://x/y"),
        ] {
            assert_eq!(PageUrl::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "api",
            "//x/y",
            "ftp://x/y",
            "http:///a",
            "/a b",
            "/a\r\nX: y",
            "https://u@h/",
        ] {
            assert_eq!(PageUrl::parse(text), None, "{text}");
        }
    }
}
