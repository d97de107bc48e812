//! Arguments in, exit code out. Results go to standard output, talk to standard error.
//!
//! Nothing is decided here: each verb gathers its options and hands them to the room that knows.

mod suggest;
mod warm;

use crate::app;
use crate::app::doctor::{Finding, Grade, examine};
use crate::config::load::environment;
use crate::config::{
    self, Code, Environment, Format, Origin, Report, RunOptions, Settings, Severity, Source,
};
use crate::demo;
use crate::proxy::explain::{Explanation, Question, explain_settings};
use crate::redis_client;
use crate::redis_client::capacity::{Load, Sheet};
use crate::secret::Secret;
use crate::semantics::Reason;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Answers of the admin port are no larger.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// A purge is acknowledged in this time.
const PURGE_TIMEOUT: Duration = Duration::from_secs(10);
/// An explanation is made in this time.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Figures are read in this time.
const STATS_TIMEOUT: Duration = Duration::from_secs(5);
/// A healthy process answers in this time.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// The variable read where `--token` is not given.
const TOKEN_VARIABLE: &str = "ADMIN_TOKEN";

/// What the shell, systemd and CI learn of how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Fine.
    Fine = 0,
    /// Findings of `check --strict`; not healthy.
    Findings = 1,
    /// Wrong usage.
    Usage = 2,
    /// Admin port, app or Redis cannot be reached (EX_UNAVAILABLE).
    Unreachable = 69,
    /// A bug of ours (EX_SOFTWARE).
    Bug = 70,
    /// The token was refused (EX_NOPERM).
    Refused = 77,
    /// The configuration is invalid (EX_CONFIG).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A caching reverse proxy beside your app.
#[derive(Debug, Parser)]
#[command(name = "larder", version, about, max_term_width = 100)]
struct Cli {
    /// Colours in what people read; NO_COLOR and CLICOLOR_FORCE are respected
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, global = true)]
    color: When,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum When {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve, in the foreground
    ///
    /// Without -c, reads ./proxy.yaml, else /etc/larder/proxy.yaml. With a URL, reads no file.
    #[command(after_help = "Examples:\n  larder run\n  larder run http://localhost:3000 --ttl 30s")]
    Run(Run),
    /// Say everything that is wrong with a configuration
    #[command(
        after_help = "Examples:\n  larder check\n  larder check -c deploy/proxy.yaml --strict --format github --no-env"
    )]
    Check(Check),
    /// Start a slow demo app with larder in front
    #[command(
        after_help = "Examples:\n  larder demo\n  larder demo --app-only --listen 127.0.0.1:3000"
    )]
    Demo(Demo),
    /// Purge what is stored; softly, unless --hard
    #[command(
        after_help = "Examples:\n  larder purge --tag car:42 --url https://shop.example/api/fleet --hard\n  larder purge --prefix /api/cars/ --dry-run"
    )]
    Purge(Purge),
    /// Ask for pages before anybody has to wait for them
    ///
    /// Tells of each page what became of it: MISS → stored, or why it is not. Without URLs, warms what the
    /// configuration lists. Exits 1 where the app failed.
    #[command(
        after_help = "Examples:\n  larder warm /api/fleet /api/cars/42 --host shop.example\n  larder warm --sitemap /sitemap.xml --rate 20"
    )]
    Warm(warm::Warm),
    /// Say what would become of a request and why; or what a code or a reason means
    ///
    /// Asks a running larder for the five steps: limit, route, key, lookup, answer; with --response also
    /// whether such an answer would be stored. The app is not asked. With -c, or where no larder runs,
    /// explains by the configuration alone.
    #[command(
        after_help = "Examples:\n  larder explain /api/fleet?page=2 -H \"Accept-Language: de\" --response \"Cache-Control: max-age=60\"\n  larder explain E107"
    )]
    Explain(Explain),
    /// Visit the app and Redis that a configuration names, and say what would hurt later
    ///
    /// Only asks; exits 1 where something is bad.
    #[command(
        after_help = "Examples:\n  larder doctor\n  larder doctor -c deploy/proxy.yaml --strict --json"
    )]
    Doctor(Doctor),
    /// Say how a running larder does: requests, hits, p50 to p999 by what became of them, Redis
    #[command(
        after_help = "Examples:\n  larder stats\n  larder stats --json --admin http://127.0.0.1:9800"
    )]
    Stats(Stats),
    /// Say how much room Redis has, when it is full, and when one Redis is not enough
    ///
    /// Asks a running larder; or works out a plan: so many keys, or so many new ones a second for so long.
    #[command(
        after_help = "Examples:\n  larder capacity\n  larder capacity --keys 100000 --size 4KiB --max-memory 256MiB"
    )]
    Capacity(Capacity),
    /// Say what traffic is worth a route, as YAML to paste, and why the rest is not
    ///
    /// Asks a running larder to look at what goes to the app for a while.
    #[command(
        after_help = "Examples:\n  larder suggest --for 10m\n  larder suggest --json --admin http://127.0.0.1:9800"
    )]
    Suggest(suggest::Suggest),
    /// Ask a running larder whether it is well; exits 0 or 1
    #[command(
        after_help = "Examples:\n  larder healthcheck\n  larder healthcheck --ready --admin http://127.0.0.1:9800"
    )]
    Healthcheck(Healthcheck),
    /// Print what is made from the tables inside
    #[command(
        after_help = "Examples:\n  larder export schema > proxy.schema.json\n  larder export schema | head"
    )]
    Export(Export),
    /// Print completions for a shell
    #[command(
        after_help = "Examples:\n  larder completions bash > /etc/bash_completion.d/larder\n  larder completions fish | source"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    #[command(
        after_help = "Examples:\n  larder version\n  test \"$(larder version)\" = \"larder 0.1.0\""
    )]
    Version,
}

