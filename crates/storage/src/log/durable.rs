//! What consensus asks of a log, so that it can stand on another one where RocksDB cannot run.

use std::ops::Range;

use bytes::Bytes;

use super::{Log, Slot, SyncStats, Synced};
use crate::LogError;

/// A durable log: entries by index and slots beside them.
///
/// Writes are readable when a call returns and take effect in the order of the calls; a `synced` runs once its write, and
/// every one before it, is durable, or will never be. What was not synced may be lost with a loss of power, the last first.
pub trait DurableLog: Send + Sync + 'static {
    /// See [`Log::append`].
    ///
    /// # Errors
    /// [`LogError::Write`]; then nothing was appended and `synced` will not run.
    fn append(&self, entries: &mut dyn Iterator<Item = (u64, Vec<u8>)>, synced: Synced) -> Result<(), LogError>;

    /// See [`Log::truncate_from`].
    ///
    /// # Errors
    /// [`LogError::Write`].
    fn truncate_from(&self, index: u64) -> Result<(), LogError>;

    /// See [`Log::purge_to`].
    ///
    /// # Errors
    /// [`LogError::Write`].
    fn purge_to(&self, index: u64, purged: &[u8]) -> Result<(), LogError>;

    /// See [`Log::put`].
    ///
    /// # Errors
    /// [`LogError::Write`]; then `synced` will not run.
    fn put(&self, slot: Slot, bytes: &[u8], synced: Option<Synced>) -> Result<(), LogError>;

    /// See [`Log::get`].
    ///
    /// # Errors
    /// [`LogError::Read`] or [`LogError::Damaged`].
    fn get(&self, slot: Slot) -> Result<Option<Bytes>, LogError>;

    /// See [`Log::read`].
    ///
    /// # Errors
    /// [`LogError::Read`], [`LogError::Damaged`], or [`LogError::Missing`] if there is a hole.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, LogError>;

    /// See [`Log::last`].
    ///
    /// # Errors
    /// [`LogError::Read`] or [`LogError::Damaged`].
    fn last(&self) -> Result<Option<(u64, Bytes)>, LogError>;

    /// See [`Log::index_leaving`].
    fn index_leaving(&self, bytes_max: u64) -> Option<u64>;

    /// See [`Log::bytes`].
    fn bytes(&self) -> u64;

    /// See [`Log::sync_stats`].
    fn sync_stats(&self) -> SyncStats;
}

impl DurableLog for Log {
    fn append(&self, entries: &mut dyn Iterator<Item = (u64, Vec<u8>)>, synced: Synced) -> Result<(), LogError> {
        self.append(entries, synced)
    }

    fn truncate_from(&self, index: u64) -> Result<(), LogError> {
        self.truncate_from(index)
    }

    fn purge_to(&self, index: u64, purged: &[u8]) -> Result<(), LogError> {
        self.purge_to(index, purged)
    }

    fn put(&self, slot: Slot, bytes: &[u8], synced: Option<Synced>) -> Result<(), LogError> {
        self.put(slot, bytes, synced)
    }

    fn get(&self, slot: Slot) -> Result<Option<Bytes>, LogError> {
        self.get(slot)
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, LogError> {
        self.read(range, bytes_max)
    }

    fn last(&self) -> Result<Option<(u64, Bytes)>, LogError> {
        self.last()
    }

    fn index_leaving(&self, bytes_max: u64) -> Option<u64> {
        self.index_leaving(bytes_max)
    }

    fn bytes(&self) -> u64 {
        self.bytes()
    }

    fn sync_stats(&self) -> SyncStats {
        self.sync_stats()
    }
}
