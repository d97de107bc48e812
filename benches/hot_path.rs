//! What the steps of a memory hit cost, one by one, and then the whole of it without a socket.
//!
//! ```text
//! cargo bench --bench hot_path -- --warm-up-time 1 --measurement-time 2
//! ```
//!
//! `hit/*` drives hyper's HTTP/1.1 over a pipe in memory, once with larder behind it and once with a
//! service that does nothing but answer: the difference is what larder itself costs. The kernel's
//! share is not in here; `docs/PERFORMANCE.md` has it.

#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use larder::cache::purge::{Since, Subject, Table};
use larder::cache::seal::Seal;
use larder::cache::{Cache, Entry, Label, Lookup, Purge, Scope, codec};
use larder::clock::Clock;
use larder::config::{self, Environment, Settings, Source as Text};
use larder::identity::Identity;
use larder::limit::{Limiter, LocalLimits, checks};
use larder::proxy::{Peer, Proxy, Rooms, Shared, Snapshot};
use larder::redis_client::{self, Redis, Share};
use larder::route::{Asked, Plan, Target};
use larder::semantics::reuse::ClientRefresh;
use larder::semantics::{
    CacheStatus, Exchange, Key, Outcome, Policy, Reason, Reuse, Stored, Timestamp, answer, reuse,
    storable,
};
use larder::telemetry::log::{self, Log};
use larder::telemetry::metrics::{Finished, Source};
use larder::telemetry::{AccessLog, Metrics, RouteHandle, TraceContext, Traces};
use larder::upstream::Upstream;
use std::convert::Infallible;
use std::hint::black_box;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Runtime;

const PATH: &str = "/api/cars/42";
const QUERY: &str = "to=2025-02-01&from=2025-01-23&utm_source=mail";
const HEAD: &str = "GET /api/cars/42?to=2025-02-01&from=2025-01-23&utm_source=mail HTTP/1.1\r\n\
                    host: shop.example:8080\r\nuser-agent: bench\r\naccept: */*\r\n\r\n";
/// Room of the pipe in memory: more than the largest answer.
const PIPE_BYTES: usize = 1 << 20;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    planning(&mut criterion);
    deciding(&mut criterion);
    storing(&mut criterion);
    memory_hits(&mut criterion);
    limiting(&mut criterion);
    telling(&mut criterion);
    asking_redis(&mut criterion);
    whole_hits(&mut criterion);
    criterion.final_summary();
}

/// Target, route, key, caller.
fn planning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.bench_function("target: a plain path", |bench| {
        bench.iter(|| Target::parse(black_box(PATH), Some(QUERY)));
    });
    group.bench_function("target: an escaped path", |bench| {
        bench.iter(|| Target::parse(black_box("/api/cars/4%32"), Some(QUERY)));
    });
    let target = Target::parse(PATH, Some(QUERY));
    for routes in [10, 1_000] {
        let settings = settings(&config_with(routes, ""));
        group.bench_with_input(
            BenchmarkId::new("route: the last of", routes),
            &settings,
            |bench, settings| {
                bench.iter(|| {
                    settings
                        .routes
                        .find(&Method::GET, black_box(&target))
                        .rule
                        .id
                });
            },
        );
    }
    let request = request_fields();
    for (name, extra) in [
        ("key: scheme, host, path and query", ""),
        (
            "key: with two named parameters",
            "key: { query: [from, to] }",
        ),
        ("key: with a field", "key: { headers: [user-agent] }"),
    ] {
        let settings = settings(&config_with(10, extra));
        let found = settings.routes.find(&Method::GET, &target);
        group.bench_function(name, |bench| {
            bench.iter(|| found.rule.plan(black_box(&asked(&target, &request)), &[]));
        });
    }
    let settings = settings(&config_with(10, ""));
    let identity = Identity::new(settings.identity.clone());
    group.bench_function("caller: address", |bench| {
        bench.iter(|| {
            let caller = identity.caller(peer().address, black_box(&request), NOW);
            caller.ip()
        });
    });
    group.finish();
}

