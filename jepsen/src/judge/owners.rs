//! Who answered for the VIP, as the observer saw it on the wire.

use std::time::Duration;

use ballast_jepsen::{
    time::{RunTime, Span},
    verdict::{Judgement, Promise},
};
use ballast_testkit::observer::{self, History, Unasked};

use super::{STOPPED, name, seen_until};
use crate::{clock::Clock, nemesis::Happened, plan::Kind, run::Run, site::VIP_NAME};

/// How long two nodes may seem to answer, in all, before nothing is decided: moments at changes of hands, and late answers of a
/// busy machine.
const DOUBT_MS: f64 = 50.0;
/// Which share of its questions the observer may miss. Two cores that compiled other programs kept it from a twentieth.
const MISSED_MAX: f64 = 0.1;
/// From which length on a time without a question counts in which the VIP changed hands. Shorter ones hide less than single
/// answers leave in doubt.
const UNWATCHED_MS: f64 = 5.0;
/// How long those may be in all before nothing is decided. Of five runs on two cores, three of them of ten minutes, four had none
/// of it and one had 30 ms: as much as this does not come by chance.
const UNWATCHED_MAX_MS: f64 = 250.0;

/// How long after root has begun to take a node's fence away that node may answer beside the owner: the command takes some
/// 40 ms, the kernel tells the node then, and the node puts the fence back.
const TAKEN_AWAY: Duration = Duration::from_millis(150);
/// How long it may do so in all, each time. No node can keep root from it; what it owes is to notice at once.
const TAKEN_AWAY_MS: f64 = 10.0;

/// No two nodes answer for the VIP at once.
pub(super) fn one(run: &Run) -> Judgement {
    watched(&run.owners, run.clock, run.span, &taken_away(&run.faults.faults), run.options.environment.has_ipv6())
}

/// Whose fence was away when.
fn taken_away(faults: &[Happened]) -> Vec<(Span, String)> {
    let faults = faults.iter().filter(|fault| fault.kind == Kind::TamperFence && fault.came_about);
    let away =
        |fault: &Happened| Some((Span::new(fault.from, fault.from.after(TAKEN_AWAY)), fault.victims.first()?.clone()));
    faults.filter_map(away).collect()
}

/// The same, of what was seen in a span; in IPv6 too, where the VIP has an address in it.
fn watched(
    owners: &History,
    clock: Clock,
    span: (RunTime, RunTime),
    away: &[(Span, String)],
    in_ipv6: bool,
) -> Judgement {
    let (from, until) = (clock.kernel(span.0), clock.kernel(span.1));
    let dual = owners.dual(None, from, until);
    let missed = owners.missed(from, until);
    let asked = ((until - from) as f64 / 1e6 * (1.0 - missed)) as usize;
    let mut judgement = Judgement::new(Promise::OneOwner)
        .looked_at("questions answered", owners.answered(None, from, until))
        .count("questions", asked)
        .count("doubtful microseconds", (dual.doubtful_ms * 1000.0) as usize);
    if in_ipv6 {
        let answered = |kind| owners.answered(Some(kind), from, until);
        judgement = judgement.looked_at("answers in IPv6", answered(observer::Kind::Ndp));
        judgement = judgement.looked_at("connections in IPv6", answered(observer::Kind::Syn6));
    }
    let unasked = owners.unasked(from, until);
    let longest = unasked.iter().map(Unasked::ms).fold(0.0, f64::max);
    let hidden = unasked.iter().filter(|time| time.hides_a_change()).map(Unasked::ms);
    let unwatched: f64 = hidden.filter(|ms| *ms > UNWATCHED_MS).sum();
    judgement = judgement
        .count("longest without a question, in ms", longest.round() as usize)
        .count("milliseconds without one at changes of hands", unwatched.ceil() as usize);
    let spans = owners.dual_spans(from, until).into_iter();
    let spans: Vec<(Span, Vec<String>)> = spans
        .map(|(from, until, who)| (Span::new(clock.of(from), clock.of(until)), who.into_iter().map(name).collect()))
        .collect();
    if spans.iter().any(|both| away.iter().any(|away| explains(away, both))) {
        judgement = judgement.count("milliseconds by nodes whose fence was taken away", dual.ms.ceil() as usize);
    }
    // Who took longer to notice than it may is excused nothing of it.
    let noticed = |(span, _): &&(Span, String)| {
        owners.dual(None, clock.kernel(span.from), clock.kernel(span.until)).ms <= TAKEN_AWAY_MS
    };
    let noticed: Vec<&(Span, String)> = away.iter().filter(noticed).collect();
    if !spans.iter().all(|both| noticed.iter().any(|away| explains(away, both))) {
        let spans = spans.into_iter().take(10);
        let spans: String =
            spans.map(|(span, who)| format!("\n{} to {} by {}", span.from, span.until, who.join(", "))).collect();
        judgement.violated(format!("two nodes answered for {VIP_NAME} for {:.1} ms{spans}", dual.ms));
    }
    // No fault excuses it: a bad line holds up whatever is not the observer's.
    if dual.doubtful_ms > DOUBT_MS {
        let ms = dual.doubtful_ms;
        judgement.undecided(format!("two nodes may have answered for {ms:.0} ms: single answers, or late ones"));
    }
    if missed > MISSED_MAX {
        judgement.undecided(format!("the machine kept the observer from {:.0} % of its questions", missed * 100.0));
    }
    if unwatched > UNWATCHED_MAX_MS {
        judgement.undecided(format!("{VIP_NAME} changed hands while nothing was asked, for {unwatched:.0} ms in all"));
    }
    if longest > STOPPED.as_secs_f64() * 1000.0 {
        judgement.undecided(format!("nothing was asked for {:.1} s at a stretch", longest / 1000.0));
    }
    seen_until(span.1, judgement, "question", owners.last_question(from, until).map(|at| clock.of(at)))
}

