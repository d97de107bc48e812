//! The door for clients: TCP, TLS, HTTP/1.1 and HTTP/2, and the drain when it closes.
//!
//! One listener a worker on the same port (SO_REUSEPORT): the kernel spreads connections, nothing is
//! handed between threads.

mod direct;
#[doc(hidden)]
pub mod fuzz;
mod heads;
mod sending;
mod stream;
mod strict;
pub mod tls;
mod watched;

use crate::proxy::{Body, Interim, Peer, Problem, Proxy, name_in_table};
use direct::Direct;
use heads::Watch;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};
use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, poll_fn, ready};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use stream::ClientStream;
use tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use watched::Watched;

/// Pause between two looks at whether an HTTP/2 client is still there.
const PING_TIME: Duration = Duration::from_secs(30);
/// A TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Connections of all workers.
const CONNECTIONS_MAX: usize = 20_000;
/// Read buffer of one HTTP/1 connection, in bytes; also the longest head that is read at all. (The
/// bound on header fields is hyper's own 100: setting it, even to that, takes its table off the stack.)
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Header list of one HTTP/2 request, in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 32 * 1024;
/// Streams reset by a client before they were accepted (rapid reset, CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Streams that a client made us reset by its own errors (MadeYouReset, CVE-2025-8671).
const PROVOKED_RESETS_MAX: usize = 100;
/// What one HTTP/2 stream may hold for a client that reads slowly, in bytes.
const SEND_BUFFER_BYTES_MAX: usize = 128 * 1024;
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(20);
/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: i32 = 4_096;

/// Connections open now, over all workers.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<AtomicUsize>);

impl Connections {
    /// How many.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Option<Connected> {
        let connected = Connected(self.clone());
        (self.0.fetch_add(1, Ordering::Relaxed) < CONNECTIONS_MAX).then_some(connected)
    }
}

struct Connected(Connections);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The call to stop, as those who have to obey it see it.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A call that comes when `true` is sent, or when the sender is gone.
    #[must_use]
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Returns once the call has come.
    pub async fn called(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// A listener that others of this process may share the port with. `[::]` listens on IPv4 too.
///
/// Must be called inside the runtime that will accept from it.
///
/// Errors: the address is taken by another process, not ours, or not permitted.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Answers are written whole; there is nothing for Nagle to gather. Connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether another process listens at `address` (SO_REUSEPORT would let two of us share it unawares).
#[must_use]
pub fn is_taken(address: SocketAddr) -> bool {
    let probe = || -> io::Result<()> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1)
    };
    matches!(probe(), Err(error) if error.kind() == io::ErrorKind::AddrInUse)
}

