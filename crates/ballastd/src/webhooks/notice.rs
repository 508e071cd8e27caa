//! An event of the log as it is sent.

use ballast_admin::view;
use ballast_core::{
    config::WebhookEvent,
    ids::LogIndex,
    state::{EventKind, State, Subject},
};
use serde_json::{Value, json};

/// One event, ready to be sent to any webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// The same whoever sends it, and no other event's.
    pub id: String,
    /// What it is about.
    pub event: WebhookEvent,
    /// JSON.
    pub body: String,
}

/// What happened after an entry, oldest first, as far as webhooks can be told of it.
pub(super) fn after(state: &State, from: LogIndex) -> Vec<Notice> {
    let (events, _) = view::events_after(state, from, usize::MAX);
    let names = view::Names::new(state);
    events
        .into_iter()
        .filter_map(|(place, event)| {
            let about = about(event.kind)?;
            let shown = names.event(place, event);
            let id = format!("{}-{}", event.index, shown.ordinal);
            let change = shown.change.unwrap_or_default();
            let body = json!({
                "id": id,
                "cluster": state.cluster().map(|cluster| cluster.id.clone()),
                "event": word(about),
                "kind": shown.kind,
                "subject": shown.subject,
                "text": shown.text,
                "author": change.author,
                "message": change.message,
                "time": change.log_time.map(|time| time.to_string()),
                "log_index": change.log_index,
                "vip": vip(state, event),
            });
            Some(Notice { id, event: about, body: body.to_string() })
        })
        .collect()
}

/// What kinds of events belong to. Clients' bindings and sessions, certificates and tokens are told to nobody.
fn about(kind: EventKind) -> Option<WebhookEvent> {
    match kind {
        EventKind::VipRecorded | EventKind::VipMoved => Some(WebhookEvent::Vip),
        EventKind::ConfigApplied => Some(WebhookEvent::Config),
        EventKind::NodeEnrolled | EventKind::NodeUpdated | EventKind::NodeSet | EventKind::NodeRemoved => {
            Some(WebhookEvent::Node)
        }
        EventKind::BackendSet | EventKind::VerdictChanged => Some(WebhookEvent::Backend),
        EventKind::ClusterInitialised
        | EventKind::BindingSet
        | EventKind::JoinTokenCreated
        | EventKind::CookieKeyRotated
        | EventKind::UserIssued
        | EventKind::UserRevoked
        | EventKind::SessionsFlushed
        | EventKind::SessionKeyDeleted => None,
    }
}

const fn word(event: WebhookEvent) -> &'static str {
    match event {
        WebhookEvent::Vip => "vip",
        WebhookEvent::Config => "config",
        WebhookEvent::Node => "node",
        WebhookEvent::Backend => "backend",
    }
}

/// Who holds a VIP since the entry that recorded it; null for all else.
fn vip(state: &State, event: &ballast_core::state::Event) -> Value {
    let Subject::Vip(id) = event.subject else { return Value::Null };
    let Some(tenure) = state.tenures(id).find(|tenure| tenure.index == event.index) else { return Value::Null };
    let owner = tenure.owner.and_then(|node| view::node_name(state, node));
    json!({ "owner": owner, "epoch": tenure.epoch, "cause": tenure.cause })
}

#[cfg(test)]
mod tests {
    use ballast_core::{
        ids::NodeId,
        state::{Author, Command},
    };

    use super::*;
    use crate::fixture::{START, configure, founded, pass};

    #[test]
    fn a_change_of_hands_says_who_when_and_why() {
        let mut state = founded(r#"{"version":1}"#);
        configure(&mut state, START, r#"{"version":1,"vips":[{"name":"web","addresses":["10.0.0.7"]}]}"#);
        let before = state.applied();
        let vip = state.vips().next().expect("a VIP").0;
        let cause = "nobody held it".to_owned();
        pass(&mut state, START, Command::RecordVip { vip, owner: Some(NodeId::new(1)), epoch: 7, cause });
        pass(&mut state, START, Command::MoveVip { vip, to: None, author: Author::default(), expect: None });
        let notices = after(&state, before);
        let bodies: Vec<Value> =
            notices.iter().map(|notice| serde_json::from_str(&notice.body).expect("JSON")).collect();
        assert_eq!(bodies.len(), 2);
        let first = &bodies[0];
        assert_eq!(
            (&first["event"], &first["kind"], &first["subject"]),
            (&"vip".into(), &"VipRecorded".into(), &"web".into())
        );
        assert_eq!((&first["vip"]["epoch"], &first["vip"]["cause"]), (&7.into(), &"nobody held it".into()));
        assert_eq!(first["id"].as_str(), Some(notices[0].id.as_str()));
        assert!(first["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{first}");
        assert_eq!((&bodies[1]["kind"], &bodies[1]["vip"]), (&"VipMoved".into(), &Value::Null));
        assert!(after(&state, state.applied()).is_empty());
    }
}
