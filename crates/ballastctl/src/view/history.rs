//! What was changed, when, by whom and why: revisions, changes of hands, events.

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::{ChangeView, DiffView, Row, View, change, when};
use crate::output::{Cell, Paint, Style};

/// A revision of the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct RevisionView {
    /// Its number.
    pub revision: u64,
    /// Its etag.
    pub etag: String,
    /// It is the one in force.
    pub in_force: bool,
    /// Who, why and when.
    #[serde(flatten)]
    pub change: ChangeView,
}

impl From<&proto::Revision> for RevisionView {
    fn from(revision: &proto::Revision) -> Self {
        Self {
            revision: revision.revision,
            etag: revision.etag.clone(),
            in_force: revision.in_force,
            change: change(revision.change.as_ref()),
        }
    }
}

impl Row for RevisionView {
    const NONE: &'static str = "no configuration was applied yet";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide {
            &["REVISION", "TIME", "AUTHOR", "INDEX", "ETAG", "MESSAGE"]
        } else {
            &["REVISION", "TIME", "AUTHOR", "MESSAGE"]
        }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let revision = if self.in_force {
            Cell::painted(Paint::Good, format!("{} (in force)", self.revision))
        } else {
            self.revision.to_string().into()
        };
        let mut cells: Vec<Cell> =
            vec![revision, when(self.change.time.as_ref()).into(), self.change.author.clone().into()];
        if wide {
            cells.extend([Cell::number(self.change.log_index), self.etag.clone().into()]);
        }
        cells.push(self.change.message.clone().into());
        cells
    }
}

/// A revision with its text and what it changed.
#[derive(Clone, Debug, Serialize)]
pub struct RevisionDetail {
    /// The revision.
    #[serde(flatten)]
    pub revision: RevisionView,
    /// As its author wrote it.
    pub source: String,
    /// With every default filled in.
    pub document: serde_json::Value,
    /// What it changed; absent when the revision before is not kept.
    pub diff: Option<DiffView>,
}

impl View for RevisionDetail {
    fn text(&self, style: Style) -> String {
        let head = |line: &str| style.paint(Paint::Faint, &format!("# {line}")) + "\n";
        let in_force = if self.revision.in_force { " (in force)" } else { "" };
        let mut text =
            head(&format!("revision {}{in_force}, by {}", self.revision.revision, self.revision.change.words()));
        if let Some(diff) = &self.diff {
            text.extend(diff.text(style).lines().map(|line| head(&format!("  {line}"))));
        }
        text.push_str(&self.source);
        if !self.source.ends_with('\n') {
            text.push('\n');
        }
        text
    }
}

/// A revision was made.
#[derive(Clone, Debug, Serialize)]
pub struct RevisionChange {
    /// The revision.
    #[serde(flatten)]
    pub revision: RevisionView,
    /// What it changed.
    pub diff: DiffView,
}

impl From<&proto::WatchConfigResponse> for RevisionChange {
    fn from(response: &proto::WatchConfigResponse) -> Self {
        Self {
            revision: response
                .revision
                .as_ref()
                .map(RevisionView::from)
                .unwrap_or_else(|| RevisionView::from(&proto::Revision::default())),
            diff: response.diff.as_ref().map(DiffView::from).unwrap_or_default(),
        }
    }
}

impl View for RevisionChange {
    fn text(&self, style: Style) -> String {
        let head = format!("revision {}, by {}", self.revision.revision, self.revision.change.words());
        let mut text = style.paint(Paint::Strong, &head) + "\n";
        text.extend(self.diff.lines(style).lines().map(|line| format!("  {line}\n")));
        text
    }
}

/// A VIP changed hands.
#[derive(Clone, Debug, Serialize)]
pub struct TransitionView {
    /// Which VIP.
    pub vip: String,
    /// Its new owner; zero when it was given up.
    pub owner: u64,
    /// Its name; absent when it was given up, or the owner is a member no longer.
    pub owner_name: Option<String>,
    /// The lease's epoch.
    pub epoch: u64,
    /// Why.
    pub cause: String,
    /// The VIP is configured no longer.
    pub removed: bool,
    /// When it was recorded.
    #[serde(flatten)]
    pub change: ChangeView,
}

