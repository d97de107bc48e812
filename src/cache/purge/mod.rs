//! Purges: what they hit, in which order, and how every sidecar comes to obey them.
//!
//! [`Table`] is pure: purges go in, verdicts on entries come out. The ledger is pure, too: what a sidecar
//! has still to say, and how far it may trust what it holds. [`PurgeLog`] shares one of them among all
//! workers, appends their purges to one Redis Stream per namespace and replays what others appended. A
//! log that is missing, was trimmed past our place or went backwards means that everything older is
//! stale, never that nothing was purged. Nothing here fetches or removes an entry.

mod ledger;
mod log;
mod pattern;
#[cfg(test)]
mod simulation;
mod table;
mod wire;

pub use ledger::{LOG_AWAY_MAX, LOST_MAX, OUTBOX_MAX, SETTLE};
pub use log::{PurgeLog, STREAM_MAX, STREAM_TTL};
pub use pattern::PATTERN_BYTES_MAX;
pub use table::{BANS_MAX, PURGES_MAX, Table};
pub(super) use wire::{log_id, stream_entries};

use crate::semantics::search::path_tag;
use pattern::Matcher;

/// Longest purge scope in bytes; a longer one purges everything.
pub const SCOPE_BYTES_MAX: usize = 8 * 1_024;

/// A place in the purge log. An entry is valid only if no later purge matches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The last entry of the Redis Stream that had been replayed here (milliseconds, sequence).
    pub log: (u64, u64),
    /// Purges applied in this process so far.
    pub local: u64,
}

/// One purge.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Purge {
    /// What it hits.
    pub scope: Scope,
    /// Stale and refreshed behind (soft), or gone (hard).
    pub soft: bool,
}

impl Purge {
    /// The purge that goes with one of a URL: of what is stored for more queries than one, whichever
    /// URL of its path it was fetched by. `None` for purges of anything else.
    #[must_use]
    pub fn of_path(&self) -> Option<Self> {
        let Scope::Url(url) = &self.scope else {
            return None;
        };
        let (authority, rest) = url.split_at(url.find('/')?);
        let path = rest.split('?').next().unwrap_or_default();
        Some(Self {
            scope: Scope::Tag(path_tag(authority, path)),
            soft: self.soft,
        })
    }
}

/// What a purge hits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything with this tag.
    Tag(String),
    /// One URL (`host/path?query`, or `/path?query` on every host) with all its variants.
    Url(String),
    /// Everything whose path begins so, on every host or (`host/path`) on one.
    Prefix(String),
    /// Everything whose path is like this one, on every host or (`host/path`) on one. `*` stands for
    /// anything within a segment and at the end, as in a route's `path`, for the rest; `**` for anything
    /// anywhere. The query is looked at only where there is a `?` in it.
    Glob(String),
    /// Everything whose `/path?query`, or `host/path?query`, *begins* with a match of this regular
    /// expression: `/api/cars/\d+/photos`, `.*\.jpg$`. Of bytes, without Unicode classes.
    Regex(String),
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

impl PurgeOutcome {
    /// Its word in answers, logs and metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Logged => "logged",
            Self::Queued => "queued",
            Self::Local => "local",
        }
    }
}

impl Scope {
    /// The word for metrics and for the log.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Tag(_) => "tag",
            Self::Url(_) => "url",
            Self::Prefix(_) => "prefix",
            Self::Glob(_) => "glob",
            Self::Regex(_) => "regex",
            Self::All => "all",
        }
    }

    /// What it names; empty for [`Scope::All`].
    #[must_use]
    pub fn value(&self) -> &str {
        match self {
            Self::Tag(value)
            | Self::Url(value)
            | Self::Prefix(value)
            | Self::Glob(value)
            | Self::Regex(value) => value,
            Self::All => "",
        }
    }

    /// The scope of this kind and value. `None` for a kind that is not known here, and for a value that is
    /// too long or no pattern: it may mean anything.
    #[must_use]
    pub fn of(kind: &str, value: String) -> Option<Self> {
        let scope = match kind {
            "tag" => Self::Tag(value),
            "url" => Self::Url(value),
            "prefix" => Self::Prefix(value),
            "glob" => Self::Glob(value),
            "regex" => Self::Regex(value),
            "all" => Self::All,
            _ => return None,
        };
        scope.check().is_ok().then_some(scope)
    }

    /// Whether it can be purged as it is; else what is wrong, for whoever asked. A scope that is applied
    /// all the same purges everything.
    pub fn check(&self) -> Result<(), String> {
        if self.value().len() > SCOPE_BYTES_MAX {
            return Err(format!("it has more than {SCOPE_BYTES_MAX} bytes"));
        }
        Matcher::of(self).map(drop)
    }
}

/// A place in the stream: milliseconds and sequence.
pub type LogId = (u64, u64);

/// What the purges say about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Not purged since.
    Valid,
    /// Stale, and may be served while it is refreshed.
    Soft,
    /// Gone.
    Hard,
}

/// From where an entry's age in purges is counted.
#[derive(Clone, Copy, Debug)]
pub enum Since {
    /// It was made or checked in this process when so many purges had been applied.
    Local(u64),
    /// It comes from Redis and carries this place in the log.
    Log(LogId),
}

/// What an entry is purged by.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a, T> {
    /// Its tags: anything that gives them one by one.
    pub tags: T,
    /// `host/path?query`
    pub url: &'a str,
}
