//! When each candidate has something to do next.

use std::collections::{BTreeMap, BTreeSet};

use crate::{ids::VipId, time::BootNanos};

/// When each candidate has something to do next; those that wait for nothing are missing. Looked at with every event, so
/// the first is at hand.
#[derive(Default)]
pub(super) struct Deadlines {
    of: BTreeMap<VipId, BootNanos>,
    in_order: BTreeSet<(BootNanos, VipId)>,
}

impl Deadlines {
    pub(super) fn at(&self, vip: VipId) -> Option<BootNanos> {
        self.of.get(&vip).copied()
    }

    pub(super) fn set(&mut self, vip: VipId, at: Option<BootNanos>) {
        let before = match at {
            Some(at) => self.of.insert(vip, at),
            None => self.of.remove(&vip),
        };
        if before != at {
            if let Some(before) = before {
                self.in_order.remove(&(before, vip));
            }
            self.in_order.extend(at.map(|at| (at, vip)));
        }
    }

    pub(super) fn first(&self) -> Option<BootNanos> {
        self.in_order.first().map(|(at, _)| *at)
    }

    pub(super) fn due(&self, now: BootNanos) -> Vec<VipId> {
        self.in_order.iter().take_while(|(at, _)| *at <= now).map(|(_, vip)| *vip).collect()
    }
}

impl FromIterator<(VipId, BootNanos)> for Deadlines {
    fn from_iter<I: IntoIterator<Item = (VipId, BootNanos)>>(all: I) -> Self {
        let of: BTreeMap<_, _> = all.into_iter().collect();
        let in_order = of.iter().map(|(vip, at)| (*at, *vip)).collect();
        Self { of, in_order }
    }
}
