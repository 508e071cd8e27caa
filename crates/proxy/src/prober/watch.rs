//! The watch over one backend: checks when due, counts, reports.
//!
//! A finding is reported when it changed, and again when the log is seen to hold none or another one: the findings of
//! a node that was silent for a while lapse, and nobody but the node itself can bring them back.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ballast_core::{
    cluster::{Contact, Propose},
    config::Health,
    health::{Answer, Check, Heard, Machine, Observation, Schedule, Transition, Unanswered},
    ids::{BackendId, LogIndex, NodeId},
    plan::Verdict,
    state::Command,
    time::BootNanos,
};
use tokio::{sync::watch as changes, time::sleep};
use tracing::{info, warn};

use super::{check, findings::Cell, pace::Pace};
use ballast_clock::boot_now;

/// How long one try to report may take.
const REPORT_DEADLINE: Duration = Duration::from_secs(3);
/// Pause after a report that did not get through. Without a quorum the node goes by its own
/// findings meanwhile, so nothing hangs on it.
const REPORT_PAUSE: Duration = Duration::from_millis(500);

/// What a watch needs.
pub(super) struct Watch {
    pub(super) node: NodeId,
    pub(super) backend: BackendId,
    pub(super) address: SocketAddr,
    pub(super) health: Health,
    pub(super) cell: Arc<Cell>,
    pub(super) cluster: Arc<dyn Propose>,
    pub(super) contact: Arc<dyn Contact>,
    pub(super) pace: Arc<Pace>,
    pub(super) awaited: Arc<Awaited>,
}

/// What the log held about the backend at an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    pub(super) index: LogIndex,
    /// This node's finding.
    pub(super) verdict: Option<Verdict>,
    /// What the cluster made of the findings of all nodes.
    pub(super) agreed: Verdict,
}

/// Index of the report that a watch waits to see in a plan.
#[derive(Debug)]
pub(super) struct Awaited(AtomicU64);

impl Default for Awaited {
    /// None.
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Awaited {
    /// Follows the state of the watch: what it reported last, and what it has seen of that.
    fn set(&self, reported: Option<Reported>) {
        self.0.store(reported.map_or(u64::MAX, |reported| reported.index.get()), Ordering::Relaxed);
    }
}

/// Tells a watch what a plan says of it. It wakes if that is news to it: another verdict, or whether the log has what it
/// reported; the index of the plan alone is none.
pub(super) fn tell(to: &changes::Sender<Logged>, awaited: &Awaited, logged: Logged) {
    to.send_if_modified(|held| {
        let same = (held.verdict, held.agreed) == (logged.verdict, logged.agreed);
        *held = logged;
        // Read with the lock that the watch takes to see `held` after it has set this: either it sees what is put here, or
        // it is woken.
        !same || logged.index.get() >= awaited.0.load(Ordering::Relaxed)
    });
}

/// Watches the cluster's verdict for falls, which damp the way up.
struct Falls {
    logged: changes::Receiver<Logged>,
    last: Verdict,
}

impl Falls {
    fn new(mut logged: changes::Receiver<Logged>) -> Self {
        let last = logged.borrow_and_update().agreed;
        Self { logged, last }
    }

    /// Waits until the log may say something else. Cancel-safe. Pending for ever once no more plans come.
    async fn changed(&mut self) {
        if self.logged.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tells the machines if the verdict fell since the last look.
    fn tell(&mut self, machines: &mut Machines) {
        let agreed = self.logged.borrow_and_update().agreed;
        if std::mem::replace(&mut self.last, agreed) != Verdict::Down && agreed == Verdict::Down {
            machines.own.fell(boot_now());
            machines.told.fell(boot_now());
        }
    }
}

/// What this node makes of its checks: for itself, while it has no quorum, and for the cluster, which is told nothing that
/// may come from this node's own network.
struct Machines {
    own: Machine,
    told: Machine,
    unanswered: Unanswered,
}

impl Machines {
    fn new(health: &Health) -> Self {
        Self { own: Machine::new(health), told: Machine::new(health), unanswered: Unanswered::default() }
    }

