//! Prometheus text exposition format 0.0.4.

use super::{BOUNDS_SECONDS, Family, Series, Value};
use std::borrow::Cow;
use std::fmt::Write;

/// Writes families; only those with a series come here.
pub(super) fn write(families: &[Family]) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for family in families {
        let name = family.row.name;
        let _ = writeln!(out, "# HELP {name} {}", help(family.row.help));
        let _ = writeln!(out, "# TYPE {name} {}", family.row.kind.word());
        for series in &family.series {
            write_series(&mut out, name, series);
        }
    }
    out
}

fn write_series(out: &mut String, name: &str, series: &Series) {
    // Writing to a String cannot fail.
    match &series.value {
        Value::Number(number) => {
            let _ = writeln!(out, "{name}{} {number}", labels(series, None));
        }
        Value::Histogram(read) => {
            let mut sum = 0;
            for (index, count) in read.buckets.iter().enumerate() {
                sum += count;
                let bound = match BOUNDS_SECONDS.get(index) {
                    Some(bound) => Cow::Owned(bound.to_string()),
                    None => Cow::Borrowed("+Inf"),
                };
                let _ = writeln!(out, "{name}_bucket{} {sum}", labels(series, Some(&bound)));
            }
            let labels = labels(series, None);
            let _ = writeln!(out, "{name}_sum{labels} {}", read.seconds());
            let _ = writeln!(out, "{name}_count{labels} {sum}");
        }
    }
}

fn labels(series: &Series, bound: Option<&str>) -> String {
    let mut out = String::new();
    let labels = series.labels.iter().map(|(name, value)| (*name, &**value));
    for (name, value) in labels.chain(bound.map(|bound| ("le", bound))) {
        out.push(if out.is_empty() { '{' } else { ',' });
        let _ = write!(out, "{name}=\"{}\"", label(value));
    }
    if !out.is_empty() {
        out.push('}');
    }
    out
}

fn label(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(
        value
            .replace('\\', r"\\")
            .replace('"', "\\\"")
            .replace('\n', r"\n"),
    )
}

fn help(text: &str) -> Cow<'_, str> {
    Cow::Owned(text.replace('\\', r"\\").replace('\n', r"\n"))
}
