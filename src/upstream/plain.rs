//! Plain exchanges: a request that is whole and here, and its answer, on a connection of our own that has
//! no task. Bytes move when whoever wants them asks.
//!
//! Uploads that stream and connections that are handed over are hyper's (see `streamed`).

use super::body::ResponseBody;
use super::cause::{Failure, Repeat};
use super::check;
use super::connect::Stream;
use super::head::{self, RequestFields, RequestHead};
use super::pool::{Line, Pool, State};
use super::{Address, INTERIM_MAX, UpstreamError};
use crate::clock::Alarm;
use bytes::{Buf, Bytes, BytesMut};
use http::{Response, StatusCode, response};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Room for what is read at once, in bytes; an idle connection keeps no more.
const READ_BYTES: usize = 8 * 1024;
/// The same where more content is to come.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Room for less is not worth a call.
const READ_BYTES_MIN: usize = 1024;
/// Content up to this size is copied out of the buffer, which then serves again; what is larger is
/// sliced, and the buffer goes with it. An app that says a byte at a time would else have a buffer held
/// for each.
const COPIED_BYTES_MAX: usize = 4 * 1024;
/// What an idle connection keeps of its buffer for requests, in bytes.
const WRITE_BYTES: usize = 2 * 1024;

/// A connection to the app.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    /// Read and not taken yet.
    read: BytesMut,
    /// The request, of which `written` bytes have left.
    request: Vec<u8>,
    written: usize,
    flushed: bool,
    alarm: Alarm,
}

/// Why no head came.
#[derive(Debug)]
enum NoHead {
    Malformed(head::Malformed),
    Closed(io::Error),
}

/// One request and the head of its answer.
pub(super) async fn exchange<F: RequestFields>(
    address: &Arc<Address>,
    pool: &Arc<Pool<Box<Wire>>>,
    mut wire: Box<Wire>,
    head: &RequestHead<'_, F>,
    content: &[u8],
) -> Result<Response<ResponseBody>, Failure> {
    wire.begin(head, content);
    let timeout = address.settings.timeout;
    let until = Instant::now() + timeout;
    let (mut incoming, mut interims) = (head::Incoming::default(), 0);
    let mut parts = loop {
        let came = poll_fn(|context| match wire.poll_head(context, &mut incoming) {
            Poll::Ready(came) => Poll::Ready(Some(came)),
            Poll::Pending => wire.alarm.poll_over(context, until).map(|()| None),
        });
        let parts = match came.await {
            Some(Ok(parts)) => parts,
            Some(Err(NoHead::Malformed(error))) => {
                let cause = format!("its answer breaks HTTP: {error}");
                return Err(Failure::new(UpstreamError::Protocol("head"), cause));
            }
            Some(Err(NoHead::Closed(error))) => {
                let cause = format!("it closed the connection before an answer: {error}");
                return Err(Failure {
                    repeat: wire.repeat(interims),
                    ..Failure::new(UpstreamError::Reset, cause)
                });
            }
            None => {
                let cause = format!("no response head within {timeout:?}");
                return Err(Failure::new(UpstreamError::Timeout, cause));
            }
        };
        if !is_interim(parts.status) {
            break parts;
        }
        interims += 1;
        if interims > INTERIM_MAX {
            return Err(UpstreamError::Protocol("interim").into());
        }
        if let Some(interim) = head.interim {
            interim.send(parts.status, &parts.headers);
        }
    };
    let framing = check::head(head.method, false, &mut parts)?;
    let home = pool.lend(address, wire, &parts.headers, framing.reusable);
    let body = ResponseBody::plain(home, framing.content);
    Ok(Response::from_parts(parts, body))
}

/// Takes this many bytes off the front of those that are there.
pub(super) fn piece(bytes: &mut BytesMut, length: usize) -> Bytes {
    if length > COPIED_BYTES_MAX {
        return bytes.split_to(length).freeze();
    }
    let piece = Bytes::copy_from_slice(&bytes[..length]);
    bytes.advance(length);
    piece
}

