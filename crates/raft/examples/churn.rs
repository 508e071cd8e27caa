//! Whether consensus survives what openraft's issue 2116 is about: tens of thousands of small writes a
//! second, a snapshot every few thousand entries and purges behind it, on too little CPU.
//!
//! Three members in this process share one core. Each of many writers moves its own binding to and
//! fro, so the state stays small, and the table counts each move: at the end the count must be that
//! of the acknowledged writes, on every node, and all states must be equal. First the way Ballast
//! proposes (`merged`), then with an entry for each write (`alone`), which it never does and which
//! is what the issue takes.
//!
//! `cargo run --release -p ballast-raft --example churn [seconds] [merged|alone]`. The status is 0 only
//! if nothing was lost and every member still runs.

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ballast_core::{
    ids::{BackendId, Boot, NodeId, ServiceId},
    persistence::KeyHash,
    state::{ApplyConfig, Author, BindingChange, Command, Frame, Origin, Outcome, RehomeCause},
};
use ballast_raft::{Handle, LogBounds};
use support::{Cluster, propose};

const DOCUMENT: &str = r#"{"version":1,"farms":[{"name":"shop",
    "listeners":[{"name":"http","address":"127.0.0.1","port":8080}],
    "services":[{"name":"web","backends":[{"name":"a","address":"127.0.0.1:9000"},
    {"name":"b","address":"127.0.0.1:9001"}],
    "persistence":{"table":{"key":{"header":"x-user"},"entries_max":1000000}}}]}]}"#;

/// Writers in flight. Enough to keep a starved leader's queues full.
const WRITERS: u64 = 2048;

/// Every member writes a snapshot this often: at 16,000 entries a second, every four thousand.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(250);

/// The load at which the issue was seen.
const WRITES_WANTED: f64 = 16_000.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// As the daemon does: writes of all nodes become few entries.
    Merged,
    /// Each write is an entry.
    Alone,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(60), |argument| argument.parse()).context("seconds")?;
    let modes = match arguments.next().as_deref() {
        None => vec![Mode::Merged, Mode::Alone],
        Some("merged") => vec![Mode::Merged],
        Some("alone") => vec![Mode::Alone],
        Some(other) => bail!("{other} is neither `merged` nor `alone`"),
    };
    // Before any thread is started: an affinity is inherited, not shared.
    let _limit = Limit::to_one_core()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let each = Duration::from_secs(seconds) / u32::try_from(modes.len())?;
    runtime.block_on(async {
        for mode in modes {
            run(mode, each).await?;
        }
        Ok(())
    })
}

async fn run(mode: Mode, length: Duration) -> Result<()> {
    let cluster = three().await;
    let leader = cluster.leader(&[]).await;
    let target = configure(&cluster.handle(leader)).await?;
    let (stop, acknowledged, unknown) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
    let ids = cluster.ids();
    let begun = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let node = if mode == Mode::Alone { leader } else { ids[number as usize % ids.len()] };
            let writer = Writer {
                number,
                mode,
                target,
                handle: cluster.handle(node),
                acknowledged: Arc::clone(&acknowledged),
                unknown: Arc::clone(&unknown),
            };
            tokio::spawn(writer.run(Arc::clone(&stop)))
        })
        .collect();
    let mut snapshots = 0;
    while begun.elapsed() < length {
        tokio::time::sleep(SNAPSHOT_EVERY).await;
        for id in cluster.ids() {
            ensure!(cluster.handle(id).runs(), "node {id} stopped: {:?}", cluster.handle(id).status());
            snapshots += u64::from(cluster.handle(id).trigger_snapshot().await);
        }
    }
    let written = acknowledged.load(Ordering::Acquire);
    let rate = written as f64 / begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Release);
    for writer in writers {
        writer.await??;
    }
    cluster.converge().await;

    let status = cluster.handle(leader).status();
    println!(
        "{mode:?}: {rate:.0} writes/s for {length:?}, {} entries, {snapshots} snapshots asked for, purged up to {}",
        status.last_log, status.purged
    );
    if rate < WRITES_WANTED {
        println!("{mode:?}: this machine did not reach {WRITES_WANTED:.0} writes/s; the issue may need that many");
    }
    let (acknowledged, unknown) = (acknowledged.load(Ordering::Acquire), unknown.load(Ordering::Acquire));
    for id in cluster.ids() {
        let handle = cluster.handle(id);
        ensure!(handle.runs(), "node {id} stopped: {:?}", handle.status());
        let moved = handle.with_state(|state| state.table_info(target).map(|table| table.totals));
        let moved = moved.context("the table is there")?.rehomed(RehomeCause::ConnectFailed);
        ensure!(
            (acknowledged..=acknowledged + unknown).contains(&moved),
            "node {id} has {moved} writes, {acknowledged} were acknowledged and {unknown} may have been applied"
        );
    }
    println!(
        "{mode:?}: {acknowledged} acknowledged writes are in all three states, which are equal; {unknown} unknown"
    );
    cluster.end().await;
    Ok(())
}

/// Three voters that keep next to nothing of the log behind a snapshot.
async fn three() -> Cluster {
    let mut cluster = Cluster::of_one().await;
    let first = NodeId::new(1);
    let address = cluster.nodes[&first].address;
    cluster.stop(first).await;
    cluster.bounds =
        LogBounds { snapshot_entries: 2000, snapshot_pause: Duration::ZERO, kept_entries: 200, ..LogBounds::default() };
    cluster.start_at(first, address).await;
    cluster.join(2).await;
    cluster.join(3).await;
    cluster.all_see(|status| status.voters.len() == 3 && status.voter_sets.len() == 1).await;
    cluster
}

