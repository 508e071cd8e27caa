//! Judges what clients and the wire saw of a Ballast cluster while it was being broken.
//!
//! Everything here is pure: histories, observations and faults go in, verdicts come out, and the same input gives the
//! same verdict. So a run can be stored and judged again, and each checker is tested with histories that it must accept
//! and with some that it must refuse.
//!
//! Not here: sockets, clocks and processes. Whoever observes says when.

pub mod baskets;
pub mod durability;
pub mod epochs;
pub mod history;
pub mod kept;
pub mod leaks;
pub mod linear;
pub mod models;
pub mod recovery;
pub mod says_why;
pub mod stickiness;
pub mod time;
pub mod timeline;
pub mod transfers;
pub mod verdict;
pub mod without_quorum;

#[cfg(test)]
mod testing;
