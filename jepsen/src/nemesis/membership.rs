//! Replaces a voter by a new node, step by step, while other faults come and go.
//!
//! What takes its time runs on a thread, so that faults come and end in time meanwhile. While the node is frozen or without power
//! nothing is done on it.
//!
//! Not here: what is done next (`plan::Replacement`).

use std::{
    fs,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use ballast_testkit::{
    cluster::{Operator, Said, Task},
    interrupt,
};

use super::{Happened, Nemesis};
use crate::{
    plan::{Act, Errand, Kind, Replacement, Seen},
    site::Site,
};
use ballast_jepsen::{time::RunTime, verdict::Promise};

/// How often it is looked what is next.
const LOOK: Duration = Duration::from_millis(100);
/// How long it may take when nothing else is broken any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a node says that found out that it was removed.
const REMOVED: &str = "was removed from the cluster";
/// What a witness says of itself in its file, as the first line.
const WITNESS: &str = "role = \"witness\"\n";
/// The code of an answer that there is none of that name.
const NO_SUCH: &str = "BALLAST-A005";

/// A node that goes, and the one that comes in its place.
pub(super) struct Newcomer {
    node: usize,
    from: RunTime,
    replacement: Replacement,
    over: bool,
    healed: bool,
    errand: Option<(Errand, JoinHandle<Result<()>>)>,
    /// What the last errand came to.
    came_to: Option<bool>,
    /// How much of its log was there when it was removed or started.
    log_from: usize,
}

impl Newcomer {
    /// One in the place of a node.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub(super) fn new(site: &Site, node: usize, choice: u64, from: RunTime) -> Result<Self> {
        let (replacement, log_from) = (Replacement::of(choice), site.cluster.node(node).log()?.len());
        Ok(Self { node, from, replacement, over: false, healed: false, errand: None, came_to: None, log_from })
    }

    /// Whether it is this node that goes and comes: when its daemon may end is seen to here.
    pub(super) fn is(&self, node: usize) -> bool {
        self.node == node
    }

    /// The fault is to be undone.
    pub(super) fn wind_up(&mut self) {
        self.over = true;
    }
}

impl Nemesis {
    /// Waits, and goes on with what is under way meanwhile. Whether the run goes on.
    pub(super) fn pass_until(&mut self, site: &mut Site, at: RunTime) -> Result<bool> {
        while self.newcomer.is_some() {
            let left = at.since(self.clock.now());
            if left.is_zero() {
                break;
            }
            if !interrupt::pause(left.min(LOOK)) {
                return Ok(false);
            }
            self.step(site)?;
        }
        Ok(super::sleep_until(self.clock, at))
    }

    /// Waits until a node that is being replaced is whole; nothing else is broken any more.
    pub(super) fn finish_membership(&mut self, site: &mut Site) -> Result<()> {
        let until = self.clock.now().after(PATIENCE);
        while let Some(newcomer) = &mut self.newcomer {
            newcomer.healed = true;
            if self.clock.now() > until || !interrupt::pause(LOOK) {
                let name = site.cluster.node(newcomer.node).name().to_owned();
                if !interrupt::came() {
                    let what = format!("{name} could not be replaced within {PATIENCE:?}: {:?}", newcomer.replacement);
                    self.record.broken.push((Promise::ComesBack, what));
                }
                self.away.remove(&newcomer.node);
                self.end_membership(site);
                break;
            }
            self.step(site)?;
        }
        Ok(())
    }

    /// Does what is next.
    fn step(&mut self, site: &mut Site) -> Result<()> {
        let Some(newcomer) = &mut self.newcomer else { return Ok(()) };
        let node = newcomer.node;
        if let Some((errand, thread)) = newcomer.errand.take() {
            if !thread.is_finished() {
                newcomer.errand = Some((errand, thread));
                return Ok(());
            }
            let result = thread.join().unwrap_or_else(|_| bail!("it panicked"));
            newcomer.came_to = Some(result.is_ok());
            // That it is not whole yet is no news.
            if let Err(error) = result.as_ref()
                && errand != Errand::LookWhetherWhole
            {
                let complaint = format!("membership: {errand:?} of node-{}: {error:#}", node + 1);
                // What is tried again is told once.
                if self.record.complaints.last() != Some(&complaint) {
                    self.record.complaints.push(complaint);
                }
            }
        }
        if self.still.contains(&node) {
            return Ok(());
        }
        let (over, healed, errand) = (newcomer.over, newcomer.healed, newcomer.came_to.take());
        let ended = site.cluster.has_ended(node);
        let log = if ended { site.cluster.node(node).log()? } else { String::new() };
        let says_removed = log.get(newcomer.log_from..).is_some_and(|log| log.contains(REMOVED));
        let act = newcomer.replacement.next(Seen { ended, says_removed, errand, over, healed });
        match act {
            Act::Wait => {}
            Act::Kill => {
                self.away.insert(node);
                self.leaving.remove(&node);
                site.cluster.kill(node);
            }
            Act::Empty => {
                self.away.insert(node);
                self.leaving.remove(&node);
                site.cluster.kill(node);
                self.rotten.remove(&node);
                let data = site.cluster.node(node).data();
                fs::remove_dir_all(&data).and_then(|()| fs::create_dir(&data)).context("empty a node")?;
                self.record.emptied.push((node, self.clock.now()));
            }
            Act::Start => {
                newcomer.log_from = site.cluster.node(node).log()?.len();
                self.away.remove(&node);
                self.start(site, node)?;
            }
            Act::Errand(errand) => {
                let name = site.cluster.node(node).name().to_owned();
                let others = (1..site.nodes()).map(|step| (node + step) % site.nodes()).collect();
                let asked = Others { operator: self.operator.clone(), others, name };
                let task = match errand {
                    Errand::Leave => Some(site.cluster.task(node, "leave")?),
                    Errand::Join { witness } => {
                        site.cluster.edit(node, |text| as_one(text, witness))?;
                        Some(site.cluster.task(node, "join")?)
                    }
                    _ => None,
                };
                newcomer.errand = Some((errand, thread::spawn(move || asked.see_to(errand, task))));
            }
            Act::Broken(what) => {
                let last: Vec<&str> = log.lines().rev().take(4).collect();
                let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
                self.record.broken.push((Promise::SaysWhy, format!("node-{} {what}\n{last}", node + 1)));
            }
            Act::Done => self.end_membership(site),
        }
        Ok(())
    }

