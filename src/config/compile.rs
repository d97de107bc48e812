//! Raw → [`Settings`]: defaults, names, and everything that two settings can disagree about.
//!
//! Nothing stops at the first problem; a value that was refused is replaced by its default, so that
//! the rest can be looked at, and the whole is refused in the end.

mod purging;
mod scrutiny;
mod warm;

use super::env::Environment;
use super::pem;
use super::preset::{self, Addition};
use super::problem::{Code, Fault, Problem};
use super::raw::{self, Raw};
use super::read::{Given, owner};
use super::redis_url::{Address as RedisAddress, RedisUrl, Topology};
use super::settings::*;
use super::tree::{Node, Value};
use super::values::{
    BodyKey, Compress, CookieRule, Count, Dialect, Down, FilePath, Keys, Level, LineFormat, List,
    MaybeRedis, Mode, OneOrMany, PerWho, Percent, PoolProfile, ReadFromWord, Refresh, Relation,
    Shape, Short, Span, TagTemplate, Text, Trust, Whole,
};
use crate::cgroup;
use crate::identity::{IdentitySettings, JwtSource, UserSource};
use crate::route::{
    Bypass, ContentKey, KeyRule, Pattern, Per, Placeholder, Routes, Rule, Scrutiny, Template,
};
use crate::secret::{self, Secret};
use crate::semantics::{Hosts, Policy, SetCookie, Ttl};
use http::{HeaderName, Method, StatusCode};
use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Memory tier where the file says nothing.
const MEMORY_BYTES: u64 = 64 << 20;
/// Largest stored body where the file says nothing.
const BODY_BYTES: u64 = 1 << 20;
/// Largest body that may be stored at all: some thousand chunks in Redis.
const BODY_BYTES_MAX: u64 = 1 << 30;
/// How long memory is trusted by a sidecar that is cut off, where the file says nothing: as long as most
/// lifetimes, so that an outage of Redis costs the app little and a purge missed is no worse than a TTL.
const TRUST: Duration = Duration::from_secs(300);
/// Bodies above this are compressed where the file says nothing.
const COMPRESS_ABOVE_BYTES: u64 = 1 << 10;
/// Keys of `cache.encrypt`: the one that writes, and the one before.
const ENCRYPT_KEYS_MAX: usize = 2;
/// Negative answers live at most so long unless `by_status` says otherwise.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(60);
/// Files with secrets are no larger.
const SECRET_FILE_BYTES_MAX: u64 = 64 << 10;
/// So much of a file with certificates or a key is read: a bundle of every public authority has a quarter of it.
const PEM_FILE_BYTES_MAX: u64 = 1 << 20;
/// An admin token that others can reach is no shorter.
const TOKEN_BYTES_MIN: usize = 32;
/// Pairs of routes looked at for shadowing; the check stops there, so that huge files load in time.
const SHADOW_CHECKS_MAX: usize = 1_000_000;
/// How long a request waits for another's fetch of the same, where nothing is said.
const COLLAPSE_WAIT: Duration = Duration::from_secs(10);
/// Workers at most.
const WORKERS_MAX: u32 = 1_024;
/// Connections to Redis at most.
const POOL_MAX: u32 = 1_000;
/// Commands under way at a time.
const CONCURRENT_MAX: u32 = 1_000_000;
/// RFC 7518 §3.2: a key of HS256 has at least as many bits as the hash.
const JWT_SECRET_BYTES_MIN: usize = 32;
/// The secret that the demo signs its tokens with; `proxy.yaml` falls back to it.
const DEMO_SECRET: &[u8] = b"demo-secret-demo-secret-demo-secret!!";
/// Redis is told of a limit's counters at most so often.
const SYNC_MIN: Duration = Duration::from_millis(10);
/// … and at least so often,
const SYNC_MAX: Duration = Duration::from_secs(60);
/// so many times in a window.
const SYNCS_A_WINDOW: u32 = 10;
/// Tracking parameters, which never change a page.
const IGNORED_QUERY: [&str; 5] = ["utm_*", "gclid", "fbclid", "msclkid", "mc_*"];

/// Compiles; the problems are added to `problems`.
pub(super) fn compile(
    raw: &Raw,
    root: &Node,
    env: &Environment,
    problems: &mut Vec<Problem>,
) -> Settings {
    let mut compiler = Compiler {
        root,
        env,
        problems,
        identified: false,
        files: Vec::new(),
    };
    let mut identity = compiler.identity(raw.identity.get());
    compiler.identified = identity.jwt.is_some() || matches!(identity.user, UserSource::Header(_));
    let redis = compiler.redis(raw);
    let cache = compiler.cache(raw.cache.get(), redis.is_some());
    identity.seal = cache.encrypt.first().cloned();
    let mut limits = compiler.limits(raw.limits.get());
    let (routes, audit) = compiler.routes(raw, &mut limits);
    let mut settings = Settings {
        audit,
        alerts: compiler.alerts(raw.alerts.get()),
        listen: compiler.listen(raw.listen.get()),
        workers: compiler.workers(raw),
        hosts: compiler.hosts(raw),
        upstream: compiler.upstream(&raw.upstream),
        redis,
        cache,
        identity,
        limits,
        routes,
        warm: compiler.warm(raw),
        predict: compiler.predict(raw),
        headers: compiler.headers(raw.headers.get()),
        errors: match raw.errors.get().and_then(|errors| errors.body.get()) {
            Some(Shape::Exodrive) => ErrorShape::Exodrive,
            _ => ErrorShape::Problem,
        },
        admin: compiler.admin(raw.admin.get()),
        purging: compiler.purging(raw),
        log: log(raw.log.get()),
        shutdown: shutdown(raw.shutdown.get()),
        files: Vec::new(),
        hash: String::new(),
        places: super::Places::default(),
    };
    compiler.ports(&settings);
    compiler.purge_method(&settings);
    settings.files = compiler.files;
    settings.hash = hash(&settings);
    settings
}

