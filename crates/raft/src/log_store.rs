//! openraft's view of the durable log.
//!
//! The newest entries stay in memory too: replication and apply read what was just appended, and
//! should not ask the disk for it.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ballast_core::ids::{EntryId, LogIndex, NodeId, Term};
use ballast_planted::Bug;
use ballast_storage::{
    OpenError,
    log::{DurableLog, Slot, SyncStats},
};
use futures_util::{Stream, StreamExt, stream};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    slow_votes::SlowVotes,
    timing::Timing,
    types::{LogEntry, LogId, Payload, Types, Vote},
    wire,
};

/// Memory for the newest entries. A follower that is behind by more is read to from the disk.
const TAIL_BYTES_MAX: usize = 16 << 20;
const TAIL_ENTRIES_MAX: usize = 4096;

/// Bytes of entries in one append to a follower: large enough to fill a fast network, small
/// enough that one message delays nobody for long. One entry may exceed it.
const REPLICATION_BYTES_MAX: usize = 2 << 20;

/// Bytes of entries read at once for apply, so that catching up needs little memory.
const APPLY_BYTES_MAX: usize = 8 << 20;

/// The log of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    log: Box<dyn DurableLog>,
    /// Closes when the log does.
    open: watch::Sender<()>,
    tail: Mutex<Tail>,
    last_index: Arc<AtomicU64>,
    on_disk: Arc<OnDisk>,
    vote: SavedVote,
    slow_votes: Mutex<SlowVotes>,
    ends: Mutex<Ends>,
    marks: OnceLock<Marks>,
}

/// The vote that this node saved last, or is about to save: whatever it has told anybody, it is in here.
#[derive(Clone, Debug, Default)]
pub(crate) struct SavedVote(Arc<Mutex<Option<Vote>>>);

impl SavedVote {
    /// The term of the vote if it is for `node`.
    pub(crate) fn of(&self, node: NodeId) -> Option<Term> {
        let vote = self.0.lock();
        vote.as_ref().filter(|vote| vote.leader_id.voted_for == node.get()).map(|vote| Term::new(vote.leader_id.term))
    }
}

/// Up to which entry the log is on disk. The state may be ahead of it: entries are applied that a majority has synced,
/// whether or not this node has.
#[derive(Debug, Default)]
pub(crate) struct OnDisk(Mutex<Synced>);

#[derive(Debug, Default)]
struct Synced {
    index: u64,
    /// How often the end of the log was cut off. What was appended before that may be synced after it, and is gone.
    cuts: u64,
}

impl OnDisk {
    pub(crate) fn index(&self) -> LogIndex {
        LogIndex::new(self.0.lock().index)
    }

    /// A snapshot, which is on disk, stands for everything up to `index`.
    pub(crate) fn snapshot(&self, index: u64) {
        let mut synced = self.0.lock();
        synced.index = synced.index.max(index);
    }

    fn cuts(&self) -> u64 {
        self.0.lock().cuts
    }

    /// What was appended up to `index`, when the log had been cut so many times, is synced.
    fn synced(&self, index: u64, cuts: u64) {
        let mut synced = self.0.lock();
        if synced.cuts == cuts {
            synced.index = synced.index.max(index);
        }
    }

    fn cut(&self, from: u64) {
        let mut synced = self.0.lock();
        synced.index = synced.index.min(from.saturating_sub(1));
        synced.cuts += 1;
    }
}

/// What marks are made from.
#[derive(Default)]
struct Ends {
    /// The last entry that can be read.
    last: EntryId,
    /// The membership entries in the log, oldest first; those before the start count as one.
    memberships: Vec<EntryId>,
}

impl Ends {
    /// As [`LogStore::membership_before`].
    fn membership_before(&self, effective: LogIndex) -> LogIndex {
        let mut newest = self.memberships.iter().rev().map(|id| id.index);
        match newest.next() {
            Some(index) if index >= effective => newest.next().unwrap_or_default(),
            _ => effective,
        }
    }
}

