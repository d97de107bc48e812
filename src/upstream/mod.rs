//! The way to the app: pooled HTTP/1.1 connections, a bound on what it works on, checks of what it says.
//!
//! It forwards what it is given and never decides what a client sees: failures are
//! [`UpstreamError`]s, turned into answers elsewhere.

mod body;
mod cause;
mod check;
mod chunked;
mod connect;
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod head;
mod interim;
mod plain;
mod pool;
mod streamed;

pub use body::{BodyCopy, BrokenOff, RequestBody, ResponseBody};
pub use gate::Gate;
pub use head::{RequestFields, RequestHead, Value};
pub use interim::{Interim, Interims};

use crate::config::settings;
use arc_swap::ArcSwap;
use bytes::Bytes;
use cause::{Failure, News};
use connect::{Stream, TlsConfig};
use http::{HeaderMap, HeaderValue, Method, Response, Uri};
use plain::Wire;
use pool::Pool;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use streamed::Sender;

/// Interim answers (1xx) before the answer itself.
const INTERIM_MAX: u32 = 16;

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
    pools: Pools,
    gate: Gate,
    news: Arc<News>,
    /// The last probe failed, and nothing has been answered since.
    down: Arc<AtomicBool>,
}

/// The idle connections of either kind.
#[derive(Clone, Debug, Default)]
struct Pools {
    plain: Arc<Pool<Box<Wire>>>,
    streamed: Arc<Pool<Sender>>,
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
            pools: Pools::default(),
            news: Arc::default(),
            down: Arc::default(),
        }
    }

    /// The same app with idle connections of its own, for another worker.
    #[must_use]
    pub fn for_worker(&self) -> Self {
        Self {
            pools: Pools::default(),
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
        let probed = self.ask_for_health().await;
        self.down.store(probed.is_err(), Ordering::Relaxed);
        probed
    }

    /// Whether the last probe failed, and the app has answered nobody since.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    async fn ask_for_health(&self) -> Result<(), Down> {
        let address = self.address.load_full();
        let stream = connect(&address).await?;
        let Some(path) = &address.settings.health else {
            return Ok(());
        };
        let target = path.parse::<Uri>();
        let target = target.map_err(|_| Failure::from(UpstreamError::Protocol("health-path")))?;
        let fields = HeaderMap::from_iter([
            (http::header::HOST, HeaderValue::from_static("localhost")),
            (
                http::header::USER_AGENT,
                HeaderValue::from_static("larder-health"),
            ),
        ]);
        let head = RequestHead {
            method: &Method::GET,
            target: &target,
            fields: &fields,
            interim: None,
            upgrade: false,
        };
        let (pool, wire) = (&self.pools.plain, Box::new(Wire::new(stream)));
        let answer = plain::exchange(&address, pool, wire, &head, b"").await?;
        match answer.status() {
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

    /// Whether the app has room for what nobody waits for; see [`Gate::has_room`].
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.gate.has_room()
    }

    /// The cache has suddenly nothing: see [`Gate::ramp`].
    pub fn ramp(&self) {
        self.gate.ramp();
    }

    /// Requests that wait for a place with the app.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.gate.waiting()
    }

    /// Sends a request and waits for the response head. One of a route with a bound of its own takes
    /// its turn `of_route` first.
    ///
    /// One retry on a fresh connection, and only where an idle connection turned out to be closed:
    /// nothing had come back, the method is idempotent and there is no body, or
    /// the whole of it is here (hyper's issue 2136).
    /// While the app has promised to keep the connection (`Keep-Alive: timeout`), who closes it after
    /// a request means that request, which is not made twice.
    pub async fn send<F: RequestFields>(
        &self,
        head: &RequestHead<'_, F>,
        body: RequestBody,
        of_route: Option<&Gate>,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        let address = self.address.load_full();
        let patience = address.settings.timeout;
        // Held until the head is here, as the other is. Who has waited for one waits less for the other.
        let (_of_route, patience) = match of_route {
            Some(gate) => {
                let begun = Instant::now();
                let turn = gate.enter(patience).await?;
                (Some(turn), patience.saturating_sub(begun.elapsed()))
            }
            None => (None, patience),
        };
        let permit = self.gate.enter(patience).await?;
        let outcome = match body.here().filter(|_| !head.upgrade) {
            Some(content) => {
                body.copied();
                self.plain(&address, head, &content).await
            }
            // Boxed: plain exchanges need not make room for what they do not do.
            None => Box::pin(self.streamed(&address, head, body)).await,
        };
        match &outcome {
            Ok(_) => {
                self.news.answered();
                if self.is_down() {
                    self.down.store(false, Ordering::Relaxed);
                }
            }
            Err(failure) => self.news.failed(failure),
        }
        let outcome = outcome.map_err(|failure| failure.error);
        permit.done(outcome.as_ref().err().copied());
        outcome
    }

    /// An exchange of ours.
    async fn plain<F: RequestFields>(
        &self,
        address: &Arc<Address>,
        head: &RequestHead<'_, F>,
        content: &Bytes,
    ) -> Result<Response<ResponseBody>, Failure> {
        let pool = &self.pools.plain;
        if let Some(idle) = pool.take(address) {
            match plain::exchange(address, pool, idle.line, head, content).await {
                Err(failure) if failure.may_repeat(head.method, idle.promised) => {}
                outcome => return outcome,
            }
        }
        let wire = Box::new(Wire::new(Box::pin(connect(address)).await?));
        plain::exchange(address, pool, wire, head, content).await
    }

    /// An exchange of hyper's.
    async fn streamed<F: RequestFields>(
        &self,
        address: &Arc<Address>,
        head: &RequestHead<'_, F>,
        mut body: RequestBody,
    ) -> Result<Response<ResponseBody>, Failure> {
        let pool = &self.pools.streamed;
        if let Some(idle) = pool.take(address) {
            let here = body.here();
            match (
                streamed::exchange(address, pool, idle.line, head, body).await,
                here,
            ) {
                (Err(failure), Some(content)) if failure.may_repeat(head.method, idle.promised) => {
                    body = RequestBody::whole(content);
                }
                (outcome, _) => return outcome,
            }
        }
        let sender = Sender::new(connect(address).await?).await?;
        streamed::exchange(address, pool, sender, head, body).await
    }
}

async fn connect(address: &Address) -> Result<Stream, Failure> {
    let timeout = address.settings.connect_timeout;
    let connecting = connect::connect(&address.settings.target, address.tls.as_ref());
    tokio::time::timeout(timeout, connecting)
        .await
        .map_err(|_| {
            let cause = format!("no connection within {timeout:?}");
            Failure::new(UpstreamError::ConnectTimeout, cause)
        })?
}
