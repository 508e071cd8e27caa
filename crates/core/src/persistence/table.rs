//! One service's table: the part that is shared with readers, and its only writer.

use std::{
    collections::BTreeMap,
    hash::Hasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::{
    KeyHash, Provenance,
    record::Record,
    slots::{SHARD_BITS, Slots},
};
use crate::{
    config::TablePersistence,
    ids::{BackendId, ServiceId},
    state::RehomeCause,
    time::LogTime,
};

/// Ended bindings stay this much longer, so that `explain` can still name them, and so that a key that is bound
/// anew is known to have had another backend.
pub(super) const SWEEP_GRACE_MS: u64 = 5_000;

/// Shards of a table.
pub(super) const SHARDS: usize = 1 << SHARD_BITS;

/// Lifetimes and bound of a table, as the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// Milliseconds without use after which a binding ends.
    pub idle_ms: u64,
    /// Milliseconds after which a binding ends even if used; zero means never.
    pub absolute_ms: u64,
    /// Most bindings.
    pub entries_max: u64,
}

impl From<&TablePersistence> for TableConfig {
    fn from(from: &TablePersistence) -> Self {
        Self {
            idle_ms: from.idle_timeout.as_millis(),
            absolute_ms: from.absolute_timeout.map_or(0, |span| span.as_millis()),
            entries_max: from.entries_max,
        }
    }
}

impl TableConfig {
    /// Log time from which the binding no longer counts; `None` for a pinned one.
    pub fn deadline(&self, record: &Record) -> Option<LogTime> {
        if record.is_deleted() {
            return Some(seconds(record.last_used_s));
        }
        if record.pinned {
            return None;
        }
        let idle = seconds(record.last_used_s).plus_millis(self.idle_ms);
        Some(match self.absolute_ms {
            0 => idle,
            absolute => idle.min(seconds(record.created_s).plus_millis(absolute)),
        })
    }

    /// Whether a binding may live longer by this than by `other`.
    fn outlives(&self, other: Self) -> bool {
        let absolute = |config: &Self| if config.absolute_ms == 0 { u64::MAX } else { config.absolute_ms };
        self.idle_ms > other.idle_ms || absolute(self) > absolute(&other)
    }

    /// Whether the binding counts at `now`. A deleted one never does, also for a reader whose `now` is behind.
    pub fn is_live(&self, record: &Record, now: LogTime) -> bool {
        !record.is_deleted() && self.ends_after(record, now)
    }

    /// Whether the binding's end is later than `at`.
    fn ends_after(&self, record: &Record, at: LogTime) -> bool {
        self.deadline(record).is_none_or(|deadline| at < deadline)
    }
}

/// Whole seconds as log time.
pub(super) const fn seconds(s: u32) -> LogTime {
    LogTime::from_millis(s as u64 * 1000)
}

/// Log time in whole seconds, rounded up; saturates in the year 2106.
pub(crate) fn to_seconds(time: LogTime) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

/// What happened to a table's bindings since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Free keys that were bound.
    pub created: u64,
    /// Bindings moved because the checks' verdict was down.
    pub rehomed_down: u64,
    /// Bindings moved because of maintenance.
    pub rehomed_maintenance: u64,
    /// Bindings moved because the backend was configured away.
    pub rehomed_removed: u64,
    /// Bindings moved because the backend could not be connected to.
    pub rehomed_connect_failed: u64,
    /// Bindings moved by an operator.
    pub rehomed_operator: u64,
    /// Bindings whose lifetime ended.
    pub expired: u64,
    /// Bindings deleted by an operator.
    pub deleted: u64,
    /// Keys that were not bound because the table was full.
    pub refused_full: u64,
}

impl Totals {
    /// Bindings moved for this cause.
    pub fn rehomed(&self, cause: RehomeCause) -> u64 {
        let mut totals = *self;
        *totals.rehomed_mut(cause)
    }

    pub(crate) fn rehomed_mut(&mut self, cause: RehomeCause) -> &mut u64 {
        match cause {
            RehomeCause::BackendDown => &mut self.rehomed_down,
            RehomeCause::BackendMaintenance => &mut self.rehomed_maintenance,
            RehomeCause::BackendRemoved => &mut self.rehomed_removed,
            RehomeCause::ConnectFailed => &mut self.rehomed_connect_failed,
            RehomeCause::Operator => &mut self.rehomed_operator,
        }
    }
}

/// What readers share.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) shards: Box<[ArcSwap<Slots>]>,
    idle_ms: AtomicU64,
    absolute_ms: AtomicU64,
    entries_max: AtomicU64,
    len: AtomicU64,
}

impl Table {
    pub(super) fn get(&self, key: KeyHash) -> Option<Record> {
        self.shards[shard_of(key.as_u128())].load().get(key.as_u128())
    }

