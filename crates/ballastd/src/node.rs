//! The running node: wires the parts, supervises them, drains them in order.
//!
//! Start: sockets, log and state, data plane, leases, checks, admin. Nothing serves before the
//! state it serves from exists. Stop, in this order and under one deadline: say that we are not
//! ready; offer the VIPs to others, so that nothing new arrives; finish what clients have begun;
//! end checks and admin; hand leadership over; close the log.
//!
//! A part that ends by itself ends the node: a process that stops is started again by its
//! supervisor, one that limps is believed.

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use arc_swap::ArcSwapOption;
use ballast_admin::{
    client::Peers,
    pki::{self, ClusterKey},
    serve::{serve_tls, serve_unix},
    services::{Parts, Services},
};
use ballast_clock::boot_now;
use ballast_core::{
    cluster::{ClusterView, Ownership, Propose},
    ids::{Boot, EntryId, LogIndex, NodeId, Term, VipId},
    lease::{LeaseView, LogFacts},
    state::{Author, Command, NodeRole, Outcome, Refusal, State},
    time::BootNanos,
};
use ballast_planted::Bug;
use ballast_proxy::{Ports, Proxy, ProxyOptions, prober};
use ballast_raft::{Handle, Member, MemberOptions, Role, Status, TlsConnect};
use ballast_vip::{ConfirmedCell, Gates, Inputs, LeaseThread, LogMarks};
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    access_log::{self, Reopen},
    bindings::{self, NodeBindings},
    bootstrap::Bootstrap,
    certificate::{Facts, keep_renewed},
    endpoints,
    identity::{self, Genesis, Identity},
    interfaces::{self, Drivers},
    leadership,
    leases::{self, Membership, OwnFitness, Told},
    metrics,
    operations::Node,
    past_leases::Leases,
    programs::{Described, VipCheck, keep_checking, keep_telling},
    sessions::NodeSessions,
    sockets::{Sockets, serve_cluster},
    supervisor::Supervisor,
    view::View,
    webhooks::{Secrets, keep_posting},
};

