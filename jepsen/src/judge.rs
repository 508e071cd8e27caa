//! What a run says about each promise.

mod calm;
mod departures;
mod disturbed;
mod drained;
mod failover;
mod hands;
mod lapses;
mod minorities;
mod moved;
mod open;
mod owners;
mod revisions;
mod signed;
mod silent;
mod slow;
mod stays;
mod visitors;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ballast_jepsen::{
    baskets,
    durability::{self, Addition, FinalRead},
    epochs::{self, Mark, Saying},
    history::{History, Operation, Outcome},
    leaks::{self, Resource, Series, Tolerance},
    linear::{self, Limits, Verdict},
    models::{ClockSlack, ConfigModel, PairModel, PairOutput, SessionInput, SessionModel, Versions, unread_alike},
    recovery::{self, Fault, Recovery},
    says_why::{self, Answered, Disturbance, Vain},
    stickiness::{self, Cause, Observation, Reason},
    time::{RunTime, Span},
    transfers,
    verdict::{Judgement, Promise, Report, Ruling},
};

use self::{departures::Departure, lapses::Lapses};
use crate::{
    decided::Why,
    nemesis::{self, Happened},
    plan::{Kind, Round, Shown},
    run::Run,
    site::{ADDRESS_FARM, VIP_NAME},
    watch::Sample,
    workload::{BUG, DENIED, locks, members, transactions},
};

/// By how much log time and the clients' clock may differ over a life: nodes and clients are on one machine, entries come
/// at least every so often, and a leader that was stopped stamps nothing.
pub const SLACK: Duration = Duration::from_millis(400);
/// What starting takes, when nobody carries log time on.
const START: Duration = Duration::from_secs(2);
/// How soon after a fault somebody must be served again: an election or two, a lease and a start on a busy machine.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// Clients that have not succeeded for so long before the last calm ended have stopped.
const STOPPED: Duration = Duration::from_secs(15);
/// Of a calm, what must be left after that for each node to be visited some dozen times.
const TAIL: Duration = Duration::from_millis(700);
/// The farm of the shop.
const FARM: &str = "shop";

/// What the title of a run says that somebody ended.
pub const CALLED_OFF: &str = "called off";

/// Judges all promises.
pub fn judge(run: &Run) -> Report {
    let mut judgements = vec![owners::one(run), stickiness(run), sessions(run), configuration(run)];
    judgements.extend([explanations(run), durability(run), recovery(run), leaks(run)]);
    let last_transfer = run.till.transfers.iter().map(|transfer| transfer.span.until).max();
    let whole = transfers::judge(&run.till.transfers, run.till.broken);
    judgements.push(to_the_end(run, whole, "transfer", last_transfer));
    judgements.extend(forward(run));
    judgements.extend(failover::replaced(run));
    judgements.extend(minorities::judge(run));
    if !run.cut_short && !run.faults.halted {
        unshown(&mut judgements, &run.rounds);
    }
    misdeeds(&mut judgements, &run.faults.broken);
    let Run { options, .. } = run;
    let planted = options.planted.as_ref().map(|bug| format!(" with {bug}")).unwrap_or_default();
    let after = format!("after {:.0} s of {}", run.span.1.since(run.span.0).as_secs_f64(), options.seconds);
    let length = match (run.cut_short, run.faults.halted) {
        (true, _) => format!("{CALLED_OFF} {after}"),
        (false, true) => format!("ended by the lab {after}"),
        (false, false) => format!("{} s", options.seconds),
    };
    let title = format!("{}, {length} of faults{planted}", options.environment.describe(options.nodes));
    Report { title, seed: options.seed, judgements }
}

/// What a round was to show and nothing was judged of, because something else went on, or it befell somebody else.
fn unshown(judgements: &mut Vec<Judgement>, rounds: &[Round]) {
    for promise in rounds.iter().filter_map(Round::shows).map(Shown::promise) {
        if judgements.iter().all(|judgement| judgement.promise != promise) {
            let mut judgement = Judgement::new(promise);
            judgement.undecided("a round was to show it, and nothing could be judged of it");
            judgements.push(judgement);
        }
    }
}

/// What nodes did that they must not, each under its promise, and before what clients of such a node came to notice.
fn misdeeds(judgements: &mut Vec<Judgement>, broken: &[(Promise, String)]) {
    for (promise, what) in broken.iter().rev() {
        if judgements.iter().all(|judgement| judgement.promise != *promise) {
            judgements.push(Judgement::new(*promise));
        }
        let of_it = judgements.iter_mut().find(|judgement| judgement.promise == *promise);
        of_it.expect("there is one now").violated_first(what.as_str());
    }
}

/// Holds a history against a model, and adds what follows to a judgement.
fn hold<M: linear::Model>(judgement: Judgement, model: &M, history: &History<M::Input, M::Output>) -> Judgement {
    explain(judgement, history, linear::verdicts(model, history, Limits::default()))
}

/// Adds what is ruled of each key to a judgement.
fn explain<'a, I, O>(
    judgement: Judgement,
    history: &History<I, O>,
    verdicts: impl Iterator<Item = (&'a str, Verdict)>,
) -> Judgement {
    let operations = history.operations();
    let unknown = operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Unknown)).count();
    let known = operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Ok(_))).count();
    let judgement = judgement
        .looked_at("answered operations", known)
        .count("of unknown outcome", unknown)
        .count("refused", operations.len() - known - unknown);
    rule(judgement, history, verdicts)
}

