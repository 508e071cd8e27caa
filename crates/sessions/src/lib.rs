//! Ballast's session store on the wire: a RESP2 and RESP3 server, and a resource over HTTP.
//!
//! Clients speak to any node as they would to one Redis, or to one web server. Writes go through the log, reads wait for the node to be known
//! to be current, and what cannot be answered rightly is refused in words.
//!
//! Not here: the keyspace (`ballast_core::session`), consensus (`ballast-raft`), the CLI (`ballast-admin`).

mod budget;
mod clients;
mod connection;
mod control;
mod deadline;
mod http;
mod mail;
mod node;
mod passwords;
mod policy;
mod reads;
mod refusal;
mod rounds;
mod serve;
mod server;
mod sparse;
pub mod stats;
mod subscribers;
mod trust;
pub mod wire;
mod worker;

pub use control::{ListenerState, Place, Wanted};
pub use node::{Certificates, Holder, LogClock, Ports};
pub use refusal::Unavailable;
pub use server::{Server, ServerOptions};
