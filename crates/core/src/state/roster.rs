//! Where every configured backend stands right now. Derived from the document, operator state and
//! verdicts whenever one of them changed, so that a binding is decided by one look.
//!
//! Verdicts may change by the thousand in one entry, and a look at all backends for each would take as long as an election.
//! So the roster is only marked as behind then, and derived anew before the next command that is decided by it.

use std::sync::Arc;

use super::{
    Operator,
    health::Health,
    registry::{Numbers, Registry},
};
use crate::{
    config::{Document, Persistence},
    ids::{BackendId, ServiceId},
    plan::{Eligibility, panics},
    state::RehomeCause,
};

/// A configured backend, as far as bindings are concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seat {
    /// Its service.
    pub(crate) service: ServiceId,
    /// May be given keys that are not bound.
    pub(crate) takes_new: bool,
    /// Why its bound clients must go elsewhere, if they must.
    pub(crate) unusable: Option<RehomeCause>,
    /// A refused connection moves a binding at once.
    pub(crate) redispatch: bool,
    /// The service keeps a table.
    pub(crate) table: bool,
    /// Farm, service and backend as positions in the document.
    pub(crate) place: (usize, usize, usize),
}

/// All configured backends by number.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    pub(crate) numbers: Numbers,
    seats: Vec<Option<Seat>>,
    tables: Vec<ServiceId>,
    /// Verdicts have changed since seats were given.
    pub(super) behind: bool,
    /// Times that all seats were given.
    #[cfg(test)]
    pub(super) seatings: usize,
}

impl Roster {
    pub(super) fn build(
        document: Option<&Arc<Document>>,
        registry: &Registry,
        operator: &Operator,
        health: &Health,
    ) -> Self {
        let Some(document) = document else { return Self::default() };
        let numbers =
            registry.clone().assign(document).expect("the document in force was numbered when it was applied");
        let mut roster = Self { numbers, ..Self::default() };
        roster.seat_all(document, operator, health);
        roster
    }

    /// Gives seats by the verdicts as they are now, with the document and its numbers as they were.
    pub(super) fn catch_up(&mut self, document: Option<&Document>, operator: &Operator, health: &Health) {
        if let Some(document) = document {
            self.seat_all(document, operator, health);
        }
        self.behind = false;
    }

    fn seat_all(&mut self, document: &Document, operator: &Operator, health: &Health) {
        let numbers = std::mem::take(&mut self.numbers);
        #[cfg(test)]
        {
            self.seatings += 1;
        }
        self.seats.clear();
        self.tables.clear();
        for (f, farm) in numbers.farms.iter().enumerate() {
            for (s, (service, backends)) in farm.services.iter().enumerate() {
                let config = &document.farms[f].services[s];
                let table = matches!(config.persistence, Some(Persistence::Table(_)));
                if table {
                    self.tables.push(*service);
                }
                let eligibilities = config.backends.iter().zip(backends).map(|(backend, id)| Eligibility {
                    admin: operator.admin(*id),
                    verdict: health.verdict(*id),
                    weight: operator.weight(*id).unwrap_or(backend.weight),
                    backup: backend.backup,
                });
                let panic = panics(config.panic_threshold_percent, eligibilities.clone());
                for (b, (id, eligibility)) in backends.iter().zip(eligibilities).enumerate() {
                    let seat = Seat {
                        service: *service,
                        takes_new: eligibility.takes_new(panic),
                        unusable: eligibility.must_leave(panic),
                        redispatch: config.redispatch,
                        table,
                        place: (f, s, b),
                    };
                    self.sit(*id, seat);
                }
            }
        }
        self.tables.sort_unstable();
        self.numbers = numbers;
    }

    /// The backend, if it is configured.
    pub(crate) fn seat(&self, id: BackendId) -> Option<&Seat> {
        self.seats.get(id.get() as usize)?.as_ref()
    }

    /// Whether the service is configured with a table.
    pub(crate) fn has_table(&self, service: ServiceId) -> bool {
        self.tables.binary_search(&service).is_ok()
    }

    fn sit(&mut self, id: BackendId, seat: Seat) {
        let at = id.get() as usize;
        if self.seats.len() <= at {
            self.seats.resize(at + 1, None);
        }
        self.seats[at] = Some(seat);
    }
}