async fn configure(handle: &Handle) -> Result<ServiceId> {
    let apply = ApplyConfig {
        document: DOCUMENT.to_owned(),
        source: DOCUMENT.to_owned(),
        rules: ballast_core::config::rules::RULES,
        expect: None,
        request_id: "churn".to_owned(),
        author: Author::default(),
    };
    let applied = propose(handle, Command::ApplyConfig(Box::new(apply))).await?;
    ensure!(matches!(applied.outcome, Outcome::Applied { .. }), "{:?}", applied.outcome);
    handle.with_state(|state| state.service_id("shop/web")).context("the service has an id")
}

/// Moves one binding to and fro. Each move names the backend that the one before left it at, so none of them can
/// succeed if that was lost.
struct Writer {
    number: u64,
    mode: Mode,
    target: ServiceId,
    handle: Handle,
    acknowledged: Arc<AtomicU64>,
    unknown: Arc<AtomicU64>,
}

impl Writer {
    async fn run(self, stop: Arc<AtomicBool>) -> Result<()> {
        let (mut here, mut there) = (BackendId::new(1), BackendId::new(2));
        let made = propose(&self.handle, self.bind(here, None)).await?;
        ensure!(matches!(made.outcome, Outcome::Bound { how: BindingChange::Created, .. }), "{:?}", made.outcome);
        for seq in 1.. {
            if stop.load(Ordering::Acquire) {
                break;
            }
            let write = self.bind(there, Some((here, RehomeCause::ConnectFailed)));
            if self.write(seq, write).await? {
                self.acknowledged.fetch_add(1, Ordering::AcqRel);
                (here, there) = (there, here);
            } else {
                // It may stand or not, so what would come next is not known.
                self.unknown.fetch_add(1, Ordering::AcqRel);
                break;
            }
        }
        Ok(())
    }

    /// False if the outcome is unknown.
    async fn write(&self, seq: u64, command: Command) -> Result<bool> {
        if self.mode == Mode::Alone {
            let origin = Origin { node: self.handle.node(), boot: Boot(1_000_000 + self.number) };
            return Ok(self.handle.propose_alone(Frame { origin, seq, commands: vec![command] }).await.is_ok());
        }
        match propose(&self.handle, command).await {
            Ok(applied) => match applied.outcome {
                Outcome::Bound { how: BindingChange::Rehomed(_), .. } => Ok(true),
                other => bail!("the write before was lost: {other:?}"),
            },
            Err(error) => {
                eprintln!("writer {}: {error}", self.number);
                Ok(false)
            }
        }
    }

    fn bind(&self, choice: BackendId, replaces: Option<(BackendId, RehomeCause)>) -> Command {
        // Spread over the shards as hashes are.
        let key = u128::from(self.number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        Command::Bind { service: self.target, key: KeyHash::from_u128(key), choice, replaces }
    }
}

/// Keeps this process to the CPU time of one core; undone when dropped.
struct Limit {
    group: Option<Group>,
}

struct Group {
    path: PathBuf,
    /// The group that the process was in before.
    before: PathBuf,
}

impl Limit {
    /// By a quota of a control group of its own, so that threads are stopped in the middle of anything for tens of
    /// milliseconds, as in a container with a limit. Where that is not permitted, by one core for all threads.
    fn to_one_core() -> Result<Self> {
        match Group::make() {
            Ok(group) => {
                println!("limited to one core's time by a CPU quota ({})", group.path.display());
                Ok(Self { group: Some(group) })
            }
            Err(error) => {
                println!("a CPU quota is not permitted here ({error:#}); all threads share one core instead");
                pin_to_one_core()?;
                Ok(Self { group: None })
            }
        }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            let left = fs::write(group.before.join("cgroup.procs"), process::id().to_string());
            if let Err(error) = left.and_then(|()| fs::remove_dir(&group.path)) {
                eprintln!("{} stays behind: {error}", group.path.display());
            }
        }
    }
}

impl Group {
    fn make() -> Result<Self> {
        let mounted = Path::new("/sys/fs/cgroup/cpu");
        let groups = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
        let own = groups
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
            .find(|(controllers, _)| controllers.split(',').any(|controller| controller == "cpu"))
            .map(|(_, path)| path.trim_start_matches('/').to_owned())
            .context("no cgroup v1 controller for the CPU")?;
        // In a container the group's path may be the host's, which is not mounted here.
        let before = Some(mounted.join(own)).filter(|path| path.is_dir()).unwrap_or_else(|| mounted.to_owned());
        let path = before.join(format!("ballast-churn-{}", process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        let write =
            |file: &str, value: &str| fs::write(path.join(file), value).with_context(|| format!("write {file}"));
        let limited = write("cpu.cfs_period_us", "100000")
            .and_then(|()| write("cpu.cfs_quota_us", "100000"))
            .and_then(|()| write("cgroup.procs", &process::id().to_string()));
        match limited {
            Ok(()) => Ok(Self { path, before }),
            Err(error) => {
                // Best effort: the error that matters is the first one.
                drop(fs::remove_dir(&path));
                Err(error)
            }
        }
    }
}

fn pin_to_one_core() -> Result<()> {
    // SAFETY: an all-zero set is a valid empty one; the pointers are to live, exclusively borrowed sets of the size
    // that is told.
    let result = unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &raw mut allowed) == 0 {
            let first = (0..libc::CPU_SETSIZE as usize).find(|cpu| libc::CPU_ISSET(*cpu, &allowed)).unwrap_or(0);
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(first, &mut one);
            libc::sched_setaffinity(0, size, &raw const one)
        } else {
            -1
        }
    };
    ensure!(result == 0, "cannot keep to one core: {}", std::io::Error::last_os_error());
    Ok(())
}
