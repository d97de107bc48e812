//! Follows the bytes of a client's HTTP/1 connection far enough to know where each head begins, and
//! sees in the heads what hyper keeps to itself: a length beside a transfer coding, a length given
//! twice, a fragment in the target.
//!
//! It only ever refuses. hyper alone decides what a message is; where the two could differ about its
//! end, hyper refuses the message or this does. A head that comes in one piece is looked at where it
//! lies: nothing is copied, nothing allocated.

use crate::proxy::{Interims, Problem};
use memchr::{memchr, memchr_iter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A head that comes in pieces is kept up to this, in bytes; hyper refuses it long before.
const PARTIAL_BYTES_MAX: usize = 128 * 1024;
/// How HTTP/2 begins (RFC 9113 §3.4).
const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0";

/// What is wrong with a head, as a number that fits beside its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    LengthAndCoding = 1,
    SeveralLengths = 2,
    Fragment = 3,
    Lost = 4,
}

const FAULT_BITS: u32 = 3;

impl Fault {
    const fn words(number: u64) -> &'static str {
        match number {
            1 => "it has a length and a transfer coding",
            2 => "it has several lengths",
            3 => "its target has a fragment",
            _ => "the message before it had no clear end",
        }
    }
}

/// What a connection's stream and its service tell each other.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The first faulty head: its place on the connection, and the fault in the lowest bits; 0 = none.
    faulty: AtomicU64,
    /// Heads that were handed over.
    served: AtomicU64,
    /// Of these, answers that have been handed to hyper whole, or given up.
    answered: AtomicU64,
    refused: AtomicBool,
    tunnel: AtomicBool,
    bare_lf: AtomicBool,
    /// A request is being answered by HTTP/1, and hyper has nothing of the answer yet.
    answering: AtomicBool,
    /// Turns of the connection's task since its first request of HTTP/2; 0 = there was none.
    turn: AtomicU64,
    /// The app's interim answers on their way to the client.
    pub(super) interims: Arc<Interims>,
}

impl Watch {
    /// From now on, what HTTP/2 writes in one turn of the connection's task goes out in one piece.
    pub(super) fn gather(&self) {
        if self.turn.load(Ordering::Relaxed) == 0 {
            self.turn.store(1, Ordering::Relaxed);
        }
    }

    /// The connection's task is polled.
    pub(super) fn next_turn(&self) {
        // That task alone counts.
        let turn = self.turn.load(Ordering::Relaxed);
        if turn > 0 {
            self.turn.store(turn + 1, Ordering::Relaxed);
        }
    }

    /// Which turn it is, where what is written in one is gathered.
    pub(super) fn turn(&self) -> Option<u64> {
        let turn = self.turn.load(Ordering::Relaxed);
        (turn > 0).then_some(turn)
    }
    /// Before a request is answered by HTTP/1, and when its answer is about to go to hyper.
    pub(super) fn set_answering(&self, answering: bool) {
        self.answering.store(answering, Ordering::Relaxed);
    }

    /// Whether hyper has nothing to write of its own but what went before the answer: interim answers
    /// may follow what it has flushed.
    pub(super) fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed)
    }

    /// The place on the connection of the request that was handed over last, counted from 1.
    pub(super) fn place(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// To be called once for each request, in their order.
    pub(super) fn judge(&self) -> Result<(), Problem> {
        // One task serves a connection's HTTP/1 requests: nobody counts at the same time.
        let place = self.served.load(Ordering::Relaxed) + 1;
        self.served.store(place, Ordering::Relaxed);
        let faulty = self.faulty.load(Ordering::Relaxed);
        if faulty == 0 || place < faulty >> FAULT_BITS {
            return Ok(());
        }
        let number = faulty & ((1 << FAULT_BITS) - 1);
        Err(Problem::BadRequest(Fault::words(number)))
    }

    /// The answer to a request has been handed to hyper to its end.
    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were handed over, if all of them are answered.
    fn all_answered(&self) -> Option<u64> {
        let served = self.served.load(Ordering::Relaxed);
        (self.answered.load(Ordering::Relaxed) == served).then_some(served)
    }

    /// Whether a line since the last call ended without CR.
    pub(super) fn take_bare_lf(&self) -> bool {
        self.bare_lf.load(Ordering::Relaxed) && self.bare_lf.swap(false, Ordering::Relaxed)
    }

    /// The connection is no longer HTTP.
    pub(super) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    /// A request was refused: what follows it is not read as HTTP.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether a request was refused.
    pub(super) fn has_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }
}

