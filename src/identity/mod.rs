//! Who is asking: the client's address, and the user and role of a *verified* token.
//!
//! On any doubt (bad signature, unknown key, expired, `alg: none`) the caller is anonymous. Nothing
//! here reaches the network: keys are handed in with [`Identity::set_keys`].

use crate::secret::Secret;
use crate::semantics::Timestamp;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// What `identity:` in the configuration says, compiled.
#[derive(Clone, Debug, Default, PartialEq)]
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
}

impl Identity {
    /// An identity with no keys yet, unless the source is a secret.
    #[must_use]
    pub fn new(settings: IdentitySettings) -> Self {
        Self { settings }
    }

    /// Where keys have to be fetched from, if anywhere.
    #[must_use]
    pub fn source(&self) -> Option<&JwtSource> {
        self.settings.jwt.as_ref()
    }

    /// Takes a JSON Web Key Set (RFC 7517); bad sets leave the old keys and say what is wrong.
    pub fn set_keys(&self, jwks: &[u8]) -> Result<usize, String> {
        let _ = jwks;
        unimplemented!()
    }

    /// Whether a token named a key that is not held (the set should be fetched anew); resets.
    pub fn take_unknown_key(&self) -> bool {
        unimplemented!()
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
            user: OnceLock::new(),
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
    user: OnceLock<Option<User>>,
}

/// A user whose token was verified, or whom a trusted proxy named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's id.
    pub id: Arc<str>,
    /// The user's roles, possibly none.
    pub roles: Arc<[String]>,
}

impl Caller<'_> {
    /// Whether the peer is a trusted proxy.
    #[must_use]
    pub fn via_trusted_proxy(&self) -> bool {
        let _ = (&self.identity, self.peer, self.headers, self.now);
        unimplemented!()
    }

    /// The client's address: the peer's, or the rightmost untrusted one that trusted proxies name.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        unimplemented!()
    }

    /// What counts as one client address in keys and limits: IPv4 whole, IPv6 cut to its prefix.
    #[must_use]
    pub fn network(&self) -> String {
        unimplemented!()
    }

    /// The verified user, if any.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        self.user.get_or_init(|| unimplemented!()).as_ref()
    }

    /// A digest of the bearer token or session credential that the request carries, verified or
    /// not; none without one. Never the token itself.
    #[must_use]
    pub fn token(&self) -> Option<[u8; 32]> {
        unimplemented!()
    }
}
