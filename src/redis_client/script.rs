//! Scripts that Redis runs: called by their digest, sent whole where Redis does not know them.

use super::resp::{Reply, write_command};
use aws_lc_rs::digest;

/// A script and its digest.
#[derive(Clone, Debug)]
pub struct Script {
    code: String,
    /// SHA-1 in hexadecimal digits, as EVALSHA wants it.
    digest: String,
}

impl Script {
    /// The script with this code.
    #[must_use]
    pub fn new(code: &str) -> Self {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, code.as_bytes());
        let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Self {
            code: code.to_owned(),
            digest: digits.collect(),
        }
    }

    /// Appends the call.
    pub(super) fn write_call(&self, out: &mut Vec<u8>, keys: &[&[u8]], args: &[&[u8]]) {
        let count = keys.len().to_string();
        let head = [
            b"EVALSHA".as_slice(),
            self.digest.as_bytes(),
            count.as_bytes(),
        ];
        let parts = head.iter().chain(keys).chain(args).copied();
        write_command(out, head.len() + keys.len() + args.len(), parts);
    }

    /// Appends what makes it known.
    pub(super) fn write_load(&self, out: &mut Vec<u8>) {
        let parts = [b"SCRIPT".as_slice(), b"LOAD", self.code.as_bytes()];
        write_command(out, parts.len(), parts.into_iter());
    }

    /// Whether the call says that the script is not known.
    pub(super) fn is_missing(reply: &Reply) -> bool {
        matches!(reply, Reply::Error(line) if line.starts_with(b"NOSCRIPT"))
    }

    /// The call's reply, of those to [`write_load`](Self::write_load) and the call behind it: where it
    /// could not be loaded, that tells more.
    pub(super) fn called(reply: Reply) -> Reply {
        let Reply::Array(replies) = reply else {
            return reply;
        };
        let mut replies = replies.into_iter();
        match (replies.next(), replies.next()) {
            (Some(Reply::Error(line)), _) => Reply::Error(line),
            (_, Some(reply)) => reply,
            _ => Reply::Nil,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_by_the_digest_that_redis_makes() {
        // redis-cli SCRIPT LOAD 'return 1'
        let script = Script::new("return 1");
        assert_eq!(script.digest, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
        let mut out = Vec::new();
        script.write_call(&mut out, &[b"k"], &[b"a", b""]);
        let call = format!(
            "*6\r\n$7\r\nEVALSHA\r\n$40\r\n{}\r\n$1\r\n1\r\n$1\r\nk\r\n$1\r\na\r\n$0\r\n\r\n",
            script.digest
        );
        assert_eq!(out, call.as_bytes());
    }
}