    pub(super) fn end_membership(&mut self, site: &Site) {
        let Some(newcomer) = self.newcomer.take() else { return };
        if let Some((_, thread)) = newcomer.errand {
            let _ = thread.join();
        }
        let victims = vec![site.cluster.node(newcomer.node).name().to_owned()];
        let (from, until) = (newcomer.from, self.clock.now());
        let happened = Happened {
            kind: Kind::Membership,
            victims,
            from,
            until,
            whole_until: Some(until),
            came_about: true,
            acknowledged: None,
        };
        self.record.faults.push(happened);
    }
}

/// The nodes that an operator asks about one of them.
struct Others {
    operator: Operator,
    others: Vec<usize>,
    name: String,
}

impl Others {
    /// Sees to an errand. `task` is what is to be run on the node itself.
    fn see_to(&self, errand: Errand, task: Option<Task>) -> Result<()> {
        let name = self.name.as_str();
        match errand {
            Errand::Drain => self.tell(&["node", "drain", name]).map(drop),
            Errand::Remove { force: false } => self.tell(&["node", "remove", name]).map(drop),
            Errand::Remove { force: true } => self.tell(&["node", "remove", name, "--force"]).map(drop),
            Errand::Demote => self.tell(&["node", "demote", name]).map(drop),
            Errand::Promote => self.tell(&["node", "promote", name]).map(drop),
            Errand::Leave => succeeded(&task.context("a task of the node")?.run(&[])?),
            Errand::Join { witness } => {
                let words: &[&str] =
                    if witness { &["node", "join-token", "--witness"] } else { &["node", "join-token"] };
                let token = self.tell(words)?.out;
                succeeded(&task.context("a task of the node")?.run(&["--token", token.trim()])?)
            }
            Errand::LookWhetherWhole => {
                let status = self.tell(&["cluster", "status", "-o", "json"])?.out;
                let status: serde_json::Value = serde_json::from_str(&status)?;
                let nodes = status["nodes"].as_array().context("nodes of the cluster")?;
                let node = nodes.iter().find(|node| node["name"] == name).context("it is in the cluster")?;
                ensure!(node["ready"] == true && node["voter"] == true, "not yet");
                Ok(())
            }
        }
    }

    /// Tells the first node that does it.
    fn tell(&self, words: &[&str]) -> Result<Said> {
        let mut last = None;
        for node in &self.others {
            let mut arguments = vec!["--timeout", "2s"];
            arguments.extend(words);
            let said = self.operator.ctl(*node, &arguments)?;
            // One of no name has gone already: the answer that it had was lost.
            let gone = words[1] == "remove" && said.err.contains(NO_SUCH);
            if said.code == 0 || gone {
                return Ok(said);
            }
            last = Some(said);
        }
        let last = last.context("there are other nodes")?;
        bail!("exit {}: {}", last.code, last.err.trim())
    }
}

/// The file of a node that joins as a witness or as none: its token is refused where it says something else.
fn as_one(text: &str, witness: bool) -> String {
    let rest = text.strip_prefix(WITNESS).unwrap_or(text);
    if witness { format!("{WITNESS}{rest}") } else { rest.to_owned() }
}

fn succeeded(said: &Said) -> Result<()> {
    ensure!(said.code == 0, "exit {}: {}", said.code, said.err.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_once_that_its_node_is_a_witness() {
        let file = "name = \"node-1\"\n";
        let witness = as_one(file, true);
        assert_eq!(witness, "role = \"witness\"\nname = \"node-1\"\n");
        assert_eq!((as_one(&witness, true), as_one(&witness, false)), (witness.clone(), file.to_owned()));
        assert_eq!(as_one(file, false), file);
    }
}
