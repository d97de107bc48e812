//! Values that must never be shown.

use aws_lc_rs::hmac;
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

/// The token of an Authorization field. The scheme's name is case-insensitive (RFC 9110 §11.1).
#[must_use]
pub fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = field.split_at_checked("bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
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

/// A key that messages are signed with (HMAC-SHA256). `Debug` shows dots; nothing gives it away.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Box<[u8]>);

/// A signing key is no shorter, in bytes (Standard Webhooks).
pub const SIGNING_BYTES_MIN: usize = 24;

impl SigningKey {
    /// Reads `whsec_` and base64, as Standard Webhooks writes keys; anything else is the key itself.
    ///
    /// Errors: a phrase that says what is wrong with `text`, without showing it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let bytes = match text.strip_prefix("whsec_") {
            Some(encoded) => from_base64(encoded).ok_or("what follows whsec_ is not base64")?,
            None => text.as_bytes().to_vec(),
        };
        match bytes.len() < SIGNING_BYTES_MIN {
            true => Err("it is shorter than 24 bytes, and could be guessed"),
            false => Ok(Self(bytes.into())),
        }
    }

    /// The signature of `pieces`, one after the other, in base64.
    #[must_use]
    pub fn sign(&self, pieces: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.key());
        pieces.iter().for_each(|piece| context.update(piece));
        to_base64(context.sign().as_ref())
    }

    /// Whether `signature`, in base64, is that of `pieces`. Takes as long wherever the two differ.
    #[must_use]
    pub fn verifies(&self, pieces: &[&[u8]], signature: &str) -> bool {
        let given = from_base64(signature);
        given.is_some_and(|given| hmac::verify(&self.key(), &pieces.concat(), &given).is_ok())
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("••••")
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648 §4).
fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for piece in bytes.chunks(3) {
        let byte = |at: usize| u32::from(piece.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = BASE64[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at > piece.len() { '=' } else { digit.into() });
        }
    }
    text
}

/// Base64 in either alphabet, padded or not; `None` where it is none.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0u32);
    for digit in digits.bytes() {
        (bits, held) = (bits << 6 | u32::from(sextet(digit)?), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // What is left over of the last digit means nothing, and has to say so.
    (bits == 0 && held < 6).then_some(bytes)
}

const fn sextet(digit: u8) -> Option<u8> {
    Some(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
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
    let whole = digits.len() == (KEY_BYTES * 8).div_ceil(6) && !digits.ends_with('=');
    from_base64(digits).filter(|_| whole)?.try_into().ok()
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

    #[test]
    fn a_signature_is_verified_by_its_key_alone() {
        // The example of the Standard Webhooks specification's own libraries.
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let content: [&[u8]; 1] =
            [b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}"];
        let signature = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(key.sign(&content), signature);
        assert!(key.verifies(&content, signature));
        assert!(!key.verifies(&[b"msg"], signature));
        assert!(!key.verifies(&content, "g0hM"));
        let other = SigningKey::parse("another-key-of-24-bytes!").unwrap();
        assert!(!other.verifies(&content, signature));
        assert!(SigningKey::parse("short").is_err() && SigningKey::parse("whsec_*").is_err());
        assert_eq!(format!("{key:?}"), "••••");
    }

    #[test]
    fn base64_goes_there_and_back() {
        for length in 0..40u8 {
            let bytes: Vec<u8> = (0..length).map(|n| n.wrapping_mul(91)).collect();
            assert_eq!(from_base64(&to_base64(&bytes)), Some(bytes));
        }
        assert_eq!(to_base64(b"fo"), "Zm8=");
        assert_eq!(from_base64("Zm9=="), None);
    }
}
