//! `larder warm`: asks a running larder to warm pages, and tells of each what became of it.

use super::{AdminPort, Exit, Request, say, talk, token};
use clap::Args;
use serde_json::{Value, json};
use std::time::Duration;

/// Each answer comes in this time.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// Pages that `--popular-only` means.
const POPULAR: u32 = 100;

#[derive(Debug, Args)]
pub(super) struct Warm {
    /// Pages: paths, or whole URLs; without any, the lists of the configuration
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// So many of the pages that are asked for most
    #[arg(long, value_name = "NUMBER")]
    popular: Option<u32>,
    /// The hundred pages that are asked for most, and nothing else
    #[arg(long, conflicts_with_all = ["popular", "urls", "sitemap"])]
    popular_only: bool,
    /// The pages of a sitemap that the app serves
    #[arg(long, value_name = "URL")]
    sitemap: Option<String>,
    /// The host that paths are asked for by
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Pages at a time [default: 4]
    #[arg(long, value_name = "NUMBER")]
    concurrency: Option<u32>,
    /// Pages begun in a second [default: 50]
    #[arg(long, value_name = "NUMBER")]
    rate: Option<f64>,
    #[command(flatten)]
    port: AdminPort,
    /// The admin token; by default the variable ADMIN_TOKEN
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Print how it ended as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

impl Warm {
    fn body(&self) -> Value {
        let mut body = json!({ "urls": self.urls });
        let popular = self.popular.or(self.popular_only.then_some(POPULAR));
        for (name, value) in [
            ("popular", popular.map(Value::from)),
            ("sitemap", self.sitemap.clone().map(Value::from)),
            ("host", self.host.clone().map(Value::from)),
            ("concurrency", self.concurrency.map(Value::from)),
            ("rate", self.rate.map(Value::from)),
        ] {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    }

    /// The answer to one request, as JSON.
    fn ask(&self, path: &str, body: Option<&Value>) -> Result<Value, Exit> {
        let request = Request {
            admin: self.port.url(),
            path,
            token: token(self.token.as_deref()),
            body: body.map(Value::to_string),
            timeout: TIMEOUT,
        };
        request.told("nothing was warmed")
    }

    /// Follows a job to its end; each page is a line.
    #[expect(
        clippy::disallowed_methods,
        reason = "a command has one thread, and nothing else to do"
    )]
    fn follow(&self, job: &Value) -> Result<Value, Exit> {
        let (mut after, mut told) = (0, None);
        loop {
            let answer = self.ask(&format!("/v1/warm?job={job}&after={after}"), None)?;
            for page in answer["lines"].as_array().into_iter().flatten() {
                after = page["number"].as_u64().unwrap_or(after);
                if !self.json {
                    say(&line(page));
                }
            }
            let paused = answer["paused"].as_str().map(str::to_owned);
            if let Some(why) = paused.as_ref().filter(|why| told.as_ref() != Some(*why)) {
                talk(&format!("larder: held, since {why}"));
            }
            told = paused;
            if answer["job"]["state"] == "done" {
                return Ok(answer["job"].clone());
            }
            std::thread::sleep(LOOK);
        }
    }
}

pub(super) fn warm(options: &Warm) -> Exit {
    let begun = match options.ask("/v1/warm", Some(&options.body())) {
        Ok(begun) => begun,
        Err(exit) => return exit,
    };
    let mut ended = Vec::new();
    for job in begun["jobs"].as_array().into_iter().flatten() {
        match options.follow(job) {
            Ok(progress) => ended.push(progress),
            Err(exit) => return exit,
        }
    }
    let problems = ended.iter().flat_map(|job| job["problems"].as_array());
    let problems: Vec<&str> = problems.flatten().filter_map(Value::as_str).collect();
    for problem in &problems {
        talk(&format!("larder: {problem}"));
    }
    match options.json {
        true => say(&format!("{}\n", json!({ "jobs": ended }))),
        false => say(&sum(&ended)),
    }
    let failed = ended.iter().any(|job| total(&job["failed"]) > 0);
    if failed || !problems.is_empty() {
        Exit::Findings
    } else {
        Exit::Fine
    }
}

/// What became of a page.
fn line(page: &Value) -> String {
    let why = page["why"].as_str().unwrap_or("unknown");
    let became = match page["outcome"].as_str() {
        Some("fresh") => format!("HIT, {} s left", page["fresh_seconds"]),
        Some("stored") => "MISS → stored".to_owned(),
        Some("not_stored") => format!("MISS → not stored: {why}"),
        _ => format!("MISS → failed: {why}"),
    };
    let url = page["url"].as_str().unwrap_or_default();
    format!("{became:<32} {:>6} ms  {url}\n", page["took_ms"])
}

/// All of them in one sentence, and the reasons.
fn sum(jobs: &[Value]) -> String {
    let of = |name: &str| jobs.iter().map(|job| total(&job[name])).sum::<u64>();
    let mut text = format!(
        "{} pages: {} stored, {} were fresh, {} not stored, {} failed\n",
        of("pages"),
        of("stored"),
        of("fresh"),
        of("not_stored"),
        of("failed"),
    );
    for name in ["not_stored", "failed"] {
        for job in jobs {
            for (why, count) in job[name].as_object().into_iter().flatten() {
                text.push_str(&format!("  {} {why}: {count}\n", name.replace('_', " ")));
            }
        }
    }
    text
}

/// A number, or the sum of an object's.
fn total(counts: &Value) -> u64 {
    match counts {
        Value::Object(counts) => counts.values().filter_map(Value::as_u64).sum(),
        count => count.as_u64().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_is_a_line_and_all_are_a_sentence() {
        let page = json!({"number": 1, "url": "http://a/b", "outcome": "stored", "took_ms": 412});
        assert_eq!(
            line(&page),
            "MISS → stored                    412 ms  http://a/b\n"
        );
        let page =
            json!({"url": "http://a/b", "outcome": "not_stored", "why": "private", "took_ms": 4});
        assert!(line(&page).starts_with("MISS → not stored: private  "));
        let job = json!({"pages": 4, "stored": 2, "fresh": 1, "not_stored": {"private": 1}, "failed": {}});
        assert_eq!(
            sum(&[job]),
            "4 pages: 2 stored, 1 were fresh, 1 not stored, 0 failed\n  not stored private: 1\n"
        );
    }
}
