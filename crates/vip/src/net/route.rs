//! A socket on which the kernel is asked about links, addresses and routes, and told to change them.
//!
//! Each question waits for its answer, at most [`ANSWER_MAX`]: this is for threads that may wait, not
//! for the lease thread.

use std::{
    io::{self, Read},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::wire::{Message, Request, messages, read_u32};

/// The kernel answers within microseconds; one that holds its rtnl lock this long is unwell.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Longest message the kernel makes for a dump.
const BUFFER_BYTES: usize = 64 * 1024;

/// A dump that changes under the reader's hands is asked again this often. Arbitrary.
const DUMPS_MAX: usize = 8;

/// Set on a dump's messages when the list changed meanwhile (`NLM_F_DUMP_INTR`).
const INTERRUPTED: u16 = 0x10;

/// A blocking rtnetlink socket of the calling thread's network namespace.
pub(crate) struct RouteSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl RouteSocket {
    pub fn open() -> io::Result<Self> {
        let socket = open(0)?;
        socket.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Sends one change and waits for the kernel's yes or no.
    pub fn change(&mut self, request: Request) -> io::Result<()> {
        self.send(request)?;
        loop {
            let length = (&self.socket).read(&mut self.buffer)?;
            for message in messages(&self.buffer[..length]) {
                if message.sequence == self.sequence && i32::from(message.kind) == libc::NLMSG_ERROR {
                    return verdict(&message);
                }
            }
        }
    }

    /// Asks for a list and turns each message of it into at most one `T`.
    pub fn dump<T>(&mut self, kind: u16, fixed: &[u8], read: impl Fn(&Message<'_>) -> Option<T>) -> io::Result<Vec<T>> {
        for _ in 0..DUMPS_MAX {
            self.send(Request::new(kind, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, fixed))?;
            if let Some(list) = self.collect(&read)? {
                return Ok(list);
            }
        }
        Err(io::Error::other("the kernel's list changed each time it was read"))
    }

    /// The list, nothing when it changed meanwhile.
    fn collect<T>(&mut self, read: impl Fn(&Message<'_>) -> Option<T>) -> io::Result<Option<Vec<T>>> {
        let (mut list, mut whole) = (Vec::new(), true);
        loop {
            let length = (&self.socket).read(&mut self.buffer)?;
            for message in messages(&self.buffer[..length]).filter(|message| message.sequence == self.sequence) {
                whole &= message.flags & INTERRUPTED == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(whole.then_some(list)),
                    libc::NLMSG_ERROR => verdict(&message)?,
                    _ => list.extend(read(&message)),
                }
            }
        }
    }

    fn send(&mut self, request: Request) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request.finish(self.sequence)).map(drop)
    }
}

/// What an `NLMSG_ERROR` says: zero is yes.
fn verdict(message: &Message<'_>) -> io::Result<()> {
    match read_u32(message.payload, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A route socket that belongs to these multicast groups (bit n - 1 for group n).
pub(crate) fn open(groups: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    // SAFETY: a `sockaddr_nl` is plain numbers, fits into the storage, and its size is what is
    // reported.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let mut address: libc::sockaddr_nl = std::mem::zeroed();
            address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
            address.nl_groups = groups;
            storage.cast::<libc::sockaddr_nl>().write(address);
            *length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            Ok(())
        })
    }?;
    socket.bind(&address)?;
    Ok(socket)
}
