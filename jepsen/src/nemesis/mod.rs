//! Brings faults about, and undoes them.

mod lines;
mod machine;
mod membership;
mod transfer;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use ballast_testkit::{
    backend::Mode,
    cluster::Operator,
    interrupt,
    lab::{Direction, Host},
    leaving::Leaving,
    wait,
};
use serde::{Deserialize, Serialize};

pub use self::machine::UPGRADE_DIR;
use crate::{
    clock::Clock,
    disk,
    plan::{Family, Kind, Planned, Random, Round, Whom},
    site::{ADDRESS_FARM, Site, VIP_NAME},
    wall::Wrong,
    watch::Watch,
    workload::addresses,
};
use ballast_jepsen::{
    time::{RunTime, Span},
    verdict::Promise,
};

/// Checks five times a second, three failures and a majority; twice that for a machine that is busy.
const VERDICT: Duration = Duration::from_secs(5);
/// How long an operator who is refused goes on with undoing what was ordered: longer than what is in the way lasts.
const UNDOING: Duration = Duration::from_secs(15);
/// How long one waits before the next node is asked.
const NEXT_NODE: Duration = Duration::from_millis(200);

/// A fault as it happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Happened {
    /// What.
    pub kind: Kind,
    /// Whom it befell: nodes, a backend, or a client and the backend that it is moved to.
    pub victims: Vec<String>,
    /// When it began.
    pub from: RunTime,
    /// When it had been undone, or done if nothing undoes it.
    pub until: RunTime,
    /// When it began to be undone, or would have; absent in records of old.
    #[serde(default)]
    pub whole_until: Option<RunTime>,
    /// Whether it came about: there was what it takes, and an operator's order was not refused.
    #[serde(default = "yes")]
    pub came_about: bool,
    /// When the operator was told that it is done who brought it about; absent if none did, and in records of old.
    #[serde(default)]
    pub acknowledged: Option<RunTime>,
}

fn yes() -> bool {
    true
}

impl Happened {
    /// Until when something may come of it that is done late: as long as it was to last, and until it was over.
    pub fn lasts_until(&self) -> RunTime {
        self.whole_until.map_or(self.until, |whole| whole.max(self.until))
    }

    /// The operator was told whether it was carried out.
    fn told(&mut self, at: RunTime, done: bool) {
        self.came_about &= done;
        self.acknowledged = done.then_some(at);
        if done && self.kind.is_over_when_done() {
            self.until = at;
        }
    }
}

/// Between two rounds nothing befalls anybody.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calm {
    /// From when the last fault had been undone.
    pub from: RunTime,
    /// Until when.
    pub until: RunTime,
    /// Nodes of which nothing is expected: their files are damaged, or they have no place in the cluster.
    pub without: BTreeSet<usize>,
}

/// What had happened when all was over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// All faults, in the order in which they were undone.
    pub faults: Vec<Happened>,
    /// The calm after each round.
    pub calms: Vec<Calm>,
    /// Bytes that were written and not synced when a node lost its power.
    pub bytes_lost: u64,
    /// What an operator was told that was not `done`, and what else people may want to know.
    pub complaints: Vec<String>,
    /// What a node did that it must not, whatever befalls it, and which promise that breaks.
    #[serde(default)]
    pub broken: Vec<(Promise, String)>,
    /// What the lab did not do as told. That is no finding about the cluster; what it kept from being seen is not known.
    #[serde(default)]
    pub failed: Vec<String>,
    /// Whether that ended it before its time, with whatever was broken then.
    #[serde(default)]
    pub halted: bool,
    /// Nodes whose data directory was emptied, and when: what is there afterwards is another node.
    #[serde(default)]
    pub emptied: Vec<(usize, RunTime)>,
    /// Times in which nothing was done to the nodes that serve, though something was to another.
    #[serde(default)]
    pub spared: Vec<Span>,
}

