//! What consensus costs here: three members in this process, on real disks, over loopback TCP.
//!
//! Question: how long does one binding take at rest, how many bindings does the cluster commit per
//! second under load and at how much CPU, and how long are writes interrupted when the leader is
//! lost? Prints one line for each. (`churn` asks whether it survives snapshots and purges under load.) Run it on an otherwise idle machine: everything shares the cores,
//! the load itself included. `cargo run --release -p ballast-raft --example load [seconds]`.

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use ballast_core::{
    cluster::ReadIndex,
    ids::{BackendId, ServiceId},
    persistence::KeyHash,
    state::{ApplyConfig, Author, BindingChange, Command, Outcome},
};
use ballast_raft::Handle;
use support::{Cluster, PATIENCE, propose};

const DOCUMENT: &str = r#"{"version":1,"farms":[{"name":"shop",
    "listeners":[{"name":"http","address":"127.0.0.1","port":8080}],
    "services":[{"name":"web","backends":[{"name":"a","address":"127.0.0.1:9000"}],
    "persistence":{"table":{"key":{"header":"x-user"},"entries_max":100000000}}}]}]}"#;

static KEYS: AtomicU64 = AtomicU64::new(1);

#[derive(Clone, Copy)]
struct Target {
    service: ServiceId,
    backend: BackendId,
}

impl Target {
    fn bind(self) -> Command {
        let number = u128::from(KEYS.fetch_add(1, Ordering::Relaxed));
        // Spread over the shards as hashes are.
        let key = KeyHash::from_u128(number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835));
        Command::Bind { service: self.service, key, choice: self.backend, replaces: None }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(5), |argument| argument.parse())?;
    let length = Duration::from_secs(seconds);
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap_or(leader);
    let target = configure(&cluster.handle(leader)).await?;

    for (name, node) in [("leader", leader), ("follower", follower)] {
        at_rest(&format!("binding at rest, from the {name}"), &cluster.handle(node), target).await?;
    }
    reads_at_rest(&cluster.handle(follower)).await?;
    for waiting in [16, 256, 4096] {
        under_load(&cluster, target, waiting, length).await;
    }
    small_entries(&cluster, target, length).await;
    cluster.converge().await;
    lost_leaders(&cluster, target).await?;
    cluster.end().await;
    Ok(())
}

async fn configure(handle: &Handle) -> anyhow::Result<Target> {
    let apply = ApplyConfig {
        document: DOCUMENT.to_owned(),
        source: DOCUMENT.to_owned(),
        rules: ballast_core::config::rules::RULES,
        expect: None,
        request_id: "load".to_owned(),
        author: Author::default(),
    };
    let applied = propose(handle, Command::ApplyConfig(Box::new(apply))).await?;
    anyhow::ensure!(matches!(applied.outcome, Outcome::Applied { .. }), "{:?}", applied.outcome);
    let service = handle.with_state(|state| state.service_id("shop/web")).context("the service has an id")?;
    let target = Target { service, backend: BackendId::new(1) };
    let bound = propose(handle, target.bind()).await?;
    anyhow::ensure!(matches!(bound.outcome, Outcome::Bound { how: BindingChange::Created, .. }), "{:?}", bound.outcome);
    Ok(target)
}

async fn at_rest(name: &str, handle: &Handle, target: Target) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for _ in 0..300 {
        let begun = Instant::now();
        propose(handle, target.bind()).await?;
        took.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    print_times(name, &mut took);
    Ok(())
}

async fn reads_at_rest(handle: &Handle) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        handle.confirm(PATIENCE).await?;
        took.push(begun.elapsed());
    }
    print_times("confirmed read, from a follower", &mut took);
    Ok(())
}

/// `waiting` callers, spread over the nodes, each proposing its next binding when it has the last.
async fn under_load(cluster: &Cluster, target: Target, waiting: usize, length: Duration) {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (entries, syncs) = (entries(cluster), syncs(cluster));
    let (begun, cpu) = (Instant::now(), cpu());
    let ids = cluster.ids();
    let callers: Vec<_> = (0..waiting)
        .map(|n| {
            let (handle, stop, done) = (cluster.handle(ids[n % ids.len()]), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    propose(&handle, target.bind()).await.expect("bound");
                    slowest = slowest.max(begun.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                slowest
            })
        })
        .collect();
    tokio::time::sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    let mut slowest = Duration::ZERO;
    for caller in callers {
        slowest = slowest.max(caller.await.expect("no panic"));
    }
    let (took, cpu) = (begun.elapsed(), self::cpu().saturating_sub(cpu));
    let done = done.load(Ordering::Relaxed);
    let entries = self::entries(cluster).saturating_sub(entries).max(1);
    println!(
        "{waiting:5} callers: {:8.0} bindings/s, {:5.1} us CPU each (all three nodes and the callers), {:6.1} an \
         entry, {:5.0} entries/s, {:5.0} syncs/s, {:.2} cores, slowest {slowest:?}",
        done as f64 / took.as_secs_f64(),
        cpu.as_micros() as f64 / done as f64,
        done as f64 / entries as f64,
        entries as f64 / took.as_secs_f64(),
        (self::syncs(cluster) - syncs) as f64 / took.as_secs_f64(),
        cpu.as_secs_f64() / took.as_secs_f64(),
    );
}

/// One caller a node: every entry carries one to three bindings, the worst case for batching.
async fn small_entries(cluster: &Cluster, target: Target, length: Duration) {
    under_load(cluster, target, 3, length).await;
}

/// How long a follower's writes are interrupted when the leader is cut off.
async fn lost_leaders(cluster: &Cluster, target: Target) -> anyhow::Result<()> {
    let (mut took, mut elected) = (Vec::new(), Vec::new());
    for _ in 0..15 {
        let leader = cluster.leader(&[]).await;
        let other = cluster.ids().into_iter().find(|id| *id != leader).unwrap_or(leader);
        propose(&cluster.handle(other), target.bind()).await?;
        let begun = Instant::now();
        cluster.faults.cut_off(leader);
        let other = cluster.handle(other);
        let (next, bound) = tokio::join!(
            async {
                cluster.leader(&[leader]).await;
                begun.elapsed()
            },
            propose(&other, target.bind())
        );
        bound?;
        took.push(begun.elapsed());
        elected.push(next);
        cluster.faults.heal();
        cluster.converge().await;
        // Long enough for the next leader's lease to be an ordinary one.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    print_times("a new leader is known after the loss of the old one", &mut elected);
    print_times("writes interrupted by the loss of the leader", &mut took);
    Ok(())
}

fn entries(cluster: &Cluster) -> u64 {
    cluster.nodes.values().map(|node| node.handle.status().last_log.get()).max().unwrap_or(0)
}

fn syncs(cluster: &Cluster) -> u64 {
    cluster.nodes.values().map(|node| node.handle.sync_stats().syncs).sum()
}

fn print_times(name: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!("{name}: median {:?}, p95 {:?}, worst {:?} ({} times)", at(50), at(95), at(100), took.len());
}

/// CPU time of this process, user and system.
fn cpu() -> Duration {
    // SAFETY: an all-zero rusage is a valid value, and the pointer is to a live, exclusively borrowed one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let of = |time: libc::timeval| {
        Duration::new(time.tv_sec.try_into().unwrap_or(0), 0)
            + Duration::from_micros(time.tv_usec.try_into().unwrap_or(0))
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}
