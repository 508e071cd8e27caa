//! Which addresses of the VIPs that are held here may be carried out.
//!
//! An address that a VIP has gained is behind the VIP's gate as soon as it is on an interface, and that gate is open. So it is
//! withheld until a majority has granted it.

use std::{collections::BTreeMap, sync::Arc};

use super::LeaseNode;
use crate::{
    ids::VipId,
    lease::{
        candidate::Candidate,
        rules::Rule,
        scope::Scope,
        transition::{Action, Actions},
        view::LeaseView,
    },
    time::BootNanos,
};

impl LeaseNode {
    /// Takes over the addresses of all VIPs. True if one that was known has others now, or is gone: what was granted for the
    /// former ones counts no longer.
    pub(super) fn take_scopes(&mut self, scopes: &Arc<BTreeMap<VipId, Scope>>) -> bool {
        let before = std::mem::replace(&mut self.scopes, Arc::clone(scopes));
        let other = |(vip, scope): &(&VipId, &Scope)| scopes.get(vip).is_none_or(|new| new.digest() != scope.digest());
        let changed: Vec<VipId> = before.iter().filter(other).map(|(vip, _)| *vip).collect();
        for vip in &changed {
            if let Some(candidate) = self.candidates.get_mut(vip) {
                candidate.forget_grants();
            }
        }
        self.withheld = scopes.keys().copied().filter(|vip| self.is_withheld(*vip)).collect();
        !changed.is_empty()
    }

    /// Whether the VIP is held and has addresses that were not granted yet.
    fn is_withheld(&self, vip: VipId) -> bool {
        let Some(scope) = self.scopes.get(&vip) else { return false };
        let whole = |covers: &Scope| scope.addresses().iter().all(|address| covers.has(*address));
        self.covers(vip).is_some_and(|covers| !whole(covers)) && self.rules.keep(Rule::OpenWhatWasGranted)
    }

    /// The addresses of a VIP that may be behind its gate, if that is or may be open.
    fn covers(&self, vip: VipId) -> Option<&Scope> {
        let held = self.candidates.get(&vip).and_then(Candidate::covers);
        held.or_else(|| self.closing.get(&vip).map(|(covers, _)| covers))
    }

    /// Carries out more or less of a VIP's addresses if it is withheld no longer, or is now.
    pub(super) fn carry_if_changed(&mut self, view: &Arc<LeaseView>, vip: VipId, out: &mut Actions) {
        let withheld = self.is_withheld(vip);
        if withheld != self.withheld.contains(&vip) {
            if withheld {
                self.withheld.insert(vip);
            } else {
                self.withheld.remove(&vip);
            }
            out.push(Action::Carry { view: self.carried(view) });
        }
    }

    /// What could not be closed has closed by itself.
    pub(super) fn forget_closed(&mut self, now: BootNanos, view: &Arc<LeaseView>, out: &mut Actions) {
        let open = |(_, until): &(Scope, Option<BootNanos>)| until.is_none_or(|until| now < until);
        let closed: Vec<VipId> = self.closing.iter().filter(|(_, of)| !open(of)).map(|(vip, _)| *vip).collect();
        for vip in closed {
            self.closing.remove(&vip);
            self.carry_if_changed(view, vip, out);
        }
    }

    /// The view as it may be carried out: without the addresses of VIPs held here that were not granted yet.
    pub(super) fn carried(&self, view: &Arc<LeaseView>) -> Arc<LeaseView> {
        if self.withheld.is_empty() {
            return Arc::clone(view);
        }
        let mut carried = LeaseView::clone(view);
        for vip in carried.vips.iter_mut().filter(|vip| self.withheld.contains(&vip.id)) {
            let covers = self.covers(vip.id);
            vip.addresses.retain(|address| covers.is_some_and(|covers| covers.has(address.ip())));
        }
        Arc::new(carried)
    }
}
