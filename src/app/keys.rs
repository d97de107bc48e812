//! Keeps the keys that tokens are verified with: from a file or a URL, fetched in the background.

use crate::identity::{Identity, JwtSource};
use crate::proxy::Shared;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether anything has to be done.
const LOOK: Duration = Duration::from_secs(1);
/// A key set is fetched anew after this, in any case.
const REFRESH: Duration = Duration::from_secs(600);
/// And not more often than this, whatever tokens name.
const PAUSE: Duration = Duration::from_secs(60);
/// After a failure, sooner.
const RETRY: Duration = Duration::from_secs(5);
/// The largest key set, in bytes.
const BYTES_MAX: usize = 1024 * 1024;
/// One fetch.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs for as long as the process: follows the configuration in force.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut held: Option<Arc<Identity>> = None;
    let mut due = tokio::time::Instant::now();
    let mut earliest = due;
    loop {
        let identity = shared.snapshot.load().identity.clone();
        let now = tokio::time::Instant::now();
        let is_new = !held
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(held, &identity));
        // Asked last: a wish that comes too early is kept until its time.
        let wanted = now >= earliest && identity.take_unknown_key();
        if is_new || now >= due || wanted {
            let outcome = match identity.source() {
                Some(JwtSource::JwksUrl(url)) => fetch(url).await,
                Some(JwtSource::JwksFile(path)) => read(path).await,
                Some(JwtSource::Secret(_)) | None => Ok(None),
            };
            let fine = match outcome.map(|keys| keys.map(|keys| identity.set_keys(&keys))) {
                Ok(None) => true,
                Ok(Some(Ok(count))) => {
                    tracing::debug!(keys = count, "the token keys are up to date");
                    true
                }
                Ok(Some(Err(error))) | Err(error) => {
                    tracing::warn!(%error, "the token keys cannot be read; callers without known keys count as anonymous");
                    false
                }
            };
            due = now + if fine { REFRESH } else { RETRY };
            earliest = now + PAUSE;
            held = Some(identity);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn read(path: &Path) -> Result<Option<Bytes>, String> {
    let bytes = tokio::fs::read(path)
        .await
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(bytes.into()))
}

async fn fetch(url: &str) -> Result<Option<Bytes>, String> {
    let shown = super::banner::address(url);
    let told = |error: &dyn std::fmt::Display| format!("{shown}: {error}");
    let uri: Uri = url.parse().map_err(|error| told(&error))?;
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|error| told(&error))?
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(uri)
        .body(Empty::new())
        .map_err(|error| told(&error))?;
    let exchange = async {
        let response = client
            .request(request)
            .await
            .map_err(|error| told(&error))?;
        if !response.status().is_success() {
            return Err(told(&response.status()));
        }
        let body = Limited::new(response.into_body(), BYTES_MAX)
            .collect()
            .await;
        body.map(|body| Some(body.to_bytes()))
            .map_err(|error| told(&error))
    };
    tokio::time::timeout(TIMEOUT, exchange)
        .await
        .map_err(|_| told(&"no answer in time"))?
}
