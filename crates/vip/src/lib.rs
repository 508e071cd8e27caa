//! Carries out VIP leases: the lease thread, what it opens, and whom it tells.
//!
//! [`LeaseThread::start`] runs [`ballast_core::lease::LeaseNode`] on a thread of its own, with a UDP
//! socket of its own, so that a renewal never waits for a request, a disk, an allocation of somebody
//! else or an async runtime. What it needs of the agreed state is published to it as an immutable
//! view; what the data plane needs of it are gates with absolute deadlines, which close by
//! themselves when this thread does not run.
//!
//! Not here: the protocol (`ballast_core::lease`), which is pure and is tested by simulation.

mod driver;
mod fence;
mod gates;
mod handle;
mod herald;
mod intake;
mod jitter;
mod marks;
pub mod net;
pub mod netlink;
mod priority;
mod thread;
mod voice;

pub use driver::{Closing, Driver, Finishing, ListenerChange, LoopbackDriver};
pub use fence::{
    Breach, Deadlines, Earlier, EbpfError, Fence, FenceCounters, FenceError, FenceLevel, FenceWish, Guarded, Inherited,
    NftError, Unfenced, inherited,
};
pub use gates::Gates;
pub use handle::{Counters, Handle};
pub use herald::EventSink;
pub use jitter::{Figures, Jitter};
pub use marks::{ConfirmedCell, LogMarks};
pub use thread::{Inputs, LeaseThread, Options, StartError};
