//! All tables together: made, swept, shared with a snapshot, written out and read back.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    sync::Arc,
};

use super::{
    KeyHash, Tables,
    record::Record,
    slots::Slots,
    table::{SHARDS, SWEEP_GRACE_MS, SweepCursor, TableConfig, TableWriter, Totals, shard_of},
};
use crate::{
    ids::ServiceId,
    state::wire::{DecodeError, Reader, Writer},
    time::LogTime,
};

/// A full round of the sweep over a table takes this long; arbitrary, and harmless: an ended
/// binding counts for nothing, the sweep only frees its memory.
const SWEEP_ROUND_MS: u64 = 10_000;

/// Shards of one table that one entry may sweep. About a millisecond of work at seven million bindings.
const SWEEP_SHARDS_MAX: u64 = 64;

/// No further shard is swept once an entry has removed this many bindings.
const SWEEP_REMOVALS_MAX: u64 = 20_000;

const RECORD_BYTES: usize = 32;

/// The state machine's side of the tables.
#[derive(Debug, Default)]
pub(crate) struct Store {
    shared: Arc<Tables>,
    tables: BTreeMap<ServiceId, TableWriter>,
}

impl Store {
    /// The handle for readers.
    pub(crate) fn tables(&self) -> &Arc<Tables> {
        &self.shared
    }

    /// Makes the table of a service, or changes its lifetimes.
    pub(crate) fn configure(&mut self, service: ServiceId, config: TableConfig, now: LogTime) {
        match self.tables.get_mut(&service) {
            Some(table) => table.configure(config, now),
            None => {
                self.tables.insert(service, TableWriter::new(service, config, now));
                self.publish();
            }
        }
    }

    pub(crate) fn get(&self, service: ServiceId) -> Option<&TableWriter> {
        self.tables.get(&service)
    }

    pub(crate) fn get_mut(&mut self, service: ServiceId) -> Option<&mut TableWriter> {
        self.tables.get_mut(&service)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &TableWriter> {
        self.tables.values()
    }

    /// Resident bytes of all arrays.
    pub(crate) fn array_bytes(&self) -> usize {
        self.tables.values().map(TableWriter::array_bytes).sum()
    }

    /// Removes ended bindings, a bounded number of them. Each table is swept at an even pace by log
    /// time; when there is more to remove than one entry may, the table that waits longest is first.
    /// `before` is the log time before this entry: after a leap nothing is swept until the grace has passed.
    pub(crate) fn sweep(&mut self, before: LogTime, now: LogTime) {
        if now.millis_since(before) > SWEEP_GRACE_MS {
            self.tables.values_mut().for_each(|table| table.sweep.hold(now));
        }
        let mut due: Vec<_> = self
            .tables
            .values_mut()
            .filter_map(|table| {
                let shards = now.millis_since(table.sweep.done) * SHARDS as u64 / SWEEP_ROUND_MS;
                (shards > 0).then_some((table.sweep.done, shards, table))
            })
            .collect();
        due.sort_by_key(|(done, _, table)| (*done, table.service()));
        let by = LogTime::from_millis(now.as_millis().saturating_sub(SWEEP_GRACE_MS));
        let mut removed = 0;
        for (_, shards, table) in due {
            let mut swept = 0;
            while swept < shards.min(SWEEP_SHARDS_MAX) && removed < SWEEP_REMOVALS_MAX && table.len() > 0 {
                removed += table.expire_shard(usize::from(table.sweep.shard), by);
                table.sweep.shard = (table.sweep.shard + 1) % SHARDS as u16;
                swept += 1;
            }
            let behind = shards > swept && table.len() > 0 && removed >= SWEEP_REMOVALS_MAX;
            table.sweep.done = match behind {
                true => table.sweep.done.plus_millis(swept * SWEEP_ROUND_MS / SHARDS as u64),
                false => now,
            };
        }
    }

    /// Shares all bindings as they are now. Costs one counter for each shard.
    pub(crate) fn snapshot(&self) -> StoreSnapshot {
        let tables = self.tables.values().map(|table| {
            let shared = table.shared();
            TableSnapshot {
                head: Head::of(table),
                len: table.len(),
                shards: shared.shards.iter().map(|shard| shard.load_full()).collect(),
            }
        });
        StoreSnapshot { tables: tables.collect() }
    }

    /// Everything that makes two stores equal, for the state's hash.
    pub(crate) fn heads(&self) -> Vec<Head> {
        self.tables.values().map(Head::of).collect()
    }

    /// Takes over the tables of `other`, and shows them to this store's readers.
    pub(crate) fn replace(&mut self, other: Self) {
        self.tables = other.tables;
        self.publish();
    }

    /// Reads what [`StoreSnapshot::write`] wrote.
    pub(crate) fn read(input: &mut dyn io::Read) -> Result<Self, DecodeError> {
        let mut store = Self::default();
        let tables = read_u32(input)?;
        for _ in 0..tables {
            let head_len = read_u32(input)? as usize;
            let head = read_bytes(input, head_len)?;
            let head = Head::decode(&mut Reader::new(&head))?;
            let mut table = TableWriter::new(head.service, head.config, head.sweep.done);
            for shard in 0..SHARDS {
                let count = read_u32(input)? as usize;
                if count > 0 {
                    let bytes = read_bytes(input, count.saturating_mul(RECORD_BYTES))?;
                    table.load_shard(shard, &decode_shard(shard, &bytes)?);
                }
            }
            table.totals = head.totals;
            table.sweep = head.sweep;
            if table.digest() != head.digest {
                return Err(DecodeError::Damaged { what: "bindings" });
            }
            if store.tables.insert(head.service, table).is_some() {
                return Err(DecodeError::Damaged { what: "bindings" });
            }
        }
        store.publish();
        Ok(store)
    }

    fn publish(&self) {
        self.shared.publish(self.tables.iter().map(|(id, table)| (*id, table.shared())).collect());
    }
}

fn decode_shard(shard: usize, bytes: &[u8]) -> Result<Vec<(u128, Record)>, DecodeError> {
    let damaged = || DecodeError::Damaged { what: "bindings" };
    let mut entries = Vec::with_capacity(bytes.len() / RECORD_BYTES);
    let mut last = None;
    for chunk in bytes.chunks_exact(RECORD_BYTES) {
        let mut reader = Reader::new(chunk);
        let key = reader.u128()?;
        let record = Record::from_words([reader.u64()?, reader.u64()?]).ok_or_else(damaged)?;
        if shard_of(key) != shard || last.is_some_and(|last| last >= key) {
            return Err(damaged());
        }
        last = Some(key);
        entries.push((key, record));
    }
    Ok(entries)
}

/// What a table is besides its bindings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    service: ServiceId,
    config: TableConfig,
    totals: Totals,
    sweep: SweepCursor,
    digest: u128,
}

