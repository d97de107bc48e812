//! People at the demo shop: many clients over its routes, through larder, as a markdown table.
//!
//! Without `--url` it starts the demo app in this process and the optimised larder with the
//! repository's `proxy.yaml` (or `--config FILE`) in front; `REDIS_URL` is passed on. It speaks its
//! own small HTTP/1.1, so that a thousand clients leave the machine to what is measured. It compares
//! larder with nobody: that is `peers`.

use crate::wire::{Answer, Connection};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use larder::demo::{self, DemoOptions};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Requests of one user before the client goes on as another: below the tier's 120 a minute.
const REQUESTS_A_USER: u64 = 100;
/// One booking so often, over all clients; each purges the fleet.
const BOOKING_EVERY: Duration = Duration::from_secs(10);
/// Longest wait for larder and the app to be there.
const START_MAX: Duration = Duration::from_secs(20);
/// Used where the repository has no `proxy.yaml`.
const FALLBACK_CONFIG: &str = r#"
listen: "127.0.0.1:${PORT}"
upstream: http://localhost:3000
identity: { jwt: { secret: "${SUPABASE_JWT_SECRET}" }, user: sub }
routes:
  - { name: fleet, path: /api/fleet, ttl: 5m, override: true, key: { query: [location, page, sort] }, tags: [fleet] }
  - { name: availability, path: "/api/cars/{id}/availability", ttl: 30s, key: { query: [from, to] }, tags: ["car:{id}"] }
  - { name: car, path: "/api/cars/{id}", ttl: 10m, tags: ["car:{id}"] }
  - { name: session, path: /api/auth/session, ttl: 5m, key: { per: token } }
  - { name: booking, path: /api/bookings, methods: [POST], purge: [fleet, "car:{request.carId}"] }
admin: { listen: 127.0.0.1:9800 }
"#;

/// Runs `people` or `closed`, whichever the arguments name.
pub fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let options = match Options::read(arguments) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!(
                "{problem}\nusage: load people|closed [--clients N] [--seconds N] [--url URL --app URL] [--config FILE] [--check]"
            );
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(measure(&options)))
    {
        Ok(missed) if missed.is_empty() || !options.check => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(problem) => {
            eprintln!("the measurement failed: {problem}");
            ExitCode::from(70)
        }
    }
}

struct Options {
    people: bool,
    clients: usize,
    seconds: u64,
    url: Option<SocketAddr>,
    app: Option<SocketAddr>,
    config: Option<String>,
    check: bool,
}

impl Options {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            people: true,
            clients: 1000,
            seconds: 30,
            url: None,
            app: None,
            config: None,
            check: false,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "people" => options.people = true,
                "closed" => options.people = false,
                "--clients" => options.clients = number(&value()?)?.max(1) as usize,
                "--seconds" => options.seconds = number(&value()?)?.max(1),
                "--url" => options.url = Some(address(&value()?)?),
                "--app" => options.app = Some(address(&value()?)?),
                "--config" => options.config = Some(value()?),
                "--check" => options.check = true,
                // Cargo says so to every benchmark.
                "--bench" => {}
                other => return Err(format!("unknown: {other}")),
            }
        }
        if options.url.is_some() != options.app.is_some() {
            return Err("--url and --app belong together".into());
        }
        Ok(options)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.replace('_', "")
        .parse()
        .map_err(|_| format!("{text} is no number"))
}

fn address(url: &str) -> Result<SocketAddr, String> {
    let bare = url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .replace("localhost", "127.0.0.1");
    bare.parse()
        .map_err(|_| format!("{url} is not http://ADDRESS:PORT"))
}

/// Runs it all and gives the goals that were missed.
async fn measure(options: &Options) -> Result<Vec<String>, String> {
    let (site, app, _larder) = match (options.url, options.app) {
        (Some(site), Some(app)) => (site, app, None),
        _ => {
            let (site, app, larder) = start(options.config.as_deref()).await?;
            (site, app, Some(larder))
        }
    };
    let before = app_requests(app).await?;
    let started = Instant::now();
    let end = started + Duration::from_secs(options.seconds);
    let key = Arc::new(EncodingKey::from_secret(secret().as_bytes()));
    let mut clients = JoinSet::new();
    for client in 0..options.clients {
        clients.spawn(visit(client, site, options.people, end, key.clone()));
    }
    clients.spawn(book(site, end, key));
    let mut total = Tally::default();
    while let Some(tally) = clients.join_next().await {
        total.add(tally.map_err(|error| error.to_string())?);
    }
    let seconds = started.elapsed().as_secs_f64();
    let at_app = app_requests(app).await?.saturating_sub(before);
    Ok(report(options, total, at_app, seconds))
}

