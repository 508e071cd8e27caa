//! A daemon that was started: a process of ours, or a container of somebody who starts it again when it ends by itself.

use std::{process::Child, sync::Arc};

use anyhow::Result;

use crate::container::Container;

/// A daemon.
#[derive(Debug)]
pub(crate) enum Running {
    Process(Child),
    Container(Arc<Container>),
}

impl Running {
    /// Kills it, and returns when it is dead.
    pub(crate) fn kill(&mut self) {
        match self {
            Self::Process(process) => {
                let _ = process.kill();
                let _ = process.wait();
            }
            Self::Container(container) => container.kill(),
        }
    }

    /// Begins to kill it, if that does not wait for its death.
    pub(crate) fn begin_to_kill(&self) {
        match self {
            Self::Process(process) => send_signal(process, libc::SIGKILL),
            Self::Container(_) => {}
        }
    }

    pub(crate) fn pause(&self) {
        match self {
            Self::Process(process) => send_signal(process, libc::SIGSTOP),
            Self::Container(container) => container.pause(),
        }
    }

    pub(crate) fn resume(&self) {
        match self {
            Self::Process(process) => send_signal(process, libc::SIGCONT),
            Self::Container(container) => container.resume(),
        }
    }

    /// Whether it has ended, and with which exit code, if it was no signal that ended it.
    pub(crate) fn ended(&mut self) -> Result<Option<Option<i32>>> {
        match self {
            Self::Process(process) => Ok(process.try_wait()?.map(|status| status.code())),
            Self::Container(container) => Ok(container.ended()?.map(Some)),
        }
    }

    /// Its process id, as far as that is known.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Process(process) => Some(process.id()),
            Self::Container(container) => container.pid(),
        }
    }
}

pub(crate) fn send_signal(process: &Child, signal: i32) {
    let Ok(pid) = libc::pid_t::try_from(process.id()) else { return };
    // SAFETY: kill(2) takes no pointers; the child is not reaped yet, so the pid is still ours.
    unsafe { libc::kill(pid, signal) };
}