/// How often things that give no signal (age of the confirmed state, verdicts that wait for others) are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long one try to write the cluster's beginning, or this node's addresses, may take.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked whether this node's interfaces are still what the cluster was told.
const LOOK_AT_INTERFACES: Duration = Duration::from_secs(2);
/// VIPs are given up within a lease; this is the end of patience.
const LEASE_DRAIN_MAX: Duration = Duration::from_secs(15);
/// A node that failed, or that the others do not know any more, does not go on for long.
const FAILED_DRAIN_MAX: Duration = Duration::from_secs(1);
/// Drain of the data plane while no farm says how long.
const DRAIN_DEFAULT: Duration = Duration::from_secs(30);
/// Ending admin calls and consensus.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Runs the node until `stop`, or until a part of it fails.
///
/// # Errors
/// What failed, and what to do.
pub async fn run(bootstrap: Bootstrap, stop: CancellationToken, reopen: Reopen) -> Result<()> {
    let identity = Identity::load(&bootstrap)?;
    let sole = interfaces::claim(&bootstrap.vip, bootstrap.role)?;
    let secrets = Secrets::read(&bootstrap.webhooks)?;
    let supervisor = Arc::new(Supervisor::from_environment());
    let sockets = tokio::select! {
        // Cancel-safe: what was bound is closed.
        bound = Sockets::bind(&bootstrap, &supervisor) => bound?,
        () = stop.cancelled() => {
            info!("stopped before there was an address to listen on");
            return Ok(());
        }
    };
    let boot = Boot(rand::random());
    let view = Arc::new(View::new(identity.node));

    let mut options = MemberOptions::new(identity.cluster_id.clone(), identity.node, boot, &bootstrap.data_dir);
    options.bounds = bootstrap.raft.bounds();
    let cluster_id = identity.cluster_id.clone();
    let peer_name = Arc::new(move |node| pki::server_name(&cluster_id, Some(node)));
    let certificate = Arc::clone(&identity.certificate);
    let tls = certificate.client(pki::node_client)?;
    let connect = Arc::new(TlsConnect::new(&tls, peer_name));
    identity.check_log()?;
    info!(node = %identity.node, "opening the log; what it holds since the last snapshot is carried out again, which takes a while if that is much");
    let member = Member::start(options, connect, Arc::clone(&view) as _).await?;
    identity.log_begun()?;
    let raft = member.handle();
    info!(node = %identity.node, cluster = identity.cluster_id, applied = %view.applied_index(), "the log is open");

    // At once: with one that ended while the node was off it would only be refused.
    if certificate.is_due(SystemTime::now(), std::time::Instant::now()) {
        let facts = raft.with_state(|state| Facts::of(state, identity.node));
        certificate.renew(facts, SystemTime::now(), std::time::Instant::now());
    }

    let mut parts = JoinSet::new();
    let ending = CancellationToken::new();
    // Other nodes are heard for as long as consensus runs here, also while leadership is handed over.
    let deaf = CancellationToken::new();
    let tls = certificate.server(pki::node_server)?;
    let (routes, id) = (member.service(), identity.cluster_id.clone());
    parts.spawn(named("node-to-node traffic", serve_cluster(sockets.cluster, tls, id, routes, deaf.clone())));

    let gates = Arc::new(Gates::new());
    let findings = Arc::new(view.findings());
    let confirmed: Arc<OnceLock<Arc<ConfirmedCell>>> = Arc::default();
    let proxy = match bootstrap.role {
        NodeRole::Witness => None,
        NodeRole::Full => {
            let cell = Arc::clone(&confirmed);
            let source = move || cell.get().and_then(|cell| cell.get());
            let runtime = tokio::runtime::Handle::current();
            let ports = Ports {
                view: Arc::clone(&view) as _,
                bindings: Arc::new(NodeBindings::new(Arc::clone(&view), raft.clone(), source, runtime)),
                ownership: Arc::clone(&gates) as Arc<dyn Ownership>,
                passive: Arc::clone(&findings) as _,
            };
            let options = ProxyOptions {
                workers: bootstrap.proxy.workers,
                cpu_pinning: false,
                access_log: access_log::open(&bootstrap.log.access, &bootstrap.data_dir, reopen)?,
                bind_vips: interfaces::bind_vips(&bootstrap.vip),
                ..ProxyOptions::default()
            };
            Some(Arc::new(Proxy::start(options, ports).context("cannot start the data plane")?))
        }
    };

    let sessions = match bootstrap.role {
        NodeRole::Witness => None,
        NodeRole::Full => {
            let (settings, driver) = (&bootstrap.sessions, bootstrap.vip.driver);
            let id = &identity.cluster_id;
            Some(NodeSessions::start(settings, driver, &view, &raft, &gates, &certificate, id)?)
        }
    };

    let lease_view: Arc<ArcSwapOption<LeaseView>> = Arc::default();
    let node = Arc::new(Node {
        raft: raft.clone(),
        view: Arc::clone(&view),
        leases: OnceLock::new(),
        keeper: OnceLock::new(),
        looked: AtomicU64::new(boot_now().get()),
        lease_view: Arc::clone(&lease_view),
        proxy: proxy.clone(),
        sessions,
        findings: Arc::clone(&findings),
        transitions: Arc::default(),
        hook_runs: Arc::default(),
        check: bootstrap.vip.check.as_ref().map(|_| VipCheck::default()),
        check_runs: Arc::default(),
        deliveries: Arc::default(),
        draining: AtomicBool::new(false),
        started: SystemTime::now(),
        data_dir: bootstrap.data_dir.clone(),
        certificate: Arc::clone(&certificate),
    });

    let (transitions, recorded) = mpsc::unbounded_channel();
    let (changes, told) = mpsc::unbounded_channel();
    let changes = bootstrap.vip.hook.as_ref().map(|_| changes);
    // Consensus may not run yet; this is what the log held when it was opened.
    let status = raft.status();
    let marks = Arc::new(LogMarks::new(LogFacts {
        applied: view.applied_index(),
        // The log tells in which term it ends as soon as marks are kept; until then nothing is past its end.
        last: EntryId { term: Term::new(u64::MAX), index: status.last_log },
        membership: status.membership,
    }));
    raft.keep_marks({
        let marks = Arc::clone(&marks);
        Arc::new(move |last, membership| marks.set_ends(last, membership))
    });
    let Drivers { driver, keeper, changed } =
        Drivers::start(&bootstrap.vip, identity.node, &bootstrap.data_dir, sole, proxy.clone())?;
    if let Some(keeper) = keeper {
        drop(node.keeper.set(keeper));
    }
    let leases = Arc::new(LeaseThread::start(
        ballast_vip::Options { node: identity.node, boot, socket: sockets.leases, real_time: true },
        Inputs {
            view: Arc::clone(&lease_view),
            marks: Arc::clone(&marks),
            gates,
            driver,
            // The receiver lives as long as the node; afterwards there is no history to write.
            events: Box::new(move |transition| {
                if let Some(changes) = &changes {
                    let _ = changes.send(transition);
                }
                let _ = transitions.send(transition);
            }),
        },
    )?);
    drop(confirmed.set(leases.confirmed_cell()));
    drop(node.leases.set(Arc::clone(&leases)));
    let last = {
        let raft = raft.clone();
        move |vip| raft.with_state(|state| leases::last_record(state, vip))
    };
    let history = leases::record(
        identity.node,
        raft.clone(),
        last,
        Arc::clone(&node.transitions),
        recorded,
        leases::Pace::default(),
    );
    let until = ending.clone();
    let history = async move {
        // What is not written yet when the node ends stays unwritten: the history has a gap.
        tokio::select! { () = history => {}, () = until.cancelled() => {} }
    };
    parts.spawn(named("history of VIPs", never_fails(history)));

    if let Some(hook) = bootstrap.vip.hook.clone() {
        let (raft, runs) = (raft.clone(), Arc::clone(&node.hook_runs));
        let describe = move |vip| raft.with_state(|state| describe_vip(state, vip));
        let telling = keep_telling(hook, bootstrap.name.clone(), describe, runs, told, ending.clone());
        parts.spawn(named("VIP hook", never_fails(telling)));
    }
    if let (Some(settings), Some(check)) = (bootstrap.vip.check.clone(), node.check.clone()) {
        let runs = Arc::clone(&node.check_runs);
        let checking = keep_checking(settings, bootstrap.name.clone(), check, runs, ending.clone());
        parts.spawn(named("check of this node", never_fails(checking)));
    }

    let posting = keep_posting(raft.clone(), secrets, Arc::clone(&node.deliveries), ending.clone());
    parts.spawn(named("webhooks", never_fails(posting)));

    let publisher = Publisher {
        node: Arc::clone(&node),
        leases: Arc::clone(&leases),
        lease_view,
        marks,
        changed,
        log_end: status.last_log,
        past: Leases::remembered(&bootstrap.data_dir),
    };
    parts.spawn(named("publisher", publisher.run(ending.clone())));
    let asking = bindings::keep_asking(Arc::clone(&view), raft.clone(), ending.clone());
    parts.spawn(named("confirmation of the state", never_fails(asking)));
    if proxy.is_some() {
        let checks = prober::run(
            Arc::clone(&view) as _,
            view.plan_changes(),
            Arc::new(raft.clone()),
            Arc::clone(&findings),
            leases.confirmed_cell(),
            ending.clone(),
        );
        let checks = async { checks.await.context("cannot start the thread of health checks") };
        parts.spawn(named("health checks", checks));
    }

    let services = admin(&identity, &node, &raft, &ending)?;
    // It begins with a node that is ready.
    services.health.tell(false).await;
    let draining = CancellationToken::new();
    let ready = {
        let node = Arc::clone(&node);
        move || node.not_ready().is_empty()
    };
    let telling = services.health.keep_telling(ready, draining.clone(), ending.clone());
    parts.spawn(named("health over gRPC", never_fails(telling)));
    let over_tls = serve_tls(
        services.routes.clone(),
        services.access.clone(),
        sockets.admin,
        identity.cluster_id.clone(),
        certificate.server(pki::admin_server)?,
        ending.clone(),
    );
    parts.spawn(named("admin API", async { over_tls.await.map_err(Into::into) }));
    let over_unix = serve_unix(services.routes.clone(), services.access.clone(), sockets.unix, ending.clone());
    parts.spawn(named("admin socket", async { over_unix.await.map_err(Into::into) }));
    if let Some(listener) = sockets.metrics {
        let status = Arc::new(Probes { node: Arc::clone(&node) });
        parts.spawn(named("probes and metrics", never_fails(endpoints::serve(listener, status, ending.clone()))));
    }
    let keeping = leadership::keep_away(raft.clone(), ending.clone());
    parts.spawn(named("leadership away from VIPs", never_fails(keeping)));
    let introduction = introduce(bootstrap.clone(), identity.node, raft.clone(), ending.clone());
    parts.spawn(named("introduction", never_fails(introduction)));
    let renewing = keep_renewed(Arc::clone(&certificate), raft.clone(), ending.clone());
    parts.spawn(named("renewal of this node's certificate", never_fails(renewing)));
    let (folder, key) = (bootstrap.data_dir.clone(), identity.cluster_key.clone());
    parts.spawn(named("check of cluster.key", check_cluster_key(folder, key, raft.clone(), ending.clone())));

    if let Some(genesis) = &identity.genesis {
        found(&member, &raft, genesis.clone()).await?;
        identity.genesis_done()?;
    }
    let telling = {
        let (supervisor, node, ending) = (Arc::clone(&supervisor), Arc::clone(&node), ending.clone());
        async move { supervisor.keep_telling(|| node.status_line(), || node.well(), ending).await }
    };
    parts.spawn(named("signs of life to the service manager", never_fails(telling)));
    if ballast_planted::is(Bug::EndsByItself) {
        parts.spawn(named("its end", end_by_itself()));
    }
    info!(node = %identity.node, name = bootstrap.name, "running");
    supervisor.ready();

    // Each arm is cancel-safe, and none is polled again: the node ends.
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        failure = member.failed() => Err(anyhow!(failure)),
        Some(ended) = parts.join_next() => Err(match ended {
            Ok((name, Ok(()))) => anyhow!("{name} ended although nobody asked it to"),
            Ok((name, Err(error))) => error.context(format!("{name} failed")),
            Err(error) => anyhow!(error).context("a part of the node panicked"),
        }),
    };
    match &outcome {
        Ok(()) => info!("draining"),
        Err(error) => error!(error = format!("{error:#}"), "the node cannot go on"),
    }
    supervisor.stopping();
    draining.cancel();
    drain(&node, &leases, outcome.is_ok()).await;
    ending.cancel();
    if timeout(STOP_MAX, member.shutdown()).await.is_err() {
        warn!("consensus did not end in time");
    }
    deaf.cancel();
    let ended = timeout(STOP_MAX, async { while parts.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        warn!("some parts of the node did not end in time");
    }
    drop(leases);
    if outcome.is_ok() {
        info!("stopped");
    }
    outcome
}

