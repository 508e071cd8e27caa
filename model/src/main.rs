//! `lease-model`: searches the model of the lease protocol and its mutants, and tells what it saw.

use std::process::ExitCode;

use ballast_lease_model::{Danger, LONG, Outcome, QUICK, Rule, Setup, Sighting, search, shows, tell};
use clap::Parser;

/// Searches the model of the VIP lease protocol in all its states, then breaks one rule at a time.
#[derive(Parser)]
struct Args {
    /// Larger bounds: minutes to an hour, and gigabytes of memory
    #[arg(long)]
    long: bool,
    /// Only this setup
    #[arg(long)]
    setup: Option<String>,
    /// Only with this rule broken
    #[arg(long, value_name = "RULE")]
    mutant: Option<Rule>,
    /// Break no rule
    #[arg(long, conflicts_with = "mutant")]
    no_mutants: bool,
    /// Tell every way that was found in plain words
    #[arg(long)]
    trace: bool,
    /// Threads; with one, the ways told are the shortest there are
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Rounds of questions in a story, instead of the setup's bound
    #[arg(long)]
    asks: Option<u8>,
    /// Restarts in a story, instead of the setup's bound
    #[arg(long)]
    restarts: Option<u8>,
    /// Releases in a story, instead of the setup's bound
    #[arg(long)]
    releases: Option<u8>,
    /// Ticks in a right, instead of the setup's
    #[arg(long)]
    right: Option<u8>,
}

impl Args {
    fn setups(&self) -> Vec<Setup> {
        let all = if self.long { LONG } else { QUICK };
        let wanted = all.iter().filter(|setup| self.setup.as_deref().is_none_or(|name| name == setup.name));
        wanted.map(|setup| self.bound(setup.clone())).collect()
    }

    fn bound(&self, setup: Setup) -> Setup {
        Setup {
            asks: self.asks.unwrap_or(setup.asks),
            restarts: self.restarts.unwrap_or(setup.restarts),
            releases: self.releases.unwrap_or(setup.releases),
            right: self.right.unwrap_or(setup.right),
            ..setup
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let setups = args.setups();
    if setups.is_empty() {
        eprintln!("there is no such setup; without --setup all of them are searched");
        return ExitCode::FAILURE;
    }
    let mut good = true;
    if args.mutant.is_none() {
        for setup in &setups {
            let outcome = search(setup, None, args.threads);
            good &= outcome.good();
            report(setup, &outcome, args.trace);
        }
    }
    let wanted = |rule: &Rule| !args.no_mutants && args.mutant.is_none_or(|mutant| mutant == *rule);
    for rule in Rule::ALL.into_iter().filter(wanted) {
        good &= break_rule(rule, &args);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(setup: &Setup, outcome: &Outcome, trace: bool) {
    let Outcome { states, unique, depth, took, complete, .. } = outcome;
    let looked = if *complete { "all states looked at" } else { "ended early" };
    println!(
        "{}: {unique} unique states of {states}, depth {depth}, {:.1} s, {looked}",
        setup.name,
        took.as_secs_f64()
    );
    println!(
        "    {} nodes, at most {} rounds of questions, {} restarts, {} releases; a right is {} ticks",
        setup.nodes, setup.asks, setup.restarts, setup.releases, setup.right
    );
    for Sighting { property, must_hold, path } in &outcome.sightings {
        let verdict = match (must_hold, path) {
            (true, None) => "holds always".to_owned(),
            (true, Some(path)) => format!("FAILS after {} steps", path.len() - 1),
            (false, Some(path)) => format!("seen after {} steps", path.len() - 1),
            (false, None) => "NEVER SEEN".to_owned(),
        };
        println!("    {property:<50} {verdict}");
        if let Some(path) = path.as_ref().filter(|_| trace || *must_hold) {
            println!("{}", tell(path));
        }
    }
}

/// Searches until the danger of breaking `rule` is found. False if what is found is not that.
fn break_rule(rule: Rule, args: &Args) -> bool {
    let setup = args.bound(shows(rule));
    let outcome = search(&setup, Some(rule), args.threads);
    let violated = outcome.sightings.iter().find(|sighting| sighting.must_hold && sighting.path.is_some());
    let Some(Sighting { property, path: Some(path), .. }) = violated else {
        println!("without {rule:?}: nothing is found in any of {} states of {}", outcome.unique, setup.name);
        return rule.danger() == Danger::None && outcome.complete;
    };
    let steps = path.len() - 1;
    println!("without {rule:?}: not \"{property}\" after {steps} steps of {}, {} states", setup.name, outcome.unique);
    if args.trace {
        println!("{}", tell(path));
    }
    rule.danger().property() == Some(property)
}
