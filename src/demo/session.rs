//! Who is logged in: HS256 tokens as Supabase gives them, and those that were logged out early.
//!
//! It keeps no token, only the numbers of ended ones, and a bounded count of these.

use crate::secret::Secret;
use http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Logged-out tokens remembered; beyond that the longest ended is forgotten.
const ENDED_MAX: usize = 100_000;
/// Longest life of a token, in seconds.
const LIFE_SECS_MAX: u64 = 30 * 24 * 3600;

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    /// User.
    pub(super) sub: String,
    /// End of life, seconds since 1970.
    pub(super) exp: u64,
    /// Beginning of life.
    iat: u64,
    /// Number of the token, unlike any other's.
    jti: String,
    /// Supabase's place for roles.
    pub(super) app_metadata: AppMetadata,
}

/// Supabase's place for roles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct AppMetadata {
    /// The user's one role.
    pub(super) role: String,
}

/// Gives, reads and ends tokens.
pub(super) struct Sessions {
    sign: EncodingKey,
    verify: DecodingKey,
    rules: Validation,
    ended: Mutex<Ended>,
}

#[derive(Default)]
struct Ended {
    numbers: HashSet<String>,
    order: VecDeque<String>,
}

impl Sessions {
    pub(super) fn new(secret: &Secret) -> Self {
        let secret = secret.expose().as_bytes();
        Self {
            sign: EncodingKey::from_secret(secret),
            verify: DecodingKey::from_secret(secret),
            rules: Validation::new(Algorithm::HS256),
            ended: Mutex::default(),
        }
    }

    /// A token for `user` from `now` (seconds since 1970) on; `None` if it cannot be signed.
    pub(super) fn begin(&self, user: &str, role: &str, now: u64, life_secs: u64) -> Option<String> {
        let claims = Claims {
            sub: user.chars().take(128).collect(),
            exp: now.saturating_add(life_secs.min(LIFE_SECS_MAX)),
            iat: now,
            jti: format!("{:016x}", fastrand::u64(..)),
            app_metadata: AppMetadata {
                role: role.chars().take(64).collect(),
            },
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.sign).ok()
    }

    /// The user of the request's token, if it is valid and was not logged out.
    pub(super) fn user(&self, request: &HeaderMap) -> Option<Claims> {
        let token = token(request)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verify, &self.rules)
            .ok()?
            .claims;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        (!ended.numbers.contains(&claims.jti)).then_some(claims)
    }

    /// Ends the request's token.
    pub(super) fn end(&self, request: &HeaderMap) -> Option<Claims> {
        let claims = self.user(request)?;
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.numbers.insert(claims.jti.clone()) {
            ended.order.push_back(claims.jti.clone());
        }
        if ended.order.len() > ENDED_MAX
            && let Some(oldest) = ended.order.pop_front()
        {
            ended.numbers.remove(&oldest);
        }
        Some(claims)
    }
}

/// The bearer token (RFC 6750 §2.1), else the login's cookie.
fn token(request: &HeaderMap) -> Option<&str> {
    if let Some(value) = request.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim());
    }
    cookie(request, "demo_session")
}

/// The cookie of that name.
pub(super) fn cookie<'a>(request: &'a HeaderMap, name: &str) -> Option<&'a str> {
    request
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn bearing(token: &str) -> HeaderMap {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn a_token_of_another_secret_or_past_its_end_is_nobody() {
        let ours = Sessions::new(&Secret::new("a".repeat(32)));
        let theirs = Sessions::new(&Secret::new("b".repeat(32)));
        let now = crate::clock::Clock::system().now().as_secs();
        let forged = theirs.begin("ann", "admin", now, 60).unwrap();
        assert!(ours.user(&bearing(&forged)).is_none());
        let old = ours.begin("ann", "admin", now - 10_000, 60).unwrap();
        assert!(ours.user(&bearing(&old)).is_none());
        let good = ours.begin("ann", "admin", now, 60).unwrap();
        assert_eq!(ours.user(&bearing(&good)).unwrap().sub, "ann");
    }

    #[test]
    fn logging_one_token_out_leaves_the_others_of_that_user_alone() {
        let sessions = Sessions::new(&Secret::new("a".repeat(32)));
        let now = crate::clock::Clock::system().now().as_secs();
        let [one, two] = [0, 1].map(|_| sessions.begin("ann", "customer", now, 60).unwrap());
        assert!(sessions.end(&bearing(&one)).is_some());
        assert!(sessions.user(&bearing(&one)).is_none());
        assert!(sessions.user(&bearing(&two)).is_some());
    }
}
