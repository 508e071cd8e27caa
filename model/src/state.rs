//! What there is: nodes, their kernels, and what is in the air between them.
//!
//! Time is what is left of it: every timer counts true ticks down to zero, so that states reached
//! at different times are one state. A datagram that was sent stays in the air for good, and
//! whoever it is meant for may hear it at any time, never, or as often as it likes; loss, delay,
//! reordering and doubling are all in that. A node that crashed or is frozen is one that does
//! nothing for a while; what sets a restart apart is what it forgets.

use smallvec::SmallVec;

/// Position in the setup's list of nodes, from zero. Shown from one.
pub type NodeAt = usize;

/// Nodes as bits.
pub type NodeBits = u8;

/// Ticks of true time.
pub type Ticks = u8;

/// A fencing number. Its upper bits are the membership under which it was claimed, as the real ones
/// begin with a log index.
pub type Epoch = u8;

/// Position in the list of memberships: even ones are a voter set, odd ones are joint.
pub type Membership = u8;

/// Memberships as bits.
pub type MembershipBits = u8;

/// One life of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Life {
    /// The node.
    pub node: u8,
    /// Counts its starts.
    pub boot: u8,
}

/// A grantor's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    /// To whom.
    pub to: Life,
    /// Under which epoch.
    pub epoch: Epoch,
    /// For how long still.
    pub left: Ticks,
}

/// A candidate's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hold {
    /// Neither owns the VIP nor tries to.
    #[default]
    Watching,
    /// Collects grants.
    Claiming {
        /// The epoch it claims.
        epoch: Epoch,
    },
    /// Believes that it owns the VIP.
    Held {
        /// The epoch it renews under.
        epoch: Epoch,
        /// The epoch a majority knows it by.
        armed: Epoch,
        /// What is left of its right.
        left: Ticks,
        /// The voter sets by which it holds, as bits.
        sets: u8,
        /// The right was given under the present membership.
        renewed: bool,
    },
}

/// Something decided and not yet done. A frozen process has it undone.
///
/// Most setups do without: to freeze between deciding and doing is to freeze before deciding, as
/// long as deadlines are absolute and gates are closed before it is told. Where one of these is
/// broken, or a setup asks for it, deeds are steps of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deed {
    /// Write the deadline into the kernel.
    Open {
        /// The deadline, from now.
        left: Ticks,
        /// Under this epoch.
        epoch: Epoch,
        /// The VIP was not held before.
        gained: bool,
    },
    /// Reset the deadline in the kernel.
    Close,
    /// Tell everybody that the VIP is free.
    Tell {
        /// Up to which epoch.
        epoch: Epoch,
        /// Who said it would take over.
        successor: Option<u8>,
    },
}

/// One machine: its kernel's deadline, and its process with a grantor and a candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// Counts starts of the process.
    pub boot: u8,
    /// What is left of the deadline in the kernel. Survives the process.
    pub gate: Ticks,
    /// For how long the grantor stays silent.
    pub quiet: Ticks,
    /// What the grantor promised.
    pub promise: Option<Promise>,
    /// Highest epoch that the grantor heard of.
    pub highest: Epoch,
    /// Who claimed it. Nobody else is given that number.
    pub highest_of: Option<Life>,
    /// For how long the candidate takes nothing anew.
    pub settle: Ticks,
    /// The candidate.
    pub hold: Hold,
    /// No epoch up to this one is armed again.
    pub spent: Epoch,
    /// Only when released epochs may be armed again: which.
    pub ghost: Option<Epoch>,
    /// Decided and not yet done, in this order.
    pub todo: SmallVec<[Deed; 2]>,
    /// Newest membership in its log. Durable.
    pub log: Membership,
    /// The membership its candidate counts by.
    pub view: Membership,
    /// Memberships that voters told of, as bits: it counts by these too.
    pub told: MembershipBits,
}

