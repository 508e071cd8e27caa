//! Shows that the suite can fail: each planted bug must be found by the checker that is meant to find it.
//!
//! It is found when its checker says what it is to say of it: a promise can be broken in many ways, and one that was broken in
//! another shows nothing of what looks for this one.
//!
//! And that it can hold: the same programs under the same faults, with nothing planted, break no promise, and the promise that
//! the bug breaks is held. A checker that finds something in any run would find each bug, too.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use ballast_jepsen::verdict::{Judgement, Promise, Report, Ruling};
use ballast_planted::{Bug, VARIABLE};
use ballast_testkit::{cluster, interrupt};
use clap::{Args, builder::PossibleValuesParser};

use crate::ruling_by;

/// A bug, and how it is looked for.
struct Hunt {
    bug: Bug,
    /// The promise that must be found broken.
    promise: Promise,
    /// What a finding of that says: words that the checker has for what the bug does.
    says: &'static str,
    /// What else it says, if the checker has the same words for several things; which of them it is.
    of_what: &'static str,
    /// Faults under which it shows.
    faults: &'static str,
    /// Whom they befall; anybody if empty.
    whom: &'static str,
}

impl Hunt {
    const fn new(bug: Bug, promise: Promise, says: &'static str) -> Self {
        Self { bug, promise, says, of_what: "", faults: "", whom: "" }
    }

    const fn about(self, of_what: &'static str) -> Self {
        Self { of_what, ..self }
    }

    const fn under(self, faults: &'static str) -> Self {
        Self { faults, ..self }
    }

    const fn of(self, whom: &'static str) -> Self {
        Self { whom, ..self }
    }
}

const HUNTS: [Hunt; 20] = [
    Hunt::new(Bug::ReadsWithoutReadIndex, Promise::Sessions, "is not linearizable")
        .under("pause,isolate,split,one-way,loss"),
    Hunt::new(Bug::BindingForwardedBeforeCommit, Promise::Sticky, "though ").under("split,pause,loss,isolate"),
    // The owner's answers are late by more than what clocks may differ when it is cut off from the others.
    Hunt::new(Bug::LeaseTimedFromReceipt, Promise::OneOwner, "two nodes answered").under("delay,split").of("owner"),
    Hunt::new(Bug::UnsyncedLog, Promise::Durable, "was acknowledged and is lost").under("black-out"),
    // A node that does not start serves nobody in the end of a calm, whatever the others do.
    Hunt::new(Bug::PurgePastSnapshot, Promise::ComesBack, "nobody was served by the").under("snapshot,kill-all"),
    Hunt::new(Bug::FenceOpenAtStart, Promise::OneOwner, "two nodes answered").under("kill,restart,move-vip"),
    Hunt::new(Bug::ChangeWithoutCompare, Promise::Configuration, "is not linearizable").under("pause"),
    Hunt::new(Bug::TakesOverLate, Promise::Failover, "nobody answered for").under("kill,freeze").of("owner"),
    Hunt::new(Bug::IsolatedRefuses, Promise::WithoutQuorum, "and did not serve its client").under("split"),
    // That no line says why, or none has the code of an answer.
    Hunt::new(Bug::RefusalUnlogged, Promise::SaysWhy, "no line ").under("backend-truncates"),
    Hunt::new(Bug::EntrySkipped, Promise::ReplicasEqual, "the state of").under("delay"),
    // Terms rise with each transfer, and are forgotten when all are killed.
    Hunt::new(Bug::VoteNotSaved, Promise::OnlyForward, "fell from").about("term").under("kill-all,transfer-leader"),
    Hunt::new(Bug::ByteChanged, Promise::Whole, "came back with another byte").under("delay"),
    Hunt::new(Bug::DescriptorLeaks, Promise::NoLeak, "Descriptors").under("delay"),
    // Only of a pair an answer tells of both accounts.
    Hunt::new(Bug::HalfTransaction, Promise::Sessions, "Both(").under("delay"),
    // What followers had sent to a leader that dies is often in the log of the next one, too.
    Hunt::new(Bug::FrameRenumbered, Promise::Durable, "though it was asked for once").under("kill").of("leader"),
    Hunt::new(Bug::MoveNotDone, Promise::Sticky, "was moved to").under("move-client"),
    // A leader seldom owns the VIP, so its loss is most often that of another node than clients are at.
    Hunt::new(Bug::HitAsksLeader, Promise::Failover, "of a known client was in vain").under("kill").of("leader"),
    Hunt::new(Bug::EndsByItself, Promise::SaysWhy, "had ended by itself").under("delay"),
    // What clients of a minority were told to be unknown comes when the split is over, if that took longer than it takes to lapse.
    Hunt::new(Bug::SentAfterDeadline, Promise::Sessions, "if what had lapsed could still take effect").under("split"),
];

