//! A look at an answer of the app as it passes: a bounded copy of its content, handed over once it has left whole.
//!
//! Never holds an answer up, and changes nothing of it.

use bytes::Bytes;
use http_body::Frame;
use std::fmt;

/// The most content that is looked at, in bytes.
const BYTES_MAX: usize = 256 * 1024;

/// What is done with a content that has left, on the runtime of its connection; `None`: it broke off, or is
/// too large to be looked at.
type Then = Box<dyn FnOnce(Option<Bytes>) + Send + Sync>;

/// Copies what passes.
pub(super) struct Tap {
    copied: Vec<u8>,
    is_too_large: bool,
    then: Option<Then>,
}

impl Tap {
    pub fn new(then: impl FnOnce(Option<Bytes>) + Send + Sync + 'static) -> Box<Self> {
        Box::new(Self {
            copied: Vec::new(),
            is_too_large: false,
            then: Some(Box::new(then)),
        })
    }

    /// At least so many bytes will pass. Nothing is copied of what will be too large.
    pub fn expects(&mut self, bytes: u64) {
        self.is_too_large |= bytes > BYTES_MAX as u64;
    }

    /// A piece passes.
    pub fn sees(&mut self, frame: &Frame<Bytes>) {
        let Some(data) = frame.data_ref() else { return };
        if self.is_too_large || self.copied.len() + data.len() > BYTES_MAX {
            self.is_too_large = true;
            self.copied = Vec::new();
        } else {
            self.copied.extend_from_slice(data);
        }
    }

    /// All of it has passed.
    pub fn ends(&mut self) {
        if let Some(then) = self.then.take() {
            let copied = std::mem::take(&mut self.copied);
            then((!self.is_too_large).then(|| copied.into()));
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Some(then) = self.then.take() {
            then(None);
        }
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").finish_non_exhaustive()
    }
}
