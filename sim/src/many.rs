//! Many seeds, each in a process of its own.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use ballast_jepsen::verdict::Promise;
use ballast_planted::{Bug, VARIABLE};
use clap::{Args, builder::PossibleValuesParser};

/// What `run` is told.
#[derive(Args)]
pub struct RunOptions {
    /// How many seeds.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Processes at a time; as many as there are cores if not said.
    #[arg(long)]
    jobs: Option<usize>,
    /// Go on after something was found, and count.
    #[arg(long)]
    keep_going: bool,
}

/// What `selftest` is told.
#[derive(Args)]
pub struct SelftestOptions {
    /// Most seeds for each bug.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Only these bugs.
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(BUGS.map(|(bug, _)| bug.name())))]
    bugs: Vec<String>,
    /// Seeds that are run with no bug first, and must hold.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    controls: u64,
}

/// Bugs of the layers that are simulated, and what must be said of a run with them.
const BUGS: [(Bug, &[Promise]); 4] = [
    (Bug::ReadsWithoutReadIndex, &[Promise::Sessions]),
    (Bug::UnsyncedLog, &[Promise::Sessions, Promise::Durable, Promise::ReplicasEqual]),
    (Bug::PurgePastSnapshot, &[Promise::ReplicasEqual, Promise::ComesBack]),
    (Bug::ReadsConfirmedByLateAnswers, &[Promise::Sessions, Promise::Configuration, Promise::Sticky]),
];

/// What became of a process.
struct Ended {
    seed: u64,
    held: bool,
    output: String,
}

/// Sums over all seeds.
#[derive(Default)]
struct Sums {
    seeds: u64,
    undecided: u64,
    simulated_millis: u64,
    faults: u64,
    operations: u64,
    events: u64,
    back: Vec<u64>,
    equal: Vec<u64>,
}

impl Sums {
    fn add(&mut self, output: &str) {
        let first = output.lines().next().unwrap_or_default();
        let words: Vec<&str> = first.split(' ').collect();
        let number = |name: &str| {
            let place = words.iter().position(|word| *word == name);
            place.and_then(|place| words.get(place + 1)?.parse::<i64>().ok())
        };
        let count = |name| number(name).and_then(|number| u64::try_from(number).ok());
        self.seeds += 1;
        self.undecided += u64::from(words.contains(&"undecided"));
        self.simulated_millis += count("simulated_ms").unwrap_or(0);
        self.faults += count("faults").unwrap_or(0);
        self.operations += count("operations").unwrap_or(0);
        self.events += count("events").unwrap_or(0);
        self.back.extend(count("back_ms"));
        self.equal.extend(count("equal_ms"));
    }
}

/// Runs seeds. Says whether nothing was found.
///
/// # Errors
/// When a process cannot be had, or the simulation itself is wrong.
pub fn run(options: &RunOptions) -> Result<bool> {
    let begun = Instant::now();
    let sums = Mutex::new(Sums::default());
    let mut found = all(
        options,
        &BTreeMap::new(),
        |_| true,
        |output| {
            sums.lock().unwrap_or_else(PoisonError::into_inner).add(output);
        },
    )?;
    found.sort_by_key(|ended| ended.seed);
    let mut sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    for ended in &found {
        println!("{}", ended.output.trim_end());
    }
    let wall = begun.elapsed().as_secs_f64();
    let simulated = sums.simulated_millis as f64 / 1000.0;
    println!(
        "{} seeds in {wall:.0} s: {} violated, {} undecided; {:.1} simulated hours ({:.1} an hour of wall time), \
         {:.2} seeds a second, {} faults, {} operations, {} events",
        sums.seeds,
        found.len(),
        sums.undecided,
        simulated / 3600.0,
        simulated / wall,
        sums.seeds as f64 / wall,
        sums.faults,
        sums.operations,
        sums.events,
    );
    for (what, times) in [("a write succeeded", &mut sums.back), ("all nodes were equal", &mut sums.equal)] {
        times.sort_unstable();
        if let (Some(median), Some(worst)) = (times.get(times.len() / 2), times.last()) {
            println!("after the end of all faults, {what} after {median} ms (median), {worst} ms (worst)");
        }
    }
    Ok(found.is_empty())
}

