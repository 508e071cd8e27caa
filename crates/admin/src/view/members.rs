//! Nodes.

use std::collections::BTreeMap;

use ballast_core::{
    ids::NodeId,
    mac::Mac,
    state::{Node, NodeAdmin, NodeInfo, NodeRole, State, Subject, VipHome},
};
use ballast_proto::admin::v1 as proto;

use super::{change, etag, last_event_about};
use crate::{
    error::{self, ApiError},
    node::ListenerProblem,
};

/// A listener that a node cannot bind.
pub fn listener_problem(state: &State, problem: &ListenerProblem) -> proto::ListenerProblem {
    let farms = state.document().map_or(&[][..], |document| &document.farms);
    let named = |id| farms.iter().find(|farm| state.farm_id(&farm.name) == Some(id)).map(|farm| farm.name.clone());
    proto::ListenerProblem {
        farm: problem.farm.map(|id| named(id).unwrap_or_else(|| id.to_string())).unwrap_or_default(),
        listener: problem.listener.clone(),
        address: problem.address.clone(),
        error: problem.error.clone(),
    }
}

/// A member's name.
pub fn node_name(state: &State, node: NodeId) -> Option<String> {
    state.node(node).map(|node| node.info.name.clone())
}

/// All members, by id.
pub fn nodes(state: &State) -> Vec<proto::Node> {
    state.nodes().map(|found| node(state, found)).collect()
}

/// A member in the API's form.
pub fn node(state: &State, node: &Node) -> proto::Node {
    let info = &node.info;
    let admin = admin(node.admin);
    let enrolled = || change(node.index, node.enrolled, &Default::default());
    let labels: Vec<u8> =
        info.labels.iter().flat_map(|(key, value)| format!("{key}\0{value}\0").into_bytes()).collect();
    proto::Node {
        id: node.id.get(),
        name: info.name.clone(),
        cluster_address: info.cluster_address.clone(),
        admin_address: info.admin_address.clone(),
        labels: info.labels.clone(),
        role: role(info.role).into(),
        admin: admin.into(),
        version: info.version.clone(),
        change: Some(last_event_about(state, Subject::Node(node.id)).unwrap_or_else(enrolled)),
        etag: etag(&[
            info.name.as_bytes(),
            info.cluster_address.as_bytes(),
            info.admin_address.as_bytes(),
            &labels,
            admin.as_str_name().as_bytes(),
            info.version.as_bytes(),
            &home(&info.vip),
        ]),
        vip_weight: Some(info.vip.weight),
        mac: info.vip.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        vip_macs: info.vip.macs.iter().map(|(vip, mac)| (vip.clone(), mac.to_string())).collect(),
    }
}

/// A node as a place for VIPs in bytes, for its etag; none if it says nothing special.
fn home(vip: &VipHome) -> Vec<u8> {
    if *vip == VipHome::default() {
        return Vec::new();
    }
    let macs: String = vip.macs.iter().map(|(name, mac)| format!("{name}\0{mac}\0")).collect();
    format!("{}\0{:?}\0{macs}", vip.weight, vip.mac).into_bytes()
}

/// The member that an operator names, by name or id; the id may be written as `node-2`.
///
/// # Errors
/// `NOT_FOUND` with the names that there are.
pub fn find_node<'a>(state: &'a State, text: &str) -> Result<&'a Node, ApiError> {
    let written_out = || text.strip_prefix("node-").and_then(|digits| node_of_id(state, digits));
    find_node_exactly(state, text).or_else(|error| written_out().ok_or(error))
}

/// The member of that very name, or of that bare id: for what cannot be undone. Node 1 may be called otherwise, and
/// whoever says `node-1` may mean one that is gone.
///
/// # Errors
/// `NOT_FOUND` with the names that there are.
pub fn find_node_exactly<'a>(state: &'a State, text: &str) -> Result<&'a Node, ApiError> {
    // Names win: a node may well be called "2".
    state
        .node_named(text)
        .or_else(|| node_of_id(state, text))
        .ok_or_else(|| error::not_found("node", text, state.nodes().map(|node| node.info.name.as_str())))
}

fn node_of_id<'a>(state: &'a State, digits: &str) -> Option<&'a Node> {
    digits.parse().ok().and_then(|id| state.node(NodeId::new(id)))
}

