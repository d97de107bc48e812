//! What would be worth a route: requests that went to the app, by the shape of their path, looked at for a
//! while, and the YAML that follows.
//!
//! Never suggests to share what two clients were given differently for one URL, nor what storing would
//! refuse anyway.

use super::audit::Print;
use super::identities::Given;
use super::lock;
use super::staleness::plain;
use crate::semantics::{Key, Reason, Timestamp};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Shapes of paths that are told apart; what has another one is counted and no more.
const SHAPES_MAX: usize = 512;
/// The longest of them, in bytes; longer ones are counted and no more.
const SHAPE_BYTES_MAX: usize = 512;
/// URLs of one shape that are told apart.
const URLS_MAX: usize = 256;
/// Names of query parameters that are told of one shape.
const PARAMETERS_MAX: usize = 12;
/// The longest of them, in bytes; longer ones are not told.
const PARAMETER_BYTES_MAX: usize = 64;
/// Requests of a shape that say anything, and how often the same URL was asked for.
const ENOUGH: u64 = 20;
/// At most this share of hits should be stale.
const STALE_WANTED: f64 = 0.01;
/// No longer lifetime is suggested.
const TTL_MAX: Duration = Duration::from_secs(3_600);
/// A shape of which storing would take less than this share is not suggested.
const STORABLE_MIN: f64 = 0.5;
/// Shapes that are told as not worth it.
const OTHERS_MAX: usize = 40;
/// The longest that is looked.
pub const LOOK_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Requests a second that are looked at by itself, while nobody has asked for more.
const LOOKS_MAX: u64 = 32;
/// What somebody has asked for stays to be read for so long after its end.
const KEPT: Duration = Duration::from_secs(3_600);

/// One request that went to the app, and its answer.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// Its path, decoded.
    pub path: &'a str,
    /// The names of its query's parameters.
    pub parameters: Vec<&'a str>,
    /// What it asked for: host, path and query.
    pub url: Key,
    /// Who asked, by a number that says nothing outside of this process; 0: nobody.
    pub who: u64,
    /// It may change something.
    pub is_unsafe: bool,
    /// Whether a route with a `ttl` would store the answer, or why not.
    pub storable: Result<(), Reason>,
    /// The answer; `None` where it did not come whole, or is large.
    pub answer: Option<Print>,
    /// How long the app took.
    pub took: Duration,
    /// When.
    pub now: Timestamp,
}

/// What has been seen since looking began: by itself at some requests of each second, and at all of them for as long
/// as somebody has asked for it.
#[derive(Debug, Default)]
pub struct Sights {
    /// Until then at all of them, in milliseconds; 0: nobody has asked for it, or what was seen then was read long ago.
    until: AtomicU64,
    /// The second (upper half) and how many have been looked at in it.
    paced: AtomicU64,
    /// Requests that were not looked at since, for there were too many.
    skipped: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    since: Option<Timestamp>,
    shapes: BTreeMap<String, Shape>,
    beyond: u64,
}

#[derive(Debug, Default)]
struct Shape {
    requests: u64,
    unsafe_requests: u64,
    storable: u64,
    refused: HashMap<Reason, u64>,
    app_time: Duration,
    parameters: BTreeSet<String>,
    urls: HashMap<Key, Url>,
}

#[derive(Debug, Default)]
struct Url {
    requests: u64,
    last: Option<(Print, Timestamp)>,
    /// How long it was seen from one answer to the next, and how often it had changed.
    watched: Duration,
    changes: u64,
    again: u64,
    given: Given,
    /// Two clients were given different answers.
    differs: bool,
}