#[derive(Debug, Args)]
struct Run {
    /// The app; no file is read then
    #[arg(value_name = "URL", conflicts_with = "config")]
    url: Option<String>,
    /// How long every answer of the app may be reused
    #[arg(long, value_name = "DURATION", requires = "url")]
    ttl: Option<String>,
    /// The configuration; - is standard input
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Variables for ${…}, as lines NAME=value
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Reload when the configuration's file changes; `--watch=false` leaves that to SIGHUP
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    watch: bool,
}

#[derive(Debug, Args)]
struct Check {
    /// The configuration; - is standard input
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Variables for ${…}, as lines NAME=value
    #[arg(long, value_name = "FILE", conflicts_with = "no_env")]
    env_file: Option<PathBuf>,
    /// Warnings fail too
    #[arg(long)]
    strict: bool,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t)]
    format: CheckFormat,
    /// Check without looking at environment variables, for where secrets are absent
    #[arg(long)]
    no_env: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum CheckFormat {
    #[default]
    Human,
    Json,
    Github,
}

#[derive(Debug, Args)]
struct Demo {
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Where the demo app listens [default: 127.0.0.1:3000]"
    )]
    listen: Option<SocketAddr>,
    /// The app alone, without larder
    #[arg(long)]
    app_only: bool,
}

#[derive(Debug, Args)]
struct AdminPort {
    /// Where the admin port is [default: http://127.0.0.1:9800]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
}

