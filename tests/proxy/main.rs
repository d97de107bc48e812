//! Scenarios against the real binary: the app says, larder is configured, the client expects.

mod support;

mod admin;
mod browser;
mod caching;
mod cli;
mod deploy;
mod limits;
mod purging;
mod redis_away;
mod reload;
mod rig;
mod serving;
mod session;
mod stopping;
mod telemetry;
mod tls;
mod websocket;
