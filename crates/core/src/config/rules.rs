//! What the state machine asks of a document, frozen for ever.
//!
//! Replicas of different releases apply the same entry and must come to the same answer, so what is decided there may
//! depend on nothing that a release changes. Whoever proposes a document has checked it in full ([`super::parse`]);
//! the entry carries the number of the rules that its release knew, and applying it asks those and no others: that
//! the canonical JSON has the form of the types, that names are names, and that numbers are within the bounds that
//! everything downstream is built for. A release that changes the form of a document or one of these bounds adds
//! rules with the next number beside the old ones; a release that tightens what an operator may write changes only
//! [`super::semantics`].
//!
//! A document that passes here need not make sense: it may name a VIP that is not there or give one address to two
//! listeners. Whoever uses a document makes something of each that passes, and never panics.

use std::ops::RangeInclusive;

use super::{
    ByteSize, Document, Fallback, Farm, Health, Limits, Persistence, Service, SessionLimits, Sessions, Span, TableKey,
    TablePersistence, Timeouts, Vip, Webhook, decode::CANONICAL_BYTES_MAX,
};

/// The newest rules: those that this release proposes documents under.
pub const RULES: u32 = 5;

/// Whether this release knows the rules of that number. One that does not know them cannot apply the entry.
pub const fn knows(rules: u32) -> bool {
    rules >= 1 && rules <= RULES
}

/// Reads a document from an entry of the log, by the rules of that number. The same number and text give the same
/// answer in every release that knows the number.
///
/// # Errors
/// What is wrong with it, for whoever proposed it.
///
/// # Panics
/// For a number that is not [known](knows): nobody can say then what the other replicas decide. Reading the entry
/// has refused it before.
pub fn decode_committed(rules: u32, json: &str) -> Result<Document, String> {
    assert!(knows(rules), "rules {rules} for documents are not known to this ballastd; upgrade this node");
    if json.len() > CANONICAL_BYTES_MAX {
        return Err(format!("{} bytes are more than the {CANONICAL_BYTES_MAX} that are read", json.len()));
    }
    // Positions in the text are kept out of the answer, which is part of what replicas agree on.
    let mut document: Document =
        serde_json::from_str(json).map_err(|_| "this is not the canonical JSON of a document".to_owned())?;
    if rules < 2 {
        first::check(json)?;
    }
    if rules < 3 {
        second::check(json)?;
    }
    if rules < 4 {
        third::check(json)?;
    }
    if rules < 5 {
        fourth::complete(json, &mut document)?;
    }
    check(&document)?;
    Ok(document)
}

type Checked = Result<(), String>;

fn check(document: &Document) -> Checked {
    bound("version", document.version, 1..=1)?;
    let cluster = &document.cluster;
    bound("voters", cluster.voters, 1..=7)?;
    span("lease", cluster.lease, 50..=10_000)?;
    span("freshness", cluster.freshness, 10..=1000)?;
    span("replace_voter_after", cluster.replace_voter_after, 0..=YEAR)?;
    cluster.webhooks.iter().try_for_each(webhook)?;
    document.vips.iter().try_for_each(vip)?;
    document.farms.iter().try_for_each(farm)?;
    document.sessions.iter().try_for_each(sessions)
}

/// Milliseconds.
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 366 * DAY;

fn webhook(webhook: &Webhook) -> Checked {
    name(&webhook.name)?;
    // A request's head is written as it stands here.
    text("url", &webhook.url, |b| b.is_ascii_graphic())
}

fn vip(vip: &Vip) -> Checked {
    name(&vip.name)?;
    span("failback_delay", vip.failback_delay, 0..=DAY)?;
    vip.group.iter().try_for_each(|group| name(group))
}

fn farm(farm: &Farm) -> Checked {
    name(&farm.name)?;
    for listener in &farm.listeners {
        name(&listener.name)?;
        bound("port", listener.port, 1..=u16::MAX)?;
    }
    farm.services.iter().try_for_each(service)?;
    farm.fallback.iter().try_for_each(fallback)?;
    limits(&farm.limits)?;
    timeouts(&farm.timeouts)
}

