//! Leases that were in force and may still count, and one that may not be asked for yet.
//!
//! A node that starts may not grant anything before the longest of those that may count has ended, and a lease that was
//! shortened leaves longer rights behind. A lease that was made longer is granted as soon as a node has it on disk and asked
//! for a while later: voters that do not know of it yet refuse it. What is not on disk is not granted, as a loss of power
//! would take it, and the node would start with too short a silence.
//!
//! Not here: what is made of that ([`crate::leases`], `ballast_core::lease`).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use ballast_core::{
    ids::{LogIndex, Revision},
    state::State,
    time::BootNanos,
};
use tracing::warn;

/// For how long a lease that was replaced is granted, in nanoseconds, to owners that apply the change later.
const REPLACED_IS_GRANTED: u64 = 2_000_000_000;

/// A lease that was replaced longer ago than this, in nanoseconds, cannot be in force any more: the longest that a
/// document may ask for is ten seconds, on a clock that runs at 0.9 while ours runs at 1.1.
const REPLACED_COUNTS: u64 = REPLACED_IS_GRANTED + 13_000_000_000;

/// How long a longer lease is held back, in nanoseconds: by then every node that is not in trouble has applied it.
const HELD_BACK: u64 = 2_000_000_000;

/// The longest lease that a document may ask for, in milliseconds.
const LEASE_MAX_MILLIS: u64 = 10_000;

/// Stands for revisions that are no longer kept; no document has that number.
const FORGOTTEN: Revision = Revision::new(0);

/// The leases that nodes may still count on: the configured one, and each that was replaced so recently that a right
/// given under it may not have ended.
///
/// How recently is judged by `CLOCK_BOOTTIME` since this node first saw the replacement, not by log time, which leaps. A
/// process that starts reads from a file when earlier ones saw it, as long as the kernel is the same; what is not in it counts anew.
#[derive(Debug, Default)]
pub struct Leases {
    all: BTreeMap<Revision, Lease>,
    /// When earlier lives saw that a revision was replaced.
    seen: BTreeMap<Revision, BootNanos>,
    file: Option<Memory>,
    /// The lease of the newest revision that was seen to be on disk.
    on_disk: Option<u64>,
    /// What is asked for, once something is.
    asked: Option<u64>,
    /// A longer one that waits, and since when it is configured.
    longer: Option<(u64, BootNanos)>,
}

/// What the lease thread is told of leases, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// What to ask for.
    pub asked: u64,
    /// The longest that may be in force.
    pub longest: u64,
    /// The longest that is granted: the document that says so is on this node's disk, so that the node knows of it when it
    /// starts again.
    pub granted: u64,
}

#[derive(Debug)]
struct Lease {
    millis: u64,
    /// The last entry that was applied when the node learnt of it.
    learnt: LogIndex,
    /// When this node first saw that a later revision is in force.
    replaced: Option<BootNanos>,
}

/// All that is read of an old document: the lease counted whatever this release thinks of the rest.
#[derive(serde::Deserialize)]
struct OnlyCluster {
    #[serde(default)]
    cluster: ballast_core::config::Cluster,
}

impl Leases {
    /// With what earlier lives on this kernel noted in `folder`.
    pub fn remembered(folder: &Path) -> Self {
        Self::from_memory(Memory::of_this_kernel(folder))
    }

    fn from_memory(memory: Memory) -> Self {
        Self { seen: memory.read(), file: Some(memory), ..Self::default() }
    }

    fn keep(&mut self) {
        self.seen = self.all.iter().filter_map(|(revision, lease)| Some((*revision, lease.replaced?))).collect();
        self.seen.remove(&FORGOTTEN);
        if let Some(Err(error)) = self.file.as_ref().map(|file| file.write(&self.seen)) {
            warn!(%error, "when leases were replaced could not be noted; after the next start they count for as long again");
        }
    }

