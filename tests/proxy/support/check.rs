//! What larder has done at a redis-server and left there, looked at whenever one ends: whatever a
//! scenario is about, every key has a TTL and lies in the namespace, nothing was refused to the smallest
//! user, and no command was sent that looks at, or empties, all of Redis.

use redis::Value;
use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

/// As `INFO commandstats` names them. larder never sends one.
pub const NEVER_SENT: [&str; 10] = [
    "scan",
    "keys",
    "flushdb",
    "flushall",
    "config",
    "randomkey",
    "dbsize",
    "swapdb",
    "mget",
    "sort",
];
/// As ACL LOG names them: what larder asks without minding a refusal. Users of before Redis 7.2 cannot have
/// SETINFO; SLOWLOG shows what others have asked.
const MAY_BE_REFUSED: [&str; 2] = ["client|setinfo", "slowlog|get"];
/// A server that has to be looked at answers within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Offending keys that are named.
const SHOWN: usize = 5;

/// What the scenario did itself, beside larder.
#[derive(Default)]
pub struct Harness(Mutex<Own>);

#[derive(Default)]
struct Own {
    /// Every word of every command: keys among them.
    words: HashSet<String>,
    /// How often each command was sent since the server came up.
    sent: HashMap<String, u64>,
    refused: HashSet<String>,
    /// What others than larder send, as often as they like.
    others: HashSet<String>,
}

impl Harness {
    /// The server has just come up: it has counted nothing yet.
    pub fn begins(&self) {
        self.0.lock().unwrap().sent.clear();
    }

    pub fn says(&self, arguments: &[&str]) {
        let mut own = self.0.lock().unwrap();
        own.words
            .extend(arguments.iter().map(|word| (*word).to_owned()));
        // `-n 3 GET key`: the first that is neither an option nor its value.
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            if word.starts_with('-') {
                words.next();
                continue;
            }
            *own.sent.entry(word.to_ascii_lowercase()).or_default() += 1;
            break;
        }
    }

    pub fn others_send(&self, command: &str) {
        self.0.lock().unwrap().others.insert(command.to_owned());
    }

    pub fn may_refuse(&self, command: &str) {
        self.0.lock().unwrap().refused.insert(command.to_owned());
    }
}

/// Fails the test where something is not as it should be.
pub fn check(port: u16, namespace: &str, harness: &Harness) {
    let mut own = harness.0.lock().unwrap();
    let mut line = Line::to(port);
    let mut wrong = Vec::new();
    wrong.extend(sent(&line.text(&["INFO", "commandstats"]), &own));
    wrong.extend(refused(line.ask(&["ACL", "LOG", "128"]), &own));
    let keyspace = line.text(&["INFO", "keyspace"]);
    let databases = keyspace.lines().filter_map(|line| {
        let (name, _) = line.split_once(':')?;
        name.strip_prefix("db")
    });
    for database in databases {
        line.ask(&["SELECT", database]);
        *own.sent.entry("keys".into()).or_default() += 1;
        // In one step, so that no key ends in between.
        // A replica in a Cluster holds keys, and says nothing of them.
        let script = "local keys = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
                      local ttl = redis.pcall('PTTL', key) \
                      if type(ttl) == 'number' then keys[#keys + 1] = {key, ttl} end \
                      end return keys";
        let keys = match line.ask(&["EVAL", script, "0"]) {
            Value::Array(keys) => keys,
            other => panic!("the keys cannot be looked at: {other:?}"),
        };
        let bad: Vec<String> = keys
            .iter()
            .filter_map(|key| misplaced(key, namespace, &own))
            .collect();
        if !bad.is_empty() {
            let (shown, all) = (&bad[..bad.len().min(SHOWN)], bad.len());
            wrong.push(format!("{all} keys, among them {}", shown.join(", ")));
        }
    }
    drop(own);
    assert!(wrong.is_empty(), "larder and Redis: {}", wrong.join("; "));
}

fn misplaced(key: &Value, namespace: &str, own: &Own) -> Option<String> {
    let Value::Array(parts) = key else {
        return None;
    };
    let (Some(Value::BulkString(name)), Some(Value::Int(ttl))) = (parts.first(), parts.get(1))
    else {
        return None;
    };
    let name = String::from_utf8_lossy(name);
    if own.words.contains(&*name) {
        return None;
    }
    if !name.starts_with(&format!("{namespace}:")) {
        return Some(format!("{name} (outside {namespace}:)"));
    }
    (*ttl < 0).then(|| format!("{name} (no TTL)"))
}

/// Commands that larder never sends, less those that the scenario sent itself.
fn sent(stats: &str, own: &Own) -> Vec<String> {
    let calls = |line: &str| -> Option<(String, u64)> {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let number = |field: &str| -> Option<u64> {
            let (_, rest) = rest.split_once(field)?;
            rest.split(',').next()?.trim().parse().ok()
        };
        // What was refused has been sent all the same.
        let calls = number("calls=")? + number("rejected_calls=").unwrap_or(0);
        // `config|set` is CONFIG.
        Some((name.split('|').next()?.to_owned(), calls))
    };
    let mut sums: HashMap<String, u64> = HashMap::new();
    for (name, calls) in stats.lines().filter_map(calls) {
        *sums.entry(name).or_default() += calls;
    }
    let ours = |name: &str| own.sent.get(name).copied().unwrap_or(0);
    NEVER_SENT
        .iter()
        .filter(|name| !own.others.contains(**name))
        .filter_map(|name| {
            let calls = sums.get(*name)?.saturating_sub(ours(name));
            (calls > 0).then(|| format!("{} was sent {calls} times", name.to_uppercase()))
        })
        .collect()
}

/// What was refused to larder's user.
fn refused(log: Value, own: &Own) -> Vec<String> {
    let Value::Array(entries) = log else {
        panic!("ACL LOG cannot be read: {log:?}");
    };
    entries
        .iter()
        .filter_map(|entry| {
            let field = |name: &str| field(entry, name).unwrap_or_default();
            let (user, reason, object) = (field("username"), field("reason"), field("object"));
            let minds = !MAY_BE_REFUSED.contains(&&*object) && !own.refused.contains(&object);
            (user == "larder" && minds).then(|| format!("{object} was refused ({reason})"))
        })
        .collect()
}

/// A member of an ACL LOG entry, which is a list of names and values.
fn field(entry: &Value, name: &str) -> Option<String> {
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    let Value::Array(parts) = entry else {
        return None;
    };
    let at = parts
        .iter()
        .position(|part| text(part).as_deref() == Some(name))?;
    text(parts.get(at + 1)?)
}

/// A connection of the harness's own. It waits: a test that ends cannot do otherwise.
struct Line(TcpStream);

impl Line {
    fn to(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .unwrap_or_else(|error| panic!("the redis-server to be checked: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = Self(stream);
        let greeting = line.ask(&["AUTH", "harness", "any"]);
        assert_eq!(greeting, Value::Okay, "the harness is let in");
        line
    }

    fn ask(&mut self, words: &[&str]) -> Value {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.0.write_all(&command.get_packed_command()).unwrap();
        let mut answer = Vec::new();
        let mut room = [0; 64 * 1024];
        loop {
            let read = match self.0.read(&mut room) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.expect("the redis-server to be checked answers"),
            };
            assert!(read > 0, "the redis-server to be checked is still there");
            answer.extend_from_slice(&room[..read]);
            if let Ok(value) = redis::parse_redis_value(&answer) {
                return value;
            }
        }
    }

    fn text(&mut self, words: &[&str]) -> String {
        match self.ask(words) {
            Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => panic!("{words:?} is not text: {other:?}"),
        }
    }
}
