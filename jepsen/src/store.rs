//! The folder of a run: what was planned, done, seen and concluded.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use ballast_jepsen::{
    history::{History, Outcome},
    kept::Kept,
    recovery::Recovery,
    time::{RunTime, Span},
    timeline::{self, Latency, Timeline},
    verdict::Report,
};
use ballast_testkit::observer;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    clock::Clock,
    judge,
    plan::Round,
    run::{Options, Run},
    site::VIP_NAME,
    wire,
    workload::{bindings, till},
};

/// Makes the folder of a run, beside those of earlier ones.
///
/// # Errors
/// When it cannot be made.
pub fn folder(output: &Path, seed: u64) -> Result<PathBuf> {
    let names = std::iter::once(format!("seed-{seed}")).chain((2..).map(|number| format!("seed-{seed}-{number}")));
    for name in names {
        let folder = output.join(name);
        if !folder.exists() {
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            return Ok(folder);
        }
    }
    unreachable!("numbers do not end")
}

/// The file that says what was to be run.
pub const OPTIONS: &str = "options.json";
/// The file of the rounds that were planned.
pub const SCHEDULE: &str = "schedule.json";
/// The file of what happened.
pub const FAULTS: &str = "faults.json";
/// The file that says how soon service was back.
pub const RECOVERIES: &str = "recoveries.json";
/// The file that a run has which was judged.
pub const VERDICT: &str = "verdict.json";
/// Why there was no run, in its folder.
pub const NO_RUN: &str = "no-run.txt";

/// Writes what was to be run and why it was not: in a line, and then in full.
///
/// # Errors
/// When a file cannot be written.
pub fn no_run(folder: &Path, options: &Options, error: &anyhow::Error) -> Result<()> {
    json(&folder.join(OPTIONS), options)?;
    // Of what is told with it, which may be a log, the first line says enough.
    let texts = error.chain().map(|cause| cause.to_string());
    let why: Vec<String> =
        texts.map(|text| text.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()).collect();
    Ok(fs::write(folder.join(NO_RUN), format!("{}\n\n{error:#}\n", why.join(": ")))?)
}

/// How soon service was back after each kind of fault.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recoveries {
    /// A write to the store.
    pub writes: BTreeMap<String, Recovery>,
    /// An answer of the shop over the VIP.
    pub answers: BTreeMap<String, Recovery>,
}

/// Writes what is to be run.
///
/// # Errors
/// When a file cannot be written.
pub fn planned(folder: &Path, options: &Options, rounds: &[Round]) -> Result<()> {
    json(&folder.join(OPTIONS), options)?;
    json(&folder.join(SCHEDULE), rounds)
}

/// What is true of a run as a whole.
#[derive(Serialize, Deserialize)]
struct Whole {
    span: (RunTime, RunTime),
    unwell: Option<String>,
    cut_short: bool,
    moves_end_connections: bool,
    /// Whether the cluster told all that it decided of backends.
    tells_decided: bool,
    clock: Clock,
    /// Transfers that were known to have failed.
    broken_transfers: usize,
    /// Requests for which visitors kept a connection, and buyers and senders.
    kept_requests: [usize; 2],
    /// When somebody announced the VIP, as the kernel counts.
    announced: Vec<u64>,
}

/// Writes what was done and seen, which is there then whatever becomes of its judge.
///
/// # Errors
/// When a file cannot be written.
pub fn seen(folder: &Path, run: &Run) -> Result<()> {
    let whole = Whole {
        span: run.span,
        unwell: run.unwell.clone(),
        cut_short: run.cut_short,
        moves_end_connections: run.moves_end_connections,
        tells_decided: run.decided.is_some(),
        clock: run.clock,
        broken_transfers: run.till.broken,
        kept_requests: [run.seen.kept.requests, run.till.kept.requests],
        announced: run.owners.announced().to_vec(),
    };
    json(&folder.join("run.json"), &whole)?;
    json(&folder.join(FAULTS), &run.faults)?;
    json(&folder.join("sets.json"), &run.sets)?;
    lines(&folder.join("samples.jsonl"), &run.samples)?;
    lines(&folder.join("hashes.jsonl"), &run.hashes)?;
    lines(&folder.join("locks.jsonl"), &run.held)?;
    lines(&folder.join("served.jsonl"), &run.seen.served)?;
    lines(&folder.join("by-address.jsonl"), &run.by_address.served)?;
    lines(&folder.join("by-address-failed.jsonl"), &run.by_address.failed)?;
    lines(&folder.join("failed.jsonl"), &run.seen.failed)?;
    lines(&folder.join("baskets.jsonl"), &run.till.told)?;
    lines(&folder.join("stores.jsonl"), &run.stores)?;
    lines(&folder.join("slow.jsonl"), &run.slow)?;
    lines(&folder.join("decided.jsonl"), run.decided.as_deref().unwrap_or_default())?;
    lines(&folder.join("transfers.jsonl"), &run.till.transfers)?;
    lines(&folder.join("till-answers.jsonl"), &run.till.answers)?;
    lines(&folder.join("till-failed.jsonl"), &run.till.failed)?;
    lines(&folder.join("kept.jsonl"), &run.seen.kept.ended)?;
    lines(&folder.join("till-kept.jsonl"), &run.till.kept.ended)?;
    lines(&folder.join("alone.jsonl"), &run.alone)?;
    lines(&folder.join("proxied.jsonl"), &run.proxied)?;
    lines(&folder.join("wire.jsonl"), &wire::lines(&run.owners, run.clock))?;
    lines(&folder.join("ticks.jsonl"), run.owners.ticks())?;
    run.registers.write(file(&folder.join("registers.jsonl"))?)?;
    run.registers_end.write(file(&folder.join("registers-end.jsonl"))?)?;
    run.transactions.write(file(&folder.join("transactions.jsonl"))?)?;
    run.transactions_end.write(file(&folder.join("transactions-end.jsonl"))?)?;
    run.config.write(file(&folder.join("configuration.jsonl"))?)?;
    run.additions.write(file(&folder.join("additions.jsonl"))?)?;
    Ok(())
}

