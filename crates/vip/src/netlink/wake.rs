//! An event descriptor: one thread wakes another that polls.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsRawFd, FromRawFd, RawFd},
};

/// Readable once it was woken, until that is taken note of.
pub(super) struct Wake(File);

impl Wake {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes numbers only; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    pub fn wake(&self) {
        // Fails only when the counter is full, and then the other side is awake.
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    /// Takes note; true if it was woken since the last time.
    pub fn woken(&self) -> bool {
        let mut counter = [0; 8];
        (&self.0).read(&mut counter).is_ok()
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