/// The verdict on a stored response, and the answer made from it.
fn deciding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    let (request, stored, policy) = (request_fields(), stored(1_024), Policy::default());
    // Each answer begins with taking the entry apart.
    let entry = entry_of(&stored);
    group.bench_function("reuse: fresh", |bench| {
        bench.iter(|| {
            let ignore = ClientRefresh::Ignore;
            reuse(
                black_box(&request),
                Some(entry.terms(&request)),
                false,
                &policy,
                ignore,
                NOW,
            )
        });
    });
    group.bench_function("answer: 200, whole", |bench| {
        bench.iter(|| answer(&Method::GET, black_box(&request), entry.stored(), NOW));
    });
    let mut conditional = request.clone();
    conditional.insert("if-none-match", HeaderValue::from_static("\"v1\""));
    group.bench_function("answer: 304", |bench| {
        bench.iter(|| answer(&Method::GET, black_box(&conditional), entry.stored(), NOW));
    });
    let mut part = request.clone();
    part.insert("range", HeaderValue::from_static("bytes=0-99"));
    group.bench_function("answer: 206, one part", |bench| {
        bench.iter(|| answer(&Method::GET, black_box(&part), entry.stored(), NOW));
    });
    let hit = CacheStatus {
        ttl: Some(287),
        ..CacheStatus::new(Outcome::Hit, Reason::Memory)
    };
    group.bench_function("Cache-Status of a hit", |bench| {
        bench.iter(|| black_box(hit).member());
    });
    group.finish();
}

/// Memory, the purge log, the format in Redis.
fn storing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    let request = request_fields();
    let runtime = runtime();
    for entries in [1_000_u64, 100_000] {
        let cache = Cache::new(1 << 30, "bench", 1 << 20);
        let entry = Arc::new(entry(64));
        for n in 0..entries {
            cache.store(&key(n), Arc::clone(&entry), NOW);
        }
        let mut next = 0;
        group.bench_function(BenchmarkId::new("memory: a hit among", entries), |bench| {
            bench.iter(|| {
                next = (next + 7_919) % entries;
                // Ready at once: without a Redis nothing is waited for.
                runtime.block_on(cache.lookup(&key(next), &request, NOW))
            });
        });
    }
    for purges in [1, 1_000, 100_000] {
        let mut table = Table::default();
        for n in 0..purges {
            let scope = match n % 2 {
                0 => Scope::Tag(format!("tag:{n}")),
                _ => Scope::Url(format!("shop.example/{n}")),
            };
            table.apply(&Purge { scope, soft: false }, None);
        }
        let subject = Subject {
            tags: ["car:42", "fleet", "route:car"],
            url: "shop.example/api/cars/42",
        };
        group.bench_function(BenchmarkId::new("purge check: log of", purges), |bench| {
            bench.iter(|| table.verdict(black_box(subject), Since::Local(0)));
        });
    }
    let plain = Seal::default();
    for bytes in [1_024, 16_384] {
        let frame = Bytes::from(codec::encode(&entry(bytes), &key(1), 0, &plain));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("entry: decode, body of", bytes), |bench| {
            bench.iter(|| codec::decode(black_box(&frame), &key(1), 0, &plain).is_ok());
        });
        let entry = entry(bytes);
        group.bench_function(BenchmarkId::new("entry: encode, body of", bytes), |bench| {
            bench.iter(|| codec::encode(black_box(&entry), &key(1), 0, &plain));
        });
    }
    group.finish();
}

/// What a verdict on reuse and an answer add to a lookup in memory: the difference of the two is bounded
/// by 1 µs.
fn memory_hits(criterion: &mut Criterion) {
    const ENTRIES: u64 = 10_000;
    let mut group = criterion.benchmark_group("memory hit");
    let (request, policy, runtime) = (request_fields(), Policy::default(), runtime());
    let cache = Cache::new(1 << 30, "bench", 1 << 20);
    let entry = Arc::new(entry(1_024));
    for n in 0..ENTRIES {
        cache.store(&key(n), Arc::clone(&entry), NOW);
    }
    let found = |next: &mut u64| {
        *next = (*next + 7_919) % ENTRIES;
        runtime.block_on(cache.lookup(&key(*next), &request, NOW))
    };
    let mut next = 0;
    group.bench_function("lookup alone", |bench| {
        bench.iter(|| found(&mut next));
    });
    group.bench_function("lookup, reuse and answer", |bench| {
        bench.iter(|| {
            let Lookup::Found { entry, .. } = found(&mut next) else {
                return None;
            };
            let ignore = ClientRefresh::Ignore;
            let terms = Some(entry.terms(&request));
            match reuse(black_box(&request), terms, false, &policy, ignore, NOW) {
                Reuse::Fresh => Some(answer(&Method::GET, &request, entry.stored(), NOW)),
                _ => None,
            }
        });
    });
    group.finish();
}

