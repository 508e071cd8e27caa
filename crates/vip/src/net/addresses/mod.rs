//! Puts VIPs on this machine's interfaces, and takes them away again.
//!
//! A VIP's address sits on its interface all the time, whoever owns it: who answers is decided by
//! the fence. So nothing here is on the path of a take-over, unless there is no fence, and all of it may wait for the kernel
//! and the disk. What is wanted is compared with what is there and with what is ours; an address
//! that was there before us is neither adopted nor touched. What is ours is written down in the data
//! folder, and told by a mark that the kernel keeps with the address, because a damaged folder is
//! emptied and the address stays.
//!
//! This machine must not talk *from* a VIP of its own accord, because the answers would go to
//! whoever owns it. The kernel's choice of a source address is kept off the VIPs like this:
//! - IPv4: added as /32 behind the addresses that the interface has. Routes to neighbours name their
//!   own subnet's address as source, and for a route through a gateway the kernel takes the address
//!   whose subnet has the gateway in it, which a /32 never has. With a wider prefix (configured) it is
//!   added only where the interface has an older address of exactly that subnet, so that it becomes a
//!   secondary address, which the kernel never chooses.
//! - IPv6: added deprecated (no preferred lifetime), which RFC 6724 rule 3 avoids; without duplicate
//!   address detection, because every candidate has it; and without a route for the prefix.
//!
//! Not here: the fence, and announcing.

mod known;
mod ours;
mod plan;

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use self::{
    known::unrecorded,
    plan::{Plan, Step, plan},
};
use super::{
    Interface, InterfaceAddress, NetError,
    error::hint,
    interface::{IFA_PROTO, OUR_MARK, octets, read_all},
    route::RouteSocket,
    system,
    wire::Request,
};
pub use ours::{OursError, OursFile};

/// Name of the file in the data folder.
const FILE: &str = "vip-addresses";

/// Valid for ever.
const FOR_EVER: u32 = u32::MAX;

/// An address of a VIP on an interface: wanted there, or put there by us.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VipAddress {
    /// Name of the interface.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix it is added with. See [`VipAddress::host`].
    pub prefix: u8,
}

impl VipAddress {
    /// With the prefix that is right for almost everybody: /32, or /128 for IPv6.
    pub fn host(interface: &str, address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { interface: interface.to_owned(), address, prefix }
    }
}

impl fmt::Display for VipAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.address, self.prefix, self.interface)
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Put on its interface.
    Added(VipAddress),
    /// Ours, taken away by somebody else or with its interface, and put back.
    CameBack(VipAddress),
    /// Taken from its interface.
    Removed(VipAddress),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added(at) => write!(f, "{at} was added"),
            Self::CameBack(at) => write!(f, "{at} had been removed by somebody else and was put back"),
            Self::Removed(at) => write!(f, "{at} was removed"),
        }
    }
}

/// Why an address is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The interface is not there; the address is added when it comes.
    #[error("{address}: no such interface; there are: {present}; correct vip.interface in ballastd.toml")]
    NoInterface {
        /// The address.
        address: VipAddress,
        /// The interfaces that there are.
        present: String,
    },
    /// Somebody else put it there.
    #[error(
        "{address}: is on {on} already and was not put there by Ballast; remove it there (`ip address del`, and from the network configuration) or choose another VIP"
    )]
    NotOurs {
        /// The address.
        address: VipAddress,
        /// The interface that has it.
        on: String,
    },
    /// The kernel takes no IPv6 address there.
    #[error(
        "{address}: IPv6 is switched off on the interface; set net/ipv6/conf/{}/disable_ipv6 to 0 or give the VIP no IPv6 address",
        address.interface
    )]
    Ipv6Disabled {
        /// The address.
        address: VipAddress,
    },
    /// Added, but neighbours look for it elsewhere unless they have a route. A warning.
    #[error(
        "{address}: is in no subnet of the interface ({}); neighbours reach it only with a route to this link",
        if subnets.is_empty() { "it has none".to_owned() } else { subnets.join(", ") }
    )]
    OutsideSubnets {
        /// The address.
        address: VipAddress,
        /// The interface's own addresses with their prefixes.
        subnets: Vec<String>,
    },
    /// With its prefix it would be what the kernel talks from.
    #[error(
        "{address}: would be the primary address of its subnet, which this machine would then talk from; give the interface an address of its own there, or the VIP no prefix"
    )]
    WouldBePrimary {
        /// The address.
        address: VipAddress,
    },
    /// The kernel would remove others with it, so it stays.
    #[error(
        "{address}: removing it would take {other} away too, because it has become the primary address of the subnet; set net/ipv4/conf/{}/promote_secondaries to 1 and remove it with `ip address del`",
        address.interface
    )]
    TakesOthersAway {
        /// The address.
        address: VipAddress,
        /// One that would go too.
        other: IpAddr,
    },
    /// Its interface came anew since the fence was put up.
    #[error("{address}: the interface came anew and is not fenced yet; the address is added when it is")]
    NotFenced {
        /// The address.
        address: VipAddress,
    },
    /// The kernel refused.
    #[error("{address}: {reason}")]
    Refused {
        /// The address.
        address: VipAddress,
        /// What it said.
        reason: String,
    },
}

