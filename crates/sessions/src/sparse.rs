//! Lines of the log about what clients do: some a second, so that whoever makes them cannot fill a disk.

use std::cell::Cell;

/// Lines a second that one worker writes. Arbitrary: enough to see what goes on.
const LINES_MAX: u32 = 10;

/// Counts lines.
#[derive(Debug, Default)]
pub struct Sparse {
    second: Cell<u64>,
    said: Cell<u32>,
    left_out: Cell<u64>,
}

impl Sparse {
    /// Whether one more line may be written now; how many were left out since the last one that was.
    pub fn may(&self, now_ms: u64) -> Option<u64> {
        let second = now_ms / 1000;
        if self.second.replace(second) != second {
            self.said.set(0);
        }
        if self.said.get() == LINES_MAX {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.said.set(self.said.get() + 1);
        Some(self.left_out.take())
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
