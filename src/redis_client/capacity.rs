//! How much room a cache needs in Redis, when there will be no more of it, and when one Redis is not
//! enough. Pure: numbers go in, a worksheet comes out.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What an entry has beside its content: its head in larder's format, about.
pub const HEAD_BYTES: u64 = 400;
/// What Redis has for a key beside its value: the name, the places in two tables, the headers.
pub const KEY_BYTES: u64 = 200;
/// What an empty Redis has.
const EMPTY_BYTES: u64 = 1 << 20;
/// So much of `maxmemory` may be in use before somebody should be told.
pub const FULL_FROM: f64 = 0.8;
/// Commands a second from which on a replica should take reads.
pub const REPLICA_FROM: f64 = 5_000.0;
/// Commands a second from which on one server is not enough.
pub const CLUSTER_FROM: f64 = 10_000.0;
/// Keys from which on they should be spread.
pub const SHARD_FROM: f64 = 100_000.0;
/// A shorter look says nothing about growth.
pub const SPAN_MIN: Duration = Duration::from_secs(60);
/// What grows so slowly that it is not full in ten years does not grow.
const HORIZON: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What is known, or planned.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Keys.
    pub keys: u64,
    /// Bytes in use by all of Redis.
    pub used_bytes: u64,
    /// Of them, what an empty one would use.
    pub empty_bytes: u64,
    /// `maxmemory`; 0 = none.
    pub max_bytes: u64,
    /// Whether keys make room for others once it is full.
    pub evicts: bool,
    /// Commands a second, where that is known.
    pub commands_per_second: Option<f64>,
    /// By how many bytes a second it grows, where it has been looked at long enough.
    pub growth_per_second: Option<f64>,
    /// Keys evicted a second.
    pub evicted_per_second: Option<f64>,
}

/// The worksheet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sheet {
    /// Keys.
    pub keys: u64,
    /// Average bytes of a key, with its name, its head and what Redis needs beside.
    pub bytes_per_key: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// `maxmemory`; 0 = none.
    pub max_bytes: u64,
    /// Share in use, 0.0 to 1.0; `None` where there is no bound.
    pub used_ratio: Option<f64>,
    /// Keys of this size that there is room for.
    pub keys_max: Option<u64>,
    /// `maxmemory` at which these keys use 80 %.
    pub max_bytes_advised: u64,
    /// Seconds until it is full at the present growth; 0 where it is; `None` where it does not grow, has
    /// no bound, or that is not known.
    pub full_in_seconds: Option<u64>,
    /// Whether growth is known at all.
    pub growth_known: bool,
    /// Bytes a second that it grows by.
    pub growth_per_second: Option<f64>,
    /// Whether keys make room for others once it is full.
    pub evicts: bool,
    /// Keys evicted a second.
    pub evicted_per_second: Option<f64>,
    /// When it is time for more than one Redis.
    pub triggers: Vec<Trigger>,
}

/// A bound from which on one Redis should be more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// `replica`, `shard` or `cluster`.
    pub what: String,
    /// Of what it speaks: `commands/s` or `keys`.
    pub of: String,
    /// How much there is; `None` where that is not known.
    pub now: Option<f64>,
    /// From how much on it is due.
    pub from: f64,
    /// Whether it is.
    pub due: bool,
}

impl Load {
    /// What is planned: so many keys with content of so many bytes each.
    #[must_use]
    pub fn planned(keys: u64, content_bytes: u64, max_bytes: u64) -> Self {
        let used = keys.saturating_mul(entry_bytes(content_bytes));
        Self {
            keys,
            used_bytes: used.saturating_add(EMPTY_BYTES),
            empty_bytes: EMPTY_BYTES,
            max_bytes,
            evicts: true,
            ..Self::default()
        }
    }

    /// The worksheet of it.
    #[must_use]
    pub fn sheet(&self) -> Sheet {
        let data = self.used_bytes.saturating_sub(self.empty_bytes);
        let bytes_per_key = data.checked_div(self.keys).unwrap_or(0);
        let room = self.max_bytes.saturating_sub(self.empty_bytes);
        let full_in_seconds = match (self.max_bytes, self.growth_per_second) {
            (0, _) => None,
            (max, _) if self.used_bytes >= max => Some(0),
            (max, Some(growth)) if growth > 0.0 => {
                let seconds = (max - self.used_bytes) as f64 / growth;
                (seconds < HORIZON.as_secs_f64()).then_some(seconds as u64)
            }
            _ => None,
        };
        let trigger = |what: &str, of: &str, now: Option<f64>, from| Trigger {
            what: what.to_owned(),
            of: of.to_owned(),
            now,
            from,
            due: now.is_some_and(|now| now > from),
        };
        let commands = self.commands_per_second;
        Sheet {
            keys: self.keys,
            bytes_per_key,
            used_bytes: self.used_bytes,
            max_bytes: self.max_bytes,
            used_ratio: (self.max_bytes > 0)
                .then(|| self.used_bytes as f64 / self.max_bytes as f64),
            keys_max: (self.max_bytes > 0)
                .then(|| room.checked_div(bytes_per_key))
                .flatten(),
            max_bytes_advised: (self.used_bytes as f64 / FULL_FROM) as u64,
            full_in_seconds,
            growth_known: self.growth_per_second.is_some(),
            growth_per_second: self.growth_per_second,
            evicts: self.evicts,
            evicted_per_second: self.evicted_per_second,
            triggers: vec![
                trigger("replica", "commands/s", commands, REPLICA_FROM),
                trigger("shard", "keys", Some(self.keys as f64), SHARD_FROM),
                trigger("cluster", "commands/s", commands, CLUSTER_FROM),
            ],
        }
    }
}

