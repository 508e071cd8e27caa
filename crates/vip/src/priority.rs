//! Asks the kernel to run the lease thread before others, where that is allowed.

/// Low among the real-time priorities: above everything ordinary, below kernel threads. Arbitrary
/// within that.
const FIFO_PRIORITY: i32 = 10;

/// The best that an ordinary thread can have: where real time is refused for other reasons than a lack of permission, as in
/// a container on a kernel with scheduling of groups in real time.
const NICE: libc::c_int = -20;

/// What the kernel granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub fifo: bool,
    /// Where `fifo` is not: before other ordinary threads.
    pub nice: bool,
    pub locked: bool,
}

/// Makes the calling thread a real-time thread with exact timers, and keeps the process's present
/// pages in memory. A refusal is not an error: leases stay safe, renewals may be later.
pub(crate) fn raise() -> Granted {
    let parameter = libc::sched_param { sched_priority: FIFO_PRIORITY };
    // SAFETY: `parameter` is valid for the call; 0 names the calling thread.
    let fifo =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameter) } == 0;
    // SAFETY: takes numbers only; 0 names the calling thread.
    let nice = !fifo && unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } == 0;
    // Pages of the future are left alone: with a limit on locked memory, later allocations of the
    // whole process would fail.
    // SAFETY: takes flags only.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT) } == 0;
    // Timers of ordinary threads may be 50 us late by default.
    // SAFETY: takes a number only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
    Granted { fifo, nice, locked }
}
