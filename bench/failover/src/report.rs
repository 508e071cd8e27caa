//! Rows of figures: what is aimed at, the table on the screen, `results/failover.json`.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use ballast_testkit::machine::Machine;
use serde::Serialize;

use crate::{faults::Fault, repetition::Seen, samples::Measured, systems::Kind};

/// Longest gap that clients do not notice: the interval of requests and the noise of a shared machine.
const UNNOTICED_MS: f64 = 20.0;

/// Median and largest value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub median: f64,
    pub max: f64,
}

impl Summary {
    /// `None` without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], upper) } else { upper };
        Some(Self { median: round(median), max: round(*sorted.last()?) })
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// What is aimed at for the outage; absent where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Target {
    pub median: Option<f64>,
    pub max: Option<f64>,
}

impl Target {
    /// For a fault under a lease of that length.
    pub fn of(fault: Fault, lease_ms: f64) -> Self {
        let (median, max) = match fault {
            Fault::PowerOff
            | Fault::LinkDown
            | Fault::NodeFrozen
            | Fault::DaemonKilled
            | Fault::DaemonFrozen
            | Fault::OwnerDeaf
            | Fault::OwnerIsolated => (Some(lease_ms), Some(lease_ms + 50.0)),
            Fault::NodesCutOff | Fault::OwnerNotHeard => (Some(UNNOTICED_MS), None),
            Fault::PlannedMove => (Some(10.0), None),
            Fault::LeaderKilled => (Some(UNNOTICED_MS), Some(UNNOTICED_MS)),
            Fault::ProxyKilled | Fault::ProxyFrozen | Fault::Loss30 => (None, None),
        };
        Self { median, max }
    }

    fn met_by(self, outage: Summary) -> bool {
        self.median.is_none_or(|limit| outage.median <= limit) && self.max.is_none_or(|limit| outage.max <= limit)
    }
}

/// A system under a fault.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub system: String,
    pub fault: String,
    /// Of the checkout when they were measured, which may be several of the same sources.
    pub revisions: BTreeSet<String>,
    pub outage_ms: Summary,
    pub after_heal_ms: Summary,
    pub dual_ms: Summary,
    pub dual_after_heal_ms: Summary,
    pub dual_connections_ms: Summary,
    pub doubtful_ms: Summary,
    pub nobody_ms: Summary,
    pub failed_requests: Summary,
    pub open_connection_stall_ms: Summary,
    pub open_connection_failed: Summary,
    pub slowest_ms: Summary,
    pub announcements: Summary,
    pub flips: Summary,
    pub observer_missed_percent: Summary,
    /// For the outage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Whether the outage is what is aimed at, nobody was served by two, and healing was not noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
    pub repetitions: usize,
    /// Repetitions that could not be measured.
    pub not_measured: usize,
}

impl Row {
    /// From all repetitions; `None` without any.
    pub fn of(system: &Kind, fault: Fault, seen: &[Seen], not_measured: usize) -> Option<Self> {
        let of = |pick: fn(&Seen) -> f64| Summary::of(&seen.iter().map(pick).collect::<Vec<_>>());
        let target = system.lease_ms().map(|lease| Target::of(fault, lease.into()));
        let mut row = Self {
            system: system.to_string(),
            fault: fault.to_string(),
            revisions: BTreeSet::new(),
            outage_ms: of(|s| s.outage_ms)?,
            after_heal_ms: of(|s| s.after_heal_ms)?,
            dual_ms: of(|s| s.dual_ms)?,
            dual_after_heal_ms: of(|s| s.dual_after_heal_ms)?,
            dual_connections_ms: of(|s| s.dual_connections_ms)?,
            doubtful_ms: of(|s| s.doubtful_ms)?,
            nobody_ms: of(|s| s.nobody_ms)?,
            failed_requests: of(|s| s.failed_requests)?,
            open_connection_stall_ms: of(|s| s.open_connection_stall_ms)?,
            open_connection_failed: of(|s| s.open_connection_failed)?,
            slowest_ms: of(|s| s.slowest_ms)?,
            announcements: of(|s| s.announcements)?,
            flips: of(|s| s.flips)?,
            observer_missed_percent: of(|s| s.missed_percent)?,
            target,
            met: None,
            repetitions: seen.len(),
            not_measured,
        };
        row.met = target.map(|target| row.meets(target, fault));
        Some(row)
    }

