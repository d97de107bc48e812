//! A large body on its way into Redis, chunk by chunk while it comes in.
//!
//! It holds one chunk that is gathered and one that is being written. A Redis that does not take a chunk
//! in time ends the storing, never the fetch. What was written of a fill that did not come to its end is
//! left to end soon by itself.

use super::chunks::{CHUNK_BYTES, Chunks, GIVEN_UP_TIME, READERS_TIME};
use super::codec;
use super::redis_tier::{RedisTier, TTL_MAX};
use crate::semantics::Key;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

/// Told how many bytes of the content are in Redis, each time that it is more.
type Kept = Arc<dyn Fn(u64) + Send + Sync>;

/// A body that is being stored.
pub struct Filling {
    tier: Arc<RedisTier>,
    key: Key,
    variant: Option<Key>,
    /// Of a length not known yet.
    chunks: Arc<Chunks>,
    life: Duration,
    may_shrink: bool,
    gathered: Vec<u8>,
    /// Chunks handed to the writer.
    count: u32,
    bytes: u64,
    under_way: Option<JoinHandle<bool>>,
    kept: Kept,
    is_over: bool,
    /// Given back with it.
    _room: OwnedSemaphorePermit,
}

/// Nothing more is stored of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp;

impl Filling {
    /// Begins to store the content of `key` (or its `variant`) under a generation of its own; `keep` is
    /// how long the entry is to live, and `may_shrink` whether compressing may pay. `room` is one of the
    /// places that there are for such.
    pub(super) fn begin(
        tier: Arc<RedisTier>,
        key: Key,
        variant: Option<Key>,
        (keep, may_shrink): (Duration, bool),
        kept: Kept,
        room: OwnedSemaphorePermit,
    ) -> Self {
        let name = tier.names().of(&key, variant.as_ref());
        let bound_to = variant.unwrap_or(key);
        let generation = fastrand::u64(..);
        let chunks = Chunks::new(bound_to, name, generation, u64::MAX, CHUNK_BYTES);
        Self {
            tier,
            key,
            variant,
            chunks: Arc::new(chunks),
            life: keep.min(TTL_MAX),
            may_shrink,
            gathered: Vec::new(),
            count: 0,
            bytes: 0,
            under_way: None,
            kept,
            is_over: false,
            _room: room,
        }
    }

    /// Where what is stored so far can be read, up to what was told.
    #[must_use]
    pub fn chunks(&self) -> Arc<Chunks> {
        Arc::clone(&self.chunks)
    }

    /// Where it is stored.
    pub(super) const fn place(&self) -> (Key, Option<Key>) {
        (self.key, self.variant)
    }

    /// Adds what came next. Waits while the chunk before is being written, which takes no longer than
    /// `redis.timeout`.
    pub async fn add(&mut self, mut piece: &[u8]) -> Result<(), GivenUp> {
        self.bytes += piece.len() as u64;
        while !piece.is_empty() {
            if self.gathered.capacity() == 0 {
                self.gathered.reserve_exact(CHUNK_BYTES as usize);
            }
            let room = CHUNK_BYTES as usize - self.gathered.len();
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.gathered.extend_from_slice(now);
            piece = later;
            if self.gathered.len() == CHUNK_BYTES as usize {
                self.write().await?;
            }
        }
        Ok(())
    }

    /// Writes what is left, and returns what there is in all once Redis has it.
    pub(super) async fn close(&mut self) -> Result<Arc<Chunks>, GivenUp> {
        if !self.gathered.is_empty() {
            self.write().await?;
        }
        self.written().await?;
        let Chunks {
            key,
            name,
            generation,
            chunk_bytes,
            ..
        } = &*self.chunks;
        let chunks = Chunks::new(*key, name.clone(), *generation, self.bytes, *chunk_bytes);
        Ok(Arc::new(chunks))
    }

    /// The entry has its value: its chunks stay as long as that.
    pub(super) fn settle(mut self) {
        self.is_over = true;
    }

    /// Hands the gathered chunk over, once the one before it is written.
    async fn write(&mut self) -> Result<(), GivenUp> {
        self.written().await?;
        let Chunks {
            key, generation, ..
        } = &*self.chunks;
        let index = self.count;
        let (place, seal) = ((*generation, index), self.tier.seal());
        let frame = codec::encode_chunk(key, place, &self.gathered, self.may_shrink, &seal);
        let end = u64::from(index) * u64::from(CHUNK_BYTES) + self.gathered.len() as u64;
        self.gathered.clear();
        self.count += 1;
        let (tier, kept) = (Arc::clone(&self.tier), Arc::clone(&self.kept));
        let (name, life) = (self.chunks.name(index), self.life + READERS_TIME);
        self.under_way = Some(tokio::spawn(async move {
            let is_kept = tier.put_chunk(&name, &frame, life).await;
            if is_kept {
                kept(end);
            }
            is_kept
        }));
        Ok(())
    }

    /// Waits for the chunk that is being written.
    async fn written(&mut self) -> Result<(), GivenUp> {
        let is_written = match self.under_way.take() {
            Some(under_way) => under_way.await.unwrap_or(false),
            None => true,
        };
        is_written.then_some(()).ok_or(GivenUp)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (tier, chunks, count) = (self.tier.clone(), self.chunks(), self.count);
        let let_go = move || tier.let_go(&chunks, 0..count, GIVEN_UP_TIME);
        match (self.under_way.take(), Handle::try_current()) {
            // What is being written would come after it.
            (Some(under_way), Ok(runtime)) => drop(runtime.spawn(async move {
                let _ = under_way.await;
                let_go();
            })),
            _ => let_go(),
        }
    }
}

impl fmt::Debug for Filling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filling")
            .field("chunks", &self.chunks)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
