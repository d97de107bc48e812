//! When a job is due, in cron's five fields: minute, hour, day of the month, month, day of the week. UTC.
//!
//! Numbers, `*`, lists `1,2`, ranges `1-5` and steps `*/15`; days of the week from 0 (Sunday) to 7; months
//! and days of the week also by the first three letters of their names. As crontab(5) has it: where both
//! days are given, either will do.

use crate::semantics::Timestamp;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are restricted: either will do.
    either_day: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// No day is looked for beyond so many: a 29th of February comes within eight years.
const DAYS_AHEAD_MAX: u64 = 366 * 8 + 1;

impl Cron {
    /// Reads the five fields. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("it has {} fields, not five", fields.len()));
        };
        let mut week = set(weekdays, 0..=7, &WEEKDAYS, "day of the week")?;
        if week & (1 << 7) != 0 {
            week = week & !(1 << 7) | 1;
        }
        let cron = Self {
            minutes: set(minutes, 0..=59, &[], "minute")?,
            hours: set(hours, 0..=23, &[], "hour")?,
            days: set(days, 1..=31, &[], "day")?,
            months: set(months, 1..=12, &MONTHS, "month")?,
            weekdays: week,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        match cron.after(Timestamp::from_millis(0)) {
            Some(_) => Ok(cron),
            None => Err("there is no such day".to_owned()),
        }
    }

    /// The first moment after `now` that it names; a whole minute.
    #[must_use]
    pub fn after(&self, now: Timestamp) -> Option<Timestamp> {
        let mut minute = now.as_secs() / 60 + 1;
        let last_day = minute / 1_440 + DAYS_AHEAD_MAX;
        while minute / 1_440 <= last_day {
            let (day, of_day) = (minute / 1_440, minute % 1_440);
            if !self.has_day(day) {
                minute = (day + 1) * 1_440;
            } else if !has(self.hours, of_day / 60) {
                minute = day * 1_440 + (of_day / 60 + 1) * 60;
            } else if !has(self.minutes, of_day % 60) {
                minute += 1;
            } else {
                return Some(Timestamp::from_millis(0) + Duration::from_secs(minute * 60));
            }
        }
        None
    }

    /// `day` counts from 1970-01-01, a Thursday.
    fn has_day(&self, day: u64) -> bool {
        let midnight = Timestamp::from_millis(day.saturating_mul(86_400_000));
        let (_, month, of_month) = midnight.date();
        let (by_month, by_week) = (has(self.days, of_month), has(self.weekdays, (day + 4) % 7));
        let is_day = match self.either_day {
            true => by_month || by_week,
            false => by_month && by_week,
        };
        has(self.months, month) && is_day
    }
}

const fn has(set: u64, number: u64) -> bool {
    set & (1 << number) != 0
}

