//! A channel that is listened to (Pub/Sub), on a connection of its own. What is said while nobody listens
//! is lost: Redis keeps no messages.

use super::link::{self, Link};
use super::resp::{Reply, write_command};
use super::{Outage, PrivateLine};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages that may wait to be read; beyond, the connection ends.
const MESSAGES_MAX: usize = 10_000;
/// A server that says nothing for so long is asked whether it is there,
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// and has so long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// One connection's time of listening.
#[derive(Debug)]
pub struct Subscription {
    link: Arc<Link>,
    hears: mpsc::Receiver<Reply>,
}

impl Subscription {
    /// Subscribes to `channel` on `line`, and waits until the server has agreed.
    pub async fn begin(line: &PrivateLine, channel: &[u8]) -> Result<Self, Outage> {
        let link = Arc::clone(&line.connected.link);
        let hears = link.listen(MESSAGES_MAX);
        let words = [b"SUBSCRIBE".as_slice(), channel];
        link.say(|out| write_command(out, words.len(), words.into_iter()))?;
        let mut subscription = Self { link, hears };
        let agreed = tokio::time::timeout(ANSWER_MAX, subscription.hears.recv());
        match agreed.await.map_err(|_| Outage::Timeout)? {
            Some(Reply::Array(_) | Reply::Push(_)) => Ok(subscription),
            Some(reply) => Err(line.taken(reply).err().unwrap_or(Outage::Protocol)),
            None => Err(Outage::Connection),
        }
    }

    /// A message that has come already.
    pub fn waiting(&mut self) -> Option<Bytes> {
        loop {
            match self.hears.try_recv() {
                Ok(reply @ (Reply::Array(_) | Reply::Push(_))) => {
                    if let Some(message) = message(reply) {
                        return Some(message);
                    }
                }
                // What else there is to say, the next that waits for a message hears: it ends with it.
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// The next message; how it ended where there will be none.
    pub async fn next(&mut self) -> Result<Bytes, Outage> {
        let mut asked = false;
        loop {
            let patience = if asked { ANSWER_MAX } else { SILENCE_MAX };
            match tokio::time::timeout(patience, self.hears.recv()).await {
                Ok(Some(reply)) => match message(link::taken(reply)?) {
                    Some(message) => return Ok(message),
                    None => asked = false,
                },
                Ok(None) => return Err(Outage::Connection),
                Err(_) if asked => return Err(Outage::Timeout),
                Err(_) => {
                    let ping = [b"PING".as_slice()].into_iter();
                    self.link.say(|out| write_command(out, 1, ping))?;
                    asked = true;
                }
            }
        }
    }
}

/// What was said, where this is a message: `message`, the channel, and it.
fn message(reply: Reply) -> Option<Bytes> {
    let (Reply::Array(parts) | Reply::Push(parts)) = reply else {
        return None;
    };
    let mut parts = parts.into_iter();
    match (parts.next()?, parts.next()?, parts.next()?) {
        (Reply::Bulk(kind), _, Reply::Bulk(message)) if kind == "message" => Some(message),
        _ => None,
    }
}
