//! Purges that are asked for on the port for clients, where that is allowed: PURGE with the admin token,
//! and signed messages on the webhook's path.
//!
//! Who may not purge falls under the limits like everybody, and is refused; what purges is then the
//! door's to do.

use super::respond;
use super::{Ask, Problem, Proxy, Reply};
use crate::cache::{Purge, Scope};
use crate::config::settings::Webhook;
use crate::limit::Decision;
use crate::purging::request::url_of;
use crate::purging::webhook::{self, CONTENT_BYTES_MAX, Claim};
use crate::purging::{By, Heard, Record, Way};
use crate::secret;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, Method};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;

/// For a message's content to arrive.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks for a purge that only makes stale (Fastly's).
const SOFT_PURGE: HeaderName = HeaderName::from_static("fastly-soft-purge");

impl Ask<'_> {
    /// Whether it is larder that this asks, for a purge.
    pub(super) fn asks_to_purge(&self) -> bool {
        let purging = &self.visit.snapshot.settings.purging;
        match self.visit.method {
            Method::POST => self.webhook().is_some(),
            _ => purging.method && self.visit.method.as_str() == "PURGE",
        }
    }

    fn webhook(&self) -> Option<&Arc<Webhook>> {
        let webhook = self.visit.snapshot.settings.purging.webhook.as_ref();
        webhook.filter(|webhook| webhook.path == self.visit.uri.path())
    }

    /// Whether it brought the admin token: in a field, never in its URL.
    fn brings_token(&self) -> bool {
        let token = self.visit.snapshot.settings.admin.token.as_ref();
        let mut given = self.visit.headers.get_all(AUTHORIZATION).iter();
        match (given.next(), given.next()) {
            (Some(one), None) => secret::bearer(one.as_bytes())
                .is_some_and(|given| token.is_some_and(|token| token.matches(given))),
            _ => false,
        }
    }
}

impl Proxy {
    /// Answers what asks for a purge.
    pub(super) async fn purge_asked(
        &self,
        ask: &Ask<'_>,
        body: Option<Incoming>,
        limits: &mut Option<Arc<Decision>>,
    ) -> Result<Reply, Problem> {
        match ask.webhook() {
            Some(webhook) if ask.visit.method == Method::POST => {
                self.hooked(ask, webhook, body, limits).await
            }
            _ => self.purge_method(ask, limits).await,
        }
    }

    /// A PURGE: what is stored for its URL goes, with all variants.
    async fn purge_method(
        &self,
        ask: &Ask<'_>,
        limits: &mut Option<Arc<Decision>>,
    ) -> Result<Reply, Problem> {
        if !ask.brings_token() {
            self.admit(ask, limits).await?;
            self.0.recorder.purge_asked(Way::Method.word(), "refused");
            return Err(Problem::MayNotPurge("PURGE needs the admin token"));
        }
        let visit = ask.visit;
        let routes = &visit.snapshot.settings.routes;
        let purge = Purge {
            scope: Scope::Url(url_of(&visit.authority(), ask.target, routes)),
            soft: (visit.headers.get(SOFT_PURGE)).is_some_and(|value| value.as_bytes() == b"1"),
        };
        self.admit_purges(ask, 1, Way::Method)?;
        let record = self.purge_from_outside(ask, vec![purge], Way::Method, None);
        Ok(Reply::own(respond::purged(&*record.await)))
    }

    /// A message on the webhook's path. Sent again, it is answered as done, and nothing is done.
    async fn hooked(
        &self,
        ask: &Ask<'_>,
        webhook: &Webhook,
        body: Option<Incoming>,
        limits: &mut Option<Arc<Decision>>,
    ) -> Result<Reply, Problem> {
        let visit = ask.visit;
        let asked = async {
            let claim = Claim::of(&visit.headers, webhook.window, visit.now)?;
            let content = whole(body).await?;
            match claim.is_signed(webhook, &content) {
                true => Ok((claim.id, content)),
                false => Err("no signature is of the webhook's secret"),
            }
        };
        let (id, content) = match asked.await {
            Ok(asked) => asked,
            Err(why) => {
                self.admit(ask, limits).await?;
                self.0.recorder.purge_asked(Way::Webhook.word(), "refused");
                return Err(Problem::MayNotPurge(why));
            }
        };
        let routes = &visit.snapshot.settings.routes;
        let purges = webhook::read(webhook, &content)
            .and_then(|asked| asked.map(|asked| asked.purges(routes)).transpose());
        let purges = purges.map_err(|refusal| {
            self.0
                .recorder
                .purge_asked(Way::Webhook.word(), "malformed");
            Problem::NotAPurge(refusal.code)
        })?;
        let Some(purges) = purges else {
            self.0.recorder.purge_asked(Way::Webhook.word(), "nothing");
            return Ok(Reply::own(respond::nothing_purged("nothing")));
        };
        let (door, cache) = (&self.0.shared.purging, &self.0.cache);
        let repeated = || {
            self.0.recorder.purge_asked(Way::Webhook.word(), "repeated");
            Ok(Reply::own(respond::nothing_purged("repeated")))
        };
        // What is sent again and again takes nothing of what the rate admits.
        if door.is_done(id, visit.now) {
            return repeated();
        }
        self.admit_purges(ask, purges.len(), Way::Webhook)?;
        // As old as it may be now, a message of the same name cannot come once more after this.
        let life = webhook.window * 2;
        match door.hear(cache, id, life, visit.now).await {
            Heard::First => {}
            Heard::Done => return repeated(),
            Heard::Underway => {
                self.0.recorder.purge_asked(Way::Webhook.word(), "underway");
                return Err(Problem::PurgeUnderway);
            }
        }
        let record = self.purge_from_outside(ask, purges, Way::Webhook, Some(id.into()));
        let record = record.await;
        // Not before: a sender that is told so tries no more.
        door.done(cache, id, life, visit.now).await;
        Ok(Reply::own(respond::purged(&record)))
    }

    /// Admits so many purges, as far as the rate does.
    fn admit_purges(&self, ask: &Ask<'_>, purges: usize, way: Way) -> Result<(), Problem> {
        let rate = ask.visit.snapshot.settings.purging.rate;
        let admitted = (self.0.shared.purging).admit(rate, purges, ask.visit.now);
        admitted.map_err(|wait| {
            self.0.recorder.purge_asked(way.word(), "limited");
            Problem::TooManyPurges(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
        })
    }

    async fn purge_from_outside(
        &self,
        ask: &Ask<'_>,
        purges: Vec<Purge>,
        way: Way,
        name: Option<Arc<str>>,
    ) -> Arc<Record> {
        let now = ask.visit.now;
        let (door, recorder) = (&self.0.shared.purging, &self.0.recorder);
        let by = By { way, name, now };
        let done = door.carry_out(&self.0.cache, recorder, purges, Vec::new(), by);
        done.await
    }
}

/// A message's content, whole; or why it is not looked at.
async fn whole(body: Option<Incoming>) -> Result<Bytes, &'static str> {
    let Some(body) = body else {
        return Ok(Bytes::new());
    };
    let whole = Limited::new(body, CONTENT_BYTES_MAX).collect();
    match tokio::time::timeout(CONTENT_TIMEOUT, Box::pin(whole)).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(_)) | Err(_) => Err("the content is larger than 64 KiB, or did not come whole"),
    }
}
