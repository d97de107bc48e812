//! A request as one line, and many requests as one: pure text, no I/O, no clock.

use super::AccessRecord;
use crate::semantics::line::{address, digits};
use crate::semantics::{Outcome, Reason, Timestamp};
use crate::telemetry::metrics::Totals;
use std::fmt::Write;
use std::time::Duration;

/// Bytes of a path, note or limit in a line; longer ones are cut.
const TEXT_BYTES_MAX: usize = 1_024;
/// Bytes of a path on a terminal.
const PRETTY_PATH_BYTES_MAX: usize = 100;

/// Whether outcomes are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour(pub(super) bool);

impl Colour {
    /// The same colour means the same outcome everywhere: hit green, stale amber, miss blue, bypass
    /// grey, red only for trouble.
    fn paint(self, outcome: Outcome, word: &str) -> String {
        let code = match outcome {
            Outcome::Hit => 32,
            Outcome::Stale | Outcome::Revalidated => 33,
            Outcome::Miss => 34,
            Outcome::Bypass => 90,
            Outcome::Refused => 31,
        };
        self.with(code, word)
    }

    fn with(self, code: u8, word: &str) -> String {
        match self.0 {
            true => format!("\x1b[{code}m{word}\x1b[0m"),
            false => word.to_owned(),
        }
    }
}

/// One object with OTel's names, and a newline, to the end of `out`. The order is fixed, what people
/// look for first: they read these lines too.
pub(super) fn json(out: &mut Vec<u8>, stamp: &mut Stamp, record: &AccessRecord, at: Timestamp) {
    let level = match record.status.is_server_error() {
        true => "ERROR",
        false => "INFO",
    };
    out.extend_from_slice(b"{\"timestamp\":\"");
    stamp.write(out, at);
    out.push(b'"');
    text(out, "level", level);
    text(out, "message", "request");
    text(out, "http.request.method", record.method.as_str());
    text(out, "url.path", &record.path);
    number(
        out,
        "http.response.status_code",
        record.status.as_u16().into(),
    );
    text(out, "cache", record.outcome.word());
    text(out, "reason", record.reason.word());
    text(out, "route", &record.route);
    millis(out, "duration_ms", record.duration);
    if let Some(ttl) = record.ttl {
        number(out, "ttl_s", ttl);
    }
    if let Some(limit) = &record.limit {
        text(out, "limit", limit);
    }
    if let Some(note) = &record.note {
        text(out, "note", note);
    }
    // OTel: not set where no route is known.
    if !record.http_route.is_empty() {
        text(out, "http.route", &record.http_route);
    }
    name(out, "client.address");
    out.push(b'"');
    out.extend_from_slice(address(record.client).as_bytes());
    out.push(b'"');
    text(out, "trace_id", &record.trace_id);
    if let Some(request_id) = &record.request_id {
        text(out, "request_id", request_id);
    }
    out.extend_from_slice(b"}\n");
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn text(out: &mut Vec<u8>, field: &str, text: &str) {
    name(out, field);
    let text = cut(text, TEXT_BYTES_MAX);
    // Without a way out of the loop it takes many bytes at a time.
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\');
    if (text.bytes()).fold(true, |plain, byte| plain & is_plain(byte)) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // JSON escapes what is below a blank; DEL and the C1 codes can move a terminal just as well.
        let escaped = serde_json::Value::from(text).to_string();
        out.extend_from_slice(printable(&escaped).as_bytes());
    }
}

fn number(out: &mut Vec<u8>, field: &str, number: i64) {
    name(out, field);
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(digits(number.unsigned_abs()).as_bytes());
}

/// Three decimals: a microsecond. `0.2`, `1.234`, `3.0`
fn millis(out: &mut Vec<u8>, field: &str, duration: Duration) {
    name(out, field);
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    out.extend_from_slice(digits(micros / 1_000).as_bytes());
    out.push(b'.');
    let mut rest = micros % 1_000;
    for unit in [100, 10, 1] {
        out.push(b'0' + (rest / unit) as u8);
        rest %= unit;
        if rest == 0 {
            break;
        }
    }
}

/// RFC 3339 in UTC with milliseconds; what many lines have in common is made once a second.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: u64,
    /// `2025-12-04T12:04:07`
    whole: String,
}

impl Stamp {
    fn write(&mut self, out: &mut Vec<u8>, at: Timestamp) {
        if self.whole.is_empty() || self.second != at.as_secs() {
            self.second = at.as_secs();
            self.whole = at.rfc3339();
            self.whole.pop();
        }
        out.extend_from_slice(self.whole.as_bytes());
        let millis = at.as_millis() % 1_000;
        let digit = |unit| b'0' + (millis / unit % 10) as u8;
        out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1), b'Z']);
    }
}

