//! What others are told of purges that begin here: a queue that never delays a purge, and messages signed
//! as the webhook's are.
//!
//! Opens no socket; whoever sends takes from here.

use super::request::written;
use super::webhook::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use super::{By, Way, locked};
use crate::cache::Purge;
use crate::secret::SigningKey;
use crate::semantics::Timestamp;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Messages that wait to be sent; the oldest goes when there is one more.
pub const NOTICES_MAX: usize = 1_000;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its name, the same however often it is sent.
    pub id: String,
    /// What was purged, as `POST /v1/purge` takes it, with who did.
    pub content: Bytes,
}

impl Notice {
    pub(super) fn of(purges: &[Purge], by: &By) -> Self {
        let mut content = written(purges);
        content["by"] = by.way.word().into();
        let id = match (by.way, &by.name) {
            // What was heard is told on by the name that it came by: who hears it again knows it.
            (Way::Webhook, Some(id)) => id.to_string(),
            _ => format!("purge_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
        };
        Self {
            id,
            content: format!("{content}\n").into(),
        }
    }

    /// The fields that it is sent with.
    #[must_use]
    pub fn fields(&self, key: Option<&SigningKey>, now: Timestamp) -> HeaderMap {
        let timestamp = now.as_secs().to_string();
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut add = |name, value: &str| {
            // Letters, digits and base64 always make a value.
            if let Ok(value) = HeaderValue::from_str(value) {
                fields.insert(name, value);
            }
        };
        add(WEBHOOK_ID, &self.id);
        add(WEBHOOK_TIMESTAMP, &timestamp);
        if let Some(key) = key {
            let (id, timestamp) = (self.id.as_bytes(), timestamp.as_bytes());
            let signature = key.sign(&[id, b".", timestamp, b".", &self.content]);
            add(WEBHOOK_SIGNATURE, &format!("v1,{signature}"));
        }
        fields
    }
}

/// The queue.
#[derive(Debug, Default)]
pub struct Notices {
    wanted: AtomicBool,
    waiting: Mutex<VecDeque<Notice>>,
    added: Notify,
    dropped: AtomicU64,
}

impl Notices {
    /// Whether anybody is to be told. What waits for nobody is forgotten.
    pub fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
        if !wanted {
            locked(&self.waiting).clear();
        }
    }

    pub(super) fn add(&self, notice: impl FnOnce() -> Notice) {
        if !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut waiting = locked(&self.waiting);
        if waiting.len() >= NOTICES_MAX {
            waiting.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back(notice());
        drop(waiting);
        self.added.notify_one();
    }

    /// The oldest, once there is one.
    pub async fn next(&self) -> Notice {
        loop {
            let next = locked(&self.waiting).pop_front();
            match next {
                Some(notice) => return notice,
                None => self.added.notified().await,
            }
        }
    }

    /// How many went unsent because too many waited, since this was last asked.
    #[must_use]
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}
