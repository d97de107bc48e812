//! One request's facts, gathered once at the door.

use super::{Plan, Snapshot};
use crate::semantics::Timestamp;
use crate::semantics::authority::normal_authority;
use crate::semantics::reuse::ClientRefresh;
use crate::telemetry::TraceContext;
use crate::upstream::Interim;
use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Longest `X-Request-Id` that is taken over.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl Peer {
    /// `http` or `https`.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// A request that has been received and is not answered yet.
#[derive(Debug)]
pub struct Arrival {
    pub(super) visit: Visit,
    /// Its content, where there is any.
    pub(super) body: Option<Incoming>,
    pub(super) upgrade: Option<OnUpgrade>,
    /// What is to be done with it, where that was found out before.
    pub(super) plan: Option<Plan>,
}

impl Arrival {
    /// A request without content on a connection that stays HTTP.
    pub(super) const fn plain(visit: Visit, plan: Option<Plan>) -> Self {
        Self {
            visit,
            body: None,
            upgrade: None,
            plan,
        }
    }
}

/// A request with the moment, the configuration and the trace that it is served under.
#[derive(Debug)]
pub struct Visit {
    pub(super) began: Instant,
    pub(super) now: Timestamp,
    pub(super) peer: Peer,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) trace: TraceContext,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    /// The request brought the debug token.
    pub(super) debug: bool,
    /// It is made on nobody's behalf, to warm the store.
    pub(super) is_nobodys: bool,
    /// Its content, where the key is made of it.
    pub(super) content: OnceLock<Bytes>,
    /// Where the app's interim answers go, if the client knows such.
    pub(super) interim: Option<Interim>,
}

impl Visit {
    pub(super) fn new(
        snapshot: Arc<Snapshot>,
        trace: TraceContext,
        parts: Parts,
        peer: Peer,
        now: Timestamp,
    ) -> Self {
        let debug = match (
            &snapshot.settings.headers.debug_token,
            parts.headers.get(super::forward::LARDER_DEBUG),
        ) {
            (Some(token), Some(offered)) => token.matches(offered.as_bytes()),
            _ => false,
        };
        Self {
            began: Instant::now(),
            now,
            peer,
            trace,
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            headers: parts.headers,
            debug,
            is_nobodys: false,
            content: OnceLock::new(),
            interim: None,
            snapshot,
        }
    }

    /// The same, for what outlives this one.
    pub(super) fn copy(&self) -> Self {
        Self {
            method: self.method.clone(),
            snapshot: self.snapshot.clone(),
            uri: self.uri.clone(),
            headers: self.headers.clone(),
            content: self.content.clone(),
            interim: self.interim.clone(),
            ..*self
        }
    }

    /// The same, had it been a GET of its target.
    pub(super) fn as_get(&self) -> Self {
        Self {
            method: Method::GET,
            content: OnceLock::new(),
            interim: None,
            ..self.copy()
        }
    }

    /// Host as the client wrote it; empty where an HTTP/1.0 client named none.
    pub(super) fn authority_as_sent(&self) -> &str {
        let host = || self.headers.get(HOST)?.to_str().ok();
        (self.uri.authority().map(Authority::as_str))
            .or_else(host)
            .unwrap_or_default()
    }

    /// The same as a field's value; `None` where it is no text.
    pub(super) fn host_field(&self) -> Option<HeaderValue> {
        match (self.uri.authority(), self.headers.get(HOST)) {
            (None, Some(host)) if host.to_str().is_ok() => Some(host.clone()),
            _ => HeaderValue::from_str(self.authority_as_sent()).ok(),
        }
    }

    /// Host in normal form.
    pub(super) fn authority(&self) -> Cow<'_, str> {
        normal_authority(self.authority_as_sent(), self.peer.scheme()).unwrap_or_default()
    }

    /// The id that the client brought, where nothing in it can hurt a log.
    pub(super) fn own_request_id(&self) -> Option<&HeaderValue> {
        let harmless = |value: &&HeaderValue| {
            let bytes = value.as_bytes();
            (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
                && (bytes.iter()).all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
        };
        let own = self.headers.get(super::forward::X_REQUEST_ID);
        own.filter(harmless)
    }

    /// How far this request's own cache directives reach.
    pub(super) fn client_refresh(&self) -> ClientRefresh {
        self.snapshot
            .settings
            .cache
            .client_refresh
            .decide(self.debug)
    }

    /// Path and query, for purges by URL.
    pub(super) fn path_and_query(&self) -> &str {
        self.uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str)
    }
}
