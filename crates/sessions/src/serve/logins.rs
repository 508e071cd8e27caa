//! Passwords that clients send.
//!
//! Not here: how they are held against hashes ([`crate::passwords`]).

use ballast_core::session::Reply;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Serving;
use crate::connection::Login;

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    pub(super) async fn login(&mut self, login: Login) {
        let worker = self.held.worker.clone();
        let decoy = self.policy.decoy_hash();
        let Ok(right) = worker.node.passwords.check(login.stored.clone(), decoy, &login.password).await else {
            let reply = Reply::error("OVERLOADED too many clients log in at once; try again later");
            return self.connection.say(&reply, &mut self.out);
        };
        if !right {
            worker.counters.counters.login_failures_total.up();
        }
        self.connection.logged_in(login, right, &worker.node, &self.policy, &mut self.out);
    }
}
