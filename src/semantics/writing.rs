//! Where the fields of an answer are written: a map, or the very bytes that leave.
//!
//! Never decides what is written.

use http::{HeaderMap, HeaderName, HeaderValue};

/// A field's value on its way out.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Words of ours.
    Static(&'static str),
    /// Visible ASCII, or what a field held before.
    Text(&'a [u8]),
}

/// Adds a field line of HTTP/1.1 (RFC 9112 §5) to the end of `out`. The value is [`is_text`].
pub fn line(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether there are no control characters but the tab (RFC 9110 §5.5), so that nothing ends its line. To
/// look at all bytes costs less than to stop at the first.
#[must_use]
pub fn is_text(bytes: &[u8]) -> bool {
    let is_text = |byte: u8| ((byte >= b' ') | (byte == b'\t')) & (byte != 0x7f);
    bytes.iter().fold(true, |all, byte| all & is_text(*byte))
}

/// Where the fields of an answer are written.
pub trait Fields {
    /// In place of any other field with this name.
    fn put(&mut self, name: HeaderName, value: Value<'_>);
    /// Beside others with this name, after them.
    fn add(&mut self, name: HeaderName, value: Value<'_>);
    /// Where there is none with this name.
    fn fill(&mut self, name: HeaderName, value: Value<'_>);
}

impl Fields for HeaderMap {
    fn put(&mut self, name: HeaderName, value: Value<'_>) {
        self.insert(name, value.field());
    }

    fn add(&mut self, name: HeaderName, value: Value<'_>) {
        self.append(name, value.field());
    }

    fn fill(&mut self, name: HeaderName, value: Value<'_>) {
        self.entry(name).or_insert_with(|| value.field());
    }
}

impl Value<'_> {
    fn field(self) -> HeaderValue {
        match self {
            Self::Static(words) => HeaderValue::from_static(words),
            // What cannot stand in a field would be a route's name at worst.
            Self::Text(bytes) => {
                let mut value =
                    HeaderValue::from_bytes(bytes).unwrap_or(HeaderValue::from_static(""));
                // Hardly ever the same twice: HPACK's table is for others (RFC 7541 §6.2.3).
                value.set_sensitive(true);
                value
            }
        }
    }
}
