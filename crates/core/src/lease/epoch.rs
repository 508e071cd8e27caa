//! The fencing number of a lease.

use std::fmt;

use crate::ids::LogIndex;

/// Bits below the log index.
const COUNTER_BITS: u32 = 20;

/// Grows with each owner of a VIP. Its upper bits are the log index under which it was asked for,
/// so that it grows even when every voter forgot the last one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(u64);

impl Epoch {
    /// Wraps a number that came from the log or the wire.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next epoch after this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The lowest epoch that is above `self` and begins with `index` or more.
    pub fn above(self, index: LogIndex) -> Self {
        let floor = index.get().min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS;
        Self(floor.max(self.next().0))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> COUNTER_BITS, self.0 & ((1 << COUNTER_BITS) - 1))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_grows_by_index_or_by_counter() {
        let first = Epoch::default().above(LogIndex::new(7));
        assert_eq!(first.get(), 7 << 20);
        assert_eq!(first.above(LogIndex::new(7)).get(), (7 << 20) + 1);
        assert_eq!(first.above(LogIndex::new(3)).get(), (7 << 20) + 1);
        assert_eq!(first.above(LogIndex::new(9)).get(), 9 << 20);
        assert_eq!(Epoch::new(3 << 20 | 2).to_string(), "3.2");
    }
}
