//! A cluster of one in memory: a real state machine, a proposer that applies at once, and the
//! services in front of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use ballast_core::{
    cluster::{Applied, BoxFuture, NotConfirmed, Propose, ProposeError, ReadIndex},
    config::{RequestMatch, TableKey},
    ids::{BackendId, Boot, LogIndex, NodeId, ServiceId, VipId},
    lease::{Fitness, VipStatus},
    persistence::KeyHash,
    plan::CookieKey,
    state::{Command, Entry, Frame, InitCluster, NodeInfo, Origin, Outcome, State},
    time::LogTime,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{
    access::Caller,
    client::Peers,
    node::{
        HeldVip, LeasePicture, ListenerProblem, LocalStatus, OperationError, Operations, RequestReader, SnapshotMade,
        StateAccess,
    },
    pki::{self, Authority, ClusterKey, Credentials, Key, UserRole},
    services::{Parts, Services, Shared},
};

const NODE: NodeId = NodeId::new(1);

/// Where log time begins; any moment will do.
const START_MS: u64 = 1_700_000_000_000;

/// What the fake cluster is made of.
pub struct Fake {
    state: Mutex<State>,
    applied: watch::Sender<LogIndex>,
    seq: AtomicU64,
    now_ms: AtomicU64,
    /// No quorum: proposals and confirmations fail.
    pub cut_off: AtomicBool,
    /// Those that vote.
    pub voters: Mutex<BTreeSet<NodeId>>,
    pub voters_changing: AtomicBool,
    /// Proposals are applied, and their answers are lost.
    pub loses_answers: AtomicBool,
    pub confirms: AtomicU64,
    /// Applied just before the next proposal, as if another node had proposed it.
    pub overtaken_by: Mutex<Option<Command>>,
    /// Listeners that this node says it cannot bind.
    pub listener_problems: Mutex<Vec<ListenerProblem>>,
    /// How late this node's lease thread says that it is.
    pub lease_wake_late: Mutex<Duration>,
    /// When the node's certificate ends.
    pub certificate_not_after: Mutex<SystemTime>,
    /// What its lease thread works from.
    pub leases: Mutex<Option<LeasePicture>>,
    /// How fit this node says it is, as a whole and for single VIPs.
    pub fitness: Mutex<(Fitness, Vec<VipStatus>)>,
    /// What it says deserves a look about single VIPs.
    pub warnings: Mutex<BTreeMap<VipId, String>>,
    pub authority: Authority,
    pub cluster_key: ClusterKey,
    pub credentials: Credentials,
    pub stop: CancellationToken,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        let authority = Authority::create(&pki::new_cluster_id(), SystemTime::now()).unwrap();
        let cluster_key = ClusterKey::generate();
        let key = Key::generate().unwrap();
        let credentials = authority.issue_node(NODE, &key, SystemTime::now()).unwrap();
        let init = InitCluster {
            cluster_id: authority.cluster_id().to_owned(),
            ca_certificate: authority.certificate_pem().to_owned(),
            ca_key_sealed: authority.seal_key(&cluster_key).unwrap(),
            first_node: info("node-1", "127.0.0.1:1"),
            first_node_key_fingerprint: key.public().fingerprint(),
            table_secret: [5; 16].into(),
            cookie_secret: [6; 32].into(),
            lease_secret: [7; 32].into(),
        };
        let fake = Arc::new(Self {
            state: Mutex::new(State::new()),
            applied: watch::Sender::new(LogIndex::new(0)),
            seq: AtomicU64::new(0),
            now_ms: AtomicU64::new(START_MS),
            cut_off: AtomicBool::new(false),
            voters: Mutex::new(BTreeSet::from([NODE])),
            voters_changing: AtomicBool::new(false),
            loses_answers: AtomicBool::new(false),
            confirms: AtomicU64::new(0),
            overtaken_by: Mutex::new(None),
            listener_problems: Mutex::new(Vec::new()),
            lease_wake_late: Mutex::default(),
            certificate_not_after: Mutex::new(SystemTime::now() + pki::CERTIFICATE_LIFE_NODE),
            leases: Mutex::default(),
            fitness: Mutex::default(),
            warnings: Mutex::default(),
            authority,
            cluster_key,
            credentials,
            stop: CancellationToken::new(),
        });
        fake.apply(Command::InitCluster(Box::new(init)));
        fake
    }

    /// Applies a command as the next entry.
    pub fn apply(&self, command: Command) -> Applied {
        let (index, mut outcomes) = self.apply_all(vec![command]);
        Applied { index, outcome: outcomes.remove(0) }
    }

    /// Applies commands as the next entry.
    pub fn apply_all(&self, commands: Vec<Command>) -> (LogIndex, Vec<Outcome>) {
        let mut state = self.state.lock();
        let index = LogIndex::new(state.applied().get() + 1);
        let frame = Frame {
            origin: Origin { node: NODE, boot: Boot(1) },
            seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1,
            commands,
        };
        let log_time = LogTime::from_millis(self.now_ms.load(Ordering::Relaxed));
        let mut out = Vec::new();
        state.apply(index, &Entry { log_time, frames: vec![frame] }, &mut out);
        let outcomes = out.remove(0).outcomes;
        drop(state);
        self.applied.send_replace(index);
        (index, outcomes)
    }

    /// Moves log time on.
    pub fn pass(&self, time: Duration) {
        self.now_ms.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
        self.apply(Command::Tick);
    }

    pub fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.state.lock())
    }

    pub fn parts(self: &Arc<Self>) -> Parts {
        let client = Arc::new(pki::node_client(&self.credentials).unwrap());
        Parts {
            propose: self.clone(),
            read_index: self.clone(),
            state: self.clone(),
            operations: self.clone(),
            reader: Arc::new(Reader),
            peers: Arc::new(Peers::new(self.authority.cluster_id(), client)),
            cluster_key: self.cluster_key.clone(),
            stop: self.stop.clone(),
        }
    }

    pub fn shared(self: &Arc<Self>) -> Shared {
        Shared::new(self.parts())
    }

    pub fn services(self: &Arc<Self>) -> Services {
        Services::new(self.parts())
    }
}

