//! Who is bound where: the rules by which a key gets, keeps and changes its backend.
//!
//! First writer wins. A binding that stands is changed only for a cause that the state itself
//! sees (its backend is down, in maintenance or gone), because a client could not connect to
//! exactly the backend it is bound to, or because an operator says so.
//!
//! Not here: lifetimes and memory ([`crate::persistence`]).

use ballast_planted::Bug;

use super::{
    At, Author, BindingChange, Outcome, Refusal, RehomeCause, State,
    events::{EventKind, Said, Subject},
    members::not_found,
};
use crate::{
    ids::{BackendId, ServiceId},
    persistence::{KeyHash, Provenance, Put, Record, TableConfig, Totals, after, fresh, to_seconds},
};

/// A request to bind, as [`super::Command::Bind`] and [`super::Command::Learn`] say it.
#[derive(Clone, Copy)]
pub(super) struct Bind {
    pub(super) service: ServiceId,
    pub(super) key: KeyHash,
    pub(super) choice: BackendId,
    pub(super) replaces: Option<(BackendId, RehomeCause)>,
    /// The choice gave the client its key, so it is nobody new there.
    pub(super) learned: bool,
}

/// An operator's change of a binding.
#[derive(Clone, Copy)]
pub(super) struct SetBinding {
    pub(super) service: ServiceId,
    pub(super) key: KeyHash,
    pub(super) to: Option<BackendId>,
    pub(super) pinned: bool,
}

/// A binding table's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Whose table.
    pub service: ServiceId,
    /// Lifetimes and bound; the last ones, if the service has no table any more.
    pub config: TableConfig,
    /// Bindings, ended and deleted ones included until they are swept.
    pub bindings: u64,
    /// What happened so far.
    pub totals: Totals,
}

impl State {
    /// The tables' figures, by service.
    pub fn tables_info(&self) -> impl Iterator<Item = TableInfo> {
        self.store.iter().map(|table| TableInfo {
            service: table.service(),
            config: table.config(),
            bindings: table.len(),
            totals: table.totals,
        })
    }

    /// The figures of one service's table.
    pub fn table_info(&self, service: ServiceId) -> Option<TableInfo> {
        self.tables_info().find(|table| table.service == service)
    }

    /// Bindings of one backend: what a drain still waits for.
    pub fn bindings_of(&self, backend: BackendId) -> u64 {
        match self.roster.seat(backend) {
            Some(seat) => self.store.get(seat.service).map_or(0, |table| table.len_of(backend)),
            None => self.store.iter().map(|table| table.len_of(backend)).sum(),
        }
    }

    /// A binding that has not ended.
    pub fn binding(&self, service: ServiceId, key: KeyHash) -> Option<Record> {
        let table = self.store.get(service)?;
        table.get(key).filter(|record| table.config().is_live(record, self.log_time))
    }

    /// A binding, whether it has ended, or was deleted, or not.
    pub fn binding_or_ended(&self, service: ServiceId, key: KeyHash) -> Option<Record> {
        self.store.get(service)?.get(key)
    }

    /// Up to `limit` bindings of a service after `after`, in the order of their keys. Page with the last key.
    pub fn bindings_page(
        &self,
        service: ServiceId,
        after_key: Option<KeyHash>,
        limit: usize,
    ) -> Vec<(KeyHash, Record)> {
        let from = match after_key {
            None => Some(KeyHash::from_u128(0)),
            Some(key) => after(key),
        };
        let (Some(table), Some(from)) = (self.store.get(service), from) else { return Vec::new() };
        let live = table.iter_from(from).filter(|(_, record)| table.config().is_live(record, self.log_time));
        live.take(limit).collect()
    }

    pub(super) fn bind(&mut self, at: At, bind: Bind) -> Outcome {
        if !self.roster.has_table(bind.service) {
            return not_found(format!("binding table of service {}", bind.service));
        }
        let table = self.store.get_mut(bind.service).expect("a configured table is made with its document");
        let known = table.get(bind.key);
        let current = known.filter(|record| table.config().is_live(record, at.now));
        let cause = match current {
            None => None,
            Some(record) => {
                let seat = self.roster.seat(record.backend).filter(|seat| seat.service == bind.service);
                let cause = match seat {
                    None => Some(RehomeCause::BackendRemoved),
                    Some(seat) => seat.unusable.or_else(|| {
                        let refused = bind.replaces == Some((record.backend, RehomeCause::ConnectFailed));
                        let moves = refused && seat.redispatch && !record.pinned && bind.choice != record.backend;
                        moves.then_some(RehomeCause::ConnectFailed)
                    }),
                };
                if cause.is_none() {
                    let last_used_s = to_seconds(at.now).max(record.last_used_s);
                    if last_used_s != record.last_used_s {
                        let record = Record { last_used_s, ..record };
                        table.put(bind.key, Put { record, over_expired: false });
                    }
                    return Outcome::Bound { backend: record.backend, how: BindingChange::Existing };
                }
                cause
            }
        };
        let choice = self.roster.seat(bind.choice).filter(|seat| seat.service == bind.service);
        if !choice.is_some_and(|seat| seat.takes_new || bind.learned && seat.unusable.is_none()) {
            return Outcome::Refused(Refusal::NotEligible);
        }
        if known.is_none() && table.len() >= table.config().entries_max {
            table.totals.refused_full += 1;
            return Outcome::Refused(Refusal::TableFull);
        }
        let (provenance, how) = match (cause, ended_elsewhere(known, bind.choice)) {
            (Some(cause), _) => (Provenance::Rehomed(cause), BindingChange::Rehomed(cause)),
            (None, Some(old)) => (Provenance::Replaced, BindingChange::Replaced { old }),
            (None, None) => (Provenance::Created, BindingChange::Created),
        };
        let record = fresh(bind.choice, provenance, false, at.now, at.index.get() as u32);
        table.put(bind.key, Put { record, over_expired: expired(known, current) });
        match cause {
            Some(cause) => *table.totals.rehomed_mut(cause) += 1,
            None => table.totals.created += 1,
        }
        Outcome::Bound { backend: bind.choice, how }
    }