/// Plays the rounds, or as many as the lab can. Returns when the last calm is over, or as soon as all is undone if it is called off.
pub fn play(site: &mut Site, watch: &Watch, clock: Clock, rounds: &[Round]) -> Record {
    let mut nemesis = Nemesis {
        operator: site.cluster.operator(),
        programs: site.cluster.programs().to_owned(),
        clock,
        rotten: BTreeSet::new(),
        away: BTreeSet::new(),
        still: BTreeSet::new(),
        may_end: BTreeSet::new(),
        senders: BTreeSet::new(),
        leaving: BTreeMap::new(),
        newcomer: None,
        running: Vec::new(),
        commands: Vec::new(),
        record: Record::default(),
    };
    if let Err(error) = nemesis.rounds(site, watch, rounds) {
        nemesis.halt(site, &error);
    }
    nemesis.collect();
    nemesis.record
}

/// Waits until every node is well and one of them owns the VIP.
///
/// # Errors
/// When that takes too long, which is a finding.
pub fn recover(site: &mut Site) -> Result<()> {
    for node in 0..site.members() {
        if !site.cluster.is_up(node) {
            site.cluster.spawn(node)?;
        }
    }
    for node in 0..site.members() {
        site.cluster.wait_ready(node)?;
    }
    site.cluster.wait_owner(VIP_NAME)?;
    // A node that an operator had made a learner votes again.
    let (voters, members) = (site.voters(), site.members());
    wait::until("all nodes to vote", || {
        let status = site.cluster.ctl_json(0, &["cluster", "status"])?;
        let nodes = status["nodes"].as_array().context("nodes of the cluster")?;
        let votes = nodes.iter().filter(|node| node["voter"] == true).count();
        for node in nodes.iter().filter(|node| node["voter"] != true && votes < voters) {
            let name = node["name"].as_str().unwrap_or_default();
            // One that is drained is not promoted.
            let _ = site.cluster.ctl(0, &["node", "enable", name]);
            let _ = site.cluster.ctl(0, &["node", "promote", name]);
        }
        // Nobody is left over who was removed, or who failed to join.
        Ok((votes == voters && nodes.len() == members).then_some(()))
    })
}

struct Nemesis {
    operator: Operator,
    /// Those that nodes were started from at first.
    programs: PathBuf,
    /// Nodes in whose files bits have changed.
    rotten: BTreeSet<usize>,
    /// Nodes that have no place in the cluster at the moment, or nothing to start on.
    away: BTreeSet<usize>,
    /// Nodes that are frozen or without power, so that nothing can be done on them.
    still: BTreeSet<usize>,
    /// Nodes that something befalls, or befell, of which a daemon may die, or whose daemon's end was told already.
    may_end: BTreeSet<usize>,
    /// Nodes that were stopped or killed for sending the snapshot that is being cut.
    senders: BTreeSet<usize>,
    /// Daemons that were told to end.
    leaving: BTreeMap<usize, Leaving>,
    /// The node that is being replaced, if one is.
    newcomer: Option<membership::Newcomer>,
    /// Faults of this round that were begun and have not ended.
    running: Vec<Option<Running>>,
    clock: Clock,
    /// `ballastctl` that runs beside, and when the fault began that it brings about, if it does.
    commands: Vec<(Option<RunTime>, JoinHandle<Vec<Told>>)>,
    record: Record,
}

/// An order that was carried out or refused.
struct Told {
    /// When the fault began that it brings about, if it does.
    brings_about: Option<RunTime>,
    /// When the operator was told so.
    at: RunTime,
    /// What there is to complain of, if it was not carried out.
    complaint: Option<String>,
}

/// What an order is for.
#[derive(Clone, Copy)]
enum Order {
    /// To bring about the fault that began then.
    Begin(RunTime),
    /// To undo it. Orders to one cluster from several hands may overtake each other, so this one waits for the first. It is given
    /// to one node after the other until it is carried out: what is not undone would hold for all that follows.
    Undo(RunTime),
}

struct Running {
    planned: Planned,
    victims: Vec<String>,
    node: usize,
    from: RunTime,
    /// When it was over; absent if something undoes it, or an operator is still to be told that it was done.
    over: Option<RunTime>,
    came_about: bool,
}

