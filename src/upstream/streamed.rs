//! What hyper's client does for us: uploads that stream, with a task of their own, so that they go on
//! whatever becomes of the answer; and connections that are handed over.

use super::body::{Finished, RequestBody, ResponseBody};
use super::cause::{Failure, Repeat};
use super::connect::Stream;
use super::head::{HEAD_BYTES_MAX, RequestFields, RequestHead};
use super::pool::{Line, Pool, State};
use super::{Address, INTERIM_MAX, Interim, UpstreamError, check};
use crate::clock::Alarm;
use http::{Request, Response};
use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::sync::Notify;

/// A connection of hyper's, as those have it who use it.
#[derive(Debug)]
pub(super) struct Sender {
    requests: SendRequest<RequestBody>,
    alarm: Alarm,
}

impl Sender {
    /// Gives `stream` to hyper.
    pub async fn new(stream: Stream) -> Result<Self, Failure> {
        let (requests, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::new(UpstreamError::Connect, error.to_string()))?;
        // Ends when the app closes the connection or when its sender is dropped. How it ends is told
        // to the exchange that was on it.
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        let alarm = Alarm::default();
        Ok(Self { requests, alarm })
    }
}

impl Line for Sender {
    fn state(&mut self) -> State {
        if self.requests.is_closed() {
            return State::Useless;
        }
        match self.requests.is_ready() {
            true => State::Ready,
            false => State::Busy,
        }
    }
}

/// One request and the head of its answer.
pub(super) async fn exchange<F: RequestFields>(
    address: &Arc<Address>,
    pool: &Arc<Pool<Sender>>,
    mut sender: Sender,
    head: &RequestHead<'_, F>,
    mut body: RequestBody,
) -> Result<Response<ResponseBody>, Failure> {
    let sent = body.finished();
    let length = body.size_hint().exact();
    let mut request = head.request(body, length);
    let flood = Flood::watch(&mut request, head.interim);
    let (answer, timeout) = (
        sender.requests.send_request(request),
        address.settings.timeout,
    );
    let answer = tokio::select! {
        biased;
        answer = head_in_time(answer, &sent, timeout, &mut sender.alarm) => answer,
        () = flood.came() => return Err(UpstreamError::Protocol("interim").into()),
    };
    let response = match answer {
        None if sent.starved() => return Err(UpstreamError::ClientBody.into()),
        None => {
            let cause = format!("no response head within {timeout:?}");
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
                repeat: match error.is_canceled() {
                    true => Repeat::Unsent,
                    false => Repeat::Unpromised,
                },
                ..Failure::new(UpstreamError::Reset, cause)
            });
        }
        Some(Ok(response)) => response,
    };
    let (mut parts, incoming) = response.into_parts();
    let framing = check::head(head.method, head.upgrade, &mut parts)?;
    let home = pool.lend(address, sender, &parts.headers, framing.reusable);
    let body = ResponseBody::hyper(incoming, framing.content, sent, home);
    Ok(Response::from_parts(parts, body))
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
    fn watch(request: &mut Request<RequestBody>, client: Option<&Interim>) -> Self {
        let flood = Self::default();
        let (counter, client) = (flood.clone(), client.cloned());
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

#[cfg(test)]
mod tests {
    use super::*;

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
