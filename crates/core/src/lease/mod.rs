//! VIP leases: at most one node may answer for a VIP, at every instant.
//!
//! Every Raft voter is a *grantor*: it promises a VIP to one node at a time. Every node that may
//! hold a VIP is a *candidate*: with promises of a majority of distinct voters, of every voter set
//! in force, it owns the VIP until `asked_at + right`, timed from before it asked. Promises outlast
//! rights by what clocks may drift. No leader, election or disk is involved, so that losing the
//! leader costs no VIP and losing an owner costs one lease.
//!
//! What is and is not safe rests on the rules named in `rules.rs`; the simulation in `sim.rs`
//! breaks each of them and must find two owners, and must find none with all of them.
//!
//! Not here: sockets, clocks and threads (`ballast-vip`); what serving means (`ballast-proxy`).

mod candidate;
mod datagram;
mod engine;
mod epoch;
mod gate;
mod grantor;
mod grants;
mod link;
mod placement;
mod rules;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod timing;
mod transition;
mod view;
mod voters;

pub use engine::LeaseNode;
pub use epoch::Epoch;
pub use gate::VipGate;
pub use link::Dropped;
pub use placement::{PlacementReason, Ranking, place};
pub use timing::Timing;
pub use transition::{Action, Actions, Change, GainCause, LossCause, Transition, VipStatus};
pub use view::{Confirmed, LeaseMember, LeaseView, LeaseVip, LogFacts};
pub use voters::VoterSets;
