//! The access log and the log of events: pretty or JSON lines, written by a thread of their own.
//!
//! Whoever logs hands over and goes on: the queue is bounded, what does not fit is dropped and
//! counted, and a reader of our output that stands still stops nobody. No line holds a query, a
//! cookie or a token.

mod lines;

use super::metrics::{Metrics, ROUTES_MAX, RouteHandle};
use crate::clock::Clock;
use crate::config::settings::{LogFormat, LogLevel};
use crate::semantics::{Outcome, Reason, Timestamp};
use http::{Method, StatusCode};
use lines::Colour;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Lines that may wait for the writer; more are dropped.
pub const QUEUE_MAX: usize = 10_000;
/// How long the writer rests after it has written: what comes meanwhile wakes nobody and leaves
/// together. A line that comes out of silence is written at once.
const GATHER: Duration = Duration::from_millis(20);
/// Lines are handed to the operating system together up to so many bytes.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// On a terminal every request has its line up to this one; then the stream calms down.
const FIRST_REQUESTS: u32 = 20;
/// Between two summary lines on a terminal.
const SUMMARY_EVERY: Duration = Duration::from_secs(10);
/// One hit, or repeated refusal, in so many is logged as JSON.
const SAMPLE: u32 = 100;

/// Takes records without ever waiting; what does not fit is dropped and counted.
///
/// The default one writes nothing.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<Arc<Access>>);

#[derive(Debug)]
struct Access {
    queue: Queue,
    clock: Clock,
    slow: Duration,
    live: bool,
    /// Requests seen, up to [`FIRST_REQUESTS`].
    seen: AtomicU32,
    /// By route: [`FIRST_MISS`] and [`FIRST_HIT`] once they are logged.
    first: Box<[AtomicU8]>,
}

const FIRST_MISS: u8 = 1;
const FIRST_HIT: u8 = 2;

/// One request, as logged. Never holds a query, cookie or token.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// Method.
    pub method: Method,
    /// Path without query.
    pub path: Box<str>,
    /// Route name.
    pub route: Arc<str>,
    /// Route path (`http.route`), as [`RouteHandle::path`] has it.
    pub http_route: Arc<str>,
    /// Status sent.
    pub status: StatusCode,
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// To the head of the answer.
    pub duration: Duration,
    /// The limit that refused, if one did.
    pub limit: Option<String>,
    /// 32 hexadecimal digits.
    pub trace_id: Box<str>,
    /// The client's own `X-Request-Id`, where it brought one.
    pub request_id: Option<Box<str>>,
    /// The client.
    pub client: IpAddr,
    /// Seconds of freshness left (hits) or given (stored misses).
    pub ttl: Option<i64>,
    /// What the app was asked or what was purged, for people: `purged car:42 (2)`.
    pub note: Option<String>,
}

impl AccessLog {
    /// Whether this record would be written: hits are sampled (the first miss and hit of each route,
    /// then one in a hundred; none on a terminal), and so are refusals that are `repeated`; errors and
    /// slow requests are never left out. Asked before a record is made, so that a hit costs nothing
    /// here.
    #[must_use]
    pub fn wants(
        &self,
        route: &RouteHandle,
        status: StatusCode,
        outcome: Outcome,
        duration: Duration,
        repeated: bool,
    ) -> bool {
        let Some(access) = &self.0 else {
            return false;
        };
        access.is_first(route, outcome)
            || status.is_server_error()
            || duration >= access.slow
            || access.is_chosen(status, outcome, repeated)
    }

    /// Hands a record to the writer.
    pub fn write(&self, record: AccessRecord) {
        if let Some(access) = &self.0 {
            let now = access.clock.now();
            access.queue.send(Item::Access(Box::new((record, now))));
        }
    }
}

impl Access {
    fn is_first(&self, route: &RouteHandle, outcome: Outcome) -> bool {
        let bit = match outcome {
            Outcome::Miss => FIRST_MISS,
            Outcome::Hit => FIRST_HIT,
            _ => return false,
        };
        let first = &self.first[route.index().min(ROUTES_MAX)];
        // Read before it is written: the line stays shared by all workers once the bit is set.
        first.load(Relaxed) & bit == 0 && first.fetch_or(bit, Relaxed) & bit == 0
    }

