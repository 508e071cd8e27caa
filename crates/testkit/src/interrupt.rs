//! What a program does when its user has had enough: it ends what it started, and says by its exit code what it was told.
//!
//! The handlers of SIGINT and SIGTERM write down the signal and nothing else. Waits end ([`crate::wait`], [`pause`]), functions
//! return, and what is dropped on the way removes itself.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode, ExitStatus},
    sync::atomic::{AtomicI32, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::wait::CALLED_OFF;

static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// How soon a pause notices. Harmless: it is what a user waits longer.
const LOOK: Duration = Duration::from_millis(10);

extern "C" fn note(signal: libc::c_int) {
    SIGNAL.store(signal, Ordering::Relaxed);
    CALLED_OFF.store(true, Ordering::Relaxed);
}

/// From now on SIGINT and SIGTERM call this process off instead of killing it.
pub fn listen() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to atomics, which is async-signal-safe.
        unsafe { libc::signal(signal, note as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

/// Whether this process was called off.
pub fn came() -> bool {
    CALLED_OFF.load(Ordering::Relaxed)
}

/// The exit code by which shells know of the signal that came: 130 for SIGINT, 143 for SIGTERM.
pub fn exit_code() -> Option<ExitCode> {
    let signal = SIGNAL.load(Ordering::Relaxed);
    u8::try_from(signal).ok().filter(|signal| *signal != 0).map(|signal| ExitCode::from(128 + signal))
}

/// Sleeps, unless this process is called off. Whether it slept to the end.
pub fn pause(time: Duration) -> bool {
    let began = Instant::now();
    while !came() {
        let left = time.saturating_sub(began.elapsed());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(LOOK));
    }
    false
}

/// Runs a program that listens, too, to its end. It is told when this process is called off, also when it is the only one that was.
///
/// # Errors
/// When it cannot be started.
pub fn run(mut command: Command) -> io::Result<ExitStatus> {
    // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches only the child.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if came() && !told {
            told = true;
            if let Ok(pid) = libc::pid_t::try_from(child.id()) {
                // SAFETY: kill(2) takes no pointers; the child is not reaped yet, so the pid is still ours.
                unsafe { libc::kill(pid, libc::SIGTERM) };
            }
        }
        thread::sleep(LOOK);
    }
}
