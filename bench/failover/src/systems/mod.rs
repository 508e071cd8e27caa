//! The systems that are measured, behind one trait.

mod ballast;
mod keepalived;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use ballast_testkit::{
    backend::Backend,
    lab::{self, Host, Lab, Responder},
};

use crate::{faults::Fault, observer::Target};

/// Where clients of every system go.
pub const PORT: u16 = 8080;
/// Where visitors of sticky shops go, if there are any.
pub const SHOP_PORT: u16 = 8081;
/// Nodes of every system.
pub const NODES: usize = 3;

/// The VIP.
pub fn vip() -> SocketAddr {
    SocketAddr::from((lab::VIP, PORT))
}

/// What the observer asks for.
pub fn target() -> Target {
    Target { vip: lab::VIP, vip6: lab::VIP6, port: PORT }
}

/// How long a fault lasts and how long is watched after it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub hold: Duration,
    pub settle: Duration,
}

/// Balancers on the nodes of a lab, one VIP between them.
pub trait System {
    /// How long its faults have to last to show what they do.
    fn pace(&self) -> Pace;

    /// Whether a fault means anything to it.
    fn suffers(&self, fault: Fault) -> bool;

    /// The processes of a node that decide who owns the VIP.
    fn daemons(&self, node: usize) -> Vec<u32>;

    /// The processes of a node that carry traffic.
    fn proxies(&self, node: usize) -> Vec<u32>;

    /// Moves the VIP off a node in an orderly way.
    ///
    /// # Errors
    /// When it is refused.
    fn move_away(&mut self, from: usize) -> Result<()>;

    /// Starts what does not run on a node, and undoes a move.
    ///
    /// # Errors
    /// When it cannot be started.
    fn revive(&mut self, node: usize) -> Result<()>;

    /// Waits until all nodes are what they should be.
    ///
    /// # Errors
    /// When one is not in time.
    fn wait_well(&mut self) -> Result<()>;

    /// The node that leads the group, where there is a leader beside the owner.
    ///
    /// # Errors
    /// When none does in time.
    fn leader(&self) -> Result<Option<usize>>;

    /// What its processes have written lately, for whoever has to find out what went wrong.
    fn last_words(&self) -> String;
}

/// Which system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// keepalived and HAProxy, with so many milliseconds between adverts.
    Keepalived { advert_ms: u32 },
    /// Ballast with this fence and lease.
    Ballast { fence: &'static str, lease_ms: u32 },
}

impl Kind {
    /// Those that are measured when nothing else is said.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<_> = [1000, 100].into_iter().map(|advert_ms| Self::Keepalived { advert_ms }).collect();
        let ballast = [("ebpf", 200), ("ebpf", 100), ("nftables", 200)];
        all.extend(ballast.map(|(fence, lease_ms)| Self::Ballast { fence, lease_ms }));
        all
    }

    /// By its name: `keepalived-1000ms`, `ballast-ebpf-200ms`.
    ///
    /// # Errors
    /// When no system is called that.
    pub fn parse(name: &str) -> Result<Self> {
        let parts: Vec<&str> = name.split('-').collect();
        let time = |text: &str| text.strip_suffix("ms").and_then(|number| number.parse().ok());
        match parts[..] {
            ["keepalived", advert] => {
                if let Some(advert_ms) = time(advert).filter(|ms| *ms >= 10) {
                    return Ok(Self::Keepalived { advert_ms });
                }
            }
            ["ballast", fence, lease] => {
                let fence = ["ebpf", "nftables", "none"].into_iter().find(|known| *known == fence);
                if let (Some(fence), Some(lease_ms)) = (fence, time(lease)) {
                    return Ok(Self::Ballast { fence, lease_ms });
                }
            }
            _ => {}
        }
        bail!("no system is called {name:?}; say keepalived-<advert>ms or ballast-<ebpf|nftables|none>-<lease>ms")
    }

    /// Its lease, if it is Ballast.
    pub fn lease_ms(&self) -> Option<u32> {
        match self {
            Self::Keepalived { .. } => None,
            Self::Ballast { lease_ms, .. } => Some(*lease_ms),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keepalived { advert_ms } => write!(f, "keepalived-{advert_ms}ms"),
            Self::Ballast { fence, lease_ms } => write!(f, "ballast-{fence}-{lease_ms}ms"),
        }
    }
}

/// A system that runs in a lab of its own.
pub struct Site {
    pub kind: Kind,
    // Fields are dropped in this order: processes before the network that they are in.
    pub system: Box<dyn System>,
    _backend: Responder,
    _shops: Vec<Backend>,
    pub lab: Arc<Lab>,
}

impl Site {
    /// Builds a lab and starts a system in it.
    ///
    /// # Errors
    /// When the kernel refuses the lab or the system does not start.
    pub fn start(kind: Kind) -> Result<Self> {
        Self::start_with_shops(kind, 0)
    }

    /// The same, with so many sticky shops on [`SHOP_PORT`] beside, if it is Ballast.
    ///
    /// # Errors
    /// As [`Site::start`].
    pub fn start_with_shops(kind: Kind, shops: u16) -> Result<Self> {
        let lab = Arc::new(Lab::new(NODES)?);
        crate::observer::introduce(&lab)?;
        let backend = Responder::start(&lab, Host::Backends, 8000)?;
        let shops = (1..=shops).map(|number| {
            let address = SocketAddr::from((Host::Backends.ip(), 8000 + number));
            Ok(lab.within(Host::Backends, || Backend::start_at(&format!("shop-{number}"), address))??)
        });
        let shops: Vec<Backend> = shops.collect::<Result<_>>()?;
        let system: Box<dyn System> = match kind {
            Kind::Keepalived { advert_ms } => {
                Box::new(keepalived::Keepalived::start(&lab, advert_ms, backend.address())?)
            }
            Kind::Ballast { fence, lease_ms } => {
                Box::new(ballast::Ballast::start(&lab, fence, lease_ms, backend.address(), &shops)?)
            }
        };
        Ok(Self { kind, system, _backend: backend, _shops: shops, lab })
    }
}

/// The last lines of a log.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_known_by_its_name() {
        for kind in Kind::all() {
            assert_eq!(Kind::parse(&kind.to_string()).unwrap(), kind);
        }
        for wrong in
            ["", "keepalived", "keepalived-1s", "ballast-ebpf", "ballast-magic-200ms", "nginx-1ms", "keepalived-0ms"]
        {
            assert!(Kind::parse(wrong).is_err(), "{wrong}");
        }
    }
}
