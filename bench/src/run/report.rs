//! Rows of results: the table on the screen and `results/latest.json`.
//!
//! The file is written anew after each case, so an interrupted run leaves what it measured. Rows of
//! cases that were not run stay in it, if they were measured on the same machine and kernel with
//! the same versions; otherwise the file begins afresh.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use ballast_testkit::machine::{self, Machine};
use serde::{Deserialize, Serialize};

use super::stage::{BALLAST, DIRECT};
use crate::stats::{Summary, ratio_by_round};

/// Programs whose versions are written down.
const PEERS: [(&str, &str); 4] =
    [("haproxy", "-v"), ("nginx", "-v"), ("etcd", "--version"), ("redis-server", "--version")];

/// One figure of Ballast beside the same figure of its peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Stable name.
    pub name: String,
    /// Unit of all values.
    pub unit: String,
    /// Ballast's; absent when only peers were measured.
    pub ballast: Option<Summary>,
    /// The peers', by name.
    pub peers: BTreeMap<String, Summary>,
    /// Median over the rounds of Ballast's value by the peer's in the same round.
    pub ratio: BTreeMap<String, f64>,
    /// Number of values behind each median.
    pub samples: usize,
    /// What has to be known to read it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// What was aimed at, and whether it was met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Judged>,
    /// Seconds since 1970.
    pub measured_at: u64,
}

/// A target and whether it was met.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// In words.
    pub text: String,
    /// By the median.
    pub met: bool,
}

impl Row {
    /// A row from the rounds of each subject, by name. Subjects without values are left out.
    pub fn of(name: &str, unit: &str, subjects: &[(&str, Vec<f64>)]) -> Self {
        let ours = subjects.iter().find(|(subject, _)| *subject == BALLAST).map(|(_, values)| values.as_slice());
        let peers = || subjects.iter().filter(|(subject, _)| *subject != BALLAST);
        let mut row = Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            ballast: ours.and_then(Summary::of),
            peers: peers().filter_map(|(peer, values)| Some(((*peer).to_owned(), Summary::of(values)?))).collect(),
            ratio: peers()
                .filter(|(peer, _)| *peer != DIRECT)
                .filter_map(|(peer, values)| Some(((*peer).to_owned(), ratio_by_round(ours?, values)?)))
                .collect(),
            samples: subjects.iter().map(|(_, values)| values.len()).max().unwrap_or(0),
            note: String::new(),
            target: None,
            measured_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
        };
        row.target = judge(&row);
        row
    }

    /// Without ratios, where values are differences that may be nothing or less.
    pub fn without_ratio(mut self) -> Self {
        self.ratio.clear();
        self
    }

    /// With something that has to be known.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// What is aimed at.
