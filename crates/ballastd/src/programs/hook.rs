//! The program that is told of each VIP that this node gains or loses.
//!
//! Of one VIP it is told in order, one change at a time; changes of different VIPs are told side by side, so that one
//! that hangs keeps only its own VIP waiting, unless as many hang as run at once. A VIP that changes hands faster than the
//! program can be told loses its oldest change that waits: the last one is always told, and it is the one that says how
//! things are. So a program must take each call for what it says and not count calls.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ballast_core::{
    ids::VipId,
    lease::{Change, Epoch, Transition},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{HookSettings, Runs, command};

/// Changes of one VIP that may wait for the program.
const WAITING_MAX: usize = 8;
/// Programs that run at once. Arbitrary; nodes have a few VIPs and hooks are short.
const RUNNING_MAX: usize = 8;
/// How long what a stopping node has to tell may take: less than the other parts are given to end.
const LAST_MAX: Duration = Duration::from_secs(8);

/// What waits to be told, in order per VIP.
#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<(VipId, T)>,
    running: BTreeSet<VipId>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), running: BTreeSet::new() }
    }
}

impl<T> Queue<T> {
    /// Takes one in. Gives back the oldest of the same VIP when too many of it wait.
    fn push(&mut self, vip: VipId, what: T) -> Option<T> {
        let of_it = self.waiting.iter().filter(|(waiting, _)| *waiting == vip).count();
        let oldest = (of_it >= WAITING_MAX).then(|| self.waiting.iter().position(|(waiting, _)| *waiting == vip));
        let superseded = oldest.flatten().and_then(|at| self.waiting.remove(at));
        self.waiting.push_back((vip, what));
        superseded.map(|(_, what)| what)
    }

    /// The next that may be told: the oldest of a VIP of which nothing is being told.
    fn next(&mut self) -> Option<(VipId, T)> {
        if self.running.len() >= RUNNING_MAX {
            return None;
        }
        let at = self.waiting.iter().position(|(vip, _)| !self.running.contains(vip))?;
        let (vip, what) = self.waiting.remove(at)?;
        self.running.insert(vip);
        Some((vip, what))
    }

    /// What was being told of a VIP has been.
    fn done(&mut self, vip: VipId) {
        self.running.remove(&vip);
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }
}

/// A VIP as the document has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// One call of the program.
#[derive(Debug)]
struct Call {
    event: &'static str,
    vip: Described,
    epoch: Epoch,
    cause: &'static str,
    reason: String,
}

impl Call {
    fn environment(&self, node: &str) -> [(&'static str, String); 7] {
        let addresses: Vec<String> = self.vip.addresses.iter().map(ToString::to_string).collect();
        [
            ("BALLAST_EVENT", self.event.to_owned()),
            ("BALLAST_VIP", self.vip.name.clone()),
            ("BALLAST_ADDRESSES", addresses.join(" ")),
            ("BALLAST_EPOCH", self.epoch.get().to_string()),
            ("BALLAST_CAUSE", self.cause.to_owned()),
            ("BALLAST_REASON", self.reason.clone()),
            ("BALLAST_NODE", node.to_owned()),
        ]
    }
}

/// Tells the program of each change of hands until `ending`, and then of what is left for a moment.
///
/// `describe` says what the document has of a VIP; one that was configured away is told of as it was last known.
pub async fn keep_telling(
    settings: HookSettings,
    node: String,
    describe: impl Fn(VipId) -> Option<Described>,
    runs: Arc<Runs>,
    mut transitions: mpsc::UnboundedReceiver<Transition>,
    ending: CancellationToken,
) {
    let mut queue = Queue::default();
    let mut known: BTreeMap<VipId, Described> = BTreeMap::new();
    let mut running = FuturesUnordered::new();
    let end = async {
        ending.cancelled().await;
        sleep(LAST_MAX).await;
    };
    let mut end = std::pin::pin!(end);
    loop {
        while let Some((vip, call)) = queue.next() {
            running.push(tell(&settings, &node, &runs, vip, call));
        }
        if ending.is_cancelled() && queue.is_idle() && transitions.is_empty() {
            return;
        }
        // All arms are cancel-safe; programs that run are polled on.
        tokio::select! {
            Some(transition) = transitions.recv() => {
                if let Some(described) = describe(transition.vip) {
                    known.insert(transition.vip, described);
                }
                let vip = known.get(&transition.vip).cloned();
                let vip = vip.unwrap_or_else(|| Described { name: transition.vip.to_string(), addresses: Vec::new() });
                if let Some(dropped) = queue.push(transition.vip, call(vip, &transition)) {
                    runs.count("dropped");
                    let Call { event, vip, epoch, .. } = dropped;
                    warn!(
                        vip = vip.name, event, epoch = epoch.get(),
                        "the VIP's hook is not told of this change: later ones wait already"
                    );
                }
            }
            Some(vip) = running.next(), if !running.is_empty() => queue.done(vip),
            () = ending.cancelled(), if !ending.is_cancelled() => {}
            () = &mut end => {
                warn!("the node ends before its VIP hooks do; they are killed");
                return;
            }
        }
    }
}

fn call(vip: Described, transition: &Transition) -> Call {
    let (event, cause, reason) = match transition.change {
        Change::Gained(cause) => ("gained", cause.name(), cause.to_string()),
        Change::Lost(cause) => ("lost", cause.name(), cause.to_string()),
    };
    Call { event, vip, epoch: transition.epoch, cause, reason }
}

async fn tell(settings: &HookSettings, node: &str, runs: &Runs, vip: VipId, call: Call) -> VipId {
    let name = &call.vip.name;
    let told = |line: &str| info!(vip = name, event = call.event, "VIP hook says: {line}");
    let (ended, left) =
        command::run(&settings.command, &call.environment(node), settings.timeout.duration(), told).await;
    runs.count(ended.name());
    if !ended.is_good() {
        warn!(vip = name, event = call.event, epoch = call.epoch.get(), %ended, "the VIP hook failed");
    }
    if let Some(left) = left {
        warn!(vip = name, "the VIP hook cannot be ended yet; later changes of this VIP wait for that");
        left.await;
    }
    vip
}

#[cfg(test)]
mod tests {
    use ballast_core::{
        ids::NodeId,
        lease::{GainCause, LossCause},
        time::BootNanos,
    };

