//! Passwords that clients send, and how long strangers may stay.
//!
//! Not here: how passwords are held against hashes ([`crate::passwords`]).

use std::time::Duration;

use ballast_core::session::Reply;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Ending, Serving};
use crate::connection::Login;

/// Wrong passwords on one connection; then it is closed. As many as OpenSSH takes and fewer than a guess needs.
const FAILURES_MAX: u32 = 6;

/// How a connection stands to logins.
#[derive(Debug, Default)]
pub(super) struct Logins {
    /// Wrong passwords since the last right one.
    failures: u32,
    /// Since when nobody is logged in who would have to be, on the worker's clock.
    stranger_since_ms: Option<u64>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    pub(super) async fn login(&mut self, login: Login) -> Result<(), Ending> {
        let worker = self.held.worker.clone();
        let (stored, decoy) = (login.stored.clone(), self.policy.decoy_hash());
        let (source, deadline) = (self.connection.source(), self.policy.limits.deadline);
        let Ok(right) = worker.node.passwords.check(stored, decoy, &login.password, source, deadline).await else {
            let reply = Reply::error("OVERLOADED too many clients log in at once; try again later");
            self.connection.say(&reply, &mut self.out);
            return Ok(());
        };
        if !right {
            worker.tell_login_failed(&self.card.peer, &login.user);
        }
        self.connection.logged_in(login, right, &self.policy, &mut self.out);
        if right {
            self.logins.failures = 0;
            return Ok(());
        }
        self.logins.failures += 1;
        if self.logins.failures < FAILURES_MAX {
            return Ok(());
        }
        self.flush().await?;
        Err(Ending::Cut(Some("too many wrong passwords")))
    }

    /// How much longer the client may be here without a login; `None` if it need not log in, or has.
    pub(super) fn login_time_left(&mut self, now_ms: u64) -> Option<Duration> {
        if !self.connection.is_stranger() {
            self.logins.stranger_since_ms = None;
            return None;
        }
        let since_ms = *self.logins.stranger_since_ms.get_or_insert(now_ms);
        let timeout = self.held.worker.node.login_timeout;
        Some(timeout.saturating_sub(Duration::from_millis(now_ms.saturating_sub(since_ms))))
    }

    /// Says that it took too long to log in.
    pub(super) async fn say_too_late(&mut self) -> Result<(), Ending> {
        let text = format!("NOAUTH nobody logged in within {:?}", self.held.worker.node.login_timeout);
        self.connection.say(&Reply::Error(text.into()), &mut self.out);
        self.flush().await
    }
}
