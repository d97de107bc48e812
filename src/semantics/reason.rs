//! The one list of outcomes and reasons.
//!
//! The word is the same in the `Cache-Status` detail, the access log, the metrics, the dashboard and
//! the documentation.

/// What became of a request at the cache: the `cache` label of every metric and log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered from the store, fresh.
    Hit,
    /// Answered from the store, stale but allowed.
    Stale,
    /// Answered from the store after the app confirmed it with a 304.
    Revalidated,
    /// Looked up, not usable, fetched from the app.
    Miss,
    /// Never looked up: passed to the app.
    Bypass,
    /// Refused by a limit; neither store nor app was asked.
    Refused,
}

impl Outcome {
    /// Every outcome, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Hit,
        Self::Stale,
        Self::Revalidated,
        Self::Miss,
        Self::Bypass,
        Self::Refused,
    ];

    /// The lower-case word for logs and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Refused => "refused",
        }
    }

    /// The upper-case word for `X-Cache`.
    #[must_use]
    pub const fn header(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Stale => "STALE",
            Self::Revalidated => "REVALIDATED",
            Self::Miss => "MISS",
            Self::Bypass => "BYPASS",
            Self::Refused => "REFUSED",
        }
    }

    /// Position in [`Outcome::ALL`], for tables of counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $word:literal, $by:literal, $fix:literal;)+) => {
        /// Why a request had its [`Outcome`], or why a response was not stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word, as it appears everywhere.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// What the word means, in one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }

            /// What it is decided by: a section of an RFC, or the setting.
            #[must_use]
            pub const fn by(self) -> &'static str {
                match self { $(Self::$variant => $by),+ }
            }

            /// What to do where another outcome is wanted, in a sentence or two.
            #[must_use]
            pub const fn fix(self) -> &'static str {
                match self { $(Self::$variant => $fix),+ }
            }

            /// The reason of this word, in any case.
            #[must_use]
            pub fn of_word(word: &str) -> Option<Self> {
                let known = |reason: &&Self| reason.word().eq_ignore_ascii_case(word);
                Self::ALL.iter().find(known).copied()
            }

            /// Position in [`Reason::ALL`], for tables of counters.
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

