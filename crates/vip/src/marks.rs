//! Numbers that other threads write or read beside the lease thread.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering, fence},
};

use arc_swap::ArcSwap;
use ballast_core::{
    cluster::Contact,
    health::Heard,
    ids::{EntryId, LogIndex},
    lease::{Confirmed, LogFacts},
    time::BootNanos,
};

/// Positions in this node's log, written by Raft's storage, read with every datagram; and whether views are still made.
#[derive(Debug, Default)]
pub struct LogMarks {
    applied: AtomicU64,
    /// In one piece, because half of one entry's name and half of another's name a third. Readers never wait.
    ends: ArcSwap<Ends>,
    /// When the one who publishes views last looked; zero if it never said so.
    looked: AtomicU64,
}

/// The last entry in the log, and the newest membership in it.
#[derive(Debug, Default)]
struct Ends {
    last: EntryId,
    membership: EntryId,
}

impl LogMarks {
    /// Marks as they stand after the log was opened. Start the lease thread after that.
    pub fn new(facts: LogFacts) -> Self {
        let marks = Self::default();
        marks.set_applied(facts.applied);
        marks.set_ends(facts.last, facts.membership);
        marks
    }

    /// An entry was applied.
    pub fn set_applied(&self, index: LogIndex) {
        self.applied.store(index.get(), Ordering::Release);
    }

    /// The log ends with `last` now, and `membership` is the newest membership in it. Store it *before* an append is
    /// acknowledged, and after a truncation.
    pub fn set_ends(&self, last: EntryId, membership: EntryId) {
        self.ends.store(Arc::new(Ends { last, membership }));
    }

    /// Whoever publishes views says that it is alive, as often as it looks.
    pub fn looked(&self, now: BootNanos) {
        self.looked.store(now.get(), Ordering::Release);
    }

    /// For how many nanoseconds it has not said so; zero if it never did.
    pub(crate) fn silent_for(&self, now: BootNanos) -> u64 {
        match self.looked.load(Ordering::Acquire) {
            0 => 0,
            looked => now.since(BootNanos::new(looked)),
        }
    }

    /// All three.
    pub fn get(&self) -> LogFacts {
        let ends = self.ends.load();
        LogFacts {
            applied: LogIndex::new(self.applied.load(Ordering::Acquire)),
            last: ends.last,
            membership: ends.membership,
        }
    }
}

/// A [`Confirmed`] that one thread writes and any number read, without a lock: readers look again
/// when the counter was odd or moved meanwhile.
#[derive(Debug, Default)]
pub struct ConfirmedCell {
    version: AtomicU64,
    asked_at: AtomicU64,
    index: AtomicU64,
}

impl ConfirmedCell {
    /// Publishes. One thread only.
    pub(crate) fn set(&self, confirmed: Confirmed) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.asked_at.store(confirmed.asked_at.get(), Ordering::Relaxed);
        self.index.store(confirmed.index.get(), Ordering::Relaxed);
        self.version.store(version + 2, Ordering::Release);
    }

    /// The newest, nothing before the first.
    pub fn get(&self) -> Option<Confirmed> {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let asked_at = self.asked_at.load(Ordering::Relaxed);
            let index = self.index.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                let confirmed = Confirmed { asked_at: BootNanos::new(asked_at), index: LogIndex::new(index) };
                return (before > 0).then_some(confirmed);
            }
            std::hint::spin_loop();
        }
    }
}

impl Contact for ConfirmedCell {
    fn heard(&self) -> Heard {
        self.get().map(|confirmed| confirmed.asked_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_never_see_halves_of_two_values() {
        let cell = Arc::new(ConfirmedCell::default());
        assert_eq!(cell.get(), None);
        let writer = {
            let cell = Arc::clone(&cell);
            std::thread::spawn(move || {
                for n in 1..=20_000 {
                    cell.set(Confirmed { asked_at: BootNanos::new(n), index: LogIndex::new(n * 3) });
                }
            })
        };
        let mut newest = 0;
        while newest < 20_000 {
            if let Some(Confirmed { asked_at, index }) = cell.get() {
                assert_eq!(asked_at.get() * 3, index.get());
                assert!(asked_at.get() >= newest);
                newest = asked_at.get();
            }
        }
        writer.join().expect("the writer does not panic");
    }
}