impl Nemesis {
    /// Goes on until all are over, it is called off, or the lab does not do as told, which is no finding about the cluster.
    fn rounds(&mut self, site: &mut Site, watch: &Watch, rounds: &[Round]) -> Result<()> {
        let mut began = self.clock.now();
        for round in rounds {
            let mut events: Vec<(u64, Option<usize>, usize)> = Vec::new();
            for (number, fault) in round.faults.iter().enumerate() {
                events.push((fault.from_ms, None, number));
                events.push((fault.until_ms, Some(number), number));
            }
            events.sort_by_key(|(at, end, _)| (*at, end.is_some()));
            self.running = round.faults.iter().map(|_| None).collect();
            for (at_ms, end, number) in events {
                let goes_on = self.pass_until(site, began.after(Duration::from_millis(at_ms)))?;
                if end.is_none() && goes_on {
                    let (planned, from) = (&round.faults[number], self.clock.now());
                    let begun = self.begin(site, watch, planned);
                    if begun.is_err() {
                        // Half done, to whomever.
                        let victims = site.names();
                        self.record.faults.push(Happened {
                            kind: planned.kind,
                            victims,
                            from,
                            until: self.clock.now(),
                            whole_until: None,
                            came_about: true,
                            acknowledged: None,
                        });
                    }
                    self.running[number] = Some(begun?);
                } else if let Some(fault) = self.running[number].take() {
                    let whole_until = self.clock.now();
                    let ended = self.end(site, &fault);
                    // A node is replaced when the new one is whole.
                    if fault.planned.kind != Kind::Membership || ended.is_err() {
                        self.happened(fault, Some(whole_until));
                    }
                    ended?;
                }
            }
            self.finish_membership(site)?;
            let healed = self.clock.now();
            // What took longer than planned, as an upgrade does, takes nothing from the calm after it.
            began = began.after(healed.since(began.after(Duration::from_millis(round.healed_ms()))));
            self.collect();
            if !sleep_until(self.clock, began.after(Duration::from_millis(round.calm_until_ms))) {
                break;
            }
            // A node with damaged files that serves all the same is to serve, until it finds them.
            let refuse: BTreeSet<usize> =
                self.rotten.iter().copied().filter(|node| site.cluster.has_ended(*node)).collect();
            let without = refuse.union(&self.away).copied().collect();
            for node in 0..site.members() {
                self.note_end(site, node);
            }
            // What a fault may make a daemon end of has done so by now.
            self.may_end.retain(|node| site.cluster.has_ended(*node));
            self.record.calms.push(Calm { from: healed, until: self.clock.now(), without });
            self.replace_rotten(site)?;
        }
        Ok(())
    }

    /// Nothing more is done. What is broken stays so.
    fn halt(&mut self, site: &Site, error: &anyhow::Error) {
        self.record.failed.push(format!("{error:#}"));
        self.record.halted = true;
        for fault in std::mem::take(&mut self.running).into_iter().flatten() {
            self.happened(fault, None);
        }
        self.end_membership(site);
    }

    fn happened(&mut self, fault: Running, whole_until: Option<RunTime>) {
        let Running { planned, victims, from, over, came_about, .. } = fault;
        let until = over.unwrap_or_else(|| self.clock.now());
        let kind = planned.kind;
        let acknowledged = None;
        self.record.faults.push(Happened { kind, victims, from, until, whole_until, came_about, acknowledged });
    }

