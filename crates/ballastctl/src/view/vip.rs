//! Virtual addresses.

use std::collections::BTreeMap;

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::{ChangeView, Row, history::owner_words, millis, seconds, word};
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
    /// Who holds it; zero when nobody, or nobody who answers says so.
    pub owner: u64,
    /// Its name; absent when nobody holds it, or the owner is a member no longer.
    pub owner_name: Option<String>,
    /// Who held it last by the log, when none of the nodes that answer holds it.
    pub last_owner: Option<String>,
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
    /// For how long a node must have been heard before it returns there by itself.
    pub failback_delay_ms: Option<u64>,
    /// VIPs of one group are on one node; absent when it is for itself.
    pub group: Option<String>,
    /// VIPs that should be at other nodes.
    pub apart_from: Vec<String>,
    /// Labels of the nodes that may hold it; all when empty.
    pub nodes: BTreeMap<String, String>,
    /// Hardware address of the interface that it is on at its owner; absent when there is none.
    pub owner_mac: Option<String>,
    /// How each node that answered stands to it.
    pub standings: Vec<StandingView>,
    /// Who wished it where it is.
    pub wish_change: Option<ChangeView>,
    /// Changes with every move by an operator.
    pub etag: String,
}

/// How a node stands to a VIP, by its own account.
#[derive(Clone, Debug, Serialize)]
pub struct StandingView {
    /// The node's name.
    pub node: String,
    /// `fit`, `reluctant` or `unfit`.
    pub fitness: String,
    /// What is wrong, as one word; absent when it is fit.
    pub reason: Option<String>,
    /// The same in a sentence.
    pub detail: Option<String>,
    /// What deserves a look and keeps the node from nothing: who else claimed the VIP within the last minute.
    pub warning: Option<String>,
    /// Its place among those that may hold it, from 1; absent when it may not.
    pub rank: Option<u32>,
    /// Why the placement wants the VIP where it does, as this node sees it.
    pub placement: String,
    /// What this node makes of it, in words.
    pub stage: String,
}

impl StandingView {
    fn new(node: &str, standing: &proto::VipStanding) -> Self {
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            node: node.to_owned(),
            fitness: word!(proto::Fitness, "FITNESS_", standing.fitness),
            reason: some(&standing.fitness_reason),
            detail: some(&standing.fitness_detail),
            warning: some(&standing.warning),
            rank: (standing.rank > 0).then_some(standing.rank),
            placement: standing.placement.clone(),
            stage: standing.stage.clone(),
        }
    }
}

