//! The configuration document: what the operator wants, as one value.
//!
//! A [`Document`] that somebody hands in is obtained through [`parse`], [`parse_many`] or [`decode_canonical`], which
//! refuse what is not right. One that comes from the log was checked by the release that proposed it, and is held
//! only against [`rules`] that never change. They refuse with all [`Mistakes`] at once, each with its place, because an
//! operator who is told one mistake per attempt stops trusting the tool.
//!
//! Text becomes a tree that remembers positions (`tree`), is held against the shape of the
//! types (`shape`, `structure`), becomes a value by serde, and is then checked for sense
//! (`semantics`). What the first step refused is replaced by placeholders, so that the last step
//! still runs and does not report the consequences of mistakes already reported.
//!
//! Not here: operator state (drain, weights, pins), which lives beside the document in
//! [`crate::state`]; what a node makes of it ([`crate::plan`]).

mod decode;
mod diff;
mod endpoint;
mod mistake;
mod order;
pub mod reference;
pub mod rules;
pub mod schema;
mod semantics;
mod shape;
mod structure;
mod suggest;
mod tree;
mod types;
mod units;
mod yaml;

pub use decode::{decode_canonical, parse, parse_many};
pub use diff::{Change, diff};
pub use endpoint::Endpoint;
pub use mistake::{Mistake, Mistakes};
pub use tree::TEXT_BYTES_MAX;
pub use types::*;
pub use units::{ByteSize, Span};
pub use yaml::to_yaml;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::examples;