impl Sights {
    /// Whether this request is looked at.
    #[must_use]
    pub fn looks(&self, now: Timestamp) -> bool {
        if self.is_asked(now) {
            return true;
        }
        let until = self.until.load(Ordering::Relaxed);
        if until != 0 {
            if now < Timestamp::from_millis(until) + KEPT {
                return false;
            }
            self.begin(0, now);
        }
        let second = (now.as_millis() / 1_000) << 32;
        let paced = self.paced.load(Ordering::Relaxed);
        let looked = match paced & !0xFFFF_FFFF == second {
            true => paced & 0xFFFF_FFFF,
            false => 0,
        };
        // Two that come at once may count as one.
        self.paced.store(second | (looked + 1), Ordering::Relaxed);
        if looked >= LOOKS_MAX {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        looked < LOOKS_MAX
    }

    /// Whether somebody has asked for a look at all requests, and it goes on.
    fn is_asked(&self, now: Timestamp) -> bool {
        now.as_millis() < self.until.load(Ordering::Relaxed)
    }

    fn begin(&self, until: u64, now: Timestamp) {
        self.forget(&mut lock(&self.seen), now);
        self.until.store(until, Ordering::Relaxed);
    }

    /// What is seen is seen from `now` on.
    fn forget(&self, seen: &mut Seen, now: Timestamp) {
        *seen = Seen {
            since: Some(now),
            ..Seen::default()
        };
        self.skipped.store(0, Ordering::Relaxed);
    }

    /// Looks for so long, at most [`LOOK_MAX`]; what was seen before is forgotten.
    pub fn look(&self, length: Duration, now: Timestamp) {
        self.begin((now + length.min(LOOK_MAX)).as_millis(), now);
    }

    /// One request was seen.
    pub fn note(&self, sight: &Sight<'_>) {
        let mut seen = lock(&self.seen);
        let since = *seen.since.get_or_insert(sight.now);
        if sight.now.since(since) > LOOK_MAX {
            // What an app did the day before yesterday says little of today.
            self.forget(&mut seen, sight.now);
        }
        let shape = shape_of(sight.path);
        let is_full = seen.shapes.len() >= SHAPES_MAX && !seen.shapes.contains_key(&shape);
        if is_full || shape.len() > SHAPE_BYTES_MAX {
            seen.beyond += 1;
            return;
        }
        seen.shapes.entry(shape).or_default().note(sight);
    }

    /// What follows from what was seen until `now`.
    #[must_use]
    pub fn suggest(&self, now: Timestamp) -> Suggestion {
        let seen = lock(&self.seen);
        let end = match self.until.load(Ordering::Relaxed) {
            0 => now,
            until => Timestamp::from_millis(until).min(now),
        };
        let length = end.since(seen.since.unwrap_or(end));
        let looked = length.as_secs();
        let length = length.max(Duration::from_secs(1));
        let requests = seen.shapes.values().map(|shape| shape.requests);
        let requests = requests.sum::<u64>() + seen.beyond;
        // Each that was looked at stands for as many that were not.
        let stands_for_each =
            (requests + self.skipped.load(Ordering::Relaxed)) as f64 / requests.max(1) as f64;
        let (mut routes, mut others) = (Vec::new(), Vec::new());
        let differing: Vec<_> = (seen.shapes.iter())
            .filter(|(_, shape)| shape.differing() > 0)
            .map(|(path, _)| path.as_str())
            .collect();
        let alone = |route: Route| {
            let other = differing.iter().find(|path| stands_for(&route.path, path));
            match other {
                Some(path) => Err(format!(
                    "stands for {} as well, which differs by who asks",
                    printable(path)
                )),
                None => Ok(route),
            }
        };
        for (path, shape) in &seen.shapes {
            match shape.judge(path, length, stands_for_each).and_then(alone) {
                Ok(route) => routes.push(route),
                Err(why) => others.push(Other {
                    path: path.clone(),
                    requests: shape.requests,
                    why,
                }),
            }
        }
        // What is written out stands before what stands for many: the first match wins.
        let open = |path: &str| path.matches('{').count();
        routes.sort_by(|one, other| {
            let by_gain = other.saved_seconds.total_cmp(&one.saved_seconds);
            open(&one.path).cmp(&open(&other.path)).then(by_gain)
        });
        others.sort_by_key(|other| std::cmp::Reverse(other.requests));
        others.truncate(OTHERS_MAX);
        Suggestion {
            seconds: looked,
            requests,
            looking: self.is_asked(now),
            routes,
            others,
        }
    }
}

impl Shape {
    fn note(&mut self, sight: &Sight<'_>) {
        self.requests += 1;
        if sight.is_unsafe {
            self.unsafe_requests += 1;
            return;
        }
        self.app_time += sight.took;
        match sight.storable {
            Ok(()) => self.storable += 1,
            Err(reason) => *self.refused.entry(reason).or_default() += 1,
        }
        let names = sight.parameters.iter();
        for name in names.filter(|name| name.len() <= PARAMETER_BYTES_MAX) {
            if self.parameters.len() < PARAMETERS_MAX {
                self.parameters.insert((*name).to_owned());
            }
        }
        if self.urls.len() >= URLS_MAX && !self.urls.contains_key(&sight.url) {
            return;
        }
        let url = self.urls.entry(sight.url).or_default();
        url.requests += 1;
        let Some(answer) = sight.answer else { return };
        url.given.note(sight.who, answer);
        // Here already it is reason enough not to share, whatever the reason is.
        url.differs |= url.given.differ();
        if let Some((last, at)) = url.last {
            url.watched += sight.now.since(at);
            url.again += 1;
            url.changes += u64::from(last != answer);
        }
        url.last = Some((answer, sight.now));
    }

