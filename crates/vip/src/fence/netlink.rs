//! The little of netlink that the fence speaks: messages with nested attributes, requests with an
//! acknowledgement, and dumps.
//!
//! Written by hand because renewals must be encoded without allocating, and because what is left
//! (five kinds of message) is smaller than the libraries for it. Lengths are those of the kernel's headers.
//!
//! Not here: what the messages mean (`tc`, `nft_lease`).

use std::{
    io::{self, Read, Write},
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket as RawSocket, Type};

const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
// linux/netlink.h
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// On messages of a dump when the list changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// A dump that changes under the reader's hands is asked again this often. Arbitrary.
const DUMPS_MAX: usize = 8;

/// Builds messages one after the other in one buffer that keeps its memory.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
}

/// Where a message or a nest began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

impl Messages {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins a message; `body` is the fixed part after the header.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Mark {
        let mark = Mark(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(body);
        self.pad();
        mark
    }

    pub(crate) fn end(&mut self, mark: Mark) {
        let length = (self.bytes.len() - mark.0) as u32;
        self.bytes[mark.0..mark.0 + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// A string with the zero that the kernel wants at its end.
    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        self.bytes.extend_from_slice(&((ATTRIBUTE + value.len() + 1) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    pub(crate) fn nest(&mut self, kind: u16) -> Mark {
        let mark = Mark(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        mark
    }

    pub(crate) fn end_nest(&mut self, mark: Mark) {
        let length = (self.bytes.len() - mark.0) as u16;
        self.bytes[mark.0..mark.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One message that the kernel sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub kind: u16,
    pub sequence: u32,
    pub body: &'a [u8],
    /// Of a dump that is not of one moment.
    pub interrupted: bool,
}

impl Received<'_> {
    /// What an acknowledgement or error says; `None` for other messages.
    pub(crate) fn verdict(&self) -> Option<io::Result<()>> {
        let code = i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?);
        (self.kind == libc::NLMSG_ERROR as u16).then(|| match code {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        })
    }
}

/// The messages of one datagram. Ends at the first that is not whole.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = number(bytes, 0)? as usize;
        let message = bytes.get(..length)?;
        let body = message.get(HEADER..)?;
        let half = |at: usize| Some(u16::from_ne_bytes(message.get(at..at + 2)?.try_into().ok()?));
        let (kind, interrupted) = (half(4)?, half(6)? & NLM_F_DUMP_INTR != 0);
        let sequence = number(message, 8)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received { kind, sequence, body, interrupted })
    })
}

/// The attributes in a stretch of bytes: kind (without flags) and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    })
}

/// The 32-bit number at an offset, in the machine's order.
pub(crate) fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

/// A netlink socket. It belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: RawSocket,
    sequence: u32,
    answer: Vec<u8>,
}

impl Socket {
    /// For requests that are waited for.
    pub(crate) fn open(protocol: i32) -> io::Result<Self> {
        let socket = RawSocket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
        // The kernel answers within the call that sends; the timeout only bounds what cannot happen.
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(Self { socket, sequence: 0, answer: vec![0; 64 << 10] })
    }

