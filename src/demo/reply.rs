//! The demo app's answers: a status, fields, and a body that is whole, streamed or cut short.
//!
//! It never looks at what an answer is about.

use crate::semantics::line::hex;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use serde_json::Value;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Pieces of a stream that may wait for a slow reader.
const STREAM_QUEUE: usize = 16;
/// Between the last piece of a cut answer and the cut.
const CUT_AFTER: Duration = Duration::from_millis(20);

/// An answer in the making.
pub(super) struct Reply(Response<BoxBody<Bytes, io::Error>>);

impl Reply {
    /// A whole body of that type.
    pub(super) fn whole(content_type: &str, body: impl Into<Bytes>) -> Self {
        let body = Full::new(body.into()).map_err(|never: Infallible| match never {});
        Self(Response::new(body.boxed())).with(header::CONTENT_TYPE, content_type)
    }

    /// No body.
    pub(super) fn empty(status: StatusCode) -> Self {
        let body = Full::new(Bytes::new()).map_err(|never: Infallible| match never {});
        Self(Response::new(body.boxed())).status(status)
    }

    /// JSON for everyone, with an ETag; 304 where the client already has it (RFC 9110 §13.1.2).
    pub(super) fn shared(body: &Value, request: &HeaderMap) -> Self {
        let text = body.to_string();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        let etag = format!("\"{}\"", hex(digest.as_ref().get(..8).unwrap_or_default()));
        let known = request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|one| one.trim().trim_start_matches("W/") == etag);
        let reply = if known {
            Self::empty(StatusCode::NOT_MODIFIED)
        } else {
            Self::whole("application/json", text)
        };
        reply
            .with(header::CACHE_CONTROL, "public")
            .with(header::ETAG, &etag)
    }

    /// JSON for one person.
    pub(super) fn personal(body: &Value) -> Self {
        Self::whole("application/json", body.to_string()).with(header::CACHE_CONTROL, "private")
    }

    /// JSON that nobody may keep.
    pub(super) fn fresh(body: &Value) -> Self {
        Self::whole("application/json", body.to_string()).with(header::CACHE_CONTROL, "no-store")
    }

    /// Pieces sent one by one, the first at once, then one after every `pause`. Ends with its reader.
    pub(super) fn stream(
        pause: Duration,
        pieces: impl Iterator<Item = String> + Send + 'static,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(async move {
            let mut first = true;
            for piece in pieces {
                if !first && !pause.is_zero() {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = sender.closed() => return,
                    }
                }
                first = false;
                if sender.send(Ok(Bytes::from(piece))).await.is_err() {
                    return;
                }
            }
        });
        Self(Response::new(Pieces(receiver).boxed()))
    }

    /// Promises 100 bytes, sends 10 and, once these are on their way, breaks off.
    pub(super) fn cut() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let piece = Bytes::from_static(b"0123456789");
            if sender.send(Ok(piece)).await.is_ok() {
                tokio::time::sleep(CUT_AFTER).await;
                // A reader that is gone already needs no cut.
                let _ = sender.send(Err(io::Error::other("cut on demand"))).await;
            }
        });
        Self(Response::new(Pieces(receiver).boxed()))
            .with(header::CONTENT_TYPE, "text/plain")
            .with(header::CONTENT_LENGTH, "100")
            .with(header::CACHE_CONTROL, "public, max-age=60")
    }

    pub(super) fn status(mut self, status: StatusCode) -> Self {
        *self.0.status_mut() = status;
        self
    }

    /// Adds a field, replacing one of that name; a value that cannot be sent is left out.
    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers_mut().insert(name, value);
        }
        self
    }

    pub(super) fn into_response(self) -> Response<BoxBody<Bytes, io::Error>> {
        self.0
    }
}

struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
