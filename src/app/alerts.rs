//! Tells alarms to whoever `alerts:` names: posted as JSON, tried again a few times, never waited for.

use crate::evidence::Alarm;
use crate::proxy::Shared;
use crate::secret::Secret;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Uri};
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether anything is to be told.
const LOOK: Duration = Duration::from_millis(250);
/// One try.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Before each further try.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(25),
];

/// Runs for as long as the process. Where nobody is named, alarms are let go: the log and the pages have them.
pub(super) async fn keep_telling(shared: Arc<Shared>) {
    loop {
        while let Some(alarm) = shared.evidence.alarms.next() {
            let settings = shared.snapshot.load().settings.clone();
            if let Some(webhook) = &settings.alerts.webhook {
                tell(webhook, &alarm).await;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn tell(webhook: &Secret, alarm: &Alarm) {
    let body = json!({
        "text": format!("larder: {}", alarm.text),
        "alarm": alarm.kind,
        "about": alarm.about,
        "at": alarm.at,
    });
    let body = Bytes::from(body.to_string());
    let mut pauses = PAUSES.into_iter();
    loop {
        // Errors say nothing of the address, which may hold a secret.
        let why = match tokio::time::timeout(TIMEOUT, post(webhook, body.clone())).await {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => "no answer in time".to_owned(),
        };
        match pauses.next() {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                tracing::error!(
                    alarm = alarm.kind,
                    about = alarm.about,
                    why,
                    "the webhook of `alerts` could not be told"
                );
                return;
            }
        }
    }
}

async fn post(webhook: &Secret, body: Bytes) -> Result<(), String> {
    let uri: Uri = (webhook.expose().parse()).map_err(|_| "not an address".to_owned())?;
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|error| error.to_string())?
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::post(uri)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|_| "not an address".to_owned())?;
    let answered = client.request(request).await;
    match answered {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(format!("it answers {}", response.status().as_u16())),
        Err(error) if error.is_connect() => Err("no connection".to_owned()),
        Err(_) => Err("the connection broke off".to_owned()),
    }
}
