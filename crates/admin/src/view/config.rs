//! The document, its revisions, and what operators set beside it.

use std::{sync::Arc, time::Duration};

use ballast_core::{
    config::{self, Document},
    ids::{LogIndex, Revision},
    state::{NodeAdmin, RevisionRecord, State},
};
use ballast_proto::admin::v1::{
    ConfigChange, ConfigDiff, NodeOverride, OperatorState, ResponseHeader, Revision as RevisionMessage,
    WatchConfigResponse, config_change::Kind,
};
use similar::TextDiff;

use super::{change, last_event_about, members, operator_backends, vips};
use crate::error::{self, ApiError, ErrorCode};

/// A document with two hundred thousand lines that all differ takes seconds to compare well; past
/// this a coarser answer is given.
const DIFF_TIME_MAX: Duration = Duration::from_millis(500);

/// A revision as the state keeps it, to be read once the state is let go: a large document takes tenths of a second.
#[derive(Clone, Debug)]
pub struct Kept {
    record: Arc<RevisionRecord>,
    /// The document, if it is in force.
    in_force: Option<Arc<Document>>,
}

/// A revision that was read.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its number.
    pub revision: Revision,
    /// The entry that put it in force.
    pub index: LogIndex,
    /// Who, why and when.
    pub change: ballast_proto::admin::v1::Change,
    /// The text as its author wrote it.
    pub source: String,
    /// The document.
    pub document: Arc<Document>,
}

/// The revision in force.
pub fn in_force(state: &State) -> Option<Kept> {
    state.revisions().next().map(|record| Kept::new(state, record))
}

/// The revision that was in force before another, as far as it is kept.
pub fn older_than(state: &State, revision: Revision) -> Option<Kept> {
    state.revisions().find(|older| older.revision < revision).map(|record| Kept::new(state, record))
}

/// A revision that is still kept.
///
/// # Errors
/// `NOT_FOUND` when it never was or is no longer kept.
pub fn kept(state: &State, revision: Revision) -> Result<Kept, ApiError> {
    let record = state.revision_record(revision).ok_or_else(|| {
        let error =
            error::status(ErrorCode::NotFound, format!("revision {revision} is not (or no longer) kept"), "revision");
        match (state.revisions().last(), state.revisions().next()) {
            (Some(oldest), Some(newest)) => {
                error.remedy(format!("there are {} to {}", oldest.revision, newest.revision))
            }
            _ => error.remedy("no configuration was applied yet"),
        }
    })?;
    Ok(Kept::new(state, record))
}

impl Kept {
    fn new(state: &State, record: &Arc<RevisionRecord>) -> Self {
        let in_force = state.document().filter(|_| record.revision == state.revision()).cloned();
        Self { record: Arc::clone(record), in_force }
    }

    /// Reads it.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when this version cannot.
    pub fn read(self) -> Result<Stored, ApiError> {
        let Self { record, in_force } = self;
        let document = match in_force {
            Some(document) => document,
            None => Arc::new(serde_json::from_str(&record.document).map_err(|e| unreadable(record.revision, &e))?),
        };
        Ok(Stored {
            revision: record.revision,
            index: record.index,
            change: change(record.index, record.at, &record.author),
            source: record.source.clone(),
            document,
        })
    }

    /// In the API's form.
    pub fn message(&self, with_text: bool) -> RevisionMessage {
        let record = &self.record;
        let text = |text: &String| if with_text { text.clone() } else { String::new() };
        RevisionMessage {
            revision: record.revision.get(),
            etag: config_etag(record.revision),
            change: Some(change(record.index, record.at, &record.author)),
            source: text(&record.source),
            document_json: text(&record.document),
            in_force: self.in_force.is_some(),
        }
    }
}

fn unreadable(revision: Revision, cause: &serde_json::Error) -> ApiError {
    let message = format!("revision {revision} was written by another version of Ballast and cannot be read: {cause}");
    error::status(ErrorCode::Precondition, message, "revision")
}

/// A revision in the API's form.
pub fn revision(state: &State, record: &Arc<RevisionRecord>, with_text: bool) -> RevisionMessage {
    Kept::new(state, record).message(with_text)
}

