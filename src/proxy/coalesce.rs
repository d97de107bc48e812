//! One fetch for all who ask for the same key at the same time.
//!
//! The first to ask leads; the others follow and read the leader's body as it streams. A fetch
//! that turns out not to be shareable releases its followers at once, and its key is remembered for
//! a while, so that nobody queues behind it again.
//!
//! Of a large body that goes into the store while it streams, only the last pieces are held: whoever is
//! behind them, because it is slow or came late, reads them where they are stored.

use super::body::BodyError;
use crate::cache::{Chunks, Entry, Position};
use crate::semantics::{Key, Reason, Stored, Timestamp, Vary};
use crate::upstream::UpstreamError;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How long something is remembered of a key, such as that its answers are not shareable: at first, so that an
/// answer that was no like the others does little harm, and at most. It doubles each time that it is true again.
const REMEMBERED: Duration = Duration::from_secs(5);
const REMEMBERED_MAX: Duration = Duration::from_secs(60);
/// Keys remembered, for each thing that is.
const KEYS_REMEMBERED_MAX: usize = 65_536;
/// Bytes of a body that are held for its readers while it goes into the store in pieces: beyond that,
/// what is stored is let go, and who has not read it yet reads it there.
pub const HELD_BYTES_MAX: usize = 1024 * 1024;
/// Requests that may wait for one fetch, and for all of a process.
const FOLLOWERS_MAX: usize = 10_000;
const ALL_FOLLOWERS_MAX: usize = 50_000;

/// The fetches under way in this process. Shared by all workers.
#[derive(Debug, Default)]
pub struct Coalescer {
    inner: Mutex<Inner>,
    /// Requests that wait for any fetch.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    /// By place: the key, or where it is known what varies under it, that of the variant.
    fills: HashMap<Key, Arc<Fill>>,
    apart: Remembered,
    wanted_whole: Remembered,
}

/// Keys that something is known of for a while; bounded.
#[derive(Debug, Default)]
struct Remembered(HashMap<Key, Memory>);

/// What was true of a key is taken for true until then.
#[derive(Clone, Copy, Debug)]
struct Memory {
    until: Timestamp,
    length: Duration,
}

impl Memory {
    /// Of what is true again so soon, the one before is still of use.
    fn is_recent(&self, now: Timestamp) -> bool {
        now < self.until + self.length
    }
}

impl Remembered {
    fn holds(&mut self, key: &Key, now: Timestamp) -> bool {
        match self.0.get(key) {
            Some(memory) if now < memory.until => true,
            Some(memory) if memory.is_recent(now) => false,
            Some(_) => {
                self.0.remove(key);
                false
            }
            None => false,
        }
    }

    /// `length`: for how long at least.
    fn add(&mut self, key: Key, now: Timestamp, length: Duration) {
        if self.0.len() >= KEYS_REMEMBERED_MAX {
            self.0.retain(|_, memory| now < memory.until);
            if self.0.len() >= KEYS_REMEMBERED_MAX {
                self.0.clear();
            }
        }
        let length = match self.0.get(&key) {
            // Several say it at a time: that is once.
            Some(before) if now < before.until => before.length.max(length),
            Some(before) if before.is_recent(now) => (before.length * 2).max(length),
            _ => length,
        };
        let length = length.min(REMEMBERED_MAX);
        let until = now + length;
        self.0.insert(key, Memory { until, length });
    }
}

/// A request's part in the fetch of its key.
#[derive(Debug)]
pub enum Join {
    /// Fetch, and tell the others.
    Lead(Lead),
    /// Wait for the one who fetches.
    Follow(Follower),
    /// The key is known to be unshareable: fetch for yourself.
    Apart,
    /// As many wait as may.
    Crowded,
}

/// A place among those who wait for a fetch.
#[derive(Debug)]
pub struct Follower {
    coalescer: Arc<Coalescer>,
    fill: Arc<Fill>,
    /// How many wait for it with this one.
    waiting: usize,
}

impl Follower {
    /// How many waited for it when this one came, this one included.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// What is waited for.
    #[must_use]
    pub fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.fill.waiting.fetch_sub(1, Relaxed);
        self.coalescer.waiting.fetch_sub(1, Relaxed);
    }
}

