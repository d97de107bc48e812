//! Taking up another configuration while requests are served: whole, or not at all.

use super::House;
use crate::config::{Format, Report, RunOptions, Settings, Severity};
use crate::identity::Identity;
use crate::proxy::Snapshot;
use crate::telemetry::Metrics;
use std::sync::Arc;

/// Reloads from where the configuration came from.
pub(super) struct Reloader {
    options: RunOptions,
}

impl Reloader {
    pub(super) fn new(options: RunOptions) -> Self {
        Self { options }
    }

    pub(super) fn options(&self) -> &RunOptions {
        &self.options
    }

    /// Reloads if the configuration is another than the one in force.
    pub(super) fn catch_up(&self, house: &House) {
        let outcome = self.options.load();
        let in_force = house.settings.load();
        if !matches!(&outcome, Ok((settings, _)) if settings.same_as(&in_force)) {
            self.follow(outcome, house);
        }
    }

    /// Reads the configuration anew. A broken one changes nothing and is told in full.
    pub(super) fn reload(&self, house: &House) {
        self.follow(self.options.load(), house);
    }

    fn follow(&self, outcome: Result<(Settings, Report), Report>, house: &House) {
        let now = house.kit.shared.clock.now();
        let told = outcome.as_ref().map(drop).map_err(drop);
        house.kit.metrics.config_loaded(told, now);
        match outcome {
            Ok((settings, report)) => {
                // Notes were read at the start.
                eprint!("{}", report.lines(Severity::Warning));
                take_up(house, settings);
            }
            Err(report) => {
                eprint!("{}", report.render(Format::Human, self.options.color));
                tracing::error!(
                    problems = report.problems.len(),
                    "the configuration is broken; the one before stays in force"
                );
            }
        }
    }
}

/// What is made of settings once, for requests to see.
pub(super) fn snapshot(
    settings: Arc<Settings>,
    identity: Arc<Identity>,
    metrics: &Metrics,
    before: Option<&Snapshot>,
) -> Snapshot {
    let handle = |rule: &crate::route::Rule| {
        let path = rule.paths.first().map_or("", |path| path.as_str());
        metrics.route(&rule.name, path)
    };
    let handles = settings.routes.all().iter().map(handle).collect();
    Snapshot::new(settings, identity, handles, before)
}

fn take_up(house: &House, settings: Settings) {
    let kit = &house.kit;
    let before = house.settings.load_full();
    if settings.same_as(&before) {
        reload_certificate(house, &settings);
        tracing::info!(
            config = settings.hash,
            "the configuration is the same as before"
        );
        return;
    }
    for key in needs_restart(&kit.settings, &settings) {
        tracing::warn!(key, "this setting is taken up only by a restart");
    }
    let settings = Arc::new(settings);
    let identity = kit.shared.snapshot.load().identity.clone();
    let identity = match settings.identity == before.identity {
        true => identity,
        false => Arc::new(identity.succeeded_by(settings.identity.clone())),
    };
    if settings.upstream != before.upstream {
        kit.upstream.set(settings.upstream.clone());
    }
    if let Some(redis) = &settings.redis
        && kit.ways.renew(redis, kit.shared.clock.now())
    {
        tracing::info!(
            "credentials or TLS for Redis have changed: its connections are replaced one by one"
        );
    }
    let cache = &settings.cache;
    kit.cache.seal_with(cache.compress, &cache.encrypt);
    kit.cache.trust(cache.trust);
    reload_certificate(house, &settings);
    house.log.set_level(settings.log.level);
    let in_force = &kit.shared.snapshot;
    let next = snapshot(
        settings.clone(),
        identity,
        &kit.metrics,
        Some(&in_force.load()),
    );
    in_force.store(Arc::new(next));
    house.settings.store(settings.clone());
    tracing::info!(
        before = before.hash,
        now = settings.hash,
        "the configuration was reloaded"
    );
}

fn reload_certificate(house: &House, settings: &Settings) {
    if let (Some(tls), Some(files)) = (&house.kit.tls, &settings.listen.tls)
        && let Err(error) = tls.reload(files)
    {
        tracing::error!(%error, "the certificate cannot be read; the one before stays in use");
    }
}

/// What is fixed when the process starts, and differs now.
fn needs_restart(started: &Settings, now: &Settings) -> Vec<&'static str> {
    let redis = match (&started.redis, &now.redis) {
        (Some(started), Some(now)) => Some(started.let_in_like(now)),
        (started, _) => started.clone(),
    };
    let fixed = [
        ("listen", started.listen != now.listen),
        ("workers", started.workers != now.workers),
        (
            "upstream.max_in_flight",
            started.upstream.max_in_flight != now.upstream.max_in_flight,
        ),
        ("redis", redis != now.redis),
        ("cache.memory", started.cache.memory != now.cache.memory),
        (
            "cache.namespace",
            started.cache.namespace != now.cache.namespace,
        ),
        ("admin", started.admin != now.admin),
        ("log.format", started.log.format != now.log.format),
        ("log.slow", started.log.slow != now.log.slow),
    ];
    fixed
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
}
