//! What a key holds.

use std::sync::Arc;

use bytes::Bytes;

use super::{digest, hash::Hash, set::Set, text::Text};

/// Strings up to this size are boxed: a size that an allocator has a class for is not pushed into the next one by a
/// counter. Larger ones are shared, so that a snapshot and a reply need no copy.
pub(super) const BOXED_MAX: usize = 4096;

/// The value of one key.
#[derive(Clone)]
pub(super) enum Value {
    Small(Box<[u8]>),
    Large(Arc<Text>),
    Hash(Arc<Hash>),
    Set(Arc<Set>),
}

impl Value {
    pub(super) fn text(value: &[u8]) -> Self {
        if value.len() <= BOXED_MAX { Self::Small(value.into()) } else { Self::Large(Arc::new(Text::new(value))) }
    }

    /// Appends to a string.
    pub(super) fn append(&mut self, more: &[u8]) {
        match self {
            Self::Small(old) => *self = Self::text(&[old, more].concat()),
            Self::Large(text) => Arc::make_mut(text).append(more),
            Self::Hash(_) | Self::Set(_) => {}
        }
    }

    /// Writes `patch` into a string from `at` on; what is missing before it becomes zeros.
    pub(super) fn overwrite(&mut self, at: usize, patch: &[u8]) {
        match self {
            Self::Small(old) => {
                let mut new = old.to_vec();
                new.resize(new.len().max(at + patch.len()), 0);
                new[at..at + patch.len()].copy_from_slice(patch);
                *self = Self::text(&new);
            }
            Self::Large(text) => Arc::make_mut(text).overwrite(at, patch),
            Self::Hash(_) | Self::Set(_) => {}
        }
    }

    /// The string that it is, if it is one.
    pub(super) fn as_text(&self) -> Option<&[u8]> {
        match self {
            Self::Small(text) => Some(text),
            Self::Large(text) => Some(text),
            Self::Hash(_) | Self::Set(_) => None,
        }
    }

    /// The string that it is, to be answered.
    pub(super) fn to_bytes(&self) -> Option<Bytes> {
        match self {
            Self::Small(text) => Some(Bytes::copy_from_slice(text)),
            Self::Large(text) => Some(Text::share(text)),
            Self::Hash(_) | Self::Set(_) => None,
        }
    }

    /// What `TYPE` says.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Small(_) | Self::Large(_) => "string",
            Self::Hash(_) => "hash",
            Self::Set(_) => "set",
        }
    }

    /// Bytes of a string, fields of a hash, members of a set.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Small(text) => text.len() as u64,
            Self::Large(text) => text.len() as u64,
            Self::Hash(hash) => hash.len() as u64,
            Self::Set(set) => set.len() as u64,
        }
    }

    /// What it is counted as in memory.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Small(text) => text.len() as u64,
            Self::Large(text) => text.len() as u64,
            Self::Hash(hash) => hash.bytes(),
            Self::Set(set) => set.bytes(),
        }
    }

    /// Equal for equal values, whatever their history.
    pub(super) fn digest(&self) -> u64 {
        match self {
            Self::Small(text) => digest::text(text),
            Self::Large(text) => text.digest(),
            // Types differ in the digest too.
            Self::Hash(hash) => hash.digest().rotate_left(1),
            Self::Set(set) => set.digest().rotate_left(2),
        }
    }
}
