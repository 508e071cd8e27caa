//! How backends are checked.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::config::units::Span;

/// How backends are checked. Without `http` a TCP connection is enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Check by an HTTP request; by a TCP connection when absent.
    pub http: Option<HttpCheck>,
    /// Time between checks of one backend by one node, give or take a tenth: 10ms to 1h.
    pub interval: Span,
    /// A check that takes longer has failed. At most the interval.
    pub timeout: Span,
    /// Successes in a row that make a backend up; doubled, to at most sixteen times, for each time but one in the last
    /// minutes that the cluster called it down.
    #[schemars(range(min = 1, max = 100))]
    pub rise: u32,
    /// Failures in a row that make it down. Of checks that nothing answered, the cluster is told while a majority of the voters
    /// answers the node that checks, at most once in a quarter of the lease or of a second. With 1, an outage of the nodes' own
    /// network may count.
    #[schemars(range(min = 1, max = 100))]
    pub fall: u32,
    /// Port to check; the backend's own when absent.
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// How the nodes' findings become one verdict.
    pub policy: VerdictPolicy,
    /// Failed requests in a row that count as a failed check: no connection, no whole response, or a status from 500 on but for
    /// 501 and 505. Passive checks are off when absent.
    #[schemars(range(min = 1, max = 1000))]
    pub passive_failures: Option<u32>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            http: None,
            interval: Span::from_secs(1),
            timeout: Span::from_millis(500),
            rise: 2,
            fall: 3,
            port: None,
            policy: VerdictPolicy::Majority,
            passive_failures: None,
        }
    }
}

/// A health check by an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpCheck {
    /// Request method.
    pub method: String,
    /// Request path.
    pub path: String,
    /// `Host` header; the backend's address when absent.
    pub host: Option<String>,
    /// Statuses that count as success: `"200"` or ranges `"200-299"`.
    #[schemars(length(min = 1))]
    pub expect: Vec<StatusRange>,
    /// Text that the first 16 KiB of the body must contain.
    pub body_contains: Option<String>,
}

impl Default for HttpCheck {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            expect: vec![StatusRange { first: 200, last: 399 }],
            body_contains: None,
        }
    }
}

/// A range of HTTP statuses, written `"200"` or `"200-299"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StatusRange {
    /// First status that belongs to it.
    pub first: u16,
    /// Last status that belongs to it.
    pub last: u16,
}

impl StatusRange {
    /// Whether `status` belongs to it.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl JsonSchema for StatusRange {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "status-range",
            "description": "A status or a range of statuses, in quotes: \"200\" or \"200-299\".",
            "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$",
            "examples": ["200", "200-299"],
        })
    }
}

impl TryFrom<String> for StatusRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let error = || format!("{text:?} is not a status or a range of statuses; write \"200\" or \"200-299\"");
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        let parse = |s: &str| s.parse::<u16>().ok().filter(|n| (100..=599).contains(n)).ok_or_else(error);
        let range = Self { first: parse(first)?, last: parse(last)? };
        if range.first > range.last {
            return Err(error());
        }
        Ok(range)
    }
}

impl From<StatusRange> for String {
    fn from(range: StatusRange) -> Self {
        if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) }
    }
}

/// How the nodes' findings become one verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictPolicy {
    /// Down when most of the nodes that check it say so.
    #[default]
    Majority,
    /// Down when any node says so.
    Any,
    /// Each node goes by its own checks. Bindings still move only by the log.
    Local,
}