    pub(super) fn renew(&mut self, at: At, service: ServiceId, key: KeyHash) -> Outcome {
        let missing = || not_found("binding".to_owned());
        let Some(table) = self.store.get_mut(service) else { return missing() };
        let Some(record) = table.get(key).filter(|record| table.config().is_live(record, at.now)) else {
            return missing();
        };
        let last_used_s = to_seconds(at.now).max(record.last_used_s);
        if last_used_s != record.last_used_s {
            table.put(key, Put { record: Record { last_used_s, ..record }, over_expired: false });
        }
        Outcome::Done
    }

    pub(super) fn set_binding(&mut self, at: At, set: SetBinding, author: &Author) -> Outcome {
        let SetBinding { service, key, to, pinned } = set;
        let Some(table) = self.store.get_mut(service) else {
            return not_found(format!("binding table of service {service}"));
        };
        let known = table.get(key);
        let current = known.filter(|record| table.config().is_live(record, at.now));
        let Some(to) = to else {
            let Some(record) = current else { return not_found("binding".to_owned()) };
            // The record stays for as long as other ended ones do: whoever binds the key anew has to know of it.
            let deleted = fresh(record.backend, Provenance::Deleted, false, at.now, at.index.get() as u32);
            table.put(key, Put { record: deleted, over_expired: false });
            table.totals.deleted += 1;
            let what = format!("binding to {} deleted", self.backend_name(record.backend).unwrap_or_default());
            self.record(at, author, Said::new(EventKind::BindingSet, Subject::Binding(service, key), what));
            return Outcome::Done;
        };
        if !self.roster.seat(to).is_some_and(|seat| seat.service == service && seat.table) {
            return not_found(format!("backend {to} of service {service}"));
        }
        let how = match current {
            None => match ended_elsewhere(known, to) {
                Some(old) => BindingChange::Replaced { old },
                None => BindingChange::Created,
            },
            Some(record) if record.backend == to => BindingChange::Existing,
            Some(_) => BindingChange::Rehomed(RehomeCause::Operator),
        };
        if known.is_none() && table.len() >= table.config().entries_max {
            table.totals.refused_full += 1;
            return Outcome::Refused(Refusal::TableFull);
        }
        let record = match (how, current) {
            (BindingChange::Existing, Some(record)) => {
                Record { pinned, last_used_s: to_seconds(at.now).max(record.last_used_s), ..record }
            }
            _ => {
                let provenance = Provenance::Rehomed(RehomeCause::Operator);
                fresh(to, provenance, pinned, at.now, at.index.get() as u32)
            }
        };
        if ballast_planted::is(Bug::MoveNotDone) {
            return Outcome::Bound { backend: to, how };
        }
        table.put(key, Put { record, over_expired: expired(known, current) });
        match how {
            BindingChange::Created | BindingChange::Replaced { .. } => table.totals.created += 1,
            BindingChange::Rehomed(cause) => *table.totals.rehomed_mut(cause) += 1,
            BindingChange::Existing => {}
        }
        let name = self.backend_name(to).unwrap_or_default();
        let what = format!("binding {} {name}", if pinned { "pinned to" } else { "moved to" });
        self.record(at, author, Said::new(EventKind::BindingSet, Subject::Binding(service, key), what));
        Outcome::Bound { backend: to, how }
    }
}

/// The backend of a record that has ended, if nodes may still forward the key elsewhere than to `to`. Ask only when no
/// binding counts. Nobody knows whether a deleted binding had settled: at its own backend, too, the next one has to.
fn ended_elsewhere(ended: Option<Record>, to: BackendId) -> Option<BackendId> {
    ended.filter(|record| record.backend != to || record.is_deleted()).map(|record| record.backend)
}

/// Whether a key that is bound now had a binding whose lifetime ended.
fn expired(known: Option<Record>, current: Option<Record>) -> bool {
    current.is_none() && known.is_some_and(|record| !record.is_deleted())
}
