//! How purges are written in the log and read from it, and the scripts that Redis runs on it.

use super::{LogId, Scope};
use crate::cache::seal::{self, Seal};
use crate::redis_client::Script;
use bytes::Bytes;
use redis::Value;
use std::collections::HashMap;
use std::sync::OnceLock;

/// The field of the log that holds what is purged, and how it is written there.
pub(super) fn written(scope: &Scope, seal: &Seal) -> (&'static str, Vec<u8>) {
    let value = scope.value().as_bytes();
    if !seal.encrypts() {
        return ("v", value.to_vec());
    }
    let mut sealed = Vec::new();
    seal.close(&mut sealed, &[value], false, &bound_to(scope.word()));
    ("x", sealed)
}

/// What an entry of the log purges. One of a newer version, of a stranger, or encrypted with a key that
/// is not here may have meant anything, and purges everything.
pub(super) fn read(fields: &Fields, seal: &Seal) -> Scope {
    let field = |name: &[u8]| fields.get(name);
    let kind = field(b"k").and_then(|kind| std::str::from_utf8(kind).ok());
    let kind = kind.unwrap_or_default();
    let value = match field(b"x") {
        Some(sealed) => {
            let sealed = Bytes::copy_from_slice(sealed);
            let value = seal.open(sealed, seal::ENCRYPTED, &bound_to(kind));
            value.map(Into::into).ok()
        }
        None => field(b"v").cloned(),
    };
    let value = value.and_then(|value| String::from_utf8(value).ok());
    let scope = value.and_then(|value| Scope::of(kind, value));
    scope.unwrap_or(Scope::All)
}

fn bound_to(kind: &str) -> Vec<u8> {
    [b"larder purge ", kind.as_bytes()].concat()
}

/// KEYS: the stream. ARGV: our last id or nothing, the key's life in milliseconds.
/// Answers whether our place is lost (1) and the first id there is.
pub(super) fn look_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(
            r"
            local stream, known, lost = KEYS[1], ARGV[1], 0
            local function parts(id)
                local millis, sequence = string.match(id, '^(%d+)-(%d+)$')
                return tonumber(millis), tonumber(sequence)
            end
            local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
            local begin = #last == 0
            if known ~= '' and #redis.call('XRANGE', stream, known, known) == 0 then
                lost = 1
                if not begin then
                    local there, thereSequence = parts(last[1][1])
                    local here, hereSequence = parts(known)
                    begin = there < here or (there == here and thereSequence < hereSequence)
                end
            end
            if begin then
                local id = '*'
                if known ~= '' then
                    -- Beyond our place even where this server's clock is behind.
                    local time = redis.call('TIME')
                    local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
                    id = string.format('%.0f-0', math.max(now, (parts(known)) + 1))
                end
                local added = redis.pcall('XADD', stream, id, 'k', 'genesis')
                if type(added) == 'table' and added.err then
                    redis.call('XADD', stream, '*', 'k', 'genesis')
                end
            end
            redis.call('PEXPIRE', stream, ARGV[2])
            return {lost, redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1]}
            ",
        )
    })
}

/// KEYS: the set of sidecars. ARGV: who we are, how long a sidecar counts as seen in milliseconds.
pub(super) fn beat_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(
            r"
            local time = redis.call('TIME')
            local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
            redis.call('ZADD', KEYS[1], now, ARGV[1])
            redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now - ARGV[2]))
            redis.call('PEXPIRE', KEYS[1], ARGV[2])
            return redis.call('ZCARD', KEYS[1])
            ",
        )
    })
}
/// Fields of one entry of the stream.
pub(in crate::cache) type Fields = HashMap<Vec<u8>, Vec<u8>>;

pub(in crate::cache) fn log_id(value: &Value) -> Option<LogId> {
    let text = match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        _ => return None,
    };
    let (millis, sequence) = text.split_once('-')?;
    Some((millis.parse().ok()?, sequence.parse().ok()?))
}

/// What XREAD answered for its one stream; what cannot be read is left out but for its place, so
/// that it counts as a purge of everything.
pub(in crate::cache) fn stream_entries(answer: Value) -> Vec<(LogId, Fields)> {
    let array = |value: Value| match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    };
    let bytes = |value: Value| match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        _ => Vec::new(),
    };
    let stream = array(answer).into_iter().next().map(array);
    let entries = stream.and_then(|mut stream| stream.pop()).map(array);
    entries
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| {
            let mut parts = array(entry).into_iter();
            let id = log_id(&parts.next()?)?;
            let mut fields = HashMap::new();
            let mut flat = parts.next().map(array).unwrap_or_default().into_iter();
            while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
                fields.insert(bytes(name), bytes(value));
            }
            Some((id, fields))
        })
        .collect()
}
