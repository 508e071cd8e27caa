//! The program that says whether this node should hold VIPs.
//!
//! Its exit status goes through the same rise/fall machine as a backend's checks, with the same damping: a node that
//! keeps failing takes longer each time to count as good again, because each change moves clients. Until the first
//! verdict the node counts as good: a check that is slow to start must not keep a lone node from serving.
//!
//! There is one run at a time. One that cannot be ended fails again whenever the next is due.

use std::{future::pending, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use ballast_clock::boot_now;
use ballast_core::{
    config::Health,
    health::{Machine, Observation},
    plan::Verdict,
};
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    CheckSettings, Runs,
    command::{self, Left},
};

/// What the check says, for whoever judges this node's fitness.
#[derive(Clone, Debug, Default)]
pub struct VipCheck(Arc<ArcSwapOption<String>>);

impl VipCheck {
    /// Why the node should hold no VIP by its own check; `None` while it may. Costs an atomic read.
    pub fn failed(&self) -> Option<String> {
        self.0.load_full().map(|why| (*why).clone())
    }

    fn set(&self, failed: Option<String>) {
        self.0.store(failed.map(Arc::new));
    }
}

/// Runs the check again and again until `ending`.
pub async fn keep_checking(
    settings: CheckSettings,
    node: String,
    check: VipCheck,
    runs: Arc<Runs>,
    ending: CancellationToken,
) {
    let look = || look(&settings.command, &node, settings.timeout.duration(), &runs);
    keep_looking(&settings, look, &check, &ending).await;
}

/// [`keep_checking`] with any way to look at the node once: it says what was found, and what is left of the run.
async fn keep_looking<L>(settings: &CheckSettings, look: impl Fn() -> L, check: &VipCheck, ending: &CancellationToken)
where
    L: Future<Output = (Observation, Option<Left>)>,
{
    let rules = Health { rise: settings.rise, fall: settings.fall, passive_failures: None, ..Health::default() };
    let mut machine = Machine::new(&rules);
    let mut due = interval(settings.every());
    // A node that was starved or suspended checks once and not once for each interval that it missed.
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left: Option<Left> = None;
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            biased;
            () = ending.cancelled() => return,
            () = gone(&mut left) => {
                left = None;
                continue;
            }
            _ = due.tick() => {}
        }
        let observation = if left.is_some() {
            Observation { ok: false, detail: "its last run cannot be ended".to_owned() }
        } else {
            tokio::select! {
                (observation, rest) = look() => {
                    left = rest;
                    observation
                }
                // The program is killed with the look.
                () = ending.cancelled() => return,
            }
        };
        let Some(transition) = machine.checked(boot_now(), &observation) else { continue };
        match transition.to {
            Verdict::Down => {
                machine.fell(boot_now());
                warn!(detail = transition.detail, "the check of this node failed: it should hold no VIP");
                check.set(Some(transition.detail));
            }
            Verdict::Up | Verdict::Unknown => {
                info!("the check of this node is good");
                check.set(None);
            }
        }
    }
}

/// Waits until nothing is left of what is; for ever if nothing is.
async fn gone(left: &mut Option<Left>) {
    match left {
        Some(left) => left.await,
        None => pending().await,
    }
}

async fn look(command: &[String], node: &str, longest: Duration, runs: &Runs) -> (Observation, Option<Left>) {
    let last = Mutex::new(String::new());
    let told = |line: &str| {
        debug!("check of this node says: {line}");
        line.clone_into(&mut last.lock());
    };
    let (ended, left) = command::run(command, &[("BALLAST_NODE", node.to_owned())], longest, told).await;
    runs.count(ended.name());
    let last = last.into_inner();
    let detail = if last.is_empty() { ended.to_string() } else { format!("{ended}: {last}") };
    (Observation { ok: ended.is_good(), detail }, left)
}

#[cfg(test)]
mod tests {
    use std::{
        future,
        sync::atomic::{AtomicU32, Ordering},
    };

    use ballast_core::config::Span;
    use tokio::{
        sync::Notify,
        time::{Instant, sleep},
    };

    use super::*;

    async fn wait_for(check: &VipCheck, wanted: impl Fn(Option<&str>) -> bool) -> Option<String> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let failed = check.failed();
            if wanted(failed.as_deref()) {
                return failed;
            }
            assert!(Instant::now() < until, "it stays {failed:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_file_that_is_missing_fails_the_node_until_it_is_back() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("good");
        std::fs::write(&file, "").expect("written");
        let script = format!("test -e {} || {{ echo it is gone; exit 4; }}", file.display());
        let settings = CheckSettings {
            command: ["/bin/sh", "-c", &script].map(str::to_owned).to_vec(),
            interval: Span::from_millis(10),
            timeout: Span::from_secs(5),
            rise: 2,
            fall: 3,
        };
        let (check, runs, ending) = (VipCheck::default(), Arc::<Runs>::default(), CancellationToken::new());
        assert_eq!(check.failed(), None, "nothing is known yet");
        let keeping = keep_checking(settings, "node-1".to_owned(), check.clone(), Arc::clone(&runs), ending.clone());
        let keeping = tokio::spawn(keeping);
        std::fs::remove_file(&file).expect("removed");
        let failed = wait_for(&check, |failed| failed.is_some()).await;
        assert_eq!(failed.as_deref(), Some("exit status 4: it is gone"));
        assert!(runs.all().iter().any(|(result, count)| *result == "failed" && *count >= 3), "{:?}", runs.all());
        std::fs::write(&file, "").expect("written");
        wait_for(&check, |failed| failed.is_none()).await;
        ending.cancel();
        keeping.await.expect("it ends when asked to");
    }

    #[tokio::test]
    async fn while_a_run_cannot_be_ended_the_node_fails_and_no_other_is_started() {
        let settings = CheckSettings {
            command: Vec::new(),
            interval: Span::from_millis(1),
            timeout: Span::from_millis(1),
            rise: 1,
            fall: 10,
        };
        let (check, ending) = (VipCheck::default(), CancellationToken::new());
        let (starts, dead) = (AtomicU32::new(0), Arc::new(Notify::new()));
        let look = || {
            let first = starts.fetch_add(1, Ordering::Relaxed) == 0;
            let dead = Arc::clone(&dead);
            let left: Option<Left> = first.then(|| Box::pin(async move { dead.notified().await }) as Left);
            future::ready((Observation { ok: !first, detail: String::new() }, left))
        };
        let asked = async {
            let failed = wait_for(&check, |failed| failed.is_some()).await;
            assert_eq!(failed.as_deref(), Some("its last run cannot be ended"));
            assert_eq!(starts.load(Ordering::Relaxed), 1, "ten are due and one was started");
            dead.notify_one();
            wait_for(&check, |failed| failed.is_none()).await;
            ending.cancel();
        };
        tokio::join!(keep_looking(&settings, look, &check, &ending), asked);
    }
}