    /// Of how many URLs two clients were given different answers.
    fn differing(&self) -> usize {
        self.urls.values().filter(|url| url.differs).count()
    }

    /// A route, or why there should be none. Of the requests, each seen stands for so many.
    fn judge(&self, path: &str, length: Duration, stands_for: f64) -> Result<Route, String> {
        let reads = self.requests - self.unsafe_requests;
        if reads == 0 {
            return Err("only requests that change something".to_owned());
        }
        let telling = |c: char| c.is_ascii_alphanumeric() || "/-_.~{}".contains(c);
        if !path.chars().all(telling) {
            return Err("its path is not a plain one".to_owned());
        }
        let differing = self.differing();
        if differing > 0 {
            return Err(format!(
                "differs by who asks: {differing} of {} URLs",
                self.urls.len()
            ));
        }
        let share = self.storable as f64 / reads as f64;
        if share < STORABLE_MIN {
            let most = self
                .refused
                .iter()
                .max_by_key(|(reason, count)| (**count, reason.index()));
            return Err(match most {
                Some((reason, count)) => {
                    format!(
                        "{}: {count} of {reads} answers. {}",
                        reason.word(),
                        reason.fix()
                    )
                }
                None => "nothing of it could be stored".to_owned(),
            });
        }
        let again: u64 = self.urls.values().map(|url| url.again).sum();
        if reads < ENOUGH || again == 0 {
            return Err(format!(
                "too few requests to tell: {reads}, {again} for a URL seen before"
            ));
        }
        let watched: Duration = self.urls.values().map(|url| url.watched).sum();
        let changes: u64 = self.urls.values().map(|url| url.changes).sum();
        // Where nothing has changed, it changes less often than three times in what was watched (with 95 %
        // certainty); an answer changes as likely early as late in its lifetime, so half of it counts.
        let rate = if changes == 0 { 3.0 } else { changes as f64 } / watched.as_secs_f64().max(1.0);
        let ttl = Duration::from_secs_f64((2.0 * STALE_WANTED / rate).min(TTL_MAX.as_secs_f64()));
        if ttl < Duration::from_secs(1) {
            return Err(match changes {
                0 => format!(
                    "not watched long enough: the same {again} times, over {}",
                    span(watched)
                ),
                changes => format!("changes too often: {changes} of {again} times asked again"),
            });
        }
        let ttl = plain(ttl);
        let hits: f64 = (self.urls.values())
            .map(|url| {
                let rate = url.requests as f64 * stands_for / length.as_secs_f64();
                let expected = rate * ttl.as_secs_f64();
                url.requests as f64 * expected / (1.0 + expected)
            })
            .sum();
        let per_hour = 3_600.0 / length.as_secs_f64() * stands_for;
        let saved_requests = hits * share * per_hour;
        if saved_requests < 1.0 {
            return Err(format!(
                "a ttl of {} would save nothing: its URLs are seldom asked for again",
                span(ttl)
            ));
        }
        let app_time = self.app_time.as_secs_f64() / reads as f64;
        Ok(Route {
            path: path.to_owned(),
            ttl: span(ttl),
            requests: reads,
            hit_rate: round(hits * share / reads as f64),
            saved_requests: saved_requests.round(),
            saved_seconds: round(saved_requests * app_time),
            asked_again: again,
            changes,
            watched: span(watched),
            parameters: self.parameters.iter().cloned().collect(),
            with_identity: reads - self.storable,
        })
    }
}

/// What follows from looking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggestion {
    /// How long was looked, in seconds.
    pub seconds: u64,
    /// Requests that went to the app meanwhile.
    pub requests: u64,
    /// Whether a look at all requests that somebody asked for goes on.
    pub looking: bool,
    /// What is worth a route.
    pub routes: Vec<Route>,
    /// What is not.
    pub others: Vec<Other>,
}

