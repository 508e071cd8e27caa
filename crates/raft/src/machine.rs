//! openraft's view of the replicated state.
//!
//! Applies committed entries to [`State`] in batches, then, in this order: the observer sees the
//! new state, the waiting callers of this node get their outcomes, openraft's own responders are
//! answered. So whoever hears that a command was applied finds it in everything this node shows.
//!
//! Not here: what a command does (`ballast_core::state`), when to snapshot (`upkeep`).

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ballast_clock::boot_now;
use ballast_core::{
    ids::{LogIndex, NodeId},
    session::Garbage,
    state::{Command, DecodeError, Entry, FrameOutcomes, Origin, State, StateSnapshot, codec},
};
use ballast_planted::Bug;
use ballast_storage::{
    SnapshotError,
    snapshot::{Incoming, SnapshotFile, SnapshotFolder},
};
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use prost::Message;
use tokio::sync::watch;

use crate::{
    compare::HashRing,
    ground::{Blocking, aside, blocking},
    peers::AddressBook,
    proposer::{Flight, LogClock},
    types::{LogId, Payload, SnapshotMeta, StoredMembership, Types},
    wire,
};

/// Told of every change of the replicated state on this node, from the one place where it changes.
/// The state is borrowed and apply waits: take what is needed and return.
pub trait Observer: Send + Sync + 'static {
    /// One entry was applied, with the outcomes of its frames (none for a frame that was a repetition).
    /// [`Observer::applied`] follows before anybody hears of it.
    fn entry(&self, index: LogIndex, entry: &Entry, outcomes: &[FrameOutcomes]);

    /// Entries up to `index` were applied.
    fn applied(&self, state: &State, index: LogIndex);

    /// The state was replaced as a whole: by a snapshot, at a start or from another node.
    fn installed(&self, state: &State);
}

/// Entries taken from the log at once. How long readers of the state wait is bounded by [`HOLD_MAX`].
const BATCH_ENTRIES: usize = 32;

/// Bytes of them, so that entries with much in them do not fill memory. One entry may exceed it.
const BATCH_BYTES: usize = 8 << 20;

/// The lock on the state is given back for a moment when entries have been applied under it for so long. One entry is
/// applied as a whole: what is in it is bounded by its bytes, and by what the session store lets commands do besides.
const HOLD_MAX: Duration = Duration::from_millis(5);

/// Answers that wait for the end of their batch: one that has gathered more bytes of them ends early. What the default
/// settings let pile up for one connection.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Entries of more bytes than this together are applied where they hold no thread of the runtime up: a change of some
/// hundred thousand fields takes tenths of a second, and heartbeats must not wait for it. What is below takes some
/// milliseconds, with elements of a byte or two, and handing it over takes microseconds.
const HEAVY_BYTES: usize = 32 << 10;

/// What the rest of this crate shares with the state machine.
pub(crate) struct Replica {
    pub(crate) origin: Origin,
    state: RwLock<State>,
    pub(crate) flight: Arc<Flight>,
    pub(crate) addresses: Arc<AddressBook>,
    pub(crate) hashes: Mutex<HashRing>,
    pub(crate) folder: SnapshotFolder,
    /// Where work with files is done.
    pub(crate) blocking: Arc<dyn Blocking>,
    /// Greatest log time applied, in milliseconds.
    pub(crate) log_time: AtomicU64,
    /// The clock that stamps entries when this node leads.
    pub(crate) log_clock: Arc<Mutex<LogClock>>,
    applied: watch::Sender<u64>,
    observer: Arc<dyn Observer>,
    building: AtomicBool,
}

