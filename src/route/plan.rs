//! What is to be done with a request: tunnel, pass or look up.

use super::{Rule, Target};
use crate::semantics::{Key, Reason};
use http::{HeaderMap, Method};

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Hand the connection over (Upgrade).
    Tunnel,
    /// Send it to the app and do not look at the store.
    Pass(Reason),
    /// Look the key up, fetch and store if need be.
    Lookup(Key),
}

/// A request, as far as planning looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host in normal form: lower case, no default port, no trailing dot.
    pub authority: &'a str,
    /// Its target.
    pub target: &'a Target<'a>,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// Whether a body follows.
    pub has_body: bool,
}

impl Rule {
    /// Decides. `identity` holds one value for each member of `key.per`, in order; a member without
    /// a value (nobody is logged in) makes the answer unshareable: `Pass(Private)`.
    #[must_use]
    pub fn plan(&self, asked: &Asked<'_>, identity: &[Option<Vec<u8>>]) -> Plan {
        let _ = (asked, identity);
        unimplemented!()
    }

    /// The query to send to the app on a fetch that may be stored: without ignored parameters,
    /// everything else byte for byte.
    #[must_use]
    pub fn fetch_query<'a>(&self, query: Option<&'a str>) -> Option<std::borrow::Cow<'a, str>> {
        let _ = query;
        unimplemented!()
    }
}