/// Serves one worker's share of the connections until `stop` turns true, then lets those that are
/// under way finish: HTTP/1 answers say `Connection: close`, HTTP/2 gets GOAWAY. Returns when all
/// have; whoever waits for that sets the limit.
pub async fn serve(
    listener: TcpListener,
    proxy: Proxy,
    tls: Option<Tls>,
    connections: Connections,
    mut stop: Stop,
) {
    let (under_way, mut all_done) = mpsc::channel::<Infallible>(1);
    while let Some(accepted) = accept(&listener, &mut stop).await {
        match accepted {
            Ok((stream, address)) => {
                let Some(connected) = connections.enter() else {
                    tracing::warn!(
                        connections = CONNECTIONS_MAX,
                        "a connection was closed: as many as allowed are open"
                    );
                    continue;
                };
                let connection =
                    connection(stream, address, proxy.clone(), tls.clone(), stop.clone());
                let under_way = under_way.clone();
                tokio::spawn(async move {
                    connection.await;
                    drop((connected, under_way));
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: spinning would only make it worse.
                tracing::warn!(%error, "no connection can be accepted at the moment");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
    drop((listener, under_way));
    all_done.recv().await;
}

/// The next connection, or `None` once `stop` is true and the kernel's queue is empty: what it had
/// already accepted for us would be reset if the listener closed on it.
async fn accept(
    listener: &TcpListener,
    stop: &mut Stop,
) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    tokio::select! {
        biased;
        accepted = listener.accept() => Some(accepted),
        () = stop.called() => None,
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    proxy: Proxy,
    tls: Option<Tls>,
    stop: Stop,
) {
    let Some(tls) = tls else {
        return exchange(
            stream,
            Peer {
                address,
                tls: false,
            },
            proxy,
            stop,
        )
        .await;
    };
    // Boxed: the room for a handshake and its ciphers would be part of every connection's task, and
    // be moved with it.
    let accepted = Box::pin(tokio::time::timeout(HANDSHAKE_TIME, tls.accept(stream)));
    match accepted.await {
        Ok(Ok(stream)) => {
            Box::pin(exchange(stream, Peer { address, tls: true }, proxy, stop)).await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
    }
}

async fn exchange<S>(stream: S, peer: Peer, proxy: Proxy, mut stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = Arc::new(Watch::default());
    let direct = Direct::new(proxy.clone(), peer);
    let mut stream = ClientStream::new(stream, watch.clone(), Some(direct));
    let needs_hyper = tokio::select! {
        biased;
        needs_hyper = stream.needs_hyper() => needs_hyper,
        () = stop.called() => Ok(false),
    };
    if let Err(error) = &needs_hyper {
        ended_badly(&proxy, peer, error);
    }
    if !needs_hyper.unwrap_or(false) {
        return stream.finish().await;
    }
    // Boxed: what hyper needs is a lot to hold for every client who only ever gets hits.
    Box::pin(by_hyper(stream, watch, peer, proxy, stop)).await;
}

async fn by_hyper<S>(
    stream: ClientStream<S>,
    watch: Arc<Watch>,
    peer: Peer,
    proxy: Proxy,
    mut stop: Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let turns = watch.clone();
    let service = Door {
        proxy: proxy.clone(),
        peer,
        watch,
    };
    let mut http = auto::Builder::new(Streams);
    http.http1()
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES_MAX);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(PROVOKED_RESETS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(PING_TIME);
    let mut connection = pin!(http.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut stopped = pin!(stop.called());
    let mut stopping = false;
    let ended = poll_fn(|context| {
        turns.next_turn();
        let ended = connection.as_mut().poll(context);
        if ended.is_pending() && !stopping && stopped.as_mut().poll(context).is_ready() {
            stopping = true;
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(context);
        }
        ended
    })
    .await;
    if let Err(error) = ended {
        ended_badly(&proxy, peer, error.as_ref());
    }
}

fn ended_badly(proxy: &Proxy, peer: Peer, error: &(dyn Error + 'static)) {
    if let Some(reason) = clients_fault(error) {
        proxy.client_error(reason);
    }
    tracing::debug!(address = %peer.address, %error, "a connection ended badly");
}

/// Runs the streams of HTTP/2 connections. Most have their answer at once: they end where they begin,
/// and become no task.
#[derive(Clone)]
struct Streams;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let mut stream = Box::pin(stream);
        // What is pending is polled again as soon as it is a task, and then told of its waker.
        let mut context = Context::from_waker(Waker::noop());
        if stream.as_mut().poll(&mut context).is_pending() {
            tokio::spawn(stream);
        }
    }
}

/// What answers the requests of one connection.
struct Door {
    proxy: Proxy,
    peer: Peer,
    watch: Arc<Watch>,
}

/// An answer: one that is there at once, or one that is waited for. The second is large and boxed, so
/// that the first is not moved about with room for it.
#[expect(
    clippy::large_enum_variant,
    reason = "most answers are there at once, and hyper holds the future of one anyway"
)]
enum Answering {
    Now(Ready<Response<Watched<Body>>>),
    Later(Pin<Box<dyn Future<Output = Response<Watched<Body>>> + Send>>),
}

impl Future for Answering {
    type Output = Result<Response<Watched<Body>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Now(answer) => Pin::new(answer).poll(context),
            Self::Later(answer) => answer.as_mut().poll(context),
        }
        .map(Ok)
    }
}

impl Service<Request<Incoming>> for Door {
    type Response = Response<Watched<Body>>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let begun = catch_unwind(AssertUnwindSafe(|| self.begin(request)));
        begun.unwrap_or_else(|_| self.now(fallen(&self.proxy, self.peer)))
    }
}

impl Door {
    fn begin(&self, mut request: Request<Incoming>) -> Answering {
        let (proxy, watch) = (&self.proxy, &self.watch);
        if request.version() == Version::HTTP_2 {
            watch.gather();
        }
        let judged = watch.judge().and_then(|()| strict::check(&mut request));
        if watch.take_bare_lf() {
            proxy.client_error("BARE_LF");
        }
        if let Err(problem) = judged {
            watch.refuse();
            return self.now(proxy.refuse(&problem));
        }
        // HTTP/1.0 does not know interim answers (RFC 9110 §15.2), hyper has no way for those of HTTP/2.
        let knows_interim = request.version() == Version::HTTP_11;
        #[cfg(debug_assertions)]
        let panics = is_to_panic(&request);
        #[cfg(not(debug_assertions))]
        let panics = false;
        let arrival = proxy.receive(request, self.peer);
        if !panics && let Some(response) = proxy.at_once(&arrival) {
            return self.now(response);
        }
        let (proxy, peer, watch) = (proxy.clone(), self.peer, watch.clone());
        Answering::Later(Box::pin(async move {
            let handled = async |interim| {
                // Pinned where it is made: moving it costs more than many a step that it takes.
                let handled = pin!(async {
                    assert!(!panics, "a test asked for a panic");
                    proxy.handle(arrival, interim).await
                });
                let response = unless_it_panics(handled).await;
                response.unwrap_or_else(|| fallen(&proxy, peer))
            };
            let response = match knows_interim {
                true => take_turn(&watch, handled).await,
                false => handled(None).await,
            };
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                watch.becomes_tunnel();
            }
            response.map(|body| Watched::new(body, watch))
        }))
    }

    fn now(&self, mut response: Response<Body>) -> Answering {
        if self.watch.place() == 1 {
            name_in_table(response.headers_mut());
        }
        let watch = self.watch.clone();
        Answering::Now(ready(response.map(|body| Watched::new(body, watch))))
    }
}

