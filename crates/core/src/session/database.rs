//! One numbered database: its keys, in shards that snapshots share, and the orders derived from them.
//!
//! Not here: what time it is, what commands mean, what is counted across databases ([`super::keyspace`]).

use std::{collections::BTreeSet, sync::Arc};

use super::{
    digest,
    shelf::{Placed, Shelf, hash_at, position},
    value::Value,
};

/// Keys of a shard agree in so many leading bits of their hash. A million keys make shards of 250: copying one that a
/// snapshot shares takes a tenth of a millisecond.
const SHARD_BITS: u32 = 12;
const SHARDS: usize = 1 << SHARD_BITS;

/// What a key is counted as beside its own and its value's bytes: its place, its allocations' slack, and its place in
/// the order of ends. `tests/session_memory.rs` measures it.
pub(super) const ENTRY_OVERHEAD: u64 = 128;

/// A key with all that belongs to it.
#[derive(Clone)]
pub(super) struct Entry {
    hash: u64,
    key: Box<[u8]>,
    pub(super) value: Value,
    /// End of its life in milliseconds of log time; zero if it has none.
    pub(super) expires: u64,
    /// Which change of the keyspace made it what it is.
    pub(super) version: u64,
    /// Which change of the keyspace, or `TOUCH`, was the last to name it.
    pub(super) touched: u64,
    /// Digest of the value.
    payload: u64,
}

impl Entry {
    pub(super) fn new(hash: u64, key: &[u8], value: Value) -> Self {
        let payload = value.digest();
        Self { hash, key: key.into(), value, expires: 0, version: 0, touched: 0, payload }
    }

    /// With this end, zero for none, and as the work of these changes.
    pub(super) fn with(self, expires: u64, version: u64, touched: u64) -> Self {
        Self { expires, version, touched, ..self }
    }

    /// What it is counted as in memory.
    pub(super) fn bytes(&self) -> u64 {
        ENTRY_OVERHEAD + self.key.len() as u64 + self.value.bytes()
    }

    /// Changes its value.
    pub(super) fn change_value<R>(&mut self, change: impl FnOnce(&mut Value) -> R) -> R {
        let result = change(&mut self.value);
        self.payload = self.value.digest();
        result
    }

    /// Whether its life is over at `now`.
    pub(super) fn has_ended(&self, now: u64) -> bool {
        self.expires != 0 && self.expires <= now
    }

    fn digest(&self, database: u16) -> u128 {
        digest::entry(database, &self.key, [self.hash, self.payload, self.expires, self.version, self.touched])
    }
}

impl Placed for Entry {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        &self.key
    }
}

pub(super) type Shard = Option<Arc<Shelf<Entry>>>;

/// The keys of one number.
pub(super) struct Database {
    number: u16,
    shards: Box<[Shard]>,
    len: usize,
    bytes: u64,
    digest: u128,
    /// Log time, in milliseconds.
    now: u64,
    /// End and hash of each key that has an end.
    ends: BTreeSet<(u64, u64)>,
    /// How many of these ends are not after `now`.
    ended: usize,
    /// Last change and hash of each key that has an end; kept only while keys are evicted by it.
    idle: Option<BTreeSet<(u64, u64)>>,
    /// Whether it is a reader's copy, without the orders.
    is_copy: bool,
}

impl Database {
    pub(super) fn new(number: u16, now: u64, track_idle: bool) -> Self {
        Self {
            number,
            shards: vec![None; SHARDS].into_boxed_slice(),
            len: 0,
            bytes: 0,
            digest: 0,
            now,
            ends: BTreeSet::new(),
            ended: 0,
            idle: track_idle.then(BTreeSet::new),
            is_copy: false,
        }
    }

