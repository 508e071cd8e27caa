//! The document, what became of an apply, what is wrong with a text.

use ballast_core::config::Mistake;
use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::{ChangeView, DiffView, View, change, word};
use crate::output::{Paint, Style};

/// One mistake in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MistakeView {
    /// `error` or `warning`.
    pub severity: &'static str,
    /// In which file, when it came from one.
    pub file: Option<String>,
    /// Line, from 1; zero when not known.
    pub line: u32,
    /// Column, from 1; zero when not known.
    pub column: u32,
    /// Of what.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
    /// Stable code; empty when it has none.
    pub code: String,
}

impl From<&proto::Mistake> for MistakeView {
    fn from(mistake: &proto::Mistake) -> Self {
        Self {
            severity: match mistake.severity() {
                proto::mistake::Severity::Warning => "warning",
                proto::mistake::Severity::Error | proto::mistake::Severity::Unspecified => "error",
            },
            file: (!mistake.file.is_empty()).then(|| mistake.file.clone()),
            line: mistake.line,
            column: mistake.column,
            path: mistake.path.clone(),
            problem: mistake.problem.clone(),
            remedy: mistake.remedy.clone(),
            code: mistake.code.clone(),
        }
    }
}

impl From<&Mistake> for MistakeView {
    fn from(mistake: &Mistake) -> Self {
        Self {
            severity: "error",
            file: mistake.file.clone(),
            line: mistake.line,
            column: mistake.column,
            path: mistake.path.clone(),
            problem: mistake.problem.clone(),
            remedy: mistake.fix.clone(),
            code: String::new(),
        }
    }
}

impl MistakeView {
    /// Whether a document with it is refused.
    pub fn is_error(&self) -> bool {
        self.severity != "warning"
    }

    /// `file:line:column: path: problem (what would be right)`
    pub fn line(&self, style: Style) -> String {
        let mut text = String::new();
        if let Some(file) = &self.file {
            text.push_str(&format!("{file}:"));
        }
        if self.line > 0 {
            text.push_str(&format!("{}:{}:", self.line, self.column));
        }
        if !text.is_empty() {
            text = style.paint(Paint::Strong, &text) + " ";
        }
        if !self.is_error() {
            text.push_str(&format!("{} ", style.paint(Paint::Warn, "warning:")));
        }
        if !self.path.is_empty() {
            text.push_str(&format!("{}: ", self.path));
        }
        text.push_str(&self.problem);
        if !self.remedy.is_empty() {
            text.push_str(&format!(" ({})", self.remedy));
        }
        text
    }
}

/// What became of an apply or a rollback.
#[derive(Clone, Debug, Serialize)]
pub struct ApplyView {
    /// In force now; with `dry_run` before.
    pub revision: u64,
    /// Its etag.
    pub etag: String,
    /// False when it equals what was in force.
    pub changed: bool,
    /// Nothing was changed, only said what would be.
    pub dry_run: bool,
    /// Index of the log entry; zero with `dry_run`.
    pub log_index: u64,
    /// What changed.
    pub diff: DiffView,
    /// Accepted, and probably not what was meant.
    pub warnings: Vec<MistakeView>,
    /// With `--wait`: whether every node that can be reached serves it; absent when nobody waited.
    pub served_everywhere: Option<bool>,
    /// With `--wait`: nodes that do not serve it.
    pub pending_nodes: Vec<PendingView>,
    /// With `--wait`: VIPs that no node holds, once no node that can be reached is late.
    pub unheld_vips: Vec<UnheldView>,
}

/// A node that does not serve a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PendingView {
    /// Which.
    pub node: String,
    /// False when it could not be asked.
    pub reachable: bool,
    /// Why.
    pub reason: String,
    /// Listeners of the revision that it cannot bind, each as `address of farm shop: error` or
    /// `address of the session store (redis): error`.
    pub failed_listeners: Vec<String>,
}

/// A VIP that no node that answers holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnheldView {
    /// Which.
    pub vip: String,
    /// A node that answers may hold it and has not taken it yet.
    pub can_be_held: bool,
    /// What keeps each node from it.
    pub nodes: Vec<UnheldReason>,
}

/// What keeps a node from a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnheldReason {
    /// Which node.
    pub node: String,
    /// Why it does not hold the VIP.
    pub reason: String,
}

