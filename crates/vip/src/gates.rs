//! The gates of all VIPs of this process.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use ballast_core::{cluster::Ownership, ids::VipId, lease::VipGate};

/// One gate for each VIP ever asked for. A gate is the same object for the life of the process, so
/// that the data plane looks it up once and then only reads two atomics.
///
/// The lease thread looks one up when it takes a VIP over, so nobody waits here for anybody: a new gate comes with a copy of
/// the map, and of two that are made for one VIP at once, one is forgotten before anybody has it.
#[derive(Debug, Default)]
pub struct Gates {
    gates: ArcSwap<HashMap<VipId, Arc<VipGate>>>,
}

impl Gates {
    /// No gates yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Ownership for Gates {
    fn gate(&self, vip: VipId) -> Arc<VipGate> {
        if let Some(gate) = self.gates.load().get(&vip) {
            return Arc::clone(gate);
        }
        let made = Arc::new(VipGate::closed());
        let before = self.gates.rcu(|gates| {
            if gates.contains_key(&vip) {
                return Arc::clone(gates);
            }
            let mut gates = HashMap::clone(gates);
            gates.insert(vip, Arc::clone(&made));
            Arc::new(gates)
        });
        // Whoever was quicker made the one that counts.
        before.get(&vip).map_or(made, Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

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

    #[test]
    fn all_who_ask_at_once_get_the_same_gates() {
        const ASKING: u32 = 4;
        const VIPS: u32 = 200;
        let (gates, begin) = (Gates::new(), Barrier::new(ASKING as usize));
        let ask = &|first: u32| {
            begin.wait();
            // Each in another order, so that they meet at some VIPs and overtake each other at others.
            let mut got: Vec<_> = (0..VIPS)
                .map(|vip| VipId::new((vip + first * VIPS / ASKING / 2) % VIPS + 1))
                .map(|vip| (vip, gates.gate(vip)))
                .collect();
            got.sort_by_key(|(vip, _)| *vip);
            got
        };
        let all: Vec<_> = thread::scope(|scope| {
            let asking: Vec<_> = (0..ASKING).map(|first| scope.spawn(move || ask(first))).collect();
            asking.into_iter().map(|asked| asked.join().expect("it does not panic")).collect()
        });
        for got in &all {
            for (vip, gate) in got {
                assert!(Arc::ptr_eq(gate, &gates.gate(*vip)), "{vip}");
            }
        }
    }
}
