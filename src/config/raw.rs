//! The mirror of the YAML: what may be written, and nothing more. The JSON Schema is made of these
//! types, their comments and all. Defaults and meaning are the compiler's business.

use super::read::Given;
use super::values::*;
use schemars::JsonSchema;
use serde::Deserialize;

/// larder's configuration.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map of settings")]
#[schemars(title = "larder")]
pub(super) struct Raw {
    /// Where clients connect; `:$PORT` or `:8080` by default.
    pub listen: Given<Short<Listen>>,
    /// Threads that serve traffic; by default one for each processor.
    pub workers: Given<Count>,
    /// Hosts that are served, `*.shop.example` for all below one; every host by default.
    pub hosts: Given<List<HostName>>,
    /// The app.
    pub upstream: Given<Short<Upstream>>,
    /// Redis; without it larder caches in memory.
    pub redis: Given<Short<Redis>>,
    /// The store.
    pub cache: Given<Cache>,
    /// What user, role, token and ip mean.
    pub identity: Given<Identity>,
    /// Rate limits.
    pub limits: Given<Limits>,
    /// What holds for every route that does not say otherwise.
    pub defaults: Given<Defaults>,
    /// Top to bottom, the first match wins.
    pub routes: Given<List<Route>>,
    /// What frameworks need: `nextjs`, `supabase`, or a list; routes of the file come first.
    pub presets: Given<OneOrMany<Preset>>,
    /// Lists of pages that are asked for before anybody has to wait for them.
    pub warm: Given<List<WarmList>>,
    /// Warm what is likely to be asked for next: `true`, or how much of it; false by default.
    pub predict: Given<Short<Predict>>,
    /// Which header dialects are spoken.
    pub headers: Given<Headers>,
    /// The shape of the errors that larder makes.
    pub errors: Given<Errors>,
    /// The admin port, or `off`.
    pub admin: Given<Short<Admin>>,
    /// Further ways by which purges come in, and whom they are told to.
    pub purge: Given<Purging>,
    /// A share of hits is asked of the app again, behind the scenes, and compared.
    pub audit: Given<Audit>,
    /// Who is told of what cannot wait.
    pub alerts: Given<Alerts>,
    /// Logging.
    pub log: Given<Log>,
    /// Stopping.
    pub shutdown: Given<Shutdown>,
}

/// A listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "an address or a map")]
pub(super) struct Listen {
    /// Address and port; `:8080` is every address.
    pub address: Given<Address>,
    /// Serve TLS; plain HTTP without.
    pub tls: Given<Tls>,
}

impl OneLine for Listen {
    type Line = Address;
    fn from_line(line: Address) -> Self {
        Self {
            address: Given::Value(line),
            tls: Given::Absent,
        }
    }
}

/// Certificate and key, PEM.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map with cert and key")]
pub(super) struct Tls {
    /// File with the chain, leaf first.
    pub cert: Given<FilePath>,
    /// File with the private key.
    pub key: Given<FilePath>,
}

/// The app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a URL or a map")]
pub(super) struct Upstream {
    /// `http://host:port`, `https://host` or `unix:/run/app.sock`.
    pub url: Given<UpstreamUrl>,
    /// Until connected; 2s by default.
    pub connect_timeout: Given<Span>,
    /// Until the response head; 30s by default.
    pub timeout: Given<Span>,
    /// Path asked now and then to see whether the app is well.
    pub health: Given<AppPath>,
    /// Requests that the app works on at a time: `adaptive` (default) or a number.
    pub max_in_flight: Given<Count>,
}

impl OneLine for Upstream {
    type Line = UpstreamUrl;
    fn from_line(line: UpstreamUrl) -> Self {
        Self {
            url: Given::Value(line),
            ..Self::default()
        }
    }
}