impl AdminPort {
    fn url(&self) -> &str {
        self.admin.as_deref().unwrap_or("http://127.0.0.1:9800")
    }
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
struct Purge {
    /// Everything with this tag
    #[arg(long, value_name = "TAG", group = "what")]
    tag: Vec<String>,
    /// Every variant of this URL
    #[arg(long, value_name = "URL", group = "what")]
    url: Vec<String>,
    /// Every URL that starts so
    #[arg(long, value_name = "PREFIX", group = "what")]
    prefix: Vec<String>,
    /// Every URL like this: * within a segment or for the rest, ** anywhere
    #[arg(long, value_name = "PATTERN", group = "what")]
    glob: Vec<String>,
    /// Every URL that begins with a match of this regular expression
    #[arg(long, value_name = "PATTERN", group = "what")]
    regex: Vec<String>,
    /// Everything that was stored for this user alone
    #[arg(long, value_name = "ID", group = "what")]
    user: Vec<String>,
    /// Everything of this group (Cache-Groups, RFC 9875) of --origin
    #[arg(long, value_name = "NAME", group = "what", requires = "origin")]
    group: Vec<String>,
    /// Whose the groups are, such as https://shop.example
    #[arg(long, value_name = "URL", requires = "group")]
    origin: Option<String>,
    /// Everything that this route stored
    #[arg(long, value_name = "NAME", group = "what")]
    route: Vec<String>,
    /// Everything
    #[arg(long, group = "what")]
    all: bool,
    /// Gone at once, instead of stale and refreshed behind the next visitor
    #[arg(long)]
    hard: bool,
    /// Fetch again at once what of it is asked for most
    #[arg(long)]
    refresh_hot: bool,
    /// Say what it would hit, and purge nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    port: AdminPort,
    /// The admin token; by default the variable ADMIN_TOKEN
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Explain {
    /// A URL, a path, a code such as E107, or a reason such as set-cookie
    #[arg(value_name = "URL|CODE|REASON")]
    what: String,
    /// The request's method
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// A field of the request
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Who sends it: user:ID, role:ROLE, ip:ADDRESS
    #[arg(long = "as", value_name = "WHO")]
    sender: Vec<String>,
    /// A field of an answer of the app: would it be stored?
    #[arg(long, value_name = "NAME: VALUE")]
    response: Vec<String>,
    /// The status of that answer [default: 200]
    #[arg(long, value_name = "STATUS")]
    status: Option<u16>,
    /// By this configuration alone, without a running larder; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Variables for ${…}, as lines NAME=value
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    #[command(flatten)]
    port: AdminPort,
    /// The admin token; by default the variable ADMIN_TOKEN
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Doctor {
    /// The configuration; - is standard input
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Variables for ${…}, as lines NAME=value
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Advice fails too
    #[arg(long)]
    strict: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Stats {
    #[command(flatten)]
    port: AdminPort,
    /// The admin token; by default the variable ADMIN_TOKEN
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Capacity {
    /// A plan: so many keys
    #[arg(long, value_name = "NUMBER", requires = "size")]
    keys: Option<u64>,
    /// A plan: so many new keys a second, in place of --keys
    #[arg(long, value_name = "NUMBER", requires = "ttl", conflicts_with = "keys")]
    per_second: Option<f64>,
    /// For how long each is kept
    #[arg(long, value_name = "DURATION", requires = "per_second")]
    ttl: Option<String>,
    /// Content of each
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// What Redis may use
    #[arg(long, value_name = "SIZE", requires = "size")]
    max_memory: Option<String>,
    #[command(flatten)]
    port: AdminPort,
    /// The admin token; by default the variable ADMIN_TOKEN
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Print the worksheet as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Healthcheck {
    /// Whether it can take traffic, not only whether it lives
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    port: AdminPort,
}

#[derive(Debug, Args)]
struct Export {
    /// What to print
    #[arg(value_enum)]
    what: Exported,
    /// The configuration, where what is printed depends on it; - is standard input
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Variables for ${…}, as lines NAME=value
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Exported {
    /// The JSON Schema of the configuration, draft 7
    Schema,
    /// The smallest user that larder can work as, as a command for redis-cli
    Acl,
}

/// Runs larder with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    leave_no_memory_in_core_dumps();
    let outcome = std::panic::catch_unwind(|| run(std::env::args_os()));
    outcome
        .unwrap_or_else(|_| {
            talk("larder: this is a bug; please report what is printed above");
            Exit::Bug
        })
        .into()
}

/// A dump would hold secrets. No kind of mapping goes into one from here on (core(5)); where the kernel
/// has no such file, its limits have to do.
fn leave_no_memory_in_core_dumps() {
    let _ = std::fs::write("/proc/self/coredump_filter", "0");
}

/// Runs larder with these arguments, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            talk(error.render().to_string().trim_end());
            return Exit::Usage;
        }
        Err(shown) => {
            say(&shown.render().to_string());
            return Exit::Fine;
        }
    };
    match cli.verb {
        None => {
            say(&Cli::command().render_help().to_string());
            Exit::Fine
        }
        Some(Verb::Run(options)) => serve(options, cli.color),
        Some(Verb::Check(options)) => check(&options, cli.color),
        Some(Verb::Demo(options)) => demo(&options, cli.color),
        Some(Verb::Purge(options)) => purge(&options),
        Some(Verb::Warm(options)) => warm::warm(&options),
        Some(Verb::Explain(options)) => explain(&options),
        Some(Verb::Healthcheck(options)) => healthcheck(&options),
        Some(Verb::Stats(options)) => stats(&options),
        Some(Verb::Capacity(options)) => capacity(&options),
        Some(Verb::Suggest(options)) => suggest::suggest(&options),
        Some(Verb::Doctor(options)) => doctor(&options, cli.color),
        Some(Verb::Export(options)) => export(&options, cli.color),
        Some(Verb::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "larder", &mut script);
            say(&String::from_utf8_lossy(&script));
            Exit::Fine
        }
        Some(Verb::Version) => {
            say(concat!("larder ", env!("CARGO_PKG_VERSION"), "\n"));
            Exit::Fine
        }
    }
}

fn serve(options: Run, color: When) -> Exit {
    let log_color = color.decide(std::io::stdout().is_terminal());
    let color = color.decide(std::io::stderr().is_terminal());
    if let Some(file) = options.url.as_ref().filter(|url| Path::new(url).is_file()) {
        let why = format!("`{file}` is a file, not the URL of an app: larder run -c {file}");
        return fail(Exit::Usage, &why);
    }
    let origin = match &options.url {
        Some(url) => Ok(Origin::url(url, options.ttl.as_deref())),
        None => environment(options.env_file.as_deref())
            .and_then(|env| Origin::find(options.config.as_deref(), &env)),
    };
    let options = origin.map(|origin| RunOptions {
        origin,
        env_file: options.env_file,
        app: None,
        demo: false,
        watch: options.watch,
        color,
        log_color,
    });
    match options {
        Ok(options) => start(options, app::run),
        Err(report) => invalid(&report, color),
    }
}

/// Loads the configuration, tells what is to be said of it, and hands it to `room`.
fn start(
    options: RunOptions,
    room: impl FnOnce(RunOptions, Settings) -> std::io::Result<()>,
) -> Exit {
    let color = options.color;
    let (settings, report) = match options.load() {
        Ok(loaded) => loaded,
        Err(report) => return invalid(&report, color),
    };
    talk(report.lines(Severity::Note).trim_end());
    finish(room(options, settings))
}

fn finish(outcome: std::io::Result<()>) -> Exit {
    match outcome {
        Ok(()) => Exit::Fine,
        Err(error) => {
            talk(&format!("larder: {error}"));
            match error.kind() {
                std::io::ErrorKind::InvalidData => Exit::Config,
                _ => Exit::Unreachable,
            }
        }
    }
}

fn invalid(report: &Report, color: bool) -> Exit {
    talk(report.render(Format::Human, color).trim_end());
    Exit::Config
}

/// The demo's configuration where there is no ./proxy.yaml: the one this was built with.
const DEMO_CONFIGURATION: &str = include_str!("../proxy.yaml");

fn demo(options: &Demo, color: When) -> Exit {
    let mut app = demo::DemoOptions::from_env();
    if let Some(listen) = options.listen {
        app.listen = listen;
    }
    if options.app_only {
        return finish(demo::run(app));
    }
    let built_in = || {
        Origin::Text(Source {
            name: "the demo's proxy.yaml".into(),
            text: DEMO_CONFIGURATION.into(),
        })
    };
    let proxy = RunOptions {
        origin: Origin::find(None, &Environment::ignored()).unwrap_or_else(|_| built_in()),
        env_file: None,
        app: None,
        demo: true,
        watch: true,
        color: color.decide(std::io::stderr().is_terminal()),
        log_color: color.decide(std::io::stdout().is_terminal()),
    };
    start(proxy, |proxy, settings| app::run_demo(app, proxy, settings))
}

fn export(options: &Export, color: When) -> Exit {
    match options.what {
        Exported::Schema => {
            say(&config::schema());
            Exit::Fine
        }
        Exported::Acl => match load(options.config.as_deref(), options.env_file.as_deref()) {
            Ok((settings, _)) => {
                say(&format!(
                    "{}\n",
                    redis_client::acl(&settings.cache.namespace, &settings.purging)
                ));
                Exit::Fine
            }
            Err(report) => invalid(&report, color.decide(std::io::stderr().is_terminal())),
        },
    }
}

/// The configuration that a verb is about, where it is only read.
fn load(config: Option<&Path>, env_file: Option<&Path>) -> Result<(Settings, Report), Report> {
    let env = environment(env_file)?;
    let source = Origin::find(config, &env)?.read()?;
    config::load(source, &env)
}

fn doctor(options: &Doctor, color: When) -> Exit {
    let settings = match load(options.config.as_deref(), options.env_file.as_deref()) {
        Ok((settings, _)) => settings,
        Err(report) => return invalid(&report, color.decide(std::io::stderr().is_terminal())),
    };
    let findings = match examine(&settings) {
        Ok(findings) => findings,
        Err(error) => return fail(Exit::Unreachable, &error.to_string()),
    };
    if options.json {
        say(&format!(
            "{}\n",
            serde_json::json!({ "findings": findings })
        ));
    } else {
        let color = color.decide(std::io::stdout().is_terminal());
        findings
            .iter()
            .for_each(|finding| say(&lines(finding, color)));
    }
    let worst = findings.iter().map(|finding| finding.grade).max();
    match worst {
        Some(Grade::Bad) => Exit::Findings,
        Some(Grade::Advice) if options.strict => Exit::Findings,
        _ => Exit::Fine,
    }
}

fn lines(finding: &Finding, color: bool) -> String {
    let (mark, paint) = match finding.grade {
        Grade::Good => ("√", "32"),
        Grade::Advice => ("!", "33"),
        Grade::Bad => ("×", "31"),
    };
    let mark = match color {
        true => format!("\x1b[{paint}m{mark}\x1b[0m"),
        false => mark.to_owned(),
    };
    let mend = finding.mend.as_ref();
    let mend = mend.map_or(String::new(), |mend| format!("\n    {mend}"));
    format!("{mark} {}: {}{mend}\n", finding.of, finding.says)
}

fn check(options: &Check, color: When) -> Exit {
    let color = color.decide(std::io::stdout().is_terminal());
    let format = match options.format {
        CheckFormat::Human => Format::Human,
        CheckFormat::Json => Format::Json,
        CheckFormat::Github => Format::Github,
    };
    let env = if options.no_env {
        Ok(Environment::ignored())
    } else {
        environment(options.env_file.as_deref())
    };
    let loaded = env.and_then(|env| {
        let source = Origin::find(options.config.as_deref(), &env)?.read()?;
        config::load(source, &env)
    });
    let (report, exit) = match loaded {
        Ok((settings, report)) => {
            let warned = report.count(Severity::Warning) > 0;
            talk(&format!(
                "{}: {}, {}, configuration {}",
                report.source.name,
                count(settings.routes.all().len().saturating_sub(1), "route"),
                count(settings.limits.all.len(), "limit"),
                settings.hash,
            ));
            (
                report,
                if warned && options.strict {
                    Exit::Findings
                } else {
                    Exit::Fine
                },
            )
        }
        Err(report) => (report, Exit::Config),
    };
    say(&report.render(format, color));
    talk(&summary(&report));
    exit
}

/// `2 errors, 1 warning`, or that all is well.
fn summary(report: &Report) -> String {
    let counts: Vec<String> = [Severity::Error, Severity::Warning]
        .into_iter()
        .map(|severity| (severity, report.count(severity)))
        .filter(|(_, count)| *count > 0)
        .map(|(severity, number)| count(number, severity.as_str()))
        .collect();
    if counts.is_empty() {
        "no problems".into()
    } else {
        counts.join(", ")
    }
}

/// `1 route`, `2 routes`
fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn purge(options: &Purge) -> Exit {
    let mut body = serde_json::json!({
        "tags": options.tag,
        "urls": options.url,
        "prefixes": options.prefix,
        "globs": options.glob,
        "regexes": options.regex,
        "routes": options.route,
        "users": options.user,
        "groups": options.group,
        "origin": options.origin,
        "all": options.all,
        "soft": !options.hard,
        "dry_run": options.dry_run,
    });
    if options.refresh_hot {
        body["refresh"] = "hot".into();
    }
    let request = Request {
        admin: options.port.url(),
        path: "/v1/purge",
        token: token(options.token.as_deref()),
        body: Some(body.to_string()),
        timeout: PURGE_TIMEOUT,
    };
    let (status, answer) = match request.send() {
        Ok(answer) => answer,
        Err((exit, why)) => return fail(exit, &why),
    };
    match status {
        200..=299 if options.json => say(&format!("{}\n", answer.trim_end())),
        200..=299 => say(&purged(&answer)),
        _ => return refused("the purge failed", &answer, status),
    }
    Exit::Fine
}

/// The admin token: as given, else from the environment.
fn token(given: Option<&str>) -> Option<Secret> {
    let token = given.map(str::to_owned);
    let token = token.or_else(|| std::env::var(TOKEN_VARIABLE).ok());
    token.filter(|token| !token.is_empty()).map(Secret::new)
}

/// How to exit on an answer of the admin port that is none.
fn refused(what: &str, answer: &str, status: u16) -> Exit {
    let told = told(answer, status);
    match status {
        401 => {
            let why = format!("the token was refused; give it with --token or {TOKEN_VARIABLE}");
            fail(Exit::Refused, &why)
        }
        // The admin port knows itself by other names than `--admin` has.
        403 => fail(Exit::Refused, &told),
        400..=428 | 430..=499 => fail(Exit::Usage, &told),
        _ => fail(Exit::Unreachable, &format!("{what}: {told}")),
    }
}

fn explain(options: &Explain) -> Exit {
    let code = Code::ALL
        .iter()
        .find(|code| code.as_str().eq_ignore_ascii_case(&options.what));
    if let Some(code) = code {
        say(&explained(*code, options.json));
        return Exit::Fine;
    }
    if let Some(reason) = Reason::of_word(&options.what) {
        say(&reasoned(reason, options.json));
        return Exit::Fine;
    }
    if !options.what.contains('/') {
        let why = format!(
            "`{}` is neither a URL, nor a path, nor a code or reason; write /api/fleet, E107 or set-cookie",
            options.what
        );
        return fail(Exit::Usage, &why);
    }
    let question = question(options);
    if options.config.is_some() {
        return explain_alone(options, &question);
    }
    let request = Request {
        admin: options.port.url(),
        path: &format!("/v1/explain?{question}"),
        token: token(options.token.as_deref()),
        body: None,
        timeout: EXPLAIN_TIMEOUT,
    };
    let (status, answer) = match request.send() {
        Ok(answer) => answer,
        // Whoever names a port means that larder; else a file at hand is the next best.
        Err((Exit::Unreachable, why)) if options.port.admin.is_none() => {
            if environment(None).is_ok_and(|env| Origin::find(None, &env).is_ok()) {
                talk(&format!("larder: {why}"));
                return explain_alone(options, &question);
            }
            let why = format!("{why}; explain by a file alone with -c proxy.yaml");
            return fail(Exit::Unreachable, &why);
        }
        Err((exit, why)) => return fail(exit, &why),
    };
    match (status, serde_json::from_str::<Explanation>(&answer)) {
        (200..=299, _) if options.json => say(&format!("{}\n", answer.trim_end())),
        (200..=299, Ok(explanation)) => say(&explanation.to_string()),
        (200..=299, Err(_)) => {
            return fail(
                Exit::Unreachable,
                "the answer is not one of a larder like this",
            );
        }
        _ => return refused("it cannot be explained", &answer, status),
    }
    Exit::Fine
}

/// The query of `/v1/explain`.
fn question(options: &Explain) -> String {
    let mut query = format!(
        "url={}&method={}",
        encoded(&options.what),
        encoded(&options.method)
    );
    for (name, values) in [
        ("header", &options.header),
        ("as", &options.sender),
        ("response", &options.response),
    ] {
        for value in values {
            query.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    if let Some(status) = options.status {
        query.push_str(&format!("&status={status}"));
    }
    query
}

/// Explains by the configuration, without a running larder, and says so.
fn explain_alone(options: &Explain, question: &str) -> Exit {
    let loaded = load(options.config.as_deref(), options.env_file.as_deref());
    let (settings, report) = match loaded {
        Ok(loaded) => loaded,
        Err(report) => return invalid(&report, false),
    };
    let question = match Question::parse(question) {
        Ok(question) => question,
        Err(unclear) => {
            let why = format!("{} {}", unclear.detail, unclear.fix);
            return fail(Exit::Usage, &why);
        }
    };
    let name = &report.source.name;
    talk(&format!(
        "larder: explained by {name} alone; what is stored and counted is not known"
    ));
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(Exit::Bug, &error.to_string()),
    };
    let explanation = runtime.block_on(explain_settings(settings, question));
    match options.json {
        true => say(&format!("{}\n", serde_json::json!(explanation))),
        false => say(&explanation.to_string()),
    }
    Exit::Fine
}

/// What the documentation says of a reason.
fn reasoned(reason: Reason, json: bool) -> String {
    let (word, means, by, fix) = (reason.word(), reason.meaning(), reason.by(), reason.fix());
    if json {
        let told = serde_json::json!({
            "reason": word, "meaning": means, "by": by, "fix": fix,
        });
        return format!("{told}\n");
    }
    format!("{word}: {means}\n\nby: {by}\n{fix}\n")
}

/// What the documentation says of a code.
fn explained(code: Code, json: bool) -> String {
    let severity = code.severity().as_str();
    let (name, title, text) = (code.as_str(), code.title(), code.explanation());
    if json {
        let told = serde_json::json!({
            "code": name, "severity": severity, "title": title, "explanation": text,
        });
        return format!("{told}\n");
    }
    format!("{severity}[{name}]: {title}\n\n{text}\n")
}

/// As the value of a query parameter.
fn encoded(value: &str) -> impl std::fmt::Display + '_ {
    percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC)
}

/// What was purged, or would be, one line each, with what the answer adds.
fn purged(answer: &str) -> String {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let mut lines = String::new();
    for hit in list("would_hit") {
        let (what, entries) = (text_of(&hit["purge"]), hit["entries"].as_u64());
        let entries = count_of(entries.unwrap_or_default());
        let bytes = hit["bytes"].as_u64().unwrap_or_default();
        lines.push_str(&format!("would purge {what}: {entries}, {bytes} bytes\n"));
        for url in hit["urls"].as_array().into_iter().flatten() {
            lines.push_str(&format!("  {}\n", text_of(url)));
        }
    }
    if answer["dry_run"] == true {
        let of = match answer["complete"] == true {
            true => "",
            false => "a part of ",
        };
        lines.push_str(&format!("of {of}{}\n", text_of(&answer["of"])));
    }
    for done in list("done") {
        let how = match done["soft"] == true {
            true => "purged softly",
            false => "purged",
        };
        lines.push_str(&format!("{how}: {}\n", text_of(&done["purge"])));
    }
    if answer["outcome"] == "queued" {
        lines.push_str("Redis is away, so the other sidecars hear of it when it is back\n");
    }
    lines
}

fn text_of(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `1 response`, `2 responses`
fn count_of(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "response")
}

/// The `detail` or `title` of a problem (RFC 9457) and what to do about it, or the status alone.
fn told(answer: &str, status: u16) -> String {
    let told = member(answer, "detail").or_else(|| member(answer, "title"));
    match (told, member(answer, "fix")) {
        (Some(told), Some(fix)) => format!("{told} {fix}"),
        (Some(told), None) => told,
        (None, _) => format!("status {status}"),
    }
}

/// A member of a JSON object that is text.
fn member(object: &str, name: &str) -> Option<String> {
    let object = serde_json::from_str::<serde_json::Value>(object).ok()?;
    Some(object.get(name)?.as_str()?.to_owned())
}

fn stats(options: &Stats) -> Exit {
    let answer = match ask(&options.port, options.token.as_deref(), "/v1/stats") {
        Ok(answer) => answer,
        Err(exit) => return exit,
    };
    match options.json {
        true => say(&format!("{answer}\n")),
        false => say(&shown(&answer)),
    }
    Exit::Fine
}

/// What `/v1/stats` answers, for people.
fn shown(stats: &serde_json::Value) -> String {
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or(0.0);
    let all: f64 = stats["requests"]
        .as_object()
        .into_iter()
        .flat_map(|counts| counts.values())
        .map(number)
        .sum();
    let mut out = format!(
        "{all} requests, {:.1} % hits, {} errors, {} waited for another's fetch, {:.0} s of app time saved\n\n{:<18}{:>10}{:>10}{:>10}{:>10}\n",
        number(&stats["hit_ratio"]) * 100.0,
        stats["errors"],
        stats["coalesced"],
        number(&stats["saved_seconds"]),
        "ms",
        "p50",
        "p95",
        "p99",
        "p999",
    );
    let redis = &stats["redis"];
    for (before, latency) in [("", &stats["latency"]), ("redis ", &redis["latency"])] {
        for (name, row) in latency.as_object().into_iter().flatten() {
            let columns: String = ["p50_ms", "p95_ms", "p99_ms", "p999_ms"]
                .map(|name| format!("{:>10.3}", number(&row[name])))
                .concat();
            out.push_str(&format!("{:<18}{columns}\n", format!("{before}{name}")));
        }
    }
    if redis.is_object() {
        out.push_str(&format!(
            "\nredis {}, breaker {}, pool {:.0} % used\n",
            if redis["up"] == true { "up" } else { "away" },
            redis["breaker"].as_str().unwrap_or("unknown"),
            number(&redis["utilization"]) * 100.0,
        ));
    }
    out
}

fn capacity(options: &Capacity) -> Exit {
    let Some(size) = &options.size else {
        let answer = match ask(&options.port, options.token.as_deref(), "/v1/capacity") {
            Ok(answer) => answer,
            Err(exit) => return exit,
        };
        if options.json {
            say(&format!("{answer}\n"));
            return Exit::Fine;
        }
        return match filled_in(&answer) {
            Some(text) => {
                say(&text);
                Exit::Fine
            }
            None => fail(
                Exit::Unreachable,
                "it does not know yet: no Redis is configured, none has answered, or its user may not say INFO",
            ),
        };
    };
    match plan(options, size) {
        Ok(load) if options.json => say(&format!("{}\n", serde_json::json!(load.sheet()))),
        Ok(load) => say(&load.sheet().to_string()),
        Err(why) => return fail(Exit::Usage, &why),
    }
    Exit::Fine
}

/// What is planned, from the arguments alone.
fn plan(options: &Capacity, size: &str) -> Result<Load, String> {
    let content = config::size(size)?;
    let keys = match (options.keys, options.per_second, &options.ttl) {
        (Some(keys), _, _) => keys,
        (None, Some(rate), Some(ttl)) => (rate * config::span(ttl)?.as_secs_f64()) as u64,
        _ => return Err("say how many: --keys 100000, or --per-second 20 --ttl 5m".to_owned()),
    };
    let most = options
        .max_memory
        .as_deref()
        .map(config::size)
        .transpose()?;
    Ok(Load::planned(keys, content, most.unwrap_or(0)))
}

/// The worksheet of a running larder, for people.
fn filled_in(answer: &serde_json::Value) -> Option<String> {
    let sheet: Sheet = serde_json::from_value(answer["sheet"].clone()).ok()?;
    let address = answer["redis"].as_str()?;
    let full = match (answer["full_at"].as_str(), sheet.growth_known) {
        (Some(_), _) if sheet.full_in_seconds == Some(0) => "now".to_owned(),
        (Some(at), _) if sheet.evicts => format!("{at} at this growth; from then on it evicts"),
        (Some(at), _) => format!("{at} at this growth; then it takes no more writes"),
        (None, true) => "not at this growth".to_owned(),
        (None, false) => "not known yet: it has to be looked at for a minute".to_owned(),
    };
    Some(format!("{address}\n{sheet}  {:<14}{full}\n", "full"))
}

/// The answer to a GET of the admin port.
fn ask(port: &AdminPort, given: Option<&str>, path: &str) -> Result<serde_json::Value, Exit> {
    let request = Request {
        admin: port.url(),
        path,
        token: token(given),
        body: None,
        timeout: STATS_TIMEOUT,
    };
    request.told("it does not say")
}

fn healthcheck(options: &Healthcheck) -> Exit {
    let request = Request {
        admin: options.port.url(),
        path: if options.ready { "/readyz" } else { "/livez" },
        token: None,
        body: None,
        timeout: HEALTH_TIMEOUT,
    };
    match request.send() {
        Ok((200..=299, _)) => Exit::Fine,
        // Docker knows 0 and 1 alone (HEALTHCHECK), so everything that is not well is 1.
        Ok((status, answer)) => fail(
            Exit::Findings,
            &format!("not well: {}", told(&answer, status)),
        ),
        Err((Exit::Usage, why)) => fail(Exit::Usage, &why),
        Err((_, why)) => fail(Exit::Findings, &why),
    }
}

/// One request to the admin port.
struct Request<'a> {
    admin: &'a str,
    path: &'a str,
    token: Option<Secret>,
    /// POST with this JSON, else GET.
    body: Option<String>,
    timeout: Duration,
}

