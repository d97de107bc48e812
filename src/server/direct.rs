//! Plain GETs answered while hyper waits for a head: it never learns of them. What is plain is less
//! than what is allowed; everything else is hyper's.
//!
//! Reads a head with hyper's own parser, so that the two cannot differ about what it says.

use super::sending::Sending;
use crate::proxy::{Begun, Interims, Outgoing, Peer, Proxy, Rest};
use crate::semantics::authority::normal_authority;
use bytes::{Buf, Bytes};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, HeaderValue, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Uri};
use memchr::memchr_iter;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::mem::{MaybeUninit, take};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// A head of more fields is hyper's.
const FIELDS_MAX: usize = 48;
/// A longer head is hyper's, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Rooms kept for heads of answers, and the largest that is, in bytes.
const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 8 * 1024;
/// What ends a head, behind its last line.
const HEAD_END: &[u8] = b"\r\n";
/// Fields that make more of a request than a plain GET.
const NOT_PLAIN: [HeaderName; 11] = [
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
    RANGE,
    IF_RANGE,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    IF_MATCH,
    IF_UNMODIFIED_SINCE,
    TRAILER,
];

thread_local! {
    /// Room for heads on their way in and out: one of each a worker, however many connections it has.
    static ROOM: RefCell<Room> = RefCell::default();
}

#[derive(Default)]
struct Room {
    fields: HeaderMap,
    out: Vec<u8>,
    /// Room for the heads of answers that are waited for, while nobody waits.
    spare: Vec<Vec<u8>>,
}

impl Room {
    fn keep(&mut self, mut out: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && out.capacity() <= SPARE_BYTES_MAX {
            out.clear();
            self.spare.push(out);
        }
    }
}

/// The way past hyper for one connection.
#[derive(Debug)]
pub(super) struct Direct {
    proxy: Proxy,
    peer: Peer,
    state: State,
    /// Whether the connection ends with the answer that is on its way, or was.
    closing: bool,
    /// Where interim answers wait; made for the first request that they could be for.
    interims: Option<Arc<Interims>>,
    /// Requests that could get any, so far.
    place: u64,
}

/// What is under way.
enum State {
    Idle,
    /// An answer is waited for; what is left of interim ones leaves before it.
    Waiting(Pin<Box<dyn Future<Output = Outgoing> + Send>>, Bytes),
    /// It does not leave at once. Boxed: most do.
    Sending(Box<Sending>),
}

impl Direct {
    pub(super) const fn new(proxy: Proxy, peer: Peer) -> Self {
        Self {
            proxy,
            peer,
            state: State::Idle,
            closing: false,
            interims: None,
            place: 0,
        }
    }

    /// Whether the connection ends with the last answer (RFC 9112 §9.6).
    pub(super) const fn is_closing(&self) -> bool {
        self.closing
    }

    /// Ends the connection with the answer that is on its way, if its head has yet to be written.
    pub(super) const fn close(&mut self) {
        self.closing = true;
    }