/// Eight hexadecimal digits over everything in force. Secrets are dots there, so that nobody can
/// test guesses of one against this public name.
fn hash(settings: &Settings) -> String {
    let text = format!("{settings:?}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest
        .as_ref()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Compiler<'a> {
    root: &'a Node,
    env: &'a Environment,
    problems: &'a mut Vec<Problem>,
    /// Whether anybody can ever be a user.
    identified: bool,
    /// Files that were read.
    files: Vec<PathBuf>,
}

impl Compiler<'_> {
    fn tell(&mut self, code: Code, path: &str, message: impl Into<String>, fix: impl Into<String>) {
        let found = self.root.find(path);
        let place = found.map(|(key, node)| match node.value {
            Value::Map(_) | Value::List(_) => key,
            _ => node.place,
        });
        let place = place.filter(|_| !path.is_empty());
        self.problems.push(Problem {
            code,
            message: message.into(),
            path: path.to_owned(),
            place,
            fix: fix.into(),
        });
    }

    /// The span at `path`, which must not be zero.
    fn positive(&mut self, given: &Given<Span>, path: &str, default: Duration) -> Duration {
        match given.get() {
            Some(Span(Duration::ZERO)) => {
                let name = path.rsplit('.').next().unwrap_or(path);
                self.tell(
                    Code::E117,
                    path,
                    format!("a {name} of 0s leaves no time at all"),
                    "write a longer one",
                );
                default
            }
            Some(Span(span)) => *span,
            None => default,
        }
    }

    /// A number that must lie between two others.
    fn within(
        &mut self,
        given: &Given<Whole>,
        path: &str,
        default: u32,
        least: u32,
        most: u32,
    ) -> u32 {
        match given.get() {
            Some(Whole(number)) if (least..=most).contains(number) => *number,
            Some(Whole(number)) => {
                self.tell(
                    Code::E117,
                    path,
                    format!("`{number}` is out of range"),
                    format!("from {least} to {most}"),
                );
                default
            }
            None => default,
        }
    }

    /// A secret that is set, read from its file where it names one.
    fn secret(&mut self, given: Option<&Secret>, path: &str) -> Option<Secret> {
        let secret = given.filter(|secret| !secret.is_empty())?;
        let Some(file) = secret.expose().strip_prefix("file:") else {
            return Some(secret.clone());
        };
        self.note_file(file.into());
        match read_secret(Path::new(file)) {
            Ok((secret, for_others)) => {
                if for_others {
                    self.tell(
                        Code::W210,
                        path,
                        format!("`{file}` can be read by everybody on this machine"),
                        "chmod o-r; in Kubernetes `defaultMode: 0440` of the volume",
                    );
                }
                Some(secret)
            }
            Err(_) if self.env.ignored => Some(Secret::new("unknown")),
            Err((why, fix)) => {
                self.tell(
                    Code::E123,
                    path,
                    format!("`{file}` cannot be used: {why}"),
                    fix,
                );
                None
            }
        }
    }

    fn note_file(&mut self, file: PathBuf) {
        if !self.files.contains(&file) {
            self.files.push(file);
        }
    }

    fn file(&mut self, given: &Given<FilePath>, path: &str) -> Option<std::path::PathBuf> {
        let file = given.get()?;
        let usable = std::fs::File::open(&file.0).and_then(|file| file.metadata());
        let why = match usable {
            Ok(meta) if !meta.is_file() => "it is not a file".to_owned(),
            Ok(meta) if meta.len() == 0 => "it is empty".to_owned(),
            Ok(_) => return Some(file.0.clone()),
            Err(_) if self.env.ignored => return Some(file.0.clone()),
            Err(error) => error.to_string(),
        };
        self.tell(
            Code::E123,
            path,
            format!("`{}` cannot be used: {why}", file.0.display()),
            "name a readable file",
        );
        None
    }

    /// What `read` finds in a PEM file; a file that is not there was told before.
    fn pem<T>(
        &mut self,
        file: &Path,
        path: &str,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Option<T> {
        self.note_file(file.to_owned());
        let mut text = Vec::new();
        let mut from = std::fs::File::open(file).ok()?.take(PEM_FILE_BYTES_MAX);
        from.read_to_end(&mut text).ok()?;
        match read(&text) {
            Ok(found) => Some(found),
            Err(why) => {
                self.tell(
                    Code::E123,
                    path,
                    format!("`{}` cannot be used: {why}", file.display()),
                    "name a file in PEM, which begins with -----BEGIN",
                );
                None
            }
        }
    }

    fn listen(&mut self, raw: Option<&Short<raw::Listen>>) -> Listen {
        let port = self
            .env
            .get("PORT")
            .and_then(|port| port.parse().ok())
            .unwrap_or(8080);
        let default = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let Some(raw) = raw.map(|short| &short.0) else {
            return Listen {
                address: default,
                tls: None,
            };
        };
        let address = raw.address.get().map_or(default, |address| address.0);
        let tls = raw.tls.get().and_then(|tls| {
            for (name, given) in [("cert", &tls.cert), ("key", &tls.key)] {
                if given.is_absent() {
                    self.tell(
                        Code::E105,
                        "listen.tls",
                        format!("`listen.tls` has no `{name}`"),
                        format!("add `{name}: /path`"),
                    );
                }
            }
            let cert = self.file(&tls.cert, "listen.tls.cert");
            let key = self.file(&tls.key, "listen.tls.key");
            let (chain, private) = (
                cert.as_ref()
                    .and_then(|file| self.pem(file, "listen.tls.cert", pem::certificates)),
                key.as_ref()
                    .and_then(|file| self.pem(file, "listen.tls.key", pem::private_key)),
            );
            if let (Some(chain), Some(private)) = (chain, private)
                && let Err(why) = pem::belong_together(chain, private)
            {
                self.tell(
                    Code::E126,
                    "listen.tls.key",
                    format!("certificate and key cannot be used together: {why}"),
                    "name the key that the certificate was made for",
                );
            }
            Some(TlsFiles {
                cert: cert?,
                key: key?,
            })
        });
        Listen { address, tls }
    }

    /// One port is for one thing: clients, the app, or the admin port.
    fn ports(&mut self, settings: &Settings) {
        let listen = settings.listen.address;
        let meets = |ip: IpAddr| listen.ip() == ip || listen.ip().is_unspecified();
        let app = match &settings.upstream.target {
            UpstreamTarget::Http { host, port } | UpstreamTarget::Https { host, port } => {
                // Only what surely is this machine: names are not looked up here.
                let ip = match host.as_str() {
                    "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
                    host => host.parse().ok().filter(IpAddr::is_loopback),
                };
                ip.map(|ip| (ip, *port))
            }
            UpstreamTarget::Unix(_) => None,
        };
        if app.is_some_and(|(ip, port)| port == listen.port() && meets(ip)) {
            self.tell(
                Code::E126,
                if self.root.find("upstream.url").is_some() {
                    "upstream.url"
                } else {
                    "upstream"
                },
                format!(
                    "the app's port {} is the one that larder listens on",
                    listen.port()
                ),
                "let one of them listen elsewhere: `listen:`, or the variable PORT",
            );
        }
        if let Some(admin) = settings.admin.listen
            && admin.port() == listen.port()
            && listen.port() != 0
            && (meets(admin.ip()) || admin.ip().is_unspecified())
        {
            self.tell(
                Code::E126,
                "admin.listen",
                format!(
                    "the admin port {} is also the one for clients",
                    admin.port()
                ),
                "give `admin.listen` another port",
            );
        }
    }

    fn workers(&mut self, raw: &Raw) -> NonZeroUsize {
        let auto = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        match raw.workers.get() {
            Some(Count::Fixed(number)) if number.get() > WORKERS_MAX => {
                self.tell(
                    Code::E117,
                    "workers",
                    format!("`{number}` workers are too many"),
                    format!("at most {WORKERS_MAX}"),
                );
                auto
            }
            Some(Count::Fixed(number)) => NonZeroUsize::new(number.get() as usize).unwrap_or(auto),
            _ => auto,
        }
    }

    fn upstream(&mut self, given: &Given<Short<raw::Upstream>>) -> Upstream {
        let empty = raw::Upstream::default();
        let raw = given.get().map_or(&empty, |short| &short.0);
        let missing = given.is_absent() || (given.get().is_some() && raw.url.is_absent());
        if missing {
            let path = if given.is_absent() { "" } else { "upstream" };
            self.tell(
                Code::E105,
                path,
                "`upstream` is missing: where is the app?",
                "add `upstream: http://localhost:3000`",
            );
        }
        let unknown = UpstreamTarget::Http {
            host: "localhost".into(),
            port: 3000,
        };
        Upstream {
            target: raw.url.get().map_or(unknown, |url| url.0.clone()),
            connect_timeout: self.positive(
                &raw.connect_timeout,
                "upstream.connect_timeout",
                Duration::from_secs(2),
            ),
            timeout: self.positive(&raw.timeout, "upstream.timeout", Duration::from_secs(30)),
            health: raw.health.get().map(|path| path.0.clone()),
            max_in_flight: match raw.max_in_flight.get() {
                Some(Count::Fixed(number)) => MaxInFlight::Fixed(*number),
                _ => MaxInFlight::Adaptive,
            },
        }
    }

    fn redis(&mut self, file: &Raw) -> Option<Redis> {
        let empty = raw::Redis::default();
        let raw = file.redis.get().map_or(&empty, |short| &short.0);
        let breaker = raw::Breaker::default();
        let breaker = raw.breaker.get().unwrap_or(&breaker);
        let pool = raw::Pool::default();
        let pool = raw.pool.get().unwrap_or(&pool);
        // The tiers of the Supabase session cache.
        let (most, concurrent) = match raw.pool_profile.get() {
            None => (10, None),
            Some(PoolProfile::Free) => (5, Some(20)),
            Some(PoolProfile::Pro) => (50, Some(200)),
            Some(PoolProfile::Enterprise) => (100, Some(500)),
        };
        let pool_min = self.within(&pool.min, "redis.pool.min", 2, 0, POOL_MAX);
        let pool_max = self.within(&pool.max, "redis.pool.max", most.max(pool_min), 1, POOL_MAX);
        let concurrent = match pool.concurrent.get() {
            None => concurrent,
            Some(_) => {
                let path = "redis.pool.concurrent";
                Some(self.within(&pool.concurrent, path, CONCURRENT_MAX, 1, CONCURRENT_MAX))
            }
        };
        if pool_min > pool_max {
            self.tell(
                Code::E126,
                "redis.pool.min",
                format!("`min` {pool_min} is more than `max` {pool_max}"),
                "min may be at most max",
            );
        }
        let trip = breaker.trip.get().map_or(0.7, |percent| percent.0);
        if trip <= 0.0 {
            self.tell(
                Code::E117,
                "redis.breaker.trip",
                "a trip of 0% would never let anything through",
                "write 70%",
            );
        }
        let timeout = self.positive(&raw.timeout, "redis.timeout", Duration::from_millis(100));
        let breaker = Breaker {
            trip,
            window: self.positive(
                &breaker.window,
                "redis.breaker.window",
                Duration::from_secs(10),
            ),
            min_calls: self.within(
                &breaker.min_calls,
                "redis.breaker.min_calls",
                10,
                1,
                1_000_000,
            ),
            retry_after: self.positive(
                &breaker.retry_after,
                "redis.breaker.retry_after",
                Duration::from_secs(15),
            ),
        };
        let (mut url, found, url_file) = self.redis_url(file, raw)?;
        let username = raw.username.get().map(|text| &text.0);
        let username = self.secret(username, "redis.username");
        let password = raw.password.get().map(|text| &text.0);
        let password_file = password.and_then(|password| password.expose().strip_prefix("file:"));
        let password_file = password_file.map(PathBuf::from).or(url_file);
        let password = self.secret(password, "redis.password");
        let is_named = username.is_some();
        if let Some(username) = username {
            url.username = Some(username.expose().to_owned());
        }
        url.password = password.or(url.password);
        if url.username.is_some() && url.password.is_none() && raw.password != Given::Bad {
            let path = match is_named {
                true => "redis.username",
                false => self.at("redis.url", "redis"),
            };
            self.tell(
                Code::W202,
                path,
                "a user without a password is not told to Redis: it sees its default user",
                "add `redis.password`, or take the user away",
            );
        }
        let limits_url = raw
            .limits_url
            .get()
            .and_then(|url| self.secret_url(url, "redis.limits_url"))
            .map(|(url, _)| url);
        let url_path = self.at("redis.url", "redis");
        let mut places = vec![(url_path, &url.topology)];
        let limits = limits_url.as_ref().map(|url| &url.topology);
        places.extend(limits.map(|topology| ("redis.limits_url", topology)));
        if raw.require_tls.get().is_some_and(|flag| flag.0) {
            for (path, topology) in &places {
                if topology.is_plain_outside() {
                    self.tell(
                        Code::E127,
                        path,
                        format!(
                            "`require_tls` is set, and {topology} would be spoken to in plain text"
                        ),
                        "write rediss:// with the port for TLS, or an address of this machine",
                    );
                }
            }
        }
        let is_tls = places.iter().any(|(_, topology)| topology.is_tls());
        Some(Redis {
            tls: self.redis_tls(raw.tls.get(), is_tls),
            url,
            found,
            password_file,
            pool_min,
            pool_max: NonZeroU32::new(pool_max)?,
            concurrent: concurrent.and_then(NonZeroU32::new),
            timeout,
            breaker,
            read_from: match raw.read_from.get() {
                Some(ReadFromWord::Replica) => ReadFrom::Replica,
                Some(ReadFromWord::Nearest) => ReadFrom::Nearest,
                Some(ReadFromWord::Primary) | None => ReadFrom::Primary,
            },
            limits_url,
        })
    }

    /// The first of these paths if the file has it, else the second, else the whole file.
    fn at(&self, path: &'static str, or: &'static str) -> &'static str {
        let has = |path: &&str| self.root.find(path).is_some();
        [path, or].into_iter().find(has).unwrap_or_default()
    }

    fn redis_tls(&mut self, raw: Option<&raw::RedisTls>, is_tls: bool) -> RedisTls {
        let Some(raw) = raw else {
            return RedisTls::default();
        };
        if !is_tls {
            self.tell(
                Code::W202,
                "redis.tls",
                "`redis.tls` has no effect without `rediss:`",
                "write rediss:// in the URL",
            );
        }
        let mut certificates = |given: &Given<FilePath>, path: &str| {
            let file = self.file(given, path)?;
            self.pem(&file, path, pem::certificates)
        };
        let ca = certificates(&raw.ca, "redis.tls.ca");
        let chain = certificates(&raw.cert, "redis.tls.cert");
        let key = self.file(&raw.key, "redis.tls.key");
        let key = key.and_then(|file| self.pem(&file, "redis.tls.key", pem::private_key));
        for (name, given, other) in [("cert", &raw.cert, &raw.key), ("key", &raw.key, &raw.cert)] {
            if given.is_absent() && !other.is_absent() {
                self.tell(
                    Code::E105,
                    "redis.tls",
                    format!("`redis.tls` has no `{name}`"),
                    format!("add `{name}: /path`: a certificate is shown with its key"),
                );
            }
        }
        let identity = chain.zip(key).map(|(chain, key)| {
            if let Err(why) = pem::belong_together(chain.clone(), key.clone_key()) {
                self.tell(
                    Code::E126,
                    "redis.tls.key",
                    format!("certificate and key cannot be used together: {why}"),
                    "name the key that the certificate was made for",
                );
            }
            Arc::new(ClientIdentity { chain, key })
        });
        RedisTls {
            ca: ca.map(Arc::new),
            identity,
            server_name: raw.server_name.get().map(|name| name.0.clone()),
        }
    }

    /// The URL of a Redis, read from its file where it names one; and that file.
    fn secret_url(
        &mut self,
        given: &MaybeRedis,
        path: &str,
    ) -> Option<(RedisUrl, Option<PathBuf>)> {
        let file = match given {
            MaybeRedis::Nothing => return None,
            MaybeRedis::Url(url) => return Some((url.clone(), None)),
            MaybeRedis::File(file) => file,
        };
        let reference = Secret::new(format!("file:{}", file.display()));
        let secret = self.secret(Some(&reference), path)?;
        match RedisUrl::parse(secret.expose()) {
            Ok(url) => Some((url, Some(file.clone()))),
            Err(_) if self.env.ignored => None,
            Err(Fault { code, message, fix }) => {
                self.tell(code, path, format!("`{}`: {message}", file.display()), fix);
                None
            }
        }
    }

    /// The Redis that the file names, else one that the environment does; and the file it was read from.
    fn redis_url(
        &mut self,
        file: &Raw,
        raw: &raw::Redis,
    ) -> Option<(RedisUrl, RedisFound, Option<PathBuf>)> {
        match raw.url.get() {
            None | Some(MaybeRedis::Nothing) => {}
            Some(given) => {
                let (url, from) = self.secret_url(given, self.at("redis.url", "redis"))?;
                return Some((url, RedisFound::Configured, from));
            }
        }
        if self.env.ignored || matches!(file.redis, Given::Bad) || raw.url == Given::Bad {
            return None;
        }
        let path = self.at("redis", "redis");
        for name in ["REDIS_URL", "KV_URL"] {
            let Some(url) = self.env.get(name) else {
                continue;
            };
            let (url, from) = match MaybeRedis::parse(url) {
                Ok(given) => self.secret_url(&given, path)?,
                Err(Fault { code, message, fix }) => {
                    self.tell(code, path, format!("the variable {name}: {message}"), fix);
                    return None;
                }
            };
            let told = format!("Redis is taken from the variable {name}: {}", url.masked());
            self.tell(Code::N302, path, told, "");
            return Some((url, RedisFound::Variable(name), from));
        }
        for (name, token) in [
            ("UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"),
            ("KV_REST_API_URL", "KV_REST_API_TOKEN"),
        ] {
            let (Some(rest), Some(token)) = (self.env.get(name), self.env.get(token)) else {
                continue;
            };
            let host = rest
                .parse::<http::Uri>()
                .ok()
                .and_then(|uri| uri.host().map(str::to_owned));
            let Some(host) = host else {
                self.tell(
                    Code::E118,
                    path,
                    format!("the variable {name} is not the address of a REST interface"),
                    "set REDIS_URL to the rediss:// address that the provider's console shows",
                );
                return None;
            };
            let url = RedisUrl {
                topology: Topology::Single(RedisAddress::Tls(host, 6_379)),
                username: Some("default".to_owned()),
                password: Some(Secret::new(token)),
                database: 0,
            };
            self.tell(
                Code::W204,
                path,
                format!(
                    "Redis is guessed from the variable {name}: {}",
                    url.masked()
                ),
                "set REDIS_URL to the rediss:// address that the provider's console shows",
            );
            return Some((url, RedisFound::Rest(name), None));
        }
        self.tell(
            Code::N301,
            path,
            "no Redis: caching in memory, limits are counted in this process",
            "set REDIS_URL to share both",
        );
        None
    }

    fn cache(&mut self, raw: Option<&raw::Cache>, redis: bool) -> Cache {
        let empty = raw::Cache::default();
        let raw = raw.unwrap_or(&empty);
        let memory = raw.memory.get().map_or(MEMORY_BYTES, |size| size.0);
        let mut max_body = raw.max_body.get().map_or(BODY_BYTES, |size| size.0);
        if max_body > BODY_BYTES_MAX || max_body == 0 {
            self.tell(
                Code::E117,
                "cache.max_body",
                "`max_body` is out of range",
                "from 1B to 1GiB",
            );
            max_body = BODY_BYTES;
        }
        let whole_max = match redis {
            true => max_body.min(WHOLE_BYTES_MAX),
            false => max_body,
        };
        if memory > 0 && whole_max > memory {
            let path = if raw.max_body.is_absent() {
                "cache.memory"
            } else {
                "cache.max_body"
            };
            self.tell(
                Code::W203,
                path,
                "`max_body` is larger than the whole memory tier",
                "raise memory, or lower max_body",
            );
        }
        if memory == 0 && !redis && !self.env.ignored {
            self.tell(
                Code::W206,
                "cache.memory",
                "no memory tier and no Redis: nothing can be stored",
                "write memory: 64MiB, or set REDIS_URL",
            );
        }
        if let Some(process) = cgroup::Memory::of_this_process()
            && memory > process.limit / 4 * 3
            && !self.env.ignored
        {
            let limit = process.limit >> 20;
            self.tell(
                Code::W212,
                "cache.memory",
                format!("the memory tier is too large for a process that may have {limit}MiB"),
                format!("at most `memory: {}MiB`", limit / 4 * 3),
            );
        }
        let encrypt = self.keys(raw.encrypt.get().map(|text| &text.0));
        Cache {
            compress: match raw.compress.get() {
                Some(Compress(above)) => *above,
                None => Some(COMPRESS_ABOVE_BYTES),
            },
            trust: match raw.trust.get() {
                Some(Trust(trust)) => *trust,
                None => Some(TRUST),
            },
            encrypt,
            namespace: raw
                .namespace
                .get()
                .map_or_else(|| "larder".into(), |name| name.0.clone()),
            memory,
            max_body,
            whole_max,
            client_refresh: match raw.client_refresh.get() {
                Some(Refresh::Always) => ClientRefreshPolicy::Always,
                Some(Refresh::Trusted) => ClientRefreshPolicy::Trusted,
                _ => ClientRefreshPolicy::Never,
            },
        }
    }

    /// The keys of `cache.encrypt`, the one that writes first.
    fn keys(&mut self, given: Option<&Secret>) -> Vec<secret::Key> {
        const PATH: &str = "cache.encrypt";
        let Some(text) = self.secret(given, PATH) else {
            return Vec::new();
        };
        if self.env.ignored {
            return Vec::new();
        }
        let fix = "make a key with `openssl rand -base64 32`";
        let mut keys = Vec::new();
        for (index, text) in text.expose().split(',').enumerate() {
            match secret::Key::parse(text.trim()) {
                Ok(key) => keys.push(key),
                Err(why) => {
                    let which = ["the key", "the second key"][index.min(1)];
                    let message = format!("{which} of `encrypt` cannot be used: {why}");
                    self.tell(Code::E128, PATH, message, fix);
                }
            }
        }
        if keys.len() > ENCRYPT_KEYS_MAX {
            let message = format!("`encrypt` has {} keys", keys.len());
            self.tell(
                Code::E128,
                PATH,
                message,
                "two at most: the new one, the old one",
            );
        }
        keys
    }

    fn hosts(&mut self, raw: &Raw) -> Hosts {
        let mut hosts = Hosts::default();
        let named = raw.hosts.get();
        if named.is_some_and(List::is_empty) {
            self.tell(
                Code::E117,
                "hosts",
                "`hosts` names no host: nobody would be served",
                "name one, or remove the line to serve every host",
            );
        }
        for host in named.into_iter().flat_map(List::iter) {
            // Read before, when the value was.
            let _ = hosts.add(&host.0);
        }
        hosts
    }

    fn identity(&mut self, raw: Option<&raw::Identity>) -> IdentitySettings {
        let empty = raw::Identity::default();
        let raw = raw.unwrap_or(&empty);
        let user = match raw.user.get().map(|short| &short.0) {
            Some(raw::User {
                claim: Some(claim), ..
            }) => UserSource::Claim(claim.0.clone()),
            Some(raw::User {
                header: Given::Value(name),
                ..
            }) => {
                let trusts = raw
                    .trusted_proxies
                    .get()
                    .is_some_and(|list| !list.is_empty());
                if !trusts && !matches!(raw.trusted_proxies, Given::Bad) {
                    self.tell(
                        Code::W205,
                        "identity.user",
                        "a header names the user, but no proxy is trusted to set it",
                        "add trusted_proxies: [private]",
                    );
                }
                UserSource::Header(name.0.clone())
            }
            Some(raw::User {
                header: Given::Absent,
                ..
            }) => {
                self.tell(
                    Code::E105,
                    "identity.user",
                    "`identity.user` has no `header`",
                    "write sub, or { header: x-user-id }",
                );
                UserSource::default()
            }
            _ => UserSource::default(),
        };
        let jwt = raw.jwt.get().and_then(|jwt| {
            let secret = jwt.secret.get().map(|text| &text.0);
            let secret = self
                .secret(secret, "identity.jwt.secret")
                .map(JwtSource::Secret);
            let keys = jwt.jwks.get().map(|keys| match keys {
                Keys::Url(url) => JwtSource::JwksUrl(url.clone()),
                Keys::File(path) => JwtSource::JwksFile(path.clone()),
            });
            if let Some(JwtSource::JwksFile(path)) = &keys {
                let given = Given::Value(FilePath(path.clone()));
                self.file(&given, "identity.jwt.jwks");
            }
            if matches!(&secret, Some(JwtSource::Secret(secret)) if secret.matches(DEMO_SECRET)) {
                self.tell(
                    Code::N303,
                    "identity.jwt.secret",
                    "tokens are verified with the demo's secret, which everybody knows",
                    "set your own before anyone else can reach it",
                );
            }
            if let Some(JwtSource::Secret(secret)) = &secret
                && secret.expose().len() < JWT_SECRET_BYTES_MIN
            {
                self.tell(
                    Code::W207,
                    "identity.jwt.secret",
                    format!("a secret of less than {JWT_SECRET_BYTES_MIN} bytes can be guessed"),
                    "make one with `openssl rand -hex 32`",
                );
            }
            if secret.is_some() && keys.is_some() {
                self.tell(
                    Code::E126,
                    "identity.jwt",
                    "both `jwks` and `secret` are given",
                    "keep one",
                );
            }
            if jwt.secret.is_absent() && jwt.jwks.is_absent() {
                self.tell(
                    Code::E105,
                    "identity.jwt",
                    "`identity.jwt` has neither `jwks` nor `secret`",
                    "add one",
                );
            }
            // With --no-env the values are not known, but users are.
            let unknown = || {
                self.env
                    .ignored
                    .then(|| JwtSource::Secret(Secret::new("unknown")))
            };
            keys.or(secret).or_else(unknown)
        });
        for (index, proxy) in raw
            .trusted_proxies
            .get()
            .into_iter()
            .flat_map(List::indexed)
        {
            if proxy.0.iter().any(|network| network.prefix_len() == 0) {
                self.tell(
                    Code::W208,
                    &format!("identity.trusted_proxies[{index}]"),
                    "every client is a trusted proxy: each can claim any address",
                    "name the proxies' networks, or write private",
                );
            }
        }
        IdentitySettings {
            trusted_proxies: raw
                .trusted_proxies
                .get()
                .map(|list| list.iter().flat_map(|proxy| proxy.0.clone()).collect())
                .unwrap_or_default(),
            ipv6_prefix: u8::try_from(self.within(
                &raw.ipv6_prefix,
                "identity.ipv6_prefix",
                64,
                1,
                128,
            ))
            .unwrap_or(64),
            jwt,
            user,
            role: raw.role.get().map(|claim| claim.0.clone()),
            seal: None,
        }
    }

    fn limits(&mut self, raw: Option<&raw::Limits>) -> Limits {
        let empty = raw::Limits::default();
        let raw = raw.unwrap_or(&empty);
        let mut all = Vec::new();
        let mut names = HashMap::new();
        let mut everyone: Option<String> = None;
        for (index, tier) in raw.tiers.get().into_iter().flat_map(List::indexed) {
            let path = format!("limits.tiers[{index}]");
            for (key, absent) in [
                ("name", tier.name.is_absent()),
                ("rate", tier.rate.is_absent()),
            ] {
                if absent {
                    self.tell(
                        Code::E105,
                        &path,
                        format!("{} has no `{key}`", owner(self.root, &path)),
                        format!("add `{key}:`"),
                    );
                }
            }
            let name = tier
                .name
                .get()
                .map_or_else(|| format!("tier-{index}"), |name| name.0.clone());
            if names.insert(name.clone(), index).is_some() {
                self.tell(
                    Code::E121,
                    &format!("{path}.name"),
                    format!("two tiers are called `{name}`"),
                    "names are unique",
                );
            }
            if let Some(before) = &everyone {
                self.tell(
                    Code::W202,
                    &path,
                    format!("tier `{name}` is never reached: `{before}` before it is for anyone"),
                    "put it first",
                );
            }
            let audience = tier
                .audience
                .get()
                .map_or(Audience::Anyone, |audience| audience.0.clone());
            if audience == Audience::Anyone {
                everyone = Some(name.clone());
            } else if !self.identified {
                self.tell(
                    Code::W205,
                    &format!("{path}.for"),
                    format!("tier `{name}` fits nobody: `identity` verifies no tokens"),
                    "add identity.jwt",
                );
            }
            let fallback = if audience == Audience::Anyone {
                LimitPer::Ip
            } else {
                LimitPer::User
            };
            let Some(rate) = tier.rate.get() else {
                continue;
            };
            let per = tier.per.get().map_or_else(|| vec![fallback], limit_per);
            let sync = self.sync(&tier.sync, rate.0, &format!("{path}.sync"));
            all.push(Limit {
                sync,
                ..Limit::new(name, audience, rate.0, &per)
            });
        }
        Limits {
            mode: match raw.mode.get() {
                Some(Mode::Shadow) => LimitMode::Shadow,
                _ => LimitMode::Enforce,
            },
            redis_down: match raw.redis_down.get() {
                Some(Down::Allow) => RedisDown::Allow,
                Some(Down::Deny) => RedisDown::Deny,
                _ => RedisDown::Local,
            },
            paths: raw
                .paths
                .get()
                .map(|list| list.iter().map(|path| path.0.clone()).collect()),
            tiers: all.len(),
            all,
        }
    }

    /// How often a limit of this `rate` is told to Redis: not so often that it would be asked for each
    /// request instead, and often enough within its window for the count to mean something.
    fn sync(&mut self, given: &Given<Span>, rate: Rate, path: &str) -> Option<Duration> {
        let sync = span(given)?;
        let most = (rate.window / SYNCS_A_WINDOW).min(SYNC_MAX);
        if (SYNC_MIN..=most).contains(&sync) {
            return Some(sync);
        }
        self.tell(
            Code::E117,
            path,
            format!("`sync` must be from {SYNC_MIN:?} to {most:?} here"),
            "a tenth of the rate's window is the most, and a minute",
        );
        None
    }

    fn routes(&mut self, raw: &Raw, limits: &mut Limits) -> (Arc<Routes>, Option<Audit>) {
        let cache = raw.cache.get();
        let ignore_query: Arc<[String]> = match cache.and_then(|cache| cache.ignore_query.get()) {
            Some(list) => list.iter().map(|text| text.0.clone()).collect(),
            None => IGNORED_QUERY
                .iter()
                .map(|text| (*text).to_owned())
                .collect(),
        };
        let empty = raw::Defaults::default();
        let defaults = raw.defaults.get().unwrap_or(&empty);
        let jitter = defaults.ttl_jitter.get().map_or(0.1, |percent| percent.0);
        if jitter > 0.5 {
            self.tell(
                Code::E117,
                "defaults.ttl_jitter",
                "a jitter of more than half the lifetime",
                "at most 50%",
            );
        }
        let base = Policy {
            set_cookie: set_cookie(cache.and_then(|cache| cache.set_cookie.get()))
                .unwrap_or_default(),
            heuristic: defaults.heuristic.get().is_some_and(|flag| flag.0),
            ttl_jitter: jitter as f32,
            stale_while_revalidate: span(&defaults.stale_while_revalidate).unwrap_or_default(),
            stale_if_error: span(&defaults.stale_if_error).unwrap_or_default(),
            ..Policy::default()
        };
        let collapse_wait = span(&defaults.collapse_wait).unwrap_or(COLLAPSE_WAIT);
        let mut names: HashMap<Arc<str>, usize> = HashMap::new();
        let mut rules = Vec::new();
        let mut presets = Vec::new();
        for preset in raw.presets.get().into_iter().flat_map(OneOrMany::iter) {
            if !presets.contains(preset) {
                presets.push(*preset);
            }
        }
        let presets: Vec<_> = presets.into_iter().map(preset::text).collect();
        let additions: Vec<Addition> = presets.iter().flat_map(preset::additions).collect();
        let own = raw.routes.get().into_iter().flat_map(List::indexed);
        let theirs = presets.iter().filter_map(|text| text.routes.get());
        let after = raw.routes.get().map_or(0, List::len);
        let theirs = (after..).zip(theirs.flat_map(List::iter));
        for (index, route) in own.chain(theirs) {
            let mut rule = self.rule(index, route, &base, &ignore_query, limits);
            rule.collapse_wait = span(&route.collapse_wait).unwrap_or(collapse_wait);
            if route.early_refresh.is_absent() && rule.policy.is_some() {
                rule.early_refresh = share(&defaults.early_refresh);
            }
            for addition in &additions {
                addition.extend(&mut rule, Some(route));
            }
            if let Some(first) = names.insert(rule.name.clone(), index) {
                let path = format!("routes[{index}].name");
                let path = if index >= after {
                    "presets".to_owned()
                } else if route.name.is_absent() {
                    format!("routes[{index}].path")
                } else {
                    path
                };
                let fix = if route.name.is_absent() {
                    "add a `name:`"
                } else {
                    "names are unique"
                };
                self.tell(
                    Code::E121,
                    &path,
                    format!(
                        "two routes are called `{}`: routes[{first}] and routes[{index}]",
                        rule.name
                    ),
                    fix,
                );
            }
            rules.push(rule);
        }
        self.shadowed(&rules, after);
        let mut fallback = Rule {
            name: "no-route".into(),
            policy: Some(base),
            key: KeyRule {
                ignore_query,
                ..KeyRule::default()
            },
            early_refresh: share(&defaults.early_refresh),
            collapse_wait,
            ..Rule::default()
        };
        for addition in &additions {
            addition.extend(&mut fallback, None);
        }
        let audit = self.audit(raw.audit.get(), &mut rules, &mut fallback);
        (Arc::new(Routes::new(rules, fallback)), audit)
    }

    fn rule(
        &mut self,
        index: usize,
        route: &raw::Route,
        base: &Policy,
        ignore_query: &Arc<[String]>,
        limits: &mut Limits,
    ) -> Rule {
        let path = format!("routes[{index}]");
        let at = |key: &str| format!("{path}.{key}");
        let paths: Vec<Pattern> = route
            .path
            .get()
            .map(|list| list.iter().map(|path| path.0.clone()).collect())
            .unwrap_or_default();
        if route.path.is_absent() || route.path.get().is_some_and(OneOrMany::is_empty) {
            self.tell(
                Code::E105,
                &path,
                format!("{} has no `path`", owner(self.root, &path)),
                "add `path: /api/*`",
            );
        }
        let name: Arc<str> = match (route.name.get(), paths.first()) {
            (Some(name), _) => name.0.as_str().into(),
            (None, Some(first)) => first.as_str().into(),
            (None, None) => path.as_str().into(),
        };
        let key = self.key(route.key.get(), &path, ignore_query);
        let per_identity = key.has_identity();
        let ttl = self.ttl(route, &path);
        let stored = !route.no_store.get().is_some_and(|flag| flag.0);
        for (setting, given) in [
            ("ttl", !route.ttl.is_absent()),
            ("tags", !route.tags.is_absent()),
            ("slide_up_to", !route.slide_up_to.is_absent()),
            ("refresh_ahead", !route.refresh_ahead.is_absent()),
            ("early_refresh", !route.early_refresh.is_absent()),
        ] {
            if given && !stored {
                self.tell(
                    Code::E126,
                    &at(setting),
                    format!("`{setting}` and `no_store: true` contradict each other"),
                    "keep one",
                );
            }
        }
        for (setting, given) in [
            (
                "override",
                route.override_app.get().is_some_and(|flag| flag.0),
            ),
            ("statuses", !route.statuses.is_absent()),
        ] {
            if given && route.ttl.is_absent() && stored {
                self.tell(
                    Code::W202,
                    &at(setting),
                    format!("`{setting}` has no effect without a `ttl`"),
                    "add `ttl:`",
                );
            }
        }
        let slide_up_to = span(&route.slide_up_to);
        match (slide_up_to, &ttl) {
            (Some(_), None) if route.ttl.is_absent() && stored => {
                self.tell(
                    Code::E126,
                    &at("slide_up_to"),
                    "`slide_up_to` needs a `ttl` to renew",
                    "add `ttl:`",
                );
            }
            (Some(limit), Some(ttl)) if limit < ttl.default => {
                self.tell(
                    Code::E126,
                    &at("slide_up_to"),
                    "`slide_up_to` is shorter than the `ttl` it extends",
                    "make it longer than the ttl",
                );
            }
            _ => {}
        }
        let refresh_ahead = share(&route.refresh_ahead);
        if refresh_ahead.is_some_and(|share| share >= 1.0) {
            self.tell(
                Code::E117,
                &at("refresh_ahead"),
                "`refresh_ahead` of 100% would refresh on every hit",
                "write 20%",
            );
        }
        let max_in_flight = (!route.max_in_flight.is_absent()).then(|| {
            let at = at("max_in_flight");
            self.within(&route.max_in_flight, &at, 1, 1, 65_536)
        });
        let max_in_flight = max_in_flight.and_then(NonZeroU32::new);
        let methods = match route.methods.get() {
            Some(list) => list.iter().map(|method| method.0.clone()).collect(),
            None if !route.ttl.is_absent() => vec![Method::GET, Method::HEAD],
            None => Vec::new(),
        };
        self.posts(route, &methods, &key, &path);
        let stores = |method: &Method| match *method {
            Method::GET | Method::HEAD | Method::QUERY => true,
            // Without `key.body` that has been told already.
            Method::POST => true,
            _ => false,
        };
        if ttl.is_some() && !methods.is_empty() && !methods.iter().any(stores) {
            self.tell(
                Code::W202,
                &at("ttl"),
                "`ttl` has no effect: answers to these methods are never stored",
                "remove it, or add GET",
            );
        }
        let tags = self.templates(&route.tags, &at("tags"), &paths);
        let purge = self.templates(&route.purge, &at("purge"), &paths);
        let reads = |method: &Method| {
            method.is_safe() || (*method == Method::POST && key.content == Some(ContentKey::Bytes))
        };
        if !purge.is_empty() && !methods.is_empty() && methods.iter().all(reads) {
            self.tell(
                Code::W202,
                &at("purge"),
                "`purge` has no effect: only unsafe methods purge",
                match key.content {
                    Some(_) => "remove it: these requests only read",
                    None => "add methods: [POST]",
                },
            );
        }
        if !route.refresh.is_absent() && purge.is_empty() && route.purge.is_absent() {
            self.tell(
                Code::W202,
                &at("refresh"),
                "`refresh` has no effect without `purge`",
                "add `purge: [tag]`, or remove it",
            );
        }
        let mut own_limits = Vec::new();
        if let Some(limit) = route.limit.get() {
            if limit.rate.is_absent() {
                self.tell(
                    Code::E105,
                    &at("limit"),
                    format!("the limit of route `{name}` has no `rate`"),
                    "add `rate: 60/min`",
                );
            }
            if let Some(rate) = limit.rate.get() {
                let per = limit
                    .per
                    .get()
                    .map_or_else(|| vec![LimitPer::Ip], limit_per);
                if !self.identified && per.contains(&LimitPer::User) {
                    self.tell(
                        Code::W205,
                        &at("limit.per"),
                        "`per: user` counts by address: `identity` verifies no tokens",
                        "add identity.jwt",
                    );
                }
                if limits.all[..limits.tiers]
                    .iter()
                    .any(|tier| *tier.name == *name)
                {
                    // One name would have two meanings in headers, metrics and Redis keys.
                    self.tell(
                        Code::E121,
                        &at("name"),
                        format!("a tier and a route with a limit are both called `{name}`"),
                        "names of limits are unique",
                    );
                }
                let sync = self.sync(&limit.sync, rate.0, &at("limit.sync"));
                own_limits.push(limits.all.len());
                limits.all.push(Limit {
                    sync,
                    ..Limit::new(name.to_string(), Audience::Anyone, rate.0, &per)
                });
            }
        }
        let policy = stored.then(|| Policy {
            ttl,
            override_app: route.override_app.get().is_some_and(|flag| flag.0),
            per_identity,
            set_cookie: set_cookie(route.set_cookie.get()).unwrap_or(base.set_cookie),
            heuristic: route.heuristic.get().map_or(base.heuristic, |flag| flag.0),
            ttl_jitter: base.ttl_jitter,
            stale_while_revalidate: span(&route.stale_while_revalidate)
                .unwrap_or(base.stale_while_revalidate),
            stale_if_error: span(&route.stale_if_error).unwrap_or(base.stale_if_error),
            keyed_cookies: key.cookies.clone(),
            keyed_headers: key.headers.clone(),
        });
        let scrutiny = Scrutiny {
            audit: None,
            experiment: self.experiment(route, &name, policy.as_ref(), &path),
            shadow: self.shadow(route, stored, &path),
        };
        Rule {
            id: index,
            name,
            paths,
            methods,
            policy,
            key,
            bypass: bypass(route.bypass_when.get()),
            tags,
            purge,
            refresh_hot: !route.refresh.is_absent(),
            prefetch: prefetch(route.prefetch.get()),
            limits: own_limits,
            refresh_ahead,
            early_refresh: share(&route.early_refresh),
            slide_up_to,
            max_in_flight,
            collapse_wait: COLLAPSE_WAIT,
            scrutiny,
        }
    }

    fn key(&mut self, raw: Option<&raw::Key>, path: &str, ignore_query: &Arc<[String]>) -> KeyRule {
        let empty = raw::Key::default();
        let raw = raw.unwrap_or(&empty);
        let texts = |given: &Given<List<Text>>| {
            given
                .get()
                .map(|list| list.iter().map(|text| text.0.clone()).collect::<Vec<_>>())
        };
        let cookies = texts(&raw.cookies).unwrap_or_default();
        for cookie in &cookies {
            if cookie.contains(['=', ';', ',', ' ', '"']) {
                self.tell(
                    Code::E122,
                    &format!("{path}.key.cookies"),
                    format!("`{cookie}` is not the name of a cookie"),
                    "write the name alone",
                );
            }
        }
        let per = key_per(raw);
        if !self.identified && per.contains(&Per::User) {
            self.tell(
                Code::W205,
                &format!("{path}.key.per"),
                "`per: user` stores nothing: `identity` verifies no tokens",
                "add identity.jwt, or write per: token",
            );
        }
        KeyRule {
            query: key_query(raw),
            headers: key_headers(raw),
            cookies,
            per,
            ignore_query: ignore_query.clone(),
            content: match raw.body.get() {
                Some(BodyKey::Bytes) => Some(ContentKey::Bytes),
                Some(BodyKey::Graphql) => Some(ContentKey::Graphql),
                Some(BodyKey::Off) | None => None,
            },
        }
    }

    /// A POST is answered from the store only where the route says what tells one from another.
    fn posts(&mut self, route: &raw::Route, methods: &[Method], key: &KeyRule, path: &str) {
        let names_post = methods.contains(&Method::POST);
        let refused = (route.key.get()).is_some_and(|key| matches!(key.body, Given::Bad));
        if names_post && !route.ttl.is_absent() && key.content.is_none() && !refused {
            self.tell(
                Code::E126,
                &format!("{path}.ttl"),
                "`ttl` with `methods: [POST]`: the URL does not tell one POST from another",
                "add `key: { body: true }` (or graphql) if these only read, else remove the ttl",
            );
        }
        if !names_post && key.content.is_some() {
            self.tell(
                Code::E126,
                &format!("{path}.key.body"),
                "`key.body` says that POST only reads here, but `methods` does not name POST",
                "add `methods: [GET, HEAD, POST]`, or remove `body`",
            );
        }
    }

    fn ttl(&mut self, route: &raw::Route, path: &str) -> Option<Ttl> {
        let raw = &route.ttl.get()?.0;
        let path = match self.root.find(&format!("{path}.ttl.default")) {
            Some(_) => format!("{path}.ttl.default"),
            None => format!("{path}.ttl"),
        };
        if raw.default.is_absent() {
            self.tell(
                Code::E105,
                &path,
                "`ttl` has no `default`",
                "add `default: 5m`",
            );
        }
        let Span(default) = *raw.default.get()?;
        if default.is_zero() {
            self.tell(
                Code::E117,
                &path,
                "a ttl of 0s stores nothing",
                "write `no_store: true`, or a longer one",
            );
        }
        let (min, max) = (span(&raw.min), span(&raw.max));
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            self.tell(
                Code::E126,
                &path.replace(".default", ".min"),
                "`min` is more than `max`",
                "min may be at most max",
            );
        }
        let statuses = match route.statuses.get() {
            Some(list) => list.iter().map(|status| status.0).collect(),
            None => [200, 203, 301, 308, 404, 410]
                .iter()
                .filter_map(|code| StatusCode::from_u16(*code).ok())
                .collect(),
        };
        let mut by_status = raw
            .by_status
            .get()
            .map(|lines| lines.0.clone())
            .unwrap_or_default();
        if route.statuses.is_absent() {
            for status in [StatusCode::NOT_FOUND, StatusCode::GONE] {
                if !by_status.iter().any(|(known, _)| *known == status)
                    && default > NEGATIVE_TTL_MAX
                {
                    by_status.push((status, NEGATIVE_TTL_MAX));
                }
            }
        }
        Some(Ttl {
            default,
            min,
            max,
            by_status,
            statuses,
        })
    }

    /// Templates whose `{name}`s are all in a path of the route.
    fn templates(
        &mut self,
        given: &Given<List<TagTemplate>>,
        path: &str,
        paths: &[Pattern],
    ) -> Vec<Template> {
        let tags = || given.get().into_iter().flat_map(List::indexed);
        for (index, TagTemplate(template)) in tags() {
            for placeholder in template.placeholders() {
                let path = format!("{path}[{index}]");
                match placeholder {
                    Placeholder::Path(name)
                        if !paths.is_empty()
                            && !paths
                                .iter()
                                .any(|path| path.names().any(|known| known == name)) =>
                    {
                        let known: Vec<_> = paths
                            .iter()
                            .flat_map(Pattern::names)
                            .map(|name| format!("{{{name}}}"))
                            .collect();
                        let fix = if known.is_empty() {
                            "the path has no {…}".into()
                        } else {
                            format!("the path has {}", known.join(", "))
                        };
                        self.tell(
                            Code::E120,
                            &path,
                            format!("`{{{name}}}` is not in the route's path"),
                            fix,
                        );
                    }
                    Placeholder::User if !self.identified => {
                        self.tell(
                            Code::W205,
                            &path,
                            "`{user}` is never known: `identity` verifies no tokens",
                            "add identity.jwt",
                        );
                    }
                    _ => {}
                }
            }
        }
        tags().map(|(_, tag)| tag.0.clone()).collect()
    }

    /// Warns of routes that an earlier one covers. Bounded by [`SHADOW_CHECKS_MAX`].
    fn shadowed(&mut self, rules: &[Rule], own: usize) {
        // Only a pattern with a wildcard can cover another; equal texts are found by a table.
        let wild = |rule: &Rule| {
            rule.paths
                .iter()
                .any(|path| path.as_str().contains(['{', '*']))
        };
        let mut wilds: Vec<usize> = Vec::new();
        let mut exact: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut checks = 0;
        for (index, rule) in rules.iter().enumerate() {
            let twins = rule
                .paths
                .first()
                .and_then(|path| exact.get(path.as_str()))
                .into_iter()
                .flatten();
            let earlier = wilds.iter().chain(twins);
            // A preset's rule that no GET reaches protects nothing.
            let mut only_get = None;
            if index >= own {
                let methods = vec![Method::GET];
                only_get = Some(Rule {
                    methods,
                    ..rule.clone()
                });
            }
            let judged = only_get.as_ref().unwrap_or(rule);
            let by = earlier.copied().find(|earlier| {
                checks += 1;
                checks <= SHADOW_CHECKS_MAX
                    && rules
                        .get(*earlier)
                        .is_some_and(|earlier| covers(earlier, judged))
            });
            if let Some(by) = by {
                let message = format!(
                    "route `{}` is never reached: `{}` before it matches all of it",
                    rule.name, rules[by].name
                );
                // The rules of presets stand behind the file's own.
                let (path, fix) = match index < own {
                    true => (format!("routes[{index}].path"), "move it up"),
                    false => ("presets".to_owned(), "narrow that route"),
                };
                self.tell(Code::W201, &path, message, fix);
            }
            if wild(rule) {
                wilds.push(index);
            }
            for path in &rule.paths {
                let twins = exact.entry(path.as_str()).or_default();
                if !wild(rule) && twins.len() < 16 {
                    twins.push(index);
                }
            }
        }
    }

    fn headers(&mut self, raw: Option<&raw::Headers>) -> Headers {
        let empty = raw::Headers::default();
        let raw = raw.unwrap_or(&empty);
        let speaks = |given: &Given<List<Dialect>>, dialect: Dialect| {
            given
                .get()
                .is_none_or(|list| list.iter().any(|spoken| *spoken == dialect))
        };
        Headers {
            cache_standard: speaks(&raw.cache, Dialect::Standard),
            cache_legacy: speaks(&raw.cache, Dialect::Legacy),
            rate_limit_standard: speaks(&raw.rate_limit, Dialect::Standard),
            rate_limit_legacy: speaks(&raw.rate_limit, Dialect::Legacy),
            debug_token: self.secret(
                raw.debug_token.get().map(|text| &text.0),
                "headers.debug_token",
            ),
        }
    }

    fn admin(&mut self, raw: Option<&Short<raw::Admin>>) -> Admin {
        let empty = raw::Admin::default();
        let raw = raw.map_or(&empty, |short| &short.0);
        if raw.off {
            return Admin {
                listen: None,
                token: None,
            };
        }
        let default = SocketAddr::from(([127, 0, 0, 1], 9800));
        let listen = raw.listen.get().map_or(default, |address| address.0);
        let token = self.secret(raw.token.get().map(|text| &text.0), "admin.token");
        if !listen.ip().to_canonical().is_loopback() && !self.env.ignored {
            match &token {
                None if !matches!(raw.token, Given::Bad) => {
                    self.tell(
                        Code::E124,
                        "admin.listen",
                        format!("the admin port on {listen} needs a token"),
                        "set admin.token, or listen on 127.0.0.1:9800",
                    );
                }
                Some(token) if token.expose().len() < TOKEN_BYTES_MIN => {
                    self.tell(
                        Code::E125,
                        "admin.token",
                        format!("the admin token is shorter than {TOKEN_BYTES_MIN} bytes"),
                        "make one with `openssl rand -hex 32`",
                    );
                }
                _ => {}
            }
        }
        Admin {
            listen: Some(listen),
            token,
        }
    }
}

