//! Why a request goes where it goes.

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::{BindingView, View, seconds, time, word};
use crate::output::{Paint, Style};

/// What would happen to a request, and why.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainView {
    /// In one sentence.
    pub conclusion: String,
    /// `bound`, `rehomed`, `new_binding`, `balanced`, `fallback` or `refused`.
    pub result: String,
    /// The service that takes it; empty when none does.
    pub service: String,
    /// The backend that serves it; empty when any of several may, or none.
    pub backend: String,
    /// Backends that a client without binding can be given to.
    pub candidates: Vec<String>,
    /// The binding that decides.
    pub binding: Option<BindingView>,
    /// In the order in which it is decided.
    pub steps: Vec<StepView>,
    /// The node that says so.
    pub node_name: String,
    /// Last log entry that the answer includes.
    pub applied_index: u64,
}

/// One decision.
#[derive(Clone, Debug, Serialize)]
pub struct StepView {
    /// About what.
    pub subject: String,
    /// In words.
    pub text: String,
    /// Log index of the entry that it follows from; zero when it follows from none.
    pub log_index: u64,
    /// Its log time.
    pub time: Option<String>,
    /// Who made that entry.
    pub author: String,
    /// Why.
    pub cause: String,
}

impl From<&proto::ExplainResponse> for ExplainView {
    fn from(response: &proto::ExplainResponse) -> Self {
        let header = response.header.clone().unwrap_or_default();
        Self {
            conclusion: response.conclusion.clone(),
            result: word!(proto::explain_response::Result, "RESULT_", response.result),
            service: response.service.clone(),
            backend: response.backend.clone(),
            candidates: response.candidates.clone(),
            binding: response.binding.as_ref().map(BindingView::from),
            steps: response.steps.iter().map(StepView::from).collect(),
            node_name: header.node_name,
            applied_index: header.applied_index,
        }
    }
}

impl From<&proto::ExplainStep> for StepView {
    fn from(step: &proto::ExplainStep) -> Self {
        Self {
            subject: step.subject.clone(),
            text: step.text.clone(),
            log_index: step.log_index,
            time: time(step.log_time.as_ref()),
            author: step.author.clone(),
            cause: step.cause.clone(),
        }
    }
}

impl StepView {
    /// Which entry of the log it follows from, and who made that and why.
    fn because(&self) -> String {
        let mut parts = Vec::new();
        if self.log_index > 0 {
            parts.push(format!("log index {}", self.log_index));
        }
        parts.extend(self.time.as_deref().map(seconds));
        if !self.author.is_empty() {
            parts.push(format!("by {}", self.author));
        }
        if !self.cause.is_empty() {
            parts.push(self.cause.clone());
        }
        parts.join(", ")
    }
}

impl View for ExplainView {
    fn text(&self, style: Style) -> String {
        let paint = match self.result.as_str() {
            "fallback" | "refused" => Paint::Bad,
            "rehomed" => Paint::Warn,
            _ => Paint::Good,
        };
        let mut text = style.paint(paint, &self.conclusion) + "\n\n";
        let width = self.steps.iter().map(|step| step.subject.chars().count()).max().unwrap_or(0);
        for step in &self.steps {
            text.push_str(&format!("  {:<width$}  {}\n", step.subject, step.text));
            let because = step.because();
            if !because.is_empty() {
                text.push_str(&format!("  {:<width$}  {}\n", "", style.paint(Paint::Faint, &format!("({because})"))));
            }
        }
        if self.candidates.len() > 1 && self.backend.is_empty() {
            text.push_str(&format!("\ncandidates: {}\n", self.candidates.join(", ")));
        }
        text.push_str(&format!("\nby {} at log index {}\n", self.node_name, self.applied_index));
        text
    }
}
