//! What is done to a cluster by people: it is founded, changed while things break, and asked at the end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ballast_core::{
    cluster::{Applied, Propose, ReadIndex},
    ids::NodeId,
    session::{Call, Write},
    state::{Author, Command, InitCluster, NodeAdmin, NodeInfo, NodeRole, Outcome},
    time::LogTime,
};
use ballast_jepsen::durability::FinalRead;
use ballast_raft::Handle;
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    clock,
    node::address,
    random::Random,
    site::{Condition, Order, Phase, Site, host},
    trace::happened,
    workload::{self, Crowd, Records},
};

/// Longest that founding may take.
const FOUNDING_MAX: Duration = Duration::from_secs(60);
/// How soon a write must succeed again after everything is healed.
pub const BACK_WITHIN: Duration = Duration::from_secs(8);
/// How soon every node must have taken a write and applied what the others have.
pub const EQUAL_WITHIN: Duration = Duration::from_secs(40);
/// Patience of operators.
const PATIENCE: Duration = Duration::from_secs(3);
/// Patience of readers.
const READ_PATIENCE: Duration = Duration::from_millis(200);

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// Nodes at the beginning.
    pub nodes: usize,
    /// Voters wanted.
    pub voters: usize,
    /// Clients.
    pub crowd: Crowd,
}

/// What was found when everything was healed.
#[derive(Debug, Default)]
pub struct Finale {
    /// After how long a write succeeded anywhere.
    pub back_after: Option<Duration>,
    /// After how long all nodes had taken a write and were equal.
    pub equal_after: Option<Duration>,
    /// What each node had.
    pub reads: Vec<FinalRead>,
}

/// The whole play, from a first node to the last question.
///
/// # Errors
/// When the cluster cannot be founded, which nothing hinders.
pub async fn play(
    site: Arc<Site>,
    records: Arc<Records>,
    cast: Cast,
    mut random: Random,
    finale: Arc<Mutex<Finale>>,
) -> turmoil::Result {
    timeout(FOUNDING_MAX, found(&site, &records, cast)).await.map_err(|_| "the cluster was not founded")??;
    site.enter(Phase::Broken);
    let clients = workload::start(&site, &records, cast.crowd, &mut random);
    let operator = tokio::spawn(operate(Arc::clone(&site), random.fork()));
    while site.phase() == Phase::Broken {
        sleep(Duration::from_millis(5)).await;
    }
    let healed = Instant::now();
    for client in clients {
        client.await?;
    }
    operator.await?;
    let readers = tokio::spawn(read_everywhere(Arc::clone(&site)));
    let back = timeout(BACK_WITHIN, write_anywhere(&site)).await.is_ok();
    if back {
        finale.lock().back_after = Some(healed.elapsed());
    }
    readers.abort();
    if timeout(EQUAL_WITHIN, come_together(&site)).await.is_ok() {
        finale.lock().equal_after = Some(healed.elapsed());
    }
    let members: Vec<NodeId> = site
        .leader()
        .map(|(_, leader)| leader.with_state(|state| state.nodes().map(|node| node.id).collect()))
        .unwrap_or_default();
    // A node that was removed and does not know it yet has only what it had.
    let asked = site.running().into_iter().filter(|(_, handle)| members.contains(&handle.node()));
    let reads =
        asked.map(|(number, handle)| FinalRead { node: host(number), elements: handle.with_state(workload::elements) });
    finale.lock().reads = reads.collect();
    Ok(())
}

/// Reads at every node without a pause: people do not stop because nobody can write, and reads must not be what hinders it.
async fn read_everywhere(site: Arc<Site>) {
    loop {
        let nodes = site.running();
        // Only that they are asked matters.
        join_all(nodes.iter().map(|(_, handle)| handle.confirm(READ_PATIENCE))).await;
        sleep(Duration::from_millis(2)).await;
    }
}

