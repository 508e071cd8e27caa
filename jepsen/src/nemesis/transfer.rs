//! Lets a node need a snapshot, and cuts the connection on which it travels several times in the middle.
//!
//! The state is made large and the node's line thin, so that a transfer takes seconds. How far it is shows the file that it is
//! received into. Afterwards the node must be well by itself, and its state equal to the others'; while only the receiver was
//! concerned, the others must have served all the time.
//!
//! Not here: what is cut when (`plan::Transfer`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Metadata},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ballast_jepsen::{time::Span, verdict::Promise};
use ballast_testkit::{
    interrupt,
    lab::{Host, Line, Rules},
    resp::{Answer, Connection},
    wait,
};

use super::Nemesis;
use crate::{
    plan::{At, Cut, Need, Random, Transfer},
    site::{STORE_PORT, Site},
    watch::Watch,
    workload::PATIENCE,
};

/// Keys that make the state large, and what each holds.
const KEYS: usize = 512;
const VALUE_BYTES: usize = 32 << 10;
/// They go by themselves if nobody removes them.
const LIFE: &str = "300";
const LOOK: Duration = Duration::from_millis(10);
/// How long a killed sender stays away.
const AWAY: Duration = Duration::from_millis(300);

/// What does not go as it must, among errors of the lab.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Finding {
    promise: Promise,
    what: String,
}

/// What took too long, or was refused: service is not back.
fn not_back(error: anyhow::Error) -> Finding {
    Finding { promise: Promise::ComesBack, what: format!("{error:#}") }
}

impl Nemesis {
    /// All of it. Whom it befell: the receiver, and senders. What does not go as it must is a finding; an error is the lab's.
    pub(super) fn cut_snapshot(
        &mut self,
        site: &mut Site,
        watch: &Watch,
        chosen: usize,
        choice: u64,
    ) -> Result<BTreeSet<usize>> {
        let sender = match site.cluster.wait_leader() {
            Ok(sender) => sender,
            Err(_) if interrupt::came() => return Ok([chosen].into()),
            Err(error) => {
                self.record.broken.push((Promise::ComesBack, format!("nobody could send a snapshot: {error:#}")));
                return Ok([chosen].into());
            }
        };
        // The sender is who leads, and does not send to itself.
        let node = if chosen == sender { (sender + 1) % site.nodes() } else { chosen };
        self.senders.clear();
        let result = self.transfer(site, watch, (node, sender), &Transfer::of(choice), choice);
        site.lab()?.mend()?;
        site.lab()?.heal()?;
        for each in 0..site.nodes() {
            site.cluster.resume(each);
            self.start(site, each)?;
        }
        let name = format!("node-{}", node + 1);
        if let Err(error) = result.and_then(|()| whole(site, node))
            && !interrupt::came()
        {
            match error.downcast::<Finding>() {
                Ok(Finding { promise, what }) => {
                    self.record.broken.push((promise, format!("{name} and a snapshot that was cut off: {what}")));
                }
                Err(error) => self.record.failed.push(format!("snapshot-cut of {name}: {error:#}")),
            }
        }
        if let Err(error) = remove_keys(site) {
            self.record.complaints.push(format!("snapshot-cut: its keys go by themselves: {error:#}"));
        }
        Ok(self.senders.iter().copied().chain([node]).collect())
    }

