//! The answer that a stored response gives to one request: 200, 206, 304 or 416
//! (RFC 9110 §13, §14; RFC 9111 §4.3.2).

use super::{Stored, Timestamp};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

/// A response made from the store. The content is slices of the stored body, never copied.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// 304 and 416 beside the stored status and 206.
    pub status: StatusCode,
    /// The stored fields as this answer sends them, with `Age`; without Content-Length.
    pub headers: HeaderMap,
    /// Content in order; empty for HEAD, 304 and 416.
    pub body: Vec<Bytes>,
    /// What Content-Length says: for HEAD the length a GET would have had.
    pub content_length: Option<u64>,
}

/// Answers `request` (GET or HEAD) from `stored`, judging its preconditions and ranges.
#[must_use]
pub fn answer(method: &Method, request: &HeaderMap, stored: &Stored, now: Timestamp) -> Answer {
    let _ = (method, request, stored, now);
    unimplemented!()
}
