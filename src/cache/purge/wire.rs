//! How purges are written in the log and read from it, and the scripts that Redis runs on it.

use super::ledger::{Look, Said};
use super::{LogId, Purge, Scope};
use crate::cache::seal::{self, Seal};
use crate::redis_client::Script;
use bytes::Bytes;
use redis::Value;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

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

/// What an entry of the log says to the sidecar called `origin`, and how long the purge had waited before
/// it was appended. One of a newer version, of a stranger, or encrypted with a key that is not here may
/// have meant anything, and purges everything.
pub(super) fn read(fields: &Fields, seal: &Seal, origin: &str) -> (Said, Option<Duration>) {
    let text = |name: &[u8]| fields.get(name).and_then(|it| std::str::from_utf8(it).ok());
    let kind = text(b"k").unwrap_or_default();
    match (kind, text(b"p").and_then(place)) {
        ("genesis", _) => return (Said::Genesis, None),
        ("resumed", Some(after)) => return (Said::Resumed(after), None),
        _ => {}
    }
    let value = match fields.get(b"x".as_slice()) {
        Some(sealed) => {
            let sealed = Bytes::copy_from_slice(sealed);
            let value = seal.open(sealed, seal::ENCRYPTED, &bound_to(kind));
            value.map(Into::into).ok()
        }
        None => fields.get(b"v".as_slice()).cloned(),
    };
    let value = value.and_then(|value| String::from_utf8(value).ok());
    let scope = value.and_then(|value| Scope::of(kind, value));
    let purge = Purge {
        scope: scope.unwrap_or(Scope::All),
        soft: text(b"s") == Some("1"),
    };
    let ours = text(b"o")
        .and_then(|said| said.split_once(':'))
        .filter(|(by, _)| *by == origin)
        .and_then(|(_, local)| local.parse().ok());
    let waited = text(b"w").and_then(|micros| micros.parse().ok());
    (Said::Purge(purge, ours), waited.map(Duration::from_micros))
}

fn bound_to(kind: &str) -> Vec<u8> {
    [b"larder purge ", kind.as_bytes()].concat()
}

/// What both scripts begin with. KEYS: the stream, and its witness: the last id that was appended, written
/// in the same step, so that of a log that was evicted it is known where it ended.
macro_rules! with_begin {
    ($script:literal) => {
        concat!(
            r"
            local stream, witness = KEYS[1], KEYS[2]
            local function parts(id)
                local millis, sequence = string.match(id, '^(%d+)-(%d+)$')
                return tonumber(millis), tonumber(sequence)
            end
            local function now()
                local time = redis.call('TIME')
                return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
            end
            local function last()
                local found = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
                return found[1] and found[1][1]
            end
            local function before(a, b)
                local first, firstSequence = parts(a)
                local second, secondSequence = parts(b)
                return first < second or (first == second and firstSequence < secondSequence)
            end
            -- Where the log ended; nothing where we know of more.
            local function said(known)
                local id = redis.pcall('GET', witness)
                local is = type(id) == 'string' and parts(id) and (known == '' or not before(id, known))
                return is and id or nil
            end
            -- Begins a log beyond what is known, even where this server's clock is behind.
            local function begin(known, after)
                local beyond = now()
                for _, id in ipairs({known, after or ''}) do
                    if id ~= '' then beyond = math.max(beyond, (parts(id)) + 1) end
                end
                local kind, value = 'genesis', '0-0'
                if after then kind, value = 'resumed', after end
                local id = string.format('%.0f-0', beyond)
                local added = redis.pcall('XADD', stream, id, 'k', kind, 'p', value)
                if type(added) == 'table' and added.err then
                    redis.call('XADD', stream, '*', 'k', kind, 'p', value)
                end
            end
            ",
            $script
        )
    };
}

