//! Tells others of purges that began here: each in its turn, again and again for a while, and never in a
//! purge's way.

use crate::cache::Cache;
use crate::config::Settings;
use crate::config::settings::PurgeNotify;
use crate::proxy::Shared;
use crate::purging::Notice;
use crate::telemetry::Recorder;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether anybody is to be told.
const LOOK: Duration = Duration::from_secs(1);
/// A message that is sent is no news for so long, should it come back: longer than it is tried.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// One try.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Tries of one message,
const TRIES: u32 = 8;
/// after the first failure with this pause, which doubles,
const PAUSE: Duration = Duration::from_millis(200);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_secs(10);

type Sender = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Runs for as long as the process: follows the configuration in force.
pub(super) async fn send(
    shared: Arc<Shared>,
    settings: Arc<ArcSwap<Settings>>,
    cache: Cache,
    recorder: Recorder,
) {
    let notices = shared.purging.notices();
    let mut sender = None;
    loop {
        let whom = settings.load().purging.notify.clone();
        notices.want(whom.is_some());
        for _ in 0..notices.take_dropped() {
            recorder.purge_told("dropped");
        }
        if whom.is_none() {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let Ok(notice) = tokio::time::timeout(LOOK, notices.next()).await else {
            continue;
        };
        // Should it come back to any of us, it is known.
        let (door, now) = (&shared.purging, shared.clock.now());
        door.done(&cache, &notice.id, KNOWN_FOR, now).await;
        let outcome = match client(&mut sender) {
            Some(sender) => {
                let whom = || settings.load().purging.notify.clone();
                deliver(sender, whom, &notice, &shared, &recorder).await
            }
            None => Err("TLS cannot be spoken".to_owned()),
        };
        match outcome {
            Ok(()) => recorder.purge_told("sent"),
            Err(why) => {
                recorder.purge_told("dropped");
                tracing::warn!(id = notice.id, why, "purge.notify was not told of a purge");
            }
        }
    }
}

/// Sends it until it is taken, or for long enough: to whom the configuration names at each try.
async fn deliver(
    sender: &Sender,
    whom: impl Fn() -> Option<PurgeNotify>,
    notice: &Notice,
    shared: &Shared,
    recorder: &Recorder,
) -> Result<(), String> {
    let mut pause = PAUSE;
    let mut tried = 1;
    loop {
        let Some(whom) = whom() else {
            return Err("nobody is to be told any more".to_owned());
        };
        let once = tokio::time::timeout(TIMEOUT, post(sender, &whom, notice, shared));
        let why = match once.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(_) => "no answer in time".to_owned(),
        };
        if tried == TRIES {
            return Err(why);
        }
        recorder.purge_told("failed");
        tokio::time::sleep(pause).await;
        (tried, pause) = (tried + 1, (pause * 2).min(PAUSE_MAX));
    }
}

async fn post(
    sender: &Sender,
    whom: &PurgeNotify,
    notice: &Notice,
    shared: &Shared,
) -> Result<(), String> {
    let mut request = Request::new(Full::new(notice.content.clone()));
    *request.method_mut() = Method::POST;
    *request.headers_mut() = notice.fields(whom.key.as_ref(), shared.clock.now());
    // Read before, when the configuration was; the URL itself may hold a secret, and is not told.
    *request.uri_mut() = (whom.url.expose().parse()).map_err(|_| "it is no URL".to_owned())?;
    let answer = sender.request(request).await.map_err(|error| {
        let kind = if error.is_connect() {
            "connect"
        } else {
            "broken off"
        };
        kind.to_owned()
    })?;
    match answer.status().is_success() {
        true => Ok(()),
        false => Err(answer.status().to_string()),
    }
}

/// Made when it is needed first: the system's authorities lie in files.
fn client(made: &mut Option<Sender>) -> Option<&Sender> {
    if made.is_none() {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
            .ok()?
            .https_or_http()
            .enable_http1()
            .build();
        *made = Some(Client::builder(TokioExecutor::new()).build(connector));
    }
    made.as_ref()
}