fn log(raw: Option<&raw::Log>) -> Log {
    let empty = raw::Log::default();
    let raw = raw.unwrap_or(&empty);
    Log {
        level: match raw.level.get() {
            Some(Level::Error) => LogLevel::Error,
            Some(Level::Warn) => LogLevel::Warn,
            Some(Level::Debug) => LogLevel::Debug,
            Some(Level::Trace) => LogLevel::Trace,
            _ => LogLevel::Info,
        },
        format: match raw.format.get() {
            Some(LineFormat::Pretty) => LogFormat::Pretty,
            Some(LineFormat::Json) => LogFormat::Json,
            _ => LogFormat::Auto,
        },
        slow: span(&raw.slow).unwrap_or(Duration::from_millis(500)),
    }
}

fn shutdown(raw: Option<&raw::Shutdown>) -> Shutdown {
    let empty = raw::Shutdown::default();
    let raw = raw.unwrap_or(&empty);
    Shutdown {
        delay: span(&raw.delay).unwrap_or_default(),
        grace: span(&raw.grace).unwrap_or(Duration::from_secs(25)),
    }
}

/// A share; none at 0%.
fn share(given: &Given<Percent>) -> Option<f32> {
    let share = given.get().map(|percent| percent.0 as f32);
    share.filter(|share| *share > 0.0)
}

