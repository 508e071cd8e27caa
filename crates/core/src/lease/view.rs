//! What the lease protocol is told of the agreed state.

use std::net::{IpAddr, SocketAddr};

use crate::{
    config::Failback,
    ids::{LogIndex, NodeId, VipId},
    lease::{Epoch, Timing, VoterSets},
    time::BootNanos,
};

/// The agreed state as the lease protocol of one node sees it. Immutable; a new one is published
/// whenever something in it changes.
#[derive(Clone)]
pub struct LeaseView {
    /// The cluster; part of every datagram's authentication.
    pub cluster: String,
    /// Key that authenticates datagrams.
    pub secret: [u8; 32],
    /// Log index of the effective membership (the newest in this node's log, committed or not, as
    /// Raft itself uses it).
    pub membership: LogIndex,
    /// Its voter sets: two while it is joint.
    pub voters: VoterSets,
    /// Every node, voter or not, this one too.
    pub nodes: Vec<LeaseMember>,
    /// Every VIP.
    pub vips: Vec<LeaseVip>,
    /// How long leases last.
    pub timing: Timing,
    /// The longest lease that may still be in force somewhere (longer than `timing` only after the
    /// configured lease was shortened). A grantor that has just started stays quiet for its promise
    /// and refuses rights that are longer.
    pub longest: Timing,
    /// Whether this node may hold VIPs: it is ready, not draining, its state is current enough.
    pub fit: bool,
}

/// A node as the lease protocol sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseMember {
    /// The node.
    pub id: NodeId,
    /// Where its lease datagrams go.
    pub address: SocketAddr,
    /// May hold VIPs as far as the log says: ready, not draining, not a witness.
    pub candidate: bool,
    /// Has been ready for the stability delay, so that VIPs with automatic failback may return to it.
    pub stable: bool,
}

/// A VIP as the lease protocol sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseVip {
    /// The VIP.
    pub id: VipId,
    /// Its addresses; they move together.
    pub addresses: Vec<IpAddr>,
    /// Nodes it would rather be at, best first.
    pub prefer: Vec<NodeId>,
    /// Whether it returns to a better node by itself.
    pub failback: Failback,
    /// Where an operator wants it.
    pub wish: Option<NodeId>,
    /// Last owner that was written to the log.
    pub recorded_owner: Option<NodeId>,
    /// Last epoch that was written to the log.
    pub recorded_epoch: Epoch,
}

/// Positions in this node's log. They change with every entry and so are not part of the view.
///
/// Raft must store `last` and `membership` *before* it acknowledges an append: freshness and the
/// safety of membership changes rest on a voter never knowing less here than it acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// Last entry applied to the state.
    pub applied: LogIndex,
    /// Last entry in the log.
    pub last: LogIndex,
    /// Newest membership entry in the log.
    pub membership: LogIndex,
}

/// A round of questions that a majority of voters answered: everything committed before `asked_at`
/// has an index of at most `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Just before the questions went out, on this node's clock.
    pub asked_at: BootNanos,
    /// Highest last log index among those who answered.
    pub index: LogIndex,
}
