//! Tokens that are believed (JWT, RFC 7519), and the keys that make them so.
//!
//! The key says which algorithms it verifies; what the token says is only compared with that, so
//! `none` and an HMAC made with a public key never pass (RFC 8725 §3.1). Time is an argument.

use super::User;
use super::credential::hash;
use crate::secret::Secret;
use crate::semantics::Timestamp;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde_json::Value;
use std::time::Duration;

/// Longer tokens are not looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Longer ids are nobody's.
pub(super) const USER_ID_BYTES_MAX: usize = 512;

/// Further roles of a user are ignored.
const ROLES_MAX: usize = 64;

/// Keys of a set that are kept.
const KEYS_MAX: usize = 100;

/// Keys that one token is tried with; only a token that names no key needs more than one.
const TRIES_MAX: usize = 8;

/// Tokens that are remembered as verified, with their users (about 300 bytes each).
const VERIFIED_MAX: usize = 10_000;

/// How far a token's issuer may be ahead of us (`nbf`). An expired token gets no grace.
const AHEAD_MAX: Duration = Duration::from_secs(5);

/// One set of keys, with the tokens that it verified: other keys, other memory.
#[derive(Debug)]
pub(super) struct Keys {
    keys: Vec<Key>,
    verified: quick_cache::sync::Cache<[u8; 32], Verified>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A token that was verified once.
#[derive(Clone, Debug)]
struct Verified {
    user: Option<User>,
    not_before: Option<Timestamp>,
    expires: Option<Timestamp>,
}

/// Where in a token the user and the roles stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claims<'a> {
    pub(super) user: &'a [String],
    pub(super) role: Option<&'a [String]>,
}

/// What came of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is good, and names this user, if any.
    Good(Option<User>),
    /// It is not believed.
    Refused,
    /// It names a key that is not held.
    UnknownKey,
}

impl Keys {
    fn new(keys: Vec<Key>) -> Self {
        Self {
            keys,
            verified: quick_cache::sync::Cache::new(VERIFIED_MAX),
        }
    }

    /// No keys: nothing is believed.
    pub(super) fn none() -> Self {
        Self::new(Vec::new())
    }

    /// One shared secret. An empty one would let everybody sign, so it is no key.
    pub(super) fn secret(secret: &Secret) -> Self {
        if secret.is_empty() {
            return Self::none();
        }
        Self::new(vec![Key {
            id: None,
            algorithms: AlgorithmFamily::Hmac.algorithms().to_vec(),
            key: DecodingKey::from_secret(secret.expose().as_bytes()),
        }])
    }

    /// A JSON Web Key Set (RFC 7517 §5). Keys that cannot verify a signature here are skipped; a set
    /// without any other is an error. Shared secrets are taken only where `secrets` says that
    /// nobody else reads the set.
    pub(super) fn set(jwks: &[u8], secrets: bool) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(jwks)
            .map_err(|error| format!("the key set is not JSON: {error}"))?;
        let listed = (set.get("keys").and_then(Value::as_array))
            .ok_or("the key set has no list \"keys\" (RFC 7517 §5)")?;
        let keys: Vec<Key> = (listed.iter())
            .filter_map(|key| Key::read(key, secrets))
            .take(KEYS_MAX)
            .collect();
        if keys.is_empty() {
            return Err(format!(
                "none of the {} keys of the set can verify tokens (RSA, P-256, P-384, Ed25519)",
                listed.len()
            ));
        }
        Ok(Self::new(keys))
    }

    /// How many tokens are remembered as verified.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.verified.len()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Verifies a token, or remembers that it was verified.
    pub(super) fn verify(&self, token: &str, claims: Claims<'_>, now: Timestamp) -> Outcome {
        if token.len() > TOKEN_BYTES_MAX {
            return Outcome::Refused;
        }
        let digest = hash(&[b"larder verified", token.as_bytes()]);
        if let Some(known) = self.verified.get(&digest) {
            return known.at(now);
        }
        match self.verify_anew(token, claims) {
            Ok(verified) => {
                let outcome = verified.at(now);
                if outcome != Outcome::Refused {
                    self.verified.insert(digest, verified);
                }
                outcome
            }
            Err(refusal) => refusal,
        }
    }

    fn verify_anew(&self, token: &str, claims: Claims<'_>) -> Result<Verified, Outcome> {
        let refused = || Outcome::Refused;
        let header = jsonwebtoken::decode_header(token).map_err(|_| refused())?;
        // Extensions that must be understood are not (RFC 7515 §4.1.11).
        if header.crit.is_some() {
            return Err(refused());
        }
        let (message, signature) = token.rsplit_once('.').ok_or_else(refused)?;
        let keys = self.named(header.kid.as_deref());
        if keys.is_empty() {
            return Err(Outcome::UnknownKey);
        }
        let fit = keys
            .iter()
            .filter(|key| key.algorithms.contains(&header.alg));
        let good = fit.take(TRIES_MAX).any(|key| {
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, header.alg)
                .unwrap_or(false)
        });
        if !good {
            return Err(refused());
        }
        let payload: Value =
            jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| refused())?;
        Verified::read(&payload, claims).ok_or_else(refused)
    }

    /// The keys that a token may mean: those of the id it names, else those without an id. One that
    /// names no key may mean any.
    fn named(&self, id: Option<&str>) -> Vec<&Key> {
        let is_named = |key: &&Key| key.id.as_deref() == id;
        match id {
            None => self.keys.iter().collect(),
            Some(_) if self.keys.iter().any(|key| is_named(&key)) => {
                self.keys.iter().filter(is_named).collect()
            }
            Some(_) => self.keys.iter().filter(|key| key.id.is_none()).collect(),
        }
    }
}