/// Which limits apply, and decisions that ask no Redis.
fn limiting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limit");
    let runtime = runtime();
    let request = request_fields();
    let target = Target::parse(PATH, Some(QUERY));
    let limits = |rate: &str| {
        format!("limits: {{ tiers: [{{ name: public, for: anyone, rate: {rate}, per: ip }}] }}\n")
    };
    let none = settings(&config_with(10, ""));
    let identity = Identity::new(none.identity.clone());
    let caller = identity.caller(peer().address, &request, NOW);
    group.bench_function("checks: no limit applies", |bench| {
        bench.iter(|| {
            checks::checks(&none.limits, &[], &Method::GET, black_box(&target), &caller).len()
        });
    });
    for (name, rate) in [
        ("here: one counter, admitted (sub-buckets)", "5000/s"),
        ("here: one counter, refused (exact)", "1/day"),
    ] {
        let settings = settings(&(config_with(10, "") + &limits(rate)));
        let limiter = Limiter::new("bench", None, Arc::new(LocalLimits::new()));
        let mut now = NOW;
        group.bench_function(name, |bench| {
            bench.iter(|| {
                now = now + Duration::from_millis(1);
                let limits = &settings.limits;
                let checks = checks::checks(limits, &[], &Method::GET, &target, &caller);
                runtime.block_on(limiter.admit(&checks, limits.redis_down, black_box(now)))
            });
        });
    }
    let refused = settings(&(config_with(10, "") + &limits("1/day")));
    let limiter = Limiter::new("bench", None, Arc::new(LocalLimits::new()));
    let ask = |limits: &larder::config::settings::Limits| {
        let checks = checks::checks(limits, &[], &Method::GET, &target, &caller);
        limiter.refusal(&checks, black_box(NOW))
    };
    let checks = checks::checks(&refused.limits, &[], &Method::GET, &target, &caller);
    for _ in 0..2 {
        let _ = limiter.at_once(&checks, NOW);
    }
    assert!(ask(&refused.limits).is_some(), "one a day is used up");
    group.bench_function("here: known to be full", |bench| {
        bench.iter(|| ask(&refused.limits));
    });
    told_later(&mut group, &runtime);
    let away =
        settings(&(config_with(10, "") + &limits("60/min") + "redis: redis://127.0.0.1:1\n"));
    let redis = away.redis.as_ref().expect("the configuration names one");
    let recorder = Metrics::new(1).recorder(0);
    let redis = runtime.block_on(async { Redis::start(redis, &redis.url, Share::ONE, recorder) });
    runtime.block_on(async {
        // The breaker opens on the first few refusals.
        for _ in 0..1_000 {
            let _ = redis.query("ping", &redis::cmd("PING")).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(!redis.is_up(), "nobody answers at that port");
    let limiter = Limiter::new("bench", Some(redis), Arc::new(LocalLimits::new()));
    group.bench_function("Redis is away: counted here", |bench| {
        bench.iter(|| {
            let limits = &away.limits;
            let checks = checks::checks(limits, &[], &Method::GET, &target, &caller);
            runtime.block_on(limiter.admit(&checks, limits.redis_down, black_box(NOW)))
        });
    });
    group.finish();
}

/// A GET over a pipe in memory: 64 callers on one connection, and a server that answers as many
/// commands as came at once.
fn asking_redis(criterion: &mut Criterion) {
    const CALLERS: usize = 64;
    let name = [b'k'; 64];
    let command = redis_client::fuzz::command(&[b"GET", &name]);
    let mut group = criterion.benchmark_group("redis");
    group.throughput(Throughput::Elements(CALLERS as u64));
    for value_bytes in [1_024, 16_384, 262_144] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let value = vec![b'x'; value_bytes];
        let head = format!("${value_bytes}\r\n");
        let reply = [head.as_bytes(), &value, b"\r\n"].concat();
        let (ours, mut theirs) = duplex(PIPE_BYTES);
        let command_bytes = command.len();
        let _served = runtime.spawn(async move {
            let (mut room, mut came) = (vec![0; 1 << 16], 0);
            let mut replies = Vec::new();
            while let Ok(count @ 1..) = theirs.read(&mut room).await {
                came += count;
                replies.clear();
                (0..came / command_bytes).for_each(|_| replies.extend_from_slice(&reply));
                came %= command_bytes;
                if theirs.write_all(&replies).await.is_err() {
                    return;
                }
            }
        });
        let line = runtime.block_on(async { Arc::new(redis_client::fuzz::Line::over(ours)) });
        let round = async || {
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| {
                    let line = Arc::clone(&line);
                    tokio::spawn(async move { line.get(&name, Duration::from_secs(5)).await })
                })
                .collect();
            for caller in callers {
                let value = caller.await.expect("it does not panic");
                assert_eq!(
                    value.expect("in time").expect("it is there").len(),
                    value_bytes
                );
            }
        };
        group.bench_function(BenchmarkId::new("GET, 64 callers", value_bytes), |bench| {
            bench.iter(|| runtime.block_on(round()));
        });
    }
    group.finish();
}

