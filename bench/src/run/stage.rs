//! What stands while cases are measured: backends, proxies, a folder for their files.
//!
//! The proxies of the HTTP cases are started by the first case that needs them and stay for the
//! next; the cases about clusters clear the stage first.

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use super::{
    Options,
    ballast::Ballast,
    haproxy::{self, Tuning},
    load::{Backend, Backends},
    nginx, rounds,
};
use crate::process::{self, Guarded};

/// Name of our own subject in all tables.
pub const BALLAST: &str = "ballast";

/// Name of the backend without a proxy before it.
pub const DIRECT: &str = "direct";

/// A stage.
pub struct Stage {
    /// What the operator asked for.
    pub options: Options,
    folder: TempDir,
    backends: Option<Backends>,
    subjects: Vec<Subject>,
    key_space: u32,
}

/// Something that is measured.
pub struct Subject {
    /// Its name in tables and results.
    pub name: &'static str,
    /// Listener without persistence.
    pub plain: std::net::SocketAddr,
    /// Listener with a table keyed by [`super::ballast::KEY_HEADER`], if it can.
    pub table: Option<std::net::SocketAddr>,
    running: Running,
}

/// What must be ended with a subject.
enum Running {
    Peer(Guarded),
    Ballast(Box<Ballast>),
    /// Nothing: the backends, which the stage keeps.
    Direct(u32),
}

impl Subject {
    /// A proxy that is not ours.
    pub fn peer(
        name: &'static str,
        process: Guarded,
        plain: std::net::SocketAddr,
        table: Option<std::net::SocketAddr>,
    ) -> Self {
        Self { name, plain, table, running: Running::Peer(process) }
    }

    /// Processes whose CPU time and memory are its own.
    pub fn pids(&self) -> Vec<u32> {
        match &self.running {
            Running::Peer(process) => process::tree(process.id()),
            Running::Ballast(ballast) => ballast.pids(),
            Running::Direct(backends) => vec![*backends],
        }
    }
}

impl Stage {
    /// An empty stage.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn new(options: Options) -> Result<Self> {
        rounds::end_on_signals();
        let folder = tempfile::Builder::new().prefix("ballast-bench-").tempdir()?;
        Ok(Self { options, folder, backends: None, subjects: Vec::new(), key_space: 0 })
    }

    /// Folder for files of this run, on the disk that is measured.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A number for keys that no other measurement of this run uses.
    pub fn fresh_key_space(&mut self) -> u32 {
        self.key_space += 1;
        self.key_space
    }

    /// Ends everything.
    pub fn clear(&mut self) {
        self.subjects.clear();
        self.backends = None;
    }

    /// The backends, pinned beside the generator.
    ///
    /// # Errors
    /// When they do not start.
    pub fn backends(&mut self) -> Result<Vec<Backend>> {
        let core = Some(self.options.load_core);
        if self.backends.is_none() {
            self.backends = Some(Backends::start(&["web1", "web2"], core)?);
        }
        Ok(self.backends.as_ref().map(|b| b.list().to_vec()).unwrap_or_default())
    }

    /// The proxies of the HTTP cases, each with its one worker on the proxy's core.
    ///
    /// # Errors
    /// When one that is installed does not start, or there is none at all.
    pub fn proxies(&mut self) -> Result<&[Subject]> {
        if self.subjects.is_empty() {
            self.subjects = self.fresh_proxies(Tuning::Defaults)?;
        }
        Ok(&self.subjects)
    }

    /// New processes of all proxies.
    ///
    /// # Errors
    /// As [`Stage::proxies`].
    pub fn fresh_proxies(&mut self, tuning: Tuning) -> Result<Vec<Subject>> {
        let mut subjects = Vec::new();
        if !self.options.without_ballast {
            subjects.push(self.ballast_alone()?);
        }
        subjects.extend(self.peers(tuning)?);
        anyhow::ensure!(!subjects.is_empty(), "there is nothing to measure");
        Ok(subjects)
    }

    /// New processes of the peers alone.
    ///
    /// # Errors
    /// When one that is installed does not start.
    pub fn peers(&mut self, tuning: Tuning) -> Result<Vec<Subject>> {
        let backends = self.backends()?;
        let core = Some(self.options.proxy_core);
        let haproxy = haproxy::start(self.folder(), &backends, core, tuning)?;
        let nginx = nginx::start(self.folder(), &backends, core, tuning)?;
        Ok(haproxy.into_iter().chain(nginx).collect())
    }

    /// A Ballast cluster of one.
    fn ballast_alone(&mut self) -> Result<Subject> {
        let backends = self.backends()?;
        let ballast = Ballast::start(1, &backends, Some(self.options.proxy_core))?;
        let site = ballast.site(0);
        let (plain, table) = (site.plain, Some(site.table));
        Ok(Subject { name: BALLAST, plain, table, running: Running::Ballast(Box::new(ballast)) })
    }

    /// A backend without a proxy before it: what the machine itself costs.
    ///
    /// # Errors
    /// When the backends do not start.
    pub fn direct(&mut self) -> Result<Vec<Subject>> {
        let first = self.backends()?.into_iter().next();
        let pid = self.backends.as_ref().map(Backends::pid);
        Ok(first
            .zip(pid)
            .map(|((_, plain), pid)| Subject { name: DIRECT, plain, table: None, running: Running::Direct(pid) })
            .into_iter()
            .collect())
    }
}
