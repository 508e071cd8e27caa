//! Leases that were in force and may still count, and one that may not be asked for yet.
//!
//! A node that starts may not grant anything before the longest of those that may count has ended, and a lease that was
//! shortened leaves longer rights behind. A lease that was made longer is granted as soon as a node has it on disk and asked
//! for a while later: voters that do not know of it yet refuse it. What is not on disk is not granted, as a loss of power
//! would take it, and the node would start with too short a silence.
//!
//! Not here: when what was learnt is noted (the publisher, `node`); what is made of that ([`crate::leases`], `ballast_core::lease`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use ballast_core::{
    ids::{LogIndex, Revision},
    state::State,
    time::BootNanos,
};
use tokio::task::{JoinHandle, spawn_blocking};
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
/// process that starts reads from a file when earlier ones saw it: by the same clock, or before the kernel that runs now. What
/// is not in it counts anew.
#[derive(Debug, Default)]
pub struct Leases {
    all: BTreeMap<Revision, Lease>,
    earlier: Earlier,
    file: Option<Memory>,
    /// When revisions were replaced, also those that count no more: as long as the state keeps them, whoever starts asks.
    replaced: BTreeMap<Revision, BootNanos>,
    /// There is something in it that is not noted in the file.
    news: bool,
    /// Notes it.
    writing: Option<JoinHandle<()>>,
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
        Self { earlier: memory.read(), file: Some(memory), ..Self::default() }
    }

    /// Notes on a thread that may wait for the disk what was learnt, if there is news. While an earlier note is being written
    /// nothing is: the next call after that notes what is newest then.
    pub fn note(&mut self) {
        if self.writing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.writing = self.take_news().map(|note| spawn_blocking(move || note.write()));
        }
    }

    fn take_news(&mut self) -> Option<Note> {
        if !std::mem::take(&mut self.news) {
            return None;
        }
        Some(Note { memory: self.file.clone()?, replaced: self.replaced.clone() })
    }

    /// Takes the revisions into account that came since the last time. Reads and writes no file; [`Leases::note`] does.
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
        for (revision, lease) in self.all.range_mut(..state.revision()) {
            if lease.replaced.is_none() {
                let known = self.earlier.replaced(*revision, state);
                // An earlier life that had seen it later than now would be one of another kernel.
                let at = known.map_or(now, |known| known.min(now));
                lease.replaced = Some(at);
                self.replaced.insert(*revision, at);
                self.news |= known.is_none();
            }
        }
        let oldest = state.revisions().last().map(|oldest| oldest.revision);
        self.replaced.retain(|revision, _| Some(*revision) >= oldest);
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

/// Whether a revision that is kept was replaced so long ago that its lease cannot count, by log time, which may have leapt by as
/// much again.
fn replaced_long_ago(state: &State, revision: Revision) -> bool {
    let next = state.revisions().filter(|record| record.revision > revision).min_by_key(|record| record.revision);
    next.is_some_and(|next| state.log_time().millis_since(next.at) > 2 * REPLACED_COUNTS / 1_000_000)
}

/// What earlier lives noted.
#[derive(Debug, Default, PartialEq, Eq)]
enum Earlier {
    /// Nothing that can be understood, or by a clock that is not known.
    #[default]
    Unknown,
    /// When they saw that revisions were replaced, by the clock of this process.
    OfThisClock(BTreeMap<Revision, BootNanos>),
    /// Which they had seen replaced while another kernel ran.
    OfAnotherKernel(BTreeSet<Revision>),
}

impl Earlier {
    /// When a revision was replaced at the latest, if that was noted.
    ///
    /// What was noted while another kernel ran was before this one began, if that was on this machine. The folder may have been
    /// moved from another one a moment ago, whose kernel began long before; so the log has to say as well that it is long ago.
    fn replaced(&self, revision: Revision, state: &State) -> Option<BootNanos> {
        match self {
            Self::Unknown => None,
            Self::OfThisClock(seen) => seen.get(&revision).copied(),
            Self::OfAnotherKernel(seen) => {
                (seen.contains(&revision) && replaced_long_ago(state, revision)).then_some(BootNanos::new(0))
            }
        }
    }
}

/// The file that remembers when revisions were replaced. When that was is believed by processes with the same clock only, and
/// that it was, by those of later kernels. It need not reach the disk: what is lost counts anew.
#[derive(Clone, Debug)]
struct Memory {
    path: PathBuf,
    clock: Clock,
}

/// Which clock a process has: that of its kernel, moved by what its time namespace says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Clock {
    boot_id: String,
    timens_offsets: String,
}

