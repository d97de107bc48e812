//! Single values of the YAML: each is a type that can only hold what makes sense, and knows how to
//! say what is wrong with a text. A number without a unit is never guessed at.

use super::cron::Cron;
use super::problem::{Code, Fault, closest};
use super::read::{Given, SHORT_OR_LONG, UNSET_IS_EMPTY};
use super::redis_url::RedisUrl;
use super::settings::{self, UpstreamTarget};
use super::warm::{PageHost, PageUrl};
use crate::route::{Pattern, Placeholder, Template};
use crate::secret::Secret;
use crate::semantics::Hosts;
use http::{HeaderName, Method, StatusCode};
use ipnet::IpNet;
use rustls::pki_types::ServerName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

/// Longer durations are slips of the finger.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Larger sizes are slips of the finger.
const SIZE_BYTES_MAX: u64 = 1 << 40;
/// Longer texts are no setting.
const TEXT_CHARS_MAX: usize = 8 * 1024;

/// A value that is written as one scalar.
pub(super) trait Scalar: Sized {
    /// What is expected, for the message on a list or a map.
    const WHAT: &'static str;

    /// Reads the text of the scalar, whether it was quoted or not.
    fn parse(text: &str) -> Result<Self, Fault>;

    /// The JSON Schema; a reference to the environment is always allowed besides.
    fn schema() -> Schema;
}

/// A value that does not stand in a file.
pub(super) fn number<T: Scalar>(text: &str) -> Result<T, String> {
    T::parse(text).map_err(|fault| format!("{}: {}", fault.message, fault.fix))
}

macro_rules! scalars {
    ($($type:ty),+ $(,)?) => { $(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(ScalarVisitor(PhantomData))
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                <$type as Scalar>::schema()
            }
        }
    )+ };
}

scalars!(
    Span,
    Size,
    Percent,
    Rate,
    Whole,
    Flag,
    Text,
    SecretText,
    Address,
    UpstreamUrl,
    PathPattern,
    TagTemplate,
    RecordTag,
    RedisName,
    MethodName,
    FieldName,
    HostName,
    Status,
    Proxy,
    Claim,
    Keys,
    Namespace,
    Name,
    AppPath,
    Audience,
    Count,
    FilePath,
    ServerNameText,
    Compress,
    PageAddress,
    HostAddress,
    Schedule,
    Trust
);

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: Scalar> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WHAT)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(E::custom)
    }
}

/// Defines the words that a setting may take, and those that it will take one day.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? } later [$($later:literal),*]) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($variant),+ }

        scalars!($name);

        impl Scalar for $name {
            const WHAT: &'static str = concat!("one of:" $(, " ", $word)+);

            fn parse(text: &str) -> Result<Self, Fault> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(unknown_word(text, &[$($word),+], &[$($later),*])),
                }
            }

            fn schema() -> Schema {
                words_schema(&[$($word),+])
            }
        }
    };
}

words!(RefreshWord { Hot = "hot" } later []);
words!(Relation { Preload = "preload", Prefetch = "prefetch", Next = "next" } later []);
words!(Mode { Enforce = "enforce", Shadow = "shadow" } later []);
words!(Down { Local = "local", Allow = "allow", Deny = "deny" } later []);
words!(Algorithm { SlidingWindow = "sliding_window" } later ["gcra"]);
words!(PoolProfile { Free = "free", Pro = "pro", Enterprise = "enterprise" } later []);
words!(ReadFromWord { Primary = "primary", Replica = "replica", Nearest = "nearest" } later []);
words!(CookieRule { Bypass = "bypass", Strip = "strip", Store = "store" } later []);
words!(Refresh { Never = "false", Trusted = "trusted", Always = "true" } later []);
words!(Dialect { Standard = "standard", Legacy = "legacy" } later []);
words!(Shape { Problem = "problem", Exodrive = "exodrive" } later []);
words!(Level { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace" } later []);
words!(LineFormat { Auto = "auto", Pretty = "pretty", Json = "json" } later []);
words!(Off { Off = "off" } later []);
words!(BodyKey { Off = "false", Bytes = "true", Graphql = "graphql" } later []);
words!(Preset { Nextjs = "nextjs", Supabase = "supabase" } later []);
words!(PerWho { Ip = "ip", User = "user", Token = "token" } later []);

fn unknown_word(text: &str, words: &[&str], later: &[&str]) -> Fault {
    if later.contains(&text) {
        return Fault::new(
            Code::E108,
            format!("`{text}` is not supported yet"),
            format!("write {}", words.join(" or ")),
        );
    }
    let fix = match closest(text, words.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("write {}", words.join(" or ")),
    };
    Fault::new(Code::E109, format!("unknown word `{text}`"), fix)
}

fn words_schema(words: &[&str]) -> Schema {
    // YAML reads a bare `true` as a boolean.
    let values: Vec<serde_json::Value> = words
        .iter()
        .map(|word| {
            word.parse::<bool>()
                .map_or_else(|_| (*word).into(), Into::into)
        })
        .collect();
    json_schema!({ "anyOf": [{ "enum": values }, reference_schema()] })
}

fn reference_schema() -> serde_json::Value {
    serde_json::json!({ "type": "string", "pattern": "\\$\\{.+\\}" })
}

fn pattern_schema(pattern: &str, example: &str) -> Schema {
    json_schema!({
        "type": "string",
        "examples": [example],
        "anyOf": [{ "pattern": pattern }, { "pattern": "\\$\\{.+\\}" }],
    })
}

fn text_schema() -> Schema {
    json_schema!({ "type": "string" })
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub Duration);

impl Scalar for Span {
    const WHAT: &'static str = "a duration like 30s";

    fn parse(text: &str) -> Result<Self, Fault> {
        let no_unit = || {
            Fault::new(
                Code::E112,
                format!("`{text}` has no unit"),
                format!("write {text}s, {text}m or {text}ms"),
            )
        };
        let bad = || {
            Fault::new(
                Code::E113,
                format!("`{text}` is not a duration"),
                "write 250ms, 30s, 5m, 1h30m or 2d",
            )
        };
        if text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
            && !text.is_empty()
        {
            return Err(no_unit());
        }
        let mut total = Duration::ZERO;
        let mut coarser = u64::MAX;
        let mut rest = text;
        while !rest.is_empty() {
            let (number, after) = leading_number(rest).ok_or_else(bad)?;
            let unit_len = after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len());
            let millis: u64 = match &after[..unit_len] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(bad()),
            };
            if millis >= coarser {
                return Err(bad());
            }
            coarser = millis;
            let part = Duration::from_millis(number.saturating_mul(millis));
            total = total.saturating_add(part);
            rest = &after[unit_len..];
        }
        if text.is_empty() {
            return Err(bad());
        }
        if total > DURATION_MAX {
            return Err(Fault::new(
                Code::E117,
                format!("`{text}` is too long"),
                "at most ten years",
            ));
        }
        Ok(Self(total))
    }

    fn schema() -> Schema {
        pattern_schema("^([0-9]+(ms|s|m|h|d))+$", "30s")
    }
}

