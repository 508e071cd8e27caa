//! The audit trail.

use std::{cell::OnceCell, collections::BTreeMap};

use ballast_core::{
    ids::{BackendId, LogIndex, ServiceId, VipId},
    state::{Author, Event, EventKind, State, Subject},
};
use ballast_proto::admin::v1 as proto;

use super::{change, key_hash_text, node_name, page::Place, vips::with_names};

/// All events that are kept, newest first, each with its place among them. Thousands cost little in this form;
/// [`Names::event`] makes messages of those that are wanted.
pub fn events(state: &State) -> Vec<(Place, &Event)> {
    let mut events = placed(state.events().collect());
    events.reverse();
    events
}

/// The events of entries after an index, oldest first: all of them, or about `max`, as entries are not torn apart. With the
/// last entry that was looked at, if there may be more.
pub fn events_after(state: &State, after: LogIndex, max: usize) -> (Vec<(Place, &Event)>, Option<LogIndex>) {
    let mut newest_first: Vec<&Event> = state.events().take_while(|event| event.index > after).collect();
    let until = newest_first.len().checked_sub(max).and_then(|more| Some(newest_first.get(more)?.index));
    if let Some(until) = until {
        newest_first.retain(|event| event.index <= until);
    }
    (placed(newest_first), until)
}

/// Who last changed something, why and when, as far as it is kept.
pub fn last_event_about(state: &State, subject: Subject) -> Option<proto::Change> {
    let event = state.events().find(|event| event.subject == subject)?;
    Some(change(event.index, event.at, &event.author))
}

/// Takes them newest first and gives them oldest first, numbered within each entry.
fn placed(newest_first: Vec<&Event>) -> Vec<(Place, &Event)> {
    let mut placed: Vec<(Place, &Event)> = Vec::with_capacity(newest_first.len());
    for event in newest_first.into_iter().rev() {
        let index = event.index.get();
        let number = match placed.last() {
            Some(((last, number), _)) if *last == index => number + 1,
            _ => 0,
        };
        placed.push(((index, number), event));
    }
    placed
}

/// What things are called, looked up once for many events.
pub struct Names<'a> {
    state: &'a State,
    backends: OnceCell<BTreeMap<BackendId, &'a str>>,
    services: OnceCell<BTreeMap<ServiceId, String>>,
    vips: OnceCell<BTreeMap<VipId, &'a str>>,
}

impl<'a> Names<'a> {
    /// Those that a state has. Nothing is looked up before it is asked for.
    pub fn new(state: &'a State) -> Self {
        Self { state, backends: OnceCell::new(), services: OnceCell::new(), vips: OnceCell::new() }
    }

    /// An event in the API's form.
    pub fn event(&self, (_, ordinal): Place, event: &Event) -> proto::Event {
        let cause = match event.kind {
            EventKind::VipRecorded => with_names(self.state, &event.cause),
            _ => event.cause.clone(),
        };
        let message = if event.author.message.is_empty() { &cause } else { &event.author.message };
        let author = Author { name: event.author.name.clone(), message: message.clone() };
        proto::Event {
            kind: format!("{:?}", event.kind),
            subject: self.subject(event.subject),
            text: if cause.is_empty() { event.what.clone() } else { format!("{}: {cause}", event.what) },
            change: Some(change(event.index, event.at, &author)),
            ordinal,
        }
    }

    /// What an event is about.
    pub fn subject(&self, subject: Subject) -> String {
        match subject {
            Subject::Cluster => "cluster".to_owned(),
            Subject::Config => "configuration".to_owned(),
            Subject::Backend(id) => self.backend(id).map_or_else(|| format!("backend {id}"), str::to_owned),
            Subject::Binding(service, key) => format!("{}:{}", self.service(service), key_hash_text(key)),
            Subject::Node(id) => node_name(self.state, id).unwrap_or_else(|| format!("node-{id}")),
            Subject::Vip(id) => self.vip(id).map_or_else(|| format!("VIP {id}"), str::to_owned),
            Subject::Sessions(database) => {
                format!("sessions/{}", self.state.sessions().settings().keyspace_name(database))
            }
        }
    }

    fn backend(&self, id: BackendId) -> Option<&'a str> {
        self.backends.get_or_init(|| self.state.backends_ever().collect()).get(&id).copied()
    }

    fn vip(&self, id: VipId) -> Option<&'a str> {
        self.vips.get_or_init(|| self.state.vips_ever().collect()).get(&id).copied()
    }

    fn service(&self, id: ServiceId) -> String {
        let services = self.services.get_or_init(|| services(self.state));
        services.get(&id).cloned().unwrap_or_else(|| format!("service {id}"))
    }
}

/// The services of the document in force, by full name.
fn services(state: &State) -> BTreeMap<ServiceId, String> {
    let farms = state.document().map_or(&[][..], |document| &document.farms);
    let services = farms.iter().flat_map(|farm| farm.services.iter().map(move |service| (farm, service)));
    let names = services.map(|(farm, service)| format!("{}/{}", farm.name, service.name));
    names.filter_map(|name| Some((state.service_id(&name)?, name))).collect()
}
