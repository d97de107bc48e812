//! A client's connection with its patience: how long a head, a body and a reader may take, and how
//! it is closed. Shows what it reads to [`Heads`] on the way, and to [`Direct`] first, where hyper
//! has nothing under way. Puts interim answers between what hyper writes.
//!
//! Timers exist only while something is late; a request that comes in one piece sets none.

use super::direct::Direct;
use super::heads::{Awaited, Heads, Watch};
use bytes::{Buf, Bytes, BytesMut};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// From a connection's beginning to its first byte, and between two requests.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(75);
/// From the first byte of a head to its last.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A body has to bring [`BODY_BYTES_MIN`] in every second one of these.
const BODY_TIME: Duration = Duration::from_secs(15);
/// What is asked of a body in its time, in bytes: less than the slowest of phones sends.
const BODY_BYTES_MIN: usize = 1024;
/// A reader that takes nothing for so long has gone.
const WRITE_TIME: Duration = Duration::from_secs(60);
/// What is read at once before hyper is there, in bytes.
const FIRST_BYTES_MAX: usize = 16 * 1024;
/// What is kept of what a client says while it waits for an answer, in bytes.
const AHEAD_BYTES_MAX: usize = 2 * 1024;
/// What is gathered of an HTTP/2 connection's frames before they are written, in bytes.
const GATHERED_BYTES_MAX: usize = 64 * 1024;
/// Slices of one write.
const PIECES_MAX: usize = 16;
/// Room for it at first, in bytes.
const GATHERED_BYTES: usize = 12 * 1024;
/// How long what a refused client still sends is read and thrown away, lest the reset that an unread
/// byte causes should overtake the answer (RFC 9112 §9.6).
const LINGER_TIME: Duration = Duration::from_secs(2);
/// And how much of it, in bytes.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// A client's stream.
#[derive(Debug)]
pub(super) struct ClientStream<S> {
    inner: S,
    watch: Arc<Watch>,
    heads: Heads,
    direct: Option<Direct>,
    /// What was read before hyper was there.
    early: Bytes,
    /// What came while an answer that hyper does not know of was on its way: not looked at yet.
    ahead: Bytes,
    /// Nothing that hyper has written waits to be sent, and it has nothing under way.
    quiet: bool,
    /// What HTTP/2 wrote in one turn of the connection's task: it goes out in the next.
    gathered: BytesMut,
    /// That turn.
    gathered_in: u64,
    /// What is still to be written of interim answers.
    interim: Bytes,
    reading: Option<Wait>,
    writing: Option<Pin<Box<Sleep>>>,
    lingering: Option<Linger>,
}

/// A wait for more of something.
#[derive(Debug)]
struct Wait {
    awaited: Awaited,
    sleep: Pin<Box<Sleep>>,
    /// Bytes that came since the timer was set.
    bytes: usize,
    /// It brought too little already once.
    warned: bool,
}

#[derive(Debug)]
struct Linger {
    sleep: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S> ClientStream<S> {
    pub(super) fn new(inner: S, watch: Arc<Watch>, direct: Option<Direct>) -> Self {
        Self {
            inner,
            watch,
            heads: Heads::new(),
            direct,
            early: Bytes::new(),
            ahead: Bytes::new(),
            quiet: true,
            gathered: BytesMut::new(),
            gathered_in: 0,
            interim: Bytes::new(),
            reading: None,
            writing: None,
            lingering: None,
        }
    }

    fn has_read(&mut self, bytes: &[u8]) {
        self.heads.read(bytes, &self.watch);
        if let Some(wait) = &mut self.reading {
            wait.bytes += bytes.len();
            if wait.awaited != self.heads.awaited() {
                self.reading = None;
            }
        }
    }

    /// Whether the client has let us wait too long.
    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        let awaited = self.heads.awaited();
        let limit = match awaited {
            Awaited::Anything => IDLE_TIME,
            Awaited::NextHead if self.quiet => IDLE_TIME,
            Awaited::RestOfHead => HEAD_TIME,
            Awaited::Body => BODY_TIME,
            Awaited::NextHead | Awaited::Unknown => return false,
        };
        let wait = self.reading.get_or_insert_with(|| Wait {
            awaited,
            sleep: Box::pin(tokio::time::sleep(limit)),
            bytes: 0,
            warned: false,
        });
        while wait.sleep.as_mut().poll(context).is_ready() {
            // The app may have made a body wait: then the first look back says nothing. And where
            // requests came in between, the wait is a new one.
            let (slow, late) = match awaited {
                Awaited::Body => (wait.bytes < BODY_BYTES_MIN, wait.warned),
                Awaited::Anything | Awaited::NextHead => (wait.bytes == 0, true),
                _ => (true, true),
            };
            if slow && late {
                return true;
            }
            (wait.bytes, wait.warned) = (0, slow);
            wait.sleep.as_mut().reset(Instant::now() + limit);
        }
        false
    }

    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.writing = None;
            return polled;
        }
        let sleep = self
            .writing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIME)));
        sleep
            .as_mut()
            .poll(context)
            .map(|()| Err(late("the client takes nothing")))
    }
}

