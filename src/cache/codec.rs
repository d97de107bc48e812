//! The form in which entries lie in Redis: versioned, checked, bound to their key.
//!
//! Whatever is read is hostile until it has passed every check here: any bytes give an entry or the
//! reason why not, nothing panics, and nothing is allocated on the word of a length.
//!
//! ```text
//! 0  'L'      1  version    2  kind (0 entry, 1 Vary marker, 2 chunked entry, 3 chunk)
//! 3  flags: how the block is sealed
//! 4  checksum: XXH3 of what follows, seeded with the four bytes before
//! 12 key, 16 bytes
//! 28 … the block, sealed as the flags say (`super::seal`):
//!      of an entry: when it was received, on Redis's clock, 8 bytes, and
//!                   the entry as memory holds it (`super::entry`), whose end is the content
//!      of a marker: a count, 2 bytes, and names, each behind 2 bytes of length
//!      of a chunked entry: when it was received, 8 bytes, its generation, 8, bytes of its content, 8,
//!                   and of each chunk but the last, 4, and the entry without content
//!      of a chunk: its generation, 8 bytes, which it is, 4, and a piece of the content
//! ```
//!
//! The checksum finds damage, not forgery: whoever can write to Redis could make a digest right, too.
//! Against that there is encryption, whose tag is also about version, kind and key. The place in the
//! purge log is within the entry, so that nobody can make an old one look younger.
//!
//! Moments are written on Redis's clock, so that sidecars with differing clocks agree on ages.

use super::Entry;
use super::chunks::{CHUNK_BYTES_MAX, CHUNKS_MAX, Chunks};
use super::seal::{self, Seal};
use crate::semantics::{Key, Timestamp};
use bytes::Bytes;
use http::HeaderName;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// First byte of every frame.
pub const MAGIC: u8 = b'L';
/// The version written, and the only one read.
pub const VERSION: u8 = 3;

const KIND_ENTRY: u8 = 0;
const KIND_VARY: u8 = 1;
const KIND_CHUNKED: u8 = 2;
const KIND_CHUNK: u8 = 3;
const CHECKSUM_AT: usize = 4;
const KEY_AT: usize = 12;
/// Where the sealed block begins.
const BLOCK_AT: usize = 28;
const FLAGS_AT: usize = 3;
/// Where a frame says what it is.
pub(super) const KIND_AT: usize = 2;
/// Bytes of an entry's block before the entry: when it was received.
const RECEIVED_BYTES: usize = 8;
/// The same of a chunked one, and of a chunk before its piece of the content.
const CHUNKED_BYTES: usize = 28;
const CHUNK_PLACE_BYTES: usize = 12;

/// What a frame held.
#[derive(Debug)]
pub enum Frame {
    /// A response. It knows nothing of this process: no purge here has been checked.
    Entry(Entry),
    /// The fields that the responses under this key vary on.
    Vary(Vec<HeaderName>),
}

/// Why bytes are no frame of ours. Each is a miss and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Corrupt {
    /// Not ours, or of another version.
    Version,
    /// Shorter than it says.
    Truncated,
    /// A bit is wrong somewhere.
    Checksum,
    /// Stored for another key.
    OtherKey,
    /// Whole, but makes no sense.
    Malformed,
    /// Encrypted with a key that is not ours.
    UnknownKey,
    /// Encrypted with a key of ours, and changed since, or stored for something else.
    BadTag,
    /// Not encrypted, where everything is.
    NotEncrypted,
    /// A chunk of its content is not there.
    Missing,
}

impl Corrupt {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Version,
        Self::Truncated,
        Self::Checksum,
        Self::OtherKey,
        Self::Malformed,
        Self::UnknownKey,
        Self::BadTag,
        Self::NotEncrypted,
        Self::Missing,
    ];

    /// The word for metrics and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Truncated => "truncated",
            Self::Checksum => "checksum",
            Self::OtherKey => "other-key",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown-key",
            Self::BadTag => "bad-tag",
            Self::NotEncrypted => "not-encrypted",
            Self::Missing => "missing",
        }
    }
}

