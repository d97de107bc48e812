//! Which parts of a stored body a Range asks for (RFC 9110 §14), and how they are written down.
//!
//! Never looks at preconditions, and never copies content.

use super::fields::{single, trim};
use bytes::Bytes;
use http::header::CONTENT_RANGE;
use http::{HeaderMap, HeaderValue};
use memchr::memmem;
use std::ops::Range;

/// The most ranges of one request that are obeyed; more, and the whole body is the answer.
pub const RANGES_MAX: usize = 16;

/// What a Range field asks of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// All of it: the field is broken, excessive or of an unknown unit, and thus ignored.
    Whole,
    /// These parts, at least one, none empty, none overlapping another.
    Parts(Vec<Range<u64>>),
    /// Nothing that there is: 416.
    Unsatisfiable,
}

/// Reads a Range field for a body of `length` bytes.
///
/// Overlapping and touching ranges become one (RFC 9110 §15.3.7.2), so that all parts together are
/// never more than the body.
#[must_use]
pub fn ranges(value: &HeaderValue, length: u64) -> Ranges {
    let Some(set) = byte_ranges(value.as_bytes()) else {
        return Ranges::Whole;
    };
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut asked = 0;
    for spec in set.split(|byte| *byte == b',').map(trim) {
        if spec.is_empty() {
            continue;
        }
        asked += 1;
        let Some(spec) = (asked <= RANGES_MAX).then(|| parse(spec)).flatten() else {
            return Ranges::Whole;
        };
        match spec {
            Spec::Suffix(last) if last > 0 => {
                // An empty body has a last part, but no Content-Range can say which.
                if length == 0 {
                    return Ranges::Whole;
                }
                add(&mut parts, length.saturating_sub(last)..length);
            }
            Spec::From(first, last) if first < length => {
                add(&mut parts, first..last.saturating_add(1).min(length));
            }
            Spec::Suffix(_) | Spec::From(..) => {}
        }
    }
    match (asked, parts.is_empty()) {
        (0, _) => Ranges::Whole,
        (_, true) => Ranges::Unsatisfiable,
        (_, false) => Ranges::Parts(parts),
    }
}

/// What a response with 206 and a single part holds: bytes `range` of `length` (RFC 9110 §14.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From the first byte to behind the last; not empty.
    pub range: Range<u64>,
    /// Bytes of the whole.
    pub length: u64,
}

impl Part {
    /// Reads Content-Range; `None` where there is none, several, one of another unit, or one that does
    /// not say how long the whole is.
    #[must_use]
    pub fn of(response: &HeaderMap) -> Option<Self> {
        let value = trim(single(response, &CONTENT_RANGE)?.as_bytes());
        let (unit, rest) = value.split_at_checked(6)?;
        if !unit.eq_ignore_ascii_case(b"bytes ") {
            return None;
        }
        let slash = rest.iter().position(|byte| *byte == b'/')?;
        let length = number(&rest[slash + 1..])?;
        let Spec::From(first, last) = parse(trim(&rest[..slash]))? else {
            return None;
        };
        (last < length).then(|| Self {
            range: first..last + 1,
            length,
        })
    }

    /// What a Range field asks of the whole, if it is one range and this part has all of it.
    #[must_use]
    pub fn serves(&self, value: &HeaderValue) -> Option<Range<u64>> {
        match ranges(value, self.length) {
            Ranges::Parts(parts) => match parts.as_slice() {
                [one] if self.range.start <= one.start && one.end <= self.range.end => {
                    Some(one.clone())
                }
                _ => None,
            },
            Ranges::Whole | Ranges::Unsatisfiable => None,
        }
    }

    /// What is missing of the whole, where that is one range.
    #[must_use]
    pub fn missing(&self) -> Option<Range<u64>> {
        match (self.range.start, self.range.end) {
            (0, end) if end < self.length => Some(end..self.length),
            (start, end) if start > 0 && end == self.length => Some(0..start),
            _ => None,
        }
    }
}

/// `Content-Range` of one part.
#[must_use]
pub fn content_range(part: &Range<u64>, length: u64) -> String {
    format!(
        "bytes {}-{}/{length}",
        part.start,
        part.end.saturating_sub(1)
    )
}

/// `Content-Range` of a 416.
#[must_use]
pub fn unsatisfied_range(length: u64) -> String {
    format!("bytes */{length}")
}

