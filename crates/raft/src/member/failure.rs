//! Why a member does not start, does not go on, or makes no cluster.

use std::path::PathBuf;

use ballast_core::ids::LogIndex;
use ballast_storage::{OpenError, SnapshotError};
use openraft::errors::Fatal;

use crate::{types::Types, words};

/// Why a member could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log could not be opened.
    #[error("cannot open the log")]
    Log(#[from] OpenError),
    /// The newest snapshot could not be read.
    #[error("cannot read the newest snapshot")]
    Snapshot(#[from] SnapshotError),
    /// The data belongs to somebody else.
    #[error(
        "{path} holds the data of {found}, this is {expected}; use another data directory, or empty it to join as a new node"
    )]
    OtherOwner {
        /// The data directory.
        path: PathBuf,
        /// Whose data it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The others found in an earlier life that this node must not go on.
    #[error("{0}")]
    Condemned(String),
    /// The timing is not consistent.
    #[error("the timing of elections is not possible: {0}")]
    Timing(String),
    /// The log and the snapshot could not be brought together.
    #[error("cannot recover the replicated state: {0}")]
    Recover(String),
}

/// Why a member stopped although nobody asked it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberFailure {
    /// The disk, or data on it. Starting again will find the cause or say it again.
    #[error("the member of the cluster stopped: {0}")]
    Storage(String),
    /// A mistake of ours. Starting again is right: what was acknowledged is on disk.
    #[error("the member of the cluster stopped by an internal error: {0}")]
    Internal(String),
    /// This node's state is not what most nodes have at this index. It must not serve.
    #[error(
        "this node's state differs from the others' at log index {0}; it must not serve. Remove it with \
         `ballastctl node remove`, empty its data directory, join it again, and report this with its logs"
    )]
    Diverged(LogIndex),
    /// The cluster removed this node. It must not go on under an id that is nobody's.
    #[error(
        "this node was removed from the cluster; to use the machine again, run `ballastd leave`, empty its data directory and join it as a new node"
    )]
    Removed,
    /// The log here ends before entries that this node had acknowledged. Its word must not count.
    #[error(
        "this node's log ends at {last}, but it acknowledged entries up to {acknowledged} before: the data directory is an \
         old copy, or the disk lost what it had synced. Remove the node with `ballastctl node remove`, empty its data \
         directory and join it again"
    )]
    Reverted {
        /// Last entry here.
        last: LogIndex,
        /// Last entry that was acknowledged to the leader.
        acknowledged: LogIndex,
    },
}

impl MemberFailure {
    pub(super) fn of(error: &Fatal<Types>) -> Self {
        tracing::debug!(%error, "consensus ended");
        match error {
            Fatal::StorageError(_) => Self::Storage(words::fatal(error)),
            Fatal::Panicked | Fatal::Stopped => Self::Internal(words::fatal(error)),
        }
    }

    /// Consensus ended and did not say why.
    pub(super) fn gone() -> Self {
        Self::Internal("consensus ended".to_owned())
    }
}

/// The cluster could not be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FoundError {
    /// There is one already.
    #[error("this node is already a member of a cluster")]
    AlreadyMember,
    /// The member does not run.
    #[error("the member does not run: {0}")]
    Stopped(String),
}
