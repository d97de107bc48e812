//! A stored response as it is kept: one block of bytes, the same in memory and in Redis, in which
//! the fields stand as HTTP/1.1 sends them.
//!
//! ```text
//! 0   purge log: milliseconds, sequence     12  initial_age, fresh, stale_while_revalidate,
//! 42  lengths of the five sections,             stale_if_error, app_time, in milliseconds
//!     3 bytes each                          57  status, 2 bytes     59 flags     60 sharing
//! 61  url · tags · Vary · fields · trailers · content, which is the rest
//! ```
//!
//! Numbers are little-endian, and of 6 bytes where nothing else is said: nine thousand years.
//! Fields and trailers are `name: value` lines (RFC 9112 §5), a tag stands behind its length (2
//! bytes), a field of Vary is name (behind 2 bytes of length), a byte that says whether the request
//! had it, and value (behind 4).
//!
//! What is read is hostile until [`Entry::read`] has looked at all of it. It never decides whether
//! an entry may be used.

use super::chunks::Chunks;
use super::{Corrupt, Position};
use crate::semantics::answer::{FIELDS_ADDED, REPLACED};
use crate::semantics::range::Part;
use crate::semantics::reuse::Terms;
use crate::semantics::stored::Lifetime;
use crate::semantics::writing;
use crate::semantics::{Sharing, Stored, Timestamp, Vary, content, vary};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use memchr::{memchr, memchr_iter};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Up to so many bytes of content lie in the block; more stay where they are and are never copied.
pub const CONTENT_WITHIN_MAX: usize = 4 * 1024;
/// The most fields that an entry from Redis may have: a table of fields has room for so many.
pub const FIELDS_MAX: usize = 16 * 1024;

/// Bytes of a number, and the largest that is written; what is larger is written as this.
const NUMBER_BYTES: usize = 6;
const NUMBER_MAX: u64 = (1 << (8 * NUMBER_BYTES)) - 1;
/// Bytes of a section's length.
const LENGTH_BYTES: usize = 3;
const LENGTH_MAX: u32 = (1 << (8 * LENGTH_BYTES)) - 1;

const SPANS_AT: usize = 12;
const APP_TIME_AT: usize = 36;
const LENGTHS_AT: usize = 42;
pub(super) const STATUS_AT: usize = 57;
pub(super) const FLAGS_AT: usize = 59;
const SHARING_AT: usize = 60;
const SECTIONS_AT: usize = 61;

const MUST_REVALIDATE: u8 = 1;
const NO_CACHE: u8 = 1 << 1;
const IMMUTABLE: u8 = 1 << 2;
/// It has something to be validated with.
const VALIDATED: u8 = 1 << 3;
/// A whole answer from it is a status line, its fields as they stand, what every answer gets, and its content.
const PLAIN: u8 = 1 << 4;
const FLAGS: u8 = MUST_REVALIDATE | NO_CACHE | IMMUTABLE | VALIDATED | PLAIN;

/// Fields about the connection and the length of a message: what is stored has none, and one in a
/// frame would split the answer.
const OF_THE_MESSAGE: [&str; 4] = [
    "connection",
    "content-length",
    "keep-alive",
    "transfer-encoding",
];

/// A stored response with what the store itself knows of it.
#[derive(Debug)]
pub struct Entry {
    bytes: Parts,
    /// When the head of the response arrived, on this process's clock.
    received: Timestamp,
    /// The number of purges here up to which it was found not to be purged.
    checked: AtomicU64,
}

/// The bytes of an entry. Those with large content take two steps more, so that each of the many
/// small ones takes less room.
#[derive(Clone, Debug)]
enum Parts {
    /// All of it is the block.
    Whole(Bytes),
    /// The block, and the content that is too large to lie in it.
    Apart(Box<(Bytes, Content)>),
}

/// Content that does not lie in the block.
#[derive(Clone, Debug)]
enum Content {
    Here(Bytes),
    /// In Redis alone.
    Chunked(Arc<Chunks>),
}

