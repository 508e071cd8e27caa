//! The one thread that waits for the disk.

use std::{
    io, mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use ballast_planted::Bug;
use parking_lot::{Condvar, Mutex};
use rocksdb::DB;

use super::{Synced, mark::Mark};
use crate::SyncError;

/// How often and how long the disk was waited for since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Syncs done.
    pub syncs: u64,
    /// Writes that were waiting for them.
    pub writes: u64,
    /// Nanoseconds spent in all syncs.
    pub nanos: u64,
    /// Nanoseconds of the longest.
    pub nanos_max: u64,
    /// Nanoseconds that the one under way has taken so far; zero while there is none.
    pub nanos_pending: u64,
}

/// Owns the thread; ends it when dropped, after a last sync.
#[derive(Debug)]
pub(super) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    syncs: AtomicU64,
    writes: AtomicU64,
    nanos: AtomicU64,
    nanos_max: AtomicU64,
    under_way: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Synced>,
    stop: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Flusher {
    pub(super) fn spawn(db: Arc<DB>, mark: Mark, path: PathBuf) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new().name("log-flush".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, &db, &mark, &path)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Runs `synced` after the next sync that begins now or later.
    pub(super) fn after_sync(&self, synced: Synced) {
        self.shared.queue.lock().waiting.push(synced);
        self.shared.filled.notify_one();
    }

    pub(super) fn stats(&self) -> SyncStats {
        SyncStats {
            syncs: self.shared.syncs.load(Ordering::Relaxed),
            writes: self.shared.writes.load(Ordering::Relaxed),
            nanos: self.shared.nanos.load(Ordering::Relaxed),
            nanos_max: self.shared.nanos_max.load(Ordering::Relaxed),
            nanos_pending: self.shared.under_way.lock().map_or(0, nanos_since),
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that syncs the log panicked");
        }
    }
}

fn run(shared: &Shared, db: &DB, mark: &Mark, path: &std::path::Path) {
    let mut failed: Option<SyncError> = None;
    loop {
        let (waiting, stop) = {
            let mut queue = shared.queue.lock();
            while queue.waiting.is_empty() && !queue.stop {
                shared.filled.wait(&mut queue);
            }
            (mem::take(&mut queue.waiting), queue.stop)
        };
        if failed.is_none() {
            *shared.under_way.lock() = Some(Instant::now());
            failed = sync(shared, db, mark, path, waiting.len() as u64).err();
            *shared.under_way.lock() = None;
        }
        for synced in waiting {
            synced(failed.clone().map_or(Ok(()), Err));
        }
        if stop && shared.queue.lock().waiting.is_empty() {
            return;
        }
    }
}

fn nanos_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn sync(shared: &Shared, db: &DB, mark: &Mark, path: &std::path::Path, writes: u64) -> Result<(), SyncError> {
    let began = Instant::now();
    // Read before the sync, so that it names only writes that the sync covers.
    let number = db.latest_sequence_number();
    let failed = |detail: String| SyncError { path: path.to_owned(), detail: detail.into() };
    if ballast_planted::is(Bug::UnsyncedLog) {
        // Nor noted, or the node would find out what it has lost.
        return db.flush_wal(false).map_err(|error| failed(error.to_string()));
    }
    db.flush_wal(true).map_err(|error| failed(error.to_string()))?;
    // A file system that is made read-only by an error in this moment may confirm a sync that it did not
    // carry out. It refuses this change, and then nothing is acknowledged.
    mark.write(number).map_err(|error| failed(format!("cannot note how far it was written: {error}")))?;
    let nanos = nanos_since(began);
    shared.syncs.fetch_add(1, Ordering::Relaxed);
    shared.writes.fetch_add(writes, Ordering::Relaxed);
    shared.nanos.fetch_add(nanos, Ordering::Relaxed);
    shared.nanos_max.fetch_max(nanos, Ordering::Relaxed);
    Ok(())
}
