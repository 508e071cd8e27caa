//! The access log's way out: lines are put into preallocated blocks by the workers, whole blocks
//! go to a thread that writes, empty ones come back.
//!
//! A worker never waits for a disk and takes no lock for a line: it appends to a block of its own.
//! When the writer is behind and no block is free, lines are dropped and counted, and so are those
//! that cannot be written. A block is handed over when it is full, and with each tick.
//!
//! Not here: what a line says ([`crate::http::record`]).

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread::JoinHandle,
};

use crate::stats::{Counter, WorkerCounters};

/// Where the access log goes.
pub enum AccessLog {
    /// Nowhere; lines are not even made.
    Off,
    /// To a file, a pipe, standard output: anything that takes bytes. Used by one thread only, which flushes it after each
    /// block of whole lines, also after one that could not be written, or not to its end.
    To(Box<dyn Write + Send>),
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "Off",
            Self::To(_) => "To(..)",
        })
    }
}

/// A block holds some two hundred lines.
const BLOCK_BYTES: usize = 64 * 1024;
/// Blocks a worker has in all: half a second of 10 000 requests per second while the disk stalls.
const BLOCKS: usize = 24;

struct Block {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

/// A worker's end of the access log.
pub struct LogPort {
    current: RefCell<Option<Vec<u8>>>,
    free: Receiver<Vec<u8>>,
    home: Sender<Vec<u8>>,
    full: SyncSender<Block>,
}

/// The thread that writes.
pub struct LogWriter {
    thread: JoinHandle<()>,
    lost: Arc<Counter>,
}

/// Starts the writer, with a port for each of `workers`.
///
/// # Errors
/// The thread could not be started.
pub fn start(mut out: Box<dyn Write + Send>, workers: usize) -> io::Result<(LogWriter, Vec<LogPort>)> {
    let (full, blocks) = mpsc::sync_channel::<Block>(workers * BLOCKS);
    let ports = (0..workers).map(|_| {
        let (home, free) = mpsc::channel();
        for _ in 0..BLOCKS {
            // The receiver is right here.
            let _ = home.send(Vec::with_capacity(BLOCK_BYTES));
        }
        LogPort { current: RefCell::new(None), free, home, full: full.clone() }
    });
    let ports = ports.collect();
    let lost = Arc::new(Counter::default());
    let counted = lost.clone();
    let run = move || write_all(&mut *out, &blocks, &counted);
    let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(run)?;
    Ok((LogWriter { thread, lost }, ports))
}

fn write_all(out: &mut dyn Write, blocks: &Receiver<Block>, lost: &Counter) {
    let mut failing = false;
    while let Ok(mut block) = blocks.recv() {
        let mut rest = &*block.bytes;
        let written = write_from(out, &mut rest);
        // Whatever came of it, what belongs together ends here.
        let result = written.and(out.flush());
        lost.add(rest.iter().filter(|byte| **byte == b'\n').count() as u64);
        match (&result, failing) {
            (Err(error), false) => {
                tracing::error!(%error, "the access log cannot be written; lines are lost until it can");
            }
            (Ok(()), true) => tracing::warn!(lost = lost.get(), "the access log is written again; lines are missing"),
            (Err(_), true) | (Ok(()), false) => {}
        }
        failing = result.is_err();
        block.bytes.clear();
        // A worker that has ended wants its blocks no more.
        let _ = block.home.send(block.bytes);
    }
}

/// Writes all of `rest`, where what cannot be written is left.
fn write_from(out: &mut dyn Write, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => *rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl LogPort {
    /// Adds a line. Dropped and counted when no block is free.
    pub fn line(&self, line: &[u8], counters: &Arc<WorkerCounters>) {
        let mut current = self.current.borrow_mut();
        if current.as_ref().is_some_and(|block| block.len() + line.len() > BLOCK_BYTES) {
            self.hand_over(current.take());
        }
        if current.is_none() {
            *current = self.free.try_recv().ok();
        }
        match &mut *current {
            Some(block) if line.len() <= BLOCK_BYTES => block.extend_from_slice(line),
            _ => counters.log_lines_dropped.up(),
        }
    }

    /// Hands over what there is.
    pub fn flush(&self) {
        let mut current = self.current.borrow_mut();
        if current.as_ref().is_some_and(|block| !block.is_empty()) {
            self.hand_over(current.take());
        }
    }

    fn hand_over(&self, block: Option<Vec<u8>>) {
        if let Some(bytes) = block {
            // There is room for every block that exists; the writer lives as long as a port.
            let _ = self.full.try_send(Block { bytes, home: self.home.clone() });
        }
    }
}

impl Drop for LogPort {
    fn drop(&mut self) {
        self.flush();
    }
}

impl LogWriter {
    /// Lines that came here and could not be written, or not to their end.
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Waits until everything is written. All ports must be gone.
    pub fn join(self) {
        // A panic of the writer was reported by the panic hook.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_arrives_in_order() {
        let sink = Sink::default();
        let (writer, mut ports) = start(Box::new(sink.clone()), 1).unwrap();
        let (port, counters) = (ports.pop().unwrap(), Arc::default());
        let mut expected = Vec::new();
        for i in 0..5000 {
            let line = format!("line {i} {}\n", "x".repeat(i % 100));
            port.line(line.as_bytes(), &counters);
            expected.extend_from_slice(line.as_bytes());
        }
        drop(port);
        writer.join();
        assert_eq!(counters.log_lines_dropped.get(), 0);
        assert!(*sink.0.lock().unwrap() == expected);
    }

    #[test]
    fn a_stalled_writer_costs_lines_and_never_waits() {
        struct Stalled(Receiver<()>);
        impl Write for Stalled {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, gate) = mpsc::channel();
        let (writer, mut ports) = start(Box::new(Stalled(gate)), 1).unwrap();
        let (port, counters) = (ports.pop().unwrap(), Arc::default());
        let line = vec![b'x'; 1000];
        let lines = (BLOCKS + 4) * BLOCK_BYTES / line.len();
        for _ in 0..lines {
            port.line(&line, &counters);
        }
        let dropped = counters.log_lines_dropped.get();
        assert!(dropped > 0 && dropped < lines as u64, "{dropped}");
        drop(release);
        drop(port);
        writer.join();
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_ended() {
        struct Full {
            room: usize,
            flushed: Arc<Counter>,
        }
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let taken = bytes.len().min(self.room);
                self.room -= taken;
                if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
            }
            fn flush(&mut self) -> io::Result<()> {
                self.flushed.up();
                Ok(())
            }
        }
        let flushed = Arc::new(Counter::default());
        let full = Full { room: "one\ntw".len(), flushed: flushed.clone() };
        let (writer, mut ports) = start(Box::new(full), 1).unwrap();
        let (port, counters) = (ports.pop().unwrap(), Arc::default());
        for line in ["one\n", "two\n", "three\n"] {
            port.line(line.as_bytes(), &counters);
        }
        port.flush();
        port.line(b"four\n", &counters);
        let lost = writer.lost.clone();
        drop(port);
        writer.join();
        assert_eq!((lost.get(), counters.log_lines_dropped.get()), (3, 0));
        assert_eq!(flushed.get(), 2, "the end of each block is told");
    }
}