/// Adds the verdicts alone.
fn rule<'a, I, O>(
    mut judgement: Judgement,
    history: &History<I, O>,
    verdicts: impl Iterator<Item = (&'a str, Verdict)>,
) -> Judgement {
    if let Err(error) = history.validate() {
        judgement.undecided(format!("the recorder is wrong: {error}"));
        return judgement;
    }
    for (_, verdict) in verdicts {
        match verdict {
            Verdict::Linearizable => {}
            Verdict::Violation(violation) => judgement.violated(violation.to_string()),
            Verdict::Undecided(why) => judgement.undecided(why.to_string()),
        }
    }
    judgement
}

/// While every daemon is dead nobody carries log time on; then it catches up by a tenth of what passes. So lives that it
/// comes into last longer, by as much as it took.
fn dead(run: &Run) -> Vec<Span> {
    let dead = run.faults.faults.iter().filter(|fault| matches!(fault.kind, Kind::KillAll | Kind::BlackOut));
    dead.map(|fault| Span::new(fault.from, fault.until.after(START))).collect()
}

fn sessions(run: &Run) -> Judgement {
    let judgement = Judgement::new(Promise::Sessions).looked_at("times a lock was held", run.held.len());
    let (history, dead) = (unread_alike(&run.registers), dead(run));
    let slack = ClockSlack { offset: SLACK, rate_per_mille: 100, dead: Duration::ZERO };
    let model = |asked| SessionModel { clock_slack: slack.within(asked, &dead) };
    let (lapses, mut told) = (Lapses::of(run), BTreeSet::new());
    let lapse = |operation: &Operation<_, _>| lapses.lapse(operation);
    let verdicts = linear::verdicts_by(model, &history, lapse, Limits::default()).inspect(|(key, verdict)| {
        if *verdict != Verdict::Linearizable {
            told.insert(*key);
        }
    });
    let mut judgement = lapses.count(explain(judgement, &history, verdicts), "", &history);
    // Apart, because lives are judged by what befell the cluster while their key was asked for.
    let to_the_last = unread_alike(&to_the_last(&run.registers, &run.registers_end));
    let verdicts = linear::verdicts_by(model, &to_the_last, lapse, Limits::default());
    judgement = rule(judgement, &to_the_last, verdicts.filter(|(key, _)| !told.contains(key)));
    judgement = judgement.count("looks at keys when all was over", run.registers_end.operations().len());
    judgement = to_the_end(run, judgement, "answer", last(&run.registers));
    judgement = pairs(judgement, run, &lapses);
    judgement = to_the_end(run, judgement, "transaction", last(&run.transactions));
    judgement = to_the_end(run, judgement, "lock", run.held.iter().map(|held| held.from).max());
    for (one, other) in locks::overlaps(&run.held) {
        judgement.violated(format!(
            "{} was held by client {} from {} to {} and by client {} from {} to {}",
            one.lock, one.client, one.from, one.until, other.client, other.from, other.until
        ));
    }
    judgement
}

/// Each pair of accounts is one object: it is seen before a move or after it, and never in between.
fn pairs(judgement: Judgement, run: &Run, lapses: &Lapses) -> Judgement {
    let history = &run.transactions;
    let operations = history.operations();
    let of = |wanted: fn(&Outcome<PairOutput>) -> bool| {
        operations.iter().filter(|operation| wanted(&operation.outcome)).count()
    };
    let called_off = operations.iter().filter(|operation| operation.note == transactions::CHANGED).count();
    let judgement = judgement
        .looked_at("transactions", of(|outcome| matches!(outcome, Outcome::Ok(_))))
        .count("transactions of unknown outcome", of(|outcome| matches!(outcome, Outcome::Unknown)))
        .count("transactions refused", of(|outcome| matches!(outcome, Outcome::Fail)) - called_off)
        .count("transactions called off by WATCH", called_off);
    let judgement = lapses.count(judgement, "transactions ", history);
    let looks = run.transactions_end.operations();
    let judgement = judgement.count("looks at pairs when all was over", looks.len());
    let to_the_last = History::new([operations, looks].concat());
    let lapse = |operation: &Operation<_, _>| lapses.lapse(operation);
    rule(judgement, &to_the_last, linear::verdicts_by(|_| PairModel, &to_the_last, lapse, Limits::default()))
}

/// What was done to the objects that were looked at when all was over, with those looks.
fn to_the_last<I: Clone, O: Clone>(history: &History<I, O>, looks: &History<I, O>) -> History<I, O> {
    let looked_at: BTreeSet<&str> = looks.operations().iter().map(|look| look.key.as_str()).collect();
    let of_them = history.operations().iter().filter(|operation| looked_at.contains(operation.key.as_str()));
    History::new(of_them.chain(looks.operations()).cloned().collect())
}

fn configuration(run: &Run) -> Judgement {
    // Only these clients change the document.
    let judgement = Judgement::new(Promise::Configuration);
    let judgement = hold(judgement, &ConfigModel { versions: Versions::Own }, &run.config);
    let troubled = troubles(&run.faults.faults, &run.slow);
    let judgement = drained::judge(judgement, &run.faults.faults, &run.seen.served, &troubled, slow::percent(run));
    let judgement = revisions::changed(judgement, &run.config, run.span.1);
    to_the_end(run, revisions::served(run, judgement), "answer", last(&run.config))
}

