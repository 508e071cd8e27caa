//! A picture of a run: what was broken when, who owned and led, what clients felt.
//!
//! A function from data to the text of an SVG file, which browsers and READMEs show. Lanes lie under each other on one axis of
//! time, so that a look from top to bottom tells what a fault did.

mod svg;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write;

use self::svg::{Anchor, Svg};
use crate::recovery::Fault;
use crate::time::{RunTime, Span};

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 64.0;
const LANE: f64 = 22.0;
const GAP: f64 = 14.0;
const CHART: f64 = 110.0;

/// Colours that the colour-blind tell apart (Okabe and Ito 2008), for nodes.
const NODES: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999933"];
/// For faults.
const FAULTS: [&str; 6] = ["#b2182b", "#d6604d", "#762a83", "#8c510a", "#7f7f7f", "#c51b7d"];

/// Latencies in a slice of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// The middle of the slice.
    pub at: RunTime,
    /// What half of the operations took at most, in milliseconds.
    pub median_ms: f64,
    /// What 99 in a hundred took at most, in milliseconds.
    pub p99_ms: f64,
    /// The longest, in milliseconds.
    pub max_ms: f64,
}

/// What happened in a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// What was run.
    pub title: String,
    /// The seed from which it can be run again.
    pub seed: u64,
    /// When it ended.
    pub end: RunTime,
    /// What was broken.
    pub faults: Vec<Fault>,
    /// For each VIP when which node owned it. Spans of two nodes that overlap are marked.
    pub owners: BTreeMap<String, Vec<(Span, String)>>,
    /// When which node led.
    pub leaders: Vec<(Span, String)>,
    /// Operations that succeeded, in each second from the start on.
    pub successes: Vec<u64>,
    /// Operations that failed or of which the outcome is unknown, in each second from the start on.
    pub errors: Vec<u64>,
    /// In the order of time.
    pub latencies: Vec<Latency>,
}

/// Draws it as the text of an SVG file.
pub fn draw(run: &Timeline) -> String {
    Drawing::new(run).finish()
}

struct Drawing<'a> {
    run: &'a Timeline,
    svg: Svg,
    y: f64,
    colours: BTreeMap<&'a str, &'static str>,
}

impl<'a> Drawing<'a> {
    fn new(run: &'a Timeline) -> Self {
        let owners = run.owners.values().flatten().map(|(_, node)| node.as_str());
        let names: std::collections::BTreeSet<_> =
            owners.chain(run.leaders.iter().map(|(_, node)| node.as_str())).collect();
        let colours = names.into_iter().zip(NODES.into_iter().cycle()).collect();
        Self { run, svg: Svg::default(), y: TOP, colours }
    }

    fn finish(mut self) -> String {
        let run = self.run;
        self.faults();
        for (vip, spans) in &run.owners {
            self.nodes(&format!("owner of {vip}"), spans);
            self.disputes(spans);
        }
        if !run.leaders.is_empty() {
            self.nodes("leader", &run.leaders);
        }
        self.y += GAP;
        self.rates();
        self.latencies();
        self.axis();
        let height = self.legend();
        let title = format!("{} (seed {})", run.title, run.seed);
        self.svg.text(LEFT, 28.0, 17, Anchor::Start, &title);
        self.svg.finish(WIDTH, height, &title)
    }

    /// Where an instant is.
    fn x(&self, at: RunTime) -> f64 {
        let end = self.run.end.as_secs_f64().max(1e-9);
        LEFT + (WIDTH - LEFT - RIGHT) * (at.as_secs_f64().min(end) / end)
    }

    /// A bar, wide enough to be seen.
    fn bar(&mut self, span: Span, y: f64, height: f64, colour: &str, tip: &str) {
        let (from, until) = (self.x(span.from), self.x(span.until));
        self.svg.bar((from, y), ((until - from).max(1.5), height), colour, tip);
    }

    /// One lane a kind, in the order in which they first came; bars that overlap are told apart by their shade.
    fn faults(&mut self) {
        let run = self.run;
        let mut kinds: Vec<&str> = Vec::new();
        let mut faults: Vec<&Fault> = run.faults.iter().collect();
        faults.sort_by_key(|fault| fault.span);
        for fault in &faults {
            if !kinds.contains(&fault.kind.as_str()) {
                kinds.push(&fault.kind);
            }
        }
        for (kind, colour) in kinds.into_iter().zip(FAULTS.into_iter().cycle()) {
            self.name(kind);
            for fault in faults.iter().filter(|fault| fault.kind == kind) {
                let tip = format!("{kind} {}, {}", fault.detail, fault.span);
                self.bar(fault.span, self.y + 3.0, LANE - 6.0, colour, &tip);
            }
            self.y += LANE;
        }
        self.y += GAP;
    }

    fn nodes(&mut self, name: &str, spans: &[(Span, String)]) {
        self.name(name);
        for (span, node) in spans {
            let colour = self.colours[node.as_str()];
            self.bar(*span, self.y + 3.0, LANE - 6.0, colour, &format!("{node}, {span}"));
        }
        self.y += LANE;
    }

    /// Marks in red, over the lane that was just drawn, where two nodes owned at once.
    fn disputes(&mut self, spans: &[(Span, String)]) {
        for (index, (span, node)) in spans.iter().enumerate() {
            for (other_span, other) in &spans[index + 1..] {
                let common = span.intersection(*other_span).filter(|common| common.from < common.until);
                if let Some(common) = common.filter(|_| node != other) {
                    let tip = format!("TWO OWNERS: {node} and {other}, {common}");
                    self.bar(common, self.y - LANE, LANE, "#ff0000", &tip);
                }
            }
        }
    }

