//! What the kernel lets through to the lease socket.
//!
//! The thread that reads it runs before ordinary ones, so each datagram that wakes it is paid for by everything else on the
//! machine. What cannot be a lease datagram is dropped before that, and a burst of real ones finds room.
//!
//! Not here: which version is spoken and who is believed (`ballast_core::lease`), which counts what it refuses.

use std::{io, net::UdpSocket, os::fd::AsRawFd};

use socket2::{SockFilter, SockRef};

/// Room for some hundred rounds of a cluster of dozens of nodes; a full queue loses renewals. The kernel counts its own
/// overhead, too.
const QUEUE_BYTES: usize = 1 << 20;
/// A socket filter of UDP sees the header of UDP first.
const UDP_HEADER_BYTES: u32 = 8;
/// `BL`. What follows is the version, which is not judged here: nodes of another one should be counted.
const BEGINNING: u32 = 0x424c;
/// Beginning and version, five numbers, a MAC: nothing is said in less.
const LENGTH_MIN: u32 = 3 + 5 * 8 + 16;

/// Makes room in the socket's queue and keeps out what is no lease datagram.
///
/// # Errors
/// When the kernel takes no filter; the socket works without.
pub(crate) fn prepare(socket: &UdpSocket) -> io::Result<()> {
    let bytes = QUEUE_BYTES as libc::c_int;
    // Beyond the limit of ordinary processes where that is allowed, and as far as it goes where it is not.
    // SAFETY: a number on this stack and its size.
    let forced = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    let socket = SockRef::from(socket);
    if forced != 0 {
        socket.set_recv_buffer_size(QUEUE_BYTES)?;
    }
    socket.attach_filter(&filter())
}

fn filter() -> [SockFilter; 6] {
    const LENGTH: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_LEN) as u16;
    const HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        SockFilter::new(LENGTH, 0, 0, 0),
        SockFilter::new(AT_LEAST, 0, 3, UDP_HEADER_BYTES + LENGTH_MIN),
        SockFilter::new(HALF, 0, 0, UDP_HEADER_BYTES),
        SockFilter::new(EQUAL, 0, 1, BEGINNING),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_lease_datagram_does_not_arrive() {
        let [to, from] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("loopback has ports"));
        prepare(&to).expect("taken");
        let mut good = [0; LENGTH_MIN as usize];
        good[..2].copy_from_slice(b"BL");
        let mut other = good;
        other[1] = b'l';
        let address = to.local_addr().expect("bound");
        for bytes in [&[0; 1500][..], &[], b"BL", &good[1..], &good[..good.len() - 1], &other, &good] {
            from.send_to(bytes, address).expect("loopback takes datagrams");
        }
        // Loopback keeps their order, so the last is the first that is heard.
        let mut buffer = [0; 2048];
        let length = to.recv(&mut buffer).expect("arrives");
        assert_eq!(buffer[..length], good);
        assert!(SockRef::from(&to).recv_buffer_size().expect("a number") > 256 << 10);
    }
}
