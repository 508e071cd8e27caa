//! One backend as one node sees it: rise, fall, passive failures, damping.
//!
//! | verdict | goes to | when |
//! |---|---|---|
//! | unknown | up | `rise` successes in a row |
//! | unknown, up | down | `fall` failures in a row |
//! | down | up | `rise` successes in a row, doubled for each recent fall but one |
//!
//! Damping. A backend that keeps falling moves clients each time, so each [fall](Machine::fell) (beyond
//! the first) that is not forgotten doubles the successes that it takes to come back, up to sixteen times.
//! One fall is forgotten for every minute without another. Only the way up is damped: a
//! backend that is down is never kept in use.
//!
//! What counts as a fall is the caller's to say, because this machine cannot tell a backend that fails from a
//! node that is cut off. Falls of the *cluster's* verdict move clients; that one node alone reaches nothing is
//! not held against backends, or a node that was cut off a few times would go on calling all of them down.

use crate::{config::Health, plan::Verdict, time::BootNanos};

/// What a probe saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Whether the backend answered as it should.
    pub ok: bool,
    /// In words, for the operator: `http 503`, `connect: refused`, `timeout after 500ms`.
    pub detail: String,
}

/// A change of this node's own verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: Verdict,
    /// What it is.
    pub to: Verdict,
    /// The observation that tipped it, in words.
    pub detail: String,
}

