//! For tests: entries.

use super::{Entry, Position};
use crate::semantics::stored::{Lifetime, Validators};
use crate::semantics::{Sharing, Stored, Timestamp, Vary};
use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// Fresh for a minute from `Timestamp` 0 on, without validator and tags.
pub(crate) fn entry(url: &str, body: &[u8]) -> Entry {
    Entry {
        stored: Stored {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: body.to_vec().into(),
            trailers: HeaderMap::new(),
            lifetime: Lifetime {
                received: Timestamp::default(),
                initial_age: Duration::ZERO,
                fresh: Duration::from_secs(60),
                stale_while_revalidate: Duration::ZERO,
                stale_if_error: Duration::ZERO,
                must_revalidate: false,
                no_cache: false,
                immutable: false,
            },
            vary: Vary::default(),
            sharing: Sharing::App,
            validators: Validators::default(),
        },
        tags: Box::default(),
        url: url.into(),
        position: Position::default(),
        app_time: Duration::from_millis(400),
        prepared: super::Prepared::new(),
    }
}
