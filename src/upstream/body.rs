//! Bodies on their way to and from the app: streamed, counted, and the judge of whether a
//! connection may be used again.

use super::check::Content;
use super::chunked::{Chunks, Step};
use super::plain::Wire;
use super::pool::Home;
use super::streamed::Sender;
use crate::semantics::fields;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// What a client sends along to the app.
#[derive(Debug)]
pub struct RequestBody {
    /// What was read of it before it was known where it goes; sent first.
    read: Bytes,
    incoming: Option<Incoming>,
    /// Trailers that were read already; hardly ever there, and large.
    trailers: Option<Box<HeaderMap>>,
    /// Who wants to know how far it has come; nobody, where it is sent in one piece.
    finished: Option<Finished>,
    copy: Option<BodyCopy>,
}

/// How far a request's body has come.
#[derive(Clone, Debug)]
pub(super) struct Finished(Arc<Progress>);

#[derive(Debug)]
struct Progress {
    state: AtomicU8,
    began: Instant,
    /// When the last piece was sent on, in milliseconds since it began.
    moved_millis: AtomicU64,
    /// The app would take more, and the client has yet to send it.
    starved: AtomicBool,
}

const UNDER_WAY: u8 = 0;
const WHOLE: u8 = 1;
const BROKEN: u8 = 2;

impl Finished {
    fn new(state: u8) -> Self {
        Self(Arc::new(Progress {
            state: AtomicU8::new(state),
            began: Instant::now(),
            moved_millis: AtomicU64::new(0),
            starved: AtomicBool::new(false),
        }))
    }

    /// The body was sent to its end.
    pub(super) fn whole(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == WHOLE
    }

    /// The client broke it off.
    pub(super) fn broken(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == BROKEN
    }

    /// It is the client that lets the app wait for more.
    pub(super) fn starved(&self) -> bool {
        !self.whole() && self.0.starved.load(Ordering::Relaxed)
    }

    /// When the app last took a piece of it, or when it began.
    pub(super) fn moved(&self) -> Instant {
        self.0.began + Duration::from_millis(self.0.moved_millis.load(Ordering::Relaxed))
    }

    fn set(&self, state: u8) {
        self.0.state.store(state, Ordering::Release);
    }

    fn moves(&self) {
        let millis = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.moved_millis.store(millis, Ordering::Relaxed);
    }
}

/// A copy of a request's body for those who have to read it (purge templates); bounded.
#[derive(Clone, Debug)]
pub struct BodyCopy {
    bytes: Arc<Mutex<Option<Vec<u8>>>>,
    bytes_max: usize,
}

impl BodyCopy {
    fn add(&self, chunk: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        match bytes.as_mut() {
            Some(held) if held.len() + chunk.len() <= self.bytes_max => {
                held.extend_from_slice(chunk)
            }
            _ => *bytes = None,
        }
    }

    /// The body, once sent; `None` when it was larger than the bound.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        self.bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl RequestBody {
    /// No content.
    #[must_use]
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// Content that is here already.
    #[must_use]
    pub fn whole(read: Bytes) -> Self {
        Self::begun(read, None, None)
    }

    /// Content of which `read` is here already, with the trailers if it was all, and `incoming` still to come.
    #[must_use]
    pub fn begun(read: Bytes, trailers: Option<HeaderMap>, incoming: Option<Incoming>) -> Self {
        Self {
            finished: None,
            read,
            incoming,
            trailers: trailers.map(Box::new),
            copy: None,
        }
    }

    /// The client's content, streamed, if it has any.
    #[must_use]
    pub fn streaming(incoming: Option<Incoming>) -> Self {
        Self::begun(Bytes::new(), None, incoming)
    }

    /// The content, where nothing of it has to come from the client.
    pub(super) fn here(&self) -> Option<Bytes> {
        let here = self.incoming.is_none() && self.trailers.is_none();
        here.then(|| self.read.clone())
    }

    /// Whoever wants a copy has it, before the content leaves in one piece.
    pub(super) fn copied(&self) {
        if let Some(copy) = &self.copy {
            copy.add(&self.read);
        }
    }

