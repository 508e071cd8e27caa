//! The binding tables as the proxy's workers see them.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{
    KeyHash, Provenance,
    table::{Table, seconds},
};
use crate::{
    ids::{BackendId, ServiceId},
    time::LogTime,
};

/// Readers take a binding for ended this long before its end, because they only estimate log time.
/// A miss is always safe: the log says what is so.
const READ_MARGIN_MS: u64 = 1000;

/// All binding tables of this process, for any number of readers. Follows the state machine also
/// when a snapshot replaces the state ([`crate::state::State::replace`]).
#[derive(Debug, Default)]
pub struct Tables {
    /// Sorted by service.
    list: ArcSwap<Vec<(ServiceId, Arc<Table>)>>,
}

/// A binding as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingView {
    /// The backend that the key is bound to.
    pub backend: BackendId,
    /// A pinned binding never expires.
    pub pinned: bool,
    /// How it came to this backend.
    pub provenance: Provenance,
    /// Low half of the index of the entry that bound it to this backend.
    pub index_low: u32,
    /// When it was last used or renewed, to the second.
    pub last_used: LogTime,
    /// When it came to this backend, to the second.
    pub created: LogTime,
    /// More than a quarter of the idle time has passed since: renew it.
    pub renew_due: bool,
}

impl Tables {
    /// The binding of `key`, unless it has ended or ends within the second (a quarter of the idle
    /// time, if that is less). `now` is the caller's estimate of log time. Takes no lock.
    pub fn lookup(&self, service: ServiceId, key: KeyHash, now: LogTime) -> Option<BindingView> {
        let list = self.list.load();
        let at = list.binary_search_by_key(&service, |(id, _)| *id).ok()?;
        let table = &list[at].1;
        let record = table.get(key)?;
        let lifetimes = table.lifetimes();
        let margin = READ_MARGIN_MS.min(lifetimes.idle_ms / 4);
        if !lifetimes.is_live(&record, now.plus_millis(margin)) {
            return None;
        }
        let last_used = seconds(record.last_used_s);
        Some(BindingView {
            backend: record.backend,
            pinned: record.pinned,
            provenance: record.provenance,
            index_low: record.index_low,
            last_used,
            created: seconds(record.created_s),
            renew_due: !record.pinned && now.millis_since(last_used) > lifetimes.idle_ms / 4,
        })
    }

    /// Whether there is no room for `key`, as far as this replica knows: it is not there, and what is leaves no more of what the
    /// table may hold than `kept` hundredths, which are for others. A table has room for one at least.
    pub fn is_full(&self, service: ServiceId, key: KeyHash, kept: u64) -> bool {
        let list = self.list.load();
        let Ok(at) = list.binary_search_by_key(&service, |(id, _)| *id) else { return false };
        let table = &list[at].1;
        let (len, max) = table.room();
        len >= max - max / 100 * kept.min(99) && table.get(key).is_none()
    }

    pub(super) fn publish(&self, list: Vec<(ServiceId, Arc<Table>)>) {
        self.list.store(Arc::new(list));
    }
}
