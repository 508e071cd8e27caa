//! Notices on the link that somebody else claims a VIP. Pure.
//!
//! A conflict never makes this node give a VIP up: who owns it is decided by the lease, and a host
//! that is told by a frame to leave can be told so by anybody. It is reported, and the owner
//! announces that address once more ([`Announcer::once`](super::Announcer::once)).
//!
//! A VIP is claimed on its own link only: a host on another one may have the same address rightly.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ballast_core::{ids::VipId, time::BootNanos};

use super::{Claim, Mac};

/// RFC 5227 section 1.1, `DEFEND_INTERVAL`: two that defend one address must not answer each
/// other's announcements faster than this.
const REPORT_NANOS: u64 = 10_000_000_000;

/// Pairs of address and MAC remembered. Somebody who invents MACs gets this many reports in ten
/// seconds, and the others are counted.
const PAIRS_MAX: usize = 256;

/// A claim deserves a look for so long after it was heard last. Arbitrary: a host that keeps an address is asked for it
/// every few seconds, and an operator who looks a moment later still sees what happened.
const RECENT_NANOS: u64 = 60_000_000_000;

/// Somebody claims a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Neither this node nor a member: a host was configured with the VIP's address.
    Stranger {
        /// The VIP.
        vip: VipId,
        /// Its address.
        address: IpAddr,
        /// Who claims it.
        mac: Mac,
    },
    /// A member, while this node holds it: a node without a fence, or a frame that was on its way
    /// while the VIP moved. Announcing again puts it right.
    Peer {
        /// The VIP.
        vip: VipId,
        /// Its address.
        address: IpAddr,
        /// Who claims it.
        mac: Mac,
    },
}

impl Conflict {
    /// The VIP.
    pub const fn vip(&self) -> VipId {
        match self {
            Self::Stranger { vip, .. } | Self::Peer { vip, .. } => *vip,
        }
    }

    /// The address that is claimed.
    pub const fn address(&self) -> IpAddr {
        match self {
            Self::Stranger { address, .. } | Self::Peer { address, .. } => *address,
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stranger { address, mac, .. } => write!(
                f,
                "{mac} claims {address} and is no node of this cluster; take the address away from it or choose another VIP"
            ),
            Self::Peer { address, mac, .. } => write!(
                f,
                "{mac} of another node claims {address}, which this node holds; see whether that node has a fence: ballastctl node list -o wide"
            ),
        }
    }
}

/// Judges what was heard on the link.
#[derive(Debug, Default)]
pub struct Conflicts {
    ours: BTreeSet<Mac>,
    members: BTreeSet<Mac>,
    /// By index of the interface that the VIP is on.
    vips: BTreeMap<(u32, IpAddr), VipId>,
    held: BTreeSet<VipId>,
    reported: Vec<(IpAddr, Mac, BootNanos)>,
    unreported: u64,
    /// The last of each VIP, reported or not, when it was heard and on which interface.
    last: BTreeMap<VipId, (BootNanos, u32, Conflict)>,
}

impl Conflicts {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The MACs of this machine's interfaces.
    pub fn set_ours(&mut self, macs: impl IntoIterator<Item = Mac>) {
        self.ours = macs.into_iter().collect();
    }

    /// The MACs of the other members' interfaces. Who was taken for a stranger, and is a member as it turns out, is none.
    pub fn set_members(&mut self, macs: impl IntoIterator<Item = Mac>) {
        self.members = macs.into_iter().collect();
        let Self { members, last, .. } = self;
        last.retain(|_, (_, _, conflict)| match conflict {
            Conflict::Stranger { mac, .. } => !members.contains(mac),
            Conflict::Peer { .. } => true,
        });
    }

    /// The addresses of all VIPs, each on the interface of this index.
    pub fn set_vips(&mut self, addresses: impl IntoIterator<Item = ((u32, IpAddr), VipId)>) {
        self.vips = addresses.into_iter().collect();
        let Self { vips, last, .. } = self;
        last.retain(|_, (_, on, conflict)| vips.get(&(*on, conflict.address())) == Some(&conflict.vip()));
    }

    /// Whether this node holds the VIP.
    pub fn set_held(&mut self, vip: VipId, held: bool) {
        if held {
            self.held.insert(vip);
        } else {
            self.held.remove(&vip);
        }
    }

    /// A conflict to report, at most one each ten seconds for an address and a MAC. `on` is the interface that the claim was
    /// heard on.
    pub fn heard(&mut self, now: BootNanos, on: u32, claim: &Claim) -> Option<Conflict> {
        let Claim { address, mac, .. } = *claim;
        let vip = *self.vips.get(&(on, address))?;
        if self.ours.contains(&mac) {
            return None;
        }
        let conflict = if !self.members.contains(&mac) {
            Conflict::Stranger { vip, address, mac }
        } else if self.held.contains(&vip) {
            Conflict::Peer { vip, address, mac }
        } else {
            return None;
        };
        self.last.insert(vip, (now, on, conflict));
        self.may_report(now, address, mac).then_some(conflict)
    }