/// The parts as a `multipart/byteranges` body (RFC 9110 §14.6), with its boundary. Between the
/// heads of the parts stand slices of `body`.
#[must_use]
pub fn multipart(
    body: &Bytes,
    parts: &[Range<u64>],
    content_type: Option<&HeaderValue>,
    seed: u64,
) -> (String, Vec<Bytes>) {
    let boundary = boundary(body, seed);
    let mut chunks = Vec::with_capacity(2 * parts.len() + 1);
    for (at, part) in parts.iter().enumerate() {
        let mut head = Vec::with_capacity(160);
        if at > 0 {
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"--");
        head.extend_from_slice(boundary.as_bytes());
        if let Some(content_type) = content_type {
            head.extend_from_slice(b"\r\nContent-Type: ");
            head.extend_from_slice(content_type.as_bytes());
        }
        head.extend_from_slice(b"\r\nContent-Range: ");
        head.extend_from_slice(content_range(part, body.len() as u64).as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        chunks.push(Bytes::from(head));
        chunks.push(slice(body, part));
    }
    chunks.push(Bytes::from(format!("\r\n--{boundary}--\r\n")));
    (boundary, chunks)
}

/// The part of `body`, without copying; cut to what there is.
#[must_use]
pub fn slice(body: &Bytes, part: &Range<u64>) -> Bytes {
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(body.len());
    let (start, end) = (at(part.start), at(part.end));
    body.slice(start.min(end)..end)
}

enum Spec {
    From(u64, u64),
    Suffix(u64),
}

fn byte_ranges(value: &[u8]) -> Option<&[u8]> {
    let value = trim(value);
    let equals = value.iter().position(|byte| *byte == b'=')?;
    value[..equals]
        .eq_ignore_ascii_case(b"bytes")
        .then(|| &value[equals + 1..])
}

fn parse(spec: &[u8]) -> Option<Spec> {
    let dash = spec.iter().position(|byte| *byte == b'-')?;
    match (&spec[..dash], &spec[dash + 1..]) {
        ([], last) => Some(Spec::Suffix(number(last)?)),
        (first, []) => Some(Spec::From(number(first)?, u64::MAX)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From(first, last))
        }
    }
}

/// Digits and nothing else; too large a number is the largest.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0u64, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    }))
}

/// Adds a part, in the place of the first one that it touches.
fn add(parts: &mut Vec<Range<u64>>, mut part: Range<u64>) {
    let mut place = None;
    let mut at = 0;
    while at < parts.len() {
        if part.start <= parts[at].end && parts[at].start <= part.end {
            part = part.start.min(parts[at].start)..part.end.max(parts[at].end);
            parts.remove(at);
            place.get_or_insert(at);
            // The part has grown: what stands before may touch it now.
            at = 0;
        } else {
            at += 1;
        }
    }
    let place = place.unwrap_or(parts.len()).min(parts.len());
    parts.insert(place, part);
}