/// The frame of `entry` under `key`. `clock_offset` is how many milliseconds Redis's clock is ahead
/// of ours.
#[must_use]
pub fn encode(entry: &Entry, key: &Key, clock_offset: i64, seal: &Seal) -> Vec<u8> {
    let received = entry.received().as_millis();
    let received = received.saturating_add_signed(clock_offset).to_le_bytes();
    let [block, apart] = entry.parts();
    if let Some(chunks) = entry.chunks() {
        let generation = chunks.generation.to_le_bytes();
        let (bytes, each) = (chunks.bytes.to_le_bytes(), chunks.chunk_bytes.to_le_bytes());
        let parts: [&[u8]; 5] = [&received, &generation, &bytes, &each, block];
        return frame(KIND_CHUNKED, key, &parts, false, seal);
    }
    let try_compress = seal.compresses(entry.body_bytes() as usize) && entry.may_shrink();
    frame(
        KIND_ENTRY,
        key,
        &[&received, block, apart],
        try_compress,
        seal,
    )
}

/// The frame of one chunk of the content under `key`; `may_shrink`: it is of a kind that does.
#[must_use]
pub fn encode_chunk(
    key: &Key,
    (generation, index): (u64, u32),
    content: &[u8],
    may_shrink: bool,
    seal: &Seal,
) -> Vec<u8> {
    let parts: [&[u8]; 3] = [&generation.to_le_bytes(), &index.to_le_bytes(), content];
    let try_compress = may_shrink && seal.compresses(content.len());
    frame(KIND_CHUNK, key, &parts, try_compress, seal)
}

/// The frame of a Vary marker under `key`.
#[must_use]
pub fn encode_vary(names: &[HeaderName], key: &Key, seal: &Seal) -> Vec<u8> {
    let mut parts = Vec::new();
    // A response varies on a few fields, and names are bounded by the head that they came in.
    let number = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes();
    parts.extend_from_slice(&number(names.len()));
    for name in names {
        parts.extend_from_slice(&number(name.as_str().len()));
        parts.extend_from_slice(name.as_ref());
    }
    frame(KIND_VARY, key, &[&parts], false, seal)
}

/// What `bytes`, found under `key`, hold. Of an entry that is neither compressed nor encrypted nothing
/// is copied: it is a share of `bytes`.
///
/// A chunked one does not know yet how it is called.
pub fn decode(bytes: &Bytes, key: &Key, clock_offset: i64, seal: &Seal) -> Result<Frame, Corrupt> {
    let (kind, block) = open(bytes, key, seal)?;
    if kind == KIND_VARY {
        return names(&block).map(Frame::Vary);
    }
    let (received, rest) = block.split_first_chunk().ok_or(Corrupt::Truncated)?;
    let received = u64::from_le_bytes(*received);
    let received = received.saturating_add_signed(clock_offset.saturating_neg());
    let received = Timestamp::from_millis(received);
    let entry = match kind {
        KIND_ENTRY => Entry::read(block.slice(RECEIVED_BYTES..), received),
        KIND_CHUNKED => {
            let chunks = chunks(rest, key)?;
            Entry::read_chunked(block.slice(CHUNKED_BYTES..), received, chunks)
        }
        // A chunk is no entry.
        _ => Err(Corrupt::Malformed),
    };
    entry.map(Frame::Entry)
}

/// The content of this chunk of `key`'s, if `bytes` are its frame.
pub fn decode_chunk(
    bytes: &Bytes,
    key: &Key,
    (generation, index): (u64, u32),
    seal: &Seal,
) -> Result<Bytes, Corrupt> {
    let (kind, block) = open(bytes, key, seal)?;
    let place = [&generation.to_le_bytes()[..], &index.to_le_bytes()].concat();
    match block.get(..CHUNK_PLACE_BYTES) {
        _ if kind != KIND_CHUNK => Err(Corrupt::Malformed),
        None => Err(Corrupt::Truncated),
        Some(found) if found != place => Err(Corrupt::OtherKey),
        Some(_) => Ok(block.slice(CHUNK_PLACE_BYTES..)),
    }
}

/// Whether this is the beginning of a chunked entry's frame, at least to [`KIND_AT`].
pub(super) fn is_chunked(beginning: &[u8]) -> bool {
    beginning == [MAGIC, VERSION, KIND_CHUNKED]
}

