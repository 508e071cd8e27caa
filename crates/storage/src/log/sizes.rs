//! How many bytes lie after which entry, coarsely, so that a purge can be bounded by bytes.

use std::collections::VecDeque;

/// Entries between two points that are remembered. Sixteen bytes for 64 entries.
pub const STEP: u64 = 64;

/// Running totals at every [`STEP`]th entry.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// Index, and bytes of all entries up to and including it.
    points: VecDeque<(u64, u64)>,
    /// Bytes up to the last purge.
    purged: u64,
    /// Bytes up to the last entry.
    total: u64,
    last: u64,
}

impl Sizes {
    pub(super) fn push(&mut self, index: u64, bytes: u64) {
        self.total += bytes;
        self.last = index;
        if index.is_multiple_of(STEP) {
            self.points.push_back((index, self.total));
        }
    }

    pub(super) fn truncate_from(&mut self, index: u64) {
        while self.points.back().is_some_and(|(point, _)| *point >= index) {
            self.points.pop_back();
        }
        if index <= self.last {
            // Coarse: the entries between the last point and the cut are not counted any more.
            self.total = self.points.back().map_or(self.purged, |(_, total)| *total);
            self.last = index.saturating_sub(1);
        }
    }

    pub(super) fn purge_to(&mut self, index: u64) {
        while let Some((point, total)) = self.points.front().copied() {
            if point > index {
                break;
            }
            self.purged = total;
            self.points.pop_front();
        }
        if index >= self.last {
            self.purged = self.total;
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.total - self.purged
    }

    pub(super) fn index_leaving(&self, bytes_max: u64) -> Option<u64> {
        if self.bytes() <= bytes_max {
            return None;
        }
        let enough = self.points.partition_point(|(_, total)| self.total - total > bytes_max);
        self.points.get(enough).map(|(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_index_after_which_at_most_so_many_bytes_lie() {
        let mut sizes = Sizes::default();
        for index in 1..=1000 {
            sizes.push(index, 10);
        }
        assert_eq!(sizes.bytes(), 10_000);
        assert_eq!(sizes.index_leaving(10_000), None);
        let index = sizes.index_leaving(5000).expect("not all fit");
        assert!((500..=500 + STEP).contains(&index), "{index}");
        sizes.purge_to(512);
        assert_eq!(sizes.bytes(), 4880);
        sizes.truncate_from(900);
        assert!(sizes.bytes() <= 3880 && sizes.bytes() >= 3880 - 10 * STEP, "{}", sizes.bytes());
    }
}
