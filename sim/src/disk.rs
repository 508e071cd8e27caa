//! Disks that lose what was not synced.
//!
//! A log on such a disk behaves as `ballast-storage`'s does: writes are readable at once and durable after a sync, of which one
//! is under way at a time; it covers all that was written before it began. When the machine loses its power, the writes
//! since the last sync are cut off somewhere: the first of them may be there, whole ones only, as from a write-ahead log
//! whose last record is torn. A disk may be slow, and may refuse a sync, after which its log acknowledges nothing more.
//!
//! Not here: snapshots, which are the real files of `ballast-storage` in a folder in memory.

use std::{collections::BTreeMap, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use ballast_planted::Bug;
use ballast_storage::{
    LogError, SyncError,
    log::{DurableLog, Slot, SyncStats, Synced},
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::random::Random;

#[derive(Clone, Debug)]
enum Write {
    Append(Vec<(u64, Bytes)>),
    TruncateFrom(u64),
    PurgeTo(u64, Bytes),
    Put(Slot, Bytes),
}

#[derive(Clone, Debug, Default)]
struct Image {
    entries: BTreeMap<u64, Bytes>,
    slots: [Option<Bytes>; 5],
}

const fn place(slot: Slot) -> usize {
    match slot {
        Slot::Vote => 0,
        Slot::Committed => 1,
        Slot::Purged => 2,
        Slot::Identity => 3,
        Slot::Condemned => 4,
    }
}

impl Image {
    fn carry_out(&mut self, write: &Write) {
        match write {
            Write::Append(entries) => self.entries.extend(entries.iter().cloned()),
            Write::TruncateFrom(index) => drop(self.entries.split_off(index)),
            Write::PurgeTo(index, purged) => {
                let rest = if ballast_planted::is(Bug::PurgePastSnapshot) {
                    BTreeMap::new()
                } else {
                    self.entries.split_off(&(index + 1))
                };
                self.entries = rest;
                self.slots[place(Slot::Purged)] = Some(purged.clone());
            }
            Write::Put(slot, bytes) => self.slots[place(*slot)] = Some(bytes.clone()),
        }
    }
}

#[derive(Debug)]
struct Platter {
    durable: Image,
    written: Image,
    unsynced: Vec<Write>,
    bytes: u64,
    random: Random,
    /// Least and most time of a sync, in microseconds.
    sync_micros: (u64, u64),
    /// The next sync fails, and so do all after it until the next start.
    failing: bool,
    syncs: u64,
}

/// A disk. It outlives the node that runs on it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    /// An empty disk.
    pub fn new(random: Random) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            durable: Image::default(),
            written: Image::default(),
            unsynced: Vec::new(),
            bytes: 0,
            random,
            sync_micros: (200, 4000),
            failing: false,
            syncs: 0,
        })))
    }

    /// How long syncs take from now on, in microseconds.
    pub fn set_speed(&self, least: u64, most: u64) {
        self.0.lock().sync_micros = (least, most);
    }

    /// The next sync fails.
    pub fn fail(&self) {
        self.0.lock().failing = true;
    }

    /// The power is gone and back: of what was not synced a beginning is left. Says how many writes were lost.
    pub fn lose_power(&self) -> usize {
        let mut platter = self.0.lock();
        let unsynced = std::mem::take(&mut platter.unsynced);
        let kept = platter.random.within(0, unsynced.len() as u64) as usize;
        for write in &unsynced[..kept] {
            platter.durable.carry_out(write);
        }
        platter.written = platter.durable.clone();
        platter.bytes = platter.written.entries.values().map(|bytes| bytes.len() as u64).sum();
        platter.failing = false;
        unsynced.len() - kept
    }

    /// The log on this disk. At most one at a time may be used.
    pub fn log(&self) -> SimLog {
        SimLog { disk: self.clone(), flusher: Arc::default() }
    }
}

impl Platter {
    fn write(&mut self, write: Write) {
        if let Write::Append(entries) = &write {
            self.bytes += entries.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        }
        self.written.carry_out(&write);
        self.unsynced.push(write);
    }

    /// The first `count` writes are durable.
    fn sync(&mut self, count: usize) {
        for write in self.unsynced.drain(..count) {
            self.durable.carry_out(&write);
        }
        self.syncs += 1;
    }
}

#[derive(Default)]
struct Flusher {
    waiting: Vec<Synced>,
    runs: bool,
}

/// A log on a simulated disk.
pub struct SimLog {
    disk: Disk,
    flusher: Arc<Mutex<Flusher>>,
}

impl SimLog {
    fn after_sync(&self, synced: Synced) {
        let mut flusher = self.flusher.lock();
        flusher.waiting.push(synced);
        if !flusher.runs {
            flusher.runs = true;
            tokio::spawn(flush(self.disk.clone(), Arc::clone(&self.flusher)));
        }
    }
}