/// A counter that Redis is told of afterwards; only where a redis-server is installed.
fn told_later(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = port.expect("a port is free").port().to_string();
    let server = Command::new("redis-server")
        .args(["--port", &port, "--save", "", "--appendonly", "no"])
        .stdout(Stdio::null())
        .spawn();
    let Ok(mut server) = server else { return };
    let settings = settings(
        &(config_with(10, "")
            + "limits: { tiers: [{ name: hot, for: anyone, rate: 1000000/31d, per: ip, sync: 1m }] }\n"
            + &format!("redis: redis://127.0.0.1:{port}\n")),
    );
    let redis = settings
        .redis
        .as_ref()
        .expect("the configuration names one");
    let recorder = Metrics::new(1).recorder(0);
    let redis = runtime.block_on(async { Redis::start(redis, &redis.url, Share::ONE, recorder) });
    let limiter = Limiter::new("bench", Some(redis), Arc::new(LocalLimits::new()));
    let identity = Identity::new(settings.identity.clone());
    let (request, target) = (request_fields(), Target::parse(PATH, Some(QUERY)));
    let mut number = 0_u32;
    // Each counter has a quota, and criterion asks more often: then the next caller's begins.
    let mut next = || {
        number += 1;
        let [_, a, b, c] = number.to_be_bytes();
        let address = SocketAddr::from(([10, a, b, c], 1));
        let caller = identity.caller(address, &request, NOW);
        let limits = &settings.limits;
        let checks = checks::checks(limits, &[], &Method::GET, &target, &caller);
        runtime.block_on(limiter.admit(&checks, limits.redis_down, NOW));
        address
    };
    for _ in 0..1_000 {
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        next();
    }
    let mut address = next();
    group.bench_function("here: admitted, Redis is told later", |bench| {
        bench.iter(|| {
            let caller = identity.caller(address, &request, NOW);
            let checks = checks::checks(&settings.limits, &[], &Method::GET, &target, &caller);
            let decision = limiter.at_once(&checks, black_box(NOW));
            if decision.is_none() {
                address = next();
            }
            decision
        });
    });
    let _ = server.kill();
    let _ = server.wait();
}

/// Metrics, traces, the log.
fn telling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tell");
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    let route = metrics.route("car", "/api/cars/{id}");
    let finished = Finished {
        method: &Method::GET,
        status: StatusCode::OK,
        outcome: Outcome::Hit,
        reason: Reason::Memory,
        duration: Duration::from_micros(80),
        source: Source::Memory,
        coalesced: false,
    };
    group.bench_function("metrics: one hit", |bench| {
        bench.iter(|| {
            let active = recorder.active();
            recorder.request(&route, black_box(&finished));
            recorder.saved(&route, Duration::from_millis(400));
            active.bytes(&route, Source::Memory, 1_024);
            drop(active);
        });
    });
    let traces = Traces::default();
    let without = request_fields();
    group.bench_function("trace: begun here", |bench| {
        bench.iter(|| traces.context(black_box(&without)));
    });
    let mut with = without.clone();
    let caller = TraceContext::from_headers(&without).traceparent();
    with.insert(
        "traceparent",
        HeaderValue::from_str(&caller).expect("ASCII"),
    );
    group.bench_function("trace: the caller's", |bench| {
        bench.iter(|| traces.context(black_box(&with)));
    });
    let log = quiet_log();
    group.bench_function("log: is a hit to be written", |bench| {
        bench.iter(|| wants(&log, &route));
    });
    group.finish();
}

