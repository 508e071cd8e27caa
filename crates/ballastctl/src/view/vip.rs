//! Virtual addresses.

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::{ChangeView, Row, millis, seconds};
use crate::output::{Cell, Paint};

/// A VIP: who holds it, and why.
#[derive(Clone, Debug, Serialize)]
pub struct VipView {
    /// Its name.
    pub name: String,
    /// Stable id.
    pub id: u32,
    /// They move together.
    pub addresses: Vec<String>,
    /// Who holds it; zero when nobody.
    pub owner: u64,
    /// Its name; absent when nobody holds it.
    pub owner_name: Option<String>,
    /// Epoch of the lease.
    pub epoch: u64,
    /// What is left of the lease, as its holder says; absent when the holder did not answer.
    pub lease_remaining_ms: Option<u64>,
    /// Where an operator wants it; absent when the placement decides.
    pub wish: Option<String>,
    /// Why it is where it is.
    pub why: String,
    /// Since when, by the log.
    pub since: Option<String>,
    /// Nodes that should hold it, best first, as the document has them.
    pub prefer: Vec<String>,
    /// `automatic` or `never`.
    pub failback: &'static str,
    /// Who wished it where it is.
    pub wish_change: Option<ChangeView>,
    /// Changes with every move by an operator.
    pub etag: String,
}

impl VipView {
    /// From the log, and from what the nodes themselves say right now: the record of a change of
    /// hands is written after the fact, so a holder's own word counts when its epoch is newer.
    pub fn new(vip: &proto::Vip, nodes: &[proto::NodeStatus]) -> Self {
        let held = nodes
            .iter()
            .flat_map(|status| status.vips.iter().map(move |held| (status, held)))
            .filter(|(_, held)| held.vip == vip.name && held.epoch >= vip.epoch)
            .max_by_key(|(_, held)| held.epoch);
        let (owner, owner_name, epoch, lease_remaining_ms) = match held {
            Some((status, held)) => {
                let node = status.node.clone().unwrap_or_default();
                (node.id, node.name, held.epoch, millis(held.remaining.as_ref()))
            }
            None => (vip.owner_id, vip.owner_name.clone(), vip.epoch, None),
        };
        Self {
            name: vip.name.clone(),
            id: vip.id,
            addresses: vip.addresses.clone(),
            owner,
            owner_name: (!owner_name.is_empty()).then_some(owner_name),
            epoch,
            lease_remaining_ms,
            wish: vip.moved.as_ref().map(|moved| moved.node_name.clone()),
            why: vip.cause.clone(),
            since: vip.since.as_ref().and_then(|since| super::time(since.log_time.as_ref())),
            prefer: vip.prefer.clone(),
            failback: if vip.failback_automatic { "automatic" } else { "never" },
            wish_change: vip.moved.as_ref().and_then(|moved| moved.change.as_ref()).map(ChangeView::from),
            etag: vip.etag.clone(),
        }
    }
}

impl Row for VipView {
    const NONE: &'static str = "no VIPs";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide {
            &["VIP", "ADDRESSES", "OWNER", "SINCE", "WISH", "EPOCH", "LEASE MS", "PREFER", "FAILBACK", "WHY"]
        } else {
            &["VIP", "ADDRESSES", "OWNER", "SINCE", "WISH", "WHY"]
        }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let owner = match &self.owner_name {
            Some(name) => Cell::painted(Paint::Good, name),
            None => Cell::painted(Paint::Bad, "nobody"),
        };
        let since = self.since.as_deref().map(seconds).unwrap_or_default();
        let mut cells: Vec<Cell> = vec![
            self.name.clone().into(),
            self.addresses.join(",").into(),
            owner,
            since.into(),
            self.wish.clone().unwrap_or_default().into(),
        ];
        if wide {
            let remaining = self.lease_remaining_ms.map(|ms| ms.to_string()).unwrap_or_default();
            let prefer = self.prefer.join(",");
            cells.extend([Cell::number(self.epoch), Cell::number(remaining), prefer.into(), self.failback.into()]);
        }
        cells.push(self.why.clone().into());
        cells
    }
}
