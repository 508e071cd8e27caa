//! Whether a cluster is well, for monitoring.
//!
//! Not here: what is a trouble and what is not, which the node that is asked decides.

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::View;
use crate::output::{Paint, Style};

/// The judgement.
#[derive(Clone, Debug, Serialize)]
pub struct CheckView {
    /// Nothing is wrong.
    pub well: bool,
    /// Name of the leader; absent when none is known.
    pub leader_name: Option<String>,
    /// How many nodes vote.
    pub voters: usize,
    /// How many VIPs there are.
    pub vips: usize,
    /// What is wrong.
    pub troubles: Vec<TroubleView>,
}

/// Something that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct TroubleView {
    /// What it is about: `cluster`, `node NAME` or `VIP NAME`; empty when a node of an earlier version answered.
    pub object: String,
    /// What is wrong, in a sentence that names it.
    pub problem: String,
    /// What to do; empty where the sentence says it.
    pub remedy: String,
}

impl From<&proto::StatusResponse> for CheckView {
    fn from(response: &proto::StatusResponse) -> Self {
        let mut troubles: Vec<TroubleView> = response.troubles.iter().map(TroubleView::from).collect();
        if troubles.is_empty() {
            // A node of an earlier version has sentences only.
            troubles.extend(response.problems.iter().cloned().map(TroubleView::said));
        }
        let members = || response.nodes.iter().filter_map(|status| status.node.as_ref());
        Self {
            well: troubles.is_empty(),
            leader_name: members().find(|node| node.id == response.leader_id).map(|node| node.name.clone()),
            voters: response.voters.len(),
            vips: response.vips.len(),
            troubles,
        }
    }
}

impl From<&proto::Trouble> for TroubleView {
    fn from(trouble: &proto::Trouble) -> Self {
        let proto::Trouble { object, problem, remedy } = trouble.clone();
        Self { object, problem, remedy }
    }
}

impl TroubleView {
    fn said(problem: String) -> Self {
        Self { object: String::new(), problem, remedy: String::new() }
    }

    fn line(&self, style: Style) -> String {
        let problem = style.paint(Paint::Warn, &self.problem);
        if self.remedy.is_empty() { format!("{problem}\n") } else { format!("{problem} (try: {})\n", self.remedy) }
    }
}

impl View for CheckView {
    fn text(&self, style: Style) -> String {
        if self.well {
            let leader = self.leader_name.as_deref().unwrap_or("nobody");
            let well = style.paint(Paint::Good, "all is well:");
            return format!("{well} {leader} leads, voters: {}, VIPs: {}\n", self.voters, self.vips);
        }
        self.troubles.iter().map(|trouble| trouble.line(style)).collect()
    }
}
