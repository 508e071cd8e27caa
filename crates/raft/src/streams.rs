//! The streams of entries that are open to other nodes, and how far each has come; and what nodes will need that are being
//! sent a snapshot.
//!
//! openraft purges nothing that a stream still has to send, and of a purge that it was asked for, all
//! or nothing. A node that acknowledges steadily and never catches up (a slow disk, a slow link) would so
//! keep its leader from purging anything, until the leader's disk is full. Whoever purges asks here how far
//! the slowest has come, and gives a stream up that holds too much: openraft then sends a snapshot.
//!
//! Not here: how much is too much (`upkeep`); nodes that acknowledge nothing (`network` ends their streams).

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ballast_core::ids::NodeId;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

/// How long what follows a snapshot is still kept after that was installed: by then a stream asks for it.
const FOLLOWED_UP: Duration = Duration::from_secs(10);

/// The streams that are open, and the snapshots that are sent. What ended is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: Mutex<Vec<Weak<Open>>>,
    filling: Mutex<Vec<Weak<u64>>>,
}

/// A node that is being sent a snapshot: what follows it is kept for that node, within bounds, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Filling {
    _index: Arc<u64>,
}

/// An open stream, for whoever reads its answers.
#[derive(Debug)]
pub(crate) struct Open {
    node: NodeId,
    needs_after: NeedsAfter,
    given_up: Notify,
}

/// The index after which the entries lie that a stream still needs.
#[derive(Clone, Debug)]
pub(crate) struct NeedsAfter(Arc<AtomicU64>);

/// No entry was sent yet, so none is needed.
const NONE: u64 = u64::MAX;

/// A stream that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) node: NodeId,
    /// Last entry that the node acknowledged.
    pub(crate) acknowledged: u64,
}

impl Streams {
    /// A new stream to `node`; open until it is dropped.
    pub(crate) fn open(&self, node: NodeId) -> Arc<Open> {
        let needs_after = NeedsAfter(Arc::new(AtomicU64::new(NONE)));
        let open = Arc::new(Open { node, needs_after, given_up: Notify::new() });
        let mut all = self.open.lock();
        all.retain(|open| open.strong_count() > 0);
        all.push(Arc::downgrade(&open));
        open
    }

    /// The index after which the entries lie that some stream still needs.
    pub(crate) fn slowest(&self) -> Option<u64> {
        self.open.lock().iter().filter_map(|open| open.upgrade()?.needs_after.index()).min()
    }

    /// A snapshot of all up to `index` is sent to some node.
    pub(crate) fn fill(&self, index: u64) -> Filling {
        let index = Arc::new(index);
        let mut all = self.filling.lock();
        all.retain(|index| index.strong_count() > 0);
        all.push(Arc::downgrade(&index));
        Filling { _index: index }
    }

    /// The index after which the entries lie that some node will need once its snapshot is there.
    pub(crate) fn filled_to(&self) -> Option<u64> {
        self.filling.lock().iter().filter_map(|index| Some(*index.upgrade()?)).min()
    }

    /// Gives those up that need entries up to `index`.
    pub(crate) fn give_up(&self, index: u64) -> Vec<GivenUp> {
        let all = self.open.lock();
        let slow = all.iter().filter_map(|open| {
            let open = open.upgrade()?;
            let acknowledged = open.needs_after.index().filter(|acknowledged| *acknowledged < index)?;
            open.given_up.notify_one();
            Some(GivenUp { node: open.node, acknowledged })
        });
        slow.collect()
    }
}

impl Filling {
    /// The snapshot is installed. Resolves when whatever follows must have been asked for.
    pub(crate) async fn followed_up(self) {
        sleep(FOLLOWED_UP).await;
        drop(self);
    }
}

impl Open {
    /// For whoever sends. It outlives the stream at times.
    pub(crate) fn needs_after(&self) -> NeedsAfter {
        self.needs_after.clone()
    }

    /// The node has acknowledged everything up to `index`.
    pub(crate) fn acknowledged(&self, index: u64) {
        if self.needs_after.index().is_some_and(|before| before < index) {
            self.needs_after.0.store(index, Ordering::Release);
        }
    }

    /// Resolves when the stream was given up.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing unless it had resolved.
    pub(crate) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl NeedsAfter {
    /// Entries after `index` are sent.
    pub(crate) fn sends(&self, index: u64) {
        // What was sent before begins sooner.
        _ = self.0.compare_exchange(NONE, index, Ordering::AcqRel, Ordering::Acquire);
    }

    fn index(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Acquire)).filter(|index| *index != NONE)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_slowest_is_the_one_that_needs_the_oldest_entries_and_only_it_is_given_up() {
        let streams = Streams::default();
        let (quick, slow, idle) =
            (streams.open(NodeId::new(2)), streams.open(NodeId::new(3)), streams.open(NodeId::new(4)));
        assert_eq!(streams.slowest(), None, "none has sent anything");
        quick.needs_after().sends(100);
        slow.needs_after().sends(10);
        slow.needs_after().sends(74);
        assert_eq!(streams.slowest(), Some(10));
        idle.acknowledged(3);
        slow.acknowledged(60);
        slow.acknowledged(50);
        assert_eq!(streams.slowest(), Some(60));

        assert_eq!(streams.give_up(60), []);
        assert_eq!(streams.give_up(61), [GivenUp { node: NodeId::new(3), acknowledged: 60 }]);
        assert!(slow.given_up().now_or_never().is_some());
        assert!(quick.given_up().now_or_never().is_none() && idle.given_up().now_or_never().is_none());

        let late = slow.needs_after();
        drop(slow);
        late.sends(1);
        assert_eq!(streams.slowest(), Some(100), "one that ended needs nothing");
    }

    #[tokio::test]
    async fn what_follows_a_snapshot_is_needed_for_a_while_after_it_was_installed() {
        let streams = Streams::default();
        assert_eq!(streams.filled_to(), None);
        let (one, other) = (streams.fill(7), streams.fill(9));
        assert_eq!((streams.filled_to(), streams.slowest()), (Some(7), None));
        drop(one);
        assert_eq!(streams.filled_to(), Some(9));
        let mut followed_up = Box::pin(other.followed_up());
        assert!(followed_up.as_mut().now_or_never().is_none());
        assert_eq!(streams.filled_to(), Some(9));
        drop(followed_up);
        assert_eq!(streams.filled_to(), None);
    }
}