/// Syncs as long as somebody waits for it.
async fn flush(disk: Disk, flusher: Arc<Mutex<Flusher>>) {
    loop {
        let waiting = std::mem::take(&mut flusher.lock().waiting);
        if waiting.is_empty() {
            flusher.lock().runs = false;
            return;
        }
        let (count, pause) = {
            let mut platter = disk.0.lock();
            let (least, most) = platter.sync_micros;
            let pause = Duration::from_micros(platter.random.within(least, most));
            (platter.unsynced.len(), pause)
        };
        sleep(pause).await;
        let result = {
            let mut platter = disk.0.lock();
            if platter.failing {
                Err(SyncError { path: PathBuf::from("log"), detail: "input/output error".into() })
            } else {
                if !ballast_planted::is(Bug::UnsyncedLog) {
                    platter.sync(count);
                }
                Ok(())
            }
        };
        for synced in waiting {
            synced(result.clone());
        }
    }
}

impl DurableLog for SimLog {
    fn append(&self, entries: &mut dyn Iterator<Item = (u64, Vec<u8>)>, synced: Synced) -> Result<(), LogError> {
        let entries = entries.map(|(index, bytes)| (index, Bytes::from(bytes))).collect();
        self.disk.0.lock().write(Write::Append(entries));
        self.after_sync(synced);
        Ok(())
    }

    fn truncate_from(&self, index: u64) -> Result<(), LogError> {
        self.disk.0.lock().write(Write::TruncateFrom(index));
        Ok(())
    }

    fn purge_to(&self, index: u64, purged: &[u8]) -> Result<(), LogError> {
        self.disk.0.lock().write(Write::PurgeTo(index, Bytes::copy_from_slice(purged)));
        Ok(())
    }

    fn put(&self, slot: Slot, bytes: &[u8], synced: Option<Synced>) -> Result<(), LogError> {
        self.disk.0.lock().write(Write::Put(slot, Bytes::copy_from_slice(bytes)));
        if let Some(synced) = synced {
            self.after_sync(synced);
        }
        Ok(())
    }

    fn get(&self, slot: Slot) -> Result<Option<Bytes>, LogError> {
        Ok(self.disk.0.lock().written.slots[place(slot)].clone())
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, LogError> {
        let platter = self.disk.0.lock();
        let mut found: Vec<(u64, Bytes)> = Vec::new();
        let mut bytes = 0;
        for (index, entry) in platter.written.entries.range(range) {
            if let Some((last, _)) = found.last()
                && *index != last + 1
            {
                return Err(LogError::Missing { path: PathBuf::from("log"), index: last + 1 });
            }
            found.push((*index, entry.clone()));
            bytes += entry.len();
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(found)
    }

    fn last(&self) -> Result<Option<(u64, Bytes)>, LogError> {
        let platter = self.disk.0.lock();
        Ok(platter.written.entries.last_key_value().map(|(index, bytes)| (*index, bytes.clone())))
    }

    fn index_leaving(&self, _bytes_max: u64) -> Option<u64> {
        // Runs are too short for a log to grow large.
        None
    }

    fn bytes(&self) -> u64 {
        self.disk.0.lock().bytes
    }

    fn sync_stats(&self) -> SyncStats {
        SyncStats { syncs: self.disk.0.lock().syncs, ..SyncStats::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn indexes(log: &SimLog) -> Vec<u64> {
        log.read(0..u64::MAX, usize::MAX).expect("reads").into_iter().map(|(index, _)| index).collect()
    }

    fn append(log: &SimLog, indexes: Range<u64>, synced: Synced) {
        log.append(&mut indexes.map(|index| (index, vec![1])), synced).expect("writes");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_synced_survives_and_of_the_rest_a_beginning() {
        for seed in 0..50 {
            let disk = Disk::new(Random::new(seed));
            let log = disk.log();
            let (sender, synced) = tokio::sync::oneshot::channel();
            append(&log, 1..4, Box::new(move |result| sender.send(result.is_ok()).expect("waits")));
            assert_eq!(synced.await, Ok(true));
            for index in 4..8 {
                append(&log, index..index + 1, Box::new(|_| {}));
            }
            assert_eq!(indexes(&log), (1..8).collect::<Vec<_>>());
            disk.lose_power();
            let left = indexes(&disk.log());
            assert!(left.len() >= 3 && left == (1..=left.len() as u64).collect::<Vec<_>>(), "{left:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_sync_acknowledges_nothing_until_the_next_start() {
        let disk = Disk::new(Random::new(1));
        let log = disk.log();
        disk.fail();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (sender, last) = tokio::sync::oneshot::channel();
        let counted = Arc::clone(&acknowledged);
        append(&log, 1..2, Box::new(move |result| _ = counted.fetch_add(result.is_ok().into(), Ordering::Relaxed)));
        append(&log, 2..3, Box::new(move |result| sender.send(result.is_ok()).expect("waits")));
        assert_eq!(last.await, Ok(false));
        assert_eq!(acknowledged.load(Ordering::Relaxed), 0);
        disk.lose_power();
        let (sender, synced) = tokio::sync::oneshot::channel();
        append(&disk.log(), 3..4, Box::new(move |result| sender.send(result.is_ok()).expect("waits")));
        assert_eq!(synced.await, Ok(true));
    }
}
