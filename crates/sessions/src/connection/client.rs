//! `CLIENT`: what is told of connections, and what they are told of themselves.

use std::{collections::HashSet, sync::Arc};

use ballast_core::session::{Call, Reply, parse_integer};
use bytes::Bytes;

use super::{Connection, Silence, Step};
use crate::{clients::Card, node::Node, policy::Policy, wire::Out};

/// `CLIENT SETINFO` and `CLIENT NO-TOUCH`, which clients of today send and Redis 7.0 does not have yet. Reads never count
/// as a touch here, and what library a client uses is of no interest, so both are taken and change nothing.
pub(super) fn beyond_redis_seven(argv: &[Bytes]) -> Option<Reply> {
    let [client, subcommand, rest @ ..] = argv else { return None };
    if client.len() != 6 || !client.eq_ignore_ascii_case(b"client") {
        return None;
    }
    let is = |word: &Bytes, text: &str| word.eq_ignore_ascii_case(text.as_bytes());
    if is(subcommand, "setinfo") {
        return Some(match rest {
            [option, value] if is(option, "lib-name") || is(option, "lib-ver") => {
                if value.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
                    Reply::OK
                } else {
                    let text = "cannot contain spaces, newlines or special characters.";
                    Reply::Error(format!("ERR {} {text}", String::from_utf8_lossy(option)).into())
                }
            }
            [option, _] => {
                Reply::Error(format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(option)).into())
            }
            _ => Reply::error("ERR wrong number of arguments for 'client|setinfo' command"),
        });
    }
    if is(subcommand, "no-touch") {
        return Some(match rest {
            [word] if is(word, "on") || is(word, "off") => Reply::OK,
            [_] => Reply::error("ERR syntax error"),
            _ => Reply::error("ERR wrong number of arguments for 'client|no-touch' command"),
        });
    }
    None
}

const SYNTAX: &[u8] = b"ERR syntax error";

impl Connection {
    pub(super) fn client(&mut self, call: &Call, node: &Node, policy: &Policy, out: &mut Out<'_>) -> Step {
        let args = &call.args[1..];
        match call.spec().name {
            "client|id" => out.integer(i64::try_from(self.card.id).unwrap_or(i64::MAX)),
            "client|getname" => {
                let name = self.card.facts().name.clone();
                if name.is_empty() { out.null() } else { out.bulk(name.as_bytes()) }
            }
            "client|setname" => match self.set_name(&args[0]) {
                Ok(()) => out.ok(),
                Err(reply) => out.reply(&reply),
            },
            "client|info" => out.verbatim(self.card.line(node.now_ms(), Some("client|info")).as_bytes()),
            "client|list" => self.list(args, node, policy, out),
            "client|kill" => return self.kill(args, node, out),
            "client|reply" => self.reply_mode(&args[0], out),
            // Shown, and nothing more: whoever could exempt itself would have the others cut.
            "client|no-evict" => match switch(&args[0]) {
                Some(on) => {
                    self.facts(|facts| facts.no_evict = on);
                    out.ok();
                }
                None => out.error(SYNTAX),
            },
            "client|help" => super::own_help(out, HELP),
            name => {
                let name = name.replace('|', " ").to_ascii_uppercase();
                out.error(format!("ERR {name} is not supported by Ballast").as_bytes());
            }
        }
        Step::Answered
    }

    fn reply_mode(&mut self, mode: &[u8], out: &mut Out<'_>) {
        if mode.eq_ignore_ascii_case(b"on") {
            self.silence = Silence::Off;
            out.ok();
        } else if mode.eq_ignore_ascii_case(b"off") {
            self.silence = Silence::On;
        } else if mode.eq_ignore_ascii_case(b"skip") {
            if self.silence != Silence::On {
                self.silence = Silence::Next;
            }
        } else {
            out.error(SYNTAX);
        }
    }

    /// Connections that this one may see and end: those of its own user.
    fn peers(&self, node: &Node) -> Vec<Arc<Card>> {
        let mut cards = node.clients.all();
        cards.retain(|card| self.is_of_own_user(card));
        cards
    }

    fn is_of_own_user(&self, card: &Card) -> bool {
        let name = |access: &Arc<crate::policy::Access>| access.user.clone();
        let other = card.facts().access.as_ref().map(name);
        card.id == self.card.id || other == self.access.as_ref().map(name)
    }