    /// For batches whose errors are collected later.
    pub(crate) fn open_nonblocking(protocol: i32) -> io::Result<Self> {
        let socket = Self::open(protocol)?;
        socket.socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Hears what the kernel tells the members of this group; see [`Socket::drain`].
    pub(crate) fn open_member(protocol: i32, group: u32) -> io::Result<Self> {
        let socket = Self::open_nonblocking(protocol)?;
        // Bound, because the kernel takes a socket without a number for the sender and tells it nothing.
        // SAFETY: plain numbers, for which zero is a value.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = 1 << (group - 1);
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: an address of that family on this stack, with its length.
        let bound = unsafe { libc::bind(socket.socket.as_raw_fd(), (&raw const address).cast(), length) };
        if bound == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = (&self.socket).write(bytes)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Hands every message that waits to `each`, without waiting for more. For non-blocking sockets.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Received<'_>)) -> io::Result<()> {
        loop {
            match (&self.socket).read(&mut self.answer) {
                Ok(length) => messages(&self.answer[..length]).for_each(&mut each),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one message and waits for its acknowledgement.
    pub(crate) fn request(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Messages)) -> io::Result<()> {
        let sequence = self.ask(kind, flags | libc::NLM_F_ACK as u16, fill)?;
        self.answers(sequence, |_| {}).map(drop)
    }

    /// Sends one request for a dump and turns each message of the answer into at most one `T`. Asks again while the list
    /// changes under its hands.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        fill: impl Fn(&mut Messages),
        read: impl Fn(Received<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMPS_MAX {
            let sequence = self.ask(kind, libc::NLM_F_DUMP as u16, &fill)?;
            let mut list = Vec::new();
            if self.answers(sequence, |message| list.extend(read(message)))? {
                return Ok(list);
            }
        }
        Err(io::Error::other("the kernel's list changed each time it was read"))
    }

    fn ask(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Messages)) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Messages::default();
        let mark = message.begin(kind, flags | libc::NLM_F_REQUEST as u16, self.sequence, &[]);
        fill(&mut message);
        message.end(mark);
        self.send(message.bytes())?;
        Ok(self.sequence)
    }

    /// Whether it is all of one moment.
    fn answers(&mut self, sequence: u32, mut each: impl FnMut(Received<'_>)) -> io::Result<bool> {
        let mut whole = true;
        loop {
            let length = match (&self.socket).read(&mut self.answer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for message in messages(&self.answer[..length]).filter(|message| message.sequence == sequence) {
                whole &= !message.interrupted;
                if let Some(verdict) = message.verdict() {
                    return verdict.map(|()| whole);
                }
                if message.kind == libc::NLMSG_DONE as u16 {
                    return Ok(whole);
                }
                each(message);
            }
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Messages {
    /// The fixed part of a message, for closures that fill one.
    pub(crate) fn body(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut written = Messages::default();
        let mark = written.begin(44, 5, 7, &[1, 2, 3, 4]);
        written.string(1, "bpf");
        let nest = written.nest(2);
        written.attribute(6, &[9, 9]);
        written.end_nest(nest);
        written.end(mark);
        let second = written.begin(3, 0, 8, &[]);
        written.end(second);
        let read: Vec<_> = messages(written.bytes()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].sequence, read[1].kind), (44, 7, 3));
        assert_eq!(read[0].body[..4], [1, 2, 3, 4]);
        let outer: Vec<_> = attributes(&read[0].body[4..]).collect();
        assert_eq!(outer[0], (1, &b"bpf\0"[..]));
        assert_eq!(attributes(outer[1].1).collect::<Vec<_>>(), [(6, &[9, 9][..])]);
        assert_eq!(outer[1].0, 2, "the flag of nests is not part of the kind");
    }

    #[test]
    fn a_dump_that_changed_meanwhile_is_asked_for_again() {
        // On its last message alone, and on one before it; the third is of one moment.
        for (given, expected) in [(vec![(0, 16), (16, 0), (0, 0)], Some(vec![2])), (vec![(16, 0); DUMPS_MAX], None)] {
            let (socket, kernel) = RawSocket::pair(Domain::UNIX, Type::DGRAM, None).expect("a pair");
            let asked = std::thread::spawn(move || {
                let mut buffer = [0; 64];
                for (at, (first, last)) in (0_u8..).zip(given) {
                    let length = (&kernel).read(&mut buffer).expect("a question");
                    let sequence = number(&buffer[..length], 8).expect("a header");
                    let mut answer = Messages::default();
                    let mark = answer.begin(44, first, sequence, &[at, 0, 0, 0]);
                    answer.end(mark);
                    let mark = answer.begin(libc::NLMSG_DONE as u16, last, sequence, &[0; 4]);
                    answer.end(mark);
                    (&kernel).write_all(answer.bytes()).expect("answers");
                }
            });
            let mut socket = Socket { socket, sequence: 0, answer: vec![0; 256] };
            let list = socket.dump(44, |_| {}, |message| message.body.first().copied());
            assert_eq!(list.ok(), expected);
            asked.join().expect("each answer was asked for");
        }
    }

    #[test]
    fn nonsense_ends_the_reading() {
        let lies = [[255_u8; 4].as_slice(), &[0; 16], &[3, 0, 0, 0, 1], &[16, 0, 0, 0]];
        for bytes in lies {
            assert_eq!(messages(bytes).count(), 0);
        }
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0]).count(), 0);
    }
}
