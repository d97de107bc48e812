//! The way to Redis: topology, pool, breaker. Answers in time, or with an [`Outage`].
//!
//! Redis away is a value: every caller names what it does then. Nothing above this room sees a
//! connection.

pub mod breaker;

use std::time::Duration;

/// Why Redis did not answer. Never an error of the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outage {
    /// The breaker is open: not asked at all.
    Open,
    /// Connection refused, reset, closed, or name not found.
    Connection,
    /// No answer within `redis.timeout`.
    Timeout,
    /// Commands wait and nothing comes back.
    Stalled,
    /// No connection can take the command now; says nothing about Redis.
    Saturated,
    /// AUTH or ACL refused.
    Denied,
    /// LOADING, BUSY, MASTERDOWN, CLUSTERDOWN, TRYAGAIN.
    NotReady,
    /// READONLY: this is not the primary.
    ReadOnly,
    /// OOM, MISCONF: it does not take writes.
    Full,
    /// It answered something that is not an answer to what was asked.
    Protocol,
}

impl Outage {
    /// The word for metrics and logs (`error_type`).
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::Saturated => "saturated",
            Self::Denied => "denied",
            Self::NotReady => "not-ready",
            Self::ReadOnly => "read-only",
            Self::Full => "full",
            Self::Protocol => "protocol",
        }
    }
}

/// What the health pages tell about a Redis.
#[derive(Clone, Debug, Default)]
pub struct RedisStatus {
    /// Whether commands are answered now.
    pub connected: bool,
    /// `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    /// Connections open, over this worker.
    pub connections: u32,
    /// Most connections.
    pub connections_max: u32,
    /// Last probe's round trip.
    pub ping: Option<Duration>,
    /// Where it is, without user and password.
    pub address: String,
}

/// One Redis as one worker sees it: a few multiplexed connections behind a breaker.
///
/// Cheap to clone. Every call has a deadline and nobody queues for a connection.
#[derive(Clone, Debug)]
pub struct Redis {}

impl Redis {
    /// Begins to connect on the current runtime, and keeps trying; never fails, never waits.
    ///
    /// `url` is `settings.url`, or the second Redis for limits. `connections` is this worker's share
    /// of the pool, least and most. `name` becomes the client name.
    #[must_use]
    pub fn start(
        settings: &crate::config::settings::Redis,
        url: &crate::secret::Secret,
        connections: (u32, u32),
        recorder: crate::telemetry::Recorder,
    ) -> Self {
        let _ = (settings, url, connections, recorder);
        Self {}
    }

    /// One command. `operation` is its name for the metrics.
    pub async fn query(
        &self,
        operation: &'static str,
        command: &redis::Cmd,
    ) -> Result<redis::Value, Outage> {
        let _ = (operation, command);
        Err(Outage::Open)
    }

    /// Several commands in one round trip; one answer each.
    pub async fn pipeline(
        &self,
        operation: &'static str,
        pipeline: &redis::Pipeline,
    ) -> Result<Vec<redis::Value>, Outage> {
        let _ = (operation, pipeline);
        Err(Outage::Open)
    }

    /// A script by its digest, loaded where the server does not have it, within the same deadline.
    pub async fn script(
        &self,
        operation: &'static str,
        script: &redis::Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<redis::Value, Outage> {
        let _ = (operation, script, keys, args);
        Err(Outage::Open)
    }

    /// Whether it makes sense to ask at all (the breaker is not open). Costs one atomic load.
    #[must_use]
    pub fn is_up(&self) -> bool {
        false
    }

    /// For the health pages.
    #[must_use]
    pub fn status(&self) -> RedisStatus {
        RedisStatus::default()
    }
}
