//! The audit trail.

use ballast_core::{
    ids::{LogIndex, ServiceId, VipId},
    state::{Author, Event, EventKind, State, Subject},
};
use ballast_proto::admin::v1 as proto;

use super::{change, key_hash_text, node_name, page::Place, vips::with_names};

/// All events that are kept, newest first.
pub fn events(state: &State) -> Vec<proto::Event> {
    let mut events = describe(state, state.events().collect());
    events.reverse();
    events
}

/// The events of entries after an index, oldest first.
pub fn events_after(state: &State, after: LogIndex) -> Vec<proto::Event> {
    describe(state, state.events().take_while(|event| event.index > after).collect())
}

/// An event's place among all.
pub fn event_place(event: &proto::Event) -> Place {
    (event.change.as_ref().map_or(0, |change| change.log_index), event.ordinal)
}

/// Who last changed something, why and when, as far as it is kept.
pub fn last_event_about(state: &State, subject: Subject) -> Option<proto::Change> {
    let event = state.events().find(|event| event.subject == subject)?;
    Some(change(event.index, event.at, &event.author))
}

/// Takes them newest first and gives them oldest first, numbered within each entry.
fn describe(state: &State, newest_first: Vec<&Event>) -> Vec<proto::Event> {
    let mut described: Vec<proto::Event> = Vec::with_capacity(newest_first.len());
    for event in newest_first.into_iter().rev() {
        let ordinal = match described.last() {
            Some(last) if event_place(last).0 == event.index.get() => last.ordinal + 1,
            _ => 0,
        };
        let cause = match event.kind {
            EventKind::VipRecorded => with_names(state, &event.cause),
            _ => event.cause.clone(),
        };
        let message = if event.author.message.is_empty() { &cause } else { &event.author.message };
        let author = Author { name: event.author.name.clone(), message: message.clone() };
        described.push(proto::Event {
            kind: format!("{:?}", event.kind),
            subject: subject(state, event.subject),
            text: if cause.is_empty() { event.what.clone() } else { format!("{}: {cause}", event.what) },
            change: Some(change(event.index, event.at, &author)),
            ordinal,
        });
    }
    described
}

fn subject(state: &State, subject: Subject) -> String {
    match subject {
        Subject::Cluster => "cluster".to_owned(),
        Subject::Config => "configuration".to_owned(),
        Subject::Backend(id) => state.backend_name(id).map_or_else(|| format!("backend {id}"), str::to_owned),
        Subject::Binding(service, key) => format!("{}:{}", service_name(state, service), key_hash_text(key)),
        Subject::Node(id) => node_name(state, id).unwrap_or_else(|| format!("node-{id}")),
        Subject::Vip(id) => vip_name(state, id),
        Subject::Sessions(database) => format!("sessions/{}", state.sessions().settings().keyspace_name(database)),
    }
}

fn vip_name(state: &State, id: VipId) -> String {
    state.vips_ever().find(|(known, _)| *known == id).map_or_else(|| format!("VIP {id}"), |(_, name)| name.to_owned())
}

pub(super) fn service_name(state: &State, id: ServiceId) -> String {
    let document = state.document();
    let names = document
        .into_iter()
        .flat_map(|document| &document.farms)
        .flat_map(|farm| farm.services.iter().map(move |service| format!("{}/{}", farm.name, service.name)));
    names.into_iter().find(|name| state.service_id(name) == Some(id)).unwrap_or_else(|| format!("service {id}"))
}
