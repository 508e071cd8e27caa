//! A daemon that was told to end, and ends in its own time.
//!
//! Whoever told it may do other things meanwhile, and may lose patience. It is dead when this is dropped.
//!
//! Not here: which daemon that is, and what it is started on again (`cluster`).

use std::{process::Child, time::Duration};

use anyhow::Result;

use crate::{
    running::{Running, send_signal},
    wait,
};

/// A daemon that was sent SIGTERM.
#[derive(Debug)]
pub struct Leaving {
    name: String,
    process: Running,
    /// Who tells it and waits, if that is somebody else.
    teller: Option<Child>,
}

impl Leaving {
    /// Tells it.
    pub(crate) fn tell(name: &str, process: Running) -> Self {
        let teller = match &process {
            Running::Process(process) => {
                send_signal(process, libc::SIGTERM);
                None
            }
            Running::Container(container) => container.tell(),
        };
        Self { name: name.to_owned(), process, teller }
    }

    /// Waits for its end. Returns its exit code, if it was no signal that ended it.
    ///
    /// # Errors
    /// When it does not end in [`wait::PATIENCE`].
    pub fn wait(self) -> Result<Option<i32>> {
        self.within(wait::PATIENCE)
    }

    /// As [`Leaving::wait`], with less patience.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn within(mut self, patience: Duration) -> Result<Option<i32>> {
        wait::within(patience, &format!("{} to end", self.name), || self.process.ended())
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !matches!(self.process.ended(), Ok(Some(_))) {
            self.process.kill();
        }
        if let Some(teller) = &mut self.teller {
            let _ = teller.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn told(script: &str) -> Leaving {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{script}; echo; read end")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = shell.spawn().expect("a shell");
        // It has set its trap when it says something.
        std::io::Read::read_exact(process.stdout.as_mut().expect("a pipe"), &mut [0]).expect("a line");
        Leaving::tell("sh", Running::Process(process))
    }

    #[test]
    fn one_that_ends_as_it_was_told_to_has_a_code() {
        assert_eq!(told("trap 'exit 7' TERM").wait().expect("it ends"), Some(7));
        assert_eq!(told("true").wait().expect("it ends"), None, "the signal itself");
    }

    #[test]
    fn one_that_does_not_end_in_time_is_killed() {
        let leaving = told("trap '' TERM");
        let process = format!("/proc/{}", leaving.process.pid().expect("an id"));
        assert!(leaving.within(Duration::ZERO).is_err());
        assert!(!std::path::Path::new(&process).exists());
    }
}
