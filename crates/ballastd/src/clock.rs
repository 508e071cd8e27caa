//! This machine's clocks, read where the cores are given the time.

use ballast_core::time::BootNanos;

/// `CLOCK_BOOTTIME` now: never set, counts through suspend.
pub fn boottime() -> BootNanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to a valid place; this clock always exists on Linux.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(result, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    BootNanos::new(u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}
