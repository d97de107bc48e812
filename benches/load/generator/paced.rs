//! Our own clients, each a process: requests at a fixed rate, whatever the answers do (`paced`), and
//! connections that are new each time (`handshakes`).
//!
//! A closed-loop client waits for a slow answer and so never asks while the server is slow. This one
//! counts from the moment at which a request was *meant* to be sent. It turns on its core instead of
//! sleeping: the shortest sleep is longer than an answer takes.

use super::Outcome;
use super::client::Client;
use crate::table::quantile;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};

/// Connections that share the paced requests.
const PACED_CONNECTIONS: usize = 64;
/// Handshakes under way at a time.
const HANDSHAKES_AT_A_TIME: usize = 16;

/// How long answers took at a fixed rate, in nanoseconds since the intended sending.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Delays {
    /// Half of the answers came within this.
    pub p50: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1,000.
    pub p999: u64,
    /// Answers.
    pub requests: u64,
    /// Requests without a 2xx.
    pub errors: u64,
}

/// `drive paced|handshakes ADDRESS PATH SECONDS [--rate N] [--certificate FILE]`; prints one line.
pub fn drive(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let mut positional = Vec::new();
    let (mut rate, mut certificate) = (None, None);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rate" => rate = arguments.next().and_then(|rate| rate.parse::<f64>().ok()),
            "--certificate" => certificate = arguments.next().map(PathBuf::from),
            _ => positional.push(argument),
        }
    }
    let [kind, address, path, seconds] = positional.as_slice() else {
        return Err("drive paced|handshakes ADDRESS PATH SECONDS".into());
    };
    let server: SocketAddr = address.parse().map_err(|_| "no address")?;
    let length = Duration::from_secs_f64(seconds.parse().map_err(|_| "no number of seconds")?);
    let client = Client::new(server, certificate.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let line = match (kind.as_str(), rate) {
        ("paced", Some(rate)) => {
            let delays = LocalSet::new().block_on(&runtime, paced(client, path, rate, length))?;
            print_delays(&delays)
        }
        ("handshakes", _) => {
            print_outcome(&runtime.block_on(handshakes(client, server, path, length)))
        }
        _ => return Err("drive paced needs --rate; the other kind is handshakes".into()),
    };
    println!("{line}");
    Ok(())
}

struct Pace {
    due: RefCell<VecDeque<Instant>>,
    some: Notify,
    over: Cell<bool>,
    delays: RefCell<Vec<u64>>,
    errors: Cell<u64>,
}

async fn paced(client: Client, path: &str, rate: f64, length: Duration) -> Result<Delays, String> {
    let pace = Rc::new(Pace {
        due: RefCell::default(),
        some: Notify::new(),
        over: Cell::new(false),
        delays: RefCell::default(),
        errors: Cell::new(0),
    });
    let mut askers = Vec::new();
    for _ in 0..PACED_CONNECTIONS {
        let mut connection = client.connect().await?;
        let (pace, path) = (pace.clone(), path.to_owned());
        askers.push(tokio::task::spawn_local(async move {
            loop {
                let due = pace.due.borrow_mut().pop_front();
                let Some(due) = due else {
                    if pace.over.get() {
                        return;
                    }
                    pace.some.notified().await;
                    continue;
                };
                match connection.get(&path).await {
                    Ok((200..300, _)) => {
                        let took = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
                        pace.delays.borrow_mut().push(took);
                    }
                    Ok(_) => pace.errors.set(pace.errors.get() + 1),
                    Err(_) => {
                        pace.errors.set(pace.errors.get() + 1);
                        return;
                    }
                }
            }
        }));
    }
    let began = Instant::now();
    let between = Duration::from_secs_f64(1.0 / rate.max(1.0));
    let mut due = began;
    while due < began + length {
        while due <= Instant::now() {
            pace.due.borrow_mut().push_back(due);
            pace.some.notify_one();
            due += between;
        }
        tokio::task::yield_now().await;
    }
    pace.over.set(true);
    pace.some.notify_waiters();
    for asker in askers {
        // Whoever waits a second time is told a second time.
        while !asker.is_finished() {
            pace.some.notify_waiters();
            tokio::task::yield_now().await;
        }
    }
    let mut sorted = pace.delays.take();
    sorted.sort_unstable();
    Ok(Delays {
        p50: quantile(&sorted, 0.5),
        p99: quantile(&sorted, 0.99),
        p999: quantile(&sorted, 0.999),
        requests: sorted.len() as u64,
        // What no connection was left to ask for counts, too.
        errors: pace.errors.get() + pace.due.borrow().len() as u64,
    })
}

async fn handshakes(client: Client, server: SocketAddr, path: &str, length: Duration) -> Outcome {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    let began = Instant::now();
    let mut askers = JoinSet::new();
    for _ in 0..HANDSHAKES_AT_A_TIME {
        let (client, request) = (client.clone(), request.clone());
        askers.spawn(async move {
            let (mut done, mut errors) = (0, 0);
            while began.elapsed() < length {
                let asked = async {
                    let mut connection = client.connect().await?;
                    connection.ask(request.as_bytes()).await.map(|_| ())
                };
                match asked.await {
                    Ok(()) => done += 1,
                    Err(_) => errors += 1,
                }
            }
            (done, errors)
        });
    }
    let mut outcome = Outcome::default();
    while let Some(Ok((done, errors))) = askers.join_next().await {
        outcome.requests += done;
        outcome.errors += errors;
    }
    outcome.seconds = began.elapsed().as_secs_f64();
    outcome
}

/// What `drive paced` prints.
pub fn print_delays(delays: &Delays) -> String {
    format!(
        "{} {} {} {} {}",
        delays.p50, delays.p99, delays.p999, delays.requests, delays.errors
    )
}

/// What `drive handshakes` prints.
pub fn print_outcome(outcome: &Outcome) -> String {
    format!(
        "{} {} {} {}",
        outcome.requests, outcome.refused, outcome.errors, outcome.seconds
    )
}

/// Reads what `drive paced` prints.
pub fn parse_delays(line: &str) -> Option<Delays> {
    let numbers: Option<Vec<u64>> = line.split_whitespace().map(|n| n.parse().ok()).collect();
    let [p50, p99, p999, requests, errors] = numbers?[..] else {
        return None;
    };
    Some(Delays {
        p50,
        p99,
        p999,
        requests,
        errors,
    })
}

/// Reads what `drive handshakes` prints.
pub fn parse_outcome(line: &str) -> Option<Outcome> {
    let numbers: Vec<&str> = line.split_whitespace().collect();
    let [requests, refused, errors, seconds] = numbers[..] else {
        return None;
    };
    Some(Outcome {
        requests: requests.parse().ok()?,
        refused: refused.parse().ok()?,
        errors: errors.parse().ok()?,
        seconds: seconds.parse().ok()?,
    })
}
