//! From what is named (URLs, a sitemap, a file, what is popular) to pages with host, scheme and fields.

use super::sitemap::{self, Sitemap};
use super::{Cause, Pace, Page, Warmer};
use crate::config::Settings;
use crate::config::warm::{PageHost, PageUrl, WarmList};
use crate::proxy::Proxy;
use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Bytes of a file of URLs that are read.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Sitemaps that an index leads to.
const SITEMAPS_MAX: usize = 100;
/// Hosts of `hosts` that a page without one is warmed for.
const HOSTS_MAX: usize = 16;

/// What is to be warmed.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Pages by name.
    pub urls: Vec<PageUrl>,
    /// A sitemap that the app serves.
    pub sitemap: Option<PageUrl>,
    /// A file with a URL a line.
    pub file: Option<PathBuf>,
    /// So many of the pages that are asked for most.
    pub popular: Option<usize>,
    /// The host for pages without one.
    pub host: Option<PageHost>,
    /// Each page is asked for once with each of these fields; none: once without any.
    pub variants: Vec<Arc<HeaderMap>>,
    /// What is fresh for so long is left as it is.
    pub lasting: Duration,
}

impl Wanted {
    /// What a list of the configuration names.
    #[must_use]
    pub fn of(list: &WarmList) -> Self {
        Self {
            urls: list.urls.clone(),
            sitemap: list.sitemap.clone(),
            file: list.file.clone(),
            popular: list.popular.map(|most| most.get() as usize),
            host: list.host.clone(),
            variants: list.variants.clone(),
            // What would end before the next time would be missed until then.
            lasting: list.every.unwrap_or_default(),
        }
    }
}

impl Pace {
    /// That of a list of the configuration.
    #[must_use]
    pub fn of(list: &WarmList) -> Self {
        Self {
            concurrency: list.concurrency.get(),
            rate: f64::from(list.rate.quota.get()) / list.rate.window.as_secs_f64(),
        }
    }
}

/// The hosts that pages without one are asked for by.
struct Hosts {
    names: Vec<Arc<str>>,
    /// Nobody has named one.
    guessed: bool,
}

impl Warmer {
    /// Begins a job, and finds its pages behind it. Gives its number.
    #[must_use]
    pub fn warm(&self, cause: Cause, name: String, pace: Pace, wanted: Wanted) -> u64 {
        let id = self.begin(cause, name, pace, [], true);
        let warmer = self.clone();
        // It ends with what it reads: a file, or a sitemap of the app, both bounded in size and time.
        tokio::spawn(async move {
            warmer.gather(id, &wanted).await;
            warmer.close(id);
        });
        id
    }

    async fn gather(&self, id: u64, wanted: &Wanted) {
        let proxy = self.proxy();
        let settings = proxy.0.shared.snapshot.load().settings.clone();
        let hosts = proxy.hosts(wanted.host.as_ref(), &settings);
        let plain = [Arc::default()];
        let variants = match &wanted.variants[..] {
            [] => &plain[..],
            some => some,
        };
        let pages = |url: &PageUrl, hosts: &Hosts| -> Vec<Page> {
            let names = match &url.host {
                Some(host) => std::slice::from_ref(&host.authority),
                None => &hosts.names[..],
            };
            let said = url.host.as_ref().or(wanted.host.as_ref());
            let tls = is_tls(said, &settings);
            let each = names
                .iter()
                .flat_map(|host| variants.iter().map(move |fields| (host, fields)));
            each.map(|(host, fields)| Page {
                tls,
                host: host.clone(),
                target: url.target.clone(),
                fields: fields.clone(),
                lasting: wanted.lasting,
            })
            .collect()
        };
        self.add(id, wanted.urls.iter().flat_map(|url| pages(url, &hosts)));
        if let Some(file) = &wanted.file {
            match read_file(file).await {
                Ok(text) => {
                    self.add(id, urls(&text).flat_map(|url| pages(&url, &hosts)));
                }
                Err(error) => {
                    let file = file.display();
                    self.problem(id, format!("the file {file} cannot be read: {error}"));
                }
            }
        }
        if let Some(url) = &wanted.sitemap {
            let mut seen = HashSet::new();
            let Some(first) = pages(url, &hosts).into_iter().next() else {
                return;
            };
            let mut maps = vec![first];
            let mut is_index = true;
            let mut has_room = true;
            while let Some(map) = maps.pop().filter(|_| has_room) {
                self.until_clear().await;
                let found = match proxy.sitemap(&map).await {
                    Ok(found) => found,
                    Err(why) => {
                        let url = map.url();
                        self.problem(id, format!("the sitemap {url} cannot be read: {why}"));
                        continue;
                    }
                };
                let (locs, is_list) = match found {
                    Sitemap::Pages(locs) => (locs, true),
                    Sitemap::Index(locs) => (locs, false),
                };
                let own = Own {
                    map: &map,
                    guessed: hosts.guessed,
                };
                let locs = own.pages(&locs);
                if is_list {
                    // What an index leads to may be more than can ever wait.
                    has_room = self.add(
                        id,
                        locs.iter()
                            .filter(|url| seen.insert(url.to_string()))
                            .flat_map(|url| pages(url, &hosts)),
                    );
                } else if std::mem::take(&mut is_index) {
                    // An index is followed once: what it leads to names pages.
                    let locs = locs.iter().take(SITEMAPS_MAX);
                    maps.extend(locs.filter_map(|url| pages(url, &hosts).into_iter().next()));
                    maps.reverse();
                }
            }
        }
        if let Some(most) = wanted.popular {
            let popular = self.popular().top(&proxy.0.shared, most).await;
            let popular = popular
                .into_iter()
                .filter_map(|(tls, url)| known(&url, tls));
            let each = popular.flat_map(|page| {
                let with = move |fields: &Arc<HeaderMap>| Page {
                    fields: fields.clone(),
                    lasting: wanted.lasting,
                    ..page.clone()
                };
                variants.iter().map(with)
            });
            self.add(id, each.collect::<Vec<_>>());
        }
    }
}