    /// Returns what changed of the first and of the second.
    fn checked(&mut self, check: &Check, observation: &Observation) -> [Option<Transition>; 2] {
        let told = self.unanswered.counts(check).then(|| self.told.checked(check.ended, observation));
        [self.own.checked(check.ended, observation), told.flatten()]
    }

    /// So many requests failed in a row, the last of them by `answer`.
    fn failing(&mut self, limit: u32, answer: Answer, now: BootNanos, heard: Heard) -> [Option<Transition>; 2] {
        let served = |machine: &mut Machine| (0..limit).filter_map(|_| machine.served(now, false)).next_back();
        let told = self.unanswered.requests_count(answer, now, heard).then(|| served(&mut self.told));
        [served(&mut self.own), told.flatten()]
    }
}

/// The last report that got through, and its place in the log.
#[derive(Clone, Copy, Debug)]
struct Reported {
    index: LogIndex,
    verdict: Verdict,
}

impl Watch {
    /// Runs until it is aborted. `logged` is told with each plan.
    pub(super) async fn run(self, logged: changes::Receiver<Logged>) {
        let (findings, told) = changes::channel(None::<(Verdict, String)>);
        // Polled beside the checks, so that a report that waits for a leader delays none of them.
        tokio::join!(self.check_on(findings, Falls::new(logged.clone())), self.report(told, logged));
    }

    async fn check_on(&self, findings: changes::Sender<Option<(Verdict, String)>>, mut falls: Falls) {
        let mut machines = Machines::new(&self.health);
        let mut schedule = Schedule::new(&self.health, rand::random(), boot_now());
        let limit = self.health.passive_failures.unwrap_or(0);
        let mut could_ask = true;
        loop {
            let wait = Duration::from_nanos(schedule.due().since(boot_now()));
            let turn = async {
                sleep(wait).await;
                self.pace.turn().await
            };
            // All arms are cancel-safe: the due time stays, and a wake-up or a change that is not taken is kept. A place
            // among the checks that wait is lost, which some requests that fail, or the cluster's verdict, do now and then.
            let [own, told] = tokio::select! {
                _under_way = turn => {
                    self.pace.begun(&self.health, schedule.due(), boot_now());
                    schedule.begun(boot_now());
                    let (heard_before, began) = (self.contact.heard(), boot_now());
                    let (observation, answer) = check::check(self.address, &self.health).await;
                    let (heard, ended) = (self.contact.heard(), boot_now());
                    self.cell.checked(Duration::from_nanos(ended.since(began)));
                    let asked = answer != Answer::Unasked;
                    if std::mem::replace(&mut could_ask, asked) && !asked {
                        warn!(
                            backend = %self.backend, address = %self.address, detail = observation.detail,
                            "this node cannot check; the cluster is not told"
                        );
                    }
                    falls.tell(&mut machines);
                    machines.checked(&Check { began, ended, answer, heard_before, heard }, &observation)
                }
                () = self.cell.failing.notified() => {
                    falls.tell(&mut machines);
                    machines.failing(limit, self.cell.failed_by(), boot_now(), self.contact.heard())
                }
                () = falls.changed() => {
                    falls.tell(&mut machines);
                    [None, None]
                }
            };
            if let Some(Transition { from, to, detail }) = own {
                let told = machines.told.verdict() == to;
                info!(
                    backend = %self.backend, address = %self.address, ?from, ?to, detail, told,
                    "this node's finding changed"
                );
                self.cell.set(to);
            }
            if let Some(Transition { to, detail, .. }) = told {
                findings.send_replace(Some((to, detail)));
            }
        }
    }

