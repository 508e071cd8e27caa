//! What sessions cost: memory, writes, reads, snapshots, and how long a write waits at most while one is written.
//! `sessions_cost [COUNT]`, a million of 1 KiB by default. Drives the state machine as the log would.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use ballast_core::{
    ids::{Boot, LogIndex, NodeId},
    session::{Call, Write},
    state::{Command, Entry, Frame, InitCluster, NodeInfo, Origin, State, codec},
    time::LogTime,
};
use bytes::Bytes;

/// Calls of one entry.
const BATCH: usize = 100;
const START_MS: u64 = 1_700_000_000_000;

struct Log {
    state: State,
    seq: u64,
}

impl Log {
    fn run(&mut self, commands: Vec<Command>) -> Duration {
        self.seq += 1;
        let frame = Frame { origin: Origin { node: NodeId::new(1), boot: Boot(1) }, seq: self.seq, commands };
        let entry = Entry { log_time: LogTime::from_millis(START_MS + self.seq), frames: vec![frame] };
        // As it comes from the log.
        let entry = codec::decode_entry(&codec::encode_entry(&entry)).expect("what was encoded is decoded");
        let start = Instant::now();
        self.state.apply(LogIndex::new(self.seq), &entry, &mut Vec::new());
        start.elapsed()
    }
}

fn call(words: &[&[u8]]) -> Call {
    Call::parse(0, words.iter().map(|word| Bytes::copy_from_slice(word)).collect()).expect("a command")
}

fn key(n: usize) -> String {
    format!("sess:{:032x}", (n as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn sets(from: usize, count: usize, value: &[u8]) -> Vec<Command> {
    let calls = (from..from + count).map(|n| call(&[b"set", key(n).as_bytes(), value, b"ex", b"86400"])).collect();
    vec![Command::Session(Box::new(Write { calls, ..Write::default() }))]
}

fn main() -> io::Result<()> {
    let count: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let mut log = Log { state: State::new(), seq: 0 };
    log.run(vec![Command::InitCluster(Box::new(InitCluster {
        cluster_id: "c".to_owned(),
        ca_certificate: String::new(),
        ca_key_sealed: Vec::new(),
        first_node: NodeInfo { name: "n1".to_owned(), ..NodeInfo::default() },
        first_node_key_fingerprint: [1; 32],
        table_secret: [1; 16].into(),
        cookie_secret: [2; 32].into(),
        lease_secret: [3; 32].into(),
    }))]);
    let large = r#"{"version":1,"sessions":{"memory_max":"64GiB"}}"#;
    log.run(vec![Command::ApplyConfig(Box::new(ballast_core::state::ApplyConfig {
        document: large.to_owned(),
        rules: ballast_core::config::rules::RULES,
        source: large.to_owned(),
        expect: None,
        request_id: String::new(),
        author: ballast_core::state::Author::default(),
    }))]);

    let before = resident()?;
    let mut applying = Duration::ZERO;
    for from in (0..count).step_by(BATCH) {
        applying += log.run(sets(from, BATCH.min(count - from), &[b'v'; 1024]));
    }
    let bytes = resident()? - before;
    let stats = log.state.sessions().stats();
    println!("sessions             {}", stats.databases[0].keys);
    println!("resident             {:.0} bytes each, {} MB", bytes as f64 / count as f64, bytes >> 20);
    println!("counted              {:.0} bytes each", stats.bytes as f64 / count as f64);
    println!("set, new             {:.0} a second", count as f64 / applying.as_secs_f64());

    let writes = 200_000.min(count);
    let value = [b'w'; 1024];
    let mut applying = Duration::ZERO;
    for n in 0..writes / BATCH {
        applying += log.run(sets(n * 7919 * BATCH % (count - BATCH), BATCH, &value));
    }
    println!("set, known           {:.0} a second", writes as f64 / applying.as_secs_f64());

    let reads: Vec<Call> = (0..writes).map(|n| call(&[b"get", key(n * 7919 % count).as_bytes()])).collect();
    let now = LogTime::from_millis(START_MS + log.seq);
    let start = Instant::now();
    let mut replies = Vec::new();
    for calls in reads.chunks(BATCH) {
        replies.clear();
        log.state.sessions().read(Some(now), calls, &mut replies).expect("nothing is due");
    }
    println!("get                  {:.0} a second", reads.len() as f64 / start.elapsed().as_secs_f64());

    let start = Instant::now();
    let hash = log.state.hash();
    println!("hash                 {:?}", start.elapsed());
    let start = Instant::now();
    let snapshot = log.state.snapshot();
    println!("snapshot, taken      {:?}", start.elapsed());
    let start = Instant::now();
    let mut written = Vec::new();
    snapshot.write(&mut written)?;
    println!("snapshot, written    {:?}, {} MB", start.elapsed(), written.len() >> 20);
    let mut longest = Duration::ZERO;
    for n in 0..writes {
        longest = longest.max(log.run(sets(n * 7919 % count, 1, &value)));
    }
    println!("set beside snapshot  {longest:?} at most");
    drop(snapshot);
    let start = Instant::now();
    let read = State::read(&mut written.as_slice()).expect("what was written is read");
    println!("snapshot, read       {:?}", start.elapsed());
    assert_eq!(read.hash(), hash);
    Ok(())
}

fn resident() -> io::Result<usize> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0_usize);
    Ok(pages * 4096)
}
