//! Until when a write takes effect of which its client was told that nobody knows.
//!
//! A node sends a command until its deadline, and tells its client so when that is over, or when the node ends (docs/sessions.md).
//! What it has sent by then is with a leader soon or never. What is asked for some seconds later comes behind it in the log, or it is
//! in no log that will be agreed on. So it takes effect before anything is acknowledged that was asked for then, or never does. A
//! cluster without a quorum acknowledges nothing, which puts it off.
//!
//! What a process that stands still has not read yet, and what is on a bad line, comes later. Then the seconds are counted from the
//! end of that.
//!
//! Not here: commands whose connections broke. A node may read such a one at any time, and its deadline begins then.

use std::{collections::BTreeMap, time::Duration};

use ballast_jepsen::{
    history::{History, Operation, Outcome},
    models::{PairInput, PairOutput, SessionOutput},
    time::{RunTime, Span},
    verdict::Judgement,
};

use crate::{nemesis::Happened, run::Run};

/// How an answer begins by which a command was sent to a leader.
const SENT: &str = "UNKNOWN outcome unknown: the command was sent";
/// How long after the deadline something may come of what was sent. A connection that is cut is given up two seconds after the last
/// answer on it, with all that is on its way; a leader that can propose nothing forgets what it got two seconds after it was sent, when
/// its sender begins anew. The third second is for a machine that is busy.
const ARRIVES_WITHIN: Duration = Duration::from_secs(3);
/// Where a client that asks backends is late by so much, the machine has stood still, and nodes may have.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// By when writes of unknown outcome lapse.
pub(super) struct Lapses {
    /// For each write that was acknowledged: when it was asked for, and when the first was acknowledged of those that were asked for
    /// no sooner. In the order of the former.
    acknowledged: Vec<(RunTime, RunTime)>,
    /// While what was sent may have waited, in the order in which that began.
    waits: Vec<Span>,
}

impl Lapses {
    /// Those of a run.
    pub(super) fn of(run: &Run) -> Self {
        let registers = acknowledged(&run.registers, |_, output| changed(output));
        let moved = |input: &PairInput, output: &PairOutput| {
            *input != PairInput::Read && matches!(output, PairOutput::Both(..))
        };
        let transactions = acknowledged(&run.transactions, moved);
        let additions = acknowledged(&run.additions, |_, ()| true);
        let writes = registers.chain(transactions).chain(additions).collect();
        Self::new(writes, waits(&run.faults.faults, &run.slow))
    }

    fn new(mut writes: Vec<Span>, mut waits: Vec<Span>) -> Self {
        waits.sort_unstable();
        writes.sort_unstable();
        let mut first = RunTime::NEVER;
        let before = |write: &Span| {
            first = first.min(write.until);
            (write.from, first)
        };
        let mut acknowledged: Vec<_> = writes.iter().rev().map(before).collect();
        acknowledged.reverse();
        Self { acknowledged, waits }
    }

    /// Until when an operation of unknown outcome takes effect, if it ever does.
    pub(super) fn lapse<I, O>(&self, operation: &Operation<I, O>) -> RunTime {
        if !operation.note.starts_with(SENT) {
            return RunTime::NEVER;
        }
        let mut sent = operation.completed;
        for wait in &self.waits {
            if wait.touches(Span::new(operation.invoked, sent.after(ARRIVES_WITHIN))) {
                sent = sent.max(wait.until);
            }
        }
        let over = sent.after(ARRIVES_WITHIN);
        let next = self.acknowledged.partition_point(|(asked, _)| *asked < over);
        self.acknowledged.get(next).map_or(RunTime::NEVER, |(_, first)| *first)
    }

    /// Says how many lapsed, and how many of those somebody looked at afterwards.
    pub(super) fn count<I, O>(&self, judgement: Judgement, what: &str, history: &History<I, O>) -> Judgement {
        let operations = history.operations();
        let mut looks: BTreeMap<&str, RunTime> = BTreeMap::new();
        for look in operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Ok(_))) {
            let last = looks.entry(&look.key).or_default();
            *last = look.invoked.max(*last);
        }
        let unknown = operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Unknown));
        let lapses = unknown.map(|operation| (operation.key.as_str(), self.lapse(operation)));
        let lapsed: Vec<_> = lapses.filter(|(_, lapse)| *lapse != RunTime::NEVER).collect();
        let seen = lapsed.iter().filter(|(key, lapse)| looks.get(key).is_some_and(|last| last >= lapse)).count();
        judgement
            .count(&format!("{what}of unknown outcome that lapsed"), lapsed.len())
            .count(&format!("{what}of unknown outcome that were looked at after they lapsed"), seen)
    }
}

/// Whether an answer says that its command changed something, so that it was in the log.
fn changed(output: &SessionOutput) -> bool {
    use SessionOutput::{Done, Flag, Number};
    matches!(output, Done | Number(_) | Flag(true))
}

/// From when to when each write of a history was under way that was in the log.
fn acknowledged<I, O>(history: &History<I, O>, was_in_the_log: impl Fn(&I, &O) -> bool) -> impl Iterator<Item = Span> {
    history.operations().iter().filter_map(move |operation| {
        let Outcome::Ok(output) = &operation.outcome else { return None };
        was_in_the_log(&operation.input, output).then(|| Span::new(operation.invoked, operation.completed))
    })
}

