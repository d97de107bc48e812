//! The admin port: health, metrics, purge. GET never changes anything.

use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::Settings;
use crate::redis_client::Redis;
use crate::telemetry::Metrics;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What the admin port can see and move.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// The configuration in force.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The table of metrics.
    pub metrics: Arc<Metrics>,
    /// The background's way to Redis, if one is configured.
    pub redis: Option<Redis>,
    /// The background's view of the store.
    pub cache: Cache,
    /// What time it is; a test may move it.
    pub clock: Clock,
    /// How the process stands.
    pub condition: Arc<Condition>,
}

/// How the process stands; set by the room that builds the others.
#[derive(Debug, Default)]
pub struct Condition {
    /// The traffic listener is up.
    pub listening: AtomicBool,
    /// Stopping: not ready any more.
    pub draining: AtomicBool,
    /// The app answered when last asked, or has not been asked yet.
    pub app_up: AtomicBool,
}
