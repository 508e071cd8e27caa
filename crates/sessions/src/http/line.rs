//! A connection's bytes, counted, and how long the client has taken none of an answer.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{deadline::Deadline, stats::WorkerCounters};

/// Since when an answer waits to be taken.
pub(super) struct Stall {
    deadline: Rc<Deadline>,
    timeout: Duration,
    waits: Cell<bool>,
}

impl Stall {
    /// One that is over `timeout` after the client took the last byte while more waited.
    pub(super) fn new(deadline: Rc<Deadline>, timeout: Duration) -> Rc<Self> {
        Rc::new(Self { deadline, timeout, waits: Cell::new(false) })
    }

    pub(super) fn is_over(&self) -> bool {
        self.waits.get() && self.deadline.is_over()
    }

    fn note(&self, waits: bool) {
        if waits && !self.waits.get() {
            self.deadline.arm(self.timeout);
        }
        if !waits && self.waits.get() {
            // Never, so that the worker's tick leaves the connection alone.
            self.deadline.arm(Duration::ZERO);
        }
        self.waits.set(waits);
    }
}

/// A stream that notes how it fares.
pub(super) struct Line<S> {
    stream: S,
    stall: Rc<Stall>,
    counters: Arc<WorkerCounters>,
}

impl<S> Line<S> {
    pub(super) fn new(stream: S, stall: Rc<Stall>, counters: Arc<WorkerCounters>) -> Self {
        Self { stream, stall, counters }
    }

    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.stall.note(result.is_pending());
        if let Poll::Ready(Ok(written)) = &result {
            self.counters.counters.bytes_out_total.add(*written as u64);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.counters.counters.bytes_in_total.add((buf.filled().len() - before) as u64);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        // What TLS has taken and not yet sent.
        self.stall.note(result.is_pending());
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
