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
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ReadsWithoutReadIndex,
        Self::ReadsConfirmedByLateAnswers,
        Self::BindingForwardedBeforeCommit,
        Self::LeaseTimedFromReceipt,
        Self::UnsyncedLog,
        Self::PurgePastSnapshot,
        Self::FenceOpenAtStart,
    ];

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
