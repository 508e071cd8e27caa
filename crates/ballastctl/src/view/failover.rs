//! What a failure would do, and what a trial did.

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::View;
use crate::output::{Cell, Paint, Style, Table};

/// What would happen for each node that could fail.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct PlansView(Vec<PlanView>);

/// What would happen if one node failed.
#[derive(Clone, Debug, Serialize)]
pub struct PlanView {
    /// The node.
    pub node: String,
    /// What becomes of each VIP that it holds.
    pub moves: Vec<MoveView>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
}

/// What would become of one VIP.
#[derive(Clone, Debug, Serialize)]
pub struct MoveView {
    /// Its name.
    pub vip: String,
    /// Who takes it over; absent when nobody would.
    pub to: Option<String>,
    /// Why.
    pub reason: String,
    /// Who may hold it by the log, best first.
    pub order: Vec<String>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
}

impl From<&proto::PlanFailoverResponse> for PlansView {
    fn from(response: &proto::PlanFailoverResponse) -> Self {
        let of_move = |step: &proto::FailoverMove| MoveView {
            vip: step.vip.clone(),
            to: (!step.to_name.is_empty()).then(|| step.to_name.clone()),
            reason: step.reason.clone(),
            order: step.order.clone(),
            warnings: step.warnings.clone(),
        };
        let of_plan = |plan: &proto::FailoverPlan| PlanView {
            node: plan.node_name.clone(),
            moves: plan.moves.iter().map(of_move).collect(),
            warnings: plan.warnings.clone(),
        };
        Self(response.plans.iter().map(of_plan).collect())
    }
}

impl PlansView {
    /// Whether some VIP would be held by nobody.
    pub fn leaves_any_vip(&self) -> bool {
        self.0.iter().any(|plan| plan.moves.iter().any(|step| step.to.is_none()))
    }
}

impl View for PlansView {
    fn text(&self, style: Style) -> String {
        let heads: &[&str] = if style.wide {
            &["IF FAILS", "VIP", "GOES TO", "THEN", "WHY"]
        } else {
            &["IF FAILS", "VIP", "GOES TO", "WHY"]
        };
        let mut table = Table::new(heads);
        for plan in &self.0 {
            if plan.moves.is_empty() {
                let mut cells: Vec<Cell> = vec![plan.node.clone().into(), "-".into(), "-".into()];
                cells.extend(style.wide.then(|| Cell::from("")));
                cells.push("it holds no VIP".into());
                table.row(cells);
            }
            for step in &plan.moves {
                let to = match &step.to {
                    Some(to) => to.clone().into(),
                    None => Cell::painted(Paint::Bad, "nobody"),
                };
                let mut cells: Vec<Cell> = vec![plan.node.clone().into(), step.vip.clone().into(), to];
                if style.wide {
                    let later = step.order.iter().filter(|node| Some(*node) != step.to.as_ref());
                    cells.push(later.cloned().collect::<Vec<_>>().join(",").into());
                }
                cells.push(step.reason.clone().into());
                table.row(cells);
            }
        }
        let mut text = table.render(style);
        for plan in &self.0 {
            let of_moves = plan.moves.iter().flat_map(|step| {
                step.warnings.iter().map(move |warning| format!("{}, VIP {}: {warning}", plan.node, step.vip))
            });
            let of_plan = plan.warnings.iter().map(|warning| format!("{}: {warning}", plan.node));
            for warning in of_plan.chain(of_moves) {
                text.push_str(&format!("{} if {warning}\n", style.paint(Paint::Warn, "!")));
            }
        }
        text
    }
}

/// What a failover test did.
#[derive(Clone, Debug, Serialize)]
pub struct TrialView {
    /// The VIP.
    pub vip: String,
    /// Who held it.
    pub from: String,
    /// Who holds it.
    pub to: String,
    /// The lease's epoch before.
    pub epoch_before: u64,
    /// The lease's epoch.
    pub epoch: u64,
    /// Why it changed hands, by the node that took it.
    pub cause: String,
    /// Log index of the record.
    pub log_index: u64,
    /// When it was recorded, by log time.
    pub recorded: Option<String>,
    /// From asking for the move until the record of it was seen here.
    pub recorded_after_ms: u64,
    /// What this machine saw of it; absent when it could not reach the VIP.
    pub outage: Option<OutageView>,
    /// It was moved back.
    pub returned: bool,
}

/// What clients on this machine saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutageView {
    /// Where connections went.
    pub address: String,
    /// Connections that were tried, one each 5 ms.
    pub connects: u64,
    /// Those that failed.
    pub failed: u64,
    /// How the first of them failed.
    pub first_failure: Option<String>,
    /// Longest time between two connections that came about.
    pub longest_gap_ms: f64,
}

impl View for TrialView {
    fn text(&self, _: Style) -> String {
        let mut text = format!("VIP {} went from {} to {}: {}\n", self.vip, self.from, self.to, self.cause);
        let mut line = |head: &str, what: String| text.push_str(&format!("  {head:<12} {what}\n"));
        line("epoch", format!("{} -> {}", self.epoch_before, self.epoch));
        let recorded = super::when(self.recorded.as_ref());
        line(
            "recorded",
            format!("{recorded}, log index {}, {} ms after it was asked for", self.log_index, self.recorded_after_ms),
        );
        match &self.outage {
            None => line("outage", "not measured".to_owned()),
            Some(outage) => {
                let OutageView { address, connects, failed, first_failure, longest_gap_ms } = outage;
                let first = first_failure.as_ref().map_or_else(String::new, |first| format!(" (the first: {first})"));
                line("longest gap", format!("{longest_gap_ms:.1} ms between two connects to {address}"));
                line("failed", format!("{failed} of {connects} connects{first}"));
            }
        }
        if self.returned {
            line("returned", format!("to {}", self.from));
        }
        text
    }
}