/// The relations that are followed, by their names.
fn prefetch(given: Option<&List<Relation>>) -> Vec<String> {
    let word = |relation: &Relation| match relation {
        Relation::Preload => "preload",
        Relation::Prefetch => "prefetch",
        Relation::Next => "next",
    };
    let relations = given.into_iter().flat_map(List::iter);
    relations
        .map(|relation| word(relation).to_owned())
        .collect()
}

fn span(given: &Given<Span>) -> Option<Duration> {
    given.get().map(|span| span.0)
}

fn set_cookie(rule: Option<&CookieRule>) -> Option<SetCookie> {
    rule.map(|rule| match rule {
        CookieRule::Bypass => SetCookie::Bypass,
        CookieRule::Strip => SetCookie::Strip,
        CookieRule::Store => SetCookie::Store,
    })
}

/// Who has an entry of his own.
pub(super) fn key_per(raw: &raw::Key) -> Vec<Per> {
    let per = raw.per.get().into_iter().flat_map(OneOrMany::iter);
    per.map(|per| match per {
        PerWho::Ip => Per::Ip,
        PerWho::User => Per::User,
        PerWho::Token => Per::Token,
    })
    .collect()
}

/// The query parameters of a key, where it lists them.
pub(super) fn key_query(raw: &raw::Key) -> Option<Vec<String>> {
    let list = raw.query.get()?;
    Some(list.iter().map(|text| text.0.clone()).collect())
}

