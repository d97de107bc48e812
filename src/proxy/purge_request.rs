//! Purges that are asked for on the port for clients: PURGE with the admin token, where that is allowed.
//!
//! Who may not purge falls under the limits like everybody, and is refused; what purges is then the
//! door's to do.

use super::respond;
use super::{Ask, Problem, Proxy, Reply};
use crate::cache::{Purge, Scope};
use crate::limit::Decision;
use crate::purging::request::url_of;
use crate::purging::{By, Record, Way};
use crate::secret;
use http::HeaderName;
use http::header::AUTHORIZATION;
use std::sync::Arc;

/// Asks for a purge that only makes stale (Fastly's).
const SOFT_PURGE: HeaderName = HeaderName::from_static("fastly-soft-purge");

impl Ask<'_> {
    /// Whether it is larder that this asks, for a purge.
    pub(super) fn asks_to_purge(&self) -> bool {
        let purging = &self.visit.snapshot.settings.purging;
        purging.method && self.visit.method.as_str() == "PURGE"
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
    /// Answers a PURGE: what is stored for its URL goes, with all variants.
    pub(super) async fn purge_asked(
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
        let record = self.purge_from_outside(ask, vec![purge], Way::Method, None);
        Ok(Reply::own(respond::purged(&*record.await?)))
    }

    /// Carries out what was asked for on this port, as far as the rate admits.
    async fn purge_from_outside(
        &self,
        ask: &Ask<'_>,
        purges: Vec<Purge>,
        way: Way,
        name: Option<Arc<str>>,
    ) -> Result<Arc<Record>, Problem> {
        let now = ask.visit.now;
        let (door, recorder) = (&self.0.shared.purging, &self.0.recorder);
        let rate = ask.visit.snapshot.settings.purging.rate;
        if let Err(wait) = door.admit(rate, purges.len(), now) {
            recorder.purge_asked(way.word(), "limited");
            let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            return Err(Problem::TooManyPurges(secs));
        }
        let by = By { way, name, now };
        let done = door.carry_out(&self.0.cache, recorder, purges, Vec::new(), by);
        Ok(done.await)
    }
}
