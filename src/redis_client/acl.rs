//! The smallest Redis user that everything here works as.

/// Every command that is sent, scripts included. Not CLIENT SETINFO, which servers before 7.2 do not
/// know: whoever may not say what it is works all the same.
const COMMANDS: [&str; 28] = [
    "hello",
    "auth",
    "ping",
    "echo",
    "info",
    "time",
    "client|setname",
    "get",
    "set",
    "del",
    "pexpire",
    "touch",
    "evalsha",
    "script|load",
    "lindex",
    "llen",
    "lpush",
    "lrange",
    "ltrim",
    "rpush",
    "xadd",
    "xrange",
    "xread",
    "xrevrange",
    "zadd",
    "zcard",
    "zremrangebyscore",
    "select",
];

/// The command that makes this user: for redis-cli, with a password to be put in.
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