impl Replica {
    pub(crate) fn new(
        origin: Origin,
        flight: Arc<Flight>,
        addresses: Arc<AddressBook>,
        folder: SnapshotFolder,
        blocking: Arc<dyn Blocking>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            origin,
            state: RwLock::new(State::new()),
            flight,
            addresses,
            hashes: Mutex::default(),
            folder,
            blocking,
            log_time: AtomicU64::new(0),
            log_clock: Arc::default(),
            applied: watch::Sender::new(0),
            observer,
            building: AtomicBool::new(false),
        }
    }

    /// Looks at the state. While an entry with much in it is applied this waits, and other tasks of the thread go on.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        // Recursive, so that a look within a look does not wait for a writer that waits for the first.
        if let Some(state) = self.state.try_read_recursive() {
            return look(&state);
        }
        aside(|| look(&self.state.read_recursive()))
    }

    /// Index of the last applied entry, as it grows.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Whether `node` was a member and is none any more. Ids are log indexes, so a node that the state does not
    /// name is either newer than what was applied here or gone for good.
    pub(crate) fn was_removed(&self, node: NodeId) -> bool {
        node.get() <= *self.applied.borrow() && self.addresses.lacks(node)
    }

    fn replace(&self, state: State, index: u64) {
        let mut current = self.state.write();
        current.replace(state);
        self.free(current.take_garbage());
        let current = RwLockWriteGuard::downgrade(current);
        self.hashes.lock().clear();
        self.after_change(&current);
        self.observer.installed(&current);
        drop(current);
        self.applied.send_replace(index);
    }

    /// Frees what commands left where it may take its time.
    fn free(&self, garbage: Garbage) {
        if !garbage.is_empty() {
            // Nothing hangs on when, or whether, it ends.
            drop(self.blocking.run(Box::new(move || drop(garbage))));
        }
    }

    fn after_change(&self, state: &State) {
        self.addresses.replace(state.nodes().map(|node| (node.id, node.info.cluster_address.clone())));
        self.observe_time(state);
    }

    fn observe_time(&self, state: &State) {
        self.log_time.fetch_max(state.log_time().as_millis(), Ordering::AcqRel);
        self.log_clock.lock().observe(boot_now(), state.log_time());
    }
}

/// The state machine that openraft drives.
#[derive(Clone)]
pub(crate) struct Machine {
    replica: Arc<Replica>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Machine {
    /// Loads the newest snapshot, if there is one.
    pub(crate) fn open(replica: Arc<Replica>) -> Result<Self, SnapshotError> {
        let mut machine = Self { replica, applied: None, membership: StoredMembership::default() };
        if let Some(file) = machine.replica.folder.newest() {
            let meta = describe(&file)?;
            let state = load(&file)?;
            machine.adopt(&meta, state);
        }
        Ok(machine)
    }

    /// The last entry in the state; after opening, in the newest snapshot.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    fn adopt(&mut self, meta: &SnapshotMeta, state: State) {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.replica.replace(state, meta.last_log_id.map_or(0, |id| id.index));
    }

    fn apply_all(&mut self, batch: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let mut batch = batch.into_iter();
        while batch.len() > 0 {
            self.apply_batch(&mut batch)?;
        }
        Ok(())
    }

    /// Applies a batch, or as much of it as one may; the outcomes of this node's own frames are handed over at the end.
    fn apply_batch(&mut self, batch: &mut impl Iterator<Item = EntryResponder<Types>>) -> io::Result<()> {
        let mut outcomes: Vec<FrameOutcomes> = Vec::new();
        let mut answer_bytes = 0;
        let mut own: Vec<(u64, u64)> = Vec::new();
        let mut responders = Vec::new();
        let mut nodes_changed = false;

        let mut state = self.replica.state.write();
        let mut held_since = Instant::now();
        for (entry, responder) in batch {
            if held_since.elapsed() >= HOLD_MAX {
                RwLockWriteGuard::bump(&mut state);
                held_since = Instant::now();
            }
            let index = LogIndex::new(entry.log_id.index);
            match entry.payload {
                Payload::Normal(commands) => {
                    let decoded = decode(index, &commands.0)?;
                    let mut came_to = Vec::new();
                    if ballast_planted::is(Bug::EntrySkipped)
                        && (index.get() + self.replica.origin.node.get()).is_multiple_of(997)
                    {
                        state.skip(index);
                    } else {
                        state.apply(index, &decoded, &mut came_to);
                    }
                    self.replica.free(state.take_garbage());
                    self.replica.observer.entry(index, &decoded, &came_to);
                    // What others asked for is large as well, and nobody here waits for it.
                    came_to.retain(|outcome| outcome.origin == self.replica.origin);
                    answer_bytes += came_to.iter().map(FrameOutcomes::answer_bytes).sum::<u64>();
                    outcomes.append(&mut came_to);
                    for frame in decoded.frames {
                        nodes_changed |= frame.commands.iter().any(changes_nodes);
                        if frame.origin == self.replica.origin {
                            own.push((frame.seq, index.get()));
                        }
                    }
                }
                // The state counts it too, so that its index is the log's.
                Payload::Blank => state.skip(index),
                Payload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    state.skip(index);
                }
            }
            self.applied = Some(entry.log_id);
            self.replica.hashes.lock().note(index, || state.hash());
            responders.extend(responder);
            if answer_bytes >= ANSWER_BYTES_MAX {
                break;
            }
        }

