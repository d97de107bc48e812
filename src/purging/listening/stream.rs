//! A stream that all sidecars read as one group: each entry is carried out by one of them, and acknowledged
//! when the purge log has it. What a sidecar leaves behind that died, another takes up.
//!
//! The stream is the app's: nothing is written there but what the group has read.

use super::super::{Way, locked};
use super::Listening;
use crate::cache::{Purge, PurgeOutcome};
use crate::config::settings::PurgeStream;
use crate::redis_client::{Outage, PrivateLine};
use redis::{Cmd, Value};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// All sidecars are one consumer: what one has read and not acknowledged, any may take up.
const CONSUMER: &str = "larder";
/// Entries read at a time.
const BATCH: usize = 100;
/// How long one read waits for news.
const BLOCK: Duration = Duration::from_millis(500);
/// Deadline of a command beyond that.
const GRACE: Duration = Duration::from_secs(1);
/// An entry that was read so long ago and is not acknowledged was left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(2);
/// An entry that is not understood is tried so often: a newer sidecar may understand it.
const TRIES_MAX: i64 = 3;
/// Entries kept that nobody has understood, about,
const DEAD_MAX: usize = 1_000;
/// of each so many fields,
const DEAD_FIELDS_MAX: usize = 16;
/// each cut to so many bytes,
const DEAD_BYTES_MAX: usize = 1_024;
/// and for how long.
const DEAD_TTL: Duration = Duration::from_secs(7 * 24 * 3_600);

/// One entry: its id and its fields.
type Entry = (String, Vec<(Vec<u8>, Vec<u8>)>);

/// Reads until the connection ends.
pub(super) async fn read(to: &Listening, stream: &PurgeStream) -> Outage {
    let Err(outage) = read_on(to, stream).await;
    to.lag.store(u64::MAX, Ordering::Relaxed);
    outage
}

async fn read_on(to: &Listening, stream: &PurgeStream) -> Result<std::convert::Infallible, Outage> {
    let line = to.redis.private_line(stream.key.as_bytes()).await?;
    let mut reader = Reader { to, stream, line };
    reader.begin().await?;
    tracing::info!(
        stream = stream.key,
        group = stream.group,
        "purges are read from a stream"
    );
    let mut looked: Option<Instant> = None;
    loop {
        if looked.is_none_or(|at| at.elapsed() >= LEFT_BEHIND / 2) {
            // Read on by whatever credentials are good now.
            let renewed = to.redis.renewed_line(stream.key.as_bytes(), &reader.line);
            if let Some(line) = renewed.await {
                reader.line = line;
            }
            reader.take_up().await?;
            reader.look().await?;
            looked = Some(Instant::now());
        }
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP")
            .arg(&stream.group)
            .arg(CONSUMER)
            .arg("COUNT")
            .arg(BATCH)
            .arg("BLOCK")
            .arg(BLOCK.as_millis() as u64)
            .arg("STREAMS")
            .arg(&stream.key)
            .arg(">");
        for entry in entries_of_streams(reader.ask(&read).await?) {
            reader.carry_out(entry, false).await?;
        }
    }
}

struct Reader<'a> {
    to: &'a Listening,
    stream: &'a PurgeStream,
    line: PrivateLine,
}

