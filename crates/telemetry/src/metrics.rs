//! The metrics page: families gathered at each scrape, written as OpenMetrics text.
//!
//! Nobody registers anything: whoever counts hands over [`Family`] values when asked, and what is
//! no longer there (a backend that was removed) is simply not handed over.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows. Name it without `_total`; the exposition adds it.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations by size.
    Histogram,
}

/// One metric with all its series.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    series: Vec<(Labels, Value)>,
}

type Labels = Vec<(&'static str, String)>;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    Distribution(Distribution),
}

/// The observations of one series of a histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Upper bound of each bucket, ascending, and the observations in it (not cumulative). The last
    /// bound is infinity, which the exposition writes as `+Inf`.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all observations.
    pub sum: f64,
}

impl Family {
    /// A counter without series yet.
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter, series: Vec::new() }
    }

    /// A gauge without series yet.
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge, series: Vec::new() }
    }

    /// A histogram without series yet.
    pub fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Histogram, series: Vec::new() }
    }

    /// Adds a series of a histogram.
    pub fn add_distribution(&mut self, labels: &[(&'static str, &str)], distribution: Distribution) {
        self.series.push((owned(labels), Value::Distribution(distribution)));
    }

    /// Adds a series.
    pub fn add(&mut self, labels: &[(&'static str, &str)], value: f64) {
        self.series.push((owned(labels), Value::Number(value)));
    }

    /// Adds a series; for building in one expression.
    #[must_use]
    pub fn with(mut self, labels: &[(&'static str, &str)], value: f64) -> Self {
        self.add(labels, value);
        self
    }

    /// Whether it has no series.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// Content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes families as OpenMetrics text.
pub fn render(families: Vec<Family>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Gathered(families)));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("writing to a String does not fail");
    page
}

#[derive(Debug)]
struct Gathered(Vec<Family>);

impl Collector for Gathered {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for family in self.0.iter().filter(|family| !family.is_empty()) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            if let [(labels, value)] = family.series.as_slice()
                && labels.is_empty()
            {
                encode(family.kind, value, metric)?;
                continue;
            }
            for (labels, value) in &family.series {
                encode(family.kind, value, metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode(kind: Kind, value: &Value, mut series: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match value {
        Value::Number(value) if kind == Kind::Counter => ConstCounter::new(*value).encode(series),
        Value::Number(value) => ConstGauge::new(*value).encode(series),
        Value::Distribution(Distribution { buckets, sum }) => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            series.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_counters_and_gauges_with_labels_and_skips_empty_families() {
        let page = render(vec![
            Family::counter("ballast_requests", "Requests answered")
                .with(&[("farm", "shop"), ("code_class", "2xx")], 3.0),
            Family::gauge("ballast_raft_term", "Raft term").with(&[], 7.0),
            Family::gauge("ballast_nothing", "Never seen"),
        ]);
        assert!(page.contains("ballast_requests_total{farm=\"shop\",code_class=\"2xx\"} 3.0"), "{page}");
        assert!(page.contains("# TYPE ballast_raft_term gauge"), "{page}");
        assert!(page.contains("ballast_raft_term 7.0"), "{page}");
        assert!(!page.contains("ballast_nothing"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    #[test]
    fn a_histogram_has_cumulative_buckets_up_to_infinity() {
        let mut family = Family::histogram("ballast_request_duration_seconds", "Duration of requests");
        let buckets = vec![(0.001, 2), (0.01, 0), (f64::INFINITY, 1)];
        family.add_distribution(&[("farm", "shop")], Distribution { buckets, sum: 7.5 });
        let page = render(vec![family]);
        for line in [
            "ballast_request_duration_seconds_bucket{le=\"0.001\",farm=\"shop\"} 2",
            "ballast_request_duration_seconds_bucket{le=\"0.01\",farm=\"shop\"} 2",
            "ballast_request_duration_seconds_bucket{le=\"+Inf\",farm=\"shop\"} 3",
            "ballast_request_duration_seconds_count{farm=\"shop\"} 3",
            "ballast_request_duration_seconds_sum{farm=\"shop\"} 7.5",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in {page}");
        }
    }
}