fn durability(run: &Run) -> Judgement {
    let element = |key: &str, member: u64| format!("{key}/{member}");
    let additions: Vec<Addition> = run
        .additions
        .operations()
        .iter()
        .map(|addition| Addition { element: element(&addition.key, addition.input), outcome: addition.outcome.clone() })
        .collect();
    let nodes = if run.sets.is_empty() { 0 } else { run.options.nodes };
    let reads: Vec<FinalRead> = (0..nodes)
        .map(|node| FinalRead {
            node: name(node),
            elements: run
                .sets
                .iter()
                .flat_map(|(key, sets)| sets[node].iter().map(|member| element(key, *member)))
                .collect(),
        })
        .collect();
    let mut judgement = baskets::judge(durability::check_durability(&additions, &reads).judgement(), &run.till.told);
    if let Some(why) = run.unwell.as_ref().filter(|_| nodes == 0) {
        judgement.undecided(format!("the sets could not be read at the end: {why}"));
    }
    judgement = twice(judgement, &run.additions);
    judgement = to_the_end(run, judgement, "addition", last(&run.additions));
    to_the_end(run, judgement, "basket", run.till.told.iter().map(|told| told.span.until).max())
}

/// Adds to a judgement what was carried out twice.
fn twice(mut judgement: Judgement, additions: &History<u64, ()>) -> Judgement {
    for again in additions.operations().iter().filter(|addition| addition.note == members::TWICE) {
        judgement.violated(format!(
            "{}/{} was there already at {}, though it was asked for once, at {}",
            again.key, again.input, again.completed, again.invoked
        ));
    }
    judgement
}

fn stickiness(run: &Run) -> Judgement {
    // A line is missing if a node died before it wrote it: nobody knows whether that answer went through a binding.
    let lines: BTreeMap<&str, &says_why::Line> = run.proxied.iter().map(|line| (line.id.as_str(), line)).collect();
    let mut answers = visitors::observations(&run.seen.served, &lines, run.options.nodes);
    let by_address = visitors::observations(&run.by_address.served, &lines, run.options.nodes).into_iter();
    answers.extend(by_address.map(|(served, seen)| (served, Observation { farm: ADDRESS_FARM.to_owned(), ..seen })));
    let departures = run.decided.as_ref().map(|decided| departures::departures(decided, &run.samples));
    let mut causes: Vec<Cause> =
        run.faults.faults.iter().flat_map(|fault| broken(fault, departures.as_deref())).collect();
    causes.extend(answers.iter().flat_map(|(served, seen)| {
        let unbound = lines.get(served.id.as_str()).is_some_and(|line| line.binding == "unbound");
        if unbound { found_no_way(seen, &run.faults.faults) } else { Vec::new() }
    }));
    // What operators want of the shop's backends does not concern those of other farms, which are the same servers.
    let failed = run.faults.faults.iter().filter_map(failed_elsewhere);
    let mut away: Vec<Span> = failed.clone().map(|cause| cause.span).collect();
    causes.extend(failed);
    causes.extend(run.faults.faults.iter().filter_map(moved::cause));
    // Backends that answer nobody in time are down, too. That they did not, others have seen than those who say so.
    let troubled = troubles(&run.faults.faults, &run.slow);
    away.extend(&troubled);
    let mut moved = 0;
    for (served, seen) in answers.iter().filter(|(_, seen)| troubled.iter().any(|span| span.touches(seen.span))) {
        let rehomed = lines.get(served.id.as_str()).map(|line| visitors::rehomed(served.visitor == seen.client, line));
        moved += usize::from(rehomed == Some(visitors::Rehomed::Yes));
        if matches!(rehomed, Some(visitors::Rehomed::Yes | visitors::Rehomed::NotTold)) {
            causes.extend(by_verdict(&seen.farm, &seen.client, seen.span, departures.as_deref()));
        }
    }
    // Whoever was moved, and got no answer, finds the backend that it was moved to with the next one.
    for (farm, failed) in [(FARM, &run.seen.failed), (ADDRESS_FARM, &run.by_address.failed)] {
        let moves = visitors::moved_in_vain(failed, &lines);
        for (client, span) in moves.filter(|(_, span)| troubled.iter().any(|trouble| trouble.touches(*span))) {
            causes.extend(by_verdict(farm, client, span, departures.as_deref()));
        }
    }
    let mut observations: Vec<Observation> = answers.into_iter().map(|(_, seen)| seen).collect();
    let logins = run.seen.served.iter().filter(|served| served.before.is_some()).count();
    let bound = observations.iter().filter(|observation| observation.bound).count();
    let mut disturbed = disturbed::by_faults(&run.faults, &owners::of(run));
    disturbed.extend(hands::disturbances(run));
    let excused: Vec<Span> = troubled.iter().copied().chain(signed::befell_the_vip(&disturbed)).collect();
    let (at_the_till, moves) = signed::observed(&run.till.answers, &run.proxied, &excused);
    let by_cookie = at_the_till.len();
    observations.extend(at_the_till);
    causes.extend(moves);
    let of_open = open::observed(run);
    let while_well = of_open.len();
    observations.extend(of_open);
    let judgement = stickiness::check_stickiness(&observations, &causes).judgement();
    let judgement = judgement.looked_at("answers to a signed cookie", by_cookie);
    let judgement = judgement.looked_at("answers to an address", run.by_address.served.len());
    let judgement = to_the_end(
        run,
        judgement,
        "answer to an address",
        run.by_address.served.iter().map(|served| served.completed).max(),
    );
    let judgement = moved::judge(judgement, &run.faults.faults, &run.by_address.served, &lines, &away);
    let judgement = judgement.count("answers of the open farm while all was well", while_well);
    let mut judgement = judgement.looked_at("through bindings", bound).count("cookies changed by a login", logins);
    if let Some(departures) = &departures {
        judgement = judgement.count("times that a backend had to be left by an event", departures.len());
    }
    judgement = slow::weigh(judgement.count("moved by a verdict on a slow backend", moved), slow::percent(run));
    let last = run.seen.served.iter().map(|served| served.completed).max();
    to_the_end(run, judgement, "answer", last)
}

