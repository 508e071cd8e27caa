//! The durable log: entries by index, and a few named slots beside them.
//!
//! A write is readable when the call returns and durable when its callback runs. One thread
//! syncs: it takes everything that was written since it last looked, syncs once, then runs the
//! callbacks in the order of the writes. So a hundred writes that arrive while the disk is busy
//! cost one sync (group commit), and a vote can never overtake an entry.
//!
//! RocksDB recovers its write-ahead log in the mode that drops an incomplete last record and
//! refuses a bad checksum anywhere else. That mode cannot be combined with recycled log files, so
//! they are only preallocated. It also takes a damaged length in the last block for the end of
//! the file; therefore a [`mark`] beside the database remembers how far writes were acknowledged,
//! and a log that ends before the mark is refused. An unacknowledged tail may go, an acknowledged
//! one may not.
//!
//! Not here: what the bytes mean, terms, votes' order (`ballast-raft`).

mod durable;
mod flush;
mod mark;
mod record;
mod sizes;
#[cfg(test)]
mod tests;

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ballast_planted::Bug;
use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{ColumnFamilyDescriptor, DB, DBRecoveryMode, Direction, ErrorKind, IteratorMode, Options, WriteBatch};

use self::{flush::Flusher, mark::Mark, sizes::Sizes};
use crate::{LogError, OpenError, SyncError};

pub use durable::DurableLog;
pub use flush::SyncStats;

/// Runs when a write is durable, or will never be.
pub type Synced = Box<dyn FnOnce(Result<(), SyncError>) + Send>;

const ENTRIES: &str = "log";
const SLOTS: &str = "meta";

/// A named value beside the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The last vote.
    Vote,
    /// How far the log is known to be committed.
    Committed,
    /// The last entry that was purged.
    Purged,
    /// Whose log this is.
    Identity,
    /// Why its node must not go on, for people.
    Condemned,
}

impl Slot {
    const fn key(self) -> &'static [u8] {
        match self {
            Self::Vote => b"vote",
            Self::Committed => b"committed",
            Self::Purged => b"purged",
            Self::Identity => b"identity",
            Self::Condemned => b"condemned",
        }
    }
}

/// What a log may cost.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes that RocksDB gathers in memory before it writes a table file. Also the size to which
    /// a write-ahead log file is preallocated.
    pub write_buffer_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        // Four entries of the largest size fit many times; recovery of two such buffers takes
        // about a second.
        Self { write_buffer_bytes: 64 << 20 }
    }
}

/// A durable log. Cheap to share behind an [`Arc`]; all methods take `&self`.
#[derive(Debug)]
pub struct Log {
    // Declared before `db`: its thread uses the database and must end first.
    flusher: Flusher,
    db: Arc<DB>,
    path: PathBuf,
    sizes: Mutex<Sizes>,
    /// The last entry of which it is on disk that it was purged.
    purged_on_disk: Arc<AtomicU64>,
}

impl Log {
    /// Opens the log in `folder`, making it if there is none, and checks every record in it.
    ///
    /// # Errors
    /// See [`OpenError`]. After any of them the node must not take part in the cluster.
    pub fn open(folder: &Path, options: LogOptions) -> Result<Self, OpenError> {
        let path = folder.to_owned();
        let refused = |source| OpenError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(refused)?;
        let database = folder.join("rocksdb");
        let existed = database.join("CURRENT").exists();
        let mark = Mark::open(&folder.join("acknowledged")).map_err(refused)?;

        let families = [ENTRIES, SLOTS].map(|name| ColumnFamilyDescriptor::new(name, family_options(&options)));
        let db = DB::open_cf_descriptors(&database_options(&options), &database, families)
            .map_err(|error| open_error(&path, existed, &error))?;

        let (found, acknowledged) = (db.latest_sequence_number(), mark.read());
        if found < acknowledged {
            return Err(OpenError::Lost { path, found, acknowledged });
        }
        if !existed {
            // The database's own folder entry must survive a loss of power as well.
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(refused)?;
        }

        let db = Arc::new(db);
        let flusher = Flusher::spawn(Arc::clone(&db), mark, path.clone())
            .map_err(|source| OpenError::Folder { path: path.clone(), source })?;
        let log = Self { flusher, db, path, sizes: Mutex::default(), purged_on_disk: Arc::default() };
        log.check_all()?;
        Ok(log)
    }

    /// Appends entries. They are readable when this returns; `synced` runs once they are durable.
    ///
    /// # Errors
    /// [`LogError::Write`] or [`LogError::Corrupt`]; then nothing was appended and `synced` will not run.
    pub fn append<B: AsRef<[u8]>>(
        &self,
        entries: impl IntoIterator<Item = (u64, B)>,
        synced: Synced,
    ) -> Result<(), LogError> {
        let mut batch = WriteBatch::default();
        let mut value = Vec::new();
        let mut sizes = self.sizes.lock();
        for (index, bytes) in entries {
            record::encode(bytes.as_ref(), &mut value);
            sizes.push(index, value.len() as u64);
            batch.put_cf(&self.entries(), index.to_be_bytes(), &value);
        }
        self.write(batch)?;
        drop(sizes);
        self.flusher.after_sync(synced);
        Ok(())
    }