/// The request fields of a key.
pub(super) fn key_headers(raw: &raw::Key) -> Vec<HeaderName> {
    let names = raw.headers.get().into_iter().flat_map(List::iter);
    names.map(|name| name.0.clone()).collect()
}

/// What keeps a request from being looked up.
pub(super) fn bypass(raw: Option<&raw::BypassWhen>) -> Bypass {
    let cookies = raw.and_then(|raw| raw.cookie.get());
    let headers = raw.and_then(|raw| raw.header.get());
    Bypass {
        cookies: cookies
            .into_iter()
            .flat_map(List::iter)
            .map(|text| text.0.clone())
            .collect(),
        headers: headers
            .into_iter()
            .flat_map(List::iter)
            .map(|name| name.0.clone())
            .collect(),
    }
}

/// The counters of a limit, each once.
fn limit_per(per: &OneOrMany<PerWho>) -> Vec<LimitPer> {
    let mut counters = Vec::new();
    for per in per.iter() {
        let counter = match per {
            PerWho::Ip => LimitPer::Ip,
            PerWho::User => LimitPer::User,
            PerWho::Token => LimitPer::Token,
        };
        if !counters.contains(&counter) {
            counters.push(counter);
        }
    }
    counters
}

/// Whether `earlier` matches every request that `later` does.
fn covers(earlier: &Rule, later: &Rule) -> bool {
    let methods = earlier.methods.is_empty()
        || (!later.methods.is_empty()
            && later
                .methods
                .iter()
                .all(|method| earlier.methods.contains(method)));
    let path = |later: &Pattern| earlier.paths.iter().any(|earlier| earlier.covers(later));
    methods && !later.paths.is_empty() && later.paths.iter().all(path)
}

/// The secret in a file, less the end of its line, and whether others may read it; or why there is
/// none, and what to do.
fn read_secret(path: &Path) -> Result<(Secret, bool), (String, &'static str)> {
    let readable = "name a file that larder's user may read";
    let unreadable = |error: std::io::Error| (error.to_string(), readable);
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(("it is not a file".into(), readable));
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let mut file = file.take(SECRET_FILE_BYTES_MAX + 1);
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    let alone = "name a file with the secret and nothing else";
    if bytes.len() as u64 > SECRET_FILE_BYTES_MAX {
        return Err(("it is larger than 64 KiB".into(), alone));
    }
    let text = String::from_utf8(bytes).map_err(|_| ("it is not UTF-8 text".into(), alone))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(("it is empty".into(), "write the secret into it")),
        secret => Ok((Secret::new(secret), meta.permissions().mode() & 0o004 != 0)),
    }
}