impl Head {
    fn of(table: &TableWriter) -> Self {
        Self {
            service: table.service(),
            config: table.config(),
            totals: table.totals,
            sweep: table.sweep,
            digest: table.digest(),
        }
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.varint(self.service.get().into());
        out.u128(self.digest);
        out.json(&(self.config, self.totals, self.sweep));
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let service = ServiceId::new(input.varint_u32()?);
        let digest = input.u128()?;
        let (config, totals, sweep): (_, _, SweepCursor) = input.json("table")?;
        if usize::from(sweep.shard) >= SHARDS {
            return Err(DecodeError::Damaged { what: "table" });
        }
        input.end()?;
        Ok(Self { service, config, totals, sweep, digest })
    }
}

/// All tables at one log index.
#[derive(Debug)]
pub struct StoreSnapshot {
    tables: Vec<TableSnapshot>,
}

/// One table at one log index.
#[derive(Debug)]
pub struct TableSnapshot {
    head: Head,
    len: u64,
    shards: Vec<Arc<Slots>>,
}

impl StoreSnapshot {
    /// Number of bindings.
    pub fn len(&self) -> u64 {
        self.tables.iter().map(|table| table.len).sum()
    }

    /// Whether there is no binding.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn heads(&self) -> impl Iterator<Item = &Head> {
        self.tables.iter().map(|table| &table.head)
    }

    /// Writes all bindings, a shard at a time.
    ///
    /// # Errors
    /// What `out` says.
    pub(crate) fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&(self.tables.len() as u32).to_le_bytes())?;
        let mut buffer = Vec::new();
        for table in &self.tables {
            let mut head = Writer::default();
            table.head.encode(&mut head);
            let head = head.into_bytes();
            out.write_all(&(head.len() as u32).to_le_bytes())?;
            out.write_all(&head)?;
            for slots in &table.shards {
                buffer.clear();
                buffer.extend_from_slice(&[0; 4]);
                for (key, record) in slots.iter_from(0) {
                    let words = record.to_words();
                    buffer.extend_from_slice(&key.to_le_bytes());
                    buffer.extend_from_slice(&words[0].to_le_bytes());
                    buffer.extend_from_slice(&words[1].to_le_bytes());
                }
                let count = ((buffer.len() - 4) / RECORD_BYTES) as u32;
                buffer[..4].copy_from_slice(&count.to_le_bytes());
                out.write_all(&buffer)?;
            }
        }
        Ok(())
    }
}

fn read_u32(input: &mut dyn io::Read) -> Result<u32, DecodeError> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Reads `len` bytes; memory grows with what arrives, not with what is announced.
pub(crate) fn read_bytes(input: &mut dyn io::Read, len: usize) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = Vec::new();
    input.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() < len {
        return Err(DecodeError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

/// A position to page from: the next key after `key`.
pub(crate) fn after(key: KeyHash) -> Option<KeyHash> {
    key.as_u128().checked_add(1).map(KeyHash::from_u128)
}