/// Reads what was planned, done and seen, as [`planned`] and [`seen`] wrote it.
///
/// # Errors
/// When a file is not there, which is so of runs of a suite that did not store all, or is not understood.
pub fn read(folder: &Path) -> Result<Run> {
    let whole: Whole = one(&folder.join("run.json"))?;
    let options: Options = one(&folder.join(OPTIONS))?;
    let [of_visitors, of_buyers] = whole.kept_requests;
    let served: Vec<bindings::Served> = read_lines(&folder.join("served.jsonl"))?;
    let over_vip = served.iter().filter(|served| served.through == options.nodes);
    let seen = bindings::Seen {
        over_vip: over_vip.map(|served| served.completed).collect(),
        served,
        failed: read_lines(&folder.join("failed.jsonl"))?,
        kept: Kept { requests: of_visitors, ended: read_lines(&folder.join("kept.jsonl"))? },
    };
    let by_address = bindings::Seen {
        served: read_lines(&folder.join("by-address.jsonl"))?,
        failed: read_lines(&folder.join("by-address-failed.jsonl"))?,
        ..bindings::Seen::default()
    };
    let till = till::Seen {
        answers: read_lines(&folder.join("till-answers.jsonl"))?,
        told: read_lines(&folder.join("baskets.jsonl"))?,
        transfers: read_lines(&folder.join("transfers.jsonl"))?,
        broken: whole.broken_transfers,
        failed: read_lines(&folder.join("till-failed.jsonl"))?,
        kept: Kept { requests: of_buyers, ended: read_lines(&folder.join("till-kept.jsonl"))? },
    };
    let decided = whole.tells_decided.then(|| read_lines(&folder.join("decided.jsonl"))).transpose()?;
    Ok(Run {
        rounds: one(&folder.join(SCHEDULE))?,
        faults: one(&folder.join(FAULTS))?,
        span: whole.span,
        unwell: whole.unwell,
        cut_short: whole.cut_short,
        samples: read_lines(&folder.join("samples.jsonl"))?,
        hashes: read_lines(&folder.join("hashes.jsonl"))?,
        registers: read_history(&folder.join("registers.jsonl"))?,
        registers_end: read_history(&folder.join("registers-end.jsonl"))?,
        transactions: read_history(&folder.join("transactions.jsonl"))?,
        transactions_end: read_history(&folder.join("transactions-end.jsonl"))?,
        config: read_history(&folder.join("configuration.jsonl"))?,
        additions: read_history(&folder.join("additions.jsonl"))?,
        sets: one(&folder.join("sets.json"))?,
        held: read_lines(&folder.join("locks.jsonl"))?,
        seen,
        by_address,
        till,
        alone: read_lines(&folder.join("alone.jsonl"))?,
        proxied: read_lines(&folder.join("proxied.jsonl"))?,
        stores: read_lines(&folder.join("stores.jsonl"))?,
        slow: read_lines(&folder.join("slow.jsonl"))?,
        decided,
        owners: observer::History::new(read_lines(&folder.join("ticks.jsonl"))?, whole.announced),
        moves_end_connections: whole.moves_end_connections,
        clock: whole.clock,
        options,
    })
}

/// Writes what was concluded. The verdict comes last, so that a folder that has it has all.
///
/// # Errors
/// When a file cannot be written.
pub fn judged(folder: &Path, run: &Run, report: &Report) -> Result<()> {
    let recoveries = Recoveries { writes: judge::writes_after(run), answers: judge::answers_after(run) };
    json(&folder.join(RECOVERIES), &recoveries)?;
    fs::write(folder.join("timeline.svg"), timeline::draw(&picture(run, report)))?;
    fs::write(folder.join("report.txt"), told(run, report))?;
    json(&folder.join(VERDICT), report)
}