/// What a client has yet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// Its first byte.
    Anything,
    /// Another request, if it likes.
    NextHead,
    /// The rest of a head.
    RestOfHead,
    /// The rest of a body.
    Body,
    /// Bytes that are not looked at.
    Unknown,
}

/// Where in the stream of messages a connection is.
#[derive(Debug)]
pub(super) struct Heads {
    at: At,
    /// Heads seen whole.
    seen: u64,
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Head,
    Length(u64),
    Chunk(Chunk),
    /// HTTP/2, a tunnel, or after a faulty head.
    Blind,
}

/// The chunked coding (RFC 9112 §7.1), as strict as hyper reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// The size, and whether it has a digit yet.
    Size(u64, bool),
    Padding(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, or of the empty one.
    LineStart,
    Trailer,
    TrailerLf,
    EndLf,
}

impl Heads {
    pub(super) const fn new() -> Self {
        Self {
            at: At::Head,
            seen: 0,
            partial: Vec::new(),
        }
    }

    pub(super) fn awaited(&self) -> Awaited {
        match self.at {
            At::Head if !self.partial.is_empty() => Awaited::RestOfHead,
            At::Head if self.seen == 0 => Awaited::Anything,
            At::Head => Awaited::NextHead,
            At::Length(_) | At::Chunk(_) => Awaited::Body,
            At::Blind => Awaited::Unknown,
        }
    }

    /// Whether a head is awaited and none that came before it is still being answered.
    pub(super) fn are_all_answered(&self, watch: &Watch) -> bool {
        matches!(self.awaited(), Awaited::Anything | Awaited::NextHead)
            && !watch.is_tunnel()
            && !watch.has_refused()
            && watch.all_answered() == Some(self.seen)
    }

    /// Looks at what was just read.
    pub(super) fn read(&mut self, mut bytes: &[u8], watch: &Watch) {
        if watch.is_tunnel() {
            self.at = At::Blind;
            self.partial = Vec::new();
        }
        while !bytes.is_empty() {
            bytes = match self.at {
                At::Blind => return,
                At::Head => self.head(bytes, watch),
                At::Length(length) => {
                    let (gone, left) = skip(bytes, length);
                    self.at = if left == 0 {
                        At::Head
                    } else {
                        At::Length(left)
                    };
                    gone
                }
                At::Chunk(chunk) => self.chunk(bytes, chunk, watch),
            };
        }
    }

    /// Takes a head off the front of `bytes`, or all of them into the beginning of one.
    fn head<'a>(&mut self, bytes: &'a [u8], watch: &Watch) -> &'a [u8] {
        if self.partial.is_empty() {
            // An empty line before a request line is skipped (RFC 9112 §2.2).
            let start = bytes.iter().position(|byte| !b"\r\n".contains(byte));
            let bytes = &bytes[start.unwrap_or(bytes.len())..];
            let Some(facts) = facts(bytes) else {
                self.partial.extend_from_slice(bytes);
                return &[];
            };
            self.judge(&facts, watch);
            return &bytes[facts.end..];
        }
        let known = self.partial.len();
        self.partial.extend_from_slice(bytes);
        // Its end may have begun with the last bytes of the piece before.
        let whole = has_empty_line(&self.partial[known.saturating_sub(3)..]);
        match whole.then(|| facts(&self.partial)).flatten() {
            Some(facts) => {
                self.partial = Vec::new();
                self.judge(&facts, watch);
                &bytes[facts.end.saturating_sub(known)..]
            }
            None => {
                if self.partial.len() > PARTIAL_BYTES_MAX {
                    self.fault(Fault::Lost, watch);
                }
                &[]
            }
        }
    }

    fn judge(&mut self, facts: &Facts, watch: &Watch) {
        if self.seen == 0 && facts.preface {
            self.at = At::Blind;
            return;
        }
        self.seen += 1;
        if facts.bare_lf {
            watch.bare_lf.store(true, Ordering::Relaxed);
        }
        let fault = if facts.fragment {
            Fault::Fragment
        } else if facts.coded && facts.lengths > 0 {
            Fault::LengthAndCoding
        } else if facts.lengths > 1 {
            Fault::SeveralLengths
        } else {
            self.at = match (facts.coded, facts.length) {
                (true, _) => At::Chunk(Chunk::Size(0, false)),
                (false, 0) => At::Head,
                (false, length) => At::Length(length),
            };
            return;
        };
        self.publish(self.seen, fault, watch);
    }

    fn chunk<'a>(&mut self, bytes: &'a [u8], chunk: Chunk, watch: &Watch) -> &'a [u8] {
        if let Chunk::Data(left) = chunk {
            let (rest, left) = skip(bytes, left);
            self.at = At::Chunk(match left {
                0 => Chunk::DataCr,
                left => Chunk::Data(left),
            });
            return rest;
        }
        match chunk.step(bytes[0]) {
            Some(next) => self.at = next,
            None => self.fault(Fault::Lost, watch),
        }
        &bytes[1..]
    }

    /// The next head, should there be one, is not to be trusted.
    fn fault(&mut self, fault: Fault, watch: &Watch) {
        self.publish(self.seen + 1, fault, watch);
    }

    fn publish(&mut self, place: u64, fault: Fault, watch: &Watch) {
        self.at = At::Blind;
        self.partial = Vec::new();
        watch
            .faulty
            .store(place << FAULT_BITS | fault as u64, Ordering::Relaxed);
    }
}

