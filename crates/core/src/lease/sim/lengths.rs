//! How long leases last as one life of a node knows it: what its publisher makes of the documents that it has applied.
//!
//! A lease that was replaced counts on for as long as a right by it may, and for as long again after each start, as the
//! node does not know what it promised. A longer one is granted once it is on disk and asked for a while later.
//!
//! Not here: the publisher itself (`ballastd`).

use super::LEASE;
use crate::time::BootNanos;

/// The longest lease of a run.
pub(super) const LEASE_MAX: u64 = 2 * LEASE;

/// For how long a lease counts after it was replaced, as thirteen seconds are to the ten that a document may ask for.
const REPLACED_COUNTS: u64 = LEASE_MAX / 10 * 13;

#[derive(Default)]
pub(super) struct Lengths {
    /// When this life saw that each earlier document was replaced.
    replaced: Vec<BootNanos>,
    asked: Option<u64>,
    /// Since when a longer one waits.
    longer: Option<(u64, BootNanos)>,
}

impl Lengths {
    /// Looks at the leases of the documents that are applied. A longer one waits for `held_back`.
    pub(super) fn look(&mut self, now: BootNanos, leases: &[u64], held_back: u64) {
        self.replaced.resize(leases.len() - 1, now);
        let lease = leases[leases.len() - 1];
        if self.asked.is_none_or(|asked| lease <= asked) {
            (self.asked, self.longer) = (Some(lease), None);
            return;
        }
        let since = self.longer.filter(|(longer, _)| *longer == lease).map_or(now, |(_, since)| since);
        self.longer = Some((lease, since));
        if now.since(since) >= held_back {
            (self.asked, self.longer) = (Some(lease), None);
        }
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked.unwrap_or(LEASE)
    }

    /// The longest of the first leases that may be in force, the last of them whatever came after it.
    pub(super) fn longest(&self, now: BootNanos, leases: &[u64]) -> u64 {
        let last = leases.len() - 1;
        let counts = |at: usize| self.replaced.get(at).is_none_or(|replaced| now.since(*replaced) <= REPLACED_COUNTS);
        let counting = leases.iter().enumerate().filter(|(at, _)| *at == last || counts(*at));
        counting.map(|(_, lease)| *lease).max().unwrap_or(LEASE)
    }
}
