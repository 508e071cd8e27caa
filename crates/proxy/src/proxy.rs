//! The data plane as the daemon sees it: started, told of changes, drained.
//!
//! Not here: everything it does.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::Ordering,
        mpsc::{self, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::{
    cluster::{Bindings, ClusterView, Ownership, PassiveHealth},
    ids::{Revision, VipId},
    plan::Bind,
};
use tokio::sync::mpsc::unbounded_channel;

use crate::{
    accesslog::{self, AccessLog, LogWriter},
    control::{Control, ListenerState, Notice, Published},
    stats::{Stats, WorkerCounters},
    ticks::TICK,
    worker::{self, Shared},
};

/// How long those that are cut off at the end of a drain are waited for: workers notice with their ticks, and say why.
const FAREWELL: Duration = Duration::from_millis(500);

/// When the listeners of a VIP are bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BindVips {
    /// Only while this node owns the VIP: the sockets are what decides who is reached.
    #[default]
    WhileHeld,
    /// Always: something else keeps packets from the sockets of a node that does not own the VIP, and taking over does
    /// not wait for a bind.
    Always,
}

/// What is decided once, at the start.
#[derive(Debug)]
pub struct ProxyOptions {
    /// Workers; zero means one for each core.
    pub workers: usize,
    /// Whether worker `n` stays on the `n`th core this process may use.
    pub cpu_pinning: bool,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// When the listeners of VIPs are bound.
    pub bind_vips: BindVips,
    /// How long a connection without a request stays open during a drain, so that a request that is on its way is answered
    /// and its client told to leave, instead of meeting a reset. Clients that reuse connections do so within a second.
    pub idle_grace: Duration,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            workers: 0,
            cpu_pinning: false,
            access_log: AccessLog::Off,
            bind_vips: BindVips::default(),
            idle_grace: Duration::from_secs(1),
        }
    }
}

/// The ways out of the data plane.
#[derive(Clone)]
pub struct Ports {
    /// The plan.
    pub view: Arc<dyn ClusterView>,
    /// The binding tables.
    pub bindings: Arc<dyn Bindings>,
    /// Which VIPs this node may serve.
    pub ownership: Arc<dyn Ownership>,
    /// What is noticed about backends.
    pub passive: Arc<dyn PassiveHealth>,
}

/// The running data plane. Stops when dropped; [`Proxy::drain`] first, to lose nothing.
pub struct Proxy {
    shared: Arc<Shared>,
    published: Published,
    notices: Sender<Notice>,
    threads: Vec<JoinHandle<()>>,
    log: Option<LogWriter>,
}

