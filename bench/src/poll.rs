//! The thinnest wrapper of epoll that keeps `unsafe` in one place.
//!
//! Edge-triggered throughout: each descriptor is registered once and never touched again, which is
//! what keeps generator and backend cheap beside the proxy that is measured.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// One epoll instance.
pub struct Epoll(OwnedFd);

/// What happened to a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// What it was registered with.
    pub token: u64,
    /// Bytes, end of stream or an error can be read.
    pub readable: bool,
    /// Bytes can be written, or connecting has come to an end.
    pub writable: bool,
    /// The other side will send no more, or the connection failed.
    pub closed: bool,
}

/// Room for the events of one wait.
pub struct Events(Vec<libc::epoll_event>);

impl Events {
    /// Room for `capacity` events.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// The event at `index` of the last wait.
    pub fn get(&self, index: usize) -> Option<Ready> {
        let event = self.0.get(index)?;
        let (bits, token) = (event.events as i32, event.u64);
        let closed = bits & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
        Some(Ready {
            token,
            readable: closed || bits & libc::EPOLLIN != 0,
            writable: bits & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) != 0,
            closed,
        })
    }
}

impl Epoll {
    /// A new instance.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; a non-negative result is a descriptor that nobody else owns.
        unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
        }
    }

    /// Registers a socket for reading and writing, edge-triggered. Closing it unregisters it.
    pub fn add(&self, socket: &impl AsFd, token: u64) -> io::Result<()> {
        self.register(socket, token, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET)
    }

    /// Registers a listening socket, level-triggered.
    pub fn add_listener(&self, socket: &impl AsFd, token: u64) -> io::Result<()> {
        self.register(socket, token, libc::EPOLLIN)
    }

    fn register(&self, socket: &impl AsFd, token: u64, bits: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: bits as u32, u64: token };
        // SAFETY: `event` lives through the call; both descriptors are open.
        let result = unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_fd().as_raw_fd(), &raw mut event)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for events, for ever without a `timeout`. An interrupting signal counts as no event.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|t| libc::timespec {
            tv_sec: t.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(t.subsec_nanos() as i32),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        events.0.clear();
        // SAFETY: the buffer has room for as many events as is said; `timeout` lives through the call;
        // a null signal mask leaves the mask alone. The kernel has filled as many events as it returns.
        unsafe {
            let count = libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.0.as_mut_ptr(),
                events.0.capacity() as libc::c_int,
                timeout,
                std::ptr::null::<libc::sigset_t>(),
                size_of::<libc::sigset_t>(),
            );
            match usize::try_from(count) {
                Ok(count) => events.0.set_len(count),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Nanoseconds of the monotonic clock.
pub fn now_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
