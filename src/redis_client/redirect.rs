//! Where a Cluster says that a key is: MOVED and ASK. Pure.
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>)

use super::Outage;
use super::link::taken;
use super::resp::Reply;

/// Another node has the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Where it listens; no host means the one that answered so.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// For this one command (ASK), and it must be told that it was asked for; else from now on.
    pub asking: bool,
}

/// Why there is no answer from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turned {
    /// There is none anywhere.
    Away(Outage),
    /// Another has it.
    To(Redirect),
}

impl Turned {
    /// What it is for who asks no other node.
    pub fn outage(self) -> Outage {
        match self {
            Self::Away(outage) => outage,
            Self::To(_) => Outage::Moved,
        }
    }
}

impl From<Outage> for Turned {
    fn from(outage: Outage) -> Self {
        Self::Away(outage)
    }
}

impl Redirect {
    /// The redirection in the line of an error reply: `MOVED 3999 127.0.0.1:6381`.
    pub fn of_line(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let mut words = line.split(' ');
        let asking = match words.next()? {
            "MOVED" => false,
            "ASK" => true,
            _ => return None,
        };
        let (host, port) = words.nth(1)?.rsplit_once(':')?;
        Some(Self {
            host: host.to_owned(),
            port: port.parse().ok()?,
            asking,
        })
    }

    /// The reply, or whereto it turns who asked.
    pub fn taken(reply: Reply) -> Result<Reply, Turned> {
        if let Reply::Error(line) = &reply
            && let Some(redirect) = Self::of_line(line)
        {
            return Err(Turned::To(redirect));
        }
        Ok(taken(reply)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_the_key_is() {
        let redirect = |host: &str, port, asking| {
            let host = host.to_owned();
            Some(Redirect { host, port, asking })
        };
        for (line, whereto) in [
            (
                "MOVED 3999 127.0.0.1:6381",
                redirect("127.0.0.1", 6381, false),
            ),
            (
                "ASK 1 cache-2.internal:7000",
                redirect("cache-2.internal", 7000, true),
            ),
            ("MOVED 1 ::1:7000", redirect("::1", 7000, false)),
            ("MOVED 1 :7000", redirect("", 7000, false)),
            ("MOVED 1", None),
            ("MOVED 1 h:x", None),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                None,
            ),
        ] {
            assert_eq!(Redirect::of_line(line.as_bytes()), whereto, "{line}");
        }
    }
}
