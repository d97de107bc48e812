//! Short field values of our own making, written on the stack: one allocation, exactly as long as
//! the value.

use http::HeaderValue;
use std::net::IpAddr;

/// At most `N` bytes of text on their way into a field.
#[derive(Clone, Copy, Debug)]
pub struct Line<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Line<N> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }

    /// Adds `text`; leaves it out where it does not fit.
    pub fn push(&mut self, text: &str) {
        let end = self.length + text.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(text.as_bytes());
            self.length = end;
        }
    }

    /// Adds `number` in decimal digits; leaves it out where they do not fit.
    pub fn push_number(&mut self, mut number: u64) {
        let digits = number.checked_ilog10().map_or(1, |log| log as usize + 1);
        let end = self.length + digits;
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            for digit in room.iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
            self.length = end;
        }
    }

    /// What was pushed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The value; an empty one where what was pushed cannot stand in a field.
    #[must_use]
    pub fn value(&self) -> HeaderValue {
        HeaderValue::from_bytes(self.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl<const N: usize> Default for Line<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A number as a field's value.
#[must_use]
pub fn number(number: u64) -> HeaderValue {
    digits(number).value()
}

/// A number in decimal digits.
#[must_use]
pub fn digits(number: u64) -> Line<20> {
    let mut line = Line::new();
    line.push_number(number);
    line
}

/// An address as it is written in fields and logs.
#[must_use]
pub fn address(address: IpAddr) -> Line<45> {
    let mut line = Line::new();
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    line.push(".");
                }
                line.push_number(octet.into());
            }
        }
        IpAddr::V6(address) => line.push(&address.to_string()),
    }
    line
}

/// Two lower-case hexadecimal digits a byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half & 15)]);
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.extend([digit(byte >> 4), digit(*byte)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_everybody_writes_them() {
        for given in [0, 7, 10, 600, 1_000_000, u64::MAX] {
            assert_eq!(number(given), given.to_string());
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut line = Line::<4>::new();
        line.push("abc");
        line.push("de");
        line.push("f");
        assert_eq!(line.value(), "abcf");
    }
}
