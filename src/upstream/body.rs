//! Bodies on their way to and from the app: streamed, counted, and the judge of whether a
//! connection may be used again.

use super::Home;
use crate::semantics::fields;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// What a client sends along to the app.
#[derive(Debug)]
pub struct RequestBody {
    /// What was read of it before it was known where it goes; sent first.
    read: Bytes,
    incoming: Option<Incoming>,
    /// Trailers that were read already.
    trailers: Option<HeaderMap>,
    finished: Finished,
    copy: Option<BodyCopy>,
}

/// How far a request's body has come.
#[derive(Clone, Debug)]
pub struct Finished(Arc<Progress>);

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
    #[must_use]
    pub fn whole(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == WHOLE
    }

    /// The client broke it off.
    #[must_use]
    pub fn broken(&self) -> bool {
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
        let nothing = read.is_empty() && trailers.is_none() && incoming.is_none();
        Self {
            finished: Finished::new(if nothing { WHOLE } else { UNDER_WAY }),
            read,
            incoming,
            trailers,
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
    #[must_use]
    pub fn finished(&self) -> Finished {
        self.finished.clone()
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
            this.finished.moves();
            if this.is_end_stream() {
                this.finished.set(WHOLE);
            }
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        if let Some(trailers) = this.trailers.take() {
            this.finished.set(WHOLE);
            return Poll::Ready(Some(Ok(allowed_trailers(Frame::trailers(trailers)))));
        }
        let Some(incoming) = this.incoming.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut *incoming).poll_frame(context);
        let starved = polled.is_pending();
        this.finished.0.starved.store(starved, Ordering::Relaxed);
        let polled = std::task::ready!(polled);
        this.finished.moves();
        match &polled {
            Some(Ok(frame)) => {
                if let (Some(copy), Some(chunk)) = (&this.copy, frame.data_ref()) {
                    copy.add(chunk);
                }
                if incoming.is_end_stream() {
                    this.finished.set(WHOLE);
                }
            }
            Some(Err(_)) => this.finished.set(BROKEN),
            None => this.finished.set(WHOLE),
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
    incoming: Incoming,
    delimited: bool,
    sent: Finished,
    home: Option<Home>,
    ended: bool,
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        delimited: bool,
        sent: Finished,
        home: Option<Home>,
    ) -> Self {
        let mut body = Self {
            incoming,
            delimited,
            sent,
            home,
            ended: false,
        };
        if body.incoming.is_end_stream() {
            body.end();
        }
        body
    }

    /// Whether its end is marked (length or last chunk), so that a cut cannot pass for an end.
    #[must_use]
    pub fn is_delimited(&self) -> bool {
        self.delimited
    }

    /// Invariant (a): the connection goes back only if both directions ended at a message's end.
    fn end(&mut self) {
        self.ended = true;
        if let Some(home) = self.home.take()
            && self.sent.whole()
        {
            home.give_back();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(context));
        match &polled {
            Some(Ok(_)) if self.incoming.is_end_stream() => self.end(),
            Some(Ok(_)) => {}
            Some(Err(_)) => {
                self.ended = true;
                self.home = None;
            }
            None => self.end(),
        }
        Poll::Ready(polled.map(|frame| frame.map(allowed_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
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
