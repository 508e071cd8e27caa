//! Notices to other machines.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A machine that is told of what happens in the cluster, by a POST of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Its name, unique in the document. A key for signatures is found under it in each node's `ballastd.toml`.
    pub name: String,
    /// Where to: `http://HOST[:PORT]/PATH` or `https://...`, whose certificate is judged by the node's system CAs.
    /// Redirects are not followed.
    pub url: String,
    /// What it is told of.
    #[serde(default = "vip_only")]
    #[schemars(length(min = 1))]
    pub events: Vec<WebhookEvent>,
}

/// What a webhook is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookEvent {
    /// A VIP changed hands, or an operator moved one.
    Vip,
    /// A document was applied.
    Config,
    /// A node joined, changed, was told something by an operator, or was removed.
    Node,
    /// A backend came up or went down by the cluster's verdict, or an operator set it.
    Backend,
}

fn vip_only() -> Vec<WebhookEvent> {
    vec![WebhookEvent::Vip]
}