    fn transfer(
        &mut self,
        site: &mut Site,
        watch: &Watch,
        (node, sender): (usize, usize),
        plan: &Transfer,
        choice: u64,
    ) -> Result<()> {
        let had = match plan.need {
            Need::Behind => metric(site, node, "ballast_raft_last_log_index")?,
            Need::Emptied => 1,
        };
        self.note_end(site, node);
        site.cluster.kill(node);
        self.away.insert(node);
        if plan.need == Need::Emptied {
            site.cluster.remove(node)?;
            self.record.emptied.push((node, self.clock.now()));
        }
        let store = SocketAddr::from((Host::Node(sender).ip(), STORE_PORT));
        site.guests.within(Host::Client, || fill(store, choice))?.context("make the state large")?;
        // By each of them: any may lead by then.
        for other in (0..site.nodes()).filter(|other| *other != node) {
            wait::until("a snapshot by which the log was purged", || {
                site.cluster.ctl_ok(other, &["cluster", "snapshot"])?;
                Ok((metric(site, other, "ballast_raft_purged_index")? > had).then_some(()))
            })
            .map_err(not_back)?;
        }
        if plan.need == Need::Emptied {
            site.cluster.join(node).map_err(not_back)?;
        }
        let inbound = Rules { bytes_per_second: Some(plan.bytes_per_second), ..Rules::default() };
        site.lab()?.impair(&[(Host::Node(node), Line { inbound, outbound: Rules::default() })], choice)?;
        self.away.remove(&node);
        self.start(site, node)?;
        let (mut spared_since, mut before) = (self.clock.now(), Received::default());
        for at in &plan.cuts {
            let Some(received) = self.wait_for(site, (node, had), *at, before)? else { break };
            before = received;
            if !at.cut.spares_others() {
                self.record.spared.push(Span::new(spared_since, self.clock.now()));
            }
            self.cut(site, watch, node, at.cut)?;
            if !at.cut.spares_others() {
                // An election, and whatever else was begun by then.
                spared_since = self.clock.now().after(super::VERDICT);
            }
        }
        self.record.spared.push(Span::new(spared_since, self.clock.now()));
        site.lab()?.mend()
    }

    /// Waits until a cut is due, after more has come than before the last one. Returns how much it is then; nothing if there is
    /// nothing to cut: the run may be called off, and the snapshot be there, so that the node has more than it had.
    fn wait_for(
        &mut self,
        site: &Site,
        (node, had): (usize, u64),
        at: At,
        before: Received,
    ) -> Result<Option<Received>> {
        let began = self.clock.now();
        let name = site.cluster.node(node).name();
        loop {
            let others = (0..site.nodes()).filter(|other| *other != node);
            let whole = others.filter_map(|other| newest(&site.cluster.node(other).data())).max().unwrap_or(0);
            let received = receiving(&site.cluster.node(node).data());
            let waited = self.clock.now().since(began);
            // What was cut off lies there for a moment.
            let goes_on = received.file != before.file || received.bytes > before.bytes;
            if whole > 0 && goes_on && at.is_due(received.bytes, whole) {
                let bytes = received.bytes;
                let note = format!("{:?} at {bytes} of {whole} bytes to {name}, {waited:.1?} later", at.cut);
                self.record.complaints.push(format!("snapshot-cut: {note}"));
                return Ok(Some(received));
            }
            if metric(site, node, "ballast_raft_applied_index").is_ok_and(|applied| applied > had) {
                self.record
                    .complaints
                    .push(format!("snapshot-cut: {name} was whole before it could be cut by {:?}", at.cut));
                return Ok(None);
            }
            if !interrupt::pause(LOOK) {
                return Ok(None);
            }
            if waited >= wait::PATIENCE {
                let what = format!("{:?} of its snapshot had not come within {waited:.0?}", at.percent);
                return Err(Finding { promise: Promise::ComesBack, what }.into());
            }
        }
    }

    fn cut(&mut self, site: &mut Site, watch: &Watch, node: usize, cut: Cut) -> Result<()> {
        match cut {
            Cut::Isolate(time) => {
                site.lab()?.isolate(Host::Node(node))?;
                interrupt::pause(time);
                site.lab()?.heal()?;
            }
            Cut::PauseReceiver(time) => {
                site.cluster.pause(node);
                interrupt::pause(time);
                site.cluster.resume(node);
            }
            Cut::KillReceiver => {
                self.note_end(site, node);
                site.cluster.kill(node);
                self.start(site, node)?;
            }
            Cut::PauseSender(time) => {
                let Some(sender) = self.sender(site, watch, node)? else { return Ok(()) };
                site.cluster.pause(sender);
                interrupt::pause(time);
                site.cluster.resume(sender);
            }
            Cut::KillSender => {
                let Some(sender) = self.sender(site, watch, node)? else { return Ok(()) };
                self.note_end(site, sender);
                site.cluster.kill(sender);
                interrupt::pause(AWAY);
                self.start(site, sender)?;
            }
        }
        Ok(())
    }

