//! Bugs that can be planted, so that the chaos suite can show that it would find them.
//!
//! Each breaks one promise in one line of the code that keeps it. In a build without the feature `planted`, which is every
//! build but that of `ballastd-planted`, [`is`] is `false` at compile time and nothing of them is left. With
//! it, `BALLAST_PLANTED` names the bug of a process.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A read is answered from what this node has applied, without asking the leader.
    ReadsWithoutReadIndex,
    /// A leader confirms reads by whatever consensus takes for an answer, however late.
    ReadsConfirmedByLateAnswers,
    /// A request is sent to the backend that was chosen for it before the binding is in the log.
    BindingForwardedBeforeCommit,
    /// A lease runs from when the answer came, not from before it was asked for.
    LeaseTimedFromReceipt,
    /// The log is acknowledged when it is written, not when it is synced.
    UnsyncedLog,
    /// The log is purged to its end, whatever the last snapshot holds.
    PurgePastSnapshot,
    /// The fence of a VIP that is new to it is open.
    FenceOpenAtStart,
    /// A change of the document is applied whatever revision it expects.
    ChangeWithoutCompare,
    /// A candidate leaves a VIP that is free to others for three seconds.
    TakesOverLate,
    /// A node without a quorum refuses clients, whatever the farm says of it.
    IsolatedRefuses,
    /// The access log has no line of a request that was not done.
    RefusalUnlogged,
    /// Now and then a node counts an entry without carrying it out; each node another one.
    EntrySkipped,
    /// A vote is kept in memory only.
    VoteNotSaved,
    /// The last byte of a body that came with its head is another.
    ByteChanged,
    /// Each check of a backend leaves a descriptor open.
    DescriptorLeaks,
    /// Of a transaction of the session store only the first command changes anything.
    HalfTransaction,
    /// A frame that is sent again has another number, by which nobody knows that it was applied.
    FrameRenumbered,
    /// An operator who moves a client is told that it is done, and it is not.
    MoveNotDone,
    /// A client that is bound is served only if the leader says at once that it still is.
    HitAsksLeader,
    /// A daemon ends well, without being told to and without a word, when it has run for 45 s.
    EndsByItself,
    /// A command that may have been proposed is sent again however long ago its caller was told that nobody knows.
    SentAfterDeadline,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::ReadsWithoutReadIndex,
        Self::ReadsConfirmedByLateAnswers,
        Self::BindingForwardedBeforeCommit,
        Self::LeaseTimedFromReceipt,
        Self::UnsyncedLog,
        Self::PurgePastSnapshot,
        Self::FenceOpenAtStart,
        Self::ChangeWithoutCompare,
        Self::TakesOverLate,
        Self::IsolatedRefuses,
        Self::RefusalUnlogged,
        Self::EntrySkipped,
        Self::VoteNotSaved,
        Self::ByteChanged,
        Self::DescriptorLeaks,
        Self::HalfTransaction,
        Self::FrameRenumbered,
        Self::MoveNotDone,
        Self::HitAsksLeader,
        Self::EndsByItself,
        Self::SentAfterDeadline,
    ];

    /// Those that nodes on a real network are not seen to have, so that they are looked for in simulated time.
    pub const SIMULATED_ONLY: [Self; 1] = [Self::ReadsConfirmedByLateAnswers];

    /// Its name in `BALLAST_PLANTED`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadsWithoutReadIndex => "reads-without-read-index",
            Self::ReadsConfirmedByLateAnswers => "reads-confirmed-by-late-answers",
            Self::BindingForwardedBeforeCommit => "binding-forwarded-before-commit",
            Self::LeaseTimedFromReceipt => "lease-timed-from-receipt",
            Self::UnsyncedLog => "unsynced-log",
            Self::PurgePastSnapshot => "purge-past-snapshot",
            Self::FenceOpenAtStart => "fence-open-at-start",
            Self::ChangeWithoutCompare => "change-without-compare",
            Self::TakesOverLate => "takes-over-late",
            Self::IsolatedRefuses => "isolated-refuses",
            Self::RefusalUnlogged => "refusal-unlogged",
            Self::EntrySkipped => "entry-skipped",
            Self::VoteNotSaved => "vote-not-saved",
            Self::ByteChanged => "byte-changed",
            Self::DescriptorLeaks => "descriptor-leaks",
            Self::HalfTransaction => "half-transaction",
            Self::FrameRenumbered => "frame-renumbered",
            Self::MoveNotDone => "move-not-done",
            Self::HitAsksLeader => "hit-asks-leader",
            Self::EndsByItself => "ends-by-itself",
            Self::SentAfterDeadline => "sent-after-deadline",
        }
    }
}

/// Variable that names the planted bug.
pub const VARIABLE: &str = "BALLAST_PLANTED";

/// Whether this process has the bug.
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<Option<String>> = OnceLock::new();
    PLANTED.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref() == Some(bug.name())
}

/// Whether this process has the bug: no.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}

#[cfg(all(test, not(feature = "planted")))]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_planted_in_an_ordinary_build() {
        const { assert!(!is(Bug::ReadsWithoutReadIndex)) };
        for (number, bug) in Bug::ALL.into_iter().enumerate() {
            assert!(!is(bug));
            assert!(Bug::ALL[..number].iter().all(|other| other.name() != bug.name()));
        }
    }
}
