//! VIPs as real addresses: every candidate has them on an interface all the time, and the fence in the
//! kernel decides who is reached.
//!
//! Two halves. The *keeper*, a thread of its own that may wait for the kernel, puts addresses and fence
//! in place, looks whether they still are, listens for others who claim a VIP, and says which VIPs this
//! node is fit to hold. The *driver*, on the lease thread, moves deadlines, announces, and during a
//! planned move keeps what arrives in the gap. They share immutable snapshots and never wait for each
//! other.
//!
//! What is put in place outlives the process, the fence closed: a node that starts again finds its
//! addresses there, and one that is taken out of service for good removes them with `ballastd leave`.
//!
//! Without a fence (the level `none`) nothing decides who is reached but where the address is: it is put on the interface
//! when the VIP is gained, and taken off when it is given up, which nobody is told of, when the process ends and when it
//! starts. So it is at one node, but for one that stands still or whose process is gone.
//!
//! Not here: the parts themselves ([`crate::fence`], [`crate::net`]), the lease protocol.

mod capture;
mod counts;
mod driver;
mod fencing;
mod keeper;
mod link;
mod places;
mod probes;
mod round;
mod segment;
mod sole;
mod wake;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use ballast_clock::boot_now;
use ballast_core::{
    ids::{NodeId, VipId},
    lease::{Fitness, Unfitness},
};

use crate::{
    fence::{Fence, FenceError, FenceLevel, FenceWish, inherited},
    net::{AddressError, Addresses, Interface, NetError},
};

pub use counts::KeeperCounters;
pub use driver::NetlinkDriver;

pub use sole::{OtherProcess, Sole};

use keeper::Keeper;
use places::Shared;

/// What the driver is told at the start.
#[derive(Clone, Debug)]
pub struct NetlinkOptions {
    /// This node.
    pub node: NodeId,
    /// The interface that VIPs are on: its name, or a network that it has an address in.
    pub interface: String,
    /// By name of the VIP: those that are on another one.
    pub interfaces: BTreeMap<String, String>,
    /// Which fence is wanted.
    pub fence: FenceWish,
    /// Where it is written down which addresses are ours.
    pub data_dir: PathBuf,
}

/// What this node can do about one VIP, and why not more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VipFitness {
    /// Whether it may hold it.
    pub fitness: Fitness,
    /// In words, with what to do; empty when nothing is wrong.
    pub problem: String,
    /// What deserves a look and keeps this node from nothing, in words: a conflict that was seen a moment ago. Empty
    /// when there is nothing.
    pub warning: String,
}

/// What the keeper found, for the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By VIP. One that is missing is not in place yet.
    pub vips: BTreeMap<VipId, VipFitness>,
}

impl Report {
    /// What is left of it when nobody has looked for so long: the node keeps what no other takes.
    fn aged(mut self: Arc<Self>, held_up: Duration) -> Arc<Self> {
        if held_up < HELD_UP {
            return self;
        }
        for known in Arc::make_mut(&mut self).vips.values_mut() {
            let doubted = Fitness::Reluctant(Unfitness::Unattended);
            if known.fitness.worse(doubted) != known.fitness {
                known.fitness = doubted;
                known.problem = format!(
                    "nobody looked after addresses and fence for {} s: a disk, the kernel or the nft program holds that up; \
                     see the log of the kernel",
                    held_up.as_secs()
                );
            }
        }
        self
    }

    /// What is left of it when the deadlines of these VIPs have waited for the keeper for long: this node answers for nothing
    /// of them.
    fn without(mut self: Arc<Self>, waiting: &BTreeSet<VipId>) -> Arc<Self> {
        for vip in waiting {
            let dark = Fitness::Unfit(Unfitness::Unattended);
            if let Some(known) = Arc::make_mut(&mut self).vips.get_mut(vip)
                && known.fitness.worse(dark) != known.fitness
            {
                known.fitness = dark;
                known.problem = "nobody looked after addresses and fence since the VIP lost an address, and until \
                                 somebody does it is closed: a disk, the kernel or the nft program holds that up; \
                                 see the log of the kernel"
                    .to_owned();
            }
        }
        self
    }
}