    use super::*;

    const WEB: VipId = VipId::new(1);
    const DB: VipId = VipId::new(2);

    #[test]
    fn one_vip_is_told_of_in_order_and_does_not_hold_up_another() {
        let mut queue = Queue::default();
        for (vip, what) in [(WEB, 1), (WEB, 2), (DB, 3)] {
            assert_eq!(queue.push(vip, what), None);
        }
        assert_eq!(queue.next(), Some((WEB, 1)));
        assert_eq!(queue.next(), Some((DB, 3)));
        assert_eq!(queue.next(), None, "2 waits for 1");
        queue.done(WEB);
        assert_eq!(queue.next(), Some((WEB, 2)));
        queue.done(WEB);
        assert!(!queue.is_idle());
        queue.done(DB);
        assert!(queue.is_idle());
    }

    #[test]
    fn a_vip_that_changes_too_fast_loses_its_own_oldest_and_never_its_last() {
        let mut queue = Queue::default();
        queue.push(DB, 0);
        for what in 1..=WAITING_MAX {
            assert_eq!(queue.push(WEB, what), None);
        }
        assert_eq!(queue.push(WEB, 99), Some(1));
        assert_eq!(queue.next(), Some((DB, 0)));
        let mut told = Vec::new();
        while let Some((vip, what)) = queue.next() {
            told.push(what);
            queue.done(vip);
        }
        assert_eq!(told.first(), Some(&2));
        assert_eq!(told.last(), Some(&99));
    }

    fn transition(epoch: u64, change: Change) -> Transition {
        Transition { vip: WEB, epoch: Epoch::new(epoch), at: BootNanos::default(), change }
    }

    #[tokio::test]
    async fn the_program_sees_what_happened_and_the_last_word_of_a_stopping_node() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("told");
        let script = format!(
            "echo $BALLAST_EVENT $BALLAST_VIP $BALLAST_ADDRESSES $BALLAST_EPOCH $BALLAST_CAUSE $BALLAST_NODE: \
             $BALLAST_REASON >> {}",
            file.display()
        );
        let settings = HookSettings {
            command: ["/bin/sh", "-c", &script].map(str::to_owned).to_vec(),
            timeout: ballast_core::config::Span::from_secs(10),
        };
        let (sender, transitions) = mpsc::unbounded_channel();
        let moved = LossCause::Moved { to: NodeId::new(2) };
        sender.send(transition(7, Change::Gained(GainCause::Vacant))).expect("the receiver is here");
        sender.send(transition(7, Change::Lost(moved))).expect("the receiver is here");
        let ending = CancellationToken::new();
        ending.cancel();
        let addresses = vec!["10.0.0.7".parse().expect("a literal"), "fd00::7".parse().expect("a literal")];
        let web = Described { name: "web".to_owned(), addresses };
        let runs = Arc::new(Runs::default());
        keep_telling(settings, "node-1".to_owned(), |_| Some(web.clone()), Arc::clone(&runs), transitions, ending)
            .await;
        assert_eq!(
            std::fs::read_to_string(file).expect("it was run"),
            "gained web 10.0.0.7 fd00::7 7 vacant node-1: nobody held it\n\
             lost web 10.0.0.7 fd00::7 7 moved node-1: an operator moved it to node 2\n"
        );
        assert_eq!(runs.all(), [("ok", 2)]);
    }
}
