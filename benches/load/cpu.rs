//! What processes have used, read from `/proc`. It starts and ends nothing.

use std::time::Duration;

/// Ticks a second of the times in `/proc/PID/stat` (USER_HZ, part of Linux's interface).
const TICKS_A_SECOND: u64 = 100;

/// What is used of a line of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Who started it.
    pub parent: u32,
    /// User and system time of all its threads, in ticks.
    pub ticks: u64,
    /// When it started, in ticks since boot: with the id, the process's identity.
    pub started: u64,
}

/// Reads a line of `/proc/PID/stat`; the command's name may hold blanks and parentheses.
pub fn parse_stat(line: &str) -> Option<Stat> {
    let (_, fields) = line.rsplit_once(')')?;
    // The first of these is field 3 of proc(5).
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(4)?).ok()?,
        ticks: number(14)? + number(15)?,
        started: number(22)?,
    })
}

/// What the kernel says of a process; nothing if there is none of that id.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// These processes and all that descend from them.
pub fn tree(roots: &[u32]) -> Vec<(u32, Stat)> {
    let all: Vec<(u32, Stat)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect();
    let mut found: Vec<(u32, Stat)> = all
        .iter()
        .filter(|(pid, _)| roots.contains(pid))
        .copied()
        .collect();
    let mut next = 0;
    while let Some(&(parent, _)) = found.get(next) {
        next += 1;
        for &(pid, stat) in &all {
            if stat.parent == parent && !found.iter().any(|(known, _)| *known == pid) {
                found.push((pid, stat));
            }
        }
    }
    found
}

/// User and system time of these processes and their descendants so far.
pub fn spent(roots: &[u32]) -> Duration {
    let ticks: u64 = tree(roots).iter().map(|(_, stat)| stat.ticks).sum();
    Duration::from_millis(ticks * 1000 / TICKS_A_SECOND)
}

/// Resident bytes of these processes and their descendants; what several share is split between them.
pub fn resident(roots: &[u32]) -> u64 {
    tree(roots)
        .iter()
        .filter_map(|(pid, _)| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            rollup(&text, "Pss")
        })
        .sum()
}

/// One field of `/proc/PID/smaps_rollup`, in bytes.
pub fn rollup(text: &str, field: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(
        value
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            * 1024,
    )
}