/// Told the last entry of the log and the newest membership in it, before an append is acknowledged.
pub(crate) type Marks = Arc<dyn Fn(EntryId, EntryId) + Send + Sync>;

impl LogStore {
    /// A store on `log`, which is in `folder`.
    pub(crate) fn open(log: Box<dyn DurableLog>, folder: &Path) -> Result<Self, OpenError> {
        let store = Self {
            inner: Arc::new(Inner {
                log,
                open: watch::Sender::new(()),
                tail: Mutex::default(),
                last_index: Arc::new(AtomicU64::new(0)),
                on_disk: Arc::default(),
                vote: SavedVote::default(),
                slow_votes: Mutex::new(SlowVotes::new(Timing::default().vote_patience())),
                ends: Mutex::default(),
                marks: OnceLock::new(),
            }),
        };
        let damaged = |error: io::Error| OpenError::Damaged { path: folder.to_owned(), detail: error.to_string() };
        let last = store.last().map_err(damaged)?;
        store.mark(entry_id(last.as_ref()));
        store.inner.on_disk.synced(store.end().index.get(), 0);
        *store.inner.vote.0.lock() = store.vote().map_err(damaged)?;
        Ok(store)
    }

    /// Index of the last entry that can be read, kept up to date.
    pub(crate) fn last_index(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.inner.last_index)
    }

    /// Up to which entry the log is on disk, kept up to date.
    pub(crate) fn on_disk(&self) -> Arc<OnDisk> {
        Arc::clone(&self.inner.on_disk)
    }

    /// The vote saved last, kept up to date.
    pub(crate) fn saved_vote(&self) -> SavedVote {
        self.inner.vote.clone()
    }

    /// How long a candidate waits for a vote, if not as by default.
    pub(crate) fn expect_votes_within(&self, patience: Duration) {
        *self.inner.slow_votes.lock() = SlowVotes::new(patience);
    }

    /// How many votes were synced so slowly that an election may fail for it.
    pub(crate) fn slow_votes(&self) -> u64 {
        self.inner.slow_votes.lock().count()
    }

    /// Says which memberships were in the log, or before its start, when it was opened; oldest first. Before anything is
    /// appended.
    pub(crate) fn found_memberships(&self, memberships: impl IntoIterator<Item = EntryId>) {
        self.inner.ends.lock().memberships = memberships.into_iter().collect();
    }

    /// The membership entry before the newest in the log. Committed, as nobody proposes a newer one sooner; zero if the log
    /// does not reach back to it. If `effective` is newer than that, it came with a snapshot, which goes up to there at least.
    pub(crate) fn membership_before(&self, effective: EntryId) -> LogIndex {
        self.inner.ends.lock().membership_before(effective.index)
    }

    /// The last entry that can be read.
    pub(crate) fn end(&self) -> EntryId {
        self.inner.ends.lock().last
    }

    /// Tells `marks` at once and from now on.
    pub(crate) fn keep_marks(&self, marks: Marks) {
        let ends = self.inner.ends.lock();
        // Only the first caller is told; there is one lease thread a process.
        drop(self.inner.marks.set(marks));
        self.tell(&ends);
    }

    fn mark(&self, last: EntryId) {
        // Under the lock, so that whoever begins to keep marks cannot tell an older end after this one.
        let mut ends = self.inner.ends.lock();
        ends.last = last;
        self.inner.last_index.store(last.index.get(), Ordering::Release);
        self.tell(&ends);
    }

    fn tell(&self, ends: &Ends) {
        if let Some(marks) = self.inner.marks.get() {
            marks(ends.last, ends.memberships.last().copied().unwrap_or_default());
        }
    }

    /// Gives this handle up and waits until all others were, and the log is closed.
    pub(crate) async fn close(self) {
        let mut open = self.inner.open.subscribe();
        drop(self);
        // Nothing is ever sent; this ends when the sender, and the log before it, is dropped.
        while open.changed().await.is_ok() {}
    }

    /// Whose log this is, as its first user said.
    pub(crate) fn identity(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.inner.log.get(Slot::Identity).map_err(io::Error::other)?.map(|bytes| bytes.to_vec()))
    }

    pub(crate) async fn set_identity(&self, identity: &[u8]) -> io::Result<()> {
        self.put_durably(Slot::Identity, identity).await
    }

    /// Why this node must not go on, if that was found.
    pub(crate) fn condemned(&self) -> io::Result<Option<String>> {
        let found = self.inner.log.get(Slot::Condemned).map_err(io::Error::other)?;
        Ok(found.map(|why| String::from_utf8_lossy(&why).into_owned()))
    }

    /// Keeps why this node must not go on, so that it does not take part again when it is started again.
    pub(crate) async fn condemn(&self, why: &str) -> io::Result<()> {
        self.put_durably(Slot::Condemned, why.as_bytes()).await
    }

    pub(crate) fn vote(&self) -> io::Result<Option<Vote>> {
        let bytes = self.inner.log.get(Slot::Vote).map_err(io::Error::other)?;
        Ok(bytes.map(wire::vote_from_bytes).transpose()?)
    }

    /// Has the log begin where it says that it does. A crash may have left one whose first entries are gone while nothing
    /// says that they were purged. `snapshot` is the last entry that the newest snapshot stands for.
    ///
    /// # Errors
    /// When entries are missing, or were purged, that no snapshot stands for.
    pub(crate) async fn mend_start(&self, snapshot: Option<LogId>, folder: &Path) -> Result<(), OpenError> {
        let damaged = |detail: String| OpenError::Damaged { path: folder.to_owned(), detail };
        let expected = self.purged().map_err(|error| damaged(error.to_string()))?.map_or(0, |id| id.index + 1);
        let covered = snapshot.map_or(0, |id| id.index + 1);
        if covered < expected {
            return Err(damaged(format!(
                "records up to {} were purged, but the snapshot that had them is gone",
                expected - 1
            )));
        }
        let stored = self.inner.log.read(0..u64::MAX, 0).map_err(|error| damaged(error.to_string()))?;
        let Some((first, _)) = stored.first() else { return Ok(()) };
        if *first <= expected {
            return Ok(());
        }
        let Some(snapshot) = snapshot.filter(|id| id.index + 1 >= *first) else {
            return Err(damaged(format!("records {expected} to {} are missing", first - 1)));
        };
        tracing::warn!(
            first,
            expected,
            snapshot = snapshot.index,
            "the log begins late; the snapshot has what is missing"
        );
        self.clone().purge(snapshot).await.map_err(|error| damaged(error.to_string()))
    }

    pub(crate) fn index_leaving(&self, bytes_max: u64) -> Option<u64> {
        self.inner.log.index_leaving(bytes_max)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.inner.log.bytes()
    }

    pub(crate) fn sync_stats(&self) -> SyncStats {
        self.inner.log.sync_stats()
    }

    fn purged(&self) -> io::Result<Option<LogId>> {
        let bytes = self.inner.log.get(Slot::Purged).map_err(io::Error::other)?;
        Ok(bytes.map(wire::log_id_from_bytes).transpose()?)
    }

    fn last(&self) -> io::Result<Option<LogId>> {
        match self.inner.log.last().map_err(io::Error::other)? {
            Some((_, bytes)) => Ok(Some(wire::entry_from_bytes(bytes)?.log_id)),
            None => self.purged(),
        }
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.inner.tail.lock().read(range.clone(), bytes_max) {
            return Ok(entries);
        }
        let stored = self.inner.log.read(range, bytes_max).map_err(io::Error::other)?;
        stored.into_iter().map(|(_, bytes)| Ok(wire::entry_from_bytes(bytes)?)).collect()
    }

    async fn put_durably(&self, slot: Slot, bytes: &[u8]) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        // The waiter may be gone when its task was dropped; then nobody acts on the outcome.
        let synced = Box::new(move |synced| drop(sender.send(synced)));
        self.inner.log.put(slot, bytes, Some(synced)).map_err(io::Error::other)?;
        receiver.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        self.read(half_open(&range), usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        let entries = self.read(start..end, REPLICATION_BYTES_MAX)?;
        // The entries of a stream that was given up may be purged before its last request is made. openraft would send
        // what is left under the wrong predecessor; nothing, it takes for a heartbeat.
        let whole = entries.first().is_none_or(|entry| entry.log_id.index == start);
        Ok(if whole { entries } else { Vec::new() })
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let store = self.clone();
        let chunks = stream::unfold(half_open(&range), move |rest| {
            let store = store.clone();
            async move {
                let chunk = store.read(rest.clone(), APPLY_BYTES_MAX);
                let next = match &chunk {
                    Ok(entries) => entries.last()?.log_id.index + 1..rest.end,
                    Err(_) => rest.end..rest.end,
                };
                let items: Vec<_> = match chunk {
                    Ok(entries) => entries.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                };
                Some((stream::iter(items), next))
            }
        });
        Box::pin(chunks.flatten())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.vote()
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        Ok(LogState { last_purged_log_id: self.purged()?, last_log_id: self.last()? })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        // Before it can be told to anybody.
        *self.inner.vote.0.lock() = Some(*vote);
        if ballast_planted::is(Bug::VoteNotSaved) {
            return Ok(());
        }
        let began = Instant::now();
        self.put_durably(Slot::Vote, &wire::vote(vote).encode_to_vec()).await?;
        let took = began.elapsed();
        // No candidate waits for one that is won already.
        let told = if vote.committed { None } else { self.inner.slow_votes.lock().synced(Instant::now(), took) };
        if let Some(patience) = told {
            let (term, candidate) = (vote.leader_id.term, vote.leader_id.voted_for);
            tracing::warn!(
                term,
                candidate,
                ?took,
                ?patience,
                "a vote waited long for the sync of this node's disk; where those of a majority of the voters take longer \
                 than a candidate's patience, no leader is elected. Look for what else uses the disk, or for a failing one"
            );
        }
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // Needs no sync: it only saves a restart from waiting for a leader to tell it again.
        let Some(committed) = committed else { return Ok(()) };
        self.inner.log.put(Slot::Committed, &wire::log_id(&committed).encode_to_vec(), None).map_err(io::Error::other)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let bytes = self.inner.log.get(Slot::Committed).map_err(io::Error::other)?;
        Ok(bytes.map(wire::log_id_from_bytes).transpose()?)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let mut encoded = entries.iter().map(|entry| (entry.log_id.index, wire::entry(entry).encode_to_vec()));
        let (on_disk, cuts) = (self.on_disk(), self.inner.on_disk.cuts());
        let end = entries.last().map_or(0, |entry| entry.log_id.index);
        let synced = Box::new(move |synced: Result<(), _>| {
            if synced.is_ok() {
                on_disk.synced(end, cuts);
            }
            callback.io_completed(synced.map_err(io::Error::other));
        });
        // Before the append can be acknowledged: a voter never says less than it acknowledged.
        let memberships = entries.iter().filter(|entry| matches!(entry.payload, Payload::Membership(_)));
        self.inner.ends.lock().memberships.extend(memberships.map(|entry| entry_id(Some(&entry.log_id))));
        if let Some(last) = entries.last() {
            self.mark(entry_id(Some(&last.log_id)));
        }
        self.inner.log.append(&mut encoded, synced).map_err(io::Error::other)?;
        self.inner.tail.lock().extend(entries);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        self.inner.on_disk.cut(from);
        self.inner.tail.lock().truncate_from(from);
        self.inner.log.truncate_from(from).map_err(io::Error::other)?;
        self.inner.ends.lock().memberships.retain(|id| id.index.get() < from);
        self.mark(entry_id(self.last()?.as_ref()));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.inner.tail.lock().purge_to(log_id.index);
        self.inner.log.purge_to(log_id.index, &wire::log_id(&log_id).encode_to_vec()).map_err(io::Error::other)?;
        let purged = entry_id(Some(&log_id));
        self.inner.on_disk.snapshot(log_id.index);
        let last = self.inner.ends.lock().last;
        self.mark(if purged.index > last.index { purged } else { last });
        Ok(())
    }
}

