//! The fence: in the kernel, packets to and from a VIP pass only while a deadline lies ahead.
//!
//! Every node that may own a VIP has its addresses on an interface all the time; what owning means is that the fence
//! is open. Renewing a lease moves the deadline, and a process that is dead, frozen or starved closes the fence by
//! doing nothing. What is attached outlives the process, and the next process replaces it in one step, closed.
//! ARP and neighbour discovery are fenced too, in both directions, so a closed node is silent about its VIPs.
//!
//! Two halves: [`Fence`] sets up, checks and repairs, and may wait for the kernel; [`Deadlines`] opens and closes,
//! on the lease thread. Both act in the network namespace of the thread that opened them, and [`Fence`] has to be
//! used on threads of that namespace.
//!
//! Three levels ([`FenceLevel`]):
//! - `ebpf`: absolute deadlines compared with `CLOCK_BOOTTIME` for each packet. Strict. Only this level can keep
//!   established connections over a planned move.
//! - `nftables`: elements of a set that time out. Relative and counted in ticks of the kernel, so a renewal that
//!   is held up on its way into the kernel extends the lease by that time: best effort.
//! - `none`: nothing is fenced. Addresses are on an interface only while their VIP is held here, and a node that freezes
//!   or whose process dies goes on answering for them.
//!
//! Addresses have to be guarded before they are put on the interface, and taken off it before they are guarded no
//! more. With `arp_announce=2` on the interface the kernel never asks for a neighbour in a VIP's name; without it
//! a closed node cannot resolve neighbours for connections that it keeps.
//!
//! Not here: addresses and announcements; the gates in front of the proxy, which are asked for packets that were in
//! a socket already; traffic that comes over the loopback interface or over an interface that is not guarded.

mod ebpf;
mod inherited;
mod netlink;
mod nft;
mod nft_lease;
mod nft_text;
mod nft_watch;
mod slots;
mod tc;
mod tcx;

use std::{io, net::IpAddr, os::fd::RawFd, sync::Arc};

use ballast_core::{ids::VipId, time::BootNanos};
use serde::{Deserialize, Serialize};

pub use ebpf::EbpfError;
pub use inherited::{Inherited, inherited};
pub use nft::NftError;
pub use slots::FenceCounters;

use crate::Closing;
use ebpf::EbpfFence;
use nft::NftFence;
use nft_lease::Renewals;
use slots::Slots;
use tc::Tc;

/// Which level is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceWish {
    /// `ebpf` where the kernel allows it, else `nftables`, else refuse.
    #[default]
    Auto,
    /// Only `ebpf`.
    Ebpf,
    /// Only `nftables`.
    Nftables,
    /// No fence: a node that freezes, or whose process dies, keeps answering for its VIPs beside their next owner.
    None,
}

/// Which level is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceLevel {
    /// Kernel programs with absolute deadlines.
    Ebpf,
    /// Sets with timeouts.
    Nftables,
    /// Nothing.
    None,
}

impl FenceLevel {
    /// As in configuration, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Nftables => "nftables",
            Self::None => "none",
        }
    }
}

/// An address of a VIP on an interface of this node.
///
/// Packets for the address are fenced on every interface that is named with any address: an address that can be
/// reached over several interfaces has to be named with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Guarded {
    /// Whose deadline counts.
    pub vip: VipId,
    /// The index of the interface.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
}

/// An interface that should be fenced too and cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfenced {
    /// Its index.
    pub interface: u32,
    /// Why not.
    pub why: String,
}

/// Somebody else's program that looks at packets before the fence does, and can let them pass by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Earlier {
    /// The index of the interface.
    pub interface: u32,
    /// Which it is.
    pub what: String,
}

/// Something that the fence needs and that is not in the kernel any more: packets may pass that should not, or
/// the other way round. [`Fence::repair`] mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The index of the interface; 0 if it concerns all.
    pub interface: u32,
    /// What is wrong.
    pub what: String,
}