pub fn info(name: &str, address: &str) -> NodeInfo {
    NodeInfo {
        name: name.to_owned(),
        cluster_address: address.to_owned(),
        admin_address: address.to_owned(),
        version: "0.1.0".to_owned(),
        ..NodeInfo::default()
    }
}

/// A request as the access layer hands it on.
pub fn from<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let caller = Caller {
        name: name.into(),
        role: Some(UserRole::Admin),
        node: None,
        certificate: None,
        deadline: Instant::now() + Duration::from_secs(10),
    };
    request.extensions_mut().insert(caller);
    request
}

impl Propose for Fake {
    fn propose(&self, command: Command, deadline: Duration) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        let result = if self.cut_off.load(Ordering::Relaxed) {
            Err(ProposeError::NoQuorum { detail: "nobody answers".to_owned() })
        } else {
            if let Some(earlier) = self.overtaken_by.lock().take() {
                self.apply(earlier);
            }
            let applied = self.apply(command);
            match self.loses_answers.load(Ordering::Relaxed) {
                true => Err(ProposeError::OutcomeUnknown { waited: deadline }),
                false => Ok(applied),
            }
        };
        Box::pin(async move { result })
    }
}

impl ReadIndex for Fake {
    fn confirm(&self, _deadline: Duration) -> BoxFuture<'static, Result<LogIndex, NotConfirmed>> {
        self.confirms.fetch_add(1, Ordering::Relaxed);
        let result = match self.cut_off.load(Ordering::Relaxed) {
            true => Err(NotConfirmed { detail: "nobody answers".to_owned() }),
            false => Ok(self.state.lock().applied()),
        };
        Box::pin(async move { result })
    }
}

impl StateAccess for Fake {
    fn with_state(&self, read: &mut dyn FnMut(&State)) {
        read(&self.state.lock());
    }

    fn applied(&self) -> watch::Receiver<LogIndex> {
        self.applied.subscribe()
    }
}

