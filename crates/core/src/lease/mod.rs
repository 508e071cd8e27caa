//! VIP leases: at most one node may answer for a VIP, at every instant.
//!
//! Every Raft voter is a *grantor*: it promises a VIP to one node at a time. Every node that may
//! hold a VIP is a *candidate*: with promises of a majority of distinct voters, of every voter set
//! in force, it owns the VIP until `asked_at + right`, timed from before it asked. Promises outlast
//! rights by what clocks may drift. No leader, election or disk is involved, so that losing the
//! leader costs no VIP and losing an owner costs one lease.
//!
//! **Why there is one owner.** Two owners would each have a majority, so some voter promised to
//! both. It made the second promise after the first had ended on its clock, had been released, or
//! was forgotten in a restart. A promise outlasts the right under it whatever the clocks do between
//! 0.9 and 1.1 of true time; a release is told only after the gate is closed and its epoch is never
//! armed again; and a voter that restarted stays quiet for as long as it may have promised.
//!
//! **Why a membership change keeps it so.** Two majorities meet in a voter only if they are of one
//! set. Between a joint configuration and its neighbours they are, because both sets are asked. But
//! the set that was left may still carry somebody's right, by promises from before a majority of it
//! had the joint entry in its log; from then on it refuses whoever counts by an older membership.
//! So whoever learns of a change, or has just started and cannot know, takes no VIP anew for the
//! length of a promise, after which no such right is left. Who already owns needs no wait: it held
//! by the old set as well, or it needs a majority of every set it held by and of every new one.
//!
//! A grantor tells what it knows along with its refusal, and whoever was refused counts by that *too*,
//! until its own log has moved on, so that the news of a change need not wait for the next leader.
//!
//! **Why an address has one owner, too.** What a voter promises is each address of the VIP, and only to whoever knows the
//! VIP by the same addresses as the voter does. So the argument above is one about addresses, whatever document each node
//! knows and whatever VIP an address is of in it.
//!
//! Each rule in this has a name in `rules.rs`. The simulation in `sim.rs` breaks one at a time and
//! must find two owners, and must find none with all of them.
//!
//! Not here: sockets, clocks and threads (`ballast-vip`); what serving means (`ballast-proxy`).

mod candidate;
mod counting;
mod datagram;
mod engine;
mod epoch;
mod failover;
mod fitness;
mod gate;
mod grantor;
mod grants;
mod hearing;
mod link;
mod placement;
mod rules;
mod scope;
#[cfg(test)]
mod sim;
mod summary;
#[cfg(test)]
mod tests;
mod timing;
mod transition;
mod turns;
mod view;
mod voters;

pub use datagram::Release;
pub use engine::LeaseNode;
pub use epoch::Epoch;
pub use failover::{Ability, Takeover, takeovers};
pub use fitness::{Fitness, Unfitness};
pub use gate::{LAST_WORDS, VipGate};
pub use link::Dropped;
pub use placement::{PlacementReason, Ranking, Situation, place};
pub use timing::Timing;
pub use transition::{Action, Actions, Change, GainCause, LossCause, Refusal, Transition, Unrenewed, VipStatus};
pub use view::{Confirmed, LeaseKeys, LeaseMember, LeaseView, LeaseVip, LeaseWish, LogFacts};
pub use voters::VoterSets;
