//! The cluster and its nodes.

use std::collections::BTreeMap;

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::{List, Row, View, VipView, millis, time, when, word};
use crate::output::{Cell, Paint, Style};

/// The whole picture.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView {
    /// The cluster.
    pub cluster_id: String,
    /// Id of the node that answered.
    pub node: u64,
    /// Its name.
    pub node_name: String,
    /// `ok`, `degraded` or `no_quorum`.
    pub health: String,
    /// Why it is not healthy.
    pub problems: Vec<String>,
    /// The leader; zero when none is known.
    pub leader: u64,
    /// Its name; absent when none is known.
    pub leader_name: Option<String>,
    /// Raft term.
    pub term: u64,
    /// Votes that make a majority.
    pub quorum: u32,
    /// How many voters the document wants.
    pub voters_wanted: u32,
    /// Revision of the configuration in force.
    pub revision: u64,
    /// Last log entry that the answer includes.
    pub applied_index: u64,
    /// Its log time.
    pub log_time: Option<String>,
    /// Hash of the state of the node that answered.
    pub state_hash: String,
    /// At this index.
    pub state_hash_index: u64,
    /// Every member.
    pub nodes: Vec<NodeView>,
    /// Every VIP.
    pub vips: Vec<VipBrief>,
}

/// A VIP, in few words.
#[derive(Clone, Debug, Serialize)]
pub struct VipBrief {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Who holds it; absent when nobody does.
    pub owner_name: Option<String>,
    /// What is left of the lease.
    pub lease_remaining_ms: Option<u64>,
}

impl From<&proto::StatusResponse> for StatusView {
    fn from(response: &proto::StatusResponse) -> Self {
        let header = response.header.clone().unwrap_or_default();
        let nodes: Vec<NodeView> = response.nodes.iter().map(NodeView::from).collect();
        let own = nodes.iter().find(|node| node.id == header.node_id);
        let vip = |vip: &proto::Vip| {
            let VipView { name, addresses, owner_name, lease_remaining_ms, .. } = VipView::new(vip, &response.nodes);
            VipBrief { name, addresses, owner_name, lease_remaining_ms }
        };
        Self {
            health: word!(proto::status_response::Health, "HEALTH_", response.health),
            problems: response.problems.clone(),
            leader: response.leader_id,
            leader_name: nodes.iter().find(|node| node.id == response.leader_id).map(|node| node.name.clone()),
            term: response.term,
            quorum: response.quorum,
            voters_wanted: response.voters_wanted,
            revision: header.revision,
            applied_index: header.applied_index,
            log_time: time(header.log_time.as_ref()),
            state_hash: own.map(|node| node.state_hash.clone()).unwrap_or_default(),
            state_hash_index: own.map(|node| node.state_hash_index).unwrap_or_default(),
            vips: response.vips.iter().map(vip).collect(),
            cluster_id: header.cluster_id,
            node: header.node_id,
            node_name: header.node_name,
            nodes,
        }
    }
}

impl View for StatusView {
    fn text(&self, style: Style) -> String {
        let paint = match self.health.as_str() {
            "ok" => Paint::Good,
            "no_quorum" => Paint::Bad,
            _ => Paint::Warn,
        };
        let leader = match &self.leader_name {
            Some(name) if self.health == "no_quorum" => {
                let lost = format!(
                    "{name} has lost its majority: nothing can be changed until a majority of the voters answers"
                );
                style.paint(Paint::Bad, &lost)
            }
            Some(name) => format!("{name}, term {}", self.term),
            None => style.paint(Paint::Bad, "none: nothing can be changed until a majority of the voters answers"),
        };
        let voters = self.nodes.iter().filter(|node| node.voter).count();
        let mut text = format!(
            "cluster   {}\nhealth    {}\nleader    {leader}\nvoters    {voters} of {} wanted, majority is {}\n\
             revision  {}\nanswered  by {} at log index {}\n",
            self.cluster_id,
            style.paint(paint, &self.health.replace('_', " ")),
            self.voters_wanted,
            self.quorum,
            self.revision,
            self.node_name,
            self.applied_index,
        );
        for problem in &self.problems {
            text.push_str(&format!("  {} {problem}\n", style.paint(Paint::Warn, "!")));
        }
        text.push('\n');
        text.push_str(&List(self.nodes.clone()).text(style));
        if !self.vips.is_empty() {
            text.push('\n');
            text.push_str(&List(self.vips.clone()).text(style));
        }
        text
    }
}

