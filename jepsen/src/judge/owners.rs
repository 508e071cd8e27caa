//! Who answered for the VIP, as the observer saw it on the wire.

use ballast_jepsen::verdict::{Judgement, Promise};

use super::name;
use crate::{
    nemesis::{self, Happened},
    plan::Family,
    run::Run,
    site::VIP_NAME,
};

/// How long two nodes may seem to answer, in all, before nothing is decided: moments at changes of hands, and late answers of a
/// busy machine.
const DOUBT_MS: f64 = 50.0;

/// No two nodes answer for the VIP at once.
pub(super) fn one(run: &Run) -> Judgement {
    let (from, until) = (run.clock.kernel(run.span.0), run.clock.kernel(run.span.1));
    let dual = run.owners.dual(None, from, until);
    let missed = run.owners.missed(from, until);
    let asked = ((until - from) as f64 / 1e6 * (1.0 - missed)) as usize;
    let mut judgement = Judgement::new(Promise::OneOwner)
        .looked_at("questions answered", run.owners.answered(from, until))
        .count("questions", asked)
        .count("doubtful microseconds", (dual.doubtful_ms * 1000.0) as usize);
    if dual.ms > 0.0 {
        let spans = run.owners.dual_spans(from, until).into_iter().take(10).map(|(from, until, who)| {
            let who: Vec<String> = who.into_iter().map(name).collect();
            format!("\n{} to {} by {}", run.clock.of(from), run.clock.of(until), who.join(", "))
        });
        let spans: String = spans.collect();
        judgement.violated(format!("two nodes answered for {VIP_NAME} for {:.1} ms{spans}", dual.ms));
    }
    let doubtful_ms = doubt(run, (from, until));
    if doubtful_ms > DOUBT_MS {
        judgement
            .undecided(format!("two nodes may have answered for {doubtful_ms:.0} ms: single answers, or late ones"));
    }
    if missed > 0.5 {
        judgement.undecided(format!("the machine kept the observer from {:.0} % of its questions", missed * 100.0));
    }
    judgement
}

/// Time in which two nodes may have answered while frames were not late on purpose.
fn doubt(run: &Run, (from, until): (u64, u64)) -> f64 {
    let line = |fault: &&Happened| fault.kind.family() == Family::Line;
    let late = run.faults.faults.iter().filter(line);
    let mut late: Vec<(u64, u64)> =
        late.map(|fault| (run.clock.kernel(fault.from), run.clock.kernel(nemesis::reason_until(fault)))).collect();
    late.sort_unstable();
    late.push((until, until));
    let (mut doubtful, mut at) = (0.0, from);
    for (begins, ends) in late {
        if at < begins {
            doubtful += run.owners.dual(None, at, begins).doubtful_ms;
        }
        at = at.max(ends);
    }
    doubtful
}
