//! Builds the rooms and connects them; reloads, stops.
//!
//! Traffic is served by the workers, each on a thread of its own; this thread's runtime has the
//! admin port, the purge log, the probes, the signals and everything else that no request waits for.

mod banner;
mod keys;
mod worker;

use crate::admin::{self, AdminState, Condition};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{self, RunOptions, Settings};
use crate::identity::Identity;
use crate::limit::LocalLimits;
use crate::proxy::{Coalescer, Shared, Snapshot, Tunnels};
use crate::semantics::Timestamp;
use crate::server::{self, Connections, Stop, tls::Tls};
use crate::telemetry::{self, Metrics, Traces};
use crate::upstream::Upstream;
use arc_swap::ArcSwap;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use worker::Kit;

/// Between two looks at whether the app answers.
const APP_LOOK: Duration = Duration::from_secs(5);
/// How long the end of the process waits for logs and spans to leave.
const FLUSH_TIME: Duration = Duration::from_secs(2);
/// Where a manual clock begins: 2026-01-01T00:00:00Z.
#[cfg(debug_assertions)]
const MANUAL_START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// `larder run`: serves until told to stop.
#[must_use]
pub fn run(options: RunOptions) -> ExitCode {
    let loaded = match config::load(&options) {
        Ok(loaded) => loaded,
        Err(report) => {
            report.print();
            return config::exit::CONFIG;
        }
    };
    loaded.report.print();
    telemetry::log::init(&loaded.settings.log);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("background")
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(serve(options, loaded.settings)));
    telemetry::log::flush(FLUSH_TIME);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("larder: {error}");
            ExitCode::from(69)
        }
    }
}

/// Everything that lives as long as the process.
struct House {
    kit: Kit,
    settings: Arc<ArcSwap<Settings>>,
    condition: Arc<Condition>,
    options: RunOptions,
}

async fn serve(options: RunOptions, settings: Settings) -> io::Result<()> {
    let began = Instant::now();
    let (stop_workers, stop) = Stop::new();
    let house = House::build(options, settings, stop)?;
    let settings = house.kit.settings.clone();
    if server::is_taken(settings.listen.address) {
        return Err(io::Error::other(format!(
            "{} is taken by another process; choose another address with `listen:`",
            settings.listen.address
        )));
    }
    let workers = (0..settings.workers.get())
        .map(|index| worker::start(index, house.kit.clone()))
        .collect::<io::Result<Vec<_>>>()?;
    house.condition.listening.store(true, Ordering::Relaxed);
    let background = house.background().await?;
    banner::hello(&settings);

    house.until_told_to_stop().await?;

    house.condition.draining.store(true, Ordering::Relaxed);
    tracing::info!(delay = ?settings.shutdown.delay, grace = ?settings.shutdown.grace, "stopping");
    tokio::time::sleep(settings.shutdown.delay).await;
    let _ = stop_workers.send(true);
    let drained = tokio::task::spawn_blocking(move || workers.into_iter().for_each(|worker| drop(worker.join())));
    tokio::select! {
        _ = drained => {}
        () = told_again() => tracing::warn!("told to stop again: what was in flight is cut"),
    }
    house.kit.cache.flush(FLUSH_TIME).await;
    house.kit.shared.traces.shutdown(FLUSH_TIME).await;
    banner::goodbye(&house.kit.metrics, began.elapsed());
    drop(background);
    Ok(())
}

impl House {
    fn build(options: RunOptions, settings: Settings, stop: Stop) -> io::Result<Self> {
        let workers = settings.workers.get();
        let metrics = Metrics::new(workers);
        let tls = settings.listen.tls.as_ref().map(Tls::load).transpose().map_err(io::Error::other)?;
        let settings = Arc::new(settings);
        let clock = clock();
        let identity = Arc::new(Identity::new(settings.identity.clone()));
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(snapshot(settings.clone(), identity, &metrics)),
            coalescer: Arc::new(Coalescer::default()),
            tunnels: Tunnels::default(),
            clock,
            log: telemetry::AccessLog::new(&settings.log),
            traces: Traces::from_env(&metrics),
        });
        let cache = Cache::new(&settings.cache);
        let condition = Arc::new(Condition::default());
        condition.app_up.store(true, Ordering::Relaxed);
        Ok(Self {
            kit: Kit {
                upstream: Upstream::new(settings.upstream.clone()),
                settings: settings.clone(),
                shared,
                cache,
                local_limits: Arc::new(LocalLimits::new()),
                metrics,
                tls,
                connections: Connections::default(),
                stop,
            },
            settings: Arc::new(ArcSwap::new(settings)),
            condition,
            options,
        })
    }
}
