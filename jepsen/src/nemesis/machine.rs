//! Machines that are short of something, whose clocks are wrong, whose disks forget, and that are upgraded.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use ballast_jepsen::verdict::Promise;
use ballast_testkit::{
    interrupt,
    lab::{Short, Tampering, VIP, VIP6},
    wait,
};

use super::Nemesis;
use crate::{
    plan::{Kind, Random},
    site::Site,
    wall::{self, Wrong},
};

/// Names the folder with the programs that an upgrade goes to.
pub const UPGRADE_DIR: &str = "BALLAST_UPGRADE_DIR";

/// How long a node may take to end that something else befalls as well, so that it is not in the way of what is to be undone.
const PATIENCE_BESIDE: Duration = Duration::from_secs(5);

/// What a node says that finds its data damaged, whatever is wrong with them exactly.
const REFUSAL: &str = "must not answer";

/// How wrong a wall clock is.
pub fn wrong(kind: Kind, choice: u64) -> Wrong {
    let mut random = Random(choice);
    let sign = if random.below(2) == 0 { 1 } else { -1 };
    match kind {
        Kind::ClockStep => {
            let ahead_ms = [200, 5_000, 60_000, 3_600_000][random.below(4) as usize];
            Wrong { ahead_ms: sign * ahead_ms, fast_ppm: 0 }
        }
        // From what the kernel allows a time service to more than any of them does.
        _ => Wrong { ahead_ms: 0, fast_ppm: sign * (500 + random.below(100_000) as i64) },
    }
}

impl Nemesis {
    /// Lets a node be short of something. Whether it is: the machine may have no control group for it.
    pub(super) fn short(&mut self, site: &Site, node: usize, kind: Kind, choice: u64) -> Result<bool> {
        let mut random = Random(choice);
        let of = match kind {
            Kind::NoDescriptors => Short::Descriptors { more: random.below(4) },
            Kind::LittleCpu => Short::Processor { percent: 3 + random.below(30) },
            _ => Short::Memory { bytes: (4 + random.below(28)) << 20 },
        };
        let is_short = site.lab()?.short(node, of)?;
        if !is_short {
            self.record
                .complaints
                .push(format!("{kind}: this machine has no control group for it, or cannot take away what is in use"));
        }
        Ok(is_short)
    }

    /// Ends that. A daemon that did not live through it is started again, as its supervisor would.
    pub(super) fn plenty(&mut self, site: &mut Site, node: usize) -> Result<()> {
        site.lab()?.plenty(node)?;
        self.revive(site, node)
    }

    /// Starts a daemon that has ended by itself.
    pub(super) fn revive(&mut self, site: &mut Site, node: usize) -> Result<()> {
        if site.cluster.has_ended(node) {
            self.record.complaints.push(format!("{} had ended by itself", site.cluster.node(node).name()));
            self.start(site, node)?;
        }
        Ok(())
    }

    /// Sets a wall clock.
    pub(super) fn set_clock(site: &Site, node: usize, wrong: Wrong) -> Result<()> {
        wall::set(site.cluster.node(node).folder(), wrong)
    }

    /// Meddles with what keeps a node from answering for a VIP that it does not own. Whether there was anything.
    pub(super) fn tamper(&mut self, site: &Site, node: usize, choice: u64) -> bool {
        let how = match (choice % 3, choice / 3 % 2) {
            (0, _) => Tampering::Programs,
            (1, _) => Tampering::Tables,
            (_, 0) => Tampering::Address(VIP.into()),
            (_, _) => Tampering::Address(VIP6.into()),
        };
        let was_there = site.lab().is_ok_and(|lab| lab.tamper(node, how));
        if !was_there {
            self.record.complaints.push(format!("tamper-fence: there was nothing to undo by {how:?}"));
        }
        was_there
    }