/// A request in, an answer out, over hyper's HTTP/1.1 and a pipe in memory.
fn whole_hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    let runtime = runtime();
    for bytes in [1_024, 16_384] {
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("hyper alone", bytes), |bench| {
            let body = Bytes::from(vec![b'x'; bytes]);
            bench.iter_custom(|rounds| {
                let body = body.clone();
                runtime.block_on(exchange(rounds, bytes, move |_| {
                    let mut response = Response::new(Full::new(body.clone()));
                    *response.headers_mut() = response_fields();
                    std::future::ready(response)
                }))
            });
        });
        for (name, config) in [
            ("larder", config_with(10, "")),
            ("larder, 1,000 routes", config_with(1_000, "")),
        ] {
            let proxy = runtime.block_on(async { proxy(&config, bytes) });
            group.bench_function(BenchmarkId::new(name, bytes), |bench| {
                bench.iter_custom(|rounds| {
                    let proxy = proxy.clone();
                    runtime.block_on(exchange(rounds, bytes, move |request| {
                        let proxy = proxy.clone();
                        async move { proxy.handle(proxy.receive(request, peer()), None).await }
                    }))
                });
            });
        }
    }
    group.finish();
}

/// The time of `rounds` requests on one connection, each sent when the answer before was read.
async fn exchange<F, B>(
    rounds: u64,
    body_bytes: usize,
    service: impl Fn(Request<Incoming>) -> F + Send + 'static,
) -> Duration
where
    F: Future<Output = Response<B>> + Send,
    B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let (mut client, server) = duplex(PIPE_BYTES);
    let service = service_fn(move |request| {
        let answer = service(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30));
    let connection = tokio::task::LocalSet::new();
    connection
        .run_until(async move {
            tokio::task::spawn_local(http.serve_connection(TokioIo::new(server), service));
            let mut buffer = vec![0; PIPE_BYTES];
            let answer_bytes = first(&mut client, &mut buffer, body_bytes).await;
            let began = Instant::now();
            for _ in 0..rounds {
                client.write_all(HEAD.as_bytes()).await.expect("a pipe");
                let mut left = answer_bytes;
                while left > 0 {
                    let read = client.read(&mut buffer).await.expect("a pipe");
                    // Numbers in the head (an age, a time) may take another digit on their way.
                    left = left.saturating_sub(read);
                    assert_ne!(read, 0, "the connection ended");
                }
            }
            began.elapsed()
        })
        .await
}

/// Sends one request and returns how long its answer is; it must be a 200 with the whole body.
async fn first(client: &mut DuplexStream, buffer: &mut [u8], body_bytes: usize) -> usize {
    client.write_all(HEAD.as_bytes()).await.expect("a pipe");
    let read = client.read(buffer).await.expect("a pipe");
    let head = String::from_utf8_lossy(&buffer[..read.min(2_048)]);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(read > body_bytes, "{read} bytes, {head}");
    read
}

const NOW: Timestamp = Timestamp::from_millis(1_737_626_400_000);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

const fn peer() -> Peer {
    Peer {
        address: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 40_000),
        tls: false,
    }
}

/// So many routes, of which the last one fits [`PATH`]; `extra` is said of that one.
fn config_with(routes: usize, extra: &str) -> String {
    let others =
        (1..routes).map(|n| format!("  - {{ path: \"/api/other-{n}/{{id}}\", ttl: 30s }}\n"));
    let extra = match extra {
        "" => String::new(),
        extra => format!(", {extra}"),
    };
    format!(
        "upstream: http://127.0.0.1:1\nroutes:\n{}  - {{ name: car, path: \"/api/cars/{{id}}\", ttl: 10m{extra} }}\n",
        others.collect::<String>()
    )
}

