//! What a node does on its link for VIPs: keeps their addresses on the interface, announces those it
//! holds, listens for others that claim them, and knows whether link and gateway are there.
//!
//! Deciding is pure and apart from the sockets: [`Announcer`], [`Conflicts`], [`GatewayCheck`], the
//! frames and the parser are given the time and bytes. What blocks ([`Addresses`], [`probe()`],
//! [`Gateways`], [`system`]) is for a thread beside the lease thread; what does not ([`Announcer`],
//! [`Sender`], [`Watch`], [`Listener`]) may be used on it. Sockets belong to the network namespace of
//! the thread that opened them.
//!
//! rtnetlink's bytes are written here rather than taken from a crate: see `wire`.
//!
//! Not here: who holds what (`ballast_core::lease`), and the fence in the kernel, which alone
//! decides whether a packet of a VIP passes.

mod addresses;
mod announce;
mod claim;
mod conflict;
mod error;
mod frame;
mod gateway;
mod interface;
mod packet;
mod probe;
mod route;
pub mod system;
mod watch;
mod wire;

pub use addresses::{AddressError, Addresses, Change, OursError, OursFile, Outcome, Problem, VipAddress};
pub use announce::{Announcement, Announcer};
pub use ballast_core::mac::Mac;
pub use claim::{Claim, claim};
pub use conflict::{Conflict, Conflicts};
pub use error::NetError;
pub use frame::{Frame, announcement, probe as probe_frame, request as request_frame};
pub use gateway::{GatewayCheck, GatewayState, GatewayTiming, Gateways, question};
pub(crate) use interface::names;
pub use interface::{Interface, InterfaceAddress, Over, Standing, Way, is_network};
pub(crate) use packet::of_vlan;
pub use packet::{Hearing, Listener, Sender};
pub use probe::probe;
pub(crate) use probe::probe_unless;
pub use watch::{LinkEvent, Watch};