/// A part's result with its name.
async fn named<T>(name: &'static str, part: impl Future<Output = Result<T>>) -> (&'static str, Result<()>) {
    (name, part.await.map(|_| ()))
}

async fn never_fails(part: impl Future<Output = ()>) -> Result<()> {
    part.await;
    Ok(())
}

/// Ends the process as a planted bug does: when a cluster is up long since, and a minute of faults is not over.
async fn end_by_itself() -> Result<()> {
    sleep(Duration::from_secs(45)).await;
    std::process::exit(0)
}

fn describe_vip(state: &State, vip: VipId) -> Option<Described> {
    let (_, vip) = state.vips().find(|(id, _)| *id == vip)?;
    Some(Described { name: vip.name.clone(), addresses: vip.addresses.iter().map(|address| address.ip()).collect() })
}

/// Makes the cluster: one voter, and the first entry.
async fn found(member: &Member, raft: &Handle, genesis: Genesis) -> Result<()> {
    match member.found().await {
        Ok(()) | Err(ballast_raft::FoundError::AlreadyMember) => {}
        Err(error) => return Err(error).context("cannot make the cluster"),
    }
    let author =
        Author { name: format!("ballastd@{}", genesis.init.first_node.name), message: "ballastd init".to_owned() };
    let applied = raft.propose(Command::InitCluster(Box::new(genesis.init)), PROPOSE_DEADLINE).await;
    let began = match applied.map(|applied| applied.outcome) {
        Ok(Outcome::Done | Outcome::Enrolled { .. } | Outcome::Refused(Refusal::AlreadyInitialised)) => Ok(()),
        Ok(Outcome::Refused(refusal)) => Err(anyhow!(refusal).context("the cluster's beginning was refused")),
        Ok(other) => Err(anyhow!("the cluster's beginning was answered with {other:?}")),
        Err(error) => Err(error).context("cannot write the cluster's beginning; start the node again"),
    };
    began?;
    if let Some(user) = genesis.first_admin {
        let command = Command::IssueUser { user: Box::new(user), author };
        let recorded = raft.propose(command, PROPOSE_DEADLINE).await;
        recorded.context("cannot record the first administrator's certificate; start the node again")?;
    }
    Ok(())
}

