//! What a node keeps on disk: its log, its votes, and snapshots of the replicated state.
//!
//! Everything is bytes with an index; who made them and what they mean is the caller's business.
//! Two rules hold for all of it. What was acknowledged is there after a crash of the process or
//! of the power. And what is damaged is never read as if it were whole: the store refuses to
//! open, or to read on, with an error that says which file and what to do about it.
//!
//! Not here: consensus and the encoding of entries (`ballast-raft`), the state itself
//! (`ballast-core`).

mod error;
pub mod log;
pub mod snapshot;

pub use error::{LogError, OpenError, SnapshotError, SyncError};