/// The rise/fall machine of one backend on one node.
#[derive(Clone, Debug)]
pub struct Machine {
    rules: Rules,
    verdict: Verdict,
    /// Checks in a row that speak against the verdict (or, while it is unknown, for one).
    streak: Streak,
    failed_requests: u32,
    falls: u32,
    falls_counted_at: BootNanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rules {
    rise: u32,
    fall: u32,
    passive_failures: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streak {
    ok: bool,
    length: u32,
}

/// A fall is forgotten after this long. Long against check intervals, short against an
/// operator's patience.
const FORGET_NANOS: u64 = 60_000_000_000;
/// Doublings stop here: sixteen times `rise` at an interval of a second is about half a minute.
const DOUBLINGS_MAX: u32 = 4;

impl Machine {
    /// A backend that was not checked yet.
    pub fn new(health: &Health) -> Self {
        Self {
            rules: Rules::of(health),
            verdict: Verdict::Unknown,
            streak: Streak { ok: true, length: 0 },
            failed_requests: 0,
            falls: 0,
            falls_counted_at: BootNanos::default(),
        }
    }

    /// Takes over changed settings. The verdict stands until checks say otherwise.
    pub fn configure(&mut self, health: &Health) {
        self.rules = Rules::of(health);
    }

    /// A check came back.
    pub fn checked(&mut self, now: BootNanos, observation: &Observation) -> Option<Transition> {
        self.forget(now);
        if observation.ok {
            self.failed_requests = 0;
        }
        self.count(observation.ok, &observation.detail)
    }

    /// A request of a client succeeded or failed. Called for each request; costs a few instructions.
    ///
    /// So many failures in a row as `passive_failures` says count as one failed check. While the
    /// backend is down only checks count, because what still reaches it is no fair sample.
    pub fn served(&mut self, now: BootNanos, ok: bool) -> Option<Transition> {
        if ok {
            self.failed_requests = 0;
            return None;
        }
        let limit = self.rules.passive_failures?;
        if self.verdict == Verdict::Down {
            return None;
        }
        self.failed_requests += 1;
        if self.failed_requests < limit {
            return None;
        }
        self.failed_requests = 0;
        self.forget(now);
        self.count(false, &format!("{limit} requests failed in a row"))
    }

    /// The backend fell, and that moved clients: it takes longer to come back for a while.
    pub fn fell(&mut self, now: BootNanos) {
        self.forget(now);
        self.falls = self.falls.saturating_add(1);
        self.falls_counted_at = now;
    }

    /// What this node thinks of the backend.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Successes in a row that it takes now to come up.
    pub fn rise_needed(&self) -> u32 {
        let doublings = self.falls.saturating_sub(1).min(DOUBLINGS_MAX);
        self.rules.rise.saturating_mul(1 << doublings)
    }

    fn count(&mut self, ok: bool, detail: &str) -> Option<Transition> {
        let length = if self.streak.ok == ok { self.streak.length.saturating_add(1) } else { 1 };
        self.streak = Streak { ok, length };
        let needed = if ok { self.rise_needed() } else { self.rules.fall };
        let to = if ok { Verdict::Up } else { Verdict::Down };
        if self.verdict == to || length < needed {
            return None;
        }
        let from = std::mem::replace(&mut self.verdict, to);
        Some(Transition { from, to, detail: detail.to_owned() })
    }

    fn forget(&mut self, now: BootNanos) {
        let minutes = now.since(self.falls_counted_at) / FORGET_NANOS;
        if self.falls > 0 && minutes > 0 {
            self.falls = self.falls.saturating_sub(u32::try_from(minutes).unwrap_or(u32::MAX));
            self.falls_counted_at = self.falls_counted_at.plus(minutes.saturating_mul(FORGET_NANOS));
        }
    }
}

impl Rules {
    fn of(health: &Health) -> Self {
        Self { rise: health.rise.max(1), fall: health.fall.max(1), passive_failures: health.passive_failures }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn machine(rise: u32, fall: u32, passive_failures: Option<u32>) -> Machine {
        Machine::new(&Health { rise, fall, passive_failures, ..Health::default() })
    }

    fn observation(ok: bool) -> Observation {
        Observation { ok, detail: if ok { "http 200" } else { "connect: refused" }.to_owned() }
    }

    /// Feeds checks, one a second (`+` good, `-` bad), and shows the verdict after each.
    fn run(machine: &mut Machine, from_second: u64, checks: &str) -> String {
        feed(machine, from_second, checks, false)
    }

    /// The same of a backend that falls for the whole cluster whenever it falls here.
    fn run_for_all(machine: &mut Machine, from_second: u64, checks: &str) -> String {
        feed(machine, from_second, checks, true)
    }

    fn feed(machine: &mut Machine, from_second: u64, checks: &str, for_all: bool) -> String {
        checks
            .chars()
            .zip(from_second..)
            .map(|(check, second)| {
                let now = BootNanos::new(second * SECOND);
                let transition = machine.checked(now, &observation(check == '+'));
                if for_all && transition.is_some_and(|transition| transition.to == Verdict::Down) {
                    machine.fell(now);
                }
                match machine.verdict() {
                    Verdict::Unknown => '?',
                    Verdict::Up => 'U',
                    Verdict::Down => 'D',
                }
            })
            .collect()
    }

    #[test]
    fn rise_and_fall_need_a_row() {
        assert_eq!(run(&mut machine(2, 3, None), 0, "++--+---++"), "?UUUUUUDDU");
        assert_eq!(run(&mut machine(2, 3, None), 0, "-+-+---++"), "??????DDU");
        assert_eq!(run(&mut machine(1, 1, None), 0, "+-+-"), "UDUD");
    }

    #[test]
    fn a_transition_says_what_tipped_it() {
        let mut machine = machine(1, 2, None);
        let now = BootNanos::new(SECOND);
        let up = machine.checked(now, &observation(true));
        assert_eq!(up, Some(Transition { from: Verdict::Unknown, to: Verdict::Up, detail: "http 200".to_owned() }));
        assert_eq!(machine.checked(now, &observation(false)), None);
        let down = machine.checked(now, &observation(false));
        assert_eq!(
            down,
            Some(Transition { from: Verdict::Up, to: Verdict::Down, detail: "connect: refused".to_owned() })
        );
    }

    #[test]
    fn a_flapping_backend_comes_back_more_slowly() {
        let mut machine = machine(1, 1, None);
        assert_eq!(run_for_all(&mut machine, 0, "+-+"), "UDU", "the first fall is forgiven");
        assert_eq!(run_for_all(&mut machine, 3, "-++"), "DDU");
        assert_eq!(run_for_all(&mut machine, 6, "-++++"), "DDDDU");
        assert_eq!(run_for_all(&mut machine, 11, "-"), "D");
        assert_eq!(machine.rise_needed(), 8);
        run_for_all(&mut machine, 12, &"-".repeat(3));
        assert_eq!(machine.rise_needed(), 8, "staying down is not falling again");
        assert_eq!(run_for_all(&mut machine, 11 + 4 * 60, "+"), "U", "forgotten after as many minutes");
    }

    #[test]
    fn what_only_one_node_met_is_not_held_against_the_backend() {
        let mut machine = machine(2, 1, None);
        assert_eq!(run(&mut machine, 0, "++-++-++-++-++-++"), "?UDDUDDUDDUDDUDDU");
        assert_eq!(machine.rise_needed(), 2);
    }

    #[test]
    fn failed_requests_count_as_a_check() {
        let mut machine = machine(1, 2, Some(3));
        let now = BootNanos::new(SECOND);
        run(&mut machine, 0, "+");
        for ok in [false, false, true, false, false] {
            assert_eq!(machine.served(now, ok), None);
        }
        assert_eq!(machine.served(now, false), None, "one failed check of two");
        let fell = [false, false, false].map(|ok| machine.served(now, ok));
        assert_eq!(
            fell[2].as_ref().map(|t| (t.to, t.detail.as_str())),
            Some((Verdict::Down, "3 requests failed in a row"))
        );
        assert_eq!((0..100).find_map(|_| machine.served(now, false)), None, "only checks count while down");
        assert_eq!((0..100).find_map(|_| self::machine(1, 1, None).served(now, false)), None, "off unless configured");
    }

    proptest! {
        #[test]
        fn a_verdict_never_changes_without_its_row(checks in "[+-]{0,200}", rise in 1..5_u32, fall in 1..5_u32) {
            let mut machine = machine(rise, fall, None);
            let mut row = (true, 0);
            for (check, second) in checks.chars().zip(0..) {
                let ok = check == '+';
                row = if row.0 == ok { (ok, row.1 + 1) } else { (ok, 1) };
                if let Some(transition) = machine.checked(BootNanos::new(second * SECOND), &observation(ok)) {
                    prop_assert_ne!(transition.from, transition.to);
                    prop_assert_eq!(transition.to, if ok { Verdict::Up } else { Verdict::Down });
                    let needed = if ok { rise } else { fall };
                    prop_assert!(row.1 >= needed);
                } else if !ok && row.1 >= fall {
                    prop_assert_eq!(machine.verdict(), Verdict::Down, "the way down is never damped");
                }
            }
        }
    }
}
