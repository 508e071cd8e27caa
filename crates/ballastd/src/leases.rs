//! What the lease thread is told of the agreed state, and what the log is told of it.
//!
//! The lease thread reads one immutable view. It is made anew whenever the plan, the records of changes of hands, the
//! voters or this node's fitness change, and told if it differs: the thread takes in a view as a whole. Gains and losses
//! go to the log afterwards, as history: nothing waits for that.
//!
//! Not here: the protocol (`ballast_core::lease`), the thread (`ballast-vip`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ballast_core::{
    cluster::Propose,
    config::{Document, Farm, Timeouts},
    ids::{EntryId, LogIndex, NodeId, VipId},
    lease::{
        Change, Epoch, Fitness, LeaseKeys, LeaseMember, LeaseView, LeaseVip, LeaseWish, Timing, Transition, VoterSets,
    },
    state::{Command, Node, NodeAdmin, NodeRole, State, Tenure},
    time::BootNanos,
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};
use tracing::{info, warn};

use crate::past_leases::Lengths;

/// How the history is written.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a change of hands may wait to get into the history before the next one has its turn.
    pub deadline: Duration,
    /// How often it is looked whether the history says that this node holds what it holds. What it says otherwise was lost
    /// while there was no leader, which is rare.
    pub again: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30), again: Duration::from_secs(5) }
    }
}

const NANOS_PER_MILLI: u64 = 1_000_000;

/// Raft's membership as the lease protocol needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The newest membership entry in this node's log.
    pub entry: EntryId,
    /// Its voter sets: two while it is joint.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// The membership entry before it, which was committed before anybody proposed this one.
    pub before: LogIndex,
}

/// What this node knows of its own fitness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnFitness {
    /// For all VIPs.
    pub node: Fitness,
    /// For single VIPs, beside that; a VIP that is missing is fit.
    pub vips: BTreeMap<VipId, Fitness>,
}

/// Records of changes of hands come one by one when a node gains or loses many VIPs, and nothing waits for them: so many
/// nanoseconds of them are told together. Arbitrary; a node is away for longer before it can be back.
const RECORDS_NANOS: u64 = 50_000_000;

/// What the view is made from, beside records of changes of hands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sources {
    orders_version: u64,
    membership: Membership,
    fitness: OwnFitness,
    lengths: Lengths,
    catching_up: bool,
    keys: Option<LeaseKeys>,
}

/// The view that the lease thread was told last, and what it was made from.
#[derive(Debug, Default)]
pub struct Told {
    from: Option<(Sources, u64)>,
    made_at: BootNanos,
    view: Option<Arc<LeaseView>>,
}

impl Told {
    /// The view to tell next, if there is news in it; `lengths` is what [`crate::past_leases`] says.
    pub fn news(
        &mut self,
        state: &State,
        membership: Membership,
        fitness: OwnFitness,
        lengths: Lengths,
        now: BootNanos,
    ) -> Option<Arc<LeaseView>> {
        let keys = state.cluster().map(|cluster| cluster.lease_keys(state.log_time()));
        let catching_up = state.applied() < membership.before;
        let from = Sources { orders_version: state.orders_version(), membership, fitness, lengths, catching_up, keys };
        let version = state.lease_version();
        if let Some((before, seen)) = &self.from
            && *before == from
            && (*seen == version || now.since(self.made_at) < RECORDS_NANOS)
        {
            return None;
        }
        let view = lease_view(state, &from.membership, &from.fitness, lengths);
        self.from = Some((from, version));
        self.made_at = now;
        // Much of what plans are compiled for is nothing to the leases.
        let view = view.filter(|view| self.view.as_deref() != Some(view)).map(Arc::new)?;
        self.view = Some(Arc::clone(&view));
        Some(view)
    }
}

/// The lease that the document asks for, in milliseconds.
pub fn configured(state: &State) -> u64 {
    state.document().map_or(200, |document| document.cluster.lease.as_millis())
}