/// Whether two answered while one of them was without its fence, which was taken away a moment ago.
fn explains((away, victim): &(Span, String), (both, who): &(Span, Vec<String>)) -> bool {
    away.from <= both.from && both.until <= away.until && who.contains(victim)
}

/// When which node answered for the VIP.
pub(super) fn of(run: &Run) -> Vec<(Span, String)> {
    let owners = run.owners.owners().into_iter();
    owners.map(|(from, until, node)| (Span::new(run.clock.of(from), run.clock.of(until)), name(node))).collect()
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::verdict::Ruling;
    use ballast_testkit::observer::{TICK_NANOS, Tick};

    use super::*;

    /// How long they watch.
    const MILLIS: u64 = 60_000;

    /// What is ruled of a minute in which the first node answered every question; `change` is given each tick and its number.
    fn ruled(change: impl Fn(u64, &mut Tick)) -> Ruling {
        ruled_with(&[], change)
    }

    /// The same, with whose fence was away when.
    fn ruled_with(away: &[(Span, String)], change: impl Fn(u64, &mut Tick)) -> Ruling {
        ruled_in(true, away, change)
    }

    fn ruled_in(in_ipv6: bool, away: &[(Span, String)], change: impl Fn(u64, &mut Tick)) -> Ruling {
        ruled_for(MILLIS, in_ipv6, away, change)
    }

    fn ruled_for(millis: u64, in_ipv6: bool, away: &[(Span, String)], change: impl Fn(u64, &mut Tick)) -> Ruling {
        let clock = Clock::start();
        let tick = |number: u64| {
            let mut tick = Tick { solicited: number.is_multiple_of(8), ..Tick::default() };
            tick.sent_at = clock.kernel(RunTime::START) + number * TICK_NANOS;
            [&mut tick.arp, &mut tick.syn].into_iter().for_each(|nodes| nodes.add(0));
            if tick.solicited {
                tick.ndp.add(0);
                tick.syn6.add(0);
            }
            change(number, &mut tick);
            tick
        };
        let history = History::new((0..millis).map(tick).collect(), Vec::new());
        watched(&history, clock, (RunTime::START, RunTime::from_millis(millis)), away, in_ipv6).ruling
    }

    #[test]
    fn one_that_answers_in_both_families_is_well() {
        assert_eq!(ruled(|_, _| {}), Ruling::Held);
        let two = |number: u64, tick: &mut Tick| {
            if number == 7 || number == 8 {
                tick.arp.add(1);
            }
        };
        assert_eq!(ruled(two), Ruling::Violated);
    }

    #[test]
    fn a_second_one_that_takes_connections_in_ipv6_only_is_found() {
        let second = |number: u64, tick: &mut Tick| {
            if tick.solicited && (800..1000).contains(&number) {
                tick.syn6.add(1);
            }
        };
        assert_eq!(ruled(second), Ruling::Violated);
    }

    #[test]
    fn whose_fence_root_takes_away_may_answer_until_it_has_noticed() {
        let away =
            |node: &str| vec![(Span::new(RunTime::from_millis(1000), RunTime::from_millis(1150)), node.to_owned())];
        let two = |from: u64, ms: u64| {
            move |number: u64, tick: &mut Tick| {
                if (from..from + ms).contains(&number) {
                    tick.arp.add(1);
                }
            }
        };
        let ruled = |node: &str, from, ms| ruled_with(&away(node), two(from, ms));
        assert_eq!([ruled("node-2", 1040, 3), ruled("node-2", 1040, 30)], [Ruling::Held, Ruling::Violated]);
        assert_eq!([ruled("node-3", 1040, 3), ruled("node-2", 1160, 3)], [Ruling::Violated; 2]);
    }

    #[test]
    fn what_is_left_of_the_time_of_one_fault_is_not_anothers() {
        let away = [1000, 2000].map(|from| {
            let span = Span::new(RunTime::from_millis(from), RunTime::from_millis(from + 150));
            (span, String::from("node-2"))
        });
        let ruled = |first: u64, second: u64| {
            ruled_with(&away, move |number, tick| {
                if (1040..1040 + first).contains(&number) || (2040..2040 + second).contains(&number) {
                    tick.arp.add(1);
                }
            })
        };
        assert_eq!([ruled(9, 9), ruled(3, 15)], [Ruling::Held, Ruling::Violated]);
    }

    #[test]
    fn a_change_of_hands_that_nobody_watched_is_undecided() {
        let unwatched = |ms: u64, then: usize| {
            ruled(move |number, tick| {
                if number >= 20_000 {
                    let nobody = observer::Nodes::default();
                    (tick.arp, tick.syn, tick.ndp, tick.syn6) = (nobody, nobody, nobody, nobody);
                    tick.arp.add(then);
                    tick.syn.add(then);
                    if tick.solicited {
                        tick.ndp.add(then);
                        tick.syn6.add(then);
                    }
                }
                tick.sent_at *= u64::from(!(20_000..20_000 + ms).contains(&number));
            })
        };
        let rulings = [unwatched(200, 1), unwatched(300, 1), unwatched(300, 0)];
        assert_eq!(rulings, [Ruling::Held, Ruling::Undecided, Ruling::Held]);
    }

    #[test]
    fn a_quarter_of_a_minute_without_a_question_is_undecided_though_it_is_less_than_a_tenth() {
        let unasked = |ms: u64| {
            ruled_for(200_000, true, &[], move |number, tick| {
                tick.sent_at *= u64::from(!(50_000..50_000 + ms).contains(&number));
            })
        };
        assert_eq!([unasked(14_000), unasked(16_000)], [Ruling::Held, Ruling::Undecided]);
    }

    #[test]
    fn what_nobody_watched_to_the_end_is_not_held() {
        let ends = |at: u64| ruled(move |number, tick| tick.sent_at *= u64::from(number < at));
        // Less than a tenth is missing, and then more.
        assert_eq!([ends(MILLIS - 5_000), ends(MILLIS - 16_000)], [Ruling::Held, Ruling::Undecided]);
        assert_eq!(
            ruled(|number, tick| tick.sent_at *= u64::from(number % 8 > 0)),
            Ruling::Undecided,
            "an eighth was missed"
        );
    }

    #[test]
    fn late_answers_of_two_are_doubtful_whatever_the_line() {
        let late = |ms: u64| {
            ruled(move |number, tick| {
                if (20_000..20_000 + ms).contains(&number) {
                    tick.late.add(1);
                }
            })
        };
        assert_eq!([late(40), late(60)], [Ruling::Held, Ruling::Undecided]);
    }

    #[test]
    fn no_answer_in_ipv6_at_all_is_undecided() {
        assert_eq!(ruled(|_, tick| tick.ndp = observer::Nodes::default()), Ruling::Undecided);
        assert_eq!(ruled(|_, tick| tick.syn6 = observer::Nodes::default()), Ruling::Undecided);
        assert_eq!(ruled_in(false, &[], |_, tick| tick.ndp = observer::Nodes::default()), Ruling::Held, "it has none");
    }
}
