//! Streams of what happens, from a log index.
//!
//! The log is the cursor: what a watch sends belongs to an entry, and a client that comes back
//! says the index that it saw last. Nothing runs for a watch between two polls, so a slow client
//! costs nothing. What the history no longer has cannot be sent; a watch that would have to leave something out says
//! so and ends, because whoever follows it believes that it saw everything.
//!
//! A look holds the state, so it takes little at once and makes nothing that takes long; what does is made of it afterwards.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use ballast_core::{ids::LogIndex, state::State};
use ballast_proto::admin::v1::ResponseHeader;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Shared;
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    node::{Operations, StateAccess, read_state},
    view,
};

/// A stream of answers.
pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a watch looks at.
pub(super) struct History<L, H> {
    /// Finds what the entries after an index did.
    pub look: L,
    /// The index after which nothing is missing; `None` while nothing was forgotten.
    pub whole_after: H,
}

/// What a look found.
pub(super) struct Found<F> {
    /// What was done, oldest first, each waiting for a header.
    pub made: Vec<F>,
    /// The last entry that was looked at, if there is more to look at; `None` after all of them.
    pub until: Option<LogIndex>,
}

struct Watch<T, L, H> {
    history: History<L, H>,
    caller: Caller,
    state: Arc<dyn StateAccess>,
    operations: Arc<dyn Operations>,
    applied: watch::Receiver<LogIndex>,
    after: LogIndex,
    found: VecDeque<T>,
    stop: CancellationToken,
    ended: bool,
}

/// Sends what is found after an index, and again whenever more is applied, until the node stops. Ends with
/// `OUT_OF_RANGE` when something after that index was forgotten, and with `UNAUTHENTICATED` when the caller's certificate
/// ends or is revoked meanwhile.
pub(super) fn watch<T, F, L, H>(
    shared: &Shared,
    caller: &Caller,
    from: Option<u64>,
    history: History<L, H>,
) -> Streamed<T>
where
    T: Send + 'static,
    F: FnOnce(ResponseHeader) -> T,
    L: Fn(&State, LogIndex) -> Found<F> + Send + 'static,
    H: Fn(&State) -> Option<LogIndex> + Send + 'static,
{
    let parts = &shared.parts;
    let mut applied = parts.state.applied();
    // The first look must not wait for the next entry.
    applied.mark_changed();
    let start = Watch {
        history,
        caller: caller.clone(),
        state: parts.state.clone(),
        operations: parts.operations.clone(),
        applied,
        after: from.map_or_else(|| shared.read(view::applied), LogIndex::new),
        found: VecDeque::new(),
        stop: parts.stop.clone(),
        ended: false,
    };
    Box::pin(stream::unfold(start, |mut watch| async move {
        loop {
            if let Some(message) = watch.found.pop_front() {
                return Some((Ok(message), watch));
            }
            if watch.ended {
                return None;
            }
            // Both are cancel-safe: a change that is not taken now is still there at the next poll.
            tokio::select! {
                biased;
                () = watch.stop.cancelled() => {
                    watch.ended = true;
                    let stopping = error::status(ErrorCode::Stopping, "this node is stopping; go on at another", "watch");
                    return Some((Err(stopping.into()), watch));
                }
                changed = watch.applied.changed() => match changed {
                    Ok(()) => {
                        if let Err(forgotten) = watch.look_again() {
                            watch.ended = true;
                            return Some((Err(forgotten.into()), watch));
                        }
                    }
                    Err(_) => watch.ended = true,
                },
            }
        }
    }))
}

impl<T, F, L, H> Watch<T, L, H>
where
    F: FnOnce(ResponseHeader) -> T,
    L: Fn(&State, LogIndex) -> Found<F>,
    H: Fn(&State) -> Option<LogIndex>,
{
    fn look_again(&mut self) -> Result<(), ApiError> {
        let status = self.operations.status();
        let (history, after) = (&self.history, self.after);
        let caller = &self.caller;
        let (found, until, seen) = read_state(&*self.state, |state| {
            if let Some(certificate) = caller.certificate {
                certificate.check(&caller.name, |fingerprint| state.is_revoked(fingerprint))?;
            }
            if let Some(whole_after) = (history.whole_after)(state).filter(|whole_after| after < *whole_after) {
                return Err(forgotten(after, whole_after));
            }
            let header = view::header(state, &status);
            let Found { made, until } = (history.look)(state, after);
            let found: Vec<T> = made.into_iter().map(|make| make(header.clone())).collect();
            Ok::<_, ApiError>((found, until, state.applied()))
        })?;
        self.found.extend(found);
        if let Some(until) = until {
            self.after = until;
            self.applied.mark_changed();
        } else {
            self.after = after.max(seen);
        }
        Ok(())
    }
}

fn forgotten(after: LogIndex, whole_after: LogIndex) -> ApiError {
    let message =
        format!("the history after log index {after} is no longer whole; the oldest to watch from is {whole_after}");
    error::status(ErrorCode::HistoryForgotten, message, "watch")
}