    /// Whether an answer is on its way.
    pub(super) const fn is_answering(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// Nobody takes the answer.
    pub(super) fn give_up(&mut self) {
        self.state = State::Idle;
    }

    /// Whether the client has yet to take something of the answer that is here: then a number that is
    /// another as soon as it takes any.
    pub(super) fn untaken(&self) -> Option<u64> {
        match &self.state {
            State::Idle => None,
            State::Waiting(_, interim) => (!interim.is_empty()).then_some(interim.len() as u64),
            State::Sending(sending) => sending.untaken(),
        }
    }

    /// Answers the request that `bytes` are, if they are one whole plain GET. `true`: the answer is on
    /// its way, see [`Direct::poll_answer`].
    pub(super) fn takes<S: AsyncWrite + Unpin>(
        &mut self,
        bytes: &[u8],
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> io::Result<bool> {
        ROOM.with_borrow_mut(|room| {
            room.fields.clear();
            room.out.clear();
            // A panic ends here: hyper's way will find the same, and answer for it.
            let begun = catch_unwind(AssertUnwindSafe(|| {
                let (request, last) = plain(bytes, &mut room.fields)?;
                Some((self.proxy.begin(request, self.peer, &mut room.out), last))
            }));
            let Ok(Some((begun, last))) = begun else {
                return Ok(false);
            };
            self.closing = last;
            match begun {
                Begun::Answered { rest, fields } => {
                    room.fields = fields;
                    self.send(&mut room.out, rest, stream, context)?;
                }
                Begun::Waits(waits) => {
                    self.place += 1;
                    let interim = self.interims.get_or_insert_default().to(self.place);
                    let out = room.spare.pop().unwrap_or_default();
                    let answer = Box::pin(self.proxy.clone().finish(waits, interim, out));
                    self.state = State::Waiting(answer, Bytes::new());
                }
            }
            Ok(true)
        })
    }

    /// Sends an answer whose head is `out`.
    fn send<S: AsyncWrite + Unpin>(
        &mut self,
        out: &mut Vec<u8>,
        rest: Rest,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        if self.closing {
            out.truncate(out.len() - HEAD_END.len());
            out.extend_from_slice(b"connection: close\r\n");
            out.extend_from_slice(HEAD_END);
        }
        let mut sending = Sending::begin(out, rest, stream, context)?;
        self.state = match sending.poll_send(stream, context)? {
            Poll::Ready(()) => State::Idle,
            Poll::Pending => State::Sending(Box::new(sending)),
        };
        Ok(())
    }

    /// Ready when the answer that is on its way has left.
    pub(super) fn poll_answer<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut self.state {
                State::Idle => return Poll::Ready(Ok(())),
                State::Waiting(answer, interim) => {
                    while !interim.is_empty() {
                        match ready!(Pin::new(&mut *stream).poll_write(context, interim))? {
                            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                            written => interim.advance(written),
                        }
                    }
                    let polled = catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context)));
                    let answered = match polled {
                        Ok(Poll::Ready(answered)) => Some(answered),
                        Ok(Poll::Pending) => None,
                        // It ends with this request.
                        Err(_) => {
                            tracing::error!(address = %self.peer.address, "a request ended in a panic");
                            Some(self.proxy.fallen())
                        }
                    };
                    let said = self.interims.as_ref().and_then(|interims| {
                        if answered.is_none() {
                            interims.listen(context);
                        }
                        interims.take(self.place)
                    });
                    match (answered, said) {
                        (None, None) => {
                            let _ = Pin::new(&mut *stream).poll_flush(context)?;
                            return Poll::Pending;
                        }
                        (None, Some(said)) => *interim = said.into(),
                        (Some(mut answered), said) => {
                            if let Some(said) = said {
                                answered.head.splice(..0, said);
                            }
                            self.send(&mut answered.head, answered.rest, stream, context)?;
                            ROOM.with_borrow_mut(|room| room.keep(answered.head));
                        }
                    }
                }
                State::Sending(sending) => {
                    ready!(sending.poll_send(stream, context))?;
                    self.state = State::Idle;
                }
            }
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Waiting(..) => "Waiting",
            Self::Sending(_) => "Sending",
        })
    }
}

/// The request that `bytes` are, whole and nothing behind it, if it is a GET that
/// [`super::strict`] and [`super::heads`] would let pass as it stands, and asks for no more than
/// the content; and whether it is to be the connection's last. Its fields are made in the room that
/// `fields` has.
fn plain(bytes: &[u8], fields: &mut HeaderMap) -> Option<(Parts, bool)> {
    let plain_frame = bytes.len() <= HEAD_BYTES_MAX
        && bytes.starts_with(b"GET /")
        && bytes.ends_with(b"\r\n\r\n");
    if !plain_frame || has_bare_lf(bytes) {
        return None;
    }
    // Copied once: its fields are slices of the copy.
    let bytes = Bytes::copy_from_slice(bytes);
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut []);
    let parsed = head.parse_with_uninit_headers(&bytes, &mut slots).ok()?;
    if parsed != httparse::Status::Complete(bytes.len()) || head.version != Some(1) {
        return None;
    }
    let target = head.path?;
    if target.contains('#') {
        return None;
    }
    let (mut hosts, mut cookies, mut last) = (0, 0, false);
    for field in &*head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if name == HOST {
            hosts += 1;
            normal_authority(std::str::from_utf8(field.value).ok()?, "http")?;
        } else if name == COOKIE {
            cookies += 1;
        } else if name == CONNECTION {
            if field.value.eq_ignore_ascii_case(b"close") {
                last = true;
            } else if !field.value.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
        } else if NOT_PLAIN.contains(&name) || name == TE || is_odd(name.as_str()) {
            return None;
        }
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?;
        fields.append(name, value);
    }
    if hosts != 1 || cookies > 1 {
        return None;
    }
    let uri = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())).ok()?;
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    *request.headers_mut() = take(fields);
    Some((request.into_parts().0, last))
}

/// Names with `_` may be another's alias; ours are for tests and for those who know the debug token.
fn is_odd(name: &str) -> bool {
    name.contains('_') || name.starts_with("larder-") || name == "http2-settings"
}