impl Coalescer {
    /// Joins the fetch of `key` at its `place`, or begins one. A fetch that began before a purge (at another
    /// `position`) is never joined: its answer may be what was purged.
    pub fn join(
        self: &Arc<Self>,
        (key, place): (Key, Key),
        position: Position,
        now: Timestamp,
    ) -> Join {
        let mut inner = self.lock();
        if inner.apart.holds(&key, now) {
            return Join::Apart;
        }
        if let Some(fill) = inner.fills.get(&place)
            && fill.position == position
        {
            return self.follow(fill);
        }
        Join::Lead(self.begin(&mut inner, (key, place), position))
    }

    /// Whoever has waited for `fill` long enough leads another fetch in its place, or joins one that is there
    /// already: one at a time, however many have waited.
    pub fn succeed(
        self: &Arc<Self>,
        (key, place): (Key, Key),
        fill: &Arc<Fill>,
        position: Position,
    ) -> Join {
        let mut inner = self.lock();
        match inner.fills.get(&place) {
            Some(current) if !Arc::ptr_eq(current, fill) && current.position == position => {
                self.follow(current)
            }
            _ => Join::Lead(self.begin(&mut inner, (key, place), position)),
        }
    }

    fn follow(self: &Arc<Self>, fill: &Arc<Fill>) -> Join {
        let here = fill.waiting.fetch_add(1, Relaxed);
        let follower = Follower {
            coalescer: self.clone(),
            fill: fill.clone(),
            waiting: here + 1,
        };
        let all = self.waiting.fetch_add(1, Relaxed);
        match here < FOLLOWERS_MAX && all < ALL_FOLLOWERS_MAX {
            true => Join::Follow(follower),
            false => Join::Crowded,
        }
    }

    fn begin(
        self: &Arc<Self>,
        inner: &mut Inner,
        (key, place): (Key, Key),
        position: Position,
    ) -> Lead {
        let fill = Arc::new(Fill::new(position));
        inner.fills.insert(place, fill.clone());
        Lead {
            coalescer: self.clone(),
            key,
            place,
            fill,
        }
    }

    /// A fetch of `key` that nobody else takes part in.
    #[must_use]
    pub fn alone(self: &Arc<Self>, key: Key, position: Position) -> Lead {
        Lead {
            coalescer: self.clone(),
            key,
            place: key,
            fill: Arc::new(Fill::new(position)),
        }
    }

    /// Whether a fetch is under way at `place`.
    #[must_use]
    pub fn is_under_way(&self, place: &Key) -> bool {
        self.lock().fills.contains_key(place)
    }

    /// Remembers that answers under `key` are not shareable.
    pub fn set_apart(&self, key: Key, now: Timestamp) {
        self.lock().apart.add(key, now, REMEMBERED);
    }

    /// The same, of what is not a matter of chance: that a body is too large.
    pub fn set_apart_for_long(&self, key: Key, now: Timestamp) {
        self.lock().apart.add(key, now, REMEMBERED_MAX);
    }

    /// Forgets that: an answer under `key` has been stored.
    pub fn set_together(&self, key: &Key) {
        self.lock().apart.0.remove(key);
    }

    /// Whether [`Coalescer::set_apart`] was said of `key` lately.
    #[must_use]
    pub fn is_apart(&self, key: &Key, now: Timestamp) -> bool {
        self.lock().apart.holds(key, now)
    }

    /// Remembers that the app had nothing new for a client while nothing was stored: the next fetch
    /// under `key` is to bring the whole, whatever its client has.
    pub fn want_whole(&self, key: Key, now: Timestamp) {
        self.lock().wanted_whole.add(key, now, REMEMBERED_MAX);
    }

    /// Whether [`Coalescer::want_whole`] was said of `key` lately.
    #[must_use]
    pub fn is_wanted_whole(&self, key: &Key, now: Timestamp) -> bool {
        self.lock().wanted_whole.holds(key, now)
    }

