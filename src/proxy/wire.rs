//! Heads on their way out past hyper: the very bytes of an HTTP/1.1 head (RFC 9112 §4, §5).
//!
//! Never decides what is written.

use crate::cache::Entry;
use crate::semantics::Timestamp;
use crate::semantics::line::digits;
use crate::semantics::writing::{Fields, Value, is_text, line};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderName, HeaderValue, TRANSFER_ENCODING, VIA,
};
use http::{HeaderMap, StatusCode};
use std::cell::Cell;

thread_local! {
    /// The second whose date was written last, and that date.
    static DATED: Cell<(u64, [u8; 29])> = const { Cell::new((0, *b"Thu, 01 Jan 1970 00:00:00 GMT")) };
}

/// A head as an HTTP/1.1 connection carries it, under the pen. What was put into it stays: nothing
/// that it holds may be put in again.
#[derive(Debug)]
pub(super) struct Head<'a>(&'a mut Vec<u8>);

impl<'a> Head<'a> {
    /// Begins the head of a whole answer from `entry`, which has to be plain, at the end of `out`:
    /// status line, stored fields, `Via` and `Content-Length`.
    pub fn stored(out: &'a mut Vec<u8>, entry: &Entry, via: &HeaderValue) -> Self {
        let mut head = Self::new(out, entry.status());
        head.0.extend_from_slice(entry.fields());
        head.line(&VIA, via.as_bytes());
        let length = digits(entry.body_bytes());
        head.line(&CONTENT_LENGTH, length.as_bytes());
        head
    }

    /// Begins the head of an answer with this status.
    pub fn new(out: &'a mut Vec<u8>, status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or("<none>");
        for piece in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
        Self(out)
    }

    /// Adds what hyper adds to every answer with content, and ends the head.
    pub fn end_with(mut self, length: usize, now: Timestamp) {
        self.add(
            CONTENT_LENGTH,
            Value::Text(digits(length as u64).as_bytes()),
        );
        self.date(now);
        self.end();
    }

    /// Adds the date, which is made once a second.
    fn date(&mut self, now: Timestamp) {
        DATED.with(|dated| {
            let (second, mut date) = dated.get();
            if second != now.as_secs() {
                let text = now.http_date();
                // As long as every HTTP date.
                if let Ok(text) = text.as_bytes().try_into() {
                    date = text;
                    dated.set((now.as_secs(), date));
                }
            }
            self.line(&DATE, &date);
        });
    }

    /// Ends the head.
    pub fn end(self) {
        self.0.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, name: &HeaderName, value: &[u8]) {
        line(self.0, name, value);
    }
}

impl Fields for Head<'_> {
    fn put(&mut self, name: HeaderName, value: Value<'_>) {
        self.add(name, value);
    }

    fn add(&mut self, name: HeaderName, value: Value<'_>) {
        match value {
            Value::Static(words) => self.line(&name, words.as_bytes()),
            // As in a map: what could end the line ends nothing.
            Value::Text(bytes) if is_text(bytes) => self.line(&name, bytes),
            Value::Text(_) => self.line(&name, b""),
        }
    }

    fn fill(&mut self, name: HeaderName, value: Value<'_>) {
        self.add(name, value);
    }
}

/// Room for the names that are written over what an answer has.
const WRITTEN_OVER: usize = 12;

/// How it is told where the content of an answer ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none, whatever the body holds.
    Empty,
    /// So many bytes follow the head.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// The head of an answer that has `fields` already, under the pen: what is written first takes the
/// place of what is there.
#[derive(Debug)]
pub(super) struct Over<'a> {
    head: Head<'a>,
    fields: &'a HeaderMap,
    /// Names that are written.
    written: Vec<HeaderName>,
}

impl Over<'_> {
    fn is_written(&self, name: &HeaderName) -> bool {
        self.written.contains(name)
    }
}

impl Fields for Over<'_> {
    fn put(&mut self, name: HeaderName, value: Value<'_>) {
        self.head.put(name.clone(), value);
        self.written.push(name);
    }

    fn add(&mut self, name: HeaderName, value: Value<'_>) {
        if !self.is_written(&name) {
            for before in self.fields.get_all(&name) {
                self.head.line(&name, before.as_bytes());
            }
        }
        self.put(name, value);
    }

    fn fill(&mut self, name: HeaderName, value: Value<'_>) {
        if !self.is_written(&name) && !self.fields.contains_key(&name) {
            self.put(name, value);
        }
    }
}

/// Writes the head of an answer to a GET, with what `dress` writes over its fields, and whose content
/// has this `length` if that is known.
pub(super) fn response(
    out: &mut Vec<u8>,
    status: StatusCode,
    fields: &HeaderMap,
    length: Option<u64>,
    now: Timestamp,
    dress: impl FnOnce(&mut Over<'_>),
) -> Framing {
    // RFC 9110 §6.4.1
    let is_empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = match length {
        _ if is_empty => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    let mut over = Over {
        head: Head::new(out, status),
        fields,
        written: Vec::with_capacity(WRITTEN_OVER),
    };
    dress(&mut over);
    for (name, value) in fields {
        // What tells the end is written below; a 304 may state the length of what it does not send
        // (RFC 9110 §8.6).
        let is_of_frame = match *name {
            CONTENT_LENGTH => status != StatusCode::NOT_MODIFIED,
            TRANSFER_ENCODING | CONNECTION => true,
            _ => false,
        };
        if !is_of_frame && !over.is_written(name) {
            over.head.line(name, value.as_bytes());
        }
    }
    match framing {
        Framing::Empty => {}
        Framing::Length(length) => over.put(CONTENT_LENGTH, Value::Text(digits(length).as_bytes())),
        Framing::Chunked => over.put(TRANSFER_ENCODING, Value::Static("chunked")),
    }
    if !fields.contains_key(DATE) {
        over.head.date(now);
    }
    over.head.end();
    framing
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::SERVER;

    #[test]
    fn no_value_ends_its_line() {
        let mut out = Vec::new();
        let mut head = Head::new(&mut out, StatusCode::OK);
        head.add(SERVER, Value::Text(b"a\r\nset-cookie: b"));
        head.add(SERVER, Value::Text(b"a\tb"));
        head.end();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nserver: \r\nserver: a\tb\r\n\r\n"
        );
    }
}