/// What a fault of a backend excuses: a move for each time that the cluster decided, while there was such a reason, that clients
/// have to leave it. `departures` is absent where the cluster does not tell all that it decided: then one move.
fn broken(fault: &Happened, departures: Option<&[Departure]>) -> Vec<Cause> {
    let (reason, why) = match fault.kind {
        Kind::BackendFails => (Reason::Down, Why::Down),
        Kind::BackendMaintenance => (Reason::Removed, Why::Maintenance),
        // One that ends its answers too early passes its checks, and nodes do not judge by requests unless a document says so.
        _ => return Vec::new(),
    };
    let Some(backend) = fault.victims.first() else { return Vec::new() };
    let near = Span::new(fault.from, nemesis::reason_until(fault));
    let cause = |span| Cause { reason, farm: FARM.to_owned(), client: None, backend: Some(backend.clone()), span };
    let Some(departures) = departures else { return vec![cause(near)] };
    let of_it = departures.iter().filter(|one| one.why == why && one.backend == *backend && one.span.touches(near));
    // It may last longer than what it came of: an order comes late, or one that falls often is kept down for a while.
    of_it.map(|one| cause(Span::new(one.span.from.max(near.from), one.span.until))).collect()
}

/// What a fault of a backend excuses in the farm of those who are known by their addresses, of whose verdicts nothing is read.
fn failed_elsewhere(fault: &Happened) -> Option<Cause> {
    let span = Span::new(fault.from, nemesis::reason_until(fault));
    let (farm, backend) = (ADDRESS_FARM.to_owned(), fault.victims.first().cloned());
    (fault.kind == Kind::BackendFails).then_some(Cause { reason: Reason::Down, farm, client: None, backend, span })
}

/// What excuses an answer that a node says to have sent elsewhere because it found no way to the client's backend, while that one
/// failed: this node's checks may be ahead of the cluster's verdict, or alone.
fn found_no_way(seen: &Observation, faults: &[Happened]) -> Vec<Cause> {
    let fails = faults.iter().filter(|fault| fault.kind == Kind::BackendFails);
    let fails = fails.filter(|fault| Span::new(fault.from, nemesis::reason_until(fault)).touches(seen.span));
    let cause = |fault: &Happened| Cause {
        backend: fault.victims.first().cloned(),
        ..down(&seen.farm, &seen.client, seen.span)
    };
    fails.map(cause).collect()
}

/// What excuses a move of a client at a time of which the access log says that it was by a verdict: each verdict that the cluster
/// tells of that time, or one where it does not tell all.
fn by_verdict(farm: &str, client: &str, span: Span, departures: Option<&[Departure]>) -> Vec<Cause> {
    let Some(departures) = departures.filter(|_| farm == FARM) else { return vec![down(farm, client, span)] };
    let verdicts = departures.iter().filter(|one| one.why == Why::Down && one.span.touches(span));
    verdicts.map(|one| Cause { backend: Some(one.backend.clone()), ..down(farm, client, span) }).collect()
}

/// One backend or another was down for a request of this client.
fn down(farm: &str, client: &str, span: Span) -> Cause {
    Cause { reason: Reason::Down, farm: farm.to_owned(), client: Some(client.to_owned()), backend: None, span }
}

/// When checks of backends that nobody broke may have failed: a client that asks them was answered late, or frames of everybody
/// were lost. A bad line is one node's, and it takes a majority to call a backend down.
fn troubles(faults: &[Happened], slow: &[Span]) -> Vec<Span> {
    let lossy = faults.iter().filter(|fault| fault.kind == Kind::LossEverywhere);
    let lossy = lossy.map(|fault| Span::new(fault.from, nemesis::reason_until(fault)));
    let slow = slow.iter().map(|slow| Span::new(slow.from, slow.until.after(BACK_WITHIN)));
    lossy.chain(slow).collect()
}

fn explanations(run: &Run) -> Judgement {
    let mut disturbed = disturbed::by_faults(&run.faults, &owners::of(run));
    disturbed.extend(hands::disturbances(run));
    if run.cut_short || run.faults.halted {
        // Nobody waited for the last lines.
        let span = Span::new(run.span.1.before(BACK_WITHIN), RunTime::NEVER);
        disturbed.push(Disturbance { span, whom: None, silences: true });
    }
    let failed = [&run.seen.failed[..], &run.till.failed].concat();
    let judgement = says_why::judge(&failed, &run.proxied, &disturbed);
    let judgement = says_why::unlogged(judgement, &answered(run), &run.proxied, &disturbed);
    let notes = run.registers.operations().iter().map(|operation| (operation.completed, operation.note.as_str()));
    let notes = notes.chain(run.additions.operations().iter().map(|one| (one.completed, one.note.as_str())));
    let notes = notes.chain(run.transactions.operations().iter().map(|one| (one.completed, one.note.as_str())));
    said_by_the_store(judgement, notes)
}

/// What a store told its clients that none says which does what it is to. An answer that a model explains, or fails to, is not noted.
fn said_by_the_store<'a>(mut judgement: Judgement, notes: impl Iterator<Item = (RunTime, &'a str)>) -> Judgement {
    let (mut denied, mut bugs) = (Vec::new(), Vec::new());
    for (at, note) in notes {
        if note.starts_with(DENIED) {
            denied.push(at);
        } else if note.contains(BUG) {
            bugs.push(at);
        }
    }
    // The document of a run lets everybody in. A node that says otherwise says what is not so.
    if let Some(first) = denied.first() {
        judgement.violated(format!(
            "the store turned {} away by a rule that it was not given, at {first} first",
            denied.len()
        ));
    }
    if let Some(first) = bugs.first() {
        judgement.violated(format!("the store called {} answers a bug of its own, at {first} first", bugs.len()));
    }
    judgement
}

