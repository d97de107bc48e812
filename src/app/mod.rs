//! Builds the rooms and connects them; reloads, stops.
//!
//! Traffic is served by the workers, each on a thread of its own; this thread's runtime has the
//! admin port, the purge log, the probes, the signals and everything else that no request waits for.

mod alerts;
mod banner;
mod demo;
pub mod doctor;
mod keys;
mod notices;
mod quarantine;
mod reload;
mod ways;
mod worker;

pub use demo::run as run_demo;

use crate::admin::{self, AdminState, Condition};
use crate::cache::Cache;
use crate::cgroup;
use crate::clock::Clock;
use crate::config::{RunOptions, Settings, settings, watch};
use crate::evidence::{Ledger, Verdict};
use crate::identity::Identity;
use crate::limit::{Limiter, LocalLimits};
use crate::proxy::warm::{Lists, Popular, Record, Warmer};
use crate::proxy::{Proxy, Rooms, Shared};
use crate::purging::Listening;
use crate::redis_client::Redis;
use crate::server::{self, Connections, Stop, tls::Tls};
use crate::telemetry::log::Log;
use crate::telemetry::metrics::AuditGauges;
use crate::telemetry::otlp::Otlp;
use crate::telemetry::{self, Metrics};
use crate::upstream::{Down, Upstream};
use arc_swap::ArcSwap;
use reload::Reloader;
use std::future::Future;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use worker::Kit;

/// Between two looks at whether the app answers, and at how many sidecars there are.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks at how much memory the process has.
const MEMORY_LOOK: Duration = Duration::from_secs(1);
/// How long the end of the process waits for each of writes and purges, logs, and spans to leave.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// `larder run`: serves until told to stop. `settings` are what `options` gave.
///
/// Errors: an address cannot be had, or (`InvalidData`, as a configuration that cannot be used) a
/// certificate cannot be read.
pub fn run(options: RunOptions, settings: Settings) -> io::Result<()> {
    let log = settings.log.clone();
    block_on(&log, options.log_color, |log| {
        serve(options, settings, log, false)
    })
}