/// Makes the view from the state; `lengths` is what [`crate::past_leases`] says. `None` while there is no cluster yet.
pub fn lease_view(state: &State, membership: &Membership, fitness: &OwnFitness, lengths: Lengths) -> Option<LeaseView> {
    let cluster = state.cluster()?;
    let configured = configured(state);
    let nodes: Vec<_> = state
        .nodes()
        .filter_map(|node| {
            let address = node.info.cluster_address.parse().ok()?;
            let candidate = node.info.role == NodeRole::Full && node.admin != NodeAdmin::Drain;
            Some(LeaseMember { id: node.id, address, candidate, weight: node.info.vip.weight })
        })
        .collect();
    let by_name = |name: &String| state.node_named(name).map(|node| node.id);
    let ids: BTreeMap<&str, VipId> = state.vips().map(|(id, vip)| (vip.name.as_str(), id)).collect();
    let vips = state
        .vips()
        .map(|(id, vip)| {
            let last = state.tenures(id).next();
            LeaseVip {
                id,
                name: vip.name.clone(),
                addresses: vip.addresses.clone(),
                prefer: vip.prefer.iter().filter_map(by_name).collect(),
                failback: vip.failback,
                failback_delay: vip.failback_delay.as_millis() * 1_000_000,
                group: vip.group.clone(),
                apart_from: vip.apart_from.iter().filter_map(|name| ids.get(name.as_str()).copied()).collect(),
                only: (!vip.nodes.is_empty()).then(|| {
                    let carries = |node: &&Node| node.info.carries(&vip.nodes);
                    state.nodes().filter(carries).map(|node| node.id).collect()
                }),
                fitness: fitness.vips.get(&id).copied().unwrap_or_default(),
                wish: wish(state, id),
                macs: state.nodes().filter_map(|node| Some((node.id, node.info.vip.mac_for(&vip.name)?))).collect(),
                finish: finish(state.document().map(|document| &**document), &vip.name),
                recorded_owner: last.and_then(|tenure| tenure.owner),
                recorded_epoch: last.map_or(Epoch::default(), |tenure| Epoch::new(tenure.epoch)),
            }
        })
        .collect();
    Some(LeaseView {
        cluster: cluster.id.clone(),
        keys: cluster.lease_keys(state.log_time()),
        membership: membership.entry,
        voters: VoterSets::new(membership.voters.iter().map(|set| set.iter().copied())),
        nodes,
        vips,
        timing: Timing::takeover_within(lengths.asked.min(configured) * NANOS_PER_MILLI),
        longest: Timing::at_most(lengths.longest.max(configured) * NANOS_PER_MILLI),
        catching_up: state.applied() < membership.before,
        granted: Timing::at_most(lengths.granted * NANOS_PER_MILLI),
        fitness: fitness.node,
    })
}

/// Where an operator wants the VIP, and whether the history says that it was there since, or was there already.
fn wish(state: &State, vip: VipId) -> Option<LeaseWish> {
    let wish = state.vip_wish(vip)?;
    let mut before = false;
    let counts = |tenure: &&Tenure| !std::mem::replace(&mut before, tenure.index < wish.index);
    let fulfilled = state.tenures(vip).take_while(counts).any(|tenure| tenure.owner == Some(wish.node));
    Some(LeaseWish { node: wish.node, fulfilled })
}

/// The longest that what is on the VIP drains, in nanoseconds: its farms, and the session store.
fn finish(document: Option<&Document>, vip: &str) -> u64 {
    let Some(document) = document else { return 0 };
    let on_it = |farm: &&Farm| farm.listeners.iter().any(|listener| listener.vip.as_deref() == Some(vip));
    let farms = document.farms.iter().filter(on_it).map(|farm| farm.timeouts.drain.as_millis());
    let store = document.sessions.iter().flat_map(|sessions| &sessions.vips).filter(|on| on.vip == vip);
    let longest = farms.chain(store.map(|_| Timeouts::default().drain.as_millis())).max();
    longest.map_or(0, |millis| millis * NANOS_PER_MILLI)
}

