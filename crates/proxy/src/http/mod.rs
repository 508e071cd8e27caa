//! HTTP/1.1 and 1.0 in, HTTP/1.1 out.
//!
//! The pure half (`field`, `host`, `request`, `response`, `chunk`, `forward`, `forwarded`, `cookie`,
//! `key`, `ending`, `record`) knows bytes and no sockets. The other half (`client`, `exchange`,
//! `stick`, `flow`, `tunnel`) waits, feeds and carries out.

pub mod chunk;
mod client;
pub mod cookie;
pub mod ending;
mod exchange;
pub mod fault;
pub mod field;
mod flow;
pub mod forward;
pub mod forwarded;
pub mod host;
pub mod key;
pub mod record;
pub mod request;
pub mod response;
mod stick;
mod tunnel;

pub(crate) use client::{refuse, serve};
