//! Those who ask: wrk, h2load, and a client of our own where neither can. They know a server's
//! address and nothing else of it.

pub mod client;
pub mod h2load;
pub mod paced;
pub mod wrk;

use crate::child::{self, CLIENT_CORE, pinned};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// Keep-alive connections where a row does not say how many.
const CONNECTIONS: u32 = 64;

/// What one round of asking came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Answers.
    pub requests: u64,
    /// Of these, neither 2xx nor 3xx.
    pub refused: u64,
    /// Requests without an answer.
    pub errors: u64,
    /// How long it took.
    pub seconds: f64,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// HTTP/1.1, so many keep-alive connections, one request at a time on each.
    Wrk {
        /// Connections.
        connections: u32,
    },
    /// The same, over this many numbered paths at random.
    Keys {
        /// Paths that are asked for: the number is appended to the path.
        keys: usize,
    },
    /// A new connection for each request.
    NewConnections,
    /// HTTP/2, eight connections with eight streams each.
    H2,
    /// TLS: a full handshake and one request, 16 at a time.
    Handshakes,
}

/// How long and where to ask.
pub struct Round<'a> {
    /// The server.
    pub address: SocketAddr,
    /// What is asked for; with [`Load::Keys`] a number follows.
    pub path: &'a str,
    /// The certificate, where the server speaks TLS.
    pub certificate: Option<&'a Path>,
    /// How long; wrk knows whole seconds only.
    pub seconds: f64,
    /// Where a script may be written.
    pub folder: &'a Path,
}

impl Round<'_> {
    /// Asks as `load` says, from the clients' core.
    pub async fn run(&self, load: Load) -> Result<Outcome, String> {
        let scheme = if self.certificate.is_some() {
            "https"
        } else {
            "http"
        };
        let url = format!("{scheme}://{}{}", self.address, self.path);
        let connections = match load {
            Load::Wrk { connections } => connections,
            _ => CONNECTIONS,
        };
        let wrk = || -> Result<Command, String> {
            let mut command = program("wrk")?;
            command
                .args(["-t1", "--timeout", "10s", "-c"])
                .arg(connections.to_string())
                .arg(format!("-d{}s", self.seconds.ceil().max(1.0)));
            Ok(command)
        };
        let (command, read): (Command, fn(&str) -> Option<Outcome>) = match load {
            Load::Wrk { .. } => {
                let mut command = wrk()?;
                command.arg(url);
                (command, wrk::parse)
            }
            Load::Keys { keys } => {
                let file = self.folder.join("keys.lua");
                std::fs::write(&file, wrk::keys_script(self.path, keys))
                    .map_err(|error| error.to_string())?;
                let mut command = wrk()?;
                command.arg("-s").arg(file).arg(url);
                (command, wrk::parse)
            }
            Load::NewConnections => {
                let mut command = wrk()?;
                command.args(["-H", "Connection: close"]).arg(url);
                (command, wrk::parse)
            }
            Load::H2 => {
                let mut command = program("h2load")?;
                let milliseconds = (self.seconds * 1000.0).round();
                command
                    .args(["-t1", "-c8", "-m8", "-D"])
                    .arg(format!("{milliseconds}ms"))
                    .arg(url);
                (command, h2load::parse)
            }
            Load::Handshakes => (self.own("handshakes", &[])?, paced::parse_outcome),
        };
        let text = output(command).await?;
        read(&text).ok_or(format!("not understood: {text}"))
    }

    /// Asks at this rate, whatever the answers do.
    pub async fn at_rate(&self, rate: f64) -> Result<paced::Delays, String> {
        let command = self.own("paced", &["--rate", &rate.to_string()])?;
        let text = output(command).await?;
        paced::parse_delays(&text).ok_or(format!("not understood: {text}"))
    }

    fn own(&self, kind: &str, options: &[&str]) -> Result<Command, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = pinned(CLIENT_CORE, &own);
        command
            .args(["drive", kind, &self.address.to_string(), self.path])
            .arg(self.seconds.to_string())
            .args(options);
        if let Some(certificate) = self.certificate {
            command.arg("--certificate").arg(certificate);
        }
        Ok(command)
    }
}

fn program(name: &str) -> Result<Command, String> {
    let file = child::find(name).ok_or(format!("{name} is not installed"))?;
    Ok(pinned(CLIENT_CORE, &file))
}

/// What it prints; it is ended if nobody waits for that any more.
async fn output(command: Command) -> Result<String, String> {
    let mut command = tokio::process::Command::from(command);
    let output = command
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