    /// Removes the entries from `index` on. Takes effect before any later append.
    ///
    /// # Errors
    /// [`LogError::Write`].
    pub fn truncate_from(&self, index: u64) -> Result<(), LogError> {
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(&self.entries(), index.to_be_bytes(), u64::MAX.to_be_bytes());
        self.write(batch)?;
        self.sizes.lock().truncate_from(index);
        Ok(())
    }

    /// Removes the entries up to and including `index` and records `purged` in its slot, both or neither.
    ///
    /// # Errors
    /// [`LogError::Write`].
    pub fn purge_to(&self, index: u64, purged: &[u8]) -> Result<(), LogError> {
        let mut batch = WriteBatch::default();
        let mut value = Vec::new();
        record::encode(purged, &mut value);
        batch.put_cf(&self.slots(), Slot::Purged.key(), &value);
        let end = if ballast_planted::is(Bug::PurgePastSnapshot) { u64::MAX } else { index.saturating_add(1) };
        let end = end.to_be_bytes();
        batch.delete_range_cf(&self.entries(), 0u64.to_be_bytes(), end);
        self.write(batch)?;
        self.sizes.lock().purge_to(index);
        let before = self.purged_on_disk.load(Ordering::Acquire);
        let on_disk = Arc::clone(&self.purged_on_disk);
        self.flusher.after_sync(Box::new(move |synced| {
            if synced.is_ok() {
                on_disk.fetch_max(index, Ordering::AcqRel);
            }
        }));
        // Whole table files go at once, and for good whatever becomes of this batch. So only those go that lie below an
        // earlier purge, whose record is on disk: a crash would leave a log that begins later than it says. The tombstone
        // above is what counts, and a failure here costs space until the next purge and nothing else.
        if let Err(error) = self.db.delete_file_in_range_cf(&self.entries(), 0u64.to_be_bytes(), before.to_be_bytes()) {
            tracing::debug!(%error, "table files below the purge stay for now");
        }
        Ok(())
    }

    /// Writes a slot. `synced`, if any, runs once it is durable.
    ///
    /// # Errors
    /// [`LogError::Write`]; then `synced` will not run.
    pub fn put(&self, slot: Slot, bytes: &[u8], synced: Option<Synced>) -> Result<(), LogError> {
        let mut value = Vec::new();
        record::encode(bytes, &mut value);
        let mut batch = WriteBatch::default();
        batch.put_cf(&self.slots(), slot.key(), &value);
        self.write(batch)?;
        if let Some(synced) = synced {
            self.flusher.after_sync(synced);
        }
        Ok(())
    }

    /// Reads a slot.
    ///
    /// # Errors
    /// [`LogError::Read`] or [`LogError::Damaged`].
    pub fn get(&self, slot: Slot) -> Result<Option<Bytes>, LogError> {
        let value = self.db.get_cf(&self.slots(), slot.key()).map_err(|error| self.read_error(&error))?;
        value
            .map(|value| {
                record::decode(&value).map(Bytes::copy_from_slice).map_err(|detail| LogError::Damaged {
                    path: self.path.clone(),
                    index: 0,
                    detail: format!("slot {slot:?}: {detail}"),
                })
            })
            .transpose()
    }

