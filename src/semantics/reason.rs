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
    ($($(#[doc = $doc:literal])+ $variant:ident => $word:literal,)+) => {
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
                match self { $(Self::$variant => concat!($($doc),+)),+ }
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
    Memory => "memory",
    /// Found in the Redis tier.
    Redis => "redis",
    /// Stale, served at once while a refresh runs (RFC 5861 §3).
    Revalidating => "revalidating",
    /// Stale, served because the app failed (RFC 5861 §4).
    AppError => "app-error",
    /// Made stale by a soft purge, served at once while a refresh runs.
    SoftPurged => "soft-purged",
    /// The app confirmed the stored response with a 304.
    NotModified => "not-modified",
    /// Nothing was stored under this key.
    Cold => "cold",
    /// What was stored is no longer fresh.
    Expired => "expired",
    /// What was stored has been purged.
    Purged => "purged",
    /// The store had no room to keep it.
    Evicted => "evicted",
    /// Stored, but for other values of the header fields named by Vary.
    Vary => "vary",
    /// Waited for another request's fetch, which gave nothing that could be shared.
    CollapsedFailed => "collapsed-failed",
    /// No route matches and the app's headers allow no storing.
    NoRoute => "no-route",
    /// The method is not one that is answered from the store.
    Method => "method",
    /// The route, the request or the response says no-store.
    NoStore => "no-store",
    /// The response is for one user only.
    Private => "private",
    /// The request carries Authorization and nothing allows sharing the answer (RFC 9111 §3.5).
    Authorization => "authorization",
    /// The request carries a cookie and the app did not say that the answer may be shared.
    Cookie => "cookie",
    /// The response sets a cookie.
    SetCookie => "set-cookie",
    /// The response varies on everything, or on more than is kept.
    VaryStar => "vary-star",
    /// The body is larger than what is stored.
    TooLarge => "too-large",
    /// The status is not stored by this route, or at all.
    Status => "status",
    /// A part was asked for and no complete response is stored.
    Range => "range",
    /// The response is a stream of events, which has no end.
    EventStream => "event-stream",
    /// The connection is to be upgraded.
    Upgrade => "upgrade",
    /// The request carries a body.
    Body => "body",
    /// The path can be read in two ways, so the answer is not shared.
    AmbiguousPath => "ambiguous-path",
    /// The path names a static file and the content is of another kind, so the route's word is not enough.
    ContentType => "content-type",
    /// The app gave no lifetime and neither did the route.
    NoLifetime => "no-lifetime",
    /// The response did not arrive whole.
    Incomplete => "incomplete",
    /// The client asked for an answer newer than the stored one.
    Request => "request",
    /// The request carries what the route's bypass_when names, such as a cookie of the app's preview mode.
    DraftMode => "draft-mode",
    /// Caching is switched off.
    KillSwitch => "kill-switch",
    /// A limit is exceeded.
    Limited => "limited",
}
