//! Clocks and scheduling of the measuring threads, and limits of this process.

use std::io;

/// Nanoseconds of the monotonic clock: all times in records are of it.
pub fn now_nanos() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds of the wall clock, by which the kernel stamps frames as they arrive. Compared only
/// with itself, over a fraction of a millisecond.
pub fn wall_nanos() -> u64 {
    read(libc::CLOCK_REALTIME)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing; both clocks always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lets the calling thread go before all ordinary ones, so that what it measures is not its own waiting.
///
/// # Errors
/// Where that is not allowed; the figures are noisier then.
pub fn go_first(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters live through the call; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits until one of the descriptors is ready or so many nanoseconds have passed.
pub fn wait(descriptors: &mut [libc::pollfd], nanos: u64) {
    let timeout = libc::timespec {
        tv_sec: (nanos / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: pointer and length are of one slice; the timeout lives through the call; a null mask leaves signals alone.
    unsafe {
        libc::ppoll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, &raw const timeout, std::ptr::null())
    };
}

/// Sets how many descriptors this process, and those that it starts from now on, may have open: `wanted`, or the most that
/// the machine lets it. Returns how many that are.
///
/// # Errors
/// What the kernel says.
pub fn limit_descriptors(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) fills the one structure that it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = wanted.min(limit.rlim_max);
    // SAFETY: setrlimit(2) reads the one structure that it is given.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}
