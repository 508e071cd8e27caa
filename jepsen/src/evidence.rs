//! Makes one page of what all runs in a folder came to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ballast_jepsen::verdict::{Judgement, Promise, Report, Ruling};

use crate::{
    environment::Environment,
    judge,
    nemesis::Record,
    plan::{Kind, Whom},
    run::Options,
    store::{self, Recoveries, one},
};

/// What was found that was Ballast's fault, kept by hand.
const FOUND: &str = include_str!("../found.md");

/// Timed samples below which the one in the middle says nothing.
const MEDIAN_OF: usize = 5;

/// A run as its folder tells it.
struct Told {
    options: Options,
    report: Report,
    faults: Record,
    recoveries: Recoveries,
}

/// A run that is not counted.
struct NotCounted {
    seed: u64,
    why: String,
}

/// The page.
///
/// # Errors
/// When there is no run, or one cannot be read.
pub fn page(folder: &Path) -> Result<String> {
    let mut folders: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("read {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    folders.sort();
    let (none, rest): (Vec<_>, Vec<_>) = folders.iter().partition(|folder| folder.join(store::NO_RUN).is_file());
    let none = none.into_iter().map(|folder| read_none(folder)).collect::<Result<Vec<_>>>()?;
    let (judged, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|folder| folder.join(store::VERDICT).is_file());
    let runs = judged.into_iter().map(|folder| read(folder)).collect::<Result<Vec<_>>>()?;
    let (runs, left_out): (Vec<Told>, Vec<Told>) = runs.into_iter().partition(|run| run.why_not().is_none());
    ensure!(!runs.is_empty(), "there is no run in {} that counts", folder.display());
    let mut left_out: Vec<NotCounted> = left_out.iter().filter_map(Told::left_out).collect();
    // A folder of other runs has no options.
    let unjudged = rest.into_iter().filter(|folder| folder.join(store::OPTIONS).is_file());
    left_out.extend(unjudged.map(|folder| read_unjudged(folder)).collect::<Result<Vec<_>>>()?);
    Ok(write(&runs, &left_out, &none))
}

impl Told {
    /// Why it is no evidence, if it is none.
    fn why_not(&self) -> Option<String> {
        let planted = self.options.planted.as_ref().map(|bug| format!("had {bug}"));
        planted.or_else(|| self.report.title.contains(judge::CALLED_OFF).then(|| format!("was {}", judge::CALLED_OFF)))
    }

    /// That it is none, if it is not.
    fn left_out(&self) -> Option<NotCounted> {
        Some(NotCounted { seed: self.options.seed, why: self.why_not()? })
    }

    /// For how many seconds faults were begun: as many as it was to have, or until the lab ended it.
    fn seconds(&self) -> u64 {
        let Record { faults, halted, .. } = &self.faults;
        let first = faults.iter().map(|fault| fault.from).min().unwrap_or_default();
        let last = faults.iter().map(|fault| fault.until).max().unwrap_or_default();
        let planned = self.options.seconds;
        if *halted { last.since(first).as_secs().min(planned) } else { planned }
    }

    /// Faults that came about.
    fn faults(&self) -> usize {
        self.faults.faults.iter().filter(|fault| fault.came_about).count()
    }

    /// What was asked of it beside a seed: an environment that is not the usual one, faults, if they are not all, and whom they befell.
    fn asked(&self) -> String {
        let Options { environment, kinds, whom, .. } = &self.options;
        // A run restarts or upgrades, by whether there is anything to go to.
        let rolling = |kind: &Kind| matches!(kind, Kind::RollingUpgrade | Kind::RollingRestart);
        // Which runs of old did not know.
        let newer = |kind: &Kind| matches!(kind, Kind::Terminate);
        let mut of_old = Kind::all().filter(|kind| environment.can(*kind) && !rolling(kind) && !newer(kind));
        let all = of_old.all(|kind| kinds.contains(&kind));
        let place = (*environment == Environment::Compose).then(|| String::from("on docker-compose.yml"));
        let names = || kinds.iter().map(Kind::to_string).collect::<Vec<_>>().join(", ");
        let whom = whom.map(|whom| match whom {
            Whom::Leader => String::from("of the leader"),
            Whom::Owner => String::from("of the owner"),
            Whom::Node(node) => format!("of {}", judge::name(node)),
        });
        let asked: Vec<String> = place.into_iter().chain((!all).then(names)).chain(whom).collect();
        asked.join(" ")
    }
}

/// A run whose judge came to grief, or that goes on.
fn read_unjudged(folder: &Path) -> Result<NotCounted> {
    let Options { seed, .. } = one(&folder.join(store::OPTIONS))?;
    Ok(NotCounted { seed, why: String::from("was not judged") })
}

fn read_none(folder: &Path) -> Result<NotCounted> {
    let Options { seed, .. } = one(&folder.join(store::OPTIONS))?;
    let file = folder.join(store::NO_RUN);
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(NotCounted { seed, why: text.lines().next().unwrap_or_default().to_owned() })
}

fn read(folder: &Path) -> Result<Told> {
    Ok(Told {
        options: one(&folder.join(store::OPTIONS))?,
        report: one(&folder.join(store::VERDICT))?,
        faults: one(&folder.join(store::FAULTS))?,
        recoveries: one(&folder.join(store::RECOVERIES))?,
    })
}

fn write(runs: &[Told], left_out: &[NotCounted], none: &[NotCounted]) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    let seconds: u64 = runs.iter().map(Told::seconds).sum();
    let faults: usize = runs.iter().map(Told::faults).sum();
    line("# Evidence\n".to_owned());
    line("<!-- Generated by `jepsen evidence` from the folders of runs; see docs/chaos.md. -->\n".to_owned());
    line(format!(
        "{} runs, {} minutes in which faults were begun, {faults} faults. What each promise and fault means, and how to repeat \
         a run, is in `docs/chaos.md`.\n",
        runs.len(),
        seconds / 60
    ));
    if !left_out.is_empty() {
        let told = |NotCounted { seed, why }: &NotCounted| format!("seed {seed}, which {why}");
        line(format!("Not counted: {}.\n", left_out.iter().map(told).collect::<Vec<_>>().join("; ")));
    }
    if !none.is_empty() {
        let told = |NotCounted { seed, why }: &NotCounted| format!("seed {seed} ({why})");
        line(format!("No run: {}.\n", none.iter().map(told).collect::<Vec<_>>().join("; ")));
    }
    line("## Promises\n".to_owned());
    line("| promise | runs | held | violated | undecided | looked at |\n|---|---|---|---|---|---|".to_owned());
    let mut promises: BTreeMap<_, Vec<&Judgement>> = BTreeMap::new();
    for judgement in runs.iter().flat_map(|run| &run.report.judgements) {
        promises.entry(judgement.promise).or_default().push(judgement);
    }
    for (promise, judgements) in &promises {
        let count = |ruling| judgements.iter().filter(|judgement| judgement.ruling == ruling).count();
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, number) in judgements.iter().flat_map(|judgement| &judgement.counts) {
            let sum = counts.entry(name).or_default();
            let most = name.starts_with("longest") || name.starts_with("percent");
            *sum = if most { (*sum).max(*number) } else { *sum + number };
        }
        let counts: Vec<String> = counts.iter().map(|(name, number)| format!("{number} {name}")).collect();
        line(format!(
            "| {promise} | {} | {} | {} | {} | {} |",
            judgements.len(),
            count(Ruling::Held),
            count(Ruling::Violated),
            count(Ruling::Undecided),
            counts.join(", ")
        ));
    }
    for promise in Promise::ALL.iter().filter(|promise| !promises.contains_key(*promise)) {
        line(format!("| {promise} | 0 | - | - | - | not judged: no run had what shows it |"));
    }
    line("\n## Faults, and how soon service was back\n".to_owned());
    line("From when a fault was undone, or done where nothing undoes it, until the next write to the store was acknowledged by \
          anybody, and until the shop answered the next time over the VIP, in milliseconds; who was never away takes a pace of the \
          clients. Faults that others followed before anything succeeded are not timed. That each node serves again is looked for \
          in every calm. Of fewer than five that were timed no median is told. \"Not\" are those that did not come about: an \
          operator's order was refused, the machine has no control group for it, or there was nothing to take away or to cut.\n"
        .to_owned());
    line(
        "| fault | times | write, timed | median | worst | over the VIP, timed | median | worst |\n|---|---|---|---|---|---|---|---|"
            .to_owned(),
    );
    let mut seen = BTreeSet::new();
    for (kind, times) in times_of(runs) {
        seen.insert(kind.to_owned());
        let Times { count, mut writes, mut answers } = times;
        let not = runs.iter().flat_map(|run| &run.faults.faults);
        let not = not.filter(|fault| !fault.came_about && fault.kind.to_string() == kind).count();
        let count = if not == 0 { count.to_string() } else { format!("{count} ({not} not)") };
        line(format!("| {kind} | {count} | {} | {} |", timed(&mut writes), timed(&mut answers)));
    }
    let never: Vec<String> = Kind::all().map(|kind| kind.to_string()).filter(|kind| !seen.contains(kind)).collect();
    if !never.is_empty() {
        line(format!("\nNever drawn: {}.", never.join(", ")));
    }
    line(format!("\n{}", FOUND.trim_end()));
    line("\n## Runs\n".to_owned());
    line("| seed | of | seconds | nodes | faults | only | not held |\n|---|---|---|---|---|---|---|".to_owned());
    for run in runs {
        let not: Vec<String> = run
            .report
            .judgements
            .iter()
            .filter(|judgement| judgement.ruling != Ruling::Held)
            .map(|judgement| format!("{} ({})", judgement.promise, judgement.ruling))
            .collect();
        let Options { seed, seconds, nodes, revision, judged_by, .. } = &run.options;
        let (revision, faults) = (revision.as_deref().unwrap_or("-"), run.faults());
        // A later suite may rule by other rules.
        let judged = judged_by.as_ref().filter(|judge| *judge != revision);
        let revision = judged.map_or_else(|| revision.to_owned(), |judge| format!("{revision}, judged by {judge}"));
        let halted = if run.faults.halted { format!("{} of ", run.seconds()) } else { String::new() };
        let (asked, seconds) = (run.asked(), format!("{halted}{seconds}"));
        line(format!("| {seed} | {revision} | {seconds} | {nodes} | {faults} | {asked} | {} |", not.join(", ")));
    }
    text
}

