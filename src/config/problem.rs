//! What is wrong with a configuration, and how it is told: what, where, the likely fix, a code.
//!
//! Owns the table of codes and the three ways of printing a report. Shows single lines of the file
//! only, with every secret on them starred out.

use super::tree::{Place, Source};
use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// Problems written out in full; the others are counted.
pub const PROBLEMS_SHOWN_MAX: usize = 100;

macro_rules! codes {
    ($($code:ident $title:literal $explanation:literal)*) => {
        /// The code of a problem: E is an error, W a warning, N a note.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum Code { $($code),* }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$code),*];

            /// As printed.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$code => stringify!($code)),* }
            }

            /// A few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$code => $title),* }
            }

            /// A paragraph: what it means and what to do.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$code => $explanation),* }
            }
        }
    };
}

codes! {
    E101 "not YAML"
        "The text cannot be read as YAML. In lists and maps written on one line, text with braces, colons or a leading star or ampersand needs quotes: `[\"car:{id}\"]`. Indentation is by spaces, never tabs. Only plain YAML is read: no tags, one document."
    E102 "cannot be read"
        "The file is missing, is not UTF-8 text, is larger than 1 MiB, or nests brackets deeper than a configuration ever does."
    E103 "key given twice"
        "The same key stands twice in one map. Which of the two was meant cannot be known; remove one."
    E104 "no value"
        "A key has nothing after its colon. Give it a value, or remove the line to get the default."
    E105 "missing key"
        "Something that has no default was left out: `upstream` for the whole file, `path` for a route, `name` and `rate` for a tier."
    E106 "wrong kind of value"
        "A list stands where one value is expected, a value where a map is expected, or the like. Plural keys take lists, singular ones a value; `path` and `per` take either."
    E107 "unknown key"
        "No such key exists at this place. Unknown keys are refused, because a misspelt setting that is silently ignored is found out in production."
    E108 "not supported yet"
        "The key or value belongs to the configuration's design, but this version does not act on it. It is refused so that nobody relies on something that does nothing."
    E109 "unknown word"
        "The setting takes one of a few words, and this is none of them."
    E110 "variable not set"
        "`${NAME}` needs the environment variable NAME. Set it, give a default with `${NAME:-default}`, or an empty one with `${NAME:-}`. In `redis:` an unset variable means that there is no Redis. `larder check --no-env` checks without variables."
    E111 "malformed reference"
        "A reference to the environment is `${NAME}`, `${NAME:-default}` or `${NAME:?message}`; names are letters, digits and underscores. For a literal `${` write `$${`."
    E112 "no unit"
        "A number without a unit does not exist: `30s`, `64MiB`, `10%`, `60/min`. Units are never guessed."
    E113 "not a duration"
        "Durations are whole numbers with the units ms, s, m, h and d, also one after another: `1h30m`."
    E114 "not a size"
        "Sizes are whole numbers with the units B, KiB, MiB, GiB (powers of 1024) or kB, MB, GB (powers of 1000), spelt exactly so."
    E115 "not a percentage"
        "Shares are numbers from 0 to 100 with a percent sign: `10%`."
    E116 "not a rate"
        "Rates are `N/s`, `N/min`, `N/hour`, `N/day`, or a number in any window: `5/15m`."
    E117 "out of range"
        "The value is well formed, but too small or too large to make sense here. The message says what is allowed."
    E118 "not an address"
        "The address or URL cannot be used here. The app is `http://host:port`, `https://host` or `unix:/path`; Redis is `redis://`, `rediss://` or `redis+unix:`; listeners are `:8080`, `127.0.0.1:8080` or `[::1]:8080`."
    E119 "not a pattern"
        "A path starts with `/`; `{name}` stands for one segment, a final `*` for the rest. Tags may use `{name}` from the path, `{query.x}`, `{header.x}`, `{user}`, `{token}`, `{request.field}` and `{response.field}`."
    E120 "unknown placeholder"
        "The tag uses `{name}`, but no path of the route has `{name}`, so the tag could never be made."
    E121 "name used twice"
        "Names of routes and tiers appear in headers, metrics and Redis keys, so each may be used once. A route without a name is called by its path."
    E122 "not a name"
        "The text is not a valid method, header name, host, status, claim, cookie or namespace."
    E123 "file not usable"
        "A certificate, key, CA or secret file that the configuration names cannot be opened, is empty, is too large, or does not hold what it should: certificates and keys are PEM."
    E124 "admin port open to everyone"
        "The admin port can purge the cache. As soon as its address is not loopback, `admin.token` is required."
    E125 "token too short"
        "An admin token that can be reached from other machines needs at least 32 bytes. `openssl rand -hex 32` makes one."
    E126 "settings contradict each other"
        "Two settings cannot both hold, for example `no_store: true` with a `ttl`, a `min` above its `max`, or one port for two things."
    E127 "plain text to Redis"
        "`redis.require_tls` is set, and a Redis that is not on this machine would be spoken to in plain text: password and answers could be read on the way. Use `rediss://`, a loopback address or `redis+unix:`."
    E128 "not a key"
        "`cache.encrypt` is a key of 32 random bytes in base64 or hexadecimal digits, or two with a comma between them while keys are changed: the first encrypts, both decrypt. A password is no key: it can be guessed. `openssl rand -base64 32` makes one. Secrets that messages are signed with have 24 bytes or more, as they are or as `whsec_` and base64; two, with a comma between them, while they are changed."
    W201 "route never reached"
        "An earlier route matches everything that this one does, and the first match wins. Put the narrower route first."
    W202 "has no effect"
        "The setting is valid but changes nothing here, for example a tier after one that is for everyone."
    W203 "larger than the memory tier"
        "`cache.max_body` is larger than `cache.memory`: bodies near the bound are never kept there. With Redis that counts for bodies of up to 1MiB, since what is larger is there alone."
    W204 "Redis from a REST address"
        "Only the variables of a REST interface were found. larder speaks the Redis protocol and tries the same host and token over TLS on port 6379. The token of a REST interface need not be the password of Redis: if it is refused, copy the `rediss://` address from the provider's console into REDIS_URL."
    W205 "nobody is ever a user"
        "Something is meant per user or per role, but `identity` verifies no tokens and trusts no header, so every caller is anonymous: such limits count by address and such answers are never stored."
    W206 "nothing can be stored"
        "There is neither a memory tier nor a Redis: every request goes to the app."
    W207 "secret too short"
        "Tokens are signed with HMAC-SHA-256. A secret of less than 32 bytes can be guessed from a single token (RFC 7518 §3.2), and whoever has it can be any user. `openssl rand -hex 32` makes one."
    W208 "everyone is a trusted proxy"
        "The network holds every address, so every client's own `X-Forwarded-For` is believed: limits per address can be dodged, and with `user: { header: … }` anyone can be any user. Name the networks of the proxies alone."
    W209 "demo secret before strangers"
        "`larder run` listens where others can reach it, and verifies tokens with the demo's secret, which everybody knows: anyone can be any user. Set `identity.jwt.secret`. `larder check` calls it a note (N303), since the shipped file has the secret for `larder demo`."
    W210 "secret for everybody"
        "A file with a secret can be read by every user of the machine. `chmod o-r` it; Kubernetes mounts secrets so unless the volume's `defaultMode` says 0440, Docker's `secrets:` take a `mode`."
    W212 "more memory than there is"
        "`cache.memory` is more than three quarters of what the control group of this process may have (cgroups, as containers are limited by). The memory tier gives room back before that limit is reached and so never becomes as large as it is configured; lower `cache.memory`, or raise the limit."
    N301 "no Redis"
        "Without a Redis, larder caches in memory and counts limits in this process alone."
    N302 "Redis found in the environment"
        "The file names no Redis, but a well-known variable does: REDIS_URL, then KV_URL, then the UPSTASH_REDIS_REST and KV_REST_API pairs."
    N303 "demo secret"
        "`identity.jwt.secret` is the secret of the demo app, the fallback of the shipped file. Anyone can make a token that it verifies."
}

