//! The program that says whether this node should hold VIPs.
//!
//! Its exit status goes through the same rise/fall machine as a backend's checks, with the same damping: a node that
//! keeps failing takes longer each time to count as good again, because each change moves clients. Until the first
//! verdict the node counts as good: a check that is slow to start must not keep a lone node from serving.

use std::{sync::Arc, time::Duration};

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

use super::{CheckSettings, Runs, command};

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
    let rules = Health { rise: settings.rise, fall: settings.fall, passive_failures: None, ..Health::default() };
    let mut machine = Machine::new(&rules);
    let mut due = interval(settings.every());
    // A node that was starved or suspended checks once and not once for each interval that it missed.
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = ending.cancelled() => return,
        }
        let observation = tokio::select! {
            observation = look(&settings.command, &node, settings.timeout.duration(), &runs) => observation,
            // The program is killed with the look.
            () = ending.cancelled() => return,
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

async fn look(command: &[String], node: &str, longest: Duration, runs: &Runs) -> Observation {
    let last = Mutex::new(String::new());
    let told = |line: &str| {
        debug!("check of this node says: {line}");
        line.clone_into(&mut last.lock());
    };
    let ended = command::run(command, &[("BALLAST_NODE", node.to_owned())], longest, told).await;
    runs.count(ended.name());
    let last = last.into_inner();
    let detail = if last.is_empty() { ended.to_string() } else { format!("{ended}: {last}") };
    Observation { ok: ended.is_good(), detail }
}

#[cfg(test)]
mod tests {
    use ballast_core::config::Span;
    use tokio::time::{Instant, sleep};

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
}