    /// Keeps the newest finding in the log.
    async fn report(
        &self,
        mut told: changes::Receiver<Option<(Verdict, String)>>,
        mut logged: changes::Receiver<Logged>,
    ) {
        let mut reported = None;
        loop {
            self.awaited.set(reported);
            let held = *logged.borrow_and_update();
            if reported.is_some_and(|reported| is_logged(reported, held)) {
                self.awaited.set(None);
            }
            let finding = told.borrow_and_update().clone();
            let Some((verdict, detail)) = finding.filter(|(verdict, _)| must_report(*verdict, reported, held)) else {
                // Cancel-safe: a change that is not taken now stays marked.
                let changed = tokio::select! {
                    changed = told.changed() => changed,
                    changed = logged.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
                continue;
            };
            let command = Command::ReportHealth { node: self.node, backend: self.backend, verdict, detail };
            reported = match self.cluster.propose(command, REPORT_DEADLINE).await {
                Ok(applied) => Some(Reported { index: applied.index, verdict }),
                Err(_) => {
                    sleep(REPORT_PAUSE).await;
                    None
                }
            };
        }
    }
}

/// Whether the log is seen to hold what was reported.
fn is_logged(reported: Reported, logged: Logged) -> bool {
    logged.index >= reported.index && logged.verdict == Some(reported.verdict)
}

/// Whether the log has to be told a finding. What it held before the last report was applied says nothing of that one.
fn must_report(finding: Verdict, reported: Option<Reported>, logged: Logged) -> bool {
    match reported {
        Some(reported) if reported.verdict == finding => {
            logged.index >= reported.index && logged.verdict != Some(finding)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicU64, Ordering},
    };

    use ballast_core::config::{HttpCheck, Span};
    use ballast_core::{
        cluster::{Applied, BoxFuture, ProposeError},
        state::Outcome,
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;
    use crate::prober::Findings;

    fn logged(index: u64, verdict: Option<Verdict>) -> Logged {
        Logged { index: LogIndex::new(index), verdict, agreed: Verdict::Unknown }
    }

    /// A node that is always heard.
    struct Always;

    impl Contact for Always {
        fn heard(&self) -> Heard {
            Some(boot_now())
        }
    }

    fn watch_over(address: SocketAddr, health: Health, cluster: Arc<dyn Propose>) -> Watch {
        let backend = BackendId::new(1);
        let findings = Findings::default();
        findings.keep(&BTreeMap::from([(backend, None)]));
        let cell = findings.cell(backend).expect("kept");
        let pace = Arc::new(Pace::new(Arc::new(findings)));
        Watch {
            node: NodeId::new(1),
            backend,
            address,
            health,
            cell,
            cluster,
            contact: Arc::new(Always),
            pace,
            awaited: Arc::default(),
        }
    }

    /// A log that takes everything but what comes first, with other entries between.
    struct Log {
        proposed: mpsc::UnboundedSender<Command>,
        last: AtomicU64,
    }

    impl Propose for Log {
        fn propose(&self, command: Command, _: Duration) -> BoxFuture<'static, Result<Applied, ProposeError>> {
            self.proposed.send(command).expect("the test listens");
            let before = self.last.fetch_add(10, Ordering::Relaxed);
            let applied = Applied { index: LogIndex::new(before + 10), outcome: Outcome::Done };
            let outcome = if before == 0 { Err(ProposeError::NoQuorum { detail: String::new() }) } else { Ok(applied) };
            Box::pin(async { outcome })
        }
    }

    #[tokio::test]
    async fn a_finding_is_reported_until_the_log_has_it_and_again_when_it_has_it_no_more() {
        let (proposed, mut proposals) = mpsc::unbounded_channel();
        let log = Arc::new(Log { proposed, last: AtomicU64::new(0) });
        let watch = watch_over(SocketAddr::from(([127, 0, 0, 1], 9)), Health::default(), log);
        let awaited = Arc::clone(&watch.awaited);
        let (found, told) = changes::channel(None);
        let (plan, held) = changes::channel(logged(0, None));
        let reporting = tokio::spawn(async move { watch.report(told, held).await });
        let mut next = async || match proposals.recv().await {
            Some(Command::ReportHealth { verdict, detail, .. }) => (verdict, detail),
            other => panic!("{other:?}"),
        };
        let up = (Verdict::Up, "http 200".to_owned());
        found.send_replace(Some(up.clone()));
        assert_eq!(next().await, up);
        assert_eq!(next().await, up, "the first did not get through");
        // A plan from before the report, and one that has it; then it lapsed.
        for (index, verdict) in [(11, None), (20, Some(Verdict::Up))] {
            tell(&plan, &awaited, logged(index, verdict));
            tokio::task::yield_now().await;
        }
        tell(&plan, &awaited, logged(25, None));
        assert_eq!(next().await, up, "the log has it no more");
        let down = (Verdict::Down, "connect: refused".to_owned());
        found.send_replace(Some(down.clone()));
        assert_eq!(next().await, down, "and nothing between");
        drop(plan);
        reporting.await.expect("ends");
        assert!(proposals.recv().await.is_none(), "nothing was reported twice");
    }

    /// What a node finds of a backend that answers its checks as the script says, and how many checks that took, with
    /// the verdict of the cluster that `agree` makes of each finding.
    async fn found(script: &str, agree: impl Fn(Verdict) -> Verdict) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let health = Health {
            rise: 1,
            fall: 1,
            interval: Span::from_millis(10),
            timeout: Span::from_secs(20),
            http: Some(HttpCheck::default()),
            ..Health::default()
        };
        let (proposed, _proposals) = mpsc::unbounded_channel();
        let log = Arc::new(Log { proposed, last: AtomicU64::new(0) });
        let watch = watch_over(listener.local_addr().expect("bound"), health, log);
        let (plan, held) = changes::channel(Logged { agreed: Verdict::Up, ..logged(0, None) });
        let (findings, told) = changes::channel(None);
        let checking = tokio::spawn(async move { watch.check_on(findings, Falls::new(held)).await });
        let mut seen = String::new();
        let mut answered = None;
        for answer in script.chars() {
            let (stream, _) = listener.accept().await.expect("the watch checks");
            // The answer before this one has been counted: checks of a backend follow one another.
            drop(answered.replace(stream));
            let finding = told.borrow().as_ref().map_or(Verdict::Unknown, |(verdict, _)| *verdict);
            seen.push(match finding {
                Verdict::Unknown => '?',
                Verdict::Up => 'U',
                Verdict::Down => 'D',
            });
            plan.send_modify(|logged| logged.agreed = agree(finding));
            let stream = answered.as_mut().expect("just put there");
            let _ = stream.read(&mut [0; 1024]).await.expect("the check asks");
            let status = if answer == '+' { "200 OK" } else { "503 No" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("the check waits");
        }
        checking.abort();
        seen
    }

    #[tokio::test]
    async fn a_check_that_waits_its_turn_holds_nothing_else_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let health = Health {
            rise: 1,
            fall: 1,
            interval: Span::from_millis(10),
            timeout: Span::from_secs(20),
            passive_failures: Some(1),
            ..Health::default()
        };
        let (proposed, _proposals) = mpsc::unbounded_channel();
        let log = Arc::new(Log { proposed, last: AtomicU64::new(0) });
        let mut watch = watch_over(listener.local_addr().expect("bound"), health, log);
        let pace = Arc::new(Pace::with_room(1, Arc::default()));
        watch.pace = Arc::clone(&pace);
        let cell = Arc::clone(&watch.cell);
        let another = pace.turn().await;
        let (_plan, held) = changes::channel(logged(0, None));
        let (findings, mut told) = changes::channel(None);
        let checking = tokio::spawn(async move { watch.check_on(findings, Falls::new(held)).await });
        cell.failing.notify_one();
        told.changed().await.expect("the watch goes on");
        assert_eq!(told.borrow_and_update().as_ref().map(|(verdict, _)| *verdict), Some(Verdict::Down));
        drop(another);
        told.changed().await.expect("the watch goes on");
        assert_eq!(told.borrow_and_update().as_ref().map(|(verdict, _)| *verdict), Some(Verdict::Up));
        checking.abort();
    }

