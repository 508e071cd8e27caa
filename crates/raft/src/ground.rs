//! What a member stands on: a durable log, a folder for snapshots, and somebody who waits for disks.
//!
//! On a node these are RocksDB, files and threads ([`Ground::open`]). A simulation brings its own, because threads that it
//! does not schedule and a library in C++ would make each run another.
//!
//! Not here: what is kept in them (`log_store`, `machine`).

use std::{io, path::Path, sync::Arc};

use ballast_core::cluster::BoxFuture;
use ballast_storage::{
    log::{DurableLog, Log, LogOptions},
    snapshot::SnapshotFolder,
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
};

use crate::StartError;

/// What a member stands on.
pub struct Ground {
    /// The log.
    pub log: Box<dyn DurableLog>,
    /// Where snapshots are.
    pub snapshots: SnapshotFolder,
    /// Where work is done that waits for a disk or takes long.
    pub blocking: Arc<dyn Blocking>,
}

impl Ground {
    /// RocksDB and files in `data_dir`, and tokio's threads for blocking work.
    ///
    /// # Errors
    /// [`StartError::Log`] and [`StartError::Snapshot`].
    pub fn open(data_dir: &Path, options: LogOptions) -> Result<Self, StartError> {
        let log = Log::open(&log_folder(data_dir), options)?;
        let snapshots = SnapshotFolder::open(&data_dir.join("snapshots"))?;
        Ok(Self { log: Box::new(log), snapshots, blocking: Arc::new(BlockingThreads) })
    }
}

pub(crate) fn log_folder(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("log")
}

/// Does work that takes its time: it reads or writes files, frees much memory, or applies entries with much in them.
pub trait Blocking: Send + Sync + 'static {
    /// Does `work` where it holds nobody up. Called on the runtime; the future resolves when the work is done or will never be.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the wait. The work may be done all the same.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// Tokio's threads for blocking work.
#[derive(Clone, Copy, Debug)]
pub struct BlockingThreads;

impl Blocking for BlockingThreads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let done = tokio::task::spawn_blocking(work);
        // Whoever wanted something of the work has a way of their own to learn that it panicked.
        Box::pin(async move { drop(done.await) })
    }
}

/// Does `work` on `threads` and gives what it came to.
///
/// # Errors
/// When it panicked, or the runtime ends.
pub(crate) async fn blocking<T: Send + 'static>(
    threads: &dyn Blocking,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    // Nobody waits for the result of a task that was dropped.
    threads.run(Box::new(move || drop(sender.send(work())))).await;
    result.await.map_err(|_| io::Error::other("work on a thread of its own panicked, or this node is stopping"))
}

/// Waits for a lock where others may hold it for long. The other tasks of this thread go on elsewhere meanwhile, if the
/// runtime has threads.
pub(crate) fn aside<T>(wait: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_waits_for_a_lock_holds_up_no_other_task() {
        let ((give, lock), (waits, waiting)) = (mpsc::channel(), oneshot::channel());
        let waiter = tokio::spawn(async move {
            waits.send(()).expect("somebody listens");
            aside(|| lock.recv_timeout(Duration::from_secs(20))).expect("it is given");
        });
        // On the only thread there is, so that this runs once the waiter has left it.
        let other = tokio::spawn(async move {
            waiting.await.expect("it waits");
            give.send(()).expect("somebody waits");
        });
        other.await.expect("runs");
        waiter.await.expect("gets the lock");
    }

    #[tokio::test]
    async fn work_gives_its_result_and_a_panic_is_an_error() {
        assert_eq!(blocking(&BlockingThreads, || 7).await.expect("done"), 7);
        let panicked: io::Result<()> = blocking(&BlockingThreads, || panic!("as planned")).await;
        assert!(panicked.is_err());
    }
}
