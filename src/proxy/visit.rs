//! One request's facts, gathered once at the door.

use super::Snapshot;
use crate::semantics::Timestamp;
use crate::semantics::authority::normal_authority;
use crate::semantics::reuse::ClientRefresh;
use crate::telemetry::TraceContext;
use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Uri, Version};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
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

/// A request with the moment, the configuration and the trace that it is served under.
#[derive(Debug)]
pub struct Visit {
    pub(super) began: Instant,
    pub(super) now: Timestamp,
    pub(super) peer: Peer,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) trace: TraceContext,
    /// The trace's id, 32 hexadecimal digits.
    pub(super) trace_id: HeaderValue,
    pub(super) request_id: HeaderValue,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    /// Host as the client wrote it.
    pub(super) authority_as_sent: String,
    /// Host in normal form; empty where an HTTP/1.0 client named none.
    pub(super) authority: String,
    /// The request brought the debug token.
    pub(super) debug: bool,
}

impl Visit {
    pub(super) fn new(
        snapshot: Arc<Snapshot>,
        trace: TraceContext,
        parts: Parts,
        peer: Peer,
        now: Timestamp,
    ) -> Self {
        let authority_as_sent = parts
            .uri
            .authority()
            .map(ToString::to_string)
            .or_else(|| {
                parts
                    .headers
                    .get(HOST)
                    .and_then(|host| host.to_str().ok())
                    .map(ToOwned::to_owned)
            })
            .unwrap_or_default();
        let trace_id = HeaderValue::from_str(&format!("{:032x}", trace.trace_id))
            .unwrap_or_else(|_| HeaderValue::from_static("0"));
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
            request_id: request_id(&parts.headers, &trace_id),
            trace,
            trace_id,
            authority: normal_authority(&authority_as_sent, peer.scheme())
                .map(Cow::into_owned)
                .unwrap_or_default(),
            authority_as_sent,
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            headers: parts.headers,
            debug,
            snapshot,
        }
    }

    /// The trace's id as text.
    pub(super) fn trace_id(&self) -> &str {
        self.trace_id.to_str().unwrap_or_default()
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

/// The client's id where nothing in it can hurt a log, else the trace's.
fn request_id(headers: &HeaderMap, trace_id: &HeaderValue) -> HeaderValue {
    let harmless = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
            && (bytes.iter()).all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
    };
    let own = headers.get(super::forward::X_REQUEST_ID).filter(harmless);
    own.unwrap_or(trace_id).clone()
}