fn service(service: &Service) -> Checked {
    name(&service.name)?;
    for backend in &service.backends {
        name(&backend.name)?;
        bound("weight", backend.weight, 0..=1000)?;
    }
    bound("retries_max", service.retries_max, 0..=10)?;
    span("queue_timeout", service.queue_timeout, 0..=HOUR)?;
    span("slow_start", service.slow_start, 0..=HOUR)?;
    bound("panic_threshold_percent", service.panic_threshold_percent, 0..=100)?;
    service.fallback.iter().try_for_each(fallback)?;
    service.health.iter().try_for_each(health)?;
    match &service.persistence {
        None => Ok(()),
        Some(Persistence::Table(persistence)) => table(persistence),
        Some(Persistence::Cookie(cookie)) => {
            text("cookie", &cookie.name, |b| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&b))?;
            text("cookie's path", &cookie.path, |b| b.is_ascii_graphic() && !matches!(b, b';' | b','))?;
            cookie.ttl.iter().try_for_each(|ttl| span("ttl", *ttl, 1000..=2 * YEAR))
        }
    }
}

fn table(table: &TablePersistence) -> Checked {
    span("idle_timeout", table.idle_timeout, 1000..=YEAR)?;
    table.absolute_timeout.iter().try_for_each(|timeout| span("absolute_timeout", *timeout, 1000..=10 * YEAR))?;
    bound("entries_max", table.entries_max, 1..=100_000_000)?;
    match table.key {
        TableKey::PathSegment(segment) => bound("path_segment", segment, 1..=32),
        TableKey::Source(prefix) => {
            bound("ipv4_prefix", prefix.ipv4_prefix, 1..=32)?;
            bound("ipv6_prefix", prefix.ipv6_prefix, 1..=128)
        }
        TableKey::Header(_) | TableKey::Query(_) | TableKey::LearnedCookie(_) => Ok(()),
    }
}

fn health(health: &Health) -> Checked {
    span("interval", health.interval, 10..=HOUR)?;
    span("timeout", health.timeout, 1..=HOUR)?;
    bound("rise", health.rise, 1..=100)?;
    bound("fall", health.fall, 1..=100)?;
    health.port.iter().try_for_each(|port| bound("port", *port, 1..=u16::MAX))?;
    health.passive_failures.iter().try_for_each(|failures| bound("passive_failures", *failures, 1..=1000))?;
    let Some(http) = &health.http else { return Ok(()) };
    // A check's request is written as it stands here.
    text("method", &http.method, |b| b.is_ascii_graphic())?;
    text("path", &http.path, |b| b.is_ascii_graphic())?;
    http.host.iter().try_for_each(|host| text("host", host, |b| b.is_ascii_graphic()))?;
    http.body_contains.iter().try_for_each(|wanted| bound("body_contains", wanted.len(), 1..=1024))
}

fn fallback(fallback: &Fallback) -> Checked {
    bound("status", fallback.status, 200..=599)?;
    // An answer's head is written as it stands here.
    text("content_type", &fallback.content_type, |b| b.is_ascii_graphic() || b == b' ')
}

fn limits(limits: &Limits) -> Checked {
    bound("connections_max", limits.connections_max, 1..=10_000_000)?;
    bound("header_bytes_max", limits.header_bytes_max.as_bytes(), 1 << 10..=1 << 20)?;
    bound("header_fields_max", limits.header_fields_max, 1..=1000)?;
    bound("uri_bytes_max", limits.uri_bytes_max.as_bytes(), 64..=1 << 20)
}

fn timeouts(timeouts: &Timeouts) -> Checked {
    for (what, limit) in [
        ("client_header", timeouts.client_header),
        ("client_body", timeouts.client_body),
        ("client_idle", timeouts.client_idle),
        ("connect", timeouts.connect),
        ("response_header", timeouts.response_header),
        ("between_bytes", timeouts.between_bytes),
        ("tunnel_idle", timeouts.tunnel_idle),
        ("upstream_idle", timeouts.upstream_idle),
    ] {
        span(what, limit, 1..=YEAR)?;
    }
    span("drain", timeouts.drain, 0..=YEAR)
}

