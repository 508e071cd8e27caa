//! A snapshot that is cut off while it travels: why a node needs one, and what cuts it when.
//!
//! Each cut has a part of the file after which it comes. A transfer that was cut begins anew, or goes on if it was only held up;
//! the next cut comes when its own part is there, so the parts are in no order.
//!
//! Not here: doing any of it (`nemesis::transfer`).

use std::{num::NonZeroU64, time::Duration};

use super::Random;

/// Why a node needs a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It was away until the others had purged what it lacks.
    Behind,
    /// It is a new one in the place of one that was removed.
    Emptied,
}

/// What cuts the transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nobody reaches the receiver for so long.
    Isolate(Duration),
    /// The receiver is stopped in its tracks for so long.
    PauseReceiver(Duration),
    /// The sender is.
    PauseSender(Duration),
    /// The receiver is killed, and started again at once.
    KillReceiver,
    /// The sender is.
    KillSender,
}

impl Cut {
    /// Whether only the receiver has it to suffer, so that the others must serve meanwhile.
    pub fn spares_others(self) -> bool {
        match self {
            Self::Isolate(_) | Self::PauseReceiver(_) | Self::KillReceiver => true,
            Self::PauseSender(_) | Self::KillSender => false,
        }
    }
}

/// A cut to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// What.
    pub cut: Cut,
    /// When so much of the file is there.
    pub percent: u64,
}

impl At {
    /// Whether it comes now.
    pub fn is_due(self, received_bytes: u64, whole_bytes: u64) -> bool {
        received_bytes > 0 && received_bytes * 100 >= whole_bytes * self.percent
    }
}

/// A transfer and its cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Why there is one.
    pub need: Need,
    /// How fast it can be at most.
    pub bytes_per_second: NonZeroU64,
    /// In the order in which they come.
    pub cuts: Vec<At>,
}

impl Transfer {
    /// That of a fault.
    pub fn of(choice: u64) -> Self {
        let mut random = Random(choice);
        let need = if random.below(2) == 0 { Need::Behind } else { Need::Emptied };
        // Two to four seconds for what it is about.
        let bytes_per_second = NonZeroU64::MIN.saturating_add(4_000_000 + random.below(4_000_000));
        let count = 2 + random.below(3);
        let cuts = (0..count).map(|_| At { cut: cut(&mut random), percent: 3 + random.below(90) }).collect();
        Self { need, bytes_per_second, cuts }
    }
}

fn cut(random: &mut Random) -> Cut {
    // Held up, noticed as an election is, and longer than a connection is believed in.
    let time = Duration::from_millis([300, 2000, 7000][random.below(3) as usize]);
    match random.below(6) {
        0 | 1 => Cut::Isolate(time),
        2 => Cut::PauseReceiver(time),
        3 => Cut::PauseSender(time.min(Duration::from_secs(2))),
        4 => Cut::KillReceiver,
        _ => Cut::KillSender,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_need_and_cut_comes_up_and_every_transfer_is_cut_several_times() {
        let all: Vec<Transfer> = (0..200).map(Transfer::of).collect();
        assert!(all.iter().all(|one| (2..=4).contains(&one.cuts.len())));
        assert!([Need::Behind, Need::Emptied].iter().all(|need| all.iter().any(|one| one.need == *need)));
        let cuts: Vec<At> = all.iter().flat_map(|one| one.cuts.clone()).collect();
        let kinds = cuts.iter().map(|at| std::mem::discriminant(&at.cut)).collect::<std::collections::HashSet<_>>();
        assert_eq!(kinds.len(), 5);
        assert!(cuts.iter().all(|at| at.percent < 95), "what is over is not cut");
        assert!(cuts.iter().any(|at| at.cut.spares_others()) && cuts.iter().any(|at| !at.cut.spares_others()));
    }

    #[test]
    fn a_cut_comes_when_its_part_is_there_and_not_before_anything_is() {
        let at = At { cut: Cut::KillReceiver, percent: 40 };
        assert_eq!([0, 399, 400, 1000].map(|received| at.is_due(received, 1000)), [false, false, true, true]);
        assert!(!At { percent: 0, ..at }.is_due(0, 1000));
    }

    #[test]
    fn a_seed_determines_it() {
        assert_eq!(Transfer::of(7), Transfer::of(7));
        assert_ne!(Transfer::of(7), Transfer::of(8));
    }
}