impl From<&proto::VipTransition> for TransitionView {
    fn from(transition: &proto::VipTransition) -> Self {
        Self {
            vip: transition.vip.clone(),
            owner: transition.owner_id,
            owner_name: (!transition.owner_name.is_empty()).then(|| transition.owner_name.clone()),
            epoch: transition.epoch,
            cause: transition.cause.clone(),
            removed: transition.removed,
            change: change(transition.change.as_ref()),
        }
    }
}

impl TransitionView {
    fn owner_words(&self) -> Option<String> {
        owner_words(self.owner, self.owner_name.as_deref())
    }

    fn vip_words(&self) -> String {
        if self.removed { format!("{} (removed)", self.vip) } else { self.vip.clone() }
    }
}

/// An owner by its name, or by its id when it is a member no longer; nothing when there is none.
pub(super) fn owner_words(id: u64, name: Option<&str>) -> Option<String> {
    match name {
        Some(name) => Some(name.to_owned()),
        None => (id != 0).then(|| format!("id {id} (removed)")),
    }
}

impl Row for TransitionView {
    const NONE: &'static str = "no change of hands is recorded";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide {
            &["TIME", "VIP", "OWNER", "EPOCH", "INDEX", "WHY"]
        } else {
            &["TIME", "VIP", "OWNER", "EPOCH", "WHY"]
        }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let owner = match self.owner_words() {
            Some(name) => Cell::from(name),
            None => Cell::painted(Paint::Bad, "nobody"),
        };
        let mut cells = vec![when(self.change.time.as_ref()).into(), self.vip_words().into(), owner];
        cells.push(Cell::number(self.epoch));
        if wide {
            cells.push(Cell::number(self.change.log_index));
        }
        cells.push(self.cause.clone().into());
        cells
    }
}

impl View for TransitionView {
    fn text(&self, _: Style) -> String {
        let owner = self.owner_words().unwrap_or_else(|| "nobody".to_owned());
        let (time, epoch) = (when(self.change.time.as_ref()), self.epoch);
        format!("{time}  {} -> {owner}, epoch {epoch}: {}\n", self.vip_words(), self.cause)
    }
}

/// Something that the log says happened.
#[derive(Clone, Debug, Serialize)]
pub struct EventView {
    /// In the past tense.
    pub kind: String,
    /// About what.
    pub subject: String,
    /// In words.
    pub text: String,
    /// Its place among the events of its log entry.
    pub ordinal: u32,
    /// Who, why and when.
    #[serde(flatten)]
    pub change: ChangeView,
}

impl From<&proto::Event> for EventView {
    fn from(event: &proto::Event) -> Self {
        Self {
            kind: event.kind.clone(),
            subject: event.subject.clone(),
            text: event.text.clone(),
            ordinal: event.ordinal,
            change: change(event.change.as_ref()),
        }
    }
}

impl EventView {
    /// What happened, and why when somebody said so.
    fn words(&self) -> String {
        let Self { text, change, .. } = self;
        if change.message.is_empty() { text.clone() } else { format!("{text} ({})", change.message) }
    }
}

impl Row for EventView {
    const NONE: &'static str = "no events";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide {
            &["TIME", "INDEX", "KIND", "SUBJECT", "AUTHOR", "WHAT"]
        } else {
            &["TIME", "KIND", "SUBJECT", "AUTHOR", "WHAT"]
        }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let mut cells: Vec<Cell> = vec![when(self.change.time.as_ref()).into()];
        if wide {
            cells.push(Cell::number(self.change.log_index));
        }
        cells.extend([
            self.kind.clone().into(),
            self.subject.clone().into(),
            self.change.author.clone().into(),
            self.words().into(),
        ]);
        cells
    }
}

impl View for EventView {
    fn text(&self, _: Style) -> String {
        let (time, author) = (when(self.change.time.as_ref()), &self.change.author);
        format!("{time}  {}  {}  by {author}: {}\n", self.kind, self.subject, self.words())
    }
}
