//! A channel that every sidecar hears. Each message is to be in the log once, not once a sidecar: after a
//! short wait, different for each, who finds what it asks for in the log already leaves it at that.
//!
//! What is said while nobody listens is lost; a stream is for what must not be.

use super::super::Way;
use super::{LOOK, Listening};
use crate::redis_client::{Outage, PrivateLine, Subscription};
use bytes::Bytes;
use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

/// Messages that are carried out together.
const BATCH: usize = 100;
/// How long each further sidecar may wait for the others, at most; a purge is seen by them in less.
const WAIT_EACH: Duration = Duration::from_millis(10);
/// And all of them.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Listens until the connection ends.
pub(super) async fn listen(to: &Listening, channel: &str) -> Outage {
    match listen_to(to, channel).await {
        Ok(never) => match never {},
        Err(outage) => outage,
    }
}

async fn listen_to(to: &Listening, channel: &str) -> Result<std::convert::Infallible, Outage> {
    let mut line = to.redis.private_line(channel.as_bytes()).await?;
    let mut subscription = Subscription::begin(&line, channel.as_bytes()).await?;
    tracing::info!(channel, "purges are heard from a channel");
    loop {
        let (first, renewed) = next(to, channel, &line, &mut subscription).await?;
        let mut messages: Vec<_> = first.into_iter().collect();
        while messages.len() < BATCH
            && let Some(message) = subscription.waiting()
        {
            messages.push(message);
        }
        // The new one has begun to hear before the old one ends: what both have heard is purged twice.
        if let Some(renewed) = renewed
            && messages.len() < BATCH
        {
            (line, subscription) = renewed;
        }
        let mut purges = Vec::new();
        for message in messages {
            match to.asked(&message) {
                Some(asked) => purges.extend(asked),
                None => to.malformed(Way::Channel, channel),
            }
        }
        if purges.is_empty() {
            continue;
        }
        let mut once = Vec::with_capacity(purges.len());
        let mut known = HashSet::with_capacity(purges.len());
        for purge in purges {
            if known.insert(purge.clone()) {
                once.push(purge);
            }
        }
        let others = to.cache.replicas().saturating_sub(1);
        // Whatever comes behind this place was purged after the messages were sent.
        if others > 0
            && let Some(place) = to.cache.log_end().await
        {
            let wait = (WAIT_EACH * others).min(WAIT_MAX);
            tokio::time::sleep(wait.mul_f32(fastrand::f32())).await;
            once.retain(|purge| !to.cache.is_logged(purge, place));
        }
        if !once.is_empty() {
            to.carry_out(once, Way::Channel, Some(channel.into())).await;
        }
    }
}

/// What is heard next; or a connection in place of `line`, where that was had by credentials that have been
/// exchanged since, or leads to a server that has been left.
async fn next(
    to: &Listening,
    channel: &str,
    line: &PrivateLine,
    subscription: &mut Subscription,
) -> Result<(Option<Bytes>, Option<(PrivateLine, Subscription)>), Outage> {
    let mut heard = pin!(subscription.next());
    loop {
        tokio::select! {
            message = &mut heard => return Ok((Some(message?), None)),
            () = tokio::time::sleep(LOOK) => {}
        }
        let name = channel.as_bytes();
        if let Some(renewed) = to.redis.renewed_line(name, line).await
            && let Ok(subscription) = Subscription::begin(&renewed, name).await
        {
            return Ok((None, Some((renewed, subscription))));
        }
    }
}