/// `  12:04:08  GET  /api/fleet      HIT     memory, 4m59s left             0.2 ms   2,060× faster`
pub(super) fn pretty(
    record: &AccessRecord,
    at: Timestamp,
    factor: Option<f64>,
    colour: Colour,
) -> String {
    let method = printable(cut(record.method.as_str(), 16));
    let path = printable(cut(&record.path, PRETTY_PATH_BYTES_MAX));
    let outcome = colour.paint(record.outcome, &format!("{:<7}", record.outcome.header()));
    let mut detail = detail(record);
    if record.status.is_client_error() || record.status.is_server_error() {
        detail = format!("{} {detail}", record.status.as_u16());
    }
    let detail = printable(cut(&detail, TEXT_BYTES_MAX));
    let padded = format!("{detail:<28}");
    let detail = match record.status.is_server_error() {
        true => colour.with(31, &padded),
        false => padded,
    };
    let mut line = format!(
        "  {}  {method:<4} {path:<24} {outcome} {detail} {:>8}",
        time_of_day(at),
        duration(record.duration)
    );
    // A factor below two is not worth a word.
    if let Some(factor) = factor.filter(|factor| *factor >= 2.0) {
        let _ = write!(line, "   {}× faster", thousands(factor));
    }
    line.push('\n');
    line
}

/// Why, and for how long.
fn detail(record: &AccessRecord) -> String {
    let mut detail = record.reason.word().to_owned();
    let ttl = record.ttl.and_then(|ttl| u64::try_from(ttl).ok());
    match (record.outcome, ttl) {
        (Outcome::Hit, Some(left)) => {
            let _ = write!(detail, ", {} left", span(left));
        }
        (Outcome::Miss | Outcome::Revalidated, Some(given)) => {
            let _ = write!(detail, ", stored for {}", span(given));
        }
        _ => {}
    }
    if let Some(limit) = record
        .limit
        .as_ref()
        .filter(|_| record.reason == Reason::Limited)
    {
        let _ = write!(detail, " by {limit}");
    }
    if let Some(note) = &record.note {
        let _ = write!(detail, " · {note}");
    }
    detail
}

/// What the summary line of the terminal compares with.
#[derive(Debug)]
pub(super) struct Summary(Totals);

impl Summary {
    pub(super) const fn new(totals: Totals) -> Self {
        Self(totals)
    }

    /// `251 req/s · 87 % from cache`, or nothing when nothing happened.
    pub(super) fn line(
        &mut self,
        totals: Totals,
        over: Duration,
        at: Timestamp,
        colour: Colour,
    ) -> Option<String> {
        let before = std::mem::replace(&mut self.0, totals);
        let requests = totals.requests().saturating_sub(before.requests());
        if requests == 0 {
            return None;
        }
        let rate = requests as f64 / over.as_secs_f64();
        let hits = totals.hits().saturating_sub(before.hits());
        let mut line = format!(
            "  {}  {} req/s · {} % from cache",
            time_of_day(at),
            if rate < 10.0 {
                format!("{rate:.1}")
            } else {
                thousands(rate)
            },
            (hits as f64 / requests as f64 * 100.0).round()
        );
        let waited = totals.coalesced.saturating_sub(before.coalesced);
        if waited > 0 {
            let _ = write!(line, " · {waited} waited for another's fetch");
        }
        let saved = totals.saved_nanos.saturating_sub(before.saved_nanos) / 1_000_000_000;
        if saved > 0 {
            let _ = write!(line, " · {} of app time saved", span(saved));
        }
        let errors = totals.errors.saturating_sub(before.errors);
        if errors > 0 {
            let _ = write!(line, " · {}", colour.with(31, &format!("{errors} errors")));
        }
        line.push('\n');
        Some(line)
    }
}

/// `4m59s`, `5m`, `2h`, `1d3h`: two units at most.
fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return "0s".to_owned();
    };
    let mut text = format!("{}{}", seconds / UNITS[first].0, UNITS[first].1);
    if let Some((unit, name)) = UNITS.get(first + 1) {
        let rest = seconds % UNITS[first].0 / unit;
        if rest > 0 {
            let _ = write!(text, "{rest}{name}");
        }
    }
    text
}

fn duration(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        ..0.095 => format!("{millis:.2} ms"),
        ..9.95 => format!("{millis:.1} ms"),
        ..9_999.5 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1e3),
    }
}

