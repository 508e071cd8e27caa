//! `CONFIG`: what clients ask for, told from the document. Nothing is changed here.

use ballast_core::session::{Call, NotifyFlags, Pattern};
use bytes::Bytes;

use crate::{policy::Policy, wire::Out};

/// Answers `CONFIG` and its subcommands.
pub(super) fn config(call: &Call, policy: &Policy, out: &mut Out<'_>) {
    match call.spec().name {
        "config|get" => get(&call.args[1..], policy, out),
        "config|set" => set(&call.args[1..], policy, out),
        // Counters of metrics only grow.
        "config|resetstat" => out.ok(),
        "config|rewrite" => out.error(b"ERR The server is running without a config file"),
        _ => super::own_help(out, HELP),
    }
}

/// The parameters that Redis' clients and tools ask for.
fn parameters(policy: &Policy) -> Vec<(&'static str, String)> {
    let settings = &policy.settings;
    let limits = &settings.limits;
    let text = str::to_owned;
    vec![
        ("appendfsync", text("always")),
        ("appendonly", text("yes")),
        ("databases", settings.databases.to_string()),
        ("maxclients", limits.connections_max.to_string()),
        ("maxmemory", settings.memory_max.as_bytes().to_string()),
        ("maxmemory-policy", text(settings.eviction.as_str())),
        ("notify-keyspace-events", settings.config.notify.clone()),
        ("proto-max-bulk-len", limits.value_max.as_bytes().to_string()),
        ("protected-mode", text(if settings.protected { "yes" } else { "no" })),
        ("save", String::new()),
        ("timeout", limits.idle_timeout.duration().as_secs().to_string()),
    ]
}

fn get(patterns: &[Bytes], policy: &Policy, out: &mut Out<'_>) {
    let parameters = parameters(policy);
    let mut found: Vec<(Bytes, String)> = Vec::new();
    for pattern in patterns {
        let lower = Pattern::new(&pattern.to_ascii_lowercase());
        // As in Redis, a name is answered as it was asked for.
        let is_name = !pattern.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['));
        for (name, value) in parameters.iter().filter(|(name, _)| lower.matches(name.as_bytes())) {
            let name = if is_name { pattern.clone() } else { Bytes::from_static(name.as_bytes()) };
            if !found.iter().any(|(known, _)| known.eq_ignore_ascii_case(&name)) {
                found.push((name, value.clone()));
            }
        }
    }
    out.map(found.len());
    for (name, value) in found {
        out.bulk(&name);
        out.bulk(value.as_bytes());
    }
}

fn set(words: &[Bytes], policy: &Policy, out: &mut Out<'_>) {
    for pair in words.chunks(2) {
        let name = String::from_utf8_lossy(&pair[0]).to_ascii_lowercase();
        let is_known = parameters(policy).iter().any(|(known, _)| *known == name);
        let [_, value] = pair else {
            return unknown(&name, out);
        };
        if !is_known {
            return unknown(&name, out);
        }
        if let Err(why) = covers(&name, value, policy) {
            let text = format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}");
            return out.error(text.as_bytes());
        }
    }
    out.ok();
}

fn unknown(name: &str, out: &mut Out<'_>) {
    out.error(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'").as_bytes());
}

/// Whether the document already says at least what a client wants.
fn covers(name: &str, value: &[u8], policy: &Policy) -> Result<(), String> {
    let value = String::from_utf8_lossy(value);
    if name != "notify-keyspace-events" {
        let field = field(name);
        return match parameters(policy).iter().any(|(known, is)| *known == name && *is == value) {
            true => Ok(()),
            false => Err(format!("settings are the cluster's; change {field} in its document")),
        };
    }
    // `m`, for keys that were not found, is known to Redis and never published here.
    let wanted = NotifyFlags::parse(&value.replace('m', ""));
    let wanted = wanted.ok_or("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")?;
    let is_missing = |flag: &char| wanted.contains(*flag) && !policy.settings.notify.contains(*flag);
    let missing: String = EVENTS.chars().filter(is_missing).chain(value.chars().filter(|flag| *flag == 'm')).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the cluster's document does not publish '{missing}'; set sessions.notify to \"{value}\" in it (it is \"{}\")",
        policy.settings.config.notify
    ))
}

/// Where events go and those kinds of them that commands of Ballast make.
const EVENTS: &str = "KEg$shxen";

fn field(name: &str) -> &'static str {
    match name {
        "databases" => "sessions.databases",
        "maxclients" => "sessions.limits.connections_max",
        "maxmemory" => "sessions.memory_max",
        "maxmemory-policy" => "sessions.eviction",
        "proto-max-bulk-len" => "sessions.limits.value_max",
        "protected-mode" => "sessions.protected",
        "timeout" => "sessions.limits.idle_timeout",
        _ => "sessions",
    }
}

const HELP: &[&str] = &[
    "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "SET <directive> <value>",
    "    Succeed if the cluster's document says the same already.",
    "HELP",
    "    Prints this help.",
];
