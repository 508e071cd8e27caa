//! How clients stay with their backends.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::Span;

/// How a client stays with its backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Persistence {
    /// A signed cookie of Ballast's own names the backend; no table.
    Cookie(CookiePersistence),
    /// A replicated binding from a key of the request to a backend.
    Table(TablePersistence),
}

/// Persistence by a signed cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CookiePersistence {
    /// The cookie's name.
    pub name: String,
    /// `Path` attribute.
    pub path: String,
    /// `Max-Age`; a session cookie when absent. The signature expires with it.
    pub ttl: Option<Span>,
    /// `Secure` attribute.
    pub secure: bool,
    /// `HttpOnly` attribute.
    pub http_only: bool,
    /// `SameSite` attribute.
    pub same_site: SameSite,
}

impl Default for CookiePersistence {
    fn default() -> Self {
        Self {
            name: "BALLAST".to_owned(),
            path: "/".to_owned(),
            ttl: None,
            secure: false,
            http_only: true,
            same_site: SameSite::Lax,
        }
    }
}

/// `SameSite` attribute of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// Never sent across sites.
    Strict,
    /// Sent with top-level navigation.
    Lax,
    /// Always sent; needs `secure`.
    None,
}

/// Persistence by a replicated binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TablePersistence {
    /// What identifies a client.
    pub key: TableKey,
    /// A binding not used for this long is forgotten.
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: Span,
    /// A binding older than this is forgotten even if used; never when absent.
    #[serde(default)]
    pub absolute_timeout: Option<Span>,
    /// Most bindings of this service. Of a `learned_cookie`'s, 12 in 100 are kept for keys that a backend was seen to give.
    #[serde(default = "default_entries_max")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub entries_max: u64,
    /// What happens to a new key when there are that many.
    #[serde(default)]
    pub when_full: WhenFull,
    /// Whether the first request waits for the log.
    #[serde(default)]
    pub commit: Commit,
}

fn default_idle_timeout() -> Span {
    Span::from_secs(1800)
}

fn default_entries_max() -> u64 {
    1_000_000
}

/// What identifies a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TableKey {
    /// The client's address, cut to a prefix.
    Source(SourcePrefix),
    /// A request header's value.
    Header(String),
    /// A query parameter's value.
    Query(String),
    /// The nth segment of the path, counted from 1.
    PathSegment(#[schemars(range(min = 1, max = 32))] u8),
    /// A cookie that the backend sets, learned from its response and read from requests.
    LearnedCookie(String),
}

/// How much of a client's address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SourcePrefix {
    /// Leading bits of an IPv4 address, 1 to 32.
    #[schemars(range(min = 1, max = 32))]
    pub ipv4_prefix: u8,
    /// Leading bits of an IPv6 address, 1 to 128.
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix: u8,
}

impl Default for SourcePrefix {
    fn default() -> Self {
        Self { ipv4_prefix: 32, ipv6_prefix: 64 }
    }
}

/// What happens to a new key when its table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// It is served without a binding, and counted.
    #[default]
    ServeUnbound,
    /// It is refused with 503.
    Refuse,
}

/// Whether the first request of a key waits for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Commit {
    /// The request is forwarded once the binding is in the log.
    #[default]
    BeforeForward,
    /// The request is forwarded at once; the binding follows.
    AfterForward,
}
