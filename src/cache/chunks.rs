//! Content too large for one value: chunks, each under a name of its own in the slot of its entry's key.
//!
//! Here are their names, their bounds, and the reading of them one after the other, as fast as the
//! client takes them. The entry's own value is written last and ends first, so that who finds it finds
//! the chunks. Whether an entry may be used is not decided here.

use super::Corrupt;
use super::codec;
use super::redis_tier::RedisTier;
use super::seal::Seal;
use crate::semantics::Key;
use bytes::Bytes;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Bytes of content in a chunk; with its frame just below a power of two, as rooms are handed out.
pub const CHUNK_BYTES: u32 = 128 * 1024 - 128;
/// The largest chunk that is read: another sidecar may write other sizes.
pub const CHUNK_BYTES_MAX: u32 = 1024 * 1024;
/// The most chunks of one entry.
pub const CHUNKS_MAX: u64 = 1 << 20;
/// How long chunks outlive their entry's value, and those of a replaced entry live on: what a reader has
/// who has just begun.
pub const READERS_TIME: Duration = Duration::from_secs(5 * 60);
/// How long what was written of a fill that is given up lives on: who follows it may be behind.
pub const GIVEN_UP_TIME: Duration = Duration::from_secs(60);
/// How long a chunk may take to come once its answer has begun: several times what a request waits for
/// Redis, since there is nothing else to go on with.
pub const CHUNK_TIME: Duration = Duration::from_secs(3);
/// Bytes handed out at a time. The next chunk is asked for with the last of one, so that a client that
/// has stopped somewhere holds one chunk and seldom two.
const SLICE_BYTES: usize = 64 * 1024;
/// The most chunks whose presence is looked at before an answer begins, or whose lives are lengthened at a
/// time for one who reads.
pub const TOUCHED_MAX: usize = 1_024;

/// A chunk cannot be had: it is gone, damaged, or too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunk of the stored content is missing")]
pub struct Gone;

/// Where the content of one entry lies.
#[derive(Debug)]
pub struct Chunks {
    /// What its frames are bound to.
    pub(super) key: Key,
    /// How its value is called in Redis; its chunks are called after it.
    pub(super) name: String,
    /// Tells the chunks of one fill from those of another.
    pub(super) generation: u64,
    /// All bytes of the content.
    pub(super) bytes: u64,
    /// Bytes of every chunk but the last.
    pub(super) chunk_bytes: u32,
    /// The chunk that an answer begins with, read before it does.
    opened: Mutex<Option<(u32, Bytes)>>,
}

impl Chunks {
    /// The chunks of one generation. `chunk_bytes` and `bytes` are within their bounds, and not 0.
    #[must_use]
    pub(super) fn new(
        key: Key,
        name: String,
        generation: u64,
        bytes: u64,
        chunk_bytes: u32,
    ) -> Self {
        Self {
            key,
            name,
            generation,
            bytes,
            chunk_bytes,
            opened: Mutex::default(),
        }
    }

    /// Those of a fill that is under way.
    #[cfg(test)]
    pub(crate) fn testing() -> Self {
        Self::new(Key::from_bytes([0; 16]), String::new(), 0, u64::MAX, 100)
    }

    /// Bytes of the content.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is not known yet how much there will be.
    pub(super) fn is_filling(&self) -> bool {
        self.bytes == u64::MAX
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        let count = self.bytes.div_ceil(self.chunk_bytes.into());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How a chunk is called in Redis.
    #[must_use]
    pub fn name(&self, index: u32) -> String {
        format!("{}:{:016x}:{index}", self.name, self.generation)
    }

    /// The names of all chunks. With the entry's own, these are all keys of an entry in Redis.
    pub fn names(&self) -> impl Iterator<Item = String> {
        (0..self.count()).map(|index| self.name(index))
    }

    /// The chunk in which this byte of the content is.
    pub(super) fn index(&self, at: u64) -> u32 {
        // There are never more than fit.
        u32::try_from(at / u64::from(self.chunk_bytes)).unwrap_or(u32::MAX)
    }

    /// What of the content is in a chunk.
    pub(super) fn span(&self, index: u32) -> Range<u64> {
        let start = u64::from(index) * u64::from(self.chunk_bytes);
        start..(start + u64::from(self.chunk_bytes)).min(self.bytes)
    }

    /// What a chunk's frame holds, if it is just that chunk.
    pub(super) fn read(&self, frame: &Bytes, index: u32, seal: &Seal) -> Result<Bytes, Corrupt> {
        let place = (self.generation, index);
        let content = codec::decode_chunk(frame, &self.key, place, seal)?;
        let span = self.span(index);
        match content.len() as u64 == span.end - span.start {
            true => Ok(content),
            false => Err(Corrupt::Malformed),
        }
    }

    /// Keeps a chunk for the answer that begins with it.
    pub(super) fn open(&self, index: u32, content: Bytes) {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, content));
    }

    /// The chunk that was read already, if it is this one.
    fn take_opened(&self, index: u32) -> Option<Bytes> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened
            .take_if(|(held, _)| *held == index)
            .map(|(_, content)| content)
    }
}

