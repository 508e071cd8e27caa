//! What can keep the network from being read or changed.

use std::io;

/// The link could not be read or used.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The configured interface is not there.
    #[error(
        "no interface {name} on this machine; there are: {present}; correct vip.interface in ballastd.toml, unless it is yet to \
         come"
    )]
    NoInterface {
        /// What was asked for.
        name: String,
        /// What there is, separated by commas.
        present: String,
    },
    /// The interface has no six-byte address (a tunnel, say), so nothing can be announced on it.
    #[error(
        "interface {name} is not an Ethernet interface; set vip.interface in ballastd.toml to one that has a MAC address"
    )]
    NotEthernet {
        /// The interface.
        name: String,
    },
    /// The machine talks to itself there.
    #[error(
        "{name} is a loopback interface, where no neighbour hears of an address; set vip.interface (or the VIP's line in \
         vip.interfaces) in ballastd.toml to the interface that clients are reached over, for example eth0"
    )]
    Loopback {
        /// The interface.
        name: String,
    },
    /// A bridge or bond takes what arrives there.
    #[error(
        "{name} is a port of {master}, which takes what arrives there; set vip.interface (or the VIP's line in vip.interfaces) in \
         ballastd.toml to {master}"
    )]
    Port {
        /// The interface.
        name: String,
        /// What it belongs to.
        master: String,
    },
    /// Nobody asks for neighbours there.
    #[error(
        "{name} speaks no ARP, so that no neighbour hears of an IPv4 address there; set vip.interface (or the VIP's line in \
         vip.interfaces) in ballastd.toml to the interface that clients are reached over"
    )]
    NoArp {
        /// The interface.
        name: String,
    },
    /// The kernel refused.
    #[error("{doing}{}", hint(source))]
    Kernel {
        /// What we were doing.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl NetError {
    pub(crate) fn kernel(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Kernel { doing, source }
    }
}

/// The remedy that goes with the kernel's most frequent answer.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => " (needs CAP_NET_ADMIN and CAP_NET_RAW: see the capabilities of the service or container)",
        _ => "",
    }
}
