//! Whether a document gives an address to another VIP than has it now.
//!
//! Leases see to it that no two nodes answer for an address, also while some have not applied a change that gives it to
//! another VIP. It is dark meanwhile, though, and a slip of a name would look like a rename. In two changes whoever
//! makes them sees the first one through.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ballast_core::{config::Document, state::Node};
use ballast_proto::admin::v1::{Mistake, mistake::Severity};

use super::Shared;

impl Shared {
    /// What is wrong with the addresses of a document that is about to take the place of the one in force.
    pub(super) fn address_rehomed(&self, document: &Document) -> Option<Mistake> {
        let nodes = self.read(|state| {
            let host = |address: &str| address.parse::<SocketAddr>().ok().map(|at| at.ip());
            let of = |node: &Node| {
                let hosts = [host(&node.info.cluster_address), host(&node.info.admin_address)];
                hosts
                    .into_iter()
                    .flatten()
                    .filter(|ip| !ip.is_loopback())
                    .map(|ip| (ip, node.info.name.clone()))
                    .collect()
            };
            state.nodes().flat_map(|node| -> Vec<(IpAddr, String)> { of(node) }).collect()
        });
        if let Some(mistake) = of_a_node(&nodes, document) {
            return Some(mistake);
        }
        let before = self.read(|state| state.document().cloned())?;
        judge(&before, document)
    }
}

/// A node's own address is no VIP: its fence would cut it off from the cluster.
fn of_a_node(nodes: &BTreeMap<IpAddr, String>, document: &Document) -> Option<Mistake> {
    document.vips.iter().find_map(|vip| {
        let (address, node) = vip.addresses.iter().find_map(|at| nodes.get_key_value(&at.ip()))?;
        Some(Mistake {
            severity: Severity::Error.into(),
            path: format!("vips[{}].addresses", vip.name),
            problem: format!("{address} is node {node}'s own address; as a VIP it would cut the node off"),
            remedy: "choose an address that no machine has".to_owned(),
            ..Mistake::default()
        })
    })
}

fn judge(before: &Document, after: &Document) -> Option<Mistake> {
    let owners: BTreeMap<IpAddr, &str> =
        before.vips.iter().flat_map(|vip| vip.addresses.iter().map(|at| (at.ip(), vip.name.as_str()))).collect();
    after.vips.iter().find_map(|vip| {
        let moved = |address: IpAddr| Some((address, *owners.get(&address)?)).filter(|(_, owner)| *owner != vip.name);
        let (address, owner) = vip.addresses.iter().find_map(|at| moved(at.ip()))?;
        Some(Mistake {
            severity: Severity::Error.into(),
            path: format!("vips[{}].addresses", vip.name),
            problem: format!(
                "{address} belongs to VIP {owner} now, and nobody would answer for it until each node that holds {owner} has given it up"
            ),
            remedy: format!(
                "take {address} away from {owner} in a change of its own (`apply --wait`), then give it to {}; to rename a VIP, \
                 do the same",
                vip.name
            ),
            ..Mistake::default()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(vips: &[(&str, &str)]) -> Document {
        let vips: Vec<String> =
            vips.iter().map(|(name, address)| format!(r#"{{"name":"{name}","addresses":["{address}"]}}"#)).collect();
        serde_json::from_str(&format!(r#"{{"version":1,"vips":[{}]}}"#, vips.join(","))).expect("a document")
    }

    #[test]
    fn a_nodes_own_address_is_refused() {
        let nodes = BTreeMap::from([(IpAddr::from([10, 0, 0, 2]), "node-2".to_owned())]);
        let mistake = of_a_node(&nodes, &document(&[("web", "10.0.0.1"), ("mail", "10.0.0.2/24")])).expect("refused");
        assert!(mistake.path == "vips[mail].addresses" && mistake.problem.contains("node-2"), "{mistake:?}");
        assert_eq!(of_a_node(&nodes, &document(&[("web", "10.0.0.1")])), None);
    }

    #[test]
    fn an_address_changes_its_vip_in_two_steps() {
        let before = document(&[("web", "10.0.0.1"), ("mail", "10.0.0.2")]);
        for after in [document(&[("www", "10.0.0.1"), ("mail", "10.0.0.2")]), document(&[("mail", "10.0.0.1")])] {
            let mistake = judge(&before, &after).expect("refused");
            assert!(mistake.problem.contains("10.0.0.1 belongs to VIP web now"), "{}", mistake.problem);
        }
        let between = document(&[("mail", "10.0.0.2")]);
        assert_eq!(judge(&before, &between), None);
        assert_eq!(judge(&between, &document(&[("mail", "10.0.0.2"), ("www", "10.0.0.1/24")])), None);
        assert_eq!(
            judge(&before, &document(&[("web", "10.0.0.9"), ("mail", "10.0.0.2/24")])),
            None,
            "a VIP may change its own"
        );
    }
}