impl Key {
    /// `None` for keys of other uses, types and curves than are verified here.
    fn read(key: &Value, secrets: bool) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
        let signs = !matches!(
            &jwk.common.public_key_use,
            Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_))
        );
        let verifies = (jwk.common.key_operations.as_ref())
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms().to_vec(),
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => vec![Algorithm::ES256],
                EllipticCurve::P384 => vec![Algorithm::ES384],
                _ => Vec::new(),
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                vec![Algorithm::EdDSA]
            }
            AlgorithmParameters::OctetKey(key) if secrets && !key.value.is_empty() => {
                AlgorithmFamily::Hmac.algorithms().to_vec()
            }
            _ => Vec::new(),
        };
        // A key that names its algorithm is for that one only (RFC 7517 §4.4).
        let algorithms: Vec<Algorithm> = match jwk.common.key_algorithm {
            None => algorithms,
            Some(named) => {
                let named = Algorithm::try_from(named).ok()?;
                algorithms
                    .into_iter()
                    .filter(|known| *known == named)
                    .collect()
            }
        };
        (signs && verifies && !algorithms.is_empty()).then_some(Self {
            key: DecodingKey::from_jwk(&jwk).ok()?,
            id: jwk.common.key_id,
            algorithms,
        })
    }
}

impl Verified {
    /// `None` if `exp` or `nbf` is there and is not a moment.
    fn read(payload: &Value, claims: Claims<'_>) -> Option<Self> {
        let not_before = moment(payload.get("nbf"))?;
        let expires = moment(payload.get("exp"))?;
        let user = find(payload, claims.user).and_then(user_id).map(|id| User {
            id: id.into(),
            roles: claims
                .role
                .map_or_else(Vec::new, |path| roles(payload, path))
                .into(),
        });
        Some(Self {
            user,
            not_before,
            expires,
        })
    }

    fn at(&self, now: Timestamp) -> Outcome {
        let expired = self.expires.is_some_and(|expires| now >= expires);
        let early = self.not_before.is_some_and(|from| now + AHEAD_MAX < from);
        if expired || early {
            return Outcome::Refused;
        }
        Outcome::Good(self.user.clone())
    }
}

/// When a token ends by its own word (`exp`), be it believed or not: this may only ever shorten what
/// is done for its bearer.
pub(super) fn expires(token: &str) -> Option<Timestamp> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let payload: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    moment(payload.get("exp")).flatten()
}

/// A NumericDate (RFC 7519 §2), which may have a fraction: `Some(None)` without one, `None` for what
/// is not a date.
fn moment(claim: Option<&Value>) -> Option<Option<Timestamp>> {
    let Some(claim) = claim else {
        return Some(None);
    };
    let seconds = claim.as_f64().filter(|seconds| *seconds >= 0.0)?;
    // A float becomes an integer by saturation.
    Some(Some(Timestamp::from_millis((seconds * 1_000.0) as u64)))
}

fn find<'a>(payload: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(payload, |value, name| value.get(name))
}

/// A text or a whole number; not empty, not endless, no control bytes.
fn user_id(claim: &Value) -> Option<String> {
    let id = match claim {
        Value::String(id) => id.clone(),
        Value::Number(id) if id.is_u64() || id.is_i64() => id.to_string(),
        _ => return None,
    };
    let fine = !id.is_empty() && id.len() <= USER_ID_BYTES_MAX && !id.chars().any(char::is_control);
    fine.then_some(id)
}

/// One role or a list of them.
fn roles(payload: &Value, path: &[String]) -> Vec<String> {
    match find(payload, path) {
        Some(Value::String(role)) => vec![role.clone()],
        Some(Value::Array(roles)) => (roles.iter())
            .filter_map(|role| role.as_str().map(str::to_owned))
            .take(ROLES_MAX)
            .collect(),
        _ => Vec::new(),
    }
}
