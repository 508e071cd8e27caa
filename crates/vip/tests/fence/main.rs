//! The fence in a real kernel, in network namespaces, seen from the wire.
//!
//! Where namespaces cannot be made or a level is not to be had, a test says `skipped:` and why.

mod frames;
mod moving;
mod net;
mod one_node;