enum Aim {
    /// Ballast's value by the peer's.
    RatioAtMost(&'static str, f64),
    AtMost(f64),
    AtLeast(f64),
}

/// Targets by row. Where they come from: `docs/benchmarks.md`.
const AIMS: &[(&str, Aim)] = &[
    ("http1_keepalive", Aim::RatioAtMost("haproxy", 1.0)),
    ("http1_new_connection", Aim::RatioAtMost("haproxy", 1.1)),
    ("http1_body_100k", Aim::RatioAtMost("haproxy", 1.0)),
    ("http1_body_10m", Aim::RatioAtMost("haproxy", 1.0)),
    ("http1_table_hit_added", Aim::AtMost(1.5)),
    ("http1_idle_connection_bytes", Aim::AtMost(12.0 * 1024.0)),
    ("http1_first_binding_at_rest_p50", Aim::AtMost(1000.0)),
    ("bindings_committed_per_second", Aim::AtLeast(20_000.0)),
    ("consensus_cpu_per_binding", Aim::AtMost(50.0)),
    ("bindings_7m_resident_bytes", Aim::AtMost(1e9)),
    ("bindings_7m_restart_seconds", Aim::AtMost(20.0)),
    ("bindings_7m_restart_long_log_seconds", Aim::AtMost(20.0)),
    ("bindings_7m_new_node_filled_seconds", Aim::AtMost(60.0)),
    ("config_visible_everywhere_p99_ms", Aim::AtMost(100.0)),
];

fn judge(row: &Row) -> Option<Judged> {
    let (_, aim) = AIMS.iter().find(|(name, _)| *name == row.name)?;
    let (text, met) = match aim {
        Aim::RatioAtMost(peer, most) => (format!("<= {most} of {peer}"), *row.ratio.get(*peer)? <= *most),
        Aim::AtMost(most) => (format!("<= {most}"), row.ballast?.median <= *most),
        Aim::AtLeast(least) => (format!(">= {least}"), row.ballast?.median >= *least),
    };
    Some(Judged { text, met })
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Document {
    machine: Machine,
    versions: BTreeMap<String, String>,
    rows: Vec<Row>,
}

/// The results of a run as they come in.
pub struct Results {
    document: Document,
    file: Option<PathBuf>,
}

impl Results {
    /// Looks at the machine, and at what an earlier run left in `file`.
    ///
    /// # Errors
    /// When there is something in `file` that is no result.
    pub fn begin(file: Option<PathBuf>) -> Result<Self> {
        Self::continuing(file, Machine::look(), machine::versions(&PEERS))
    }

    fn continuing(file: Option<PathBuf>, machine: Machine, versions: BTreeMap<String, String>) -> Result<Self> {
        let mut document = Document { machine, versions, rows: Vec::new() };
        if let Some((file, text)) = file.as_ref().and_then(|file| Some((file, fs::read_to_string(file).ok()?))) {
            let earlier: Document = serde_json::from_str(&text)
                .with_context(|| format!("{} is no result of a bench; move it away", file.display()))?;
            if document.is_comparable(&earlier) {
                document.rows = earlier.rows;
            }
        }
        Ok(Self { document, file })
    }

    /// The machine and the versions, for the screen.
    pub fn heading(&self) -> String {
        self.document.heading()
    }

    /// Prints rows and puts them in place of those with the same name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, rows: Vec<Row>) -> Result<()> {
        print!("{}", table(&rows));
        for row in rows {
            match self.document.rows.iter_mut().find(|other| other.name == row.name) {
                Some(place) => *place = row,
                None => self.document.rows.push(row),
            }
        }
        let Some(file) = &self.file else { return Ok(()) };
        let text = serde_json::to_string_pretty(&self.document)? + "\n";
        fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }
}

impl Document {
    fn heading(&self) -> String {
        let versions: Vec<_> = self.versions.iter().map(|(name, version)| format!("  {name}: {version}")).collect();
        format!("{}\n{}", self.machine, versions.join("\n"))
    }

    /// Whether rows of `other` may stand in this file.
    fn is_comparable(&self, other: &Self) -> bool {
        self.machine == other.machine && self.versions == other.versions
    }
}

/// A results file as Markdown.
///
/// # Errors
/// When it cannot be read.
pub fn read(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}; `make bench` writes it", file.display()))?;
    let document: Document = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    Ok(format!("{}\n\n{}", document.heading(), table(&document.rows)))
}

/// Rows as a Markdown table.
pub fn table(rows: &[Row]) -> String {
    let mut text =
        String::from("| row | unit | Ballast | peers | ratio by round | target |\n|---|---|---:|---|---|---|\n");
    for row in rows {
        let ours = row.ballast.map_or_else(|| "-".to_owned(), |s| cell(&s));
        let peers: Vec<_> = row.peers.iter().map(|(peer, s)| format!("{peer} {}", cell(s))).collect();
        let ratios: Vec<_> = row.ratio.iter().map(|(peer, ratio)| format!("{peer} **{ratio:.2}**")).collect();
        let target = row
            .target
            .as_ref()
            .map_or_else(String::new, |t| format!("{} {}", t.text, if t.met { "met" } else { "MISSED" }));
        text += &format!(
            "| {} | {} | {ours} | {} | {} | {target} |\n",
            row.name,
            row.unit,
            peers.join("; "),
            ratios.join("; ")
        );
    }
    for row in rows.iter().filter(|row| !row.note.is_empty()) {
        text += &format!("\n{}: {}\n", row.name, row.note);
    }
    text
}

