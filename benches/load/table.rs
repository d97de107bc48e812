//! Medians, ratios and markdown. It measures nothing.

/// The middle of these values; of an even number, the mean of the two in the middle. 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest of these values; 0 of none.
pub fn minimum(values: &[f64]) -> f64 {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    if least.is_finite() { least } else { 0.0 }
}

/// The value that this share of a sorted list does not exceed; 0 of none.
pub fn quantile(sorted: &[u64], share: f64) -> u64 {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted
        .get(place.clamp(1, sorted.len().max(1)) - 1)
        .copied()
        .unwrap_or(0)
}

/// One server's rounds beside another's: by the medians, and by the least disturbed round of each.
pub fn ratios(values: &[f64], baseline: &[f64]) -> Option<(f64, f64)> {
    let (middle, least) = (median(baseline), minimum(baseline));
    (middle > 0.0 && least > 0.0 && !values.is_empty())
        .then(|| (median(values) / middle, minimum(values) / least))
}

/// A markdown table; short lines are filled up.
pub fn markdown(head: &[String], lines: &[Vec<String>]) -> String {
    let line = |cells: &[String]| {
        let filled = (0..head.len()).map(|at| cells.get(at).map_or("–", String::as_str));
        format!("| {} |\n", filled.collect::<Vec<_>>().join(" | "))
    };
    let mut text = line(head);
    text.push_str(&format!("|{}\n", "---|".repeat(head.len())));
    for cells in lines {
        text.push_str(&line(cells));
    }
    text
}