    /// Keeps a copy of up to `bytes_max` bytes of what is sent.
    pub fn keep_copy(&mut self, bytes_max: usize) -> BodyCopy {
        let copy = BodyCopy {
            bytes: Arc::new(Mutex::new(Some(Vec::new()))),
            bytes_max,
        };
        self.copy = Some(copy.clone());
        copy
    }

    /// Tells how far it has come, also after it was handed over.
    pub(super) fn finished(&mut self) -> Finished {
        let state = if self.is_end_stream() {
            WHOLE
        } else {
            UNDER_WAY
        };
        let finished = self.finished.get_or_insert_with(|| Finished::new(state));
        finished.clone()
    }

    fn moves(&self) {
        self.finished.iter().for_each(Finished::moves);
    }

    fn set(&self, state: u8) {
        (self.finished.iter()).for_each(|finished| finished.set(state));
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if !this.read.is_empty() {
            let read = std::mem::take(&mut this.read);
            if let Some(copy) = &this.copy {
                copy.add(&read);
            }
            this.moves();
            if this.is_end_stream() {
                this.set(WHOLE);
            }
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        if let Some(trailers) = this.trailers.take() {
            this.set(WHOLE);
            return Poll::Ready(Some(Ok(allowed_trailers(Frame::trailers(*trailers)))));
        }
        let Some(incoming) = this.incoming.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut *incoming).poll_frame(context);
        let starved = polled.is_pending();
        if let Some(finished) = &this.finished {
            finished.0.starved.store(starved, Ordering::Relaxed);
        }
        let polled = ready!(polled);
        let ended = incoming.is_end_stream();
        this.moves();
        match &polled {
            Some(Ok(frame)) => {
                if let (Some(copy), Some(chunk)) = (&this.copy, frame.data_ref()) {
                    copy.add(chunk);
                }
                if ended {
                    this.set(WHOLE);
                }
            }
            Some(Err(_)) => this.set(BROKEN),
            None => this.set(WHOLE),
        }
        Poll::Ready(polled.map(|frame| frame.map(allowed_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty()
            && self.trailers.is_none()
            && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers.is_some() {
            return SizeHint::default(); // trailers come behind chunks only
        }
        let rest = self.incoming.as_ref().map(Body::size_hint);
        let rest = rest.map_or(Some(0), |hint| hint.exact());
        rest.map_or_else(SizeHint::default, |rest| {
            SizeHint::with_exact(self.read.len() as u64 + rest)
        })
    }
}

/// What the app answers. Gives the connection back when it has ended well.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    delimited: bool,
}

#[derive(Debug)]
enum Source {
    /// Nothing more comes.
    Ended,
    /// All of it came with the head.
    Here(Bytes),
    /// It is read from the connection as it is taken.
    Plain(Box<Plain>),
    /// hyper reads it.
    Hyper {
        incoming: Incoming,
        sent: Finished,
        home: Home<Sender>,
    },
}

#[derive(Debug)]
struct Plain {
    home: Home<Box<Wire>>,
    rest: Rest,
}

/// What has yet to come of a body that we read ourselves.
#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

/// The answer's content broke off.
#[derive(Debug, thiserror::Error)]
pub enum BrokenOff {
    /// hyper says so.
    #[error("{0}")]
    Hyper(#[from] hyper::Error),
    /// The connection failed.
    #[error("{0}")]
    Connection(#[from] io::Error),
    /// The connection ended before the content did.
    #[error("the connection was closed before it was whole")]
    Cut,
    /// Its chunks break HTTP's framing.
    #[error("its chunks break HTTP ({0})")]
    Chunks(&'static str),
}

impl ResponseBody {
    /// Read by hyper, on a connection of its own.
    pub(super) fn hyper(
        incoming: Incoming,
        content: Content,
        sent: Finished,
        home: Home<Sender>,
    ) -> Self {
        let ended = incoming.is_end_stream();
        let source = Source::Hyper {
            incoming,
            sent,
            home,
        };
        let delimited = content.is_delimited();
        let mut body = Self { source, delimited };
        if ended {
            body.end();
        }
        body
    }

    /// Read here, from behind its head.
    pub(super) fn plain(mut home: Home<Box<Wire>>, content: Content) -> Self {
        let delimited = content.is_delimited();
        let (here, rest) = match content {
            Content::None => (Some(Bytes::new()), Rest::Length(0)),
            Content::Length(length) => (home.line.take_whole(length), Rest::Length(length)),
            Content::Chunked => (None, Rest::Chunked(Chunks::new())),
            Content::Rest => (None, Rest::UntilClose),
        };
        let Some(here) = here else {
            let source = Source::Plain(Box::new(Plain { home, rest }));
            return Self { source, delimited };
        };
        end_plain(home);
        let source = match here.is_empty() {
            true => Source::Ended,
            false => Source::Here(here),
        };
        Self { source, delimited }
    }

    /// Whether its end is marked (length or last chunk), so that a cut cannot pass for an end.
    #[must_use]
    pub fn is_delimited(&self) -> bool {
        self.delimited
    }

    /// Invariant (a): the connection goes back only if both directions ended at a message's end.
    fn end(&mut self) {
        match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Hyper { sent, home, .. } if sent.whole() => home.give_back(),
            Source::Plain(plain) => end_plain(plain.home),
            _ => {}
        }
    }
}

/// The same for a connection of ours: the request has left, and nothing lies behind the answer.
fn end_plain(home: Home<Box<Wire>>) {
    if home.line.is_at_an_end() {
        home.give_back();
    }
}

impl Plain {
    /// The next frame; `None` at the end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BrokenOff>> {
        let wire = &mut *self.home.line;
        loop {
            let next = match &mut self.rest {
                Rest::Length(0) => Step::End,
                Rest::Length(left) => match wire.take(*left) {
                    Some(piece) => {
                        *left -= piece.len() as u64;
                        Step::Data(piece)
                    }
                    None => Step::More,
                },
                Rest::UntilClose => wire.take(u64::MAX).map_or(Step::More, Step::Data),
                Rest::Chunked(chunks) => chunks.next(wire.unread()).map_err(BrokenOff::Chunks)?,
            };
            match next {
                Step::Data(piece) => return Poll::Ready(Ok(Some(Frame::data(piece)))),
                Step::Trailers(trailers) => {
                    return Poll::Ready(Ok(Some(Frame::trailers(trailers))));
                }
                Step::End => return Poll::Ready(Ok(None)),
                Step::More => {}
            }
            let left = match self.rest {
                Rest::Length(left) => left,
                _ => u64::MAX,
            };
            if ready!(wire.poll_more(context, left))? == 0 {
                return Poll::Ready(match self.rest {
                    Rest::UntilClose => Ok(None),
                    _ => Err(BrokenOff::Cut),
                });
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let polled = match &mut self.source {
            Source::Ended => return Poll::Ready(None),
            Source::Here(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Ended;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Source::Plain(plain) => ready!(plain.poll(context)).transpose(),
            Source::Hyper { incoming, .. } => {
                let polled = ready!(Pin::new(incoming).poll_frame(context));
                polled.map(|frame| frame.map_err(BrokenOff::Hyper))
            }
        };
        match &polled {
            Some(Ok(_)) if self.is_end_stream() => self.end(),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.source = Source::Ended,
            None => self.end(),
        }
        Poll::Ready(polled.map(|frame| frame.map(allowed_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Ended => true,
            Source::Here(_) => false,
            Source::Plain(plain) => matches!(plain.rest, Rest::Length(0)),
            Source::Hyper { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Ended => SizeHint::with_exact(0),
            Source::Here(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Plain(plain) => match plain.rest {
                Rest::Length(left) => SizeHint::with_exact(left),
                _ => SizeHint::default(),
            },
            Source::Hyper { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// Fields that mean something in a head must not come in by the back door (RFC 9110 §6.5.1). A
/// Set-Cookie among them is dropped like the others, so that nobody gets it.
fn allowed_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            fields::remove_forbidden_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
