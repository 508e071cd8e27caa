//! Everything Ballast decides, and nothing it does.
//!
//! This crate is pure: no tokio, no socket, disk, clock, randomness or environment. Time is an
//! argument, randomness is a seed, effects are returned as data. Its manifest is the wall: what
//! is not in its dependencies cannot leak in. That is why every rule of the cluster can be tested
//! in one thread, and why two replicas that applied the same log are equal bit for bit.
//!
//! Not here: consensus (`ballast-raft`), disks (`ballast-storage`), sockets (`ballast-proxy`,
//! `ballast-vip`), the API (`ballast-admin`).

pub mod balance;
pub mod cluster;
pub mod config;
pub mod durations;
pub mod health;
pub mod ids;
pub mod lease;
pub mod mac;
pub mod persistence;
pub mod plan;
pub mod secret;
pub mod session;
pub mod state;
pub mod time;
