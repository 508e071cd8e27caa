//! The one clock that leases are measured by.

use ballast_core::time::BootNanos;

/// Now on `CLOCK_BOOTTIME`: never set, counts through suspend.
pub fn boot_now() -> BootNanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call writes.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    // It fails only for a clock that the kernel does not have, and Linux has this one since 2.6.39. A
    // node without it must not hold leases.
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