impl Problem {
    /// Whether the address is on its interface all the same.
    pub fn is_warning(&self) -> bool {
        matches!(self, Self::OutsideSubnets { .. })
    }

    /// The address it is about.
    pub fn address(&self) -> &VipAddress {
        match self {
            Self::NoInterface { address, .. }
            | Self::NotOurs { address, .. }
            | Self::Ipv6Disabled { address }
            | Self::OutsideSubnets { address, .. }
            | Self::WouldBePrimary { address }
            | Self::TakesOthersAway { address, .. }
            | Self::NotFenced { address }
            | Self::Refused { address, .. } => address,
        }
    }
}

/// What one reconciliation did and could not do. One bad address keeps no other from its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Done.
    pub changes: Vec<Change>,
    /// Not as it should be.
    pub problems: Vec<Problem>,
}

/// Nothing more could be done.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The kernel cannot be asked.
    #[error(transparent)]
    Net(#[from] NetError),
    /// It cannot be written down what is ours, so nothing was added that is not written down already.
    #[error(transparent)]
    Ours(#[from] OursError),
}

/// Keeps the VIPs' addresses in place. Blocks; not for the lease thread.
pub struct Addresses {
    socket: RouteSocket,
    ours: OursFile,
}

impl Addresses {
    /// Reads what is ours from the data folder, and opens a socket in the calling thread's network
    /// namespace.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn open(data_dir: &Path) -> Result<Self, AddressError> {
        let socket = RouteSocket::open().map_err(NetError::kernel("open a netlink socket"))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = boot.map_err(NetError::kernel("read /proc/sys/kernel/random/boot_id"))?;
        Ok(Self { socket, ours: OursFile::open(&Self::path(data_dir), boot.trim())? })
    }

    /// The file that says what is ours.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE)
    }

    /// What is ours.
    pub fn ours(&self) -> &BTreeSet<VipAddress> {
        self.ours.addresses()
    }

    /// Recognises what is ours of what is `there`: by the kernel's mark, by the record whatever its interface is called
    /// now, and because `fenced` says that an earlier process guarded it.
    pub fn recognise(&mut self, there: &[Interface], fenced: impl Fn(&InterfaceAddress) -> bool) {
        let found = unrecorded(there, self.ours.addresses(), fenced);
        for at in &found {
            tracing::warn!(address = %at, "an address of a VIP is there that the record does not name; it is taken for ours");
        }
        self.ours.adopt(found);
    }

    /// Makes the interfaces have what is wanted of our addresses, and nothing else of ours. Call it
    /// again whenever links or addresses changed; it changes nothing that is right.
    ///
    /// # Errors
    /// [`AddressError`]: some steps may have been taken; call again.
    pub fn reconcile(&mut self, wanted: &[VipAddress]) -> Result<Outcome, AddressError> {
        self.reconcile_fenced(wanted, &[], |_, _| true)
    }

    /// As [`Addresses::reconcile`], and adds an address only where it is `fenced` on the interface of this index: what is
    /// there by that name may be another one than when the fence was put up. Of those that are to come `later` it is told
    /// what is in their way; now they are not wanted.
    ///
    /// # Errors
    /// As [`Addresses::reconcile`].
    pub fn reconcile_fenced(
        &mut self,
        wanted: &[VipAddress],
        later: &[VipAddress],
        fenced: impl Fn(u32, IpAddr) -> bool,
    ) -> Result<Outcome, AddressError> {
        let there = read_all(&mut self.socket)?;
        self.recognise(&there, |_| false);
        let wanted: BTreeSet<VipAddress> = wanted.iter().cloned().collect();
        let Plan { steps, mut problems } = plan(&there, self.ours.addresses(), &wanted, system::ipv6_disabled);
        if !later.is_empty() {
            let all = wanted.iter().chain(later).cloned().collect();
            let in_the_way = plan(&there, self.ours.addresses(), &all, system::ipv6_disabled).problems;
            problems.extend(in_the_way.into_iter().filter(|problem| later.contains(problem.address())));
        }
        let may = |step: &Step| match step {
            Step::Add { index, address, .. } => fenced(*index, address.address),
            Step::Remove { .. } | Step::Forget { .. } => true,
        };
        let (steps, unfenced): (Vec<_>, Vec<_>) = steps.into_iter().partition(may);
        let unfenced = unfenced.iter().filter_map(Step::added).cloned();
        problems.extend(unfenced.map(|address| Problem::NotFenced { address }));
        let mut outcome = Outcome { changes: Vec::new(), problems };
        let added: BTreeSet<VipAddress> = steps.iter().filter_map(Step::added).cloned().collect();
        // What goes for good may be urgent: it is not kept waiting for the disk, which may hang. The record names it until then,
        // as one that is gone already.
        let moves = |address: &VipAddress| added.iter().any(|added| added.address == address.address);
        let (later, at_once): (Vec<_>, Vec<_>) = steps.into_iter().partition(|step| step.taken().is_none_or(moves));
        let mut ours = self.ours.addresses().clone();
        for step in at_once {
            self.perform(step, &mut ours, &mut outcome);
        }
        // Everything that is about to be added is written down in one go, before the first.
        let unwritten = self.ours.set(ours.union(&added).cloned().collect()).err();
        for step in later {
            // What comes back is written down already.
            let may = step.added().is_none_or(|address| unwritten.is_none() || self.ours.is_written(address));
            if may {
                ours.extend(step.added().cloned());
                self.perform(step, &mut ours, &mut outcome);
            }
        }
        match unwritten {
            Some(error) => Err(error)?,
            None => self.ours.set(ours)?,
        }
        Ok(outcome)
    }

    /// Takes away everything of ours.
    ///
    /// # Errors
    /// As [`Addresses::reconcile`].
    pub fn leave(&mut self) -> Result<Outcome, AddressError> {
        self.reconcile(&[])
    }

    fn perform(&mut self, step: Step, ours: &mut BTreeSet<VipAddress>, outcome: &mut Outcome) {
        match step {
            Step::Forget { address } => {
                ours.remove(&address);
            }
            Step::Remove { index, address } => match self.remove(index, &address) {
                Ok(()) => {
                    ours.remove(&address);
                    outcome.changes.push(Change::Removed(address));
                }
                Err(error) => outcome.problems.push(refused(address, &error)),
            },
            Step::Add { index, address, again } => match self.add(index, &address) {
                Ok(()) if again => outcome.changes.push(Change::CameBack(address)),
                Ok(()) => outcome.changes.push(Change::Added(address)),
                Err(error) => {
                    ours.remove(&address);
                    outcome.problems.push(refused(address, &error));
                }
            },
        }
    }

    fn add(&mut self, index: u32, address: &VipAddress) -> io::Result<()> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut request = request(libc::RTM_NEWADDR, flags, index, address).with(IFA_PROTO, &[OUR_MARK]);
        if address.address.is_ipv6() {
            let [preferred, valid, created, updated] = [0, FOR_EVER, 0, 0_u32].map(u32::to_ne_bytes);
            let lifetimes = [preferred, valid, created, updated].concat();
            let flags = libc::IFA_F_NODAD | libc::IFA_F_NOPREFIXROUTE;
            request = request.with(libc::IFA_CACHEINFO, &lifetimes).with(libc::IFA_FLAGS, &flags.to_ne_bytes());
        }
        self.socket.change(request)
    }

    fn remove(&mut self, index: u32, address: &VipAddress) -> io::Result<()> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        match self.socket.change(request(libc::RTM_DELADDR, flags, index, address)) {
            // Gone between reading and removing, alone or with its interface.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
            result => result,
        }
    }
}

/// A message about one address: `struct ifaddrmsg`, and the address twice, because it has no peer.
fn request(kind: u16, flags: i32, index: u32, address: &VipAddress) -> Request {
    let family = if address.address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut fixed = [family as u8, address.prefix, 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    let octets = octets(address.address);
    Request::new(kind, flags, &fixed).with(libc::IFA_LOCAL, &octets).with(libc::IFA_ADDRESS, &octets)
}

fn refused(address: VipAddress, error: &io::Error) -> Problem {
    match error.raw_os_error() {
        // Somebody added it between reading and adding.
        Some(libc::EEXIST) => Problem::NotOurs { on: address.interface.clone(), address },
        Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) if address.address.is_ipv6() => {
            Problem::Ipv6Disabled { address }
        }
        _ => Problem::Refused { address, reason: format!("{error}{}", hint(error)) },
    }
}