impl VipView {
    /// From the log, and from what the nodes themselves say right now: the record of a change of
    /// hands is written after the fact, so a holder's own word counts when its epoch is newer. Where none of the nodes
    /// that were asked says that it holds it, the log's owner is who held it last: it may be dead, or have given it up
    /// without being able to record that. Without nodes nothing was asked, and the log is all there is.
    pub fn new(vip: &proto::Vip, nodes: &[proto::NodeStatus]) -> Self {
        let held = nodes
            .iter()
            .flat_map(|status| status.vips.iter().map(move |held| (status, held)))
            .filter(|(_, held)| held.vip == vip.name && held.epoch >= vip.epoch)
            .max_by_key(|(_, held)| held.epoch);
        let standings = nodes.iter().flat_map(|status| {
            let node = status.node.as_ref().map_or("", |node| node.name.as_str());
            let of = status.standings.iter().filter(|standing| standing.vip == vip.name);
            of.map(move |standing| StandingView::new(node, standing))
        });
        let (owner, owner_name, epoch, lease_remaining_ms) = match held {
            Some((status, held)) => {
                let node = status.node.clone().unwrap_or_default();
                (node.id, node.name, held.epoch, millis(held.remaining.as_ref()))
            }
            None => (vip.owner_id, vip.owner_name.clone(), vip.epoch, None),
        };
        let asked = nodes.iter().any(|status| status.reachable);
        let last_owner = owner_words(owner, (!owner_name.is_empty()).then_some(owner_name.as_str()));
        let (owner, owner_name, last_owner) =
            if asked && held.is_none() { (0, String::new(), last_owner) } else { (owner, owner_name, None) };
        let holder = nodes.iter().filter_map(|status| status.node.as_ref()).find(|node| node.id == owner);
        let mac = holder.map(|node| node.vip_macs.get(&vip.name).unwrap_or(&node.mac));
        Self {
            owner_mac: mac.filter(|mac| !mac.is_empty()).cloned(),
            standings: standings.collect(),
            name: vip.name.clone(),
            id: vip.id,
            addresses: vip.addresses.clone(),
            owner,
            owner_name: (!owner_name.is_empty()).then_some(owner_name),
            last_owner,
            epoch,
            lease_remaining_ms,
            wish: vip.moved.as_ref().map(|moved| moved.node_name.clone()),
            why: vip.cause.clone(),
            since: vip.since.as_ref().and_then(|since| super::time(since.log_time.as_ref())),
            prefer: vip.prefer.clone(),
            failback: if vip.failback_automatic { "automatic" } else { "never" },
            failback_delay_ms: millis(vip.failback_delay.as_ref()),
            group: (!vip.group.is_empty()).then(|| vip.group.clone()),
            apart_from: vip.apart_from.clone(),
            nodes: vip.nodes.clone().into_iter().collect(),
            wish_change: vip.moved.as_ref().and_then(|moved| moved.change.as_ref()).map(ChangeView::from),
            etag: vip.etag.clone(),
        }
    }

    /// Who could not hold it as well as one wishes, and why, and who saw what else that deserves a look; nodes that say
    /// the same together.
    pub(super) fn trouble(&self) -> String {
        let mut said: Vec<(&str, &str, Vec<&str>)> = Vec::new();
        for standing in &self.standings {
            let unfit = standing.detail.as_deref().map(|detail| (standing.fitness.as_str(), detail));
            let warning = standing.warning.as_deref().map(|warning| ("", warning));
            for (fitness, text) in unfit.into_iter().chain(warning) {
                match said.iter_mut().find(|(of, known, _)| (*of, *known) == (fitness, text)) {
                    Some((.., nodes)) => nodes.push(&standing.node),
                    None => said.push((fitness, text, vec![&standing.node])),
                }
            }
        }
        let line = |(fitness, text, nodes): (&str, &str, Vec<&str>)| {
            let space = if fitness.is_empty() { "" } else { " " };
            format!("{}{space}{fitness}: {text}", nodes.join(", "))
        };
        said.into_iter().map(line).collect::<Vec<_>>().join("; ")
    }
}

impl Row for VipView {
    const NONE: &'static str = "no VIPs";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide {
            &[
                "VIP",
                "ADDRESSES",
                "OWNER",
                "SINCE",
                "WISH",
                "EPOCH",
                "LEASE MS",
                "MAC",
                "GROUP",
                "APART FROM",
                "NODES",
                "PREFER",
                "FAILBACK",
                "TROUBLE",
                "WHY",
            ]
        } else {
            &["VIP", "ADDRESSES", "OWNER", "SINCE", "WISH", "WHY"]
        }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let owner = match (owner_words(self.owner, self.owner_name.as_deref()), &self.last_owner) {
            (Some(name), _) => Cell::painted(Paint::Good, name),
            (None, Some(last)) => Cell::painted(Paint::Bad, format!("- (last {last})")),
            (None, None) => Cell::painted(Paint::Bad, "nobody"),
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
            let labels: Vec<String> = self.nodes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            cells.extend([
                Cell::number(self.epoch),
                Cell::number(remaining),
                self.owner_mac.clone().unwrap_or_default().into(),
                self.group.clone().unwrap_or_default().into(),
                self.apart_from.join(",").into(),
                labels.join(",").into(),
                prefer.into(),
                self.failback.into(),
                Cell::painted(Paint::Warn, self.trouble()),
            ]);
        }
        cells.push(self.why.clone().into());
        cells
    }
}
