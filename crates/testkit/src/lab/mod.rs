//! A small network of namespaces on one machine, and the faults that can befall it.
//!
//! A bridge in a namespace of its own joins nodes, a client, an observer and a host for backends.
//! Faults act on the bridge's side of a cable or on processes, so that a node sees what it would
//! see of a switch, a power supply or a scheduler that fails; each can be undone. Processes run as
//! children of the test in the namespace of their host and end with the lab, also after a panic;
//! what a killed test leaves behind is removed by the next lab.
//!
//! Takes root, iproute2 and nftables. Where the kernel refuses, [`Lab::new`] says why and the test
//! calls itself skipped ([`Lab::or_skip`]).
//!
//! Not here: steps of the clock (the kernel has none for one namespace; `jepsen` has them), what is
//! measured (the failover bench).

mod addresses;
mod faults;
mod freezer;
mod guests;
mod limits;
mod line;
mod namespace;
mod process;
mod relay;
mod responder;
mod stale;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

pub use self::{
    addresses::{Host, VIP, VIP6},
    faults::{Direction, Tampering},
    guests::{Guests, Places},
    limits::Short,
    line::{Between, Line, Rules},
    namespace::Door,
    process::Process,
    responder::Responder,
};
use self::{freezer::Freezer, namespace::Namespace};

/// One network. Everything in it ends when it is dropped.
pub struct Lab {
    folder: TempDir,
    bridge: Namespace,
    nodes: Vec<Namespace>,
    guests: Arc<Guests>,
    freezers: Vec<Freezer>,
    /// Delay lines, while there are any.
    relay: Mutex<Option<relay::Relay>>,
    /// Of nodes that were short of something.
    groups: Mutex<Vec<(usize, limits::Group)>>,
}

impl Lab {
    /// Builds a network with so many nodes.
    ///
    /// # Errors
    /// When the kernel does not allow it (which takes root) or `ip` or `nft` is missing.
    pub fn new(nodes: usize) -> Result<Self> {
        ensure!((1..=addresses::NODES_MAX).contains(&nodes), "a lab has 1 to {} nodes", addresses::NODES_MAX);
        // SAFETY: takes no pointers and always succeeds.
        let user = unsafe { libc::geteuid() };
        ensure!(user == 0, "network namespaces take root; run as root or in a privileged container");
        stale::sweep();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = stale::prefix(NEXT.fetch_add(1, Ordering::Relaxed))?;
        let add = |host: Host| Namespace::add(format!("{prefix}{host}"));
        // Each namespace removes itself, so a failure half way leaves nothing.
        let lab = Self {
            folder: tempfile::Builder::new().prefix("ballast-lab-").tempdir()?,
            bridge: add(Host::Bridge)?,
            nodes: (0..nodes).map(|node| add(Host::Node(node))).collect::<Result<_>>()?,
            guests: Arc::new(Guests::add(&prefix)?),
            relay: Mutex::default(),
            groups: Mutex::default(),
            freezers: (0..nodes).map(|node| Freezer::new(&format!("{prefix}{}", Host::Node(node)))).collect(),
        };
        lab.connect()?;
        Ok(lab)
    }

    /// As [`Lab::new`]; where that is not allowed, prints why the test is skipped.
    ///
    /// # Panics
    /// Where it is not allowed and `BALLAST_REQUIRE_NETNS` is 1: whoever says that wants to know.
    pub fn or_skip(nodes: usize) -> Option<Self> {
        match Self::new(nodes) {
            Ok(lab) => Some(lab),
            Err(error) => {
                let required = std::env::var_os("BALLAST_REQUIRE_NETNS").is_some_and(|value| value == "1");
                assert!(!required, "BALLAST_REQUIRE_NETNS is 1, and there is no network of namespaces: {error:#}");
                println!("skipped: no network of namespaces: {error:#}");
                None
            }
        }
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// A folder that is removed with the lab; logs of processes are in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `work` on a thread of its own in a host's network. Sockets that it opens stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn within<T: Send>(&self, host: Host, work: impl FnOnce() -> T + Send) -> Result<T> {
        guests::within(self.namespace(host), host, work)
    }

    /// The hosts beside the nodes.
    pub fn guests(&self) -> &Arc<Guests> {
        &self.guests
    }

