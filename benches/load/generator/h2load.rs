//! h2load: what it prints.

use super::Outcome;

/// Reads what h2load prints at its end.
pub fn parse(text: &str) -> Option<Outcome> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let took = line("finished in ")?.split(',').next()?;
    let count = |line: &str, what: &str| -> Option<u64> {
        line.split(',')
            .find_map(|part| part.trim().strip_suffix(what))?
            .trim()
            .parse()
            .ok()
    };
    let requests = line("requests: ")?;
    let statuses = line("status codes: ")?;
    Some(Outcome {
        requests: count(requests, " done")?,
        refused: count(statuses, " 4xx")? + count(statuses, " 5xx")?,
        errors: count(requests, " errored")? + count(requests, " timeout")?,
        seconds: seconds(took)?,
    })
}

/// `2.00s`, `501.12ms`.
pub fn seconds(text: &str) -> Option<f64> {
    for (unit, seconds) in [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)] {
        if let Some(number) = text
            .trim()
            .strip_suffix(unit)
            .and_then(|n| n.parse::<f64>().ok())
        {
            return Some(number * seconds);
        }
    }
    None
}
