//! The smallest Redis user that everything here works as.

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

/// The command that makes this user: for redis-cli, with a password to be put in. Every scenario of the
/// tests runs as it.
#[must_use]
pub fn acl(namespace: &str) -> String {
    let commands: String = COMMANDS
        .iter()
        .map(|command| format!(" +{command}"))
        .collect();
    format!(
        "ACL SETUSER larder on >PASSWORD resetkeys ~{namespace}:* resetchannels -@all{commands}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_dangerous_is_among_them() {
        let rule = acl("shop");
        assert!(rule.contains(" ~shop:* ") && rule.contains(" -@all +"));
        for never in ["flush", "keys ", "scan", "config", "shutdown", "+@"] {
            assert!(!rule.replace("resetkeys ", "").contains(never), "{never}");
        }
    }
}