/// A revision, and the one that it took the place of, as far as that is kept.
#[derive(Clone, Debug)]
pub struct Step {
    older: Option<Kept>,
    newer: Kept,
}

impl Step {
    /// As a watch tells it. Takes long: documents are read and compared.
    pub fn tell(self, header: ResponseHeader, with_text: bool) -> WatchConfigResponse {
        let revision = self.newer.message(with_text);
        let older = self.older.and_then(|older| older.read().ok());
        let newer = self.newer.read().ok();
        let diff = newer.map(|newer| diff(older.as_ref(), Some(&newer), &newer.source, &newer.document));
        WatchConfigResponse { header: Some(header), revision: Some(revision), diff }
    }
}

/// The revisions that the next entry after an index made, oldest first: one, as a rule. With that entry, if later ones made
/// more.
pub fn next_steps(state: &State, after: LogIndex) -> (Vec<Step>, Option<LogIndex>) {
    let newer = || state.revisions().take_while(move |record| record.index > after);
    let Some(next) = newer().map(|record| record.index).last() else { return (Vec::new(), None) };
    let made = newer().filter(|record| record.index == next);
    let step = |record: &Arc<RevisionRecord>| Step {
        older: older_than(state, record.revision),
        newer: Kept::new(state, record),
    };
    let mut steps: Vec<Step> = made.map(step).collect();
    steps.reverse();
    let newest = newer().next().map(|record| record.index);
    (steps, Some(next).filter(|next| newest > Some(*next)))
}

/// The etag of a revision.
pub fn config_etag(revision: Revision) -> String {
    format!("r{revision}")
}

/// The revision that an etag names.
pub fn revision_of_etag(etag: &str) -> Option<Revision> {
    etag.strip_prefix('r')?.parse().ok().map(Revision::new)
}

/// How a document differs from an older revision (or from nothing). `newer` is what it is stored
/// as, if it is.
pub fn diff(older: Option<&Stored>, newer: Option<&Stored>, source: &str, document: &Document) -> ConfigDiff {
    let (old_document, old_source) = match older {
        Some(older) => (older.document.clone(), older.source.as_str()),
        None => (Arc::new(nothing()), ""),
    };
    let name = |stored: Option<&Stored>, else_: &str| {
        stored.map_or_else(|| else_.to_owned(), |stored| format!("revision {}", stored.revision))
    };
    let text = TextDiff::configure().timeout(DIFF_TIME_MAX).diff_lines(old_source, source);
    let unified = if old_source == source {
        String::new()
    } else {
        text.unified_diff().context_radius(3).header(&name(older, "nothing"), &name(newer, "new")).to_string()
    };
    ConfigDiff {
        from_revision: older.map_or(0, |stored| stored.revision.get()),
        to_revision: newer.map_or(0, |stored| stored.revision.get()),
        changes: config::diff(&old_document, document).into_iter().map(config_change).collect(),
        unified,
        made_by: newer.map(|stored| stored.change.clone()),
    }
}

fn nothing() -> Document {
    Document { version: 1, cluster: config::Cluster::default(), vips: Vec::new(), farms: Vec::new(), sessions: None }
}

fn config_change(found: config::Change) -> ConfigChange {
    let (kind, path, before, after) = match found {
        config::Change::Added { path, new } => (Kind::Added, path, String::new(), new),
        config::Change::Removed { path, old } => (Kind::Removed, path, old, String::new()),
        config::Change::Changed { path, old, new } => (Kind::Changed, path, old, new),
    };
    ConfigChange { kind: kind.into(), path, before, after }
}

/// What operators set beside the document. Pinned bindings are counted by the caller, page by
/// page, because there may be millions to look through.
pub fn operator_state(state: &State) -> OperatorState {
    let nodes = state.nodes().filter(|node| node.admin != NodeAdmin::Ready).map(|node| NodeOverride {
        node_id: node.id.get(),
        name: node.info.name.clone(),
        admin: members::admin(node.admin).into(),
        change: last_event_about(state, ballast_core::state::Subject::Node(node.id)),
    });
    OperatorState {
        backends: operator_backends(state),
        vips: vips::moves(state),
        nodes: nodes.collect(),
        pinned_bindings: 0,
    }
}