impl Row for VipBrief {
    const NONE: &'static str = "no VIPs";

    fn heads(_: bool) -> &'static [&'static str] {
        &["VIP", "ADDRESSES", "OWNER", "LEASE MS"]
    }

    fn cells(&self, _: bool) -> Vec<Cell> {
        let owner = match &self.owner_name {
            Some(name) => Cell::painted(Paint::Good, name),
            None => Cell::painted(Paint::Bad, "nobody"),
        };
        let remaining = self.lease_remaining_ms.map(|ms| ms.to_string()).unwrap_or_default();
        vec![self.name.clone().into(), self.addresses.join(",").into(), owner, Cell::number(remaining)]
    }
}

/// A member, and how it is.
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `full` or `witness`.
    pub role: String,
    /// `leader`, `voter`, `learner`, `unreachable`.
    pub state: &'static str,
    /// What is wanted of it: `ready`, `drain`, `demoted`, `promoted`.
    pub admin: String,
    /// It votes.
    pub voter: bool,
    /// It answered.
    pub reachable: bool,
    /// Why it did not.
    pub error: String,
    /// Caught up and able to serve.
    pub ready: bool,
    /// Why it is not ready.
    pub not_ready: Vec<String>,
    /// It gives up what it holds.
    pub draining: bool,
    /// Its Raft term.
    pub term: u64,
    /// The leader it follows; zero when none.
    pub leader: u64,
    /// Last log entry that it has.
    pub last_log_index: u64,
    /// Last log entry that it knows to be committed.
    pub committed_index: u64,
    /// Last log entry that it applied.
    pub applied_index: u64,
    /// Entries that it is behind.
    pub lag: u64,
    /// Index of its last snapshot.
    pub snapshot_index: u64,
    /// First log entry that it still has.
    pub purged_index: u64,
    /// Hash of its state.
    pub state_hash: String,
    /// At this index.
    pub state_hash_index: u64,
    /// Revision that its data plane serves.
    pub serving_revision: u64,
    /// VIPs that it holds.
    pub vips: Vec<String>,
    /// Open client connections.
    pub connections: u64,
    /// Time since its state was confirmed with a quorum.
    pub confirmed_age_ms: Option<u64>,
    /// When its process started.
    pub start_time: Option<String>,
    /// When its certificate ends.
    pub certificate_not_after: Option<String>,
    /// `host:port` of node-to-node traffic.
    pub cluster_address: String,
    /// `host:port` of the admin API.
    pub admin_address: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its share of the VIPs relative to the other nodes; zero is a standby.
    pub vip_weight: Option<u32>,
    /// Whether it may hold VIPs: `fit`, `reluctant` or `unfit`; absent when it did not say.
    pub fitness: Option<String>,
    /// What is wrong, as one word; absent when it is fit.
    pub fitness_reason: Option<String>,
    /// The same in a sentence.
    pub fitness_detail: Option<String>,
    /// Fence of its VIPs: `ebpf`, `nftables` or `none`; absent with the loopback driver.
    pub fence: Option<String>,
    /// Hardware address of the interface that its VIPs are on; absent when there is none.
    pub mac: Option<String>,
    /// The same for VIPs that are on interfaces of their own.
    pub vip_macs: BTreeMap<String, String>,
    /// Version of its `ballastd`.
    pub version: String,
    /// Changes with each change of it.
    pub etag: String,
}

