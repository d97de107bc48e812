//! `purge:` and `admin.purge_method`: ways by which purges come in beside the admin port.

use super::super::raw;
use super::super::settings::{PurgeNotify, PurgeStream, Purging, Webhook, WebhookTable};
use super::super::values::List;
use super::*;
use crate::secret::SigningKey;

/// Each purge of a window is remembered, so that there are no more.
const RATE_MAX: u32 = 100_000;
/// How old a message may be, where the file says nothing.
const WINDOW: Duration = Duration::from_secs(300);
/// A sender's clock may be wrong by so much, at least;
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// and what was sent is remembered for so long, at most.
const WINDOW_MAX: Duration = Duration::from_secs(3_600);
/// Keys of the webhook: the one in use, and the one before.
const KEYS_MAX: usize = 2;
/// The consumer group, where the file names none.
const GROUP: &str = "larder";

impl Compiler<'_> {
    pub(super) fn purging(&mut self, file: &Raw) -> Purging {
        let empty = raw::Purging::default();
        let raw = file.purge.get().unwrap_or(&empty);
        let admin = file.admin.get().map(|admin| &admin.0);
        let method = admin.and_then(|admin| admin.purge_method.get());
        let rate = raw
            .rate
            .get()
            .map_or(Purging::default().rate, |rate| rate.0);
        if rate.quota.get() > RATE_MAX {
            let fix = format!("at most {RATE_MAX} in a window");
            self.tell(Code::E117, "purge.rate", "the rate is out of range", fix);
        }
        Purging {
            method: method.is_some_and(|flag| flag.0),
            rate,
            channel: raw.channel.get().map(|name| name.0.clone()),
            stream: (raw.stream.get()).and_then(|stream| self.purge_stream(&stream.0)),
            webhook: raw.webhook.get().and_then(|webhook| self.webhook(webhook)),
            notify: (raw.notify.get()).and_then(|notify| self.purge_notify(&notify.0)),
        }
    }

    /// PURGE is for who has the token alone, wherever the admin port listens.
    pub(super) fn purge_method(&mut self, settings: &Settings) {
        const PATH: &str = "admin.purge_method";
        if !settings.purging.method || self.env.ignored {
            return;
        }
        match &settings.admin.token {
            None => self.tell(
                Code::E124,
                PATH,
                "PURGE on the port for clients needs a token",
                "set admin.token",
            ),
            Some(token) if token.expose().len() < TOKEN_BYTES_MIN => self.tell(
                Code::E125,
                PATH,
                format!("the admin token is shorter than {TOKEN_BYTES_MIN} bytes"),
                "make one with `openssl rand -hex 32`",
            ),
            Some(_) => {}
        }
    }

    fn purge_stream(&mut self, raw: &raw::PurgeStream) -> Option<PurgeStream> {
        self.needs(raw.key.is_absent(), "purge.stream", "key: shop:changes");
        let group = raw.group.get().map(|name| name.0.clone());
        Some(PurgeStream {
            key: raw.key.get()?.0.clone(),
            group: group.unwrap_or_else(|| GROUP.to_owned()),
        })
    }

    fn webhook(&mut self, raw: &raw::Webhook) -> Option<Arc<Webhook>> {
        const PATH: &str = "purge.webhook";
        self.needs(raw.path.is_absent(), PATH, "path: /hooks/purge");
        self.needs(raw.secret.is_absent(), PATH, "secret: ${PURGE_SECRET}");
        let keys = self.signing_keys(raw.secret.get().map(|text| &text.0), "purge.webhook.secret");
        let window = span(&raw.window).unwrap_or(WINDOW);
        if !(WINDOW_MIN..=WINDOW_MAX).contains(&window) {
            self.tell(
                Code::E117,
                "purge.webhook.window",
                "`window` is out of range",
                "from 1s to 1h",
            );
        }
        let mut tables = Vec::new();
        for (index, table) in raw.tables.get().into_iter().flat_map(List::indexed) {
            let path = format!("{PATH}.tables[{index}]");
            self.needs(table.table.is_absent(), &path, "table: cars");
            self.needs(table.tags.is_absent(), &path, "tags: [cars]");
            let tags = table.tags.get().into_iter().flat_map(List::iter);
            tables.extend(table.table.get().map(|name| WebhookTable {
                table: name.0.clone(),
                tags: tags.map(|tag| tag.0.clone()).collect(),
            }));
        }
        // Without a key nobody could sign, so that there is no webhook: an unset variable turns it off.
        (!keys.is_empty()).then_some(())?;
        Some(Arc::new(Webhook {
            path: raw.path.get()?.0.clone(),
            keys,
            window,
            tables,
        }))
    }

    fn purge_notify(&mut self, raw: &raw::PurgeNotify) -> Option<PurgeNotify> {
        const PATH: &str = "purge.notify.url";
        self.needs(raw.url.is_absent(), "purge.notify", "url: https://…");
        let path = self.at(PATH, "purge.notify");
        let url = self.secret(raw.url.get().map(|text| &text.0), path)?;
        let is_url = url.expose().parse::<http::Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        });
        if !is_url && !self.env.ignored {
            self.tell(
                Code::E118,
                path,
                "this is not where purges can be posted to",
                "write https://…",
            );
            return None;
        }
        let secret = raw.secret.get().map(|text| &text.0);
        let keys = self.signing_keys(secret, "purge.notify.secret");
        Some(PurgeNotify {
            url,
            key: keys.into_iter().next(),
        })
    }

    /// The keys of a secret, the one in use first.
    fn signing_keys(&mut self, given: Option<&Secret>, path: &str) -> Vec<SigningKey> {
        let Some(text) = self.secret(given, path) else {
            return Vec::new();
        };
        let mut keys = Vec::new();
        for text in text.expose().split(',') {
            match SigningKey::parse(text.trim()) {
                Ok(key) => keys.push(key),
                Err(_) if self.env.ignored => {}
                Err(why) => self.tell(
                    Code::E128,
                    path,
                    format!("the secret cannot be used: {why}"),
                    "make one with `openssl rand -base64 32`",
                ),
            }
        }
        if keys.len() > KEYS_MAX {
            let message = format!("`secret` has {} keys", keys.len());
            self.tell(
                Code::E128,
                path,
                message,
                "two at most: the new one, the old one",
            );
        }
        keys
    }

    fn needs(&mut self, is_absent: bool, path: &str, line: &str) {
        if is_absent {
            let name = line.split(':').next().unwrap_or_default();
            self.tell(
                Code::E105,
                path,
                format!("`{path}` has no `{name}`"),
                format!("add `{line}`"),
            );
        }
    }
}
