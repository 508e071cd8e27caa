//! What a session costs in memory, and that it is counted as what it costs.
//!
//! A test of its own program, because it counts what the program's allocator is asked for. Sizes are rounded up to the
//! classes that jemalloc has, which `ballastd` runs on: a session is not charged what no allocator can give.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use ballast_core::{
    ids::{Boot, LogIndex, NodeId},
    session::{Call, Write},
    state::{Command, Entry, Frame, InitCluster, NodeInfo, Origin, Outcome, State},
    time::LogTime,
};
use bytes::Bytes;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// The size class of a size: multiples of 16 to 128, then four to each doubling.
fn class(size: usize) -> usize {
    match size {
        0..=8 => 8,
        9..=128 => size.next_multiple_of(16),
        _ => size.next_multiple_of(size.next_power_of_two() / 8),
    }
}

// SAFETY: every call is handed to the system's allocator unchanged; counting touches only an atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(class(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(class(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Log {
    state: State,
    seq: u64,
}

impl Log {
    fn founded() -> Self {
        let mut log = Self { state: State::new(), seq: 0 };
        log.run(Command::InitCluster(Box::new(InitCluster {
            cluster_id: "c".to_owned(),
            ca_certificate: String::new(),
            ca_key_sealed: Vec::new(),
            first_node: NodeInfo { name: "n1".to_owned(), ..NodeInfo::default() },
            first_node_key_fingerprint: [1; 32],
            table_secret: [1; 16].into(),
            cookie_secret: [2; 32].into(),
            lease_secret: [3; 32].into(),
        })));
        log
    }

    fn run(&mut self, command: Command) -> Outcome {
        self.seq += 1;
        let origin = Origin { node: NodeId::new(1), boot: Boot(1) };
        let frame = Frame { origin, seq: self.seq, commands: vec![command] };
        let entry = Entry { log_time: LogTime::from_millis(1_700_000_000_000 + self.seq), frames: vec![frame] };
        let mut out = Vec::new();
        self.state.apply(LogIndex::new(self.seq), &entry, &mut out);
        out.remove(0).outcomes.remove(0)
    }

    fn session(&mut self, words: &[&[u8]]) {
        let argv = words.iter().map(|word| Bytes::copy_from_slice(word)).collect();
        let call = Call::parse(0, argv).expect("a command");
        let Outcome::Session(replies) = self.run(Command::Session(Box::new(Write::one(call)))) else {
            panic!("not a session's outcome")
        };
        assert!(!replies[0].is_error(), "{replies:?}");
    }
}

/// Bytes for each of so many sessions: as the allocator gives them, and as `memory_max` counts them.
fn cost(count: u32, make: impl Fn(&mut Log, &str)) -> (usize, u64) {
    let mut log = Log::founded();
    let before = LIVE.load(Ordering::Relaxed);
    for n in 0..count {
        make(&mut log, &format!("sess:{:032x}", u128::from(n) << 64));
    }
    let live = LIVE.load(Ordering::Relaxed) - before;
    (live / count as usize, log.state.sessions().stats().bytes / u64::from(count))
}

#[test]
fn a_session_costs_little_more_than_its_value() {
    let value = [b'v'; 1024];
    // So many that shards have the length that a million gives them.
    let (bytes, counted) = cost(100_000, |log, key| log.session(&[b"set", key.as_bytes(), &value, b"ex", b"86400"]));
    println!("a string of 1 KiB: {bytes} bytes, counted as {counted}");
    assert!(bytes <= 1260, "{bytes} bytes: a million of them is more than 1.26 GB");
    assert!(counted.abs_diff(bytes as u64) <= bytes as u64 / 8, "{bytes} bytes are counted as {counted}");

    let (bytes, counted) = cost(20_000, |log, key| {
        let key = key.as_bytes();
        let fields: Vec<[u8; 8]> = (0..10).map(|n: u8| [b'a' + n; 8]).collect();
        let mut words = vec![&b"hset"[..], key];
        for field in &fields {
            words.extend([&field[..], &value[..50]]);
        }
        log.session(&words);
        log.session(&[b"expire", key, b"86400"]);
    });
    println!("a hash of ten fields of 50 bytes: {bytes} bytes, counted as {counted}");
    assert!(counted.abs_diff(bytes as u64) <= bytes as u64 / 4, "{bytes} bytes are counted as {counted}");
}