/// What the store is told of a response beside the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Tags, sorted, each once.
    pub tags: Box<[Box<str>]>,
    /// Path and query it was stored for; purges by URL and prefix look at it. Host first: `host/path?query`.
    pub url: Box<str>,
    /// The purge log as seen when the fetch that made it began.
    pub position: Position,
    /// How long the app took to give it: what a hit spares.
    pub app_time: Duration,
}

/// The tags of an entry, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'a>(&'a [u8]);

/// A part of the block behind its numbers.
#[derive(Clone, Copy)]
enum Section {
    Url,
    Tags,
    Vary,
    Fields,
    Trailers,
    Content,
}

impl Entry {
    /// An entry that holds on to nothing larger than itself; a large body has to be of its own already.
    #[must_use]
    pub fn new(stored: &Stored, label: &Label) -> Self {
        let content = match stored.body.len() <= CONTENT_WITHIN_MAX {
            true => None,
            false => Some(Content::Here(stored.body.clone())),
        };
        Self::of(stored, label, content)
    }

    /// An entry whose content lies elsewhere.
    #[must_use]
    pub fn chunked(stored: &Stored, label: &Label, chunks: Arc<Chunks>) -> Self {
        Self::of(stored, label, Some(Content::Chunked(chunks)))
    }

    fn of(stored: &Stored, label: &Label, apart: Option<Content>) -> Self {
        let block = write(stored, label, apart.as_ref()).into();
        Self {
            bytes: match apart {
                None => Parts::Whole(block),
                Some(content) => Parts::Apart(Box::new((block, content))),
            },
            received: stored.lifetime.received,
            checked: AtomicU64::new(label.position.local),
        }
    }

    /// The same entry with another response: one that was validated.
    #[must_use]
    pub fn with(&self, stored: &Stored) -> Self {
        self.renewed(stored, &self.label())
    }

    /// The same, and what is told of it may be another.
    #[must_use]
    pub fn renewed(&self, stored: &Stored, label: &Label) -> Self {
        match self.chunks() {
            Some(chunks) => Self::chunked(stored, label, Arc::clone(chunks)),
            None => Self::new(stored, label),
        }
    }

    /// The same entry with another lifetime.
    #[must_use]
    pub fn lasting(&self, lifetime: &Lifetime) -> Self {
        let mut block = self.block().to_vec();
        block[SPANS_AT..APP_TIME_AT].copy_from_slice(&spans_of(lifetime));
        block[FLAGS_AT] &= !(MUST_REVALIDATE | NO_CACHE | IMMUTABLE);
        block[FLAGS_AT] |= flags_of(lifetime);
        let block = block.into();
        Self {
            bytes: match &self.bytes {
                Parts::Whole(_) => Parts::Whole(block),
                Parts::Apart(parts) => Parts::Apart(Box::new((block, parts.1.clone()))),
            },
            received: lifetime.received,
            checked: AtomicU64::new(self.checked()),
        }
    }

    /// Reads what [`Entry::parts`] gave, with the content as its end: it stays where it is. It knows
    /// nothing of this process's purges yet.
    pub fn read(block: Bytes, received: Timestamp) -> Result<Self, Corrupt> {
        check(&block, false)?;
        Ok(Self {
            bytes: Parts::Whole(block),
            received,
            checked: AtomicU64::new(0),
        })
    }

    /// The same where the content lies in `chunks`.
    pub fn read_chunked(
        block: Bytes,
        received: Timestamp,
        chunks: Chunks,
    ) -> Result<Self, Corrupt> {
        check(&block, true)?;
        let content = Content::Chunked(Arc::new(chunks));
        Ok(Self {
            bytes: Parts::Apart(Box::new((block, content))),
            received,
            checked: AtomicU64::new(0),
        })
    }

    /// Tells a chunked entry that has just been read how its value is called in Redis.
    pub(super) fn name_chunks(&mut self, name: &str) {
        if let Parts::Apart(parts) = &mut self.bytes
            && let Content::Chunked(chunks) = &mut parts.1
            && let Some(chunks) = Arc::get_mut(chunks)
        {
            name.clone_into(&mut chunks.name);
        }
    }

