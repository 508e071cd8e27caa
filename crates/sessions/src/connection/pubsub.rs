//! `SUBSCRIBE` and its like, and `PUBSUB`.

use ballast_core::{
    config::ByteSize,
    session::{Call, Pattern, Reply},
};
use bytes::Bytes;

use super::Connection;
use crate::{
    node::Node,
    policy::{Access, Policy},
    subscribers::Kind,
    wire::Out,
};

/// Channels and patterns of one connection. Arbitrary: what is remembered of them is bounded so.
const SUBSCRIPTIONS_MAX: usize = 65_536;
/// Bytes of their names, and of what patterns are read into. As arbitrary: 256 for each of them.
const NAMES_BYTES_MAX: usize = 16 << 20;

impl Connection {
    pub(super) fn subscribe(&mut self, kind: Kind, call: &Call, policy: &Policy, out: &mut Out<'_>) {
        let name_max = policy.settings.limits.key_max;
        for name in &call.args {
            if self.channels.len() + self.patterns.len() >= SUBSCRIPTIONS_MAX {
                out.error(b"ERR too many subscriptions on this connection (65536)");
                continue;
            }
            if name.len() as u64 > name_max.as_bytes() {
                out.reply(&longer(kind, name_max));
                continue;
            }
            let takes = takes(kind, name);
            if self.names_bytes + takes > NAMES_BYTES_MAX {
                out.error(b"ERR the names of the subscriptions on this connection take too much (16MiB)");
                continue;
            }
            // The name would keep the whole request in memory.
            let name = Bytes::copy_from_slice(name);
            if self.names(kind).insert(name.clone()) {
                self.names_bytes += takes;
                self.begun.insert((kind, name.clone()));
            }
            self.confirm(kind, true, Some(&name), out);
        }
        self.count_subscriptions();
    }

    pub(super) fn unsubscribe(&mut self, kind: Kind, call: &Call, node: &Node, out: &mut Out<'_>) {
        let names: Vec<Bytes> =
            if call.args.is_empty() { self.names(kind).iter().cloned().collect() } else { call.args.clone() };
        if names.is_empty() {
            self.confirm(kind, false, None, out);
        }
        for name in &names {
            if self.names(kind).remove(name) {
                self.names_bytes -= takes(kind, name);
                if !self.begun.remove(&(kind, name.clone())) {
                    node.subscribers.remove(kind, name, &self.card);
                    self.has_left = true;
                }
            }
            self.confirm(kind, false, Some(name), out);
        }
        self.count_subscriptions();
    }

    fn names(&mut self, kind: Kind) -> &mut std::collections::BTreeSet<Bytes> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }

    fn confirm(&self, kind: Kind, on: bool, name: Option<&[u8]>, out: &mut Out<'_>) {
        let word: &[u8] = match (kind, on) {
            (Kind::Channel, true) => b"subscribe",
            (Kind::Channel, false) => b"unsubscribe",
            (Kind::Pattern, true) => b"psubscribe",
            (Kind::Pattern, false) => b"punsubscribe",
        };
        out.push(3);
        out.bulk(word);
        match name {
            Some(name) => out.bulk(name),
            None => out.null(),
        }
        out.integer((self.channels.len() + self.patterns.len()) as i64);
    }

    fn count_subscriptions(&self) {
        let (channels, patterns) = (self.channels.len(), self.patterns.len());
        self.facts(|facts| (facts.channels, facts.patterns) = (channels, patterns));
    }
}

/// What is told of a name that is longer than names may be.
pub(super) fn longer(kind: Kind, name_max: ByteSize) -> Reply {
    let what = match kind {
        Kind::Channel => "channel",
        Kind::Pattern => "pattern",
    };
    Reply::Error(format!("ERR {what} is longer than the {name_max} that are allowed").into())
}

/// Whether a call holds something against a pattern that is longer than `key_max`, or publishes on such a channel. Names of
/// subscriptions are answered each for itself.
pub(super) fn long_name(call: &Call, policy: &Policy) -> Option<Kind> {
    let name_max = policy.settings.limits.key_max.as_bytes();
    let is_long = |names: &[Bytes]| names.iter().any(|name| name.len() as u64 > name_max);
    match call.spec().name {
        "publish" => is_long(&call.args[..1]).then_some(Kind::Channel),
        "pubsub|channels" | "config|get" | "command|list" => is_long(&call.args[1..]).then_some(Kind::Pattern),
        _ => None,
    }
}

/// Bytes that are kept for a subscription.
fn takes(kind: Kind, name: &[u8]) -> usize {
    match kind {
        Kind::Channel => name.len(),
        Kind::Pattern => name.len() + Pattern::bytes_max(name.len()),
    }
}

/// `PUBSUB`, of this node's subscribers, as far as `access` may know of them.
pub(super) fn ask(call: &Call, access: &Access, node: &Node, out: &mut Out<'_>) {
    match (call.spec().name, &call.args[1..]) {
        ("pubsub|channels", pattern @ ([] | [_])) => {
            match node.subscribers.channels(pattern.first().map(|pattern| &pattern[..]), access) {
                Some(channels) => list(&channels, out),
                None => {
                    out.error(b"ERR it takes too much to hold all channels against this pattern; use a simpler one")
                }
            }
        }
        ("pubsub|numsub", channels) => {
            out.array(channels.len() * 2);
            for channel in channels {
                out.bulk(channel);
                out.integer(node.subscribers.named(channel, access) as i64);
            }
        }
        ("pubsub|numpat", _) => out.integer(node.subscribers.patterns() as i64),
        ("pubsub|help", _) => super::own_help(out, HELP),
        _ => out.error(b"ERR unknown subcommand or wrong number of arguments for 'CHANNELS'. Try PUBSUB HELP."),
    }
}

fn list(channels: &[Bytes], out: &mut Out<'_>) {
    out.array(channels.len());
    channels.iter().for_each(|channel| out.bulk(channel));
}

const HELP: &[&str] = &[
    "PUBSUB <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CHANNELS [<pattern>]",
    "    Return the currently active channels matching a <pattern> (default: '*').",
    "NUMPAT",
    "    Return number of subscriptions to patterns.",
    "NUMSUB [<channel> ...]",
    "    Return the number of subscribers for the specified channels, excluding",
    "    pattern subscriptions(default: no channels).",
    "HELP",
    "    Prints this help.",
];
