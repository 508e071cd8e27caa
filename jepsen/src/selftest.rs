//! Shows that the suite can fail: each planted bug must be found by the checker that is meant to find it.

use std::{fs, os::unix::fs::symlink, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use ballast_jepsen::verdict::{Promise, Report, Ruling};
use ballast_testkit::{cluster, interrupt};
use clap::Args;

/// A bug, and how it is looked for.
struct Hunt {
    bug: &'static str,
    /// Promises of which one must be found broken.
    promises: &'static [Promise],
    /// Faults under which it shows.
    faults: &'static str,
    /// Whom they befall; anybody if empty.
    whom: &'static str,
}

const HUNTS: [Hunt; 6] = [
    Hunt {
        bug: "reads-without-read-index",
        promises: &[Promise::Sessions],
        faults: "pause,isolate,split,one-way,loss",
        whom: "",
    },
    Hunt {
        bug: "binding-forwarded-before-commit",
        promises: &[Promise::Sticky],
        faults: "split,pause,loss,isolate",
        whom: "",
    },
    // The owner's answers are late by more than what clocks may differ when it is cut off from the others.
    Hunt { bug: "lease-timed-from-receipt", promises: &[Promise::OneOwner], faults: "delay,split", whom: "owner" },
    Hunt {
        bug: "unsynced-log",
        promises: &[Promise::Durable, Promise::Sessions, Promise::ReplicasEqual],
        faults: "black-out,power-off",
        whom: "",
    },
    Hunt {
        bug: "purge-past-snapshot",
        promises: &[Promise::ComesBack, Promise::Durable, Promise::ReplicasEqual],
        faults: "snapshot,kill-all",
        whom: "",
    },
    Hunt { bug: "fence-open-at-start", promises: &[Promise::OneOwner], faults: "kill,restart,move-vip", whom: "" },
];

#[derive(Args)]
pub struct SelftestOptions {
    /// Only these bugs.
    #[arg(long, value_delimiter = ',')]
    bugs: Vec<String>,
    /// How long each is looked for, in seconds, in runs of one minute.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Folder in which each run gets one of its own.
    #[arg(long, default_value = "target/chaos/selftest")]
    output: PathBuf,
}

const RUN_SECONDS: u64 = 60;

/// Whether all were found.
///
/// # Errors
/// When there is no build with planted bugs, or a run could not be had.
pub fn run(options: &SelftestOptions) -> Result<bool> {
    let bin = cluster::bin_dir()?;
    let planted = bin.join("ballastd-planted");
    if !planted.is_file() {
        bail!("there is no {}; run `make chaos-selftest`, which builds it", planted.display());
    }
    let folder = tempfile::tempdir()?;
    symlink(planted.canonicalize()?, folder.path().join("ballastd"))?;
    symlink(bin.join("ballastctl").canonicalize()?, folder.path().join("ballastctl"))?;
    let mut missed = Vec::new();
    for hunt in HUNTS.iter().filter(|hunt| options.bugs.is_empty() || options.bugs.iter().any(|bug| bug == hunt.bug)) {
        let mut found = None;
        for round in 0..options.seconds.div_ceil(RUN_SECONDS) {
            let output = options.output.join(hunt.bug);
            let seed = 1000 + round;
            let mut run = Command::new(std::env::current_exe()?);
            run.args(["run", "--nodes", "3", "--seconds", &RUN_SECONDS.to_string(), "--faults", hunt.faults])
                .args(["--seed", &seed.to_string(), "--output"])
                .arg(&output)
                .args([["--whom", hunt.whom]].iter().filter(|_| !hunt.whom.is_empty()).flatten())
                .env("BALLAST_BIN_DIR", folder.path())
                .env("BALLAST_PLANTED", hunt.bug);
            let status = interrupt::run(run)?;
            if interrupt::came() {
                bail!("called off while {} was looked for", hunt.bug);
            }
            if status.code() != Some(1) {
                continue;
            }
            let newest = newest(&output, seed)?;
            let report: Report = serde_json::from_slice(&fs::read(newest.join("verdict.json"))?)?;
            found = report
                .judgements
                .into_iter()
                .find(|judgement| judgement.ruling == Ruling::Violated && hunt.promises.contains(&judgement.promise));
            if found.is_some() {
                break;
            }
        }
        match found {
            Some(judgement) => println!("{}: found by {}", hunt.bug, judgement.promise),
            None => {
                println!("{}: NOT FOUND", hunt.bug);
                missed.push(hunt.bug);
            }
        }
    }
    println!(
        "{}",
        if missed.is_empty() {
            "every planted bug was found".to_owned()
        } else {
            format!("not found: {}", missed.join(", "))
        }
    );
    Ok(missed.is_empty())
}

/// The newest folder of a seed.
fn newest(output: &std::path::Path, seed: u64) -> Result<PathBuf> {
    let of_seed = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == format!("seed-{seed}") || name.starts_with(&format!("seed-{seed}-"))
    };
    let folders = fs::read_dir(output)?.filter_map(|entry| Some(entry.ok()?.path())).filter(of_seed);
    folders.max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok()).context("the run left no folder")
}
