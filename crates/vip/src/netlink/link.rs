//! What the keeper has of each interface that VIPs are on: an ear, and a word of its gateway.

use ballast_core::time::BootNanos;
use tracing::{info, warn};

use super::fencing::chain;
use crate::net::{GatewayCheck, GatewayTiming, Gateways, Hearing, Interface, Listener, Mac};

/// A gateway that misses three questions in a row, a second apart, is gone; a router that restarts answers sooner.
pub(super) const GATEWAY: GatewayTiming = GatewayTiming { interval_nanos: 1_000_000_000, rise: 2, fall: 3 };

/// What is kept for an interface that VIPs are on.
pub(super) struct Link {
    pub up: bool,
    /// The MAC that its tap was made for.
    pub mac: Option<Mac>,
    pub listener: Option<Listener>,
    /// Why there is none, as it was told.
    deaf: Option<String>,
    pub gateway: GatewayCheck,
    /// When it was last asked who else has the VIPs that this node holds.
    pub asked_at: BootNanos,
}

impl Link {
    /// Nothing is heard there yet.
    pub fn new(now: BootNanos, up: bool) -> Self {
        let gateway = GatewayCheck::new(now, None, GATEWAY);
        Self { up, mac: None, listener: None, deaf: None, gateway, asked_at: now }
    }

    /// Opens a listener, and tells once why that is not possible.
    pub fn listen(&mut self, interface: &Interface) {
        match Listener::open(interface.index, Hearing::BehindFence) {
            Ok(listener) => {
                if self.deaf.take().is_some() {
                    info!(interface = interface.name, "claims of VIPs and the gateway are heard again");
                }
                self.listener = Some(listener);
            }
            Err(error) => {
                let error = chain(&error);
                if self.deaf.as_ref() != Some(&error) {
                    warn!(
                        interface = interface.name,
                        error, "nobody is heard who claims a VIP, nor the gateway; trying again"
                    );
                    self.deaf = Some(error);
                }
            }
        }
    }

    pub fn look_up_gateway(&mut self, now: BootNanos, index: u32) {
        if let Ok(gateways) = Gateways::read(index) {
            self.gateway.set_gateway(now, gateways.v4.or(gateways.v6));
        }
    }
}
