//! Scenarios against the real binary: the app says, larder is configured, the client expects.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

mod admin;
mod audit;
mod before_and_after;
mod browser;
mod caching;
mod cli;
mod cold_start;
mod deploy;
mod direct;
mod doctor;
mod entries;
mod experiment;
mod explain;
mod framing;
mod hot;
mod large_bodies;
mod limits;
mod pool;
mod post_reads;
mod presets;
mod purging;
mod purging_ways;
mod query_method;
mod redis_access;
mod redis_away;
mod redis_full;
mod redis_watched;
mod reload;
mod rfc;
mod rig;
mod secrets;
mod serving;
mod session;
mod shadow;
mod stampede;
mod stopping;
mod suggest;
mod telemetry;
mod tls;
mod topologies;
mod unkeyed;
mod warming;
mod websocket;