/// Nothing is before the first entry.
pub(crate) fn entry_id(id: Option<&LogId>) -> EntryId {
    id.map_or_else(EntryId::default, |id| EntryId {
        term: Term::new(id.leader_id.term),
        index: LogIndex::new(id.index),
    })
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

/// The newest entries, without holes.
#[derive(Default)]
struct Tail {
    entries: VecDeque<LogEntry>,
    bytes: usize,
}

impl Tail {
    fn extend(&mut self, entries: Vec<LogEntry>) {
        for entry in entries {
            if self.entries.back().is_some_and(|last| last.log_id.index + 1 != entry.log_id.index) {
                self.entries.clear();
                self.bytes = 0;
            }
            self.bytes += cost(&entry);
            self.entries.push_back(entry);
        }
        while self.entries.len() > TAIL_ENTRIES_MAX || self.bytes > TAIL_BYTES_MAX {
            self.pop_front();
        }
    }

    fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= cost(&entry);
            }
        }
    }

    fn purge_to(&mut self, index: u64) {
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= index) {
            self.pop_front();
        }
    }

    /// The entries of `range`, unless some of them may be older than what is kept here.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Option<Vec<LogEntry>> {
        let first = self.entries.front()?.log_id.index;
        let skip = usize::try_from(range.start.checked_sub(first)?).ok()?;
        let mut found = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.iter().skip(skip).take_while(|entry| entry.log_id.index < range.end) {
            bytes += cost(entry);
            found.push(entry.clone());
            if bytes >= bytes_max {
                break;
            }
        }
        Some(found)
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= cost(&entry);
        }
    }
}

