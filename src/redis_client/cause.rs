//! Why there is no connection to a Redis: a word, a sentence, and how to mend it. Pure.
//!
//! Holds no password and quotes none. Nothing here is logged.

use super::{Outage, outage};
use rustls::{AlertDescription, CertificateError};
use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

/// Names of a certificate that are told; the others are counted.
const NAMES_TOLD_MAX: usize = 4;
/// Bytes of what was not understood that are looked at.
pub const GARBAGE_BYTES_MAX: usize = 16;

/// Why there is no connection, for callers and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it means for callers.
    pub outage: Outage,
    /// A word for it, one of a few dozen.
    pub reason: &'static str,
    /// What happened; no full stop, no password.
    pub text: String,
    /// How to mend it.
    pub mend: String,
}

/// How far a connect has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Name and socket.
    Socket,
    /// TLS.
    Tls,
    /// Who we are.
    Greeting,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.text, self.mend)
    }
}

impl Refused {
    /// Another kind of cause than those below.
    pub fn new(
        outage: Outage,
        reason: &'static str,
        text: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            outage,
            reason,
            text: text.into(),
            mend: mend.into(),
        }
    }

    fn connection(reason: &'static str, text: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Outage::Connection, reason, text, mend)
    }

    /// There was no socket to be had; `to` is where it should have led.
    pub fn socket(error: &io::Error, to: &str) -> Self {
        let said = error.to_string();
        let (reason, text, mend) = match error.kind() {
            io::ErrorKind::ConnectionRefused => (
                "refused",
                format!("{to} refused the connection: nobody listens there"),
                "start Redis, or mend the address in redis.url",
            ),
            io::ErrorKind::NotFound => (
                "no-socket",
                format!("{to} does not exist"),
                "start Redis, or mend the path in redis.url",
            ),
            io::ErrorKind::PermissionDenied => (
                "no-access",
                format!("{to} may not be opened by larder's user"),
                "unixsocketperm in redis.conf, or a group that both are in",
            ),
            _ if said.starts_with("failed to lookup") => (
                "no-name",
                format!("the name in {to} is not found: {said}"),
                "mend the host in redis.url, or the names that this machine knows",
            ),
            _ => (
                "unreachable",
                format!("{to} cannot be reached: {said}"),
                "mend the address in redis.url, or the network between",
            ),
        };
        Self::connection(reason, text, mend)
    }

    /// The time was over before all was done.
    pub fn late(stage: Stage, deadline: Duration, is_tls: bool) -> Self {
        let (reason, text, mend) = match stage {
            Stage::Socket => (
                "unreachable",
                format!("no answer to a connect within {deadline:?}"),
                "a firewall swallows it, or the address in redis.url is another's",
            ),
            Stage::Tls => (
                "tls-stalled",
                format!("the TLS handshake was not answered within {deadline:?}"),
                "is it the port for TLS? Without TLS it is redis://; or something between lets nothing through",
            ),
            Stage::Greeting if is_tls => (
                "silent",
                format!("the greeting was not answered within {deadline:?}"),
                "Redis hangs, or what listens there is none",
            ),
            Stage::Greeting => (
                "silent",
                format!("the greeting was not answered within {deadline:?}"),
                "something takes connections and says nothing: a hung Redis, a firewall, a port of something else, or one for TLS (rediss://)",
            ),
        };
        Self::new(Outage::Timeout, reason, text, mend)
    }

    /// TLS failed, or ended the connection; `name` is the one that was asked for.
    pub fn tls(error: &io::Error, name: &str) -> Self {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref());
        match cause {
            Some(rustls::Error::InvalidCertificate(certificate)) => {
                Self::certificate(certificate, name)
            }
            Some(rustls::Error::AlertReceived(alert)) => Self::alert(*alert),
            Some(rustls::Error::InvalidMessage(_)) => Self::plain_port(),
            Some(error) => Self::connection(
                "tls-failed",
                format!("TLS failed: {error}"),
                "look at Redis's own log",
            ),
            None if error.kind() == io::ErrorKind::UnexpectedEof
                || error.kind() == io::ErrorKind::ConnectionReset =>
            {
                Self::connection(
                    "tls-ended",
                    "it ended the connection during the TLS handshake",
                    "is it the port for TLS? Without TLS it is redis://; Redis's own log says more",
                )
            }
            None => Self::connection(
                "tls-failed",
                format!("the connection broke during the TLS handshake: {error}"),
                "look at the network between, or at Redis's own log",
            ),
        }
    }

    /// It speaks plain text where TLS was spoken to it.
    pub fn plain_port() -> Self {
        Self::new(
            Outage::Protocol,
            "plain-port",
            "it answered the TLS handshake in plain text",
            "name its port for TLS (tls-port in redis.conf); without TLS it is redis://",
        )
    }

    /// It speaks TLS where plain text was spoken to it.
    pub fn tls_port(did: &str) -> Self {
        Self::new(
            Outage::Protocol,
            "tls-port",
            format!("{did}: it speaks TLS there"),
            "write rediss:// for this port, or name the one without TLS",
        )
    }

    fn certificate(certificate: &CertificateError, name: &str) -> Self {
        use CertificateError as Certificate;
        let renew = "renew the certificate that Redis shows (tls-cert-file)";
        let (reason, text, mend) = match certificate {
            Certificate::Expired => (
                "expired",
                "its certificate has expired".into(),
                renew.into(),
            ),
            Certificate::ExpiredContext { not_after, .. } => (
                "expired",
                format!("its certificate expired on {}", date(not_after.as_secs())),
                renew.into(),
            ),
            Certificate::NotValidYet => (
                "not-valid-yet",
                "its certificate is not valid yet".into(),
                "set the clocks of both machines".into(),
            ),
            Certificate::NotValidYetContext { not_before, .. } => (
                "not-valid-yet",
                format!(
                    "its certificate is valid from {}",
                    date(not_before.as_secs())
                ),
                "set the clocks of both machines".into(),
            ),
            Certificate::UnknownIssuer => (
                "unknown-authority",
                "its certificate is from an authority that is not trusted here".into(),
                "name that authority in redis.tls.ca".into(),
            ),
            Certificate::NotValidForName => (
                "wrong-name",
                format!("its certificate is for another name than {name}"),
                other_name(None),
            ),
            Certificate::NotValidForNameContext { presented, .. } => {
                let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
                let told = names[..names.len().min(NAMES_TOLD_MAX)].join(", ");
                let more = match names.len().saturating_sub(NAMES_TOLD_MAX) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                (
                    "wrong-name",
                    format!("its certificate is for {told}{more}, not for {name}"),
                    other_name(names.first().copied()),
                )
            }
            other => (
                "bad-certificate",
                format!("its certificate is refused: {other}"),
                "let Redis show another one (tls-cert-file)".into(),
            ),
        };
        Self::connection(reason, text, mend)
    }

    /// The server ended TLS and said why.
    fn alert(alert: AlertDescription) -> Self {
        let (reason, text, mend) = match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => (
                "certificate-wanted",
                "it wants a certificate of ours".to_owned(),
                "name one in redis.tls.cert, with its key in redis.tls.key",
            ),
            AlertDescription::HandshakeFailure => (
                "handshake-refused",
                "it refused the TLS handshake".to_owned(),
                "it may want a certificate of ours (redis.tls.cert and .key), or speak other ciphers",
            ),
            AlertDescription::ProtocolVersion => (
                "tls-version",
                "it speaks neither TLS 1.2 nor 1.3".to_owned(),
                "tls-protocols \"TLSv1.2 TLSv1.3\" in redis.conf",
            ),
            AlertDescription::UnrecognisedName => (
                "wrong-name",
                "it does not know the name that was asked for".to_owned(),
                "name the right one in redis.tls.server_name",
            ),
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError => (
                "certificate-refused",
                format!("it refused our certificate ({alert:?})"),
                "redis.tls.cert has to be valid, and from an authority in Redis's tls-ca-cert-file",
            ),
            _ => (
                "tls-failed",
                format!("it ended TLS ({alert:?})"),
                "look at Redis's own log",
            ),
        };
        Self::connection(reason, text, mend)
    }

    /// The connection ended before the greeting was answered.
    pub fn ended(is_tls: bool) -> Self {
        let mend = match is_tls {
            true => "it may want a certificate of ours (redis.tls.cert and .key), or be no Redis",
            false => "is it a Redis? If it speaks TLS there, it is rediss://",
        };
        Self::connection(
            "ended",
            "it took the connection and ended it before the greeting was answered",
            mend,
        )
    }

    /// What came is no reply of Redis's; `bytes` is its beginning.
    pub fn garbage(bytes: &[u8]) -> Self {
        let (reason, text, mend) = match bytes {
            // RFC 8446 §5.1: the record of an alert, or of a handshake, in version 3.x.
            [0x15 | 0x16, 3, ..] => return Self::tls_port("it answered in other signs"),
            _ if bytes.starts_with(b"HTTP/") => (
                "http",
                "it answered in HTTP: this is a web server, or a REST interface",
                "name Redis's own port, usually 6379",
            ),
            _ => (
                "no-redis",
                "it answered something that is not Redis's protocol",
                "mend the address in redis.url: what listens there is no Redis",
            ),
        };
        Self::new(Outage::Protocol, reason, text, mend)
    }

    /// The same, naming the server that it was, where there are several.
    #[must_use]
    pub fn of(mut self, server: &impl fmt::Display) -> Self {
        let server = server.to_string();
        if !self.text.contains(&server) {
            self.text = format!("{server}: {}", self.text);
        }
        self
    }

    /// A question that went out had no answer.
    pub fn unanswered(outage: Outage) -> Self {
        Self::new(outage, outage.word(), outage.word(), "look at its own log")
    }

    /// Whether somebody has to allow it first.
    pub const fn is_refusal(&self) -> bool {
        matches!(self.outage, Outage::Denied | Outage::Forbidden)
    }

    /// The one of both that people have to know: who is refused somewhere has to mend that.
    #[must_use]
    pub fn or(self, another: Self) -> Self {
        match self.is_refusal() {
            true => self,
            false => another,
        }
    }

    /// It answered the greeting, or a question, with this error reply. `password` is never part of the text.
    pub fn reply(line: &[u8], who: &str, password: Option<&str>) -> Self {
        let outage = outage::of_line(line);
        let mut text = outage::told(line);
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            text = text.replace(password, "…");
        }
        let code = text.split(' ').next().unwrap_or_default().to_owned();
        let text = text.trim_end_matches('.').to_owned();
        let (reason, text, mend) = match code.as_str() {
            "WRONGPASS" => (
                "wrong-password",
                format!("user `{who}` is refused: {text}"),
                "mend redis.username and redis.password, or both in redis.url; ACL LIST in Redis shows its users",
            ),
            "NOAUTH" => (
                "no-password",
                format!("it wants a password: {text}"),
                "set redis.password, or write it into redis.url",
            ),
            "NOPERM" => (
                "no-permission",
                format!("user `{who}` may not send a command: {text}"),
                "larder export acl prints what the user has to be allowed",
            ),
            "DENIED" => (
                "protected",
                "it is in protected mode: it takes connections from its own machine alone"
                    .to_owned(),
                "give it a password (requirepass, or a user), or let it listen on one address (bind)",
            ),
            "LOADING" => ("loading", text, "wait until it has loaded its data"),
            "ERR" if text.contains("max number of clients") => (
                "too-many-clients",
                text,
                "raise maxclients in redis.conf, or lower redis.pool.max",
            ),
            "ERR"
                if text.contains("without any password") || text.contains("no password is set") =>
            {
                (
                    "no-password-there",
                    format!("a password was given, and Redis has none: {text}"),
                    "take the password out of redis.url, or set it in Redis",
                )
            }
            "ERR" if text.contains("invalid password") => (
                "wrong-password",
                format!("the password is refused: {text}"),
                "mend redis.password, or the one in redis.url",
            ),
            "ERR" if text.contains("DB index") => (
                "no-database",
                text,
                "the number after the host in redis.url is larger than `databases` in redis.conf",
            ),
            "ERR" if text.contains("cluster support disabled") => (
                "no-cluster",
                text,
                "it is one server: write redis:// in redis.url",
            ),
            "ERR" if text.contains("No such master") => (
                "no-such-name",
                text,
                "what follows the hosts in redis.url is the name that the Sentinels use: SENTINEL MASTERS tells it",
            ),
            _ if outage == Outage::Forbidden && text.to_uppercase().contains("SENTINEL") => (
                "no-sentinel",
                text,
                "name the Sentinels' own port in redis.url, usually 26379; to one server it is redis://",
            ),
            _ if outage == Outage::Forbidden => (
                "no-such-command",
                text,
                "larder needs a server that has it: Redis from 6.2 on, or one like it",
            ),
            _ => ("greeting-refused", text, "look at Redis's own log"),
        };
        Self::new(outage, reason, text, mend)
    }
}

