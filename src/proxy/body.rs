//! What leaves for a client: slices of a stored body, a stored body that is read as it leaves, the app's
//! stream, or another request's fetch.

use super::coalesce::{Next, Reader};
use super::resume::Resume;
use super::tap::Tap;
use crate::cache::{Cache, ChunkReader, Gone};
use crate::semantics::Slices;
use crate::telemetry::metrics::{ActiveGuard, RouteHandle, Source};
use crate::upstream::{BrokenOff, ResponseBody};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// The content of an answer.
#[derive(Debug)]
pub struct Body {
    content: Content,
    meter: Option<Meter>,
}

#[derive(Debug)]
enum Content {
    Stored {
        slices: Slices,
        trailers: Option<HeaderMap>,
    },
    App {
        body: ResponseBody,
        patience: Option<Patience>,
        /// Looks at what passes.
        tap: Option<Box<Tap>>,
    },
    Chunks(Box<Chunks>),
    Shared(Box<Shared>),
    /// What it broke off with; `None` once that has been said.
    Broken(Option<Box<BodyError>>),
}

/// A stored body that is read as it leaves.
#[derive(Debug)]
struct Chunks {
    reader: ChunkReader,
    trailers: Option<HeaderMap>,
    onward: Onward,
}

/// Where the rest may come from, should the store not have it.
#[derive(Debug)]
struct Onward {
    resume: Option<Box<Resume>>,
    resuming: Option<Resuming>,
}

/// The app is asked for the rest.
struct Resuming {
    part: Pin<Box<dyn Future<Output = Option<ResponseBody>> + Send>>,
    patience: Duration,
}

impl fmt::Debug for Resuming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resuming").finish_non_exhaustive()
    }
}

/// What a fetch brings, for one of those who follow it.
#[derive(Debug)]
struct Shared {
    reader: Reader,
    /// Reads what of it is only in the store any more.
    behind: Option<ChunkReader>,
    /// That store.
    cache: Option<Cache>,
    onward: Onward,
}