fn has_bare_lf(bytes: &[u8]) -> bool {
    memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::heads::{Heads, Watch};
    use crate::server::strict;
    use proptest::prelude::*;

    fn is_plain(head: &str) -> bool {
        plain(head.as_bytes(), &mut HeaderMap::new()).is_some()
    }

    #[test]
    fn a_plain_get_is_read_as_it_stands() {
        let head = b"GET /a?b=c HTTP/1.1\r\nHost: a:80\r\nX-A: \r\nAccept:  x \r\nX-A: y\r\n\r\n";
        let mut fields = HeaderMap::new();
        let (request, last) = plain(head, &mut fields).unwrap();
        assert!(!last);
        assert_eq!(request.uri, "/a?b=c");
        let all: Vec<_> = request.headers.iter().collect();
        assert_eq!(all.len(), 4);
        assert_eq!(request.headers["accept"], "x");
        assert_eq!(
            request.headers.get_all("x-a").iter().collect::<Vec<_>>(),
            ["", "y"]
        );
    }

    #[test]
    fn a_client_may_say_that_it_is_its_last() {
        for (said, is_last) in [("Close", true), ("keep-alive", false)] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {said}\r\n\r\n");
            let (_, last) = plain(head.as_bytes(), &mut HeaderMap::new()).unwrap();
            assert_eq!(last, is_last, "{said}");
        }
    }

    #[test]
    fn what_is_more_than_plain_is_left_to_hyper() {
        assert!(is_plain(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n"
        ));
        for line in [
            "GET / HTTP/1.0",
            "HEAD / HTTP/1.1",
            "GET http://a/ HTTP/1.1",
            "GET /#a HTTP/1.1",
            "GET / HTTP/1.1\r\nHost: b",
            "GET / HTTP/1.1\r\nConnection: close, x",
            "GET / HTTP/1.1\r\nConnection: upgrade",
            "GET / HTTP/1.1\r\nCookie: a=1\r\nCookie: b=2",
            "GET / HTTP/1.1\r\nContent-Length: 0",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked",
            "GET / HTTP/1.1\r\nUpgrade: websocket",
            "GET / HTTP/1.1\r\nRange: bytes=0-1",
            "GET / HTTP/1.1\r\nIf-None-Match: *",
            "GET / HTTP/1.1\r\nX_Forwarded_For: 1.2.3.4",
            "GET / HTTP/1.1\nX: y",
            "GET / HTTP/1.1\r\nX: a\r\n b",
            "GET / HTTP/1.1\r\nX : a",
        ] {
            assert!(!is_plain(&format!("{line}\r\nHost: a\r\n\r\n")), "{line}");
        }
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(!is_plain(head), "{head:?}");
        }
    }

    /// Pieces that heads are made of, good and bad ones.
    fn piece() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "GET ",
            "/",
            "/a#b",
            " HTTP/1.1",
            " HTTP/1.0",
            "\r\n",
            "\n",
            "Host",
            ": ",
            ":",
            "a",
            "A.:80",
            "a b",
            "@",
            "Connection",
            "keep-alive",
            "close, host",
            "Content-Length",
            "0",
            "Transfer-Encoding",
            "chunked",
            "Expect",
            "x_real_ip",
            "Cookie",
            " ",
            "\t",
            "é",
            "\0",
            "Host: a\r\n",
            "Cookie: a=1\r\n",
            "GET / HTTP/1.1\r\n",
            "X: y\r\n",
            "?",
            "*",
            "http://b",
        ])
    }

    proptest! {
        /// Whatever is answered here, the door would have let pass just so.
        #[test]
        fn what_is_plain_passes_every_check_unchanged(
            middle in prop::collection::vec(piece(), 0..12),
            begun in any::<bool>(),
        ) {
            let begin = if begun { "GET /a HTTP/1.1\r\nHost: a\r\n" } else { "" };
            let head = format!("{begin}{}\r\n\r\n", middle.concat());
            if let Some((request, _)) = plain(head.as_bytes(), &mut HeaderMap::new()) {
                let (watch, mut heads) = (Watch::default(), Heads::new());
                heads.read(head.as_bytes(), &watch);
                prop_assert!(watch.judge().is_ok());
                prop_assert!(!watch.take_bare_lf());
                let mut checked = Request::from_parts(request.clone(), ());
                prop_assert!(strict::check(&mut checked).is_ok());
                prop_assert_eq!(checked.headers(), &request.headers);
            }
        }
    }
}
