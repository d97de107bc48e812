//! What a block of bytes goes through on its way into Redis: compressed where that pays, encrypted
//! where there is a key; and the way back.
//!
//! It knows nothing of what is in a block, and nothing of this process but its keys. Whatever is
//! opened is hostile until its tag is found right, and no length that is written anywhere makes it
//! take more room than an entry may have.
//!
//! ```text
//! compressed:  length of the plain block, 4 bytes · LZ4 block
//! encrypted:   key id, 4 bytes · nonce, 12 · AES-256-GCM of the above · tag, 16   (RFC 5116)
//! ```

use super::Corrupt;
use super::lz4;
use crate::secret::Key as Secret;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use bytes::Bytes;

/// The flag of a block that is compressed.
pub const COMPRESSED: u8 = 1;
/// The flag of a block that is encrypted.
pub const ENCRYPTED: u8 = 1 << 1;
/// Every flag there is.
pub const FLAGS: u8 = COMPRESSED | ENCRYPTED;

/// Bytes of a key's name.
const KEY_ID_BYTES: usize = 4;
const TAG_BYTES: usize = 16;
const LENGTH_BYTES: usize = 4;
/// What LZ4 can make of a byte at most: a length goes on in bytes of 255 each.
const RATIO_MAX: usize = 255;
/// Compressing has to spare at least one part in so many, or it is not worth undoing with each hit.
const SPARES_ONE_IN: usize = 10;

/// How blocks are sealed, and which can be opened.
#[derive(Debug, Default)]
pub struct Seal {
    /// Content of more bytes is compressed where that pays; `None`: none is.
    compress_above: Option<u64>,
    /// The first encrypts, all decrypt; none: nothing is encrypted.
    keys: Vec<Key>,
    /// No block is larger when it is open, in bytes.
    bytes_max: usize,
}

impl Seal {
    /// Compresses blocks with content of more than `compress_above` bytes, encrypts with the first of
    /// `keys`, opens with each, and opens nothing to more than `bytes_max` bytes.
    #[must_use]
    pub fn new(compress_above: Option<u64>, keys: &[Secret], bytes_max: usize) -> Self {
        Self {
            compress_above,
            keys: keys.iter().filter_map(Key::new).collect(),
            bytes_max,
        }
    }

    /// Whether what it closes cannot be read without a key.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Bytes that it adds to a block which does not compress.
    #[must_use]
    pub fn overhead(&self) -> usize {
        match self.encrypts() {
            true => KEY_ID_BYTES + NONCE_LEN + TAG_BYTES,
            false => 0,
        }
    }

    /// Whether a block with so many bytes of content should be tried to be compressed.
    #[must_use]
    pub fn compresses(&self, content_bytes: usize) -> bool {
        self.compress_above
            .is_some_and(|above| content_bytes as u64 > above)
    }

    /// Puts the block made of `parts` behind what `out` holds, and returns the flags that say how.
    /// `try_compress`: where that pays. Who opens it has to know what it was `bound_to`.
    ///
    /// Where the system has no chance to give for a nonce, nothing is written: never in plain text.
    pub fn close(
        &self,
        out: &mut Vec<u8>,
        parts: &[&[u8]],
        try_compress: bool,
        bound_to: &[u8],
    ) -> u8 {
        let Some(key) = self.keys.first() else {
            return compress(out, parts, try_compress);
        };
        let begin = out.len();
        out.extend_from_slice(&key.id);
        let mut nonce = [0; NONCE_LEN];
        if rand::fill(&mut nonce).is_err() {
            out.truncate(begin);
            return ENCRYPTED;
        }
        out.extend_from_slice(&nonce);
        let text = out.len();
        let flags = ENCRYPTED | compress(out, parts, try_compress);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let associated = Aad::from(associated(bound_to, flags));
        let sealed = key
            .cipher
            .seal_in_place_separate_tag(nonce, associated, &mut out[text..]);
        match sealed {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            Err(_) => out.truncate(begin),
        }
        flags
    }

