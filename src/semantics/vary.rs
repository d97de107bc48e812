//! Which request fields select a stored response (RFC 9111 §4.1).

use http::{HeaderMap, HeaderName};

/// The selecting request fields of a stored response, with the normalised values it was stored for.
///
/// Empty for a response without `Vary`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vary {
    /// Field name (lower case, sorted, each once) and the normalised value; `None` where the request had no such field.
    pub fields: Box<[(HeaderName, Option<Box<[u8]>>)]>,
}

/// Why a `Vary` cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unselectable {
    /// `Vary: *`, alone or as a member.
    Star,
    /// Names more fields than [`FIELDS_MAX`], or something that is no field name.
    TooMany,
}

/// The most field names a stored response may vary on.
pub const FIELDS_MAX: usize = 8;

impl Vary {
    /// Reads all `Vary` lines of `response` and takes the named values from `request`.
    pub fn select(response: &HeaderMap, request: &HeaderMap) -> Result<Self, Unselectable> {
        let _ = (response, request);
        unimplemented!()
    }

    /// Whether `request` selects the response that this was taken from.
    #[must_use]
    pub fn matches(&self, request: &HeaderMap) -> bool {
        let _ = request;
        unimplemented!()
    }

    /// Whether the response varies on nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The names alone, in their order.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter().map(|(name, _)| name)
    }
}

/// One digestible form of the values that `request` has for `names`: equal exactly when the same variant is selected.
#[must_use]
pub fn variant<'a>(names: impl Iterator<Item = &'a HeaderName>, request: &HeaderMap) -> Vec<u8> {
    let _ = (names, request);
    unimplemented!()
}