    /// Which it is.
    pub fn name(&self) -> String {
        format!("{} under {}", self.system, self.fault)
    }

    fn meets(&self, target: Target, fault: Fault) -> bool {
        let planned = fault == Fault::PlannedMove;
        target.met_by(self.outage_ms)
            && self.dual_ms.max == 0.0
            && self.after_heal_ms.max <= UNNOTICED_MS
            && (!planned || self.failed_requests.max == 0.0)
    }
}

/// All rows, and what they were measured on.
#[derive(Serialize)]
pub struct Results<'a> {
    measured_at: u64,
    machine: &'a Machine,
    #[serde(flatten)]
    measured: &'a Measured,
    rows: &'a [Row],
}

impl<'a> Results<'a> {
    /// Of rows that were measured on this machine.
    pub fn new(machine: &'a Machine, measured: &'a Measured, rows: &'a [Row]) -> Self {
        let measured_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self { measured_at, machine, measured, rows }
    }

    /// Writes them, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let beside = file.with_extension("json.new");
        fs::write(&beside, serde_json::to_string_pretty(self)? + "\n")?;
        fs::rename(&beside, file).with_context(|| format!("write {}", file.display()))
    }
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> String {
    let mut text = "\
| fault | system | n | outage ms | after heal ms | two owners ms | failed requests | open connection: stall ms | failed | aim ms |
|---|---|---|---|---|---|---|---|---|---|
"
    .to_owned();
    for row in rows {
        let pair = |summary: Summary| format!("{:.0} ({:.0})", summary.median, summary.max);
        let mut dual = pair(row.dual_ms);
        if row.doubtful_ms.max > 0.0 {
            dual += &format!(", doubtful {}", pair(row.doubtful_ms));
        }
        let limit = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
        let aim = match (row.target, row.met) {
            (Some(target), Some(met)) => {
                let verdict = if met { "met" } else { "MISSED" };
                format!("{} ({}) {verdict}", limit(target.median), limit(target.max))
            }
            _ => String::new(),
        };
        text += &format!(
            "| {} | {} | {} | {} | {} | {dual} | {} | {} | {} | {aim} |\n",
            row.fault,
            row.system,
            row.repetitions,
            pair(row.outage_ms),
            pair(row.after_heal_ms),
            pair(row.failed_requests),
            pair(row.open_connection_stall_ms),
            pair(row.open_connection_failed),
        );
    }
    text + "\nMedian (worst) of all repetitions. Two owners: in two milliseconds in a row, in ARP, NDP or new connections.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fault: Fault, outages: &[f64], change: impl Fn(&mut Seen)) -> Row {
        let seen: Vec<Seen> = outages
            .iter()
            .map(|outage_ms| {
                let mut seen = Seen { outage_ms: *outage_ms, ..Seen::default() };
                change(&mut seen);
                seen
            })
            .collect();
        Row::of(&Kind::Ballast { fence: "ebpf", lease_ms: 200 }, fault, &seen, 0).unwrap()
    }

    #[test]
    fn a_summary_has_the_middle_and_the_largest() {
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]), Some(Summary { median: 2.0, max: 3.0 }));
        assert_eq!(Summary::of(&[4.0, 1.0]), Some(Summary { median: 2.5, max: 4.0 }));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn an_aim_is_met_by_median_and_worst_without_two_owners() {
        let met = |outages: &[f64]| row(Fault::PowerOff, outages, |_| {}).met;
        assert_eq!(met(&[180.0, 190.0, 240.0]), Some(true));
        assert_eq!(met(&[180.0, 190.0, 260.0]), Some(false));
        assert_eq!(met(&[180.0, 210.0, 240.0]), Some(false));
        assert_eq!(row(Fault::PowerOff, &[1.0], |seen| seen.dual_ms = 2.0).met, Some(false));
        assert_eq!(row(Fault::PowerOff, &[1.0], |seen| seen.after_heal_ms = 90.0).met, Some(false));
        assert_eq!(row(Fault::PlannedMove, &[1.0], |seen| seen.failed_requests = 1.0).met, Some(false));
    }

    #[test]
    fn keepalived_is_not_judged() {
        let row = Row::of(&Kind::Keepalived { advert_ms: 100 }, Fault::PowerOff, &[Seen::default()], 1).unwrap();
        assert_eq!((row.met, row.not_measured), (None, 1));
        assert!(table(&[row]).contains("| power-off | keepalived-100ms | 1 | 0 (0) |"));
    }
}
