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
    /// All that is to come has been written, and some of it may be held below.
    flushing: bool,
    /// Bytes that have left since the first were written.
    taken: u64,
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
            taken: 0,
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

    /// See [`super::direct::Direct::untaken`].
    pub(super) fn untaken(&self) -> Option<u64> {
        (self.flushing || self.bytes_left() > 0).then_some(self.taken)
    }

    /// Bytes that are here and have not left.
    fn bytes_left(&self) -> usize {
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
        self.taken += bytes as u64;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// A client that takes as much as there is `room` for; what it has taken may be held on the way, as
    /// TLS does.
    struct Client {
        room: usize,
        holds: bool,
    }

    impl AsyncWrite for Client {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            match taken {
                0 => Poll::Pending,
                taken => Poll::Ready(Ok(taken)),
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.holds {
                true => Poll::Pending,
                false => Poll::Ready(Ok(())),
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn begun(client: &mut Client, pieces: &[&'static [u8]]) -> Sending {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let pieces: Vec<_> = pieces.iter().copied().map(Bytes::from_static).collect();
        let rest = Rest::Streamed {
            body: Body::stored(pieces, None),
            framing: Framing::Length(bytes),
        };
        let mut head = b"head".to_vec();
        Sending::begin(&mut head, rest, client, &mut nobody()).unwrap()
    }

    fn nobody() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn who_takes_a_piece_takes_something_though_the_next_is_larger() {
        let mut client = Client {
            room: 8,
            holds: false,
        };
        let mut sending = begun(&mut client, &[b"12345678", &[b'x'; 5_000], &[b'y'; 5_000]]);
        for room in [8, 5_000, 1] {
            let (before, left) = (sending.untaken(), sending.bytes_left());
            assert!(before.is_some());
            client.room = room;
            assert!(sending.poll_send(&mut client, &mut nobody()).is_pending());
            assert_ne!(sending.untaken(), before, "{left} {}", sending.bytes_left());
        }
        let before = sending.untaken();
        assert!(sending.poll_send(&mut client, &mut nobody()).is_pending());
        assert_eq!(sending.untaken(), before, "now it takes nothing");
        client.room = 5_000;
        assert!(sending.poll_send(&mut client, &mut nobody()).is_ready());
    }

    #[test]
    fn what_is_held_on_the_way_is_not_taken() {
        let mut client = Client {
            room: usize::MAX,
            holds: true,
        };
        let mut sending = begun(&mut client, &[b"all"]);
        assert!(sending.poll_send(&mut client, &mut nobody()).is_pending());
        assert_eq!(sending.bytes_left(), 0);
        assert!(sending.untaken().is_some());
        client.holds = false;
        assert!(sending.poll_send(&mut client, &mut nobody()).is_ready());
    }
}
