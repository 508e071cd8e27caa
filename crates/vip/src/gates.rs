//! The gates of all VIPs of this process.

use std::{collections::HashMap, sync::Arc};

use ballast_core::{cluster::Ownership, ids::VipId, lease::VipGate};
use parking_lot::RwLock;

/// One gate for each VIP ever asked for. A gate is the same object for the life of the process, so
/// that the data plane looks it up once and then only reads two atomics.
#[derive(Debug, Default)]
pub struct Gates {
    gates: RwLock<HashMap<VipId, Arc<VipGate>>>,
}

impl Gates {
    /// No gates yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Ownership for Gates {
    fn gate(&self, vip: VipId) -> Arc<VipGate> {
        if let Some(gate) = self.gates.read().get(&vip) {
            return Arc::clone(gate);
        }
        Arc::clone(self.gates.write().entry(vip).or_insert_with(|| Arc::new(VipGate::closed())))
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::{lease::Epoch, time::BootNanos};

    use super::*;

    #[test]
    fn a_gate_is_the_same_object_before_and_after_it_is_held() {
        let gates = Gates::new();
        let early = gates.gate(VipId::new(1));
        assert!(!early.is_open(BootNanos::new(5)));
        gates.gate(VipId::new(1)).hold(Epoch::new(9).get(), BootNanos::new(10));
        assert!(early.is_open(BootNanos::new(5)) && !early.is_open(BootNanos::new(10)));
        assert!(!gates.gate(VipId::new(2)).is_open(BootNanos::new(5)));
    }
}