/// Redis.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a URL or a map")]
pub(super) struct Redis {
    /// `redis://`, `rediss://`, `redis+unix:`, `redis+sentinel:` or `redis+cluster:`.
    pub url: Given<MaybeRedis>,
    /// In place of the URL's user.
    pub username: Given<SecretText>,
    /// In place of the URL's password, so that it alone may lie in a file.
    pub password: Given<SecretText>,
    /// Connections.
    pub pool: Given<Pool>,
    /// `max` and `concurrent` of the pool by name: free is 5 and 20, pro 50 and 200, enterprise 100 and 500.
    pub pool_profile: Given<PoolProfile>,
    /// One command; 100ms by default.
    pub timeout: Given<Span>,
    /// When to stop asking.
    pub breaker: Given<Breaker>,
    /// Where hits are read from.
    pub read_from: Given<ReadFromWord>,
    /// For `rediss:`.
    pub tls: Given<RedisTls>,
    /// Refuse a Redis that is not on this machine and spoken to in plain text; false by default.
    pub require_tls: Given<Flag>,
    /// A second Redis for limits.
    pub limits_url: Given<MaybeRedis>,
}

impl OneLine for Redis {
    type Line = MaybeRedis;
    fn from_line(line: MaybeRedis) -> Self {
        Self {
            url: Given::Value(line),
            ..Self::default()
        }
    }
}

/// Connections to Redis, over all workers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with min, max and concurrent"
)]
pub(super) struct Pool {
    /// Kept open; 2 by default.
    pub min: Given<Whole>,
    /// At most; 10 by default.
    pub max: Given<Whole>,
    /// Commands under way at a time, over all connections; more are not asked. By default as many as the
    /// connections take.
    pub concurrent: Given<Whole>,
}

/// The circuit breaker in front of Redis.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map")]
pub(super) struct Breaker {
    /// Share of failures that opens it; 70% by default.
    pub trip: Given<Percent>,
    /// Over this long; 10s by default.
    pub window: Given<Span>,
    /// Among at least so many calls; 10 by default.
    pub min_calls: Given<Whole>,
    /// Longest pause between background probes; 15s by default.
    pub retry_after: Given<Span>,
}

/// TLS towards Redis.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with ca, cert, key and server_name"
)]
pub(super) struct RedisTls {
    /// File with the CA certificates, PEM; the system's by default.
    pub ca: Given<FilePath>,
    /// File with our own certificate (chain, leaf first), for a Redis that asks for one.
    pub cert: Given<FilePath>,
    /// File with its private key.
    pub key: Given<FilePath>,
    /// Name that is asked for and must be in the certificate; by default the URL's host.
    pub server_name: Given<ServerNameText>,
}

/// The store.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map")]
pub(super) struct Cache {
    /// First part of every Redis key; larder by default.
    pub namespace: Given<Namespace>,
    /// In front of Redis; 64MiB by default, 0B = Redis only.
    pub memory: Given<Size>,
    /// Larger bodies stream through; 1MiB by default, 1GiB at most. Above 1MiB they are kept in Redis alone.
    pub max_body: Given<Size>,
    /// Bodies above this are stored compressed in Redis where that pays, 1KiB by default; or `off`.
    pub compress: Given<Compress>,
    /// Where it cannot be heard what other sidecars purge, memory is served so long after it was last
    /// known to be good, 5m by default; then the app is asked. `off` = as long as it is fresh.
    pub trust: Given<Trust>,
    /// AES-256-GCM in Redis: a key of 32 bytes in base64 or hexadecimal digits; two, the new one
    /// first, with a comma between them, while keys are changed.
    pub encrypt: Given<SecretText>,
    /// What a response with Set-Cookie does: it is not stored (default), stored without, or stored with.
    pub set_cookie: Given<CookieRule>,
    /// Whether requests' cache directives reach the app.
    pub client_refresh: Given<Refresh>,
    /// Query parameters left out of keys, and of fetches that may be stored.
    pub ignore_query: Given<List<Text>>,
}

