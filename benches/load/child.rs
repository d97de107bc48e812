//! Processes of the harness: pinned when they start, ended with all that descends from them.

use crate::cpu;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For a process to end by itself after SIGTERM.
const END_MAX: Duration = Duration::from_secs(3);
/// Between two looks at whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Bytes of its log that are shown when it fails.
const LOG_SHOWN_BYTES: usize = 2_000;

/// The core of what is measured: the proxy, and Redis where the proxy uses it.
pub const SERVER_CORE: usize = 0;
/// The core of the app and of the clients.
pub const CLIENT_CORE: usize = 1;

/// Where a program is, if it is installed; daemons are often not on a user's `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/local/sbin"])
        .map(|folder| Path::new(folder).join(program))
        .find(|file| file.is_file())
}

/// A command on one core that gets SIGTERM when the harness is gone, however that came.
pub fn pinned(core: usize, program: &Path) -> Command {
    let mut words: Vec<&OsStr> = Vec::new();
    if find("setpriv").is_some() {
        words.extend(["setpriv", "--pdeathsig", "TERM"].map(OsStr::new));
    }
    let core = core.to_string();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores > 1 && find("taskset").is_some() {
        words.extend(["taskset", "-c", &core].map(OsStr::new));
    }
    words.push(program.as_os_str());
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    command
}

/// A process that serves until this is dropped.
pub struct Child {
    process: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts it; what it says of errors goes to `log`, everything else nowhere.
    pub fn start(mut command: Command, log: PathBuf) -> Result<Self, String> {
        let file = std::fs::File::create(&log).map_err(|error| format!("{log:?}: {error}"))?;
        let process = command
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        Ok(Self { process, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The end of what it wrote about errors.
    pub fn said(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(LOG_SHOWN_BYTES);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Known before the end: a child whose parent has gone belongs to nobody.
        let tree = cpu::tree(&[self.pid()]);
        signal("-TERM", self.pid());
        let asked = Instant::now();
        while asked.elapsed() < END_MAX && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::park_timeout(LOOK_EVERY);
        }
        for (pid, known) in tree {
            if cpu::stat(pid).is_some_and(|now| now.started == known.started) {
                signal("-KILL", pid);
            }
        }
        // It has ended by now; this takes its entry from the table of processes.
        let _ = self.process.wait();
    }
}

fn signal(name: &str, pid: u32) {
    // It may have ended by itself; then there is nobody to tell.
    let _ = Command::new("kill")
        .args([name, &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}