/// The kind of a frame and its block, if it is whole and `key`'s.
#[inline]
fn open(bytes: &Bytes, key: &Key, seal: &Seal) -> Result<(u8, Bytes), Corrupt> {
    match bytes.get(..3) {
        None => return Err(Corrupt::Truncated),
        Some([MAGIC, VERSION, KIND_ENTRY..=KIND_CHUNK]) if bytes.len() > FLAGS_AT => {
            if bytes[FLAGS_AT] & !seal::FLAGS != 0 {
                return Err(Corrupt::Version);
            }
        }
        Some([MAGIC, VERSION, _]) if bytes.len() == 3 => return Err(Corrupt::Truncated),
        Some(_) => return Err(Corrupt::Version),
    }
    if bytes.len() < BLOCK_AT {
        return Err(Corrupt::Truncated);
    }
    if checksum(bytes).is_none_or(|sum| bytes[CHECKSUM_AT..KEY_AT] != sum) {
        return Err(Corrupt::Checksum);
    }
    if bytes[KEY_AT..BLOCK_AT] != *key.bytes() {
        return Err(Corrupt::OtherKey);
    }
    let kind = bytes[KIND_AT];
    let block = seal.open(
        bytes.slice(BLOCK_AT..),
        bytes[FLAGS_AT],
        &bound_to(kind, key),
    )?;
    Ok((kind, block))
}

/// Where the content lies of which `head` tells.
fn chunks(head: &[u8], key: &Key) -> Result<Chunks, Corrupt> {
    let (generation, head) = head.split_first_chunk().ok_or(Corrupt::Truncated)?;
    let (bytes, head) = head.split_first_chunk().ok_or(Corrupt::Truncated)?;
    let (each, _) = head.split_first_chunk().ok_or(Corrupt::Truncated)?;
    let (bytes, each) = (u64::from_le_bytes(*bytes), u32::from_le_bytes(*each));
    if bytes == 0
        || !(1..=CHUNK_BYTES_MAX).contains(&each)
        || bytes.div_ceil(each.into()) > CHUNKS_MAX
    {
        return Err(Corrupt::Malformed);
    }
    let generation = u64::from_le_bytes(*generation);
    Ok(Chunks::new(*key, String::new(), generation, bytes, each))
}

/// What an encrypted block holds good for, and nothing else.
fn bound_to(kind: u8, key: &Key) -> [u8; 19] {
    let mut bytes = [0; 19];
    bytes[..3].copy_from_slice(&[MAGIC, VERSION, kind]);
    bytes[3..].copy_from_slice(key.bytes());
    bytes
}

fn names(head: &[u8]) -> Result<Vec<HeaderName>, Corrupt> {
    let (count, mut rest) = head.split_first_chunk().ok_or(Corrupt::Truncated)?;
    let mut names = Vec::new();
    for _ in 0..u16::from_le_bytes(*count) {
        let (length, after) = rest.split_first_chunk().ok_or(Corrupt::Truncated)?;
        let length = usize::from(u16::from_le_bytes(*length));
        let (name, after) = after.split_at_checked(length).ok_or(Corrupt::Truncated)?;
        names.push(HeaderName::from_bytes(name).map_err(|_| Corrupt::Malformed)?);
        rest = after;
    }
    match rest.is_empty() {
        true => Ok(names),
        false => Err(Corrupt::Malformed),
    }
}

fn frame(kind: u8, key: &Key, parts: &[&[u8]], try_compress: bool, seal: &Seal) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(BLOCK_AT + length + seal.overhead());
    bytes.extend_from_slice(&[MAGIC, VERSION, kind, 0]);
    bytes.extend_from_slice(&[0; KEY_AT - CHECKSUM_AT]);
    bytes.extend_from_slice(key.bytes());
    bytes[FLAGS_AT] = seal.close(&mut bytes, parts, try_compress, &bound_to(kind, key));
    if let Some(checksum) = checksum(&bytes) {
        bytes[CHECKSUM_AT..KEY_AT].copy_from_slice(&checksum);
    }
    bytes
}

