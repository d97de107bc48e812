//! The cache key (RFC 9111 §2): which requests may share an answer.
//!
//! Every part is length-prefixed before it is hashed, so that no separator inside a value can make
//! two different requests one key.

use aws_lc_rs::digest::{Context, SHA256};

/// The identity of a cacheable request: 128 bits of SHA-256 over its parts.
///
/// It is safe to log and to put into Redis: nothing of the request can be read from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 16]);

impl Key {
    /// The digest.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The key with this digest, as read back from a store.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The key of one variant of this one: `variant` from [`super::vary::variant`].
    #[must_use]
    pub fn variant(&self, variant: &[u8]) -> Self {
        let mut builder = KeyBuilder::new("variant");
        builder.part(&self.0);
        builder.part(variant);
        builder.finish()
    }
}

impl Key {
    /// The first 96 bits as a tag of our own: `!` and 16 characters. Whoever met another's by chance
    /// would only be purged too often. It stands in front of whatever else is sorted among tags, so
    /// that no bound on them cuts it off.
    #[must_use]
    pub fn tag(&self) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut tag = String::with_capacity(17);
        tag.push('!');
        for three in self.0[..12].chunks_exact(3) {
            let bits = three
                .iter()
                .fold(0, |bits, byte| bits << 8 | usize::from(*byte));
            tag.extend([18, 12, 6, 0].map(|at| char::from(DIGITS[bits >> at & 63])));
        }
        tag
    }
}

impl std::fmt::Display for Key {
    /// 32 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Written by hand, since every question to Redis holds them: formatting bytes takes thirty
        // times as long.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| std::fmt::Error)?)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Bytes gathered before they are hashed: most keys as a whole.
const GATHERED_MAX: usize = 256;

/// Hashes the parts of a key in their order.
pub struct KeyBuilder {
    digest: Context,
    /// A key has many short parts, and the digest takes its time over each that it is given.
    gathered: [u8; GATHERED_MAX],
    length: usize,
}

impl KeyBuilder {
    /// Begins a key of this `kind`; keys of different kinds never meet.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        let mut builder = Self {
            digest: Context::new(&SHA256),
            gathered: [0; GATHERED_MAX],
            length: 0,
        };
        builder.part(kind.as_bytes());
        builder
    }

    /// Adds one part.
    pub fn part(&mut self, bytes: &[u8]) {
        // Nothing that comes in over a connection is anywhere near as long as this can count.
        self.add(&(bytes.len() as u32).to_le_bytes());
        self.add(bytes);
    }

    /// The key of all parts added.
    #[must_use]
    pub fn finish(mut self) -> Key {
        self.digest.update(&self.gathered[..self.length]);
        let digest = self.digest.finish();
        let mut short = [0; 16];
        short.copy_from_slice(&digest.as_ref()[..16]);
        Key(short)
    }

    fn add(&mut self, bytes: &[u8]) {
        if bytes.len() > GATHERED_MAX - self.length {
            self.digest.update(&self.gathered[..self.length]);
            self.length = 0;
        }
        match self.gathered[self.length..].get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            None => self.digest.update(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_96_bits_in_16_characters_rfc4648_5() {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&[0xfb, 0xff, 0xbf, b'M', b'a', b'n']);
        assert_eq!(Key::from_bytes(bytes).tag(), "!-_-_TWFuAAAAAAAA");
        bytes[12] = 1;
        assert_eq!(Key::from_bytes(bytes).tag(), "!-_-_TWFuAAAAAAAA");
    }

    #[test]
    fn where_one_part_ends_matters() {
        let key = |parts: &[&str]| {
            let mut builder = KeyBuilder::new("request");
            parts.iter().for_each(|part| builder.part(part.as_bytes()));
            builder.finish()
        };
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab"]), key(&["ab", ""]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }

    #[test]
    fn a_key_is_the_digest_of_its_parts_however_they_are_gathered() {
        for length in [0, 1, 200, 240, 241, 248, 256, 257, 1_000] {
            let part = vec![b'x'; length];
            let mut builder = KeyBuilder::new("request");
            let mut whole = b"\x07\0\0\0request".to_vec();
            for part in [&part[..], b"end", &part] {
                builder.part(part);
                whole.extend_from_slice(&(part.len() as u32).to_le_bytes());
                whole.extend_from_slice(part);
            }
            let digest = aws_lc_rs::digest::digest(&SHA256, &whole);
            assert_eq!(builder.finish().bytes(), &digest.as_ref()[..16], "{length}");
        }
    }
}