impl Clock {
    /// Whether it was zero when its kernel began: its time namespace moves it by nothing.
    fn begins_with_its_kernel(&self) -> bool {
        self.timens_offsets.split_whitespace().all(|word| word.parse::<i64>().unwrap_or(0) == 0)
    }
}

/// Before there was a field for each part of the clock there was one for both, and what was noted so is not understood.
#[derive(serde::Serialize, serde::Deserialize)]
struct Remembered {
    #[serde(flatten)]
    clock: Clock,
    replaced: BTreeMap<u64, u64>,
}

impl Memory {
    fn of_this_kernel(folder: &Path) -> Self {
        let read = |file| {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let clock = Clock {
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            timens_offsets: read("/proc/self/timens_offsets"),
        };
        Self { path: folder.join("past-leases.json"), clock }
    }

    fn read(&self) -> Earlier {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let Ok(Remembered { clock, replaced }) = serde_json::from_slice(&bytes) else { return Earlier::Unknown };
        // A kernel that does not say which it is may be any.
        let is_named = |clock: &Clock| !clock.boot_id.is_empty();
        if !is_named(&clock) || !is_named(&self.clock) {
            return Earlier::Unknown;
        }
        let replaced = replaced.into_iter().map(|(revision, at)| (Revision::new(revision), BootNanos::new(at)));
        if clock == self.clock {
            Earlier::OfThisClock(replaced.collect())
        } else if clock.boot_id != self.clock.boot_id && self.clock.begins_with_its_kernel() {
            Earlier::OfAnotherKernel(replaced.map(|(revision, _)| revision).collect())
        } else {
            Earlier::Unknown
        }
    }
}

/// What is to be noted.
#[derive(Debug)]
struct Note {
    memory: Memory,
    replaced: BTreeMap<Revision, BootNanos>,
}

impl Note {
    /// Waits for the disk.
    fn write(self) {
        if let Err(error) = self.try_write() {
            warn!(%error, "when leases were replaced could not be noted; after the next start they count for as long again");
        }
    }

    fn try_write(self) -> io::Result<()> {
        let replaced = self.replaced.into_iter().map(|(revision, at)| (revision.get(), at.get())).collect();
        let bytes = serde_json::to_vec(&Remembered { clock: self.memory.clock, replaced })?;
        let beside = self.memory.path.with_extension("json.new");
        fs::write(&beside, bytes)?;
        fs::rename(beside, &self.memory.path)
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
            let mut leases = start(&folder, "a", "");
            leases.learn(state, seconds(now));
            leases.take_news().into_iter().for_each(Note::write);
            leases.longest(seconds(now))
        };
        assert_eq!(longest(&state, 1), 10_000);
        assert_eq!(longest(&state, 20), 10_000, "others may have been forgotten since the last start");
        pass(&mut state, at.plus_millis(60_000), Command::Tick);
        assert_eq!(longest(&state, 21), 200, "that is long ago, and so are those that were noted");
    }

    /// A process with this clock.
    fn start(folder: &tempfile::TempDir, boot_id: &str, timens_offsets: &str) -> Leases {
        let clock = Clock { boot_id: boot_id.to_owned(), timens_offsets: timens_offsets.to_owned() };
        Leases::from_memory(Memory { path: folder.path().join("past-leases.json"), clock })
    }

    /// Starts a process, lets it learn and note, and returns the longest lease that counts for it.
    fn longest(folder: &tempfile::TempDir, (boot_id, offsets): (&str, &str), state: &State, now: u64) -> u64 {
        let mut leases = start(folder, boot_id, offsets);
        leases.learn(state, seconds(now));
        let longest = leases.longest(seconds(now));
        leases.take_news().into_iter().for_each(Note::write);
        longest
    }