    /// Takes the revisions into account that came since the last time.
    pub fn learn(&mut self, state: &State, now: BootNanos) {
        let learnt = state.applied();
        if self.all.is_empty() && forgot_lately(state) {
            // Which revisions these were is not known, so what was noted of earlier ones says nothing of them.
            self.all.insert(FORGOTTEN, Lease { millis: LEASE_MAX_MILLIS, learnt, replaced: Some(now) });
        }
        for record in state.revisions() {
            if self.all.contains_key(&record.revision) {
                break;
            }
            if let Ok(OnlyCluster { cluster }) = serde_json::from_str(&record.document) {
                let millis = cluster.lease.as_millis();
                self.all.insert(record.revision, Lease { millis, learnt, replaced: None });
            }
        }
        let mut news = false;
        for (revision, lease) in self.all.range_mut(..state.revision()) {
            if lease.replaced.is_none() {
                // An earlier life that had seen it later than now would be one of another kernel.
                lease.replaced = Some(self.seen.get(revision).map_or(now, |seen| (*seen).min(now)));
                news |= !self.seen.contains_key(revision);
            }
        }
        if news {
            self.keep();
        }
    }

    /// What to ask for and what to grant now, under a document that says `configured`, when the log is on disk up to `synced`.
    pub fn lengths(&mut self, configured: u64, synced: LogIndex, now: BootNanos) -> Lengths {
        // In force is what is newest on disk, however long ago it was replaced by what is not.
        let newest = self.all.values().rev().find(|lease| lease.learnt <= synced);
        self.on_disk = newest.map(|lease| lease.millis).or(self.on_disk);
        let (asked, longest) = (self.asked(configured, now), self.longest(now));
        let nothing = if self.all.is_empty() { configured } else { 0 };
        let on_disk = self.all.values().filter(|lease| lease.learnt <= synced).map(|lease| lease.millis);
        let on_disk = on_disk.chain(self.on_disk).max().unwrap_or(nothing);
        let recent = |lease: &&Lease| lease.replaced.is_none_or(|at| now.since(at) <= REPLACED_IS_GRANTED);
        let in_force = self.all.values().filter(recent).map(|lease| lease.millis).max().unwrap_or(configured);
        // What is granted has ended before it counts no longer, so that a process that starts is silent for long enough.
        Lengths { asked, longest, granted: on_disk.min(in_force) }
    }

    /// The lease to ask for under a document that says `configured`: a longer one than before only [`HELD_BACK`] after it
    /// was first seen, or an owner would be refused by voters that apply the document later, until it has lost its VIPs.
    fn asked(&mut self, configured: u64, now: BootNanos) -> u64 {
        let asked = self.asked.filter(|asked| *asked < configured).unwrap_or(configured);
        let since = self.longer.filter(|(lease, _)| *lease == configured).map_or(now, |(_, since)| since);
        let waits = asked < configured && now.since(since) < HELD_BACK;
        self.longer = waits.then_some((configured, since));
        *self.asked.insert(if waits { asked } else { configured })
    }

    /// The longest of them in milliseconds, zero while nothing is configured. Forgets those that count no longer.
    fn longest(&mut self, now: BootNanos) -> u64 {
        self.all.retain(|_, lease| lease.replaced.is_none_or(|at| now.since(at) <= REPLACED_COUNTS));
        self.all.values().map(|lease| lease.millis).max().unwrap_or(0)
    }
}

/// Whether a revision that is no longer kept was in force so recently that its lease may count. Log time may have leapt by as
/// much again.
fn forgot_lately(state: &State) -> bool {
    let oldest = state.revisions().last();
    oldest.is_some_and(|oldest| {
        let replaced_for = state.log_time().millis_since(oldest.at);
        oldest.revision > Revision::new(1) && replaced_for <= 2 * REPLACED_COUNTS / 1_000_000
    })
}

/// The file that remembers when revisions were replaced. It is believed by processes of the same kernel only, whose clock it
/// has, so it need not reach the disk.
#[derive(Debug)]
struct Memory {
    path: PathBuf,
    kernel: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Remembered {
    kernel: String,
    replaced: BTreeMap<u64, u64>,
}

impl Memory {
    fn of_this_kernel(folder: &Path) -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        // Another time namespace has another clock.
        let kernel = read("/proc/sys/kernel/random/boot_id") + &read("/proc/self/timens_offsets");
        Self { path: folder.join("past-leases.json"), kernel: kernel.split_whitespace().collect::<Vec<_>>().join(" ") }
    }