/// What one client saw. Times are microseconds.
#[derive(Default)]
struct Tally {
    hits: Vec<u32>,
    misses: Vec<u32>,
    limited: u64,
    errors: Vec<String>,
    error_count: u64,
}

impl Tally {
    const ERRORS_KEPT: usize = 5;

    fn add(&mut self, other: Self) {
        self.hits.extend(other.hits);
        self.misses.extend(other.misses);
        self.limited += other.limited;
        self.error_count += other.error_count;
        self.errors.extend(other.errors);
        self.errors.truncate(Self::ERRORS_KEPT);
    }

    fn take(&mut self, what: &str, answer: Result<Answer, String>, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        match answer {
            Ok(answer) if answer.status == 429 => self.limited += 1,
            Ok(answer) if answer.status < 400 && answer.hit => self.hits.push(micros),
            Ok(answer) if answer.status < 400 => self.misses.push(micros),
            Ok(answer) => self.fail(format!("{what}: {}", answer.status)),
            Err(error) => self.fail(format!("{what}: {error}")),
        }
    }

    fn fail(&mut self, error: String) {
        self.error_count += 1;
        if self.errors.len() < Self::ERRORS_KEPT {
            self.errors.push(error);
        }
    }
}

/// One client: asks, waits for the answer, pauses as people do, asks again.
async fn visit(
    client: usize,
    site: SocketAddr,
    people: bool,
    end: Instant,
    key: Arc<EncodingKey>,
) -> Tally {
    let mut random = fastrand::Rng::with_seed(client as u64);
    let mut tally = Tally::default();
    let mut connection = Connection::new(site, client);
    let mut asked = 0;
    let mut token = String::new();
    if people {
        // People do not arrive at one stroke.
        tokio::time::sleep(Duration::from_millis(random.u64(0..500))).await;
    }
    while Instant::now() < end {
        if asked % REQUESTS_A_USER == 0 {
            token = token_of(&format!("load-{client}-{}", asked / REQUESTS_A_USER), &key);
        }
        asked += 1;
        let target = target(&mut random);
        let started = Instant::now();
        let answer = connection.ask("GET", &target, &token, "").await;
        tally.take(&target, answer, started.elapsed());
        if people {
            tokio::time::sleep(Duration::from_millis(random.u64(100..500))).await;
        } else if tally.error_count > 0 {
            // A refused connection must not turn into a loop that measures nothing.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tally
}

/// Now and then somebody books, which purges a car and the fleet.
async fn book(site: SocketAddr, end: Instant, key: Arc<EncodingKey>) -> Tally {
    let mut tally = Tally::default();
    let mut number = 0;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(BOOKING_EVERY.min(left)).await;
        if Instant::now() >= end {
            return tally;
        }
        number += 1;
        let token = token_of(&format!("booker-{number}"), &key);
        let started = Instant::now();
        let body = format!("{{\"carId\":{number}}}");
        let answer = Connection::new(site, number)
            .ask("POST", "/api/bookings", &token, &body)
            .await;
        tally.take("/api/bookings", answer, started.elapsed());
    }
}

/// What visitors look at: the fleet first, then cars, the well-known ones more often.
fn target(random: &mut fastrand::Rng) -> String {
    const PLACES: [&str; 4] = ["Berlin", "Hamburg", "Munich", "Cologne"];
    let car = |random: &mut fastrand::Rng| 1 + random.u32(0..100).min(random.u32(0..100));
    match random.u32(0..100) {
        0..15 => "/api/fleet?page=1".into(),
        15..23 => format!("/api/fleet?page={}", 1 + random.u32(0..3)),
        23..30 => format!(
            "/api/fleet?location={}&sort=price",
            PLACES[random.usize(0..PLACES.len())]
        ),
        30..55 => format!(
            "/api/cars/{}/availability?from=2026-07-01&to=2026-07-07",
            car(random)
        ),
        55..91 => format!("/api/cars/{}", car(random)),
        _ => "/api/auth/session".into(),
    }
}

fn secret() -> String {
    std::env::var("SUPABASE_JWT_SECRET").unwrap_or_else(|_| demo::DEFAULT_JWT_SECRET.into())
}

fn token_of(user: &str, key: &EncodingKey) -> String {
    let now = larder::clock::Clock::system().now().as_secs();
    let claims = serde_json::json!({
        "sub": user, "iat": now, "exp": now + 3600, "jti": user, "app_metadata": { "role": "customer" },
    });
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, key).unwrap_or_default()
}