/// Tells the cluster this node's addresses and labels if they differ from what the log says.
async fn introduce(bootstrap: Bootstrap, node: NodeId, raft: Handle, ending: CancellationToken) {
    let mut applied = raft.watch_applied();
    let bootstrap = Arc::new(bootstrap);
    loop {
        // Anew each time: an interface may have come back with another hardware address. The kernel may take seconds to say.
        let looked = spawn_blocking({
            let bootstrap = Arc::clone(&bootstrap);
            move || bootstrap.node_info(interfaces::mac)
        });
        let Ok(info) = looked.await else { break };
        let known = raft.with_state(|state| state.node(node).map(|known| known.info.clone()));
        // The role was given with the join token; a file cannot change it.
        let wanted = known.as_ref().map(|known| ballast_core::state::NodeInfo { role: known.role, ..info.clone() });
        if let (Some(known), Some(wanted)) = (known, wanted)
            && known != wanted
        {
            let command = Command::UpdateNode { node, info: wanted };
            match raft.propose(command, PROPOSE_DEADLINE).await {
                Ok(applied) => match applied.outcome {
                    Outcome::Refused(refusal) => {
                        error!(%refusal, "the cluster does not take this node's addresses and labels");
                        break;
                    }
                    _ => continue,
                },
                Err(error) => {
                    warn!(%error, "cannot tell the cluster this node's addresses and labels yet");
                    sleep(Duration::from_secs(1)).await;
                    continue;
                }
            }
        }
        // All arms are cancel-safe: the interfaces are looked at anew in any case.
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { break },
            () = sleep(LOOK_AT_INTERFACES) => {}
            () = ending.cancelled() => return,
        }
        // Looked at again when the node's own record may have changed, not with every binding.
        tokio::select! { () = sleep(Duration::from_secs(1)) => {}, () = ending.cancelled() => return }
    }
    ending.cancelled().await;
}