impl Chunk {
    /// One byte further; `None` where hyper breaks the body off too.
    fn step(self, byte: u8) -> Option<At> {
        let after_size = |size: u64| match byte {
            b'\r' => Some(Self::SizeLf(size)),
            b';' => Some(Self::Extension(size)),
            b' ' | b'\t' => Some(Self::Padding(size)),
            _ => None,
        };
        let next = match (self, byte) {
            (Self::Size(size, begun), _) => match char::from(byte).to_digit(16) {
                Some(digit) => {
                    Self::Size(size.checked_mul(16)?.checked_add(u64::from(digit))?, true)
                }
                None if begun => after_size(size)?,
                None => return None,
            },
            (Self::Padding(size), _) => after_size(size)?,
            (Self::Extension(size), b'\r') => Self::SizeLf(size),
            (Self::Extension(_), b'\n') => return None,
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeLf(0), b'\n') => Self::LineStart,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size(0, false),
            (Self::LineStart, b'\r') => Self::EndLf,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::LineStart | Self::Trailer, _) => Self::Trailer,
            (Self::TrailerLf, b'\n') => Self::LineStart,
            (Self::EndLf, b'\n') => return Some(At::Head),
            _ => return None,
        };
        Some(At::Chunk(next))
    }
}

/// What is left of `bytes` and of `length` when as much as possible is skipped.
fn skip(bytes: &[u8], length: u64) -> (&[u8], u64) {
    let here = usize::try_from(length).map_or(bytes.len(), |length| length.min(bytes.len()));
    (&bytes[here..], length - here as u64)
}

/// What matters in one head.
#[derive(Debug, Default)]
struct Facts {
    /// Where it ends, its empty line included.
    end: usize,
    preface: bool,
    fragment: bool,
    coded: bool,
    lengths: u32,
    length: u64,
    bare_lf: bool,
}

/// The head that `bytes` begin with; `None` where it has no end yet. One pass over its line ends.
fn facts(bytes: &[u8]) -> Option<Facts> {
    let mut facts = Facts::default();
    let mut start = 0;
    for end in memchr_iter(b'\n', bytes) {
        let line = &bytes[start..end];
        facts.bare_lf |= line.last() != Some(&b'\r');
        match line.first() {
            None | Some(b'\r') if line.len() <= 1 => {
                facts.end = end + 1;
                return Some(facts);
            }
            _ if start == 0 => {
                // A method may have a `#`, a target not (RFC 9112 §3.2).
                facts.fragment = memchr(b'#', line).is_some()
                    && memchr(b' ', line).is_some_and(|space| line[space..].contains(&b'#'));
                facts.preface = line.starts_with(PREFACE_LINE);
            }
            Some(b'c' | b'C') => {
                if let Some(value) = field(line, b"content-length") {
                    facts.lengths += 1;
                    facts.length = number(value);
                }
            }
            Some(b't' | b'T') => facts.coded |= field(line, b"transfer-encoding").is_some(),
            _ => {}
        }
        start = end + 1;
    }
    None
}

fn has_empty_line(bytes: &[u8]) -> bool {
    memchr_iter(b'\n', bytes).any(|at| {
        let rest = &bytes[at + 1..];
        rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
    })
}

/// The value, if the line is this field.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, value) = line.split_at_checked(name.len())?;
    match value {
        [b':', value @ ..] if found.eq_ignore_ascii_case(name) => Some(value.trim_ascii()),
        _ => None,
    }
}

