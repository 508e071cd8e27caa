//! Log lines on their way to standard error, for which no thread that logs waits.
//!
//! Whoever reads them may stall: journald on a disk that hangs, or a container engine whose log driver blocks. The pipe is
//! full after 64 KiB then, and every thread that logs would stand still, those of consensus too, on all nodes that have the
//! same reader. So one thread writes, and what waits for it is bounded. What does not fit is dropped and counted, and the log
//! says how much that was once everything else is written.
//!
//! Not here: what lines look like ([`crate::log`]).

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread,
    time::Duration,
};

/// How much may wait to be written. Arbitrary: some thousand lines, and a node at rest says a few a minute.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// Takes lines, each in one call of `write`, for the thread that writes them.
pub struct Lines {
    queue: Sender<Word>,
    counts: Arc<Counts>,
}

enum Word {
    Line(Vec<u8>),
    /// Whoever asks is told when all before this is written.
    Flush(Sender<()>),
}

#[derive(Default)]
struct Counts {
    /// Bytes of lines that are not written yet.
    waiting: AtomicUsize,
    /// Lines that were dropped.
    dropped: AtomicU64,
}

impl Lines {
    /// Starts the thread, which writes to `sink` for as long as this is there. It calls `tell` with how many lines were dropped
    /// since it did so last, when nothing waits any more.
    ///
    /// # Errors
    /// There is no room for another thread.
    pub fn start(sink: impl Write + Send + 'static, tell: impl Fn(u64) + Send + 'static) -> io::Result<Self> {
        let (queue, words) = mpsc::channel();
        let counts = Arc::<Counts>::default();
        let counted = Arc::clone(&counts);
        let write = move || keep_writing(&words, &counted, sink, tell);
        thread::Builder::new().name("ballast-log".to_owned()).spawn(write)?;
        Ok(Self { queue, counts })
    }

    /// How many lines were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything that was said is written, for so long at most. Returns whether it is.
    pub fn written_within(&self, longest: Duration) -> bool {
        let (done, is_done) = mpsc::channel();
        self.queue.send(Word::Flush(done)).is_ok() && is_done.recv_timeout(longest).is_ok()
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Counts { waiting, dropped } = &*self.counts;
        let before = waiting.fetch_add(line.len(), Ordering::Relaxed);
        let fits = before + line.len() <= WAITING_BYTES_MAX;
        if !(fits && self.queue.send(Word::Line(line.to_vec())).is_ok()) {
            waiting.fetch_sub(line.len(), Ordering::Relaxed);
            dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn keep_writing(words: &Receiver<Word>, counts: &Counts, mut sink: impl Write, tell: impl Fn(u64)) {
    let mut told = 0;
    loop {
        let word = match words.try_recv() {
            Ok(word) => word,
            Err(TryRecvError::Empty) => {
                // Not before: what says so takes the same way.
                let dropped = counts.dropped.load(Ordering::Relaxed);
                if dropped > told {
                    tell(dropped - told);
                    told = dropped;
                    continue;
                }
                let Ok(word) = words.recv() else { return };
                word
            }
            Err(TryRecvError::Disconnected) => return,
        };
        match word {
            Word::Line(line) => {
                // There is nobody who could be told that nobody can be told.
                let _ = sink.write_all(&line).and_then(|()| sink.flush());
                counts.waiting.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Word::Flush(done) => drop(done.send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Takes nothing until the other end of the gate is gone.
    struct Stalled {
        gate: Receiver<()>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.gate.recv();
            let _ = self.taken.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_waits_for_no_reader_and_the_log_says_what_is_missing() {
        let (open, gate) = mpsc::channel();
        let (taken, seen) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let tell = move |dropped| tell.send(dropped).expect("the test listens");
        let lines = Lines::start(Stalled { gate, taken }, tell).expect("a thread");
        let line = [b'.'; 1024];
        let fit = WAITING_BYTES_MAX / line.len();
        for _ in 0..fit + 7 {
            // Whoever waited for the reader would not come back.
            (&lines).write_all(&line).expect("it is taken or dropped");
        }
        assert_eq!(lines.dropped(), 7);
        assert!(!lines.written_within(Duration::ZERO));
        drop(open);
        assert_eq!(told.recv_timeout(LONG), Ok(7));
        assert!(lines.written_within(LONG));
        assert_eq!(seen.try_iter().count(), fit);
    }
}
