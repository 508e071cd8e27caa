//! VIPs and their history.

use std::collections::BTreeSet;

use ballast_core::{
    config::{self, Failback},
    ids::{NodeId, VipId},
    lease::{Fitness, Unfitness, VipStatus},
    state::{Author, Node, NodeAdmin, NodeRole, State, Tenure},
};
use ballast_proto::admin::v1 as proto;

use super::{change, etag, node_name, page::Place};
use crate::{
    error::{self, ApiError, ErrorCode},
    node::LocalStatus,
};

/// All VIPs, in the order of the document.
pub fn vips(state: &State) -> Vec<proto::Vip> {
    state.vips().map(|(id, vip)| describe(state, id, vip)).collect()
}

/// The VIP of a name.
///
/// # Errors
/// `NOT_FOUND` with the names that there are.
pub fn vip(state: &State, name: &str) -> Result<(VipId, proto::Vip), ApiError> {
    state
        .vips()
        .find(|(_, vip)| vip.name == name)
        .map(|(id, vip)| (id, describe(state, id, vip)))
        .ok_or_else(|| error::not_found("VIP", name, state.vips().map(|(_, vip)| vip.name.as_str())))
}

/// Refuses a node as a place for a VIP when it may not hold it as far as the log says: a wish for such a place would
/// be taken and never come true. What a group asks for is asked of its VIPs together.
///
/// # Errors
/// `FAILED_PRECONDITION` with what has to change first.
pub fn check_place(state: &State, vip: &str, node: &Node) -> Result<(), ApiError> {
    let name = &node.info.name;
    let refuse = |why: String| {
        error::status(ErrorCode::Precondition, format!("VIP {vip} cannot go to {name}: {why}"), name.as_str())
    };
    if node.info.role == NodeRole::Witness {
        let remedy = "choose a node that is no witness: ballastctl node list";
        return Err(refuse("it is a witness, and witnesses hold no VIPs".to_owned()).remedy(remedy));
    }
    if node.admin == NodeAdmin::Drain {
        let remedy = format!("end its drain first: ballastctl node enable {name}");
        return Err(refuse("it is drained".to_owned()).remedy(remedy).remedy("or choose another node"));
    }
    let group = state.vips().find(|(_, known)| known.name == vip).and_then(|(_, known)| known.group.as_ref());
    let beside = |known: &&config::Vip| known.name == vip || group.is_some() && known.group.as_ref() == group;
    for known in state.vips().map(|(_, known)| known).filter(beside) {
        let missing = known.nodes.iter().filter(|(key, value)| node.info.labels.get(*key) != Some(*value));
        let missing: Vec<String> = missing.map(|(key, value)| format!("{key}={value}")).collect();
        if missing.is_empty() {
            continue;
        }
        let missing = missing.join(", ");
        let why = match known.name == vip {
            true => format!("it lacks the label {missing}, which the VIP asks for"),
            false => format!("it lacks the label {missing}, which VIP {} of its group asks for", known.name),
        };
        let able = state.nodes().filter(|other| {
            let candidate = other.info.role == NodeRole::Full && other.admin != NodeAdmin::Drain;
            candidate && state.vips().map(|(_, vip)| vip).filter(beside).all(|vip| other.info.carries(&vip.nodes))
        });
        let able: Vec<&str> = able.map(|other| other.info.name.as_str()).take(20).collect();
        let instead = match able.is_empty() {
            true => "no node that is neither drained nor a witness carries all of its labels".to_owned(),
            false => format!("these nodes may hold it: {}", able.join(", ")),
        };
        let remedy = format!("give {name} the label in its ballastd.toml, or change `nodes` of VIP {}", known.name);
        return Err(refuse(why).remedy(instead).remedy(remedy));
    }
    Ok(())
}

/// Where operators want VIPs.
pub(super) fn moves(state: &State) -> Vec<proto::VipMove> {
    state.vips().filter_map(|(id, vip)| wish(state, id, &vip.name)).collect()
}

/// Who held a VIP (or all, without a name), newest first, each with its place in the list. VIPs that were configured
/// away have a history too.
///
/// # Errors
/// `NOT_FOUND` with the names that there are.
pub fn transitions(state: &State, name: &str) -> Result<Vec<(Place, proto::VipTransition)>, ApiError> {
    if !name.is_empty() && state.vip_id(name).is_none() {
        vip(state, name)?;
    }
    let configured: BTreeSet<VipId> = state.vips().map(|(id, _)| id).collect();
    let mut found: Vec<_> = state
        .vips_ever()
        .filter(|(_, vip)| name.is_empty() || *vip == name)
        .flat_map(|(id, vip)| {
            let removed = !configured.contains(&id);
            state.tenures(id).map(move |tenure| {
                let transition = proto::VipTransition {
                    vip: vip.to_owned(),
                    owner_id: tenure.owner.map_or(0, NodeId::get),
                    owner_name: owner_name(state, tenure),
                    epoch: tenure.epoch,
                    cause: with_names(state, &tenure.cause),
                    change: Some(recorded(state, tenure)),
                    removed,
                };
                ((tenure.index.get(), id.get()), transition)
            })
        })
        .collect();
    found.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
    Ok(found)
}

