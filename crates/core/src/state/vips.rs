//! Where operators want VIPs, and who held them.
//!
//! Not here: who may hold a VIP now ([`crate::lease`]), which does not wait for the log.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    At, Author, NodeRole, Outcome, State,
    events::{EventKind, Said, Subject},
    members::{changed, invalid, no_node, not_found},
};
use crate::{
    ids::{LogIndex, NodeId, VipId},
    time::LogTime,
};

/// Changes of hands kept for each VIP.
const TENURES_MAX: usize = 100;

/// An operator's wish that a VIP be at a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipWish {
    /// Where.
    pub node: NodeId,
    /// The entry.
    pub index: LogIndex,
    /// When.
    pub at: LogTime,
    /// Who and why.
    pub author: Author,
}

/// Who held a VIP from some moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenure {
    /// The owner; `None` if it was given up.
    pub owner: Option<NodeId>,
    /// The lease's epoch.
    pub epoch: u64,
    /// Why.
    pub cause: String,
    /// The entry that recorded it, after the fact.
    pub index: LogIndex,
    /// When it was recorded.
    pub at: LogTime,
}

/// Wishes and records by VIP.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vips {
    wishes: BTreeMap<VipId, VipWish>,
    tenures: BTreeMap<VipId, VecDeque<Tenure>>,
}

impl State {
    /// Where an operator wants a VIP; `None` leaves it to the placement. VIPs of a group move together, so the newest
    /// wish for one of them is a wish for all.
    pub fn vip_wish(&self, vip: VipId) -> Option<&VipWish> {
        self.group_of(vip).filter_map(|member| self.parts.vips.wishes.get(&member)).max_by_key(|wish| wish.index)
    }

    /// The entry of the wish that is in force for a VIP, with which a move is compared. Zero when there is none.
    pub fn vip_moved(&self, vip: VipId) -> LogIndex {
        self.vip_wish(vip).map(|wish| wish.index).unwrap_or_default()
    }

    /// The VIPs that move together with this one, and it.
    fn group_of(&self, vip: VipId) -> impl Iterator<Item = VipId> {
        let group = self.vips().find(|(id, _)| *id == vip).and_then(|(_, config)| config.group.as_ref());
        let members = self.vips().filter(move |(_, config)| group.is_some() && config.group.as_ref() == group);
        members.map(|(id, _)| id).filter(move |id| *id != vip).chain([vip])
    }

    /// Who held a VIP, newest first. What the log heard of, not who may serve now.
    pub fn tenures(&self, vip: VipId) -> impl Iterator<Item = &Tenure> {
        self.parts.vips.tenures.get(&vip).into_iter().flat_map(|tenures| tenures.iter().rev())
    }

    /// The index after which no change of hands is missing from [`State::tenures`]; `None` while all may be there.
    pub fn tenures_whole_after(&self, vip: VipId) -> Option<LogIndex> {
        let tenures = self.parts.vips.tenures.get(&vip).filter(|tenures| tenures.len() >= TENURES_MAX)?;
        Some(tenures.front()?.index)
    }

    pub(super) fn record_vip(&mut self, at: At, vip: VipId, owner: Option<NodeId>, epoch: u64, cause: &str) -> Outcome {
        let Some(name) = self.vip_name(vip) else { return not_found(format!("VIP {vip}")) };
        let newest = self.tenures(vip).next();
        // Records come late and in any order; an older one than the last is no news.
        if newest.is_some_and(|last| epoch < last.epoch || (epoch == last.epoch && last.owner == owner)) {
            return Outcome::Done;
        }
        let from = owner.or_else(|| newest.and_then(|last| last.owner));
        let author = from.map_or_else(Author::default, |node| self.daemon(node));
        let what = match owner {
            Some(_) => format!("VIP {name} is held by {}, epoch {epoch}", &author.name["ballastd@".len()..]),
            None => format!("VIP {name} was given up, epoch {epoch}"),
        };
        let tenures = self.parts.vips.edit().tenures.entry(vip).or_default();
        if tenures.len() >= TENURES_MAX {
            tenures.pop_front();
        }
        tenures.push_back(Tenure { owner, epoch, cause: cause.to_owned(), index: at.index, at: at.now });
        self.lease_version += 1;
        self.record(at, &author, Said::new(EventKind::VipRecorded, Subject::Vip(vip), what).because(cause));
        Outcome::Done
    }

    pub(super) fn move_vip(
        &mut self,
        at: At,
        vip: VipId,
        to: Option<NodeId>,
        expect: Option<LogIndex>,
        author: &Author,
    ) -> Outcome {
        let Some(name) = self.vip_name(vip) else { return not_found(format!("VIP {vip}")) };
        if expect.is_some_and(|expected| expected != self.vip_moved(vip)) {
            return changed(format!("VIP {name}"));
        }
        let what = match to {
            None => format!("VIP {name} is left to the placement"),
            Some(id) => {
                let Some(node) = self.node(id) else { return no_node(id) };
                if node.info.role == NodeRole::Witness {
                    return invalid(format!("node {} is a witness and holds no VIP", node.info.name));
                }
                format!("VIP {name} is wanted at {}", node.info.name)
            }
        };
        // What was wished for others of the group is overtaken, so that it does not come back with the end of this wish.
        let group: Vec<VipId> = self.group_of(vip).collect();
        let wishes = &mut self.parts.vips.edit().wishes;
        for member in group {
            wishes.remove(&member);
        }
        if let Some(node) = to {
            wishes.insert(vip, VipWish { node, index: at.index, at: at.now, author: author.clone() });
        }
        self.record(at, author, Said::new(EventKind::VipMoved, Subject::Vip(vip), what));
        self.plan_changed();
        Outcome::Done
    }

    pub(super) fn forget_vip_wishes_for(&mut self, node: NodeId) {
        if self.parts.vips.wishes.values().any(|wish| wish.node == node) {
            self.parts.vips.edit().wishes.retain(|_, wish| wish.node != node);
        }
    }

    fn vip_name(&self, vip: VipId) -> Option<String> {
        self.vips().find(|(id, _)| *id == vip).map(|(_, config)| config.name.clone())
    }
}
