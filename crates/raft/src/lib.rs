//! The cluster's consensus: one Raft group of which every node runs a [`Member`].
//!
//! The one home of openraft; none of its types appear in this crate's interface, and none of its
//! encodings on disk or between nodes. Everybody else proposes commands and confirms reads through
//! the traits of `ballast_core::cluster`, which [`Handle`] implements, and sees the replicated
//! state change through an [`Observer`].
//!
//! Not here: what commands do (`ballast_core::state`), how the log lies on disk
//! (`ballast-storage`), leases (they do not hang on the leader; `ballast_core::lease`), the
//! listener and its certificates (`ballastd`).

mod acked;
mod clocks;
mod compare;
mod duties;
mod ground;
mod line;
mod log_store;
mod machine;
mod member;
mod membership;
mod network;
mod peers;
mod proposer;
mod reads;
mod removal;
mod service;
mod slow_votes;
mod status;
mod streams;
mod tasks;
mod timing;
mod types;
mod upkeep;
mod wire;
mod words;

pub use ground::{Blocking, BlockingThreads, Ground};
pub use machine::Observer;
pub use member::{FoundError, Handle, Member, MemberFailure, MemberOptions, StartError};
pub use peers::{Connect, Connection, TlsConnect};
pub use proposer::is_applied_late;
pub use service::PeerNode;
pub use status::{PeerStatus, Role, Status};
pub use timing::Timing;
pub use upkeep::LogBounds;