    /// The block as it was, of what [`Seal::close`] wrote with these `flags`. One that is neither
    /// compressed nor encrypted stays where it is.
    ///
    /// Errors: it is encrypted and cannot be decrypted, or is not although everything ought to be; or it
    /// is larger than it may be, or is not as long as it says.
    pub fn open(&self, sealed: Bytes, flags: u8, bound_to: &[u8]) -> Result<Bytes, Corrupt> {
        let block = match flags & ENCRYPTED != 0 {
            true => self.decrypt(&sealed, flags, bound_to)?.into(),
            // Whoever can write to Redis but has no key must not be believed.
            false if self.encrypts() => return Err(Corrupt::NotEncrypted),
            false => sealed,
        };
        match flags & COMPRESSED != 0 {
            true => self.decompress(&block).map(Into::into),
            false => Ok(block),
        }
    }

    fn decrypt(&self, sealed: &[u8], flags: u8, bound_to: &[u8]) -> Result<Vec<u8>, Corrupt> {
        let (id, rest) = sealed.split_first_chunk().ok_or(Corrupt::Truncated)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(Corrupt::Truncated)?;
        let (text, tag) = rest
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(Corrupt::Truncated)?;
        let key = self.keys.iter().find(|key| key.id == *id);
        let key = key.ok_or(Corrupt::UnknownKey)?;
        let mut block = vec![0; text.len()];
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let associated = Aad::from(associated(bound_to, flags));
        key.cipher
            .open_separate_gather(nonce, associated, text, tag, &mut block)
            .map_err(|_| Corrupt::BadTag)?;
        Ok(block)
    }

    fn decompress(&self, block: &[u8]) -> Result<Vec<u8>, Corrupt> {
        let (length, compressed) = block
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or(Corrupt::Truncated)?;
        let length = u32::from_le_bytes(*length) as usize;
        if length
            > self
                .bytes_max
                .min(compressed.len().saturating_mul(RATIO_MAX))
        {
            return Err(Corrupt::Malformed);
        }
        let mut plain = vec![0; length];
        let read = lz4::decompress(compressed, &mut plain);
        read.map(|()| plain).ok_or(Corrupt::Malformed)
    }
}

/// What a tag is about beside the text: what the block is bound to, and how it is written.
fn associated(bound_to: &[u8], flags: u8) -> Vec<u8> {
    [bound_to, &[flags]].concat()
}

