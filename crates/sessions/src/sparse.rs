//! Lines of the log about what clients do: some a second, so that whoever makes them cannot fill a disk.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Lines a second that are written of one thing. Arbitrary: enough to see what goes on.
const LINES_MAX: u32 = 10;

/// Counts lines.
#[derive(Debug, Default)]
pub struct Sparse {
    second: AtomicU64,
    said: AtomicU32,
    left_out: AtomicU64,
}

impl Sparse {
    /// Whether one more line may be written now; how many were left out since the last one that was.
    pub fn may(&self, now_ms: u64) -> Option<u64> {
        let second = now_ms / 1000;
        // Threads that meet here may write a line more, or count one less.
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.said.store(0, Ordering::Relaxed);
        }
        if self.said.fetch_add(1, Ordering::Relaxed) < LINES_MAX {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_lines_a_second_and_the_others_are_counted() {
        let lines = Sparse::default();
        let said = |now_ms, times| (0..times).filter_map(|_| lines.may(now_ms)).collect::<Vec<_>>();
        assert_eq!(said(999, 10), [0; 10]);
        assert_eq!(said(999, 7), [0; 0]);
        assert_eq!(said(1000, 2), [7, 0]);
        assert_eq!(said(9000, 1), [0]);
    }
}