impl fmt::Display for Sheet {
    /// For people; without the date, which needs a clock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<14}{value}");
        let each = size(self.bytes_per_key);
        line(
            "keys",
            format!(
                "{}, {each} each with all that Redis needs for one",
                self.keys
            ),
        )?;
        let of = match self.used_ratio {
            Some(ratio) => format!(" of {} ({:.0} %)", size(self.max_bytes), ratio * 100.0),
            None => "; maxmemory is not set".to_owned(),
        };
        line("in use", format!("{}{of}", size(self.used_bytes)))?;
        if let Some(keys) = self.keys_max {
            line("room for", format!("{keys} keys of this size"))?;
        }
        let fifth = format!(
            "{} would leave a fifth of it free",
            size(self.max_bytes_advised)
        );
        line("maxmemory", fifth)?;
        if let Some(growth) = self.growth_per_second {
            let sign = if growth < 0.0 { "-" } else { "" };
            let hourly = (growth.abs() * 3_600.0) as u64;
            line("grows by", format!("{sign}{} an hour", size(hourly)))?;
        }
        if let Some(evicted) = self.evicted_per_second {
            line("evicts", format!("{evicted:.1} keys/s"))?;
        }
        for trigger in &self.triggers {
            let now = match trigger.now {
                Some(now) => format!("{now:.0} now"),
                None => "not known yet".to_owned(),
            };
            let due = if trigger.due { ": it is time" } else { "" };
            let from = format!("from {:.0} {}; {now}{due}", trigger.from, trigger.of);
            line(&trigger.what, from)?;
        }
        Ok(())
    }
}

/// `512 B`, `4.0 KiB`, `1.5 GiB`
fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// Bytes that Redis has for an entry with so much content.
#[must_use]
pub fn entry_bytes(content_bytes: u64) -> u64 {
    size_class(content_bytes.saturating_add(HEAD_BYTES)).saturating_add(KEY_BYTES)
}

/// What jemalloc, Redis's allocator, gives for so many bytes: four sizes between one power of two and
/// the next.
fn size_class(bytes: u64) -> u64 {
    if bytes <= 128 {
        return bytes.next_multiple_of(16);
    }
    let step = ((bytes - 1).ilog2() - 2).min(60);
    bytes
        .checked_next_multiple_of(1 << step)
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn room_comes_in_sizes() {
        for (asked, given) in [
            (1, 16),
            (128, 128),
            (129, 160),
            (1_025, 1_280),
            (16_384, 16_384),
            (16_385, 20_480),
        ] {
            assert_eq!(size_class(asked), given, "{asked}");
        }
        assert_eq!(size_class(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_plan_says_what_it_takes() {
        let sheet = Load::planned(100_000, 2_000, 256 * MIB).sheet();
        assert_eq!(sheet.bytes_per_key, 2_560 + KEY_BYTES);
        assert!(sheet.used_ratio.unwrap() > 1.0);
        assert_eq!(sheet.full_in_seconds, Some(0));
        assert_eq!(sheet.keys_max, Some(255 * MIB / 2_760));
        let advised = sheet.max_bytes_advised / MIB;
        assert_eq!(advised, 330);
        assert!(
            sheet.triggers.iter().all(|trigger| !trigger.due),
            "not more than 100,000"
        );
        assert!(Load::planned(100_001, 1, 0).sheet().triggers[1].due);
        assert_eq!(Load::planned(0, 0, 0).sheet().bytes_per_key, 0);
    }

    #[test]
    fn growth_has_a_date_and_its_absence_none() {
        let load = Load {
            keys: 10,
            used_bytes: 100 * MIB,
            max_bytes: 200 * MIB,
            growth_per_second: Some(MIB as f64),
            commands_per_second: Some(7_000.0),
            ..Load::default()
        };
        let sheet = load.sheet();
        assert_eq!(sheet.full_in_seconds, Some(100));
        let due: Vec<_> = sheet.triggers.iter().map(|trigger| trigger.due).collect();
        assert_eq!(due, [true, false, false]);
        for growth in [None, Some(0.0), Some(-5.0), Some(1e-9)] {
            let load = Load {
                growth_per_second: growth,
                ..load
            };
            assert_eq!(load.sheet().full_in_seconds, None, "{growth:?}");
        }
        let unbounded = Load {
            max_bytes: 0,
            ..load
        };
        assert_eq!(unbounded.sheet().full_in_seconds, None);
    }
}