    fn end(&self, place: &Key, fill: &Arc<Fill>) {
        let mut inner = self.lock();
        if inner
            .fills
            .get(place)
            .is_some_and(|current| Arc::ptr_eq(current, fill))
        {
            inner.fills.remove(place);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duty to fetch. However it ends, also by panic or cancellation, the followers are told.
#[derive(Debug)]
pub struct Lead {
    coalescer: Arc<Coalescer>,
    key: Key,
    place: Key,
    fill: Arc<Fill>,
}

impl Lead {
    /// What is fetched.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    /// What the followers wait for.
    #[must_use]
    pub fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    /// The app failed; followers need not try.
    pub fn fail(&self, error: UpstreamError) {
        self.fill.settle(Phase::Failed(error));
    }

    /// The answer is not theirs; each fetches for himself.
    pub fn release(&self, reason: Reason) {
        self.fill.settle(Phase::Released(reason));
    }

    /// Another sidecar has fetched it; here it is, in whole or in chunks.
    pub fn found(&self, entry: Arc<Entry>) {
        self.fill.settle(Phase::Found(entry));
    }

    /// The answer is here in whole.
    pub fn ready(&self, entry: Arc<Entry>) {
        self.fill.settle(Phase::Ready(entry));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.coalescer.end(&self.place, &self.fill);
        let mut state = self.fill.lock();
        match &mut state.phase {
            Phase::Waiting => state.phase = Phase::Released(Reason::CollapsedFailed),
            Phase::Streaming(stream) if stream.end.is_none() => stream.end = Some(End::Broken),
            _ => return,
        }
        state.wake();
    }
}

/// One fetch, as seen by everyone who takes part.
#[derive(Debug)]
pub struct Fill {
    position: Position,
    /// Requests that wait for its head.
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Whom to wake, by a number of its own: who waits again, or no longer, is found without a search.
    wakers: HashMap<u64, Waker>,
    last_number: u64,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one a fetch, and most come to be this"
)]
enum Phase {
    Waiting,
    Streaming(Stream),
    Ready(Arc<Entry>),
    Found(Arc<Entry>),
    Failed(UpstreamError),
    Released(Reason),
}

/// A body on its way in. Nothing of it is let go unless it goes into the store in pieces, or has
/// outgrown it.
#[derive(Debug)]
struct Stream {
    head: Arc<Stored>,
    length: Option<u64>,
    pieces: VecDeque<Bytes>,
    /// Pieces that have been let go, and their bytes.
    gone: usize,
    gone_bytes: u64,
    /// Bytes in `pieces`.
    held: usize,
    /// Next piece of each reader; `None` = has left. It may be gone.
    readers: Vec<Option<usize>>,
    /// Which of these have left.
    free: Vec<usize>,
    /// Where it is stored while it comes in, and how many bytes of it are.
    kept: Option<(Arc<Chunks>, u64)>,
    /// It has outgrown the store: late comers cannot join, and the slowest reader sets the pace.
    outgrown: bool,
    /// A reader has gone in the middle.
    left: bool,
    end: Option<End>,
}

impl Stream {
    /// The place of the slowest reader; `None`: nobody reads.
    fn slowest(&self) -> Option<usize> {
        self.readers.iter().flatten().min().copied()
    }

    fn let_go(&mut self) {
        if let Some(piece) = self.pieces.pop_front() {
            self.gone += 1;
            self.gone_bytes += piece.len() as u64;
            self.held -= piece.len();
        }
    }

    /// Lets go of what is stored, if nobody is to read it from here or too much is held.
    fn trim(&mut self) {
        let Some((_, kept)) = self.kept else { return };
        let slowest = self.slowest();
        while let Some(piece) = self.pieces.front()
            && self.gone_bytes + piece.len() as u64 <= kept
            && (self.held > HELD_BYTES_MAX || slowest.is_none_or(|slowest| slowest > self.gone))
        {
            self.let_go();
        }
    }
}

#[derive(Debug)]
enum End {
    Whole(HeaderMap),
    Broken,
}

/// What a follower learns when the head is there.
#[derive(Debug)]
pub enum Outcome {
    /// It streams: the head (without body), and a reader for the body.
    Streaming(Arc<Stored>, Reader),
    /// It is here in whole.
    Ready(Arc<Entry>),
    /// Another sidecar has fetched it.
    Found(Arc<Entry>),
    /// The app failed.
    Failed(UpstreamError),
    /// Not shareable.
    Released(Reason),
}

impl Outcome {
    /// What the answer varies on.
    #[must_use]
    pub fn vary(&self) -> Option<Vary> {
        match self {
            Self::Streaming(stored, _) => Some(stored.vary.clone()),
            Self::Ready(entry) | Self::Found(entry) => Some(entry.vary()),
            Self::Failed(_) | Self::Released(_) => None,
        }
    }
}

impl Fill {
    fn new(position: Position) -> Self {
        Self {
            position,
            waiting: AtomicUsize::new(0),
            state: Mutex::new(State {
                phase: Phase::Waiting,
                wakers: HashMap::new(),
                last_number: 0,
            }),
        }
    }

    /// The purge log as it was when the fetch began.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Begins to stream; the reader is the leader's.
    pub fn stream(self: &Arc<Self>, head: Arc<Stored>, length: Option<u64>) -> Reader {
        self.settle(Phase::Streaming(Stream {
            head,
            length,
            pieces: VecDeque::new(),
            gone: 0,
            gone_bytes: 0,
            held: 0,
            readers: Vec::new(),
            free: Vec::new(),
            kept: None,
            outgrown: false,
            left: false,
            end: None,
        }));
        self.read()
    }

    /// Adds a piece of the body.
    pub fn push(&self, piece: Bytes) {
        let mut state = self.lock();
        if let Phase::Streaming(stream) = &mut state.phase {
            stream.held += piece.len();
            stream.pieces.push_back(piece);
        }
        state.wake();
    }

    /// From now on the body is stored while it comes in. Returns what has come so far; nothing of it is
    /// let go before it is stored.
    pub fn keep_in(&self, chunks: Arc<Chunks>) -> Vec<Bytes> {
        let mut state = self.lock();
        let Phase::Streaming(stream) = &mut state.phase else {
            return Vec::new();
        };
        stream.kept = Some((chunks, 0));
        let pieces = stream.pieces.iter().cloned().collect();
        // Who waits for the whole in one piece waits in vain.
        state.wake();
        pieces
    }

    /// So many bytes of the body are stored.
    pub fn has_kept(&self, bytes: u64) {
        if let Phase::Streaming(stream) = &mut self.lock().phase {
            if let Some((_, kept)) = &mut stream.kept {
                *kept = bytes;
            }
            stream.trim();
        }
    }

    /// The body has come to its end.
    pub fn finish(&self, trailers: HeaderMap) {
        self.end(End::Whole(trailers));
    }

    /// The body broke off: every reader's client sees the cut.
    pub fn break_off(&self) {
        self.end(End::Broken);
    }

    /// The whole body so far and its `last` piece, which is not there yet, in one.
    #[must_use]
    pub fn body_with(&self, last: &Bytes) -> Bytes {
        match &self.lock().phase {
            Phase::Streaming(stream) => joined(stream.pieces.iter().chain([last])),
            _ => Bytes::new(),
        }
    }

    /// Waits for the end; the body in one piece, unless it broke off or is too large to be held.
    pub async fn whole(&self) -> Option<Bytes> {
        let mut seat = Seat::of(self);
        poll_fn(|context| {
            let mut state = self.lock();
            match &state.phase {
                Phase::Streaming(Stream {
                    end: None,
                    outgrown: false,
                    kept: None,
                    ..
                }) => {
                    state.wait(&mut seat.number, context);
                    Poll::Pending
                }
                Phase::Streaming(Stream {
                    end: Some(End::Whole(_)),
                    outgrown: false,
                    kept: None,
                    pieces,
                    ..
                }) => Poll::Ready(Some(joined(pieces.iter()))),
                _ => Poll::Ready(None),
            }
        })
        .await
    }

    /// Waits until no more than `bytes_max` are held for readers. Returns whether anybody still reads.
    pub async fn drained(&self, bytes_max: usize) -> bool {
        let mut seat = Seat::of(self);
        poll_fn(|context| {
            let mut state = self.lock();
            let Phase::Streaming(stream) = &mut state.phase else {
                return Poll::Ready(false);
            };
            stream.outgrown = true;
            let Some(slowest) = stream.slowest() else {
                return Poll::Ready(false);
            };
            while stream.gone < slowest && !stream.pieces.is_empty() {
                stream.let_go();
            }
            if stream.held <= bytes_max {
                return Poll::Ready(true);
            }
            state.wait(&mut seat.number, context);
            Poll::Pending
        })
        .await
    }

    /// Whether those who read it have gone in the middle, and nobody else waits.
    #[must_use]
    pub fn is_forsaken(&self) -> bool {
        let is_left = match &self.lock().phase {
            Phase::Streaming(stream) => stream.left && stream.slowest().is_none(),
            _ => false,
        };
        is_left && self.waiting.load(Relaxed) == 0
    }

    /// Waits for the head.
    pub async fn outcome(self: &Arc<Self>) -> Outcome {
        let mut seat = Seat::of(self);
        poll_fn(|context| {
            let mut state = self.lock();
            let outcome = match &state.phase {
                Phase::Waiting => {
                    state.wait(&mut seat.number, context);
                    return Poll::Pending;
                }
                Phase::Streaming(stream) if stream.outgrown => Outcome::Released(Reason::TooLarge),
                Phase::Streaming(stream) => {
                    let head = stream.head.clone();
                    drop(state);
                    return Poll::Ready(Outcome::Streaming(head, self.read()));
                }
                Phase::Ready(entry) => Outcome::Ready(entry.clone()),
                Phase::Found(entry) => Outcome::Found(entry.clone()),
                Phase::Failed(error) => Outcome::Failed(*error),
                Phase::Released(reason) => Outcome::Released(*reason),
            };
            Poll::Ready(outcome)
        })
        .await
    }

    fn read(self: &Arc<Self>) -> Reader {
        let mut state = self.lock();
        let (slot, length) = match &mut state.phase {
            Phase::Streaming(stream) => {
                let slot = stream.free.pop().unwrap_or(stream.readers.len());
                match stream.readers.get_mut(slot) {
                    Some(reader) => *reader = Some(0),
                    None => stream.readers.push(Some(0)),
                }
                (slot, stream.length)
            }
            _ => (0, None),
        };
        Reader {
            fill: self.clone(),
            slot,
            next: 0,
            read: 0,
            length,
            ended: false,
            number: None,
        }
    }

    fn settle(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = phase;
        state.wake();
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        if let Phase::Streaming(stream) = &mut state.phase
            && stream.end.is_none()
        {
            stream.end = Some(end);
        }
        state.wake();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of `chunks` in room of just their size. A single one is copied, too: it would keep the whole
/// buffer that it was read into.
fn joined<'a>(chunks: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let bytes = chunks.clone().map(Bytes::len).sum();
    let mut whole = Vec::with_capacity(bytes);
    chunks.for_each(|chunk| whole.extend_from_slice(chunk));
    whole.into()
}

impl State {
    /// `number` is the waiting one's, who has to [`State::forget`] it.
    fn wait(&mut self, number: &mut Option<u64>, context: &Context<'_>) {
        let number = *number.get_or_insert_with(|| {
            self.last_number += 1;
            self.last_number
        });
        self.wakers
            .entry(number)
            .and_modify(|waker| waker.clone_from(context.waker()))
            .or_insert_with(|| context.waker().clone());
    }

    /// A waker keeps the memory of its task: clients that come and go in front of a slow app would fill it.
    fn forget(&mut self, number: Option<u64>) {
        if let Some(number) = number {
            self.wakers.remove(&number);
        }
    }

    fn wake(&mut self) {
        self.wakers.drain().for_each(|(_, waker)| waker.wake());
    }
}

/// Somebody's place among those who are woken; free again when dropped.
struct Seat<'a> {
    fill: &'a Fill,
    number: Option<u64>,
}

impl<'a> Seat<'a> {
    fn of(fill: &'a Fill) -> Self {
        Self { fill, number: None }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if self.number.is_some() {
            self.fill.lock().forget(self.number);
        }
    }
}

/// Reads a fetch's body from its first byte, however late it came.
#[derive(Debug)]
pub struct Reader {
    fill: Arc<Fill>,
    slot: usize,
    /// The next piece, unless that is gone.
    next: usize,
    /// Bytes read so far.
    read: u64,
    length: Option<u64>,
    ended: bool,
    /// Among those who are woken.
    number: Option<u64>,
}

impl Reader {
    /// The body's length, where the app stated it.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// What comes next of it, from here or from where it is stored.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if self.ended {
            return Poll::Ready(Next::Frame(None));
        }
        let mut state = self.fill.lock();
        let Phase::Streaming(stream) = &mut state.phase else {
            self.ended = true;
            return Poll::Ready(Next::Frame(Some(Err(BodyError::Shared))));
        };
        if self.read < stream.gone_bytes {
            // What is let go before everybody has read it is stored.
            let Some((chunks, _)) = &stream.kept else {
                self.ended = true;
                return Poll::Ready(Next::Frame(Some(Err(BodyError::Shared))));
            };
            let stored = (Arc::clone(chunks), self.read..stream.gone_bytes);
            return Poll::Ready(Next::Stored(stored.0, stored.1));
        }
        let mut begun = 0;
        if self.next < stream.gone {
            // It was behind: somewhere in one of these it is again.
            self.next = stream.gone;
            let mut at = stream.gone_bytes;
            for piece in &stream.pieces {
                let end = at + piece.len() as u64;
                if self.read < end {
                    break;
                }
                at = end;
                self.next += 1;
            }
            begun = (self.read - at) as usize;
        }
        if let Some(piece) = stream.pieces.get(self.next - stream.gone) {
            let piece = piece.slice(begun..);
            self.next += 1;
            self.read += piece.len() as u64;
            stream.readers[self.slot] = Some(self.next);
            if stream.outgrown {
                // The fetch may be waiting for the slowest of us.
                state.wake();
            }
            return Poll::Ready(Next::Frame(Some(Ok(Frame::data(piece)))));
        }
        match &stream.end {
            None => {
                state.wait(&mut self.number, context);
                Poll::Pending
            }
            Some(End::Broken) => {
                self.ended = true;
                Poll::Ready(Next::Frame(Some(Err(BodyError::Shared))))
            }
            Some(End::Whole(trailers)) => {
                self.ended = true;
                let trailers =
                    (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers.clone())));
                Poll::Ready(Next::Frame(trailers))
            }
        }
    }

    /// So many bytes were read where they are stored.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.read += bytes as u64;
    }
}

