//! The form in which entries lie in Redis: versioned, checked, bound to their key.
//!
//! Whatever is read is hostile until it has passed every check here: any bytes give an entry or the
//! reason why not, nothing panics, and nothing is allocated on the word of a length.
//!
//! ```text
//! 0  'L'      1  version    2  kind (0 entry, 1 Vary marker)    3  flags (none yet)
//! 4  checksum: XXH3 of what follows, seeded with the four bytes before
//! 12 key, 16 bytes
//! 28 head     status, times, fields, tags …, each part behind its length
//! …  body     the rest
//! ```
//!
//! The checksum finds damage, not forgery: whoever can write to Redis could make a digest right, too.
//!
//! Moments are written on Redis's clock, so that sidecars with differing clocks agree on ages.

use super::{Entry, Position};
use crate::semantics::answer::FIELDS_ADDED;
use crate::semantics::stored::{Lifetime, Validators};
use crate::semantics::{Key, Sharing, Stored, Timestamp, Vary};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// First byte of every frame.
pub const MAGIC: u8 = b'L';
/// The version written, and the only one read.
pub const VERSION: u8 = 2;

const KIND_ENTRY: u8 = 0;
const KIND_VARY: u8 = 1;
const CHECKSUM_AT: usize = 4;
const KEY_AT: usize = 12;
const HEAD_AT: usize = 28;
/// The least that a field takes: its two lengths, in bytes.
const FIELD_BYTES_MIN: usize = 6;

/// What a frame held.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once; a box would be one more allocation a hit"
)]
pub enum Frame {
    /// A response. Its `position.local` is 0: it knows nothing of this process.
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
}

impl Corrupt {
    /// The word for metrics and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Truncated => "truncated",
            Self::Checksum => "checksum",
            Self::OtherKey => "other-key",
            Self::Malformed => "malformed",
        }
    }
}

/// The frame of `entry` under `key`. `clock_offset` is how many milliseconds Redis's clock is ahead
/// of ours.
#[must_use]
pub fn encode(entry: &Entry, key: &Key, clock_offset: i64) -> Vec<u8> {
    frame(KIND_ENTRY, key, |out| write_entry(out, entry, clock_offset))
}

/// The frame of a Vary marker under `key`.
#[must_use]
pub fn encode_vary(names: &[HeaderName], key: &Key) -> Vec<u8> {
    frame(KIND_VARY, key, |out| {
        out.number16(names.len());
        names.iter().for_each(|name| out.short(name.as_ref()));
    })
}

/// What `bytes`, found under `key`, hold. The body is a slice of `bytes`.
pub fn decode(bytes: &Bytes, key: &Key, clock_offset: i64) -> Result<Frame, Corrupt> {
    match bytes.get(..3) {
        None => return Err(Corrupt::Truncated),
        Some([MAGIC, VERSION, KIND_ENTRY | KIND_VARY]) if bytes.get(3) == Some(&0) => {}
        Some([MAGIC, VERSION, _]) if bytes.len() == 3 => return Err(Corrupt::Truncated),
        Some(_) => return Err(Corrupt::Version),
    }
    if bytes.len() < HEAD_AT {
        return Err(Corrupt::Truncated);
    }
    if checksum(bytes).is_none_or(|sum| bytes[CHECKSUM_AT..KEY_AT] != sum) {
        return Err(Corrupt::Checksum);
    }
    if bytes[KEY_AT..HEAD_AT] != *key.bytes() {
        return Err(Corrupt::OtherKey);
    }
    let mut reader = Reader { bytes, at: HEAD_AT };
    let frame = match bytes[2] {
        KIND_VARY => {
            let count = reader.number16()?;
            let names = (0..count).map(|_| reader.name());
            Frame::Vary(names.collect::<Result<_, _>>()?)
        }
        _ => Frame::Entry(read_entry(&mut reader, clock_offset)?),
    };
    match reader.left() == 0 {
        true => Ok(frame),
        false => Err(Corrupt::Malformed),
    }
}