    fn is_chosen(&self, status: StatusCode, outcome: Outcome, repeated: bool) -> bool {
        if self.live {
            return self.seen.load(Relaxed) < FIRST_REQUESTS
                && self.seen.fetch_add(1, Relaxed) < FIRST_REQUESTS;
        }
        let one_of_many = match outcome {
            Outcome::Hit => !status.is_client_error(),
            Outcome::Refused => repeated,
            _ => false,
        };
        !one_of_many || fastrand::u32(..SAMPLE) == 0
    }
}

/// The log of this process: owns the thread that writes.
#[derive(Debug)]
pub struct Log {
    queue: Queue,
    /// Wakes the writer from its rest.
    writer: Option<Thread>,
    clock: Clock,
    level: reload::Handle<Targets, Registry>,
    style: Style,
}

/// What lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Style {
    /// One object a line, for machines.
    json: bool,
    /// A person looks on: first the requests, then a summary now and then.
    live: bool,
    colour: Colour,
}

/// Starts the log: once, as early as the configuration is known. Lines go to standard output; `color`
/// says whether pretty ones are coloured.
#[must_use]
pub fn init(level: LogLevel, format: LogFormat, color: bool) -> Log {
    let terminal = std::io::stdout().is_terminal();
    let pretty = match format {
        LogFormat::Auto => terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let style = Style {
        json: !pretty,
        live: pretty && terminal,
        colour: Colour(pretty && color),
    };
    let (log, subscriber) = start(level, style, Box::new(std::io::stdout()), Clock::system());
    // Only a second log of this process could be refused; the first one stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
    log
}

impl Log {
    /// Where the proxy hands its records; requests that take `slow` or longer are always logged.
    #[must_use]
    pub fn access(&self, slow: Duration) -> AccessLog {
        AccessLog(Some(Arc::new(Access {
            queue: self.queue.clone(),
            clock: self.clock.clone(),
            slow,
            live: self.style.live,
            seen: AtomicU32::new(0),
            first: (0..=ROUTES_MAX).map(|_| AtomicU8::new(0)).collect(),
        })))
    }

    /// On a terminal, sums `metrics` up every ten seconds from now on.
    pub fn summarize(&self, metrics: &Arc<Metrics>) {
        self.queue.send(Item::Summarize(Arc::clone(metrics)));
    }

    /// Changes the least severe level that is written.
    pub fn set_level(&self, level: LogLevel) {
        let _ = self.level.modify(|filter| *filter = targets(level));
    }

    /// Lines dropped since the start because the reader of our output was too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.dropped.load(Relaxed)
    }

    /// Waits until everything handed over so far is written, at most `bound`. Returns whether it is.
    pub fn flush(&self, bound: Duration) -> bool {
        let end = Instant::now() + bound;
        let (done, written) = sync_channel(1);
        // The queue may be full: asking for the flush must not wait longer than the flush itself.
        let mut item = Item::Flush(done);
        loop {
            match self.queue.sender.try_send(item) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < end => {
                    item = back;
                    std::thread::yield_now();
                }
                Err(_) => return false,
            }
        }
        if let Some(writer) = &self.writer {
            writer.unpark();
        }
        let left = end.saturating_duration_since(Instant::now());
        written.recv_timeout(left).is_ok()
    }
}

enum Item {
    Event(Vec<u8>),
    Access(Box<(AccessRecord, Timestamp)>),
    Summarize(Arc<Metrics>),
    Flush(SyncSender<()>),
}

#[derive(Clone, Debug)]
struct Queue {
    sender: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Item")
    }
}

