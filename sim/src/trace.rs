//! Everything that happens in a run, in its order: a digest of all of it, and the last lines for people.
//!
//! Two runs of one seed must have one digest; it covers every byte that nodes sent each other, when and to whom.

use std::{cell::RefCell, collections::VecDeque, fmt};

use crate::clock;

/// Lines kept.
const LINES_MAX: usize = 4000;

struct Trace {
    digest: blake3::Hasher,
    lines: VecDeque<String>,
    echo: bool,
    events: u64,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::new(Trace {
        digest: blake3::Hasher::new(),
        lines: VecDeque::new(),
        echo: false,
        events: 0,
    });
}

/// Prints each line as it comes.
pub fn echo() {
    TRACE.with_borrow_mut(|trace| trace.echo = true);
}

/// Something happened.
pub fn say(what: fmt::Arguments<'_>) {
    TRACE.with_borrow_mut(|trace| {
        let line = format!("{:>12.6} {what}", clock::elapsed().as_secs_f64());
        trace.digest.update(line.as_bytes());
        trace.events += 1;
        if trace.echo {
            println!("{line}");
        }
        if trace.lines.len() == LINES_MAX {
            trace.lines.pop_front();
        }
        trace.lines.push_back(line);
    });
}

/// Bytes went from one node to another.
pub fn sent(from: usize, bytes: &[u8]) {
    TRACE.with_borrow_mut(|trace| {
        trace.digest.update(&(from as u64).to_le_bytes());
        trace.digest.update(&clock::elapsed().as_nanos().to_le_bytes());
        trace.digest.update(bytes);
        trace.events += 1;
    });
}

/// The digest so far, and how many events it covers.
pub fn digest() -> (String, u64) {
    TRACE.with_borrow(|trace| (trace.digest.finalize().to_hex()[..16].to_owned(), trace.events))
}

/// The last lines.
pub fn tail(count: usize) -> Vec<String> {
    TRACE.with_borrow(|trace| trace.lines.iter().skip(trace.lines.len().saturating_sub(count)).cloned().collect())
}

/// Something happened, in words as for `format!`.
macro_rules! happened {
    ($($words:tt)*) => { $crate::trace::say(format_args!($($words)*)) };
}
pub(crate) use happened;
