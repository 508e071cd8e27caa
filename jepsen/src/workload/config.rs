//! The configuration document as one register with a version: read the newest revision, replace it if nobody did meanwhile.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::{
    history::{Outcome, Recorder},
    models::{ConfigInput, ConfigOutput},
    time::RunTime,
};
use ballast_testkit::{
    cluster::{Operator, Said},
    wait,
};
use serde_json::Value;

use super::Clients;
use crate::{clock::Clock, plan::Random, site::Site};

const CLIENTS: usize = 2;
/// The object's name in the history.
const DOCUMENT: &str = "document";
/// Where a value goes in the document.
const MARK: &str = "the-value";
/// `ballastctl`'s exit code for a revision that is not in force.
const CONFLICT: i32 = 4;
/// Its exit code when nothing was changed because nobody answered, or there was no quorum.
const UNAVAILABLE: i32 = 6;

/// What operators asked.
pub type Changes = Recorder<ConfigInput, ConfigOutput>;

/// Lets operators change the document in turn. Its value is the message of its revision.
///
/// # Errors
/// When the client network cannot be entered, or the document that is there to begin with cannot be read.
pub fn start(site: &Site, clock: Clock, seed: u64, recorder: &Arc<Changes>) -> Result<Clients> {
    let (operator, recorder, nodes) = (site.cluster.operator(), Arc::clone(recorder), site.nodes() as u64);
    // What is there to begin with was written by somebody, too. Without it, the first read would tell of what nobody wrote.
    let (version, value) = wait::until("the first revision to be told", || Ok(newest(&operator, 0)))?;
    let mut log = recorder.client();
    let written = log.invoke(RunTime::START, DOCUMENT, ConfigInput::Write { value });
    written.ok(clock.now(), ConfigOutput::Written { version });
    // A text for each value would hold the site; a mark is put in its place instead.
    let (document, folder) = (site.document(MARK), site.cluster.folder().to_owned());
    Clients::start(&site.guests, CLIENTS, move |number, stop| {
        let mut log = recorder.client();
        let mut random = Random(seed ^ number as u64 ^ 0xc0f1);
        let file = folder.join(format!("operator-{number}.yaml"));
        let (mut known, mut turn) = (0u64, 0u64);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100 + random.below(300)));
            let node = random.below(nodes) as usize;
            turn += 1;
            if known == 0 || random.below(2) == 0 {
                let pending = log.invoke(clock.now(), DOCUMENT, ConfigInput::Read);
                match newest(&operator, node) {
                    Some((version, value)) => {
                        known = version;
                        pending.ok(clock.now(), ConfigOutput::Found { version, value });
                    }
                    None => pending.fail(clock.now(), "no answer"),
                }
                continue;
            }
            let value = format!("{number}-{turn}");
            // What changes nothing makes no revision.
            if fs::write(&file, document.replace(MARK, &value)).is_err() {
                continue;
            }
            let input = ConfigInput::Cas { expected: known, value: value.clone() };
            let (expected, path) = (known.to_string(), file.display().to_string());
            let words = ["apply", "-f", &path, "--expect", &expected, "-m", &value, "-o", "json", "--timeout", "3s"];
            let pending = log.invoke(clock.now(), DOCUMENT, input);
            match operator.ctl(node, &words) {
                Ok(said) => match outcome(&said) {
                    Outcome::Ok(output) => {
                        // Another one is in force, and nobody said which.
                        known = if let ConfigOutput::Written { version } = output { version } else { 0 };
                        pending.ok(clock.now(), output);
                    }
                    Outcome::Fail => pending.fail(clock.now(), note(&said)),
                    Outcome::Unknown => pending.unknown(clock.now(), note(&said)),
                },
                Err(error) => pending.unknown(clock.now(), format!("{error:#}")),
            }
        }
    })
}

/// What became of a change, by what was said of it.
fn outcome(said: &Said) -> Outcome<ConfigOutput> {
    match said.code {
        0 => revision(&said.out).map_or(Outcome::Unknown, |version| Outcome::Ok(ConfigOutput::Written { version })),
        CONFLICT => Outcome::Ok(ConfigOutput::Conflict),
        UNAVAILABLE => Outcome::Fail,
        _ => Outcome::Unknown,
    }
}

fn note(said: &Said) -> String {
    format!("exit {}: {}{}", said.code, said.out.trim(), said.err.trim())
}

/// The newest revision that a node tells, and its message.
fn newest(operator: &Operator, node: usize) -> Option<(u64, String)> {
    let said = operator.ctl(node, &["history", "--limit", "1", "-o", "json", "--timeout", "3s"]).ok()?;
    let list: Value = serde_json::from_str(&said.out).ok().filter(|_| said.code == 0)?;
    let entry = list.as_array()?.first()?;
    let version = entry["revision"].as_u64()?;
    Some((version, entry["message"].as_str().unwrap_or_default().to_owned()))
}

fn revision(out: &str) -> Option<u64> {
    serde_json::from_str::<Value>(out).ok()?["revision"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_refused_where_nobody_could_be_asked_and_may_have_been_made_after_any_other_failure() {
        let of = |code, out: &str| outcome(&Said { code, out: out.to_owned(), err: String::new() });
        assert_eq!(of(0, r#"{"revision": 7}"#), Outcome::Ok(ConfigOutput::Written { version: 7 }));
        assert_eq!(of(0, "applied"), Outcome::Unknown);
        assert_eq!(of(CONFLICT, ""), Outcome::Ok(ConfigOutput::Conflict));
        assert_eq!(of(UNAVAILABLE, ""), Outcome::Fail);
        for code in [1, 2, 3, 5, 7, 8, 9] {
            assert_eq!(of(code, ""), Outcome::Unknown, "exit {code}");
        }
    }
}