/// While what nodes sent each other may have waited.
fn waits(faults: &[Happened], slow: &[Span]) -> Vec<Span> {
    let kept = faults.iter().filter(|fault| !fault.kind.keeps_nothing_waiting());
    let stood_still = slow.iter().copied().filter(|slow| slow.length() >= STOOD_STILL);
    kept.map(|fault| Span::new(fault.from, fault.until)).chain(stood_still).collect()
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::{
        history::{Client, Recorder},
        models::SessionInput,
        verdict::Promise,
    };

    use super::*;
    use crate::plan::Kind;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    fn span(from: u64, until: u64) -> Span {
        Span::new(at(from), at(until))
    }

    const TOLD: &str =
        "UNKNOWN outcome unknown: the command was sent but not confirmed within 2s; look before you repeat it";

    fn unknown(completed: u64, note: &str) -> Operation<SessionInput, SessionOutput> {
        Operation {
            client: Client::new(1),
            invoked: at(completed.saturating_sub(2000)),
            completed: at(completed),
            key: "register:0:0".to_owned(),
            input: SessionInput::Del,
            outcome: Outcome::Unknown,
            note: note.to_owned(),
        }
    }

    #[test]
    fn it_lapses_when_a_write_is_acknowledged_that_was_asked_for_seconds_after_its_deadline() {
        let lapse = |writes: &[Span]| Lapses::new(writes.to_vec(), Vec::new()).lapse(&unknown(10_000, TOLD));
        assert_eq!(lapse(&[]), RunTime::NEVER, "there is no quorum");
        assert_eq!(lapse(&[span(9_000, 20_000), span(12_999, 13_500)]), RunTime::NEVER);
        assert_eq!(lapse(&[span(13_000, 13_010)]), at(13_010));
        let slow_and_late = [span(12_999, 13_001), span(13_000, 15_000), span(13_400, 13_450), span(13_500, 13_510)];
        assert_eq!(lapse(&slow_and_late), at(13_450), "whichever is acknowledged first");
    }

    #[test]
    fn only_what_was_sent_lapses() {
        let lapses = Lapses::new(vec![span(20_000, 20_010)], Vec::new());
        assert_eq!(lapses.lapse(&unknown(10_000, TOLD)), at(20_010));
        for other in ["UnexpectedEof", "abandoned", "", "UNKNOWN outcome unknown: the cluster's answer does not fit"] {
            assert_eq!(lapses.lapse(&unknown(10_000, other)), RunTime::NEVER, "{other}");
        }
    }

    #[test]
    fn what_may_have_waited_lapses_later() {
        let writes: Vec<Span> = (0..600).map(|tenth| span(tenth * 100, tenth * 100 + 10)).collect();
        let lapse = |waits: &[Span]| Lapses::new(writes.clone(), waits.to_vec()).lapse(&unknown(10_000, TOLD));
        assert_eq!(lapse(&[]), at(13_010));
        assert_eq!(lapse(&[span(1_000, 7_999), span(13_001, 30_000)]), at(13_010), "before and after");
        assert_eq!(lapse(&[span(1_000, 8_000)]), at(13_010), "it was over in time");
        assert_eq!(lapse(&[span(9_000, 12_500)]), at(15_510));
        assert_eq!(lapse(&[span(15_000, 19_000), span(9_000, 12_500)]), at(22_010), "one after the other");
    }

    #[test]
    fn what_stands_still_is_late_or_is_of_another_version_may_keep_something_waiting() {
        let kept: Vec<String> =
            Kind::all().filter(|kind| kind.keeps_nothing_waiting()).map(|kind| kind.to_string()).collect();
        let expected = "kill,restart,crash-loop,kill-all,power-off,black-out,isolate,one-way,split,ring,bridge,\
            link-down,transfer-leader,snapshot,move-vip,demote,backend-fails,backend-drain,backend-maintenance,\
            tamper-fence,clock-step,clock-slew,backend-truncates,terminate,move-client";
        assert_eq!(kept.join(","), expected);
        let fault = |kind| Happened {
            kind,
            victims: Vec::new(),
            from: at(1000),
            until: at(2000),
            whole_until: None,
            came_about: true,
            acknowledged: None,
        };
        let faults = [fault(Kind::Split), fault(Kind::Pause)];
        assert_eq!(waits(&faults, &[span(3000, 3499), span(4000, 4500)]), [span(1000, 2000), span(4000, 4500)]);
    }

    #[test]
    fn looks_count_that_came_after_the_lapse() {
        let lapses = Lapses::new(vec![span(14_000, 14_010)], Vec::new());
        let counted = |look_at: u64| {
            let recorder = Recorder::new();
            let mut log = recorder.client();
            log.invoke(at(8_000), "k", SessionInput::Del).unknown(at(10_000), TOLD);
            log.invoke(at(10_001), "other", SessionInput::Del).unknown(at(10_002), "TimedOut");
            log.invoke(at(look_at), "k", SessionInput::Get).ok(at(look_at + 1), SessionOutput::Value(None));
            let counts = lapses.count(Judgement::new(Promise::Sessions), "", &recorder.take()).counts;
            counts.into_values().collect::<Vec<_>>()
        };
        assert_eq!(counted(14_010), [1, 1]);
        assert_eq!(counted(14_009), [1, 0]);
    }

    #[test]
    fn a_refusal_is_no_write() {
        let said = [SessionOutput::Done, SessionOutput::Number(4), SessionOutput::Flag(true)];
        assert!(said.iter().all(changed));
        assert!(![SessionOutput::Flag(false), SessionOutput::Value(None), SessionOutput::Refused].iter().any(changed));
    }
}
