//! What all workers of a node share, and the ways out of the server.
//!
//! Not here: what a worker has for itself ([`crate::worker`]).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::{
    cluster::{Ownership, Propose, ReadIndex},
    session::Sessions,
    time::LogTime,
};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::{
    clients::Clients,
    passwords::Passwords,
    policy::Policy,
    stats::{CommandIndex, Stats, WorkerCounters},
    subscribers::Subscribers,
    worker::Order,
};

/// What this node believes the time to be that the log goes by.
pub trait LogClock: Send + Sync + 'static {
    /// The log time of now. A guess: log time itself decides what has ended.
    fn estimate(&self) -> LogTime;
}

/// Certificates, ours and clients'.
pub trait Certificates: Send + Sync + 'static {
    /// What TLS is spoken with right now; asked for each connection. `None` while the node has no certificate.
    fn server_config(&self) -> Option<Arc<ServerConfig>>;

    /// Whose certificate this is that a client has shown; `None` if it is not accepted. It was verified.
    fn holder(&self, certificate: &CertificateDer<'_>) -> Option<Holder>;
}

/// Who a certificate says that a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name. A user of the document may have the same.
    pub name: String,
    /// Its role in the cluster, as people write it.
    pub role: &'static str,
    /// Whether that role sees what is in sessions.
    pub sees_sessions: bool,
}

/// The ways out of the server.
#[derive(Clone)]
pub struct Ports {
    /// The keys.
    pub sessions: Arc<Sessions>,
    /// The log.
    pub propose: Arc<dyn Propose>,
    /// Whether this node is current.
    pub read_index: Arc<dyn ReadIndex>,
    /// Which VIPs this node may serve.
    pub ownership: Arc<dyn Ownership>,
    /// The time.
    pub clock: Arc<dyn LogClock>,
    /// Certificates; without them TLS listeners refuse every connection.
    pub certificates: Option<Arc<dyn Certificates>>,
}

/// What all workers share.
pub struct Node {
    /// The keys.
    pub sessions: Arc<Sessions>,
    /// Who is connected.
    pub clients: Clients,
    /// Who listens to what.
    pub subscribers: Subscribers,
    /// Told by the state machine when there is something for subscribers.
    pub noticed: Arc<Notify>,
    /// Passwords against hashes.
    pub passwords: Passwords,
    /// The ways out.
    pub ports: Ports,
    /// Each worker's orders.
    pub orders: Vec<mpsc::UnboundedSender<Order>>,
    /// Turns of those that read long, each on a thread of its own.
    pub walks: Arc<Semaphore>,
    /// How long a connection may be without a login.
    pub login_timeout: Duration,
    /// Each worker's counters.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Connections open.
    pub held: AtomicUsize,
    /// There was no room for one more, and the log says so.
    pub full: AtomicBool,
    /// Told when none is left.
    pub released: Notify,
    /// Names this run of the process, as `INFO` shows it.
    pub run_id: String,
    /// When it began, on the boot clock.
    pub since_ms: u64,
    policy: Mutex<Arc<Policy>>,
}

/// Long reads at once. Each takes a core for a second at most, beside those of the workers and of the log.
pub const WALKS_MAX: usize = 2;

impl Node {
    /// Nothing held yet.
    ///
    /// # Errors
    /// The thread that verifies passwords could not be started.
    pub fn new(
        ports: Ports,
        orders: Vec<mpsc::UnboundedSender<Order>>,
        login_timeout: Duration,
    ) -> std::io::Result<Self> {
        let index = Arc::new(CommandIndex::new());
        let run_id: [u8; 20] = rand::random();
        let noticed = Arc::new(Notify::new());
        let wake = noticed.clone();
        ports.sessions.on_notice(move || wake.notify_one());
        let clients = Clients::default();
        Ok(Self {
            sessions: ports.sessions.clone(),
            subscribers: Subscribers::new(ports.sessions.clone(), clients.budget.clone()),
            clients,
            noticed,
            passwords: Passwords::start()?,
            counters: orders.iter().map(|_| Arc::new(WorkerCounters::new(index.clone()))).collect(),
            orders,
            walks: Arc::new(Semaphore::new(WALKS_MAX)),
            login_timeout,
            held: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            released: Notify::new(),
            run_id: run_id.iter().map(|byte| format!("{byte:02x}")).collect(),
            since_ms: boot_now().get() / 1_000_000,
            policy: Mutex::new(Arc::new(Policy::new(ports.sessions.settings()))),
            ports,
        })
    }

    /// The settings in force.
    pub fn policy(&self) -> Arc<Policy> {
        let settings = self.sessions.settings();
        let mut policy = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        if policy.settings.generation != settings.generation {
            *policy = Arc::new(Policy::new(settings));
        }
        policy.clone()
    }

    /// Milliseconds on the boot clock.
    pub fn now_ms(&self) -> u64 {
        boot_now().get() / 1_000_000
    }

    /// Everything that was counted so far.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.counters.iter().for_each(|worker| worker.add_to(&mut stats));
        stats
    }
}