/// A round takes milliseconds, a few hundred where new addresses are asked for, and the next begins a second later at most.
const HELD_UP: Duration = Duration::from_secs(3);

/// For so long a VIP may wait for the keeper to take an address that it has lost out of its place. Far more than that takes: the
/// keeper is woken for it, and gives up asking the link. The right that it had was over sooner, with a lease that is not long.
const WAITS: Duration = Duration::from_millis(400);

/// The drivers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No fence.
    #[error("set up the fence of VIPs")]
    Fence(#[from] FenceError),
    /// The links cannot be read.
    #[error("look at the interfaces for VIPs")]
    Net(#[from] NetError),
    /// The addresses cannot be kept.
    #[error("keep the addresses of VIPs")]
    Addresses(#[from] AddressError),
    /// Another process carries out VIPs here.
    #[error(transparent)]
    Other(#[from] OtherProcess),
    /// No thread.
    #[error("start the thread that keeps addresses and fence in place")]
    Thread(#[source] std::io::Error),
}

/// Talks to the keeper. Dropping it ends the keeper's thread and leaves addresses and fence in place, closed; where there is no
/// fence it takes the addresses away.
pub struct KeeperHandle {
    shared: Arc<Shared>,
    level: FenceLevel,
    thread: Option<JoinHandle<()>>,
}

impl KeeperHandle {
    /// What was found last, doubted if that is long ago.
    pub fn report(&self) -> Arc<Report> {
        let waiting = self.shared.waiting_for(WAITS, boot_now());
        self.shared.report.load_full().aged(self.held_up()).without(&waiting)
    }

    /// For how long the keeper is held up; usually less than a second.
    pub fn held_up(&self) -> Duration {
        self.shared.pace.held_up(boot_now())
    }

    /// Which fence is in force.
    pub fn level(&self) -> FenceLevel {
        self.level
    }

    /// What was counted so far.
    pub fn counters(&self) -> KeeperCounters {
        self.shared.counts.read()
    }

    /// Whether the thread still runs. If it ends by itself that is a bug.
    pub fn alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for KeeperHandle {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps addresses and fence in place had panicked");
        }
    }
}

/// Sets the fence up, guards what an earlier process left on the interfaces, and starts the keeper, which holds the claim
/// of `sole`. `changed` is called on its thread whenever the report did.
///
/// # Errors
/// [`NetlinkError`] names what is missing.
pub fn start(
    options: NetlinkOptions,
    sole: Sole,
    changed: impl Fn() + Send + 'static,
) -> Result<(NetlinkDriver, KeeperHandle), NetlinkError> {
    let (fence, deadlines) = Fence::open(options.fence)?;
    let level = fence.level();
    if level == FenceLevel::None {
        tracing::warn!(
            "VIPs have no fence here (vip.fence = \"none\"): if this node freezes, or its process dies, it goes on answering \
             for the VIPs that it holds, beside the node that takes them over, until it is started again; and a planned move \
             takes as long as a lease"
        );
    }
    let shared = Arc::new(Shared::new().map_err(NetlinkError::Thread)?);
    let (spent, used) = mpsc::channel();
    let mut keeper = Keeper::new(options, Arc::clone(&shared), sole, fence, used, Box::new(changed))?;
    // Addresses of an earlier life are fenced before anything else happens.
    keeper.round();
    let driver = NetlinkDriver::new(Arc::clone(&shared), level, deadlines, spent)?;
    let thread = std::thread::Builder::new()
        .name("ballast-keeper".to_owned())
        .spawn(move || keeper.run())
        .map_err(NetlinkError::Thread)?;
    Ok((driver, KeeperHandle { shared, level, thread: Some(thread) }))
}

/// Takes everything of ours off the interfaces: addresses first, then the fence. For a node that is taken out of
/// service; nothing of it may run. What is ours is known without a record too. Returns what was removed, in words.
///
/// # Errors
/// [`NetlinkError`]; call it again.
pub fn leave(data_dir: &Path) -> Result<Vec<String>, NetlinkError> {
    let _sole = Sole::take()?;
    let inherited = inherited()?;
    let mut addresses = Addresses::open(data_dir)?;
    addresses.recognise(&Interface::all()?, |held| inherited.addresses.contains(&held.address));
    let recorded = Addresses::path(data_dir).exists();
    if addresses.ours().is_empty() && !inherited.stands && !recorded {
        return Ok(Vec::new());
    }
    let outcome = addresses.leave()?;
    let mut said: Vec<String> = outcome.changes.iter().map(ToString::to_string).collect();
    said.extend(outcome.problems.iter().map(ToString::to_string));
    if outcome.problems.iter().any(|problem| !problem.is_warning()) {
        said.push("the fence stays, because an address does".to_owned());
        return Ok(said);
    }
    if let Some(why) = inherited.unreadable.filter(|_| !recorded) {
        said.push(format!(
            "the fence stays, because it cannot be read which addresses it guards ({why}); do this with CAP_SYS_ADMIN"
        ));
        return Ok(said);
    }
    // Removing needs nothing of what a level needs to fence.
    let (mut fence, _) = Fence::open(FenceWish::None)?;
    fence.remove()?;
    said.push(if inherited.stands { "the fence was removed" } else { "there is no fence any more" }.to_owned());
    Ok(said)
}

/// The MAC of the interface that is meant by this name or network, as other members should know it.
///
/// # Errors
/// [`NetError`]: there is no such interface.
pub fn mac_of(interface: &str) -> Result<Option<crate::net::Mac>, NetError> {
    Ok(Interface::read(interface)?.mac)
}

type Published<T> = ArcSwap<T>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_long_ago_is_doubted_and_what_is_worse_stays() {
        let [fit, doubted] = [Fitness::Fit, Fitness::Reluctant(Unfitness::Unattended)];
        let unfit = Fitness::Unfit(Unfitness::LinkDown);
        let check = |seconds, expected: [Fitness; 2]| {
            let known = |fitness| VipFitness { fitness, ..VipFitness::default() };
            let vips = [(VipId::new(1), known(fit)), (VipId::new(2), known(unfit))].into();
            let aged = Arc::new(Report { vips }).aged(Duration::from_secs(seconds));
            assert_eq!(aged.vips.values().map(|known| known.fitness).collect::<Vec<_>>(), expected, "{seconds} s");
        };
        check(2, [fit, unfit]);
        check(3, [doubted, unfit]);
    }

    #[test]
    fn a_vip_that_waits_for_the_keeper_is_none_for_this_node() {
        let known = |fitness| VipFitness { fitness, ..VipFitness::default() };
        let [link_down, dark] = [Unfitness::LinkDown, Unfitness::Unattended].map(Fitness::Unfit);
        let all = [Fitness::Fit, Fitness::Fit, link_down, Fitness::Reluctant(Unfitness::GatewayUnreachable)];
        let vips = (1..).map(VipId::new).zip(all.map(known)).collect();
        let left = Arc::new(Report { vips }).without(&[2, 3, 4, 5].map(VipId::new).into());
        let left: Vec<Fitness> = left.vips.values().map(|known| known.fitness).collect();
        assert_eq!(left, [Fitness::Fit, dark, link_down, dark]);
    }

    #[test]
    fn a_keeper_is_held_up_since_its_last_round_or_in_it() {
        let at = |seconds: u64| ballast_core::time::BootNanos::new(seconds * 1_000_000_000);
        let shared = Shared::new().expect("descriptors");
        shared.pace.round(at(10), at(11));
        assert_eq!([at(11), at(15)].map(|now| shared.pace.held_up(now).as_secs()), [1, 4]);
        shared.pace.round(at(11), at(20));
        assert_eq!(shared.pace.held_up(at(21)).as_secs(), 9);
    }
}