/// Fails once the state shows that the cluster key is another cluster's.
async fn check_cluster_key(folder: PathBuf, key: ClusterKey, raft: Handle, ending: CancellationToken) -> Result<()> {
    let mut applied = raft.watch_applied();
    while raft.with_state(|state| state.cluster().is_none()) {
        // Both arms are cancel-safe.
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { break },
            () = ending.cancelled() => return Ok(()),
        }
    }
    raft.with_state(|state| identity::check_cluster_key(&folder, &key, state))?;
    ending.cancelled().await;
    Ok(())
}

/// The admin services of this node.
fn admin(identity: &Identity, node: &Arc<Node>, raft: &Handle, ending: &CancellationToken) -> Result<Services> {
    let tls = node.certificate.client(pki::node_client)?;
    Ok(Services::new(Parts {
        propose: Arc::new(raft.clone()),
        read_index: Arc::new(raft.clone()),
        state: Arc::clone(node) as _,
        operations: Arc::clone(node) as _,
        reader: Arc::new(crate::reader::ProxyReader),
        peers: Arc::new(Peers::new(identity.cluster_id.clone(), tls)),
        cluster_key: identity.cluster_key.clone(),
        stop: ending.clone(),
    }))
}

/// Gives up what is held, in order.
async fn drain(node: &Node, leases: &ballast_vip::Handle, orderly: bool) {
    node.draining.store(true, Ordering::Relaxed);
    if !orderly {
        // Nothing is answered any more from a state that may be damaged.
        node.view.freshness.void();
    }
    leases.drain();
    let until = Instant::now() + if orderly { LEASE_DRAIN_MAX } else { FAILED_DRAIN_MAX };
    while !leases.drained() && leases.alive() && Instant::now() < until {
        sleep(Duration::from_millis(5)).await;
    }
    let plan = node.view.plan();
    let longest = plan.farms.iter().map(|farm| farm.timeouts.drain.duration()).max().unwrap_or(DRAIN_DEFAULT);
    let deadline = if orderly { longest } else { FAILED_DRAIN_MAX };
    let proxied = async {
        match &node.proxy {
            Some(proxy) => proxy.drain(deadline).await,
            None => 0,
        }
    };
    let sessions = async {
        match &node.sessions {
            Some(sessions) => sessions.drain(deadline).await,
            None => 0,
        }
    };
    let (proxied, sessions) = tokio::join!(proxied, sessions);
    if proxied + sessions > 0 {
        warn!(proxied, sessions, "connections were still open at the end of the drain");
    }
}

