//! Nodes that are short of something: processor time, memory, descriptors.
//!
//! Processor time and memory by control groups of version 1, each made when it is first wanted and removed with the lab;
//! descriptors by the limits of each process.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::PoisonError,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Host, Lab};

/// Of what there is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// So many percent of one processor.
    Processor {
        /// More than 0.
        percent: u64,
    },
    /// So many bytes more than there are.
    Memory {
        /// A process that needs more is killed by the kernel.
        bytes: u64,
    },
    /// So many descriptors more than are open.
    Descriptors {
        /// May be 0.
        more: u64,
    },
}

/// A control group. Removed when dropped, which takes that no process is in it.
pub(super) struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let started = Instant::now();
        while fs::remove_dir(&self.0).is_err() && self.0.exists() && started.elapsed() < Duration::from_secs(2) {
            // Until the kernel has taken the last process apart; nothing depends on its length.
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Lab {
    /// Lets a node's processes be short of something. Whether the kernel can: it has no control groups everywhere, and takes no
    /// memory away that is in use. [`Lab::plenty`] ends it.
    ///
    /// # Errors
    /// When it could and does not.
    pub fn short(&self, node: usize, of: Short) -> Result<bool> {
        let (controller, file, value) = match of {
            // Of a period of 100 ms, the kernel's own, in microseconds.
            Short::Processor { percent } => ("cpu", "cpu.cfs_quota_us", percent * 1000),
            // What a process had before it came into the group does not count.
            Short::Memory { bytes } => ("memory", "memory.limit_in_bytes", bytes),
            Short::Descriptors { more } => {
                self.pids(Host::Node(node)).into_iter().for_each(|pid| limit_descriptors(pid, Some(more)));
                return Ok(true);
            }
        };
        let Some(folder) = self.group(node, controller)? else { return Ok(false) };
        match fs::write(folder.join(file), value.to_string()) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => return Ok(false),
            written => written.with_context(|| format!("write {value} to {}", folder.join(file).display()))?,
        }
        for pid in self.pids(Host::Node(node)) {
            // One that has ended meanwhile is short of nothing.
            let _ = fs::write(folder.join("cgroup.procs"), pid.to_string());
        }
        Ok(true)
    }

    /// Ends all shortages of a node.
    ///
    /// # Errors
    /// When the kernel does not take the limit away.
    pub fn plenty(&self, node: usize) -> Result<()> {
        self.pids(Host::Node(node)).into_iter().for_each(|pid| limit_descriptors(pid, None));
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        for group in groups.iter().filter(|(of, _)| *of == node).map(|(_, group)| group) {
            for file in ["cpu.cfs_quota_us", "memory.limit_in_bytes"].map(|file| group.0.join(file)) {
                if file.exists() {
                    write(&file, "-1")?;
                }
            }
        }
        Ok(())
    }

    fn group(&self, node: usize, controller: &str) -> Result<Option<PathBuf>> {
        let Some(at) = hierarchies().into_iter().find(|at| at.ends_with(controller)) else { return Ok(None) };
        let folder = at.join(self.namespace(Host::Node(node)).name());
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if !groups.iter().any(|(_, group)| group.0 == folder) {
            fs::create_dir(&folder).with_context(|| format!("make control group {}", folder.display()))?;
            groups.push((node, Group(folder.clone())));
        }
        Ok(Some(folder))
    }
}

/// Where groups can be made: the folders of the two controllers, which are called like them.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        (kind == "cgroup" && (at.ends_with("/cpu") || at.ends_with("/memory"))).then(|| PathBuf::from(at))
    };
    mounts.lines().filter_map(of).collect()
}

/// Groups that a dead test left behind; they are removed when dropped.
pub(super) fn remains(is_stale: impl Fn(&str) -> bool) -> Vec<Group> {
    let entries = hierarchies().into_iter().flat_map(|at| fs::read_dir(at).into_iter().flatten().flatten());
    let stale = entries.filter(|entry| entry.file_name().to_str().is_some_and(&is_stale));
    stale.map(|entry| Group(entry.path())).collect()
}

/// Sets the soft limit of a process to some more than it has open, or to its hard limit.
fn limit_descriptors(pid: u32, more: Option<u64>) {
    let Ok(id) = libc::pid_t::try_from(pid) else { return };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit lives through the call; a null pointer sets nothing.
    if unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) } != 0 {
        return;
    }
    // The highest number in use counts, not how many there are.
    let highest = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let highest = highest.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).max().unwrap_or(0);
    limit.rlim_cur = more.map_or(limit.rlim_max, |more| (highest + 1 + more).min(limit.rlim_max));
    // SAFETY: the limit lives through the call; a null pointer asks for nothing.
    unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
}

fn write(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).with_context(|| format!("write {value} to {}", file.display()))
}