/// A number at the start of a text; numbers beyond `u64` are its largest.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (!digits.is_empty()).then(|| (digits.parse().unwrap_or(u64::MAX), rest))
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub u64);

impl Scalar for Size {
    const WHAT: &'static str = "a size like 64MiB";

    fn parse(text: &str) -> Result<Self, Fault> {
        let (number, unit) = leading_number(text).ok_or_else(|| {
            Fault::new(
                Code::E114,
                format!("`{text}` is not a size"),
                "write 512KiB, 64MiB or 1GiB",
            )
        })?;
        let units = [
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("kB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
        ];
        let Some((_, bytes)) = units.iter().find(|(name, _)| *name == unit) else {
            if unit.is_empty() {
                return Err(Fault::new(
                    Code::E112,
                    format!("`{text}` has no unit"),
                    format!("write {text}B, {text}KiB or {text}MiB"),
                ));
            }
            let fix = match unit.to_ascii_lowercase().as_str() {
                "k" | "kb" | "kib" => format!("write {number}KiB or {number}kB"),
                "m" | "mb" | "mib" => format!("write {number}MiB or {number}MB"),
                "g" | "gb" | "gib" => format!("write {number}GiB or {number}GB"),
                _ => "units are B, KiB, MiB, GiB, kB, MB and GB".into(),
            };
            return Err(Fault::new(
                Code::E114,
                format!("`{text}` is not a size"),
                fix,
            ));
        };
        match number
            .checked_mul(*bytes)
            .filter(|size| *size <= SIZE_BYTES_MAX)
        {
            Some(size) => Ok(Self(size)),
            None => Err(Fault::new(
                Code::E117,
                format!("`{text}` is too large"),
                "at most 1024GiB",
            )),
        }
    }

    fn schema() -> Schema {
        pattern_schema("^[0-9]+(B|KiB|MiB|GiB|kB|MB|GB)$", "64MiB")
    }
}

/// A share, 0.0 to 1.0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Percent(pub f64);

impl Scalar for Percent {
    const WHAT: &'static str = "a percentage like 10%";

    fn parse(text: &str) -> Result<Self, Fault> {
        let bad = || {
            Fault::new(
                Code::E115,
                format!("`{text}` is not a percentage"),
                "write 10%",
            )
        };
        let Some(number) = text.strip_suffix('%') else {
            return Err(match text.parse::<f64>() {
                Ok(number) => Fault::new(
                    Code::E112,
                    format!("`{text}` has no unit"),
                    // 0.7 may be a fraction or less than one in a hundred.
                    match number > 0.0 && number < 1.0 {
                        true => format!("write {}%, or {text}%", (number * 1e4).round() / 1e2),
                        false => format!("write {text}%"),
                    },
                ),
                Err(_) => bad(),
            });
        };
        if !number
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
        {
            return Err(bad());
        }
        let number: f64 = number.parse().map_err(|_| bad())?;
        if !(0.0..=100.0).contains(&number) {
            return Err(Fault::new(
                Code::E117,
                format!("`{text}` is more than everything"),
                "at most 100%",
            ));
        }
        Ok(Self(number / 100.0))
    }

    fn schema() -> Schema {
        pattern_schema("^[0-9]+(\\.[0-9]+)?%$", "10%")
    }
}

/// So many in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(pub settings::Rate);

impl Scalar for Rate {
    const WHAT: &'static str = "a rate like 60/min";