fn frame(kind: u8, key: &Key, write: impl Fn(&mut dyn Out)) -> Vec<u8> {
    let mut length = Count(0);
    write(&mut length);
    let mut bytes = Vec::with_capacity(HEAD_AT + length.0);
    bytes.extend_from_slice(&[MAGIC, VERSION, kind, 0]);
    bytes.extend_from_slice(&[0; KEY_AT - CHECKSUM_AT]);
    bytes.extend_from_slice(key.bytes());
    write(&mut bytes);
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

fn write_entry(out: &mut dyn Out, entry: &Entry, clock_offset: i64) {
    let stored = &entry.stored;
    let lifetime = &stored.lifetime;
    out.number64(entry.position.log.0);
    out.number64(entry.position.log.1);
    let received = lifetime.received.as_millis();
    out.number64(received.saturating_add_signed(clock_offset));
    for span in [
        lifetime.initial_age,
        lifetime.fresh,
        lifetime.stale_while_revalidate,
        lifetime.stale_if_error,
        entry.app_time,
    ] {
        out.number64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    }
    let flags = u8::from(lifetime.must_revalidate)
        | u8::from(lifetime.no_cache) << 1
        | u8::from(lifetime.immutable) << 2;
    out.put(&[flags, sharing_code(stored.sharing)]);
    out.number16(usize::from(stored.status.as_u16()));
    out.long(entry.url.as_bytes());
    out.number16(entry.tags.len());
    entry.tags.iter().for_each(|tag| out.short(tag.as_bytes()));
    for fields in [&stored.headers, &stored.trailers] {
        out.number16(fields.len());
        for (name, value) in fields {
            out.short(name.as_ref());
            out.long(value.as_bytes());
        }
    }
    out.number16(stored.vary.fields.len());
    for (name, value) in &stored.vary.fields {
        out.short(name.as_ref());
        out.put(&[u8::from(value.is_some())]);
        out.long(value.as_deref().unwrap_or_default());
    }
    out.number64(stored.body.len() as u64);
    out.put(&stored.body);
}

fn read_entry(reader: &mut Reader<'_>, clock_offset: i64) -> Result<Entry, Corrupt> {
    let log = (reader.number64()?, reader.number64()?);
    let received = reader.number64()?;
    let received = received.saturating_add_signed(clock_offset.saturating_neg());
    let received = Timestamp::from_millis(received);
    let mut span = || reader.number64().map(Duration::from_millis);
    let (initial_age, fresh) = (span()?, span()?);
    let (stale_while_revalidate, stale_if_error, app_time) = (span()?, span()?, span()?);
    let flags = reader.number8()?;
    let sharing = match reader.number8()? {
        0 => Sharing::Everyone,
        1 => Sharing::App,
        2 => Sharing::Route,
        3 => Sharing::Identity,
        _ => return Err(Corrupt::Malformed),
    };
    let status = StatusCode::from_u16(reader.number16()?).map_err(|_| Corrupt::Malformed)?;
    let url = reader.text32()?;
    let tags = (0..reader.number16()?)
        .map(|_| reader.text16())
        .collect::<Result<_, _>>()?;
    let headers = reader.fields(FIELDS_ADDED)?;
    let trailers = reader.fields(0)?;
    let fields = (0..reader.number16()?)
        .map(|_| {
            let name = reader.name()?;
            let present = reader.number8()? == 1;
            let value = reader.bytes32()?;
            Ok((name, present.then(|| value.into())))
        })
        .collect::<Result<_, Corrupt>>()?;
    let length = usize::try_from(reader.number64()?).map_err(|_| Corrupt::Truncated)?;
    let body = reader.slice(length)?;
    Ok(Entry {
        stored: Stored {
            status,
            validators: Validators::of(&headers, received),
            headers,
            body,
            trailers,
            lifetime: Lifetime {
                received,
                initial_age,
                fresh,
                stale_while_revalidate,
                stale_if_error,
                must_revalidate: flags & 1 != 0,
                no_cache: flags & 2 != 0,
                immutable: flags & 4 != 0,
            },
            vary: Vary { fields },
            sharing,
        },
        tags,
        url,
        position: Position { log, local: 0 },
        app_time,
        prepared: super::Prepared::new(),
    })
}

const fn sharing_code(sharing: Sharing) -> u8 {
    match sharing {
        Sharing::Everyone => 0,
        Sharing::App => 1,
        Sharing::Route => 2,
        Sharing::Identity => 3,
    }
}

/// Takes what is written; one pass counts, the next one keeps.
trait Out {
    fn put(&mut self, bytes: &[u8]);

    fn number16(&mut self, number: usize) {
        // Everything counted so is bounded far below: fields by the head's size, tags by 128. What
        // is not would be cut here, and then refused on reading by its checksummed length.
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        self.put(&number.to_le_bytes());
    }

    fn number64(&mut self, number: u64) {
        self.put(&number.to_le_bytes());
    }

    /// At most 64 KiB.
    fn short(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
        self.number16(bytes.len());
        self.put(bytes);
    }

    /// At most 4 GiB.
    fn long(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.put(&length.to_le_bytes());
        self.put(&bytes[..length as usize]);
    }
}

impl Out for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

struct Count(usize);

impl Out for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Reads parts one after the other; every length is checked against what is there.
struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Corrupt> {
        if length > self.left() {
            return Err(Corrupt::Truncated);
        }
        let from = self.at;
        self.at += length;
        Ok(&self.bytes[from..self.at])
    }

    /// The same as a share of the bytes, which it keeps in memory.
    fn slice(&mut self, length: usize) -> Result<Bytes, Corrupt> {
        let from = self.at;
        self.take(length)?;
        Ok(self.bytes.slice(from..self.at))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn number32(&mut self) -> Result<usize, Corrupt> {
        let number = self.array().map(u32::from_le_bytes)?;
        usize::try_from(number).map_err(|_| Corrupt::Truncated)
    }

    fn number8(&mut self) -> Result<u8, Corrupt> {
        self.array().map(u8::from_le_bytes)
    }

    fn number16(&mut self) -> Result<u16, Corrupt> {
        self.array().map(u16::from_le_bytes)
    }

    fn number64(&mut self) -> Result<u64, Corrupt> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes16(&mut self) -> Result<&'a [u8], Corrupt> {
        let length = self.number16()?;
        self.take(usize::from(length))
    }

    fn bytes32(&mut self) -> Result<&'a [u8], Corrupt> {
        let length = self.number32()?;
        self.take(length)
    }

    fn text16(&mut self) -> Result<Box<str>, Corrupt> {
        text(self.bytes16()?)
    }

    fn text32(&mut self) -> Result<Box<str>, Corrupt> {
        text(self.bytes32()?)
    }

    fn name(&mut self) -> Result<HeaderName, Corrupt> {
        HeaderName::from_bytes(self.bytes16()?).map_err(|_| Corrupt::Malformed)
    }

    /// Fields, with room for so many `more`.
    fn fields(&mut self, more: usize) -> Result<HeaderMap, Corrupt> {
        let count = usize::from(self.number16()?);
        let room = count.min(self.left() / FIELD_BYTES_MIN) + more;
        let mut fields = HeaderMap::try_with_capacity(room).map_err(|_| Corrupt::Malformed)?;
        for _ in 0..count {
            let name = self.name()?;
            let length = self.number32()?;
            // Checked again on reading: nothing that splits a response comes out of a store.
            let value = HeaderValue::from_maybe_shared(self.slice(length)?)
                .map_err(|_| Corrupt::Malformed)?;
            fields
                .try_append(name, value)
                .map_err(|_| Corrupt::Malformed)?;
        }
        Ok(fields)
    }
}

