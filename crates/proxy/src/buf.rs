//! Buffers, lent by the worker while bytes are there and given back as soon as there are none.
//!
//! An idle connection holds no buffer: that is what keeps it at a few KiB, and why a buffer is
//! borrowed when a read is tried and returned when nothing came.
//!
//! Not here: who may hold how many (bounded by the connections there may be).

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BufMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Holds most heads, and the first bytes of a body. HAProxy's default buffer, too.
pub const SMALL: usize = 16 * 1024;
/// For bodies: measured, a quarter of the CPU per byte of 8 KiB reads.
pub const LARGE: usize = 64 * 1024;

/// Bytes that were read and not yet used, or written and not yet sent. Owns memory only while it holds bytes.
#[derive(Debug, Default)]
pub struct Buf {
    bytes: Vec<u8>,
    at: usize,
}

impl Buf {
    /// The bytes in it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.at += count.min(self.len());
        if self.at == self.bytes.len() {
            self.clear();
        }
    }

    /// Drops all bytes, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.at = 0;
    }

    /// The bytes as a vector to append to.
    pub fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Starts again from the first byte ever put in (and not cleared).
    pub fn rewind(&mut self) {
        self.at = 0;
    }

    /// How many bytes there would be after [`Self::rewind`].
    pub fn rewound_len(&self) -> usize {
        self.bytes.len()
    }

    /// Marks `count` bytes as sent without forgetting them, so that [`Self::rewind`] finds them.
    fn pass(&mut self, count: usize) {
        self.at += count;
    }

    /// Moves unused bytes to the front.
    fn compact(&mut self) {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
    }

    /// Room for at least `room` more bytes; grows if it must.
    pub fn make_room(&mut self, room: usize) {
        if self.bytes.capacity() - self.bytes.len() < room {
            self.compact();
            self.bytes.reserve(room);
        }
    }

    /// Reads once into the free space, at most `limit` bytes. Returns how many came; zero is the end.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream, limit: usize) -> Poll<io::Result<usize>> {
        let mut room = (&mut self.bytes).limit(limit);
        // SAFETY: the bytes are only written, never read, before they are initialised.
        let spare = unsafe { room.chunk_mut().as_uninit_slice_mut() };
        let mut read = ReadBuf::uninit(spare);
        ready!(Pin::new(stream).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        // SAFETY: `filled` says that so many bytes of the spare capacity are initialised.
        unsafe { self.bytes.set_len(self.bytes.len() + count) };
        Poll::Ready(Ok(count))
    }

    /// Writes all bytes, remembering them until they are cleared.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, self.bytes()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pass(count);
        }
        Poll::Ready(Ok(()))
    }
}

/// A worker's spare buffers.
#[derive(Debug, Default)]
pub struct BufPool {
    small: RefCell<Vec<Vec<u8>>>,
    large: RefCell<Vec<Vec<u8>>>,
}

/// Spare buffers kept of each size: 4 MiB and 2 MiB a worker at most.
const SMALL_SPARE_MAX: usize = 256;
const LARGE_SPARE_MAX: usize = 32;

impl BufPool {
    /// Gives `buf` memory if it has none.
    pub fn lend_small(&self, buf: &mut Buf) {
        if buf.bytes.capacity() == 0 {
            buf.bytes = self.small.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SMALL));
        }
    }

    /// Gives `buf` memory for a body if it has none.
    pub fn lend_large(&self, buf: &mut Buf) {
        if buf.bytes.capacity() == 0 {
            buf.bytes = self.large.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(LARGE));
        }
    }

    /// Takes the memory of `buf` back if there is nothing in it.
    pub fn reclaim(&self, buf: &mut Buf) {
        if buf.is_empty() {
            self.discard(buf);
        }
    }

    /// Takes the memory of `buf` back with whatever is in it.
    pub fn discard(&self, buf: &mut Buf) {
        buf.clear();
        let bytes = std::mem::take(&mut buf.bytes);
        let (list, spare_max) = match bytes.capacity() {
            SMALL => (&self.small, SMALL_SPARE_MAX),
            LARGE => (&self.large, LARGE_SPARE_MAX),
            _ => return,
        };
        let mut list = list.borrow_mut();
        if list.len() < spare_max {
            list.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back() {
        let pool = BufPool::default();
        let mut buf = Buf::default();
        pool.lend_small(&mut buf);
        buf.vec().extend_from_slice(b"abc");
        pool.reclaim(&mut buf);
        assert_eq!(buf.bytes(), b"abc", "bytes are not lost");
        buf.consume(3);
        pool.reclaim(&mut buf);
        assert_eq!((buf.bytes.capacity(), pool.small.borrow().len()), (0, 1));
        pool.lend_large(&mut buf);
        assert_eq!(buf.bytes.capacity(), LARGE);
    }

    #[test]
    fn rewinding_finds_what_was_sent() {
        let mut buf = Buf::default();
        buf.vec().extend_from_slice(b"abcdef");
        buf.pass(6);
        assert!(buf.is_empty());
        buf.rewind();
        assert_eq!(buf.bytes(), b"abcdef");
        buf.consume(2);
        buf.make_room(100);
        assert_eq!(buf.bytes(), b"cdef");
    }
}
