//! A model of the VIP lease protocol, small enough to be searched in all its states.
//!
//! The simulation in `ballast-core` runs the real code under seeded chance; it sees long stories and
//! misses rare ones. This model is the other half: an abstraction of the protocol of `core::lease`
//! in which *every* story up to a bound is looked at, by `stateright`. What may go wrong is not
//! drawn but left open: any datagram may be heard at any time, never or many times, any process may
//! stand still between any two steps or be started anew, and time passes whenever it likes.
//!
//! **Clocks.** Four lengths matter: a right, a promise, a grantor's silence after a start, and a
//! candidate's settling. The first is at its worst on the slowest clock allowed, the others on
//! the fastest, and the protocol's margins make these four worst cases equal: one length, in ticks
//! of true time. Shorter rights and longer promises only take choices away from the adversary: a
//! holder whose right ended early is one that released and was not heard, and a promise that lasts
//! longer only refuses others.
//!
//! **Mutants.** Each [`Rule`] can be broken, and the search must then find its [`Danger`].
//!
//! Not here: who *should* hold a VIP, ranks, staggers and asking before claiming (they decide who
//! wins and when, and here anyone may claim at any time), bytes and keys, the wait of an owner that
//! hears nobody. See `docs/leases.md` for what the protocol is and what the search found.

mod candidate;
mod check;
mod grantor;
mod model;
mod rule;
mod setup;
mod state;
mod step;

pub use check::{Outcome, Sighting, search, tell};
pub use model::LeaseModel;
pub use rule::{Danger, Rule};
pub use setup::{LONG, QUICK, Setup, shows};
pub use state::State;
pub use step::Step;
