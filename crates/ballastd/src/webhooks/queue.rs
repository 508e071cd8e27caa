//! What waits for one webhook.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::notice::Notice;

/// Events that wait for one webhook: about two hours of one that fails each time, at five tries an event.
const WAITING_MAX: usize = 256;

/// A bounded queue whose first stays in it until it was dealt with, so that a new sender takes over where the one before
/// it was stopped.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Notice>>,
    more: Notify,
}

impl Queue {
    /// Takes one in; gives back the oldest when there is no room.
    pub(super) fn push(&self, notice: Notice) -> Option<Notice> {
        let mut waiting = self.waiting.lock();
        let dropped = if waiting.len() >= WAITING_MAX { waiting.pop_front() } else { None };
        waiting.push_back(notice);
        drop(waiting);
        self.more.notify_one();
        dropped
    }

    /// The oldest, once there is one.
    pub(super) async fn first(&self) -> Notice {
        loop {
            let notified = self.more.notified();
            if let Some(first) = self.waiting.lock().front() {
                return first.clone();
            }
            notified.await;
        }
    }

    /// The first was dealt with, unless it was dropped meanwhile.
    pub(super) fn done(&self, notice: &Notice) {
        let mut waiting = self.waiting.lock();
        if waiting.front().is_some_and(|first| first.id == notice.id) {
            waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::config::WebhookEvent;

    use super::*;

    fn notice(id: usize) -> Notice {
        Notice { id: id.to_string(), event: WebhookEvent::Vip, body: String::new() }
    }

    #[tokio::test]
    async fn the_first_stays_until_it_is_done_and_the_oldest_makes_room() {
        let queue = Queue::default();
        for id in 0..WAITING_MAX {
            assert!(queue.push(notice(id)).is_none());
        }
        let first = queue.first().await;
        assert_eq!((first.id.as_str(), queue.first().await.id.as_str()), ("0", "0"));
        assert_eq!(queue.push(notice(WAITING_MAX)).map(|dropped| dropped.id).as_deref(), Some("0"));
        queue.done(&first);
        assert_eq!(queue.first().await.id, "1", "what was dropped while it was sent takes no other with it");
        queue.done(&notice(1));
        assert_eq!(queue.first().await.id, "2");
    }
}
