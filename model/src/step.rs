//! What can happen next, and how to say it.

use crate::state::{Deed, Hold, Membership, NodeAt, State};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A tick of true time passes.
    Tick,
    /// A candidate claims the VIP or renews its lease.
    Ask {
        /// Who asks.
        node: NodeAt,
        /// It has heard of the highest epoch there is and goes above it.
        informed: bool,
    },
    /// A voter hears a question and answers.
    HearAsk {
        /// Who hears it.
        voter: NodeAt,
        /// Position among the questions in the air.
        ask: usize,
    },
    /// An asker hears that a voter refuses it because of a newer membership, and which.
    HearNews {
        /// Who refuses.
        voter: NodeAt,
        /// Position among the questions in the air.
        ask: usize,
    },
    /// A candidate counts no longer by what it was told.
    Forget(NodeAt),
    /// An asker has heard a majority of grants.
    Arm {
        /// Position among the questions in the air of the newest whose answers it heard.
        ask: usize,
    },
    /// A process does what it decided.
    Do(NodeAt),
    /// An owner or claimant gives up.
    GiveUp(NodeAt),
    /// A voter hears that a VIP is free.
    HearRelease {
        /// Who hears it.
        voter: NodeAt,
        /// Position among the releases in the air.
        release: usize,
    },
    /// An owner offers the VIP.
    Offer {
        /// The owner.
        node: NodeAt,
        /// To whom.
        to: NodeAt,
    },
    /// A candidate hears an offer and accepts it.
    Accept {
        /// Position among the offers in the air.
        offer: usize,
    },
    /// An owner hears that its offer is accepted and hands over.
    HandOver {
        /// Position among the offers in the air.
        offer: usize,
    },
    /// A process ends and is started anew.
    Restart(NodeAt),
    /// The next membership is made.
    Change,
    /// A node's log gets a newer membership.
    Append {
        /// Whose log.
        node: NodeAt,
        /// The membership.
        membership: Membership,
    },
    /// A candidate counts by the newest membership in its node's log.
    View(NodeAt),
}

impl Step {
    /// In plain words, as a step from `before`.
    pub fn say(self, before: &State) -> String {
        let asker = |ask: usize| before.asks[ask].by.node + 1;
        match self {
            Self::Tick => "a tick passes".to_owned(),
            Self::Ask { node, informed } => {
                let what = match before.nodes[node].hold {
                    Hold::Watching => "claims the VIP",
                    Hold::Claiming { .. } => "asks again",
                    Hold::Held { .. } => "renews its lease",
                };
                let above = if informed { ", above the highest epoch there is" } else { "" };
                format!("node {} {what}{above}", node + 1)
            }
            Self::HearAsk { voter, ask } => format!("voter {} grants what node {} asked", voter + 1, asker(ask)),
            Self::HearNews { voter, ask } => {
                format!("node {} hears of membership {} from voter {}", asker(ask), before.nodes[voter].log, voter + 1)
            }
            Self::Forget(node) => format!("node {} forgets what it was told", node + 1),
            Self::Arm { ask } => format!("node {} has heard a majority of grants", asker(ask)),
            Self::Do(node) => match before.nodes[node].todo.first() {
                Some(Deed::Open { .. }) => format!("node {} writes the deadline", node + 1),
                Some(Deed::Close) => format!("node {} closes the gate", node + 1),
                Some(Deed::Tell { .. }) | None => format!("node {} tells that the VIP is free", node + 1),
            },
            Self::GiveUp(node) => format!("node {} gives up the VIP", node + 1),
            Self::HearRelease { voter, release } => {
                format!("voter {} hears that node {} released", voter + 1, before.releases[release].by.node + 1)
            }
            Self::Offer { node, to } => format!("node {} offers the VIP to node {}", node + 1, to + 1),
            Self::Accept { offer } => format!("node {} accepts the offer", before.offers[offer].to + 1),
            Self::HandOver { offer } => format!("node {} hears that and hands over", before.offers[offer].by.node + 1),
            Self::Restart(node) => format!("the process of node {} is started anew", node + 1),
            Self::Change => format!("membership {} is made", before.newest + 1),
            Self::Append { node, membership } => format!("node {} has membership {membership} in its log", node + 1),
            Self::View(node) => format!("node {} counts by membership {}", node + 1, before.nodes[node].log),
        }
    }
}
