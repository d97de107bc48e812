//! How Redis is, looked at in the background: how far it is, how busy we keep it, what it says of
//! itself (`INFO`), and which commands took it long (`SLOWLOG`).
//!
//! One task a process asks; everybody else reads what it last saw. It changes nothing.

use super::info::Info;
use super::{Node, Outage, Redis};
use crate::clock::Clock;
use crate::config::redis_url::Address;
use crate::semantics::Timestamp;
use arc_swap::ArcSwap;
use redis::{Value, cmd};
use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at how busy and how far it is.
pub const LOOK: Duration = Duration::from_millis(500);
/// Between two questions of what it says of itself.
pub const QUESTION: Duration = Duration::from_secs(10);
/// Where the question was refused it is asked again after this: each refusal is a line in ACL LOG.
const REFUSED_PAUSE: Duration = Duration::from_secs(3_600);
/// Entries of SLOWLOG that are read at a time, and kept.
pub const SLOW_MAX: usize = 32;
/// Samples of size and traffic that are kept: an hour's.
const SAMPLES_MAX: usize = 360;
/// Round trips that make the baseline: the shortest of so many at the start.
const BASELINE_TRIPS: usize = 4;
/// So many times the baseline is far, where it is also longer than [`FAR_MIN`].
const FAR_FACTOR: u32 = 5;
/// No shorter round trip is worth a word.
const FAR_MIN: Duration = Duration::from_millis(5);
/// Looks in a row after which a round trip that was far, or is no longer, is told.
const LOOKS_IN_A_ROW: u32 = 3;
/// Share of the commands there may be, from which on the pool is nearly exhausted.
const BUSY: f64 = 0.8;
/// Share at or below which it is not any more.
const CALM: f64 = 0.6;

/// What was last seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it says of itself, of several servers all primaries together; `None` before it has said anything.
    pub info: Option<Info>,
    /// A PING and back, lately.
    pub round_trip: Option<Duration>,
    /// The shortest at the start of this process.
    pub baseline: Option<Duration>,
    /// The largest share of the commands there may be that was under way since the look before; 1.0 where
    /// one was turned away.
    pub utilization: f64,
    /// Commands that took it long.
    pub slow: Slow,
    /// Its size over the last hour, oldest first.
    pub samples: VecDeque<Sample>,
}

/// What SLOWLOG says.
#[derive(Clone, Debug, Default)]
pub struct Slow {
    /// Whether it may be asked; `None` while it was not.
    pub readable: Option<bool>,
    /// Since this process began.
    pub total: u64,
    /// The last of them, newest first.
    pub last: Vec<SlowCommand>,
}

/// One entry of SLOWLOG; its arguments are not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowCommand {
    /// Its number there.
    pub id: u64,
    /// When it ran, in seconds since 1970 by Redis's clock.
    pub at: u64,
    /// How long it ran.
    pub took: Duration,
    /// Its name alone.
    pub command: String,
}

/// How large Redis was at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When, by our clock.
    pub at: Timestamp,
    /// `used_memory`
    pub used_bytes: u64,
    /// Keys in all databases.
    pub keys: u64,
    /// Commands of all its clients since it came up.
    pub commands: u64,
    /// Keys evicted since it came up.
    pub evicted: u64,
}

/// What was last seen, for all who want to know.
#[derive(Clone, Debug, Default)]
pub struct Vitals(Arc<ArcSwap<Report>>);

impl Vitals {
    /// What was last seen. Costs no question.
    #[must_use]
    pub fn report(&self) -> Arc<Report> {
        self.0.load_full()
    }

