//! The document, its revisions, and what operators set beside it.

use std::{sync::Arc, time::Duration};

use ballast_core::{
    config::{self, Document},
    ids::{LogIndex, Revision},
    state::{NodeAdmin, RevisionRecord, State},
};
use ballast_proto::admin::v1::{
    ConfigChange, ConfigDiff, NodeOverride, OperatorState, Revision as RevisionMessage, config_change::Kind,
};
use similar::TextDiff;

use super::{change, last_event_about, members, operator_backends, vips};
use crate::error::{self, ApiError, ErrorCode};

/// A document with two hundred thousand lines that all differ takes seconds to compare well; past
/// this a coarser answer is given.
const DIFF_TIME_MAX: Duration = Duration::from_millis(500);

/// A revision, copied out of the state.
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
pub fn in_force(state: &State) -> Option<Stored> {
    let record = state.revisions().next()?;
    let document = state.document()?.clone();
    Some(copy(record, document))
}

/// A revision that is still kept.
///
/// # Errors
/// `NOT_FOUND` when it never was or is no longer kept, `FAILED_PRECONDITION` when this version
/// cannot read it.
pub fn stored(state: &State, revision: Revision) -> Result<Stored, ApiError> {
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
    if let Some(document) = state.document().filter(|_| revision == state.revision()) {
        return Ok(copy(record, document.clone()));
    }
    let document = serde_json::from_str(&record.document).map_err(|e| {
        let message = format!("revision {revision} was written by another version of Ballast and cannot be read: {e}");
        error::status(ErrorCode::Precondition, message, "revision")
    })?;
    Ok(copy(record, Arc::new(document)))
}

fn copy(record: &RevisionRecord, document: Arc<Document>) -> Stored {
    Stored {
        revision: record.revision,
        index: record.index,
        change: change(record.index, record.at, &record.author),
        source: record.source.clone(),
        document,
    }
}

/// A revision in the API's form.
pub fn revision(state: &State, record: &RevisionRecord, with_text: bool) -> RevisionMessage {
    let text = |text: &String| if with_text { text.clone() } else { String::new() };
    RevisionMessage {
        revision: record.revision.get(),
        etag: config_etag(record.revision),
        change: Some(change(record.index, record.at, &record.author)),
        source: text(&record.source),
        document_json: text(&record.document),
        in_force: record.revision == state.revision(),
    }
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
