//! Keeps the routes that are shut alike in all sidecars: by a mark of each in Redis, which is read and
//! renewed in the background.
//!
//! Without Redis, or while it is away, what is shut here stays shut here.

use crate::cache::Cache;
use crate::config::Settings;
use crate::evidence::quarantine::{Mark, Step, compare};
use crate::proxy::Shared;
use crate::redis_client::{Outage, Redis};
use crate::semantics::Key;
use redis::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at what the others have shut or opened.
const LOOK: Duration = Duration::from_secs(1);
/// The same until the shared marks have been read once: what was shut before this process began is open till then.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// For so long at most.
const FIRST_LOOKS: Duration = Duration::from_secs(10);
/// Life of a mark, renewed as long as any sidecar with that route runs.
const TTL: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Between two renewals of it.
const RENEW: Duration = Duration::from_secs(3_600);
/// The longest mark that is believed, in bytes.
const MARK_BYTES_MAX: usize = 4 * 1024;

/// Runs for as long as the process. Where no route is audited it does nothing.
pub(super) async fn keep(shared: Arc<Shared>, cache: Cache, redis: Option<Redis>) {
    let mut renewed: HashMap<Key, Instant> = HashMap::new();
    let (began, mut has_read) = (Instant::now(), redis.is_none());
    loop {
        let snapshot = shared.snapshot.load_full();
        let routes: Vec<_> = snapshot.watched.routes().map(|(key, _)| *key).collect();
        shared.evidence.quarantines.keep_only(&routes);
        renewed.retain(|route, _| routes.contains(route));
        if let Some(redis) = redis.as_ref().filter(|redis| redis.is_up()) {
            let mut is_read = true;
            for route in &routes {
                // What could not be asked or told is asked and told the next time.
                let met = meet(&shared, redis, &snapshot.settings, route, &mut renewed).await;
                is_read &= met.is_ok();
            }
            has_read |= is_read;
        }
        let turned = snapshot.watched.obey(&shared.evidence.quarantines);
        for name in &turned.shut {
            tracing::error!(
                route = &**name,
                "the route is quarantined: nothing of it is stored or served from the store"
            );
        }
        for name in &turned.opened {
            shared.evidence.alarms.settle(crate::proxy::LEAK, name);
            tracing::info!(route = &**name, "the route is released from quarantine");
        }
        let purges = turned.purges();
        if !purges.is_empty() {
            let _ = cache.purge(purges).await;
        }
        has_read |= began.elapsed() >= FIRST_LOOKS;
        tokio::time::sleep(if has_read { LOOK } else { FIRST_LOOK }).await;
    }
}

/// Compares a route's mark here with the shared one.
async fn meet(
    shared: &Shared,
    redis: &Redis,
    settings: &Settings,
    route: &Key,
    renewed: &mut HashMap<Key, Instant>,
) -> Result<(), Outage> {
    let name = format!("{}:quarantine:{route}", settings.cache.namespace);
    let there = redis.get(name.as_bytes()).await?;
    let there = there.filter(|bytes| bytes.len() <= MARK_BYTES_MAX);
    let there: Option<Mark> = there.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let quarantines = &shared.evidence.quarantines;
    let here = quarantines.mark(route);
    let is_due = |at: &Instant| at.elapsed() >= RENEW;
    match (compare(here.as_ref(), there.as_ref()), here, there) {
        (Step::Adopt, _, Some(mut there)) => {
            // Another's clock may be ahead.
            there.since = there.since.min(shared.clock.now().as_millis());
            quarantines.adopt(route, there);
        }
        (Step::Tell, Some(here), _) => tell(redis, &name, &here).await?,
        (Step::Agreed, Some(here), _) if renewed.get(route).is_none_or(is_due) => {
            tell(redis, &name, &here).await?;
            renewed.insert(*route, Instant::now());
        }
        _ => {}
    }
    Ok(())
}

async fn tell(redis: &Redis, name: &str, mark: &Mark) -> Result<(), Outage> {
    let Ok(mark) = serde_json::to_vec(mark) else {
        return Ok(());
    };
    let mut set = redis::cmd("SET");
    set.arg(name).arg(mark).arg("EX").arg(TTL.as_secs());
    redis.query("SET", &set).await.map(|_: Value| ())
}