    fn begin(&mut self, site: &mut Site, watch: &Watch, planned: &Planned) -> Result<Running> {
        let count = site.nodes();
        let node = match planned.whom {
            Whom::Leader => self.known(planned, "leader", watch.leader()),
            Whom::Owner => self.known(planned, "owner", watch.owner()),
            Whom::Node(node) => node,
        };
        if !planned.kind.spares_nodes() {
            // What ended before this fault did not end of it.
            let concerned = if planned.kind.concerns_all() { 0..site.members() } else { node..node + 1 };
            for node in concerned {
                self.note_end(site, node);
            }
        }
        let other = (node + 1 + (planned.choice % (count as u64 - 1)) as usize) % count;
        let names = site.names();
        let name = |node: usize| names[node].clone();
        let backend = (planned.choice % site.backends().len() as u64) as usize;
        let host = Host::Node(node);
        let all = || (0..count).map(Host::Node);
        let from = self.clock.now();
        let lab = || site.lab();
        let mut victims = vec![name(node)];
        let mut came_about = planned.kind.is_felt_among(count);
        if planned.kind.may_end_a_daemon() {
            self.may_end.insert(node);
        }
        match planned.kind {
            Kind::Kill => site.cluster.kill(node),
            Kind::Terminate => {
                // Nobody is told where it has ended by itself.
                let leaving = if site.cluster.has_ended(node) { None } else { site.cluster.dismiss(node) };
                came_about = leaving.is_some();
                self.leaving.extend(leaving.map(|leaving| (node, leaving)));
            }
            Kind::Restart => {
                site.cluster.kill(node);
                self.start(site, node)?;
            }
            Kind::CrashLoop => {
                for _ in 0..3 {
                    self.note_end(site, node);
                    site.cluster.kill(node);
                    self.start(site, node)?;
                    // A process that came half up.
                    thread::sleep(Duration::from_millis(planned.choice % 200));
                }
            }
            Kind::KillAll => {
                site.cluster.kill_all();
                victims = names.clone();
            }
            Kind::Pause => site.cluster.pause(node),
            Kind::Freeze => {
                self.still.insert(node);
                lab()?.freeze(node)?;
            }
            Kind::PowerOff => {
                self.still.insert(node);
                lab()?.power_off(node)?;
                // Reaped.
                site.cluster.kill(node);
            }
            Kind::BlackOut => {
                for node in 0..count {
                    self.still.insert(node);
                    lab()?.power_off(node)?;
                }
                site.cluster.kill_all();
                victims = (0..count).map(name).collect();
            }
            Kind::SlowDisk => {
                let late = Duration::from_millis(20 + planned.choice % 400);
                disk::set(site.cluster.node(node).folder(), disk::Mode::Late(late))?;
            }
            Kind::DiskError => disk::set(site.cluster.node(node).folder(), disk::Mode::Fail)?,
            Kind::DiskFull => disk::set(site.cluster.node(node).folder(), disk::Mode::Full)?,
            Kind::TamperFence => came_about = self.tamper(site, node, planned.choice),
            Kind::ClockStep | Kind::ClockSlew => {
                Self::set_clock(site, node, machine::wrong(planned.kind, planned.choice))?;
            }
            Kind::NoDescriptors | Kind::LittleCpu | Kind::LittleMemory => {
                came_about = self.short(site, node, planned.kind, planned.choice)?;
            }
            Kind::BitRot => self.rot(site, node, planned.choice)?,
            Kind::RollingUpgrade | Kind::RollingRestart => {
                self.upgrade(site, planned.kind)?;
                victims = names.clone();
            }
            Kind::SnapshotCut => {
                let whom = self.cut_snapshot(site, watch, node, planned.choice)?;
                victims = whom.into_iter().map(name).collect();
            }
            Kind::Isolate => site.isolate(node)?,
            Kind::OneWay => {
                lab()?.cut(host, Host::Node(other), Direction::OneWay)?;
                victims.push(name(other));
            }
            Kind::Split => {
                // The chosen one is among the few.
                let few: Vec<Host> = (0..count / 2).map(|k| Host::Node((node + k) % count)).collect();
                let many: Vec<Host> = all().filter(|host| !few.contains(host)).collect();
                lab()?.partition(&few, &many)?;
                victims = few.iter().map(|host| format!("{host}").replace("node", "node-")).collect();
            }
            Kind::Ring => {
                lab()?.ring()?;
                victims = (0..count).map(name).collect();
            }
            Kind::Bridge => {
                let others: Vec<Host> = all().filter(|other| *other != host).collect();
                let (left, right) = others.split_at(others.len() / 2);
                lab()?.partition(left, right)?;
            }
            Kind::LinkDown => lab()?.link_down(host)?,
            Kind::Loss => lab()?.loss_between_nodes(5 + (planned.choice % 45) as u32)?,
            Kind::LossEverywhere => lab()?.loss_everywhere(2 + (planned.choice % 18) as u32)?,
            Kind::Delay | Kind::Jitter | Kind::Reorder | Kind::Duplicate | Kind::Corrupt | Kind::SlowLink => {
                lab()?.impair(&[(host, lines::of(planned.kind, planned.choice))], planned.choice)?;
            }
            Kind::TransferLeader => {
                self.tell(Order::Begin(from), other, &["cluster", "transfer-leader", "--to", &name(other)])
            }
            Kind::Snapshot => self.tell(Order::Begin(from), node, &["cluster", "snapshot"]),
            Kind::MoveVip => {
                self.tell(Order::Begin(from), other, &["vip", "move", VIP_NAME, "--to", &name(other)]);
                victims.push(name(other));
            }
            Kind::MoveClient => {
                let client = addresses::CLIENTS[(planned.choice >> 8) as usize % addresses::CLIENTS.len()];
                let key = site.address(client).context("the address of a client")?.to_string();
                let web = site.backends()[backend].name().to_owned();
                let words =
                    ["bindings", "move", "--farm", ADDRESS_FARM, "--service", "site", "--key", &key, "--to", &web];
                self.tell(Order::Begin(from), other, &words);
                victims = vec![client.to_string(), web];
            }
            Kind::Demote => self.tell(Order::Begin(from), other, &["node", "demote", &name(node)]),
            Kind::Membership => self.newcomer = Some(membership::Newcomer::new(site, node, planned.choice, from)?),
            Kind::BackendFails | Kind::BackendTruncates => {
                let mode = if planned.kind == Kind::BackendFails { Mode::Failing } else { Mode::ClosesMidBody };
                site.backends()[backend].set_mode(mode);
                victims = vec![site.backends()[backend].name().to_owned()];
            }
            Kind::BackendDrain | Kind::BackendMaintenance => {
                let verb = if planned.kind == Kind::BackendDrain { "drain" } else { "maintenance" };
                let web = site.backends()[backend].name().to_owned();
                self.tell(Order::Begin(from), other, &["backend", verb, &format!("shop/site/{web}")]);
                victims = vec![web];
            }
        }
        let is_over = planned.kind.is_over_when_done() && planned.kind.family() != Family::Operator;
        let over = is_over.then(|| self.clock.now());
        Ok(Running { planned: *planned, victims, node, from, over, came_about })
    }