fn settings(text: &str) -> Settings {
    let source = Text {
        name: "bench".into(),
        text: text.into(),
    };
    match config::load(source, &Environment::default()) {
        Ok((settings, _)) => settings,
        Err(report) => panic!("{}", report.render(config::Format::Human, false)),
    }
}

fn asked<'a>(target: &'a Target<'a>, headers: &'a HeaderMap) -> Asked<'a> {
    Asked {
        method: &Method::GET,
        scheme: "http",
        authority: "shop.example:8080",
        target,
        headers,
        content: larder::route::Content::None,
    }
}

fn request_fields() -> HeaderMap {
    HeaderMap::from_iter([
        (HOST, HeaderValue::from_static("shop.example:8080")),
        (USER_AGENT, HeaderValue::from_static("bench")),
    ])
}

fn response_fields() -> HeaderMap {
    HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=600"),
        ),
        (ETAG, HeaderValue::from_static("\"v1\"")),
    ])
}

fn stored(body_bytes: usize) -> Stored {
    stored_at(body_bytes, NOW)
}

fn stored_at(body_bytes: usize, now: Timestamp) -> Stored {
    let exchange = Exchange {
        method: &Method::GET,
        path: "/api/cars/42",
        request: &request_fields(),
        status: StatusCode::OK,
        response: &response_fields(),
        requested: now,
        received: now,
        client: ClientRefresh::Ignore,
        chance: 0.5,
    };
    let mut stored = storable(&exchange, &Policy::default()).expect("it says that it is public");
    stored.body = vec![b'x'; body_bytes].into();
    stored
}

fn entry(body_bytes: usize) -> Entry {
    entry_of(&stored(body_bytes))
}

fn entry_of(stored: &Stored) -> Entry {
    let label = Label {
        tags: Box::new(["car:42".into(), "route:car".into()]),
        url: format!("shop.example:8080{PATH}").into(),
        app_time: Duration::from_millis(400),
        ..Label::default()
    };
    Entry::new(stored, &label)
}

fn key(n: u64) -> Key {
    let mut bytes = [0; 16];
    // The map looks at all bits: spread them as a digest would be.
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes[8..].copy_from_slice(&n.to_le_bytes());
    Key::from_bytes(bytes)
}

fn quiet_log() -> AccessLog {
    use larder::config::settings::{LogFormat, LogLevel};
    let log: &'static Log = Box::leak(Box::new(log::init(LogLevel::Error, LogFormat::Json, false)));
    // Asked only, never written to: the lines would end up between the figures.
    log.access(Duration::from_secs(1))
}

fn wants(log: &AccessLog, route: &RouteHandle) -> bool {
    log.wants(
        black_box(route),
        StatusCode::OK,
        Outcome::Hit,
        Duration::from_micros(80),
        false,
    )
}

/// A worker's proxy as the binary has it, with the answer to [`HEAD`] in memory.
fn proxy(config: &str, body_bytes: usize) -> Proxy {
    let settings = Arc::new(settings(config));
    let metrics = Metrics::new(1);
    let clock = Clock::system();
    let cache = Cache::new(64 << 20, "bench", 1 << 20);
    let target = Target::parse(PATH, Some(QUERY));
    let found = settings.routes.find(&Method::GET, &target);
    let Plan::Lookup(key) = found.rule.plan(&asked(&target, &request_fields()), &[]) else {
        panic!("the route stores");
    };
    let now = clock.now();
    let entry = Arc::new(entry_of(&stored_at(body_bytes, now)));
    cache.store(&key, entry, now);
    let handles = settings.routes.all().iter();
    let handles = handles.map(|rule| metrics.route(&rule.name, &rule.name));
    let identity = Arc::new(Identity::new(settings.identity.clone()));
    let snapshot = Snapshot::new(Arc::clone(&settings), identity, handles.collect(), None);
    let local = Arc::new(LocalLimits::new());
    local.set_replicas(NonZeroU32::MIN);
    Proxy::new(Rooms {
        shared: Arc::new(Shared::new(snapshot, clock)),
        cache,
        limiter: Limiter::new("bench", None, local),
        upstream: Upstream::new(settings.upstream.clone()),
        recorder: metrics.recorder(0),
    })
}
