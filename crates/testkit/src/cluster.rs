//! Clusters of real `ballastd` processes on loopback, driven through `ballastctl`.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

pub use crate::operator::{Operator, Said, Task};
use crate::{
    client::{Client, Response},
    container::Container,
    lab::{Host, Lab},
    leaving::Leaving,
    operator::{credentials, die_with_parent, finish},
    ports,
    running::Running,
    wait,
};

/// Where the binaries are: `BALLAST_BIN_DIR`, else the folder (or its parent) of the running program.
///
/// # Errors
/// When `ballastd` is in none of them.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("BALLAST_BIN_DIR") {
        return Ok(dir.into());
    }
    let exe = std::env::current_exe()?;
    exe.ancestors()
        .skip(1)
        .take(3)
        .find(|dir| dir.join("ballastd").is_file())
        .map(Path::to_owned)
        .with_context(|| format!("no ballastd beside {}; run `make build` first", exe.display()))
}

/// A cluster of processes. Everything is killed and removed when it is dropped.
pub struct Cluster {
    nodes: Vec<Node>,
    bin: PathBuf,
    folder: TempDir,
    extra: String,
    environment: Vec<(String, String)>,
    lab: Option<Arc<Lab>>,
}

/// One node of a [`Cluster`].
pub struct Node {
    name: String,
    folder: PathBuf,
    cluster: SocketAddr,
    admin: SocketAddr,
    metrics: SocketAddr,
    process: Option<Running>,
    /// Where it runs, if that is none of ours.
    container: Option<Arc<Container>>,
}

impl Cluster {
    /// Starts a cluster of `count` nodes and waits until each is ready.
    ///
    /// # Errors
    /// When a process fails or a node is not ready in time; the message carries the node's log.
    pub fn start(count: usize) -> Result<Self> {
        Self::start_with(count, "")
    }