impl Fake {
    /// What it says that it holds.
    fn held(&self) -> Vec<HeldVip> {
        let fitness = self.fitness.lock();
        let held = fitness.1.iter().filter(|standing| standing.holder == Some(NODE));
        held.map(|standing| HeldVip {
            vip: standing.vip,
            epoch: standing.epoch.get(),
            remaining: Duration::from_millis(1),
        })
        .collect()
    }
}

impl Operations for Fake {
    fn status(&self) -> LocalStatus {
        let (applied, serving) = self.read(|state| (state.applied(), state.revision()));
        let leader = (!self.cut_off.load(Ordering::Relaxed)).then_some(NODE);
        let (fitness, standings) = self.fitness.lock().clone();
        LocalStatus {
            node: NODE,
            version: "0.1.0".to_owned(),
            term: 3,
            leader,
            voters: self.voters.lock().clone(),
            voters_changing: self.voters_changing.load(Ordering::Relaxed),
            learners: BTreeSet::new(),
            last_log: applied,
            synced: applied,
            committed: applied,
            applied,
            snapshot: LogIndex::new(0),
            purged: LogIndex::new(0),
            confirmed_age: Some(Duration::from_millis(20)),
            serving,
            listener_problems: self.listener_problems.lock().clone(),
            held: self.held(),
            fitness,
            standings,
            problems: BTreeMap::new(),
            warnings: self.warnings.lock().clone(),
            fence: Some("ebpf"),
            not_ready: Vec::new(),
            draining: false,
            started: SystemTime::UNIX_EPOCH,
            certificate_not_after: *self.certificate_not_after.lock(),
            connections: 0,
            lease_wake_late: *self.lease_wake_late.lock(),
            lease_renew: Duration::from_millis(1),
        }
    }

    fn leases(&self) -> Option<LeasePicture> {
        self.leases.lock().clone()
    }

    fn state_hash(&self, at: Option<LogIndex>) -> Option<(LogIndex, String)> {
        let applied = self.read(|state| state.applied());
        (at.unwrap_or(applied) == applied).then(|| (applied, "abcd".to_owned()))
    }

    fn transfer_leader(&self, to: NodeId, _deadline: Duration) -> BoxFuture<'static, Result<(), OperationError>> {
        Box::pin(async move { Err(OperationError::Failed { detail: format!("node {to} does not answer") }) })
    }

    fn snapshot(&self, _deadline: Duration) -> BoxFuture<'static, Result<SnapshotMade, OperationError>> {
        let index = self.read(|state| state.applied());
        Box::pin(async move { Ok(SnapshotMade { index, bytes: Some(100) }) })
    }
}

/// Reads requests in the simplest way that can be right.
struct Reader;

impl RequestReader for Reader {
    fn takes(&self, rule: &RequestMatch, host: &str, path: &str) -> bool {
        (rule.hosts.is_empty() || rule.hosts.iter().any(|known| known == host))
            && rule.path_prefix.as_ref().is_none_or(|prefix| path.starts_with(prefix.as_str()))
    }

    fn table_key(
        &self,
        key: &TableKey,
        secret: &[u8; 16],
        service: ServiceId,
        client: IpAddr,
        head: &[u8],
    ) -> Option<KeyHash> {
        let head = std::str::from_utf8(head).ok()?;
        let value = match key {
            TableKey::Source(_) => client.to_string(),
            TableKey::Header(name) => {
                head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))?
            }
            TableKey::LearnedCookie(name) => {
                let cookies = head.lines().find_map(|line| line.strip_prefix("cookie: "))?;
                cookies.split("; ").find_map(|cookie| cookie.strip_prefix(&format!("{name}=")))?.to_owned()
            }
            TableKey::Query(_) | TableKey::PathSegment(_) => return None,
        };
        Some(KeyHash::of(secret, service, value.as_bytes()))
    }

    fn cookie_backend(
        &self,
        value: &[u8],
        keys: &[CookieKey],
        _service: ServiceId,
        _ttl_s: Option<u64>,
        _now_s: u64,
    ) -> Option<BackendId> {
        assert!(!keys.is_empty());
        std::str::from_utf8(value).ok()?.strip_prefix("backend-")?.parse().ok().map(BackendId::new)
    }
}
