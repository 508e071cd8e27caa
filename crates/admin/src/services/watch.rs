//! Streams of what happens, from a log index.
//!
//! The log is the cursor: what a watch sends belongs to an entry, and a client that comes back
//! says the index that it saw last. Nothing runs for a watch between two polls, so a slow client
//! costs nothing and misses nothing that the history still has.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use ballast_core::{ids::LogIndex, state::State};
use ballast_proto::admin::v1::ResponseHeader;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Shared;
use crate::{
    error::{self, ErrorCode},
    node::{Operations, StateAccess, read_state},
    view,
};

/// A stream of answers.
pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Watch<T, L> {
    look: L,
    state: Arc<dyn StateAccess>,
    operations: Arc<dyn Operations>,
    applied: watch::Receiver<LogIndex>,
    after: LogIndex,
    found: VecDeque<T>,
    stop: CancellationToken,
    ended: bool,
}

/// Sends what `look` finds after an index, and again whenever more is applied, until the node stops.
///
/// `look` returns what the entries after the given index did, oldest first, each with its index
/// and waiting for a header.
pub(super) fn watch<T, F, L>(shared: &Shared, from: Option<u64>, look: L) -> Streamed<T>
where
    T: Send + 'static,
    F: FnOnce(ResponseHeader) -> T,
    L: Fn(&State, LogIndex) -> Vec<(LogIndex, F)> + Send + 'static,
{
    let parts = &shared.parts;
    let mut applied = parts.state.applied();
    // The first look must not wait for the next entry.
    applied.mark_changed();
    let start = Watch {
        look,
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
                    Ok(()) => watch.look_again(),
                    Err(_) => watch.ended = true,
                },
            }
        }
    }))
}

impl<T, F, L> Watch<T, L>
where
    F: FnOnce(ResponseHeader) -> T,
    L: Fn(&State, LogIndex) -> Vec<(LogIndex, F)>,
{
    fn look_again(&mut self) {
        let status = self.operations.status();
        let (look, after) = (&self.look, self.after);
        let found = read_state(&*self.state, |state| {
            let header = view::header(state, &status);
            let make = |(index, make): (LogIndex, F)| (index, make(header.clone()));
            look(state, after).into_iter().map(make).collect::<Vec<_>>()
        });
        for (index, message) in found {
            self.after = self.after.max(index);
            self.found.push_back(message);
        }
    }
}
