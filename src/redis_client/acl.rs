//! The smallest Redis user that everything here works as.

use crate::config::settings::Purging;

/// Every command that is sent, scripts included, and no other. Not CLIENT SETINFO, which servers before 7.2 do not
/// know: whoever may not say what it is works all the same.
const COMMANDS: [&str; 40] = [
    "auth",
    "ping",
    "info",
    "time",
    "client|setname",
    "get",
    "getrange",
    "set",
    "setrange",
    "del",
    "pexpire",
    "pttl",
    "touch",
    "evalsha",
    "script|load",
    "lindex",
    "llen",
    "lrange",
    "ltrim",
    "rpush",
    "xadd",
    "xrange",
    "xread",
    "xrevrange",
    "zadd",
    "zcard",
    "zincrby",
    "zrange",
    "zremrangebyrank",
    "zremrangebyscore",
    "zrevrange",
    "zunionstore",
    "hdel",
    "hget",
    "hmget",
    "hset",
    "select",
    // In a Cluster.
    "cluster|slots",
    "asking",
    "readonly",
];

/// What is sent beside these to listen to `purge.channel`,
const CHANNEL_COMMANDS: [&str; 1] = ["subscribe"];
/// and to read `purge.stream`.
const STREAM_COMMANDS: [&str; 6] = [
    "xreadgroup",
    "xack",
    "xautoclaim",
    "xpending",
    "xgroup|create",
    "xinfo|groups",
];

/// The command that makes this user: for redis-cli, with a password to be put in. Every scenario of the
/// tests runs as it. The stream and the channel of `purging` may lie outside the namespace.
#[must_use]
pub fn acl(namespace: &str, purging: &Purging) -> String {
    let mut commands = COMMANDS.to_vec();
    let mut rule = format!("ACL SETUSER larder on >PASSWORD resetkeys ~{namespace}:*");
    if let Some(stream) = &purging.stream {
        rule.push_str(&format!(" ~{}", stream.key));
        commands.extend(STREAM_COMMANDS);
    }
    rule.push_str(" resetchannels");
    if let Some(channel) = &purging.channel {
        rule.push_str(&format!(" &{channel}"));
        commands.extend(CHANNEL_COMMANDS);
    }
    rule.push_str(" -@all");
    for command in commands {
        rule.push_str(&format!(" +{command}"));
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_dangerous_is_among_them() {
        let rule = acl("shop", &Purging::default());
        assert!(rule.contains(" ~shop:* ") && rule.contains(" -@all +"));
        for never in ["flush", "keys ", "scan", "config", "shutdown", "+@"] {
            assert!(!rule.replace("resetkeys ", "").contains(never), "{never}");
        }
    }

    #[test]
    fn a_channel_and_a_stream_are_opened_where_they_are_named() {
        let rule = |purging: Purging| acl("shop", &purging);
        let plain = rule(Purging::default());
        assert!(!plain.contains("subscribe") && !plain.contains("xreadgroup"));
        let open = rule(Purging {
            channel: Some("app:purge".into()),
            stream: Some(crate::config::settings::PurgeStream {
                key: "app:changes".into(),
                group: "larder".into(),
            }),
            ..Purging::default()
        });
        assert!(open.contains(" ~shop:* ~app:changes resetchannels &app:purge -@all "));
        assert!(open.contains(" +xreadgroup ") && open.ends_with(" +subscribe"));
    }
}