impl Request<'_> {
    /// The answer as JSON; where it is refused, `what` came of it.
    fn told(&self, what: &str) -> Result<serde_json::Value, Exit> {
        let (status, answer) = self.send().map_err(|(exit, why)| fail(exit, &why))?;
        match (status, serde_json::from_str(&answer)) {
            (200..=299, Ok(answer)) => Ok(answer),
            (200..=299, Err(_)) => Err(fail(
                Exit::Unreachable,
                "the answer is not one of a larder like this",
            )),
            _ => Err(refused(what, &answer, status)),
        }
    }

    /// Status and body of the answer, or how to exit and why.
    fn send(&self) -> Result<(u16, String), (Exit, String)> {
        let usage = |why: &str| (Exit::Usage, format!("--admin {}: {why}", self.admin));
        let uri: http::Uri = self.admin.parse().map_err(|_| usage("not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(usage("write http://127.0.0.1:9800"));
        }
        let authority = uri.authority().ok_or_else(|| usage("no host"))?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let address = (host.to_owned(), authority.port_u16().unwrap_or(9800));
        let request = self.build(authority.as_str()).map_err(|why| usage(&why))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| (Exit::Bug, error.to_string()))?;
        let answer = runtime.block_on(async {
            tokio::time::timeout(self.timeout, exchange(address, request)).await
        });
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => Err((
                Exit::Unreachable,
                format!("{} cannot be reached: {why}", self.admin),
            )),
            Err(_) => Err((
                Exit::Unreachable,
                format!("{} did not answer within {:?}", self.admin, self.timeout),
            )),
        }
    }

    fn build(&self, host: &str) -> Result<http::Request<Full<Bytes>>, String> {
        let method = if self.body.is_some() {
            http::Method::POST
        } else {
            http::Method::GET
        };
        let mut request = http::Request::builder()
            .method(method)
            .uri(self.path)
            .header(http::header::HOST, host)
            .header(http::header::CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(
                http::header::AUTHORIZATION,
                format!("Bearer {}", token.expose()),
            );
        }
        if self.body.is_some() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        let body = Full::from(self.body.clone().unwrap_or_default());
        request
            .body(body)
            .map_err(|_| "the token or the host cannot be sent in a header".to_owned())
    }
}

