//! The access log and the log of events: pretty or JSON lines, written by a thread of their own.

use crate::semantics::{Outcome, Reason};
use http::{Method, StatusCode};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Takes records without ever waiting; what does not fit is dropped and counted.
#[derive(Clone, Debug)]
pub struct AccessLog {}

/// One request, as logged. Never holds a query, cookie or token.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// Method.
    pub method: Method,
    /// Path without query.
    pub path: Box<str>,
    /// Route name.
    pub route: Arc<str>,
    /// Status sent.
    pub status: StatusCode,
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// To the head of the answer.
    pub duration: Duration,
    /// The limit that refused, if one did.
    pub limit: Option<String>,
    /// 32 hexadecimal digits.
    pub trace_id: Box<str>,
    /// The client.
    pub client: IpAddr,
    /// Seconds of freshness left (hits) or given (stored misses).
    pub ttl: Option<i64>,
    /// What the app was asked or what was purged, for people: `purged car:42 (2)`.
    pub note: Option<String>,
}

impl AccessLog {
    /// Whether this record would be written: hits are sampled, errors and slow requests never left
    /// out. Asked before a record is made, so that a hit costs nothing here.
    #[must_use]
    pub fn wants(&self, status: StatusCode, outcome: Outcome, duration: Duration) -> bool {
        let _ = (status, outcome, duration);
        false
    }

    /// Hands a record to the writer.
    pub fn write(&self, record: AccessRecord) {
        let _ = record;
    }
}