    /// Who sends, which is who leads; between two leaders somebody soon does. Nobody if the receiver itself does by now.
    fn sender(&mut self, site: &Site, watch: &Watch, node: usize) -> Result<Option<usize>> {
        let told = watch.leader().filter(|leader| *leader != node);
        let leader = match told {
            Some(leader) => leader,
            None if interrupt::came() => return Ok(None),
            None => site.cluster.wait_leader().map_err(not_back)?,
        };
        if leader == node {
            self.record.complaints.push("snapshot-cut: the receiver leads already".to_owned());
            return Ok(None);
        }
        self.senders.insert(leader);
        Ok(Some(leader))
    }
}

fn metric(site: &Site, node: usize, name: &str) -> Result<u64> {
    Ok(site.cluster.metrics(node)?.get(name).copied().unwrap_or_default() as u64)
}

/// Waits until a node is ready, and until it and another one have told the hash of their states at the same index.
fn whole(site: &Site, node: usize) -> Result<()> {
    site.cluster.wait_ready(node).map_err(not_back)?;
    let name = site.cluster.node(node).name().to_owned();
    let mut told: BTreeMap<u64, BTreeMap<String, String>> = BTreeMap::new();
    let mut differs = None;
    wait::until("states to be compared", || {
        let status = site.cluster.ctl_json(node, &["cluster", "status"])?;
        for one in status["nodes"].as_array().into_iter().flatten() {
            let (Some(who), Some(hash)) = (one["name"].as_str(), one["state_hash"].as_str()) else { continue };
            let index = one["state_hash_index"].as_u64().unwrap_or(0);
            if index > 0 && !hash.is_empty() {
                told.entry(index).or_default().insert(who.to_owned(), hash.to_owned());
            }
        }
        for (index, hashes) in &told {
            let Some(own) = hashes.get(&name) else { continue };
            let Some((other, theirs)) = hashes.iter().find(|(other, _)| **other != name) else { continue };
            if own != theirs {
                differs = Some(format!("at index {index} its state is {own}, that of {other} is {theirs}"));
            }
            return Ok(Some(()));
        }
        Ok(None)
    })
    .map_err(not_back)?;
    differs.map_or(Ok(()), |what| Err(Finding { promise: Promise::ReplicasEqual, what }.into()))
}

fn key(number: usize) -> String {
    format!("bulk:{number}")
}

/// Makes the state large.
fn fill(store: SocketAddr, seed: u64) -> Result<()> {
    let mut random = Random(seed);
    let mut connection = Connection::open(store, PATIENCE)?;
    for number in 0..KEYS {
        // Nothing that could be made smaller on its way.
        let value: String = (0..VALUE_BYTES / 16).map(|_| format!("{:016x}", random.next())).collect();
        let answer = connection.call(&["SET", &key(number), &value, "EX", LIFE])?;
        ensure!(answer.is_ok(), "SET was answered {answer:?}");
    }
    Ok(())
}

fn remove_keys(site: &Site) -> Result<()> {
    let store = SocketAddr::from((Host::Node(site.cluster.wait_leader()?).ip(), STORE_PORT));
    site.guests.within(Host::Client, || {
        let mut connection = Connection::open(store, PATIENCE)?;
        let keys: Vec<String> = (0..KEYS).map(key).collect();
        let words: Vec<&str> = std::iter::once("DEL").chain(keys.iter().map(String::as_str)).collect();
        let answer = connection.call(&words)?;
        ensure!(matches!(answer, Answer::Integer(_)), "DEL was answered {answer:?}");
        Ok(())
    })?
}

/// How much has come of a snapshot.
#[derive(Clone, Copy, Debug, Default)]
struct Received {
    /// Which file it is.
    file: u64,
    bytes: u64,
}

/// The size of a node's newest snapshot.
fn newest(data: &Path) -> Option<u64> {
    files(data, |name| name.ends_with(".snapshot")).map(|about| about.len()).max()
}

/// What a node receives.
fn receiving(data: &Path) -> Received {
    let last = files(data, |name| name.starts_with("received-")).max_by_key(|about| about.modified().ok());
    last.map_or(Received::default(), |about| Received { file: about.ino(), bytes: about.len() })
}

fn files(data: &Path, is: impl Fn(&str) -> bool) -> impl Iterator<Item = Metadata> {
    let entries = fs::read_dir(data.join("snapshots")).into_iter().flatten().flatten();
    let of_kind = entries.filter(move |entry| entry.file_name().to_str().is_some_and(&is));
    of_kind.filter_map(|entry| entry.metadata().ok())
}
