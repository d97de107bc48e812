//! Which [`Outage`] an error of the Redis client or an error reply is.
//!
//! It reads codes and texts and decides nothing else.

use super::Outage;
use redis::{ErrorKind, RedisError, ServerError, Value};

/// The outage that `error` is.
#[must_use]
pub fn of_error(error: &RedisError) -> Outage {
    match error.kind() {
        ErrorKind::Io if error.is_timeout() => Outage::Timeout,
        ErrorKind::Io => Outage::Connection,
        ErrorKind::AuthenticationFailed => Outage::Denied,
        ErrorKind::Server(_) | ErrorKind::Extension => of_reply(
            error.code().unwrap_or_default(),
            error.detail().unwrap_or_default(),
        ),
        // Set-up wraps "max number of clients" and LOADING in kinds of its own; the text tells.
        _ if error.to_string().contains("max number of clients") => Outage::Connection,
        ErrorKind::ClusterConnectionNotFound
        | ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::NoValidReplicasFoundBySentinel
        | ErrorKind::EmptySentinelList => Outage::Connection,
        _ => Outage::Protocol,
    }
}

/// The outage that an error reply is.
#[must_use]
pub fn of_server_error(error: &ServerError) -> Outage {
    of_reply(error.code(), error.details().unwrap_or_default())
}

/// The error reply in `value`, if it is one.
#[must_use]
pub fn error_reply(value: &Value) -> Option<&ServerError> {
    match value {
        Value::ServerError(error) => Some(error),
        _ => None,
    }
}

/// The outage in `value`, if it is an error reply.
#[must_use]
pub fn refusal(value: &Value) -> Option<Outage> {
    error_reply(value).map(of_server_error)
}

/// Redis's error codes, and the one refusal that has none.
fn of_reply(code: &str, detail: &str) -> Outage {
    match code {
        "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "UNKILLABLE" => {
            Outage::NotReady
        }
        "READONLY" => Outage::ReadOnly,
        "OOM" | "MISCONF" | "NOREPLICAS" => Outage::Full,
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => Outage::Denied,
        "ERR" if detail.contains("max number of clients") => Outage::Connection,
        "ERR" if detail.contains("invalid password") || detail.contains("without any password") => {
            Outage::Denied
        }
        // Redis 7 reports what a script's command refused with the refused command's own code first.
        _ => Outage::Protocol,
    }
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
            ("TRYAGAIN", "Multiple keys request", Outage::NotReady),
            ("READONLY", "You can't write", Outage::ReadOnly),
            ("OOM", "command not allowed", Outage::Full),
            ("MISCONF", "Errors writing to the AOF", Outage::Full),
            ("NOAUTH", "Authentication required.", Outage::Denied),
            ("WRONGPASS", "invalid username-password", Outage::Denied),
            ("NOPERM", "no permissions", Outage::Denied),
            ("ERR", "max number of clients reached", Outage::Connection),
            ("ERR", "unknown command", Outage::Protocol),
            ("WRONGTYPE", "Operation against a key", Outage::Protocol),
        ] {
            assert_eq!(of_reply(code, detail), outage, "{code} {detail}");
        }
    }

    #[test]
    fn a_closed_connection_and_a_deadline_are_told_apart() {
        let io = |kind| RedisError::from(std::io::Error::from(kind));
        assert_eq!(
            of_error(&io(std::io::ErrorKind::BrokenPipe)),
            Outage::Connection
        );
        assert_eq!(of_error(&io(std::io::ErrorKind::TimedOut)), Outage::Timeout);
    }
}
