//! Repetitions that are over, in a file if wanted, so that a run can go on where another one ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{faults::Fault, repetition::Seen, report::Row, systems::Kind};

/// One repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    system: String,
    fault: String,
    /// Of the checkout when it was measured.
    revision: String,
    /// Absent when it could not be measured.
    seen: Option<Seen>,
}

/// All repetitions so far.
#[derive(Debug)]
pub struct Samples {
    all: Vec<Sample>,
    revision: String,
    file: Option<File>,
}

/// What is measured; the first line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Of the systems, by their names.
    pub versions: BTreeMap<String, String>,
    /// Digest of what Ballast and this program are made from.
    pub sources: String,
    /// The checkout's. Told and not compared: it changes with every document.
    pub revision: String,
}

impl Measured {
    /// Why repetitions of this and of what is measured `now` do not belong in one row.
    fn differs(&self, now: &Self) -> Option<String> {
        if self.versions != now.versions {
            return Some(format!("of other versions ({:?}, not {:?})", self.versions, now.versions));
        }
        (self.sources != now.sources).then(|| {
            format!(
                "of other sources: {} at revision {}, which are {} at {} now",
                self.sources, self.revision, now.sources, now.revision
            )
        })
    }
}

impl Samples {
    /// None yet; those to come are remembered only.
    pub fn remembered(revision: &str) -> Self {
        Self { all: Vec::new(), revision: revision.to_owned(), file: None }
    }

    /// Those of a file, which grows by what is added.
    ///
    /// # Errors
    /// When the file cannot be read and written, is not one of these, or comes from other versions of the systems or from
    /// other sources: figures of two builds in one row would be those of neither.
    pub fn open(path: &Path, measured: &Measured) -> Result<Self> {
        let told = || format!("samples in {}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(told)?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(told)?;
        let revision = measured.revision.clone();
        let mut lines = text.lines();
        let Some(first) = lines.next() else {
            writeln!(file, "{}", serde_json::to_string(measured)?).with_context(told)?;
            return Ok(Self { all: Vec::new(), revision, file: Some(file) });
        };
        let found: Measured = serde_json::from_str(first)
            .with_context(|| format!("{} do not say what was measured; name another file", told()))?;
        if let Some(why) = found.differs(measured) {
            bail!("{} are {why}; name another file, or check out what they were measured of", told());
        }
        // A run that was killed may have left half a line.
        let whole = if text.ends_with('\n') { text.len() } else { text.rfind('\n').map_or(0, |end| end + 1) };
        file.set_len(whole as u64).with_context(told)?;
        let rest = &text[first.len() + 1..whole.max(first.len() + 1)];
        let all = rest.lines().map(serde_json::from_str).collect::<Result<_, _>>().with_context(told)?;
        Ok(Self { all, revision, file: Some(file) })
    }

    /// Notes one, of a system under a fault; nothing was seen of what could not be measured.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, kind: &Kind, fault: Fault, seen: Option<Seen>) -> Result<()> {
        let (system, fault) = (kind.to_string(), fault.to_string());
        let sample = Sample { system, fault, revision: self.revision.clone(), seen };
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
            let revisions: BTreeSet<String> = of_both().map(|sample| sample.revision.clone()).collect();
            Row::of(kind, *fault, &seen, of_both().count() - seen.len()).map(|row| Row { revisions, ..row })
        };
        faults.iter().flat_map(|fault| kinds.iter().filter_map(move |kind| row(fault, kind))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind::Ballast { fence: "ebpf", lease_ms: 200 };

    fn measured(version: &str, sources: &str, revision: &str) -> Measured {
        let versions = BTreeMap::from([("ballast".to_owned(), version.to_owned())]);
        Measured { versions, sources: sources.to_owned(), revision: revision.to_owned() }
    }

    #[test]
    fn a_later_run_counts_what_an_earlier_one_measured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.jsonl");
        let open = |revision| Samples::open(&path, &measured("1", "feed", revision));
        let seen = |outage_ms| Some(Seen { outage_ms, ..Seen::default() });
        for outage in [1.0, 3.0] {
            open("a").unwrap().add(&KIND, Fault::PowerOff, seen(outage)).unwrap();
        }
        open("b").unwrap().add(&KIND, Fault::PowerOff, None).unwrap();
        // Half a line.
        std::io::Write::write_all(&mut OpenOptions::new().append(true).open(&path).unwrap(), b"{\"sys").unwrap();
        let mut samples = open("b").unwrap();
        samples.add(&KIND, Fault::LinkDown, seen(5.0)).unwrap();
        drop(samples);
        let rows = open("c").unwrap().rows(&[Fault::PowerOff, Fault::LinkDown, Fault::Loss30], &[KIND]);
        let shown: Vec<_> = rows.iter().map(|row| (row.repetitions, row.not_measured, row.outage_ms.max)).collect();
        assert_eq!(shown, [(2, 1, 3.0), (1, 0, 5.0)]);
        let revisions: Vec<Vec<&str>> =
            rows.iter().map(|row| row.revisions.iter().map(String::as_str).collect()).collect();
        assert_eq!(revisions, [vec!["a", "b"], vec!["b"]]);
    }

    #[test]
    fn another_build_is_not_mixed_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.jsonl");
        drop(Samples::open(&path, &measured("1", "feed", "a")).unwrap());
        let refused = |measured: Measured| Samples::open(&path, &measured).unwrap_err().to_string();
        let versions = refused(measured("2", "feed", "a"));
        assert!(versions.contains("are of other versions"), "{versions}");
        let sources = refused(measured("1", "beef", "b"));
        assert!(sources.contains("of other sources: feed at revision a, which are beef at b now; name"), "{sources}");
        std::fs::write(&path, "{\"versions\":{}}\n").unwrap();
        let unknown = refused(measured("1", "feed", "a"));
        assert!(unknown.contains("do not say what was measured; name another file"), "{unknown}");
    }

    #[test]
    fn what_is_only_remembered_counts() {
        let mut samples = Samples::remembered("a");
        samples.add(&KIND, Fault::PowerOff, Some(Seen::default())).unwrap();
        assert_eq!(samples.rows(&[Fault::PowerOff], &[KIND])[0].repetitions, 1);
    }
}
