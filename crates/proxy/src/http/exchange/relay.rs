//! The response's body on its way to the client, and what is left of the request on its way to the backend.
//!
//! Not here: moving bytes ([`super::super::flow`]), upgraded connections ([`super::super::tunnel`]).

use std::{future::poll_fn, task::Poll};

use super::{
    attempt::Attempt,
    sending::{Sent, poll_send},
};
use crate::{
    backend::Link,
    buf::Buf,
    http::{
        client::Client,
        ending::Ending,
        flow::{Flow, FlowError},
    },
};

impl Attempt<'_> {
    /// Moves the response, and what is left of the request, to their ends.
    pub(super) async fn relay(
        &mut self,
        client: &mut Client,
        link: &mut Link,
        input: &mut Buf,
        sent: &mut Sent,
        flow: &mut Flow,
    ) -> Ending {
        let worker = client.worker().clone();
        let timeouts = &self.farm.plan.timeouts;
        let job = &mut *self.job;
        let mut progress = (0, 0);
        let between_ms = timeouts.between_bytes.as_millis();
        let ending = poll_fn(|cx| {
            // The response matters more now: a request that cannot be sent further ends with it.
            if *sent == Sent::Going && poll_send(cx, client, &mut link.stream, job, sent).is_err() {
                *sent = Sent::Broken;
            }
            match flow.poll(cx, &mut link.stream, input, &mut client.stream, &worker.pool) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ending::Done),
                Poll::Ready(Err(FlowError::Truncated | FlowError::Source)) => return Poll::Ready(Ending::Truncated),
                Poll::Ready(Err(FlowError::Target)) => return Poll::Ready(Ending::ClientClosed),
                Poll::Ready(Err(FlowError::Fault(fault))) => return Poll::Ready(Ending::ResponseBroken(fault)),
                Poll::Pending => {}
            }
            let now = (flow.received, flow.written);
            if now != progress || progress == (0, 0) {
                progress = now;
                client.timer.arm(between_ms);
            }
            if !client.timer.is_over() {
                Poll::Pending
            } else if flow.waits_for_target() {
                Poll::Ready(Ending::ClientStalled)
            } else {
                Poll::Ready(Ending::BackendStalled)
            }
        })
        .await;
        client.timer.disarm();
        ending
    }
}