impl Queue {
    fn send(&self, item: Item) {
        if self.sender.try_send(item).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

type Subscriber =
    tracing_subscriber::layer::Layered<Box<dyn Layer<Registry> + Send + Sync>, Registry>;

fn start(
    level: LogLevel,
    style: Style,
    out: Box<dyn Write + Send>,
    clock: Clock,
) -> (Log, Subscriber) {
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    let queue = Queue {
        sender,
        dropped: Arc::default(),
    };
    let writer = Writer {
        out,
        batch: Vec::new(),
        stamp: lines::Stamp::default(),
        style,
        first_misses: HashMap::new(),
        metrics: None,
        clock: clock.clone(),
    };
    // Without its thread the log is mute: every line counts as dropped, and nothing else changes.
    let thread = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writer.run(&receiver));
    let (filter, handle) = reload::Layer::new(targets(level));
    let events = tracing_subscriber::fmt::layer()
        .with_writer({
            let queue = queue.clone();
            move || EventWriter(queue.clone())
        })
        .with_timer(EventTime {
            clock: clock.clone(),
            json: style.json,
        });
    let events: Box<dyn Layer<Registry> + Send + Sync> = if style.json {
        events
            .json()
            .flatten_event(true)
            .with_filter(filter)
            .boxed()
    } else {
        events
            .compact()
            .with_target(false)
            // Colours are for the requests: asked for here without its `ansi` feature, `fmt` panics.
            .with_ansi(false)
            .with_filter(filter)
            .boxed()
    };
    let log = Log {
        queue,
        writer: thread.ok().map(|thread| thread.thread().clone()),
        clock,
        level: handle,
        style,
    };
    (log, tracing_subscriber::registry().with(events))
}

/// Our own lines at `level`; those of libraries only from warnings up.
fn targets(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target("larder", ours)
}

/// One event's line on its way to the queue; `fmt` writes each event whole.
struct EventWriter(Queue);

impl Write for EventWriter {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.send(Item::Event(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct EventTime {
    clock: Clock,
    json: bool,
}

impl tracing_subscriber::fmt::time::FormatTime for EventTime {
    fn format_time(
        &self,
        to: &mut tracing_subscriber::fmt::format::Writer<'_>,
    ) -> std::fmt::Result {
        let now = self.clock.now();
        if self.json {
            to.write_str(&lines::rfc3339(now))
        } else {
            write!(to, "  {}", lines::time_of_day(now))
        }
    }
}

/// What the thread holds.
struct Writer {
    out: Box<dyn Write + Send>,
    /// Lines on their way out.
    batch: Vec<u8>,
    stamp: lines::Stamp,
    style: Style,
    /// How long each route's first miss took: what its first hit is compared with.
    first_misses: HashMap<Arc<str>, Option<Duration>>,
    metrics: Option<(Arc<Metrics>, lines::Summary)>,
    clock: Clock,
}

impl Writer {
    /// Writes what has gathered, rests, and only where nothing came meanwhile waits to be woken: being
    /// woken for every line costs those who log more than the line.
    fn run(mut self, items: &Receiver<Item>) {
        let mut next = Instant::now() + SUMMARY_EVERY;
        loop {
            match items.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(item) => {
                    self.take(item);
                    while let Ok(item) = items.try_recv() {
                        self.take(item);
                    }
                    self.write();
                    std::thread::park_timeout(GATHER);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= next {
                next += SUMMARY_EVERY;
                self.summary();
            }
        }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Event(line) => self.batch.extend_from_slice(&line),
            Item::Access(record) => {
                let (record, at) = *record;
                self.line(&record, at);
            }
            Item::Summarize(metrics) => {
                let summary = lines::Summary::new(metrics.totals());
                self.metrics = self.style.live.then_some((metrics, summary));
            }
            Item::Flush(done) => {
                self.write();
                let _ = self.out.flush();
                let _ = done.try_send(());
            }
        }
        if self.batch.len() >= BATCH_BYTES_MAX {
            self.write();
        }
    }

    /// Lines that cannot be written (disk full, pipe closed) are lost, and nobody is told: there is
    /// nowhere left to say it.
    fn write(&mut self) {
        if !self.batch.is_empty() {
            drop(self.out.write_all(&self.batch));
            self.batch.clear();
        }
    }

    fn line(&mut self, record: &AccessRecord, at: Timestamp) {
        if self.style.json {
            return lines::json(&mut self.batch, &mut self.stamp, record, at);
        }
        let factor = self.factor(record);
        let line = lines::pretty(record, at, factor, self.style.colour);
        self.batch.extend_from_slice(line.as_bytes());
    }

    /// How many times faster a route's first hit is than its first miss. Said once a route.
    fn factor(&mut self, record: &AccessRecord) -> Option<f64> {
        match record.outcome {
            Outcome::Miss if self.first_misses.len() < ROUTES_MAX => {
                self.first_misses
                    .entry(Arc::clone(&record.route))
                    .or_insert(Some(record.duration));
                None
            }
            Outcome::Hit => {
                let miss = self.first_misses.get_mut(&record.route)?.take()?;
                Some(miss.as_secs_f64() / record.duration.as_secs_f64().max(1e-6))
            }
            _ => None,
        }
    }

    fn summary(&mut self) {
        let now = self.clock.now();
        let line = self.metrics.as_mut().and_then(|(metrics, summary)| {
            summary.line(metrics.totals(), SUMMARY_EVERY, now, self.style.colour)
        });
        if let Some(line) = line {
            self.batch.extend_from_slice(line.as_bytes());
            self.write();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// What was written.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    const JSON: Style = Style {
        json: true,
        live: false,
        colour: Colour(false),
    };
    const LIVE: Style = Style {
        json: false,
        live: true,
        colour: Colour(false),
    };

    fn log(style: Style, out: impl Write + Send + 'static) -> (Log, Subscriber) {
        let clock = Clock::manual(Timestamp::from_millis(43_447_000));
        start(LogLevel::Info, style, Box::new(out), clock)
    }

    fn record(outcome: Outcome, reason: Reason, micros: u64) -> AccessRecord {
        AccessRecord {
            method: Method::GET,
            path: "/api/fleet".into(),
            route: "fleet".into(),
            http_route: "/api/fleet".into(),
            status: StatusCode::OK,
            outcome,
            reason,
            duration: Duration::from_micros(micros),
            limit: None,
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            request_id: None,
            client: IpAddr::from([127, 0, 0, 1]),
            ttl: Some(300),
            note: None,
        }
    }

    #[test]
    fn the_first_hit_of_a_route_says_how_much_faster_it_was() {
        let page = Page::default();
        let (log, _events) = log(LIVE, page.clone());
        let access = log.access(Duration::from_millis(500));
        access.write(record(Outcome::Miss, Reason::Cold, 412_000));
        access.write(record(Outcome::Hit, Reason::Memory, 200));
        access.write(record(Outcome::Hit, Reason::Memory, 200));
        assert!(log.flush(Duration::from_secs(5)));
        let text = page.text();
        assert_eq!(text.matches("2,060× faster").count(), 1, "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn hits_are_sampled_and_trouble_never_is() {
        let (log, _events) = log(JSON, std::io::sink());
        let access = log.access(Duration::from_millis(500));
        let route = Metrics::new(0).route("fleet", "/api/fleet");
        let wants = |status, outcome, millis| {
            access.wants(
                &route,
                status,
                outcome,
                Duration::from_millis(millis),
                false,
            )
        };
        let hit = || wants(StatusCode::OK, Outcome::Hit, 1);
        assert!(hit(), "the first of a route");
        let logged = (0..10_000).filter(|_| hit()).count();
        assert!((20..400).contains(&logged), "{logged}");
        for _ in 0..100 {
            assert!(wants(StatusCode::BAD_GATEWAY, Outcome::Hit, 1));
            assert!(wants(StatusCode::NOT_FOUND, Outcome::Hit, 1));
            assert!(wants(StatusCode::OK, Outcome::Hit, 500));
            assert!(wants(StatusCode::OK, Outcome::Miss, 1));
        }
    }

    #[test]
    fn of_refusals_the_first_is_logged_and_the_rest_sampled() {
        let (log, _events) = log(JSON, std::io::sink());
        let access = log.access(Duration::from_millis(500));
        let route = Metrics::new(0).route("fleet", "/api/fleet");
        let refused = |repeated| {
            let (status, took) = (StatusCode::TOO_MANY_REQUESTS, Duration::from_millis(1));
            access.wants(&route, status, Outcome::Refused, took, repeated)
        };
        assert!((0..100).all(|_| refused(false)));
        let logged = (0..10_000).filter(|_| refused(true)).count();
        assert!((20..400).contains(&logged), "{logged}");
    }

    #[test]
    fn a_terminal_calms_down_after_the_first_requests() {
        let (log, _events) = log(LIVE, std::io::sink());
        let access = log.access(Duration::from_millis(500));
        let metrics = Metrics::new(0);
        let (fleet, cars) = (metrics.route("fleet", "/f"), metrics.route("cars", "/c"));
        let wants = |route, status, outcome| {
            access.wants(route, status, outcome, Duration::from_millis(1), false)
        };
        let logged = (0..100)
            .filter(|_| wants(&fleet, StatusCode::OK, Outcome::Bypass))
            .count();
        assert_eq!(logged, 20);
        assert!(
            wants(&cars, StatusCode::OK, Outcome::Miss),
            "a route's first miss"
        );
        assert!(wants(&cars, StatusCode::OK, Outcome::Hit), "and first hit");
        assert!(!wants(&cars, StatusCode::OK, Outcome::Hit));
        assert!(wants(&cars, StatusCode::BAD_GATEWAY, Outcome::Bypass));
    }

    #[test]
    fn events_and_requests_share_the_stream_and_the_level_moves() {
        let page = Page::default();
        let (log, events) = log(JSON, page.clone());
        tracing::subscriber::with_default(events, || {
            tracing::debug!("too fine");
            log.set_level(LogLevel::Debug);
            tracing::debug!(route = "a\nb", "now shown");
            tracing::info!(target: "hyper::client", "a library's");
        });
        log.access(Duration::ZERO)
            .write(record(Outcome::Hit, Reason::Redis, 900));
        assert!(log.flush(Duration::from_secs(5)));
        let text = page.text();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["message"], "now shown");
        assert_eq!(lines[0]["route"], "a\nb");
        assert_eq!(lines[1]["http.route"], "/api/fleet");
        assert_eq!(lines[1]["cache"], "hit");
        assert_eq!(lines[1]["reason"], "redis");
    }

    #[test]
    fn a_terminal_with_colours_has_events_too() {
        let page = Page::default();
        let style = Style {
            colour: Colour(true),
            ..LIVE
        };
        let (log, events) = log(style, page.clone());
        tracing::subscriber::with_default(events, || tracing::warn!("the app does not answer"));
        assert!(log.flush(Duration::from_secs(5)));
        let text = page.text();
        assert!(text.contains("WARN the app does not answer"), "{text}");
    }

    #[test]
    fn lines_that_come_while_the_writer_is_busy_leave_in_one_write() {
        /// Says that it writes, and then waits until it may.
        struct Slow(SyncSender<usize>, Receiver<()>);
        impl Write for Slow {
            fn write(&mut self, lines: &[u8]) -> std::io::Result<usize> {
                let count = lines.iter().filter(|byte| **byte == b'\n').count();
                let _ = self.0.send(count);
                let _ = self.1.recv();
                Ok(lines.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (tell, told) = sync_channel(4);
        let (allow, allowed) = sync_channel(4);
        let (log, _events) = log(JSON, Slow(tell, allowed));
        let access = log.access(Duration::ZERO);
        access.write(record(Outcome::Miss, Reason::Cold, 1));
        assert_eq!(told.recv(), Ok(1), "out of silence at once");
        for _ in 0..100 {
            access.write(record(Outcome::Miss, Reason::Cold, 1));
        }
        allow.send(()).unwrap();
        assert_eq!(told.recv(), Ok(100));
        allow.send(()).unwrap();
        assert!(log.flush(Duration::from_secs(5)));
    }

    #[test]
    fn a_reader_that_stands_still_stops_nobody() {
        /// Never finishes a line.
        struct Stuck(Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Ok(line.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = sync_channel(0);
        let (log, _events) = log(JSON, Stuck(stuck));
        let access = log.access(Duration::ZERO);
        let began = Instant::now();
        for _ in 0..QUEUE_MAX + 500 {
            access.write(record(Outcome::Hit, Reason::Memory, 1));
        }
        assert!(began.elapsed() < Duration::from_secs(5));
        // The writer has some of them in its hands when it gets stuck.
        assert!((1..=500).contains(&log.dropped()), "{}", log.dropped());
        assert!(!log.flush(Duration::from_millis(50)));
        drop(release);
    }
}
