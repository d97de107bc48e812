//! The store: memory in front of Redis, and the purge log that both obey.
//!
//! Memory is synchronous and certain; Redis is asynchronous and may be out. An outage is a miss on
//! the way in and nothing at all on the way out.

pub mod codec;
pub mod memory;
pub mod purge;
pub mod redis_tier;

pub use purge::{Position, Purge, PurgeOutcome};

use crate::semantics::{Key, Reason, Stored, Timestamp};
use http::HeaderMap;
use std::sync::Arc;
use std::time::Duration;

/// A stored response with what the store itself knows of it.
#[derive(Debug)]
pub struct Entry {
    /// The response.
    pub stored: Stored,
    /// Tags, sorted, each once.
    pub tags: Box<[Box<str>]>,
    /// Path and query it was stored for; purges by URL and prefix look at it. Host first: `host/path?query`.
    pub url: Box<str>,
    /// The purge log as seen when the fetch that made it began.
    pub position: Position,
    /// How long the app took to give it: what a hit spares.
    pub app_time: Duration,
}

/// Which tier an entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// This process.
    Memory,
    /// Redis.
    Redis,
}

/// What the store holds for a request.
#[derive(Debug)]
pub enum Lookup {
    /// A response that matches key and Vary and is not (hard) purged. It may be stale.
    Found {
        /// It.
        entry: Arc<Entry>,
        /// Where.
        tier: Tier,
        /// Whether a soft purge made it stale.
        softly_purged: bool,
    },
    /// Nothing, and why: cold, purged, vary, evicted.
    Absent(Reason),
}

/// The store of one worker: memory and purge log are shared by all workers, connections are not.
#[derive(Clone, Debug)]
pub struct Cache {}

impl Cache {
    /// What is held for `key` and the Vary-selecting fields of `request`.
    pub async fn lookup(&self, key: &Key, request: &HeaderMap, now: Timestamp) -> Lookup {
        let _ = (key, request, now);
        Lookup::Absent(Reason::Cold)
    }

    /// The purge log's position now; read it before a fetch begins.
    #[must_use]
    pub fn position(&self) -> Position {
        unimplemented!()
    }

    /// Keeps an entry: in memory at once, in Redis behind. Never waits for Redis.
    pub fn store(&self, key: &Key, entry: Arc<Entry>, now: Timestamp) {
        let _ = (key, entry, now);
    }

    /// Drops what is held under `key`, in both tiers.
    pub async fn remove(&self, key: &Key) {
        let _ = key;
    }

    /// Purges: here at once, for the other sidecars through the log. Returns when the log has it,
    /// or says that it is queued.
    pub async fn purge(&self, purges: Vec<Purge>, now: Timestamp) -> PurgeOutcome {
        let _ = (purges, now);
        unimplemented!()
    }
}
