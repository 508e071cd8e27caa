//! People and their programs: `ballastctl` and verbs of `ballastd`, run to their end.
//!
//! Not here: daemons, which do not end by themselves (`running`).

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use crate::wait;

/// A way to run `ballastctl` for a thread that does not have the cluster.
#[derive(Clone, Debug)]
pub struct Operator {
    pub(crate) program: PathBuf,
    /// Where each node is administered.
    pub(crate) servers: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Operator {
    /// How many nodes there are to administer.
    pub fn nodes(&self) -> usize {
        self.servers.len()
    }

    /// Runs `ballastctl` against a node.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ctl(&self, position: usize, arguments: &[&str]) -> Result<Said> {
        let mut command = Command::new(&self.program);
        command
            .env_remove("BALLAST_CONTEXT")
            .env("BALLAST_SERVER", &self.servers[position])
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(arguments);
        finish(command)
    }
}

/// By which `ballastctl` finds `ca.pem`, `admin.pem` and `admin.key` of a folder.
pub(crate) fn credentials(folder: &Path) -> [(String, String); 3] {
    let file = |name: &str| folder.join(name).display().to_string();
    [("BALLAST_CA", "ca.pem"), ("BALLAST_CERT", "admin.pem"), ("BALLAST_KEY", "admin.key")]
        .map(|(variable, name)| (variable.to_owned(), file(name)))
}

/// A verb of a node's `ballastd` that is still to be run.
#[derive(Debug)]
pub struct Task(pub(crate) Command);

impl Task {
    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub fn run(mut self, arguments: &[&str]) -> Result<Said> {
        self.0.args(arguments);
        finish(self.0)
    }
}

/// What a finished program said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Checks that it failed, did not panic, and that its error says all of `parts`.
    ///
    /// # Errors
    /// Says which is missing, and what was said.
    pub fn refused(&self, parts: &[&str]) -> Result<()> {
        ensure!(self.code != 0, "was not refused: {}", self.out);
        for part in parts {
            ensure!(self.err.contains(part), "{part:?} is not in (exit {}):\n{}{}", self.code, self.out, self.err);
        }
        ensure!(!self.err.contains("panicked"), "{}", self.err);
        Ok(())
    }
}

impl From<&Output> for Said {
    fn from(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program to its end, which must come in time.
pub(crate) fn finish(mut command: Command) -> Result<Said> {
    die_with_parent(&mut command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("start {command:?}"))?;
    let id = child.id();
    let (ended, end) = mpsc::sync_channel(1);
    let waiting = thread::spawn(move || drop(ended.send(child.wait_with_output())));
    if let Ok(output) = end.recv_timeout(wait::PATIENCE) {
        return Ok(Said::from(&output?));
    }
    if let Ok(id) = libc::pid_t::try_from(id) {
        // SAFETY: kill(2) takes no pointers; the thread that would reap the child has not, so the pid is still ours.
        unsafe { libc::kill(id, libc::SIGKILL) };
    }
    let _ = waiting.join();
    bail!("{command:?} did not end within {:?}", wait::PATIENCE)
}

/// Makes the kernel kill the child when the test that started it dies without unwinding. What is typed at a terminal does not
/// reach it: who started it ends it.
pub(crate) fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches only the child.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}
