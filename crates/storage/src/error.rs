//! What can go wrong with a disk, and what an operator can do about it.

use std::{io, path::PathBuf, sync::Arc};

/// The remedy for a node whose own copy cannot be trusted: the other nodes have the data.
const REJOIN: &str = "this node must not answer from it; if the other nodes are healthy, remove this node with \
     `ballastctl node remove`, empty its data directory and join it again: it is filled from them";

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made or read.
    #[error("cannot use {path}: check that it is on a writable disk and belongs to the user that runs ballastd")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process; stop the other ballastd first ({detail})")]
    InUse {
        /// The log's folder.
        path: PathBuf,
        /// RocksDB's words.
        detail: String,
    },
    /// Something in it is not what was written.
    #[error("the log in {path} is damaged ({detail}); {REJOIN}")]
    Damaged {
        /// The log's folder.
        path: PathBuf,
        /// What is wrong with which part.
        detail: String,
    },
    /// Writes that were acknowledged are not there any more.
    #[error(
        "the log in {path} ends at write {found}, but writes up to {acknowledged} were acknowledged: files were \
         lost, cut or restored from an old copy; {REJOIN}"
    )]
    Lost {
        /// The log's folder.
        path: PathBuf,
        /// Last write found.
        found: u64,
        /// Last write that was acknowledged.
        acknowledged: u64,
    },
    /// Written by a newer version.
    #[error(
        "the log in {path} has format {found}, this version of ballastd knows format {known}; start the newer version again"
    )]
    Version {
        /// The log's folder.
        path: PathBuf,
        /// Version found.
        found: u8,
        /// Version this build writes.
        known: u8,
    },
    /// Anything else, a full or read-only disk above all.
    #[error("cannot open the log in {path}: {detail}; check space, permissions and the kernel log for disk errors")]
    Other {
        /// The log's folder.
        path: PathBuf,
        /// RocksDB's words.
        detail: String,
    },
}

/// A read or write of an open log failed. The node must stop: it cannot keep its promises.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// A write was not taken.
    #[error(
        "cannot write to the log in {path}: {detail}; check space and the kernel log for disk errors, then restart ballastd"
    )]
    Write {
        /// The log's folder.
        path: PathBuf,
        /// RocksDB's words.
        detail: String,
    },
    /// A read failed.
    #[error("cannot read the log in {path}: {detail}; check the kernel log for disk errors")]
    Read {
        /// The log's folder.
        path: PathBuf,
        /// RocksDB's words.
        detail: String,
    },
    /// RocksDB found something that is not what was written, also where nobody reads any more. It takes no write from then on,
    /// and to start again helps nothing.
    #[error("the log in {path} is damaged ({detail}); {REJOIN}")]
    Corrupt {
        /// The log's folder.
        path: PathBuf,
        /// RocksDB's words.
        detail: String,
    },
    /// A record is not what was written.
    #[error("record {index} of the log in {path} is damaged ({detail}); {REJOIN}")]
    Damaged {
        /// The log's folder.
        path: PathBuf,
        /// Index of the entry.
        index: u64,
        /// What is wrong.
        detail: String,
    },
    /// A record between others is not there.
    #[error("record {index} of the log in {path} is missing; {REJOIN}")]
    Missing {
        /// The log's folder.
        path: PathBuf,
        /// Index of the entry.
        index: u64,
    },
}

/// The disk did not confirm what was written. Sticks: nothing is acknowledged afterwards.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the disk did not confirm a write to the log in {path}: {detail}; check space and the kernel log, then restart ballastd"
)]
pub struct SyncError {
    /// The log's folder.
    pub path: PathBuf,
    /// What the system said.
    pub detail: Arc<str>,
}

/// A snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The system refused.
    #[error("cannot {doing} {path}: check space, permissions and the kernel log for disk errors")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("snapshot {path} is damaged ({detail}); {REJOIN}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        detail: String,
    },
    /// Written by a newer version.
    #[error(
        "snapshot {path} has format {found}, this version of ballastd knows format {known}; start the newer version again"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Version this build writes.
        known: u32,
    },
    /// What it holds was written by a newer version.
    #[error("snapshot {path} is of a newer version of ballastd: {detail}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// What of it is newer, and what to do.
        detail: String,
    },
}

impl SnapshotError {
    /// For interfaces that know only [`io::Error`].
    pub fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Io { source, .. } => source.kind(),
            Self::Damaged { .. } => io::ErrorKind::InvalidData,
            Self::Version { .. } | Self::Newer { .. } => io::ErrorKind::Unsupported,
        };
        io::Error::new(kind, self)
    }
}
