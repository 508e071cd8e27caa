//! `INFO`: what tools that know Redis want to see.

use std::fmt::Write as _;

use ballast_core::session::Stats;
use bytes::Bytes;

use super::hello::REDIS_VERSION;
use crate::{
    node::Node,
    policy::{Access, Policy},
};

const SECTIONS: [&str; 9] =
    ["server", "clients", "memory", "persistence", "stats", "replication", "cluster", "commandstats", "keyspace"];

/// The sections that were asked for; without any, all but `commandstats`, as in Redis. Of databases those that `access` may
/// count.
pub(super) fn info(asked: &[Bytes], access: &Access, node: &Node, policy: &Policy) -> String {
    let names: Vec<String> = asked.iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let has = |name: &str| names.iter().any(|asked| asked == name);
    let (all, default) = (has("all") || has("everything"), names.is_empty() || has("default"));
    let mut text = String::new();
    let mut stats = node.sessions.stats();
    stats.databases.retain(|database| access.may_count(database.database));
    for section in SECTIONS {
        if all || has(section) || default && section != "commandstats" {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            // Writing to a string does not fail.
            let _ = write_section(section, node, policy, &stats, &mut text);
        }
    }
    text
}

fn write_section(section: &str, node: &Node, policy: &Policy, stats: &Stats, text: &mut String) -> std::fmt::Result {
    let mut title = section.to_owned();
    title[..1].make_ascii_uppercase();
    write!(text, "# {title}\r\n")?;
    match section {
        "server" => {
            write!(text, "redis_version:{REDIS_VERSION}\r\n")?;
            write!(text, "redis_mode:standalone\r\n")?;
            write!(text, "ballast_version:{}\r\n", env!("CARGO_PKG_VERSION"))?;
            write!(text, "arch_bits:{}\r\n", usize::BITS)?;
            write!(text, "process_id:{}\r\n", std::process::id())?;
            write!(text, "run_id:{}\r\n", node.run_id)?;
            let uptime = node.now_ms().saturating_sub(node.since_ms) / 1000;
            write!(text, "uptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n", uptime / 86_400)?;
        }
        "clients" => {
            let (clients, subscribed) = (node.clients.count(), node.subscribers.any());
            write!(text, "connected_clients:{clients}\r\nmaxclients:{}\r\n", policy.limits.connections_max)?;
            write!(text, "blocked_clients:0\r\npubsub_in_use:{}\r\n", u8::from(subscribed))?;
        }
        "memory" => {
            write!(text, "used_memory:{}\r\n", stats.bytes)?;
            write!(text, "maxmemory:{}\r\n", policy.settings.memory_max.as_bytes())?;
            write!(text, "maxmemory_policy:{}\r\n", policy.settings.eviction.as_str())?;
        }
        "persistence" => write!(text, "loading:0\r\nrdb_bgsave_in_progress:0\r\naof_enabled:1\r\n")?,
        "stats" => {
            let counted = node.stats();
            let commands: u64 = counted.commands.iter().map(|command| command.calls_total).sum();
            write!(text, "total_connections_received:{}\r\n", counted.totals.accepted_total)?;
            write!(text, "total_commands_processed:{commands}\r\n")?;
            write!(text, "total_net_input_bytes:{}\r\n", counted.totals.bytes_in_total)?;
            write!(text, "total_net_output_bytes:{}\r\n", counted.totals.bytes_out_total)?;
            write!(text, "rejected_connections:{}\r\n", counted.totals.refused_total)?;
            write!(text, "expired_keys:{}\r\n", stats.totals.expired)?;
            write!(text, "evicted_keys:{}\r\n", stats.totals.evicted)?;
            write!(text, "pubsub_channels:{}\r\n", node.subscribers.channel_count())?;
            write!(text, "pubsub_patterns:{}\r\n", node.subscribers.patterns())?;
        }
        "replication" => write!(text, "role:master\r\nconnected_slaves:0\r\n")?,
        "cluster" => write!(text, "cluster_enabled:0\r\n")?,
        "commandstats" => {
            for command in node.stats().commands.iter().filter(|command| command.calls_total != 0) {
                let (calls, us) = (command.calls_total, command.durations.sum_us);
                let each = us as f64 / calls as f64;
                write!(
                    text,
                    "cmdstat_{}:calls={calls},usec={us},usec_per_call={each:.2},rejected_calls=0,failed_calls={}\r\n",
                    command.name, command.errors_total
                )?;
            }
        }
        _ => {
            for database in &stats.databases {
                let (number, keys, ending) = (database.database, database.keys, database.ending);
                write!(text, "db{number}:keys={keys},expires={ending},avg_ttl=0\r\n")?;
            }
        }
    }
    Ok(())
}