/// Runs `main` on the background's runtime, with logs and TLS in place around it.
fn block_on<F>(
    settings: &settings::Log,
    color: bool,
    main: impl FnOnce(Arc<Log>) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>>,
{
    let log = telemetry::log::init(settings.level, settings.format, color);
    // An error only says that somebody has chosen it already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let log = Arc::new(log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("background")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(main(log.clone()));
    runtime.shutdown_timeout(FLUSH_TIME);
    log.flush(FLUSH_TIME);
    outcome
}

async fn serve(
    options: RunOptions,
    settings: Settings,
    log: Arc<Log>,
    demo: bool,
) -> io::Result<()> {
    let began = Instant::now();
    let mut signals = Signals::new()?;
    let (stop_workers, stop) = Stop::new();
    let house = House::build(settings, log, stop)?;
    let settings = house.kit.settings.clone();
    if server::is_taken(settings.listen.address) {
        let address = settings.listen.address;
        let told =
            format!("{address} is taken by another process; name another address with `listen:`");
        return Err(io::Error::new(io::ErrorKind::AddrInUse, told));
    }
    let admin = house.admin_listener().await?;
    let workers = (0..settings.workers.get())
        .map(|index| worker::start(index, house.kit.clone()))
        .collect::<io::Result<Vec<_>>>()?;
    house.condition.listening.store(true, Ordering::Relaxed);
    let (cache, limiter) = house.start_background(admin);
    banner::hello(&settings, demo);
    tracing::info!(address = %settings.listen.address, config = settings.hash, "larder serves");

    house.until_stopped(options, &mut signals).await?;

    house.condition.draining.store(true, Ordering::Relaxed);
    let settings = house.settings.load_full();
    tracing::info!(delay = ?settings.shutdown.delay, grace = ?settings.shutdown.grace, "stopping");
    tokio::time::sleep(settings.shutdown.delay).await;
    let _ = stop_workers.send(true);
    let drained = tokio::task::spawn_blocking(|| {
        for worker in workers {
            // A worker that panicked has said so itself.
            let _ = worker.join();
        }
    });
    tokio::select! {
        _ = drained => {}
        () = signals.told_to_stop() => tracing::warn!("told to stop again: what was in flight is cut"),
    }
    // Purges that came after the workers', by the admin port.
    cache.flush(FLUSH_TIME).await;
    let telling = limiter.tell_all(&house.kit.shared.clock);
    let _ = tokio::time::timeout(FLUSH_TIME, telling).await;
    let otlp = house.otlp;
    let _ = tokio::task::spawn_blocking(move || otlp.shutdown(FLUSH_TIME)).await;
    banner::goodbye(&house.kit.metrics, began.elapsed());
    Ok(())
}

/// Everything that lives as long as the process.
struct House {
    kit: Kit,
    /// The configuration in force, as the admin port sees it.
    settings: Arc<ArcSwap<Settings>>,
    condition: Arc<Condition>,
    log: Arc<Log>,
    otlp: Otlp,
    /// See [`Listening::lag`].
    stream_lag: Arc<AtomicU64>,
}

impl House {
    fn build(settings: Settings, log: Arc<Log>, stop: Stop) -> io::Result<Self> {
        let metrics = Metrics::new(settings.workers.get());
        let tls = settings.listen.tls.as_ref().map(Tls::load).transpose();
        let settings = Arc::new(settings);
        let identity = Arc::new(Identity::new(settings.identity.clone()));
        let clock = clock();
        let now = clock.now();
        let env = |name: &str| std::env::var(name).ok();
        let otlp = Otlp::start(&env, &metrics, &clock, &tokio::runtime::Handle::current());
        log.summarize(&metrics);
        let cache = &settings.cache;
        let snapshot = reload::snapshot(settings.clone(), identity, &metrics, None);
        let shared = Arc::new(Shared {
            log: log.access(settings.log.slow),
            traces: otlp.traces(),
            ..Shared::new(snapshot, clock)
        });
        let store = Cache::new(cache.memory, &cache.namespace, cache.whole_max);
        store.seal_with(cache.compress, &cache.encrypt);
        store.trust(cache.trust);
        let condition = Arc::new(Condition::default());
        condition.app_up.store(true, Ordering::Relaxed);
        let waits = settings.warm.iter().any(|list| list.wait_ready);
        condition.warmed.store(!waits, Ordering::Relaxed);
        Ok(Self {
            kit: Kit {
                cache: store,
                upstream: Upstream::new(settings.upstream.clone()),
                settings: settings.clone(),
                shared,
                local_limits: Arc::new(LocalLimits::new()),
                metrics,
                // Its kind makes it a fault of the configuration, not of the network.
                tls: tls.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
                ways: Kit::ways(&settings, now),
                connections: Connections::default(),
                stop,
            },
            settings: Arc::new(ArcSwap::new(settings)),
            condition,
            log,
            otlp,
            stream_lag: Arc::new(AtomicU64::new(u64::MAX)),
        })
    }

    async fn admin_listener(&self) -> io::Result<Option<TcpListener>> {
        let Some(address) = self.kit.settings.admin.listen else {
            return Ok(None);
        };
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => {
                let told = format!(
                    "the admin port {address}: {error}; name another with `admin.listen:`, or `off`"
                );
                Err(io::Error::new(error.kind(), told))
            }
        }
    }

    /// Starts what runs beside the traffic. Its tasks end with the runtime. Returns the store and the
    /// limits as they see them.
    fn start_background(&self, admin: Option<TcpListener>) -> (Cache, Limiter) {
        let kit = &self.kit;
        let redis = kit.background_redis();
        let cache = kit.background_cache(redis.clone());
        tokio::spawn(keys::keep(kit.shared.clone()));
        let recorder = kit.metrics.recorder(usize::MAX);
        let wanted = self.settings.load().purging.notify.is_some();
        kit.shared.purging.notices().want(wanted);
        tokio::spawn(notices::send(
            kit.shared.clone(),
            self.settings.clone(),
            cache.clone(),
            recorder,
        ));
        tokio::spawn(alerts::keep_telling(kit.shared.clone()));
        tokio::spawn(quarantine::keep(
            kit.shared.clone(),
            cache.clone(),
            redis.clone(),
        ));
        if cache.has_memory() {
            tokio::spawn(fit_memory(cache.clone(), kit.settings.cache.memory));
        }
        tokio::spawn(look(kit.clone(), cache.clone(), self.condition.clone()));
        if let Some(redis) = redis.clone() {
            let (cache, clock) = (cache.clone(), kit.shared.clock.clone());
            let recorder = kit.metrics.recorder(kit.settings.workers.get());
            tokio::spawn(async move {
                let purges = cache.follow_purges(&redis, &clock, &recorder);
                tokio::join!(purges, cache.follow_wakes(&redis))
            });
        }
        if redis.is_some() {
            let (cache, upstream) = (cache.clone(), kit.upstream.clone());
            tokio::spawn(async move {
                loop {
                    cache.lost().await;
                    upstream.ramp();
                }
            });
        }
        if let Some(redis) = redis.clone() {
            let ways = kit.ways.clone();
            let clock = kit.shared.clock.clone();
            tokio::spawn(async move {
                ways.vitals().watch(&redis, || ways.all(), &clock).await;
            });
        }
        if let Some(redis) = redis.clone() {
            let listening = Listening {
                door: kit.shared.purging.clone(),
                cache: cache.clone(),
                redis,
                settings: self.settings.clone(),
                recorder: kit.metrics.recorder(usize::MAX),
                clock: kit.shared.clock.clone(),
                lag: self.stream_lag.clone(),
                group: Arc::default(),
            };
            tokio::spawn(listening.run());
        }
        self.watch();
        let limiter = kit.background_limiter(redis.clone());
        let (teller, clock) = (limiter.clone(), kit.shared.clock.clone());
        tokio::spawn(async move { teller.keep_telling(&clock).await });
        let warmer = self.start_warming(redis.clone(), &cache, &limiter);
        let state = AdminState {
            warmer,
            settings: self.settings.clone(),
            metrics: kit.metrics.clone(),
            limiter: limiter.clone(),
            redis,
            vitals: kit.ways.vitals().clone(),
            cache: cache.clone(),
            clock: kit.shared.clock.clone(),
            shared: kit.shared.clone(),
            condition: self.condition.clone(),
        };
        if let Some(listener) = admin {
            tokio::spawn(admin::serve(listener, state, std::future::pending()));
        }
        (cache, limiter)
    }

    /// Starts what warms: with ways to app and Redis that no request uses.
    fn start_warming(&self, redis: Option<Redis>, cache: &Cache, limiter: &Limiter) -> Warmer {
        let kit = &self.kit;
        let namespace = kit.settings.cache.namespace.clone();
        let proxy = Proxy::new(Rooms {
            shared: kit.shared.clone(),
            cache: cache.clone(),
            limiter: limiter.clone(),
            upstream: kit.upstream.for_worker(),
            recorder: kit.metrics.recorder(kit.settings.workers.get()),
        });
        let popular = Popular::new(redis.clone(), cache.clone(), &namespace);
        let warmer = Warmer::new(proxy, popular);
        let (running, adding, hearing) = (warmer.clone(), warmer.clone(), warmer.clone());
        tokio::spawn(async move { hearing.hear().await });
        tokio::spawn(async move { running.run().await });
        let shared = kit.shared.clone();
        tokio::spawn(async move { adding.popular().keep_adding(&shared).await });
        let lists = Lists {
            warmer: warmer.clone(),
            redis,
            namespace,
            ready: self.condition.warmed.clone(),
        };
        let watched = warmer.clone();
        kit.metrics.watch(move |gauges| {
            let told = |record: Record| (record.came_true, record.failed, record.precision);
            gauges.predictions = watched.record().map(told);
        });
        let mut stop = kit.stop.clone();
        tokio::spawn(async move { lists.keep(stop.called()).await });
        warmer
    }

    /// Shows the table of metrics what lives in other rooms.
    fn watch(&self) {
        let kit = &self.kit;
        kit.metrics.config_loaded(Ok(()), kit.shared.clock.now());
        let (cache, limits, condition) = (
            kit.cache.clone(),
            kit.local_limits.clone(),
            self.condition.clone(),
        );
        let ways = kit.settings.redis.as_ref().map(|_| kit.ways.clone());
        let shared = kit.shared.clone();
        let (clock, lag) = (kit.shared.clock.clone(), self.stream_lag.clone());
        let upstream = kit.upstream.clone();
        kit.metrics.watch(move |gauges| {
            let entries = lag.load(Ordering::Relaxed);
            gauges.purge_stream_lag = (entries != u64::MAX).then_some(entries);
            let status = cache.status();
            gauges.memory_bytes = Some(status.bytes);
            gauges.memory_limit_bytes = Some(status.bytes_max);
            gauges.memory_objects = Some(status.entries as u64);
            gauges.memory_evictions = vec![("size", status.evicted)];
            let unreadable = status.corrupt.iter();
            gauges.cache_unreadable = match &ways {
                Some(_) => unreadable
                    .map(|(why, count)| (why.word(), *count))
                    .collect(),
                None => Vec::new(),
            };
            gauges.purged_objects = ["memory", "redis"].into_iter().zip(status.purged).collect();
            gauges.purge_log_followed = ways.as_ref().map(|_| status.log_followed);
            gauges.purges_queued = ways.as_ref().map(|_| status.purges_queued as u64);
            gauges.cut_off_since = status.cut_off_since;
            gauges.limit_local_fallback = ways.as_ref().map(|_| limits.redis_away());
            gauges.redis = ways.as_ref().map(|ways| ways.gauges(clock.now()));
            gauges.upstream_up = Some(condition.app_up.load(Ordering::Relaxed));
            gauges.upstream_load = Some(upstream.load());
            gauges.audits = audit_gauges(&shared.evidence.audits);
            gauges.shadows = audit_gauges(&shared.evidence.shadows);
            gauges.quarantined = (shared.evidence.quarantines.all_shut().into_iter())
                .map(|shut| shut.route)
                .collect();
            gauges.alarms = shared.evidence.alarms.counts();
            gauges.draining = Some(condition.draining.load(Ordering::Relaxed));
        });
    }

    /// Serves, reloading when told to, until told to stop.
    async fn until_stopped(&self, options: RunOptions, signals: &mut Signals) -> io::Result<()> {
        let (tell, mut changed) = mpsc::channel(1);
        let mut watched = Watched::default();
        let reloader = Reloader::new(options);
        loop {
            let files = || reloader.options().files(&self.settings.load());
            if reloader.options().watch && watched.follow(files(), &tell) {
                reloader.catch_up(self);
            }
            let told = tokio::select! {
                told = signals.next() => told,
                Some(()) = changed.recv() => Told::Reload,
            };
            match told {
                Told::Stop => return Ok(()),
                Told::Reload => reloader.reload(self),
                Told::Stats => eprintln!("{}", banner::stats(&self.kit.metrics)),
            }
        }
    }
}