    /// Where its content lies, if in chunks.
    #[must_use]
    pub fn chunks(&self) -> Option<&Arc<Chunks>> {
        match &self.bytes {
            Parts::Apart(parts) => match &parts.1 {
                Content::Chunked(chunks) => Some(chunks),
                Content::Here(_) => None,
            },
            Parts::Whole(_) => None,
        }
    }

    /// All of it that is here, in order, but for the moment it was received.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 2] {
        match &self.bytes {
            Parts::Whole(block) => [block, &[]],
            Parts::Apart(parts) => match &parts.1 {
                Content::Here(content) => [&parts.0, content],
                Content::Chunked(_) => [&parts.0, &[]],
            },
        }
    }

    /// The response taken apart, for whoever needs more than its bytes.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored {
            status: self.status(),
            headers: self.headers(),
            body: self.body(),
            elsewhere: self.chunks().map_or(0, |chunks| chunks.bytes()),
            trailers: self.map(Section::Trailers, 0),
            lifetime: self.lifetime(),
            vary: self.vary(),
            sharing: self.sharing(),
        }
    }

    /// What was told of it.
    #[must_use]
    pub fn label(&self) -> Label {
        Label {
            tags: self.tags().map(Into::into).collect(),
            url: self.url().into(),
            position: self.position(),
            app_time: self.app_time(),
        }
    }

    /// The app's status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        status(self.block()).unwrap_or_default()
    }

    /// Its fields as HTTP/1.1 sends them: `name: value` lines, each with its end.
    #[must_use]
    pub fn fields(&self) -> &[u8] {
        self.section(Section::Fields)
    }

    /// The same as a table, with room for what every answer gets.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        self.map(Section::Fields, FIELDS_ADDED)
    }

    /// Whether a whole answer from it is these fields, what every answer gets, and its content: it is
    /// no part, has content, here, and no trailers, and none of the fields that are replaced.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.flag(PLAIN)
    }

    /// Its content, never copied; empty where it lies in chunks.
    #[must_use]
    pub fn body(&self) -> Bytes {
        match &self.bytes {
            Parts::Whole(block) => block.slice(range(block, Section::Content)),
            Parts::Apart(parts) => match &parts.1 {
                Content::Here(content) => content.clone(),
                Content::Chunked(_) => Bytes::new(),
            },
        }
    }

    /// Bytes of its content, wherever that lies.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        match &self.bytes {
            Parts::Whole(block) => range(block, Section::Content).len() as u64,
            Parts::Apart(parts) => match &parts.1 {
                Content::Here(content) => content.len() as u64,
                Content::Chunked(chunks) => chunks.bytes(),
            },
        }
    }

    /// Bytes of all of it that is here.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// Whether nothing says that its content is compressed already.
    #[must_use]
    pub fn may_shrink(&self) -> bool {
        let lines = self.fields();
        !fields(lines).any(|(name, value)| content::says_compressed(name, &lines[value]))
    }

    /// When and for how long it may be used.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        let span = |nth| Duration::from_millis(self.span(nth));
        Lifetime {
            received: self.received,
            initial_age: span(0),
            fresh: span(1),
            stale_while_revalidate: span(2),
            stale_if_error: span(3),
            must_revalidate: self.flag(MUST_REVALIDATE),
            no_cache: self.flag(NO_CACHE),
            immutable: self.flag(IMMUTABLE),
        }
    }

    /// When its head arrived.
    #[must_use]
    pub fn received(&self) -> Timestamp {
        self.received
    }

    /// Whether it is within its lifetime: [`Lifetime::is_fresh`], without making spans of numbers.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let (initial_age, fresh) = (self.span(0), self.span(1));
        let held = now.as_millis().saturating_sub(self.received.as_millis());
        fresh > initial_age.saturating_add(held)
    }

    /// Whether it can be of no use any more, not even to ask whether it still holds.
    #[must_use]
    pub fn is_dead(&self, now: Timestamp) -> bool {
        !self.is_fresh(now) && self.keep(now).is_zero()
    }

    /// How long from `now` a store has to keep it; see [`Lifetime::keep`].
    #[must_use]
    pub fn keep(&self, now: Timestamp) -> Duration {
        self.lifetime().keep(self.flag(VALIDATED), now)
    }

    /// Who allowed it to be shared.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        sharing(self.block()[SHARING_AT]).unwrap_or(Sharing::Route)
    }

    /// What its reuse for `request` is judged by.
    #[must_use]
    pub fn terms(&self, request: &HeaderMap) -> Terms {
        Terms {
            lifetime: self.lifetime(),
            sharing: self.sharing(),
            // Only a part may be too little.
            suffices: self.status() != StatusCode::PARTIAL_CONTENT
                || self.stored().suffices(request),
        }
    }

    /// What of the whole this is, where it is only a part of it (206).
    #[must_use]
    pub fn part(&self) -> Option<Part> {
        (self.status() == StatusCode::PARTIAL_CONTENT)
            .then(|| self.stored().part())
            .flatten()
    }

    /// Whether it varies on nothing.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.section(Section::Vary).is_empty()
    }

    /// The request fields it was selected by.
    #[must_use]
    pub fn vary(&self) -> Vary {
        let fields = selecting(self.section(Section::Vary));
        let fields = fields.filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name).ok()?;
            Some((name, value.map(Into::into)))
        });
        Vary {
            fields: fields.collect(),
        }
    }

    /// Whether `request` selects it (RFC 9111 §4.1).
    #[must_use]
    pub fn matches(&self, request: &HeaderMap) -> bool {
        selecting(self.section(Section::Vary)).all(|(name, value)| {
            HeaderName::from_bytes(name).is_ok_and(|name| vary::selects(&name, value, request))
        })
    }

    /// Its tags, sorted.
    #[must_use]
    pub fn tags(&self) -> Tags<'_> {
        Tags(self.section(Section::Tags))
    }

    /// See [`Label::url`].
    #[must_use]
    pub fn url(&self) -> &str {
        text(self.section(Section::Url))
    }

    /// The purge log up to which it is known not to be purged.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            log: (self.number(0), self.number(NUMBER_BYTES)),
            local: self.checked(),
        }
    }

    /// How long the app took to give it.
    #[must_use]
    pub fn app_time(&self) -> Duration {
        Duration::from_millis(self.number(APP_TIME_AT))
    }

    /// The number of purges here up to which it was found not to be purged.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }

    /// It was found not to be purged by the first `purges` here. Only ever raised: another worker
    /// may have checked it against more.
    pub fn check(&self, purges: u64) {
        self.checked.fetch_max(purges, Ordering::Relaxed);
    }

    /// One of the spans of its lifetime, in milliseconds.
    fn span(&self, nth: usize) -> u64 {
        self.number(SPANS_AT + NUMBER_BYTES * nth)
    }

    fn block(&self) -> &Bytes {
        match &self.bytes {
            Parts::Whole(block) => block,
            Parts::Apart(parts) => &parts.0,
        }
    }

    fn number(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        // With what stands behind it, since that is one step.
        bytes.copy_from_slice(&self.block()[at..at + 8]);
        u64::from_le_bytes(bytes) & NUMBER_MAX
    }

    fn flag(&self, flag: u8) -> bool {
        self.block()[FLAGS_AT] & flag != 0
    }

    fn section(&self, section: Section) -> &[u8] {
        let block = self.block();
        &block[range(block, section)]
    }

    /// The lines of a section as a table, with room for so many `more`. Values share the block.
    fn map(&self, section: Section, more: usize) -> HeaderMap {
        let block = self.block();
        let range = range(block, section);
        if range.is_empty() {
            return HeaderMap::new();
        }
        let lines = &block[range.clone()];
        let room = memchr_iter(b'\n', lines).count() + more;
        let mut map = HeaderMap::try_with_capacity(room).unwrap_or_default();
        for (name, value) in fields(lines) {
            let value = range.start + value.start..range.start + value.end;
            let value = HeaderValue::from_maybe_shared(block.slice(value));
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
                // There were no more than fit when they were written or read.
                let _ = map.try_append(name, value);
            }
        }
        map
    }
}

