//! One worker: a thread with a single-threaded runtime, its own listener, its own connections to
//! Redis and to the app. Nothing it does on a request's way is shared but memory.

use super::FLUSH_TIME;
use super::ways::Ways;
use crate::cache::Cache;
use crate::config::Settings;
use crate::limit::{Limiter, LocalLimits};
use crate::proxy::{Proxy, Rooms, Shared};
use crate::redis_client::{Redis, Share};
use crate::semantics::Timestamp;
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
    pub ways: Ways,
    pub connections: Connections,
    pub stop: Stop,
}

/// Connections that the background has: its own, and one to wait on the purge log.
const BACKGROUND_CONNECTIONS: u32 = 2;
/// How long a drained worker waits between two looks at its open tunnels.
const TUNNEL_LOOK: Duration = Duration::from_millis(50);

impl Kit {
    /// Ways to Redis that the workers and the background have.
    pub fn ways(settings: &Settings, now: Timestamp) -> Ways {
        Ways::new(settings.workers.get() * 2 + 1, settings.redis.as_ref(), now)
    }

    /// The one way to Redis of what runs in the background.
    pub fn background_redis(&self) -> Option<Redis> {
        let settings = self.settings.redis.as_ref()?;
        let recorder = self.metrics.recorder(self.settings.workers.get());
        let redis = Redis::start(settings, &settings.url, Share::ONE, recorder);
        self.ways.add(&redis);
        Some(redis)
    }

    /// The store as the background sees it.
    pub fn background_cache(&self, redis: Option<Redis>) -> Cache {
        match redis {
            Some(redis) => self.cache.with_redis(redis.clone(), redis),
            None => self.cache.clone(),
        }
    }

    /// The limits as the background looks at them; `redis` is its own way.
    pub fn background_limiter(&self, redis: Option<Redis>) -> Limiter {
        let second = self.settings.redis.as_ref().and_then(|settings| {
            let recorder = self.metrics.recorder(self.settings.workers.get());
            let url = settings.limits_url.as_ref()?;
            let redis = Redis::start(settings, url, Share::ONE, recorder);
            self.ways.add_for_limits(&redis);
            Some(redis)
        });
        let namespace = &self.settings.cache.namespace;
        Limiter::new(namespace, second.or(redis), self.local_limits.clone())
    }

    /// Worker `index`'s ways to Redis, with its share of the pool: one that requests wait for, one
    /// for writes behind, and for limits one to a second Redis where the first may evict.
    fn proxy(&self, index: usize) -> (Proxy, Cache) {
        let (mut cache, mut limits_redis) = (self.cache.clone(), None);
        if let Some(settings) = &self.settings.redis {
            let workers = u32::try_from(self.settings.workers.get()).unwrap_or(u32::MAX);
            let least = settings.pool_min.div_ceil(workers);
            let most = |of: u32| (of / workers).max(1);
            let way = |url, share| Redis::start(settings, url, share, self.metrics.recorder(index));
            let all = settings.pool_max.get();
            let share = |most| Share {
                connections: (least, most),
                concurrent: (settings.concurrent).map(|all| all.get().div_ceil(workers)),
            };
            // What the background has and what writes behind have is of the same pool.
            let purging = &self.settings.purging;
            let listening = u32::from(purging.channel.is_some());
            let listening = listening + u32::from(purging.stream.is_some());
            let beside = BACKGROUND_CONNECTIONS + listening + workers;
            let redis = way(&settings.url, share(most(all.saturating_sub(beside))));
            limits_redis = Some(match &settings.limits_url {
                Some(url) => {
                    let second = way(url, share(most(all)));
                    self.ways.add_for_limits(&second);
                    second
                }
                None => redis.clone(),
            });
            let behind = way(&settings.url, Share::ONE);
            self.ways.add(&redis);
            self.ways.add(&behind);
            cache = cache.with_redis(redis, behind);
        }
        let proxy = Proxy::new(Rooms {
            shared: self.shared.clone(),
            cache: cache.clone(),
            limiter: Limiter::new(
                &self.settings.cache.namespace,
                limits_redis,
                self.local_limits.clone(),
            ),
            upstream: self.upstream.for_worker(),
            recorder: self.metrics.recorder(index),
        });
        (proxy, cache)
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
    let (proxy, cache) = kit.proxy(index);
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
    cache.flush(FLUSH_TIME).await;
}
