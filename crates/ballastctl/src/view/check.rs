//! Whether a cluster is well, for monitoring.
//!
//! The first line and the exit code are what programs expect of a plugin by the convention of Nagios: a word,
//! a dash and a summary; runners show that line, and nothing of standard error.
//!
//! Not here: what is a trouble and what is not, and how bad it is, which the node that is asked decides.

use ballast_proto::admin::v1::{self as proto, status_response::Health, trouble::Severity};
use serde::Serialize;

use super::View;
use crate::{
    failure::{Exit, Failure},
    output::{Paint, Style},
};

/// The judgement.
#[derive(Clone, Debug, Serialize)]
pub struct CheckView {
    /// The judgement in a word.
    pub status: CheckStatus,
    /// Nothing is wrong.
    pub well: bool,
    /// Name of the leader; absent when none is known.
    pub leader_name: Option<String>,
    /// How many nodes vote.
    pub voters: usize,
    /// How many VIPs there are.
    pub vips: usize,
    /// What is wrong, the worst first.
    pub troubles: Vec<TroubleView>,
}

/// How a cluster is, in the words of monitoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// Nothing is wrong.
    Ok,
    /// Clients are served, and something wants attention.
    Warning,
    /// Nothing can be changed, or a VIP has no owner or several.
    Critical,
    /// Nobody could be asked.
    Unknown,
}

/// Something that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct TroubleView {
    /// What it is about: `cluster`, `node NAME` or `VIP NAME`; empty when a node of an earlier version answered, or none.
    pub object: String,
    /// What is wrong, in a sentence that names it.
    pub problem: String,
    /// What to do; empty where the sentence says it.
    pub remedy: String,
    /// It is one of those for which the whole is critical.
    pub critical: bool,
}

impl From<&proto::StatusResponse> for CheckView {
    fn from(response: &proto::StatusResponse) -> Self {
        let mut troubles: Vec<TroubleView> = response.troubles.iter().map(TroubleView::from).collect();
        if troubles.is_empty() {
            // A node of an earlier version has sentences only.
            troubles.extend(response.problems.iter().cloned().map(TroubleView::said));
        }
        troubles.sort_by_key(|trouble| !trouble.critical);
        let critical = response.health() == Health::NoQuorum || troubles.iter().any(|trouble| trouble.critical);
        let status = match troubles.is_empty() {
            _ if critical => CheckStatus::Critical,
            true => CheckStatus::Ok,
            false => CheckStatus::Warning,
        };
        let members = || response.nodes.iter().filter_map(|status| status.node.as_ref());
        Self {
            status,
            well: status == CheckStatus::Ok,
            leader_name: members().find(|node| node.id == response.leader_id).map(|node| node.name.clone()),
            voters: response.voters.len(),
            vips: response.vips.len(),
            troubles,
        }
    }
}

impl From<&Failure> for CheckView {
    fn from(failure: &Failure) -> Self {
        let remedy = failure.remedies().first().cloned().unwrap_or_default();
        let told = TroubleView { remedy, ..TroubleView::said(failure.message().replace('\n', " ")) };
        let (status, troubles) = (CheckStatus::Unknown, vec![told]);
        Self { status, well: false, leader_name: None, voters: 0, vips: 0, troubles }
    }
}

impl CheckStatus {
    /// How the program ends.
    pub const fn exit(self) -> Exit {
        match self {
            Self::Ok => Exit::Done,
            Self::Warning => Exit::Error,
            Self::Critical => Exit::Usage,
            Self::Unknown => Exit::Invalid,
        }
    }

    const fn head(self) -> (&'static str, Paint) {
        match self {
            Self::Ok => ("OK", Paint::Good),
            Self::Warning => ("WARNING", Paint::Warn),
            Self::Critical => ("CRITICAL", Paint::Bad),
            Self::Unknown => ("UNKNOWN", Paint::Warn),
        }
    }
}

impl From<&proto::Trouble> for TroubleView {
    fn from(trouble: &proto::Trouble) -> Self {
        let critical = trouble.severity() == Severity::Critical;
        let proto::Trouble { object, problem, remedy, .. } = trouble.clone();
        Self { object, problem, remedy, critical }
    }
}

impl TroubleView {
    fn said(problem: String) -> Self {
        Self { object: String::new(), problem, remedy: String::new(), critical: false }
    }

    fn line(&self) -> String {
        let Self { problem, remedy, .. } = self;
        if remedy.is_empty() { format!("{problem}\n") } else { format!("{problem} (try: {remedy})\n") }
    }
}

impl View for CheckView {
    fn text(&self, style: Style) -> String {
        let (word, paint) = self.status.head();
        let head = style.paint(paint, word);
        match self.troubles.as_slice() {
            [] if self.well => {
                let leader = self.leader_name.as_deref().unwrap_or("nobody");
                format!("{head} - {leader} leads, voters: {}, VIPs: {}\n", self.voters, self.vips)
            }
            [] => format!("{head} - no majority of the voters answers\n"),
            [only] => format!("{head} - {}", only.line()),
            several => {
                let lines: String = several.iter().map(TroubleView::line).collect();
                format!("{head} - {} troubles\n{lines}", several.len())
            }
        }
    }
}