thread_local! {
    /// Where a connection's first bytes are read to: one a worker, however many connections it has.
    static FIRST: RefCell<Vec<u8>> = RefCell::new(vec![0; FIRST_BYTES_MAX]);
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    /// Serves what can be answered without hyper, until something comes that cannot: hyper will read
    /// it from here. `false`: the client has gone before that.
    ///
    /// Errors: the connection broke, the client was too slow, or an answer was.
    pub(super) async fn needs_hyper(&mut self) -> io::Result<bool> {
        let read = poll_fn(|context| {
            FIRST.with_borrow_mut(|room| {
                let mut buffer = ReadBuf::new(room);
                ready!(Pin::new(&mut *self).poll_read(context, &mut buffer))?;
                self.early = Bytes::copy_from_slice(buffer.filled());
                Poll::Ready(io::Result::Ok(()))
            })
        });
        read.await.map(|()| !self.early.is_empty())
    }

    /// Sends what is left of an answer that hyper does not know of, waits for it if need be, and closes.
    pub(super) async fn finish(&mut self) {
        let _ = poll_fn(|context| Pin::new(&mut *self).poll_shutdown(context)).await;
    }

    fn is_closing(&self) -> bool {
        self.direct.as_ref().is_some_and(Direct::is_closing)
    }

    /// Whether what is read next may be answered without hyper.
    fn may_be_direct(&self) -> bool {
        self.direct.is_some() && self.quiet && self.heads.are_all_answered(&self.watch)
    }

    /// Writes interim answers to their end: nothing else may come into the middle of one.
    fn poll_interim(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.interim.has_remaining() {
            let polled = Pin::new(&mut self.inner).poll_write(context, &self.interim);
            match ready!(self.written(context, polled))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.interim.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether so many more bytes are to be kept until this turn is over: hyper flushes after every
    /// frame, and a system call costs more than the copy. Makes room for them, and sees to another turn.
    fn gathers(&mut self, bytes: usize, context: &mut Context<'_>) -> bool {
        let Some(turn) = self.watch.turn() else {
            return false;
        };
        if self.gathered.len() + bytes > GATHERED_BYTES_MAX {
            return false;
        }
        if self.gathered.is_empty() {
            self.gathered.reserve(GATHERED_BYTES.max(bytes));
            self.gathered_in = turn;
            context.waker().wake_by_ref();
        }
        true
    }

    /// Writes what was gathered to its end.
    fn poll_gathered(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.gathered.is_empty() {
            let polled = Pin::new(&mut self.inner).poll_write(context, &self.gathered);
            match ready!(self.written(context, polled))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.gathered.advance(written),
            }
        }
        // An idle connection keeps no room.
        self.gathered = BytesMut::new();
        let polled = Pin::new(&mut self.inner).poll_flush(context);
        self.written(context, polled)
    }

    /// Ready when no answer that hyper does not know of is on its way.
    fn poll_direct(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(direct) = self.direct.as_mut().filter(|direct| direct.is_answering()) else {
            return Poll::Ready(Ok(()));
        };
        let before = direct.untaken();
        let polled = direct.poll_answer(&mut self.inner, context);
        let untaken = direct.untaken();
        if untaken != before {
            // Slow, but it takes: only who takes nothing at all is given up.
            self.writing = None;
        }
        let polled = if polled.is_pending() && untaken.is_none() {
            self.poll_gone(context)
        } else {
            self.written(context, polled)
        };
        if let (Poll::Ready(Err(_)), Some(direct)) = (&polled, &mut self.direct) {
            // Not even its end is sent: who has a part of it sees that it is one.
            direct.give_up();
        }
        polled
    }

    /// Listens to a client that waits for an answer: fails where it has gone. What else it says is kept
    /// until that has left.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            return Poll::Pending;
        }
        let mut room = [const { MaybeUninit::uninit() }; AHEAD_BYTES_MAX];
        let mut buffer = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.ahead = Bytes::copy_from_slice(buffer.filled());
        Poll::Pending
    }

    /// What the client has said next.
    fn poll_said(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let bytes = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(bytes));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.early.is_empty() {
            let bytes = this.early.len().min(buffer.remaining());
            buffer.put_slice(&this.early[..bytes]);
            this.early.advance(bytes);
            return Poll::Ready(Ok(()));
        }
        // Even while the client takes nothing, it is listened to.
        if this.watch.turn() != Some(this.gathered_in)
            && let Poll::Ready(Err(error)) = this.poll_gathered(context)
        {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        loop {
            ready!(this.poll_direct(context))?;
            if this.is_closing() {
                // What may come behind the last request is none.
                return Poll::Ready(Ok(()));
            }
            match this.poll_said(context, buffer) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if this.is_late(context) => {
                    // Who does not begin has done no wrong.
                    return Poll::Ready(match this.heads.awaited() {
                        Awaited::Anything | Awaited::NextHead => Ok(()),
                        _ => Err(late("the client sends too slowly")),
                    });
                }
                Poll::Pending => return Poll::Pending,
            }
            let bytes = &buffer.filled()[before..];
            if this.may_be_direct()
                && let Some(direct) = &mut this.direct
                && direct.takes(bytes, &mut this.inner, context)?
            {
                if let Some(wait) = &mut this.reading {
                    wait.bytes += bytes.len();
                }
                buffer.set_filled(before);
                continue;
            }
            this.quiet = false;
            this.has_read(&buffer.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.quiet = false;
        if this.gathers(bytes.len(), context) {
            this.gathered.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(this.poll_gathered(context))?;
        ready!(this.poll_interim(context))?;
        let polled = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.written(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.quiet = false;
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if this.gathers(bytes, context) {
            for slice in slices {
                this.gathered.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(bytes));
        }
        while !this.gathered.is_empty() {
            // What does not fit any more leaves behind what was gathered, in the same call.
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let all = [IoSlice::new(&this.gathered)]
                .into_iter()
                .chain(slices.iter().copied());
            let count = pieces
                .iter_mut()
                .zip(all)
                .map(|(to, from)| *to = from)
                .count();
            let polled = Pin::new(&mut this.inner).poll_write_vectored(context, &pieces[..count]);
            let written = ready!(this.written(context, polled))?;
            let of_gathered = written.min(this.gathered.len());
            this.gathered.advance(of_gathered);
            if this.gathered.is_empty() {
                // An idle connection keeps no room.
                this.gathered = BytesMut::new();
            }
            match (written, written - of_gathered) {
                (0, _) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                (_, 0) => {}
                (_, of_slices) => return Poll::Ready(Ok(of_slices)),
            }
        }
        ready!(this.poll_interim(context))?;
        let polled = Pin::new(&mut this.inner).poll_write_vectored(context, slices);
        this.written(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.gathered.is_empty() {
            // The next turn sends it.
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_direct(context))?;
        ready!(this.poll_interim(context))?;
        let polled = Pin::new(&mut this.inner).poll_flush(context);
        // hyper flushes only what it has handed over to the last byte.
        this.quiet = polled.is_ready() && this.heads.are_all_answered(&this.watch);
        ready!(this.written(context, polled))?;
        if this.watch.is_answering()
            && let Some(heads) = this.watch.interims.take(this.watch.place())
        {
            this.interim = heads.into();
            ready!(this.poll_interim(context))?;
            let polled = Pin::new(&mut this.inner).poll_flush(context);
            return this.written(context, polled);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            if let Some(direct) = &mut this.direct {
                direct.close();
            }
            ready!(this.poll_gathered(context))?;
            ready!(this.poll_direct(context))?;
            let polled = Pin::new(&mut this.inner).poll_shutdown(context);
            ready!(this.written(context, polled))?;
            let sends_on = matches!(this.heads.awaited(), Awaited::RestOfHead | Awaited::Body);
            if !sends_on && !this.watch.has_refused() {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.lingering.get_or_insert_with(|| Linger {
            sleep: Box::pin(tokio::time::sleep(LINGER_TIME)),
            bytes: 0,
        });
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut this.inner).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    linger.bytes += buffer.filled().len();
                    if linger.bytes > LINGER_BYTES_MAX {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return linger.sleep.as_mut().poll(context).map(Ok),
            }
        }
    }
}

fn late(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn pair() -> (ClientStream<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(64);
        (ClientStream::new(ours, Arc::default(), None), theirs)
    }

    /// Reads to the end, or until the client was too slow.
    async fn fate(mut stream: ClientStream<DuplexStream>) -> (io::ErrorKind, Duration) {
        let began = Instant::now();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).await;
        let kind = end.map_or_else(|error| error.kind(), |_| io::ErrorKind::UnexpectedEof);
        (kind, began.elapsed())
    }

    /// Sends `bytes` again and again, with pauses.
    fn trickle(mut client: DuplexStream, first: &'static str, bytes: &'static str, pause: u64) {
        tokio::spawn(async move {
            let _ = client.write_all(first.as_bytes()).await;
            loop {
                tokio::time::sleep(Duration::from_secs(pause)).await;
                if client.write_all(bytes.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_ten_seconds_however_often_a_byte_comes() {
        let (stream, client) = pair();
        trickle(client, "GET / HTTP/1.1\r\n", "x", 1);
        assert_eq!(fate(stream).await, (io::ErrorKind::TimedOut, HEAD_TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_has_as_long_as_an_idle_one() {
        let (stream, _client) = pair();
        assert_eq!(
            fate(stream).await,
            (io::ErrorKind::UnexpectedEof, IDLE_TIME)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn between_two_requests_the_client_has_as_long() {
        const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let (mut stream, mut client) = pair();
        client.write_all(HEAD).await.unwrap();
        stream.read_exact(&mut [0; HEAD.len()]).await.unwrap();
        assert!(stream.watch.judge().is_ok());
        // As long as the answer takes, nobody is late.
        let more = tokio::time::timeout(IDLE_TIME * 3, stream.read(&mut [0; 8])).await;
        assert!(more.is_err());
        stream.watch.answered();
        stream.flush().await.unwrap();
        let (kind, after) = fate(stream).await;
        assert_eq!(kind, io::ErrorKind::UnexpectedEof);
        assert!((IDLE_TIME..=IDLE_TIME * 2).contains(&after), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_to_move() {
        const HEAD: &str = "POST / HTTP/1.1\r\nContent-Length: 4000\r\n\r\n";
        let (stream, client) = pair();
        trickle(client, HEAD, "x", 1);
        let (kind, after) = fate(stream).await;
        assert_eq!((kind, after), (io::ErrorKind::TimedOut, BODY_TIME * 2));
        let (mut stream, client) = pair();
        trickle(
            client,
            HEAD,
            "0123456789012345678901234567890123456789012345678901234567890123456789",
            1,
        );
        let mut bytes = vec![0; HEAD.len() + 4000];
        assert!(
            stream.read_exact(&mut bytes).await.is_ok(),
            "slow, and fast enough"
        );
    }

    #[tokio::test]
    async fn an_interim_answer_stands_between_two_messages_however_slowly_it_is_taken() {
        let (mut stream, mut client) = pair();
        let watch = stream.watch.clone();
        let head = "x".repeat(300);
        let mut fields = http::HeaderMap::new();
        fields.insert("a", head.parse().unwrap());
        let hints = http::StatusCode::EARLY_HINTS;
        let reader = tokio::spawn(async move {
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).await.unwrap();
            String::from_utf8(bytes).unwrap()
        });
        watch.interims.to(1).send(hints, &fields);
        stream.flush().await.unwrap();
        assert!(watch.judge().is_ok());
        watch.set_answering(true);
        watch.interims.to(1).send(hints, &fields);
        stream
            .write_all(b"[the end of what was before]")
            .await
            .unwrap();
        stream.flush().await.unwrap();
        watch.set_answering(false);
        watch.interims.to(1).send(hints, &fields);
        stream.write_all(b"[the answer]").await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
        let interim = format!("HTTP/1.1 103 Early Hints\r\na: {head}\r\n\r\n");
        assert_eq!(
            reader.await.unwrap(),
            format!("[the end of what was before]{interim}{interim}[the answer]")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let (mut stream, _client) = pair();
        let began = Instant::now();
        let error = stream.write_all(&[0; 65]).await.unwrap_err();
        assert_eq!(
            (error.kind(), began.elapsed()),
            (io::ErrorKind::TimedOut, WRITE_TIME)
        );
    }

    /// A connection of which nothing more can be read.
    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(late("it is broken")))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn how_a_connection_ends_is_told_before_hyper_is_there_too() {
        let mut stream = ClientStream::new(Broken, Arc::default(), None);
        let error = stream.needs_hyper().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (mut stream, _client) = pair();
        assert!(
            !stream.needs_hyper().await.unwrap(),
            "who does not begin has done no wrong"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_refused_client_still_sends_is_thrown_away_for_a_while() {
        let (mut stream, client) = pair();
        stream.watch.refuse();
        trickle(client, "", "x", 1);
        let began = Instant::now();
        assert!(stream.shutdown().await.is_ok());
        assert_eq!(began.elapsed(), LINGER_TIME);
        let (mut stream, _client) = pair();
        let began = Instant::now();
        assert!(stream.shutdown().await.is_ok());
        assert_eq!(began.elapsed(), Duration::ZERO, "others are closed at once");
    }

    /// One turn of a connection's task, in which HTTP/2 writes `frames`, each with a flush behind it.
    async fn turn(stream: &mut ClientStream<DuplexStream>, frames: &[&[u8]]) {
        stream.watch.next_turn();
        poll_fn(|context| {
            let mut room = [0; 8];
            let read = Pin::new(&mut *stream).poll_read(context, &mut ReadBuf::new(&mut room));
            assert!(read.is_pending(), "the client says nothing");
            Poll::Ready(())
        })
        .await;
        for frame in frames {
            stream.write_all(frame).await.unwrap();
            stream.flush().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_http_2_writes_in_one_turn_leaves_together_in_the_next() {
        let (mut stream, mut client) = pair();
        stream.write_all(b"0").await.unwrap();
        stream.watch.gather();
        turn(&mut stream, &[b"1", b"2", b"3"]).await;
        let mut room = [0; 64];
        assert_eq!(client.read(&mut room).await.unwrap(), 1, "not these yet");
        turn(&mut stream, &[b"4"]).await;
        assert_eq!(client.read(&mut room).await.unwrap(), 3);
        assert_eq!(&room[..3], b"123");
        stream.shutdown().await.unwrap();
        assert_eq!(
            client.read(&mut room).await.unwrap(),
            1,
            "nor is the last lost"
        );
        assert_eq!(
            stream.gathered.capacity(),
            0,
            "an idle connection keeps no room"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_gathered_than_is_allowed() {
        let (mut stream, mut client) = pair();
        stream.watch.gather();
        let large = vec![b'x'; GATHERED_BYTES_MAX];
        let all = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.map(|_| all)
        });
        turn(&mut stream, &[b"1", &large, b"2"]).await;
        assert!(stream.gathered.len() <= GATHERED_BYTES_MAX);
        stream.shutdown().await.unwrap();
        let all = all.await.unwrap().unwrap();
        assert_eq!(all.len(), large.len() + 2);
        assert!(
            all.starts_with(b"1x") && all.ends_with(b"x2"),
            "in their order"
        );
    }
}