/// The numbers that a field names, as bits. `names` are those of the first numbers of `range`.
fn set(field: &str, range: RangeInclusive<u64>, names: &[&str], what: &str) -> Result<u64, String> {
    let bad = |part: &str| {
        let (least, most) = (range.start(), range.end());
        format!("`{part}` is no {what}: from {least} to {most}, as 5, 1,2, 1-5, * or */2")
    };
    let number = |text: &str| {
        if let Some(at) = names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text))
        {
            return Some(range.start() + at as u64);
        }
        let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.filter(|_| digits)
    };
    let mut set = 0;
    for part in field.split(',') {
        let (span, step) = match part.split_once('/') {
            Some((span, step)) => (span, Some(step.parse::<usize>().map_err(|_| bad(part))?)),
            None => (part, None),
        };
        let (first, last) = match (span, span.split_once('-')) {
            ("*", _) => (*range.start(), *range.end()),
            (_, Some((first, last))) => (
                number(first).ok_or_else(|| bad(part))?,
                number(last).ok_or_else(|| bad(part))?,
            ),
            (one, None) => {
                let one = number(one).ok_or_else(|| bad(part))?;
                // As in `5/15`: from there on.
                (one, if step.is_some() { *range.end() } else { one })
            }
        };
        if first > last || step == Some(0) {
            return Err(bad(part));
        }
        for number in (first..=last).step_by(step.unwrap_or(1)) {
            set |= 1 << number;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(cron: &str, date: &str) -> String {
        let seconds = chrono_seconds(date);
        let next = Cron::parse(cron)
            .unwrap()
            .after(Timestamp::from_millis(seconds * 1_000));
        next.unwrap().rfc3339()
    }

    /// Seconds of `2026-11-28 13:44`, counted day by day.
    fn chrono_seconds(date: &str) -> u64 {
        let number = |range: std::ops::Range<usize>| date[range].parse::<u64>().unwrap();
        let (year, month, day) = (number(0..4), number(5..7), number(8..10));
        let leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let mut days = (1970..year)
            .map(|year| if leap(year) { 366 } else { 365 })
            .sum::<u64>();
        let lengths = [
            31,
            if leap(year) { 29 } else { 28 },
            31,
            30,
            31,
            30,
            31,
            31,
            30,
            31,
            30,
            31,
        ];
        days += lengths[..month as usize - 1].iter().sum::<u64>() + day - 1;
        days * 86_400 + number(11..13) * 3_600 + number(14..16) * 60
    }

    #[test]
    fn the_next_moment_is_a_whole_minute_in_utc() {
        for (cron, next) in [
            ("0 5 * * *", "2026-11-29T05:00:00"),
            ("*/15 * * * *", "2026-11-28T13:45:00"),
            ("44 13 * * *", "2026-11-29T13:44:00"),
            ("0 0 1 * *", "2026-12-01T00:00:00"),
            ("30 6 * * 1-5", "2026-11-30T06:30:00"),
            ("0 12 * * 7", "2026-11-29T12:00:00"),
            ("0 12 * * 0", "2026-11-29T12:00:00"),
            ("0 0 29 2 *", "2028-02-29T00:00:00"),
            // Either of two days.
            ("0 0 30 * 0", "2026-11-29T00:00:00"),
            ("0 0 * feb Mon", "2027-02-01T00:00:00"),
            ("0 0 * * tue-THU", "2026-12-01T00:00:00"),
            ("0 0 * * 5-7", "2026-11-29T00:00:00"),
            // `*/2` begins with a star: both days have to do.
            ("0 0 */2 * 1", "2026-12-07T00:00:00"),
            ("5/20 8,20 * * *", "2026-11-28T20:05:00"),
        ] {
            assert!(
                after(cron, "2026-11-28 13:44").starts_with(next),
                "{cron}: {}",
                after(cron, "2026-11-28 13:44")
            );
        }
    }

    #[test]
    fn what_is_no_schedule_is_said() {
        for (text, why) in [
            ("0 5 * *", "four"),
            ("60 * * * *", "`60` is no minute"),
            ("* 24 * * *", "`24` is no hour"),
            ("* * 0 * *", "`0` is no day"),
            ("5-1 * * * *", "`5-1`"),
            ("*/0 * * * *", "`*/0`"),
            ("* * * jum *", "`jum` is no month"),
            ("* mon * * *", "`mon` is no hour"),
            ("0 0 31 2 *", "no such day"),
        ] {
            let said = Cron::parse(text).unwrap_err();
            assert!(
                said.contains(why) || why == "four" && said.contains("has 4 fields"),
                "{text}: {said}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_the_next_is_always_later(text in "[0-9*/, -]{0,20}", at in 0_u64..4_000_000_000) {
            if let Ok(cron) = Cron::parse(&text) {
                let now = Timestamp::from_millis(at * 1_000);
                let next = cron.after(now);
                prop_assert!(next.is_some_and(|next| next > now && next.as_secs().is_multiple_of(60)));
            }
        }
    }
}
