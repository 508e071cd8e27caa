//! Who a connection is and what it speaks: `AUTH` and `HELLO`.

use std::{fmt, sync::Arc};

use ballast_core::session::{Call, Reply, parse_integer};
use bytes::Bytes;

use super::{Connection, Step};
use crate::{
    policy::{DEFAULT_USER, Policy},
    wire::{Out, Resp},
};

/// The version of Redis that Ballast behaves like.
pub const REDIS_VERSION: &str = "7.0.15";

/// A password to verify.
pub struct Login {
    /// Whose.
    pub user: String,
    /// The password.
    pub password: Bytes,
    /// What it is held against; `None` if there is no such user.
    pub stored: Option<Arc<str>>,
    /// The rest of a `HELLO`.
    pub hello: Option<Hello>,
}

/// Without the password, and what it is held against.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).field("hello", &self.hello).finish_non_exhaustive()
    }
}

/// What a `HELLO` asks for besides a login.
#[derive(Clone, Debug, Default)]
pub struct Hello {
    resp: Option<Resp>,
    name: Option<Bytes>,
}

/// Longest name of a connection. `CLIENT LIST` tells all of them at once; arbitrary beyond that.
const NAME_MAX: usize = 1024;

const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

impl Connection {
    pub(super) fn auth(call: &Call, policy: &Policy, out: &mut Out<'_>) -> Step {
        let (user, password) = match call.args.as_slice() {
            [_] if !policy.has_users() => {
                out.error(
                    b"ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                      configuration is correct?",
                );
                return Step::Answered;
            }
            [password] => (Bytes::from_static(DEFAULT_USER.as_bytes()), password.clone()),
            [user, password] => (user.clone(), password.clone()),
            _ => {
                out.error(b"ERR syntax error");
                return Step::Answered;
            }
        };
        if !policy.has_users() {
            // The only user there is has no password, so any will do.
            if *user == *DEFAULT_USER.as_bytes() {
                out.ok()
            } else {
                out.error(WRONGPASS.as_bytes())
            }
            return Step::Answered;
        }
        Self::login(&user, password, None, policy)
    }

    fn login(user: &[u8], password: Bytes, hello: Option<Hello>, policy: &Policy) -> Step {
        let user = String::from_utf8_lossy(user).into_owned();
        let stored = policy.password_hash(&user);
        Step::Login(Login { user, password, stored, hello })
    }

    pub(super) fn hello(&mut self, call: &Call, policy: &Policy, out: &mut Out<'_>) -> Step {
        let mut hello = Hello::default();
        let mut words = call.args.as_slice();
        if let [version, rest @ ..] = words {
            hello.resp = match parse_integer(version) {
                Some(2) => Some(Resp::Two),
                Some(3) => Some(Resp::Three),
                Some(_) => {
                    out.error(b"NOPROTO unsupported protocol version");
                    return Step::Answered;
                }
                None => {
                    out.error(b"ERR Protocol version is not an integer or out of range");
                    return Step::Answered;
                }
            };
            words = rest;
        }
        let mut login = None;
        loop {
            words = match words {
                [] => break,
                [option, user, password, rest @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                    login = Some((user.clone(), password.clone()));
                    rest
                }
                [option, name, rest @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                    hello.name = Some(name.clone());
                    rest
                }
                [option, ..] => {
                    out.error(&[b"ERR Syntax error in HELLO option '", &option[..], b"'"].concat());
                    return Step::Answered;
                }
            };
        }
        match login {
            Some((user, password)) if policy.has_users() => Self::login(&user, password, Some(hello), policy),
            Some((user, _)) if *user != *DEFAULT_USER.as_bytes() => {
                out.error(WRONGPASS.as_bytes());
                Step::Answered
            }
            Some(_) | None => {
                self.greet(hello, out);
                Step::Answered
            }
        }
    }

    /// A password was found right or wrong.
    pub fn logged_in(&mut self, login: Login, right: bool, policy: &Policy, buf: &mut Vec<u8>) {
        let before = buf.len();
        let mut out = Out::new(buf, self.resp);
        // The settings may have changed while the password was being verified.
        let access = policy.access(&login.user).filter(|_| right);
        match (access, login.hello) {
            (None, _) => out.error(WRONGPASS.as_bytes()),
            (Some(access), hello) => {
                self.take_access(Some(access));
                match hello {
                    Some(hello) => self.greet(hello, &mut out),
                    None => out.ok(),
                }
            }
        }
        if self.is_silent() {
            buf.truncate(before);
        }
    }

    fn greet(&mut self, hello: Hello, out: &mut Out<'_>) {
        if self.access.is_none() {
            out.error(
                b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> \
                  option can be used to authenticate the client and select the RESP protocol version at the same time",
            );
            return;
        }
        if let Some(name) = hello.name
            && let Err(reply) = self.set_name(&name)
        {
            out.reply(&reply);
            return;
        }
        if let Some(resp) = hello.resp {
            self.resp = resp;
            self.facts(|facts| facts.resp = resp);
            out.speak(resp);
        }
        out.map(7);
        for (key, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
            out.bulk(key.as_bytes());
            out.bulk(value.as_bytes());
        }
        out.bulk(b"proto");
        out.integer(self.resp.number());
        out.bulk(b"id");
        out.integer(i64::try_from(self.card.id).unwrap_or(i64::MAX));
        for (key, value) in [("mode", "standalone"), ("role", "master")] {
            out.bulk(key.as_bytes());
            out.bulk(value.as_bytes());
        }
        out.bulk(b"modules");
        out.array(0);
    }

    pub(super) fn set_name(&mut self, name: &[u8]) -> Result<(), Reply> {
        if name.len() > NAME_MAX {
            return Err(Reply::error("ERR Client names cannot be longer than 1024 bytes."));
        }
        if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
            return Err(Reply::error("ERR Client names cannot contain spaces, newlines or special characters."));
        }
        let name = String::from_utf8_lossy(name).into_owned();
        self.facts(|facts| facts.name = name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        let hello = Some(Hello { resp: Some(Resp::Three), name: None });
        let (password, stored) = (Bytes::from_static(b"sesame"), Some("$argon2id$sesame".into()));
        let shown = format!("{:?}", Step::Login(Login { user: "anna".to_owned(), password, stored, hello }));
        assert!(shown.contains("anna") && shown.contains("Three"), "{shown}");
        assert!(!shown.contains("sesame"), "{shown}");
    }
}