async fn app_requests(app: SocketAddr) -> Result<u64, String> {
    let answer = Connection::new(app, 0)
        .ask("GET", "/demo/counters", "", "")
        .await?;
    let counters: serde_json::Value =
        serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    counters["total"]
        .as_u64()
        .ok_or("the app tells no count".into())
}

/// larder as a child; it ends with this value.
/// larder and the file that it watches; both are gone when this is dropped.
struct Running(Child, std::path::PathBuf);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(&self.1);
    }
}

async fn start(config: Option<&str>) -> Result<(SocketAddr, SocketAddr, Running), String> {
    let text = |error: std::io::Error| error.to_string();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .map_err(text)?;
    let app = listener.local_addr().map_err(text)?;
    let options = DemoOptions {
        jwt_secret: larder::secret::Secret::new(secret()),
        ..DemoOptions::from_env()
    };
    tokio::spawn(demo::serve(listener, options, std::future::pending()));

    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proxy.yaml");
    let yaml = match std::fs::read_to_string(config.unwrap_or(root)) {
        Ok(yaml) => yaml,
        Err(error) if config.is_some() => return Err(text(error)),
        Err(_) => FALLBACK_CONFIG.into(),
    };
    let [port, admin] = [free_port().map_err(text)?, free_port().map_err(text)?];
    let yaml = yaml
        .replace("http://localhost:3000", &format!("http://{app}"))
        .replace("127.0.0.1:9800", &format!("127.0.0.1:{admin}"));
    let file = std::env::temp_dir().join(format!("larder-load-{}.yaml", std::process::id()));
    std::fs::write(&file, yaml).map_err(text)?;
    let child = Command::new(crate::servers::larder_binary())
        .arg("run")
        .arg("-c")
        .arg(&file)
        .env("PORT", port.to_string())
        .env("SUPABASE_JWT_SECRET", secret())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(text)?;
    let larder = Running(child, file);
    let site = SocketAddr::from(([127, 0, 0, 1], port));
    let started = Instant::now();
    loop {
        if Connection::new(site, 0)
            .ask("GET", "/api/health", "", "")
            .await
            .is_ok_and(|answer| answer.status == 200)
        {
            break;
        }
        if started.elapsed() > START_MAX {
            return Err("larder does not answer".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((site, app, larder))
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Prints the table and gives the goals that were missed.
fn report(options: &Options, mut total: Tally, at_app: u64, seconds: f64) -> Vec<String> {
    total.hits.sort_unstable();
    total.misses.sort_unstable();
    let answered = (total.hits.len() + total.misses.len()) as u64;
    let requests = answered + total.limited + total.error_count;
    let share = |part: u64, whole: u64| {
        if whole == 0 {
            0.0
        } else {
            100.0 * part as f64 / whole as f64
        }
    };
    let hit_rate = share(total.hits.len() as u64, answered);
    let saved = 100.0 - share(at_app, requests);
    let name = if options.people {
        "people (pauses of 100 to 500 ms)"
    } else {
        "closed loop"
    };
    println!("| {name}, {} clients, {seconds:.0} s | |", options.clients);
    println!("|---|---|");
    println!(
        "| requests | {requests} ({:.0} a second) |",
        requests as f64 / seconds
    );
    println!("| errors | {} |", total.error_count);
    println!("| refused by limits (429) | {} |", total.limited);
    println!("| hit rate | {hit_rate:.1} % |");
    println!("| hits p50 / p95 / p99 | {} |", percentiles(&total.hits));
    println!(
        "| misses p50 / p95 / p99 | {} |",
        percentiles(&total.misses)
    );
    println!("| app requests, without cache | {requests} |");
    println!("| app requests, with cache | {at_app} ({saved:.1} % fewer) |");
    for error in &total.errors {
        println!("\nerror: {error}");
    }
    let mut missed = Vec::new();
    let mut goal = |met: bool, goal: &str| {
        if !met {
            missed.push(goal.to_owned());
        }
    };
    goal(requests > 0 && total.error_count == 0, "0 errors");
    if options.people {
        goal(total.limited == 0, "nobody refused");
        goal(hit_rate >= 87.0, "hit rate of at least 87 %");
        goal(
            percentile(&total.hits, 95) < 45_000,
            "p95 of hits below 45 ms",
        );
        goal(saved >= 70.0, "at least 70 % fewer app requests");
    }
    for goal in &missed {
        println!("\nmissed: {goal}");
    }
    missed
}

fn percentile(sorted: &[u32], percent: usize) -> u32 {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0)
}

fn percentiles(sorted: &[u32]) -> String {
    let millis = |percent| format!("{:.2}", f64::from(percentile(sorted, percent)) / 1000.0);
    format!("{} / {} / {} ms", millis(50), millis(95), millis(99))
}
