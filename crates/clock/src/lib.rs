//! The one clock that leases, freshness and log time are measured by, read where the cores are
//! given the time.
//!
//! Not here: wall clocks, which only people, certificates and the voters' agreement on log time want.

use ballast_core::time::BootNanos;

/// Now on `CLOCK_BOOTTIME`: never set, counts through suspend.
///
/// # Panics
/// On a kernel without that clock (before Linux 2.6.39): a node without it must not hold leases.
#[must_use]
pub fn boot_now() -> BootNanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to a valid place.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(status, 0, "this kernel has no CLOCK_BOOTTIME");
    BootNanos::new(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_forward() {
        let first = super::boot_now();
        assert!(first.get() > 0 && super::boot_now() >= first);
    }
}