impl<'a> Iterator for Tags<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (tag, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        self.0 = rest;
        Some(text(tag))
    }
}

// Writing ---------------------------------------------------------------------------------------

fn write(stored: &Stored, label: &Label, apart: Option<&Content>) -> Vec<u8> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    let selecting = |(name, value): &(HeaderName, Option<Box<[u8]>>)| {
        name.as_str().len() + value.as_ref().map_or(0, |value| value.len()) + 7
    };
    let lengths = [
        label.url.len(),
        label.tags.iter().map(|tag| short(tag).len() + 2).sum(),
        stored.vary.fields.iter().map(selecting).sum(),
        stored.headers.iter().map(line).sum(),
        stored.trailers.iter().map(line).sum(),
    ];
    let body: &[u8] = match apart {
        None => &stored.body,
        Some(_) => &[],
    };
    let bytes = SECTIONS_AT + lengths.iter().sum::<usize>() + body.len();
    let mut out = Vec::with_capacity(bytes);
    // A place in the log that is written too small is one from before: it is purged too often.
    out.extend_from_slice(&number_of(label.position.log.0));
    out.extend_from_slice(&number_of(label.position.log.1));
    out.extend_from_slice(&spans_of(&stored.lifetime));
    out.extend_from_slice(&number_of(millis(label.app_time)));
    for length in lengths {
        // Each is a part of a head, and heads have bounds far below.
        let length = u32::try_from(length).unwrap_or(u32::MAX).min(LENGTH_MAX);
        out.extend_from_slice(&length.to_le_bytes()[..LENGTH_BYTES]);
    }
    out.extend_from_slice(&stored.status.as_u16().to_le_bytes());
    let mut flags = flags_of(&stored.lifetime);
    if stored.validators().any() {
        flags |= VALIDATED;
    }
    let fields_are_plain = !stored.headers.keys().any(|name| is_replaced(name.as_ref()));
    let is_here = !matches!(apart, Some(Content::Chunked(_)));
    if fields_are_plain && stored.trailers.is_empty() && has_content(stored.status) && is_here {
        flags |= PLAIN;
    }
    out.extend_from_slice(&[flags, sharing_code(stored.sharing)]);
    out.extend_from_slice(label.url.as_bytes());
    for tag in &label.tags {
        put_short(&mut out, short(tag).as_bytes());
    }
    for (name, value) in &stored.vary.fields {
        put_short(&mut out, name.as_ref());
        out.push(u8::from(value.is_some()));
        let value = value.as_deref().unwrap_or_default();
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(value);
    }
    for (name, value) in stored.headers.iter().chain(&stored.trailers) {
        writing::line(&mut out, name, value.as_bytes());
    }
    out.extend_from_slice(body);
    out
}