    /// Bindings that are there, ended ones included, and how many may be.
    pub(super) fn room(&self) -> (u64, u64) {
        (self.len.load(Ordering::Relaxed), self.entries_max.load(Ordering::Relaxed))
    }

    /// Lifetimes, for readers.
    pub(super) fn lifetimes(&self) -> TableConfig {
        TableConfig {
            idle_ms: self.idle_ms.load(Ordering::Relaxed),
            absolute_ms: self.absolute_ms.load(Ordering::Relaxed),
            entries_max: 0,
        }
    }
}

pub(super) fn shard_of(key: u128) -> usize {
    (key >> (128 - SHARD_BITS)) as usize
}

/// How a new binding came about; decides which total counts it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Put {
    /// The binding.
    pub record: Record,
    /// Whether an expired binding of the key is being written over.
    pub over_expired: bool,
}

/// The writing side of a table. Everything here but the shared table is derived from its
/// bindings or part of the replicated state.
#[derive(Debug)]
pub(crate) struct TableWriter {
    service: ServiceId,
    table: Arc<Table>,
    lens: Box<[u32]>,
    len: u64,
    by_backend: BTreeMap<BackendId, u64>,
    digest: u128,
    config: TableConfig,
    /// What happened so far.
    pub(crate) totals: Totals,
    /// The shard that the sweep looks at next, and up to when sweeping is done.
    pub(super) sweep: SweepCursor,
}

/// Where the sweep of a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepCursor {
    /// The shard to look at next.
    pub shard: u16,
    /// Log time up to which the sweep has kept its pace.
    pub done: LogTime,
}

impl SweepCursor {
    /// Keeps the sweep away until the grace has passed. To be called when bindings may have ended all at once:
    /// nodes that have not heard of it yet still forward on them, and their records tell that it was so.
    pub(super) fn hold(&mut self, now: LogTime) {
        self.done = self.done.max(now.plus_millis(SWEEP_GRACE_MS));
    }
}

impl TableWriter {
    pub(super) fn new(service: ServiceId, config: TableConfig, now: LogTime) -> Self {
        Self {
            service,
            table: Arc::new(Table {
                shards: (0..SHARDS).map(|_| ArcSwap::from_pointee(Slots::none())).collect(),
                idle_ms: AtomicU64::new(config.idle_ms),
                absolute_ms: AtomicU64::new(config.absolute_ms),
                entries_max: AtomicU64::new(config.entries_max),
                len: AtomicU64::new(0),
            }),
            lens: vec![0; SHARDS].into_boxed_slice(),
            len: 0,
            by_backend: BTreeMap::new(),
            digest: 0,
            config,
            totals: Totals::default(),
            sweep: SweepCursor { shard: 0, done: now },
        }
    }

    pub(super) fn shared(&self) -> Arc<Table> {
        Arc::clone(&self.table)
    }

    /// Changes lifetimes and bound. Bindings that are there already follow the new lifetimes; those that shorter
    /// ones end are not swept before the grace has passed.
    pub(crate) fn configure(&mut self, config: TableConfig, now: LogTime) {
        if self.config.outlives(config) {
            self.sweep.hold(now);
        }
        self.config = config;
        self.table.idle_ms.store(config.idle_ms, Ordering::Relaxed);
        self.table.absolute_ms.store(config.absolute_ms, Ordering::Relaxed);
        self.table.entries_max.store(config.entries_max, Ordering::Relaxed);
    }

    /// Writes a binding.
    pub(crate) fn put(&mut self, key: KeyHash, put: Put) {
        let old = self.table.get(key);
        self.account(key, old, Some(put.record));
        if put.over_expired {
            self.totals.expired += 1;
        }
        let key = key.as_u128();
        let shard = shard_of(key);
        let slots = self.writable(shard);
        let len = self.lens[shard] as usize + usize::from(old.is_none());
        self.lens[shard] = len as u32;
        if slots.is_crowded(len) || slots.put(key, put.record).is_err() {
            let mut entries: Vec<_> = slots.iter_from(0).filter(|(k, _)| *k != key).collect();
            entries.insert(entries.partition_point(|(k, _)| *k < key), (key, put.record));
            self.table.shards[shard].store(Arc::new(Slots::build(&entries, 0)));
        }
    }