    /// Successes as a line and errors as bars, each on a scale of its own.
    fn rates(&mut self) {
        let run = self.run;
        let most = |rates: &[u64]| rates.iter().copied().max().unwrap_or(0).max(1);
        let (bottom, errors_most, successes_most) = (self.y + CHART, most(&run.errors), most(&run.successes));
        self.frame("per second");
        self.svg.text(LEFT - 8.0, self.y + 30.0, 10, Anchor::End, &format!("errors, to {errors_most}"));
        self.svg.text(LEFT - 8.0, self.y + 44.0, 10, Anchor::End, &format!("successes, to {successes_most}"));
        let second = |number: usize| RunTime::from_millis(number as u64 * 1000);
        for (number, errors) in run.errors.iter().enumerate().filter(|(_, errors)| **errors > 0) {
            let height = (CHART - 6.0) * (*errors as f64 / errors_most as f64);
            let span = Span::new(second(number), second(number + 1));
            self.bar(span, bottom - height, height, "#d7301f", &format!("{errors} errors in second {number}"));
        }
        let point = |(number, rate): (usize, &u64)| {
            let middle = second(number).after(std::time::Duration::from_millis(500));
            (self.x(middle), bottom - (CHART - 6.0) * (*rate as f64 / successes_most as f64))
        };
        let points: Vec<_> = run.successes.iter().enumerate().map(point).collect();
        self.svg.line(&points, "#238b45");
        self.y = bottom + GAP;
    }

    /// On a logarithmic scale of whole decades.
    fn latencies(&mut self) {
        let run = self.run;
        let bottom = self.y + CHART;
        self.frame("latency");
        let all = || run.latencies.iter().flat_map(|slice| [slice.median_ms, slice.p99_ms, slice.max_ms]);
        let positive = || all().filter(|ms| ms.is_finite() && *ms > 0.0);
        let low = positive().fold(f64::INFINITY, f64::min).log10().floor();
        let high = positive().fold(0.0, f64::max).log10().ceil().max(low + 1.0);
        if !low.is_finite() || !high.is_finite() {
            self.y = bottom + GAP;
            return;
        }
        let y = |ms: f64| bottom - (CHART - 6.0) * ((ms.max(1e-9).log10() - low) / (high - low)).clamp(0.0, 1.0);
        let mut decade = low;
        while decade <= high {
            let at = y(10f64.powf(decade));
            self.svg.rule((LEFT, at), (WIDTH - RIGHT, at), "#dddddd");
            self.svg.text(LEFT - 8.0, at + 3.0, 9, Anchor::End, &format!("{} ms", 10f64.powf(decade)));
            decade += 1.0;
        }
        let mut curve = |of: fn(&Latency) -> f64, colour: &str| {
            let points: Vec<_> = run.latencies.iter().map(|slice| (self.x(slice.at), y(of(slice)))).collect();
            self.svg.line(&points, colour);
        };
        curve(|slice| slice.max_ms, "#a50f15");
        curve(|slice| slice.p99_ms, "#f16913");
        curve(|slice| slice.median_ms, "#2171b5");
        self.y = bottom + GAP;
    }

    /// The name of a lane, or as much of it as there is room for.
    fn name(&mut self, name: &str) {
        const CHARACTERS: usize = 22;
        let shown = match name.char_indices().nth(CHARACTERS) {
            Some((end, _)) => format!("{}…", &name[..end]),
            None => name.to_owned(),
        };
        self.svg.text(LEFT - 8.0, self.y + 14.0, 11, Anchor::End, &shown);
    }

    fn frame(&mut self, name: &str) {
        self.svg.frame((LEFT, self.y), (WIDTH - LEFT - RIGHT, CHART));
        self.svg.text(LEFT - 48.0, self.y + 14.0, 11, Anchor::End, name);
    }

    /// Ticks at round distances, with faint lines through all lanes.
    fn axis(&mut self) {
        let end = self.run.end.as_secs_f64();
        let rough = (end / 12.0).max(1e-3);
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|round| round * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let ticks = (end / step).floor() as u32;
        for tick in 0..=ticks {
            let seconds = f64::from(tick) * step;
            let x = self.x(RunTime::from_nanos((seconds * 1e9) as u64));
            self.svg.rule((x, TOP - 6.0), (x, self.y - GAP), "#eeeeee");
            let label = if step >= 1.0 { format!("{seconds:.0} s") } else { format!("{:.0} ms", seconds * 1e3) };
            self.svg.text(x, self.y, 10, Anchor::Middle, &label);
        }
        self.y += GAP;
    }

    /// Gives the height of the whole.
    fn legend(&mut self) -> f64 {
        let mut entries: Vec<(&str, &str)> = self.colours.iter().map(|(node, colour)| (*node, *colour)).collect();
        if !self.run.owners.is_empty() {
            entries.push(("two owners", "#ff0000"));
        }
        entries.extend([("errors", "#d7301f"), ("successes", "#238b45")]);
        entries.extend([("median", "#2171b5"), ("99 %", "#f16913"), ("longest", "#a50f15")]);
        let (mut x, mut y) = (LEFT, self.y + 8.0);
        for (name, colour) in entries {
            let width = 30.0 + 7.0 * name.chars().count() as f64;
            if x + width > WIDTH - RIGHT {
                (x, y) = (LEFT, y + 18.0);
            }
            self.svg.bar((x, y), (12.0, 12.0), colour, name);
            self.svg.text(x + 17.0, y + 10.0, 11, Anchor::Start, name);
            x += width;
        }
        let mut under = String::new();
        let _ = write!(under, "{} faults, {:.0} s", self.run.faults.len(), self.run.end.as_secs_f64());
        self.svg.text(LEFT, 48.0, 11, Anchor::Start, &under);
        y + 30.0
    }
}