/// A tag as far as its length can be told; none is nearly as long.
fn short(tag: &str) -> &str {
    &tag[..tag.floor_char_boundary(u16::MAX.into())]
}

/// What is no longer than a name can be, behind its length.
fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn number_of(number: u64) -> [u8; NUMBER_BYTES] {
    let [number @ .., _, _] = number.min(NUMBER_MAX).to_le_bytes();
    number
}

fn spans_of(lifetime: &Lifetime) -> [u8; 4 * NUMBER_BYTES] {
    let mut bytes = [0; 4 * NUMBER_BYTES];
    let spans = [
        lifetime.initial_age,
        lifetime.fresh,
        lifetime.stale_while_revalidate,
        lifetime.stale_if_error,
    ];
    for (room, span) in bytes.chunks_exact_mut(NUMBER_BYTES).zip(spans) {
        room.copy_from_slice(&number_of(millis(span)));
    }
    bytes
}

fn flags_of(lifetime: &Lifetime) -> u8 {
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    flag(lifetime.must_revalidate, MUST_REVALIDATE)
        | flag(lifetime.no_cache, NO_CACHE)
        | flag(lifetime.immutable, IMMUTABLE)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

const fn sharing_code(sharing: Sharing) -> u8 {
    match sharing {
        Sharing::Everyone => 0,
        Sharing::App => 1,
        Sharing::Route => 2,
        Sharing::Identity => 3,
    }
}

// Reading what is known to be whole -------------------------------------------------------------

/// How long the section is that has this place among the five.
fn length(block: &[u8], nth: usize) -> usize {
    let at = LENGTHS_AT + LENGTH_BYTES * nth;
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&block[at..at + 4]);
    (u32::from_le_bytes(bytes) & LENGTH_MAX) as usize
}

