//! How many sockets and files this process may have open.
//!
//! A shell's limit is mostly 1024, kept so low for programs that use select(2), which this one does not: each client and each
//! backend takes a descriptor, so the limit that this process may have is the one that it takes.

use std::io;

/// Raises the limit to the highest that is allowed. Returns it.
///
/// # Errors
/// What the kernel says; the limit is as it was.
pub fn raise() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) fills the one structure that it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: setrlimit(2) reads the one structure that it is given.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}
