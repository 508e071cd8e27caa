//! Carries this node's commands to the leader, many at a time, and brings each caller its outcome.
//!
//! Commands wait in a bounded queue ([`queue`]). They leave as numbered frames, at most
//! [`FRAMES_IN_FLIGHT`] at a time: at rest a command leaves at once, under load commands gather
//! while the frames before them are on their way. Frames go over one stream to the leader
//! ([`link`]), which merges frames of all nodes into entries ([`merge`]). A caller is answered when
//! *this* node applies the entry ([`flight`]), so it reads its own write here.
//!
//! A frame that was sent stays until this node sees it applied, and is sent again, in order, to
//! each new leader: the state machine skips a frame it knows, so nothing is applied twice, and no
//! number is ever missing between two that are applied. Because of that a frame is never taken back
//! once it may have been proposed, and keeps as many commands as it had.
//!
//! A command is sent until its deadline, and not after it. Its caller was told that the outcome is
//! unknown, or has gone, and may have looked and made the change elsewhere; hours later, when a
//! partition heals, it would be made over what was acknowledged meanwhile. When its frame is sent
//! again a tick stands in its place. Which of the copies is applied the log decides, for all nodes
//! alike, so that what is left is a copy that a leader got before the deadline.
//!
//! A leader that runs an earlier version names what it cannot read in a frame. That is not sent
//! again either, so that it holds up nothing behind it, and its caller is told.

use ballast_core::state::codec::COMMAND_BYTES_MAX;

mod flight;
mod link;
mod log_clock;
mod merge;
mod queue;

pub(crate) use flight::Flight;
pub(crate) use link::{LinkOptions, run};
pub use log_clock::is_applied_late;
pub(crate) use log_clock::{LogClock, slowest};
pub(crate) use merge::{Inlet, Merger, log_time_now, propose_entry};
pub(crate) use queue::{Proposals, Queued};

/// Frames of this node that may be on their way at once. Two, so that the next one waits at the
/// leader while an entry is being committed, and no more, so that commands gather under load.
const FRAMES_IN_FLIGHT: usize = 2;

/// Commands in one frame, and in one entry. Bounds, with their bytes, what an apply does at once; commands of the session
/// store that do more than their bytes say have a bound of their own there.
pub(crate) const COMMANDS_MAX: usize = 4096;

/// Bytes of commands in one frame, and in one entry (a single larger command travels alone).
pub(crate) const BYTES_MAX: usize = 1 << 20;

// Two entries of one command each, and what an append takes along besides: an entry that cannot be sent would stay at the
// end of the log for ever, and nothing behind it could be committed.
const _: () = assert!(2 * (COMMAND_BYTES_MAX + BYTES_MAX) + (8 << 20) <= crate::peers::MESSAGE_BYTES_MAX);