    fn parse(text: &str) -> Result<Self, Fault> {
        let bad = || {
            Fault::new(
                Code::E116,
                format!("`{text}` is not a rate"),
                "write 5/s, 60/min, 10/hour, 100/day or 5/15m",
            )
        };
        if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            return Err(Fault::new(
                Code::E112,
                format!("`{text}` has no unit"),
                format!("write {text}/min"),
            ));
        }
        let (count, window) = text.split_once('/').ok_or_else(bad)?;
        let (count, rest) = leading_number(count).ok_or_else(bad)?;
        if !rest.is_empty() {
            return Err(bad());
        }
        let window = match window {
            "s" => Duration::from_secs(1),
            "min" => Duration::from_secs(60),
            "hour" => Duration::from_secs(3_600),
            "day" => Duration::from_secs(86_400),
            // A bare unit of durations would leave its number to be guessed.
            other if other.starts_with(|c: char| c.is_ascii_digit()) => {
                Span::parse(other).map_err(|_| bad())?.0
            }
            _ => return Err(bad()),
        };
        if window < RATE_WINDOW_MIN || window > RATE_WINDOW_MAX {
            return Err(Fault::new(
                Code::E117,
                format!("the window of `{text}` is out of range"),
                "from 1s to 31d",
            ));
        }
        let quota = u32::try_from(count)
            .ok()
            .filter(|count| *count <= RATE_QUOTA_MAX)
            .and_then(NonZeroU32::new);
        match quota {
            Some(quota) => Ok(Self(settings::Rate { quota, window })),
            None => Err(Fault::new(
                Code::E117,
                format!("the number in `{text}` is out of range"),
                "from 1 to 1000000",
            )),
        }
    }

    fn schema() -> Schema {
        pattern_schema("^[0-9]+/(s|min|hour|day|([0-9]+(ms|s|m|h|d))+)$", "60/min")
    }
}

const RATE_WINDOW_MIN: Duration = Duration::from_secs(1);
const RATE_WINDOW_MAX: Duration = Duration::from_secs(31 * 86_400);
const RATE_QUOTA_MAX: u32 = 1_000_000;

/// A plain count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole(pub u32);

impl Scalar for Whole {
    const WHAT: &'static str = "a whole number";

    fn parse(text: &str) -> Result<Self, Fault> {
        let bad = |code, fix: &str| {
            Fault::new(
                code,
                format!("`{text}` is not a number that fits here"),
                fix,
            )
        };
        match leading_number(text) {
            Some((number, "")) => u32::try_from(number)
                .map(Self)
                .map_err(|_| bad(Code::E117, "it is far too large")),
            _ => Err(bad(Code::E106, "write a whole number")),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, reference_schema()] })
    }
}

/// A number, or one word that leaves it to larder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Auto,
    Fixed(NonZeroU32),
}

impl Scalar for Count {
    const WHAT: &'static str = "a whole number, auto or adaptive";

    fn parse(text: &str) -> Result<Self, Fault> {
        if matches!(text, "auto" | "adaptive") {
            return Ok(Self::Auto);
        }
        if text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(unknown_word(text, &["auto", "adaptive"], &[]));
        }
        let Whole(number) = Whole::parse(text)?;
        NonZeroU32::new(number)
            .map(Self::Fixed)
            .ok_or_else(|| Fault::new(Code::E117, "`0` leaves nothing", "write a number from 1"))
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "enum": ["auto", "adaptive"] }, reference_schema()] })
    }
}

/// A number of bytes above which there is compression, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compress(pub Option<u64>);

impl Scalar for Compress {
    const WHAT: &'static str = "a size like 1KiB, or off";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "off" => Ok(Self(None)),
            _ => Size::parse(text).map(|size| Self(Some(size.0))),
        }
    }

    fn schema() -> Schema {
        pattern_schema("^(off|[0-9]+(B|KiB|MiB|GiB|kB|MB|GB))$", "1KiB")
    }
}

/// For how long, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trust(pub Option<Duration>);

impl Scalar for Trust {
    const WHAT: &'static str = "a duration like 5m, or off";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "off" => Ok(Self(None)),
            _ => Span::parse(text).map(|span| Self(Some(span.0))),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["off"] }, Span::schema()] })
    }
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flag(pub bool);

impl Scalar for Flag {
    const WHAT: &'static str = "true or false";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "true" => Ok(Self(true)),
            "false" => Ok(Self(false)),
            _ => Err(Fault::new(
                Code::E106,
                format!("`{text}` is neither true nor false"),
                "write true or false",
            )),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, reference_schema()] })
    }
}

/// Any text but none at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text(pub String);

impl Scalar for Text {
    const WHAT: &'static str = "a text";