/// The content broke off; the client's connection is cut, so that it cannot take the part for the whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The app's stream broke.
    #[error("the app's answer broke off: {0}")]
    App(#[from] BrokenOff),
    /// Nothing came from the app for too long.
    #[error("the app's answer stalled")]
    Stalled,
    /// The fetch that this answer was taken from broke off.
    #[error("the fetch broke off")]
    Shared,
    /// The rest of what is stored cannot be had.
    #[error(transparent)]
    Stored(#[from] Gone),
}

impl Body {
    /// No content.
    #[must_use]
    pub fn empty() -> Self {
        Self::stored(Slices::default(), None)
    }

    /// One piece.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::stored(bytes.into(), None)
    }

    /// One that has broken off before anything of it has left.
    #[must_use]
    pub fn broken(error: BodyError) -> Self {
        Self {
            content: Content::Broken(Some(Box::new(error))),
            meter: None,
        }
    }

    /// Pieces of a stored body, in order, and its trailers.
    #[must_use]
    pub fn stored(slices: impl Into<Slices>, trailers: Option<HeaderMap>) -> Self {
        let slices = slices.into();
        Self {
            content: Content::Stored { slices, trailers },
            meter: None,
        }
    }

    /// The app's stream; cut when nothing comes for `patience` (none: waits for ever).
    #[must_use]
    pub fn app(body: ResponseBody, patience: Option<Duration>) -> Self {
        let patience = patience.map(|limit| Patience { limit, sleep: None });
        Self {
            content: Content::App {
                body,
                patience,
                tap: None,
            },
            meter: None,
        }
    }

    /// Lets `tap` look at what passes, if it comes from the app.
    pub(super) fn tapped(mut self, mut by: Box<Tap>) -> Self {
        if let Content::App { body, tap, .. } = &mut self.content {
            match body.is_end_stream() {
                // Nobody polls a body that has nothing.
                true => by.ends(),
                false => by.expects(body.size_hint().lower()),
            }
            *tap = Some(by);
        }
        self
    }

    /// A stored body that is read as it leaves, and its trailers. What the store turns out not to have
    /// any more may be asked for by `resume`.
    #[must_use]
    pub(super) fn chunks(
        reader: ChunkReader,
        trailers: Option<HeaderMap>,
        resume: Option<Resume>,
    ) -> Self {
        let chunks = Chunks {
            reader,
            trailers,
            onward: Onward::of(resume),
        };
        Self {
            content: Content::Chunks(Box::new(chunks)),
            meter: None,
        }
    }

    /// What a fetch brings, as it brings it; what of it `cache` has already and nobody else may be read
    /// there, or be asked for by `resume` where it is gone.
    #[must_use]
    pub(super) fn shared(reader: Reader, cache: Option<Cache>, resume: Option<Resume>) -> Self {
        let shared = Shared {
            reader,
            behind: None,
            cache,
            onward: Onward::of(resume),
        };
        Self {
            content: Content::Shared(Box::new(shared)),
            meter: None,
        }
    }

    /// Counts what leaves, and the request as active until it has left.
    #[must_use]
    pub fn metered(mut self, route: RouteHandle, source: Source, active: ActiveGuard) -> Self {
        self.meter = Some(Meter::new(route, source, active));
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(self.content.poll(context));
        if let (Some(meter), Some(Ok(frame))) = (&mut self.meter, &polled)
            && let Some(data) = frame.data_ref()
        {
            meter.add(data.len());
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Stored { slices, trailers } => slices.is_empty() && trailers.is_none(),
            Content::App { body, .. } => body.is_end_stream(),
            Content::Chunks(chunks) => chunks.reader.left() == 0 && chunks.trailers.is_none(),
            Content::Shared(_) => false,
            Content::Broken(error) => error.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            // With trailers it goes in chunks, and their lengths say when it ends.
            Content::Stored {
                trailers: Some(_), ..
            } => SizeHint::default(),
            Content::Chunks(chunks) if chunks.trailers.is_some() => SizeHint::default(),
            Content::Stored { slices, .. } => SizeHint::with_exact(slices.bytes()),
            Content::App { body, .. } => body.size_hint(),
            Content::Chunks(chunks) => SizeHint::with_exact(chunks.reader.left()),
            Content::Shared(shared) => shared
                .reader
                .length()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
            Content::Broken(_) => SizeHint::default(),
        }
    }
}

impl Content {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Stored { slices, trailers } => Poll::Ready(match slices.next() {
                Some(slice) => Some(Ok(Frame::data(slice))),
                None => trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            Self::App {
                body,
                patience,
                tap,
            } => {
                let Poll::Ready(polled) = Pin::new(&mut *body).poll_frame(context) else {
                    let over = patience
                        .as_mut()
                        .is_some_and(|patience| patience.is_over(context));
                    return if over {
                        Poll::Ready(Some(Err(BodyError::Stalled)))
                    } else {
                        Poll::Pending
                    };
                };
                if let Some(patience) = patience {
                    patience.sleep = None;
                }
                if let Some(tap) = tap {
                    if let Some(Ok(frame)) = &polled {
                        tap.sees(frame);
                    }
                    if polled.is_none() || (matches!(polled, Some(Ok(_))) && body.is_end_stream()) {
                        tap.ends();
                    }
                }
                Poll::Ready(polled.map(|frame| frame.map_err(BodyError::App)))
            }
            Self::Chunks(chunks) => {
                let polled = ready!(chunks.poll(context));
                self.go_on(polled, context)
            }
            Self::Shared(shared) => {
                let polled = ready!(shared.poll(context));
                self.go_on(polled, context)
            }
            Self::Broken(error) => Poll::Ready(error.take().map(|error| Err(*error))),
        }
    }

    /// Hands out what came, or goes on with what the app gives instead.
    fn go_on(
        &mut self,
        came: Came,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match came {
            Came::Frame(frame) => Poll::Ready(frame),
            Came::Rest(body, limit) => {
                let patience = Some(Patience { limit, sleep: None });
                *self = Self::App {
                    body,
                    patience,
                    tap: None,
                };
                self.poll(context)
            }
        }
    }
}

