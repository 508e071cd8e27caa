//! The one clock of a run.

use ballast_jepsen::time::RunTime;
use ballast_testkit::kernel;
use serde::{Deserialize, Serialize};

/// Counts from the start of the run, by the monotonic clock of the machine that all clients are on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Clock {
    start: u64,
}

impl Clock {
    /// Starts to count.
    pub fn start() -> Self {
        Self { start: kernel::now_nanos() }
    }

    /// Now.
    pub fn now(self) -> RunTime {
        RunTime::from_nanos(kernel::now_nanos().saturating_sub(self.start))
    }

    /// An instant that the kernel counts so, in nanoseconds.
    pub fn of(self, nanos: u64) -> RunTime {
        RunTime::from_nanos(nanos.saturating_sub(self.start))
    }

    /// The same instant as the kernel counts it, in nanoseconds.
    pub fn kernel(self, at: RunTime) -> u64 {
        self.start.saturating_add(at.as_nanos())
    }
}
