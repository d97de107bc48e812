//! For tests: entries.

use super::{Entry, Label};
use crate::semantics::stored::Lifetime;
use crate::semantics::{Sharing, Stored, Timestamp, Vary};
use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// Fresh for a minute from `Timestamp` 0 on, without validator.
pub(crate) fn stored(body: &[u8]) -> Stored {
    Stored {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: body.to_vec().into(),
        elsewhere: 0,
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
    }
}

/// The same, received at another moment.
pub(crate) fn stored_at(received: Timestamp, body: &[u8]) -> Stored {
    let mut stored = stored(body);
    stored.lifetime.received = received;
    stored
}

/// Without tags.
pub(crate) fn label(url: &str) -> Label {
    Label {
        url: url.into(),
        app_time: Duration::from_millis(400),
        ..Label::default()
    }
}

/// Both.
pub(crate) fn entry(url: &str, body: &[u8]) -> Entry {
    Entry::new(&stored(body), &label(url))
}
