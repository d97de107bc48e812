//! `warm:` compiled.

use super::*;
use crate::config::values::Fields;
use crate::config::warm::WarmList;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// Lists at most.
const LISTS_MAX: usize = 64;
/// Combinations of the values of a list's fields and cookies.
const VARIANTS_MAX: usize = 64;
/// Pages at a time, and in a second, where the file says nothing.
const CONCURRENCY: u32 = 4;
const RATE: Rate = Rate {
    quota: NonZeroU32::new(50).unwrap(),
    window: Duration::from_secs(1),
};
/// Predictions where the file says nothing.
const PREDICTED_A_MINUTE: u32 = 60;
/// Pages at a time at most.
const CONCURRENCY_MAX: u32 = 256;
/// Pages that are asked for most, at most.
const POPULAR_MAX: u32 = 10_000;
/// No list is warmed more often.
const EVERY_MIN: Duration = Duration::from_secs(5);
/// Fields that a user's credentials travel in, that are made here, or that are about one connection or
/// one client.
const NOT_SENT: [&str; 29] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "host",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "expect",
    "range",
    "if-none-match",
    "if-modified-since",
    "if-range",
    "forwarded",
    "via",
    "if-match",
    "if-unmodified-since",
    "cache-control",
    "pragma",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "x-access-token",
    "x-amz-security-token",
    "x-csrf-token",
    "x-real-ip",
];

impl Compiler<'_> {
    pub(super) fn warm(&mut self, raw: &Raw) -> Vec<WarmList> {
        let Some(lists) = raw.warm.get() else {
            return Vec::new();
        };
        if lists.len() > LISTS_MAX {
            self.tell(
                Code::E117,
                "warm",
                format!("`warm` has {} lists", lists.len()),
                format!("at most {LISTS_MAX}; one list may hold many urls, or name a file"),
            );
        }
        lists
            .indexed()
            .take(LISTS_MAX)
            .map(|(index, list)| self.warm_list(list, &format!("warm[{index}]")))
            .collect()
    }

    pub(super) fn predict(&mut self, raw: &Raw) -> Option<Predict> {
        let raw = raw.predict.get().map(|short| &short.0);
        let raw = raw.filter(|predict| !predict.off)?;
        let per_minute = raw.rate.get().map_or(PREDICTED_A_MINUTE, |rate| {
            let seconds = rate.0.window.as_secs_f64();
            (f64::from(rate.0.quota.get()) * 60.0 / seconds) as u32
        });
        if per_minute == 0 {
            self.tell(
                Code::E117,
                "predict.rate",
                "less than one prediction a minute",
                "write 60/min, or `predict: false`",
            );
        }
        Some(Predict {
            per_minute,
            share: raw.share.get().map_or(0.05, |share| share.0 as f32),
            precision: raw.precision.get().map_or(0.2, |share| share.0 as f32),
        })
    }

    fn warm_list(&mut self, raw: &raw::WarmList, path: &str) -> WarmList {
        let at = |key: &str| format!("{path}.{key}");
        let has_source = [
            !raw.urls.is_absent(),
            !raw.sitemap.is_absent(),
            !raw.file.is_absent(),
            !raw.popular.is_absent(),
        ];
        if !has_source.contains(&true) {
            self.tell(
                Code::E105,
                path,
                "this list names no pages",
                "add `urls: [/]`, or sitemap, file or popular",
            );
        }
        let every = span(&raw.every);
        if every.is_some_and(|every| every < EVERY_MIN) {
            self.tell(
                Code::E117,
                &at("every"),
                format!("`every` must be at least {EVERY_MIN:?}"),
                "write a longer one: somewhat less than the ttl of the pages",
            );
        }
        if raw.wait_ready.get().is_some_and(|flag| flag.0)
            && !raw.on_start.get().is_some_and(|flag| flag.0)
        {
            self.tell(
                Code::E126,
                &at("wait_ready"),
                "`wait_ready` waits for what is warmed at the start, and that is nothing here",
                "add `on_start: true`, or remove `wait_ready`",
            );
        }
        let most = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let concurrency = self.within(
            &raw.concurrency,
            &at("concurrency"),
            CONCURRENCY,
            1,
            CONCURRENCY_MAX,
        );
        let popular = (!raw.popular.is_absent())
            .then(|| self.within(&raw.popular, &at("popular"), 100, 1, POPULAR_MAX));
        WarmList {
            urls: (raw.urls.get().into_iter().flat_map(List::iter))
                .map(|url| url.0.clone())
                .collect(),
            sitemap: raw.sitemap.get().map(|url| url.0.clone()),
            file: self.file(&raw.file, &at("file")),
            popular: popular.map(most),
            host: raw.host.get().map(|host| host.0.clone()),
            variants: self.variants(raw, path),
            on_start: raw.on_start.get().is_some_and(|flag| flag.0),
            every,
            schedule: raw.schedule.get().map(|schedule| schedule.0),
            concurrency: most(concurrency),
            rate: raw.rate.get().map_or(RATE, |rate| rate.0),
            wait_ready: raw.wait_ready.get().is_some_and(|flag| flag.0),
        }
    }

    /// Every combination of the values of fields and cookies.
    fn variants(&mut self, raw: &raw::WarmList, path: &str) -> Vec<Arc<HeaderMap>> {
        let mut made = vec![(HeaderMap::new(), String::new())];
        let empty = Fields::default();
        for (key, fields) in [
            ("headers", raw.headers.get().unwrap_or(&empty)),
            ("cookies", raw.cookies.get().unwrap_or(&empty)),
        ] {
            let at = format!("{path}.{key}");
            for (name, values) in &fields.0 {
                if let Err(why) = usable(key, name, values) {
                    let fix = "warming is on nobody's behalf: name fields that select a variant, \
                               such as Accept-Language";
                    self.tell(Code::E122, &at, why, fix);
                    continue;
                }
                made = made
                    .into_iter()
                    .flat_map(|(headers, cookies)| {
                        let with = move |value: &String| with(&headers, &cookies, key, name, value);
                        values.iter().map(with).collect::<Vec<_>>()
                    })
                    .take(VARIANTS_MAX + 1)
                    .collect();
                if made.len() > VARIANTS_MAX {
                    self.tell(
                        Code::E117,
                        &at,
                        "the values of headers and cookies combine to too many variants",
                        format!("at most {VARIANTS_MAX} of a list"),
                    );
                    made.truncate(1);
                }
            }
        }
        made.into_iter()
            .map(|(mut headers, cookies)| {
                if let (false, Ok(cookies)) =
                    (cookies.is_empty(), HeaderValue::try_from(cookies.as_str()))
                {
                    headers.insert(COOKIE, cookies);
                }
                Arc::new(headers)
            })
            .collect()
    }
}

