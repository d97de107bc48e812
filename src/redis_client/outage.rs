//! Which [`Outage`] an error reply is.
//!
//! It reads codes and texts and decides nothing else.

use super::Outage;

/// The outage that the line of an error reply is: a code, a blank, a sentence.
#[must_use]
pub fn of_line(line: &[u8]) -> Outage {
    let line = String::from_utf8_lossy(line);
    let (code, detail) = line.split_once(' ').unwrap_or((&line, ""));
    of_reply(code, detail)
}

/// Redis's error codes, and the one refusal that has none.
fn of_reply(code: &str, detail: &str) -> Outage {
    match code {
        "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "UNKILLABLE" => Outage::NotReady,
        "MOVED" | "ASK" | "TRYAGAIN" => Outage::Moved,
        "READONLY" => Outage::ReadOnly,
        "OOM" | "MISCONF" | "NOREPLICAS" => Outage::Full,
        "NOAUTH" | "WRONGPASS" | "DENIED" => Outage::Denied,
        "NOPERM" => Outage::Forbidden,
        "ERR" if is_unknown_command(detail) => Outage::Forbidden,
        "ERR" if detail.contains("max number of clients") => Outage::Connection,
        "ERR" if detail.contains("invalid password") || detail.contains("without any password") => {
            Outage::Denied
        }
        // Redis 7 reports what a script's command refused with the refused command's own code first.
        _ => Outage::Protocol,
    }
}

/// Whether a server says that it has no such command, itself or to a script.
fn is_unknown_command(detail: &str) -> bool {
    ["unknown command", "Unknown Redis command"]
        .iter()
        .any(|beginning| detail.starts_with(beginning))
}

/// The line of an error reply, for people. Whoever does not know a command repeats what it was given,
/// which may be a password or a body; that is cut off.
#[must_use]
pub fn told(line: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(line).into_owned();
    text.truncate(text.find(", with args").unwrap_or(text.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reply_has_its_outage() {
        for (code, detail, outage) in [
            ("LOADING", "Redis is loading the dataset", Outage::NotReady),
            ("BUSY", "Redis is busy running a script", Outage::NotReady),
            ("MASTERDOWN", "Link with MASTER is down", Outage::NotReady),
            ("CLUSTERDOWN", "The cluster is down", Outage::NotReady),
            ("TRYAGAIN", "Multiple keys request", Outage::Moved),
            ("READONLY", "You can't write", Outage::ReadOnly),
            ("OOM", "command not allowed", Outage::Full),
            ("MISCONF", "Errors writing to the AOF", Outage::Full),
            ("NOAUTH", "Authentication required.", Outage::Denied),
            ("WRONGPASS", "invalid username-password", Outage::Denied),
            ("NOPERM", "no permissions", Outage::Forbidden),
            ("ERR", "max number of clients reached", Outage::Connection),
            ("ERR", "unknown command 'GET', with args", Outage::Forbidden),
            (
                "ERR",
                "Unknown Redis command called from script",
                Outage::Forbidden,
            ),
            ("ERR", "value is not an integer", Outage::Protocol),
            ("WRONGTYPE", "Operation against a key", Outage::Protocol),
            ("", "", Outage::Protocol),
        ] {
            let line = format!("{code} {detail}");
            assert_eq!(of_line(line.as_bytes()), outage, "{line}");
        }
    }
}
