//! Stops all processes of a node at once, as a paused virtual machine would.
//!
//! By the kernel's freezer where a control group can be had (version 2, or the `freezer` of
//! version 1), which catches children as well; otherwise [`Freezer::new`] gives one that knows
//! nobody and the lab sends SIGSTOP to each process.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// A control group for the processes of one node. Removed when dropped.
pub(super) enum Freezer {
    /// `freezer.state` of version 1.
    One(PathBuf),
    /// `cgroup.freeze` of version 2.
    Two(PathBuf),
    /// No control group may be made.
    None,
}

impl Freezer {
    pub fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for (kind, at) in hierarchies(&mounts) {
            let folder = Path::new(at).join(name);
            if fs::create_dir(&folder).is_ok() {
                return match kind {
                    Version::One => Self::One(folder),
                    Version::Two => Self::Two(folder),
                };
            }
        }
        Self::None
    }

    /// Has a command, and all that it starts, belong to the group.
    pub fn place(&self, command: &mut Command) -> Result<()> {
        let Some(folder) = self.folder() else { return Ok(()) };
        let members = fs::OpenOptions::new()
            .write(true)
            .open(folder.join("cgroup.procs"))
            .with_context(|| format!("open control group {}", folder.display()))?;
        // SAFETY: write(2) is async-signal-safe; the closure owns the descriptor; `0` stands for the child itself.
        unsafe { command.pre_exec(move || join(&members)) };
        Ok(())
    }

    /// Whether the kernel froze the group; `false` where there is none.
    ///
    /// # Errors
    /// When it does not within a second.
    pub fn freeze(&self) -> Result<bool> {
        let (file, order, told, frozen) = match self {
            Self::One(folder) => (folder.join("freezer.state"), "FROZEN", folder.join("freezer.state"), "FROZEN"),
            Self::Two(folder) => (folder.join("cgroup.freeze"), "1", folder.join("cgroup.events"), "frozen 1"),
            Self::None => return Ok(false),
        };
        fs::write(&file, order).with_context(|| format!("write {}", file.display()))?;
        let started = Instant::now();
        while !fs::read_to_string(&told)?.lines().any(|line| line == frozen) {
            ensure!(started.elapsed() < Duration::from_secs(1), "the kernel does not freeze {}", told.display());
            thread::yield_now();
        }
        Ok(true)
    }

    /// Whether there was a group to thaw.
    pub fn thaw(&self) -> bool {
        match self {
            Self::One(folder) => fs::write(folder.join("freezer.state"), "THAWED").is_ok(),
            Self::Two(folder) => fs::write(folder.join("cgroup.freeze"), "0").is_ok(),
            Self::None => false,
        }
    }

    fn folder(&self) -> Option<&Path> {
        match self {
            Self::One(folder) | Self::Two(folder) => Some(folder),
            Self::None => None,
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let Some(folder) = self.folder() else { return };
        self.thaw();
        let started = Instant::now();
        // The group is busy until the kernel has taken its last process apart.
        while fs::remove_dir(folder).is_err() && folder.exists() && started.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn join(members: &File) -> io::Result<()> {
    // SAFETY: the buffer is one byte of a constant; the descriptor is open.
    match unsafe { libc::write(members.as_raw_fd(), c"0".as_ptr().cast(), 1) } {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Mounted hierarchies that can freeze, version 2 first.
fn hierarchies(mounts: &str) -> Vec<(Version, &str)> {
    let all = |version, kind: &'static str, option: &'static str| {
        mounts.lines().filter_map(move |line| {
            let mut words = line.split(' ').skip(1);
            let (at, of, options) = (words.next()?, words.next()?, words.next()?);
            (of == kind && (option.is_empty() || options.split(',').any(|o| o == option))).then_some((version, at))
        })
    };
    all(Version::Two, "cgroup2", "").chain(all(Version::One, "cgroup", "freezer")).collect()
}

/// Groups that a dead test left behind.
pub(super) fn remains(is_stale: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    hierarchies(&mounts)
        .into_iter()
        .flat_map(|(_, at)| fs::read_dir(at).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_str().is_some_and(&is_stale))
        .map(|entry| entry.path())
        .collect()
}

/// Thaws and removes such a group.
pub(super) fn discard(folder: PathBuf) {
    drop(if folder.join("freezer.state").exists() { Freezer::One(folder) } else { Freezer::Two(folder) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_of_version_two_comes_first() {
        let mounts = "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
                      cgroup /sys/fs/cgroup/freezer cgroup rw,relatime,freezer 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            hierarchies(mounts),
            [(Version::Two, "/sys/fs/cgroup/unified"), (Version::One, "/sys/fs/cgroup/freezer")]
        );
    }
}
