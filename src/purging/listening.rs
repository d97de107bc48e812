//! Purges that come by Redis: a channel (Pub/Sub) that every sidecar hears, and a stream that one of them
//! reads each entry of.
//!
//! Runs in the background, follows the configuration in force, and keeps nobody waiting.

mod channel;
mod stream;

use super::{By, Purging, Request, Way};
use crate::cache::{Cache, Purge, PurgeOutcome};
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::settings;
use crate::redis_client::{Outage, Redis};
use crate::telemetry::Recorder;
use arc_swap::ArcSwap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two looks at whether the configuration names another, and before one more try.
const LOOK: Duration = Duration::from_secs(1);
/// The largest message or field that is read, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What listening needs of the house. Clones share it.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Where purges go.
    pub door: Purging,
    /// What is purged.
    pub cache: Cache,
    /// The background's way to Redis.
    pub redis: Redis,
    /// The configuration in force.
    pub settings: Arc<ArcSwap<Settings>>,
    /// What counts.
    pub recorder: Recorder,
    /// What time it is.
    pub clock: Clock,
    /// Entries of the stream that nobody of the group has carried out yet, as last seen; `u64::MAX`: unknown.
    pub lag: Arc<AtomicU64>,
    /// The stream whose group was there, or was made.
    pub group: Arc<Mutex<Option<settings::PurgeStream>>>,
}

impl Listening {
    /// Listens for as long as it is polled.
    pub async fn run(self) {
        tokio::join!(
            self.follow(
                |purging| purging.channel.clone(),
                async |to, channel: &String| channel::listen(to, channel).await
            ),
            self.follow(|purging| purging.stream.clone(), stream::read)
        );
    }

    /// Does `what` with `which` the configuration names, anew where it names another, and after each end.
    async fn follow<T: PartialEq + Clone>(
        &self,
        which: impl Fn(&settings::Purging) -> Option<T>,
        what: impl AsyncFn(&Self, &T) -> Outage,
    ) {
        let mut told = None;
        loop {
            let Some(named) = which(&self.settings.load().purging) else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let has_changed = async {
                while which(&self.settings.load().purging).as_ref() == Some(&named) {
                    tokio::time::sleep(LOOK).await;
                }
            };
            tokio::select! {
                outage = what(self, &named) => {
                    self.redis.line_ended(outage);
                    if told.replace(outage) != Some(outage) {
                        tracing::warn!(kind = outage.word(), "purges that come by Redis are not heard");
                    }
                    tokio::time::sleep(LOOK).await;
                }
                () = has_changed => told = None,
            }
        }
    }

    /// What a message asks for: JSON as `POST /v1/purge` takes it, or one tag a line.
    fn asked(&self, message: &[u8]) -> Option<Vec<Purge>> {
        let text = std::str::from_utf8(message).ok()?.trim();
        if text.len() > MESSAGE_BYTES_MAX {
            return None;
        }
        let request = match text.starts_with('{') {
            true => serde_json::from_str(text).ok()?,
            false => Request::of_tags(text.lines().map(|line| line.trim().to_owned()).collect()),
        };
        if request.dry_run {
            return None;
        }
        request.purges(&self.settings.load().routes).ok()
    }

    async fn carry_out(
        &self,
        purges: Vec<Purge>,
        way: Way,
        name: Option<Arc<str>>,
    ) -> PurgeOutcome {
        let now = self.clock.now();
        let by = By { way, name, now };
        let done = (self.door).carry_out(&self.cache, &self.recorder, purges, Vec::new(), by);
        done.await.outcome.clone()
    }

    /// A message that asks for nothing that is understood.
    fn malformed(&self, way: Way, name: &str) {
        self.recorder.purge_asked(way.word(), "malformed");
        tracing::warn!(by = way.word(), name, "a message is no purge");
    }
}
