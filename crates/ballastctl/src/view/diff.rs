//! Differences of documents.

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::{ChangeView, View};
use crate::output::{Paint, Style};

/// What differs between two documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffView {
    /// True when nothing differs.
    pub equal: bool,
    /// Older side; zero when nothing was in force.
    pub from_revision: u64,
    /// Newer side; zero when it is a text that is not applied.
    pub to_revision: u64,
    /// By object.
    pub changes: Vec<ChangeLine>,
    /// The texts.
    pub unified: String,
    /// Who made the newer side, when it is a revision.
    pub made_by: Option<ChangeView>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangeLine {
    /// What happens.
    pub kind: ChangeKind,
    /// To what.
    pub path: String,
    /// Value before; absent when added.
    pub before: Option<serde_json::Value>,
    /// Value after; absent when removed.
    pub after: Option<serde_json::Value>,
}

/// What happens to an object or field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It has another value.
    Changed,
}

impl From<&proto::ConfigDiff> for DiffView {
    fn from(diff: &proto::ConfigDiff) -> Self {
        Self {
            equal: diff.changes.is_empty() && diff.unified.is_empty(),
            from_revision: diff.from_revision,
            to_revision: diff.to_revision,
            changes: diff.changes.iter().map(ChangeLine::from).collect(),
            unified: diff.unified.clone(),
            made_by: diff.made_by.as_ref().map(ChangeView::from),
        }
    }
}

impl From<&proto::ConfigChange> for ChangeLine {
    fn from(change: &proto::ConfigChange) -> Self {
        let value = |json: &str| {
            (!json.is_empty()).then(|| serde_json::from_str(json).unwrap_or_else(|_| serde_json::Value::from(json)))
        };
        let kind = match change.kind() {
            proto::config_change::Kind::Added => ChangeKind::Added,
            proto::config_change::Kind::Removed => ChangeKind::Removed,
            proto::config_change::Kind::Changed | proto::config_change::Kind::Unspecified => ChangeKind::Changed,
        };
        Self { kind, path: change.path.clone(), before: value(&change.before), after: value(&change.after) }
    }
}

impl ChangeLine {
    /// `~ farms/shop/services/site/backends/web1/weight: 100 -> 50`
    pub fn line(&self, style: Style) -> String {
        let brief = |value: &Option<serde_json::Value>| {
            value.as_ref().map(|value| brief(value, style.wide)).unwrap_or_default()
        };
        match self.kind {
            ChangeKind::Added => style.paint(Paint::Good, &with_value("+", &self.path, &brief(&self.after))),
            ChangeKind::Removed => style.paint(Paint::Bad, &with_value("-", &self.path, &brief(&self.before))),
            ChangeKind::Changed => {
                let values = format!("{} -> {}", brief(&self.before), brief(&self.after));
                style.paint(Paint::Warn, &with_value("~", &self.path, &values))
            }
        }
    }
}

fn with_value(sign: &str, path: &str, value: &str) -> String {
    if value.is_empty() { format!("{sign} {path}") } else { format!("{sign} {path}: {value}") }
}

/// A value for a line: whole objects are told by what they are, not by all that they contain.
fn brief(value: &serde_json::Value, wide: bool) -> String {
    const CHARACTERS_MAX: usize = 60;
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Object(entries) if !wide => {
            return entries.get("address").and_then(|address| address.as_str()).unwrap_or_default().to_owned();
        }
        other => other.to_string(),
    };
    if wide || text.chars().count() <= CHARACTERS_MAX {
        return text.replace('\n', "\\n");
    }
    text.chars().take(CHARACTERS_MAX).chain("...".chars()).collect::<String>().replace('\n', "\\n")
}

impl DiffView {
    /// The changes, one a line; with `wide` the texts below.
    pub fn lines(&self, style: Style) -> String {
        let mut text: String = self.changes.iter().map(|change| change.line(style) + "\n").collect();
        if style.wide || self.changes.is_empty() {
            text.push_str(&unified(&self.unified, style));
        }
        text
    }

    /// Whether a node has left some of it out, which it does in a refusal when there is much: first of all the texts.
    pub fn is_shortened(&self) -> bool {
        self.unified.is_empty() && self.from_revision != self.to_revision
    }

    /// The command that shows all of it.
    pub fn command(&self) -> String {
        match self.from_revision {
            0 => format!("ballastctl export --revision {}", self.to_revision),
            from => format!("ballastctl diff --from {from} --to {}", self.to_revision),
        }
    }

    /// What happened in the meantime, for somebody who lost a race.
    pub fn conflict(&self, style: Style) -> String {
        let mut text = format!("revision {} is in force", self.to_revision);
        if let Some(by) = &self.made_by {
            text.push_str(&format!(", by {}", by.words()));
        }
        text.push('\n');
        if self.changes.is_empty() && self.unified.is_empty() {
            return text;
        }
        text.push_str(&match self.from_revision {
            0 => "what it has:\n".to_owned(),
            from => format!("what changed since revision {from}:\n"),
        });
        text.push_str(&self.lines(style));
        text
    }
}

impl View for DiffView {
    fn text(&self, style: Style) -> String {
        if self.equal {
            return "no differences\n".to_owned();
        }
        if self.changes.is_empty() {
            // Comments and order are kept too, though they change nothing that is served.
            return format!("only the text differs, not what it means\n{}", self.lines(style));
        }
        self.lines(style)
    }
}

/// A unified diff in colours.
fn unified(diff: &str, style: Style) -> String {
    let paint = |line: &str| match line.as_bytes().first() {
        Some(b'+') => Paint::Good,
        Some(b'-') => Paint::Bad,
        Some(b'@') => Paint::Faint,
        _ => Paint::Plain,
    };
    diff.lines().map(|line| style.paint(paint(line), line) + "\n").collect()
}
