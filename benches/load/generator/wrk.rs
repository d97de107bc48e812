//! wrk: its arguments, its scripts and what it prints.

use super::Outcome;

/// The text of a wrk script that asks for `keys` numbered paths at random, written before it starts.
pub fn keys_script(path: &str, keys: usize) -> String {
    format!(
        "local requests = {{}}\n\
         function init()\n  for n = 0, {keys} - 1 do\n    \
         requests[n] = wrk.format('GET', '{path}' .. string.format('%d', n))\n  end\nend\n\
         function request()\n  return requests[math.random(0, {keys} - 1)]\nend\n"
    )
}

/// Reads what wrk prints at its end.
pub fn parse(text: &str) -> Option<Outcome> {
    let total = text.lines().find(|line| line.contains(" requests in "))?;
    let (requests, rest) = total.trim().split_once(" requests in ")?;
    let time = rest.split(',').next()?;
    let sum_after = |start: &str| -> u64 {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(start))
            .unwrap_or_default();
        line.split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse::<u64>().ok())
            .sum()
    };
    Some(Outcome {
        requests: requests.trim().parse().ok()?,
        refused: sum_after("Non-2xx or 3xx responses:"),
        errors: sum_after("Socket errors:"),
        seconds: seconds(time)?,
    })
}

/// `2.00s`, `1.50m`, `350.12ms`.
pub fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    for (unit, seconds) in [
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ] {
        if let Some(number) = text.strip_suffix(unit).and_then(|n| n.parse::<f64>().ok()) {
            return Some(number * seconds);
        }
    }
    None
}