    /// Changes bits of a node's files while it is stopped, and starts it.
    pub(super) fn rot(&mut self, site: &mut Site, node: usize, choice: u64) -> Result<()> {
        site.cluster.kill(node);
        let mut random = Random(choice);
        let data = site.cluster.node(node).data();
        let mut files: Vec<PathBuf> =
            ["log/rocksdb", "snapshots"].iter().flat_map(|folder| under(&data.join(folder))).collect();
        files.retain(|file| fs::metadata(file).is_ok_and(|about| about.len() > 0));
        files.sort();
        for _ in 0..1 + random.below(3) {
            let file = &files[random.below(files.len() as u64) as usize];
            let mut bytes = fs::read(file)?;
            let bit = random.below(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(file, bytes).with_context(|| format!("damage {}", file.display()))?;
            let file = file.strip_prefix(&data).unwrap_or(file).display();
            self.record.complaints.push(format!("bit-rot: bit {bit} of {file} of node-{}", node + 1));
        }
        site.cluster.spawn(node)
    }

    /// Sees what became of it: the node is well, or it has said that its data are damaged and is replaced by an empty one.
    pub(super) fn rejoin(&mut self, site: &mut Site, node: usize) -> Result<()> {
        self.rotten.insert(node);
        let name = site.cluster.node(node).name().to_owned();
        if !settle(site, node) {
            let what = format!("{name} neither serves nor ends since bits of its files changed");
            self.record.broken.push((Promise::SaysWhy, what));
            return Ok(());
        }
        if site.cluster.has_ended(node) {
            return self.replace_rotten(site);
        }
        self.record.complaints.push(format!("bit-rot: {name} serves all the same"));
        Ok(())
    }

    /// Replaces nodes whose files were damaged and that have ended by themselves, which may be long after it.
    pub(super) fn replace_rotten(&mut self, site: &mut Site) -> Result<()> {
        for node in self.rotten.clone() {
            if !site.cluster.has_ended(node) {
                continue;
            }
            let name = site.cluster.node(node).name().to_owned();
            let log = site.cluster.node(node).log()?;
            let last: Vec<&str> = log.lines().rev().take(12).collect();
            if !last.iter().any(|line| line.contains(REFUSAL)) {
                let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
                let what = format!("{name} ended and does not say that its data are damaged:\n{last}");
                self.record.broken.push((Promise::SaysWhy, what));
            }
            self.record.complaints.push(format!("bit-rot: {name} refused its data and is replaced"));
            self.rotten.remove(&node);
            self.record.emptied.push((node, self.clock.now()));
            if let Err(error) = site.cluster.replace(node) {
                self.record.broken.push((Promise::ComesBack, format!("{name} could not be replaced: {error:#}")));
            }
        }
        Ok(())
    }

    /// Waits for the end of a daemon that was told to. One that something else befalls may take longer than anybody waits, and may
    /// not end well.
    pub(super) fn see_off(&mut self, site: &Site, node: usize) {
        let Some(leaving) = self.leaving.remove(&node) else { return };
        let name = site.cluster.node(node).name().to_owned();
        let beside = self.newcomer.is_some() || self.running.iter().any(Option::is_some);
        let ended = leaving.within(if beside { PATIENCE_BESIDE } else { wait::PATIENCE });
        let excused = self.rotten.contains(&node) || beside && (ended.is_err() || self.may_end.contains(&node));
        match ended {
            Ok(Some(0)) => {}
            ended if excused => {
                self.record
                    .complaints
                    .push(format!("terminate: {name} was told to end, beside other faults: {ended:?}"));
            }
            ended => self.did_not_end_well(&name, &ended),
        }
    }

    fn did_not_end_well(&mut self, name: &str, ended: &Result<Option<i32>>) {
        if interrupt::came() {
            // Nobody waited.
            return;
        }
        let what = format!("{name} was told to end and did not end well: {ended:?}");
        self.record.broken.push((Promise::SaysWhy, what));
    }

    /// Drains and starts all nodes again, one after the other, as an upgrade does; one goes to the programs in
    /// `BALLAST_UPGRADE_DIR` and, the next time, back.
    pub(super) fn upgrade(&mut self, site: &mut Site, kind: Kind) -> Result<()> {
        if kind == Kind::RollingUpgrade {
            let other = std::env::var_os(UPGRADE_DIR).with_context(|| format!("{kind} wants {UPGRADE_DIR}"))?;
            let now = site.cluster.programs().to_owned();
            let next = if now == *other { self.programs.clone() } else { PathBuf::from(other) };
            site.cluster.use_programs(&next);
        }
        for node in 0..site.members() {
            self.replace_rotten(site)?;
            self.note_end(site, node);
            let name = site.cluster.node(node).name().to_owned();
            let had_ended = site.cluster.has_ended(node);
            let ended = site.cluster.terminate(node);
            if !had_ended && !matches!(ended, Ok(Some(0))) {
                self.did_not_end_well(&name, &ended);
            }
            site.cluster.spawn(node)?;
            // Its peers are to have it back before the next one goes.
            settle(site, node);
            self.replace_rotten(site)?;
            if interrupt::came() {
                // Nobody waited.
                break;
            }
            if !site.cluster.is_ready(node) {
                self.record.broken.push((Promise::ComesBack, format!("{name} does not serve after its upgrade")));
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

/// Waits until a node is ready or has ended. Whether either came.
fn settle(site: &mut Site, node: usize) -> bool {
    let cluster = &mut site.cluster;
    let settled = || Ok((cluster.has_ended(node) || cluster.is_ready(node)).then_some(()));
    wait::until("a node to serve or to refuse", settled).is_ok()
}

fn under(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { under(&path) } else { vec![path] }).filter(|path| matters(path)).collect()
}

/// Whether anything depends on a file: RocksDB's own notes, name and record of its options are for people, and damage to them
/// would be a fault that nobody can notice.
fn matters(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !(name.starts_with("LOG") || name.starts_with("OPTIONS-") || name == "IDENTITY")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_something_depends_on_rot() {
        let is_to = |name: &str| matters(&Path::new("data/log/rocksdb").join(name));
        assert!(["000012.sst", "000013.log", "MANIFEST-000004", "CURRENT", "7.snapshot"].into_iter().all(is_to));
        assert!(!["LOG", "LOG.old.17", "IDENTITY", "OPTIONS-000007"].into_iter().any(is_to));
    }
}