fn sessions(sessions: &Sessions) -> Checked {
    bound("databases", sessions.databases, 1..=1024)?;
    size("memory_max", sessions.memory_max, 1 << 20..=1 << 44)?;
    sessions.vips.iter().try_for_each(|vip| bound("port", vip.port, 1..=u16::MAX))?;
    sessions.keyspaces.iter().try_for_each(|keyspace| name(&keyspace.name))?;
    for user in &sessions.users {
        name(&user.name)?;
        let hash = |hash| text("password_hash", hash, |b| b.is_ascii_graphic());
        user.password_hash.iter().try_for_each(|password| hash(password))?;
    }
    session_limits(&sessions.limits)
}

fn session_limits(limits: &SessionLimits) -> Checked {
    size("value_max", limits.value_max, 1 << 10..=64 << 20)?;
    size("key_max", limits.key_max, 64..=1 << 20)?;
    size("request_max", limits.request_max, 1 << 10..=256 << 20)?;
    bound("arguments_max", limits.arguments_max, 16..=1_048_576)?;
    bound("pipeline_max", limits.pipeline_max, 1..=65_536)?;
    size("output_max", limits.output_max, 1 << 10..=1 << 32)?;
    span("idle_timeout", limits.idle_timeout, 0..=YEAR)?;
    bound("connections_max", limits.connections_max, 1..=1_000_000)?;
    span("write_timeout", limits.write_timeout, 100..=HOUR)?;
    span("deadline", limits.deadline, 100..=60_000)
}

/// Names stand in metrics, logs and paths of names, so none may hold a slash, a quote or the end of a line.
fn name(name: &str) -> Checked {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    bound("length of a name", name.len(), 1..=63)?;
    text("name", name, fits)
}

fn text(what: &str, text: &str, fits: impl Fn(u8) -> bool) -> Checked {
    if !text.is_empty() && text.len() <= 8192 && text.bytes().all(fits) {
        return Ok(());
    }
    Err(format!("the {what} {:?} cannot be one", text.chars().take(60).collect::<String>()))
}

fn span(what: &str, span: Span, millis: RangeInclusive<u64>) -> Checked {
    bound(what, span.as_millis(), millis)
}

fn size(what: &str, size: ByteSize, bytes: RangeInclusive<u64>) -> Checked {
    bound(what, size.as_bytes(), bytes)
}

fn bound<N: PartialOrd + std::fmt::Display>(what: &str, found: N, bounds: RangeInclusive<N>) -> Checked {
    if bounds.contains(&found) {
        return Ok(());
    }
    Err(format!("{what}: {found} is not between {} and {}", bounds.start(), bounds.end()))
}

/// What the rules of number 1 refuse and later ones do not: they know no prefix length of a VIP's address and nothing
/// of where a VIP is placed but `prefer` and `failback`, and nothing of webhooks.
mod first {
    use std::net::IpAddr;

    use serde::{Deserialize, de::IgnoredAny};

    #[derive(Deserialize)]
    struct Document {
        #[serde(default, rename = "vips")]
        _vips: Vec<Vip>,
        #[serde(default, rename = "cluster")]
        _cluster: Cluster,
    }

    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Cluster {
        #[serde(rename = "voters")]
        _voters: IgnoredAny,
        #[serde(rename = "lease")]
        _lease: IgnoredAny,
        #[serde(rename = "freshness")]
        _freshness: IgnoredAny,
        #[serde(rename = "replace_voter_after")]
        _replace_voter_after: IgnoredAny,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Vip {
        #[serde(rename = "name")]
        _name: IgnoredAny,
        #[serde(rename = "addresses")]
        _addresses: Vec<IpAddr>,
        #[serde(default, rename = "prefer")]
        _prefer: IgnoredAny,
        #[serde(default, rename = "failback")]
        _failback: IgnoredAny,
    }

    /// `json` is that of a document in the form that is known today.
    pub(super) fn check(json: &str) -> super::Checked {
        let known = serde_json::from_str::<Document>(json);
        known.map(|_| ()).map_err(|_| "this is not the canonical JSON of a document".to_owned())
    }
}

/// What the rules of numbers 1 and 2 refuse and later ones do not: they know no session store.
mod second {
    use serde::{Deserialize, Deserializer, de::IgnoredAny};