/// What audits have found, arms of experiments added up, as the table of metrics shows it.
fn audit_gauges(ledger: &Ledger) -> Vec<AuditGauges> {
    let mut routes: Vec<AuditGauges> = Vec::new();
    for (route, _, tally) in ledger.read() {
        if routes.last().is_none_or(|last| last.route != *route) {
            routes.push(AuditGauges {
                route: route.to_string(),
                ..AuditGauges::default()
            });
        }
        let Some(last) = routes.last_mut() else {
            continue;
        };
        for verdict in Verdict::ALL {
            last.add(verdict.word(), tally.count(verdict));
        }
        last.add("skipped", tally.skipped);
        last.add("miss", tally.missed);
    }
    routes
}

/// The files that are watched now. A reload may name others.
#[derive(Default)]
struct Watched {
    files: Vec<PathBuf>,
    watch: Option<watch::Watch>,
}

impl Watched {
    /// Whether it has only begun to watch them: what was changed before that, it does not see.
    fn follow(&mut self, files: Vec<PathBuf>, tell: &mpsc::Sender<()>) -> bool {
        if self.files == files {
            return false;
        }
        let tell = tell.clone();
        let watch = watch::watch(files.clone(), move || {
            // A reload that is already asked for will see this change too.
            let _ = tell.try_send(());
        });
        self.watch = watch
            .inspect_err(|error| tracing::warn!(%error, "the configuration's files cannot be watched; SIGHUP still reloads them"))
            .ok();
        self.files = files;
        true
    }
}

