//! What a connection takes of the memory that this node has for all of them: bodies, on their way in and out.
//!
//! Not here: how much that may be, and who has to go ([`crate::budget`]).

use std::sync::Arc;

use bytes::Bytes;

use crate::clients::Card;

/// Answers that take less leave at once, and are not worth counting.
const SMALL: usize = 16 << 10;

/// Bytes that a connection takes, until this is dropped.
pub(super) struct Weight {
    card: Arc<Card>,
    bytes: usize,
}

impl Weight {
    pub(super) fn new(card: &Arc<Card>) -> Self {
        Self { card: card.clone(), bytes: 0 }
    }

    /// It takes so many now. Whether these are more than before.
    pub(super) fn becomes(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes != before {
            self.card.changes(before, bytes);
        }
        bytes > before
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.becomes(0);
    }
}

/// An answer that counts until its last byte is sent.
struct Weighed {
    bytes: Bytes,
    _weight: Weight,
}

impl AsRef<[u8]> for Weighed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The same bytes, counted as what `card` takes for as long as they are there. Whether they are counted.
pub(super) fn weighed(bytes: Bytes, card: &Arc<Card>) -> (Bytes, bool) {
    if bytes.len() < SMALL {
        return (bytes, false);
    }
    let mut weight = Weight::new(card);
    weight.becomes(bytes.len());
    (Bytes::from_owner(Weighed { bytes, _weight: weight }), true)
}
