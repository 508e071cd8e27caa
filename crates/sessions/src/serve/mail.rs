//! What subscribers are told, in its place between the answers.
//!
//! Other workers put letters in at any time, as long as the node's lists have the subscription. So whatever ends one is carried
//! out first, then the letters are sent that are there, and then its answer: a client that speaks RESP2 would take a message
//! that came later for the answer to its next command.
//!
//! Not here: who is told what ([`crate::subscribers`]).

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Ending, Serving};
use crate::wire::Resp;

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    /// Writes the letters that are there by now, and sends them if they are much.
    pub(super) async fn hear(&mut self) -> Result<(), Ending> {
        self.hear_in(self.connection.resp()).await
    }

    /// Has the node's lists follow what a command subscribed to and what it let go of. Its answer is what was written from
    /// `before` on; `resp` is spoken before it.
    pub(super) async fn settle(&mut self, before: usize, resp: Resp) -> Result<(), Ending> {
        if self.connection.has_left() {
            self.later = self.out.split_off(before);
            self.hear_in(resp).await?;
            self.out.append(&mut self.later);
            self.later = Vec::new();
        }
        self.connection.join(&self.held.worker.node.subscribers);
        Ok(())
    }

    async fn hear_in(&mut self, resp: Resp) -> Result<(), Ending> {
        // Those that come meanwhile have their turn after what the client has sent.
        for _ in 0..self.card.letters() {
            let Some(letter) = self.card.first_letter() else { break };
            match letter.write(resp, &mut self.out) {
                None => {
                    self.card.letter_sent();
                    self.flush_soon().await?;
                }
                Some(payload) => {
                    self.flush_with(payload).await?;
                    self.card.letter_sent();
                }
            }
        }
        Ok(())
    }
}
