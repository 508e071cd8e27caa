//! Ballast's data plane in user space: clients on one side, backends on the other.
//!
//! One worker a core, each with its own single-threaded runtime, listeners, upstream connections and
//! counters. One task a client connection; its upstream half is polled by the same task. On the path
//! of a request there is no lock, no header map, no timer future and, once warm, next to no
//! allocation; agreed state arrives as an immutable plan through [`ballast_core::cluster`]'s traits.
//!
//! Not here: who owns a VIP, what is bound to what, which backend is up: all of that is asked.

mod accesslog;
mod backend;
mod buf;
mod clock;
mod control;
pub mod http;
mod live;
pub mod prober;
mod proxy;
pub mod stats;
mod ticks;
mod worker;

pub use accesslog::AccessLog;
pub use control::ListenerState;
pub use proxy::{BindVips, Ports, Proxy, ProxyOptions};
