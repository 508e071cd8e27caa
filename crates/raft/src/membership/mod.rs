//! Who votes: decided by [`plan`] from what is agreed and seen, carried out by the leader.

mod plan;
mod reconcile;
mod taking;

pub(crate) use reconcile::{Reachability, reconcile};
