//! Reads a request for an explanation with the data plane's own code, so that what is explained is
//! what would happen.

use std::net::IpAddr;

use ballast_admin::node::RequestReader;
use ballast_core::{
    config::{RequestMatch, TableKey},
    ids::{BackendId, ServiceId},
    persistence::KeyHash,
    plan::CookieKey,
};
use ballast_proxy::http::{
    cookie, key,
    request::{HeadLimits, parse},
};

/// Bounds far above any head that a person types.
const LIMITS: HeadLimits = HeadLimits { fields_max: 1000, target_bytes_max: 64 << 10 };

/// The data plane's reading of requests.
pub struct ProxyReader;

impl RequestReader for ProxyReader {
    fn takes(&self, rule: &RequestMatch, host: &str, path: &str) -> bool {
        rule.matches(host.as_bytes(), path.as_bytes())
    }

    fn table_key(
        &self,
        wanted: &TableKey,
        secret: &[u8; 16],
        service: ServiceId,
        client: IpAddr,
        head: &[u8],
    ) -> Option<KeyHash> {
        let mut fields = Vec::new();
        let request = parse(head, &LIMITS, &mut fields).ok()?;
        key::of_request(wanted, secret, service, client, head, &request, &fields)
    }

    fn cookie_backend(
        &self,
        value: &[u8],
        keys: &[CookieKey],
        service: ServiceId,
        ttl_s: Option<u64>,
        now_s: u64,
    ) -> Option<BackendId> {
        cookie::verify(value, keys, service, ttl_s, now_s).map(|named| named.backend)
    }
}