/// KEYS: the stream, its witness. ARGV: our last id or nothing, the keys' life in milliseconds.
/// Answers whether our place is lost (1), the first id there is, who the server is, and whether it was
/// started a moment ago and has the log from before (1).
pub(super) fn look_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(with_begin!(
            r"
            local known, life = ARGV[1], ARGV[2]
            local e = last()
            if not e then begin(known, said(known)) end
            local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
            local lost = 0
            -- What the log holds begins behind this.
            local after = first[2][2] == 'resumed' and parts(first[2][4]) and first[2][4] or first[1]
            if known ~= '' and #redis.call('XRANGE', stream, known, known) == 0
                and not (after == known and after ~= first[1]) then
                lost = 1
                -- Trimmed, the others have read it. Else what we know of was lost: all of it is for everyone.
                if e and not before(known, after) then begin(known, nil) end
            end
            redis.call('PEXPIRE', stream, life)
            e = last()
            if said('') == e then
                redis.call('PEXPIRE', witness, life)
            else
                -- A full server refuses that, and is read all the same.
                redis.pcall('SET', witness, e, 'PX', life)
            end
            local function info(section, field)
                local text = redis.pcall('INFO', section)
                return type(text) == 'string' and string.match(text, '\n' .. field .. ':(%w+)') or ''
            end
            local server = string.sub(info('server', 'run_id'), 1, 12)
                .. string.sub(info('replication', 'master_replid'), 1, 12)
            local up = tonumber(info('server', 'uptime_in_seconds')) or 60
            local restarted = up < 2 and (parts(first[1])) < now() - (up + 1) * 1000
            return {lost, first[1], server, restarted and 1 or 0}
            "
        ))
    })
}

/// KEYS: the stream, its witness. ARGV: our last id or nothing, the keys' life in milliseconds, how many
/// entries there are at most, and of each purge its kind, the name of the field that holds what is purged,
/// that, whether it is soft, whose it is, how long it has waited. Answers the places, two numbers each.
pub(super) fn append_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(with_begin!(
            r"
            local known, life = ARGV[1], ARGV[2]
            if not last() then begin(known, said(known)) end
            local places, id = {}, nil
            for at = 4, #ARGV, 6 do
                id = redis.call('XADD', stream, 'MAXLEN', '~', ARGV[3], '*', 'k', ARGV[at],
                    ARGV[at + 1], ARGV[at + 2], 's', ARGV[at + 3], 'o', ARGV[at + 4], 'w', ARGV[at + 5])
                local millis, sequence = parts(id)
                places[#places + 1] = millis
                places[#places + 1] = sequence
            end
            redis.call('PEXPIRE', stream, life)
            redis.call('SET', witness, id, 'PX', life)
            return places
            "
        ))
    })
}

/// KEYS: the set of sidecars, and of those that have said to this server all that they had to say. ARGV: who
/// we are, how long a sidecar counts as seen in milliseconds. Answers how many there are of each.
pub(super) fn beat_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(
            r"
            local time = redis.call('TIME')
            local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
            local function show(set)
                redis.call('ZADD', set, now, ARGV[1])
                redis.call('ZREMRANGEBYSCORE', set, '-inf', '(' .. string.format('%.0f', now - ARGV[2]))
                redis.call('PEXPIRE', set, ARGV[2])
                return redis.call('ZCARD', set)
            end
            return {show(KEYS[1]), show(KEYS[2])}
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
    place(text)
}

fn place(text: &str) -> Option<LogId> {
    let (millis, sequence) = text.split_once('-')?;
    Some((millis.parse().ok()?, sequence.parse().ok()?))
}

/// A place as the log writes it; nothing where nothing was replayed yet.
pub(super) fn known(log: LogId) -> String {
    match log {
        (0, 0) => String::new(),
        (millis, sequence) => format!("{millis}-{sequence}"),
    }
}

/// What a look answered.
pub(super) fn look(answer: &Value) -> Option<Look> {
    let Value::Array(answer) = answer else {
        return None;
    };
    let [
        Value::Int(lost),
        first,
        Value::BulkString(server),
        Value::Int(restarted),
    ] = answer.as_slice()
    else {
        return None;
    };
    Some(Look {
        lost: *lost == 1,
        first: log_id(first)?,
        server: String::from_utf8_lossy(server).into_owned(),
        restarted: *restarted == 1,
    })
}

/// The places that an append answered.
pub(super) fn places(numbers: &[i64]) -> Option<Vec<LogId>> {
    let place = |pair: &[i64]| match pair {
        [millis, sequence] => Some((u64::try_from(*millis).ok()?, u64::try_from(*sequence).ok()?)),
        _ => None,
    };
    numbers.chunks(2).map(place).collect()
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