fn cost(entry: &LogEntry) -> usize {
    let payload = match &entry.payload {
        Payload::Normal(commands) => commands.0.len(),
        Payload::Blank | Payload::Membership(_) => 64,
    };
    payload + size_of::<LogEntry>()
}

#[cfg(test)]
mod tests {
    //! openraft's own conformance suite, on our log store and state machine.

    use std::collections::BTreeMap;

    use ballast_core::{
        ids::{Boot, LogIndex, NodeId},
        state::{Entry, FrameOutcomes, Origin, State},
    };
    use ballast_storage::log::LogOptions;
    use openraft::{
        StorageError,
        testing::log::{StoreBuilder, Suite},
    };
    use tempfile::TempDir;

    use super::*;
    use crate::{
        ground::Ground,
        machine::{Machine, Observer, Replica},
        peers::AddressBook,
        proposer::Flight,
        types::{CommittedLeaderId, LeaderId},
    };

    #[test]
    fn what_was_cut_off_is_not_on_disk_when_it_is_synced_after_that() {
        let on_disk = OnDisk::default();
        on_disk.synced(3, on_disk.cuts());
        let before = on_disk.cuts();
        on_disk.cut(3);
        assert_eq!(on_disk.index(), LogIndex::new(2));
        on_disk.synced(9, before);
        assert_eq!(on_disk.index(), LogIndex::new(2), "these were others");
        on_disk.synced(4, on_disk.cuts());
        on_disk.synced(3, on_disk.cuts());
        assert_eq!(on_disk.index(), LogIndex::new(4));
    }

