//! Who is asking: the client's address, and the user and role of a *verified* token.
//!
//! On any doubt (bad signature, unknown key, expired, `alg: none`) the caller is anonymous. Nothing
//! here reaches the network: keys are handed in with [`Identity::set_keys`].

mod address;
mod credential;
mod token;

use crate::secret::{self, Secret};
use crate::semantics::Timestamp;
use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use token::{Claims, Keys, Outcome};

/// What `identity:` in the configuration says, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentitySettings {
    /// Peers whose X-Forwarded-For and Forwarded are believed; nobody by default.
    pub trusted_proxies: Vec<IpNet>,
    /// Length of the IPv6 prefix that counts as one client (64 by default).
    pub ipv6_prefix: u8,
    /// Where tokens' keys come from; none: no token is ever believed.
    pub jwt: Option<JwtSource>,
    /// What is a user.
    pub user: UserSource,
    /// Path of the claim that holds the role, or roles, e.g. `["app_metadata", "role"]`.
    pub role: Option<Vec<String>>,
    /// The key that digests of callers are keyed with where there is no JWT secret: the first of
    /// `cache.encrypt`.
    pub seal: Option<secret::Key>,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            ipv6_prefix: 64,
            jwt: None,
            user: UserSource::default(),
            role: None,
            seal: None,
        }
    }
}

/// Where the keys that tokens are verified with come from.
#[derive(Clone, Debug, PartialEq)]
pub enum JwtSource {
    /// A shared secret (HS256, HS384, HS512).
    Secret(Secret),
    /// A JSON Web Key Set at a URL, fetched in the background.
    JwksUrl(String),
    /// A JSON Web Key Set in a file.
    JwksFile(PathBuf),
}

/// What names the user.
#[derive(Clone, Debug, PartialEq)]
pub enum UserSource {
    /// A claim of a verified token.
    Claim(Vec<String>),
    /// A header field, believed from a trusted proxy only.
    Header(HeaderName),
}

impl Default for UserSource {
    fn default() -> Self {
        Self::Claim(vec!["sub".into()])
    }
}

/// Identifies callers by one configuration.
#[derive(Debug)]
pub struct Identity {
    settings: IdentitySettings,
    keys: ArcSwap<Keys>,
    unknown_key: AtomicBool,
    /// Seals digests of credentials; the same in every sidecar of one configuration.
    seal: hmac::Key,
}

impl Identity {
    /// An identity with no keys yet, unless the source is a secret.
    #[must_use]
    pub fn new(settings: IdentitySettings) -> Self {
        let seal = settings.seal.as_ref().map(secret::Key::expose);
        let (keys, secret) = match &settings.jwt {
            Some(JwtSource::Secret(secret)) => (Keys::secret(secret), secret.expose().as_bytes()),
            _ => (Keys::none(), seal.map_or(&[][..], |key| key)),
        };
        // A key of its own, so that no digest tells anything of what tokens are signed with.
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&secret, b"larder credentials");
        Self {
            settings,
            keys: ArcSwap::from_pointee(keys),
            unknown_key: AtomicBool::new(false),
            seal: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
        }
    }

    /// One for other settings. Where nothing but the key of digests differs it has the keys of this one,
    /// so that nobody becomes a stranger until they are fetched again.
    #[must_use]
    pub fn succeeded_by(&self, settings: IdentitySettings) -> Self {
        let resealed = IdentitySettings {
            seal: settings.seal.clone(),
            ..self.settings.clone()
        };
        let same_keys = resealed == settings;
        let next = Self::new(settings);
        if same_keys {
            next.keys.store(self.keys.load_full());
        }
        next
    }

    /// The field that names users, where one does.
    #[must_use]
    pub const fn named_by(&self) -> Option<&HeaderName> {
        match &self.settings.user {
            UserSource::Header(name) => Some(name),
            UserSource::Claim(_) => None,
        }
    }

    /// Where keys have to be fetched from, if anywhere.
    #[must_use]
    pub fn source(&self) -> Option<&JwtSource> {
        self.settings.jwt.as_ref()
    }

    /// Takes a JSON Web Key Set (RFC 7517) and returns how many of its keys are usable; bad sets
    /// leave the old keys and say what is wrong. Tokens that the old keys verified are forgotten.
    ///
    /// A shared secret (`"kty": "oct"`) is taken from a file only: at a URL others could read it.
    pub fn set_keys(&self, jwks: &[u8]) -> Result<usize, String> {
        let secrets = matches!(self.settings.jwt, Some(JwtSource::JwksFile(_)));
        let keys = Keys::set(jwks, secrets)?;
        let usable = keys.len();
        self.keys.store(Arc::new(keys));
        Ok(usable)
    }

    /// Whether a token named a key that is not held (the set should be fetched anew); resets.
    ///
    /// Anybody can send such a token: the caller bounds how often it fetches.
    pub fn take_unknown_key(&self) -> bool {
        self.unknown_key.swap(false, Ordering::Relaxed)
    }

    /// The caller of a request. Nothing is computed until it is asked for.
    #[must_use]
    pub fn caller<'a>(
        &'a self,
        peer: SocketAddr,
        headers: &'a HeaderMap,
        now: Timestamp,
    ) -> Caller<'a> {
        Caller {
            identity: self,
            peer,
            headers,
            now,
            ip: OnceLock::new(),
            user: OnceLock::new(),
        }
    }

    /// The user of the bearer token, if it is believed.
    fn verified(&self, headers: &HeaderMap, user: &[String], now: Timestamp) -> Option<User> {
        let source = self.settings.jwt.as_ref()?;
        let token = credential::bearer(headers)?;
        let role = self.settings.role.as_deref();
        let claims = Claims { user, role };
        match self.keys.load().verify(token, claims, now) {
            Outcome::Good(user) => user,
            Outcome::Refused => None,
            Outcome::UnknownKey => {
                if !matches!(source, JwtSource::Secret(_)) {
                    self.unknown_key.store(true, Ordering::Relaxed);
                }
                None
            }
        }
    }
}