    #[derive(Deserialize)]
    struct Document {
        #[serde(default, deserialize_with = "present")]
        sessions: bool,
    }

    fn present<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
        IgnoredAny::deserialize(from).map(|_| true)
    }

    /// `json` is that of a document in the form that is known today.
    pub(super) fn check(json: &str) -> super::Checked {
        match serde_json::from_str::<Document>(json) {
            Ok(Document { sessions: false }) => Ok(()),
            _ => Err("this is not the canonical JSON of a document".to_owned()),
        }
    }
}

/// What the rules of numbers 1 to 3 refuse and later ones do not: the session store speaks no HTTP.
mod third {
    use serde::{Deserialize, Deserializer, de::IgnoredAny};

    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        sessions: Option<Sessions>,
    }

    #[derive(Deserialize)]
    struct Sessions {
        #[serde(default)]
        vips: Vec<Vip>,
        #[serde(default, deserialize_with = "present")]
        http_listen: bool,
        #[serde(default, deserialize_with = "present")]
        http_tls_listen: bool,
    }

    #[derive(Deserialize)]
    struct Vip {
        #[serde(default, deserialize_with = "present")]
        protocol: bool,
    }

    fn present<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
        IgnoredAny::deserialize(from).map(|_| true)
    }

    /// `json` is that of a document in the form that is known today.
    pub(super) fn check(json: &str) -> super::Checked {
        let old = |sessions: &Sessions| {
            !sessions.http_listen && !sessions.http_tls_listen && !sessions.vips.iter().any(|vip| vip.protocol)
        };
        match serde_json::from_str::<Document>(json) {
            Ok(Document { sessions }) if sessions.iter().all(old) => Ok(()),
            _ => Err("this is not the canonical JSON of a document".to_owned()),
        }
    }
}