/// Who callers are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map")]
pub(super) struct Identity {
    /// Peers whose X-Forwarded-For is believed; nobody by default.
    pub trusted_proxies: Given<List<Proxy>>,
    /// IPv6 prefix that counts as one client; 64 by default.
    pub ipv6_prefix: Given<Whole>,
    /// How tokens are verified.
    pub jwt: Given<Jwt>,
    /// A claim of a verified token, `sub` by default, or `{ header: x-user-id }`.
    pub user: Given<Short<User>>,
    /// The claim that holds the role, or roles.
    pub role: Given<Claim>,
}

/// Where the keys of tokens come from: one of the two.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map with jwks or secret")]
pub(super) struct Jwt {
    /// URL or file of a key set.
    pub jwks: Given<Keys>,
    /// The shared secret of HS256, HS384 or HS512.
    pub secret: Given<SecretText>,
}

/// What names the user.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a claim or a map with header"
)]
pub(super) struct User {
    #[schemars(skip)]
    #[serde(skip)]
    pub claim: Option<Claim>,
    /// A header field, believed from a trusted proxy only.
    pub header: Given<FieldName>,
}

impl OneLine for User {
    type Line = Claim;
    fn from_line(line: Claim) -> Self {
        Self {
            claim: Some(line),
            header: Given::Absent,
        }
    }
}

/// Rate limits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map")]
pub(super) struct Limits {
    /// `enforce` (default), or `shadow`: count and report, never refuse.
    pub mode: Given<Mode>,
    /// Without Redis: count here (`local`, default), `allow` or `deny`.
    pub redis_down: Given<Down>,
    /// How requests are counted.
    pub algorithm: Given<Algorithm>,
    /// Paths that the tiers apply to; everything but static files by default.
    pub paths: Given<List<PathPattern>>,
    /// The first that fits the caller.
    pub tiers: Given<List<Tier>>,
}

/// A limit for a kind of caller.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with name, for, rate, per and sync"
)]
pub(super) struct Tier {
    /// In headers, metrics and Redis keys.
    pub name: Given<Name>,
    /// `anyone` (default), `user` or `role:NAME`.
    #[serde(rename = "for")]
    pub audience: Given<Audience>,
    /// How many, in any window of that length.
    pub rate: Given<Rate>,
    /// One counter each; `user` by default, `ip` where it is for anyone.
    pub per: Given<OneOrMany<PerWho>>,
    /// Count here and tell Redis so often, instead of asking it each time; by default it is asked.
    pub sync: Given<Span>,
}

/// What holds for every route.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map")]
pub(super) struct Defaults {
    /// Share by which lifetimes are spread; 10% by default.
    pub ttl_jitter: Given<Percent>,
    /// Stale answers at once while a refresh runs; 0s by default.
    pub stale_while_revalidate: Given<Span>,
    /// Stale answers when the app fails; 0s by default.
    pub stale_if_error: Given<Span>,
    /// How long a request waits for another's fetch of the same; 10s by default.
    pub collapse_wait: Given<Span>,
    /// Guess a lifetime from Last-Modified; false by default.
    pub heuristic: Given<Flag>,
    /// Hits may renew an entry before its end, the likelier the nearer that is and the longer the app took;
    /// 100% is the usual measure; never by default.
    pub early_refresh: Given<Percent>,
}

