//! Heads on their way out past hyper: the very bytes of an HTTP/1.1 head (RFC 9112 §4, §5).
//!
//! Never decides what is written.

use crate::cache::Entry;
use crate::semantics::Timestamp;
use crate::semantics::line::digits;
use crate::semantics::writing::{Fields, Value};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, DATE, HeaderName, HeaderValue, VIA};

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
        let length = digits(entry.body_bytes() as u64);
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
        self.add(DATE, Value::Text(now.http_date().as_bytes()));
        self.end();
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
            Value::Text(bytes) if bytes.iter().any(is_forbidden) => self.line(&name, b""),
            Value::Text(bytes) => self.line(&name, bytes),
        }
    }

    fn fill(&mut self, name: HeaderName, value: Value<'_>) {
        self.add(name, value);
    }
}

/// Control characters but the tab (RFC 9110 §5.5).
fn is_forbidden(byte: &u8) -> bool {
    (*byte < b' ' && *byte != b'\t') || *byte == 0x7f
}

fn line(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
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