    fn parse(text: &str) -> Result<Self, Fault> {
        if text.is_empty() {
            return Err(Fault::new(
                Code::E104,
                "the text is empty",
                "give one, or remove the line",
            ));
        }
        if text.len() > TEXT_CHARS_MAX || text.contains(char::is_control) {
            return Err(Fault::new(
                Code::E117,
                "the text is too long or holds control characters",
                "",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// A host without its port, or `*.` and a host for every name below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostName(pub String);

impl Scalar for HostName {
    const WHAT: &'static str = "a host like shop.example";

    fn parse(text: &str) -> Result<Self, Fault> {
        if Hosts::default().add(text).is_some() {
            return Ok(Self(text.to_owned()));
        }
        let fix = if text == "*" {
            "remove `hosts` to serve every host"
        } else {
            "write shop.example or *.shop.example, without scheme, port or path"
        };
        Err(Fault::new(
            Code::E122,
            format!("`{text}` is not a host"),
            fix,
        ))
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// What routes and tiers are called in headers, metrics and Redis keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub String);

impl Scalar for Name {
    const WHAT: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, Fault> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b' ')
            });
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Fault::new(
                Code::E122,
                format!("`{text}` is not a name"),
                "1 to 64 letters, digits, spaces and - _ . /",
            ))
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 64 })
    }
}

/// First part of every Redis key: nothing in it may look like a hash tag or a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace(pub String);

impl Scalar for Namespace {
    const WHAT: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, Fault> {
        let fits = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Fault::new(
                Code::E122,
                format!("`{text}` is not a namespace"),
                "1 to 64 letters, digits and - _ .",
            ))
        }
    }

    fn schema() -> Schema {
        pattern_schema("^[A-Za-z0-9._-]{1,64}$", "exodrive")
    }
}

/// A secret, possibly empty, or `file:/path` of one. Faults never repeat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SecretText(pub Secret);

impl Scalar for SecretText {
    const WHAT: &'static str = "a secret, as ${VARIABLE} or file:/path";

    fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() > TEXT_CHARS_MAX {
            return Err(Fault::new(
                Code::E117,
                "the secret is longer than 8 KiB",
                "",
            ));
        }
        Ok(Self(Secret::new(text)))
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// Path of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePath(pub std::path::PathBuf);

impl Scalar for FilePath {
    const WHAT: &'static str = "the path of a file";

    fn parse(text: &str) -> Result<Self, Fault> {
        let Text(text) = Text::parse(text)?;
        Ok(Self(text.strip_prefix("file:").unwrap_or(&text).into()))
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// A name that a certificate can be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerNameText(pub ServerName<'static>);

impl Scalar for ServerNameText {
    const WHAT: &'static str = "the name in a certificate";

    fn parse(text: &str) -> Result<Self, Fault> {
        let name = ServerName::try_from(text.to_owned());
        name.map(Self).map_err(|_| {
            Fault::new(
                Code::E122,
                format!("`{text}` is not the name of a server"),
                "write redis.example or an address, without a port",
            )
        })
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// Where a listener binds; `:8080` is every address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(pub SocketAddr);

impl Scalar for Address {
    const WHAT: &'static str = "an address like 127.0.0.1:8080";

    fn parse(text: &str) -> Result<Self, Fault> {
        let bad = |fix: String| Fault::new(Code::E118, format!("`{text}` is not an address"), fix);
        if text.parse::<u16>().is_ok() {
            return Err(bad(format!(
                "write \":{text}\" for every address, or 127.0.0.1:{text}"
            )));
        }
        let other = || bad("write \":8080\", 127.0.0.1:8080 or \"[::1]:8080\"".into());
        let (host, port) = text.rsplit_once(':').ok_or_else(other)?;
        let port: u16 = port
            .parse()
            .map_err(|_| bad("the port is a number from 0 to 65535".into()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let ip = match host {
            "" | "*" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().map_err(|_| other())?,
        };
        Ok(Self(SocketAddr::new(ip, port)))
    }

    fn schema() -> Schema {
        pattern_schema("^.*:[0-9]+$", ":8080")
    }
}

/// Where the app listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UpstreamUrl(pub UpstreamTarget);

impl Scalar for UpstreamUrl {
    const WHAT: &'static str = "the URL of the app, like http://localhost:3000";

    fn parse(text: &str) -> Result<Self, Fault> {
        // The text is not repeated: it may hold a password.
        let bad = |fix: String| Fault::new(Code::E118, "this is not the URL of an app", fix);
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(bad("write unix:/run/app.sock".into()));
            }
            return Ok(Self(UpstreamTarget::Unix(path.into())));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.starts_with("h2c:") {
                return Err(Fault::new(
                    Code::E108,
                    "`h2c:` is not supported yet",
                    "write http://",
                ));
            }
            let plausible = !text.is_empty() && !text.contains(['@', '/', ' ']);
            return Err(bad(if plausible {
                format!("write http://{text}")
            } else {
                "write http://localhost:3000".into()
            }));
        };
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            "h2c" => {
                return Err(Fault::new(
                    Code::E108,
                    "`h2c:` is not supported yet",
                    "write http://",
                ));
            }
            _ => return Err(bad("write http://, https:// or unix:/".into())),
        };
        if rest.contains('@') {
            return Err(bad("it cannot hold a user or password".into()));
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(bad(
                "it ends after the port: requests bring their own path".into()
            ));
        }
        let authority: http::uri::Authority = authority
            .parse()
            .map_err(|_| bad("write http://localhost:3000".into()))?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => default,
            _ => authority
                .port_u16()
                .filter(|port| *port > 0)
                .ok_or_else(|| bad("the port is a number from 1 to 65535".into()))?,
        };
        if host.is_empty() {
            return Err(bad("write http://localhost:3000".into()));
        }
        Ok(Self(if scheme == "https" {
            UpstreamTarget::Https { host, port }
        } else {
            UpstreamTarget::Http { host, port }
        }))
    }

    fn schema() -> Schema {
        pattern_schema("^(https?://|unix:/).+", "http://localhost:3000")
    }
}

/// Connection URL of a Redis, or nothing. An unset variable is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum MaybeRedis {
    /// Nothing.
    #[default]
    Nothing,
    /// This one.
    Url(RedisUrl),
    /// The one in this file, which is looked at when it is read.
    File(std::path::PathBuf),
}

impl MaybeRedis {
    /// Checks the form; the text is never repeated.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        match (text, text.strip_prefix("file:")) {
            ("", _) => Ok(Self::Nothing),
            (_, Some(file)) => Ok(Self::File(file.into())),
            _ => RedisUrl::parse(text).map(Self::Url),
        }
    }
}

