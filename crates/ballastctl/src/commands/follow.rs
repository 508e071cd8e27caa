//! Streams that are printed until the operator has seen enough.
//!
//! A node that goes down ends its streams. The history is the same on every node, so the stream is
//! opened again where it ended, and nothing is printed twice or left out.

use std::{future::Future, time::Duration};

use ballast_proto::admin::v1::GetNodeStatusRequest;
use tokio::time::{Instant, sleep};
use tonic::{Response, Status, Streaming};

use super::{Done, Run};
use crate::{
    client::Client,
    failure::{Exit, Failure, Intent},
    view::View,
};

/// Pause before a stream is opened again.
const OPEN_AGAIN: Duration = Duration::from_millis(500);

/// From where and how many.
pub(super) struct Feed {
    /// After this log index; from now on when absent.
    pub since: Option<u64>,
    /// End after so many.
    pub limit: Option<usize>,
}

/// Prints what a stream says. `shown` turns a message into its log index and what is printed;
/// messages without content are skipped.
///
/// Ctrl-C is the end that was wanted. What is printed is printed without a wait in between, so that no line is cut.
pub(super) async fn follow<M, V, F>(
    run: &mut Run<'_>,
    client: Client,
    feed: Feed,
    open: impl Fn(Client, Option<u64>) -> F,
    shown: impl Fn(&M) -> Option<(u64, V)>,
) -> Done
where
    F: Future<Output = Result<Response<Streaming<M>>, Status>>,
    V: View,
{
    tokio::select! {
        done = follow_on(run, client, feed, open, shown) => done,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
    }
}

async fn follow_on<M, V, F>(
    run: &mut Run<'_>,
    mut client: Client,
    feed: Feed,
    open: impl Fn(Client, Option<u64>) -> F,
    shown: impl Fn(&M) -> Option<(u64, V)>,
) -> Done
where
    F: Future<Output = Result<Response<Streaming<M>>, Status>>,
    V: View,
{
    let Feed { mut since, limit } = feed;
    // From now on, by an index: a node that goes away before it said anything must not cost what happens meanwhile.
    if since.is_none() {
        since = now(&client).await;
    }
    let mut printed = 0;
    // Messages of the entry `since` that were printed: one entry can carry several.
    let mut printed_at_since = 0;
    let mut silent_since: Option<Instant> = None;
    loop {
        // Opened one entry back, so that the rest of a half printed entry is not lost.
        let from = if printed_at_since > 0 { since.map(|index| index.saturating_sub(1)) } else { since };
        let mut skip = printed_at_since;
        let ended = match open(client.clone(), from).await {
            Ok(response) => {
                silent_since = None;
                let mut stream = response.into_inner();
                loop {
                    if limit.is_some_and(|limit| printed >= limit) {
                        return Ok(Exit::Done);
                    }
                    let message = match stream.message().await {
                        Ok(Some(message)) => message,
                        Ok(None) => break Status::unavailable("the node ended the stream"),
                        Err(status) => break status,
                    };
                    let Some((index, view)) = shown(&message) else { continue };
                    if skip > 0 && Some(index) == since {
                        skip -= 1;
                        continue;
                    }
                    printed_at_since = if Some(index) == since { printed_at_since + 1 } else { 1 };
                    since = Some(index);
                    run.screen.item(&view)?;
                    printed += 1;
                }
            }
            Err(status) => status,
        };
        let failure = Failure::of_status(&ended, &Intent::Read);
        let first = *silent_since.get_or_insert_with(Instant::now);
        if failure.exit() != Exit::Unavailable || since.is_none() || first.elapsed() >= run.global.timeout {
            return Err(failure);
        }
        run.screen.note(&format!("{}; looking for it again", failure.message()));
        sleep(OPEN_AGAIN).await;
        if let Ok(again) = run.client().await {
            client = again;
        }
    }
}

/// The last entry that the node has applied; `None` when it does not say.
async fn now(client: &Client) -> Option<u64> {
    let status = client.read(client.cluster().get_node_status(client.request(GetNodeStatusRequest::default()))).await;
    Some(status.ok()?.header?.applied_index)
}
