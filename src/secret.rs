//! Values that must never be shown.

use std::fmt;

/// A password, token or key. `Debug` and `Display` show dots; only [`Secret::expose`] gives it away.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Hides `value`.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to hide.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares in a time that does not depend on where the two differ.
    #[must_use]
    pub fn matches(&self, candidate: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), candidate).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("••••")
    }
}

/// 256 bits for a cipher. `Debug` shows dots; only [`Key::expose`] gives it away.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

/// Bytes of a [`Key`].
pub const KEY_BYTES: usize = 32;
/// Chance gives fewer different bytes than this once in more keys than there will ever be.
const DIFFERENT_MIN: usize = 16;

impl Key {
    /// Hides these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads 32 bytes in base64 (RFC 4648, either alphabet, padded or not) or in hexadecimal digits.
    ///
    /// Errors: a phrase that says what is wrong with `text`, without showing it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let bytes = hex(text).or_else(|| base64(text));
        let bytes = bytes.ok_or("it is not 32 bytes in base64 or hexadecimal digits")?;
        let mut seen = [false; 256];
        bytes
            .iter()
            .for_each(|byte| seen[usize::from(*byte)] = true);
        match seen.iter().filter(|seen| **seen).count() < DIFFERENT_MIN {
            true => Err("it was not made by chance, and could be guessed"),
            false => Ok(Self(bytes)),
        }
    }

    /// The key itself, for the one call that needs it.
    #[must_use]
    pub const fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("••••")
    }
}

fn hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits = text.as_bytes();
    let mut bytes = [0; KEY_BYTES];
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? << 4 | low?).ok()?;
    }
    Some(bytes)
}

fn base64(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits = text.strip_suffix('=').unwrap_or(text);
    if digits.len() != (KEY_BYTES * 8).div_ceil(6) {
        return None;
    }
    let (mut bytes, mut at, mut bits, mut held) = ([0; KEY_BYTES], 0, 0u32, 0u32);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        (bits, held) = (bits << 6 | u32::from(value), held + 6);
        if held >= 8 {
            held -= 8;
            *bytes.get_mut(at)? = (bits >> held) as u8;
            (at, bits) = (at + 1, bits & ((1 << held) - 1));
        }
    }
    // What is left over of the last digit means nothing, and has to say so.
    (bits == 0).then_some(bytes)
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("••••")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_prints_shows_it() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?}{secret}").contains("hunter2"));
        assert!(secret.matches(b"hunter2"));
        assert!(!secret.matches(b"hunter3"));
    }

    #[test]
    fn a_key_is_32_bytes_of_chance_in_base64_or_hexadecimal_digits() {
        let bytes: Vec<u8> = (0..32u8).map(|n| n.wrapping_mul(37) ^ 0xfb).collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for text in [hex.as_str(), &hex.to_uppercase()] {
            assert_eq!(Key::parse(text).unwrap().expose()[..], bytes[..]);
        }
        let key = Key::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        assert_eq!(key.expose()[..], (0..32).collect::<Vec<u8>>()[..]);
        let url = Key::parse("-_v7AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxw").unwrap();
        assert_eq!(url.expose()[..4], [0xfb, 0xfb, 0xfb, 0]);
        for bad in [
            "",
            "secret",
            "correct horse battery staple",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8==",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh 8=",
            &hex[2..],
            &"g".repeat(64),
            &"0".repeat(64),
            &"A".repeat(43),
            &"01".repeat(32),
        ] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
        assert!(!format!("{key:?}").contains('1'));
    }
}