impl<'de> Deserialize<'de> for MaybeRedis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlVisitor;
        impl Visitor<'_> for UrlVisitor {
            type Value = MaybeRedis;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the URL of a Redis, like redis://localhost:6379")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<MaybeRedis, E> {
                MaybeRedis::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_newtype_struct(UNSET_IS_EMPTY, UrlVisitor)
    }
}

impl JsonSchema for MaybeRedis {
    fn schema_name() -> Cow<'static, str> {
        "RedisUrl".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        pattern_schema(
            "^((redis|rediss)(\\+(cluster|sentinel))?://.+|redis\\+unix:.+|file:.+|)$",
            "redis://localhost:6379",
        )
    }
}

/// A path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPattern(pub Pattern);

impl Scalar for PathPattern {
    const WHAT: &'static str = "a path like /api/cars/{id}";

    fn parse(text: &str) -> Result<Self, Fault> {
        let not_a = |what: &str, fix: String| {
            Fault::new(Code::E119, format!("`{text}` is not a {what}"), fix)
        };
        // What other tools write: regular expressions, Express and Rails, globs.
        if text.starts_with(['^', '~']) || text.contains(".*") || text.contains('\\') {
            let fix =
                "regular expressions are not read: `{name}` is one segment, a final `*` the rest";
            return Err(not_a("pattern", fix.into()));
        }
        if !text.starts_with('/') {
            return Err(not_a("path", format!("write /{text}")));
        }
        let colon = |segment: &&str| segment.len() > 1 && segment.starts_with(':');
        if let Some(segment) = text.split('/').find(colon) {
            return Err(not_a(
                "pattern",
                format!("write {{{}}} for one segment", &segment[1..]),
            ));
        }
        if let Some(before) = text.strip_suffix("**") {
            return Err(not_a(
                "pattern",
                format!("write {before}*: one star is the whole rest"),
            ));
        }
        let pattern = Pattern::parse(text);
        pattern.map(Self).map_err(|why| not_a("pattern", why))
    }

    fn schema() -> Schema {
        pattern_schema("^/", "/api/cars/{id}")
    }
}

/// A path of the app, without placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AppPath(pub String);

impl Scalar for AppPath {
    const WHAT: &'static str = "a path like /api/health";

    fn parse(text: &str) -> Result<Self, Fault> {
        let fits = text.starts_with('/')
            && text.parse::<http::uri::PathAndQuery>().is_ok()
            && !text.contains(['{', '*', '#']);
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Fault::new(
                Code::E119,
                format!("`{text}` is not the path of a page"),
                "write /api/health",
            ))
        }
    }

    fn schema() -> Schema {
        pattern_schema("^/", "/api/health")
    }
}

/// The URL of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageAddress(pub PageUrl);

impl Scalar for PageAddress {
    const WHAT: &'static str = "a path like /api/fleet, or a whole URL";

    fn parse(text: &str) -> Result<Self, Fault> {
        let placeholder = text.contains(['{', '*']);
        let url = PageUrl::parse(text).filter(|_| !placeholder);
        url.map(Self).ok_or_else(|| {
            Fault::new(
                Code::E119,
                format!("`{text}` is not the URL of a page"),
                match placeholder {
                    true => "name single pages; or a sitemap, or popular: 100",
                    false => "write /api/fleet?page=2, or https://shop.example/api/fleet",
                },
            )
        })
    }

    fn schema() -> Schema {
        pattern_schema("^(/|https?://)", "/api/fleet")
    }
}

/// A host to ask for pages by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostAddress(pub PageHost);

impl Scalar for HostAddress {
    const WHAT: &'static str = "a host like shop.example";