reasons! {
    /// Found in the memory tier.
    Memory => "memory", "RFC 9111 §4",
        "Nothing: this is the fastest answer there is.";
    /// Found in the Redis tier.
    Redis => "redis", "RFC 9111 §4",
        "Nothing; the next request here finds it in memory. With much of this, raise cache.memory.";
    /// Stale, served at once while a refresh runs (RFC 5861 §3).
    Revalidating => "revalidating", "RFC 5861 §3",
        "Nothing; the refresh makes it fresh. A shorter stale_while_revalidate makes it a miss sooner.";
    /// Stale, served because the app failed (RFC 5861 §4).
    AppError => "app-error", "RFC 5861 §4",
        "Mend the app. Without stale_if_error its error would have been passed on.";
    /// Made stale by a soft purge, served at once while a refresh runs.
    SoftPurged => "soft-purged", "stale_while_revalidate",
        "Nothing; the refresh replaces it. A hard purge (--hard) would have made it a miss.";
    /// The app confirmed the stored response with a 304.
    NotModified => "not-modified", "RFC 9111 §4.3.3",
        "Nothing is transferred; a longer lifetime saves the question too.";
    /// Nothing was stored under this key.
    Cold => "cold", "RFC 9111 §4",
        "Nothing, if the next one is a hit. If it stays so, the answer is not stored: ask with --response what forbids it; or the key is too fine: leave parameters, fields or cookies out of `key`.";
    /// What was stored is no longer fresh.
    Expired => "expired", "RFC 9111 §4.2",
        "A longer ttl or max-age; stale_while_revalidate or refresh_ahead hide the wait.";
    /// What was stored has been purged.
    Purged => "purged", "the purge log",
        "Nothing, it was asked for. A soft purge with stale_while_revalidate hides the wait.";
    /// The store had no room to keep it.
    Evicted => "evicted", "cache.memory",
        "Raise cache.memory, or Redis's maxmemory.";
    /// Stored, but for other values of the header fields named by Vary.
    Vary => "vary", "RFC 9111 §4.1",
        "Let the app name fewer fields in Vary, or fields with few values.";
    /// Waited for another request's fetch, which gave nothing that could be shared.
    CollapsedFailed => "collapsed-failed", "RFC 9111 §4",
        "See why the answer of the first could not be shared: ask with --response.";
    /// No route matches and the app's headers allow no storing.
    NoRoute => "no-route", "routes",
        "Write a route with a ttl for this path, or let the app send Cache-Control: max-age=60.";
    /// The method is not one that is answered from the store.
    Method => "method", "RFC 9110 §9.2.3",
        "GET, HEAD and QUERY are answered from the store, and POST where key.body says that it reads.";
    /// The route, the request or the response says no-store.
    NoStore => "no-store", "RFC 9111 §5.2.2.5",
        "Take no-store out of the app's Cache-Control or of the route; `override: true` lets the route's ttl win over the app.";
    /// The response is for one user only.
    Private => "private", "RFC 9111 §5.2.2.7",
        "Let the app leave private out where the answer is for all; or store one for each user: key: { per: user }.";
    /// The request carries Authorization and nothing allows sharing the answer (RFC 9111 §3.5).
    Authorization => "authorization", "RFC 9111 §3.5",
        "Let the app say public or s-maxage where the answer is for all; or store one for each: key: { per: user } or { per: token }.";
    /// The request carries a cookie and the app did not say that the answer may be shared.
    Cookie => "cookie", "RFC 9111 §7.3",
        "Let the app say public or s-maxage where the answer is for all; or name the cookie in key.cookies.";
    /// The response sets a cookie.
    SetCookie => "set-cookie", "RFC 9111 §7.3",
        "Let the app set no cookie on this path; cache.set_cookie: strip stores the answer without it.";
    /// The response varies on everything, on more than is kept, or on what larder itself tells the app.
    VaryStar => "vary-star", "RFC 9111 §4.1",
        "Let the app name in Vary what its answer really depends on, a few fields at most.";
    /// The body is larger than what is stored.
    TooLarge => "too-large", "cache.max_body",
        "Raise cache.max_body, or leave it: large bodies stream through.";
    /// The status is not stored by this route, or at all.
    Status => "status", "RFC 9111 §3",
        "Name the status in the route's statuses or ttl.by_status, or let the app give it a lifetime of its own.";
    /// A part was asked for and no complete response is stored.
    Range => "range", "RFC 9111 §3.3",
        "A request for the whole is stored, and parts are then answered from it.";
    /// The response is a stream of events, which has no end.
    EventStream => "event-stream", "WHATWG HTML §9.2",
        "Nothing: a stream is passed on as it comes.";
    /// The connection is to be upgraded.
    Upgrade => "upgrade", "RFC 9110 §7.8",
        "Nothing: the connection is handed over.";
    /// The request carries a body.
    Body => "body", "RFC 9110 §9.3.1",
        "Send what the app needs in the query instead of in a body.";
    /// The path can be read in two ways, so the answer is not shared.
    AmbiguousPath => "ambiguous-path", "RFC 3986 §6.2.2",
        "Ask for the path in plain form: no //, .., ;, \\ or encoded delimiter; at most 256 parameters.";
    /// The path names a static file and the content is of another kind, so the route's word is not enough.
    ContentType => "content-type", "RFC 9110 §8.3",
        "Let the app say public for this answer, or give it a path without a file's ending.";
    /// The app gave no lifetime and neither did the route.
    NoLifetime => "no-lifetime", "RFC 9111 §4.2.1",
        "Let the app send Cache-Control: max-age=60, or give the route a ttl.";
    /// The response did not arrive whole.
    Incomplete => "incomplete", "RFC 9111 §3.3",
        "See why the app's connection breaks off; nothing that is not whole is stored.";
    /// The client asked for an answer newer than the stored one.
    Request => "request", "RFC 9111 §5.2.1",
        "Nothing: the client asked for it; cache.client_refresh: false would not let it.";
    /// The request carries what the route's bypass_when names, such as a cookie of the app's preview mode.
    DraftMode => "draft-mode", "bypass_when",
        "Leave the app's preview mode, or take the name out of the route's bypass_when.";
    /// Caching is switched off.
    KillSwitch => "kill-switch", "the switch",
        "Wait until it turns itself off, or turn it off.";
    /// The route is tried out: the store is looked up and filled beside, and the app always asked.
    Shadow => "shadow", "shadow",
        "Nothing, if it is to be tried out; without shadow: true the route answers from the store.";
    /// The route gave one client's answer to another, and stores nothing until it is released.
    Quarantined => "quarantined", "audit",
        "See GET /v1/audit for what was found; mend the route's key or the app's Cache-Control, then POST /v1/audit/release.";
    /// A limit is exceeded.
    Limited => "limited", "RFC 6585 §4",
        "Wait as long as Retry-After says; or raise the rate, or set limits.mode: shadow while you measure.";
}

/// Every reason with its meaning, what it is decided by and what to do: a table for `docs/explain.md`.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("| Reason | Means | By | What to do |\n|---|---|---|---|\n");
    for reason in Reason::ALL {
        text.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            reason.word(),
            reason.meaning(),
            reason.by(),
            reason.fix()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_a_word_of_its_own_a_meaning_a_rule_and_advice() {
        let words: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let word = reason.word();
            assert!(
                word.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            );
            assert_eq!(Reason::of_word(&word.to_uppercase()), Some(*reason));
            for text in [reason.meaning(), reason.fix()] {
                assert!(
                    text.ends_with('.') && text.trim() == text,
                    "{word}: {text:?}"
                );
                assert!(!text.contains('|'), "{word}: it stands in a table");
            }
            assert!(!reason.by().is_empty(), "{word}");
        }
    }
}