    /// Those that were heard in the last minute, the last one of each VIP. One with a member is over when this node
    /// holds the VIP no longer.
    pub fn recent(&self, now: BootNanos) -> impl Iterator<Item = Conflict> {
        let recent = self.last.values().filter(move |(at, ..)| now.since(*at) < RECENT_NANOS);
        recent.map(|(.., conflict)| *conflict).filter(|conflict| match conflict {
            Conflict::Stranger { .. } => true,
            Conflict::Peer { vip, .. } => self.held.contains(vip),
        })
    }

    /// Conflicts that were not reported, because of the limits.
    pub fn unreported(&self) -> u64 {
        self.unreported
    }

    fn may_report(&mut self, now: BootNanos, address: IpAddr, mac: Mac) -> bool {
        self.reported.retain(|(_, _, at)| now.since(*at) < REPORT_NANOS);
        let known = self.reported.iter().any(|(of, by, _)| (*of, *by) == (address, mac));
        if known || self.reported.len() >= PAIRS_MAX {
            self.unreported += 1;
            return false;
        }
        self.reported.push((address, mac, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Announcer, claim},
        *,
    };

    const OURS: Mac = Mac::new([2, 0, 0, 0, 1, 1]);
    const MEMBER: Mac = Mac::new([2, 0, 0, 0, 1, 2]);
    const STRANGER: Mac = Mac::new([2, 0, 0, 0, 9, 9]);
    const VIP: VipId = VipId::new(1);
    const SECOND: u64 = 1_000_000_000;
    /// The interface that the VIP is on.
    const ON: u32 = 2;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn conflicts() -> Conflicts {
        let mut conflicts = Conflicts::new();
        conflicts.set_ours([OURS]);
        conflicts.set_members([MEMBER]);
        conflicts.set_vips([((ON, address(5)), VIP), ((ON, address(6)), VIP)]);
        conflicts
    }

    fn heard(conflicts: &mut Conflicts, second: u64, last: u8, mac: Mac) -> Option<Conflict> {
        conflicts.heard(BootNanos::new(second * SECOND), ON, &Claim { address: address(last), mac, answer: false })
    }

    #[test]
    fn a_stranger_is_reported_whether_the_vip_is_held_or_not() {
        let expected = Some(Conflict::Stranger { vip: VIP, address: address(5), mac: STRANGER });
        for held in [false, true] {
            let mut conflicts = conflicts();
            conflicts.set_held(VIP, held);
            assert_eq!(heard(&mut conflicts, 1, 5, STRANGER), expected);
        }
    }

    #[test]
    fn a_member_is_reported_only_while_this_node_holds_the_vip() {
        let mut conflicts = conflicts();
        assert_eq!(heard(&mut conflicts, 1, 5, MEMBER), None);
        conflicts.set_held(VIP, true);
        let expected = Some(Conflict::Peer { vip: VIP, address: address(5), mac: MEMBER });
        assert_eq!(heard(&mut conflicts, 1, 5, MEMBER), expected);
        conflicts.set_held(VIP, false);
        assert_eq!(heard(&mut conflicts, 20, 5, MEMBER), None);
    }

    #[test]
    fn this_node_and_other_addresses_are_no_conflict() {
        let mut conflicts = conflicts();
        conflicts.set_held(VIP, true);
        assert_eq!(heard(&mut conflicts, 1, 5, OURS), None);
        assert_eq!(heard(&mut conflicts, 1, 7, STRANGER), None);
        let elsewhere = Claim { address: address(5), mac: STRANGER, answer: true };
        assert_eq!(conflicts.heard(BootNanos::new(SECOND), ON + 1, &elsewhere), None, "on another link");
        assert_eq!(conflicts.recent(BootNanos::new(SECOND)).count(), 0);
        assert_eq!(conflicts.unreported(), 0);
    }

    #[test]
    fn each_pair_is_reported_once_in_ten_seconds() {
        let mut conflicts = conflicts();
        let reports: Vec<u64> =
            (0..25).filter(|&second| heard(&mut conflicts, second, 5, STRANGER).is_some()).collect();
        assert_eq!(reports, [0, 10, 20]);
        assert_eq!(conflicts.unreported(), 22);
        assert!(heard(&mut conflicts, 25, 6, STRANGER).is_some(), "another address");
    }

    #[test]
    fn a_conflict_is_recent_for_a_minute_after_it_was_heard_last() {
        let mut conflicts = conflicts();
        let recent = |conflicts: &Conflicts, second: u64| -> Vec<String> {
            conflicts.recent(BootNanos::new(second * SECOND)).map(|conflict| conflict.to_string()).collect()
        };
        assert!(recent(&conflicts, 1).is_empty());
        heard(&mut conflicts, 1, 5, STRANGER);
        assert!(heard(&mut conflicts, 5, 5, STRANGER).is_none(), "it is not reported again, and counts all the same");
        let [said] = &recent(&conflicts, 64)[..] else { panic!("one VIP") };
        assert!(said.starts_with("02:00:00:00:09:09 claims 10.0.0.5 and is no node of this cluster; take"), "{said}");
        assert!(recent(&conflicts, 65).is_empty());
        conflicts.set_held(VIP, true);
        heard(&mut conflicts, 70, 6, MEMBER);
        let [said] = &recent(&conflicts, 71)[..] else { panic!("one VIP") };
        assert!(said.starts_with("02:00:00:00:01:02 of another node claims 10.0.0.6, which this node holds"), "{said}");
        conflicts.set_held(VIP, false);
        assert!(recent(&conflicts, 71).is_empty(), "the VIP went to the one that claims it");
        heard(&mut conflicts, 72, 5, STRANGER);
        conflicts.set_vips([((ON, address(6)), VIP)]);
        assert!(recent(&conflicts, 73).is_empty(), "the address is no VIP's any more");
    }

    #[test]
    fn a_stranger_that_turns_out_a_member_is_forgotten() {
        let mut conflicts = conflicts();
        heard(&mut conflicts, 1, 5, STRANGER);
        assert_eq!(conflicts.recent(BootNanos::new(SECOND)).count(), 1);
        conflicts.set_members([MEMBER]);
        assert_eq!(conflicts.recent(BootNanos::new(SECOND)).count(), 1, "it is none");
        conflicts.set_members([MEMBER, STRANGER]);
        assert_eq!(conflicts.recent(BootNanos::new(SECOND)).count(), 0);
        assert!(heard(&mut conflicts, 20, 5, STRANGER).is_none());
    }

    #[test]
    fn two_clusters_with_one_vip_defend_it_slowly_and_no_other() {
        struct Owner {
            mac: Mac,
            conflicts: Conflicts,
            announcer: Announcer,
            /// Of each address after the initial series.
            sent: BTreeMap<IpAddr, usize>,
        }
        let owner = |mac, vips: &[u8]| {
            let mut owner =
                Owner { mac, conflicts: Conflicts::new(), announcer: Announcer::new(4), sent: BTreeMap::new() };
            let addresses: Vec<IpAddr> = vips.iter().map(|last| address(*last)).collect();
            owner.conflicts.set_ours([mac]);
            owner.conflicts.set_vips(addresses.iter().map(|address| ((ON, *address), VIP)));
            owner.conflicts.set_held(VIP, true);
            owner.announcer.hold(BootNanos::new(SECOND), VIP, (ON, mac), &addresses, BootNanos::new(u64::MAX));
            owner
        };
        let mut owners = [owner(OURS, &[5, 6]), owner(STRANGER, &[5, 7])];
        const STEP: u64 = SECOND / 1000;
        for now in (1000..61_000).map(|step| BootNanos::new(step * STEP)) {
            // What the one announces, and answers when the other asks every five seconds, the other hears.
            for (one, other) in [(0, 1), (1, 0)] {
                let mut due = Vec::new();
                owners[one].announcer.due(now, &mut due);
                let mac = owners[one].mac;
                let mut claims: Vec<Claim> = due.iter().filter_map(|said| claim(said.frame.as_bytes())).collect();
                if now.get() > 3 * SECOND {
                    claims.iter().for_each(|claim| *owners[one].sent.entry(claim.address).or_default() += 1);
                }
                if now.get().is_multiple_of(5 * SECOND) {
                    claims.push(Claim { address: address(5), mac, answer: true });
                }
                for claim in claims {
                    if let Some(conflict) = owners[other].conflicts.heard(now, ON, &claim) {
                        owners[other].announcer.once(now, conflict.address());
                    }
                }
            }
        }
        for Owner { sent, .. } in &owners {
            let [(address_in_conflict, frames)] = sent.iter().collect::<Vec<_>>()[..] else { panic!("{sent:?}") };
            assert!(*address_in_conflict == address(5) && (1..=6).contains(frames), "{sent:?}");
        }
    }

    #[test]
    fn invented_macs_are_bounded() {
        let mut conflicts = conflicts();
        let invented = |n: u16| Mac::new([6, 0, 0, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        let reports = (0..1000).filter(|&n| heard(&mut conflicts, 1, 5, invented(n)).is_some()).count();
        assert_eq!((reports, conflicts.unreported()), (PAIRS_MAX, 1000 - PAIRS_MAX as u64));
        assert!(heard(&mut conflicts, 11, 5, invented(1)).is_some());
    }
}
