//! Lives that end: what a client can know of an instant that another clock decides.
//!
//! A life of `px` begins when the write takes effect, which is some time in its [`Window`], and ends `px` later by log time.
//! Log time runs beside the clients' clock: it may be ahead or behind by a bounded amount, and while it is pulled towards the
//! clocks of a majority a tenth faster or slower. So the end is an interval too. Before it the value must be seen, after it
//! the value must be gone, and within it both answers are right; but gone is gone: a value that was once not seen is not
//! seen again, and one that was seen had not ended by then.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::history::RunTime;
use crate::linear::Window;
use crate::time::Span;

/// By how much log time may differ from the clients' clock over a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSlack {
    /// The most by which the difference between the two clocks can change from the write to a read: log time steps
    /// from entry to entry, is estimated differently on each node, and may jump when a leader changes.
    pub offset: Duration,
    /// By how much its rate may differ, in thousandths: 100 while log time is pulled by a tenth.
    pub rate_per_mille: u32,
    /// For how long nobody carried log time on: so much later a life may end, and no earlier.
    pub dead: Duration,
}

impl ClockSlack {
    /// Log time and the clients' clock are one.
    pub const NONE: Self = Self { offset: Duration::ZERO, rate_per_mille: 0, dead: Duration::ZERO };

    /// A fixed bound, with clocks that run alike.
    pub const fn fixed(offset: Duration) -> Self {
        Self { offset, rate_per_mille: 0, dead: Duration::ZERO }
    }

    /// The same for an object that was asked for in that time: of the times in which nobody carried log time on, those that
    /// touch it put off what ends in it. After one that came before, log time is late by as much at both ends of a life.
    #[must_use]
    pub fn within(self, asked: Span, dead: &[Span]) -> Self {
        let dead = dead.iter().filter(|dead| dead.touches(asked)).map(|dead| dead.length()).sum();
        Self { dead, ..self }
    }

    fn over(self, life: Duration) -> Duration {
        self.offset.saturating_add(life.saturating_mul(self.rate_per_mille) / 1000)
    }
}

/// The interval in which a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// It has not ended before.
    pub earliest: RunTime,
    /// It has ended then.
    pub latest: RunTime,
}

impl End {
    /// The end of a life that begins somewhere in `begun`.
    pub fn of(begun: Window, life: Duration, slack: ClockSlack) -> Self {
        let (late, slack) = (slack.dead, slack.over(life));
        Self {
            earliest: begun.from.after(life).before(slack),
            latest: begun.until.after(life).after(slack).after(late),
        }
    }

    /// What is known of the end if something was seen alive at some time in `seen`; `None` if that cannot be.
    #[must_use]
    pub fn if_alive(self, seen: Window) -> Option<Self> {
        (seen.from < self.latest).then(|| Self { earliest: self.earliest.max(seen.from), ..self })
    }

    /// Whether something can have been seen to be gone at some time in `seen`.
    pub fn may_be_gone(self, seen: Window) -> bool {
        seen.until >= self.earliest
    }
}
