//! Raw sockets, and the kernel's stamp of what arrives on them.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// A packet socket on a device of the namespace in which it was opened.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens it in the calling thread's network namespace. What the device sends itself is not received.
    ///
    /// # Errors
    /// Without CAP_NET_RAW or such a device.
    pub fn open(device: &CStr) -> io::Result<Self> {
        let every = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers; a non-negative result is a descriptor that nobody else owns.
        let socket = unsafe {
            let fd = libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                i32::from(every),
            );
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Self(OwnedFd::from_raw_fd(fd))
        };
        // SAFETY: the name ends in NUL.
        let index = unsafe { libc::if_nametoindex(device.as_ptr()) };
        // SAFETY: all zeroes are a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = index as i32;
        // SAFETY: address and length are of one structure that lives through the call.
        let bound = unsafe {
            libc::bind(socket.fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
        };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20)?;
        Ok(socket)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        // SAFETY: value and length are of one integer that lives through the call.
        let result = unsafe {
            libc::setsockopt(self.fd(), level, option, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The descriptor, to wait for.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends a frame. One that the kernel does not take is lost, as on a wire.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: pointer and length are of one slice.
        unsafe { libc::send(self.fd(), frame.as_ptr().cast(), frame.len(), 0) };
    }

    /// A frame that has arrived, and its wall time of arrival.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<(&'a [u8], u64)> {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = [0u64; 16];
        // SAFETY: all zeroes are a valid `msghdr`; its pointers are set to buffers that live through the call with
        // their lengths; the control messages are read only as far as the kernel says that it wrote them.
        unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control) as _;
            let length = libc::recvmsg(self.fd(), &raw mut message, 0);
            let length = usize::try_from(length).ok()?;
            let mut stamp = 0;
            let mut item = libc::CMSG_FIRSTHDR(&raw const message);
            while !item.is_null() {
                if (*item).cmsg_level == libc::SOL_SOCKET && (*item).cmsg_type == libc::SO_TIMESTAMPNS {
                    let time: libc::timespec = libc::CMSG_DATA(item).cast::<libc::timespec>().read_unaligned();
                    stamp = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
                }
                item = libc::CMSG_NXTHDR(&raw const message, item);
            }
            Some((buffer.get(..length)?, stamp))
        }
    }
}
