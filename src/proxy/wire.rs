//! Heads on their way out past hyper: the very bytes of an HTTP/1.1 head (RFC 9112 §4, §5).
//!
//! Never decides what is written.

use crate::semantics::line::digits;
use crate::semantics::writing::{Fields, Value};
use crate::semantics::{Stored, Timestamp};
use http::header::{CONTENT_LENGTH, DATE, HeaderName, HeaderValue, VIA};
use http::{StatusCode, Version};
use std::cell::Cell;
use std::io::Write;

thread_local! {
    /// The second whose date was written last, and that date.
    static DATED: Cell<(u64, [u8; 29])> = const { Cell::new((0, *b"Thu, 01 Jan 1970 00:00:00 GMT")) };
}

/// A head as an HTTP/1.1 connection carries it, under the pen. What was put into it stays: nothing
/// that it holds may be put in again.
#[derive(Debug)]
pub(super) struct Head<'a>(&'a mut Vec<u8>);

impl<'a> Head<'a> {
    /// Begins one at the end of `out` with what was prepared by [`prepare`].
    pub fn begin(out: &'a mut Vec<u8>, prepared: &[u8]) -> Self {
        out.extend_from_slice(prepared);
        Self(out)
    }

    /// Begins the head of an answer that nobody stored.
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
            Value::Text(bytes) if has_forbidden(bytes) => self.line(&name, b""),
            Value::Text(bytes) => self.line(&name, bytes),
        }
    }

    fn fill(&mut self, name: HeaderName, value: Value<'_>) {
        self.add(name, value);
    }
}

/// Control characters but the tab (RFC 9110 §5.5). All are looked at: that is quicker than to stop at one.
fn has_forbidden(bytes: &[u8]) -> bool {
    let forbidden = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    (bytes.iter()).fold(false, |any, byte| any | forbidden(byte))
}

fn line(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What every whole answer from `stored` begins with: status line, stored fields, `Via` and
/// `Content-Length`. `None` where an answer is no plain one: a part, one without content or with
/// trailers, or one whose stored fields include some that are to be
/// `replaced`.
pub(super) fn prepare(
    stored: &Stored,
    via: &HeaderValue,
    replaced: &[HeaderName],
) -> Option<Box<[u8]>> {
    let plain = stored.trailers.is_empty()
        && !stored.status.is_informational()
        && !matches!(
            stored.status,
            StatusCode::PARTIAL_CONTENT
                | StatusCode::NO_CONTENT
                | StatusCode::RESET_CONTENT
                | StatusCode::NOT_MODIFIED
        );
    if !plain
        || replaced
            .iter()
            .any(|name| stored.headers.contains_key(name))
    {
        return None;
    }
    let mut head = Vec::with_capacity(512);
    // Writing into a Vec cannot fail.
    let _ = write!(head, "{:?} {}\r\n", Version::HTTP_11, stored.status);
    for (name, value) in &stored.headers {
        line(&mut head, name, value.as_bytes());
    }
    line(&mut head, &VIA, via.as_bytes());
    let _ = write!(head, "{CONTENT_LENGTH}: {}\r\n", stored.body.len());
    Some(head.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::SERVER;

    #[test]
    fn no_value_ends_its_line() {
        let mut out = Vec::new();
        let mut head = Head::begin(&mut out, b"HTTP/1.1 200 OK\r\n");
        head.add(SERVER, Value::Text(b"a\r\nset-cookie: b"));
        head.add(SERVER, Value::Text(b"a\tb"));
        head.end();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nserver: \r\nserver: a\tb\r\n\r\n"
        );
    }
}