impl Code {
    /// How grave it is, by its letter.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self.as_str().as_bytes().first() {
            Some(b'E') => Severity::Error,
            Some(b'W') => Severity::Warning,
            _ => Severity::Note,
        }
    }
}

/// How grave a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is accepted, but hardly meant so.
    Warning,
    /// Good to know.
    Note,
}

impl Severity {
    /// As printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub code: Code,
    /// What is wrong; one sentence without a full stop.
    pub message: String,
    /// The setting, as `routes[2].ttl`; empty for the whole file.
    pub path: String,
    /// Where in the file, if it is in it.
    pub place: Option<Place>,
    /// The likely fix, shown beside the caret.
    pub fix: String,
}

/// What is wrong with one value, before it is known where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// The likely fix; may be empty.
    pub fix: String,
}

impl Fault {
    /// A fault with its likely fix.
    pub fn new(code: Code, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            fix: fix.into(),
        }
    }

    /// Reads back what `Display` wrote: serde hands errors on as text.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let known = Code::ALL.iter().find_map(|code| {
            let rest = text.strip_prefix(code.as_str())?.strip_prefix(": ")?;
            let (message, fix) = rest.split_once('\n').unwrap_or((rest, ""));
            Some(Self::new(*code, message, fix))
        });
        known.unwrap_or_else(|| Self::new(Code::E106, text, ""))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n{}", self.code.as_str(), self.message, self.fix)
    }
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people, with the line and a caret.
    #[default]
    Human,
    /// One JSON array; stable.
    Json,
    /// Workflow commands that GitHub shows at the line of a pull request.
    Github,
}