    #[tokio::test]
    async fn only_falls_of_the_clusters_verdict_make_the_way_up_longer() {
        let script = "+-+-++-++++-++++++++.";
        assert_eq!(found(script, |finding| finding).await, "?UDUDDUDDDDUDDDDDDDDU", "a backend that fails");
        assert_eq!(found(script, |_| Verdict::Up).await, "?UDUDUUDUUUUDUUUUUUUU", "a node that is cut off");
    }

    #[test]
    fn a_node_that_nobody_hears_goes_by_silence_and_tells_the_cluster_nothing_of_it() {
        let mut machines = Machines::new(&Health { rise: 1, fall: 2, passive_failures: Some(3), ..Health::default() });
        let at = |millis: u64| BootNanos::new(millis * 1_000_000);
        let mut verdicts = |began: u64, answer, heard: Heard| {
            let check = Check { began: at(began), ended: at(began + 100), answer, heard_before: heard, heard };
            let observation = Observation { ok: answer == Answer::Good, detail: String::new() };
            machines.checked(&check, &observation);
            (machines.own.verdict(), machines.told.verdict())
        };
        let (up, down) = (Verdict::Up, Verdict::Down);
        assert_eq!(verdicts(1000, Answer::Good, Some(at(990))), (up, up));
        let lost = Some(at(1500));
        assert_eq!(verdicts(2000, Answer::Nothing, lost), (up, up));
        assert_eq!(verdicts(3000, Answer::Nothing, lost), (down, up));
        assert_eq!(verdicts(4000, Answer::Nothing, lost), (down, up));
        // It is heard again, and the backend is silent all the same.
        assert_eq!(verdicts(5000, Answer::Nothing, Some(at(4990))), (down, up));
        assert_eq!(verdicts(6000, Answer::Nothing, Some(at(5990))), (down, down));
        assert_eq!(verdicts(7000, Answer::Good, Some(at(6990))), (up, up));
        for _ in 0..2 {
            machines.failing(3, Answer::Nothing, at(9000), lost);
        }
        assert_eq!((machines.own.verdict(), machines.told.verdict()), (down, up), "so with requests");
        for _ in 0..2 {
            machines.failing(3, Answer::Bad, at(9000), lost);
        }
        assert_eq!((machines.own.verdict(), machines.told.verdict()), (down, down), "unless they were answered");
    }