async fn found(site: &Arc<Site>, records: &Records, cast: Cast) -> turmoil::Result {
    site.add(NodeId::new(1));
    let init = Command::InitCluster(Box::new(InitCluster {
        cluster_id: "sim".to_owned(),
        ca_certificate: "none".to_owned(),
        ca_key_sealed: vec![1],
        first_node: info(0),
        first_node_key_fingerprint: [0; 32],
        table_secret: [7; 16].into(),
        cookie_secret: [8; 32].into(),
        lease_secret: [9; 32].into(),
    }));
    while propose(site, init.clone()).await.is_none() {
        sleep(Duration::from_millis(50)).await;
    }
    workload::apply_first(site, records, cast.voters).await;
    for _ in 1..cast.nodes {
        while join(site).await.is_none() {
            sleep(Duration::from_millis(50)).await;
        }
    }
    loop {
        let voters = site.running().first().map_or(0, |(_, handle)| handle.status().voters.len());
        if site.running().len() == cast.nodes && voters == cast.voters.min(cast.nodes) {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn info(number: usize) -> NodeInfo {
    NodeInfo { name: host(number), cluster_address: address(number), ..NodeInfo::default() }
}

fn author() -> Author {
    Author { name: "operator".to_owned(), message: String::new() }
}

/// Proposes to the leader if it is known, else to anybody.
async fn propose(site: &Site, command: Command) -> Option<Applied> {
    let handle = site.leader().or_else(|| site.running().into_iter().next())?.1;
    match handle.propose(command, PATIENCE).await {
        Ok(applied) => Some(applied),
        Err(error) => {
            happened!("operator: {error}");
            None
        }
    }
}

/// Lets one more node join.
async fn join(site: &Arc<Site>) -> Option<usize> {
    if !site.has_room() {
        return None;
    }
    let number = site.lock().seats.len();
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&site.draw().to_le_bytes());
    let expires = LogTime::from_millis(u64::MAX / 2);
    let token = Command::CreateJoinToken { hash, expires, role: NodeRole::Full, author: author() };
    propose(site, token).await?;
    let mut key_fingerprint = hash;
    key_fingerprint[31] = 1;
    let enrol = Command::EnrolNode { token_hash: hash, info: info(number), key_fingerprint };
    match propose(site, enrol).await?.outcome {
        Outcome::Enrolled { node } => Some(site.add(node)),
        other => {
            happened!("operator: no node joined: {other:?}");
            None
        }
    }
}

/// Does what is wanted of operators, until the run is healed and nothing is wanted any more.
async fn operate(site: Arc<Site>, mut random: Random) {
    let mut demoted = Vec::new();
    loop {
        let order = site.lock().orders.pop_front();
        match order {
            Some(order) => carry_out(&site, &mut random, order, &mut demoted).await,
            None if site.phase() == Phase::Healed => break,
            None => sleep(Duration::from_millis(7)).await,
        }
    }
    for node in demoted {
        set(&site, node, NodeAdmin::Ready).await;
    }
}

async fn carry_out(site: &Arc<Site>, random: &mut Random, order: Order, demoted: &mut Vec<NodeId>) {
    happened!("operator: {order:?}");
    match order {
        Order::Transfer => {
            let Some((number, leader)) = site.leader() else { return };
            let voters = leader.status().voters;
            let others: Vec<NodeId> = voters.into_iter().filter(|node| *node != leader.node()).collect();
            let Some(to) = random.pick(&others) else { return };
            let asked = leader.transfer_leader(to).await;
            happened!("operator: n{number} hands over to node {to}: {asked}");
        }
        Order::Snapshot(which) => {
            for (number, handle) in site.running() {
                if which.is_none_or(|which| which == number) {
                    handle.trigger_snapshot().await;
                }
            }
        }
        Order::Join => _ = join(site).await,
        Order::Remove => {
            if let Some(number) = dispensable(site, random) {
                remove(site, number).await;
            }
        }
        Order::Replace => {
            // Whoever has lost votes on purpose must not lose a machine for good besides.
            for node in demoted.drain(..) {
                set(site, node, NodeAdmin::Ready).await;
            }
            sleep(Duration::from_millis(1500)).await;
            let spared = |number: &usize| site.has_room() && majorities_are_left(site, *number);
            let Some(number) = dispensable(site, random).filter(spared) else { return };
            site.lock().doomed.push(number);
            sleep(random.millis(10, 1000)).await;
            if remove(site, number).await {
                _ = join(site).await;
            }
        }
        Order::Demote => {
            let Some((_, leader)) = site.leader() else { return };
            let Some(node) = random.pick(&leader.status().voters) else { return };
            if set(site, node, NodeAdmin::Demoted).await {
                demoted.push(node);
            }
            if demoted.len() > 1 {
                let node = demoted.remove(0);
                set(site, node, NodeAdmin::Ready).await;
            }
        }
    }
}

async fn set(site: &Site, node: NodeId, admin: NodeAdmin) -> bool {
    propose(site, Command::SetNode { node, admin, author: author(), expect: None }).await.is_some()
}

/// A machine without which enough nodes are left.
fn dispensable(site: &Site, random: &mut Random) -> Option<usize> {
    let (_, leader) = site.leader()?;
    let members: Vec<NodeId> = leader.with_state(|state| state.nodes().map(|node| node.id).collect());
    let there =
        |id: &NodeId| site.machine_of(*id).filter(|number| site.lock().seats[*number].condition != Condition::Gone);
    let machines: Vec<usize> = members.iter().filter_map(there).collect();
    if machines.len() > 3 { random.pick(&machines) } else { None }
}

/// Whether the voters, at least three and none of them changing, still have a majority on machines that are not gone when
/// this one is.
fn majorities_are_left(site: &Site, number: usize) -> bool {
    let Some((_, leader)) = site.leader() else { return false };
    let is_left = |id: &NodeId| {
        let machine = site.machine_of(*id).filter(|machine| *machine != number);
        machine.is_some_and(|machine| site.lock().seats[machine].condition != Condition::Gone)
    };
    let sets = leader.status().voter_sets;
    sets.len() == 1 && sets[0].len() > 2 && sets[0].iter().filter(|id| is_left(id)).count() * 2 > sets[0].len()
}

async fn remove(site: &Site, number: usize) -> bool {
    let node = site.lock().seats[number].id;
    for _ in 0..3 {
        let remove = Command::RemoveNode { node, author: author(), lease_secret: None, expect: None };
        if propose(site, remove).await.is_some() {
            return true;
        }
    }
    false
}

fn mark() -> Command {
    let words = ["SET", "mark", "1"].iter().map(|word| Bytes::from_static(word.as_bytes())).collect();
    Command::Session(Box::new(Write::one(Call::parse(0, words).expect("a command"))))
}

async fn write_anywhere(site: &Site) {
    loop {
        for (_, handle) in site.running() {
            if handle.propose(mark(), Duration::from_millis(300)).await.is_ok() {
                return;
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until every member has taken a write and all have applied the same.
async fn come_together(site: &Arc<Site>) {
    loop {
        sleep(Duration::from_millis(50)).await;
        let Some((_, leader)) = site.leader() else { continue };
        // Who joined and was not told so before the end has a seat for which nobody came.
        let members: Vec<NodeId> = leader.with_state(|state| state.nodes().map(|node| node.id).collect());
        let handles: BTreeMap<NodeId, Handle> =
            site.running().into_iter().map(|(_, handle)| (handle.node(), handle)).collect();
        let expected = members.iter().filter(|id| {
            site.machine_of(**id).is_some_and(|number| site.lock().seats[number].condition != Condition::Gone)
        });
        let expected: Vec<&NodeId> = expected.collect();
        if expected.iter().any(|id| !handles.contains_key(*id)) {
            continue;
        }
        let mut written = true;
        for id in &expected {
            written &= handles[*id].propose(mark(), Duration::from_secs(2)).await.is_ok();
        }
        let applied: Vec<u64> =
            expected.iter().map(|id| handles[*id].with_state(|state| state.applied().get())).collect();
        happened!("after the end at {:?}: {expected:?} have applied {applied:?}", clock::elapsed());
        let last = applied.iter().max().copied().unwrap_or(0);
        if !written {
            continue;
        }
        let caught_up = async {
            for id in &expected {
                if handles[*id].watch_applied().wait_for(|applied| *applied >= last).await.is_err() {
                    return false;
                }
            }
            true
        };
        if timeout(Duration::from_secs(5), caught_up).await == Ok(true) {
            return;
        }
    }
}