    fn end(&mut self, site: &mut Site, running: &Running) -> Result<()> {
        let Running { planned, victims, node, from, .. } = running;
        let node = *node;
        let other = (node + 1) % site.nodes();
        let lab = || site.lab();
        match planned.kind {
            Kind::Kill => self.start(site, node)?,
            Kind::Terminate => {
                self.see_off(site, node);
                self.start(site, node)?;
            }
            Kind::KillAll => {
                for node in 0..site.members() {
                    self.start(site, node)?;
                }
            }
            Kind::Pause => site.cluster.resume(node),
            Kind::Freeze => {
                lab()?.thaw(node);
                self.still.remove(&node);
            }
            Kind::PowerOff => self.power_on(site, node, planned.choice)?,
            Kind::BlackOut => {
                for node in 0..site.nodes() {
                    self.power_on(site, node, planned.choice)?;
                }
            }
            Kind::SlowDisk => disk::set(site.cluster.node(node).folder(), disk::Mode::Work)?,
            Kind::ClockStep | Kind::ClockSlew => Self::set_clock(site, node, Wrong::default())?,
            Kind::NoDescriptors | Kind::LittleCpu | Kind::LittleMemory => self.plenty(site, node)?,
            Kind::BitRot => self.rejoin(site, node)?,
            Kind::TamperFence => self.revive(site, node)?,
            Kind::DiskError | Kind::DiskFull => {
                disk::set(site.cluster.node(node).folder(), disk::Mode::Work)?;
                // It may have stopped by itself, or not have needed its disk.
                site.cluster.kill(node);
                self.start(site, node)?;
            }
            Kind::Isolate => site.connect(node)?,
            Kind::OneWay | Kind::Split | Kind::Ring | Kind::Bridge => lab()?.heal()?,
            Kind::Loss | Kind::LossEverywhere => lab()?.heal()?,
            Kind::Delay | Kind::Jitter | Kind::Reorder | Kind::Duplicate | Kind::Corrupt | Kind::SlowLink => {
                lab()?.mend()?
            }
            Kind::LinkDown => lab()?.link_up(Host::Node(node))?,
            Kind::Demote => self.tell(Order::Undo(*from), other, &["node", "promote", &victims[0]]),
            Kind::BackendFails | Kind::BackendTruncates => {
                let backend = site.backends().iter().find(|backend| backend.name() == victims[0]);
                backend.context("a backend of the site")?.set_mode(Mode::Ok);
            }
            Kind::BackendDrain | Kind::BackendMaintenance => {
                self.tell(Order::Undo(*from), other, &["backend", "enable", &format!("shop/site/{}", victims[0])]);
            }
            Kind::Membership => self.newcomer.iter_mut().for_each(membership::Newcomer::wind_up),
            Kind::Restart
            | Kind::CrashLoop
            | Kind::TransferLeader
            | Kind::Snapshot
            | Kind::MoveVip
            | Kind::MoveClient
            | Kind::SnapshotCut
            | Kind::RollingUpgrade
            | Kind::RollingRestart => {}
        }
        Ok(())
    }