/// How often this node gained or lost each VIP, by cause.
#[derive(Debug, Default)]
pub struct TransitionCounts(Mutex<BTreeMap<(VipId, &'static str), u64>>);

impl TransitionCounts {
    fn count(&self, vip: VipId, cause: &'static str) {
        *self.0.lock().entry((vip, cause)).or_default() += 1;
    }

    /// All that was counted.
    pub fn all(&self) -> Vec<(VipId, &'static str, u64)> {
        self.0.lock().iter().map(|((vip, cause), count)| (*vip, *cause, *count)).collect()
    }
}

/// The last that the history says of a VIP: the owner and the epoch. `None` if there is no such VIP.
pub fn last_record(state: &State, vip: VipId) -> Option<(Option<NodeId>, Epoch)> {
    state.vips().find(|(id, _)| *id == vip)?;
    let last = state.tenures(vip).next();
    Some(last.map_or((None, Epoch::default()), |last| (last.owner, Epoch::new(last.epoch))))
}

/// Counts gains and losses, tells them, and writes them into the history one after the other, for as long as the channel is
/// open. What is held goes on to be written until `last` of the VIP says so; of a loss that could not be written there is a
/// gap.
pub async fn record(
    node: NodeId,
    cluster: impl Propose,
    last: impl Fn(VipId) -> Option<(Option<NodeId>, Epoch)> + Send + Sync + 'static,
    counts: Arc<TransitionCounts>,
    transitions: mpsc::UnboundedReceiver<Transition>,
    pace: Pace,
) {
    let (forward, told) = mpsc::unbounded_channel();
    // Writing waits for a leader, and telling does not: the node that is cut off is the one that is looked into.
    tokio::join!(tell(&counts, transitions, forward), write(node, cluster, last, told, pace));
}

/// Counts and logs what happened as it happens, and passes it on.
async fn tell(
    counts: &TransitionCounts,
    mut transitions: mpsc::UnboundedReceiver<Transition>,
    forward: mpsc::UnboundedSender<Transition>,
) {
    while let Some(transition) = transitions.recv().await {
        let (held, name, cause) = said(transition.change);
        counts.count(transition.vip, name);
        info!(vip = %transition.vip, epoch = transition.epoch.get(), held, %cause, "VIP changed hands");
        // It is read for as long as this half runs.
        let _ = forward.send(transition);
    }
}

/// Whether the VIP is held now, and why in a word and in a sentence.
fn said(change: Change) -> (bool, &'static str, String) {
    match change {
        Change::Gained(cause) => (true, cause.name(), cause.to_string()),
        Change::Lost(cause) => (false, cause.name(), cause.to_string()),
    }
}

/// Writes what happened into the history.
async fn write(
    node: NodeId,
    cluster: impl Propose,
    last: impl Fn(VipId) -> Option<(Option<NodeId>, Epoch)> + Send + Sync + 'static,
    mut transitions: mpsc::UnboundedReceiver<Transition>,
    pace: Pace,
) {
    let write = async |vip: VipId, owner: Option<NodeId>, epoch: Epoch, cause: String| {
        let command = Command::RecordVip { vip, owner, epoch: epoch.get(), cause };
        let written = cluster.propose(command, pace.deadline).await;
        if let Err(error) = &written {
            // Who owns what does not depend on it.
            warn!(%vip, epoch = epoch.get(), %error, "a change of hands did not get into the history yet");
        }
        written.is_ok()
    };
    let mut held: BTreeMap<VipId, (Epoch, String)> = BTreeMap::new();
    loop {
        // Cancel-safe: what is not received stays in the channel. Only when that is empty is it known what is held.
        match timeout(pace.again, transitions.recv()).await {
            Ok(None) => return,
            Ok(Some(Transition { vip, epoch, change, .. })) => {
                let (held_now, _, cause) = said(change);
                let owner = held_now.then_some(node);
                match owner {
                    Some(_) => held.insert(vip, (epoch, cause.clone())),
                    None => held.remove(&vip),
                };
                write(vip, owner, epoch, cause).await;
            }
            Err(_) => {
                for (vip, (epoch, cause)) in &held {
                    // A later owner's record stands.
                    let said = last(*vip).filter(|(_, recorded)| recorded <= epoch);
                    let missing = said.is_some_and(|said| said != (Some(node), *epoch));
                    // What was lost meanwhile is heard of first.
                    if missing && (!transitions.is_empty() || !write(*vip, Some(node), *epoch, cause.clone()).await) {
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::{
        cluster::{Applied, BoxFuture, ProposeError},
        lease::{GainCause, LossCause, Unrenewed},
        plan::Verdict,
        state::{Author, Outcome},
    };

    use super::*;
    use crate::fixture::{START, founded, pass};

    /// A log that takes what it is given while it has a leader.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Records>>);

    #[derive(Default)]
    struct Records {
        has_leader: bool,
        refused: usize,
        all: Vec<(VipId, Option<NodeId>, Epoch)>,
    }

    impl Log {
        fn last(&self, vip: VipId) -> Option<(Option<NodeId>, Epoch)> {
            let of = |(_, owner, epoch): &(VipId, Option<NodeId>, Epoch)| (*owner, *epoch);
            Some(self.0.lock().all.iter().rev().find(|(of, ..)| *of == vip).map_or((None, Epoch::default()), of))
        }
    }

    impl Propose for Log {
        fn propose(&self, command: Command, deadline: Duration) -> BoxFuture<'static, Result<Applied, ProposeError>> {
            let Command::RecordVip { vip, owner, epoch, .. } = command else { panic!("{command:?}") };
            let log = self.clone();
            Box::pin(async move {
                if !log.0.lock().has_leader {
                    tokio::time::sleep(deadline).await;
                    log.0.lock().refused += 1;
                    return Err(ProposeError::NoQuorum { detail: "no leader".to_owned() });
                }
                log.0.lock().all.push((vip, owner, Epoch::new(epoch)));
                Ok(Applied { index: LogIndex::new(1), outcome: Outcome::Done })
            })
        }
    }

    /// Waits until the log is as wanted.
    async fn see(log: &Log, wanted: impl Fn(&Records) -> bool) {
        let seen = async {
            while !wanted(&log.0.lock()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), seen).await.expect("seen in time");
    }

    #[tokio::test]
    async fn what_is_held_gets_into_the_history_once_there_is_a_leader() {
        let (me, web, mail) = (NodeId::new(1), VipId::new(1), VipId::new(2));
        let (log, counts) = (Log::default(), Arc::<TransitionCounts>::default());
        let (tell, told) = mpsc::unbounded_channel();
        let last = {
            let log = log.clone();
            move |vip| log.last(vip)
        };
        let pace = Pace { deadline: Duration::from_millis(2), again: Duration::from_millis(5) };
        let recording = tokio::spawn(record(me, log.clone(), last, Arc::clone(&counts), told, pace));
        let report = |vip, epoch, change| {
            let transition = Transition { vip, epoch: Epoch::new(epoch), at: BootNanos::default(), change };
            tell.send(transition).expect("it listens");
        };
        report(web, 5, Change::Gained(GainCause::Vacant));
        report(mail, 6, Change::Gained(GainCause::Vacant));
        report(mail, 6, Change::Lost(LossCause::NotRenewed(Unrenewed::Unanswered)));
        see(&log, |records| records.refused > 5).await;
        log.0.lock().has_leader = true;
        see(&log, |records| !records.all.is_empty()).await;
        report(mail, 7, Change::Gained(GainCause::Vacant));
        see(&log, |records| records.all.last() == Some(&(mail, Some(me), Epoch::new(7)))).await;
        assert_eq!(log.0.lock().all.len(), 2, "once, and not what was held no more");
        // Another node had it since: its record stands.
        log.0.lock().all.push((web, Some(NodeId::new(2)), Epoch::new(9)));
        tokio::time::sleep(4 * pace.again).await;
        report(web, 10, Change::Gained(GainCause::Vacant));
        see(&log, |records| records.all.len() == 4).await;
        assert_eq!(log.last(web), Some((Some(me), Epoch::new(10))));
        assert_eq!(counts.all().iter().map(|(.., count)| count).sum::<u64>(), 5);
        drop(tell);
        recording.await.expect("it ends with the channel");
    }

    #[tokio::test]
    async fn what_a_node_without_a_leader_loses_is_told_at_once() {
        let (log, counts) = (Log::default(), Arc::<TransitionCounts>::default());
        let (tell, told) = mpsc::unbounded_channel();
        let pace = Pace { deadline: Duration::from_secs(3600), again: Duration::from_secs(3600) };
        let last = |_| None;
        let recording = tokio::spawn(record(NodeId::new(1), log.clone(), last, Arc::clone(&counts), told, pace));
        for vip in 1..=3 {
            let (epoch, change) = (Epoch::new(5), Change::Lost(LossCause::NotRenewed(Unrenewed::Unanswered)));
            let transition = Transition { vip: VipId::new(vip), epoch, at: BootNanos::default(), change };
            tell.send(transition).expect("it listens");
        }
        see(&log, |_| counts.all().len() == 3).await;
        assert_eq!(counts.all().iter().map(|(.., count)| count).sum::<u64>(), 3);
        assert_eq!(log.0.lock().refused, 0, "none of it waited for the log");
        recording.abort();
    }

    #[test]
    fn a_record_is_told_with_those_beside_it_and_a_verdict_is_not() {
        let mut state = founded(
            r#"{"version":1,"vips":[{"name":"a","addresses":["127.0.0.10"]}],"farms":[{"name":"f",
            "listeners":[{"name":"http","vip":"a","port":8080}],"services":[{"name":"s","health":{},
            "backends":[{"name":"b","address":"127.0.0.1:9000"}]}]}]}"#,
        );
        let (me, vip) = (NodeId::new(1), state.vip_id("a").expect("configured"));
        let mut told = Told::default();
        let mut news = |state: &State, millis: u64| {
            let (entry, before) = (EntryId::default(), LogIndex::default());
            let membership = Membership { entry, voters: vec![[me].into()], before };
            let lengths = Lengths { asked: 200, longest: 200, granted: 200 };
            told.news(state, membership, OwnFitness::default(), lengths, BootNanos::new(millis * NANOS_PER_MILLI))
        };
        let wish = |view: &LeaseView| view.vips[0].wish;
        assert_eq!(wish(&news(&state, 1000).expect("the first")), None);
        assert_eq!(news(&state, 9000), None);
        let wanted = Command::MoveVip { vip, to: Some(me), author: Author::default(), expect: None };
        pass(&mut state, START.plus_millis(1), wanted);
        let fulfilled = |fulfilled| Some(LeaseWish { node: me, fulfilled });
        assert_eq!(wish(&news(&state, 9001).expect("a wish is told at once")), fulfilled(false));
        // It comes there, which nothing else tells of.
        for (epoch, owner) in [(1, Some(me)), (2, None), (3, Some(me))] {
            let record = Command::RecordVip { vip, owner, epoch, cause: String::new() };
            pass(&mut state, START.plus_millis(2), record);
            assert_eq!(news(&state, 9050), None, "records wait for each other");
        }
        let view = news(&state, 9051).expect("they are told");
        let one = &view.vips[0];
        assert_eq!((one.wish, one.recorded_owner, one.recorded_epoch), (fulfilled(true), Some(me), Epoch::new(3)));
        assert_eq!(news(&state, 19_000), None);
        // A verdict changes the plan, and nothing that leases are about.
        let backend = state.backend_id("f/s/b").expect("configured");
        let plan_version = state.plan_version();
        let down = Command::ReportHealth { node: me, backend, verdict: Verdict::Down, detail: String::new() };
        pass(&mut state, START.plus_millis(3), down);
        assert!(state.plan_version() > plan_version, "the verdict fell");
        assert_eq!(news(&state, 29_000), None);
        assert_eq!(told.view.as_ref(), Some(&view));
    }

    fn view(state: &State, fitness: &OwnFitness) -> LeaseView {
        let (entry, before) = (EntryId::default(), LogIndex::default());
        let membership = Membership { entry, voters: vec![[NodeId::new(1)].into()], before };
        lease_view(state, &membership, fitness, Lengths { asked: 200, longest: 200, granted: 200 })
            .expect("there is a cluster")
    }

    #[test]
    fn a_node_catches_up_until_it_has_applied_what_was_agreed_before_its_voters_were() {
        let mut state = founded(r#"{"version":1}"#);
        let mut told = Told::default();
        let before = LogIndex::new(state.applied().get() + 1);
        let mut news = |state: &State| {
            let membership = Membership { entry: EntryId::default(), voters: vec![[NodeId::new(1)].into()], before };
            let lengths = Lengths { asked: 200, longest: 200, granted: 200 };
            told.news(state, membership, OwnFitness::default(), lengths, BootNanos::default())
        };
        assert!(news(&state).expect("the first").catching_up);
        pass(&mut state, START.plus_millis(1), Command::Tick);
        assert!(!news(&state).expect("told at once, though nothing else has changed").catching_up);
    }

    #[test]
    fn the_view_has_what_the_document_says_of_places() {
        let mut state = founded(
            r#"{"version":1,"vips":[
            {"name":"a","addresses":["10.0.0.1/24"],"group":"web","failback_delay":"2s","nodes":{"zone":"dmz"}},
            {"name":"b","addresses":["10.0.0.2"],"group":"web","failback_delay":"2s"},
            {"name":"c","addresses":["10.0.0.3"],"apart_from":["b"]}],
            "sessions":{"vips":[{"vip":"c","port":6379}]}}"#,
        );
        let [a, b, c] = ["a", "b", "c"].map(|name| state.vip_id(name).expect("configured"));
        let mut info = state.node(NodeId::new(1)).expect("it founded").info.clone();
        info.cluster_address = "127.0.0.1:7400".to_owned();
        pass(&mut state, START.plus_millis(1), Command::UpdateNode { node: NodeId::new(1), info: info.clone() });
        let trouble = Fitness::Reluctant(ballast_core::lease::Unfitness::ListenerFailed);
        let fitness = OwnFitness { vips: [(b, trouble)].into(), ..OwnFitness::default() };
        let seen = view(&state, &fitness);
        assert_eq!(seen.vips[0].only, Some(BTreeSet::new()), "no node has the label");
        assert_eq!((seen.vips[1].only.as_ref(), seen.vips[1].fitness), (None, trouble));
        assert_eq!((seen.vips[0].failback_delay, seen.vips[0].group.as_deref()), (2_000_000_000, Some("web")));
        assert_eq!((seen.vips[2].failback_delay, seen.vips[2].apart_from.as_slice()), (30_000_000_000, &[b][..]));
        assert_eq!(seen.vips.iter().map(|vip| vip.finish).collect::<Vec<_>>(), [0, 0, 30_000_000_000]);
        assert_eq!(seen.vips[0].addresses[0].prefix_len(), 24);
        let own = seen.fitness_of(NodeId::new(1));
        assert!(matches!(own[&a], Fitness::Unfit(_)) && own[&b] == trouble && own[&c] == Fitness::Fit);
        // The node tells of a label and a weight, and an operator moves one of the group.
        info.labels.insert("zone".to_owned(), "dmz".to_owned());
        info.vip.weight = 7;
        pass(&mut state, START.plus_millis(2), Command::UpdateNode { node: NodeId::new(1), info });
        let (to, author) = (Some(NodeId::new(1)), Author::default);
        let moves = || Command::MoveVip { vip: b, to, author: author(), expect: None };
        pass(&mut state, START.plus_millis(3), moves());
        let seen = view(&state, &fitness);
        assert_eq!(seen.vips[0].only, Some([NodeId::new(1)].into()));
        assert_eq!(seen.nodes[0].weight, 7);
        let wishes = |state: &State| view(state, &fitness).vips.iter().map(|vip| vip.wish).collect::<Vec<_>>();
        let wish = |fulfilled| Some(LeaseWish { node: NodeId::new(1), fulfilled });
        assert_eq!(wishes(&state), [wish(false), wish(false), None]);
        // One of them comes there, and is lost again.
        for (epoch, owner) in [(1, Some(NodeId::new(1))), (2, None), (3, Some(NodeId::new(2)))] {
            let record = Command::RecordVip { vip: a, owner, epoch, cause: String::new() };
            pass(&mut state, START.plus_millis(4), record);
            assert_eq!(wishes(&state), [wish(true), wish(false), None]);
        }
        // What is wished anew is to happen anew; unless it is so already.
        pass(&mut state, START.plus_millis(5), moves());
        assert_eq!(wishes(&state), [wish(false), wish(false), None]);
        let record = Command::RecordVip { vip: b, owner: Some(NodeId::new(1)), epoch: 4, cause: String::new() };
        pass(&mut state, START.plus_millis(6), record);
        pass(&mut state, START.plus_millis(7), moves());
        assert_eq!(wishes(&state), [wish(false), wish(true), None]);
    }
}
