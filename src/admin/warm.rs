//! `/v1/warm`: pages are warmed, and it is told how far that is.

use super::api::{parse_of, unprocessable};
use super::problem::Problem;
use super::{Admin, Reply, json};
use crate::config::warm::{PageHost, PageUrl};
use crate::proxy::warm::{Cause, Pace, Wanted};
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Body;
use serde::Deserialize;
use serde_json::json;

/// Bytes of a request: that many URLs are more than may wait.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Pages that are asked for most, at most.
const POPULAR_MAX: usize = 10_000;
/// Pages at a time at most.
const CONCURRENCY_MAX: u32 = 256;
/// Pages a second at most.
const RATE_MAX: f64 = 10_000.0;

/// What is to be warmed; nothing: the lists of the configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WarmRequest {
    urls: Vec<String>,
    sitemap: Option<String>,
    popular: Option<usize>,
    host: Option<String>,
    concurrency: Option<u32>,
    /// Pages a second.
    rate: Option<f64>,
}

impl Admin {
    /// `POST /v1/warm`: 202 with the numbers of the jobs that have begun.
    pub(super) async fn warm<B>(&self, request: Request<B>) -> Result<Reply, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let example = r#"{"urls": ["/api/fleet"]}; also sitemap, popular, host, concurrency, rate; {} for the configuration's lists."#;
        let asked: WarmRequest = parse_of(request, example, BODY_BYTES_MAX).await?;
        let pace = pace(&asked)?;
        let named = !asked.urls.is_empty() || asked.sitemap.is_some() || asked.popular.is_some();
        let warmer = &self.state.warmer;
        let jobs: Vec<u64> = if named {
            let wanted = wanted(&asked)?;
            let name = name(&asked);
            vec![warmer.warm(Cause::Asked, name, pace, wanted)]
        } else {
            let settings = self.state.settings.load();
            if settings.warm.is_empty() {
                return Err(unprocessable(
                    "no-lists",
                    "The configuration lists no pages to warm.",
                    "Name urls, a sitemap or popular; or write `warm:` in the configuration.",
                ));
            }
            let host = wanted(&asked)?.host;
            // What is asked for with it, is asked for instead of what the list says.
            let begin = |list| {
                let own = Pace::of(list);
                let pace = Pace {
                    concurrency: asked.concurrency.unwrap_or(own.concurrency),
                    rate: asked.rate.unwrap_or(own.rate),
                };
                let mut wanted = Wanted::of(list);
                wanted.host = host.clone().or(wanted.host);
                warmer.warm(Cause::Asked, list.name(), pace, wanted)
            };
            settings.warm.iter().map(begin).collect()
        };
        tracing::info!(action = "warm", jobs = ?jobs, "admin");
        Ok(json(StatusCode::ACCEPTED, &json!({ "jobs": jobs })))
    }

    /// `GET /v1/warm`, or `?job=3&after=100`: how far that job is, and what became of its pages from the
    /// 101st on.
    pub(super) fn warming(&self, query: Option<&str>) -> Result<Reply, Problem> {
        let mut job = None;
        let mut after = 0;
        for part in query.unwrap_or_default().split('&') {
            match part
                .split_once('=')
                .map(|(name, number)| (name, number.parse()))
            {
                None if part.is_empty() => {}
                Some(("job", Ok(number))) => job = Some(number),
                Some(("after", Ok(number))) => after = number,
                _ => {
                    return Err(unprocessable(
                        "unknown-parameter",
                        "This takes the numbers `job` and `after`.",
                        "Write /v1/warm?job=1&after=0, or /v1/warm for all.",
                    ));
                }
            }
        }
        let warmer = &self.state.warmer;
        let Some(job) = job else {
            return Ok(json(StatusCode::OK, &json!(warmer.standing())));
        };
        let Some((progress, lines)) = warmer.told(job, after) else {
            return Err(Problem::new(
                StatusCode::NOT_FOUND,
                "no-such-job",
                "There is no job of this number, or it has been forgotten.",
                "GET /v1/warm lists them.",
            ));
        };
        let paused = warmer.standing().paused;
        Ok(json(
            StatusCode::OK,
            &json!({ "job": progress, "lines": lines, "paused": paused }),
        ))
    }
}

fn pace(asked: &WarmRequest) -> Result<Pace, Problem> {
    let pace = Pace {
        concurrency: asked.concurrency.unwrap_or(Pace::DEFAULT.concurrency),
        rate: asked.rate.unwrap_or(Pace::DEFAULT.rate),
    };
    let fits = (1..=CONCURRENCY_MAX).contains(&pace.concurrency)
        && pace.rate.is_finite()
        && pace.rate > 0.0
        && pace.rate <= RATE_MAX;
    match fits {
        true => Ok(pace),
        false => Err(unprocessable(
            "bad-pace",
            format!(
                "`concurrency` is from 1 to {CONCURRENCY_MAX}, `rate` is pages a second, to {RATE_MAX}."
            ),
            "Write {\"concurrency\": 4, \"rate\": 20}.",
        )),
    }
}

fn wanted(asked: &WarmRequest) -> Result<Wanted, Problem> {
    let page = |text: &String| {
        PageUrl::parse(text).ok_or_else(|| {
            unprocessable(
                "bad-url",
                "A page is a path or a URL, without blanks.",
                "Write /api/fleet?page=2, or https://shop.example/api/fleet?page=2 for one host.",
            )
        })
    };
    let host = match &asked.host {
        None => None,
        Some(text) => Some(PageHost::parse(text).ok_or_else(|| {
            unprocessable(
                "bad-host",
                "`host` is not a host.",
                "Write shop.example, or https://shop.example.",
            )
        })?),
    };
    if asked
        .popular
        .is_some_and(|most| !(1..=POPULAR_MAX).contains(&most))
    {
        return Err(unprocessable(
            "bad-popular",
            format!("`popular` is from 1 to {POPULAR_MAX}."),
            "Write 100.",
        ));
    }
    Ok(Wanted {
        urls: asked.urls.iter().map(page).collect::<Result<_, _>>()?,
        sitemap: asked.sitemap.as_ref().map(page).transpose()?,
        popular: asked.popular,
        host,
        ..Wanted::default()
    })
}

/// What the job is called.
fn name(asked: &WarmRequest) -> String {
    let mut names = Vec::new();
    match &asked.urls[..] {
        [] => {}
        [one] => names.push(one.clone()),
        [one, rest @ ..] => names.push(format!("{one} and {} more", rest.len())),
    }
    names.extend(asked.sitemap.clone());
    names.extend(asked.popular.map(|most| format!("popular {most}")));
    names.join(", ")
}
