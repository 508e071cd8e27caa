//! What the lease protocol tells the outside: what to do, what happened and how things stand.

use std::{fmt, sync::Arc};

use super::{
    datagram::Release,
    view::{Confirmed, LeaseView},
};
use crate::{
    ids::{NodeId, VipId},
    lease::{Epoch, Fitness, PlacementReason, Unfitness},
    time::BootNanos,
};

/// Something to do. Actions of one call are carried out **in order**: a gate is closed before the
/// datagram that tells of it leaves, and opened before the acquisition is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The agreed state changed, or more of it may be carried out: VIPs are these, with these addresses. One that was
    /// added to a VIP while this node holds it is left out until it has been granted.
    Carry {
        /// What to carry out.
        view: Arc<LeaseView>,
    },
    /// This node has agreed to take the VIP over: whatever makes taking over quick may be done now.
    /// Nothing may be answered for it yet, and perhaps it never comes.
    Prepare {
        /// The VIP.
        vip: VipId,
    },
    /// Close the VIP's gate at once.
    Close {
        /// The VIP.
        vip: VipId,
        /// Who has agreed to take over.
        successor: Option<NodeId>,
        /// It is given up while it is held, so what clients have begun here may be finished beside whoever takes over.
        given_up: bool,
    },
    /// Open the VIP's gate, or move its deadline on.
    Open {
        /// The VIP.
        vip: VipId,
        /// Under this epoch.
        epoch: Epoch,
        /// Until then, on this node's clock.
        until: BootNanos,
        /// At the first opening: who handed the VIP over and may still be finishing what clients have begun there.
        predecessor: Option<NodeId>,
    },
    /// Say that a VIP is free, with [`super::LeaseNode::tell`]. Whoever could not close its gate before says
    /// [`super::LeaseNode::keep_to_itself`] instead, until the gate has closed by itself.
    Tell {
        /// What is free.
        release: Release,
    },
    /// Send a datagram. Losing it costs time, never safety.
    Send {
        /// To this node.
        to: NodeId,
        /// The sealed datagram.
        bytes: Vec<u8>,
    },
    /// A node is heard for the first time or after a silence. Where it was, another owner may have been announced: say
    /// again who owns what is owned here.
    PeerReturned {
        /// The node.
        node: NodeId,
    },
    /// A node that was heard before has been silent for two seconds, while a majority of the voters answered: once in each
    /// silence. What it was left to finish, it finishes no more.
    PeerGone {
        /// The node.
        node: NodeId,
    },
    /// Tell whoever keeps the history.
    Report(Transition),
}

/// Actions in the order in which they must be carried out.
pub type Actions = Vec<Action>;

/// A VIP came to this node or left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The VIP.
    pub vip: VipId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// When, on this node's clock.
    pub at: BootNanos,
    /// What happened and why.
    pub change: Change,
}

/// What happened to a VIP on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This node owns it now.
    Gained(GainCause),
    /// This node owns it no longer.
    Lost(LossCause),
}

/// Why a node came to own a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GainCause {
    /// Nobody was known to hold it.
    Vacant,
    /// Its holder did not renew it.
    Expired {
        /// The holder.
        from: NodeId,
    },
    /// Its holder gave it up and named nobody.
    Released {
        /// The holder.
        from: NodeId,
    },
    /// Its holder handed it over.
    HandedOver {
        /// The holder.
        from: NodeId,
    },
}

/// Why a node owns a VIP no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// No majority of voters renewed it in time.
    NotRenewed(Unrenewed),
    /// The node is not fit to hold it.
    Left {
        /// Who takes over, if anybody would.
        to: Option<NodeId>,
        /// What is wrong.
        because: Unfitness,
    },
    /// An operator moved it.
    Moved {
        /// Who takes over.
        to: NodeId,
    },
    /// It returned to a better node by itself.
    FellBack {
        /// Who takes over.
        to: NodeId,
    },
    /// It went to where its group is.
    Rejoined {
        /// Who takes over.
        to: NodeId,
    },
    /// It went away from a VIP that it is to be apart from.
    Parted {
        /// Who takes over.
        to: NodeId,
    },
}