    /// Reads the entries of `range` that exist, in order, and stops after the one with which
    /// `bytes_max` is reached (so that at least one is returned if there is one).
    ///
    /// # Errors
    /// [`LogError::Read`], [`LogError::Damaged`], or [`LogError::Missing`] if there is a hole.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, LogError> {
        let mut found: Vec<(u64, Bytes)> = Vec::new();
        let mut bytes = 0;
        self.scan(range, |index, value| {
            if let Some((last, _)) = found.last()
                && index != last + 1
            {
                return Err(LogError::Missing { path: self.path.clone(), index: last + 1 });
            }
            found.push((index, Bytes::copy_from_slice(value)));
            bytes += value.len();
            Ok(bytes < bytes_max)
        })?;
        Ok(found)
    }

    /// Index of the last entry.
    ///
    /// # Errors
    /// [`LogError::Read`] or [`LogError::Damaged`].
    pub fn last(&self) -> Result<Option<(u64, Bytes)>, LogError> {
        let Some(item) = self.db.iterator_cf(&self.entries(), IteratorMode::End).next() else { return Ok(None) };
        let (key, value) = item.map_err(|error| self.read_error(&error))?;
        let (index, value) = self.entry(&key, &value)?;
        Ok(Some((index, Bytes::copy_from_slice(value))))
    }

    /// The greatest index such that the entries after it take at most `bytes_max` bytes, rounded
    /// down by up to [`sizes::STEP`] entries. `None` while all of them fit.
    pub fn index_leaving(&self, bytes_max: u64) -> Option<u64> {
        self.sizes.lock().index_leaving(bytes_max)
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.sizes.lock().bytes()
    }

    /// How often and how long the disk was waited for.
    pub fn sync_stats(&self) -> SyncStats {
        self.flusher.stats()
    }

    /// Reads every record once: a flipped bit must stop the node now, not when a peer asks.
    fn check_all(&self) -> Result<(), OpenError> {
        let path = || self.path.clone();
        let mut last: Option<u64> = None;
        let mut sizes = Sizes::default();
        for item in self.db.iterator_cf(&self.slots(), IteratorMode::Start) {
            let (key, value) = item.map_err(|error| open_error(&self.path, true, &error))?;
            self.check_version(&value)?;
            record::decode(&value).map_err(|detail| OpenError::Damaged {
                path: path(),
                detail: format!("slot {}: {detail}", String::from_utf8_lossy(&key)),
            })?;
        }
        for item in self.db.iterator_cf(&self.entries(), IteratorMode::Start) {
            let (key, value) = item.map_err(|error| open_error(&self.path, true, &error))?;
            self.check_version(&value)?;
            let (index, _) = self
                .entry(&key, &value)
                .map_err(|error| OpenError::Damaged { path: path(), detail: error.to_string() })?;
            if let Some(last) = last
                && index != last + 1
            {
                return Err(OpenError::Damaged { path: path(), detail: format!("record {} is missing", last + 1) });
            }
            sizes.push(index, value.len() as u64);
            last = Some(index);
        }
        *self.sizes.lock() = sizes;
        Ok(())
    }

    fn check_version(&self, value: &[u8]) -> Result<(), OpenError> {
        match record::version(value) {
            Some(found) if found > record::VERSION => {
                Err(OpenError::Version { path: self.path.clone(), found, known: record::VERSION })
            }
            _ => Ok(()),
        }
    }

    fn scan(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(u64, &[u8]) -> Result<bool, LogError>,
    ) -> Result<(), LogError> {
        let start = range.start.to_be_bytes();
        for item in self.db.iterator_cf(&self.entries(), IteratorMode::From(&start, Direction::Forward)) {
            let (key, value) = item.map_err(|error| self.read_error(&error))?;
            let (index, bytes) = self.entry(&key, &value)?;
            if index >= range.end || !each(index, bytes)? {
                break;
            }
        }
        Ok(())
    }

    fn entry<'a>(&self, key: &[u8], value: &'a [u8]) -> Result<(u64, &'a [u8]), LogError> {
        let damaged = |index, detail: &str| LogError::Damaged { path: self.path.clone(), index, detail: detail.into() };
        let index = u64::from_be_bytes(key.try_into().map_err(|_| damaged(0, "its key is not an index"))?);
        let bytes = record::decode(value).map_err(|detail| damaged(index, detail))?;
        Ok((index, bytes))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), LogError> {
        self.db.write(batch).map_err(|error| match error.kind() {
            ErrorKind::Corruption => self.corrupt(&error),
            _ => LogError::Write { path: self.path.clone(), detail: error.to_string() },
        })
    }

    fn read_error(&self, error: &rocksdb::Error) -> LogError {
        match error.kind() {
            ErrorKind::Corruption => self.corrupt(error),
            _ => LogError::Read { path: self.path.clone(), detail: error.to_string() },
        }
    }

    fn corrupt(&self, error: &rocksdb::Error) -> LogError {
        LogError::Corrupt { path: self.path.clone(), detail: error.to_string() }
    }

    fn entries(&self) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(ENTRIES).expect("opened with this column family")
    }

    fn slots(&self) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(SLOTS).expect("opened with this column family")
    }
}

fn database_options(options: &LogOptions) -> Options {
    let mut database = Options::default();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    database.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    database.set_manual_wal_flush(true);
    database.set_track_and_verify_wals_in_manifest(true);
    database.set_paranoid_checks(true);
    // One family fills, the other is tiny: without a bound its old write-ahead logs would pile up.
    database.set_max_total_wal_size(4 * options.write_buffer_bytes as u64);
    database.set_max_background_jobs(2);
    database.set_keep_log_file_num(4);
    database.set_max_log_file_size(1 << 20);
    database
}

fn family_options(options: &LogOptions) -> Options {
    let mut family = Options::default();
    family.set_write_buffer_size(options.write_buffer_bytes);
    family.set_max_write_buffer_number(4);
    family
}

fn open_error(path: &Path, existed: bool, error: &rocksdb::Error) -> OpenError {
    let (path, detail) = (path.to_owned(), error.to_string());
    // Of another process, and of this one. Any path may have "lock" in it.
    let locked = ["IO error: While lock file", "IO error: lock hold by current process"];
    match error.kind() {
        ErrorKind::Corruption => OpenError::Damaged { path, detail },
        ErrorKind::IOError if locked.iter().any(|words| detail.starts_with(words)) => OpenError::InUse { path, detail },
        // A file that others name is gone, or its name was damaged where it is written down.
        ErrorKind::IOError if existed && detail.contains("No such file") => OpenError::Damaged { path, detail },
        _ => OpenError::Other { path, detail },
    }
}