    /// Gives a node its power back. What its daemon had not synced is not there any more.
    fn power_on(&mut self, site: &mut Site, node: usize, seed: u64) -> Result<()> {
        let folder = site.cluster.node(node).folder().to_owned();
        self.record.bytes_lost += disk::lose_unsynced(&folder, &mut Random(seed ^ node as u64))?;
        site.lab()?.power_on(node)?;
        self.still.remove(&node);
        self.start(site, node)
    }

    /// Starts a node's daemon, unless it runs or there is nothing that it could start on.
    fn start(&mut self, site: &mut Site, node: usize) -> Result<()> {
        let runs = site.cluster.is_up(node) && !site.cluster.has_ended(node);
        if runs || self.away.contains(&node) {
            return Ok(());
        }
        self.note_end(site, node);
        // What befalls it still may end the next one, too.
        let mut befalls = self.running.iter().flatten().filter(|fault| fault.node == node);
        if !befalls.any(|fault| fault.planned.kind.may_end_a_daemon()) {
            self.may_end.remove(&node);
        }
        self.leaving.remove(&node);
        site.cluster.kill(node);
        site.cluster.spawn(node)
    }

    /// Notes that a daemon has ended by itself, if nothing gave it a reason to. Whoever kills it forgets that it had, so
    /// this comes first.
    fn note_end(&mut self, site: &mut Site, node: usize) {
        let is_replaced = self.newcomer.as_ref().is_some_and(|newcomer| newcomer.is(node));
        let has_a_reason = is_replaced || self.may_end.contains(&node) || self.rotten.contains(&node);
        if has_a_reason || !site.cluster.has_ended(node) {
            return;
        }
        let log = site.cluster.node(node).log().unwrap_or_else(|error| format!("{error:#}"));
        let last: Vec<&str> = log.lines().rev().take(6).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        let what = format!("{} had ended by itself:\n{last}", site.cluster.node(node).name());
        self.record.broken.push((Promise::SaysWhy, what));
        // It is told once, until it is started again.
        self.may_end.insert(node);
    }

    /// Who is meant by what nodes said lately; the first node, and a complaint, if nobody is.
    fn known(&mut self, planned: &Planned, what: &str, node: Option<usize>) -> usize {
        node.unwrap_or_else(|| {
            self.record.complaints.push(format!("{}: no {what} was known, so it befell node-1", planned.kind));
            0
        })
    }