/// Keeps what others read of the state current: the lease view, the listeners.
struct Publisher {
    node: Arc<Node>,
    leases: Arc<ballast_vip::Handle>,
    lease_view: Arc<ArcSwapOption<LeaseView>>,
    marks: Arc<LogMarks>,
    /// What this node is fit for changed.
    changed: Arc<Notify>,
    /// Last entry that the log held when it was opened, as far as it was not overruled since.
    log_end: LogIndex,
    past: Leases,
}

/// How long a removed node goes on at most while it is needed for now. The leader takes its vote away at once if it
/// can, and may not tell it.
const FAREWELL_NANOS: u64 = 5_000_000_000;

/// How much the others need a node to go on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Not, or not any more.
    No,
    /// It votes, or leads them until it has told them that it does not.
    ForNow,
    /// It alone votes: nothing can be decided without it before another has its vote.
    Vital,
}

impl Need {
    fn of(status: &Status, node: NodeId) -> Self {
        let alone = status.voter_sets.iter().any(|set| set[..] == [node]);
        // Who follows while the vote is handed over may not be told how that ended.
        if alone && (status.voter_sets.len() == 1 || status.role == Role::Leader) {
            return Self::Vital;
        }
        let votes = status.voter_sets.iter().any(|set| set.contains(&node));
        let leads = status.role == Role::Leader && status.membership.index > status.committed;
        if votes || leads { Self::ForNow } else { Self::No }
    }
}

/// When a node that was removed has to end.
#[derive(Debug, Default)]
struct Removal {
    /// The log named this node.
    member: bool,
    since: Option<BootNanos>,
}

