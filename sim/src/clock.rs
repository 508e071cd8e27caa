//! Simulated time and entropy, below everything: what the system's calls answer while a run is on.
//!
//! A run must not see the machine's clocks or its randomness, and neither only reaches it through our own code: tokio, hyper,
//! openraft and the standard library's maps ask as well. So this program has `clock_gettime`, `getrandom` and `getentropy` of
//! its own, which the linker prefers to those of the C library. Before [`begin`] they pass on to the kernel.
//!
//! A process is one run: counters that libraries keep for the life of a process are part of what a seed repeats.
//!
//! Not here: the wall clocks of single nodes, which may be wrong ([`wall`] reads them with their error).

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ballast_jepsen::history::RunTime;

use crate::random::Random;

static SIMULATED: AtomicBool = AtomicBool::new(false);
/// Nanoseconds since the start of the run.
static NOW: AtomicU64 = AtomicU64::new(0);
/// The last instant that was told as one of its own.
static LAST_INSTANT: AtomicU64 = AtomicU64::new(0);
static ENTROPY: AtomicU64 = AtomicU64::new(0);

/// What the machines' clocks say when a run begins: some days after boot, in 2027.
const BOOT: u64 = 300_000 * 1_000_000_000;
const EPOCH: u64 = 1_800_000_000 * 1_000_000_000;

/// From here on this process lives in simulated time, and its entropy comes from `seed`.
pub fn begin(seed: u64) {
    ENTROPY.store(seed ^ 0x5eed_0fe1_7209, Ordering::Relaxed);
    SIMULATED.store(true, Ordering::Relaxed);
}

/// Moves time forward.
pub fn advance(by: Duration) {
    NOW.fetch_add(u64::try_from(by.as_nanos()).expect("a tick is short"), Ordering::Relaxed);
}

/// Simulated time since the start.
pub fn elapsed() -> Duration {
    Duration::from_nanos(NOW.load(Ordering::Relaxed))
}

/// Now, as an instant that nothing else has: everything happens in one thread, so that what comes later is later.
pub fn instant() -> RunTime {
    let now = NOW.load(Ordering::Relaxed).max(LAST_INSTANT.load(Ordering::Relaxed) + 1);
    LAST_INSTANT.store(now, Ordering::Relaxed);
    RunTime::from_nanos(now)
}

/// Most nodes that a run may ever have, removed ones included.
pub const NODES_MAX: usize = 16;

static WALL_ERRORS: [AtomicI64; NODES_MAX] = [const { AtomicI64::new(0) }; NODES_MAX];

/// Puts the wall clock of a node (counted from zero) wrong by so many milliseconds.
pub fn set_wall_error(node: usize, millis: i64) {
    WALL_ERRORS[node].store(millis, Ordering::Relaxed);
}

/// A function that reads the wall clock of a node (counted from zero).
pub fn wall(node: usize) -> fn() -> SystemTime {
    fn of<const NODE: usize>() -> SystemTime {
        let error = WALL_ERRORS[NODE].load(Ordering::Relaxed);
        let right = i64::try_from((EPOCH + NOW.load(Ordering::Relaxed)) / 1_000_000).expect("this century");
        UNIX_EPOCH + Duration::from_millis(u64::try_from(right + error).expect("errors are small"))
    }
    const READERS: [fn() -> SystemTime; NODES_MAX] = [
        of::<0>, of::<1>, of::<2>, of::<3>, of::<4>, of::<5>, of::<6>, of::<7>, of::<8>, of::<9>, of::<10>, of::<11>,
        of::<12>, of::<13>, of::<14>, of::<15>,
    ];
    READERS[node]
}

/// The C library's clocks.
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if !SIMULATED.load(Ordering::Relaxed) {
        // SAFETY: passed on to the kernel as it came.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int };
    }
    let begun = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => EPOCH,
        _ => BOOT,
    };
    let nanos = begun + NOW.load(Ordering::Relaxed);
    let told =
        libc::timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as libc::c_long };
    // SAFETY: callers of this function of the C library give a place for one timespec.
    unsafe { time.write(told) };
    0
}

/// The kernel's randomness.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut libc::c_void, length: libc::size_t, flags: libc::c_uint) -> libc::ssize_t {
    if !SIMULATED.load(Ordering::Relaxed) {
        // SAFETY: passed on to the kernel as it came.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as libc::ssize_t };
    }
    fill(buffer, length);
    length.cast_signed()
}

/// The same by another name.
#[unsafe(no_mangle)]
extern "C" fn getentropy(buffer: *mut libc::c_void, length: libc::size_t) -> libc::c_int {
    if getrandom(buffer, length, 0) == length.cast_signed() { 0 } else { -1 }
}

fn fill(buffer: *mut libc::c_void, length: usize) {
    if length == 0 {
        return;
    }
    let mut random = Random::new(ENTROPY.fetch_add(1, Ordering::Relaxed));
    // SAFETY: callers of these functions of the C library give a place for `length` bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn outside_of_a_run_the_kernel_answers() {
        let before = std::time::Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(before.elapsed().as_millis() >= 2);
        let mut bytes = [0u8; 32];
        assert_eq!(super::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0), 32);
        assert_ne!(bytes, [0; 32]);
    }
}