/// A route.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map with path")]
pub(super) struct Route {
    /// In headers, metrics and Redis keys; its path by default.
    pub name: Given<Name>,
    /// `{id}` is one segment, a final `*` the rest.
    pub path: Given<OneOrMany<PathPattern>>,
    /// GET and HEAD by default where it has a ttl, else any.
    pub methods: Given<List<MethodName>>,
    /// How long answers live where the app does not say.
    pub ttl: Given<Short<Ttl>>,
    /// The ttl wins over the app's Cache-Control.
    #[serde(rename = "override")]
    pub override_app: Given<Flag>,
    /// Hits in the last share of the lifetime renew the entry.
    pub refresh_ahead: Given<Percent>,
    /// As in `defaults`.
    pub early_refresh: Given<Percent>,
    /// Requests of this route that the app may have at a time; as many as it may have at all by default.
    pub max_in_flight: Given<Whole>,
    /// What requests must have in common to share an answer.
    pub key: Given<Key>,
    /// Tags of what is stored.
    pub tags: Given<List<TagTemplate>>,
    /// Tags purged after a 2xx.
    pub purge: Given<List<TagTemplate>>,
    /// `hot`: what `purge` has hit and is asked for most is fetched again at once; by default nothing is.
    pub refresh: Given<RefreshWord>,
    /// Links of stored answers that are fetched, too: preload, prefetch, next; none by default.
    pub prefetch: Given<List<Relation>>,
    /// A limit on top of the tier.
    pub limit: Given<Limit>,
    /// Requests that are never looked up.
    pub bypass_when: Given<BypassWhen>,
    /// Never store, and tell browsers so.
    pub no_store: Given<Flag>,
    /// Hits renew the lifetime up to this age.
    pub slide_up_to: Given<Span>,
    /// As in `defaults`.
    pub stale_while_revalidate: Given<Span>,
    /// As in `defaults`.
    pub stale_if_error: Given<Span>,
    /// As in `defaults`.
    pub collapse_wait: Given<Span>,
    /// Statuses that the ttl is for; 200, 203, 301, 308, and 404, 410 for at most 1m.
    pub statuses: Given<List<Status>>,
    /// As in `cache`.
    pub set_cookie: Given<CookieRule>,
    /// As in `defaults`.
    pub heuristic: Given<Flag>,
    /// Some of the keys live by another `ttl`.
    pub experiment: Given<Experiment>,
    /// The app is always asked, and what the store would have answered is only counted; false by default.
    pub shadow: Given<Flag>,
}

/// A lifetime at length.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a duration or a map")]
pub(super) struct Ttl {
    /// For the route's statuses.
    pub default: Given<Span>,
    /// The app's own lifetime is raised to this.
    pub min: Given<Span>,
    /// The app's own lifetime is cut to this.
    pub max: Given<Span>,
    /// Other lifetimes for single statuses.
    pub by_status: Given<ByStatus>,
}

impl OneLine for Ttl {
    type Line = Span;
    fn from_line(line: Span) -> Self {
        Self {
            default: Given::Value(line),
            ..Self::default()
        }
    }
}

/// A cache key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map")]
pub(super) struct Key {
    /// Query parameters; all by default, sorted.
    pub query: Given<List<Text>>,
    /// Request fields.
    pub headers: Given<List<FieldName>>,
    /// Cookies.
    pub cookies: Given<List<Text>>,
    /// One entry each: ip, user, token.
    pub per: Given<OneOrMany<PerWho>>,
    /// What of a POST's content: `true`, every byte; `graphql`, what the query asks for.
    pub body: Given<BodyKey>,
}

/// Requests that are never looked up: those with one of these.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with cookie and header"
)]
pub(super) struct BypassWhen {
    /// Cookies.
    pub cookie: Given<List<Text>>,
    /// Request fields.
    pub header: Given<List<FieldName>>,
}

/// The text of a preset.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a preset")]
pub(super) struct PresetText {
    pub every_route: Given<List<EveryRoute>>,
    pub routes: Given<List<Route>>,
}

/// What a preset adds to routes that share paths with it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a map with path")]
pub(super) struct EveryRoute {
    pub path: Given<OneOrMany<PathPattern>>,
    pub key: Given<Key>,
    pub bypass_when: Given<BypassWhen>,
}

/// Warming of what is likely to be asked for next.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "true, false or a map with rate, share and precision"
)]
pub(super) struct Predict {
    #[schemars(skip)]
    #[serde(skip)]
    pub off: bool,
    /// Pages at most; 60/min by default.
    pub rate: Given<Rate>,
    /// Share of the requests that the app may have at a time; 5% by default.
    pub share: Given<Percent>,
    /// Where a smaller share of the predictions comes true, hardly any is made; 20% by default.
    pub precision: Given<Percent>,
}

