//! Content as slices of a stored body, in order: nothing is copied, and one slice (which is nearly
//! all there ever is) costs no list.

use bytes::Bytes;
use std::collections::VecDeque;

/// Slices in their order, taken from the front.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slices {
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
}

impl Slices {
    /// Bytes of all that are left.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let all = self.first.iter().chain(&self.rest);
        all.map(|slice| slice.len() as u64).sum()
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }
}

impl Iterator for Slices {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.first.take().or_else(|| self.rest.pop_front())
    }
}

impl From<Bytes> for Slices {
    /// One slice; none where there is nothing in it.
    fn from(slice: Bytes) -> Self {
        Self {
            first: (!slice.is_empty()).then_some(slice),
            rest: VecDeque::new(),
        }
    }
}

impl From<Vec<Bytes>> for Slices {
    fn from(slices: Vec<Bytes>) -> Self {
        Self {
            first: None,
            rest: slices.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_in_order_whether_there_is_one_or_several() {
        let one = Slices::from(Bytes::from_static(b"abc"));
        assert_eq!((one.bytes(), one.is_empty()), (3, false));
        assert_eq!(one.collect::<Vec<_>>(), ["abc"]);
        let mut several = Slices::from(vec![Bytes::from_static(b"a"), Bytes::from_static(b"bc")]);
        assert_eq!(several.next().as_deref(), Some(&b"a"[..]));
        assert_eq!((several.bytes(), several.is_empty()), (2, false));
        assert_eq!(several.next().as_deref(), Some(&b"bc"[..]));
        assert!(several.is_empty() && several.next().is_none());
    }

    #[test]
    fn an_empty_body_has_no_slice() {
        assert!(Slices::from(Bytes::new()).is_empty());
    }
}
