//! larder: a sidecar reverse caching proxy.
//!
//! One crate of rooms on floors; a room uses only rooms on lower floors (a test holds it so).
//! `ARCHITECTURE.md` has the map. From the ground up:
//!
//! | floor | rooms |
//! |---|---|
//! | 0 | [`semantics`]: HTTP caching as pure decisions |
//! | 1 | [`clock`], [`cgroup`], [`route`], [`identity`], [`evidence`] |
//! | 2 | [`config`] |
//! | 3 | [`telemetry`] |
//! | 4 | [`redis_client`] |
//! | 5 | [`cache`], [`limit`], [`upstream`] |
//! | 6 | [`purging`] |
//! | 7 | [`proxy`] |
//! | 8 | [`server`], [`admin`], [`demo`] |
//! | 9 | [`app`] |
//! | 10 | [`cli`] |

pub mod admin;
pub mod app;
pub mod cache;
pub mod cgroup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod evidence;
pub mod identity;
pub mod limit;
pub mod proxy;
pub mod purging;
pub mod redis_client;
pub mod route;
pub mod secret;
pub mod semantics;
pub mod server;
pub mod telemetry;
pub mod upstream;