/// A length; hyper refuses whatever else the value may be.
fn number(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `stream` in pieces of `size`; says of each of `requests` requests whether it passes.
    fn judge(stream: &str, size: usize, requests: usize) -> Vec<bool> {
        let (watch, mut heads) = (Watch::default(), Heads::new());
        for piece in stream.as_bytes().chunks(size) {
            heads.read(piece, &watch);
        }
        (0..requests).map(|_| watch.judge().is_ok()).collect()
    }

    fn judged_alike(stream: &str, requests: usize) -> Vec<bool> {
        let whole = judge(stream, usize::MAX, requests);
        for size in 1..stream.len() {
            assert_eq!(
                judge(stream, size, requests),
                whole,
                "in pieces of {size}: {stream:?}"
            );
        }
        whole
    }

    const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\nCookie: content-length\r\n\r\n";

    #[test]
    fn plain_requests_pass_one_after_the_other() {
        assert_eq!(judged_alike(&GET.repeat(3), 3), [true; 3]);
        assert_eq!(judged_alike("\r\n\nGET / HTTP/1.1\nHost: a\n\n", 1), [true]);
        assert_eq!(judged_alike("G!E#T / HTTP/1.1\r\n\r\n", 1), [true]);
    }

    #[test]
    fn two_ends_of_one_message_are_seen_in_any_order_and_spelling() {
        for fields in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "transfer-encoding:chunked\r\nCONTENT-LENGTH:3",
            "Transfer-Encoding: chunked\nX: y\nContent-Length: x",
            "Content-Length: 3\r\nContent-Length: 3",
        ] {
            let bad = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nabc");
            assert_eq!(judged_alike(&bad, 1), [false], "{fields}");
            assert_eq!(
                judged_alike(&format!("{GET}{bad}"), 3),
                [true, false, false]
            );
        }
    }

    #[test]
    fn a_line_that_only_begins_with_cr_ends_no_head() {
        let odd = "GET / HTTP/1.1\r\n\rX: y\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";
        assert_eq!(judged_alike(odd, 1), [false]);
    }

    #[test]
    fn a_fragment_in_the_target_is_seen() {
        assert_eq!(
            judged_alike("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 1),
            [false]
        );
        let header = "GET /a HTTP/1.1\r\nReferer: /#x\r\n\r\n";
        assert_eq!(judged_alike(header, 1), [true]);
    }

    #[test]
    fn bodies_are_not_taken_for_heads() {
        let fake = "GET /#x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let length = format!(
            "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{fake}",
            fake.len()
        );
        assert_eq!(judged_alike(&format!("{length}{GET}"), 2), [true; 2]);
        let chunked = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n{:x} \r\n{fake}\r\n000\r\nA: b\r\n\r\n",
            fake.len()
        );
        assert_eq!(judged_alike(&format!("{chunked}{GET}"), 2), [true; 2]);
        assert_eq!(judged_alike(&format!("{chunked}{fake}"), 2), [true, false]);
    }

    #[test]
    fn nothing_passes_after_a_body_without_a_clear_end() {
        for body in [
            "x\r\n",
            "1\nx\r\n0\r\n\r\n",
            "1\r\nxy\r\n",
            "fffffffffffffffff\r\n",
            "0\r\n\rx",
        ] {
            let stream = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(judged_alike(&stream, 2), [true, false], "{body:?}");
        }
    }

    #[test]
    fn http_2_and_tunnels_are_not_looked_at() {
        let (watch, mut heads) = (Watch::default(), Heads::new());
        heads.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n#", &watch);
        assert_eq!(heads.awaited(), Awaited::Unknown);
        let (watch, mut heads) = (Watch::default(), Heads::new());
        heads.read(GET.as_bytes(), &watch);
        watch.becomes_tunnel();
        heads.read(b"GET /#", &watch);
        assert_eq!(
            (heads.awaited(), heads.partial.capacity()),
            (Awaited::Unknown, 0)
        );
    }

    #[test]
    fn it_is_known_what_is_awaited_and_nothing_is_kept_between_messages() {
        let (watch, mut heads) = (Watch::default(), Heads::new());
        assert_eq!(heads.awaited(), Awaited::Anything);
        for (bytes, awaited) in [
            ("POST / HTT", Awaited::RestOfHead),
            ("P/1.1\r\nContent-Length: 2\r\n\r\n", Awaited::Body),
            ("ab", Awaited::NextHead),
        ] {
            heads.read(bytes.as_bytes(), &watch);
            assert_eq!(heads.awaited(), awaited);
        }
        assert_eq!(heads.partial.capacity(), 0);
        assert!(!watch.take_bare_lf());
        heads.read(b"GET / HTTP/1.1\n\n", &watch);
        assert!(watch.take_bare_lf() && !watch.take_bare_lf());
    }
}