/// What stands between the first four bytes of `frame` and the key, if it is whole. `None` where it
/// is too short to be a frame.
#[must_use]
pub fn checksum(frame: &[u8]) -> Option<[u8; 8]> {
    let (seed, _) = frame.split_first_chunk::<CHECKSUM_AT>()?;
    let rest = frame.get(KEY_AT..)?;
    let seed = u64::from(u32::from_le_bytes(*seed));
    Some(xxh3_64_with_seed(rest, seed).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Label, Position, testing};
    use crate::secret;
    use crate::semantics::stored::Lifetime;
    use crate::semantics::{Sharing, Stored, Vary};
    use http::{HeaderMap, HeaderValue, StatusCode};
    use proptest::prelude::*;
    use std::time::Duration;

    fn key() -> Key {
        Key::from_bytes([7; 16])
    }

    fn decoded(bytes: &[u8]) -> Result<Frame, Corrupt> {
        decode(&Bytes::copy_from_slice(bytes), &key(), 0, &Seal::default())
    }

    prop_compose! {
        fn entries()(
            status in 200u16..600,
            fields in prop::collection::vec(("[a-z][a-z0-9-]{0,12}", "[ -~]{0,40}"), 0..8),
            trailers in prop::collection::vec(("[a-z]{1,8}", "[!-~]{0,10}"), 0..2),
            vary in prop::collection::vec(("[a-z]{1,8}", prop::option::of(prop::collection::vec(any::<u8>(), 0..9))), 0..4),
            body in prop::collection::vec(any::<u8>(), 0..300),
            tags in prop::collection::vec("[a-z:0-9]{0,20}", 0..5),
            url in "[a-z.]{1,10}/[a-z0-9/?=]{0,30}",
            spans in prop::array::uniform6(0u64..1 << 48),
            flags in prop::array::uniform3(any::<bool>()),
            sharing in prop::sample::select(vec![Sharing::Everyone, Sharing::App, Sharing::Route, Sharing::Identity]),
            log in (0u64..1 << 48, 0u64..1 << 48),
        ) -> (Stored, Label) {
            let map = |pairs: &[(String, String)]| {
                pairs.iter().map(|(name, value)| (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                )).fold(HeaderMap::new(), |mut map, (name, value)| { map.append(name, value); map })
            };
            let stored = Stored {
                status: StatusCode::from_u16(status).unwrap(),
                headers: map(&fields),
                body: body.into(),
                elsewhere: 0,
                trailers: map(&trailers),
                lifetime: Lifetime {
                    received: Timestamp::from_millis(spans[0]),
                    initial_age: Duration::from_millis(spans[1]),
                    fresh: Duration::from_millis(spans[2]),
                    stale_while_revalidate: Duration::from_millis(spans[3]),
                    stale_if_error: Duration::from_millis(spans[4]),
                    must_revalidate: flags[0],
                    no_cache: flags[1],
                    immutable: flags[2],
                },
                vary: Vary { fields: vary.into_iter().map(|(name, value)| (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    value.map(Into::into),
                )).collect() },
                sharing,
            };
            let label = Label {
                tags: tags.into_iter().map(Into::into).collect(),
                url: url.into(),
                position: Position { log, local: 0 },
                app_time: Duration::from_millis(spans[5]),
            };
            (stored, label)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read_again((stored, label) in entries(), offset in -1_000_000i64..1_000_000) {
            let entry = Entry::new(&stored, &label);
            prop_assert_eq!(entry.stored(), stored.clone());
            prop_assert_eq!(entry.label(), label.clone());
            let bytes = encode(&entry, &key(), 0, &Seal::default());
            prop_assert_eq!(bytes.len(), bytes.capacity());
            let Ok(Frame::Entry(read)) = decoded(&bytes) else { panic!("not read") };
            prop_assert_eq!((read.stored(), read.label()), (stored.clone(), label.clone()));
            prop_assert_eq!((read.fields(), read.is_plain()), (entry.fields(), entry.is_plain()));
            // Where its content lies elsewhere, all but that is read again.
            let chunks = || Chunks::new(key(), String::new(), 9, 1 << 30, 1 << 17);
            let status = StatusCode::OK;
            let apart = Stored { status, body: Bytes::new(), elsewhere: 1 << 30, ..stored.clone() };
            let bytes = encode(&Entry::chunked(&apart, &label, chunks().into()), &key(), 0, &Seal::default());
            let Ok(Frame::Entry(read)) = decoded(&bytes) else { panic!("not read") };
            prop_assert_eq!((read.stored(), read.label(), read.is_plain()), (apart, label.clone(), false));
            let found = read.chunks().unwrap();
            prop_assert_eq!((found.generation, found.bytes, found.chunk_bytes), (9, 1 << 30, 1 << 17));
            // Another sidecar, whose clock differs, sees the same moment.
            let mut later = stored;
            later.lifetime.received = Timestamp::from_millis(10_000_000);
            let bytes = Bytes::from(encode(&Entry::new(&later, &label), &key(), offset, &Seal::default()));
            let Ok(Frame::Entry(read)) = decode(&bytes, &key(), offset + 5, &Seal::default()) else { panic!("not read") };
            prop_assert_eq!(read.received().as_millis(), 10_000_000 - 5);
            // And one whose lifetime is another is the same beside.
            later.lifetime.fresh += Duration::from_secs(1);
            let lasting = entry.lasting(&later.lifetime);
            prop_assert_eq!((lasting.stored(), lasting.label()), (later, label));
        }

        #[test]
        fn no_flipped_bit_and_no_missing_byte_is_overlooked((stored, label) in entries()) {
            let bytes = encode(&Entry::new(&stored, &label), &key(), 0, &Seal::default());
            for length in 0..bytes.len() {
                prop_assert!(decoded(&bytes[..length]).is_err());
            }
            let mut flipped = bytes.clone();
            for bit in (0..bytes.len() * 8).step_by(3) {
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(decoded(&flipped).is_err());
                flipped[bit / 8] ^= 1 << (bit % 8);
            }
        }

        /// A forger makes the checksum right. What comes out then can be used, and be sent as it is.
        #[test]
        fn no_flipped_bit_behind_a_right_checksum_splits_a_response((stored, label) in entries()) {
            let whole = encode(&Entry::new(&stored, &label), &key(), 0, &Seal::default());
            for bit in (BLOCK_AT * 8..whole.len() * 8).step_by(5) {
                let mut forged = whole.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                let sum = checksum(&forged).unwrap();
                forged[CHECKSUM_AT..KEY_AT].copy_from_slice(&sum);
                if let Ok(Frame::Entry(read)) = decoded(&forged) {
                    let (stored, label) = (read.stored(), read.label());
                    let again = Entry::new(&stored, &label);
                    prop_assert_eq!(again.stored(), stored);
                    prop_assert_eq!(sorted(again.fields()), sorted(read.fields()));
                }
            }
        }

        /// The same of what is compressed, encrypted, and both.
        #[test]
        fn sealed_entries_are_read_again_and_no_change_of_them_is_overlooked((stored, label) in entries(), compress: bool, encrypt: bool) {
            let keys = [secret::Key::new([7; 32])];
            let seal = Seal::new(compress.then_some(0), &keys[..usize::from(encrypt)], 1 << 20);
            let mut stored = stored;
            stored.body = stored.body.repeat(4).into();
            let whole = encode(&Entry::new(&stored, &label), &key(), 0, &seal);
            let open = |bytes: &[u8]| decode(&Bytes::copy_from_slice(bytes), &key(), 0, &seal);
            let Ok(Frame::Entry(read)) = open(&whole) else { panic!("not read") };
            prop_assert_eq!((read.stored(), read.label()), (stored, label));
            let sum = |mut bytes: Vec<u8>| {
                let sum = checksum(&bytes).unwrap();
                bytes[CHECKSUM_AT..KEY_AT].copy_from_slice(&sum);
                bytes
            };
            for bit in (0..whole.len() * 8).step_by(7) {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(open(&flipped).is_err());
                // A forger makes the checksum right; only the tag stands against that.
                prop_assert!(!encrypt || (CHECKSUM_AT..KEY_AT).contains(&(bit / 8)) || open(&sum(flipped)).is_err());
            }
            let other = Key::from_bytes([8; 16]);
            let mut moved = whole;
            moved[KEY_AT..BLOCK_AT].copy_from_slice(other.bytes());
            let moved = decode(&sum(moved).into(), &other, 0, &seal);
            prop_assert_eq!(moved.is_err(), encrypt);
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decoded(&bytes).is_err());
        }

        /// The checks behind the checksum stand on their own feet.
        #[test]
        fn any_head_with_a_right_checksum_is_answered(rest in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..2) {
            let _ = decoded(&frame(kind, &key(), &[&rest], false, &Seal::default()));
        }
    }

    #[test]
    fn each_damage_has_its_reason() {
        let whole = encode_vary(&[http::header::ACCEPT], &key(), &Seal::default());
        assert!(
            matches!(decoded(&whole), Ok(Frame::Vary(names)) if names == [http::header::ACCEPT])
        );
        assert_eq!(decoded(b"{\"json\":1}").unwrap_err(), Corrupt::Version);
        let mut newer = whole.clone();
        newer[1] = VERSION + 1;
        assert_eq!(decoded(&newer).unwrap_err(), Corrupt::Version);
        assert_eq!(decoded(&whole[..9]).unwrap_err(), Corrupt::Truncated);
        assert_eq!(
            decoded(&whole[..whole.len() - 1]).unwrap_err(),
            Corrupt::Checksum
        );
        let other = Key::from_bytes([8; 16]);
        let bytes = Bytes::from(whole.clone());
        assert_eq!(
            decode(&bytes, &other, 0, &Seal::default()).unwrap_err(),
            Corrupt::OtherKey
        );
        let longer = frame(KIND_VARY, &key(), &[&[0, 0, 0]], false, &Seal::default());
        assert_eq!(decoded(&longer).unwrap_err(), Corrupt::Malformed);
        let split = frame(
            KIND_VARY,
            &key(),
            &[b"\x01\0\x04\0a\r\nb"],
            false,
            &Seal::default(),
        );
        assert_eq!(decoded(&split).unwrap_err(), Corrupt::Malformed);
    }

    #[test]
    fn every_single_flipped_bit_is_seen() {
        let mut stored = testing::stored(b"body");
        stored.vary.fields = Box::new([(http::header::ACCEPT, Some((*b"x").into()))]);
        let entry = Entry::new(&stored, &testing::label("host/a"));
        let whole = encode(&entry, &key(), 0, &Seal::default());
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decoded(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn nothing_damaged_is_ever_served() {
        const DAMAGES: usize = 1_000_000;
        let mut chance = fastrand::Rng::with_seed(12);
        let keys = [secret::Key::new([7; 32])];
        let seals = [(None, 0), (Some(0), 0), (None, 1), (Some(0), 1)];
        let seals = seals.map(|(above, encrypt)| Seal::new(above, &keys[..encrypt], 1 << 20));
        let other = Key::from_bytes([8; 16]);
        let mut reasons = std::collections::BTreeSet::new();
        let mut damaged = 0;
        while damaged < DAMAGES {
            let seal = chance.choice(&seals).unwrap();
            let body = "{\"id\":1}".repeat(chance.usize(0..40));
            let entry = testing::entry("host/a", body.as_bytes());
            let whole = encode(&entry, &key(), 0, seal);
            let moved = encode(&entry, &other, 0, seal);
            for _ in 0..50 {
                let mut bytes = whole.clone();
                match chance.u8(0..6) {
                    0 | 1 => {
                        for _ in 0..chance.usize(1..4) {
                            bytes[chance.usize(..whole.len())] ^= 1 << chance.u8(..8);
                        }
                    }
                    2 => bytes.truncate(chance.usize(..whole.len())),
                    3 => bytes.extend((0..chance.usize(1..9)).map(|_| chance.u8(..))),
                    4 => {
                        // The end of another's, or all of it.
                        let from = chance.usize(..whole.len());
                        bytes.splice(from.., moved[from..].iter().copied());
                    }
                    _ => bytes = (0..chance.usize(..200)).map(|_| chance.u8(..)).collect(),
                }
                if bytes == whole {
                    continue;
                }
                let read = decode(&bytes.into(), &key(), 0, seal);
                reasons.insert(read.expect_err("damaged").word());
                damaged += 1;
            }
        }
        assert!(reasons.len() >= 4, "{reasons:?}");
    }

    #[test]
    fn more_fields_than_a_table_has_room_for_are_no_entry() {
        for count in [
            crate::cache::entry::FIELDS_MAX,
            crate::cache::entry::FIELDS_MAX + 1,
        ] {
            let mut stored = testing::stored(b"body");
            for number in 0..count {
                let name = HeaderName::from_bytes(format!("f{number}").as_bytes()).unwrap();
                let value = HeaderValue::from_static("");
                stored.headers.try_append(name, value).unwrap();
            }
            let entry = Entry::new(&stored, &testing::label("host/a"));
            let read = decoded(&encode(&entry, &key(), 0, &Seal::default()));
            match read {
                Ok(Frame::Entry(read)) => assert_eq!(read.stored(), stored),
                read => assert_eq!(
                    (read.unwrap_err(), count > 16_384),
                    (Corrupt::Malformed, true)
                ),
            }
        }
    }

    /// The lines of a head, in no order: fields of one name that lie apart come together in a table.
    fn sorted(lines: &[u8]) -> Vec<&[u8]> {
        let mut lines: Vec<_> = lines.split(|byte| *byte == b'\n').collect();
        lines.sort_unstable();
        lines
    }

    /// A frame whose fields are these bytes, with a right checksum.
    fn forged(fields: &[u8]) -> Result<Frame, Corrupt> {
        let entry = testing::entry("host/a", b"body");
        let [block, _] = entry.parts();
        let at = block.len() - b"body".len();
        let mut block = [&block[..at], fields, b"body"].concat();
        // Behind the lengths of the URL, the tags, and Vary.
        block[51..54].copy_from_slice(&(fields.len() as u32).to_le_bytes()[..3]);
        decoded(&frame(
            KIND_ENTRY,
            &key(),
            &[&[0; 8], &block],
            false,
            &Seal::default(),
        ))
    }

    #[test]
    fn no_field_of_a_forged_frame_splits_a_response() {
        for fine in ["", "a: b\r\n", "a: \r\n", "a: b: c\td\r\na: \u{fc}\r\n"] {
            let read = forged(fine.as_bytes());
            let Ok(Frame::Entry(read)) = read else {
                panic!("{fine:?}: {read:?}")
            };
            assert_eq!(
                (read.fields(), &*read.body()),
                (fine.as_bytes(), &b"body"[..])
            );
        }
        for split in [
            "a",
            "a: b",
            "a: b\r",
            "a: b\n",
            "a:b\r\n",
            "a b: c\r\n",
            "A: b\r\n",
            ": b\r\n",
            "\r\n",
            "a: b\r\n\r\n",
            "a: b\rc: d\r\n",
            "a: b\nc: d\r\n",
            "a: b\r\n c\r\n",
            "a: \0\r\n",
            "a: \x7f\r\n",
            "content-length: 5\r\n",
            "a: b\r\ntransfer-encoding: chunked\r\n",
            "connection: close\r\n",
        ] {
            assert_eq!(
                forged(split.as_bytes()).unwrap_err(),
                Corrupt::Malformed,
                "{split:?}"
            );
        }
    }

    #[test]
    fn no_status_of_a_forged_frame_makes_an_answer_of_the_content() {
        use crate::cache::entry::{FLAGS_AT, STATUS_AT};
        let entry = testing::entry("host/a", b"body");
        for status in [100u16, 101, 103, 199, 0, 99, 1_000] {
            let mut block = entry.parts().concat();
            block[STATUS_AT..STATUS_AT + 2].copy_from_slice(&status.to_le_bytes());
            // Nor is such an answer plain.
            for flags in [block[FLAGS_AT], block[FLAGS_AT] & 0xf] {
                block[FLAGS_AT] = flags;
                let read = decoded(&frame(
                    KIND_ENTRY,
                    &key(),
                    &[&[0; 8], &block],
                    false,
                    &Seal::default(),
                ));
                assert_eq!(read.unwrap_err(), Corrupt::Malformed, "{status}");
            }
        }
    }

    #[test]
    fn nothing_of_an_entry_is_copied() {
        for length in [4, crate::cache::entry::CONTENT_WITHIN_MAX + 1] {
            let body = vec![b'x'; length];
            let bytes = Bytes::from(encode(
                &testing::entry("host/a", &body),
                &key(),
                0,
                &Seal::default(),
            ));
            let Ok(Frame::Entry(read)) = decode(&bytes, &key(), 0, &Seal::default()) else {
                panic!("not read")
            };
            assert_eq!(read.body().as_ptr(), bytes[bytes.len() - length..].as_ptr());
            assert_eq!(
                read.parts()[0].as_ptr(),
                bytes[BLOCK_AT + RECEIVED_BYTES..].as_ptr()
            );
        }
    }
}
