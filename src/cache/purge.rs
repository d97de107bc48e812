//! The purge log: what was purged, in which order (one Redis Stream per namespace).

/// A place in the purge log. An entry is valid only if no later purge matches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The last entry of the Redis Stream that had been replayed here (milliseconds, sequence).
    pub log: (u64, u64),
    /// Purges applied in this process so far.
    pub local: u64,
}

/// One purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// What it hits.
    pub scope: Scope,
    /// Stale and refreshed behind (soft), or gone (hard).
    pub soft: bool,
}

/// What a purge hits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything with this tag.
    Tag(String),
    /// One URL (`host/path?query`, or `/path?query` on every host) with all its variants.
    Url(String),
    /// Everything whose path begins so.
    Prefix(String),
    /// Everything.
    All,
}

/// How a purge went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeOutcome {
    /// In the log: every sidecar that sees Redis obeys it.
    Logged,
    /// Done here; kept for the others until Redis is back.
    Queued,
    /// There is no Redis: done here, and here is everywhere.
    Local,
}
