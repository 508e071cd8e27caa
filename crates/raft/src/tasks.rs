//! The tasks of a member: named, owned, ended together.

use std::future::Future;

use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet};

/// Spawns tasks and ends them. A task that panics is reported: the member does not go on without it.
#[derive(Debug)]
pub(crate) struct Tasks {
    set: Mutex<Option<JoinSet<()>>>,
    panicked: watch::Sender<Option<&'static str>>,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self { set: Mutex::new(Some(JoinSet::new())), panicked: watch::Sender::new(None) }
    }

    /// Spawns a task, unless the member is stopping.
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set.lock();
        let Some(set) = set.as_mut() else { return };
        // Reap what ended, so that short tasks do not pile up.
        while set.try_join_next().is_some() {}
        let watcher = PanicWatcher { name, panicked: self.panicked.clone(), ended: false };
        set.spawn(async move {
            let mut watcher = watcher;
            task.await;
            watcher.ended = true;
        });
    }

    /// Resolves with the name of a task that panicked.
    pub(crate) fn panicked(&self) -> watch::Receiver<Option<&'static str>> {
        self.panicked.subscribe()
    }

    /// Ends all tasks and waits until they are gone. Later spawns do nothing.
    pub(crate) async fn stop(&self) {
        let set = self.set.lock().take();
        if let Some(mut set) = set {
            set.shutdown().await;
        }
    }
}

struct PanicWatcher {
    name: &'static str,
    panicked: watch::Sender<Option<&'static str>>,
    ended: bool,
}

impl Drop for PanicWatcher {
    fn drop(&mut self) {
        if !self.ended && std::thread::panicking() {
            self.panicked.send_replace(Some(self.name));
        }
    }
}
