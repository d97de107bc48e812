//! A request target read twice: as sent (for the app) and decoded (for rules and limits).

use std::borrow::Cow;

/// Path and query of a request.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// The path exactly as received; forwarded so.
    pub path: &'a str,
    /// The query exactly as received, without `?`.
    pub query: Option<&'a str>,
    /// The path percent-decoded, slashes collapsed, dots resolved: rules are chosen on it.
    pub decoded: Cow<'a, str>,
    /// The path can be read in two ways (encoded delimiters, dot segments, `//`, `;`, `\`,
    /// non-ASCII, control bytes): it is forwarded, never cached, and limited as `decoded`.
    pub ambiguous: bool,
}

impl<'a> Target<'a> {
    /// Reads an origin-form target.
    #[must_use]
    pub fn parse(path: &'a str, query: Option<&'a str>) -> Self {
        let _ = (path, query);
        unimplemented!()
    }

    /// The first value of a query parameter, decoded.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<Cow<'a, str>> {
        let _ = name;
        unimplemented!()
    }
}
