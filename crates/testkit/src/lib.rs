//! Backends, clients and clusters of real processes, for tests and for the demo.
//!
//! Everything here sees Ballast from outside: it starts `ballastd`, calls `ballastctl`, speaks
//! HTTP, sends signals. What it starts, it ends when it is dropped.
//!
//! Not here: fakes of Ballast's own traits (they live beside the traits' users), assertions about
//! time (tests wait for the thing itself, with a generous deadline).

pub mod backend;
pub mod client;
pub mod cluster;
pub mod compose;
pub mod container;
pub mod disk;
pub mod interrupt;
pub mod kernel;
pub mod lab;
pub mod leaving;
pub mod machine;
pub mod newcomers;
pub mod observer;
mod operator;
mod packet;
pub mod ports;
pub mod programs;
pub mod resp;
mod running;
pub mod shop;
pub mod store;
pub mod visitors;
pub mod wait;