    fn parse(text: &str) -> Result<Self, Fault> {
        PageHost::parse(text).map(Self).ok_or_else(|| {
            Fault::new(
                Code::E122,
                format!("`{text}` is not a host"),
                "write shop.example, shop.example:8080 or https://shop.example",
            )
        })
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// Five fields as in crontab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule(pub Cron);

impl Scalar for Schedule {
    const WHAT: &'static str = "a schedule like \"0 5 * * *\"";

    fn parse(text: &str) -> Result<Self, Fault> {
        Cron::parse(text).map(Self).map_err(|why| {
            Fault::new(
                Code::E119,
                format!("`{text}` is not a schedule: {why}"),
                "write \"0 5 * * *\": minute, hour, day, month, day of the week, in UTC",
            )
        })
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TagTemplate(pub Template);

impl Scalar for TagTemplate {
    const WHAT: &'static str = "a tag like \"car:{id}\"";

    fn parse(text: &str) -> Result<Self, Fault> {
        let Text(text) = Text::parse(text)?;
        let template = Template::parse(&text);
        template
            .map(Self)
            .map_err(|why| Fault::new(Code::E119, format!("`{text}` is not a tag"), why))
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// A tag made of a row of a table: `{record.id}` is its column `id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordTag(pub Template);

impl Scalar for RecordTag {
    const WHAT: &'static str = "a tag like \"car:{record.id}\"";

    fn parse(text: &str) -> Result<Self, Fault> {
        let Text(text) = Text::parse(text)?;
        // A row is a part of the request's content, and is read as such.
        let is_column = |one: &Placeholder| matches!(one, Placeholder::Request(_));
        let template = Template::parse(&text.replace("{record.", "{request."));
        let template = template.ok().filter(|it| it.placeholders().all(is_column));
        template.map(Self).ok_or_else(|| {
            let fix = "write words and columns, such as car:{record.id}";
            Fault::new(Code::E119, format!("`{text}` is not a tag of a row"), fix)
        })
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// A key or channel of Redis that others name: no pattern, and one word of its ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedisName(pub String);

impl Scalar for RedisName {
    const WHAT: &'static str = "a name in Redis, like shop:changes";

    fn parse(text: &str) -> Result<Self, Fault> {
        let fits = (1..=256).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"*?[]\\\"'".contains(&byte));
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(Fault::new(
            Code::E122,
            format!("`{text}` is not a name in Redis"),
            "1 to 256 characters without spaces, quotes and * ? [ ] \\",
        ))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 256 })
    }
}

/// A method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MethodName(pub Method);

impl Scalar for MethodName {
    const WHAT: &'static str = "a method like GET";

    fn parse(text: &str) -> Result<Self, Fault> {
        let upper = text.to_ascii_uppercase();
        let fix = if upper == text {
            "write GET, POST, PUT, PATCH or DELETE".to_owned()
        } else {
            format!("write {upper}")
        };
        let bad = Fault::new(Code::E122, format!("`{text}` is not a method"), fix);
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if upper == text => Ok(Self(method)),
            _ => Err(bad),
        }
    }

    fn schema() -> Schema {
        pattern_schema("^[A-Z]+$", "POST")
    }
}

/// A header field's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldName(pub HeaderName);

impl Scalar for FieldName {
    const WHAT: &'static str = "the name of a header field";

    fn parse(text: &str) -> Result<Self, Fault> {
        HeaderName::from_bytes(text.as_bytes())
            .map(Self)
            .map_err(|_| {
                Fault::new(
                    Code::E122,
                    format!("`{text}` is not the name of a header field"),
                    "write accept-language",
                )
            })
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// A final status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub StatusCode);

impl Scalar for Status {
    const WHAT: &'static str = "a status like 404";

    fn parse(text: &str) -> Result<Self, Fault> {
        let status = text
            .parse::<u16>()
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok());
        status
            .filter(|status| (200..600).contains(&status.as_u16()))
            .map(Self)
            .ok_or_else(|| {
                Fault::new(
                    Code::E122,
                    format!("`{text}` is not a status"),
                    "from 200 to 599",
                )
            })
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 200, "maximum": 599 }, { "type": "string", "pattern": "^[2-5][0-9][0-9]$" }] })
    }
}

/// Networks of trusted proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy(pub Vec<IpNet>);

impl Scalar for Proxy {
    const WHAT: &'static str = "private, loopback or a network like 10.0.0.0/8";

