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
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Connections that may be tunnelled at a time.
const TUNNELS_MAX: usize = 5_000;

/// A tunnel without a byte in either direction for so long ends: its client may be long gone, and it
/// has one of the places.
const IDLE_TIME: Duration = Duration::from_secs(3_600);

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

/// Moves bytes both ways until either side has had enough, or nothing moves for [`IDLE_TIME`].
pub(super) fn connect(client: OnUpgrade, app: OnUpgrade, place: Place) {
    tokio::spawn(async move {
        let _place = place;
        let (Ok(client), Ok(app)) = tokio::join!(client, app) else {
            return;
        };
        carry(TokioIo::new(client), TokioIo::new(app)).await;
    });
}

/// How a tunnel ends is the business of its two ends; that it ends is ours.
async fn carry<A, B>(client: A, app: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Moved::now();
    let (mut client, mut app) = (moved.watch(client), moved.watch(app));
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut app) => {}
        () = moved.idle(IDLE_TIME) => {}
    }
}

/// When a byte last came out of either end.
#[derive(Clone, Debug)]
struct Moved(Arc<Moments>);

#[derive(Debug)]
struct Moments {
    began: Instant,
    /// Milliseconds after `began`.
    last: AtomicU64,
}

impl Moved {
    fn now() -> Self {
        Self(Arc::new(Moments {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }))
    }

    fn watch<S>(&self, stream: S) -> Watched<S> {
        let moved = self.clone();
        Watched { stream, moved }
    }

    fn touch(&self) {
        let millis = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(millis, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for `time`.
    async fn idle(&self, time: Duration) {
        loop {
            let last = Duration::from_millis(self.0.last.load(Ordering::Relaxed));
            let until = self.0.began + last + time;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// An end of a tunnel that notes when it is read from.
#[derive(Debug)]
struct Watched<S> {
    stream: S,
    moved: Moved,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.moved.touch();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_ends_an_hour_after_its_last_byte_in_either_direction() {
        let (mut client, client_end) = tokio::io::duplex(64);
        let (mut app, app_end) = tokio::io::duplex(64);
        let tunnel = tokio::spawn(carry(client_end, app_end));
        let began = Instant::now();
        let mut byte = [0];
        for upwards in [true, false, true] {
            tokio::time::sleep(IDLE_TIME - Duration::from_secs(1)).await;
            let (from, to) = match upwards {
                true => (&mut client, &mut app),
                false => (&mut app, &mut client),
            };
            from.write_all(b"x").await.unwrap();
            to.read_exact(&mut byte).await.unwrap();
        }
        let spoke = began.elapsed();
        tunnel.await.unwrap();
        let silent = began.elapsed() - spoke;
        assert!(silent >= IDLE_TIME && silent < IDLE_TIME + Duration::from_secs(1));
        assert_eq!(client.read(&mut byte).await.unwrap(), 0);
    }
}