    #[test]
    fn a_membership_that_came_with_a_snapshot_is_its_own_bound() {
        let id = |index| EntryId { term: Term::new(1), index: LogIndex::new(index) };
        let before = |memberships: &[u64], effective| {
            let memberships = memberships.iter().copied().map(id).collect();
            Ends { memberships, ..Ends::default() }.membership_before(LogIndex::new(effective)).get()
        };
        assert_eq!(before(&[5, 20, 30], 30), 20);
        assert_eq!(before(&[5, 20, 30], 20), 20, "the log has come further than who asks knows");
        assert_eq!(before(&[5], 5), 0, "what was before is not in the log, but in the state");
        assert_eq!(before(&[5, 20], 40), 40);
        assert_eq!(before(&[], 40), 40);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_that_begins_late_goes_on_from_a_snapshot_or_not_at_all() {
        let temp = TempDir::new().expect("a temporary folder");
        let ground = Ground::open(temp.path(), LogOptions { write_buffer_bytes: 1 << 20 }).expect("opens");
        let id = |index| LogId { leader_id: CommittedLeaderId::new(1), index };
        let entry = |index| wire::entry(&LogEntry { log_id: id(index), payload: Payload::Blank }).encode_to_vec();
        ground.log.append(&mut (20..31).map(|index| (index, entry(index))), Box::new(|_| ())).expect("appends");
        let log = LogStore::open(ground.log, temp.path()).expect("opens");

        for snapshot in [None, Some(id(18))] {
            let refused = log.mend_start(snapshot, temp.path()).await.expect_err("nobody has the entries before 20");
            assert!(refused.to_string().contains("records 0 to 19 are missing"), "{refused}");
            assert!(refused.to_string().contains("join it again"), "{refused}");
        }
        log.mend_start(Some(id(25)), temp.path()).await.expect("it has all that is missing");
        assert_eq!(log.purged().expect("reads"), Some(id(25)));
        assert_eq!(log.end().index, LogIndex::new(30));
        log.mend_start(Some(id(25)), temp.path()).await.expect("as it says");
        let refused = log.mend_start(Some(id(24)), temp.path()).await.expect_err("nobody has entry 25");
        assert!(refused.to_string().contains("records up to 25 were purged"), "{refused}");
        let left = log.read(0..u64::MAX, usize::MAX).expect("reads");
        assert_eq!(left.first().map(|entry| entry.log_id.index), Some(26));
        let mut reader = log;
        let sent = reader.limited_get_log_entries(24, 31).await.expect("reads");
        assert!(sent.is_empty(), "never entries after a gap: {sent:?}");
        assert_eq!(reader.limited_get_log_entries(26, 31).await.expect("reads").len(), 5);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_vote_that_a_candidate_may_not_have_waited_for_is_counted() {
        let temp = TempDir::new().expect("a temporary folder");
        let ground = Ground::open(temp.path(), LogOptions { write_buffer_bytes: 1 << 20 }).expect("opens");
        let mut log = LogStore::open(ground.log, temp.path()).expect("opens");
        log.expect_votes_within(Duration::from_secs(3600));
        let vote = |committed| Vote { leader_id: LeaderId { term: 3, voted_for: 2 }, committed };
        log.save_vote(&vote(false)).await.expect("saved");
        assert_eq!(log.slow_votes(), 0);
        // No disk is quick enough for that.
        log.expect_votes_within(Duration::ZERO);
        log.save_vote(&vote(false)).await.expect("saved");
        assert_eq!(log.slow_votes(), 1);
        log.save_vote(&vote(true)).await.expect("saved");
        assert_eq!(log.slow_votes(), 1, "nobody waits for it");
    }

    struct Nobody;

    impl Observer for Nobody {
        fn entry(&self, _: LogIndex, _: &Entry, _: &[FrameOutcomes]) {}
        fn applied(&self, _: &State, _: LogIndex) {}
        fn installed(&self, _: &State) {}
    }

    struct Builder;

    impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
        async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Types>> {
            let temp = TempDir::new().expect("a temporary folder");
            let ground = Ground::open(temp.path(), LogOptions { write_buffer_bytes: 1 << 20 }).expect("opens");
            let log = LogStore::open(ground.log, temp.path()).expect("opens");
            let replica = Replica::new(
                Origin { node: NodeId::new(1), boot: Boot(1) },
                Arc::new(Flight::default()),
                Arc::new(AddressBook::new(BTreeMap::new())),
                ground.snapshots,
                ground.blocking,
                Arc::new(Nobody),
            );
            let machine = Machine::open(Arc::new(replica)).expect("opens");
            Ok((temp, log, machine))
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn passes_the_conformance_suite_of_openraft() {
        Suite::test_all(Builder).await.expect("conforms");
    }
}
