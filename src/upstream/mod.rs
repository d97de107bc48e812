//! The way to the app: pooled HTTP/1.1 connections, a bound on what it works on, checks of what it says.
//!
//! It forwards what it is given and never decides what a client sees: failures are
//! [`UpstreamError`]s, turned into answers elsewhere.

mod body;
mod cause;
mod check;
mod connect;
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod interim;

pub use body::{BodyCopy, Finished, RequestBody, ResponseBody};
pub use gate::Gate;
pub use interim::{Interim, Interims};

use crate::clock::Alarm;
use crate::config::settings;
use arc_swap::ArcSwap;
use cause::{Failure, News};
use connect::{Connection, TlsConfig};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::client::conn::http1::SendRequest;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Idle connections kept to the app by one worker.
const IDLE_MAX: usize = 256;
/// An idle connection is not used again after this, unless the app names a shorter time.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// Interim answers (1xx) before the answer itself.
const INTERIM_MAX: u32 = 16;
/// A connection that its last answer has not left by then is not waited for.
const READY_WAIT: Duration = Duration::from_millis(20);

/// Why the app gave no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// Nobody listens, or the name is unknown.
    Connect,
    /// The connection was not up within `upstream.connect_timeout`.
    ConnectTimeout,
    /// The TLS greeting failed.
    Tls,
    /// No response head within `upstream.timeout`.
    Timeout,
    /// The connection was closed or reset before the head was there.
    Reset,
    /// The answer breaks HTTP's framing or syntax; the word says how.
    Protocol(&'static str),
    /// As many requests as allowed are with the app already, and as many as allowed wait.
    Overloaded,
    /// The client's own body broke off.
    ClientBody,
}

impl UpstreamError {
    /// OTel's `error.type`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout | Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Protocol(_) => "protocol",
            Self::Overloaded => "overload",
            Self::ClientBody => "client_body",
        }
    }

    /// Whether it speaks against the app (and not for too many, or a broken client).
    #[must_use]
    pub const fn is_app_failure(self) -> bool {
        !matches!(self, Self::Overloaded | Self::ClientBody)
    }
}

/// Why the app does not count as up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// [`UpstreamError::word`], or `health` where it answers that it is not well.
    pub kind: &'static str,
    /// What went wrong, for people; never a secret.
    pub cause: String,
}

impl From<Failure> for Down {
    fn from(Failure { error, cause, .. }: Failure) -> Self {
        let kind = error.word();
        Self { kind, cause }
    }
}

/// One worker's way to the app.
#[derive(Clone, Debug)]
pub struct Upstream {
    address: Arc<ArcSwap<Address>>,
    pool: Arc<Pool>,
    gate: Gate,
    news: Arc<News>,
}

/// Where the app is, and how long to wait for it; exchanged as a whole when the configuration changes.
#[derive(Debug)]
struct Address {
    settings: settings::Upstream,
    tls: Option<TlsConfig>,
}

impl Address {
    fn new(settings: settings::Upstream) -> Self {
        let tls = TlsConfig::for_target(&settings.target);
        Self { settings, tls }
    }
}

impl Upstream {
    /// A way to the app; connects when first needed.
    #[must_use]
    pub fn new(settings: settings::Upstream) -> Self {
        Self {
            gate: Gate::new(settings.max_in_flight),
            address: Arc::new(ArcSwap::from_pointee(Address::new(settings))),
            pool: Arc::default(),
            news: Arc::default(),
        }
    }

    /// The same app with a pool of its own, for another worker.
    #[must_use]
    pub fn for_worker(&self) -> Self {
        Self {
            pool: Arc::default(),
            ..self.clone()
        }
    }

    /// Takes up new settings, for all workers; requests under way finish by the old ones. The bound
    /// on requests in flight stays as it was.
    pub fn set(&self, settings: settings::Upstream) {
        self.address.store(Arc::new(Address::new(settings)));
    }