impl From<&proto::NodeStatus> for NodeView {
    fn from(status: &proto::NodeStatus) -> Self {
        let node = status.node.clone().unwrap_or_default();
        let state = match (status.reachable, status.leader, status.voter) {
            (false, _, _) => "unreachable",
            (true, true, _) => "leader",
            (true, false, true) => "voter",
            (true, false, false) => "learner",
        };
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            vip_weight: node.vip_weight,
            fitness: (status.fitness != 0).then(|| word!(proto::Fitness, "FITNESS_", status.fitness)),
            fitness_reason: some(&status.fitness_reason),
            fitness_detail: some(&status.fitness_detail),
            fence: some(&status.fence),
            mac: some(&node.mac),
            vip_macs: node.vip_macs.clone().into_iter().collect(),
            id: node.id,
            role: word!(proto::NodeRole, "NODE_ROLE_", node.role),
            admin: word!(proto::NodeAdmin, "NODE_ADMIN_", node.admin),
            state,
            voter: status.voter,
            reachable: status.reachable,
            error: status.error.clone(),
            ready: status.ready,
            not_ready: status.not_ready.clone(),
            draining: status.draining,
            term: status.term,
            leader: status.leader_id,
            last_log_index: status.last_log_index,
            committed_index: status.committed_index,
            applied_index: status.applied_index,
            lag: status.lag,
            snapshot_index: status.snapshot_index,
            purged_index: status.purged_index,
            state_hash: status.state_hash.clone(),
            state_hash_index: status.state_hash_index,
            serving_revision: status.serving_revision,
            vips: status.vips.iter().map(|held| held.vip.clone()).collect(),
            connections: status.connections,
            confirmed_age_ms: millis(status.confirmed_age.as_ref()),
            start_time: time(status.start_time.as_ref()),
            certificate_not_after: time(status.certificate_not_after.as_ref()),
            version: if status.version.is_empty() { node.version } else { status.version.clone() },
            name: node.name,
            cluster_address: node.cluster_address,
            admin_address: node.admin_address,
            labels: node.labels,
            etag: node.etag,
        }
    }
}

impl NodeView {
    fn fitness_cell(&self) -> Cell {
        let fitness = self.fitness.clone().unwrap_or_default();
        match &self.fitness_detail {
            None => Cell::painted(if fitness == "fit" { Paint::Good } else { Paint::Plain }, fitness),
            Some(detail) => Cell::painted(Paint::Warn, format!("{fitness}: {detail}")),
        }
    }

    /// What wants a look, in few words.
    fn remark(&self) -> String {
        if !self.reachable {
            return self.error.clone();
        }
        if self.draining {
            return "draining".to_owned();
        }
        if !self.ready { self.not_ready.join("; ") } else { String::new() }
    }
}

impl Row for NodeView {
    const NONE: &'static str = "no nodes";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide {
            &[
                "NODE",
                "ID",
                "ROLE",
                "STATE",
                "ADMIN",
                "READY",
                "APPLIED",
                "LAG",
                "SERVES",
                "VIPS",
                "WEIGHT",
                "FITNESS",
                "FENCE",
                "MAC",
                "CONNECTIONS",
                "CLUSTER ADDRESS",
                "ADMIN ADDRESS",
                "VERSION",
                "STARTED",
                "CERTIFICATE ENDS",
                "REMARK",
            ]
        } else {
            &["NODE", "ID", "ROLE", "STATE", "ADMIN", "READY", "APPLIED", "LAG", "SERVES", "VIPS", "REMARK"]
        }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let state = match self.state {
            "unreachable" => Cell::painted(Paint::Bad, self.state),
            "leader" => Cell::painted(Paint::Strong, self.state),
            other => other.into(),
        };
        let admin = Cell::painted(if self.admin == "drain" { Paint::Warn } else { Paint::Plain }, &self.admin);
        let ready = match (self.reachable, self.ready) {
            (false, _) => Cell::default(),
            (true, true) => Cell::painted(Paint::Good, "yes"),
            (true, false) => Cell::painted(Paint::Warn, "no"),
        };
        // Of a node that did not answer nothing is known.
        let number = |value: u64| Cell::number(if self.reachable { value.to_string() } else { String::new() });
        let mut cells: Vec<Cell> = vec![
            self.name.clone().into(),
            Cell::number(self.id),
            self.role.clone().into(),
            state,
            admin,
            ready,
            number(self.applied_index),
            number(self.lag),
            number(self.serving_revision),
            self.vips.join(",").into(),
        ];
        if wide {
            let mac = self.mac.iter().cloned().chain(self.vip_macs.iter().map(|(vip, mac)| format!("{vip}={mac}")));
            cells.extend([
                Cell::number(self.vip_weight.map(|weight| weight.to_string()).unwrap_or_default()),
                self.fitness_cell(),
                self.fence.clone().unwrap_or_default().into(),
                mac.collect::<Vec<_>>().join(",").into(),
                number(self.connections),
                self.cluster_address.clone().into(),
                self.admin_address.clone().into(),
                self.version.clone().into(),
                when(self.start_time.as_ref()).into(),
                when(self.certificate_not_after.as_ref()).into(),
            ]);
        }
        cells.push(self.remark().into());
        cells
    }
}