async fn exchange(
    address: (String, u16),
    request: http::Request<Full<Bytes>>,
) -> Result<(u16, String), Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let talking = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await?;
        Ok((
            status,
            String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        ))
    };
    // The connection is driven beside the exchange and ends with it.
    let mut talking = std::pin::pin!(talking);
    tokio::select! {
        answer = &mut talking => answer,
        ended = connection => match ended {
            Ok(()) => talking.await,
            Err(error) => Err(error.into()),
        },
    }
}

fn fail(exit: Exit, why: &str) -> Exit {
    talk(&format!("larder: {why}"));
    exit
}

impl When {
    /// NO_COLOR wins over CLICOLOR_FORCE, which wins over what the terminal is.
    fn decide(self, terminal: bool) -> bool {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        self.color(set("NO_COLOR"), set("CLICOLOR_FORCE"), terminal)
    }

    fn color(self, no_color: bool, force: bool, terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => !no_color && (force || terminal),
        }
    }
}

/// To standard output; a reader that has gone away is no error.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A line to standard error, unless it is empty.
fn talk(text: &str) {
    if !text.is_empty() {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(arguments: &[&str]) -> Exit {
        run(std::iter::once("larder")
            .chain(arguments.iter().copied())
            .map(OsString::from))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_two_examples() {
        for verb in Cli::command().get_subcommands() {
            let help = verb
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert_eq!(help.matches("\n  ").count(), 2, "{}", verb.get_name());
        }
    }

    #[test]
    fn wrong_usage_is_two() {
        for arguments in [
            &["flub"][..],
            &["run", "--ttl", "1s"],
            &["purge"],
            &["run", "http://a", "-c", "x"],
        ] {
            assert_eq!(exit(arguments), Exit::Usage, "{arguments:?}");
        }
        assert_eq!(exit(&["version"]), Exit::Fine);
        assert_eq!(
            exit(&["purge", "--all", "--admin", "https://x"]),
            Exit::Usage
        );
    }

    #[test]
    fn an_admin_port_that_is_not_there_is_said_so() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = format!("http://{}", free.local_addr().unwrap());
        drop(free);
        assert_eq!(
            exit(&["purge", "--all", "--admin", &admin]),
            Exit::Unreachable
        );
        assert_eq!(exit(&["healthcheck", "--admin", &admin]), Exit::Findings);
    }

    /// Answers one request with `head` and returns what it was.
    fn admin_port(head: &'static str) -> (String, std::thread::JoinHandle<String>) {
        use std::io::Read;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}") && !request.ends_with(b"\r\n\r\n") {
                let read = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(head.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (url, served)
    }

    #[test]
    fn a_purge_is_soft_unless_hard_and_brings_its_token() {
        let (admin, served) = admin_port("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        assert_eq!(
            exit(&[
                "purge", "--tag", "a", "--url", "/b", "--token", "t", "--admin", &admin
            ]),
            Exit::Fine
        );
        let request = served.join().unwrap();
        assert!(request.starts_with("POST /v1/purge HTTP/1.1\r\n"));
        assert!(request.contains("authorization: Bearer t\r\n"));
        let (_, body) = request.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "tags": ["a"], "urls": ["/b"], "prefixes": [], "globs": [], "regexes": [],
                "routes": [], "users": [], "groups": [], "origin": null, "all": false,
                "soft": true, "dry_run": false,
            })
        );
    }

    #[test]
    fn a_refusal_says_what_to_do_and_a_queued_purge_that_it_is_not_everywhere_yet() {
        let answer = r#"{"detail":"There is no route of this name.","fix":"The routes are: a."}"#;
        assert_eq!(
            told(answer, 422),
            "There is no route of this name. The routes are: a."
        );
        assert_eq!(told("no JSON", 502), "status 502");
        let answer = |outcome: &str| {
            let done = r#"[{"purge":"tag a","soft":true},{"purge":"url /b","soft":false}]"#;
            purged(&format!(r#"{{"outcome":"{outcome}","done":{done}}}"#))
        };
        assert_eq!(answer("logged"), "purged softly: tag a\npurged: url /b\n");
        assert!(answer("queued").contains("\nRedis is away, so the other sidecars"));
        let dry = r#"{"dry_run":true,"complete":true,"of":"memory","would_hit":[
            {"purge":"tag a","soft":true,"entries":2,"bytes":30,"urls":["h/1"]}]}"#;
        assert_eq!(
            purged(dry),
            "would purge tag a: 2 responses, 30 bytes\n  h/1\nof memory\n"
        );
    }

    #[test]
    fn codes_are_explained_without_asking_anybody() {
        assert_eq!(exit(&["explain", "e107"]), Exit::Fine);
        assert!(
            explained(Code::E107, false).starts_with("error[E107]: unknown key\n\nNo such key")
        );
        assert_eq!(
            member(&explained(Code::W201, true), "severity").unwrap(),
            "warning"
        );
        assert_eq!(exit(&["explain", "E999"]), Exit::Usage);
    }

    #[test]
    fn a_question_is_sent_whole_and_encoded() {
        let (admin, served) = admin_port("HTTP/1.1 422 No\r\ncontent-length: 0\r\n\r\n");
        let arguments = [
            "explain", "/a?b=1&c", "-H", "X: y z", "--as", "user:u", "--admin", &admin,
        ];
        assert_eq!(exit(&arguments), Exit::Usage);
        assert!(served.join().unwrap().starts_with(
            "GET /v1/explain?url=%2Fa%3Fb%3D1%26c&method=GET&header=X%3A%20y%20z&as=user%3Au HTTP/1.1"
        ));
    }

    #[test]
    fn a_file_in_place_of_a_url_is_wrong_usage() {
        assert_eq!(exit(&["run", "Cargo.toml"]), Exit::Usage);
    }

    #[test]
    fn a_refused_token_is_seventy_seven_and_a_sick_process_one() {
        let (admin, served) = admin_port("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(exit(&["purge", "--all", "--admin", &admin]), Exit::Refused);
        served.join().unwrap();
        let (admin, served) =
            admin_port("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(
            exit(&["healthcheck", "--ready", "--admin", &admin]),
            Exit::Findings
        );
        assert!(served.join().unwrap().starts_with("GET /readyz "));
    }

    #[test]
    fn no_color_wins_over_force_and_force_over_the_terminal() {
        assert!(!When::Auto.color(true, true, true));
        assert!(When::Auto.color(false, true, false));
        assert!(When::Auto.color(false, false, true));
        assert!(!When::Auto.color(false, false, false));
        assert!(When::Always.color(true, false, false));
    }
}
