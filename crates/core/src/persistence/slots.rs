//! The memory of one shard: bindings in the order of their keys, in one array.
//!
//! Linear probing that keeps keys ordered. The home of a key grows with the key, so the array is
//! sorted, a search for an absent key ends at the first greater one, and a scan yields keys in an
//! order that does not depend on history. No control bytes, no tombstones, no power of two: the
//! array grows by an eighth to a quarter, which keeps the cost of a binding between 36 and 45 bytes.
//!
//! One writer, any number of readers. The writer makes `seq` odd while entries move; a reader that
//! saw it odd or changed looks again (a seqlock; all words are atomics, so there is no data race).

use std::{
    hint,
    sync::atomic::{AtomicU64, Ordering, fence},
    thread,
};

use super::record::{BACKEND_MAX, Record};

const WORDS: usize = 4;

/// Keys of one shard agree in this many leading bits.
pub(super) const SHARD_BITS: u32 = 10;

/// A shard's array.
#[derive(Debug)]
pub(super) struct Slots {
    seq: AtomicU64,
    /// Homes are below this; what lies beyond takes the overflow of the last homes.
    range: usize,
    words: Box<[AtomicU64]>,
}

/// The array has no room for the key: build a larger one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Slots {
    /// An array of `size` slots.
    fn of_size(size: usize) -> Self {
        let overflow = if size == 0 { 0 } else { 1 + size / 64 };
        Self {
            seq: AtomicU64::new(0),
            range: size - overflow,
            words: (0..size * WORDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// An array that holds nothing and has no memory.
    pub(super) fn none() -> Self {
        Self::of_size(0)
    }

    /// An array that holds `entries`, which come in ascending order of their keys, with room for `spare` more.
    pub(super) fn build(entries: &[(u128, Record)], spare: usize) -> Self {
        let mut size = size_for(0, entries.len() + spare);
        loop {
            let slots = Self::of_size(size);
            if slots.fill(entries) {
                return slots;
            }
            size = next_size(size);
        }
    }

    /// An array with the same contents. Only the writer may call this.
    pub(super) fn duplicate(&self) -> Self {
        let words = self.words.iter().map(|word| AtomicU64::new(word.load(Ordering::Relaxed)));
        Self { seq: AtomicU64::new(0), range: self.range, words: words.collect() }
    }

    fn fill(&self, entries: &[(u128, Record)]) -> bool {
        let mut next = 0;
        for (key, record) in entries {
            let at = self.home(*key).max(next);
            if at >= self.size() {
                return false;
            }
            self.set(at, *key, record.to_words());
            next = at + 1;
        }
        true
    }

    /// Number of slots.
    pub(super) fn size(&self) -> usize {
        self.words.len() / WORDS
    }

    /// Whether `len` entries are as many as this array should hold.
    pub(super) fn is_crowded(&self, len: usize) -> bool {
        len * 10 > self.range * 9
    }

    /// The binding of a key, for any thread.
    pub(super) fn get(&self, key: u128) -> Option<Record> {
        let mut attempts = 0_u32;
        loop {
            let before = self.seq.load(Ordering::Acquire);
            if before & 1 == 0 {
                let found = self.find(key).map(|at| self.value(at));
                fence(Ordering::Acquire);
                if self.seq.load(Ordering::Relaxed) == before {
                    return found.and_then(Record::from_words);
                }
            }
            attempts += 1;
            // The writer may have lost its core between two stores; let it have this one.
            if attempts.is_multiple_of(64) { thread::yield_now() } else { hint::spin_loop() }
        }
    }

    /// Puts a binding, in place of the one that the key has. Only the writer may call this.
    pub(super) fn put(&self, key: u128, record: Record) -> Result<(), Full> {
        let mut at = self.home(key);
        while at < self.size() && self.is_used(at) && self.key(at) < key {
            at += 1;
        }
        if at >= self.size() {
            return Err(Full);
        }
        if self.is_used(at) && self.key(at) == key {
            self.writing(|| self.set_value(at, record.to_words()));
            return Ok(());
        }
        let mut free = at;
        while self.is_used(free) {
            free += 1;
            if free == self.size() {
                return Err(Full);
            }
        }
        self.writing(|| {
            for to in (at + 1..=free).rev() {
                self.copy(to - 1, to);
            }
            self.set(at, key, record.to_words());
        });
        Ok(())
    }

    /// Takes a binding away. Only the writer may call this.
    pub(super) fn remove(&self, key: u128) {
        let Some(mut at) = self.find(key) else { return };
        self.writing(|| {
            while at + 1 < self.size() && self.is_used(at + 1) && self.home(self.key(at + 1)) <= at {
                self.copy(at + 1, at);
                at += 1;
            }
            self.set(at, 0, [0, 0]);
        });
    }

    /// All bindings from `from` on, in ascending order of their keys. Only for the writer and for shared snapshots.
    pub(super) fn iter_from(&self, from: u128) -> impl Iterator<Item = (u128, Record)> + '_ {
        let start = if self.range == 0 { 0 } else { self.home(from) };
        (start..self.size())
            .filter_map(|at| Some((self.key(at), Record::from_words(self.value(at))?)))
            .skip_while(move |(key, _)| *key < from)
    }

    fn writing(&self, change: impl FnOnce()) {
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        change();
        self.seq.store(seq.wrapping_add(2), Ordering::Release);
    }

    fn home(&self, key: u128) -> usize {
        let position = u64::from((key << SHARD_BITS >> 96) as u32);
        ((position * self.range as u64) >> 32) as usize
    }

    fn find(&self, key: u128) -> Option<usize> {
        let mut at = self.home(key);
        while at < self.size() && self.is_used(at) {
            let here = self.key(at);
            if here >= key {
                return (here == key).then_some(at);
            }
            at += 1;
        }
        None
    }

    fn word(&self, at: usize, word: usize) -> u64 {
        self.words[at * WORDS + word].load(Ordering::Relaxed)
    }

    fn is_used(&self, at: usize) -> bool {
        self.word(at, 2) as u32 & BACKEND_MAX != 0
    }

    fn key(&self, at: usize) -> u128 {
        u128::from(self.word(at, 0)) << 64 | u128::from(self.word(at, 1))
    }

    fn value(&self, at: usize) -> [u64; 2] {
        [self.word(at, 2), self.word(at, 3)]
    }

    fn set_value(&self, at: usize, value: [u64; 2]) {
        self.words[at * WORDS + 2].store(value[0], Ordering::Relaxed);
        self.words[at * WORDS + 3].store(value[1], Ordering::Relaxed);
    }

    fn set(&self, at: usize, key: u128, value: [u64; 2]) {
        self.words[at * WORDS].store((key >> 64) as u64, Ordering::Relaxed);
        self.words[at * WORDS + 1].store(key as u64, Ordering::Relaxed);
        self.set_value(at, value);
    }

    fn copy(&self, from: usize, to: usize) {
        self.set(to, self.key(from), self.value(from));
    }
}

/// The smallest size, at least `at_least`, that holds `len` entries without being crowded.
fn size_for(at_least: usize, len: usize) -> usize {
    let mut size = at_least;
    while len * 10 > (size - if size == 0 { 0 } else { 1 + size / 64 }) * 9 {
        size = next_size(size);
    }
    size
}

/// Sizes are 4, 5, 6 and 7 times a power of two. Times 32 bytes these are the size classes of jemalloc.
fn next_size(size: usize) -> usize {
    if size < 4 { 4 } else { size + (1 << (size.ilog2() - 2)) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{ids::BackendId, persistence::Provenance};

    fn record(n: u32) -> Record {
        Record {
            backend: BackendId::new(n % 7 + 1),
            pinned: n.is_multiple_of(2),
            provenance: Provenance::Created,
            created_s: n,
            last_used_s: n,
            index_low: n,
        }
    }

    #[test]
    fn sizes_grow_by_at_most_a_quarter() {
        let mut size = 4;
        while size < 1 << 20 {
            let next = next_size(size);
            assert!(next > size && (next - size) * 4 <= size, "{size} to {next}");
            size = next;
        }
    }

    /// Keys spread over the shard, or crowded at its two ends, where the overflow is.
    fn key() -> impl Strategy<Value = u128> {
        prop_oneof![any::<u128>(), 0..40_u128, (u128::MAX >> SHARD_BITS) - 40..=u128::MAX >> SHARD_BITS]
            .prop_map(|key| key >> SHARD_BITS)
    }

    proptest! {
        #[test]
        fn behaves_like_an_ordered_map(ops in proptest::collection::vec((key(), any::<Option<u32>>()), 0..400)) {
            let mut slots = Slots::none();
            let mut model = BTreeMap::new();
            for (key, op) in ops {
                match op {
                    Some(n) => {
                        model.insert(key, record(n));
                        if slots.is_crowded(model.len()) || slots.put(key, record(n)).is_err() {
                            let entries: Vec<_> = model.iter().map(|(k, r)| (*k, *r)).collect();
                            slots = Slots::build(&entries, 1);
                        }
                    }
                    None => {
                        model.remove(&key);
                        slots.remove(key);
                    }
                }
                prop_assert_eq!(slots.get(key), model.get(&key).copied());
                prop_assert!(slots.iter_from(0).eq(model.iter().map(|(k, r)| (*k, *r))));
                prop_assert!(slots.iter_from(key).eq(model.range(key..).map(|(k, r)| (*k, *r))));
            }
        }
    }
}
