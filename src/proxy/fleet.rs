//! Whose turn it is to ask the app, among all sidecars: what a fetch does before it asks.
//!
//! The one who leads the fetch of a key in its process takes the key's lease for all of them, or waits for
//! who holds it and looks into the store then; the others of the process follow it as ever. An answer is only
//! ever shared through the store; failures are not shared, for each sidecar may have an app of its own.
//!
//! Where it cannot be told whose turn it is, it is everybody's: a process then asks once, and those that were cut
//! off while they waited not all in the same moment.

use super::fetch::{Job, Manner};
use crate::cache::lease::{AGAIN, STORED};
use crate::cache::{Bid, Entry, Lease, Lookup, Taken};
use crate::semantics::{self, Reason, Reuse};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Sidecars that lost what they waited for ask the app within this, each at a moment of its own.
const SPREAD: Duration = Duration::from_millis(250);
/// How long a fetch behind, which no client waits for, waits for another's.
const WAIT_BEHIND: Duration = Duration::from_secs(10);
/// The first word of the reasons not to share an answer.
const APART: u16 = 2;

/// What is said to other sidecars of an answer that is not for the store, in their order: these hold for the next answer,
/// too, as far as one can tell.
const LASTING: [Reason; 8] = [
    Reason::Private,
    Reason::NoStore,
    Reason::SetCookie,
    Reason::VaryStar,
    Reason::TooLarge,
    Reason::NoLifetime,
    Reason::EventStream,
    Reason::ContentType,
];

/// Whether the next answer under this key will not be stored either, as far as one can tell.
pub(super) fn is_lasting(reason: Reason) -> bool {
    LASTING.contains(&reason)
}

/// What a fetch leaves word of that was not stored for this reason.
pub(super) fn word(reason: Reason) -> u16 {
    let index = LASTING.iter().position(|lasting| *lasting == reason);
    index.map_or(AGAIN, |index| APART + index as u16)
}

/// Why the answers of a key are not shared, if that is what the word says. One that only newer sidecars know says
/// that the next may try.
fn reason(word: u16) -> Option<Reason> {
    let index = word.checked_sub(APART)?;
    LASTING.get(usize::from(index)).copied()
}

/// What a fetch is to do.
pub(super) enum Duty {
    /// Ask the app; the lease is ended with what came of it, where there is one.
    Ask(Option<Lease>),
    /// Another sidecar has fetched this meanwhile.
    Found(Arc<Entry>),
    /// Another sidecar has learnt that answers under this key are not shared.
    Apart(Reason),
    /// Nothing: another sidecar is at it, and nobody waits here.
    Leave,
}

impl Job {
    /// Waits until it is known.
    pub(super) async fn duty(&self) -> Duty {
        let recorder = &self.proxy.0.recorder;
        let (duty, told) = self.duty_and_word().await;
        if let Some(told) = told {
            recorder.lease(told);
        }
        duty
    }

    async fn duty_and_word(&self) -> (Duty, Option<&'static str>) {
        if !self.is_shared {
            return (Duty::Ask(None), None);
        }
        let (cache, key) = (&self.proxy.0.cache, self.lead.key());
        let behind = self.manner == Manner::Behind;
        if behind
            && self.is_still_fresh()
            && let Some(entry) = self.look().await
        {
            // Another sidecar has renewed it before us.
            return (Duty::Found(entry), Some("found"));
        }
        let wait = match behind {
            true => WAIT_BEHIND,
            false => self.collapse_wait(),
        };
        let _span = self.span.child("lease");
        let begun = Instant::now();
        let mut waiter = None;
        let mut patience = self.patience;
        let (mut over, mut has_waited) = (None, false);
        loop {
            let bid = Bid {
                log: self.lead.fill().position().log,
                over,
                waits: waiter.is_some(),
            };
            match cache.take_lease(&key, &self.client, bid, patience).await {
                lost @ (None | Some(Taken::Perhaps(_))) => {
                    let word = match waiter {
                        Some(_) => "lost",
                        None => "unavailable",
                    };
                    if waiter.is_some() {
                        tokio::time::sleep(SPREAD.mul_f64(fastrand::f64())).await;
                    }
                    let lease = match lost {
                        Some(Taken::Perhaps(lease)) => Some(lease),
                        _ => None,
                    };
                    return (Duty::Ask(lease), Some(word));
                }
                Some(Taken::Ours(lease)) => {
                    let word = if has_waited { "took_over" } else { "led" };
                    return (Duty::Ask(Some(lease)), Some(word));
                }
                Some(Taken::Ended { word: STORED, .. }) if let Some(entry) = self.look().await => {
                    return (Duty::Found(entry), Some("found"));
                }
                Some(Taken::Ended { token, word }) => match reason(word) {
                    Some(reason) => return (Duty::Apart(reason), Some("apart")),
                    // What it brought is not for us, or nothing; it may have told what the key varies on.
                    None => (over, waiter) = (Some(token), None),
                },
                Some(Taken::Held(holder)) => {
                    let left = wait.saturating_sub(begun.elapsed());
                    if left.is_zero() {
                        if behind {
                            return (Duty::Leave, Some("timed_out"));
                        }
                        if over.replace(holder.token).is_some() {
                            // Another has taken it over from the one that we waited for.
                            tokio::time::sleep(SPREAD.mul_f64(fastrand::f64())).await;
                            return (Duty::Ask(None), Some("timed_out"));
                        }
                        continue;
                    }
                    let tags = self.tags.known();
                    if cache.is_purged_since(&self.url, tags, holder.log) {
                        // What it brings is what was purged.
                        over = Some(holder.token);
                        continue;
                    }
                    has_waited = true;
                    match &mut waiter {
                        None => waiter = Some(cache.wait_for_lease(&key, &self.client)),
                        Some(waiter) => {
                            let is_over = waiter.wait(holder, left).await;
                            patience = cache.patience();
                            // What came of it is there before it is said to be over: that is one round trip less.
                            if is_over && let Some(entry) = self.look().await {
                                return (Duty::Found(entry), Some("found"));
                            }
                        }
                    }
                }
            }
        }
    }

    /// What the store has by now, if it answers this request and is not what is held already.
    async fn look(&self) -> Option<Arc<Entry>> {
        let cache = &self.proxy.0.cache;
        let key = self.lead.key();
        let looked = cache.look_again(&key, &self.client, self.now());
        let Lookup::Found {
            entry,
            softly_purged,
            ..
        } = Box::pin(looked).await
        else {
            return None;
        };
        let is_news = match &self.held {
            Some(held) => entry.received() > held.received(),
            None => true,
        };
        let reuse = semantics::reuse(
            &self.client,
            Some(entry.terms(&self.client)),
            softly_purged,
            self.policy()?,
            self.refresh,
            self.now(),
        );
        if !is_news || reuse != Reuse::Fresh {
            return None;
        }
        // Of large content, what an answer begins with has to be there.
        match entry.chunks() {
            Some(chunks) if !Box::pin(cache.open(chunks, &(0..1))).await => None,
            _ => Some(entry),
        }
    }

    fn is_still_fresh(&self) -> bool {
        let now = self.now();
        self.held.as_ref().is_some_and(|held| held.is_fresh(now))
    }
}
