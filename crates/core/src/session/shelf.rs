//! Things in the order of their hashes: the one container that keys, fields and members lie in.
//!
//! A [`Shelf`] is a sorted array. Its order depends on nothing but what is on it, so replicas, snapshots and `SCAN` agree
//! on it without further ado, and it has no memory but its things and a little slack. What would make one array too long
//! is spread over several, by the leading bits of the hash; each is shared with snapshots until it is written to.
//!
//! Not here: what the things are ([`super::database`], [`super::hash`], [`super::set`]).

use std::{cmp::Ordering, hash::Hasher, sync::Arc};

use siphasher::sip::SipHasher13;

/// Keys the hashes, so that nobody without the cluster's secret can make many of them equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seed(pub(super) [u8; 16]);

impl Seed {
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(key);
        hasher.finish()
    }
}

/// Position in hash order as clients see it in cursors: few enough bits for a double, which is all that some
/// languages have for numbers.
pub(super) const fn position(hash: u64) -> u64 {
    hash >> POSITION_SHIFT
}

/// The first hash of a position.
pub(super) const fn hash_at(position: u64) -> u64 {
    position << POSITION_SHIFT
}

const POSITION_SHIFT: u32 = 12;

/// Something that has a place on a shelf.
pub(super) trait Placed: Clone {
    fn hash(&self) -> u64;
    fn key(&self) -> &[u8];
}

/// Sorted by hash, and by key among equal hashes.
#[derive(Clone)]
pub(super) struct Shelf<T> {
    items: Vec<T>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

impl<T: Placed> Shelf<T> {
    /// Where a key is, or where it would be put.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Result<usize, usize> {
        self.items.binary_search_by(|item| match item.hash().cmp(&hash) {
            Ordering::Equal => item.key().cmp(key),
            other => other,
        })
    }

    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&T> {
        self.find(hash, key).ok().map(|at| &self.items[at])
    }

    pub(super) fn at_mut(&mut self, at: usize) -> &mut T {
        &mut self.items[at]
    }

    pub(super) fn insert(&mut self, at: usize, item: T) {
        if self.items.len() == self.items.capacity() {
            self.items.reserve_exact(self.items.len() / 8 + 2);
        }
        self.items.insert(at, item);
    }

    pub(super) fn remove(&mut self, at: usize) -> T {
        let item = self.items.remove(at);
        if self.items.len() < self.items.capacity() / 2 {
            self.items.shrink_to(self.items.len() + self.items.len() / 8);
        }
        item
    }

    pub(super) fn items(&self) -> &[T] {
        &self.items
    }

    /// What has this hash or a greater one.
    pub(super) fn at_or_after(&self, hash: u64) -> &[T] {
        &self.items[self.items.partition_point(|item| item.hash() < hash)..]
    }
}

/// Many things, on as many shelves as keep each one short.
#[derive(Clone)]
pub(super) struct Shelves<T> {
    /// A power of two of them; the leading bits of a hash say which.
    shelves: Vec<Arc<Shelf<T>>>,
    counts: Counts,
    len: usize,
}

/// Shelves are doubled when there is more than this on each. Arbitrary between the cost of copying one that a snapshot
/// shares and that of a pointer.
const PER_SHELF: usize = 128;

impl<T: Placed> Default for Shelves<T> {
    fn default() -> Self {
        Self { shelves: vec![Arc::default()], counts: Counts::of([0].into_iter()), len: 0 }
    }
}