#[derive(Args)]
pub struct SelftestOptions {
    /// Only these bugs.
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(HUNTS.map(|hunt| hunt.bug.name())))]
    bugs: Vec<String>,
    /// How long each is looked for, in seconds, in runs of one minute.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Folder in which each run gets one of its own.
    #[arg(long, default_value = "target/chaos/selftest")]
    output: PathBuf,
}

const RUN_SECONDS: u64 = 60;
/// The seed of the control, and of the first run with the bug.
const FIRST_SEED: u64 = 1000;

/// Whether all were found, and nothing where there was nothing.
///
/// # Errors
/// When there is no build with planted bugs, or a run could not be had.
pub fn run(options: &SelftestOptions) -> Result<bool> {
    let bin = cluster::bin_dir()?;
    let planted = bin.join("ballastd-planted");
    if !planted.is_file() {
        bail!("there is no {}; run `make chaos-selftest`, which builds it", planted.display());
    }
    let programs = tempfile::tempdir()?;
    symlink(planted.canonicalize()?, programs.path().join("ballastd"))?;
    symlink(bin.join("ballastctl").canonicalize()?, programs.path().join("ballastctl"))?;
    let mut wrong = Vec::new();
    for hunt in HUNTS.iter().filter(|hunt| options.bugs.is_empty() || options.bugs.iter().any(|b| b == hunt.bug.name()))
    {
        let name = hunt.bug.name();
        let look = |bug, seed| look(hunt, bug, seed, programs.path(), &options.output.join(name));
        let control = control(&look(None, FIRST_SEED)?, hunt.promise);
        if let Err(why) = control {
            println!("{name}: without it, {why}");
            wrong.push(name);
            continue;
        }
        let mut found = false;
        for seed in (FIRST_SEED..).take(usize::try_from(options.seconds.div_ceil(RUN_SECONDS))?) {
            found = is_found(&look(Some(hunt.bug), seed)?, hunt);
            if found {
                break;
            }
        }
        if found {
            println!("{name}: found by {}, and nothing without it", hunt.promise);
        } else {
            println!("{name}: NOT FOUND");
            wrong.push(name);
        }
    }
    println!(
        "{}",
        if wrong.is_empty() {
            "every planted bug was found, and nothing where none was".to_owned()
        } else {
            format!("not shown: {}", wrong.join(", "))
        }
    );
    Ok(wrong.is_empty())
}

/// What is said of a run with a bug, or of the same programs with none.
///
/// # Errors
/// When there was no run, which says nothing about the bug.
fn look(hunt: &Hunt, bug: Option<Bug>, seed: u64, programs: &Path, output: &Path) -> Result<Report> {
    let output = output.join(bug.map_or("control", Bug::name));
    let mut run = Command::new(std::env::current_exe()?);
    run.args(["run", "--nodes", "3", "--seconds", &RUN_SECONDS.to_string(), "--faults", hunt.faults])
        .args(["--seed", &seed.to_string(), "--output"])
        .arg(&output)
        .args([["--whom", hunt.whom]].iter().filter(|_| !hunt.whom.is_empty()).flatten())
        .env("BALLAST_BIN_DIR", programs)
        .env_remove(VARIABLE)
        .envs(bug.map(|bug| (VARIABLE, bug.name())));
    let status = interrupt::run(run)?;
    let what = || format!("{} was looked for with seed {seed}", hunt.bug.name());
    if interrupt::came() {
        bail!("called off while {}", what());
    }
    if ruling_by(status.code()).is_none() {
        bail!("there was no run when {}: {status}", what());
    }
    let file = newest(&output, seed)?.join("verdict.json");
    let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("understand {}", file.display()))
}