/// Why an owner's right was not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrenewed {
    /// This node did not even ask in time: its process, or the machine, stood still.
    StoodStill,
    /// Too few voters answered.
    Unanswered,
    /// So many voters refused that there was no majority without them; this is what most of them said last.
    Refused(Refusal),
}

/// What a voter says when it does not renew a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It knows of a change of the voters that the owner does not count by.
    StaleMembership,
    /// It has not heard of a lease that is so long.
    TooLong,
    /// It has just started.
    Quiet,
    /// It has promised the VIP to somebody else.
    Taken,
    /// It knows the VIP by other addresses, or not at all.
    OtherAddresses,
    /// It has promised an address of the VIP to somebody else.
    AddressTaken,
    /// The owner has been answered by no majority for too long.
    Deaf,
    /// It has heard of a higher epoch.
    LowEpoch,
}

impl fmt::Display for Unrenewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refusal = match self {
            Self::StoodStill => {
                return f.write_str("this node stood still and did not ask for it to be renewed in time");
            }
            Self::Unanswered => return f.write_str("no majority of voters answered in time"),
            Self::Refused(refusal) => refusal,
        };
        f.write_str("voters refused to renew it: ")?;
        f.write_str(match refusal {
            Refusal::StaleMembership => "they know of a change of the voters that this node does not count by",
            Refusal::TooLong => "they have not heard of a lease that is so long",
            Refusal::Quiet => "they have just started",
            Refusal::Taken => "they have promised it to another node",
            Refusal::OtherAddresses => "they know it by other addresses or not at all",
            Refusal::AddressTaken => "they have promised an address of it to another node",
            Refusal::Deaf => "no majority had answered this node for too long",
            Refusal::LowEpoch => "they have heard of a higher epoch",
        })
    }
}

impl GainCause {
    /// A short constant name, for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vacant => "vacant",
            Self::Expired { .. } => "expired",
            Self::Released { .. } => "released",
            Self::HandedOver { .. } => "handed_over",
        }
    }
}

impl LossCause {
    /// A short constant name, for metrics; that of what is wrong if the node left it for that.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotRenewed(_) => "not_renewed",
            Self::Left { because, .. } => because.name(),
            Self::Moved { .. } => "moved",
            Self::FellBack { .. } => "fell_back",
            Self::Rejoined { .. } => "rejoined",
            Self::Parted { .. } => "parted",
        }
    }
}

impl fmt::Display for GainCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vacant => f.write_str("nobody held it"),
            Self::Expired { from } => write!(f, "the lease of node {from} ran out"),
            Self::Released { from } => write!(f, "node {from} gave it up"),
            Self::HandedOver { from } => write!(f, "node {from} handed it over"),
        }
    }
}

impl fmt::Display for LossCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRenewed(why) => why.fmt(f),
            Self::Left { to: Some(to), because } => write!(f, "this node gives it up: {because}; node {to} takes over"),
            Self::Left { to: None, because } => {
                write!(f, "this node gives it up: {because}; nobody was ready to take over")
            }
            Self::Moved { to } => write!(f, "an operator moved it to node {to}"),
            Self::FellBack { to } => write!(f, "it returns to node {to}, which is a better place"),
            Self::Rejoined { to } => write!(f, "it goes to node {to}, where its group is"),
            Self::Parted { to } => write!(f, "it goes to node {to}, apart from another VIP"),
        }
    }
}

/// How one VIP stands, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipStatus {
    /// The VIP.
    pub vip: VipId,
    /// Its owner, if known.
    pub holder: Option<NodeId>,
    /// The owner's epoch, or the highest heard of.
    pub epoch: Epoch,
    /// End of this node's own right; zero if it is not the owner.
    pub until: BootNanos,
    /// This node's place among those who may hold it, from 0; nothing if it may not.
    pub rank: Option<usize>,
    /// Where the placement wants it.
    pub best: Option<NodeId>,
    /// Why there.
    pub reason: PlacementReason,
    /// Whether this node is fit to hold it, the other VIPs of its group considered.
    pub fitness: Fitness,
    /// What this node makes of it, in words.
    pub why: &'static str,
    /// Only on the owner: the newest renewal, and the one it was acquired by. The table may serve hits of this
    /// VIP's clients once everything up to the *acquisition's* index is applied.
    pub fresh_as_of: Option<(Confirmed, Confirmed)>,
}
