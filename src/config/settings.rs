//! The configuration as the rest of the house uses it: every value checked, every default filled in.

use super::redis_url::RedisUrl;
use super::warm::WarmList;
use crate::identity::IdentitySettings;
use crate::route::{Routes, Template};
use crate::secret::{self, Secret, SigningKey};
use crate::semantics::Hosts;
use crate::semantics::reuse::ClientRefresh;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One whole configuration. One request sees one of these.
#[derive(Debug)]
pub struct Settings {
    /// Where clients connect.
    pub listen: Listen,
    /// Threads that serve traffic.
    pub workers: NonZeroUsize,
    /// Hosts that are served; requests for others are refused.
    pub hosts: Hosts,
    /// The app.
    pub upstream: Upstream,
    /// Redis, if any; without it larder caches in memory.
    pub redis: Option<Redis>,
    /// The store.
    pub cache: Cache,
    /// Who callers are.
    pub identity: IdentitySettings,
    /// Rate limits.
    pub limits: Limits,
    /// The routes.
    pub routes: Arc<Routes>,
    /// Lists of pages that are warmed.
    pub warm: Vec<WarmList>,
    /// What is likely to be asked for next is warmed, if at all by this.
    pub predict: Option<Predict>,
    /// What is asked of the app again; the routes know how much of theirs.
    pub audit: Option<Audit>,
    /// Who is told of what cannot wait.
    pub alerts: Alerts,
    /// Which header dialects are spoken.
    pub headers: Headers,
    /// Shape of the errors we make.
    pub errors: ErrorShape,
    /// The admin port.
    pub admin: Admin,
    /// How purges come in beside it.
    pub purging: Purging,
    /// Logging.
    pub log: Log,
    /// Stopping.
    pub shutdown: Shutdown,
    /// Files whose content is part of this: secrets, certificates and keys.
    pub files: Vec<PathBuf>,
    /// Eight hexadecimal digits that name this configuration; see [`Settings::same_as`].
    pub hash: String,
    /// Where in the file each of it stands.
    pub places: super::Places,
}

impl Settings {
    /// Whether `other` asks for exactly the same, from the same lines. The hash alone does not know:
    /// secrets are not in it, so that it may be shown, nor is how a file is written.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.hash == other.hash
            && self.redis == other.redis
            && self.cache == other.cache
            && self.identity == other.identity
            && self.cache.encrypt == other.cache.encrypt
            && self.admin == other.admin
            && self.purging == other.purging
            && self.alerts == other.alerts
            && self.headers.debug_token == other.headers.debug_token
            && self.places == other.places
    }
}

/// `listen:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address; an unspecified IPv6 address is dual stack.
    pub address: SocketAddr,
    /// PEM files; plain HTTP without.
    pub tls: Option<TlsFiles>,
}

/// Certificate chain and private key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Chain, leaf first.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// `upstream:`
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Where the app listens.
    pub target: UpstreamTarget,
    /// To a connected (and TLS-greeted) socket.
    pub connect_timeout: Duration,
    /// To the response head.
    pub timeout: Duration,
    /// Path asked now and then to see whether the app is well.
    pub health: Option<String>,
    /// Requests that the app works on at a time.
    pub max_in_flight: MaxInFlight,
}

/// The app's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamTarget {
    /// `http://host:port`
    Http {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// `https://host:port`
    Https {
        /// Name or address, also for SNI.
        host: String,
        /// Port.
        port: u16,
    },
    /// `unix:/run/app.sock`
    Unix(PathBuf),
}

/// How many requests the app may have at a time; more wait, then get 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxInFlight {
    /// Follows the app's latency, starting at 256.
    Adaptive,
    /// Exactly this many.
    Fixed(NonZeroU32),
}

/// `redis:`
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// Where it is, and who we are there.
    pub url: RedisUrl,
    /// Who named it.
    pub found: RedisFound,
    /// The file that its password was read from.
    pub password_file: Option<PathBuf>,
    /// Fewest connections kept, over all workers.
    pub pool_min: u32,
    /// Most connections, over all workers.
    pub pool_max: NonZeroU32,
    /// Most commands of requests under way at a time, over all workers; `None`: as many as the
    /// connections take.
    pub concurrent: Option<NonZeroU32>,
    /// One command.
    pub timeout: Duration,
    /// When to stop asking.
    pub breaker: Breaker,
    /// Who is asked for hits; everything else is the primary's.
    pub read_from: ReadFrom,
    /// How `rediss:` is spoken.
    pub tls: RedisTls,
    /// A second Redis for limits.
    pub limits_url: Option<RedisUrl>,
}

impl Redis {
    /// The same with all of `other` that can be exchanged while it is in use: users, passwords and TLS.
    #[must_use]
    pub fn let_in_like(&self, other: &Self) -> Self {
        let mut like = Self {
            url: self.url.let_in_like(&other.url),
            found: other.found,
            password_file: other.password_file.clone(),
            tls: other.tls.clone(),
            ..self.clone()
        };
        if let (Some(own), Some(theirs)) = (&self.limits_url, &other.limits_url) {
            like.limits_url = Some(own.let_in_like(theirs));
        }
        like
    }
}