/// The next of a body that is read where it is stored, or how it goes on without the store.
enum Came {
    Frame(Option<Result<Frame<Bytes>, BodyError>>),
    Rest(ResponseBody, Duration),
}

impl Onward {
    fn of(resume: Option<Resume>) -> Self {
        Self {
            resume: resume.map(Box::new),
            resuming: None,
        }
    }

    /// The store does not have this `rest`: asks for it, where that is of use.
    fn begin(&mut self, rest: Range<u64>) -> Result<(), Gone> {
        let resume = self.resume.take().ok_or(Gone)?;
        let patience = resume.patience();
        let part = Box::pin(resume.part(rest));
        self.resuming = Some(Resuming { part, patience });
        Ok(())
    }

    /// What the app gives, if it was asked. `Ready(None)`: it was not.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Came>> {
        let Some(resuming) = &mut self.resuming else {
            return Poll::Ready(None);
        };
        let part = ready!(resuming.part.as_mut().poll(context));
        let patience = resuming.patience;
        self.resuming = None;
        Poll::Ready(Some(match part {
            Some(body) => Came::Rest(body, patience),
            None => Came::Frame(Some(Err(Gone.into()))),
        }))
    }
}

impl Chunks {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Came> {
        loop {
            if let Some(came) = ready!(self.onward.poll(context)) {
                return Poll::Ready(came);
            }
            return Poll::Ready(Came::Frame(match ready!(self.reader.poll_next(context)) {
                Some(Ok(piece)) => Some(Ok(Frame::data(piece))),
                None => self
                    .trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
                // Trailers are of the whole, and the app would not send them with a part.
                Some(Err(gone)) if self.trailers.is_some() => Some(Err(gone.into())),
                Some(Err(_)) => match self.onward.begin(self.reader.rest()) {
                    Ok(()) => continue,
                    Err(gone) => Some(Err(gone.into())),
                },
            }));
        }
    }
}

impl Shared {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Came> {
        loop {
            if let Some(came) = ready!(self.onward.poll(context)) {
                return Poll::Ready(came);
            }
            if let Some(behind) = &mut self.behind {
                match ready!(behind.poll_next(context)) {
                    Some(Ok(piece)) => {
                        self.reader.skip(piece.len());
                        return Poll::Ready(Came::Frame(Some(Ok(Frame::data(piece)))));
                    }
                    Some(Err(gone)) => {
                        let rest = (self.reader.length()).map(|length| behind.rest().start..length);
                        let begun = rest.ok_or(gone).and_then(|rest| self.onward.begin(rest));
                        if let Err(gone) = begun {
                            return Poll::Ready(Came::Frame(Some(Err(gone.into()))));
                        }
                        continue;
                    }
                    None => self.behind = None,
                }
            }
            match ready!(self.reader.poll_next(context)) {
                Next::Frame(frame) => return Poll::Ready(Came::Frame(frame)),
                Next::Stored(chunks, range) => {
                    let cache = self.cache.as_ref();
                    self.behind = cache.and_then(|cache| cache.read(&chunks, range));
                    if self.behind.is_none() {
                        return Poll::Ready(Came::Frame(Some(Err(BodyError::Shared))));
                    }
                }
            }
        }
    }
}

/// How long a stream may say nothing. The timer exists only while it says nothing.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let limit = self.limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        sleep.as_mut().poll(context).is_ready()
    }
}

/// Tells the metrics, once, when the body has left or was given up.
#[derive(Debug)]
pub struct Meter {
    route: RouteHandle,
    source: Source,
    bytes: u64,
    active: ActiveGuard,
}

impl Meter {
    /// Nothing has left yet.
    pub(super) fn new(route: RouteHandle, source: Source, active: ActiveGuard) -> Self {
        Self {
            route,
            source,
            bytes: 0,
            active,
        }
    }

    /// So many bytes have left.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.active.bytes(&self.route, self.source, self.bytes);
    }
}