    /// Looks for as long as it is polled. `redis` asks; `all` gives every handle that commands go by;
    /// `clock` says when to ask again.
    pub async fn watch(
        &self,
        redis: &Redis,
        all: impl Fn() -> Vec<Redis>,
        clock: &Clock,
    ) -> Infallible {
        let mut report = Report::default();
        let mut trips = Trips::default();
        let mut was_busy = false;
        let mut asked: Option<Timestamp> = None;
        let mut refused: Option<Timestamp> = None;
        // Each server numbers its own.
        let mut slow: HashMap<Address, Slow> = HashMap::new();
        loop {
            let all = all();
            report.utilization = all.iter().map(Redis::utilization).fold(0.0, f64::max);
            if let Some(busy) = turned(was_busy, report.utilization) {
                was_busy = busy;
                let percent = (report.utilization * 100.0).round();
                match busy {
                    true => tracing::warn!(
                        percent,
                        "the pool to Redis is nearly exhausted: what finds no room is answered without Redis; raise redis.pool"
                    ),
                    false => tracing::info!(percent, "the pool to Redis has room again"),
                }
            }
            let status = redis.status();
            report.round_trip = all.iter().filter_map(|redis| redis.status().ping).min();
            if let Some(trip) = report.round_trip.filter(|_| status.connected) {
                let address = &*status.address;
                match trips.saw(trip) {
                    Some(Trip::Baseline(baseline)) => {
                        tracing::info!(redis = address, round_trip = ?baseline, "the way to Redis");
                    }
                    Some(Trip::Far { baseline }) => tracing::warn!(
                        redis = address,
                        round_trip = ?trip,
                        ?baseline,
                        "Redis has become far: its round trip is several times what it was at the start"
                    ),
                    Some(Trip::Near) => {
                        tracing::info!(redis = address, round_trip = ?trip, "Redis is as near as it was");
                    }
                    None => {}
                }
            }
            report.baseline = trips.baseline;
            let now = clock.now();
            let is_due =
                |last: Option<Timestamp>, pause| last.is_none_or(|at| now.since(at) >= pause);
            if redis.is_up() && is_due(asked, QUESTION) {
                asked = Some(now);
                if let Some(info) = redis.info().await {
                    report.samples.extend(sample(&info, now));
                    report.info = Some(info);
                    while report.samples.len() > SAMPLES_MAX {
                        report.samples.pop_front();
                    }
                }
                if is_due(refused, REFUSED_PAUSE) {
                    let primaries = redis.primaries();
                    slow.retain(|address, _| {
                        primaries.iter().any(|node| node.address() == address)
                    });
                    let mut denied = false;
                    for node in &primaries {
                        let its = slow.entry(node.address().clone()).or_default();
                        let before = its.total;
                        denied |= its.ask(node).await == Err(Outage::Forbidden);
                        report.slow.total += its.total - before;
                    }
                    report.slow.show(slow.values());
                    refused = denied.then_some(now);
                }
            }
            self.0.store(Arc::new(report.clone()));
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whether the pool has become busy, or calm, where that is a change.
fn turned(was_busy: bool, utilization: f64) -> Option<bool> {
    match was_busy {
        false if utilization >= BUSY => Some(true),
        true if utilization <= CALM => Some(false),
        _ => None,
    }
}

fn sample(info: &Info, now: Timestamp) -> Option<Sample> {
    Some(Sample {
        at: now,
        used_bytes: info.number("used_memory")?,
        keys: info.keys()?,
        commands: info.number("total_commands_processed").unwrap_or(0),
        evicted: info.number("evicted_keys").unwrap_or(0),
    })
}

/// What a round trip tells that is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trip {
    /// There is a baseline now, this one.
    Baseline(Duration),
    /// Far, where it was not.
    Far {
        /// How near it was at the start.
        baseline: Duration,
    },
    /// No longer far.
    Near,
}

/// Round trips beside those of the start.
#[derive(Debug, Default)]
struct Trips {
    first: Vec<Duration>,
    baseline: Option<Duration>,
    is_far: bool,
    /// Looks in a row that say otherwise.
    otherwise: u32,
}

impl Trips {
    fn saw(&mut self, trip: Duration) -> Option<Trip> {
        let Some(baseline) = self.baseline else {
            self.first.push(trip);
            if self.first.len() < BASELINE_TRIPS {
                return None;
            }
            self.baseline = self.first.iter().min().copied();
            return self.baseline.map(Trip::Baseline);
        };
        let far = trip > FAR_MIN && trip > baseline * FAR_FACTOR;
        self.otherwise = if far == self.is_far {
            0
        } else {
            self.otherwise + 1
        };
        if self.otherwise < LOOKS_IN_A_ROW {
            return None;
        }
        (self.is_far, self.otherwise) = (far, 0);
        Some(if far {
            Trip::Far { baseline }
        } else {
            Trip::Near
        })
    }
}

impl Slow {
    /// What these say, as one; the total is counted by who asks, since a server that goes takes nothing
    /// of it away.
    fn show<'a>(&mut self, each: impl Iterator<Item = &'a Self> + Clone) {
        self.readable = each.clone().filter_map(|slow| slow.readable).min();
        self.last = each.flat_map(|slow| &slow.last).cloned().collect();
        self.last.sort_by_key(|slow| Reverse(slow.at));
        self.last.truncate(SLOW_MAX);
    }

    /// Asks for what is new.
    async fn ask(&mut self, redis: &Node) -> Result<(), Outage> {
        let mut get = cmd("SLOWLOG");
        get.arg("GET").arg(SLOW_MAX);
        let reply = redis.query("slowlog", &get).await;
        match &reply {
            Err(Outage::Forbidden) => self.readable = Some(false),
            Err(_) => {}
            Ok(reply) => {
                let entries = entries(reply);
                if let Some(worst) = self.take(entries).into_iter().max_by_key(|slow| slow.took) {
                    tracing::warn!(
                        command = worst.command,
                        took = ?worst.took,
                        total = self.total,
                        "a command took Redis long (SLOWLOG)"
                    );
                }
            }
        }
        reply.map(drop)
    }

    /// Takes up what SLOWLOG says, newest first; gives what has not been there before. What was there at
    /// the first look is nobody's news.
    fn take(&mut self, entries: Vec<SlowCommand>) -> Vec<SlowCommand> {
        let is_first = self.readable != Some(true);
        self.readable = Some(true);
        let newest = self.last.first().map(|slow| slow.id);
        // A server that was started anew counts from the beginning.
        let began_anew = entries.first().map(|slow| slow.id) < newest;
        let new: Vec<SlowCommand> = entries
            .iter()
            .filter(|slow| !is_first && (began_anew || newest.is_none_or(|id| slow.id > id)))
            .cloned()
            .collect();
        self.total += new.len() as u64;
        // Kept over SLOWLOG RESET, for its numbers go on.
        if !entries.is_empty() {
            self.last = entries;
        }
        new
    }
}

/// The answer to SLOWLOG GET: number, time, microseconds, the command with its arguments, and more.
fn entries(reply: &Value) -> Vec<SlowCommand> {
    let Value::Array(entries) = reply else {
        return Vec::new();
    };
    let entry = |entry: &Value| {
        let Value::Array(parts) = entry else {
            return None;
        };
        let number = |at: usize| match parts.get(at) {
            Some(Value::Int(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let Some(Value::Array(words)) = parts.get(3) else {
            return None;
        };
        let name = match words.first() {
            Some(Value::BulkString(name)) => String::from_utf8_lossy(name),
            _ => return None,
        };
        // A name, whatever was sent in its place.
        let name = name.chars().filter(char::is_ascii_alphanumeric).take(32);
        Some(SlowCommand {
            id: number(0)?,
            at: number(1)?,
            took: Duration::from_micros(number(2)?),
            command: name.collect::<String>().to_ascii_uppercase(),
        })
    };
    entries.iter().take(SLOW_MAX).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_busy_from_eighty_per_cent_until_it_is_clearly_not() {
        assert_eq!(turned(false, 0.79), None);
        assert_eq!(turned(false, 0.8), Some(true));
        assert_eq!(turned(true, 0.7), None);
        assert_eq!(turned(true, 0.6), Some(false));
    }

    #[test]
    fn a_way_that_has_become_long_is_told_once_and_so_is_its_end() {
        let millis = Duration::from_millis;
        let mut trips = Trips::default();
        for trip in [9, 2, 4] {
            assert_eq!(trips.saw(millis(trip)), None);
        }
        assert_eq!(trips.saw(millis(3)), Some(Trip::Baseline(millis(2))));
        assert_eq!(trips.baseline, Some(millis(2)));
        let told: Vec<_> = [9, 60, 60, 9, 60, 60, 60, 60, 60, 3, 3, 3, 3]
            .into_iter()
            .filter_map(|trip| trips.saw(millis(trip)))
            .collect();
        let baseline = millis(2);
        assert_eq!(told, [Trip::Far { baseline }, Trip::Near]);
        let mut near = Trips::default();
        for _ in 0..BASELINE_TRIPS {
            near.saw(Duration::from_micros(30));
        }
        for _ in 0..10 {
            assert_eq!(near.saw(millis(4)), None, "not worth a word");
        }
    }

    #[test]
    fn slow_commands_are_counted_once_from_the_first_look_on_and_over_a_restart() {
        let slow = |id: u64| SlowCommand {
            id,
            at: 1,
            took: Duration::from_millis(20),
            command: "GET".into(),
        };
        let mut seen = Slow::default();
        assert!(seen.take(vec![slow(7), slow(6)]).is_empty());
        assert_eq!(seen.take(vec![slow(9), slow(8), slow(7)]).len(), 2);
        assert!(seen.take(Vec::new()).is_empty(), "SLOWLOG RESET");
        assert_eq!(seen.take(vec![slow(10)]).len(), 1);
        assert_eq!(seen.take(vec![slow(0)]).len(), 1, "a server started anew");
        assert_eq!(seen.total, 4);
        let mut first = Slow::default();
        assert!(first.take(Vec::new()).is_empty());
        assert_eq!(first.take(vec![slow(0)]).len(), 1);
    }

    #[test]
    fn of_a_slow_command_its_name_is_read_and_nothing_else() {
        let text = |text: &str| Value::BulkString(text.into());
        let entry = Value::Array(vec![
            Value::Int(14),
            Value::Int(1_309_448_221),
            Value::Int(15_000),
            Value::Array(vec![text("get\n\u{1b}[31m"), text("secret")]),
            text("127.0.0.1:58217"),
            text("larder"),
        ]);
        let read = entries(&Value::Array(vec![entry, Value::Nil, Value::Array(vec![])]));
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].command, "GET31M");
        assert_eq!(read[0].took, Duration::from_millis(15));
        assert!(entries(&Value::Nil).is_empty());
    }
}