impl UnheldView {
    /// `None` when a node says that it holds the VIP. Witnesses hold none and are left out.
    pub fn new(vip: &proto::Vip, nodes: &[proto::NodeStatus]) -> Option<Self> {
        if nodes.iter().any(|status| status.vips.iter().any(|held| held.vip == vip.name)) {
            return None;
        }
        let full = nodes.iter().filter_map(|status| Some((status.node.as_ref()?, status)));
        let full = full.filter(|(node, _)| node.role() != proto::NodeRole::Witness);
        let mut unheld = Self { vip: vip.name.clone(), can_be_held: false, nodes: Vec::new() };
        for (node, status) in full {
            let standing = status.standings.iter().find(|standing| standing.vip == vip.name);
            let (able, reason) = match standing {
                _ if !status.reachable => (false, format!("does not answer: {}", status.error)),
                // It has not looked yet.
                None => (true, "has not judged it yet".to_owned()),
                Some(standing) => match standing.fitness() {
                    proto::Fitness::Unfit => (false, format!("is unfit: {}", standing.fitness_detail)),
                    proto::Fitness::Reluctant => (true, format!("is reluctant: {}", standing.fitness_detail)),
                    proto::Fitness::Fit | proto::Fitness::Unspecified => {
                        (true, format!("may hold it: {}", standing.stage))
                    }
                },
            };
            unheld.can_be_held |= able;
            unheld.nodes.push(UnheldReason { node: node.name.clone(), reason });
        }
        Some(unheld)
    }

    /// One line; nodes that say the same stand together.
    pub fn line(&self) -> String {
        let mut said: Vec<(&str, Vec<&str>)> = Vec::new();
        for UnheldReason { node, reason } in &self.nodes {
            match said.iter_mut().find(|(known, _)| known == reason) {
                Some((_, nodes)) => nodes.push(node),
                None => said.push((reason, vec![node])),
            }
        }
        let said: Vec<_> = said.into_iter().map(|(reason, nodes)| format!("{} {reason}", nodes.join(", "))).collect();
        let said = if said.is_empty() { "there is no node that could".to_owned() } else { said.join("; ") };
        format!("VIP {}: {said}", self.vip)
    }
}

impl ApplyView {
    /// What the node answered.
    pub fn new(response: &proto::ApplyResponse, dry_run: bool) -> Self {
        Self {
            revision: response.revision,
            etag: response.etag.clone(),
            changed: response.changed,
            dry_run,
            log_index: response.log_index,
            diff: response
                .diff
                .as_ref()
                .map(DiffView::from)
                .unwrap_or_else(|| DiffView { equal: true, ..DiffView::default() }),
            warnings: response.warnings.iter().map(MistakeView::from).collect(),
            served_everywhere: None,
            pending_nodes: Vec::new(),
            unheld_vips: Vec::new(),
        }
    }
}

impl View for ApplyView {
    fn text(&self, style: Style) -> String {
        let head = match (self.dry_run, self.changed, self.served_everywhere) {
            (true, true, _) => format!("would change revision {}:", self.revision),
            (true, false, _) => format!("would change nothing: revision {} says the same", self.revision),
            (false, false, _) => format!("nothing to change: revision {} says the same", self.revision),
            (false, true, Some(true)) => {
                let but = if self.unheld_vips.is_empty() { "" } else { ", but not all of its VIPs are held" };
                format!("revision {} is in force and served by every node that can be reached{but}", self.revision)
            }
            (false, true, Some(false)) => {
                format!("revision {} is committed and in force, but not served everywhere", self.revision)
            }
            (false, true, None) => format!("revision {} is in force", self.revision),
        };
        let mut text = style.paint(Paint::Strong, &head) + "\n";
        if !self.diff.equal {
            text.extend(self.diff.lines(style).lines().map(|line| format!("  {line}\n")));
        }
        text
    }
}

/// What is wrong with a document.
#[derive(Clone, Debug, Serialize)]
pub struct ValidateView {
    /// True when it would be accepted.
    pub valid: bool,
    /// True when no node was asked.
    pub offline: bool,
    /// Everything, errors and warnings.
    pub mistakes: Vec<MistakeView>,
}

impl View for ValidateView {
    fn text(&self, style: Style) -> String {
        let mut text: String = self.mistakes.iter().map(|mistake| mistake.line(style) + "\n").collect();
        let offline = if self.offline { " (by what this program knows; no node was asked)" } else { "" };
        if self.valid {
            text.push_str(&format!("{}{offline}\n", style.paint(Paint::Good, "the configuration is right")));
        }
        text
    }
}

/// The document in force and what operators set beside it.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigView {
    /// Its revision; zero when none was ever applied.
    pub revision: u64,
    /// Its etag.
    pub etag: String,
    /// Who made it.
    #[serde(flatten)]
    pub change: ChangeView,
    /// As its author wrote it.
    pub source: String,
    /// With every default filled in.
    pub document: serde_json::Value,
    /// Beside the document.
    pub operator_state: OperatorStateView,
}

