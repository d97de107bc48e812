//! One worker: a thread with a single-threaded runtime, its own listener, its own connections to
//! Redis and to the app. Nothing it does on a request's way is shared but memory.

use crate::cache::Cache;
use crate::config::Settings;
use crate::limit::{Limiter, LocalLimits};
use crate::proxy::{Proxy, Rooms, Shared};
use crate::redis_client::Redis;
use crate::server::{self, Connections, Stop, tls::Tls};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What every worker is given.
#[derive(Clone)]
pub(super) struct Kit {
    pub settings: Arc<Settings>,
    pub shared: Arc<Shared>,
    pub cache: Cache,
    pub local_limits: Arc<LocalLimits>,
    pub upstream: Upstream,
    pub metrics: Arc<Metrics>,
    pub tls: Option<Tls>,
    pub connections: Connections,
    pub stop: Stop,
}

/// How long a drained worker waits between two looks at its open tunnels.
const TUNNEL_LOOK: Duration = Duration::from_millis(50);

impl Kit {
    /// The way to Redis of worker `index`, with its share of the pool.
    pub fn redis(&self, index: usize) -> Option<Redis> {
        let settings = self.settings.redis.as_ref()?;
        let share = self.share(settings.pool_min, settings.pool_max.get());
        Some(Redis::start(
            settings,
            &settings.url,
            share,
            self.metrics.recorder(index),
        ))
    }

    /// The same for limits: a second Redis where the first one may evict.
    pub fn limits_redis(&self, index: usize, redis: Option<&Redis>) -> Option<Redis> {
        let settings = self.settings.redis.as_ref()?;
        match &settings.limits_url {
            Some(url) => {
                let share = self.share(settings.pool_min, settings.pool_max.get());
                Some(Redis::start(
                    settings,
                    url,
                    share,
                    self.metrics.recorder(index),
                ))
            }
            None => redis.cloned(),
        }
    }

    /// The store as one who has this Redis sees it.
    pub fn view(&self, redis: Option<Redis>) -> Cache {
        match redis {
            Some(redis) => self.cache.with_redis(redis),
            None => self.cache.clone(),
        }
    }

    fn share(&self, min: u32, max: u32) -> (u32, u32) {
        let workers = u32::try_from(self.settings.workers.get()).unwrap_or(u32::MAX);
        (min.div_ceil(workers), max.div_ceil(workers).max(1))
    }

    fn proxy(&self, index: usize) -> Proxy {
        let redis = self.redis(index);
        let limits_redis = self.limits_redis(index, redis.as_ref());
        Proxy::new(Rooms {
            shared: self.shared.clone(),
            cache: self.view(redis),
            limiter: Limiter::new(
                &self.settings.cache.namespace,
                limits_redis,
                self.local_limits.clone(),
            ),
            upstream: self.upstream.for_worker(),
            recorder: self.metrics.recorder(index),
        })
    }
}

/// Starts worker `index`; returns once it listens.
///
/// Errors: no runtime, no thread, or no listener.
pub(super) fn start(index: usize, kit: Kit) -> io::Result<JoinHandle<()>> {
    let (tell, told) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error))),
            };
            runtime.block_on(async {
                match server::listen(kit.settings.listen.address) {
                    Ok(listener) => {
                        let _ = tell.send(Ok(()));
                        serve(index, kit, listener).await;
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            });
        })?;
    told.recv()
        .unwrap_or_else(|_| Err(io::Error::other("the worker ended before it listened")))?;
    Ok(thread)
}

async fn serve(index: usize, kit: Kit, listener: tokio::net::TcpListener) {
    let proxy = kit.proxy(index);
    let mut stop = kit.stop.clone();
    let shared = kit.shared.clone();
    let serving = async {
        server::serve(listener, proxy.clone(), kit.tls, kit.connections, kit.stop).await;
        while proxy.tunnels().open() > 0 {
            tokio::time::sleep(TUNNEL_LOOK).await;
        }
    };
    tokio::select! {
        () = serving => {}
        grace = async {
            stop.called().await;
            // As it is configured now, not as it was when this worker began.
            let grace = shared.snapshot.load().settings.shutdown.grace;
            tokio::time::sleep(grace).await;
            grace
        } => {
            tracing::warn!(?grace, "what was still in flight when the grace ended was cut");
        }
    }
}