/// The page of a `url` as stored answers are known by: `host/path?query`.
pub(super) fn known(url: &str, tls: bool) -> Option<Page> {
    let (host, target) = url.split_at(url.find('/')?);
    Some(Page {
        tls,
        host: host.into(),
        target: target.parse().ok()?,
        fields: Arc::default(),
        lasting: Duration::ZERO,
    })
}

/// Whether clients who ask by this host are taken for such that ask by `https`: that is what is in keys.
fn is_tls(said: Option<&PageHost>, settings: &Settings) -> bool {
    // Behind a proxy that takes TLS off, only the word of one that is trusted counts.
    let told = !settings.identity.trusted_proxies.is_empty();
    let said = said.and_then(|host| host.tls);
    settings.listen.tls.is_some() || (told && said == Some(true))
}

impl Proxy {
    /// The hosts for pages that name none: the list's own; else those that are served; else the one that
    /// is asked for most here; else what [`local`] says.
    fn hosts(&self, own: Option<&PageHost>, settings: &Settings) -> Hosts {
        let shared = &self.0.shared;
        let mut names: Vec<Arc<str>> = own.map(|own| own.authority.clone()).into_iter().collect();
        if names.is_empty() {
            names = settings
                .hosts
                .names()
                .take(HOSTS_MAX)
                .map(Arc::from)
                .collect();
        }
        let guessed = names.is_empty();
        if guessed {
            let hottest = shared.hot.top(1, shared.clock.now()).pop();
            let hottest = hottest.and_then(|hot| Some(hot.what.url.split('/').next()?.into()));
            let local = || local(settings.listen.address).into();
            names.push(hottest.unwrap_or_else(local));
        }
        Hosts { names, guessed }
    }

    /// The sitemap at this URL of the app. The error says why there is none.
    async fn sitemap(&self, page: &Page) -> Result<Sitemap, &'static str> {
        let mut fields = (*page.fields).clone();
        fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let page = Page {
            fields: Arc::new(fields),
            ..page.clone()
        };
        let content = self.content_of(&page, sitemap::BYTES_MAX).await?;
        let read = tokio::task::spawn_blocking(move || sitemap::read(&content));
        read.await.unwrap_or(Err("it is not read"))
    }
}

/// What whoever tries larder out asks by: the address that it listens on, where that is one.
fn local(address: SocketAddr) -> String {
    match (address.ip().is_unspecified(), address.port()) {
        (true, port) => format!("localhost:{port}"),
        (false, 80) if address.is_ipv4() => address.ip().to_string(),
        (false, _) => address.to_string(),
    }
}

/// What belongs to the host of a sitemap.
struct Own<'a> {
    map: &'a Page,
    guessed: bool,
}

impl Own<'_> {
    /// The URLs that are of the sitemap's own host: a list may name no other's pages. Where nobody has
    /// named the host, that of the first is it.
    fn pages(&self, locs: &[String]) -> Vec<PageUrl> {
        let urls: Vec<PageUrl> = locs.iter().filter_map(|loc| PageUrl::parse(loc)).collect();
        let host = match self.guessed {
            true => urls
                .iter()
                .find_map(|url| Some(url.host.as_ref()?.authority.clone())),
            false => Some(self.map.host.clone()),
        };
        let is_own = |url: &PageUrl| match &url.host {
            Some(named) => host
                .as_ref()
                .is_some_and(|host| name(host) == name(&named.authority)),
            None => true,
        };
        urls.into_iter().filter(is_own).collect()
    }
}

/// A host without its port.
fn name(authority: &str) -> &str {
    let end = authority
        .rfind(':')
        .filter(|at| !authority[*at..].contains(']'));
    &authority[..end.unwrap_or(authority.len())]
}

/// The URLs of a file, one a line.
fn urls(text: &str) -> impl Iterator<Item = PageUrl> + '_ {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(PageUrl::parse)
}

async fn read_file(path: &std::path::Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await?;
    let mut file = file.take(FILE_BYTES_MAX + 1);
    file.read_to_string(&mut text).await?;
    if text.len() as u64 > FILE_BYTES_MAX {
        // Cut off somewhere, its last line would be another page.
        let why = format!("it is larger than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(std::io::Error::other(why));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sitemap_names_pages_of_its_own_host_alone() {
        let map = Page {
            tls: true,
            host: "shop.example".into(),
            target: "/sitemap.xml".parse().unwrap(),
            fields: Arc::default(),
            lasting: Duration::ZERO,
        };
        let locs = [
            "https://shop.example/a",
            "https://evil.example/b",
            "/c",
            "ftp://shop.example/d",
        ];
        let locs = locs.map(str::to_owned);
        let own = |guessed| {
            let pages = Own { map: &map, guessed }.pages(&locs);
            pages.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(own(false), ["https://shop.example/a", "/c"]);
        assert_eq!(own(true), ["https://shop.example/a", "/c"]);
        assert_eq!(
            (name("a.b:80"), name("[::1]"), name("[::1]:8")),
            ("a.b", "[::1]", "[::1]")
        );
    }

    #[test]
    fn a_file_has_a_page_a_line() {
        let text = "# fleet\n/api/fleet\n\n  https://shop.example/x \nnonsense\n";
        let pages: Vec<_> = urls(text).map(|url| url.to_string()).collect();
        assert_eq!(pages, ["/api/fleet", "https://shop.example/x"]);
    }
}