    fn parse(text: &str) -> Result<Self, Fault> {
        // RFC 1918, RFC 4193, RFC 3927, RFC 4291 §2.5.6
        const PRIVATE: [&str; 6] = [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "fc00::/7",
            "169.254.0.0/16",
            "fe80::/10",
        ];
        const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
        let parse = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        match text {
            "private" => Ok(Self(parse(&[&PRIVATE[..], &LOOPBACK[..]].concat()))),
            "loopback" => Ok(Self(parse(&LOOPBACK))),
            _ => {
                let network = text
                    .parse::<IpNet>()
                    .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
                network.map(|network| Self(vec![network])).map_err(|_| {
                    Fault::new(
                        Code::E118,
                        format!("`{text}` is not a network"),
                        "write private, loopback, 10.0.0.0/8 or 2001:db8::/32",
                    )
                })
            }
        }
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// A claim's path, dotted; a claim that is a URL is one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim(pub Vec<String>);

impl Scalar for Claim {
    const WHAT: &'static str = "a claim like sub or app_metadata.role";

    fn parse(text: &str) -> Result<Self, Fault> {
        let steps: Vec<String> = if text.contains("://") {
            vec![text.to_owned()]
        } else {
            text.split('.').map(str::to_owned).collect()
        };
        if steps.iter().any(String::is_empty) {
            return Err(Fault::new(
                Code::E122,
                format!("`{text}` is not a claim"),
                "write sub or app_metadata.role",
            ));
        }
        Ok(Self(steps))
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// Where a key set lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Url(String),
    File(std::path::PathBuf),
}

impl Scalar for Keys {
    const WHAT: &'static str = "the URL or file of a key set";

    fn parse(text: &str) -> Result<Self, Fault> {
        if let Some(path) = text
            .strip_prefix("file:")
            .or_else(|| text.starts_with('/').then_some(text))
        {
            return Ok(Self::File(path.into()));
        }
        let uri = text.parse::<http::Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        match uri {
            Some(_) => Ok(Self::Url(text.to_owned())),
            None => Err(Fault::new(
                Code::E118,
                format!("`{text}` is not where a key set lies"),
                "write https://… or file:/path",
            )),
        }
    }

    fn schema() -> Schema {
        text_schema()
    }
}

/// `for:` of a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Audience(pub settings::Audience);

impl Scalar for Audience {
    const WHAT: &'static str = "anyone, user or role:NAME";

    fn parse(text: &str) -> Result<Self, Fault> {
        match (text, text.strip_prefix("role:")) {
            ("anyone", _) => Ok(Self(settings::Audience::Anyone)),
            ("user", _) => Ok(Self(settings::Audience::User)),
            (_, Some(role)) if !role.is_empty() => {
                Ok(Self(settings::Audience::Role(role.to_owned())))
            }
            _ => Err(unknown_word(text, &["anyone", "user", "role:NAME"], &[])),
        }
    }

    fn schema() -> Schema {
        pattern_schema("^(anyone|user|role:.+)$", "anyone")
    }
}

/// A type that may be written as one scalar, or at length as a map.
pub(super) trait OneLine {
    /// What the scalar holds.
    type Line;

    /// The long form of a short one.
    fn from_line(line: Self::Line) -> Self;
}

/// The short or the long form.
#[derive(Clone, Debug, Default)]
pub(super) struct Short<T>(pub T);

impl<'de, T: OneLine<Line: Deserialize<'de>> + Deserialize<'de>> Deserialize<'de> for Short<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms<T>(PhantomData<T>);
        impl<'de, T: OneLine<Line: Deserialize<'de>> + Deserialize<'de>> Visitor<'de> for Forms<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single value or a map")
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
                T::Line::deserialize(deserializer).map(T::from_line)
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<T, D::Error> {
                T::deserialize(deserializer)
            }
        }
        deserializer
            .deserialize_newtype_struct(SHORT_OR_LONG, Forms(PhantomData))
            .map(Self)
    }
}

impl<T: OneLine<Line: JsonSchema> + JsonSchema> JsonSchema for Short<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}OrShort", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [generator.subschema_for::<T::Line>(), generator.subschema_for::<T>()] })
    }
}

/// A list. Members that were refused keep their place, so that positions stay those of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List<T>(Vec<Given<T>>);

impl<T> List<T> {
    /// The members that were read.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(Given::get)
    }

    /// The same, with their positions in the file.
    pub fn indexed(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0
            .iter()
            .enumerate()
            .filter_map(|(index, member)| Some((index, member.get()?)))
    }

    /// Whether the file's list has no member.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Members of the file's list, those that were refused included.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Vec<Given<T>>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list, like [a, b]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Given<T>>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = seq.next_element()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_seq(Members(PhantomData)).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": generator.subschema_for::<T>() })
    }
}

/// One, or a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OneOrMany<T>(List<T>);

impl<T> OneOrMany<T> {
    /// The members that were read.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// Whether the file's list has no member.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = List<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one value or a list")
            }
            fn visit_some<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<List<T>, D::Error> {
                T::deserialize(deserializer).map(|one| List(vec![Given::Value(one)]))
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<List<T>, D::Error> {
                List::deserialize(deserializer)
            }
        }
        deserializer
            .deserialize_newtype_struct(SHORT_OR_LONG, Either(PhantomData))
            .map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            generator.subschema_for::<T>(),
            { "type": "array", "items": generator.subschema_for::<T>(), "minItems": 1 },
        ] })
    }
}

/// `by_status`: a lifetime for each status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ByStatus(pub Vec<(StatusCode, Duration)>);

impl<'de> Deserialize<'de> for ByStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lines;
        impl<'de> Visitor<'de> for Lines {
            type Value = ByStatus;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map like { 404: 30s }")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ByStatus, A::Error> {
                let mut lines = Vec::new();
                loop {
                    match map.next_key::<Status>() {
                        Ok(None) => break,
                        Ok(Some(Status(status))) => {
                            if let Given::Value(Span(span)) = map.next_value()? {
                                lines.push((status, span));
                            }
                        }
                        // It has been told; the next key follows.
                        Err(_) => {}
                    }
                }
                Ok(ByStatus(lines))
            }
        }
        deserializer.deserialize_map(Lines)
    }
}