    #[test]
    fn plans_that_say_nothing_new_wake_nobody() {
        let (plan, mut held) = changes::channel(logged(1, None));
        let awaited = Awaited::default();
        let mut wakes = |index, verdict, agreed| {
            tell(&plan, &awaited, Logged { agreed, ..logged(index, verdict) });
            let wakes = held.has_changed().expect("it is held");
            assert_eq!(held.borrow_and_update().index, LogIndex::new(index), "whoever looks sees the newest");
            wakes
        };
        let (up, down, unknown) = (Verdict::Up, Verdict::Down, Verdict::Unknown);
        assert!(!wakes(2, None, unknown));
        assert!(wakes(3, None, down), "the cluster's verdict");
        awaited.set(Some(Reported { index: LogIndex::new(5), verdict: up }));
        assert!(!wakes(4, None, down), "from before the report");
        assert!(wakes(5, None, down), "it should have the report");
        awaited.set(None);
        assert!(wakes(6, Some(up), down));
        assert!(!wakes(7, Some(up), down));
        assert!(wakes(8, None, down), "it lapsed");
    }

    #[test]
    fn a_plan_from_before_a_report_says_nothing_of_it() {
        let reported = |index, verdict| Some(Reported { index: LogIndex::new(index), verdict });
        let up = Verdict::Up;
        assert!(must_report(up, None, logged(9, Some(up))), "a life that has just begun says what it finds");
        assert!(must_report(up, reported(5, Verdict::Down), logged(9, Some(up))));
        assert!(!must_report(up, reported(5, up), logged(4, None)));
        assert!(!must_report(up, reported(5, up), logged(5, Some(up))));
        assert!(must_report(up, reported(5, up), logged(5, None)));
        assert!(must_report(up, reported(5, up), logged(6, Some(Verdict::Down))));
    }
}
