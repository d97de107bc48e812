//! larder as a plain shared cache, requirement by requirement: each scenario is named by its RFC and
//! section, and drives the real binary with an app that says what each request tells it to.

mod cache_status;
mod fields;
mod forwarding;
mod freshness;
mod interim;
mod invalidation;
mod no_vary_search;
mod odd;
mod post;
mod ranges;
mod reuse;
mod stale;
mod storing;
mod targeted;
mod trailers;
mod validation;
mod vary;

use crate::support::*;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// A plain RFC 9111 shared cache: no routes, no lifetimes of its own, requests' directives honoured.
const PLAIN: &str =
    "cache: { set_cookie: store, client_refresh: true }\ndefaults: { heuristic: true }";

/// An app, larder before it, and a clock that stands still.
struct Scene {
    app: App,
    larder: Larder,
    client: Client,
    paths: AtomicUsize,
    /// By how much larder's clock is ahead of ours, in seconds.
    ahead: AtomicU64,
}

impl Scene {
    async fn begins() -> Self {
        let number = AtomicUsize::new(0);
        let app = App::says(move |seen| said(seen, number.fetch_add(1, Ordering::Relaxed))).await;
        Self::with(app).await
    }

    async fn with(app: App) -> Self {
        let larder = larder(&app).yaml(PLAIN).manual_clock().start().await;
        let client = larder.client();
        Self {
            app,
            larder,
            client,
            paths: AtomicUsize::new(0),
            ahead: AtomicU64::new(0),
        }
    }

    /// A path that nobody has asked for.
    fn path(&self) -> String {
        format!("/{}", self.paths.fetch_add(1, Ordering::Relaxed))
    }

    /// `request` and `says` are fields, one a line; `says` is what the app answers if it is asked.
    async fn ask(&self, method: &str, path: &str, request: &str, says: &str) -> Response {
        let says = self.dated(says).replace('\n', "|");
        let request = self.dated(request);
        let mut fields: Vec<(&str, &str)> = lines(&request).collect();
        fields.push(("Says", &says));
        self.client.send(method, path, &fields, "").await
    }

    /// Moves larder's clock on: `45s` or `2h`.
    async fn advance(&self, by: &str) {
        let (number, unit) = by.split_at(by.len() - 1);
        let number: u64 = number.parse().unwrap();
        let seconds = if unit == "h" { 3_600 * number } else { number };
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
        self.larder.advance(by).await;
    }

    /// The HTTP date this many seconds from larder's now.
    fn date(&self, seconds: i64) -> String {
        let by = Duration::from_secs(seconds.unsigned_abs());
        #[expect(clippy::disallowed_methods, reason = "the app has the host's clock")]
        let now = SystemTime::now() + Duration::from_secs(self.ahead.load(Ordering::Relaxed));
        httpdate::fmt_http_date(if seconds < 0 { now - by } else { now + by })
    }

    /// `{-60}` becomes the HTTP date of a minute ago.
    fn dated(&self, fields: &str) -> String {
        let mut dated = String::new();
        let mut rest = fields;
        while let Some((before, after)) = rest.split_once('{') {
            let (seconds, after) = after.split_once('}').expect("a closing brace");
            dated.push_str(before);
            dated.push_str(&self.date(seconds.parse().expect("seconds")));
            rest = after;
        }
        dated + rest
    }

    async fn get(&self, path: &str, says: &str) -> Response {
        self.ask("GET", path, "", says).await
    }

    /// Whether the answer to a first request is used for a second one, `later`.
    async fn reuses(&self, says: &str, later: &str) -> bool {
        self.reuses_for("", says, later, "").await
    }

    /// The same for requests with these fields.
    async fn reuses_for(&self, first: &str, says: &str, later: &str, second: &str) -> bool {
        let path = self.path();
        let one = self.ask("GET", &path, first, says).await;
        if !later.is_empty() {
            self.advance(later).await;
        }
        let other = self.ask("GET", &path, second, says).await;
        assert_eq!(one.status, other.status, "{says}");
        let count = self.app.count(&path);
        let reused = count == 1;
        if reused {
            assert_eq!(one.body, other.body, "{says}");
            assert!(other.has("age"), "no Age on reuse: {says}");
            assert!(other.header("cache-status").contains("; hit"), "{says}");
        } else {
            assert!(!other.header("cache-status").contains("; hit"), "{says}");
        }
        reused
    }
}

/// The answer that a request's `Says` asks for: fields separated by bars; `status: 404` sets the
/// status, `body: x` the content (else a number of its own), `framing: …` how it is written.
fn said(seen: &Seen, number: usize) -> Answer {
    let says = seen.header("says").unwrap_or_default().replace('|', "\n");
    let of = |name: &str| {
        lines(&says)
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    };
    let status: u16 = of("status").map_or(200, |status| status.parse().unwrap());
    let body = of("body").map_or(format!("answer {number}"), ToOwned::to_owned);
    let fields = lines(&says).filter(|(name, _)| !matches!(*name, "status" | "body" | "framing"));
    match of("framing") {
        None => fields.fold(Answer::new(status, body), |answer, (name, value)| {
            answer.header(name, value)
        }),
        Some(framing) => {
            let head: String = fields
                .map(|(name, value)| format!("{name}: {value}\r\n"))
                .collect();
            match framing {
                "chunked" => Answer::chunked(&head, &[&body]),
                "trailers" => Answer::raw(format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n{head}\r\n{:x}\r\n{body}\r\n0\r\nX-Sum: 7\r\n\r\n",
                    body.len()
                )),
                "close" => Answer::raw(format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n{body}"
                ))
                .then_close(),
                "1.0" => Answer::raw(format!(
                    "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n{head}\r\n{body}",
                    body.len()
                ))
                .then_close(),
                "cut" => Answer::raw(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{head}\r\n{body}",
                    body.len() + 1
                ))
                .then_close(),
                "cut-chunk" => Answer::raw(format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{head}\r\n{:x}\r\n{body}\r\n",
                    body.len()
                ))
                .then_close(),
                "interim" => Answer::raw(format!(
                    "HTTP/1.1 102 Processing\r\nX-Interim: 1\r\n\r\n\
                     HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Interim: 2\r\nCache-Control: max-age=3600\r\n\r\n\
                     HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{head}\r\n{body}",
                    body.len()
                )),
                "hang-up" => Answer::raw("").then_close(),
                other => panic!("no framing {other}"),
            }
        }
    }
}

/// Name and value of each line.
fn lines(fields: &str) -> impl Iterator<Item = (&str, &str)> {
    fields
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim(), value.trim()))
}