    /// Takes the bindings out of a shard that ended at or before `by`; says how many.
    pub(super) fn expire_shard(&mut self, shard: usize, by: LogTime) -> u64 {
        if self.lens[shard] == 0 {
            return 0;
        }
        let slots = self.table.shards[shard].load_full();
        let (mut dead, mut alive) = (Vec::new(), 0_usize);
        for (key, record) in slots.iter_from(0) {
            if self.config.ends_after(&record, by) { alive += 1 } else { dead.push((key, record)) }
        }
        if dead.is_empty() {
            return 0;
        }
        for (key, record) in &dead {
            self.account(KeyHash::from_u128(*key), Some(*record), None);
        }
        if dead.len() * 16 > alive {
            let left: Vec<_> = slots.iter_from(0).filter(|(_, record)| self.config.ends_after(record, by)).collect();
            self.table.shards[shard].store(Arc::new(Slots::build(&left, 0)));
        } else {
            drop(slots);
            let slots = self.writable(shard);
            for (key, _) in &dead {
                slots.remove(*key);
            }
        }
        self.lens[shard] = alive as u32;
        self.totals.expired += dead.iter().filter(|(_, record)| !record.is_deleted()).count() as u64;
        dead.len() as u64
    }

    /// Fills a shard of a new table. `entries` are in ascending order and belong to the shard.
    pub(super) fn load_shard(&mut self, shard: usize, entries: &[(u128, Record)]) {
        for (key, record) in entries {
            self.account(KeyHash::from_u128(*key), None, Some(*record));
        }
        self.lens[shard] = entries.len() as u32;
        self.table.shards[shard].store(Arc::new(Slots::build(entries, 0)));
    }

    /// The binding of a key, whether it still counts or not.
    pub(crate) fn get(&self, key: KeyHash) -> Option<Record> {
        self.table.get(key)
    }

    /// Bindings from `from` on, in ascending order of their keys, expired ones included.
    pub(crate) fn iter_from(&self, from: KeyHash) -> impl Iterator<Item = (KeyHash, Record)> + '_ {
        let from = from.as_u128();
        let first = shard_of(from);
        (first..SHARDS).flat_map(move |shard| {
            let slots = self.table.shards[shard].load_full();
            let entries: Vec<_> = slots.iter_from(if shard == first { from } else { 0 }).collect();
            entries.into_iter().map(|(key, record)| (KeyHash::from_u128(key), record))
        })
    }

    pub(crate) fn service(&self) -> ServiceId {
        self.service
    }

    pub(crate) fn config(&self) -> TableConfig {
        self.config
    }

    /// Number of bindings, those included whose end has come and that the sweep has not met yet.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bindings of one backend, without deleted ones.
    pub(crate) fn len_of(&self, backend: BackendId) -> u64 {
        self.by_backend.get(&backend).copied().unwrap_or(0)
    }

    /// Sum of the hashes of all bindings: equal for equal sets, whatever their history.
    pub(super) fn digest(&self) -> u128 {
        self.digest
    }

    /// Resident bytes of the bindings' arrays.
    pub(super) fn array_bytes(&self) -> usize {
        self.table.shards.iter().map(|shard| shard.load().size() * 32).sum()
    }

    /// The shard's array, copied first if a snapshot shares it.
    fn writable(&self, shard: usize) -> Arc<Slots> {
        let slots = self.table.shards[shard].load_full();
        // Two: the table's own and the one just taken. Readers count now and then; copying then is only wasted work.
        if Arc::strong_count(&slots) <= 2 {
            // Whoever held the snapshot has read before it let go.
            fence(Ordering::Acquire);
            return slots;
        }
        let copy = Arc::new(slots.duplicate());
        self.table.shards[shard].store(Arc::clone(&copy));
        copy
    }

    fn account(&mut self, key: KeyHash, old: Option<Record>, new: Option<Record>) {
        if let Some(old) = old {
            self.digest = self.digest.wrapping_sub(self.hash_of(key, old));
            self.len -= 1;
            if !old.is_deleted() {
                let count = self.by_backend.get_mut(&old.backend).expect("each binding was counted when it was put");
                *count -= 1;
                if *count == 0 {
                    self.by_backend.remove(&old.backend);
                }
            }
        }
        if let Some(new) = new {
            self.digest = self.digest.wrapping_add(self.hash_of(key, new));
            self.len += 1;
            if !new.is_deleted() {
                *self.by_backend.entry(new.backend).or_insert(0) += 1;
            }
        }
        self.table.len.store(self.len, Ordering::Relaxed);
    }

    fn hash_of(&self, key: KeyHash, record: Record) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(0, u64::from(self.service.get()));
        let words = record.to_words();
        hasher.write(&key.as_u128().to_le_bytes());
        hasher.write(&words[0].to_le_bytes());
        hasher.write(&words[1].to_le_bytes());
        hasher.finish128().as_u128()
    }
}

/// A record for a key that is bound now.
pub(crate) fn fresh(backend: BackendId, provenance: Provenance, pinned: bool, now: LogTime, index_low: u32) -> Record {
    let now = to_seconds(now);
    Record { backend, pinned, provenance, created_s: now, last_used_s: now, index_low }
}
