//! Faults of a lab, each of which can be undone.
//!
//! Cuts and loss are rules in the bridge, between pairs of ports, so that nothing on a host can tell
//! them from a switch that drops frames: the carrier stays. All of them heal together.

use std::{fmt::Write, net::IpAddr};

use anyhow::{Context, Result};

use super::{Host, Lab, process};

/// Which way frames are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first to the second only.
    OneWay,
    /// Either way.
    Both,
}

/// What somebody does to a node's filters and addresses who does not know what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    /// All programs at the interface are gone.
    Programs,
    /// All of nftables is gone.
    Tables,
    /// An address is gone.
    Address(IpAddr),
}

impl Lab {
    pub(super) fn prepare_faults(&self) -> Result<()> {
        self.nft(
            Host::Bridge,
            "table bridge fault {\n chain forward { type filter hook forward priority 0; policy accept; }\n}\n",
        )
    }

    /// Pulls a host's cable: it loses its carrier.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn link_down(&self, host: Host) -> Result<()> {
        self.ip(Host::Bridge, &format!("link set {} down\n", host.port()))
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn link_up(&self, host: Host) -> Result<()> {
        self.ip(Host::Bridge, &format!("link set {} up\n", host.port()))
    }

    /// Drops all frames from `from` to `to`.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn cut(&self, from: Host, to: Host, direction: Direction) -> Result<()> {
        self.partition_in(&[from], &[to], direction)
    }

    /// Drops all frames between the members of two groups.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn partition(&self, one: &[Host], other: &[Host]) -> Result<()> {
        self.partition_in(one, other, Direction::Both)
    }

    /// Drops all frames from the members of a group to those of another, and back if so told.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn partition_in(&self, from: &[Host], to: &[Host], direction: Direction) -> Result<()> {
        let mut rules = String::new();
        for (a, b) in from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b))) {
            drop_frames(&mut rules, a, b, "");
            if direction == Direction::Both {
                drop_frames(&mut rules, b, a, "");
            }
        }
        self.nft(Host::Bridge, &rules)
    }

    /// Drops every frame from and to a host; its carrier stays.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn isolate(&self, host: Host) -> Result<()> {
        let ports = host.ports();
        self.nft(
            Host::Bridge,
            &format!(
                "add rule bridge fault forward iifname {ports} drop\nadd rule bridge fault forward oifname {ports} drop\n"
            ),
        )
    }

    /// Leaves each node only its neighbours on a ring. Makes a difference from four nodes on.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn ring(&self) -> Result<()> {
        let (count, mut rules) = (self.nodes(), String::new());
        for (a, b) in pairs(count).filter(|(a, b)| ![1, count - 1].contains(&((b + count - a) % count))) {
            drop_frames(&mut rules, Host::Node(a), Host::Node(b), "");
        }
        self.nft(Host::Bridge, &rules)
    }

    /// Loses so many percent of the frames between nodes, each way on its own.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn loss_between_nodes(&self, percent: u32) -> Result<()> {
        let mut rules = String::new();
        for (a, b) in pairs(self.nodes()) {
            drop_frames(&mut rules, Host::Node(a), Host::Node(b), &format!("numgen random mod 100 < {percent}"));
        }
        self.nft(Host::Bridge, &rules)
    }

    /// Loses so many percent of all frames.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn loss_everywhere(&self, percent: u32) -> Result<()> {
        self.nft(Host::Bridge, &format!("add rule bridge fault forward numgen random mod 100 < {percent} drop\n"))
    }

    /// Ends all cuts and losses.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn heal(&self) -> Result<()> {
        self.nft(Host::Bridge, "flush chain bridge fault forward\n")
    }

    /// Stops all processes of a node at once; its kernel goes on.
    ///
    /// # Errors
    /// When the kernel does not stop them.
    pub fn freeze(&self, node: usize) -> Result<()> {
        if !self.freezers[node].freeze()? {
            self.signal_all(node, libc::SIGSTOP);
        }
        Ok(())
    }

    /// Lets them go on.
    pub fn thaw(&self, node: usize) {
        if !self.freezers[node].thaw() {
            self.signal_all(node, libc::SIGCONT);
        }
    }

    /// Kills all processes of a node with SIGKILL.
    pub fn kill_all(&self, node: usize) {
        self.signal_all(node, libc::SIGKILL);
    }

    /// Kills processes of nodes, whoever started them, in this order. One that is in no node is left alone.
    pub fn kill(&self, pids: &[u32]) {
        self.signal(pids, libc::SIGKILL);
    }

    /// Stops processes of nodes in their tracks.
    pub fn pause(&self, pids: &[u32]) {
        self.signal(pids, libc::SIGSTOP);
    }

    /// Lets them go on.
    pub fn resume(&self, pids: &[u32]) {
        self.signal(pids, libc::SIGCONT);
    }

    /// Takes a node's power: its cable is dead and all its processes are gone.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn power_off(&self, node: usize) -> Result<()> {
        // The cable first: with power, a process that is killed says goodbye to its peers by its kernel's resets.
        self.link_down(Host::Node(node))?;
        self.kill_all(node);
        Ok(())
    }

    /// Gives a node its power back. Its kernel has begun anew: of addresses and filters it holds only its own.
    ///
    /// # Errors
    /// When `ip` or `nft` fails.
    pub fn power_on(&self, node: usize) -> Result<()> {
        let host = Host::Node(node);
        let own = [IpAddr::V4(host.ip()), IpAddr::V6(host.ip6())].map(|address| address.to_string());
        let shown = self.run(host, &["ip", "-o", "addr", "show", "dev", "eth0", "scope", "global"])?;
        // Its own stay: with the last address the kernel forgets the neighbours that it was told for good.
        let foreign = shown.lines().filter_map(|line| line.split_whitespace().nth(3)).filter(|address| {
            let bare = address.split('/').next().unwrap_or_default();
            !own.iter().any(|own| own == bare)
        });
        self.ip(host, &foreign.map(|address| format!("addr del {address} dev eth0\n")).collect::<String>())?;
        self.detach_fence(node)?;
        self.link_up(host)
    }

    /// Takes an address off a node behind its processes' back, if it is there.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn flush_address(&self, node: usize, address: IpAddr) -> Result<()> {
        self.run(Host::Node(node), &["ip", "addr", "flush", "dev", "eth0", "to", &address.to_string()])
            .map(drop)
            .with_context(|| format!("flush {address}"))
    }

    /// Tears down whatever filters a node has on its interface and in nftables, behind its processes' back.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn detach_fence(&self, node: usize) -> Result<()> {
        // There is no clsact where the fence is one of nftables.
        let _ = self.run(Host::Node(node), &["tc", "qdisc", "del", "dev", "eth0", "clsact"]);
        self.run(Host::Node(node), &["nft", "flush", "ruleset"]).map(drop)
    }

    /// Meddles with a node behind its processes' back. Whether there was something to be undone.
    pub fn tamper(&self, node: usize, how: Tampering) -> bool {
        let host = Host::Node(node);
        match how {
            Tampering::Programs => self.run(host, &["tc", "qdisc", "del", "dev", "eth0", "clsact"]).is_ok(),
            Tampering::Tables => {
                self.shows(host, &["nft", "list", "ruleset"]) && self.run(host, &["nft", "flush", "ruleset"]).is_ok()
            }
            Tampering::Address(address) => {
                let text = address.to_string();
                let is_there = self.shows(host, &["ip", "-o", "addr", "show", "dev", "eth0", "to", &text]);
                is_there && self.flush_address(node, address).is_ok()
            }
        }
    }

    /// Whether a program has anything to show. To flush what is not there is a success.
    fn shows(&self, host: Host, words: &[&str]) -> bool {
        self.run(host, words).is_ok_and(|shown| !shown.trim().is_empty())
    }

    /// Ids come back: only a process that is in a node is signalled.
    fn signal(&self, pids: &[u32], signal: i32) {
        let ours: Vec<u32> = (0..self.nodes()).flat_map(|node| self.pids(Host::Node(node))).collect();
        for pid in pids.iter().filter(|pid| ours.contains(pid)) {
            process::signal(*pid, signal);
        }
    }

    fn signal_all(&self, node: usize, signal: i32) {
        for pid in self.pids(Host::Node(node)) {
            process::signal(pid, signal);
        }
    }
}

fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b)
}

/// A rule that drops what passes from one port to another and meets a condition.
fn drop_frames(rules: &mut String, from: Host, to: Host, condition: &str) {
    let (from, to) = (from.ports(), to.ports());
    // Writing to a string cannot fail.
    let _ = writeln!(rules, "add rule bridge fault forward iifname {from} oifname {to} {condition} drop");
}
