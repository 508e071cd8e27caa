//! What bindings cost: memory, insert rate, lookups, snapshot. `bindings_memory [COUNT]`, seven
//! million by default. Drives the state machine as the log would.

use std::{fs, hint::black_box, io, time::Instant};

use ballast_core::{
    ids::{BackendId, Boot, LogIndex, NodeId, ServiceId},
    persistence::KeyHash,
    state::{ApplyConfig, Command, Entry, Frame, InitCluster, NodeInfo, Origin, State},
    time::LogTime,
};

const BATCH: u32 = 1000;
const START_MS: u64 = 1_700_000_000_000;

struct Log {
    state: State,
    seq: u64,
}

impl Log {
    fn run(&mut self, commands: Vec<Command>) {
        self.seq += 1;
        let frame = Frame { origin: Origin { node: NodeId::new(1), boot: Boot(1) }, seq: self.seq, commands };
        let log_time = LogTime::from_millis(START_MS + self.seq);
        let mut out = Vec::new();
        self.state.apply(LogIndex::new(self.seq), &Entry { log_time, frames: vec![frame] }, &mut out);
        black_box(out);
    }
}

fn main() -> io::Result<()> {
    let count: u32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(7_000_000);
    let mut log = Log { state: State::new(), seq: 0 };
    log.run(setup());
    let (service, backend) = (ServiceId::new(1), BackendId::new(1));
    let key = |n: u32| KeyHash::of(&[1; 16], service, &n.to_le_bytes());

    let before = resident()?;
    let start = Instant::now();
    for first in (0..count).step_by(BATCH as usize) {
        let batch = first..count.min(first + BATCH);
        log.run(batch.map(|n| Command::Bind { service, key: key(n), choice: backend, replaces: None }).collect());
    }
    let elapsed = start.elapsed();
    let bytes = resident()? - before;
    println!("bindings             {}", log.state.bindings_of(backend));
    println!("resident             {:.1} bytes each, {} MB", bytes as f64 / f64::from(count), bytes >> 20);
    println!("arrays               {:.1} bytes each", log.state.binding_bytes() as f64 / f64::from(count));
    println!("insert               {:.0} a second", f64::from(count) / elapsed.as_secs_f64());

    let now = LogTime::from_millis(START_MS + log.seq);
    for (name, offset) in [("lookup, hit", 0), ("lookup, miss", count)] {
        let keys: Vec<_> = (0..1_000_000_u64).map(|n| key((n * 7919 % u64::from(count)) as u32 + offset)).collect();
        let tables = log.state.tables();
        let mut found = 0;
        // In slices, because the machine may do other things meanwhile.
        let mut slices: Vec<_> = keys
            .chunks(1000)
            .map(|keys| {
                let start = Instant::now();
                found += keys.iter().filter(|key| tables.lookup(service, **key, now).is_some()).count();
                start.elapsed().as_nanos() as f64 / keys.len() as f64
            })
            .collect();
        slices.sort_by(f64::total_cmp);
        println!(
            "{name:<20} {:.0} ns at the median, {:.0} ns at best ({found} found)",
            slices[slices.len() / 2],
            slices[0]
        );
    }

    let start = Instant::now();
    let hash = log.state.hash();
    println!("hash                 {:?}", start.elapsed());
    let start = Instant::now();
    let snapshot = log.state.snapshot();
    println!("snapshot taken       {:?}", start.elapsed());
    let mut bytes = Vec::new();
    let start = Instant::now();
    snapshot.write(&mut bytes)?;
    println!("snapshot written     {:?}, {} MB", start.elapsed(), bytes.len() >> 20);

    let start = Instant::now();
    for first in (0..count.min(100_000)).step_by(BATCH as usize) {
        let batch = first..first + BATCH;
        log.run(
            batch.map(|n| Command::Bind { service, key: key(count + n), choice: backend, replaces: None }).collect(),
        );
    }
    println!("100000 more beside it {:?}", start.elapsed());
    drop(snapshot);

    let start = Instant::now();
    let read = State::read(&mut bytes.as_slice()).map_err(io::Error::other)?;
    println!("snapshot read        {:?}", start.elapsed());
    assert_eq!(read.hash(), hash, "what was read is what was written");
    Ok(())
}

fn setup() -> Vec<Command> {
    let document = r#"{"version":1,"farms":[{"name":"f","listeners":[{"name":"l","address":"0.0.0.0","port":80}],
        "services":[{"name":"s","backends":[{"name":"a","address":"127.0.0.1:1"}],
        "persistence":{"table":{"key":{"header":"x"},"idle_timeout":"8h","entries_max":20000000}}}]}]}"#;
    let init = InitCluster {
        cluster_id: "bench".to_owned(),
        ca_certificate: String::new(),
        ca_key_sealed: Vec::new(),
        first_node: NodeInfo { name: "n1".to_owned(), ..NodeInfo::default() },
        first_node_key_fingerprint: [0; 32],
        table_secret: [1; 16].into(),
        cookie_secret: [0; 32].into(),
        lease_secret: [0; 32].into(),
    };
    let apply = ApplyConfig {
        document: document.to_owned(),
        source: String::new(),
        rules: ballast_core::config::rules::RULES,
        expect: None,
        request_id: String::new(),
        author: Default::default(),
    };
    vec![Command::InitCluster(Box::new(init)), Command::ApplyConfig(Box::new(apply))]
}

/// Resident memory of this process in bytes.
fn resident() -> io::Result<usize> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok());
    Ok(pages.ok_or_else(|| io::Error::other("/proc/self/statm has another form"))? * 4096)
}
