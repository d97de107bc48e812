//! What others are told of purges that begin here: a queue that never delays a purge, and messages signed
//! as the webhook's are.
//!
//! Opens no socket; whoever sends takes from here.

use super::request::{PURGES_MAX, written};
use super::webhook::{
    CONTENT_BYTES_MAX, ID_BYTES_MAX, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP,
};
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

/// Bytes of purges in one of them, unless a single one has more: what is around them fits beside.
const NOTICE_BYTES: usize = CONTENT_BYTES_MAX - 1_024;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its name, the same however often it is sent.
    pub id: String,
    /// What was purged, as `POST /v1/purge` takes it, with who did.
    pub content: Bytes,
}

impl Notice {
    /// What tells of these purges: as many messages as it takes that a webhook accepts each.
    pub(super) fn of(purges: &[Purge], by: &By) -> Vec<Self> {
        let id = match (by.way, &by.name) {
            // What was heard is told on by the name that it came by: who hears it again knows it.
            (Way::Webhook, Some(id)) => id.to_string(),
            _ => format!("purge_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
        };
        let notice = |(at, some): (usize, &[Purge])| {
            let mut content = written(some);
            content["by"] = by.way.word().into();
            let mut id = id.clone();
            if at > 0 {
                let further = format!(".{at}");
                id.truncate(ID_BYTES_MAX.saturating_sub(further.len()));
                id.push_str(&further);
            }
            Self {
                id,
                content: format!("{content}\n").into(),
            }
        };
        split(purges).into_iter().enumerate().map(notice).collect()
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

/// In order, so many at a time as one message has room for.
fn split(purges: &[Purge]) -> Vec<&[Purge]> {
    let (mut parts, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (at, purge) in purges.iter().enumerate() {
        let length = written(std::slice::from_ref(purge)).to_string().len();
        if at > begin && (at - begin == PURGES_MAX || bytes + length > NOTICE_BYTES) {
            parts.push(&purges[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += length;
    }
    parts.push(&purges[begin..]);
    parts
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

    pub(super) fn add(&self, notices: impl FnOnce() -> Vec<Notice>) {
        if !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let notices = notices();
        let mut waiting = locked(&self.waiting);
        for notice in notices {
            if waiting.len() >= NOTICES_MAX {
                waiting.pop_front();
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            waiting.push_back(notice);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Scope;
    use std::sync::Arc;

    fn told(way: Way, name: Option<&str>, scopes: impl Iterator<Item = Scope>) -> Vec<Notice> {
        let purges: Vec<_> = scopes.map(|scope| Purge { scope, soft: true }).collect();
        let by = By {
            way,
            name: name.map(Arc::from),
            now: Timestamp::from_millis(0),
        };
        Notice::of(&purges, &by)
    }

    #[test]
    fn no_message_is_more_than_a_webhook_takes_and_each_has_a_name() {
        let tags = (0..300).map(|n| Scope::Tag(n.to_string()));
        let urls = (0..30).map(|n| Scope::Url(format!("/{n}/{}", "\"".repeat(4_000))));
        let id = "x".repeat(ID_BYTES_MAX);
        let notices = told(Way::Webhook, Some(&id), tags.chain(urls));
        assert!(notices.len() > 3);
        let mut count = 0;
        for notice in &notices {
            assert!(notice.content.len() <= CONTENT_BYTES_MAX);
            assert!(notice.id.len() <= ID_BYTES_MAX);
            let content: serde_json::Value = serde_json::from_slice(&notice.content).unwrap();
            let purges = content["purges"].as_array().unwrap().len();
            assert!((1..=PURGES_MAX).contains(&purges));
            count += purges;
        }
        assert_eq!(count, 330);
        let ids: std::collections::HashSet<_> = notices.iter().map(|notice| &notice.id).collect();
        assert_eq!((ids.len(), &notices[0].id), (notices.len(), &id));
    }
}
