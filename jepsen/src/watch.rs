//! Samples what each node says of itself, several times a second: who leads, who owns, how far it has applied, what it takes.
//!
//! The metrics are public; nothing here is believed where the wire or a client can tell.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use ballast_testkit::{client::Client, cluster::Operator};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::site::{Site, VIP_NAME};
use ballast_jepsen::time::RunTime;

const EVERY: Duration = Duration::from_millis(250);
/// States are hashed once in a while.
const BETWEEN_HASHES: Duration = Duration::from_secs(1);
/// A node that is stopped does not answer; the others are to be seen meanwhile.
const PATIENCE: Duration = Duration::from_millis(400);
/// What was said longer ago than this says nothing of now.
const FRESH: Duration = Duration::from_millis(1500);

/// What one node said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// When it was asked.
    pub at: RunTime,
    /// Position of the node.
    pub node: usize,
    /// Process id of its daemon; 0 when it has none.
    pub pid: u32,
    /// Raft term.
    pub term: u64,
    /// Last entry applied.
    pub applied: u64,
    /// Revision of the document that it serves; 0 when it has none.
    #[serde(default)]
    pub revision: u64,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it owns the VIP.
    pub owns: bool,
    /// Epoch of the VIP's lease.
    pub epoch: u64,
    /// Times that it found another node's state to differ.
    pub mismatches: u64,
    /// Whether it calls itself ready.
    pub ready: bool,
    /// Open descriptors.
    pub descriptors: u64,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Threads.
    pub threads: u64,
}

/// What a node said that the hash of its state was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashed {
    /// When it was asked.
    pub at: RunTime,
    /// The node.
    pub node: String,
    /// After which entry.
    pub index: u64,
    /// The hash.
    pub hash: String,
}