/// What the picture shows.
fn picture(run: &Run, report: &Report) -> Timeline {
    let end = run.span.1;
    let second = |at: RunTime| (at.as_nanos() / 1_000_000_000) as usize;
    let mut picture = Timeline {
        title: report.title.clone(),
        seed: report.seed,
        end,
        faults: judge::faults(run),
        successes: vec![0; second(end) + 1],
        errors: vec![0; second(end) + 1],
        ..Timeline::default()
    };
    let mut lengths: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for operation in run.registers.operations().iter().filter(|operation| operation.completed <= end) {
        let at = second(operation.completed);
        if matches!(operation.outcome, Outcome::Ok(_)) {
            picture.successes[at] += 1;
            let took = operation.completed.since(operation.invoked).as_secs_f64() * 1000.0;
            lengths.entry(at).or_default().push(took);
        } else {
            picture.errors[at] += 1;
        }
    }
    for served in run.seen.served.iter().filter(|served| served.completed <= end) {
        picture.successes[second(served.completed)] += 1;
    }
    for vain in run.seen.failed.iter().filter(|vain| vain.span.until <= end) {
        picture.errors[second(vain.span.until)] += 1;
    }
    for (at, mut took) in lengths {
        took.sort_by(f64::total_cmp);
        let of = |per_cent: usize| took[(took.len() - 1) * per_cent / 100];
        picture.latencies.push(Latency {
            at: RunTime::from_millis(at as u64 * 1000 + 500),
            median_ms: of(50),
            p99_ms: of(99),
            max_ms: of(100),
        });
    }
    picture.owners.insert(VIP_NAME.to_owned(), judge::vip_owners(run));
    picture.leaders = leaders(run);
    picture
}

/// Who led when, by what nodes said: from the first to the last time that a node said so in a term.
fn leaders(run: &Run) -> Vec<(Span, String)> {
    let mut terms: BTreeMap<(u64, usize), (RunTime, RunTime)> = BTreeMap::new();
    for sample in run.samples.iter().filter(|sample| sample.leads) {
        let (_, until) = terms.entry((sample.term, sample.node)).or_insert((sample.at, sample.at));
        *until = sample.at;
    }
    terms.into_iter().map(|((_, node), (from, until))| (Span::new(from, until), judge::name(node))).collect()
}

/// The promises that a run said nothing about, a line each.
pub fn not_judged(report: &Report) -> String {
    report.not_judged().iter().map(|promise| format!("not judged {promise}\n")).collect()
}

/// For people.
fn told(run: &Run, report: &Report) -> String {
    let mut text = format!("{report}{}", not_judged(report));
    let mut line = |words: &str| {
        text.push_str(words);
        text.push('\n');
    };
    line("\nFaults:");
    for fault in &run.faults.faults {
        let not = if fault.came_about { "" } else { ", which did not come about" };
        line(&format!("{} to {}  {} of {}{not}", fault.from, fault.until, fault.kind, fault.victims.join(", ")));
    }
    line(&format!("{} bytes that were not synced were lost with the power of nodes", run.faults.bytes_lost));
    line("\nRequests of visitors that were not answered, by reason:");
    for (reason, count) in bindings::reasons(&run.seen.failed) {
        line(&format!("{count:6} {reason}"));
    }
    line("\nRequests of buyers and senders that were not answered, by reason:");
    for (reason, count) in bindings::reasons(&run.till.failed) {
        line(&format!("{count:6} {reason}"));
    }
    if !run.faults.complaints.is_empty() {
        line("\nWhat operators were told:");
        run.faults.complaints.iter().for_each(|complaint| line(complaint));
    }
    text
}

fn file(path: &Path) -> Result<BufWriter<File>> {
    Ok(BufWriter::new(File::create(path).with_context(|| format!("write {}", path.display()))?))
}

fn json(path: &Path, value: &(impl Serialize + ?Sized)) -> Result<()> {
    let mut file = file(path)?;
    serde_json::to_writer_pretty(&mut file, value)?;
    Ok(file.flush()?)
}

fn lines(path: &Path, values: &[impl Serialize]) -> Result<()> {
    let mut file = file(path)?;
    for value in values {
        serde_json::to_writer(&mut file, value)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

/// What a file of a run's folder says.
///
/// # Errors
/// When it is not there, or says something else.
pub fn one<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).with_context(|| unread(path))?;
    serde_json::from_slice(&bytes).with_context(|| format!("understand {}", path.display()))
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let lines = BufReader::new(File::open(path).with_context(|| unread(path))?).lines();
    let parse = |(number, line): (usize, std::io::Result<String>)| {
        serde_json::from_str(&line?).with_context(|| format!("understand line {} of {}", number + 1, path.display()))
    };
    lines.enumerate().map(parse).collect()
}

fn read_history<I: DeserializeOwned, O: DeserializeOwned>(path: &Path) -> Result<History<I, O>> {
    let file = BufReader::new(File::open(path).with_context(|| unread(path))?);
    History::read(file).with_context(|| format!("understand {}", path.display()))
}

fn unread(path: &Path) -> String {
    format!("read {}: not the folder of a run, or of one that a suite of old did not store as a whole?", path.display())
}
