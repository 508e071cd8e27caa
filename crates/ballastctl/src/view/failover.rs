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
        for warning in self.grouped() {
            text.push_str(&format!("{} if {warning}\n", style.paint(Paint::Warn, "!")));
        }
        text
    }
}

/// What a warning is about: nodes that could fail, with the VIPs of each; none where it is about the node as a whole.
type About<'p> = Vec<(&'p str, Vec<&'p str>)>;

/// So many VIPs are named in one warning; the rest is counted.
const VIPS_NAMED: usize = 5;

impl PlansView {
    /// What an operator should look at, each once, with the failures and the VIPs that it is about: a node that is down
    /// is a warning about every VIP that it would come first for.
    fn grouped(&self) -> Vec<String> {
        let mut said: Vec<(&str, About<'_>)> = Vec::new();
        let mut say = |warning, node, vip: Option<_>| {
            let at = said.iter().position(|(known, _)| *known == warning).unwrap_or_else(|| {
                said.push((warning, Vec::new()));
                said.len() - 1
            });
            let about = &mut said[at].1;
            match about.iter_mut().find(|(known, _)| *known == node) {
                Some((_, vips)) => vips.extend(vip),
                None => about.push((node, vip.into_iter().collect())),
            }
        };
        for plan in &self.0 {
            plan.warnings.iter().for_each(|warning| say(warning.as_str(), plan.node.as_str(), None));
            for step in &plan.moves {
                step.warnings.iter().for_each(|warning| say(warning, &plan.node, Some(step.vip.as_str())));
            }
        }
        said.into_iter().map(|(warning, about)| format!("{}: {warning}", failures(about))).collect()
    }
}

/// Which failures a warning is about; those that concern the same VIPs stand together.
fn failures(about: About<'_>) -> String {
    let mut together: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    for (node, vips) in about {
        match together.iter_mut().find(|(_, known)| *known == vips) {
            Some((nodes, _)) => nodes.push(node),
            None => together.push((vec![node], vips)),
        }
    }
    let of = |(nodes, vips): (Vec<&str>, Vec<&str>)| {
        let named = vips[..vips.len().min(VIPS_NAMED)].join(", ");
        let more = vips.len().saturating_sub(VIPS_NAMED);
        let nodes = nodes.join(" or ");
        match (vips.len(), more) {
            (0, _) => nodes,
            (1, _) => format!("{nodes}, VIP {named}"),
            (_, 0) => format!("{nodes}, VIPs {named}"),
            (_, more) => format!("{nodes}, VIPs {named} and {more} more"),
        }
    };
    together.into_iter().map(of).collect::<Vec<_>>().join("; ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_about_many_vips_stands_there_once() {
        let step = |number: usize| MoveView {
            vip: format!("v{number}"),
            to: Some("c".to_owned()),
            reason: String::new(),
            order: Vec::new(),
            warnings: vec!["b comes first and does not answer".to_owned()],
        };
        let plan = |node: &str, moves: Vec<MoveView>, warnings: &[&str]| PlanView {
            node: node.to_owned(),
            moves,
            warnings: warnings.iter().map(|warning| (*warning).to_owned()).collect(),
        };
        let alone = "without it no majority is left";
        let plans = PlansView(vec![
            plan("a", (0..40).map(step).collect(), &[alone]),
            plan("b", Vec::new(), &["b does not answer already"]),
            plan("c", vec![step(40)], &[alone]),
            plan("d", vec![step(41), step(42)], &[]),
        ]);
        let expected = [
            "a or c: without it no majority is left",
            "a, VIPs v0, v1, v2, v3, v4 and 35 more; c, VIP v40; d, VIPs v41, v42: b comes first and does not answer",
            "b: b does not answer already",
        ];
        assert_eq!(plans.grouped(), expected);
    }
}
