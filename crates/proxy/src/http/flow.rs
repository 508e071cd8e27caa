//! One direction of a body: read, reframed, written, with nothing kept but what is on its way.
//!
//! Back-pressure is the absence of a read: nothing is read while something waits to be written, so
//! a body of any size takes one buffer. A body whose framing stays is never copied in memory.
//!
//! Not here: deadlines ([`super::exchange`]), heads.

use std::task::{Context, Poll, ready};

use ballast_planted::Bug;
use tokio::net::TcpStream;

use super::{
    chunk::{self, ChunkDecoder, Step},
    fault::Fault,
    request::Framing,
};
use crate::buf::{Buf, BufPool, LARGE, SMALL};

/// Where the body stands.
#[derive(Debug)]
enum Source {
    Length(u64),
    Chunked(ChunkDecoder),
    Close,
    Done,
}

/// One direction of a body.
#[derive(Debug)]
pub struct Flow {
    source: Source,
    chunked_out: bool,
    bytes_max: u64,
    /// Bytes that wait to be written; begins with the head where there is one.
    pub pending: Buf,
    /// Bytes of body read.
    pub received: u64,
    /// Bytes written, head and framing included.
    pub written: u64,
}

/// Why a body did not get through.
#[derive(Debug)]
pub enum FlowError {
    /// The sender closed before the end.
    Truncated,
    /// The sender's connection failed.
    Source,
    /// The receiver's connection failed.
    Target,
    /// The body is malformed or too large.
    Fault(Fault),
}

impl Flow {
    /// A body that comes in as `from` and goes out as `to`. More than `bytes_max` bytes are a fault; zero means no limit.
    pub fn new(from: Framing, to: Framing, bytes_max: u64) -> Self {
        let source = match from {
            Framing::None | Framing::Length(0) => Source::Done,
            Framing::Length(length) => Source::Length(length),
            Framing::Chunked => Source::Chunked(ChunkDecoder::default()),
            Framing::Close => Source::Close,
        };
        Self {
            source,
            chunked_out: to == Framing::Chunked,
            bytes_max: if bytes_max == 0 { u64::MAX } else { bytes_max },
            pending: Buf::default(),
            received: 0,
            written: 0,
        }
    }

    /// Whether all of it was read and written.
    pub fn is_done(&self) -> bool {
        self.is_read() && self.pending.is_empty()
    }

    /// Whether all of it was read.
    pub fn is_read(&self) -> bool {
        matches!(self.source, Source::Done)
    }

    /// Whether it waits for the receiver rather than the sender.
    pub fn waits_for_target(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes what `input` holds of the body and appends it, reframed, to `out`.
    ///
    /// # Errors
    /// The body is malformed or too large.
    pub fn absorb_into(&mut self, input: &mut Buf, out: &mut Vec<u8>) -> Result<(), Fault> {
        loop {
            match &mut self.source {
                Source::Done => return Ok(()),
                Source::Length(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    out.extend_from_slice(&input.bytes()[..taken]);
                    if let Some(last) = out.last_mut().filter(|_| ballast_planted::is(Bug::ByteChanged) && taken > 0) {
                        *last = b' ';
                    }
                    input.consume(taken);
                    *left -= taken as u64;
                    self.received += taken as u64;
                    if *left == 0 {
                        self.source = Source::Done;
                    }
                    return Ok(());
                }
                Source::Chunked(decoder) => match decoder.step(input.bytes())? {
                    Step::Progress { consumed, data } => {
                        let data = &input.bytes()[data];
                        self.received += data.len() as u64;
                        if self.received > self.bytes_max {
                            return Err(Fault::BodyTooLarge);
                        }
                        if self.chunked_out {
                            chunk::write_chunk(out, data);
                        } else {
                            out.extend_from_slice(data);
                        }
                        input.consume(consumed);
                    }
                    Step::NeedMore => return Ok(()),
                    Step::Finished => {
                        if self.chunked_out {
                            chunk::write_end(out, decoder.trailers());
                        }
                        self.source = Source::Done;
                    }
                },
                Source::Close => {
                    self.received += input.len() as u64;
                    if self.chunked_out {
                        chunk::write_chunk(out, input.bytes());
                    } else {
                        out.extend_from_slice(input.bytes());
                    }
                    input.clear();
                    return Ok(());
                }
            }
        }
    }

    /// Takes what `input` holds of the body to be written.
    ///
    /// # Errors
    /// The body is malformed or too large.
    pub fn absorb(&mut self, input: &mut Buf) -> Result<(), Fault> {
        let mut pending = std::mem::take(&mut self.pending);
        let result = self.absorb_into(input, pending.vec());
        self.pending = pending;
        result
    }

    /// Moves the body on as far as it goes. Ready when all of it was written.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        input: &mut Buf,
        to: &mut TcpStream,
        pool: &BufPool,
    ) -> Poll<Result<(), FlowError>> {
        loop {
            if !self.pending.is_empty() {
                let before = self.pending.len();
                let drained = self.pending.poll_drain(cx, to);
                self.written += (before - self.pending.len()) as u64;
                ready!(drained).map_err(|_| FlowError::Target)?;
            }
            pool.discard(&mut self.pending);
            if self.is_read() {
                return Poll::Ready(Ok(()));
            }
            if !input.is_empty() {
                let before = input.len();
                pool.lend_small(&mut self.pending);
                self.absorb(input).map_err(FlowError::Fault)?;
                if input.len() < before || self.is_read() {
                    pool.reclaim(input);
                    continue;
                }
                pool.reclaim(&mut self.pending);
            }
            ready!(self.poll_source(cx, from, input, pool))?;
        }
    }

    /// Reads once, into `pending` where the bytes can be written as they are.
    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        input: &mut Buf,
        pool: &BufPool,
    ) -> Poll<Result<(), FlowError>> {
        let verbatim = match &self.source {
            Source::Length(left) => Some(usize::try_from(*left).unwrap_or(usize::MAX).min(LARGE)),
            Source::Close if !self.chunked_out => Some(LARGE),
            Source::Close | Source::Chunked(_) | Source::Done => None,
        };
        let (buf, limit) = match verbatim {
            Some(limit) => (&mut self.pending, limit),
            None => (input, LARGE),
        };
        if limit > SMALL {
            pool.lend_large(buf);
        } else {
            pool.lend_small(buf);
        }
        buf.make_room(1);
        let read = buf.poll_fill(cx, from, limit);
        if !matches!(read, Poll::Ready(Ok(1..))) {
            pool.reclaim(buf);
        }
        match ready!(read) {
            Err(_) => Poll::Ready(Err(FlowError::Source)),
            Ok(0) => Poll::Ready(self.end_of_source(pool)),
            Ok(count) => {
                if verbatim.is_some() {
                    self.received += count as u64;
                    if let Source::Length(left) = &mut self.source {
                        *left -= count as u64;
                        if *left == 0 {
                            self.source = Source::Done;
                        }
                    }
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn end_of_source(&mut self, pool: &BufPool) -> Result<(), FlowError> {
        match self.source {
            Source::Close => {
                if self.chunked_out {
                    pool.lend_small(&mut self.pending);
                    chunk::write_end(self.pending.vec(), b"");
                }
                self.source = Source::Done;
                Ok(())
            }
            Source::Length(_) | Source::Chunked(_) | Source::Done => Err(FlowError::Truncated),
        }
    }
}