/// Why a VIP changed hands, as it was recorded, with the names of the nodes in it. They are recorded by id, as `node 5`,
/// because whoever changes hands need not know names.
pub(super) fn with_names(state: &State, cause: &str) -> String {
    const MARK: &str = "node ";
    let mut told = String::with_capacity(cause.len());
    let mut rest = cause;
    while let Some(at) = rest.find(MARK) {
        let (before, after) = (&rest[..at], &rest[at + MARK.len()..]);
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        told.push_str(before);
        match after[..digits].parse() {
            Ok(id) => told.push_str(&named(state, NodeId::new(id))),
            Err(_) => told.push_str(&rest[at..at + MARK.len() + digits]),
        }
        rest = &after[digits..];
    }
    told + rest
}

/// A node in a sentence about the past.
fn named(state: &State, node: NodeId) -> String {
    node_name(state, node).unwrap_or_else(|| format!("id {node} (removed)"))
}

/// How a node stands to a VIP; nothing for a VIP that is configured no longer.
pub fn standing(state: &State, status: &VipStatus, local: &LocalStatus) -> Option<proto::VipStanding> {
    let problem = local.problems.get(&status.vip).filter(|problem| !problem.is_empty());
    let (_, vip) = state.vips().find(|(id, _)| *id == status.vip)?;
    let rank = status.rank.map_or(0, |rank| rank + 1);
    Some(proto::VipStanding {
        vip: vip.name.clone(),
        fitness: fitness(status.fitness).into(),
        fitness_reason: status.fitness.trouble().map_or("", Unfitness::name).to_owned(),
        fitness_detail: status
            .fitness
            .trouble()
            .map(|what| problem.cloned().unwrap_or_else(|| what.to_string()))
            .unwrap_or_default(),
        rank: u32::try_from(rank).unwrap_or(u32::MAX),
        best_id: status.best.map_or(0, NodeId::get),
        placement: status.best.map_or("", |_| status.reason.as_str()).to_owned(),
        stage: status.why.to_owned(),
        warning: local.warnings.get(&status.vip).cloned().unwrap_or_default(),
    })
}

/// In the API's words.
pub const fn fitness(fitness: Fitness) -> proto::Fitness {
    match fitness {
        Fitness::Fit => proto::Fitness::Fit,
        Fitness::Reluctant(_) => proto::Fitness::Reluctant,
        Fitness::Unfit(_) => proto::Fitness::Unfit,
    }
}

fn describe(state: &State, id: VipId, vip: &config::Vip) -> proto::Vip {
    let tenure = state.tenures(id).next();
    let moved = wish(state, id, &vip.name);
    let moved_at = state.vip_moved(id).get();
    proto::Vip {
        name: vip.name.clone(),
        id: id.get(),
        addresses: vip.addresses.iter().map(ToString::to_string).collect(),
        owner_id: tenure.and_then(|tenure| tenure.owner).map_or(0, NodeId::get),
        owner_name: tenure.map_or_else(String::new, |tenure| owner_name(state, tenure)),
        epoch: tenure.map_or(0, |tenure| tenure.epoch),
        cause: tenure.map_or_else(|| "never held".to_owned(), |tenure| with_names(state, &tenure.cause)),
        since: tenure.map(|tenure| recorded(state, tenure)),
        moved,
        prefer: vip.prefer.clone(),
        failback_automatic: vip.failback == Failback::Automatic,
        held_by: 0,
        etag: etag(&[vip.name.as_bytes(), &moved_at.to_le_bytes()]),
        group: vip.group.clone().unwrap_or_default(),
        apart_from: vip.apart_from.clone(),
        nodes: vip.nodes.clone().into_iter().collect(),
        failback_delay: prost_types::Duration::try_from(vip.failback_delay.duration()).ok(),
    }
}

fn wish(state: &State, id: VipId, name: &str) -> Option<proto::VipMove> {
    let wish = state.vip_wish(id)?;
    Some(proto::VipMove {
        vip: name.to_owned(),
        node_id: wish.node.get(),
        node_name: node_name(state, wish.node).unwrap_or_default(),
        change: Some(change(wish.index, wish.at, &wish.author)),
    })
}

fn owner_name(state: &State, tenure: &Tenure) -> String {
    tenure.owner.and_then(|node| node_name(state, node)).unwrap_or_default()
}

/// A change of hands is written down by the node that took or gave.
fn recorded(state: &State, tenure: &Tenure) -> proto::Change {
    let name = owner_name(state, tenure);
    let name = if name.is_empty() { "ballastd".to_owned() } else { format!("ballastd@{name}") };
    change(tenure.index, tenure.at, &Author { name, message: with_names(state, &tenure.cause) })
}