/// Longest text of a node about itself; a DNS name fits.
const TEXT_BYTES_MAX: usize = 255;
/// Most labels of a node. Arbitrary, and harmless.
const LABELS_MAX: usize = 64;

/// Most VIPs of a node that are on interfaces of their own. Arbitrary, and harmless.
const MACS_MAX: usize = 1000;

/// A node as it describes itself, checked.
///
/// # Errors
/// `INVALID_ARGUMENT` when something is missing.
pub fn node_info(sent: Option<proto::NodeInfo>) -> Result<NodeInfo, ApiError> {
    let sent = sent.ok_or_else(|| error::invalid("node", "it is missing", "send the node's name and addresses"))?;
    for (path, value) in [
        ("node.name", &sent.name),
        ("node.cluster_address", &sent.cluster_address),
        ("node.admin_address", &sent.admin_address),
    ] {
        if value.is_empty() {
            return Err(error::invalid(path, "it is empty", "set it in the node's ballastd.toml"));
        }
        if value.len() > TEXT_BYTES_MAX {
            return Err(error::invalid(path, "it is too long", "use at most 255 bytes"));
        }
    }
    let long = |text: &String| text.len() > TEXT_BYTES_MAX;
    if sent.labels.len() > LABELS_MAX || sent.labels.iter().any(|(name, value)| long(name) || long(value)) {
        return Err(error::invalid(
            "node.labels",
            "there are too many, or one is too long",
            "use at most 64 of 255 bytes",
        ));
    }
    if long(&sent.version) {
        return Err(error::invalid("node.version", "it is too long", "use at most 255 bytes"));
    }
    let vip = vip_home(sent.vip_weight, &sent.mac, sent.vip_macs)?;
    Ok(NodeInfo {
        name: sent.name,
        cluster_address: sent.cluster_address,
        admin_address: sent.admin_address,
        labels: sent.labels,
        role: role_from(sent.role)?,
        version: sent.version,
        vip,
    })
}

fn vip_home(weight: Option<u32>, mac: &str, macs: BTreeMap<String, String>) -> Result<VipHome, ApiError> {
    let weight = weight.unwrap_or(VipHome::WEIGHT);
    if weight > VipHome::WEIGHT_MAX {
        let fix = format!("set [vip] weight in the node's ballastd.toml to 0 to {}", VipHome::WEIGHT_MAX);
        return Err(error::invalid("node.vip_weight", format!("{weight} is too much"), fix));
    }
    let parse = |path: &'static str, text: &str| {
        text.parse::<Mac>().map_err(|error| error::invalid(path, error.to_string(), "send what the interface has"))
    };
    if macs.len() > MACS_MAX || macs.keys().any(|name| name.len() > TEXT_BYTES_MAX) {
        let fix = format!("put at most {MACS_MAX} VIPs on interfaces of their own");
        return Err(error::invalid("node.vip_macs", "there are too many, or a name is too long", fix));
    }
    let macs = macs.into_iter().map(|(vip, mac)| Ok((vip, parse("node.vip_macs", &mac)?)));
    Ok(VipHome {
        weight,
        mac: if mac.is_empty() { None } else { Some(parse("node.mac", mac)?) },
        macs: macs.collect::<Result<_, ApiError>>()?,
    })
}

/// A role that a caller sent.
///
/// # Errors
/// `INVALID_ARGUMENT` for one that this version does not know.
pub fn role_from(sent: i32) -> Result<NodeRole, ApiError> {
    match proto::NodeRole::try_from(sent) {
        Ok(proto::NodeRole::Unspecified | proto::NodeRole::Full) => Ok(NodeRole::Full),
        Ok(proto::NodeRole::Witness) => Ok(NodeRole::Witness),
        Err(_) => Err(error::invalid("role", format!("{sent} is not a role"), "use full or witness")),
    }
}

const fn role(role: NodeRole) -> proto::NodeRole {
    match role {
        NodeRole::Full => proto::NodeRole::Full,
        NodeRole::Witness => proto::NodeRole::Witness,
    }
}

pub(super) const fn admin(admin: NodeAdmin) -> proto::NodeAdmin {
    match admin {
        NodeAdmin::Ready => proto::NodeAdmin::Ready,
        NodeAdmin::Drain => proto::NodeAdmin::Drain,
        NodeAdmin::Demoted => proto::NodeAdmin::Demoted,
        NodeAdmin::Promoted => proto::NodeAdmin::Promoted,
    }
}
