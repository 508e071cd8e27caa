//! The server as the daemon sees it: start, listen, drain, stop.

use std::{
    io,
    sync::{
        Arc, PoisonError, Weak,
        atomic::Ordering,
        mpsc::{self, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use ballast_clock::boot_now;
use tokio::sync::mpsc::unbounded_channel;

use crate::{
    Place,
    control::{Control, ListenerState, Notice, Published, Wanted},
    deadline::TICK,
    node::{Node, Ports},
    stats::Stats,
    worker,
};

/// What is decided once, at the start.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// Workers; zero means one for each core.
    pub workers: usize,
    /// How long a connection may be without a login, where the document has users. As long as the admin API's.
    pub login_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { workers: 0, login_timeout: Duration::from_secs(30) }
    }
}

/// The running session store server. Stops when dropped; [`Server::drain`] first, to lose nothing.
pub struct Server {
    node: Arc<Node>,
    published: Published,
    notices: Sender<Notice>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts workers. Nothing is listened on yet, see [`Server::listen`]. One for the life of the process: the keyspace
    /// wakes the first one only when there is something for subscribers. A document without a session store is
    /// `listen` of nothing.
    ///
    /// # Errors
    /// A thread or its runtime could not be started.
    pub fn start(options: ServerOptions, ports: Ports) -> io::Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if options.workers == 0 { cores() } else { options.workers };
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| unbounded_channel()).unzip();
        let node = Arc::new(Node::new(ports, senders, options.login_timeout)?);
        let (notices, inbox) = mpsc::channel();
        let mut server = Self { node, published: Published::default(), notices, threads: Vec::new() };
        let (ready, started) = mpsc::channel();
        for (index, orders) in receivers.into_iter().enumerate() {
            let (node, ready) = (server.node.clone(), ready.clone());
            let run = move || worker::run_on_this_thread(index, node, orders, ready);
            server.threads.push(std::thread::Builder::new().name(format!("sessions-{index}")).spawn(run)?);
        }
        drop(ready);
        // Ends when every worker has said its word.
        started.iter().collect::<io::Result<()>>()?;
        let control = Control::new(server.node.clone(), server.published.clone());
        let run = move || control.run(&inbox);
        server.threads.push(std::thread::Builder::new().name("sessions-control".to_owned()).spawn(run)?);
        Ok(server)
    }

    /// Listens on these from now on and on nothing else. Returns at once; one that cannot be bound is tried again (see
    /// [`Server::listeners`]).
    pub fn listen(&self, wanted: Vec<Wanted>) {
        self.tell(Notice::Listen(wanted));
    }

    /// Waits until everything told before has been carried out (a bind that fails counts as tried).
    pub fn settle(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        self.tell(Notice::Settle(done));
        // Control has ended if nobody answers; then there is nothing to wait for.
        let _ = wait.recv();
    }

    /// Stops accepting, lets commands in flight finish, closes connections that are idle, at most for `deadline`. Returns
    /// how many connections were left.
    ///
    /// # Cancel safety
    /// The drain goes on when the future is dropped; only the wait ends.
    pub async fn drain(&self, deadline: Duration) -> usize {
        let begun = Arc::new(());
        let begins = Arc::downgrade(&begun);
        self.tell(Notice::Drain(begun));
        // What is left when time is up is what the caller is told.
        let _ = tokio::time::timeout(deadline, self.emptied(&begins)).await;
        self.held()
    }

    /// Waits until no client is connected, nor in the kernel's queue for a VIP that was handed over.
    async fn emptied(&self, begins: &Weak<()>) {
        let vips = self.listeners().into_iter().filter_map(|listener| match listener.wanted.place {
            Place::Vip(vip, _) => Some(self.node.ports.ownership.gate(vip)),
            Place::Address(_) | Place::Unix { .. } => None,
        });
        let gates: Vec<_> = vips.collect();
        loop {
            let released = self.node.released.notified();
            let now = boot_now();
            let queued = || gates.iter().any(|gate| gate.is_leaving() && gate.may_accept(now));
            if begins.strong_count() == 0 && self.held() == 0 && !queued() {
                return;
            }
            // The queue says nothing when nobody comes any more.
            let _ = tokio::time::timeout(TICK, released).await;
        }
    }

    /// Connections open.
    pub fn held(&self) -> usize {
        self.node.held.load(Ordering::Acquire)
    }

    /// Everything that was counted so far.
    pub fn stats(&self) -> Stats {
        self.node.stats()
    }

    /// The listeners that are wanted, with their addresses or what is wrong.
    pub fn listeners(&self) -> Vec<ListenerState> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, notice: Notice) {
        // Control ends only when told to, or by a bug that was reported already.
        let _ = self.notices.send(notice);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tell(Notice::Stop);
        // Control tells them too, but it does not run if the start failed half-way.
        for orders in &self.node.orders {
            let _ = orders.send(worker::Order::Stop);
        }
        for thread in self.threads.drain(..) {
            // A panic was reported by the panic hook.
            let _ = thread.join();
        }
    }
}