    /// Carries log time forward. Each end is counted once, when it comes.
    pub(super) fn advance(&mut self, now: u64) {
        if now > self.now {
            self.ended += self.ends.range((self.now + 1, 0)..=(now, u64::MAX)).count();
            self.now = now;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Keys whose life is not over.
    pub(super) fn live(&self) -> usize {
        self.len - self.ended
    }

    /// Keys among them whose life has an end.
    pub(super) fn ending(&self) -> usize {
        self.ends.len() - self.ended
    }

    /// What is to be looked at to know which lives are over at `time` and not by log time: for each key, whether it is
    /// one of them.
    pub(super) fn ending_until(&self, time: u64) -> Box<dyn Iterator<Item = bool> + '_> {
        if time <= self.now {
            Box::new(std::iter::empty())
        } else if self.is_copy {
            Box::new(self.iter().map(move |entry| entry.has_ended(time) && !entry.has_ended(self.now)))
        } else {
            Box::new(self.ends.range((self.now + 1, 0)..=(time, u64::MAX)).map(|_| true))
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn digest(&self) -> u128 {
        self.digest
    }

    pub(super) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&Entry> {
        self.shards[shard_of(hash)].as_ref()?.get(hash, key)
    }

    /// The same keys for somebody who only reads: values are shared, the orders are left out, and what is over is not
    /// counted.
    pub(super) fn shared(&self) -> Self {
        Self {
            number: self.number,
            shards: self.shards.clone(),
            len: self.live(),
            bytes: self.bytes,
            digest: self.digest,
            now: self.now,
            ends: BTreeSet::new(),
            ended: 0,
            idle: None,
            is_copy: true,
        }
    }

    /// What there is to be freed.
    pub(super) fn into_leavings(self) -> Leavings {
        let shards = self.shards.into_iter().flatten().collect();
        Leavings { shards, orders: [Some(self.ends), self.idle].into_iter().flatten().collect() }
    }

    /// Puts an entry in the place of the one that its key has, and gives that back.
    pub(super) fn put(&mut self, entry: Entry) -> Option<Entry> {
        let counted = Counted::of(&entry, self.number);
        let shard = Arc::make_mut(self.shards[shard_of(entry.hash)].get_or_insert_default());
        let old = match shard.find(entry.hash, &entry.key) {
            Ok(at) => {
                // Out before in: both may end at the same time, and then they share a place in the order of ends.
                let old = std::mem::replace(shard.at_mut(at), entry);
                self.count_out(&old);
                Some(old)
            }
            Err(at) => {
                shard.insert(at, entry);
                None
            }
        };
        self.count_in(counted);
        old
    }

    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Entry> {
        let slot = &mut self.shards[shard_of(hash)];
        let at = slot.as_ref()?.find(hash, key).ok()?;
        let shard = Arc::make_mut(slot.as_mut()?);
        let old = shard.remove(at);
        if shard.items().is_empty() {
            *slot = None;
        }
        self.count_out(&old);
        Some(old)
    }

    /// Changes an entry where it is. `change` may do anything but to its key.
    pub(super) fn update<R>(&mut self, hash: u64, key: &[u8], change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let slot = &mut self.shards[shard_of(hash)];
        let at = slot.as_ref()?.find(hash, key).ok()?;
        let entry = Arc::make_mut(slot.as_mut()?).at_mut(at);
        let (old_digest, old_bytes, old) = (entry.digest(self.number), entry.bytes(), (entry.expires, entry.touched));
        let result = change(entry);
        let new = (entry.expires, entry.touched);
        self.digest = self.digest.wrapping_sub(old_digest).wrapping_add(entry.digest(self.number));
        self.bytes = self.bytes - old_bytes + entry.bytes();
        if old.0 != new.0 {
            self.unlist(hash, old, key);
            self.list(hash, new);
        } else if new.0 != 0
            && old.1 != new.1
            && let Some(idle) = &mut self.idle
        {
            idle.remove(&(old.1, hash));
            idle.insert((new.1, hash));
        }
        Some(result)
    }

    /// End and hash of the key whose life ends first.
    pub(super) fn first_end(&self) -> Option<(u64, u64)> {
        self.ends.first().copied()
    }

    /// When the next life after `now` ends.
    pub(super) fn first_end_after(&self, now: u64) -> Option<u64> {
        self.ends.range((now.saturating_add(1), 0)..).next().map(|(end, _)| *end)
    }

    /// Last change and hash of the key with an end that nobody has changed for the longest.
    pub(super) fn longest_idle(&self) -> Option<(u64, u64)> {
        self.idle.as_ref()?.first().copied()
    }

    /// A key with this hash that has an end for which `fits` holds.
    pub(super) fn key_with(&self, hash: u64, fits: impl Fn(&Entry) -> bool) -> Option<Box<[u8]>> {
        let twins = self.shards[shard_of(hash)].as_ref()?.at_or_after(hash);
        let twin = twins.iter().take_while(|entry| entry.hash == hash).find(|entry| entry.expires != 0 && fits(entry));
        twin.map(|entry| entry.key.clone())
    }

    /// Keeps or drops the order in which keys were last changed.
    pub(super) fn track_idle(&mut self, wanted: bool) {
        if wanted == self.idle.is_some() {
            return;
        }
        let entries = self.shards.iter().flatten().flat_map(|shard| shard.items());
        let listed = || entries.filter(|entry| entry.expires != 0).map(|entry| (entry.touched, entry.hash)).collect();
        self.idle = wanted.then(listed);
    }

    /// Entries from a cursor on, in hash order.
    pub(super) fn iter_from_cursor(&self, cursor: u64) -> impl Iterator<Item = &Entry> {
        let beyond = cursor > position(u64::MAX);
        let from = hash_at(cursor);
        let shards = if beyond { &[] } else { &self.shards[shard_of(from)..] };
        shards.iter().flatten().flat_map(move |shard| shard.at_or_after(from))
    }

    /// Up to `count` keys and a few more from a cursor on, in hash order, and the cursor of what follows; zero at the
    /// end.
    pub(super) fn page(&self, cursor: u64, count: usize) -> (u64, Vec<&Entry>) {
        let mut found: Vec<&Entry> = Vec::new();
        for entry in self.iter_from_cursor(cursor) {
            let here = position(entry.hash);
            if found.len() >= count && found.last().is_some_and(|last| position(last.hash) != here) {
                return (here, found);
            }
            found.push(entry);
        }
        (0, found)
    }

    /// All entries from a hash on, in hash order, and then those before it.
    pub(super) fn around(&self, hash: u64) -> impl Iterator<Item = &Entry> {
        let (before, from) = self.shards.split_at(shard_of(hash));
        let first = from.iter().flatten().flat_map(move |shard| shard.at_or_after(hash));
        first.chain(before.iter().flatten().flat_map(|shard| shard.items())).chain(
            from.first().into_iter().flatten().flat_map(move |shard| {
                let items = shard.items();
                &items[..items.len() - shard.at_or_after(hash).len()]
            }),
        )
    }

    /// All entries in hash order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.shards.iter().flatten().flat_map(|shard| shard.items())
    }

    fn count_in(&mut self, counted: Counted) {
        self.len += 1;
        self.bytes += counted.bytes;
        self.digest = self.digest.wrapping_add(counted.digest);
        self.list(counted.hash, counted.listed);
    }

    fn count_out(&mut self, entry: &Entry) {
        self.len -= 1;
        self.bytes -= entry.bytes();
        self.digest = self.digest.wrapping_sub(entry.digest(self.number));
        self.unlist(entry.hash, (entry.expires, entry.touched), &entry.key);
    }

    fn list(&mut self, hash: u64, (expires, touched): (u64, u64)) {
        if expires == 0 {
            return;
        }
        if self.ends.insert((expires, hash)) && expires <= self.now {
            self.ended += 1;
        }
        if let Some(idle) = &mut self.idle {
            idle.insert((touched, hash));
        }
    }

    /// Takes a key out of the orders, unless another one with its hash and end is there, which shares its place.
    fn unlist(&mut self, hash: u64, (expires, touched): (u64, u64), key: &[u8]) {
        if expires == 0 {
            return;
        }
        let shares = |entry: &Entry| entry.expires == expires && *entry.key != *key;
        if self.key_with(hash, shares).is_none() && self.ends.remove(&(expires, hash)) && expires <= self.now {
            self.ended -= 1;
        }
        // No two keys were last changed by the same change.
        if let Some(idle) = &mut self.idle {
            idle.remove(&(touched, hash));
        }
    }
}

/// All that was in a database, without the places of what was not.
pub(super) struct Leavings {
    shards: Vec<Arc<Shelf<Entry>>>,
    #[expect(dead_code, reason = "it is kept to be dropped elsewhere")]
    orders: Vec<BTreeSet<(u64, u64)>>,
}

impl Leavings {
    /// In how many pieces the keys lie.
    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }
}

/// What sums and orders know of an entry.
struct Counted {
    hash: u64,
    bytes: u64,
    digest: u128,
    /// Its end and its last change.
    listed: (u64, u64),
}

impl Counted {
    fn of(entry: &Entry, number: u16) -> Self {
        let listed = (entry.expires, entry.touched);
        Self { hash: entry.hash, bytes: entry.bytes(), digest: entry.digest(number), listed }
    }
}

fn shard_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SHARD_BITS)) as usize
}
