//! The agreed state in the API's form.
//!
//! The only place that knows both the state machine's types and the messages. Functions here read
//! and copy; they decide nothing and wait for nothing, because they run while the state is held.
//! What takes long, [`Kept::read`] and [`diff`], needs no state and is for after that.

mod backends;
mod bindings;
mod config;
mod events;
mod members;
mod page;
mod sessions;
mod users;
mod vips;

use std::time::Duration;

use ballast_core::{
    ids::{LogIndex, NodeId},
    state::{Author, State},
    time::LogTime,
};
use ballast_proto::admin::v1::{Change, ResponseHeader};
use prost_types::Timestamp;

pub use backends::{admin_of, backend, backends, eligibility, operator_backends, panicking, service_named, verdict_of};
pub use bindings::{Slot, binding, key_hash_text, parse_key_hash, tables_below};
pub use config::{
    Kept, Step, Stored, config_etag, diff, in_force, kept, next_steps, older_than, operator_state, revision,
    revision_of_etag,
};
pub use events::{Names, events, events_after, last_event_about};
pub use members::{find_node, find_node_exactly, listener_problem, node, node_info, node_name, nodes, role_from};
pub use page::Page;
pub use sessions::{keyspace_named, keyspaces, session_key, session_stats, session_value};
pub use users::{FoundUsers, find_users, fingerprint_text, users};
pub use vips::{check_place, fitness, standing, transitions, vip, vips};

use crate::{
    error::{self, ApiError, ErrorCode},
    node::LocalStatus,
};

/// Where an answer comes from.
pub fn header(state: &State, status: &LocalStatus) -> ResponseHeader {
    ResponseHeader {
        cluster_id: state.cluster().map_or_else(String::new, |cluster| cluster.id.clone()),
        node_id: status.node.get(),
        node_name: node_name(state, status.node).unwrap_or_default(),
        applied_index: state.applied().get(),
        log_time: Some(timestamp(state.log_time())),
        leader_id: status.leader.map_or(0, NodeId::get),
        term: status.term,
        revision: state.revision().get(),
        consistency: 0,
    }
}

/// Index of the last entry applied.
pub fn applied(state: &State) -> LogIndex {
    state.applied()
}

/// How recently a state must have been confirmed to count as fresh.
pub fn freshness(state: &State) -> Duration {
    let document = state.document();
    document
        .map_or_else(|| ballast_core::config::Cluster::default().freshness, |document| document.cluster.freshness)
        .duration()
}

/// Log time in the API's form.
pub fn timestamp(time: LogTime) -> Timestamp {
    let millis = time.as_millis();
    Timestamp {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0),
    }
}

/// Who, why and when.
pub fn change(index: LogIndex, at: LogTime, author: &Author) -> Change {
    Change {
        log_index: index.get(),
        log_time: Some(timestamp(at)),
        author: author.name.clone(),
        message: author.message.clone(),
    }
}

/// A length of time that a caller sent.
///
/// # Errors
/// `INVALID_ARGUMENT` when it is negative or not one.
pub fn duration(path: &str, sent: Option<prost_types::Duration>) -> Result<Option<Duration>, ApiError> {
    sent.map(|sent| {
        Duration::try_from(sent).map_err(|e| error::invalid(path, e.to_string(), "send a positive length of time"))
    })
    .transpose()
}

/// Refuses when the caller knows an older form of an object. A change that passes says what it expects of what was read
/// here, and is refused by the log once another one has come before it ([`overtaken`]).
///
/// # Errors
/// `ABORTED`.
pub fn check_etag(known: &str, current: &str, name: &str) -> Result<(), ApiError> {
    if known.is_empty() || known == current { Ok(()) } else { Err(stale(known, name)) }
}

/// A refusal by the log, because the object was changed since it was read, in the words of [`check_etag`]. Other errors
/// stay as they are.
pub fn overtaken(error: ApiError, known: &str, name: &str) -> ApiError {
    if error.code() == ErrorCode::EtagConflict { stale(known, name) } else { error }
}

fn stale(known: &str, name: &str) -> ApiError {
    error::status(ErrorCode::EtagConflict, format!("{name} was changed since etag {known:?} was read"), name)
}

/// A short text that differs when any of the parts does.
fn etag(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}