impl Proxy {
    /// Starts workers and binds the listeners of the current plan; one that cannot be bound is
    /// tried again (see [`Proxy::listeners`]).
    ///
    /// # Errors
    /// A thread or its runtime could not be started.
    pub fn start(options: ProxyOptions, ports: Ports) -> io::Result<Self> {
        let cores = allowed_cores();
        let workers = if options.workers == 0 { cores.len().max(1) } else { options.workers };
        let (log, mut log_ports) = match options.access_log {
            AccessLog::Off => (None, Vec::new()),
            AccessLog::To(out) => {
                let (writer, ports) = accesslog::start(out, workers)?;
                (Some(writer), ports)
            }
        };
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| unbounded_channel()).unzip();
        let counters = (0..workers).map(|_| Arc::new(WorkerCounters::default())).collect();
        let shared = Arc::new(Shared::new(ports, counters, senders, options.idle_grace));
        let published = Published::default();
        let (notices, inbox) = mpsc::channel();
        let mut proxy = Self { shared, published, notices, threads: Vec::new(), log };
        log_ports.reverse();
        let (ready, started) = mpsc::channel();
        for (index, orders) in receivers.into_iter().enumerate() {
            let shared = proxy.shared.clone();
            let port = log_ports.pop();
            let ready = ready.clone();
            let core = options.cpu_pinning.then(|| cores[index % cores.len().max(1)]);
            let run = move || {
                if let Some(core) = core {
                    pin_to(core);
                }
                worker::run_on_this_thread(index, shared, port, orders, ready);
            };
            proxy.threads.push(std::thread::Builder::new().name(format!("proxy-{index}")).spawn(run)?);
        }
        drop(ready);
        // Ends when every worker has said its word.
        started.iter().collect::<io::Result<()>>()?;
        let control = Control::new(proxy.shared.clone(), proxy.published.clone(), options.bind_vips);
        let run = move || control.run(&inbox);
        proxy.threads.push(std::thread::Builder::new().name("proxy-control".to_owned()).spawn(run)?);
        proxy.settle();
        Ok(proxy)
    }

    /// Tells that the plan changed. Requests see it at once, listeners follow.
    pub fn plan_changed(&self) {
        self.tell(Notice::PlanChanged);
    }

    /// This node owns the VIP now: its listeners are bound. Returns at once. Needed with [`BindVips::WhileHeld`] only.
    pub fn vip_acquired(&self, vip: VipId) {
        self.tell(Notice::Vip(vip, true));
    }

    /// This node does not own the VIP any more: its listeners are closed, its connections end after
    /// what they are doing. Returns at once: nothing new is accepted already, because the VIP's gate says so. Needed with
    /// [`BindVips::WhileHeld`] only.
    pub fn vip_released(&self, vip: VipId) {
        self.tell(Notice::Vip(vip, false));
    }

    /// Waits until everything told before has been carried out (a bind that fails counts as tried).
    pub fn settle(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        self.tell(Notice::Settle(done));
        // Control has ended if nobody answers; then there is nothing to wait for.
        let _ = wait.recv();
    }

    /// Stops accepting, closes idle connections after a moment, lets requests in flight finish with
    /// `Connection: close`. What has not ended within its farm's `timeouts.drain`, or within `deadline`, is cut off, visibly to
    /// its client. Returns how many connections were left at the deadline.
    ///
    /// # Cancel safety
    /// The drain goes on when the future is dropped; only the wait ends.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.shared.draining.store(true, Ordering::Release);
        let begun = Arc::new(());
        let begins = Arc::downgrade(&begun);
        self.tell(Notice::Drain(deadline, begun));
        // Nothing is left when time is up, or what is left is what the caller is told.
        let _ = tokio::time::timeout(deadline, self.emptied(&begins)).await;
        let left = self.held();
        let _ = tokio::time::timeout(FAREWELL, self.emptied(&begins)).await;
        left
    }

    /// Waits until no client is connected, nor in the kernel's queue of what workers have not closed yet or for a VIP that was
    /// handed over.
    async fn emptied(&self, begins: &Weak<()>) {
        let plan = self.shared.ports.view.plan();
        let vips = plan.farms.iter().flat_map(|farm| &farm.listeners).filter_map(|listener| match &listener.bind {
            Bind::Vip { id, .. } => Some(*id),
            Bind::Address(_) => None,
        });
        let gates: Vec<_> = vips.map(|vip| self.shared.ports.ownership.gate(vip)).collect();
        loop {
            let released = self.shared.released.notified();
            let now = boot_now();
            let queued = || gates.iter().any(|gate| gate.is_leaving() && gate.may_accept(now));
            if begins.strong_count() == 0 && self.held() == 0 && !queued() {
                return;
            }
            // The queue says nothing when nobody comes any more.
            let _ = tokio::time::timeout(TICK, released).await;
        }
    }

    /// Client connections open.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::Acquire)
    }

    /// Everything that was counted so far.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.shared.counters.iter().for_each(|worker| worker.add_to(&mut stats));
        stats.log_lines_dropped_total += self.log.as_ref().map_or(0, LogWriter::lost);
        stats
    }

    /// The addresses that are listened on, and those that should be but cannot.
    pub fn listeners(&self) -> Vec<ListenerState> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).listeners.clone()
    }

    /// The revision whose listeners are bound, or failed to be; the plan may be ahead for a moment. With the listeners
    /// that failed.
    pub fn listening(&self) -> (Revision, Vec<ListenerState>) {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = published.listeners.iter().filter(|listener| listener.error.is_some());
        (published.revision, failed.cloned().collect())
    }

    fn tell(&self, notice: Notice) {
        // Control ends only when told to, or by a bug that was reported already.
        let _ = self.notices.send(notice);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tell(Notice::Stop);
        // Control tells them too, but it does not run if the start failed half-way.
        for orders in &self.shared.orders {
            let _ = orders.send(worker::Order::Stop);
        }
        for thread in self.threads.drain(..) {
            // A panic was reported by the panic hook.
            let _ = thread.join();
        }
        if let Some(log) = self.log.take() {
            log.join();
        }
    }
}

/// The cores this process may run on.
fn allowed_cores() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid and its size is given; 0 is the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if result != 0 {
        return (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
    }
    // SAFETY: every index is below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
}

/// Keeps the calling thread on one core. Failing is harmless: it runs where the kernel puts it.
fn pin_to(core: usize) {
    // SAFETY: an all-zero cpu_set_t is valid, `core` came out of one, and 0 is the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

#[expect(dead_code, reason = "states at compile time that the handle can be shared between threads")]
fn assert_shareable(proxy: Proxy) -> Arc<Mutex<Proxy>> {
    fn shared<T: Send + Sync>(value: T) -> Arc<T> {
        Arc::new(value)
    }
    shared(Mutex::new(proxy))
}