/// Watches all nodes.
pub struct Watch {
    clock: Clock,
    latest: Arc<Mutex<BTreeMap<usize, Sample>>>,
    all: Arc<Mutex<Vec<Sample>>>,
    hashes: Arc<Mutex<Vec<Hashed>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Begins.
    ///
    /// # Errors
    /// When a node's network cannot be entered.
    pub fn start(site: &Site, clock: Clock) -> Result<Self> {
        let (latest, all, stop) = (Arc::default(), Arc::<Mutex<Vec<Sample>>>::default(), Arc::<AtomicBool>::default());
        let mut threads = Vec::new();
        let nodes = site.nodes();
        for node in 0..site.members() {
            let ((door, address), processes) = (site.metrics(node)?, site.processes(node));
            let (latest, all, stop) =
                (Arc::<Mutex<BTreeMap<usize, Sample>>>::clone(&latest), Arc::clone(&all), Arc::clone(&stop));
            threads.push(thread::spawn(move || {
                if door.enter().is_err() {
                    return;
                }
                while !stop.load(Ordering::Relaxed) {
                    if let Some(sample) = look(node, address, clock) {
                        let sample = with_process(sample, &processes());
                        latest.lock().unwrap_or_else(PoisonError::into_inner).insert(node, sample.clone());
                        // Of a witness nothing is judged but what befalls clients of the nodes.
                        if node < nodes {
                            all.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                        }
                    }
                    thread::sleep(EVERY);
                }
            }));
        }
        let hashes = Arc::<Mutex<Vec<Hashed>>>::default();
        threads.push(thread::spawn({
            let operator = site.cluster.operator();
            let (hashes, stop) = (Arc::clone(&hashes), Arc::clone(&stop));
            move || {
                for asked in (0..nodes).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let found = states(&operator, asked, clock);
                    hashes.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                    thread::sleep(BETWEEN_HASHES);
                }
            }
        }));
        Ok(Self { clock, latest, all, hashes, stop, threads })
    }

    /// Who leads by the newest term that was told lately.
    pub fn leader(&self) -> Option<usize> {
        self.newest(|sample| sample.leads, |sample| sample.term)
    }

    /// Who owns the VIP by the newest epoch that was told lately.
    pub fn owner(&self) -> Option<usize> {
        self.newest(|sample| sample.owns, |sample| sample.epoch)
    }

    fn newest(&self, is: impl Fn(&Sample) -> bool, age: impl Fn(&Sample) -> u64) -> Option<usize> {
        let since = self.clock.now().before(FRESH);
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.values().filter(|sample| sample.at >= since && is(sample)).max_by_key(|s| age(s)).map(|s| s.node)
    }

    /// Ends, and returns all samples in the order in which they were taken, and the hashes.
    pub fn finish(mut self) -> (Vec<Sample>, Vec<Hashed>) {
        self.end();
        let mut all = std::mem::take(&mut *self.all.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_by_key(|sample| sample.at);
        (all, std::mem::take(&mut *self.hashes.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Its threads hold the lab, which would outlive a run that fails half way.
impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a node knows of the states of all, by what each told it.
fn states(operator: &Operator, asked: usize, clock: Clock) -> Vec<Hashed> {
    let at = clock.now();
    let said = operator.ctl(asked, &["cluster", "status", "-o", "json", "--timeout", "1s"]).ok();
    let status: Option<serde_json::Value> = said.and_then(|said| serde_json::from_str(&said.out).ok());
    let nodes = status.as_ref().and_then(|status| status["nodes"].as_array());
    let hashed = |node: &serde_json::Value| {
        let (name, hash) = (node["name"].as_str()?, node["state_hash"].as_str().filter(|hash| !hash.is_empty())?);
        let index = node["state_hash_index"].as_u64().filter(|index| *index > 0)?;
        Some(Hashed { at, node: name.to_owned(), index, hash: hash.to_owned() })
    };
    nodes.into_iter().flatten().filter_map(hashed).collect()
}

fn look(node: usize, address: SocketAddr, clock: Clock) -> Option<Sample> {
    let at = clock.now();
    let answer = Client::new(address).host("localhost").timeout(PATIENCE).get("/metrics").ok()?;
    let text = answer.text();
    let metrics: BTreeMap<&str, f64> = text
        .lines()
        .filter(|line| {
            line.starts_with("ballast_raft")
                || line.starts_with("ballast_vip")
                || line.starts_with("ballast_state")
                || line.starts_with("ballast_ready")
                || line.starts_with("ballast_config_revision")
        })
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(series, value)| Some((series, value.parse().ok()?)))
        .collect();
    // A node that does not say so is no sample, and samples there must be.
    let mismatches = *metrics.get("ballast_state_hash_mismatch_total")? as u64;
    let value = |name: &str| metrics.get(name).copied().unwrap_or_default();
    let of_vip = |name: &str| value(&format!("{name}{{vip=\"{VIP_NAME}\"}}"));
    Some(Sample {
        at,
        node,
        term: value("ballast_raft_term") as u64,
        applied: value("ballast_raft_applied_index") as u64,
        revision: value("ballast_config_revision") as u64,
        leads: value("ballast_raft_is_leader") > 0.5,
        owns: of_vip("ballast_vip_owner") > 0.5,
        epoch: of_vip("ballast_vip_epoch") as u64,
        mismatches,
        ready: value("ballast_ready") > 0.5,
        ..Sample::default()
    })
}

/// Adds what the kernel says of the daemon, the one process of the node that is called that.
fn with_process(mut sample: Sample, pids: &[u32]) -> Sample {
    let read = |pid: u32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let Some(pid) = pids.iter().copied().find(|pid| read(*pid, "comm").starts_with("ballastd")) else {
        // An engine may count processes otherwise than is seen here. Then it tells one start from another, and no more.
        sample.pid = pids.first().copied().unwrap_or_default();
        return sample;
    };
    let status = read(pid, "status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    sample.pid = pid;
    sample.resident = field("VmRSS:").unwrap_or_default() * 1024;
    sample.threads = field("Threads:").unwrap_or_default();
    sample.descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64);
    sample
}