impl Removal {
    /// A removed node goes on while it is needed: without it there may be no majority that can take its vote away.
    fn is_over(&mut self, listed: bool, need: Need, now: BootNanos) -> bool {
        self.member |= listed;
        if listed || !self.member || need == Need::Vital {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        need == Need::No || now.since(since) >= FAREWELL_NANOS
    }
}

impl Publisher {
    /// Runs until `ending`.
    ///
    /// # Errors
    /// When a part of the node has ended.
    async fn run(mut self, ending: CancellationToken) -> Result<()> {
        let mut plans = self.node.view.plan_changes();
        let mut applied = self.node.view.applied_changes();
        let mut status = self.node.raft.watch_status();
        let mut told = Told::default();
        let mut seen_generation = 0;
        let mut removal = Removal::default();
        loop {
            let me = self.node.view.node();
            let listed = self.node.raft.with_state(|state| state.node(me).is_some());
            let need = Need::of(&status.borrow(), me);
            if removal.is_over(listed, need, boot_now()) {
                self.node.raft.removed();
            }
            if !self.leases.alive() {
                bail!("the lease thread ended; this is a bug, start the node again and report it with its log");
            }
            if self.node.keeper.get().is_some_and(|keeper| !keeper.alive()) {
                bail!(
                    "the thread that keeps VIPs in place ended; this is a bug, start the node again and report it with its log"
                );
            }
            let now = boot_now();
            self.marks.looked(now);
            self.node.looked.store(now.get(), Ordering::Relaxed);
            let reached = self.node.view.applied_index();
            self.log_end = self.log_end.min(self.marks.get().last.index);
            self.node.view.settling.applied(reached, boot_now(), self.node.view.settle());
            if let Some(round) = self.leases.confirmed() {
                self.node.view.freshness.confirm(round.asked_at, round.index, self.node.view.applied_index());
            }

            if self.node.view.is_behind() {
                self.node.raft.with_state(|state| self.node.view.keep_plan(state, boot_now()));
            }
            let generation = self.node.view.generation();
            if generation != seen_generation {
                seen_generation = generation;
                self.node.raft.with_state(|state| self.past.learn(state, boot_now()));
                if let Some(proxy) = &self.node.proxy {
                    proxy.plan_changed();
                }
            }
            self.past.note();
            // Not while the log is still carried out again: events would be told twice, and who is content with what this
            // node has would find keys that have ended long ago.
            if let Some(sessions) = &self.node.sessions
                && reached >= self.log_end
            {
                sessions.follow(&self.node.raft);
            }
            let fitness = OwnFitness { node: self.node.fitness(), vips: self.node.vip_fitness() };
            let membership = {
                let status = status.borrow_and_update();
                Membership {
                    entry: status.membership,
                    voters: status.voter_sets.iter().map(|set| set.iter().copied().collect()).collect(),
                    // Read after the other: of a log that has a newer membership by now it tells more, which is to apply more.
                    before: self.node.raft.membership_before(status.membership),
                }
            };
            let configured = self.node.raft.with_state(leases::configured);
            let lengths = self.past.lengths(configured, self.node.raft.synced_index(), boot_now());
            // A grantor that has just started must know the longest lease it may have granted under before: it takes
            // part once it has applied all that its log held when it was opened.
            if reached >= self.log_end {
                let news = |state: &State| told.news(state, membership, fitness, lengths, boot_now());
                if let Some(view) = self.node.raft.with_state(news) {
                    self.lease_view.store(Some(view));
                    self.leases.wake();
                }
            }
            // Only now: who knows that this has been applied finds a view that is no older, but for records of changes of
            // hands, which follow.
            self.marks.set_applied(reached);
            // All arms are cancel-safe: a change that is not taken now is seen in the next round.
            tokio::select! {
                _ = plans.changed() => {}
                _ = applied.changed() => {}
                _ = status.changed() => {}
                () = self.changed.notified() => {}
                () = sleep(LOOK) => {}
                () = ending.cancelled() => return Ok(()),
            }
        }
    }
}

struct Probes {
    node: Arc<Node>,
}

impl endpoints::Status for Probes {
    fn live(&self) -> Result<(), String> {
        if self.node.raft.runs() { Ok(()) } else { Err("the member of the cluster stopped".to_owned()) }
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let reasons = self.node.not_ready();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn metrics(&self) -> String {
        metrics::page(&self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(role: Role, voter_sets: &[&[u64]]) -> Need {
        let set = |ids: &&[u64]| ids.iter().copied().map(NodeId::new).collect::<Vec<_>>();
        let status = Status { role, voter_sets: voter_sets.iter().map(set).collect(), ..Status::default() };
        Need::of(&status, NodeId::new(1))
    }

    #[test]
    fn a_node_without_which_nothing_can_be_decided_is_known() {
        for role in [Role::Starting, Role::Candidate, Role::Leader] {
            assert_eq!(need(role, &[&[1]]), Need::Vital);
        }
        assert_eq!(need(Role::Leader, &[&[1], &[2]]), Need::Vital, "it hands its vote over");
        assert_eq!(need(Role::Follower, &[&[1], &[2]]), Need::ForNow, "the other may have it by now");
        assert_eq!(need(Role::Leader, &[&[1, 2]]), Need::ForNow);
        assert_eq!(need(Role::Follower, &[&[2]]), Need::No);
        assert_eq!(need(Role::Learner, &[]), Need::No);
    }

    #[test]
    fn a_removed_node_that_alone_votes_goes_on_until_another_does() {
        let mut removal = Removal::default();
        let at = |farewells: u64| BootNanos::new(farewells * FAREWELL_NANOS);
        assert!(!removal.is_over(true, Need::Vital, at(1)));
        for farewells in 2..5 {
            assert!(!removal.is_over(false, Need::Vital, at(farewells)));
        }
        assert!(!removal.is_over(false, Need::ForNow, at(5)));
        assert!(removal.is_over(false, Need::No, at(5)));
        assert!(removal.is_over(false, Need::ForNow, at(6)));
    }
}
