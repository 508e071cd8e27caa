//! Repetitions that are over, in a file if wanted, so that a run can go on where another one ended.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{faults::Fault, repetition::Seen, report::Row, systems::Kind};

/// One repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    system: String,
    fault: String,
    /// Absent when it could not be measured.
    seen: Option<Seen>,
}

impl Sample {
    /// Of a system under a fault.
    pub fn new(kind: &Kind, fault: Fault, seen: Option<Seen>) -> Self {
        Self { system: kind.to_string(), fault: fault.to_string(), seen }
    }
}

/// All repetitions so far.
#[derive(Debug, Default)]
pub struct Samples {
    all: Vec<Sample>,
    file: Option<File>,
}

/// First line of the file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    versions: BTreeMap<String, String>,
}

impl Samples {
    /// Those of `file`, which grows by what is added; without one they are only remembered.
    ///
    /// # Errors
    /// When the file cannot be read and written, is not one of these, or comes from other versions of the systems: figures of
    /// two builds in one row would be those of neither.
    pub fn open(file: Option<&Path>, versions: &BTreeMap<String, String>) -> Result<Self> {
        let Some(path) = file else { return Ok(Self::default()) };
        let told = || format!("samples in {}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(told)?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(told)?;
        let head = Head { versions: versions.clone() };
        let mut lines = text.lines();
        let Some(first) = lines.next() else {
            writeln!(file, "{}", serde_json::to_string(&head)?).with_context(told)?;
            return Ok(Self { all: Vec::new(), file: Some(file) });
        };
        let found: Head = serde_json::from_str(first).with_context(told)?;
        ensure!(
            found == head,
            "{} are of other versions ({:?}, not {:?}); name another file",
            told(),
            found.versions,
            head.versions
        );
        // A run that was killed may have left half a line.
        let whole = if text.ends_with('\n') { text.len() } else { text.rfind('\n').map_or(0, |end| end + 1) };
        file.set_len(whole as u64).with_context(told)?;
        let rest = &text[first.len() + 1..whole.max(first.len() + 1)];
        let all = rest.lines().map(serde_json::from_str).collect::<Result<_, _>>().with_context(told)?;
        Ok(Self { all, file: Some(file) })
    }

    /// Notes one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, sample: Sample) -> Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{}", serde_json::to_string(&sample)?).context("note a repetition")?;
        }
        self.all.push(sample);
        Ok(())
    }

    /// Rows of these faults and systems, as far as there are repetitions.
    pub fn rows(&self, faults: &[Fault], kinds: &[Kind]) -> Vec<Row> {
        let row = |fault: &Fault, kind: &Kind| {
            let (system, name) = (kind.to_string(), fault.to_string());
            let of_both = || self.all.iter().filter(|sample| sample.system == system && sample.fault == name);
            let seen: Vec<Seen> = of_both().filter_map(|sample| sample.seen).collect();
            Row::of(kind, *fault, &seen, of_both().count() - seen.len())
        };
        faults.iter().flat_map(|fault| kinds.iter().filter_map(move |kind| row(fault, kind))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind::Ballast { fence: "ebpf", lease_ms: 200 };

    fn versions(ballast: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("ballast".to_owned(), ballast.to_owned())])
    }

    #[test]
    fn a_later_run_counts_what_an_earlier_one_measured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.jsonl");
        let open = |version| Samples::open(Some(&path), &versions(version));
        let seen = |outage_ms| Some(Seen { outage_ms, ..Seen::default() });
        for outage in [1.0, 3.0] {
            open("1").unwrap().add(Sample::new(&KIND, Fault::PowerOff, seen(outage))).unwrap();
        }
        open("1").unwrap().add(Sample::new(&KIND, Fault::PowerOff, None)).unwrap();
        // Half a line.
        std::io::Write::write_all(&mut OpenOptions::new().append(true).open(&path).unwrap(), b"{\"sys").unwrap();
        let mut samples = open("1").unwrap();
        samples.add(Sample::new(&KIND, Fault::LinkDown, seen(5.0))).unwrap();
        drop(samples);
        let rows = open("1").unwrap().rows(&[Fault::PowerOff, Fault::LinkDown, Fault::Loss30], &[KIND]);
        let shown: Vec<_> = rows.iter().map(|row| (row.repetitions, row.not_measured, row.outage_ms.max)).collect();
        assert_eq!(shown, [(2, 1, 3.0), (1, 0, 5.0)]);
        let refused = open("2").unwrap_err().to_string();
        assert!(refused.contains("other versions"), "{refused}");
    }
}