impl OneLine for Predict {
    type Line = Flag;
    fn from_line(line: Flag) -> Self {
        Self {
            off: !line.0,
            ..Self::default()
        }
    }
}

/// Pages that are warmed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with urls, sitemap, file or popular"
)]
pub(super) struct WarmList {
    /// Pages: paths, or whole URLs.
    pub urls: Given<List<PageAddress>>,
    /// The path or URL of a sitemap that the app serves; an index of sitemaps is followed once.
    pub sitemap: Given<PageAddress>,
    /// File with a path or URL a line; lines that begin with # are left out.
    pub file: Given<FilePath>,
    /// So many of the pages that are asked for most, over all sidecars.
    pub popular: Given<Whole>,
    /// The host that pages without one are asked for by, `shop.example` or `https://shop.example`; by
    /// default those of `hosts`, else the one that is asked for most.
    pub host: Given<HostAddress>,
    /// Fields that select variants, a value or a list of values each.
    pub headers: Given<Fields>,
    /// Cookies that select variants.
    pub cookies: Given<Fields>,
    /// When larder starts; false by default.
    pub on_start: Given<Flag>,
    /// Again and again, with so long between; what would end before the next time is renewed.
    pub every: Given<Span>,
    /// At these moments: minute, hour, day, month and day of the week as in crontab, in UTC.
    pub schedule: Given<Schedule>,
    /// Pages at a time; 4 by default.
    pub concurrency: Given<Whole>,
    /// How fast; 50/s by default.
    pub rate: Given<Rate>,
    /// Ready only once they have been warmed at the start; false by default.
    pub wait_ready: Given<Flag>,
}

/// A route's own limit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with rate, per and sync"
)]
pub(super) struct Limit {
    /// How many, in any window of that length.
    pub rate: Given<Rate>,
    /// One counter each, all of which must allow; ip by default.
    pub per: Given<OneOrMany<PerWho>>,
    /// Count here and tell Redis so often, instead of asking it each time; by default it is asked.
    pub sync: Given<Span>,
}

/// Header dialects.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map")]
pub(super) struct Headers {
    /// `standard`: Cache-Status; `legacy`: X-Cache, X-Cache-TTL, X-Response-Time.
    pub cache: Given<List<Dialect>>,
    /// `standard`: RateLimit, RateLimit-Policy; `legacy`: X-RateLimit-*.
    pub rate_limit: Given<List<Dialect>>,
    /// Unlocks the headers that tell more.
    pub debug_token: Given<SecretText>,
}

/// Errors that larder makes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map with body")]
pub(super) struct Errors {
    /// `problem` (RFC 9457, default) or `exodrive`.
    pub body: Given<Shape>,
}

/// The admin port.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "off or a map")]
pub(super) struct Admin {
    #[schemars(skip)]
    #[serde(skip)]
    pub off: bool,
    /// 127.0.0.1:9800 by default.
    pub listen: Given<Address>,
    /// Required as soon as the address is not loopback.
    pub token: Given<SecretText>,
    /// Whether PURGE on the port for clients purges, with this token; false by default.
    pub purge_method: Given<Flag>,
}

impl OneLine for Admin {
    type Line = Off;
    fn from_line(_: Off) -> Self {
        Self {
            off: true,
            ..Self::default()
        }
    }
}

/// How purges come in beside the admin port and routes, and whom they are told to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with rate, channel, stream, webhook and notify"
)]
pub(super) struct Purging {
    /// Purges that the admin port, PURGE and the webhook take together; 6000/min by default.
    pub rate: Given<Rate>,
    /// A channel of Redis (Pub/Sub) whose messages purge.
    pub channel: Given<RedisName>,
    /// A stream of Redis whose entries purge, each once.
    pub stream: Given<Short<PurgeStream>>,
    /// A path on the port for clients that takes signed purges.
    pub webhook: Given<Webhook>,
    /// A URL that is told of each purge that begins here.
    pub notify: Given<Short<PurgeNotify>>,
}