/// What nobody waits for but everybody wants to know: is the app up, and how many sidecars are we?
async fn look(kit: Kit, cache: Cache, condition: Arc<Condition>) {
    loop {
        let probed = kit.upstream.probe().await;
        let up = probed.is_ok();
        if condition.app_up.swap(up, Ordering::Relaxed) != up {
            match probed {
                Ok(()) => tracing::info!("the app answers again"),
                Err(Down { kind, cause }) => {
                    tracing::warn!("error.type" = kind, cause, "the app does not answer");
                }
            }
        }
        let replicas = NonZeroU32::new(cache.replicas()).unwrap_or(NonZeroU32::MIN);
        kit.local_limits.set_replicas(replicas);
        tokio::time::sleep(LOOK).await;
    }
}

/// Keeps the memory tier within what the process may have; `most` is what is configured, in bytes.
async fn fit_memory(cache: Cache, most: u64) {
    let mut told = false;
    loop {
        let process = cgroup::Memory::of_this_process();
        let (before, now) = cache.fit_memory(process);
        if now < before && !std::mem::replace(&mut told, true) {
            let (used, limit) = process.map_or((0, 0), |memory| (memory.used, memory.limit));
            tracing::warn!(
                used,
                limit,
                bytes = now,
                "the process has nearly all the memory that it may have: the memory tier gives room back"
            );
        }
        if told && now == most {
            told = false;
            tracing::info!(bytes = now, "the memory tier has all its room again");
        }
        tokio::time::sleep(MEMORY_LOOK).await;
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// SIGTERM, SIGINT: finish what is in flight, then end.
    Stop,
    /// SIGHUP: take up the configuration anew.
    Reload,
    /// SIGUSR1: say how it goes.
    Stats,
}

struct Signals {
    term: Signal,
    int: Signal,
    reload: Signal,
    stats: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            stats: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.term.recv() => Told::Stop,
            _ = self.int.recv() => Told::Stop,
            _ = self.reload.recv() => Told::Reload,
            _ = self.stats.recv() => Told::Stats,
        }
    }

    async fn told_to_stop(&mut self) {
        while self.next().await != Told::Stop {}
    }
}

/// The host's clock; in a debug build with `LARDER_TEST_CLOCK=1`, one that the admin port moves.
fn clock() -> Clock {
    #[cfg(debug_assertions)]
    if std::env::var_os("LARDER_TEST_CLOCK").is_some_and(|value| value == "1") {
        return Clock::manual(Clock::system().now());
    }
    Clock::system()
}
