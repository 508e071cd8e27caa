//! One named network namespace.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{fs::MetadataExt, process::CommandExt},
    },
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Where iproute2 keeps them.
pub(super) const FOLDER: &str = "/run/netns";

/// A network namespace; removed when dropped.
pub(super) struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes it.
    pub fn add(name: String) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["netns", "add", &name]).process_group(0);
        super::output_of(command)?;
        let file = File::open(format!("{FOLDER}/{name}")).with_context(|| format!("open namespace {name}"))?;
        Ok(Self { name, file })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into it, for good.
    pub fn enter(&self) -> io::Result<()> {
        enter(self.file.as_raw_fd())
    }

    pub fn door(&self) -> Result<Door> {
        Ok(Door(self.file.try_clone()?))
    }

    /// Has a command run in it and end with the thread that starts it. It is in a group of its own, so that what is typed at a
    /// terminal (Ctrl-C) reaches only whoever built the lab.
    pub fn place(&self, command: &mut Command) -> Result<()> {
        let file = self.file.try_clone()?;
        command.process_group(0);
        // SAFETY: setns(2) and prctl(2) are async-signal-safe and touch only the child; the closure owns the descriptor.
        unsafe {
            command.pre_exec(move || {
                enter(file.as_raw_fd())?;
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Ok(())
    }

    /// All processes in it, whoever started them.
    pub fn pids(&self) -> Vec<u32> {
        self.file.metadata().map(|own| pids_in(&own)).unwrap_or_default()
    }

    /// Kills all processes in it, those that they start meanwhile included.
    pub fn kill_all(&self) {
        if let Ok(own) = self.file.metadata() {
            kill_all(&own);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kill_all();
        remove(&self.name);
    }
}

/// A way into a host's network.
pub struct Door(File);

impl Door {
    /// Moves the calling thread there, for good.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn enter(&self) -> io::Result<()> {
        enter(self.0.as_raw_fd())
    }
}

/// Kills all processes in the namespace that a file's metadata name.
pub(super) fn kill_all(of: &fs::Metadata) {
    let started = Instant::now();
    loop {
        let pids = pids_in(of);
        if pids.is_empty() || started.elapsed() > Duration::from_secs(5) {
            return;
        }
        for pid in pids {
            super::process::signal(pid, libc::SIGKILL);
        }
        // Until the kernel has taken them apart; nothing depends on its length.
        thread::sleep(Duration::from_millis(2));
    }
}

/// Removes a namespace. Its devices go with the last process and socket in it.
pub(super) fn remove(name: &str) {
    let _ = Command::new("ip").args(["netns", "del", name]).process_group(0).output();
}

fn enter(descriptor: i32) -> io::Result<()> {
    // SAFETY: setns(2) takes no pointers and concerns the calling thread alone.
    if unsafe { libc::setns(descriptor, libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Processes whose first thread is in the namespace, without those that have ended and wait to be reaped.
fn pids_in(of: &fs::Metadata) -> Vec<u32> {
    let (device, inode) = (of.dev(), of.ino());
    let own = std::process::id();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|of| of.dev() == device && of.ino() == inode)
        })
        .collect()
}