/// Puts `parts` behind `out`, compressed where that is to be tried and pays; returns the flag.
fn compress(out: &mut Vec<u8>, parts: &[&[u8]], try_it: bool) -> u8 {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    if let (true, Ok(length)) = (try_it, u32::try_from(bytes)) {
        let begin = out.len();
        let whole = parts.concat();
        let room = lz4_flex::block::get_maximum_output_size(bytes);
        out.extend_from_slice(&length.to_le_bytes());
        out.resize(begin + LENGTH_BYTES + room, 0);
        let text = &mut out[begin + LENGTH_BYTES..];
        if let Ok(written) = lz4_flex::block::compress_into(&whole, text)
            && LENGTH_BYTES + written <= bytes - bytes / SPARES_ONE_IN
        {
            out.truncate(begin + LENGTH_BYTES + written);
            return COMPRESSED;
        }
        out.truncate(begin);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    0
}

/// One key, ready for use.
struct Key {
    /// What blocks call it: nothing of the key can be learned from it.
    id: [u8; KEY_ID_BYTES],
    cipher: LessSafeKey,
}

impl Key {
    fn new(secret: &Secret) -> Option<Self> {
        // A key for each purpose, so that none of them tells anything of another.
        let master = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
        let id = hmac::sign(&master, b"larder key id");
        let key = hmac::sign(&master, b"larder entries");
        Some(Self {
            id: *id.as_ref().first_chunk()?,
            cipher: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).ok()?),
        })
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("••••")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u8) -> Secret {
        Secret::new([n; 32])
    }

    fn seal(compress: bool, keys: &[u8]) -> Seal {
        let keys: Vec<_> = keys.iter().map(|n| key(*n)).collect();
        Seal::new(compress.then_some(0), &keys, 1 << 16)
    }

    fn closed(seal: &Seal, block: &[u8]) -> (Bytes, u8) {
        let mut out = b"head".to_vec();
        let flags = seal.close(&mut out, &[block], seal.compresses(block.len()), b"it");
        assert_eq!(&out[..4], b"head");
        (out.split_off(4).into(), flags)
    }

    fn text() -> Vec<u8> {
        (0..2_000)
            .flat_map(|n| format!("{{\"id\":{n}}}").into_bytes())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_closed_is_opened_again(block in prop::collection::vec(0u8..4, 0..2_000), compress: bool, keys in prop::collection::vec(1u8..4, 0..3)) {
            let seal = seal(compress, &keys);
            let (sealed, flags) = closed(&seal, &block);
            prop_assert_eq!(flags & ENCRYPTED != 0, seal.encrypts());
            prop_assert_eq!(seal.open(sealed.clone(), flags, b"it").unwrap(), block);
            if seal.encrypts() {
                prop_assert_eq!(seal.open(sealed.clone(), flags, b"another"), Err(Corrupt::BadTag));
                prop_assert_eq!(seal.open(sealed, flags ^ COMPRESSED, b"it"), Err(Corrupt::BadTag));
            }
        }

        #[test]
        fn any_bytes_are_answered(block in prop::collection::vec(any::<u8>(), 0..200), flags in 0..=FLAGS, keys in prop::collection::vec(1u8..4, 0..3)) {
            if let Ok(open) = seal(true, &keys).open(block.into(), flags, b"") {
                prop_assert!(open.len() <= 1 << 16 && flags & ENCRYPTED == 0);
            }
        }
    }

    #[test]
    fn text_is_compressed_and_what_gains_nothing_is_left_as_it_is() {
        let seal = seal(true, &[]);
        let (sealed, flags) = closed(&seal, &text());
        assert_eq!(flags, COMPRESSED);
        assert!(sealed.len() * 2 < text().len(), "{}", sealed.len());
        let mut chance = vec![0; 20_000];
        rand::fill(&mut chance).unwrap();
        let (sealed, flags) = closed(&seal, &chance);
        assert_eq!((&sealed[..], flags), (&chance[..], 0));
        assert!(!Seal::new(Some(1_024), &[], 0).compresses(1_024));
        assert!(Seal::new(Some(1_024), &[], 0).compresses(1_025));
        assert!(!Seal::default().compresses(usize::MAX));
    }

    #[test]
    fn a_bomb_is_refused_before_it_takes_any_room() {
        let seal = seal(true, &[]);
        let zeros = vec![0; 1 << 16];
        let (sealed, flags) = closed(&seal, &zeros);
        assert_eq!(seal.open(sealed, flags, b"it").unwrap(), zeros);
        let (larger, flags) = closed(&seal, &vec![0; (1 << 16) + 1]);
        assert_eq!(seal.open(larger, flags, b"it"), Err(Corrupt::Malformed));
        for length in [u32::MAX, 1 << 16, 0] {
            let bomb = [&length.to_le_bytes()[..], b"\x1f\0\x01\0\xff\xff"].concat();
            assert_eq!(
                seal.open(bomb.into(), COMPRESSED, b""),
                Err(Corrupt::Malformed)
            );
        }
    }

    #[test]
    fn while_keys_rotate_the_first_writes_and_both_read() {
        let (old, both, new) = (seal(false, &[1]), seal(false, &[2, 1]), seal(false, &[2]));
        let (by_old, flags) = closed(&old, b"block");
        let (by_both, _) = closed(&both, b"block");
        for (seal, sealed, outcome) in [
            (&both, &by_old, Ok(())),
            (&new, &by_both, Ok(())),
            (&old, &by_both, Err(Corrupt::UnknownKey)),
            (&new, &by_old, Err(Corrupt::UnknownKey)),
            (&Seal::default(), &by_old, Err(Corrupt::UnknownKey)),
        ] {
            assert_eq!(seal.open(sealed.clone(), flags, b"it").map(drop), outcome);
        }
        let plain = Bytes::from_static(b"block");
        assert_eq!(new.open(plain, 0, b"it"), Err(Corrupt::NotEncrypted));
    }

    #[test]
    fn the_same_block_never_looks_the_same_and_nothing_of_a_key_is_shown() {
        let seal = seal(true, &[7]);
        assert_ne!(closed(&seal, b"block").0, closed(&seal, b"block").0);
        assert!(!format!("{seal:?}").contains('7'), "{seal:?}");
    }
}
