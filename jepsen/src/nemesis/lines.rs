//! How bad a node's line is.

use std::{num::NonZeroU64, time::Duration};

use ballast_testkit::lab::{Between, Line, Rules};

use crate::plan::{Kind, Random};

/// The line of a fault. `choice` determines how bad it is and which way; a fault that is none of lines makes none.
pub fn of(kind: Kind, choice: u64) -> Line {
    let mut random = Random(choice);
    // Short, about as long as what clocks are allowed to differ over a lease of 200 ms, and longer than a renewal may take.
    let delay = match random.below(4) {
        0 => 3 + random.below(32),
        1 | 2 => 38 + random.below(40),
        _ => 80 + random.below(170),
    };
    let delay = Duration::from_millis(delay);
    let between = if random.below(2) == 0 { Between::Nodes } else { Between::Everybody };
    let percent = 1 + random.below(25) as u32;
    let rules = match kind {
        Kind::Delay => Rules { delay, ..Rules::default() },
        Kind::Jitter => Rules { jitter: delay, ..Rules::default() },
        Kind::Reorder => {
            let held = Duration::from_millis(1 + random.below(30));
            Rules { held_percent: percent, held, between, ..Rules::default() }
        }
        Kind::Duplicate => Rules { doubled_percent: 4 * percent, between, ..Rules::default() },
        Kind::Corrupt => Rules { damaged_percent: percent, between, ..Rules::default() },
        // From a bad modem's to that of an old Ethernet.
        Kind::SlowLink => {
            let rate = NonZeroU64::new(8_000 << random.below(8));
            Rules { bytes_per_second: rate, between, ..Rules::default() }
        }
        _ => Rules::default(),
    };
    match random.below(3) {
        0 => Line { inbound: rules, outbound: Rules::default() },
        1 => Line { inbound: Rules::default(), outbound: rules },
        _ => Line { inbound: rules, outbound: rules },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Family;

    #[test]
    fn each_kind_of_line_is_bad_in_its_way_and_no_other_fault_makes_one() {
        for kind in Kind::all() {
            for choice in 0..50 {
                let bad = of(kind, choice) != Line::default();
                assert_eq!(bad, kind.family() == Family::Line, "{kind}");
            }
        }
    }
}