impl<T: Placed> Shelves<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&T> {
        self.shelves[self.shelf_of(hash)].get(hash, key)
    }

    /// Puts something where its key is or belongs; what was there before.
    pub(super) fn put(&mut self, item: T) -> Option<T> {
        let at = self.shelf_of(item.hash());
        let shelf = Arc::make_mut(&mut self.shelves[at]);
        match shelf.find(item.hash(), item.key()) {
            Ok(place) => Some(std::mem::replace(shelf.at_mut(place), item)),
            Err(place) => {
                shelf.insert(place, item);
                self.counts.note(at, Change::In);
                self.len += 1;
                if self.len > self.shelves.len() * PER_SHELF {
                    self.double();
                }
                None
            }
        }
    }

    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<T> {
        let at = self.shelf_of(hash);
        let found = self.shelves[at].find(hash, key).ok()?;
        self.len -= 1;
        self.counts.note(at, Change::Out);
        Some(Arc::make_mut(&mut self.shelves[at]).remove(found))
    }

    /// All of it, in the order of the hashes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.shelves.iter().flat_map(|shelf| shelf.items())
    }

    /// What has this hash or a greater one, in the order of the hashes.
    pub(super) fn iter_from(&self, hash: u64) -> impl Iterator<Item = &T> {
        let first = self.shelf_of(hash);
        let rest = self.shelves[first + 1..].iter().flat_map(|shelf| shelf.items());
        self.shelves[first].at_or_after(hash).iter().chain(rest)
    }

    /// The thing at an index of the order, found in as many steps as the number of shelves has bits.
    pub(super) fn nth(&self, index: usize) -> Option<&T> {
        if index >= self.len {
            return None;
        }
        let (shelf, place) = self.counts.find(index);
        self.shelves[shelf].items().get(place)
    }

    fn shelf_of(&self, hash: u64) -> usize {
        let bits = self.shelves.len().trailing_zeros();
        hash.checked_shr(u64::BITS - bits).unwrap_or(0) as usize
    }

    fn double(&mut self) {
        let bits = self.shelves.len().trailing_zeros() + 1;
        let halves = std::mem::take(&mut self.shelves).into_iter().flat_map(|shelf| {
            // What no snapshot shares moves without a copy of what it holds.
            let mut low = Arc::unwrap_or_clone(shelf).items;
            let middle = low.partition_point(|item| item.hash() >> (u64::BITS - bits) & 1 == 0);
            let high = low.split_off(middle);
            low.shrink_to_fit();
            [low, high].map(|items| Arc::new(Shelf { items }))
        });
        self.shelves = halves.collect();
        self.counts = Counts::of(self.shelves.iter().map(|shelf| shelf.items().len()));
    }
}

/// How many things lie on each shelf, summed so that neither counting one nor finding the shelf of an index walks past
/// all of them (a Fenwick tree).
#[derive(Clone)]
struct Counts {
    /// At `i`: the things on the shelves of which the last is `i` and whose number is the lowest bit of `i + 1`.
    sums: Vec<usize>,
}

#[derive(Clone, Copy)]
enum Change {
    In,
    Out,
}

impl Counts {
    /// Of a power of two of shelves.
    fn of(lens: impl Iterator<Item = usize>) -> Self {
        let mut sums: Vec<usize> = lens.collect();
        for at in 0..sums.len() {
            let above = at | (at + 1);
            if above < sums.len() {
                sums[above] += sums[at];
            }
        }
        Self { sums }
    }

    fn note(&mut self, shelf: usize, change: Change) {
        let mut at = shelf;
        while let Some(sum) = self.sums.get_mut(at) {
            match change {
                Change::In => *sum += 1,
                Change::Out => *sum -= 1,
            }
            at |= at + 1;
        }
    }

    /// The shelf of an index below the sum of all, and the place on it.
    fn find(&self, index: usize) -> (usize, usize) {
        let (mut shelf, mut left) = (0, index);
        let mut step = self.sums.len();
        while step > 0 {
            if let Some(sum) = self.sums.get(shelf + step - 1).filter(|sum| **sum <= left) {
                left -= sum;
                shelf += step;
            }
            step /= 2;
        }
        (shelf, left)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Item(u64, Vec<u8>, u32);

    impl Placed for Item {
        fn hash(&self) -> u64 {
            self.0
        }

        fn key(&self) -> &[u8] {
            &self.1
        }
    }

    proptest! {
        #[test]
        fn shelves_are_a_sorted_map(steps in proptest::collection::vec((0..3_u8, 0..700_u16, any::<u32>()), 0..1500)) {
            let mut shelves = Shelves::default();
            let mut model = BTreeMap::new();
            for (kind, key, value) in steps {
                // Every seventh key shares its hash with others.
                let hash = u64::from(key / 7 * 7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let bytes = key.to_be_bytes().to_vec();
                if kind > 0 {
                    let old = shelves.put(Item(hash, bytes.clone(), value));
                    prop_assert_eq!(old.map(|item| item.2), model.insert((hash, bytes), value));
                } else {
                    let old = shelves.remove(hash, &bytes);
                    prop_assert_eq!(old.map(|item| item.2), model.remove(&(hash, bytes)));
                }
                prop_assert_eq!(shelves.len(), model.len());
            }
            let all: Vec<_> = shelves.iter().map(|item| ((item.0, item.1.clone()), item.2)).collect();
            prop_assert_eq!(&all, &model.clone().into_iter().collect::<Vec<_>>());
            for (at, ((hash, key), value)) in model.iter().enumerate() {
                prop_assert_eq!(shelves.get(*hash, key).map(|item| item.2), Some(*value));
                prop_assert_eq!(shelves.nth(at).map(|item| item.2), Some(*value));
                let later = model.range((*hash, Vec::new())..).count();
                prop_assert_eq!(shelves.iter_from(*hash).count(), later);
            }
            prop_assert!(shelves.nth(model.len()).is_none());
        }
    }
}
