//! HTTP caching as pure decisions: RFC 9110, 9111, 5861, 8246, 9211, 9213, 9875, No-Vary-Search.
//!
//! Header fields and a [`Timestamp`] go in, a verdict with its [`Reason`] comes out. This room knows
//! no socket, no clock, no YAML and no Redis, and writes no log.

pub mod answer;
pub mod authority;
pub mod cache_status;
pub mod content;
pub mod directives;
pub mod enclosed;
pub mod fields;
pub mod freshness;
pub mod graphql;
pub mod groups;
pub mod invalidation;
pub mod key;
pub mod line;
pub mod range;
pub mod reason;
pub mod reuse;
pub mod search;
pub mod slices;
pub mod stored;
pub mod storing;
pub mod tags;
#[cfg(test)]
pub(crate) mod testing;
pub mod time;
pub mod validation;
pub mod vary;
pub mod what_if;
pub mod writing;

pub use answer::{Answer, answer};
pub use authority::{Hosts, normal_authority};
pub use cache_status::CacheStatus;
pub use key::{Key, KeyBuilder};
pub use reason::{Outcome, Reason};
pub use reuse::{Reuse, reuse, usable_on_error};
pub use search::Variation;
pub use slices::Slices;
pub use stored::{Sharing, Stored, Validators};
pub use storing::{Exchange, Policy, SetCookie, Ttl, renewal, storable};
pub use time::Timestamp;
pub use vary::Vary;