/// What backends answered, but the last of it: nobody waits for all of the last lines.
fn answered(run: &Run) -> Vec<Answered> {
    let visitors = run.seen.served.iter().map(|served| Answered {
        id: served.id.clone(),
        via: via(served.through, run.options.nodes),
        span: Span::new(served.invoked, served.completed),
    });
    let senders = run.till.transfers.iter().map(|transfer| Answered {
        id: transfer.id.clone(),
        via: VIP_NAME.to_owned(),
        span: transfer.span,
    });
    visitors.chain(senders).filter(|one| one.span.until < run.span.1.before(BACK_WITHIN)).collect()
}

/// Nothing is held of which nothing was seen any more.
fn to_the_end(run: &Run, judgement: Judgement, what: &str, last: Option<RunTime>) -> Judgement {
    seen_until(run.span.1, judgement, what, last)
}

fn seen_until(end: RunTime, mut judgement: Judgement, what: &str, last: Option<RunTime>) -> Judgement {
    match last {
        Some(last) if last >= end.before(STOPPED) => {}
        Some(last) => {
            judgement.undecided(format!("the last {what} was at {last}, {:?} before the end", end.since(last)));
        }
        None => judgement.undecided(format!("there was no {what}")),
    }
    judgement
}

/// When the last operation of a history was answered.
fn last<I, O>(history: &History<I, O>) -> Option<RunTime> {
    let known = history.operations().iter().filter(|operation| matches!(operation.outcome, Outcome::Ok(_)));
    known.map(|operation| operation.completed).max()
}

fn forward(run: &Run) -> Vec<Judgement> {
    let mut samples = Vec::new();
    let mut starts: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    let mut mismatches = Vec::new();
    for sample in &run.samples {
        let pids = starts.entry(sample.node).or_default();
        if pids.last() != Some(&sample.pid) {
            pids.push(sample.pid);
        }
        let Sample { at, node, term, applied, leads, owns, epoch, .. } = sample;
        let incarnation = u32::try_from(pids.len()).unwrap_or(u32::MAX);
        // A node that came in the place of another knows nothing of what that one had promised.
        let successors = run.faults.emptied.iter().filter(|(which, when)| which == node && when <= at).count();
        let node_name = format!("{}{}", name(*node), "'".repeat(successors));
        let say = |saying| epochs::Sample { at: *at, node: node_name.clone(), incarnation, saying };
        // What others believe of a VIP is hearsay: of two that claimed it at once, the one with the greater number may have given up.
        let epoch = if *owns { epoch } else { &0 };
        // Zero is what a process says that has just started and knows nothing yet.
        let marks = [(Mark::Term, *term), (Mark::Applied, *applied), (Mark::Epoch(VIP_NAME.to_owned()), *epoch)]
            .into_iter()
            .chain([(Mark::Revision, sample.revision)]);
        samples.extend(marks.filter(|(_, value)| *value != 0).map(|(mark, value)| say(Saying::Mark { mark, value })));
        samples.extend(leads.then(|| say(Saying::Leads { term: *term })));
        let holds = *owns && *epoch != 0;
        samples.extend(holds.then(|| say(Saying::Holds { vip: VIP_NAME.to_owned(), epoch: *epoch })));
        if sample.mismatches > 0 {
            mismatches.push(format!("{} had found another state than its own by {at}", name(*node)));
        }
    }
    samples.extend(run.hashes.iter().map(|hash| epochs::Sample {
        at: hash.at,
        node: hash.node.clone(),
        incarnation: 0,
        saying: Saying::Hash { index: hash.index, hash: hash.hash.clone() },
    }));
    let [only_forward, mut equal] = epochs::judge_epochs(&samples);
    // Nodes compare the hashes of their states themselves, too, and count what differs.
    mismatches.into_iter().for_each(|mismatch| equal.violated(mismatch));
    vec![heard(run, only_forward), silent::hashes(equal, &run.hashes, run.span.1)]
}

/// What is judged by what each node says, needs all of them to the end.
fn heard(run: &Run, judgement: Judgement) -> Judgement {
    let nothing = BTreeSet::new();
    let without = run.faults.calms.last().map_or(&nothing, |calm| &calm.without);
    silent::nodes(judgement, &run.samples, run.options.nodes, without, run.span.1)
}

/// When which node answered for the VIP.
pub fn vip_owners(run: &Run) -> Vec<(Span, String)> {
    owners::of(run)
}

/// The faults, as the library knows them.
pub fn faults(run: &Run) -> Vec<Fault> {
    let fault = |fault: &Happened| Fault {
        kind: fault.kind.to_string(),
        detail: fault.victims.join(", "),
        span: Span::new(fault.from, fault.until),
    };
    run.faults.faults.iter().map(fault).collect()
}

/// When the store took writes.
fn writes(run: &Run) -> Vec<RunTime> {
    let is_write = |input: &SessionInput| !matches!(input, SessionInput::Get);
    let writes = run.registers.operations().iter();
    let writes = writes.filter(|operation| is_write(&operation.input) && matches!(operation.outcome, Outcome::Ok(_)));
    writes.map(|operation| operation.completed).collect()
}

