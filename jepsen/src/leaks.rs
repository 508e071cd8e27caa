//! Nothing leaks: descriptors, memory and threads end about where they began.
//!
//! Memory breathes, so single samples say little. What is compared is the median of the last quarter of a run with that of
//! its first quarter (after a warm-up), and a rise counts only if it goes on: a step that comes early and stays is a cache
//! that filled.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::RunTime;
use crate::verdict::{Judgement, Promise};

/// Samples below which nothing is said of a series: a quarter is then a few.
const SAMPLES_MIN: usize = 16;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Open descriptors.
    Descriptors,
    /// Resident memory, in bytes.
    Resident,
    /// Threads.
    Threads,
}

/// One process, from its start to its end, and what it used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// The node.
    pub node: String,
    /// How often its process had been started.
    pub incarnation: u32,
    /// What was counted.
    pub resource: Resource,
    /// When and how much, in any order.
    pub samples: Vec<(RunTime, u64)>,
}

/// What may be used more at the end than at the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// That much more.
    pub absolute: u64,
    /// And so many thousandths of what was used at the beginning.
    pub per_mille: u64,
}

impl Tolerance {
    fn above(self, level: u64) -> u64 {
        self.absolute.saturating_add(level.saturating_mul(self.per_mille) / 1000)
    }
}

/// How a series went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trend {
    /// The medians of its quarters.
    pub quarters: [u64; 4],
    /// By how much it rose in an hour, from the middle of the first quarter to the middle of the last; less than zero if it
    /// fell.
    pub per_hour: i64,
    /// Whether that is a leak.
    pub leaks: bool,
}

/// Judges one series; `None` if it is too short to say.
pub fn trend(series: &Series, warm_up: Duration, tolerance: Tolerance) -> Option<Trend> {
    let mut samples = series.samples.clone();
    samples.sort_unstable();
    let started = samples.first()?.0;
    samples.retain(|(at, _)| *at >= started.after(warm_up));
    if samples.len() < SAMPLES_MIN {
        return None;
    }
    let quarter = |number: usize| &samples[samples.len() * number / 4..samples.len() * (number + 1) / 4];
    let quarters = [0, 1, 2, 3].map(|number| median(quarter(number)));
    let middle = |number: usize| quarter(number)[quarter(number).len() / 2].0;
    let [first, second, _, last] = quarters;
    let rise = i128::from(last) - i128::from(first);
    let span = middle(3).since(middle(0)).as_nanos().max(1);
    let per_hour = rise * 3_600_000_000_000 / i128::try_from(span).unwrap_or(i128::MAX);
    let tolerated = tolerance.above(first);
    // What rose in the first half only has filled, not leaked.
    let goes_on = last.saturating_sub(second) > tolerated / 2;
    Some(Trend {
        quarters,
        per_hour: i64::try_from(per_hour).unwrap_or(if rise > 0 { i64::MAX } else { i64::MIN }),
        leaks: last > first.saturating_add(tolerated) && goes_on,
    })
}

fn median(samples: &[(RunTime, u64)]) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(|(_, value)| *value).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Judges all series. Resources without a tolerance may not rise at all.
pub fn judge_leaks(series: &[Series], warm_up: Duration, tolerances: &BTreeMap<Resource, Tolerance>) -> Judgement {
    let mut judgement = Judgement::new(Promise::NoLeak);
    let (mut long, mut short) = (0, 0);
    for one in series {
        let tolerance = tolerances.get(&one.resource).copied().unwrap_or(Tolerance { absolute: 0, per_mille: 0 });
        let Some(Trend { quarters, per_hour, leaks }) = trend(one, warm_up, tolerance) else {
            short += 1;
            continue;
        };
        long += 1;
        if leaks {
            let Series { node, incarnation, resource, .. } = one;
            judgement.violated(format!(
                "{resource:?} of {node}, start {incarnation}, rose from {} by {per_hour} an hour: {quarters:?}",
                quarters[0]
            ));
        }
    }
    judgement.looked_at("series", long).count("series too short", short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Ruling;

    const TOLERANCE: Tolerance = Tolerance { absolute: 10, per_mille: 50 };

    /// A sample a minute.
    fn series(values: impl IntoIterator<Item = u64>) -> Series {
        let minute = |number: u64| RunTime::START.after(Duration::from_secs(60) * u32::try_from(number).unwrap());
        let samples = (0..).zip(values).map(|(number, value)| (minute(number), value)).collect();
        Series { node: String::from("a"), incarnation: 0, resource: Resource::Resident, samples }
    }

    fn leaks(values: impl IntoIterator<Item = u64>) -> bool {
        trend(&series(values), Duration::ZERO, TOLERANCE).unwrap().leaks
    }

    /// Noise between -8 and 8, the same each time.
    fn noisy(level: u64, number: u64) -> u64 {
        level + (number * 7919) % 17 - 8
    }

    #[test]
    fn what_breathes_does_not_leak() {
        assert!(!leaks((0..240).map(|number| noisy(100, number))));
        assert!(!leaks((0..240).map(|number| if number % 10 == 0 { 5000 } else { 100 })));
        assert!(!leaks((0..240).map(|number| 300 - number)));
    }

    #[test]
    fn what_filled_once_does_not_leak() {
        assert!(!leaks((0..240).map(|number| if number < 70 { 100 } else { 400 })));
    }

    #[test]
    fn what_grows_leaks_at_its_rate() {
        assert!(leaks((0..240).map(|number| noisy(100 + number / 2, number))));
        let trend = trend(&series((0..240).map(|number| 100 + number)), Duration::ZERO, TOLERANCE).unwrap();
        assert_eq!((trend.leaks, trend.per_hour), (true, 60));
        // Slowly, but beyond what is tolerated.
        assert!(leaks((0..240).map(|number| 1000 + number / 2)));
        assert!(!leaks((0..240).map(|number| 1000 + number / 5)));
    }

    #[test]
    fn the_warm_up_is_left_out() {
        let warm = series((0..240).map(|number| if number < 60 { number * 2 } else { 120 }));
        assert!(!trend(&warm, Duration::from_secs(3600), TOLERANCE).unwrap().leaks);
    }

    #[test]
    fn of_a_short_series_nothing_is_said() {
        let tolerances = BTreeMap::from([(Resource::Resident, TOLERANCE)]);
        let judge = |values: Vec<u64>| judge_leaks(&[series(values)], Duration::ZERO, &tolerances).ruling;
        assert_eq!(judge(vec![1; 15]), Ruling::Undecided);
        assert_eq!(judge(vec![1; 16]), Ruling::Held);
        assert_eq!(judge((0..240).map(|number| 100 + number).collect()), Ruling::Violated);
    }
}
