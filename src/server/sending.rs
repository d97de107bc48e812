//! One answer on its way out past hyper: head, content, and how its end is told (RFC 9112 §6, §7.1).
//!
//! Never decides what is sent. Content that does not keep what the head has promised of it ends the
//! connection, so that nobody takes a part for the whole.

use crate::proxy::{Body, Framing, Meter, Rest};
use bytes::{Buf, Bytes};
use http_body::Body as _;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Content up to this goes out in one piece with what is before it, in bytes: copying it costs less
/// than a second slice.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// An answer that is leaving.
#[derive(Debug)]
pub(super) struct Sending {
    /// What is left of the head or of a chunk's, and of the content where it was copied behind it.
    head: Bytes,
    content: Bytes,
    /// What ends a chunk.
    tail: &'static [u8],
    rest: Left,
    flushing: bool,
}

/// What comes behind what is held.
#[derive(Debug)]
enum Left {
    /// Nothing. `copied` bytes of the content are counted with the head, once that has left.
    Whole { meter: Meter, copied: usize },
    /// More, when it is there.
    Length { body: Body, bytes: u64 },
    /// The same, in chunks.
    Chunks(Body),
    /// Nothing that is counted here.
    Nothing,
}

impl Sending {
    /// Begins with what there is of an answer whose head is `out`: that much of it is written at once,
    /// straight from there, as the socket takes.
    pub(super) fn begin<S: AsyncWrite + Unpin>(
        out: &mut Vec<u8>,
        rest: Rest,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> io::Result<Self> {
        let mut sending = Self {
            head: Bytes::new(),
            content: Bytes::new(),
            tail: b"",
            rest: Left::Nothing,
            flushing: false,
        };
        match rest {
            Rest::Whole { body, meter } => {
                let copied = match body.len() <= COPIED_BYTES_MAX {
                    true => body.len(),
                    false => 0,
                };
                sending.rest = Left::Whole { meter, copied };
                sending.content = body;
            }
            Rest::Streamed { body, framing } => {
                sending.rest = match framing {
                    Framing::Empty | Framing::Length(0) => Left::Nothing,
                    Framing::Length(bytes) => Left::Length { body, bytes },
                    Framing::Chunked => Left::Chunks(body),
                };
                // What is there already leaves with the head.
                if let Poll::Ready(filled) = sending.poll_fill(context) {
                    filled?;
                }
                out.extend_from_slice(&sending.head);
                sending.head = Bytes::new();
            }
        }
        if sending.content.len() <= COPIED_BYTES_MAX {
            out.extend_from_slice(&sending.content);
            out.extend_from_slice(sending.tail);
            (sending.content, sending.tail) = (Bytes::new(), b"");
        }
        let written = write(stream, context, [out, &sending.content, sending.tail]);
        let written = match written {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        let of_head = written.min(out.len());
        sending.head = Bytes::copy_from_slice(&out[of_head..]);
        sending.has_left(written - of_head);
        Ok(sending)
    }

    /// Bytes that are here and have not left.
    pub(super) fn bytes_left(&self) -> usize {
        self.head.len() + self.content.len() + self.tail.len()
    }

    /// Sends on until all of the answer has left.
    pub(super) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.bytes_left() > 0 {
                let pieces = [&self.head[..], &self.content, self.tail];
                let written = ready!(write(stream, context, pieces))?;
                self.has_left(written);
            }
            if !self.flushing {
                match self.poll_fill(context)? {
                    Poll::Ready(()) => self.flushing = self.bytes_left() == 0,
                    // What has been written is not to wait for what has not come.
                    Poll::Pending => {
                        let _ = Pin::new(&mut *stream).poll_flush(context)?;
                        return Poll::Pending;
                    }
                }
            }
            if self.flushing {
                return Pin::new(&mut *stream).poll_flush(context);
            }
        }
    }

    /// So many bytes of what is held have left.
    fn has_left(&mut self, bytes: usize) {
        let of_head = bytes.min(self.head.len());
        self.head.advance(of_head);
        let of_content = (bytes - of_head).min(self.content.len());
        self.content.advance(of_content);
        self.tail = &self.tail[bytes - of_head - of_content..];
        if let Left::Whole { meter, copied } = &mut self.rest {
            meter.add(of_content);
            if self.head.is_empty() {
                meter.add(std::mem::take(copied));
            }
        }
    }

    /// Holds the next piece of the content, behind all that was held before; ready with nothing held
    /// where there is no more.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (body, is_chunked) = match &mut self.rest {
            Left::Whole { .. } | Left::Nothing => return Poll::Ready(Ok(())),
            Left::Length { body, .. } => (body, false),
            Left::Chunks(body) => (body, true),
        };
        // Trailers are for those who asked for them, and nobody did who comes this way.
        let piece = loop {
            match ready!(Pin::new(&mut *body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => break Some(data),
                    Err(_trailers) => {}
                },
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => break None,
            }
        };
        let mut is_last = piece.is_none() || body.is_end_stream();
        let piece = piece.unwrap_or_default();
        if is_chunked {
            if !piece.is_empty() {
                let mut size = String::with_capacity(16);
                // Writing into a String cannot fail.
                let _ = write!(size, "{:x}\r\n", piece.len());
                self.head = size.into();
            }
            self.tail = match (piece.is_empty(), is_last) {
                (true, _) => b"0\r\n\r\n",
                (false, true) => b"\r\n0\r\n\r\n",
                (false, false) => b"\r\n",
            };
        } else if let Left::Length { bytes, .. } = &mut self.rest {
            let left = bytes.checked_sub(piece.len() as u64);
            match left.filter(|left| *left == 0 || !is_last) {
                Some(left) => (*bytes, is_last) = (left, left == 0),
                None => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
        }
        if is_last {
            // Dropped: whoever counts the answer knows that it is over.
            self.rest = Left::Nothing;
        }
        self.content = piece;
        Poll::Ready(Ok(()))
    }
}

fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    context: &mut Context<'_>,
    pieces: [&[u8]; 3],
) -> Poll<io::Result<usize>> {
    let stream = Pin::new(stream);
    let written = ready!(match pieces {
        [one, [], []] | [[], one, []] | [[], [], one] => stream.poll_write(context, one),
        [head, content, tail] => {
            let slices = [head, content, tail].map(IoSlice::new);
            stream.poll_write_vectored(context, &slices)
        }
    })?;
    Poll::Ready(match written {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    })
}