/// A node was changed.
#[derive(Clone, Debug, Serialize)]
pub struct NodeChangeView {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// What is wanted of it now.
    pub admin: String,
    /// What was done: `drain`, `enable`, `promote`, `demote`, `remove`.
    pub action: &'static str,
    /// Nothing was changed, only checked.
    pub dry_run: bool,
    /// Index of the log entry.
    pub log_index: u64,
    /// What follows from it.
    pub notes: Vec<String>,
}

impl NodeChangeView {
    /// What the node answered.
    pub fn new(response: &proto::NodeChangeResponse, action: &'static str, dry_run: bool) -> Self {
        let node = response.node.clone().unwrap_or_default();
        Self {
            id: node.id,
            admin: word!(proto::NodeAdmin, "NODE_ADMIN_", node.admin),
            name: node.name,
            action,
            dry_run,
            log_index: response.log_index,
            notes: response.notes.clone(),
        }
    }
}

impl View for NodeChangeView {
    fn text(&self, _: Style) -> String {
        let done = match self.action {
            "drain" => "gives its VIPs up and takes no new work",
            "enable" => "serves, and votes when the policy picks it",
            "promote" => "is a voter before others",
            "demote" => "is not a voter for as long as this stands",
            _ => "is removed for good",
        };
        let would = if self.dry_run { "would be accepted: " } else { "" };
        let mut text = format!("{would}{} {done}\n", self.name);
        text.extend(self.notes.iter().map(|note| format!("  {note}\n")));
        text
    }
}

/// A join token.
#[derive(Clone, Debug, Serialize)]
pub struct TokenView {
    /// The token. A secret.
    pub token: String,
    /// End of its life.
    pub expire_time: Option<String>,
}

impl View for TokenView {
    fn text(&self, _: Style) -> String {
        format!("{}\n", self.token)
    }
}

/// A snapshot was made.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotView {
    /// Id of the node that made it.
    pub node: u64,
    /// Index of the last entry in it.
    pub snapshot_index: u64,
    /// Its size; zero when the node cannot tell.
    pub size_bytes: u64,
}

impl From<&proto::SnapshotResponse> for SnapshotView {
    fn from(response: &proto::SnapshotResponse) -> Self {
        Self { node: response.node_id, snapshot_index: response.snapshot_index, size_bytes: response.size_bytes }
    }
}

impl View for SnapshotView {
    fn text(&self, _: Style) -> String {
        let size = if self.size_bytes > 0 { format!(", {} bytes", self.size_bytes) } else { String::new() };
        format!("node {} made a snapshot at log index {}{size}\n", self.node, self.snapshot_index)
    }
}

/// Cookies get a new key.
#[derive(Clone, Debug, Serialize)]
pub struct CookieKeyView {
    /// Log index of the change.
    pub log_index: u64,
}

impl From<&proto::RotateCookieKeyResponse> for CookieKeyView {
    fn from(response: &proto::RotateCookieKeyResponse) -> Self {
        Self { log_index: response.log_index }
    }
}

impl View for CookieKeyView {
    fn text(&self, _: Style) -> String {
        format!("cookies are signed with a new key ten seconds from now (log index {})\n", self.log_index)
    }
}

/// The leadership moved.
#[derive(Clone, Debug, Serialize)]
pub struct TransferView {
    /// Leader before.
    pub from: u64,
    /// Leader now.
    pub to: u64,
}

impl From<&proto::TransferLeaderResponse> for TransferView {
    fn from(response: &proto::TransferLeaderResponse) -> Self {
        Self { from: response.from_node_id, to: response.to_node_id }
    }
}

impl View for TransferView {
    fn text(&self, _: Style) -> String {
        format!("node {} leads; before it was node {}\n", self.to, self.from)
    }
}