    fn list(&self, args: &[Bytes], node: &Node, policy: &Policy, out: &mut Out<'_>) {
        let mut cards = self.peers(node);
        match args {
            [] => {}
            [option, kind] if option.eq_ignore_ascii_case(b"type") => match Type::parse(kind) {
                Some(kind) => cards.retain(|card| kind.fits(card)),
                None => return out.error(&unknown_type(kind)),
            },
            [option, ids @ ..] if option.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
                let ids: Option<HashSet<i64>> = ids.iter().map(|id| parse_integer(id)).collect();
                let Some(ids) = ids else { return out.error(b"ERR Invalid client ID") };
                cards.retain(|card| ids.contains(&i64::try_from(card.id).unwrap_or(i64::MAX)));
            }
            _ => return out.error(SYNTAX),
        }
        let now_ms = node.now_ms();
        let mut text = String::new();
        for card in cards {
            text += &card.line(now_ms, (card.id == self.card.id).then_some("client|list"));
            if text.len() > policy.limits.output_max {
                // An error is told instead.
                break;
            }
        }
        out.verbatim(text.as_bytes());
    }

    fn kill(&mut self, args: &[Bytes], node: &Node, out: &mut Out<'_>) -> Step {
        let mut filter = Filter { skip_me: true, ..Filter::default() };
        if let [address] = args {
            filter = Filter { peer: Some(address), skip_me: false, ..filter };
        } else if let Err(text) = filter.parse(args, node) {
            out.error(&text);
            return Step::Answered;
        }
        let mut cards = self.peers(node);
        cards.retain(|card| filter.fits(card) && !(filter.skip_me && card.id == self.card.id));
        let itself = cards.iter().any(|card| card.id == self.card.id);
        cards.iter().filter(|card| card.id != self.card.id).for_each(|card| card.end());
        match (args.len(), cards.len()) {
            (1, 0) => out.error(b"ERR No such client"),
            (1, _) => out.ok(),
            (_, killed) => out.integer(killed as i64),
        }
        if itself { Step::Close } else { Step::Answered }
    }
}

#[derive(Default)]
struct Filter<'a> {
    id: Option<u64>,
    kind: Option<Type>,
    peer: Option<&'a [u8]>,
    local: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    skip_me: bool,
}

impl<'a> Filter<'a> {
    fn parse(&mut self, args: &'a [Bytes], node: &Node) -> Result<(), Vec<u8>> {
        for pair in args.chunks(2) {
            let [option, value] = pair else { return Err(SYNTAX.to_vec()) };
            let is = |text: &str| option.eq_ignore_ascii_case(text.as_bytes());
            if is("id") {
                let id = parse_integer(value).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
                self.id = Some(id.ok_or_else(|| b"ERR client-id should be greater than 0".to_vec())?);
            } else if is("type") {
                self.kind = Some(Type::parse(value).ok_or_else(|| unknown_type(value))?);
            } else if is("addr") {
                self.peer = Some(value);
            } else if is("laddr") {
                self.local = Some(value);
            } else if is("user") {
                let known = std::str::from_utf8(value).is_ok_and(|user| node.policy().access(user).is_some());
                if !known {
                    return Err([b"ERR No such user '", &value[..], b"'"].concat());
                }
                self.user = Some(value);
            } else if is("skipme") {
                self.skip_me = match value {
                    _ if value.eq_ignore_ascii_case(b"yes") => true,
                    _ if value.eq_ignore_ascii_case(b"no") => false,
                    _ => return Err(SYNTAX.to_vec()),
                };
            } else {
                return Err(SYNTAX.to_vec());
            }
        }
        Ok(())
    }

    fn fits(&self, card: &Card) -> bool {
        let user = |user: &&[u8]| card.facts().access.as_ref().is_some_and(|access| access.user.as_bytes() == *user);
        self.id.is_none_or(|id| card.id == id)
            && self.kind.is_none_or(|kind| kind.fits(card))
            && self.peer.is_none_or(|peer| card.peer.as_bytes() == peer)
            && self.local.is_none_or(|local| card.local.as_bytes() == local)
            && self.user.as_ref().is_none_or(user)
    }
}

/// What Redis sorts connections into.
#[derive(Clone, Copy)]
enum Type {
    Normal,
    PubSub,
    /// Of its replication, which Ballast does not have.
    Replication,
}

impl Type {
    fn parse(text: &[u8]) -> Option<Self> {
        match text.to_ascii_lowercase().as_slice() {
            b"normal" => Some(Self::Normal),
            b"pubsub" => Some(Self::PubSub),
            b"slave" | b"replica" | b"master" => Some(Self::Replication),
            _ => None,
        }
    }

    fn fits(self, card: &Card) -> bool {
        let facts = card.facts();
        match (self, facts.channels + facts.patterns) {
            (Self::Normal, subscriptions) => subscriptions == 0,
            (Self::PubSub, subscriptions) => subscriptions != 0,
            (Self::Replication, _) => false,
        }
    }
}

fn unknown_type(text: &[u8]) -> Vec<u8> {
    [b"ERR Unknown client type '", text, b"'"].concat()
}

fn switch(text: &[u8]) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case(b"on") => Some(true),
        _ if text.eq_ignore_ascii_case(b"off") => Some(false),
        _ => None,
    }
}

const HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections of the same user. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made from the specified address",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made to specified local address",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Kill connections by type.",
    "    * USER <username>",
    "      Kill connections authenticated by <username>.",
    "    * SKIPME (YES|NO)",
    "      Skip killing current connection (default: yes).",
    "LIST [options ...]",
    "    Return information about client connections of the same user. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "NO-EVICT (ON|OFF)",
    "    Succeed without effect: whoever takes the most memory is cut.",
    "HELP",
    "    Prints this help.",
];