/// How soon after each kind of fault the store took a write.
pub fn writes_after(run: &Run) -> BTreeMap<String, Recovery> {
    recovery::recoveries(&faults(run), &writes(run), run.span.1)
}

/// How soon after each kind of fault the shop answered over the VIP.
pub fn answers_after(run: &Run) -> BTreeMap<String, Recovery> {
    recovery::recoveries(&faults(run), &run.seen.over_vip, run.span.1)
}

fn recovery(run: &Run) -> Judgement {
    let mut judgement = recovery::judgement(&writes_after(run), BACK_WITHIN);
    let answers = recovery::judgement(&answers_after(run), BACK_WITHIN);
    for finding in &answers.findings {
        let finding = format!("over the VIP: {finding}");
        match answers.ruling {
            Ruling::Violated => judgement.violated(finding),
            _ => judgement.undecided(finding),
        }
    }
    judgement = slow::weigh(everywhere(run, beside_snapshots(run, judgement)), slow::percent(run));
    run.faults.failed.iter().for_each(|what| judgement.undecided(format!("the lab failed: {what}")));
    if run.cut_short || run.faults.halted {
        judgement.undecided("it ended before its time: nobody looked whether all nodes came back");
    } else if let Some(why) = &run.unwell {
        judgement.violated(format!("the cluster was not well at the end: {why}"));
    }
    judgement
}

/// Once a calm has lasted for as long as service may take to come back, every node answers, and the VIP.
fn everywhere(run: &Run, judgement: Judgement) -> Judgement {
    let (calms, nodes) = (&run.faults.calms, run.options.nodes);
    let shop: Vec<calm::Answer> = run.seen.served.iter().map(|one| (one.through, one.completed)).collect();
    let store: Vec<calm::Answer> = run.stores.iter().map(|one| (one.store, one.at)).collect();
    let judgement = calm::everywhere(judgement, calms, nodes, "shop", &shop);
    let judgement = calm::everywhere(judgement, calms, nodes, "store", &store);
    let changes = hands::unexplained(run);
    let failed = hands::without([&run.seen.failed[..], &run.till.failed].concat(), &changes);
    let judgement = calm::in_vain(judgement, calms, &failed, &troubles(&run.faults.faults, &run.slow));
    let judgement =
        judgement.looked_at("requests on kept connections", run.seen.kept.requests + run.till.kept.requests);
    let ended = [&run.seen.kept.ended[..], &run.till.kept.ended].concat();
    calm::cut(judgement, calms, &hands::without_kept(ended, &changes))
}

/// While only a node was concerned that was sent a snapshot, nobody else is to notice.
fn beside_snapshots(run: &Run, mut judgement: Judgement) -> Judgement {
    let spared = &run.faults.spared;
    if spared.is_empty() {
        return judgement;
    }
    let within = |at: RunTime| spared.iter().any(|span| (span.from..=span.until).contains(&at));
    let writes = writes(run);
    let pause = spared.iter().map(|span| recovery::longest_pause(&writes, *span)).max().unwrap_or_default();
    if pause > BACK_WITHIN {
        judgement.violated(format!("no write for {pause:?} while another node was sent a snapshot"));
    }
    // Clients that come to the node itself wait there for three seconds, all of them now and then; so the time between answers
    // over the VIP shows nothing.
    for vain in in_vain_beside(spared, &run.seen.failed) {
        judgement.violated(format!("{} over the VIP was in vain while another node was sent a snapshot", vain.id));
    }
    let served = run.seen.served.iter().filter(|one| one.through == run.options.nodes && within(one.invoked)).count();
    judgement
        .count("answers over the VIP beside snapshots", served)
        .count("longest pause of writes there, in ms", pause.as_millis() as usize)
}

/// What was in vain over the VIP from its beginning to its end while only a receiver was concerned. What was under way when the
/// sender died, or when the receiver had just been one of those that serve, is nothing that others noticed of it.
fn in_vain_beside<'a>(spared: &'a [Span], failed: &'a [Vain]) -> impl Iterator<Item = &'a Vain> {
    let over_vip = failed.iter().filter(|vain| vain.via == VIP_NAME);
    over_vip.filter(|vain| spared.iter().any(|span| span.from <= vain.span.from && vain.span.until <= span.until))
}

fn leaks(run: &Run) -> Judgement {
    type Counted = Vec<(RunTime, u64)>;
    let mut series: BTreeMap<(usize, u32), [Counted; 3]> = BTreeMap::new();
    for sample in run.samples.iter().filter(|sample| sample.pid != 0 && sample.threads != 0) {
        let [descriptors, resident, threads] = series.entry((sample.node, sample.pid)).or_default();
        descriptors.push((sample.at, sample.descriptors));
        resident.push((sample.at, sample.resident));
        threads.push((sample.at, sample.threads));
    }
    let series: Vec<Series> = series
        .into_iter()
        .flat_map(|((node, pid), samples)| {
            let resources = [Resource::Descriptors, Resource::Resident, Resource::Threads];
            resources.into_iter().zip(samples).map(move |(resource, samples)| Series {
                node: name(node),
                incarnation: pid,
                resource,
                samples,
            })
        })
        .collect();
    // The log, the document's history and what clients leave in the store grow by what they are given.
    let tolerances = BTreeMap::from([
        (Resource::Descriptors, Tolerance { absolute: 64, per_mille: 200 }),
        (Resource::Resident, Tolerance { absolute: 96 << 20, per_mille: 300 }),
        (Resource::Threads, Tolerance { absolute: 8, per_mille: 0 }),
    ]);
    heard(run, leaks::judge_leaks(&series, Duration::from_secs(30), &tolerances))
}