/// Another answer to the same request follows (RFC 9110 §15.2). A 101 is the last one.
fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

impl Wire {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            request: Vec::new(),
            written: 0,
            flushed: true,
            alarm: Alarm::default(),
        }
    }

    /// Takes off up to `bytes_max` bytes of what has come; `None` where nothing has.
    pub fn take(&mut self, bytes_max: u64) -> Option<Bytes> {
        let taken = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let taken = taken.min(self.read.len());
        (taken > 0).then(|| piece(&mut self.read, taken))
    }

    /// The same for content of this `length`, if all of it has come.
    pub fn take_whole(&mut self, length: u64) -> Option<Bytes> {
        let length = usize::try_from(length).ok()?;
        (length <= self.read.len()).then(|| piece(&mut self.read, length))
    }

    /// What has come and nobody has taken.
    pub fn unread(&mut self) -> &mut BytesMut {
        &mut self.read
    }

    /// The request has left, and nothing lies behind the answer.
    pub fn is_at_an_end(&self) -> bool {
        self.read.is_empty() && self.has_sent()
    }

    /// Reads on, and returns how many bytes came, 0 at the end; `left` are expected. What the app has
    /// yet to take of the request is sent meanwhile.
    pub fn poll_more(&mut self, context: &mut Context<'_>, left: u64) -> Poll<io::Result<usize>> {
        if !self.has_sent() {
            self.send(context);
        }
        // An empty buffer begins anew, if nobody holds a slice of it.
        if self.read.is_empty() || self.read.capacity() - self.read.len() < READ_BYTES_MIN {
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            self.read.reserve(left.clamp(READ_BYTES, READ_BYTES_MAX));
        }
        pin!(self.stream.read_buf(&mut self.read)).poll(context)
    }

    fn begin<F: RequestFields>(&mut self, head: &RequestHead<'_, F>, content: &[u8]) {
        self.request.clear();
        head.write(content, &mut self.request);
        (self.written, self.flushed) = (0, false);
    }

    fn has_sent(&self) -> bool {
        self.written == self.request.len() && self.flushed
    }

    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        incoming: &mut head::Incoming,
    ) -> Poll<Result<response::Parts, NoHead>> {
        loop {
            match incoming.take(&mut self.read) {
                Ok(Some(parts)) => return Poll::Ready(Ok(parts)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(NoHead::Malformed(error))),
            }
            match ready!(self.poll_more(context, 0)) {
                Ok(0) => {
                    let cut = io::ErrorKind::UnexpectedEof.into();
                    return Poll::Ready(Err(NoHead::Closed(cut)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(NoHead::Closed(error))),
            }
        }
    }

    /// Sends as much of the request as the app takes. That it takes no more says nothing yet: it may
    /// have answered before it closed, and if not, reading says so.
    fn send(&mut self, context: &mut Context<'_>) {
        let mut stream = Pin::new(&mut self.stream);
        while self.written < self.request.len() {
            let rest = &self.request[self.written..];
            match stream.as_mut().poll_write(context, rest) {
                Poll::Ready(Ok(written @ 1..)) => self.written += written,
                _ => return,
            }
        }
        self.flushed = matches!(stream.poll_flush(context), Poll::Ready(Ok(())));
    }

    /// Whether a request that was not answered may be made again.
    fn repeat(&self, interims: u32) -> Repeat {
        match (self.written, interims, self.read.is_empty()) {
            (0, ..) => Repeat::Unsent,
            (_, 0, true) => Repeat::Unpromised,
            _ => Repeat::Never,
        }
    }
}

impl Line for Box<Wire> {
    /// Costs no system call where nothing has happened.
    fn state(&mut self) -> State {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let said = poll_fn(|context| Pin::new(&mut self.stream).poll_read(context, &mut byte));
        // Beside tokio's budget: who has used that up would be told that nothing has happened.
        let said = pin!(tokio::task::unconstrained(said));
        match said.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => State::Ready,
            Poll::Ready(_) => State::Useless,
        }
    }

    fn rest(&mut self) {
        if self.read.capacity() > READ_BYTES {
            self.read = BytesMut::new();
        }
        if self.request.capacity() > WRITE_BYTES {
            self.request = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::{Home, SWEEP_PAUSE};
    use super::super::{Address, BrokenOff};
    use super::*;
    use crate::config::settings::{MaxInFlight, Upstream as Settings, UpstreamTarget};
    use http::{HeaderMap, Method, Uri};
    use http_body::Body;
    use http_body_util::BodyExt;
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    type Wires = Arc<Pool<Box<Wire>>>;

    fn address() -> Arc<Address> {
        Arc::new(Address::new(Settings {
            target: UpstreamTarget::Unix("/nowhere".into()),
            health: None,
            timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            max_in_flight: MaxInFlight::Adaptive,
        }))
    }

    fn wire() -> (Box<Wire>, UnixStream) {
        let (ours, app) = UnixStream::pair().unwrap();
        (Box::new(Wire::new(Stream::Unix(ours))), app)
    }

    async fn ask(
        address: &Arc<Address>,
        pool: &Wires,
        wire: Box<Wire>,
        method: Method,
    ) -> Result<Response<ResponseBody>, Failure> {
        let head = RequestHead {
            method: &method,
            target: &Uri::from_static("/"),
            fields: &HeaderMap::new(),
            interim: None,
            upgrade: false,
        };
        exchange(address, pool, wire, &head, b"").await
    }

    /// What becomes of an answer that comes in these pieces, behind which the app closes if `closes`:
    /// its content, and whether its connection may serve again.
    async fn answered<'a>(
        method: Method,
        pieces: impl IntoIterator<Item = &'a [u8]>,
        closes: bool,
    ) -> Result<(Vec<u8>, bool), String> {
        let (address, pool) = (address(), Wires::default());
        let (wire, mut app) = wire();
        let mut asking = Box::pin(async {
            let answer = ask(&address, &pool, wire, method).await;
            let answer = answer.map_err(|failure| failure.cause)?;
            let content = answer.into_body().collect().await;
            Ok::<_, String>(content.map_err(|error| error.to_string())?.to_bytes())
        });
        let mut ended = None;
        for piece in pieces {
            if ended.is_none() {
                app.write_all(piece).await.unwrap();
                ended = poll_fn(|context| {
                    Poll::Ready(match asking.as_mut().poll(context) {
                        Poll::Ready(ended) => Some(ended),
                        Poll::Pending => None,
                    })
                })
                .await;
            }
        }
        // What it sent must not be lost with what it was sent and did not read.
        let mut request = Vec::new();
        let _ = tokio::time::timeout(Duration::ZERO, app.read_buf(&mut request)).await;
        let kept = if closes {
            drop(app);
            None
        } else {
            Some(app)
        };
        let content = match ended {
            Some(ended) => ended?,
            None => asking.await?,
        };
        drop(kept);
        Ok((content.to_vec(), pool.count() > 0))
    }

    async fn whole(answer: &str) -> Result<(Vec<u8>, bool), String> {
        answered(Method::GET, [answer.as_bytes()], true).await
    }

    #[tokio::test]
    async fn each_way_to_say_where_the_content_ends_is_understood() {
        let ok = "HTTP/1.1 200 OK\r\n";
        for (answer, content, reusable) in [
            (format!("{ok}Content-Length: 3\r\n\r\nabc"), "abc", true),
            (format!("{ok}Content-Length: 0\r\n\r\n"), "", true),
            (
                format!("{ok}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
                "abc",
                true,
            ),
            (format!("{ok}\r\nabc"), "abc", false),
            ("HTTP/1.1 204 No\r\n\r\n".into(), "", true),
            (
                "HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\n".into(),
                "",
                true,
            ),
            (
                format!("{ok}Connection: close\r\nContent-Length: 3\r\n\r\nabc"),
                "abc",
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc".into(),
                "abc",
                false,
            ),
            (
                format!("HTTP/1.1 103 Hm\r\nLink: a\r\n\r\n{ok}Content-Length: 1\r\n\r\nx"),
                "x",
                true,
            ),
        ] {
            let expected = (content.as_bytes().to_vec(), reusable);
            assert_eq!(whole(&answer).await, Ok(expected), "{answer:?}");
        }
        let head = format!("{ok}Content-Length: 3\r\n\r\n");
        let head = answered(Method::HEAD, [head.as_bytes()], true).await;
        assert_eq!(head, Ok((Vec::new(), true)));
    }

    #[tokio::test]
    async fn a_connection_with_something_behind_the_answer_serves_no_other() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx",
            "HTTP/1.1 204 No\r\n\r\nx",
            "HTTP/1.1 304 No\r\nContent-Length: 1\r\n\r\nx",
        ] {
            let (_, reusable) = whole(answer).await.unwrap();
            assert!(!reusable, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn what_was_cut_is_never_whole() {
        let long = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{}",
            "x".repeat(8_999)
        );
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Le",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            "HTTP/1.1 103 Hm\r\n\r\n",
            &long,
        ] {
            assert!(whole(answer).await.is_err(), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn interim_answers_are_counted() {
        let answer = |count| {
            let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(count);
            format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
        };
        let most = INTERIM_MAX as usize;
        assert!(whole(&answer(most)).await.is_ok());
        assert!(whole(&answer(most + 1)).await.is_err());
        let switched = "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        assert!(whole(switched).await.is_err(), "nobody asked");
    }

    #[tokio::test]
    async fn only_what_cannot_have_been_answered_is_repeated() {
        let (address, pool) = (address(), Wires::default());
        let (closed, app) = wire();
        drop(app);
        let failure = ask(&address, &pool, closed, Method::GET).await.unwrap_err();
        assert_eq!(failure.repeat, Repeat::Unsent);
        for (said, repeat) in [
            ("", Repeat::Unpromised),
            ("HTTP/1.1 20", Repeat::Never),
            ("HTTP/1.1 103 Hm\r\n\r\n", Repeat::Never),
        ] {
            let (wire, mut app) = wire();
            let talk = async {
                let mut request = Vec::new();
                app.read_buf(&mut request).await.unwrap();
                app.write_all(said.as_bytes()).await.unwrap();
                drop(app);
            };
            let (asked, ()) = tokio::join!(ask(&address, &pool, wire, Method::GET), talk);
            let failure = asked.unwrap_err();
            assert_eq!(
                (failure.error, failure.repeat),
                (UpstreamError::Reset, repeat)
            );
        }
    }

    fn home(wire: Box<Wire>, pool: &Wires, address: &Arc<Address>) -> Home<Box<Wire>> {
        pool.lend(address, wire, &HeaderMap::new(), true)
    }

    #[tokio::test]
    async fn an_idle_connection_that_has_something_to_say_is_not_used() {
        let (address, pool) = (address(), Wires::default());
        for said in [Some(b"HTTP/1.1 408 Timeout\r\n\r\n".as_slice()), None] {
            let (wire, mut app) = wire();
            home(wire, &pool, &address).give_back();
            match said {
                Some(said) => app.write_all(said).await.unwrap(),
                None => app.shutdown().await.unwrap(),
            }
            // The runtime has to hear of it first.
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(pool.take(&address).is_none());
            assert_eq!(pool.count(), 0);
        }
        let (wire, _app) = wire();
        home(wire, &pool, &address).give_back();
        assert!(pool.take(&address).is_some());
    }

    #[tokio::test]
    async fn of_many_connections_that_the_app_has_closed_none_is_used() {
        let (address, pool) = (address(), Wires::default());
        // More than tokio lets a task read in one turn.
        for _ in 0..200 {
            let (closed, _) = wire();
            home(closed, &pool, &address).give_back();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(pool.take(&address).is_none());
        assert_eq!(pool.count(), 0);
    }

    #[tokio::test]
    async fn what_the_app_has_closed_does_not_lie_about_where_no_request_comes() {
        let (address, pool) = (address(), Wires::default());
        let (closed, app) = wire();
        let (open, _app) = wire();
        home(closed, &pool, &address).give_back();
        home(open, &pool, &address).give_back();
        drop(app);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(pool.count(), 2);
        tokio::time::pause();
        tokio::time::sleep(SWEEP_PAUSE + Duration::from_millis(1)).await;
        assert_eq!(pool.count(), 1);
    }

    #[tokio::test]
    async fn content_is_read_as_it_is_taken_and_no_further() {
        let (address, pool) = (address(), Wires::default());
        let (wire, mut app) = wire();
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";
        app.write_all(head).await.unwrap();
        let answer = ask(&address, &pool, wire, Method::GET).await.unwrap();
        let flood = async {
            let piece = vec![b'x'; 64 * 1024];
            let mut sent = 0;
            while let Ok(Ok(written)) =
                tokio::time::timeout(Duration::from_millis(50), app.write(&piece)).await
            {
                sent += written;
            }
            sent
        };
        assert!(flood.await < 2_000_000, "nobody takes it");
        let mut body = answer.into_body();
        let Some(Ok(frame)) = body.frame().await else {
            panic!("some has come");
        };
        let taken = frame.into_data().unwrap().len();
        assert!(taken <= READ_BYTES_MAX);
        assert_eq!(body.size_hint().exact(), Some(100_000_000 - taken as u64));
        drop(app);
        let cut = body.collect().await.unwrap_err();
        assert!(matches!(cut, BrokenOff::Cut | BrokenOff::Connection(_)));
        assert_eq!(pool.count(), 0);
    }

    #[tokio::test]
    async fn small_pieces_do_not_hold_on_to_the_buffer_that_they_came_in() {
        let (address, pool) = (address(), Wires::default());
        for (framing, piece) in [
            ("Transfer-Encoding: chunked", b"1\r\nx\r\n".as_slice()),
            ("Content-Length: 1000", b"x"),
            ("X: y", b"x"),
        ] {
            let (wire, mut app) = wire();
            let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
            app.write_all(head.as_bytes()).await.unwrap();
            let answer = ask(&address, &pool, wire, Method::GET).await.unwrap();
            let mut body = answer.into_body();
            let mut held = Vec::new();
            for _ in 0..10 {
                app.write_all(piece).await.unwrap();
                let frame = body.frame().await.unwrap().unwrap();
                held.push(frame.into_data().unwrap());
            }
            assert!(held.iter().all(|piece| piece == "x" && piece.is_unique()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn cut_anywhere_an_answer_is_the_same(
            content in proptest::collection::vec(any::<u8>(), 0..6_000),
            chunked in any::<bool>(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let mut stream = b"HTTP/1.1 200 OK\r\nX: y\r\n".to_vec();
            if chunked {
                stream.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in content.chunks(700) {
                    stream.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    stream.extend_from_slice(chunk);
                    stream.extend_from_slice(b"\r\n");
                }
                stream.extend_from_slice(b"0\r\n\r\n");
            } else {
                stream.extend_from_slice(format!("Content-Length: {}\r\n\r\n", content.len()).as_bytes());
                stream.extend_from_slice(&content);
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let read = runtime.block_on(answered(Method::GET, pieces.iter().copied(), false));
            prop_assert_eq!(read, Ok((content, true)));
            // Without its last byte it is nothing.
            let cut = [&stream[..stream.len() - 1]];
            let read = runtime.block_on(answered(Method::GET, cut, true));
            prop_assert!(read.is_err());
        }
    }
}