/// Whether this may be sent on nobody's behalf; the error says why not.
fn usable(key: &str, name: &str, values: &[String]) -> Result<(), String> {
    let is_cookie = key == "cookies";
    let bad_name = match is_cookie {
        true => name.is_empty() || name.contains(['=', ';', ',', ' ', '"']),
        false => HeaderName::try_from(name).is_err(),
    };
    if bad_name {
        return Err(format!("`{name}` is not a name of {key}"));
    }
    let lower = name.to_ascii_lowercase();
    if !is_cookie && (NOT_SENT.contains(&&*lower) || lower.starts_with("x-forwarded-")) {
        return Err(format!("`{name}` cannot be sent while warming"));
    }
    let fine = |value: &String| {
        HeaderValue::try_from(value.as_str()).is_ok() && !(is_cookie && value.contains([';', '"']))
    };
    match values.iter().all(fine) && !values.is_empty() {
        true => Ok(()),
        false => Err(format!("`{name}` has a value that cannot be sent")),
    }
}

fn with(
    headers: &HeaderMap,
    cookies: &str,
    key: &str,
    name: &str,
    value: &str,
) -> (HeaderMap, String) {
    let (mut headers, mut cookies) = (headers.clone(), cookies.to_owned());
    if key == "cookies" {
        if !cookies.is_empty() {
            cookies.push_str("; ");
        }
        cookies.push_str(&format!("{name}={value}"));
    } else if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
    {
        headers.insert(name, value);
    }
    (headers, cookies)
}