/// `redis.read_from:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// The primary.
    #[default]
    Primary,
    /// A replica, the nearest of several; the primary where none is to be had.
    Replica,
    /// Whoever answers soonest.
    Nearest,
}

/// Who named the Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisFound {
    /// The configuration.
    Configured,
    /// This variable.
    Variable(&'static str),
    /// This variable of a REST interface, whose host and token were taken for Redis's own.
    Rest(&'static str),
}

impl RedisFound {
    /// The variable.
    #[must_use]
    pub const fn variable(self) -> Option<&'static str> {
        match self {
            Self::Configured => None,
            Self::Variable(name) | Self::Rest(name) => Some(name),
        }
    }
}

/// `redis.tls:`, read from its files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RedisTls {
    /// Authorities that the server's certificate may be from; without, those of the system.
    pub ca: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// Our own certificate, for a server that asks for one.
    pub identity: Option<Arc<ClientIdentity>>,
    /// Name that is asked for and must be in the certificate; without, the URL's host.
    pub server_name: Option<ServerName<'static>>,
}

/// A certificate with its key; whoever prints it sees no key.
#[derive(Debug, PartialEq)]
pub struct ClientIdentity {
    /// Chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Private key.
    pub key: PrivateKeyDer<'static>,
}

/// `redis.breaker:`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// Share of failures, 0.0 to 1.0, that opens it.
    pub trip: f64,
    /// Over this long.
    pub window: Duration,
    /// Among at least so many calls.
    pub min_calls: u32,
    /// Longest pause between background probes.
    pub retry_after: Duration,
}

/// With Redis, a body above this is stored in chunks, and in Redis alone.
pub const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// `cache:`
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// First part of every Redis key.
    pub namespace: String,
    /// Bytes of the memory tier; 0 = Redis only.
    pub memory: u64,
    /// Larger bodies stream through.
    pub max_body: u64,
    /// Bodies above this are stored in chunks, which only Redis keeps; without it, none is.
    pub whole_max: u64,
    /// Bodies of more bytes are compressed in Redis where that pays; `None` = never.
    pub compress: Option<u64>,
    /// How long memory is served where it cannot be heard what other sidecars purge; `None` = without bound.
    pub trust: Option<Duration>,
    /// Keys that everything in Redis is encrypted with: the first writes, all read. None: nothing is.
    pub encrypt: Vec<secret::Key>,
    /// Whether requests' cache directives are looked at.
    pub client_refresh: ClientRefreshPolicy,
}

/// `cache.client_refresh:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientRefreshPolicy {
    /// `false`
    #[default]
    Never,
    /// `trusted`: with the debug token.
    Trusted,
    /// `true`
    Always,
}

impl ClientRefreshPolicy {
    /// For a request that did, or did not, bring the debug token.
    #[must_use]
    pub fn decide(self, trusted: bool) -> ClientRefresh {
        match (self, trusted) {
            (Self::Always, _) | (Self::Trusted, true) => ClientRefresh::Honor,
            _ => ClientRefresh::Ignore,
        }
    }
}

/// `limits:` and the routes' `limit:`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Whether refusals are carried out.
    pub mode: LimitMode,
    /// What happens without Redis.
    pub redis_down: RedisDown,
    /// Paths that the tiers apply to; `None`: everything but static files.
    pub paths: Option<Vec<crate::route::Pattern>>,
    /// Every limit: the tiers first, then the routes' (a [`crate::route::Rule`] points at these).
    pub all: Vec<Limit>,
    /// How many of `all` are tiers; the first that fits the caller applies.
    pub tiers: usize,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The tier's or the route's name; in headers, metrics and Redis keys.
    pub name: String,
    /// Whom it is for (tiers); `Anyone` for routes.
    pub audience: Audience,
    /// How many.
    pub rate: Rate,
    /// One counter each: several members are several counters, all of which must allow.
    pub per: Vec<LimitPer>,
    /// What the headers call each of these: the limit's name, or `payment-user` where there are several.
    pub names: Vec<Arc<str>>,
    /// How often what was admitted here is told to Redis, without being waited for; none: Redis is
    /// asked for each request.
    pub sync: Option<Duration>,
}

impl Limit {
    /// A limit whose counters have their names; a dimension named twice is one.
    #[must_use]
    pub fn new(name: String, audience: Audience, rate: Rate, per: &[LimitPer]) -> Self {
        let mut each = Vec::with_capacity(per.len());
        for one in per {
            if !each.contains(one) {
                each.push(*one);
            }
        }
        let call = |per: &LimitPer| match each.len() {
            1 => name.as_str().into(),
            _ => format!("{name}-{}", per.word()).into(),
        };
        Self {
            names: each.iter().map(call).collect(),
            per: each,
            name,
            audience,
            rate,
            sync: None,
        }
    }
}

/// `for:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everyone.
    Anyone,
    /// Whoever has a verified user.
    User,
    /// Whoever has this role.
    Role(String),
}