/// A route that is worth it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// Its path.
    pub path: String,
    /// Its lifetime.
    pub ttl: String,
    /// Requests seen.
    pub requests: u64,
    /// The share of them that would be answered from the store, 0 to 1.
    pub hit_rate: f64,
    /// Requests that the app is spared in an hour,
    pub saved_requests: f64,
    /// and seconds of its time.
    pub saved_seconds: f64,
    /// How often a URL was asked for that had been asked for before,
    pub asked_again: u64,
    /// and was answered otherwise.
    pub changes: u64,
    /// Over how long, all URLs added up.
    pub watched: String,
    /// Names of query parameters, all of which are in the key.
    pub parameters: Vec<String>,
    /// Requests that the store would not answer: they say who asks, or the app forbids it.
    pub with_identity: u64,
}

/// A shape of paths that is not worth it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Other {
    /// It.
    pub path: String,
    /// Requests seen.
    pub requests: u64,
    /// Why not.
    pub why: String,
}

impl Suggestion {
    /// As YAML to paste into a configuration, with the evidence beside it.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut out = format!(
            "# Seen: {} requests to the app in {}.\n",
            self.requests,
            span(Duration::from_secs(self.seconds))
        );
        if self.routes.is_empty() {
            out.push_str("# Nothing is worth a route so far.\n");
        } else {
            out.push_str("routes:\n");
        }
        let mut names = BTreeSet::new();
        for route in &self.routes {
            let _ = writeln!(
                out,
                "  - name: {}\n    path: {}\n    ttl: {}",
                serde_json::Value::from(name_of(&route.path, &mut names)),
                serde_json::Value::from(route.path.as_str()),
                route.ttl,
            );
            let _ = writeln!(
                out,
                "    # {:.0} % of {} requests would be hits: {} requests and {} s of the app saved in an hour.",
                route.hit_rate * 100.0,
                route.requests,
                route.saved_requests,
                route.saved_seconds,
            );
            let _ = writeln!(
                out,
                "    # Asked again {} times over {}, changed {} times.",
                route.asked_again, route.watched, route.changes
            );
            if !route.parameters.is_empty() {
                let names = route.parameters.iter().map(|name| printable(name));
                let names: Vec<_> = names.collect();
                let _ = writeln!(out, "    # In the key: {}.", names.join(", "));
            }
            if route.with_identity > 0 {
                let _ = writeln!(
                    out,
                    "    # {} requests would not be answered from the store: they say who asks, or the app forbids it.",
                    route.with_identity
                );
            }
        }
        for other in &self.others {
            let _ = writeln!(
                out,
                "# not {} ({} requests): {}",
                printable(&other.path),
                other.requests,
                other.why
            );
        }
        out
    }
}

/// `api-cars-id` for `/api/cars/{id}`, each once.
fn name_of(path: &str, names: &mut BTreeSet<String>) -> String {
    const NAME_BYTES_MAX: usize = 56;
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let mut name = words.join("-");
    name.truncate(NAME_BYTES_MAX);
    if name.is_empty() {
        name = "home".to_owned();
    }
    let mut unique = name.clone();
    for number in 2.. {
        if names.insert(unique.clone()) {
            break;
        }
        unique = format!("{name}-{number}");
    }
    unique
}

/// What stands in a comment, and in one line.
fn printable(text: &str) -> String {
    const SHOWN_MAX: usize = 120;
    let shown = text.chars().take(SHOWN_MAX);
    // What YAML takes for the end of a line is not ASCII alone.
    let plain = |c: char| c.is_ascii_graphic() || c == ' ';
    shown.map(|c| if plain(c) { c } else { '?' }).collect()
}