fn range(block: &[u8], section: Section) -> Range<usize> {
    let nth = section as usize;
    let start = (0..nth).fold(SECTIONS_AT, |at, before| at + length(block, before));
    match section {
        Section::Content => start..block.len(),
        _ => start..start + length(block, nth),
    }
}

fn status(block: &[u8]) -> Option<StatusCode> {
    let code = u16::from_le_bytes([block[STATUS_AT], block[STATUS_AT + 1]]);
    StatusCode::from_u16(code).ok()
}

const fn sharing(code: u8) -> Option<Sharing> {
    match code {
        0 => Some(Sharing::Everyone),
        1 => Some(Sharing::App),
        2 => Some(Sharing::Route),
        3 => Some(Sharing::Identity),
        _ => None,
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// The name of each line, and where in `lines` its value is.
fn fields(lines: &[u8]) -> impl Iterator<Item = (&[u8], Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let line = &lines[at..];
        let colon = memchr(b':', line)?;
        let length = memchr(b'\r', &line[colon..])?;
        let value = at + colon + 2..at + colon + length;
        at = value.end + 2;
        Some((&line[..colon], value))
    })
}

/// Name and value of each field of Vary; ends where they make no sense.
fn selecting(mut section: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    std::iter::from_fn(move || {
        let (field, rest) = split_selecting(section)?;
        section = rest;
        Some(field)
    })
}

type Selecting<'a> = (&'a [u8], Option<&'a [u8]>);

fn split_selecting(section: &[u8]) -> Option<(Selecting<'_>, &[u8])> {
    let (length, rest) = section.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (present, rest) = rest.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some(((name, (*present == 1).then_some(value)), rest))
}

/// Whether every answer gets a field of this name in place of a stored one.
fn is_replaced(name: &[u8]) -> bool {
    REPLACED.iter().any(|replaced| replaced.as_bytes() == name)
}

/// Whether an answer with this status has its content in it, all of it.
const fn has_content(status: StatusCode) -> bool {
    !matches!(status.as_u16(), ..200 | 204 | 205 | 206 | 304)
}

// Reading what may be anything ------------------------------------------------------------------

/// Whether every byte of a block makes sense, so that nothing has to be asked afterwards.
fn check(block: &[u8], is_chunked: bool) -> Result<(), Corrupt> {
    if block.len() < SECTIONS_AT {
        return Err(Corrupt::Truncated);
    }
    // Five numbers of 24 bits overflow nothing.
    let sections: usize = (0..5).map(|nth| length(block, nth)).sum();
    if sections > block.len() - SECTIONS_AT {
        return Err(Corrupt::Truncated);
    }
    let section = |section| &block[range(block, section)];
    let flags = block[FLAGS_AT];
    // An interim answer would make another out of its content.
    let status = status(block).filter(|status| !status.is_informational());
    let status = status.ok_or(Corrupt::Malformed)?;
    let lines = check_lines(section(Section::Fields)).ok_or(Corrupt::Malformed)?;
    let trailers = check_lines(section(Section::Trailers)).ok_or(Corrupt::Malformed)?;
    let is_plain = lines.are_plain && trailers.count == 0 && has_content(status) && !is_chunked;
    // Content in the block as well would be a second one, and parts are never chunked.
    let is_one = !is_chunked || (section(Section::Content).is_empty() && has_content(status));
    let makes_sense = is_one
        && flags & !FLAGS == 0
        && (flags & PLAIN != 0) == is_plain
        && sharing(block[SHARING_AT]).is_some()
        && lines.count.max(trailers.count) <= FIELDS_MAX
        && std::str::from_utf8(section(Section::Url)).is_ok()
        && check_tags(section(Section::Tags))
        && check_vary(section(Section::Vary));
    makes_sense.then_some(()).ok_or(Corrupt::Malformed)
}

