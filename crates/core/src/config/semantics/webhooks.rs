//! Whether webhooks can be posted to.

use super::{At, Checks};
use crate::config::{Endpoint, Webhook};

/// Each has a queue on the leader. Arbitrary; more machines than that are told by one of them.
const WEBHOOKS_MAX: usize = 16;

pub(super) fn check(webhooks: &[Webhook], checks: &mut Checks<'_, '_>, at: &At<'_>) {
    checks.names(at, webhooks.iter().map(|webhook| webhook.name.as_str()));
    if webhooks.len() > WEBHOOKS_MAX {
        checks.wrong(at, format!("{} webhooks are too many", webhooks.len()), format!("write at most {WEBHOOKS_MAX}"));
    }
    for (index, webhook) in webhooks.iter().enumerate() {
        let at = at.index(index);
        if let Err(why) = Endpoint::parse(&webhook.url) {
            checks.wrong(&at.key("url"), format!("this URL {why}"), "write one like https://alarm.example/ballast");
        }
        let mut events = webhook.events.clone();
        events.sort_unstable();
        events.dedup();
        if events.len() < webhook.events.len() {
            checks.wrong(&at.key("events"), "an event is named twice", "name each once");
        }
    }
}
