//! A hash: fields and their values.
//!
//! A small one is a list in the order in which its fields came, as it is in Redis, whose replies show that order. A
//! large one is in the order of its fields' hashes.

use super::{
    digest,
    shelf::{Placed, Seed, Shelves, hash_at, position},
};

/// A list becomes too long to search, or a value too long to lie in one, at Redis' own bounds
/// (`hash-max-listpack-entries`, `hash-max-listpack-value`), because `OBJECT ENCODING` and the order of replies show it.
const PACKED_FIELDS_MAX: usize = 128;
const PACKED_BYTES_MAX: usize = 64;

/// What a field is counted as beside its bytes: two allocations, rounded up, and its place. `tests/session_memory.rs`
/// measures it.
const FIELD_OVERHEAD: u64 = 72;

/// The fields of one key.
#[derive(Clone, Default)]
pub(super) struct Hash {
    fields: Fields,
    /// Sum over the fields of their digests.
    digest: u64,
    bytes: u64,
}

/// A field's name and its value.
type Pair = (Box<[u8]>, Box<[u8]>);

/// The same, lent.
pub(super) type PairRef<'h> = (&'h [u8], &'h [u8]);

#[derive(Clone)]
enum Fields {
    Packed(Vec<Pair>),
    Spread(Box<Shelves<Field>>),
}

impl Default for Fields {
    fn default() -> Self {
        Self::Packed(Vec::new())
    }
}

#[derive(Clone)]
struct Field {
    hash: u64,
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Placed for Field {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        &self.name
    }
}

impl Hash {
    pub(super) fn len(&self) -> usize {
        match &self.fields {
            Fields::Packed(list) => list.len(),
            Fields::Spread(shelves) => shelves.len(),
        }
    }

    pub(super) fn is_packed(&self) -> bool {
        matches!(self.fields, Fields::Packed(_))
    }

    /// What it is counted as in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn get(&self, seed: Seed, name: &[u8]) -> Option<&[u8]> {
        match &self.fields {
            Fields::Packed(list) => list.iter().find(|(field, _)| **field == *name).map(|(_, value)| &**value),
            Fields::Spread(shelves) => shelves.get(seed.hash(name), name).map(|field| &*field.value),
        }
    }

    /// Sets a field; whether it is new.
    pub(super) fn put(&mut self, seed: Seed, name: &[u8], value: &[u8]) -> bool {
        if name.len().max(value.len()) > PACKED_BYTES_MAX {
            self.spread(seed);
        }
        self.digest = self.digest.wrapping_add(digest::pair(name, value));
        self.bytes += size(name, value);
        let old = match &mut self.fields {
            Fields::Packed(list) => match list.iter_mut().find(|(field, _)| **field == *name) {
                Some((_, place)) => Some(std::mem::replace(place, value.into())),
                None => {
                    list.push((name.into(), value.into()));
                    None
                }
            },
            Fields::Spread(shelves) => {
                let field = Field { hash: seed.hash(name), name: name.into(), value: value.into() };
                shelves.put(field).map(|old| old.value)
            }
        };
        if let Some(old) = &old {
            self.forget(name, old);
        }
        if self.len() > PACKED_FIELDS_MAX {
            self.spread(seed);
        }
        old.is_none()
    }

    /// Takes a field out; whether it was there.
    pub(super) fn remove(&mut self, seed: Seed, name: &[u8]) -> bool {
        let old = match &mut self.fields {
            Fields::Packed(list) => {
                let at = list.iter().position(|(field, _)| **field == *name);
                at.map(|at| list.remove(at).1)
            }
            Fields::Spread(shelves) => shelves.remove(seed.hash(name), name).map(|field| field.value),
        };
        if let Some(old) = &old {
            self.forget(name, old);
        }
        old.is_some()
    }

    /// All fields with their values.
    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = PairRef<'_>> + '_> {
        match &self.fields {
            Fields::Packed(list) => Box::new(list.iter().map(|(name, value)| (&**name, &**value))),
            Fields::Spread(shelves) => Box::new(shelves.iter().map(|field| (&*field.name, &*field.value))),
        }
    }

    /// The field at an index of its order.
    pub(super) fn nth(&self, index: usize) -> Option<PairRef<'_>> {
        match &self.fields {
            Fields::Packed(list) => list.get(index).map(|(name, value)| (&**name, &**value)),
            Fields::Spread(shelves) => shelves.nth(index).map(|field| (&*field.name, &*field.value)),
        }
    }

    /// Fields from a cursor on, each with its position. Those of a small hash are at one position, and come whole.
    pub(super) fn iter_from_cursor(&self, cursor: u64) -> Box<dyn Iterator<Item = (u64, PairRef<'_>)> + '_> {
        match &self.fields {
            Fields::Packed(_) => Box::new(self.iter().map(|pair| (0, pair))),
            Fields::Spread(shelves) => Box::new(
                iter_from_cursor(shelves, cursor).map(|field| (position(field.hash), (&*field.name, &*field.value))),
            ),
        }
    }

    fn spread(&mut self, seed: Seed) {
        let Fields::Packed(list) = &mut self.fields else { return };
        let mut shelves = Shelves::default();
        for (name, value) in std::mem::take(list) {
            shelves.put(Field { hash: seed.hash(&name), name, value });
        }
        self.fields = Fields::Spread(Box::new(shelves));
    }

    /// Makes a hash of the same fields that is known to be a large one, as a snapshot tells.
    pub(super) fn into_spread(mut self, seed: Seed) -> Self {
        self.spread(seed);
        self
    }

    fn forget(&mut self, name: &[u8], value: &[u8]) {
        self.digest = self.digest.wrapping_sub(digest::pair(name, value));
        self.bytes -= size(name, value);
    }
}

fn size(name: &[u8], value: &[u8]) -> u64 {
    (name.len() + value.len()) as u64 + FIELD_OVERHEAD
}

/// Things from a cursor on.
pub(super) fn iter_from_cursor<T: Placed>(shelves: &Shelves<T>, cursor: u64) -> impl Iterator<Item = &T> {
    let within = (cursor <= position(u64::MAX)).then(|| shelves.iter_from(hash_at(cursor)));
    within.into_iter().flatten()
}
