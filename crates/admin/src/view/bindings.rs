//! Bindings.

use ballast_core::{
    config::Persistence,
    ids::{BackendId, ServiceId},
    persistence::{KeyHash, Provenance, Record},
    state::{RehomeCause, State},
    time::LogTime,
};
use ballast_proto::admin::v1 as proto;

use super::{
    backends::{full, service_named},
    timestamp,
};
use crate::error::{self, ApiError};

/// A table: its service and the service's full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The service.
    pub service: ServiceId,
    /// `farm/service`.
    pub name: String,
}

/// The tables of `farm`, `farm/service`, or all, in the order of the document.
///
/// A service without a table has none.
///
/// # Errors
/// `NOT_FOUND` when nothing of that name is configured.
pub fn tables_below(state: &State, parent: &str) -> Result<Vec<Slot>, ApiError> {
    let farms = state.document().map_or(&[][..], |document| &document.farms);
    if !parent.is_empty() && !farms.iter().any(|farm| farm.name == parent) {
        service_named(state, parent)?;
    }
    Ok(farms
        .iter()
        .flat_map(|farm| farm.services.iter().map(move |service| (farm, service)))
        .filter(|(farm, service)| {
            matches!(service.persistence, Some(Persistence::Table(_)))
                && (parent.is_empty() || parent == farm.name || parent == full(&[&farm.name, &service.name]))
        })
        .filter_map(|(farm, service)| {
            let name = full(&[&farm.name, &service.name]);
            Some(Slot { service: state.service_id(&name)?, name })
        })
        .collect())
}

/// A binding in the API's form.
pub fn binding(state: &State, slot: &Slot, key: KeyHash, record: &Record) -> proto::Binding {
    let expires = state.table_info(slot.service).and_then(|table| table.config.deadline(record));
    proto::Binding {
        service: slot.name.clone(),
        key_hash: key_hash_text(key),
        backend: backend_name(state, slot, record.backend),
        backend_id: record.backend.get(),
        pinned: record.pinned,
        created_index: record.index(state.applied()).get(),
        create_time: Some(seconds(record.created_s)),
        renew_time: Some(seconds(record.last_used_s)),
        expire_time: expires.map(timestamp),
        rehome_cause: match record.provenance {
            Provenance::Created | Provenance::Replaced | Provenance::Deleted => String::new(),
            Provenance::Rehomed(cause) => cause_word(cause).to_owned(),
        },
    }
}

/// Its own name; its id in brackets when it is no longer configured in this service.
fn backend_name(state: &State, slot: &Slot, id: BackendId) -> String {
    let known = state.backend_name(id).unwrap_or_default();
    match known.strip_prefix(&slot.name).and_then(|rest| rest.strip_prefix('/')) {
        Some(name) if super::backend(state, known).is_ok() => name.to_owned(),
        _ => format!("[{id}]"),
    }
}

fn seconds(seconds: u32) -> prost_types::Timestamp {
    timestamp(LogTime::from_millis(u64::from(seconds) * 1000))
}

/// A key's hash as it is shown.
pub fn key_hash_text(key: KeyHash) -> String {
    format!("{:032x}", key.as_u128())
}

/// A key's hash as it was shown.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn parse_key_hash(text: &str) -> Result<KeyHash, ApiError> {
    let hash = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    hash.map(KeyHash::from_u128).ok_or_else(|| {
        error::invalid(
            "key.hash",
            format!("{text:?} is not the hash of a key"),
            "it has 32 hexadecimal digits, as `ballastctl bindings list` shows",
        )
    })
}

/// Why a binding moved, as the API says it.
pub(crate) const fn cause_word(cause: RehomeCause) -> &'static str {
    match cause {
        RehomeCause::BackendDown => "backend_down",
        RehomeCause::BackendMaintenance => "backend_maintenance",
        RehomeCause::BackendRemoved => "backend_removed",
        RehomeCause::ConnectFailed => "connect_failed",
        RehomeCause::Operator => "operator",
    }
}