/// How many there are, the one in the middle and the longest, as three cells.
fn timed(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let say = |time: Option<&Duration>| {
        time.map_or_else(|| "-".to_owned(), |time| format!("{:.0}", time.as_secs_f64() * 1000.0))
    };
    let median = times.get(times.len() / 2).filter(|_| times.len() >= MEDIAN_OF);
    format!("{} | {} | {}", times.len(), say(median), say(times.last()))
}

/// Times of one kind of fault.
#[derive(Default)]
struct Times {
    count: usize,
    writes: Vec<Duration>,
    answers: Vec<Duration>,
}

/// What was measured after each kind of fault in all runs.
fn times_of(runs: &[Told]) -> BTreeMap<&str, Times> {
    let mut kinds: BTreeMap<&str, Times> = BTreeMap::new();
    for Recoveries { writes, answers } in runs.iter().map(|run| &run.recoveries) {
        for (kind, recovery) in writes {
            let times = kinds.entry(kind).or_default();
            times.count += recovery.faults;
            times.writes.extend(&recovery.times);
        }
        for (kind, recovery) in answers {
            kinds.entry(kind).or_default().answers.extend(&recovery.times);
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::{recovery::Recovery, time::RunTime};

    use super::*;
    use crate::nemesis::Happened;

    fn fault(kind: Kind, from: u64, until: u64) -> Happened {
        let [from, until] = [from, until].map(RunTime::from_millis);
        Happened {
            kind,
            victims: vec!["node-1".to_owned()],
            from,
            until,
            whole_until: None,
            came_about: true,
            acknowledged: None,
        }
    }

    fn took(millis: &[u64]) -> Recovery {
        Recovery {
            faults: millis.len() + 1,
            times: millis.iter().map(|millis| Duration::from_millis(*millis)).collect(),
            ..Recovery::default()
        }
    }

    fn told() -> Told {
        let mut owners = Judgement::new(Promise::OneOwner);
        owners.violated("two");
        Told {
            options: Options {
                seed: 5,
                seconds: 120,
                environment: Environment::default(),
                nodes: 3,
                kinds: vec![Kind::Kill, Kind::Pause],
                whom: Some(Whom::Owner),
                planted: None,
                revision: Some(String::from("abc")),
                judged_by: None,
            },
            report: Report {
                title: String::new(),
                seed: 5,
                judgements: vec![Judgement::new(Promise::Durable).looked_at("additions", 11), owners],
            },
            faults: Record { faults: vec![fault(Kind::Kill, 10, 20), fault(Kind::Pause, 12, 30)], ..Record::default() },
            recoveries: Recoveries {
                writes: BTreeMap::from([("kill".to_owned(), took(&[30, 10, 20, 40, 25]))]),
                answers: BTreeMap::from([("kill".to_owned(), took(&[7, 9]))]),
            },
        }
    }

    #[test]
    fn a_page_counts_what_was_seen() {
        let page = write(&[told()], &[], &[]);
        assert!(page.contains("1 runs, 2 minutes in which faults were begun, 2 faults"), "{page}");
        assert!(page.contains("| what was acknowledged is there | 1 | 1 | 0 | 0 | 11 additions |"), "{page}");
        // Two that were timed have no middle.
        assert!(page.contains("| kill | 6 | 5 | 25 | 40 | 2 | - | 9 |"), "{page}");
        assert!(
            page.contains("| 5 | abc | 120 | 3 | 2 | kill, pause of the owner | P1 one owner (VIOLATED) |"),
            "{page}"
        );
        assert!(!page.contains("Not counted"), "{page}");
    }

    #[test]
    fn shares_of_several_runs_are_not_added_up() {
        let slow = |percent| {
            let judgement = Judgement::new(Promise::Sticky).count("percent of the time with slow checks", percent);
            let mut run = told();
            run.report.judgements = vec![judgement];
            run
        };
        let page = write(&[slow(12), slow(7)], &[], &[]);
        assert!(page.contains("| 12 percent of the time with slow checks |"), "{page}");
    }

    #[test]
    fn a_promise_that_no_run_judged_is_told() {
        let page = write(&[told()], &[], &[]);
        assert!(page.contains(&format!("| {} | 0 | - | - | - | not judged", Promise::Failover)), "{page}");
        assert!(!page.contains(&format!("| {} | 0 |", Promise::Durable)), "{page}");
    }

    #[test]
    fn what_did_not_come_about_is_told() {
        let mut run = told();
        run.faults.faults[0].came_about = false;
        let page = write(&[run], &[], &[]);
        assert!(page.contains("| kill | 6 (1 not) |"), "{page}");
        assert!(page.contains("faults were begun, 1 faults") && page.contains("| 120 | 3 | 1 |"), "{page}");
    }

    #[test]
    fn a_run_that_the_lab_ended_counts_with_the_time_that_it_had() {
        let mut run = told();
        run.faults.halted = true;
        run.faults.faults[1].until = RunTime::from_millis(65_010);
        let page = write(&[run], &[], &[]);
        assert!(page.contains("1 runs, 1 minutes in which faults were begun"), "{page}");
        assert!(page.contains("| 5 | abc | 65 of 120 | 3 | 2 |"), "{page}");
    }

    #[test]
    fn what_was_called_off_or_had_a_bug_is_named_and_not_counted() {
        let mut planted = told();
        planted.options.planted = Some(String::from("unsynced-log"));
        let mut ended = told();
        ended.options.seed = 6;
        ended.report.title = format!("3 nodes, {} after 20 s of 600 of faults", judge::CALLED_OFF);
        assert_eq!(told().why_not(), None);
        assert!(planted.why_not().is_some() && ended.why_not().is_some());
        let left_out: Vec<NotCounted> = [planted, ended].iter().filter_map(Told::left_out).collect();
        let page = write(&[told()], &left_out, &[]);
        assert!(page.contains("1 runs, 2 minutes"), "{page}");
        assert!(page.contains("Not counted: seed 5, which had unsynced-log; seed 6, which was called off."), "{page}");
    }

    #[test]
    fn a_run_that_could_not_be_had_is_told_with_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = anyhow::anyhow!("node-2 to be ready: 503 no leader").context("log of node-2:\na line\nanother");
        store::no_run(folder.path(), &told().options, &error).expect("it is written");
        let none = read_none(folder.path()).expect("it is read");
        let page = write(&[told()], &[], &[none]);
        let expected = "No run: seed 5 (log of node-2: node-2 to be ready: 503 no leader).";
        assert!(page.contains(expected), "{page}");
        assert!(page.contains("1 runs, 2 minutes"), "{page}");
        assert!(!write(&[told()], &[], &[]).contains("No run"));
    }

    #[test]
    fn a_run_that_was_not_judged_is_named_and_not_counted() {
        let runs = tempfile::tempdir().expect("a folder");
        let folder = |name: &str| {
            let folder = runs.path().join(name);
            fs::create_dir(&folder).expect("a folder");
            folder
        };
        let Told { options, report, faults, recoveries } = told();
        let (judged, unjudged) = (folder("seed-5"), folder("seed-6"));
        folder("long");
        store::planned(&unjudged, &Options { seed: 6, ..options.clone() }, &[]).expect("it is written");
        store::planned(&judged, &options, &[]).expect("it is written");
        let write = |name: &str, text: serde_json::Result<String>| {
            fs::write(judged.join(name), text.expect("it is JSON")).expect("it is written");
        };
        write(store::VERDICT, serde_json::to_string(&report));
        write("faults.json", serde_json::to_string(&faults));
        write("recoveries.json", serde_json::to_string(&recoveries));
        let page = page(runs.path()).expect("a page");
        assert!(page.contains("1 runs, 2 minutes"), "{page}");
        assert!(page.contains("Not counted: seed 6, which was not judged."), "{page}");
    }

    #[test]
    fn a_run_of_all_faults_says_no_more() {
        let mut run = told();
        (run.options.kinds, run.options.whom) =
            (Kind::all().filter(|kind| *kind != Kind::RollingUpgrade).collect(), None);
        assert_eq!(run.asked(), "");
    }
}