/// A boundary that does not occur in `body`.
fn boundary(body: &[u8], seed: u64) -> String {
    let mut salt = seed;
    loop {
        let boundary = format!("larder-{salt:016x}");
        let needle = boundary.as_bytes();
        if memmem::find(body, needle).is_none() {
            return boundary;
        }
        salt = salt.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, headers};
    use proptest::prelude::*;

    fn asked(text: &str, length: u64) -> Ranges {
        ranges(&HeaderValue::from_str(text).unwrap(), length)
    }

    fn parts(parts: &[(u64, u64)]) -> Ranges {
        Ranges::Parts(parts.iter().map(|(start, end)| *start..*end).collect())
    }

    #[test]
    fn single_and_suffix_ranges_are_read_rfc9110_14_1_2() {
        assert_eq!(asked("bytes=0-3", 10), parts(&[(0, 4)]));
        assert_eq!(asked("Bytes=5-", 10), parts(&[(5, 10)]));
        assert_eq!(asked("bytes=-3", 10), parts(&[(7, 10)]));
        assert_eq!(asked("bytes=-30", 10), parts(&[(0, 10)]));
        assert_eq!(
            asked("bytes=8-99999999999999999999999", 10),
            parts(&[(8, 10)])
        );
    }

    #[test]
    fn several_ranges_keep_their_order_and_touching_ones_become_one() {
        assert_eq!(asked("bytes=5-6, 0-1", 10), parts(&[(5, 7), (0, 2)]));
        assert_eq!(asked("bytes=0-4,2-6, 7-7", 10), parts(&[(0, 8)]));
        assert_eq!(asked("bytes=0-0,50-60", 10), parts(&[(0, 1)]));
    }

    #[test]
    fn what_is_not_there_is_unsatisfiable_rfc9110_14_1_2() {
        assert_eq!(asked("bytes=10-", 10), Ranges::Unsatisfiable);
        assert_eq!(asked("bytes=-0", 10), Ranges::Unsatisfiable);
        assert_eq!(asked("bytes=0-", 0), Ranges::Unsatisfiable);
        assert_eq!(asked("bytes=-1", 0), Ranges::Whole);
    }

    #[test]
    fn a_broken_or_excessive_range_is_ignored_rfc9110_14_2() {
        for broken in [
            "",
            "bytes",
            "bytes=",
            "bytes=a-b",
            "bytes=5-3",
            "bytes=1",
            "items=0-3",
            "bytes=0-3,x",
            "bytes=--3",
            "bytes 0-3",
        ] {
            assert_eq!(asked(broken, 10), Ranges::Whole, "{broken}");
        }
        assert_eq!(
            asked(&format!("bytes={}", "0-0,".repeat(10_000)), 10),
            Ranges::Whole
        );
    }

    #[test]
    fn a_part_knows_what_it_has_and_what_is_missing_rfc9110_14_4() {
        let of = |text: &str| Part::of(&headers(&format!("content-range: {text}")));
        let end = of("bytes 4-9/10").unwrap();
        let serves = |asked: &str| end.serves(&HeaderValue::from_str(asked).unwrap());
        assert_eq!(serves("bytes=-6"), Some(4..10));
        assert_eq!(serves("bytes=5-6"), Some(5..7));
        for not in [
            "bytes=-7",
            "bytes=3-5",
            "bytes=4-5,7-8",
            "bytes=x",
            "bytes=10-",
        ] {
            assert_eq!(serves(not), None, "{not}");
        }
        assert_eq!(end.missing(), Some(0..4));
        assert_eq!(of("bytes 0-3/10").unwrap().missing(), Some(4..10));
        assert_eq!(of("bytes 1-3/10").unwrap().missing(), None);
        assert_eq!(of("bytes 0-9/10").unwrap().missing(), None);
        for bad in [
            "",
            "bytes 4-9/*",
            "bytes */10",
            "bytes 4-10/10",
            "bytes 5-4/10",
            "items 4-9/10",
            "bytes -4/10",
            "bytes 4-9",
            "bytes 4-18446744073709551615/18446744073709551615",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn several_parts_are_written_as_multipart_rfc9110_14_6() {
        let body = Bytes::from_static(b"0123456789 larder-0000000000000007");
        let kind = HeaderValue::from_static("text/plain");
        let (boundary, chunks) = multipart(&body, &[0..2, 5..6], Some(&kind), 7);
        assert_ne!(boundary, "larder-0000000000000007");
        let text = String::from_utf8(chunks.concat()).unwrap();
        assert_eq!(
            text,
            format!(
                "--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/34\r\n\r\n01\r\n\
                 --{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-5/34\r\n\r\n5\r\n--{boundary}--\r\n"
            )
        );
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_body_and_never_overlap(
            specs in proptest::collection::vec((0u64..50, 0u64..50), 1..16),
            length in 0u64..40,
        ) {
            let specs: Vec<_> = specs.iter().map(|(a, b)| match b % 3 {
                0 => format!("-{a}"),
                1 => format!("{a}-"),
                _ => format!("{}-{}", a.min(b), a.max(b)),
            }).collect();
            if let Ranges::Parts(parts) = asked(&format!("bytes={}", specs.join(",")), length) {
                prop_assert!(!parts.is_empty());
                for (at, part) in parts.iter().enumerate() {
                    prop_assert!(part.start < part.end && part.end <= length);
                    for other in &parts[..at] {
                        prop_assert!(part.end < other.start || other.end < part.start);
                    }
                }
            }
        }

        #[test]
        fn nothing_makes_the_parser_panic(value in any_value(), length: u64) {
            let _ = ranges(&value, length);
            let body = Bytes::from_static(b"abc");
            if let Ranges::Parts(parts) = ranges(&value, length) {
                let _ = multipart(&body, &parts, Some(&value), length);
            }
        }
    }
}
