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
