//! Connections that are handed over: WebSocket and other upgrades.
//!
//! Bytes are tunnelled only after a 101 that names the protocol the client asked for; bytes that
//! follow an Upgrade request go nowhere before.

use super::respond::Problem;
use crate::semantics::fields;
use crate::upstream::{ResponseBody, UpstreamError};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Connections that may be tunnelled at a time.
const TUNNELS_MAX: usize = 5_000;

/// Counts the tunnels of this process; the drain waits for them.
#[derive(Clone, Debug, Default)]
pub struct Tunnels(Arc<AtomicUsize>);

/// A place among the tunnels; free again when dropped.
#[derive(Debug)]
pub(super) struct Place(Tunnels);

impl Tunnels {
    /// Tunnels open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self) -> Result<Place, Problem> {
        let place = Place(self.clone());
        if self.0.fetch_add(1, Ordering::Relaxed) < TUNNELS_MAX {
            Ok(place)
        } else {
            Err(Problem::TooManyTunnels)
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The two fields that ask for a tunnel, put back after the hop-by-hop ones were taken out.
pub(super) fn ask(headers: &mut HeaderMap, client: &HeaderMap) {
    if let Some(protocol) = client.get(UPGRADE) {
        headers.insert(UPGRADE, protocol.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Whether the app agreed to the very protocol that the client asked for.
pub(super) fn agreed(
    client: &HeaderMap,
    response: &Response<ResponseBody>,
) -> Result<bool, UpstreamError> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(false);
    }
    let mut asked = fields::list(client, &UPGRADE);
    let named = fields::list(response.headers(), &UPGRADE).next();
    let same = named.is_some_and(|named| asked.any(|asked| asked.eq_ignore_ascii_case(named)));
    if same {
        Ok(true)
    } else {
        Err(UpstreamError::Protocol("unasked-upgrade"))
    }
}

/// Moves bytes both ways until either side has had enough.
pub(super) fn connect(client: OnUpgrade, app: OnUpgrade, place: Place) {
    tokio::spawn(async move {
        let _place = place;
        let (Ok(client), Ok(app)) = tokio::join!(client, app) else {
            return;
        };
        // How a tunnel ends is the business of its two ends.
        let _ =
            tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(app)).await;
    });
}