/// Plants each bug and looks for it. Says whether all were found, and nothing where none was planted: who finds something in
/// any run finds each bug, too.
///
/// # Errors
/// As [`run`]; also when this build has no bugs.
pub fn selftest(options: &SelftestOptions) -> Result<bool> {
    if !cfg!(feature = "planted") {
        bail!("this build has no planted bugs; run `make sim-selftest`, which builds one that has");
    }
    let controls = RunOptions { seeds: options.controls, from: 1, jobs: None, keep_going: false };
    // Whatever this process itself is told to plant.
    let nothing = BTreeMap::from([(VARIABLE, "")]);
    if let Some(wolf) = all(&controls, &nothing, |_| true, |_| {})?.first() {
        println!("{}\nthis is cried of a run in which nothing is planted", wolf.output.trim_end());
        return Ok(false);
    }
    println!("{} seeds with no bug: nothing found", options.controls);
    let mut all_found = true;
    let asked = |bug: &Bug| options.bugs.is_empty() || options.bugs.iter().any(|name| name == bug.name());
    for (bug, promises) in BUGS.iter().filter(|(bug, _)| asked(bug)) {
        let begun = Instant::now();
        let seeds = RunOptions { seeds: options.seeds, from: 1, jobs: None, keep_going: false };
        let tried = AtomicU64::new(0);
        let meant = |output: &str| promises.iter().any(|promise| output.contains(&format!("VIOLATED   {promise} (")));
        let found = all(&seeds, &BTreeMap::from([(VARIABLE, bug.name())]), meant, |_| {
            tried.fetch_add(1, Ordering::Relaxed);
        })?;
        let (name, wall) = (bug.name(), begun.elapsed().as_secs_f64());
        match found.first() {
            Some(ended) => {
                let why = ended.output.lines().skip_while(|line| !line.starts_with("VIOLATED")).take(2);
                let why = why.map(str::trim).collect::<Vec<_>>().join(": ");
                let tried = tried.load(Ordering::Relaxed);
                println!("{name}: found by seed {} of {tried} in {wall:.0} s: {why}", ended.seed);
            }
            None => {
                all_found = false;
                println!("{name}: NOT FOUND in {} seeds and {wall:.0} s", options.seeds);
            }
        }
    }
    Ok(all_found)
}

/// Runs seeds in processes of their own until one is wrong in a way that `counts`. Gives those that were.
fn all(
    options: &RunOptions,
    environment: &BTreeMap<&str, &str>,
    counts: impl Fn(&str) -> bool + Sync,
    each: impl Fn(&str) + Sync,
) -> Result<Vec<Ended>> {
    let program = std::env::current_exe().context("this program is gone")?;
    let jobs = options.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let (next, stop) = (AtomicU64::new(options.from), AtomicBool::new(false));
    let found: Mutex<Vec<Ended>> = Mutex::default();
    let one = |seed: u64| -> Result<Ended> {
        let done = Command::new(&program)
            .args(["replay", "--brief", &seed.to_string()])
            .envs(environment)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let output = String::from_utf8_lossy(&done.stdout).into_owned();
        match done.status.code() {
            Some(0) => Ok(Ended { seed, held: true, output }),
            Some(1) => Ok(Ended { seed, held: false, output }),
            _ => bail!("seed {seed}: {}: {output}{}", done.status, String::from_utf8_lossy(&done.stderr)),
        }
    };
    let work = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= options.from + options.seeds {
                break;
            }
            let ended = one(seed).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            each(&ended.output);
            if !ended.held && counts(&ended.output) {
                stop.fetch_or(!options.keep_going, Ordering::Relaxed);
                found.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("workers do not panic"))
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: SelftestOptions,
    }

    #[test]
    fn a_bug_of_no_name_is_refused() {
        let parse = |bugs| Line::try_parse_from(["selftest", "--bugs", bugs]).map(|line| line.options.bugs.len());
        assert_eq!(parse("unsynced-log,purge-past-snapshot").ok(), Some(2));
        // One that is real and is not looked for here is no better than none.
        for wrong in ["typo", "", "unsynced-log,typo", Bug::FenceOpenAtStart.name()] {
            let said = parse(wrong).expect_err("it is refused").to_string();
            assert!(said.contains("unsynced-log"), "{said}");
        }
    }

    #[test]
    fn what_only_simulated_time_shows_is_looked_for_here() {
        let looked_for = |bug: &Bug| BUGS.iter().any(|(known, _)| known == bug);
        assert!(Bug::SIMULATED_ONLY.iter().all(looked_for));
    }
}
