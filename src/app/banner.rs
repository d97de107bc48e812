//! What a person at a terminal reads when larder starts, stops, or is asked how it does.

use crate::config::Settings;
use crate::config::settings::UpstreamTarget;
use crate::telemetry::Metrics;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

/// Says where everything is. Machines get a log line instead; the demo is for people, wherever its
/// output goes.
pub(super) fn hello(settings: &Settings, demo: bool) {
    if demo || std::io::stderr().is_terminal() {
        eprint!("{}", greeting(settings));
    }
}

fn greeting(settings: &Settings) -> String {
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    let mut text = format!(
        "larder {}   {} · {} · config {}\n\n",
        env!("CARGO_PKG_VERSION"),
        count(settings.routes.all().len().saturating_sub(1), "route"),
        count(settings.limits.all.len(), "limit"),
        settings.hash
    );
    let scheme = if settings.listen.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    line(
        "site",
        format!(
            "{scheme}://localhost:{}     ← open this",
            settings.listen.address.port()
        ),
    );
    line("app", target(&settings.upstream.target));
    if let Some(admin) = settings.admin.listen {
        line("admin", format!("http://{admin}"));
    }
    match &settings.redis {
        Some(redis) => {
            let from = redis.found.variable();
            let from = from.map_or(String::new(), |name| format!("     from {name}"));
            line("redis", format!("{}{from}", redis.url));
        }
        None => line(
            "redis",
            "none: caching in memory only, limits counted here".into(),
        ),
    }
    text.push('\n');
    text
}

fn target(target: &UpstreamTarget) -> String {
    match target {
        UpstreamTarget::Http { host, port } => format!("http://{host}:{port}"),
        UpstreamTarget::Https { host, port } => format!("https://{host}:{port}"),
        UpstreamTarget::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// A URL without user, password and query.
pub(super) fn address(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = host.split('?').next().unwrap_or(host);
    format!("{scheme}://{host}")
}

/// Sums up what the process has done.
pub(super) fn goodbye(metrics: &Metrics, up: Duration) {
    if std::io::stderr().is_terminal() {
        eprintln!("\nUp {}. {}", humanly(up), stats(metrics));
    }
}

/// One line: requests, share answered from the store, app time spared.
pub(super) fn stats(metrics: &Metrics) -> String {
    let totals = metrics.totals();
    let share = totals.hits() as f64 * 100.0 / totals.requests().max(1) as f64;
    format!(
        "{} requests, {share:.1} % never reached the app: {} of app time saved.",
        totals.requests(),
        humanly(Duration::from_nanos(totals.saved_nanos))
    )
}

fn humanly(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0..60 => format!("{secs} s"),
        60..3_600 => format!("{} min", secs / 60),
        3_600..86_400 => format!("{} h {} min", secs / 3_600, secs / 60 % 60),
        _ => format!("{} d {} h", secs / 86_400, secs / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(
            address("redis://user:p@ss@host:6379/0"),
            "redis://host:6379/0"
        );
        assert_eq!(address("rediss://host:6380?x=secret"), "rediss://host:6380");
    }

    #[test]
    fn the_start_says_which_redis_was_found_and_by_what() {
        let url = ("REDIS_URL".to_owned(), "rediss://u:hunter2@h".to_owned());
        let source = crate::config::Source {
            name: "x".into(),
            text: "upstream: http://a\n".into(),
        };
        let env = crate::config::Environment::from_iter([url]);
        let (settings, _) = crate::config::load(source, &env).unwrap();
        let text = greeting(&settings);
        assert!(
            text.contains("rediss://h:6379     from REDIS_URL\n"),
            "{text}"
        );
        assert!(!text.contains("hunter2"));
    }

    #[test]
    fn spans_of_time_are_told_in_two_units_at_most() {
        assert_eq!(humanly(Duration::from_secs(59)), "59 s");
        assert_eq!(humanly(Duration::from_secs(3_700)), "1 h 1 min");
        assert_eq!(humanly(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