/// Reads a part of the content, chunk by chunk.
#[derive(Debug)]
pub struct ChunkReader {
    tier: Arc<RedisTier>,
    chunks: Arc<Chunks>,
    /// What is still to be handed out.
    left: Range<u64>,
    /// The beginning of that, which is here.
    ready: Bytes,
    under_way: Option<UnderWay>,
}

impl ChunkReader {
    pub(super) fn new(tier: Arc<RedisTier>, chunks: Arc<Chunks>, range: Range<u64>) -> Self {
        let mut reader = Self {
            tier,
            chunks,
            left: range,
            ready: Bytes::new(),
            under_way: None,
        };
        let index = reader.chunks.index(reader.left.start);
        if let Some(content) = reader.chunks.take_opened(index) {
            reader.hold(index, &content);
        }
        reader
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left.end.saturating_sub(self.left.start)
    }

    /// What of the content is still to come.
    #[must_use]
    pub fn rest(&self) -> Range<u64> {
        self.left.clone()
    }

    /// The next piece. [`Gone`] is the last.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Gone>>> {
        if self.left() == 0 {
            return Poll::Ready(None);
        }
        let index = self.chunks.index(self.left.start);
        let last = match self.chunks.is_filling() {
            // More is stored meanwhile, and is read next.
            true => u32::MAX,
            false => self.chunks.index(self.left.end - 1),
        };
        if self.ready.is_empty() {
            let (tier, chunks) = (&self.tier, &self.chunks);
            let under_way = self
                .under_way
                .get_or_insert_with(|| UnderWay::begin(tier, chunks, index, last));
            let read = ready!(Pin::new(&mut under_way.0).poll(context));
            self.under_way = None;
            match read {
                Ok(Ok(content)) => self.hold(index, &content),
                Ok(Err(Gone)) | Err(_) => return Poll::Ready(Some(Err(Gone))),
            }
        }
        let piece = self.ready.split_to(SLICE_BYTES.min(self.ready.len()));
        self.left.start += piece.len() as u64;
        if self.ready.is_empty() && self.left() > 0 {
            let next = self.chunks.index(self.left.start);
            self.under_way = Some(UnderWay::begin(&self.tier, &self.chunks, next, last));
        }
        Poll::Ready(Some(Ok(piece)))
    }

    /// Takes what is wanted of a chunk.
    fn hold(&mut self, index: u32, content: &Bytes) {
        let span = self.chunks.span(index);
        // Both are within one chunk.
        let at = |place: u64| place.clamp(span.start, span.end).saturating_sub(span.start) as usize;
        self.ready = content.slice(at(self.left.start)..at(self.left.end));
    }
}

/// A chunk that was asked for. In a task of its own: one that waits for a client to go on would keep its
/// place on the connection to Redis, of which there are only so many.
#[derive(Debug)]
struct UnderWay(JoinHandle<Result<Bytes, Gone>>);

impl UnderWay {
    fn begin(tier: &Arc<RedisTier>, chunks: &Arc<Chunks>, index: u32, last: u32) -> Self {
        let (tier, chunks) = (Arc::clone(tier), Arc::clone(chunks));
        Self(tokio::spawn(async move {
            tier.chunk(&chunks, index, last).await
        }))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(bytes: u64) -> Chunks {
        let name = "shop:1:{00}".to_owned();
        Chunks::new(Key::from_bytes([7; 16]), name, 0xab, bytes, 100)
    }

    #[test]
    fn every_byte_is_in_one_chunk_and_the_last_may_be_short() {
        for (bytes, count, last) in [(1, 1, 0..1), (100, 1, 0..100), (101, 2, 100..101)] {
            let chunks = chunks(bytes);
            assert_eq!((chunks.count(), chunks.span(count - 1)), (count, last));
            assert_eq!(chunks.index(bytes - 1), count - 1);
        }
    }

    #[test]
    fn chunks_are_called_after_their_entry_and_their_fill() {
        let names: Vec<_> = chunks(150).names().collect();
        let expected = [
            "shop:1:{00}:00000000000000ab:0",
            "shop:1:{00}:00000000000000ab:1",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_chunk_is_that_of_its_key_its_fill_and_its_place_or_none() {
        let (ours, seal) = (chunks(150), Seal::default());
        let frame = |generation, index, length| {
            let content = vec![b'x'; length];
            Bytes::from(codec::encode_chunk(
                &ours.key,
                (generation, index),
                &content,
                true,
                &seal,
            ))
        };
        assert_eq!(
            ours.read(&frame(0xab, 1, 50), 1, &seal).unwrap(),
            vec![b'x'; 50]
        );
        for other in [frame(0xac, 1, 50), frame(0xab, 0, 50), frame(0xab, 1, 49)] {
            assert!(ours.read(&other, 1, &seal).is_err());
        }
        let mut damaged = frame(0xab, 1, 50).to_vec();
        damaged[60] ^= 1;
        assert!(ours.read(&damaged.into(), 1, &seal).is_err());
    }
}