/// What the rules of numbers 1 to 4 understand differently from later ones: a request to the session store may have as
/// many words as in Redis if the document does not say how many.
mod fourth {
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        sessions: Option<Sessions>,
    }

    #[derive(Deserialize)]
    struct Sessions {
        #[serde(default)]
        limits: Limits,
    }

    #[derive(Default, Deserialize)]
    struct Limits {
        arguments_max: Option<u32>,
    }

    /// Puts into `document`, which was read from `json`, what was meant by what is not there.
    pub(super) fn complete(json: &str, document: &mut super::Document) -> super::Checked {
        let Some(sessions) = &mut document.sessions else { return Ok(()) };
        let said: Document =
            serde_json::from_str(json).map_err(|_| "this is not the canonical JSON of a document".to_owned())?;
        let said = said.sessions.and_then(|sessions| sessions.limits.arguments_max);
        sessions.limits.arguments_max = said.unwrap_or(1_048_576);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes with the form of a document: its fields, their types and defaults. Whoever changes it adds rules with
    /// the next number, so that replicas that know only these stop instead of refusing what others accept.
    const FORM: &str = "54d231ff1a3c87e42734b447ed668678";

    #[test]
    fn the_form_of_a_document_belongs_to_the_number_of_the_rules() {
        let form = blake3::hash(without_words(crate::config::schema::json_schema()).to_string().as_bytes()).to_hex();
        assert_eq!((RULES, &form[..32]), (5, FORM), "see the comment at FORM");
    }

    /// The schema without what only people read.
    fn without_words(schema: serde_json::Value) -> serde_json::Value {
        match schema {
            serde_json::Value::Object(fields) => {
                let words = |key: &str, value: &serde_json::Value| {
                    matches!(key, "description" | "title" | "examples" | "$comment" | "$id") && !value.is_object()
                };
                let fields = fields.into_iter().filter(|(key, value)| !words(key, value));
                fields.map(|(key, value)| (key, without_words(value))).collect()
            }
            serde_json::Value::Array(items) => items.into_iter().map(without_words).collect(),
            other => other,
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_and_what_makes_no_sense_is_not() {
        let decode = |farm: &str| {
            let json = format!(r#"{{"version":1,"farms":[{{"name":"a","listeners":[],{farm}}}]}}"#);
            decode_committed(1, &json)
        };
        assert!(decode(r#""services":[]"#).is_ok(), "a farm that answers nothing");
        for wrong in [
            r#""services":[{"name":"a/b"}]"#,
            r#""services":[{"name":"a","health":{"interval":"0ms"}}]"#,
            r#""services":[{"name":"a","backends":[{"name":"b","address":"127.0.0.1:1","weight":1001}]}]"#,
            r#""fallback":{"content_type":"text/html\r\nset-cookie: a"}"#,
            r#""limits":{"header_bytes_max":"1GiB"}"#,
            r#""unknown":1"#,
        ] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_number_knows_the_form_of_its_time() {
        let vip = |fields: &str| format!(r#"{{"version":1,"vips":[{{"name":"v","addresses":["10.0.0.1"]{fields}}}]}}"#);
        let old = vip(r#","prefer":["n1"],"failback":"automatic""#);
        assert_eq!(decode_committed(1, &old), decode_committed(2, &old));
        assert!(decode_committed(1, &old).is_ok());
        for new in [
            vip(r#","group":"g""#),
            vip(r#","group":null"#),
            vip(r#","apart_from":[]"#),
            vip(r#","failback_delay":"1s""#),
            vip(r#","nodes":{}"#),
            vip("").replace("10.0.0.1", "10.0.0.1/24"),
            r#"{"version":1,"cluster":{"webhooks":[]}}"#.to_owned(),
        ] {
            assert!(decode_committed(2, &new).is_ok(), "{new}");
            assert_eq!(
                decode_committed(1, &new),
                Err("this is not the canonical JSON of a document".to_owned()),
                "{new}"
            );
        }
        for new in [r#"{"version":1,"sessions":{}}"#, r#"{"version":1,"sessions":null}"#] {
            assert!(decode_committed(3, new).is_ok(), "{new}");
            for rules in [1, 2] {
                let refusal = Err("this is not the canonical JSON of a document".to_owned());
                assert_eq!(decode_committed(rules, new), refusal, "{new}");
            }
        }
        let vip_of =
            |fields: &str| format!(r#"{{"version":1,"sessions":{{"vips":[{{"vip":"v","port":1{fields}}}]}}}}"#);
        assert_eq!(decode_committed(3, &vip_of("")), decode_committed(4, &vip_of("")));
        for new in [
            r#"{"version":1,"sessions":{"http_listen":[]}}"#.to_owned(),
            r#"{"version":1,"sessions":{"http_tls_listen":[]}}"#.to_owned(),
            vip_of(r#","protocol":"resp""#),
        ] {
            assert!(decode_committed(4, &new).is_ok(), "{new}");
            let refusal = Err("this is not the canonical JSON of a document".to_owned());
            assert_eq!(decode_committed(3, &new), refusal, "{new}");
        }
        assert!(decode_committed(2, &vip(r#","failback_delay":"25h""#)).is_err());
        assert!(decode_committed(2, &vip(r#","group":"a/b""#)).is_err());
    }

    #[test]
    fn a_document_keeps_the_defaults_of_its_time() {
        let words = |rules: u32, limits: &str| {
            let json = format!(r#"{{"version":1,"sessions":{{{limits}}}}}"#);
            decode_committed(rules, &json).expect("fits").sessions.expect("given").limits.arguments_max
        };
        for (limits, old) in
            [("", 1_048_576), (r#""limits":{"key_max":"1KiB"}"#, 1_048_576), (r#""limits":{"arguments_max":100}"#, 100)]
        {
            assert_eq!([words(3, limits), words(4, limits)], [old; 2], "{limits}");
            assert_eq!(words(5, limits), old.min(65_536), "{limits}");
        }
        for json in [r#"{"version":1}"#, r#"{"version":1,"sessions":null}"#] {
            assert_eq!(decode_committed(4, json).expect("fits").sessions, None);
        }
    }

    #[test]
    #[should_panic(expected = "upgrade this node")]
    fn rules_of_a_later_release_are_not_guessed() {
        let _ = decode_committed(RULES + 1, "{}");
    }
}