    /// Gives an operator's order at a node, or at others if it undoes something, and does not wait for it.
    fn tell(&mut self, order: Order, node: usize, arguments: &[&str]) {
        let (brings_about, before) = match order {
            Order::Begin(from) => (Some(from), None),
            Order::Undo(from) => (None, self.commands.iter().position(|(brings_about, _)| *brings_about == Some(from))),
        };
        let before = before.map(|at| self.commands.swap_remove(at).1);
        let (operator, clock) = (self.operator.clone(), self.clock);
        let words = arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
        let give = move |node: usize| {
            let mut arguments: Vec<&str> = vec!["--timeout", "4s"];
            arguments.extend(words.iter().map(String::as_str));
            match operator.ctl(node, &arguments) {
                Ok(said) if said.code == 0 => None,
                Ok(said) => Some(format!("{}: exit {}: {}", words.join(" "), said.code, said.err.trim())),
                Err(error) => Some(format!("{}: {error:#}", words.join(" "))),
            }
        };
        let all = self.operator.nodes();
        let (nodes, patience) = match order {
            Order::Begin(_) => (vec![node], Duration::ZERO),
            Order::Undo(_) => ((0..all).map(|step| (node + step) % all).collect::<Vec<_>>(), UNDOING),
        };
        let command = thread::spawn(move || {
            let mut told = before.and_then(|before| before.join().ok()).unwrap_or_default();
            let until = clock.now().after(patience);
            let again = || clock.now() < until && interrupt::pause(NEXT_NODE);
            let complaint = insist(&nodes, give, again);
            told.push(Told { brings_about, at: clock.now(), complaint });
            told
        });
        self.commands.push((brings_about, command));
    }

    /// Waits for the operators. What one of them was refused did not come about.
    fn collect(&mut self) {
        let told = self.commands.drain(..).flat_map(|(_, command)| command.join().unwrap_or_default());
        for Told { brings_about, at, complaint } in told {
            for fault in self.record.faults.iter_mut().filter(|fault| Some(fault.from) == brings_about) {
                fault.told(at, complaint.is_none());
            }
            self.record.complaints.extend(complaint);
        }
    }
}

/// Gives an order at one node after the other until one carries it out or it is not to be given `again`. Returns the last complaint.
fn insist(nodes: &[usize], give: impl Fn(usize) -> Option<String>, again: impl Fn() -> bool) -> Option<String> {
    for node in nodes.iter().cycle() {
        let complaint = give(*node);
        if complaint.is_none() || !again() {
            return complaint;
        }
    }
    None
}

/// Until when a fault of a backend is a reason for its clients to be elsewhere.
pub fn reason_until(fault: &Happened) -> RunTime {
    fault.until.after(VERDICT)
}

/// Whether the run goes on.
fn sleep_until(clock: Clock, at: RunTime) -> bool {
    interrupt::pause(at.since(clock.now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_undoes_something_is_ordered_of_one_node_after_the_other_until_it_is_done() {
        let asked = std::cell::RefCell::new(Vec::new());
        let give = |done_by: usize| {
            let asked = &asked;
            move |node: usize| {
                asked.borrow_mut().push(node);
                (node != done_by).then(|| format!("refused by {node}"))
            }
        };
        assert_eq!(insist(&[3, 0, 1, 2], give(1), || true), None);
        assert_eq!(asked.take(), [3, 0, 1]);
        let left = std::cell::Cell::new(5);
        let again = || left.replace(left.get() - 1) > 0;
        assert_eq!(insist(&[3, 0, 1, 2], give(7), again), Some("refused by 0".to_owned()));
        assert_eq!(asked.take(), [3, 0, 1, 2, 3, 0]);
        assert_eq!(insist(&[3], give(7), || false), Some("refused by 3".to_owned()));
        assert_eq!(asked.take(), [3], "what brings something about is ordered once");
    }

    #[test]
    fn an_order_that_nothing_undoes_is_over_when_it_was_carried_out() {
        let at = RunTime::from_millis;
        let told = |kind, done| {
            let (victims, whole_until) = (Vec::new(), Some(at(5_900)));
            let (from, until, acknowledged) = (at(1_000), at(6_000), None);
            let mut fault = Happened { kind, victims, from, until, whole_until, came_about: true, acknowledged };
            fault.told(at(1_050), done);
            (fault.until, fault.lasts_until(), fault.came_about)
        };
        for kind in [Kind::MoveVip, Kind::Snapshot, Kind::TransferLeader, Kind::MoveClient] {
            assert_eq!(told(kind, true), (at(1_050), at(5_900), true), "{kind}");
            assert_eq!(told(kind, false), (at(6_000), at(6_000), false), "{kind}");
        }
        for kind in [Kind::Demote, Kind::BackendDrain] {
            assert_eq!(told(kind, true), (at(6_000), at(6_000), true), "{kind}");
        }
    }
}
