//! Scenarios against the real binary: the app says, larder is configured, the client expects.

mod support;