impl From<&proto::GetConfigResponse> for ConfigView {
    fn from(response: &proto::GetConfigResponse) -> Self {
        let revision = response.revision.clone().unwrap_or_default();
        Self {
            revision: revision.revision,
            etag: revision.etag,
            change: change(revision.change.as_ref()),
            source: revision.source,
            document: serde_json::from_str(&revision.document_json).unwrap_or(serde_json::Value::Null),
            operator_state: response.operator_state.as_ref().map(OperatorStateView::from).unwrap_or_default(),
        }
    }
}

impl View for ConfigView {
    fn text(&self, style: Style) -> String {
        let comment = |line: String| style.paint(Paint::Faint, &format!("# {line}")) + "\n";
        if self.revision == 0 {
            return comment("no configuration was applied yet: ballastctl apply -f FILE".to_owned())
                + &self.operator_state.lines().into_iter().map(comment).collect::<String>();
        }
        let mut text = comment(format!("revision {}, by {}", self.revision, self.change.words()));
        text.push_str(&self.source);
        if !self.source.ends_with('\n') {
            text.push('\n');
        }
        let beside = self.operator_state.lines();
        if !beside.is_empty() {
            text.push_str(&comment("set by operators beside the document; apply does not undo it:".to_owned()));
            text.extend(beside.into_iter().map(|line| comment(format!("  {line}"))));
        }
        text
    }
}

/// What operators set beside the document.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OperatorStateView {
    /// Backends that are not simply ready.
    pub backends: Vec<BackendOverride>,
    /// VIPs that were moved.
    pub vips: Vec<VipMove>,
    /// Nodes that are not simply ready.
    pub nodes: Vec<NodeOverride>,
    /// How many bindings are pinned.
    pub pinned_bindings: u64,
}

/// What an operator set of a backend.
#[derive(Clone, Debug, Serialize)]
pub struct BackendOverride {
    /// `farm/service/backend`.
    pub name: String,
    /// What is wanted of it.
    pub admin: String,
    /// Weight instead of the document's.
    pub weight: Option<u32>,
    /// Who and why.
    #[serde(flatten)]
    pub change: ChangeView,
}

/// Where an operator wants a VIP.
#[derive(Clone, Debug, Serialize)]
pub struct VipMove {
    /// Which.
    pub vip: String,
    /// Where.
    pub node: String,
    /// Who and why.
    #[serde(flatten)]
    pub change: ChangeView,
}

/// What an operator set of a node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeOverride {
    /// Which.
    pub node: String,
    /// What is wanted of it.
    pub admin: String,
    /// Who and why.
    #[serde(flatten)]
    pub change: ChangeView,
}

impl From<&proto::OperatorState> for OperatorStateView {
    fn from(state: &proto::OperatorState) -> Self {
        let backend = |o: &proto::BackendOverride| BackendOverride {
            name: o.name.clone(),
            admin: word!(proto::BackendAdmin, "BACKEND_ADMIN_", o.admin),
            weight: o.weight,
            change: change(o.change.as_ref()),
        };
        let vip = |o: &proto::VipMove| VipMove {
            vip: o.vip.clone(),
            node: o.node_name.clone(),
            change: change(o.change.as_ref()),
        };
        let node = |o: &proto::NodeOverride| NodeOverride {
            node: o.name.clone(),
            admin: word!(proto::NodeAdmin, "NODE_ADMIN_", o.admin),
            change: change(o.change.as_ref()),
        };
        Self {
            backends: state.backends.iter().map(backend).collect(),
            vips: state.vips.iter().map(vip).collect(),
            nodes: state.nodes.iter().map(node).collect(),
            pinned_bindings: state.pinned_bindings,
        }
    }
}

impl OperatorStateView {
    /// One line for each.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for backend in &self.backends {
            let weight = backend.weight.map(|weight| format!(", weight {weight}")).unwrap_or_default();
            lines.push(format!("backend {}: {}{weight}, by {}", backend.name, backend.admin, backend.change.words()));
        }
        for vip in &self.vips {
            lines.push(format!("vip {}: at {}, by {}", vip.vip, vip.node, vip.change.words()));
        }
        for node in &self.nodes {
            lines.push(format!("node {}: {}, by {}", node.node, node.admin, node.change.words()));
        }
        match self.pinned_bindings {
            0 => {}
            1 => lines.push("1 binding is pinned".to_owned()),
            n => lines.push(format!("{n} bindings are pinned")),
        }
        lines
    }
}
