//! An event descriptor: one thread wakes another that polls.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsRawFd, FromRawFd, RawFd},
    sync::atomic::{AtomicU64, Ordering},
};

/// Readable once it was woken, until that is taken note of.
pub(super) struct Wake {
    event: File,
    /// How often it was, counted before the descriptor is written to: whoever finds as many as were read from the descriptor
    /// knows without the kernel that it has nothing to read.
    woken: AtomicU64,
    /// How many of these were read from it.
    noted: AtomicU64,
}

impl Wake {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes numbers only; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let event = unsafe { File::from_raw_fd(fd) };
        Ok(Self { event, woken: AtomicU64::new(0), noted: AtomicU64::new(0) })
    }

    pub fn wake(&self) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        // Fails only when the counter is full, and then the other side is awake.
        let _ = (&self.event).write(&1_u64.to_ne_bytes());
    }

    /// Takes note; true if it was woken since the last time. For one thread alone.
    pub fn woken(&self) -> bool {
        let noted = self.noted.load(Ordering::Relaxed);
        if self.woken.load(Ordering::SeqCst) == noted {
            return false;
        }
        let mut counter = [0; 8];
        // Empty while who wakes is between the two: the descriptor will say so.
        let read = (&self.event).read(&mut counter).is_ok();
        self.noted.store(noted.wrapping_add(u64::from_ne_bytes(counter)), Ordering::Relaxed);
        read
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_are_noted_once_and_none_is_left_to_read() {
        let wake = Wake::new().expect("a descriptor is free");
        assert!(!wake.woken());
        for times in 1..4 {
            (0..times).for_each(|_| wake.wake());
            assert_eq!([wake.woken(), wake.woken()], [true, false]);
            assert!((&wake.event).read(&mut [0; 8]).is_err(), "empty");
        }
        // Half of a wake.
        wake.woken.fetch_add(1, Ordering::SeqCst);
        assert!(!wake.woken());
        (&wake.event).write_all(&1_u64.to_ne_bytes()).expect("there is room");
        assert_eq!([wake.woken(), wake.woken()], [true, false]);
    }
}