/// A stream that a consumer group reads.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a key or a map with key and group"
)]
pub(super) struct PurgeStream {
    /// Its key, whole: it need not lie in the namespace.
    pub key: Given<RedisName>,
    /// The consumer group; larder by default.
    pub group: Given<RedisName>,
}

impl OneLine for PurgeStream {
    type Line = RedisName;
    fn from_line(line: RedisName) -> Self {
        Self {
            key: Given::Value(line),
            group: Given::Absent,
        }
    }
}

/// Purges that others send, signed as Standard Webhooks are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with path, secret, window and tables"
)]
pub(super) struct Webhook {
    /// Where it is on the port for clients.
    pub path: Given<AppPath>,
    /// What senders sign with: `whsec_…` or any 24 bytes; two, with a comma between them, while it is changed.
    pub secret: Given<SecretText>,
    /// How old a message may be, and how long one is remembered; 5m by default.
    pub window: Given<Span>,
    /// What changes of a database's tables purge.
    pub tables: Given<List<WebhookTable>>,
}

/// A table whose changes purge.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map with table and tags")]
pub(super) struct WebhookTable {
    /// Its name, or `schema.name`.
    pub table: Given<Text>,
    /// Tags purged with each change; `{record.id}` is a column, as it was and as it is.
    pub tags: Given<List<RecordTag>>,
}

/// Who is told of purges.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a URL or a map with url and secret"
)]
pub(super) struct PurgeNotify {
    /// Where it is posted to.
    pub url: Given<SecretText>,
    /// What it is signed with, as the webhook's; not signed by default.
    pub secret: Given<SecretText>,
}

impl OneLine for PurgeNotify {
    type Line = SecretText;
    fn from_line(line: SecretText) -> Self {
        Self {
            url: Given::Value(line),
            secret: Given::Absent,
        }
    }
}

/// Hits asked of the app again.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with sample and routes"
)]
pub(super) struct Audit {
    /// Share of hits; 1% by default.
    pub sample: Given<Percent>,
    /// Names of routes; every one by default.
    pub routes: Given<List<Name>>,
    /// Questions that this sidecar puts to the app; 5/s by default.
    pub rate: Given<Rate>,
    /// JSON members that differ each time, left out of the comparison: `generatedAt`, `meta.requestId`.
    pub ignore: Given<List<Text>>,
    /// Also asks as the client, where a hit's request proves who sends it; true by default.
    pub leaks: Given<Flag>,
    /// A route that leaks is shut until it is released; true by default.
    pub quarantine: Given<Flag>,
    /// What is found stale by a route's ttl is let go, which flatters the figures; false by default.
    pub drop_stale: Given<Flag>,
}

/// Two lifetimes side by side.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map with ttl and share")]
pub(super) struct Experiment {
    /// The lifetime that is tried out.
    pub ttl: Given<Span>,
    /// Share of the route's keys that live by it; 20% by default.
    pub share: Given<Percent>,
}

/// Alerts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map with webhook")]
pub(super) struct Alerts {
    /// Where alarms are posted as JSON with a `text`, as Slack and others take it; nowhere by default.
    pub webhook: Given<SecretText>,
}

/// Logging.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map")]
pub(super) struct Log {
    /// Least severe level shown; info by default.
    pub level: Given<Level>,
    /// `auto` (default): pretty on a terminal, JSON otherwise.
    pub format: Given<LineFormat>,
    /// Slower requests are always logged; 500ms by default.
    pub slow: Given<Span>,
}

/// Stopping.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map with delay and grace")]
pub(super) struct Shutdown {
    /// Between "not ready" and "no longer accepting"; 0s by default.
    pub delay: Given<Span>,
    /// For what is in flight; 25s by default.
    pub grace: Given<Span>,
}

/// The JSON Schema of the file, draft 7, as editors read it.
pub(super) fn schema() -> String {
    let generator = schemars::generate::SchemaSettings::draft07().into_generator();
    let schema = generator.into_root_schema_for::<Raw>();
    format!("{:#}\n", schema.as_value())
}