    /// A way into a host's network for a thread that stays there.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn door(&self, host: Host) -> Result<Door> {
        self.namespace(host).door()
    }

    /// Has a command run in a host's network and, on a node, stop with it when it is frozen.
    ///
    /// # Errors
    /// When the namespace or the control group cannot be named.
    pub fn place(&self, host: Host, command: &mut Command) -> Result<()> {
        self.namespace(host).place(command)?;
        if let Host::Node(node) = host {
            self.freezers[node].place(command)?;
        }
        Ok(())
    }

    /// Starts a program in a host's network; its output goes to `<name>.log` in [`Lab::folder`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, host: Host, name: &str, mut command: Command) -> Result<Process> {
        self.place(host, &mut command)?;
        Process::spawn(name, &self.folder.path().join(format!("{name}.log")), command)
    }

    /// Runs a program in a host's network to its end, which must be a success. Returns what it printed.
    ///
    /// # Errors
    /// With what it said on standard error.
    pub fn run(&self, host: Host, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no program is named")?;
        let mut command = Command::new(program);
        command.args(arguments);
        self.namespace(host).place(&mut command)?;
        output_of(command)
    }

    /// Ids of all processes in a host's network, whoever started them.
    pub fn pids(&self, host: Host) -> Vec<u32> {
        self.namespace(host).pids()
    }

    /// Sets a sysctl (`net.ipv4.ip_forward`) of a host.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn sysctl(&self, host: Host, name: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        self.within(host, || fs::write(&file, value))?.with_context(|| format!("set {name} of {host}"))
    }

    fn namespace(&self, host: Host) -> &Namespace {
        match host {
            Host::Bridge => &self.bridge,
            Host::Node(node) => &self.nodes[node],
            Host::Client | Host::Observer | Host::Backends => self.guests.namespace(host).expect("each of them is one"),
        }
    }

    fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (0..self.nodes.len()).map(Host::Node).chain(Guests::HOSTS)
    }

    /// Lays a cable from each host to the bridge.
    fn connect(&self) -> Result<()> {
        self.ip(
            Host::Bridge,
            "link set lo up\n\
             link add br0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0\n\
             link set br0 up\n",
        )?;
        for host in self.hosts() {
            self.ip(
                Host::Bridge,
                &format!("link add {} type veth peer name eth0 netns {}\n", host.port(), self.namespace(host).name()),
            )?;
            // `eth0` took its values from the machine's before these were set.
            for scope in ["all", "default", "eth0"] {
                for (setting, value) in [
                    ("ipv4", "rp_filter", "0"),
                    ("ipv4", "arp_ignore", "1"),
                    ("ipv4", "arp_announce", "2"),
                    ("ipv6", "accept_dad", "0"),
                ]
                .map(|(family, name, value)| (format!("net.{family}.conf.{scope}.{name}"), value))
                {
                    self.sysctl(host, &setting, value)?;
                }
            }
            let mut wanted = format!("link set lo up\nlink set eth0 address {}\nlink set eth0 up\n", host.mac_text());
            // The observer speaks raw frames only: a kernel with addresses would answer in its name.
            if host == Host::Observer {
                self.sysctl(host, "net.ipv6.conf.eth0.disable_ipv6", "1")?;
            } else {
                wanted += &host.addresses();
            }
            self.ip(host, &wanted)?;
            self.ip(Host::Bridge, &format!("link set {0} master br0\nlink set {0} up\n", host.port()))?;
        }
        // Clients come with a new port for each request.
        self.sysctl(Host::Client, "net.ipv4.ip_local_port_range", "1024 65535")?;
        self.prepare_faults()
    }

    /// Runs a batch of `ip` commands in a host's network.
    fn ip(&self, host: Host, batch: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        self.namespace(host).place(&mut command)?;
        feed(command, batch)
    }

    fn nft(&self, host: Host, rules: &str) -> Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        self.namespace(host).place(&mut command)?;
        feed(command, rules)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Its sockets would keep the bridge.
        drop(self.relay.get_mut().map(Option::take));
        // What is frozen does not die before it is thawed.
        for freezer in &self.freezers {
            freezer.thaw();
        }
        for host in self.hosts().chain([Host::Bridge]) {
            self.namespace(host).kill_all();
        }
    }
}

/// Runs a program with `input` on its standard input; it must succeed.
fn feed(mut command: Command, input: &str) -> Result<()> {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {:?}", command.get_program()))?;
    child.stdin.take().context("standard input is a pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{:?}: {}\nof:\n{input}", command.get_program(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn output_of(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests;