/// The path with what names single things replaced: `/api/cars/42` is `/api/cars/{id}`.
fn shape_of(path: &str) -> String {
    let mut shape = String::with_capacity(path.len());
    let mut found = 0;
    for segment in path.split('/').skip(1) {
        shape.push('/');
        if names_one(segment) {
            found += 1;
            match found {
                1 => shape.push_str("{id}"),
                number => drop(write!(shape, "{{id{number}}}")),
            }
        } else {
            // What is written in braces would stand for anything.
            shape.extend(segment.chars().map(|c| match c {
                '{' | '}' => '?',
                c => c,
            }));
        }
    }
    shape
}

/// Whether a route with the path `pattern` would take requests of the shape `path`.
fn stands_for(pattern: &str, path: &str) -> bool {
    let (mut mine, mut theirs) = (pattern.split('/'), path.split('/'));
    loop {
        match (mine.next(), theirs.next()) {
            (None, None) => return true,
            (Some(mine), Some(theirs)) if mine == theirs => {}
            (Some(mine), Some(theirs)) if mine.starts_with('{') && !theirs.is_empty() => {}
            _ => return false,
        }
    }
}

/// Whether a segment names a single thing: a number, a UUID, a digest, a long word with digits, an address, or
/// what looks like a token. Those are never shown, so it is better to take one too many for one.
fn names_one(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let is_hex = segment
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let is_word = segment
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    (digits > 0 && digits == segment.len())
        || (is_hex && segment.len() >= 16)
        || (is_word && digits >= 3 && segment.len() >= 8)
        || (is_word && !segment.contains('-') && is_mixed(segment) && segment.len() >= 16)
        || segment.contains('@')
        || segment.len() >= 40
}

fn is_mixed(segment: &str) -> bool {
    let any = |is: fn(&u8) -> bool| segment.bytes().any(|byte| is(&byte));
    any(u8::is_ascii_uppercase) && any(u8::is_ascii_lowercase)
}

/// As the configuration writes it: `1h`, `90s`.
fn span(length: Duration) -> String {
    match length.as_secs() {
        0 => "1s".to_owned(),
        hours if hours % 3_600 == 0 => format!("{}h", hours / 3_600),
        minutes if minutes % 60 == 0 => format!("{}m", minutes / 60),
        seconds => format!("{seconds}s"),
    }
}

fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::KeyBuilder;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    fn url(path: &str) -> Key {
        let mut key = KeyBuilder::new("url");
        key.part(path.as_bytes());
        key.finish()
    }

    fn sight<'a>(path: &'a str, who: u64, answer: &str, second: u64) -> Sight<'a> {
        Sight {
            path,
            parameters: vec!["page"],
            url: url(path),
            who,
            is_unsafe: false,
            storable: Ok(()),
            answer: Some(Print::of(200, answer.as_bytes(), &[])),
            took: Duration::from_millis(200),
            now: at(second),
        }
    }

    fn looking() -> Sights {
        let sights = Sights::default();
        assert_eq!(sights.suggest(at(0)).routes, []);
        sights.look(Duration::from_secs(600), at(0));
        assert!(sights.looks(at(599)) && !sights.looks(at(600)));
        sights
    }

    #[test]
    fn paths_are_told_apart_by_their_shape() {
        for (path, shape) in [
            ("/", "/"),
            ("/api/cars/42", "/api/cars/{id}"),
            ("/api/cars/42/photos/7", "/api/cars/{id}/photos/{id2}"),
            ("/u/9f1c2b3a-0000-4000-8000-0123456789ab", "/u/{id}"),
            ("/api/v2/fleet", "/api/v2/fleet"),
            ("/p/bmw-320-2019", "/p/{id}"),
            ("/about-us", "/about-us"),
            ("/reset/kWqZpLrTbNxVmShD", "/reset/{id}"),
            (
                "/verify/eyJhbGciOi.eyJzdWIiOiJhbGljZSJ9.TJVA95OrM7E2cBab30RMHrHD",
                "/verify/{id}",
            ),
            ("/of/alice@example.com", "/of/{id}"),
            // What a client writes in braces stands for itself alone, and is not suggested.
            ("/{name}/7", "/?name?/{id}"),
        ] {
            assert_eq!(shape_of(path), shape);
        }
    }

    #[test]
    fn what_is_asked_for_again_and_stays_the_same_is_worth_a_route() {
        let sights = looking();
        for second in 0..600 {
            let path = format!("/api/cars/{}", second % 10);
            sights.note(&sight(&path, 0, &path, second));
        }
        let suggestion = sights.suggest(at(600));
        let [route] = &suggestion.routes[..] else {
            panic!("{suggestion:?}")
        };
        assert_eq!((route.path.as_str(), route.changes), ("/api/cars/{id}", 0));
        // Ten URLs watched for ten minutes each: they change less often than every 33 minutes.
        assert_eq!(route.ttl, "30s");
        assert!(
            route.hit_rate > 0.7 && route.saved_requests > 2_500.0,
            "{route:?}"
        );
        let yaml = suggestion.yaml();
        assert!(
            yaml.contains("path: \"/api/cars/{id}\"\n    ttl: 30s"),
            "{yaml}"
        );
    }

    #[test]
    fn what_changes_often_lives_shortly_or_not_at_all() {
        let sights = looking();
        for second in 0..600 {
            sights.note(&sight("/slow", 0, &format!("{}", second / 300), second));
            sights.note(&sight("/fast", 0, &format!("{second}"), second));
        }
        let suggestion = sights.suggest(at(600));
        assert_eq!(suggestion.routes[0].ttl, "10s", "{suggestion:?}");
        assert!(suggestion.others[0].why.contains("changes too often"));
    }

    #[test]
    fn what_differs_by_who_asks_is_never_suggested() {
        let sights = looking();
        for second in 0..600 {
            let who = second % 3;
            sights.note(&sight("/me", who, &format!("hello {who}"), second));
            // One among many URLs is enough.
            let path = format!("/shop/{}", second % 50);
            let own = if second % 50 == 7 { who } else { 0 };
            sights.note(&sight(&path, who, &format!("{path} {own}"), second));
        }
        let suggestion = sights.suggest(at(600));
        assert!(suggestion.routes.is_empty(), "{suggestion:?}");
        assert!(
            suggestion
                .others
                .iter()
                .all(|other| other.why.starts_with("differs by who asks"))
        );
    }

    #[test]
    fn what_storing_would_refuse_and_what_writes_is_not_suggested() {
        let sights = looking();
        for second in 0..100 {
            let refused = Sight {
                storable: Err(Reason::SetCookie),
                ..sight("/login", 0, "x", second)
            };
            sights.note(&refused);
            let writes = Sight {
                is_unsafe: true,
                ..sight("/bookings", 0, "x", second)
            };
            sights.note(&writes);
        }
        sights.note(&sight("/seldom", 0, "x", 1));
        let suggestion = sights.suggest(at(600));
        assert!(suggestion.routes.is_empty());
        let yaml = suggestion.yaml();
        for why in [
            "set-cookie: 100 of 100",
            "only requests that change",
            "too few requests",
        ] {
            assert!(yaml.contains(why), "{yaml}");
        }
    }

    #[test]
    fn nothing_that_a_client_writes_ends_a_comment() {
        let sights = looking();
        let mut nasty = sight("/a\u{2028}routes: []\n- x", 0, "x", 1);
        nasty.parameters = vec!["p\u{85}\r\nq"];
        sights.note(&nasty);
        let yaml = sights.suggest(at(600)).yaml();
        assert!(
            yaml.is_ascii() && yaml.lines().all(|line| line.starts_with('#')),
            "{yaml}"
        );
    }

    #[test]
    fn what_is_beyond_the_bounds_is_counted() {
        let sights = looking();
        for number in 0..SHAPES_MAX + 5 {
            let path: String = format!("/{number}")
                .chars()
                .map(|c| match c {
                    '/' => '/',
                    digit => char::from(digit as u8 - b'0' + b'a'),
                })
                .collect();
            sights.note(&sight(&path, 0, "x", 1));
        }
        let suggestion = sights.suggest(at(2));
        assert_eq!(suggestion.requests, SHAPES_MAX as u64 + 5);
        assert_eq!(suggestion.others.len(), OTHERS_MAX);
    }
}
