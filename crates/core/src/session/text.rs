//! A string that is large enough for its copies to cost something.
//!
//! It is shared with snapshots and with answers on their way, and while it is not, it grows and is written to where it
//! is. The digest goes on from where it was, so that appending costs what is appended.

use std::{hash::Hasher, sync::Arc};

use bytes::Bytes;
use siphasher::sip::SipHasher13;

use super::digest;

/// The bytes with what their digest is made of.
#[derive(Clone)]
pub(super) struct Text {
    bytes: Vec<u8>,
    /// Has seen all of the bytes.
    hasher: SipHasher13,
}

impl Text {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), hasher: digest::text_hasher(bytes) }
    }

    /// Shares it with an answer.
    pub(super) fn share(text: &Arc<Self>) -> Bytes {
        struct Shared(Arc<Text>);
        impl AsRef<[u8]> for Shared {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Shared(Arc::clone(text)))
    }

    pub(super) fn append(&mut self, more: &[u8]) {
        self.reserve(more.len());
        self.bytes.extend_from_slice(more);
        self.hasher.write(more);
    }

    /// Writes `patch` over what is at `at`; what is missing before it becomes zeros.
    pub(super) fn overwrite(&mut self, at: usize, patch: &[u8]) {
        let (old, end) = (self.bytes.len(), at + patch.len());
        if end > old {
            self.reserve(end - old);
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(patch);
        if at >= old {
            self.hasher.write(&self.bytes[old..]);
        } else {
            self.hasher = digest::text_hasher(&self.bytes);
        }
    }

    /// Equal to [`digest::text`] of the bytes.
    pub(super) fn digest(&self) -> u64 {
        self.hasher.finish()
    }

    /// Makes room for more, with an eighth to spare: what is appended piece by piece is copied a few times in all.
    fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() < more {
            self.bytes.reserve_exact(more.max(self.bytes.len() / 8));
        }
    }
}

impl std::ops::Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_bytes_however_they_came_about() {
        let mut text = Text::new(b"the beginning");
        let mut model = b"the beginning".to_vec();
        for (at, patch) in [(13, "!"), (0, "T"), (20, "after a gap"), (31, ""), (25, "over the end of it"), (3, "")] {
            if at == model.len() {
                text.append(patch.as_bytes());
            } else {
                text.overwrite(at, patch.as_bytes());
            }
            model.resize(model.len().max(at + patch.len()), 0);
            model[at..at + patch.len()].copy_from_slice(patch.as_bytes());
            assert_eq!(*text, model[..]);
            assert_eq!(text.digest(), digest::text(&model), "{at} {patch}");
        }
        let capacity = text.bytes.capacity();
        for _ in 0..100_000 {
            text.append(b"x");
        }
        assert!(text.bytes.capacity() - text.len() <= text.len() / 8 + 1, "{} after {capacity}", text.bytes.capacity());
    }
}