fn other_name(first: Option<&str>) -> String {
    match first {
        Some(name) => format!("write that name in redis.url, or in redis.tls.server_name: {name}"),
        None => "write the certificate's name in redis.url, or in redis.tls.server_name".into(),
    }
}

/// `DnsName("a")` as `a`.
fn bare(name: &str) -> &str {
    match (name.find('"'), name.rfind('"')) {
        (Some(first), Some(last)) if first < last => &name[first + 1..last],
        _ => name,
    }
}

fn date(secs: u64) -> String {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(secs))
        .map_or_else(|| "a day far off".into(), httpdate::fmt_http_date)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{ServerName, UnixTime};

    fn of_certificate(error: CertificateError) -> Refused {
        let error = rustls::Error::InvalidCertificate(error);
        Refused::tls(&io::Error::new(io::ErrorKind::InvalidData, error), "h")
    }

    #[test]
    fn a_certificate_is_refused_with_its_reason() {
        let at = |secs| UnixTime::since_unix_epoch(Duration::from_secs(secs));
        let expired = of_certificate(CertificateError::ExpiredContext {
            time: at(2_000_000_000),
            not_after: at(1_700_000_000),
        });
        assert_eq!(expired.reason, "expired");
        assert_eq!(
            expired.text,
            "its certificate expired on Tue, 14 Nov 2023 22:13:20 GMT"
        );
        let named = of_certificate(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("h").unwrap().to_owned(),
            presented: vec![
                "DnsName(\"a\")".into(),
                "b".into(),
                "c".into(),
                "d".into(),
                "e".into(),
            ],
        });
        assert_eq!(
            named.text,
            "its certificate is for a, b, c, d and 1 more, not for h"
        );
        assert!(named.mend.ends_with("server_name: a"));
        let unknown = of_certificate(CertificateError::UnknownIssuer);
        assert!(unknown.mend.contains("redis.tls.ca"));
    }

    #[test]
    fn what_is_no_redis_is_told_by_what_it_says() {
        for (bytes, reason) in [
            (&b"HTTP/1.1 400 Bad Request"[..], "http"),
            (&[0x15, 3, 3, 0, 2, 2, 70], "tls-port"),
            (b"SSH-2.0-OpenSSH_9.2", "no-redis"),
            (b"", "no-redis"),
        ] {
            assert_eq!(Refused::garbage(bytes).reason, reason, "{bytes:?}");
        }
    }

    #[test]
    fn a_refused_greeting_names_the_user_and_never_the_password() {
        for (line, reason) in [
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                "wrong-password",
            ),
            ("NOAUTH Authentication required.", "no-password"),
            (
                "DENIED Redis is running in protected mode because…",
                "protected",
            ),
            ("ERR max number of clients reached", "too-many-clients"),
            (
                "ERR AUTH <password> called without any password configured for the default user.",
                "no-password-there",
            ),
            ("ERR DB index is out of range", "no-database"),
            ("LOADING Redis is loading the dataset in memory", "loading"),
            (
                "ERR unknown command `AUTH`, with args beginning with: `hunter2`",
                "no-such-command",
            ),
            (
                "ERR unknown command 'SENTINEL', with args beginning with: 'MASTER' ",
                "no-sentinel",
            ),
            (
                "ERR This instance has cluster support disabled",
                "no-cluster",
            ),
            ("ERR No such master with that name", "no-such-name"),
            ("ERR hunter2", "greeting-refused"),
        ] {
            let refused = Refused::reply(line.as_bytes(), "shop", Some("hunter2"));
            assert_eq!(refused.reason, reason, "{line}");
            assert!(!refused.to_string().contains("hunter2"), "{refused}");
            assert_eq!(refused.text.contains("`shop`"), reason == "wrong-password");
        }
    }
}