/// Through whom a visitor went: a node, or the VIP behind the last one.
pub fn via(through: usize, nodes: usize) -> String {
    if through == nodes { VIP_NAME.to_owned() } else { name(through) }
}

/// A node by its position.
pub fn name(node: usize) -> String {
    format!("node-{}", node + 1)
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::{
        history::Recorder,
        models::{ConfigInput, ConfigOutput},
    };

    use super::*;
    use crate::plan::{Planned, Whom};

    fn span(from: u64, until: u64) -> Span {
        Span::new(RunTime::from_millis(from), RunTime::from_millis(until))
    }

    #[test]
    fn what_was_under_way_when_the_sender_died_is_spared() {
        // The sender is killed at 10 s, and the election is over five seconds later.
        let spared = [span(2_000, 10_000), span(15_000, 20_000)];
        let found = |via: &str, (from, until)| {
            let got = says_why::Got::Nothing { error: "TimedOut".to_owned() };
            let (id, via, span) = ("7".to_owned(), via.to_owned(), span(from, until));
            let vain = Vain { id, via, span, got, known_as: None, before: None };
            in_vain_beside(&spared, &[vain]).count() > 0
        };
        assert!(!found(VIP_NAME, (9_900, 12_900)), "under way at the sender");
        assert!(!found(VIP_NAME, (1_900, 4_900)), "under way at the receiver when it went");
        assert!(!found(VIP_NAME, (9_900, 16_000)) && !found(VIP_NAME, (11_000, 14_000)));
        assert!(found(VIP_NAME, (5_000, 8_000)) && found(VIP_NAME, (15_000, 18_000)));
        assert!(!found("node-1", (5_000, 8_000)), "the receiver itself");
    }

    #[test]
    fn what_was_planned_to_be_shown_and_was_not_is_undecided() {
        let split = Planned { kind: Kind::Split, whom: Whom::Node(0), choice: 0, from_ms: 0, until_ms: 5000 };
        let pause = Planned { kind: Kind::Pause, ..split };
        let round = |fault| Round { faults: vec![fault], calm_until_ms: 11_000 };
        let ruled = |fault, judged: &[Promise]| {
            let mut judgements = judged.iter().map(|promise| Judgement::new(*promise)).collect();
            unshown(&mut judgements, &[round(fault), round(fault)]);
            judgements.iter().map(|judgement| (judgement.promise, judgement.ruling)).collect::<Vec<_>>()
        };
        assert_eq!(ruled(split, &[]), [(Promise::WithoutQuorum, Ruling::Undecided)]);
        assert_eq!(ruled(split, &[Promise::WithoutQuorum]), [(Promise::WithoutQuorum, Ruling::Held)]);
        assert!(ruled(pause, &[]).is_empty());
    }

    #[test]
    fn a_change_that_was_refused_and_is_seen_is_found() {
        let ruled = |refused: bool| {
            let (recorder, at) = (Recorder::new(), RunTime::from_millis);
            let mut log = recorder.client();
            let written = log.invoke(at(1), "document", ConfigInput::Write { value: "a".to_owned() });
            written.ok(at(2), ConfigOutput::Written { version: 1 });
            let change = log.invoke(at(3), "document", ConfigInput::Cas { expected: 1, value: "b".to_owned() });
            match refused {
                true => change.fail(at(4), "exit 6"),
                false => change.unknown(at(4), "exit 7"),
            }
            let read = log.invoke(at(5), "document", ConfigInput::Read);
            read.ok(at(6), ConfigOutput::Found { version: 2, value: "b".to_owned() });
            let model = ConfigModel { versions: Versions::Own };
            hold(Judgement::new(Promise::Configuration), &model, &recorder.take()).ruling
        };
        assert_eq!([true, false].map(ruled), [Ruling::Violated, Ruling::Held]);
    }

    #[test]
    fn a_store_that_turns_clients_away_or_tells_of_a_bug_of_its_own_is_found() {
        let ruled = |note: &str| {
            let notes = [(RunTime::from_millis(1), ""), (RunTime::from_millis(2), note)];
            said_by_the_store(Judgement::new(Promise::SaysWhy), notes.into_iter()).ruling
        };
        let misfit = format!("Error(\"UNKNOWN outcome unknown: it does not fit the command; {BUG}\")");
        assert_eq!([misfit.as_str(), "DENIED protected mode"].map(ruled), [Ruling::Violated; 2]);
        let sent = "UNKNOWN outcome unknown: the command was sent but not confirmed within 2s";
        assert_eq!([sent, "CLUSTERDOWN no quorum"].map(ruled), [Ruling::Held; 2]);
    }

    #[test]
    fn an_addition_that_was_carried_out_twice_is_found() {
        let ruled = |note: &str| {
            let recorder = Recorder::new();
            let mut log = recorder.client();
            log.invoke(RunTime::from_millis(1), "members:0", 1u64).ok(RunTime::from_millis(2), ());
            log.invoke(RunTime::from_millis(3), "members:0", 2u64).unknown(RunTime::from_millis(4), note);
            twice(Judgement::new(Promise::Durable), &recorder.take()).ruling
        };
        assert_eq!([members::TWICE, "TimedOut"].map(ruled), [Ruling::Violated, Ruling::Held]);
    }

    #[test]
    fn what_a_node_must_not_do_is_told_under_its_promise() {
        let mut judgements = vec![Judgement::new(Promise::SaysWhy), Judgement::new(Promise::ComesBack)];
        let broken = [Promise::ReplicasEqual, Promise::ComesBack].map(|promise| (promise, "it did".to_owned()));
        misdeeds(&mut judgements, &broken);
        let ruled: Vec<_> = judgements.iter().map(|judgement| (judgement.promise, judgement.ruling)).collect();
        let expected = [
            (Promise::SaysWhy, Ruling::Held),
            (Promise::ComesBack, Ruling::Violated),
            (Promise::ReplicasEqual, Ruling::Violated),
        ];
        assert_eq!(ruled, expected);
    }

    #[test]
    fn that_a_node_ended_is_told_before_what_its_clients_got() {
        let mut unexplained = Judgement::new(Promise::SaysWhy);
        (0..1000).for_each(|number| unexplained.violated(format!("request {number} got nothing")));
        let mut judgements = vec![unexplained];
        misdeeds(&mut judgements, &[1, 2].map(|node| (Promise::SaysWhy, format!("node-{node} had ended by itself"))));
        let first = ["node-1 had ended by itself", "node-2 had ended by itself", "request 0 got nothing"];
        assert_eq!(judgements[0].findings[..3], first);
    }

    fn fault(kind: Kind, victim: &str, Span { from, until }: Span) -> Happened {
        let victims = vec![victim.to_owned()];
        Happened { kind, victims, from, until, whole_until: None, came_about: true, acknowledged: None }
    }

    fn departure(why: Why, from: u64, until: u64) -> Departure {
        Departure { backend: "web1".to_owned(), why, span: span(from, until) }
    }

    #[test]
    fn a_broken_backend_excuses_what_the_cluster_decided_of_it_and_no_more() {
        let excused = |kind, departures: Option<&[Departure]>| {
            let causes = broken(&fault(kind, "web1", span(10_000, 10_020)), departures).into_iter();
            causes.map(|cause| cause.span).collect::<Vec<_>>()
        };
        let fails = |departures: &[Departure]| excused(Kind::BackendFails, Some(departures));
        assert_eq!(fails(&[]), [], "it failed for less than it takes to be called down");
        assert_eq!(fails(&[departure(Why::Down, 10_600, 40_000)]), [span(10_600, 40_000)]);
        assert_eq!(fails(&[departure(Why::Down, 1_000, 12_000)]), [span(10_000, 12_000)]);
        assert_eq!(fails(&[departure(Why::Down, 15_021, 20_000)]), [], "it came of something else");
        assert_eq!(fails(&[departure(Why::Maintenance, 10_600, 12_000)]), []);
        assert_eq!(fails(&[Departure { backend: "web2".to_owned(), ..departure(Why::Down, 10_600, 12_000) }]), []);
        let maintained = [departure(Why::Maintenance, 10_100, 12_000)];
        assert_eq!(excused(Kind::BackendMaintenance, Some(&maintained)), [span(10_100, 12_000)]);
        let down = [departure(Why::Down, 10_600, 12_000)];
        assert_eq!(excused(Kind::BackendTruncates, Some(&down)), [], "its checks are passed");
        // Where nobody tells what was decided, it may have been.
        assert_eq!(excused(Kind::BackendFails, None), [span(10_000, 15_020)]);
        assert_eq!(excused(Kind::BackendTruncates, None), []);
    }

    #[test]
    fn an_answer_that_a_log_calls_moved_is_excused_by_a_verdict_and_one_elsewhere_for_once_by_a_failure() {
        let seen = |from, until| Observation {
            farm: FARM.to_owned(),
            client: "a".to_owned(),
            backend: "web2".to_owned(),
            via: name(0),
            bound: true,
            span: span(from, until),
        };
        let left = |causes: Vec<Cause>| causes.into_iter().map(|cause| cause.backend).collect::<Vec<_>>();
        let web1 = Some("web1".to_owned());
        let verdicts = [departure(Why::Down, 10_600, 12_000), departure(Why::Maintenance, 10_600, 12_000)];
        let by_verdict = |farm, (from, until), departures| by_verdict(farm, "a", span(from, until), departures);
        assert_eq!(left(by_verdict(FARM, (10_590, 10_610), Some(&verdicts))), std::slice::from_ref(&web1));
        assert_eq!(left(by_verdict(FARM, (10_500, 10_510), Some(&verdicts))), []);
        assert_eq!(left(by_verdict(FARM, (10_500, 10_510), None)), [None]);
        assert_eq!(
            left(by_verdict(ADDRESS_FARM, (10_500, 10_510), Some(&verdicts))),
            [None],
            "of which nothing is read"
        );
        let fails = [fault(Kind::BackendFails, "web1", span(10_000, 10_020))];
        assert_eq!(left(found_no_way(&seen(14_000, 14_010), &fails)), [web1]);
        assert_eq!(left(found_no_way(&seen(15_021, 15_030), &fails)), []);
        let truncates = [fault(Kind::BackendTruncates, "web1", span(10_000, 10_020))];
        assert_eq!(left(found_no_way(&seen(10_000, 10_010), &truncates)), []);
    }

    #[test]
    fn a_bad_line_of_one_node_is_no_reason_to_move() {
        let troubled = |kind| {
            let fault = fault(kind, &name(0), span(100, 200));
            troubles(std::slice::from_ref(&fault), &[]).iter().any(|span| span.contains(fault.from))
        };
        let reasons: Vec<Kind> = Kind::all().filter(|kind| troubled(*kind)).collect();
        assert_eq!(reasons, [Kind::LossEverywhere]);
        assert_eq!(troubles(&[], &[span(100, 200)]), [span(100, 5200)], "a backend that was slow for others, too");
    }
}
