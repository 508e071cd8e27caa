//! The faults, how each is brought about and undone.

use std::fmt;

use anyhow::{Context, Result, bail};
use ballast_testkit::lab::{Direction, Host};

use crate::systems::Site;

/// One way to fail. The *owner* is the node that holds the VIP when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The owner's power is gone.
    PowerOff,
    /// The owner's cable is pulled.
    LinkDown,
    /// Everything on the owner stands still; its kernel goes on.
    NodeFrozen,
    /// What decides about the VIP on the owner is killed.
    DaemonKilled,
    /// The same is stopped.
    DaemonFrozen,
    /// What carries traffic on the owner is killed.
    ProxyKilled,
    /// The same is stopped.
    ProxyFrozen,
    /// The owner and the other nodes do not see each other; clients reach all.
    NodesCutOff,
    /// The owner hears no other node, but is heard.
    OwnerDeaf,
    /// No other node hears the owner, but it hears them.
    OwnerNotHeard,
    /// Nobody reaches the owner and it reaches nobody; its carrier stays.
    OwnerIsolated,
    /// Three of ten frames between nodes are lost.
    Loss30,
    /// The VIP is moved by an operator.
    PlannedMove,
    /// The leader of the group is killed while another node owns the VIP.
    LeaderKilled,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::PowerOff,
        Self::LinkDown,
        Self::NodeFrozen,
        Self::DaemonKilled,
        Self::DaemonFrozen,
        Self::ProxyKilled,
        Self::ProxyFrozen,
        Self::NodesCutOff,
        Self::OwnerDeaf,
        Self::OwnerNotHeard,
        Self::OwnerIsolated,
        Self::Loss30,
        Self::PlannedMove,
        Self::LeaderKilled,
    ];

    /// By its name.
    ///
    /// # Errors
    /// When no fault is called that.
    pub fn parse(name: &str) -> Result<Self> {
        let known = || Self::ALL.map(|fault| fault.to_string()).join(", ");
        Self::ALL
            .into_iter()
            .find(|fault| fault.to_string() == name)
            .with_context(|| format!("no fault is called {name:?}; there are {}", known()))
    }

    /// Where the owner has to be for it, if not where it is: off the leader.
    pub fn wants_owner_beside_leader(self) -> bool {
        self == Self::LeaderKilled
    }

    /// Brings it about on a node, its victim.
    ///
    /// # Errors
    /// When the lab or the system does not do as told.
    pub fn begin(self, site: &mut Site, victim: usize) -> Result<()> {
        let lab = &site.lab;
        let owner = [Host::Node(victim)];
        let others: Vec<Host> = (0..lab.nodes()).filter(|node| *node != victim).map(Host::Node).collect();
        match self {
            Self::PowerOff => lab.power_off(victim),
            Self::LinkDown => lab.link_down(Host::Node(victim)),
            Self::NodeFrozen => lab.freeze(victim),
            Self::DaemonKilled | Self::LeaderKilled => {
                // Children first: one whose parent dies says goodbye in order.
                let mut pids = site.system.daemons(victim);
                pids.reverse();
                lab.kill(&pids);
                Ok(())
            }
            Self::ProxyKilled => {
                lab.kill(&site.system.proxies(victim));
                Ok(())
            }
            Self::DaemonFrozen => {
                lab.pause(&site.system.daemons(victim));
                Ok(())
            }
            Self::ProxyFrozen => {
                lab.pause(&site.system.proxies(victim));
                Ok(())
            }
            Self::NodesCutOff => lab.partition(&owner, &others),
            Self::OwnerDeaf => lab.partition_in(&others, &owner, Direction::OneWay),
            Self::OwnerNotHeard => lab.partition_in(&owner, &others, Direction::OneWay),
            Self::OwnerIsolated => lab.isolate(Host::Node(victim)),
            Self::Loss30 => lab.loss_between_nodes(30),
            Self::PlannedMove => site.system.move_away(victim),
        }
    }

    /// Undoes it.
    ///
    /// # Errors
    /// As [`Fault::begin`].
    pub fn end(self, site: &mut Site, victim: usize) -> Result<()> {
        let lab = &site.lab;
        match self {
            Self::PowerOff => {
                lab.power_on(victim)?;
                site.system.revive(victim)
            }
            Self::LinkDown => lab.link_up(Host::Node(victim)),
            Self::NodeFrozen => {
                lab.thaw(victim);
                Ok(())
            }
            Self::DaemonKilled | Self::LeaderKilled | Self::ProxyKilled | Self::PlannedMove => {
                site.system.revive(victim)
            }
            Self::DaemonFrozen => {
                lab.resume(&site.system.daemons(victim));
                Ok(())
            }
            Self::ProxyFrozen => {
                lab.resume(&site.system.proxies(victim));
                Ok(())
            }
            Self::NodesCutOff | Self::OwnerDeaf | Self::OwnerNotHeard | Self::OwnerIsolated | Self::Loss30 => {
                lab.heal()
            }
        }
    }

    /// The node it befalls, given who owns the VIP.
    ///
    /// # Errors
    /// When there is no leader, or it cannot be brought to be another node than the owner.
    pub fn victim(self, site: &mut Site, owner: usize) -> Result<usize> {
        if !self.wants_owner_beside_leader() {
            return Ok(owner);
        }
        let leader = site.system.leader()?.context("this system has no leader")?;
        if leader == owner {
            bail!("the leader owns the VIP");
        }
        Ok(leader)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "power-off",
            Self::LinkDown => "link-down",
            Self::NodeFrozen => "node-frozen",
            Self::DaemonKilled => "daemon-killed",
            Self::DaemonFrozen => "daemon-frozen",
            Self::ProxyKilled => "proxy-killed",
            Self::ProxyFrozen => "proxy-frozen",
            Self::NodesCutOff => "nodes-cut-off",
            Self::OwnerDeaf => "owner-deaf",
            Self::OwnerNotHeard => "owner-not-heard",
            Self::OwnerIsolated => "owner-isolated",
            Self::Loss30 => "loss-30",
            Self::PlannedMove => "planned-move",
            Self::LeaderKilled => "leader-killed",
        })
    }
}