fn check_tags(mut section: &[u8]) -> bool {
    while let Some((length, rest)) = section.split_first_chunk() {
        let tag = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)));
        let Some((tag, rest)) = tag else { return false };
        if std::str::from_utf8(tag).is_err() {
            return false;
        }
        section = rest;
    }
    section.is_empty()
}

fn check_vary(mut section: &[u8]) -> bool {
    while let Some(((name, _), rest)) = split_selecting(section) {
        if !name.iter().all(|byte| is_of_a_name(*byte)) || name.is_empty() {
            return false;
        }
        section = rest;
    }
    section.is_empty()
}

struct Lines {
    count: usize,
    are_plain: bool,
}

/// Checked again on reading: nothing that splits a response comes out of a store. `None` where what
/// stands there is anything else than whole lines of `name: value`.
fn check_lines(section: &[u8]) -> Option<Lines> {
    let mut lines = Lines {
        count: 0,
        are_plain: true,
    };
    let mut rest = section;
    while !rest.is_empty() {
        let colon = rest.iter().position(|byte| !is_of_a_name(*byte))?;
        let (name, after) = rest.split_at(colon);
        let after = after.strip_prefix(b": ")?;
        if name.is_empty() || OF_THE_MESSAGE.iter().any(|never| never.as_bytes() == name) {
            return None;
        }
        lines.are_plain &= !is_replaced(name);
        lines.count += 1;
        let end = memchr(b'\r', after)?;
        rest = after[end..].strip_prefix(b"\r\n")?;
    }
    // The two that end each line, and no other.
    (controls(section) == 2 * lines.count).then_some(lines)
}

/// How many control characters there are, the tab not counted.
fn controls(bytes: &[u8]) -> usize {
    let is_control = |byte: &u8| u8::from((*byte < b' ' && *byte != b'\t') || *byte == 0x7f);
    // So few at a time that a byte counts them, which several can do at once.
    let counts = bytes
        .chunks(128)
        .map(|chunk| usize::from(chunk.iter().map(is_control).sum::<u8>()));
    counts.sum()
}

/// A character of a name as names are written here, in lower case (RFC 9110 §5.6.2).
const fn is_of_a_name(byte: u8) -> bool {
    OF_A_NAME[byte as usize]
}

const OF_A_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < table.len() {
        table[at] = matches!(at as u8, b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&'
            | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing;

    #[test]
    fn what_is_too_large_for_a_number_is_the_largest_there_is() {
        let mut stored = testing::stored(b"body");
        stored.lifetime.fresh = Duration::MAX;
        let position = Position {
            log: (u64::MAX, NUMBER_MAX + 1),
            local: 0,
        };
        let label = Label {
            position,
            ..testing::label("host/a")
        };
        let entry = Entry::new(&stored, &label);
        assert_eq!(entry.lifetime().fresh, Duration::from_millis(NUMBER_MAX));
        assert_eq!(entry.position().log, (NUMBER_MAX, NUMBER_MAX));
    }

    #[test]
    fn large_content_stays_where_it_is_whatever_becomes_of_the_entry() {
        for length in [CONTENT_WITHIN_MAX, CONTENT_WITHIN_MAX + 1] {
            let mut stored = testing::stored(&vec![b'x'; length]);
            let entry = Entry::new(&stored, &testing::label("host/a"));
            stored.lifetime.fresh += Duration::from_secs(1);
            let lasting = entry.lasting(&stored.lifetime);
            assert_eq!(lasting.stored(), stored);
            assert_eq!(lasting.body_bytes(), length as u64);
            assert_eq!(lasting.bytes(), entry.bytes());
            let stays = |entry: &Entry| entry.body().as_ptr() == stored.body.as_ptr();
            let is_large = length > CONTENT_WITHIN_MAX;
            assert_eq!((stays(&entry), stays(&lasting)), (is_large, is_large));
        }
    }
}
