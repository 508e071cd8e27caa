//! RESP on the wire: bytes to requests, answers to bytes.
//!
//! Pure. A length that a client announces is believed only as far as a bound allows, and reserves nothing: memory grows
//! with the bytes that have arrived.
//!
//! Not here: what requests mean ([`crate::connection`]), sockets ([`crate::serve`]).

mod inline;
mod reply;
mod request;

pub use reply::{Out, Resp};
pub use request::{Bounds, ProtocolError, Requests};