    /// As [`Cluster::start`], with `extra` appended to each node's `ballastd.toml`.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(count: usize, extra: &str) -> Result<Self> {
        Self::start_in(count, extra, &[])
    }

    /// As [`Cluster::start_with`], with these variables in the environment of `ballastd` and `ballastctl`.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_in(count: usize, extra: &str, environment: &[(&str, &str)]) -> Result<Self> {
        Self::begin(count, extra, environment, None)
    }

    /// Starts a cluster on the nodes of a network of namespaces, one on each, as [`Cluster::start_with`] does on loopback.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_in_lab(lab: &Arc<Lab>, extra: &str) -> Result<Self> {
        Self::start_in_lab_with(lab, extra, &[])
    }

    /// As [`Cluster::start_in_lab`], with these variables in the environment of `ballastd` and `ballastctl`.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_in_lab_with(lab: &Arc<Lab>, extra: &str, environment: &[(&str, &str)]) -> Result<Self> {
        Self::begin(lab.nodes(), extra, environment, Some(Arc::clone(lab)))
    }

    fn begin(count: usize, extra: &str, environment: &[(&str, &str)], lab: Option<Arc<Lab>>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ballast-").tempdir()?;
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut cluster =
            Self { nodes: Vec::new(), bin: bin_dir()?, folder, extra: extra.to_owned(), environment, lab };
        for _ in 0..count {
            cluster.add_node()?;
        }
        // Voters come in odd numbers: a second one would only be one more whose loss is the quorum's.
        cluster.wait_voters(if count < 3 { 1 } else { 3 })?;
        Ok(cluster)
    }

    /// A cluster of containers that run already, administered with the `ca.pem`, `admin.pem` and `admin.key` of a folder.
    ///
    /// # Errors
    /// When there is no `ballastctl`, or a folder cannot be made.
    pub fn of_containers(containers: &[Arc<Container>], admin: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ballast-").tempdir()?;
        let mut nodes = Vec::new();
        for container in containers {
            let name = container.service().to_owned();
            let node_folder = folder.path().join(&name);
            fs::create_dir(&node_folder)?;
            let [cluster, admin, metrics] =
                [7400, 7401, 7402].map(|port| SocketAddr::from((container.address(), port)));
            let process = Some(Running::Container(Arc::clone(container)));
            let container = Some(Arc::clone(container));
            nodes.push(Node { name, folder: node_folder, cluster, admin, metrics, process, container });
        }
        let environment = credentials(admin).into();
        Ok(Self { nodes, bin: bin_dir()?, folder, extra: String::new(), environment, lab: None })
    }

    /// Adds a node: the first makes the cluster, each other joins it. Returns its position.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn add_node(&mut self) -> Result<usize> {
        let position = self.prepare_node()?;
        self.enter(position)?;
        Ok(position)
    }

    /// Takes a prepared node in: the first makes the cluster, each other joins it.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn enter(&mut self, position: usize) -> Result<()> {
        if position == 0 {
            self.daemon_once(0, &["init"])?;
        } else {
            self.join(position)?;
        }
        self.spawn(position)?;
        self.wait_ready(position)
    }

    /// Has a prepared node join, and does not start it yet.
    ///
    /// # Errors
    /// When no node gives a token, or it is not taken.
    pub fn join(&self, position: usize) -> Result<()> {
        let token = self.join_token()?;
        self.daemon_once(position, &["join", "--token", &token])
    }

    /// Removes a node that stopped for good, empties its data directory and joins it as a new one.
    ///
    /// # Errors
    /// As [`Cluster::start`], or when it cannot be removed.
    pub fn replace(&mut self, position: usize) -> Result<()> {
        self.remove(position)?;
        // Also the first one joins now: there is a cluster.
        self.join(position)?;
        self.spawn(position)?;
        self.wait_ready(position)
    }

    /// Kills a node, removes it from the cluster and empties its data directory.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&mut self, position: usize) -> Result<()> {
        self.kill(position);
        let name = self.nodes[position].name.clone();
        wait::until(&format!("{name} to be removed"), || {
            let said = self.ctl_any(&["node", "remove", &name])?;
            ensure!(said.code == 0, "exit {}: {}", said.code, said.err);
            Ok(Some(()))
        })?;
        Ok(fs::remove_dir_all(self.nodes[position].data())?)
    }

    /// Changes a node's `ballastd.toml`.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn edit(&self, position: usize, change: impl FnOnce(&str) -> String) -> Result<()> {
        let file = self.nodes[position].config();
        let text = fs::read_to_string(&file)?;
        Ok(fs::write(&file, change(&text))?)
    }

    /// Writes a node's folder and `ballastd.toml` without starting anything. Returns its position.
    ///
    /// # Errors
    /// When no port or file can be had.
    pub fn prepare_node(&mut self) -> Result<usize> {
        let position = self.nodes.len();
        let name = format!("node-{}", position + 1);
        let folder = self.folder.path().join(&name);
        fs::create_dir_all(&folder)?;
        let [cluster, admin, metrics] = match self.lab {
            // A node of a lab has a loopback and all ports to itself.
            Some(_) => [
                SocketAddr::from((Host::Node(position).ip(), 7400)),
                SocketAddr::from((Host::Node(position).ip(), 7401)),
                SocketAddr::from(([127, 0, 0, 1], 7402)),
            ],
            None => [ports::free_local()?, ports::free_local()?, ports::free_local()?],
        };
        let node = Node { folder, cluster, admin, metrics, process: None, container: None, name };
        fs::write(
            node.config(),
            format!(
                "name = \"{}\"\ndata_dir = \"{}\"\n\n[listen]\ncluster = \"{}\"\nadmin = \"{}\"\nmetrics = \"{}\"\n\n\
                 [log]\naccess = \"{}\"\n\n[proxy]\nworkers = 1\n\n[labels]\nnode = \"{}\"\n\n{}\n",
                node.name,
                node.folder.join("data").display(),
                node.cluster,
                node.admin,
                node.metrics,
                node.folder.join("access.log").display(),
                node.name,
                self.extra
            ),
        )?;
        self.nodes.push(node);
        Ok(position)
    }

    /// A fresh join token, from the first node that runs.
    ///
    /// # Errors
    /// When no node gives one.
    pub fn join_token(&self) -> Result<String> {
        wait::until("a join token", || {
            let said = self.ctl_any(&["node", "join-token"])?;
            ensure!(said.code == 0, "{}", said.err);
            Ok(Some(said.out.trim().to_owned()))
        })
    }

    /// Runs `ballastd VERB --config ...` of a node to its end.
    ///
    /// # Errors
    /// When it exits with anything but 0.
    pub fn daemon_once(&self, position: usize, arguments: &[&str]) -> Result<()> {
        let said = self.daemon_says(position, arguments)?;
        ensure!(said.code == 0, "ballastd {} of {} failed: {}", arguments[0], self.nodes[position].name, said.err);
        Ok(())
    }

    /// Runs `ballastd VERB --config ...` of a node to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn daemon_says(&self, position: usize, arguments: &[&str]) -> Result<Said> {
        self.task(position, arguments[0])?.run(&arguments[1..])
    }

    /// `ballastd VERB --config ...` of a node, for a thread that does not have the cluster.
    ///
    /// # Errors
    /// When it cannot be put where the node is.
    pub fn task(&self, position: usize, verb: &str) -> Result<Task> {
        let mut command = Command::new(self.bin.join("ballastd"));
        command.arg(verb).arg("--config").arg(self.nodes[position].config());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.place(position, &mut command)?;
        Ok(Task(command))
    }

    /// Starts a node's daemon (again).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self, position: usize) -> Result<()> {
        let node = &mut self.nodes[position];
        if let Some(container) = &node.container {
            container.start()?;
            node.process = Some(Running::Container(Arc::clone(container)));
            return Ok(());
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(node.folder.join("ballastd.log"))?;
        let mut command = Command::new(self.bin.join("ballastd"));
        command.arg("run").arg("--config").arg(node.config()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        die_with_parent(&mut command);
        self.place(position, &mut command)?;
        self.nodes[position].process = Some(Running::Process(command.spawn().context("start ballastd")?));
        Ok(())
    }

    /// Waits until a node says that it is ready.
    ///
    /// # Errors
    /// When it is not in time, with the end of its log.
    pub fn wait_ready(&self, position: usize) -> Result<()> {
        let node = &self.nodes[position];
        wait::until(&format!("{} to be ready", node.name), || {
            let answer = self.ask(position, "/readyz")?;
            if answer.status == 200 { Ok(Some(())) } else { bail!("{} {}", answer.status, answer.text()) }
        })
        .with_context(|| format!("log of {}:\n{}", node.name, tail(&node.log().unwrap_or_default(), 30)))
    }

    /// Whether a node says that it is ready now.
    pub fn is_ready(&self, position: usize) -> bool {
        self.ask(position, "/readyz").is_ok_and(|answer| answer.status == 200)
    }

    /// Number of nodes, dead or alive.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node.
    pub fn node(&self, position: usize) -> &Node {
        &self.nodes[position]
    }

    /// Position of the node with that name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// Sends SIGKILL to a node and reaps it.
    pub fn kill(&mut self, position: usize) {
        if let Some(mut process) = self.nodes[position].process.take() {
            process.kill();
        }
    }

    /// Sends SIGKILL to all nodes before reaping any.
    pub fn kill_all(&mut self) {
        for node in &self.nodes {
            if let Some(process) = &node.process {
                process.begin_to_kill();
            }
        }
        thread::scope(|scope| {
            for mut process in self.nodes.iter_mut().filter_map(|node| node.process.take()) {
                scope.spawn(move || process.kill());
            }
        });
    }

    /// Sends SIGTERM to a node and waits for its end. Returns its exit code.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn terminate(&mut self, position: usize) -> Result<Option<i32>> {
        self.dismiss(position).map_or(Ok(None), Leaving::wait)
    }

    /// Sends SIGTERM to a node and lets go of its process, if it has one: the node counts as dead from now on.
    pub fn dismiss(&mut self, position: usize) -> Option<Leaving> {
        let node = &mut self.nodes[position];
        Some(Leaving::tell(&node.name, node.process.take()?))
    }

    /// Waits for a node's process to end by itself. Returns its exit code.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_exit(&mut self, position: usize) -> Result<Option<i32>> {
        let node = &mut self.nodes[position];
        let Some(process) = &mut node.process else { return Ok(None) };
        let status = wait::until(&format!("{} to end", node.name), || process.ended())?;
        node.process = None;
        Ok(status)
    }

    /// Whether a node's process was started and has ended by itself.
    pub fn has_ended(&mut self, position: usize) -> bool {
        let process = self.nodes[position].process.as_mut();
        process.is_some_and(|process| matches!(process.ended(), Ok(Some(_))))
    }

    /// Starts nodes from another folder of programs from now on: another release.
    pub fn use_programs(&mut self, bin: &Path) {
        bin.clone_into(&mut self.bin);
    }

    /// The folder of programs that nodes are started from.
    pub fn programs(&self) -> &Path {
        &self.bin
    }

    /// Stops a node's process in its tracks.
    pub fn pause(&self, position: usize) {
        if let Some(process) = &self.nodes[position].process {
            process.pause();
        }
    }

    /// Lets a paused node go on.
    pub fn resume(&self, position: usize) {
        if let Some(process) = &self.nodes[position].process {
            process.resume();
        }
    }

    /// Whether a node's process was started and not killed.
    pub fn is_up(&self, position: usize) -> bool {
        self.nodes[position].process.is_some()
    }

    /// Runs `ballastctl` against a node's unix socket, or a container's admin address.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ctl(&self, position: usize, arguments: &[&str]) -> Result<Said> {
        self.operator().ctl(position, arguments)
    }

    /// Somebody who administers the nodes that there are now.
    pub fn operator(&self) -> Operator {
        Operator {
            program: self.bin.join("ballastctl"),
            servers: self.nodes.iter().map(Node::server).collect(),
            environment: self.environment.clone(),
        }
    }

    /// Runs `ballastctl` against a node's admin address, with `ca.pem`, `admin.pem` and `admin.key` of a folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ctl_as(&self, position: usize, credentials: &Path, arguments: &[&str]) -> Result<Said> {
        let mut command = Command::new(self.bin.join("ballastctl"));
        command
            .env_remove("BALLAST_CONTEXT")
            .env("BALLAST_SERVER", format!("https://{}", self.nodes[position].admin))
            .envs(self::credentials(credentials))
            .env("NO_COLOR", "1")
            .args(arguments);
        finish(command)
    }

    /// Runs `ballastctl` against the first node that runs.
    ///
    /// # Errors
    /// When no node runs.
    pub fn ctl_any(&self, arguments: &[&str]) -> Result<Said> {
        let position = (0..self.nodes.len()).find(|p| self.is_up(*p)).context("no node runs")?;
        self.ctl(position, arguments)
    }

    /// Runs `ballastctl`, which must succeed, and returns its output.
    ///
    /// # Errors
    /// When it exits with anything but 0.
    pub fn ctl_ok(&self, position: usize, arguments: &[&str]) -> Result<String> {
        Ok(self.ctl_well(position, arguments)?.out)
    }

    /// Runs `ballastctl`, which must succeed.
    fn ctl_well(&self, position: usize, arguments: &[&str]) -> Result<Said> {
        let said = self.ctl(position, arguments)?;
        ensure!(
            said.code == 0,
            "ballastctl {} exited with {}:\n{}{}",
            arguments.join(" "),
            said.code,
            said.out,
            said.err
        );
        Ok(said)
    }

    /// Runs `ballastctl ... -o json`, which must succeed, and returns what it printed.
    ///
    /// # Errors
    /// When it exits with anything but 0 or prints no JSON.
    pub fn ctl_json(&self, position: usize, arguments: &[&str]) -> Result<Value> {
        let mut with_format = arguments.to_vec();
        with_format.extend(["-o", "json"]);
        let out = self.ctl_ok(position, &with_format)?;
        serde_json::from_str(&out).with_context(|| format!("not JSON: {out}"))
    }

    /// Writes a file of the test into [`Cluster::folder`] and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<String> {
        let file = self.folder.path().join(name);
        fs::write(&file, text)?;
        Ok(file.display().to_string())
    }

    /// Writes `document` to a file and applies it at a node, waiting until every node that runs serves it.
    ///
    /// # Errors
    /// When it is refused, or not served in time.
    pub fn apply(&self, position: usize, document: &str) -> Result<String> {
        let file = self.write(&format!("apply-{position}.yaml"), document)?;
        // Twice that, for the change and for the wait, is less than any program may take.
        let arguments = ["apply", "-f", &file, "--wait", "--timeout", "25s"];
        // One that does not answer within half a second is not waited for, and may only be busy.
        let leaves_out = |said: &Said| {
            let mut up = self.nodes.iter().filter(|node| node.process.is_some());
            up.any(|node| said.err.contains(&format!("{} cannot be reached", node.name)))
        };
        let said = self.ctl_well(position, &arguments)?;
        if leaves_out(&said) {
            // The same document again changes nothing.
            wait::until("every node that runs to serve it", || {
                Ok((!leaves_out(&self.ctl_well(position, &arguments)?)).then_some(()))
            })?;
        }
        Ok(said.out)
    }

    /// Folder that lives as long as the cluster, for files of a test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Position of the Raft leader as a running node sees it.
    ///
    /// # Errors
    /// When no node names a running leader in time.
    pub fn wait_leader(&self) -> Result<usize> {
        wait::until("a leader", || {
            for position in (0..self.nodes.len()).filter(|p| self.is_up(*p)) {
                let Ok(status) = self.ctl_json(position, &["cluster", "status"]) else { continue };
                let leader = status["leader_name"].as_str().unwrap_or_default();
                if let Some(leader) = self.position(leader).filter(|p| self.is_up(*p)) {
                    return Ok(Some(leader));
                }
            }
            Ok(None)
        })
    }

    /// Waits until so many nodes vote, as a running node sees it. Until then the loss of the first
    /// node is the loss of the quorum.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn wait_voters(&self, count: usize) -> Result<()> {
        wait::until(&format!("{count} voters"), || {
            for position in (0..self.nodes.len()).filter(|p| self.is_up(*p)) {
                let Ok(status) = self.ctl_json(position, &["cluster", "status"]) else { continue };
                let voters =
                    status["nodes"].as_array().into_iter().flatten().filter(|node| node["voter"] == true).count();
                return Ok((voters == count).then_some(()));
            }
            Ok(None)
        })
    }

    /// Waits until `cluster status` at a running node says that all is well, as an operator does before the next node goes.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_well(&self) -> Result<()> {
        wait::until("health ok", || {
            let position = (0..self.nodes.len()).find(|position| self.is_up(*position)).context("a running node")?;
            Ok(self.ctl_json(position, &["cluster", "status"]).ok().and_then(|s| (s["health"] == "ok").then_some(())))
        })
    }

    /// Position of the running node that owns a VIP, if a running node knows one.
    pub fn owner(&self, vip: &str) -> Option<usize> {
        (0..self.nodes.len()).filter(|p| self.is_up(*p)).find_map(|position| {
            let list = self.ctl_json(position, &["vip", "list"]).ok()?;
            let entry = list.as_array()?.iter().find(|entry| entry["name"] == vip)?;
            self.position(entry["owner_name"].as_str()?).filter(|owner| self.is_up(*owner))
        })
    }

    /// Waits until a running node owns a VIP. Returns its position.
    ///
    /// # Errors
    /// When none does in time.
    pub fn wait_owner(&self, vip: &str) -> Result<usize> {
        wait::until(&format!("an owner of {vip}"), || Ok(self.owner(vip)))
    }

    /// Has a command run where the node is.
    fn place(&self, position: usize, command: &mut Command) -> Result<()> {
        self.lab.as_ref().map_or(Ok(()), |lab| lab.place(Host::Node(position), command))
    }

    /// Asks a node's metrics address, which may be reached only where the node is.
    fn ask(&self, position: usize, path: &str) -> Result<Response> {
        let address = self.nodes[position].metrics;
        let ask = || Client::new(address).host("localhost").get(path);
        Ok(match &self.lab {
            Some(lab) => lab.within(Host::Node(position), ask)??,
            None => ask()?,
        })
    }

    /// Metrics of a node, by series as written (`name{labels}`).
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn metrics(&self, position: usize) -> Result<BTreeMap<String, f64>> {
        let answer = self.ask(position, "/metrics")?;
        ensure!(answer.status == 200, "metrics answered {}", answer.status);
        Ok(answer
            .text()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?)))
            .collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- log of {}:\n{}", node.name, tail(&node.log().unwrap_or_default(), 40));
            }
        }
    }
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder: `ballastd.toml`, `ballastd.log`, `access.log`, `data/`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its `ballastd.toml`.
    pub fn config(&self) -> PathBuf {
        self.folder.join("ballastd.toml")
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its admin socket.
    pub fn socket(&self) -> PathBuf {
        self.data().join("admin.sock")
    }

    /// Where it is administered.
    fn server(&self) -> String {
        match self.container {
            Some(_) => format!("https://{}", self.admin),
            None => format!("unix://{}", self.socket().display()),
        }
    }

    /// Address of `/livez`, `/readyz` and `/metrics`.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// Address of the admin API.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Address of node-to-node traffic.
    pub fn cluster_address(&self) -> SocketAddr {
        self.cluster
    }

    /// What the daemon has written so far.
    ///
    /// # Errors
    /// When there is no log.
    pub fn log(&self) -> Result<String> {
        if let Some(container) = &self.container {
            return Ok(container.logs()?.err);
        }
        Ok(fs::read_to_string(self.folder.join("ballastd.log"))?)
    }

    /// The access log so far.
    ///
    /// # Errors
    /// When there is none.
    pub fn access(&self) -> Result<String> {
        if let Some(container) = &self.container {
            return Ok(container.logs()?.out);
        }
        let file = self.folder.join("access.log");
        let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Lines of the access log so far.
    ///
    /// # Errors
    /// When a line is not JSON.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        let text = self.access()?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// Process id of the running daemon.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Running::pid)
    }
}

/// How long a node that was told to stop may take before a test calls it stuck.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