/// What comes next of a fetch's body.
#[derive(Debug)]
pub(super) enum Next {
    /// This, or the end.
    Frame(Option<Result<Frame<Bytes>, BodyError>>),
    /// A part that is only in the store any more; see [`Reader::skip`].
    Stored(Arc<Chunks>, Range<u64>),
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.fill.lock();
        state.forget(self.number);
        if let Phase::Streaming(stream) = &mut state.phase
            && let Some(reader) = stream.readers.get_mut(self.slot)
        {
            *reader = None;
            stream.free.push(self.slot);
            stream.left |= self.read > 0 && !self.ended;
            if stream.outgrown {
                state.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::KeyBuilder;
    use http_body_util::BodyExt;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn key(name: &str) -> Key {
        KeyBuilder::new(name).finish()
    }

    fn lead(coalescer: &Arc<Coalescer>, key: Key) -> Lead {
        match coalescer.join((key, key), Position::default(), NOW) {
            Join::Lead(lead) => lead,
            other => panic!("expected to lead, got {other:?}"),
        }
    }

    fn follow(coalescer: &Arc<Coalescer>, key: Key) -> Arc<Fill> {
        match coalescer.join((key, key), Position::default(), NOW) {
            Join::Follow(follower) => follower.fill().clone(),
            other => panic!("expected to follow, got {other:?}"),
        }
    }

    fn head() -> Arc<Stored> {
        Arc::new(crate::semantics::testing::stored(
            "Cache-Control: max-age=60",
        ))
    }

    async fn text(reader: Reader) -> Result<String, BodyError> {
        let body = crate::proxy::Body::shared(reader, None, None)
            .collect()
            .await?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }

    #[tokio::test]
    async fn a_follower_reads_from_the_first_byte_however_late_it_came() {
        let coalescer = Arc::new(Coalescer::default());
        let lead = lead(&coalescer, key("a"));
        let fill = lead.fill().clone();
        let leader = fill.stream(head(), None);
        fill.push(Bytes::from_static(b"one "));
        let follower = follow(&coalescer, key("a"));
        let Outcome::Streaming(_, reader) = follower.outcome().await else {
            panic!("the head is there");
        };
        fill.push(Bytes::from_static(b"two"));
        fill.finish(HeaderMap::new());
        drop(lead);
        assert_eq!(text(reader).await.unwrap(), "one two");
        assert_eq!(text(leader).await.unwrap(), "one two");
        assert_eq!(fill.whole().await.unwrap(), "one two");
    }

    #[tokio::test]
    async fn what_is_kept_is_not_the_buffer_that_it_was_read_into() {
        let coalescer = Arc::new(Coalescer::default());
        let lead = lead(&coalescer, key("a"));
        let _reader = lead.fill().stream(head(), None);
        let buffer = Bytes::from(vec![b'x'; 8_192]);
        let last = lead.fill().body_with(&buffer.slice(..3));
        lead.fill().push(buffer.slice(..3));
        lead.fill().finish(HeaderMap::new());
        let whole = lead.fill().whole().await.unwrap();
        for body in [last, whole] {
            assert_eq!(body, "xxx");
            assert_ne!(body.as_ptr(), buffer.as_ptr());
        }
    }

    #[tokio::test]
    async fn a_leader_that_vanishes_releases_its_followers() {
        let coalescer = Arc::new(Coalescer::default());
        let lead_of_a = lead(&coalescer, key("a"));
        let follower = follow(&coalescer, key("a"));
        let waiting = tokio::spawn(async move { follower.outcome().await });
        drop(lead_of_a);
        assert!(matches!(
            waiting.await.unwrap(),
            Outcome::Released(Reason::CollapsedFailed)
        ));
        drop(lead(&coalescer, key("a")));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_never_taken_for_the_whole() {
        let coalescer = Arc::new(Coalescer::default());
        let lead = lead(&coalescer, key("a"));
        let reader = lead.fill().stream(head(), Some(10));
        lead.fill().push(Bytes::from_static(b"half"));
        let fill = lead.fill().clone();
        drop(lead);
        assert!(text(reader).await.is_err());
        assert!(fill.whole().await.is_none());
    }

    #[tokio::test]
    async fn what_has_outgrown_the_store_is_let_go_once_read() {
        let coalescer = Arc::new(Coalescer::default());
        let lead = lead(&coalescer, key("a"));
        let fill = lead.fill().clone();
        let mut reader = fill.stream(head(), None);
        fill.push(Bytes::from(vec![0; 100]));
        fill.push(Bytes::from(vec![0; 100]));
        let waiting = tokio::spawn({
            let fill = fill.clone();
            async move { fill.drained(50).await }
        });
        for _ in 0..2 {
            poll_fn(|context| reader.poll_next(context)).await;
        }
        assert!(waiting.await.unwrap());
        assert!(matches!(
            fill.outcome().await,
            Outcome::Released(Reason::TooLarge)
        ));
        drop(reader);
        assert!(!fill.drained(50).await, "nobody reads any more");
    }

    /// What a reader is given next, if it need not wait: bytes from here, or what to read where it is stored.
    fn next(reader: &mut Reader) -> Option<Result<Bytes, Range<u64>>> {
        match reader.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Next::Frame(Some(Ok(frame)))) => Some(Ok(frame.into_data().unwrap())),
            Poll::Ready(Next::Stored(_, range)) => Some(Err(range)),
            _ => None,
        }
    }

    #[test]
    fn of_what_is_stored_while_it_comes_only_the_last_is_held_and_nobody_waits_for_the_slow() {
        let coalescer = Arc::new(Coalescer::default());
        let lead = lead(&coalescer, key("a"));
        let fill = lead.fill().clone();
        let mut slow = fill.stream(head(), None);
        let mut fast = fill.read();
        let piece = Bytes::from(vec![7; 100_000]);
        fill.push(piece.clone());
        let before = fill.keep_in(Arc::new(Chunks::testing()));
        assert_eq!(before, std::slice::from_ref(&piece), "to be stored first");
        // Nothing is let go that is not stored, however much it is.
        for _ in 0..19 {
            fill.push(piece.clone());
        }
        for _ in 0..20 {
            assert_eq!(next(&mut fast), Some(Ok(piece.clone())));
        }
        assert_eq!(next(&mut fast), None);
        assert_eq!(next(&mut slow), Some(Ok(piece.clone())));
        fill.has_kept(2_000_000);
        let gone = 2_000_000 - (HELD_BYTES_MAX as u64 / 100_000) * 100_000;
        assert_eq!(next(&mut slow), Some(Err(100_000..gone)));
        // It reads there to somewhere, and here again from within a piece.
        slow.skip((gone - 100_000) as usize);
        slow.skip(30_000);
        assert_eq!(next(&mut slow), Some(Ok(piece.slice(30_000..))));
        assert_eq!(next(&mut slow), Some(Ok(piece.clone())));
        // Who comes late begins where the body does.
        let mut late = fill.read();
        assert_eq!(next(&mut late), Some(Err(0..gone)));
        // With nobody behind, what is stored is not held at all.
        drop((slow, late));
        fill.push(piece);
        assert!(next(&mut fast).is_some());
        fill.has_kept(2_100_000);
        let Phase::Streaming(stream) = &fill.lock().phase else {
            panic!("it streams");
        };
        assert_eq!((stream.held, stream.gone_bytes), (0, 2_100_000));
    }

    #[test]
    fn who_no_longer_waits_is_not_kept_in_mind() {
        let coalescer = Arc::new(Coalescer::default());
        let lead = lead(&coalescer, key("a"));
        let fill = lead.fill().clone();
        let mut context = Context::from_waker(Waker::noop());
        let remembered = |fill: &Fill| fill.lock().wakers.len();
        for _ in 0..10 {
            let mut gone = Box::pin(fill.outcome());
            assert!(gone.as_mut().poll(&mut context).is_pending());
            assert!(gone.as_mut().poll(&mut context).is_pending());
            assert_eq!(remembered(&fill), 1, "once, however often it is asked");
        }
        assert_eq!(remembered(&fill), 0);
        let mut reader = fill.stream(head(), None);
        for _ in 0..10 {
            let mut gone = fill.read();
            assert!(gone.poll_next(&mut context).is_pending());
            assert_eq!(gone.slot, 1, "a place that was left is taken again");
        }
        assert!(reader.poll_next(&mut context).is_pending());
        assert_eq!(remembered(&fill), 1);
    }

    #[test]
    fn a_fetch_from_before_a_purge_is_not_joined() {
        let coalescer = Arc::new(Coalescer::default());
        let _before = lead(&coalescer, key("a"));
        let after = Position {
            log: (0, 0),
            local: 1,
        };
        assert!(matches!(
            coalescer.join((key("a"), key("a")), after, NOW),
            Join::Lead(_)
        ));
    }

    #[test]
    fn nobody_queues_behind_what_is_not_shareable_until_it_is_forgotten() {
        let coalescer = Arc::new(Coalescer::default());
        let key = key("a");
        coalescer.set_apart(key, NOW);
        assert!(coalescer.is_apart(&key, NOW));
        assert!(matches!(
            coalescer.join((key, key), Position::default(), NOW),
            Join::Apart
        ));
        // Once is soon forgotten; what is true again and again is remembered longer, up to a bound.
        let mut now = NOW;
        for length in [5, 10, 20, 40, 60, 60].map(Duration::from_secs) {
            coalescer.set_apart(key, now);
            coalescer.set_apart(key, now + Duration::from_secs(1));
            assert!(coalescer.is_apart(&key, now + length), "{length:?}");
            now = now + length + Duration::from_secs(1);
            assert!(!coalescer.is_apart(&key, now), "{length:?}");
        }
        // Long after, it is as if it had never been; and so it is once an answer was shared.
        now = now + Duration::from_secs(600);
        coalescer.set_apart(key, now);
        assert!(!coalescer.is_apart(&key, now + REMEMBERED));
        coalescer.set_apart(key, now);
        coalescer.set_together(&key);
        assert!(!coalescer.is_apart(&key, now));
    }

    #[test]
    fn those_who_wait_are_bounded_for_one_fetch_and_for_all() {
        let coalescer = Arc::new(Coalescer::default());
        let keys: Vec<_> = (0..6).map(|n| key(&n.to_string())).collect();
        let _leads: Vec<_> = keys.iter().map(|key| lead(&coalescer, *key)).collect();
        let join = |key: Key| coalescer.join((key, key), Position::default(), NOW);
        let mut waiting = Vec::new();
        for key in &keys[..5] {
            for _ in 0..FOLLOWERS_MAX {
                let Join::Follow(follower) = join(*key) else {
                    panic!("there is room");
                };
                waiting.push(follower);
            }
            assert!(matches!(join(*key), Join::Crowded));
        }
        assert_eq!(waiting.len(), ALL_FOLLOWERS_MAX);
        assert!(matches!(join(keys[5]), Join::Crowded));
        waiting.pop();
        assert!(matches!(join(keys[5]), Join::Follow(_)));
        waiting.clear();
        assert_eq!(coalescer.waiting.load(Relaxed), 0);
    }

    #[test]
    fn of_all_who_have_waited_long_enough_one_leads_and_the_others_follow_it() {
        let coalescer = Arc::new(Coalescer::default());
        let key = key("a");
        let first = lead(&coalescer, key);
        let slow = follow(&coalescer, key);
        let succeed = || coalescer.succeed((key, key), &slow, Position::default());
        let Join::Lead(second) = succeed() else {
            panic!("somebody has to");
        };
        for _ in 0..3 {
            let Join::Follow(follower) = succeed() else {
                panic!("one is enough");
            };
            assert!(Arc::ptr_eq(follower.fill(), second.fill()));
        }
        // The first one's end leaves the second alone.
        drop(first);
        assert!(Arc::ptr_eq(&follow(&coalescer, key), second.fill()));
    }
}