/// `2,060`
fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// UTC.
pub(super) fn time_of_day(at: Timestamp) -> String {
    let second = at.as_secs() % 86_400;
    format!(
        "{:02}:{:02}:{:02}",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// RFC 3339 in UTC with milliseconds.
pub(super) fn rfc3339(at: Timestamp) -> String {
    let whole = at.rfc3339();
    let whole = whole.trim_end_matches('Z');
    format!("{whole}.{:03}Z", at.as_millis() % 1_000)
}

/// Control characters escaped: no request can write a line of its own or move the cursor. Marks that
/// turn the direction of writing are treated the same, since they can disguise a line.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, StatusCode};
    use serde_json::json as value;
    use std::net::IpAddr;

    fn json_line(record: &AccessRecord, at: Timestamp) -> String {
        let mut out = Vec::new();
        json(&mut out, &mut Stamp::default(), record, at);
        String::from_utf8(out).unwrap()
    }

    const NOON: Timestamp = Timestamp::from_millis(1_764_849_847_042);
    const PLAIN: Colour = Colour(false);

    fn record(outcome: Outcome, reason: Reason, micros: u64, ttl: Option<i64>) -> AccessRecord {
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
            request_id: Some("checkout-7".into()),
            client: IpAddr::from([127, 0, 0, 1]),
            ttl,
            note: None,
        }
    }

    #[test]
    fn a_miss_and_a_hit_read_as_people_expect() {
        let miss = record(Outcome::Miss, Reason::Cold, 412_000, Some(300));
        assert_eq!(
            pretty(&miss, NOON, None, PLAIN),
            "  12:04:07  GET  /api/fleet               MISS    cold, stored for 5m            412 ms\n"
        );
        let hit = record(Outcome::Hit, Reason::Memory, 200, Some(299));
        assert_eq!(
            pretty(&hit, NOON, Some(2_060.0), PLAIN),
            "  12:04:07  GET  /api/fleet               HIT     memory, 4m59s left             0.2 ms   2,060× faster\n"
        );
        let mut booking = record(Outcome::Bypass, Reason::Method, 204_000, None);
        booking.note = Some("purged car:42 (2)".into());
        assert!(
            pretty(&booking, NOON, None, PLAIN).contains("BYPASS  method · purged car:42 (2) ")
        );
    }

    #[test]
    fn an_error_shows_its_status_and_a_limit_its_name() {
        let mut refused = record(Outcome::Refused, Reason::Limited, 100, None);
        refused.status = StatusCode::TOO_MANY_REQUESTS;
        refused.limit = Some("payment-ip".into());
        let line = pretty(&refused, NOON, None, Colour(true));
        assert!(line.contains("429 limited by payment-ip"), "{line}");
        assert!(line.contains("\x1b[31mREFUSED\x1b[0m"), "{line:?}");
    }

    #[test]
    fn no_request_writes_a_line_of_its_own() {
        let mut hostile = record(Outcome::Bypass, Reason::NoRoute, 1, None);
        hostile.path = "/a\n  12:04:07 GET /forged\x1b[2J\u{9b}\u{202e}x\x7f".into();
        hostile.note = Some("b\r\nc".into());
        for line in [
            pretty(&hostile, NOON, None, PLAIN),
            json_line(&hostile, NOON),
        ] {
            assert_eq!(line.lines().count(), 1);
            assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
        }
        let read: serde_json::Value = serde_json::from_str(&json_line(&hostile, NOON)).unwrap();
        assert!(read["url.path"].as_str().unwrap().starts_with("/a\n"));
        hostile.path = "/ä".repeat(5_000).into();
        assert!(json_line(&hostile, NOON).len() < 2_000);
        assert!(pretty(&hostile, NOON, None, PLAIN).len() < 500);
    }

    #[test]
    fn machines_get_the_names_of_opentelemetry() {
        let line = json_line(&record(Outcome::Hit, Reason::Memory, 1_234, Some(9)), NOON);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        for (name, value) in [
            ("timestamp", value!("2025-12-04T12:04:07.042Z")),
            ("http.request.method", value!("GET")),
            ("url.path", value!("/api/fleet")),
            ("http.response.status_code", value!(200)),
            ("client.address", value!("127.0.0.1")),
            ("route", value!("fleet")),
            ("http.route", value!("/api/fleet")),
            ("cache", value!("hit")),
            ("reason", value!("memory")),
            ("duration_ms", value!(1.234)),
            ("ttl_s", value!(9)),
        ] {
            assert_eq!(read[name], value, "{name}");
        }
    }

    #[test]
    fn a_line_for_machines_begins_with_what_people_look_for() {
        let line = json_line(&record(Outcome::Hit, Reason::Memory, 1_234, Some(9)), NOON);
        let begins = "{\"timestamp\":\"2025-12-04T12:04:07.042Z\",\"level\":\"INFO\",\
                      \"message\":\"request\",\"http.request.method\":\"GET\",\
                      \"url.path\":\"/api/fleet\",\"http.response.status_code\":200,\
                      \"cache\":\"hit\",\"reason\":\"memory\",\"route\":\"fleet\",\
                      \"duration_ms\":1.234,";
        assert!(line.starts_with(begins), "{line}");
    }

    #[test]
    fn ten_seconds_become_one_line() {
        let mut summary = Summary::new(Totals::default());
        let mut totals = Totals::default();
        assert_eq!(
            summary.line(totals, Duration::from_secs(10), NOON, PLAIN),
            None
        );
        totals.outcomes[Outcome::Hit.index()] = 2_184;
        totals.outcomes[Outcome::Miss.index()] = 326;
        totals.saved_nanos = 4_200_000_000_000;
        let line = summary
            .line(totals, Duration::from_secs(10), NOON, PLAIN)
            .unwrap();
        assert_eq!(
            line,
            "  12:04:07  251 req/s · 87 % from cache · 1h10m of app time saved\n"
        );
        assert_eq!(
            summary.line(totals, Duration::from_secs(10), NOON, PLAIN),
            None
        );
    }

    #[test]
    fn times_are_civil() {
        let at = |secs: u64| rfc3339(Timestamp::from_millis(secs * 1_000));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert_eq!((span(0), span(90_061)), ("0s".into(), "1d1h".into()));
    }
}