/// Everything there is to say about one configuration.
#[derive(Clone, Debug)]
pub struct Report {
    /// The text it is about.
    pub source: Source,
    /// The problems, errors first, then by line.
    pub problems: Vec<Problem>,
}

impl Report {
    /// A report in its order.
    #[must_use]
    pub fn new(source: Source, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.code.severity(), problem.place));
        Self { source, problems }
    }

    /// A report of one problem with the whole.
    #[must_use]
    pub fn whole(source: Source, fault: Fault) -> Self {
        let Fault { code, message, fix } = fault;
        Self::new(
            source,
            vec![Problem {
                code,
                message,
                path: String::new(),
                place: None,
                fix,
            }],
        )
    }

    /// Problems of this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.problems
            .iter()
            .filter(|problem| problem.code.severity() == severity)
            .count()
    }

    /// What is not an error, a line each: for a log rather than for an author.
    ///
    /// `least` is the least grave kind that is printed.
    #[must_use]
    pub fn lines(&self, least: Severity) -> String {
        let line = |problem: &Problem| {
            let place = match problem.place {
                Some(place) => format!(" ({}:{})", self.source.name, place.line),
                None => String::new(),
            };
            let severity = problem.code.severity().as_str();
            let code = problem.code.as_str();
            format!("{severity}[{code}]: {}{place}\n", problem.message)
        };
        self.problems
            .iter()
            .filter(|problem| problem.code.severity() <= least)
            .take(PROBLEMS_SHOWN_MAX)
            .map(line)
            .collect()
    }

    /// Prints the report; `color` is for [`Format::Human`] only.
    #[must_use]
    pub fn render(&self, format: Format, color: bool) -> String {
        match format {
            Format::Human => self.human(color),
            Format::Json => self.json(),
            Format::Github => self.github(),
        }
    }

    fn human(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut text = String::new();
        for problem in self.problems.iter().take(PROBLEMS_SHOWN_MAX) {
            text.push_str(&self.snippet(problem, &renderer));
            text.push_str(&format!(
                "\n   more: larder explain {}\n",
                problem.code.as_str()
            ));
        }
        let left = self.problems.len().saturating_sub(PROBLEMS_SHOWN_MAX);
        if left > 0 {
            text.push_str(&format!("… and {left} more\n"));
        }
        text
    }

    fn snippet(&self, problem: &Problem, renderer: &Renderer) -> String {
        let level = match problem.code.severity() {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let title = level
            .primary_title(problem.message.as_str())
            .id(problem.code.as_str());
        let Some(place) = problem.place else {
            let mut group = annotate_snippets::Group::with_title(title);
            if !problem.fix.is_empty() {
                group = group.element(Level::HELP.message(problem.fix.as_str()));
            }
            return renderer.render(&[group]);
        };
        let line = self.shown(place.line, misspelt_secret(problem));
        let caret = extent(&line, place.column);
        let annotation = AnnotationKind::Primary
            .span(caret)
            .label(problem.fix.as_str());
        let snippet = Snippet::source(line)
            .line_start(place.line)
            .path(self.source.name.as_str())
            .annotation(annotation);
        renderer.render(&[title.element(snippet)])
    }

    /// A line as it may be seen: where it is part of a secret that began further up, nothing of it.
    fn shown(&self, line: usize, also: Option<&str>) -> String {
        let text = self.source.line(line);
        let depth = |text: &str| text.len() - text.trim_start().len();
        let above = (1..line).rev().map(|line| self.source.line(line));
        let mut within = depth(text);
        let mut holders = above.filter(|text| {
            let holds = !text.trim().is_empty() && depth(text) < within;
            within = if holds { depth(text) } else { within };
            holds
        });
        // The long form of `redis` begins like a secret, too: its lines have keys of their own.
        let is_entry = text.contains(": ") || text.trim_end().ends_with(':');
        let is_long_form = |holder: &str| is_entry && holder.trim() == "redis:";
        if holders.any(|holder| begins_secret(holder) && !is_long_form(holder)) {
            let stars = |c: char| if c.is_whitespace() { c } else { '*' };
            return text.chars().map(stars).collect();
        }
        starred(text, also)
    }

    fn json(&self) -> String {
        let problems = self.problems.iter().map(|problem| {
            serde_json::json!({
                "severity": problem.code.severity().as_str(),
                "code": problem.code.as_str(),
                "message": problem.message,
                "fix": problem.fix,
                "path": problem.path,
                "file": self.source.name,
                "line": problem.place.map(|place| place.line),
                "column": problem.place.map(|place| place.column),
            })
        });
        format!("{:#}\n", serde_json::Value::from_iter(problems))
    }

    fn github(&self) -> String {
        let escape = |text: &str| {
            text.replace('%', "%25")
                .replace('\r', "%0D")
                .replace('\n', "%0A")
        };
        let property = |text: &str| escape(text).replace(':', "%3A").replace(',', "%2C");
        let line = |problem: &Problem| {
            let level = match problem.code.severity() {
                Severity::Note => "notice",
                other => other.as_str(),
            };
            let place = problem.place.unwrap_or(Place { line: 1, column: 1 });
            let fix = match problem.fix.as_str() {
                "" => String::new(),
                fix => format!(": {fix}"),
            };
            format!(
                "::{level} file={},line={},col={},title={}::{}\n",
                property(&self.source.name),
                place.line,
                place.column,
                problem.code.as_str(),
                escape(&format!("{}{fix}", problem.message)),
            )
        };
        self.problems.iter().map(line).collect()
    }
}

