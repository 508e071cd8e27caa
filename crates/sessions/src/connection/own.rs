//! The table of commands that concern the connection alone, and the short ones among them.

use ballast_core::session::{Call, Watched, parse_database};

use super::{Connection, Exec, Silence, Step, Transaction};
use crate::{
    node::Node,
    policy::Policy,
    subscribers::Kind,
    wire::{Out, Resp},
};

impl Connection {
    pub(super) fn dispatch(&mut self, call: &Call, node: &Node, policy: &Policy, buf: &mut Vec<u8>) -> Step {
        let args = &call.args;
        let mut out = Out::new(buf, self.resp);
        match call.spec().name {
            "ping" => self.ping(call, &mut out),
            "echo" => out.bulk(&args[0]),
            "select" => self.select(call, policy, &mut out),
            "quit" => {
                out.ok();
                return Step::Close;
            }
            "reset" => {
                self.reset(node, policy);
                if let Err(why) = self.trust.admit(policy) {
                    self.take_access(None);
                    out.reply(&why.reply());
                    return Step::Close;
                }
                out.simple("RESET");
            }
            "auth" => return Self::auth(call, policy, &mut out),
            "hello" => return self.hello(call, policy, &mut out),
            "readonly" | "readwrite" => {
                self.stale = Some(call.spec().name == "readonly");
                out.ok();
            }
            "multi" if self.transaction.is_some() => out.error(b"ERR MULTI calls can not be nested"),
            "multi" => {
                let database = self.database;
                self.transaction =
                    Some(Transaction { calls: Vec::new(), bytes: 0, sent: 0, words: 0, database, broken: false });
                self.facts(|facts| facts.queued = Some(0));
                out.ok();
            }
            "exec" => return self.exec(&mut out),
            "discard" if self.transaction.is_none() => out.error(b"ERR DISCARD without MULTI"),
            "discard" => {
                self.discard();
                out.ok();
            }
            "watch" if self.transaction.is_some() => out.error(b"ERR WATCH inside MULTI is not allowed"),
            "watch" => {
                let key_max = policy.settings.limits.key_max;
                if args.iter().all(|key| key.len() as u64 <= key_max.as_bytes()) {
                    return Step::Watch(args.clone());
                }
                out.error(format!("ERR key is longer than the {key_max} that are allowed").as_bytes());
            }
            "unwatch" => {
                self.unwatch();
                out.ok();
            }
            "subscribe" => self.subscribe(Kind::Channel, call, policy, &mut out),
            "psubscribe" => self.subscribe(Kind::Pattern, call, policy, &mut out),
            "unsubscribe" => self.unsubscribe(Kind::Channel, call, node, &mut out),
            "punsubscribe" => self.unsubscribe(Kind::Pattern, call, node, &mut out),
            name if name.starts_with("pubsub") => {
                if let Some(access) = &self.access {
                    super::pubsub::ask(call, access, node, &mut out);
                }
            }
            name if name.starts_with("client") => return self.client(call, node, policy, &mut out),
            name if name.starts_with("command") => {
                super::command::tell(call, policy.limits.output_max, &mut out);
            }
            name if name.starts_with("config") => super::config::config(call, policy, &mut out),
            "info" => {
                if let Some(access) = &self.access {
                    out.verbatim(super::info::info(args, access, node, policy).as_bytes());
                }
            }
            name => out.error(format!("ERR '{name}' is not supported by Ballast").as_bytes()),
        }
        Step::Answered
    }

    fn ping(&self, call: &Call, out: &mut Out<'_>) {
        match (call.args.as_slice(), self.resp == Resp::Two && self.listens()) {
            ([], false) => out.simple("PONG"),
            ([text], false) => out.bulk(text),
            ([], true) => {
                out.array(2);
                out.bulk(b"pong");
                out.bulk(b"");
            }
            ([text], true) => {
                out.array(2);
                out.bulk(b"pong");
                out.bulk(text);
            }
            _ => out.error(b"ERR wrong number of arguments for 'ping' command"),
        }
    }

    fn select(&mut self, call: &Call, policy: &Policy, out: &mut Out<'_>) {
        let database = parse_database(&call.args[0], policy.settings.databases);
        let allowed = |database: &u16| self.access.as_ref().map_or(Ok(()), |access| access.check_database(*database));
        match database.and_then(|database| allowed(&database).map(|()| database)) {
            Ok(database) => {
                self.database = database;
                self.card.database.store(database, std::sync::atomic::Ordering::Relaxed);
                out.ok();
            }
            Err(reply) => out.reply(&reply),
        }
    }

    fn reset(&mut self, node: &Node, policy: &Policy) {
        self.discard();
        self.end(&node.subscribers);
        self.resp = Resp::Two;
        self.database = 0;
        self.stale = None;
        self.silence = Silence::Off;
        self.card.database.store(0, std::sync::atomic::Ordering::Relaxed);
        self.take_access(policy.anybody());
        self.facts(|facts| {
            let access = facts.access.take();
            *facts = crate::clients::Facts { access, ..Default::default() };
        });
    }

    fn exec(&mut self, out: &mut Out<'_>) -> Step {
        let Some(transaction) = self.transaction.take() else {
            out.error(b"ERR EXEC without MULTI");
            return Step::Answered;
        };
        let watched = std::mem::take(&mut self.watched).into_iter();
        let watched = watched.map(|((database, key), version)| Watched { database, key, version }).collect();
        let is_unguarded = self.is_unguarded;
        self.discard();
        if transaction.broken || is_unguarded {
            out.error(b"EXECABORT Transaction discarded because of previous errors.");
            return Step::Answered;
        }
        // What a user may do may have changed since its commands were queued.
        let access = self.access.as_ref();
        let check = |call: &Call| access.and_then(|access| access.check_queued(call).err());
        let calls = transaction.calls.into_iter().map(|call| {
            let refused = check(&call);
            (call, refused)
        });
        Step::Exec(Exec { calls: calls.collect(), watched })
    }
}
