//! What the cluster decided of the shop's backends, as its own events tell when all is over.
//!
//! Events are part of the state that all nodes agree on, so that none is lost with a node. They are kept up to a number, and then
//! the oldest are forgotten: that the cluster's beginning is among them shows that none is.
//!
//! Not here: when that was (`judge::departures`).

use anyhow::{Context, Result, ensure};
use ballast_testkit::cluster::Cluster;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kind of the first event of a cluster.
const BEGINNING: &str = "ClusterInitialised";
const VERDICT: &str = "VerdictChanged";
const WISH: &str = "BackendSet";
/// All events of these kinds.
const QUESTION: [&str; 11] =
    ["events", "--kind", BEGINNING, "--kind", VERDICT, "--kind", WISH, "--limit", "0", "--timeout", "5s"];
/// What stands before the names of the shop's backends.
const PLACE: &str = "shop/site/";

/// Why clients have to leave a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The cluster's verdict on it is that it is down.
    Down,
    /// An operator took it out.
    Maintenance,
}

/// A decision about a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The entry of the log that made it.
    pub index: u64,
    /// The backend.
    pub backend: String,
    /// The reason that it is about.
    pub why: Why,
    /// Whether clients have to leave for it from then on, or need not any more.
    pub leave: bool,
}

/// All decisions, in the order of the log, by whichever node answers.
///
/// # Errors
/// When none does, or when the first events are forgotten.
pub fn read(cluster: &Cluster) -> Result<Vec<Decision>> {
    let first = cluster.ctl_json(0, &QUESTION);
    let told = (1..cluster.len()).fold(first, |told, node| told.or_else(|_| cluster.ctl_json(node, &QUESTION)))?;
    decisions(&told)
}

/// Those of a list of events, of which the newest comes first.
fn decisions(events: &Value) -> Result<Vec<Decision>> {
    let events = events.as_array().context("a list of events")?;
    ensure!(events.iter().any(|event| event["kind"] == BEGINNING), "the first events are forgotten");
    Ok(events.iter().rev().filter_map(decision).collect())
}

fn decision(event: &Value) -> Option<Decision> {
    let (why, leaves) = match event["kind"].as_str()? {
        VERDICT => (Why::Down, "down"),
        WISH => (Why::Maintenance, "maintenance"),
        _ => return None,
    };
    let subject = event["subject"].as_str()?;
    let backend = subject.strip_prefix(PLACE)?.to_owned();
    // `backend shop/site/web1: up to down: http 503`; a change of its weight alone is `backend shop/site/web1: weight 5`.
    let said = event["text"].as_str()?.strip_prefix(&format!("backend {subject}: "))?;
    let (_, becomes) = said.split_once(" to ")?;
    Some(Decision { index: event["log_index"].as_u64()?, backend, why, leave: becomes.starts_with(leaves) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(index: u64, kind: &str, subject: &str, text: &str) -> Value {
        json!({ "kind": kind, "subject": subject, "text": text, "ordinal": 0, "log_index": index, "author": "somebody" })
    }

    #[test]
    fn what_clients_have_to_leave_a_backend_for_is_read_in_the_order_of_the_log() {
        let events = [
            event(9, "VerdictChanged", "shop/site/web1", "backend shop/site/web1: down to up: http 200"),
            event(8, "BackendSet", "shop/site/web2", "backend shop/site/web2: ready to maintenance"),
            event(7, "BackendSet", "shop/site/web2", "backend shop/site/web2: weight 5"),
            event(6, "VerdictChanged", "shop/site/web1", "backend shop/site/web1: up to down: connect: refused"),
            event(5, "VerdictChanged", "open/site/web1", "backend open/site/web1: up to down: http 503"),
            event(1, "ClusterInitialised", "cluster", "cluster made"),
        ];
        let decided = |index, backend: &str, why, leave| Decision { index, backend: backend.to_owned(), why, leave };
        let expected = [
            decided(6, "web1", Why::Down, true),
            decided(8, "web2", Why::Maintenance, true),
            decided(9, "web1", Why::Down, false),
        ];
        assert_eq!(decisions(&Value::from(events.to_vec())).expect("they are all there"), expected);
    }

    #[test]
    fn where_the_first_events_are_forgotten_nothing_is_read() {
        let later = event(9, "VerdictChanged", "shop/site/web1", "backend shop/site/web1: down to up: http 200");
        assert!(decisions(&Value::from(vec![later])).is_err());
        assert!(decisions(&json!({})).is_err());
    }
}