/// `per:` of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitPer {
    /// Client address (IPv6 by prefix).
    Ip,
    /// Verified user; the address for anonymous callers.
    User,
    /// Credential; the address without one.
    Token,
}

impl LimitPer {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::User => "user",
            Self::Token => "token",
        }
    }
}

/// So many in any window of that length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many.
    pub quota: NonZeroU32,
    /// In any span of this length.
    pub window: Duration,
}

/// `limits.mode:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitMode {
    /// Refuse.
    Enforce,
    /// Count and report, never refuse.
    Shadow,
}

/// `limits.redis_down:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisDown {
    /// Count here, with the limit divided by the replicas last seen.
    Local,
    /// Admit everything.
    Allow,
    /// Refuse with 503.
    Deny,
}

/// `predict:`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Predict {
    /// Pages a minute at most.
    pub per_minute: u32,
    /// Of the requests that the app may have at a time, at most this share, 0.0 to 1.0.
    pub share: f32,
    /// Where a smaller share of the predictions comes true, hardly any is made.
    pub precision: f32,
}

/// `headers:`
#[derive(Clone, Debug)]
pub struct Headers {
    /// `Cache-Status`.
    pub cache_standard: bool,
    /// `X-Cache`, `X-Cache-TTL`, `X-Response-Time`.
    pub cache_legacy: bool,
    /// `RateLimit`, `RateLimit-Policy`.
    pub rate_limit_standard: bool,
    /// `X-RateLimit-*`.
    pub rate_limit_legacy: bool,
    /// Unlocks the headers that tell more.
    pub debug_token: Option<Secret>,
}

/// `errors.body:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorShape {
    /// RFC 9457.
    Problem,
    /// `{"error":{code,message,timestamp,traceId,retryAfter}}`
    Exodrive,
}

/// `admin:`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where the admin API listens; `None` turns it off.
    pub listen: Option<SocketAddr>,
    /// Required as soon as the address is not loopback.
    pub token: Option<Secret>,
}

/// `purge:`, and `admin.purge_method`.
#[derive(Clone, Debug, PartialEq)]
pub struct Purging {
    /// Whether PURGE on the port for clients purges, with the admin token.
    pub method: bool,
    /// Purges that are taken from outside: the admin port, PURGE and the webhook together.
    pub rate: Rate,
    /// A channel of Redis whose messages purge.
    pub channel: Option<String>,
    /// A stream of Redis whose entries purge.
    pub stream: Option<PurgeStream>,
    /// A path on the port for clients that takes signed purges.
    pub webhook: Option<Arc<Webhook>>,
    /// Who is told of purges that begin here.
    pub notify: Option<PurgeNotify>,
}

impl Default for Purging {
    fn default() -> Self {
        const RATE: Rate = Rate {
            quota: NonZeroU32::new(6_000).unwrap(),
            window: Duration::from_secs(60),
        };
        Self {
            method: false,
            rate: RATE,
            channel: None,
            stream: None,
            webhook: None,
            notify: None,
        }
    }
}

/// `purge.stream:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeStream {
    /// Its key, whole.
    pub key: String,
    /// The consumer group.
    pub group: String,
}

/// `purge.webhook:`
#[derive(Debug, PartialEq)]
pub struct Webhook {
    /// Where it is on the port for clients.
    pub path: String,
    /// What senders sign with: each of them.
    pub keys: Vec<SigningKey>,
    /// How far from now a message's time may lie, and how long it is remembered.
    pub window: Duration,
    /// What changes of a database's tables purge.
    pub tables: Vec<WebhookTable>,
}

/// A table whose changes purge.
#[derive(Debug, PartialEq)]
pub struct WebhookTable {
    /// Its name, or `schema.name`.
    pub table: String,
    /// Tags; a [`Placeholder::Request`](crate::route::Placeholder::Request) is a column.
    pub tags: Vec<Template>,
}

/// `purge.notify:`
#[derive(Clone, Debug, PartialEq)]
pub struct PurgeNotify {
    /// Where purges are posted to: `http` or `https`.
    pub url: Secret,
    /// What they are signed with.
    pub key: Option<SigningKey>,
}

/// `audit:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Questions that this sidecar puts to the app.
    pub rate: Rate,
    /// Paths of JSON members that are left out of the comparison.
    pub ignore: Vec<Box<[Box<str>]>>,
    /// Whether the app is also asked as the client, where a hit's request proves who sends it.
    pub leaks: bool,
    /// Whether a route that leaks is shut.
    pub quarantine: bool,
    /// Whether what is found stale by a route's ttl is let go.
    pub drop_stale: bool,
}

/// `alerts:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alerts {
    /// Where alarms are posted.
    pub webhook: Option<Secret>,
}

/// `log:`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Least severe level shown.
    pub level: LogLevel,
    /// Shape of a line.
    pub format: LogFormat,
    /// Requests slower than this are always logged.
    pub slow: Duration,
}

/// `log.level:`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `log.format:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Pretty,
    /// One object a line.
    Json,
}

/// `shutdown:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Between "not ready" and "no longer accepting".
    pub delay: Duration,
    /// For what is in flight.
    pub grace: Duration,
}