/// The caller of one request.
#[derive(Debug)]
pub struct Caller<'a> {
    identity: &'a Identity,
    peer: SocketAddr,
    headers: &'a HeaderMap,
    now: Timestamp,
    ip: OnceLock<IpAddr>,
    user: OnceLock<Option<User>>,
}

/// A user whose token was verified, or whom a trusted proxy named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's id, at most 512 bytes.
    pub id: Arc<str>,
    /// The user's roles, possibly none.
    pub roles: Arc<[String]>,
}

impl Caller<'_> {
    /// Whether the peer is a trusted proxy.
    #[must_use]
    pub fn via_trusted_proxy(&self) -> bool {
        address::is_trusted(self.peer.ip(), &self.identity.settings.trusted_proxies)
    }

    /// The same caller, had `user` been verified: for questions about what would be.
    #[must_use]
    pub fn as_user(self, user: User) -> Self {
        Self {
            user: OnceLock::from(Some(user)),
            ..self
        }
    }

    /// The client's address: the peer's, or the rightmost untrusted one that trusted proxies name.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        let trusted = &self.identity.settings.trusted_proxies;
        *(self.ip).get_or_init(|| address::client(self.peer.ip(), self.headers, trusted))
    }

    /// What counts as one client address in keys and limits: IPv4 whole, IPv6 cut to its prefix.
    #[must_use]
    pub fn network(&self) -> String {
        address::network(self.ip(), self.identity.settings.ipv6_prefix)
    }

    /// The verified user, if any. A user whom a trusted proxy names has no roles.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        let find = || match &self.identity.settings.user {
            UserSource::Claim(path) => self.identity.verified(self.headers, path, self.now),
            UserSource::Header(name) => self.named_by_proxy(name),
        };
        self.user.get_or_init(find).as_ref()
    }

    /// A digest of the credential that the request carries, verified or not: its Authorization, or
    /// without one its session cookies; none without either. Never the credential itself.
    ///
    /// With a JWT secret configured, or else a key for encryption, it is keyed by that (HMAC-SHA-256):
    /// who can read Redis cannot try credentials out on it. Without both, only the credential's own
    /// entropy protects it.
    #[must_use]
    pub fn token(&self) -> Option<[u8; 32]> {
        let digest = credential::digest(self.headers)?;
        let sealed = hmac::sign(&self.identity.seal, &digest);
        sealed.as_ref().try_into().ok()
    }

    /// When the bearer token that the request carries ends, where it is one that says so (`exp`).
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        token::expires(credential::bearer(self.headers)?)
    }

    /// What stands for this user or address in keys and counters: with a key for encryption a digest keyed by it
    /// (HMAC-SHA-256), so that who can read Redis cannot try out whom it holds anything of.
    #[must_use]
    pub fn pseudonym<'b>(&self, whose: &'b [u8]) -> Cow<'b, [u8]> {
        match self.identity.settings.seal {
            Some(_) => Cow::Owned(hmac::sign(&self.identity.seal, whose).as_ref().to_vec()),
            None => Cow::Borrowed(whose),
        }
    }

    /// A field that is there twice was added to by somebody: no user.
    fn named_by_proxy(&self, name: &HeaderName) -> Option<User> {
        if !self.via_trusted_proxy() {
            return None;
        }
        let mut lines = self.headers.get_all(name).iter();
        let (line, None) = (lines.next()?, lines.next()) else {
            return None;
        };
        let id = line.to_str().ok()?.trim();
        let fine = !id.is_empty() && id.len() <= token::USER_ID_BYTES_MAX;
        fine.then(|| User {
            id: id.into(),
            roles: Arc::default(),
        })
    }
}

#[cfg(test)]
mod tests;
