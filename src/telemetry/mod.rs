//! What happened, told outside: metrics (one table), access log, traces, hot keys.
//!
//! A request's thread only adds to its own worker's counters and hands records over; formatting and
//! exporting happen elsewhere. Nothing here ever waits or fails a request.

pub mod hot;
pub mod log;
pub mod metrics;
pub mod otlp;
pub mod pulse;
mod slots;
pub mod trace;

pub use hot::Hot;
pub use log::{AccessLog, AccessRecord};
pub use metrics::{Metrics, Recorder, RouteHandle};
pub use otlp::Otlp;
pub use pulse::Pulse;
pub use trace::{Span, TraceContext, Traces};