impl JsonSchema for ByStatus {
    fn schema_name() -> Cow<'static, str> {
        "ByStatus".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^[2-5][0-9][0-9]$" },
            "additionalProperties": generator.subschema_for::<Span>(),
        })
    }
}

/// `headers` and `cookies` of `warm`: one or several values for each name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(pub Vec<(String, Vec<String>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lines;
        impl<'de> Visitor<'de> for Lines {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map like { Accept-Language: [de, en] }")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut lines = Vec::new();
                loop {
                    match map.next_key::<Text>() {
                        Ok(None) => break,
                        Ok(Some(Text(name))) => {
                            let values: Given<OneOrMany<Text>> = map.next_value()?;
                            let values = values.get().into_iter().flat_map(OneOrMany::iter);
                            lines.push((name, values.map(|text| text.0.clone()).collect()));
                        }
                        // It has been told; the next key follows.
                        Err(_) => {}
                    }
                }
                Ok(Fields(lines))
            }
        }
        deserializer.deserialize_map(Lines)
    }
}

impl JsonSchema for Fields {
    fn schema_name() -> Cow<'static, str> {
        "Fields".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<OneOrMany<Text>>(),
        })
    }
}

impl<T: JsonSchema> JsonSchema for Given<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_from_coarse_to_fine() {
        let millis = |text| {
            Span::parse(text)
                .map(|span| span.0.as_millis())
                .map_err(|fault| fault.code)
        };
        assert_eq!(millis("250ms"), Ok(250));
        assert_eq!(millis("1h30m"), Ok(5_400_000));
        assert_eq!(millis("2d"), Ok(172_800_000));
        assert_eq!(millis("0s"), Ok(0));
        assert_eq!(millis("60"), Err(Code::E112));
        assert_eq!(millis("1.5"), Err(Code::E112));
        for bad in [
            "", "s", "1.5h", "30m1h", "1s1s", "5 m", "-1s", ".nan", "1w", "１s",
        ] {
            assert_eq!(millis(bad), Err(Code::E113), "{bad}");
        }
        assert_eq!(millis("99999999999999999999d"), Err(Code::E117));
    }

    #[test]
    fn sizes_are_spelt_exactly() {
        let bytes = |text| {
            Size::parse(text)
                .map(|size| size.0)
                .map_err(|fault| fault.code)
        };
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1kB"), Ok(1_000));
        assert_eq!(bytes("0B"), Ok(0));
        assert_eq!(bytes("64"), Err(Code::E112));
        assert_eq!(bytes("64mb"), Err(Code::E114));
        assert_eq!(bytes("9999999999GiB"), Err(Code::E117));
    }

    #[test]
    fn rates_have_a_window() {
        let rate = |text| {
            Rate::parse(text)
                .map(|rate| (rate.0.quota.get(), rate.0.window.as_secs()))
                .map_err(|fault| fault.code)
        };
        assert_eq!(rate("60/min"), Ok((60, 60)));
        assert_eq!(rate("5/15m"), Ok((5, 900)));
        assert_eq!(rate("1/day"), Ok((1, 86_400)));
        assert_eq!(rate("60"), Err(Code::E112));
        assert_eq!(rate("60/m"), Err(Code::E116));
        assert_eq!(rate("0/min"), Err(Code::E117));
        assert_eq!(rate("5/0s"), Err(Code::E117));
    }

    #[test]
    fn percentages_stop_at_everything() {
        assert_eq!(Percent::parse("10%").unwrap().0, 0.1);
        assert_eq!(Percent::parse("10").unwrap_err().code, Code::E112);
        assert_eq!(Percent::parse("101%").unwrap_err().code, Code::E117);
        assert_eq!(Percent::parse("nan%").unwrap_err().code, Code::E115);
    }

    #[test]
    fn upstreams_are_urls_without_a_path() {
        let target = |text| {
            UpstreamUrl::parse(text)
                .map(|url| url.0)
                .map_err(|fault| fault.fix)
        };
        assert_eq!(
            target("http://app"),
            Ok(UpstreamTarget::Http {
                host: "app".into(),
                port: 80
            })
        );
        assert_eq!(
            target("https://[::1]:8443/"),
            Ok(UpstreamTarget::Https {
                host: "::1".into(),
                port: 8443
            })
        );
        assert_eq!(
            target("unix:/run/app.sock"),
            Ok(UpstreamTarget::Unix("/run/app.sock".into()))
        );
        assert_eq!(
            target("localhost:3000"),
            Err("write http://localhost:3000".into())
        );
        assert!(target("http://u:p@h").is_err_and(|fix| fix.contains("password")));
        for bad in [
            "",
            "http://",
            "http://a:0",
            "http://a:99999",
            "http://a:x",
            "http://a/b",
            "ftp://a",
            "unix:app",
            "h2c://a",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listeners_bind_where_they_say() {
        let address = |text| {
            Address::parse(text)
                .map(|address| address.0.to_string())
                .ok()
        };
        assert_eq!(address(":8080").as_deref(), Some("[::]:8080"));
        assert_eq!(address("localhost:1").as_deref(), Some("127.0.0.1:1"));
        assert_eq!(address("[::1]:1").as_deref(), Some("[::1]:1"));
        for bad in ["", "8080", ":", ":x", ":70000", "host:1"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }
}