    #[test]
    fn a_lease_that_ended_in_an_earlier_life_counts_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (("a", "0"), ("b", "0"));
        let mut state = founded(r#"{"version":1,"cluster":{"lease":"10s"}}"#);
        longest(&folder, a, &state, 1);
        configure(&mut state, START.plus_millis(1000), r#"{"version":1,"cluster":{"lease":"200ms"}}"#);
        longest(&folder, a, &state, 2);
        for (now, expected) in [(17, 10_000), (18, 200)] {
            assert_eq!(longest(&folder, a, &state, now), expected, "{now}");
        }
        // Nor does it when the document changed again, long after.
        let mut leases = start(&folder, "a", "0");
        leases.learn(&state, seconds(20));
        assert_eq!(leases.longest(seconds(20)), 200);
        configure(&mut state, START.plus_millis(1000), r#"{"version":1,"cluster":{"lease":"250ms"}}"#);
        leases.learn(&state, seconds(40));
        leases.take_news().into_iter().for_each(Note::write);
        assert_eq!(longest(&folder, a, &state, 41), 250);
        // The kernel is another one, perhaps of another machine, and the log does not say that it is long ago.
        let noted = fs::read(folder.path().join("past-leases.json")).unwrap();
        assert_eq!(longest(&folder, b, &state, 1000), 10_000);
        fs::write(folder.path().join("past-leases.json"), &noted).unwrap();
        pass(&mut state, START.plus_millis(61_000), Command::Tick);
        // It was before this kernel began, which is not long ago itself.
        for (now, expected) in [(14, 10_000), (16, 250), (15, 10_000), (20, 250)] {
            assert_eq!(longest(&folder, b, &state, now), expected, "{now}");
        }
        assert_eq!(fs::read(folder.path().join("past-leases.json")).unwrap(), noted, "there is no news");
        // What was not noted is not known.
        configure(&mut state, START.plus_millis(61_000), r#"{"version":1,"cluster":{"lease":"300ms"}}"#);
        pass(&mut state, START.plus_millis(200_000), Command::Tick);
        assert_eq!(longest(&folder, b, &state, 20), 300, "the longest is known all the same");
        configure(&mut state, START.plus_millis(200_000), r#"{"version":1,"cluster":{"lease":"400ms"}}"#);
        configure(&mut state, START.plus_millis(200_000), r#"{"version":1,"cluster":{"lease":"350ms"}}"#);
        pass(&mut state, START.plus_millis(300_000), Command::Tick);
        assert_eq!(longest(&folder, ("c", "0"), &state, 20), 400);
    }

    #[test]
    fn a_lease_counts_anew_where_the_clock_is_not_known_that_noted_when_it_ended() {
        let mut state = founded(r#"{"version":1,"cluster":{"lease":"10s"}}"#);
        configure(&mut state, START.plus_millis(1000), r#"{"version":1,"cluster":{"lease":"200ms"}}"#);
        pass(&mut state, START.plus_millis(61_000), Command::Tick);
        let check = |file: Option<&str>, clock, expected| {
            let folder = tempfile::tempdir().unwrap();
            if let Some(file) = file {
                fs::write(folder.path().join("past-leases.json"), file).unwrap();
            }
            assert_eq!(longest(&folder, clock, &state, 100), expected, "{file:?} {clock:?}");
        };
        let noted = r#"{"boot_id":"a","timens_offsets":"0","replaced":{"1":5}}"#;
        check(Some(noted), ("a", "0"), 200);
        check(Some(noted), ("b", "0"), 200);
        check(Some(noted), ("b", "monotonic 0 0 boottime 0 0"), 200);
        check(Some(noted), ("b", "monotonic 0 0 boottime 7 0"), 10_000);
        check(Some(noted), ("a", "7"), 10_000);
        check(Some(noted), ("", "0"), 10_000);
        check(Some(&noted.replace("\"a\"", "\"\"")), ("b", "0"), 10_000);
        check(Some(&noted[..noted.len() / 2]), ("a", "0"), 10_000);
        check(Some(r#"{"kernel":"a 0","replaced":{"1":5}}"#), ("a", "0"), 10_000);
        check(Some(""), ("a", "0"), 10_000);
        check(None, ("a", "0"), 10_000);
    }

    #[tokio::test]
    async fn what_is_newest_is_noted_once_the_disk_is_back_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("past-leases.json");
        // Whoever opens it waits until somebody reads from it.
        let disk = path.with_extension("json.new");
        assert!(std::process::Command::new("mkfifo").arg(&disk).status().unwrap().success());
        let mut leases = start(&folder, "a", "");
        let mut state = founded(r#"{"version":1}"#);
        for (second, lease) in [(1, 300), (2, 400), (3, 500)] {
            let document = format!(r#"{{"version":1,"cluster":{{"lease":"{lease}ms"}}}}"#);
            configure(&mut state, START.plus_millis(second * 1000), &document);
            leases.learn(&state, seconds(second));
            leases.note();
        }
        assert!(leases.news, "the first is being written");
        drop(fs::read(&disk).unwrap());
        let noted = || match start(&folder, "a", "").earlier {
            Earlier::OfThisClock(replaced) => replaced.len(),
            Earlier::Unknown | Earlier::OfAnotherKernel(_) => 0,
        };
        // Nothing of it hangs on how long that takes.
        while leases.news || leases.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            leases.note();
            tokio::task::yield_now().await;
        }
        assert_eq!(noted(), 3);
    }
}
