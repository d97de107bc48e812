//! What `tests/fuzz` and `benches` reach of this room. Nothing in larder uses it.

use super::Outage;
use super::link::Link;
use super::resp::{self, Parser, Reply};
use bytes::{BufMut, Bytes};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The replies in a stream that comes in these pieces, each as text, and whether the last of it was
/// malformed. Long strings are read straight to their places, as from a connection.
pub fn replies<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
    let (mut parser, mut replies, mut rest) = (Parser::default(), Vec::new(), Vec::new());
    for mut piece in pieces {
        if rest.is_empty()
            && let Some(mut room) = parser.room()
        {
            let (now, later) = piece.split_at(piece.len().min(room.remaining_mut()));
            room.put_slice(now);
            piece = later;
        }
        rest.extend_from_slice(piece);
        let mut input = rest.as_slice();
        loop {
            match parser.read(&mut input) {
                Ok(None) => break,
                Ok(Some(reply)) => {
                    replies.push(format!("{reply:?}"));
                    let _ = reply.into_value();
                }
                Err(_) => return (replies, true),
            }
        }
        rest = input.to_vec();
        assert!(rest.len() <= resp::LINE_BYTES_MAX + 3, "more than a line");
    }
    (replies, false)
}

/// A command of these parts as it is sent.
pub fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    resp::write_command(&mut out, parts.len(), parts.iter().copied());
    out
}

/// A connection over any stream.
pub struct Line(Arc<Link>);

impl Line {
    /// Must be called within a tokio runtime.
    pub fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self(Link::new(stream, Arc::new(Notify::new())))
    }

    /// What lies under `name`.
    pub async fn get(&self, name: &[u8], deadline: Duration) -> Result<Option<Bytes>, Outage> {
        let now = Instant::now();
        let pending = self.0.send(1, (now, now + deadline), |out| {
            resp::write_get(out, name);
        })?;
        match pending.await?.reply {
            Reply::Bulk(bytes) => Ok(Some(bytes)),
            Reply::Nil => Ok(None),
            _ => Err(Outage::Protocol),
        }
    }
}
