//! Shows that the suite can fail: each planted bug must be found by the checker that is meant to find it.
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

use crate::UNDECIDED;

/// A bug, and how it is looked for.
struct Hunt {
    bug: Bug,
    /// The promise that must be found broken.
    promise: Promise,
    /// Faults under which it shows.
    faults: &'static str,
    /// Whom they befall; anybody if empty.
    whom: &'static str,
}

const fn hunt(bug: Bug, promise: Promise, faults: &'static str) -> Hunt {
    Hunt { bug, promise, faults, whom: "" }
}

const HUNTS: [Hunt; 14] = [
    hunt(Bug::ReadsWithoutReadIndex, Promise::Sessions, "pause,isolate,split,one-way,loss"),
    hunt(Bug::BindingForwardedBeforeCommit, Promise::Sticky, "split,pause,loss,isolate"),
    // The owner's answers are late by more than what clocks may differ when it is cut off from the others.
    Hunt { whom: "owner", ..hunt(Bug::LeaseTimedFromReceipt, Promise::OneOwner, "delay,split") },
    hunt(Bug::UnsyncedLog, Promise::Durable, "black-out"),
    hunt(Bug::PurgePastSnapshot, Promise::ComesBack, "snapshot,kill-all"),
    hunt(Bug::FenceOpenAtStart, Promise::OneOwner, "kill,restart,move-vip"),
    hunt(Bug::ChangeWithoutCompare, Promise::Configuration, "pause"),
    Hunt { whom: "owner", ..hunt(Bug::TakesOverLate, Promise::Failover, "kill,freeze") },
    hunt(Bug::IsolatedRefuses, Promise::WithoutQuorum, "split"),
    hunt(Bug::RefusalUnlogged, Promise::SaysWhy, "backend-truncates"),
    hunt(Bug::EntrySkipped, Promise::ReplicasEqual, "delay"),
    // Terms rise with each transfer, and are forgotten when all are killed.
    hunt(Bug::VoteNotSaved, Promise::OnlyForward, "kill-all,transfer-leader"),
    hunt(Bug::ByteChanged, Promise::Whole, "delay"),
    hunt(Bug::DescriptorLeaks, Promise::NoLeak, "delay"),
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
            found = is_found(&look(Some(hunt.bug), seed)?, hunt.promise);
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
    match status.code() {
        Some(code) if code == 0 || code == 1 || code == i32::from(UNDECIDED) => {}
        _ => bail!("there was no run when {}: {status}", what()),
    }
    let file = newest(&output, seed)?.join("verdict.json");
    let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("understand {}", file.display()))
}

/// Whether a run says that the promise is broken.
fn is_found(report: &Report, promise: Promise) -> bool {
    report.judgements.iter().any(|judgement| judgement.promise == promise && judgement.ruling == Ruling::Violated)
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
    fn only_the_promise_that_a_bug_breaks_finds_it() {
        use Promise::{Durable, Sticky};
        assert!(is_found(&report(&[(Sticky, Ruling::Held), (Durable, Ruling::Violated)]), Durable));
        assert!(!is_found(&report(&[(Sticky, Ruling::Violated), (Durable, Ruling::Undecided)]), Durable));
    }
}