fn text(bytes: &[u8]) -> Result<Box<str>, Corrupt> {
    std::str::from_utf8(bytes)
        .map(Into::into)
        .map_err(|_| Corrupt::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> Key {
        Key::from_bytes([7; 16])
    }

    fn decoded(bytes: &[u8]) -> Result<Frame, Corrupt> {
        decode(&Bytes::copy_from_slice(bytes), &key(), 0)
    }

    prop_compose! {
        fn entries()(
            status in 100u16..600,
            fields in prop::collection::vec(("[a-z][a-z0-9-]{0,12}", "[ -~]{0,40}"), 0..8),
            trailers in prop::collection::vec(("[a-z]{1,8}", "[!-~]{0,10}"), 0..2),
            vary in prop::collection::vec(("[a-z]{1,8}", prop::option::of(prop::collection::vec(any::<u8>(), 0..9))), 0..4),
            body in prop::collection::vec(any::<u8>(), 0..300),
            tags in prop::collection::vec("[a-z:0-9]{0,20}", 0..5),
            url in "[a-z.]{1,10}/[a-z0-9/?=]{0,30}",
            spans in prop::array::uniform6(0u64..u64::MAX / 4),
            flags in prop::array::uniform3(any::<bool>()),
            sharing in prop::sample::select(vec![Sharing::Everyone, Sharing::App, Sharing::Route, Sharing::Identity]),
            log in any::<(u64, u64)>(),
        ) -> Entry {
            let map = |pairs: &[(String, String)]| {
                pairs.iter().map(|(name, value)| (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                )).fold(HeaderMap::new(), |mut map, (name, value)| { map.append(name, value); map })
            };
            let headers = map(&fields);
            Entry {
                stored: Stored {
                    status: StatusCode::from_u16(status).unwrap(),
                    validators: Validators::of(&headers, Timestamp::from_millis(spans[0])),
                    headers,
                    body: body.into(),
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
                },
                tags: tags.into_iter().map(Into::into).collect(),
                url: url.into(),
                position: Position { log, local: 0 },
                app_time: Duration::from_millis(spans[5]),
                prepared: crate::cache::Prepared::new(),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read_again(entry in entries(), offset in -1_000_000i64..1_000_000) {
            let bytes = encode(&entry, &key(), 0);
            prop_assert_eq!(bytes.len(), bytes.capacity());
            let Ok(Frame::Entry(read)) = decoded(&bytes) else { panic!("not read") };
            prop_assert_eq!(&read.stored, &entry.stored);
            prop_assert_eq!((read.tags, read.url, read.position, read.app_time),
                (entry.tags.clone(), entry.url.clone(), entry.position, entry.app_time));
            // Another sidecar, whose clock differs, sees the same moment.
            let mut later = entry;
            later.stored.lifetime.received = Timestamp::from_millis(10_000_000);
            let bytes = Bytes::from(encode(&later, &key(), offset));
            let Ok(Frame::Entry(read)) = decode(&bytes, &key(), offset + 5) else { panic!("not read") };
            prop_assert_eq!(read.stored.lifetime.received.as_millis(), 10_000_000 - 5);
        }

        #[test]
        fn no_flipped_bit_and_no_missing_byte_is_overlooked(entry in entries()) {
            let bytes = encode(&entry, &key(), 0);
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

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decoded(&bytes).is_err());
        }

        /// The checks behind the checksum stand on their own feet.
        #[test]
        fn any_head_with_a_right_checksum_is_answered(rest in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..2) {
            let bytes = frame(kind, &key(), |out| out.put(&rest));
            let _ = decoded(&bytes);
        }
    }

    #[test]
    fn each_damage_has_its_reason() {
        let whole = encode_vary(&[http::header::ACCEPT], &key());
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
        assert_eq!(decode(&bytes, &other, 0).unwrap_err(), Corrupt::OtherKey);
        let longer = frame(KIND_VARY, &key(), |out| out.put(&[0, 0, 0]));
        assert_eq!(decoded(&longer).unwrap_err(), Corrupt::Malformed);
        let split = frame(KIND_VARY, &key(), |out| {
            out.number16(1);
            out.short(b"a\r\nb");
        });
        assert_eq!(decoded(&split).unwrap_err(), Corrupt::Malformed);
    }

    #[test]
    fn every_single_flipped_bit_is_seen() {
        let mut entry = crate::cache::testing::entry("host/a", b"body");
        entry.stored.vary.fields = Box::new([(http::header::ACCEPT, Some((*b"x").into()))]);
        let whole = encode(&entry, &key(), 0);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decoded(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn more_fields_than_a_table_has_room_for_are_no_entry() {
        // The room for the fields that we add is asked for, not taken.
        for count in [24_000, 24_575, 24_576, 32_767, 32_768] {
            let mut fields = HeaderMap::new();
            for number in 0..count {
                let name = HeaderName::from_bytes(format!("f{number}").as_bytes()).unwrap();
                if fields
                    .try_append(name, HeaderValue::from_static(""))
                    .is_err()
                {
                    break;
                }
            }
            let mut entry = crate::cache::testing::entry("host/a", b"body");
            entry.stored.headers = fields;
            let _ = decoded(&encode(&entry, &key(), 0));
        }
    }

    #[test]
    fn the_body_is_not_copied() {
        let names = [http::header::ACCEPT];
        let mut entry = crate::cache::testing::entry("host/a", b"body");
        entry.stored.vary.fields = Box::new([(names[0].clone(), None)]);
        let bytes = Bytes::from(encode(&entry, &key(), 0));
        let Ok(Frame::Entry(read)) = decode(&bytes, &key(), 0) else {
            panic!("not read")
        };
        assert_eq!(read.stored.body.as_ptr(), bytes[bytes.len() - 4..].as_ptr());
    }
}
