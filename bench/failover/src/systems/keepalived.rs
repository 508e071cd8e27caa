//! keepalived with HAProxy, as operators run it today: VRRP between three nodes with skewed
//! priorities, HAProxy bound to the VIP on every node, a script that takes the VIP from a node whose
//! HAProxy is gone.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use ballast_testkit::{
    lab::{Host, Lab, Process, VIP, VIP6},
    wait,
};

use super::{PORT, Pace, System};
use crate::faults::Fault;

/// The processes.
pub struct Keepalived {
    lab: Arc<Lab>,
    advert: Duration,
    nodes: Vec<Node>,
}

struct Node {
    folder: PathBuf,
    keepalived: Option<Process>,
    haproxy: Option<Process>,
}

impl Keepalived {
    /// Starts them on all nodes of a lab.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn start(lab: &Arc<Lab>, advert_ms: u32, backend: SocketAddr) -> Result<Self> {
        let advert = Duration::from_millis(advert_ms.into());
        let mut system = Self { lab: Arc::clone(lab), advert, nodes: Vec::new() };
        for node in 0..lab.nodes() {
            let folder = lab.folder().join(format!("keepalived-{}", node + 1));
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("haproxy.cfg"), haproxy(backend))?;
            fs::write(folder.join("keepalived.conf"), keepalived(&folder, node, advert))?;
            fs::write(folder.join("check"), check(&folder))?;
            fs::set_permissions(folder.join("check"), fs::Permissions::from_mode(0o755))?;
            // HAProxy binds the VIP before its node has it.
            lab.sysctl(Host::Node(node), "net.ipv4.ip_nonlocal_bind", "1")?;
            lab.sysctl(Host::Node(node), "net.ipv6.ip_nonlocal_bind", "1")?;
            system.nodes.push(Node { folder, keepalived: None, haproxy: None });
        }
        for node in 0..lab.nodes() {
            system.revive(node)?;
        }
        Ok(system)
    }

    fn pid_files(&self, node: usize) -> [PathBuf; 2] {
        ["keepalived.pid", "vrrp.pid"].map(|name| self.nodes[node].folder.join(name))
    }
}

impl System for Keepalived {
    fn pace(&self) -> Pace {
        // Three adverts and the skew make a takeover; a fault lasts twice that, so that it shows what becomes of it.
        let hold = (self.advert * 6).max(Duration::from_millis(1500));
        Pace { hold, settle: hold + Duration::from_millis(500) }
    }

    fn suffers(&self, fault: Fault) -> bool {
        fault != Fault::LeaderKilled
    }

    fn daemons(&self, node: usize) -> Vec<u32> {
        let read = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
        self.pid_files(node).into_iter().filter_map(read).collect()
    }

    fn proxies(&self, node: usize) -> Vec<u32> {
        self.nodes[node].haproxy.as_ref().map(Process::pid).into_iter().collect()
    }

    fn move_away(&mut self, from: usize) -> Result<()> {
        self.nodes[from].keepalived.as_ref().context("keepalived runs on the owner")?.terminate();
        Ok(())
    }

    fn revive(&mut self, node: usize) -> Result<()> {
        let folder = self.nodes[node].folder.clone();
        let number = node + 1;
        if !self.nodes[node].haproxy.as_mut().is_some_and(Process::runs) {
            let mut command = Command::new("haproxy");
            command.args(["-db", "-f"]).arg(folder.join("haproxy.cfg"));
            let process = self.lab.spawn(Host::Node(node), &format!("haproxy-{number}"), command)?;
            fs::write(folder.join("haproxy.pid"), process.pid().to_string())?;
            self.nodes[node].haproxy = Some(process);
        }
        if !self.nodes[node].keepalived.as_mut().is_some_and(Process::runs) {
            // What a killed one leaves behind keeps the next from starting, or lives on without its parent.
            self.lab.kill(&self.daemons(node));
            for file in self.pid_files(node) {
                let _ = fs::remove_file(file);
            }
            let mut command = Command::new("keepalived");
            let [parent, vrrp] = self.pid_files(node);
            command.args(["-n", "-P", "-l", "-f"]).arg(folder.join("keepalived.conf"));
            command.arg("-p").arg(parent).arg("-r").arg(vrrp);
            let process = self.lab.spawn(Host::Node(node), &format!("keepalived-{number}"), command)?;
            self.nodes[node].keepalived = Some(process);
        }
        Ok(())
    }

    fn wait_well(&mut self) -> Result<()> {
        for node in 0..self.nodes.len() {
            wait::until(&format!("keepalived of node {}", node + 1), || {
                Ok((self.daemons(node).len() == 2).then_some(()))
            })?;
        }
        Ok(())
    }

    fn leader(&self) -> Result<Option<usize>> {
        Ok(None)
    }

    fn last_words(&self) -> String {
        let processes = self.nodes.iter().flat_map(|node| node.keepalived.iter().chain(&node.haproxy));
        processes.map(|process| format!("--- {}:\n{}\n", process.name(), super::tail(&process.log(), 12))).collect()
    }
}

fn keepalived(folder: &Path, node: usize, advert: Duration) -> String {
    let version = if advert.subsec_millis() == 0 { 2 } else { 3 };
    format!(
        "\
global_defs {{
  router_id node{number}
  vrrp_version {version}
  script_user root
  enable_script_security
}}
vrrp_script haproxy {{
  script \"{folder}/check\"
  interval 1
  fall 1
  rise 1
}}
vrrp_instance web {{
  state BACKUP
  interface eth0
  virtual_router_id 51
  priority {priority}
  advert_int {advert}
  virtual_ipaddress {{
    {VIP}/24 dev eth0
  }}
  virtual_ipaddress_excluded {{
    {VIP6}/64 dev eth0
  }}
  track_script {{
    haproxy
  }}
}}
",
        number = node + 1,
        folder = folder.display(),
        priority = 190 - 10 * node,
        advert = advert.as_secs_f64(),
    )
}

/// What `killall -0 haproxy` is for a machine with one HAProxy. A process that only waits to be reaped is gone.
fn check(folder: &Path) -> String {
    format!("#!/bin/sh\ngrep -q '^State:.[^Z]' /proc/$(cat {}/haproxy.pid)/status\n", folder.display())
}

fn haproxy(backend: SocketAddr) -> String {
    format!(
        "\
global
  maxconn 4000
  nbthread 1
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
frontend web
  bind {VIP}:{PORT}
  bind [{VIP6}]:{PORT}
  default_backend shop
backend shop
  server one {backend}
"
    )
}