fn cell(summary: &Summary) -> String {
    format!("{} [{}-{}]", number(summary.median), number(summary.min), number(summary.max))
}

/// Three significant digits below 1000, thousands apart above.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => {
            let digits = format!("{:.0}", value.abs());
            let grouped: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
            format!("{}{}", if value < 0.0 { "-" } else { "" }, grouped.join(","))
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ours: &[f64], theirs: &[f64]) -> Row {
        Row::of(name, "us", &[("haproxy", theirs.to_vec()), (BALLAST, ours.to_vec()), ("nginx", Vec::new())])
    }

    #[test]
    fn a_row_has_our_figure_the_peers_and_the_ratio_by_round() {
        let row = row("http1_keepalive", &[9.0, 18.0, 10.0], &[10.0, 20.0, 10.0]);
        assert_eq!(row.ballast, Some(Summary { median: 10.0, min: 9.0, max: 18.0 }));
        assert_eq!(row.peers.len(), 1, "a peer without values is left out");
        assert_eq!(row.ratio["haproxy"], 0.9);
        assert_eq!(row.target, Some(Judged { text: "<= 1 of haproxy".to_owned(), met: true }));
    }

    #[test]
    fn targets_are_judged_by_the_median() {
        assert!(!row("http1_keepalive", &[12.0], &[10.0]).target.unwrap().met);
        assert!(row("bindings_committed_per_second", &[1.0, 20_000.0, 30_000.0], &[]).target.unwrap().met);
        assert!(!row("bindings_7m_resident_bytes", &[1.1e9], &[]).target.unwrap().met);
        assert_eq!(row("http1_keepalive", &[], &[10.0]).target, None, "nothing to judge without Ballast");
    }

    #[test]
    fn the_file_has_the_form_that_is_promised() {
        let row = row("http1_keepalive", &[9.0], &[10.0]);
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!(json["ballast"]["median"], 9.0);
        assert_eq!(json["peers"]["haproxy"]["max"], 10.0);
        assert_eq!(json["ratio"]["haproxy"], 0.9);
        assert_eq!(serde_json::from_value::<Row>(json).unwrap(), row);
    }

    #[test]
    fn a_later_run_replaces_its_own_rows_and_keeps_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("latest.json");
        let machine = Machine::look();
        let run = |version: &str, rows: Vec<Row>| {
            let versions = BTreeMap::from([("ballast".to_owned(), version.to_owned())]);
            Results::continuing(Some(file.clone()), machine.clone(), versions)?.add(rows)?;
            let read: Document = serde_json::from_str(&fs::read_to_string(&file)?)?;
            anyhow::Ok(read.rows.iter().map(|r| (r.name.clone(), r.ballast.unwrap().median)).collect::<Vec<_>>())
        };
        run("1", vec![row("a", &[1.0], &[]), row("b", &[2.0], &[])]).unwrap();
        let both = run("1", vec![row("b", &[3.0], &[])]).unwrap();
        assert_eq!(both, [("a".to_owned(), 1.0), ("b".to_owned(), 3.0)]);
        let other_version = run("2", vec![row("c", &[4.0], &[])]).unwrap();
        assert_eq!(other_version, [("c".to_owned(), 4.0)]);

        fs::write(&file, "not a result").unwrap();
        assert!(run("2", Vec::new()).is_err());
    }

    #[test]
    fn numbers_are_short() {
        let text: Vec<_> = [0.123, 12.345, 123.45, 1234.5, 987_654_321.0, -1234.0].map(number).to_vec();
        assert_eq!(text, ["0.12", "12.3", "123", "1,234", "987,654,321", "-1,234"]);
    }
}
