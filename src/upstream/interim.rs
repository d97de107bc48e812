//! Interim answers (1xx) on their way from the app to an HTTP/1.1 client (RFC 9110 §15.2): which go,
//! and where they wait until the client's connection has room between two messages for them.
//!
//! They are never stored, and nothing of theirs gets into the answer itself. Who asks by HTTP/1.0 or
//! HTTP/2 gets none: the one does not know them, hyper's server cannot send them on the other.

use crate::semantics::fields;
use crate::semantics::writing::line;
use http::header::{CONTENT_LENGTH, PROXY_AUTHENTICATE, SET_COOKIE, TE, TRAILER};
use http::{HeaderMap, StatusCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The head of one interim answer, in bytes; longer ones are dropped.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// What may wait for one connection, in bytes; what would be more is dropped.
const WAITING_BYTES_MAX: usize = 32 * 1024;

/// The interim answers that wait for one client's connection. Only those to the request that is being
/// answered are ever given out.
#[derive(Debug, Default)]
pub struct Interims {
    /// Something waits: all that is looked at where nothing does.
    waiting: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The request that `bytes` answer, by its place on the connection.
    place: u64,
    bytes: Vec<u8>,
    waker: Option<Waker>,
}

/// Where interim answers to one request go. Cheap to clone; useless, and harmless, once the request
/// is answered.
#[derive(Clone, Debug)]
pub struct Interim {
    connection: Arc<Interims>,
    place: u64,
}

impl Interim {
    /// Hands on an interim answer of the app's, without what belongs to its connection. A 100 stays
    /// here: what the client expects, larder answers itself, and the app is never told to expect it
    /// (RFC 9110 §10.1.1). So does a 101, which is no interim answer to anybody but the one who switches.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let Some(head) = head(status, headers) else {
            return;
        };
        let mut queue = self.connection.lock();
        if queue.place != self.place {
            queue.bytes.clear();
            queue.place = self.place;
        }
        if queue.bytes.len() + head.len() > WAITING_BYTES_MAX {
            return;
        }
        queue.bytes.extend_from_slice(&head);
        self.connection.waiting.store(true, Ordering::Release);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }
}

impl Interims {
    /// For the request at this place on the connection; places count up from 1.
    #[must_use]
    pub fn to(self: &Arc<Self>, place: u64) -> Interim {
        Interim {
            connection: self.clone(),
            place,
        }
    }

    /// What is to be sent now, while the request at `place` is being answered: whole heads, as they go
    /// on the wire. What was meant for another request is thrown away.
    #[must_use]
    pub fn take(&self, place: u64) -> Option<Vec<u8>> {
        if !self.waiting.load(Ordering::Acquire) {
            return None;
        }
        let mut queue = self.lock();
        self.waiting.store(false, Ordering::Release);
        let bytes = std::mem::take(&mut queue.bytes);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
        (queue.place == place).then_some(bytes)
    }

    /// Wakes the task when something comes, or is taken.
    pub fn listen(&self, context: &Context<'_>) {
        match &mut self.lock().waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }

    /// Ready when nothing waits.
    pub fn poll_taken(&self, context: &Context<'_>) -> Poll<()> {
        if !self.waiting.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.listen(context);
        match self.waiting.load(Ordering::Acquire) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An interim answer as it goes to the client; `None` where it does not.
fn head(status: StatusCode, headers: &HeaderMap) -> Option<Vec<u8>> {
    let goes = status.is_informational()
        && !matches!(
            status,
            StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS
        );
    if !goes {
        return None;
    }
    let mut headers = headers.clone();
    fields::remove_hop_by_hop(&mut headers);
    // It has no content, and so no length (RFC 9110 §8.6); cookies come with answers.
    for name in [CONTENT_LENGTH, PROXY_AUTHENTICATE, SET_COOKIE, TE, TRAILER] {
        headers.remove(name);
    }
    let mut head = format!("HTTP/1.1 {} ", status.as_str()).into_bytes();
    head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(b"\r\n");
    for (name, value) in &headers {
        line(&mut head, name, value.as_bytes());
        if head.len() > HEAD_BYTES_MAX {
            return None;
        }
    }
    head.extend_from_slice(b"\r\n");
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn text(bytes: Option<Vec<u8>>) -> Option<String> {
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn an_interim_answer_goes_on_without_what_is_not_its_own() {
        let headers = fields(&[
            ("link", "</a>; rel=preload"),
            ("link", "</b>; rel=preload"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
        ]);
        assert_eq!(
            text(head(StatusCode::EARLY_HINTS, &headers)).unwrap(),
            "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nlink: </b>; rel=preload\r\n\r\n"
        );
        let unknown = StatusCode::from_u16(199).unwrap();
        assert_eq!(
            text(head(unknown, &HeaderMap::new())).unwrap(),
            "HTTP/1.1 199 \r\n\r\n"
        );
    }

    #[test]
    fn what_is_not_for_the_client_and_what_is_too_long_stays_here() {
        for status in [100, 101, 200, 304] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(head(status, &HeaderMap::new()), None, "{status}");
        }
        let mut long = HeaderMap::new();
        let value = HeaderValue::from_str(&"x".repeat(HEAD_BYTES_MAX)).unwrap();
        long.insert("link", value);
        assert_eq!(head(StatusCode::EARLY_HINTS, &long), None);
    }

    #[test]
    fn only_the_request_that_is_being_answered_gets_any() {
        let connection = Arc::new(Interims::default());
        let (first, second) = (connection.to(1), connection.to(2));
        assert_eq!(connection.take(1), None);
        first.send(StatusCode::PROCESSING, &HeaderMap::new());
        assert_eq!(connection.take(2), None, "it came too late");
        assert_eq!(connection.take(1), None, "and is gone");
        first.send(StatusCode::PROCESSING, &HeaderMap::new());
        second.send(StatusCode::EARLY_HINTS, &HeaderMap::new());
        assert_eq!(
            text(connection.take(2)).unwrap(),
            "HTTP/1.1 103 Early Hints\r\n\r\n"
        );
    }

    #[test]
    fn what_waits_is_bounded() {
        let connection = Arc::new(Interims::default());
        let interim = connection.to(1);
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&"x".repeat(HEAD_BYTES_MAX / 2)).unwrap();
        headers.insert("link", value);
        for _ in 0..100 {
            interim.send(StatusCode::EARLY_HINTS, &headers);
        }
        let waited = connection.take(1).unwrap();
        assert!(waited.len() <= WAITING_BYTES_MAX && waited.ends_with(b"\r\n\r\n"));
    }
}
