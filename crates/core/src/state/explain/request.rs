//! The request that is asked about, and where its key is.

use std::net::IpAddr;

use crate::{
    config::{CookiePersistence, TableKey},
    ids::{BackendId, ServiceId},
    persistence::KeyHash,
};

/// A request as a client would send it.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The farm's name.
    pub farm: &'a str,
    /// The listener's name; the farm's first on this node when absent.
    pub listener: Option<&'a str>,
    /// The request's host, with or without port.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Header fields as name and value, `Cookie` fields among them.
    pub headers: &'a [(String, String)],
    /// Cookies as name and value, beside those in `headers`.
    pub cookies: &'a [(String, String)],
    /// Checks the value of a service's signed cookie and says which backend it names.
    pub signed: &'a dyn Fn(ServiceId, &CookiePersistence, &str) -> Option<BackendId>,
}

impl Question<'_> {
    /// The host without port.
    pub(super) fn host_name(&self) -> &str {
        let end_of_literal = self.host.rfind(']').unwrap_or(0);
        match self.host[end_of_literal..].find(':') {
            Some(colon) => &self.host[..end_of_literal + colon],
            None => self.host,
        }
    }

    /// The path without query.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The first cookie of that name.
    pub(super) fn cookie(&self, name: &str) -> Option<String> {
        let fields = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case("cookie"));
        let pairs = fields.flat_map(|(_, value)| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let given = self.cookies.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let (_, value) = pairs.chain(given).find(|(found, _)| *found == name)?;
        let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Some(unquoted.unwrap_or(value).to_owned())
    }

    /// Hash of the key that the request carries; `None` if it carries none.
    pub(super) fn key(&self, key: &TableKey, secret: &[u8; 16], service: ServiceId) -> Option<KeyHash> {
        let text = match key {
            TableKey::Source(prefix) => return Some(KeyHash::of_source(secret, service, self.client?, *prefix)),
            TableKey::Header(name) => {
                let mut fields = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
                fields.next().map(|(_, value)| value.trim().to_owned())
            }
            TableKey::Query(name) => {
                let mut pairs = self.query().split('&').filter_map(|pair| pair.split_once('='));
                pairs.find(|(found, _)| found == name).map(|(_, value)| value.to_owned())
            }
            TableKey::PathSegment(nth) => {
                let segments = self.path().split('/').filter(|segment| !segment.is_empty());
                segments.map(ToOwned::to_owned).nth(usize::from(*nth).saturating_sub(1))
            }
            TableKey::LearnedCookie(name) => self.cookie(name),
        };
        text.filter(|text| !text.is_empty()).map(|text| KeyHash::of(secret, service, text.as_bytes()))
    }
}

/// What a table goes by.
pub(super) fn key_in_words(key: &TableKey) -> String {
    match key {
        TableKey::Source(prefix) => {
            format!("source address /{} (IPv6 /{})", prefix.ipv4_prefix, prefix.ipv6_prefix)
        }
        TableKey::Header(name) => format!("header {name}"),
        TableKey::Query(name) => format!("query parameter {name}"),
        TableKey::PathSegment(nth) => format!("path segment {nth}"),
        TableKey::LearnedCookie(name) => format!("learned cookie {name}"),
    }
}
