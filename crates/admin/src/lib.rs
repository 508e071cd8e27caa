//! Ballast's administration: certificates, roles and the gRPC services.
//!
//! A node listens on TLS and on a unix socket ([`serve`]). Who calls is known from the connection
//! and judged by one table ([`access`]); the services read the agreed state and propose changes
//! through the small traits of `ballast-core` and of [`node`], so that all of it runs in a test
//! against a state in memory.
//!
//! Not here: consensus (`ballast-raft`), the messages (`ballast-proto`), the command line
//! (`ballastctl`).

pub mod access;
pub mod client;
pub mod error;
pub mod node;
pub mod pki;
pub mod refusals;
pub mod serve;
pub mod services;
pub mod view;