    fn read(&self) -> BTreeMap<Revision, BootNanos> {
        let bytes = fs::read(&self.path).unwrap_or_default();
        match serde_json::from_slice(&bytes) {
            Ok(Remembered { kernel, replaced }) if kernel == self.kernel => {
                replaced.into_iter().map(|(r, at)| (Revision::new(r), BootNanos::new(at))).collect()
            }
            _ => BTreeMap::new(),
        }
    }

    fn write(&self, replaced: &BTreeMap<Revision, BootNanos>) -> io::Result<()> {
        let replaced = replaced.iter().map(|(revision, at)| (revision.get(), at.get())).collect();
        let bytes = serde_json::to_vec(&Remembered { kernel: self.kernel.clone(), replaced })?;
        let beside = self.path.with_extension("json.new");
        fs::write(&beside, bytes)?;
        fs::rename(beside, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::state::{Command, REVISIONS_MAX};

    use super::*;
    use crate::fixture::{START, configure, founded, pass};

    fn seconds(boot: u64) -> BootNanos {
        BootNanos::new(boot * 1_000_000_000)
    }

    #[test]
    fn a_replaced_lease_counts_until_it_has_run_out_by_this_nodes_own_clock() {
        let mut leases = Leases::default();
        assert_eq!(leases.longest(seconds(0)), 0);
        let mut state = founded(r#"{"version":1,"cluster":{"lease":"10s"}}"#);
        leases.learn(&state, seconds(1));
        assert_eq!(leases.longest(seconds(100)), 10_000, "it is in force");
        configure(&mut state, START.plus_millis(100_000), r#"{"version":1,"cluster":{"lease":"200ms"}}"#);
        leases.learn(&state, seconds(101));
        // The wall clocks step, and log time with them.
        pass(&mut state, START.plus_millis(4_000_000), Command::Tick);
        leases.learn(&state, seconds(102));
        assert_eq!(leases.longest(seconds(116)), 10_000);
        assert_eq!(leases.longest(seconds(117)), 200);
        leases.learn(&state, seconds(118));
        assert_eq!(leases.longest(seconds(118)), 200, "and is not learnt again");
        // A node that starts again does not know what it promised.
        let mut again = Leases::default();
        again.learn(&state, seconds(500));
        assert_eq!((again.longest(seconds(515)), again.longest(seconds(516))), (10_000, 200));
    }

    #[test]
    fn a_longer_lease_is_asked_for_after_two_seconds_and_a_shorter_one_at_once() {
        let mut leases = Leases::default();
        let millis = |millis: u64| BootNanos::new(millis * 1_000_000);
        for (now, configured, asked) in [
            (1000, 200, 200),
            (5000, 5000, 200),
            (6999, 5000, 200),
            (7000, 5000, 5000),
            (7001, 10_000, 5000),
            (8000, 9000, 5000),
            (9500, 9000, 5000),
            (10_000, 9000, 9000),
            (10_001, 200, 200),
            (10_002, 9000, 200),
            // Given up and wished for again.
            (11_000, 200, 200),
            (12_500, 9000, 200),
            (14_500, 9000, 9000),
        ] {
            assert_eq!(leases.asked(configured, millis(now)), asked, "at {now}");
        }
        assert_eq!(Leases::default().asked(10_000, millis(1)), 10_000, "a node that starts has nothing to lose");
    }

    #[test]
    fn a_longer_lease_is_granted_once_it_is_on_disk() {
        let mut leases = Leases::default();
        let nothing = LogIndex::default();
        assert_eq!(leases.lengths(200, nothing, seconds(1)).granted, 200, "without a document, what is the default");
        let mut state = founded(r#"{"version":1,"cluster":{"lease":"200ms"}}"#);
        leases.learn(&state, seconds(1));
        assert_eq!(leases.lengths(200, nothing, seconds(1)).granted, 0);
        let first = state.applied();
        assert_eq!(leases.lengths(200, first, seconds(1)), Lengths { asked: 200, longest: 200, granted: 200 });
        configure(&mut state, START.plus_millis(1000), r#"{"version":1,"cluster":{"lease":"5s"}}"#);
        leases.learn(&state, seconds(2));
        assert_eq!(leases.lengths(5000, first, seconds(2)), Lengths { asked: 200, longest: 5000, granted: 200 });
        let second = state.applied();
        assert_eq!(leases.lengths(5000, second, seconds(3)), Lengths { asked: 200, longest: 5000, granted: 5000 });
        assert_eq!(leases.lengths(5000, second, seconds(4)), Lengths { asked: 5000, longest: 5000, granted: 5000 });
        // A shorter one is granted whatever is on disk, as less than a longer one.
        configure(&mut state, START.plus_millis(5000), r#"{"version":1,"cluster":{"lease":"300ms"}}"#);
        leases.learn(&state, seconds(5));
        assert_eq!(leases.lengths(300, second, seconds(5)), Lengths { asked: 300, longest: 5000, granted: 5000 });
        // The disk hangs. What it has is enough for the shorter one, as soon as owners should have heard of that.
        assert_eq!(leases.lengths(300, second, seconds(7)).granted, 5000);
        assert_eq!(leases.lengths(300, second, seconds(8)), Lengths { asked: 300, longest: 5000, granted: 300 });
        assert_eq!(leases.lengths(300, second, seconds(21)), Lengths { asked: 300, longest: 300, granted: 300 });
        // Nor does it matter how long ago what is on it was replaced.
        configure(&mut state, START.plus_millis(21_000), r#"{"version":1,"cluster":{"lease":"400ms"}}"#);
        leases.learn(&state, seconds(22));
        let Lengths { longest, granted, .. } = leases.lengths(400, second, seconds(60));
        assert_eq!((longest, granted), (400, 400));
        let mut leases = Leases::default();
        let mut state = founded(r#"{"version":1,"cluster":{"lease":"200ms"}}"#);
        leases.learn(&state, seconds(1));
        let first = state.applied();
        assert_eq!(leases.lengths(200, first, seconds(1)).granted, 200);
        configure(&mut state, START.plus_millis(1000), r#"{"version":1,"cluster":{"lease":"5s"}}"#);
        leases.learn(&state, seconds(2));
        let Lengths { longest, granted, .. } = leases.lengths(5000, first, seconds(60));
        assert_eq!((longest, granted), (5000, 200));
    }

    #[test]
    fn a_lease_of_a_revision_that_is_kept_no_more_counts_if_it_was_replaced_lately() {
        let mut state = founded(r#"{"version":1,"cluster":{"lease":"10s"}}"#);
        let mut at = START.plus_millis(1000);
        for revision in 0..=REVISIONS_MAX as u64 {
            at = START.plus_millis(1000 + revision);
            let lease = 200 + revision % 2;
            configure(&mut state, at, &format!(r#"{{"version":1,"cluster":{{"lease":"{lease}ms"}}}}"#));
        }
        let folder = tempfile::tempdir().unwrap();
        let longest = |state: &State, now| {
            let memory = Memory { path: folder.path().join("past"), kernel: "a".to_owned() };
            let mut leases = Leases::from_memory(memory);
            leases.learn(state, seconds(now));
            leases.longest(seconds(now))
        };
        assert_eq!(longest(&state, 1), 10_000);
        assert_eq!(longest(&state, 20), 10_000, "others may have been forgotten since the last start");
        pass(&mut state, at.plus_millis(60_000), Command::Tick);
        assert_eq!(longest(&state, 21), 200, "that is long ago, and so are those that were noted");
    }

    #[test]
    fn a_lease_that_ended_in_an_earlier_life_on_the_same_kernel_counts_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let start = |kernel: &str| {
            let (path, kernel) = (folder.path().join("past"), kernel.to_owned());
            Leases::from_memory(Memory { path, kernel })
        };
        let mut state = founded(r#"{"version":1,"cluster":{"lease":"10s"}}"#);
        start("a").learn(&state, seconds(1));
        configure(&mut state, START.plus_millis(1000), r#"{"version":1,"cluster":{"lease":"200ms"}}"#);
        start("a").learn(&state, seconds(2));
        for (kernel, now, longest) in [("a", 17, 10_000), ("a", 18, 200), ("b", 18, 10_000), ("b", 34, 200)] {
            let mut leases = start(kernel);
            leases.learn(&state, seconds(now));
            assert_eq!(leases.longest(seconds(now)), longest, "{kernel} {now}");
        }
    }
}