    /// Whether the app answers: its health path with anything below 500, or a connection at all; and
    /// if not, why.
    pub async fn probe(&self) -> Result<(), Down> {
        let address = self.address.load_full();
        let line = connect(&address).await?;
        let Some(path) = &address.settings.health else {
            return Ok(());
        };
        let request = Request::get(path.as_str())
            .header(http::header::HOST, "localhost")
            .header(http::header::USER_AGENT, "larder-health")
            .body(RequestBody::empty())
            .map_err(|_| Failure::from(UpstreamError::Protocol("health-path")))?;
        match self.exchange(&address, line, request).await?.status() {
            status if status.is_server_error() => Err(Down {
                kind: "health",
                cause: format!("{path} answers {}", status.as_u16()),
            }),
            _ => Ok(()),
        }
    }

    /// Says in the log that the app failed in a way that only the caller could see; bounded like
    /// what is said of every other failure.
    pub fn tell(&self, error: UpstreamError) {
        self.news.failed(&error.into());
    }

    /// The bound on requests that the app has at a time, and how many it has now.
    #[must_use]
    pub fn load(&self) -> (u32, u32) {
        (self.gate.limit(), self.gate.in_flight())
    }

    /// Sends a request and waits for the response head.
    ///
    /// One retry on a fresh connection, and only where an idle connection turned out to be closed:
    /// nothing had come back, the method is idempotent and there is no body, or
    /// the whole of it is here (hyper's issue 2136).
    /// While the app has promised to keep the connection (`Keep-Alive: timeout`), who closes it after
    /// a request means that request, which is not made twice.
    ///
    /// `again` makes the same request with this content, should it come to that: a copy of each would
    /// cost every request what few need.
    ///
    /// Interim answers go to the [`Interim`] among the request's extensions.
    pub async fn send(
        &self,
        mut request: Request<RequestBody>,
        again: impl Fn(RequestBody) -> Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        frame(&mut request);
        let address = self.address.load_full();
        let permit = self.gate.enter(address.settings.timeout).await?;
        let repeatable = request.method().is_idempotent();
        let outcome = loop {
            let (line, promised) = match self.pool.take(&address).await {
                Some(idle) => (idle.line, Some(idle.promised)),
                None => match connect(&address).await {
                    Ok(line) => (line, None),
                    Err(error) => break Err(error),
                },
            };
            let content = (promised.is_some() && repeatable)
                .then(|| request.body().here())
                .flatten();
            match (self.exchange(&address, line, request).await, content) {
                (Err(failure), Some(content))
                    if failure.error == UpstreamError::Reset
                        && (failure.unsent || promised == Some(false)) =>
                {
                    request = again(RequestBody::whole(content));
                    frame(&mut request);
                }
                (outcome, _) => break outcome,
            }
        };
        match &outcome {
            Ok(_) => self.news.answered(),
            Err(failure) => self.news.failed(failure),
        }
        let outcome = outcome.map_err(|failure| failure.error);
        permit.done(outcome.as_ref().err().copied());
        outcome
    }

    async fn exchange(
        &self,
        address: &Arc<Address>,
        mut line: Line,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let method = request.method().clone();
        let asked_upgrade = request.headers().contains_key(UPGRADE);
        let sent = request.body().finished();
        let flood = Flood::watch(&mut request);
        let (answer, timeout) = (line.sender.send_request(request), address.settings.timeout);
        let answer = tokio::select! {
            biased;
            answer = head_in_time(answer, &sent, timeout, &mut line.alarm) => answer,
            () = flood.came() => return Err(UpstreamError::Protocol("interim").into()),
        };
        let response = match answer {
            None if sent.starved() => return Err(UpstreamError::ClientBody.into()),
            None => {
                let cause = format!("no response head within {:?}", address.settings.timeout);
                return Err(Failure::new(UpstreamError::Timeout, cause));
            }
            Some(Err(error)) if sent.broken() => {
                tracing::debug!(%error, "a client's body broke off");
                return Err(UpstreamError::ClientBody.into());
            }
            Some(Err(error)) if error.is_parse() => {
                let cause = format!("its answer breaks HTTP: {error}");
                return Err(Failure::new(UpstreamError::Protocol("head"), cause));
            }
            Some(Err(error)) => {
                let cause = format!("it closed the connection before an answer: {error}");
                return Err(Failure {
                    unsent: error.is_canceled(),
                    ..Failure::new(UpstreamError::Reset, cause)
                });
            }
            Some(Ok(response)) => response,
        };
        let (mut head, body) = response.into_parts();
        let framing = check::head(&method, asked_upgrade, &mut head)?;
        let home = framing
            .reusable
            .then(|| self.pool.lend(address, line, &head.headers));
        Ok(Response::from_parts(
            head,
            ResponseBody::new(body, framing.delimited, sent, home),
        ))
    }
}

