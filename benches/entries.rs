//! What an entry in Redis costs, as it is, compressed, encrypted, and both: a table in Markdown.
//!
//! ```text
//! cargo bench --bench entries
//! ```
//!
//! Processor time of the one thread that asks, by the kernel's own count, so that waiting for Redis is
//! not in it; the least of several rounds, which go round among all forms, so that what else the
//! machine does meets all alike. `frame`: making and reading the bytes alone. `hit` and `store`: the
//! whole way to a redis-server on this machine and back, from the store's door. Content is JSON as an
//! API sends it: names that repeat, and ids and prices that do not.

#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};
use larder::cache::seal::Seal;
use larder::cache::{Cache, Entry, Label, Lookup, Position, codec};
use larder::clock::Clock;
use larder::config::{self, Environment, Source};
use larder::redis_client::{Redis, Share};
use larder::secret;
use larder::semantics::stored::Lifetime;
use larder::semantics::{Key, Sharing, Stored, Timestamp, Vary};
use larder::telemetry::Metrics;
use std::hint::black_box;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const KIB: usize = 1_024;
const SIZES: [usize; 3] = [KIB, 16 * KIB, 256 * KIB];
const FORMS: [(&str, bool, bool); 4] = [
    ("as it is", false, false),
    ("compressed", true, false),
    ("encrypted", false, true),
    ("both", true, true),
];
const ROUNDS: usize = 9;
/// Of one round.
const ROUND: Duration = Duration::from_millis(60);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(measure());
}

/// One line of the table.
#[derive(Clone, Copy)]
struct Line {
    stored_bytes: usize,
    /// Microseconds: frame made, frame read, hit, store.
    micros: [f64; 4],
}

async fn measure() {
    let redis = Server::start();
    let mut lines = Vec::new();
    for size in SIZES {
        let forms = FORMS.map(|(name, compress, encrypt)| Form::new(name, compress, encrypt, size));
        let mut stores = Vec::new();
        for form in &forms {
            stores.push(Store::open(redis.as_ref(), form, size).await);
        }
        let mut measured = forms.each_ref().map(|form| Line {
            stored_bytes: form.frame.len(),
            micros: [f64::INFINITY; 4],
        });
        for _ in 0..ROUNDS {
            for ((form, store), line) in forms.iter().zip(&stores).zip(&mut measured) {
                let micros = [
                    each(|| black_box(codec::encode(&form.entry, &KEY, 0, &form.seal))),
                    each(|| codec::decode(black_box(&form.frame), &KEY, 0, &form.seal).is_ok()),
                    store.hit().await,
                    store.store().await,
                ];
                for (least, now) in line.micros.iter_mut().zip(micros) {
                    *least = least.min(now);
                }
            }
        }
        lines.extend(
            forms
                .iter()
                .zip(measured)
                .map(|(form, line)| (size, form.name, line)),
        );
        for store in stores {
            store.follower.abort();
        }
    }
    println!(
        "| content | form | bytes in Redis | frame made, µs | frame read, µs | hit, µs | store, µs |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (size, name, line) in lines {
        let [made, read, hit, store] = line.micros;
        println!(
            "| {} KiB | {name} | {} | {made:.2} | {read:.2} | {hit:.1} | {store:.1} |",
            size / KIB,
            line.stored_bytes
        );
    }
}

const KEY: Key = Key::from_bytes([7; 16]);

/// One way to write an entry.
struct Form {
    name: &'static str,
    compress: Option<u64>,
    keys: Vec<secret::Key>,
    seal: Seal,
    entry: Entry,
    frame: Bytes,
}

impl Form {
    fn new(name: &'static str, compress: bool, encrypt: bool, size: usize) -> Self {
        let compress = compress.then_some(0);
        let keys = vec![secret::Key::new([7; 32]); usize::from(encrypt)];
        let seal = Seal::new(compress, &keys, 1 << 30);
        let entry = entry(size, Clock::system().now(), Position::default());
        let frame = codec::encode(&entry, &KEY, 0, &seal).into();
        Self {
            name,
            compress,
            keys,
            seal,
            entry,
            frame,
        }
    }
}

/// A store without memory, so that every hit is Redis's.
struct Store {
    cache: Cache,
    entry: Arc<Entry>,
    clock: Clock,
    follower: tokio::task::JoinHandle<()>,
}

