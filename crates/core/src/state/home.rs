//! What a node tells of itself as a place for VIPs.
//!
//! Facts of the node's own file and machine. They are in the log so that every node places VIPs alike, and so that
//! whoever looks for a stranger on the network knows which hardware addresses are ours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mac::Mac;

/// A node as a place for VIPs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VipHome {
    /// Its share of the VIPs relative to the other nodes. Zero is a standby: it takes a VIP only when no node with
    /// weight can.
    pub weight: u32,
    /// Hardware address of the interface that its VIPs are on; none if the driver needs no interface.
    pub mac: Option<Mac>,
    /// The same for VIPs that are on interfaces of their own, by name.
    pub macs: BTreeMap<String, Mac>,
}

impl VipHome {
    /// A node's weight when its file does not say otherwise.
    pub const WEIGHT: u32 = 100;
    /// The greatest weight that a node may have.
    pub const WEIGHT_MAX: u32 = 1000;

    /// Whether it is what a node was before nodes told of this: so states of then hash as they did.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Hardware address of the interface that this VIP is on here.
    pub fn mac_for(&self, vip: &str) -> Option<Mac> {
        self.macs.get(vip).copied().or(self.mac)
    }
}

impl Default for VipHome {
    fn default() -> Self {
        Self { weight: Self::WEIGHT, mac: None, macs: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::NodeInfo;

    const BEFORE: &str =
        r#"{"name":"n1","cluster_address":"a:1","admin_address":"a:2","labels":{},"role":"full","version":"1"}"#;

    #[test]
    fn nodes_from_before_they_told_of_this_are_read_and_written_as_they_were() {
        let node: NodeInfo = serde_json::from_str(BEFORE).expect("an entry of then");
        assert_eq!(node.vip, VipHome { weight: 100, ..VipHome::default() });
        assert_eq!(serde_json::to_string(&node).expect("has a form"), BEFORE);
    }

    #[test]
    fn what_a_node_tells_is_kept_and_more_is_refused() {
        let mac = |last| Mac::new([2, 0, 0, 0, 0, last]);
        let vip = VipHome { weight: 0, mac: Some(mac(1)), macs: [("dmz".to_owned(), mac(2))].into() };
        let node = NodeInfo { vip: vip.clone(), ..NodeInfo::default() };
        let json = serde_json::to_string(&node).expect("has a form");
        assert_eq!(serde_json::from_str::<NodeInfo>(&json).expect("our own"), node);
        assert_eq!((vip.mac_for("dmz"), vip.mac_for("lan")), (Some(mac(2)), Some(mac(1))));
        assert!(serde_json::from_str::<NodeInfo>(&json.replace("\"weight\"", "\"wait\"")).is_err());
    }
}
