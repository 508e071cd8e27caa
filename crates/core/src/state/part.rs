//! A piece of the state that snapshots share and whose hash is computed only when it changed.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

/// A part of the state: shared with snapshots until it is written to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part<T> {
    value: Arc<T>,
    digest: OnceLock<[u8; 32]>,
}

impl<T: Clone + Serialize + DeserializeOwned> Part<T> {
    /// The value, to be changed. Copies it if a snapshot shares it.
    pub(crate) fn edit(&mut self) -> &mut T {
        self.digest.take();
        Arc::make_mut(&mut self.value)
    }

    /// The canonical encoding: JSON with fields in the order of their declaration and keys in their own order.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&*self.value).expect("our own types have string keys and no failing serializer")
    }

    /// The value encoded in `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Self { value: Arc::new(serde_json::from_slice(bytes)?), digest: OnceLock::new() })
    }

    /// Hash of the canonical encoding.
    pub(crate) fn digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| blake3::hash(&self.encode()).into())
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// An immutable element of a list that is copied with the list only as a pointer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shared<T>(pub(crate) Arc<T>);

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::deserialize(from).map(Self::new)
    }
}