impl Store {
    async fn open(server: Option<&Server>, form: &Form, size: usize) -> Self {
        let namespace = form.name.replace(' ', "-");
        let mut cache = Cache::new(0, &namespace, 1 << 20);
        cache.seal_with(form.compress, &form.keys);
        let mut follower = tokio::spawn(async {});
        if let Some(server) = server {
            let (redis, behind) = (server.connect(), server.connect());
            cache = cache.with_redis(redis.clone(), behind);
            let followed = cache.clone();
            follower = tokio::spawn(async move {
                let recorder = Metrics::new(1).recorder(0);
                followed
                    .follow_purges(&redis, &Clock::system(), &recorder)
                    .await;
            });
            while !cache.status().log_followed {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let clock = Clock::system();
        let store = Self {
            entry: Arc::new(entry(size, clock.now(), cache.position())),
            cache,
            clock,
            follower,
        };
        store.store().await;
        store
    }

    /// Microseconds of a hit; none where there is no Redis.
    async fn hit(&self) -> f64 {
        let request = HeaderMap::new();
        self.each(async || {
            let now = self.clock.now();
            let found = self.cache.lookup(&KEY, &request, now).await;
            assert!(matches!(found, Lookup::Found { .. }), "{found:?}");
        })
        .await
    }

    /// Microseconds of a store, until Redis has it.
    async fn store(&self) -> f64 {
        self.each(async || {
            let entry = Arc::clone(&self.entry);
            self.cache.store(&KEY, entry, self.clock.now());
            self.cache.flush(Duration::from_secs(1)).await;
        })
        .await
    }

    async fn each(&self, work: impl AsyncFn()) -> f64 {
        if !self.cache.status().log_followed {
            return 0.0;
        }
        let (began, mut done) = (processor(), 0_u32);
        let until = tokio::time::Instant::now() + ROUND;
        while tokio::time::Instant::now() < until || done == 0 {
            work().await;
            done += 1;
        }
        micros(processor() - began) / f64::from(done)
    }
}

/// Microseconds that `work` takes each time.
fn each<T>(mut work: impl FnMut() -> T) -> f64 {
    let (began, mut done) = (processor(), 0_u32);
    let until = tokio::time::Instant::now() + ROUND;
    while tokio::time::Instant::now() < until {
        for _ in 0..8 {
            black_box(work());
        }
        done += 8;
    }
    micros(processor() - began) / f64::from(done)
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

/// What this thread has had of a processor so far (proc(5), `schedstat`).
fn processor() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos = told.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

struct Server {
    port: u16,
    child: Child,
}

impl Server {
    /// `None` where no redis-server is installed.
    fn start() -> Option<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = socket.local_addr().expect("it has an address").port();
        drop(socket);
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self { port, child })
    }

    fn connect(&self) -> Redis {
        let source = Source {
            name: "bench".to_owned(),
            text: format!(
                "upstream: http://127.0.0.1:1\nredis: redis://127.0.0.1:{}\n",
                self.port
            ),
        };
        let loaded = config::load(source, &Environment::from_iter([]));
        let (settings, _) = loaded.expect("a configuration");
        let settings = settings.redis.expect("it names a Redis");
        Redis::start(
            &settings,
            &settings.url,
            Share::ONE,
            Metrics::new(1).recorder(0),
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn entry(body_bytes: usize, received: Timestamp, position: Position) -> Entry {
    let mut headers = HeaderMap::new();
    let fields = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "public, max-age=86400"),
        (ETAG, "\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
    ];
    for (name, value) in fields {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let stored = Stored {
        status: StatusCode::OK,
        headers,
        body: json(body_bytes).into(),
        elsewhere: 0,
        trailers: HeaderMap::new(),
        lifetime: Lifetime {
            received,
            initial_age: Duration::ZERO,
            fresh: Duration::from_secs(86_400),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            must_revalidate: false,
            no_cache: false,
            immutable: false,
        },
        vary: Vary::default(),
        sharing: Sharing::Everyone,
    };
    let label = Label {
        tags: Box::new(["cars".into(), "route:cars".into()]),
        url: "shop.example/api/cars?page=1".into(),
        app_time: Duration::from_millis(400),
        position,
    };
    Entry::new(&stored, &label)
}

/// A list of cars, cut to so many bytes.
fn json(bytes: usize) -> Vec<u8> {
    let mut chance = fastrand::Rng::with_seed(7);
    let makes = [
        "Volkswagen Golf",
        "Toyota Yaris",
        "BMW 320d",
        "Renault Clio",
        "Skoda Octavia",
    ];
    let cities = ["Athens", "Thessaloniki", "Heraklion", "Chania", "Rhodes"];
    let mut text = String::from("{\"data\":[");
    while text.len() < bytes {
        let car = serde_json::json!({
            "id": format!("{:08x}-{:04x}-{:012x}", chance.u32(..), chance.u16(..), chance.u64(..1 << 48)),
            "make": chance.choice(makes),
            "year": chance.u32(2014..2027),
            "pricePerDay": f64::from(chance.u32(2_500..18_000)) / 100.0,
            "currency": "EUR",
            "location": {
                "city": chance.choice(cities),
                "lat": 35.0 + chance.f64() * 5.0,
                "lng": 20.0 + chance.f64() * 8.0,
            },
            "available": chance.bool(),
            "features": ["gps", "bluetooth"],
            "imageUrl": format!("https://cdn.shop.example/cars/{:016x}.webp", chance.u64(..)),
            "updatedAt": format!("2026-11-{:02}T{:02}:{:02}:00Z", chance.u32(1..29), chance.u32(..24), chance.u32(..60)),
        });
        text.push_str(&car.to_string());
        text.push(',');
    }
    text.truncate(bytes);
    text.into_bytes()
}