/// What went wrong with the fence, by what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// No level is to be had. Both reasons are there in full.
    #[error(
        "this kernel offers no fence for VIPs; ebpf: {ebpf}; nftables: {nftables}. Grant what is missing, or set the \
         fence to `none` and accept that a node that freezes, or whose process dies, keeps answering for its VIPs beside \
         their next owner, and that a planned move takes a lease"
    )]
    Unavailable {
        /// Why not `ebpf`.
        ebpf: String,
        /// Why not `nftables`.
        nftables: String,
    },
    /// The level that was asked for is not to be had.
    #[error("the ebpf fence was asked for and is not possible here")]
    Ebpf(#[source] EbpfError),
    /// As above.
    #[error("the nftables fence was asked for and is not possible here")]
    Nftables(#[source] NftError),
    /// The node's interfaces cannot be listed.
    #[error("listing the network interfaces")]
    Links(#[source] io::Error),
    /// Frames of the interface have no Ethernet header.
    #[error("interface {interface} is not Ethernet, and VIPs can only be fenced there; name another one for the VIP")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// The kernel did not attach a program.
    #[error(
        "attaching the fence to interface {interface} ({hook}); a qdisc of kind `ingress`, or filters of another kind at \
         priority 1, may be in the way (`tc qdisc show`, `tc filter show`)"
    )]
    Attach {
        /// The index of the interface.
        interface: u32,
        /// Where.
        hook: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel did not detach a program.
    #[error("detaching the fence from {interface}")]
    Detach {
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The map of guarded addresses was not written.
    #[error("writing the map of guarded addresses")]
    Addresses(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More VIPs than there is room for, or those that left it are still being worked on, which takes a moment.
    #[error("more VIPs are to be guarded than this node has room for")]
    NoSlots,
    /// The rules were not taken.
    #[error("changing the fence's nftables rules")]
    Rules(#[source] NftError),
    /// What another level left cannot be taken away.
    #[error("removing what an earlier process left in nftables")]
    Leftovers(#[source] io::Error),
}

impl FenceError {
    /// Whether the interface went away meanwhile, with which nothing passes any more.
    fn is_gone(&self) -> bool {
        matches!(self, Self::Attach { source, .. } if source.raw_os_error() == Some(libc::ENODEV))
    }
}

enum Slow {
    Ebpf(Box<EbpfFence>),
    Nftables(Box<NftFence>),
    None,
}

/// The half that sets up, checks and repairs. Its calls may wait for the kernel for milliseconds.
pub struct Fence {
    slow: Slow,
    /// What processes before this one left at other levels is taken away once, after ours stands.
    inherited: bool,
}

enum Fast {
    Ebpf(Arc<Slots>),
    Nftables(Box<Renewals>),
    None,
}

/// The half that opens and closes. Calls about VIPs that are not guarded do nothing.
pub struct Deadlines {
    fast: Fast,
}

impl Fence {
    /// Chooses the level and loads what it needs. Nothing is attached, and nothing that an earlier process left is
    /// touched, before the first [`Fence::guard`].
    ///
    /// # Errors
    /// [`FenceError::Unavailable`], [`FenceError::Ebpf`] or [`FenceError::Nftables`]: what is missing.
    pub fn open(wish: FenceWish) -> Result<(Self, Deadlines), FenceError> {
        let ebpf = |fence: EbpfFence| {
            let fast = Fast::Ebpf(fence.slots());
            (Slow::Ebpf(Box::new(fence)), fast)
        };
        let nftables = |(fence, renewals)| (Slow::Nftables(Box::new(fence)), Fast::Nftables(Box::new(renewals)));
        let (slow, fast) = match wish {
            FenceWish::None => (Slow::None, Fast::None),
            FenceWish::Ebpf => EbpfFence::open().map(ebpf).map_err(FenceError::Ebpf)?,
            FenceWish::Nftables => NftFence::open().map(nftables).map_err(FenceError::Nftables)?,
            FenceWish::Auto => match EbpfFence::open() {
                Ok(fence) => ebpf(fence),
                Err(no_ebpf) => match NftFence::open() {
                    Ok(fence) => {
                        let why = chain(&no_ebpf);
                        tracing::warn!(why, "no ebpf fence here: nftables fences VIPs as well as it can");
                        nftables(fence)
                    }
                    Err(no_nftables) => {
                        let (ebpf, nftables) = (chain(&no_ebpf), chain(&no_nftables));
                        return Err(FenceError::Unavailable { ebpf, nftables });
                    }
                },
            },
        };
        Ok((Self { slow, inherited: true }, Deadlines { fast }))
    }

    /// Makes the kernel guard exactly these addresses; when it returns, it does. VIPs that are new start closed, and
    /// so do all when this process guards for the first time. An address that joins a VIP shares its deadline. An interface
    /// that is gone is left out: [`Fence::guards`] says so.
    ///
    /// # Errors
    /// When the kernel refuses some of it: the first reason. The rest is guarded all the same, as far as [`Fence::guards`]
    /// says, and so is what was guarded before; call it again.
    pub fn guard(&mut self, wanted: &[Guarded]) -> Result<(), FenceError> {
        self.guard_also(wanted, &[]).map(drop)
    }

    /// As [`Fence::guard`], and fences all of the addresses on further interfaces as well. Returns those of these where
    /// that is not possible; they are no error. One that is gone is left out.
    ///
    /// # Errors
    /// As [`Fence::guard`].
    pub fn guard_also(&mut self, wanted: &[Guarded], also: &[u32]) -> Result<Vec<Unfenced>, FenceError> {
        let unfenced = match &mut self.slow {
            Slow::Ebpf(fence) => fence.guard(wanted, also)?,
            Slow::Nftables(fence) => fence.guard(wanted, also)?,
            Slow::None => Vec::new(),
        };
        if self.inherited {
            self.remove_other_levels()?;
            self.inherited = false;
        }
        Ok(unfenced)
    }

    /// Compares the kernel with what should be there. Empty when all is well.
    pub fn verify(&mut self) -> Vec<Breach> {
        match &mut self.slow {
            Slow::Ebpf(fence) => fence.verify(),
            Slow::Nftables(fence) => fence.verify(),
            Slow::None => Vec::new(),
        }
    }

    /// What ran before the fence when it was verified last. Known at the level `ebpf` only.
    pub fn earlier(&self) -> &[Earlier] {
        match &self.slow {
            Slow::Ebpf(fence) => fence.earlier(),
            Slow::Nftables(_) | Slow::None => &[],
        }
    }

    /// Whether the address is guarded on the interface if [`Fence::verify`] finds nothing wrong there. At the level `none`
    /// whatever should be guarded is.
    pub fn guards(&self, interface: u32, address: IpAddr) -> bool {
        match &self.slow {
            Slow::Ebpf(fence) => fence.guards(interface, address),
            Slow::Nftables(fence) => fence.guards(interface, address),
            Slow::None => true,
        }
    }

    /// What can be read when [`Fence::changed`] should be asked. At the level `ebpf` there is nothing: changes of filters are
    /// told to whoever follows links.
    pub fn descriptor(&self) -> Option<RawFd> {
        match &self.slow {
            Slow::Nftables(fence) => Some(fence.descriptor()),
            Slow::Ebpf(_) | Slow::None => None,
        }
    }

    /// Whether the kernel has told, since this was asked last, that somebody may have changed the fence. Renewals are not
    /// meant.
    pub fn changed(&mut self) -> bool {
        match &mut self.slow {
            Slow::Nftables(fence) => fence.changed(),
            Slow::Ebpf(_) | Slow::None => false,
        }
    }

    /// Puts back whatever is missing. At the level `nftables` VIPs are closed until the next renewal.
    ///
    /// # Errors
    /// When the kernel refuses; the fence is then as it was or partly mended.
    pub fn repair(&mut self) -> Result<(), FenceError> {
        match &mut self.slow {
            Slow::Ebpf(fence) => fence.repair(),
            Slow::Nftables(fence) => fence.repair(),
            Slow::None => Ok(()),
        }
    }

    /// Takes away everything that is ours, whichever process and level put it there. From then on the VIPs' addresses
    /// answer as any address does, so take them off their interfaces before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self) -> Result<(), FenceError> {
        match &mut self.slow {
            Slow::Ebpf(fence) => fence.remove()?,
            Slow::Nftables(fence) => fence.remove()?,
            Slow::None => {}
        }
        self.remove_other_levels()
    }

    /// The level in force.
    pub fn level(&self) -> FenceLevel {
        match self.slow {
            Slow::Ebpf(_) => FenceLevel::Ebpf,
            Slow::Nftables(_) => FenceLevel::Nftables,
            Slow::None => FenceLevel::None,
        }
    }

    /// What the kernel counted for a VIP that is or was guarded. `None` at other levels than `ebpf`.
    pub fn counters(&self, vip: VipId) -> Option<FenceCounters> {
        match &self.slow {
            Slow::Ebpf(fence) => fence.slots().counters(vip),
            Slow::Nftables(_) | Slow::None => None,
        }
    }

    fn remove_other_levels(&mut self) -> Result<(), FenceError> {
        if !matches!(self.slow, Slow::Ebpf(_)) {
            let mut tc = Tc::open().map_err(FenceError::Links)?;
            for link in tc.links().map_err(FenceError::Links)? {
                tc.clear(&link)?;
            }
        }
        if !matches!(self.slow, Slow::Nftables(_)) {
            nft_lease::delete_table().map_err(FenceError::Leftovers)?;
        }
        Ok(())
    }
}

impl Deadlines {
    /// The VIP passes until then; a time that has passed closes it. At the level `nftables` with the next
    /// [`Deadlines::flush`].
    pub fn set(&mut self, vip: VipId, until: BootNanos) {
        match &mut self.fast {
            Fast::Ebpf(slots) => slots.set(vip, until),
            Fast::Nftables(renewals) => renewals.set(vip, until),
            Fast::None => {}
        }
    }

    /// The VIP is closed when this returns, unless it says that the kernel refused. Connections that are kept stay. At the
    /// level `none` there is nothing to close, and whoever looks after addresses takes it off its interface later.
    pub fn close(&mut self, vip: VipId) -> Closing {
        match &mut self.fast {
            Fast::Ebpf(slots) => {
                slots.close(vip);
                Closing::Closed
            }
            Fast::Nftables(renewals) => renewals.close(vip),
            Fast::None => Closing::ByItself,
        }
    }

    /// Hands the deadlines set since the last call to the kernel, in one transaction. Does nothing at the level `ebpf`,
    /// where they are there already.
    pub fn flush(&mut self) {
        if let Fast::Nftables(renewals) = &mut self.fast {
            renewals.flush();
        }
    }

    /// On the node that handed the VIP over, after it closed: TCP connections that it has sockets for pass until then,
    /// and nothing else. Owning the VIP again ends it. Does nothing at the level `nftables`, where connections break when
    /// a VIP moves.
    pub fn keep_established(&mut self, vip: VipId, until: BootNanos) {
        if let Fast::Ebpf(slots) = &self.fast {
            slots.keep(vip, until);
        }
    }

    /// On the node that handed the VIP over, after it closed: segments that open a connection and still come here are
    /// sent on to the node with this MAC address until then. Does nothing at the level `nftables`.
    pub fn forward_new(&mut self, vip: VipId, mac: [u8; 6], until: BootNanos) {
        if let Fast::Ebpf(slots) = &self.fast {
            slots.pass_on(vip, mac, until);
        }
    }

    /// Sends nothing on any more. To be called before a node agrees to take
    /// the VIP over, so that what is sent on always leads to a later owner.
    pub fn forward_nothing(&mut self, vip: VipId) {
        if let Fast::Ebpf(slots) = &self.fast {
            slots.forward_nothing(vip);
        }
    }

    /// On the node that took the VIP over: until then, and while it owns the VIP, segments of connections that it has no
    /// socket for are sent on to the node with this MAC address on the same network. Segments that open a connection,
    /// fragments and everything that is not TCP stay here. A node that has handed the VIP on, and is told this again after
    /// [`Self::close`] and [`Self::forward_new`], sends on what its successor sends to it, so that connections outlive more
    /// than one move. A time that has passed ends it. Does nothing at the level `nftables`.
    pub fn forward_established(&mut self, vip: VipId, mac: [u8; 6], until: BootNanos) {
        if let Fast::Ebpf(slots) = &self.fast {
            slots.send_back(vip, mac, until);
        }
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