/// The fields that say where a request ends are made here, from the body that will be sent: never
/// passed on, so that they cannot promise something else (RFC 9112 §6).
fn frame(request: &mut Request<RequestBody>) {
    let length = request.body().size_hint().exact();
    let headers = request.headers_mut();
    headers.remove(TRANSFER_ENCODING);
    match length {
        Some(0) if !headers.contains_key(CONTENT_LENGTH) => {}
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {
            headers.remove(CONTENT_LENGTH);
            // Without it hyper would drop the body of a GET.
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

async fn connect(address: &Address) -> Result<Line, Failure> {
    let timeout = address.settings.connect_timeout;
    let connecting = connect::connect(&address.settings.target, address.tls.as_ref());
    let Connection { sender, driver } =
        tokio::time::timeout(timeout, connecting)
            .await
            .map_err(|_| {
                let cause = format!("no connection within {timeout:?}");
                Failure::new(UpstreamError::ConnectTimeout, cause)
            })??;
    // The connection's own task ends when the app closes it or when its sender is dropped.
    tokio::spawn(driver);
    let alarm = Alarm::default();
    Ok(Line { sender, alarm })
}

/// Waits for a response head. An upload that moves is not waited for: the time begins anew with each
/// piece that the app takes.
async fn head_in_time<T>(
    answer: impl Future<Output = T>,
    sent: &Finished,
    timeout: Duration,
    alarm: &mut Alarm,
) -> Option<T> {
    let mut answer = pin!(answer);
    let mut until = tokio::time::Instant::now() + timeout;
    poll_fn(|context| {
        if let Poll::Ready(answer) = answer.as_mut().poll(context) {
            return Poll::Ready(Some(answer));
        }
        loop {
            ready!(alarm.poll_over(context, until));
            let moved = sent.moved() + timeout;
            if moved <= until {
                return Poll::Ready(None);
            }
            until = moved;
        }
    })
    .await
}

/// Counts interim answers, which hyper passes over without a bound, and hands them on.
#[derive(Clone, Debug, Default)]
struct Flood(Arc<(AtomicU32, Notify)>);

impl Flood {
    fn watch(request: &mut Request<RequestBody>) -> Self {
        let flood = Self::default();
        let counter = flood.clone();
        let client = request.extensions_mut().remove::<Interim>();
        hyper::ext::on_informational(request, move |answer| {
            let (count, too_many) = &*counter.0;
            match (count.fetch_add(1, Ordering::Relaxed), &client) {
                (INTERIM_MAX, _) => too_many.notify_one(),
                (0..INTERIM_MAX, Some(client)) => client.send(answer.status(), answer.headers()),
                _ => {}
            }
        });
        flood
    }

    async fn came(&self) {
        self.0.1.notified().await;
    }
}

/// Idle connections, the last one back first.
#[derive(Debug, Default)]
struct Pool {
    idle: Mutex<VecDeque<Idle>>,
}

/// A connection, as those have it who use it.
#[derive(Debug)]
struct Line {
    sender: SendRequest<RequestBody>,
    alarm: Alarm,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    address: Arc<Address>,
    until: Instant,
    /// The app has said that it keeps the connection until then.
    promised: bool,
}

/// A connection on its way through one exchange; given back only by [`Home::give_back`].
#[derive(Debug)]
pub(crate) struct Home {
    pool: Arc<Pool>,
    line: Line,
    address: Arc<Address>,
    keep: Duration,
    promised: bool,
}

impl Pool {
    async fn take(&self, address: &Arc<Address>) -> Option<Idle> {
        loop {
            let mut idle = self.next()?;
            if idle.until <= Instant::now()
                || idle.line.sender.is_closed()
                || !Arc::ptr_eq(&idle.address, address)
            {
                continue;
            }
            // Its task has yet to notice that the last answer has ended. Mostly it is about to.
            if !idle.line.sender.is_ready() {
                tokio::task::yield_now().await;
            }
            if idle.line.sender.is_ready() {
                return Some(idle);
            }
            if let Ok(Ok(())) = tokio::time::timeout(READY_WAIT, idle.line.sender.ready()).await {
                return Some(idle);
            }
        }
    }

    /// The last one back, of those that are ready if any is.
    fn next(&self) -> Option<Idle> {
        let mut idle = self.lock();
        while idle
            .pop_back_if(|idle| idle.line.sender.is_closed())
            .is_some()
        {}
        let ready = idle.iter().rposition(|idle| idle.line.sender.is_ready());
        match ready {
            Some(at) => idle.remove(at),
            None => idle.pop_back(),
        }
    }

    fn lend(self: &Arc<Self>, address: &Arc<Address>, line: Line, head: &http::HeaderMap) -> Home {
        let hint = check::keep_alive_hint(head);
        Home {
            pool: self.clone(),
            line,
            address: address.clone(),
            keep: hint.map_or(IDLE_TIME, |hint| hint.min(IDLE_TIME)),
            promised: hint.is_some(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Home {
    /// Both directions have ended exactly at a message's end: the connection may serve again.
    fn give_back(self) {
        let until = Instant::now() + self.keep;
        let mut idle = self.pool.lock();
        if idle.len() >= IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle {
            line: self.line,
            address: self.address,
            until,
            promised: self.promised,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_promises_no_other_body_than_is_sent() {
        let framed = |name: &str, value: &str| {
            let request = Request::post("/").header(name, value);
            let mut request = request.body(RequestBody::empty()).unwrap();
            frame(&mut request);
            let length = request.headers().get(CONTENT_LENGTH).cloned();
            (length, request.headers().contains_key(TRANSFER_ENCODING))
        };
        let nothing = Some(HeaderValue::from_static("0"));
        assert_eq!(framed("content-length", "5"), (nothing, false));
        assert_eq!(framed("transfer-encoding", "chunked"), (None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_says_nothing_has_its_time_and_no_more() {
        let began = tokio::time::Instant::now();
        let sent = RequestBody::empty().finished();
        let never = std::future::pending::<()>();
        let timeout = Duration::from_secs(3);
        let alarm = &mut Alarm::default();
        assert!(head_in_time(never, &sent, timeout, alarm).await.is_none());
        assert_eq!(began.elapsed(), timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_of_an_earlier_request_does_not_shorten_the_time_of_a_later_one() {
        let sent = RequestBody::empty().finished();
        let timeout = Duration::from_secs(3);
        let alarm = &mut Alarm::default();
        let second = Duration::from_secs(1);
        for _ in 0..10 {
            let answer = tokio::time::sleep(second);
            assert!(head_in_time(answer, &sent, timeout, alarm).await.is_some());
        }
        let began = tokio::time::Instant::now();
        let never = std::future::pending::<()>();
        assert!(head_in_time(never, &sent, timeout, alarm).await.is_none());
        assert_eq!(began.elapsed(), timeout);
        let began = tokio::time::Instant::now();
        let never = std::future::pending::<()>();
        assert!(head_in_time(never, &sent, second, alarm).await.is_none());
        assert_eq!(began.elapsed(), second);
    }
}