/// Answers a request of HTTP/1.1, and lets what the app says beforehand go before the answer.
async fn take_turn(
    watch: &Watch,
    handled: impl AsyncFnOnce(Option<Interim>) -> Response<Body>,
) -> Response<Body> {
    watch.set_answering(true);
    let interim = watch.interims.to(watch.place());
    let mut answering = pin!(handled(Some(interim)));
    let response = poll_fn(|context| {
        let polled = answering.as_mut().poll(context);
        if polled.is_pending() {
            watch.interims.listen(context);
        }
        polled
    })
    .await;
    // hyper flushes before it looks here again.
    poll_fn(|context| watch.interims.poll_taken(context)).await;
    watch.set_answering(false);
    response
}

/// What is answered where larder itself has failed.
fn fallen(proxy: &Proxy, peer: Peer) -> Response<Body> {
    tracing::error!(address = %peer.address, "a request ended in a panic");
    proxy.refuse(&Problem::Internal)
}

/// For tests of what a panic leaves behind; does not exist in what ships.
#[cfg(debug_assertions)]
fn is_to_panic(request: &Request<Incoming>) -> bool {
    request.headers().contains_key("larder-test-panic")
        && std::env::var_os("LARDER_TEST_CLOCK").is_some()
}

/// What the future gives; `None` where it panics. The panic ends with it: one request, not the
/// connection, and not the others.
async fn unless_it_panics<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    poll_fn(move |context| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        polled.map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// Why a connection ended, where that was its client's fault and no answer of ours says so.
fn clients_fault(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_parse_too_large() {
                return Some("HEADERS_TOO_LARGE");
            }
            if error.is_parse() {
                return Some("BAD_REQUEST");
            }
        }
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return Some("TIMEOUT");
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<F>(_: fn(TcpStream, SocketAddr, Proxy, Option<Tls>, Stop) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connections_task_is_small_since_it_is_moved_many_times() {
        let bytes = bytes_of(connection);
        assert!(bytes <= 2_560, "{bytes}");
    }
}