        let state = RwLockWriteGuard::downgrade(state);
        if nodes_changed {
            self.replica.after_change(&state);
        }
        self.replica.observe_time(&state);
        let index = self.applied.map_or(0, |id| id.index);
        self.replica.observer.applied(&state, LogIndex::new(index));
        drop(state);

        self.replica.applied.send_replace(index);
        if !own.is_empty() {
            self.replica.flight.applied(&own, outcomes);
        }
        for responder in responders {
            responder.send(());
        }
        Ok(())
    }
}

fn decode(index: LogIndex, bytes: &[u8]) -> io::Result<Entry> {
    codec::decode_entry(bytes).map_err(|error| {
        let why = format!(
            "entry {index} of the log cannot be read ({error}); if the other nodes run a newer ballastd, upgrade this one"
        );
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

/// `first`, the next entry, and what is applied together with it: of the `rest` as much as is there and may be held in memory.
/// Returns how many bytes that is, too.
fn gather(
    first: EntryResponder<Types>,
    rest: &mut (impl Stream<Item = io::Result<EntryResponder<Types>>> + Unpin),
) -> io::Result<(Vec<EntryResponder<Types>>, usize)> {
    let mut bytes = size(&first.0.payload);
    let mut batch = vec![first];
    while batch.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
        // What comes later is waited for with the next batch.
        let Some(Some(next)) = rest.next().now_or_never() else { break };
        let next = next?;
        bytes += size(&next.0.payload);
        batch.push(next);
    }
    Ok((batch, bytes))
}

fn size(payload: &Payload) -> usize {
    match payload {
        Payload::Normal(commands) => commands.0.len(),
        Payload::Blank | Payload::Membership(_) => 0,
    }
}

fn changes_nodes(command: &Command) -> bool {
    matches!(
        command,
        Command::InitCluster(_) | Command::EnrolNode { .. } | Command::UpdateNode { .. } | Command::RemoveNode { .. }
    )
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            let (batch, bytes) = gather(first?, &mut entries)?;
            if bytes <= HEAVY_BYTES {
                self.apply_all(batch)?;
                continue;
            }
            let mut machine = self.clone();
            let apply = move || machine.apply_all(batch).map(|()| machine);
            *self = blocking(&*self.replica.blocking, apply).await??;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if self.replica.building.swap(true, Ordering::AcqRel) && !force {
            return None;
        }
        Some(self.builder())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Image) -> Result<(), io::Error> {
        let replica = Arc::clone(&self.replica);
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let state = blocking(&*self.replica.blocking, move || {
            let incoming = snapshot.into_incoming(&replica.folder)?;
            // Read before it is adopted: what cannot be loaded must not become the newest.
            let state = load(&incoming.file)?;
            replica.folder.adopt(incoming.unadopted, index)?;
            Ok::<_, SnapshotError>(state)
        })
        .await?
        .map_err(SnapshotError::into_io)?;
        tracing::info!(index, "installed a snapshot of the replicated state");
        self.adopt(meta, state);
        self.replica.flight.jumped();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::type_config::alias::SnapshotOf<Types, Image>>, io::Error> {
        let Some(file) = self.replica.folder.newest() else { return Ok(None) };
        let meta = describe(&file).map_err(SnapshotError::into_io)?;
        Ok(Some(openraft::Snapshot { meta, snapshot: Image::Kept(file) }))
    }
}

impl Machine {
    fn builder(&self) -> Builder {
        Builder {
            replica: Arc::clone(&self.replica),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            state: Some(self.replica.look(State::snapshot)),
        }
    }
}

/// A frozen view of the state on its way to a file. Apply goes on meanwhile.
pub(crate) struct Builder {
    replica: Arc<Replica>,
    meta: SnapshotMeta,
    state: Option<StateSnapshot>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<openraft::type_config::alias::SnapshotOf<Types, Image>, io::Error> {
        let state = self.state.take().ok_or_else(|| io::Error::other("this snapshot was written already"))?;
        let replica = Arc::clone(&self.replica);
        let meta = self.meta.clone();
        let file = blocking(&*self.replica.blocking, move || {
            let index = meta.last_log_id.map_or(0, |id| id.index);
            let mut writer = replica.folder.write(index, &wire::snapshot_meta(&meta).encode_to_vec())?;
            state.write(&mut writer).map_err(|source| SnapshotError::Io {
                doing: "write",
                path: format!("snapshot at {index}").into(),
                source,
            })?;
            replica.folder.finish(writer)
        })
        .await?
        .map_err(SnapshotError::into_io)?;
        // A newer one may have been installed meanwhile; then that one is described.
        let meta = describe(&file).map_err(SnapshotError::into_io)?;
        Ok(openraft::Snapshot { meta, snapshot: Image::Kept(file) })
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        self.replica.building.store(false, Ordering::Release);
    }
}

/// A snapshot as openraft passes it around: a file, never its bytes.
#[derive(Debug)]
pub(crate) enum Image {
    /// In the folder of a node, to be read.
    Kept(SnapshotFile),
    /// Received and verified, to be installed.
    Received(Received),
}

/// A verified file that is not the newest snapshot yet.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) unadopted: Incoming,
    pub(crate) file: SnapshotFile,
}

impl Image {
    fn into_incoming(self, folder: &SnapshotFolder) -> Result<Received, SnapshotError> {
        match self {
            Self::Received(received) => Ok(received),
            Self::Kept(file) => {
                let mut unadopted = folder.receive()?;
                let mut offset = 0;
                while offset < file.size() {
                    let bytes = file.read_at(offset, 1 << 20)?;
                    offset += bytes.len() as u64;
                    unadopted.write(&bytes)?;
                }
                let file = unadopted.verify()?;
                Ok(Received { unadopted, file })
            }
        }
    }
}

fn describe(file: &SnapshotFile) -> Result<SnapshotMeta, SnapshotError> {
    wire::snapshot_meta_from_bytes(file.meta().clone())
        .map_err(|error| SnapshotError::Damaged { path: file.path().to_owned(), detail: error.to_string() })
}

fn load(file: &SnapshotFile) -> Result<State, SnapshotError> {
    let damaged = |detail: String| SnapshotError::Damaged { path: file.path().to_owned(), detail };
    let mut reader = io::BufReader::with_capacity(1 << 18, file.reader()?);
    let state = State::read(&mut reader).map_err(|error| match error {
        DecodeError::Version { .. } => SnapshotError::Newer { path: file.path().to_owned(), detail: error.to_string() },
        other => damaged(other.to_string()),
    })?;
    // The hash of the whole file is compared at its end.
    let rest = io::copy(&mut reader.by_ref().take(1), &mut io::sink()).map_err(|error| damaged(error.to_string()))?;
    if rest > 0 {
        return Err(damaged("it holds more than the state".to_owned()));
    }
    Ok(state)
}

impl Replica {
    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.origin.node
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ballast_core::{
        ids::Boot,
        session::{Call, Reply, Write},
        state::{Frame, InitCluster, NodeInfo, Outcome},
        time::LogTime,
    };
    use ballast_storage::log::LogOptions;
    use bytes::Bytes;
    use futures_util::stream;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        ground::Ground,
        types::{Commands, CommittedLeaderId, LogEntry},
    };

    const NODE: NodeId = NodeId::new(1);

    /// Whose frames they are.
    fn own() -> Origin {
        Origin { node: NODE, boot: Boot(2) }
    }

    fn other() -> Origin {
        Origin { node: NODE, boot: Boot(1) }
    }

    /// Keeps the first answer of each entry, and the indexes at which batches ended.
    #[derive(Default)]
    struct Watching {
        answers: Mutex<Vec<Bytes>>,
        /// For each entry with an answer, how many answers of those before it somebody else holds.
        held: Mutex<Vec<usize>>,
        batches: Mutex<Vec<u64>>,
    }

    impl Observer for Watching {
        fn entry(&self, _: LogIndex, _: &Entry, outcomes: &[FrameOutcomes]) {
            let answers = outcomes.iter().flat_map(|frame| &frame.outcomes).filter_map(|outcome| match outcome {
                Outcome::Session(replies) => replies.first(),
                _ => None,
            });
            for answer in answers {
                if let Reply::Bulk(bytes) = answer {
                    let mut kept = self.answers.lock();
                    self.held.lock().push(kept.iter().filter(|bytes| !bytes.is_unique()).count());
                    kept.push(bytes.clone());
                }
            }
        }

        fn applied(&self, _: &State, index: LogIndex) {
            self.batches.lock().push(index.get());
        }

        fn installed(&self, _: &State) {}
    }

    fn session(calls: &[&[&str]]) -> Command {
        let words = |call: &[&str]| call.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let calls = calls.iter().map(|call| Call::parse(0, words(call)).expect("a command")).collect();
        Command::Session(Box::new(Write { calls, ..Write::default() }))
    }

    fn init() -> Command {
        Command::InitCluster(Box::new(InitCluster {
            cluster_id: "c".to_owned(),
            ca_certificate: String::new(),
            ca_key_sealed: Vec::new(),
            first_node: NodeInfo { name: "n1".to_owned(), ..NodeInfo::default() },
            first_node_key_fingerprint: [1; 32],
            table_secret: [1; 16].into(),
            cookie_secret: [2; 32].into(),
            lease_secret: [3; 32].into(),
        }))
    }

    /// Applies these commands, one to an entry, in one batch.
    async fn applied(origin: Origin, commands: Vec<Command>) -> Arc<Watching> {
        let temp = TempDir::new().expect("a temporary folder");
        let ground = Ground::open(temp.path(), LogOptions { write_buffer_bytes: 1 << 20 }).expect("opens");
        let watching = Arc::new(Watching::default());
        let replica = Replica::new(
            own(),
            Arc::new(Flight::default()),
            Arc::new(AddressBook::new(BTreeMap::new())),
            ground.snapshots,
            ground.blocking,
            Arc::clone(&watching) as Arc<dyn Observer>,
        );
        let mut machine = Machine::open(Arc::new(replica)).expect("opens");
        let entry = |(n, command): (usize, Command)| {
            let index = n as u64 + 1;
            let frame = Frame { origin, seq: index, commands: vec![command] };
            let entry = Entry { log_time: LogTime::from_millis(index), frames: vec![frame] };
            let payload = Payload::Normal(Commands(codec::encode_entry(&entry).into()));
            let log_id = LogId { leader_id: CommittedLeaderId::new(1), index };
            Ok((LogEntry { log_id, payload }, None))
        };
        let entries: Vec<io::Result<EntryResponder<Types>>> = commands.into_iter().enumerate().map(entry).collect();
        machine.apply(stream::iter(entries)).await.expect("can be read");
        watching
    }

    #[test]
    fn a_snapshot_of_a_newer_version_is_not_damaged() {
        let temp = TempDir::new().expect("a temporary folder");
        let folder = SnapshotFolder::open(temp.path()).expect("opens");
        let mut bytes = Vec::new();
        State::default().snapshot().write(&mut bytes).expect("written");
        let mut refusal = |format: u32| {
            // After the word that all snapshots begin with.
            bytes[8..12].copy_from_slice(&format.to_le_bytes());
            let mut writer = folder.write(7, b"meta").expect("begun");
            io::Write::write_all(&mut writer, &bytes).expect("written");
            load(&folder.finish(writer).expect("finished")).expect_err("nobody knows this format").to_string()
        };
        let newer = refusal(200);
        assert!(newer.contains("version 200") && newer.contains("upgrade this node"), "{newer}");
        assert!(!newer.contains("damaged") && !newer.contains("node remove"), "{newer}");
    }

    #[tokio::test]
    async fn answers_that_nobody_here_waits_for_are_dropped_with_their_entry() {
        let value = "v".repeat(10_000);
        let commands = || {
            let reads = (0..5).map(|_| session(&[&["hget", "h", "f"]]));
            [init(), session(&[&["hset", "h", "f", &value]])].into_iter().chain(reads).collect()
        };
        let others = applied(other(), commands()).await;
        assert_eq!(*others.held.lock(), [0; 5]);
        let mine = applied(own(), commands()).await;
        assert_eq!(*mine.held.lock(), [0, 1, 2, 3, 4], "they are answered at the end of the batch");
        assert_eq!(*mine.batches.lock(), [7]);
    }

    #[tokio::test]
    async fn a_batch_ends_where_its_answers_are_large() {
        let value = "v".repeat(4 << 20);
        let get: &[&str] = &["get", "a"];
        let commands = || {
            let reads = (0..5).map(|_| session(&[get; 8]));
            [init(), session(&[&["set", "a", &value]])].into_iter().chain(reads).collect()
        };
        assert_eq!(*applied(own(), commands()).await.batches.lock(), [4, 6, 7]);
        assert_eq!(*applied(other(), commands()).await.batches.lock(), [7], "nobody waits for them");
    }

    #[tokio::test]
    async fn a_batch_ends_where_its_entries_are_large() {
        let value = "v".repeat(BATCH_BYTES / 2);
        let writes = (0..5).map(|_| session(&[&["set", "a", &value]]));
        let commands = [init()].into_iter().chain(writes).collect();
        assert_eq!(*applied(own(), commands).await.batches.lock(), [3, 5, 6]);
    }
}