impl Reader<'_> {
    async fn ask(&self, command: &Cmd) -> Result<Value, Outage> {
        self.line.query(command, BLOCK + GRACE).await
    }

    /// Makes the group where there is none: from the end of the stream on, since what was said before larder
    /// came is no business of its. It stays when all sidecars have gone, so that nothing is missed then. One
    /// that has been there and is not any more went with the stream: what is in the new one is all news.
    async fn begin(&self) -> Result<(), Outage> {
        let was_there = locked(&self.to.group).replace(self.stream.clone());
        let from = match was_there.as_ref() == Some(self.stream) {
            true => "0",
            false => "$",
        };
        let mut create = redis::cmd("XGROUP");
        create
            .arg("CREATE")
            .arg(&self.stream.key)
            .arg(&self.stream.group)
            .arg(from)
            .arg("MKSTREAM");
        match self.ask(&create).await {
            // BUSYGROUP, or something that is told by the first read.
            Ok(_) | Err(Outage::Protocol) => Ok(()),
            Err(outage) => Err(outage),
        }
    }

    /// Takes up what was left behind.
    async fn take_up(&self) -> Result<(), Outage> {
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim
            .arg(&self.stream.key)
            .arg(&self.stream.group)
            .arg(CONSUMER)
            .arg(LEFT_BEHIND.as_millis() as u64)
            .arg("0-0")
            .arg("COUNT")
            .arg(BATCH);
        let claimed = match self.ask(&claim).await? {
            Value::Array(parts) => parts.into_iter().nth(1),
            _ => None,
        };
        for entry in entries(claimed.unwrap_or(Value::Nil)) {
            self.carry_out(entry, true).await?;
        }
        Ok(())
    }

    /// Purges what an entry asks for. It is acknowledged once the log has that; `again`: it was left behind.
    async fn carry_out(&self, (id, fields): Entry, again: bool) -> Result<(), Outage> {
        match self.asked(&fields) {
            Some(purges) => {
                let name = format!("{} {id}", self.stream.key);
                let outcome = self.to.carry_out(purges, Way::Stream, Some(name.into()));
                // With Redis away it is queued, and taken up once more: a purge too many does no harm.
                if outcome.await == PurgeOutcome::Queued {
                    return Ok(());
                }
            }
            None => {
                self.to.malformed(Way::Stream, &self.stream.key);
                if !again || self.tries(&id).await? < TRIES_MAX {
                    return Ok(());
                }
                // Where it cannot be laid aside now, it stays, and stops no other.
                if let Err(outage) = self.bury(&id, &fields).await {
                    tracing::debug!(kind = outage.word(), "an entry could not be laid aside");
                    return Ok(());
                }
            }
        }
        let mut acknowledge = redis::cmd("XACK");
        acknowledge
            .arg(&self.stream.key)
            .arg(&self.stream.group)
            .arg(&id);
        self.ask(&acknowledge).await.map(drop)
    }

    /// `purge` is JSON as `POST /v1/purge` takes it, `tag` a tag; there may be several of each.
    fn asked(&self, fields: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<Purge>> {
        let mut purges = Vec::new();
        for (name, value) in fields {
            match name.as_slice() {
                b"purge" | b"tag" => purges.extend(self.to.asked(value)?),
                _ => {}
            }
        }
        (!purges.is_empty()).then_some(purges)
    }

    /// How often an entry was handed out.
    async fn tries(&self, id: &str) -> Result<i64, Outage> {
        let mut pending = redis::cmd("XPENDING");
        pending
            .arg(&self.stream.key)
            .arg(&self.stream.group)
            .arg(id)
            .arg(id)
            .arg(1);
        let answer = list(self.ask(&pending).await?).into_iter().next().map(list);
        match answer.and_then(|mut parts| parts.pop()) {
            Some(Value::Int(tries)) => Ok(tries),
            _ => Ok(0),
        }
    }

    /// Keeps an entry that nobody understands where somebody may look at it.
    async fn bury(&self, id: &str, fields: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Outage> {
        let name = self.to.cache.dead_purges();
        let mut add = redis::cmd("XADD");
        add.arg(&name)
            .arg("MAXLEN")
            .arg("~")
            .arg(DEAD_MAX)
            .arg("*")
            .arg("stream")
            .arg(&self.stream.key)
            .arg("id")
            .arg(id);
        for (name, value) in fields.iter().take(DEAD_FIELDS_MAX) {
            for text in [name, value] {
                add.arg(&text[..text.len().min(DEAD_BYTES_MAX)]);
            }
        }
        let mut both = redis::pipe();
        both.add_command(add);
        let life = u64::try_from(DEAD_TTL.as_millis()).unwrap_or(u64::MAX);
        both.cmd("PEXPIRE").arg(&name).arg(life);
        for answer in self.to.redis.pipeline("purge", &both).await {
            answer?;
        }
        self.to.recorder.purge_asked(Way::Stream.word(), "dead");
        Ok(())
    }

    /// Looks how much is still to be done.
    async fn look(&self) -> Result<(), Outage> {
        let mut info = redis::cmd("XINFO");
        info.arg("GROUPS").arg(&self.stream.key);
        let group = |group: Value| {
            let mut parts = list(group).into_iter();
            let mut named = HashMap::new();
            while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                named.insert(text(name), value);
            }
            named
        };
        let groups = list(self.ask(&info).await?).into_iter().map(group);
        let ours = |group: &HashMap<String, Value>| matches!(group.get("name"), Some(Value::BulkString(name)) if name == self.stream.group.as_bytes());
        let ours = groups.into_iter().find(ours);
        let number = |name: &str| match ours.as_ref()?.get(name)? {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        // Servers before Redis 7 do not know what is still unread.
        let lag = number("lag").zip(number("pending"));
        let lag = lag.map_or(u64::MAX, |(unread, pending)| unread + pending);
        self.to.lag.store(lag, Ordering::Relaxed);
        Ok(())
    }
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    }
}

fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        _ => Vec::new(),
    }
}

fn text(value: Value) -> String {
    String::from_utf8(bytes(value)).unwrap_or_default()
}

/// The entries of the one stream that was read.
fn entries_of_streams(answer: Value) -> Vec<Entry> {
    let stream = list(answer).into_iter().next().map(list);
    entries(
        stream
            .and_then(|mut stream| stream.pop())
            .unwrap_or(Value::Nil),
    )
}

fn entries(value: Value) -> Vec<Entry> {
    let entry = |entry: Value| {
        let mut parts = list(entry).into_iter();
        let id = text(parts.next()?);
        let mut flat = list(parts.next()?).into_iter();
        let mut fields = Vec::new();
        while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
            fields.push((bytes(name), bytes(value)));
        }
        Some((id, fields))
    };
    list(value).into_iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_answer() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            prop::sample::select(vec!["1-1", "tag", "a"])
                .prop_map(|word| Value::BulkString(word.into())),
            any::<i64>().prop_map(Value::Int),
            Just(Value::Nil),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop::collection::vec(inner, 0..8).prop_map(Value::Array)
        })
    }

    proptest! {
        #[test]
        fn no_answer_of_a_server_makes_it_panic(answer in any_answer()) {
            entries_of_streams(answer);
        }
    }
}
