//! Looks, while somebody has asked for it, at requests that go to the app: what of them would be worth a route.

use super::tap::Tap;
use super::{Ask, Proxy};
use crate::evidence::{Print, Sight};
use crate::semantics::invalidation::is_safe;
use crate::semantics::search::parameters;
use crate::semantics::{Exchange, KeyBuilder, Policy, Ttl, fields, storable};
use crate::upstream::ResponseBody;
use http::header::LOCATION;
use http::{Method, Response};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

/// The lifetime with which it is asked whether an answer could be stored; how long it is does not matter.
const TRIED: Duration = Duration::from_secs(60);
/// Names of parameters that are looked at, of one request.
const PARAMETERS_MAX: usize = 16;

impl Proxy {
    /// Looks at an answer of the app as it passes.
    pub(super) fn sight(
        &self,
        ask: &Ask<'_>,
        response: &Response<ResponseBody>,
    ) -> Option<Box<Tap>> {
        let visit = ask.visit;
        if !self.0.shared.evidence.sights.looks(visit.now) {
            return None;
        }
        self.look_at(ask, response)
    }

    #[cold]
    fn look_at(&self, ask: &Ask<'_>, response: &Response<ResponseBody>) -> Option<Box<Tap>> {
        let visit = ask.visit;
        // A route that is never to be stored is no question.
        let policy = ask.found.rule.policy.as_ref()?;
        let is_unsafe = !is_safe(&visit.method);
        if !is_unsafe && visit.method != Method::GET {
            return None;
        }
        let tried = Policy {
            ttl: Some(Ttl::new(TRIED)),
            ..policy.clone()
        };
        let exchange = Exchange {
            method: &Method::GET,
            path: visit.uri.path(),
            request: &visit.headers,
            status: response.status(),
            response: response.headers(),
            requested: visit.now,
            received: visit.now,
            client: visit.client_refresh(),
            chance: 0.0,
        };
        let storable = storable(&exchange, &tried).map(drop);
        let mut url = KeyBuilder::new("sight");
        url.part(visit.authority().as_bytes());
        url.part(ask.found.rule.url(ask.target).as_bytes());
        let url = url.finish();
        let status = response.status().as_u16();
        let location = response.headers().get(LOCATION).cloned();
        let path = ask.target.decoded.clone().into_owned();
        let query = ask.target.query.unwrap_or_default().to_owned();
        let (who, now, took) = (ask.asker(), visit.now, visit.began.elapsed());
        let shared = self.0.shared.clone();
        Some(Tap::new(move |content| {
            let names = parameters(&query).map(|(name, _)| name);
            shared.evidence.sights.note(&Sight {
                path: &path,
                parameters: names.take(PARAMETERS_MAX).collect(),
                url,
                who,
                is_unsafe,
                storable,
                answer: content
                    .map(|content| Print::of(status, &content, &[]).leading(location.as_ref())),
                took,
                now,
            });
        }))
    }
}

impl Ask<'_> {
    /// Who asks, as a number that says nothing outside of this process; 0: nobody in particular.
    pub(super) fn asker(&self) -> u64 {
        static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let mut hasher = STATE.build_hasher();
        let mut is_somebody = false;
        let named_by = self.visit.snapshot.identity.named_by();
        fields::each_identity(&self.visit.headers, named_by, |value| {
            is_somebody = true;
            hasher.write_usize(value.len());
            hasher.write(value);
        });
        match is_somebody {
            true => hasher.finish().max(1),
            false => 0,
        }
    }
}