/// Whether a run says that the promise is broken, and that it is by this bug.
fn is_found(report: &Report, hunt: &Hunt) -> bool {
    let broken = |judgement: &&Judgement| judgement.promise == hunt.promise && judgement.ruling == Ruling::Violated;
    let mut findings = report.judgements.iter().filter(broken).flat_map(|judgement| &judgement.findings);
    findings.any(|finding| finding.contains(hunt.says) && finding.contains(hunt.of_what))
}

/// Whether a run in which nothing is planted says that nothing is broken, and that the promise is held.
fn control(report: &Report, promise: Promise) -> Result<(), String> {
    if let Some(Judgement { promise, .. }) = report.judgements.iter().find(|one| one.ruling == Ruling::Violated) {
        return Err(format!("{promise} cries wolf"));
    }
    match report.judgements.iter().find(|one| one.promise == promise) {
        Some(judgement) if judgement.ruling == Ruling::Held => Ok(()),
        Some(judgement) => Err(format!("{promise} is {}", judgement.ruling)),
        None => Err(format!("{promise} is not judged")),
    }
}

/// The newest folder of a seed.
fn newest(output: &Path, seed: u64) -> Result<PathBuf> {
    let of_seed = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == format!("seed-{seed}") || name.starts_with(&format!("seed-{seed}-"))
    };
    let folders = fs::read_dir(output)?.filter_map(|entry| Some(entry.ok()?.path())).filter(of_seed);
    folders.max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok()).context("the run left no folder")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ballast_jepsen::{
        epochs::{self, Mark, Saying},
        time::RunTime,
    };
    use clap::Parser as _;

    use super::*;
    use crate::{
        Arguments,
        plan::{self, Kind},
    };

    #[test]
    fn a_bug_of_no_name_is_refused() {
        let parse = |bugs| Arguments::try_parse_from(["jepsen", "selftest", "--bugs", bugs]);
        assert!(parse("unsynced-log,takes-over-late").is_ok());
        for wrong in ["typo", "", "unsynced-log,typo", Bug::SIMULATED_ONLY[0].name()] {
            let said = parse(wrong).err().expect("it is refused").to_string();
            assert!(said.contains("fence-open-at-start"), "{said}");
        }
    }

    #[test]
    fn every_bug_is_hunted_here_or_in_simulated_time() {
        for bug in Bug::ALL {
            let hunts = HUNTS.iter().filter(|hunt| hunt.bug == bug).count();
            assert_eq!(hunts, usize::from(!Bug::SIMULATED_ONLY.contains(&bug)), "{}", bug.name());
        }
    }

    #[test]
    fn every_promise_has_a_bug_that_breaks_it() {
        let hunted = |promise: &Promise| HUNTS.iter().any(|hunt| hunt.promise == *promise);
        assert_eq!(Promise::ALL.iter().find(|promise| !hunted(promise)), None);
    }

    /// The schedule of a hunt's first run.
    fn first(hunt: &Hunt) -> Vec<plan::Round> {
        let kinds: Vec<Kind> = hunt.faults.split(',').map(|name| Kind::parse(name).expect("a fault")).collect();
        plan::schedule(FIRST_SEED, 3, Duration::from_secs(RUN_SECONDS), &kinds, None)
    }

    #[test]
    fn what_a_control_has_to_hold_comes_up_in_its_minute() {
        for hunt in &HUNTS {
            let rounds = first(hunt);
            let alone = rounds.iter().filter(|round| round.faults.len() == 1).map(|round| round.faults[0]);
            let lasts = |at_least| alone.clone().any(|fault| fault.until_ms - fault.from_ms >= at_least);
            assert!(hunt.promise != Promise::Failover || lasts(1500));
            assert!(hunt.promise != Promise::WithoutQuorum || lasts(4500));
        }
    }

    fn report(rulings: &[(Promise, Ruling)]) -> Report {
        let judgement =
            |(promise, ruling): &(Promise, Ruling)| Judgement { ruling: *ruling, ..Judgement::new(*promise) };
        Report { title: String::new(), seed: 1, judgements: rulings.iter().map(judgement).collect() }
    }

    #[test]
    fn who_finds_something_where_there_is_nothing_cries_wolf() {
        use Promise::{Durable, Sticky};
        let of = |rulings: &[(Promise, Ruling)]| control(&report(rulings), Durable);
        assert_eq!(of(&[(Durable, Ruling::Held), (Sticky, Ruling::Undecided)]), Ok(()));
        assert_eq!(of(&[(Durable, Ruling::Held), (Sticky, Ruling::Violated)]), Err(format!("{Sticky} cries wolf")));
        assert_eq!(of(&[(Durable, Ruling::Violated)]), Err(format!("{Durable} cries wolf")));
        assert_eq!(of(&[(Durable, Ruling::Undecided)]), Err(format!("{Durable} is undecided")));
        assert_eq!(of(&[(Sticky, Ruling::Held)]), Err(format!("{Durable} is not judged")));
    }

    #[test]
    fn only_the_promise_that_a_bug_breaks_finds_it_and_only_by_what_is_to_be_said_of_it() {
        use Promise::{Durable, Sticky};
        let hunt = Hunt::new(Bug::UnsyncedLog, Durable, "is lost");
        let found = |promise, ruling, finding: &str| {
            let findings = vec!["another".to_owned(), finding.to_owned()];
            let judgements = vec![Judgement { ruling, findings, ..Judgement::new(promise) }];
            is_found(&Report { judgements, ..report(&[]) }, &hunt)
        };
        assert!(found(Durable, Ruling::Violated, "members:0/7 was acknowledged and is lost"));
        assert!(!found(Durable, Ruling::Violated, "members:0/7 is there more than once"));
        assert!(!found(Durable, Ruling::Undecided, "it is lost"));
        assert!(!found(Sticky, Ruling::Violated, "it is lost"));
    }

    #[test]
    fn a_vote_that_was_not_saved_is_found_by_the_term_and_by_no_other_mark() {
        let hunts = HUNTS;
        let hunt = hunts.iter().find(|hunt| hunt.bug == Bug::VoteNotSaved).expect("it is hunted");
        let found = |mark: Mark| {
            let said = |incarnation: u32, value: u64| epochs::Sample {
                at: RunTime::from_millis(u64::from(incarnation)),
                node: String::from("node-1"),
                incarnation,
                saying: Saying::Mark { mark: mark.clone(), value },
            };
            let [judgement, _] = epochs::judge_epochs(&[said(1, 7), said(2, 5)]);
            assert_eq!(judgement.ruling, Ruling::Violated, "{mark}");
            is_found(&Report { judgements: vec![judgement], ..report(&[]) }, hunt)
        };
        assert!(found(Mark::Term) && !found(Mark::Acknowledged) && !found(Mark::Epoch(String::from("public"))));
    }

    /// Where findings are put into words.
    const CHECKERS: [&str; 15] = [
        include_str!("durability.rs"),
        include_str!("epochs.rs"),
        include_str!("judge.rs"),
        include_str!("judge/calm.rs"),
        include_str!("judge/failover.rs"),
        include_str!("judge/moved.rs"),
        include_str!("judge/owners.rs"),
        include_str!("leaks.rs"),
        include_str!("linear/explain.rs"),
        include_str!("models/pair.rs"),
        include_str!("nemesis/mod.rs"),
        include_str!("says_why.rs"),
        include_str!("stickiness.rs"),
        include_str!("transfers.rs"),
        include_str!("without_quorum.rs"),
    ];

    #[test]
    fn what_is_to_be_said_of_a_bug_is_what_a_checker_says() {
        let says = |checker: &str, words: &str| {
            let code = checker.lines().filter(|line| !line.trim_start().starts_with("//"));
            code.take_while(|line| !line.starts_with("mod tests")).any(|line| line.contains(words))
        };
        for hunt in &HUNTS {
            assert!(!hunt.says.is_empty() && !hunt.faults.is_empty(), "{}", hunt.bug.name());
            for words in [hunt.says, hunt.of_what] {
                assert!(CHECKERS.iter().any(|checker| says(checker, words)), "{}: {words}", hunt.bug.name());
            }
        }
    }
}