/// What the documentation says of every code.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(
        "# Error codes\n\n\
         What `larder check` and `larder run` say about a configuration. \
         E refuses it, W warns, N is a note.\n\
         This page is written by the program itself; a test keeps it up to date.\n",
    );
    for code in Code::ALL {
        text.push_str(&format!(
            "\n## {}\n\n**{}.** {}\n",
            code.as_str(),
            capitalized(code.title()),
            code.explanation()
        ));
    }
    text
}

/// The candidate that `word` was probably meant to be.
#[must_use]
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let worst = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= worst)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Characters to change, add, drop or swap with their neighbour (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    const CHARS_MAX: usize = 64;
    let left: Vec<char> = left.chars().take(CHARS_MAX).collect();
    let right: Vec<char> = right.chars().take(CHARS_MAX).collect();
    let mut rows = vec![(0..=right.len()).collect::<Vec<_>>()];
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let changed = rows[i][j] + usize::from(a != b);
            let mut best = changed.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

/// Bytes of `line` that the scalar or key at this column (from 1, in characters) takes.
fn extent(line: &str, column: usize) -> Range<usize> {
    let start = line
        .char_indices()
        .nth(column.saturating_sub(1))
        .map_or(line.len(), |(at, _)| at);
    let rest = &line[start..];
    let quoted = rest
        .starts_with(['"', '\''])
        .then(|| rest[1..].find(&rest[..1]))
        .flatten();
    let length = match quoted {
        Some(end) => end + 2,
        None => {
            let ends = [" #", ": ", ",", "]", "}"];
            let end = ends
                .iter()
                .filter_map(|end| rest.find(end))
                .filter(|end| *end > 0)
                .min();
            let text = rest[..end.unwrap_or(rest.len())].trim_end();
            text.strip_suffix(':').unwrap_or(text).len()
        }
    };
    start..start + length
}

/// Keys whose values are never shown.
const SECRET_KEYS: [&str; 6] = [
    "token",
    "secret",
    "encrypt",
    "password",
    "webhook",
    "webhook_url",
];
/// Keys whose values are URLs that may hold a password.
const URL_KEYS: [&str; 3] = ["redis", "url", "limits_url"];

/// Whether the value of a secret begins with this line and goes on below it.
fn begins_secret(line: &str) -> bool {
    let Some((key, value)) = line.rsplit_once(':') else {
        return false;
    };
    let key = key.trim_end_matches(['"', '\'', ' ']);
    let is_open = matches!(
        value.trim_start().as_bytes().first(),
        None | Some(b'|' | b'>' | b'#')
    );
    // A webhook that goes on below is a map, whose secrets have keys of their own.
    let mut secrets = (SECRET_KEYS.iter().chain(&URL_KEYS)).filter(|key| **key != "webhook");
    is_open && secrets.any(|secret| key.ends_with(secret))
}

/// The key that is unknown, where one of [`SECRET_KEYS`] was meant.
fn misspelt_secret(problem: &Problem) -> Option<&str> {
    let meant = |key: &&str| problem.fix.contains(&format!("`{key}`"));
    let is_secret = problem.code == Code::E107 && SECRET_KEYS.iter().any(meant);
    problem.path.rsplit('.').next().filter(|_| is_secret)
}

/// The line with each secret in it replaced by as many stars: values of secret keys and of `also`, and
/// passwords in URLs. References to the environment and to files tell nothing and stay.
fn starred(line: &str, also: Option<&str>) -> String {
    let mut bytes = line.as_bytes().to_vec();
    let flow = line.find(['{', '[']).unwrap_or(line.len());
    for key in SECRET_KEYS.into_iter().chain(also) {
        for (at, _) in line.match_indices(key) {
            let after = line[at + key.len()..].trim_start_matches(['"', '\'']);
            if let Some(value) = after.trim_start().strip_prefix(':') {
                let value = value.trim_start();
                let is_map = key == "webhook" && value.starts_with('{');
                if !is_map && !value.trim_start_matches(['"', '\'']).starts_with("file:") {
                    star(
                        &mut bytes,
                        line.len() - value.len(),
                        &value[..secret_len(value, at > flow)],
                    );
                }
            }
        }
    }
    for key in URL_KEYS {
        for (at, _) in line.match_indices(key) {
            let after = line[at + key.len()..].trim_start_matches(['"', '\'']);
            let value = after.trim_start().strip_prefix(':');
            let value = value.filter(|value| value.starts_with(' '));
            let value = value.map_or("", str::trim_start);
            if value.starts_with('{') {
                continue;
            }
            let from = line.len() - value.len();
            let value = &value[..secret_len(value, at > flow)];
            // What is hardly an URL may hold a password all the same, blanks and all.
            if let Some(end) = value.rfind('@') {
                let authority = value[..end].find("://").map_or(0, |slashes| slashes + 3);
                let password = match value[authority..end].find(':') {
                    Some(colon) if authority > 0 => authority + colon + 1,
                    _ => authority,
                };
                star(&mut bytes, from + password, &value[password..end]);
            }
        }
    }
    for (at, _) in line.match_indices("://") {
        let rest = &line[at + 3..];
        let host = rest.find([' ', '"', '\'', ',']).unwrap_or(rest.len());
        if let Some(end) = rest[..host].rfind('@') {
            let start = rest[..end].find(':').map_or(0, |colon| colon + 1);
            star(&mut bytes, at + 3 + start, &rest[start..end]);
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// Replaces `text`, which starts at byte `from`, unless it is a mere reference to the environment.
/// Every byte becomes a star, so that columns of ASCII lines stay where they are.
fn star(bytes: &mut [u8], from: usize, text: &str) {
    let bare = text.trim_matches(['"', '\'']);
    if bare.starts_with("${") && !bare.contains(":-") {
        return;
    }
    let quotes = text.len() - text.trim_start_matches(['"', '\'']).len();
    let end = text.trim_end_matches(['"', '\'']).len();
    for byte in bytes
        .iter_mut()
        .skip(from + quotes)
        .take(end.saturating_sub(quotes))
    {
        *byte = b'*';
    }
}

/// Bytes of `value` that the scalar at its beginning takes; in a map on one line (`flow`) a comma ends it.
fn secret_len(value: &str, flow: bool) -> usize {
    if let Some(quote) = value
        .chars()
        .next()
        .filter(|first| matches!(first, '"' | '\''))
    {
        return value[1..].find(quote).map_or(value.len(), |end| end + 2);
    }
    if value.starts_with("${") {
        return value.find('}').map_or(value.len(), |end| end + 1);
    }
    if value.starts_with(['{', '[']) {
        // No secret, but perhaps one among what it is.
        let mut depth = 0;
        let end = value.find(|c: char| {
            depth += i32::from(matches!(c, '{' | '[')) - i32::from(matches!(c, '}' | ']'));
            depth == 0
        });
        return end.map_or(value.len(), |end| end + 1);
    }
    if flow {
        return value.find([',', '}', ' ']).unwrap_or(value.len());
    }
    value.find(" #").unwrap_or(value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_word_and_a_stranger_does_not() {
        let keys = ["ttl", "tags", "timeout", "stale_if_error"];
        assert_eq!(closest("tll", keys), Some("ttl"));
        assert_eq!(closest("timout", keys), Some("timeout"));
        assert_eq!(closest("stale_on_error", keys), Some("stale_if_error"));
        assert_eq!(closest("flavour", keys), None);
    }

    #[test]
    fn a_shown_line_hides_its_secrets() {
        for (line, shown) in [
            ("  token: hunter2 # mine", "  token: ******* # mine"),
            (
                "admin: { token: 'a b', listen: x }",
                "admin: { token: '***', listen: x }",
            ),
            ("token: ${ADMIN_TOKEN}", "token: ${ADMIN_TOKEN}"),
            ("debug_token: ${T:-abc}", "debug_token: *********"),
            (
                "redis: redis://u:p@ss@host:1/0",
                "redis: redis://u:****@host:1/0",
            ),
            ("secret: file:/run/key", "secret: file:/run/key"),
            ("  password: a,b c # d", "  password: ***** # d"),
            ("redis: 'redis://u:p w@host'", "redis: 'redis://u:***@host'"),
            ("redis: redis//u:pw@host", "redis: ***********@host"),
            (
                "redis: { url: 'redis:u:pw@h', pool: { min: 1 } }",
                "redis: { url: '**********@h', pool: { min: 1 } }",
            ),
        ] {
            assert_eq!(starred(line, None), shown);
        }
    }

    #[test]
    fn a_secret_on_lines_of_its_own_is_hidden_and_what_is_none_is_not() {
        let text = "admin:\n  token:\n    hunter2\nredis:\n  url: x\n  password: |\n    hunter\n\n      2\nlog: y\n";
        let source = Source {
            name: "x".into(),
            text: text.into(),
        };
        let report = Report::new(source, Vec::new());
        let shown = [3, 5, 7, 9, 10].map(|line| report.shown(line, None));
        assert_eq!(
            shown,
            ["    *******", "  url: x", "    ******", "      *", "log: y"]
        );
    }

    #[test]
    fn a_fault_survives_the_way_through_serde() {
        let fault = Fault::new(Code::E112, "`60` has no unit", "write 60s");
        assert_eq!(Fault::from_text(&fault.to_string()), fault);
    }

    #[test]
    fn the_caret_covers_one_word() {
        assert_eq!(extent("    tll: 10m", 5), 4..7);
        assert_eq!(extent("key: { per: [a b, c] }", 14), 13..16);
        assert_eq!(extent("a: \"x, y\" # z", 4), 3..9);
        assert_eq!(extent("a", 9), 1..1);
    }
}
