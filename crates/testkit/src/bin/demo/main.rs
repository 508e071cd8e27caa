//! The demo: a shop behind three Ballast nodes, and what its visitors notice when nodes die.
//!
//! Starts everything on loopback, narrates in plain words, kills the owner of the VIP and the
//! Raft leader with SIGKILL under continuous load, and judges what each visitor saw. Exits 0 only
//! if no visitor changed its backend and everyone was served again after each kill.

mod story;

use std::process::ExitCode;

use anyhow::Result;
use ballast_testkit::{interrupt, wait};
use clap::Parser;

/// A shop behind three Ballast nodes, and what its visitors notice when nodes die.
#[derive(Parser)]
struct Arguments {
    /// Run through once and exit, instead of staying up to be played with.
    #[arg(long)]
    once: bool,
    /// Visitors that shop all the time.
    #[arg(long, default_value_t = 24)]
    visitors: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    interrupt::listen();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let mut shop = story::Shop::open()?;
    let held = shop.kills(arguments.visitors)?;
    if !arguments.once {
        shop.stay_open(&wait::CALLED_OFF)?;
    }
    Ok(held)
}
