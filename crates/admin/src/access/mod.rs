//! Who calls, and what they may.
//!
//! A connection says who is at its other end ([`Connection`]); one table says which role each
//! method asks for ([`roles`]); one layer in front of all services brings the two together
//! ([`AccessLayer`]), so that no service can forget to ask.
//!
//! Not here: how a certificate is verified ([`crate::pki`]).

mod caller;
mod layer;
pub mod roles;

pub(crate) use caller::DEADLINE_MAX;
pub use caller::{Caller, Certificate, Connection, Peer};
pub use layer::{AccessLayer, Guarded, Members, ON_BEHALF_OF};