/// A round of questions in the air, and the answers to it. It is dropped when its answers are of no
/// use to the asker any more: a voter that hears it later promises to somebody who gains nothing by
/// it, which takes choices away from the others and gives none to anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ask {
    /// Who asks.
    pub by: Life,
    /// For which epoch.
    pub epoch: Epoch,
    /// Counting by this membership.
    pub view: Membership,
    /// And by these, as it says.
    pub told: MembershipBits,
    /// The voter sets whose members are asked, as bits.
    pub sets: u8,
    /// What is left of the right, timed from the asking.
    pub left: Ticks,
    /// Voters that granted. The asker may hear of it at any time.
    pub granted: NodeBits,
}

/// A release in the air.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Release {
    /// Who released.
    pub by: Life,
    /// Up to which epoch.
    pub epoch: Epoch,
    /// Who said it would take over.
    pub successor: Option<u8>,
    /// No time has passed since.
    pub fresh: bool,
}

/// An offer in the air, and whether its answer is too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offer {
    /// The owner.
    pub by: Life,
    /// Who is asked to take over.
    pub to: u8,
    /// It would.
    pub accepted: bool,
}

/// Who armed a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Who.
    pub who: Life,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Counting by this membership.
    pub view: Membership,
}

/// What the last step brought about, for the properties. Forgotten with the next step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Event {
    /// Nothing to speak of.
    #[default]
    Nothing,
    /// The VIP was gained, and the epochs grew.
    Gained {
        /// From whom.
        how: Gain,
        /// By a newer membership than the earlier owner's.
        changed: bool,
    },
    /// It was renewed by an owner that counts by what voters told it.
    RenewedAsTold,
    /// It was gained under an epoch that is not above an earlier one of another owner, which a voter
    /// may have forgotten in a restart.
    EpochForgotten,
    /// The same, and no voter was restarted.
    EpochAgain,
}

/// How a VIP was gained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gain {
    /// Nobody had it before.
    First,
    /// The same node took it again.
    Back,
    /// The earlier owner fell silent.
    FromSilent,
    /// The earlier owner's process was started anew.
    FromRestarted,
    /// The earlier owner released it.
    FromReleased,
    /// The earlier owner released it to this one, and no time has passed since.
    AtOnce,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The machines.
    pub nodes: SmallVec<[Node; 3]>,
    /// Questions in the air.
    pub asks: SmallVec<[Ask; 4]>,
    /// Releases in the air.
    pub releases: SmallVec<[Release; 2]>,
    /// Offers in the air.
    pub offers: SmallVec<[Offer; 2]>,
    /// Newest membership in anybody's log.
    pub newest: Membership,
    /// Who armed last. Seen by the properties alone.
    pub last: Option<Owner>,
    /// What the last step brought about.
    pub event: Event,
    /// Questions that may still be asked.
    pub asks_left: u8,
    /// Restarts that may still happen.
    pub restarts_left: u8,
    /// Releases that may still happen.
    pub releases_left: u8,
}

impl State {
    /// Who runs at `at`.
    pub fn life(&self, at: NodeAt) -> Life {
        Life { node: at as u8, boot: self.nodes[at].boot }
    }

    /// Nodes whose kernel lets traffic of the VIP pass.
    pub fn owners(&self) -> usize {
        self.nodes.iter().filter(|node| node.gate > 0).count()
    }

    /// Highest epoch that a voter or claimant could tell of, among those claimed by lives for which
    /// `of` holds. What was claimed by nobody in particular is below what may be claimed next.
    pub fn highest(&self, of: impl Fn(Life) -> bool) -> Epoch {
        let told = self.nodes.iter().map(|node| match node.highest_of {
            Some(life) if of(life) => node.highest,
            Some(_) => 0,
            None => node.highest.saturating_sub(1),
        });
        let asked = self.asks.iter().filter(|ask| of(ask.by)).map(|ask| ask.epoch);
        told.chain(asked).max().unwrap_or_default()
    }

    /// Makes states that differ in nothing but an order equal.
    pub(crate) fn tidy(&mut self) {
        self.asks.sort_unstable();
        self.asks.dedup();
        self.releases.sort_unstable();
        self.offers.sort_unstable();
    }
}
